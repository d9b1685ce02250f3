//! The verifier finds what was done to a topic, and nothing where nothing was done.

use anyhow::Result;
use diffluent_testbed::verify::{self, Kind};
use diffluent_testbed::workload::Transactions;
use diffluent_testbed::{Cluster, Codec, Report, Side, Workload};

const FIRST_TIMESTAMP: i64 = 1_700_000_000_000;

/// Writes records with these sequence numbers to `topic`, the same number always as the same record.
async fn write(cluster: &Cluster, topic: &str, sequences: &[u64], codec: Codec) -> Result<()> {
    // Runs of consecutive numbers are one workload each: within one, order is kept.
    for run in sequences.chunk_by(|left, right| left + 1 == *right) {
        let (Some(&first), records) = (run.first(), run.len() as u64) else { continue };
        let timestamp = FIRST_TIMESTAMP.saturating_add_unsigned(first);
        let outcome = Workload {
            first,
            records,
            codec,
            partition: Some(0),
            timestamp: Some(timestamp),
            idempotent: true,
            ..Workload::new(&cluster.bootstrap(), topic)
        }
        .run()
        .await?;
        assert_eq!(outcome.acked, records, "{:?}", outcome.errors);
    }
    Ok(())
}

async fn compare(cluster: &Cluster, expected: &str, actual: &str) -> Result<Report> {
    let side = |name: &str| Side::new(name, &cluster.bootstrap());
    let report = verify::compare(&side("expected"), &side("actual").topic(actual), expected).await?;
    println!("{report}");
    Ok(report)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_tells_a_dropped_a_duplicated_a_reordered_and_a_changed_record_from_equal_topics() -> Result<()> {
    let cluster = Cluster::builder().name("verify").start().await?;
    let topics = ["truth", "equal", "dropped", "duplicated", "reordered", "changed", "short", "other"];
    for topic in topics {
        cluster.create_topic(topic, 1, 1, &[]).await?;
    }
    let all: Vec<u64> = (0..300).collect();
    write(&cluster, "truth", &all, Codec::None).await?;
    // Another codec and other batches, the same records.
    let (begin, end) = all.split_at(77);
    write(&cluster, "equal", begin, Codec::Zstd).await?;
    write(&cluster, "equal", end, Codec::Lz4).await?;
    let report = compare(&cluster, "truth", "equal").await?;
    assert!(report.is_clean() && report.records == 300, "{report}");

    let mut dropped = all.clone();
    dropped.remove(100);
    write(&cluster, "dropped", &dropped, Codec::None).await?;
    let report = compare(&cluster, "truth", "dropped").await?;
    assert_eq!((report.count(Kind::Missing), report.counts.len()), (1, 1), "{report}");

    let mut duplicated = all.clone();
    duplicated.splice(120..120, [117, 118, 119]);
    write(&cluster, "duplicated", &duplicated, Codec::None).await?;
    let report = compare(&cluster, "truth", "duplicated").await?;
    assert_eq!((report.count(Kind::Duplicate), report.counts.len()), (3, 1), "{report}");

    let mut reordered = all.clone();
    reordered.swap(50, 51);
    write(&cluster, "reordered", &reordered, Codec::None).await?;
    let report = compare(&cluster, "truth", "reordered").await?;
    assert_eq!((report.count(Kind::OutOfOrder), report.counts.len()), (1, 1), "{report}");

    write(&cluster, "changed", &all[..200], Codec::None).await?;
    let another_seed = Workload {
        first: 200,
        records: 1,
        keys: 0,
        headers: 2,
        partition: Some(0),
        timestamp: Some(FIRST_TIMESTAMP + 200),
        ..Workload::new(&cluster.bootstrap(), "changed")
    };
    another_seed.run().await?;
    write(&cluster, "changed", &all[201..], Codec::None).await?;
    let report = compare(&cluster, "truth", "changed").await?;
    assert_eq!((report.count(Kind::Changed), report.counts.len()), (1, 1), "{report}");

    write(&cluster, "short", &all[..290], Codec::None).await?;
    let report = compare(&cluster, "truth", "short").await?;
    assert_eq!((report.count(Kind::Missing), report.counts.len()), (10, 1), "{report}");
    let report = compare(&cluster, "short", "truth").await?;
    assert_eq!((report.count(Kind::Extra), report.counts.len()), (10, 1), "{report}");
    assert!(!compare(&cluster, "truth", "nowhere").await?.is_clean());

    // Aborted records are not there.
    cluster.create_topic("transactions", 1, 1, &[]).await?;
    let transactions = Transactions { id: "t".to_owned(), records: 10, abort_every: 2 };
    let workload = Workload {
        records: 40,
        transactions: Some(transactions),
        ..Workload::new(&cluster.bootstrap(), "transactions")
    };
    workload.run().await?;
    let report = compare(&cluster, "transactions", "transactions").await?;
    assert_eq!(report.records, 20);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_reports_its_acks_and_the_java_tools_run() -> Result<()> {
    let cluster = Cluster::builder().name("tools").start().await?;
    cluster.create_topic("t", 2, 1, &[]).await?;
    let workload = Workload {
        records: 100_000,
        keep_acks: true,
        codec: Codec::Snappy,
        ..Workload::new(&cluster.bootstrap(), "t")
    };
    let outcome = workload.run().await?;
    assert_eq!((outcome.acked, outcome.acks.len(), outcome.failed), (100_000, 100_000, 0));
    println!("100000 records in {:?}, p50 {} us", outcome.took, outcome.latency.value_at_quantile(0.5));
    assert_eq!(cluster.admin().end_offsets("t").await?.iter().sum::<i64>(), 100_000);
    let deadline = std::time::Duration::from_secs(60);
    let servers = cluster.bootstrap();
    let args =
        ["--topic", "t", "--num-records", "1000", "--record-size", "100", "--throughput", "-1", "--producer-props"];
    let bootstrap = format!("bootstrap.servers={servers}");
    let args = [&args[..], &[bootstrap.as_str()]].concat();
    let output = cluster.kafka().tool("org.apache.kafka.tools.ProducerPerformance", &args, "", deadline).await?;
    assert!(output.success && output.stdout.contains("1000 records sent"), "{output:?}");
    let args = ["--bootstrap-server", &servers, "--topic", "t"];
    let output = cluster.kafka().tool("org.apache.kafka.tools.ConsoleProducer", &args, "one\ntwo\n", deadline).await?;
    assert!(output.success, "{output:?}");
    assert_eq!(cluster.admin().end_offsets("t").await?.iter().sum::<i64>(), 101_002);
    let begin = std::time::Instant::now();
    let side = Side::new("eu", &servers);
    let report = verify::assert_equal(&side, &side, "t").await?;
    println!("{report} in {:?}", begin.elapsed());
    Ok(())
}
