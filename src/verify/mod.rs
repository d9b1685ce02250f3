//! `diffluent verify`: compares what a region holds with the local log, record by record, while both go on.
//!
//! ```text
//! plan ──► compare ──► side (source) ──► lockstep ──► tally ──► report
//!             │        side (region) ──┘
//!             └─ align: where both begin together
//! ```
//!
//! Owns the comparison and its report. It reads both clusters and the committed progress, and changes nothing. It decides nothing for
//! the running proxy.
//!
//! Memory is bounded by constants: [`PARTITIONS_AT_ONCE`] partitions, for each two [`side`]s and the look-ahead of [`lockstep`]; the
//! report keeps at most [`tally::DIFFERENCES_MAX`] differences of a partition.

pub mod align;
pub mod compare;
pub mod entry;
pub mod fetching;
pub mod lockstep;
pub mod plan;
pub mod report;
mod resync;
pub mod sample;
pub mod side;
pub mod tally;
mod text;
mod window;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::access::Access;
use crate::client::Reach;
use crate::client::cluster::Cluster;
use crate::client::connection::Traffic;
use crate::config::{Config, Forward, HostPort, Region, Sasl, TopicPattern};
use crate::net::Dialer;
use compare::Context;
use plan::Planned;
pub use report::VerifyReport;
use report::{PartitionReport, RegionReport, TopicReport, Unknown, Verdict};
use sample::Sample;
use side::Counts;

/// Partitions that are compared at the same time.
pub const PARTITIONS_AT_ONCE: usize = 8;

/// What an operator asks for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Only this region.
    pub region: Option<String>,
    /// Only these topics, by their names in the local cluster.
    pub topic: Option<TopicPattern>,
    /// Only records of this age or younger.
    pub since: Option<Duration>,
    /// Only so much, in percent.
    pub sample_percent: Option<f64>,
    /// What chooses the sample; none: chance.
    pub seed: Option<u64>,
}

/// The options do not fit the configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// There is no such region.
    #[error("--region {wanted:?}: proxy.toml has no such region; it has: {known}")]
    UnknownRegion {
        /// The option's value.
        wanted: String,
        /// The names that there are.
        known: String,
    },
    /// There is no region at all.
    #[error("proxy.toml has no [[region]]: there is nothing to compare")]
    NoRegion,
}

/// Compares what `options` name.
///
/// # Errors
/// [`UsageError`]. What goes wrong with a cluster is in the report.
pub async fn run(config: &Config, access: &Access, options: &Options) -> Result<VerifyReport, UsageError> {
    let regions: Vec<&Region> = (config.region.iter())
        .filter(|region| options.region.as_deref().is_none_or(|wanted| wanted == region.name.as_str()))
        .collect();
    if regions.is_empty() {
        return Err(match &options.region {
            Some(wanted) if !config.region.is_empty() => {
                let known: Vec<&str> = config.region.iter().map(|region| region.name.as_str()).collect();
                UsageError::UnknownRegion { wanted: wanted.clone(), known: known.join(", ") }
            }
            _ => UsageError::NoRegion,
        });
    }
    let begun = Instant::now();
    let hashes = RandomState::new();
    let sample = options.sample_percent.map(|percent| Sample {
        percent,
        // A hasher's keys are random; JSON numbers are exact up to 53 bits.
        seed: options.seed.unwrap_or_else(|| hashes.hash_one(0) >> 11),
    });
    let login = ("local.sasl", config.local.sasl.as_ref());
    let local = cluster(config, "local", &config.local.bootstrap_servers, access.local(), login);
    let bar = progress_bar();
    let room = Arc::new(Semaphore::new(PARTITIONS_AT_ONCE));
    let mut reports = Vec::with_capacity(regions.len());
    for region in regions {
        let context = Context {
            local: local.clone(),
            region: cluster(
                config,
                &region.name,
                &region.bootstrap_servers,
                access.region(&region.name),
                ("region.sasl", region.sasl.as_ref()),
            ),
            since_ms: options.since.map(since_ms),
            sample,
            bar: bar.clone(),
            hashes: hashes.clone(),
        };
        bar.set_message(format!("region {}", region.name));
        let topics = self::region(config, region, options, context, &room).await;
        reports.push(RegionReport::new(&region.name, topics));
    }
    bar.finish_and_clear();
    let sample = sample.map(|sample| (sample.percent, sample.seed));
    Ok(VerifyReport::new(reports, sample, begun.elapsed().as_secs_f64()))
}

fn cluster(
    config: &Config,
    name: &str,
    servers: &[HostPort],
    dialer: Dialer,
    (table, sasl): (&str, Option<&Sasl>),
) -> Arc<Cluster> {
    let servers = servers.iter().map(ToString::to_string).collect();
    let dial_timeout = config.proxy.dial_timeout;
    let reach = Reach::new(Arc::new(dialer), table, sasl, dial_timeout);
    Cluster::new(name, servers, reach, dial_timeout, Arc::<Traffic>::default())
}

/// The time so long ago, milliseconds since 1970.
fn since_ms(ago: Duration) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.saturating_sub(ago).as_millis()).unwrap_or(i64::MAX)
}

/// On standard error, and only if that is a terminal.
fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} offsets, {per_sec}, {eta} left") {
        bar.set_style(style);
    }
    bar
}

async fn region(
    config: &Config,
    region: &Region,
    options: &Options,
    context: Context,
    room: &Arc<Semaphore>,
) -> Result<Vec<TopicReport>, Unknown> {
    let origin = config.proxy.name.as_str();
    let planned = plan::plan(&context.local, &context.region, region, origin, options.topic.as_ref()).await?;
    let mut running = JoinSet::new();
    let down = Arc::new(AtomicBool::new(false));
    for (at, partition) in planned.iter().cloned().enumerate() {
        if let Ok(stream) = &partition.stream {
            let offsets = u64::try_from(stream.source_to() - stream.source_start).unwrap_or(0);
            let share = context.sample.map_or(1.0, |sample| sample.percent / 100.0);
            context.bar.inc_length((offsets as f64 * share) as u64);
        }
        let (context, room, down) = (context.clone(), room.clone(), down.clone());
        running.spawn(async move {
            // The semaphore is never closed.
            let _permit = room.acquire().await;
            (at, one(partition, &context, &down).await)
        });
    }
    let mut done = running.join_all().await;
    done.sort_by_key(|(at, _)| *at);
    let mut topics: Vec<TopicReport> = Vec::new();
    for (Planned { topic, topic_in_region, .. }, (_, mut report)) in planned.into_iter().zip(done) {
        report.notes.extend(not_compared(region.forward, &report.source.counts));
        match topics.last_mut().filter(|last| last.topic == *topic) {
            Some(last) => last.partitions.push(report),
            None => topics.push(TopicReport {
                topic: topic.to_string(),
                topic_in_region: topic_in_region.to_string(),
                result: Verdict::Equal,
                partitions: vec![report],
            }),
        }
    }
    for topic in &mut topics {
        topic.result = topic.partitions.iter().map(|partition| partition.result).max().unwrap_or(Verdict::Equal);
    }
    Ok(topics)
}

/// What a region gets besides what was born here is compared by nobody who knows only these two clusters: another path may have brought it, in other batches.
fn not_compared(forward: Forward, source: &Counts) -> Option<String> {
    (forward != Forward::Own && source.other_streams > 0).then(|| {
        "the local log also holds records that were born in other clusters; they are forwarded to this region, and NOT compared: the result is about what \
         was born here"
            .to_owned()
    })
}

async fn one(planned: Planned, context: &Context, down: &AtomicBool) -> PartitionReport {
    let unknown = |unknown| {
        let mut report = PartitionReport::new(planned.partition);
        report.unknown.push(unknown);
        report.conclude()
    };
    let stream = match &planned.stream {
        Ok(stream) => stream,
        Err(reason) => return unknown(reason.clone()),
    };
    if down.load(Ordering::Relaxed) {
        // Else each partition would wait for a cluster that is gone.
        return unknown(Unknown::new("a cluster went away while others were compared", "verify again once it is back"));
    }
    let (report, silent) = compare::compare(stream, context).await;
    let gone = silent && (context.local.refresh().await.is_err() || context.region.refresh().await.is_err());
    down.fetch_or(gone, Ordering::Relaxed);
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(regions: &str) -> Config {
        let text = format!(
            "[proxy]\nname = \"eu\"\nlisten = \"127.0.0.1:0\"\nadvertise = \"127.0.0.1\"\nbroker_ports = \"9100-9102\"\n\
             dial_timeout = \"2 s\"\n[local]\nbootstrap_servers = [\"no-such-host.invalid:9092\"]\n{regions}"
        );
        Config::parse("proxy.toml", &text).expect("a configuration")
    }

    async fn run_plain(config: &Config, options: &Options) -> Result<VerifyReport, UsageError> {
        run(config, &Access::load(config).expect("no files"), options).await
    }

    const US: &str = "[[region]]\nname = \"us\"\nbootstrap_servers = [\"no-such-host.invalid:9092\"]\n";

    #[test]
    fn what_is_forwarded_and_not_compared_is_said() {
        let counts = |other_streams| Counts { other_streams, ..Counts::default() };
        assert_eq!(not_compared(Forward::Own, &counts(5)), None, "it is not mirrored");
        assert_eq!(not_compared(Forward::All, &counts(0)), None, "there is none");
        for forward in [Forward::All, Forward::Restore] {
            assert!(not_compared(forward, &counts(5)).is_some_and(|note| note.contains("NOT compared")));
        }
    }

    #[tokio::test]
    async fn a_region_that_is_not_configured_is_a_mistake_in_the_command() {
        let wanted = Options { region: Some("ap".into()), ..Options::default() };
        let error = run_plain(&config(US), &wanted).await.expect_err("no such region");
        assert!(error.to_string().contains("it has: us"), "{error}");
    }

    #[tokio::test]
    async fn clusters_that_are_not_there_leave_it_unknown_with_advice() {
        let report = run_plain(&config(US), &Options::default()).await.expect("a report");
        assert_eq!(report.exit_code(), 2);
        let text = report.to_string();
        assert!(text.contains("region \"us\": unknown") && text.contains("-> start the cluster"), "{text}");
    }
}
