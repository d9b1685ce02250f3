//! Every metric that diffluent shows: one list for the code, the tests and docs/metrics.md.
//!
//! A metric that another room registers belongs here too; a test scrapes the running product and fails on names that
//! are not listed ([`undocumented`]).

use std::fmt::Write;

/// What kind of metric it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from 0 at the start of the process.
    Counter,
    /// What is true now.
    Gauge,
    /// Counts by upper bounds: of several proxies they add up.
    Histogram,
    /// Always 1; its labels are what counts.
    Info,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Info => "info",
        }
    }
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name: also of its samples, which in a histogram end in `_bucket`, `_sum` and `_count`.
    pub name: &'static str,
    /// What kind of metric it is.
    pub kind: Kind,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it measures, without a full stop.
    pub help: &'static str,
}

impl Metric {
    /// The names of its samples, and whether they are buckets, which have the label `le`.
    pub fn samples(&self) -> impl Iterator<Item = (String, bool)> {
        let endings: &[(&str, bool)] = match self.kind {
            Kind::Histogram => &[("_bucket", true), ("_sum", false), ("_count", false)],
            _ => &[("", false)],
        };
        endings.iter().map(|(ending, bucket)| (format!("{}{ending}", self.name), *bucket))
    }
}

const fn metric(name: &'static str, kind: Kind, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind, labels, help }
}

use Kind::{Counter, Gauge, Histogram, Info};

/// All of them, as docs/metrics.md shows them.
pub const METRICS: &[Metric] = &[
    metric(
        "diffluent_lag_records",
        Gauge,
        &["region", "topic"],
        "Records that the local log holds and the region has not acknowledged",
    ),
    metric(
        "diffluent_lag_bytes",
        Gauge,
        &["region", "topic"],
        "Bytes of these records; absent while part of them was not read yet",
    ),
    metric(
        "diffluent_lag_seconds",
        Gauge,
        &["region", "topic"],
        "Age of the oldest record that the region does not have; 0 when it has all, growing while it is down",
    ),
    metric(
        "diffluent_region_state",
        Gauge,
        &["region", "state"],
        "1 for the state that the region is in, 0 for the others",
    ),
    metric(
        "diffluent_partition_lag_records",
        Gauge,
        &["region", "topic", "partition"],
        "As `diffluent_lag_records`, for each partition; only with `partition_metrics = true` in `[admin]`",
    ),
    metric(
        "diffluent_caught_up_seconds",
        Gauge,
        &["region"],
        "Estimated time until the region has everything; 0 when it has, absent while the lag does not shrink",
    ),
    metric(
        "diffluent_cluster_brokers",
        Gauge,
        &["cluster"],
        "Brokers of a cluster, by its last metadata: `local`, or a region's name",
    ),
    metric(
        "diffluent_cluster_under_replicated_partitions",
        Gauge,
        &["cluster"],
        "Partitions of a cluster with fewer replicas in sync than there should be, by its last metadata",
    ),
    metric(
        "diffluent_cluster_leaderless_partitions",
        Gauge,
        &["cluster"],
        "Partitions of a cluster without a leader, by its last metadata",
    ),
    metric("diffluent_streams", Gauge, &["region", "state"], "Streams (partitions on their way to a region) by state"),
    metric(
        "diffluent_replication_latency_seconds",
        Histogram,
        &["region"],
        "From the local broker's answer (or the read from the log) to the region's acknowledgement, by batch; `/lag` has percentiles of the last minute",
    ),
    metric(
        "diffluent_local_records_total",
        Counter,
        &["topic"],
        "Offsets that the local log of a mirrored topic has given out: its rate is messages in per second, through this proxy and past it",
    ),
    metric("diffluent_mirrored_records_total", Counter, &["region"], "Records that the region has acknowledged"),
    metric(
        "diffluent_mirrored_bytes_total",
        Counter,
        &["region"],
        "Bytes of record batches that the region has acknowledged",
    ),
    metric(
        "diffluent_caught_up_bytes_total",
        Counter,
        &["region"],
        "Bytes of record batches that were read from the local log for the region, because capture did not have them",
    ),
    metric(
        "diffluent_catch_up_buffer_bytes",
        Gauge,
        &["region"],
        "Bytes of record batches that wait to be sent to the region, captured ones and those read from the log",
    ),
    metric(
        "diffluent_catch_up_buffer_limit_bytes",
        Gauge,
        &["region"],
        "So many of them stop the reading from the local log: the region's share of `catch_up_buffer` in `[mirror]`",
    ),
    metric(
        "diffluent_lost_records_total",
        Counter,
        &["region"],
        "Records that the region never gets, because the local log no longer had them: retention passed diffluent by",
    ),
    metric(
        "diffluent_diverged_records_total",
        Counter,
        &["region"],
        "Records that the region has and the local log has lost, in an unclean leader election",
    ),
    metric(
        "diffluent_skipped_records_total",
        Counter,
        &["region"],
        "Records that the region never gets, because an operator stepped over their batch",
    ),
    metric(
        "diffluent_resent_records_total",
        Counter,
        &["region"],
        "Records that the region had acknowledged and then lost: they were sent again",
    ),
    metric(
        "diffluent_renumbered_batches_total",
        Counter,
        &["region"],
        "Batches with holes of compaction, which brokers refuse: their records got offsets without gaps",
    ),
    metric(
        "diffluent_converted_records_total",
        Counter,
        &["region"],
        "Records of the message formats v0 and v1 in the local log: they reach the region in v2, with key, value and timestamp",
    ),
    metric(
        "diffluent_unprotected_batches_total",
        Counter,
        &["region"],
        "Batches sent whose records are older than the region's brokers remember producers: a repeat would not be noticed",
    ),
    metric(
        "diffluent_out_of_row_batches_total",
        Counter,
        &["region"],
        "Batches found in the region's log that are no part of their stream's row: repeated, or out of order",
    ),
    metric(
        "diffluent_fleet_proxies",
        Gauge,
        &["region"],
        "Proxies that share the region's streams, this one included; 0 while it takes no part. Its own streams are those of `diffluent_streams`",
    ),
    metric(
        "diffluent_rebalances_total",
        Counter,
        &["region"],
        "Times that the region's streams were shared out anew among the proxies, this one included; the first time is at its start",
    ),
    metric("diffluent_region_errors_total", Counter, &["region", "kind"], "What went wrong with a region, by kind"),
    metric("diffluent_capture_buffer_bytes", Gauge, &[], "Memory in use by captured batches"),
    metric("diffluent_capture_buffer_limit_bytes", Gauge, &[], "The most that it may be: `buffer` in `[mirror]`"),
    metric("diffluent_captured_bytes_total", Counter, &[], "Bytes of record batches captured from clients"),
    metric(
        "diffluent_capture_dropped_bytes_total",
        Counter,
        &["reason"],
        "Bytes of record batches that were not captured, or dropped again, and are read from the local log instead",
    ),
    metric("diffluent_client_connections", Gauge, &[], "Client connections now"),
    metric("diffluent_client_connections_opened_total", Counter, &[], "Client connections accepted"),
    metric(
        "diffluent_client_connections_limit",
        Gauge,
        &[],
        "Client connections that may be open: connection_limit, or fewer where file descriptors are few",
    ),
    metric(
        "diffluent_client_limit_hits_total",
        Counter,
        &["limit"],
        "Client connections refused, closed or (in_flight_limit) held up because of a limit, by its key in [proxy]",
    ),
    metric("diffluent_client_requests_total", Counter, &["api"], "Requests of clients, by API"),
    metric(
        "diffluent_client_added_latency_seconds",
        Histogram,
        &["direction"],
        "From bytes read from a client (`request`) or from its broker (`answer`) to their being written on: what the proxy adds, and what a slow receiver does",
    ),
    metric("diffluent_client_received_bytes_total", Counter, &[], "Bytes that came from clients"),
    metric("diffluent_client_sent_bytes_total", Counter, &[], "Bytes that went to clients"),
    metric(
        "diffluent_client_closed_total",
        Counter,
        &["reason"],
        "Client connections that ended, by reason; what a client sent that is not Kafka shows here",
    ),
    metric(
        "diffluent_cluster_received_bytes_total",
        Counter,
        &["cluster"],
        "Bytes from a cluster's brokers on diffluent's own connections: `local`, or a region's name",
    ),
    metric(
        "diffluent_cluster_sent_bytes_total",
        Counter,
        &["cluster"],
        "Bytes to a cluster's brokers on diffluent's own connections: `local`, or a region's name",
    ),
    metric(
        "diffluent_cluster_fetched_bytes_total",
        Counter,
        &["cluster"],
        "Bytes of record batches that diffluent's own connections fetched: from `local` to catch up, from a region to find a position",
    ),
    metric(
        "diffluent_certificate_expiry_timestamp_seconds",
        Gauge,
        &["file"],
        "When a certificate of ours, or one that leads to its authority, expires, in seconds since 1970, by its file",
    ),
    metric(
        "diffluent_certificate_reloads_total",
        Counter,
        &["result"],
        "Changes of certificates, keys and authorities that were found: `loaded`, or `refused` because they can't be used",
    ),
    metric(
        "diffluent_configuration_reload_failed",
        Gauge,
        &[],
        "1 if the last configuration that was to be taken was not: the one before is in effect",
    ),
    metric(
        "diffluent_configuration_applied_timestamp_seconds",
        Gauge,
        &[],
        "When the configuration in effect was read, in seconds since 1970",
    ),
    metric(
        "diffluent_build_info",
        Info,
        &["version", "commit"],
        "The version of this build and the commit it was built from; always 1",
    ),
];

/// Only there when the configuration asks for it: see [`super::Process::partition_metrics`].
pub const PARTITION_METRICS: &[&str] = &["diffluent_partition_lag_records"];

/// Metrics of `scrape` (OpenMetrics text) that [`METRICS`] does not list, or lists with other labels, in words. For tests.
pub fn undocumented(scrape: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in scrape.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        let Some(metric) = METRICS.iter().find(|metric| metric.samples().any(|(sample, _)| sample == name)) else {
            found.push(format!("{name} is not in the catalog"));
            continue;
        };
        let bucket = metric.samples().any(|(sample, bucket)| bucket && sample == name);
        let labels = line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')).map_or("", |(labels, _)| labels);
        for label in label_names(labels) {
            let known = metric.labels.contains(&label) || (bucket && label == "le");
            if !known {
                found.push(format!("{name} has the label {label}, which is not in the catalog"));
            }
        }
    }
    found.dedup();
    found
}

/// `a` and `b` of `a="x",b="y"`; a value may hold anything, with quotes escaped.
fn label_names(labels: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut rest = labels;
    while let Some((name, after)) = rest.split_once("=\"") {
        names.push(name.trim_start_matches(','));
        let mut escaped = false;
        let end = after.char_indices().find(|(_, c)| {
            let ends = *c == '"' && !escaped;
            escaped = *c == '\\' && !escaped;
            ends
        });
        rest = end.and_then(|(at, _)| after.get(at + 1..)).unwrap_or("");
    }
    names
}

/// The page docs/metrics.md. A test fails when the file differs.
pub fn reference() -> String {
    let mut page = String::from(
        "# Metrics\n\n\
         <!-- Generated from src/admin/catalog.rs: `UPDATE_DOCS=1 cargo test --lib admin` writes it again. -->\n\n\
         `GET /metrics` on the admin port (`[admin] listen`, 127.0.0.1:9644 unless changed) answers in OpenMetrics' \
         text format. For Prometheus:\n\n\
         ```yaml\n\
         scrape_configs:\n  - job_name: diffluent\n    static_configs:\n      - targets: [\"127.0.0.1:9644\"]\n\
         ```\n\n\
         deploy/prometheus has this with rules and alerts, deploy/grafana a dashboard.\n\n\
         Lag is computed when it is asked for, against the local log's end, per topic; `GET /lag` has every \
         partition. Three series for each region and topic: 10 regions of 1,000 topics are 30,000. `partition_metrics = true` in `[admin]` adds one \
         for each region and partition, so think of how many there are first. Counters start at 0 with the process. Seconds and bytes are the only units.\n\n\
         | name | kind | labels | what it measures |\n|---|---|---|---|\n",
    );
    for metric in METRICS {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let (name, kind, labels, help) = (metric.name, metric.kind.as_str(), labels.join(", "), metric.help);
        let _ = writeln!(page, "| `{name}` | {kind} | {labels} | {help} |");
    }
    page.push_str(
        "\n## What to look at\n\n\
         - **Is a region behind?** `max by (region) (diffluent_lag_seconds)`.\n\
         - **Is it getting better?** `sum by (region) (delta(diffluent_lag_records[5m]))`: below 0, it catches up.\n\
         - **Does a stream need a person?** `diffluent_streams{state=\"stalled\"} > 0`; `/lag/{region}` says why.\n\
         - **Is a region gone?** `diffluent_region_state{state=\"unreachable\"} == 1`.\n\
         - **Was anything lost?** `diffluent_lost_records_total + diffluent_diverged_records_total > 0`: a person must look.\n\
         - **Does a certificate expire soon?** `diffluent_certificate_expiry_timestamp_seconds - time() < 7 * 86400`.\n\
         - **Is the buffer too small?** `rate(diffluent_capture_dropped_bytes_total{reason=\"budget\"}[5m]) > 0`: nothing is \
         lost, but the local cluster is read for it.\n\
         - **Messages in per second, per cluster?** `max by (topic) (rate(diffluent_local_records_total[5m]))` for the local one, whoever produces them; \
         `sum by (region) (rate(diffluent_mirrored_records_total[5m]))` for regions.\n\
         - **Bytes in and out per second, per cluster?** `sum by (cluster) (rate(diffluent_cluster_sent_bytes_total[5m]))` and `..._received_bytes_total`; for the \
         local cluster add what passes through from clients: `sum(rate(diffluent_client_received_bytes_total[5m]))` in, `..._sent_bytes_total` out. \
         `/brokers` and the page have these sums, as one proxy sees them.\n\
         - **Does a cluster lack replicas?** `max by (cluster) (diffluent_cluster_under_replicated_partitions) > 0`.\n",
    );
    page
}
