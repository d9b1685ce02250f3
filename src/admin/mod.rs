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
mod flow;
mod live;
mod metrics;
mod monitor;
mod page;
pub mod redact;
mod routes;
pub mod server;
pub mod summary;
#[cfg(test)]
mod tests;
mod topics;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use prometheus_client::registry::Registry;
use serde::Serialize;

pub use catalog::undocumented;
pub use clusters::ClusterView;
pub use redact::redacted;
pub use server::serve;

use crate::journal::Journal;
use crate::lag::RegionLag;
use crate::mirror::SkipError;
use crate::mirror::progress::Partition;
use crate::mirror::stream::Obstacle;

/// What a [`LagSource`] answers, later.
pub type LagFuture<'a> = Pin<Box<dyn Future<Output = Vec<RegionLag>> + Send + 'a>>;

/// Where the lag of all regions is known: the mirror.
pub trait LagSource: Send + Sync {
    /// The lag of every region, taken from its streams now. It should be ready within milliseconds; the admin port answers 503
    /// when it takes longer than [`server::REQUEST_TIME_MAX`].
    fn lag(&self) -> LagFuture<'_>;
}

/// What came of [`Commands::skip`], later.
pub type SkipFuture<'a> = Pin<Box<dyn Future<Output = Result<Obstacle, SkipError>> + Send + 'a>>;

/// Who does what an operator asks for: the mirror.
pub trait Commands: Send + Sync {
    /// Steps over the batch at source offset `offset` that stalls a stream: see [`crate::mirror::Mirror::skip`].
    fn skip(&self, region: String, partition: Partition, offset: i64) -> SkipFuture<'_>;
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
    /// What changed state.
    pub journal: Arc<Journal>,
    /// The effective configuration without its secrets: see [`redacted`].
    pub config: Arc<serde_json::Value>,
    /// Whether `/metrics` has series for each partition: `partition_metrics` in `[admin]`.
    pub partition_metrics: bool,
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
