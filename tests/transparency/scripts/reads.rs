//! What tells of the cluster, asked of each broker and of the bootstrap port.

use anyhow::Result;
use serde_json::json;

use crate::side::{At, Side};
use crate::world::TOPIC;

const RESOURCE_TOPIC: i8 = 2;
const RESOURCE_BROKER: i8 = 4;

pub async fn play(side: &mut Side<'_>) -> Result<()> {
    let nodes = side.world.eu.broker_ids();
    for at in nodes.iter().map(|node_id| At::Broker(*node_id)).chain([At::Bootstrap]) {
        for version in 0..=13 {
            metadata(side, at, version).await?;
        }
        for version in 0..=6 {
            find_coordinator(side, at, version).await?;
        }
        for version in 0..=2 {
            describe_cluster(side, at, version).await?;
        }
    }
    for node_id in nodes {
        for version in 0..=4 {
            api_versions(side, node_id, version).await?;
        }
        for version in 0..=5 {
            described(side, node_id, version).await?;
        }
    }
    Ok(())
}

async fn metadata(side: &mut Side<'_>, at: At, version: i16) -> Result<()> {
    let with = |topics: serde_json::Value| {
        json!({
            "Topics": topics, "AllowAutoTopicCreation": false,
            "IncludeTopicAuthorizedOperations": true, "IncludeClusterAuthorizedOperations": true,
        })
    };
    // No list means all topics; version 0 says the same with an empty one, which means none later (KIP-4).
    let all = if version == 0 { json!([]) } else { json!(null) };
    let unknown_id = uuid::Uuid::from_u128(7).to_string();
    let mut wanted = vec![all, json!([{ "Name": TOPIC }]), json!([{ "Name": "no-such" }, { "Name": TOPIC }])];
    if version >= 1 {
        wanted.push(json!([]));
    }
    if version >= 12 {
        wanted.push(json!([{ "Name": null, "TopicId": unknown_id }]));
    }
    for topics in wanted {
        side.ask(at, "Metadata", version, with(topics)).await?;
    }
    Ok(())
}

async fn find_coordinator(side: &mut Side<'_>, at: At, version: i16) -> Result<()> {
    // Group, transaction, share group (group, topic id, partition: KIP-932), one that no broker knows, and a key that is none.
    let share_key = "a-group:AAAAAAAAAAAAAAAAAAAABw:0";
    for (key_type, keys) in
        [(0, ["a-group", "b-group"]), (1, ["a-txn", "b-txn"]), (2, [share_key, "odd"]), (9, ["x", "y"])]
    {
        let fields = json!({ "Key": keys[0], "KeyType": key_type, "CoordinatorKeys": keys });
        side.ask(at, "FindCoordinator", version, fields).await?;
    }
    Ok(())
}

async fn describe_cluster(side: &mut Side<'_>, at: At, version: i16) -> Result<()> {
    // Of brokers, of controllers (KIP-919), of what no broker knows; with those that are fenced (KIP-1073).
    for (endpoint_type, fenced) in [(1, false), (2, false), (3, false), (1, true)] {
        let fields = json!({
            "IncludeClusterAuthorizedOperations": true, "EndpointType": endpoint_type, "IncludeFencedBrokers": fenced,
        });
        side.ask(at, "DescribeCluster", version, fields).await?;
    }
    Ok(())
}

async fn api_versions(side: &mut Side<'_>, node_id: i32, version: i16) -> Result<()> {
    for software in ["diffluent-tests", "not allowed!"] {
        let fields = json!({ "ClientSoftwareName": software, "ClientSoftwareVersion": "1" });
        side.ask(node_id, "ApiVersions", version, fields).await?;
    }
    Ok(())
}

/// Reads of which each broker has its own view.
async fn described(side: &mut Side<'_>, node_id: i32, version: i16) -> Result<()> {
    let of_broker = node_id.to_string();
    for (resource_type, name) in [(RESOURCE_TOPIC, TOPIC), (RESOURCE_TOPIC, "no-such"), (RESOURCE_BROKER, &of_broker)] {
        let resource = json!({ "ResourceType": resource_type, "ResourceName": name, "ConfigurationKeys": null });
        let fields =
            json!({ "Resources": [resource], "IncludeSynonyms": true, "IncludeDocumentation": version % 2 == 0 });
        side.ask(node_id, "DescribeConfigs", version, fields).await?;
    }
    side.ask(node_id, "DescribeLogDirs", version, json!({ "Topics": null })).await?;
    side.ask(node_id, "ListGroups", version, json!({ "StatesFilter": [], "TypesFilter": [] })).await?;
    side.ask(node_id, "ListGroups", version, json!({ "StatesFilter": ["Stable"], "TypesFilter": ["classic"] })).await?;
    side.ask(node_id, "ListTransactions", version, json!({ "StateFilters": ["Ongoing", "NoSuchState"] })).await?;
    side.ask(node_id, "ListPartitionReassignments", version, json!({ "Topics": null, "TimeoutMs": 10_000 })).await?;
    let quorum = json!({ "Topics": [{ "TopicName": "__cluster_metadata", "Partitions": [{ "PartitionIndex": 0 }] }] });
    // Where the followers are, changes twice a second.
    side.ask(node_id, "DescribeQuorum", version, quorum).await?;
    let topics = json!([{ "Name": TOPIC }, { "Name": "no-such" }]);
    for fields in [json!({ "Topics": topics }), json!({ "Topics": topics, "ResponsePartitionLimit": 1 })] {
        side.ask(node_id, "DescribeTopicPartitions", version, fields).await?;
    }
    for name in ["ListClientMetricsResources", "ListConfigResources"] {
        if side.world.has(name) {
            side.ask(node_id, name, version, json!({})).await?;
        }
    }
    for topic in [TOPIC, "no-such"] {
        let partition = json!({ "Partition": 0, "LeaderEpoch": 0 });
        let fields = json!({ "ReplicaId": -1, "Topics": [{ "Topic": topic, "Partitions": [partition] }] });
        side.ask(node_id, "OffsetForLeaderEpoch", version, fields).await?;
        let fields = json!({ "Topics": [{ "Name": topic, "PartitionIndexes": [0, 9] }] });
        side.ask(node_id, "DescribeProducers", version, fields).await?;
    }
    Ok(())
}
