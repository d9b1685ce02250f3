//! From a producer's send to a consumer in the region: near and far, captured and caught up.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use hdrhistogram::Histogram;

use crate::bench::probe::{Probe, micros, millis_at, paced};
use crate::bench::table::{Marks, Rounds, Table};
use crate::bench::{Options, say};
use crate::delay::DelaySpec;
use crate::kafka::Cluster;
use crate::proxy::{Proxy, ProxyConfig, RegionConfig};

pub(super) const RATE: u64 = 200;
const RTT_MS: u64 = 100;
const RECORD_BYTES: usize = 1000;
/// How long the region may take for the warm-up, and for the last record of a round.
const DEADLINE: Duration = Duration::from_secs(60);

/// One way to the region.
#[derive(Debug)]
struct Way {
    topic: &'static str,
    title: &'static str,
    captured: bool,
    far: bool,
    p50_millis: Rounds,
    p99_millis: Rounds,
    ack_p50_millis: Rounds,
}

fn ways() -> Vec<Way> {
    let ways = [
        ("near-captured", "no delay, through the proxy", true, false),
        ("near-bypass", "no delay, bypassing it", false, false),
        ("far-captured", "100 ms round trip, through the proxy", true, true),
        ("far-bypass", "100 ms round trip, bypassing it", false, true),
    ];
    ways.into_iter()
        .map(|(topic, title, captured, far)| Way {
            topic,
            title,
            captured,
            far,
            p50_millis: Rounds::default(),
            p99_millis: Rounds::default(),
            ack_p50_millis: Rounds::default(),
        })
        .collect()
}

/// Both ends of a way: a producer, and a consumer in the region that reads with long polls.
pub(super) struct Ends {
    pub(super) producer: Probe,
    pub(super) consumer: Probe,
}

/// Measures the row.
///
/// # Errors
/// When something does not start or answer, or a record does not arrive within a minute.
pub(super) async fn measure(binary: &Path, options: &Options) -> Result<String> {
    say("starting two clusters and two proxies");
    let region = Cluster::builder().name("region").listener_via(DelaySpec::rtt_ms(RTT_MS));
    let (local, region) = tokio::try_join!(Cluster::builder().name("local").start(), region.start())?;
    let mut ways = ways();
    for way in &ways {
        local.create_topic(way.topic, 1, 1, &[]).await?;
        region.create_topic(way.topic, 1, 1, &[]).await?;
    }
    let proxy = async |name: &str, bootstrap: &str| {
        let mut to = RegionConfig::new(name, bootstrap);
        to.topics = vec![format!("{name}-.*")];
        Proxy::start(binary, ProxyConfig::new("eu", &local.bootstrap()).region_with(to)).await
    };
    let mut near = proxy("near", &region.bootstrap()).await?;
    let mut far = proxy("far", &region.delayed_bootstrap()).await?;
    let origin = Instant::now();
    let mut ends = Vec::new();
    for way in &ways {
        let through = if way.far { far.bootstrap() } else { near.bootstrap() };
        let bootstrap = if way.captured { through } else { local.bootstrap() };
        let (to, topic) = (region.bootstrap(), way.topic);
        let made = tokio::task::spawn_blocking(move || {
            let producer = Probe::connect(&bootstrap, topic)?;
            let consumer = Probe::connect(&to, topic)?;
            slice(Ends { producer, consumer }, origin, RATE, &mut Measured::new()?)
        });
        ends.push(made.await.context("the probe panicked")?.with_context(|| format!("warm-up of {topic}"))?);
    }
    let length = options.length.as_secs().max(1);
    for round in 0..options.rounds {
        let work = tokio::task::spawn_blocking(move || {
            let mut measured = ends.iter().map(|_| Measured::new()).collect::<Result<Vec<_>>>()?;
            for _ in 0..length {
                let mut back = Vec::new();
                for (pair, measured) in ends.into_iter().zip(&mut measured) {
                    back.push(slice(pair, origin, RATE, measured)?);
                }
                ends = back;
            }
            anyhow::Ok((ends, measured))
        });
        let measured;
        (ends, measured) = work.await.context("the probe panicked")??;
        for (way, measured) in ways.iter_mut().zip(&measured) {
            let (p50, p99) = (millis_at(&measured.arrived, 0.5), millis_at(&measured.arrived, 0.99));
            way.ack_p50_millis.push(millis_at(&measured.acked, 0.5));
            way.p50_millis.push(p50);
            way.p99_millis.push(p99);
            say(&format!("round {}: {}: p50 {p50:.1} ms, p99 {p99:.1} ms", round + 1, way.title));
        }
    }
    near.stop().await?;
    far.stop().await?;
    told(&ways, options)
}

/// Latencies of one way in one round, in microseconds from the send.
pub(super) struct Measured {
    pub(super) arrived: Histogram<u64>,
    pub(super) acked: Histogram<u64>,
}

impl Measured {
    pub(super) fn new() -> Result<Self> {
        Ok(Self { arrived: micros()?, acked: micros()? })
    }
}

/// Produces `count` records on schedule, reads them in the region at the same time, and adds the latencies to `measured`.
pub(super) fn slice(ends: Ends, origin: Instant, count: u64, measured: &mut Measured) -> Result<Ends> {
    let Ends { mut producer, mut consumer } = ends;
    let stop = Arc::new(AtomicBool::new(false));
    let for_reader = Arc::clone(&stop);
    let reader = std::thread::Builder::new().name("consumer".to_owned()).spawn(move || {
        let mut latencies = micros()?;
        let mut seen = HashMap::new();
        let end = Instant::now() + DEADLINE;
        while (seen.len() as u64) < count {
            if Instant::now() > end || for_reader.load(Ordering::Relaxed) {
                bail!("{} of {count} records arrived", seen.len());
            }
            for mut value in consumer.fetch(Duration::from_millis(500))? {
                let now = nanos_since(origin);
                let sent = value.try_get_u64().context("a record that was not sent here")?;
                if seen.insert(sent, ()).is_none() {
                    latencies.saturating_record((now.saturating_sub(sent) / 1000).max(1));
                }
            }
        }
        anyhow::Ok((consumer, latencies))
    });
    let reader = reader.context("cannot start a thread")?;
    let mut last = 0;
    let produced = paced(RATE, count, |from| {
        // Two records of one moment would be one: the clock has nanoseconds, but a late schedule repeats none either.
        last = nanos_of(origin, from).max(last + 1);
        let mut value = BytesMut::with_capacity(RECORD_BYTES);
        value.put_u64(last);
        value.put_bytes(b'x', RECORD_BYTES - 8);
        producer.produce(Bytes::from(value))?;
        measured.acked.saturating_record((nanos_since(origin).saturating_sub(last) / 1000).max(1));
        Ok(())
    });
    if produced.is_err() {
        stop.store(true, Ordering::Relaxed);
    }
    let read = reader.join().ok().context("the consumer panicked")?;
    produced?;
    let (consumer, latencies) = read?;
    measured.arrived.add(&latencies).context("histograms of the same bounds")?;
    Ok(Ends { producer, consumer })
}

fn nanos_since(origin: Instant) -> u64 {
    nanos_of(origin, Instant::now())
}

fn nanos_of(origin: Instant, moment: Instant) -> u64 {
    u64::try_from(moment.saturating_duration_since(origin).as_nanos()).unwrap_or(u64::MAX)
}

fn told(ways: &[Way], options: &Options) -> Result<String> {
    let mut table = Table::new(&["", "p50 ms", "p99 ms", "of which until the producer's ack, p50 ms"]);
    for way in ways {
        table.row(vec![
            way.title.to_owned(),
            way.p50_millis.show(1),
            way.p99_millis.show(1),
            way.ack_p50_millis.show(1),
        ]);
    }
    let way = |topic: &str| ways.iter().find(|way| way.topic == topic).context("a way that was not measured");
    let (near, far) = (way("near-captured")?, way("far-captured")?);
    let one_way = RTT_MS as f64 / 2.0;
    let mut marks = Marks::new();
    marks.at_most("p50, no delay", 2.0, "ms", &near.p50_millis, 1);
    marks.at_most("p99, no delay", 10.0, "ms", &near.p99_millis, 1);
    marks.at_most("p50, 100 ms round trip", one_way + 3.0, "ms", &far.p50_millis, 1);
    marks.at_most("p99, 100 ms round trip", one_way + 20.0, "ms", &far.p99_millis, 1);
    let added = way("near-bypass")?.p50_millis.less(&near.p50_millis);
    marks.at_most("bypassing the proxy, no delay: p50 more", 20.0, "ms", &added, 1);
    let added = way("far-bypass")?.p50_millis.less(&far.p50_millis);
    marks.at_most("bypassing the proxy, 100 ms round trip: p50 more", 20.0, "ms", &added, 1);
    Ok(format!(
        "## Replication latency\n\n{}\n{}\n\
         From a producer's send to the moment at which a consumer beside the region's broker has the record: {RATE} records of \
         {RECORD_BYTES} bytes a second on a fixed schedule, one record at a time, acks=all, {} s per way and round in turns of a second; \
         medians over {} rounds (smallest to largest). The round trip is between diffluent and the region. For comparison, measured \
         earlier on the same kind of machine: MirrorMaker 2 4.3.0 has p50 36 ms, p99 206 ms without delay, and p50 132 ms, p99 201 ms at \
         100 ms of round trip.\n",
        table.text(),
        marks.text(),
        options.length.as_secs().max(1),
        options.rounds,
    ))
}
