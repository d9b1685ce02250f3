//! Limits that an operator sets hold.

mod common;

use std::time::{Duration, Instant};

use anyhow::Result;
use common::{DIFFLUENT, PATIENCE, assert_topic_equal, wait_mirrored};
use diffluent_testbed::{Cluster, Proxy, ProxyConfig, RegionConfig, Workload};

const TOPIC: &str = "orders";

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_flows_no_faster_than_the_regions_limits_say() -> Result<()> {
    let (eu, us, ap) = tokio::try_join!(
        Cluster::builder().name("eu").start(),
        Cluster::builder().name("us").start(),
        Cluster::builder().name("ap").start(),
    )?;
    eu.create_topic(TOPIC, 2, 1, &[]).await?;
    let backlog = Workload { records: 200, value_bytes: 10_000, ..Workload::new(&eu.bootstrap(), TOPIC) };
    assert_eq!(backlog.run().await?.failed, 0);
    let limited = |name: &str, cluster: &Cluster, key: &str| RegionConfig {
        extra: format!("{key} = \"512 KiB\"\n"),
        ..RegionConfig::new(name, &cluster.bootstrap())
    };
    let config = ProxyConfig::new("eu", &eu.bootstrap())
        .region_with(limited("us", &us, "rate_limit"))
        .region_with(limited("ap", &ap, "catch_up_rate_limit"));
    let begun = Instant::now();
    let proxy = Proxy::start(DIFFLUENT, config).await?;
    for region in ["us", "ap"] {
        wait_mirrored(&eu, &proxy, &[region], &[TOPIC]).await?;
        // Two million bytes, of which a tenth of a second's may pass at once.
        let took = begun.elapsed();
        assert!(took >= Duration::from_secs(3), "{region} has everything after {took:?}");
    }
    assert_topic_equal(&eu, &us, TOPIC).await?;
    assert_topic_equal(&eu, &ap, TOPIC).await?;
    proxy.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_stays_flat_while_a_dead_region_is_under_load() -> Result<()> {
    const RECORD_BYTES: usize = 10_000;
    const MIB: u64 = 1024 * 1024;
    const BUFFER: u64 = 8 * MIB;
    // What connections and the allocator may take on top.
    const SLACK: u64 = 24 * MIB;
    let (eu, us) = tokio::try_join!(Cluster::builder().name("eu").start(), Cluster::builder().name("us").start())?;
    eu.create_topic(TOPIC, 4, 1, &[]).await?;
    let mut config = ProxyConfig::new("eu", &eu.bootstrap()).region("us", &us.bootstrap()).allow("can't be reached");
    config.buffer = Some(format!("{} MiB", BUFFER / MIB));
    let proxy = Proxy::start(DIFFLUENT, config).await?;
    let load = Workload { value_bytes: RECORD_BYTES, ..Workload::new(&proxy.bootstrap(), TOPIC) };
    let warm = Workload { records: 1_000, ..load.clone() };
    assert_eq!(warm.run().await?.failed, 0);
    wait_mirrored(&eu, &proxy, &["us"], &[TOPIC]).await?;
    let before = proxy.rss_bytes()?;
    us.kill_all();
    let producer = Workload { records: u64::MAX, first: 1_000, ..load }.start()?;
    let mut most = before;
    let since = Instant::now();
    while producer.acked() * RECORD_BYTES as u64 / MIB < 192 {
        assert!(since.elapsed() < PATIENCE, "the producer stands still");
        most = most.max(proxy.rss_bytes()?);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("resident: {} MiB before a region died, at most {} MiB under 192 MiB of load", before / MIB, most / MIB);
    assert!(most < before + BUFFER + SLACK, "{} MiB grew to {}", before / MIB, most / MIB);
    producer.stop();
    assert_eq!(producer.finish().await?.failed, 0);
    let held = proxy.metric("diffluent_capture_buffer_bytes").await?;
    assert!(held <= BUFFER as f64, "{held} bytes of captured batches are kept for a dead region");
    proxy.finish().await
}
