//! `diffluent run`: the process as its supervisor sees it, with its signals and its end.

use std::process::ExitCode;
use std::thread::available_parallelism;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use super::{ConfigFile, EXIT_USAGE, Failed};
use crate::app::{self, AppError, Start};
use crate::log_filter::LogFilter;

/// Run the proxy.
#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    file: ConfigFile,
    /// Threads that move data. Half of the processor's cores unless given, and at least one: the others are for those that it stands beside.
    #[arg(long, value_name = "COUNT", env = "DIFFLUENT_THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

impl Run {
    /// Threads for its runtime.
    pub fn threads(&self) -> usize {
        // More threads cost more for each byte (docs/BENCHMARKS.md).
        let cores = available_parallelism().map_or(1, usize::from);
        self.threads.map_or((cores / 2).max(1), usize::from)
    }

    pub async fn execute(self, log: LogFilter) -> Result<ExitCode, Failed> {
        let config = self.file.load()?;
        let (stop, shutdown) = watch::channel(false);
        let no_signals = |error| Failed::Tried(format!("signals can't be handled: {error}"));
        let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
        let mut hangup = signal(SignalKind::hangup()).map_err(no_signals)?;
        // Those that come while one is being taken are one.
        let (hang_up, hangups) = mpsc::channel(1);
        let app = app::run(Start { config, file: self.file.config, log, hangups }, shutdown);
        tokio::pin!(app);
        let mut stopping = false;
        loop {
            tokio::select! {
                result = &mut app => return Ok(ended(result)),
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = hangup.recv() => {
                    let _ = hang_up.try_send(());
                    continue;
                }
            }
            if stopping {
                tracing::warn!("told to stop a second time: ending at once");
                return Ok(ExitCode::FAILURE);
            }
            stopping = true;
            tracing::info!("stopping: no new clients, what is under way may finish");
            // The app holds a receiver.
            let _ = stop.send(true);
        }
    }
}

fn ended(result: Result<(), AppError>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    tracing::error!(%error, "diffluent can't run");
    let unusable = matches!(error, AppError::Misfit(_) | AppError::Access(_));
    if unusable { ExitCode::from(EXIT_USAGE) } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Arguments;

    #[test]
    fn it_takes_half_of_the_cores_unless_told_otherwise_and_never_none() {
        let threads = |words: &[&str]| Arguments::try_parse_from(words).map(|arguments| arguments.threads()).ok();
        let cores = available_parallelism().map_or(1, usize::from);
        assert_eq!(threads(&["diffluent", "run", "proxy.toml"]), Some(Some((cores / 2).max(1))));
        assert_eq!(threads(&["diffluent", "run", "proxy.toml", "--threads", "3"]), Some(Some(3)));
        assert_eq!(threads(&["diffluent", "run", "proxy.toml", "--threads", "0"]), None);
        assert_eq!(threads(&["diffluent", "verify", "proxy.toml"]), Some(None));
    }
}
