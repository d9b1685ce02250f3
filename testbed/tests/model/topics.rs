//! Topics: metadata, making them, adding partitions.

use anyhow::Result;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    BrokerId, CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse,
    MetadataRequest, MetadataResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::pair::{Pair, topic_name};

/// Ids and addresses are each cluster's own; who leads and which broker has a replica, each decides.
fn blank_metadata(answer: &mut MetadataResponse) {
    answer.cluster_id = answer.cluster_id.take().map(|_| StrBytes::from_static_str("a cluster"));
    answer.controller_id = BrokerId(0);
    answer.throttle_time_ms = 0;
    for broker in &mut answer.brokers {
        broker.host = StrBytes::default();
        broker.port = 0;
    }
    answer.brokers.sort_by_key(|broker| broker.node_id.0);
    for topic in &mut answer.topics {
        topic.topic_id = uuid::Uuid::from_u128(u128::from(!topic.topic_id.is_nil()));
        topic.partitions.sort_by_key(|partition| partition.partition_index);
        for partition in &mut topic.partitions {
            partition.leader_id = BrokerId(i32::from(partition.leader_id.0 > 0));
            for nodes in [&mut partition.replica_nodes, &mut partition.isr_nodes] {
                nodes.sort_by_key(|node| node.0);
            }
            if partition.replica_nodes.len() == 1 {
                partition.replica_nodes[0] = BrokerId(0);
                partition.isr_nodes = vec![BrokerId(0)];
            }
        }
    }
}

fn blank_made(answer: &mut CreateTopicsResponse) {
    answer.throttle_time_ms = 0;
    for topic in &mut answer.topics {
        topic.topic_id = uuid::Uuid::from_u128(u128::from(!topic.topic_id.is_nil()));
        topic.error_message = None;
        // The settings of a topic are not modelled.
        topic.configs = None;
    }
}

fn blank_grown(answer: &mut CreatePartitionsResponse) {
    answer.throttle_time_ms = 0;
    answer.results.iter_mut().for_each(|result| result.error_message = None);
}

pub async fn made_and_grown(pair: &mut Pair) -> Result<()> {
    let asked = |name: &str, partitions, replicas| {
        let topic = CreatableTopic::default()
            .with_name(topic_name(name))
            .with_num_partitions(partitions)
            .with_replication_factor(replicas);
        CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000)
    };
    for (name, partitions, replicas) in [
        ("one", 1, 1),
        ("one", 1, 1),
        ("two", 3, 2),
        ("none", 0, 1),
        ("many", 1, 5),
        ("default", 2, -1),
        ("nobody", 1, 0),
    ] {
        pair.same(1, &asked(name, partitions, replicas), 7, blank_made).await?;
    }
    let grown = |name: &str, count| {
        let topic =
            CreatePartitionsTopic::default().with_name(topic_name(name)).with_count(count).with_assignments(None);
        CreatePartitionsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000)
    };
    for (name, count) in [("two", 4), ("two", 4), ("two", 2), ("unknown", 2)] {
        pair.same(1, &grown(name, count), 3, blank_grown).await?;
    }
    for (name, partitions) in [("one", 1), ("two", 4)] {
        let topic = MetadataRequestTopic::default().with_name(Some(topic_name(name)));
        let request = MetadataRequest::default().with_topics(Some(vec![topic])).with_allow_auto_topic_creation(false);
        let known = |answer: &MetadataResponse| {
            answer.topics[0].partitions.len() == partitions
                && answer.topics[0].partitions.iter().all(|partition| partition.leader_id.0 > 0)
        };
        pair.kafka.until(2, &request, 12, known).await?;
        pair.same(2, &request, 12, blank_metadata).await?;
    }
    let unknown = MetadataRequestTopic::default().with_name(Some(topic_name("unknown")));
    let request = MetadataRequest::default().with_topics(Some(vec![unknown])).with_allow_auto_topic_creation(false);
    pair.same(1, &request, 12, blank_metadata).await?;
    Ok(())
}
