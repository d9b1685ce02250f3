//! Bare clients: what the brokers and the line between give, with nothing that could be in the way.
//!
//! They keep no promise (no order after a failure, no single copy, no place to go on from), so that they are a limit and not a peer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    BrokerId, FetchRequest, FetchResponse, ListOffsetsRequest, MetadataRequest, ProduceRequest, ProduceResponse,
    TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::bench::fill::RECORD_BYTES;
use crate::call::Call;
use crate::records::{self, record};

/// Bytes in flight of a bare producer: enough for 640 MB/s over 100 ms.
const IN_FLIGHT_BYTES_MAX: usize = 64 << 20;
/// More than that many bytes make of the smallest batches here.
const IN_FLIGHT_REQUESTS_MAX: usize = 16 << 10;
/// The last versions that name topics, and flexible.
const PRODUCE_VERSION: i16 = 12;
const FETCH_VERSION: i16 = 12;
const FETCH_BYTES_MAX: i32 = 8 << 20;
const PARTITION_BYTES_MAX: i32 = 2 << 20;
const ANSWER_BYTES_MAX: usize = 64 << 20;
const TAKES_OFFICE_WITHIN: Duration = Duration::from_secs(30);

/// A record batch of records of [`RECORD_BYTES`] that is about `batch_bytes` long.
///
/// # Errors
/// When it can't be encoded.
pub(super) fn batch(batch_bytes: u64) -> Result<(Bytes, u64)> {
    let count = (batch_bytes / (RECORD_BYTES + 16)).max(1);
    Ok((batch_of(count, RECORD_BYTES)?, count))
}

/// A record batch of `count` records of `record_bytes`.
///
/// # Errors
/// When it can't be encoded.
pub(super) fn batch_of(count: u64, record_bytes: u64) -> Result<Bytes> {
    let timestamp =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).context("a clock before 1970")?;
    let timestamp = i64::try_from(timestamp.as_millis()).context("a clock too far ahead")?;
    let value: Bytes = (0..record_bytes).map(|index| (index.wrapping_mul(2_654_435_761) >> 7) as u8).collect();
    let record = |offset: u64| record(i64::try_from(offset).unwrap_or(0), timestamp, value.clone());
    records::batch(&(0..count).map(record).collect::<Vec<_>>())
}

/// `host:port` of the broker that leads a partition, as `bootstrap` tells it, once it has taken office for all partitions of the topic that it leads: metadata may name it
/// a moment before.
///
/// # Errors
/// When there is no such partition, it has no leader, or that one does not take office.
pub(super) async fn leader(bootstrap: &str, topic: &str, partition: i32) -> Result<String> {
    let first = bootstrap.split(',').next().context("no bootstrap server")?;
    let mut call = Call::connect(first).await?;
    let asked = MetadataRequestTopic::default().with_name(Some(name(topic)));
    let metadata = call.call(&MetadataRequest::default().with_topics(Some(vec![asked])), 12).await?;
    let mut partitions = metadata.topics.iter().flat_map(|topic| &topic.partitions);
    let found = partitions.find(|found| found.partition_index == partition).context("no such partition")?;
    let leader = metadata.brokers.iter().find(|broker| broker.node_id == found.leader_id);
    let leader = leader.with_context(|| format!("{topic} {partition} has no leader"))?;
    let addr = format!("{}:{}", leader.host, leader.port);
    let led = metadata.topics.iter().flat_map(|topic| &topic.partitions).filter(|one| one.leader_id == leader.node_id);
    let led =
        led.map(|one| ListOffsetsPartition::default().with_partition_index(one.partition_index).with_timestamp(-1));
    let led = ListOffsetsTopic::default().with_name(name(topic)).with_partitions(led.collect());
    let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![led]);
    let (mut call, begin) = (Call::connect(&addr).await?, Instant::now());
    loop {
        let answer = call.call(&request, 7).await?;
        let refused = answer.topics.iter().flat_map(|topic| &topic.partitions).find(|one| one.error_code != 0);
        let Some(refused) = refused else { return Ok(addr) };
        if begin.elapsed() > TAKES_OFFICE_WITHIN {
            bail!("{addr} does not lead {topic} {}: error {}", refused.partition_index, refused.error_code);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Pipelines `count` requests, of one batch for each of `partitions` of a topic that one broker leads, and waits for the last answer.
///
/// # Errors
/// When a batch is refused or the connection breaks.
pub(super) async fn pipeline(
    addr: &str,
    topic: &str,
    partitions: i32,
    acks: i16,
    batch: Bytes,
    count: u64,
) -> Result<Duration> {
    let (batches, queue) = mpsc::channel(1);
    let fed = async move {
        for _ in 0..count {
            let request = (0..partitions).map(|partition| (partition, batch.clone())).collect();
            if batches.send(request).await.is_err() {
                break;
            }
        }
        anyhow::Ok(())
    };
    let begin = Instant::now();
    let ((), ()) = tokio::try_join!(fed, write(addr, topic, acks, queue))?;
    Ok(begin.elapsed())
}

/// Many producers, each with one record of about `record_bytes` in flight at acks=all, for a while; how many records they got through.
///
/// # Errors
/// When a record is refused or a connection breaks.
pub(super) async fn one_by_one(
    addr: &str,
    topic: &str,
    partitions: i32,
    producers: usize,
    record_bytes: u64,
    length: Duration,
) -> Result<u64> {
    let batch = batch_of(1, record_bytes)?;
    let end = Instant::now() + length;
    let mut running = JoinSet::new();
    for partition in (0..partitions).cycle().take(producers) {
        let (addr, topic, batch) = (addr.to_owned(), topic.to_owned(), batch.clone());
        running.spawn(async move {
            let stream = TcpStream::connect(&addr).await.with_context(|| format!("cannot connect to {addr}"))?;
            stream.set_nodelay(true).context("cannot set TCP_NODELAY")?;
            let (mut reader, mut writer) = stream.into_split();
            let mut count = 0;
            while Instant::now() < end {
                count += 1;
                produce(&mut writer, &topic, -1, count, vec![(partition, batch.clone())]).await?;
                answered(&mut reader).await?;
            }
            anyhow::Ok(u64::try_from(count).unwrap_or(0))
        });
    }
    let mut count = 0;
    while let Some(one) = running.join_next().await {
        count += one.context("a producer panicked")??;
    }
    Ok(count)
}

/// Copies what `from` holds up to `ends` to another cluster's topic, as it is, reading and writing at the same time.
///
/// # Errors
/// When a broker refuses or a connection breaks.
pub(super) async fn copy(
    from: &str,
    topic: &str,
    ends: &[i64],
    to: &str,
    to_topic: &str,
    acks: i16,
) -> Result<Duration> {
    // About as much as diffluent reads ahead.
    let (batches, queue) = mpsc::channel(16);
    let begin = Instant::now();
    tokio::try_join!(read(from, topic, ends, Some(batches)), write(to, to_topic, acks, queue))?;
    Ok(begin.elapsed())
}

type Batches = Vec<(i32, Bytes)>;

/// Reads partitions that one broker leads up to `ends`; their batches, one of a partition at a time, go to `batches`, if anybody wants them.
///
/// # Errors
/// When the broker refuses or the connection breaks.
pub(super) async fn read(addr: &str, topic: &str, ends: &[i64], batches: Option<mpsc::Sender<Batches>>) -> Result<()> {
    let mut call = Call::connect(addr).await?;
    let mut next = vec![0_i64; ends.len()];
    while next.iter().zip(ends).any(|(next, end)| next < end) {
        let wanted = (0_i32..).zip(next.iter().zip(ends)).filter(|(_, (next, end))| next < end);
        let wanted = wanted.map(|(partition, (next, _))| {
            FetchPartition::default()
                .with_partition(partition)
                .with_fetch_offset(*next)
                .with_partition_max_bytes(PARTITION_BYTES_MAX)
        });
        let asked = FetchTopic::default().with_topic(name(topic)).with_partitions(wanted.collect());
        let request = FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(500)
            .with_min_bytes(1)
            .with_max_bytes(FETCH_BYTES_MAX)
            .with_session_epoch(-1)
            .with_topics(vec![asked]);
        let answer: FetchResponse = call.call(&request, FETCH_VERSION).await?;
        let mut rows: Vec<VecDeque<(i32, Bytes)>> = Vec::new();
        for answered in answer.responses.into_iter().flat_map(|topic| topic.partitions) {
            if answered.error_code != 0 {
                bail!("error {} from Fetch", answered.error_code);
            }
            let place = usize::try_from(answered.partition_index).context("a negative partition")?;
            let next = next.get_mut(place).context("a partition that nobody asked for")?;
            let mut row = VecDeque::new();
            for (batch, behind) in whole_batches(answered.records.unwrap_or_default()) {
                *next = behind;
                if batches.is_some() {
                    row.push_back((answered.partition_index, from_a_client(&batch)));
                }
            }
            rows.push(row);
        }
        let Some(batches) = &batches else { continue };
        loop {
            let request: Batches = rows.iter_mut().filter_map(VecDeque::pop_front).collect();
            if request.is_empty() {
                break;
            }
            if batches.send(request).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The batches that are there in whole, each with the offset behind it.
pub(super) fn whole_batches(mut records: Bytes) -> Vec<(Bytes, i64)> {
    const PREFIX: usize = 12;
    const LAST_OFFSET_DELTA: usize = 23;
    let mut batches = Vec::new();
    while let (Some(base), Some(length), Some(delta)) =
        (number(&records, 0, 8), number(&records, 8, 4), number(&records, LAST_OFFSET_DELTA, 4))
    {
        let Some(end) = usize::try_from(length).ok().map(|length| PREFIX + length).filter(|end| *end <= records.len())
        else {
            break;
        };
        batches.push((records.split_to(end), base + delta + 1));
    }
    batches
}

/// A number of up to 8 bytes at a place.
fn number(bytes: &[u8], at: usize, length: usize) -> Option<i64> {
    let bytes = bytes.get(at..at + length)?;
    Some(bytes.iter().fold(0, |number, byte| number << 8 | i64::from(*byte)))
}

/// A batch as a broker takes it from a client: with base offset 0.
fn from_a_client(batch: &[u8]) -> Bytes {
    let mut batch = BytesMut::from(batch);
    if let Some(base_offset) = batch.first_chunk_mut::<8>() {
        *base_offset = [0; 8];
    }
    batch.freeze()
}

/// Sends what comes out of `queue`, pipelined, and waits for every answer.
async fn write(addr: &str, topic: &str, acks: i16, mut queue: mpsc::Receiver<Batches>) -> Result<()> {
    let stream = TcpStream::connect(addr).await.with_context(|| format!("cannot connect to {addr}"))?;
    stream.set_nodelay(true).context("cannot set TCP_NODELAY")?;
    let (mut reader, mut writer) = stream.into_split();
    let room = Arc::new(Semaphore::new(IN_FLIGHT_BYTES_MAX));
    let (sent, mut unanswered) = mpsc::channel::<usize>(IN_FLIGHT_REQUESTS_MAX);
    let send = async {
        let mut correlation = 0;
        while let Some(batches) = queue.recv().await {
            correlation += 1;
            let bytes: usize = batches.iter().map(|(_, batch)| batch.len()).sum();
            let permit = room.acquire_many(u32::try_from(bytes).context("too large a request")?).await?;
            permit.forget();
            // Noted before it is sent: the answer may be quick.
            if sent.send(bytes).await.is_err() {
                break;
            }
            produce(&mut writer, topic, acks, correlation, batches).await?;
        }
        drop(sent);
        anyhow::Ok(())
    };
    let receive = async {
        while let Some(bytes) = unanswered.recv().await {
            answered(&mut reader).await?;
            room.add_permits(bytes);
        }
        anyhow::Ok(())
    };
    tokio::try_join!(send, receive).map(|_| ())
}

async fn produce(
    writer: &mut OwnedWriteHalf,
    topic: &str,
    acks: i16,
    correlation: i32,
    batches: Batches,
) -> Result<()> {
    let data = batches
        .into_iter()
        .map(|(partition, batch)| PartitionProduceData::default().with_index(partition).with_records(Some(batch)));
    let data = TopicProduceData::default().with_name(name(topic)).with_partition_data(data.collect());
    let request = ProduceRequest::default().with_acks(acks).with_timeout_ms(30_000).with_topic_data(vec![data]);
    let mut frame = BytesMut::new();
    frame.put_i32(0);
    frame.put_i16(0);
    frame.put_i16(PRODUCE_VERSION);
    frame.put_i32(correlation);
    frame.put_i16(-1);
    frame.put_u8(0);
    request.encode(&mut frame, PRODUCE_VERSION).context("cannot encode a request")?;
    let length = i32::try_from(frame.len() - 4).context("the request is too long")?;
    frame.get_mut(..4).context("no room for the length")?.copy_from_slice(&length.to_be_bytes());
    writer.write_all(&frame).await.context("cannot send")
}

async fn answered(reader: &mut OwnedReadHalf) -> Result<()> {
    let length = usize::try_from(reader.read_i32().await.context("no answer")?).context("a negative length")?;
    if length > ANSWER_BYTES_MAX {
        bail!("an answer of {length} bytes");
    }
    let mut frame = vec![0; length];
    reader.read_exact(&mut frame).await.context("no answer")?;
    let mut frame = Bytes::from(frame);
    // Correlation id and no tags.
    frame.try_get_i32().context("an answer without a header")?;
    frame.try_get_u8().context("an answer without a header")?;
    let answer = ProduceResponse::decode(&mut frame, PRODUCE_VERSION).context("cannot decode an answer")?;
    for partition in answer.responses.iter().flat_map(|topic| &topic.partition_responses) {
        if partition.error_code != 0 {
            bail!("a batch is refused: error {} {:?}", partition.error_code, partition.error_message);
        }
    }
    Ok(())
}

fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

#[cfg(test)]
mod tests {
    use kafka_protocol::records::RecordBatchDecoder;

    use super::*;

    #[test]
    fn batches_are_cut_where_they_end() {
        let (one, records) = batch(16 << 10).expect("a batch");
        assert_eq!(records, 16);
        let mut log = BytesMut::new();
        log.put_slice(&one);
        log.put_slice(&one);
        log.put_slice(&one[..one.len() - 1]);
        let batches = whole_batches(log.freeze());
        assert_eq!(batches, [(one.clone(), 16), (one.clone(), 16)]);
        let mut whole = batches.first().expect("a batch").0.clone();
        let decoded = RecordBatchDecoder::decode_all(&mut whole).expect("records");
        assert_eq!(decoded.iter().map(|set| set.records.len()).sum::<usize>(), 16);
    }
}
