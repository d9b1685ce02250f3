//! `diffluent verify`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::{ConfigFile, Failed, answer};
use crate::access::Access;
use crate::config::TopicPattern;
use crate::config::values::duration;
use crate::verify::{self, sample::parse_percent};

/// Compare what the regions hold with the local log, record by record, up to the positions mirrored now. Changes nothing.
#[derive(Debug, Args)]
pub(super) struct Verify {
    #[command(flatten)]
    file: ConfigFile,
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
}

impl Verify {
    pub async fn execute(self) -> Result<ExitCode, Failed> {
        let config = self.file.load()?;
        let options = verify::Options {
            region: self.region,
            topic: self.topic,
            since: self.since,
            sample_percent: self.sample,
            seed: self.seed,
        };
        let access = Access::load(&config).map_err(|error| Failed::Usage(error.to_string()))?;
        let report = verify::run(&config, &access, &options).await.map_err(|error| Failed::Usage(error.to_string()))?;
        match serde_json::to_string_pretty(&report) {
            Ok(document) if self.json => answer(&document),
            _ => answer(&report),
        }
        Ok(ExitCode::from(report.exit_code()))
    }
}
