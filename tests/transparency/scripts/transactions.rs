//! Transactions, committed and aborted, with the offsets of a group in them.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::records::{Writer, hexadecimal};
use crate::side::{Side, number};
use crate::world::Coordinator;

/// The topic's leader.
const LEADER: i32 = 1;

pub async fn play(side: &mut Side<'_>) -> Result<()> {
    let at = side.world.coordinator(Coordinator::Transaction, "a-transaction").await?;
    let groups_at = side.world.coordinator(Coordinator::Group, "a-group").await?;
    let elsewhere = side.world.eu.broker_ids().into_iter().find(|node_id| *node_id != at).context("one broker only")?;
    let topic = side.name("transactions");
    let assignments =
        json!([{ "PartitionIndex": 0, "BrokerIds": [LEADER] }, { "PartitionIndex": 1, "BrokerIds": [LEADER] }]);
    let wanted = json!({ "Name": topic, "NumPartitions": -1, "ReplicationFactor": -1, "Assignments": assignments });
    // Answers to this are the topics' script's affair.
    side.attempt(LEADER, "CreateTopics", 7, &json!({ "Topics": [wanted], "timeoutMs": 30_000 })).await?;
    let id = side.until_topic(&topic, 2).await?;
    side.learn(&id, "the topic's id");
    for version in 0..=6 {
        let nodes = Nodes { at, elsewhere, groups_at };
        transaction(side, &topic, &id, nodes, version).await.with_context(|| format!("versions {version}"))?;
        markers(side, &topic, version).await?;
    }
    let idempotent = json!({ "TransactionalId": null, "TransactionTimeoutMs": 0 });
    // A broker that has none left asks for more of them first.
    side.ask_until(elsewhere, "InitProducerId", 0, idempotent, |answer| answer["ErrorCode"] == 0).await?;
    let topics = json!([{ "Topic": topic, "TopicId": id, "Partitions": [
        { "Partition": 0, "FetchOffset": 0, "PartitionMaxBytes": 1 << 20 }, { "Partition": 1, "FetchOffset": 0, "PartitionMaxBytes": 1 << 20 }] }]);
    for isolation_level in [0, 1] {
        let fields = json!({ "ReplicaId": -1, "MaxWaitMs": 100, "MaxBytes": 1 << 20, "IsolationLevel": isolation_level, "Topics": topics });
        for version in [4, 12, 18] {
            side.ask(LEADER, "Fetch", version, fields.clone()).await?;
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Nodes {
    at: i32,
    elsewhere: i32,
    groups_at: i32,
}

async fn transaction(side: &mut Side<'_>, topic: &str, topic_id: &str, nodes: Nodes, version: i16) -> Result<()> {
    let Nodes { at, elsewhere, groups_at } = nodes;
    let (id, group) = (side.name(&format!("transaction{version}")), side.name(&format!("in-transaction{version}")));
    side.ask(elsewhere, "FindCoordinator", version, json!({ "Key": id, "KeyType": 1, "CoordinatorKeys": [id] }))
        .await?;
    let init = json!({ "TransactionalId": id, "TransactionTimeoutMs": 60_000 });
    side.ask(elsewhere, "InitProducerId", version, init.clone()).await?;
    let got = side.ask_until(at, "InitProducerId", version, init, |answer| answer["ErrorCode"] == 0).await?;
    let (producer_id, epoch) = (number(&got["ProducerId"])?, number(&got["ProducerEpoch"])?);

    let topics = json!([{ "Name": topic, "Partitions": [0, 1] }]);
    let add = |epoch: i64| {
        json!({ "V3AndBelowTransactionalId": id, "V3AndBelowProducerId": producer_id, "V3AndBelowProducerEpoch": epoch,
            "V3AndBelowTopics": topics,
            "Transactions": [{ "TransactionalId": id, "ProducerId": producer_id, "ProducerEpoch": epoch, "VerifyOnly": false, "Topics": topics }] })
    };
    side.ask(elsewhere, "AddPartitionsToTxn", version, add(epoch)).await?;
    side.ask(at, "AddPartitionsToTxn", version, add(epoch + 7)).await?;
    side.ask(at, "AddPartitionsToTxn", version, add(epoch)).await?;
    let add = json!({ "TransactionalId": id, "ProducerId": producer_id, "ProducerEpoch": epoch, "GroupId": group });
    side.ask(elsewhere, "AddOffsetsToTxn", version, add.clone()).await?;
    side.ask(at, "AddOffsetsToTxn", version, add).await?;

    let produce = side.version("Produce", 3 + 2 * version)?;
    for partition in [0, 1] {
        let writer = Writer { producer_id, epoch: i16::try_from(epoch)?, sequence: 0, transactional: true };
        let records = hexadecimal(produce, format!("in transaction {version}").as_bytes(), writer)?;
        let fields = json!({ "TransactionalId": id, "Acks": -1, "TimeoutMs": 10_000, "TopicData": [
            { "Name": topic, "TopicId": topic_id, "PartitionData": [{ "Index": partition, "Records": records }] }] });
        let in_office = |answer: &Value| answer["Responses"][0]["PartitionResponses"][0]["ErrorCode"] != 6;
        side.ask_until(LEADER, "Produce", produce, fields, in_office).await?;
    }
    let commit = |epoch: i64| {
        let partition = json!({ "PartitionIndex": 0, "CommittedOffset": 3, "CommittedLeaderEpoch": 0, "CommittedMetadata": "mine" });
        json!({ "TransactionalId": id, "GroupId": group, "ProducerId": producer_id, "ProducerEpoch": epoch,
            "Topics": [{ "Name": topic, "Partitions": [partition] }] })
    };
    side.ask(groups_at, "TxnOffsetCommit", version, commit(epoch)).await?;
    side.ask(groups_at, "TxnOffsetCommit", version, commit(epoch - 1)).await?;
    side.ask(at, "DescribeTransactions", version, json!({ "TransactionalIds": [id, "no-such"] })).await?;
    side.ask(at, "ListTransactions", version, json!({ "ProducerIdFilters": [producer_id], "StateFilters": [] }))
        .await?;
    side.ask(LEADER, "DescribeProducers", version, json!({ "Topics": [{ "Name": topic, "PartitionIndexes": [0] }] }))
        .await?;

    let end = |epoch: i64| json!({ "TransactionalId": id, "ProducerId": producer_id, "ProducerEpoch": epoch, "Committed": version % 2 == 0 });
    side.ask(elsewhere, "EndTxn", version, end(epoch)).await?;
    side.ask(at, "EndTxn", version, end(epoch + 7)).await?;
    side.ask(at, "EndTxn", version, end(epoch)).await?;
    let done = |answer: &Value| {
        answer["TransactionStates"][0]["TransactionState"].as_str().is_some_and(|state| state.starts_with("Complete"))
    };
    side.look_until(at, "DescribeTransactions", json!({ "TransactionalIds": [id] }), done).await?;
    let topics = json!([{ "Name": topic, "PartitionIndexes": [0] }]);
    let named_or_by_id = json!([{ "Name": topic, "TopicId": topic_id, "PartitionIndexes": [0] }]);
    let wanted = json!({ "GroupId": group, "Topics": topics, "Groups": [{ "GroupId": group, "Topics": named_or_by_id }],
        "RequireStable": true });
    side.look_until(groups_at, "OffsetFetch", wanted, |answer| !answer.to_string().contains("\"ErrorCode\":88"))
        .await?;
    Ok(())
}

/// What a transaction's coordinator tells leaders. A client may, if it has the rights of a cluster's own (ClusterAction).
async fn markers(side: &mut Side<'_>, topic: &str, version: i16) -> Result<()> {
    let topics = json!([{ "Name": topic, "PartitionIndexes": [0, 9] }]);
    let marker = json!({ "ProducerId": 1_i64 << 40, "ProducerEpoch": 0, "TransactionResult": false, "Topics": topics, "CoordinatorEpoch": version });
    side.ask(LEADER, "WriteTxnMarkers", version, json!({ "Markers": [marker] })).await?;
    Ok(())
}
