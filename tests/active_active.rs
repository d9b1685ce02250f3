//! Clusters that mirror the same topics at each other, and clusters that forward what was born elsewhere: on real Kafka, one broker each.

mod common;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use common::{DIFFLUENT, PATIENCE, wait_mirrored};
use diffluent_testbed::{Cluster, Proxy, ProxyConfig, RegionConfig, Workload};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Message, Offset, TopicPartitionList};

const TOPIC: &str = "orders";
const PARTITIONS: i32 = 2;
/// The numbers of a cluster's own records begin at its index times this.
const OWN: u64 = 1_000_000;

/// The numbers of a topic's records, by partition, in the order of the log.
fn held(cluster: &Cluster, topic: &str) -> Result<Vec<Vec<u64>>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap())
        .set("group.id", "active-active")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .create()?;
    let mut partitions = Vec::new();
    for partition in 0..PARTITIONS {
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
        consumer.assign(&assignment)?;
        let mut numbers = Vec::new();
        let since = Instant::now();
        loop {
            anyhow::ensure!(since.elapsed() < PATIENCE, "{} says nothing about {topic}", cluster.name());
            match consumer.poll(Duration::from_millis(200)) {
                Some(Ok(message)) if message.partition() == partition => {
                    let value = message.payload().context("a value")?;
                    numbers.push(std::str::from_utf8(&value[..12])?.parse()?);
                }
                Some(Err(KafkaError::PartitionEOF(at))) if at == partition => break,
                _ => {}
            }
        }
        partitions.push(numbers);
    }
    Ok(partitions)
}

/// Waits until a cluster holds so many records of the topic.
async fn wait_for(cluster: &Cluster, topic: &str, records: usize, proxies: &[&Proxy]) -> Result<()> {
    let since = Instant::now();
    loop {
        let there = cluster.admin().topics().await?.contains(&topic.to_owned());
        let held: i64 =
            if there { cluster.admin().end_offsets(topic).await.unwrap_or_default().iter().sum() } else { 0 };
        if held >= records as i64 {
            return Ok(());
        }
        if since.elapsed() > PATIENCE {
            let logs: Vec<String> = proxies.iter().map(|proxy| proxy.log_text()).collect::<Result<_>>()?;
            anyhow::bail!("{} has {held} of {records} records of {topic}:\n{}", cluster.name(), logs.join("\n---\n"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Each cluster holds each record once, and those of each origin in the order in which that has them.
fn assert_converged(clusters: &[&Cluster], topic: &str, records: usize) -> Result<()> {
    let all: Vec<Vec<Vec<u64>>> = clusters.iter().map(|cluster| held(cluster, topic)).collect::<Result<_>>()?;
    for (cluster, partitions) in clusters.iter().zip(&all) {
        assert_eq!(partitions.iter().map(Vec::len).sum::<usize>(), records, "records in {}", cluster.name());
        for (partition, numbers) in partitions.iter().enumerate() {
            for (origin, own) in all.iter().enumerate() {
                let born = |numbers: &[u64]| -> Vec<u64> {
                    numbers.iter().copied().filter(|number| number / OWN == origin as u64).collect()
                };
                let expected = born(&own[partition]);
                assert_eq!(born(numbers), expected, "of {origin} in {}, partition {partition}", cluster.name());
            }
        }
    }
    Ok(())
}

fn workload(bootstrap: &str, first: u64, records: u64) -> Workload {
    Workload { first, records, ..Workload::new(bootstrap, TOPIC) }
}

async fn clusters() -> Result<(Cluster, Cluster, Cluster)> {
    let start = |name: &str| Cluster::builder().name(name).start();
    tokio::try_join!(start("eu"), start("us"), start("ap"))
}

/// Three clusters, each with a proxy that reaches the others through their own proxies.
struct Mesh {
    clusters: [Cluster; 3],
    proxies: Vec<Proxy>,
    records: usize,
}

const NAMES: [&str; 3] = ["eu", "us", "ap"];

impl Mesh {
    async fn start() -> Result<Self> {
        let (eu, us, ap) = clusters().await?;
        let clusters = [eu, us, ap];
        // The proxies' addresses are known once all are prepared.
        let mut proxies = Vec::new();
        for (at, cluster) in clusters.iter().enumerate() {
            cluster.create_topic(TOPIC, PARTITIONS, 1, &[]).await?;
            let mut config = ProxyConfig::new(NAMES[at], &cluster.bootstrap()).allow("can't be reached");
            for name in NAMES.iter().filter(|name| **name != NAMES[at]) {
                config = config.region(name, &format!("{name}.invalid:1"));
            }
            proxies.push(Proxy::prepare(DIFFLUENT, config)?);
        }
        for proxy in &proxies {
            let mut text = std::fs::read_to_string(proxy.config_path())?;
            for (name, other) in NAMES.iter().zip(&proxies) {
                text = text.replace(&format!("{name}.invalid:1"), &other.bootstrap());
            }
            std::fs::write(proxy.config_path(), text)?;
        }
        for proxy in &mut proxies {
            proxy.spawn()?;
        }
        for proxy in &mut proxies {
            proxy.wait_ready(PATIENCE).await?;
        }
        Ok(Self { clusters, proxies, records: 0 })
    }

    /// Waits until each cluster has every record, and compares.
    async fn converges(&self) -> Result<()> {
        for cluster in &self.clusters {
            wait_for(cluster, TOPIC, self.records, &self.proxies.iter().collect::<Vec<_>>()).await?;
        }
        assert_converged(&self.clusters.each_ref(), TOPIC, self.records)
    }

    /// By proxy, how much of its local log it has read since its start.
    async fn bytes_read_locally(&self) -> Result<Vec<f64>> {
        let mut read = Vec::new();
        for proxy in &self.proxies {
            read.push(proxy.metric_with("diffluent_cluster_fetched_bytes_total", &["cluster=\"local\""]).await?);
        }
        Ok(read)
    }

    async fn finish(self) -> Result<()> {
        for proxy in self.proxies {
            proxy.finish().await?;
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_regions_that_mirror_at_each_other_converge_over_kills_and_past_the_proxies() -> Result<()> {
    let mut mesh = Mesh::start().await?;
    for round in 0..3_u64 {
        for at in 0..NAMES.len() {
            let bootstrap = mesh.proxies[at].bootstrap();
            let first = at as u64 * OWN + round * 1_000;
            let running = workload(&bootstrap, first, 400).start()?;
            let past = workload(&mesh.clusters[at].bootstrap(), first + 500, 100).run().await?;
            assert_eq!((running.finish().await?.failed, past.failed), (0, 0));
            mesh.records += 500;
            if round == 1 {
                mesh.proxies[at].kill();
                mesh.proxies[at].restart().await?;
            }
        }
    }
    mesh.converges().await?;
    mesh.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn regions_behind_their_own_proxies_need_not_read_their_logs_to_see_what_was_born_elsewhere() -> Result<()> {
    let mut mesh = Mesh::start().await?;
    // All come through the proxies, and what each one's own log gets from elsewhere comes through its own. Until the streams have seen that, they read.
    for (at, proxy) in mesh.proxies.iter().enumerate() {
        let quiet = Workload { rate: Some(200), ..workload(&proxy.bootstrap(), at as u64 * OWN, 400) };
        assert_eq!(quiet.run().await?.failed, 0);
        mesh.records += 400;
    }
    mesh.converges().await?;
    for (at, name) in NAMES.iter().enumerate() {
        let others: Vec<&str> = NAMES.iter().filter(|other| *other != name).copied().collect();
        wait_mirrored(&mesh.clusters[at], &mesh.proxies[at], &others, &[TOPIC]).await?;
    }
    // A machine that is slow for a moment makes the streams read for a while; they stop again. Streams that don't see what was born elsewhere read all of it, each time.
    let mirrored = 3.0 * 400.0 * 150.0;
    let began = Instant::now();
    for round in 1.. {
        let before = mesh.bytes_read_locally().await?;
        for (at, proxy) in mesh.proxies.iter().enumerate() {
            let first = at as u64 * OWN + round * 1_000;
            let quiet = Workload { rate: Some(200), ..workload(&proxy.bootstrap(), first, 400) };
            assert_eq!(quiet.run().await?.failed, 0);
            mesh.records += 400;
        }
        mesh.converges().await?;
        let after = mesh.bytes_read_locally().await?;
        let read: Vec<f64> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
        println!("round {round}: {read:?} bytes were read from the local logs while about {mirrored} came into each");
        if read.iter().all(|read| *read < mirrored / 10.0) {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{read:?} bytes were read from the local logs, of about {mirrored} each");
    }
    mesh.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_forwards_and_a_rebuilt_cluster_gets_its_records_back() -> Result<()> {
    let (eu, us, ap) = clusters().await?;
    eu.create_topic(TOPIC, PARTITIONS, 1, &[]).await?;
    let region = |name: &str, cluster: &Cluster, forward: &str| {
        let mut region = RegionConfig::new(name, &cluster.bootstrap());
        region.extra = format!("forward = {forward:?}\n");
        region
    };
    let first = Proxy::start(DIFFLUENT, ProxyConfig::new("eu", &eu.bootstrap()).region("us", &us.bootstrap())).await?;
    let middle = ProxyConfig::new("us", &us.bootstrap()).region_with(region("ap", &ap, "all"));
    let mut second = Proxy::start(DIFFLUENT, middle).await?;

    assert_eq!(workload(&first.bootstrap(), 0, 500).run().await?.failed, 0);
    wait_for(&us, TOPIC, 500, &[&first]).await?;
    // What is born in the middle goes on as well, beside what is only passing through.
    let middle = Workload { idempotent: true, ..workload(&second.bootstrap(), OWN, 600) };
    let running = middle.start()?;
    assert_eq!(workload(&first.bootstrap(), 500, 600).run().await?.failed, 0);
    second.kill();
    second.restart().await?;
    let middle = running.finish().await?;
    let all = 1_100 + middle.acked as usize;
    wait_for(&ap, TOPIC, all, &[&first, &second]).await?;
    let (in_us, in_ap) = (held(&us, TOPIC)?, held(&ap, TOPIC)?);
    for origin in 0..2 {
        let born = |log: &[Vec<u64>]| -> Vec<Vec<u64>> {
            let of = |numbers: &Vec<u64>| numbers.iter().copied().filter(|number| number / OWN == origin).collect();
            log.iter().map(of).collect()
        };
        assert_eq!(born(&in_us), born(&in_ap), "of {origin}: each once, in order");
    }
    second.finish().await?;
    first.finish().await?;

    // The first cluster is lost. It comes back empty, with the same id; its topics are made anew.
    eu.admin().delete_topic(TOPIC).await?;
    let back = |forward: &str| ProxyConfig::new("us", &us.bootstrap()).region_with(region("eu", &eu, forward));
    let mut keeps = Proxy::start(DIFFLUENT, back("all")).await?;
    wait_for(&eu, TOPIC, middle.acked as usize, &[&keeps]).await?;
    wait_mirrored(&us, &keeps, &["eu"], &[TOPIC]).await?;
    let own = |log: &[Vec<u64>]| log.iter().flatten().filter(|number| **number < OWN).count();
    assert_eq!(own(&held(&eu, TOPIC)?), 0, "nothing goes home unless it is asked for");
    keeps.stop().await?;
    eu.admin().delete_topic(TOPIC).await?;
    let restore = back("restore").allow("has lost all that").allow("was deleted in the region");
    let mut restore_config = restore;
    restore_config.regions[0].name = "eu-rebuilt".to_owned();
    let restores = Proxy::start(DIFFLUENT, restore_config).await?;
    wait_for(&eu, TOPIC, all, &[&restores]).await?;
    wait_mirrored(&us, &restores, &["eu-rebuilt"], &[TOPIC]).await?;
    assert_eq!(own(&held(&eu, TOPIC)?), 1_100, "it has its own records back");
    // It mirrors again; what it got back does not go round.
    let again = Proxy::start(DIFFLUENT, ProxyConfig::new("eu", &eu.bootstrap()).region("us", &us.bootstrap())).await?;
    assert_eq!(workload(&again.bootstrap(), 5_000, 300).run().await?.failed, 0);
    wait_for(&us, TOPIC, all + 300, &[&again, &restores]).await?;
    wait_mirrored(&eu, &again, &["us"], &[TOPIC]).await?;
    wait_mirrored(&us, &restores, &["eu-rebuilt"], &[TOPIC]).await?;
    let total: usize = held(&us, TOPIC)?.iter().map(Vec::len).sum();
    assert_eq!(total, all + 300, "each once");
    let total: usize = held(&eu, TOPIC)?.iter().map(Vec::len).sum();
    assert_eq!(total, all + 300, "each once");
    again.finish().await?;
    restores.finish().await
}
