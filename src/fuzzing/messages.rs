//! Messages of every version, out of choices.

use arbitrary::{Result, Unstructured};
use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::fetch_response::{AbortedTransaction, FetchableTopicResponse};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, PartitionProduceResponse, TopicProduceResponse,
};
use kafka_protocol::messages::share_fetch_response::{AcquiredRecords, ShareFetchableTopicResponse};
use kafka_protocol::messages::{
    self, FetchResponse, MetadataResponse, ProduceRequest, ProduceResponse, RequestHeader, ResponseHeader,
    ShareAcknowledgeResponse, ShareFetchResponse, TopicName, TransactionalId,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};
use uuid::Uuid;

/// The correlation id of every answer here.
pub(crate) const CORRELATION_ID: i32 = 77;

/// Node id, host, port, and a text that may be there (a rack, a message).
pub(super) type Node = (i32, String, u16, Option<String>);

/// Topic (name or id), partition, records.
pub(crate) type Batch = (Vec<u8>, i32, Vec<u8>);

pub(super) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// A word of so many letters.
pub(super) fn word(u: &mut Unstructured<'_>, letters_min: usize, letters_max: usize) -> Result<String> {
    let letters = u.int_in_range(letters_min..=letters_max)?;
    let first = u.arbitrary::<u8>()?;
    Ok((0..letters).map(|at| char::from(b'a' + (usize::from(first) + at * 7) as u8 % 26)).collect())
}

/// All choices that are left, as bytes.
pub(super) fn rest<'a>(u: &mut Unstructured<'a>) -> Result<&'a [u8]> {
    u.bytes(u.len())
}

/// Bytes of any length up to `bytes_max`, from few choices.
pub(crate) fn blob(u: &mut Unstructured<'_>, bytes_max: usize) -> Result<Vec<u8>> {
    let bytes = u.int_in_range(0..=bytes_max)?;
    let mut state = u64::from(u.arbitrary::<u32>()?);
    Ok((0..bytes).map(|_| (step(&mut state) >> 56) as u8).collect())
}

/// The next random number of a seed (splitmix64).
pub(super) fn step(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Up to `max` of what `one` makes.
pub(super) fn several<'a, T>(
    u: &mut Unstructured<'a>,
    max: usize,
    mut one: impl FnMut(&mut Unstructured<'a>) -> Result<T>,
) -> Result<Vec<T>> {
    (0..u.int_in_range(0..=max)?).map(|_| one(u)).collect()
}

pub(super) fn node(u: &mut Unstructured<'_>) -> Result<Node> {
    let rack = if u.arbitrary()? { Some(word(u, 0, 140)?) } else { None };
    Ok((u.int_in_range(0..=100_000)?, word(u, 1, 150)?, u.int_in_range(1..=u16::MAX)?, rack))
}

/// Splits `bytes` at places that `seed` says.
pub(crate) fn split(bytes: &[u8], seed: u32) -> Vec<Vec<u8>> {
    let mut state = u64::from(seed);
    let mut parts = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let random = step(&mut state);
        let size = match random >> 60 {
            0..8 => 1 + (random >> 40) as usize % 3,
            8..14 => 1 + (random >> 40) as usize % 100,
            _ => 1 + (random >> 40) as usize % 5000,
        };
        let (part, next) = rest.split_at(size.min(rest.len()));
        parts.push(part.to_vec());
        rest = next;
    }
    parts
}

/// Breaks a message: bytes are changed, and its end may be cut off or grow.
pub(super) fn broken(u: &mut Unstructured<'_>, mut message: Vec<u8>) -> Result<Vec<u8>> {
    for _ in 0..u.int_in_range(0..=6)? {
        if message.is_empty() {
            break;
        }
        let at = u.int_in_range(0..=message.len() - 1)?;
        match u.int_in_range(0..=4)? {
            // Lengths of every encoding, at their largest.
            0 => message.splice(at..at, [0x7f, 0xff, 0xff, 0xff]).for_each(drop),
            1 => message.splice(at..at, [0xff, 0xff, 0xff, 0xff, 0x0f]).for_each(drop),
            2 => message.truncate(at),
            3 => message.splice(at..at, blob(u, 20)?).for_each(drop),
            _ => message[at] = u.arbitrary()?,
        }
    }
    Ok(message)
}

/// An answer from its correlation id on.
pub(crate) fn encode<M: Encodable + HeaderVersion>(message: &M, version: i16) -> Vec<u8> {
    let mut out = BytesMut::new();
    ResponseHeader::default()
        .with_correlation_id(CORRELATION_ID)
        .encode(&mut out, M::header_version(version))
        .expect("a header");
    message.encode(&mut out, version).expect("a message of this version");
    out.to_vec()
}

pub(super) fn decode<M: Decodable + HeaderVersion>(message: &[u8], version: i16) -> M {
    let mut bytes = Bytes::copy_from_slice(message);
    let header = ResponseHeader::decode(&mut bytes, M::header_version(version)).expect("a header");
    assert_eq!(header.correlation_id, CORRELATION_ID);
    let message = M::decode(&mut bytes, version).expect("a message of this version");
    assert!(!bytes.has_remaining(), "bytes are left behind the message");
    message
}

/// The macro's types differ, their fields don't.
macro_rules! endpoints {
    ($module:ident, $nodes:expr) => {
        $nodes
            .iter()
            .map(|(id, host, port, rack)| {
                messages::$module::NodeEndpoint::default()
                    .with_node_id((*id).into())
                    .with_host(text(host))
                    .with_port((*port).into())
                    .with_rack(rack.as_deref().map(text))
            })
            .collect::<Vec<_>>()
    };
}

pub(crate) fn metadata(u: &mut Unstructured<'_>, version: i16) -> Result<MetadataResponse> {
    let brokers = several(u, 12, |u| {
        let (id, host, port, rack) = node(u)?;
        Ok(MetadataResponseBroker::default()
            .with_node_id(id.into())
            .with_host(text(&host))
            .with_port(port.into())
            .with_rack(rack.as_deref().filter(|_| version >= 1).map(text)))
    })?;
    let topics = several(u, 20, |u| {
        let partition = MetadataResponsePartition::default()
            .with_partition_index(3)
            .with_leader_id(5.into())
            .with_replica_nodes(vec![1.into(), 2.into()]);
        let id = if version >= 10 { Uuid::from_u128(u.arbitrary::<u64>()?.into()) } else { Uuid::nil() };
        Ok(MetadataResponseTopic::default()
            .with_name(Some(TopicName(text(&word(u, 1, 30)?))))
            .with_topic_id(id)
            .with_partitions(vec![partition; u.int_in_range(0..=5)?]))
    })?;
    Ok(MetadataResponse::default()
        .with_brokers(brokers)
        .with_cluster_id((version >= 2).then(|| text("cluster")))
        .with_topics(topics))
}

pub(crate) fn produce_answer(u: &mut Unstructured<'_>, version: i16) -> Result<ProduceResponse> {
    let responses = several(u, 5, |u| {
        let partitions = several(u, 20, |u| {
            let mut answer = PartitionProduceResponse::default()
                .with_index(u.int_in_range(0..=30)?)
                .with_error_code(u.int_in_range(0..=3)?)
                .with_base_offset(u.arbitrary::<u32>()?.into())
                .with_log_append_time_ms(if u.ratio(1, 4)? { 9 } else { -1 });
            if version >= 8 && u.ratio(1, 3)? {
                let error = BatchIndexAndErrorMessage::default()
                    .with_batch_index(1)
                    .with_batch_index_error_message(Some(text("bad record")));
                answer = answer.with_record_errors(vec![error; 2]).with_error_message(Some(text("bad")));
            }
            if version >= 10 && u.ratio(1, 3)? {
                let leader = messages::produce_response::LeaderIdAndEpoch::default().with_leader_id(4.into());
                answer = answer.with_current_leader(leader);
            }
            Ok(answer)
        })?;
        let topic = TopicProduceResponse::default().with_partition_responses(partitions);
        Ok(if version >= 13 {
            topic.with_topic_id(Uuid::from_u128(u128::from(u.arbitrary::<u64>()?)))
        } else {
            topic.with_name(TopicName(text(&word(u, 1, 200)?)))
        })
    })?;
    let answer = ProduceResponse::default().with_responses(responses).with_throttle_time_ms(5);
    Ok(if version >= 10 {
        answer.with_node_endpoints(endpoints!(produce_response, several(u, 5, node)?))
    } else {
        answer
    })
}

pub(crate) fn fetch_answer(u: &mut Unstructured<'_>) -> Result<FetchResponse> {
    let partitions = several(u, 10, |u| {
        let aborted = AbortedTransaction::default().with_producer_id(7.into()).with_first_offset(8);
        let aborted = if u.arbitrary()? { Some(vec![aborted; u.int_in_range(0..=3)?]) } else { None };
        let mut partition = messages::fetch_response::PartitionData::default()
            .with_partition_index(u.int_in_range(0..=99)?)
            .with_aborted_transactions(aborted)
            .with_records(if u.ratio(1, 5)? { None } else { Some(Bytes::from(blob(u, 3000)?)) });
        if u.ratio(1, 3)? {
            let leader = messages::fetch_response::LeaderIdAndEpoch::default().with_leader_id(4.into());
            partition = partition.with_current_leader(leader);
        }
        Ok(partition)
    })?;
    let topic = FetchableTopicResponse::default().with_topic_id(Uuid::from_u128(9));
    Ok(FetchResponse::default()
        .with_session_id(4)
        .with_responses(vec![topic.clone().with_partitions(partitions), topic])
        .with_node_endpoints(endpoints!(fetch_response, several(u, 5, node)?)))
}

pub(super) fn share_fetch_answer(u: &mut Unstructured<'_>) -> Result<ShareFetchResponse> {
    let partitions = several(u, 10, |u| {
        let message = if u.arbitrary()? { Some(text("some error")) } else { None };
        let acquired = vec![AcquiredRecords::default().with_delivery_count(3); u.int_in_range(0..=3)?];
        Ok(messages::share_fetch_response::PartitionData::default()
            .with_partition_index(u.int_in_range(0..=99)?)
            .with_error_message(message)
            .with_records(Some(Bytes::from(blob(u, 3000)?)))
            .with_acquired_records(acquired))
    })?;
    let topic = ShareFetchableTopicResponse::default().with_partitions(partitions);
    Ok(ShareFetchResponse::default()
        .with_error_message(Some(text("message")))
        .with_responses(vec![topic])
        .with_node_endpoints(endpoints!(share_fetch_response, several(u, 5, node)?)))
}

pub(super) fn share_acknowledge_answer(u: &mut Unstructured<'_>) -> Result<ShareAcknowledgeResponse> {
    let partition = messages::share_acknowledge_response::PartitionData::default().with_error_code(2);
    let topic = messages::share_acknowledge_response::ShareAcknowledgeTopicResponse::default()
        .with_partitions(vec![partition; u.int_in_range(0..=10)?]);
    Ok(ShareAcknowledgeResponse::default()
        .with_responses(vec![topic; 2])
        .with_node_endpoints(endpoints!(share_acknowledge_response, several(u, 5, node)?)))
}

/// A Produce request: its frame behind the length, its acks, whether it is transactional, its batches.
pub(crate) fn produce_request(u: &mut Unstructured<'_>, version: i16) -> Result<(Vec<u8>, i16, bool, Vec<Batch>)> {
    let (acks, transactional) = (u.int_in_range(-1..=1)?, u.ratio(1, 4)?);
    let mut batches = Vec::new();
    let topic_data = several(u, 5, |u| {
        let (name, id) = (word(u, 1, 249)?, Uuid::from_u128(u128::from(u.int_in_range(1..=9_u8)?)));
        let topic = if version >= 13 { id.as_bytes().to_vec() } else { name.as_bytes().to_vec() };
        let mut partition = -1;
        let partition_data = several(u, 5, |u| {
            partition += 1;
            let records = if u.ratio(1, 8)? { None } else { Some(blob(u, 4000)?) };
            if let Some(records) = &records {
                batches.push((topic.clone(), partition, records.clone()));
            }
            Ok(PartitionProduceData::default().with_index(partition).with_records(records.map(Bytes::from)))
        })?;
        let topic = TopicProduceData::default().with_partition_data(partition_data);
        Ok(if version >= 13 { topic.with_topic_id(id) } else { topic.with_name(TopicName(text(&name))) })
    })?;
    let request = ProduceRequest::default()
        .with_acks(acks)
        .with_timeout_ms(1000)
        .with_transactional_id(transactional.then(|| TransactionalId(text("a-transaction"))))
        .with_topic_data(topic_data);
    let header = RequestHeader::default()
        .with_request_api_version(version)
        .with_correlation_id(CORRELATION_ID)
        .with_client_id(if u.arbitrary()? { Some(text(&word(u, 0, 80)?)) } else { None });
    let mut out = BytesMut::new();
    header.encode(&mut out, ProduceRequest::header_version(version)).expect("a header");
    request.encode(&mut out, version).expect("a request of this version");
    Ok((out.to_vec(), acks, transactional, batches))
}
