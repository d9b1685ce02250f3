//! `diffluent skip`.

use std::process::ExitCode;

use clap::Args;

use super::{Failed, Running, answer};
use crate::operator;

/// Step over exactly one batch, which a region refuses and which stalls its stream there. The region never gets it.
#[derive(Debug, Args)]
pub(super) struct Skip {
    #[command(flatten)]
    running: Running,
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
}

impl Skip {
    pub async fn execute(self) -> Result<ExitCode, Failed> {
        let admin = self.running.port()?;
        let done = operator::skip(&admin, &self.region, &self.topic, self.partition, self.offset).await;
        answer(done.map_err(|error| Failed::Tried(error.to_string()))?);
        Ok(ExitCode::SUCCESS)
    }
}
