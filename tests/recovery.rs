//! Leaders move, brokers come and go, and the proxy itself comes back elsewhere: clients recover behind it as fast as without it.
//!
//! The same clients work on twins, one set directly and one through the proxy, while everything happens to both at once; what is compared is the longest
//! time that each stood still.

mod common;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use common::{DIFFLUENT, PATIENCE};
use diffluent_testbed::guard::{Guarded, TempDir};
use diffluent_testbed::workload::Running;
use diffluent_testbed::{Cluster, Proxy, ProxyConfig, Workload, sockets};
use rdkafka::Message;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{Consumer, StreamConsumer};
use tokio::task::JoinHandle;

/// The brokers' own address, which no client behind the proxy may dial.
const DIRECT_HOST: &str = "127.66.77.88";
const VERIFIABLE_CONSUMER: &str = "org.apache.kafka.tools.VerifiableConsumer";

/// A Java client that reaches no broker goes back to its bootstrap servers when it happens to look while it backs off from all of them (KIP-899), and
/// surely after this time without metadata (KIP-1102), which is five minutes when nothing is said.
const JAVA_CONFIG: &str = "metadata.recovery.rebootstrap.trigger.ms=5000\n";

/// Records a second of the partition that moves, and of the one that stays, whose records are so large that answers with both are streamed.
const RATE: u64 = 100;
const LARGE_RATE: u64 = 20;
const LARGE_BYTES: usize = 100_000;

/// The partition that moves from broker to broker, and the one that stays where it is.
const MOVING: i32 = 0;
const STAYING: i32 = 1;

/// How much longer clients may stand still behind the proxy. A client's own waits (back-off, metadata) are in the hundreds of milliseconds, and on
/// two shared cores they vary by themselves.
const RATIO_MAX: u32 = 3;
const GRACE: Duration = Duration::from_secs(3);

/// When records of the moving partition have come.
#[derive(Debug)]
struct Arrivals {
    last: Instant,
    longest: Duration,
    count: u64,
}

/// Clients of one side.
struct Line {
    name: &'static str,
    topic: String,
    producer: Running,
    /// Producers of large records to the partition that stays, and their like.
    large: Running,
    arrivals: Arc<Mutex<Arrivals>>,
    reader: JoinHandle<Result<()>>,
    java: Guarded,
    java_log: PathBuf,
    java_read: usize,
}

/// How long the clients of a side have stood still.
#[derive(Clone, Copy, Debug)]
struct Stood {
    producer: Duration,
    consumer: Duration,
    java: Duration,
}

impl Line {
    async fn start(name: &'static str, bootstrap: &str, eu: &Cluster, dir: &TempDir) -> Result<Self> {
        let topic = format!("moves-{name}");
        eu.create_topic(&topic, 2, 2, &[]).await?;
        for partition in [MOVING, STAYING] {
            eu.move_leader(&topic, partition, 1).await?;
        }
        let steady = Workload { records: u64::MAX, idempotent: true, ..Workload::new(bootstrap, &topic) };
        let large =
            Workload { rate: Some(LARGE_RATE), value_bytes: LARGE_BYTES, partition: Some(STAYING), ..steady.clone() };
        let producer = Workload { rate: Some(RATE), partition: Some(MOVING), ..steady }.start()?;
        let large = large.start()?;

        let consumer: StreamConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("group.id", format!("librdkafka-{name}"))
            .set("auto.offset.reset", "earliest")
            .create()?;
        consumer.subscribe(&[&topic])?;
        let arrivals = Arc::new(Mutex::new(Arrivals { last: Instant::now(), longest: Duration::ZERO, count: 0 }));
        let noted = Arc::clone(&arrivals);
        let reader = tokio::spawn(async move {
            loop {
                // Trouble with a connection is told here, and healed by the client.
                let Ok(message) = consumer.recv().await else { continue };
                if message.partition() == MOVING {
                    let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
                    let gap = noted.last.elapsed();
                    noted.longest = noted.longest.max(gap);
                    noted.last = Instant::now();
                    noted.count += 1;
                }
            }
        });

        let java_log = dir.path().join(format!("java-{name}.log"));
        let java_config = dir.path().join(format!("java-{name}.properties"));
        std::fs::write(&java_config, JAVA_CONFIG)?;
        let mut command = eu.kafka().java(VERIFIABLE_CONSUMER, 256);
        let group = format!("java-{name}");
        command.args(["--bootstrap-server", bootstrap, "--topic", &topic, "--group-id", &group]);
        command.args(["--reset-policy", "earliest", "--command-config"]).arg(java_config);
        let java = Guarded::spawn("a Java consumer", command, &java_log)?;
        Ok(Self { name, topic, producer, large, arrivals, reader, java, java_log, java_read: 0 })
    }

    /// When the Java consumer's polls brought records of the moving partition (milliseconds since 1970), since the last call that took them.
    fn java_arrivals(&self) -> Result<Vec<i64>> {
        let text = std::fs::read_to_string(&self.java_log)?;
        let mut times = Vec::new();
        for line in text.lines().filter(|line| line.contains("\"records_consumed\"")) {
            let Ok(event) = serde_json::from_str::<serde_json::Value>(line) else { continue };
            let of_moving = event["partitions"].as_array().is_some_and(|partitions| {
                partitions.iter().any(|one| one["partition"] == MOVING && one["count"].as_i64() > Some(0))
            });
            if of_moving {
                times.push(event["timestamp"].as_i64().context("an event without a time")?);
            }
        }
        Ok(times)
    }

    fn progress(&self) -> Result<[u64; 3]> {
        let consumed = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).count;
        Ok([self.producer.acked(), consumed, u64::try_from(self.java_arrivals()?.len())?])
    }

    /// Waits until all clients have moved on by that much since `before`.
    async fn until_moved_on(&self, before: [u64; 3], by: [u64; 3]) -> Result<()> {
        let since = Instant::now();
        loop {
            let now = self.progress()?;
            if before.iter().zip(by).zip(now).all(|((before, by), now)| now >= before + by) {
                return Ok(());
            }
            if since.elapsed() > PATIENCE {
                let java = diffluent_testbed::guard::tail(&self.java_log);
                bail!("{}: clients stand still: {now:?} after {before:?}\n{java}", self.name);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Forgets how long the clients have stood still.
    fn begin(&mut self) -> Result<()> {
        self.producer.take_latency();
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).longest = Duration::ZERO;
        self.java_read = self.java_arrivals()?.len().saturating_sub(1);
        Ok(())
    }

    fn stood(&self) -> Result<Stood> {
        let java = self.java_arrivals()?;
        let gaps = java.get(self.java_read..).unwrap_or_default().windows(2);
        let longest = gaps.filter_map(|pair| if let [a, b] = pair { Some((b - a).max(0)) } else { None }).max();
        Ok(Stood {
            producer: Duration::from_micros(self.producer.take_latency().max()),
            consumer: self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).longest,
            java: Duration::from_millis(u64::try_from(longest.unwrap_or(0))?),
        })
    }

    async fn end(self) -> Result<()> {
        self.reader.abort();
        for producer in [self.producer, self.large] {
            producer.stop();
            let outcome = producer.finish().await?;
            ensure!(outcome.failed == 0, "{}: {:?}", self.name, outcome.errors);
        }
        drop(self.java);
        Ok(())
    }
}

/// Something happens to both sides at once; then both have to move on, and how long they stood still is compared.
async fn compare(what: &str, lines: &mut [Line; 2], happens: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
    let mut before = Vec::new();
    for line in lines.iter_mut() {
        line.begin()?;
        before.push(line.progress()?);
    }
    happens().await.with_context(|| what.to_owned())?;
    for (line, before) in lines.iter().zip(&before) {
        // Whatever happened in between, each goes on for a second or two behind it.
        let [acked, consumed, polled] = line.progress()?;
        line.until_moved_on([acked, consumed, polled], [2 * RATE, 2 * RATE, 3]).await.context(what.to_owned())?;
        line.until_moved_on(*before, [2 * RATE, 2 * RATE, 3]).await?;
    }
    let [direct, through] = &*lines;
    let (direct, through) = (direct.stood()?, through.stood()?);
    println!("{what:<44} directly {direct:?}\n{:<44} through  {through:?}", "");
    for (client, direct, through) in [
        ("producer", direct.producer, through.producer),
        ("consumer", direct.consumer, through.consumer),
        ("Java consumer", direct.java, through.java),
    ] {
        ensure!(
            through <= direct * RATIO_MAX + GRACE,
            "{what}: the {client} stood still for {through:?} behind the proxy, and for {direct:?} without it"
        );
    }
    Ok(())
}

async fn move_both(eu: &Cluster, topics: &[String; 2], to: i32) -> Result<()> {
    let [direct, through] = topics;
    tokio::try_join!(eu.move_leader(direct, MOVING, to), eu.move_leader(through, MOVING, to))?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_recover_behind_the_proxy_as_fast_as_without_it() -> Result<()> {
    let mut eu = Cluster::builder().name("eu").brokers(3).host(DIRECT_HOST).start().await?;
    let mut proxy = Proxy::start(DIFFLUENT, ProxyConfig::new("eu", &eu.bootstrap())).await?;
    let dir = TempDir::new("diffluent-recovery-")?;
    let mut lines = [
        Line::start("direct", &eu.bootstrap(), &eu, &dir).await?,
        Line::start("through", &proxy.bootstrap(), &eu, &dir).await?,
    ];
    for line in &lines {
        line.until_moved_on([0; 3], [RATE, RATE, 3]).await.context("the start")?;
    }
    let topics = [lines[0].topic.clone(), lines[1].topic.clone()];

    compare("a leader moves", &mut lines, async || move_both(&eu, &topics, 2).await).await?;
    compare("its broker is killed", &mut lines, async || eu.kill(2)).await?;
    compare("and comes back, and leads again", &mut lines, async || {
        eu.restart(2).await?;
        move_both(&eu, &topics, 2).await
    })
    .await?;
    compare("it is stopped in order", &mut lines, async || eu.stop(2).await).await?;
    eu.restart(2).await?;
    let added = eu.add_broker().await?;
    compare("a broker that was added leads", &mut lines, async || move_both(&eu, &topics, added).await).await?;
    compare("it leads no more", &mut lines, async || move_both(&eu, &topics, 1).await).await?;
    compare("it is removed", &mut lines, async || eu.stop(added).await).await?;

    // All this time, nobody has gone past the proxy.
    let dialed = sockets::peers(lines[1].java.pid())?;
    ensure!(!dialed.is_empty(), "the Java client has no connection");
    ensure!(!dialed.iter().any(|peer| peer.ip().to_string() == DIRECT_HOST), "it has dialed a broker: {dialed:?}");

    // KIP-899: no broker's port is what it was; clients find the others through their bootstrap servers.
    // Claimed to the end, so that nobody else is there.
    let _old = proxy.move_broker_ports()?;
    let before = lines[1].progress()?;
    proxy.restart().await?;
    lines[1].until_moved_on(before, [5 * RATE, 5 * RATE, 0]).await.context("other ports")?;
    // The Java client may still be busy with what it had: what counts is what it gets once it has gone back. librdkafka's group is not asked any
    // more: that client (2.12.1) dials a coordinator that has kept its id at the address where it first was, and loses its partitions when the session
    // ends (docs/transparency.md).
    let since = Instant::now();
    loop {
        let java = std::fs::read_to_string(&lines[1].java_log)?;
        if java.contains("Rebootstrapping with") {
            break;
        }
        ensure!(since.elapsed() < PATIENCE, "the Java client has not gone back to its bootstrap servers: {java}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let before = lines[1].progress()?;
    lines[1].until_moved_on(before, [RATE, 0, 3]).await.context("behind the bootstrap servers")?;

    for line in lines {
        line.end().await?;
    }
    proxy.finish().await
}
