//! Which configurations were in effect: who ran with what, when and why.
//!
//! Each applied configuration, without its secrets, is an entry. Entries are kept in memory, the last hundred, and in the topic [`HISTORY_TOPIC`] of the local
//! cluster, where they outlive the process and where a fleet's are together. Where the topic can't be created or written, that is said once, and memory
//! alone has them. Nothing waits for any of this.

mod topic;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

use crate::client::ClientError;
use crate::client::cluster::Cluster;
use crate::config::{Change, Config, HISTORY_TOPIC, redacted};
use crate::journal::{Journal, Kind, now_ms};

/// Entries that are kept in memory. When there are more, the oldest goes.
pub const KEPT_MAX: usize = 100;
/// Entries of an answer, at most.
pub const TOLD_MAX: usize = 1000;
/// Pause before an entry that could not be written is tried again, doubled up to [`RETRY_MAX`].
const RETRY: Duration = Duration::from_secs(1);
/// The longest pause between two tries.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// How long reading the topic may take, for somebody who waits.
const READ_WITHIN: Duration = Duration::from_secs(4);

/// Why a configuration came into effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The process started with it.
    Start,
    /// SIGHUP.
    Signal,
    /// The admin port was asked to read it again.
    Command,
    /// The file has changed.
    File,
}

impl Cause {
    /// For the log and for events.
    pub fn words(self) -> &'static str {
        match self {
            Cause::Start => "the start of the process",
            Cause::Signal => "SIGHUP",
            Cause::Command => "POST /reload",
            Cause::File => "a change of the file",
        }
    }
}

/// What `/history` answers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Told {
    /// The topic that the entries come from; none: from memory alone.
    pub topic: Option<&'static str>,
    /// Why not from the topic.
    pub reason: Option<String>,
    /// The entries, the newest first, as they were written.
    pub entries: Vec<Value>,
}

#[derive(Debug)]
struct Kept {
    entry: Value,
    stored: bool,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct History {
    kept: Mutex<VecDeque<Kept>>,
    added: Notify,
    added_count: AtomicU64,
    /// Why the topic can't be had.
    refused: Mutex<Option<String>>,
}

impl History {
    /// Notes that a configuration is in effect from now on.
    pub fn add(&self, config: &Config, changes: &[Change], cause: Cause, by: &str) {
        let at_ms = now_ms();
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let entry = json!({
            "id": format!("{host}/{}/{at_ms}/{}", std::process::id(), self.added_count.fetch_add(1, Ordering::Relaxed)),
            "at_ms": at_ms,
            "proxy": config.proxy.name.as_str(),
            "host": host,
            "version": crate::VERSION,
            "cause": cause,
            "by": by,
            "changes": changes,
            "config": redacted(config),
        });
        let mut kept = lock(&self.kept);
        if kept.len() == KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back(Kept { entry, stored: false });
        drop(kept);
        self.added.notify_one();
    }

    /// Writes entries to the topic of the local cluster while the configuration wants that, until it is dropped.
    pub async fn store(&self, local: Arc<Cluster>, journal: &Journal, mut config: watch::Receiver<Arc<Config>>) {
        let mut pause = RETRY;
        loop {
            if config.wait_for(|config| config.admin.history).await.is_err() {
                return;
            }
            let next = lock(&self.kept).iter().find(|kept| !kept.stored).map(|kept| kept.entry.clone());
            let Some(entry) = next else {
                self.added.notified().await;
                continue;
            };
            match topic::append(&local, &entry).await {
                Ok(()) => {
                    pause = RETRY;
                    *lock(&self.refused) = None;
                    if let Some(kept) = lock(&self.kept).iter_mut().find(|kept| kept.entry["id"] == entry["id"]) {
                        kept.stored = true;
                    }
                }
                Err(error) => {
                    self.not_stored(&error, journal);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
        }
    }

    fn not_stored(&self, error: &ClientError, journal: &Journal) {
        let told = lock(&self.refused).replace(error.to_string()).is_some();
        if told || !matches!(error, ClientError::Refused { code, .. } if !topic::is_passing(*code)) {
            tracing::debug!(%error, "the history of configurations could not be written; trying again");
            return;
        }
        let what = format!(
            "the history of configurations can't be kept in topic {HISTORY_TOPIC} of the local cluster: {error}; it is in memory alone; create the topic \
             (one partition) and allow diffluent to read and write it, or set history = false in [admin]"
        );
        tracing::warn!("{what}");
        journal.note(Kind::HistoryInMemory, &what);
    }

    /// The last `limit` entries, the newest first: those of the topic, if it can be read, and of memory what is not there yet. `stored` is false where the
    /// topic is not wanted.
    pub async fn tell(&self, local: Option<&Arc<Cluster>>, stored: bool, limit: usize) -> Told {
        let limit = limit.min(TOLD_MAX);
        let read = match local {
            _ if !stored => Err("history = false in [admin]".to_owned()),
            None => Err("the local cluster is not reached yet".to_owned()),
            Some(local) => match tokio::time::timeout(READ_WITHIN, topic::read(local, limit)).await {
                Ok(read) => read.map_err(|error| error.to_string()),
                Err(_) => Err(format!("topic {HISTORY_TOPIC} could not be read within {} s", READ_WITHIN.as_secs())),
            },
        };
        let (topic, reason, mut entries) = match read {
            Ok(entries) => (Some(HISTORY_TOPIC), None, entries),
            Err(reason) => (None, Some(reason), Vec::new()),
        };
        for kept in lock(&self.kept).iter() {
            if !entries.iter().any(|entry| entry["id"] == kept.entry["id"]) {
                entries.push(kept.entry.clone());
            }
        }
        // What a lost answer had written twice is told once.
        entries.sort_by_key(|entry| entry["at_ms"].as_u64());
        entries.dedup_by(|a, b| a["id"] == b["id"]);
        entries.reverse();
        entries.truncate(limit);
        Told { topic, reason, entries }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(rate: &str) -> Config {
        let text = format!(
            "[proxy]\nname = \"eu\"\nlisten = \"127.0.0.1:9092\"\nadvertise = \"127.0.0.1\"\nbroker_ports = \"9100-9199\"\n\
             [local]\nbootstrap_servers = [\"127.0.0.1:19092\"]\n\
             [[region]]\nname = \"us\"\nbootstrap_servers = [\"127.0.0.1:29092\"]\nrate_limit = \"{rate}\""
        );
        Config::parse("proxy.toml", &text).expect("a configuration")
    }

    #[tokio::test]
    async fn without_the_topic_memory_tells_the_last_hundred_and_why() {
        let history = History::default();
        for number in 0..KEPT_MAX + 5 {
            let (before, after) = (config("1 MiB"), config(&format!("{} MiB", 2 + number)));
            history.add(&after, &crate::config::changes::changes(&before, &after), Cause::Command, "ann");
        }
        let told = history.tell(None, true, 3).await;
        assert_eq!((told.topic, told.reason.as_deref()), (None, Some("the local cluster is not reached yet")));
        assert_eq!(told.entries.len(), 3);
        assert_eq!(told.entries[0]["changes"][0]["key"], "region.us.rate_limit");
        assert_eq!(told.entries[0]["changes"][0]["after"], format!("{} MiB", 2 + KEPT_MAX + 4));
        assert_eq!(told.entries[0]["config"]["region"][0]["name"], "us");
        assert_eq!((&told.entries[0]["cause"], &told.entries[0]["by"]), (&json!("command"), &json!("ann")));
        assert_eq!(history.tell(None, true, usize::MAX).await.entries.len(), KEPT_MAX);
    }
}
