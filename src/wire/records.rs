//! The records of a batch, one by one: a walker over decompressed bytes that allocates nothing by what they say.
//!
//! ```text
//! length varint | attributes i8 | timestamp delta varlong | offset delta varint
//! key length varint (-1: null) | key | value length varint (-1: null) | value
//! header count varint | each: key length varint | key | value length varint (-1: null) | value
//! ```
//!
//! Headers are kept as they stand, in their order and with keys that come twice: a map would lose both.
//!
//! # References
//! <https://kafka.apache.org/documentation/#recordbatch> (message format v2), KIP-98, KIP-82 (headers); varints are zigzag encoded.

use super::batch::BatchHeader;
use super::codec::{CodecError, decompress};
use super::cursor::{Cursor, ReadError};

/// The most that the records of one batch may take decompressed.
pub const RECORDS_BYTES_MAX: usize = 64 << 20;

/// Why a batch's records can't be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    /// Its codec.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// A record that is not one.
    #[error("a record can't be read: {0}")]
    Record(#[from] ReadError),
    /// The header counts other records than there are.
    #[error("the batch holds more or fewer records than the {0} that its header counts")]
    Count(i32),
}

/// One record of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its offset in the log.
    pub offset: i64,
    /// Its timestamp, milliseconds since 1970; the broker's own time if the batch says so.
    pub timestamp: i64,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// The headers.
    pub headers: Headers<'a>,
}

/// A record's headers: key and value of each, in order. Already checked, so it gives as many as the record says.
#[derive(Clone, Copy, Debug)]
pub struct Headers<'a> {
    cursor: Cursor<'a>,
    left: u32,
}

impl PartialEq for Headers<'_> {
    fn eq(&self, other: &Self) -> bool {
        Iterator::eq(*self, *other)
    }
}

impl Eq for Headers<'_> {}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        header(&mut self.cursor).ok()
    }
}

/// The records of one batch, decompressed.
#[derive(Debug)]
pub struct Records {
    header: BatchHeader,
    plain: Vec<u8>,
    position: usize,
    read: i32,
}

impl Records {
    /// Decompresses the records of the batch with this header: `bytes` is what is behind the header, as it came.
    ///
    /// # Errors
    /// [`RecordsError::Codec`], also when they take more than [`RECORDS_BYTES_MAX`].
    pub fn new(header: BatchHeader, bytes: &[u8]) -> Result<Self, RecordsError> {
        let plain = decompress(header.compression(), bytes, RECORDS_BYTES_MAX)?;
        Ok(Self { header, plain, position: 0, read: 0 })
    }

    /// The next record; `None` behind the last one.
    ///
    /// # Errors
    /// [`RecordsError`]: nothing more can be read from this batch.
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>, RecordsError> {
        let count = RecordsError::Count(self.header.record_count);
        let mut cursor = Cursor::new(self.plain.get(self.position..).unwrap_or_default());
        match (self.read == self.header.record_count, cursor.is_empty()) {
            (true, true) => return Ok(None),
            (false, false) => {}
            _ => return Err(count),
        }
        let length = length(&mut cursor)?.ok_or(ReadError::Malformed("a record without a length"))?;
        let record = record(&self.header, cursor.take(length)?)?;
        self.position += cursor.position();
        self.read += 1;
        Ok(Some(record))
    }
}

/// Reads one record from exactly these bytes.
fn record<'a>(batch: &BatchHeader, bytes: &'a [u8]) -> Result<Record<'a>, ReadError> {
    let mut cursor = Cursor::new(bytes);
    cursor.i8()?;
    let timestamp_delta = varlong(&mut cursor)?;
    let offset_delta = varint(&mut cursor)?;
    if !(0..=batch.last_offset_delta).contains(&offset_delta) {
        return Err(ReadError::Malformed("an offset outside its batch"));
    }
    let key = bytes_or_null(&mut cursor)?;
    let value = bytes_or_null(&mut cursor)?;
    let count = u32::try_from(varint(&mut cursor)?).map_err(|_| ReadError::Malformed("a negative header count"))?;
    let headers = Headers { cursor, left: count };
    for _ in 0..count {
        header(&mut cursor)?;
    }
    if !cursor.is_empty() {
        return Err(ReadError::Malformed("a record that is shorter than its length"));
    }
    let timestamp = if batch.is_log_append_time() {
        batch.max_timestamp
    } else {
        batch.base_timestamp.wrapping_add(timestamp_delta)
    };
    Ok(Record { offset: batch.base_offset + i64::from(offset_delta), timestamp, key, value, headers })
}

fn header<'a>(cursor: &mut Cursor<'a>) -> Result<(&'a [u8], Option<&'a [u8]>), ReadError> {
    let key = bytes_or_null(cursor)?.ok_or(ReadError::Malformed("a header without a key"))?;
    Ok((key, bytes_or_null(cursor)?))
}

fn bytes_or_null<'a>(cursor: &mut Cursor<'a>) -> Result<Option<&'a [u8]>, ReadError> {
    length(cursor)?.map(|length| cursor.take(length)).transpose()
}

/// A length; `None` for -1.
fn length(cursor: &mut Cursor<'_>) -> Result<Option<usize>, ReadError> {
    match varint(cursor)? {
        -1 => Ok(None),
        length => usize::try_from(length).map(Some).map_err(|_| ReadError::Malformed("a negative length")),
    }
}

/// A zigzag varint of 32 bits.
fn varint(cursor: &mut Cursor<'_>) -> Result<i32, ReadError> {
    let value = cursor.uvarint()?;
    Ok((value >> 1) as i32 ^ -((value & 1) as i32))
}

/// A zigzag varint of 64 bits: ten bytes at most.
fn varlong(cursor: &mut Cursor<'_>) -> Result<i64, ReadError> {
    let mut value = 0_u64;
    for shift in (0..70).step_by(7) {
        let byte = cursor.i8()?;
        value |= u64::from(byte as u8 & 0x7f) << shift;
        if byte >= 0 {
            return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    Err(ReadError::Malformed("a varlong of more than ten bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::{Bytes, BytesMut};
    use kafka_protocol::indexmap::IndexMap;
    use kafka_protocol::protocol::StrBytes;
    use kafka_protocol::records::{
        Compression, Record as Encoded, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
    };
    use proptest::prelude::*;

    use crate::wire::batch::HEADER_LEN;

    type Parts = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, Option<Vec<u8>>)>);

    fn encoded(at: usize, (timestamp, key, value, headers): &Parts) -> Encoded {
        let named = |(name, value): &(String, Option<Vec<u8>>)| {
            (StrBytes::from_string(name.clone()), value.clone().map(Bytes::from))
        };
        Encoded {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: 3,
            producer_id: 7,
            producer_epoch: 1,
            timestamp_type: TimestampType::Creation,
            offset: 1_000 + at as i64,
            sequence: at as i32,
            timestamp: *timestamp,
            key: key.clone().map(Bytes::from),
            value: value.clone().map(Bytes::from),
            headers: headers.iter().map(named).collect::<IndexMap<_, _>>(),
        }
    }

    fn batch(records: &[Encoded], compression: Compression) -> (BatchHeader, Bytes) {
        let mut bytes = BytesMut::new();
        let options = RecordEncodeOptions { version: 2, compression };
        RecordBatchEncoder::encode(&mut bytes, records, &options).expect("encodes");
        let bytes = bytes.freeze();
        let header = BatchHeader::decode(bytes.first_chunk().expect("a header")).expect("decodes");
        (header, bytes.slice(HEADER_LEN..))
    }

    fn some_bytes() -> impl Strategy<Value = Option<Vec<u8>>> {
        prop::option::of(prop::collection::vec(any::<u8>(), 0..200))
    }

    proptest! {
        #[test]
        fn records_are_read_as_the_protocol_crate_encodes_them(
            parts in prop::collection::vec(
                (0_i64..1 << 41, some_bytes(), some_bytes(), prop::collection::vec(("[a-z]{0,8}", some_bytes()), 0..5)),
                1..40,
            ),
            codec in 0_usize..5,
        ) {
            let codecs = [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
            let records: Vec<Encoded> = parts.iter().enumerate().map(|(at, parts)| encoded(at, parts)).collect();
            let (header, bytes) = batch(&records, codecs[codec]);
            let mut walker = Records::new(header, &bytes).expect("decompresses");
            for expected in &records {
                let got = walker.next_record().expect("reads").expect("a record");
                prop_assert_eq!(
                    (got.offset, got.timestamp, got.key, got.value),
                    (expected.offset, expected.timestamp, expected.key.as_deref(), expected.value.as_deref())
                );
                let headers: Vec<_> = got.headers.collect();
                let wanted: Vec<_> =
                    expected.headers.iter().map(|(key, value)| (key.as_bytes(), value.as_deref())).collect();
                prop_assert_eq!(headers, wanted);
            }
            prop_assert!(walker.next_record().expect("ends").is_none());
        }

        #[test]
        fn no_bytes_make_it_panic_or_go_on_for_ever(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            count in 0_i32..100,
            codec in 0_i16..8,
        ) {
            let (header, _) = batch(&[encoded(0, &(0, None, None, Vec::new()))], Compression::None);
            let header = BatchHeader { record_count: count, last_offset_delta: 99, attributes: codec, ..header };
            if let Ok(mut walker) = Records::new(header, &bytes) {
                let mut read = 0;
                while let Ok(Some(_)) = walker.next_record() {
                    read += 1;
                    prop_assert!(read <= count);
                }
            }
        }
    }

    fn plain(body: &[u8], count: i32) -> Records {
        let (header, _) = batch(&[encoded(0, &(5, None, None, Vec::new()))], Compression::None);
        Records::new(BatchHeader { record_count: count, ..header }, body).expect("not compressed")
    }

    #[test]
    fn headers_keep_their_order_and_keys_that_come_twice() {
        // No key, no value, three headers: a=1, b=null, a=2.
        let body = [0, 0, 0, 1, 1, 6, 2, b'a', 2, b'1', 2, b'b', 1, 2, b'a', 2, b'2'];
        let bytes = [&[(body.len() as u8) << 1][..], &body].concat();
        let mut records = plain(&bytes, 1);
        let record = records.next_record().expect("reads").expect("a record");
        let headers: Vec<_> = record.headers.collect();
        assert_eq!(headers, [(&b"a"[..], Some(&b"1"[..])), (b"b", None), (b"a", Some(b"2"))]);
    }

    #[test]
    fn lengths_and_counts_that_lie_are_refused() {
        let good = [12, 0, 0, 0, 1, 1, 0];
        assert!(matches!(plain(&good, 1).next_record(), Ok(Some(_))));
        assert!(matches!(plain(&good, 0).next_record(), Err(RecordsError::Count(0))));
        assert!(matches!(plain(&[], 1).next_record(), Err(RecordsError::Count(1))));
        // In turn: too long, negative length, another offset than the batch has, key beyond the end, negative header
        // count, a header without a key, bytes left over.
        for bad in [
            &[14, 0, 0, 0, 1, 1, 0][..],
            &[1, 0, 0, 0, 1, 1, 0],
            &[12, 0, 0, 2, 1, 1, 0],
            &[12, 0, 0, 0, 9, 1, 0],
            &[12, 0, 0, 0, 1, 1, 1],
            &[16, 0, 0, 0, 1, 1, 2, 1, 1],
            &[14, 0, 0, 0, 1, 1, 0, 0],
        ] {
            assert!(matches!(plain(bad, 1).next_record(), Err(RecordsError::Record(_))), "{bad:?}");
        }
    }

    #[test]
    fn every_record_of_a_log_append_time_batch_bears_the_brokers_time() {
        let parts: Vec<Parts> = vec![(5, None, None, Vec::new()), (9, None, None, Vec::new())];
        let records: Vec<Encoded> = parts.iter().enumerate().map(|(at, parts)| encoded(at, parts)).collect();
        let (header, bytes) = batch(&records, Compression::None);
        let header = BatchHeader { attributes: 1 << 3, max_timestamp: 77, ..header };
        let mut walker = Records::new(header, &bytes).expect("decompresses");
        while let Some(record) = walker.next_record().expect("reads") {
            assert_eq!(record.timestamp, 77);
        }
    }
}
