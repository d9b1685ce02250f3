//! One region: its streams, the links to its brokers, the readers of the local log, all driven by one task.
//!
//! The task never waits for a cluster: links, readers and jobs do, and tell it by [`Event`]s. After whatever has happened, the streams
//! that it touched are settled: what they want is handed to those who do it.

mod answers;
mod captures;
mod denied;
mod forward;
mod identities;
mod jobs;
mod links;
mod lost;
mod roster;
mod settle;
mod slow;
mod steer;
mod tenure;
mod two_way;
mod view;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::capture::Capture;
use crate::client::ClientError;
use crate::client::cluster::Cluster;
use crate::client::error_code;
use crate::client::rights::{Operation, Right};
use crate::config::{Forward, OnRegionTopicLost, Start};
use crate::journal::{Journal, Kind};
use crate::lag::{self, Elsewhere, ObstacleLag, OtherProxy, PartitionLag, RegionLag, State, TopicLag};
use crate::mirror::CommandError;
use crate::mirror::batch::Batch;
use crate::mirror::events::{EVENTS_MAX, Event};
use crate::mirror::inbox::{Captured, Inbox};
use crate::mirror::latency::Latency;
use crate::mirror::link::{self, Entry, LINK_QUEUE_REQUESTS, Lane, Request};
use crate::mirror::metrics::RegionMetrics;
use crate::mirror::offsets::{Which, epoch_ends, list_all};
use crate::mirror::ownership::{Ownership, Pass, Share, Standing};
use crate::mirror::progress::{Partition, Progress};
use crate::mirror::reader::{self, Mode, Read, ReadPartition, Wish, Wishes};
use crate::mirror::rejoin::{self, Rejoin, Rejoined};
use crate::mirror::retrace::{self, Retraced, Trace};
use crate::mirror::rewind::{RewindTarget, Selected};
use crate::mirror::scan::{self, Scanned, Target};
use crate::mirror::source::Source;
use crate::mirror::start::{self, Keeping, Started, Starting};
use crate::mirror::steering::Steering;
use crate::mirror::stream::{FetchWant, FetchWhy, Obstacle, Phase, Stream, Taken};
use crate::mirror::throttle::Throttles;
use crate::mirror::topic_list::MirroredTopic;
use crate::mirror::topics::hidden_reason;
use crate::mirror::transactions;
use captures::Unverified;
use denied::{Denied, Need};

use tenure::Tenure;

/// Bytes of batches in one Produce request, above which no further batch is added.
pub(crate) const REQUEST_BYTES_MAX: usize = 1024 * 1024;
/// acks=all requests under way on one link. A broker answers each only when its replicas have it, one after the other: where that is slow, small batches
/// wait here instead, so that all but the last of them go with acks=1.
const BARRIERS_IN_FLIGHT_MAX: usize = 64;
/// With fewer of them under way a link is quiet: what is sent then may be acks=all throughout.
const BARRIERS_OF_QUIET_LINK: usize = 4;
/// Batches in one Produce request.
const REQUEST_BATCHES_MAX: usize = 1000;
/// Events that are taken before what they changed is acted on.
const EVENTS_AT_ONCE: usize = 64;
/// How often streams that wait for time to pass are looked at.
const TICK: Duration = Duration::from_millis(10);
/// Pause before a lost link is tried again, doubled up to [`LINK_RETRY_MAX`].
const LINK_RETRY: Duration = Duration::from_millis(100);
/// The longest pause between two tries.
const LINK_RETRY_MAX: Duration = Duration::from_secs(3);
/// Pause before streams that could not be started are tried again.
const START_RETRY: Duration = Duration::from_secs(1);
/// Why a captured batch is of no use: the partition's leader has not been asked for its epoch since the session connected.
/// Positions that have not moved are committed again so often, so that they don't expire with the offsets of a group (`offsets.retention.minutes`, 7 days by default).
const IDLE_COMMIT: Duration = Duration::from_secs(6 * 3600);
/// How long leaving the group may take.
const LEAVE_WITHIN: Duration = Duration::from_secs(3);
/// How often it is asked whose transaction holds a stream back.
const TRANSACTION_SPACING: Duration = Duration::from_secs(5);
/// A stream that is behind for less than this counts as mirroring.
const CATCHING_UP: Duration = Duration::from_secs(1);

fn every(period: Duration) -> Interval {
    let mut timer = tokio::time::interval(period);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timer
}

/// What a region needs to know. It may change while the region runs, but for its number and name.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The number under which it listens to [`Source`].
    pub index: u64,
    /// Its name.
    pub name: Arc<str>,
    /// Topics that the configuration asks for by their names, not by an expression.
    pub named_topics: Vec<Arc<str>>,
    /// Where streams begin that never ran.
    pub start: Start,
    /// What is done when the region's topic is gone, or holds nothing of a stream any more.
    pub on_region_topic_lost: OnRegionTopicLost,
    /// Whether it also gets what was born elsewhere.
    pub forward: Forward,
    /// Bytes in flight on a link, at most.
    pub window_bytes: usize,
    /// Bytes of captured batches that may wait for this region.
    pub capture_share_bytes: usize,
    /// Bytes that may wait for this region before no more is read from the log.
    pub catch_up_share_bytes: usize,
    /// How often positions are committed.
    pub progress_interval: Duration,
    /// How often the region's metadata is read.
    pub metadata_interval: Duration,
}

/// What a region's task works with.
#[derive(Debug)]
pub struct Parts {
    /// See [`Settings`].
    pub settings: Settings,
    /// The local cluster.
    pub local: Arc<Cluster>,
    /// The region's cluster.
    pub cluster: Arc<Cluster>,
    /// Positions in the local cluster.
    pub progress: Arc<Progress>,
    /// Which of the streams are this proxy's.
    pub ownership: Arc<Ownership>,
    /// The local log's ends.
    pub source: Arc<Source>,
    /// Captured batches.
    pub inbox: Arc<Inbox>,
    /// Where captured batches that are not used are counted.
    pub capture: Arc<Capture>,
    /// Which topics are mirrored to this region.
    pub topics: watch::Receiver<Arc<Vec<MirroredTopic>>>,
    /// What is paused.
    pub steering: watch::Receiver<Steering>,
    /// The limits that hold.
    pub throttles: Arc<Throttles>,
    /// The region's metrics.
    pub metrics: RegionMetrics,
    /// Where changes of state are noted.
    pub journal: Arc<Journal>,
}

struct Slot {
    stream: Stream,
    /// Of a stream that forwards: the one of its partition that sends what was born here. All streams of a partition share what is read of it, and
    /// its commit.
    head: Option<usize>,
    /// Of that one: those that forward, by the producer id of what they send; under 0, the one that looks for others.
    forwards: BTreeMap<i64, usize>,
    partitions: i32,
    topic_id: uuid::Uuid,
    /// The region's broker that leads the partition, as far as the stream is concerned; -1 for none.
    node_id: i32,
    /// Its followers in the region are slow: until then it is sent over a link aside, where it holds up nobody.
    aside_until: Option<Instant>,
    gone: bool,
    tenure: Tenure,
    /// Whether it is shown with its lag: this proxy's, or this proxy's as far as was known last.
    shown: bool,
    /// An operator holds it back.
    paused: bool,
    dirty: bool,
    /// The link that has it in its row of those that can send. One of which that is not true any more is passed over there.
    queued: Option<Lane>,
    starting: bool,
    start_at: Instant,
    scanning: bool,
    asking_epoch: bool,
    asking_start: bool,
    /// When it was last asked whose transaction holds the stream back.
    transaction_asked: Option<Instant>,
    /// Why the local log can't be read, by Kafka's error code.
    unreadable: Option<i16>,
    want: Option<FetchWant>,
    /// From which local broker the partition is read, by mode; only of the head.
    reads: [Option<i32>; 2],
    waiting_bytes: usize,
    latency: Option<Box<Latency>>,
    told: Option<State>,
}

impl Slot {
    fn new(stream: Stream, partitions: i32, topic_id: uuid::Uuid, now: Instant) -> Self {
        Self {
            stream,
            head: None,
            forwards: BTreeMap::new(),
            partitions,
            topic_id,
            node_id: -1,
            aside_until: None,
            gone: false,
            tenure: Tenure::Mine,
            shown: true,
            paused: false,
            dirty: false,
            queued: None,
            starting: false,
            start_at: now,
            scanning: false,
            asking_epoch: false,
            asking_start: false,
            transaction_asked: None,
            unreadable: None,
            want: None,
            reads: [None; 2],
            waiting_bytes: 0,
            latency: None,
            told: None,
        }
    }
}

struct Link {
    generation: u64,
    /// Ends it at once, also where its socket takes nothing.
    end: Option<AbortHandle>,
    queue: Option<mpsc::Sender<Request>>,
    up: bool,
    in_flight_bytes: usize,
    /// acks=all requests that are not answered.
    barriers_in_flight: usize,
    /// Something is under way that its broker may not recognise when it comes again: its records are older than the broker remembers producers.
    unprotected: bool,
    /// Streams that can send, where that is still so ([`Slot::queued`]).
    ready: VecDeque<usize>,
    retry_at: Instant,
    failures: u32,
}

/// A region's task.
pub struct Region {
    parts: Parts,
    steering: Steering,
    /// Which streams are this proxy's, as far as was acted on.
    standing: Standing,
    standings: watch::Receiver<Standing>,
    slots: Vec<Slot>,
    by_partition: HashMap<Arc<str>, BTreeMap<i32, usize>>,
    topic_latency: HashMap<Arc<str>, Latency>,
    /// Records and bytes that the region has acknowledged, by topic.
    topic_mirrored: HashMap<Arc<str>, (u64, u64)>,
    latency: Latency,
    links: BTreeMap<Lane, Link>,
    /// How many were opened: each has its number, so that late words of another are not taken for its own.
    links_opened: u64,
    /// Streams that are sent aside.
    aside: BTreeSet<usize>,
    readers: BTreeMap<(i32, Mode), Arc<Wishes>>,
    dirty: Vec<usize>,
    ticking: BTreeSet<usize>,
    starved: BTreeSet<usize>,
    uncommitted: BTreeSet<usize>,
    to_start: BTreeSet<usize>,
    /// Streams whose start is under way.
    starting: usize,
    epochs_wanted: BTreeSet<usize>,
    /// The producer id that the region has handed out, for streams whose own it refuses.
    handed_out: Option<i64>,
    asking_for_id: bool,
    /// How long each of the region's brokers remembers a producer, milliseconds.
    expirations: BTreeMap<i32, i64>,
    /// Whether it was told that records are sent which are older than that.
    told_unprotected: bool,
    /// Streams that an open transaction holds back.
    held_back: BTreeSet<usize>,
    /// Topics whose local log holds what was born in the region.
    comes_back: HashSet<Arc<str>>,
    /// Whether it was told that MirrorMaker 2 works on one of the two sides.
    told_mirror_maker: bool,
    waiting_bytes: usize,
    committing: bool,
    commit_now: bool,
    refreshing: bool,
    refresh_wanted: bool,
    /// Why the region can't be reached, if so.
    unreachable: Option<String>,
    /// What clusters did not allow, by stream.
    denied: BTreeMap<(usize, Need), Denied>,
    /// Why positions can't be committed, if so.
    uncommittable: Option<String>,
    mirrored_records: u64,
    mirrored_bytes: u64,
    jobs: JoinSet<()>,
    room: Arc<Notify>,
    events: mpsc::Sender<Event>,
    incoming: mpsc::Receiver<Event>,
    spare: Vec<Captured>,
    unverified: Vec<Unverified>,
}

impl Region {
    /// A region with no streams yet, and where to send it [`Event`]s.
    pub fn new(parts: Parts) -> (Self, mpsc::Sender<Event>) {
        let (events, incoming) = mpsc::channel(EVENTS_MAX);
        let steering = parts.steering.borrow().clone();
        let limit = i64::try_from(parts.settings.catch_up_share_bytes).unwrap_or(i64::MAX);
        parts.metrics.waiting_limit_bytes.set(limit);
        let region = Self {
            steering,
            standing: Standing::default(),
            standings: parts.ownership.watch(),
            slots: Vec::new(),
            by_partition: HashMap::new(),
            topic_latency: HashMap::new(),
            topic_mirrored: HashMap::new(),
            latency: Latency::fine(),
            links: BTreeMap::new(),
            links_opened: 0,
            aside: BTreeSet::new(),
            readers: BTreeMap::new(),
            dirty: Vec::new(),
            ticking: BTreeSet::new(),
            starved: BTreeSet::new(),
            uncommitted: BTreeSet::new(),
            to_start: BTreeSet::new(),
            starting: 0,
            epochs_wanted: BTreeSet::new(),
            handed_out: None,
            asking_for_id: false,
            expirations: BTreeMap::new(),
            told_unprotected: false,
            held_back: BTreeSet::new(),
            comes_back: HashSet::new(),
            told_mirror_maker: false,
            waiting_bytes: 0,
            committing: false,
            commit_now: false,
            refreshing: false,
            refresh_wanted: false,
            unreachable: None,
            denied: BTreeMap::new(),
            uncommittable: None,
            mirrored_records: 0,
            mirrored_bytes: 0,
            jobs: JoinSet::new(),
            room: Arc::new(Notify::new()),
            events: events.clone(),
            incoming,
            spare: Vec::new(),
            unverified: Vec::new(),
            parts,
        };
        (region, events)
    }

    /// Runs until told to stop, or until nobody can tell it any more.
    pub async fn run(mut self) {
        let inbox = self.parts.inbox.clone();
        let room = self.room.clone();
        let spoken = self.parts.source.ear(self.parts.settings.index);
        let mut commits = every(self.parts.settings.progress_interval);
        let mut refreshes = every(self.parts.settings.metadata_interval);
        let mut idle_commits = tokio::time::interval_at(Instant::now() + IDLE_COMMIT, IDLE_COMMIT);
        let mut ticks = every(TICK);
        self.update_topics();
        let stopped = loop {
            // Every branch is cancellation safe. What comes seldom is looked at first; captures and events, which may come without end, are
            // both taken whatever has woken the task.
            let mut event = None;
            tokio::select! {
                biased;
                _ = commits.tick() => {
                    self.commit_now = true;
                    self.forget_denied(Instant::now());
                    self.look_at_transactions();
                    self.bring_back();
                }
                _ = idle_commits.tick() => self.commit_again(),
                Ok(()) = self.standings.changed() => self.take_standing(),
                _ = refreshes.tick() => self.refresh_wanted = true,
                _ = ticks.tick(), if !self.ticking.is_empty() || !self.to_start.is_empty() || self.links.values().any(|link| link.queue.is_none()) => self.tick(),
                changed = self.parts.topics.changed() => match changed {
                    Ok(()) => self.update_topics(),
                    Err(_) => break None,
                },
                changed = self.parts.steering.changed() => match changed {
                    Ok(()) => self.take_steering(),
                    Err(_) => break None,
                },
                () = spoken.notified() => {
                    self.take_source();
                    self.take_unverified();
                }
                () = room.notified() => {}
                Some(_) = self.jobs.join_next(), if !self.jobs.is_empty() => {}
                () = inbox.filled() => {}
                received = self.incoming.recv() => match received {
                    Some(received) => event = Some(received),
                    None => break None,
                },
            }
            self.take_captured();
            let mut stop = None;
            for _ in 0..EVENTS_AT_ONCE {
                match event.take().or_else(|| self.incoming.try_recv().ok()) {
                    Some(Event::Stop(done)) => {
                        stop = Some(done);
                        break;
                    }
                    Some(event) => self.handle(event),
                    None => break,
                }
            }
            if stop.is_some() {
                break stop;
            }
            // A new setting holds from now on.
            for (timer, period) in [
                (&mut commits, self.parts.settings.progress_interval),
                (&mut refreshes, self.parts.settings.metadata_interval),
            ] {
                if timer.period() != period {
                    *timer = every(period);
                }
            }
            let now = Instant::now();
            self.settle(now);
            self.pump();
            self.feed_starved();
            self.settle(now);
            self.start_jobs(now);
        };
        self.stop(stopped).await;
    }

    async fn stop(mut self, stopped: Option<oneshot::Sender<()>>) {
        let positions = self.uncommitted_positions();
        let commits = self.commits(&positions);
        if !commits.is_empty()
            && let Err(error) = self.parts.progress.commit(&commits, &self.standing.pass).await
        {
            let name = &self.parts.settings.name;
            if crate::mirror::progress::is_passing(&error) {
                tracing::info!(region = %name, %error, "the last positions are not committed; they are found in the region at the next start");
            } else {
                tracing::warn!(region = %name, %error, "the last positions can't be committed; they are found in the region at the next start");
            }
        }
        self.jobs.shutdown().await;
        if let Some(done) = stopped {
            self.parts.ownership.leave(LEAVE_WITHIN).await;
            let _ = done.send(());
        }
    }

    // ---- what happens -----------------------------------------------------------------------------------------------------

    fn take_source(&mut self) {
        let now = Instant::now();
        for (partition, view) in self.parts.source.changes(self.parts.settings.index) {
            if let Some(head) = self.find(&partition) {
                for stream in self.group(head) {
                    self.slots[stream].stream.on_source(view, now);
                    self.touch(stream);
                }
            }
        }
    }

    fn handle(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::LinkUp { lane, generation } => self.link_up(lane, generation, now),
            Event::LinkDown { lane, generation, error } => self.link_down(lane, generation, error, now),
            Event::HeldUp { lane, generation, batches } => self.held_up(lane, generation, batches),
            Event::Slow { lane, generation, batches } => self.set_aside(lane, generation, batches, now),
            Event::Answered { lane, generation, bytes, barrier, answers } => {
                if let Some(link) = self.links.get_mut(&lane).filter(|link| link.generation == generation) {
                    link.in_flight_bytes = link.in_flight_bytes.saturating_sub(bytes);
                    link.unprotected &= link.in_flight_bytes > 0;
                    link.barriers_in_flight = link.barriers_in_flight.saturating_sub(usize::from(barrier));
                    for answer in answers {
                        self.answered(answer, now);
                    }
                }
            }
            Event::Read(read) => self.read(read, now),
            Event::ReadFailed { node_id, error } => {
                tracing::debug!(region = %self.parts.settings.name, node_id, %error, "the local log could not be read; trying again");
                self.parts.source.ask_soon();
            }
            Event::Started(outcomes) => {
                outcomes.into_iter().for_each(|(stream, outcome)| self.started(stream, outcome, now))
            }
            Event::Scanned(outcomes) => {
                outcomes.into_iter().for_each(|(stream, outcome)| self.scanned(stream, outcome, now))
            }
            Event::Retraced(outcomes) => {
                outcomes.into_iter().for_each(|(stream, outcome)| self.retraced(stream, outcome, now))
            }
            Event::Rejoined(outcomes) => {
                outcomes.into_iter().for_each(|(stream, outcome)| self.rejoined(stream, outcome, now))
            }
            Event::EpochEnds(ends) => {
                ends.into_iter().for_each(|(stream, epoch, end)| self.epoch_end(stream, epoch, end))
            }
            Event::HandedOut(result) => self.handed_out(result, now),
            Event::Expiration { node_id, expiration_ms } => self.on_expiration(node_id, expiration_ms),
            Event::Transactions(answers) => {
                for (stream, transaction) in answers {
                    self.slots[stream].stream.on_transaction(transaction);
                }
            }
            Event::Compacted { topic, compacted } => self.compacted(&topic, compacted),
            Event::LogStarts(starts) => {
                for (stream, log_start) in starts {
                    self.log_start(stream, log_start, now);
                }
            }
            Event::Committed { positions, result } => {
                self.committing = false;
                match result {
                    Ok(refused) => {
                        self.uncommittable = None;
                        for (stream, position) in positions {
                            match refused.get(&self.key(stream)) {
                                None => {
                                    self.slots[stream].stream.on_committed(position);
                                    self.allowed(stream, Need::Commit);
                                }
                                Some(code) => {
                                    self.parts.metrics.error("progress");
                                    let (topic, partition) = self.key(stream);
                                    let right = Right::topic(Operation::Read, &topic);
                                    if let Some(denial) = self.parts.local.denied(*code, right) {
                                        self.deny(stream, Need::Commit, denial.to_string(), now);
                                    }
                                    tracing::debug!(region = %self.parts.settings.name, %topic, partition,
                                        error = error_code::describe(*code), "the position could not be committed; trying again");
                                    self.uncommitted.insert(stream);
                                }
                            }
                            self.touch(stream);
                        }
                    }
                    Err(error) => {
                        self.parts.metrics.error("progress");
                        if crate::mirror::progress::is_passing(&error) {
                            tracing::debug!(region = %self.parts.settings.name, %error, "positions could not be committed; trying again");
                        } else {
                            let reason = error.to_string();
                            if self.uncommittable.as_ref() != Some(&reason) {
                                tracing::error!(region = %self.parts.settings.name, %error,
                                    "positions can't be committed to the local cluster: after a restart more of the region's log must be searched");
                            }
                            for (stream, _) in &positions {
                                self.deny(*stream, Need::Commit, reason.clone(), now);
                            }
                            self.uncommittable = Some(reason);
                        }
                        self.uncommitted.extend(positions.into_iter().map(|(stream, _)| stream));
                    }
                }
            }
            Event::Metadata(result) => {
                self.refreshing = false;
                match result {
                    Ok(()) => {
                        self.reachable();
                        self.recreate_topics(now);
                        self.look_for_mirror_maker();
                    }
                    Err(error) => self.not_reachable(&error),
                }
                for stream in 0..self.slots.len() {
                    self.assign(stream, now);
                    // What has long been quiet holds no memory for its latency.
                    let latency = &mut self.slots[stream].latency;
                    if latency.as_ref().is_some_and(|latency| latency.is_over(now)) {
                        *latency = None;
                    }
                }
            }
            Event::Lag(answer) => {
                // Nobody waits any more: no harm.
                let _ = answer.send(self.lag(now));
            }
            Event::Skip { partition, offset, answer } => {
                // Nobody waits any more: the answer is in the log too.
                let _ = answer.send(self.skip(&partition, offset));
            }
            Event::Select { topic, partition, answer } => {
                let _ = answer.send(self.select(topic.as_deref(), partition));
            }
            Event::Rewind { targets, answer } => {
                let _ = answer.send(self.rewind(targets, now));
            }
            Event::Configure(settings) => {
                self.parts.settings = settings;
                let limit = i64::try_from(self.parts.settings.catch_up_share_bytes).unwrap_or(i64::MAX);
                self.parts.metrics.waiting_limit_bytes.set(limit);
                self.starved.clear();
                (0..self.slots.len()).for_each(|stream| self.touch(stream));
            }
            Event::Stop(done) => {
                let _ = done.send(());
            }
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        for stream in std::mem::take(&mut self.ticking) {
            self.slots[stream].stream.on_tick(now);
            self.touch(stream);
        }
        let retry: Vec<Lane> = self
            .links
            .iter()
            .filter(|(_, link)| link.queue.is_none() && link.retry_at <= now)
            .map(|(lane, _)| *lane)
            .collect();
        for lane in retry {
            self.open_link(lane, now);
        }
    }
}

/// The time, milliseconds since 1970.
fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
