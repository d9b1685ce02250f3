//! Apache Kafka itself: fetched, formatted, started, asked, hurt and stopped.
//!
//! Owns: the artifacts and their cache ([`artifacts`]), Java commands ([`java`]), clusters ([`builder`], [`cluster`]), their logins and rights
//! ([`sasl`], [`rules`]), the few admin calls that tests need ([`admin`]), its own tools as clients ([`tools`]), and a plugin for telemetry ([`telemetry`]).

pub mod admin;
pub mod artifacts;
pub mod builder;
pub mod cluster;
pub mod java;
pub mod rules;
pub mod sasl;
pub mod telemetry;
pub mod tools;
mod warm;

pub use admin::Admin;
pub use artifacts::Kafka;
pub use builder::{ClusterBuilder, Listener};
pub use cluster::Cluster;
pub use java::Output;
pub use telemetry::Telemetry;
pub use tools::Tools;

/// The release that everything is tested against.
pub const KAFKA: &str = "4.3.0";
/// An older release that is still in wide use.
pub const KAFKA_OLD: &str = "3.9.1";
