//! One client connection and its connection to the local broker.
//!
//! Both directions are futures of one task. Each reads a chunk, walks it, writes it on, and only then reads the next: a slow side stops the
//! other side being read. Between chunks no buffer is held.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::watch;

use super::answers::{Answers, Out, Piece};
use super::brokers::Brokers;
use super::capturing::Capturing;
use super::error::SessionError;
use super::in_flight::InFlight;
use super::limits::Limit;
use super::metrics::{Direction, SessionMetrics};
use super::requests::{Requests, Stop};
use super::watch::Activity;
use crate::capture::Capture;
use crate::net::Link;
use crate::net::buffers::{BufferPool, CHUNK_BYTES, Chunk};

/// After the broker has ended the connection, the client has this long to end it too.
const CLIENT_ENDS_WITHIN: Duration = Duration::from_secs(5);

/// After the broker takes no more requests, the answers that it has already sent have this long to be read.
const LAST_ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// The start of a header that waits for its rest. Shorter than any header.
type Carry = SmallVec<[u8; 16]>;

/// What all sessions share.
#[derive(Debug)]
pub struct Shared {
    pub(super) brokers: Arc<Brokers>,
    pub(super) capture: Arc<Capture>,
    pub(super) metrics: Arc<SessionMetrics>,
    pub(super) buffers: Arc<BufferPool>,
    frame_bytes_max: AtomicUsize,
}

impl Shared {
    /// `frame_bytes_max` is the longest request that is accepted from a client.
    pub fn new(
        brokers: Arc<Brokers>,
        capture: Arc<Capture>,
        metrics: Arc<SessionMetrics>,
        frame_bytes_max: usize,
    ) -> Self {
        Self { brokers, capture, metrics, buffers: Arc::default(), frame_bytes_max: frame_bytes_max.into() }
    }

    /// Another longest request, for connections that begin from now on.
    pub fn set_frame_bytes_max(&self, frame_bytes_max: usize) {
        self.frame_bytes_max.store(frame_bytes_max, Ordering::Relaxed);
    }
}

/// How a session ended without a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The client had nothing more to say.
    ClientClosed,
    /// The broker ended the connection.
    BrokerClosed,
    /// A shutdown was asked for, and all requests were answered.
    Drained,
}

impl Ending {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Ending::ClientClosed => "client_closed",
            Ending::BrokerClosed => "broker_closed",
            Ending::Drained => "drained",
        }
    }
}

/// Forwards between a client and the broker `node_id` (-1: not known which) until one of them is done, or `shutdown` is true and all
/// requests are answered. For connections that somebody else has accepted and made, a simulation for instance: no limit of time holds here.
///
/// # Errors
/// What went wrong on either side, or with what the client sent.
pub async fn serve_pair<C: Link, B: Link>(
    shared: &Shared,
    client: C,
    broker: B,
    node_id: i32,
    requests_max: usize,
    shutdown: watch::Receiver<bool>,
) -> Result<Ending, SessionError> {
    let in_flight = InFlight::new(requests_max, Activity::default());
    relay(shared, client, broker, node_id, &in_flight, shutdown).await
}

/// Forwards as [`serve_pair`] says, under the limits that watch `in_flight`.
pub(super) async fn relay<C: Link, B: Link>(
    shared: &Shared,
    client: C,
    broker: B,
    node_id: i32,
    in_flight: &InFlight,
    shutdown: watch::Receiver<bool>,
) -> Result<Ending, SessionError> {
    let captures = node_id >= 0;
    let connection = if captures { shared.capture.open_connection() } else { shared.capture.next_connection() };
    let capturing = Capturing::new(Arc::clone(&shared.capture), captures);
    let mut requests = Requests::new(shared.frame_bytes_max.load(Ordering::Relaxed), capturing);
    let mut answers = Answers::new(node_id, connection, Arc::clone(&shared.brokers), Arc::clone(&shared.capture));
    let (mut client_reader, mut client_writer) = tokio::io::split(client);
    let (mut broker_reader, mut broker_writer) = tokio::io::split(broker);

    let result = {
        let forward = pin!(forward(shared, &mut requests, &mut client_reader, &mut broker_writer, in_flight, shutdown));
        let answer = pin!(answer(shared, &mut answers, &mut broker_reader, &mut client_writer, in_flight));
        both(forward, answer).await
    };

    let mut client = client_reader.unsplit(client_writer);
    let broker = broker_reader.unsplit(broker_writer);
    match &result {
        // Over TLS an end is announced. As far as that goes at once: nobody waits for a client here.
        Ok(_) => {
            poll_fn(|context| {
                let _ = Pin::new(&mut client).poll_shutdown(context);
                Poll::Ready(())
            })
            .await;
        }
        Err(SessionError::Client(error)) if error.kind() == io::ErrorKind::ConnectionReset => broker.reset_on_drop(),
        Err(SessionError::Broker(error)) if error.kind() == io::ErrorKind::ConnectionReset => client.reset_on_drop(),
        _ => {}
    }
    result
}

/// Runs both directions; the answers' end is the session's.
async fn both(
    mut forward: Pin<&mut impl Future<Output = Result<Ending, SessionError>>>,
    mut answer: Pin<&mut impl Future<Output = Result<Ending, SessionError>>>,
) -> Result<Ending, SessionError> {
    let forwarded = tokio::select! {
        biased;
        forwarded = &mut forward => match forwarded {
            Err(SessionError::Broker(error)) => {
                // A broker that closes may have said why.
                let _ = tokio::time::timeout(LAST_ANSWERS_WITHIN, answer).await;
                return Err(SessionError::Broker(error));
            }
            other => other?,
        },
        answered = &mut answer => {
            let ending = answered?;
            if ending == Ending::BrokerClosed {
                // The client sees the end; what it still sends finds nobody, which ends the session too.
                let _ = tokio::time::timeout(CLIENT_ENDS_WITHIN, forward).await;
            }
            return Ok(ending);
        }
    };
    let answered = answer.await?;
    Ok(if forwarded == Ending::ClientClosed { forwarded } else { answered })
}

/// From the client to the broker.
async fn forward(
    shared: &Shared,
    requests: &mut Requests,
    client: &mut (impl AsyncRead + Unpin),
    broker: &mut (impl AsyncWrite + Unpin),
    in_flight: &InFlight,
    mut shutdown: watch::Receiver<bool>,
) -> Result<Ending, SessionError> {
    let mut carry = Carry::new();
    loop {
        let idle = requests.is_between_frames() && carry.is_empty();
        let (mut chunk, filled) = tokio::select! {
            biased;
            read = read_chunk(client, &shared.buffers, &carry) => read.map_err(SessionError::Client)?,
            () = stopped(&mut shutdown), if idle => {
                in_flight.drain();
                return Ok(Ending::Drained);
            }
        };
        let read_at = Instant::now();
        shared.metrics.received(filled - carry.len());
        in_flight.client.received(filled - carry.len());
        in_flight.activity.received();
        if filled == carry.len() {
            // The client has said all it had to say, but may still want its answers.
            broker.shutdown().await.map_err(SessionError::Broker)?;
            return Ok(Ending::ClientClosed);
        }
        let mut position = 0;
        loop {
            let part = chunk.get_mut(..filled).unwrap_or_default();
            let walked = requests.walk(part, position, in_flight, &shared.metrics);
            let forwarded = part.get(position..walked.end).unwrap_or_default();
            if !forwarded.is_empty() {
                broker.write_all(forwarded).await.map_err(SessionError::Broker)?;
            }
            position = walked.end;
            match walked.stop {
                None => break,
                Some(Stop::Bad(bad)) => return Err(SessionError::BadInput(bad)),
                Some(Stop::Full) => {
                    shared.metrics.limit_hit(Limit::InFlight);
                    requests.capturing.keep_copies(&chunk, in_flight);
                    broker.flush().await.map_err(SessionError::Broker)?;
                    while in_flight.is_full() {
                        in_flight.wake.notified().await;
                    }
                }
            }
        }
        carry = Carry::from_slice(chunk.get(position..filled).unwrap_or_default());
        // Before anything is awaited: no answer can have been seen yet.
        requests.capturing.keep(chunk, in_flight);
        broker.flush().await.map_err(SessionError::Broker)?;
        shared.metrics.added(Direction::Request, read_at.elapsed());
    }
}

/// From the broker to the client.
async fn answer(
    shared: &Shared,
    answers: &mut Answers,
    broker: &mut (impl AsyncRead + Unpin),
    client: &mut (impl AsyncWrite + Unpin),
    in_flight: &InFlight,
) -> Result<Ending, SessionError> {
    let mut carry = Carry::new();
    loop {
        let draining = in_flight.is_draining();
        if draining && in_flight.is_empty() && carry.is_empty() && answers.is_between_frames() {
            return Ok(Ending::Drained);
        }
        let (mut chunk, filled) = tokio::select! {
            biased;
            read = read_chunk(broker, &shared.buffers, &carry) => read.map_err(SessionError::Broker)?,
            () = in_flight.drain_asked.notified(), if !draining => continue,
        };
        if filled == carry.len() {
            client.shutdown().await.map_err(SessionError::Client)?;
            return Ok(Ending::BrokerClosed);
        }
        let read_at = Instant::now();
        let mut out = Out::default();
        let walked = answers.walk(chunk.get_mut(..filled).unwrap_or_default(), in_flight, &mut out);
        in_flight.activity.writing(true);
        let written = write_pieces(&out, &chunk, client, &shared.metrics, in_flight).await;
        in_flight.activity.writing(false);
        shared.metrics.added(Direction::Answer, read_at.elapsed());
        // Also when the client is gone: the local log has the batches.
        for produced in out.produced {
            shared.capture.offer(produced);
        }
        walked?;
        written.map_err(SessionError::Client)?;
        carry = Carry::from_slice(chunk.get(out.carry_from..filled).unwrap_or_default());
    }
}

async fn write_pieces(
    out: &Out,
    chunk: &[u8],
    client: &mut (impl AsyncWrite + Unpin),
    metrics: &SessionMetrics,
    in_flight: &InFlight,
) -> io::Result<()> {
    for piece in &out.pieces {
        let bytes = match piece {
            Piece::Range(range) => chunk.get(range.clone()).unwrap_or_default(),
            Piece::Owned(bytes) => bytes,
        };
        client.write_all(bytes).await?;
        metrics.sent(bytes.len());
        in_flight.client.sent(bytes.len());
    }
    client.flush().await
}

/// Waits until the shutdown is asked for, or nobody is left to ask for it.
pub(super) async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|stop| *stop).await;
}

/// Reads behind a copy of `carry`; the chunk, and how much of it is filled. Nothing but the carry: the end. Cancellation safe. Holds a
/// buffer only while there is something to read.
async fn read_chunk(
    reader: &mut (impl AsyncRead + Unpin),
    buffers: &Arc<BufferPool>,
    carry: &Carry,
) -> io::Result<(Chunk, usize)> {
    const { assert!(CHUNK_BYTES > 1024) };
    poll_fn(|context| {
        let mut chunk = buffers.take();
        let Some((start, free)) = chunk.split_at_mut_checked(carry.len()) else {
            return Poll::Ready(Err(io::Error::other("carry longer than a chunk")));
        };
        start.copy_from_slice(carry);
        let mut free = ReadBuf::new(free);
        match Pin::new(&mut *reader).poll_read(context, &mut free) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) => {
                let filled = carry.len() + free.filled().len();
                Poll::Ready(Ok((chunk, filled)))
            }
        }
    })
    .await
}
