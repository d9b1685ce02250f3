//! A TLS connection.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::{CommonState, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::Certificate;
use super::ahead::ReadAhead;
use super::words::Words;

/// A TLS connection to a client or a broker. Its errors are in an operator's words.
#[derive(Debug)]
pub struct TlsStream {
    inner: tokio_rustls::TlsStream<ReadAhead>,
    words: Arc<Words>,
    said_goodbye: bool,
}

/// What a handshake came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFacts {
    /// The protocol's version: `TLS 1.3`.
    pub protocol: &'static str,
    /// What the peer has shown.
    pub certificate: Option<Certificate>,
}

impl TlsStream {
    pub(super) fn new(inner: tokio_rustls::TlsStream<ReadAhead>, words: Arc<Words>) -> Self {
        Self { inner, words, said_goodbye: false }
    }

    /// The TCP connection underneath.
    pub(in crate::net) fn tcp(&self) -> &TcpStream {
        self.inner.get_ref().0.tcp()
    }

    fn state(&self) -> &CommonState {
        self.inner.get_ref().1
    }

    /// What the handshake came to.
    pub fn facts(&self) -> TlsFacts {
        let protocol = match self.state().protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLS 1.3",
            Some(ProtocolVersion::TLSv1_2) => "TLS 1.2",
            _ => "TLS",
        };
        let shown = self.state().peer_certificates().and_then(<[_]>::first);
        TlsFacts { protocol, certificate: shown.and_then(|shown| Certificate::read(shown).ok()) }
    }

    fn explain<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        result.map_err(|error| self.words.broken(error))
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_read(context, buffer);
        match result {
            // The peer's process has ended without a goodbye, as without TLS. Frames have lengths: a part of one is never taken for a whole.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
            // A Java broker answers a goodbye with bytes that nobody can decrypt, and is gone.
            Poll::Ready(Err(error)) if self.said_goodbye && error.kind() == io::ErrorKind::InvalidData => {
                Poll::Ready(Ok(()))
            }
            other => self.explain(other),
        }
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.explain(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.explain(result)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_flush(context);
        self.explain(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.said_goodbye = true;
        let result = Pin::new(&mut self.inner).poll_shutdown(context);
        self.explain(result)
    }
}
