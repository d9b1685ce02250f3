//! How cost grows: with partitions, regions, connections and the size of records.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use kafka_protocol::messages::ApiVersionsRequest;

use crate::bench::chart::{Axis, Chart};
use crate::bench::mirrored::until_mirrored;
use crate::bench::process::connections_allowed;
use crate::bench::table::{Marks, Rounds, Table};
use crate::bench::{Options, raw, say};
use crate::call::Call;
use crate::kafka::Cluster;
use crate::proxy::{Proxy, ProxyConfig, RegionConfig, proc_cpu_seconds, proc_rss_bytes};

const PARTITIONS: [u64; 4] = [10, 100, 1000, 10_000];
const REGIONS: [u64; 5] = [0, 1, 2, 4, 8];
const CONNECTIONS: [u64; 4] = [10, 100, 1000, 10_000];
const RECORD_BYTES: [u64; 5] = [100, 1000, 10_000, 100_000, 1_000_000];
/// Of a topic, where there are many.
const PARTITIONS_PER_TOPIC: u64 = 100;
/// So many batches of 1 KiB in all, over however many partitions.
const BATCHES: u64 = 20_000;
const BATCH_BYTES: u64 = 64 << 10;
/// Where cost is counted by the GiB.
const SPREAD: i32 = 4;
const MIB: u64 = 256;
/// Clients that send while all others are idle.
const BUSY: usize = 10;
const SETTLE: Duration = Duration::from_secs(5);
const ACKS_ALL: i16 = -1;
/// The last step may cost so much more by the unit than the one before: measurements vary by that.
const AS_MUCH: f64 = 1.25;

struct Site<'a> {
    binary: &'a Path,
    local: Cluster,
    region: Cluster,
}

/// One figure over what makes it grow.
struct Growth {
    name: &'static str,
    title: &'static str,
    across: &'static str,
    up: &'static str,
    axis: Axis,
    digits: usize,
    /// Whether the figure is of all of it, or by the unit already.
    total: bool,
    steps: Vec<(u64, Rounds)>,
}

/// Measures the row.
///
/// # Errors
/// When something does not start or answer.
pub(super) async fn measure(binary: &Path, options: &Options) -> Result<String> {
    say("starting two clusters");
    let cluster = |name: &str| {
        let builder = Cluster::builder().name(name).heap_mib(2048);
        builder.config("controller.quorum.election.timeout.ms", "10000").config("broker.session.timeout.ms", "60000")
    };
    let (local, region) = tokio::try_join!(cluster("local").start(), cluster("region").start())?;
    let site = Site { binary, local, region };
    let mut all = [
        Growth {
            name: "growth-partitions",
            title: "Cost of a batch",
            across: "partitions",
            up: "CPU µs per batch of 1 KiB, one region",
            axis: Axis::Logarithmic,
            digits: 1,
            total: false,
            steps: steps(PARTITIONS),
        },
        Growth {
            name: "growth-regions",
            title: "Cost of regions",
            across: "regions",
            up: "CPU s per GiB produced",
            axis: Axis::Linear,
            digits: 2,
            total: true,
            steps: steps(REGIONS),
        },
        Growth {
            name: "growth-connections",
            title: "Cost of a request among idle connections",
            across: "client connections",
            up: "CPU µs per request",
            axis: Axis::Logarithmic,
            digits: 1,
            total: false,
            steps: steps(CONNECTIONS.map(connections_allowed)),
        },
        Growth {
            name: "growth-memory",
            title: "Memory of connections",
            across: "client connections",
            up: "resident MiB",
            axis: Axis::Logarithmic,
            digits: 1,
            total: true,
            steps: steps(CONNECTIONS.map(connections_allowed)),
        },
        Growth {
            name: "growth-records",
            title: "Cost of large and small records",
            across: "bytes of a record",
            up: "CPU s per GiB produced, one region",
            axis: Axis::Logarithmic,
            digits: 2,
            total: false,
            steps: steps(RECORD_BYTES),
        },
    ];
    let [partitions, regions, connections, memory, records] = &mut all;
    for round in 0..options.rounds {
        for (count, figures) in &mut partitions.steps {
            figures.push(site.batch_micros(*count, round).await?);
        }
        for (count, figures) in &mut regions.steps {
            let (batch, _) = raw::batch(BATCH_BYTES)?;
            figures.push(site.seconds_per_gib(*count, batch, &format!("regions-{count}-{round}")).await?);
        }
        for ((count, micros), (_, mib)) in connections.steps.iter_mut().zip(&mut memory.steps) {
            let (of_request, resident) = site.among_idle(*count, round, options.length).await?;
            micros.push(of_request);
            mib.push(resident);
        }
        for (bytes, figures) in &mut records.steps {
            let batch = raw::batch_of((BATCH_BYTES / *bytes).max(1), *bytes)?;
            figures.push(site.seconds_per_gib(1, batch, &format!("records-{bytes}-{round}")).await?);
        }
    }
    told(&all, options)
}

fn steps(counts: impl IntoIterator<Item = u64>) -> Vec<(u64, Rounds)> {
    counts.into_iter().map(|count| (count, Rounds::default())).collect()
}

impl Site<'_> {
    async fn proxy(&self, regions: u64, topics: &str) -> Result<Proxy> {
        let mut config = ProxyConfig::new("eu", &self.local.bootstrap());
        for number in 0..regions {
            let mut to = RegionConfig::new(&format!("r{number}"), &self.region.bootstrap());
            to.topics = vec![topics.to_owned()];
            // One cluster stands for all of them: what costs is counted at the proxy.
            to.extra = format!("topic_name = \"r{number}.{{topic}}\"");
            config = config.region_with(to);
        }
        Proxy::start(self.binary, config).await
    }

    async fn mirrored(&self, regions: u64, topic: &str) -> Result<()> {
        let ends = self.local.admin().end_offsets(topic).await?;
        for number in 0..regions {
            until_mirrored(&ends, &self.region, &format!("r{number}.{topic}")).await?;
        }
        Ok(())
    }

    async fn remove(&self, regions: u64, topic: &str) -> Result<()> {
        self.local.delete_topic(topic).await?;
        for number in 0..regions {
            self.region.delete_topic(&format!("r{number}.{topic}")).await?;
        }
        Ok(())
    }

    /// Processor time of a batch of 1 KiB that one region gets, where so many partitions share the load.
    async fn batch_micros(&self, partitions: u64, round: usize) -> Result<f64> {
        let of_topic = partitions.min(PARTITIONS_PER_TOPIC);
        let topics: Vec<String> =
            (0..partitions / of_topic).map(|number| format!("partitions-{partitions}-{round}-{number}")).collect();
        let of_topic = i32::try_from(of_topic).context("too many partitions")?;
        for topic in &topics {
            self.local.create_topic(topic, of_topic, 1, &[]).await?;
        }
        let mut proxy = self.proxy(1, &format!("partitions-{partitions}-{round}-.*")).await?;
        let (batch, _) = raw::batch(1 << 10)?;
        for topic in &topics {
            // The first batches open what there is to open.
            let leader = raw::leader(&proxy.bootstrap(), topic, 0).await?;
            raw::pipeline(&leader, topic, of_topic, ACKS_ALL, batch.clone(), 1).await?;
        }
        for topic in &topics {
            self.mirrored(1, topic).await?;
        }
        let (pid, each) = (proxy.pid()?, (BATCHES / partitions).max(1));
        let cpu = proc_cpu_seconds(pid)?;
        for topic in &topics {
            let leader = raw::leader(&proxy.bootstrap(), topic, 0).await?;
            raw::pipeline(&leader, topic, of_topic, ACKS_ALL, batch.clone(), each).await?;
        }
        for topic in &topics {
            self.mirrored(1, topic).await?;
        }
        let micros = (proc_cpu_seconds(pid)? - cpu) * 1e6 / (each * partitions) as f64;
        say(&format!("round {}: {partitions} partitions: {micros:.1} µs of CPU per batch", round + 1));
        proxy.stop().await?;
        for topic in &topics {
            self.remove(1, topic).await?;
        }
        Ok(micros)
    }

    /// Processor time per GiB produced, until all regions have it.
    async fn seconds_per_gib(&self, regions: u64, batch: Bytes, topic: &str) -> Result<f64> {
        self.local.create_topic(topic, SPREAD, 1, &[]).await?;
        let mut proxy = self.proxy(regions, topic).await?;
        let leader = raw::leader(&proxy.bootstrap(), topic, 0).await?;
        let request_bytes = batch.len() as u64 * SPREAD as u64;
        raw::pipeline(&leader, topic, SPREAD, ACKS_ALL, batch.clone(), (16 << 20) / request_bytes).await?;
        self.mirrored(regions, topic).await?;
        let (pid, count) = (proxy.pid()?, (MIB << 20).div_ceil(request_bytes));
        let cpu = proc_cpu_seconds(pid)?;
        raw::pipeline(&leader, topic, SPREAD, ACKS_ALL, batch, count).await?;
        self.mirrored(regions, topic).await?;
        let seconds = (proc_cpu_seconds(pid)? - cpu) / (count * request_bytes) as f64 * f64::from(1 << 30);
        say(&format!("{topic}: {seconds:.2} s of CPU per GiB"));
        proxy.stop().await?;
        self.remove(regions, topic).await?;
        Ok(seconds)
    }

    /// Processor time of a small request, and resident MiB, among so many connections of which few are busy.
    async fn among_idle(&self, connections: u64, round: usize, length: Duration) -> Result<(f64, f64)> {
        let topic = format!("connections-{connections}-{round}");
        self.local.create_topic(&topic, SPREAD, 1, &[]).await?;
        let mut proxy = self.proxy(0, "").await?;
        let leader = raw::leader(&proxy.bootstrap(), &topic, 0).await?;
        let mut open = Vec::new();
        for _ in 0..connections.saturating_sub(BUSY as u64) {
            let mut call = Call::connect(&leader).await?;
            call.call(&ApiVersionsRequest::default(), 0).await?;
            open.push(call);
        }
        tokio::time::sleep(SETTLE).await;
        let pid = proxy.pid()?;
        let cpu = proc_cpu_seconds(pid)?;
        let requests = raw::one_by_one(&leader, &topic, SPREAD, BUSY, 100, length).await?;
        let micros = (proc_cpu_seconds(pid)? - cpu) * 1e6 / requests as f64;
        let mib = proc_rss_bytes(pid)? as f64 / f64::from(1 << 20);
        say(&format!(
            "round {}: {connections} connections: {micros:.1} µs of CPU per request, {mib:.1} MiB",
            round + 1
        ));
        drop(open);
        proxy.stop().await?;
        self.local.delete_topic(&topic).await?;
        Ok((micros, mib))
    }
}

impl Growth {
    fn points(&self) -> Vec<(f64, f64)> {
        self.steps.iter().map(|(count, rounds)| (*count as f64, rounds.median())).collect()
    }

    /// What the last step costs by the unit, beside the one before.
    fn last_step(&self) -> f64 {
        let points = self.points();
        match points.as_slice() {
            [.., (_, before), (_, last)] if !self.total => last / before,
            [.., (a, of_a), (b, of_b), (c, of_c)] => ((of_c - of_b) / (c - b)) / ((of_b - of_a) / (b - a)),
            _ => f64::NAN,
        }
    }
}

fn told(all: &[Growth], options: &Options) -> Result<String> {
    let mut text = "## How cost grows\n\n".to_owned();
    let mut marks = Marks::new();
    for growth in all {
        let points = growth.points();
        let chart =
            Chart { title: growth.title, across: growth.across, up: growth.up, axis: growth.axis, points: &points };
        if options.write {
            text.push_str(&format!("{}\n\n", chart.write(growth.name)?));
        }
        let mut table = Table::new(&[growth.across, growth.up]);
        for (count, rounds) in &growth.steps {
            table.row(vec![count.to_string(), rounds.show(growth.digits)]);
        }
        text.push_str(&format!("{}\n", table.text()));
        let mut last = Rounds::default();
        last.push(growth.last_step());
        let what = format!("{}, by the unit: the last step beside the one before", growth.title);
        marks.at_most(&what, AS_MUCH, "×", &last, 2);
    }
    text.push_str(&format!(
        "{}\nCPU: the proxy's own, all threads, until regions have everything. Partitions: {BATCHES} batches or one for each partition, pipelined by a bare client, requests of up to \
         {PARTITIONS_PER_TOPIC} batches. Regions and records: {MIB} MiB in batches of up to 64 KiB, or of one record, {SPREAD} partitions; one cluster stands for all regions, under other \
         topic names. Connections: {BUSY} clients with one record of 100 bytes in flight, all others idle after one request. Medians over {} rounds (smallest to largest).\n",
        marks.text(),
        options.rounds,
    ));
    Ok(text)
}
