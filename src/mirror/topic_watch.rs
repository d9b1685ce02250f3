//! Keeps regions, sessions and the source told which topics there are, and which of them go where.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tokio::sync::{Notify, watch};

use super::Regions;
use super::progress::Partition;
use super::topic_list::mirrored_topics;
use super::topics::hidden_reason;
use crate::capture::{Capture, Route, Routes};
use crate::client::cluster::{Cluster, Metadata};
use crate::client::rights::Operation;
use crate::config;
use crate::journal::{Journal, Kind};

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
    pub journal: Arc<Journal>,
    /// Topics that a region asks for by name and that the local cluster was last found to hide, by region.
    pub hidden: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
}

impl TopicWatch {
    pub async fn run(mut self) {
        let mut told: Option<Arc<Metadata>> = None;
        loop {
            let metadata = self.local.metadata();
            if !told.as_ref().is_some_and(|told| Arc::ptr_eq(told, &metadata)) {
                self.tell_hidden(&metadata);
                self.tell(&metadata);
                told = Some(metadata);
            }
            let interval = self.settings.borrow().metadata_interval;
            tokio::select! {
                biased;
                () = tokio::time::sleep(interval) => {}
                () = self.capture.unknown_topic() => {}
                () = self.changed.notified() => {
                    told = None;
                    continue;
                }
            }
            if let Err(error) = self.local.refresh().await {
                tracing::debug!(%error, "the local cluster could not be asked for its topics; trying again");
            }
        }
    }

    /// Says it once when a topic that a region is to get by its name is hidden: nobody else would miss it.
    fn tell_hidden(&mut self, metadata: &Metadata) {
        let is_hidden = |topic: &Arc<str>| metadata.hidden.contains(topic) && !metadata.topics.contains_key(topic);
        for region in self.regions.load().iter() {
            let named: Vec<Arc<str>> = region.config().named_topics().map(Arc::from).collect();
            self.local.expect(named.iter().cloned());
            let hidden: BTreeSet<Arc<str>> = named.into_iter().filter(is_hidden).collect();
            let known = self.hidden.entry(region.name().clone()).or_default();
            for topic in hidden.difference(known) {
                let reason = hidden_reason(&self.local, topic, Operation::Read);
                tracing::warn!(region = %region.name(), %topic, reason, "the topic can't be mirrored");
                let message = format!("topic {topic} can't be mirrored: {reason}");
                self.journal.region(Kind::StreamStalled, region.name(), &message);
            }
            *known = hidden;
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
