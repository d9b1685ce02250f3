//! A blocking client on one connection, for latencies: nothing between the clock and the socket.
//!
//! Stock clients have threads and timers of their own, whose noise is larger than what a proxy adds.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use hdrhistogram::Histogram;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{BrokerId, FetchRequest, MetadataRequest, ProduceRequest, TopicName};
use kafka_protocol::protocol::{Decodable, HeaderVersion, Request, StrBytes};
use kafka_protocol::records::RecordBatchDecoder;

use crate::bench::raw;
use crate::records::{self, record};

const DEADLINE: Duration = Duration::from_secs(30);
const FRAME_BYTES_MAX: usize = 64 << 20;
const METADATA_VERSION: i16 = 12;
/// The last version that names topics.
const PRODUCE_VERSION: i16 = 12;
/// The last version that names topics.
const FETCH_VERSION: i16 = 12;

/// A connection to the leader of partition 0 of a topic.
#[derive(Debug)]
pub(super) struct Probe {
    stream: TcpStream,
    correlation_id: i32,
    topic: TopicName,
    next_offset: i64,
}

impl Probe {
    /// Asks the first of `bootstrap` (`host:port,host:port`) for the leader and connects to the address that it tells.
    ///
    /// # Errors
    /// When there is no such topic or no connection.
    pub(super) fn connect(bootstrap: &str, topic: &str) -> Result<Self> {
        let topic = TopicName(StrBytes::from_string(topic.to_owned()));
        let first = bootstrap.split(',').next().unwrap_or(bootstrap);
        let mut probe = Self::dial(first, topic.clone())?;
        let asked = MetadataRequestTopic::default().with_name(Some(topic.clone()));
        let metadata = probe.call(&MetadataRequest::default().with_topics(Some(vec![asked])), METADATA_VERSION)?;
        let partition = metadata.topics.first().and_then(|topic| topic.partitions.first()).context("no such topic")?;
        let leader = metadata.brokers.iter().find(|broker| broker.node_id == partition.leader_id);
        let leader = leader.context("the topic has no leader")?;
        Self::dial(&format!("{}:{}", leader.host, leader.port), topic)
    }

    fn dial(addr: &str, topic: TopicName) -> Result<Self> {
        let stream = TcpStream::connect(addr).with_context(|| format!("cannot connect to {addr}"))?;
        stream.set_nodelay(true).context("cannot set TCP_NODELAY")?;
        stream.set_read_timeout(Some(DEADLINE)).context("cannot set a timeout")?;
        Ok(Self { stream, correlation_id: 0, topic, next_offset: 0 })
    }

    fn call<R: Request>(&mut self, request: &R, version: i16) -> Result<R::Response> {
        let mut frame = BytesMut::new();
        self.correlation_id = self.correlation_id.wrapping_add(1);
        frame.put_i32(0);
        frame.put_i16(R::KEY);
        frame.put_i16(version);
        frame.put_i32(self.correlation_id);
        let client_id = b"diffluent-bench";
        frame.put_i16(i16::try_from(client_id.len()).context("the client id is too long")?);
        frame.put_slice(client_id);
        if R::header_version(version) >= 2 {
            frame.put_u8(0);
        }
        request.encode(&mut frame, version).context("cannot encode the request")?;
        let length = i32::try_from(frame.len() - 4).context("the request is too long")?;
        if let Some(front) = frame.get_mut(..4) {
            front.copy_from_slice(&length.to_be_bytes());
        }
        self.stream.write_all(&frame).context("cannot send")?;
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).context("no answer")?;
        let length = usize::try_from(i32::from_be_bytes(length)).context("a negative length")?;
        if length > FRAME_BYTES_MAX {
            bail!("an answer of {length} bytes");
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer).context("no answer")?;
        let mut answer = Bytes::from(answer);
        if answer.try_get_i32().ok() != Some(self.correlation_id) {
            bail!("the answer to another request");
        }
        if R::Response::header_version(version) >= 1 && answer.try_get_u8().ok() != Some(0) {
            bail!("unexpected tags in an answer's header");
        }
        R::Response::decode(&mut answer, version).context("cannot decode the answer")
    }

    /// Produces one record at acks=all and waits for the acknowledgement.
    ///
    /// # Errors
    /// When the broker refuses or the connection breaks.
    pub(super) fn produce(&mut self, value: Bytes) -> Result<()> {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(0));
        let batch = records::batch(&[record(0, now, value)])?;
        let partition = PartitionProduceData::default().with_index(0).with_records(Some(batch));
        let topic = TopicProduceData::default().with_name(self.topic.clone()).with_partition_data(vec![partition]);
        let request = ProduceRequest::default().with_acks(-1).with_timeout_ms(30_000).with_topic_data(vec![topic]);
        let response = self.call(&request, PRODUCE_VERSION)?;
        let answered = response.responses.first().and_then(|topic| topic.partition_responses.first());
        match answered {
            Some(answered) if answered.error_code == 0 => Ok(()),
            other => bail!("the broker refused a record: {other:?}"),
        }
    }

    /// Waits up to `wait` for records behind those that it has returned before, and returns their values.
    ///
    /// # Errors
    /// When the broker refuses or the connection breaks.
    pub(super) fn fetch(&mut self, wait: Duration) -> Result<Vec<Bytes>> {
        let partition = FetchPartition::default()
            .with_partition(0)
            .with_fetch_offset(self.next_offset)
            .with_partition_max_bytes(1 << 20);
        let topic = FetchTopic::default().with_topic(self.topic.clone()).with_partitions(vec![partition]);
        let request = FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(i32::try_from(wait.as_millis()).unwrap_or(i32::MAX))
            .with_min_bytes(1)
            .with_max_bytes(1 << 20)
            .with_session_epoch(-1)
            .with_topics(vec![topic]);
        let response = self.call(&request, FETCH_VERSION)?;
        let partition = response.responses.first().and_then(|topic| topic.partitions.first());
        let partition = partition.context("an answer without the partition")?;
        if partition.error_code != 0 {
            bail!("error {} from Fetch", partition.error_code);
        }
        let Some(mut records) = partition.records.clone() else { return Ok(Vec::new()) };
        // A broker cuts the last batch where the answer is full.
        records.truncate(raw::whole_batches(records.clone()).iter().map(|(batch, _)| batch.len()).sum());
        let mut values = Vec::new();
        for set in RecordBatchDecoder::decode_all(&mut records).context("cannot decode what was fetched")? {
            for record in set.records {
                if record.offset >= self.next_offset {
                    self.next_offset = record.offset + 1;
                    values.push(record.value.unwrap_or_default());
                }
            }
        }
        Ok(values)
    }
}

/// Calls `send` `count` times at a fixed rate per second with the moment from which the call's latency counts: when it was
/// due or, when only the sleep was late, when it was woken. So a stall counts for all the calls that it held up (no coordinated
/// omission), and the kernel's timer slack doesn't.
///
/// # Errors
/// Those of `send`.
pub(super) fn paced(rate: u64, count: u64, mut send: impl FnMut(Instant) -> Result<()>) -> Result<()> {
    let begin = Instant::now();
    for index in 0..count {
        let due = begin + Duration::from_secs_f64(index as f64 / rate.max(1) as f64);
        let now = Instant::now();
        let from = if now < due {
            std::thread::sleep(due - now);
            Instant::now()
        } else {
            due
        };
        send(from)?;
    }
    Ok(())
}

/// A histogram of microseconds, to a minute.
pub(super) fn micros() -> Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, 60_000_000, 3).context("bounds of a histogram")
}

/// A percentile in milliseconds.
pub(super) fn millis_at(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1e3
}
