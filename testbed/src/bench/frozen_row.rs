//! A follower of one partition in the region freezes: what another partition of the same leader feels of it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;

use crate::bench::latency_row::{Ends, Measured, RATE, slice};
use crate::bench::probe::{Probe, millis_at, paced};
use crate::bench::table::{Marks, Rounds, Table};
use crate::bench::{Options, say};
use crate::kafka::Cluster;
use crate::proxy::{Proxy, ProxyConfig, RegionConfig};

const LEADER: i32 = 1;
const FOLLOWER: i32 = 2;
const FROZEN: i32 = 3;
/// Shorter than a broker takes to be declared dead (9 s by default), so that the follower stays in sync for all of it.
const FROZEN_FOR: Duration = Duration::from_secs(6);

/// Measures the row.
///
/// # Errors
/// When something does not start or answer.
pub(super) async fn measure(binary: &Path, options: &Options) -> Result<String> {
    say("starting a cluster here and one of three brokers");
    let region = Cluster::builder().name("region").brokers(3).config("broker.session.timeout.ms", "9000");
    let (local, region) = tokio::try_join!(Cluster::builder().name("local").start(), region.start())?;
    for (topic, follower) in [("slow", FROZEN), ("other", FOLLOWER)] {
        local.create_topic(topic, 1, 1, &[]).await?;
        region.admin().create_topic_on(topic, &[&[LEADER, follower]]).await?;
        // A leader that metadata already names may not have taken office; one that tells where its log ends has.
        local.admin().end_offsets(topic).await?;
    }
    let to = RegionConfig::new("us", &region.bootstrap());
    let mut proxy = Proxy::start(binary, ProxyConfig::new("eu", &local.bootstrap()).region_with(to)).await?;
    let (through, there) = (proxy.bootstrap(), region.bootstrap());
    let origin = Instant::now();
    let made = tokio::task::spawn_blocking(move || {
        let mut slow = Probe::connect(&through, "slow")?;
        slow.produce(Bytes::from_static(b"first"))?;
        let ends = Ends { producer: Probe::connect(&through, "other")?, consumer: Probe::connect(&there, "other")? };
        anyhow::Ok((slow, slice(ends, origin, RATE, &mut Measured::new()?)?))
    });
    let (slow, mut ends) = made.await.context("the probe panicked")??;
    proxy.wait_lag_zero(Duration::from_secs(60)).await?;
    // What fills the slow partition without end.
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let load = tokio::task::spawn_blocking(move || {
        let mut slow = slow;
        while !stopped.load(Ordering::Relaxed) {
            paced(RATE, RATE / 4, |_| slow.produce(Bytes::from_static(&[b'x'; 1000])))?;
        }
        anyhow::Ok(())
    });
    let (mut before_max, mut frozen_max, mut frozen_p99) = (Rounds::default(), Rounds::default(), Rounds::default());
    for round in 0..options.rounds {
        let measured = timed(ends, origin, options.length).await?;
        ends = measured.0;
        let before = millis_at(&measured.1.arrived, 1.0);
        region.pause(FROZEN)?;
        let measured = timed(ends, origin, FROZEN_FOR).await;
        region.resume(FROZEN)?;
        let (back, measured) = measured?;
        ends = back;
        let (p99, max) = (millis_at(&measured.arrived, 0.99), millis_at(&measured.arrived, 1.0));
        say(&format!(
            "round {}: slowest record {before:.0} ms before, {max:.0} ms (p99 {p99:.0} ms) with a frozen follower",
            round + 1
        ));
        before_max.push(before);
        frozen_max.push(max);
        frozen_p99.push(p99);
        // The slow partition takes what has waited.
        proxy.wait_lag_zero_of(&[], Duration::from_secs(60)).await.ok();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    stop.store(true, Ordering::Relaxed);
    load.await.context("the probe panicked")??;
    proxy.stop().await?;
    Ok(told(&before_max, &frozen_max, &frozen_p99, options))
}

async fn timed(ends: Ends, origin: Instant, length: Duration) -> Result<(Ends, Measured)> {
    let work = tokio::task::spawn_blocking(move || {
        let mut measured = Measured::new()?;
        let ends = slice(ends, origin, RATE * length.as_secs().max(1), &mut measured)?;
        anyhow::Ok((ends, measured))
    });
    work.await.context("the probe panicked")?
}

fn told(before: &Rounds, frozen: &Rounds, p99: &Rounds, options: &Options) -> String {
    let mut table = Table::new(&["another partition of the same leader", "slowest record, ms", "p99, ms"]);
    table.row(vec!["all well".to_owned(), before.show(0), "-".to_owned()]);
    table.row(vec!["a follower of the first partition frozen".to_owned(), frozen.show(0), p99.show(0)]);
    let mut marks = Marks::new();
    marks.at_most("slowest record, more than before", 200.0, "ms", &frozen.less(before), 0);
    format!(
        "## A frozen follower\n\n{}\n{}\n\
         Two partitions in a region of three brokers, led by the same one, each with a follower of its own and {RATE} records a second at acks=all. One of the followers is stopped (SIGSTOP) for {} s, during which it counts as \
         in sync: nothing of its partition is acknowledged. Latency from the producer's send to a consumer in the region, of the other partition. Medians over {} rounds (smallest to largest).\n",
        table.text(),
        marks.text(),
        FROZEN_FOR.as_secs(),
        options.rounds,
    )
}
