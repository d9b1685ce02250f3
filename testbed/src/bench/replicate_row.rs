//! Steady replication: diffluent, as a proxy and beside one, and MirrorMaker 2 with its default settings and tuned by hand.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::bench::fill::{Fill, RECORD_BYTES, Until};
use crate::bench::latency_row::{Ends, Measured, RATE, slice};
use crate::bench::mirrored::until_mirrored;
use crate::bench::mm2::{self, MirrorMaker, Tuning};
use crate::bench::probe::{Probe, millis_at};
use crate::bench::process::peak_resident_mib;
use crate::bench::table::{Marks, Rounds, Table};
use crate::bench::{Options, say};
use crate::kafka::Cluster;
use crate::proxy::{Proxy, ProxyConfig, RegionConfig, proc_cpu_seconds};

const PARTITIONS: i32 = 4;
const BATCH_BYTES: u64 = 64 << 10;
/// What all of them keep up with on two cores.
const MEGABYTES_PER_SECOND: u64 = 20;
const WARM_UP_RECORDS: u64 = 20_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Captured,
    Read,
    Default,
    ByHand,
}

impl Way {
    const ALL: [Way; 4] = [Way::Captured, Way::Read, Way::Default, Way::ByHand];

    fn title(self) -> &'static str {
        match self {
            Way::Captured => "diffluent, clients through it (proxying included)",
            Way::Read => "diffluent, reading the log",
            Way::Default => "MirrorMaker 2, default settings",
            Way::ByHand => "MirrorMaker 2, tuned by hand",
        }
    }

    /// The cluster's alias, and the beginning of the topics' names.
    fn key(self) -> &'static str {
        match self {
            Way::Captured => "captured",
            Way::Read => "read",
            Way::Default => "default",
            Way::ByHand => "tuned",
        }
    }
}

enum Mirror {
    Diffluent(Box<Proxy>),
    Maker(MirrorMaker),
}

impl Mirror {
    fn pid(&self) -> Result<u32> {
        match self {
            Mirror::Diffluent(proxy) => proxy.pid(),
            Mirror::Maker(maker) => Ok(maker.pid()),
        }
    }
}

/// One way, running, with its figures.
struct Running {
    way: Way,
    mirror: Mirror,
    ends: Option<Ends>,
    cpu_per_gib: Rounds,
    resident_mib: Rounds,
    p50_millis: Rounds,
    p99_millis: Rounds,
}

impl Running {
    fn bulk(&self) -> String {
        format!("{}-bulk", self.way.key())
    }

    fn single(&self) -> String {
        format!("{}-single", self.way.key())
    }

    fn bootstrap(&self, local: &Cluster) -> String {
        match &self.mirror {
            Mirror::Diffluent(proxy) if self.way == Way::Captured => proxy.bootstrap(),
            _ => local.bootstrap(),
        }
    }

    /// What a topic is called in the region.
    fn there(&self, topic: &str) -> String {
        mm2::renamed(self.way.key(), topic)
    }
}

/// Measures the row.
///
/// # Errors
/// When something does not start or answer.
pub(super) async fn measure(binary: &Path, options: &Options) -> Result<String> {
    mm2::ensure().await?;
    say("starting two clusters, two proxies and two MirrorMakers");
    let cluster = |name: &str| Cluster::builder().name(name).heap_mib(768);
    let (local, region) = tokio::try_join!(cluster("local").start(), cluster("region").start())?;
    let mut ways = Vec::new();
    for way in Way::ALL {
        ways.push(start(binary, &local, &region, way).await?);
    }
    for round in 0..options.rounds {
        for step in 0..ways.len() {
            let index = (round + step) % ways.len();
            if let Some(way) = ways.get_mut(index) {
                steady(&local, &region, way, round, options).await?;
            }
        }
    }
    latency(&local, &region, &mut ways, options).await?;
    let told = told(&ways, options)?;
    for way in ways {
        if let Mirror::Diffluent(mut proxy) = way.mirror {
            proxy.stop().await?;
        }
    }
    Ok(told)
}

async fn start(binary: &Path, local: &Cluster, region: &Cluster, way: Way) -> Result<Running> {
    let topics = format!("{}-.*", way.key());
    let (from, to) = (local.bootstrap(), region.bootstrap());
    let maker = |tuning| MirrorMaker::start(way.key(), &from, &to, &topics, tuning);
    for (topic, partitions) in [("bulk", PARTITIONS), ("single", 1)] {
        local.create_topic(&format!("{}-{topic}", way.key()), partitions, 1, &[]).await?;
    }
    let mirror = match way {
        Way::Captured | Way::Read => {
            // Its own name, because both keep their progress in the same local cluster.
            let mut to = RegionConfig::new(&format!("{}-region", way.key()), &region.bootstrap());
            to.topics = vec![topics.clone()];
            to.extra = "topic_name = \"{origin}.{topic}\"".to_owned();
            let config = ProxyConfig::new(way.key(), &local.bootstrap()).region_with(to);
            Mirror::Diffluent(Box::new(Proxy::start(binary, config).await?))
        }
        Way::Default => Mirror::Maker(maker(Tuning::Default).await?),
        Way::ByHand => Mirror::Maker(maker(Tuning::ByHand).await?),
    };
    let mut running = Running {
        way,
        mirror,
        ends: None,
        cpu_per_gib: Rounds::default(),
        resident_mib: Rounds::default(),
        p50_millis: Rounds::default(),
        p99_millis: Rounds::default(),
    };
    for topic in [running.bulk(), running.single()] {
        let partitions = if topic == running.bulk() { PARTITIONS } else { 1 };
        fill(&running, local, &topic, partitions, Until::Records(WARM_UP_RECORDS)).run().await?;
        let (ends, there) = (local.admin().end_offsets(&topic).await?, running.there(&topic));
        if let Mirror::Maker(maker) = &mut running.mirror {
            maker.first_there(region, &there).await?;
        }
        until_mirrored(&ends, region, &there).await?;
    }
    say(&format!("{}: warm", way.title()));
    Ok(running)
}

fn fill(running: &Running, local: &Cluster, topic: &str, partitions: i32, until: Until) -> Fill {
    Fill {
        bootstrap: running.bootstrap(local),
        topic: topic.to_owned(),
        partitions,
        batch_bytes: BATCH_BYTES,
        until,
        rate: Some(MEGABYTES_PER_SECOND * 1_000_000 / RECORD_BYTES),
    }
}

async fn steady(local: &Cluster, region: &Cluster, way: &mut Running, round: usize, options: &Options) -> Result<()> {
    let (topic, pid) = (way.bulk(), way.mirror.pid()?);
    let cpu = proc_cpu_seconds(pid)?;
    let filled = fill(way, local, &topic, PARTITIONS, Until::Elapsed(options.length)).run().await?;
    let ends = local.admin().end_offsets(&topic).await?;
    until_mirrored(&ends, region, &way.there(&topic)).await?;
    let gib = (filled.records * RECORD_BYTES) as f64 / f64::from(1 << 30);
    let (cpu, resident) = ((proc_cpu_seconds(pid)? - cpu) / gib, peak_resident_mib(pid)?);
    say(&format!("round {}: {}: {cpu:.2} s of CPU per GiB, {resident:.0} MiB resident", round + 1, way.way.title()));
    way.cpu_per_gib.push(cpu);
    way.resident_mib.push(resident);
    Ok(())
}

/// All at once, a second each in turn.
async fn latency(local: &Cluster, region: &Cluster, ways: &mut [Running], options: &Options) -> Result<()> {
    let origin = Instant::now();
    for way in &mut *ways {
        let (through, there) = (way.bootstrap(local), region.bootstrap());
        let (topic, topic_there) = (way.single(), way.there(&way.single()));
        let made = tokio::task::spawn_blocking(move || {
            let producer = Probe::connect(&through, &topic)?;
            let mut consumer = Probe::connect(&there, &topic_there)?;
            // What has warmed it up is not what is waited for.
            while !consumer.fetch(Duration::from_millis(200))?.is_empty() {}
            slice(Ends { producer, consumer }, origin, RATE, &mut Measured::new()?)
        });
        way.ends =
            Some(made.await.context("the probe panicked")?.with_context(|| format!("warm-up: {}", way.way.title()))?);
    }
    for round in 0..options.rounds {
        let mut measured = ways.iter().map(|_| Measured::new()).collect::<Result<Vec<_>>>()?;
        for _ in 0..options.length.as_secs().max(1) {
            for (way, measured) in ways.iter_mut().zip(&mut measured) {
                let ends = way.ends.take().context("no probes")?;
                let work = tokio::task::spawn_blocking(move || {
                    let mut second = Measured::new()?;
                    let ends = slice(ends, origin, RATE, &mut second)?;
                    anyhow::Ok((ends, second))
                });
                let (ends, second) = work.await.context("the probe panicked")??;
                way.ends = Some(ends);
                measured.arrived.add(&second.arrived).context("histograms of the same bounds")?;
            }
        }
        for (way, measured) in ways.iter_mut().zip(&measured) {
            let (p50, p99) = (millis_at(&measured.arrived, 0.5), millis_at(&measured.arrived, 0.99));
            say(&format!("round {}: {}: p50 {p50:.1} ms, p99 {p99:.1} ms", round + 1, way.way.title()));
            way.p50_millis.push(p50);
            way.p99_millis.push(p99);
        }
    }
    Ok(())
}

fn told(ways: &[Running], options: &Options) -> Result<String> {
    let of = |wanted: Way| ways.iter().find(|way| way.way == wanted).context("a way that was not measured");
    let (captured, read, default, by_hand) = (of(Way::Captured)?, of(Way::Read)?, of(Way::Default)?, of(Way::ByHand)?);
    let mut table = Table::new(&["", "CPU s per GiB", "peak resident MiB", "latency p50 ms", "latency p99 ms"]);
    for way in ways {
        table.row(vec![
            way.way.title().to_owned(),
            way.cpu_per_gib.show(2),
            way.resident_mib.show(0),
            way.p50_millis.show(1),
            way.p99_millis.show(1),
        ]);
    }
    let mut marks = Marks::new();
    marks.at_most("CPU per GiB, reading the log", 0.1, "× default", &read.cpu_per_gib.over(&default.cpu_per_gib), 3);
    marks.at_most("CPU per GiB, reading the log", 0.2, "× by hand", &read.cpu_per_gib.over(&by_hand.cpu_per_gib), 3);
    marks.at_most("peak resident", 0.1, "× default", &read.resident_mib.over(&default.resident_mib), 3);
    marks.at_most("latency p50, clients through it", 2.0, "ms", &captured.p50_millis, 1);
    marks.at_most("latency p99, clients through it", 10.0, "ms", &captured.p99_millis, 1);
    Ok(format!(
        "## Steady replication\n\n{}\n{}\n\
         {MEGABYTES_PER_SECOND} MB/s of {RECORD_BYTES}-byte records (batches of 64 KiB, {PARTITIONS} partitions, uncompressed) for {} s per way and round, and until the region has all of it; without delay. \
         All four run all the time, and each has its turn. Latency: {RATE} records a second, one at a time, from the producer's send to a consumer in the region, {} s per way and round in turns of a second. \
         MirrorMaker 2 in dedicated mode; by hand: {}. Medians over {} rounds (smallest to largest).\n",
        table.text(),
        marks.text(),
        options.length.as_secs(),
        options.length.as_secs().max(1),
        mm2::BY_HAND,
        options.rounds,
    ))
}
