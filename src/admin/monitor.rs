//! Looks at the lag now and then, so that there are rates, the last hour, and since when a region is as it is.
//!
//! A look costs something for each partition. So it is one a second while somebody watches ([`Monitor::watch`]) and one in five
//! seconds otherwise. Nothing here is kept per partition.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::LagSource;
use super::clusters::{ClusterRates, ClusterTraffic, ClusterView};
use super::flow::{ByteFlow, Flow, Totals};
use super::server::REQUEST_TIME_MAX;
use super::summary::RegionSummary;
use crate::journal::now_ms;
use crate::lag::{RegionLag, State};

/// Between two looks while somebody watches.
const LOOK: Duration = Duration::from_secs(1);
/// Looks that are left out while nobody does, plus one.
const LOOKS_UNWATCHED: u32 = 5;
/// The local cluster's name among the clusters.
const LOCAL: &str = "local";
/// What one point of the history stands for.
pub(super) const RESOLUTION: Duration = Duration::from_secs(10);
/// Points that are kept: an hour.
const POINTS_MAX: usize = 360;

const _: () = assert!(POINTS_MAX as u64 * RESOLUTION.as_secs() == 3600);
const _: () = assert!(LOOK.as_secs() * LOOKS_UNWATCHED as u64 <= RESOLUTION.as_secs());

/// A stalled stream tries again every five seconds, and is not stalled for that moment: what looks so for no longer than this is still stalled.
const TRYING_MAX: Duration = Duration::from_secs(6);

/// The last hour of a region: a list for each number, oldest first. `at_ms` is when a point's ten seconds began.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct History {
    pub resolution_seconds: u64,
    pub at_ms: Vec<u64>,
    pub lag_records: Vec<u64>,
    pub lag_seconds: Vec<f64>,
    pub mirrored_records_per_second: Vec<f64>,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    at_ms: u64,
    lag_records: u64,
    lag_seconds: f64,
    mirrored_records_per_second: f64,
}

/// What the last look saw.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// Whether the mirror answered.
    pub answered: bool,
    /// The regions, in the configuration's order.
    pub regions: Vec<RegionSummary>,
    /// Regions that answered before and do not now.
    pub silent: Vec<String>,
}

#[derive(Debug)]
struct Known {
    state: State,
    since_ms: u64,
    flow: Flow,
    topics: HashMap<String, Flow>,
    /// When it was last seen stalled, and how it was then.
    stalled: Option<(Instant, RegionSummary)>,
    history: VecDeque<Point>,
}

/// What was seen so far.
#[derive(Debug)]
pub(super) struct Monitor {
    known: Mutex<HashMap<String, Known>>,
    /// What goes to and from each cluster, by its name.
    bytes: Mutex<HashMap<String, ByteFlow>>,
    seen: watch::Sender<Arc<Seen>>,
}

impl Monitor {
    pub fn new() -> Self {
        Self { known: Mutex::default(), bytes: Mutex::default(), seen: watch::Sender::default() }
    }

    /// Looks until it is dropped.
    pub async fn run(&self, source: &dyn LagSource, traffic: &(dyn Fn() -> Vec<ClusterTraffic> + Send + Sync)) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut unwatched = LOOKS_UNWATCHED;
        loop {
            looks.tick().await;
            unwatched += 1;
            if self.seen.receiver_count() == 0 && unwatched < LOOKS_UNWATCHED {
                continue;
            }
            unwatched = 0;
            self.carry(&traffic(), Instant::now());
            let answered = timeout(REQUEST_TIME_MAX, source.lag()).await;
            self.keep(&source.regions());
            match answered {
                Ok(regions) => self.look(&regions, Instant::now(), now_ms()),
                Err(_) => self.seen.send_modify(|seen| {
                    *seen = Arc::new(Seen { answered: false, at_ms: now_ms(), ..Seen::clone(seen) });
                }),
            }
        }
    }

    /// Forgets all regions but these: one that was taken out is neither seen nor missed any more.
    pub fn keep(&self, regions: &[String]) {
        self.lock().retain(|name, _| regions.contains(name));
    }

    /// What is seen from now on; while somebody holds this, it is looked every second.
    pub fn watch(&self) -> watch::Receiver<Arc<Seen>> {
        self.seen.subscribe()
    }

    /// What the last look saw.
    pub fn seen(&self) -> Arc<Seen> {
        self.seen.borrow().clone()
    }

    /// Takes a reading.
    pub fn look(&self, regions: &[RegionLag], now: Instant, now_ms: u64) {
        let mut known = self.lock();
        let mut summaries = Vec::new();
        for region in regions {
            let entry = known.entry(region.region.clone()).or_insert_with(|| Known {
                state: region.state,
                since_ms: now_ms,
                flow: Flow::default(),
                topics: HashMap::new(),
                stalled: None,
                history: VecDeque::new(),
            });
            entry.look(region, now, now_ms);
            summaries.push(entry.summary(region, now, now_ms));
        }
        let silent =
            known.keys().filter(|name| !regions.iter().any(|region| region.region == **name)).cloned().collect();
        drop(known);
        self.seen.send_replace(Arc::new(Seen { at_ms: now_ms, answered: true, regions: summaries, silent }));
    }

    /// Fills in the rates of lag that was asked for just now.
    pub fn fill(&self, regions: &mut [RegionLag]) {
        let known = self.lock();
        for region in regions {
            let Some(known) = known.get(&region.region) else { continue };
            region.rates = known.flow.rates(region.state, region.lag_records);
            for topic in &mut region.topics {
                if let Some(flow) = known.topics.get(&topic.topic) {
                    topic.rates = flow.rates(topic.state, topic.lag_records);
                }
            }
        }
    }

    /// Takes a reading of what went to and from the clusters; those that are not in it are forgotten.
    pub fn carry(&self, traffic: &[ClusterTraffic], now: Instant) {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        bytes.retain(|name, _| traffic.iter().any(|cluster| cluster.cluster == *name));
        for ClusterTraffic { cluster, in_bytes, out_bytes } in traffic {
            bytes.entry(cluster.clone()).or_default().take(*in_bytes, *out_bytes, now);
        }
    }

    /// Fills in what flows in and out of clusters.
    pub fn fill_clusters(&self, clusters: &mut [ClusterView]) {
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let known = self.lock();
        // A topic flows to several regions, and is in one log.
        let mut produced: HashMap<&str, f64> = HashMap::new();
        for (topic, flow) in known.values().flat_map(|region| &region.topics) {
            let most = produced.entry(topic).or_default();
            *most = most.max(flow.rates(State::Mirroring, 0).produced_records_per_second);
        }
        for cluster in clusters {
            let region = known.get(&cluster.cluster).filter(|_| cluster.cluster != LOCAL);
            let records_in_per_second = match region {
                Some(region) => region.flow.rates(State::Mirroring, 0).mirrored_records_per_second,
                None if cluster.cluster == LOCAL => produced.values().sum(),
                None => 0.0,
            };
            let (bytes_in_per_second, bytes_out_per_second) =
                bytes.get(&cluster.cluster).map(ByteFlow::rates).unwrap_or_default();
            cluster.rates = ClusterRates { records_in_per_second, bytes_in_per_second, bytes_out_per_second };
        }
    }

    /// Since when a region is in `state`, in milliseconds since 1970: 0 when that was not seen yet.
    pub fn since_ms(&self, region: &str, state: State) -> u64 {
        self.lock().get(region).filter(|known| known.state == state).map_or(0, |known| known.since_ms)
    }

    /// A region's last hour.
    pub fn history(&self, region: &str) -> Option<History> {
        let known = self.lock();
        let points = &known.get(region)?.history;
        Some(History {
            resolution_seconds: RESOLUTION.as_secs(),
            at_ms: points.iter().map(|point| point.at_ms).collect(),
            lag_records: points.iter().map(|point| point.lag_records).collect(),
            lag_seconds: points.iter().map(|point| point.lag_seconds).collect(),
            mirrored_records_per_second: points.iter().map(|point| point.mirrored_records_per_second).collect(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        // Numbers that are replaced one by one: after a panic they are as good as before it.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// The region as it is shown.
    fn summary(&mut self, region: &RegionLag, now: Instant, now_ms: u64) -> RegionSummary {
        let mut summary = RegionSummary::of(region);
        summary.rates = self.flow.rates(region.state, region.lag_records);
        let tries = matches!(region.state, State::Starting | State::CatchingUp);
        match &self.stalled {
            Some((at, then)) if tries && now.saturating_duration_since(*at) < TRYING_MAX => {
                summary.state = then.state;
                summary.reason.clone_from(&then.reason);
                summary.remedy.clone_from(&then.remedy);
                summary.streams_by_state.clone_from(&then.streams_by_state);
                summary.rates.caught_up_in_seconds = None;
            }
            _ => self.stalled = (region.state == State::Stalled).then(|| (now, summary.clone())),
        }
        if self.state != summary.state {
            (self.state, self.since_ms) = (summary.state, now_ms);
        }
        summary.state_since_ms = self.since_ms;
        summary
    }

    fn look(&mut self, region: &RegionLag, now: Instant, now_ms: u64) {
        let there: HashSet<&str> = region.topics.iter().map(|topic| topic.topic.as_str()).collect();
        self.topics.retain(|name, _| there.contains(name.as_str()));
        for topic in &region.topics {
            let flow = self.topics.entry(topic.topic.clone()).or_default();
            flow.take(
                Totals {
                    ends: topic.partitions.iter().map(|partition| partition.local_end_offset).sum(),
                    positions: topic.partitions.iter().map(|partition| partition.next_source_offset).sum(),
                    records: topic.mirrored_records,
                    bytes: topic.mirrored_bytes,
                },
                now,
            );
        }
        self.flow = Flow::sum(self.topics.values());
        let rate = self.flow.rates(region.state, region.lag_records).mirrored_records_per_second;
        let resolution_ms = RESOLUTION.as_millis() as u64;
        let at_ms = now_ms / resolution_ms * resolution_ms;
        match self.history.back_mut() {
            Some(point) if point.at_ms == at_ms => {
                // The worst of these ten seconds.
                point.lag_records = point.lag_records.max(region.lag_records);
                point.lag_seconds = point.lag_seconds.max(region.lag_seconds);
                point.mirrored_records_per_second = rate;
            }
            _ => {
                if self.history.len() == POINTS_MAX {
                    self.history.pop_front();
                }
                let (lag_records, lag_seconds) = (region.lag_records, region.lag_seconds);
                self.history.push_back(Point { at_ms, lag_records, lag_seconds, mirrored_records_per_second: rate });
            }
        }
    }
}
