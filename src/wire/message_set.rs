//! Message formats v0 and v1 (Kafka before 0.11), converted to record batches of v2.
//!
//! Brokers keep what was written in the old formats as it is, and ZooKeeper-based ones with an inter-broker protocol below 3.0 still write it, where a
//! topic's `message.format.version` says so. No broker takes it from an idempotent producer, so it can't be sent on verbatim: keys, values, timestamps and the
//! codec stay, the framing becomes that of v2.
//!
//! ```text
//! offset i64 | size i32 | crc u32 | magic i8 | attributes i8 | timestamp i64 (v1 only) | key | value
//! ```
//!
//! Each message stands alone, or is a wrapper whose value is a compressed set of messages; a wrapper has the offset of its last message. In v1 the offsets
//! inside count from 0, in v0 they are the log's. A wrapper stamped by its broker (LogAppendTime) gives its time to all that it holds. v0 has no timestamps:
//! its records get -1, as brokers convert them.
//!
//! Messages that stand alone are put together, up to [`BATCH_BYTES_MAX`] and as many as the caller wants. So where a batch ends is not the log's to say: to make
//! the same batch again, one has to ask for the same number of records at the same offset.
//!
//! # References
//! <https://kafka.apache.org/documentation/#messageset>; KIP-31 (relative offsets), KIP-32 (timestamps), KAFKA-3160 (lz4 in v0).

use std::ops::Range;

use bytes::{BufMut, Bytes};

use super::batch::{BatchHeader, HEADER_LEN, LENGTH_PREFIX_LEN, MAGIC_V2};
use super::codec::{CodecError, compress, decompress};
use super::cursor::{Cursor, ReadError};
use super::records::RECORDS_BYTES_MAX;

/// Messages that stand alone are put into one batch up to so many bytes of the log; a single one may be larger.
pub const BATCH_BYTES_MAX: usize = 256 * 1024;

/// Offset and size.
const ENTRY_HEAD_BYTES: usize = 12;
/// Where the magic byte is, in every format.
const MAGIC_AT: usize = 16;
const CODEC_MASK: i8 = 0b111;
const LOG_APPEND_TIME_BIT: i8 = 1 << 3;
/// zstd came with v2.
const CODEC_MAX: i16 = 3;
const LZ4: i16 = 3;
/// The timestamp of a record that has none.
const NO_TIMESTAMP: i64 = -1;

/// A message that can't be converted.
#[derive(Debug, thiserror::Error)]
#[error("the message of format v{magic} at offset {offset}: {what}")]
pub struct MessageError {
    /// The offset in front of it, and in front of what a wrapper holds.
    pub offset: i64,
    /// The offset behind it.
    pub next_offset: i64,
    magic: i8,
    what: What,
}

#[derive(Debug, thiserror::Error)]
enum What {
    #[error("it can't be read: {0}")]
    Malformed(#[from] ReadError),
    #[error("its checksum is wrong")]
    Checksum,
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error("it would be longer than a batch can be")]
    TooLong,
}

/// What was made of the front of a log.
#[derive(Debug, Default)]
pub struct Conversion {
    /// A batch: its header, as of a log that holds these records at their offsets in v2, and the records behind it.
    pub batch: Option<(BatchHeader, Bytes)>,
    /// Bytes of the log that are done with.
    pub used: usize,
    /// What follows in the log lies behind the wanted offsets.
    pub is_behind: bool,
}

/// Whether the log goes on with a message of an old format; `None` when it is too short to say.
pub fn is_old(log: &[u8]) -> Option<bool> {
    log.get(MAGIC_AT).map(|magic| i8::from_be_bytes([*magic]) < MAGIC_V2)
}

/// Converts messages of old formats at the front of `log`, those at these offsets, at most `records_max` of them (but one at least).
///
/// A message of which only a part is there, and a batch of v2, are left alone: without anything in front of them nothing is made, and nothing used.
///
/// # Errors
/// [`MessageError`] for the first message, if it can't be read.
pub fn convert(log: &[u8], offsets: Range<i64>, records_max: i32) -> Result<Conversion, MessageError> {
    let mut making = Making::default();
    let (mut used, mut is_behind) = (0, false);
    while let Some(entry) = log.get(used..).and_then(Entry::at) {
        if entry.offset < offsets.start {
            used += entry.bytes.len();
            continue;
        }
        let full = making.count >= records_max
            || making.bytes + entry.bytes.len() > BATCH_BYTES_MAX
            || entry.magic != making.magic
            || entry.offset <= making.last_offset
            || entry.offset - making.first_offset >= i64::from(i32::MAX);
        if making.count > 0 && full {
            break;
        }
        match entry.message() {
            Ok(message) if message.codec == 0 && entry.offset >= offsets.end => {
                is_behind = true;
                break;
            }
            Ok(message) if message.codec == 0 => {
                making.add(&entry, entry.offset, &message);
                used += entry.bytes.len();
            }
            // A wrapper is a batch of its own; what can't be read waits until it is the first.
            _ if making.count > 0 => break,
            Ok(wrapper) => {
                making = entry.open(&wrapper, &offsets, records_max).map_err(|what| entry.error(entry.offset, what))?;
                is_behind = making.count == 0;
                used += if making.count > 0 && making.last_offset == entry.offset { entry.bytes.len() } else { 0 };
                break;
            }
            Err(what) => return Err(entry.error(entry.offset, what)),
        }
    }
    if making.count == 0 {
        return Ok(Conversion { batch: None, used, is_behind });
    }
    let (first, magic) = (making.first_offset, making.magic);
    let (last, what) = (making.last_offset, making.finish());
    let batch = what.map_err(|what| MessageError { offset: first, next_offset: last + 1, magic, what })?;
    Ok(Conversion { batch: Some(batch), used, is_behind })
}

/// A whole entry of a log.
struct Entry<'a> {
    offset: i64,
    magic: i8,
    bytes: &'a [u8],
}

/// A message, its checksum checked.
struct Message<'a> {
    codec: i16,
    append_time: bool,
    timestamp: i64,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
}

impl<'a> Entry<'a> {
    /// The entry at the front, if all of it is there and it is of an old format.
    fn at(log: &'a [u8]) -> Option<Self> {
        if !is_old(log)? {
            return None;
        }
        let mut cursor = Cursor::new(log);
        let offset = cursor.i64().ok()?;
        let size = usize::try_from(cursor.i32().ok()?).unwrap_or(0);
        let bytes = log.get(..ENTRY_HEAD_BYTES.checked_add(size)?)?;
        // An entry that is too short for its magic byte is told by its message.
        Some(Self { offset, magic: i8::from_be_bytes([*log.get(MAGIC_AT)?]), bytes })
    }

    fn error(&self, offset: i64, what: What) -> MessageError {
        MessageError { offset, next_offset: self.offset.saturating_add(1), magic: self.magic, what }
    }

    fn message(&self) -> Result<Message<'a>, What> {
        let malformed = |what| What::Malformed(ReadError::Malformed(what));
        if !(0..i64::MAX).contains(&self.offset) {
            return Err(malformed("an impossible offset"));
        }
        let mut cursor = Cursor::new(self.bytes.get(ENTRY_HEAD_BYTES..).unwrap_or_default());
        let crc = cursor.i32()?;
        let mut sum = flate2::Crc::new();
        sum.update(self.bytes.get(MAGIC_AT..).unwrap_or_default());
        if sum.sum() != crc.cast_unsigned() {
            return Err(What::Checksum);
        }
        let magic = cursor.i8()?;
        if magic < 0 {
            return Err(malformed("an impossible format"));
        }
        let attributes = cursor.i8()?;
        let timestamp = if magic == 0 { NO_TIMESTAMP } else { cursor.i64()? };
        let (key, value) = (cursor.nullable_bytes(false)?, cursor.nullable_bytes(false)?);
        if !cursor.is_empty() {
            return Err(malformed("it is shorter than its size"));
        }
        let append_time = magic > 0 && attributes & LOG_APPEND_TIME_BIT != 0;
        Ok(Message { codec: i16::from(attributes & CODEC_MASK), append_time, timestamp, key, value })
    }

    /// The messages of a wrapper at these offsets, at most `records_max`.
    fn open(&self, wrapper: &Message<'_>, offsets: &Range<i64>, records_max: i32) -> Result<Making, What> {
        let malformed = |what| What::Malformed(ReadError::Malformed(what));
        if wrapper.codec > CODEC_MAX {
            return Err(CodecError::Unknown(wrapper.codec).into());
        }
        let packed = wrapper.value.ok_or(malformed("a wrapper around nothing"))?;
        let plain = if self.magic == 0 && wrapper.codec == LZ4 {
            decompress(LZ4, &mended(packed), RECORDS_BYTES_MAX)?
        } else {
            decompress(wrapper.codec, packed, RECORDS_BYTES_MAX)?
        };
        let inner = || {
            let mut rest = &plain[..];
            std::iter::from_fn(move || {
                let entry = Entry::at(rest)?;
                rest = rest.get(entry.bytes.len()..)?;
                Some(entry)
            })
        };
        let (mut length, mut last) = (0, None);
        for entry in inner() {
            length += entry.bytes.len();
            last = Some(entry.offset);
        }
        let last = last.filter(|_| length == plain.len()).ok_or(malformed("what it holds ends early"))?;
        // Relative offsets: the last one's place is the wrapper's.
        let base = if self.magic == 0 { 0 } else { self.offset.checked_sub(last).unwrap_or(-1) };
        if base < 0 || base.checked_add(last) != Some(self.offset) {
            return Err(malformed("the offsets inside are not the wrapper's"));
        }
        let mut making = Making { codec: wrapper.codec, ..Making::default() };
        for entry in inner() {
            let offset = base.checked_add(entry.offset).ok_or(malformed("an impossible offset"))?;
            if entry.magic != self.magic || (making.count > 0 && offset <= making.last_offset) || offset > self.offset {
                return Err(malformed("messages that don't belong together"));
            }
            if !offsets.contains(&offset) {
                continue;
            }
            let message = entry.message()?;
            if message.codec != 0 {
                return Err(malformed("a wrapper inside a wrapper"));
            }
            let timestamp = if wrapper.append_time { wrapper.timestamp } else { message.timestamp };
            making.add(&entry, offset, &Message { timestamp, ..message });
            if making.count >= records_max {
                break;
            }
        }
        Ok(making)
    }
}

/// An lz4 frame of v0 with the checksum that its header should have: Kafka's clients computed it over the magic number too (KAFKA-3160).
fn mended(frame: &[u8]) -> Vec<u8> {
    const DESCRIPTOR_AT: usize = 4;
    const CONTENT_SIZE_BIT: u8 = 1 << 3;
    let mut mended = frame.to_vec();
    let flags = frame.get(DESCRIPTOR_AT).copied().unwrap_or(0);
    let checksum_at = DESCRIPTOR_AT + if flags & CONTENT_SIZE_BIT == 0 { 2 } else { 10 };
    if let (Some(descriptor), Some(checksum)) = (frame.get(DESCRIPTOR_AT..checksum_at), mended.get_mut(checksum_at)) {
        *checksum = twox_hash::XxHash32::oneshot(0, descriptor).to_be_bytes()[2];
    }
    mended
}

/// Records of v2 that are being put together.
#[derive(Default)]
struct Making {
    records: Vec<u8>,
    /// One record, while its length is not known.
    record: Vec<u8>,
    count: i32,
    /// Bytes of the log.
    bytes: usize,
    magic: i8,
    codec: i16,
    first_offset: i64,
    last_offset: i64,
    base_timestamp: i64,
    max_timestamp: i64,
}

impl Making {
    fn add(&mut self, entry: &Entry<'_>, offset: i64, message: &Message<'_>) {
        if self.count == 0 {
            (self.magic, self.first_offset) = (entry.magic, offset);
            (self.base_timestamp, self.max_timestamp) = (message.timestamp, message.timestamp);
        }
        let Self { records, record, .. } = self;
        record.clear();
        // No attributes, no headers.
        record.put_u8(0);
        put_varlong(record, message.timestamp.wrapping_sub(self.base_timestamp));
        put_varlong(record, offset - self.first_offset);
        for part in [message.key, message.value] {
            put_varlong(record, part.map_or(-1, |part| i64::try_from(part.len()).unwrap_or(i64::MAX)));
            record.put_slice(part.unwrap_or_default());
        }
        put_varlong(record, 0);
        put_varlong(records, i64::try_from(record.len()).unwrap_or(i64::MAX));
        records.put_slice(record);
        self.count += 1;
        self.bytes += entry.bytes.len();
        self.last_offset = offset;
        self.max_timestamp = self.max_timestamp.max(message.timestamp);
    }

    fn finish(self) -> Result<(BatchHeader, Bytes), What> {
        let records =
            if self.codec == 0 { Bytes::from(self.records) } else { compress(self.codec, &self.records)?.freeze() };
        let header = BatchHeader {
            base_offset: self.first_offset,
            batch_length: i32::try_from(HEADER_LEN - LENGTH_PREFIX_LEN + records.len()).map_err(|_| What::TooLong)?,
            // The old formats know no leader epochs, and no producers.
            leader_epoch: -1,
            crc: 0,
            attributes: self.codec,
            last_offset_delta: i32::try_from(self.last_offset - self.first_offset).map_err(|_| What::TooLong)?,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            record_count: self.count,
        };
        Ok((header, records))
    }
}

/// Appends a zigzag varint of up to 64 bits.
fn put_varlong(out: &mut Vec<u8>, value: i64) {
    let mut left = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while left >= 0x80 {
        out.put_u8(left as u8 | 0x80);
        left >>= 7;
    }
    out.put_u8(left as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::records::Records;

    /// Segments that Kafka 3.9.1 wrote (ZooKeeper, inter.broker.protocol.version=2.8) with message.format.version=0.9.0 and 0.10.2: 20 messages that stand
    /// alone, 20 in an lz4 wrapper, 20 in a gzip wrapper; no keys, values of 40 letters. As `kafka-dump-log` lists them.
    const V0: &[u8] = include_bytes!("testdata/v0.log");
    const V1: &[u8] = include_bytes!("testdata/v1.log");

    /// Offset and timestamp of each record, and the codec of its batch.
    fn converted(mut log: &[u8], records_max: i32) -> Vec<(i64, i64, i16)> {
        let mut next = 0;
        let mut seen = Vec::new();
        while let Some((header, records)) = {
            let Conversion { batch, used, .. } = convert(log, next..i64::MAX, records_max).expect("a valid log");
            log = &log[used..];
            batch
        } {
            next = header.next_offset();
            let mut walker = Records::new(header, &records).expect("a valid batch");
            while let Some(record) = walker.next_record().expect("a valid record") {
                let value = record.value.unwrap_or_default();
                assert!(record.key.is_none() && value.len() == 40 && value.iter().all(u8::is_ascii_uppercase));
                seen.push((record.offset, record.timestamp, header.compression()));
            }
        }
        assert!(log.is_empty());
        seen
    }

    #[test]
    fn what_a_broker_wrote_in_the_old_formats_is_converted_record_by_record() {
        for records_max in [1, 3, 7, i32::MAX] {
            for log in [V0, V1] {
                let seen = converted(log, records_max);
                let offsets: Vec<i64> = seen.iter().map(|(offset, ..)| *offset).collect();
                assert_eq!(offsets, (0..60).collect::<Vec<_>>());
                let codecs: Vec<i16> = seen.iter().map(|(_, _, codec)| *codec).collect();
                assert_eq!(codecs, [[0; 20], [3; 20], [1; 20]].concat());
            }
            assert!(converted(V0, records_max).iter().all(|(_, timestamp, _)| *timestamp == NO_TIMESTAMP));
            let times = converted(V1, records_max);
            for (at, timestamp) in [(0, 1_795_745_571_379), (20, 1_795_745_573_094), (59, 1_795_745_575_334)] {
                assert_eq!(times[at].1, timestamp, "offset {at}");
            }
        }
    }

    #[test]
    fn a_message_that_was_damaged_is_named_with_its_place() {
        for (log, at, offset) in [(V1, 70, 0), (V1, 1600, 39)] {
            let mut damaged = log.to_vec();
            damaged[at] ^= 1;
            let mut rest = &damaged[..];
            let error = loop {
                match convert(rest, 0..i64::MAX, i32::MAX) {
                    Ok(Conversion { batch: Some(_), used, .. }) => rest = &rest[used..],
                    Ok(_) => panic!("the damage was not seen"),
                    Err(error) => break error,
                }
            };
            assert_eq!((error.offset, error.next_offset), (offset, offset + 1));
            assert_eq!(
                error.to_string(),
                format!("the message of format v1 at offset {offset}: its checksum is wrong")
            );
        }
    }

    #[test]
    fn messages_that_stand_alone_make_batches_of_bounded_size() {
        let one = &V1[..74];
        let mut log = Vec::new();
        for offset in 0..10_000_i64 {
            log.extend_from_slice(&offset.to_be_bytes());
            log.extend_from_slice(&one[8..]);
        }
        let Conversion { batch, used, .. } = convert(&log, 0..i64::MAX, i32::MAX).expect("a valid log");
        let (header, _) = batch.expect("a batch");
        assert_eq!((used / 74, used % 74), (BATCH_BYTES_MAX / 74, 0));
        assert_eq!(header.record_count as usize, used / 74);
    }
}
