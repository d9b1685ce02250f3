//! A region that loses what it had, and progress that is lost: on real Kafka, what the simulation draws by the hundred.

mod common;

use std::time::{Duration, Instant};

use anyhow::Result;
use common::{DIFFLUENT, PATIENCE, assert_topic_equal, wait_mirrored};
use diffluent_testbed::{Cluster, Proxy, ProxyConfig, RegionConfig, Workload};
use serde_json::Value;

const TOPIC: &str = "orders";

async fn lag_when(proxy: &Proxy, region: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Result<Value> {
    let since = Instant::now();
    loop {
        let lag: Value = serde_json::from_str(&proxy.get(&format!("/lag/{region}/{TOPIC}")).await?)?;
        if holds(&lag) {
            return Ok(lag);
        }
        assert!(since.elapsed() < PATIENCE, "{region} is not {what}: {lag:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until the region's topic is there and holds so many records.
async fn wait_for_records(region: &Cluster, proxy: &Proxy, records: i64) -> Result<()> {
    let since = Instant::now();
    loop {
        let held = match region.admin().topics().await?.contains(&TOPIC.to_owned()) {
            // A topic that was made in this moment has no leaders yet.
            true => region.admin().end_offsets(TOPIC).await.unwrap_or_default().iter().sum(),
            false => 0,
        };
        if held == records {
            return Ok(());
        }
        assert!(since.elapsed() < PATIENCE, "{held} of {records} records:\n{}", proxy.log_text()?);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_deleted_in_a_region_is_sent_again_or_stalls_as_the_operator_has_chosen() -> Result<()> {
    let (eu, us) = tokio::try_join!(Cluster::builder().name("eu").start(), Cluster::builder().name("us").start())?;
    eu.create_topic(TOPIC, 2, 1, &[]).await?;
    let config = |policy: &str| {
        let mut region = RegionConfig::new("us", &us.bootstrap());
        region.extra = format!("on_region_topic_lost = {policy:?}\n");
        let config = ProxyConfig::new("eu", &eu.bootstrap()).region_with(region);
        config
            .allow("was deleted in the region")
            .allow("has lost all that this stream wrote")
            .allow("does not hold what it has acknowledged")
    };
    let run = |proxy: &Proxy, first| Workload { first, records: 500, ..Workload::new(&proxy.bootstrap(), TOPIC) };

    let proxy = Proxy::start(DIFFLUENT, config("stop")).await?;
    assert_eq!(run(&proxy, 0).run().await?.failed, 0);
    wait_mirrored(&eu, &proxy, &["us"], &[TOPIC]).await?;
    us.admin().delete_topic(TOPIC).await?;
    let stalled = lag_when(&proxy, "us", "stalled", |lag| lag["state"] == "stalled").await?;
    let reason = stalled["partitions"][0]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("was deleted in the region") && reason.contains("on_region_topic_lost"), "{reason}");
    assert!(!us.admin().topics().await?.contains(&TOPIC.to_owned()), "nobody creates it against the operator's will");
    proxy.finish().await?;

    let proxy = Proxy::start(DIFFLUENT, config("recreate")).await?;
    wait_for_records(&us, &proxy, 500).await?;
    assert_eq!(run(&proxy, 500).run().await?.failed, 0);
    wait_mirrored(&eu, &proxy, &["us"], &[TOPIC]).await?;
    us.admin().delete_topic(TOPIC).await?;
    assert_eq!(run(&proxy, 1_000).run().await?.failed, 0);
    wait_for_records(&us, &proxy, 1_500).await?;
    wait_mirrored(&eu, &proxy, &["us"], &[TOPIC]).await?;
    assert_topic_equal(&eu, &us, TOPIC).await?;
    proxy.finish().await
}
