//! The requests of one connection that wait for their answers, in order.
//!
//! # When full
//! The client is not read any more until an answer has gone out. Nothing is refused.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use tokio::sync::Notify;

use super::clients::ClientFacts;
use super::limits::Limit;
use super::watch::Activity;
use crate::capture::{Segments, TopicRef};
use crate::wire::header::RequestHeader;

/// A record batch that was forwarded and waits for its offset.
#[derive(Debug)]
pub(super) struct PendingBatch {
    pub topic: TopicRef,
    pub partition: i32,
    pub bytes: usize,
    pub segments: Segments,
}

/// What the next answer is an answer to.
#[derive(Debug)]
pub(super) enum Expected {
    /// A request. `version` is the one that the answer is written in.
    Request { header: RequestHeader, batches: Vec<PendingBatch> },
    /// A raw SASL token; its answer has no header.
    Token,
}

#[derive(Debug, Default)]
struct Queue {
    expected: VecDeque<Expected>,
    popped: u64,
}

/// The queue, shared by the two directions of one session. Both run in one task, so the lock is never contended.
#[derive(Debug)]
pub(super) struct InFlight {
    requests_max: usize,
    queue: Mutex<Queue>,
    /// Wakes the requests' side, which waits for room.
    pub wake: Notify,
    /// Wakes the answers' side, which has to look whether all is answered.
    pub drain_asked: Notify,
    draining: AtomicBool,
    /// When bytes moved, for the limits of time.
    pub activity: Activity,
    /// Who the client is, and how much it moves.
    pub client: ClientFacts,
    over: OnceLock<Limit>,
}

impl InFlight {
    /// An empty queue for `requests_max` requests. Clients have 5 to some hundred; a broker takes them one at a time.
    pub fn new(requests_max: usize, activity: Activity) -> Self {
        Self {
            requests_max,
            queue: Mutex::default(),
            wake: Notify::new(),
            drain_asked: Notify::new(),
            draining: AtomicBool::new(false),
            activity,
            client: ClientFacts::default(),
            over: OnceLock::new(),
        }
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a request that is about to be forwarded; returns its number.
    pub fn push(&self, expected: Expected) -> u64 {
        let mut queue = self.queue();
        queue.expected.push_back(expected);
        queue.popped + queue.expected.len() as u64 - 1
    }

    /// Gives a request its batches. They are lost when it has been answered already, which is allowed.
    pub fn attach(&self, number: u64, kept: Vec<PendingBatch>) {
        let mut queue = self.queue();
        let index = number.checked_sub(queue.popped).and_then(|index| usize::try_from(index).ok());
        if let Some(Expected::Request { batches, .. }) = index.and_then(|index| queue.expected.get_mut(index)) {
            *batches = kept;
        }
    }

    /// The oldest request.
    pub fn pop(&self) -> Option<Expected> {
        let mut queue = self.queue();
        let was_full = queue.expected.len() >= self.requests_max;
        let expected = queue.expected.pop_front();
        queue.popped += u64::from(expected.is_some());
        drop(queue);
        if was_full {
            self.wake.notify_one();
        }
        expected
    }

    /// Whether the next answer is one to a raw token.
    pub fn next_is_token(&self) -> bool {
        matches!(self.queue().expected.front(), Some(Expected::Token))
    }

    /// Whether there is no room.
    pub fn is_full(&self) -> bool {
        self.queue().expected.len() >= self.requests_max
    }

    /// Whether all is answered.
    pub fn is_empty(&self) -> bool {
        self.queue().expected.is_empty()
    }

    /// No further request will come; the session ends with the last answer.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.drain_asked.notify_one();
    }

    /// Whether [`InFlight::drain`] was called.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// The session is being ended because of this limit.
    pub fn set_over(&self, limit: Limit) {
        // The first reason stays.
        let _ = self.over.set(limit);
    }

    /// The limit that has ended the session.
    pub fn over(&self) -> Option<Limit> {
        self.over.get().copied()
    }
}
