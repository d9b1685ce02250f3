//! A link: one connection to one of a region's brokers, over which the ready batches of many streams go out as pipelined
//! Produce requests.
//!
//! The broker takes the requests of a connection one after the other, so batches are appended in the order in which they are
//! sent, however many are under way. A request has at most one batch per partition (brokers refuse two), all with the same acks.
//!
//! A broker answers an acks=all request once its in-sync replicas have it, and takes no other one of the connection before. So one partition with a slow
//! follower holds up all that share the connection: a request that is held up for longer than usual is told to the region, which gives such a partition another link.
//!
//! Where the connection has to log in again (KIP-368), the link stops sending, waits for what is unanswered, logs in, and goes on: no stream notices.
//!
//! Copies on this path: 61 bytes of header a batch. The records go from the read buffers of the session, or of the Fetch, into the socket.
//! One checksum pass over the records.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ProduceRequest, ProduceResponse};
use tokio::pin;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::events::Event;
use super::ownership::Ownership;
use super::stream::{Appended, Outgoing};
use super::throttle::Throttle;
use crate::client::ClientError;
use crate::client::apis::Call;
use crate::client::cluster::Cluster;
use crate::client::connection::{Answers, Connection, Requests, begin_frame, end_frame};
use crate::client::error_code::{Refusal, phrase};
use crate::wire::batch::rewritten_header;
use crate::wire::cursor::put_uvarint;

/// Requests that wait for the socket. When full, the region keeps its batches in the streams.
pub const LINK_QUEUE_REQUESTS: usize = 16;
/// How long the region's broker may wait for its in-sync replicas before it answers "unknown" (7).
const REPLICATION_TIMEOUT_MS: i32 = 30_000;

/// A broker that owes an answer for so long is given up: its line may be dead without a word.
const ANSWER_WITHIN: Duration = Duration::from_millis(REPLICATION_TIMEOUT_MS as u64 + 15_000);

/// An acks=all request that its broker has had for this time, and twice what is usual, is told to be held up.
const HELD_UP_AFTER: Duration = Duration::from_millis(100);
/// What is usual before any was answered.
const USUAL_AT_FIRST: Duration = Duration::from_millis(500);

/// Which of the links to a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lane {
    /// The region's broker.
    pub node_id: i32,
    /// The one for partitions whose followers are slow.
    pub aside: bool,
}

impl Lane {
    /// The one for partitions that are well.
    pub fn main(node_id: i32) -> Self {
        Self { node_id, aside: false }
    }
}

/// One batch in a request.
#[derive(Debug)]
pub struct Entry {
    /// The stream's number within its region.
    pub stream: usize,
    /// The topic's name in the region.
    pub topic: Arc<str>,
    /// The partition's number.
    pub partition: i32,
    /// The leader epoch that the region's metadata had when it was sent.
    pub leader_epoch: i32,
    /// The batch.
    pub outgoing: Outgoing,
}

/// A Produce request to be.
#[derive(Debug)]
pub struct Request {
    /// Its batches, of different partitions.
    pub entries: Vec<Entry>,
    /// acks=all; otherwise 1.
    pub barrier: bool,
    /// Bytes of the batches.
    pub bytes: usize,
}

/// What is left of a batch once it is on its way.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The stream's number within its region.
    pub stream: usize,
    /// Which batch of the stream.
    pub token: u64,
    /// The leader epoch under which it was sent.
    pub leader_epoch: i32,
    topic: Arc<str>,
    partition: i32,
}

impl Sent {
    /// What is left of this one.
    pub fn of(entry: &Entry) -> Self {
        Self {
            stream: entry.stream,
            token: entry.outgoing.token,
            leader_epoch: entry.leader_epoch,
            topic: entry.topic.clone(),
            partition: entry.partition,
        }
    }
}

/// The answer to one batch.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The batch.
    pub sent: Sent,
    /// What the broker says about it, or why it did not take it.
    pub result: Result<Appended, Refusal>,
}

/// What is unanswered, shared by both directions of a link. Both run in one task, so the lock is never contended.
#[derive(Debug, Default)]
struct Queue {
    requests: Mutex<VecDeque<Unanswered>>,
    /// There is a request again after there was none.
    asked: Notify,
}

#[derive(Debug)]
struct Unanswered {
    correlation: i32,
    bytes: usize,
    barrier: bool,
    sent: Vec<Sent>,
    since: Instant,
}

/// Where a link's requests come from, and whom it tells.
#[derive(Debug)]
pub struct Ends {
    /// Which link.
    pub lane: Lane,
    /// Which attempt.
    pub generation: u64,
    /// What it sends.
    pub queue: mpsc::Receiver<Request>,
    /// How fast.
    pub throttle: Arc<Throttle>,
    /// Whether the streams are still this process's.
    pub ownership: Arc<Ownership>,
    /// The region.
    pub events: mpsc::Sender<Event>,
    /// Notified whenever the queue was emptied into the socket.
    pub room: Arc<Notify>,
}

/// Why a link has stopped sending.
enum Stopped {
    /// The region has closed the queue, or the streams may be another proxy's.
    Closed,
    /// The connection has to log in again.
    LoginDue,
}

/// Runs a link until its queue is closed or the connection fails, and tells the region by events.
pub async fn run(cluster: Arc<Cluster>, mut ends: Ends) {
    let error = serve(&cluster, &mut ends).await.err();
    // The region may be gone: then nobody is interested any more.
    let down = Event::LinkDown { lane: ends.lane, generation: ends.generation, error };
    let _ = ends.events.send(down).await;
}

/// Ends without error when the region closes the queue or is gone, or when the streams may be another proxy's: this process may have stood still since
/// they were put here.
async fn serve(cluster: &Cluster, ends: &mut Ends) -> Result<(), ClientError> {
    let mut connection = cluster.connect(ends.lane.node_id).await?;
    connection.supports(ProduceRequest::NAME, ProduceRequest::KEY, ProduceRequest::VERSION)?;
    let up = Event::LinkUp { lane: ends.lane, generation: ends.generation };
    if ends.events.send(up).await.is_err() {
        return Ok(());
    }
    while let Stopped::LoginDue = pipeline(&mut connection, ends).await? {
        connection.log_in().await?;
    }
    Ok(())
}

/// Sends and takes answers until the queue is closed, or until the connection has to log in again and nothing is unanswered.
async fn pipeline(connection: &mut Connection, ends: &mut Ends) -> Result<Stopped, ClientError> {
    let due = connection.login_due();
    let (requests, answers) = connection.halves();
    let unanswered = Queue::default();
    let last = Notify::new();
    let Ends { lane, generation, queue, throttle, ownership, events, room } = ends;
    let writing = write(requests, queue, throttle, ownership, &unanswered, room, due);
    let reading = read(answers, *lane, *generation, &unanswered, &last, events);
    pin!(reading);
    let stopped = tokio::select! {
        biased;
        stopped = writing => stopped?,
        read = &mut reading => return read.map(|()| Stopped::Closed),
    };
    if let Stopped::LoginDue = stopped {
        last.notify_one();
        reading.await?;
    }
    Ok(stopped)
}

async fn write(
    requests: &mut Requests,
    queue: &mut mpsc::Receiver<Request>,
    throttle: &Throttle,
    ownership: &Ownership,
    unanswered: &Queue,
    room: &Notify,
    due: Option<Instant>,
) -> Result<Stopped, ClientError> {
    let mut waiting = Vec::with_capacity(LINK_QUEUE_REQUESTS);
    let mut pieces = Vec::new();
    let login_due = async {
        match due {
            Some(due) => sleep_until(due).await,
            None => std::future::pending().await,
        }
    };
    pin!(login_due);
    loop {
        let taken = tokio::select! {
            biased;
            () = &mut login_due => return Ok(Stopped::LoginDue),
            taken = queue.recv_many(&mut waiting, LINK_QUEUE_REQUESTS) => taken,
        };
        if taken == 0 {
            return Ok(Stopped::Closed);
        }
        for request in waiting.drain(..) {
            if throttle.limit().is_some() {
                // What is encoded is waited for: it must not stay behind.
                requests.write_pieces(&pieces).await?;
                pieces.clear();
                throttle.pass(request.bytes).await;
            }
            if !ownership.holds(Instant::now()) {
                return Ok(Stopped::Closed);
            }
            let (correlation, sent) = encode(requests, request.entries, request.barrier, &mut pieces);
            unanswered.push(Unanswered {
                correlation,
                bytes: request.bytes,
                barrier: request.barrier,
                sent,
                since: Instant::now(),
            });
        }
        room.notify_one();
        requests.write_pieces(&pieces).await?;
        pieces.clear();
    }
}

/// Takes answers; ends without error once `last` was notified and nothing is unanswered.
async fn read(
    answers: &mut Answers,
    lane: Lane,
    generation: u64,
    unanswered: &Queue,
    last: &Notify,
    events: &mpsc::Sender<Event>,
) -> Result<(), ClientError> {
    let mut answered = Instant::now();
    let mut usual = USUAL_AT_FIRST;
    // The request that was told to be held up.
    let mut told = None;
    let mut ending = false;
    loop {
        // Held up, or silent: only where an answer is due. A broker answers one request after the other.
        let due = {
            let queue = lock(&unanswered.requests);
            if ending && queue.is_empty() {
                return Ok(());
            }
            queue.front().map(|oldest| {
                let since = oldest.since.max(answered);
                let watched = oldest.barrier && !lane.aside && told != Some(oldest.correlation);
                since + if watched { HELD_UP_AFTER + 2 * usual } else { ANSWER_WITHIN }
            })
        };
        let next = tokio::select! {
            biased;
            () = last.notified(), if !ending => {
                ending = true;
                continue;
            }
            () = unanswered.asked.notified(), if due.is_none() => continue,
            next = next_within(answers, due) => next,
        };
        let Some(frame) = next else {
            let batches = {
                let queue = lock(&unanswered.requests);
                let Some(oldest) = queue.front() else { continue };
                if oldest.since.max(answered).elapsed() >= ANSWER_WITHIN {
                    return Err(answers.timed_out(ANSWER_WITHIN));
                }
                told = Some(oldest.correlation);
                oldest.sent.iter().map(|sent| (sent.stream, sent.token)).collect()
            };
            if events.send(Event::HeldUp { lane, generation, batches }).await.is_err() {
                std::future::pending::<()>().await;
            }
            continue;
        };
        let frame = frame?;
        let Some(request) = lock(&unanswered.requests).pop_front() else {
            return Err(answers.unasked());
        };
        let now = Instant::now();
        if request.barrier {
            // Soon after something slow, something slow is usual; then it is forgotten.
            usual = (now - request.since.max(answered)).max(usual * 7 / 8);
        }
        answered = now;
        let answer: ProduceResponse = answers.decode::<ProduceRequest>(request.correlation, frame)?;
        let answers = match_up(request.sent, &answer);
        let Unanswered { bytes, barrier, .. } = request;
        if events.send(Event::Answered { lane, generation, bytes, barrier, answers }).await.is_err() {
            // The region is gone; its queue ends the writing half too.
            std::future::pending::<()>().await;
        }
    }
}

/// The next answer; `None` if it does not come until it is due.
async fn next_within(answers: &mut Answers, due: Option<Instant>) -> Option<Result<Bytes, ClientError>> {
    match due {
        Some(due) => timeout_at(due, answers.next()).await.ok(),
        None => Some(answers.next().await),
    }
}

impl Queue {
    fn push(&self, request: Unanswered) {
        let mut requests = lock(&self.requests);
        requests.push_back(request);
        if requests.len() == 1 {
            self.asked.notify_one();
        }
    }
}

/// Finds each batch's result. A batch that the answer leaves out has an unknown outcome.
fn match_up(sent: Vec<Sent>, answer: &ProduceResponse) -> Vec<Answer> {
    const NOT_ANSWERED: i16 = -1;
    let results: HashMap<(&str, i32), Result<Appended, Refusal>> = (answer.responses.iter())
        .flat_map(|topic| topic.partition_responses.iter().map(|partition| (topic.name.as_str(), partition)))
        .map(|(topic, partition)| {
            let words = || partition.error_message.as_deref().map(|words| phrase(words).into());
            let result = match partition.error_code {
                0 => Ok(Appended { offset: partition.base_offset, append_time_ms: partition.log_append_time_ms }),
                code => Err(Refusal { code, words: words() }),
            };
            ((topic, partition.index), result)
        })
        .collect();
    sent.into_iter()
        .map(|sent| {
            let result = results.get(&(&*sent.topic, sent.partition)).cloned().unwrap_or(Err(NOT_ANSWERED.into()));
            Answer { sent, result }
        })
        .collect()
}

/// Appends a Produce request (version 9) to `pieces`: what the protocol needs around the batches, the rewritten headers, and the records as
/// they are.
fn encode(
    requests: &mut Requests,
    mut entries: Vec<Entry>,
    barrier: bool,
    pieces: &mut Vec<Bytes>,
) -> (i32, Vec<Sent>) {
    // One entry a topic in the request, whatever order the streams were ready in.
    entries.sort_by(|a, b| a.topic.cmp(&b.topic).then(a.partition.cmp(&b.partition)));
    let header = requests.header(ProduceRequest::KEY, ProduceRequest::VERSION);
    let mut head = begin_frame(&header, 2).unwrap_or_else(|error| unreachable!("our own header: {error}"));
    let mut body = BytesMut::with_capacity(64 + entries.len() * 128);
    let first_piece = pieces.len();
    // Placeholder for the head, which needs the length of all that follows.
    pieces.push(Bytes::new());
    body.put_u8(0); // transactional id: null
    body.put_i16(if barrier { -1 } else { 1 });
    body.put_i32(REPLICATION_TIMEOUT_MS);
    put_uvarint(&mut body, 1 + entries.chunk_by(|a, b| a.topic == b.topic).count() as u32);
    let mut sent = Vec::with_capacity(entries.len());
    let mut at = 0;
    while at < entries.len() {
        let of_topic = entries[at..].iter().take_while(|entry| entry.topic == entries[at].topic).count();
        put_uvarint(&mut body, 1 + entries[at].topic.len() as u32);
        body.put_slice(entries[at].topic.as_bytes());
        put_uvarint(&mut body, 1 + of_topic as u32);
        for entry in &entries[at..at + of_topic] {
            let batch = &entry.outgoing.batch;
            body.put_i32(entry.partition);
            put_uvarint(&mut body, 1 + batch.len() as u32);
            let records = batch.records.iter().map(|piece| &piece[..]);
            body.put_slice(&rewritten_header(&batch.header, entry.outgoing.identity, records));
            pieces.push(body.split().freeze());
            pieces.extend(batch.records.iter().cloned());
            body.put_u8(0); // the partition's tagged fields
            sent.push(Sent::of(entry));
        }
        body.put_u8(0); // the topic's tagged fields
        at += of_topic;
    }
    body.put_u8(0); // the request's tagged fields
    pieces.push(body.freeze());
    let beyond = pieces[first_piece..].iter().map(Bytes::len).sum();
    end_frame(&mut head, beyond);
    pieces[first_piece] = head.freeze();
    (header.correlation_id, sent)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
