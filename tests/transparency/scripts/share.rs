//! Share groups (KIP-932): members, fetching and acknowledging, offsets, and the states that their coordinator keeps.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::common::PATIENCE;
use crate::side::Side;
use crate::world::{Coordinator, TOPIC};

const RESOURCE_GROUP: i8 = 32;
/// Leader of partition 0, and another broker.
const LEADER: i32 = 1;
const ANOTHER: i32 = 2;
/// After so many fetches that found nothing, half a second each, a session is opened anew.
const FETCHES_OF_A_SESSION: i64 = 20;

pub async fn play(side: &mut Side<'_>) -> Result<()> {
    let topic_id = side.until_topic(TOPIC, 3).await?;
    side.learn(&topic_id, "the shared topic's id");
    if side.world.has("ShareFetch") {
        let at = side.world.coordinator(Coordinator::Group, "a-group").await?;
        for version in 1..=2 {
            members(side, at, &topic_id, version).await.with_context(|| format!("versions {version}"))?;
        }
    }
    if side.world.has("ReadShareGroupState") {
        let at = side.world.coordinator(Coordinator::Share, &side.world.share_key().await?).await?;
        for version in 0..=1 {
            states(side, at, &topic_id, version).await.with_context(|| format!("states {version}"))?;
        }
    }
    Ok(())
}

async fn members(side: &mut Side<'_>, at: i32, topic_id: &str, version: i16) -> Result<()> {
    let group = side.name(&format!("share{version}"));
    let elsewhere = side.world.eu.broker_ids().into_iter().find(|node_id| *node_id != at).context("one broker only")?;
    // A member's id is a UUID in Kafka's notation, which says nothing of its side.
    let member = BASE64URL_NOPAD.encode(uuid::Uuid::new_v4().as_bytes());
    side.learn(&member, "the member");
    let configs = json!([{ "Name": "share.auto.offset.reset", "ConfigOperation": 0, "Value": "earliest" }]);
    let resource = json!({ "ResourceType": RESOURCE_GROUP, "ResourceName": group, "Configs": configs });
    side.ask(at, "IncrementalAlterConfigs", version, json!({ "Resources": [resource] })).await?;
    let beat = |epoch: i64, topics: Value| json!({ "GroupId": group, "MemberId": member, "MemberEpoch": epoch, "SubscribedTopicNames": topics });
    side.ask(elsewhere, "ShareGroupHeartbeat", version, beat(0, json!([TOPIC]))).await?;
    side.ask(at, "ShareGroupHeartbeat", version, beat(0, json!([TOPIC]))).await?;
    assigned(side, at, version, &group, &member).await?;
    // Where a group begins depends on when its settings arrive; so it is set, which only an empty group allows.
    side.ask(at, "ShareGroupHeartbeat", version, beat(-1, json!(null))).await?;
    let partitions = json!([{ "PartitionIndex": 0, "StartOffset": 0 }]);
    let from_the_start = json!({ "GroupId": group, "Topics": [{ "TopicName": TOPIC, "Partitions": partitions }] });
    let set = |answer: &Value| answer["ErrorCode"] == 0 && answer["Responses"][0]["Partitions"][0]["ErrorCode"] == 0;
    side.ask_until(at, "AlterShareGroupOffsets", 0, from_the_start, set).await?;
    side.ask(at, "ShareGroupHeartbeat", version, beat(0, json!([TOPIC]))).await?;
    assigned(side, at, version, &group, &member).await?;
    let deadline = Instant::now() + PATIENCE;
    side.ask(at, "ShareGroupHeartbeat", version, beat(77, json!(null))).await?;
    for node_id in [at, elsewhere] {
        let fields = json!({ "GroupIds": [group, "no-such"], "IncludeAuthorizedOperations": true });
        side.ask(node_id, "ShareGroupDescribe", version, fields).await?;
    }

    let fetch = |epoch: i64, partition: i32, acknowledged: Value| {
        let partition = json!({ "PartitionIndex": partition, "AcknowledgementBatches": acknowledged });
        json!({ "GroupId": group, "MemberId": member, "ShareSessionEpoch": epoch, "MaxWaitMs": 500, "MinBytes": 1, "MaxBytes": 1 << 20,
            "MaxRecords": 1, "BatchSize": 1, "Topics": [{ "TopicId": topic_id, "Partitions": [partition] }] })
    };
    // Led by another, with its address; and its session, which is open all the same.
    side.ask(ANOTHER, "ShareFetch", version, fetch(0, 0, json!([]))).await?;
    let none = json!([{ "FirstOffset": 0, "LastOffset": 0, "AcknowledgeTypes": [1] }]);
    let acknowledge = |epoch: i64, batches: &Value| {
        let partition = json!({ "PartitionIndex": 0, "AcknowledgementBatches": batches });
        json!({ "GroupId": group, "MemberId": member, "ShareSessionEpoch": epoch, "Topics": [{ "TopicId": topic_id, "Partitions": [partition] }] })
    };
    side.ask(ANOTHER, "ShareAcknowledge", version, acknowledge(1, &none)).await?;
    side.ask(ANOTHER, "ShareAcknowledge", version, acknowledge(7, &none)).await?;

    // The first fetches find nothing yet: the leader still asks for the partition's state. Where that has failed, a session that is opened anew has it ask again.
    let mut epoch = 0;
    let mut answers = BTreeSet::new();
    let mut acquired = loop {
        let answer = side.attempt(LEADER, "ShareFetch", version, &fetch(epoch, 0, json!([]))).await?;
        answers.insert(answer.to_string());
        ensure!(Instant::now() < deadline, "nothing is acquired: {answers:#?}");
        epoch += 1;
        let acquired = answer["Responses"][0]["Partitions"][0]["AcquiredRecords"].clone();
        if acquired.as_array().is_some_and(|acquired| !acquired.is_empty()) {
            break acquired;
        }
        if epoch == FETCHES_OF_A_SESSION {
            epoch = 0;
        }
    };
    for _ in 0..2 {
        let batch = json!([{ "FirstOffset": acquired[0]["FirstOffset"], "LastOffset": acquired[0]["LastOffset"], "AcknowledgeTypes": [1] }]);
        let answer = side.ask(LEADER, "ShareFetch", version, fetch(epoch, 0, batch)).await?;
        epoch += 1;
        acquired = answer["Responses"][0]["Partitions"][0]["AcquiredRecords"].clone();
    }
    let batch = json!([{ "FirstOffset": acquired[0]["FirstOffset"], "LastOffset": acquired[0]["LastOffset"], "AcknowledgeTypes": [2] }]);
    side.ask(LEADER, "ShareAcknowledge", version, acknowledge(epoch, &batch)).await?;
    side.ask(LEADER, "ShareAcknowledge", version, acknowledge(epoch + 1, &batch)).await?;
    side.ask(LEADER, "ShareAcknowledge", version, acknowledge(-1, &json!([]))).await?;

    side.ask(at, "ShareGroupHeartbeat", version, beat(-1, json!(null))).await?;
    for version in 0..=1 {
        let topics = json!([{ "TopicName": TOPIC, "Partitions": [0] }, { "TopicName": "no-such", "Partitions": [0] }]);
        for node_id in [at, elsewhere] {
            let fields =
                json!({ "Groups": [{ "GroupId": group, "Topics": topics }, { "GroupId": "no-such", "Topics": null }] });
            side.ask(node_id, "DescribeShareGroupOffsets", version, fields).await?;
        }
    }
    let partitions = json!([{ "PartitionIndex": 0, "StartOffset": 1 }]);
    let alter = json!({ "GroupId": group, "Topics": [{ "TopicName": TOPIC, "Partitions": partitions }] });
    let delete = json!({ "GroupId": group, "Topics": [{ "TopicName": TOPIC }] });
    for node_id in [elsewhere, at] {
        side.ask(node_id, "AlterShareGroupOffsets", 0, alter.clone()).await?;
    }
    let topics = json!([{ "TopicName": TOPIC, "Partitions": [0] }]);
    side.look(at, "DescribeShareGroupOffsets", json!({ "Groups": [{ "GroupId": group, "Topics": topics }] })).await?;
    for node_id in [elsewhere, at] {
        side.ask(node_id, "DeleteShareGroupOffsets", 0, delete.clone()).await?;
    }
    side.look(at, "DescribeShareGroupOffsets", json!({ "Groups": [{ "GroupId": group, "Topics": topics }] })).await?;
    Ok(())
}

/// Waits until the member has partitions: the coordinator assigns them when their state is there. Written down is nothing.
async fn assigned(side: &mut Side<'_>, at: i32, version: i16, group: &str, member: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut beat = json!({ "GroupId": group, "MemberId": member, "MemberEpoch": 0, "SubscribedTopicNames": [TOPIC] });
    loop {
        let answer = side.attempt(at, "ShareGroupHeartbeat", version, &beat).await?;
        if answer["Assignment"]["TopicPartitions"].as_array().is_some_and(|there| !there.is_empty()) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "nothing is assigned: {answer}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        beat["MemberEpoch"] = answer["MemberEpoch"].clone();
        beat["SubscribedTopicNames"] = json!(null);
    }
}

/// What brokers ask each other. A client may, if it has the rights of a cluster's own.
async fn states(side: &mut Side<'_>, at: i32, topic_id: &str, version: i16) -> Result<()> {
    let group = side.name(&format!("states{version}"));
    let of =
        |partition: Value| json!({ "GroupId": group, "Topics": [{ "TopicId": topic_id, "Partitions": [partition] }] });
    let batches = json!([{ "FirstOffset": 1, "LastOffset": 2, "DeliveryState": 0, "DeliveryCount": 1 }]);
    let requests = [
        ("InitializeShareGroupState", json!({ "Partition": 0, "StateEpoch": 1, "StartOffset": 1 })),
        ("ReadShareGroupState", json!({ "Partition": 0, "LeaderEpoch": 1 })),
        (
            "WriteShareGroupState",
            json!({ "Partition": 0, "StateEpoch": 1, "LeaderEpoch": 1, "StartOffset": 1, "StateBatches": batches }),
        ),
        (
            "WriteShareGroupState",
            json!({ "Partition": 0, "StateEpoch": 0, "LeaderEpoch": 1, "StartOffset": 1, "StateBatches": batches }),
        ),
        ("ReadShareGroupState", json!({ "Partition": 0, "LeaderEpoch": 1 })),
        ("ReadShareGroupStateSummary", json!({ "Partition": 0, "LeaderEpoch": 1 })),
        ("DeleteShareGroupState", json!({ "Partition": 0 })),
        ("ReadShareGroupStateSummary", json!({ "Partition": 0, "LeaderEpoch": 1 })),
    ];
    let elsewhere = side.world.eu.broker_ids().into_iter().find(|node_id| *node_id != at).context("one broker only")?;
    for (api, partition) in requests {
        side.ask(elsewhere, api, version, of(partition.clone())).await?;
        side.ask(at, api, version, of(partition)).await?;
    }
    Ok(())
}
