//! Dialing.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::Stream;
use super::tls::ClientTls;

/// A silent connection is probed after this time, and given up after three probes that nobody answers.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Why there is no connection. To try again is always safe: nothing was sent.
#[derive(Debug, Error)]
pub enum DialError {
    /// The name does not resolve.
    #[error("{host}:{port} does not resolve: {source}")]
    Resolve {
        /// The name.
        host: String,
        /// The port.
        port: u16,
        /// What the resolver says.
        source: io::Error,
    },
    /// No address of the name takes connections; the last one's error.
    #[error("{host}:{port} does not take connections: {source}")]
    Connect {
        /// The name.
        host: String,
        /// The port.
        port: u16,
        /// What the system says.
        source: io::Error,
    },
    /// The connection is there, but TLS over it is not.
    #[error("{host}:{port}: {source}")]
    Tls {
        /// The name.
        host: String,
        /// The port.
        port: u16,
        /// What is wrong and what to do about it, in an operator's words.
        source: io::Error,
    },
    /// The deadline has passed.
    #[error("{host}:{port} did not answer within {} ms", timeout.as_millis())]
    Timeout {
        /// The name.
        host: String,
        /// The port.
        port: u16,
        /// The time that it had.
        timeout: Duration,
    },
}

/// How a cluster's brokers are dialed.
#[derive(Clone, Debug, Default)]
pub struct Dialer {
    tls: Option<Arc<ClientTls>>,
}

impl Dialer {
    /// Without TLS.
    pub fn plain() -> Self {
        Self::default()
    }

    /// With TLS.
    pub fn tls(tls: Arc<ClientTls>) -> Self {
        Self { tls: Some(tls) }
    }

    /// Connects to the first address of `host` that takes the connection, within `timeout` for all of it together.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn dial(&self, host: &str, port: u16, timeout: Duration) -> Result<Stream, DialError> {
        let deadline = Instant::now() + timeout;
        let timed_out = || DialError::Timeout { host: host.to_owned(), port, timeout };
        let tcp = tcp(host, port, deadline, timed_out).await?;
        let Some(tls) = &self.tls else { return Ok(Stream::Plain(tcp)) };
        match timeout_at(deadline, tls.connect(host, tcp)).await {
            Err(_) => Err(timed_out()),
            Ok(Err(source)) => Err(DialError::Tls { host: host.to_owned(), port, source }),
            Ok(Ok(stream)) => Ok(Stream::Tls(Box::new(stream))),
        }
    }
}

async fn tcp(
    host: &str,
    port: u16,
    deadline: Instant,
    timed_out: impl Fn() -> DialError,
) -> Result<TcpStream, DialError> {
    let resolve_error = |source| DialError::Resolve { host: host.to_owned(), port, source };
    let addresses: Vec<_> = timeout_at(deadline, tokio::net::lookup_host((host, port)))
        .await
        .map_err(|_| timed_out())?
        .map_err(resolve_error)?
        .collect();
    let mut last = None;
    for (index, address) in addresses.iter().enumerate() {
        // An address that swallows packets leaves time for those behind it.
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - index).unwrap_or(1);
        match timeout_at(Instant::now() + share, TcpStream::connect(address)).await {
            Err(_) => {}
            Ok(Err(error)) => last = Some(error),
            Ok(Ok(stream)) => match set_options(&stream) {
                Ok(()) => return Ok(stream),
                Err(error) => last = Some(error),
            },
        }
    }
    match last {
        Some(source) => Err(DialError::Connect { host: host.to_owned(), port, source }),
        None if addresses.is_empty() => {
            Err(resolve_error(io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
        }
        None => Err(timed_out()),
    }
}

/// What every connection gets: no waiting for more bytes, and probes that find a peer that is gone.
pub(super) fn set_options(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(3);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}
