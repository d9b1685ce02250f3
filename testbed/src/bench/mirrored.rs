//! Waiting for what is mirrored.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::kafka::Cluster;

/// How long a region may take for what a row gives it.
const DEADLINE: Duration = Duration::from_secs(1200);
const PAUSE: Duration = Duration::from_millis(20);

/// Waits until each partition of a topic ends in the region where `ends` says.
///
/// # Errors
/// When that takes longer than 20 minutes.
pub(super) async fn until_mirrored(ends: &[i64], region: &Cluster, topic: &str) -> Result<()> {
    let there = until(region, topic, |there| there == ends).await?;
    debug_assert_eq!(there, ends);
    Ok(())
}

/// Waits until the region has anything of a topic; what it has then.
///
/// # Errors
/// When that takes longer than 20 minutes.
pub(super) async fn first_there(region: &Cluster, topic: &str) -> Result<Vec<i64>> {
    until(region, topic, |there| there.iter().any(|end| *end > 0)).await
}

async fn until(region: &Cluster, topic: &str, holds: impl Fn(&[i64]) -> bool) -> Result<Vec<i64>> {
    let end = Instant::now() + DEADLINE;
    loop {
        let there = if region.admin().partitions(topic).await.unwrap_or(0) > 0 {
            region.admin().end_offsets(topic).await.unwrap_or_default()
        } else {
            Vec::new()
        };
        if holds(&there) {
            return Ok(there);
        }
        if Instant::now() > end {
            bail!("the region has {there:?} of {topic} after {DEADLINE:?}");
        }
        tokio::time::sleep(PAUSE).await;
    }
}
