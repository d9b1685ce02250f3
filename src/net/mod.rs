//! Sockets: how connections are listened for and dialed.
//!
//! This room owns everything that is particular to TCP (options, deadlines, resets); what travels over a connection is none of its
//! business. Sessions are generic over [`Link`], so that TLS, a simulated network or a pipe in memory can be put underneath.

pub mod connect;
pub mod dial;
pub mod listen;

use tokio::io::{AsyncRead, AsyncWrite};

pub use connect::{Connect, Connecting, Halves, Tcp};
pub use dial::{DialError, dial};
pub use listen::{Bound, Listener};

/// A connection over the network.
pub type Stream = tokio::net::TcpStream;

/// A connection as sessions see it: a byte stream that can be ended the hard way.
pub trait Link: AsyncRead + AsyncWrite + Send + Unpin {
    /// Has the peer see a reset instead of an orderly end when this is dropped. Used to pass on a reset from the other side, so
    /// that half a message is not taken for a whole one.
    fn reset_on_drop(&self);
}

impl Link for Stream {
    fn reset_on_drop(&self) {
        // Best effort: a connection that is gone already needs none.
        let _ = socket2::SockRef::from(self).set_linger(Some(std::time::Duration::ZERO));
    }
}

#[cfg(test)]
impl Link for tokio::io::DuplexStream {
    fn reset_on_drop(&self) {}
}
