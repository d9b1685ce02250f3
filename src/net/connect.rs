//! Connections of our own, whatever carries them.

use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::Stream;
use super::dial::{DialError, Dialer};

/// The two directions of a connection, each for a task of its own. What is written has gone out once it is flushed.
pub struct Halves {
    /// What the peer sends.
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    /// What the peer gets.
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
}

/// A connection in the making.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Halves>> + Send + 'a>>;

/// How a cluster's brokers are connected to: over TCP or TLS, or over what a simulation puts in its place.
pub trait Connect: Debug + Send + Sync {
    /// Connects to `host`, within `timeout` in all.
    ///
    /// # Errors
    /// What the system says, or the peer; nothing of the caller's was sent then.
    fn connect<'a>(&'a self, host: &'a str, port: u16, timeout: Duration) -> Connecting<'a>;
}

impl Connect for Dialer {
    fn connect<'a>(&'a self, host: &'a str, port: u16, timeout: Duration) -> Connecting<'a> {
        Box::pin(async move {
            let stream = self.dial(host, port, timeout).await.map_err(|error| match error {
                DialError::Resolve { source, .. }
                | DialError::Connect { source, .. }
                | DialError::Tls { source, .. } => source,
                DialError::Timeout { .. } => io::ErrorKind::TimedOut.into(),
            })?;
            Ok(match stream {
                Stream::Plain(tcp) => {
                    let (reader, writer) = tcp.into_split();
                    Halves { reader: Box::new(reader), writer: Box::new(writer) }
                }
                // One state for both directions: they take turns under a lock.
                tls @ Stream::Tls(_) => {
                    let (reader, writer) = tokio::io::split(tls);
                    Halves { reader: Box::new(reader), writer: Box::new(writer) }
                }
            })
        })
    }
}
