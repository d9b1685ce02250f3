//! A configuration that changes while clients are served: on real Kafka.

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use common::{DIFFLUENT, PATIENCE, assert_topic_equal, wait_mirrored};
use diffluent_testbed::{Cluster, Proxy, ProxyConfig, RegionConfig, Workload, http};
use rustix::process::Signal;
use serde_json::Value;
use tokio::process::Command;

async fn get(proxy: &Proxy, path: &str) -> Result<Value> {
    Ok(serde_json::from_str(&proxy.get(path).await?)?)
}

async fn post(proxy: &Proxy, path: &str) -> Result<(u16, Value)> {
    let (status, body) = http::request(&proxy.admin_addr(), "POST", path).await?;
    Ok((status, serde_json::from_str(&body).with_context(|| format!("POST {path}: {body}"))?))
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

/// Runs `diffluent COMMAND proxy.toml ARGS`: exit code, standard output and standard error.
async fn diffluent(proxy: &Proxy, command: &str, args: &[&str]) -> Result<(Option<i32>, String, String)> {
    let output = Command::new(DIFFLUENT).arg(command).arg(proxy.config_path()).args(args).env("USER", "ann").output();
    let output = output.await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status.code(), text(&output.stdout), text(&output.stderr)))
}

fn edit(file: &Path, change: impl FnOnce(String) -> String) -> Result<()> {
    Ok(std::fs::write(file, change(std::fs::read_to_string(file)?))?)
}

fn replace(proxy: &Proxy, from: &str, to: &str) -> Result<()> {
    edit(proxy.config_path(), |text| {
        assert!(text.contains(from), "{from:?} is not in {text}");
        text.replacen(from, to, 1)
    })
}

struct World {
    eu: Cluster,
    us: Cluster,
    ap: Cluster,
    proxy: Proxy,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_changes_while_clients_are_served() -> Result<()> {
    let (eu, us, ap) = tokio::try_join!(
        Cluster::builder().name("eu").start(),
        Cluster::builder().name("us").start(),
        Cluster::builder().name("ap").start(),
    )?;
    for topic in ["orders", "clicks"] {
        eu.create_topic(topic, 2, 1, &[]).await?;
    }
    let region = RegionConfig { topics: vec!["orders".into()], ..RegionConfig::new("us", &us.bootstrap()) };
    let config = ProxyConfig {
        history: true,
        log: "info,diffluent::mirror::region=debug".into(),
        extra_proxy: "connection_limit = 500\nconnection_limit_per_address = 400\n".into(),
        ..ProxyConfig::new("eu", &eu.bootstrap())
    };
    let config =
        config.region_with(region).allow("the configuration was not taken").allow("client connections are refused");
    let proxy = Proxy::start(DIFFLUENT, config).await?;
    let mut world = World { eu, us, ap, proxy };
    a_third_cluster_becomes_a_region_under_load_and_nobody_is_disturbed(&world).await?;
    topics_that_are_selected_or_left_out_come_and_go_with_their_progress(&mut world).await?;
    limits_of_clients_change_and_connections_stay(&world).await?;
    a_wrong_file_changes_nothing_and_says_why(&world.proxy).await?;
    what_needs_a_restart_is_refused_by_name_and_whole(&world.proxy).await?;
    a_region_is_taken_out_and_forgotten_and_comes_back_where_it_was(&world).await?;
    a_change_of_the_file_is_taken_by_itself_where_that_is_wanted(&world.proxy).await?;
    the_log_changes_while_it_runs(&world.proxy).await?;
    who_ran_with_what_is_known_over_a_restart_and_never_mirrored(&mut world).await?;
    world.proxy.finish().await
}

async fn a_third_cluster_becomes_a_region_under_load_and_nobody_is_disturbed(world: &World) -> Result<()> {
    let World { eu, us, ap, proxy } = world;
    let load = Workload {
        records: u64::MAX,
        rate: Some(1_000),
        idempotent: true,
        ..Workload::new(&proxy.bootstrap(), "orders")
    };
    let load = load.start()?;
    when(proxy, "/lag/us/orders", "mirrored", |lag| lag["mirrored_records"].as_u64() > Some(500)).await?;
    let opened = proxy.metric("diffluent_client_connections_opened_total").await?;
    let us_log = us_starts(proxy)?;

    let table = format!(
        "[[region]]\nname = \"ap\"\nbootstrap_servers = [\"{}\"]\ntopics = [\"orders\"]\n[admin]",
        ap.bootstrap()
    );
    replace(proxy, "[admin]", &table)?;
    let (code, told, complaint) = diffluent(proxy, "reload", &[]).await?;
    assert_eq!(
        (code, told.as_str()),
        (Some(0), "the configuration is in effect; changed:\n  region.ap is new\n"),
        "{complaint}"
    );
    when(proxy, "/lag/ap", "mirroring", |lag| lag["state"] == "mirroring").await?;
    load.stop();
    let outcome = load.finish().await?;
    assert_eq!(outcome.failed, 0, "{:?}", outcome.errors);
    wait_mirrored(eu, proxy, &["us", "ap"], &["orders"]).await?;
    for region in [us, ap] {
        assert_topic_equal(eu, region, "orders").await?;
    }
    assert_eq!(proxy.metric("diffluent_client_connections_opened_total").await?, opened, "clients stay connected");
    assert_eq!(us_starts(proxy)?, us_log, "the other region goes on as it was");
    let regions = get(proxy, "/regions").await?;
    assert_eq!(regions["regions"].as_array().map(Vec::len), Some(2), "{regions:#}");
    Ok(())
}

/// How often streams to "us" have begun: at debug they say so.
fn us_starts(proxy: &Proxy) -> Result<usize> {
    let told = |line: &&str| line.contains("the stream begins") && line.contains("region=us");
    Ok(proxy.log_text()?.lines().filter(told).count())
}

async fn topics_that_are_selected_or_left_out_come_and_go_with_their_progress(world: &mut World) -> Result<()> {
    let World { eu, us, proxy, .. } = world;
    let bootstrap = proxy.bootstrap();
    let clicks = |first| Workload { first, records: 100, ..Workload::new(&bootstrap, "clicks") };
    assert_eq!(clicks(0).run().await?.failed, 0);
    replace(proxy, "topics = [\"orders\"]", "topics = [\"orders\", \"clicks\"]")?;
    proxy.signal(Signal::HUP)?;
    wait_mirrored(eu, proxy, &["us"], &["clicks"]).await?;
    replace(proxy, "topics = [\"orders\", \"clicks\"]", "topics = [\"orders\"]")?;
    let (status, answer) = post(proxy, "/reload").await?;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["changes"][0]["key"], "region.us.topics", "{answer}");
    when(proxy, "/lag/us", "without clicks", |lag| lag["topics"].as_array().map(Vec::len) == Some(1)).await?;
    assert_eq!(clicks(100).run().await?.failed, 0);
    replace(proxy, "topics = [\"orders\"]", "topics = [\"orders\", \"clicks\"]\npaused_topics = [\"clicks\"]")?;
    assert_eq!(post(proxy, "/reload").await?.0, 200);
    let paused =
        when(proxy, "/lag/us/clicks", "paused and behind", |lag| lag["state"] == "paused" && lag["lag_records"] == 100)
            .await?;
    assert_eq!(paused["paused"]["by"], "the configuration", "{paused:#}");
    replace(proxy, "paused_topics = [\"clicks\"]", "rate_limit = \"8 MiB\"")?;
    assert_eq!(post(proxy, "/reload").await?.0, 200);
    wait_mirrored(eu, proxy, &["us"], &["clicks"]).await?;
    assert_topic_equal(eu, us, "clicks").await?;
    assert_eq!(get(proxy, "/lag/us").await?["limits"]["rate_limit"], 8 << 20);
    Ok(())
}

async fn limits_of_clients_change_and_connections_stay(world: &World) -> Result<()> {
    let proxy = &world.proxy;
    let stays = tokio::net::TcpStream::connect(proxy.bootstrap()).await?;
    when_metric(proxy, "diffluent_client_connections", |now| now >= 1.0).await?;
    replace(proxy, "connection_limit_per_address = 400", "connection_limit_per_address = 1")?;
    replace(proxy, "[admin]", "[mirror]\nbuffer = \"16 MiB\"\nlog_end_interval = \"500 ms\"\n[admin]")?;
    assert_eq!(post(proxy, "/reload").await?.0, 200);
    assert_eq!(proxy.metric("diffluent_capture_buffer_limit_bytes").await?, f64::from(16 << 20));
    let refused = tokio::net::TcpStream::connect(proxy.bootstrap()).await?;
    refused.readable().await?;
    assert!(proxy.metric_with("diffluent_client_limit_hits_total", &["connection_limit_per_address"]).await? >= 1.0);
    let mut nothing = [0; 1];
    let open = stays.try_read(&mut nothing);
    assert!(
        open.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock),
        "the connection that was there is open"
    );
    replace(proxy, "connection_limit_per_address = 1", "connection_limit_per_address = 400")?;
    assert_eq!(post(proxy, "/reload").await?.0, 200);
    Ok(())
}

async fn when_metric(proxy: &Proxy, name: &str, holds: impl Fn(f64) -> bool) -> Result<()> {
    let since = Instant::now();
    loop {
        let now = proxy.metric(name).await?;
        if holds(now) {
            return Ok(());
        }
        assert!(since.elapsed() < PATIENCE, "{name} is {now}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn a_wrong_file_changes_nothing_and_says_why(proxy: &Proxy) -> Result<()> {
    let before = get(proxy, "/config").await?;
    replace(proxy, "rate_limit = \"8 MiB\"", "rate_limit = \"8 MB\"")?;
    let (status, answer) = post(proxy, "/reload").await?;
    let message = answer["message"].as_str().unwrap_or_default();
    assert!(status == 400 && message.contains("\"MB\" is not a unit of size"), "{status} {answer}");
    assert_eq!(proxy.metric("diffluent_configuration_reload_failed").await?, 1.0);
    let event = &get(proxy, "/events?limit=1").await?["events"][0];
    assert!(
        event["kind"] == "configuration_refused" && event["by"].as_str().unwrap_or_default().starts_with("127.0.0.1:"),
        "{event}"
    );
    assert_eq!(get(proxy, "/config").await?, before);
    // The command says it before it asks anybody.
    assert_eq!(diffluent(proxy, "reload", &[]).await?.0, Some(64));
    replace(proxy, "rate_limit = \"8 MB\"", "rate_limit = \"8 MiB\"")?;
    assert_eq!(post(proxy, "/reload").await?.0, 200);
    assert_eq!(proxy.metric("diffluent_configuration_reload_failed").await?, 0.0);
    Ok(())
}

async fn what_needs_a_restart_is_refused_by_name_and_whole(proxy: &Proxy) -> Result<()> {
    let before = get(proxy, "/config").await?;
    replace(proxy, "advertise = \"127.0.0.1\"", "advertise = \"localhost\"")?;
    replace(proxy, "rate_limit = \"8 MiB\"", "rate_limit = \"9 MiB\"")?;
    let (code, told, complaint) = diffluent(proxy, "reload", &[]).await?;
    assert!(code == Some(1) && told.is_empty(), "{code:?} {told}");
    assert!(complaint.starts_with("proxy.advertise can't change while diffluent runs"), "{complaint}");
    assert_eq!(get(proxy, "/config").await?, before, "not even what could have been");
    replace(proxy, "advertise = \"localhost\"", "advertise = \"127.0.0.1\"")?;
    replace(proxy, "rate_limit = \"9 MiB\"", "rate_limit = \"8 MiB\"")?;
    let (status, answer) = post(proxy, "/reload").await?;
    assert_eq!((status, &answer["changes"]), (200, &serde_json::json!([])));
    Ok(())
}

async fn a_region_is_taken_out_and_forgotten_and_comes_back_where_it_was(world: &World) -> Result<()> {
    let World { eu, ap, proxy, .. } = world;
    let orders = |first| Workload { first, records: 200, ..Workload::new(&proxy.bootstrap(), "orders") };
    let table =
        format!("[[region]]\nname = \"ap\"\nbootstrap_servers = [\"{}\"]\ntopics = [\"orders\"]\n", ap.bootstrap());
    replace(proxy, &table, "")?;
    let (status, answer) = post(proxy, "/reload").await?;
    assert!(status == 200 && answer["changes"][0]["key"] == "region.ap", "{status} {answer}");
    let regions = get(proxy, "/regions").await?;
    assert_eq!(regions["regions"].as_array().map(Vec::len), Some(1), "{regions:#}");
    assert_eq!(http::get(&proxy.admin_addr(), "/lag/ap").await?.0, 404);
    let metrics = proxy.get("/metrics").await?;
    let left = metrics.lines().find(|line| line.contains("region=\"ap\"") || line.contains("cluster=\"ap\""));
    assert_eq!(left, None, "its series are gone");
    let held: i64 = ap.admin().end_offsets("orders").await?.iter().sum();
    assert_eq!(orders(2_000_000).run().await?.failed, 0);
    wait_mirrored(eu, proxy, &["us"], &["orders"]).await?;
    assert_eq!(ap.admin().end_offsets("orders").await?.iter().sum::<i64>(), held, "it gets nothing");
    replace(proxy, "[mirror]", &format!("{table}[mirror]"))?;
    assert_eq!(post(proxy, "/reload").await?.0, 200);
    wait_mirrored(eu, proxy, &["ap"], &["orders"]).await?;
    assert_topic_equal(eu, ap, "orders").await
}

async fn a_change_of_the_file_is_taken_by_itself_where_that_is_wanted(proxy: &Proxy) -> Result<()> {
    edit(proxy.config_path(), |text| format!("{text}reload_on_change = true\n"))?;
    assert_eq!(post(proxy, "/reload").await?.0, 200);
    replace(proxy, "rate_limit = \"8 MiB\"", "rate_limit = \"12 MiB\"")?;
    when(proxy, "/lag/us", "limited anew", |lag| lag["limits"]["rate_limit"] == 12 << 20).await?;
    Ok(())
}

async fn the_log_changes_while_it_runs(proxy: &Proxy) -> Result<()> {
    assert_eq!(diffluent(proxy, "log", &["--filter", "info,diffluent::session=debug"]).await?.0, Some(0));
    drop(tokio::net::TcpStream::connect(proxy.bootstrap()).await?);
    let since = Instant::now();
    while !proxy.log_text()?.contains("DEBUG diffluent::session") {
        assert!(since.elapsed() < PATIENCE, "nothing is logged at debug");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (code, told, _) = diffluent(proxy, "log", &[]).await?;
    assert_eq!((code, told.trim()), (Some(0), "info,diffluent::session=debug"));
    assert_eq!(diffluent(proxy, "log", &["--filter", "=nonsense="]).await?.0, Some(1));
    Ok(())
}

async fn who_ran_with_what_is_known_over_a_restart_and_never_mirrored(world: &mut World) -> Result<()> {
    let World { eu, us, proxy, .. } = world;
    let stored =
        |told: &Value| told["topic"] == "diffluent.config" && told["entries"].as_array().map(Vec::len) > Some(5);
    let told = when(proxy, "/history?limit=100", "stored", stored).await?;
    assert_eq!(told["entries"][0]["cause"], "file", "{told:#}");
    assert!(proxy.stop().await?.success());
    proxy.restart().await?;
    let (code, told, complaint) = diffluent(proxy, "history", &["--limit", "100"]).await?;
    assert_eq!((code, complaint.as_str()), (Some(0), ""), "{told}");
    for part in [
        ": start, by the start of the process",
        ": command, by ann at 127.0.0.1:",
        ": signal, by a signal",
        "    region.ap is new",
        "    region.ap is gone",
        "    region.us.rate_limit: \"12 MiB\", was \"8 MiB\"",
    ] {
        assert!(told.contains(part), "{part:?} is not in {told}");
    }
    assert_eq!(told.matches(": start, by").count(), 2, "{told}");
    assert!(eu.admin().topics().await?.contains(&"diffluent.config".to_owned()));
    replace(proxy, "topics = [\"orders\", \"clicks\"]", "topics = [\".*\"]")?;
    assert_eq!(post(proxy, "/reload").await?.0, 200);
    wait_mirrored(eu, proxy, &["us"], &["clicks"]).await?;
    let mirrored = get(proxy, "/lag/us").await?;
    let topics: Vec<&Value> =
        mirrored["topics"].as_array().context("topics")?.iter().map(|topic| &topic["topic"]).collect();
    assert_eq!(topics, ["clicks", "orders"], "its own topic is never mirrored");
    assert!(!us.admin().topics().await?.contains(&"diffluent.config".to_owned()));
    Ok(())
}
