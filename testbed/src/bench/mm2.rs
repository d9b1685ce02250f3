//! MirrorMaker 2 in dedicated mode, from the same Maven artifacts as the brokers: with its default settings, and tuned by hand.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::guard::{Guarded, TempDir};
use crate::kafka::{Cluster, KAFKA, Kafka};

/// As `connect-mirror-maker.sh` gives it.
const HEAP_MIB: u32 = 2048;
const MAIN: &str = "org.apache.kafka.connect.mirror.MirrorMaker";

/// How it is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tuning {
    /// What its documentation's quick start says.
    Default,
    /// Large batches, five of them in flight, large polls, more tasks.
    ByHand,
}

/// What is set beside the default, for the reader of the table.
pub(super) const BY_HAND: &str = "batch.size 1 MiB, linger.ms 20, 5 requests in flight, buffer.memory 128 MiB; max.partition.fetch.bytes 8 MiB, fetch.max.bytes 64 MiB, max.poll.records 10,000; tasks.max 4";

/// A running MirrorMaker 2. Killed when it is dropped.
#[derive(Debug)]
pub(super) struct MirrorMaker {
    process: Guarded,
    _dir: TempDir,
}

impl MirrorMaker {
    /// Mirrors `topics` (a regular expression) of the cluster at `from`, whose alias is `origin`, to the one at `to`: there they are called
    /// `origin.topic`. An alias that was not used before begins at the beginning.
    ///
    /// # Errors
    /// When the artifacts can't be fetched or it can't be started.
    pub(super) async fn start(origin: &str, from: &str, to: &str, topics: &str, tuning: Tuning) -> Result<Self> {
        let kafka = Kafka::fetch(KAFKA, &["connect-runtime", "connect-mirror"]).await?;
        let dir = TempDir::new("diffluent-mm2-")?;
        let file = dir.path().join("mm2.properties");
        std::fs::write(&file, properties(origin, from, to, topics, tuning))
            .with_context(|| format!("cannot write {}", file.display()))?;
        let mut command = kafka.java(MAIN, HEAP_MIB);
        command.arg(&file);
        let process = Guarded::spawn("MirrorMaker 2", command, &dir.path().join("mm2.log"))?;
        Ok(Self { process, _dir: dir })
    }

    /// The process id.
    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits until the region has anything of a topic.
    ///
    /// # Errors
    /// When it ends before.
    pub(super) async fn first_there(&mut self, region: &Cluster, topic: &str) -> Result<Vec<i64>> {
        let there = super::mirrored::first_there(region, topic);
        tokio::pin!(there);
        loop {
            match tokio::time::timeout(Duration::from_secs(1), &mut there).await {
                Ok(there) => return there,
                Err(_) => {
                    if let Some(status) = self.process.try_status() {
                        bail!("MirrorMaker 2 ended ({status}):\n{}", self.process.log_tail());
                    }
                }
            }
        }
    }
}

fn properties(origin: &str, from: &str, to: &str, topics: &str, tuning: Tuning) -> String {
    let mut text = format!(
        "clusters = {origin}, there\n\
         {origin}.bootstrap.servers = {from}\n\
         there.bootstrap.servers = {to}\n\
         {origin}->there.enabled = true\n\
         {origin}->there.topics = {topics}\n\
         there->{origin}.enabled = false\n"
    );
    for what in [
        "",
        "checkpoints.topic.",
        "heartbeats.topic.",
        "offset-syncs.topic.",
        "offset.storage.",
        "status.storage.",
        "config.storage.",
    ] {
        // These clusters have one broker.
        text.push_str(&format!("{what}replication.factor = 1\n"));
    }
    if tuning == Tuning::ByHand {
        text.push_str(&format!(
            "tasks.max = 4\n\
             there.producer.batch.size = 1048576\n\
             there.producer.linger.ms = 20\n\
             there.producer.max.request.size = 8388608\n\
             there.producer.buffer.memory = 134217728\n\
             there.producer.max.in.flight.requests.per.connection = 5\n\
             {origin}.consumer.max.partition.fetch.bytes = 8388608\n\
             {origin}.consumer.fetch.max.bytes = 67108864\n\
             {origin}.consumer.max.poll.records = 10000\n\
             {origin}.consumer.receive.buffer.bytes = 1048576\n\
             there.producer.send.buffer.bytes = 1048576\n"
        ));
    }
    text
}

/// What a topic is called where MirrorMaker 2 writes it.
pub(super) fn renamed(origin: &str, topic: &str) -> String {
    format!("{origin}.{topic}")
}

/// Whether the artifacts can be had, so that a row fails before it has measured half of what it wants.
pub(super) async fn ensure() -> Result<()> {
    Kafka::fetch(KAFKA, &["connect-runtime", "connect-mirror"]).await.map(|_| ())
}
