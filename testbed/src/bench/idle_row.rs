//! What is used while nothing happens: many streams, to one region and to three; many client connections; and how soon all is there after a start.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use kafka_protocol::messages::ApiVersionsRequest;

use crate::bench::mirrored::until_mirrored;
use crate::bench::probe::Probe;
use crate::bench::process::connections_allowed;
use crate::bench::table::{Marks, Rounds, Table};
use crate::bench::{Options, raw, say};
use crate::call::Call;
use crate::kafka::{Cluster, ClusterBuilder};
use crate::proxy::{Proxy, ProxyConfig, RegionConfig, proc_cpu_seconds, proc_rss_bytes};

const PARTITIONS_PER_TOPIC: i32 = 100;
const REGIONS: [usize; 2] = [1, 3];
const CONNECTIONS: u64 = 10_000;
/// What a start has brought about is over by then.
const SETTLE: Duration = Duration::from_secs(15);
const DEADLINE: Duration = Duration::from_secs(300);
const ACKS_ALL: i16 = -1;

/// The figures of a number of regions, round by round.
#[derive(Default)]
struct Figures {
    core_percent: Rounds,
    resident_mib: Rounds,
    answer_millis: Rounds,
    mirrored_millis: Rounds,
}

struct Site<'a> {
    binary: &'a Path,
    local: Cluster,
    regions: Vec<Cluster>,
    topics: Vec<String>,
}

/// Measures the row.
///
/// # Errors
/// When something does not start or answer.
pub(super) async fn measure(binary: &Path, options: &Options) -> Result<String> {
    let topics = i32::try_from(options.partitions).context("too many partitions")? / PARTITIONS_PER_TOPIC;
    let topics: Vec<String> = (0..topics.max(1)).map(|number| format!("idle-{number:03}")).collect();
    let most = REGIONS.into_iter().max().unwrap_or(1);
    say(&format!("starting {} clusters", most + 1));
    let cluster = |name: String| -> ClusterBuilder {
        Cluster::builder()
            .name(&name)
            .heap_mib(2048)
            .config("controller.quorum.election.timeout.ms", "10000")
            .config("broker.session.timeout.ms", "60000")
    };
    let local = cluster("local".to_owned()).start().await?;
    let mut regions = Vec::new();
    for number in 0..most {
        regions.push(cluster(format!("region-{number}")).start().await?);
    }
    let site = Site { binary, local, regions, topics };
    site.fill().await?;
    let mut rows = Vec::new();
    for regions in REGIONS {
        let mut figures = Figures::default();
        site.streams(regions, options, &mut figures).await?;
        rows.push((regions, figures));
    }
    let (connections, each) = site.connections(options).await?;
    Ok(told(&rows, connections, &each, options))
}

impl Site<'_> {
    fn partitions(&self) -> usize {
        self.topics.len() * usize::try_from(PARTITIONS_PER_TOPIC).unwrap_or(0)
    }

    /// Makes the topics in the local cluster, with a record in each partition.
    async fn fill(&self) -> Result<()> {
        say(&format!("making {} partitions", self.partitions()));
        for topic in &self.topics {
            self.local.create_topic(topic, PARTITIONS_PER_TOPIC, 1, &[]).await?;
        }
        let (batch, _) = raw::batch(1)?;
        for topic in &self.topics {
            let leader = raw::leader(&self.local.bootstrap(), topic, 0).await?;
            let end = Instant::now() + DEADLINE;
            // A leader that metadata already names may not have taken office.
            while let Err(error) = raw::pipeline(&leader, topic, PARTITIONS_PER_TOPIC, ACKS_ALL, batch.clone(), 1).await
            {
                if Instant::now() > end {
                    return Err(error);
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
    }

    fn config(&self, regions: usize) -> ProxyConfig {
        let mut config = ProxyConfig::new("eu", &self.local.bootstrap());
        for (number, region) in self.regions.iter().take(regions).enumerate() {
            let mut to = RegionConfig::new(&format!("r{number}"), &region.bootstrap());
            to.topics = vec!["idle-.*".to_owned()];
            config = config.region_with(to);
        }
        config
    }

    async fn streams(&self, regions: usize, options: &Options, figures: &mut Figures) -> Result<()> {
        let first = Instant::now();
        let mut proxy = Proxy::start(self.binary, self.config(regions)).await?;
        // Before the regions have the topics, nothing is behind there.
        for topic in &self.topics {
            let ends = self.local.admin().end_offsets(topic).await?;
            for region in self.regions.iter().take(regions) {
                until_mirrored(&ends, region, topic).await?;
            }
        }
        proxy.wait_lag_zero(DEADLINE).await?;
        say(&format!(
            "{regions} regions: all topics made and mirrored {:.0} s after the first start",
            first.elapsed().as_secs_f64()
        ));
        proxy.stop().await?;
        // A minute of it counts; what begins a start does not.
        let length = options.length * 6;
        for round in 0..options.rounds {
            let (answered, mirrored) = self.start(&mut proxy, round).await?;
            proxy.wait_lag_zero(DEADLINE).await?;
            tokio::time::sleep(SETTLE).await;
            let pid = proxy.pid()?;
            let (begin, cpu) = (Instant::now(), proc_cpu_seconds(pid)?);
            tokio::time::sleep(length).await;
            let percent = (proc_cpu_seconds(pid)? - cpu) / begin.elapsed().as_secs_f64() * 100.0;
            let resident = proc_rss_bytes(pid)? as f64 / f64::from(1 << 20);
            say(&format!(
                "{regions} regions, round {}: {percent:.2} % of a core, {resident:.0} MiB; first answer after {:.0} ms, first record mirrored after {:.0} ms",
                round + 1,
                answered.as_secs_f64() * 1e3,
                mirrored.as_secs_f64() * 1e3,
            ));
            figures.core_percent.push(percent);
            figures.resident_mib.push(resident);
            figures.answer_millis.push(answered.as_secs_f64() * 1e3);
            figures.mirrored_millis.push(mirrored.as_secs_f64() * 1e3);
            proxy.stop().await?;
        }
        Ok(())
    }

    /// Starts it; how long until a client has an answer, and until the first record that it produces then is in the last region.
    async fn start(&self, proxy: &mut Proxy, round: usize) -> Result<(Duration, Duration)> {
        let topic = self.topics.get(round % self.topics.len()).context("no topics")?.clone();
        let regions = self.regions.len();
        let region = self.regions.first().filter(|_| regions > 0).context("no region")?.bootstrap();
        let before = region_probe(region, topic.clone()).await?;
        let begin = Instant::now();
        proxy.spawn()?;
        let bootstrap = proxy.bootstrap();
        let times = tokio::task::spawn_blocking(move || {
            let mut consumer = before;
            let mut producer = loop {
                match Probe::connect(&bootstrap, &topic) {
                    Ok(probe) => break probe,
                    Err(error) if begin.elapsed() > DEADLINE => return Err(error),
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            };
            let answered = begin.elapsed();
            let value = Bytes::from(format!("first-{round}-{begin:?}"));
            producer.produce(value.clone())?;
            loop {
                if consumer.fetch(Duration::from_millis(500))?.contains(&value) {
                    return anyhow::Ok((answered, begin.elapsed()));
                }
                if begin.elapsed() > DEADLINE {
                    bail!("the first record is not mirrored after {DEADLINE:?}");
                }
            }
        });
        times.await.context("the probe panicked")?
    }

    /// Opens idle connections of clients that have said something once; how many, and KiB of each.
    async fn connections(&self, options: &Options) -> Result<(u64, Rounds)> {
        let count = connections_allowed(CONNECTIONS);
        let mut each = Rounds::default();
        for round in 0..options.rounds {
            let mut proxy = Proxy::start(self.binary, self.config(0)).await?;
            let pid = proxy.pid()?;
            let (batch, _) = raw::batch(1000)?;
            let topic = self.topics.first().context("no topics")?;
            let leader = raw::leader(&proxy.bootstrap(), topic, 0).await?;
            // What the first few bring about is there for all.
            raw::pipeline(&leader, topic, 1, ACKS_ALL, batch.clone(), 100).await?;
            let before = proc_rss_bytes(pid)?;
            let mut open = Vec::new();
            for _ in 0..count {
                let mut call = Call::connect(&leader).await?;
                call.call(&ApiVersionsRequest::default(), 0).await?;
                open.push(call);
            }
            tokio::time::sleep(SETTLE).await;
            let kib = proc_rss_bytes(pid)?.saturating_sub(before) as f64 / 1024.0 / count as f64;
            say(&format!("round {}: {count} idle connections: {kib:.1} KiB each", round + 1));
            each.push(kib);
            drop(open);
            proxy.stop().await?;
        }
        Ok((count, each))
    }
}

async fn region_probe(bootstrap: String, topic: String) -> Result<Probe> {
    tokio::task::spawn_blocking(move || Probe::connect(&bootstrap, &topic)).await.context("the probe panicked")?
}

fn told(rows: &[(usize, Figures)], connections: u64, each: &Rounds, options: &Options) -> String {
    let mut table = Table::new(&[
        "idle",
        "% of a core",
        "resident MiB",
        "start to a client's first answer, ms",
        "start to the first record mirrored, ms",
    ]);
    let mut marks = Marks::new();
    for (regions, figures) in rows {
        let what =
            format!("{} partitions, {regions} region{}", options.partitions, if *regions == 1 { "" } else { "s" });
        table.row(vec![
            what.clone(),
            figures.core_percent.show(2),
            figures.resident_mib.show(0),
            figures.answer_millis.show(0),
            figures.mirrored_millis.show(0),
        ]);
        marks.at_most(
            &format!("{what}: of a core"),
            if *regions == 1 { 1.0 } else { 0.5 },
            "%",
            &figures.core_percent,
            2,
        );
        marks.at_most(
            &format!("{what}: resident"),
            if *regions == 1 { 150.0 } else { 100.0 },
            "MiB",
            &figures.resident_mib,
            0,
        );
        marks.at_most(&format!("{what}: first answer"), 1000.0, "ms", &figures.answer_millis, 0);
        marks.at_most(&format!("{what}: first record mirrored"), 2000.0, "ms", &figures.mirrored_millis, 0);
    }
    marks.at_most(&format!("{connections} idle connections, each"), 15.0, "KiB", each, 1);
    format!(
        "## Idle\n\n{}\n{connections} idle client connections, each of which has asked once: {} KiB each (as many of {CONNECTIONS} as the limit of file descriptors allows here).\n\n{}\n\
         Every partition is a stream to each region and holds records. Processor time of all threads over {} s; resident memory at the end of that. A start is one with its progress \
         committed: from the process's start to the answer to a client that tries every 2 ms, and until the first record that this client produces is in the region. \
         Medians over {} rounds (smallest to largest).\n",
        table.text(),
        each.show(1),
        marks.text(),
        (options.length * 6).as_secs(),
        options.rounds,
    )
}
