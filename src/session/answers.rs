//! What the local broker answers: matched with its request, forwarded in place where nothing is to be changed.
//!
//! Nothing here does I/O. Held are only answers that may have to be rewritten, up to [`HELD_BYTES_MAX`] or their heads up to [`HEAD_BYTES_MAX`].

use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;

use super::brokers::Brokers;
use super::error::SessionError;
use super::in_flight::{Expected, InFlight, PendingBatch};
use crate::capture::{Capture, Produced, TopicRef};
use crate::wire::cursor::ReadError;
use crate::wire::endpoints::Blanker;
use crate::wire::frame::{ANSWER_HEADER_BYTES_MIN, LENGTH_BYTES};
use crate::wire::header::RequestHeader;
use crate::wire::produce::Topic;
use crate::wire::produce_answer::{self, Appended};
use crate::wire::rewrite::{self, Answer, Tail};
use crate::wire::splice::splice;
use crate::wire::versions::{PRODUCE, api_name};

/// Answers with node endpoints behind their data, up to this size, are held to be rewritten; larger ones pass and lose the endpoints.
const HELD_BYTES_MAX: usize = 32 * 1024;

/// Produce answers are held up to this size: some 10,000 partitions.
const PRODUCE_HELD_BYTES_MAX: usize = 512 * 1024;

/// The part of an answer up to its last address, and answers to FindCoordinator and ApiVersions, are held up to this size: some 10,000
/// brokers.
const HEAD_BYTES_MAX: usize = 1024 * 1024;

/// Length and correlation id: what must be there of an answer.
const HEADER_BYTES: usize = LENGTH_BYTES + ANSWER_HEADER_BYTES_MIN;

/// A part of what goes to the client.
#[derive(Debug)]
pub(super) enum Piece {
    /// Of the chunk.
    Range(Range<usize>),
    /// Rewritten, or held before.
    Owned(Vec<u8>),
}

/// What one chunk of answers comes to.
#[derive(Debug, Default)]
pub(super) struct Out {
    /// To be written in order.
    pub pieces: SmallVec<[Piece; 4]>,
    /// To be handed on once written.
    pub produced: Vec<Produced>,
    /// The chunk's rest from here on is the start of an answer that can't be told yet; to be walked again with what follows it.
    pub carry_from: usize,
}

impl Out {
    fn range(&mut self, range: Range<usize>) {
        if let Some(Piece::Range(last)) = self.pieces.last_mut()
            && last.end == range.start
        {
            last.end = range.end;
        } else if !range.is_empty() {
            self.pieces.push(Piece::Range(range));
        }
    }
}

#[derive(Debug)]
struct Held {
    header: RequestHeader,
    batches: Vec<PendingBatch>,
    /// Without the length.
    frame_bytes: usize,
    /// From the length on.
    bytes: Vec<u8>,
}

#[derive(Debug)]
enum State {
    FrameStart,
    Pass { left: usize },
    Blank { header: RequestHeader, blanker: Box<Blanker> },
    Hold(Box<Held>),
}

/// The answers of one connection.
#[derive(Debug)]
pub(super) struct Answers {
    state: State,
    node_id: i32,
    connection: u64,
    brokers: Arc<Brokers>,
    capture: Arc<Capture>,
}

impl Answers {
    pub fn new(node_id: i32, connection: u64, brokers: Arc<Brokers>, capture: Arc<Capture>) -> Self {
        Self { state: State::FrameStart, node_id, connection, brokers, capture }
    }

    /// Whether the last chunk ended with a frame's end.
    pub fn is_between_frames(&self) -> bool {
        matches!(self.state, State::FrameStart)
    }

    /// Walks a chunk; what goes out is added to `out`, also before an error.
    pub fn walk(&mut self, chunk: &mut [u8], in_flight: &InFlight, out: &mut Out) -> Result<(), SessionError> {
        let mut position = 0;
        while position < chunk.len() {
            let rest = chunk.get_mut(position..).unwrap_or_default();
            match &mut self.state {
                State::Pass { left } => {
                    let taken = (*left).min(rest.len());
                    *left -= taken;
                    if *left == 0 {
                        self.state = State::FrameStart;
                    }
                    out.range(position..position + taken);
                    position += taken;
                }
                State::Blank { header, blanker } => {
                    let taken = blanker.frame_left().min(rest.len());
                    let part = rest.get_mut(..taken).unwrap_or_default();
                    blanker.walk(part).map_err(|error| malformed(*header, error))?;
                    if blanker.frame_left() == 0 {
                        self.state = State::FrameStart;
                    }
                    out.range(position..position + taken);
                    position += taken;
                }
                State::Hold(held) => {
                    let taken = (LENGTH_BYTES + held.frame_bytes).saturating_sub(held.bytes.len()).min(rest.len());
                    held.bytes.extend_from_slice(rest.get(..taken).unwrap_or_default());
                    position += taken;
                    self.try_held(out)?;
                }
                State::FrameStart => match self.start(rest, position, in_flight, out)? {
                    Some(taken) => position += taken,
                    None => break,
                },
            }
        }
        out.carry_from = position;
        Ok(())
    }

    /// Takes an answer's start; how many bytes, or `None` when there are too few.
    fn start(
        &mut self,
        rest: &mut [u8],
        position: usize,
        in_flight: &InFlight,
        out: &mut Out,
    ) -> Result<Option<usize>, SessionError> {
        let Some((prefix, body)) = rest.split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let Ok(frame_bytes) = usize::try_from(i32::from_be_bytes(*prefix)) else {
            return Err(SessionError::AnswerLength(i32::from_be_bytes(*prefix)));
        };
        if in_flight.next_is_token() {
            in_flight.pop();
            out.range(position..position + LENGTH_BYTES);
            self.pass(frame_bytes);
            return Ok(Some(LENGTH_BYTES));
        }
        if frame_bytes < ANSWER_HEADER_BYTES_MIN {
            return Err(SessionError::AnswerLength(i32::from_be_bytes(*prefix)));
        }
        let Some((correlation_id, _)) = body.split_first_chunk::<4>() else { return Ok(None) };
        let answered = i32::from_be_bytes(*correlation_id);
        let Some(Expected::Request { header, batches }) = in_flight.pop() else {
            return Err(SessionError::NotAsked { answered });
        };
        if header.correlation_id != answered {
            let api = api_name(header.api_key);
            return Err(SessionError::CorrelationId { answered, expected: header.correlation_id, api });
        }

        let whole = body.get(..frame_bytes);
        let kind = rewrite::answer(header.api_key, header.version);
        match self.plan(header, kind, &batches, frame_bytes) {
            Plan::Pass => {
                lose(&self.capture, batches, "answer_too_large");
                out.range(position..position + HEADER_BYTES);
                self.pass(frame_bytes - ANSWER_HEADER_BYTES_MIN);
                Ok(Some(HEADER_BYTES))
            }
            Plan::Blank(tail) => {
                lose(&self.capture, batches, "answer_too_large");
                out.range(position..position + LENGTH_BYTES);
                self.state = State::Blank { header, blanker: Box::new(Blanker::new(tail, frame_bytes)) };
                Ok(Some(LENGTH_BYTES))
            }
            Plan::Hold => {
                if let Some(message) = whole {
                    // The usual case: the answer lies in the chunk as a whole and goes on in place.
                    let rewritten = self.rewrite(header, message, frame_bytes)?;
                    self.offer(header, message, batches, out);
                    match rewritten {
                        Rewritten::Unchanged => out.range(position..position + LENGTH_BYTES + frame_bytes),
                        Rewritten::Head { frame, head_bytes } => {
                            out.pieces.push(Piece::Owned(frame));
                            out.range(position + LENGTH_BYTES + head_bytes..position + LENGTH_BYTES + frame_bytes);
                        }
                    }
                    return Ok(Some(LENGTH_BYTES + frame_bytes));
                }
                self.state = State::Hold(Box::new(Held { header, batches, frame_bytes, bytes: rest.to_vec() }));
                let taken = rest.len();
                self.try_held(out)?;
                Ok(Some(taken))
            }
        }
    }

    fn pass(&mut self, left: usize) {
        self.state = if left == 0 { State::FrameStart } else { State::Pass { left } };
    }

    fn plan(&self, header: RequestHeader, kind: Answer, batches: &[PendingBatch], frame_bytes: usize) -> Plan {
        let held_max = if header.api_key == PRODUCE { PRODUCE_HELD_BYTES_MAX } else { HELD_BYTES_MAX };
        match kind {
            Answer::Head | Answer::Versions => Plan::Hold,
            Answer::Tail(_) if frame_bytes <= held_max => Plan::Hold,
            Answer::Tail(tail) => Plan::Blank(tail),
            Answer::Opaque if !batches.is_empty() && frame_bytes <= held_max => Plan::Hold,
            Answer::Opaque => Plan::Pass,
        }
    }

    /// Lets a held answer go when enough of it is there.
    fn try_held(&mut self, out: &mut Out) -> Result<(), SessionError> {
        let State::Hold(mut held) = std::mem::replace(&mut self.state, State::FrameStart) else { return Ok(()) };
        let message = held.bytes.get(LENGTH_BYTES..).unwrap_or_default();
        let there = message.len();
        let complete = there >= held.frame_bytes;
        let head_only = matches!(rewrite::answer(held.header.api_key, held.header.version), Answer::Head);
        if !complete && !head_only {
            // Held answers other than heads are short; the list of versions is bounded as a head is.
            if there > HEAD_BYTES_MAX {
                return Err(malformed(held.header, ReadError::Malformed("the answer is too long to be held")));
            }
            self.state = State::Hold(held);
            return Ok(());
        }
        match self.rewrite(held.header, message, held.frame_bytes) {
            Err(Pending::Incomplete) if !complete && there <= HEAD_BYTES_MAX => {
                self.state = State::Hold(held);
                return Ok(());
            }
            Err(Pending::Incomplete) => {
                return Err(malformed(held.header, ReadError::Malformed("the addresses have no end")));
            }
            Err(Pending::Failed(error)) => return Err(error),
            Ok(rewritten) => {
                let batches = std::mem::take(&mut held.batches);
                self.offer(held.header, message, batches, out);
                self.pass(held.frame_bytes - there);
                match rewritten {
                    Rewritten::Unchanged => out.pieces.push(Piece::Owned(held.bytes)),
                    Rewritten::Head { mut frame, head_bytes } => {
                        frame.extend_from_slice(message.get(head_bytes..).unwrap_or_default());
                        out.pieces.push(Piece::Owned(frame));
                    }
                }
            }
        }
        Ok(())
    }

    /// Rewrites as much of an answer as is there.
    fn rewrite(&self, header: RequestHeader, message: &[u8], frame_bytes: usize) -> Result<Rewritten, Pending> {
        let failed = |error| Pending::from(header, error);
        match rewrite::answer(header.api_key, header.version) {
            Answer::Opaque => Ok(Rewritten::Unchanged),
            Answer::Versions => Ok(match rewrite::cap_versions(header.version, message).map_err(failed)? {
                Some(frame) => Rewritten::Head { frame, head_bytes: frame_bytes },
                None => Rewritten::Unchanged,
            }),
            Answer::Head | Answer::Tail(_) => {
                let head = rewrite::find(header.api_key, header.version, message).map_err(failed)?;
                if head.spots.is_empty() {
                    return Ok(Rewritten::Unchanged);
                }
                let frame = splice(message, &head, frame_bytes, &*self.brokers).map_err(failed)?;
                Ok(Rewritten::Head { frame, head_bytes: head.head_bytes })
            }
        }
    }

    /// Gives the batches of a Produce request their offsets.
    fn offer(&self, header: RequestHeader, message: &[u8], batches: Vec<PendingBatch>, out: &mut Out) {
        if batches.is_empty() {
            return;
        }
        let mut waiting: Vec<_> = batches.into_iter().map(Some).collect();
        let mut guess = 0;
        let read = produce_answer::read(header.version, message, |topic, appended| {
            let is_it = |slot: &Option<PendingBatch>| {
                slot.as_ref().is_some_and(|batch| batch.partition == appended.partition && same(&batch.topic, topic))
            };
            // Mostly answered in the order of the request.
            let index = match waiting.get(guess) {
                Some(slot) if is_it(slot) => Some(guess),
                _ => waiting.iter().position(is_it),
            };
            let Some(index) = index else { return };
            guess = index + 1;
            let Some(batch) = waiting.get_mut(index).and_then(Option::take) else { return };
            match refusal(appended) {
                Some(reason) => self.capture.dropped(reason, batch.bytes),
                None => out.produced.push(Produced {
                    topic: batch.topic,
                    partition: batch.partition,
                    base_offset: appended.base_offset,
                    node_id: self.node_id,
                    connection: self.connection,
                    segments: batch.segments,
                }),
            }
        });
        let reason = if read.is_ok() { "unanswered" } else { "answer_malformed" };
        lose(&self.capture, waiting.into_iter().flatten(), reason);
    }
}

/// Why an answered batch is not captured.
fn refusal(appended: Appended) -> Option<&'static str> {
    if appended.error_code != 0 {
        Some("produce_error")
    } else if appended.log_append_time_ms != -1 {
        Some("log_append_time")
    } else if appended.base_offset < 0 {
        Some("no_offset")
    } else {
        None
    }
}

fn same(asked: &TopicRef, answered: Topic<'_>) -> bool {
    match (asked, answered) {
        (TopicRef::Name(asked), Topic::Name(answered)) => asked.as_bytes() == answered,
        (TopicRef::Id(asked), Topic::Id(answered)) => *asked.as_bytes() == answered,
        _ => false,
    }
}

fn lose(capture: &Capture, batches: impl IntoIterator<Item = PendingBatch>, reason: &'static str) {
    for batch in batches {
        capture.dropped(reason, batch.bytes);
    }
}

fn malformed(header: RequestHeader, source: ReadError) -> SessionError {
    SessionError::Answer { api: api_name(header.api_key), version: header.version, source }
}

enum Plan {
    Pass,
    Blank(Tail),
    Hold,
}

enum Rewritten {
    Unchanged,
    /// `frame` takes the place of the length and of the first `head_bytes` behind it.
    Head {
        frame: Vec<u8>,
        head_bytes: usize,
    },
}

enum Pending {
    Incomplete,
    Failed(SessionError),
}

impl Pending {
    fn from(header: RequestHeader, error: ReadError) -> Self {
        match error {
            ReadError::Incomplete => Pending::Incomplete,
            malformed_error => Pending::Failed(malformed(header, malformed_error)),
        }
    }
}

impl From<Pending> for SessionError {
    /// A complete answer that wants more bytes.
    fn from(pending: Pending) -> Self {
        match pending {
            Pending::Failed(error) => error,
            Pending::Incomplete => SessionError::AnswerTooShort,
        }
    }
}
