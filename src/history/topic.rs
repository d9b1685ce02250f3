//! The topic that keeps the history: one partition, one entry a record batch, kept for a year unless somebody changes that.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{BrokerId, CreateTopicsRequest, FetchRequest, ProduceRequest};
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType};
use serde_json::Value;
use tokio::time::Instant;

use crate::client::ClientError;
use crate::client::cluster::Cluster;
use crate::client::error_code;
use crate::client::rights::{Operation, Right};
use crate::config::HISTORY_TOPIC;
use crate::mirror::batch::{Batch, fetched};
use crate::mirror::offsets::{Which, list_all, name};
use crate::wire::records::Records;

const RETENTION: &str = "31536000000";
const TIMEOUT_MS: i32 = 5_000;
/// One Fetch of the topic.
const FETCH_BYTES_MAX: i32 = 4 << 20;
/// What is read of the topic for one answer, at most.
const READ_BYTES_MAX: usize = 16 << 20;
/// A larger entry goes without its configuration: brokers take batches of a megabyte.
const ENTRY_BYTES_MAX: usize = 900 << 10;

/// Whether an error on the topic is a matter of waiting.
pub(super) fn is_passing(code: i16) -> bool {
    matches!(
        code,
        error_code::UNKNOWN_TOPIC_OR_PARTITION
            | error_code::LEADER_NOT_AVAILABLE
            | error_code::NOT_LEADER_OR_FOLLOWER
            | error_code::REQUEST_TIMED_OUT
            | error_code::NOT_ENOUGH_REPLICAS
    )
}

/// Appends an entry; the topic is created before the first.
pub(super) async fn append(local: &Arc<Cluster>, entry: &Value) -> Result<(), ClientError> {
    let leader = match leader(local) {
        Some(leader) => leader,
        None => {
            ensure(local).await?;
            leader(local).ok_or_else(|| no_leader(local))?
        }
    };
    let data = PartitionProduceData::default().with_index(0).with_records(Some(batch(entry)));
    let topic = TopicProduceData::default().with_name(name(HISTORY_TOPIC)).with_partition_data(vec![data]);
    let request = ProduceRequest::default().with_acks(-1).with_timeout_ms(TIMEOUT_MS).with_topic_data(vec![topic]);
    let answer = local.call(leader, &request).await?;
    let codes = answer.responses.iter().flat_map(|topic| &topic.partition_responses);
    match codes.map(|partition| partition.error_code).next() {
        Some(0) => Ok(()),
        code => {
            // Somebody else may lead it now. If that can't be asked, the next try says so.
            let _ = local.refresh().await;
            Err(local.refused(
                format!("cannot write to topic {HISTORY_TOPIC}"),
                code.unwrap_or(-1),
                right(Operation::Write),
            ))
        }
    }
}

fn right(operation: Operation) -> Right {
    Right::topic(operation, &Arc::from(HISTORY_TOPIC))
}

fn leader(local: &Cluster) -> Option<i32> {
    local.metadata().leader(HISTORY_TOPIC, 0).map(|leader| leader.node_id)
}

fn no_leader(local: &Cluster) -> ClientError {
    ClientError::NoBroker { cluster: local.name().clone(), what: format!("topic {HISTORY_TOPIC}") }
}

/// Creates the topic where it is missing.
async fn ensure(local: &Cluster) -> Result<(), ClientError> {
    if !local.refresh().await?.topics.contains_key(HISTORY_TOPIC) {
        let config = |key, value| {
            CreatableTopicConfig::default()
                .with_name(StrBytes::from_static_str(key))
                .with_value(Some(StrBytes::from_static_str(value)))
        };
        let topic = CreatableTopic::default()
            .with_name(name(HISTORY_TOPIC))
            .with_num_partitions(1)
            .with_replication_factor(-1)
            .with_configs(vec![config("cleanup.policy", "delete"), config("retention.ms", RETENTION)]);
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(TIMEOUT_MS);
        match local.call_any(&request).await?.topics.first().map(|topic| topic.error_code) {
            Some(0) => tracing::info!(topic = HISTORY_TOPIC, "created the topic for the history of configurations"),
            Some(error_code::TOPIC_ALREADY_EXISTS) => {}
            code => {
                return Err(local.refused(
                    format!("cannot create topic {HISTORY_TOPIC}"),
                    code.unwrap_or(-1),
                    right(Operation::Create),
                ));
            }
        }
        local.refresh().await?;
    }
    Ok(())
}

/// One record batch with the entry.
fn batch(entry: &Value) -> Bytes {
    let mut entry = entry.clone();
    let mut value = entry.to_string();
    if value.len() > ENTRY_BYTES_MAX
        && let Some(keys) = entry.as_object_mut()
    {
        keys.remove("config");
        value = entry.to_string();
    }
    let record = Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: -1,
        producer_id: -1,
        producer_epoch: -1,
        timestamp_type: TimestampType::Creation,
        offset: 0,
        sequence: -1,
        timestamp: entry["at_ms"].as_i64().unwrap_or(0),
        key: entry["proxy"].as_str().map(|proxy| Bytes::copy_from_slice(proxy.as_bytes())),
        value: Some(Bytes::from(value)),
        headers: Default::default(),
    };
    let mut batch = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    RecordBatchEncoder::encode(&mut batch, [&record], &options)
        .unwrap_or_else(|error| unreachable!("our own record: {error}"));
    batch.freeze()
}

/// The last `limit` entries, the oldest first.
pub(super) async fn read(local: &Arc<Cluster>, limit: usize) -> Result<Vec<Value>, ClientError> {
    let leader = leader(local).ok_or_else(|| no_leader(local))?;
    let partition = (Arc::from(HISTORY_TOPIC), 0);
    let bound = async |which| {
        let offsets: BTreeMap<_, _> = list_all(local, std::slice::from_ref(&partition), which).await;
        let code = error_code::LEADER_NOT_AVAILABLE;
        let offset = offsets.get(&partition).copied().unwrap_or(Err(code));
        offset
            .map(|found| found.offset)
            .map_err(|code| local.refused(format!("cannot read topic {HISTORY_TOPIC}"), code, right(Operation::Read)))
    };
    let (start, end) = (bound(Which::Start).await?, bound(Which::End).await?);
    let mut next = start.max(end.saturating_sub(i64::try_from(limit).unwrap_or(i64::MAX)));
    let mut connection = local.connect(leader).await?;
    let (mut entries, mut bytes) = (Vec::new(), 0);
    while next < end && bytes < READ_BYTES_MAX {
        let answer = connection.call(&request(next)).await?;
        let partition = answer.responses.into_iter().flat_map(|topic| topic.partitions).next();
        let partition = partition.ok_or_else(|| no_leader(local))?;
        if partition.error_code != 0 {
            return Err(local.refused(
                format!("cannot read topic {HISTORY_TOPIC}"),
                partition.error_code,
                right(Operation::Read),
            ));
        }
        let records = partition.records.unwrap_or_default();
        bytes += records.len();
        let before = next;
        for batch in fetched(records, next, Instant::now()).map_while(Result::ok) {
            next = next.max(batch.header.next_offset());
            take(&batch, &mut entries);
        }
        if next == before {
            break;
        }
    }
    Ok(entries)
}

/// Takes the entries of a batch. What is no entry is somebody else's, and passed over.
fn take(batch: &Batch, entries: &mut Vec<Value>) {
    if batch.header.is_control() {
        return;
    }
    let Ok(mut records) = Records::new(batch.header, &batch.records.concat()) else { return };
    while let Ok(Some(record)) = records.next_record() {
        let entry = record.value.and_then(|value| serde_json::from_slice::<Value>(value).ok());
        entries.extend(entry.filter(|entry| entry["id"].is_string() && entry["at_ms"].is_u64()));
    }
}

fn request(from: i64) -> FetchRequest {
    let partition = FetchPartition::default()
        .with_partition(0)
        .with_fetch_offset(from)
        .with_current_leader_epoch(-1)
        .with_last_fetched_epoch(-1)
        .with_log_start_offset(-1)
        .with_partition_max_bytes(FETCH_BYTES_MAX);
    FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(0)
        .with_min_bytes(0)
        .with_max_bytes(FETCH_BYTES_MAX)
        .with_session_id(0)
        .with_session_epoch(-1)
        .with_topics(vec![FetchTopic::default().with_topic(name(HISTORY_TOPIC)).with_partitions(vec![partition])])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entries_of(batch: Bytes) -> Vec<Value> {
        let mut entries = Vec::new();
        fetched(batch, 0, Instant::now()).for_each(|batch| take(&batch.expect("a batch"), &mut entries));
        entries
    }

    #[test]
    fn an_entry_comes_back_as_it_was_written() {
        let entry =
            json!({"id": "h/1/2", "at_ms": 1_700_000_000_000_u64, "proxy": "eu", "config": {"proxy": {"name": "eu"}}});
        assert_eq!(entries_of(batch(&entry)), [entry]);
    }

    #[test]
    fn an_entry_too_large_for_a_broker_goes_without_its_configuration() {
        let entry = json!({"id": "h/1/2", "at_ms": 1, "proxy": "eu", "by": "ann", "config": "x".repeat(2 << 20)});
        let batch = batch(&entry);
        assert!(batch.len() < 1 << 20);
        assert_eq!(entries_of(batch), [json!({"id": "h/1/2", "at_ms": 1, "proxy": "eu", "by": "ann"})]);
    }

    #[test]
    fn what_is_no_entry_is_passed_over() {
        assert_eq!(entries_of(batch(&json!({"at_ms": 1}))), Vec::<Value>::new());
        assert_eq!(entries_of(batch(&json!("text"))), Vec::<Value>::new());
    }
}
