//! What the proxy costs a client that produces, that reads, and that sends many small requests: direct, through HAProxy in TCP mode, through diffluent without
//! regions, with one and with three.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use hdrhistogram::Histogram;

use crate::bench::fill::{Fill, RECORD_BYTES, Until};
use crate::bench::haproxy::{self, Haproxy};
use crate::bench::mirrored::until_mirrored;
use crate::bench::probe::{Probe, micros, millis_at, paced};
use crate::bench::process::peak_resident_mib;
use crate::bench::table::{Marks, Rounds, Table};
use crate::bench::{Options, raw, say};
use crate::delay::DelaySpec;
use crate::kafka::Cluster;
use crate::proxy::{Proxy, ProxyConfig, RegionConfig, proc_cpu_seconds};

const PARTITIONS: i32 = 4;
const BATCH_BYTES: u64 = 64 << 10;
/// Opens connections, creates the region's topic and warms every path, before anything is counted.
const WARM_UP_RECORDS: u64 = 16 << 10;
/// Single records per second, where latency is measured.
const RATE: u64 = 200;
const REGIONS: usize = 3;
const SMALL_PRODUCERS: usize = 200;
const SMALL_BYTES: u64 = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Direct,
    Haproxy,
    Plain,
    OneRegion,
    ThreeRegions,
}

impl Way {
    const ALL: [Way; 5] = [Way::Direct, Way::Haproxy, Way::Plain, Way::OneRegion, Way::ThreeRegions];

    fn title(self) -> &'static str {
        match self {
            Way::Direct => "direct",
            Way::Haproxy => "HAProxy, TCP mode",
            Way::Plain => "diffluent, no region",
            Way::OneRegion => "diffluent, one region",
            Way::ThreeRegions => "diffluent, three regions",
        }
    }

    fn key(self) -> &'static str {
        match self {
            Way::Direct => "direct",
            Way::Haproxy => "haproxy",
            Way::Plain => "plain",
            Way::OneRegion => "one",
            Way::ThreeRegions => "three",
        }
    }

    fn regions(self) -> usize {
        match self {
            Way::Direct | Way::Haproxy | Way::Plain => 0,
            Way::OneRegion => 1,
            Way::ThreeRegions => REGIONS,
        }
    }
}

/// The clusters that all rounds share.
struct Site<'a> {
    binary: &'a Path,
    local: Cluster,
    regions: Vec<Cluster>,
}

/// What stands between the client and the broker.
enum Front {
    Nothing,
    Haproxy(Haproxy),
    Diffluent(Box<Proxy>),
}

impl Site<'_> {
    async fn front(&self, way: Way) -> Result<Front> {
        let mut config = ProxyConfig::new("eu", &self.local.bootstrap());
        for (number, region) in self.regions.iter().take(way.regions()).enumerate() {
            let mut to = RegionConfig::new(&format!("r{number}"), &region.bootstrap());
            to.topics = vec![format!(".*-{}-.*", way.key())];
            config = config.region_with(to);
        }
        match way {
            Way::Direct => Ok(Front::Nothing),
            Way::Haproxy => Ok(Front::Haproxy(Haproxy::start(&self.local).await?)),
            _ => Ok(Front::Diffluent(Box::new(Proxy::start(self.binary, config).await?))),
        }
    }

    /// Waits until all regions of a way have all of the topic.
    async fn mirrored(&self, way: Way, topic: &str) -> Result<()> {
        let ends = self.local.admin().end_offsets(topic).await?;
        for region in self.regions.iter().take(way.regions()) {
            until_mirrored(&ends, region, topic).await?;
        }
        Ok(())
    }

    async fn remove(&self, way: Way, topic: &str) -> Result<()> {
        self.local.delete_topic(topic).await?;
        for region in self.regions.iter().take(way.regions()) {
            region.delete_topic(topic).await?;
        }
        Ok(())
    }
}

impl Front {
    fn bootstrap(&self, local: &Cluster) -> String {
        match self {
            Front::Nothing => local.bootstrap(),
            Front::Haproxy(haproxy) => haproxy.bootstrap().to_owned(),
            Front::Diffluent(proxy) => proxy.bootstrap(),
        }
    }

    fn pid(&self) -> Result<Option<u32>> {
        Ok(match self {
            Front::Nothing => None,
            Front::Haproxy(haproxy) => Some(haproxy.pid()),
            Front::Diffluent(proxy) => Some(proxy.pid()?),
        })
    }

    fn cpu_seconds(&self) -> Result<f64> {
        self.pid()?.map_or(Ok(0.0), proc_cpu_seconds)
    }

    async fn end(self) -> Result<()> {
        if let Front::Diffluent(mut proxy) = self {
            proxy.stop().await?;
        }
        Ok(())
    }
}

/// The figures of one way, round by round.
#[derive(Default)]
struct Figures {
    cpu_per_gib: Rounds,
    megabytes_per_second: Rounds,
    resident_mib: Rounds,
    caught_up_percent: Rounds,
    p50_micros: Rounds,
    p99_micros: Rounds,
    fetch_cpu_per_gib: Rounds,
    small_cpu_micros: Rounds,
    small_per_second: Rounds,
}

/// Measures the row.
///
/// # Errors
/// When something does not start or answer.
pub(super) async fn measure(binary: &Path, options: &Options) -> Result<String> {
    say("starting four clusters");
    // A second listener that advertises another port: HAProxy's.
    let local = Cluster::builder().name("local").listener_via(DelaySpec::default()).start().await?;
    let mut regions = Vec::new();
    for number in 0..REGIONS {
        regions.push(Cluster::builder().name(&format!("region-{number}")).start().await?);
    }
    let site = Site { binary, local, regions };
    let mut figures: Vec<(Way, Figures)> = Way::ALL.into_iter().map(|way| (way, Figures::default())).collect();
    for round in 0..options.rounds {
        // Each round begins with another way, so that none is always the one behind the heaviest.
        for step in 0..figures.len() {
            let index = (round + step) % figures.len();
            if let Some((way, figures)) = figures.get_mut(index) {
                throughput(&site, *way, round, options.mib, figures).await?;
                small(&site, *way, round, options.length, figures).await?;
            }
        }
    }
    latency(&site, options, &mut figures).await?;
    told(&figures, options)
}

async fn throughput(site: &Site<'_>, way: Way, round: usize, mib: u64, figures: &mut Figures) -> Result<()> {
    let topic = format!("cpu-{}-{round}", way.key());
    site.local.create_topic(&topic, PARTITIONS, 1, &[]).await?;
    let front = site.front(way).await?;
    let fill = |records| Fill {
        bootstrap: front.bootstrap(&site.local),
        topic: topic.clone(),
        partitions: PARTITIONS,
        batch_bytes: BATCH_BYTES,
        until: Until::Records(records),
        rate: None,
    };
    fill(WARM_UP_RECORDS).run().await?;
    site.mirrored(way, &topic).await?;
    let (cpu, caught_up) = (front.cpu_seconds()?, caught_up_bytes(&front).await);
    let filled = fill((mib << 20).div_ceil(RECORD_BYTES)).run().await?;
    site.mirrored(way, &topic).await?;
    let gib = (filled.records * RECORD_BYTES) as f64 / f64::from(1 << 30);
    let cpu_per_gib = (front.cpu_seconds()? - cpu) / gib;
    figures.cpu_per_gib.push(cpu_per_gib);
    figures.megabytes_per_second.push(filled.megabytes_per_second());
    let mut resident = 0.0;
    if let Some(pid) = front.pid()? {
        resident = peak_resident_mib(pid)?;
        figures.resident_mib.push(resident);
    }
    let mut note = String::new();
    if way.regions() > 0 {
        let bytes = gib * f64::from(1 << 30) * way.regions() as f64;
        let percent = (caught_up_bytes(&front).await - caught_up) / bytes * 100.0;
        figures.caught_up_percent.push(percent);
        note = format!(", {percent:.0} % read from the log");
    }
    say(&format!(
        "round {}: {}: {cpu_per_gib:.2} s of CPU per GiB, {:.0} MB/s, {resident:.0} MiB resident{note}",
        round + 1,
        way.title(),
        filled.megabytes_per_second(),
    ));
    if matches!(way, Way::Haproxy | Way::Plain) {
        // What was produced is read back the same way.
        let ends = site.local.admin().end_offsets(&topic).await?;
        let leader = raw::leader(&front.bootstrap(&site.local), &topic, 0).await?;
        let cpu = front.cpu_seconds()?;
        raw::read(&leader, &topic, &ends, None).await?;
        let records: i64 = ends.iter().sum();
        let gib = records as f64 * RECORD_BYTES as f64 / f64::from(1 << 30);
        let cpu_per_gib = (front.cpu_seconds()? - cpu) / gib;
        say(&format!("round {}: {}: {cpu_per_gib:.2} s of CPU per GiB fetched", round + 1, way.title()));
        figures.fetch_cpu_per_gib.push(cpu_per_gib);
    }
    front.end().await?;
    site.remove(way, &topic).await
}

/// Many producers, each of which sends one small record after the other.
async fn small(site: &Site<'_>, way: Way, round: usize, length: Duration, figures: &mut Figures) -> Result<()> {
    if way == Way::Direct {
        return Ok(());
    }
    let topic = format!("small-{}-{round}", way.key());
    site.local.create_topic(&topic, PARTITIONS, 1, &[]).await?;
    let front = site.front(way).await?;
    let leader = raw::leader(&front.bootstrap(&site.local), &topic, 0).await?;
    raw::one_by_one(&leader, &topic, PARTITIONS, SMALL_PRODUCERS, SMALL_BYTES, Duration::from_secs(1)).await?;
    site.mirrored(way, &topic).await?;
    let (begin, cpu) = (Instant::now(), front.cpu_seconds()?);
    let requests = raw::one_by_one(&leader, &topic, PARTITIONS, SMALL_PRODUCERS, SMALL_BYTES, length).await?;
    let took = begin.elapsed();
    site.mirrored(way, &topic).await?;
    let micros = (front.cpu_seconds()? - cpu) * 1e6 / requests as f64;
    let per_second = requests as f64 / took.as_secs_f64();
    say(&format!("round {}: {}: {micros:.1} µs of CPU per small request, {per_second:.0}/s", round + 1, way.title()));
    figures.small_cpu_micros.push(micros);
    figures.small_per_second.push(per_second);
    front.end().await?;
    site.remove(way, &topic).await
}

async fn caught_up_bytes(front: &Front) -> f64 {
    match front {
        // No such series: nothing was read yet.
        Front::Diffluent(proxy) => proxy.metric("diffluent_caught_up_bytes_total").await.unwrap_or(0.0),
        _ => 0.0,
    }
}

/// All at once, a second each in turn, so that the machine's moods hit all of them alike.
async fn latency(site: &Site<'_>, options: &Options, figures: &mut [(Way, Figures)]) -> Result<()> {
    const LATENCY_WARM_UP: u64 = 2 * RATE;
    for way in Way::ALL {
        site.local.create_topic(&format!("ack-{}-0", way.key()), 1, 1, &[]).await?;
    }
    let mut fronts = Vec::new();
    let mut probes = Vec::new();
    for way in Way::ALL {
        let front = site.front(way).await?;
        let (bootstrap, topic) = (front.bootstrap(&site.local), format!("ack-{}-0", way.key()));
        let probe = tokio::task::spawn_blocking(move || {
            let mut probe = Probe::connect(&bootstrap, &topic)?;
            single_records(&mut probe, LATENCY_WARM_UP, &mut micros()?)?;
            anyhow::Ok(probe)
        });
        probes.push(probe.await.context("the probe panicked")??);
        site.mirrored(way, &format!("ack-{}-0", way.key())).await?;
        fronts.push(front);
    }
    let length = options.length.as_secs().max(1);
    for round in 0..options.rounds {
        let work = tokio::task::spawn_blocking(move || {
            let mut histograms = probes.iter().map(|_| micros()).collect::<Result<Vec<_>>>()?;
            for second in 0..length {
                for step in 0..probes.len() {
                    let index = (usize::try_from(second).unwrap_or(0) + step) % probes.len();
                    if let (Some(probe), Some(histogram)) = (probes.get_mut(index), histograms.get_mut(index)) {
                        single_records(probe, RATE, histogram)?;
                    }
                }
            }
            anyhow::Ok((probes, histograms))
        });
        let histograms;
        (probes, histograms) = work.await.context("the probe panicked")??;
        for ((way, figures), histogram) in figures.iter_mut().zip(&histograms) {
            figures.p50_micros.push(millis_at(histogram, 0.5) * 1e3);
            figures.p99_micros.push(millis_at(histogram, 0.99) * 1e3);
            say(&format!(
                "round {}: {}: ack p50 {} µs, p99 {} µs",
                round + 1,
                way.title(),
                histogram.value_at_quantile(0.5),
                histogram.value_at_quantile(0.99)
            ));
        }
    }
    for front in fronts {
        front.end().await?;
    }
    Ok(())
}

fn single_records(probe: &mut Probe, count: u64, histogram: &mut Histogram<u64>) -> Result<()> {
    let value = Bytes::from_static(&[b'x'; RECORD_BYTES as usize]);
    paced(RATE, count, |from| {
        probe.produce(value.clone())?;
        histogram.saturating_record(u64::try_from(from.elapsed().as_micros()).unwrap_or(u64::MAX).max(1));
        Ok(())
    })
}

fn told(figures: &[(Way, Figures)], options: &Options) -> Result<String> {
    let of = |wanted: Way| {
        let found = figures.iter().find(|(way, _)| *way == wanted);
        found.map(|(_, figures)| figures).context("a way that was not measured")
    };
    let (direct, haproxy) = (of(Way::Direct)?, of(Way::Haproxy)?);
    let (plain, one, three) = (of(Way::Plain)?, of(Way::OneRegion)?, of(Way::ThreeRegions)?);
    let mut table = Table::new(&[
        "",
        "CPU s per GiB",
        "× HAProxy",
        "produced MB/s",
        "ack p50 µs",
        "added p50 µs",
        "ack p99 µs",
        "peak resident MiB",
        "CPU s per GiB fetched",
        "CPU µs per small request",
    ]);
    for (way, figures) in figures {
        let proxied = *way != Way::Direct;
        let if_proxied = |text: String| if proxied { text } else { "-".to_owned() };
        table.row(vec![
            way.title().to_owned(),
            if_proxied(figures.cpu_per_gib.show(2)),
            if_proxied(figures.cpu_per_gib.over(&haproxy.cpu_per_gib).show(2)),
            figures.megabytes_per_second.show(0),
            figures.p50_micros.show(0),
            if_proxied(figures.p50_micros.less(&direct.p50_micros).show(0)),
            figures.p99_micros.show(0),
            if_proxied(figures.resident_mib.show(0)),
            figures.fetch_cpu_per_gib.show(2),
            figures.small_cpu_micros.show(1),
        ]);
    }
    let mut marks = Marks::new();
    let ratio = |figures: &Figures| figures.cpu_per_gib.over(&haproxy.cpu_per_gib);
    let added = |figures: &Figures| figures.p50_micros.less(&direct.p50_micros);
    let on_top = |more: &Figures, less: &Figures| more.cpu_per_gib.less(&less.cpu_per_gib).over(&haproxy.cpu_per_gib);
    marks.at_most("CPU per GiB produced, no region", 1.0, "× HAProxy", &ratio(plain), 2);
    marks.at_most("the first region, on top", 0.8, "× HAProxy", &on_top(one, plain), 2);
    marks.at_most("two further regions, on top", 1.2, "× HAProxy", &on_top(three, one), 2);
    let fetched = plain.fetch_cpu_per_gib.over(&haproxy.fetch_cpu_per_gib);
    marks.at_most("CPU per GiB fetched", 1.0, "× HAProxy", &fetched, 2);
    let small = plain.small_cpu_micros.over(&haproxy.small_cpu_micros);
    marks.at_most("CPU per small request, no region", 1.3, "× HAProxy", &small, 2);
    let over_haproxy = plain.p50_micros.less(&haproxy.p50_micros);
    marks.at_most("added ack latency p50, no region, over HAProxy's", 0.0, "µs", &over_haproxy, 0);
    let over_haproxy = plain.p99_micros.less(&haproxy.p99_micros);
    marks.at_most("ack latency p99, no region, over HAProxy's", 100.0, "µs", &over_haproxy, 0);
    marks.at_most("added ack latency p50, one region", 100.0, "µs", &added(one), 0);
    let over_none = three.p50_micros.less(&plain.p50_micros);
    marks.at_most("ack latency p50, three regions, over none", 0.0, "µs", &over_none, 0);
    marks.at_most("peak resident, no region", 64.0, "MiB", &plain.resident_mib, 0);
    marks.at_most("peak resident, one region, 64 MiB of buffer", 128.0, "MiB", &one.resident_mib, 0);
    Ok(format!(
        "## What the proxy costs a client\n\n{}\n{}\n\
         Medians over {} alternating rounds (smallest to largest). CPU: the proxy's own, all threads, user and system, while librdkafka \
         produces {} MiB of {RECORD_BYTES}-byte records (acks=all, linger 5 ms, batches of 64 KiB, {PARTITIONS} partitions), and, with a \
         region, until the region has all of it; {} % of that was read from the local log, because the buffer was full. Ack latency: one \
         record at a time, acks=all, {RATE} a second on a fixed schedule, {} s per way and round, in turns of a second. Fetched: a bare client reads what was produced, up to 8 MiB at a \
         time. Small requests: {SMALL_PRODUCERS} bare producers, each with one record of {SMALL_BYTES} bytes in flight, acks=all, and, with regions, until they have all of it. {}.\n",
        table.text(),
        marks.text(),
        options.rounds,
        options.mib,
        one.caught_up_percent.show(0),
        options.length.as_secs().max(1),
        haproxy::version(),
    ))
}
