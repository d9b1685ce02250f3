//! Arguments, tracing, runtime, exit code; the rest is the library's.
#![forbid(unsafe_code)]

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use diffluent::cli::{Arguments, EXIT_USAGE, Failed, LogFormat};
use diffluent::log_filter::LogFilter;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help is an answer, and no error. There is nobody to tell that it can't be printed.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match done(arguments) {
        Ok(exit) => exit,
        Err(failed) => {
            eprintln!("{failed}");
            failed.exit_code()
        }
    }
}

fn done(arguments: Arguments) -> Result<ExitCode, Failed> {
    let log = trace(&arguments)?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = arguments.threads() {
        runtime.worker_threads(threads);
    }
    let runtime =
        runtime.enable_all().build().map_err(|error| Failed::Tried(format!("no threads can be started: {error}")))?;
    let exit = runtime.block_on(arguments.execute(log));
    // Nothing is waited for: a name that does not resolve would hold up the end.
    runtime.shutdown_background();
    exit
}

/// Begins to log; what is logged can be changed from then on.
fn trace(arguments: &Arguments) -> Result<LogFilter, Failed> {
    let wrong = |error| Failed::Usage(format!("--log {:?}: {error}; for instance --log info", arguments.log));
    let filter = EnvFilter::try_new(&arguments.log).map_err(wrong)?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match arguments.log_format {
        LogFormat::Text => {
            let log = log.with_ansi(std::io::stderr().is_terminal()).with_filter_reloading();
            let handle = log.reload_handle();
            log.init();
            Ok(changeable(&arguments.log, move |filter| handle.reload(filter)))
        }
        LogFormat::Json => {
            let log = log.json().with_filter_reloading();
            let handle = log.reload_handle();
            log.init();
            Ok(changeable(&arguments.log, move |filter| handle.reload(filter)))
        }
    }
}

fn changeable(
    text: &str,
    reload: impl Fn(EnvFilter) -> Result<(), tracing_subscriber::reload::Error> + Send + Sync + 'static,
) -> LogFilter {
    let set = move |text: &str| {
        let filter = EnvFilter::try_new(text).map_err(|error| error.to_string())?;
        reload(filter).map_err(|error| error.to_string())
    };
    LogFilter::new(text, Box::new(set))
}
