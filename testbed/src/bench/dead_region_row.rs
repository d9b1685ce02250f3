//! A region that does not answer while clients produce: resident memory, second by second.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::bench::fill::{Fill, RECORD_BYTES, Until};
use crate::bench::table::{Marks, Rounds, Table};
use crate::bench::{Options, say};
use crate::delay::DelaySpec;
use crate::kafka::Cluster;
use crate::proxy::{Proxy, ProxyConfig, RegionConfig};

const TOPIC: &str = "dead";
const PARTITIONS: i32 = 4;
const BATCH_BYTES: u64 = 64 << 10;
const MEGABYTES_PER_SECOND: u64 = 40;
/// Under load for so many times `--seconds`.
const TIMES: u32 = 18;
/// What a local cluster keeps: what the region misses is still there, and the disk does not fill.
const RETENTION: [(&str, &str); 2] = [("retention.bytes", "2147483648"), ("segment.bytes", "268435456")];

/// Measures the row.
///
/// # Errors
/// When something does not start or answer.
pub(super) async fn measure(binary: &Path, options: &Options) -> Result<String> {
    say("starting two clusters");
    let region = Cluster::builder().name("region").listener_via(DelaySpec::rtt_ms(1));
    let (local, region) = tokio::try_join!(Cluster::builder().name("local").start(), region.start())?;
    local.create_topic(TOPIC, PARTITIONS, 1, &RETENTION).await?;
    let to = RegionConfig::new("us", &region.delayed_bootstrap());
    let mut proxy = Proxy::start(binary, ProxyConfig::new("eu", &local.bootstrap()).region_with(to)).await?;
    let fill = |until| Fill {
        bootstrap: proxy.bootstrap(),
        topic: TOPIC.to_owned(),
        partitions: PARTITIONS,
        batch_bytes: BATCH_BYTES,
        until,
        rate: Some(MEGABYTES_PER_SECOND * 1_000_000 / RECORD_BYTES),
    };
    fill(Until::Elapsed(options.length)).run().await?;
    proxy.wait_lag_zero(Duration::from_secs(60)).await?;
    let alive = proxy.rss_bytes()? as f64 / f64::from(1 << 20);
    let length = options.length * TIMES;
    say(&format!("the region falls silent: {} s of load", length.as_secs()));
    region.delay().context("no delay line")?.half_open();
    let load = tokio::spawn(fill(Until::Elapsed(length)).run());
    let begin = Instant::now();
    let (mut first, mut last) = (Rounds::default(), Rounds::default());
    while !load.is_finished() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let resident = proxy.rss_bytes()? as f64 / f64::from(1 << 20);
        // The first third fills what may be filled; the second and the last are held against each other.
        if begin.elapsed() > length * 2 / 3 {
            last.push(resident);
        } else if begin.elapsed() > length / 3 {
            first.push(resident);
        }
    }
    let produced = load.await.context("the producer panicked")??;
    say(&format!("resident {alive:.0} MiB alive, then {} and {} MiB", first.show(0), last.show(0)));
    proxy.kill();
    let mut table = Table::new(&["", "resident MiB"]);
    table.row(vec!["the region alive, after the same load".to_owned(), format!("{alive:.0}")]);
    table.row(vec!["silent: the second third".to_owned(), first.show(1)]);
    table.row(vec!["silent: the last third".to_owned(), last.show(1)]);
    let mut growth = Rounds::default();
    growth.push(last.median() / first.median());
    let mut marks = Marks::new();
    marks.at_most("last third beside the second", 1.02, "×", &growth, 3);
    Ok(format!(
        "## A dead region\n\n{}\n{}\n\
         {} records of {RECORD_BYTES} bytes through the proxy in {} s ({:.0} MB/s), while the region's line swallows everything and closes nothing. Medians of one look a second (smallest to \
         largest).\n",
        table.text(),
        marks.text(),
        produced.records,
        length.as_secs(),
        produced.megabytes_per_second(),
    ))
}
