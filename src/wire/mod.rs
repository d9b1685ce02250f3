//! The protocol without I/O: bytes in; a frame, "need more", or an error out.
//!
//! This room owns everything that knows the shape of a Kafka message on the client path: frames and their limits, request
//! headers, which versions we can read ([`versions`]), the walkers of Produce requests and of large answers, and the one
//! place where broker addresses are rewritten ([`rewrite`]).
//!
//! It may touch bytes. It must not touch sockets, tokio, clocks or logs, and depends on no other room. What it reads was
//! written by a peer: lengths are bounds to be checked, never sizes to be allocated.

pub mod batch;
pub mod codec;
pub mod cursor;
pub mod endpoints;
pub mod fetch;
pub mod frame;
pub mod header;
pub mod message_set;
pub mod produce;
pub mod produce_answer;
pub mod records;
pub mod renumber;
pub mod rewrite;
pub mod shape;
pub mod share;
pub mod skim;
pub mod splice;
pub mod versions;
