//! A region's inbox for captured batches. Sessions put in and never wait; the region takes all at once.
//!
//! # When full
//! The batch is not taken, and counted as dropped for this region: the stream reads it from the log.

use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::batch::Batch;

/// Captured batches that wait for the region's task. It is there within microseconds, so only a standstill fills this.
pub const INBOX_BATCHES_MAX: usize = 16 * 1024;

/// A captured batch with its place.
#[derive(Clone, Debug)]
pub struct Captured {
    /// The topic's name in the local cluster.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The broker that acknowledged it.
    pub node_id: i32,
    /// The session's connection to that broker.
    pub connection: u64,
    /// The batch.
    pub batch: Batch,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Inbox {
    batches: Mutex<Vec<Captured>>,
    filled: Notify,
}

impl Inbox {
    /// Puts a batch in; `false` when full.
    pub fn put(&self, captured: Captured) -> bool {
        let mut batches = self.batches.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if batches.len() >= INBOX_BATCHES_MAX {
            return false;
        }
        let was_empty = batches.is_empty();
        batches.push(captured);
        drop(batches);
        if was_empty {
            self.filled.notify_one();
        }
        true
    }

    /// Waits until there is something. Cancellation safe.
    pub async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Takes everything, leaving `empty` (a vector to be used again) in its place.
    pub fn take(&self, empty: &mut Vec<Captured>) {
        std::mem::swap(&mut *self.batches.lock().unwrap_or_else(std::sync::PoisonError::into_inner), empty);
    }

    /// Looks at what waits.
    #[cfg(test)]
    pub(crate) fn look<T>(&self, look: impl Fn(&Batch) -> T) -> Vec<T> {
        let batches = self.batches.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        batches.iter().map(|captured| look(&captured.batch)).collect()
    }
}
