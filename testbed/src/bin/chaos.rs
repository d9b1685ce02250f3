//! `cargo chaos`: faults drawn by a seed, on real Kafka, and a comparison of every record at the end.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Parser;
use diffluent_testbed::chaos::{self, Options};

/// Kills, pauses, cuts, slows and moves whatever there is, under load, and checks that the region has every record once.
#[derive(Parser)]
#[command(name = "cargo chaos")]
struct Arguments {
    /// How long faults are injected, in minutes.
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
    /// Determines the faults; left out, another one each time. It is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// A diffluent that is already built; otherwise it is built first.
    #[arg(long)]
    binary: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |since| since.as_secs());
    let options = Options {
        length: Duration::from_secs_f64(arguments.minutes.clamp(0.1, 60.0 * 24.0) * 60.0),
        seed: arguments.seed.unwrap_or_else(now),
        binary: arguments.binary,
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ending = runtime.block_on(async {
        tokio::select! {
            ran = chaos::run(&options) => Some(ran),
            _ = tokio::signal::ctrl_c() => None,
        }
    });
    // Whatever still blocks a thread (a producer that waits for answers) is not waited for.
    runtime.shutdown_background();
    match ending {
        Some(Ok(true)) => ExitCode::SUCCESS,
        Some(Ok(false)) => ExitCode::FAILURE,
        Some(Err(error)) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
        None => ExitCode::from(130),
    }
}
