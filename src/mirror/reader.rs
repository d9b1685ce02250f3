//! Catch-up: reading the local log with Fetch for the streams that capture does not feed.
//!
//! A reader is one connection from one region to one local broker. There are two a broker: one stays on a long poll, in an incremental fetch session (KIP-227),
//! for streams that wait for whatever comes; the other reads what is known to be there, at once. Both read committed records only, whole
//! batches, and hand them to the region without a copy, unless a small part of an answer would keep all of it in memory. A reader never reads on before the
//! region has taken what it read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::FetchResponse;
use kafka_protocol::messages::fetch_response::PartitionData;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use uuid::Uuid;

use super::events::Event;
use super::fetch_session::Session;
use super::stream::LogEnds;
use super::throttle::Throttle;
use crate::client::ClientError;
use crate::client::apis::{Call, FetchById};
use crate::client::cluster::Cluster;
use crate::client::connection::Connection;

/// How long a long poll waits for records.
const LONG_POLL: Duration = Duration::from_millis(500);
/// A Fetch's limit for all partitions together, where the region's buffer has room for that. One batch more may come (KIP-74).
const FETCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// So many partitions are asked for at once when reading a backlog; the others follow in turn.
const BACKLOG_PARTITIONS_MAX: usize = 256;
/// Pause after a failure, doubled with each further one up to [`RETRY_MAX`].
const RETRY: Duration = Duration::from_millis(100);
/// The longest pause between two tries.
const RETRY_MAX: Duration = Duration::from_secs(2);
/// How a reader reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// What is known to be there.
    CatchUp,
    /// What may come.
    Tail,
}

/// A partition to read for a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Wish {
    /// The topic.
    pub topic: Arc<str>,
    /// The topic's id, nil in a cluster that has none.
    pub topic_id: Uuid,
    /// The partition.
    pub partition: i32,
    /// The leader's epoch: of a broker that leads no longer, or not yet, nothing is read, though a follower would answer (KIP-392).
    pub leader_epoch: i32,
    /// From this source offset on.
    pub offset: i64,
    /// Only the first batch is of interest.
    pub peek: bool,
}

/// What was read for one stream.
#[derive(Debug)]
pub struct ReadPartition {
    /// The stream's number within its region.
    pub stream: usize,
    /// The offset that was asked for.
    pub offset: i64,
    /// Kafka's error code.
    pub error_code: i16,
    /// How far the log goes.
    pub ends: LogEnds,
    /// Aborted transactions: producer id and first offset.
    pub aborted: Vec<(i64, i64)>,
    /// Record batches.
    pub records: Bytes,
}

/// What was read with one Fetch.
#[derive(Debug)]
pub struct Read {
    /// The local broker.
    pub node_id: i32,
    /// By which of its readers.
    pub mode: Mode,
    /// When.
    pub at: Instant,
    /// The partitions that gave anything.
    pub partitions: Vec<ReadPartition>,
    /// To be notified once the batches are taken and the wishes are new.
    pub taken: Arc<Notify>,
}

/// What a reader shall read: kept up to date by the region.
#[derive(Debug, Default)]
pub struct Wishes {
    by_stream: Mutex<ByStream>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct ByStream {
    wishes: BTreeMap<usize, Wish>,
    /// Streams whose wishes a long poll has not heard of: many partitions at which nothing happens are not looked at again and again.
    unheard: BTreeSet<usize>,
}

impl Wishes {
    /// Sets or removes a stream's wish.
    pub fn set(&self, stream: usize, wish: Option<Wish>) {
        let mut by_stream = self.lock();
        if by_stream.wishes.get(&stream) == wish.as_ref() {
            return;
        }
        by_stream.unheard.insert(stream);
        match wish {
            Some(wish) => {
                if by_stream.wishes.insert(stream, wish).is_none() {
                    self.changed.notify_one();
                }
            }
            None => {
                by_stream.wishes.remove(&stream);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, ByStream> {
        self.by_stream.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The wishes behind `after`, then from the front, at most `limit`.
    fn some(&self, after: usize, limit: usize) -> BTreeMap<usize, Wish> {
        let mut by_stream = self.lock();
        by_stream.unheard.clear();
        let wishes = &by_stream.wishes;
        wishes
            .range(after..)
            .chain(wishes.range(..after))
            .take(limit)
            .map(|(stream, wish)| (*stream, wish.clone()))
            .collect()
    }

    /// What has changed since it was last asked for; for a connection that knows nothing yet, all there is.
    fn news(&self, of_all: bool) -> Vec<(usize, Option<Wish>)> {
        let mut by_stream = self.lock();
        let unheard = std::mem::take(&mut by_stream.unheard);
        let wishes = &by_stream.wishes;
        if of_all {
            wishes.iter().map(|(stream, wish)| (*stream, Some(wish.clone()))).collect()
        } else {
            unheard.into_iter().map(|stream| (stream, wishes.get(&stream).cloned())).collect()
        }
    }
}

/// Runs a reader until the region is gone. `buffer_bytes` is what may wait for the region: one answer is no larger.
pub async fn run(
    local: Arc<Cluster>,
    (node_id, mode): (i32, Mode),
    buffer_bytes: usize,
    wishes: Arc<Wishes>,
    throttle: Option<Arc<Throttle>>,
    events: mpsc::Sender<Event>,
) {
    let taken = Arc::new(Notify::new());
    let mut pause = RETRY;
    loop {
        let error = match local.connect(node_id).await {
            Ok(connection) => {
                pause = RETRY;
                let knows_ids = connection.supports(FetchById::NAME, FetchById::KEY, FetchById::VERSION).is_ok();
                let mut reader = Reader {
                    connection,
                    knows_ids,
                    mode,
                    bytes_max: i32::try_from(buffer_bytes.min(FETCH_BYTES_MAX)).unwrap_or(i32::MAX),
                    next: 0,
                    throttle: throttle.clone(),
                };
                let fetched = &local.traffic().fetched_bytes;
                reader.read_on(node_id, &wishes, &events, &taken, fetched).await
            }
            Err(error) => Some(error),
        };
        let Some(error) = error else { return };
        if events.send(Event::ReadFailed { node_id, error }).await.is_err() {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

struct Reader {
    connection: Connection,
    /// Whether the broker takes topics' ids.
    knows_ids: bool,
    mode: Mode,
    bytes_max: i32,
    next: usize,
    throttle: Option<Arc<Throttle>>,
}

impl Reader {
    /// How long the broker may wait for records.
    fn wait(&self) -> Duration {
        match self.mode {
            Mode::Tail => LONG_POLL,
            Mode::CatchUp => Duration::ZERO,
        }
    }

    /// Reads until the connection fails (then with the error) or the region is gone.
    async fn read_on(
        &mut self,
        node_id: i32,
        wishes: &Wishes,
        events: &mpsc::Sender<Event>,
        taken: &Arc<Notify>,
        fetched_bytes: &Counter,
    ) -> Option<ClientError> {
        let mut session = Session::default();
        let mut knows_nothing = true;
        loop {
            match self.mode {
                Mode::Tail => session.change(wishes.news(std::mem::take(&mut knows_nothing)), self.knows_ids),
                Mode::CatchUp => session = Session::once(wishes.some(self.next, BACKLOG_PARTITIONS_MAX)),
            }
            let Some(last) = session.last_stream() else {
                tokio::select! {
                    biased;
                    () = wishes.changed.notified() => continue,
                    () = events.closed() => return None,
                }
            };
            let request = session.request(self.wait(), self.bytes_max);
            let deadline = LONG_POLL + Duration::from_secs(30);
            let answer = if session.names_by_id() {
                self.connection.call_within(&FetchById(request), deadline).await
            } else {
                self.connection.call_within(&request, deadline).await
            };
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => return Some(error),
            };
            if self.mode == Mode::Tail && !session.answered(&answer) {
                continue;
            }
            self.next = last + 1;
            let partitions = results(answer, &session);
            let bytes: usize = partitions.iter().map(|partition| partition.records.len()).sum();
            fetched_bytes.inc_by(bytes as u64);
            if let Some(throttle) = &self.throttle {
                throttle.pass(bytes).await;
            }
            let failed = partitions.iter().any(|partition| partition.error_code != 0);
            if !partitions.is_empty() || self.mode == Mode::CatchUp {
                let read = Read { node_id, mode: self.mode, at: Instant::now(), partitions, taken: taken.clone() };
                if events.send(Event::Read(read)).await.is_err() {
                    return None;
                }
                taken.notified().await;
            }
            if failed {
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// What was read, by stream. All of it shares the answer's memory; but what is less than half of that gets memory of its own, so that a stream that waits
/// with little does not keep much.
fn results(answer: FetchResponse, session: &Session) -> Vec<ReadPartition> {
    let records = |partition: &PartitionData| partition.records.as_ref().map_or(0, Bytes::len);
    let whole: usize = answer.responses.iter().flat_map(|topic| &topic.partitions).map(records).sum();
    let mut results = Vec::new();
    for topic in answer.responses {
        let Some(wanted) = session.topic(&topic) else { continue };
        for partition in topic.partitions {
            let Some((stream, offset)) = wanted.of(partition.partition_index) else { continue };
            results.push(ReadPartition {
                stream,
                offset,
                error_code: partition.error_code,
                ends: LogEnds { high_watermark: partition.high_watermark, last_stable: partition.last_stable_offset },
                aborted: partition
                    .aborted_transactions
                    .unwrap_or_default()
                    .into_iter()
                    .map(|aborted| (aborted.producer_id.0, aborted.first_offset))
                    .collect(),
                records: partition.records.map(|records| own_if_small(records, whole)).unwrap_or_default(),
            });
        }
    }
    results
}

fn own_if_small(records: Bytes, whole: usize) -> Bytes {
    if records.len() * 2 < whole { Bytes::copy_from_slice(&records) } else { records }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_part_of_an_answer_does_not_keep_the_whole() {
        let answer = Bytes::from(vec![7; 1_000]);
        let shares = |part: &Bytes| answer.as_ptr_range().contains(&part.as_ptr());
        for (length, shared) in [(1_000, true), (500, true), (499, false), (1, false)] {
            let part = own_if_small(answer.slice(..length), answer.len());
            assert_eq!((part.len(), shares(&part)), (length, shared));
        }
    }
}
