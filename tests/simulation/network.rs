//! The simulated network under the engine: turmoil's hosts and connections where TCP is otherwise.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use diffluent::net::{Connect, Connecting, Halves, Link};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::TcpStream;

/// Connects over the simulated network.
#[derive(Debug)]
pub struct Simulated;

impl Connect for Simulated {
    fn connect<'a>(&'a self, host: &'a str, port: u16, timeout: Duration) -> Connecting<'a> {
        Box::pin(async move {
            let stream = dial(host, port, timeout).await?;
            let (reader, writer) = stream.into_split();
            Ok(Halves { reader: Box::new(reader), writer: Box::new(writer) })
        })
    }
}

/// Connects, within `timeout`.
pub async fn dial(host: &str, port: u16, timeout: Duration) -> io::Result<TcpStream> {
    tokio::time::timeout(timeout, TcpStream::connect((host, port)))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// A simulated connection as sessions see it.
pub struct SimulatedLink(pub TcpStream);

impl Link for SimulatedLink {
    fn reset_on_drop(&self) {
        // The simulated network resets whatever is dropped with bytes unread; there is no more to ask for.
    }
}

impl AsyncRead for SimulatedLink {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for SimulatedLink {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
