//! What a client sends: found frame by frame in each chunk, never copied, never delayed.
//!
//! Nothing here does I/O. A chunk is forwarded as it is, but for two things: the start of a request header that is not complete yet
//! waits for its rest (at most [`HEADER_BYTES`]), and an ApiVersions request that is newer than we can read has its version number
//! changed.

use crate::wire::frame::{self, BadInput, LENGTH_BYTES, REQUEST_HEADER_BYTES_MIN};
use crate::wire::header::{RequestHeader, can_be_request};
use crate::wire::produce::RequestWalk;
use crate::wire::versions::{self, API_VERSIONS, PRODUCE, SASL_HANDSHAKE, VERSION_TOO_NEW};

use super::capturing::Capturing;
use super::in_flight::{Expected, InFlight};
use super::metrics::SessionMetrics;

/// Length, api key, version, correlation id: what must be known of a request before its first byte is forwarded.
const HEADER_BYTES: usize = LENGTH_BYTES + REQUEST_HEADER_BYTES_MIN;

/// While a frame may be a raw token, this much of it tells (two more bytes: the client id's length).
const TOKEN_OR_HEADER_BYTES: usize = HEADER_BYTES + 2;

#[derive(Debug)]
enum State {
    FrameStart,
    Pass { left: usize },
    Produce { left: usize, header: RequestHeader, understood: bool },
}

/// How far a chunk was walked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Walked {
    /// The chunk can be forwarded up to here.
    pub end: usize,
    /// Why not further, if not for an incomplete header.
    pub stop: Option<Stop>,
}

/// Why a chunk can't be walked to its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The queue is full.
    Full,
    /// The connection is to be closed.
    Bad(BadInput),
}

/// The requests of one connection.
#[derive(Debug)]
pub(super) struct Requests {
    frame_bytes_max: usize,
    state: State,
    first: bool,
    /// After SaslHandshake v0: frames may be raw tokens, until the first that looks like a request (see [`can_be_request`]).
    tokens: bool,
    /// Of the Produce request under way; here so that none is allocated.
    walk: RequestWalk,
    pub capturing: Capturing,
}

impl Requests {
    pub fn new(frame_bytes_max: usize, capturing: Capturing) -> Self {
        let walk = RequestWalk::new(0);
        Self { frame_bytes_max, state: State::FrameStart, first: true, tokens: false, walk, capturing }
    }

    /// Whether the last chunk ended with a frame's end.
    pub fn is_between_frames(&self) -> bool {
        matches!(self.state, State::FrameStart)
    }

    /// Walks `chunk` from `start` on. Requests whose answers are to be waited for are in the queue when it returns.
    pub fn walk(&mut self, chunk: &mut [u8], start: usize, in_flight: &InFlight, metrics: &SessionMetrics) -> Walked {
        let mut position = start;
        while position < chunk.len() {
            match &mut self.state {
                State::Pass { left } => {
                    let taken = (*left).min(chunk.len() - position);
                    position += taken;
                    *left -= taken;
                    if *left == 0 {
                        self.state = State::FrameStart;
                    }
                }
                State::Produce { left, understood, .. } => {
                    let taken = (*left).min(chunk.len() - position);
                    if *understood {
                        *understood = self.walk.walk(chunk, position..position + taken, &mut self.capturing).is_ok();
                    }
                    position += taken;
                    *left -= taken;
                    if *left == 0 {
                        self.end_produce(in_flight);
                    }
                }
                State::FrameStart => match self.start(chunk, position, in_flight, metrics) {
                    Ok(Some(taken)) => position += taken,
                    Ok(None) => break,
                    Err(stop) => return Walked { end: position, stop: Some(stop) },
                },
            }
        }
        Walked { end: position, stop: None }
    }

    /// Takes a frame's start; how many bytes of it, or `None` when there are too few.
    fn start(
        &mut self,
        chunk: &mut [u8],
        position: usize,
        in_flight: &InFlight,
        metrics: &SessionMetrics,
    ) -> Result<Option<usize>, Stop> {
        let rest = chunk.get_mut(position..).unwrap_or_default();
        let Some((prefix, body)) = rest.split_first_chunk_mut::<LENGTH_BYTES>() else { return Ok(None) };
        let bytes_min = if self.tokens { 0 } else { REQUEST_HEADER_BYTES_MIN };
        let frame_bytes =
            frame::request_length(*prefix, self.first, bytes_min, self.frame_bytes_max).map_err(Stop::Bad)?;
        if self.tokens {
            if body.len() < frame_bytes.min(TOKEN_OR_HEADER_BYTES - LENGTH_BYTES) {
                return Ok(None);
            }
            if !can_be_request(body, frame_bytes) {
                if in_flight.is_full() {
                    return Err(Stop::Full);
                }
                in_flight.push(Expected::Token);
                self.pass(frame_bytes);
                return Ok(Some(LENGTH_BYTES));
            }
        }
        let Ok(mut header) = RequestHeader::read(body) else { return Ok(None) };
        if in_flight.is_full() {
            return Err(Stop::Full);
        }
        if let Some(inspected) = versions::inspected(header.api_key)
            && !(0..=inspected.version_max).contains(&header.version)
        {
            if header.api_key != API_VERSIONS {
                return Err(Stop::Bad(BadInput::UnsupportedVersion));
            }
            // KIP-511: a broker answers a version that it does not have with the body of version 0, which tells the client which it may ask
            // for. So ours asks for one that no broker has.
            if let Some(version) = body.get_mut(2..4) {
                version.copy_from_slice(&VERSION_TOO_NEW.to_be_bytes());
            }
            header.version = 0;
        }
        self.first = false;
        self.tokens = header.api_key == SASL_HANDSHAKE && header.version == 0;
        metrics.request(header.api_key);
        in_flight.client.request(header, body, frame_bytes);
        let left = frame_bytes - REQUEST_HEADER_BYTES_MIN;
        if header.api_key == PRODUCE {
            self.capturing.frame_start();
            self.walk = RequestWalk::new(header.version);
            self.state = State::Produce { left, header, understood: true };
            if left == 0 {
                self.end_produce(in_flight);
            }
        } else {
            in_flight.push(Expected::Request { header, batches: Vec::new() });
            self.pass(left);
        }
        Ok(Some(HEADER_BYTES))
    }

    fn pass(&mut self, left: usize) {
        self.state = if left == 0 { State::FrameStart } else { State::Pass { left } };
    }

    /// A Produce request is complete. It waits for an answer unless its acks are 0; one that makes no sense is answered by the end of
    /// the connection.
    fn end_produce(&mut self, in_flight: &InFlight) {
        if let State::Produce { header, understood, .. } = std::mem::replace(&mut self.state, State::FrameStart) {
            let number = (self.capturing.acks() != Some(0))
                .then(|| in_flight.push(Expected::Request { header, batches: Vec::new() }));
            self.capturing.frame_end(number.filter(|_| understood && self.walk.is_done()));
        }
    }
}
