//! The one place where addresses and versions in answers are changed.
//!
//! [`find`] looks for addresses in as much of an answer as there is, [`crate::wire::splice::splice`] puts others in their
//! place. Whatever is not changed leaves byte for byte.
//!
//! Never rewritten, because clients do not dial them through us: ACL hosts (29-31), endpoints of StreamsGroupHeartbeat (88),
//! controller endpoints (DescribeQuorum 55, AddRaftVoter 80, DescribeCluster with endpoint type 2).

use crate::wire::cursor::{Cursor, ReadError};
use crate::wire::skim::{Field, Skim};
use crate::wire::splice::{Head, Spots, read_address};
use crate::wire::versions::{
    self, DESCRIBE_CLUSTER, FETCH, FIND_COORDINATOR, Inspected, METADATA, PRODUCE, Rewrite, SHARE_ACKNOWLEDGE,
    SHARE_FETCH,
};
use crate::wire::{fetch, share};

/// Error code UNSUPPORTED_VERSION.
const UNSUPPORTED_VERSION: i16 = 35;

/// DescribeCluster's endpoint type for brokers (KIP-919).
const ENDPOINT_TYPE_BROKERS: i8 = 1;

/// Where an answer's node endpoints are, behind everything else.
#[derive(Clone, Copy, Debug)]
pub enum Tail {
    /// In tagged field 0 of the last tag section. What stands before it.
    Tag(&'static [Field]),
    /// In an array followed by the last tag section. What stands before it.
    Array(&'static [Field]),
}

impl Tail {
    /// The fields from the correlation id to the tail.
    pub fn before(&self) -> &'static [Field] {
        match self {
            Tail::Tag(fields) | Tail::Array(fields) => fields,
        }
    }
}

/// What is to be done with an answer.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// Nothing: it passes.
    Opaque,
    /// Held until its head is there: [`find`].
    Head,
    /// Node endpoints at its end: small ones are held ([`find`]), large ones blanked ([`crate::wire::endpoints`]).
    Tail(Tail),
    /// Held until it is complete: [`cap_versions`].
    Versions,
}

/// What is to be done with the answer to this version of this API.
pub fn answer(api_key: i16, version: i16) -> Answer {
    let Some(entry) = versions::inspected(api_key) else { return Answer::Opaque };
    match entry.rewrite {
        Rewrite::Head => Answer::Head,
        Rewrite::Versions => Answer::Versions,
        Rewrite::EndpointsTag { since } if version < since => Answer::Opaque,
        Rewrite::EndpointsTag { .. } | Rewrite::EndpointsArray => {
            tail(api_key, version).map_or(Answer::Opaque, Answer::Tail)
        }
    }
}

fn tail(api_key: i16, version: i16) -> Option<Tail> {
    match (api_key, version) {
        (PRODUCE, ..=12) => Some(Tail::Tag(fetch::PRODUCE_ANSWER_BY_NAME)),
        (PRODUCE, _) => Some(Tail::Tag(fetch::PRODUCE_ANSWER_BY_ID)),
        (FETCH, _) => Some(Tail::Tag(fetch::ANSWER)),
        (SHARE_FETCH, ..=0) => Some(Tail::Array(share::FETCH_ANSWER_V0)),
        (SHARE_FETCH, _) => Some(Tail::Array(share::FETCH_ANSWER)),
        (SHARE_ACKNOWLEDGE, ..=1) => Some(Tail::Array(share::ACKNOWLEDGE_ANSWER_V1)),
        (SHARE_ACKNOWLEDGE, _) => Some(Tail::Array(share::ACKNOWLEDGE_ANSWER_V2)),
        _ => None,
    }
}

/// Finds the addresses of an answer to `version` of `api_key`. `message` starts at the correlation id. Answers with the
/// addresses in their head need not be complete, others must.
///
/// # Errors
/// `Incomplete`: the head is not all there. `Malformed`: not such an answer.
pub fn find(api_key: i16, version: i16, message: &[u8]) -> Result<Head<'_>, ReadError> {
    let entry = versions::inspected(api_key).ok_or(ReadError::Malformed("not an API that we rewrite"))?;
    match api_key {
        METADATA => metadata(entry, version, message),
        FIND_COORDINATOR => find_coordinator(entry, version, message),
        DESCRIBE_CLUSTER => describe_cluster(version, message),
        _ => match tail(api_key, version) {
            Some(Tail::Tag(before)) => endpoints_tag(before, message),
            Some(Tail::Array(before)) => endpoints_array(before, message),
            None => Err(ReadError::Malformed("not an API that we rewrite")),
        },
    }
}

fn answer_header<'a>(message: &'a [u8], flexible: bool) -> Result<Cursor<'a>, ReadError> {
    let mut cursor = Cursor::new(message);
    cursor.i32()?;
    if flexible {
        cursor.skip_tags()?;
    }
    Ok(cursor)
}

/// Metadata 0-13: the brokers are among the first fields.
fn metadata<'a>(entry: &Inspected, version: i16, message: &'a [u8]) -> Result<Head<'a>, ReadError> {
    let flexible = entry.is_flexible(version);
    let mut cursor = answer_header(message, flexible)?;
    if version >= 3 {
        cursor.i32()?;
    }
    let mut spots = Spots::new();
    for _ in 0..cursor.array_count(flexible)? {
        let node_id = cursor.i32()?;
        read_address(&mut cursor, node_id, flexible, &mut spots)?;
        if version >= 1 {
            cursor.nullable_string(flexible)?;
        }
        if flexible {
            cursor.skip_tags()?;
        }
    }
    Ok(Head::new(spots, cursor.position()))
}

/// FindCoordinator 0-3: one; 4-6: several (KIP-699).
fn find_coordinator<'a>(entry: &Inspected, version: i16, message: &'a [u8]) -> Result<Head<'a>, ReadError> {
    let flexible = entry.is_flexible(version);
    let mut cursor = answer_header(message, flexible)?;
    if version >= 1 {
        cursor.i32()?;
    }
    let mut spots = Spots::new();
    if version < 4 {
        cursor.i16()?;
        if version >= 1 {
            cursor.nullable_string(flexible)?;
        }
        let node_id = cursor.i32()?;
        read_address(&mut cursor, node_id, flexible, &mut spots)?;
    } else {
        for _ in 0..cursor.array_count(flexible)? {
            cursor.string(flexible)?;
            let node_id = cursor.i32()?;
            read_address(&mut cursor, node_id, flexible, &mut spots)?;
            cursor.i16()?;
            cursor.nullable_string(flexible)?;
            cursor.skip_tags()?;
        }
    }
    Ok(Head::new(spots, cursor.position()))
}

/// DescribeCluster 0-2.
fn describe_cluster(version: i16, message: &[u8]) -> Result<Head<'_>, ReadError> {
    let mut cursor = answer_header(message, true)?;
    cursor.i32()?;
    cursor.i16()?;
    cursor.nullable_string(true)?;
    if version >= 1 && cursor.i8()? != ENDPOINT_TYPE_BROKERS {
        return Ok(Head::new(Spots::new(), cursor.position()));
    }
    cursor.nullable_string(true)?;
    cursor.i32()?;
    let mut spots = Spots::new();
    for _ in 0..cursor.array_count(true)? {
        let node_id = cursor.i32()?;
        read_address(&mut cursor, node_id, true, &mut spots)?;
        cursor.nullable_string(true)?;
        if version >= 2 {
            cursor.i8()?;
        }
        cursor.skip_tags()?;
    }
    Ok(Head::new(spots, cursor.position()))
}

/// The bytes before the tail; a complete message that ends inside them is malformed.
fn skim_to_tail(before: &'static [Field], message: &[u8]) -> Result<usize, ReadError> {
    Skim::new(before).walk(message)?.ok_or(ReadError::Malformed("the answer ends before its last field"))
}

fn node_endpoints<'a>(cursor: &mut Cursor<'a>) -> Result<Spots<'a>, ReadError> {
    let mut spots = Spots::new();
    for _ in 0..cursor.array_count(true)? {
        let node_id = cursor.i32()?;
        read_address(cursor, node_id, true, &mut spots)?;
        cursor.nullable_string(true)?;
        cursor.skip_tags()?;
    }
    Ok(spots)
}

fn complete(error: ReadError) -> ReadError {
    match error {
        ReadError::Incomplete => ReadError::Malformed("node endpoints end too early"),
        malformed => malformed,
    }
}

/// Produce 10-13, Fetch 16-18: tagged field 0 (KIP-951).
fn endpoints_tag<'a>(before: &'static [Field], message: &'a [u8]) -> Result<Head<'a>, ReadError> {
    let mut cursor = Cursor::new(message);
    cursor.take(skim_to_tail(before, message)?)?;
    for _ in 0..cursor.uvarint().map_err(complete)? {
        let number = cursor.uvarint().map_err(complete)?;
        let size_at = cursor.position();
        let size = cursor.uvarint().map_err(complete)?;
        if number == 0 {
            let spots = node_endpoints(&mut cursor).map_err(complete)?;
            let mut head = Head::new(spots, cursor.position());
            head.enclosing_size = (!head.spots.is_empty()).then_some((size_at, size));
            return Ok(head);
        }
        cursor.take(crate::wire::cursor::to_usize(size)).map_err(complete)?;
    }
    Ok(Head::new(Spots::new(), cursor.position()))
}

/// ShareFetch and ShareAcknowledge 0-2: a plain array.
fn endpoints_array<'a>(before: &'static [Field], message: &'a [u8]) -> Result<Head<'a>, ReadError> {
    let mut cursor = Cursor::new(message);
    cursor.take(skim_to_tail(before, message)?)?;
    let spots = node_endpoints(&mut cursor).map_err(complete)?;
    Ok(Head::new(spots, cursor.position()))
}

/// Cuts an ApiVersions answer down to the versions that we can read or rewrite; `None` when nothing is to be cut. `message` is the
/// complete answer to `version` from its correlation id on; the result is a frame with its length.
///
/// An API whose lowest version at the broker is above our highest is left out. Minimums stay: raising Produce's made librdkafka stop compressing
/// (librdkafka issue 4956, KAFKA-18659).
///
/// # Errors
/// `Malformed` when it is no such answer.
///
/// # References
/// KIP-511: an answer with UNSUPPORTED_VERSION always has the body of version 0, and the header never has tags.
pub fn cap_versions(version: i16, message: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
    cap(version, message).map_err(|error| match error {
        ReadError::Incomplete => ReadError::Malformed("the list of versions ends too early"),
        malformed => malformed,
    })
}

fn cap(version: i16, message: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
    let mut cursor = answer_header(message, false)?;
    let error_code = cursor.i16()?;
    let flexible = version >= 3 && error_code != UNSUPPORTED_VERSION;
    let count_at = cursor.position();
    let count = cursor.array_count(flexible)?;
    let entries_at = cursor.position();
    let mut out = Vec::with_capacity(4 + message.len());
    let mut kept = 0_u32;
    let mut changed = false;
    for _ in 0..count {
        let start = cursor.position();
        let (api_key, version_min, version_max) = (cursor.i16()?, cursor.i16()?, cursor.i16()?);
        if flexible {
            cursor.skip_tags()?;
        }
        let entry = message.get(start..cursor.position()).ok_or(ReadError::Incomplete)?;
        let ours = versions::inspected(api_key).map_or(version_max, |inspected| inspected.version_max);
        if version_min > ours {
            changed = true;
            continue;
        }
        changed |= ours < version_max;
        kept += 1;
        out.extend(entry.get(..4).ok_or(ReadError::Incomplete)?);
        out.extend(version_max.min(ours).to_be_bytes());
        out.extend(entry.get(6..).ok_or(ReadError::Incomplete)?);
    }
    if !changed {
        return Ok(None);
    }
    let rest = message.get(cursor.position()..).ok_or(ReadError::Incomplete)?;
    let mut count_bytes = Vec::with_capacity(5);
    if flexible {
        crate::wire::cursor::put_uvarint(&mut count_bytes, kept.saturating_add(1));
    } else {
        count_bytes.extend(kept.to_be_bytes());
    }
    debug_assert!(entries_at > count_at);
    let before = message.get(..count_at).ok_or(ReadError::Incomplete)?;
    let frame_bytes = before.len() + count_bytes.len() + out.len() + rest.len();
    let frame_bytes = i32::try_from(frame_bytes).map_err(|_| ReadError::Malformed("the frame gets too long"))?;
    let mut frame = Vec::with_capacity(4 + message.len());
    frame.extend(frame_bytes.to_be_bytes());
    frame.extend(before);
    frame.extend(count_bytes);
    frame.extend(out);
    frame.extend(rest);
    Ok(Some(frame))
}
