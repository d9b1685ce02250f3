//! Stock clients work through the proxy as they do without it: the Java tools, consumer groups, admin clients, transactions. And whatever
//! they wrote is in the region.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use common::{DIFFLUENT, PATIENCE, assert_topic_equal, wait_mirrored};
use diffluent_testbed::kafka::Output;
use diffluent_testbed::workload::Transactions;
use diffluent_testbed::{Cluster, Codec, Proxy, ProxyConfig, Side, Workload, verify};
use rdkafka::Message;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use tokio::sync::mpsc;

/// A Java tool starts in some seconds on an idle machine.
const TOOL_DEADLINE: Duration = Duration::from_secs(90);

const TOPICS: &str = "org.apache.kafka.tools.TopicCommand";
const CONSOLE_PRODUCER: &str = "org.apache.kafka.tools.ConsoleProducer";
const CONSOLE_CONSUMER: &str = "org.apache.kafka.tools.consumer.ConsoleConsumer";
const CONSUMER_GROUPS: &str = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
const PRODUCER_PERF: &str = "org.apache.kafka.tools.ProducerPerformance";

struct World {
    eu: Cluster,
    us: Cluster,
    proxy: Proxy,
}

impl World {
    async fn start() -> Result<Self> {
        let (eu, us) = tokio::try_join!(Cluster::builder().name("eu").start(), Cluster::builder().name("us").start())?;
        let config = ProxyConfig::new("eu", &eu.bootstrap()).region("us", &us.bootstrap());
        let proxy = Proxy::start(DIFFLUENT, config).await?;
        Ok(Self { eu, us, proxy })
    }

    /// Runs a Java tool, which has to succeed.
    async fn tool(&self, main_class: &str, args: &[&str], stdin: &str) -> Result<Output> {
        let output = self.eu.kafka().tool(main_class, args, stdin, TOOL_DEADLINE).await?;
        ensure!(output.success, "{main_class} {args:?}: {}\n{}", output.stdout, output.stderr);
        Ok(output)
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
    );
    if !failures.is_empty() {
        bail!("{}\n{}", failures.join("\n"), world.proxy.log_text()?);
    }
    world.proxy.finish().await
}

async fn an_admin_client_creates_describes_and_deletes_topics(world: &World) -> Result<()> {
    let through = world.proxy.bootstrap();
    let topics = async |args: &[&str]| {
        let args = [&["--bootstrap-server", through.as_str()], args].concat();
        world.tool(TOPICS, &args, "").await
    };
    topics(&["--create", "--topic", "made", "--partitions", "3", "--config", "retention.ms=86400000"]).await?;
    ensure!(world.eu.admin().partitions("made").await? == 3, "the topic is not in the cluster");
    let told = topics(&["--describe", "--topic", "made"]).await?.stdout;
    let args = ["--bootstrap-server", &world.eu.bootstrap(), "--describe", "--topic", "made"];
    let told_directly = world.tool(TOPICS, &args, "").await?.stdout;
    ensure!(told == told_directly, "{told}\ninstead of\n{told_directly}");
    ensure!(told.contains("PartitionCount: 3") && told.contains("retention.ms=86400000"), "{told}");
    topics(&["--delete", "--topic", "made"]).await?;
    let left = topics(&["--list"]).await?.stdout;
    ensure!(!left.lines().any(|line| line == "made"), "still there: {left}");
    Ok(())
}

async fn the_console_producer_feeds_the_console_consumer_in_a_group(world: &World) -> Result<()> {
    let bootstrap = world.proxy.bootstrap();
    world.eu.create_topic("console", 3, 1, &[]).await?;
    let lines: Vec<String> = (0..200).map(|number| format!("line {number:04}")).collect();
    let input = lines.join("\n") + "\n";
    world.tool(CONSOLE_PRODUCER, &["--bootstrap-server", &bootstrap, "--topic", "console"], &input).await?;
    #[rustfmt::skip]
    let args = [
        "--bootstrap-server", &bootstrap, "--topic", "console", "--group", "readers", "--from-beginning",
        "--max-messages", "200", "--timeout-ms", "60000",
    ];
    let read = world.tool(CONSOLE_CONSUMER, &args, "").await?;
    let mut got: Vec<&str> = read.stdout.lines().collect();
    got.sort_unstable();
    ensure!(got == lines, "{got:?}");

    let args = ["--bootstrap-server", &bootstrap, "--describe", "--group", "readers"];
    let group = world.tool(CONSUMER_GROUPS, &args, "").await?.stdout;
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
    let bootstrap = format!("bootstrap.servers={}", world.proxy.bootstrap());
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
        args.extend(["--producer-props", &bootstrap]);
        args.extend(properties);
        let output = world.tool(PRODUCER_PERF, &args, "").await?;
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
