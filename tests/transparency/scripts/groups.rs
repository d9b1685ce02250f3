//! Consumer groups: the classic protocol, KIP-848's, and that of Streams (KIP-1071).

use anyhow::{Context, Result};
use data_encoding::HEXLOWER;
use serde_json::{Value, json};

use crate::side::{Side, number, text};
use crate::world::{Coordinator, TOPIC};

const MEMBER_ID_REQUIRED: i64 = 79;

pub async fn play(side: &mut Side<'_>) -> Result<()> {
    let at = side.world.coordinator(Coordinator::Group, "a-group").await?;
    let elsewhere = side.world.eu.broker_ids().into_iter().find(|node_id| *node_id != at).context("one broker only")?;
    let topic_id = side.until_topic(TOPIC, 3).await?;
    side.learn(&topic_id, "the shared topic's id");
    for version in 0..=10 {
        classic(side, at, elsewhere, &topic_id, version).await.with_context(|| format!("versions {version}"))?;
    }
    for version in 0..=1 {
        if side.world.has("ConsumerGroupHeartbeat") {
            consumer(side, at, elsewhere, &topic_id, version).await.with_context(|| format!("KIP-848 {version}"))?;
        }
    }
    if side.world.has("StreamsGroupHeartbeat") {
        streams(side, at, elsewhere).await.context("KIP-1071")?;
    }
    Ok(())
}

/// A subscription of version 0: of the shared topic, without user data.
fn subscription() -> String {
    let name = TOPIC.as_bytes();
    let mut bytes = vec![0, 0, 0, 0, 0, 1, 0, TOPIC.len() as u8];
    bytes.extend(name);
    bytes.extend([0xff; 4]);
    HEXLOWER.encode(&bytes)
}

/// An assignment of version 0: both partitions of the shared topic.
fn assignment() -> String {
    let mut bytes = vec![0, 0, 0, 0, 0, 1, 0, TOPIC.len() as u8];
    bytes.extend(TOPIC.as_bytes());
    bytes.extend([0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1]);
    bytes.extend([0xff; 4]);
    HEXLOWER.encode(&bytes)
}

fn offsets(topic_id: &str, offset: i64) -> Value {
    let partition = |index: i32| json!({ "PartitionIndex": index, "CommittedOffset": offset, "CommittedLeaderEpoch": 0, "CommittedMetadata": "mine" });
    json!([{ "Name": TOPIC, "TopicId": topic_id, "Partitions": [partition(0), partition(1)] }])
}

/// As OffsetFetch asks: of one group, or of several (KIP-709).
fn committed(group: &str, topic_id: &str) -> Value {
    let topics = json!([{ "Name": TOPIC, "PartitionIndexes": [0, 1] }]);
    let named_or_by_id = json!([{ "Name": TOPIC, "TopicId": topic_id, "PartitionIndexes": [0, 1] }]);
    json!({ "GroupId": group, "Topics": topics, "Groups": [{ "GroupId": group, "Topics": named_or_by_id }], "RequireStable": true })
}

async fn classic(side: &mut Side<'_>, at: i32, elsewhere: i32, topic_id: &str, version: i16) -> Result<()> {
    let group = side.name(&format!("classic{version}"));
    let protocols = json!([{ "Name": "range", "Metadata": subscription() }]);
    let join = |member: &str| {
        json!({ "GroupId": group, "SessionTimeoutMs": 30_000, "RebalanceTimeoutMs": 30_000, "MemberId": member,
            "ProtocolType": "consumer", "Protocols": protocols, "Reason": "a test" })
    };
    let mut joined = side.ask(at, "JoinGroup", version, join("")).await?;
    let mut member = text(&joined["MemberId"])?;
    side.learn(&member, "the member");
    if number(&joined["ErrorCode"])? == MEMBER_ID_REQUIRED {
        joined = side.ask(at, "JoinGroup", version, join(&member)).await?;
        member = text(&joined["MemberId"])?;
    }
    let generation = number(&joined["GenerationId"])?;
    side.ask(elsewhere, "JoinGroup", version, join("")).await?;
    let sync = json!({ "GroupId": group, "GenerationId": generation, "MemberId": member, "ProtocolType": "consumer",
        "ProtocolName": "range", "Assignments": [{ "MemberId": member, "Assignment": assignment() }] });
    side.ask(at, "SyncGroup", version, sync).await?;
    for (node_id, generation) in [(at, generation), (at, generation + 7), (elsewhere, generation)] {
        let beat = json!({ "GroupId": group, "GenerationId": generation, "MemberId": member });
        side.ask(node_id, "Heartbeat", version, beat).await?;
    }
    for (node_id, generation) in [(at, generation), (at, generation + 7), (elsewhere, generation)] {
        let commit = json!({ "GroupId": group, "GenerationIdOrMemberEpoch": generation, "MemberId": member, "Topics": offsets(topic_id, 2) });
        side.ask(node_id, "OffsetCommit", version, commit).await?;
    }
    side.ask(at, "OffsetFetch", version, committed(&group, topic_id)).await?;
    side.ask(elsewhere, "OffsetFetch", version, committed(&group, topic_id)).await?;
    let described = json!({ "Groups": [group, "no-such"], "IncludeAuthorizedOperations": true });
    side.ask(at, "DescribeGroups", version, described.clone()).await?;
    side.ask(elsewhere, "DescribeGroups", version, described.clone()).await?;
    side.ask(at, "ListGroups", version, json!({ "StatesFilter": [], "TypesFilter": ["classic"] })).await?;
    let key = json!({ "Key": group, "KeyType": 0, "CoordinatorKeys": [group] });
    side.ask(elsewhere, "FindCoordinator", version, key).await?;
    // Still in use.
    side.ask(at, "DeleteGroups", version, json!({ "GroupsNames": [group] })).await?;
    let leave =
        json!({ "GroupId": group, "MemberId": member, "Members": [{ "MemberId": member, "Reason": "the end" }] });
    side.ask(at, "LeaveGroup", version, leave.clone()).await?;
    side.ask(at, "LeaveGroup", version, leave).await?;
    let partitions = json!([{ "PartitionIndex": 0 }, { "PartitionIndex": 9 }]);
    let delete = json!({ "GroupId": group, "Topics": [{ "Name": TOPIC, "Partitions": partitions }] });
    side.ask(at, "OffsetDelete", version, delete).await?;
    side.look(at, "OffsetFetch", committed(&group, topic_id)).await?;
    side.ask(at, "DeleteGroups", version, json!({ "GroupsNames": [group] })).await?;
    side.look(at, "DescribeGroups", described).await?;
    Ok(())
}

/// Asks a group's describing API about `group` and about none.
async fn described(side: &mut Side<'_>, api: &str, version: i16, nodes: [i32; 2], group: &str) -> Result<()> {
    for node_id in nodes {
        let fields = json!({ "GroupIds": [group, "no-such"], "IncludeAuthorizedOperations": true });
        side.ask(node_id, api, version, fields).await?;
    }
    Ok(())
}

async fn consumer(side: &mut Side<'_>, at: i32, elsewhere: i32, topic_id: &str, version: i16) -> Result<()> {
    let group = side.name(&format!("consumer{version}"));
    // Version 0 lets the broker choose, version 1 the member (KIP-1082).
    let mine = if version == 0 { String::new() } else { side.name("a-member") };
    let join = json!({ "GroupId": group, "MemberId": mine, "MemberEpoch": 0, "RebalanceTimeoutMs": 30_000,
        "SubscribedTopicNames": [TOPIC], "ServerAssignor": "uniform", "TopicPartitions": [] });
    let joined = side.ask(at, "ConsumerGroupHeartbeat", version, join.clone()).await?;
    side.ask(elsewhere, "ConsumerGroupHeartbeat", version, join.clone()).await?;
    let mut odd = join;
    odd["ServerAssignor"] = "no-such".into();
    side.ask(at, "ConsumerGroupHeartbeat", version, odd).await?;
    let Some(member) = joined["MemberId"].as_str() else {
        // A release that does not have the protocol switched on.
        return described(side, "ConsumerGroupDescribe", version, [at, elsewhere], &group).await;
    };
    side.learn(member, "the member");
    let epoch = number(&joined["MemberEpoch"])?;
    let beat = |epoch: i64| json!({ "GroupId": group, "MemberId": member, "MemberEpoch": epoch });
    side.ask(at, "ConsumerGroupHeartbeat", version, beat(epoch)).await?;
    side.ask(at, "ConsumerGroupHeartbeat", version, beat(epoch + 7)).await?;
    for (commits, epoch) in [(9, epoch), (10, epoch), (9, epoch + 7)] {
        let commit = json!({ "GroupId": group, "GenerationIdOrMemberEpoch": epoch, "MemberId": member, "Topics": offsets(topic_id, 1) });
        side.ask(at, "OffsetCommit", commits, commit).await?;
    }
    let mut wanted = committed(&group, topic_id);
    wanted["Groups"][0]["MemberId"] = member.into();
    wanted["Groups"][0]["MemberEpoch"] = epoch.into();
    for version in 8..=10 {
        side.ask(at, "OffsetFetch", version, wanted.clone()).await?;
    }
    described(side, "ConsumerGroupDescribe", version, [at, elsewhere], &group).await?;
    side.ask(at, "ListGroups", 5, json!({ "StatesFilter": [], "TypesFilter": ["consumer"] })).await?;
    side.ask(at, "ConsumerGroupHeartbeat", version, beat(-1)).await?;
    side.look(at, "ConsumerGroupDescribe", json!({ "GroupIds": [group] })).await?;
    Ok(())
}

async fn streams(side: &mut Side<'_>, at: i32, elsewhere: i32) -> Result<()> {
    let group = side.name("streams");
    let member = side.name("a-member");
    let join = json!({ "GroupId": group, "MemberId": member, "MemberEpoch": 0, "RebalanceTimeoutMs": 30_000,
        "Topology": { "Epoch": 0, "Subtopologies": [{ "SubtopologyId": "0", "SourceTopics": [TOPIC] }] },
        "ActiveTasks": [], "StandbyTasks": [], "WarmupTasks": [], "ProcessId": "a-process",
        // An application's own address, for its other instances: nothing to be rewritten.
        "UserEndpoint": { "Host": "an-application.internal", "Port": 7_777 }, "ClientTags": [] });
    side.ask(elsewhere, "StreamsGroupHeartbeat", 0, join.clone()).await?;
    let joined = side.ask(at, "StreamsGroupHeartbeat", 0, join).await?;
    let epoch = number(&joined["MemberEpoch"])?;
    let beat = |epoch: i64| json!({ "GroupId": group, "MemberId": member, "MemberEpoch": epoch });
    side.ask(at, "StreamsGroupHeartbeat", 0, beat(epoch + 7)).await?;
    described(side, "StreamsGroupDescribe", 0, [at, elsewhere], &group).await?;
    side.ask(at, "StreamsGroupHeartbeat", 0, beat(-1)).await?;
    side.look(at, "StreamsGroupDescribe", json!({ "GroupIds": [group] })).await?;
    Ok(())
}
