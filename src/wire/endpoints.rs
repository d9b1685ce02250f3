//! Node endpoints at the end of large answers, taken out in place.
//!
//! An answer that is streamed has told its length before its end is seen, so its addresses can't be rewritten. They are
//! turned into something that clients skip, of the same length: an unknown tagged field, filled with zeros. The client then
//! asks for metadata, as it does when a broker gives no endpoints. (Small answers are held and rewritten properly, see
//! [`crate::wire::rewrite`].)
//!
//! # References
//! KIP-951 (node endpoints), KIP-482 (unknown tags are skipped).

use crate::wire::cursor::{ReadError, UvarintReader, to_usize};
use crate::wire::rewrite::Tail;
use crate::wire::skim::Skim;

/// A tag number that Kafka does not use and that fits one byte. Readers do not mind that a field of a higher number may precede
/// others.
const TAG_UNKNOWN: u8 = 0x7f;

/// The smallest array tail: count, an element's node id, host, port, rack, tags, and the last tag section.
const ARRAY_TAIL_BYTES_MIN: usize = 1 + 4 + 1 + 4 + 1 + 1 + 1;

#[derive(Clone, Copy, Debug)]
enum Step {
    Skim,
    TagCount,
    TagNumber { fields_left: u32 },
    TagSize { fields_left: u32, endpoints: bool },
    TagData { fields_left: u32, endpoints: bool, bytes_left: usize },
    ArrayCount,
    Array { prefix: [u8; 8], prefix_bytes: usize, at: usize },
    Done,
}

/// A resumable pass over one answer that blanks its node endpoints.
#[derive(Clone, Debug)]
pub struct Blanker {
    skim: Skim,
    tail: Tail,
    step: Step,
    uvarint: UvarintReader,
    frame_left: usize,
}

impl Blanker {
    /// For an answer of `frame_bytes` behind its length, whose endpoints are where `tail` says.
    pub fn new(tail: Tail, frame_bytes: usize) -> Self {
        Self {
            skim: Skim::new(tail.before()),
            tail,
            step: Step::Skim,
            uvarint: UvarintReader::default(),
            frame_left: frame_bytes,
        }
    }

    /// Bytes of the frame that are still to come.
    pub fn frame_left(&self) -> usize {
        self.frame_left
    }

    /// Goes on with the frame's next bytes (not more than [`Blanker::frame_left`]), and changes them where needed.
    ///
    /// # Errors
    /// `Malformed` when the frame has another shape, or ends too early.
    pub fn walk(&mut self, chunk: &mut [u8]) -> Result<(), ReadError> {
        let frame_left = self.frame_left;
        self.frame_left = frame_left.checked_sub(chunk.len()).ok_or(ReadError::Malformed("beyond the frame"))?;
        let mut position = 0;
        if let Step::Skim = self.step {
            if let Some(end) = self.skim.walk(chunk)? {
                position = end;
                self.step = match self.tail {
                    Tail::Tag(_) => Step::TagCount,
                    Tail::Array(_) => Step::ArrayCount,
                };
            } else {
                position = chunk.len();
            }
        }
        let tail_left = frame_left - position;
        if let Some(rest) = chunk.get_mut(position..) {
            self.tail(rest, tail_left)?;
        }
        if self.frame_left == 0 && !matches!(self.step, Step::Done) {
            return Err(ReadError::Malformed("the answer ends before its last field"));
        }
        Ok(())
    }

    /// `tail_left` counts the frame's bytes from the first of `rest` on.
    fn tail(&mut self, rest: &mut [u8], tail_left: usize) -> Result<(), ReadError> {
        for (index, byte) in rest.iter_mut().enumerate() {
            self.step = match self.step {
                Step::Skim | Step::Done => return Ok(()),
                Step::TagCount => match self.uvarint.push(*byte)? {
                    Some(count) => next_field(count),
                    None => Step::TagCount,
                },
                // Numbers ascend, so the field comes first; but a client would read it anywhere.
                Step::TagNumber { fields_left } if *byte == 0 && !self.uvarint.is_begun() => {
                    *byte = TAG_UNKNOWN;
                    Step::TagSize { fields_left, endpoints: true }
                }
                Step::TagNumber { fields_left } => match self.uvarint.push(*byte)? {
                    Some(0) => return Err(ReadError::Malformed("a padded field number")),
                    Some(_) => Step::TagSize { fields_left, endpoints: false },
                    None => Step::TagNumber { fields_left },
                },
                Step::TagSize { fields_left, endpoints } => match self.uvarint.push(*byte)? {
                    Some(0) => next_field(fields_left),
                    Some(size) => Step::TagData { fields_left, endpoints, bytes_left: to_usize(size) },
                    None => Step::TagSize { fields_left, endpoints },
                },
                Step::TagData { fields_left, endpoints, bytes_left } => {
                    if endpoints {
                        *byte = 0;
                    }
                    match bytes_left {
                        0 | 1 => next_field(fields_left),
                        _ => Step::TagData { fields_left, endpoints, bytes_left: bytes_left - 1 },
                    }
                }
                Step::ArrayCount if *byte <= 1 => Step::Done,
                Step::ArrayCount => {
                    let (prefix, prefix_bytes) = blank_array(tail_left - index)?;
                    let [first, ..] = prefix;
                    *byte = first;
                    Step::Array { prefix, prefix_bytes, at: 1 }
                }
                Step::Array { prefix, prefix_bytes, at } => {
                    *byte = if at < prefix_bytes { prefix.get(at).copied().unwrap_or(0) } else { 0 };
                    Step::Array { prefix, prefix_bytes, at: at + 1 }
                }
            };
        }
        if self.frame_left == 0 && matches!(self.step, Step::Array { .. }) {
            self.step = Step::Done;
        }
        Ok(())
    }
}

/// What comes behind a field, or behind the count, with so many fields to come.
fn next_field(fields: u32) -> Step {
    fields.checked_sub(1).map_or(Step::Done, |fields_left| Step::TagNumber { fields_left })
}

/// The first bytes of a tail of `tail_bytes` that says: no endpoints; one unknown tagged field up to the end.
fn blank_array(tail_bytes: usize) -> Result<([u8; 8], usize), ReadError> {
    if tail_bytes < ARRAY_TAIL_BYTES_MIN {
        return Err(ReadError::Malformed("node endpoints end too early"));
    }
    // The size is padded to as many bytes as make the sum come out even.
    for size_bytes in 1..=5_usize {
        let size = tail_bytes - 3 - size_bytes;
        if size >> (7 * size_bytes) == 0 {
            let mut prefix = [1, 1, TAG_UNKNOWN, 0, 0, 0, 0, 0];
            for (index, byte) in prefix.iter_mut().skip(3).take(size_bytes).enumerate() {
                let more = if index + 1 < size_bytes { 0x80 } else { 0 };
                *byte = ((size >> (7 * index)) & 0x7f) as u8 | more;
            }
            return Ok((prefix, 3 + size_bytes));
        }
    }
    Err(ReadError::Malformed("node endpoints too long"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::cursor::Cursor;

    #[test]
    fn an_array_tail_of_any_length_becomes_one_unknown_field_of_that_length() {
        for tail_bytes in (ARRAY_TAIL_BYTES_MIN..400).chain(16_300..16_500) {
            let (prefix, prefix_bytes) = blank_array(tail_bytes).unwrap();
            let mut tail = prefix[..prefix_bytes].to_vec();
            tail.resize(tail_bytes, 0);
            let mut cursor = Cursor::new(&tail);
            assert_eq!(cursor.array_count(true), Ok(0));
            cursor.skip_tags().unwrap();
            assert!(cursor.is_empty(), "{tail_bytes}");
        }
    }
}
