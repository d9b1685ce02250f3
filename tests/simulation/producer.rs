//! Producers as simulated hosts.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use diffluent_testbed::model::Model;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{ProduceRequest, ProduceResponse, RequestHeader, ResponseHeader, TopicName};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use turmoil::net::TcpStream;

use super::dice::Dice;
use super::network::dial;
use super::plan::{Kind, Plan, ProducerPlan, ProxyId, TROUBLE_MS};
use super::proxy::{FIRST_PORT, broker_host};
use super::records::{Writer, batch};
use super::run::topic_name;

const VERSION: i16 = 9;
/// A client gives a request up after this time.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

struct Producer {
    at: ProducerPlan,
    /// How many proxies stand in front of the cluster: any of them will do.
    proxies: usize,
    model: Arc<Model>,
    dice: Dice,
    /// Numbers of this producer's records begin here.
    next_number: u64,
    correlation: i32,
    connections: Vec<(i32, TcpStream)>,
}

/// A request: topic, partition and batch.
struct Produce {
    topic: String,
    partition: i32,
    records: Bytes,
}

/// Writes until the trouble is over.
pub async fn run(plan: Arc<Plan>, index: usize, model: Arc<Model>) -> turmoil::Result {
    let mut producer = Producer {
        at: plan.producers[index],
        proxies: plan.fleet[plan.producers[index].cluster],
        model,
        dice: Dice::new(plan.seed, 100 + index as u64),
        next_number: (index as u64 + 1) << 32,
        correlation: 0,
        connections: Vec::new(),
    };
    let id = 1_000 + index as i64;
    let mut sequences = std::collections::BTreeMap::new();
    while turmoil::sim_elapsed().unwrap_or_default() < Duration::from_millis(TROUBLE_MS) {
        match producer.at.kind {
            Kind::Plain(acks) => {
                let mut requests = Vec::new();
                for _ in 0..producer.at.pipelined {
                    requests.push(producer.request(&plan, Writer::PLAIN));
                }
                // What came of it is not asked: each try has numbers of its own.
                let _ = producer.send(&requests, acks, None).await;
            }
            Kind::Idempotent => producer.insist(&plan, id, &mut sequences).await,
            Kind::Transactional => producer.transaction(&plan, id, &mut sequences).await,
        }
        let pause = producer.dice.below(producer.at.pause_ms * 2);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    Ok(())
}

type Sequences = std::collections::BTreeMap<(String, i32), i32>;

impl Producer {
    fn place(&mut self, plan: &Plan) -> (String, i32) {
        let topic = usize::try_from(self.dice.below(plan.topics.len() as u64)).expect("small");
        (topic_name(topic), i32::try_from(self.dice.below(plan.topics[topic] as u64)).expect("small"))
    }

    fn numbers(&mut self) -> Vec<u64> {
        let count = 1 + self.dice.below(4);
        let first = self.next_number;
        self.next_number += count;
        (first..first + count).collect()
    }

    fn request(&mut self, plan: &Plan, writer: Writer) -> Produce {
        let (topic, partition) = self.place(plan);
        let records = batch(&self.numbers(), self.model.now(), writer);
        Produce { topic, partition, records }
    }

    /// One batch, until it is acknowledged or the trouble is over.
    async fn insist(&mut self, plan: &Plan, id: i64, sequences: &mut Sequences) {
        let (topic, partition) = self.place(plan);
        let next = sequences.entry((topic.clone(), partition)).or_default();
        let sequence = *next;
        let numbers = self.numbers();
        *next += i32::try_from(numbers.len()).expect("small");
        let writer = Writer { producer_id: id, producer_epoch: 0, base_sequence: sequence, transactional: false };
        let records = batch(&numbers, self.model.now(), writer);
        let request = [Produce { topic, partition, records }];
        // An idempotent producer that gives up must not go on: its next batch would leave a gap.
        loop {
            let answers = self.send(&request, -1, None).await;
            if answers.is_ok_and(|answers| matches!(answers.as_slice(), [0 | 45])) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            if turmoil::sim_elapsed().unwrap_or_default() > Duration::from_millis(TROUBLE_MS) {
                return;
            }
        }
    }

    async fn transaction(&mut self, plan: &Plan, id: i64, sequences: &mut Sequences) {
        let mut sound = true;
        for _ in 0..1 + self.dice.below(4) {
            let (topic, partition) = self.place(plan);
            let next = sequences.entry((topic.clone(), partition)).or_default();
            let sequence = *next;
            let numbers = self.numbers();
            *next += i32::try_from(numbers.len()).expect("small");
            let writer = Writer { producer_id: id, producer_epoch: 0, base_sequence: sequence, transactional: true };
            let records = batch(&numbers, self.model.now(), writer);
            let request = [Produce { topic, partition, records }];
            let mut tries = 0;
            loop {
                let answers = self.send(&request, -1, None).await;
                if answers.is_ok_and(|answers| matches!(answers.as_slice(), [0])) {
                    break;
                }
                tries += 1;
                if tries > 5 {
                    sound = false;
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        let commit = sound && !self.dice.one_in(3);
        let wait = self.dice.below(400);
        tokio::time::sleep(Duration::from_millis(wait)).await;
        // What the transaction coordinator does; it insists until every leader has the marker.
        self.model.change(|state, now| {
            state.each_partition(|partition| partition.end_transaction(id, 0, commit, now));
        });
        if !sound {
            // A fenced producer begins again with sequences of its own epoch; here each partition goes on with what its log holds.
            self.model.look().topics.iter().for_each(|(topic, known)| {
                for (index, partition) in (0..).zip(&known.partitions) {
                    let last = partition.producers().all().find(|(known, _)| *known == id);
                    let last = last.and_then(|(_, state)| state.batches.back().map(|batch| batch.last_sequence + 1));
                    if let Some(next) = sequences.get_mut(&(topic.clone(), index)) {
                        *next = last.unwrap_or(0);
                    }
                }
            });
        }
    }

    /// Sends requests to the leader of the first one's partition, one after the other, then reads the answers: an error code each.
    async fn send(&mut self, requests: &[Produce], acks: i16, node_id: Option<i32>) -> io::Result<Vec<i16>> {
        let first = requests.first().ok_or(io::ErrorKind::InvalidInput)?;
        let leader = self.model.look().partition(&first.topic, first.partition).map_or(1, |partition| partition.leader);
        // A client's metadata is old now and then.
        let old = self.dice.one_in(20);
        let node_id = node_id.unwrap_or(if old || leader < 0 { 1 } else { leader });
        let mut connection = self.connection(node_id).await?;
        let exchanged =
            tokio::time::timeout(REQUEST_TIMEOUT, exchange(&mut connection, &mut self.correlation, requests, acks));
        let answers = exchanged.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        self.connections.push((node_id, connection));
        Ok(answers)
    }

    async fn connection(&mut self, node_id: i32) -> io::Result<TcpStream> {
        if let Some(at) = self.connections.iter().position(|(known, _)| *known == node_id) {
            return Ok(self.connections.swap_remove(at).1);
        }
        let cluster = self.at.cluster;
        if self.at.bypass {
            dial(&broker_host(cluster, node_id), 9092, REQUEST_TIMEOUT).await
        } else {
            let number = match self.proxies {
                1 => 0,
                proxies => usize::try_from(self.dice.below(proxies as u64)).expect("small"),
            };
            let port = FIRST_PORT + u16::try_from(node_id).expect("small");
            dial(&ProxyId { cluster, number }.to_string(), port, REQUEST_TIMEOUT).await
        }
    }
}

async fn exchange(
    stream: &mut TcpStream,
    correlation: &mut i32,
    requests: &[Produce],
    acks: i16,
) -> io::Result<Vec<i16>> {
    for request in requests {
        *correlation += 1;
        stream.write_all(&frame(*correlation, request, acks)).await?;
    }
    let mut answers = Vec::new();
    for _ in requests.iter().filter(|_| acks != 0) {
        let length = stream.read_u32().await?;
        let mut body = vec![0; usize::try_from(length).expect("fits")];
        stream.read_exact(&mut body).await?;
        let mut body = Bytes::from(body);
        ResponseHeader::decode(&mut body, 1).map_err(io::Error::other)?;
        let answer = ProduceResponse::decode(&mut body, VERSION).map_err(io::Error::other)?;
        answers.extend(
            answer.responses.iter().flat_map(|topic| &topic.partition_responses).map(|answer| answer.error_code),
        );
    }
    Ok(answers)
}

fn frame(correlation: i32, request: &Produce, acks: i16) -> Bytes {
    let header = RequestHeader::default()
        .with_request_api_key(0)
        .with_request_api_version(VERSION)
        .with_correlation_id(correlation)
        .with_client_id(Some(StrBytes::from_static_str("simulated")));
    let partition =
        PartitionProduceData::default().with_index(request.partition).with_records(Some(request.records.clone()));
    let topic = TopicProduceData::default()
        .with_name(TopicName(StrBytes::from_string(request.topic.clone())))
        .with_partition_data(vec![partition]);
    let body = ProduceRequest::default().with_acks(acks).with_timeout_ms(2_000).with_topic_data(vec![topic]);
    let mut frame = BytesMut::zeroed(4);
    header.encode(&mut frame, 2).expect("a header");
    body.encode(&mut frame, VERSION).expect("a request");
    let length = u32::try_from(frame.len() - 4).expect("small");
    (&mut frame[..4]).put_u32(length);
    frame.freeze()
}
