//! The 61-byte header of a record batch (message format v2, KIP-98), and the only change that diffluent makes to records:
//! rewriting that header.
//!
//! ```text
//!  0 base offset          i64   | outside the checksum
//!  8 batch length         i32   | bytes after this field
//! 12 leader epoch         i32   |
//! 16 magic                i8    |
//! 17 crc                  u32   | CRC32C of everything that follows
//! 21 attributes           i16
//! 23 last offset delta    i32
//! 27 base timestamp       i64
//! 35 max timestamp        i64
//! 43 producer id          i64
//! 51 producer epoch       i16
//! 53 base sequence        i32
//! 57 record count         i32
//! 61 records, compressed as the attributes say
//! ```

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 61;
/// Bytes in front of those that the batch length counts.
pub const LENGTH_PREFIX_LEN: usize = 12;
/// Where the checksummed part begins.
const CRC_START: usize = 21;
/// The message format that diffluent mirrors verbatim.
pub const MAGIC_V2: i8 = 2;

const COMPRESSION_MASK: i16 = 0b0000_0111;
const TIMESTAMP_TYPE_BIT: i16 = 1 << 3;
const TRANSACTIONAL_BIT: i16 = 1 << 4;
const CONTROL_BIT: i16 = 1 << 5;
const DELETE_HORIZON_BIT: i16 = 1 << 6;

/// A batch that can't be read as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchError {
    /// Fewer bytes than the header, or than the header says.
    Short,
    /// A message format older than v2, by its magic.
    OldFormat(i8),
    /// A field that no batch can have.
    Impossible(&'static str),
}

impl std::fmt::Display for BatchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BatchError::Short => f.write_str("the record batch ends early"),
            BatchError::OldFormat(magic) => write!(f, "the record batch has the old message format v{magic}"),
            BatchError::Impossible(what) => write!(f, "the record batch has an impossible {what}"),
        }
    }
}

impl std::error::Error for BatchError {}

/// The header of a record batch, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Bytes that follow the length field: the whole batch is 12 bytes longer.
    pub batch_length: i32,
    /// Leader epoch under which the batch was appended; -1 from a client.
    pub leader_epoch: i32,
    /// CRC32C of the bytes behind the checksum.
    pub crc: u32,
    /// Compression, timestamp type, transactional and control bits.
    pub attributes: i16,
    /// Offset of the last record, relative to the base offset.
    pub last_offset_delta: i32,
    /// Timestamp of the first record, milliseconds.
    pub base_timestamp: i64,
    /// Largest timestamp, milliseconds.
    pub max_timestamp: i64,
    /// Producer id, -1 without idempotence.
    pub producer_id: i64,
    /// Producer epoch.
    pub producer_epoch: i16,
    /// Sequence of the first record.
    pub base_sequence: i32,
    /// Number of records.
    pub record_count: i32,
}

fn i16_at(bytes: &[u8; HEADER_LEN], at: usize) -> i16 {
    i16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn i32_at(bytes: &[u8; HEADER_LEN], at: usize) -> i32 {
    i32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn i64_at(bytes: &[u8; HEADER_LEN], at: usize) -> i64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[at..at + 8]);
    i64::from_be_bytes(eight)
}

impl BatchHeader {
    /// Decodes a header.
    ///
    /// # Errors
    /// [`BatchError::OldFormat`] for message formats v0 and v1, whose layout differs; [`BatchError::Impossible`] for a length,
    /// an offset or a count that no batch can have.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, BatchError> {
        let magic = i8::from_be_bytes([bytes[16]]);
        if (0..MAGIC_V2).contains(&magic) {
            return Err(BatchError::OldFormat(magic));
        }
        if magic != MAGIC_V2 {
            return Err(BatchError::Impossible("magic"));
        }
        let header = Self {
            base_offset: i64_at(bytes, 0),
            batch_length: i32_at(bytes, 8),
            leader_epoch: i32_at(bytes, 12),
            crc: u32::from_be_bytes([bytes[17], bytes[18], bytes[19], bytes[20]]),
            attributes: i16_at(bytes, 21),
            last_offset_delta: i32_at(bytes, 23),
            base_timestamp: i64_at(bytes, 27),
            max_timestamp: i64_at(bytes, 35),
            producer_id: i64_at(bytes, 43),
            producer_epoch: i16_at(bytes, 51),
            base_sequence: i32_at(bytes, 53),
            record_count: i32_at(bytes, 57),
        };
        if header.batch_length < (HEADER_LEN - LENGTH_PREFIX_LEN) as i32 {
            return Err(BatchError::Impossible("length"));
        }
        if header.base_offset < 0 || header.base_offset > i64::MAX - i64::from(i32::MAX) - 1 {
            return Err(BatchError::Impossible("base offset"));
        }
        if header.last_offset_delta < 0 || header.last_offset_delta == i32::MAX {
            return Err(BatchError::Impossible("last offset delta"));
        }
        if header.record_count < 0 || header.record_count > header.last_offset_delta + 1 {
            return Err(BatchError::Impossible("record count"));
        }
        Ok(header)
    }

    /// Bytes of the whole batch, header included.
    pub fn total_len(&self) -> usize {
        LENGTH_PREFIX_LEN + usize::try_from(self.batch_length).unwrap_or(0)
    }

    /// The offset behind the batch's last one.
    pub fn next_offset(&self) -> i64 {
        self.base_offset + i64::from(self.last_offset_delta) + 1
    }

    /// Whether the batch belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL_BIT != 0
    }

    /// Whether the batch is a transaction marker or another control batch: never mirrored.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL_BIT != 0
    }

    /// Whether the broker stamped the batch with its own time.
    pub fn is_log_append_time(&self) -> bool {
        self.attributes & TIMESTAMP_TYPE_BIT != 0
    }

    /// The codec's number: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.
    pub fn compression(&self) -> i16 {
        self.attributes & COMPRESSION_MASK
    }

    /// Whether compaction has taken records out of the batch, so that a broker would refuse it as it is.
    pub fn has_holes(&self) -> bool {
        self.record_count != self.last_offset_delta + 1
    }
}

/// Under which identity a stream writes a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The stream's reserved producer id.
    pub producer_id: i64,
    /// The stream's incarnation.
    pub producer_epoch: i16,
    /// The sequence of the batch's first record.
    pub base_sequence: i32,
}

/// Encodes the header with which a batch goes to a region: another identity, no base offset and no leader epoch (the region's
/// broker sets both), the transactional, timestamp-type and delete-horizon bits cleared, and the checksum over it all.
///
/// `records` are the bytes behind the header, in as many pieces as they came.
pub fn rewritten_header<'a>(
    header: &BatchHeader,
    identity: Identity,
    records: impl Iterator<Item = &'a [u8]>,
) -> [u8; HEADER_LEN] {
    let mut out = [0; HEADER_LEN];
    // Base offset 0, as a client's.
    out[8..12].copy_from_slice(&header.batch_length.to_be_bytes());
    out[12..16].copy_from_slice(&(-1_i32).to_be_bytes());
    out[16] = MAGIC_V2 as u8;
    let attributes = header.attributes & !(TIMESTAMP_TYPE_BIT | TRANSACTIONAL_BIT | DELETE_HORIZON_BIT);
    out[21..23].copy_from_slice(&attributes.to_be_bytes());
    out[23..27].copy_from_slice(&header.last_offset_delta.to_be_bytes());
    out[27..35].copy_from_slice(&header.base_timestamp.to_be_bytes());
    out[35..43].copy_from_slice(&header.max_timestamp.to_be_bytes());
    out[43..51].copy_from_slice(&identity.producer_id.to_be_bytes());
    out[51..53].copy_from_slice(&identity.producer_epoch.to_be_bytes());
    out[53..57].copy_from_slice(&identity.base_sequence.to_be_bytes());
    out[57..61].copy_from_slice(&header.record_count.to_be_bytes());
    let mut crc = crc32c::crc32c(&out[CRC_START..]);
    for piece in records {
        crc = crc32c::crc32c_append(crc, piece);
    }
    out[17..21].copy_from_slice(&crc.to_be_bytes());
    out
}

/// A sequence that comes `by` records behind `sequence`; 2147483647 is followed by 0.
pub fn sequence_after(sequence: i32, by: i64) -> i32 {
    let modulus = i64::from(i32::MAX) + 1;
    // In 0..2^31, so it always fits.
    ((i64::from(sequence) + by).rem_euclid(modulus)) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> BatchHeader {
        BatchHeader {
            base_offset: 77,
            batch_length: 49 + 6,
            leader_epoch: 3,
            crc: 0,
            attributes: 0b0111_1011,
            last_offset_delta: 4,
            base_timestamp: 1_700_000_000_000,
            max_timestamp: 1_700_000_000_009,
            producer_id: 12,
            producer_epoch: 1,
            base_sequence: 9,
            record_count: 5,
        }
    }

    const IDENTITY: Identity = Identity { producer_id: 1 << 62 | 5, producer_epoch: 2, base_sequence: i32::MAX };

    #[test]
    fn a_rewritten_header_keeps_everything_but_identity_offset_epoch_and_three_bits() {
        let out = rewritten_header(&header(), IDENTITY, [b"abc".as_slice(), b"def"].into_iter());
        let again = BatchHeader::decode(&out).expect("decodes");
        assert_eq!(
            again,
            BatchHeader {
                base_offset: 0,
                leader_epoch: -1,
                crc: again.crc,
                attributes: 0b0010_0011,
                producer_id: IDENTITY.producer_id,
                producer_epoch: 2,
                base_sequence: i32::MAX,
                ..header()
            }
        );
    }

    #[test]
    fn the_checksum_covers_attributes_to_end_however_the_records_are_cut() {
        let whole = rewritten_header(&header(), IDENTITY, [b"abcdef".as_slice()].into_iter());
        let pieces = rewritten_header(&header(), IDENTITY, [b"a".as_slice(), b"", b"bcde", b"f"].into_iter());
        assert_eq!(whole, pieces);
        let mut covered = whole[CRC_START..].to_vec();
        covered.extend_from_slice(b"abcdef");
        assert_eq!(whole[17..21], crc32c::crc32c(&covered).to_be_bytes());
    }

    #[test]
    fn sequences_wrap_to_zero_behind_the_largest() {
        assert_eq!(sequence_after(i32::MAX, 1), 0);
        assert_eq!(sequence_after(i32::MAX - 1, 3), 1);
        assert_eq!(sequence_after(0, -1), i32::MAX);
        assert_eq!(sequence_after(5, 7), 12);
    }

    #[test]
    fn impossible_headers_are_refused() {
        let good = rewritten_header(&header(), IDENTITY, std::iter::empty());
        for (at, value, error) in [
            (16, 1_u8, BatchError::OldFormat(1)),
            (16, 9, BatchError::Impossible("magic")),
            (8, 0xff, BatchError::Impossible("length")),
            (0, 0xff, BatchError::Impossible("base offset")),
            (23, 0xff, BatchError::Impossible("last offset delta")),
            (57, 0xff, BatchError::Impossible("record count")),
            (60, 0xff, BatchError::Impossible("record count")),
        ] {
            let mut bad = good;
            bad[at] = value;
            assert_eq!(BatchHeader::decode(&bad), Err(error), "byte {at} = {value}");
        }
    }
}
