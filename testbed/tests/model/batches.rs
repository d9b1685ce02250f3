//! Record batches: made for a script, and described for a comparison.

use bytes::{Bytes, BytesMut};
use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::records::{Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType};

/// Under which identity a batch is written.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub transactional: bool,
}

impl Identity {
    pub const NONE: Self = Self { producer_id: -1, producer_epoch: -1, base_sequence: -1, transactional: false };
}

/// A batch of `count` records, whose timestamps count up from `timestamp`.
pub fn batch(identity: Identity, count: i32, timestamp: i64) -> Bytes {
    let records: Vec<Record> = (0..count)
        .map(|delta| Record {
            transactional: identity.transactional,
            control: false,
            partition_leader_epoch: -1,
            producer_id: identity.producer_id,
            producer_epoch: identity.producer_epoch,
            timestamp_type: TimestampType::Creation,
            offset: i64::from(delta),
            // What keeps the encoder from beginning a second batch, where sequences wrap or there are none.
            sequence: identity.base_sequence.wrapping_add(delta),
            timestamp: timestamp + i64::from(delta),
            key: Some(Bytes::from(format!("key-{delta}"))),
            value: Some(Bytes::from(format!("value of {timestamp}"))),
            headers: IndexMap::new(),
            delete_horizon: false,
        })
        .collect();
    let mut bytes = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    RecordBatchEncoder::encode(&mut bytes, &records, &options).expect("records that can be encoded");
    bytes.freeze()
}

/// Writes the checksum that fits.
pub fn seal(mut bytes: Vec<u8>) -> Bytes {
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    Bytes::from(bytes)
}

/// What a log holds, a line per batch. A transaction's end bears the clock of its cluster, so of that only the rest is told.
pub fn describe(mut records: &[u8]) -> Vec<String> {
    let mut told = Vec::new();
    while records.len() >= 61 {
        let int = |at: usize| i32::from_be_bytes(records[at..at + 4].try_into().expect("four bytes"));
        let long = |at: usize| i64::from_be_bytes(records[at..at + 8].try_into().expect("eight bytes"));
        let short = |at: usize| i16::from_be_bytes(records[at..at + 2].try_into().expect("two bytes"));
        let length = 12 + usize::try_from(int(8)).expect("a length");
        if records.len() < length {
            // The last batch of an answer may be cut.
            break;
        }
        let attributes = short(21);
        let control = attributes & 0x20 != 0;
        let content = if control {
            format!("ends with {}", if records[61 + 8] == 1 { "commit" } else { "abort" })
        } else {
            format!("crc {:08x} timestamps {} {}", int(17), long(27), long(35))
        };
        told.push(format!(
            "offset {} + {} leader epoch {} attributes {attributes:#x} producer {} epoch {} sequence {} records {} {content}",
            long(0),
            int(23),
            int(12),
            long(43),
            short(51),
            int(53),
            int(57)
        ));
        records = &records[length..];
    }
    told
}
