//! Compacted topics: what the cleaner leaves of a log arrives in the region, in every codec.

mod common;

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use common::{DIFFLUENT, PATIENCE, assert_topic_equal, wait_mirrored};
use diffluent_testbed::verify::Kind;
use diffluent_testbed::{Cluster, Codec, Proxy, ProxyConfig, Side, Workload, verify};

/// Records that are produced twice to each topic, over fewer keys.
const RECORDS: u64 = 600;

#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_log_with_holes_is_mirrored_as_the_cleaner_left_it() -> Result<()> {
    let cleaning = |name: &str| {
        Cluster::builder().name(name).config("log.cleaner.backoff.ms", "100").config("log.cleaner.threads", "1")
    };
    let (eu, us) = tokio::try_join!(cleaning("eu").start(), Cluster::builder().name("us").start())?;
    let codecs = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
    let topics = codecs.map(|codec| format!("state-{}", codec.as_str()));
    for (codec, topic) in codecs.into_iter().zip(&topics) {
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
        assert_eq!(batches(1, 400).run().await?.failed, 0);
        assert_eq!(batches(2, 90).run().await?.failed, 0);
    }
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

/// `diffluent verify` sees the same records behind the holes, once the progress is committed.
async fn verify_says_equal(proxy: &Proxy, topics: usize) -> Result<()> {
    let since = Instant::now();
    loop {
        let config = proxy.config_path().to_owned();
        let verify = move || Command::new(DIFFLUENT).arg("verify").arg(config).arg("--json").output();
        let output = tokio::task::spawn_blocking(verify).await??;
        let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let equal = report["regions"][0]["topics"].as_array().into_iter().flatten().filter(|topic| {
            let partition = &topic["partitions"][0];
            // The last offset of each log was compared.
            topic["result"] == "equal" && partition["source"]["to"] == partition["source"]["log_end"]
        });
        if equal.count() == topics {
            assert_eq!(output.status.code(), Some(0), "{report:#}");
            return Ok(());
        }
        assert!(since.elapsed() < PATIENCE && output.status.code() != Some(1), "{report:#}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
