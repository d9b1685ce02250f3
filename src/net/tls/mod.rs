//! TLS: towards clients ([`ServerTls`]) and towards brokers ([`ClientTls`]).
//!
//! rustls does the protocol, ring the arithmetic. What is here: certificates and keys out of PEM files, read again when they change ([`Keyring`]); how much is
//! read from a socket at once (`ahead`); and what an operator is told when a handshake fails (`words`).
//!
//! # Copies
//! A read of up to 64 KiB of ciphertext goes from the socket into a shared buffer, from there in pieces into rustls, which decrypts in place, and from rustls
//! into the session's chunk: two copies more than in plaintext, all of them inside of the processor's cache. A write is encrypted record by record into rustls'
//! own buffers, one copy, and these go out in one system call. From the chunk on, everything is as without TLS: walked, captured and forwarded in place.

mod ahead;
pub mod certificate;
pub mod client;
pub mod files;
pub mod keyring;
pub mod server;
mod stream;
mod words;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use certificate::Certificate;
pub use client::ClientTls;
pub use files::{Files, TlsError};
pub use keyring::{Keyring, Reread, Rereading};
pub use server::{Accepted, ClientCertificates, HandshakeFailure, ServerTls};
pub use stream::{TlsFacts, TlsStream};

/// What does the arithmetic.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

#[cfg(test)]
mod tests;
