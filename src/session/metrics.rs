//! What is counted about clients.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::exponential_buckets;
use prometheus_client::registry::Registry;

use super::limits::Limit;
use crate::histogram::Histogram;
use crate::wire::versions::{API_NAMES, OTHER_API};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ApiLabel {
    api: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabel {
    limit: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabel {
    direction: &'static str,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug)]
pub(super) enum Direction {
    Request,
    Answer,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// Counters of all sessions. Labels are bounded: APIs by our own list of names, reasons by our own words.
#[derive(Debug)]
pub struct SessionMetrics {
    connections: Gauge,
    connections_total: Counter,
    requests: Family<ApiLabel, Counter>,
    requests_by_key: Vec<Counter>,
    requests_other: Counter,
    added: Family<DirectionLabel, Histogram, fn() -> Histogram>,
    added_by_direction: [Histogram; 2],
    received_bytes: Counter,
    sent_bytes: Counter,
    closed: Family<ReasonLabel, Counter>,
    connections_limit: Gauge,
    limit_hits: Family<LimitLabel, Counter>,
}

impl Default for SessionMetrics {
    fn default() -> Self {
        let requests = Family::<ApiLabel, Counter>::default();
        let limit_hits = Family::<LimitLabel, Counter>::default();
        for limit in Limit::ALL {
            // Shown from the start, so that an alarm has something to compare with.
            let _ = limit_hits.get_or_create(&LimitLabel { limit: limit.as_str() });
        }
        // Ten microseconds to two seconds, each three times the one before.
        let added: Family<DirectionLabel, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(exponential_buckets(1e-5, 3.0, 12)));
        let handle = |api| requests.get_or_create(&ApiLabel { api }).clone();
        Self {
            connections: Gauge::default(),
            connections_total: Counter::default(),
            requests_by_key: API_NAMES.iter().map(|api| handle(*api)).collect(),
            requests_other: handle(OTHER_API),
            requests,
            added_by_direction: ["request", "answer"]
                .map(|direction| added.get_or_create(&DirectionLabel { direction }).clone()),
            added,
            received_bytes: Counter::default(),
            sent_bytes: Counter::default(),
            closed: Family::default(),
            connections_limit: Gauge::default(),
            limit_hits,
        }
    }
}

impl SessionMetrics {
    /// Adds these metrics to a registry whose prefix is `diffluent` (the names that are shown then begin with `diffluent_client_`; counters
    /// end in `_total`).
    pub fn register(&self, registry: &mut Registry) {
        registry.register("client_connections", "Client connections that are open", self.connections.clone());
        registry.register(
            "client_connections_opened",
            "Client connections since the start",
            self.connections_total.clone(),
        );
        registry.register("client_requests", "Requests of clients, by API", self.requests.clone());
        registry.register(
            "client_added_latency_seconds",
            "From bytes read to their being written on, by direction",
            self.added.clone(),
        );
        registry.register("client_received_bytes", "Bytes received from clients", self.received_bytes.clone());
        registry.register("client_sent_bytes", "Bytes sent to clients", self.sent_bytes.clone());
        registry.register("client_closed", "Client connections that have ended, by reason", self.closed.clone());
        registry.register(
            "client_connections_limit",
            "Client connections that may be open: connection_limit, or fewer where file descriptors are few",
            self.connections_limit.clone(),
        );
        registry.register(
            "client_limit_hits",
            "Client connections refused, closed or (in_flight_limit) held up because of a limit, by its key in [proxy]",
            self.limit_hits.clone(),
        );
    }

    /// Client connections that are open now.
    pub fn connections(&self) -> i64 {
        self.connections.get()
    }

    /// Bytes received from clients since the start.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes.get()
    }

    /// Bytes sent to clients since the start.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.get()
    }

    /// Connections that have ended for this reason.
    pub fn closed(&self, reason: &'static str) -> u64 {
        self.closed.get_or_create(&ReasonLabel { reason }).get()
    }

    pub(super) fn set_connections_limit(&self, connections: usize) {
        self.connections_limit.set(i64::try_from(connections).unwrap_or(i64::MAX));
    }

    pub(super) fn limit_hit(&self, limit: Limit) {
        self.limit_hits.get_or_create(&LimitLabel { limit: limit.as_str() }).inc();
    }

    #[cfg(test)]
    pub(super) fn limit_hits(&self, limit: Limit) -> u64 {
        self.limit_hits.get_or_create(&LimitLabel { limit: limit.as_str() }).get()
    }

    pub(super) fn opened(&self) {
        self.connections.inc();
        self.connections_total.inc();
    }

    pub(super) fn ended(&self, reason: &'static str) {
        self.connections.dec();
        self.closed.get_or_create(&ReasonLabel { reason }).inc();
    }

    pub(super) fn request(&self, api_key: i16) {
        let counter = usize::try_from(api_key).ok().and_then(|key| self.requests_by_key.get(key));
        counter.unwrap_or(&self.requests_other).inc();
    }

    /// Bytes were written on so long after they had been read.
    pub(super) fn added(&self, direction: Direction, latency: Duration) {
        let [request, answer] = &self.added_by_direction;
        let histogram = match direction {
            Direction::Request => request,
            Direction::Answer => answer,
        };
        histogram.observe(latency);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.received_bytes.inc_by(bytes as u64);
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.sent_bytes.inc_by(bytes as u64);
    }
}
