//! Skims over the fields of a message of any size, chunk by chunk, in constant memory.
//!
//! A message's shape is a static list of [`Field`]s; only what must be counted to find the end is looked at. Made for flexible versions
//! (KIP-482) only: everything that is streamed is newer than they are.

use crate::wire::cursor::{ReadError, UvarintReader, to_usize};

/// Arrays inside arrays, with the message itself: topics, partitions and what is in them.
const DEPTH_MAX: usize = 4;

/// A field, as far as skipping it is concerned.
#[derive(Clone, Copy, Debug)]
pub enum Field {
    /// This many bytes: numbers, uuids, or several of them in a row.
    Fixed(usize),
    /// Compact string, bytes or records: uvarint of length plus one, 0 for null.
    Compact,
    /// Compact array of such elements: uvarint of count plus one, 0 for null.
    Array(&'static [Field]),
    /// A tag section.
    Tags,
}

/// A tag section alone.
pub const TAGS: &[Field] = &[Field::Tags];

#[derive(Clone, Copy, Debug)]
struct Level {
    fields: &'static [Field],
    next: usize,
    elements_left: u32,
}

#[derive(Clone, Copy, Debug)]
enum Expect {
    Field,
    Length,
    Count(&'static [Field]),
    TagCount,
    TagNumber(u32),
    TagSize(u32),
}

/// A resumable pass over one message's fields.
#[derive(Clone, Debug)]
pub struct Skim {
    levels: [Level; DEPTH_MAX],
    depth: usize,
    expect: Expect,
    uvarint: UvarintReader,
    skip: usize,
}

impl Skim {
    /// Starts at the first of `fields`.
    pub fn new(fields: &'static [Field]) -> Self {
        let level = Level { fields, next: 0, elements_left: 0 };
        Self { levels: [level; DEPTH_MAX], depth: 1, expect: Expect::Field, uvarint: UvarintReader::default(), skip: 0 }
    }

    /// Goes on with the next bytes. `Some(n)`: the fields end after `n` of them. `None`: all are used and more are needed.
    ///
    /// # Errors
    /// Only `Malformed`.
    pub fn walk(&mut self, chunk: &[u8]) -> Result<Option<usize>, ReadError> {
        let mut position = 0;
        loop {
            let left = chunk.len() - position;
            if self.skip > left {
                self.skip -= left;
                return Ok(None);
            }
            position += std::mem::take(&mut self.skip);
            if let Expect::Field = self.expect {
                if !self.next_field() {
                    return Ok(Some(position));
                }
                continue;
            }
            let Some(&byte) = chunk.get(position) else { return Ok(None) };
            position += 1;
            if let Some(value) = self.uvarint.push(byte)? {
                self.take_uvarint(value)?;
            }
        }
    }

    /// Moves to the next field; false at the end of all.
    fn next_field(&mut self) -> bool {
        while let Some(level) = self.depth.checked_sub(1).and_then(|top| self.levels.get_mut(top)) {
            let Some(field) = level.fields.get(level.next) else {
                if level.elements_left > 0 {
                    level.elements_left -= 1;
                    level.next = 0;
                } else {
                    self.depth -= 1;
                }
                continue;
            };
            level.next += 1;
            match *field {
                Field::Fixed(bytes) => self.skip = bytes,
                Field::Compact => self.expect = Expect::Length,
                Field::Array(element) => self.expect = Expect::Count(element),
                Field::Tags => self.expect = Expect::TagCount,
            }
            return true;
        }
        false
    }

    fn take_uvarint(&mut self, value: u32) -> Result<(), ReadError> {
        self.expect = match self.expect {
            Expect::Field => Expect::Field,
            Expect::Length => {
                self.skip = to_usize(value.saturating_sub(1));
                Expect::Field
            }
            Expect::Count(element) => {
                if let Some(elements_left) = value.checked_sub(2) {
                    // The shapes are ours, and none is deeper.
                    let level =
                        self.levels.get_mut(self.depth).ok_or(ReadError::Malformed("arrays nested too deeply"))?;
                    *level = Level { fields: element, next: 0, elements_left };
                    self.depth += 1;
                }
                Expect::Field
            }
            Expect::TagCount => value.checked_sub(1).map_or(Expect::Field, Expect::TagNumber),
            Expect::TagNumber(left) => Expect::TagSize(left),
            Expect::TagSize(left) => {
                self.skip = to_usize(value);
                left.checked_sub(1).map_or(Expect::Field, Expect::TagNumber)
            }
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: &[Field] =
        &[Field::Fixed(2), Field::Array(&[Field::Compact, Field::Array(&[Field::Fixed(4)]), Field::Tags]), Field::Tags];

    fn message() -> Vec<u8> {
        let mut bytes = vec![1, 2, 4];
        bytes.extend([3, b'a', b'b', 3, 0, 0, 0, 1, 0, 0, 0, 2, 0]);
        bytes.extend([0, 0, 2, 0, 1, 9, 7, 0]);
        bytes.extend([1, 1, 0]);
        bytes.extend([1, 0, 2, 5, 5]);
        bytes
    }

    #[test]
    fn the_end_is_found_whatever_the_chunks() {
        let whole = message();
        let mut followed = whole.clone();
        followed.extend([0xee; 3]);
        assert_eq!(Skim::new(SHAPE).walk(&followed), Ok(Some(whole.len())));
        for chunk in 1..whole.len() {
            let mut skim = Skim::new(SHAPE);
            let mut walked = 0;
            let mut end = None;
            for part in followed.chunks(chunk) {
                end = skim.walk(part).unwrap().map(|n| walked + n);
                walked += part.len();
                if end.is_some() {
                    break;
                }
            }
            assert_eq!(end, Some(whole.len()), "chunks of {chunk}");
        }
    }

    #[test]
    fn a_lying_count_asks_for_more_bytes_and_nothing_else() {
        let mut bytes = vec![0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f];
        bytes.extend([0; 100]);
        assert_eq!(Skim::new(SHAPE).walk(&bytes), Ok(None));
    }
}
