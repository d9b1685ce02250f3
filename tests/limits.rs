//! Limits that an operator sets hold.

mod common;

use std::time::{Duration, Instant};

use anyhow::Result;
use common::{DIFFLUENT, assert_topic_equal, wait_mirrored};
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
