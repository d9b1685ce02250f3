//! The macro benchmark: what diffluent costs beside what people would use instead, on real Kafka, in one run.
//!
//! Owns: the rows, how they are measured and how they are told (on the terminal and in docs/BENCHMARKS.md). Every row runs its
//! variants in alternating rounds and states median and spread, because absolute numbers of a busy machine mean little.
//!
//! May touch: child processes that it started, loopback ports, its own sections of docs/BENCHMARKS.md. Must not: judge. A
//! mark that is missed is shown as missed, and the run still succeeds; an error is something that could not be measured.

mod budget_row;
mod catch_up_row;
mod chart;
mod dead_region_row;
mod document;
mod far_partition_row;
mod fill;
mod frozen_row;
mod growth_row;
mod haproxy;
mod idle_row;
mod latency_row;
mod machine;
mod mirrored;
mod mm2;
mod probe;
mod process;
mod proxy_row;
mod raw;
mod replicate_row;
mod table;
mod tls_row;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

/// The rows that there are, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Row {
    /// What the proxy costs a client: CPU, ack latency, memory; beside no proxy and HAProxy.
    Proxy,
    /// Replication latency, captured and caught up, near and far.
    Latency,
    /// One partition over 100 ms of round trip, to one broker and to three replicas; beside bare clients.
    FarPartition,
    /// What a frozen follower of one partition does to another.
    Frozen,
    /// A backlog over 100 ms of round trip; beside MirrorMaker 2.
    CatchUp,
    /// Steady replication; beside MirrorMaker 2.
    Replicate,
    /// Many streams and many connections at which nothing happens, and how soon all is there after a start.
    Idle,
    /// Memory while a region does not answer.
    DeadRegion,
    /// What TLS in and TLS out cost, beside HAProxy with TLS at the same ends.
    Tls,
    /// How cost grows with partitions, regions, connections and the size of records.
    Growth,
    /// What one produced batch takes: system calls, allocations, loads and stores.
    Budget,
}

impl Row {
    const ALL: [Row; 11] = [
        Row::Proxy,
        Row::Latency,
        Row::FarPartition,
        Row::Frozen,
        Row::CatchUp,
        Row::Replicate,
        Row::Idle,
        Row::DeadRegion,
        Row::Tls,
        Row::Growth,
        Row::Budget,
    ];

    fn name(self) -> &'static str {
        match self {
            Row::Proxy => "proxy",
            Row::Latency => "latency",
            Row::FarPartition => "far-partition",
            Row::Frozen => "frozen",
            Row::CatchUp => "catch-up",
            Row::Replicate => "replicate",
            Row::Idle => "idle",
            Row::DeadRegion => "dead-region",
            Row::Tls => "tls",
            Row::Growth => "growth",
            Row::Budget => "budget",
        }
    }
}

/// What the command line asks for.
#[derive(Clone, Debug)]
pub struct Options {
    /// One row; `None`: all.
    pub row: Option<Row>,
    /// How long each timed part takes, per variant and round.
    pub length: Duration,
    /// Alternating rounds.
    pub rounds: usize,
    /// MiB produced per variant and round where CPU time is counted, and of a backlog.
    pub mib: u64,
    /// Partitions of the row about idle ones.
    pub partitions: u64,
    /// diffluent's binary; `None`: build it.
    pub binary: Option<PathBuf>,
    /// Whether docs/BENCHMARKS.md is written.
    pub write: bool,
}

/// Runs the rows, prints their tables and writes them to docs/BENCHMARKS.md.
///
/// # Errors
/// When something could not be measured: something does not build, start or answer.
pub async fn run(options: Options) -> Result<()> {
    crate::kafka::java::optimise_fully();
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => crate::build::build("dist").await?,
    };
    let rows: Vec<Row> = Row::ALL.into_iter().filter(|row| options.row.is_none_or(|only| only == *row)).collect();
    for row in rows {
        let machine = machine::describe(row.name(), &options);
        println!("\n== {} ==\n", row.name());
        let measured = match row {
            Row::Proxy => proxy_row::measure(&binary, &options).await,
            Row::Latency => latency_row::measure(&binary, &options).await,
            Row::FarPartition => far_partition_row::measure(&binary, &options).await,
            Row::Frozen => frozen_row::measure(&binary, &options).await,
            Row::CatchUp => catch_up_row::measure(&binary, &options).await,
            Row::Replicate => replicate_row::measure(&binary, &options).await,
            Row::Idle => idle_row::measure(&binary, &options).await,
            Row::DeadRegion => dead_region_row::measure(&binary, &options).await,
            Row::Tls => tls_row::measure(&binary, &options).await,
            Row::Growth => growth_row::measure(&binary, &options).await,
            Row::Budget => budget_row::measure(&binary).await,
        };
        let text = measured.with_context(|| format!("row {}", row.name()))?;
        println!("\n{text}\n{machine}");
        if options.write {
            document::write(row.name(), &format!("{text}\n{machine}"))?;
        }
    }
    Ok(())
}

/// Says what is being done, to whoever waits.
fn say(what: &str) {
    eprintln!("bench: {what}");
}
