//! A record batch as the model's log keeps it: its bytes, and what a broker reads of its header.

use bytes::{BufMut, Bytes, BytesMut};

/// Length of the header of a batch in message format v2.
pub const HEADER_LEN: usize = 61;

const LOG_APPEND_TIME_BIT: i16 = 1 << 3;
const TRANSACTIONAL_BIT: i16 = 1 << 4;
const CONTROL_BIT: i16 = 1 << 5;

/// A batch in a log.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Offset of its first record.
    pub base_offset: i64,
    /// Offset of its last record.
    pub last_offset: i64,
    /// Leader epoch under which it was appended.
    pub leader_epoch: i32,
    /// Records that it says it holds.
    pub record_count: i32,
    /// Timestamp of its first record, milliseconds.
    pub base_timestamp: i64,
    /// The latest timestamp, milliseconds.
    pub max_timestamp: i64,
    /// Producer id, -1 for none.
    pub producer_id: i64,
    /// Producer epoch.
    pub producer_epoch: i16,
    /// Sequence of its first record.
    pub base_sequence: i32,
    /// Attributes.
    pub attributes: i16,
    /// When it was appended, milliseconds of the model's clock.
    pub appended_at: i64,
    /// All of it.
    pub bytes: Bytes,
}

impl Batch {
    /// Reads a batch that a client sent.
    ///
    /// # Errors
    /// Kafka's error code: CORRUPT_MESSAGE (2), or INVALID_RECORD (87) for what a broker refuses though the checksum is right.
    pub fn read(bytes: &Bytes) -> Result<Self, i16> {
        let at = |from: usize, len: usize| bytes.get(from..from + len);
        let int = |from: usize| at(from, 4).and_then(|b| b.try_into().ok()).map(i32::from_be_bytes).ok_or(2_i16);
        let long = |from: usize| at(from, 8).and_then(|b| b.try_into().ok()).map(i64::from_be_bytes).ok_or(2_i16);
        let short = |from: usize| at(from, 2).and_then(|b| b.try_into().ok()).map(i16::from_be_bytes).ok_or(2_i16);
        if bytes.len() < HEADER_LEN || bytes.get(16) != Some(&2) {
            return Err(2);
        }
        let length = usize::try_from(int(8)?).map_err(|_| 2_i16)?;
        if length + 12 != bytes.len() {
            // Another batch behind the first, or half a batch: not exactly one.
            return Err(87);
        }
        if crc32c(bytes.get(21..).unwrap_or_default()) != int(17)?.cast_unsigned() {
            return Err(2);
        }
        let last_offset_delta = int(23)?;
        let batch = Self {
            base_offset: 0,
            last_offset: i64::from(last_offset_delta),
            leader_epoch: 0,
            record_count: int(57)?,
            base_timestamp: long(27)?,
            max_timestamp: long(35)?,
            producer_id: long(43)?,
            producer_epoch: short(51)?,
            base_sequence: int(53)?,
            attributes: short(21)?,
            appended_at: 0,
            bytes: bytes.clone(),
        };
        let wrong = batch.record_count <= 0
            || batch.record_count != last_offset_delta + 1
            || batch.is_control()
            || (batch.is_transactional() && batch.producer_id < 0)
            || (batch.producer_id >= 0 && batch.base_sequence < 0);
        if wrong { Err(87) } else { Ok(batch) }
    }

    /// Whether it is part of a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL_BIT != 0
    }

    /// Whether it is a transaction's end.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL_BIT != 0
    }

    /// The sequence of its last record.
    pub fn last_sequence(&self) -> i32 {
        sequence_after(self.base_sequence, self.record_count - 1)
    }

    /// Gives the batch its place in a log.
    pub fn place(&mut self, base_offset: i64, leader_epoch: i32, now: i64, log_append_time: bool) {
        let delta = self.last_offset - self.base_offset;
        let mut bytes = BytesMut::from(&self.bytes[..]);
        bytes[0..8].copy_from_slice(&base_offset.to_be_bytes());
        bytes[12..16].copy_from_slice(&leader_epoch.to_be_bytes());
        if log_append_time {
            self.attributes |= LOG_APPEND_TIME_BIT;
            self.max_timestamp = now;
            bytes[21..23].copy_from_slice(&self.attributes.to_be_bytes());
            bytes[35..43].copy_from_slice(&now.to_be_bytes());
            let crc = crc32c(&bytes[21..]);
            bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        }
        self.base_offset = base_offset;
        self.last_offset = base_offset + delta;
        self.leader_epoch = leader_epoch;
        self.appended_at = now;
        self.bytes = bytes.freeze();
    }

    /// The batch that ends a transaction: one control record.
    pub fn marker(producer_id: i64, producer_epoch: i16, commit: bool, now: i64) -> Self {
        let attributes = TRANSACTIONAL_BIT | CONTROL_BIT;
        let mut record = BytesMut::new();
        // length, attributes, timestamp delta, offset delta, key (version, type), value (version, coordinator epoch), headers
        record.put_slice(&[0, 0, 0, 8, 0, 0, 0, u8::from(commit), 12, 0, 0, 0, 0, 0, 0, 0]);
        let mut bytes = BytesMut::zeroed(HEADER_LEN);
        bytes.put_u8(u8::try_from(record.len() * 2).unwrap_or(u8::MAX));
        bytes.put_slice(&record);
        let length = i32::try_from(bytes.len() - 12).unwrap_or(i32::MAX);
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        bytes[16] = 2;
        bytes[21..23].copy_from_slice(&attributes.to_be_bytes());
        bytes[27..35].copy_from_slice(&now.to_be_bytes());
        bytes[35..43].copy_from_slice(&now.to_be_bytes());
        bytes[43..51].copy_from_slice(&producer_id.to_be_bytes());
        bytes[51..53].copy_from_slice(&producer_epoch.to_be_bytes());
        bytes[53..57].copy_from_slice(&(-1_i32).to_be_bytes());
        bytes[57..61].copy_from_slice(&1_i32.to_be_bytes());
        let crc = crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        Self {
            base_offset: 0,
            last_offset: 0,
            leader_epoch: 0,
            record_count: 1,
            base_timestamp: now,
            max_timestamp: now,
            producer_id,
            producer_epoch,
            base_sequence: -1,
            attributes,
            appended_at: now,
            bytes: bytes.freeze(),
        }
    }

    /// Whether a control batch commits its transaction.
    pub fn commits(&self) -> bool {
        self.bytes.get(HEADER_LEN + 8) == Some(&1)
    }
}

/// The sequence `count` records later; sequences wrap to 0 behind 2^31 - 1.
pub fn sequence_after(sequence: i32, count: i32) -> i32 {
    let wide = (i64::from(sequence) + i64::from(count)).rem_euclid(1 << 31);
    i32::try_from(wide).unwrap_or(0)
}

fn crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}
