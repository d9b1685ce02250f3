//! A backlog over 100 ms of round trip: diffluent and MirrorMaker 2 tuned by hand, in turns; and what the brokers give at all.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use tokio::task::JoinHandle;

use crate::bench::mirrored::{first_there, until_mirrored};
use crate::bench::mm2::{self, MirrorMaker, Tuning};
use crate::bench::probe::{Probe, micros, millis_at, paced};
use crate::bench::process::peak_resident_mib;
use crate::bench::table::{Marks, Rounds, Table};
use crate::bench::{Options, raw, say};
use crate::delay::DelaySpec;
use crate::kafka::Cluster;
use crate::proxy::{Proxy, ProxyConfig, RegionConfig, proc_cpu_seconds};

const RTT_MS: u64 = 100;
const PARTITIONS: i32 = 8;
const BATCH_BYTES: u64 = 64 << 10;
const TOPIC: &str = "backlog";
/// What a client writes to meanwhile; not mirrored.
const CLIENT_TOPIC: &str = "client";
const CLIENT_RATE: u64 = 200;
const ACKS_LEADER: i16 = 1;
/// So many times what other rows produce: what a start costs must not count.
const BACKLOG_TIMES: u64 = 5;

/// The figures of one way, round by round.
#[derive(Default)]
struct Figures {
    megabytes_per_second: Rounds,
    cpu_per_gib: Rounds,
    resident_mib: Rounds,
    ack_p99_millis: Rounds,
    idle_p99_millis: Rounds,
}

struct Site<'a> {
    binary: &'a Path,
    local: Cluster,
    region: Cluster,
    ends: Vec<i64>,
    bytes: u64,
    idle: Duration,
}

/// Measures the row.
///
/// # Errors
/// When something does not start or answer, or the region does not get everything.
pub(super) async fn measure(binary: &Path, options: &Options) -> Result<String> {
    mm2::ensure().await?;
    say("starting two clusters");
    let cluster = |name: &str| {
        // What one way has written makes room for the next.
        Cluster::builder().name(name).heap_mib(1024).config("log.segment.delete.delay.ms", "1000")
    };
    let region = cluster("region").listener_via(DelaySpec::rtt_ms(RTT_MS));
    let (local, region) = tokio::try_join!(cluster("local").start(), region.start())?;
    local.create_topic(CLIENT_TOPIC, 1, 1, &[]).await?;
    local.create_topic(TOPIC, PARTITIONS, 1, &[]).await?;
    let mib = options.mib * BACKLOG_TIMES;
    say(&format!("filling {mib} MiB"));
    let (batch, _) = raw::batch(BATCH_BYTES)?;
    let count = (mib << 20).div_ceil(batch.len() as u64 * u64::try_from(PARTITIONS).unwrap_or(1));
    let bytes = batch.len() as u64 * count * u64::try_from(PARTITIONS).unwrap_or(1);
    let leader = raw::leader(&local.bootstrap(), TOPIC, 0).await?;
    raw::pipeline(&leader, TOPIC, PARTITIONS, ACKS_LEADER, batch, count).await?;
    let ends = local.admin().end_offsets(TOPIC).await?;
    let site = Site { binary, local, region, ends, bytes, idle: options.length };
    let (mut read, mut copied, mut beside) = (Rounds::default(), Rounds::default(), Rounds::default());
    let (mut diffluent, mut peer) = (Figures::default(), Figures::default());
    for round in 0..options.rounds {
        let (alone, copy, p99) = site.brokers_alone(&leader).await?;
        say(&format!(
            "round {}: the brokers alone: read {alone:.0} MB/s, copied {copy:.0} MB/s; a client's ack p99 meanwhile {p99:.1} ms",
            round + 1
        ));
        read.push(alone);
        copied.push(copy);
        beside.push(p99);
        if round % 2 == 0 {
            site.diffluent(round, &mut diffluent).await?;
            site.mirror_maker(round, &mut peer).await?;
        } else {
            site.mirror_maker(round, &mut peer).await?;
            site.diffluent(round, &mut diffluent).await?;
        }
    }
    Ok(told(&read, (&copied, &beside), &diffluent, &peer, options))
}

impl Site<'_> {
    fn rate(&self, bytes: f64, took: Duration) -> f64 {
        bytes / 1e6 / took.as_secs_f64()
    }

    /// MB/s that can be read here, and that a bare client copies without any delay, in 10^6 bytes per second; and the 99th percentile of a client's
    /// acknowledgements while it copies, directly at the broker, in milliseconds.
    async fn brokers_alone(&self, leader: &str) -> Result<(f64, f64, f64)> {
        const COPY: &str = "copy";
        let begin = Instant::now();
        raw::read(leader, TOPIC, &self.ends, None).await?;
        let read = self.rate(self.bytes as f64, begin.elapsed());
        self.region.create_topic(COPY, PARTITIONS, 1, &[]).await?;
        let to = raw::leader(&self.region.bootstrap(), COPY, 0).await?;
        let client = Client::start(self.local.bootstrap()).await?;
        let took = raw::copy(leader, TOPIC, &self.ends, &to, COPY, ACKS_LEADER).await?;
        let p99 = client.end().await?;
        self.region.delete_topic(COPY).await?;
        Ok((read, self.rate(self.bytes as f64, took), p99))
    }

    /// What is missing in the region once its first batches are there, in bytes.
    fn missing(&self, there: &[i64]) -> f64 {
        let (all, there): (i64, i64) = (self.ends.iter().sum(), there.iter().sum());
        self.bytes as f64 * (1.0 - there as f64 / all as f64)
    }

    async fn diffluent(&self, round: usize, figures: &mut Figures) -> Result<()> {
        let name = format!("eu{round}");
        // Another one each time: where it stands with a region is kept by the region's name.
        let mut to = RegionConfig::new(&format!("far{round}"), &self.region.delayed_bootstrap());
        to.topics = vec![TOPIC.to_owned()];
        to.extra = "topic_name = \"{origin}.{topic}\"".to_owned();
        let topic = format!("{name}.{TOPIC}");
        let config = ProxyConfig::new(&name, &self.local.bootstrap()).region_with(to);
        let mut proxy = Proxy::start(self.binary, config).await?;
        let client = Client::start(proxy.bootstrap()).await?;
        let there = first_there(&self.region, &topic).await?;
        let (begin, cpu) = (Instant::now(), proxy.cpu_seconds()?);
        until_mirrored(&self.ends, &self.region, &topic).await?;
        let (took, cpu) = (begin.elapsed(), proxy.cpu_seconds()? - cpu);
        let p99 = client.end().await?;
        // The same client again, with nothing to catch up.
        let client = Client::start(proxy.bootstrap()).await?;
        tokio::time::sleep(self.idle).await;
        let idle = client.end().await?;
        let resident = peak_resident_mib(proxy.pid()?)?;
        proxy.stop().await?;
        self.region.delete_topic(&topic).await?;
        self.note("diffluent", round, (&there, took, cpu, resident), (p99, idle), figures);
        Ok(())
    }

    async fn mirror_maker(&self, round: usize, figures: &mut Figures) -> Result<()> {
        let origin = format!("mm{round}");
        let (from, to) = (self.local.bootstrap(), self.region.delayed_bootstrap());
        let mut mirror = MirrorMaker::start(&origin, &from, &to, TOPIC, Tuning::ByHand).await?;
        let topic = mm2::renamed(&origin, TOPIC);
        let there = mirror.first_there(&self.region, &topic).await?;
        // Its start, and Java's, does not count.
        let client = Client::start(self.local.bootstrap()).await?;
        let (begin, cpu) = (Instant::now(), proc_cpu_seconds(mirror.pid())?);
        until_mirrored(&self.ends, &self.region, &topic).await?;
        let (took, cpu) = (begin.elapsed(), proc_cpu_seconds(mirror.pid())? - cpu);
        let p99 = client.end().await?;
        let resident = peak_resident_mib(mirror.pid())?;
        drop(mirror);
        let client = Client::start(self.local.bootstrap()).await?;
        tokio::time::sleep(self.idle).await;
        let idle = client.end().await?;
        self.region.delete_topic(&topic).await?;
        self.note("MirrorMaker 2", round, (&there, took, cpu, resident), (p99, idle), figures);
        Ok(())
    }

    fn note(
        &self,
        who: &str,
        round: usize,
        (there, took, cpu, resident): (&[i64], Duration, f64, f64),
        (p99, idle): (f64, f64),
        figures: &mut Figures,
    ) {
        let bytes = self.missing(there);
        let (rate, cpu_per_gib) = (self.rate(bytes, took), cpu / (bytes / f64::from(1 << 30)));
        say(&format!(
            "round {}: {who}: {rate:.0} MB/s, {cpu_per_gib:.2} s of CPU per GiB, {resident:.0} MiB resident; a client's ack p99 {p99:.1} ms, \
             idle {idle:.1} ms",
            round + 1
        ));
        figures.megabytes_per_second.push(rate);
        figures.cpu_per_gib.push(cpu_per_gib);
        figures.resident_mib.push(resident);
        figures.ack_p99_millis.push(p99);
        figures.idle_p99_millis.push(idle);
    }
}

/// A client that produces single records on schedule until it is told to end.
struct Client {
    stop: Arc<AtomicBool>,
    work: JoinHandle<Result<f64>>,
}

impl Client {
    async fn start(bootstrap: String) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let connected = tokio::task::spawn_blocking(move || Probe::connect(&bootstrap, CLIENT_TOPIC));
        let mut probe = connected.await.context("the probe panicked")??;
        let work = tokio::task::spawn_blocking(move || {
            let mut histogram = micros()?;
            let value = Bytes::from_static(&[b'x'; 1000]);
            while !stopped.load(Ordering::Relaxed) {
                paced(CLIENT_RATE, CLIENT_RATE / 4, |from| {
                    probe.produce(value.clone())?;
                    histogram.saturating_record(u64::try_from(from.elapsed().as_micros()).unwrap_or(u64::MAX).max(1));
                    Ok(())
                })?;
            }
            Ok(millis_at(&histogram, 0.99))
        });
        Ok(Self { stop, work })
    }

    /// The 99th percentile of its acknowledgements, in milliseconds.
    async fn end(self) -> Result<f64> {
        self.stop.store(true, Ordering::Relaxed);
        self.work.await.context("the probe panicked")?
    }
}

fn told(
    read: &Rounds,
    (copied, beside): (&Rounds, &Rounds),
    diffluent: &Figures,
    peer: &Figures,
    options: &Options,
) -> String {
    let mut table = Table::new(&[
        "",
        "MB/s",
        "CPU s per GiB",
        "peak resident MiB",
        "a client's ack p99 meanwhile, ms",
        "and idle, ms",
    ]);
    let none = || "-".to_owned();
    table.row(vec!["reading alone, local broker".to_owned(), read.show(0), none(), none(), none(), none()]);
    table.row(vec![
        "a bare client copies, no delay".to_owned(),
        copied.show(0),
        none(),
        none(),
        beside.show(1),
        none(),
    ]);
    for (who, figures) in [("**diffluent**, 100 ms", diffluent), ("MirrorMaker 2, by hand, 100 ms", peer)] {
        table.row(vec![
            who.to_owned(),
            figures.megabytes_per_second.show(0),
            figures.cpu_per_gib.show(2),
            figures.resident_mib.show(0),
            figures.ack_p99_millis.show(1),
            figures.idle_p99_millis.show(1),
        ]);
    }
    let mut marks = Marks::new();
    let faster = diffluent.megabytes_per_second.over(&peer.megabytes_per_second);
    marks.at_least("throughput", 3.0, "× MirrorMaker 2", &faster, 1);
    let of_limit = diffluent.megabytes_per_second.over(copied);
    marks.at_least("or, beside what the brokers give a bare client without delay", 0.9, "×", &of_limit, 2);
    let cpu = diffluent.cpu_per_gib.over(&peer.cpu_per_gib);
    marks.at_most("CPU per GiB", 0.2, "× MirrorMaker 2", &cpu, 3);
    let resident = diffluent.resident_mib.over(&peer.resident_mib);
    marks.at_most("peak resident", 0.1, "× MirrorMaker 2", &resident, 3);
    let client = diffluent.ack_p99_millis.over(&diffluent.idle_p99_millis);
    marks.at_most("a client's ack p99 meanwhile", 1.3, "× idle", &client, 1);
    let of_copy = diffluent.ack_p99_millis.over(beside);
    marks.at_most("or, beside what it is directly at the broker while a bare client copies", 1.3, "×", &of_copy, 1);
    format!(
        "## Catching up\n\n{}\n{}\n\
         A backlog of {} MiB of 1000-byte records, batches of 64 KiB, {PARTITIONS} partitions, {RTT_MS} ms of round trip to the region; from the first batch that is in the region \
         to the last, so that nobody's start counts. The client produces {CLIENT_RATE} single records a second (acks=all) to another topic of the same local broker: through diffluent, and directly \
         where MirrorMaker 2 runs or a bare client copies. All brokers, the delay line and the client share the cores with what is measured. MirrorMaker 2 in dedicated mode beside the source: \
         {}. Medians over {} rounds (smallest to largest).\n",
        table.text(),
        marks.text(),
        options.mib * BACKLOG_TIMES,
        mm2::BY_HAND,
        options.rounds,
    )
}
