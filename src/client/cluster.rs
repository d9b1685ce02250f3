//! One cluster as diffluent knows it: brokers, topics, leaders; and a connection for calls to each broker.
//!
//! Nothing here is trusted for longer than one call: whoever gets a "not leader" asks for [`Cluster::refresh`] and looks again.
//!
//! A cluster leaves out of its metadata what diffluent has no right to describe, as if it were not there. A topic that was deleted and one that is hidden
//! are different things, so those that are missed are asked for by name.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::Mutex as SyncMutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{MetadataResponsePartition, MetadataResponseTopic};
use kafka_protocol::messages::{MetadataRequest, MetadataResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use tokio::sync::Mutex;
use tokio::time::Instant;
use uuid::Uuid;

use super::apis::Call;
use super::connection::{Connection, Traffic};
use super::error_code::{TOPIC_AUTHORIZATION_FAILED, describe};
use super::rights::{Denial, Right, is_denial};
use super::{ClientError, Reach};

/// Two refreshes are at least this far apart, however many ask.
const REFRESH_SPACING: Duration = Duration::from_millis(100);

/// Who leads a partition, and since which epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leader {
    /// The leader's node id, -1 when there is none.
    pub node_id: i32,
    /// The leader epoch.
    pub epoch: i32,
}

/// A topic as the cluster's metadata has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// The topic's id.
    pub id: Uuid,
    /// Whether it is one of Kafka's own.
    pub internal: bool,
    /// Leaders by partition number.
    pub partitions: BTreeMap<i32, Leader>,
    /// Replicas in all, and those in sync: for under-replicated partitions.
    pub under_replicated: usize,
}

/// What a cluster said about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// The cluster's id.
    pub cluster_id: String,
    /// host and port of each broker.
    pub brokers: BTreeMap<i32, (String, u16)>,
    /// Topics by name.
    pub topics: HashMap<Arc<str>, Topic>,
    /// Topics that were missed and that diffluent has no right to describe. One that was seen before is still among `topics`, as it was.
    pub hidden: BTreeSet<Arc<str>>,
}

impl Metadata {
    /// Who leads a partition; `None` if nobody does.
    pub fn leader(&self, topic: &str, partition: i32) -> Option<Leader> {
        self.topics.get(topic)?.partitions.get(&partition).copied().filter(|leader| leader.node_id >= 0)
    }

    /// A topic's id; nil where there is no such topic, or brokers give none.
    pub fn topic_id(&self, topic: &str) -> Uuid {
        self.topics.get(topic).map(|topic| topic.id).unwrap_or_default()
    }
}

/// A cluster and the connections to it.
#[derive(Debug)]
pub struct Cluster {
    name: Arc<str>,
    bootstrap_servers: Vec<String>,
    reach: Reach,
    deadline_ms: AtomicU64,
    traffic: Arc<Traffic>,
    metadata: ArcSwap<Metadata>,
    /// Topics that somebody expects to be there.
    expected: SyncMutex<BTreeSet<Arc<str>>>,
    last_refresh: Mutex<LastRefresh>,
    /// Ordered: they end in an order that a simulation's seed repeats.
    calls: SyncMutex<BTreeMap<Slot, Arc<Mutex<Option<Connection>>>>>,
}

#[derive(Debug, Default)]
struct LastRefresh {
    at: Option<Instant>,
    /// The answer's bytes, if they alone make the metadata: what says the same again is not decoded again.
    answer: Vec<u8>,
}

/// Whose connection: any broker's, or a certain one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Slot {
    Any,
    Node(i32),
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Cluster {
    /// A cluster that has not been talked to yet. `deadline` is for a connection and for each call; `traffic` counts what goes over our own
    /// connections.
    pub fn new(
        name: &str,
        bootstrap_servers: Vec<String>,
        reach: Reach,
        deadline: Duration,
        traffic: Arc<Traffic>,
    ) -> Arc<Self> {
        Arc::new(Self {
            name: Arc::from(name),
            bootstrap_servers,
            reach,
            deadline_ms: AtomicU64::new(millis(deadline)),
            traffic,
            metadata: ArcSwap::default(),
            expected: SyncMutex::default(),
            last_refresh: Mutex::default(),
            calls: SyncMutex::default(),
        })
    }

    /// The cluster's name in the configuration.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Another deadline, for connections that are opened from now on and the calls over them.
    pub fn set_deadline(&self, deadline: Duration) {
        self.deadline_ms.store(millis(deadline), Ordering::Relaxed);
    }

    /// Byte counters of our own connections.
    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// The last metadata; empty before the first [`Cluster::refresh`].
    pub fn metadata(&self) -> Arc<Metadata> {
        self.metadata.load_full()
    }

    /// Opens a new connection to any broker: known ones first, then the bootstrap servers.
    ///
    /// # Errors
    /// The last broker's, if none answers.
    pub async fn connect_any(&self) -> Result<Connection, ClientError> {
        let known = self.metadata.load_full();
        let addresses = known
            .brokers
            .values()
            .map(|(host, port)| address(host, *port))
            .chain(self.bootstrap_servers.iter().cloned());
        let mut last = None;
        for address in addresses {
            match self.open(&address).await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| self.no_broker("any partition")))
    }

    async fn open(&self, address: &str) -> Result<Connection, ClientError> {
        let deadline = Duration::from_millis(self.deadline_ms.load(Ordering::Relaxed));
        Connection::open(&self.reach, self.name.clone(), address, self.traffic.clone(), deadline).await
    }

    /// Opens a new connection to one broker.
    ///
    /// # Errors
    /// [`ClientError::NoBroker`] if the metadata does not have it, [`ClientError::Connect`].
    pub async fn connect(&self, node_id: i32) -> Result<Connection, ClientError> {
        let metadata = self.metadata.load_full();
        let (host, port) =
            metadata.brokers.get(&node_id).ok_or_else(|| self.no_broker(format!("node id {node_id}")))?;
        self.open(&address(host, *port)).await
    }

    /// Calls any broker. A connection that broke while idle is replaced once.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn call_any<C: Call>(&self, request: &C) -> Result<C::Answer, ClientError> {
        self.call_slot(Slot::Any, request).await
    }

    /// Calls one broker.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn call<C: Call>(&self, node_id: i32, request: &C) -> Result<C::Answer, ClientError> {
        self.call_slot(Slot::Node(node_id), request).await
    }

    /// As [`Cluster::call`]; `None` if the answer's bytes are those of the last one, which `known` keeps.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn call_for_news<C: Call>(
        &self,
        node_id: i32,
        request: &C,
        known: &mut Vec<u8>,
    ) -> Result<Option<C::Answer>, ClientError> {
        self.call_slot_for_news(Slot::Node(node_id), request, Some(known)).await
    }

    async fn call_slot<C: Call>(&self, slot: Slot, request: &C) -> Result<C::Answer, ClientError> {
        // Nothing is known, so that everything is news.
        let news = self.call_slot_for_news(slot, request, None).await?;
        news.ok_or_else(|| self.no_broker("an answer"))
    }

    /// `None` if the answer's bytes are `known`.
    async fn call_slot_for_news<C: Call>(
        &self,
        slot: Slot,
        request: &C,
        mut known: Option<&mut Vec<u8>>,
    ) -> Result<Option<C::Answer>, ClientError> {
        let shared = {
            let mut calls = self.calls.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            calls.entry(slot).or_default().clone()
        };
        let mut guard = shared.lock().await;
        // Taken out, so that a call that is dropped half way does not leave its answer to the next one.
        if let Some(mut connection) = guard.take() {
            let answer = match known.as_deref_mut() {
                Some(known) => connection.call_for_news(request, known).await,
                None => connection.call(request).await.map(Some),
            };
            match answer {
                Ok(answer) => {
                    *guard = Some(connection);
                    return Ok(answer);
                }
                // Brokers close idle connections: that is no failure of this call.
                Err(ClientError::Broken { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let mut connection = match slot {
            Slot::Any => self.connect_any().await?,
            Slot::Node(node_id) => self.connect(node_id).await?,
        };
        let answer = match known {
            Some(known) => connection.call_for_news(request, known).await?,
            None => Some(connection.call(request).await?),
        };
        *guard = Some(connection);
        Ok(answer)
    }

    /// Asks the cluster about itself again, unless that was done within the last 100 ms. Where it says what it has said before, the metadata is the same `Arc`.
    ///
    /// # Errors
    /// Those of the call; the old metadata stays.
    pub async fn refresh(&self) -> Result<Arc<Metadata>, ClientError> {
        let mut last = self.last_refresh.lock().await;
        if let Some(at) = last.at
            && let Some(wait) = REFRESH_SPACING.checked_sub(at.elapsed())
        {
            tokio::time::sleep(wait).await;
        }
        let asked = self.ask(&mut last.answer).await;
        last.at = Some(Instant::now());
        let Some(metadata) = asked?.map(Arc::new) else { return Ok(self.metadata.load_full()) };
        self.metadata.store(metadata.clone());
        Ok(metadata)
    }

    /// `None`: nothing has changed. `answer` is the last answer, and is kept.
    async fn ask(&self, answer: &mut Vec<u8>) -> Result<Option<Metadata>, ClientError> {
        let request = MetadataRequest::default().with_topics(None).with_allow_auto_topic_creation(false);
        let news = self.call_slot_for_news(Slot::Any, &request, Some(&mut *answer)).await?.map(read_metadata);
        let before = self.metadata.load_full();
        let is_news = news.is_some();
        let mut missed = self.expected.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        if is_news {
            missed.extend(before.topics.keys().cloned());
        }
        let known = news.as_ref().unwrap_or(&before);
        missed.retain(|topic| !known.topics.contains_key(topic));
        if missed.is_empty() {
            return Ok(news);
        }
        // The answer alone does not make the metadata: the next one is looked at again.
        answer.clear();
        let mut metadata = news.unwrap_or_else(|| (*before).clone());
        let named = missed.iter().map(|topic| {
            MetadataRequestTopic::default().with_name(Some(TopicName(StrBytes::from_string(topic.to_string()))))
        });
        let request =
            MetadataRequest::default().with_topics(Some(named.collect())).with_allow_auto_topic_creation(false);
        for answer in self.call_any(&request).await?.topics {
            let Some(topic) = answer.name.as_ref().and_then(|name| missed.get(name.as_str()).cloned()) else {
                continue;
            };
            if answer.error_code == TOPIC_AUTHORIZATION_FAILED {
                if let Some(known) = before.topics.get(&topic) {
                    metadata.topics.insert(topic.clone(), known.clone());
                }
                metadata.hidden.insert(topic);
            } else {
                metadata.topics.extend(read_topic(answer));
            }
        }
        Ok(Some(metadata))
    }

    /// These topics are expected to be there: where one is not, it is found out whether it is hidden ([`Metadata::hidden`]).
    pub fn expect(&self, topics: impl IntoIterator<Item = Arc<str>>) {
        self.expected.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(topics);
    }

    /// The error for an answer with an error code, to something that takes a right.
    pub fn refused(&self, what: impl ToString, code: i16, right: Right) -> ClientError {
        if is_denial(code) {
            return ClientError::Denied(Box::new(self.denial(code, right)));
        }
        ClientError::Refused { cluster: self.name.clone(), what: what.to_string(), code }
    }

    /// The missing right, if the error code tells of one.
    pub fn denied(&self, code: i16, right: Right) -> Option<Denial> {
        is_denial(code).then(|| self.denial(code, right))
    }

    /// An error code in words, with the missing right if it tells of one.
    pub fn explain(&self, code: i16, right: Right) -> String {
        self.denied(code, right).map_or_else(|| describe(code), |denial| denial.to_string())
    }

    fn denial(&self, code: i16, right: Right) -> Denial {
        let principal = self.reach.sasl.as_ref().map_or_else(|| "User:ANONYMOUS".to_owned(), |sasl| sasl.principal());
        let server = self.bootstrap_servers.first().cloned().unwrap_or_default();
        Denial::new(self.name.clone(), code, right, principal, server)
    }

    fn no_broker(&self, what: impl ToString) -> ClientError {
        ClientError::NoBroker { cluster: self.name.clone(), what: what.to_string() }
    }
}

/// host:port, with brackets around an IPv6 address.
fn address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn read_metadata(answer: MetadataResponse) -> Metadata {
    let brokers = answer
        .brokers
        .into_iter()
        .filter_map(|broker| Some((broker.node_id.0, (broker.host.to_string(), u16::try_from(broker.port).ok()?))))
        .collect();
    let topics = answer.topics.into_iter().filter_map(read_topic).collect();
    let cluster_id = answer.cluster_id.map(|id| id.to_string()).unwrap_or_default();
    Metadata { cluster_id, brokers, topics, hidden: BTreeSet::new() }
}

/// A topic without errors.
fn read_topic(topic: MetadataResponseTopic) -> Option<(Arc<str>, Topic)> {
    if topic.error_code != 0 {
        return None;
    }
    let is_under_replicated =
        |partition: &&MetadataResponsePartition| partition.isr_nodes.len() < partition.replica_nodes.len();
    let under_replicated = topic.partitions.iter().filter(is_under_replicated).count();
    let leader = |partition: &MetadataResponsePartition| {
        let leader = Leader { node_id: partition.leader_id.0, epoch: partition.leader_epoch };
        (partition.partition_index, leader)
    };
    let partitions = topic.partitions.iter().map(leader).collect();
    let name: Arc<str> = Arc::from(topic.name?.as_str());
    Some((name, Topic { id: topic.topic_id, internal: topic.is_internal, partitions, under_replicated }))
}
