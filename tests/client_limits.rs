//! Limits of client connections hold, are counted, and hurt only those who are over them.

mod common;

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use common::scripted::ScriptedBroker;
use common::{DIFFLUENT, PATIENCE};
use diffluent_testbed::{Call, Proxy, ProxyConfig};
use kafka_protocol::messages::MetadataRequest;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;

async fn proxy(broker: &ScriptedBroker, limits: &str) -> Result<Proxy> {
    let mut config = ProxyConfig::new("eu", &broker.address).allow("client connections are refused");
    config.extra_proxy = limits.to_owned();
    Proxy::start(DIFFLUENT, config).await
}

async fn hits(proxy: &Proxy, limit: &str) -> Result<f64> {
    let label = format!("limit=\"{limit}\"");
    proxy.metric_with("diffluent_client_limit_hits_total", &[&label]).await
}

async fn good_call(call: &mut Call) -> Result<()> {
    call.call(&MetadataRequest::default().with_topics(None), 12).await.map(drop)
}

async fn client(proxy: &Proxy) -> Result<Call> {
    let mut call = Call::connect(&proxy.bootstrap()).await?;
    good_call(&mut call).await?;
    Ok(call)
}

/// Waits for a connection's end without a byte.
async fn ended(stream: &mut (impl AsyncRead + Unpin)) -> Result<()> {
    let mut rest = Vec::new();
    // A reset is an end too.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.context("it stays open")?;
    ensure!(rest.is_empty(), "it was answered: {rest:?}");
    Ok(())
}

/// Calls until it succeeds: the end of another connection takes a moment to be seen.
async fn until_client(proxy: &Proxy) -> Result<Call> {
    let since = Instant::now();
    loop {
        match client(proxy).await {
            Ok(call) => return Ok(call),
            Err(error) => ensure!(since.elapsed() < PATIENCE, "{error:#}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_over_the_limit_is_closed_counted_and_told_once_and_the_others_stay() -> Result<()> {
    let broker = ScriptedBroker::start().await?;
    for (key, limit) in [("connection_limit", 3), ("connection_limit_per_address", 2)] {
        let proxy = proxy(&broker, &format!("{key} = {limit}")).await?;
        let mut clients = Vec::new();
        for _ in 0..limit {
            clients.push(client(&proxy).await?);
        }
        for _ in 0..50 {
            ended(&mut TcpStream::connect(proxy.bootstrap()).await?).await.context(key)?;
        }
        ensure!(hits(&proxy, key).await? == 50.0, "{key}: {}", hits(&proxy, key).await?);
        let told = proxy.log_text()?.matches("client connections are refused").count();
        ensure!(told == 1, "told {told} times");
        for call in &mut clients {
            good_call(call).await?;
        }
        let gauge = proxy.metric("diffluent_client_connections_limit").await?;
        ensure!(key != "connection_limit" || gauge == f64::from(limit), "the gauge says {gauge}");
        clients.pop();
        clients.push(until_client(&proxy).await?);
        drop(clients);
        proxy.finish().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_or_nothing_more_is_closed_but_not_who_waits_for_an_answer() -> Result<()> {
    let broker = ScriptedBroker::start().await?;
    let proxy = proxy(&broker, "first_byte_timeout = \"1 s\"\nidle_timeout = \"2 s\"").await?;
    broker.answer_nothing();
    let mut waiting = Call::connect(&proxy.bootstrap()).await?;
    let request = [0, 2, 0, 1, 0, 0, 0, 9, 0xff, 0xff];
    waiting.send_frame(&request).await?;
    let mut silent = TcpStream::connect(proxy.bootstrap()).await?;
    ended(&mut silent).await?;
    ensure!(hits(&proxy, "first_byte_timeout").await? == 1.0, "not counted");
    // One after the other, so that the one that waits is silent for longer than two of these may be.
    for round in 1..=2 {
        let mut idle = client(&proxy).await?.into_stream();
        ended(&mut idle).await?;
        ensure!(hits(&proxy, "idle_timeout").await? == f64::from(round), "not counted");
    }
    broker.answer_more(1);
    ensure!(waiting.recv_frame().await?.get(..4) == Some(&[0, 0, 0, 9]), "another answer");
    for (reason, count) in [("reason=\"idle_timeout\"", 2.0), ("reason=\"first_byte_timeout\"", 1.0)] {
        // Counted when the session is gone, which is a moment after its socket.
        let since = Instant::now();
        while proxy.metric_with("diffluent_client_closed_total", &[reason]).await? < count {
            ensure!(since.elapsed() < PATIENCE, "{reason} is not counted");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    drop(waiting);
    proxy.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_over_the_limit_of_a_connection_wait_and_are_all_answered_in_order() -> Result<()> {
    const LIMIT: usize = 3;
    const REQUESTS: u8 = 50;
    let broker = ScriptedBroker::start().await?;
    let proxy = proxy(&broker, &format!("in_flight_limit = {LIMIT}")).await?;
    let mut call = client(&proxy).await?;
    broker.answer_nothing();
    let frames = (0..REQUESTS).flat_map(|id| [0, 0, 0, 10, 0, 2, 0, 1, 0, 0, 0, id, 0xff, 0xff]);
    call.send_bytes(&frames.collect::<Vec<_>>()).await?;
    let since = Instant::now();
    while hits(&proxy, "in_flight_limit").await? < 1.0 || broker.seen() < LIMIT {
        ensure!(since.elapsed() < PATIENCE, "the limit is not reached: the broker has seen {}", broker.seen());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    ensure!(broker.seen() == LIMIT, "the broker has seen {}", broker.seen());
    broker.answer_more(usize::from(REQUESTS));
    for id in 0..REQUESTS {
        ensure!(call.recv_frame().await?.get(..4) == Some(&[0, 0, 0, id]), "out of order at {id}");
    }
    drop(call);
    proxy.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_idle_connections_cost_little_and_disturb_nobody() -> Result<()> {
    const CONNECTIONS: u64 = 1_000;
    const MEMORY_BYTES_EACH_MAX: u64 = 32 << 10;
    let broker = ScriptedBroker::start().await?;
    let proxy = proxy(&broker, "").await?;
    let mut bystander = client(&proxy).await?;
    let before = proxy.rss_bytes()?;
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS {
        idle.push(client(&proxy).await?);
    }
    let open = proxy.metric("diffluent_client_connections").await?;
    ensure!(open >= CONNECTIONS as f64, "{open} are open");
    let each = proxy.rss_bytes()?.saturating_sub(before) / CONNECTIONS;
    ensure!(each <= MEMORY_BYTES_EACH_MAX, "{each} bytes for an idle connection");
    good_call(&mut bystander).await?;
    for call in &mut idle {
        good_call(call).await?;
    }
    drop((idle, bystander));
    proxy.finish().await
}

#[test]
fn more_connections_than_file_descriptors_allow_are_an_error_with_what_to_do() -> Result<()> {
    let mut config = ProxyConfig::new("eu", "127.0.0.1:1");
    config.extra_proxy = "connection_limit = 2000000000".to_owned();
    let proxy = Proxy::prepare(DIFFLUENT, config)?;
    let output = Command::new(DIFFLUENT).arg("run").arg(proxy.config_path()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(64), "{}: {said}", output.status);
    for part in
        ["connection_limit = 2000000000", "4000000512 file descriptors", "LimitNOFILE", "lower connection_limit"]
    {
        ensure!(said.contains(part), "{part:?} is missing: {said}");
    }
    Ok(())
}
