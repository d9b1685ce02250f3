//! Which topics are mirrored to a region, by the local cluster's metadata.

use std::sync::Arc;

use uuid::Uuid;

use super::identity::reserved_producer_id;
use crate::client::cluster::Metadata;
use crate::config;

/// A local topic that a region gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirroredTopic {
    /// Its name in the local cluster.
    pub name: Arc<str>,
    /// Its name in the region.
    pub name_in_region: Arc<str>,
    /// Its id in the local cluster.
    pub id: Uuid,
    /// Its number of partitions.
    pub partitions: i32,
    /// The reserved producer id of its streams.
    pub producer_id: i64,
}

/// The topics of `metadata` that `region` gets from the cluster called `origin`, by name. Kafka's internal topics are never among them.
pub fn mirrored_topics(metadata: &Metadata, region: &config::Region, origin: &str) -> Vec<MirroredTopic> {
    let mut topics: Vec<MirroredTopic> = metadata
        .topics
        .iter()
        .filter(|(name, topic)| !topic.internal && region.selects(name))
        .map(|(name, topic)| MirroredTopic {
            name: name.clone(),
            name_in_region: Arc::from(region.topic_in_region(origin, name)),
            id: topic.id,
            partitions: i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX),
            producer_id: reserved_producer_id(&metadata.cluster_id, topic.id),
        })
        .collect();
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    topics
}
