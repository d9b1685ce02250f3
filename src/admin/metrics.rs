//! The text of `/metrics`: what is registered, and lag, which is computed when somebody asks.
//!
//! # References
//! OpenMetrics 1.0, <https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md>

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::registry::Registry;

use super::ClusterView;
use super::catalog::{self, Kind};
use crate::lag::{RegionLag, State, TopicLag};

/// Every state, so that a series is there with 0 before the state was ever seen.
const STATES: [State; 6] =
    [State::Mirroring, State::Starting, State::CatchingUp, State::Paused, State::Stalled, State::Unreachable];

/// What is computed when somebody asks.
pub(super) struct Shown<'a> {
    pub regions: &'a [RegionLag],
    pub clusters: &'a [ClusterView],
    pub version: &'a str,
    pub commit: &'a str,
    /// Whether partitions have series of their own.
    pub partitions: bool,
}

/// All metrics, in OpenMetrics' text format.
pub(super) fn text(registry: &Registry, shown: &Shown<'_>) -> Result<String, fmt::Error> {
    let mut out = String::new();
    encode_registry(&mut out, registry)?;
    lag(&mut out, shown.regions)?;
    if shown.partitions {
        partitions(&mut out, shown.regions)?;
    }
    clusters(&mut out, shown.clusters)?;
    family(&mut out, "diffluent_build_info")?;
    sample(&mut out, "diffluent_build_info", &[("version", shown.version), ("commit", shown.commit)], 1)?;
    encode_eof(&mut out)?;
    Ok(out)
}

/// Per region and topic: 10 regions of 1,000 topics are 30,000 series. `/lag` has the partitions, and so has `partition_metrics`.
fn lag(out: &mut String, regions: &[RegionLag]) -> fmt::Result {
    let topics = || regions.iter().flat_map(|region| region.topics.iter().map(move |topic| (region, topic)));

    family(out, "diffluent_lag_records")?;
    for (region, topic) in topics() {
        let labels = [("region", region.region.as_str()), ("topic", &topic.topic)];
        sample(out, "diffluent_lag_records", &labels, topic.lag_records)?;
    }
    family(out, "diffluent_lag_bytes")?;
    for (region, topic) in topics() {
        if let Some(bytes) = topic.lag_bytes {
            let labels = [("region", region.region.as_str()), ("topic", &topic.topic)];
            sample(out, "diffluent_lag_bytes", &labels, bytes)?;
        }
    }
    family(out, "diffluent_lag_seconds")?;
    for (region, topic) in topics() {
        let labels = [("region", region.region.as_str()), ("topic", &topic.topic)];
        sample(out, "diffluent_lag_seconds", &labels, topic.lag_seconds)?;
    }
    family(out, "diffluent_region_state")?;
    for region in regions {
        for state in STATES {
            let labels = [("region", region.region.as_str()), ("state", state.as_str())];
            sample(out, "diffluent_region_state", &labels, u8::from(region.state == state))?;
        }
    }
    family(out, "diffluent_streams")?;
    for region in regions {
        for state in STATES {
            let streams = region.topics.iter().flat_map(|topic| &topic.partitions);
            let count = streams.filter(|stream| stream.state == state).count();
            sample(out, "diffluent_streams", &[("region", &region.region), ("state", state.as_str())], count)?;
        }
    }
    family(out, "diffluent_local_records_total")?;
    // A topic flows to several regions, and is in one log.
    let local: BTreeMap<&str, &TopicLag> = topics().map(|(_, topic)| (topic.topic.as_str(), topic)).collect();
    for (name, topic) in local {
        let records: i64 = topic.partitions.iter().map(|partition| partition.local_end_offset).sum();
        sample(out, "diffluent_local_records_total", &[("topic", name)], records)?;
    }
    family(out, "diffluent_caught_up_seconds")?;
    for region in regions {
        if let Some(seconds) = region.rates.caught_up_in_seconds {
            sample(out, "diffluent_caught_up_seconds", &[("region", &region.region)], seconds)?;
        }
    }
    family(out, "diffluent_mirrored_records_total")?;
    for region in regions {
        let labels = [("region", region.region.as_str())];
        sample(out, "diffluent_mirrored_records_total", &labels, region.mirrored_records)?;
    }
    family(out, "diffluent_mirrored_bytes_total")?;
    for region in regions {
        let labels = [("region", region.region.as_str())];
        sample(out, "diffluent_mirrored_bytes_total", &labels, region.mirrored_bytes)?;
    }
    Ok(())
}

/// Only where the configuration asks for it: a series for each partition and region.
fn partitions(out: &mut String, regions: &[RegionLag]) -> fmt::Result {
    family(out, "diffluent_partition_lag_records")?;
    for region in regions {
        for topic in &region.topics {
            for partition in &topic.partitions {
                let number = partition.partition.to_string();
                let labels =
                    [("region", region.region.as_str()), ("topic", &topic.topic), ("partition", number.as_str())];
                sample(out, "diffluent_partition_lag_records", &labels, partition.lag_records)?;
            }
        }
    }
    Ok(())
}

fn clusters(out: &mut String, clusters: &[ClusterView]) -> fmt::Result {
    let mut gauge = |name: &str, number: fn(&ClusterView) -> usize| {
        family(out, name)?;
        clusters.iter().try_for_each(|view| sample(out, name, &[("cluster", &view.cluster)], number(view)))
    };
    gauge("diffluent_cluster_brokers", |view| view.brokers.len())?;
    gauge("diffluent_cluster_under_replicated_partitions", |view| view.under_replicated_partitions)?;
    gauge("diffluent_cluster_leaderless_partitions", |view| view.leaderless_partitions)
}

/// The lines that introduce the metric `name`, from the catalog.
fn family(out: &mut String, name: &str) -> fmt::Result {
    let Some(metric) = catalog::METRICS.iter().find(|metric| metric.name == name) else {
        return Ok(());
    };
    let (suffix, kind) = match metric.kind {
        Kind::Counter => ("_total", "counter"),
        Kind::Gauge => ("", "gauge"),
        Kind::Histogram => ("", "histogram"),
        Kind::Info => ("_info", "info"),
    };
    let base = name.strip_suffix(suffix).unwrap_or(name);
    writeln!(out, "# HELP {base} {}.", metric.help.replace('`', ""))?;
    writeln!(out, "# TYPE {base} {kind}")
}

fn sample(out: &mut String, name: &str, labels: &[(&str, &str)], value: impl fmt::Display) -> fmt::Result {
    out.push_str(name);
    for (index, (label, text)) in labels.iter().enumerate() {
        write!(out, "{}{label}=\"{}\"", if index == 0 { '{' } else { ',' }, Escaped(text))?;
    }
    if !labels.is_empty() {
        out.push('}');
    }
    writeln!(out, " {value}")
}

/// A label's value as OpenMetrics wants it.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}
