//! Asks a cluster how it is set up: topics, brokers, clock, releases. Changes nothing there.
//!
//! # References
//! KIP-836 (DescribeQuorum with times), KIP-584 (features in ApiVersions).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::describe_producers_response::TopicResponse;
use kafka_protocol::messages::describe_quorum_request::{PartitionData, TopicData};
use kafka_protocol::messages::{DescribeProducersRequest, DescribeQuorumRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::clusters::reason;
use crate::client::cluster::Cluster;
use crate::client::configs::{BROKER, TOPIC, Values, describe};
use crate::client::error_code;
use crate::config::Region;
use crate::mirror::identity::is_born_in;
use crate::mirror::offsets::{Which, list_all};
use crate::mirror::progress::{Partition, Progress};
use crate::mirror::topic_list::mirrored_topics;

/// Settings of topics that matter to what is mirrored.
pub(super) const TOPIC_KEYS: [&str; 10] = [
    "cleanup.policy",
    "retention.ms",
    "retention.bytes",
    "max.message.bytes",
    "message.timestamp.type",
    "message.timestamp.before.max.ms",
    "message.timestamp.after.max.ms",
    "min.insync.replicas",
    "compression.type",
    "segment.bytes",
];
/// Settings of brokers that do.
const BROKER_KEYS: [&str; 3] = ["socket.request.max.bytes", "producer.id.expiration.ms", "default.replication.factor"];
/// Topics that one request asks about.
const TOPICS_AT_ONCE: usize = 500;

/// A clock that was read from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Clock {
    /// How far it is ahead of this machine's, milliseconds; negative: behind.
    pub ahead_ms: i64,
    /// How wrong that may be: half of what the question took.
    pub within_ms: i64,
}

/// Levels of Kafka's feature `metadata.version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Release {
    /// The newest that the broker's software knows.
    pub software: i16,
    /// What the cluster works with.
    pub in_use: Option<i16>,
}

/// How a cluster is set up, as far as it tells.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    /// By topic.
    pub topics: BTreeMap<String, Values>,
    /// By broker.
    pub brokers: BTreeMap<i32, Values>,
    /// Why some of it is not there.
    pub untold: Option<String>,
    /// The clock of the active controller; `None` where no controller tells.
    pub clock: Option<Clock>,
    /// By broker; `None` where it does not say.
    pub releases: BTreeMap<i32, Option<Release>>,
}

/// Asks about the cluster, its brokers and these topics.
pub(super) async fn ask(cluster: Arc<Cluster>, topics: Vec<String>) -> Settings {
    let mut settings = Settings { clock: clock(&cluster).await, ..Settings::default() };
    for some in topics.chunks(TOPICS_AT_ONCE) {
        match told(&cluster, None, TOPIC, some, &TOPIC_KEYS).await {
            Ok(found) => settings.topics.extend(found),
            Err(why) => settings.untold = Some(why),
        }
    }
    let mut asked = JoinSet::new();
    for node_id in cluster.metadata().brokers.keys().copied() {
        let cluster = Arc::clone(&cluster);
        asked.spawn(async move {
            let name = [node_id.to_string()];
            let described = told(&cluster, Some(node_id), BROKER, &name, &BROKER_KEYS).await;
            (node_id, described, release(&cluster, node_id).await)
        });
    }
    for (node_id, described, release) in asked.join_all().await {
        settings.releases.insert(node_id, release);
        match described {
            Ok(found) => settings.brokers.extend(found.into_values().map(|values| (node_id, values))),
            Err(why) => settings.untold = Some(why),
        }
    }
    settings
}

/// Settings by the resource's name. Brokers answer only for themselves.
async fn told(
    cluster: &Cluster,
    node_id: Option<i32>,
    resource_type: i8,
    names: &[String],
    keys: &[&'static str],
) -> Result<BTreeMap<String, Values>, String> {
    let mut found = BTreeMap::new();
    let answer = describe(cluster, node_id, resource_type, names.iter().cloned(), keys).await;
    for (name, values) in answer.map_err(|error| reason(&error))? {
        match values {
            Ok(values) => drop(found.insert(name, values)),
            // Deleted just now.
            Err(error_code::UNKNOWN_TOPIC_OR_PARTITION) => {}
            Err(code) => return Err(error_code::describe(code)),
        }
    }
    Ok(found)
}

/// A voter that leads answers with its own time as when it was last heard of.
async fn clock(cluster: &Cluster) -> Option<Clock> {
    let topic = TopicData::default()
        .with_topic_name(TopicName(StrBytes::from_static_str("__cluster_metadata")))
        .with_partitions(vec![PartitionData::default()]);
    let request = DescribeQuorumRequest::default().with_topics(vec![topic]);
    // Once to have a connection, so that its making is not measured.
    cluster.call_any(&request).await.ok()?;
    let (before, began) = (now_ms(), Instant::now());
    let answer = cluster.call_any(&request).await.ok()?;
    let took_ms = i64::try_from(began.elapsed().as_millis()).ok()?;
    let partition = answer.topics.first()?.partitions.first().filter(|partition| partition.error_code == 0)?;
    let leader = partition.current_voters.iter().find(|voter| voter.replica_id == partition.leader_id)?;
    let told = Some(leader.last_fetch_timestamp).filter(|time| *time > 0)?;
    Some(Clock { ahead_ms: told - (before + took_ms / 2), within_ms: took_ms / 2 + 1 })
}

async fn release(cluster: &Cluster, node_id: i32) -> Option<Release> {
    const METADATA_VERSION: &str = "metadata.version";
    let features = cluster.connect(node_id).await.ok()?.ask_features().await.ok()?;
    let supported = features.supported_features.iter().find(|feature| &*feature.name == METADATA_VERSION)?;
    let finalized = features.finalized_features.iter().find(|feature| &*feature.name == METADATA_VERSION);
    Some(Release { software: supported.max_version, in_use: finalized.map(|feature| feature.max_version_level) })
}

/// Topics of which the region lacks records that are older than `age_ms`, with how many.
///
/// # Errors
/// Why that can't be told.
pub(super) async fn older_backlog(
    local: &Arc<Cluster>,
    region: &Region,
    origin: &str,
    age_ms: i64,
) -> Result<BTreeMap<String, u64>, String> {
    let topics = mirrored_topics(&local.metadata(), region, origin);
    let partitions: Vec<Partition> =
        topics.iter().flat_map(|topic| (0..topic.partitions).map(|number| (topic.name.clone(), number))).collect();
    let committed = Progress::new(local.clone(), &region.name).load(&partitions).await;
    let committed = committed.map_err(|error| reason(&error))?;
    let begins = if region.start == crate::config::Start::Latest { Which::End } else { Which::Start };
    let starts = list_all(local, &partitions, begins).await;
    let ends = list_all(local, &partitions, Which::End).await;
    let since = list_all(local, &partitions, Which::Since(now_ms() - age_ms)).await;
    let mut older = BTreeMap::new();
    for partition in &partitions {
        let at = |offsets: &BTreeMap<Partition, Result<_, i16>>| offsets.get(partition)?.as_ref().ok().map(offset);
        let (Some(start), Some(end), Some(young)) = (at(&starts), at(&ends), at(&since)) else { continue };
        let next = match committed.get(partition) {
            Some(Ok(commit)) => commit.source_offset().max(start.min(end)),
            _ => start,
        };
        // -1: none is younger.
        let old_to = if young < 0 { end } else { young };
        let records = u64::try_from(old_to.saturating_sub(next)).unwrap_or(0);
        if records > 0 {
            *older.entry(partition.0.to_string()).or_default() += records;
        }
    }
    Ok(older)
}

/// Which of these local topics hold, as far as their leaders remember, what was born in the region: it mirrors them back.
pub(super) async fn mirrored_back(
    local: &Cluster,
    topics: &BTreeSet<String>,
    region_cluster_id: &str,
) -> BTreeSet<String> {
    let metadata = local.metadata();
    let mut by_leader: BTreeMap<i32, Vec<TopicRequest>> = BTreeMap::new();
    for (name, topic) in metadata.topics.iter().filter(|(name, _)| topics.contains(&***name)) {
        let mut partitions: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for (partition, leader) in topic.partitions.iter().filter(|(_, leader)| leader.node_id >= 0) {
            partitions.entry(leader.node_id).or_default().push(*partition);
        }
        for (node_id, partitions) in partitions {
            let topic = TopicRequest::default().with_name(TopicName(StrBytes::from_string(name.to_string())));
            by_leader.entry(node_id).or_default().push(topic.with_partition_indexes(partitions));
        }
    }
    let mut found = BTreeSet::new();
    for (node_id, topics) in by_leader {
        // A broker that does not say proves nothing.
        let Ok(answer) = local.call(node_id, &DescribeProducersRequest::default().with_topics(topics)).await else {
            continue;
        };
        let born_there = |topic: &TopicResponse| {
            let producers = topic.partitions.iter().flat_map(|partition| &partition.active_producers);
            producers.into_iter().any(|producer| is_born_in(producer.producer_id.0, region_cluster_id))
        };
        found.extend(answer.topics.iter().filter(|topic| born_there(topic)).map(|topic| topic.name.to_string()));
    }
    found
}

/// Whether any stream to the region writes under a producer id that the region has handed out.
pub(super) async fn writes_under_handed_out_ids(local: &Arc<Cluster>, region: &Region, origin: &str) -> bool {
    let topics = mirrored_topics(&local.metadata(), region, origin);
    let partitions: Vec<Partition> =
        topics.iter().flat_map(|topic| (0..topic.partitions).map(|number| (topic.name.clone(), number))).collect();
    let committed = Progress::new(local.clone(), &region.name).load(&partitions).await.unwrap_or_default();
    committed.values().flatten().any(|commit| commit.position.handed_out_id.is_some())
}

fn offset(found: &crate::mirror::offsets::LogOffset) -> i64 {
    found.offset
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
