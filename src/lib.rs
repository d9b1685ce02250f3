//! diffluent: a protocol-level Kafka proxy that mirrors what is produced to other regions.
//!
//! Clients connect to it as if it were their cluster ([`session`]); the record batches they produce are
//! handed on ([`capture`]) to streams ([`mirror`]) that replicate each partition's log, untouched, to every
//! region; how far behind a region is can be read at any time ([`lag`], [`admin`]).
//!
//! The rooms and the arrows between them are drawn in `docs/architecture.md`.
#![forbid(unsafe_code)]

pub mod access;
pub mod admin;
pub mod app;
pub mod capture;
pub mod check;
pub mod cli;
pub mod client;
pub mod config;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod histogram;
pub mod history;
pub mod import;
pub mod journal;
pub mod lag;
pub mod log_filter;
pub mod mirror;
pub mod net;
pub mod operator;
pub mod reload;
pub mod session;
pub mod status;
pub mod supervisor;
pub mod verify;
pub mod wire;

/// The version of this build.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit that it was built from; "debug build" in one that follows no commits, "unknown" where nothing is known (build.rs).
pub const COMMIT: &str = env!("DIFFLUENT_BUILD");
