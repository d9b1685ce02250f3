//! How many clients there may be: a connection over a limit is closed at once, before anything is read or dialed for it.
//!
//! # When full
//! A refused client sees its connection end, as at a broker with `max.connections`, and tries again. Each refusal is counted, and told in the log once a
//! minute at most.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tracing::warn;

use super::complaints::Complaints;
use super::metrics::SessionMetrics;

/// A limit that holds on is told of this often.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// What a client may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Client connections that are open at once.
    pub connections: usize,
    /// Of these, from one address; `None` without a limit.
    pub connections_per_address: Option<usize>,
    /// From a connection's start to the end of its TLS handshake.
    pub handshake_within: Duration,
    /// From a connection's start to its first byte.
    pub first_byte_within: Duration,
    /// How long a connection may be silent in both directions, with no request that waits for its answer.
    pub idle: Duration,
    /// Requests of one connection that wait for their answers; over it, the client is not read. A change holds for new connections.
    pub in_flight: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            connections_per_address: None,
            handshake_within: Duration::from_secs(10),
            first_byte_within: Duration::from_secs(60),
            idle: Duration::from_secs(11 * 60),
            in_flight: 1024,
        }
    }
}

/// A limit, as metrics and logs name it: by its key in `[proxy]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    Connections,
    ConnectionsPerAddress,
    Handshake,
    FirstByte,
    Idle,
    InFlight,
}

impl Limit {
    pub const ALL: [Limit; 6] = [
        Limit::Connections,
        Limit::ConnectionsPerAddress,
        Limit::Handshake,
        Limit::FirstByte,
        Limit::Idle,
        Limit::InFlight,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Limit::Connections => "connection_limit",
            Limit::ConnectionsPerAddress => "connection_limit_per_address",
            Limit::Handshake => "handshake_timeout",
            Limit::FirstByte => "first_byte_timeout",
            Limit::Idle => "idle_timeout",
            Limit::InFlight => "in_flight_limit",
        }
    }
}

/// Counts the open connections of all ports.
#[derive(Debug)]
pub(super) struct Admission {
    limits: Arc<ArcSwap<Limits>>,
    metrics: Arc<SessionMetrics>,
    open: AtomicUsize,
    by_address: Mutex<HashMap<IpAddr, usize>>,
    complaints: Complaints,
}

/// A place among the open connections, until it is dropped.
#[derive(Debug)]
pub(super) struct Admitted {
    admission: Arc<Admission>,
    address: IpAddr,
}

impl Admission {
    /// The limits are looked at for each connection: they may be changed at any time, which ends no connection.
    pub fn new(limits: Arc<ArcSwap<Limits>>, metrics: Arc<SessionMetrics>) -> Arc<Self> {
        Arc::new(Self {
            limits,
            metrics,
            open: AtomicUsize::new(0),
            by_address: Mutex::default(),
            complaints: Complaints::new(TOLD_EVERY),
        })
    }

    fn by_address(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.by_address.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a client at `address`. `None`: there is none, which is counted and told here.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Admitted> {
        let address = address.to_canonical();
        let open = self.open.fetch_add(1, Ordering::Relaxed);
        // Gives the place back where there is none.
        let admitted = Admitted { admission: Arc::clone(self), address };
        let of_address = {
            let mut by_address = self.by_address();
            let count = by_address.entry(address).or_default();
            *count += 1;
            *count - 1
        };
        let limits = self.limits.load();
        let refused = if open >= limits.connections {
            Limit::Connections
        } else if limits.connections_per_address.is_some_and(|max| of_address >= max) {
            Limit::ConnectionsPerAddress
        } else {
            return Some(admitted);
        };
        self.metrics.limit_hit(refused);
        self.tell(refused, address);
        None
    }

    fn tell(&self, refused: Limit, address: IpAddr) {
        if self.complaints.note("refused").is_some() {
            warn!(
                limit = refused.as_str(),
                %address,
                connections = self.metrics.connections(),
                "client connections are refused; see diffluent_client_limit_hits_total for how many, and raise the limit in [proxy] if these clients are yours"
            );
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.admission.open.fetch_sub(1, Ordering::Relaxed);
        let mut by_address = self.admission.by_address();
        if let Some(count) = by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(connections: usize, per_address: Option<usize>) -> (Arc<Admission>, Arc<SessionMetrics>) {
        let metrics = Arc::new(SessionMetrics::default());
        let limits = Limits { connections, connections_per_address: per_address, ..Limits::default() };
        (Admission::new(Arc::new(ArcSwap::from_pointee(limits)), Arc::clone(&metrics)), metrics)
    }

    #[test]
    fn a_place_that_is_given_back_is_there_for_the_next() {
        let (admission, metrics) = admission(2, None);
        let [a, b, c] = [[10, 0, 0, 1], [10, 0, 0, 2], [10, 0, 0, 3]].map(IpAddr::from);
        let (first, _second) = (admission.admit(a).unwrap(), admission.admit(b).unwrap());
        assert!(admission.admit(c).is_none() && admission.admit(a).is_none());
        assert_eq!(metrics.limit_hits(Limit::Connections), 2);
        drop(first);
        assert!(admission.admit(c).is_some());
        assert_eq!(metrics.limit_hits(Limit::ConnectionsPerAddress), 0);
    }

    #[test]
    fn a_changed_limit_holds_for_the_next_connection_and_counts_those_that_are_there() {
        let (admission, _) = admission(10, None);
        let a = [10, 0, 0, 1].into();
        let _open = [admission.admit(a).unwrap(), admission.admit(a).unwrap()];
        let limits = |connections, per_address| {
            let limits = Limits { connections, connections_per_address: per_address, ..Limits::default() };
            admission.limits.store(Arc::new(limits));
        };
        limits(10, Some(2));
        assert!(admission.admit(a).is_none());
        assert!(admission.admit([10, 0, 0, 2].into()).is_some());
        limits(1, None);
        assert!(admission.admit([10, 0, 0, 2].into()).is_none());
        limits(3, None);
        assert!(admission.admit(a).is_some());
    }

    #[test]
    fn an_address_that_has_its_share_leaves_room_for_others_and_is_forgotten_when_it_goes() {
        let (admission, metrics) = admission(10, Some(2));
        let (a, a_mapped, b) = ([10, 0, 0, 1].into(), "::ffff:10.0.0.1".parse().unwrap(), [10, 0, 0, 2].into());
        let mine = [admission.admit(a).unwrap(), admission.admit(a_mapped).unwrap()];
        assert!(admission.admit(a).is_none());
        assert_eq!(metrics.limit_hits(Limit::ConnectionsPerAddress), 1);
        assert!(admission.admit(b).is_some());
        drop(mine);
        assert!(admission.admit(a).is_some());
        assert!(admission.by_address().is_empty());
        assert_eq!(admission.open.load(Ordering::Relaxed), 0);
    }
}
