//! Sockets: how connections are listened for and dialed.
//!
//! This room owns everything that is particular to TCP (options, deadlines, resets) and to TLS ([`tls`]); what travels over a connection is none of its
//! business. Sessions are generic over [`Link`], so that a simulated network or a pipe in memory can be put underneath.

pub(crate) mod buffers;
pub mod connect;
pub mod dial;
pub mod listen;
pub mod stream;
pub mod tls;

use tokio::io::{AsyncRead, AsyncWrite};

pub use connect::{Connect, Connecting, Halves};
pub use dial::{DialError, Dialer};
pub use listen::{Bound, Listener};
pub use stream::Stream;

/// A connection as sessions see it: a byte stream that can be ended the hard way.
pub trait Link: AsyncRead + AsyncWrite + Send + Unpin {
    /// Has the peer see a reset instead of an orderly end when this is dropped. Used to pass on a reset from the other side, so
    /// that half a message is not taken for a whole one.
    fn reset_on_drop(&self);
}

#[cfg(test)]
impl Link for tokio::io::DuplexStream {
    fn reset_on_drop(&self) {}
}
