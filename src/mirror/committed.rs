//! Which batches of the local log a stream sends: those of committed records, of one origin.

use super::identity::is_reserved;
use crate::wire::batch::BatchHeader;

/// Where the records are born that a stream sends. Each stream sends those of one origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In the local cluster.
    Here,
    /// In another cluster: in the local log they bear this reserved producer id.
    Elsewhere(i64),
    /// Nowhere: nothing is sent. The log is only read to find which other origins there are.
    Nowhere,
}

impl Origin {
    /// Whether the batch has records, and all of this origin: a batch has one producer.
    pub fn has(self, header: &BatchHeader) -> bool {
        header.record_count > 0
            && match self {
                Origin::Here => !is_reserved(header.producer_id),
                Origin::Elsewhere(producer_id) => header.producer_id == producer_id,
                Origin::Nowhere => false,
            }
    }
}

/// What a read_committed Fetch leaves to its reader: the aborted transactions in what it gave (producer id, first offset).
#[derive(Clone, Debug, Default)]
pub struct Aborted(Vec<(i64, i64)>);

impl Aborted {
    /// The aborted transactions that a Fetch answer names.
    pub fn new(transactions: Vec<(i64, i64)>) -> Self {
        Self(transactions)
    }

    /// Whether the batch holds no committed records. The batches of one Fetch must be asked for in order, each once.
    pub fn passes_over(&mut self, header: &BatchHeader) -> bool {
        let of = self.0.iter().position(|(id, first)| *id == header.producer_id && *first <= header.base_offset);
        if header.is_control() {
            // The first marker of a producer behind its aborted transaction's first offset is the one that aborts it.
            if let Some(at) = of {
                self.0.swap_remove(at);
            }
            return true;
        }
        header.is_transactional() && of.is_some()
    }
}
