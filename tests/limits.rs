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
    let (eu, us) = tokio::try_join!(Cluster::builder().name("eu").start(), Cluster::builder().name("us").start())?;
    eu.create_topic(TOPIC, 4, 1, &[]).await?;
    let config = ProxyConfig::new("eu", &eu.bootstrap()).region("us", &us.bootstrap()).allow("can't be reached");
    let proxy = Proxy::start(DIFFLUENT, config).await?;
    let load = Workload { value_bytes: RECORD_BYTES, ..Workload::new(&proxy.bootstrap(), TOPIC) };
    assert_eq!(Workload { records: 100, ..load.clone() }.run().await?.failed, 0);
    wait_mirrored(&eu, &proxy, &["us"], &[TOPIC]).await?;
    us.kill_all();
    let producer = Workload { records: u64::MAX, first: 100, ..load }.start()?;
    let acked = async |mib: u64| {
        let since = Instant::now();
        while producer.acked() * RECORD_BYTES as u64 / MIB < mib {
            assert!(since.elapsed() < PATIENCE, "the producer stands still");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        proxy.rss_bytes()
    };
    // The buffer may fill before the region is found dead; from then on nothing may be kept.
    let before = acked(48).await?;
    let mut most = 0;
    for mib in [80, 112, 144] {
        most = most.max(acked(mib).await?);
    }
    println!(
        "resident with a dead region: {} MiB after 48 MiB of load, at most {} MiB up to 144",
        before / MIB,
        most / MIB
    );
    assert!(most < before + 24 * MIB, "{} MiB grew to {}", before / MIB, most / MIB);
    producer.stop();
    assert_eq!(producer.finish().await?.failed, 0);
    let held = proxy.metric("diffluent_capture_buffer_bytes").await?;
    assert!(held < 8.0 * MIB as f64, "{held} bytes of captured batches are kept for a dead region");
    proxy.finish().await
}
