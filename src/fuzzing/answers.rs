//! What brokers answer: rewritten, it decodes to the same but for the addresses; what is not rewritten stays byte for byte.

use std::sync::Arc;

use arbitrary::{Result, Unstructured};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{
    ApiVersionsResponse, DescribeClusterResponse, FetchResponse, FindCoordinatorResponse, MetadataResponse,
    ProduceResponse, ShareAcknowledgeResponse, ShareFetchResponse,
};

use super::messages::{self, blob, broken as break_up, decode, encode, node, rest, several, split, text, word};
use crate::wire::cursor::ReadError;
use crate::wire::endpoints::Blanker;
use crate::wire::produce::Topic;
use crate::wire::produce_answer::{self as offsets, Appended};
use crate::wire::rewrite::{self, Answer};
use crate::wire::skim::Skim;
use crate::wire::splice::{Addresses, splice};
use crate::wire::versions::{self, *};

/// Tells every broker's address by its id.
struct ByNode;

fn told(node_id: i32) -> (String, i32) {
    // Hosts of quite different length, so that lengths change at every size of a length's encoding.
    let letters = 1 + (node_id.unsigned_abs() as usize * 37) % 200;
    ("h".repeat(letters), 20_000 + (node_id.unsigned_abs() % 1000) as i32)
}

impl Addresses for ByNode {
    fn advertise(&self, node_id: i32, _host: &str, _port: u16) -> (Arc<str>, u16) {
        let (host, port) = told(node_id);
        (Arc::from(host), port as u16)
    }
}

macro_rules! tell {
    ($list:expr, $id:ident) => {
        for broker in &mut $list {
            let (host, port) = told(broker.$id.0);
            broker.host = text(&host);
            broker.port = port;
        }
    };
}

/// Rewrites a complete message, checking that every shorter part of it says "more" or gives the same head.
fn rewritten(u: &mut Unstructured<'_>, api_key: i16, version: i16, message: &[u8]) -> Result<Vec<u8>> {
    let head = rewrite::find(api_key, version, message).expect("an answer of this version");
    if let Answer::Head = rewrite::answer(api_key, version) {
        let cut = u.int_in_range(0..=message.len())?;
        match rewrite::find(api_key, version, &message[..cut]) {
            Ok(early) => assert_eq!(early, head),
            Err(error) => {
                assert_eq!(error, ReadError::Incomplete);
                assert!(cut < head.head_bytes);
            }
        }
    }
    let mut frame = splice(message, &head, message.len(), &ByNode).expect("not too long");
    frame.extend(&message[head.head_bytes..]);
    if head.spots.is_empty() {
        assert_eq!(&frame[4..], message);
    }
    Ok(unframed(frame))
}

fn unframed(frame: Vec<u8>) -> Vec<u8> {
    let (length, message) = frame.split_first_chunk().expect("a length");
    assert_eq!(message.len(), i32::from_be_bytes(*length) as usize);
    message.to_vec()
}

/// The message with its endpoints taken out, in chunks. What stands before the endpoints must be untouched.
fn blanked(u: &mut Unstructured<'_>, api_key: i16, version: i16, message: &[u8]) -> Result<Vec<u8>> {
    let Answer::Tail(tail) = rewrite::answer(api_key, version) else { panic!("no endpoints at the end") };
    let mut blanker = Blanker::new(tail, message.len());
    let mut out = Vec::new();
    for mut part in split(message, u.arbitrary()?) {
        blanker.walk(&mut part).expect("an answer of this version");
        out.extend(part);
    }
    assert_eq!(blanker.frame_left(), 0);
    assert_eq!(out.len(), message.len());
    let tail_at = Skim::new(tail.before()).walk(message).expect("the shape").expect("its end");
    assert_eq!(out[..tail_at], message[..tail_at]);
    // Hosts are of letters here; in front of the first are the count, the field's number and size, and the node's id.
    let behind = out.get(tail_at + 8..).unwrap_or_default();
    assert!(!behind.iter().any(u8::is_ascii_lowercase), "a host is still there: {behind:?}");
    Ok(out)
}

pub(super) fn metadata(u: &mut Unstructured<'_>) -> Result<()> {
    let version = u.int_in_range(0..=13)?;
    let message = encode(&messages::metadata(u, version)?, version);
    let mut expected: MetadataResponse = decode(&message, version);
    tell!(expected.brokers, node_id);
    let rewritten = rewritten(u, METADATA, version, &message)?;
    assert_eq!(decode::<MetadataResponse>(&rewritten, version), expected);
    Ok(())
}

pub(super) fn find_coordinator(u: &mut Unstructured<'_>) -> Result<()> {
    let version = u.int_in_range(0..=6)?;
    let mut answer = FindCoordinatorResponse::default();
    // One that is not available (node -1, no host) stays as it is.
    let none = u.ratio(1, 8)?;
    if version < 4 {
        let (id, host, port, message) = node(u)?;
        answer = answer.with_node_id(id.into()).with_host(text(&host)).with_port(port.into());
        if none {
            answer = answer.with_error_code(15).with_node_id((-1).into()).with_host(text("")).with_port(-1);
        }
        if version >= 1 {
            answer = answer.with_error_message(message.as_deref().map(text));
        }
    } else {
        answer.coordinators = several(u, 8, |u| {
            let (id, host, port, message) = node(u)?;
            let one = Coordinator::default().with_key(text(&word(u, 0, 60)?));
            Ok(one
                .with_node_id(id.into())
                .with_host(text(&host))
                .with_port(port.into())
                .with_error_message(message.as_deref().map(text)))
        })?;
        if none {
            answer
                .coordinators
                .push(Coordinator::default().with_error_code(15).with_node_id((-1).into()).with_port(-1));
        }
    }
    let message = encode(&answer, version);
    let mut expected: FindCoordinatorResponse = decode(&message, version);
    if version >= 4 {
        let available = expected.coordinators.iter_mut().filter(|one| one.node_id.0 >= 0);
        tell!(available.collect::<Vec<_>>(), node_id);
    } else if !none {
        tell!([&mut expected], node_id);
    }
    let rewritten = rewritten(u, FIND_COORDINATOR, version, &message)?;
    assert_eq!(decode::<FindCoordinatorResponse>(&rewritten, version), expected);
    Ok(())
}

pub(super) fn describe_cluster(u: &mut Unstructured<'_>) -> Result<()> {
    let version = u.int_in_range(0..=2)?;
    let controllers = version >= 1 && u.ratio(1, 4)?;
    let brokers = several(u, 12, |u| {
        let (id, host, port, rack) = node(u)?;
        let broker = DescribeClusterBroker::default().with_broker_id(id.into()).with_host(text(&host));
        Ok(broker.with_port(port.into()).with_rack(rack.as_deref().map(text)).with_is_fenced(version >= 2))
    })?;
    let answer = DescribeClusterResponse::default()
        .with_cluster_id(text("cluster"))
        .with_endpoint_type(if controllers { 2 } else { 1 })
        .with_brokers(brokers);
    let message = encode(&answer, version);
    let mut expected: DescribeClusterResponse = decode(&message, version);
    if !controllers {
        tell!(expected.brokers, broker_id);
    }
    let rewritten = rewritten(u, DESCRIBE_CLUSTER, version, &message)?;
    assert_eq!(decode::<DescribeClusterResponse>(&rewritten, version), expected);
    Ok(())
}

/// An answer with node endpoints behind its data, small (rewritten) and large (blanked).
macro_rules! endpoints {
    ($u:ident, $type:ty, $api_key:expr, $version:expr, $message:expr) => {{
        let (version, message) = ($version, $message);
        let mut expected: $type = decode(&message, version);
        tell!(expected.node_endpoints, node_id);
        let rewritten = rewritten($u, $api_key, version, &message)?;
        assert_eq!(decode::<$type>(&rewritten, version), expected);
        let mut blank: $type = decode(&blanked($u, $api_key, version, &message)?, version);
        assert_eq!(blank.unknown_tagged_fields.is_empty(), expected.node_endpoints.is_empty());
        blank.unknown_tagged_fields.clear();
        expected.node_endpoints.clear();
        assert_eq!(blank, expected);
    }};
}

pub(super) fn produce_endpoints(u: &mut Unstructured<'_>) -> Result<()> {
    let version = u.int_in_range(10..=13)?;
    endpoints!(u, ProduceResponse, PRODUCE, version, encode(&messages::produce_answer(u, version)?, version));
    Ok(())
}

pub(super) fn fetch_endpoints(u: &mut Unstructured<'_>) -> Result<()> {
    let version = u.int_in_range(16..=18)?;
    endpoints!(u, FetchResponse, FETCH, version, encode(&messages::fetch_answer(u)?, version));
    Ok(())
}

pub(super) fn share_endpoints(u: &mut Unstructured<'_>) -> Result<()> {
    if u.arbitrary()? {
        endpoints!(u, ShareFetchResponse, SHARE_FETCH, 1, encode(&messages::share_fetch_answer(u)?, 1));
        return Ok(());
    }
    let message = encode(&messages::share_acknowledge_answer(u)?, 1);
    endpoints!(u, ShareAcknowledgeResponse, SHARE_ACKNOWLEDGE, 1, message.clone());
    // Version 2, which the crate does not have, has the lock timeout behind the error message, which is null (one byte) here.
    const LOCK_TIMEOUT: std::ops::Range<usize> = 12..16;
    let mut second = message.clone();
    second.splice(LOCK_TIMEOUT.start..LOCK_TIMEOUT.start, [0, 0, 0, 9]);
    let mut back = rewritten(u, SHARE_ACKNOWLEDGE, 2, &second)?;
    assert_eq!(back.splice(LOCK_TIMEOUT, []).collect::<Vec<_>>(), [0, 0, 0, 9]);
    assert_eq!(back, rewritten(u, SHARE_ACKNOWLEDGE, 1, &message)?);
    Ok(())
}

pub(super) fn api_versions(u: &mut Unstructured<'_>) -> Result<()> {
    let version = u.int_in_range(0..=4)?;
    let error_code = if u.ratio(1, 4)? { 35 } else { 0 };
    let layout = if error_code == 35 { 0 } else { version };
    let apis = several(u, 80, |u| {
        let (key, min, more) = (u.int_in_range(0..=100)?, u.int_in_range(0..=25_i16)?, u.int_in_range(0..=25)?);
        Ok(ApiVersion::default().with_api_key(key).with_min_version(min).with_max_version(min + more))
    })?;
    let answer = ApiVersionsResponse::default().with_error_code(error_code).with_api_keys(apis);
    let message = encode(&answer, layout);
    let mut expected: ApiVersionsResponse = decode(&message, layout);
    let ours = |key| versions::inspected(key).map_or(i16::MAX, |inspected| inspected.version_max);
    expected.api_keys.retain(|api| api.min_version <= ours(api.api_key));
    for api in &mut expected.api_keys {
        api.max_version = api.max_version.min(ours(api.api_key));
    }
    let capped = rewrite::cap_versions(version, &message).expect("an answer of this version");
    let capped = capped.map_or(message, unframed);
    assert_eq!(decode::<ApiVersionsResponse>(&capped, layout), expected);
    Ok(())
}

pub(super) fn produce_answer(u: &mut Unstructured<'_>) -> Result<()> {
    let version = u.int_in_range(3..=13)?;
    let answer = messages::produce_answer(u, version)?;
    let mut expected = Vec::new();
    for topic in &answer.responses {
        let name = if version >= 13 { topic.topic_id.as_bytes().to_vec() } else { topic.name.as_bytes().to_vec() };
        for partition in &topic.partition_responses {
            let appended = Appended {
                partition: partition.index,
                error_code: partition.error_code,
                base_offset: partition.base_offset,
                log_append_time_ms: partition.log_append_time_ms,
            };
            expected.push((name.clone(), appended));
        }
    }
    let message = encode(&answer, version);
    let read = |message: &[u8]| {
        let mut seen = Vec::new();
        let result = offsets::read(version, message, |topic, appended| {
            let name = match topic {
                Topic::Name(name) => name.to_vec(),
                Topic::Id(id) => id.to_vec(),
            };
            seen.push((name, appended));
        });
        (result, seen)
    };
    assert_eq!(read(&message), (Ok(()), expected));
    // Broken ones: an answer or an error.
    let _ = read(&break_up(u, message)?);
    Ok(())
}

/// An answer of any API and version, whole or broken, or any bytes at all.
fn some_answer(u: &mut Unstructured<'_>) -> Result<(i16, i16, Vec<u8>)> {
    let (api_key, version, message) = match u.int_in_range(0..=7)? {
        0 => (METADATA, 12, encode(&messages::metadata(u, 12)?, 12)),
        1 => (METADATA, 1, encode(&messages::metadata(u, 1)?, 1)),
        2 => (PRODUCE, 12, encode(&messages::produce_answer(u, 12)?, 12)),
        3 => (FETCH, 16, encode(&messages::fetch_answer(u)?, 16)),
        4 => (SHARE_FETCH, 1, encode(&messages::share_fetch_answer(u)?, 1)),
        5 => (SHARE_ACKNOWLEDGE, 1, encode(&messages::share_acknowledge_answer(u)?, 1)),
        6 => {
            let apis = several(u, 9, |u| Ok(ApiVersion::default().with_api_key(u.arbitrary()?)))?;
            (API_VERSIONS, 3, encode(&ApiVersionsResponse::default().with_api_keys(apis), 3))
        }
        _ => {
            let entry = u.choose(&INSPECTED)?;
            return Ok((entry.api_key, u.int_in_range(0..=entry.version_max)?, rest(u)?.to_vec()));
        }
    };
    let version = if u.ratio(1, 8)? { u.int_in_range(0..=18)? } else { version };
    Ok((api_key, version, break_up(u, message)?))
}

/// Whatever the bytes: an answer or an error. What can be rewritten names none but our addresses; what can be blanked names none at all.
pub(super) fn broken(u: &mut Unstructured<'_>) -> Result<()> {
    let seed = u.arbitrary()?;
    let tail = blob(u, 30)?;
    let (api_key, version, mut message) = some_answer(u)?;
    message.extend(tail);
    if let Ok(head) = rewrite::find(api_key, version, &message)
        && let Ok(mut frame) = splice(&message, &head, message.len(), &ByNode)
    {
        frame.extend(&message[head.head_bytes..]);
        let again = unframed(frame);
        let found = rewrite::find(api_key, version, &again).expect("what was rewritten can be read again");
        assert_eq!(found.spots.len(), head.spots.len());
        for spot in &found.spots {
            assert_eq!((spot.host().to_owned(), i32::from(spot.port())), told(spot.node_id()));
        }
    }
    if let Ok(Some(frame)) = rewrite::cap_versions(version, &message) {
        let capped = unframed(frame);
        assert_eq!(rewrite::cap_versions(version, &capped), Ok(None), "capped twice");
    }
    // An answer has a correlation id at least.
    if let Answer::Tail(tail) = rewrite::answer(api_key, version)
        && !message.is_empty()
    {
        let walked = |parts: Vec<Vec<u8>>| {
            let mut blanker = Blanker::new(tail, message.len());
            let mut out = Vec::new();
            for mut part in parts {
                blanker.walk(&mut part)?;
                out.extend(part);
            }
            Ok::<_, ReadError>(out)
        };
        let whole = walked(vec![message.clone()]);
        let in_parts = walked(split(&message, seed));
        assert_eq!(whole.as_ref().err(), in_parts.as_ref().err());
        if let (Ok(whole), Ok(in_parts)) = (whole, in_parts) {
            assert_eq!(whole, in_parts, "the chunks change what is blanked");
            assert_eq!(whole.len(), message.len());
            if let Ok(head) = rewrite::find(api_key, version, &whole) {
                assert!(head.spots.is_empty(), "an address of API {api_key} v{version} got through: {:?}", head.spots);
            }
        }
    }
    Ok(())
}
