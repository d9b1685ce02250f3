//! One partition, batches of 16 KiB, 100 ms of round trip: how much gets through, to one broker and to three replicas, beside bare clients on the same line.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::bench::mirrored::{first_there, until_mirrored};
use crate::bench::table::{Marks, Rounds, Table};
use crate::bench::{Options, raw, say};
use crate::delay::{DelayLine, DelaySpec};
use crate::kafka::Cluster;
use crate::proxy::{Proxy, ProxyConfig, RegionConfig};

const RTT_MS: u64 = 100;
const BATCH_BYTES: u64 = 16 << 10;
const REPLICAS: u16 = 3;
/// What goes to three replicas is a part of what goes to one: plain acks=all takes its time.
const REPLICATED_SHARE: u64 = 4;
const ACKS_ALL: i16 = -1;
const ACKS_LEADER: i16 = 1;

/// The figures, in 10^6 bytes per second.
#[derive(Default)]
struct Figures {
    line: Rounds,
    broker: Rounds,
    bare: Rounds,
    mirrored: Rounds,
    replicated_all: Rounds,
    replicated_leader: Rounds,
    replicated_mirrored: Rounds,
}

/// Measures the row.
///
/// # Errors
/// When something does not start or answer, or the region does not get everything.
pub(super) async fn measure(binary: &Path, options: &Options) -> Result<String> {
    say("starting a cluster here and two far away: one broker, and three with three replicas");
    let one = Cluster::builder().name("one").listener_via(DelaySpec::rtt_ms(RTT_MS));
    let three = Cluster::builder().name("three").brokers(REPLICAS).listener_via(DelaySpec::rtt_ms(RTT_MS));
    let (local, one, three) = tokio::try_join!(Cluster::builder().name("local").start(), one.start(), three.start())?;
    let mut figures = Figures::default();
    for round in 0..options.rounds {
        figures.line.push(line_alone(options.length.min(Duration::from_secs(5))).await?);
        to_one(binary, options, &local, &one, round, &mut figures).await?;
        to_three(binary, options, &local, &three, round, &mut figures).await?;
    }
    Ok(told(&figures, options))
}

async fn to_one(
    binary: &Path,
    options: &Options,
    local: &Cluster,
    region: &Cluster,
    round: usize,
    figures: &mut Figures,
) -> Result<()> {
    let (topic, mib) = (format!("far-{round}"), options.mib);
    fill(local, &topic, mib).await?;
    let bare = bare(region, &region.bootstrap(), 1, ACKS_LEADER, mib).await?;
    figures.broker.push(bare);
    let far = self::bare(region, &region.delayed_bootstrap(), 1, ACKS_LEADER, mib).await?;
    figures.bare.push(far);
    let mirrored = mirrored(binary, local, region, &topic).await?;
    figures.mirrored.push(mirrored);
    say(&format!(
        "round {}, one broker: a bare client beside it {bare:.0} MB/s, over the line {far:.0} MB/s; diffluent over the line {mirrored:.0} MB/s",
        round + 1
    ));
    local.delete_topic(&topic).await
}

async fn to_three(
    binary: &Path,
    options: &Options,
    local: &Cluster,
    region: &Cluster,
    round: usize,
    figures: &mut Figures,
) -> Result<()> {
    let (topic, mib) = (format!("far-replicated-{round}"), (options.mib / REPLICATED_SHARE).max(1));
    let rf = i16::try_from(REPLICAS).context("too many replicas")?;
    let far = region.delayed_bootstrap();
    let all = bare(region, &far, rf, ACKS_ALL, mib).await?;
    figures.replicated_all.push(all);
    let leader = bare(region, &far, rf, ACKS_LEADER, mib).await?;
    figures.replicated_leader.push(leader);
    fill(local, &topic, mib).await?;
    region.create_topic(&topic, 1, rf, &[]).await?;
    let mirrored = mirrored(binary, local, region, &topic).await?;
    figures.replicated_mirrored.push(mirrored);
    say(&format!(
        "round {}, three replicas: a bare client at acks=all {all:.1} MB/s, at acks=1 {leader:.1} MB/s; diffluent {mirrored:.1} MB/s",
        round + 1
    ));
    local.delete_topic(&topic).await
}

fn batches(mib: u64) -> u64 {
    (mib << 20) / BATCH_BYTES
}

async fn fill(local: &Cluster, topic: &str, mib: u64) -> Result<()> {
    local.create_topic(topic, 1, 1, &[]).await?;
    let (batch, _) = raw::batch(BATCH_BYTES)?;
    let leader = raw::leader(&local.bootstrap(), topic, 0).await?;
    raw::pipeline(&leader, topic, 1, ACKS_LEADER, batch, batches(mib)).await.map(|_| ())
}

/// MB/s of a bare client that pipelines without a limit worth mentioning, to a topic of its own.
async fn bare(region: &Cluster, bootstrap: &str, rf: i16, acks: i16, mib: u64) -> Result<f64> {
    const TOPIC: &str = "bare";
    region.create_topic(TOPIC, 1, rf, &[]).await?;
    let (batch, _) = raw::batch(BATCH_BYTES)?;
    let bytes = batch.len() as u64 * batches(mib);
    let leader = raw::leader(bootstrap, TOPIC, 0).await?;
    let took = raw::pipeline(&leader, TOPIC, 1, acks, batch, batches(mib)).await?;
    region.delete_topic(TOPIC).await?;
    Ok(bytes as f64 / 1e6 / took.as_secs_f64())
}

/// MB/s of a proxy that has a backlog to bring over the line, from the first batch that is there to the last.
async fn mirrored(binary: &Path, local: &Cluster, region: &Cluster, topic: &str) -> Result<f64> {
    let mut to = RegionConfig::new("far", &region.delayed_bootstrap());
    to.topics = vec![topic.to_owned()];
    let mut proxy = Proxy::start(binary, ProxyConfig::new("eu", &local.bootstrap()).region_with(to)).await?;
    let ends = local.admin().end_offsets(topic).await?;
    let there = first_there(region, topic).await?;
    let begin = Instant::now();
    until_mirrored(&ends, region, topic).await?;
    let took = begin.elapsed();
    proxy.stop().await?;
    region.delete_topic(topic).await?;
    let (batch, records) = raw::batch(BATCH_BYTES)?;
    let missing: i64 = ends.iter().sum::<i64>() - there.iter().sum::<i64>();
    Ok(missing as f64 / records as f64 * batch.len() as f64 / 1e6 / took.as_secs_f64())
}

fn told(figures: &Figures, options: &Options) -> String {
    let mut table = Table::new(&["MB/s", "one broker", "three replicas"]);
    let none = || "-".to_owned();
    table.row(vec!["the delay line alone, one connection".to_owned(), figures.line.show(0), none()]);
    table.row(vec!["a bare client beside the broker, acks=1".to_owned(), figures.broker.show(0), none()]);
    table.row(vec![
        "a bare client over the line, acks=1".to_owned(),
        figures.bare.show(0),
        figures.replicated_leader.show(1),
    ]);
    table.row(vec!["a bare client over the line, acks=all".to_owned(), none(), figures.replicated_all.show(1)]);
    table.row(vec![
        "**diffluent over the line**".to_owned(),
        figures.mirrored.show(0),
        figures.replicated_mirrored.show(1),
    ]);
    let mut marks = Marks::new();
    marks.at_least("one broker", 100.0, "MB/s", &figures.mirrored, 0);
    let of_bare = figures.mirrored.over(&figures.bare);
    marks.at_least("or, beside what the line and the broker give a bare client", 0.9, "×", &of_bare, 2);
    let of_all = figures.replicated_mirrored.over(&figures.replicated_all);
    marks.at_least("three replicas, beside plain acks=all pipelining", 3.0, "×", &of_all, 1);
    // Nobody is faster than one who waits for no replica.
    let of_leader = figures.replicated_mirrored.over(&figures.replicated_leader);
    marks.at_least("or, beside what their leader gives a bare client at acks=1", 0.9, "×", &of_leader, 2);
    format!(
        "## One partition, far away\n\n{}\n{}\n\
         A backlog of {} MiB ({} MiB with three replicas) of 1000-byte records in batches of 16 KiB in one partition, {RTT_MS} ms of round trip \
         to the region. A bare client has everything in memory, pipelines up to 64 MiB on one connection and keeps no promise: it is what line and broker give. diffluent reads the \
         local log, from the first batch that is in the region to the last. Medians over {} rounds (smallest to largest). MirrorMaker 2 with its default settings, \
         measured earlier: 0.16 MB/s.\n",
        table.text(),
        marks.text(),
        options.mib,
        (options.mib / REPLICATED_SHARE).max(1),
        options.rounds,
    )
}

/// 10^6 bytes per second that one connection gets through a delay line, with nothing at its ends.
async fn line_alone(length: Duration) -> Result<f64> {
    let sink = TcpListener::bind("127.0.0.1:0").await.context("cannot listen")?;
    let line = DelayLine::new(DelaySpec::rtt_ms(RTT_MS))?;
    let relay = line.relay(0, &sink.local_addr().context("no address")?.to_string()).await?;
    let receive = async {
        let (mut stream, _) = sink.accept().await.context("nobody came")?;
        let mut buffer = vec![0; 256 << 10];
        let mut first = None;
        let mut bytes = 0_usize;
        loop {
            let read = stream.read(&mut buffer).await.context("the line broke")?;
            let first = first.get_or_insert_with(Instant::now);
            if read == 0 {
                return anyhow::Ok(bytes as f64 / 1e6 / first.elapsed().as_secs_f64());
            }
            bytes += read;
        }
    };
    let send = async {
        let mut stream = TcpStream::connect(relay.addr()).await.context("cannot connect")?;
        let chunk = vec![0; 256 << 10];
        let end = Instant::now() + length;
        while Instant::now() < end {
            stream.write_all(&chunk).await.context("the line broke")?;
        }
        stream.shutdown().await.context("the line broke")
    };
    let (carried, ()) = tokio::try_join!(receive, send)?;
    Ok(carried)
}
