//! The admin port: what is true now, as a page for people, JSON for their tools, and OpenMetrics text for Prometheus.
//!
//! Owns the HTTP routes, their bounds, and the list of all metric names ([`catalog`]). It may read lag (through
//! [`LagSource`]), readiness, the journal and the metrics registry, and give an operator's [`Commands`]. It must not touch a stream or a session, and nothing
//! on the path of a client's bytes waits for it.
//!
//! # Bounds
//! [`server::CONNECTIONS_MAX`] connections; further ones wait in the kernel's queue. Each has a deadline to send a request's head, each
//! request one to be answered, each connection one to end. Bodies are limited, and no route reads one.

mod answer;
#[cfg(test)]
mod api_tests;
pub mod catalog;
pub mod clusters;
mod commands;
mod flow;
pub mod guard;
mod live;
mod metrics;
mod monitor;
mod page;
mod process;
mod routes;
pub mod server;
pub mod summary;
#[cfg(test)]
mod tests;
mod topics;
pub mod who;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use prometheus_client::registry::Registry;
use serde::Serialize;

pub use catalog::undocumented;
pub use clusters::{ClusterTraffic, ClusterView};
pub use guard::Guard;
pub use server::serve;

use crate::history::Told;
use crate::journal::Journal;
use crate::lag::{Hold, RateLimits, RegionLag};
use crate::log_filter::LogFilter;
use crate::mirror::CommandError;
use crate::mirror::progress::Partition;
use crate::mirror::rewind::{Rewind, Rewound};
use crate::mirror::stream::Obstacle;
use crate::mirror::throttle::Throttling;
use crate::reload::{ReloadError, Reloaded};
use crate::session::ClientView;

/// What a [`LagSource`] answers, later.
pub type LagFuture<'a> = Pin<Box<dyn Future<Output = Vec<RegionLag>> + Send + 'a>>;

/// Where the lag of all regions is known: the mirror.
pub trait LagSource: Send + Sync {
    /// The lag of every region, taken from its streams now. It should be ready within milliseconds; the admin port answers 503
    /// when it takes longer than [`server::REQUEST_TIME_MAX`].
    fn lag(&self) -> LagFuture<'_>;

    /// The names of the regions that there are, whether they answer or not.
    fn regions(&self) -> Vec<String>;
}

/// What came of a command, later.
pub type CommandFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, CommandError>> + Send + 'a>>;

/// Who does what an operator asks for: the mirror.
pub trait Commands: Send + Sync {
    /// Steps over the batch at source offset `offset` that stalls a stream: see [`crate::mirror::Mirror::skip`].
    fn skip(&self, region: String, partition: Partition, offset: i64) -> CommandFuture<'_, Obstacle>;

    /// Has streams begin anew at an earlier offset: see [`crate::mirror::Mirror::rewind`].
    fn rewind(&self, region: String, what: Rewind) -> CommandFuture<'_, Rewound>;

    /// Holds back a region, or a topic: see [`crate::mirror::Mirror::pause`].
    ///
    /// # Errors
    /// [`CommandError`]: nothing has changed.
    fn pause(&self, region: &str, topic: Option<&str>, hold: Hold) -> Result<(), CommandError>;

    /// Lets a region, or a topic, go on: see [`crate::mirror::Mirror::resume`].
    ///
    /// # Errors
    /// [`CommandError`]: nothing has changed.
    fn resume(&self, region: &str, topic: Option<&str>) -> Result<(), CommandError>;

    /// Sets other limits: see [`crate::mirror::Mirror::throttle`].
    ///
    /// # Errors
    /// [`CommandError`]: nothing has changed.
    fn throttle(&self, region: &str, limits: Throttling, hold: Hold) -> Result<RateLimits, CommandError>;
}

/// What came of [`Process::reload`], later.
pub type ReloadFuture<'a> = Pin<Box<dyn Future<Output = Result<Reloaded, ReloadError>> + Send + 'a>>;
/// What [`Process::history`] answers, later.
pub type HistoryFuture<'a> = Pin<Box<dyn Future<Output = Told> + Send + 'a>>;

/// The process as a whole: its configuration, its clients, its log. Nothing here may block.
pub trait Process: Send + Sync {
    /// The configuration in effect without its secrets: see [`crate::config::redacted`].
    fn config(&self) -> serde_json::Value;

    /// Whether `/metrics` has series for each partition: `partition_metrics` in `[admin]`.
    fn partition_metrics(&self) -> bool;

    /// Reads the configuration again and applies it, as `by` has asked for: see [`crate::reload::Reloader::reload`].
    fn reload(&self, by: String) -> ReloadFuture<'_>;

    /// The last `limit` configurations that were in effect: see [`crate::history::History::tell`].
    fn history(&self, limit: usize) -> HistoryFuture<'_>;

    /// The clients whose connections are open, those that produce most first.
    fn clients(&self) -> Vec<ClientView>;

    /// What is logged.
    fn log(&self) -> &LogFilter;
}

/// Whether clients can be served, and if not, what is missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// The local cluster answers and all ports are bound.
    pub ready: bool,
    /// What is missing, in words; empty when ready.
    pub waiting_for: Vec<String>,
}

impl Readiness {
    /// Clients can be served.
    pub fn ready() -> Self {
        Self { ready: true, waiting_for: Vec::new() }
    }

    /// Clients can't be served before all of `what` is there; ready when that is nothing.
    pub fn waiting_for(what: impl IntoIterator<Item = String>) -> Self {
        let waiting_for: Vec<String> = what.into_iter().collect();
        Self { ready: waiting_for.is_empty(), waiting_for }
    }
}

/// What the admin port reads. Cheap to clone.
#[derive(Clone)]
pub struct AdminState {
    /// The mirror.
    pub lag: Arc<dyn LagSource>,
    /// The mirror again, for what changes something.
    pub commands: Arc<dyn Commands>,
    /// Asked at each `/ready`; it must not block.
    pub ready: Arc<dyn Fn() -> Readiness + Send + Sync>,
    /// All metrics but those of lag, which are computed at each scrape. Names carry the prefix `diffluent`.
    pub registry: Arc<Registry>,
    /// What each cluster said of itself last; asked at each `/brokers` and `/metrics`, it must not block.
    pub clusters: Arc<dyn Fn() -> Vec<ClusterView> + Send + Sync>,
    /// What went to and from each cluster; asked about once a second, it must not block.
    pub traffic: Arc<dyn Fn() -> Vec<ClusterTraffic> + Send + Sync>,
    /// What changed state.
    pub journal: Arc<Journal>,
    /// Who may do what.
    pub guard: Guard,
    /// This process.
    pub process: Arc<dyn Process>,
    /// The version of this build.
    pub version: &'static str,
    /// The commit it was built from, or why that is not known.
    pub commit: &'static str,
}

impl fmt::Debug for AdminState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminState").field("version", &self.version).finish_non_exhaustive()
    }
}
