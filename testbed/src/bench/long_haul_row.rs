//! One partition, batches of 16 KiB, 100 ms of round trip: how much gets through, beside what the delay line alone carries.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::bench::fill::{Fill, RECORD_BYTES, Until};
use crate::bench::table::{Marks, Rounds, Table};
use crate::bench::{Options, say};
use crate::delay::{DelayLine, DelaySpec};
use crate::kafka::Cluster;
use crate::proxy::{Proxy, ProxyConfig, RegionConfig};

const RTT_MS: u64 = 100;
const BATCH_BYTES: u64 = 16 << 10;
/// A broker takes one acks=all request of a connection at a time, so one producer alone is slower than what is measured here.
const PRODUCERS: usize = 4;
const DEADLINE: Duration = Duration::from_secs(600);

/// Measures the row.
///
/// # Errors
/// When something does not start or answer, or the region does not get everything within 10 minutes.
pub(super) async fn measure(binary: &Path, options: &Options) -> Result<String> {
    say("starting two clusters");
    let region = Cluster::builder().name("region").listener_via(DelaySpec::rtt_ms(RTT_MS));
    let (local, region) = tokio::try_join!(Cluster::builder().name("local").start(), region.start())?;
    let (mut produced, mut mirrored, mut carried) = (Rounds::default(), Rounds::default(), Rounds::default());
    let (mut lag_seconds, mut caught_up) = (Rounds::default(), Rounds::default());
    for round in 0..options.rounds {
        let alone = line_alone(options.length.min(Duration::from_secs(5))).await?;
        carried.push(alone);
        let topic = format!("long-haul-{round}");
        local.create_topic(&topic, 1, 1, &[]).await?;
        let mut to = RegionConfig::new("far", &region.delayed_bootstrap());
        to.topics = vec![topic.clone()];
        let config = ProxyConfig::new("eu", &local.bootstrap()).region_with(to);
        let mut proxy = Proxy::start(binary, config).await?;
        let fill = |until| Fill {
            bootstrap: proxy.bootstrap(),
            topic: topic.clone(),
            partitions: 1,
            batch_bytes: BATCH_BYTES,
            until,
        };
        // Opens connections and creates the region's topic; and in the first round gives Java the time to compile what it will run.
        let warm_up = if round == 0 { Until::Elapsed(options.length) } else { Until::Records(1000) };
        fill(warm_up).run().await?;
        until_mirrored(&local, &region, &topic).await?;
        let read_before = proxy.metric("diffluent_caught_up_bytes_total").await.unwrap_or(0.0);
        let begin = Instant::now();
        let runs: Vec<_> = (0..PRODUCERS).map(|_| tokio::spawn(fill(Until::Elapsed(options.length)).run())).collect();
        let mut records = 0;
        for run in runs {
            records += run.await.context("a producer panicked")??.records;
        }
        let produced_at = begin.elapsed();
        until_mirrored(&local, &region, &topic).await?;
        let took = begin.elapsed();
        let bytes = (records * RECORD_BYTES) as f64;
        let read = proxy.metric("diffluent_caught_up_bytes_total").await.unwrap_or(0.0) - read_before;
        let rate = bytes / 1e6 / produced_at.as_secs_f64();
        produced.push(rate);
        mirrored.push(bytes / 1e6 / took.as_secs_f64());
        lag_seconds.push((took.saturating_sub(produced_at)).as_secs_f64());
        caught_up.push(read / bytes * 100.0);
        say(&format!(
            "round {}: produced {rate:.1} MB/s, mirrored {:.1} MB/s, all there {:.1} s after the producer's end, {:.0} % read from the log; \
             the line alone carries {alone:.0} MB/s",
            round + 1,
            bytes / 1e6 / took.as_secs_f64(),
            (took.saturating_sub(produced_at)).as_secs_f64(),
            read / bytes * 100.0,
        ));
        proxy.stop().await?;
        local.delete_topic(&topic).await?;
        region.delete_topic(&topic).await?;
    }
    let mut table = Table::new(&["", "measured"]);
    table.row(vec!["produced through the proxy, MB/s".to_owned(), produced.show(1)]);
    table.row(vec!["mirrored, MB/s".to_owned(), mirrored.show(1)]);
    table.row(vec!["all there after the producer's end, s".to_owned(), lag_seconds.show(1)]);
    table.row(vec!["read from the local log, %".to_owned(), caught_up.show(0)]);
    table.row(vec!["the delay line alone, one connection, MB/s".to_owned(), carried.show(0)]);
    let mut marks = Marks::new();
    marks.at_least("one partition, 16 KiB batches, 100 ms round trip", 20.0, "MB/s", &mirrored, 1);
    Ok(format!(
        "## One partition, far away\n\n{}\n{}\n\
         {PRODUCERS} stock librdkafka producers send {RECORD_BYTES}-byte records in batches of 16 KiB (acks=all) to one partition through the \
         proxy, as fast as they go, for {} s; mirrored: these bytes by the time until the region has the last one; where that is as much as was produced, the local cluster was the limit. Medians over {} rounds (smallest to largest). \
         MirrorMaker 2 with its default settings, measured earlier: 0.16 MB/s.\n",
        table.text(),
        marks.text(),
        options.length.as_secs(),
        options.rounds,
    ))
}

/// Waits until the region has all of the topic.
async fn until_mirrored(local: &Cluster, region: &Cluster, topic: &str) -> Result<()> {
    let end = Instant::now() + DEADLINE;
    let ends = local.admin().end_offsets(topic).await?;
    loop {
        let there = region.admin().end_offsets(topic).await.ok();
        if there.as_ref() == Some(&ends) {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("the region has {there:?} of {ends:?} after {DEADLINE:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
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
