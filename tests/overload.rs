//! Many clients at once: no request fails, and nobody is served at another's cost.

mod common;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use common::scripted::ScriptedBroker;
use common::{DIFFLUENT, PATIENCE};
use diffluent_testbed::{Call, Proxy, ProxyConfig};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::task::JoinSet;

/// How many connections there are when `DIFFLUENT_CONNECTIONS` does not say.
const CONNECTIONS: usize = 2_000;
/// Of these, so many work without a pause.
const BUSY: usize = 500;
/// How long.
const WORK: Duration = Duration::from_secs(5);
/// What a request carries, and its answer, which is the same.
const BODY_BYTES: usize = 200;
/// An API that the broker answers with its request's own bytes.
const LIST_OFFSETS: i16 = 2;

/// Clients and broker are both in this process.
fn raise_descriptors() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    // Where it may not be raised, connecting fails and says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

async fn ask(call: &mut Call, body: &[u8]) -> Result<()> {
    let answer = call.call_raw(LIST_OFFSETS, 1, body).await?;
    ensure!(answer.ends_with(body), "another answer");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_thousands_of_connections_no_request_fails_and_all_are_served_alike() -> Result<()> {
    raise_descriptors();
    let connections = match std::env::var("DIFFLUENT_CONNECTIONS") {
        Ok(number) => number.parse().context("DIFFLUENT_CONNECTIONS")?,
        Err(_) => CONNECTIONS,
    };
    let broker = ScriptedBroker::start().await?;
    let proxy = Proxy::start(DIFFLUENT, ProxyConfig::new("eu", &broker.address)).await?;
    let body = vec![b'x'; BODY_BYTES];
    let begun = Instant::now();
    let mut clients = Vec::new();
    for _ in 0..connections {
        let mut call = Call::connect(&proxy.bootstrap()).await?;
        ask(&mut call, &body).await?;
        clients.push(call);
    }
    println!("{connections} connections in {:?}", begun.elapsed());
    let mut working = JoinSet::new();
    let end = Instant::now() + WORK;
    for mut call in clients.split_off(connections.saturating_sub(BUSY)) {
        let body = body.clone();
        working.spawn(async move {
            let mut served = 0_u64;
            while Instant::now() < end {
                ask(&mut call, &body).await?;
                served += 1;
            }
            Ok::<_, anyhow::Error>(served)
        });
    }
    let mut served = Vec::new();
    while let Some(done) = working.join_next().await {
        served.push(done?.context("a busy client")?);
    }
    served.sort_unstable();
    let (Some(least), Some(most), Some(median)) = (served.first(), served.last(), served.get(served.len() / 2)) else {
        anyhow::bail!("nobody was served");
    };
    let sum: u64 = served.iter().sum();
    println!("{sum} requests: from {least} to {most} a connection, median {median}");
    // A connection that waits its turn behind others has its share all the same.
    ensure!(least * 4 >= *median && *most <= median * 4, "from {least} to {most}, median {median}");
    for call in &mut clients {
        ask(call, &body).await.context("an idle client")?;
    }
    let memory = proxy.rss_bytes()?;
    println!("{} MiB resident", memory >> 20);
    drop(clients);
    proxy.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_does_not_wait_for_the_answers_to_those_before_it() -> Result<()> {
    const REQUESTS: usize = 300;
    let broker = ScriptedBroker::start().await?;
    let proxy = Proxy::start(DIFFLUENT, ProxyConfig::new("eu", &broker.address)).await?;
    broker.answer_nothing();
    let mut call = Call::connect(&proxy.bootstrap()).await?;
    let ids = 0..u16::try_from(REQUESTS)?;
    let frames = ids.clone().flat_map(|id| {
        let [high, low] = id.to_be_bytes();
        [0, 0, 0, 10, 0, 2, 0, 1, 0, 0, high, low, 0xff, 0xff]
    });
    call.send_bytes(&frames.collect::<Vec<_>>()).await?;
    let since = Instant::now();
    while broker.seen() < REQUESTS {
        ensure!(since.elapsed() < PATIENCE, "the broker has seen {} of {REQUESTS}", broker.seen());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    broker.answer_more(REQUESTS);
    for id in ids {
        let answer = call.recv_frame().await?;
        ensure!(answer.get(2..4) == Some(&id.to_be_bytes()), "an answer out of order where {id} was next");
    }
    drop(call);
    proxy.finish().await
}
