//! `diffluent check`.

use std::process::ExitCode;

use clap::Args;

use super::{ConfigFile, Failed, answer};

/// Validate the configuration, connect to every cluster, and say what works, what not and what to do.
#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    file: ConfigFile,
}

impl Check {
    pub async fn execute(self) -> Result<ExitCode, Failed> {
        let report = crate::check::run(&self.file.load()?).await;
        answer(&report);
        Ok(ExitCode::from(report.exit_code()))
    }
}
