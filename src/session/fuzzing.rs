//! The two walks of a session, over any bytes in any chunks.

use std::sync::Arc;

use arbitrary::{Result, Unstructured};
use bytes::Buf;
use uuid::Uuid;

use super::answers::{Answers, Out, Piece};
use super::brokers::{Advertise, Brokers};
use super::capturing::Capturing;
use super::in_flight::{Expected, InFlight, PendingBatch};
use super::metrics::SessionMetrics;
use super::requests::{Requests, Stop};
use super::watch::Activity;
use crate::capture::{Capture, Route, Routes};
use crate::fuzzing::messages::{self, Batch, CORRELATION_ID, blob, split};
use crate::mirror::inbox::Inbox;
use crate::net::buffers::{BufferPool, CHUNK_BYTES};
use crate::wire::frame::BadInput;
use crate::wire::header::RequestHeader;
use crate::wire::versions::{API_VERSIONS, FETCH, METADATA, PRODUCE, SASL_HANDSHAKE, inspected};

/// Two such parts and a carry fit a chunk.
const STREAM_BYTES_MAX: usize = CHUNK_BYTES / 2;

/// A capture that wants every topic of an id up to 9; names, as these are random, are not wanted.
fn capture() -> Arc<Capture> {
    let capture = Capture::new(1 << 30);
    let wanted = |id: u128| Route {
        topic: Arc::from(format!("topic-{id}")),
        id: Uuid::from_u128(id),
        inboxes: vec![Arc::new(Inbox::default())],
    };
    capture.set_routes(Routes::new((1..=9).map(wanted)));
    Arc::new(capture)
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut frame = (message.len() as i32).to_be_bytes().to_vec();
    frame.extend(message);
    frame
}

/// What came of a client's bytes.
#[derive(Debug, Default, PartialEq)]
struct Driven {
    forwarded: Vec<u8>,
    /// `None` for a raw token.
    expected: Vec<Option<RequestHeader>>,
    batches: Vec<Batch>,
    bad: Option<BadInput>,
    left: Vec<u8>,
}

fn take(in_flight: &InFlight, driven: &mut Driven) {
    while let Some(expected) = in_flight.pop() {
        match expected {
            Expected::Token => driven.expected.push(None),
            Expected::Request { header, batches } => {
                driven.expected.push(Some(header));
                for PendingBatch { topic, partition, bytes, segments } in batches {
                    let crate::capture::TopicRef::Id(id) = topic else { panic!("a topic that nobody wants") };
                    let records: Vec<u8> = segments.iter().flat_map(|segment| segment.chunk().to_vec()).collect();
                    assert_eq!(records.len(), bytes);
                    driven.batches.push((id.as_bytes().to_vec(), partition, records));
                }
            }
        }
    }
}

/// Does with each part what [`super::relay`] does. `None`: the queue was full, where captures depend on the moment.
fn drive(parts: &[Vec<u8>]) -> Option<Driven> {
    let (capture, pool, metrics) = (capture(), Arc::new(BufferPool::default()), SessionMetrics::default());
    let mut requests = Requests::new(1 << 20, Capturing::new(capture, true));
    let in_flight = InFlight::new(1024, Activity::default());
    let mut driven = Driven::default();
    for part in parts {
        let mut chunk = pool.take();
        let carried = driven.left.len();
        let filled = carried + part.len();
        chunk[..carried].copy_from_slice(&driven.left);
        chunk[carried..filled].copy_from_slice(part);
        let walked = requests.walk(&mut chunk[..filled], 0, &in_flight, &metrics);
        driven.forwarded.extend(&chunk[..walked.end]);
        driven.left = chunk[walked.end..filled].to_vec();
        requests.capturing.keep(chunk, &in_flight);
        match walked.stop {
            None => {}
            Some(Stop::Full) => return None,
            Some(Stop::Bad(bad)) => {
                driven.bad = Some(bad);
                driven.left.clear();
                break;
            }
        }
    }
    take(&in_flight, &mut driven);
    Some(driven)
}

/// Requests of all kinds, one behind the other, then perhaps any bytes.
pub(crate) fn client_frames(u: &mut Unstructured<'_>) -> Result<()> {
    let (seed, mut stream, mut expected) = (u.arbitrary()?, Vec::new(), Some(Driven::default()));
    for _ in 0..u.int_in_range(0..=8)? {
        let mut push = |frame: Vec<u8>, of: Option<RequestHeader>, forwarded: Option<Vec<u8>>, batches: Vec<Batch>| {
            stream.extend(&frame);
            if let Some(expected) = &mut expected {
                expected.forwarded.extend(forwarded.unwrap_or(frame));
                expected.expected.extend(of.map(Some));
                expected.batches.extend(batches.into_iter().filter(|(.., records)| !records.is_empty()));
            }
        };
        let header = |api_key, version| RequestHeader { api_key, version, correlation_id: CORRELATION_ID };
        match u.int_in_range(0..=5)? {
            0 | 1 => {
                let version = u.int_in_range(3..=13)?;
                let (frame, acks, transactional, batches) = messages::produce_request(u, version)?;
                let captured = acks == -1 && !transactional && version >= 13;
                let of = (acks != 0).then(|| header(PRODUCE, version));
                push(framed(&frame), of, None, if captured { batches } else { Vec::new() });
            }
            2 => {
                // An ApiVersions request of the future gets the version that no broker has, and the answer of version 0.
                let version = u.int_in_range(0..=20_i16)?;
                let bytes = |version: i16| {
                    framed(
                        &[&API_VERSIONS.to_be_bytes()[..], &version.to_be_bytes(), &CORRELATION_ID.to_be_bytes()]
                            .concat(),
                    )
                };
                let known = inspected(API_VERSIONS).is_some_and(|api| version <= api.version_max);
                let (asked, told) = if known { (version, version) } else { (i16::MAX, 0) };
                push(bytes(version), Some(header(API_VERSIONS, told)), Some(bytes(asked)), Vec::new());
            }
            3 | 4 => {
                // One that is not read: any version, any body.
                let api_key = u.int_in_range(0..=i16::MAX)?;
                let version = u.arbitrary()?;
                if inspected(api_key).is_some() || api_key == SASL_HANDSHAKE {
                    continue;
                }
                let body = blob(u, 2000)?;
                let start = [&api_key.to_be_bytes()[..], &i16::to_be_bytes(version), &CORRELATION_ID.to_be_bytes()];
                let frame = framed(&[&start.concat(), &body[..]].concat());
                // The first bytes of a connection may be those of another protocol only as a frame's length, which these are not.
                push(frame, Some(header(api_key, version)), None, Vec::new());
            }
            _ => {
                let bytes = u.int_in_range(0..=200)?.min(u.len());
                stream.extend(u.bytes(bytes)?);
                expected = None;
            }
        }
    }
    stream.truncate(STREAM_BYTES_MAX);
    if stream.len() == STREAM_BYTES_MAX {
        expected = None;
    }
    let (Some(whole), Some(in_parts)) = (drive(&[stream.clone()]), drive(&split(&stream, seed))) else { return Ok(()) };
    assert_eq!(whole, in_parts, "the chunks change what is done");
    assert!(whole.bad.is_some() || whole.forwarded.len() + whole.left.len() == stream.len());
    if let Some(expected) = expected {
        assert_eq!(whole, expected);
    }
    Ok(())
}

/// What the client gets, and why the session ends, if it does.
fn answered(expected: &[RequestHeader], parts: &[Vec<u8>]) -> (Vec<u8>, Option<&'static str>) {
    let advertise = Advertise::Ports { host: "proxy.example".into(), ports: 9..=9 };
    let brokers = Brokers::new(advertise, [127, 0, 0, 1].into());
    // The one port of the range is taken by it, so no broker's port is bound, and each is told this one.
    brokers.set_bootstrap_port(9);
    let in_flight = InFlight::new(1024, Activity::default());
    for header in expected {
        in_flight.push(Expected::Request { header: *header, batches: Vec::new() });
    }
    let mut answers = Answers::new(1, 1, Arc::new(brokers), capture());
    let (mut sent, mut carry) = (Vec::new(), Vec::new());
    for part in parts {
        let mut chunk = [&carry[..], part].concat();
        let mut out = Out::default();
        let walked = answers.walk(&mut chunk, &in_flight, &mut out);
        for piece in &out.pieces {
            match piece {
                Piece::Range(range) => sent.extend(&chunk[range.clone()]),
                Piece::Owned(bytes) => sent.extend(bytes),
            }
        }
        if let Err(error) = walked {
            return (sent, Some(error.reason()));
        }
        carry = chunk[out.carry_from..].to_vec();
    }
    (sent, None)
}

/// Answers of all kinds, in the order of their requests or not, whole or broken.
pub(crate) fn broker_frames(u: &mut Unstructured<'_>) -> Result<()> {
    let (seed, mut stream, mut expected, mut plain) = (u.arbitrary()?, Vec::new(), Vec::new(), true);
    for _ in 0..u.int_in_range(0..=8)? {
        let (api_key, version, message) = match u.int_in_range(0..=4)? {
            0 => {
                let version = u.int_in_range(0..=13)?;
                plain = false;
                (METADATA, version, messages::encode(&messages::metadata(u, version)?, version))
            }
            1 => {
                let version = u.int_in_range(3..=13)?;
                plain &= version < 10;
                (PRODUCE, version, messages::encode(&messages::produce_answer(u, version)?, version))
            }
            2 => {
                plain = false;
                (FETCH, 16, messages::encode(&messages::fetch_answer(u)?, 16))
            }
            _ => {
                let opaque = (u.int_in_range(19..=59)?, u.arbitrary()?);
                let body = blob(u, 50_000)?;
                (opaque.0, opaque.1, [&CORRELATION_ID.to_be_bytes()[..], &body].concat())
            }
        };
        let correlation_id = if u.ratio(1, 30)? { 5 } else { CORRELATION_ID };
        plain &= correlation_id == CORRELATION_ID;
        if u.ratio(29, 30)? {
            expected.push(RequestHeader { api_key, version, correlation_id });
        } else {
            plain = false;
        }
        let mut frame = framed(&message);
        if u.ratio(1, 10)? {
            plain = false;
            let at = u.choose_index(frame.len())?;
            frame[at] = u.arbitrary()?;
        }
        stream.extend(frame);
    }
    let whole = answered(&expected, &[stream.clone()]);
    let in_parts = answered(&expected, &split(&stream, seed));
    assert_eq!(whole.1, in_parts.1, "the chunks change how the session ends");
    if whole.1.is_none() {
        assert_eq!(whole.0, in_parts.0, "the chunks change what the client gets");
    }
    if plain {
        assert_eq!(whole, (stream, None), "what is not rewritten is changed");
    }
    Ok(())
}
