//! Chaos: real Kafka, three brokers a side, a fleet of two proxies, stock producers, and faults drawn by a seed; at the end every record is compared.

mod schedule;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde_json::Value;

use crate::build::build;
use crate::workload::{Running, Transactions};
use crate::{Acks, Cluster, Codec, DelaySpec, Proxy, ProxyConfig, Side, Workload, verify};
use schedule::{Fault, On, Schedule};

const BROKERS: u16 = 3;
const PARTITIONS: i32 = 3;
const PROXIES: [&str; 2] = ["a", "b"];
/// A proxy that says nothing for so long loses its streams to the other one.
const SESSION_TIMEOUT: &str = "6 s";
/// The log's end is asked for about once a second: a lag of zero that has lasted longer was measured afresh.
const STEADY: Duration = Duration::from_millis(2_500);
/// The region is this far away.
const RTT: Duration = Duration::from_millis(20);
/// How long everything may take to be in the region once nothing fails any more; an abandoned transaction alone holds up its partition for a minute.
const PATIENCE: Duration = Duration::from_secs(240);
/// In a long run, the region has to get all that there is so often, while nothing fails and the producers go on.
const MIRRORED_EVERY: Duration = Duration::from_secs(300);
const TOPICS: [&str; 3] = ["orders", "payments", "clicks"];

/// What the command line asks for.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long faults are injected.
    pub length: Duration,
    /// Determines the faults.
    pub seed: u64,
    /// diffluent's binary; `None`: build it.
    pub binary: Option<PathBuf>,
}

struct Chaos {
    eu: Cluster,
    us: Cluster,
    proxies: Vec<Proxy>,
    begun: Instant,
    faults: BTreeMap<&'static str, u64>,
    not_done: u64,
}

/// Runs it; `true` when the region holds every record that the local cluster holds, once and in order.
///
/// # Errors
/// When the clusters can't be started, or the region is not level in time.
pub async fn run(options: &Options) -> Result<bool> {
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => build("release").await?,
    };
    println!("cargo chaos --minutes {} --seed {}", options.length.as_secs_f64() / 60.0, options.seed);
    let (eu, us) = tokio::try_join!(
        Cluster::builder().name("eu").brokers(BROKERS).start(),
        Cluster::builder().name("us").brokers(BROKERS).listener_via(DelaySpec { rtt: RTT, bandwidth: None }).start(),
    )?;
    let replicas = i16::try_from(BROKERS).context("too many brokers")?;
    for topic in TOPICS {
        for cluster in [&eu, &us] {
            cluster.create_topic(topic, PARTITIONS, replicas, &[("min.insync.replicas", "2")]).await?;
        }
    }
    let mut proxies = Vec::new();
    for instance in PROXIES {
        let mut config = ProxyConfig::new("eu", &eu.bootstrap()).region("us", &us.delayed_bootstrap());
        config.extra_proxy = format!("instance = \"{instance}\"");
        config.extra_mirror = format!("session_timeout = \"{SESSION_TIMEOUT}\"");
        config.log = "info,diffluent::mirror=debug".into();
        let proxy = Proxy::start(&binary, config).await?;
        println!("the log of proxy {instance}: {}", proxy.log_path().display());
        proxies.push(proxy);
    }
    let mut chaos = Chaos { eu, us, proxies, begun: Instant::now(), faults: BTreeMap::new(), not_done: 0 };
    let producers = chaos.producers()?;
    let mut mirrored_at = chaos.begun + MIRRORED_EVERY;
    let schedule =
        Schedule::new(options.seed, PROXIES.len() as u64, u64::from(BROKERS), u64::from(PARTITIONS.unsigned_abs()));
    for (quiet, fault) in schedule {
        tokio::time::sleep(quiet).await;
        if chaos.begun.elapsed() >= options.length {
            break;
        }
        if Instant::now() > mirrored_at {
            chaos.wait_mirrored().await?;
            mirrored_at = Instant::now() + MIRRORED_EVERY;
        }
        chaos.say(&fault.to_string());
        *chaos.faults.entry(fault.kind()).or_default() += 1;
        chaos.inject(fault).await.with_context(|| format!("after {fault}"))?;
    }
    chaos.say("nothing fails any more; the producers stop");
    for (what, producer) in producers {
        producer.stop();
        match producer.finish().await {
            Ok(outcome) => chaos.say(&format!("{what}: {} of {} records acknowledged", outcome.acked, outcome.sent)),
            // What counts is what the local log holds.
            Err(error) => chaos.say(&format!("{what}: {error:#}")),
        }
    }
    chaos.wait_level().await?;
    chaos.judge(options).await
}

impl Chaos {
    fn say(&self, what: &str) {
        println!("[{:6.1} s] {what}", self.begun.elapsed().as_secs_f64());
    }

    fn producers(&self) -> Result<Vec<(&'static str, Running)>> {
        // By turns through one proxy and the other.
        let through = |topic: &str, rate: u64, seed: u64| Workload {
            records: u64::MAX,
            rate: Some(rate),
            seed,
            config: vec![("reconnect.backoff.max.ms".into(), "500".into())],
            ..Workload::new(&self.proxies[seed as usize % PROXIES.len()].bootstrap(), topic)
        };
        let past = Workload { bootstrap: self.eu.bootstrap(), ..through("orders", 200, 2) };
        let transactions = Transactions { id: "chaos".into(), records: 40, abort_every: 4 };
        Ok(vec![
            ("idempotent", Workload { idempotent: true, codec: Codec::Lz4, ..through("orders", 1_000, 1) }.start()?),
            ("past the proxy", past.start()?),
            ("acks=1", Workload { acks: Acks::Leader, ..through("clicks", 200, 3) }.start()?),
            ("acks=0", Workload { acks: Acks::None, codec: Codec::Zstd, ..through("clicks", 100, 4) }.start()?),
            ("acks=all", through("payments", 300, 5).start()?),
            ("transactional", Workload { transactions: Some(transactions), ..through("payments", 100, 6) }.start()?),
        ])
    }

    fn cluster(&self, side: On) -> &Cluster {
        match side {
            On::Local => &self.eu,
            On::Region => &self.us,
        }
    }

    /// Injects a fault, and mends it.
    async fn inject(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::KillProxy(proxy, down) => {
                self.proxies[proxy].kill();
                tokio::time::sleep(down).await;
                self.proxies[proxy].restart().await?;
            }
            Fault::PauseProxy(proxy, time) => {
                self.proxies[proxy].signal(Signal::STOP)?;
                tokio::time::sleep(time).await;
                self.proxies[proxy].signal(Signal::CONT)?;
            }
            Fault::StopProxy(proxy, down) => {
                let status = self.proxies[proxy].stop().await?;
                anyhow::ensure!(status.success(), "an orderly stop ended with {status}");
                tokio::time::sleep(down).await;
                self.proxies[proxy].restart().await?;
            }
            Fault::KillBroker(side, broker, down) => {
                self.cluster(side).kill(broker)?;
                tokio::time::sleep(down).await;
                self.cluster(side).restart(broker).await?;
            }
            Fault::PauseBroker(side, broker, time) => {
                self.cluster(side).pause(broker)?;
                tokio::time::sleep(time).await;
                self.cluster(side).resume(broker)?;
            }
            Fault::MoveLeader(side, partition, to) => {
                for topic in TOPICS {
                    // A replica that is not in sync yet can't lead.
                    if let Err(error) = self.cluster(side).move_leader(topic, partition, to).await {
                        self.not_done += 1;
                        self.say(&format!("the leader of {topic} {partition} did not move: {error:#}"));
                    }
                }
            }
            Fault::Cut(time) | Fault::HalfOpen(time) | Fault::Freeze(time) => {
                let line = self.us.delay().context("the region has no line")?;
                match fault {
                    Fault::Cut(_) => line.cut().await,
                    Fault::HalfOpen(_) => line.half_open(),
                    _ => line.freeze(),
                }
                tokio::time::sleep(time).await;
                line.restore().await;
            }
            Fault::Reset => self.us.delay().context("the region has no line")?.reset(),
            Fault::Slow(rtt, time) => {
                let line = self.us.delay().context("the region has no line")?;
                line.set_rtt(rtt);
                tokio::time::sleep(time).await;
                line.set_rtt(RTT);
            }
        }
        Ok(())
    }

    /// Waits until the region has what the local log has now. It is never level while producers go on.
    async fn wait_mirrored(&self) -> Result<()> {
        let since = Instant::now();
        let mut ends = BTreeMap::new();
        for topic in TOPICS {
            ends.insert(topic, self.eu.admin().end_offsets(topic).await?);
        }
        loop {
            let mut missing: i64 = 0;
            for (topic, ends) in &ends {
                let next = self.next_source_offsets(topic).await;
                missing += (0..).zip(ends).map(|(at, end)| (end - next.get(&at).unwrap_or(&0)).max(0)).sum::<i64>();
            }
            if missing == 0 {
                break;
            }
            if since.elapsed() > PATIENCE {
                bail!("after {PATIENCE:?} the region lacks {missing} offsets of what there was\n{}", self.told().await);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.say(&format!("the region has what there was {:.1} s ago", since.elapsed().as_secs_f64()));
        Ok(())
    }

    /// What the proxies show of a topic, by partition: the furthest of them.
    async fn next_source_offsets(&self, topic: &str) -> BTreeMap<i64, i64> {
        let mut next = BTreeMap::new();
        for proxy in &self.proxies {
            let shown: Value = (proxy.get(&format!("/lag/us/{topic}")).await.ok())
                .and_then(|text| serde_json::from_str(&text).ok())
                .unwrap_or_default();
            for partition in shown["partitions"].as_array().into_iter().flatten() {
                let numbers = ["partition", "next_source_offset"].map(|name| partition[name].as_i64().unwrap_or(-1));
                let furthest = next.entry(numbers[0]).or_insert(numbers[1]);
                *furthest = numbers[1].max(*furthest);
            }
        }
        next
    }

    /// What the proxies say of themselves, and the ends of their logs.
    async fn told(&self) -> String {
        let mut told = String::new();
        for proxy in &self.proxies {
            told += &proxy.lag().await.map_or_else(|error| format!("{error:#}"), |lag| lag.to_string());
            told += "\n";
            told += &crate::guard::tail(proxy.log_path());
        }
        told
    }

    /// Waits until the region lacks nothing, once the producers have stopped.
    async fn wait_level(&self) -> Result<()> {
        let since = Instant::now();
        let mut level_since = None;
        loop {
            let (streams, behind) = self.shown().await;
            if (streams, behind) != (TOPICS.len() as u64 * PARTITIONS.unsigned_abs() as u64, 0) {
                level_since = None;
            } else if level_since.get_or_insert_with(Instant::now).elapsed() >= STEADY {
                break;
            }
            if since.elapsed() > PATIENCE {
                let told = self.told().await;
                bail!("the region is not level: {streams} streams are shown, {behind} records behind\n{told}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.say(&format!("the region is level after {:.1} s", since.elapsed().as_secs_f64()));
        Ok(())
    }

    /// How many streams the proxies show as their own, and how many records these are behind.
    async fn shown(&self) -> (u64, u64) {
        let (mut streams, mut behind) = (0, 0);
        for proxy in &self.proxies {
            let lag = proxy.region_lag("us").await.unwrap_or_default();
            streams += lag["streams"].as_u64().unwrap_or(0);
            behind += lag["lag_records"].as_u64().unwrap_or(u64::from(u32::MAX));
        }
        (streams, behind)
    }

    /// Compares every record, looks at the log, and says what came of it.
    async fn judge(mut self, options: &Options) -> Result<bool> {
        let mut clean = true;
        for topic in TOPICS {
            let sides = (Side::new("eu", &self.eu.bootstrap()), Side::new("us", &self.us.bootstrap()));
            let report = verify::compare(&sides.0, &sides.1, topic).await?;
            clean &= report.is_clean();
            println!("{report}");
        }
        let mut told: BTreeMap<String, u64> = BTreeMap::new();
        for name in ["lost_records", "diverged_records", "skipped_records", "out_of_row_batches"] {
            let name = format!("diffluent_{name}_total");
            for proxy in &self.proxies {
                *told.entry(name.clone()).or_default() += proxy.metric(&name).await? as u64;
            }
        }
        for proxy in &mut self.proxies {
            let status = proxy.stop().await?;
            let log = proxy.log_text()?;
            for line in log.lines().filter(|line| line.contains(" ERROR ") || line.contains("panicked at")) {
                println!("{line}");
            }
            if !status.success() || log.contains("panicked at") {
                println!("diffluent ended with {status}");
                clean = false;
            }
        }
        println!("\nSince their last start the proxies counted: {told:?}");
        let faults: u64 = self.faults.values().sum();
        println!("{faults} faults ({} leaders did not move): {:?}", self.not_done, self.faults);
        let minutes = options.length.as_secs_f64() / 60.0;
        if clean {
            println!("Nothing is lost, duplicated or out of order.");
        } else {
            println!("SOMETHING IS WRONG. Again: cargo chaos --minutes {minutes} --seed {}", options.seed);
            for proxy in &self.proxies {
                println!("{}:\n{}", proxy.log_path().display(), crate::guard::tail(proxy.log_path()));
            }
            bail!("the region differs from the local cluster");
        }
        Ok(clean)
    }
}
