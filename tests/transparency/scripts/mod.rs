//! What is played on both sides: every API that brokers offer to clients, in every version, its errors included.
//!
//! A script names APIs, gives fields by name as Kafka's definitions have them, and asks for versions; a version that the release does not offer becomes
//! the nearest that it does. What a request changes is looked at afterwards. An API or a version that no script asks for fails the test.

mod admin;
mod groups;
mod reads;
mod share;
mod topics;
mod transactions;

use anyhow::Result;

use crate::side::Side;

/// The scripts, in order.
pub const SCRIPTS: [&str; 6] = ["reads", "topics", "groups", "share", "transactions", "admin"];

/// Plays a script on one side.
pub async fn play(script: &str, side: &mut Side<'_>) -> Result<()> {
    match script {
        "reads" => reads::play(side).await,
        "topics" => topics::play(side).await,
        "groups" => groups::play(side).await,
        "share" => share::play(side).await,
        "transactions" => transactions::play(side).await,
        "admin" => admin::play(side).await,
        other => anyhow::bail!("there is no script {other}"),
    }
}
