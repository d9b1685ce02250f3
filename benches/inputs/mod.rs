//! What the hot functions are fed with, in both kinds of benchmark.
#![allow(dead_code, reason = "each benchmark uses its part")]

use std::hint::black_box;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use diffluent::wire::batch::{BatchHeader, HEADER_LEN, Identity, rewritten_header};
use diffluent::wire::produce::{Topic, Visitor};
use diffluent::wire::splice::Addresses;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    ApiKey, BrokerId, MetadataResponse, ProduceRequest, RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Encodable, StrBytes};

pub const PRODUCE_VERSION: i16 = 12;
pub const METADATA_VERSION: i16 = 13;
pub const IDENTITY: Identity = Identity { producer_id: 1 << 62 | 5, producer_epoch: 2, base_sequence: 77 };

/// A record batch of `bytes` bytes in all.
pub fn batch(base_offset: i64, bytes: usize) -> Bytes {
    let records: Vec<u8> =
        (0..bytes - HEADER_LEN).map(|index| (index.wrapping_mul(2_654_435_761) >> 7) as u8).collect();
    let header = BatchHeader {
        base_offset,
        batch_length: (bytes - 12) as i32,
        leader_epoch: 0,
        crc: 0,
        attributes: 0,
        last_offset_delta: 15,
        base_timestamp: 1_700_000_000_000,
        max_timestamp: 1_700_000_000_009,
        producer_id: -1,
        producer_epoch: -1,
        base_sequence: -1,
        record_count: 16,
    };
    let mut whole = rewritten_header(&header, IDENTITY, std::iter::once(records.as_slice())).to_vec();
    whole[..8].copy_from_slice(&base_offset.to_be_bytes());
    whole.extend_from_slice(&records);
    Bytes::from(whole)
}

/// A Produce request without its length, as it follows it on the wire.
pub fn produce_request(partitions: i32, batch_bytes: usize) -> Bytes {
    let data = (0..partitions)
        .map(|index| PartitionProduceData::default().with_index(index).with_records(Some(batch(0, batch_bytes))))
        .collect();
    let topic =
        TopicProduceData::default().with_name(TopicName(StrBytes::from_static_str("orders"))).with_partition_data(data);
    let request = ProduceRequest::default().with_acks(-1).with_timeout_ms(30_000).with_topic_data(vec![topic]);
    let header = RequestHeader::default()
        .with_request_api_key(ApiKey::Produce as i16)
        .with_request_api_version(PRODUCE_VERSION)
        .with_correlation_id(7)
        .with_client_id(Some(StrBytes::from_static_str("producer-1")));
    let mut frame = BytesMut::new();
    header.encode(&mut frame, 2).expect("a header");
    request.encode(&mut frame, PRODUCE_VERSION).expect("a request");
    frame.freeze()
}

/// Sees everything and keeps only how much it was.
#[derive(Default)]
pub struct Count {
    pub records: usize,
    pub ranges: usize,
}

impl Visitor for Count {
    fn acks(&mut self, _: i16, _: bool) -> bool {
        true
    }

    fn topic(&mut self, topic: Topic<'_>) {
        black_box(topic);
    }

    fn records(&mut self, _: i32, bytes: usize) {
        self.records += bytes;
    }

    fn range(&mut self, range: Range<usize>) {
        self.ranges += range.len();
    }

    fn records_end(&mut self) {}
}

/// Everything is here.
pub struct Sidecar(pub Arc<str>);

impl Addresses for Sidecar {
    fn advertise(&self, node_id: i32, _: &str, _: u16) -> (Arc<str>, u16) {
        (self.0.clone(), 9100 + node_id as u16)
    }
}

pub fn metadata(partitions: i32) -> Bytes {
    let nodes = [1, 2, 3];
    let brokers = nodes.iter().map(|&id| {
        MetadataResponseBroker::default()
            .with_node_id(BrokerId(id))
            .with_host(StrBytes::from_string(format!("kafka-{id}.eu-west.example.com")))
            .with_port(9092)
    });
    let partitions = (0..partitions).map(|index| {
        MetadataResponsePartition::default()
            .with_partition_index(index)
            .with_leader_id(BrokerId(1 + index % 3))
            .with_leader_epoch(4)
            .with_replica_nodes(nodes.map(BrokerId).to_vec())
            .with_isr_nodes(nodes.map(BrokerId).to_vec())
    });
    let topic = MetadataResponseTopic::default()
        .with_name(Some(TopicName(StrBytes::from_static_str("orders"))))
        .with_partitions(partitions.collect());
    let response = MetadataResponse::default()
        .with_brokers(brokers.collect())
        .with_cluster_id(Some(StrBytes::from_static_str("MkU3OEVBNTcwNTJENDM2Qk")))
        .with_controller_id(BrokerId(1))
        .with_topics(vec![topic]);
    let mut message = BytesMut::new();
    ResponseHeader::default().with_correlation_id(7).encode(&mut message, 1).expect("a header");
    response.encode(&mut message, METADATA_VERSION).expect("an answer");
    message.freeze()
}

/// A log of batches.
pub fn log(batches: i64, bytes: usize) -> Bytes {
    let log: Vec<u8> = (0..batches).flat_map(|index| batch(16 * index, bytes)).collect();
    Bytes::from(log)
}
