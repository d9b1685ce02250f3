//! A cluster of the demo: a model of Kafka in this process, or Apache Kafka itself.

use std::time::Duration;

use anyhow::{Result, anyhow, bail};

use crate::model::TcpCluster;
use crate::{Cluster, DelaySpec};

/// See the module's documentation.
#[derive(Debug)]
pub(super) enum Town {
    Kafka(Box<Cluster>),
    Model { name: String, cluster: Box<TcpCluster> },
}

impl Town {
    /// Starts a cluster of one broker, `distance` away from whoever comes by [`Town::far_bootstrap`].
    pub async fn start(kafka: bool, name: &str, distance: Option<DelaySpec>) -> Result<Self> {
        if kafka {
            let builder = Cluster::builder().name(name).heap_mib(320);
            let builder = match distance {
                Some(distance) => builder.listener_via(distance),
                None => builder,
            };
            return Ok(Self::Kafka(Box::new(builder.start().await?)));
        }
        let cluster = TcpCluster::start(name, 1, distance).await?;
        Ok(Self::Model { name: name.to_owned(), cluster: Box::new(cluster) })
    }

    pub fn name(&self) -> &str {
        match self {
            Self::Kafka(cluster) => cluster.name(),
            Self::Model { name, .. } => name,
        }
    }

    /// How long the start took.
    pub fn start_took(&self) -> Duration {
        match self {
            Self::Kafka(cluster) => cluster.start_took(),
            Self::Model { .. } => Duration::ZERO,
        }
    }

    pub fn bootstrap(&self) -> String {
        match self {
            Self::Kafka(cluster) => cluster.bootstrap(),
            Self::Model { cluster, .. } => cluster.bootstrap().to_owned(),
        }
    }

    pub fn far_bootstrap(&self) -> String {
        match self {
            Self::Kafka(cluster) => cluster.delayed_bootstrap(),
            Self::Model { cluster, .. } => cluster.bootstrap().to_owned(),
        }
    }

    pub async fn create_topic(&self, topic: &str, partitions: i32) -> Result<()> {
        match self {
            Self::Kafka(cluster) => cluster.create_topic(topic, partitions, 1, &[]).await,
            Self::Model { cluster, .. } => cluster
                .model()
                .change(|state, _| state.create_topic(topic, partitions, 1))
                .map_err(|code| anyhow!("topic {topic} can't be created: error {code}")),
        }
    }

    /// Records in a topic.
    pub async fn records(&self, topic: &str) -> Result<i64> {
        match self {
            Self::Kafka(cluster) => Ok(cluster.admin().end_offsets(topic).await?.iter().sum()),
            Self::Model { cluster, .. } => {
                let state = cluster.model().look();
                let Some(topic) = state.topics.get(topic) else { bail!("there is no topic {topic}") };
                Ok(topic.partitions.iter().map(|partition| partition.high_watermark()).sum())
            }
        }
    }

    /// Kills the broker.
    pub fn kill(&self) -> Result<()> {
        match self {
            Self::Kafka(cluster) => cluster.kill(1),
            Self::Model { cluster, .. } => {
                cluster.model().change(|state, now| state.crash(1, now));
                Ok(())
            }
        }
    }

    /// Starts the broker again, and waits until it answers.
    pub async fn restart(&self) -> Result<()> {
        match self {
            Self::Kafka(cluster) => cluster.restart(1).await.map(|_| ()),
            Self::Model { cluster, .. } => {
                cluster.model().change(|state, now| state.start(1, now));
                Ok(())
            }
        }
    }
}
