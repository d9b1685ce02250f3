//! The configuration in effect, and how another one takes its place while clients are served.
//!
//! A new file is read and checked whole, compared with what is in effect, and applied in parts, or not at all: a file that is wrong, or that changes a key
//! which needs a restart, changes nothing. What did not change is not disturbed.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::sync::{Mutex, watch};

use crate::access::{Access, Ways};
use crate::capture::Capture;
use crate::client::cluster::Cluster;
use crate::config::changes::{self, Change, How};
use crate::config::{Config, ConfigError};
use crate::history::{Cause, History};
use crate::journal::{Journal, Kind, now_ms};
use crate::mirror::Mirror;
use crate::session::{Controls, FrontSettings};

/// How often the file is looked at, where its changes are to be taken. It is taken once two looks have seen the same: half a file is no configuration.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Why a configuration was not taken. The one before stays in effect, whole.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The file can't be read, or is wrong.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// Some of what has changed needs a restart.
    #[error(
        "{} can't change while diffluent runs, so nothing was changed; put it back as it was, or restart",
        keys(_0)
    )]
    NeedsRestart(Vec<Change>),
    /// It does not fit this process.
    #[error("{0}")]
    Misfit(String),
    /// Clients are not served yet.
    #[error("diffluent is still starting and serves no client yet; try again once GET /ready is 200")]
    NotServing,
    /// It was begun, and did not come to its end.
    #[error("applying the configuration failed halfway; restart diffluent, and please report this: {0}")]
    Failed(String),
}

fn keys(changes: &[Change]) -> String {
    changes.iter().map(|change| change.key.as_str()).collect::<Vec<_>>().join(", ")
}

/// A configuration that was taken.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reloaded {
    /// What has changed; empty: nothing.
    pub changes: Vec<Change>,
}

/// What a configuration is applied to, beside the admin port, which asks for it.
#[derive(Debug)]
pub struct Targets {
    /// The clients' side.
    pub controls: Controls,
    /// The memory for captured batches.
    pub capture: Arc<Capture>,
    /// The local cluster.
    pub local: Arc<Cluster>,
    /// The ways to the regions.
    pub access: Arc<Access>,
    /// The regions; none for a plain proxy.
    pub mirror: Option<Arc<Mirror>>,
}

/// What is counted of configurations.
#[derive(Debug, Default)]
pub struct ReloadMetrics {
    failed: Gauge,
    applied_at: Gauge,
}

impl ReloadMetrics {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "configuration_reload_failed",
            "1 if the last configuration that was to be taken was not: the one before is in effect",
            metrics.failed.clone(),
        );
        registry.register(
            "configuration_applied_timestamp_seconds",
            "When the configuration in effect was read, in seconds since 1970",
            metrics.applied_at.clone(),
        );
        metrics
    }
}

/// What comes into effect with a configuration, and could have failed.
#[derive(Debug)]
pub struct Prepared {
    /// For clients.
    pub settings: FrontSettings,
    /// To the regions.
    pub ways: Ways,
}

/// What can be told of a configuration before anything is done with it: whatever can fail is tried here.
pub type Prepare = dyn Fn(&Config) -> Result<Prepared, String> + Send + Sync;

/// See the module's documentation.
pub struct Reloader {
    file: PathBuf,
    prepare: Box<Prepare>,
    journal: Arc<Journal>,
    history: Arc<History>,
    in_effect: watch::Sender<Arc<Config>>,
    targets: OnceLock<Targets>,
    /// One configuration at a time.
    turn: Mutex<()>,
    metrics: ReloadMetrics,
}

impl std::fmt::Debug for Reloader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reloader").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Reloader {
    /// `config` was read from `file` and is in effect.
    pub fn new(
        file: PathBuf,
        config: Config,
        prepare: Box<Prepare>,
        journal: Arc<Journal>,
        history: Arc<History>,
        metrics: ReloadMetrics,
    ) -> Arc<Self> {
        metrics.applied_at.set(seconds());
        history.add(&config, &[], Cause::Start, "the start of the process");
        let (in_effect, _) = watch::channel(Arc::new(config));
        let targets = OnceLock::new();
        Arc::new(Self { file, prepare, journal, history, in_effect, targets, turn: Mutex::default(), metrics })
    }

    /// The configuration in effect.
    pub fn config(&self) -> Arc<Config> {
        self.in_effect.borrow().clone()
    }

    /// Told after each reload, also when no key has changed: files that the configuration names may have.
    pub fn applied(&self) -> watch::Receiver<Arc<Config>> {
        self.in_effect.subscribe()
    }

    /// Clients are served: from now on a configuration can be applied.
    pub fn serve(&self, targets: Targets) {
        // Set once, by the start.
        let _ = self.targets.set(targets);
    }

    /// Reads the file again and applies it, as `by` has asked for. Once begun it is carried out, also if nobody waits for it any more.
    ///
    /// # Errors
    /// [`ReloadError`]: nothing has changed.
    pub async fn reload(self: &Arc<Self>, cause: Cause, by: &str) -> Result<Reloaded, ReloadError> {
        let (this, by) = (Arc::clone(self), by.to_owned());
        let task = tokio::spawn(async move {
            let _turn = this.turn.lock().await;
            let taken = this.take(cause, &by).await;
            this.tell(cause, &by, &taken);
            taken
        });
        task.await.unwrap_or_else(|error| Err(ReloadError::Failed(error.to_string())))
    }

    async fn take(&self, cause: Cause, by: &str) -> Result<Reloaded, ReloadError> {
        let targets = self.targets.get().ok_or(ReloadError::NotServing)?;
        let new = Config::load(&self.file)?;
        let changes = changes::changes(&self.config(), &new);
        let hard: Vec<Change> = changes.iter().filter(|change| change.how == How::Restart).cloned().collect();
        if !hard.is_empty() {
            return Err(ReloadError::NeedsRestart(hard));
        }
        let Prepared { settings, ways } = (self.prepare)(&new).map_err(ReloadError::Misfit)?;
        // Nothing fails from here on.
        targets.controls.configure(settings);
        targets.capture.budget().set_limit_bytes(new.mirror.buffer.as_usize());
        targets.local.set_deadline(new.proxy.dial_timeout);
        targets.access.take(ways);
        if let Some(mirror) = &targets.mirror {
            mirror.configure(&new, &changes::reconnected(&changes)).await;
        }
        if !changes.is_empty() {
            self.history.add(&new, &changes, cause, by);
        }
        self.in_effect.send_replace(Arc::new(new));
        Ok(Reloaded { changes })
    }

    fn tell(&self, cause: Cause, by: &str, taken: &Result<Reloaded, ReloadError>) {
        let cause = cause.words();
        match taken {
            Ok(Reloaded { changes }) => {
                self.metrics.failed.set(0);
                self.metrics.applied_at.set(seconds());
                let words: Vec<String> = changes.iter().map(Change::to_string).collect();
                let words = if words.is_empty() { "no key has changed".to_owned() } else { words.join("; ") };
                tracing::info!(%by, changes = changes.len(), "the configuration was read again ({cause}): {words}");
                self.journal.configuration(Kind::ConfigurationApplied, by, &format!("{cause}: {words}"));
            }
            Err(error) => {
                self.metrics.failed.set(1);
                tracing::error!(%by, "the configuration was not taken ({cause}), and the one before stays in effect: {error}");
                self.journal.configuration(Kind::ConfigurationRefused, by, &format!("{cause}: {error}"));
            }
        }
    }

    /// Takes changes of the file by itself, while the configuration says so, until it is dropped.
    pub async fn watch_file(self: Arc<Self>) {
        let read = || std::fs::read(&self.file).ok();
        let mut taken = read();
        let mut seen = None;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = read();
            if now == taken || now.is_none() {
                seen = None;
            } else if seen == now {
                taken = seen.take();
                if self.config().admin.reload_on_change {
                    // Said in the log and in the events.
                    let _ = self.reload(Cause::File, "the file").await;
                }
            } else {
                seen = now;
            }
        }
    }
}

fn seconds() -> i64 {
    i64::try_from(now_ms() / 1000).unwrap_or(i64::MAX)
}
