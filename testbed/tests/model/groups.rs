//! Committed offsets, and the members of a group.

use anyhow::Result;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::{
    BrokerId, FindCoordinatorRequest, GroupId, OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest,
    OffsetFetchResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::pair::{Pair, topic_name};

pub fn group(name: &str) -> GroupId {
    GroupId(StrBytes::from_string(name.to_owned()))
}

/// The coordinator of a group in each, once it is awake.
pub async fn coordinators(pair: &mut Pair, name: &str) -> Result<(i32, i32)> {
    let request = FindCoordinatorRequest::default().with_key(group(name).0);
    let found = pair.kafka.until(1, &request, 3, |answer| answer.error_code == 0).await?;
    let modelled = pair.modelled.call(1, &request, 3).await?;
    let asleep = |answer: &OffsetFetchResponse| matches!(answer.error_code, 14..=16);
    let fetch = OffsetFetchRequest::default().with_group_id(group(name)).with_topics(None);
    pair.kafka.until(found.node_id.0, &fetch, 7, |answer| !asleep(answer)).await?;
    pair.same(1, &request, 3, |answer| {
        answer.node_id = BrokerId(0);
        answer.host = StrBytes::default();
        answer.port = 0;
        answer.throttle_time_ms = 0;
        answer.error_message = None;
    })
    .await?;
    Ok((found.node_id.0, modelled.node_id.0))
}

fn committing(group_name: &str, topic: &str, partition: i32, offset: i64, metadata: &str) -> OffsetCommitRequest {
    let committed = OffsetCommitRequestPartition::default()
        .with_partition_index(partition)
        .with_committed_offset(offset)
        .with_committed_leader_epoch(if offset % 2 == 0 { 3 } else { -1 })
        .with_committed_metadata(Some(StrBytes::from_string(metadata.to_owned())));
    let topic = OffsetCommitRequestTopic::default().with_name(topic_name(topic)).with_partitions(vec![committed]);
    OffsetCommitRequest::default()
        .with_group_id(group(group_name))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic])
}

fn committed(group_name: &str, topics: &[(&str, i32)]) -> OffsetFetchRequest {
    let topics = topics.iter().map(|(topic, partitions)| {
        OffsetFetchRequestTopic::default()
            .with_name(topic_name(topic))
            .with_partition_indexes((0..*partitions).collect())
    });
    OffsetFetchRequest::default().with_group_id(group(group_name)).with_topics(Some(topics.collect()))
}

/// Offsets that are committed without a member, as long as the group has none.
pub async fn offsets(pair: &mut Pair) -> Result<()> {
    let at = coordinators(pair, "offsets").await?;
    let no_throttle = |answer: &mut OffsetCommitResponse| answer.throttle_time_ms = 0;
    for (topic, partition, offset, metadata) in [
        ("two", 0, 7, "seven"),
        ("two", 1, 0, ""),
        ("two", 0, 8, "eight"),
        ("two", 0, 4, "back to four"),
        ("two", 99, 1, "no such partition"),
        ("unknown", 0, 1, "no such topic"),
    ] {
        let request = committing("offsets", topic, partition, offset, metadata);
        pair.same_at(at, &request, &request, 8, no_throttle).await?;
    }
    let long = committing("offsets", "two", 0, 9, &"x".repeat(4097));
    pair.same_at(at, &long, &long, 8, no_throttle).await?;
    for request in [committed("offsets", &[("two", 4), ("unknown", 1)]), committed("another", &[("two", 1)])] {
        let at = if request.group_id == group("another") { coordinators(pair, "another").await? } else { at };
        pair.same_at(at, &request, &request, 7, |answer: &mut OffsetFetchResponse| answer.throttle_time_ms = 0).await?;
    }
    Ok(())
}
