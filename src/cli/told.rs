//! `diffluent reload`, `history`, `events`, `clients`, `log`: a running proxy as a whole.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::{Failed, Running};
use crate::config::{ByteSize, Change};
use crate::lag::moment;
use crate::operator::{self, AdminPort, OperatorError, escaped};

/// How often new events are asked for.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

fn tried(error: OperatorError) -> Failed {
    Failed::Tried(error.to_string())
}

async fn get(admin: &AdminPort, path: &str) -> Result<Value, Failed> {
    operator::get(admin, path).await.map_err(tried)
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn when(value: &Value) -> String {
    moment(value["at_ms"].as_u64().unwrap_or(0))
}

/// `region.us.window: "1 MiB", was "64 MiB"`.
fn change(change: &Value) -> String {
    // What a newer diffluent writes is shown as it is.
    serde_json::from_value(change.clone()).map_or_else(|_| change.to_string(), |change: Change| change.to_string())
}

/// Have a running proxy read its configuration again and apply what has changed, or say why not. Exits with 1 if it is not taken: then nothing has changed.
#[derive(Debug, Args)]
pub(super) struct Reload {
    #[command(flatten)]
    running: Running,
    /// The changes, as one JSON document.
    #[arg(long)]
    json: bool,
}

impl Reload {
    pub async fn execute(self) -> Result<ExitCode, Failed> {
        let answer = operator::post(&self.running.port()?, "/reload").await.map_err(tried)?;
        let changes = list(&answer, "changes");
        if self.json {
            println!("{answer:#}");
        } else if changes.is_empty() {
            println!("the configuration was read again; no key has changed");
        } else {
            println!("the configuration is in effect; changed:");
            changes.iter().for_each(|one| println!("  {}", change(one)));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Who ran with which configuration, when, and what had changed: over restarts, and of all proxies of the local cluster.
#[derive(Debug, Args)]
pub(super) struct History {
    #[command(flatten)]
    running: Running,
    /// So many entries, the newest ones.
    #[arg(long, default_value_t = 20)]
    limit: usize,
    /// The entries with their whole configurations, as one JSON document.
    #[arg(long)]
    json: bool,
}

impl History {
    pub async fn execute(self) -> Result<ExitCode, Failed> {
        let told = get(&self.running.port()?, &format!("/history?limit={}", self.limit)).await?;
        if self.json {
            println!("{told:#}");
            return Ok(ExitCode::SUCCESS);
        }
        for entry in list(&told, "entries").iter().rev() {
            let [proxy, host, version, cause, by] =
                ["proxy", "host", "version", "cause", "by"].map(|key| text(entry, key));
            println!("{}  {proxy} on {host}, diffluent {version}: {cause}, by {by}", when(entry));
            list(entry, "changes").iter().for_each(|one| println!("    {}", change(one)));
        }
        if let Some(reason) = told["reason"].as_str() {
            eprintln!("only what the process remembers: {reason}");
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What changed state in a running proxy, when, why, and who asked for it: the last thousand events.
#[derive(Debug, Args)]
pub(super) struct Events {
    #[command(flatten)]
    running: Running,
    /// Only events of this region.
    #[arg(long)]
    region: Option<String>,
    /// So many events, the newest ones.
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// Go on with new ones until interrupted.
    #[arg(long)]
    follow: bool,
    /// One JSON document a line.
    #[arg(long)]
    json: bool,
}

impl Events {
    pub async fn execute(self) -> Result<ExitCode, Failed> {
        let admin = self.running.port()?;
        let region = self.region.as_deref().map_or_else(String::new, |region| format!("&region={}", escaped(region)));
        let (mut after, mut limit) = (0, self.limit);
        loop {
            let told = get(&admin, &format!("/events?after={after}&limit={limit}{region}")).await?;
            for event in list(&told, "events").iter().rev() {
                after = event["number"].as_u64().unwrap_or(after);
                if self.json {
                    println!("{event}");
                } else {
                    println!("{}", in_words(event));
                }
            }
            if !self.follow {
                return Ok(ExitCode::SUCCESS);
            }
            limit = crate::journal::EVENTS_MAX;
            tokio::time::sleep(FOLLOW_EVERY).await;
        }
    }
}

/// `2026-11-27T02:00:00Z  stream_stalled  us, orders, partition 3: the region refuses …`.
fn in_words(event: &Value) -> String {
    let partition = event["partition"].as_i64().map(|partition| format!("partition {partition}"));
    let names = ["region", "topic"].map(|key| event[key].as_str().map(str::to_owned));
    let place: Vec<String> = names.into_iter().chain([partition]).flatten().collect();
    let place = if place.is_empty() { String::new() } else { format!("{}: ", place.join(", ")) };
    let by = event["by"].as_str().map_or_else(String::new, |by| format!(" (by {by})"));
    format!("{}  {}  {place}{}{by}", when(event), text(event, "kind"), text(event, "message"))
}

/// Who is connected to a running proxy, with what software, and how much each produces; those that produce most first.
#[derive(Debug, Args)]
pub(super) struct Clients {
    #[command(flatten)]
    running: Running,
    /// So many, at most.
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// As one JSON document.
    #[arg(long)]
    json: bool,
}

impl Clients {
    pub async fn execute(self) -> Result<ExitCode, Failed> {
        let told = get(&self.running.port()?, &format!("/clients?limit={}", self.limit)).await?;
        if self.json {
            println!("{told:#}");
            return Ok(ExitCode::SUCCESS);
        }
        let rate = |client: &Value, key: &str| {
            let bytes = client["rates"][key].as_f64().unwrap_or(0.0);
            // Whole KiB are easier on the eye than what a division leaves.
            let bytes = if bytes < 10_240.0 { bytes as u64 } else { bytes as u64 >> 10 << 10 };
            format!("{}/s", ByteSize::from_bytes(bytes))
        };
        println!("{:>14} {:>14} {:>14}  {:>5}  client", "produced", "received", "sent", "conns");
        for client in list(&told, "clients") {
            let known = |key: &str| client[key].as_str().unwrap_or("?").to_owned();
            println!(
                "{:>14} {:>14} {:>14}  {:>5}  {} from {}, {} {}",
                rate(client, "produced_bytes_per_second"),
                rate(client, "received_bytes_per_second"),
                rate(client, "sent_bytes_per_second"),
                client["connections"].as_u64().unwrap_or(0),
                known("client_id"),
                known("address"),
                known("software_name"),
                known("software_version"),
            );
        }
        println!("{} clients, {} connections", told["total"], told["connections"]);
        Ok(ExitCode::SUCCESS)
    }
}

/// Show what a running proxy logs, or have it log something else until it is restarted.
#[derive(Debug, Args)]
pub(super) struct Log {
    #[command(flatten)]
    running: Running,
    /// What it shall log, for instance "info,diffluent::session=debug".
    #[arg(long)]
    filter: Option<String>,
}

impl Log {
    pub async fn execute(self) -> Result<ExitCode, Failed> {
        let admin = self.running.port()?;
        let answer = match &self.filter {
            Some(filter) => operator::post(&admin, &format!("/log?filter={}", escaped(filter))).await.map_err(tried)?,
            None => get(&admin, "/log").await?,
        };
        println!("{}", text(&answer, "filter"));
        Ok(ExitCode::SUCCESS)
    }
}
