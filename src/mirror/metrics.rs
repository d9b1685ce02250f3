//! What the mirror counts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::exponential_buckets;
use prometheus_client::registry::Registry;

use crate::client::connection::Traffic;
use crate::histogram::Histogram;

/// A region.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RegionLabel {
    /// Its configured name.
    pub region: String,
}

/// A region and what went wrong there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ErrorLabel {
    /// The region's configured name.
    pub region: String,
    /// The kind of error: a word of [`crate::client::ClientError::kind`], or a Kafka error.
    pub kind: String,
}

/// A cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ClusterLabel {
    /// "local", or the region's configured name.
    pub cluster: String,
}

/// Histograms of replication latency by region.
#[derive(Clone, Debug)]
struct Latencies(Family<RegionLabel, Histogram, fn() -> Histogram>);

impl Default for Latencies {
    fn default() -> Self {
        // A millisecond to a minute, each twice the one before.
        Self(Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 2.0, 17))))
    }
}

/// Errors by region and kind.
#[derive(Clone, Debug, Default)]
struct Errors {
    counters: Family<ErrorLabel, Counter>,
    /// The regions that there are, each with the kinds that it has a series of: a family does not tell.
    regions: Arc<Mutex<BTreeMap<String, BTreeSet<String>>>>,
}

impl Errors {
    fn know(&self, region: &str) {
        self.regions().entry(region.to_owned()).or_default();
    }

    /// Counts nothing of a region that is gone, whose last tasks may still have something to say.
    fn count(&self, region: &str, kind: String) {
        // Held while it is counted, so that no series is made behind the back of `forget`.
        let mut regions = self.regions();
        let Some(kinds) = regions.get_mut(region) else { return };
        self.counters.get_or_create(&ErrorLabel { region: region.to_owned(), kind: kind.clone() }).inc();
        kinds.insert(kind);
    }

    fn forget(&self, region: &str) {
        let mut regions = self.regions();
        for kind in regions.remove(region).unwrap_or_default() {
            self.counters.remove(&ErrorLabel { region: region.to_owned(), kind });
        }
    }

    fn regions(&self) -> MutexGuard<'_, BTreeMap<String, BTreeSet<String>>> {
        // Sets of names: after a panic they are as good as before it.
        self.regions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Metrics of one region's streams.
#[derive(Clone, Debug)]
pub struct RegionMetrics {
    region: String,
    errors: Errors,
    /// From the local broker's answer, or the read from the log, to the region's acknowledgement, seconds; a batch each.
    pub latency: Histogram,
    /// Bytes of batches that were read from the local log and taken.
    pub caught_up_bytes: Counter,
    /// Bytes of batches that wait to be sent: captured and read ones.
    pub waiting_bytes: Gauge,
    /// So many of them stop the reading.
    pub waiting_limit_bytes: Gauge,
    /// Records that were lost, because the local log no longer had them.
    pub lost_records: Counter,
    /// Records that the region has and the local log has lost.
    pub diverged_records: Counter,
    /// Records that an operator stepped over.
    pub skipped_records: Counter,
    /// Records that were acknowledged, lost there, and sent again.
    pub resent_records: Counter,
    /// Batches that were renumbered because compaction had made holes into them.
    pub renumbered_batches: Counter,
    /// Records that were converted from a message format older than v2.
    pub converted_records: Counter,
    /// Batches sent whose records are older than the region's brokers remember producers.
    pub unprotected_batches: Counter,
    /// Batches found in the region's log out of their row.
    pub out_of_row_batches: Counter,
    /// Generations of the region's group that this proxy has taken part in.
    pub rebalances: Counter,
    /// Proxies that share the region's streams, this one included.
    pub members: Gauge,
}

impl RegionMetrics {
    /// Counts an error.
    pub fn error(&self, kind: impl ToString) {
        self.errors.count(&self.region, kind.to_string());
    }
}

/// Metrics of all regions.
#[derive(Clone, Debug, Default)]
pub struct MirrorMetrics {
    latency: Latencies,
    caught_up: Family<RegionLabel, Counter>,
    waiting: Family<RegionLabel, Gauge>,
    waiting_limit: Family<RegionLabel, Gauge>,
    lost: Family<RegionLabel, Counter>,
    diverged: Family<RegionLabel, Counter>,
    skipped: Family<RegionLabel, Counter>,
    resent: Family<RegionLabel, Counter>,
    renumbered: Family<RegionLabel, Counter>,
    converted: Family<RegionLabel, Counter>,
    unprotected: Family<RegionLabel, Counter>,
    out_of_row: Family<RegionLabel, Counter>,
    rebalances: Family<RegionLabel, Counter>,
    members: Family<RegionLabel, Gauge>,
    errors: Errors,
    received: Family<ClusterLabel, Counter>,
    sent: Family<ClusterLabel, Counter>,
    fetched: Family<ClusterLabel, Counter>,
}

impl MirrorMetrics {
    /// Registers all of them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "replication_latency_seconds",
            "From the local broker's answer, or the read from the log, to the region's acknowledgement, by batch",
            metrics.latency.0.clone(),
        );
        registry.register(
            "caught_up_bytes",
            "Bytes of record batches read from the local log and taken by a region's streams",
            metrics.caught_up.clone(),
        );
        registry.register(
            "catch_up_buffer_bytes",
            "Bytes of record batches that wait to be sent to a region",
            metrics.waiting.clone(),
        );
        registry.register(
            "catch_up_buffer_limit_bytes",
            "So many bytes that wait to be sent to a region stop the reading from the local log",
            metrics.waiting_limit.clone(),
        );
        registry.register(
            "lost_records",
            "Records that a region never gets, because the local log no longer had them",
            metrics.lost.clone(),
        );
        registry.register(
            "diverged_records",
            "Records that a region has and the local log has lost, in an unclean leader election",
            metrics.diverged.clone(),
        );
        registry.register(
            "skipped_records",
            "Records that a region never gets, because an operator stepped over their batch",
            metrics.skipped.clone(),
        );
        registry.register(
            "resent_records",
            "Records that a region had acknowledged and then lost: they were sent again",
            metrics.resent.clone(),
        );
        registry.register(
            "renumbered_batches",
            "Batches with holes of compaction, which brokers refuse: their records got offsets without gaps",
            metrics.renumbered.clone(),
        );
        registry.register(
            "converted_records",
            "Records of the message formats v0 and v1 in the local log: they reach a region in v2",
            metrics.converted.clone(),
        );
        registry.register(
            "unprotected_batches",
            "Batches sent whose records are older than the region's brokers remember producers: a repeat would not be noticed",
            metrics.unprotected.clone(),
        );
        registry.register(
            "out_of_row_batches",
            "Batches found in a region's log that are no part of their stream's row",
            metrics.out_of_row.clone(),
        );
        registry.register(
            "rebalances",
            "Times that the streams of a region were shared out anew with this proxy among those that share them",
            metrics.rebalances.clone(),
        );
        registry.register(
            "fleet_proxies",
            "Proxies that share the streams of a region, this one included",
            metrics.members.clone(),
        );
        registry.register("region_errors", "Errors by region and kind", metrics.errors.counters.clone());
        registry.register(
            "cluster_received_bytes",
            "Bytes received on diffluent's own connections to a cluster",
            metrics.received.clone(),
        );
        registry.register(
            "cluster_sent_bytes",
            "Bytes sent on diffluent's own connections to a cluster",
            metrics.sent.clone(),
        );
        registry.register(
            "cluster_fetched_bytes",
            "Bytes of record batches that diffluent's own connections fetched from a cluster",
            metrics.fetched.clone(),
        );
        metrics
    }

    /// One region's.
    pub fn region(&self, region: &str) -> RegionMetrics {
        let label = RegionLabel { region: region.to_string() };
        self.errors.know(region);
        RegionMetrics {
            region: region.to_string(),
            errors: self.errors.clone(),
            latency: self.latency.0.get_or_create(&label).clone(),
            caught_up_bytes: self.caught_up.get_or_create(&label).clone(),
            waiting_bytes: self.waiting.get_or_create(&label).clone(),
            waiting_limit_bytes: self.waiting_limit.get_or_create(&label).clone(),
            lost_records: self.lost.get_or_create(&label).clone(),
            diverged_records: self.diverged.get_or_create(&label).clone(),
            skipped_records: self.skipped.get_or_create(&label).clone(),
            resent_records: self.resent.get_or_create(&label).clone(),
            renumbered_batches: self.renumbered.get_or_create(&label).clone(),
            converted_records: self.converted.get_or_create(&label).clone(),
            unprotected_batches: self.unprotected.get_or_create(&label).clone(),
            out_of_row_batches: self.out_of_row.get_or_create(&label).clone(),
            rebalances: self.rebalances.get_or_create(&label).clone(),
            members: self.members.get_or_create(&label).clone(),
        }
    }

    /// A region is gone for good: so are its series.
    pub fn forget(&self, region: &str) {
        let label = RegionLabel { region: region.to_string() };
        for counter in [
            &self.caught_up,
            &self.lost,
            &self.diverged,
            &self.skipped,
            &self.resent,
            &self.renumbered,
            &self.converted,
            &self.unprotected,
            &self.out_of_row,
            &self.rebalances,
        ] {
            counter.remove(&label);
        }
        for gauge in [&self.waiting, &self.waiting_limit, &self.members] {
            gauge.remove(&label);
        }
        self.latency.0.remove(&label);
        self.errors.forget(region);
        let label = ClusterLabel { cluster: region.to_string() };
        for counter in [&self.received, &self.sent, &self.fetched] {
            counter.remove(&label);
        }
    }

    /// The byte counters of our own connections to a cluster.
    pub fn traffic(&self, cluster: &str) -> Arc<Traffic> {
        let label = ClusterLabel { cluster: cluster.to_string() };
        Arc::new(Traffic {
            received_bytes: self.received.get_or_create(&label).clone(),
            sent_bytes: self.sent.get_or_create(&label).clone(),
            fetched_bytes: self.fetched.get_or_create(&label).clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn a_region_that_is_gone_leaves_no_series_whatever_its_last_tasks_count() {
        let mut registry = Registry::default();
        let metrics = MirrorMetrics::register(&mut registry);
        let (us, ap) = (metrics.region("us"), metrics.region("ap"));
        us.error("timeout");
        ap.error("timeout");
        ap.error("NOT_LEADER_OR_FOLLOWER");
        metrics.traffic("ap").sent_bytes.inc_by(7);
        metrics.forget("ap");
        ap.error("cancelled");
        ap.lost_records.inc();
        let shown = || {
            let mut text = String::new();
            encode(&mut text, &registry).expect("text");
            text
        };
        let text = shown();
        assert!(!text.contains("\"ap\""), "{text}");
        assert!(text.contains("region_errors_total{region=\"us\",kind=\"timeout\"} 1"), "{text}");
        // It comes back, and counts from nothing.
        metrics.region("ap").error("timeout");
        assert!(shown().contains("region_errors_total{region=\"ap\",kind=\"timeout\"} 1"), "{}", shown());
    }
}
