//! A stream: one partition of the local cluster on its way to one region. A state machine without I/O.
//!
//! It replicates the local partition's log in offset order. Batches come in from two feeds ([`Stream::on_captured`],
//! [`Stream::on_fetched`]); by their offsets alone it is decided which are next, known, or ahead. They go out in order
//! ([`Stream::next_batch`]) under the stream's reserved producer id, with a sequence that counts the mirrored records; answers
//! come back ([`Stream::on_answer`]) and move the [`Position`].
//!
//! # How it decides
//!
//! ```text
//!            position.source_offset      send cursor          next_offset              source end
//! ───────────────────┼───────────────────────┼────────────────────┼─ ─ held ─ ─ ─ ─ ─ ─ ─ ─┼
//!    acknowledged         in flight                 ready            ahead, with a gap
//! ```
//!
//! - Any failure is handled the same way: wait until nothing is unanswered ([`Phase::Draining`]), forget everything behind the
//!   position, search the region's log for what arrived ([`Phase::Locating`]), step over it in the source ([`Phase::Replaying`]),
//!   go on with one batch in flight until it is acknowledged (priming), then pipeline.
//! - What changes the map from sequence to offset begins a new incarnation: the producer epoch goes up, the sequence starts
//!   at 0, and the position is committed before the first batch ([`Phase::Committing`]).
//! - Only an acks=all answer (a barrier) moves the position; under load the batches between barriers go with acks=1.
//!
//! # What was born elsewhere
//! A stream sends the records of one [`Origin`]. One that forwards another cluster's records writes under the producer id that they bear in the
//! local log, and does not own it: the cluster where they were born, or another one that forwards them, may write to the same row of the region's log. So it never begins
//! an incarnation. It goes on where the region's row ends, with the row's own epoch and next sequence: the broker appends a batch only if no other path
//! was faster (a duplicate, and error 45, mean that one was), and the search finds what it brought. Where the row ends, and which batch of the local log that is,
//! is found in both logs by [`super::rejoin`] before the first batch goes.

mod feeds;
mod recovery;
mod row;
#[cfg(test)]
mod row_tests;
mod sending;
mod source_epochs;
#[cfg(test)]
mod source_epochs_tests;
#[cfg(test)]
mod tests;
mod waiting;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::client::error_code::{self, ProduceFault};
use crate::mirror::batch::{Batch, Fingerprint};
use crate::mirror::committed::{Aborted, Origin};
use crate::mirror::progress::Position;
use crate::wire::batch::{BatchHeader, Identity, sequence_after};

pub use waiting::{ASK_AFTER, Waiting};

/// How long a gap in front of captured batches, or a log that is longer than what was captured, may stay before the log is read: sessions overtake
/// each other, and the log's end may be told before the answer to the batch there has come through a busy session. A stream on
/// the long-poll does not wait.
pub const GAP_PATIENCE: Duration = Duration::from_millis(100);
/// Captured batches behind a gap that stays longer (an open transaction) are given up.
pub const HELD_PATIENCE: Duration = Duration::from_secs(1);
/// How long a refused batch, or another reason to stall, waits for the next try.
pub const STALL_RETRY: Duration = Duration::from_secs(5);
/// How long an unknown outcome waits before the region's log is searched again.
pub const LOCATE_RETRY: Duration = Duration::from_millis(100);
/// A log that ends before what the region holds of it is cut, if it still does after this time: a new leader knows for some seconds less than the old one.
pub const END_PATIENCE: Duration = Duration::from_secs(30);
/// A broker has taken what came over a lost connection within this time.
pub const LATE_REQUESTS: Duration = Duration::from_millis(500);
/// So many bytes may be sent with acks=1 before a barrier must follow.
pub const BARRIER_BYTES: usize = 4 * 1024 * 1024;
/// And so many batches: small ones take a broker long, and the position shall not stand still meanwhile.
pub const BARRIER_BATCHES: usize = 256;
/// So many batches that wait together are all barriers where the link is quiet. What a proxy in front of the region sees acknowledged by acks=all it need not
/// read from its log.
const BARRIERS_IN_A_ROW: usize = 4;
/// A stream reads no further from the log while it has so many bytes ready.
pub const READY_BYTES_MAX: usize = 2 * 1024 * 1024;
/// The longest time a stream must be fed by capture alone before it leaves the long-poll.
const PROOF_MAX: Duration = Duration::from_secs(60);

/// What the stream is doing.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// Progress and topics are being looked up.
    Starting,
    /// Something failed; answers that may still come are waited for.
    Draining(After),
    /// The region's log must be searched for what arrived.
    Locating {
        /// Not before.
        at: Instant,
    },
    /// What the search found is stepped over in the source.
    Replaying(Found),
    /// The region's broker refuses the producer id: it must hand one out.
    Renaming {
        /// Not before.
        at: Instant,
    },
    /// A new incarnation: the position must be committed before anything is sent.
    Committing,
    /// Batches are sent; one at a time until `primed`.
    Sending {
        /// Whether the region's broker has state for this incarnation, so that it refuses gaps.
        primed: bool,
    },
    /// Only time or a person helps.
    Stalled {
        /// What is wrong and what can be done.
        reason: String,
        /// The batch that is in the way, if it is one.
        obstacle: Option<Obstacle>,
        /// When it is tried again.
        retry_at: Instant,
    },
}

/// What follows once a stream has drained.
#[derive(Clone, Debug, PartialEq)]
pub enum After {
    /// Search the region's log.
    Locate,
    /// Begin a new incarnation at a source offset.
    Bump(i64),
    /// The source has lost what was sent, from this offset on: find out what of it the region got.
    Diverged(i64),
    /// Look the progress up again: somebody else may have moved it.
    Restart,
    /// Find the end of the row in the region's log anew, and what it is in the source.
    Rejoin,
    /// An operator wants a new incarnation at an earlier source offset. From the region's log end (offset and leader epoch, where known) on its log is
    /// searched from then on.
    Rewind(i64, Option<(i64, i32)>),
    /// Write under a producer id that the region hands out.
    Rename,
    /// Stall with a reason, and with the batch that is in the way, if it is one.
    Stall(String, Option<Obstacle>),
}

/// A batch that can't be mirrored: refused by the region, or by diffluent. An operator may step over it ([`Stream::skip`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// Its base offset in the source.
    pub offset: i64,
    /// The source offset behind it.
    pub next_offset: i64,
    /// Its records.
    pub records: u64,
}

/// The last batch of a stream that the region's log holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The sequence behind it.
    pub next_sequence: i32,
    /// The region's offset behind it.
    pub region_offset: i64,
    /// The leader epoch under which it was appended there.
    pub region_leader_epoch: i32,
    /// What its records are recognised by.
    pub fingerprint: Fingerprint,
}

/// A batch in the region, on its way there, or about to go.
#[derive(Debug)]
struct Ready {
    batch: Batch,
    /// The source offset behind it and behind what is skipped after it.
    source_next: i64,
}

#[derive(Debug)]
struct InFlight {
    token: u64,
    base_offset: i64,
    source_next: i64,
    sequence_next: i32,
    bytes: usize,
    records: u64,
    base_timestamp: i64,
    max_timestamp: i64,
    since: Instant,
    barrier: bool,
    answered: bool,
}

/// Why the position is to be found anew in both logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// The region's log does not hold what the position says.
    Region,
    /// The source has lost what was sent behind this offset, or holds something else there than the region.
    Source(i64),
}

/// The source's log of an epoch ends before what was taken.
#[derive(Clone, Copy, Debug)]
struct Suspicion {
    /// Where it ends.
    end: i64,
    /// The source's epoch when that was said.
    leader_epoch: i32,
}

/// What the local cluster's partition leader last said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceView {
    /// The partition's leader, -1 for none.
    pub leader: i32,
    /// Its epoch.
    pub leader_epoch: i32,
    /// The log's end (high watermark).
    pub end: i64,
    /// Whether the log knows leader epochs, as far as was asked. One in a message format older than v2 does not, and does not hold what was produced as
    /// it was.
    pub keeps_epochs: bool,
}

/// How far a log goes, as a Fetch told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEnds {
    /// What is committed by its replicas ends here.
    pub high_watermark: i64,
    /// What is committed by its producers too: the first open transaction begins here.
    pub last_stable: i64,
}

/// What happened to a captured batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is next, or ahead and kept.
    Kept,
    /// The stream has it already.
    Known,
    /// The connection it came by has not been verified against the leader's epoch.
    Unverified,
    /// The log may hold it in another message format.
    OldFormat,
    /// The stream can't use it now: it will be read from the log.
    Refused,
}

/// A row of captured batches without a gap.
#[derive(Clone, Copy, Debug)]
struct Captured {
    since: Instant,
    /// The source offset behind the last of them.
    to: i64,
}

/// A wish to read from the local log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchWant {
    /// From this offset on.
    pub offset: i64,
    /// What for.
    pub why: FetchWhy,
}

/// Why a stream reads from the local log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchWhy {
    /// There is something to read, now.
    CatchUp,
    /// Something may come: wait for it.
    Tail,
    /// Only the age of the oldest missing record is asked for.
    Peek,
}

/// A batch to be sent.
#[derive(Debug)]
pub struct Outgoing {
    /// The batch.
    pub batch: Batch,
    /// Under which identity.
    pub identity: Identity,
    /// Comes back with the answer.
    pub token: u64,
    /// Whether the answer must wait for the in-sync replicas: acks=all instead of 1.
    pub barrier: bool,
}

/// What a broker says about a batch that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The offset of its first record.
    pub offset: i64,
    /// The broker's time, milliseconds, where it stamps its own; of a batch that was there before, that one's largest timestamp; else -1.
    pub append_time_ms: i64,
}

/// What an acknowledgement was worth.
#[derive(Debug, Default, PartialEq)]
pub struct Acknowledged {
    /// Records that are now in the region.
    pub records: u64,
    /// Bytes of their batches.
    pub bytes: u64,
    /// From when on their replication latency counts, a value per batch.
    pub since: Vec<Instant>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Stream {
    /// The topic's name in the local cluster.
    pub topic: Arc<str>,
    /// The partition's number.
    pub partition: i32,
    /// The topic's name in the region.
    pub region_topic: Arc<str>,
    producer_id: i64,
    origin: Origin,
    phase: Phase,
    position: Position,
    committed: Option<Position>,
    source: SourceView,
    /// What the feeds must deliver next.
    next_offset: i64,
    /// The sequence of the next batch to be sent; while replaying, of the next to be stepped over.
    next_sequence: i32,
    ready: VecDeque<Ready>,
    ready_bytes: usize,
    held: BTreeMap<i64, Batch>,
    held_bytes: usize,
    in_flight: VecDeque<InFlight>,
    unanswered: usize,
    next_token: u64,
    bytes_since_barrier: usize,
    batches_since_barrier: usize,
    /// Since when the source has more than the feeds delivered, while nothing reads it yet.
    behind_since: Option<Instant>,
    catching_up: bool,
    /// The log was read up to here and gave no more, though it is longer: an open transaction.
    blocked_at: Option<i64>,
    /// Since when the log is replayed to its end, and the region holds more.
    replayed_at: Option<Instant>,
    /// What the log holds here can't be mirrored, or is gone: everything before it is sent first, then that is looked at again.
    waits_at: Option<i64>,
    /// The open transaction that holds back what comes next.
    waiting: Option<Waiting>,
    /// Whether the stream stays on the long-poll.
    tailing: bool,
    /// What capture alone has brought of late: it decides when the long-poll can be left.
    captured: Option<Captured>,
    proof: Duration,
    left_tail_at: Option<Instant>,
    /// The first missing record's timestamp, by its offset.
    oldest: Option<(i64, i64)>,
    /// The header of the last batch that a feed delivered.
    last_taken: Option<BatchHeader>,
    suspicion: Option<Suspicion>,
    /// The position is to be found anew in both logs, and why.
    doubt: Option<Doubt>,
    /// The epoch under which a stream that forwards sends its first batches, until one of them is acknowledged.
    adopted_epoch: Option<i16>,
    /// The first batch of such a stream, for which the region's row was looked for last.
    first: Option<BatchHeader>,
    /// Behind the row of batches that is stepped over lie others of this incarnation: a new one must follow.
    row_is_broken: bool,
    /// Records that the region holds and the source has lost, until somebody was told.
    diverged_records: u64,
    /// Batches that were renumbered because compaction had made holes into them, until somebody was told.
    pub renumbered_batches: u64,
    /// Records that were converted from a message format older than v2, until somebody was told.
    pub converted_records: u64,
    /// Failures without an acknowledgement in between: each one doubles the wait.
    failures: u32,
    /// When the link was lost, unless the region's log was searched since.
    link_lost_at: Option<Instant>,
    /// Whether the position is known.
    positioned: bool,
    blocked: Option<String>,
    /// Something that a person must hear of; whoever drives the stream takes and logs it.
    pub incident: Option<String>,
    /// The producer id of a batch that was born elsewhere, which a stream of what was born here has passed over, until somebody looks.
    pub passed_over: Option<i64>,
}

impl Stream {
    /// A stream that knows nothing yet: [`Stream::start`] follows.
    pub fn new(topic: Arc<str>, partition: i32, region_topic: Arc<str>, producer_id: i64, origin: Origin) -> Self {
        let position = Position {
            source_offset: 0,
            source_leader_epoch: -1,
            producer_epoch: 0,
            sequence: 0,
            region_offset: 0,
            region_leader_epoch: -1,
            topic_id: uuid::Uuid::nil(),
            region_topic_id: uuid::Uuid::nil(),
            handed_out_id: None,
            toll: Default::default(),
        };
        Self {
            topic,
            partition,
            region_topic,
            producer_id,
            origin,
            phase: Phase::Starting,
            position,
            committed: None,
            source: SourceView { leader: -1, leader_epoch: -1, end: 0, keeps_epochs: false },
            next_offset: 0,
            next_sequence: 0,
            ready: VecDeque::new(),
            ready_bytes: 0,
            held: BTreeMap::new(),
            held_bytes: 0,
            in_flight: VecDeque::new(),
            unanswered: 0,
            next_token: 0,
            bytes_since_barrier: 0,
            batches_since_barrier: 0,
            behind_since: None,
            catching_up: false,
            blocked_at: None,
            replayed_at: None,
            waits_at: None,
            waiting: None,
            tailing: true,
            captured: None,
            proof: Duration::ZERO,
            left_tail_at: None,
            oldest: None,
            last_taken: None,
            suspicion: None,
            doubt: None,
            adopted_epoch: None,
            first: None,
            row_is_broken: false,
            diverged_records: 0,
            renumbered_batches: 0,
            converted_records: 0,
            failures: 0,
            link_lost_at: None,
            positioned: false,
            blocked: None,
            incident: None,
            passed_over: None,
        }
    }

    /// The position is known, though the region can't be asked yet: from now on lag can be told.
    pub fn on_progress(&mut self, position: Position) {
        if self.phase == Phase::Starting {
            self.positioned = true;
            self.position = position;
            self.next_offset = position.source_offset;
        }
    }

    /// Begins at a position. A position that was just committed, for a stream that never wrote, needs no search.
    pub fn start(&mut self, position: Position, never_wrote: bool, now: Instant) {
        self.positioned = true;
        self.blocked = None;
        self.doubt = None;
        self.link_lost_at = None;
        self.position = position;
        self.committed = Some(position);
        self.next_offset = position.source_offset;
        self.next_sequence = position.sequence;
        self.phase = if never_wrote { Phase::Sending { primed: false } } else { Phase::Locating { at: now } };
    }

    /// What the stream is doing.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Where the records are born that the stream sends.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// The producer id that the stream writes with: its reserved one, or one that the region has handed out.
    pub fn producer_id(&self) -> i64 {
        self.position.handed_out_id.unwrap_or(self.producer_id)
    }

    /// Everything before this is in the region.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The position, if it has moved since [`Stream::on_committed`].
    pub fn uncommitted(&self) -> Option<Position> {
        let started = !matches!(self.phase, Phase::Starting);
        (started && self.committed != Some(self.position)).then_some(self.position)
    }

    /// A position was committed.
    pub fn on_committed(&mut self, position: Position) {
        self.committed = Some(position);
        if self.phase == Phase::Committing && position == self.position {
            self.go_on();
        }
    }

    /// The position is to be committed again, though it has not moved.
    pub fn commit_again(&mut self) {
        self.committed = None;
    }

    /// Bytes of batches that wait to be sent, held ones included.
    pub fn waiting_bytes(&self) -> usize {
        self.ready_bytes + self.held_bytes
    }

    /// The batches that wait to be sent, held ones included.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &Batch> {
        self.ready.iter().map(|ready| &ready.batch).chain(self.held.values())
    }

    /// The local log's end, as far as known.
    pub fn source_end(&self) -> i64 {
        if !self.positioned {
            return self.position.source_offset;
        }
        self.source.end.max(self.position.source_offset)
    }

    /// The epoch of the partition's leader in the local cluster.
    pub fn source_leader_epoch(&self) -> i32 {
        self.source.leader_epoch
    }

    /// The partition's leader in the local cluster.
    pub fn source_leader(&self) -> i32 {
        self.source.leader
    }

    /// Records that the local log holds and the region does not.
    pub fn lag_records(&self) -> u64 {
        u64::try_from(self.source_end() - self.first_missing()).unwrap_or(0)
    }

    /// The first source offset that the region may not have.
    pub fn first_missing(&self) -> i64 {
        match (self.origin, &self.phase) {
            // What is stepped over came by another path, which may be ahead of the local log: its end is waited for, but nothing is missing.
            (Origin::Elsewhere(_), Phase::Replaying(_)) => self.next_offset,
            _ => self.position.source_offset,
        }
    }

    /// Bytes of these, if all of them are in memory.
    pub fn lag_bytes(&self) -> Option<u64> {
        let in_flight: usize = self.in_flight.iter().map(|batch| batch.bytes).sum();
        (self.next_offset >= self.source_end()).then(|| (in_flight + self.ready_bytes) as u64)
    }

    /// The timestamp of the oldest record that the region does not have, milliseconds; `None` if it has all, or if it is not known.
    pub fn oldest_missing_ms(&self) -> Option<i64> {
        if self.lag_records() == 0 {
            return None;
        }
        let waiting = self
            .in_flight
            .front()
            .map(|batch| batch.base_timestamp)
            .or_else(|| self.ready.front().map(|ready| ready.batch.header.base_timestamp));
        waiting.or_else(|| {
            self.oldest.and_then(|(offset, timestamp)| (offset == self.position.source_offset).then_some(timestamp))
        })
    }

    /// How long the stream has been behind: since the source has more than was taken, or since the oldest batch that is not acknowledged was taken.
    pub fn behind_for(&self, now: Instant) -> Duration {
        let oldest = self.in_flight.front().map(|batch| batch.since);
        let oldest = oldest.or_else(|| self.ready.front().map(|ready| ready.batch.since));
        let behind_since = self.behind_since.filter(|_| self.next_offset < self.source.end);
        let since = [behind_since, oldest].into_iter().flatten().min();
        since.map(|since| now.saturating_duration_since(since)).unwrap_or_default()
    }

    /// Whether a batch is on its way that is not acknowledged.
    pub fn has_in_flight(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Of a batch that waits for its answer: the incarnation under which it was sent, the sequence behind it, and where the region's log ends behind it if nobody
    /// else writes there.
    pub fn sent(&self, token: u64) -> Option<(i16, i32, i64)> {
        let at = self.in_flight.iter().position(|batch| batch.token == token && !batch.answered)?;
        let records: u64 = self.in_flight.iter().take(at + 1).map(|batch| batch.records).sum();
        let region_end = self.position.region_offset + i64::try_from(records).unwrap_or(0);
        let producer_epoch = self.adopted_epoch.unwrap_or(self.position.producer_epoch);
        Some((producer_epoch, self.in_flight.get(at)?.sequence_next, region_end))
    }

    /// Whether a batch waits for an answer.
    pub fn has_unanswered(&self) -> bool {
        self.unanswered > 0
    }
}
