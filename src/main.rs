//! The command line: arguments, tracing, run, exit code.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use diffluent::app::{self, AppError};
use diffluent::config::values::duration;
use diffluent::config::{Config, TopicPattern};
use diffluent::operator;
use diffluent::verify::{self, sample::parse_percent};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

/// The configuration can't be used (EX_USAGE of sysexits.h).
const EXIT_CONFIG: u8 = 64;

/// A transparent Kafka proxy that mirrors what is produced to other regions.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// What is logged, for instance "info" or "info,diffluent::session=debug".
    #[arg(long, global = true, default_value = "info", env = "DIFFLUENT_LOG")]
    log: String,
    /// How it is logged, on standard error.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy.
    Run {
        /// The configuration, for instance proxy.toml.
        config: PathBuf,
    },
    /// Step over exactly one batch, which a region refuses and which stalls its stream there. The region never gets it.
    Skip {
        /// The configuration of the running proxy: its admin port is asked.
        config: PathBuf,
        /// The region that refuses the batch.
        #[arg(long)]
        region: String,
        /// The topic, by its name in the local cluster.
        #[arg(long)]
        topic: String,
        /// The partition.
        #[arg(long)]
        partition: i32,
        /// The batch's source offset, as the reason of the stall names it.
        #[arg(long)]
        offset: i64,
    },
    /// Compare what the regions hold with the local log, record by record, up to the positions mirrored now. Changes nothing.
    Verify {
        /// The configuration, for instance proxy.toml.
        config: PathBuf,
        /// Only this region.
        #[arg(long)]
        region: Option<String>,
        /// Only topics whose whole name matches this regular expression.
        #[arg(long)]
        topic: Option<TopicPattern>,
        /// Only records of this age or younger, for instance 1h or 30min.
        #[arg(long, value_parser = duration::parse)]
        since: Option<Duration>,
        /// Only a sample of the records, for instance 1%.
        #[arg(long, value_parser = parse_percent)]
        sample: Option<f64>,
        /// What chooses the sample, as an earlier run has printed it.
        #[arg(long, requires = "sample")]
        seed: Option<u64>,
        /// The report as one JSON document (docs/verify.md).
        #[arg(long)]
        json: bool,
    },
    /// Validate the configuration, connect to every cluster, and say what works, what not and what to do.
    Check {
        /// The configuration, for instance proxy.toml.
        config: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// A JSON object a line, for machines.
    Json,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help is an answer, and no error. There is nobody to tell that it can't be printed.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { EXIT_CONFIG } else { 0 });
        }
    };
    let filter = match EnvFilter::try_new(&arguments.log) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("--log {:?}: {error}; for instance --log info", arguments.log);
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match arguments.log_format {
        LogFormat::Text => log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => log.json().init(),
    }
    let (Command::Run { config: file }
    | Command::Check { config: file }
    | Command::Skip { config: file, .. }
    | Command::Verify { config: file, .. }) = &arguments.command;
    let config = match Config::load(file) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no threads can be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let exit = command(&runtime, arguments.command, &config);
    // Nothing is waited for: a name that does not resolve would hold up the end.
    runtime.shutdown_background();
    exit
}

fn command(runtime: &Runtime, command: Command, config: &Config) -> ExitCode {
    match command {
        Command::Skip { region, topic, partition, offset, .. } => {
            let asked = runtime.block_on(operator::skip(&config.admin.listen, &region, &topic, partition, offset));
            match asked {
                Ok(answer) => println!("{answer}"),
                Err(error) => {
                    eprintln!("{error}");
                    return ExitCode::FAILURE;
                }
            }
            ExitCode::SUCCESS
        }
        Command::Run { .. } => runtime.block_on(run(config.clone())),
        Command::Verify { region, topic, since, sample, seed, json, .. } => {
            let options = verify::Options { region, topic, since, sample_percent: sample, seed };
            let report = match runtime.block_on(verify::run(config, &options)) {
                Ok(report) => report,
                Err(error) => {
                    eprintln!("{error}");
                    return ExitCode::from(EXIT_CONFIG);
                }
            };
            match serde_json::to_string_pretty(&report) {
                Ok(document) if json => println!("{document}"),
                _ => println!("{report}"),
            }
            ExitCode::from(report.exit_code())
        }
        Command::Check { .. } => {
            let report = runtime.block_on(diffluent::check::run(config));
            println!("{report}");
            ExitCode::from(report.exit_code())
        }
    }
}

async fn run(config: Config) -> ExitCode {
    let (stop, shutdown) = watch::channel(false);
    let (mut terminate, mut interrupt) = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("signals can't be handled: {error}");
            return ExitCode::FAILURE;
        }
    };
    let app = app::run(config, shutdown);
    tokio::pin!(app);
    let mut stopping = false;
    loop {
        tokio::select! {
            result = &mut app => return match result {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    tracing::error!(%error, "diffluent can't run");
                    ExitCode::from(if matches!(error, AppError::Misfit(_)) { EXIT_CONFIG } else { 1 })
                }
            },
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if stopping {
            tracing::warn!("told to stop a second time: ending at once");
            return ExitCode::FAILURE;
        }
        stopping = true;
        tracing::info!("stopping: no new clients, what is under way may finish");
        // The app holds a receiver.
        let _ = stop.send(true);
    }
}
