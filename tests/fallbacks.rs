//! Regions whose brokers do less for diffluent than it would like.

mod common;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use common::{DIFFLUENT, PATIENCE, assert_topic_equal, wait_mirrored};
use diffluent_testbed::verify::Kind;
use diffluent_testbed::{Cluster, DelaySpec, Proxy, ProxyConfig, Side, Workload, verify};

const RECENT: &str = "recent";
const OLD: &str = "old";

async fn run(workload: Workload) -> Result<()> {
    let topic = workload.topic.clone();
    let outcome = workload.run().await?;
    ensure!(outcome.failed == 0, "{topic}: {:?}", outcome.errors);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_forgets_producers_in_a_second_loses_nothing_and_what_is_at_risk_is_told() -> Result<()> {
    let forgetful = Cluster::builder()
        .name("us")
        .config("producer.id.expiration.ms", "1000")
        .config("producer.id.expiration.check.interval.ms", "100")
        .listener_via(DelaySpec::rtt_ms(4));
    let (eu, us) = tokio::try_join!(Cluster::builder().name("eu").start(), forgetful.start())?;
    for topic in [RECENT, OLD] {
        eu.create_topic(topic, 1, 1, &[]).await?;
        us.create_topic(topic, 1, 1, &[]).await?;
    }
    let config = ProxyConfig::new("eu", &eu.bootstrap()).region("us", &us.delayed_bootstrap());
    let mut proxy = Proxy::start(DIFFLUENT, config.allow("can't be reached").allow("out of their row")).await?;

    // Idle for longer than the region remembers, killed in between: a stream goes on as if nothing were.
    for round in 0..4 {
        run(Workload { first: round * 200, records: 200, ..Workload::new(&proxy.bootstrap(), RECENT) }).await?;
        wait_mirrored(&eu, &proxy, &["us"], &[RECENT]).await?;
        let since = Instant::now();
        while us.admin().producers(RECENT, 0).await? > 0 {
            ensure!(since.elapsed() < PATIENCE, "the region still remembers");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if round % 2 == 1 {
            proxy.restart().await?;
        }
    }
    assert_topic_equal(&eu, &us, RECENT).await?;

    // A backlog that is older, over a line that breaks again and again.
    let three_days_ago = i64::try_from(std::time::UNIX_EPOCH.elapsed()?.as_millis())? - 3 * 86_400_000;
    let small = vec![("batch.num.messages".into(), "20".into())];
    let backlog = Workload {
        records: 20_000,
        timestamp: Some(three_days_ago),
        config: small,
        ..Workload::new(&eu.bootstrap(), OLD)
    };
    run(backlog).await?;
    let line = us.delay().context("no line")?;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        line.reset();
    }
    wait_mirrored(&eu, &proxy, &["us"], &[OLD]).await?;
    let report = verify::compare(&Side::new("eu", &eu.bootstrap()), &Side::new("us", &us.bootstrap()), OLD).await?;
    assert_eq!(
        (report.count(Kind::Missing), report.count(Kind::Changed), report.count(Kind::Extra)),
        (0, 0, 0),
        "{report}"
    );
    println!("{report}");
    let region = &["region=\"us\""];
    assert!(proxy.metric_with("diffluent_unprotected_batches_total", region).await? >= 1_000.0);
    // Said as soon as the region has told its setting: the asking broke with the line, too.
    let since = Instant::now();
    let told = loop {
        let log = proxy.log_text()?;
        if let Some(line) = log.lines().find(|line| line.contains("older than the region's brokers remember producers"))
        {
            break line.to_owned();
        }
        ensure!(since.elapsed() < PATIENCE, "nothing is told of what is at risk: {log}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(told.contains("1000"), "the region's own setting is not known: {told}");
    proxy.finish().await
}
