//! `cargo bench-all`: what diffluent costs, beside what people would use instead, on real Kafka clusters.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use diffluent_testbed::bench::{self, Options, Row};

/// Measures diffluent on real Kafka in alternating rounds, and writes docs/BENCHMARKS.md.
#[derive(Parser)]
#[command(name = "cargo bench-all")]
struct Arguments {
    /// Only this row.
    #[arg(long, value_enum)]
    row: Option<Row>,
    /// Seconds that each timed part takes, per variant and round.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Alternating rounds, of which medians and spread are told.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// MiB produced per variant and round where CPU time is counted, and of a backlog; five times as many of the backlog of the row catch-up.
    #[arg(long, default_value_t = 1024)]
    mib: u64,
    /// Partitions of the row about idle ones.
    #[arg(long, default_value_t = 10_000)]
    partitions: u64,
    /// A diffluent that is already built; otherwise it is built first.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Print only, leave docs/BENCHMARKS.md alone.
    #[arg(long)]
    dry_run: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let options = Options {
        row: arguments.row,
        length: Duration::from_secs(arguments.seconds.max(1)),
        rounds: arguments.rounds.max(1),
        mib: arguments.mib.max(1),
        partitions: arguments.partitions.max(1),
        binary: arguments.binary,
        write: !arguments.dry_run,
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let measured = runtime.block_on(async {
        tokio::select! {
            measured = bench::run(options) => Some(measured),
            _ = tokio::signal::ctrl_c() => None,
        }
    });
    // A producer that still waits for answers is not waited for; child processes are gone with what was dropped.
    runtime.shutdown_background();
    match measured {
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(error)) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
        None => ExitCode::from(130),
    }
}
