//! The local log's ends: asked of each local broker about once a second, for all partitions that any region mirrors, in one request a broker.
//!
//! Lag is measured against them, records that bypassed the proxy are found by them, and they tell who leads a partition since which
//! epoch: a captured batch counts only if its connection was open before the leader last said so.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kafka_protocol::messages::ListOffsetsRequest;
use tokio::sync::{Notify, watch};

use super::offsets::{LogOffset, Which, by_leader, epoch_ends, list_offsets_request, listed_offsets};
use super::progress::Partition;
use super::stream::SourceView;
use crate::capture::Capture;
use crate::client::cluster::{Cluster, Metadata};
use crate::client::error_code;
use crate::config;

/// Two rounds are at least this far apart, however many ask,
const SPACING: Duration = Duration::from_millis(20);
/// and so many times as far apart as a round takes: clients that come and go by the second make brokers with many partitions no great work.
const SPACING_FACTOR: u32 = 4;

impl Views {
    /// Whether a partition's log knows leader epochs, as its leader said under this one.
    fn note_epochs(&mut self, partition: Partition, leader_epoch: i32, keeps_epochs: bool) {
        let Some(view) = self.by_partition.get_mut(&partition).filter(|view| view.leader_epoch == leader_epoch) else {
            return;
        };
        view.keeps_epochs = keeps_epochs;
        for listener in self.listeners.values_mut() {
            listener.changes.insert(partition.clone());
        }
        self.epochs_asked.insert(partition, leader_epoch);
    }
}

/// What the local leaders last said, shared by all regions.
#[derive(Debug)]
pub struct Source {
    local: Arc<Cluster>,
    capture: Arc<Capture>,
    views: Mutex<Views>,
    soon: Notify,
}

#[derive(Debug, Default)]
struct Views {
    by_partition: HashMap<Partition, SourceView>,
    /// Under which leader epoch a leader has said whether its log knows epochs.
    epochs_asked: HashMap<Partition, i32>,
    /// Per local broker: connections with a smaller number were open when it last spoke for its partitions.
    verified: HashMap<i32, u64>,
    /// The regions, by the number under which they listen: woken in their order, so that a simulation replays.
    listeners: BTreeMap<u64, Listener>,
    next_listener: u64,
}

/// A region that hears of the log's ends.
#[derive(Debug, Default)]
struct Listener {
    /// Leaders have spoken since it last waited.
    spoken: Arc<Notify>,
    /// What has changed since it last looked.
    changes: BTreeSet<Partition>,
}

/// What the leaders are asked, kept from round to round: who leads what seldom changes.
#[derive(Default)]
struct Questions {
    metadata: Arc<Metadata>,
    wanted: Arc<Vec<Partition>>,
    by_leader: BTreeMap<i32, Question>,
}

struct Question {
    request: Arc<ListOffsetsRequest>,
    /// The last answer's bytes, if all that followed from them was done: the same ones once more say nothing new.
    answered: Vec<u8>,
}

impl Questions {
    fn renew(&mut self, metadata: Arc<Metadata>, wanted: &Arc<Vec<Partition>>) {
        if Arc::ptr_eq(&self.metadata, &metadata) && Arc::ptr_eq(&self.wanted, wanted) {
            return;
        }
        let question = |group: Vec<&Partition>| Question {
            request: Arc::new(list_offsets_request(&group, Which::End)),
            answered: Vec::new(),
        };
        self.by_leader =
            by_leader(&metadata, &**wanted).into_iter().map(|(leader, group)| (leader, question(group))).collect();
        self.metadata = metadata;
        self.wanted = wanted.clone();
    }
}

impl Source {
    /// Nothing is known yet, and nobody listens.
    pub fn new(local: Arc<Cluster>, capture: Arc<Capture>) -> Arc<Self> {
        Arc::new(Self { local, capture, views: Mutex::default(), soon: Notify::new() })
    }

    /// The number under which a new region listens, until it [`Source::leave`]s.
    pub fn join(&self) -> u64 {
        let mut views = self.lock();
        let number = views.next_listener;
        views.next_listener += 1;
        views.listeners.insert(number, Listener::default());
        number
    }

    /// A region listens no more.
    pub fn leave(&self, region: u64) {
        self.lock().listeners.remove(&region);
    }

    /// Notified whenever leaders have spoken. One who has left is never notified.
    pub fn ear(&self, region: u64) -> Arc<Notify> {
        self.lock().listeners.get(&region).map(|listener| listener.spoken.clone()).unwrap_or_default()
    }

    /// Asks for a round soon: a new connection's captures wait to be verified, or a partition is new.
    pub fn ask_soon(&self) {
        self.soon.notify_one();
    }

    /// What is known about a partition.
    pub fn view(&self, partition: &Partition) -> Option<SourceView> {
        self.lock().by_partition.get(partition).copied()
    }

    /// Whether captures by a connection (see [`Capture::next_connection`]) to a broker count.
    pub fn is_verified(&self, node_id: i32, connection: u64) -> bool {
        self.lock().verified.get(&node_id).is_some_and(|verified| connection < *verified)
    }

    /// What has changed since the region last asked.
    pub fn changes(&self, region: u64) -> Vec<(Partition, SourceView)> {
        let mut views = self.lock();
        let changed = views.listeners.get_mut(&region).map(|listener| std::mem::take(&mut listener.changes));
        let changed = changed.unwrap_or_default();
        changed
            .into_iter()
            .filter_map(|partition| {
                let view = views.by_partition.get(&partition).copied()?;
                Some((partition, view))
            })
            .collect()
    }

    /// Asks on until dropped. `partitions` are those to ask for, every `log_end_interval` of `settings`.
    pub async fn run(
        self: Arc<Self>,
        mut partitions: watch::Receiver<Arc<Vec<Partition>>>,
        settings: watch::Receiver<config::Mirror>,
    ) {
        let mut wanted = Arc::default();
        let mut questions = Questions::default();
        loop {
            let now = partitions.borrow_and_update().clone();
            if !Arc::ptr_eq(&now, &wanted) {
                wanted = now;
                self.forget_all_but(&wanted);
            }
            let begun = tokio::time::Instant::now();
            self.round(&wanted, &mut questions).await;
            let spacing = SPACING.max(begun.elapsed() * SPACING_FACTOR);
            self.lock().listeners.values().for_each(|listener| listener.spoken.notify_one());
            let interval = settings.borrow().log_end_interval;
            tokio::time::sleep(spacing.min(interval)).await;
            tokio::select! {
                biased;
                () = tokio::time::sleep(interval) => {}
                () = self.soon.notified() => {}
                () = self.capture.opened() => {}
                changed = partitions.changed() => if changed.is_err() { return },
            }
        }
    }

    /// What is asked for no longer is known no longer: should it be wanted again, an old word about its leader would count as a new one.
    fn forget_all_but(&self, wanted: &[Partition]) {
        let wanted: HashSet<&Partition> = wanted.iter().collect();
        let mut views = self.lock();
        views.by_partition.retain(|partition, _| wanted.contains(partition));
        views.epochs_asked.retain(|partition, _| wanted.contains(partition));
    }

    async fn round(&self, wanted: &Arc<Vec<Partition>>, questions: &mut Questions) {
        let connection = self.capture.next_connection();
        questions.renew(self.local.metadata(), wanted);
        let mut calls = tokio::task::JoinSet::new();
        for (leader, question) in &mut questions.by_leader {
            let (local, leader, request) = (self.local.clone(), *leader, question.request.clone());
            let mut answered = std::mem::take(&mut question.answered);
            calls.spawn(async move {
                let answer = local.call_for_news(leader, &*request, &mut answered).await;
                (leader, answered, answer)
            });
        }
        let mut moved = false;
        let mut unasked = BTreeMap::new();
        while let Some(joined) = calls.join_next().await {
            let Ok((leader, answered, answer)) = joined else { continue };
            let is_done = match answer {
                Ok(None) => {
                    self.lock().verified.insert(leader, connection);
                    true
                }
                Ok(Some(answer)) => {
                    let offsets = listed_offsets(answer, leader);
                    let failed = offsets.iter().any(|(_, offset)| offset.is_err());
                    let (elsewhere, new) = self.take(leader, connection, offsets);
                    moved |= elsewhere;
                    let is_done = !failed && new.is_empty();
                    unasked.insert(leader, new);
                    is_done
                }
                Err(error) => {
                    tracing::debug!(%error, "a local broker could not be asked for its logs' ends");
                    self.lock().verified.remove(&leader);
                    moved = true;
                    false
                }
            };
            if let Some(question) = questions.by_leader.get_mut(&leader).filter(|_| is_done) {
                question.answered = answered;
            }
        }
        self.ask_for_epochs(unasked).await;
        if moved && let Err(error) = self.local.refresh().await {
            tracing::debug!(%error, "the local cluster could not be asked for its metadata");
        }
    }

    /// Asks leaders where their current epoch ends: a log that does not know it is in a message format older than v2. Once for each leader epoch.
    async fn ask_for_epochs(&self, unasked: BTreeMap<i32, Vec<(Partition, i32)>>) {
        let mut calls = tokio::task::JoinSet::new();
        for (leader, epochs) in unasked.into_iter().filter(|(_, epochs)| !epochs.is_empty()) {
            let local = self.local.clone();
            calls.spawn(async move {
                let ends = epoch_ends(&local, leader, &epochs).await;
                (epochs, ends)
            });
        }
        while let Some(joined) = calls.join_next().await {
            let Ok((epochs, ends)) = joined else { continue };
            // What is not answered is asked for again in the next round.
            let ends: HashMap<Partition, Result<i64, i16>> = ends.unwrap_or_default().into_iter().collect();
            let mut views = self.lock();
            for (partition, epoch) in epochs {
                if let Some(Ok(end)) = ends.get(&partition) {
                    views.note_epochs(partition, epoch, *end >= 0);
                }
            }
        }
    }

    /// Takes a broker's answer; says whether it was about leadership that moved, and whose leader epochs are new.
    fn take(
        &self,
        leader: i32,
        connection: u64,
        offsets: Vec<(Partition, Result<LogOffset, i16>)>,
    ) -> (bool, Vec<(Partition, i32)>) {
        let mut moved = false;
        let mut new = Vec::new();
        let mut guard = self.lock();
        let Views { by_partition, epochs_asked, verified, listeners, .. } = &mut *guard;
        for (partition, answer) in offsets {
            let before = by_partition.get(&partition).copied();
            let view = match answer {
                Ok(log) => {
                    let asked = epochs_asked.get(&partition) == Some(&log.leader_epoch);
                    if !asked {
                        new.push((partition.clone(), log.leader_epoch));
                    }
                    let keeps_epochs = asked && before.is_some_and(|view| view.keeps_epochs);
                    SourceView { leader, leader_epoch: log.leader_epoch, end: log.offset, keeps_epochs }
                }
                Err(code) => {
                    moved |= matches!(
                        code,
                        error_code::NOT_LEADER_OR_FOLLOWER
                            | error_code::LEADER_NOT_AVAILABLE
                            | error_code::UNKNOWN_TOPIC_OR_PARTITION
                    );
                    match before {
                        Some(view) => SourceView { leader: -1, ..view },
                        None => continue,
                    }
                }
            };
            if before != Some(view) {
                for listener in listeners.values_mut() {
                    listener.changes.insert(partition.clone());
                }
                by_partition.insert(partition, view);
            }
        }
        verified.insert(leader, connection);
        (moved, new)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Views> {
        self.views.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
