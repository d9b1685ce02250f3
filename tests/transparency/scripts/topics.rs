//! A topic's life, from its creation to its end, with all that is written to it and read from it.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::records::{ANYBODY, hexadecimal};
use crate::side::{Side, number, text};

const RESOURCE_TOPIC: i8 = 2;
/// Led by broker 1, and by broker 2.
const FIRST: i32 = 1;
const SECOND: i32 = 2;

pub async fn play(side: &mut Side<'_>) -> Result<()> {
    // As far as Fetch goes.
    for version in 0..=18 {
        life(side, version).await.with_context(|| format!("versions {version}"))?;
    }
    Ok(())
}

async fn life(side: &mut Side<'_>, version: i16) -> Result<()> {
    let topic = side.name(&format!("topic{version}"));
    let id = created(side, &topic, version).await?;
    written(side, &topic, &id, version).await?;
    read(side, &topic, &id, version).await?;
    // The highest version of all that follows.
    if version <= 7 {
        changed(side, &topic, version).await?;
        cut_and_moved(side, &topic, version).await?;
    }
    deleted(side, &topic, &id, version).await
}

async fn created(side: &mut Side<'_>, topic: &str, version: i16) -> Result<String> {
    let assignments =
        json!([{ "PartitionIndex": 0, "BrokerIds": [FIRST] }, { "PartitionIndex": 1, "BrokerIds": [SECOND] }]);
    let wanted = |name: &str| {
        json!({ "Name": name, "NumPartitions": -1, "ReplicationFactor": -1, "Assignments": assignments,
            "Configs": [{ "Name": "retention.ms", "Value": "-1" }] })
    };
    // That it is there already, and that there is no such name, are answers too.
    let fields = json!({ "Topics": [wanted(topic)], "timeoutMs": 30_000, "validateOnly": false });
    side.ask(FIRST, "CreateTopics", version, fields.clone()).await?;
    let id = side.until_topic(topic, 2).await?;
    side.learn(&id, "the topic's id");
    side.ask(SECOND, "CreateTopics", version, fields).await?;
    let fields = json!({ "Topics": [wanted("no such name")], "timeoutMs": 30_000, "validateOnly": true });
    side.ask(FIRST, "CreateTopics", version, fields).await?;
    side.ask(SECOND, "Metadata", version, json!({ "Topics": [{ "Name": topic }], "AllowAutoTopicCreation": false }))
        .await?;
    if version >= 12 {
        let by_id = json!([{ "Name": null, "TopicId": id }]);
        side.ask(FIRST, "Metadata", version, json!({ "Topics": by_id, "AllowAutoTopicCreation": false })).await?;
    }
    Ok(id)
}

async fn changed(side: &mut Side<'_>, topic: &str, version: i16) -> Result<()> {
    let grown = |count: i32| {
        json!({ "Topics": [{ "Name": topic, "Count": count, "Assignments": [{ "BrokerIds": [FIRST] }] }],
            "TimeoutMs": 30_000, "ValidateOnly": false })
    };
    side.ask(SECOND, "CreatePartitions", version, grown(3)).await?;
    side.until_topic(topic, 3).await?;
    side.ask(FIRST, "CreatePartitions", version, grown(2)).await?;

    let resource =
        |configs: Value| json!([{ "ResourceType": RESOURCE_TOPIC, "ResourceName": topic, "Configs": configs }]);
    let configs = json!([{ "Name": "max.message.bytes", "ConfigOperation": 0, "Value": "2000000" }]);
    let fields = json!({ "Resources": resource(configs), "ValidateOnly": false });
    side.ask(FIRST, "IncrementalAlterConfigs", version, fields).await?;
    let odd = json!([{ "Name": "no.such.key", "ConfigOperation": 0, "Value": "1" }]);
    let fields = json!({ "Resources": resource(odd), "ValidateOnly": false });
    side.ask(SECOND, "IncrementalAlterConfigs", version, fields).await?;
    let configs = json!([{ "Name": "segment.bytes", "Value": "20000000" }]);
    let fields = json!({ "Resources": resource(configs), "ValidateOnly": false });
    side.ask(SECOND, "AlterConfigs", version, fields).await?;
    let described =
        json!({ "Resources": [{ "ResourceType": RESOURCE_TOPIC, "ResourceName": topic, "ConfigurationKeys": null }] });
    let has = |answer: &Value| answer.to_string().contains("\"20000000\"");
    side.look_until(FIRST, "DescribeConfigs", described.clone(), has).await?;
    side.look_until(SECOND, "DescribeConfigs", described, has).await?;
    Ok(())
}

/// Only where the release still knows the version: a broker of 4.0 and later offers Produce 0 to 2 and refuses them (KAFKA-18659).
async fn written(side: &mut Side<'_>, topic: &str, id: &str, version: i16) -> Result<()> {
    let records = hexadecimal(version, b"a value", ANYBODY)?;
    let request = |topic: &str, acks: i16, partition: i32, records: &str| {
        json!({ "Acks": acks, "TimeoutMs": 10_000,
            "TopicData": [{ "Name": topic, "TopicId": id, "PartitionData": [{ "Index": partition, "Records": records }] }] })
    };
    // Whoever metadata calls the leader may not have taken office yet.
    let in_office = |answer: &Value| answer["Responses"][0]["PartitionResponses"][0]["ErrorCode"] != 6;
    for acks in [-1, 1, -1] {
        side.ask_until(FIRST, "Produce", version, request(topic, acks, 0, &records), in_office).await?;
    }
    // None of these has an answer; the one behind them has. From 4.0 on, brokers end the connection at versions that they only pretend to have.
    if side.world.definitions.named("Produce")?.has(side.version("Produce", version)?) {
        side.tell(FIRST, "Produce", version, request(topic, 0, 0, &records)).await?;
        side.tell(FIRST, "Produce", version, request(topic, 0, 0, &records)).await?;
        side.ask(FIRST, "Produce", version, request(topic, 1, 0, &records)).await?;
    }
    // Led by another (with its address, from version 10 on: KIP-951), not there, acks that make no sense, records that are none.
    side.ask(SECOND, "Produce", version, request(topic, -1, 0, &records)).await?;
    side.ask(FIRST, "Produce", version, request(topic, -1, 9, &records)).await?;
    side.ask(FIRST, "Produce", version, request(topic, 7, 0, &records)).await?;
    side.ask(FIRST, "Produce", version, request(topic, -1, 0, "0102030405")).await?;
    let broken = records.get(..records.len() - 2).context("a short batch")?;
    side.ask(FIRST, "Produce", version, request(topic, -1, 0, &format!("{broken}77"))).await?;
    Ok(())
}

async fn read(side: &mut Side<'_>, topic: &str, id: &str, version: i16) -> Result<()> {
    let at_time = |timestamp: i64, epoch: i32| {
        let partition = json!({ "PartitionIndex": 0, "Timestamp": timestamp, "CurrentLeaderEpoch": epoch });
        json!({ "ReplicaId": -1, "Topics": [{ "Name": topic, "Partitions": [partition] }], "TimeoutMs": 10_000 })
    };
    // Latest, earliest, the highest timestamp, local and tiered ones, one of a time, one of a wrong epoch.
    for (timestamp, epoch) in [(-1, -1), (-2, -1), (-3, -1), (-4, -1), (-5, -1), (1_600_000_000_000, 0), (-1, 77)] {
        side.ask(FIRST, "ListOffsets", version, at_time(timestamp, epoch)).await?;
    }
    side.ask(SECOND, "ListOffsets", version, at_time(-1, -1)).await?;

    let request = |offset: i64, epoch: i32, max_bytes: i32| {
        let partition = json!({ "Partition": 0, "CurrentLeaderEpoch": epoch, "FetchOffset": offset, "PartitionMaxBytes": max_bytes });
        json!({ "ReplicaId": -1, "MaxWaitMs": 100, "MinBytes": 1, "MaxBytes": 1 << 20, "IsolationLevel": 1, "SessionEpoch": -1,
            "Topics": [{ "Topic": topic, "TopicId": id, "Partitions": [partition] }] })
    };
    side.ask(FIRST, "Fetch", version, request(0, -1, 1 << 20)).await?;
    side.ask(FIRST, "Fetch", version, request(1, 0, 10)).await?;
    // Behind the end; of an epoch that is to come; led by another (with its address, from version 16 on: KIP-951).
    side.ask(FIRST, "Fetch", version, request(1_000, -1, 1 << 20)).await?;
    side.ask(FIRST, "Fetch", version, request(0, 77, 1 << 20)).await?;
    side.ask(SECOND, "Fetch", version, request(0, -1, 1 << 20)).await?;
    if side.version("Fetch", version)? >= 7 {
        // In a session (KIP-227).
        let mut fields = request(0, -1, 1 << 20);
        fields["SessionEpoch"] = 0.into();
        let answer = side.ask(FIRST, "Fetch", version, fields.clone()).await?;
        fields["SessionId"] = answer["SessionId"].clone();
        fields["SessionEpoch"] = 1.into();
        fields["Topics"] = json!([]);
        side.ask(FIRST, "Fetch", version, fields.clone()).await?;
        fields["SessionEpoch"] = 7.into();
        side.ask(FIRST, "Fetch", version, fields).await?;
    }
    let fields = json!({ "ReplicaId": -1, "Topics": [{ "Topic": topic, "Partitions": [{ "Partition": 0, "LeaderEpoch": 0 }] }] });
    side.ask(FIRST, "OffsetForLeaderEpoch", version, fields.clone()).await?;
    side.ask(SECOND, "OffsetForLeaderEpoch", version, fields).await?;
    side.ask(FIRST, "DescribeProducers", version, json!({ "Topics": [{ "Name": topic, "PartitionIndexes": [0, 1] }] }))
        .await?;
    Ok(())
}

async fn cut_and_moved(side: &mut Side<'_>, topic: &str, version: i16) -> Result<()> {
    let cut = |offset: i64| {
        let partitions = json!([{ "PartitionIndex": 0, "Offset": offset }]);
        json!({ "Topics": [{ "Name": topic, "Partitions": partitions }], "TimeoutMs": 10_000 })
    };
    let wrote = side.world.definitions.named("Produce")?.has(side.version("Produce", version)?);
    side.ask(FIRST, "DeleteRecords", version, cut(i64::from(wrote))).await?;
    side.ask(FIRST, "DeleteRecords", version, cut(1_000)).await?;
    side.ask(SECOND, "DeleteRecords", version, cut(1)).await?;
    let earliest = json!({ "PartitionIndex": 0, "Timestamp": -2 });
    side.look(
        FIRST,
        "ListOffsets",
        json!({ "ReplicaId": -1, "Topics": [{ "Name": topic, "Partitions": [earliest] }] }),
    )
    .await?;

    let dirs = json!({ "Topics": [{ "Topic": topic, "Partitions": [0, 2] }] });
    let told = side.ask(FIRST, "DescribeLogDirs", version, dirs.clone()).await?;
    let path = text(&told["Results"][0]["LogDir"])?;
    for path in [path.as_str(), "/no/such/directory"] {
        let fields = json!({ "Dirs": [{ "Path": path, "Topics": [{ "Name": topic, "Partitions": [0] }] }] });
        side.ask(FIRST, "AlterReplicaLogDirs", version, fields).await?;
    }

    let moved = |replicas: Value| {
        let partitions = json!([{ "PartitionIndex": 1, "Replicas": replicas }]);
        json!({ "TimeoutMs": 30_000, "Topics": [{ "Name": topic, "Partitions": partitions }] })
    };
    side.ask(FIRST, "AlterPartitionReassignments", version, moved(json!([SECOND, FIRST]))).await?;
    let replicas = |answer: &Value| {
        let partitions = answer["Topics"][0]["Partitions"].as_array();
        let second = partitions.and_then(|all| all.iter().find(|one| one["PartitionIndex"] == 1));
        second.is_some_and(|second| second["IsrNodes"].as_array().is_some_and(|isr| isr.len() == 2))
    };
    let there = json!({ "Topics": [{ "Name": topic }], "AllowAutoTopicCreation": false });
    for node_id in [FIRST, SECOND] {
        side.look_until(node_id, "Metadata", there.clone(), replicas).await?;
    }
    let listed = json!({ "Topics": [{ "Name": topic, "PartitionIndexes": [0, 1, 2] }], "TimeoutMs": 30_000 });
    let none = |answer: &Value| answer["Topics"].as_array().is_some_and(Vec::is_empty);
    side.ask_until(FIRST, "ListPartitionReassignments", version, listed, none).await?;
    // Nothing to be cancelled; no such broker; the preferred leader leads already.
    side.ask(SECOND, "AlterPartitionReassignments", version, moved(json!(null))).await?;
    side.ask(SECOND, "AlterPartitionReassignments", version, moved(json!([99]))).await?;
    for election_type in [0, 1] {
        let fields = json!({ "ElectionType": election_type, "TopicPartitions": [{ "Topic": topic, "Partitions": [0, 1, 9] }], "TimeoutMs": 30_000 });
        side.ask(FIRST, "ElectLeaders", version, fields).await?;
    }
    Ok(())
}

async fn deleted(side: &mut Side<'_>, topic: &str, id: &str, version: i16) -> Result<()> {
    let by_id = side.version("DeleteTopics", version)? >= 6 && version % 2 == 0;
    let state = if by_id { json!({ "Name": null, "TopicId": id }) } else { json!({ "Name": topic }) };
    let fields = json!({ "Topics": [state], "TopicNames": [topic], "TimeoutMs": 30_000 });
    let answer = side.ask(SECOND, "DeleteTopics", version, fields.clone()).await?;
    ensure!(number(&answer["Responses"][0]["ErrorCode"])? == 0, "{answer}");
    let gone = |answer: &Value| answer["Topics"][0]["ErrorCode"] == 3;
    let there = json!({ "Topics": [{ "Name": topic }], "AllowAutoTopicCreation": false });
    for node_id in [FIRST, SECOND] {
        side.look_until(node_id, "Metadata", there.clone(), gone).await?;
    }
    side.ask(FIRST, "DeleteTopics", version, fields).await?;
    Ok(())
}
