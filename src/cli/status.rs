//! `diffluent status`.

use std::process::ExitCode;

use clap::Args;

use super::{Failed, Running, answer};
use crate::status::{self, ask};

/// Whether all is well with a running proxy: how far behind each region is, why, and what can be done.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 all is well; 1 it is not; 2 it could not be told; 64 the command line or the file can't be used."
)]
pub(super) struct Status {
    #[command(flatten)]
    running: Running,
    /// Ask once a second: in place on a terminal, otherwise a line whenever something changes.
    #[arg(long)]
    watch: bool,
    /// What the admin port answers at /status; with --watch a line a second.
    #[arg(long)]
    json: bool,
}

impl Status {
    pub async fn execute(self) -> Result<ExitCode, Failed> {
        let admin = self.running.port()?;
        if self.watch {
            return Ok(ExitCode::from(status::watch(&admin, self.json).await));
        }
        let told = ask(&admin).await.map_err(|error| Failed::Untold(error.to_string()))?;
        match serde_json::to_string_pretty(&told.document) {
            Ok(document) if self.json => answer(&document),
            _ => answer(&told),
        }
        Ok(ExitCode::from(told.exit_code()))
    }
}
