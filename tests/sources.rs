//! Every source of records: logs in old message formats, producers that speak old versions, what topics and brokers make of a batch.

mod common;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use common::{DIFFLUENT, PATIENCE, assert_topic_equal, verify_says_equal, wait_mirrored};
use diffluent_testbed::kafka::Admin;
use diffluent_testbed::{Cluster, Codec, KAFKA_OLD, Proxy, ProxyConfig, RegionConfig, Side, Workload, verify};

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};

/// Produces without headers, which the old formats don't have.
fn plain(bootstrap: &str, topic: &str) -> Workload {
    Workload { headers: 0, ..Workload::new(bootstrap, topic) }
}

async fn run(workload: Workload) -> Result<()> {
    let topic = workload.topic.clone();
    let outcome = workload.run().await?;
    ensure!(outcome.failed == 0, "{topic}: {:?}", outcome.errors);
    Ok(())
}

/// A topic in an old format, and what its records are.
struct Old {
    topic: String,
    /// The same records, in a topic of today's format of the same cluster.
    reference: String,
    codec: Codec,
    /// Whether the records keep their producers' timestamps.
    keeps_time: bool,
}

impl Old {
    async fn create(eu: &Cluster, name: &str, settings: &[(&str, &str)], codec: Codec) -> Result<Self> {
        let topic = format!("{name}-{}", codec.as_str());
        let reference = format!("reference-{topic}");
        eu.create_topic(&topic, 1, 1, settings).await?;
        eu.create_topic(&reference, 1, 1, &[("message.format.version", "2.8")]).await?;
        Ok(Self { topic, reference, codec, keeps_time: name.starts_with("v1") && !name.contains("append") })
    }

    /// Produces the same records to the topic, at `bootstrap`, and to its reference.
    async fn produce(&self, eu: &Cluster, bootstrap: &str, first: u64, records: u64) -> Result<()> {
        let timestamp = Some(1_700_000_000_000 + i64::try_from(first)?);
        let workload = Workload { first, records, timestamp, codec: self.codec, ..plain(bootstrap, &self.topic) };
        run(workload.clone()).await?;
        run(Workload { bootstrap: eu.bootstrap(), topic: self.reference.clone(), ..workload }).await
    }

    async fn assert_mirrored(&self, eu: &Cluster, us: &Cluster) -> Result<()> {
        let mut reference = Side::new("eu", &eu.bootstrap());
        let mut region = Side::new("us", &us.bootstrap()).topic(&self.topic);
        if !self.keeps_time {
            (reference, region) = (reference.without_timestamps(), region.without_timestamps());
        }
        println!("{}", verify::assert_equal(&reference, &region, &self.reference).await?);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_in_old_message_formats_reach_a_region_record_by_record_over_kills() -> Result<()> {
    // Only a broker with ZooKeeper still writes them.
    let old =
        Cluster::builder().name("eu").version(KAFKA_OLD).zookeeper().config("inter.broker.protocol.version", "2.8");
    let (eu, us) = tokio::try_join!(old.start(), Cluster::builder().name("us").start())?;
    let format = |version| ("message.format.version", version);
    let append_time = ("message.timestamp.type", "LogAppendTime");
    let mut topics = Vec::new();
    for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4] {
        topics.push(Old::create(&eu, "v0", &[format("0.9.0")], codec).await?);
        topics.push(Old::create(&eu, "v1", &[format("0.10.2")], codec).await?);
        topics.push(Old::create(&eu, "v1-append-time", &[format("0.10.2"), append_time], codec).await?);
    }
    for topic in &topics {
        topic.produce(&eu, &eu.bootstrap(), 0, 1_000).await?;
    }
    // A log that goes on in today's format, and one with much in small pieces, to be killed in the middle of.
    let upgraded = Old::create(&eu, "v1-upgraded", &[format("0.10.2")], Codec::None).await?;
    upgraded.produce(&eu, &eu.bootstrap(), 0, 1_000).await?;
    eu.admin().set_topic_config(&upgraded.topic, &[("message.format.version", Some("2.8"))]).await?;
    upgraded.produce(&eu, &eu.bootstrap(), 1_000, 1_000).await?;
    let long = Old::create(&eu, "v1-long", &[format("0.10.2")], Codec::None).await?;
    long.produce(&eu, &eu.bootstrap(), 0, 60_000).await?;

    let mut region = RegionConfig::new("us", &us.bootstrap());
    region.topics = vec!["v.*".into()];
    // Slow enough to be met on its way.
    region.extra = "rate_limit = \"2 MiB\"\n".into();
    let config = ProxyConfig::new("eu", &eu.bootstrap()).region_with(region);
    let mut proxy = Proxy::start(DIFFLUENT, config).await?;
    let mut behind = 0;
    for _ in 0..3 {
        let since = Instant::now();
        behind = loop {
            let lag = proxy.get(&format!("/lag/us/{}", long.topic)).await.unwrap_or_default();
            let lag: serde_json::Value = serde_json::from_str(&lag).unwrap_or_default();
            match lag["partitions"][0]["next_source_offset"].as_i64() {
                Some(next) if next > behind => break next,
                _ => ensure!(since.elapsed() < PATIENCE, "no more than {behind} records are mirrored: {lag:#}"),
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        assert!(behind < 60_000, "it was not met on its way");
        proxy.restart().await?;
    }
    topics.extend([upgraded, long]);
    // What goes through the proxy is not what such a log holds: it must be read from there.
    for topic in &topics {
        topic.produce(&eu, &proxy.bootstrap(), 100_000, 100).await?;
    }
    let names: Vec<&str> = topics.iter().map(|old| old.topic.as_str()).collect();
    wait_mirrored(&eu, &proxy, &["us"], &names).await?;
    for topic in &topics {
        topic.assert_mirrored(&eu, &us).await?;
    }
    let converted = proxy.metric_with("diffluent_converted_records_total", &["region=\"us\""]).await?;
    assert!(converted >= 100.0 * (names.len() - 1) as f64, "only {converted} records were of an old format");
    proxy.finish().await
}

/// A message set of one message, in the format of this magic byte.
fn message_set(magic: i8, value: &[u8]) -> Bytes {
    let mut body = BytesMut::new();
    body.put_i8(magic);
    body.put_i8(0);
    if magic == 1 {
        body.put_i64(1_700_000_000_000);
    }
    body.put_i32(-1);
    body.put_i32(value.len() as i32);
    body.put_slice(value);
    let mut sum = flate2::Crc::new();
    sum.update(&body);
    let mut set = BytesMut::new();
    set.put_i64(0);
    set.put_i32(4 + body.len() as i32);
    set.put_u32(sum.sum());
    set.put_slice(&body);
    set.freeze()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_old_clients_produce_is_mirrored_as_the_broker_has_converted_it() -> Result<()> {
    let (eu, us) = tokio::try_join!(
        Cluster::builder().name("eu").version(KAFKA_OLD).start(),
        Cluster::builder().name("us").start(),
    )?;
    eu.create_topic("orders", 1, 1, &[]).await?;
    let config = ProxyConfig::new("eu", &eu.bootstrap()).region("us", &us.bootstrap());
    let proxy = Proxy::start(DIFFLUENT, config).await?;
    let through_proxy = Admin::new(vec![proxy.bootstrap()]);
    let mut call = through_proxy.call_leader("orders", 0).await?;
    for round in 0..20_u8 {
        for version in 0..=2_i16 {
            let records = message_set(i8::from(version == 2), &[round; 40]);
            let mut body = BytesMut::new();
            body.put_i16(-1);
            body.put_i32(30_000);
            body.put_i32(1);
            body.put_i16(6);
            body.put_slice(b"orders");
            body.put_i32(1);
            body.put_i32(0);
            body.put_i32(records.len() as i32);
            body.put_slice(&records);
            let answer = call.call_raw(0, version, &body).await?;
            // One topic, its name, one partition, its number, the error.
            let error = answer.get(20..22).context("a short answer")?;
            ensure!(error == [0, 0], "version {version} is refused: {answer:?}");
        }
        // Between them, what is captured.
        run(Workload { records: 3, first: 3 * u64::from(round), ..Workload::new(&proxy.bootstrap(), "orders") })
            .await?;
    }
    wait_mirrored(&eu, &proxy, &["us"], &["orders"]).await?;
    assert_topic_equal(&eu, &us, "orders").await?;
    assert_eq!(us.admin().end_offsets("orders").await?, [120]);
    assert_eq!(proxy.metric("diffluent_converted_records_total").await?, 0.0, "the broker has converted them");
    proxy.finish().await
}

/// A topic, and how it is set up on both sides; `None`: diffluent makes it.
struct Case {
    topic: &'static str,
    here: &'static [(&'static str, &'static str)],
    there: Option<&'static [(&'static str, &'static str)]>,
    tombstone_every: u64,
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_topics_and_brokers_change_arrive_record_by_record_over_kills() -> Result<()> {
    let (eu, us) = tokio::try_join!(Cluster::builder().name("eu").start(), Cluster::builder().name("us").start())?;
    let case = |topic, here, there| Case { topic, here, there, tombstone_every: 0 };
    let cases = [
        case("compressed-here", &[("compression.type", "zstd")], None),
        case("compressed-there", &[], Some(&[("compression.type", "gzip")])),
        case("compressed-twice", &[("compression.type", "lz4")], Some(&[("compression.type", "snappy")])),
        case("decompressed-there", &[], Some(&[("compression.type", "uncompressed")])),
        case("append-time", &[("message.timestamp.type", "LogAppendTime")], None),
        case("append-time-there", &[], Some(&[("message.timestamp.type", "LogAppendTime")])),
        Case {
            tombstone_every: 3,
            ..case("tombstones", &[("cleanup.policy", "compact"), ("max.message.bytes", "2000000")], None)
        },
    ];
    for Case { topic, here, there, .. } in &cases {
        eu.create_topic(topic, 1, 1, here).await?;
        if let Some(there) = there {
            us.create_topic(topic, 1, 1, there).await?;
        }
    }
    let config = ProxyConfig::new("eu", &eu.bootstrap()).region("us", &us.bootstrap());
    let mut proxy = Proxy::start(DIFFLUENT, config).await?;
    let mut producers = Vec::new();
    for Case { topic, tombstone_every, .. } in &cases {
        let codec = if topic.starts_with("append") { Codec::None } else { Codec::Gzip };
        let (records, rate) = (u64::MAX, Some(400));
        let workload = Workload::new(&proxy.bootstrap(), topic);
        let workload =
            Workload { codec, records, rate, tombstone_every: *tombstone_every, idempotent: true, ..workload };
        producers.push(workload.start()?);
    }
    // What was sent and not acknowledged is recognised by what brokers have made of it.
    for kill in 1..=4 {
        for producer in &producers {
            let since = Instant::now();
            while producer.acked() < kill * 200 {
                ensure!(since.elapsed() < PATIENCE, "a producer stands still");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        proxy.restart().await?;
    }
    for producer in producers {
        producer.stop();
        let outcome = producer.finish().await?;
        ensure!(outcome.failed == 0, "{:?}", outcome.errors);
    }
    let names: Vec<&str> = cases.iter().map(|case| case.topic).collect();
    wait_mirrored(&eu, &proxy, &["us"], &names).await?;
    for topic in &names {
        let (mut here, mut there) = (Side::new("eu", &eu.bootstrap()), Side::new("us", &us.bootstrap()));
        if topic.starts_with("append") {
            (here, there) = (here.without_timestamps(), there.without_timestamps());
        }
        println!("{}", verify::assert_equal(&here, &there, topic).await?);
    }
    verify_says_equal(&proxy, names.len()).await?;
    // What decides about its records a topic takes along.
    for (topic, key, value) in [
        ("append-time", "message.timestamp.type", "LogAppendTime"),
        ("tombstones", "cleanup.policy", "compact"),
        ("tombstones", "max.message.bytes", "2000000"),
        ("compressed-here", "compression.type", "producer"),
    ] {
        assert_eq!(us.admin().topic_config(topic, key).await?, value, "{topic} {key}");
    }
    proxy.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_is_left_open_is_named_in_the_lag_and_what_is_said_ends_it() -> Result<()> {
    let (eu, us) = tokio::try_join!(Cluster::builder().name("eu").start(), Cluster::builder().name("us").start())?;
    eu.create_topic("orders", 1, 1, &[]).await?;
    let config = ProxyConfig::new("eu", &eu.bootstrap()).region("us", &us.bootstrap());
    let proxy = Proxy::start(DIFFLUENT, config).await?;
    run(Workload { records: 10, ..Workload::new(&proxy.bootstrap(), "orders") }).await?;
    let hanging: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", proxy.bootstrap())
        .set("transactional.id", "hanging")
        .set("transaction.timeout.ms", "600000")
        .create()?;
    hanging.init_transactions(PATIENCE)?;
    hanging.begin_transaction()?;
    hanging.send(BaseRecord::to("orders").key("k").payload("never to be seen")).map_err(|(error, _)| error)?;
    hanging.flush(PATIENCE)?;
    run(Workload { records: 50, first: 10, ..Workload::new(&proxy.bootstrap(), "orders") }).await?;

    let since = Instant::now();
    let waiting = loop {
        let lag: serde_json::Value = serde_json::from_str(&proxy.get("/lag/us/orders").await?)?;
        let stream = lag["partitions"][0].clone();
        if stream["reason"].as_str().is_some_and(|reason| reason.contains("of producer id")) {
            break stream;
        }
        ensure!(since.elapsed() < PATIENCE, "nothing is said about the transaction: {lag:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!((&waiting["state"], &waiting["next_source_offset"]), (&"catching_up".into(), &10.into()), "{waiting:#}");
    let reason = waiting["reason"].as_str().unwrap_or_default();
    for part in
        ["an open transaction of producer id", "begins at source offset 10", "last stable offset is 10", "end 61"]
    {
        assert!(reason.contains(part), "{part:?} is not in {reason:?}");
    }
    // The command, as it is said.
    let remedy = waiting["remedy"].as_str().unwrap_or_default();
    let (_, command) = remedy.split_once("kafka-transactions abort ").context("no command")?;
    let bootstrap = eu.bootstrap();
    let arguments: Vec<&str> =
        ["--bootstrap-server", &bootstrap, "abort"].into_iter().chain(command.split_whitespace()).collect();
    let output = eu.kafka().tool("org.apache.kafka.tools.TransactionsCommand", &arguments, "", PATIENCE).await?;
    ensure!(output.success, "{output:?}");
    wait_mirrored(&eu, &proxy, &["us"], &["orders"]).await?;
    assert_topic_equal(&eu, &us, "orders").await?;
    assert_eq!(us.admin().end_offsets("orders").await?, [60]);
    let lag: serde_json::Value = serde_json::from_str(&proxy.get("/lag/us/orders").await?)?;
    assert!(lag["partitions"][0]["reason"].is_null(), "{lag:#}");
    proxy.finish().await
}
