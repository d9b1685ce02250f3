//! Committed offsets, and the members of a group.

use anyhow::{Context, Result};
use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    BrokerId, DescribeGroupsRequest, DescribeGroupsResponse, FindCoordinatorRequest, GroupId, HeartbeatRequest,
    HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse, OffsetCommitRequest,
    OffsetCommitResponse, OffsetFetchRequest, OffsetFetchResponse, SyncGroupRequest, SyncGroupResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::pair::{Pair, REBALANCE_DELAY_MS, topic_name};

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

/// The name of the group whose members come and go.
const MEMBERS: &str = "members";
/// The name under which its first member joins.
const NAME: &str = "first";

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn joining(member_id: &str, instance: &str) -> JoinGroupRequest {
    let protocol =
        JoinGroupRequestProtocol::default().with_name(text("assignor")).with_metadata(Bytes::from_static(b"says"));
    JoinGroupRequest::default()
        .with_group_id(group(MEMBERS))
        .with_session_timeout_ms(30_000)
        .with_rebalance_timeout_ms(30_000)
        .with_member_id(text(member_id))
        .with_group_instance_id(Some(text(instance)))
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol])
}

fn syncing(member_id: &str, generation: i32) -> SyncGroupRequest {
    let share = SyncGroupRequestAssignment::default()
        .with_member_id(text(member_id))
        .with_assignment(Bytes::from_static(b"share"));
    SyncGroupRequest::default()
        .with_group_id(group(MEMBERS))
        .with_generation_id(generation)
        .with_member_id(text(member_id))
        .with_group_instance_id(Some(text(NAME)))
        .with_protocol_type(Some(text("consumer")))
        .with_protocol_name(Some(text("assignor")))
        .with_assignments(vec![share])
}

fn beating(member_id: &str, instance: Option<&str>, generation: i32) -> HeartbeatRequest {
    HeartbeatRequest::default()
        .with_group_id(group(MEMBERS))
        .with_generation_id(generation)
        .with_member_id(text(member_id))
        .with_group_instance_id(instance.map(text))
}

fn committing_as(member_id: &str, instance: Option<&str>, generation: i32) -> OffsetCommitRequest {
    committing(MEMBERS, "two", 0, 5, "five")
        .with_generation_id_or_member_epoch(generation)
        .with_member_id(text(member_id))
        .with_group_instance_id(instance.map(text))
}

/// What each cluster chooses, and what is for people.
fn described(answer: &mut DescribeGroupsResponse) {
    for group in &mut answer.groups {
        group.error_message = None;
        for member in &mut group.members {
            (member.member_id, member.client_id, member.client_host) = Default::default();
        }
    }
}

fn joined(answer: &mut JoinGroupResponse) {
    answer.throttle_time_ms = 0;
    (answer.leader, answer.member_id) = Default::default();
    answer.members.iter_mut().for_each(|member| member.member_id = StrBytes::default());
}

/// Who may commit what, and what is told of a group, from before its first join until its last member has left.
pub async fn members(pair: &mut Pair) -> Result<()> {
    let at = coordinators(pair, MEMBERS).await?;
    let describe = DescribeGroupsRequest::default().with_groups(vec![group(MEMBERS)]);
    let as_nobody = committing_as("", None, -1);
    let committed = |answer: &mut OffsetCommitResponse| answer.throttle_time_ms = 0;
    let beaten = |answer: &mut HeartbeatResponse| answer.throttle_time_ms = 0;
    pair.same_at(at, &describe, &describe, 5, described).await?;
    pair.same_at(at, &as_nobody, &as_nobody, 8, committed).await?;
    pair.same_at(at, &describe, &describe, 5, described).await?;

    // A first join, which waits for others. From when it has arrived on nobody commits without being a member, though the group has no generation yet.
    let since = std::time::Instant::now();
    let waiting = [(&pair.kafka, at.0), (&pair.modelled, at.1)].map(|(side, node_id)| {
        let address = side.address(node_id);
        tokio::spawn(
            async move { diffluent_testbed::Call::connect(&address?).await?.call(&joining("", NAME), 7).await },
        )
    });
    let refused = |answer: &OffsetCommitResponse| answer.topics[0].partitions[0].error_code != 0;
    pair.kafka.until(at.0, &as_nobody, 8, refused).await?;
    pair.modelled.until(at.1, &as_nobody, 8, refused).await?;
    pair.same_at(at, &as_nobody, &as_nobody, 8, committed).await?;
    pair.same_at(at, &describe, &describe, 5, described).await?;
    for request in
        [committing_as("nobody", None, -1), committing_as("nobody", None, 0), committing_as("", Some(NAME), -1)]
    {
        pair.same_at(at, &request, &request, 8, committed).await?;
    }
    for request in [beating("nobody", Some(NAME), 0), beating("nobody", None, 0), beating("nobody", Some("another"), 0)]
    {
        pair.same_at(at, &request, &request, 4, beaten).await?;
    }
    let waited = since.elapsed().as_millis();
    anyhow::ensure!(waited < REBALANCE_DELAY_MS.into(), "too slow: the join waits no longer after {waited} ms");
    let [kafka, modelled] = waiting;
    let (mut kafka, mut modelled) = (kafka.await??, modelled.await??);
    let (one, other) = (kafka.member_id.to_string(), modelled.member_id.to_string());
    joined(&mut kafka);
    joined(&mut modelled);
    if kafka != modelled {
        pair.differ(format!("the first join: Kafka says {kafka:?}, the model {modelled:?}"));
    }
    let generation = kafka.generation_id;

    // A generation without assignments, and with them.
    for (synced, phase) in [(false, "before the assignments"), (true, "with assignments")] {
        if synced {
            let synced = |answer: &mut SyncGroupResponse| answer.throttle_time_ms = 0;
            pair.same_at(at, &syncing(&one, generation), &syncing(&other, generation), 5, synced).await?;
        }
        pair.same_at(at, &describe, &describe, 5, described).await?;
        pair.same_at(at, &as_nobody, &as_nobody, 8, committed).await?;
        for (instance, generation) in
            [(None, generation), (Some(NAME), generation), (Some(NAME), generation - 1), (Some(NAME), generation + 1)]
        {
            let (kafka, modelled) =
                (committing_as(&one, instance, generation), committing_as(&other, instance, generation));
            pair.same_at(at, &kafka, &modelled, 8, committed).await.context(phase)?;
            let (kafka, modelled) = (beating(&one, instance, generation), beating(&other, instance, generation));
            pair.same_at(at, &kafka, &modelled, 4, beaten).await.context(phase)?;
        }
    }

    // Somebody else joins, and waits for the first one, whose old generation counts until then.
    let waiting = [(&pair.kafka, at.0), (&pair.modelled, at.1)].map(|(side, node_id)| {
        let address = side.address(node_id);
        tokio::spawn(
            async move { diffluent_testbed::Call::connect(&address?).await?.call(&joining("", "second"), 7).await },
        )
    });
    pair.kafka.until(at.0, &beating(&one, Some(NAME), generation), 4, |answer| answer.error_code == 27).await?;
    pair.modelled.until(at.1, &beating(&other, Some(NAME), generation), 4, |answer| answer.error_code == 27).await?;
    pair.same_at(at, &describe, &describe, 5, described).await?;
    let (kafka, modelled) =
        (committing_as(&one, Some(NAME), generation), committing_as(&other, Some(NAME), generation));
    pair.same_at(at, &kafka, &modelled, 8, committed).await?;
    pair.same_at(at, &as_nobody, &as_nobody, 8, committed).await?;

    // The first one leaves instead; then the second one, which is told its generation.
    let leave = |member_id: &str, instance| {
        let member =
            MemberIdentity::default().with_member_id(text(member_id)).with_group_instance_id(Some(text(instance)));
        LeaveGroupRequest::default().with_group_id(group(MEMBERS)).with_members(vec![member])
    };
    let left = |answer: &mut LeaveGroupResponse| {
        answer.throttle_time_ms = 0;
        answer.members.iter_mut().for_each(|member| member.member_id = StrBytes::default());
    };
    pair.same_at(at, &leave(&one, NAME), &leave(&other, NAME), 4, left).await?;
    let [kafka, modelled] = waiting;
    let (mut kafka, mut modelled) = (kafka.await??, modelled.await??);
    let (one, other) = (kafka.member_id.to_string(), modelled.member_id.to_string());
    joined(&mut kafka);
    joined(&mut modelled);
    if kafka != modelled {
        pair.differ(format!("the second one's join: Kafka says {kafka:?}, the model {modelled:?}"));
    }
    pair.same_at(at, &leave(&one, "second"), &leave(&other, "second"), 4, left).await?;
    pair.same_at(at, &leave(&one, "second"), &leave(&other, "second"), 4, left).await?;
    pair.same_at(at, &describe, &describe, 5, described).await?;
    let (kafka, modelled) = (committing_as(&one, Some("second"), 2), committing_as(&other, Some("second"), 2));
    pair.same_at(at, &kafka, &modelled, 8, committed).await?;
    pair.same_at(at, &as_nobody, &as_nobody, 8, committed).await?;
    Ok(())
}
