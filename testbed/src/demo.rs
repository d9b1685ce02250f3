//! The demo: a story in five acts about one producer, one proxy and two regions, ending in a comparison of every record.
//!
//! Owns: the story and how it is shown. Everything that it does goes through the testbed's other rooms, and through
//! diffluent's command line, file and admin port, as a user's would.

mod screen;
mod status;
mod story;
mod town;

use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

/// What the command line asks for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The length of the story, without starting clusters and comparing.
    pub length: Duration,
    /// A table that is drawn again and again, or lines.
    pub live: bool,
    /// On Apache Kafka, instead of models of it.
    pub kafka: bool,
    /// diffluent's binary; `None`: build it.
    pub binary: Option<PathBuf>,
}

/// How the demo ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Both regions hold every record, once and in order.
    Clean,
    /// Something differs, or the story could not be told.
    Failed,
    /// Ctrl-C or SIGTERM.
    Interrupted,
}

/// Runs the demo to its end or to Ctrl-C; every process that it started is gone when this returns.
pub async fn run(options: Options) -> Ending {
    let screen = screen::Screen::new(options.live);
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => terminate.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        told = story::tell(&options, &screen) => match told {
            Ok(true) => Ending::Clean,
            Ok(false) => Ending::Failed,
            Err(error) => {
                screen.say(&format!("\nThe demo failed: {error:#}"));
                Ending::Failed
            }
        },
        _ = tokio::signal::ctrl_c() => {
            screen.say("\nInterrupted: stopping everything that was started.");
            Ending::Interrupted
        }
        _ = terminated => {
            screen.say("\nTerminated: stopping everything that was started.");
            Ending::Interrupted
        }
    }
}
