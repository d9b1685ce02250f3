//! A region while it runs: what the mirror keeps of it, beside its task.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::CommandError;
use super::events::Event;
use super::inbox::Inbox;
use super::metrics::MirrorMetrics;
use super::ownership::{self, Ownership};
use super::progress::Progress;
use super::region::{Parts, Region, Settings};
use super::source::Source;
use super::steering::Steering;
use super::throttle::Throttles;
use super::topic_list::MirroredTopic;
use crate::capture::Capture;
use crate::client::Reach;
use crate::client::cluster::Cluster;
use crate::config;
use crate::journal::Journal;
use crate::net::Connect;

/// How long somebody who asks a region's task waits for it.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// How a region's brokers are connected to.
pub type Connects = dyn Fn(&config::Region) -> Arc<dyn Connect> + Send + Sync;

/// What all regions work with.
pub(super) struct Common {
    pub local: Arc<Cluster>,
    pub capture: Arc<Capture>,
    pub source: Arc<Source>,
    pub metrics: MirrorMetrics,
    pub journal: Arc<Journal>,
    pub connect: Box<Connects>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Running {
    name: Arc<str>,
    number: u64,
    config: ArcSwap<config::Region>,
    cluster: Arc<Cluster>,
    events: mpsc::Sender<Event>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) topics: watch::Sender<Arc<Vec<MirroredTopic>>>,
    pub(super) steering: watch::Sender<Steering>,
    pub(super) throttles: Arc<Throttles>,
    /// It is asked to end, or has ended: it need not answer any more.
    stopping: AtomicBool,
    task: AbortHandle,
    /// Its part in the group that shares the streams; the task tells it to leave.
    member: AbortHandle,
}

/// A region's settings, as one of `regions` that share the buffers.
fn settings(number: u64, region: &config::Region, mirror: &config::Mirror, regions: usize) -> Settings {
    let share = |whole: usize| whole / regions.max(1);
    Settings {
        index: number,
        name: Arc::from(region.name.as_str()),
        named_topics: region.named_topics().map(Arc::from).collect(),
        start: region.start,
        on_region_topic_lost: region.on_region_topic_lost,
        forward: region.forward,
        window_bytes: region.window.as_usize(),
        capture_share_bytes: share(mirror.buffer.as_usize()),
        catch_up_share_bytes: share(mirror.catch_up_buffer.as_usize()),
        progress_interval: mirror.progress_interval,
        metadata_interval: mirror.metadata_interval,
    }
}

impl Running {
    /// Starts a region as one of `regions`. `steering` is what operators have said of it before.
    pub(super) fn start(
        common: &Common,
        config: &config::Config,
        region: &config::Region,
        steering: Steering,
        tasks: &mut JoinSet<()>,
    ) -> Self {
        let name = region.name.as_str();
        let servers = region.bootstrap_servers.iter().map(ToString::to_string).collect();
        let traffic = common.metrics.traffic(name);
        let dial_timeout = config.proxy.dial_timeout;
        let reach = Reach::new((common.connect)(region), "region.sasl", region.sasl.as_ref(), dial_timeout);
        let cluster = Cluster::new(name, servers, reach, dial_timeout, traffic);
        let inbox: Arc<Inbox> = Arc::default();
        let (topics, topics_seen) = watch::channel(Arc::new(Vec::new()));
        let (steering, steering_seen) = watch::channel(steering);
        let throttles = Throttles::new(region);
        let number = common.source.join();
        let progress = Arc::new(Progress::new(common.local.clone(), name));
        let ownership = Ownership::new(Arc::from(config.proxy.instance()));
        let member = tasks.spawn(ownership::run::run(ownership::run::Parts {
            region: region.clone(),
            origin: config.proxy.name.to_string(),
            session: config.mirror.session_timeout,
            local: common.local.clone(),
            progress: progress.clone(),
            topics: topics_seen.clone(),
            metrics: common.metrics.region(name),
            ownership: ownership.clone(),
        }));
        let (task, events) = Region::new(Parts {
            settings: settings(number, region, &config.mirror, config.region.len()),
            local: common.local.clone(),
            cluster: cluster.clone(),
            progress,
            ownership,
            source: common.source.clone(),
            inbox: inbox.clone(),
            capture: common.capture.clone(),
            topics: topics_seen,
            steering: steering_seen,
            throttles: throttles.clone(),
            metrics: common.metrics.region(name),
            journal: common.journal.clone(),
        });
        let task = tasks.spawn(task.run());
        Self {
            name: Arc::from(name),
            number,
            config: ArcSwap::from_pointee(region.clone()),
            cluster,
            events,
            inbox,
            topics,
            steering,
            throttles,
            stopping: AtomicBool::new(false),
            task,
            member,
        }
    }

    /// The region's configured name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The region's cluster.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// Whether it is asked to end, or has ended.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// As it is configured now.
    pub fn config(&self) -> Arc<config::Region> {
        self.config.load_full()
    }

    /// Another configuration, of which only such keys differ as need no new connections.
    pub(super) async fn configure(&self, region: &config::Region, config: &config::Config) {
        self.config.store(Arc::new(region.clone()));
        self.cluster.set_deadline(config.proxy.dial_timeout);
        self.throttles.configure(region);
        self.steering.send_modify(|steering| steering.configure(region));
        let settings = settings(self.number, region, &config.mirror, config.region.len());
        if let Err(error) = self.tell(Event::Configure(settings)).await {
            tracing::error!(region = %self.name, %error, "the region goes on with its old settings");
        }
    }

    /// Has the region's task hear of something. It answers, if at all, by itself.
    pub(super) async fn tell(&self, event: Event) -> Result<(), CommandError> {
        match tokio::time::timeout(ANSWER_WITHIN, self.events.send(event)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(CommandError::Silent),
        }
    }

    /// Asks the region's task.
    pub(super) async fn ask<T>(&self, event: impl FnOnce(oneshot::Sender<T>) -> Event) -> Result<T, CommandError> {
        let (answer, answered) = oneshot::channel();
        let asked = tokio::time::timeout(ANSWER_WITHIN, async {
            self.events.send(event(answer)).await.ok()?;
            answered.await.ok()
        });
        asked.await.ok().flatten().ok_or(CommandError::Silent)
    }

    /// Ends the region: every position is committed, if that can be done within `deadline`. What is not is found in the region at its next start.
    pub(super) async fn stop(&self, source: &Source, deadline: Duration) {
        self.stopping.store(true, Ordering::Relaxed);
        let (done, stopped) = oneshot::channel();
        let stopping = async {
            if self.events.send(Event::Stop(done)).await.is_ok() {
                // A task that ended without a word has nothing more to commit.
                let _ = stopped.await;
            }
        };
        if tokio::time::timeout(deadline, stopping).await.is_err() {
            tracing::warn!(region = %self.name,
                "some positions were not committed in time; they are found in the region at its next start");
        }
        self.task.abort();
        self.member.abort();
        source.leave(self.number);
    }
}
