//! `cargo demo`: the main job, live, on models of Kafka clusters or on real ones.
#![forbid(unsafe_code)]

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use diffluent_testbed::demo::{self, Ending, Options};

/// Starts three Kafka clusters and diffluent, breaks things, and checks that both regions end up with every record once.
#[derive(Parser)]
#[command(name = "cargo demo")]
struct Arguments {
    /// How long the story takes, in seconds, besides starting the clusters and the final comparison.
    #[arg(long, default_value_t = 90)]
    seconds: u64,
    /// Plain lines instead of a live table.
    #[arg(long)]
    no_tty: bool,
    /// Apache Kafka itself (it needs Java), instead of models of it in this process.
    #[arg(long)]
    kafka: bool,
    /// A diffluent that is already built; otherwise it is built first.
    #[arg(long)]
    binary: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let options = Options {
        length: Duration::from_secs(arguments.seconds.max(10)),
        live: !arguments.no_tty && std::io::stdout().is_terminal(),
        kafka: arguments.kafka,
        binary: arguments.binary,
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ending = runtime.block_on(demo::run(options));
    // Whatever still blocks a thread (a producer that waits for answers) is not waited for.
    runtime.shutdown_background();
    match ending {
        Ending::Clean => ExitCode::SUCCESS,
        Ending::Failed => ExitCode::FAILURE,
        Ending::Interrupted => ExitCode::from(130),
    }
}
