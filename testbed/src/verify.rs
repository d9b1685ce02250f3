//! Compares a topic in two clusters, record by record.
//!
//! Both sides are read from their beginning to their end (read_committed) partition by partition, in lockstep. Content (key, value,
//! headers, timestamp) and order have to be equal; offsets may differ. While the sides agree nothing is kept; where they
//! differ, a bounded look-ahead on both sides finds out what happened: records missing, extra, repeated, changed or out of order.

mod lockstep;
mod reader;
mod report;

pub use lockstep::Lockstep;
pub use reader::{Entry, Side};
pub use report::{Difference, Kind, Report};

use anyhow::{Context, Result, bail};

use reader::Reader;

/// Compares `topic` in both clusters; neither side may be written to meanwhile. `expected` is the truth (the local cluster).
///
/// # Errors
/// When a cluster can't be read. Differences are no error: see [`Report::is_clean`].
pub async fn compare(expected: &Side, actual: &Side, topic: &str) -> Result<Report> {
    let (expected, actual, topic) = (expected.clone(), actual.clone(), topic.to_owned());
    tokio::task::spawn_blocking(move || compare_blocking(&expected, &actual, &topic))
        .await
        .context("verify panicked")?
}

/// As [`compare`], and fails with the report when the sides differ, or when there is nothing to compare.
///
/// # Errors
/// As [`compare`], and on any difference.
pub async fn assert_equal(expected: &Side, actual: &Side, topic: &str) -> Result<Report> {
    let report = compare(expected, actual, topic).await?;
    if !report.is_clean() {
        bail!("{report}");
    }
    if report.records == 0 {
        bail!("{topic} is empty on both sides: nothing was compared");
    }
    Ok(report)
}

fn compare_blocking(expected: &Side, actual: &Side, topic: &str) -> Result<Report> {
    let mut left = Reader::open(expected, topic)?;
    let mut right = Reader::open(actual, &actual.topic_name(topic))?;
    let mut report = Report::new(topic, expected.name(), actual.name());
    report.expected_partitions = left.partitions();
    report.actual_partitions = right.partitions();
    for partition in 0..left.partitions().max(right.partitions()) {
        let expected_entries = left.read(partition)?;
        let actual_entries = right.read(partition)?;
        Lockstep::new(partition, &mut report).run(expected_entries, actual_entries)?;
    }
    Ok(report)
}
