//! Several proxies of one cluster share its streams, on real Kafka.

mod common;

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use common::{DIFFLUENT, PATIENCE, assert_topic_equal};
use diffluent_testbed::{Cluster, Proxy, ProxyConfig, Workload};

const TOPIC: &str = "orders";
const PARTITIONS: i32 = 8;
const CONSUMER_GROUPS: &str = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";

/// A local cluster whose groups take short sessions, and a region.
async fn clusters() -> Result<(Cluster, Cluster)> {
    let local = Cluster::builder()
        .name("eu")
        .config("group.min.session.timeout.ms", "1000")
        // As brokers have it by default.
        .config("group.initial.rebalance.delay.ms", "3000");
    let (eu, us) = tokio::try_join!(local.start(), Cluster::builder().name("us").start())?;
    eu.create_topic(TOPIC, PARTITIONS, 1, &[]).await?;
    Ok((eu, us))
}

/// One proxy of the fleet.
fn one(eu: &Cluster, us: &Cluster, instance: &str, session: &str) -> ProxyConfig {
    let mut config = ProxyConfig::new("eu", &eu.bootstrap()).region("us", &us.bootstrap());
    config.extra_proxy = format!("instance = \"{instance}\"");
    config.extra_mirror = format!("session_timeout = \"{session}\"");
    config
}

/// Load on all partitions, past the proxies, until it is stopped.
fn load(eu: &Cluster, seed: u64) -> Workload {
    Workload { seed, records: u64::MAX, rate: Some(1_500), idempotent: true, ..Workload::new(&eu.bootstrap(), TOPIC) }
}

/// The partitions that a proxy shows as its own.
async fn share(proxy: &Proxy) -> Result<BTreeSet<i64>> {
    let lag: serde_json::Value = serde_json::from_str(&proxy.get(&format!("/lag/us/{TOPIC}")).await?)?;
    let partitions = lag["partitions"].as_array().context("no partitions")?;
    Ok(partitions.iter().filter_map(|partition| partition["partition"].as_i64()).collect())
}

/// Waits until every stream is one proxy's, and they have so many; gives what each has.
async fn shared(proxies: &[&Proxy], counts: &[usize]) -> Result<Vec<BTreeSet<i64>>> {
    let begun = Instant::now();
    loop {
        let mut shares = Vec::new();
        for proxy in proxies {
            shares.push(share(proxy).await.unwrap_or_default());
        }
        let all: BTreeSet<i64> = shares.iter().flatten().copied().collect();
        let mut has: Vec<usize> = shares.iter().map(BTreeSet::len).collect();
        has.sort_unstable();
        if has == counts && all.len() == counts.iter().sum::<usize>() {
            return Ok(shares);
        }
        if begun.elapsed() > PATIENCE {
            let logs: Vec<String> = proxies.iter().filter_map(|proxy| proxy.log_text().ok()).collect();
            bail!("the shares are {shares:?}, not {counts:?}:\n{}", logs.join("\n----\n"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until the proxies together say that the region has everything that the local log holds now, and compares it.
async fn assert_equal(eu: &Cluster, us: &Cluster, proxies: &[&Proxy]) -> Result<()> {
    let ends = eu.admin().end_offsets(TOPIC).await?;
    let begun = Instant::now();
    for (partition, end) in (0_i64..).zip(ends) {
        loop {
            let mut next = None;
            for proxy in proxies {
                let lag = proxy.get(&format!("/lag/us/{TOPIC}")).await.unwrap_or_default();
                let lag: serde_json::Value = serde_json::from_str(&lag).unwrap_or_default();
                let of = |one: &&serde_json::Value| one["partition"] == partition;
                let found = lag["partitions"].as_array().and_then(|all| all.iter().find(of));
                next = next.max(found.and_then(|found| found["next_source_offset"].as_i64()));
            }
            if next >= Some(end) {
                break;
            }
            if begun.elapsed() > PATIENCE {
                let logs: Vec<String> = proxies.iter().filter_map(|proxy| proxy.log_text().ok()).collect();
                bail!("partition {partition} is mirrored to {next:?} of {end}:\n{}", logs.join("\n----\n"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    assert_topic_equal(eu, us, TOPIC).await
}

/// What Kafka's own tool tells of the group.
async fn described(eu: &Cluster, more: &[&str]) -> Result<String> {
    let bootstrap = eu.bootstrap();
    let arguments = [&["--bootstrap-server", &bootstrap, "--group", "diffluent.us", "--describe"], more].concat();
    let output = eu.kafka().tool(CONSUMER_GROUPS, &arguments, "", PATIENCE).await?;
    anyhow::ensure!(output.success, "{output:?}");
    Ok(output.stdout)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_proxies_share_the_streams_and_one_takes_over_what_a_killed_one_had() -> Result<()> {
    let (eu, us) = clusters().await?;
    let producer = load(&eu, 1).start()?;
    let config = |instance| one(&eu, &us, instance, "3 s").allow("nothing was heard").allow("taken for dead");
    let mut a = Proxy::start(DIFFLUENT, config("a")).await?;
    shared(&[&a], &[8]).await?;
    let b = Proxy::start(DIFFLUENT, config("b")).await?;
    // Clients of both: what one captures, and the other one mirrors, is read from the log.
    let through =
        [&a, &b].map(|proxy| Workload { seed: 2, records: 2_000, ..Workload::new(&proxy.bootstrap(), TOPIC) });
    let shares = shared(&[&a, &b], &[4, 4]).await?;
    for workload in through {
        assert_eq!(workload.run().await?.failed, 0);
    }

    // Each shows its own, and who has the others.
    let begun = Instant::now();
    let lag = loop {
        // Who has the rest is asked for now and then.
        let lag = a.region_lag("us").await?;
        if lag["other_proxies"].as_array().is_some_and(|others| !others.is_empty()) || begun.elapsed() > PATIENCE {
            break lag;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!((&lag["instance"], &lag["other_proxies"][0]["instance"]), (&"a".into(), &"b".into()), "{lag:#}");
    assert_eq!((&lag["streams"], &lag["other_proxies"][0]["streams"]), (&4.into(), &4.into()));
    assert_eq!(lag["topics"][0]["elsewhere"][0]["partitions"].as_array().map(Vec::len), Some(4));
    assert_eq!(a.metric_with("diffluent_fleet_proxies", &["region=\"us\""]).await?, 2.0);
    let elsewhere = shares[1].first().context("a stream of the other one")?;
    let skip = Command::new(DIFFLUENT)
        .args(["skip", &a.config_path().display().to_string(), "--region", "us", "--topic", TOPIC])
        .args([format!("--partition={elsewhere}"), "--offset=0".to_owned()])
        .output()?;
    let told = String::from_utf8_lossy(&skip.stderr).into_owned();
    assert!(skip.status.code() == Some(1) && told.contains("mirrored by another proxy: b (at 127.0.0.1)"), "{told}");

    // Kafka's own tool shows the same.
    let members = described(&eu, &["--members", "--verbose"]).await?;
    for (instance, share) in ["a", "b"].into_iter().zip(&shares) {
        let line = members.lines().find(|line| line.contains(&format!(" {instance}-"))).context(members.clone())?;
        let list: Vec<String> = share.iter().map(i64::to_string).collect();
        assert!(line.contains(&format!("{TOPIC}:{}", list.join(","))), "{share:?} is not in {line}");
    }
    let progress = described(&eu, &[]).await?;
    let lines = progress.lines().filter(|line| line.split_whitespace().nth(1) == Some(TOPIC));
    let lags: Vec<_> =
        lines.map(|line| line.split_whitespace().nth(5).and_then(|lag| lag.parse::<i64>().ok())).collect();
    assert!(lags.len() == 8 && lags.iter().all(Option::is_some), "{progress}");
    assert!(described(&eu, &["--state"]).await?.contains("diffluent-1-eu"));

    // Killed: the other one takes over, and gives back what is the first one's share when that is there again.
    a.kill();
    shared(&[&b], &[8]).await?;
    a.restart().await?;
    shared(&[&a, &b], &[4, 4]).await?;

    producer.stop();
    let outcome = producer.finish().await?;
    assert_eq!(outcome.failed, 0, "{:?}", outcome.errors);
    assert_equal(&eu, &us, &[&a, &b]).await?;
    let events = b.get("/events?region=us").await?;
    assert!(events.contains("streams_gained") && events.contains("streams_taken"), "{events}");
    a.finish().await?;
    b.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_that_stop_start_and_join_in_order_hand_their_streams_over_at_once() -> Result<()> {
    // Whatever happened only after the session timeout would not happen within this test's patience.
    const SESSION: &str = "10 min";
    let (eu, us) = clusters().await?;
    let producer = load(&eu, 1).start()?;
    let mut a = Proxy::start(DIFFLUENT, one(&eu, &us, "a", SESSION)).await?;
    let mut b = Proxy::start(DIFFLUENT, one(&eu, &us, "b", SESSION)).await?;
    let two = shared(&[&a, &b], &[4, 4]).await?;

    // Killed and started again within its session: it has what it had, and the other one notices nothing.
    let rebalances = async || b.metric_with("diffluent_rebalances_total", &["region=\"us\""]).await;
    let before = rebalances().await?;
    a.restart().await?;
    assert_eq!(shared(&[&a, &b], &[4, 4]).await?, two);
    assert_eq!(rebalances().await?, before);

    // A third one gets its share, and nothing else moves.
    let c = Proxy::start(DIFFLUENT, one(&eu, &us, "c", SESSION)).await?;
    let three = shared(&[&a, &b, &c], &[2, 3, 3]).await?;
    assert!(three[0].is_subset(&two[0]) && three[1].is_subset(&two[1]), "{two:?} became {three:?}");

    // A rolling restart.
    for proxy in [&mut a, &mut b] {
        assert!(proxy.stop().await?.success());
        proxy.restart().await?;
    }
    shared(&[&a, &b, &c], &[2, 3, 3]).await?;
    c.finish().await?;
    shared(&[&a, &b], &[4, 4]).await?;

    // A new topic is shared, too.
    eu.create_topic("payments", 4, 1, &[]).await?;
    assert_eq!(Workload { records: 1_000, ..Workload::new(&eu.bootstrap(), "payments") }.run().await?.failed, 0);
    producer.stop();
    let outcome = producer.finish().await?;
    assert_eq!(outcome.failed, 0, "{:?}", outcome.errors);
    assert_equal(&eu, &us, &[&a, &b]).await?;
    a.wait_lag_zero(PATIENCE).await?;
    b.wait_lag_zero(PATIENCE).await?;
    let begun = Instant::now();
    while assert_topic_equal(&eu, &us, "payments").await.is_err() {
        assert!(begun.elapsed() < PATIENCE, "the new topic is not mirrored");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    a.finish().await?;
    b.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_alone_does_not_wait_for_the_group_before_it_mirrors() -> Result<()> {
    let local = Cluster::builder()
        .name("eu")
        // The group's first generation begins only then.
        .config("group.initial.rebalance.delay.ms", "90000");
    let (eu, us) = tokio::try_join!(local.start(), Cluster::builder().name("us").start())?;
    eu.create_topic(TOPIC, PARTITIONS, 1, &[]).await?;
    assert_eq!(Workload { records: 1_000, ..Workload::new(&eu.bootstrap(), TOPIC) }.run().await?.failed, 0);
    let proxy = Proxy::start(DIFFLUENT, one(&eu, &us, "a", "2 min")).await?;
    assert_equal(&eu, &us, &[&proxy]).await?;
    assert_eq!(proxy.metric_with("diffluent_rebalances_total", &["region=\"us\""]).await?, 0.0);
    proxy.finish().await
}
