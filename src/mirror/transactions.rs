//! Which transaction holds a stream back: asked of the local partition's leader (DescribeProducers, KIP-664) while a stream stands at the last stable
//! offset and the log goes on.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kafka_protocol::messages::DescribeProducersRequest;
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::describe_producers_response::ProducerState;

use super::offsets::name;
use super::progress::Partition;
use crate::client::ClientError;
use crate::client::cluster::Cluster;

/// The transaction of a partition that has been open for longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenTransaction {
    /// Whose it is.
    pub producer_id: i64,
    /// In which epoch.
    pub producer_epoch: i32,
    /// Its first offset: the last stable offset.
    pub start_offset: i64,
    /// When its producer last wrote, by its own clock: milliseconds since 1970.
    pub last_timestamp: i64,
}

/// Asks one local broker for the oldest open transaction of each partition that it leads. Partitions that have none, or about which it says nothing, are missing.
///
/// # Errors
/// Those of the call.
pub async fn oldest_open(
    local: &Cluster,
    leader: i32,
    partitions: &[Partition],
) -> Result<HashMap<Partition, OpenTransaction>, ClientError> {
    let mut topics: BTreeMap<&Arc<str>, Vec<i32>> = BTreeMap::new();
    for (topic, partition) in partitions {
        topics.entry(topic).or_default().push(*partition);
    }
    let topics = topics
        .into_iter()
        .map(|(topic, partitions)| TopicRequest::default().with_name(name(topic)).with_partition_indexes(partitions));
    let request = DescribeProducersRequest::default().with_topics(topics.collect());
    let mut oldest = HashMap::new();
    for topic in local.call(leader, &request).await?.topics {
        let topic_name: Arc<str> = Arc::from(topic.name.as_str());
        for partition in topic.partitions {
            if let Some(open) = first_open(&partition.active_producers) {
                oldest.insert((topic_name.clone(), partition.partition_index), open);
            }
        }
    }
    Ok(oldest)
}

fn first_open(producers: &[ProducerState]) -> Option<OpenTransaction> {
    let open = producers.iter().filter(|producer| producer.current_txn_start_offset >= 0);
    open.min_by_key(|producer| producer.current_txn_start_offset).map(|producer| OpenTransaction {
        producer_id: producer.producer_id.0,
        producer_epoch: producer.producer_epoch,
        start_offset: producer.current_txn_start_offset,
        last_timestamp: producer.last_timestamp,
    })
}
