//! Compacted topics: what the cleaner leaves of a log arrives in the region, in every codec.

mod common;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use common::{DIFFLUENT, PATIENCE, assert_topic_equal, verify_says_equal, wait_mirrored};
use diffluent_testbed::verify::Kind;
use diffluent_testbed::{Cluster, Codec, Proxy, ProxyConfig, Side, Workload, verify};

use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{FetchRequest, TopicName};
use kafka_protocol::protocol::StrBytes;

/// Records that are produced twice to each topic, over fewer keys.
const RECORDS: u64 = 600;
/// A topic in which the cleaner leaves an empty batch.
const EMPTIED: &str = "state-emptied";

#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_log_with_holes_is_mirrored_as_the_cleaner_left_it() -> Result<()> {
    let cleaning = |name: &str| {
        Cluster::builder().name(name).config("log.cleaner.backoff.ms", "100").config("log.cleaner.threads", "1")
    };
    let (eu, us) = tokio::try_join!(cleaning("eu").start(), Cluster::builder().name("us").start())?;
    let codecs = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
    let mut topics: Vec<(Codec, String)> =
        codecs.into_iter().map(|codec| (codec, format!("state-{}", codec.as_str()))).collect();
    // Of an idempotent producer whose records are all gone the cleaner keeps the last batch, empty: it remembers the sequence.
    topics.push((Codec::None, EMPTIED.to_owned()));
    for (codec, topic) in &topics {
        let (codec, emptied) = (*codec, topic == EMPTIED);
        let compact = [("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0.01"), ("segment.ms", "200")];
        eu.create_topic(topic, 1, 1, &compact).await?;
        // The region keeps everything, so that what arrived can be compared.
        us.create_topic(topic, 1, 1, &[]).await?;
        // Batches in which some keys come again later, and some never.
        let batches = |seed, keys| Workload {
            records: RECORDS,
            keys,
            codec,
            seed,
            config: vec![("batch.num.messages".into(), "50".into()), ("linger.ms".into(), "50".into())],
            ..Workload::new(&eu.bootstrap(), topic)
        };
        let first = batches(1, if emptied { 20 } else { 400 });
        assert_eq!(Workload { idempotent: emptied, ..first }.run().await?.failed, 0);
        assert_eq!(batches(2, if emptied { 20 } else { 90 }).run().await?.failed, 0);
    }
    let topics: Vec<String> = topics.into_iter().map(|(_, topic)| topic).collect();
    // The cleaner leaves the active segment alone: a later record opens a new one, and so does each try.
    let since = Instant::now();
    for topic in &topics {
        let mut first = 10_000;
        loop {
            let last = Workload { records: 1, keys: 1, first, seed: 3, ..Workload::new(&eu.bootstrap(), topic) };
            assert_eq!(last.run().await?.failed, 0);
            first += 1;
            let sides = (Side::new("eu", &eu.bootstrap()), Side::new("us", &us.bootstrap()));
            let kept = verify::compare(&sides.0, &sides.1, topic).await?.count(Kind::Missing);
            if kept < RECORDS {
                break;
            }
            assert!(since.elapsed() < PATIENCE, "the cleaner leaves {kept} records of {topic}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        // From here on the log must stay as it is, to be compared.
        eu.admin().set_topic_config(topic, &[("cleanup.policy", Some("delete"))]).await?;
    }
    assert!(record_counts(&eu, EMPTIED).await?.contains(&0), "there is no empty batch: nothing is proven");
    let config = ProxyConfig::new("eu", &eu.bootstrap()).region("us", &us.bootstrap());
    let proxy = Proxy::start(DIFFLUENT, config).await?;
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    wait_mirrored(&eu, &proxy, &["us"], &names).await?;
    for topic in &names {
        assert_topic_equal(&eu, &us, topic).await?;
    }
    let renumbered = proxy.metric_with("diffluent_renumbered_batches_total", &["region=\"us\""]).await?;
    assert!(renumbered >= codecs.len() as f64, "only {renumbered} batches had holes: nothing is proven");
    verify_says_equal(&proxy, names.len()).await?;
    proxy.finish().await
}

/// How many records each batch of partition 0 holds, by its header.
async fn record_counts(cluster: &Cluster, topic: &str) -> Result<Vec<i32>> {
    let partition = FetchPartition::default().with_partition_max_bytes(8 << 20).with_current_leader_epoch(-1);
    let name = TopicName(StrBytes::from_string(topic.to_owned()));
    let topic_asked = FetchTopic::default().with_topic(name).with_partitions(vec![partition]);
    let request = FetchRequest::default().with_max_bytes(8 << 20).with_session_epoch(-1).with_topics(vec![topic_asked]);
    let answer = cluster.admin().call_leader(topic, 0).await?.call(&request, 12).await?;
    let partition = answer.responses.into_iter().flat_map(|topic| topic.partitions).next();
    let mut log = partition.and_then(|partition| partition.records).context("no records")?;
    let mut counts = Vec::new();
    while let Some(head) = log.first_chunk::<61>() {
        let int = |at: usize| i32::from_be_bytes(head[at..at + 4].try_into().expect("four bytes"));
        counts.push(int(57));
        let length = usize::try_from(int(8))? + 12;
        if length > log.len() {
            break;
        }
        let _ = log.split_to(length);
    }
    Ok(counts)
}
