//! Topics that come, go, grow, are cut short, may not be made or written to: on real Kafka, two clusters for all cases.

mod common;

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use common::progress::{Progress, commit};
use common::{DIFFLUENT, PATIENCE, assert_topic_equal, wait_mirrored};
use diffluent_testbed::kafka::rules::{On, Operation};
use diffluent_testbed::verify::Kind;
use diffluent_testbed::{Cluster, DelaySpec, Proxy, ProxyConfig, RegionConfig, Side, Workload, verify};
use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard, OnceCell};

/// The clusters, shared by the tests, which take turns.
struct World {
    eu: Cluster,
    /// With an authorizer, and behind a line that can be cut.
    us: Cluster,
}

async fn world() -> Result<MutexGuard<'static, World>> {
    static WORLD: OnceCell<Mutex<World>> = OnceCell::const_new();
    let start = || async {
        let us = Cluster::builder().name("us").open_authorizer().listener_via(DelaySpec::rtt_ms(2));
        let (eu, us) = tokio::try_join!(Cluster::builder().name("eu").start(), us.start())?;
        Ok::<_, anyhow::Error>(Mutex::new(World { eu, us }))
    };
    Ok(WORLD.get_or_try_init(start).await?.lock().await)
}

impl World {
    /// A proxy that mirrors the topics that match; the region's name is the case's, so that no two share progress.
    fn config(&self, case: &str, topics: &str) -> ProxyConfig {
        let mut region = RegionConfig::new(case, &self.us.bootstrap());
        region.topics = vec![topics.to_owned()];
        ProxyConfig::new("eu", &self.eu.bootstrap()).region_with(region)
    }

    async fn compare(&self, topic: &str) -> Result<verify::Report> {
        verify::compare(&Side::new("eu", &self.eu.bootstrap()), &Side::new("us", &self.us.bootstrap()), topic).await
    }
}

fn records(proxy: &Proxy, topic: &str, first: u64, records: u64) -> Workload {
    Workload { first, records, ..Workload::new(&proxy.bootstrap(), topic) }
}

async fn run(workload: Workload) -> Result<()> {
    let topic = workload.topic.clone();
    let outcome = workload.run().await?;
    ensure!(outcome.failed == 0, "{topic}: {:?}", outcome.errors);
    Ok(())
}

/// The lag of a topic, once `holds`.
async fn lag_when(
    proxy: &Proxy,
    region: &str,
    topic: &str,
    what: &str,
    holds: impl Fn(&Value) -> bool,
) -> Result<Value> {
    let since = Instant::now();
    loop {
        let lag = proxy.get(&format!("/lag/{region}/{topic}")).await.unwrap_or_default();
        let lag: Value = serde_json::from_str(&lag).unwrap_or_default();
        if holds(&lag) {
            return Ok(lag);
        }
        ensure!(since.elapsed() < PATIENCE, "{topic} is not {what}: {lag:#}\n{}", proxy.log_text()?);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What stalls partition 0, once something does.
async fn stalled(proxy: &Proxy, region: &str, topic: &str) -> Result<String> {
    let is_stalled = |lag: &Value| lag["partitions"][0]["state"] == "stalled";
    let lag = lag_when(proxy, region, topic, "stalled", is_stalled).await?;
    let stream = &lag["partitions"][0];
    ensure!(stream["remedy"].is_string(), "nothing is said about what to do: {stream:#}");
    Ok(stream["reason"].as_str().context("no reason")?.to_owned())
}

fn assert_says(reason: &str, parts: &[&str]) {
    for part in parts {
        assert!(reason.contains(part), "{part:?} is not in {reason:?}");
    }
}

/// Waits until the region holds so many records of the topic.
async fn wait_held(world: &World, proxy: &Proxy, topic: &str, records: i64) -> Result<()> {
    let since = Instant::now();
    loop {
        let held: i64 = world.us.admin().end_offsets(topic).await.unwrap_or_default().iter().sum();
        if held >= records {
            ensure!(held == records, "{held} records instead of {records}");
            return Ok(());
        }
        ensure!(since.elapsed() < PATIENCE, "{held} of {records} records of {topic}:\n{}", proxy.log_text()?);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_made_deleted_and_made_anew_is_mirrored_each_time_from_its_beginning() -> Result<()> {
    const TOPIC: &str = "made-anew";
    let world = world().await?;
    let proxy = Proxy::start(DIFFLUENT, world.config("anew", TOPIC)).await?;
    world.eu.create_topic(TOPIC, 2, 1, &[]).await?;
    run(records(&proxy, TOPIC, 0, 100)).await?;
    wait_mirrored(&world.eu, &proxy, &["anew"], &[TOPIC]).await?;
    assert_topic_equal(&world.eu, &world.us, TOPIC).await?;

    world.eu.delete_topic(TOPIC).await?;
    // Its streams may still be there when the next one comes, or not.
    world.eu.create_topic(TOPIC, 2, 1, &[]).await?;
    run(Workload { seed: 2, ..records(&proxy, TOPIC, 1_000, 70) }).await?;
    wait_held(&world, &proxy, TOPIC, 170).await?;
    let report = world.compare(TOPIC).await?;
    assert_eq!((report.records, report.count(Kind::Extra)), (70, 100), "what the first one held stays: {report}");
    assert_eq!((report.count(Kind::Missing), report.count(Kind::Duplicate)), (0, 0), "{report}");
    proxy.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_on_where_an_earlier_topic_of_the_same_name_was() -> Result<()> {
    const TOPIC: &str = "same-name";
    let world = world().await?;
    world.eu.create_topic(TOPIC, 1, 1, &[]).await?;
    // A record a batch: what begins within a batch begins with the whole of it.
    let config = vec![("batch.num.messages".to_owned(), "1".to_owned())];
    run(Workload { records: 100, config, ..Workload::new(&world.eu.bootstrap(), TOPIC) }).await?;
    // A cluster drops what is committed of a topic that is deleted; but this commit was under way then, and came when the next topic was there.
    let topic_id = uuid::Uuid::from_u128(1);
    // It had begun at that log's end and sent nothing yet: nothing in the region says otherwise.
    world.us.create_topic(TOPIC, 1, 1, &[]).await?;
    let region_topic_id = world.us.admin().metadata(&[TOPIC]).await?.topics[0].topic_id;
    let topic = TOPIC.to_owned();
    let stale = Progress { topic, topic_id, source_records: 60, sequence: 0, region_topic_id, region_records: 0 };
    commit(&world.eu, TOPIC, &[stale]).await?;
    let proxy = Proxy::start(DIFFLUENT, world.config(TOPIC, TOPIC)).await?;
    wait_mirrored(&world.eu, &proxy, &[TOPIC], &[TOPIC]).await?;
    assert_topic_equal(&world.eu, &world.us, TOPIC).await?;
    proxy.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_are_added_on_either_side_first_lose_nothing() -> Result<()> {
    let world = world().await?;
    for (topic, partitions_there) in [("fewer-there", 1), ("more-there", 4)] {
        world.eu.create_topic(topic, 2, 1, &[]).await?;
        world.us.create_topic(topic, partitions_there, 1, &[]).await?;
    }
    let mut config = world.config("growing", "(fewer|more)-there");
    // A partition that is added is mirrored from its beginning all the same.
    config.regions[0].start = Some("latest".into());
    let proxy = Proxy::start(DIFFLUENT, config).await?;
    for topic in ["fewer-there", "more-there"] {
        let begun = |lag: &Value| {
            lag["partitions"]
                .as_array()
                .is_some_and(|all| all.len() == 2 && all.iter().all(|one| one["state"] == "mirroring"))
        };
        lag_when(&proxy, "growing", topic, "begun", begun).await?;
        run(records(&proxy, topic, 0, 200)).await?;
        // The source first, then the region.
        world.eu.admin().create_partitions(topic, 3).await?;
        run(Workload { partition: Some(2), ..records(&proxy, topic, 1_000, 100) }).await?;
        wait_mirrored(&world.eu, &proxy, &["growing"], &[topic]).await?;
        world.us.admin().create_partitions(topic, 6).await?;
        world.eu.admin().create_partitions(topic, 5).await?;
        run(Workload { partition: Some(4), ..records(&proxy, topic, 2_000, 100) }).await?;
        wait_mirrored(&world.eu, &proxy, &["growing"], &[topic]).await?;
        let report = world.compare(topic).await?;
        assert!(report.counts.iter().all(|(_, count)| *count == 0) && report.records == 400, "{report}");
        assert_eq!(world.us.admin().partitions(topic).await?, 6);
    }
    proxy.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_takes_while_a_region_is_cut_off_is_named_once_and_counted_for_ever() -> Result<()> {
    const TOPIC: &str = "cut-short";
    let world = world().await?;
    world.eu.create_topic(TOPIC, 1, 1, &[]).await?;
    let mut config = world.config("short", TOPIC).allow("can't be reached").allow("no longer has these offsets");
    config.regions[0].bootstrap = world.us.delayed_bootstrap();
    let mut proxy = Proxy::start(DIFFLUENT, config).await?;
    run(records(&proxy, TOPIC, 0, 100)).await?;
    wait_mirrored(&world.eu, &proxy, &["short"], &[TOPIC]).await?;

    let line = world.us.delay().context("no line")?;
    line.cut().await;
    // Of these the first 60 go: one batch a record, so that offsets are exact.
    let one_a_batch = vec![("batch.num.messages".into(), "1".into())];
    run(Workload { config: one_a_batch, ..records(&proxy, TOPIC, 100, 100) }).await?;
    lag_when(&proxy, "short", TOPIC, "unreachable", |lag| lag["state"] == "unreachable").await?;
    world.eu.admin().delete_records(TOPIC, 0, 160).await?;
    line.restore().await;
    wait_mirrored(&world.eu, &proxy, &["short"], &[TOPIC]).await?;

    let lost = |lag: &Value| lag["partitions"][0]["lost_records"] == 60;
    lag_when(&proxy, "short", TOPIC, "counted", lost).await?;
    assert_eq!(proxy.metric_with("diffluent_lost_records_total", &["region=\"short\""]).await?, 60.0);
    let told = |text: &str| text.lines().filter(|line| line.contains("no longer has these offsets")).count();
    let log = proxy.log_text()?;
    assert_eq!(told(&log), 1, "{log}");
    for part in ["from_offset=100", "to_offset=160", "records=60"] {
        assert!(log.contains(part), "{part} is not in the log");
    }
    let events: Value = serde_json::from_str(&proxy.get("/events").await?)?;
    let events: Vec<&Value> =
        events["events"].as_array().into_iter().flatten().filter(|event| event["kind"] == "records_lost").collect();
    assert!(events.len() == 1 && events[0]["message"].as_str().is_some_and(|text| text.contains("100 to 160")));
    // The local log has no more than the region now; the region has what it got before.
    let report = world.compare(TOPIC).await?;
    assert_eq!((report.records, report.count(Kind::Missing), report.count(Kind::Duplicate)), (40, 0, 0), "{report}");
    assert_eq!(report.count(Kind::Extra), 100, "{report}");

    // It goes on, and remembers.
    run(records(&proxy, TOPIC, 200, 50)).await?;
    wait_mirrored(&world.eu, &proxy, &["short"], &[TOPIC]).await?;
    assert!(proxy.stop().await?.success());
    proxy.restart().await?;
    lag_when(&proxy, "short", TOPIC, "counted", lost).await?;
    run(records(&proxy, TOPIC, 250, 50)).await?;
    wait_mirrored(&world.eu, &proxy, &["short"], &[TOPIC]).await?;
    lag_when(&proxy, "short", TOPIC, "counted", lost).await?;
    assert_eq!(told(&proxy.log_text()?), 1, "once, over restarts");
    assert_eq!(world.us.admin().end_offsets(TOPIC).await?, [240]);
    proxy.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn where_topics_may_not_be_made_the_command_that_makes_them_is_named() -> Result<()> {
    const TOPIC: &str = "forbidden-to-make";
    let world = world().await?;
    let admin = world.us.admin();
    world.eu.create_topic(TOPIC, 3, 1, &[("cleanup.policy", "compact"), ("retention.ms", "1000000")]).await?;
    admin.deny(On::Cluster, Operation::Create).await?;
    admin.deny(On::Topic(TOPIC), Operation::Create).await?;
    let proxy = Proxy::start(DIFFLUENT, world.config("forbidden", TOPIC).allow("the stream is stalled")).await?;
    run(records(&proxy, TOPIC, 0, 100)).await?;
    let command = "kafka-topics --create --topic forbidden-to-make --partitions 3 --config cleanup.policy=compact";
    let reason = stalled(&proxy, "forbidden", TOPIC).await?;
    assert_says(&reason, &["lacks the right Create", "TOPIC_AUTHORIZATION_FAILED (29)", command]);
    admin.allow_all(On::Cluster).await?;
    admin.allow_all(On::Topic(TOPIC)).await?;
    wait_mirrored(&world.eu, &proxy, &["forbidden"], &[TOPIC]).await?;
    assert_topic_equal(&world.eu, &world.us, TOPIC).await?;
    // What decides about its records comes along, what does not is the region's own.
    assert_eq!(admin.topic_config(TOPIC, "cleanup.policy").await?, "compact");
    assert_ne!(admin.topic_config(TOPIC, "retention.ms").await?, "1000000");
    proxy.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_stalls_its_stream_alone_says_what_to_do_and_ends_with_its_cause() -> Result<()> {
    const DAY: Duration = Duration::from_secs(86_400);
    let world = world().await?;
    let admin = world.us.admin();
    let names = ["refused-old", "refused-keyless", "refused-write", "refused-read", "not-refused"];
    let [old, keyless, write, read, healthy] = names;
    for topic in names {
        world.eu.create_topic(topic, 1, 1, &[]).await?;
    }
    world.us.create_topic(old, 1, 1, &[("message.timestamp.before.max.ms", "3600000")]).await?;
    world.us.create_topic(keyless, 1, 1, &[("cleanup.policy", "compact")]).await?;
    world.us.create_topic(write, 1, 1, &[]).await?;
    admin.deny(On::Topic(write), Operation::Write).await?;
    let config = world.config("refusing", "(not-)?refused.*").allow("the stream is stalled");
    let mut proxy = Proxy::start(DIFFLUENT, config).await?;
    // Only a search of the region's log needs to read there: one that begins again makes it.
    run(records(&proxy, read, 0, 10)).await?;
    wait_mirrored(&world.eu, &proxy, &["refusing"], &[read]).await?;
    admin.deny(On::Topic(read), Operation::Read).await?;
    proxy.restart().await?;

    let days_ago = i64::try_from((SystemTime::now() - 3 * DAY).duration_since(SystemTime::UNIX_EPOCH)?.as_millis())?;
    run(Workload { timestamp: Some(days_ago), ..records(&proxy, old, 0, 20) }).await?;
    run(Workload { keys: 0, ..records(&proxy, keyless, 0, 20) }).await?;
    for topic in [write, read, healthy] {
        run(records(&proxy, topic, 10, 20)).await?;
    }
    wait_mirrored(&world.eu, &proxy, &["refusing"], &[healthy]).await?;
    let region = "refusing";
    let begins = "the region refuses the batch at source offset 0";
    let reason = stalled(&proxy, region, old).await?;
    assert_says(&reason, &[begins, "INVALID_TIMESTAMP (32)", "raise message.timestamp.before.max.ms"]);
    let reason = stalled(&proxy, region, keyless).await?;
    // What the broker itself says about it.
    assert_says(&reason, &[begins, "INVALID_RECORD (87)", "Compacted topic cannot accept message"]);
    let reason = stalled(&proxy, region, write).await?;
    assert_says(&reason, &["lacks the right Write", "TOPIC_AUTHORIZATION_FAILED (29)", "--operation Write"]);
    let reason = stalled(&proxy, region, read).await?;
    assert_says(&reason, &["lacks the right Read", "TOPIC_AUTHORIZATION_FAILED (29)", "--operation Read"]);
    lag_when(&proxy, region, healthy, "well", |lag| lag["state"] == "mirroring").await?;

    admin.set_topic_config(old, &[("message.timestamp.before.max.ms", None)]).await?;
    admin.set_topic_config(keyless, &[("cleanup.policy", Some("delete"))]).await?;
    admin.allow_all(On::Topic(write)).await?;
    admin.allow_all(On::Topic(read)).await?;
    wait_mirrored(&world.eu, &proxy, &[region], &names).await?;
    for topic in names {
        assert_topic_equal(&world.eu, &world.us, topic).await?;
    }
    proxy.finish().await
}
