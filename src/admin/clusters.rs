//! What each cluster says of itself: brokers, leaders, partitions that lack replicas.

use serde::Serialize;

use crate::client::cluster::{Cluster, Metadata};

/// Topics with under-replicated partitions that are named, at most.
const TOPICS_MAX: usize = 100;

/// A cluster as its last metadata has it. What a cluster said stays while it does not answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClusterView {
    /// `local`, or the region's name.
    pub cluster: String,
    /// Kafka's id of the cluster; empty before it answered first.
    pub cluster_id: String,
    /// Its brokers by node id.
    pub brokers: Vec<BrokerView>,
    /// Topics, internal ones too.
    pub topics: usize,
    /// Their partitions.
    pub partitions: usize,
    /// Partitions with fewer replicas in sync than there should be.
    pub under_replicated_partitions: usize,
    /// Partitions without a leader: nothing can be written to or read from them.
    pub leaderless_partitions: usize,
    /// Topics with under-replicated partitions, by name, at most a hundred.
    pub under_replicated_topics: Vec<String>,
    /// What flows in and out of it; filled in by the admin port.
    pub rates: ClusterRates,
}

/// What flows in and out of a cluster, as this proxy sees it: averages of about the last ten seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ClusterRates {
    /// Of the local cluster, what is appended to the logs of mirrored topics, through this proxy and past it; of a region, what this proxy mirrors there.
    pub records_in_per_second: f64,
    /// Bytes to its brokers through this proxy: of clients, and of diffluent's own connections.
    pub bytes_in_per_second: f64,
    /// Bytes from its brokers through this proxy.
    pub bytes_out_per_second: f64,
}

/// What went to and from a cluster's brokers through this proxy since the start of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterTraffic {
    /// `local`, or the region's name.
    pub cluster: String,
    /// Bytes to its brokers.
    pub in_bytes: u64,
    /// Bytes from its brokers.
    pub out_bytes: u64,
}

impl ClusterTraffic {
    /// What diffluent's own connections to `cluster` have carried.
    pub fn of(cluster: &Cluster) -> Self {
        let traffic = cluster.traffic();
        Self {
            cluster: cluster.name().to_string(),
            in_bytes: traffic.sent_bytes.get(),
            out_bytes: traffic.received_bytes.get(),
        }
    }
}

/// A broker.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BrokerView {
    /// Its node id.
    pub node_id: i32,
    /// Where it is reached.
    pub host: String,
    /// Its port there.
    pub port: u16,
    /// Partitions that it leads.
    pub leads: usize,
}

impl ClusterView {
    /// What `cluster` said last.
    pub fn of(cluster: &Cluster) -> Self {
        Self::from_metadata(cluster.name(), &cluster.metadata())
    }

    fn from_metadata(name: &str, metadata: &Metadata) -> Self {
        let leaders = || metadata.topics.values().flat_map(|topic| topic.partitions.values());
        let mut under_replicated_topics: Vec<String> = metadata
            .topics
            .iter()
            .filter(|(_, topic)| topic.under_replicated > 0)
            .map(|(name, _)| name.to_string())
            .collect();
        under_replicated_topics.sort();
        under_replicated_topics.truncate(TOPICS_MAX);
        Self {
            cluster: name.to_owned(),
            cluster_id: metadata.cluster_id.clone(),
            brokers: metadata
                .brokers
                .iter()
                .map(|(node_id, (host, port))| BrokerView {
                    node_id: *node_id,
                    host: host.clone(),
                    port: *port,
                    leads: leaders().filter(|leader| leader.node_id == *node_id).count(),
                })
                .collect(),
            topics: metadata.topics.len(),
            partitions: leaders().count(),
            under_replicated_partitions: metadata.topics.values().map(|topic| topic.under_replicated).sum(),
            leaderless_partitions: leaders().filter(|leader| leader.node_id < 0).count(),
            under_replicated_topics,
            rates: ClusterRates::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::client::cluster::{Leader, Topic};

    #[test]
    fn partitions_without_a_leader_or_with_too_few_replicas_are_counted_and_named() {
        let leader = |node_id| Leader { node_id, epoch: 0 };
        let mut metadata = Metadata { cluster_id: "abc".into(), ..Metadata::default() };
        metadata.brokers.insert(1, ("kafka-1".into(), 9092));
        metadata.brokers.insert(2, ("kafka-2".into(), 9092));
        let topic = |partitions: &[(i32, i32)], under_replicated| Topic {
            id: uuid::Uuid::nil(),
            internal: false,
            partitions: partitions.iter().map(|(partition, node)| (*partition, leader(*node))).collect(),
            under_replicated,
        };
        metadata.topics.insert(Arc::from("orders"), topic(&[(0, 1), (1, 2), (2, 1)], 0));
        metadata.topics.insert(Arc::from("payments"), topic(&[(0, 1), (1, -1)], 2));
        let view = ClusterView::from_metadata("us", &metadata);
        assert_eq!((view.topics, view.partitions, view.under_replicated_partitions), (2, 5, 2));
        assert_eq!(
            (view.leaderless_partitions, view.under_replicated_topics.as_slice()),
            (1, &["payments".into()][..])
        );
        assert_eq!(view.brokers.iter().map(|broker| broker.leads).collect::<Vec<_>>(), [3, 1]);
    }
}
