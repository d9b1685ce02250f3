//! How far behind each region is: the shapes that the admin port shows.
//!
//! The numbers are taken from the streams at the moment somebody asks, so that idle partitions cost nothing and what
//! is shown is what is true now (promise P4). Lag is measured against the local log's end, never against what was captured.
//!
//! This room owns the words and the arithmetic of lag; it does no I/O and knows no stream.

use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// What a stream, or a region as a whole, is doing, in the words that operators see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Everything that the local log holds is in the region, or on its way there.
    Mirroring,
    /// The stream finds out where it stopped: at a start, or after an answer that never came.
    Starting,
    /// The stream reads a backlog from the local log.
    CatchingUp,
    /// An operator has stopped it.
    Paused,
    /// The region refuses this stream, or something that only a person can decide is in the way.
    Stalled,
    /// The region's brokers do not answer.
    Unreachable,
}

impl State {
    /// The word used in JSON, in metric labels and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Mirroring => "mirroring",
            State::Starting => "starting",
            State::CatchingUp => "catching_up",
            State::Paused => "paused",
            State::Stalled => "stalled",
            State::Unreachable => "unreachable",
        }
    }
}

/// Replication latency over the last minute, in seconds: from the answer of the local broker (or, for records read from
/// the log, from when they were read) to the acknowledgement of the region's in-sync replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct LatencySummary {
    /// Batches measured.
    pub count: u64,
    /// Median, seconds.
    pub p50: f64,
    /// 90th percentile, seconds.
    pub p90: f64,
    /// 99th percentile, seconds.
    pub p99: f64,
    /// The largest, seconds.
    pub max: f64,
}

/// How fast records flow, as an average that forgets what is older than about ten seconds, and what follows from it. The admin port
/// fills it in: the streams themselves keep no time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Rates {
    /// Offsets per second by which the local log grows.
    pub produced_records_per_second: f64,
    /// Records per second that the region acknowledges.
    pub mirrored_records_per_second: f64,
    /// Bytes of record batches per second that the region acknowledges.
    pub mirrored_bytes_per_second: f64,
    /// Seconds until nothing is missing, if it goes on like this: 0 when nothing is, unknown when the lag does not shrink.
    pub caught_up_in_seconds: Option<f64>,
}

/// The batch that is in a stalled stream's way, where it is one: it can be stepped over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ObstacleLag {
    /// Its base offset in the source: what `skip` wants to know.
    pub offset: i64,
    /// The source offset behind it.
    pub next_offset: i64,
    /// Its records, which the region would never get.
    pub records: u64,
}

/// Something that an operator has put in place: a pause, or another limit than the configured one.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Hold {
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
    /// Who has: the peer's address on the admin port, or the configuration.
    pub by: String,
}

impl Hold {
    /// `paused since 2026-11-27T02:01:00Z by 127.0.0.1:50123; resume it …`: the reason of a pause, with the remedy behind the semicolon.
    pub fn reason(&self) -> String {
        format!("paused since {} by {}; resume it with diffluent resume", moment(self.since_ms), self.by)
    }
}

/// A time as people and tools read it (RFC 3339, UTC), to the second.
pub fn moment(at_ms: u64) -> String {
    // Times beyond the year 9999 are nobody's.
    const MS_MAX: u64 = 253_402_300_799_000;
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(at_ms.min(MS_MAX))).to_string()
}

/// The limits of a region that hold now.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct RateLimits {
    /// The most bytes per second that are sent to the region; none: no limit.
    pub rate_limit: Option<u64>,
    /// The most bytes per second that are read from the local log while the region is behind; none: no limit.
    pub catch_up_rate_limit: Option<u64>,
    /// Who has set them; none: the configuration.
    pub throttled: Option<Hold>,
}

/// What can be done about a state, in words. Reasons say first what is wrong and then, behind the first semicolon, what to do.
pub fn remedy(state: State, reason: Option<&str>) -> Option<String> {
    match state {
        State::Stalled | State::Paused | State::CatchingUp => {
            reason?.split_once("; ").map(|(_, remedy)| remedy.to_owned())
        }
        State::Unreachable => {
            let said = reason.and_then(|reason| reason.split_once("; ")).map(|(_, remedy)| remedy);
            let usual = "look at the region's brokers and the line to them; it goes on by itself once they answer";
            Some(said.unwrap_or(usual).to_owned())
        }
        _ => None,
    }
}

/// One stream: a partition on its way to a region.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartitionLag {
    /// The partition's number, the same on both sides.
    pub partition: i32,
    /// What the stream is doing.
    pub state: State,
    /// Why, where the state needs a reason, and what can be done.
    pub reason: Option<String>,
    /// What can be done about it, alone.
    pub remedy: Option<String>,
    /// The batch that is in the way, where it is one.
    pub obstacle: Option<ObstacleLag>,
    /// The local log's end: the offset that its next record will get.
    pub local_end_offset: i64,
    /// The first source offset that is not yet acknowledged by the region.
    pub next_source_offset: i64,
    /// `local_end_offset - next_source_offset`.
    pub lag_records: u64,
    /// Bytes of these, where all of them are in flight or in the buffer; otherwise unknown.
    pub lag_bytes: Option<u64>,
    /// Age of the oldest record that the region does not have, in seconds; 0 when it has all.
    pub lag_seconds: f64,
    /// Offsets that the region never gets, because the local log no longer had them: since the stream first began, over restarts.
    pub lost_records: u64,
    /// Records that the region has and the local log has lost, likewise.
    pub diverged_records: u64,
    /// Records that an operator stepped over, likewise.
    pub skipped_records: u64,
    /// Replication latency over the last minute.
    pub replication_latency: LatencySummary,
}

/// One topic on its way to a region: its partitions added up.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TopicLag {
    /// The topic's name in the local cluster.
    pub topic: String,
    /// Its name in the region.
    pub region_topic: String,
    /// The worst state of its partitions.
    pub state: State,
    /// Who has paused this topic by itself; the region may be paused beside that.
    pub paused: Option<Hold>,
    /// Records behind, of all partitions.
    pub lag_records: u64,
    /// Bytes behind, where known for all partitions.
    pub lag_bytes: Option<u64>,
    /// The oldest missing record's age, seconds.
    pub lag_seconds: f64,
    /// Records acknowledged by the region since the start of this process.
    pub mirrored_records: u64,
    /// Bytes of record batches acknowledged by the region since the start of this process.
    pub mirrored_bytes: u64,
    /// How fast it flows.
    pub rates: Rates,
    /// Replication latency over the last minute.
    pub replication_latency: LatencySummary,
    /// Those of its partitions that this proxy mirrors, in order.
    pub partitions: Vec<PartitionLag>,
    /// Who mirrors the others, where several proxies share the streams.
    pub elsewhere: Vec<Elsewhere>,
}

/// Partitions of a topic that another proxy mirrors: that one knows their lag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Elsewhere {
    /// The other proxy's `[proxy] instance`.
    pub instance: String,
    /// The partitions.
    pub partitions: Vec<i32>,
}

/// Another proxy that shares the streams of a region.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct OtherProxy {
    /// Its `[proxy] instance`.
    pub instance: String,
    /// The address from which it talks to the local cluster.
    pub host: String,
    /// Streams that it mirrors.
    pub streams: usize,
}

/// One region: its topics added up.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RegionLag {
    /// The region's configured name.
    pub region: String,
    /// The worst state that keeps it from being well; `mirroring` when all streams are.
    pub state: State,
    /// Why, where the state needs a reason.
    pub reason: Option<String>,
    /// What can be done about it.
    pub remedy: Option<String>,
    /// This proxy's `[proxy] instance`.
    pub instance: String,
    /// The proxies that share the region's streams with this one, and tell the lag of theirs.
    pub other_proxies: Vec<OtherProxy>,
    /// Who has paused the whole region.
    pub paused: Option<Hold>,
    /// The limits that hold now.
    pub limits: RateLimits,
    /// Streams (partitions) that this proxy mirrors to the region.
    pub streams: usize,
    /// Records behind, of all streams.
    pub lag_records: u64,
    /// Bytes behind, where known for all streams.
    pub lag_bytes: Option<u64>,
    /// The oldest missing record's age, seconds.
    pub lag_seconds: f64,
    /// Records acknowledged by the region since the start of this process.
    pub mirrored_records: u64,
    /// Bytes of record batches acknowledged by the region since the start of this process.
    pub mirrored_bytes: u64,
    /// How fast it flows.
    pub rates: Rates,
    /// Replication latency over the last minute.
    pub replication_latency: LatencySummary,
    /// The topics, by name.
    pub topics: Vec<TopicLag>,
}
