//! Fetch, with incremental sessions (KIP-227) and the long poll. Followers answer too, with what they have (KIP-392).

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::fetch_request::FetchPartition;
use kafka_protocol::messages::fetch_response::{AbortedTransaction, FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::{BrokerId, FetchRequest, FetchResponse, ProducerId, TopicName};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::Model;
use super::partition::{Held, Partition};

const READ_COMMITTED: i8 = 1;
const FETCH_SESSION_ID_NOT_FOUND: i16 = 70;
const INVALID_FETCH_SESSION_EPOCH: i16 = 71;
const UNKNOWN_TOPIC_ID: i16 = 100;
/// How often a long poll looks whether followers have caught up.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A topic's name, its id where that was asked for (version 13), and the partition.
type Key = (String, Uuid, i32);

/// What a session remembers of a partition.
struct Watched {
    asked: FetchPartition,
    /// High watermark, last stable offset and log start that were told last.
    told: Option<(i64, i64, i64)>,
}

/// The fetch sessions of one connection.
#[derive(Default)]
pub struct Sessions {
    last_id: i32,
    open: BTreeMap<i32, Session>,
}

struct Session {
    epoch: i32,
    partitions: BTreeMap<Key, Watched>,
}

/// Answers a Fetch, waiting as it wishes.
pub async fn fetch(model: &Model, node_id: i32, sessions: &mut Sessions, request: FetchRequest) -> FetchResponse {
    let named = |name: &TopicName, id: Uuid| {
        let state = model.look();
        let of_id = state.topics.iter().find(|(_, topic)| topic.id == id).map(|(name, _)| name.clone());
        if id.is_nil() { name.to_string() } else { of_id.unwrap_or_default() }
    };
    let asked = || {
        request.topics.iter().flat_map(|topic| {
            let (name, id) = (named(&topic.topic, topic.topic_id), topic.topic_id);
            topic
                .partitions
                .iter()
                .map(move |asked| ((name.clone(), id, asked.partition), Watched { asked: asked.clone(), told: None }))
        })
    };
    let mut once = Session { epoch: 0, partitions: BTreeMap::new() };
    let (id, session) = match (request.session_id, request.session_epoch) {
        (_, -1) => {
            sessions.open.remove(&request.session_id);
            once.partitions = asked().collect();
            (0, &mut once)
        }
        (_, 0) => {
            sessions.open.remove(&request.session_id);
            sessions.last_id += 1;
            let id = sessions.last_id;
            (id, sessions.open.entry(id).or_insert(Session { epoch: 0, partitions: asked().collect() }))
        }
        (id, epoch) => {
            let Some(session) = sessions.open.get_mut(&id) else {
                return FetchResponse::default().with_error_code(FETCH_SESSION_ID_NOT_FOUND);
            };
            if epoch != session.epoch {
                return FetchResponse::default().with_error_code(INVALID_FETCH_SESSION_EPOCH);
            }
            for topic in &request.forgotten_topics_data {
                let (by_name, id) = (topic.topic.to_string(), topic.topic_id);
                session.partitions.retain(|(name, known, partition), _| {
                    let same = if id.is_nil() { *name == by_name } else { *known == id };
                    !(same && topic.partitions.contains(partition))
                });
            }
            for (key, watched) in asked() {
                session
                    .partitions
                    .entry(key)
                    .and_modify(|known| known.asked = watched.asked.clone())
                    .or_insert(watched);
            }
            (id, session)
        }
    };
    let incremental = request.session_epoch > 0;
    session.epoch += 1;
    let until = tokio::time::Instant::now() + Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    loop {
        let changed = model.changed();
        let (topics, bytes, failed) = read(model, node_id, session, &request, incremental);
        let enough = failed || bytes >= usize::try_from(request.min_bytes).unwrap_or(0);
        if enough || tokio::time::Instant::now() >= until {
            return FetchResponse::default().with_session_id(id).with_responses(topics);
        }
        tokio::select! {
            biased;
            () = changed => {}
            () = tokio::time::sleep_until(until.min(tokio::time::Instant::now() + LOOK_AGAIN)) => {}
        }
    }
}

/// Reads what there is: topics, their bytes, and whether any partition failed.
fn read(
    model: &Model,
    node_id: i32,
    session: &mut Session,
    request: &FetchRequest,
    incremental: bool,
) -> (Vec<FetchableTopicResponse>, usize, bool) {
    let mut state = model.look();
    let now = model.now();
    let mut left = usize::try_from(request.max_bytes).unwrap_or(0);
    let (mut bytes, mut failed) = (0, false);
    let mut topics: BTreeMap<(String, Uuid), Vec<PartitionData>> = BTreeMap::new();
    for ((topic, id, index), watched) in &mut session.partitions {
        let asked = &watched.asked;
        let unknown = !id.is_nil() && state.topics.get(topic).is_none_or(|topic| topic.id != *id);
        let data = match state.held_by(node_id, topic, *index, asked.current_leader_epoch) {
            _ if unknown => Err(UNKNOWN_TOPIC_ID),
            Err(code) => Err(code),
            Ok(partition) => {
                partition.replicate(now);
                let held = partition.held_by(node_id).unwrap_or_default();
                let max = usize::try_from(asked.partition_max_bytes).unwrap_or(0).min(left);
                // The first partition's first batch comes however large it is (KIP-74), others only if there is room.
                read_partition(partition, held, asked, request.isolation_level, max, bytes == 0 || left > 0)
            }
        };
        let data = match data {
            Ok(data) => data,
            Err(code) => {
                failed = true;
                PartitionData::default()
                    .with_error_code(code)
                    .with_high_watermark(-1)
                    .with_last_stable_offset(-1)
                    .with_log_start_offset(-1)
            }
        };
        let length = data.records.as_ref().map_or(0, Bytes::len);
        bytes += length;
        left = left.saturating_sub(length);
        let told = (data.high_watermark, data.last_stable_offset, data.log_start_offset);
        let news = length > 0 || data.error_code != 0 || watched.told != Some(told);
        if !incremental || news {
            watched.told = Some(told);
            topics
                .entry((topic.clone(), *id))
                .or_default()
                .push(data.with_partition_index(*index).with_preferred_read_replica(BrokerId(-1)));
        }
    }
    let topics = topics.into_iter().map(|((topic, id), partitions)| {
        let topic = TopicName(StrBytes::from_string(topic));
        FetchableTopicResponse::default().with_topic(topic).with_topic_id(id).with_partitions(partitions)
    });
    (topics.collect(), bytes, failed)
}

fn read_partition(
    partition: &Partition,
    held: Held,
    asked: &FetchPartition,
    isolation_level: i8,
    max_bytes: usize,
    first: bool,
) -> Result<PartitionData, i16> {
    let offset = asked.fetch_offset;
    if offset < partition.start || offset > held.end {
        return Err(1);
    }
    let committed = isolation_level == READ_COMMITTED;
    let limit = if committed { held.last_stable_offset } else { held.high_watermark };
    let mut records = BytesMut::new();
    let mut next = offset;
    for batch in partition.read(offset, limit, max_bytes).iter().take(if first { usize::MAX } else { 0 }) {
        records.extend_from_slice(&batch.bytes);
        next = batch.last_offset + 1;
    }
    let aborted = partition.aborted(offset, next).into_iter().map(|(producer_id, first_offset)| {
        AbortedTransaction::default().with_producer_id(ProducerId(producer_id)).with_first_offset(first_offset)
    });
    Ok(PartitionData::default()
        .with_high_watermark(held.high_watermark)
        .with_last_stable_offset(held.last_stable_offset)
        .with_log_start_offset(partition.start)
        .with_aborted_transactions(committed.then(|| aborted.collect()))
        .with_records(Some(records.freeze())))
}
