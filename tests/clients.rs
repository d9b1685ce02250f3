//! Stock clients work through the proxy as they do without it: the Java tools, consumer groups, admin clients, transactions. And whatever
//! they wrote is in the region.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use common::{DIFFLUENT, PATIENCE, assert_topic_equal, wait_mirrored};
use diffluent_testbed::guard::{Guarded, TempDir};
use diffluent_testbed::kafka::Kafka;
use diffluent_testbed::kafka::tools::CONSOLE_CONSUMER;
use diffluent_testbed::records::{self, record};
use diffluent_testbed::workload::Transactions;
use diffluent_testbed::{Call, Cluster, Codec, KAFKA, Proxy, ProxyConfig, Side, Tools, Workload, verify};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{MetadataRequest, ProduceRequest};
use kafka_protocol::protocol::StrBytes;
use rdkafka::Message;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use tokio::sync::mpsc;

const TOPICS: &str = "org.apache.kafka.tools.TopicCommand";
const CONSUMER_GROUPS: &str = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
const PRODUCER_PERF: &str = "org.apache.kafka.tools.ProducerPerformance";

const CONFIGS: &str = "kafka.admin.ConfigCommand";
const SHARE_CONSUMER: &str = "org.apache.kafka.tools.consumer.ConsoleShareConsumer";
const SHARE_GROUPS: &str = "org.apache.kafka.tools.consumer.group.ShareGroupCommand";
const TRANSACTIONAL_COPIER: &str = "org.apache.kafka.tools.TransactionalMessageCopier";
const WORD_COUNT: &str = "org.apache.kafka.streams.examples.wordcount.WordCountDemo";
const STREAMS_RESETTER: &str = "org.apache.kafka.tools.StreamsResetter";

struct World {
    eu: Cluster,
    us: Cluster,
    proxy: Proxy,
}

impl World {
    async fn start() -> Result<Self> {
        // Two brokers: so that there is something to be moved, and an address for each.
        let eu = Cluster::builder().name("eu").brokers(2).authorizer();
        let (eu, us) = tokio::try_join!(eu.start(), Cluster::builder().name("us").start())?;
        let config = ProxyConfig::new("eu", &eu.bootstrap()).region("us", &us.bootstrap());
        let proxy = Proxy::start(DIFFLUENT, config).await?;
        Ok(Self { eu, us, proxy })
    }

    /// Kafka's tools at the proxy, and at the brokers.
    fn through(&self) -> Tools {
        Tools::new(self.eu.kafka(), &self.proxy.bootstrap())
    }

    fn direct(&self) -> Tools {
        Tools::new(self.eu.kafka(), &self.eu.bootstrap())
    }

    async fn assert_region_equal(&self, topic: &str) -> Result<()> {
        wait_mirrored(&self.eu, &self.proxy, &["us"], &[topic]).await?;
        assert_topic_equal(&self.eu, &self.us, topic).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_clients_work_through_the_proxy_as_without_it() -> Result<()> {
    let world = World::start().await?;
    let mut failures = Vec::new();
    macro_rules! check {
        ($($name:ident),+ $(,)?) => {$(
            let begin = Instant::now();
            let result = $name(&world).await;
            println!("{:<70} {:?} {}", stringify!($name), begin.elapsed(), if result.is_ok() { "ok" } else { "FAILED" });
            if let Err(error) = result {
                failures.push(format!("{}: {error:#}", stringify!($name)));
            }
        )+};
    }
    check!(
        an_admin_client_creates_describes_and_deletes_topics,
        the_console_producer_feeds_the_console_consumer_in_a_group,
        the_java_producer_writes_with_and_without_compression_and_idempotence,
        two_members_of_a_group_share_a_topic,
        a_transactional_producer_commits_and_aborts,
        a_group_of_the_new_protocol_and_a_share_group_read_every_record,
        a_java_client_copies_a_topic_in_transactions,
        streams_counts_words_in_both_group_protocols,
        a_quota_throttles_as_at_the_broker,
        the_tools_tell_the_same_as_at_the_broker,
        the_tools_change_the_same_as_at_the_broker,
    );
    if !failures.is_empty() {
        bail!("{}\n{}", failures.join("\n"), world.proxy.log_text()?);
    }
    world.proxy.finish().await
}

async fn an_admin_client_creates_describes_and_deletes_topics(world: &World) -> Result<()> {
    let through = world.through();
    let topics = async |args: &[&str]| through.run(TOPICS, args, "").await;
    topics(&["--create", "--topic", "made", "--partitions", "3", "--config", "retention.ms=86400000"]).await?;
    ensure!(world.eu.admin().partitions("made").await? == 3, "the topic is not in the cluster");
    let told = topics(&["--describe", "--topic", "made"]).await?.stdout;
    let told_directly = world.direct().run(TOPICS, &["--describe", "--topic", "made"], "").await?.stdout;
    ensure!(told == told_directly, "{told}\ninstead of\n{told_directly}");
    ensure!(told.contains("PartitionCount: 3") && told.contains("retention.ms=86400000"), "{told}");
    topics(&["--delete", "--topic", "made"]).await?;
    let left = topics(&["--list"]).await?.stdout;
    ensure!(!left.lines().any(|line| line == "made"), "still there: {left}");
    Ok(())
}

async fn the_console_producer_feeds_the_console_consumer_in_a_group(world: &World) -> Result<()> {
    let through = world.through();
    world.eu.create_topic("console", 3, 1, &[]).await?;
    let lines: Vec<String> = (0..200).map(|number| format!("line {number:04}")).collect();
    through.produce("console", &lines).await?;
    let got = through.consume("console", lines.len(), &["--group", "readers"]).await?;
    ensure!(got == lines, "{got:?}");

    let group = through.run(CONSUMER_GROUPS, &["--describe", "--group", "readers"], "").await?.stdout;
    // GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG …
    let rows = group.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let rows: Vec<_> = rows.filter(|row| row.first() == Some(&"readers")).collect();
    ensure!(rows.len() == 3, "{group}");
    let mut read = 0;
    for row in rows {
        let &[_, "console", _, current, end, "0", ..] = row.as_slice() else { bail!("not at the end: {group}") };
        ensure!(current == end, "not at the end: {group}");
        read += current.parse::<u64>()?;
    }
    ensure!(read == 200, "{group}");
    world.assert_region_equal("console").await
}

async fn the_java_producer_writes_with_and_without_compression_and_idempotence(world: &World) -> Result<()> {
    let producers: [(&str, &[&str]); 5] = [
        ("perf-none", &["acks=1", "enable.idempotence=false", "compression.type=none"]),
        ("perf-gzip", &["acks=all", "enable.idempotence=false", "compression.type=gzip"]),
        ("perf-snappy", &["acks=1", "enable.idempotence=false", "compression.type=snappy"]),
        ("perf-lz4", &["acks=all", "enable.idempotence=false", "compression.type=lz4"]),
        ("perf-idempotent", &["acks=all", "enable.idempotence=true", "compression.type=zstd"]),
    ];
    for (topic, properties) in producers {
        world.eu.create_topic(topic, 4, 1, &[]).await?;
        let mut args = vec!["--topic", topic, "--num-records", "50000", "--record-size", "200", "--throughput", "-1"];
        args.extend(["--producer-props", "bootstrap.servers=HERE"]);
        args.extend(properties);
        let output = world.through().run(PRODUCER_PERF, &args, "").await?;
        ensure!(output.stdout.contains("50000 records sent"), "{}\n{}", output.stdout, output.stderr);
        let end: i64 = world.eu.admin().end_offsets(topic).await?.iter().sum();
        ensure!(end == 50_000, "{topic} has {end} records");
    }
    for (topic, _) in producers {
        world.assert_region_equal(topic).await?;
    }
    Ok(())
}

async fn two_members_of_a_group_share_a_topic(world: &World) -> Result<()> {
    const RECORDS: u64 = 5_000;
    world.eu.create_topic("shared", 4, 1, &[]).await?;
    let (found, mut arriving) = mpsc::channel(1024);
    let mut members = Vec::new();
    for number in 0..2 {
        let consumer: StreamConsumer = ClientConfig::new()
            .set("bootstrap.servers", world.proxy.bootstrap())
            .set("group.id", "sharers")
            .set("client.id", format!("member-{number}"))
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.commit", "false")
            .create()?;
        consumer.subscribe(&["shared"])?;
        let (consumer, found) = (Arc::new(consumer), found.clone());
        let reader = Arc::clone(&consumer);
        // Ends with the test, which reads what it finds.
        let task = tokio::spawn(async move {
            loop {
                let message = reader.recv().await?;
                let record = (number, message.partition(), message.offset(), message.payload().map(<[u8]>::to_vec));
                if found.send(record).await.is_err() {
                    return Ok::<_, anyhow::Error>(());
                }
            }
        });
        members.push((consumer, task));
    }
    drop(found);

    // Both have their share before the first record is there, so that no rebalance makes one be read twice.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let shares =
            members.iter().map(|(consumer, _)| Ok(consumer.assignment()?.count())).collect::<Result<Vec<_>>>()?;
        if shares == [2, 2] {
            break;
        }
        ensure!(Instant::now() < deadline, "the partitions are shared as {shares:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let workload =
        Workload { records: RECORDS, codec: Codec::Lz4, ..Workload::new(&world.proxy.bootstrap(), "shared") };
    let outcome = workload.clone().run().await?;
    ensure!(outcome.acked == RECORDS, "{outcome:?}");

    let (mut next, mut by_member, mut values) = (BTreeMap::new(), [0_u64; 2], Vec::new());
    for _ in 0..RECORDS {
        let record = tokio::time::timeout(PATIENCE, arriving.recv()).await.context("records are missing")?;
        let (member, partition, offset, value) = record.context("the members have ended")?;
        let expected = next.entry(partition).or_insert(0_i64);
        ensure!(offset == *expected, "partition {partition}: offset {offset} where {expected} was next");
        *expected += 1;
        if let Some(count) = by_member.get_mut(member) {
            *count += 1;
        }
        values.push(value.context("a record without a value")?);
    }
    ensure!(by_member.iter().all(|count| *count > 0), "one has read nothing: {by_member:?}");
    values.sort_unstable();
    let mut sent: Vec<_> = (0..RECORDS).map(|sequence| workload.value(sequence)).collect();
    sent.sort_unstable();
    ensure!(values == sent, "other records than those that were sent");

    for (consumer, task) in members {
        consumer.commit_consumer_state(CommitMode::Sync)?;
        task.abort();
        let _ = task.await;
    }
    world.assert_region_equal("shared").await
}

async fn a_transactional_producer_commits_and_aborts(world: &World) -> Result<()> {
    // 12 transactions of 50 records; every third is aborted.
    const COMMITTED: u64 = 8 * 50;
    world.eu.create_topic("payments", 2, 1, &[]).await?;
    let transactions = Transactions { id: "payer".to_owned(), records: 50, abort_every: 3 };
    let workload = Workload {
        records: 600,
        transactions: Some(transactions),
        ..Workload::new(&world.proxy.bootstrap(), "payments")
    };
    let outcome = workload.run().await?;
    ensure!(outcome.acked == 600, "{outcome:?}");
    wait_mirrored(&world.eu, &world.proxy, &["us"], &["payments"]).await?;
    let side = |cluster: &Cluster| Side::new(cluster.name(), &cluster.bootstrap());
    let report = verify::assert_equal(&side(&world.eu), &side(&world.us), "payments").await?;
    ensure!(report.records == COMMITTED, "{report}");
    // Not even hidden ones: no aborted record, no marker.
    let end: i64 = world.us.admin().end_offsets("payments").await?.iter().sum();
    ensure!(u64::try_from(end)? == COMMITTED, "the region's log has {end} offsets");
    Ok(())
}

/// KIP-848 and KIP-932.
async fn a_group_of_the_new_protocol_and_a_share_group_read_every_record(world: &World) -> Result<()> {
    let through = world.through();
    world.eu.create_topic("grouped", 3, 1, &[]).await?;
    let lines: Vec<String> = (0..100).map(|number| format!("line {number:04}")).collect();
    through.produce("grouped", &lines).await?;
    #[rustfmt::skip]
    let from_the_start = [
        "--alter", "--entity-type", "groups", "--entity-name", "sharing", "--add-config", "share.auto.offset.reset=earliest",
    ];
    through.run(CONFIGS, &from_the_start, "").await?;
    let modern = ["--group", "modern", "--command-property", "group.protocol=consumer"];
    ensure!(
        through.consume("grouped", 100, &modern).await? == lines,
        "a group of the new protocol reads other records"
    );
    let args = ["--topic", "grouped", "--group", "sharing", "--max-messages", "100", "--timeout-ms", "60000"];
    let read = through.run(SHARE_CONSUMER, &args, "").await?;
    let mut got: Vec<&str> = read.stdout.lines().collect();
    got.sort_unstable();
    ensure!(got == lines, "a share group: {got:?}");
    for (tool, group) in [(CONSUMER_GROUPS, "modern"), (SHARE_GROUPS, "sharing")] {
        let told = through.run(tool, &["--describe", "--group", group], "").await?;
        ensure!(told.stdout.lines().filter(|line| line.contains("grouped")).count() == 3, "{}", told.stdout);
    }
    Ok(())
}

async fn a_java_client_copies_a_topic_in_transactions(world: &World) -> Result<()> {
    let through = world.through();
    for topic in ["original", "copy"] {
        world.eu.create_topic(topic, 1, 1, &[]).await?;
    }
    let lines: Vec<String> = (0..100).map(|number| format!("line {number:04}")).collect();
    through.produce("original", &lines).await?;
    #[rustfmt::skip]
    let copy = [
        "--broker-list", "HERE", "--input-topic", "original", "--input-partition", "0", "--output-topic", "copy",
        "--transactional-id", "copier", "--consumer-group", "copiers", "--transaction-size", "30", "--use-group-metadata",
    ];
    through.run(TRANSACTIONAL_COPIER, &copy, "").await?;
    let read = through.consume("copy", 100, &["--isolation-level", "read_committed"]).await?;
    ensure!(read == lines, "{read:?}");
    world.assert_region_equal("copy").await
}

/// Kafka's own example, with a state store and its changelog; classic, and KIP-1071.
async fn streams_counts_words_in_both_group_protocols(world: &World) -> Result<()> {
    const INPUT: &str = "streams-plaintext-input";
    const OUTPUT: &str = "streams-wordcount-output";
    let (through, bootstrap) = (world.through(), world.proxy.bootstrap());
    let kafka = Kafka::fetch(KAFKA, &["kafka-streams-examples"]).await?;
    for topic in [INPUT, OUTPUT] {
        world.eu.create_topic(topic, 1, 1, &[]).await?;
    }
    through.produce(INPUT, &["all streams lead to kafka".to_owned(), "streams of kafka".to_owned()]).await?;
    let dir = TempDir::new("diffluent-streams-")?;
    let mut expected = Vec::new();
    for protocol in ["classic", "streams"] {
        let config = dir.path().join(format!("{protocol}.properties"));
        let state = dir.path().join(protocol);
        let text = format!(
            "bootstrap.servers={bootstrap}\napplication.id=words-{protocol}\ngroup.protocol={protocol}\nstate.dir={}\n",
            state.display()
        );
        std::fs::write(&config, text)?;
        let mut command = kafka.java(WORD_COUNT, 256);
        command.arg(&config);
        let running =
            Guarded::spawn("an application of Streams", command, &dir.path().join(format!("{protocol}.log")))?;
        expected.extend(["all 1", "streams 1", "lead 1", "to 1", "kafka 1", "streams 2", "of 1", "kafka 2"]);
        let count = expected.len().to_string();
        #[rustfmt::skip]
        let read = [
            "--topic", OUTPUT, "--from-beginning", "--max-messages", &count,
            "--timeout-ms", "60000", "--formatter-property", "print.key=true", "--formatter-property", "key.separator= ",
            "--formatter-property", "value.deserializer=org.apache.kafka.common.serialization.LongDeserializer",
        ];
        let read = through.run(CONSOLE_CONSUMER, &read, "").await?.stdout;
        ensure!(read.lines().eq(expected.iter().copied()), "{protocol}: {read}\n{}", running.log_tail());
    }
    let reset = ["--application-id", "words-classic", "--input-topics", INPUT, "--force"];
    through.run(STREAMS_RESETTER, &reset, "").await?;
    Ok(())
}

/// The broker's quota, by client id: the answer tells how long it makes the client wait, and the connection is as silent.
async fn a_quota_throttles_as_at_the_broker(world: &World) -> Result<()> {
    // What the testbed's raw calls call themselves.
    const CLIENT: &str = "diffluent-testbed";
    world.eu.create_topic("throttled", 1, 1, &[]).await?;
    world.eu.move_leader("throttled", 0, 1).await?;
    let alter = async |change: &str| {
        #[rustfmt::skip]
        let args = [
            "--alter", "--entity-type", "clients", "--entity-name", CLIENT,
            change, if change == "--add-config" { "producer_byte_rate=20000" } else { "producer_byte_rate" },
        ];
        world.through().run(CONFIGS, &args, "").await
    };
    alter("--add-config").await?;
    let told = Call::connect(&world.proxy.bootstrap()).await?.call(&MetadataRequest::default(), 12).await?;
    let port = told.brokers.iter().find(|broker| broker.node_id.0 == 1).context("broker 1 is not told")?.port;
    let record = Workload { value_bytes: 50_000, ..Workload::new("", "") }.value(1);
    for addr in [world.eu.broker_addr(1)?, format!("127.0.0.1:{port}")] {
        let mut call = Call::connect(&addr).await?;
        let mut throttled = 0;
        let since = Instant::now();
        // The quota takes a moment to arrive, and is counted over some seconds.
        while throttled == 0 {
            ensure!(since.elapsed() < PATIENCE, "{addr} does not throttle");
            let data = PartitionProduceData::default().with_records(Some(batch(&record)?));
            let topic = TopicProduceData::default()
                .with_name(StrBytes::from_static_str("throttled").into())
                .with_partition_data(vec![data]);
            let request = ProduceRequest::default().with_acks(-1).with_timeout_ms(10_000).with_topic_data(vec![topic]);
            throttled = call.call(&request, 9).await?.throttle_time_ms;
        }
        // Muted: the next answer comes when that time has passed.
        let asked = Instant::now();
        call.call(&MetadataRequest::default(), 12).await?;
        let waited = asked.elapsed() + Duration::from_millis(100);
        ensure!(
            waited >= Duration::from_millis(u64::try_from(throttled)?).min(Duration::from_secs(1)),
            "{addr}: {waited:?} of {throttled} ms"
        );
    }
    alter("--delete-config").await?;
    Ok(())
}

fn batch(value: &[u8]) -> Result<Bytes> {
    records::batch(&[record(0, 1_700_000_000_000, Bytes::copy_from_slice(value))])
}

/// What stands for addresses in what tools print: the brokers' own, and where clients are told they are.
struct Places {
    tools: Tools,
    blank: Vec<(String, String)>,
}

impl Places {
    /// Directly, and through the proxy.
    async fn both(world: &World) -> Result<[Self; 2]> {
        let told = Call::connect(&world.proxy.bootstrap()).await?.call(&MetadataRequest::default(), 12).await?;
        let port = |id: i32| told.brokers.iter().find(|broker| broker.node_id.0 == id).map(|broker| broker.port);
        let (mut direct, mut through) = (Vec::new(), Vec::new());
        for id in world.eu.broker_ids() {
            let name = format!("BROKER-{id}");
            direct.push((world.eu.broker_addr(id)?, name.clone()));
            through.push((format!("127.0.0.1:{}", port(id).context("a broker is not told")?), name));
        }
        direct.push((DIRECT_TOPIC.to_owned(), "TOPIC".to_owned()));
        through.push((THROUGH_TOPIC.to_owned(), "TOPIC".to_owned()));
        Ok([Self { tools: world.direct(), blank: direct }, Self { tools: world.through(), blank: through }])
    }

    /// What a tool prints, its lines sorted: lists come out of hash maps.
    async fn told(&self, tool: &str, args: &[&str]) -> Result<Vec<String>> {
        let told = self.tools.run(tool, args, "").await?.stdout;
        // Free space on disks and the progress of the controllers' log change between any two calls.
        let cut = |line: &str| {
            let end = ["\"usableBytes\"", "Epoch:"].iter().filter_map(|part| line.find(part)).min();
            line.get(..end.unwrap_or(line.len())).unwrap_or_default().to_owned()
        };
        let blank =
            |line: String| self.blank.iter().fold(line, |line, (place, name)| line.replace(place.as_str(), name));
        let mut lines: Vec<String> = told.lines().map(cut).map(blank).collect();
        lines.sort_unstable();
        Ok(lines)
    }
}

async fn the_tools_tell_the_same_as_at_the_broker(world: &World) -> Result<()> {
    let [direct, through] = Places::both(world).await?;
    #[rustfmt::skip]
    let tools: [(&str, &[&str]); 10] = [
        ("org.apache.kafka.tools.BrokerApiVersionsCommand", &[]),
        ("org.apache.kafka.tools.ClusterTool", &["cluster-id", "--bootstrap-server", "HERE"]),
        ("org.apache.kafka.tools.FeatureCommand", &["--bootstrap-server", "HERE", "describe"]),
        ("org.apache.kafka.tools.GroupsCommand", &["--list"]),
        ("org.apache.kafka.tools.TransactionsCommand", &["--bootstrap-server", "HERE", "list"]),
        ("org.apache.kafka.tools.GetOffsetShell", &["--topic", "grouped"]),
        ("org.apache.kafka.tools.LogDirsCommand", &["--describe", "--topic-list", "grouped"]),
        (TOPICS, &["--describe", "--topic", "grouped"]),
        (CONSUMER_GROUPS, &["--describe", "--group", "modern", "--state"]),
        (CONFIGS, &["--describe", "--entity-type", "topics", "--entity-name", "grouped", "--all"]),
    ];
    for (tool, args) in tools {
        let (direct, through) = tokio::try_join!(direct.told(tool, args), through.told(tool, args))?;
        ensure!(direct == through && !direct.is_empty(), "{tool}: {through:#?}\ninstead of {direct:#?}");
    }
    Ok(())
}

/// Topics that each side changes for itself; names of one length.
const DIRECT_TOPIC: &str = "changed-1st";
const THROUGH_TOPIC: &str = "changed-2nd";

async fn the_tools_change_the_same_as_at_the_broker(world: &World) -> Result<()> {
    const ACLS: &str = "org.apache.kafka.tools.AclCommand";
    const REASSIGN: &str = "org.apache.kafka.tools.reassign.ReassignPartitionsCommand";
    const ELECT: &str = "org.apache.kafka.tools.LeaderElectionCommand";
    let dir = TempDir::new("diffluent-tools-")?;
    let mut told = Vec::new();
    for (side, topic) in Places::both(world).await?.iter().zip([DIRECT_TOPIC, THROUGH_TOPIC]) {
        world.eu.create_topic(topic, 1, 2, &[]).await?;
        world.eu.move_leader(topic, 0, 1).await?;
        let mut answers = Vec::new();
        // Rights.
        for args in [
            &["--add", "--allow-principal", "User:alice", "--operation", "Read", "--topic", topic][..],
            &["--list", "--topic", topic],
            &["--remove", "--force", "--allow-principal", "User:alice", "--operation", "Read", "--topic", topic],
            &["--list", "--topic", topic],
        ] {
            answers.push(side.told(ACLS, args).await?);
        }
        ensure!(answers.concat().join("\n").contains("User:alice"), "no right was made: {answers:?}");

        // The second broker becomes the preferred leader, and then the leader.
        let plan = dir.path().join("plan.json");
        std::fs::write(
            &plan,
            format!("{{\"version\":1,\"partitions\":[{{\"topic\":\"{topic}\",\"partition\":0,\"replicas\":[2,1]}}]}}"),
        )?;
        let plan = plan.display().to_string();
        answers.push(side.told(REASSIGN, &["--reassignment-json-file", &plan, "--execute"]).await?);
        let since = Instant::now();
        answers.push(loop {
            let told = side.told(REASSIGN, &["--reassignment-json-file", &plan, "--verify"]).await?;
            if told.iter().any(|line| line.contains("is completed")) {
                break told;
            }
            ensure!(since.elapsed() < PATIENCE, "the reassignment does not end: {told:?}");
        });
        answers.push(side.told(ELECT, &["--election-type", "preferred", "--topic", topic, "--partition", "0"]).await?);
        answers.push(side.told(TOPICS, &["--describe", "--topic", topic]).await?);
        ensure!(world.eu.admin().leader(topic, 0).await? == 2, "{topic} is led by another broker: {answers:?}");
        told.push(answers);
    }
    let [direct, through] = told.as_slice() else { bail!("two sides") };
    for (direct, through) in direct.iter().zip(through) {
        ensure!(two_topics(direct) == two_topics(through), "{through:#?}\ninstead of {direct:#?}");
    }
    Ok(())
}

/// What is told of a topic, without what differs between any two: the id, and the order in which replicas came in sync.
fn two_topics(told: &[String]) -> Vec<String> {
    let field = |field: &str| match field.split_once(": ") {
        Some(("TopicId", _)) => "TopicId: ID".to_owned(),
        Some(("Isr", replicas)) => {
            let mut replicas: Vec<&str> = replicas.split(',').collect();
            replicas.sort_unstable();
            format!("Isr: {}", replicas.join(","))
        }
        _ => field.to_owned(),
    };
    told.iter().map(|line| line.split('\t').map(field).collect::<Vec<_>>().join("\t")).collect()
}
