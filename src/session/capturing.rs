//! Keeps the record batches of one connection's Produce requests until their answers come.
//!
//! While a chunk is walked, it is only noted what of it is to be kept. Once the chunk has been forwarded, its memory is shared (when it
//! is mostly records) or the records are copied (when it is not, so that a small batch does not pin a large chunk).

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use super::in_flight::{InFlight, PendingBatch};
use crate::capture::{Capture, Charge, Segments, TopicRef};
use crate::net::buffers::Chunk;
use crate::wire::produce::{Topic, Visitor};

/// Acks of all in-sync replicas: the only ones that are captured.
const ACKS_ALL: i16 = -1;

#[derive(Debug)]
enum Noted {
    Open { topic: TopicRef, partition: i32, bytes: usize },
    Range(Range<usize>),
    Close,
    FrameEnd { number: u64 },
    FrameLost,
}

#[derive(Debug)]
struct OpenBatch {
    batch: PendingBatch,
    lost: bool,
}

/// The capture of one connection.
#[derive(Debug)]
pub(super) struct Capturing {
    capture: Arc<Capture>,
    enabled: bool,
    acks: Option<i16>,
    /// The last topic, kept from request to request: most connections write to few.
    topic: Option<TopicRef>,
    topic_wanted: bool,
    keeping: bool,
    frame_keeps: bool,
    noted: Vec<Noted>,
    noted_bytes: usize,
    open: Option<OpenBatch>,
    batches: Vec<PendingBatch>,
}

struct Shared {
    chunk: Chunk,
    _charge: Charge,
}

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.chunk
    }
}

struct Copied {
    bytes: Box<[u8]>,
    _charge: Charge,
}

impl AsRef<[u8]> for Copied {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Capturing {
    /// `enabled` is false for connections whose broker is not known by its node id.
    pub fn new(capture: Arc<Capture>, enabled: bool) -> Self {
        Self {
            capture,
            enabled,
            acks: None,
            topic: None,
            topic_wanted: false,
            keeping: false,
            frame_keeps: false,
            noted: Vec::new(),
            noted_bytes: 0,
            open: None,
            batches: Vec::new(),
        }
    }

    /// A Produce request begins.
    pub fn frame_start(&mut self) {
        self.acks = None;
        self.topic_wanted = false;
        self.keeping = false;
        self.frame_keeps = false;
    }

    /// The acks of the request, once they are known.
    pub fn acks(&self) -> Option<i16> {
        self.acks
    }

    /// The request ends; `number` is its place in the queue, if it waits for an answer and was understood.
    pub fn frame_end(&mut self, number: Option<u64>) {
        if self.frame_keeps {
            self.noted.push(number.map_or(Noted::FrameLost, |number| Noted::FrameEnd { number }));
        }
    }

    /// The chunk has been forwarded: keeps what was noted of it, and the chunk with it when that is cheaper than a copy.
    pub fn keep(&mut self, chunk: Chunk, in_flight: &InFlight) {
        if self.noted.is_empty() {
            return;
        }
        if self.noted_bytes * 2 < chunk.len() {
            self.keep_copies(&chunk, in_flight);
            return;
        }
        let shared = self
            .capture
            .budget()
            .charge(chunk.len())
            .map(|charge| Bytes::from_owner(Shared { chunk, _charge: charge }));
        self.keep_noted(in_flight, |_, range| {
            shared.as_ref().filter(|shared| range.end <= shared.len()).map(|shared| shared.slice(range))
        });
    }

    /// A part of the chunk has been forwarded and the rest has to wait: keeps copies of what was noted so far.
    pub fn keep_copies(&mut self, chunk: &[u8], in_flight: &InFlight) {
        self.keep_noted(in_flight, |capture, range| {
            let bytes = chunk.get(range)?;
            let charge = capture.budget().charge(bytes.len())?;
            Some(Bytes::from_owner(Copied { bytes: bytes.into(), _charge: charge }))
        });
    }

    fn keep_noted(&mut self, in_flight: &InFlight, mut keep: impl FnMut(&Capture, Range<usize>) -> Option<Bytes>) {
        self.noted_bytes = 0;
        for noted in self.noted.drain(..) {
            match noted {
                Noted::Open { topic, partition, bytes } => {
                    let batch = PendingBatch { topic, partition, bytes, segments: Segments::new() };
                    self.open = Some(OpenBatch { batch, lost: false });
                }
                Noted::Range(range) => {
                    if let Some(open) = self.open.as_mut().filter(|open| !open.lost) {
                        match keep(&self.capture, range) {
                            Some(segment) => open.batch.segments.push(segment),
                            None => {
                                open.lost = true;
                                open.batch.segments.clear();
                                self.capture.dropped("budget", open.batch.bytes);
                            }
                        }
                    }
                }
                Noted::Close => {
                    if let Some(open) = self.open.take().filter(|open| !open.lost) {
                        self.batches.push(open.batch);
                    }
                }
                Noted::FrameEnd { number } => {
                    if !self.batches.is_empty() {
                        in_flight.attach(number, std::mem::take(&mut self.batches));
                    }
                }
                Noted::FrameLost => {
                    let open = self.open.take().filter(|open| !open.lost).map(|open| open.batch);
                    for batch in self.batches.drain(..).chain(open) {
                        self.capture.dropped("malformed", batch.bytes);
                    }
                }
            }
        }
    }
}

impl Visitor for Capturing {
    fn acks(&mut self, acks: i16, transactional: bool) -> bool {
        self.acks = Some(acks);
        self.enabled && acks == ACKS_ALL && !transactional
    }

    fn topic(&mut self, topic: Topic<'_>) {
        let same = match (&self.topic, topic) {
            (Some(TopicRef::Name(known)), Topic::Name(name)) => known.as_bytes() == name,
            (Some(TopicRef::Id(known)), Topic::Id(id)) => *known.as_bytes() == id,
            _ => false,
        };
        if !same {
            self.topic = match topic {
                Topic::Name(name) => std::str::from_utf8(name).ok().map(|name| TopicRef::Name(name.to_owned())),
                Topic::Id(id) => Some(TopicRef::Id(Uuid::from_bytes(id))),
            };
        }
        self.topic_wanted = self.topic.as_ref().is_some_and(|topic| self.capture.wants(topic));
    }

    fn records(&mut self, partition: i32, bytes: usize) {
        self.keeping = false;
        if let Some(topic) = self.topic.as_ref().filter(|_| self.topic_wanted && bytes > 0) {
            self.noted.push(Noted::Open { topic: topic.clone(), partition, bytes });
            self.keeping = true;
            self.frame_keeps = true;
        }
    }

    fn range(&mut self, range: Range<usize>) {
        if self.keeping {
            self.noted_bytes += range.len();
            self.noted.push(Noted::Range(range));
        }
    }

    fn records_end(&mut self) {
        if std::mem::take(&mut self.keeping) {
            self.noted.push(Noted::Close);
        }
    }
}

#[cfg(test)]
#[path = "budget_tests.rs"]
mod budget;
