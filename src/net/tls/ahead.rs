//! Reads far ahead of rustls, which asks the socket for 4 KiB at a time: a system call for 64 KiB costs hardly more than one for 4.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::net::buffers::{BufferPool, Chunk};

/// What was read and not asked for yet.
#[derive(Debug)]
struct Ahead {
    chunk: Chunk,
    from: usize,
    to: usize,
}

/// A TCP connection that is read ahead. It holds a buffer only while there is something in it.
#[derive(Debug)]
pub struct ReadAhead {
    tcp: TcpStream,
    buffers: Arc<BufferPool>,
    ahead: Option<Ahead>,
}

impl ReadAhead {
    pub(super) fn new(tcp: TcpStream, buffers: Arc<BufferPool>) -> Self {
        Self { tcp, buffers, ahead: None }
    }

    pub(super) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }
}

impl AsyncRead for ReadAhead {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut ahead = match this.ahead.take() {
            Some(ahead) => ahead,
            None => {
                let mut chunk = this.buffers.take();
                let mut read = ReadBuf::new(&mut chunk);
                ready!(Pin::new(&mut this.tcp).poll_read(context, &mut read))?;
                let to = read.filled().len();
                Ahead { chunk, from: 0, to }
            }
        };
        let there = ahead.chunk.get(ahead.from..ahead.to).unwrap_or_default();
        let taken = there.get(..buffer.remaining()).unwrap_or(there);
        buffer.put_slice(taken);
        ahead.from += taken.len();
        if ahead.from < ahead.to {
            this.ahead = Some(ahead);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ReadAhead {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tcp).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tcp).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_shutdown(context)
    }
}
