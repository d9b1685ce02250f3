//! What the proxy costs a client that produces, that reads, and that sends many small requests: direct, through HAProxy in TCP mode, through diffluent without
//! regions, with one and with three. For the latency also direct in the company of as many brokers that take the same.

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
use crate::bench::{Options, machine, raw, say};
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
    DirectAndOne,
    DirectAndThree,
}

impl Way {
    const ALL: [Way; 7] = [
        Way::Direct,
        Way::Haproxy,
        Way::Plain,
        Way::OneRegion,
        Way::ThreeRegions,
        Way::DirectAndOne,
        Way::DirectAndThree,
    ];

    fn title(self) -> &'static str {
        match self {
            Way::Direct => "direct",
            Way::Haproxy => "HAProxy, TCP mode",
            Way::Plain => "diffluent, no region",
            Way::OneRegion => "diffluent, one region",
            Way::ThreeRegions => "diffluent, three regions",
            Way::DirectAndOne => "direct, then to one other",
            Way::DirectAndThree => "direct, then to three others",
        }
    }

    fn key(self) -> &'static str {
        match self {
            Way::Direct => "direct",
            Way::Haproxy => "haproxy",
            Way::Plain => "plain",
            Way::OneRegion => "one",
            Way::ThreeRegions => "three",
            Way::DirectAndOne => "and-one",
            Way::DirectAndThree => "and-three",
        }
    }

    fn regions(self) -> usize {
        match self {
            Way::OneRegion => 1,
            Way::ThreeRegions => REGIONS,
            _ => 0,
        }
    }

    /// To how many other brokers the client itself sends each record, once it is acknowledged: the same work for the machine, without diffluent.
    fn company(self) -> usize {
        match self {
            Way::DirectAndOne => 1,
            Way::DirectAndThree => REGIONS,
            _ => 0,
        }
    }

    fn is_direct(self) -> bool {
        matches!(self, Way::Direct | Way::DirectAndOne | Way::DirectAndThree)
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
            _ if way.is_direct() => Ok(Front::Nothing),
            Way::Haproxy => Ok(Front::Haproxy(Haproxy::start(&self.local).await?)),
            _ => Ok(Front::Diffluent(Box::new(Proxy::start(self.binary, config).await?))),
        }
    }

    /// Processor time so far of what shares the machine: the load generator (this process), all brokers, the proxy.
    fn takers(&self, front: &Front) -> Result<[f64; 3]> {
        let regions: f64 = self.regions.iter().map(Cluster::cpu_seconds).sum::<Result<f64>>()?;
        Ok([proc_cpu_seconds(std::process::id())?, self.local.cpu_seconds()? + regions, front.cpu_seconds()?])
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
    /// Of all cores, while it is produced: the load generator, the brokers, the proxy.
    shares_percent: [Rounds; 3],
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
            // Company is for the latency.
            if let Some((way, figures)) = figures.get_mut(index).filter(|(way, _)| way.company() == 0) {
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
    let (begin, before) = (Instant::now(), site.takers(&front)?);
    let filled = fill((mib << 20).div_ceil(RECORD_BYTES)).run().await?;
    site.mirrored(way, &topic).await?;
    let core_seconds = begin.elapsed().as_secs_f64() * machine::cores() as f64;
    for ((share, after), before) in figures.shares_percent.iter_mut().zip(site.takers(&front)?).zip(before) {
        share.push((after - before) / core_seconds * 100.0);
    }
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
    if way.is_direct() {
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
        let topic = format!("ack-{}-0", way.key());
        site.local.create_topic(&topic, 1, 1, &[]).await?;
        for other in site.regions.iter().take(way.company()) {
            other.create_topic(&topic, 1, 1, &[]).await?;
        }
    }
    let mut fronts = Vec::new();
    let mut probes = Vec::new();
    for way in Way::ALL {
        let front = site.front(way).await?;
        let (bootstrap, topic) = (front.bootstrap(&site.local), format!("ack-{}-0", way.key()));
        let others: Vec<String> = site.regions.iter().take(way.company()).map(Cluster::bootstrap).collect();
        let connected = tokio::task::spawn_blocking(move || {
            let mut probe = Probe::connect(&bootstrap, &topic)?;
            let mut company = others.iter().map(|other| Probe::connect(other, &topic)).collect::<Result<Vec<_>>>()?;
            single_records(&mut probe, &mut company, LATENCY_WARM_UP, &mut micros()?)?;
            anyhow::Ok((probe, company))
        });
        probes.push(connected.await.context("the probe panicked")??);
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
                    if let (Some((probe, company)), Some(histogram)) =
                        (probes.get_mut(index), histograms.get_mut(index))
                    {
                        single_records(probe, company, RATE, histogram)?;
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

fn single_records(probe: &mut Probe, company: &mut [Probe], count: u64, histogram: &mut Histogram<u64>) -> Result<()> {
    let value = Bytes::from_static(&[b'x'; RECORD_BYTES as usize]);
    paced(RATE, count, |from| {
        probe.produce(value.clone())?;
        histogram.saturating_record(u64::try_from(from.elapsed().as_micros()).unwrap_or(u64::MAX).max(1));
        company.iter_mut().try_for_each(|other| other.produce(value.clone()))
    })
}

fn told(figures: &[(Way, Figures)], options: &Options) -> Result<String> {
    let of = |wanted: Way| {
        let found = figures.iter().find(|(way, _)| *way == wanted);
        found.map(|(_, figures)| figures).context("a way that was not measured")
    };
    let (direct, haproxy) = (of(Way::Direct)?, of(Way::Haproxy)?);
    let (plain, one, three) = (of(Way::Plain)?, of(Way::OneRegion)?, of(Way::ThreeRegions)?);
    let (and_one, and_three) = (of(Way::DirectAndOne)?, of(Way::DirectAndThree)?);
    let added = |figures: &Figures| figures.p50_micros.less(&direct.p50_micros);
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
        let proxied = !way.is_direct();
        let if_proxied = |text: String| if proxied { text } else { "-".to_owned() };
        table.row(vec![
            way.title().to_owned(),
            if_proxied(figures.cpu_per_gib.show(2)),
            if_proxied(figures.cpu_per_gib.over(&haproxy.cpu_per_gib).show(2)),
            figures.megabytes_per_second.show(0),
            figures.p50_micros.show(0),
            if *way == Way::Direct { "-".to_owned() } else { added(figures).show(0) },
            figures.p99_micros.show(0),
            if_proxied(figures.resident_mib.show(0)),
            figures.fetch_cpu_per_gib.show(2),
            figures.small_cpu_micros.show(1),
        ]);
    }
    let mut shares = Table::new(&["of all cores, while it is produced, %", "load generator", "brokers", "proxy"]);
    for (way, figures) in figures.iter().filter(|(way, _)| way.company() == 0) {
        let mut row = vec![way.title().to_owned()];
        row.extend(figures.shares_percent.iter().map(|share| share.show(0)));
        shares.row(row);
    }
    let mut marks = Marks::new();
    let ratio = |figures: &Figures| figures.cpu_per_gib.over(&haproxy.cpu_per_gib);
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
    let alone = added(haproxy);
    let over_alone = one.p50_micros.less(&and_one.p50_micros).less(&alone);
    marks.at_most("added to what it is in such company, one region, over HAProxy's", 0.0, "µs", &over_alone, 0);
    let over_alone = three.p50_micros.less(&and_three.p50_micros).less(&alone);
    marks.at_most("added to what it is in such company, three regions, over HAProxy's", 0.0, "µs", &over_alone, 0);
    marks.at_most("peak resident, no region", 64.0, "MiB", &plain.resident_mib, 0);
    marks.at_most("peak resident, one region, 64 MiB of buffer", 128.0, "MiB", &one.resident_mib, 0);
    Ok(format!(
        "## What the proxy costs a client\n\n{}\n{}\n{}\n\
         Medians over {} alternating rounds (smallest to largest). CPU: the proxy's own, all threads, user and system, while librdkafka \
         produces {} MiB of {RECORD_BYTES}-byte records (acks=all, linger 5 ms, batches of 64 KiB, {PARTITIONS} partitions), and, with a \
         region, until the region has all of it; {} % of that was read from the local log, because the buffer was full. Ack latency: one \
         record at a time, acks=all, {RATE} a second on a fixed schedule, {} s per way and round, in turns of a second; \"then to others\": the client sends each record to the regions' brokers \
         too, once it is acknowledged, so that the machine has the company that a region brings, without diffluent. Fetched: a bare client reads what was produced, up to 8 MiB at a \
         time. Small requests: {SMALL_PRODUCERS} bare producers, each with one record of {SMALL_BYTES} bytes in flight, acks=all, and, with regions, until they have all of it. {}.\n",
        table.text(),
        shares.text(),
        marks.text(),
        options.rounds,
        options.mib,
        one.caught_up_percent.show(0),
        options.length.as_secs().max(1),
        haproxy::version(),
    ))
}
