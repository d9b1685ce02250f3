//! What a person is shown at once, on the page and by `diffluent status`: one line that says whether all is well, each region in a few numbers, and
//! the streams that are worst off.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Readiness;
use super::monitor::Seen;
use crate::lag::{Hold, LatencySummary, OtherProxy, RateLimits, Rates, RegionLag, State};

/// So long after a change it can be told whether a lag shrinks.
const TREND_MS: u64 = 20_000;

/// A region without its topics.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct RegionSummary {
    /// Its configured name.
    pub region: String,
    /// The worst state that keeps it from being well.
    pub state: State,
    /// Since when, in milliseconds since 1970; 0 when that is not known yet.
    pub state_since_ms: u64,
    /// Why, where the state needs a reason.
    pub reason: Option<String>,
    /// What can be done about it.
    pub remedy: Option<String>,
    /// This proxy's `[proxy] instance`.
    pub instance: String,
    /// The proxies that share the region's streams with this one.
    pub other_proxies: Vec<OtherProxy>,
    /// Who has paused the whole region.
    pub paused: Option<Hold>,
    /// The limits that hold now.
    pub limits: RateLimits,
    /// Topics on their way to it.
    pub topics: usize,
    /// Partitions of these.
    pub streams: usize,
    /// Streams by state; states in which none is are left out.
    pub streams_by_state: BTreeMap<State, usize>,
    /// Records behind.
    pub lag_records: u64,
    /// Bytes behind, where known for all streams.
    pub lag_bytes: Option<u64>,
    /// The oldest missing record's age, seconds.
    pub lag_seconds: f64,
    /// How fast it flows.
    pub rates: Rates,
    /// Replication latency over the last minute.
    pub replication_latency: LatencySummary,
    /// Records acknowledged by the region since the start of the process.
    pub mirrored_records: u64,
    /// Their bytes.
    pub mirrored_bytes: u64,
    /// Sum over the partitions, since their streams first began.
    pub lost_records: u64,
    /// Likewise.
    pub diverged_records: u64,
    /// Likewise.
    pub skipped_records: u64,
}

impl RegionSummary {
    /// Without rates and `state_since_ms`, which lag alone does not know.
    pub fn of(lag: &RegionLag) -> Self {
        let mut summary = Self {
            region: lag.region.clone(),
            state: lag.state,
            state_since_ms: 0,
            reason: lag.reason.clone(),
            remedy: lag.remedy.clone(),
            instance: lag.instance.clone(),
            other_proxies: lag.other_proxies.clone(),
            paused: lag.paused.clone(),
            limits: lag.limits.clone(),
            topics: lag.topics.len(),
            streams: lag.streams,
            streams_by_state: BTreeMap::new(),
            lag_records: lag.lag_records,
            lag_bytes: lag.lag_bytes,
            lag_seconds: lag.lag_seconds,
            rates: lag.rates,
            replication_latency: lag.replication_latency,
            mirrored_records: lag.mirrored_records,
            mirrored_bytes: lag.mirrored_bytes,
            lost_records: 0,
            diverged_records: 0,
            skipped_records: 0,
        };
        for partition in lag.topics.iter().flat_map(|topic| &topic.partitions) {
            *summary.streams_by_state.entry(partition.state).or_default() += 1;
            summary.lost_records += partition.lost_records;
            summary.diverged_records += partition.diverged_records;
            summary.skipped_records += partition.skipped_records;
        }
        summary
    }

    fn in_state(&self, state: State) -> usize {
        self.streams_by_state.get(&state).copied().unwrap_or(0)
    }
}

/// How well all is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Every region has everything but what was produced just now.
    Well,
    /// Something is behind, and heals alone.
    Behind,
    /// A person must look.
    Bad,
}

/// One message of `/stream`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Summary {
    /// The version of the process that says this.
    pub version: String,
    /// When it was so, in milliseconds since 1970.
    pub at_ms: u64,
    /// How well all is.
    pub level: Level,
    /// Whether all is well, in words.
    pub headline: String,
    /// The newest event's number: when it grows, there is something to read at `/events`.
    pub last_event: u64,
    /// The regions, in the configuration's order.
    pub regions: Vec<RegionSummary>,
    /// Regions whose task does not answer.
    pub silent: Vec<String>,
}

impl Summary {
    pub(super) fn new(seen: &Seen, readiness: &Readiness, last_event: u64, version: &str) -> Self {
        let (level, headline) = headline(seen, readiness);
        Self {
            version: version.to_owned(),
            at_ms: seen.at_ms,
            level,
            headline,
            last_event,
            regions: seen.regions.clone(),
            silent: seen.silent.clone(),
        }
    }
}

/// What `/status` answers.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Status {
    /// What the page is told, too.
    #[serde(flatten)]
    pub summary: Summary,
    /// The streams that are worst off, the worst first; those that are well are left out.
    pub worst: Vec<WorstStream>,
}

/// A stream that is not well.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct WorstStream {
    /// The region.
    pub region: String,
    /// The topic, by its name in the local cluster.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// What it is doing.
    pub state: State,
    /// Why, where the state needs a reason.
    pub reason: Option<String>,
    /// What can be done about it.
    pub remedy: Option<String>,
    /// The first source offset that the region does not have.
    pub next_source_offset: i64,
    /// Records behind.
    pub lag_records: u64,
    /// The oldest missing record's age, seconds.
    pub lag_seconds: f64,
}

/// Whether all is well, in one line.
fn headline(seen: &Seen, readiness: &Readiness) -> (Level, String) {
    if !readiness.ready {
        return (Level::Bad, format!("No client is served yet: waiting for {}.", readiness.waiting_for.join(", ")));
    }
    if !seen.answered {
        return (Level::Bad, "The mirror does not answer: what is shown is old.".to_owned());
    }
    let silent = seen.silent.iter().map(|name| (Level::Bad, format!("{name}: its task does not answer; see the log")));
    let regions = seen.regions.iter().filter_map(|region| told(region, seen.at_ms));
    let all: Vec<(Level, String)> = silent.chain(regions).collect();
    let level = all.iter().map(|(level, _)| *level).max().unwrap_or(Level::Well);
    if level > Level::Well {
        let words: Vec<String> = all.into_iter().map(|(_, words)| words).collect();
        return (level, format!("{}.", words.join(" · ")));
    }
    let words = match seen.regions.as_slice() {
        [] => "Clients are served; no region is mirrored to.".to_owned(),
        // Not "has everything": under load something is always on its way.
        [one] => format!("All is well: {} keeps up.", one.region),
        many => format!("All is well: all {} regions keep up.", many.len()),
    };
    (Level::Well, words)
}

/// What there is to say of a region that is not well.
fn told(region: &RegionSummary, now_ms: u64) -> Option<(Level, String)> {
    let name = &region.region;
    let behind = || format!("{} records, {} behind", grouped(region.lag_records), duration(region.lag_seconds));
    match region.state {
        State::Mirroring => None,
        State::Unreachable => Some((Level::Bad, format!("{name} can't be reached: {}", behind()))),
        State::Stalled => {
            let (stalled, all) = (region.in_state(State::Stalled), region.streams);
            Some((Level::Bad, format!("{name}: {stalled} of {all} streams stalled")))
        }
        State::Paused if region.paused.is_none() => {
            let (paused, all) = (region.in_state(State::Paused), region.streams);
            Some((Level::Behind, format!("{name}: {paused} of {all} streams paused: {}", behind())))
        }
        State::Paused => Some((Level::Behind, format!("{name} is paused: {}", behind()))),
        State::Starting | State::CatchingUp => {
            let word = if region.state == State::Starting { "starts" } else { "catches up" };
            let end = match region.rates.caught_up_in_seconds {
                Some(wait) if wait > 0.0 => format!(", done in about {}", duration(wait)),
                Some(_) => String::new(),
                // Rates need a while.
                None if now_ms.saturating_sub(region.state_since_ms) < TREND_MS => String::new(),
                None => ", not getting better".to_owned(),
            };
            Some((Level::Behind, format!("{name} {word}: {}{end}", behind())))
        }
    }
}

/// 1,234,567.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// 4 s, 12 min, 3 h, 2 d.
pub(crate) fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => "less than 1 s".to_owned(),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7_200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3_600.0),
        s => format!("{:.0} d", s / 86_400.0),
    }
}
