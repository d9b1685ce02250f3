//! The macro benchmark: what diffluent costs beside what people would use instead, on real Kafka, in one run.
//!
//! Owns: the rows, how they are measured and how they are told (on the terminal and in docs/BENCHMARKS.md). Every row runs its
//! variants in alternating rounds and states median and spread, because absolute numbers of a busy machine mean little.
//!
//! May touch: child processes that it started, loopback ports, its own sections of docs/BENCHMARKS.md. Must not: judge. A
//! mark that is missed is shown as missed, and the run still succeeds; an error is something that could not be measured.

mod document;
mod fill;
mod haproxy;
mod latency_row;
mod long_haul_row;
mod machine;
mod probe;
mod process;
mod proxy_row;
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
    /// One partition over 100 ms of round trip.
    LongHaul,
    /// What TLS in and TLS out cost, beside HAProxy with TLS at the same ends.
    Tls,
}

impl Row {
    const ALL: [Row; 4] = [Row::Proxy, Row::Latency, Row::LongHaul, Row::Tls];

    fn name(self) -> &'static str {
        match self {
            Row::Proxy => "proxy",
            Row::Latency => "latency",
            Row::LongHaul => "long-haul",
            Row::Tls => "tls",
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
    /// MiB produced per variant and round where CPU time is counted.
    pub mib: u64,
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
        None => crate::build::build().await?,
    };
    let rows: Vec<Row> = Row::ALL.into_iter().filter(|row| options.row.is_none_or(|only| only == *row)).collect();
    for row in rows {
        let machine = machine::describe(row.name(), &options);
        println!("\n== {} ==\n", row.name());
        let measured = match row {
            Row::Proxy => proxy_row::measure(&binary, &options).await,
            Row::Latency => latency_row::measure(&binary, &options).await,
            Row::LongHaul => long_haul_row::measure(&binary, &options).await,
            Row::Tls => tls_row::measure(&binary, &options).await,
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
