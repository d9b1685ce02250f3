//! Keeps regions, sessions and the source told which topics there are, and which of them go where.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tokio::sync::{Notify, watch};

use super::Regions;
use super::progress::Partition;
use super::topic_list::mirrored_topics;
use crate::capture::{Capture, Route, Routes};
use crate::client::cluster::{Cluster, Metadata};
use crate::config;

/// See the module's documentation.
pub(super) struct TopicWatch {
    pub origin: String,
    pub local: Arc<Cluster>,
    pub capture: Arc<Capture>,
    pub regions: Arc<Regions>,
    /// The regions, or what they select, have changed.
    pub changed: Arc<Notify>,
    pub partitions: watch::Sender<Arc<Vec<Partition>>>,
    pub settings: watch::Receiver<config::Mirror>,
}

impl TopicWatch {
    pub async fn run(self) {
        loop {
            self.tell(&self.local.metadata());
            let interval = self.settings.borrow().metadata_interval;
            tokio::select! {
                biased;
                () = tokio::time::sleep(interval) => {}
                () = self.capture.unknown_topic() => {}
                () = self.changed.notified() => continue,
            }
            if let Err(error) = self.local.refresh().await {
                tracing::debug!(%error, "the local cluster could not be asked for its topics; trying again");
            }
        }
    }

    fn tell(&self, metadata: &Metadata) {
        let mut routes: HashMap<Arc<str>, Route> = metadata
            .topics
            .iter()
            .map(|(name, topic)| (name.clone(), Route { topic: name.clone(), id: topic.id, inboxes: Vec::new() }))
            .collect();
        let mut partitions: BTreeSet<Partition> = BTreeSet::new();
        for region in self.regions.load().iter() {
            let topics = mirrored_topics(metadata, &region.config(), &self.origin);
            for topic in &topics {
                partitions.extend((0..topic.partitions).map(|partition| (topic.name.clone(), partition)));
                if let Some(route) = routes.get_mut(&topic.name) {
                    route.inboxes.push(region.inbox.clone());
                }
            }
            region.topics.send_if_modified(|known| {
                let changed = **known != topics;
                if changed {
                    *known = Arc::new(topics);
                }
                changed
            });
        }
        self.capture.set_routes(Routes::new(routes.into_values()));
        let partitions: Vec<Partition> = partitions.into_iter().collect();
        self.partitions.send_if_modified(|known| {
            let changed = **known != partitions;
            if changed {
                *known = Arc::new(partitions);
            }
            changed
        });
    }
}
