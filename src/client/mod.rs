//! Our own Kafka client: what diffluent itself says to the local cluster and to the regions.
//!
//! [`connection`] is one connection to one broker; [`cluster`] knows a cluster's brokers, topics and leaders and keeps
//! a connection to each broker it talks to; [`apis`] is the list of the calls that are used, each with the one version that is spoken; [`sasl`] logs
//! in; [`rights`] names what a cluster does not let us do. The clients' own traffic never comes through here.

pub mod apis;
pub mod cluster;
pub mod configs;
pub mod connection;
pub mod error_code;
pub mod rights;
pub mod sasl;

use std::sync::Arc;
use std::time::Duration;

use crate::net::{Connect, Dialer};
use rights::Denial;
use sasl::{Sasl, SaslError};

/// How a cluster's brokers are connected to, and who logs in there.
#[derive(Clone, Debug)]
pub struct Reach {
    /// The way there.
    pub connect: Arc<dyn Connect>,
    /// The login; `None`: the brokers ask for none.
    pub sasl: Option<Arc<Sasl>>,
}

impl Reach {
    /// By `connect`, with the login that `[table]` of proxy.toml says, if there is one. `deadline` is for asking a token endpoint.
    pub fn new(connect: Arc<dyn Connect>, table: &str, sasl: Option<&crate::config::Sasl>, deadline: Duration) -> Self {
        Self { connect, sasl: sasl.map(|sasl| Arc::new(Sasl::new(table, sasl, deadline))) }
    }

    /// Plaintext without a login.
    pub fn plain() -> Self {
        Self { connect: Arc::new(Dialer::plain()), sasl: None }
    }
}

/// Why a call to a cluster failed. Says which cluster and broker, and whether the call may have had its effect.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection could be made: nothing was sent.
    #[error("{cluster}: cannot connect to {address}: {source}")]
    Connect {
        /// The cluster's name in the configuration.
        cluster: Arc<str>,
        /// host:port.
        address: String,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The broker does not let diffluent in: nothing was sent but what the login takes.
    #[error("{cluster}: {address} does not let diffluent in: {source}")]
    Login {
        /// The cluster's name in the configuration.
        cluster: Arc<str>,
        /// host:port.
        address: String,
        /// Why, and what to do.
        source: Box<SaslError>,
    },
    /// The broker has closed the connection at the very first question: it wants something else first.
    #[error(
        "{cluster}: {address} closes the connection without an answer; if this listener asks for a login, say how in `sasl` of this cluster in proxy.toml"
    )]
    ShutOut {
        /// The cluster's name in the configuration.
        cluster: Arc<str>,
        /// host:port.
        address: String,
    },
    /// The cluster does not allow it.
    #[error("{0}")]
    Denied(Box<Denial>),
    /// The connection broke: the call may have had its effect.
    #[error("{cluster}: the connection to {address} broke: {source}")]
    Broken {
        /// The cluster's name in the configuration.
        cluster: Arc<str>,
        /// host:port.
        address: String,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// No answer in time: the call may have had its effect.
    #[error("{cluster}: no answer from {address} within {} ms", waited.as_millis())]
    TimedOut {
        /// The cluster's name in the configuration.
        cluster: Arc<str>,
        /// host:port.
        address: String,
        /// How long was waited.
        waited: Duration,
    },
    /// The broker answered with something that is not an answer to the call.
    #[error("{cluster}: {address} sent an answer that cannot be read: {what}")]
    Unreadable {
        /// The cluster's name in the configuration.
        cluster: Arc<str>,
        /// host:port.
        address: String,
        /// What is wrong with it.
        what: String,
    },
    /// The broker does not speak the version that diffluent needs.
    #[error("{cluster}: {address} does not support {api} version {version}; diffluent needs Apache Kafka 3.1 or later")]
    Unsupported {
        /// The cluster's name in the configuration.
        cluster: Arc<str>,
        /// host:port.
        address: String,
        /// The API's name.
        api: &'static str,
        /// The version that diffluent speaks.
        version: i16,
    },
    /// The broker answered with an error.
    #[error("{cluster}: {what}: {}", error_code::describe(*code))]
    Refused {
        /// The cluster's name in the configuration.
        cluster: Arc<str>,
        /// What was asked for.
        what: String,
        /// Kafka's error code.
        code: i16,
    },
    /// The cluster has no such broker, or none that leads the partition.
    #[error("{cluster}: no broker known for {what}")]
    NoBroker {
        /// The cluster's name in the configuration.
        cluster: Arc<str>,
        /// The broker or partition.
        what: String,
    },
}

impl ClientError {
    /// A short word for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            ClientError::Connect { .. } => "connect",
            ClientError::Login { .. } | ClientError::ShutOut { .. } => "authentication",
            ClientError::Denied(_) => "authorization",
            ClientError::Broken { .. } => "connection",
            ClientError::TimedOut { .. } => "timeout",
            ClientError::Unreadable { .. } => "unreadable",
            ClientError::Unsupported { .. } => "unsupported",
            ClientError::Refused { .. } => "refused",
            ClientError::NoBroker { .. } => "no_broker",
        }
    }
}
