//! Renumbering: a batch that compaction has made holes into is refused by brokers, so its records get offsets without gaps.
//!
//! Each record is `length varint · attributes i8 · timestamp delta varlong · offset delta varint · key, value, headers`. Only the offset delta (and
//! with it the length) is written anew; every other byte stays, and the batch keeps its codec.
//!
//! # References
//! KIP-98 (message format v2).

use bytes::{BufMut, Bytes};

use super::batch::{BatchHeader, HEADER_LEN, LENGTH_PREFIX_LEN};
use super::codec::{CodecError, compress, decompress};
use super::cursor::{Cursor, ReadError, put_uvarint, uvarint_bytes};
use super::records::RECORDS_BYTES_MAX;

/// Why a batch can't be renumbered.
#[derive(Debug, thiserror::Error)]
pub enum RenumberError {
    /// Its codec.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// Its records.
    #[error("its records can't be read: {0}")]
    Records(#[from] ReadError),
    /// The header counts other records than there are.
    #[error("its header counts {expected} records, and there are {found}")]
    Count {
        /// What the header says.
        expected: i32,
        /// Records found before the bytes, or the count, came to an end.
        found: i32,
    },
    /// The whole would be longer than a batch can be.
    #[error("it would be longer than a batch can be")]
    TooLong,
}

/// The batch of `header` and `records` (what is behind the header, as it came) with offset deltas 0, 1, 2 and so on: the header and the records to send. The base
/// offset stays.
///
/// # Errors
/// [`RenumberError`]: the batch is not what its header says, or too large.
pub fn renumber(header: &BatchHeader, records: &[u8]) -> Result<(BatchHeader, Bytes), RenumberError> {
    let plain = decompress(header.compression(), records, RECORDS_BYTES_MAX)?;
    let mut cursor = Cursor::new(&plain);
    let mut dense = Vec::with_capacity(plain.len());
    for found in 0..header.record_count {
        if cursor.is_empty() {
            return Err(RenumberError::Count { expected: header.record_count, found });
        }
        let length = zigzag(cursor.uvarint()?)?;
        let mut record = Cursor::new(cursor.take(length)?);
        record.i8()?;
        varlong(&mut record)?;
        let head = record.position();
        record.uvarint()?;
        let tail = record.position();
        let bytes = &plain[cursor.position() - length..cursor.position()];
        // A delta is not negative: zigzag doubles it. A batch has at most i32::MAX records.
        let delta = found.unsigned_abs() << 1;
        let new_length = head + uvarint_bytes(delta) + (length - tail);
        put_uvarint(&mut dense, u32::try_from(new_length << 1).map_err(|_| RenumberError::TooLong)?);
        dense.put_slice(&bytes[..head]);
        put_uvarint(&mut dense, delta);
        dense.put_slice(&bytes[tail..]);
    }
    if !cursor.is_empty() {
        return Err(RenumberError::Count { expected: header.record_count, found: header.record_count });
    }
    let packed = compress(header.compression(), &dense)?.freeze();
    let length = i32::try_from(HEADER_LEN - LENGTH_PREFIX_LEN + packed.len()).map_err(|_| RenumberError::TooLong)?;
    let header = BatchHeader { batch_length: length, last_offset_delta: header.record_count - 1, ..*header };
    Ok((header, packed))
}

/// A length, from its zigzag form.
fn zigzag(value: u32) -> Result<usize, ReadError> {
    if value & 1 == 1 {
        return Err(ReadError::Malformed("a negative length"));
    }
    usize::try_from(value >> 1).map_err(|_| ReadError::Malformed("a length"))
}

/// Steps over a varint of up to 64 bits.
fn varlong(cursor: &mut Cursor<'_>) -> Result<(), ReadError> {
    const VARLONG_BYTES_MAX: usize = 10;
    for _ in 0..VARLONG_BYTES_MAX {
        if cursor.i8()? >= 0 {
            return Ok(());
        }
    }
    Err(ReadError::Malformed("a varlong"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::indexmap::IndexMap;
    use kafka_protocol::protocol::StrBytes;
    use kafka_protocol::records::{Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType};

    fn record(offset: i64, timestamp: i64, value: Option<Vec<u8>>) -> Record {
        let mut headers = IndexMap::new();
        headers.insert(StrBytes::from_static_str("origin"), Some(Bytes::from_static(b"eu")));
        Record {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: 3,
            producer_id: 7,
            producer_epoch: 1,
            timestamp_type: TimestampType::Creation,
            offset,
            sequence: offset as i32,
            timestamp,
            key: Some(Bytes::from(offset.to_string())),
            value: value.map(Bytes::from),
            headers,
        }
    }

    fn batch(records: &[Record], compression: Compression) -> (BatchHeader, Bytes) {
        let mut bytes = bytes::BytesMut::new();
        let options = RecordEncodeOptions { version: 2, compression };
        RecordBatchEncoder::encode(&mut bytes, records, &options).expect("encodes");
        let bytes = bytes.freeze();
        let header = BatchHeader::decode(bytes.first_chunk().expect("a header")).expect("decodes");
        (header, bytes.slice(HEADER_LEN..))
    }

    #[test]
    fn a_header_that_counts_other_records_than_there_are_is_refused() {
        let (header, bytes) = batch(&[record(0, 5, None), record(9, 6, None)], Compression::None);
        for record_count in [1, 3] {
            let lying = BatchHeader { record_count, ..header };
            assert!(matches!(renumber(&lying, &bytes), Err(RenumberError::Count { .. })), "{record_count}");
        }
    }
}
