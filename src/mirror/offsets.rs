//! Asking a cluster's leaders about their logs: ends, starts, and where an epoch ended. One request a broker, all brokers at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use kafka_protocol::messages::{
    BrokerId, ListOffsetsRequest, ListOffsetsResponse, OffsetForLeaderEpochRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::progress::Partition;
use crate::client::ClientError;
use crate::client::cluster::{Cluster, Metadata};
use crate::client::error_code;

/// The special timestamps of ListOffsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The high watermark.
    End,
    /// The first offset that is still there.
    Start,
    /// The first offset whose record has this timestamp (milliseconds since 1970) or a later one; -1 if there is none.
    Since(i64),
}

/// What a leader said about a partition's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOffset {
    /// The offset.
    pub offset: i64,
    /// The leader epoch that goes with it.
    pub leader_epoch: i32,
    /// Who said so.
    pub leader: i32,
}

/// Groups partitions by who leads them; those without a leader are left out.
pub fn by_leader<'a>(
    metadata: &Metadata,
    partitions: impl IntoIterator<Item = &'a Partition>,
) -> BTreeMap<i32, Vec<&'a Partition>> {
    let mut groups: BTreeMap<i32, Vec<&Partition>> = BTreeMap::new();
    for partition in partitions {
        if let Some(leader) = metadata.leader(&partition.0, partition.1) {
            groups.entry(leader.node_id).or_default().push(partition);
        }
    }
    groups
}

/// Asks one broker for an offset of each partition (ListOffsets). Partitions that it can't answer for come with their error code.
///
/// # Errors
/// Those of the call.
pub async fn list_offsets(
    cluster: &Cluster,
    leader: i32,
    partitions: &[&Partition],
    which: Which,
) -> Result<Vec<(Partition, Result<LogOffset, i16>)>, ClientError> {
    let answer = cluster.call(leader, &list_offsets_request(partitions, which)).await?;
    Ok(listed_offsets(answer, leader))
}

/// The question of [`list_offsets`], for those who ask it again and again.
pub fn list_offsets_request(partitions: &[&Partition], which: Which) -> ListOffsetsRequest {
    let timestamp = match which {
        Which::End => -1,
        Which::Start => -2,
        Which::Since(timestamp) => timestamp.max(0),
    };
    let mut topics: BTreeMap<&Arc<str>, Vec<ListOffsetsPartition>> = BTreeMap::new();
    for (topic, partition) in partitions {
        topics.entry(topic).or_default().push(
            ListOffsetsPartition::default()
                .with_partition_index(*partition)
                .with_current_leader_epoch(-1)
                .with_timestamp(timestamp),
        );
    }
    ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_isolation_level(0).with_topics(
        topics
            .into_iter()
            .map(|(topic, partitions)| ListOffsetsTopic::default().with_name(name(topic)).with_partitions(partitions))
            .collect(),
    )
}

/// What a broker has answered to [`list_offsets_request`].
pub fn listed_offsets(answer: ListOffsetsResponse, leader: i32) -> Vec<(Partition, Result<LogOffset, i16>)> {
    let mut offsets = Vec::with_capacity(answer.topics.iter().map(|topic| topic.partitions.len()).sum());
    for topic in answer.topics {
        let topic_name: Arc<str> = Arc::from(topic.name.as_str());
        for partition in topic.partitions {
            let result = match partition.error_code {
                0 => Ok(LogOffset { offset: partition.offset, leader_epoch: partition.leader_epoch, leader }),
                code => Err(code),
            };
            offsets.push(((topic_name.clone(), partition.partition_index), result));
        }
    }
    offsets
}

/// Asks all leaders; a partition that nobody leads, or whose leader can't be asked, comes with an error code.
pub async fn list_all(
    cluster: &Arc<Cluster>,
    partitions: &[Partition],
    which: Which,
) -> BTreeMap<Partition, Result<LogOffset, i16>> {
    let metadata = cluster.metadata();
    let mut answers: BTreeMap<Partition, Result<LogOffset, i16>> =
        partitions.iter().map(|partition| (partition.clone(), Err(error_code::LEADER_NOT_AVAILABLE))).collect();
    let mut calls = tokio::task::JoinSet::new();
    for (leader, group) in by_leader(&metadata, partitions) {
        let cluster = Arc::clone(cluster);
        let group: Vec<Partition> = group.into_iter().cloned().collect();
        calls.spawn(async move {
            let group: Vec<&Partition> = group.iter().collect();
            list_offsets(&cluster, leader, &group, which).await
        });
    }
    while let Some(joined) = calls.join_next().await {
        if let Ok(Ok(offsets)) = joined {
            answers.extend(offsets);
        }
    }
    answers
}

/// Asks one broker where its log of an epoch ends (OffsetForLeaderEpoch, KIP-101 and KIP-320).
///
/// # Errors
/// Those of the call.
pub async fn epoch_ends(
    cluster: &Cluster,
    leader: i32,
    epochs: &[(Partition, i32)],
) -> Result<Vec<(Partition, Result<i64, i16>)>, ClientError> {
    let mut topics: BTreeMap<&Arc<str>, Vec<OffsetForLeaderPartition>> = BTreeMap::new();
    for ((topic, partition), epoch) in epochs {
        topics.entry(topic).or_default().push(
            OffsetForLeaderPartition::default()
                .with_partition(*partition)
                .with_current_leader_epoch(-1)
                .with_leader_epoch(*epoch),
        );
    }
    let request = OffsetForLeaderEpochRequest::default().with_replica_id(BrokerId(-1)).with_topics(
        topics
            .into_iter()
            .map(|(topic, partitions)| {
                OffsetForLeaderTopic::default().with_topic(name(topic)).with_partitions(partitions)
            })
            .collect(),
    );
    let answer = cluster.call(leader, &request).await?;
    let mut ends = Vec::with_capacity(epochs.len());
    for topic in answer.topics {
        let topic_name: Arc<str> = Arc::from(topic.topic.as_str());
        for partition in topic.partitions {
            let result = match partition.error_code {
                0 => Ok(partition.end_offset),
                code => Err(code),
            };
            ends.push(((topic_name.clone(), partition.partition), result));
        }
    }
    Ok(ends)
}

/// A topic's name as the protocol crate wants it.
pub fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_string()))
}
