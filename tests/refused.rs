//! A batch that a region refuses stalls its own stream, says why and what to do, and can be stepped over.

mod common;

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use common::{DIFFLUENT, PATIENCE, wait_mirrored};
use diffluent_testbed::verify::Kind;
use diffluent_testbed::{Cluster, Proxy, ProxyConfig, Side, Workload, verify};
use serde_json::Value;

const TOPIC: &str = "orders";

/// One partition's stream to "us", once `holds`.
async fn stream_when(proxy: &Proxy, partition: usize, what: &str, holds: impl Fn(&Value) -> bool) -> Result<Value> {
    let since = Instant::now();
    loop {
        let topic: Value = serde_json::from_str(&proxy.get(&format!("/lag/us/{TOPIC}")).await?)?;
        let stream = &topic["partitions"][partition];
        if holds(stream) {
            return Ok(stream.clone());
        }
        assert!(since.elapsed() < PATIENCE, "partition {partition} is not {what}: {topic:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn skip(proxy: &Proxy, offset: i64) -> Result<std::process::Output> {
    let mut command = Command::new(DIFFLUENT);
    command.arg("skip").arg(proxy.config_path()).args(["--region", "us", "--topic", TOPIC, "--partition", "0"]);
    command.arg(format!("--offset={offset}")).output().context("cannot run diffluent skip")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_batch_stalls_its_stream_alone_until_it_is_stepped_over_or_allowed() -> Result<()> {
    let (eu, us) = tokio::try_join!(Cluster::builder().name("eu").start(), Cluster::builder().name("us").start())?;
    eu.create_topic(TOPIC, 2, 1, &[]).await?;
    us.create_topic(TOPIC, 2, 1, &[("max.message.bytes", "4000")]).await?;
    let config = ProxyConfig::new("eu", &eu.bootstrap())
        .region("us", &us.bootstrap())
        .allow("the stream is stalled")
        .allow("an operator stepped over this batch");
    let mut proxy = Proxy::start(DIFFLUENT, config).await?;
    // One record a batch, so that what is refused is exactly one record.
    let small = Workload {
        partition: Some(0),
        records: 20,
        config: vec![("batch.num.messages".into(), "1".into())],
        ..Workload::new(&proxy.bootstrap(), TOPIC)
    };
    let large = Workload { records: 1, value_bytes: 20_000, ..small.clone() };
    assert_eq!(small.clone().run().await?.failed, 0);
    assert_eq!(large.clone().run().await?.failed, 0);
    assert_eq!(Workload { first: 20, ..small.clone() }.run().await?.failed, 0);
    let stalled = stream_when(&proxy, 0, "stalled", |stream| stream["state"] == "stalled").await?;
    let reason = stalled["reason"].as_str().unwrap_or_default();
    for part in ["source offset 20", "MESSAGE_TOO_LARGE (10)", "raise max.message.bytes", "diffluent skip"] {
        assert!(reason.contains(part), "{part:?} is not in {reason:?}");
    }
    assert_eq!(stalled["next_source_offset"], 20, "everything before it is in the region");
    // The other partition goes on.
    assert_eq!(Workload { partition: Some(1), ..small.clone() }.run().await?.failed, 0);
    stream_when(&proxy, 1, "mirrored", |stream| stream["next_source_offset"] == 20).await?;

    // The region says which of its streams it is.
    let asked = Instant::now();
    let said = loop {
        let lag = proxy.region_lag("us").await?;
        if lag["state"] == "stalled" {
            break lag["reason"].as_str().unwrap_or_default().to_owned();
        }
        assert!(asked.elapsed() < PATIENCE, "{lag:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(said.starts_with(&format!("{TOPIC}, partition 0: ")) && said.contains("source offset 20"), "{said}");

    // Any other batch is not stepped over.
    let refused = skip(&proxy, 19)?;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let stepped = Instant::now();
    // Every five seconds the stream looks whether the batch is still refused, and is not stalled for that moment.
    let told = loop {
        let told = skip(&proxy, 20)?;
        if told.status.success() {
            break String::from_utf8_lossy(&told.stdout).into_owned();
        }
        assert!(stepped.elapsed() < PATIENCE, "{told:?}");
    };
    assert!(told.contains("stepped over 1 records") && told.contains("offsets 20 to 21"), "{told}");
    wait_mirrored(&eu, &proxy, &["us"], &[TOPIC]).await?;
    assert_eq!(proxy.metric_with("diffluent_skipped_records_total", &["region=\"us\""]).await?, 1.0);

    // What was stepped over is known for ever; the next refused batch is not stepped over, but allowed.
    assert!(proxy.stop().await?.success());
    proxy.restart().await?;
    let skipped = stream_when(&proxy, 0, "known", |stream| stream["next_source_offset"] == 41).await?;
    assert_eq!(skipped["skipped_records"], 1, "{skipped:#}");
    assert_eq!(Workload { first: 21, bootstrap: proxy.bootstrap(), ..large }.run().await?.failed, 0);
    assert_eq!(Workload { first: 40, bootstrap: proxy.bootstrap(), ..small }.run().await?.failed, 0);
    stream_when(&proxy, 0, "stalled", |stream| stream["state"] == "stalled").await?;
    us.admin().set_topic_config(TOPIC, &[("max.message.bytes", None)]).await?;
    wait_mirrored(&eu, &proxy, &["us"], &[TOPIC]).await?;
    let report = verify::compare(&Side::new("eu", &eu.bootstrap()), &Side::new("us", &us.bootstrap()), TOPIC).await?;
    let missing_alone = report.counts.iter().all(|(kind, count)| *kind == Kind::Missing || *count == 0);
    assert!(report.count(Kind::Missing) == 1 && missing_alone, "only what was stepped over is missing: {report}");
    proxy.finish().await
}
