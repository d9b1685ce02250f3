//! Client connections: forward, answer, and the ports that they come in on.
//!
//! One client connection has one connection to the local broker ([`relay`](self)): bytes go on as they arrive, answers keep the order of requests, and
//! only answers that carry addresses or versions are changed ([`crate::wire::rewrite`]). What the broker has acknowledged is handed to
//! [`crate::capture`], which never makes a client wait.
//!
//! This room owns the ports ([`Front`]), the routing table ([`Brokers`]) and the counters of clients ([`SessionMetrics`]). It may use `wire`, `net` and
//! `capture`, and must not know streams or regions.

mod answers;
mod brokers;
mod capturing;
mod clients;
mod complaints;
pub mod descriptors;
mod error;
mod front;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod handshake;
mod in_flight;
mod limits;
mod metrics;
mod names;
mod relay;
mod requests;
mod watch;

#[cfg(test)]
mod tests;

pub use brokers::{Advertise, Brokers, Route};
pub use clients::{ClientRates, ClientView};
pub use error::{SessionError, is_expected_io_error};
pub use front::{Controls, Front, FrontConfig, FrontError, FrontSettings};
pub use limits::Limits;
pub use metrics::SessionMetrics;
pub use names::ServerNames;
pub use relay::{Ending, Shared, serve_pair};
