//! What Kafka's own Java clients do beyond requests and answers, behind the proxy as without it: they learn of moved leaders in Fetch answers (KIP-951), go back
//! to their bootstrap servers when brokers fall silent (KIP-1102), and push telemetry (KIP-714). That they go back when brokers are gone (KIP-899)
//! is in `tests/recovery.rs`.

mod common;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use common::{DIFFLUENT, PATIENCE};
use diffluent_testbed::certificates::write;
use diffluent_testbed::guard::{Guarded, TempDir};
use diffluent_testbed::kafka::{Kafka, Telemetry};
use diffluent_testbed::{Cluster, KAFKA, Proxy, ProxyConfig, Tools, Workload, sockets};
use tokio::net::TcpListener;

const DIRECT_HOST: &str = "127.66.77.88";
const VERIFIABLE_CONSUMER: &str = "org.apache.kafka.tools.VerifiableConsumer";
const VERIFIABLE_PRODUCER: &str = "org.apache.kafka.tools.VerifiableProducer";
/// An answer up to here is held, and its addresses are rewritten; a longer one is streamed.
const HELD_BYTES_MAX: usize = 32 << 10;
const LARGE_BYTES: usize = 60_000;
/// NOT_LEADER_OR_FOLLOWER, and FENCED_LEADER_EPOCH where the client still names the epoch before.
const LED_BY_ANOTHER: [&str; 2] = ["errorCode=6,", "errorCode=74,"];

struct World {
    eu: Cluster,
    proxy: Proxy,
    telemetry: Telemetry,
    dir: TempDir,
}

#[tokio::test(flavor = "multi_thread")]
async fn java_clients_do_behind_the_proxy_what_they_do_without_it() -> Result<()> {
    let telemetry = Telemetry::compile(&Kafka::fetch(KAFKA, &[]).await?)?;
    let eu = Cluster::builder().name("eu").brokers(2).host(DIRECT_HOST).telemetry(&telemetry).start().await?;
    let proxy = Proxy::start(DIFFLUENT, ProxyConfig::new("eu", &eu.bootstrap())).await?;
    let mut world = World { eu, proxy, telemetry, dir: TempDir::new("diffluent-java-")? };
    clients_push_their_telemetry(&world).await.context("telemetry")?;
    a_fetching_client_learns_of_moved_leaders_from_small_and_from_large_answers(&world).await.context("leaders")?;
    a_client_whose_brokers_fall_silent_goes_back_to_its_bootstrap_servers(&mut world).await.context("silence")?;
    world.proxy.finish().await
}

/// A Java consumer that says a lot; killed when it is dropped.
struct Consumer {
    java: Guarded,
    log: PathBuf,
}

impl Consumer {
    fn start(world: &World, topic: &str, settings: &str) -> Result<Self> {
        let name = format!("consumer-of-{topic}");
        let config = write(world.dir.path(), &format!("{name}.properties"), settings)?;
        let log = world.dir.path().join(format!("{name}.log"));
        let kafka = world.eu.kafka().clone();
        let kafka = kafka.with_option("-Dorg.slf4j.simpleLogger.log.org.apache.kafka.clients.NetworkClient=debug");
        let mut command = kafka.java(VERIFIABLE_CONSUMER, 256);
        command.args(["--bootstrap-server", &world.proxy.bootstrap(), "--topic", topic, "--group-id", &name]);
        command.args(["--reset-policy", "latest", "--command-config"]).arg(config);
        let java = Guarded::spawn("a Java consumer", command, &log)?;
        Ok(Self { java, log })
    }

    fn said(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.log)?)
    }

    /// How often records of this partition have come.
    fn polled(&self, partition: i32) -> Result<usize> {
        let of_partition = format!("\"partition\":{partition},");
        let said = self.said()?;
        let polls = said.lines().filter(|line| line.contains("\"records_consumed\""));
        Ok(polls.filter(|line| line.contains(&of_partition)).count())
    }

    async fn until_more(&self, partition: i32) -> Result<()> {
        let (before, since) = (self.polled(partition)?, Instant::now());
        while self.polled(partition)? <= before {
            ensure!(since.elapsed() < PATIENCE, "partition {partition} stands still: {}", self.java.log_tail());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }
}

async fn a_fetching_client_learns_of_moved_leaders_from_small_and_from_large_answers(world: &World) -> Result<()> {
    const TOPIC: &str = "moves";
    /// Moves from broker to broker, with little in it.
    const MOVING: i32 = 0;
    /// Stays at broker 1; each record makes an answer large.
    const STAYING: i32 = 1;
    const MOVES_MAX: usize = 30;
    world.eu.create_topic(TOPIC, 2, 2, &[]).await?;
    for partition in [MOVING, STAYING] {
        world.eu.move_leader(TOPIC, partition, 1).await?;
    }
    let load = Workload { records: u64::MAX, ..Workload::new(&world.eu.bootstrap(), TOPIC) };
    let little = Workload { rate: Some(20), partition: Some(MOVING), ..load.clone() }.start()?;
    let large = Workload { rate: Some(50), value_bytes: LARGE_BYTES, partition: Some(STAYING), ..load }.start()?;
    // An answer waits for half a second of records, or for a leader that moves: then it has both.
    let consumer = Consumer::start(world, TOPIC, "fetch.min.bytes=10000000\nfetch.max.wait.ms=500\n")?;
    for partition in [MOVING, STAYING] {
        consumer.until_more(partition).await?;
    }
    let mut seen = BTreeSet::new();
    for turn in 0..MOVES_MAX {
        // Away from the large one, and back: an answer of broker 2 is always small.
        world.eu.move_leader(TOPIC, MOVING, if turn % 2 == 0 { 2 } else { 1 }).await?;
        consumer.until_more(MOVING).await?;
        for line in consumer.said()?.lines().filter(|line| tells_of_a_move(line)) {
            seen.insert(form(line, world)?);
        }
        if turn % 2 == 1 && seen.len() == 2 {
            break;
        }
    }
    ensure!(seen == BTreeSet::from([Form::Rewritten, Form::Blanked]), "only {seen:?}: {}", consumer.java.log_tail());
    let dialed = sockets::peers(consumer.java.pid())?;
    ensure!(!dialed.is_empty(), "the client has no connection");
    ensure!(!dialed.iter().any(|peer| peer.ip().to_string() == DIRECT_HOST), "it has dialed a broker: {dialed:?}");
    for producer in [little, large] {
        producer.stop();
        ensure!(producer.finish().await?.failed == 0, "a producer failed");
    }
    Ok(())
}

/// An answer to Fetch, as the client's log has it, that names a partition's new leader.
fn tells_of_a_move(line: &str) -> bool {
    line.contains("Received FETCH response")
        && line.contains("nodeEndpoints=")
        && LED_BY_ANOTHER.iter().any(|code| line.contains(code))
        && line.split("currentLeader=LeaderIdAndEpoch(leaderId=").skip(1).any(|leader| !leader.starts_with('-'))
}

/// What has become of the endpoints in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    Rewritten,
    Blanked,
}

/// How the client has read an answer that tells of a move.
fn form(line: &str, world: &World) -> Result<Form> {
    let records =
        line.split("MemoryRecords(size=").skip(1).filter_map(|rest| rest.split_once(',')?.0.parse::<usize>().ok());
    let bytes: usize = records.sum();
    let endpoints = line.rsplit_once("nodeEndpoints=[").context("no endpoints")?.1;
    if endpoints.starts_with(']') {
        ensure!(
            bytes > HELD_BYTES_MAX - 1024,
            "an answer with {bytes} bytes of records has lost its endpoints: {line}"
        );
        return Ok(Form::Blanked);
    }
    let port = endpoints.split_once("port=").and_then(|(_, port)| port.split_once([',', ')'])?.0.parse::<u16>().ok());
    let ours = port.is_some_and(|port| world.proxy.broker_ports().contains(&port));
    ensure!(ours && !endpoints.contains(DIRECT_HOST), "an endpoint is not the proxy's: {line}");
    ensure!(bytes <= HELD_BYTES_MAX, "an answer with {bytes} bytes of records was held: {line}");
    Ok(Form::Rewritten)
}

async fn a_client_whose_brokers_fall_silent_goes_back_to_its_bootstrap_servers(world: &mut World) -> Result<()> {
    const TOPIC: &str = "silence";
    world.eu.create_topic(TOPIC, 1, 1, &[]).await?;
    let load = Workload { records: u64::MAX, rate: Some(20), ..Workload::new(&world.eu.bootstrap(), TOPIC) }.start()?;
    // Far less than a request may take (30 s): it is this, and no lost request, that brings the client back.
    let consumer =
        Consumer::start(world, TOPIC, "metadata.recovery.rebootstrap.trigger.ms=3000\nmetadata.max.age.ms=2000\n")?;
    consumer.until_more(0).await?;
    let went_back = |said: &str| said.matches("Rebootstrapping with").count();
    ensure!(went_back(&consumer.said()?) == 0, "it goes back without need");
    world.proxy.kill();
    let old = world.proxy.move_broker_ports()?;
    // What was a broker's port takes connections, and nothing ever comes back.
    let mut silent = Vec::new();
    for port in old.first()..=old.last() {
        silent.push(TcpListener::bind(("127.0.0.1", port)).await?);
    }
    world.proxy.restart().await?;
    let since = Instant::now();
    consumer.until_more(0).await?;
    let said = consumer.said()?;
    ensure!(went_back(&said) > 0, "{said}");
    println!("records came again {:?} after the proxy was back", since.elapsed());
    load.stop();
    ensure!(load.finish().await?.failed == 0, "a producer failed");
    Ok(())
}

async fn clients_push_their_telemetry(world: &World) -> Result<()> {
    const TOPIC: &str = "telemetry";
    world.eu.create_topic(TOPIC, 1, 1, &[]).await?;
    let (direct, through) =
        (Tools::new(world.eu.kafka(), &world.eu.bootstrap()), Tools::new(world.eu.kafka(), &world.proxy.bootstrap()));
    #[rustfmt::skip]
    let subscribe = [
        "--alter", "--name", "everything", "--metrics", "org.apache.kafka.producer.", "--interval", "1000",
    ];
    through.run("org.apache.kafka.tools.ClientMetricsCommand", &subscribe, "").await?;
    let mut pushed = Vec::new();
    for (tools, name) in [(direct, "direct"), (through, "through")] {
        let config = write(world.dir.path(), &format!("{name}.properties"), &format!("client.id={name}\n"))?;
        let tools = tools.config(&config);
        let since = Instant::now();
        // The subscription takes a moment to arrive at all brokers.
        while world.telemetry.received(name)?.is_empty() {
            if since.elapsed() > PATIENCE {
                bail!("nothing is pushed by the client that connects {name}");
            }
            let args = ["--topic", TOPIC, "--max-messages", "60", "--throughput", "20"];
            tools.run(VERIFIABLE_PRODUCER, &args, "").await?;
        }
        pushed.push(world.telemetry.received(name)?);
    }
    println!("pushed directly and through the proxy, bytes each time: {pushed:?}");
    ensure!(pushed.iter().flatten().all(|bytes| *bytes > 0), "an empty push: {pushed:?}");
    let asked = world.proxy.metric_with("diffluent_client_requests_total", &["api=\"PushTelemetry\""]).await?;
    ensure!(asked > 0.0, "no push has come by the proxy");
    Ok(())
}
