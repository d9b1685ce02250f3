//! Which of our ports stands for which broker of the local cluster.
//!
//! Node ids stay what they are; each gets a port of ours (or, with TLS, a name: [`ServerNames`]), and clients are told it wherever an answer names the broker.
//! The port is the same after a restart: `first port + node id % number of ports`, or the next free one above, in ascending order of the ids that are known
//! at the start. A broker that shows up later gets its port bound before the answer that names it goes on to the client.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use tokio::sync::Notify;
use tracing::{error, info};

use super::names::ServerNames;
use crate::net::Bound;
use crate::wire::splice::Addresses;

/// A broker of the local cluster, and what stands for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The broker's node id.
    pub node_id: i32,
    /// Its own host, as it tells it.
    pub host: Arc<str>,
    /// Its own port.
    pub port: u16,
    /// Our port for it; `None` when there was none left, then it is reached through the bootstrap port, and where each broker has a name.
    pub advertised_port: Option<u16>,
}

/// How clients find a broker.
#[derive(Clone, Debug)]
pub enum Advertise {
    /// At a port of its own.
    Ports {
        /// The host that clients are told for every broker.
        host: Arc<str>,
        /// Where the ports come from. `0..=0`: the system chooses each one (for tests; such ports don't survive a restart).
        ports: RangeInclusive<u16>,
    },
    /// By a name of its own, on the bootstrap port.
    Names(ServerNames),
}

/// The routing table. Shared by all sessions, and added to by them as they see brokers in answers.
#[derive(Debug)]
pub struct Brokers {
    advertise: Advertise,
    listen: IpAddr,
    bootstrap_port: OnceLock<u16>,
    routes: RwLock<BTreeMap<i32, Route>>,
    /// Bound ports that nobody accepts from yet. At most one per port of the range.
    bound: Mutex<Vec<(i32, Bound)>>,
    pub(super) arrived: Notify,
}

impl Brokers {
    /// An empty table: brokers are advertised as `advertise` says, their ports bound at `listen`.
    pub fn new(advertise: Advertise, listen: IpAddr) -> Self {
        Self {
            advertise,
            listen,
            bootstrap_port: OnceLock::new(),
            routes: RwLock::default(),
            bound: Mutex::default(),
            arrived: Notify::new(),
        }
    }

    /// Adds a broker, or notes its new address. Binds a port for one that was not known; where there is none left, or the system refuses it,
    /// that is logged and the broker stands behind the bootstrap port. Ids below 0 are no brokers.
    pub fn learn(&self, node_id: i32, host: &str, port: u16) {
        if node_id < 0 || host.is_empty() || port == 0 {
            return;
        }
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(route) = routes.get_mut(&node_id) {
            if route.port != port || *route.host != *host {
                info!(node_id, from = %format_args!("{}:{}", route.host, route.port), to = %format_args!("{host}:{port}"),
                    "a broker of the local cluster has moved");
                route.host = Arc::from(host);
                route.port = port;
            }
            return;
        }
        let advertised_port = match &self.advertise {
            Advertise::Ports { ports, .. } => self.bind(node_id, ports, &routes),
            Advertise::Names(_) => None,
        };
        info!(node_id, host, port, advertised_port, "a broker of the local cluster is known");
        routes.insert(node_id, Route { node_id, host: Arc::from(host), port, advertised_port });
    }

    fn bind(&self, node_id: i32, ports: &RangeInclusive<u16>, routes: &BTreeMap<i32, Route>) -> Option<u16> {
        let (first, last) = (*ports.start(), *ports.end());
        let Some(port) = self.free_port(node_id, ports, routes) else {
            error!(
                node_id,
                broker_ports = %format_args!("{first}-{last}"),
                "no port is left for this broker: clients reach it through the bootstrap port only, which may be the wrong broker; \
                 widen proxy.broker_ports and restart"
            );
            return None;
        };
        match Bound::bind(SocketAddr::new(self.listen, port)) {
            Ok(bound) => {
                let port = bound.address().port();
                self.bound().push((node_id, bound));
                self.arrived.notify_one();
                Some(port)
            }
            Err(error) => {
                error!(
                    node_id,
                    port,
                    %error,
                    "this broker's port can't be bound: clients reach it through the bootstrap port only, which may be the wrong broker; \
                     free the port, or choose other proxy.broker_ports, and restart"
                );
                None
            }
        }
    }

    fn free_port(&self, node_id: i32, ports: &RangeInclusive<u16>, routes: &BTreeMap<i32, Route>) -> Option<u16> {
        let (first, last) = (*ports.start(), *ports.end());
        if first == 0 {
            return Some(0);
        }
        let count = u32::from(last.checked_sub(first)?) + 1;
        let wanted = u32::try_from(node_id).ok()? % count;
        (0..count).filter_map(|step| u16::try_from(u32::from(first) + (wanted + step) % count).ok()).find(|port| {
            self.bootstrap_port.get() != Some(port)
                && !routes.values().any(|route| route.advertised_port == Some(*port))
        })
    }

    fn bound(&self) -> MutexGuard<'_, Vec<(i32, Bound)>> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ports bound since the last call.
    pub(super) fn take_bound(&self) -> Vec<(i32, Bound)> {
        std::mem::take(&mut *self.bound())
    }

    /// The bootstrap port, once it is bound.
    pub(super) fn set_bootstrap_port(&self, port: u16) {
        let _ = self.bootstrap_port.set(port);
    }

    /// The broker of this id.
    pub fn route(&self, node_id: i32) -> Option<Route> {
        self.routes.read().unwrap_or_else(PoisonError::into_inner).get(&node_id).cloned()
    }

    /// All known brokers by ascending id.
    pub fn routes(&self) -> Vec<Route> {
        self.routes.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The broker that calls itself so.
    pub fn node_at(&self, host: &str, port: u16) -> Option<i32> {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        routes.values().find(|route| route.port == port && *route.host == *host).map(|route| route.node_id)
    }

    /// The broker that a name stands for which a client has asked for in TLS; `None`: it is no broker's name.
    pub(super) fn named(&self, name: &str) -> Option<i32> {
        match &self.advertise {
            Advertise::Ports { .. } => None,
            Advertise::Names(names) => names.node_id(name),
        }
    }

    fn told(&self, route: &Route) -> (Arc<str>, u16) {
        match &self.advertise {
            Advertise::Ports { host, .. } => {
                let port = route.advertised_port.or_else(|| self.bootstrap_port.get().copied()).unwrap_or_default();
                (Arc::clone(host), port)
            }
            Advertise::Names(names) => names.of(route.node_id),
        }
    }
}

impl Addresses for Brokers {
    fn advertise(&self, node_id: i32, host: &str, port: u16) -> (Arc<str>, u16) {
        {
            let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(route) = routes.get(&node_id)
                && route.port == port
                && *route.host == *host
            {
                return self.told(route);
            }
        }
        self.learn(node_id, host, port);
        match self.route(node_id) {
            Some(route) => self.told(&route),
            None => (Arc::from(host), port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free_range(count: u16) -> RangeInclusive<u16> {
        // Below the ephemeral range, where nobody else is given a port while the test runs.
        for first in (20_000..32_000).step_by(usize::from(count)) {
            let range = first..=first + count - 1;
            if range.clone().all(|port| Bound::bind(([127, 0, 0, 1], port).into()).is_ok()) {
                return range;
            }
        }
        panic!("no free ports");
    }

    fn brokers(ports: RangeInclusive<u16>) -> Brokers {
        let brokers = Brokers::new(Advertise::Ports { host: "proxy".into(), ports }, [127, 0, 0, 1].into());
        brokers.set_bootstrap_port(9092);
        brokers
    }

    #[test]
    fn a_broker_gets_the_port_that_its_id_says_and_keeps_it_when_it_moves() {
        let ports = free_range(7);
        let first = *ports.start();
        let brokers = brokers(ports);
        assert_eq!(brokers.advertise(1003, "a", 9092), (Arc::from("proxy"), first + (1003 % 7) as u16));
        assert_eq!(brokers.advertise(1003, "b", 9093), (Arc::from("proxy"), first + (1003 % 7) as u16));
        let route = brokers.route(1003).unwrap();
        assert_eq!((&*route.host, route.port), ("b", 9093));
        assert_eq!(brokers.node_at("b", 9093), Some(1003));
        assert_eq!(brokers.take_bound().len(), 1);
    }

    #[test]
    fn ids_that_collide_take_the_next_port_and_one_too_many_is_told_the_bootstrap_port() {
        let ports = free_range(3);
        let first = *ports.start();
        let brokers = brokers(ports);
        assert_eq!(brokers.advertise(2, "a", 1).1, first + 2);
        assert_eq!(brokers.advertise(5, "b", 1).1, first);
        assert_eq!(brokers.advertise(8, "c", 1).1, first + 1);
        assert_eq!(brokers.advertise(11, "d", 1).1, 9092);
        assert_eq!(brokers.take_bound().len(), 3);
    }

    #[test]
    fn with_a_name_for_each_broker_nothing_is_bound() {
        let names = ServerNames::new("b", ".example", 9093);
        let brokers = Brokers::new(Advertise::Names(names), [127, 0, 0, 1].into());
        assert_eq!(brokers.advertise(7, "a", 9092), (Arc::from("b7.example"), 9093));
        assert_eq!((brokers.named("B7.example"), brokers.named("kafka.example")), (Some(7), None));
        assert!(brokers.take_bound().is_empty());
    }

    #[test]
    fn what_is_no_broker_gets_no_port() {
        let brokers = brokers(free_range(1));
        assert_eq!(brokers.advertise(-1, "x", 5), (Arc::from("x"), 5));
        assert!(brokers.routes().is_empty());
    }
}
