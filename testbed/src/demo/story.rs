//! The story itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;

use crate::build::build;
use crate::demo::Options;
use crate::demo::screen::Screen;
use crate::demo::status::{ProducerStatus, RegionStatus, Status, millis};
use crate::demo::town::Town;
use crate::workload::Running;
use crate::{Codec, DelaySpec, Proxy, ProxyConfig, Side, Workload, verify};

const US_RTT_MS: u64 = 80;
const AP_RTT_MS: u64 = 200;
/// Topic, partitions, records per second, codec.
const TOPICS: [(&str, i32, u64, Codec); 2] = [("orders", 4, 1500, Codec::Lz4), ("payments", 2, 500, Codec::Zstd)];
const VALUE_BYTES: usize = 500;
const TICK: Duration = Duration::from_millis(500);
const WARM_UP: Duration = Duration::from_secs(3);
/// Beyond its share of the story, a region may take this long to catch up on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// The stage: clusters, proxy and producer, and what was seen of them.
struct Stage<'a> {
    screen: &'a Screen,
    eu: Town,
    us: Town,
    ap: Arc<Town>,
    proxy: Proxy,
    producers: Vec<Running>,
    begin: Instant,
    last_tick: Instant,
    last_acked: u64,
    /// Since the act began.
    act: Act,
}

/// What was seen during one act.
#[derive(Default)]
struct Act {
    ack_latency: Option<Histogram<u64>>,
    rss_bytes_max: u64,
    us_p50_ms: f64,
    ap_p50_ms: f64,
    ap_lag_records_max: u64,
    ap_lag_seconds_max: f64,
    us_lag_seconds_max: f64,
    ap_state: String,
}

impl Act {
    fn ack_text(&self) -> String {
        self.ack_latency.as_ref().map_or("no acks".to_owned(), |latency| {
            format!("p50 {:.1} ms, p99 {:.1} ms", millis(latency, 0.5), millis(latency, 0.99))
        })
    }
}

/// Tells the story; `true` when both regions hold every record, once and in order.
pub(super) async fn tell(options: &Options, screen: &Screen) -> Result<bool> {
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => {
            screen.say("Building diffluent (release).");
            build("release").await?
        }
    };
    let mut stage = Stage::set(screen, binary, options.kafka).await?;
    let share = |percent: u32| options.length * percent / 100;
    stage.steady(share(25)).await?;
    stage.ap_goes_down(share(25)).await?;
    stage.ap_comes_back(share(20)).await?;
    stage.diffluent_is_killed(share(30)).await?;
    stage.end().await
}

impl<'a> Stage<'a> {
    async fn set(screen: &'a Screen, binary: PathBuf, kafka: bool) -> Result<Self> {
        let what = if kafka {
            format!("Apache Kafka {} clusters", crate::KAFKA)
        } else {
            "models of Kafka clusters".to_owned()
        };
        screen.say(&format!("Starting three {what}: eu (local), us ({US_RTT_MS} ms away), ap ({AP_RTT_MS} ms away)."));
        let (eu, us, ap) = tokio::try_join!(
            Town::start(kafka, "eu", None),
            Town::start(kafka, "us", Some(DelaySpec::rtt_ms(US_RTT_MS))),
            Town::start(kafka, "ap", Some(DelaySpec::rtt_ms(AP_RTT_MS))),
        )?;
        let slowest = eu.start_took().max(us.start_took()).max(ap.start_took());
        screen.say(&format!("All three answer ({:.1} s).", slowest.as_secs_f64()));
        for (topic, partitions, ..) in TOPICS {
            eu.create_topic(topic, partitions).await?;
            screen.say(&format!("Created topic {topic} with {partitions} partitions in eu, and in eu only."));
        }
        let config =
            ProxyConfig::new("eu", &eu.bootstrap()).region("us", &us.far_bootstrap()).region("ap", &ap.far_bootstrap());
        let proxy = Proxy::start(binary, config).await?;
        screen.say(&format!(
            "diffluent is in front of eu:   diffluent run {}\n\
             Clients' bootstrap.servers:    {}\n\
             See for yourself:              curl {}/lag",
            proxy.config_path().display(),
            proxy.bootstrap(),
            proxy.admin_addr()
        ));
        let mut producers = Vec::new();
        for (index, (topic, _, rate, codec)) in TOPICS.into_iter().enumerate() {
            let workload = Workload {
                records: u64::MAX,
                rate: Some(rate),
                value_bytes: VALUE_BYTES,
                codec,
                idempotent: true,
                seed: index as u64,
                config: vec![
                    // While diffluent is dead, try again soon.
                    ("reconnect.backoff.max.ms".to_owned(), "500".to_owned()),
                    // Batches of a few records, not of one: three brokers share this machine with the producer.
                    ("linger.ms".to_owned(), "20".to_owned()),
                ],
                ..Workload::new(&proxy.bootstrap(), topic)
            };
            producers.push(workload.start()?);
        }
        let rate: u64 = TOPICS.iter().map(|(_, _, rate, _)| rate).sum();
        screen.say(&format!(
            "A stock librdkafka producer writes {rate} records/s of {VALUE_BYTES} bytes through it (acks=all, lz4 and zstd)."
        ));
        let now = Instant::now();
        let act = Act::default();
        let ap = Arc::new(ap);
        Ok(Self { screen, eu, us, ap, proxy, producers, begin: now, last_tick: now, last_acked: 0, act })
    }

    async fn steady(&mut self, length: Duration) -> Result<()> {
        self.screen.say("\n1. Steady state: every record flows on to us and ap as soon as eu has acknowledged it.");
        // The first seconds of three cold JVMs tell nothing about a steady state.
        self.watch(WARM_UP).await?;
        self.watch(length.saturating_sub(WARM_UP)).await?;
        self.screen.say(&format!(
            "   Acks {}.\n   From eu's acknowledgement to the region's, p50 of the last minute: us {:.0} ms (round trip {US_RTT_MS} ms), ap {:.0} ms (round trip {AP_RTT_MS} ms).",
            self.act.ack_text(),
            self.act.us_p50_ms,
            self.act.ap_p50_ms,
        ));
        Ok(())
    }

    async fn ap_goes_down(&mut self, length: Duration) -> Result<()> {
        let before = (self.act.ack_text(), self.act.rss_bytes_max);
        self.screen.say("\n2. Region ap goes down: its broker is killed. Its lag grows; nobody else notices.");
        self.ap.kill()?;
        self.watch(length).await?;
        let act = &self.act;
        self.screen.say(&format!(
            "   ap is {}, {} records and {:.1} s behind; us was never more than {:.1} s behind.\n   \
             Acks: {} (before: {}). Memory: at most {} MiB (before: {} MiB).",
            act.ap_state,
            act.ap_lag_records_max,
            act.ap_lag_seconds_max,
            act.us_lag_seconds_max,
            act.ack_text(),
            before.0,
            act.rss_bytes_max >> 20,
            before.1 >> 20,
        ));
        Ok(())
    }

    async fn ap_comes_back(&mut self, length: Duration) -> Result<()> {
        self.screen.say("\n3. Region ap comes back. diffluent reads what it missed from eu's log, and catches up.");
        let ap = Arc::clone(&self.ap);
        let restart = ap.restart();
        tokio::pin!(restart);
        // The table lives on while the broker starts.
        loop {
            tokio::select! {
                restarted = &mut restart => break restarted?,
                () = tokio::time::sleep(TICK) => drop(self.tick().await?),
            };
        }
        let back = Instant::now();
        self.act = Act::default();
        loop {
            let status = self.tick().await?;
            let behind = status.region("ap").map_or(f64::MAX, |ap| ap.lag_seconds);
            let mirroring = status.region("ap").is_some_and(|ap| ap.state == "mirroring");
            if mirroring && behind < 2.0 {
                break;
            }
            if back.elapsed() > length + PATIENCE {
                bail!("ap has not caught up {:?} after it came back", back.elapsed());
            }
            tokio::time::sleep(TICK).await;
        }
        self.screen.say(&format!(
            "   ap has caught up {:.1} s after its broker answered again.",
            back.elapsed().as_secs_f64()
        ));
        self.watch(length.saturating_sub(back.elapsed())).await
    }

    async fn diffluent_is_killed(&mut self, length: Duration) -> Result<()> {
        self.screen.say("\n4. diffluent is killed with SIGKILL, under load. It has no state on disk to lose.");
        self.proxy.kill();
        self.watch(Duration::from_secs(2)).await?;
        let begin = Instant::now();
        self.proxy.restart().await?;
        self.screen.say(&format!(
            "   Started again, ready after {} ms. It asks eu and the regions where it had stopped, and goes on there.",
            begin.elapsed().as_millis()
        ));
        self.watch(length.saturating_sub(Duration::from_secs(2))).await
    }

    /// Stops the producer, waits for the regions, and compares everything.
    async fn end(mut self) -> Result<bool> {
        self.screen.say("\n5. The producer stops. When both regions are level, every record is compared.");
        let mut acked = 0;
        let mut failed = 0;
        self.tick().await?;
        for producer in &self.producers {
            producer.stop();
        }
        for producer in std::mem::take(&mut self.producers) {
            let outcome = producer.finish().await?;
            acked += outcome.acked;
            failed += outcome.failed;
        }
        self.last_acked = acked;
        let Self { proxy, .. } = &self;
        proxy.wait_lag_zero(PATIENCE).await?;
        self.tick().await?;
        self.screen.freeze();
        let mut local_records = 0;
        for (topic, ..) in TOPICS {
            local_records += self.eu.records(topic).await?;
        }
        let mut clean = failed == 0 && u64::try_from(local_records) == Ok(acked);
        self.screen
            .say(&format!("\n   The producer was promised {acked} records ({failed} failed); eu has {local_records}."));
        let eu = Side::new("eu", &self.eu.bootstrap());
        for region in [&self.us, self.ap.as_ref()] {
            let side = Side::new(region.name(), &region.bootstrap());
            for (topic, ..) in TOPICS {
                let report = verify::compare(&eu, &side, topic).await?;
                clean &= report.is_clean();
                self.screen.say(&format!("   {report}"));
            }
        }
        let status = self.proxy.stop().await?;
        if !status.success() {
            self.screen.say(&format!("   diffluent ended with {status}."));
            clean = false;
        }
        if self.proxy.log_text()?.contains("panicked at") {
            self.screen.say(&format!("   diffluent panicked:\n{}", crate::guard::tail(self.proxy.log_path())));
            clean = false;
        }
        self.screen.say(if clean {
            "\nNothing is lost, duplicated or out of order."
        } else {
            "\nSOMETHING IS WRONG: see above."
        });
        Ok(clean)
    }

    /// Watches for as long as the act takes.
    async fn watch(&mut self, length: Duration) -> Result<()> {
        self.act = Act::default();
        let end = Instant::now() + length;
        while Instant::now() < end {
            self.tick().await?;
            tokio::time::sleep(TICK.min(end.saturating_duration_since(Instant::now()))).await;
        }
        Ok(())
    }

    /// Looks at everything once and shows it.
    async fn tick(&mut self) -> Result<Status> {
        let since = self.last_tick.elapsed();
        self.last_tick = Instant::now();
        let mut producer = ProducerStatus::default();
        let mut latency: Option<Histogram<u64>> = None;
        for running in &self.producers {
            producer.acked += running.acked();
            producer.failed += running.failed();
            let recent = running.take_latency();
            match &mut latency {
                Some(latency) => latency.add(recent).context("cannot add latencies")?,
                None => latency = Some(recent),
            }
        }
        let acked = producer.acked.max(self.last_acked);
        producer.acked_per_second = (acked - self.last_acked) as f64 / since.as_secs_f64().max(1e-3);
        self.last_acked = acked;
        if let Some(latency) = latency {
            (producer.ack_p50_ms, producer.ack_p99_ms) = (millis(&latency, 0.5), millis(&latency, 0.99));
            match &mut self.act.ack_latency {
                Some(all) => all.add(latency).context("cannot add latencies")?,
                None => self.act.ack_latency = Some(latency),
            }
        }
        let regions = match self.proxy.lag().await {
            Ok(lag) => Some(RegionStatus::all(&lag).with_context(|| format!("GET /lag has another shape: {lag}"))?),
            Err(_) => None,
        };
        let seconds = self.begin.elapsed().as_secs();
        let status = Status { seconds, producer, regions, rss_bytes: self.proxy.rss_bytes().ok() };
        self.act.rss_bytes_max = self.act.rss_bytes_max.max(status.rss_bytes.unwrap_or(0));
        if let (Some(us), Some(ap)) = (status.region("us"), status.region("ap")) {
            let act = &mut self.act;
            act.us_p50_ms = us.latency_p50_seconds * 1e3;
            act.ap_p50_ms = ap.latency_p50_seconds * 1e3;
            act.ap_lag_records_max = act.ap_lag_records_max.max(ap.lag_records);
            act.ap_lag_seconds_max = act.ap_lag_seconds_max.max(ap.lag_seconds);
            act.us_lag_seconds_max = act.us_lag_seconds_max.max(us.lag_seconds);
            act.ap_state.clone_from(&ap.state);
        }
        if let Some(exit) = self.proxy.try_status() {
            bail!("diffluent has ended by itself ({exit}):\n{}", crate::guard::tail(self.proxy.log_path()));
        }
        self.screen.show(status.table(), &status.line());
        Ok(status)
    }
}
