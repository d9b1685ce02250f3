//! `diffluent pause`, `resume`, `throttle`, `rewind`: what holds back a region of a running proxy, or sends it something again.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::{Failed, Running};
use crate::operator::{self, escaped};

/// The most streams that are named one by one.
const NAMED_MAX: usize = 10;

/// A region, or a topic on its way there.
#[derive(Debug, Args)]
struct Place {
    #[command(flatten)]
    running: Running,
    /// The region.
    #[arg(long)]
    region: String,
    /// Only this topic, by its name in the local cluster.
    #[arg(long)]
    topic: Option<String>,
}

impl Place {
    /// Its path on the admin port.
    fn path(&self) -> String {
        let region = format!("/regions/{}", escaped(&self.region));
        match &self.topic {
            Some(topic) => format!("{region}/topics/{}", escaped(topic)),
            None => region,
        }
    }

    fn words(&self) -> String {
        match &self.topic {
            Some(topic) => format!("topic {topic} on its way to region {}", self.region),
            None => format!("region {}", self.region),
        }
    }

    async fn post(&self, command: &str) -> Result<Value, Failed> {
        let done = operator::post(&self.running.port()?, &format!("{}/{command}", self.path())).await;
        done.map_err(|error| Failed::Tried(error.to_string()))
    }
}

/// Hold back a region, or one topic on its way there: positions stay, nothing is sent, nothing is lost. Until the proxy is restarted, or it is resumed.
#[derive(Debug, Args)]
pub(super) struct Pause {
    #[command(flatten)]
    place: Place,
}

impl Pause {
    pub async fn execute(self) -> Result<ExitCode, Failed> {
        self.place.post("pause").await?;
        println!("{} is paused; it keeps its position and sends nothing until it is resumed", self.place.words());
        Ok(ExitCode::SUCCESS)
    }
}

/// Let a region, or one topic, go on; the region's limits are again those of the configuration.
#[derive(Debug, Args)]
pub(super) struct Resume {
    #[command(flatten)]
    place: Place,
}

impl Resume {
    pub async fn execute(self) -> Result<ExitCode, Failed> {
        self.place.post("resume").await?;
        println!("{} goes on", self.place.words());
        Ok(ExitCode::SUCCESS)
    }
}

/// Set other limits than the configured ones for a region, until it is resumed, the configuration is read again, or the proxy is restarted.
#[derive(Debug, Args)]
#[group(id = "limits", required = true, multiple = true, args = ["rate_limit", "catch_up_rate_limit"])]
pub(super) struct Throttle {
    #[command(flatten)]
    running: Running,
    /// The region.
    #[arg(long)]
    region: String,
    /// The most that is sent there per second, such as 10MiB; or none.
    #[arg(long, value_name = "SIZE")]
    rate_limit: Option<String>,
    /// The most that is read from the local log per second while the region is behind, such as 10MiB; or none.
    #[arg(long, value_name = "SIZE")]
    catch_up_rate_limit: Option<String>,
}

impl Throttle {
    pub async fn execute(self) -> Result<ExitCode, Failed> {
        let limits = [("rate_limit", &self.rate_limit), ("catch_up_rate_limit", &self.catch_up_rate_limit)];
        let query: Vec<String> =
            limits.into_iter().filter_map(|(key, limit)| Some(format!("{key}={}", escaped(limit.as_ref()?)))).collect();
        let path = format!("/regions/{}/throttle?{}", escaped(&self.region), query.join("&"));
        let done = operator::post(&self.running.port()?, &path).await;
        let limits = &done.map_err(|error| Failed::Tried(error.to_string()))?["limits"];
        let told = |key: &str| match limits[key].as_u64() {
            Some(limit) => format!("{} a second", crate::config::ByteSize::from_bytes(limit)),
            None => "without a limit".to_owned(),
        };
        println!(
            "region {}: sent {}, read to catch up {}, until it is resumed or the configuration is read again",
            self.region,
            told("rate_limit"),
            told("catch_up_rate_limit")
        );
        Ok(ExitCode::SUCCESS)
    }
}

/// Send again what comes after an earlier offset or time: of a region, of a topic, or of one partition. The region then holds those records twice, unless its
/// topic was deleted before.
#[derive(Debug, Args)]
#[group(id = "to", required = true, multiple = false, args = ["offset", "time", "earliest"])]
pub(super) struct Rewind {
    #[command(flatten)]
    place: Place,
    /// Only this partition of the topic.
    #[arg(long, requires = "topic")]
    partition: Option<i32>,
    /// To this source offset.
    #[arg(long)]
    offset: Option<u64>,
    /// To the first record of this time or later, such as 2026-11-27T02:00:00Z.
    #[arg(long)]
    time: Option<String>,
    /// To the first record that the local log still holds.
    #[arg(long)]
    earliest: bool,
    /// Don't ask whether it is meant.
    #[arg(long)]
    yes: bool,
    /// What was done, as one JSON document.
    #[arg(long)]
    json: bool,
}

impl Rewind {
    pub async fn execute(self) -> Result<ExitCode, Failed> {
        let query = match (&self.time, self.offset) {
            (Some(time), _) => format!("time={}", escaped(time)),
            (None, offset) => format!("offset={}", offset.unwrap_or(0)),
        };
        if !self.yes && !self.is_meant()? {
            return Err(Failed::Tried("nothing was rewound".to_owned()));
        }
        let command = match self.partition {
            Some(partition) => format!("partitions/{partition}/rewind?{query}"),
            None => format!("rewind?{query}"),
        };
        let answer = self.place.post(&command).await?;
        if self.json {
            println!("{answer:#}");
            return Ok(ExitCode::SUCCESS);
        }
        println!(
            "streams begun anew: {}, left as they are: {}; {} offsets are read and sent again",
            answer["rewound"], answer["left"], answer["offsets"]
        );
        let list = |key: &str| answer[key].as_array().cloned().unwrap_or_default();
        for stream in list("rewound_streams").iter().take(NAMED_MAX) {
            let topic = stream["topic"].as_str().unwrap_or_default();
            let (partition, from, to) = (&stream["partition"], &stream["from_offset"], &stream["to_offset"]);
            println!("  topic {topic}, partition {partition}: from source offset {from} back to {to}");
        }
        for stream in list("left_streams").iter().take(NAMED_MAX) {
            let text = |key: &str| stream[key].as_str().unwrap_or_default().to_owned();
            println!("  topic {}, partition {}: left as it is: {}", text("topic"), stream["partition"], text("reason"));
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Asks the person at the terminal.
    fn is_meant(&self) -> Result<bool, Failed> {
        if !std::io::stdin().is_terminal() {
            return Err(Failed::Usage(
                "a rewind asks whether it is meant; where nobody can answer, say --yes".to_owned(),
            ));
        }
        let partition = self.partition.map_or_else(String::new, |partition| format!("partition {partition} of "));
        eprintln!(
            "Rewinding {partition}{}: what is sent again is there twice, unless the topic was deleted in the region.",
            self.place.words()
        );
        eprint!("Type yes to go on: ");
        let mut answer = String::new();
        let asked = std::io::stderr().flush().and_then(|()| std::io::stdin().read_line(&mut answer));
        asked.map_err(|error| Failed::Tried(format!("no answer: {error}")))?;
        Ok(answer.trim() == "yes")
    }
}
