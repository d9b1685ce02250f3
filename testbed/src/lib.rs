//! Real Kafka clusters for tests, benches and the demo.
//!
//! Owns: fetching Apache Kafka, starting and stopping clusters ([`kafka`]), delay lines and network faults ([`delay`]),
//! raw calls to a broker ([`call`]), certificates ([`certificates`]), a Kerberos realm ([`kerberos`]), who gives tokens ([`tokens`]), Kafka's message definitions ([`definitions`]), workloads ([`workload`]), the
//! record by record comparison of two clusters
//! ([`verify`]), a real browser ([`browser`]) and the diffluent binary as a child process ([`proxy`]). The demo's story is in [`demo`],
//! faults drawn by a seed in [`chaos`], a cluster without Java in [`model`], bugs that the simulation must catch in [`planted`].
//!
//! May touch: child processes that it started itself, a per-user cache directory, temporary directories, loopback ports.
//! Must not: link against diffluent. The product is tested from outside, as its users meet it.
#![forbid(unsafe_code)]

pub mod bench;
pub mod browser;
mod build;
pub mod call;
pub mod certificates;
pub mod chaos;
pub mod definitions;
pub mod delay;
pub mod demo;
pub mod guard;
pub mod http;
pub mod kafka;
pub mod kcat;
pub mod kerberos;
pub mod model;
pub mod packages;
pub mod paths;
pub mod planted;
pub mod ports;
pub mod proxy;
pub mod records;
pub mod sockets;
pub mod tokens;
pub mod verify;
pub mod workload;

pub use call::Call;
pub use certificates::{Authority, Identity, TlsClient, TlsVersion};
pub use delay::{DelayLine, DelaySpec};
pub use kafka::{Cluster, KAFKA, KAFKA_OLD, Listener, Tools};
pub use kcat::Kcat;
pub use proxy::{Proxy, ProxyConfig, RegionConfig};
pub use verify::{Report, Side};
pub use workload::{Acks, Codec, Outcome, Workload};
