//! What a reader asks a broker for, and what the broker knows of that already: an incremental fetch session.
//!
//! Only changes are sent and only what has news is answered, so a round costs by what happens and not by how many partitions are waited for.
//!
//! # References
//! KIP-227 (incremental sessions), KIP-516 (topic ids). A session goes on as it began, by names or by ids.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use kafka_protocol::messages::fetch_response::FetchableTopicResponse;
use kafka_protocol::messages::{BrokerId, FetchRequest, FetchResponse};
use uuid::Uuid;

use super::offsets::name;
use super::reader::Wish;

/// A Fetch's limit per partition.
const PARTITION_BYTES_MAX: i32 = 2 * 1024 * 1024;
/// read_committed: aborted records are named, open transactions left out.
const READ_COMMITTED: i8 = 1;
/// The epoch of a request that wants no session.
const NO_SESSION: i32 = -1;

const FETCH_SESSION_ID_NOT_FOUND: i16 = 70;
const INVALID_FETCH_SESSION_EPOCH: i16 = 71;
const FETCH_SESSION_TOPIC_ID_ERROR: i16 = 106;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Session {
    id: i32,
    epoch: i32,
    /// Whether topics are named by their ids.
    by_id: bool,
    wanted: BTreeMap<usize, Wish>,
    /// The streams by what an answer names.
    streams: HashMap<TopicKey, HashMap<i32, usize>>,
    /// Of wishes that have changed since the broker last heard of any: what it knows of them.
    known: BTreeMap<usize, Option<Wish>>,
    /// Wishes whose topics have no id.
    without_id: usize,
}

/// How an answer names a topic.
#[derive(PartialEq, Eq, Hash)]
enum TopicKey {
    Id(Uuid),
    Name(Arc<str>),
}

/// The wishes for a topic of an answer.
pub(super) struct TopicWishes<'a> {
    streams: &'a HashMap<i32, usize>,
    wanted: &'a BTreeMap<usize, Wish>,
}

impl TopicWishes<'_> {
    /// The stream that wants a partition, and from which offset on.
    pub fn of(&self, partition: i32) -> Option<(usize, i64)> {
        let stream = *self.streams.get(&partition)?;
        Some((stream, self.wanted.get(&stream)?.offset))
    }
}

impl Session {
    /// A single request, which the broker keeps nothing of.
    pub fn once(wanted: BTreeMap<usize, Wish>) -> Self {
        let mut session = Self { epoch: NO_SESSION, wanted, ..Self::default() };
        session.index();
        session
    }

    /// Takes over what has changed: the wishes of streams, `None` for those that have none any more. `knows_ids`: whether the broker takes topics' ids.
    pub fn change(&mut self, changes: Vec<(usize, Option<Wish>)>, knows_ids: bool) {
        let is_nameless = |wish: &&Wish| wish.topic_id.is_nil();
        for (stream, wish) in changes {
            self.without_id += wish.iter().filter(is_nameless).count();
            let before = match wish {
                Some(wish) => {
                    let streams = self.streams.entry(key(self.by_id, &wish)).or_default();
                    streams.insert(wish.partition, stream);
                    self.wanted.insert(stream, wish)
                }
                None => self.wanted.remove(&stream),
            };
            self.without_id -= before.iter().filter(is_nameless).count();
            if let Some(before) = &before {
                self.forget(stream, before);
            }
            self.known.entry(stream).or_insert(before);
        }
        let by_id = knows_ids && self.without_id == 0;
        if by_id != self.by_id {
            self.by_id = by_id;
            self.index();
            self.begin_anew();
        }
    }

    /// A wish is found no more by what it was, unless it is that still.
    fn forget(&mut self, stream: usize, before: &Wish) {
        let old = key(self.by_id, before);
        if self.wanted.get(&stream).is_some_and(|now| key(self.by_id, now) == old && now.partition == before.partition)
        {
            return;
        }
        if let Some(streams) = self.streams.get_mut(&old) {
            if streams.get(&before.partition) == Some(&stream) {
                streams.remove(&before.partition);
            }
            if streams.is_empty() {
                self.streams.remove(&old);
            }
        }
    }

    fn index(&mut self) {
        self.streams.clear();
        for (stream, wish) in &self.wanted {
            self.streams.entry(key(self.by_id, wish)).or_default().insert(wish.partition, *stream);
        }
    }

    fn begin_anew(&mut self) {
        self.id = 0;
        self.epoch = 0;
    }

    /// Whether topics are named by their ids.
    pub fn names_by_id(&self) -> bool {
        self.by_id
    }

    /// The last of the streams for which anything is wanted.
    pub fn last_stream(&self) -> Option<usize> {
        self.wanted.last_key_value().map(|(stream, _)| *stream)
    }

    /// The next request: the broker may wait so long for records, and give so many bytes.
    pub fn request(&self, wait: Duration, bytes_max: i32) -> FetchRequest {
        let (changed, forgotten): (Vec<&Wish>, Vec<&Wish>) = if self.epoch <= 0 {
            (self.wanted.values().collect(), Vec::new())
        } else {
            let changed = self
                .known
                .iter()
                .filter_map(|(stream, known)| self.wanted.get(stream).filter(|wish| known.as_ref() != Some(*wish)));
            // A topic that was made anew is another one by its id, and the same by its name.
            let is_wanted = |stream: &usize, known: &Wish| {
                self.wanted.get(stream).is_some_and(|wish| !self.by_id || wish.topic_id == known.topic_id)
            };
            let forgotten = self
                .known
                .iter()
                .filter_map(|(stream, known)| known.as_ref().filter(|known| !is_wanted(stream, known)));
            (changed.collect(), forgotten.collect())
        };
        FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(i32::try_from(wait.as_millis()).unwrap_or(i32::MAX))
            .with_min_bytes(1)
            .with_max_bytes(bytes_max)
            .with_isolation_level(READ_COMMITTED)
            .with_session_id(self.id)
            .with_session_epoch(self.epoch)
            .with_topics(
                by_topic(changed)
                    .into_iter()
                    .map(|((topic, id), wishes)| {
                        let partitions = wishes.into_iter().map(partition).collect();
                        // What goes out is one of them, by the version.
                        FetchTopic::default().with_topic(name(topic)).with_topic_id(id).with_partitions(partitions)
                    })
                    .collect(),
            )
            .with_forgotten_topics_data(
                by_topic(forgotten)
                    .into_iter()
                    .map(|((topic, id), wishes)| {
                        let partitions = wishes.into_iter().map(|wish| wish.partition).collect();
                        ForgottenTopic::default().with_topic(name(topic)).with_topic_id(id).with_partitions(partitions)
                    })
                    .collect(),
            )
    }

    /// Whether the answer is one; if not, the session begins anew.
    pub fn answered(&mut self, answer: &FetchResponse) -> bool {
        if let FETCH_SESSION_ID_NOT_FOUND | INVALID_FETCH_SESSION_EPOCH | FETCH_SESSION_TOPIC_ID_ERROR =
            answer.error_code
        {
            self.begin_anew();
            return false;
        }
        self.id = answer.session_id;
        // Without a session (the broker has no room for one) every request is a first one.
        self.epoch = if answer.session_id == 0 { 0 } else { next_epoch(self.epoch) };
        self.known.clear();
        true
    }

    /// What is wanted of a topic of an answer.
    pub fn topic(&self, topic: &FetchableTopicResponse) -> Option<TopicWishes<'_>> {
        let key = if self.by_id { TopicKey::Id(topic.topic_id) } else { TopicKey::Name(topic.topic.as_str().into()) };
        self.streams.get(&key).map(|streams| TopicWishes { streams, wanted: &self.wanted })
    }
}

fn key(by_id: bool, wish: &Wish) -> TopicKey {
    if by_id { TopicKey::Id(wish.topic_id) } else { TopicKey::Name(wish.topic.clone()) }
}

fn next_epoch(epoch: i32) -> i32 {
    if epoch == i32::MAX { 1 } else { epoch + 1 }
}

fn by_topic(wishes: Vec<&Wish>) -> BTreeMap<(&Arc<str>, Uuid), Vec<&Wish>> {
    let mut topics: BTreeMap<(&Arc<str>, Uuid), Vec<&Wish>> = BTreeMap::new();
    for wish in wishes {
        topics.entry((&wish.topic, wish.topic_id)).or_default().push(wish);
    }
    topics
}

fn partition(wish: &Wish) -> FetchPartition {
    FetchPartition::default()
        .with_partition(wish.partition)
        .with_fetch_offset(wish.offset)
        .with_current_leader_epoch(wish.leader_epoch)
        .with_last_fetched_epoch(-1)
        .with_log_start_offset(-1)
        // One byte gives one whole batch.
        .with_partition_max_bytes(if wish.peek { 1 } else { PARTITION_BYTES_MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(id: u128, partition: i32) -> Wish {
        let topic_id = Uuid::from_u128(id);
        Wish { topic: Arc::from("orders"), topic_id, partition, leader_epoch: 1, offset: 5, peek: false }
    }

    /// Partitions by their topics' ids.
    type ByIds = Vec<(u128, i32)>;

    /// What the next request adds or changes, and what it forgets.
    fn said(session: &Session) -> (ByIds, ByIds) {
        let request = session.request(Duration::ZERO, 1);
        let asked = request.topics.iter();
        let asked =
            asked.flat_map(|topic| topic.partitions.iter().map(|one| (topic.topic_id.as_u128(), one.partition)));
        let forgotten = request.forgotten_topics_data.iter();
        let forgotten =
            forgotten.flat_map(|topic| topic.partitions.iter().map(|partition| (topic.topic_id.as_u128(), *partition)));
        (asked.collect(), forgotten.collect())
    }

    /// A session that the broker knows, with two partitions of topic 7.
    fn begun() -> Session {
        let mut session = Session::default();
        session.change(vec![(0, Some(wish(7, 0))), (1, Some(wish(7, 1)))], true);
        assert_eq!(said(&session), (vec![(7, 0), (7, 1)], vec![]));
        assert!(session.answered(&FetchResponse::default().with_session_id(3)));
        assert_eq!((session.id, session.epoch), (3, 1));
        session
    }

    fn topic(id: u128, name_of_it: &str) -> FetchableTopicResponse {
        FetchableTopicResponse::default().with_topic_id(Uuid::from_u128(id)).with_topic(name(name_of_it))
    }

    #[test]
    fn a_session_tells_only_what_has_changed() {
        let mut session = begun();
        assert_eq!(said(&session), (vec![], vec![]));
        let moved = Wish { offset: 9, ..wish(7, 1) };
        session.change(vec![(0, Some(wish(7, 0))), (1, Some(moved.clone()))], true);
        assert_eq!(said(&session), (vec![(7, 1)], vec![]));
        session.change(vec![(0, None), (2, Some(wish(7, 2)))], true);
        assert_eq!(said(&session), (vec![(7, 1), (7, 2)], vec![(7, 0)]), "with what was not heard yet");
        session.change(vec![(0, Some(wish(7, 0)))], true);
        assert_eq!(said(&session), (vec![(7, 1), (7, 2)], vec![]), "gone and back: the broker knows it");
        assert!(session.answered(&FetchResponse::default().with_session_id(3)));
        assert_eq!(said(&session), (vec![], vec![]));
        assert!(!session.answered(&FetchResponse::default().with_error_code(FETCH_SESSION_ID_NOT_FOUND)));
        assert_eq!(said(&session), (vec![(7, 0), (7, 1), (7, 2)], vec![]), "another session begins, with all");
        assert_eq!(session.topic(&topic(7, "")).and_then(|topic| topic.of(1)), Some((1, 9)));
    }

    #[test]
    fn a_session_forgets_what_a_topic_was_before_it_was_made_anew() {
        let mut session = begun();
        session.change(vec![(0, Some(wish(8, 0)))], true);
        assert_eq!((session.id, session.epoch), (3, 1));
        assert_eq!(said(&session), (vec![(8, 0)], vec![(7, 0)]));
        assert_eq!(session.topic(&topic(7, "")).and_then(|topic| topic.of(0)), None);
        assert_eq!(session.topic(&topic(8, "")).and_then(|topic| topic.of(0)), Some((0, 5)));
    }

    #[test]
    fn a_session_of_ids_ends_where_a_topic_has_none() {
        let mut session = begun();
        session.change(vec![(2, Some(wish(0, 2)))], true);
        assert!(!session.names_by_id());
        assert_eq!((session.id, session.epoch), (0, 0), "another session begins");
        assert_eq!(said(&session).0.len(), 3, "with all that is wanted");
        // A broker that sees both in one session says so, and the next one begins anew as well.
        assert!(!session.answered(&FetchResponse::default().with_error_code(FETCH_SESSION_TOPIC_ID_ERROR)));
        assert_eq!(session.epoch, 0);
        session.change(vec![(2, None)], true);
        assert!(session.names_by_id(), "all have ids again");
    }

    #[test]
    fn what_was_read_goes_to_its_stream_by_id_and_by_name() {
        let mut session = Session::default();
        session.change(vec![(4, Some(wish(7, 0))), (5, Some(wish(8, 0)))], true);
        let stream = |session: &Session, topic: &FetchableTopicResponse| session.topic(topic)?.of(0);
        assert_eq!(stream(&session, &topic(8, "")), Some((5, 5)));
        assert_eq!(stream(&session, &topic(9, "")), None);
        assert_eq!(stream(&Session::once(BTreeMap::from([(4, wish(7, 0))])), &topic(0, "orders")), Some((4, 5)));
    }

    #[test]
    fn a_single_request_asks_for_all_and_for_no_session() {
        let session = Session::once(BTreeMap::from([(4, wish(7, 0)), (6, wish(7, 1))]));
        let request = session.request(Duration::ZERO, 1);
        assert_eq!((request.session_id, request.session_epoch), (0, NO_SESSION));
        assert_eq!(said(&session).0.len(), 2);
        assert_eq!(session.last_stream(), Some(6));
    }
}
