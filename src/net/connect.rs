//! Connections of our own, whatever carries them.

use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::dial::{DialError, dial};

/// The two directions of a connection, each for a task of its own.
pub struct Halves {
    /// What the peer sends.
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    /// What the peer gets.
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
}

/// A connection in the making.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Halves>> + Send + 'a>>;

/// How a cluster's brokers are connected to: over TCP, or over what a simulation puts in its place.
pub trait Connect: Debug + Send + Sync {
    /// Connects to `host`, within `timeout` in all.
    ///
    /// # Errors
    /// What the system says, or the peer; nothing of the caller's was sent then.
    fn connect<'a>(&'a self, host: &'a str, port: u16, timeout: Duration) -> Connecting<'a>;
}

/// Plain TCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp;

impl Connect for Tcp {
    fn connect<'a>(&'a self, host: &'a str, port: u16, timeout: Duration) -> Connecting<'a> {
        Box::pin(async move {
            let stream = dial(host, port, timeout).await.map_err(|error| match error {
                DialError::Resolve { source, .. } | DialError::Connect { source, .. } => source,
                DialError::Timeout { .. } => io::ErrorKind::TimedOut.into(),
            })?;
            let (reader, writer) = stream.into_split();
            Ok(Halves { reader: Box::new(reader), writer: Box::new(writer) })
        })
    }
}
