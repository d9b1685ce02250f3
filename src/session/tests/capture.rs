//! What of a connection's Produce requests reaches the streams.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{
    ProduceRequest, ProduceResponse, RequestHeader, ResponseHeader, TopicName, TransactionalId,
};
use kafka_protocol::protocol::{Encodable, HeaderVersion, StrBytes};
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::watch;
use uuid::Uuid;

use super::super::in_flight::InFlight;
use super::super::relay::{Shared, relay};
use super::super::watch::Activity;
use super::*;
use crate::capture::{Route, Routes};
use crate::mirror::inbox::Inbox;
use crate::net::buffers::CHUNK_BYTES;

const WANTED: &str = "orders";
const WANTED_ID: Uuid = Uuid::from_u128(7);

struct Capturing {
    client: DuplexStream,
    broker: DuplexStream,
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    _shutdown: watch::Sender<bool>,
}

fn capturing(budget: usize, node_id: i32) -> Capturing {
    let shared = shared_with(Capture::new(budget));
    let inbox = Arc::new(Inbox::default());
    let route = Route { topic: Arc::from(WANTED), id: WANTED_ID, inboxes: vec![Arc::clone(&inbox)] };
    shared.capture.set_routes(Routes::new([route]));
    let (client, client_side) = duplex(1 << 20);
    let (broker, broker_side) = duplex(1 << 20);
    let (shutdown, stop) = watch::channel(false);
    let context = Arc::clone(&shared);
    tokio::spawn(async move {
        let in_flight = InFlight::new(1024, Activity::default());
        relay(&context, client_side, broker_side, node_id, &in_flight, stop).await
    });
    Capturing { client, broker, shared, inbox, _shutdown: shutdown }
}

/// A record batch of one record, as far as its header tells, filled with `seed`.
fn batch(seed: u8, bytes: usize) -> Vec<u8> {
    let mut batch = vec![seed; bytes.max(61)];
    let length = batch.len() as i32 - 12;
    batch[..8].fill(0);
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[16] = 2;
    batch[21..23].fill(0);
    batch[23..27].fill(0);
    batch[57..61].copy_from_slice(&1_i32.to_be_bytes());
    batch
}

struct Wanted<'a> {
    topic: &'a str,
    partition: i32,
    records: Vec<u8>,
}

fn produce(version: i16, id: i32, acks: i16, transactional: bool, batches: &[Wanted<'_>]) -> Vec<u8> {
    let topics = batches.iter().map(|wanted| {
        let partition = PartitionProduceData::default()
            .with_index(wanted.partition)
            .with_records(Some(Bytes::from(wanted.records.clone())));
        let topic = TopicProduceData::default().with_partition_data(vec![partition]);
        match version {
            13 if wanted.topic == WANTED => topic.with_topic_id(WANTED_ID),
            13 => topic.with_topic_id(Uuid::from_u128(99)),
            _ => topic.with_name(TopicName(StrBytes::from_string(wanted.topic.to_owned()))),
        }
    });
    let request = ProduceRequest::default()
        .with_acks(acks)
        .with_transactional_id(transactional.then(|| TransactionalId(StrBytes::from_static_str("t"))))
        .with_topic_data(topics.collect());
    let header = RequestHeader::default()
        .with_request_api_version(version)
        .with_correlation_id(id)
        .with_client_id(Some(StrBytes::from_static_str("me")));
    let mut out = BytesMut::new();
    header.encode(&mut out, ProduceRequest::header_version(version)).unwrap();
    request.encode(&mut out, version).unwrap();
    frame(&out)
}

/// An answer for these topics, partitions, errors, offsets and append times.
fn produced(version: i16, id: i32, answers: &[(&str, i32, i16, i64, i64)]) -> Vec<u8> {
    let topics = answers.iter().map(|(topic, partition, error, offset, time)| {
        let partition = PartitionProduceResponse::default()
            .with_index(*partition)
            .with_error_code(*error)
            .with_base_offset(*offset)
            .with_log_append_time_ms(*time);
        let answer = TopicProduceResponse::default().with_partition_responses(vec![partition]);
        match version {
            13 if *topic == WANTED => answer.with_topic_id(WANTED_ID),
            13 => answer.with_topic_id(Uuid::from_u128(99)),
            _ => answer.with_name(TopicName(StrBytes::from_string((*topic).to_owned()))),
        }
    });
    let mut out = BytesMut::new();
    ResponseHeader::default()
        .with_correlation_id(id)
        .encode(&mut out, ProduceResponse::header_version(version))
        .unwrap();
    ProduceResponse::default().with_responses(topics.collect()).encode(&mut out, version).unwrap();
    frame(&out)
}

impl Capturing {
    /// Sends bytes through to the broker, whatever their number.
    async fn request(&mut self, bytes: &[u8], chunk: usize) {
        let (client, broker) = (&mut self.client, &mut self.broker);
        let write = async {
            for part in bytes.chunks(chunk) {
                client.write_all(part).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let ((), arrived) = tokio::join!(write, read(broker, bytes.len()));
        assert!(arrived == bytes, "the request has changed on its way");
    }

    async fn answer(&mut self, bytes: &[u8], chunk: usize) {
        for part in bytes.chunks(chunk) {
            self.broker.write_all(part).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(read(&mut self.client, bytes.len()).await, bytes);
    }

    /// Partition, base offset and bytes behind the header of each captured batch.
    async fn captured(&mut self, count: usize) -> Vec<(i32, i64, Vec<u8>)> {
        let mut taken = Vec::new();
        for _ in 0..10_000 {
            let mut some = Vec::new();
            self.inbox.take(&mut some);
            taken.append(&mut some);
            if taken.len() >= count {
                break;
            }
            tokio::task::yield_now().await;
        }
        assert_eq!(taken.len(), count);
        taken
            .into_iter()
            .map(|captured| {
                assert_eq!((&*captured.topic, captured.node_id), (WANTED, 4));
                let records = captured.batch.records.concat();
                (captured.partition, captured.batch.header.base_offset, records)
            })
            .collect()
    }
}

#[tokio::test]
async fn acknowledged_batches_are_captured_whatever_the_chunks() {
    for version in [3, 7, 9, 12, 13] {
        for chunk in [1, 7, 1000, 70_000, usize::MAX] {
            let mut session = capturing(8 << 20, 4);
            let size = if chunk == 1 { 300 } else { 150_000 };
            let (first, second, third) = (batch(1, size), batch(2, 61), batch(3, size / 2));
            let other = batch(9, 500);
            let mut requests = produce(
                version,
                1,
                -1,
                false,
                &[
                    Wanted { topic: WANTED, partition: 0, records: first.clone() },
                    Wanted { topic: "else", partition: 0, records: other },
                    Wanted { topic: WANTED, partition: 5, records: second.clone() },
                ],
            );
            requests.extend(produce(
                version,
                2,
                -1,
                false,
                &[Wanted { topic: WANTED, partition: 0, records: third.clone() }],
            ));
            session.request(&requests, chunk).await;
            // The first answer's order is not the request's.
            let mut answers =
                produced(version, 1, &[(WANTED, 5, 0, 50, -1), ("else", 0, 0, 7, -1), (WANTED, 0, 0, 10, -1)]);
            answers.extend(produced(version, 2, &[(WANTED, 0, 0, 11, -1)]));
            session.answer(&answers, chunk).await;
            let captured = session.captured(3).await;
            let expected = [(5, 50, &second), (0, 10, &first), (0, 11, &third)];
            assert!(
                captured.iter().zip(expected).all(|(captured, (partition, offset, batch))| {
                    captured.0 == partition && captured.1 == offset && captured.2 == batch[61..]
                }),
                "v{version} in chunks of {chunk}"
            );
            assert_eq!(session.shared.capture.budget().level_bytes(), 0, "captured memory is given back");
        }
    }
}

#[tokio::test]
async fn what_the_log_may_not_hold_exactly_so_is_not_captured() {
    let mut session = capturing(1 << 20, 4);
    let one = |partition| [Wanted { topic: WANTED, partition, records: batch(1, 500) }];
    let mut requests = produce(9, 1, 1, false, &one(0));
    requests.extend(produce(9, 2, -1, true, &one(1)));
    requests.extend(produce(9, 3, -1, false, &one(2)));
    requests.extend(produce(9, 4, -1, false, &one(3)));
    requests.extend(produce(9, 5, -1, false, &one(4)));
    requests.extend(produce(9, 6, 0, false, &one(5)));
    requests.extend(produce(9, 7, -1, false, &one(6)));
    session.request(&requests, usize::MAX).await;
    let mut answers = produced(9, 1, &[(WANTED, 0, 0, 1, -1)]);
    answers.extend(produced(9, 2, &[(WANTED, 1, 0, 1, -1)]));
    answers.extend(produced(9, 3, &[(WANTED, 2, 6, -1, -1)]));
    answers.extend(produced(9, 4, &[(WANTED, 3, 0, 1, 1_700_000_000_000)]));
    answers.extend(produced(9, 5, &[(WANTED, 4, 0, -1, -1)]));
    answers.extend(produced(9, 7, &[(WANTED, 6, 0, 77, -1)]));
    session.answer(&answers, usize::MAX).await;
    let captured = session.captured(1).await;
    assert_eq!((captured[0].0, captured[0].1), (6, 77));
    assert_eq!(session.shared.capture.budget().level_bytes(), 0);
}

#[tokio::test]
async fn a_broker_that_is_not_known_by_its_id_is_not_captured_from() {
    let mut session = capturing(1 << 20, -1);
    let request = produce(9, 1, -1, false, &[Wanted { topic: WANTED, partition: 0, records: batch(1, 500) }]);
    session.request(&request, usize::MAX).await;
    session.answer(&produced(9, 1, &[(WANTED, 0, 0, 1, -1)]), usize::MAX).await;
    session.captured(0).await;
}

#[tokio::test]
async fn a_full_budget_costs_the_capture_and_nothing_else() {
    let mut session = capturing(CHUNK_BYTES, 4);
    let request = produce(9, 1, -1, false, &[Wanted { topic: WANTED, partition: 0, records: batch(1, 300_000) }]);
    session.request(&request, usize::MAX).await;
    assert_eq!(session.shared.capture.budget().level_bytes(), 0, "a lost batch pins nothing");
    session.answer(&produced(9, 1, &[(WANTED, 0, 0, 1, -1)]), usize::MAX).await;
    session.captured(0).await;
    // And the next one, which fits, is captured.
    let request = produce(9, 2, -1, false, &[Wanted { topic: WANTED, partition: 0, records: batch(1, 3000) }]);
    session.request(&request, usize::MAX).await;
    session.answer(&produced(9, 2, &[(WANTED, 0, 0, 2, -1)]), usize::MAX).await;
    assert_eq!(session.captured(1).await[0].1, 2);
}

#[tokio::test]
async fn a_small_batch_pins_its_own_size_and_a_large_one_its_chunks() {
    let mut session = capturing(1 << 20, 4);
    let small = produce(9, 1, -1, false, &[Wanted { topic: WANTED, partition: 0, records: batch(1, 1000) }]);
    session.request(&small, usize::MAX).await;
    tokio::task::yield_now().await;
    assert_eq!(session.shared.capture.budget().level_bytes(), 1000);
    let large = produce(9, 2, -1, false, &[Wanted { topic: WANTED, partition: 0, records: batch(1, 60_000) }]);
    session.request(&large, usize::MAX).await;
    tokio::task::yield_now().await;
    assert_eq!(session.shared.capture.budget().level_bytes(), 1000 + CHUNK_BYTES);
    session.client.shutdown().await.unwrap();
    session.broker.shutdown().await.unwrap();
    read_to_end(&mut session.client).await;
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(session.shared.capture.budget().level_bytes(), 0, "unanswered batches go with their session");
}

#[tokio::test]
async fn a_request_that_makes_no_sense_passes_and_is_not_captured() {
    let mut session = capturing(1 << 20, 4);
    let mut request = produce(9, 1, -1, false, &[Wanted { topic: WANTED, partition: 0, records: batch(1, 500) }]);
    let end = request.len();
    // The last tag section says that there are 200 tags.
    request[end - 1] = 200;
    session.request(&request, usize::MAX).await;
    session.answer(&produced(9, 1, &[(WANTED, 0, 0, 1, -1)]), usize::MAX).await;
    session.captured(0).await;
    assert_eq!(session.shared.capture.budget().level_bytes(), 0);
}
