//! Catch-up: reading the local log with Fetch for the streams that capture does not feed.
//!
//! A reader is one connection from one region to one local broker. There are two a broker: one stays on a long poll, in an incremental fetch session (KIP-227),
//! for streams that wait for whatever comes; the other reads what is known to be there, at once. Both read committed records only, whole
//! batches, and hand them to the region without a copy, unless a small part of an answer would keep all of it in memory. A reader never reads on before the
//! region has taken what it read.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{BrokerId, FetchRequest, FetchResponse};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use uuid::Uuid;

use super::events::Event;
use super::offsets::name;
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
/// A Fetch's limit per partition.
const PARTITION_BYTES_MAX: i32 = 2 * 1024 * 1024;
/// So many partitions are asked for at once when reading a backlog; the others follow in turn.
const BACKLOG_PARTITIONS_MAX: usize = 256;
/// Pause after a failure, doubled with each further one up to [`RETRY_MAX`].
const RETRY: Duration = Duration::from_millis(100);
/// The longest pause between two tries.
const RETRY_MAX: Duration = Duration::from_secs(2);
/// read_committed: aborted records are named, open transactions left out.
const READ_COMMITTED: i8 = 1;

const FETCH_SESSION_ID_NOT_FOUND: i16 = 70;
const INVALID_FETCH_SESSION_EPOCH: i16 = 71;
/// A session goes on as it began, by names or by ids.
const FETCH_SESSION_TOPIC_ID_ERROR: i16 = 106;

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
    /// Counts changes: many partitions at which nothing happens are not looked at again and again.
    version: u64,
}

impl Wishes {
    /// Sets or removes a stream's wish.
    pub fn set(&self, stream: usize, wish: Option<Wish>) {
        let mut by_stream = self.lock();
        if by_stream.wishes.get(&stream) == wish.as_ref() {
            return;
        }
        by_stream.version += 1;
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
        let by_stream = self.lock();
        let wishes = &by_stream.wishes;
        wishes
            .range(after..)
            .chain(wishes.range(..after))
            .take(limit)
            .map(|(stream, wish)| (*stream, wish.clone()))
            .collect()
    }

    /// All wishes and their version, if that is another one than `known`.
    fn all_unless(&self, known: Option<u64>) -> Option<(u64, BTreeMap<usize, Wish>)> {
        let by_stream = self.lock();
        (known != Some(by_stream.version)).then(|| (by_stream.version, by_stream.wishes.clone()))
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
                    session: Session::default(),
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
    session: Session,
    next: usize,
    throttle: Option<Arc<Throttle>>,
}

/// An incremental fetch session: the broker remembers what is asked for, only changes are sent.
#[derive(Default)]
struct Session {
    id: i32,
    epoch: i32,
    /// Whether topics are named by their ids.
    by_id: bool,
    known: BTreeMap<usize, Wish>,
    /// Whether what is wanted may differ from what the broker knows.
    changed: bool,
}

impl Reader {
    /// Reads until the connection fails (then with the error) or the region is gone.
    async fn read_on(
        &mut self,
        node_id: i32,
        wishes: &Wishes,
        events: &mpsc::Sender<Event>,
        taken: &Arc<Notify>,
        fetched_bytes: &Counter,
    ) -> Option<ClientError> {
        let mut wanted = BTreeMap::new();
        let mut version = None;
        loop {
            match self.mode {
                Mode::Tail => {
                    if let Some((newer, all)) = wishes.all_unless(version) {
                        version = Some(newer);
                        wanted = all;
                        self.session.changed = true;
                    }
                }
                Mode::CatchUp => wanted = wishes.some(self.next, BACKLOG_PARTITIONS_MAX),
            }
            if wanted.is_empty() {
                tokio::select! {
                    biased;
                    () = wishes.changed.notified() => continue,
                    () = events.closed() => return None,
                }
            }
            if self.session.changed {
                self.session.name_by(self.knows_ids && wanted.values().all(|wish| !wish.topic_id.is_nil()));
            }
            let request = match self.mode {
                Mode::Tail => self.session.request(&wanted),
                Mode::CatchUp => one_time_request(&wanted),
            }
            .with_max_bytes(self.bytes_max);
            let deadline = LONG_POLL + Duration::from_secs(30);
            let answer = if self.session.by_id {
                self.connection.call_within(&FetchById(request), deadline).await
            } else {
                self.connection.call_within(&request, deadline).await
            };
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => return Some(error),
            };
            if self.mode == Mode::Tail && !self.session.answered(&answer, &wanted) {
                continue;
            }
            self.next = wanted.last_key_value().map_or(0, |(stream, _)| stream + 1);
            let partitions = results(answer, &wanted);
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

impl Session {
    /// Names topics by their ids, or not: another session begins where that was otherwise.
    fn name_by(&mut self, id: bool) {
        if self.by_id != id {
            *self = Self { by_id: id, changed: true, ..Self::default() };
        }
    }

    fn request(&mut self, wanted: &BTreeMap<usize, Wish>) -> FetchRequest {
        let (changed, forgotten): (Vec<&Wish>, Vec<&Wish>) = if self.epoch == 0 {
            (wanted.values().collect(), Vec::new())
        } else if !self.changed {
            (Vec::new(), Vec::new())
        } else {
            let changed = wanted.iter().filter(|(stream, wish)| self.known.get(stream) != Some(wish));
            // A topic that was made anew is another one by its id, and the same by its name.
            let is_wanted = |stream: &usize, known: &Wish| {
                wanted.get(stream).is_some_and(|wish| !self.by_id || wish.topic_id == known.topic_id)
            };
            let forgotten = self.known.iter().filter(|(stream, known)| !is_wanted(stream, known));
            (changed.map(|(_, wish)| wish).collect(), forgotten.map(|(_, wish)| wish).collect())
        };
        let mut by_topic: BTreeMap<(&Arc<str>, Uuid), Vec<i32>> = BTreeMap::new();
        for wish in forgotten {
            by_topic.entry((&wish.topic, wish.topic_id)).or_default().push(wish.partition);
        }
        request(LONG_POLL, changed).with_session_id(self.id).with_session_epoch(self.epoch).with_forgotten_topics_data(
            by_topic
                .into_iter()
                .map(|((topic, id), partitions)| {
                    ForgottenTopic::default().with_topic(name(topic)).with_topic_id(id).with_partitions(partitions)
                })
                .collect(),
        )
    }

    /// Whether the answer is one; if not, the session begins anew.
    fn answered(&mut self, answer: &FetchResponse, wanted: &BTreeMap<usize, Wish>) -> bool {
        match answer.error_code {
            FETCH_SESSION_ID_NOT_FOUND | INVALID_FETCH_SESSION_EPOCH | FETCH_SESSION_TOPIC_ID_ERROR => {
                *self = Self { by_id: self.by_id, changed: true, ..Self::default() };
                false
            }
            _ => {
                self.id = answer.session_id;
                // Without a session (the broker has no room for one) every request is a first one.
                self.epoch = if answer.session_id == 0 { 0 } else { next_epoch(self.epoch) };
                if self.changed {
                    self.known = wanted.clone();
                    self.changed = false;
                }
                true
            }
        }
    }
}

fn next_epoch(epoch: i32) -> i32 {
    if epoch == i32::MAX { 1 } else { epoch + 1 }
}

fn one_time_request(wanted: &BTreeMap<usize, Wish>) -> FetchRequest {
    request(Duration::ZERO, wanted.values().collect()).with_session_id(0).with_session_epoch(-1)
}

fn request(wait: Duration, wishes: Vec<&Wish>) -> FetchRequest {
    let mut topics: BTreeMap<(&Arc<str>, Uuid), Vec<FetchPartition>> = BTreeMap::new();
    for wish in wishes {
        topics.entry((&wish.topic, wish.topic_id)).or_default().push(
            FetchPartition::default()
                .with_partition(wish.partition)
                .with_fetch_offset(wish.offset)
                .with_current_leader_epoch(wish.leader_epoch)
                .with_last_fetched_epoch(-1)
                .with_log_start_offset(-1)
                // One byte gives one whole batch.
                .with_partition_max_bytes(if wish.peek { 1 } else { PARTITION_BYTES_MAX }),
        );
    }
    FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(i32::try_from(wait.as_millis()).unwrap_or(i32::MAX))
        .with_min_bytes(1)
        .with_isolation_level(READ_COMMITTED)
        .with_topics(
            topics
                .into_iter()
                .map(|((topic, id), partitions)| {
                    // What goes out is one of them, by the version.
                    FetchTopic::default().with_topic(name(topic)).with_topic_id(id).with_partitions(partitions)
                })
                .collect(),
        )
}

/// What was read, by stream. All of it shares the answer's memory; but what is less than half of that gets memory of its own, so that a stream that waits
/// with little does not keep much.
fn results(answer: FetchResponse, wanted: &BTreeMap<usize, Wish>) -> Vec<ReadPartition> {
    if answer.responses.is_empty() {
        return Vec::new();
    }
    let records = |partition: &PartitionData| partition.records.as_ref().map_or(0, Bytes::len);
    let whole: usize = answer.responses.iter().flat_map(|topic| &topic.partitions).map(records).sum();
    // An answer has ids, or else names.
    let by_id = answer.responses.iter().any(|topic| !topic.topic_id.is_nil());
    let streams: HashMap<(&str, Uuid, i32), (usize, i64)> = wanted
        .iter()
        .map(|(stream, wish)| (key(by_id, &wish.topic, wish.topic_id, wish.partition), (*stream, wish.offset)))
        .collect();
    let mut results = Vec::new();
    for topic in answer.responses {
        for partition in topic.partitions {
            let key = key(by_id, topic.topic.as_str(), topic.topic_id, partition.partition_index);
            let Some(&(stream, offset)) = streams.get(&key) else { continue };
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

/// By what a partition of an answer is found.
fn key(by_id: bool, name: &str, id: Uuid, partition: i32) -> (&str, Uuid, i32) {
    if by_id { ("", id, partition) } else { (name, Uuid::nil(), partition) }
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

    fn wish(id: u128, partition: i32) -> Wish {
        let topic_id = Uuid::from_u128(id);
        Wish { topic: Arc::from("orders"), topic_id, partition, leader_epoch: 1, offset: 5, peek: false }
    }

    /// Partitions by their topics' ids.
    type ByIds = Vec<(u128, i32)>;

    /// What a request adds or changes, and what it forgets.
    fn said(request: &FetchRequest) -> (ByIds, ByIds) {
        let asked = request.topics.iter();
        let asked =
            asked.flat_map(|topic| topic.partitions.iter().map(|one| (topic.topic_id.as_u128(), one.partition)));
        let forgotten = request.forgotten_topics_data.iter();
        let forgotten =
            forgotten.flat_map(|topic| topic.partitions.iter().map(|partition| (topic.topic_id.as_u128(), *partition)));
        (asked.collect(), forgotten.collect())
    }

    #[test]
    fn a_session_forgets_what_a_topic_was_before_it_was_made_anew() {
        let mut session = Session { changed: true, ..Session::default() };
        session.name_by(true);
        let before = BTreeMap::from([(0, wish(7, 0)), (1, wish(7, 1))]);
        assert_eq!(said(&session.request(&before)), (vec![(7, 0), (7, 1)], vec![]));
        assert!(session.answered(&FetchResponse::default().with_session_id(3), &before));
        let anew = BTreeMap::from([(0, wish(8, 0)), (1, wish(7, 1))]);
        session.changed = true;
        session.name_by(true);
        let request = session.request(&anew);
        assert_eq!((request.session_id, request.session_epoch), (3, 1));
        assert_eq!(said(&request), (vec![(8, 0)], vec![(7, 0)]));
    }

    #[test]
    fn a_session_of_ids_ends_where_a_topic_has_none() {
        let mut session = Session { changed: true, ..Session::default() };
        session.name_by(true);
        let wanted = BTreeMap::from([(0, wish(7, 0))]);
        assert!(session.answered(&FetchResponse::default().with_session_id(3), &wanted));
        let nameless = BTreeMap::from([(0, wish(7, 0)), (1, wish(0, 1))]);
        session.name_by(nameless.values().all(|wish| !wish.topic_id.is_nil()));
        let request = session.request(&nameless);
        assert_eq!((request.session_id, request.session_epoch), (0, 0), "another session begins");
        assert_eq!(said(&request).0.len(), 2, "with all that is wanted");
        // A broker that sees both in one session says so, and the next one begins anew as well.
        let refused = FetchResponse::default().with_error_code(FETCH_SESSION_TOPIC_ID_ERROR);
        assert!(!session.answered(&refused, &nameless));
        assert_eq!(session.request(&nameless).session_epoch, 0);
    }

    #[test]
    fn what_was_read_goes_to_its_stream_by_id_and_by_name() {
        let wanted = BTreeMap::from([(4, wish(7, 0)), (5, wish(8, 0))]);
        let data = || vec![PartitionData::default().with_records(Some(Bytes::from_static(b"records")))];
        let topic = kafka_protocol::messages::fetch_response::FetchableTopicResponse::default().with_partitions(data());
        let by_id = FetchResponse::default().with_responses(vec![topic.clone().with_topic_id(Uuid::from_u128(8))]);
        let streams = |answer| results(answer, &wanted).iter().map(|read| read.stream).collect::<Vec<_>>();
        assert_eq!(streams(by_id), [5]);
        let unknown = FetchResponse::default().with_responses(vec![topic.clone().with_topic_id(Uuid::from_u128(9))]);
        assert_eq!(streams(unknown), Vec::<usize>::new());
        let by_name = FetchResponse::default().with_responses(vec![topic.with_topic(name("orders"))]);
        assert_eq!(streams(by_name).len(), 1);
    }
}
