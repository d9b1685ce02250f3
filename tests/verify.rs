//! `diffluent verify`: equal is said of what is equal, also while both sides go on; every kind of damage is named with its offsets; and what can't be told
//! is said so, with what to do.

mod common;

use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use bytes::{Bytes, BytesMut};
use common::progress::{Progress, commit};
use common::{DIFFLUENT, PATIENCE, wait_mirrored};
use diffluent::mirror::identity::reserved_producer_id;
use diffluent_testbed::records::record;
use diffluent_testbed::workload::Transactions;
use diffluent_testbed::{Call, Cluster, Codec, Proxy, ProxyConfig, RegionConfig, Workload};
use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{DeleteRecordsRequest, ProduceRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{Compression, Record, RecordBatchEncoder, RecordEncodeOptions};
use serde_json::{Value, json};

/// What `diffluent verify` said.
struct Said {
    code: Option<i32>,
    report: Value,
    text: String,
}

/// Runs it with `--json`, or without.
async fn verify(proxy: &Proxy, arguments: &[&str], json: bool) -> Result<Said> {
    let mut command = Command::new(DIFFLUENT);
    command.arg("verify").arg(proxy.config_path()).args(arguments);
    if json {
        command.arg("--json");
    }
    let output = tokio::task::spawn_blocking(move || command.output()).await?.context("cannot run diffluent verify")?;
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let text = format!("{out}{}", String::from_utf8_lossy(&output.stderr));
    let report = if json { serde_json::from_str(&out).with_context(|| text.clone())? } else { Value::Null };
    Ok(Said { code: output.status.code(), report, text })
}

/// Runs it until every partition has progress.
async fn verify_once_committed(proxy: &Proxy, arguments: &[&str]) -> Result<Said> {
    let since = Instant::now();
    loop {
        let said = verify(proxy, arguments, true).await?;
        if !said.text.contains("no progress is committed") {
            return Ok(said);
        }
        ensure!(since.elapsed() < PATIENCE, "no progress: {}", said.text);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn topic<'a>(said: &'a Said, name: &str) -> &'a Value {
    let topics = said.report["regions"][0]["topics"].as_array().expect("topics");
    topics.iter().find(|topic| topic["topic"] == name).unwrap_or_else(|| panic!("no {name}: {}", said.text))
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as i64)
}

fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_is_said_while_producers_write_and_unknown_once_the_region_is_down() -> Result<()> {
    let (eu, us) = tokio::try_join!(Cluster::builder().name("eu").start(), Cluster::builder().name("us").start())?;
    for (topic, settings) in
        [("orders", &[][..]), ("payments", &[]), ("clicks", &[("message.timestamp.type", "LogAppendTime")])]
    {
        eu.create_topic(topic, 2, 1, &[]).await?;
        us.create_topic(topic, 2, 1, settings).await?;
    }
    let config = ProxyConfig::new("eu", &eu.bootstrap()).region("us", &us.bootstrap());
    let mut proxy = Proxy::start(DIFFLUENT, config).await?;
    let through = proxy.bootstrap();
    let orders = Workload {
        records: u64::MAX,
        rate: Some(500),
        headers: 3,
        codec: Codec::Zstd,
        idempotent: true,
        ..Workload::new(&through, "orders")
    }
    .start()?;
    let payments = Workload {
        records: 600,
        transactions: Some(Transactions { id: "payments".into(), records: 20, abort_every: 3 }),
        ..Workload::new(&through, "payments")
    };
    assert_eq!(payments.run().await?.failed, 0);
    assert_eq!(Workload { records: 500, ..Workload::new(&through, "clicks") }.run().await?.failed, 0);
    // Somebody else writes to the region's topic.
    assert_eq!(Workload { records: 70, seed: 9, ..Workload::new(&us.bootstrap(), "payments") }.run().await?.failed, 0);
    wait_mirrored(&eu, &proxy, &["us"], &["orders", "payments", "clicks"]).await?;

    let acked = orders.acked();
    let since = Instant::now();
    let said = loop {
        let said = verify_once_committed(&proxy, &[]).await?;
        assert_eq!(said.code, Some(0), "{}", said.text);
        let sum = |topic: &Value, field: &str| -> u64 {
            topic["partitions"].as_array().expect("partitions").iter().filter_map(|found| found[field].as_u64()).sum()
        };
        // Progress is committed once a second: it must have come as far as the first records.
        if sum(topic(&said, "orders"), "equal") >= acked && sum(topic(&said, "clicks"), "equal") == 500 {
            assert_eq!(sum(topic(&said, "clicks"), "timestamps_not_compared"), 500);
            break said;
        }
        assert!(since.elapsed() < PATIENCE, "{}", said.text);
    };
    let counted = |topic: &Value, side: &str, field: &str| -> u64 {
        topic["partitions"].as_array().expect("partitions").iter().filter_map(|found| found[side][field].as_u64()).sum()
    };
    let paid = topic(&said, "payments");
    assert_eq!(counted(paid, "source", "records") + counted(paid, "source", "aborted"), 600, "{paid:#}");
    assert!(counted(paid, "source", "aborted") >= 180, "{paid:#}");
    assert_eq!(counted(paid, "region", "records"), counted(paid, "source", "records"), "{paid:#}");
    assert!(counted(paid, "region", "other_writers") <= 70, "{paid:#}");

    let before = orders.acked();
    let sampled = verify(&proxy, &["--topic", "ord.*", "--sample", "30%", "--seed", "7"], false).await?;
    assert_eq!(sampled.code, Some(0), "{}", sampled.text);
    assert!(sampled.text.contains("--seed 7") && !sampled.text.contains("payments"), "{}", sampled.text);
    let deadline = Instant::now() + PATIENCE;
    while orders.acked() == before {
        assert!(Instant::now() < deadline, "the producer has ended: nothing is proven");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    orders.stop();
    assert_eq!(orders.finish().await?.failed, 0);

    for wrong in [&["--region", "ap"][..], &["--since", "1 x"], &["--sample", "2"], &["--topic", "("]] {
        let said = verify(&proxy, wrong, false).await?;
        assert_eq!(said.code, Some(64), "{wrong:?}: {}", said.text);
    }

    assert!(proxy.stop().await?.success());
    proxy.check_log()?;
    us.kill_all();
    let said = verify(&proxy, &[], true).await?;
    assert_eq!((said.code, &said.report["result"]), (Some(2), &json!("unknown")), "{}", said.text);
    let why = &said.report["regions"][0]["unknown"];
    assert!(why["reason"].as_str().is_some_and(|reason| reason.starts_with("us: cannot connect")), "{why}");
    assert!(why["advice"].as_str().is_some_and(|advice| advice.contains("diffluent check")), "{why}");
    Ok(())
}

/// Removes what a log of partition 0 has before `offset`, as retention would.
async fn cut(cluster: &Cluster, topic: &str, offset: i64) -> Result<()> {
    let cut = DeleteRecordsPartition::default().with_partition_index(0).with_offset(offset);
    let cut = DeleteRecordsTopic::default().with_name(name(topic)).with_partitions(vec![cut]);
    let request = DeleteRecordsRequest::default().with_topics(vec![cut]).with_timeout_ms(30_000);
    let answer = Call::connect(&cluster.bootstrap()).await?.call(&request, 2).await?;
    ensure!(answer.topics[0].partitions[0].error_code == 0, "{answer:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_took_from_either_side_is_said_and_the_rest_is_compared() -> Result<()> {
    let (eu, us) = tokio::try_join!(Cluster::builder().name("eu").start(), Cluster::builder().name("us").start())?;
    eu.create_topic("orders", 1, 1, &[]).await?;
    let two_hours_ago = Some(now_ms() - 2 * 3_600_000);
    let old = Workload { records: 2_000, timestamp: two_hours_ago, ..Workload::new(&eu.bootstrap(), "orders") };
    assert_eq!(old.run().await?.failed, 0);
    let late = RegionConfig {
        start: Some("latest".into()),
        extra: "topic_name = \"late-{topic}\"\n".into(),
        ..RegionConfig::new("late", &us.bootstrap())
    };
    let config = ProxyConfig::new("eu", &eu.bootstrap()).region("us", &us.bootstrap()).region_with(late);
    let proxy = Proxy::start(DIFFLUENT, config).await?;
    wait_mirrored(&eu, &proxy, &["us", "late"], &["orders"]).await?;
    let new = Workload { records: 1_000, first: 2_000, ..Workload::new(&proxy.bootstrap(), "orders") };
    assert_eq!(new.run().await?.failed, 0);
    wait_mirrored(&eu, &proxy, &["us", "late"], &["orders"]).await?;
    // Once all is committed. What is older than the stream that began at the log's end is not missing.
    let since = Instant::now();
    for (region, records) in [("us", 3_000), ("late", 1_000)] {
        loop {
            let said = verify_once_committed(&proxy, &["--region", region]).await?;
            assert_eq!(said.code, Some(0), "{}", said.text);
            let partition = &topic(&said, "orders")["partitions"][0];
            if partition["equal"] == records {
                let began = "the stream began at source offset 2000 (start = \"latest\")";
                assert_eq!(partition["notes"] == json!([began]), region == "late", "{partition:#}");
                break;
            }
            assert!(since.elapsed() < PATIENCE, "{}", said.text);
        }
    }
    for (cluster, offset, equal, said_of_it) in [
        (
            &us,
            700,
            2_300,
            "the region's log begins at offset 700: retention took what the source has at offsets 0 to 699",
        ),
        (
            &eu,
            1_200,
            1_800,
            "the source's log begins at offset 1200: retention took what the region has at offsets 700 to 1199",
        ),
    ] {
        cut(cluster, "orders", offset).await?;
        let said = verify(&proxy, &["--region", "us"], true).await?;
        assert_eq!(said.code, Some(2), "{}", said.text);
        let partition = &topic(&said, "orders")["partitions"][0];
        assert_eq!((&partition["equal"], &partition["missing"]), (&json!(equal), &json!(0)), "{partition:#}");
        let reason = partition["unknown"][0]["reason"].as_str().unwrap_or_default();
        assert!(reason.contains(said_of_it), "{reason}");
    }
    let said = verify(&proxy, &["--region", "us", "--since", "1h"], true).await?;
    assert_eq!(said.code, Some(0), "{}", said.text);
    assert_eq!(topic(&said, "orders")["partitions"][0]["equal"], 1_000);
    proxy.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_compaction_took_from_a_region_is_no_difference_but_can_not_be_told() -> Result<()> {
    let cleaning = Cluster::builder().name("us").config("log.cleaner.backoff.ms", "100");
    let (eu, us) = tokio::try_join!(Cluster::builder().name("eu").start(), cleaning.start())?;
    eu.create_topic("state", 1, 1, &[]).await?;
    let compact = [("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0.01"), ("segment.ms", "200")];
    us.create_topic("state", 1, 1, &compact).await?;
    let proxy = Proxy::start(DIFFLUENT, ProxyConfig::new("eu", &eu.bootstrap()).region("us", &us.bootstrap())).await?;
    let since = Instant::now();
    let mut first = 0;
    loop {
        // The cleaner leaves the active segment alone: later records open a new one.
        let states = Workload { records: 200, keys: 30, first, ..Workload::new(&proxy.bootstrap(), "state") };
        assert_eq!(states.run().await?.failed, 0);
        first += 200;
        wait_mirrored(&eu, &proxy, &["us"], &["state"]).await?;
        let said = verify_once_committed(&proxy, &[]).await?;
        assert_ne!(said.code, Some(1), "{}", said.text);
        let partition = &topic(&said, "state")["partitions"][0];
        if partition["compacted_in_region"].as_u64().is_some_and(|records| records > 0) {
            assert_eq!(said.code, Some(2), "{}", said.text);
            let reason = partition["unknown"][0]["reason"].as_str().unwrap_or_default();
            assert!(reason.contains("compaction took"), "{partition:#}");
            break;
        }
        assert!(since.elapsed() < PATIENCE, "the cleaner does not clean: {}", said.text);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    proxy.finish().await
}

/// Records of a source, each with two headers; 10 ms apart.
fn records(count: usize) -> Vec<Record> {
    let header = |name: &'static str, value: String| (StrBytes::from_static_str(name), Some(Bytes::from(value)));
    (0..count)
        .map(|at| Record {
            sequence: -1,
            key: Some(Bytes::from(format!("key-{}", at % 7))),
            headers: IndexMap::from_iter([header("a", at.to_string()), header("b", "x".into())]),
            ..record(at as i64, 1_700_000_000_000 + 10 * at as i64, Bytes::from(format!("value-{at}")))
        })
        .collect()
}

/// Appends records to partition 0, as a stream with this id would, or as a client; 25 a batch.
async fn append(cluster: &Cluster, topic: &str, records: &[Record], producer_id: Option<i64>) -> Result<()> {
    let mut call = Call::connect(&cluster.bootstrap()).await?;
    for (number, chunk) in records.chunks(25).enumerate() {
        let numbered = chunk.iter().enumerate().map(|(at, record)| Record {
            offset: at as i64,
            // The encoder begins another batch where sequences do not go on.
            sequence: if producer_id.is_some() { (number * 25 + at) as i32 } else { at as i32 - 1 },
            producer_id: producer_id.unwrap_or(-1),
            producer_epoch: if producer_id.is_some() { 0 } else { -1 },
            ..record.clone()
        });
        let mut batch = BytesMut::new();
        let options = RecordEncodeOptions { version: 2, compression: Compression::Lz4 };
        RecordBatchEncoder::encode(&mut batch, &numbered.collect::<Vec<_>>(), &options)?;
        let data = PartitionProduceData::default().with_index(0).with_records(Some(batch.freeze()));
        let data = TopicProduceData::default().with_name(name(topic)).with_partition_data(vec![data]);
        let request = ProduceRequest::default().with_acks(-1).with_timeout_ms(30_000).with_topic_data(vec![data]);
        let answer = call.call(&request, 9).await?;
        let code = answer.responses[0].partition_responses[0].error_code;
        ensure!(code == 0, "{}: {topic}: error {code}", cluster.name());
    }
    Ok(())
}

/// A damage: the topic's name, what is done to the region's records, and the one difference that must be told.
type Damage = (&'static str, fn(&mut Vec<Record>), Value);

fn told(kind: &str, source_offset: i64, region_offset: i64, fields: &[&str], repeats: Option<i64>) -> Value {
    json!({
        "kind": kind, "source_offset": source_offset, "region_offset": region_offset, "fields": fields,
        "repeats_source_offset": repeats,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_damage_in_a_region_is_named_with_its_offsets() -> Result<()> {
    const RECORDS: usize = 200;
    let damages: Vec<Damage> = vec![
        ("missing", |log| drop(log.remove(120)), told("missing", 120, 120, &[], None)),
        ("repeated", |log| log.insert(90, log[80].clone()), told("extra", 90, 90, &[], Some(80))),
        ("extra", |log| log.insert(150, records(1_000).remove(999)), told("extra", 150, 150, &[], None)),
        ("value", |log| log[30].value = None, told("changed", 30, 30, &["value"], None)),
        ("key", |log| log[31].key = Some(Bytes::new()), told("changed", 31, 31, &["key"], None)),
        ("timestamp", |log| log[32].timestamp += 1, told("changed", 32, 32, &["timestamp"], None)),
        ("headers", |log| log[33].headers.reverse(), told("changed", 33, 33, &["headers"], None)),
        ("order", |log| log.swap(40, 41), told("out_of_order", 40, 41, &[], None)),
    ];
    let (eu, us) = tokio::try_join!(Cluster::builder().name("eu").start(), Cluster::builder().name("us").start())?;
    let mut committed = Vec::new();
    let names = damages.iter().map(|(topic, ..)| *topic).chain(["undamaged"]);
    for topic in names {
        eu.create_topic(topic, 1, 1, &[]).await?;
        us.create_topic(topic, 1, 1, &[]).await?;
        let source = records(RECORDS);
        append(&eu, topic, &source, None).await?;
        let mut region = source;
        if let Some((_, damage, _)) = damages.iter().find(|(name, ..)| *name == topic) {
            damage(&mut region);
        }
        let metadata = eu.admin().metadata(&[topic]).await?;
        let cluster_id = metadata.cluster_id.context("no cluster id")?;
        let topic_id = metadata.topics[0].topic_id;
        let region_topic_id = us.admin().metadata(&[topic]).await?.topics[0].topic_id;
        append(&us, topic, &region, Some(reserved_producer_id(&cluster_id, topic_id))).await?;
        // Others' records, behind: of another stream, and of a client.
        append(&us, topic, &records(3), Some(reserved_producer_id("another", topic_id))).await?;
        append(&us, topic, &records(2), None).await?;
        let topic = topic.to_owned();
        let (source_records, region_records) = (RECORDS, region.len() + 5);
        let sequence = source_records;
        committed.push(Progress { topic, topic_id, source_records, sequence, region_topic_id, region_records });
    }
    commit(&eu, "us", &committed).await?;
    eu.create_topic("fresh", 1, 1, &[]).await?;
    let region = RegionConfig::new("us", &us.bootstrap());
    let proxy = Proxy::prepare(DIFFLUENT, ProxyConfig::new("eu", &eu.bootstrap()).region_with(region))?;

    let said = verify(&proxy, &[], true).await?;
    assert_eq!((said.code, &said.report["result"]), (Some(1), &json!("different")), "{}", said.text);
    for (name, _, expected) in &damages {
        let partition = &topic(&said, name)["partitions"][0];
        assert_eq!(partition["differences"], json!([expected]), "{name}: {partition:#}");
        let totals = ["missing", "extra", "changed", "out_of_order"].map(|kind| partition[kind].as_u64().unwrap_or(9));
        assert_eq!(totals.iter().sum::<u64>(), 1, "{name}: {partition:#}");
        assert_eq!(partition["result"], "different", "{name}");
    }
    let sound = &topic(&said, "undamaged")["partitions"][0];
    assert_eq!((&sound["result"], &sound["equal"]), (&json!("equal"), &json!(RECORDS)), "{sound:#}");
    let (streams, writers) = (&sound["region"]["other_streams"], &sound["region"]["other_writers"]);
    assert_eq!((streams, writers), (&json!(3), &json!(2)), "{sound:#}");

    // The same in words; and what has no progress can't be told.
    let said = verify(&proxy, &["--topic", "order|fresh", "--region", "us"], false).await?;
    assert_eq!(said.code, Some(1), "{}", said.text);
    for part in [
        "out of order: source offset 40, region offset 41",
        "fresh-0: no progress is committed",
        "-> let diffluent run",
    ] {
        assert!(said.text.contains(part), "{part:?} is not in\n{}", said.text);
    }
    assert_eq!(verify(&proxy, &["--topic", "fresh|undamaged"], true).await?.code, Some(2));
    assert_eq!(verify(&proxy, &["--topic", "undamaged"], true).await?.code, Some(0));
    // A sample of all is all.
    let said = verify(&proxy, &["--topic", "missing|value", "--sample", "100%"], true).await?;
    assert_eq!(said.code, Some(1), "{}", said.text);
    for damaged in ["missing", "value"] {
        assert_eq!(topic(&said, damaged)["result"], "different", "{}", said.text);
    }
    Ok(())
}
