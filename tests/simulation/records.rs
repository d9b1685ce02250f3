//! Records that can be told apart: each holds a number that no other has.

use bytes::Bytes;
use diffluent_testbed::records::{self, record};
use kafka_protocol::records::Record;

/// Who writes a batch.
#[derive(Clone, Copy, Debug)]
pub struct Writer {
    /// -1 for none.
    pub producer_id: i64,
    /// -1 for none.
    pub producer_epoch: i16,
    /// -1 for none.
    pub base_sequence: i32,
    /// Whether it is part of a transaction.
    pub transactional: bool,
}

impl Writer {
    /// A producer without idempotence.
    pub const PLAIN: Self = Self { producer_id: -1, producer_epoch: -1, base_sequence: -1, transactional: false };
}

/// A batch of records with these numbers.
pub fn batch(numbers: &[u64], timestamp: i64, writer: Writer) -> Bytes {
    let records: Vec<Record> = (0..)
        .zip(numbers)
        .map(|(at, number)| Record {
            transactional: writer.transactional,
            producer_id: writer.producer_id,
            producer_epoch: writer.producer_epoch,
            sequence: writer.base_sequence.wrapping_add(at),
            ..record(i64::from(at), timestamp, Bytes::copy_from_slice(&number.to_be_bytes()))
        })
        .collect();
    records::batch(&records).expect("plain records can be encoded")
}

/// Where a batch's records begin.
const RECORDS_AT: usize = 61;

/// The numbers in a batch. Each of these records ends with its number and no header, a byte; a decoder that knows all records would be most of a run's work.
pub fn numbers(batch: &Bytes) -> Vec<u64> {
    let mut numbers = Vec::new();
    let mut at = RECORDS_AT;
    while at < batch.len() {
        let (mut zigzag, mut shift) = (0_usize, 0);
        loop {
            let byte = batch[at];
            at += 1;
            zigzag |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                break;
            }
        }
        at += zigzag / 2;
        // Without a key, with a value of eight bytes, without headers: as `batch` makes them.
        let [1, 16, value @ .., 0] = &batch[at - 11..at] else { panic!("not one of ours: {batch:?}") };
        numbers.push(u64::from_be_bytes(value.try_into().expect("eight bytes")));
    }
    numbers
}
