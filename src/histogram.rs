//! A histogram without a lock, for what every chunk of every client passes through.
//!
//! It is shown as the registry's own histograms are; those take a lock for each observation.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// How often durations were how long. Clones count together.
#[derive(Clone, Debug)]
pub struct Histogram {
    buckets: Arc<[Bucket]>,
    sum_nanos: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Bucket {
    /// The longest duration in it, nanoseconds.
    most_nanos: u64,
    /// The same as it is shown, seconds.
    most_seconds: f64,
    count: AtomicU64,
}

impl Histogram {
    /// Buckets up to each of these bounds (seconds, rising), and one for all that is longer.
    pub fn new(bounds: impl IntoIterator<Item = f64>) -> Self {
        let bounds = bounds.into_iter().map(|seconds| ((seconds * 1e9) as u64, seconds));
        let buckets = bounds.chain([(u64::MAX, f64::INFINITY)]).map(|(most_nanos, most_seconds)| Bucket {
            most_nanos,
            most_seconds,
            count: AtomicU64::new(0),
        });
        Self { buckets: buckets.collect(), sum_nanos: Arc::default() }
    }

    /// Counts a duration.
    pub fn observe(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
        if let Some(bucket) = self.buckets.iter().find(|bucket| nanos <= bucket.most_nanos) {
            bucket.count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let buckets: Vec<(f64, u64)> =
            self.buckets.iter().map(|bucket| (bucket.most_seconds, bucket.count.load(Ordering::Relaxed))).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = self.sum_nanos.load(Ordering::Relaxed) as f64 / 1e9;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::histogram;
    use prometheus_client::registry::Registry;

    #[test]
    fn it_is_shown_as_the_registrys_own() {
        let bounds = [0.001, 0.002, 0.01, 1.0];
        let (ours, theirs) = (Histogram::new(bounds), histogram::Histogram::new(bounds));
        // Binary fractions of a second, which add up to the same in both.
        for parts in [0, 1, 8, 512, 1024] {
            let seconds = f64::from(parts) / 512.0;
            ours.observe(Duration::from_secs_f64(seconds));
            theirs.observe(seconds);
        }
        let shown = |registry: Registry| {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
            text
        };
        let (mut one, mut other) = (Registry::default(), Registry::default());
        one.register("latency_seconds", "Help", ours);
        other.register("latency_seconds", "Help", theirs);
        assert_eq!(shown(one), shown(other));
    }
}
