//! What is true now, as the admin port and the producer tell it, in a table of at most 79 columns.

use hdrhistogram::Histogram;
use serde_json::Value;

/// One region, from `GET /lag`.
#[derive(Clone, Debug, Default)]
pub(super) struct RegionStatus {
    pub(super) region: String,
    pub(super) state: String,
    /// Records in the local logs of what is mirrored, and how many of them the region has.
    pub(super) local_records: u64,
    pub(super) mirrored_records: u64,
    pub(super) lag_records: u64,
    pub(super) lag_seconds: f64,
    pub(super) latency_p50_seconds: f64,
    pub(super) latency_p99_seconds: f64,
}

impl RegionStatus {
    /// All regions of an answer to `GET /lag`; `None` when it has not the agreed shape.
    pub(super) fn all(lag: &Value) -> Option<Vec<Self>> {
        lag.get("regions")?.as_array()?.iter().map(Self::one).collect()
    }

    fn one(region: &Value) -> Option<Self> {
        let partitions = || {
            let topics = region.get("topics").and_then(Value::as_array).into_iter().flatten();
            topics.filter_map(|topic| topic.get("partitions")?.as_array()).flatten()
        };
        let sum = |field: &str| partitions().filter_map(|partition| partition.get(field)?.as_u64()).sum();
        let latency = region.get("replication_latency")?;
        Some(Self {
            region: region.get("region")?.as_str()?.to_owned(),
            state: region.get("state")?.as_str()?.replace('_', " "),
            local_records: sum("local_end_offset"),
            // Offsets instead of the counter `mirrored_records`: they outlive the process.
            mirrored_records: sum("next_source_offset"),
            lag_records: region.get("lag_records")?.as_u64()?,
            lag_seconds: region.get("lag_seconds")?.as_f64()?,
            latency_p50_seconds: latency.get("p50")?.as_f64()?,
            latency_p99_seconds: latency.get("p99")?.as_f64()?,
        })
    }
}

/// The producer, over the last interval.
#[derive(Clone, Debug, Default)]
pub(super) struct ProducerStatus {
    pub(super) acked: u64,
    pub(super) failed: u64,
    pub(super) acked_per_second: f64,
    pub(super) ack_p50_ms: f64,
    pub(super) ack_p99_ms: f64,
}

/// A moment of the story.
#[derive(Clone, Debug, Default)]
pub(super) struct Status {
    pub(super) seconds: u64,
    pub(super) producer: ProducerStatus,
    /// `None` while diffluent does not answer.
    pub(super) regions: Option<Vec<RegionStatus>>,
    pub(super) rss_bytes: Option<u64>,
}

impl Status {
    pub(super) fn table(&self) -> Vec<String> {
        let mut lines = vec![
            String::new(),
            format!(
                "{:<9}{:<13}{:>11}{:>11}{:>9}{:>8}{:>9}{:>9}",
                "region", "state", "records in", "mirrored", "lag", "lag s", "p50 ms", "p99 ms"
            ),
        ];
        match &self.regions {
            Some(regions) => lines.extend(regions.iter().map(|region| {
                format!(
                    "{:<9.9}{:<13.13}{:>11}{:>11}{:>9}{:>8.1}{:>9.1}{:>9.1}",
                    region.region,
                    region.state,
                    region.local_records,
                    region.mirrored_records,
                    region.lag_records,
                    region.lag_seconds,
                    region.latency_p50_seconds * 1e3,
                    region.latency_p99_seconds * 1e3,
                )
            })),
            None => lines.push("(diffluent does not answer)".to_owned()),
        }
        lines.push(format!("{}   diffluent: {}   {} s", self.producer_text(), self.memory(), self.seconds));
        lines
    }

    pub(super) fn line(&self) -> String {
        let regions = match &self.regions {
            Some(regions) => regions
                .iter()
                .map(|region| {
                    format!(
                        "{} {}: in {} mirrored {} lag {} ({:.1} s) p50 {:.1} ms p99 {:.1} ms",
                        region.region,
                        region.state,
                        region.local_records,
                        region.mirrored_records,
                        region.lag_records,
                        region.lag_seconds,
                        region.latency_p50_seconds * 1e3,
                        region.latency_p99_seconds * 1e3
                    )
                })
                .collect::<Vec<_>>()
                .join(" | "),
            None => "diffluent does not answer".to_owned(),
        };
        format!("[{:>3} s] {regions} | {} | {}", self.seconds, self.producer_text(), self.memory())
    }

    fn producer_text(&self) -> String {
        let producer = &self.producer;
        let failed = if producer.failed > 0 { format!(", {} FAILED", producer.failed) } else { String::new() };
        format!(
            "producer: {:.0}/s, acks p50 {:.1} p99 {:.1} ms{failed}",
            producer.acked_per_second, producer.ack_p50_ms, producer.ack_p99_ms
        )
    }

    fn memory(&self) -> String {
        self.rss_bytes.map_or("not running".to_owned(), |bytes| format!("{} MiB", bytes >> 20))
    }

    pub(super) fn region(&self, name: &str) -> Option<&RegionStatus> {
        self.regions.as_ref()?.iter().find(|region| region.region == name)
    }
}

/// A quantile of a histogram of microseconds, in milliseconds; 0 when it is empty.
pub(super) fn millis(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    if histogram.is_empty() { 0.0 } else { histogram.value_at_quantile(quantile) as f64 / 1e3 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_fits_a_terminal_and_shows_what_the_admin_port_says() {
        let lag = serde_json::json!({"regions": [{
            "region": "us", "state": "catching_up", "lag_records": 7, "lag_seconds": 1.25, "mirrored_records": 1,
            "replication_latency": {"count": 1, "p50": 0.041, "p90": 0.05, "p99": 0.06, "max": 0.06},
            "topics": [{"topic": "t", "partitions": [
                {"partition": 0, "local_end_offset": 10, "next_source_offset": 5},
                {"partition": 1, "local_end_offset": 4, "next_source_offset": 2}]}]}]});
        let regions = RegionStatus::all(&lag);
        let status = Status { regions, rss_bytes: Some(50 << 20), ..Status::default() };
        let us = status.region("us").map(|us| (us.local_records, us.mirrored_records, us.lag_records));
        assert_eq!(us, Some((14, 7, 7)));
        let table = status.table();
        assert!(table.iter().all(|line| line.chars().count() <= 79), "{table:#?}");
        assert!(table.iter().any(|line| line.contains("catching up") && line.contains("41.0")), "{table:#?}");
        assert!(RegionStatus::all(&serde_json::json!({})).is_none());
    }
}
