//! A follower in a region that stands still holds up its own partition, and no other.

mod common;

use std::time::{Duration, Instant};

use anyhow::Result;
use common::{DIFFLUENT, PATIENCE, assert_topic_equal, wait_mirrored};
use diffluent_testbed::{Cluster, Proxy, ProxyConfig, Workload};

/// Shorter than it takes until the follower no longer counts as in sync.
const FROZEN_FOR: Duration = Duration::from_secs(6);
/// Far below that, and enough for a busy machine; docs/BENCHMARKS.md has the figure.
const STANDSTILL_MAX: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_follower_of_one_partition_holds_up_no_other() -> Result<()> {
    // A broker that is silent is declared dead after 20 s.
    let there = Cluster::builder().name("us").brokers(3).config("broker.session.timeout.ms", "20000");
    let (eu, us) = tokio::try_join!(Cluster::builder().name("eu").start(), there.start())?;
    for (topic, follower) in [("slow", 3), ("other", 2)] {
        eu.create_topic(topic, 1, 1, &[]).await?;
        us.admin().create_topic_on(topic, &[&[1, follower]]).await?;
    }
    let proxy = Proxy::start(DIFFLUENT, ProxyConfig::new("eu", &eu.bootstrap()).region("us", &us.bootstrap())).await?;
    let steady = |topic: &str, seed| {
        let records = u64::MAX;
        Workload { records, rate: Some(200), idempotent: true, seed, ..Workload::new(&proxy.bootstrap(), topic) }
    };
    let (slow, other) = (steady("slow", 1).start()?, steady("other", 2).start()?);
    while slow.acked() < 400 || other.acked() < 400 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    wait_mirrored(&eu, &proxy, &["us"], &["slow", "other"]).await?;

    us.pause(3)?;
    let frozen = Instant::now();
    let (mut end, mut moved, mut longest) = (0, Instant::now(), Duration::ZERO);
    while frozen.elapsed() < FROZEN_FOR {
        let now = us.admin().end_offsets("other").await?;
        if now.first().is_some_and(|now| *now > end) {
            end = now.first().copied().unwrap_or(end);
            moved = Instant::now();
        }
        longest = longest.max(moved.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    us.resume(3)?;
    println!("the other partition stood still for {longest:?} at most");
    assert!(longest < STANDSTILL_MAX, "the other partition stood still for {longest:?}");
    assert!(proxy.log_text()?.contains("followers of the partition in the region are slow"), "nobody was set aside");

    slow.stop();
    other.stop();
    for producer in [slow, other] {
        assert_eq!(producer.finish().await?.failed, 0);
    }
    assert!(frozen.elapsed() < PATIENCE);
    wait_mirrored(&eu, &proxy, &["us"], &["slow", "other"]).await?;
    for topic in ["slow", "other"] {
        assert_topic_equal(&eu, &us, topic).await?;
    }
    proxy.finish().await
}
