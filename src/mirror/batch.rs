//! A record batch on its way to a region: its decoded header, and its records as they came.

use bytes::{Buf, Bytes};
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::wire::batch::{BatchError, BatchHeader, HEADER_LEN};
use crate::wire::message_set::{Conversion, MessageError, convert, is_old};
use crate::wire::renumber::{RenumberError, renumber};

/// The bytes of one record batch, as they arrived: all of its chunks, nothing else.
pub type Segments = SmallVec<[Bytes; 3]>;

/// Which of the two feeds a batch came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feed {
    /// A session had it in memory.
    Capture,
    /// It was read from the local log.
    CatchUp,
}

/// A record batch with a known place in the local log. Clones share the records.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The header as the log has it: its base offset is the source's.
    pub header: BatchHeader,
    /// Everything behind the header.
    pub records: Segments,
    /// Where it came from.
    pub feed: Feed,
    /// When the local cluster acknowledged it, or when it was read from the log.
    pub since: Instant,
}

impl Batch {
    /// Reads the batch that `segments` hold, no more and no less.
    ///
    /// # Errors
    /// See [`BatchHeader::decode`]; [`BatchError::Short`] also when the header speaks of another length than there is.
    pub fn new(mut segments: Segments, feed: Feed, since: Instant) -> Result<Self, BatchError> {
        let mut bytes = [0; HEADER_LEN];
        let mut filled = 0;
        for segment in &segments {
            let take = segment.len().min(HEADER_LEN - filled);
            bytes[filled..filled + take].copy_from_slice(&segment[..take]);
            filled += take;
        }
        if filled < HEADER_LEN {
            return Err(BatchError::Short);
        }
        let header = BatchHeader::decode(&bytes)?;
        if header.total_len() != segments.iter().map(Bytes::len).sum::<usize>() {
            return Err(BatchError::Short);
        }
        let mut skip = HEADER_LEN;
        segments.retain(|segment| {
            let cut = skip.min(segment.len());
            skip -= cut;
            *segment = segment.slice(cut..);
            !segment.is_empty()
        });
        Ok(Self { header, records: segments, feed, since })
    }

    /// Bytes of the whole batch on the wire.
    pub fn len(&self) -> usize {
        self.header.total_len()
    }

    /// Bytes that it holds in memory.
    pub fn held_len(&self) -> usize {
        HEADER_LEN + self.records.iter().map(Bytes::len).sum::<usize>()
    }

    /// A batch has a header, so it is never empty.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The batch without the holes that compaction made: the same records, byte for byte, at offsets without gaps, in the same codec.
    ///
    /// # Errors
    /// See [`renumber`].
    pub fn renumbered(&self) -> Result<Self, RenumberError> {
        let (header, records) = match &self.records[..] {
            [whole] => renumber(&self.header, whole)?,
            pieces => renumber(&self.header, &pieces.concat())?,
        };
        Ok(Self { header, records: SmallVec::from_iter([records]), feed: self.feed, since: self.since })
    }

    /// CRC32C of the records alone.
    fn records_checksum(&self) -> u32 {
        self.records.iter().fold(0, |crc, piece| crc32c::crc32c_append(crc, piece))
    }
}

/// What a batch in a region is recognised by in the source: all that mirroring leaves as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    records_checksum: u32,
    compression: i16,
    record_count: i32,
    base_timestamp: i64,
}

impl Fingerprint {
    /// The batch's fingerprint. One checksum pass over its records.
    pub fn of(batch: &Batch) -> Self {
        Self {
            records_checksum: batch.records_checksum(),
            compression: batch.header.compression(),
            record_count: batch.header.record_count,
            base_timestamp: batch.header.base_timestamp,
        }
    }

    /// Whether `batch` may hold the same records. Where a broker has compressed anew, only their count can be compared.
    pub fn fits(&self, batch: &Batch) -> bool {
        self.record_count == batch.header.record_count
            && (self.compression != batch.header.compression() || *self == Self::of(batch))
    }

    /// The timestamp of the first record, milliseconds.
    pub fn base_timestamp(&self) -> i64 {
        self.base_timestamp
    }

    /// How many records the batch holds.
    pub fn record_count(&self) -> i32 {
        self.record_count
    }

    /// How many messages of an old format may become one batch, where this batch ends so many records further on: as many as are before it, then its own.
    pub fn records_max(&self, records: i64) -> i64 {
        match records - i64::from(self.record_count) {
            before if before > 0 => before,
            _ => records.max(1),
        }
    }
}

/// What a log holds and diffluent can't read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// No batch that can be.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// A message of an old format.
    #[error(transparent)]
    Message(#[from] MessageError),
}

impl Unreadable {
    /// The offset behind it, where that is known.
    pub fn next_offset(&self) -> Option<i64> {
        match self {
            Self::Batch(_) => None,
            Self::Message(error) => Some(error.next_offset),
        }
    }
}

/// The record batches in the answer to a Fetch at offset `from`, in order.
///
/// A Fetch may end in the middle of a batch: that part is left out. The batches share the answer's memory, but for those that are made of messages of old
/// formats ([`crate::wire::message_set`]): they begin at `from`.
pub fn fetched(records: Bytes, from: i64, since: Instant) -> Fetched {
    Fetched { rest: records, from, since, converted_records: 0 }
}

/// See [`fetched`].
#[derive(Debug)]
pub struct Fetched {
    rest: Bytes,
    /// Offsets below this were given, or are not wanted.
    from: i64,
    since: Instant,
    converted_records: u64,
}

impl Fetched {
    /// The next batch. If it has to be made of messages of an old format, it gets at most `records_max` of them.
    pub fn next_batch(&mut self, records_max: i32) -> Option<Result<Batch, Unreadable>> {
        let batch = if is_old(&self.rest)? { self.convert(records_max) } else { self.verbatim() };
        match &batch {
            Some(Ok(batch)) => self.from = self.from.max(batch.header.next_offset()),
            Some(Err(_)) => self.rest.clear(),
            None => {}
        }
        batch
    }

    /// Records since it was last asked that were of an old format.
    pub fn take_converted_records(&mut self) -> u64 {
        std::mem::take(&mut self.converted_records)
    }

    fn verbatim(&mut self) -> Option<Result<Batch, Unreadable>> {
        let head = self.rest.first_chunk::<HEADER_LEN>()?;
        match BatchHeader::decode(head) {
            Ok(header) if header.total_len() <= self.rest.len() => {
                let bytes = self.rest.split_to(header.total_len());
                let segments: Segments = SmallVec::from_iter([bytes]);
                Some(Batch::new(segments, Feed::CatchUp, self.since).map_err(Unreadable::from))
            }
            Ok(_) => None,
            Err(error) => Some(Err(error.into())),
        }
    }

    fn convert(&mut self, records_max: i32) -> Option<Result<Batch, Unreadable>> {
        let Conversion { batch, used, .. } = match convert(&self.rest, self.from..i64::MAX, records_max) {
            Ok(conversion) => conversion,
            Err(error) => return Some(Err(error.into())),
        };
        self.rest.advance(used);
        match batch {
            Some((header, records)) => {
                self.converted_records += u64::from(header.record_count.unsigned_abs());
                let records = SmallVec::from_iter([records]);
                Some(Ok(Batch { header, records, feed: Feed::CatchUp, since: self.since }))
            }
            // Messages that are not wanted, in front of a batch of today's format.
            None if used > 0 && is_old(&self.rest) == Some(false) => self.verbatim(),
            None => None,
        }
    }
}

impl Iterator for Fetched {
    type Item = Result<Batch, Unreadable>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_batch(i32::MAX)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::wire::batch::{Identity, rewritten_header};

    /// A batch of `count` records at an offset, whose records are `fill` bytes of that value.
    pub(crate) fn bytes_of(base_offset: i64, count: i32, fill: usize, attributes: i16, identity: Identity) -> Bytes {
        let records = vec![base_offset as u8; fill];
        let header = BatchHeader {
            base_offset,
            batch_length: (49 + fill) as i32,
            leader_epoch: 0,
            crc: 0,
            attributes,
            last_offset_delta: count - 1,
            base_timestamp: 1_000,
            max_timestamp: 1_000,
            producer_id: identity.producer_id,
            producer_epoch: identity.producer_epoch,
            base_sequence: identity.base_sequence,
            record_count: count,
        };
        let mut bytes = rewritten_header(&header, identity, std::iter::once(records.as_slice())).to_vec();
        bytes[..8].copy_from_slice(&base_offset.to_be_bytes());
        bytes[12..16].copy_from_slice(&0_i32.to_be_bytes());
        bytes[21..23].copy_from_slice(&attributes.to_be_bytes());
        bytes.extend_from_slice(&records);
        Bytes::from(bytes)
    }

    pub(crate) const CLIENT: Identity = Identity { producer_id: -1, producer_epoch: -1, base_sequence: -1 };

    #[test]
    fn a_batch_is_read_whatever_its_pieces() {
        let bytes = bytes_of(40, 3, 20, 0, CLIENT);
        for cut in 0..bytes.len() {
            let segments: Segments = SmallVec::from_iter([bytes.slice(..cut), bytes.slice(cut..)]);
            let batch = Batch::new(segments, Feed::Capture, Instant::now()).expect("a batch");
            assert_eq!((batch.header.base_offset, batch.header.next_offset(), batch.len()), (40, 43, 81));
            assert_eq!(batch.records.iter().flat_map(|piece| piece.iter().copied()).collect::<Vec<_>>(), [40; 20]);
        }
    }

    #[test]
    fn a_fetch_that_ends_inside_a_batch_gives_the_whole_ones() {
        let mut log = bytes_of(0, 2, 5, 0, CLIENT).to_vec();
        log.extend_from_slice(&bytes_of(2, 1, 9, 0, CLIENT));
        log.extend_from_slice(&bytes_of(3, 1, 9, 0, CLIENT)[..64]);
        let offsets: Vec<i64> = fetched(Bytes::from(log), 0, Instant::now())
            .map(|batch| batch.expect("a batch").header.base_offset)
            .collect();
        assert_eq!(offsets, [0, 2]);
    }

    #[test]
    fn a_header_that_lies_about_its_length_is_refused() {
        let bytes = bytes_of(0, 1, 9, 0, CLIENT);
        let segments: Segments = SmallVec::from_iter([bytes.slice(..bytes.len() - 1)]);
        assert_eq!(Batch::new(segments, Feed::Capture, Instant::now()).err(), Some(BatchError::Short));
    }
}
