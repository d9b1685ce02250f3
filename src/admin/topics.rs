//! Topics of a region and partitions of a topic in bounded pieces, the worst first: what the page shows of ten thousand.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::summary::WorstStream;
use crate::lag::{Elsewhere, Hold, LatencySummary, PartitionLag, Rates, RegionLag, State, TopicLag};

/// Rows of an answer unless asked otherwise.
const ROWS: usize = 100;
/// Rows of an answer, at most.
pub(super) const ROWS_MAX: usize = 1000;

/// What is asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Wanted {
    /// A part of the name (for partitions: the number), or a state.
    search: String,
    sort: Sort,
    /// From the end.
    reverse: bool,
    limit: Option<usize>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Sort {
    /// The worst state first, then who is behind for longest, then by most records.
    #[default]
    Worst,
    Name,
    LagRecords,
    LagSeconds,
    Rate,
}

/// A topic without its partitions.
#[derive(Clone, Debug, Serialize)]
pub(super) struct TopicRow {
    topic: String,
    region_topic: String,
    state: State,
    paused: Option<Hold>,
    partitions: usize,
    stalled_partitions: usize,
    /// Those that other proxies mirror.
    partitions_elsewhere: usize,
    lag_records: u64,
    lag_bytes: Option<u64>,
    lag_seconds: f64,
    rates: Rates,
    replication_latency: LatencySummary,
}

/// `total` topics, of which `matched` are what was searched for; these are the first of them.
#[derive(Debug, Serialize)]
pub(super) struct Topics {
    total: usize,
    matched: usize,
    topics: Vec<TopicRow>,
}

/// A topic, and the first of its partitions that are what was searched for.
#[derive(Debug, Serialize)]
pub(super) struct Partitions {
    #[serde(flatten)]
    topic: TopicRow,
    matched: usize,
    rows: Vec<PartitionLag>,
    elsewhere: Vec<Elsewhere>,
}

impl Wanted {
    /// The topics that are wanted of all of a region's.
    pub fn topics(&self, topics: &[TopicLag]) -> Topics {
        let mut rows: Vec<&TopicLag> = topics.iter().filter(|topic| self.finds(&topic.topic, topic.state)).collect();
        rows.sort_by(|a, b| {
            let order = match self.sort {
                Sort::Worst => worst((a.state, a.lag_seconds, a.lag_records), (b.state, b.lag_seconds, b.lag_records)),
                Sort::Name => Ordering::Equal,
                Sort::LagRecords => b.lag_records.cmp(&a.lag_records),
                Sort::LagSeconds => b.lag_seconds.total_cmp(&a.lag_seconds),
                Sort::Rate => b.rates.mirrored_records_per_second.total_cmp(&a.rates.mirrored_records_per_second),
            };
            self.directed(order.then_with(|| a.topic.cmp(&b.topic)))
        });
        Topics {
            total: topics.len(),
            matched: rows.len(),
            topics: rows.into_iter().take(self.limit()).map(row).collect(),
        }
    }

    /// The partitions that are wanted of a topic's.
    pub fn partitions(&self, topic: TopicLag) -> Partitions {
        let (header, elsewhere) = (row(&topic), topic.elsewhere);
        let mut rows: Vec<PartitionLag> = topic
            .partitions
            .into_iter()
            .filter(|partition| self.finds(&partition.partition.to_string(), partition.state))
            .collect();
        rows.sort_by(|a, b| {
            let order = match self.sort {
                Sort::Worst => worst((a.state, a.lag_seconds, a.lag_records), (b.state, b.lag_seconds, b.lag_records)),
                // A partition has no rate of its own.
                Sort::Name | Sort::Rate => Ordering::Equal,
                Sort::LagRecords => b.lag_records.cmp(&a.lag_records),
                Sort::LagSeconds => b.lag_seconds.total_cmp(&a.lag_seconds),
            };
            self.directed(order.then(a.partition.cmp(&b.partition)))
        });
        let matched = rows.len();
        rows.truncate(self.limit());
        Partitions { topic: header, matched, rows, elsewhere }
    }

    fn finds(&self, name: &str, state: State) -> bool {
        let search = self.search.trim();
        search.is_empty() || name.contains(search) || state.as_str() == search
    }

    fn directed(&self, order: Ordering) -> Ordering {
        if self.reverse { order.reverse() } else { order }
    }

    fn limit(&self) -> usize {
        self.limit.unwrap_or(ROWS).min(ROWS_MAX)
    }
}

/// The streams of all regions that are not well, the worst first, at most `limit`.
pub(super) fn worst_streams(regions: &[RegionLag], limit: usize) -> Vec<WorstStream> {
    let mut streams: Vec<(&str, &str, &PartitionLag)> = regions
        .iter()
        .flat_map(|region| region.topics.iter().map(move |topic| (region, topic)))
        .flat_map(|(region, topic)| {
            let named = |partition| (region.region.as_str(), topic.topic.as_str(), partition);
            topic.partitions.iter().map(named)
        })
        .filter(|(.., partition)| partition.state != State::Mirroring)
        .collect();
    streams.sort_by(|(a_region, a_topic, a), (b_region, b_topic, b)| {
        let order = worst((a.state, a.lag_seconds, a.lag_records), (b.state, b.lag_seconds, b.lag_records));
        order.then_with(|| (a_region, a_topic, a.partition).cmp(&(b_region, b_topic, b.partition)))
    });
    let shown = |(region, topic, partition): (&str, &str, &PartitionLag)| WorstStream {
        region: region.to_owned(),
        topic: topic.to_owned(),
        partition: partition.partition,
        state: partition.state,
        reason: partition.reason.clone(),
        remedy: partition.remedy.clone(),
        next_source_offset: partition.next_source_offset,
        lag_records: partition.lag_records,
        lag_seconds: partition.lag_seconds,
    };
    streams.into_iter().take(limit).map(shown).collect()
}

fn worst(a: (State, f64, u64), b: (State, f64, u64)) -> Ordering {
    b.0.cmp(&a.0).then(b.1.total_cmp(&a.1)).then(b.2.cmp(&a.2))
}

fn row(topic: &TopicLag) -> TopicRow {
    TopicRow {
        topic: topic.topic.clone(),
        region_topic: topic.region_topic.clone(),
        state: topic.state,
        partitions: topic.partitions.len(),
        paused: topic.paused.clone(),
        stalled_partitions: topic.partitions.iter().filter(|partition| partition.state == State::Stalled).count(),
        partitions_elsewhere: topic.elsewhere.iter().map(|other| other.partitions.len()).sum(),
        lag_records: topic.lag_records,
        lag_bytes: topic.lag_bytes,
        lag_seconds: topic.lag_seconds,
        rates: topic.rates,
        replication_latency: topic.replication_latency,
    }
}
