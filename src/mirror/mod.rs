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
mod fetch_session;
pub mod identity;
pub mod inbox;
pub mod latency;
pub mod link;
mod log;
pub mod metrics;
pub mod offsets;
pub mod ownership;
pub mod progress;
pub mod reader;
pub mod region;
pub mod rejoin;
pub mod retrace;
pub mod rewind;
mod running;
pub mod scan;
pub mod slow;
pub mod source;
pub mod start;
pub mod steering;
pub mod stream;
pub mod throttle;
pub mod topic_list;
pub mod topic_settings;
mod topic_watch;
pub mod topics;
pub mod transactions;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::capture::Capture;
use crate::client::cluster::Cluster;
use crate::config::{self, Config};
use crate::journal::Journal;
use crate::lag::{Hold, RateLimits, RegionLag};

use events::Event;
use metrics::MirrorMetrics;
use progress::Partition;
use rewind::{Rewind, Rewound};
use running::Common;
pub use running::{Connects, Running};
use source::Source;
use steering::Steering;
use stream::Obstacle;
use throttle::Throttling;
use topic_watch::TopicWatch;

/// How long a region that is taken out may take to commit its positions.
const REGION_STOP_WITHIN: Duration = Duration::from_secs(3);

/// The regions that run, in the order of the configuration.
type Regions = ArcSwap<Vec<Arc<Running>>>;

/// Why a command was not carried out. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// There is no such region or stream.
    #[error("{0}")]
    Unknown(String),
    /// It can't be done as things are now.
    #[error("{0}")]
    Refused(String),
    /// Another proxy mirrors this stream.
    #[error("{0}")]
    Elsewhere(String),
    /// The region's task does not answer.
    #[error("the region's task does not answer; the log says whether it was done")]
    Silent,
}

/// The running mirror. Dropping it ends it at once; [`Mirror::stop`] ends it in order.
pub struct Mirror {
    common: Common,
    regions: Arc<Regions>,
    /// Something of the regions or of what they select has changed.
    changed: Arc<Notify>,
    settings: watch::Sender<config::Mirror>,
    tasks: tokio::sync::Mutex<JoinSet<()>>,
}

impl std::fmt::Debug for Mirror {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mirror").field("regions", &self.regions).finish_non_exhaustive()
    }
}

impl Mirror {
    /// Starts mirroring what `config` says. `connect` gives the way to a region's brokers. `local` must have been refreshed once.
    pub fn start(
        config: &Config,
        connect: Box<Connects>,
        local: Arc<Cluster>,
        capture: Arc<Capture>,
        metrics: &MirrorMetrics,
        journal: &Arc<Journal>,
    ) -> Self {
        let source = Source::new(local.clone(), capture.clone());
        let common = Common {
            local: local.clone(),
            capture: capture.clone(),
            source: source.clone(),
            metrics: metrics.clone(),
            journal: journal.clone(),
            connect,
        };
        let mut tasks = JoinSet::new();
        let running = config
            .region
            .iter()
            .map(|region| Arc::new(Running::start(&common, config, region, Steering::new(region), &mut tasks)));
        let regions: Arc<Regions> = Arc::new(ArcSwap::from_pointee(running.collect()));
        let (settings, settings_seen) = watch::channel(config.mirror.clone());
        let (partitions, partitions_seen) = watch::channel(Arc::new(Vec::new()));
        tasks.spawn(source.run(partitions_seen, settings_seen.clone()));
        let changed: Arc<Notify> = Arc::default();
        let topics = TopicWatch {
            origin: config.proxy.name.as_str().to_string(),
            local,
            capture,
            regions: regions.clone(),
            changed: changed.clone(),
            partitions,
            settings: settings_seen,
            journal: journal.clone(),
            hidden: BTreeMap::new(),
        };
        tasks.spawn(topics.run());
        Self { common, regions, changed, settings, tasks: tokio::sync::Mutex::new(tasks) }
    }

    /// Mirrors what `config` says from now on. Regions that are not in it any more are ended in order, new ones are started, those named in `reconnect`
    /// are ended and started again, at their positions; all others go on. Call it once at a time.
    pub async fn configure(&self, config: &Config, reconnect: &BTreeSet<String>) {
        let before = self.regions.load_full();
        self.settings.send_replace(config.mirror.clone());
        let stays = |running: &Running| {
            !reconnect.contains(&**running.name())
                && config.region.iter().any(|region| region.name.as_str() == &**running.name())
        };
        let (staying, leaving): (Vec<_>, Vec<_>) = before.iter().cloned().partition(|running| stays(running));
        if !leaving.is_empty() {
            // Nothing is captured for them from here on.
            self.regions.store(Arc::new(staying.clone()));
            self.changed.notify_one();
            join_all(leaving.iter().map(|running| running.stop(&self.common.source, REGION_STOP_WITHIN))).await;
        }
        let mut now = Vec::with_capacity(config.region.len());
        let mut tasks = self.tasks.lock().await;
        while tasks.try_join_next().is_some() {}
        for region in &config.region {
            let name = region.name.as_str();
            if let Some(running) = staying.iter().find(|running| &**running.name() == name) {
                running.configure(region, config).await;
                now.push(running.clone());
                continue;
            }
            let known = leaving.iter().find(|running| &**running.name() == name);
            let mut steering = known.map_or_else(|| Steering::new(region), |known| known.steering.borrow().clone());
            steering.configure(region);
            now.push(Arc::new(Running::start(&self.common, config, region, steering, &mut tasks)));
        }
        drop(tasks);
        for gone in leaving.iter().filter(|gone| !now.iter().any(|running| running.name() == gone.name())) {
            self.common.metrics.forget(gone.name());
        }
        self.regions.store(Arc::new(now));
        self.changed.notify_one();
        // What waits for an interval that was too long waits no longer.
        self.common.source.ask_soon();
    }

    /// How far behind each region is now. A region whose task does not answer within two seconds, or ends, is left out.
    pub async fn lag(&self) -> Vec<RegionLag> {
        let mut answers = Vec::new();
        for region in self.regions.load_full().iter() {
            match region.ask(Event::Lag).await {
                Ok(lag) => answers.push(lag),
                Err(_) if region.is_stopping() => {}
                Err(_) => tracing::error!(region = %region.name(), "the region's task does not answer"),
            }
        }
        answers
    }

    /// The regions that run, in the order of the configuration.
    pub fn regions(&self) -> Arc<Vec<Arc<Running>>> {
        self.regions.load_full()
    }

    fn region(&self, name: &str) -> Result<Arc<Running>, CommandError> {
        let regions = self.regions.load_full();
        regions.iter().find(|region| &**region.name() == name).cloned().ok_or_else(|| {
            let known: Vec<&str> = regions.iter().map(|region| &**region.name()).collect();
            CommandError::Unknown(format!("there is no region {name:?}; known regions: {}", known.join(", ")))
        })
    }

    /// A region, and a topic that is mirrored there, if one is named.
    fn place(&self, region: &str, topic: Option<&str>) -> Result<Arc<Running>, CommandError> {
        let region = self.region(region)?;
        if let Some(topic) = topic
            && !region.topics.borrow().iter().any(|known| &*known.name == topic)
        {
            return Err(CommandError::Unknown(format!(
                "topic {topic:?} is not mirrored to region {:?}; GET /regions/{}/topics lists what is",
                region.name(),
                region.name()
            )));
        }
        Ok(region)
    }

    /// Holds back a region, or one topic on its way there: positions stay, nothing is sent, nothing is lost.
    ///
    /// # Errors
    /// [`CommandError::Unknown`].
    pub fn pause(&self, region: &str, topic: Option<&str>, hold: Hold) -> Result<(), CommandError> {
        let running = self.place(region, topic)?;
        running.steering.send_modify(|steering| steering.pause(topic, hold));
        Ok(())
    }

    /// Lets a region, or one topic, go on; a region's limits are again those of the configuration.
    ///
    /// # Errors
    /// [`CommandError::Unknown`]; [`CommandError::Refused`] for a topic whose whole region is paused.
    pub fn resume(&self, region: &str, topic: Option<&str>) -> Result<(), CommandError> {
        let running = self.place(region, topic)?;
        if topic.is_some() && running.steering.borrow().region().is_some() {
            return Err(CommandError::Refused(format!("the whole region {region:?} is paused: resume that")));
        }
        running.steering.send_modify(|steering| steering.resume(topic));
        if topic.is_none() {
            running.throttles.restore();
        }
        Ok(())
    }

    /// Sets other limits than the configured ones, until the region is resumed or the configuration is read again. The limits that hold now.
    ///
    /// # Errors
    /// [`CommandError::Unknown`].
    pub fn throttle(&self, region: &str, limits: Throttling, hold: Hold) -> Result<RateLimits, CommandError> {
        let running = self.region(region)?;
        running.throttles.throttle(limits, hold);
        Ok(running.throttles.limits())
    }

    /// Has streams of a region begin anew at an earlier offset: what the region has from there on it then has twice.
    ///
    /// # Errors
    /// [`CommandError`]; [`CommandError::Refused`] when not one of the streams can be rewound.
    pub async fn rewind(&self, region: &str, what: &Rewind) -> Result<Rewound, CommandError> {
        rewind::rewind(&self.common.local, &*self.region(region)?, what).await
    }

    /// Steps over the batch at source offset `offset` of `partition`, which stalls its stream to `region`. The region never gets that batch; a new
    /// incarnation of the stream begins behind it.
    ///
    /// # Errors
    /// [`CommandError`], unless exactly this batch stalls the stream now.
    pub async fn skip(&self, region: &str, partition: Partition, offset: i64) -> Result<Obstacle, CommandError> {
        self.region(region)?.ask(|answer| Event::Skip { partition, offset, answer }).await?
    }

    /// Commits every position and ends. Takes at most `deadline`.
    pub async fn stop(&self, deadline: Duration) {
        let regions = self.regions.load_full();
        join_all(regions.iter().map(|region| region.stop(&self.common.source, deadline))).await;
        self.tasks.lock().await.shutdown().await;
    }
}
