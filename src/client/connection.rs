//! One connection of our own to one broker: frames out, frames in, and the simple call that waits for its answer.
//!
//! Who pipelines works with the two halves ([`Connection::halves`]). Reads are bounded by [`ANSWER_BYTES_MAX`], every wait by a deadline.
//!
//! A connection logs in when it is opened, and again before its session's lifetime is over (KIP-368): by itself between two calls; who works
//! with the halves looks at [`Connection::login_due`].

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{
    ApiVersionsRequest, ApiVersionsResponse, RequestHeader, ResponseHeader, SaslAuthenticateRequest,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use super::apis::Call;
use super::sasl::{Sasl, SaslError, Step};
use super::{ClientError, Reach};
use crate::net::Halves;
use crate::wire::{frame, shape};

/// The longest answer that is read. A Fetch may exceed its own limit by one record batch, and a batch may be as large as a broker takes.
pub const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;
/// How much is read at once when an answer's length isn't known yet.
const READ_BYTES: usize = 64 * 1024;
/// Up to this an answer's length is believed, and there is room for it at once: more than a Fetch asks for. Memory that nothing is written to costs
/// nothing, and an answer that grows step by step is copied at each.
const BELIEVED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Room for the length, the header and what a short request says, so that it need not grow.
const HEADER_BYTES: usize = 256;
/// The client id that brokers see on our own connections.
pub const CLIENT_ID: &str = "diffluent";

/// Bytes that go over our own connections to one cluster.
#[derive(Debug, Default)]
pub struct Traffic {
    /// From the cluster's brokers.
    pub received_bytes: prometheus_client::metrics::counter::Counter,
    /// To the cluster's brokers.
    pub sent_bytes: prometheus_client::metrics::counter::Counter,
    /// Bytes of record batches read with Fetch.
    pub fetched_bytes: prometheus_client::metrics::counter::Counter,
}

/// Who is talked to: for messages and metrics.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The cluster's name in the configuration.
    pub cluster: Arc<str>,
    /// host:port.
    pub address: Arc<str>,
    /// The cluster's byte counters.
    pub traffic: Arc<Traffic>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Peer {
    fn broken(&self, source: io::Error) -> ClientError {
        ClientError::Broken { cluster: self.cluster.clone(), address: self.address.to_string(), source }
    }

    fn unreadable(&self, what: impl ToString) -> ClientError {
        ClientError::Unreadable {
            cluster: self.cluster.clone(),
            address: self.address.to_string(),
            what: what.to_string(),
        }
    }
}

/// The writing half: encodes requests and numbers them.
pub struct Requests {
    peer: Peer,
    socket: Box<dyn AsyncWrite + Send + Unpin>,
    next_correlation: i32,
}

/// The reading half: frames, in the order in which the broker sends them.
pub struct Answers {
    peer: Peer,
    socket: Box<dyn AsyncRead + Send + Unpin>,
    buffer: BytesMut,
}

/// A connection to one broker.
pub struct Connection {
    peer: Peer,
    requests: Requests,
    answers: Answers,
    versions: HashMap<i16, (i16, i16)>,
    deadline: Duration,
    sasl: Option<Arc<Sasl>>,
    logged_in: bool,
    /// When to log in again.
    login_due: Option<Instant>,
    /// Whether a call was answered.
    answered: bool,
}

impl Connection {
    /// Connects to `address` (host:port), asks which versions the broker speaks, and logs in. Connecting and each call may take `deadline`.
    ///
    /// # Errors
    /// [`ClientError::Connect`] when there is no connection, [`ClientError::Login`], and those of a call.
    pub async fn open(
        reach: &Reach,
        cluster: Arc<str>,
        address: &str,
        traffic: Arc<Traffic>,
        deadline: Duration,
    ) -> Result<Self, ClientError> {
        let refused = |source| ClientError::Connect { cluster: cluster.clone(), address: address.to_string(), source };
        let (host, port) = split_address(address)
            .ok_or_else(|| refused(io::Error::new(io::ErrorKind::InvalidInput, "not host:port")))?;
        let Halves { reader, writer } = reach.connect.connect(host, port, deadline).await.map_err(refused)?;
        let peer = Peer { cluster: cluster.clone(), address: Arc::from(address), traffic };
        let mut connection = Self {
            requests: Requests { peer: peer.clone(), socket: writer, next_correlation: 0 },
            answers: Answers { peer: peer.clone(), socket: reader, buffer: BytesMut::new() },
            peer,
            versions: HashMap::new(),
            deadline,
            sasl: reach.sasl.clone(),
            logged_in: false,
            login_due: None,
            answered: false,
        };
        connection.versions = connection.ask_versions().await?;
        connection.log_in().await?;
        Ok(connection)
    }

    /// The oldest and newest version of an API that the broker speaks.
    pub fn versions(&self, api_key: i16) -> Option<(i16, i16)> {
        self.versions.get(&api_key).copied()
    }

    /// The two halves, for those who send before earlier answers are there.
    pub fn halves(&mut self) -> (&mut Requests, &mut Answers) {
        (&mut self.requests, &mut self.answers)
    }

    /// When it is time for [`Connection::log_in`] again; `None`: never.
    pub fn login_due(&self) -> Option<Instant> {
        self.login_due
    }

    /// Logs in, for the first time or again; nothing may be unanswered. Without a login in the configuration nothing happens.
    ///
    /// # Errors
    /// [`ClientError::Login`], and those of a call. The connection is of no further use then.
    pub async fn log_in(&mut self) -> Result<(), ClientError> {
        let Some(sasl) = self.sasl.clone() else { return Ok(()) };
        let failed = |peer: &Peer, source: SaslError| ClientError::Login {
            cluster: peer.cluster.clone(),
            address: peer.address.to_string(),
            source: Box::new(source),
        };
        let began = Instant::now();
        let (mut login, first) = sasl.login().await.map_err(|error| failed(&self.peer, error))?;
        let (code, offered) = self.shake_hands(sasl.mechanism().as_str()).await?;
        sasl.offered(code, &offered).map_err(|error| failed(&self.peer, error))?;
        let mut said = first;
        loop {
            let request = SaslAuthenticateRequest::default().with_auth_bytes(said.into());
            let (correlation, frame) = self.exchange(&request, self.deadline).await?;
            let answer = decode::<SaslAuthenticateRequest>(&self.peer, correlation, frame)?;
            match login.answered(answer).await.map_err(|error| failed(&self.peer, error))? {
                Step::Say(next) => said = next,
                Step::Done(again_after) => {
                    let times = if self.logged_in { "again" } else { "for the first time" };
                    tracing::debug!(cluster = %self.peer.cluster, address = %self.peer.address, ?again_after, "logged in {times}");
                    self.logged_in = true;
                    self.login_due = again_after.map(|after| began + after);
                    return Ok(());
                }
            }
        }
    }

    /// Sends a request and waits for its answer, at most the connection's deadline.
    ///
    /// # Errors
    /// Any of [`ClientError`] but `Refused`: error codes inside the answer are the caller's. After an error the connection is of no further use.
    pub async fn call<C: Call>(&mut self, request: &C) -> Result<C::Answer, ClientError> {
        self.call_within(request, self.deadline).await
    }

    /// As [`Connection::call`], with a deadline of its own.
    ///
    /// # Errors
    /// As [`Connection::call`].
    pub async fn call_within<C: Call>(&mut self, request: &C, deadline: Duration) -> Result<C::Answer, ClientError> {
        let (correlation, frame) = self.ask::<C>(request, deadline).await?;
        decode::<C>(&self.peer, correlation, frame)
    }

    /// As [`Connection::call`]; `None` if the answer's bytes are those of the last one, which `known` keeps.
    ///
    /// # Errors
    /// As [`Connection::call`].
    pub async fn call_for_news<C: Call>(
        &mut self,
        request: &C,
        known: &mut Vec<u8>,
    ) -> Result<Option<C::Answer>, ClientError> {
        let (correlation, frame) = self.ask::<C>(request, self.deadline).await?;
        // The correlation id is another one each time.
        if frame.strip_prefix(&correlation.to_be_bytes()).is_some_and(|body| body == known.as_slice()) {
            return Ok(None);
        }
        let body = frame.slice(frame.len().min(4)..);
        let answer = decode::<C>(&self.peer, correlation, frame)?;
        known.clear();
        known.extend_from_slice(&body);
        Ok(Some(answer))
    }

    /// Sends a request, after logging in again if that is due: the answer's frame, and the correlation id that it has to bear.
    async fn ask<C: Call>(&mut self, request: &C, deadline: Duration) -> Result<(i32, Bytes), ClientError> {
        if self.login_due.is_some_and(|due| due <= Instant::now()) {
            self.log_in().await?;
        }
        let answer = self.exchange(request, deadline).await;
        match &answer {
            Ok(_) => self.answered = true,
            // What a listener with SASL does to those who don't log in.
            Err(ClientError::Broken { source, .. })
                if !self.answered && self.sasl.is_none() && source.kind() == io::ErrorKind::UnexpectedEof =>
            {
                return Err(ClientError::ShutOut {
                    cluster: self.peer.cluster.clone(),
                    address: self.peer.address.to_string(),
                });
            }
            Err(_) => {}
        }
        answer
    }

    async fn exchange<C: Call>(&mut self, request: &C, deadline: Duration) -> Result<(i32, Bytes), ClientError> {
        self.supports(C::NAME, C::KEY, C::VERSION)?;
        let exchange = async {
            let correlation = self.requests.send(request).await?;
            let frame = self.answers.next().await?;
            Ok((correlation, frame))
        };
        tokio::time::timeout(deadline, exchange).await.unwrap_or_else(|_| {
            Err(ClientError::TimedOut {
                cluster: self.peer.cluster.clone(),
                address: self.peer.address.to_string(),
                waited: deadline,
            })
        })
    }

    /// Checks that the broker speaks a version.
    ///
    /// # Errors
    /// [`ClientError::Unsupported`] if it does not.
    pub fn supports(&self, api: &'static str, key: i16, version: i16) -> Result<(), ClientError> {
        match self.versions.get(&key) {
            Some((min, max)) if (*min..=*max).contains(&version) => Ok(()),
            _ => Err(ClientError::Unsupported {
                cluster: self.peer.cluster.clone(),
                address: self.peer.address.to_string(),
                api,
                version,
            }),
        }
    }

    /// ApiVersions v3, which tells a broker's features (KIP-584). Its answer's header is the old one (KIP-511).
    ///
    /// # Errors
    /// As [`Connection::call`].
    pub async fn ask_features(&mut self) -> Result<ApiVersionsResponse, ClientError> {
        const VERSION: i16 = 3;
        const SHAPE: &str = "42[222t]4t<0=[s22t],1=8,2=[s22t],3=1>";
        self.supports("ApiVersions", 18, VERSION)?;
        let exchange = async {
            let header = self.requests.header(18, VERSION);
            let unreadable = |error: String| self.peer.unreadable(format!("ApiVersions: {error}"));
            let mut frame = begin_frame(&header, 2).map_err(unreadable)?;
            let request = ApiVersionsRequest::default()
                .with_client_software_name(StrBytes::from_static_str(CLIENT_ID))
                .with_client_software_version(StrBytes::from_static_str(crate::VERSION));
            request.encode(&mut frame, VERSION).map_err(|error| unreadable(error.to_string()))?;
            end_frame(&mut frame, 0);
            self.requests.write(&frame).await?;
            let mut answer = self.answers.next().await?;
            shape::check(SHAPE, &answer).map_err(|error| unreadable(error.to_string()))?;
            let correlation = answer.try_get_i32().map_err(|error| unreadable(error.to_string()))?;
            if correlation != header.correlation_id {
                return Err(unreadable(format!("answer {correlation} to request {}", header.correlation_id)));
            }
            ApiVersionsResponse::decode(&mut answer, VERSION).map_err(|error| unreadable(error.to_string()))
        };
        tokio::time::timeout(self.deadline, exchange).await.unwrap_or_else(|_| {
            Err(ClientError::TimedOut {
                cluster: self.peer.cluster.clone(),
                address: self.peer.address.to_string(),
                waited: self.deadline,
            })
        })
    }

    /// ApiVersions v0, which every broker answers.
    async fn ask_versions(&mut self) -> Result<HashMap<i16, (i16, i16)>, ClientError> {
        let mut answer = self.exchange_old("ApiVersions", 18, 0, &[]).await?;
        let short = || self.peer.unreadable("ApiVersions is cut short");
        let error = answer.try_get_i16().map_err(|_| short())?;
        if error != 0 {
            return Err(self.peer.unreadable(format!("ApiVersions: {}", super::error_code::describe(error))));
        }
        let count = answer.try_get_i32().map_err(|_| short())?;
        let mut versions = HashMap::new();
        for _ in 0..count {
            let key = answer.try_get_i16().map_err(|_| short())?;
            let min = answer.try_get_i16().map_err(|_| short())?;
            let max = answer.try_get_i16().map_err(|_| short())?;
            versions.insert(key, (min, max));
        }
        Ok(versions)
    }

    /// SaslHandshake v1: the answer's error code, and the mechanisms that the broker has.
    async fn shake_hands(&mut self, mechanism: &str) -> Result<(i16, Vec<String>), ClientError> {
        let mut body = BytesMut::new();
        body.put_i16(i16::try_from(mechanism.len()).unwrap_or(i16::MAX));
        body.put_slice(mechanism.as_bytes());
        let mut answer = self.exchange_old("SaslHandshake", 17, 1, &body).await?;
        let short = || self.peer.unreadable("SaslHandshake is cut short");
        let code = answer.try_get_i16().map_err(|_| short())?;
        let count = answer.try_get_i32().map_err(|_| short())?;
        let mut offered = Vec::new();
        for _ in 0..count {
            let length = usize::try_from(answer.try_get_i16().map_err(|_| short())?).map_err(|_| short())?;
            if length > answer.remaining() {
                return Err(short());
            }
            offered.push(String::from_utf8_lossy(&answer.split_to(length)).into_owned());
        }
        Ok((code, offered))
    }

    /// Asks for an API in a version that is not flexible (KIP-482); the answer's body. Within the connection's deadline.
    async fn exchange_old(&mut self, api: &str, key: i16, version: i16, body: &[u8]) -> Result<Bytes, ClientError> {
        let exchange = async {
            let header = self.requests.header(key, version);
            let mut frame = begin_frame(&header, 1).map_err(|error| self.peer.unreadable(error))?;
            frame.put_slice(body);
            end_frame(&mut frame, 0);
            self.requests.write(&frame).await?;
            let mut answer = self.answers.next().await?;
            let correlation = answer.try_get_i32().map_err(|_| self.peer.unreadable(format!("{api} is cut short")))?;
            if correlation != header.correlation_id {
                return Err(self.peer.unreadable(format!("answer {correlation} to request {}", header.correlation_id)));
            }
            Ok(answer)
        };
        tokio::time::timeout(self.deadline, exchange).await.unwrap_or_else(|_| {
            Err(ClientError::TimedOut {
                cluster: self.peer.cluster.clone(),
                address: self.peer.address.to_string(),
                waited: self.deadline,
            })
        })
    }
}

impl Requests {
    /// The header of the next request.
    pub fn header(&mut self, api_key: i16, version: i16) -> RequestHeader {
        let correlation = self.next_correlation;
        self.next_correlation = self.next_correlation.wrapping_add(1);
        RequestHeader::default()
            .with_request_api_key(api_key)
            .with_request_api_version(version)
            .with_correlation_id(correlation)
            .with_client_id(Some(StrBytes::from_static_str(CLIENT_ID)))
    }

    /// Sends a request; returns its correlation id.
    ///
    /// # Errors
    /// [`ClientError::Broken`]: nothing is known about what arrived.
    pub async fn send<C: Call>(&mut self, request: &C) -> Result<i32, ClientError> {
        let header = self.header(C::KEY, C::VERSION);
        let mut frame = begin_frame(&header, C::Message::header_version(C::VERSION))
            .map_err(|error| self.peer.unreadable(error))?;
        request.message().encode(&mut frame, C::VERSION).map_err(|error| self.peer.unreadable(error))?;
        end_frame(&mut frame, 0);
        self.write(&frame).await?;
        Ok(header.correlation_id)
    }

    /// Writes bytes that are already framed.
    ///
    /// # Errors
    /// [`ClientError::Broken`].
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        self.socket.write_all(bytes).await.map_err(|source| self.peer.broken(source))?;
        self.socket.flush().await.map_err(|source| self.peer.broken(source))?;
        self.peer.traffic.sent_bytes.inc_by(bytes.len() as u64);
        Ok(())
    }

    /// Writes pieces of a frame, or of several, with as few system calls as the socket allows.
    ///
    /// # Errors
    /// [`ClientError::Broken`].
    pub async fn write_pieces(&mut self, pieces: &[Bytes]) -> Result<(), ClientError> {
        /// More than this many pieces go in several calls: the kernel takes 1024.
        const PIECES_MAX: usize = 512;
        let (mut at, mut within) = (0, 0);
        while at < pieces.len() {
            let mut slices = [io::IoSlice::new(&[]); PIECES_MAX];
            let mut count = 0;
            for (slot, piece) in slices.iter_mut().zip(&pieces[at..]) {
                *slot = io::IoSlice::new(if count == 0 { &piece[within..] } else { piece });
                count += 1;
            }
            let mut written =
                self.socket.write_vectored(&slices[..count]).await.map_err(|source| self.peer.broken(source))?;
            if written == 0 {
                return Err(self.peer.broken(io::ErrorKind::WriteZero.into()));
            }
            self.peer.traffic.sent_bytes.inc_by(written as u64);
            while at < pieces.len() && written >= pieces[at].len() - within {
                written -= pieces[at].len() - within;
                at += 1;
                within = 0;
            }
            within += written;
        }
        self.socket.flush().await.map_err(|source| self.peer.broken(source))
    }
}

impl Answers {
    /// The next frame, without its length. Cancellation safe.
    ///
    /// # Errors
    /// [`ClientError::Broken`] at the end of the stream too; [`ClientError::Unreadable`] for an impossible length.
    pub async fn next(&mut self) -> Result<Bytes, ClientError> {
        loop {
            if let Some(prefix) = self.buffer.first_chunk::<4>() {
                let length = usize::try_from(i32::from_be_bytes(*prefix))
                    .ok()
                    .filter(|length| (4..=ANSWER_BYTES_MAX).contains(length))
                    .ok_or_else(|| self.peer.unreadable(self.impossible_length(*prefix)))?;
                if self.buffer.len() >= 4 + length {
                    self.buffer.advance(4);
                    let frame = self.buffer.split_to(length).freeze();
                    if length > READ_BYTES && self.buffer.is_empty() {
                        // What a long answer took is free again with the last of it.
                        self.buffer = BytesMut::new();
                    }
                    return Ok(frame);
                }
                // Beyond what is believed it grows with what has really arrived, at most doubling: a lying length costs nothing.
                let missing = 4 + length - self.buffer.len();
                self.make_room(missing.min(self.buffer.len().max(BELIEVED_BYTES_MAX)));
            } else {
                self.make_room(READ_BYTES);
            }
            let read = self.socket.read_buf(&mut self.buffer).await.map_err(|source| self.peer.broken(source))?;
            if read == 0 {
                return Err(self.peer.broken(io::ErrorKind::UnexpectedEof.into()));
            }
            self.peer.traffic.received_bytes.inc_by(read as u64);
        }
    }

    /// Room for so many bytes more. Unlike `reserve`, which would move along what earlier answers have left there.
    fn make_room(&mut self, more: usize) {
        if !self.buffer.try_reclaim(more) {
            let mut larger = BytesMut::with_capacity(self.buffer.len() + more);
            larger.extend_from_slice(&self.buffer);
            self.buffer = larger;
        }
    }

    fn impossible_length(&self, prefix: [u8; frame::LENGTH_BYTES]) -> String {
        if !frame::is_tls_record(prefix) {
            return "a frame of an impossible length".to_owned();
        }
        let table = if &*self.peer.cluster == "local" { "[local.tls]" } else { "[region.tls]" };
        format!("it speaks TLS: is this its TLS listener? Then it needs {table}")
    }

    /// The error for a frame that answers nothing.
    pub fn unasked(&self) -> ClientError {
        self.peer.unreadable("an answer that nobody asked for")
    }

    /// The error for an answer that does not come.
    pub fn timed_out(&self, waited: Duration) -> ClientError {
        ClientError::TimedOut { cluster: self.peer.cluster.clone(), address: self.peer.address.to_string(), waited }
    }

    /// Decodes a frame as the answer to the request with this correlation id.
    ///
    /// # Errors
    /// [`ClientError::Unreadable`].
    pub fn decode<C: Call>(&self, correlation: i32, frame: Bytes) -> Result<C::Answer, ClientError> {
        decode::<C>(&self.peer, correlation, frame)
    }
}

/// host and port of an address, without the brackets around an IPv6 host.
fn split_address(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Some((host, port.parse().ok()?))
}

/// Begins a frame with room for its length and with the request's header.
///
/// # Errors
/// What the protocol crate can't encode, in its words.
pub fn begin_frame(header: &RequestHeader, header_version: i16) -> Result<BytesMut, String> {
    let mut frame = BytesMut::with_capacity(HEADER_BYTES);
    frame.put_bytes(0, frame::LENGTH_BYTES);
    header.encode(&mut frame, header_version).map_err(|error| error.to_string())?;
    Ok(frame)
}

/// Ends a frame: writes its length, to which `beyond` bytes count that are sent behind it.
pub fn end_frame(frame: &mut BytesMut, beyond: usize) {
    let length = i32::try_from(frame.len() - 4 + beyond).unwrap_or(i32::MAX);
    frame[..4].copy_from_slice(&length.to_be_bytes());
}

/// Decodes an answer after its shape was checked.
///
/// # Errors
/// [`ClientError::Unreadable`].
pub fn decode<C: Call>(peer: &Peer, correlation: i32, mut frame: Bytes) -> Result<C::Answer, ClientError> {
    // Shapes are of flexible versions, so the answer's header is v1: correlation id and tagged fields.
    shape::check("4t", &frame).map_err(|error| peer.unreadable(format!("{}: {error}", C::NAME)))?;
    let header = ResponseHeader::decode(&mut frame, C::Answer::header_version(C::VERSION))
        .map_err(|error| peer.unreadable(format!("{}: {error}", C::NAME)))?;
    if header.correlation_id != correlation {
        return Err(peer.unreadable(format!("{}: answer {} to request {correlation}", C::NAME, header.correlation_id)));
    }
    shape::check(C::SHAPE, &frame).map_err(|error| peer.unreadable(format!("{}: {error}", C::NAME)))?;
    C::Answer::decode(&mut frame, C::VERSION).map_err(|error| peer.unreadable(format!("{}: {error}", C::NAME)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answers_of_any_length_come_whole_and_a_long_one_leaves_no_memory_behind() {
        let lengths = [4, READ_BYTES - 4, READ_BYTES + 1, 3 << 20, 10, BELIEVED_BYTES_MAX + 4097, 8 << 20];
        let (mut broker, socket) = tokio::io::duplex(40_000);
        let sent = tokio::spawn(async move {
            for (number, length) in lengths.iter().enumerate() {
                broker.write_all(&u32::try_from(*length).unwrap().to_be_bytes()).await.unwrap();
                broker.write_all(&vec![u8::try_from(number).unwrap(); *length]).await.unwrap();
            }
            broker
        });
        let peer = Peer { cluster: Arc::from("us"), address: Arc::from("broker:9092"), traffic: Arc::default() };
        let mut answers = Answers { peer, socket: Box::new(socket), buffer: BytesMut::new() };
        for (number, length) in lengths.iter().enumerate() {
            let frame = answers.next().await.unwrap();
            assert_eq!(frame.len(), *length);
            assert!(frame.iter().all(|byte| usize::from(*byte) == number), "answer {number}");
        }
        assert_eq!(answers.buffer.capacity(), 0, "the last one was long");
        sent.await.unwrap();
    }
}
