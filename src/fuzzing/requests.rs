//! What clients send: frames, and the walk over a Produce request.

use std::ops::Range;

use arbitrary::{Result, Unstructured};

use super::messages::{Batch, blob, broken, produce_request as request, rest, split};
use crate::wire::cursor::ReadError;
use crate::wire::frame::{BadInput, request_length};
use crate::wire::produce::{RequestWalk, Topic, Visitor};

pub(super) fn frame_length(u: &mut Unstructured<'_>) -> Result<()> {
    let (prefix, first): ([u8; 4], bool) = u.arbitrary()?;
    let (min, max) = (u.int_in_range(0..=8_usize)?, u.int_in_range(8..=i32::MAX as usize)?);
    let said = i32::from_be_bytes(prefix);
    match request_length(prefix, first, min, max) {
        Ok(length) => assert!((min..=max).contains(&length) && length == said as usize),
        Err(BadInput::NegativeLength) => assert!(said < 0),
        Err(BadInput::FrameTooShort) => assert!((0..min as i32).contains(&said)),
        Err(BadInput::FrameTooLong) => assert!(said as usize > max),
        // As a frame it would be longer than any client means.
        Err(BadInput::TlsClientHello | BadInput::HttpRequest) => assert!(first && said >= 0x1603_0000),
        Err(other) => panic!("{other:?}"),
    }
    Ok(())
}

/// What a walk reported: acks, transactional, and per batch: topic, partition, records.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    acks: Option<(i16, bool)>,
    stop: bool,
    topic: Vec<u8>,
    batches: Vec<Batch>,
    claimed: Vec<usize>,
    ended: usize,
}

/// Ranges are of the part that is being walked.
struct Seeing<'a> {
    seen: &'a mut Seen,
    part: &'a [u8],
}

impl Visitor for Seeing<'_> {
    fn acks(&mut self, acks: i16, transactional: bool) -> bool {
        assert_eq!(self.seen.acks, None, "acks twice");
        self.seen.acks = Some((acks, transactional));
        !self.seen.stop
    }

    fn topic(&mut self, topic: Topic<'_>) {
        self.seen.topic = match topic {
            Topic::Name(name) => name.to_vec(),
            Topic::Id(id) => id.to_vec(),
        };
    }

    fn records(&mut self, partition: i32, bytes: usize) {
        self.seen.batches.push((self.seen.topic.clone(), partition, Vec::new()));
        self.seen.claimed.push(bytes);
    }

    fn range(&mut self, range: Range<usize>) {
        let (_, _, records) = self.seen.batches.last_mut().expect("a range belongs to a batch");
        records.extend(&self.part[range]);
    }

    fn records_end(&mut self) {
        let ended = self.seen.batches.last().expect("what ends has begun");
        assert_eq!(Some(&ended.2.len()), self.seen.claimed.last(), "records of another length than claimed");
        self.seen.ended += 1;
    }
}

/// Walks parts; whether all were understood.
fn walk(version: i16, stop: bool, parts: &[Vec<u8>]) -> (std::result::Result<bool, ReadError>, Seen) {
    let mut walk = RequestWalk::new(version);
    let mut seen = Seen { stop, ..Seen::default() };
    for part in parts {
        if let Err(error) = walk.walk(part, 0..part.len(), &mut Seeing { seen: &mut seen, part }) {
            return (Err(error), seen);
        }
    }
    (Ok(walk.is_done()), seen)
}

pub(super) fn produce_request(u: &mut Unstructured<'_>) -> Result<()> {
    let (seed, stop, version) = (u.arbitrary()?, u.ratio(1, 8)?, u.int_in_range(0..=13)?);
    if version < 3 {
        old_format(u, version, seed)?;
    }
    let valid = version >= 3 && u.ratio(1, 2)?;
    let (bytes, expected) = if valid {
        let (bytes, acks, transactional, batches) = request(u, version)?;
        (bytes, Some((acks, transactional, batches)))
    } else if u.arbitrary()? {
        (rest(u)?.to_vec(), None)
    } else {
        let bytes = request(u, version.max(3))?.0;
        let mut bytes = broken(u, bytes)?;
        bytes.extend(blob(u, 50)?);
        (bytes, None)
    };
    let frame = bytes.get(RequestWalk::STARTS_AT..).unwrap_or_default();
    let (split_result, in_parts) = walk(version, stop, &split(frame, seed));
    if let Some((acks, transactional, batches)) = expected {
        assert_eq!(split_result, Ok(true));
        assert_eq!(in_parts.acks, Some((acks, transactional)));
        let expected = if stop { Vec::new() } else { batches };
        assert_eq!(in_parts.ended, expected.len());
        assert_eq!(in_parts.batches, expected);
    } else {
        let (whole_result, whole) = walk(version, stop, &[frame.to_vec()]);
        assert_eq!(whole_result, split_result, "the chunks change what is understood");
        assert_eq!(whole, in_parts, "the chunks change what is seen");
    }
    Ok(())
}

/// Of versions 0 to 2 the acks are told, which no reference writes any more.
fn old_format(u: &mut Unstructured<'_>, version: i16, seed: u32) -> Result<()> {
    let acks = u.int_in_range(-1..=1_i16)?;
    let request = [&[0, 2, b'm', b'e'][..], &acks.to_be_bytes(), &[0, 0, 3, 0xe8], &[0, 0, 0, 0]].concat();
    let (result, seen) = walk(version, true, &split(&request, seed));
    assert_eq!((result, seen.acks), (Ok(true), Some((acks, false))));
    Ok(())
}
