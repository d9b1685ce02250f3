//! From the local log to the regions.
//!
//! [`Mirror`] starts one [`region`] task per region and keeps all of them told what is mirrored. A [`stream`] is one partition on its way to
//! one region: a state machine without I/O. What it wants is done by a [`link`] (sending), a [`reader`] (catch-up), a [`scan`] (reading the position
//! from the region's log), [`progress`] (committing it) and [`start`]. Where several proxies share the streams, [`ownership`] knows which are this one's.
//!
//! Nothing here is ever awaited by a client's session; nothing here may point back at one.

pub mod batch;
pub mod committed;
pub mod events;
pub mod identity;
pub mod inbox;
pub mod latency;
pub mod link;
pub mod metrics;
pub mod offsets;
pub mod ownership;
pub mod progress;
pub mod reader;
pub mod region;
pub mod rejoin;
pub mod retrace;
pub mod scan;
pub mod source;
pub mod start;
pub mod stream;
pub mod throttle;
pub mod topic_list;
pub mod topics;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::capture::{Capture, Route, Routes};
use crate::client::cluster::{Cluster, Metadata};
use crate::config::{self, Config};
use crate::journal::Journal;
use crate::lag::RegionLag;
use crate::net::Connect;

use events::Event;
use inbox::Inbox;
use metrics::MirrorMetrics;
use ownership::Ownership;
use progress::{Partition, Progress};
use region::{Parts, Region, Settings};
use source::Source;
use stream::Obstacle;
use throttle::Throttle;
use topic_list::{MirroredTopic, mirrored_topics};

/// How long somebody who asks for the lag waits for a region's task.
const LAG_DEADLINE: Duration = Duration::from_secs(2);

/// Why a batch was not stepped over. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SkipError {
    /// There is no such region or stream.
    #[error("{0}")]
    Unknown(String),
    /// It is not this batch that stalls the stream now.
    #[error("{0}")]
    Refused(String),
    /// Another proxy mirrors this stream.
    #[error("{0}")]
    Elsewhere(String),
    /// The region's task does not answer.
    #[error("the region's task does not answer; the log says whether the batch was stepped over")]
    Silent,
}

/// The running mirror. Dropping it ends it at once; [`Mirror::stop`] ends it in order.
#[derive(Debug)]
pub struct Mirror {
    regions: Vec<(String, mpsc::Sender<Event>)>,
    clusters: Vec<Arc<Cluster>>,
    tasks: tokio::sync::Mutex<JoinSet<()>>,
}

impl Mirror {
    /// Starts mirroring what `config` says. `connect` gives the way to a region's brokers. `local` must have been refreshed once.
    pub fn start(
        config: &Config,
        connect: &dyn Fn(&config::Region) -> Arc<dyn Connect>,
        local: Arc<Cluster>,
        capture: Arc<Capture>,
        metrics: &MirrorMetrics,
        journal: &Arc<Journal>,
    ) -> Self {
        let mut clusters = Vec::new();
        let mut tasks = JoinSet::new();
        let mut regions = Vec::new();
        let mut watched = Vec::new();
        let source = Source::new(local.clone(), capture.clone(), config.region.len());
        let share = |whole: usize| whole / config.region.len().max(1);
        for (index, region) in config.region.iter().enumerate() {
            let name = region.name.as_str();
            let servers = region.bootstrap_servers.iter().map(ToString::to_string).collect();
            let inbox: Arc<Inbox> = Arc::default();
            let (topics, topics_seen) = watch::channel(Arc::new(Vec::new()));
            let cluster =
                Cluster::new(name, servers, connect(region), config.proxy.dial_timeout, metrics.traffic(name));
            clusters.push(cluster.clone());
            let progress = Arc::new(Progress::new(local.clone(), name));
            let ownership = Ownership::new(Arc::from(config.proxy.instance()));
            tasks.spawn(ownership::run::run(ownership::run::Parts {
                region: region.clone(),
                origin: config.proxy.name.to_string(),
                session: config.mirror.session_timeout,
                local: local.clone(),
                progress: progress.clone(),
                topics: topics_seen.clone(),
                metrics: metrics.region(name),
                ownership: ownership.clone(),
            }));
            let (task, events) = Region::new(Parts {
                settings: Settings {
                    index,
                    name: Arc::from(name),
                    start: region.start,
                    on_region_topic_lost: region.on_region_topic_lost,
                    forward: region.forward,
                    window_bytes: region.window.as_usize(),
                    capture_share_bytes: share(config.mirror.buffer.as_usize()),
                    catch_up_share_bytes: share(config.mirror.catch_up_buffer.as_usize()),
                    progress_interval: config.mirror.progress_interval,
                    metadata_interval: config.mirror.metadata_interval,
                },
                local: local.clone(),
                cluster,
                progress,
                ownership,
                source: source.clone(),
                inbox: inbox.clone(),
                capture: capture.clone(),
                topics: topics_seen,
                throttle: region.rate_limit.map(|limit| Arc::new(Throttle::new(limit.as_usize()))),
                catch_up_throttle: region.catch_up_rate_limit.map(|limit| Arc::new(Throttle::new(limit.as_usize()))),
                metrics: metrics.region(name),
                journal: journal.clone(),
            });
            tasks.spawn(task.run());
            regions.push((name.to_string(), events));
            watched.push(Watched { config: region.clone(), topics, inbox });
        }
        let (partitions, partitions_seen) = watch::channel(Arc::new(Vec::new()));
        tasks.spawn(source.run(partitions_seen, config.mirror.log_end_interval));
        let topics = Topics {
            origin: config.proxy.name.as_str().to_string(),
            local,
            capture,
            regions: watched,
            partitions,
            interval: config.mirror.metadata_interval,
        };
        tasks.spawn(topics.run());
        Self { regions, clusters, tasks: tokio::sync::Mutex::new(tasks) }
    }

    /// How far behind each region is now. A region whose task does not answer within two seconds is left out.
    pub async fn lag(&self) -> Vec<RegionLag> {
        let mut answers = Vec::new();
        for (name, events) in &self.regions {
            let (answer, lag) = oneshot::channel();
            let asked = tokio::time::timeout(LAG_DEADLINE, async {
                events.send(Event::Lag(answer)).await.ok()?;
                lag.await.ok()
            });
            match asked.await {
                Ok(Some(lag)) => answers.push(lag),
                _ => tracing::error!(region = %name, "the region's task does not answer"),
            }
        }
        answers
    }

    /// The regions' clusters, for what their metadata says.
    pub fn clusters(&self) -> &[Arc<Cluster>] {
        &self.clusters
    }

    /// Steps over the batch at source offset `offset` of `partition`, which stalls its stream to `region`. The region never gets that batch; a new
    /// incarnation of the stream begins behind it.
    ///
    /// # Errors
    /// [`SkipError`], unless exactly this batch stalls the stream now.
    pub async fn skip(&self, region: &str, partition: Partition, offset: i64) -> Result<Obstacle, SkipError> {
        let Some((_, events)) = self.regions.iter().find(|(name, _)| name == region) else {
            let known: Vec<&str> = self.regions.iter().map(|(name, _)| name.as_str()).collect();
            return Err(SkipError::Unknown(format!(
                "there is no region {region:?}; known regions: {}",
                known.join(", ")
            )));
        };
        let (answer, skipped) = oneshot::channel();
        let asked = tokio::time::timeout(LAG_DEADLINE, async {
            events.send(Event::Skip { partition, offset, answer }).await.ok()?;
            skipped.await.ok()
        });
        asked.await.ok().flatten().unwrap_or(Err(SkipError::Silent))
    }

    /// Commits every position and ends. Takes at most `deadline`.
    pub async fn stop(&self, deadline: Duration) {
        let stopping = async {
            let mut waiting = Vec::new();
            for (_, events) in &self.regions {
                let (done, stopped) = oneshot::channel();
                if events.send(Event::Stop(done)).await.is_ok() {
                    waiting.push(stopped);
                }
            }
            for stopped in waiting {
                // A task that ended without a word has nothing more to commit.
                let _ = stopped.await;
            }
        };
        if tokio::time::timeout(deadline, stopping).await.is_err() {
            tracing::warn!(
                "some positions were not committed in time; they are found in the regions at the next start"
            );
        }
        self.tasks.lock().await.shutdown().await;
    }
}

/// Keeps regions, sessions and the source told which topics there are.
struct Topics {
    origin: String,
    local: Arc<Cluster>,
    capture: Arc<Capture>,
    regions: Vec<Watched>,
    partitions: watch::Sender<Arc<Vec<Partition>>>,
    interval: Duration,
}

struct Watched {
    config: crate::config::Region,
    topics: watch::Sender<Arc<Vec<MirroredTopic>>>,
    inbox: Arc<Inbox>,
}

impl Topics {
    async fn run(self) {
        loop {
            self.tell(&self.local.metadata());
            tokio::select! {
                biased;
                () = tokio::time::sleep(self.interval) => {}
                () = self.capture.unknown_topic() => {}
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
        for region in &self.regions {
            let topics = mirrored_topics(metadata, &region.config, &self.origin);
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
