//! Replication latency over the last minute, in small rolling histograms.
//!
//! A histogram has one significant digit and counts tenths of a millisecond, so that one for each of 10,000 partitions costs about a kilobyte,
//! and none where nothing is mirrored.

use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use crate::lag::LatencySummary;

/// A window's length: what is shown covers between one and two of them.
const WINDOW: Duration = Duration::from_secs(30);
/// The unit that is counted.
const UNIT: Duration = Duration::from_micros(100);
/// Longer latencies count as this one: an hour.
const UNITS_MAX: u64 = 36_000_000;

/// A histogram of the last 30 to 60 seconds.
#[derive(Debug)]
pub struct Latency {
    digits: u8,
    current: Option<Histogram<u32>>,
    previous: Option<Histogram<u32>>,
    since: Option<Instant>,
}

impl Latency {
    /// With one significant digit, for a partition.
    pub fn coarse() -> Self {
        Self { digits: 1, current: None, previous: None, since: None }
    }

    /// With two, for a topic or a region.
    pub fn fine() -> Self {
        Self { digits: 2, ..Self::coarse() }
    }

    /// Counts one batch.
    pub fn record(&mut self, latency: Duration, now: Instant) {
        self.roll(now);
        let digits = self.digits;
        let histogram = self.current.get_or_insert_with(|| {
            let mut histogram =
                Histogram::new(digits).unwrap_or_else(|error| unreachable!("one or two digits: {error}"));
            histogram.auto(true);
            histogram
        });
        let units = u64::try_from(latency.as_nanos() / UNIT.as_nanos()).unwrap_or(UNITS_MAX).min(UNITS_MAX);
        // It resizes by itself, so this can't fail.
        let _ = histogram.record(units.max(1));
    }

    /// Percentiles, in seconds.
    pub fn summary(&mut self, now: Instant) -> LatencySummary {
        self.roll(now);
        summarize([&self.current, &self.previous].into_iter().flatten())
    }

    /// Whether all of it is older than what is shown.
    pub fn is_over(&self, now: Instant) -> bool {
        self.since.is_none_or(|since| now.saturating_duration_since(since) >= WINDOW * 2)
    }

    fn roll(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        let age = now.saturating_duration_since(since);
        if age >= WINDOW {
            self.previous = self.current.take().filter(|_| age < WINDOW * 2);
            self.since = Some(now);
        }
    }
}

fn summarize<'a>(histograms: impl Iterator<Item = &'a Histogram<u32>>) -> LatencySummary {
    let mut all: Option<Histogram<u32>> = None;
    for histogram in histograms {
        match &mut all {
            None => all = Some(histogram.clone()),
            // Both resize by themselves, so this can't fail.
            Some(all) => drop(all.add(histogram)),
        }
    }
    let Some(all) = all else { return LatencySummary::default() };
    // Divided, not multiplied: 0.7583 and not 0.7583000000000001.
    let seconds = |units: u64| units as f64 / (1.0 / UNIT.as_secs_f64()).round();
    LatencySummary {
        count: all.len(),
        p50: seconds(all.value_at_quantile(0.5)),
        p90: seconds(all.value_at_quantile(0.9)),
        p99: seconds(all.value_at_quantile(0.99)),
        max: seconds(all.max()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_last_minute_only() {
        let start = Instant::now();
        let mut latency = Latency::fine();
        for _ in 0..100 {
            latency.record(Duration::from_millis(10), start);
        }
        latency.record(Duration::from_secs(1), start);
        let summary = latency.summary(start);
        assert_eq!(summary.count, 101);
        assert!((0.009..0.0115).contains(&summary.p50), "{summary:?}");
        assert!(summary.max >= 0.98, "{summary:?}");
        assert_eq!(latency.summary(start + WINDOW).count, 101);
        assert!(!latency.is_over(start + WINDOW));
        assert!(latency.is_over(start + WINDOW * 3));
        assert_eq!(latency.summary(start + WINDOW * 2).count, 0);
        latency.record(Duration::from_millis(1), start + WINDOW * 5);
        assert_eq!(latency.summary(start + WINDOW * 5).count, 1);
    }
}
