//! What a partition's leader remembers of producers, and how it checks their sequences (Kafka's `ProducerStateManager` and
//! `ProducerAppendInfo`, KIP-98).

use std::collections::{BTreeMap, VecDeque};

use super::batch::{Batch, sequence_after};

/// A broker remembers so many batches of a producer.
const BATCHES_KEPT: usize = 5;

/// What is kept of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The sequence of its first record.
    pub first_sequence: i32,
    /// The sequence of its last record.
    pub last_sequence: i32,
    /// Where it is.
    pub base_offset: i64,
    /// The offset of its last record.
    pub last_offset: i64,
    /// Its latest timestamp.
    pub timestamp: i64,
}

/// The state of one producer.
#[derive(Clone, Debug)]
pub struct Producer {
    /// Its epoch.
    pub epoch: i16,
    /// Its last batches.
    pub batches: VecDeque<Kept>,
    /// The timestamp of its last batch.
    pub last_timestamp: i64,
    /// Where its open transaction began.
    pub transaction: Option<i64>,
}

impl Producer {
    /// What is known of it by who has the log up to `end`; `None` where that is nothing.
    pub fn before(&self, end: i64) -> Option<Self> {
        let mut state = self.clone();
        state.batches.retain(|kept| kept.last_offset < end);
        state.transaction = state.transaction.filter(|first| *first < end);
        (!state.batches.is_empty() || self.batches.is_empty()).then_some(state)
    }
}

/// The states of a partition's producers.
#[derive(Clone, Debug, Default)]
pub struct Producers(BTreeMap<i64, Producer>);

/// What a check says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Append it.
    New,
    /// It is there already.
    Duplicate(Kept),
    /// Kafka's error code.
    Refused(i16),
}

impl Producers {
    /// Checks a batch that a client sent.
    pub fn check(&self, batch: &Batch) -> Verdict {
        if batch.producer_id < 0 {
            return Verdict::New;
        }
        let Some(state) = self.0.get(&batch.producer_id) else { return Verdict::New };
        let same = state.batches.iter().find(|kept| {
            state.epoch == batch.producer_epoch
                && (kept.first_sequence, kept.last_sequence) == (batch.base_sequence, batch.last_sequence())
        });
        if let Some(kept) = same {
            return Verdict::Duplicate(*kept);
        }
        if batch.producer_epoch < state.epoch {
            return Verdict::Refused(47);
        }
        let expected = match state.batches.back() {
            _ if batch.producer_epoch > state.epoch => 0,
            None => return Verdict::New,
            Some(kept) => sequence_after(kept.last_sequence, 1),
        };
        if batch.base_sequence == expected { Verdict::New } else { Verdict::Refused(45) }
    }

    /// Notes an appended batch, also a control batch. Returns the first offset of the transaction that it ends.
    pub fn note(&mut self, batch: &Batch) -> Option<i64> {
        if batch.producer_id < 0 {
            return None;
        }
        let state = self.0.entry(batch.producer_id).or_insert_with(|| Producer {
            epoch: batch.producer_epoch,
            batches: VecDeque::new(),
            last_timestamp: batch.max_timestamp,
            transaction: None,
        });
        if batch.producer_epoch > state.epoch {
            state.batches.clear();
        }
        state.epoch = batch.producer_epoch;
        state.last_timestamp = batch.max_timestamp;
        if batch.is_control() {
            return state.transaction.take();
        }
        state.batches.push_back(Kept {
            first_sequence: batch.base_sequence,
            last_sequence: batch.last_sequence(),
            base_offset: batch.base_offset,
            last_offset: batch.last_offset,
            timestamp: batch.max_timestamp,
        });
        if state.batches.len() > BATCHES_KEPT {
            state.batches.pop_front();
        }
        if batch.is_transactional() {
            state.transaction.get_or_insert(batch.base_offset);
        }
        None
    }

    /// The first offset of the oldest open transaction.
    pub fn first_open(&self) -> Option<i64> {
        self.0.values().filter_map(|state| state.transaction).min()
    }

    /// Forgets those without an open transaction whose last record is older than `before`.
    pub fn expire(&mut self, before: i64) {
        self.0.retain(|_, state| state.transaction.is_some() || state.last_timestamp >= before);
    }

    /// All of them by producer id.
    pub fn all(&self) -> impl Iterator<Item = (i64, &Producer)> {
        self.0.iter().map(|(id, state)| (*id, state))
    }
}
