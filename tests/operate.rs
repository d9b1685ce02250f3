//! What an operator asks of a running proxy, over HTTP and on the command line, on real Kafka.

mod common;

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use common::{DIFFLUENT, PATIENCE, World, assert_topic_equal, wait_mirrored};
use diffluent_testbed::{Cluster, Proxy, Workload, http};
use serde_json::Value;
use tokio::process::Command;

/// Asks for something; status and answer.
async fn post(proxy: &Proxy, path: &str) -> Result<(u16, Value)> {
    let (status, body) = http::request(&proxy.admin_addr(), "POST", path).await?;
    Ok((status, serde_json::from_str(&body).with_context(|| format!("POST {path}: {body}"))?))
}

/// Runs `diffluent COMMAND proxy.toml ARGS`: exit code, standard output and standard error.
async fn diffluent(proxy: &Proxy, command: &str, args: &[&str]) -> Result<(Option<i32>, String, String)> {
    let mut run = Command::new(DIFFLUENT);
    run.arg(command).arg(proxy.config_path()).args(args).env("USER", "ann").stdin(Stdio::null());
    let output = run.output().await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status.code(), text(&output.stdout), text(&output.stderr)))
}

async fn done(proxy: &Proxy, path: &str) -> Result<Value> {
    let (status, answer) = post(proxy, path).await?;
    assert!(matches!(status, 200 | 202), "POST {path}: {status} {answer:#}");
    Ok(answer)
}

async fn get(proxy: &Proxy, path: &str) -> Result<Value> {
    Ok(serde_json::from_str(&proxy.get(path).await?)?)
}

/// What `path` answers, once it `holds`.
async fn when(proxy: &Proxy, path: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Result<Value> {
    let since = Instant::now();
    loop {
        // What is not there yet is waited for, too.
        let now = get(proxy, path).await.unwrap_or_default();
        if holds(&now) {
            return Ok(now);
        }
        assert!(since.elapsed() < PATIENCE, "{path} is not {what}: {now:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Offsets that a region's topic has, all partitions together.
async fn held(region: &Cluster, topic: &str) -> Result<i64> {
    Ok(region.admin().end_offsets(topic).await?.iter().sum())
}

fn produce(proxy: &Proxy, topic: &str, first: u64, records: u64) -> Workload {
    Workload { first, records, ..Workload::new(&proxy.bootstrap(), topic) }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_steers_a_running_proxy() -> Result<()> {
    let mut world = World::start_with(|config| {
        config
            .allow("an operator has rewound the stream")
            .allow("can't be reached")
            .allow("was deleted in the region")
            .allow("has lost all that this stream wrote")
            .allow("does not hold what it has acknowledged")
    })
    .await?;
    a_paused_region_gets_nothing_says_so_and_has_everything_after_it_is_resumed(&mut world).await?;
    a_paused_topic_waits_alone(&world).await?;
    a_throttled_region_keeps_to_its_limit_until_it_is_resumed(&world).await?;
    a_rewound_stream_sends_again_what_comes_after(&world).await?;
    a_topic_that_was_deleted_in_a_region_is_whole_again_after_a_rewind(&world).await?;
    what_is_not_there_is_said_with_what_is(&world.proxy).await?;
    world.proxy.finish().await
}

async fn a_paused_region_gets_nothing_says_so_and_has_everything_after_it_is_resumed(world: &mut World) -> Result<()> {
    let (eu, us, ap, proxy) = (&world.eu, &world.us, &world.ap, &mut world.proxy);
    eu.create_topic("orders", 3, 1, &[]).await?;
    let producer = Workload { rate: Some(1_000), idempotent: true, ..produce(proxy, "orders", 0, u64::MAX) }.start()?;
    when(proxy, "/lag/us/orders", "mirrored", |lag| lag["mirrored_records"].as_u64() > Some(500)).await?;

    let answer = done(proxy, "/regions/us/pause").await?;
    assert!(answer["paused"]["by"].as_str().unwrap_or_default().starts_with("127.0.0.1:"), "{answer}");
    let paused = when(proxy, "/lag/us", "paused", |lag| lag["state"] == "paused").await?;
    let reason = paused["topics"][0]["partitions"][0]["reason"].as_str().unwrap_or_default();
    assert!(reason.starts_with("paused since 20") && reason.contains(" by 127.0.0.1:"), "{reason}");
    assert_eq!(paused["paused"], answer["paused"], "{paused:#}");
    // What was on its way has been answered once positions stand still.
    let mut before = held(us, "orders").await?;
    loop {
        let lag = paused_lag(proxy).await?;
        when(proxy, "/lag/us", "behind", |now| now["lag_records"].as_u64() > Some(lag + 500)).await?;
        let now = held(us, "orders").await?;
        if now == before {
            break;
        }
        before = now;
    }
    let partition = &get(proxy, "/lag/us/orders").await?["partitions"][0];
    assert!(partition["lag_seconds"].as_f64() > Some(0.2), "{partition:#}");
    // The other region goes on, and memory is not held for the one that waits.
    when(proxy, "/lag/ap", "mirroring", |lag| lag["state"] == "mirroring").await?;
    // A pause outlives a connection.
    us.kill_all();
    us.restart_all().await?;
    when(proxy, "/brokers", "there", |brokers| brokers["clusters"][1]["brokers"].as_array().map(Vec::len) == Some(1))
        .await?;
    assert_eq!(get(proxy, "/lag/us").await?["state"], "paused");
    assert_eq!(held(us, "orders").await?, before, "nothing was sent while it was paused");

    done(proxy, "/regions/us/resume").await?;
    when(proxy, "/lag/us", "going on", |lag| lag["state"] != "paused" && lag["paused"].is_null()).await?;
    producer.stop();
    assert_eq!(producer.finish().await?.failed, 0);
    wait_mirrored(eu, proxy, &["us", "ap"], &["orders"]).await?;
    assert_topic_equal(eu, us, "orders").await?;
    assert_topic_equal(eu, ap, "orders").await
}

async fn paused_lag(proxy: &Proxy) -> Result<u64> {
    get(proxy, "/lag/us").await?["lag_records"].as_u64().context("no lag")
}

async fn a_paused_topic_waits_alone(world: &World) -> Result<()> {
    let World { eu, us, proxy, .. } = world;
    eu.create_topic("clicks", 1, 1, &[]).await?;
    assert_eq!(produce(proxy, "clicks", 0, 100).run().await?.failed, 0);
    wait_mirrored(eu, proxy, &["us"], &["clicks"]).await?;
    done(proxy, "/regions/us/topics/clicks/pause").await?;
    when(proxy, "/lag/us/clicks", "paused", |topic| topic["state"] == "paused").await?;
    assert_eq!(produce(proxy, "clicks", 100, 100).run().await?.failed, 0);
    assert_eq!(produce(proxy, "orders", 1_000_000, 100).run().await?.failed, 0);
    wait_mirrored(eu, proxy, &["us"], &["orders"]).await?;
    wait_mirrored(eu, proxy, &["ap"], &["clicks"]).await?;
    when(proxy, "/lag/us/clicks", "behind", |topic| topic["lag_records"] == 100).await?;
    assert_eq!(held(us, "clicks").await?, 100);
    let told = diffluent(proxy, "resume", &["--region", "us", "--topic", "clicks"]).await?;
    assert_eq!(told, (Some(0), "topic clicks on its way to region us goes on\n".into(), String::new()));
    wait_mirrored(eu, proxy, &["us"], &["clicks"]).await?;
    assert_topic_equal(eu, us, "clicks").await
}

async fn a_throttled_region_keeps_to_its_limit_until_it_is_resumed(world: &World) -> Result<()> {
    let World { eu, us, proxy, .. } = world;
    eu.create_topic("bulk", 1, 1, &[]).await?;
    let answer = done(proxy, "/regions/us/throttle?rate_limit=256KiB").await?;
    assert_eq!(answer["limits"]["rate_limit"], 256 << 10, "{answer}");
    let begun = Instant::now();
    let bulk = Workload { value_bytes: 10_000, ..produce(proxy, "bulk", 0, 100) };
    assert_eq!(bulk.clone().run().await?.failed, 0);
    wait_mirrored(eu, proxy, &["us"], &["bulk"]).await?;
    // A million bytes, of which a tenth of a second's may pass at once.
    assert!(begun.elapsed() >= Duration::from_secs(3), "{:?}", begun.elapsed());
    let shown = get(proxy, "/regions").await?;
    assert!(shown["regions"][0]["limits"]["throttled"]["by"].is_string(), "{shown:#}");
    // A gigabyte would take an hour: what waits is let go at once.
    done(proxy, "/regions/us/throttle?rate_limit=64KiB").await?;
    assert_eq!(Workload { first: 100, records: 2_000, ..bulk }.run().await?.failed, 0);
    done(proxy, "/regions/us/resume").await?;
    wait_mirrored(eu, proxy, &["us"], &["bulk"]).await?;
    let limits = &get(proxy, "/lag/us").await?["limits"];
    assert!(limits["throttled"].is_null() && limits["rate_limit"].is_null(), "{limits}");
    assert_topic_equal(eu, us, "bulk").await
}

async fn a_rewound_stream_sends_again_what_comes_after(world: &World) -> Result<()> {
    let World { eu, us, proxy, .. } = world;
    eu.create_topic("events", 1, 1, &[("retention.ms", "-1")]).await?;
    // One record a batch: a batch is sent whole.
    let small = vec![("batch.num.messages".into(), "1".into())];
    let early = Workload { timestamp: Some(1_700_000_000_000), config: small, ..produce(proxy, "events", 0, 300) };
    assert_eq!(early.run().await?.failed, 0);
    wait_mirrored(eu, proxy, &["us", "ap"], &["events"]).await?;
    let path = "/regions/us/topics/events/partitions/0/rewind";
    let answer = done(proxy, &format!("{path}?offset=200")).await?;
    assert_eq!((&answer["rewound"], &answer["offsets"]), (&Value::from(1), &Value::from(100)), "{answer}");
    wait_mirrored(eu, proxy, &["us"], &["events"]).await?;
    assert_eq!(held(us, "events").await?, 400, "a hundred records are there twice");
    // Nobody is there to say yes; then somebody has said it.
    let args = ["--region", "us", "--topic", "events", "--offset", "290"];
    let (code, told, complaint) = diffluent(proxy, "rewind", &args).await?;
    assert!(code == Some(64) && told.is_empty() && complaint.contains("say --yes"), "{code:?} {complaint}");
    let (code, told, complaint) = diffluent(proxy, "rewind", &[&args[..], &["--yes"]].concat()).await?;
    assert_eq!((code, complaint.as_str()), (Some(0), ""));
    assert!(told.contains("streams begun anew: 1,") && told.contains("from source offset 300 back to 290"), "{told}");
    wait_mirrored(eu, proxy, &["us"], &["events"]).await?;
    // By time: the record with this timestamp is at offset 250.
    let answer = done(proxy, "/regions/us/topics/events/rewind?time=1700000000250").await?;
    assert_eq!(answer["rewound_streams"][0]["to_offset"], 250, "{answer}");
    wait_mirrored(eu, proxy, &["us"], &["events"]).await?;
    // It goes on from there.
    assert_eq!(produce(proxy, "events", 300, 100).run().await?.failed, 0);
    wait_mirrored(eu, proxy, &["us", "ap"], &["events"]).await?;
    assert_eq!(held(us, "events").await?, 400 + 10 + 50 + 100);
    assert_topic_equal(eu, &world.ap, "events").await?;
    let (status, answer) = post(proxy, &format!("{path}?offset=400")).await?;
    let message = answer["message"].as_str().unwrap_or_default();
    assert!(status == 409 && message.contains("it stands at source offset 400"), "{status} {answer}");
    let (status, answer) = post(proxy, "/regions/us/topics/events/rewind?time=2099-01-01T00:00:00Z").await?;
    assert!(
        status == 409 && answer["message"].as_str().unwrap_or_default().contains("no record of that time"),
        "{answer}"
    );
    Ok(())
}

async fn a_topic_that_was_deleted_in_a_region_is_whole_again_after_a_rewind(world: &World) -> Result<()> {
    let World { eu, us, proxy, .. } = world;
    us.admin().delete_topic("events").await?;
    when(proxy, "/lag/us/events", "stalled", |topic| topic["state"] == "stalled").await?;
    us.create_topic("events", 1, 1, &[("retention.ms", "-1")]).await?;
    let since = Instant::now();
    // Every few seconds the stream looks whether its records are back, and is not to be disturbed at that moment.
    loop {
        let (status, answer) = post(proxy, "/regions/us/topics/events/rewind?offset=0").await?;
        if status == 202 {
            break;
        }
        assert!(status == 409 && since.elapsed() < PATIENCE, "{status} {answer}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    wait_mirrored(eu, proxy, &["us"], &["events"]).await?;
    assert_topic_equal(eu, us, "events").await
}

async fn what_is_not_there_is_said_with_what_is(proxy: &Proxy) -> Result<()> {
    for (path, says) in [
        ("/regions/mars/pause", "there is no region \"mars\"; known regions: us, ap"),
        ("/regions/us/topics/nothing/pause", "topic \"nothing\" is not mirrored to region \"us\""),
        ("/regions/us/topics/nothing/rewind?offset=0", "topic \"nothing\" is not mirrored to region \"us\""),
        ("/regions/us/topics/orders/partitions/9/rewind?offset=0", "partition 9 of topic \"orders\" is not mirrored"),
    ] {
        let (status, answer) = post(proxy, path).await?;
        assert_eq!((status, answer["error_code"].as_u64()), (404, Some(404)), "{path}: {answer}");
        assert!(answer["message"].as_str().unwrap_or_default().contains(says), "{path}: {answer}");
    }
    for (command, args, code) in [
        ("pause", &["--region", "mars"][..], 1),
        ("pause", &[][..], 64),
        ("throttle", &["--region", "us"], 64),
        ("throttle", &["--region", "us", "--rate-limit", "ten"], 1),
        ("rewind", &["--region", "us", "--yes"], 64),
        ("rewind", &["--region", "us", "--offset", "0", "--time", "2026-11-27", "--yes"], 64),
    ] {
        let (exit, told, complaint) = diffluent(proxy, command, args).await?;
        assert!(
            exit == Some(code) && told.is_empty() && !complaint.is_empty(),
            "{command} {args:?}: {exit:?} {told} {complaint}"
        );
    }
    let (code, told, _) = diffluent(proxy, "events", &["--region", "us"]).await?;
    assert!(code == Some(0) && told.contains("  command  us, clicks: resume: done (by ann at 127.0.0.1:"), "{told}");
    let (code, told, _) = diffluent(proxy, "clients", &[]).await?;
    assert!(code == Some(0) && told.contains(" clients, "), "{told}");
    let events = get(proxy, "/events").await?;
    let told: Vec<&str> = events["events"]
        .as_array()
        .context("no events")?
        .iter()
        .filter_map(|event| event["message"].as_str())
        .collect();
    for command in [
        "pause: done",
        "resume: done",
        "throttle: done",
        "rewind to source offset 200: done",
        "pause: there is no region",
    ] {
        assert!(told.iter().any(|message| message.starts_with(command)), "no event {command:?} in {told:#?}");
    }
    Ok(())
}
