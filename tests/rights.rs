//! Rights: with exactly those that deploy/acls grants everything works; each one that is missing is named, with the command that grants it.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use common::{DIFFLUENT, PATIENCE, assert_topic_equal, wait_mirrored};
use diffluent_testbed::kafka::sasl::{Grant, SASL};
use diffluent_testbed::{Cluster, Proxy, ProxyConfig, RegionConfig, Workload};
use serde_json::Value;

const PASSWORD: &str = "s3cret";
const PRINCIPAL: &str = "User:diffluent";
/// Named in the configuration, so that it is missed when it can't be seen.
const TOPIC: &str = "orders";
/// Selected by an expression, and not there at first.
const LATER: &str = "more-orders";

async fn cluster(name: &str) -> Result<Cluster> {
    Cluster::builder().name(name).sasl(&["PLAIN"], &[("diffluent", PASSWORD)]).authorizer().start().await
}

/// Runs deploy/acls/grant.sh as it is told to be run, with Kafka's own tool.
fn run_script(cluster: &Cluster, args: &[&str]) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let tool = cluster.kafka().java("org.apache.kafka.tools.AclCommand", 256);
    let words: Vec<String> = std::iter::once(tool.get_program())
        .chain(tool.get_args())
        .map(|word| format!("'{}'", word.to_string_lossy()))
        .collect();
    let kafka_acls = directory.path().join("kafka-acls");
    fs::write(&kafka_acls, format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" ")))?;
    fs::set_permissions(&kafka_acls, fs::Permissions::from_mode(0o755))?;
    let done = Command::new("sh")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/acls/grant.sh"))
        .args(args)
        .env("KAFKA_ACLS", format!("{} --bootstrap-server {}", kafka_acls.display(), cluster.bootstrap()))
        .output()?;
    ensure!(done.status.success(), "grant.sh {args:?}: {done:?}");
    Ok(())
}

fn diffluent(command: &str, proxy: &Proxy) -> Result<Output> {
    Command::new(DIFFLUENT)
        .arg(command)
        .arg(proxy.config_path())
        .output()
        .with_context(|| format!("diffluent {command}"))
}

fn printed(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Records past the proxy, so that they are read from the log.
async fn produce(eu: &Cluster, topic: &str, first: u64) -> Result<()> {
    let workload = Workload { first, records: 20, ..Workload::new(&eu.bootstrap(), topic) };
    assert_eq!(workload.run().await?.failed, 0);
    Ok(())
}

/// Waits until `/lag` shows the region stalled by this right, says so in the log and in `diffluent check`, with the command that grants it.
async fn assert_named(proxy: &Proxy, cluster: &str, right: &str, resource: &str) -> Result<()> {
    let (kind, name) = resource.split_once(' ').context("kind and name")?;
    let since = Instant::now();
    let reason = loop {
        let lag = proxy.region_lag("us").await?;
        let reason = lag["reason"].as_str().unwrap_or_default().to_owned();
        if lag["state"] == "stalled" && reason.contains(&format!("the right {right} on {resource}")) {
            break reason;
        }
        ensure!(since.elapsed() < PATIENCE, "{right} on {resource} is not named: {lag:#}\n{}", proxy.log_text()?);
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let command = format!("--add --allow-principal {PRINCIPAL} --operation {right} --{kind} {name}");
    // Where only one of several streams lacks it, that one is named first.
    let lacks = format!("{cluster}: {PRINCIPAL} lacks");
    let of_one = |reason: &str| {
        reason.split_once(": ").is_some_and(|(which, why)| which.contains(", partition ") && why.starts_with(&lacks))
    };
    ensure!((reason.starts_with(&lacks) || of_one(&reason)) && reason.contains(&command), "{reason}");
    let line = format!("lacks the right {right} on {resource}");
    let log = proxy.log_text()?;
    ensure!(log.lines().any(|said| said.contains(" WARN ") && said.contains(&line)), "not in the log: {line}\n{log}");
    let checked = diffluent("check", proxy)?;
    let report = printed(&checked);
    ensure!(
        checked.status.code() == Some(1) && report.contains(&command),
        "diffluent check does not say {command}:\n{report}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_script_grants_is_enough_and_each_missing_right_is_named_until_it_is_granted() -> Result<()> {
    let (eu, us) = tokio::try_join!(cluster("eu"), cluster("us"))?;
    eu.create_topic(TOPIC, 1, 1, &[]).await?;
    let login = format!("mechanism = \"PLAIN\"\nusername = \"diffluent\"\npassword = \"{PASSWORD}\"\n");
    let mut region = RegionConfig::new("us", &us.bootstrap_of(SASL)?);
    region.topics = vec![TOPIC.to_owned(), "more-.*".to_owned()];
    region.extra = format!("[region.sasl]\n{login}");
    let mut config = ProxyConfig::new("eu", &eu.bootstrap_of(SASL)?)
        .region_with(region)
        .allow("the stream is stalled")
        .allow("this proxy can't take part in the group")
        .allow("the topic can't be mirrored")
        .allow("the topic's settings can't be read")
        .allow("positions can't be committed to the local cluster");
    config.extra_local = format!("[local.sasl]\n{login}");
    let mut proxy = Proxy::prepare(DIFFLUENT, config)?;

    // Nothing is granted: all of it is named.
    let report = printed(&diffluent("check", &proxy)?);
    for right in ["lacks the right Read on 1 topic: orders", "--operation Read --group diffluent.us"] {
        ensure!(report.contains(right), "{right} is not in\n{report}");
    }
    run_script(&eu, &["local", PRINCIPAL, TOPIC, "more-*"])?;
    run_script(&us, &["region", PRINCIPAL, TOPIC, "more-*"])?;
    let since = Instant::now();
    // Brokers hear of it a moment later.
    while diffluent("check", &proxy)?.status.code() != Some(0) {
        ensure!(since.elapsed() < PATIENCE, "not enough: {}", printed(&diffluent("check", &proxy)?));
    }
    proxy.spawn()?;
    proxy.wait_ready(PATIENCE).await?;
    produce(&eu, TOPIC, 0).await?;
    wait_mirrored(&eu, &proxy, &["us"], &[TOPIC]).await?;
    eu.admin().create_partitions(TOPIC, 2).await?;
    produce(&eu, TOPIC, 20).await?;
    wait_mirrored(&eu, &proxy, &["us"], &[TOPIC]).await?;
    // A restart reads the region's log.
    assert!(proxy.stop().await?.success());
    proxy.restart().await?;
    wait_mirrored(&eu, &proxy, &["us"], &[TOPIC]).await?;
    proxy.check_log().context("with all rights")?;
    let verified = diffluent("verify", &proxy)?;
    ensure!(verified.status.success(), "{}", printed(&verified));

    let right = |operation, kind, name| Grant { principal: PRINCIPAL, operation, kind, name };
    let mut first = 40;
    // What is needed all the time: taken away and given back while it runs.
    for (cluster, name, grant, resource) in [
        (&eu, "local", right("Read", "group", "diffluent.*"), "group diffluent.us"),
        (&eu, "local", right("Read", "topic", TOPIC), "topic orders"),
        (&us, "us", right("Write", "topic", TOPIC), "topic orders"),
    ] {
        cluster.admin().revoke(grant).await?;
        produce(&eu, TOPIC, first).await?;
        first += 20;
        assert_named(&proxy, name, grant.operation, resource).await.with_context(|| format!("{grant:?}"))?;
        cluster.admin().grant(&[grant]).await?;
        wait_mirrored(&eu, &proxy, &["us"], &[TOPIC]).await.with_context(|| format!("{grant:?} given back"))?;
        wait_well(&proxy).await?;
    }
    // What is needed at a start, or after a failure.
    for (cluster, name, grant, resource) in [
        (&us, "us", right("Read", "topic", TOPIC), "topic orders"),
        (&eu, "local", right("Read", "topic", TOPIC), "topic orders"),
        (&eu, "local", right("Read", "group", "diffluent.*"), "group diffluent.us"),
    ] {
        assert!(proxy.stop().await?.success());
        cluster.admin().revoke(grant).await?;
        produce(&eu, TOPIC, first).await?;
        first += 20;
        proxy.restart().await?;
        assert_named(&proxy, name, grant.operation, resource).await.with_context(|| format!("{grant:?} at a start"))?;
        cluster.admin().grant(&[grant]).await?;
        wait_mirrored(&eu, &proxy, &["us"], &[TOPIC]).await.with_context(|| format!("{grant:?} given back"))?;
        wait_well(&proxy).await?;
    }
    // What is needed now and then.
    let create = right("Create", "topic", "more-*");
    us.admin().revoke(create).await?;
    eu.create_topic(LATER, 1, 1, &[]).await?;
    produce(&eu, LATER, 0).await?;
    assert_named(&proxy, "us", "Create", &format!("topic {LATER}")).await?;
    us.admin().grant(&[create]).await?;
    wait_mirrored(&eu, &proxy, &["us"], &[LATER]).await?;
    let alter = right("Alter", "topic", "more-*");
    us.admin().revoke(alter).await?;
    eu.admin().create_partitions(LATER, 2).await?;
    produce(&eu, LATER, 20).await?;
    assert_named(&proxy, "us", "Alter", &format!("topic {LATER}")).await?;
    us.admin().grant(&[alter]).await?;
    wait_mirrored(&eu, &proxy, &["us"], &[LATER]).await?;

    assert_topic_equal(&eu, &us, TOPIC).await?;
    assert_topic_equal(&eu, &us, LATER).await?;
    let events: Value = serde_json::from_str(&proxy.get("/events").await?)?;
    ensure!(events.to_string().contains("lacks the right Create on topic more-orders"), "{events:#}");
    proxy.finish().await
}

/// Waits until nothing is stalled any more.
async fn wait_well(proxy: &Proxy) -> Result<()> {
    let since = Instant::now();
    loop {
        let lag = proxy.region_lag("us").await?;
        if lag["state"] == "mirroring" {
            return Ok(());
        }
        ensure!(since.elapsed() < PATIENCE, "still not well: {lag:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
