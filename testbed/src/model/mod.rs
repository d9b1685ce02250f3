//! A model of a Kafka cluster, in this process: what diffluent uses of the protocol, over any byte stream and any clock.
//!
//! For simulated time and network, where thousands of runs with faults take minutes, and for a demo without Java. It is no broker: it keeps
//! everything in memory, knows one log per partition and how far each replica has it, and takes its faults as orders. Where it is kinder than Kafka: a broker
//! that was killed still knows a producer's last five batches (Kafka knows one), and nothing checks that a transaction was begun.
//!
//! [`batch`], [`producers`] and [`partition`] are a partition's rules without I/O, [`group`] a consumer group's, [`state`] is the cluster's; [`answer`] answers one request,
//! [`front`] serves a connection, [`tcp`] puts it on loopback ports.

pub mod answer;
pub mod batch;
mod fetch;
pub mod front;
pub mod group;
mod groups;
pub mod partition;
pub mod producers;
pub mod state;
pub mod tcp;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

pub use front::serve_connection;
pub use state::{Mishap, State};
pub use tcp::TcpCluster;

/// A cluster, shared by its connections and by whoever runs or hurts it.
pub struct Model {
    state: Mutex<State>,
    changed: Notify,
    clock: Box<dyn Fn() -> i64 + Send + Sync>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Model {
    /// A cluster whose clock is `clock`, milliseconds since the epoch.
    pub fn new(state: State, clock: impl Fn() -> i64 + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(state), changed: Notify::new(), clock: Box::new(clock) })
    }

    /// The time, milliseconds since the epoch.
    pub fn now(&self) -> i64 {
        (self.clock)()
    }

    /// Looks at the state, without waking anybody.
    pub fn look(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, at the clock's time, and wakes whoever waits for something to change.
    pub fn change<T>(&self, what: impl FnOnce(&mut State, i64) -> T) -> T {
        let result = what(&mut self.look(), self.now());
        self.changed.notify_waiters();
        result
    }

    /// Waits until something has changed.
    pub(crate) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }
}
