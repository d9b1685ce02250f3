//! What fails, and what must hold all the same.

mod common;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use common::{DIFFLUENT, PATIENCE, World, assert_topic_equal, wait_mirrored};
use diffluent_testbed::{Cluster, Proxy, ProxyConfig, Workload};

const TOPIC: &str = "orders";

/// A paced, idempotent producer that goes on until it is stopped.
fn steady(bootstrap: &str, rate: u64) -> Workload {
    Workload { records: u64::MAX, rate: Some(rate), idempotent: true, ..Workload::new(bootstrap, TOPIC) }
}

async fn lag_of(proxy: &Proxy, region: &str, field: &str) -> Result<f64> {
    proxy.region_lag(region).await?[field].as_f64().with_context(|| format!("no {field} in /lag"))
}

#[tokio::test(flavor = "multi_thread")]
async fn in_steady_state_with_acks_all_no_byte_is_fetched_from_the_local_cluster() -> Result<()> {
    let world = World::start().await?;
    world.eu.create_topic(TOPIC, 3, 1, &[]).await?;
    let run = Workload { records: 3_000, ..Workload::new(&world.proxy.bootstrap(), TOPIC) };
    run.clone().run().await?;
    wait_mirrored(&world.eu, &world.proxy, &["us", "ap"], &[TOPIC]).await?;
    // The streams have caught up with the beginning. One connection stays open from here on. On a busy machine a session may lag behind its
    // broker for so long that a stream looks into the log: then the steady state begins anew.
    let producer = Workload { records: u64::MAX, rate: Some(3_000), first: 3_000, ..run }.start()?;
    let begun = Instant::now();
    let fetched = || world.proxy.metric_with("diffluent_cluster_fetched_bytes_total", &["cluster=\"local\""]);
    let mut disturbed = 0.0;
    loop {
        let (before, acked) = (fetched().await?, producer.acked());
        while producer.acked() < acked + 9_000 {
            assert!(begun.elapsed() < PATIENCE, "no steady state; {disturbed} bytes were fetched in the last window");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        disturbed = fetched().await? - before;
        if disturbed == 0.0 {
            break;
        }
    }
    producer.stop();
    let outcome = producer.finish().await?;
    assert_eq!(outcome.failed, 0, "{:?}", outcome.errors);
    world.assert_regions_equal(&[TOPIC]).await?;
    world.proxy.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_bypass_the_proxy_arrive_in_order_with_the_others() -> Result<()> {
    let world = World::start().await?;
    world.eu.create_topic(TOPIC, 2, 1, &[]).await?;
    let through = Workload { seed: 1, records: 4_000, ..steady(&world.proxy.bootstrap(), 2_000) }.start()?;
    let past = Workload { seed: 2, records: 2_000, ..steady(&world.eu.bootstrap(), 1_000) }.start()?;
    assert_eq!(through.finish().await?.failed, 0);
    assert_eq!(past.finish().await?.failed, 0);
    world.assert_regions_equal(&[TOPIC]).await?;
    world.proxy.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_region_delays_nobody_shows_its_lag_and_gets_everything_once_later() -> Result<()> {
    let mut world = World::start_with(|config| config.allow("the region can't be reached")).await?;
    world.eu.create_topic(TOPIC, 3, 1, &[]).await?;
    let producer = steady(&world.proxy.bootstrap(), 2_000).start()?;
    while producer.acked() < 4_000 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    wait_mirrored(&world.eu, &world.proxy, &["us", "ap"], &[TOPIC]).await?;
    world.ap.kill_all();
    let died = Instant::now();
    let mut last = (0.0, 0.0);
    let mut grew = 0;
    while grew < 4 {
        assert!(died.elapsed() < PATIENCE, "the lag of a dead region does not grow: {:#}", world.proxy.lag().await?);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = (lag_of(&world.proxy, "ap", "lag_records").await?, lag_of(&world.proxy, "ap", "lag_seconds").await?);
        if now.0 > last.0 && now.1 > last.1 {
            grew += 1;
        }
        last = now;
    }
    assert_eq!(world.proxy.region_lag("ap").await?["state"], "unreachable");
    assert_eq!(world.proxy.region_lag("us").await?["state"], "mirroring");
    let memory = world.proxy.rss_bytes()?;
    assert!(memory < (64 + 64) << 20, "{} MiB resident with a dead region", memory >> 20);
    // Killed and started again while the region is down: what the region lacks is told from the log.
    world.proxy.kill();
    world.proxy.restart().await?;
    let restarted = Instant::now();
    while lag_of(&world.proxy, "ap", "lag_records").await? < last.0
        || lag_of(&world.proxy, "ap", "lag_seconds").await? < last.1
    {
        assert!(restarted.elapsed() < PATIENCE, "the lag is not known after a restart: {:#}", world.proxy.lag().await?);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(world.proxy.region_lag("ap").await?["state"], "unreachable");
    world.ap.restart_all().await?;
    wait_mirrored(&world.eu, &world.proxy, &["us", "ap"], &[TOPIC]).await?;
    producer.stop();
    let outcome = producer.finish().await?;
    assert_eq!(outcome.failed, 0, "{:?}", outcome.errors);
    world.assert_regions_equal(&[TOPIC]).await?;
    world.proxy.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_sigkills_under_load_lose_repeat_and_reorder_nothing() -> Result<()> {
    let mut world = World::start_with(|config| config.allow("can't be reached")).await?;
    world.eu.create_topic(TOPIC, 3, 1, &[]).await?;
    let producer = steady(&world.proxy.bootstrap(), 3_000).start()?;
    for kill in 1..=10_u64 {
        let acked = producer.acked();
        let since = Instant::now();
        while producer.acked() < acked + 2_000 {
            assert!(since.elapsed() < PATIENCE, "the producer stands still before kill {kill}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        world.proxy.kill();
        world.proxy.restart().await?;
    }
    producer.stop();
    let outcome = producer.finish().await?;
    assert_eq!(outcome.failed, 0, "{:?}", outcome.errors);
    world.assert_regions_equal(&[TOPIC]).await?;
    world.proxy.finish().await
}

/// Moves the leader of partition 0 of a cluster back and forth under load, and compares.
async fn leaders_move(of_region: bool) -> Result<()> {
    let (eu, us) = tokio::try_join!(
        Cluster::builder().name("eu").brokers(if of_region { 1 } else { 3 }).start(),
        Cluster::builder().name("us").brokers(if of_region { 3 } else { 1 }).start(),
    )?;
    let moved = if of_region { &us } else { &eu };
    for (cluster, replicas) in [(&eu, if of_region { 1 } else { 3 }), (&us, if of_region { 3 } else { 1 })] {
        cluster.create_topic(TOPIC, 2, replicas, &[]).await?;
    }
    let config = ProxyConfig::new("eu", &eu.bootstrap()).region("us", &us.bootstrap()).allow("can't be reached");
    let proxy = Proxy::start(DIFFLUENT, config).await?;
    let producer = steady(&proxy.bootstrap(), 2_000).start()?;
    for to in [2, 3, 1, 2, 1] {
        let acked = producer.acked();
        let since = Instant::now();
        while producer.acked() < acked + 2_000 {
            assert!(since.elapsed() < PATIENCE, "the producer stands still before leader {to}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        moved.move_leader(TOPIC, 0, to).await?;
    }
    producer.stop();
    let outcome = producer.finish().await?;
    assert_eq!(outcome.failed, 0, "{:?}", outcome.errors);
    wait_mirrored(&eu, &proxy, &["us"], &[TOPIC]).await?;
    assert_topic_equal(&eu, &us, TOPIC).await?;
    proxy.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_leader_that_moves_under_load_loses_nothing() -> Result<()> {
    leaders_move(false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_regions_leader_that_moves_under_load_loses_and_repeats_nothing() -> Result<()> {
    leaders_move(true).await
}
