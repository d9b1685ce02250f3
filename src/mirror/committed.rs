//! Which batches of the local log a stream sends: those of committed records that were born here.

use super::identity::is_reserved;
use crate::wire::batch::BatchHeader;

/// What a read_committed Fetch leaves to its reader: the aborted transactions in what it gave (producer id, first offset).
#[derive(Clone, Debug, Default)]
pub struct Aborted(Vec<(i64, i64)>);

impl Aborted {
    /// The aborted transactions that a Fetch answer names.
    pub fn new(transactions: Vec<(i64, i64)>) -> Self {
        Self(transactions)
    }

    /// Whether a stream passes over the batch. The batches of one Fetch must be asked for in order, each once.
    pub fn passes_over(&mut self, header: &BatchHeader) -> bool {
        let of = self.0.iter().position(|(id, first)| *id == header.producer_id && *first <= header.base_offset);
        if header.is_control() {
            // The first marker of a producer behind its aborted transaction's first offset is the one that aborts it.
            if let Some(at) = of {
                self.0.swap_remove(at);
            }
            return true;
        }
        header.is_transactional() && of.is_some() || holds_nothing_of_ours(header)
    }
}

/// Whether a batch is empty, or was born in another cluster.
pub fn holds_nothing_of_ours(header: &BatchHeader) -> bool {
    header.record_count == 0 || is_reserved(header.producer_id)
}
