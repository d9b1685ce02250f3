//! A bounded reader over a peer's bytes.
//!
//! Every read either succeeds inside the given slice, says that more bytes are needed, or says what is wrong. Nothing is
//! allocated, so a lying length costs nothing.
//!
//! # References
//! <https://kafka.apache.org/protocol#protocol_types>

use bytes::BufMut;
use thiserror::Error;

/// A uvarint of 32 bits takes at most this many bytes.
pub const UVARINT_BYTES_MAX: usize = 5;

/// Why a read did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ReadError {
    /// The slice ends inside the value; with more bytes the same read may succeed.
    #[error("more bytes are needed")]
    Incomplete,
    /// No further byte can make this a valid value.
    #[error("{0}")]
    Malformed(&'static str),
}

/// A position in a slice that a peer sent.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a> {
    data: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    /// Starts at the first byte of `data`.
    pub fn new(data: &'a [u8]) -> Self {
        Self { data, position: 0 }
    }

    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Bytes left.
    pub fn remaining(&self) -> usize {
        self.data.len().saturating_sub(self.position)
    }

    /// Whether all bytes are read.
    pub fn is_empty(&self) -> bool {
        self.remaining() == 0
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], ReadError> {
        let end = self.position.checked_add(count).ok_or(ReadError::Incomplete)?;
        let taken = self.data.get(self.position..end).ok_or(ReadError::Incomplete)?;
        self.position = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ReadError> {
        self.take(N)?.try_into().map_err(|_| ReadError::Incomplete)
    }

    /// A signed byte.
    pub fn i8(&mut self) -> Result<i8, ReadError> {
        Ok(i8::from_be_bytes(self.array()?))
    }

    /// A big-endian 16-bit number.
    pub fn i16(&mut self) -> Result<i16, ReadError> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    /// A big-endian 32-bit number.
    pub fn i32(&mut self) -> Result<i32, ReadError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    /// A big-endian 64-bit number.
    pub fn i64(&mut self) -> Result<i64, ReadError> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    /// A topic id and the like: 16 bytes.
    pub fn uuid(&mut self) -> Result<[u8; 16], ReadError> {
        self.array()
    }

    /// An unsigned varint of at most five bytes. Padded encodings are taken, as Kafka's own readers do.
    pub fn uvarint(&mut self) -> Result<u32, ReadError> {
        let mut reader = UvarintReader::default();
        loop {
            let [byte] = self.array::<1>()?;
            if let Some(value) = reader.push(byte)? {
                return Ok(value);
            }
        }
    }

    /// A string of the old (16-bit length) or compact encoding; `None` for null.
    pub fn nullable_string(&mut self, compact: bool) -> Result<Option<&'a [u8]>, ReadError> {
        if compact {
            return self.compact_nullable();
        }
        match self.i16()? {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length).map_err(|_| ReadError::Malformed("negative string length"))?;
                self.take(length).map(Some)
            }
        }
    }

    /// A string that must not be null.
    pub fn string(&mut self, compact: bool) -> Result<&'a [u8], ReadError> {
        self.nullable_string(compact)?.ok_or(ReadError::Malformed("null string"))
    }

    /// A compact string or byte array: uvarint of length plus one, 0 for null (KIP-482).
    pub fn compact_nullable(&mut self) -> Result<Option<&'a [u8]>, ReadError> {
        match self.uvarint()?.checked_sub(1) {
            None => Ok(None),
            Some(length) => self.take(to_usize(length)).map(Some),
        }
    }

    /// Bytes of the old (32-bit length) or compact encoding; `None` for null.
    pub fn nullable_bytes(&mut self, compact: bool) -> Result<Option<&'a [u8]>, ReadError> {
        if compact {
            return self.compact_nullable();
        }
        match self.i32()? {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length).map_err(|_| ReadError::Malformed("negative bytes length"))?;
                self.take(length).map(Some)
            }
        }
    }

    /// An array's element count, 0 for null. The count is the peer's word: loop over it, never allocate by it.
    pub fn array_count(&mut self, compact: bool) -> Result<u32, ReadError> {
        if compact {
            return Ok(self.uvarint()?.saturating_sub(1));
        }
        match self.i32()? {
            -1 => Ok(0),
            count => u32::try_from(count).map_err(|_| ReadError::Malformed("negative array count")),
        }
    }

    /// One field of a tag section: number and data.
    pub fn tag(&mut self) -> Result<(u32, &'a [u8]), ReadError> {
        let number = self.uvarint()?;
        let size = self.uvarint()?;
        Ok((number, self.take(to_usize(size))?))
    }

    /// Skips a whole tag section (KIP-482).
    pub fn skip_tags(&mut self) -> Result<(), ReadError> {
        for _ in 0..self.uvarint()? {
            self.tag()?;
        }
        Ok(())
    }
}

/// An unsigned varint taken byte by byte, so that it may straddle two chunks.
#[derive(Clone, Copy, Debug, Default)]
pub struct UvarintReader {
    value: u32,
    bytes: u8,
}

impl UvarintReader {
    /// Whether a value's first bytes were taken, and not yet its last.
    pub fn is_begun(&self) -> bool {
        self.bytes > 0
    }

    /// Takes one byte; the value once it is complete. After that, or after an error, the reader starts anew.
    pub fn push(&mut self, byte: u8) -> Result<Option<u32>, ReadError> {
        let bits = u32::from(byte & 0x7f);
        if self.bytes == 4 && byte > 0x0f {
            *self = Self::default();
            return Err(ReadError::Malformed("uvarint longer than 32 bits"));
        }
        self.value |= bits << (7 * u32::from(self.bytes));
        self.bytes += 1;
        if byte & 0x80 != 0 {
            return Ok(None);
        }
        let value = self.value;
        *self = Self::default();
        Ok(Some(value))
    }
}

/// Appends an unsigned varint in its shortest form.
pub fn put_uvarint(out: &mut impl BufMut, mut value: u32) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// How many bytes [`put_uvarint`] writes for `value`.
pub fn uvarint_bytes(value: u32) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        0x20_0000..0x1000_0000 => 4,
        _ => 5,
    }
}

/// Widens a length from the wire; on the platforms that tokio supports nothing is lost.
pub(crate) fn to_usize(length: u32) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uvarint_is_read_as_it_was_written() {
        for value in [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, 268_435_455, 268_435_456, u32::MAX] {
            let mut out = Vec::new();
            put_uvarint(&mut out, value);
            assert_eq!(out.len(), uvarint_bytes(value));
            let mut cursor = Cursor::new(&out);
            assert_eq!(cursor.uvarint(), Ok(value));
            assert!(cursor.is_empty());
        }
    }

    #[test]
    fn a_uvarint_of_more_than_32_bits_is_malformed() {
        assert!(matches!(Cursor::new(&[0xff; 8]).uvarint(), Err(ReadError::Malformed(_))));
        assert!(matches!(Cursor::new(&[0xff, 0xff, 0xff, 0xff, 0x1f]).uvarint(), Err(ReadError::Malformed(_))));
    }

    #[test]
    fn a_length_beyond_the_slice_needs_more_bytes_and_moves_nothing() {
        let mut cursor = Cursor::new(&[0x7f, 0xff, 0xff, 0xff]);
        assert_eq!(cursor.nullable_bytes(false), Err(ReadError::Incomplete));
        let mut cursor = Cursor::new(&[1, 2]);
        assert_eq!(cursor.take(3), Err(ReadError::Incomplete));
        assert_eq!(cursor.position(), 0);
    }

    #[test]
    fn negative_lengths_other_than_null_are_malformed() {
        assert!(matches!(Cursor::new(&[0xff, 0xfe]).nullable_string(false), Err(ReadError::Malformed(_))));
        assert!(matches!(Cursor::new(&[0xff, 0xff, 0xff, 0xfe]).nullable_bytes(false), Err(ReadError::Malformed(_))));
        assert!(matches!(Cursor::new(&[0x80, 0, 0, 0]).array_count(false), Err(ReadError::Malformed(_))));
        assert_eq!(Cursor::new(&[0xff, 0xff]).nullable_string(false), Ok(None));
    }

    #[test]
    fn a_tag_section_is_skipped_whole() {
        let mut cursor = Cursor::new(&[2, 0, 1, 9, 5, 2, 8, 8, 42]);
        cursor.skip_tags().unwrap();
        assert_eq!(cursor.i8(), Ok(42));
    }
}
