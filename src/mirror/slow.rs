//! What a broker of a region waits for: which of the batches that it has its followers don't have.

use std::collections::{BTreeMap, HashMap};

use std::sync::Arc;

use kafka_protocol::messages::DescribeProducersRequest;
use kafka_protocol::messages::describe_producers_request::TopicRequest;

use super::offsets::{Which, list_offsets, name};
use super::progress::Partition;
use crate::client::ClientError;
use crate::client::cluster::Cluster;
use crate::wire::batch::sequence_after;

/// A batch that was sent and is not answered.
#[derive(Clone, Debug)]
pub struct Suspect {
    /// The stream's number within its region, and which of its batches.
    pub batch: (usize, u64),
    /// Topic (by its name in the region) and partition.
    pub partition: Partition,
    /// Under which identity.
    pub producer_id: i64,
    /// And in which incarnation.
    pub producer_epoch: i16,
    /// The sequence behind it.
    pub next_sequence: i32,
    /// Where the region's log ends behind it, if nobody else writes there.
    pub region_end: i64,
}

/// Those of the batches that the broker has appended and that are not committed. None if it lacks one of them: then it is not their followers that it waits for. Where
/// somebody else writes too it can't be told which of several, so that all count.
///
/// # Errors
/// Those of the calls.
pub async fn find(cluster: &Cluster, node_id: i32, suspects: Vec<Suspect>) -> Result<Vec<(usize, u64)>, ClientError> {
    let mut topics: BTreeMap<&Arc<str>, Vec<i32>> = BTreeMap::new();
    for Suspect { partition: (topic, partition), .. } in &suspects {
        topics.entry(topic).or_default().push(*partition);
    }
    let topics = topics
        .into_iter()
        .map(|(topic, partitions)| TopicRequest::default().with_name(name(topic)).with_partition_indexes(partitions));
    let request = DescribeProducersRequest::default().with_topics(topics.collect());
    let answer = cluster.call(node_id, &request).await?;
    let mut last_sequences: HashMap<(&str, i32, i64), (i32, i32)> = HashMap::new();
    for topic in &answer.topics {
        for partition in &topic.partitions {
            for producer in &partition.active_producers {
                let key = (topic.name.as_str(), partition.partition_index, producer.producer_id.0);
                last_sequences.insert(key, (producer.producer_epoch, producer.last_sequence));
            }
        }
    }
    let has = |suspect: &Suspect| {
        let (topic, partition) = &suspect.partition;
        last_sequences.get(&(&**topic, *partition, suspect.producer_id)).is_some_and(|(epoch, last)| {
            // More than half of the sequence space behind means that it is not there yet.
            let behind = sequence_after(sequence_after(*last, 1), -i64::from(suspect.next_sequence));
            *epoch == i32::from(suspect.producer_epoch) && behind <= i32::MAX / 2
        })
    };
    if !suspects.iter().all(has) {
        return Ok(Vec::new());
    }
    if suspects.len() == 1 {
        return Ok(suspects.into_iter().map(|suspect| suspect.batch).collect());
    }
    let partitions: Vec<&Partition> = suspects.iter().map(|suspect| &suspect.partition).collect();
    let ends = list_offsets(cluster, node_id, &partitions, Which::End).await?;
    let ends: HashMap<Partition, i64> =
        ends.into_iter().filter_map(|(partition, end)| Some((partition, end.ok()?.offset))).collect();
    let uncommitted = |suspect: &&Suspect| ends.get(&suspect.partition).is_some_and(|end| *end < suspect.region_end);
    let slow: Vec<(usize, u64)> = suspects.iter().filter(uncommitted).map(|suspect| suspect.batch).collect();
    Ok(if slow.is_empty() { suspects.into_iter().map(|suspect| suspect.batch).collect() } else { slow })
}
