//! Raw calls to one broker over one connection.
//!
//! Deliberately dumb: no retries, no metadata, no version negotiation. What a test sends is what goes out, and the same
//! call can be made directly and through a proxy and the answers be compared, as messages ([`Call::call`]), as bodies
//! ([`Call::call_raw`]) or as frames ([`Call::send_frame`], [`Call::recv_frame`]).

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::{Decodable, HeaderVersion, Request};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::certificates::TlsClient;
use crate::definitions::Api;

/// A frame larger than this is taken for a broken length. Brokers answer at most about 50 MiB unless told otherwise.
pub const FRAME_BYTES_MAX: usize = 256 << 20;
/// How long a call waits for its answer unless [`Call::deadline`] says otherwise.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// What a call goes over.
pub trait Socket: AsyncRead + AsyncWrite + std::fmt::Debug + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + std::fmt::Debug + Send + Unpin> Socket for T {}

/// A connection to a broker (or a proxy).
#[derive(Debug)]
pub struct Call {
    addr: String,
    stream: Box<dyn Socket>,
    correlation_id: i32,
    client_id: String,
    deadline: Duration,
}

impl Call {
    /// Connects to `addr` (`host:port`).
    ///
    /// # Errors
    /// When the connection is refused or takes longer than [`DEADLINE`].
    pub async fn connect(addr: &str) -> Result<Self> {
        Ok(Self::over(addr, tcp(addr).await?))
    }

    /// Connects to `addr` (`host:port`) and speaks TLS, asking for the server `name`.
    ///
    /// # Errors
    /// As [`Call::connect`], and when there is no TLS.
    pub async fn connect_tls(addr: &str, name: &str, tls: &TlsClient) -> Result<Self> {
        let tcp = tcp(addr).await?;
        let shaken = tokio::time::timeout(DEADLINE, tls.connect(name, tcp));
        let stream = shaken.await.with_context(|| format!("no TLS with {addr} within {DEADLINE:?}"))?;
        Ok(Self::over(addr, stream.with_context(|| format!("no TLS with {addr}"))?))
    }

    fn over(addr: &str, stream: impl Socket + 'static) -> Self {
        let client_id = "diffluent-testbed".to_owned();
        Self { addr: addr.to_owned(), stream: Box::new(stream), correlation_id: 0, client_id, deadline: DEADLINE }
    }

    /// Sets how long a call waits for its answer.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sends `request` in `version` and reads its answer.
    ///
    /// # Errors
    /// When the request can't be encoded in that version, the connection breaks, the deadline passes, the answer bears
    /// another correlation id, can't be decoded, or is longer than its message.
    pub async fn call<R: Request>(&mut self, request: &R, version: i16) -> Result<R::Response> {
        let mut body = BytesMut::new();
        request.encode(&mut body, version).context("cannot encode the request")?;
        let mut answer = self
            .exchange(R::KEY, version, R::header_version(version), R::Response::header_version(version), &body)
            .await?;
        let response = R::Response::decode(&mut answer, version)
            .with_context(|| format!("cannot decode the answer to API {} version {version}", R::KEY))?;
        if answer.has_remaining() {
            bail!("{} bytes too many in the answer to API {} version {version}", answer.remaining(), R::KEY);
        }
        Ok(response)
    }

    /// Sends `body` behind a request header for `api_key` and `version`, and returns the answer's body, without its
    /// header. The header's version is the one that the kafka-protocol crate knows for the API; for unknown APIs the flexible one.
    ///
    /// # Errors
    /// As [`Call::call`], without decoding.
    pub async fn call_raw(&mut self, api_key: i16, version: i16, body: &[u8]) -> Result<Bytes> {
        let (request_header, response_header) = match ApiKey::try_from(api_key) {
            Ok(key) => (key.request_header_version(version), key.response_header_version(version)),
            Err(()) => (2, 1),
        };
        self.exchange(api_key, version, request_header, response_header, body).await
    }

    /// As [`Call::call_raw`], with the headers that a release's own definitions ask for.
    ///
    /// # Errors
    /// As [`Call::call_raw`].
    pub async fn call_defined(&mut self, api: &Api, version: i16, body: &[u8]) -> Result<Bytes> {
        const API_VERSIONS: i16 = 18;
        let flexible = i16::from(api.is_flexible(version));
        // KIP-511: a client that asks for too much must be able to read the answer.
        let answered = if api.key == API_VERSIONS { 0 } else { flexible };
        self.exchange(api.key, version, 1 + flexible, answered, body).await
    }

    async fn exchange(
        &mut self,
        api_key: i16,
        version: i16,
        request_header: i16,
        response_header: i16,
        body: &[u8],
    ) -> Result<Bytes> {
        self.correlation_id = self.correlation_id.wrapping_add(1);
        let mut frame = BytesMut::with_capacity(body.len() + 64);
        frame.put_i16(api_key);
        frame.put_i16(version);
        frame.put_i32(self.correlation_id);
        if request_header >= 1 {
            frame.put_i16(i16::try_from(self.client_id.len()).context("the client id is too long")?);
            frame.put_slice(self.client_id.as_bytes());
        }
        if request_header >= 2 {
            frame.put_u8(0);
        }
        frame.put_slice(body);
        self.send_frame(&frame).await?;
        let mut answer = self.recv_frame().await?;
        let correlation_id = answer.try_get_i32().context("an answer without a correlation id")?;
        if correlation_id != self.correlation_id {
            bail!("{}: answer to request {correlation_id}, expected {}", self.addr, self.correlation_id);
        }
        if response_header >= 1 {
            let tags = answer.try_get_u8().context("an answer without header tags")?;
            if tags != 0 {
                bail!("{}: {tags} unexpected tagged fields in a response header", self.addr);
            }
        }
        Ok(answer)
    }

    /// Sends `frame` with its length in front: everything else, the header too, is the caller's.
    ///
    /// # Errors
    /// When the connection is broken.
    pub async fn send_frame(&mut self, frame: &[u8]) -> Result<()> {
        let mut bytes = BytesMut::with_capacity(frame.len() + 4);
        bytes.put_i32(i32::try_from(frame.len()).context("the frame is too long")?);
        bytes.put_slice(frame);
        self.send_bytes(&bytes).await
    }

    /// Sends bytes as they are, for requests that are broken on purpose.
    ///
    /// # Errors
    /// When the connection is broken.
    pub async fn send_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).await.with_context(|| format!("cannot send to {}", self.addr))?;
        self.stream.flush().await.with_context(|| format!("cannot send to {}", self.addr))
    }

    /// Reads one frame, without its length.
    ///
    /// # Errors
    /// When the connection ends, the deadline passes or the length is impossible.
    pub async fn recv_frame(&mut self) -> Result<Bytes> {
        let (addr, deadline) = (self.addr.clone(), self.deadline);
        tokio::time::timeout(deadline, self.recv())
            .await
            .map_err(|_| anyhow!("{addr} did not answer within {deadline:?}"))?
            .with_context(|| format!("cannot read from {addr}"))
    }

    async fn recv(&mut self) -> Result<Bytes> {
        let len = usize::try_from(self.stream.read_i32().await?).context("a negative length")?;
        if len > FRAME_BYTES_MAX {
            bail!("a frame of {len} bytes");
        }
        let mut frame = BytesMut::new();
        while frame.len() < len {
            // Grows with what arrives, never with what is claimed.
            let missing = len - frame.len();
            frame.reserve(missing.min(1 << 20));
            if (&mut self.stream).take(missing as u64).read_buf(&mut frame).await? == 0 {
                bail!("the connection ended inside a frame");
            }
        }
        Ok(frame.freeze())
    }

    /// The connection itself.
    pub fn into_stream(self) -> Box<dyn Socket> {
        self.stream
    }
}

async fn tcp(addr: &str) -> Result<TcpStream> {
    let stream = tokio::time::timeout(DEADLINE, TcpStream::connect(addr))
        .await
        .with_context(|| format!("no connection to {addr} within {DEADLINE:?}"))?
        .with_context(|| format!("cannot connect to {addr}"))?;
    stream.set_nodelay(true).context("cannot set TCP_NODELAY")?;
    Ok(stream)
}
