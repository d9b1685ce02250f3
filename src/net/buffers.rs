//! Read buffers, shared by many connections.
//!
//! A connection holds a buffer only between a read and the write that follows, so idle connections hold none.
//!
//! # When full
//! Buffers that come back to a full pool are freed; a pool that is empty makes new ones. Their number is bounded by the reads under
//! way and by the capture budget.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// One read: large enough that a system call costs little per byte, small enough to stay in the processor's cache.
pub(crate) const CHUNK_BYTES: usize = 64 * 1024;

/// Idle buffers kept: 8 MiB.
const IDLE_MAX: usize = 128;

/// Buffers of [`CHUNK_BYTES`] that nobody uses.
#[derive(Debug, Default)]
pub(crate) struct BufferPool {
    idle: Mutex<Vec<Vec<u8>>>,
}

impl BufferPool {
    /// A buffer; its content is whatever was read into it before.
    pub fn take(self: &Arc<Self>) -> Chunk {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Chunk { bytes: idle.unwrap_or_else(|| vec![0; CHUNK_BYTES]), pool: Arc::clone(self) }
    }
}

/// A buffer, given back when dropped.
#[derive(Debug)]
pub(crate) struct Chunk {
    bytes: Vec<u8>,
    pool: Arc<BufferPool>,
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Chunk {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let mut idle = self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push(std::mem::take(&mut self.bytes));
        }
    }
}
