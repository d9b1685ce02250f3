//! A stop in order: what clients have asked is answered, what was captured is in the regions, and the progress says so.

mod common;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use common::{DIFFLUENT, PATIENCE, assert_topic_equal, wait_mirrored};
use diffluent_testbed::kafka::Cluster;
use diffluent_testbed::{Call, Proxy, ProxyConfig, Workload};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::{
    FetchRequest, FindCoordinatorRequest, GroupId, MetadataRequest, OffsetFetchRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use rustix::process::Signal;

const TOPIC: &str = "orders";

fn name(text: &'static str) -> TopicName {
    TopicName(StrBytes::from_static_str(text))
}

/// The committed progress of a region, by partition.
async fn progress(local: &Cluster, region: &str, partitions: i32) -> Result<Vec<i64>> {
    let group = StrBytes::from_string(format!("diffluent.{region}"));
    let mut call = Call::connect(&local.bootstrap()).await?;
    call.call(&FindCoordinatorRequest::default().with_key(group.clone()), 3).await?;
    let topic =
        OffsetFetchRequestTopic::default().with_name(name(TOPIC)).with_partition_indexes((0..partitions).collect());
    let request = OffsetFetchRequest::default().with_group_id(GroupId(group)).with_topics(Some(vec![topic]));
    let answer = call.call(&request, 7).await?;
    let topic = answer.topics.first().context("no topic in the progress")?;
    let mut offsets: Vec<_> = topic.partitions.iter().map(|one| (one.partition_index, one.committed_offset)).collect();
    offsets.sort_unstable();
    Ok(offsets.into_iter().map(|(_, offset)| offset).collect())
}

/// Waits for the process's end.
async fn exited(proxy: &mut Proxy) -> Result<std::process::ExitStatus> {
    let since = Instant::now();
    loop {
        if let Some(status) = proxy.try_status() {
            return Ok(status);
        }
        ensure!(since.elapsed() < PATIENCE, "it does not end:\n{}", proxy.log_text()?);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_under_load_leaves_the_progress_at_the_end_of_the_log_with_one_answer_for_every_request() -> Result<()> {
    let (eu, us) = tokio::try_join!(Cluster::builder().name("eu").start(), Cluster::builder().name("us").start())?;
    eu.create_topic(TOPIC, 2, 1, &[]).await?;
    let config = ProxyConfig::new("eu", &eu.bootstrap()).region("us", &us.bootstrap());
    let mut proxy = Proxy::start(DIFFLUENT, config).await?;
    let load = || Workload {
        records: u64::MAX,
        rate: Some(3_000),
        idempotent: true,
        ..Workload::new(&proxy.bootstrap(), TOPIC)
    };
    let warm = Workload { records: 200, ..Workload::new(&proxy.bootstrap(), TOPIC) }.run().await?;
    ensure!(warm.failed == 0, "{warm:?}");
    wait_mirrored(&eu, &proxy, &["us"], &[TOPIC]).await?;
    let producer = load().start()?;
    let since = Instant::now();
    while producer.acked() < 3_000 {
        ensure!(since.elapsed() < PATIENCE, "the producer stands still");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    proxy.signal(Signal::TERM)?;
    let status = exited(&mut proxy).await?;
    ensure!(status.code() == Some(0), "{status}:\n{}", proxy.log_text()?);
    ensure!(proxy.log_text()?.contains("stopped"), "no word about the end:\n{}", proxy.log_text()?);

    // Nothing was written since: the producer has nobody to write to. What it was told is in the log once, and so is all else that the log holds.
    let ends = eu.admin().end_offsets(TOPIC).await?;
    ensure!(progress(&eu, "us", 2).await? == ends, "progress {:?}, ends {ends:?}", progress(&eu, "us", 2).await?);
    assert_topic_equal(&eu, &us, TOPIC).await?;

    proxy.spawn()?;
    proxy.wait_ready(PATIENCE).await?;
    producer.stop();
    let outcome = producer.finish().await?;
    ensure!(outcome.failed == 0, "{outcome:?}");
    wait_mirrored(&eu, &proxy, &["us"], &[TOPIC]).await?;
    assert_topic_equal(&eu, &us, TOPIC).await?;
    proxy.finish().await
}

/// A Fetch that the broker holds for as long as it says, because there is nothing to fetch.
async fn held_fetch(call: &mut Call, wait: Duration) -> Result<()> {
    let partition = FetchPartition::default().with_partition(0).with_fetch_offset(0).with_partition_max_bytes(1 << 20);
    let request = FetchRequest::default()
        .with_max_wait_ms(i32::try_from(wait.as_millis())?)
        .with_min_bytes(1)
        .with_max_bytes(1 << 20)
        .with_topics(vec![FetchTopic::default().with_topic(name(TOPIC)).with_partitions(vec![partition])]);
    let answer = call.call(&request, 12).await?;
    ensure!(answer.error_code == 0, "{answer:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_says_so_at_ready_takes_no_new_client_and_waits_for_the_answer_that_is_due() -> Result<()> {
    let eu = Cluster::builder().name("eu").start().await?;
    eu.create_topic(TOPIC, 1, 1, &[]).await?;
    let mut config = ProxyConfig::new("eu", &eu.bootstrap());
    config.extra_proxy = "drain_timeout = \"20 s\"".to_owned();
    let mut proxy = Proxy::start(DIFFLUENT, config).await?;
    ensure!(proxy.get("/ready").await.is_ok(), "not ready");
    let mut idle = Call::connect(&proxy.bootstrap()).await?;
    idle.call(&MetadataRequest::default(), 12).await?;
    let mut waiting = Call::connect(&proxy.bootstrap()).await?;
    waiting.call(&MetadataRequest::default(), 12).await?;
    let asked = tokio::spawn(async move { held_fetch(&mut waiting, Duration::from_secs(3)).await });
    let requests = || proxy.metric_with("diffluent_client_requests_total", &["api=\"Fetch\""]);
    let since = Instant::now();
    while requests().await.unwrap_or(0.0) < 1.0 {
        ensure!(since.elapsed() < PATIENCE, "the request does not come");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (bootstrap, admin) = (proxy.bootstrap(), proxy.admin_addr());
    proxy.signal(Signal::TERM)?;
    // An idle client sees the end at once.
    ensure!(idle.recv_frame().await.is_err(), "an idle connection stays");
    let ready = http_status(&admin, "/ready").await?;
    ensure!(ready == 503, "/ready says {ready} during a stop");
    ensure!(http_status(&admin, "/live").await? == 200, "/live must not have it killed");
    if let Ok(mut late) = Call::connect(&bootstrap).await {
        ensure!(late.call(&MetadataRequest::default(), 12).await.is_err(), "a new client is served");
    }
    asked.await?.context("the request that was under way")?;
    let status = exited(&mut proxy).await?;
    ensure!(status.code() == Some(0), "{status}:\n{}", proxy.log_text()?);
    proxy.check_log()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() -> Result<()> {
    let eu = Cluster::builder().name("eu").start().await?;
    eu.create_topic(TOPIC, 1, 1, &[]).await?;
    let mut config = ProxyConfig::new("eu", &eu.bootstrap()).allow("told to stop a second time");
    config.extra_proxy = "drain_timeout = \"1 h\"".to_owned();
    let mut proxy = Proxy::start(DIFFLUENT, config).await?;
    let mut waiting = Call::connect(&proxy.bootstrap()).await?;
    waiting.call(&MetadataRequest::default(), 12).await?;
    let asked = tokio::spawn(async move { held_fetch(&mut waiting, Duration::from_secs(600)).await });
    let since = Instant::now();
    while proxy.metric_with("diffluent_client_requests_total", &["api=\"Fetch\""]).await.unwrap_or(0.0) < 1.0 {
        ensure!(since.elapsed() < PATIENCE, "the request does not come");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    proxy.signal(Signal::TERM)?;
    while !proxy.log_text()?.contains("stopping: ") {
        ensure!(since.elapsed() < PATIENCE, "the signal is not heard");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    if let Some(status) = proxy.try_status() {
        bail!("the first signal did not wait for the request that is under way: {status}");
    }
    proxy.signal(Signal::TERM)?;
    let status = exited(&mut proxy).await?;
    ensure!(status.code() == Some(1), "{status}:\n{}", proxy.log_text()?);
    ensure!(asked.await?.is_err(), "the request was answered");
    proxy.check_log()
}

/// The status of an HTTP answer.
async fn http_status(address: &str, path: &str) -> Result<u16> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = Bytes::from(answer);
    let line = std::str::from_utf8(answer.split(|byte| *byte == b'\r').next().unwrap_or_default())?;
    line.split(' ').nth(1).and_then(|status| status.parse().ok()).with_context(|| format!("no status in {line:?}"))
}
