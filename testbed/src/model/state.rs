//! A cluster's state: brokers, topics, committed offsets, and the faults that are laid out for its clients.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::group::Group;
use super::partition::Partition;

/// A broker.
#[derive(Clone, Debug)]
pub struct Broker {
    /// Where clients find it.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Whether it runs.
    pub running: bool,
    /// Goes up when its connections are cut.
    pub incarnation: u64,
}

/// A topic.
#[derive(Clone, Debug)]
pub struct Topic {
    /// Its id.
    pub id: Uuid,
    /// Its partitions.
    pub partitions: Vec<Partition>,
}

/// A committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The offset.
    pub offset: i64,
    /// The leader epoch that came with it.
    pub leader_epoch: i32,
    /// The metadata.
    pub metadata: String,
}

/// Group, topic, partition.
pub type GroupOffset = (String, String, i32);

/// What goes wrong with the next requests of an API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// They are answered with this error code, and do nothing.
    Refused(i16),
    /// They do what they should, and the connection breaks before the answer.
    AnswerLost,
    /// They do what they should, and are answered with this error code (as REQUEST_TIMED_OUT is).
    Disowned(i16),
}

/// A cluster's state. Time is always given: milliseconds of the model's clock.
#[derive(Clone, Debug)]
pub struct State {
    /// The cluster's id.
    pub cluster_id: String,
    /// Brokers by node id.
    pub brokers: BTreeMap<i32, Broker>,
    /// Topics by name.
    pub topics: BTreeMap<String, Topic>,
    /// Committed offsets.
    pub offsets: BTreeMap<GroupOffset, Committed>,
    /// Consumer groups that have been asked for.
    pub groups: BTreeMap<String, Group>,
    /// `group.initial.rebalance.delay.ms`.
    pub initial_rebalance_delay: i64,
    /// Instance names of members that no coordinator hears: what they send of the group protocol, and their commits, arrive when they are out of here.
    pub unheard: BTreeSet<String>,
    /// Those that it hears, and whose answers don't get back to them before they are out of here.
    pub unanswered: BTreeSet<String>,
    /// Whether clients may create topics.
    pub creation_allowed: bool,
    /// Whether producers may only write under ids that were handed out here: no broker of Apache Kafka asks for that.
    pub refuses_foreign_ids: bool,
    /// Whether brokers know DescribeProducers: Kafka's do since 2.8.
    pub describes_producers: bool,
    /// `producer.id.expiration.ms`; `None`: producers are forgotten on order alone.
    pub producer_expiration: Option<i64>,
    /// Replicas of a new topic's partitions.
    pub replication_factor: usize,
    /// How long followers of new partitions take, milliseconds.
    pub replication_delay: i64,
    /// `min.insync.replicas` of new partitions.
    pub min_in_sync: usize,
    /// What goes wrong next: by API key, so many times.
    pub mishaps: BTreeMap<i16, (Mishap, u32)>,
    topics_made: u64,
    producer_ids: i64,
    expired_at: i64,
}

/// How often brokers look which producers to forget (`producer.id.expiration.check.interval.ms`), milliseconds.
const EXPIRATION_CHECK: i64 = 500;
/// `producer.id.expiration.ms`, where nothing else is set.
pub const EXPIRATION_DEFAULT: i64 = 86_400_000;

impl State {
    /// A cluster of `brokers` brokers with node ids from 1 on. `address` gives host and port of each.
    pub fn new(cluster_id: &str, brokers: i32, address: impl Fn(i32) -> (String, u16)) -> Self {
        let broker = |node_id| {
            let (host, port) = address(node_id);
            (node_id, Broker { host, port, running: true, incarnation: 0 })
        };
        Self {
            cluster_id: cluster_id.to_owned(),
            brokers: (1..=brokers).map(broker).collect(),
            topics: BTreeMap::new(),
            offsets: BTreeMap::new(),
            groups: BTreeMap::new(),
            initial_rebalance_delay: 3_000,
            unheard: BTreeSet::new(),
            unanswered: BTreeSet::new(),
            creation_allowed: true,
            refuses_foreign_ids: false,
            describes_producers: true,
            producer_expiration: None,
            replication_factor: usize::try_from(brokers).unwrap_or(1).min(3),
            replication_delay: 0,
            min_in_sync: 1,
            mishaps: BTreeMap::new(),
            topics_made: 0,
            producer_ids: 0,
            expired_at: 0,
        }
    }

    /// Makes a topic.
    ///
    /// # Errors
    /// Kafka's error code: TOPIC_ALREADY_EXISTS (36), INVALID_PARTITIONS (37), INVALID_REPLICATION_FACTOR (38).
    pub fn create_topic(&mut self, name: &str, partitions: i32, replicas: i16) -> Result<(), i16> {
        if self.topics.contains_key(name) {
            return Err(36);
        }
        if partitions == 0 || partitions < -1 {
            return Err(37);
        }
        let replicas =
            if replicas == -1 { self.replication_factor } else { usize::try_from(replicas).map_err(|_| 38_i16)? };
        if replicas == 0 || replicas > self.brokers.len() {
            return Err(38);
        }
        self.topics_made += 1;
        let of_cluster =
            self.cluster_id.bytes().fold(7_u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)));
        let id = Uuid::from_u64_pair(of_cluster, self.topics_made);
        self.topics.insert(name.to_owned(), Topic { id, partitions: Vec::new() });
        self.add_partitions(name, partitions.max(1), replicas);
        Ok(())
    }

    /// Grows a topic to `count` partitions.
    pub fn add_partitions(&mut self, name: &str, count: i32, replicas: usize) {
        let nodes: Vec<i32> = self.brokers.keys().copied().collect();
        let (delay, min_in_sync) = (self.replication_delay, self.min_in_sync);
        let down: Vec<i32> = self.brokers.iter().filter(|(_, broker)| !broker.running).map(|(node, _)| *node).collect();
        let Some(topic) = self.topics.get_mut(name) else { return };
        while topic.partitions.len() < usize::try_from(count).unwrap_or(0) {
            let first = topic.partitions.len();
            let replicas: Vec<i32> = (0..replicas).map(|at| nodes[(first + at) % nodes.len()]).collect();
            let mut partition = Partition::new(&replicas);
            partition.set_delay(delay);
            partition.min_in_sync = min_in_sync;
            for node_id in &down {
                partition.broker_down(*node_id, 0);
            }
            topic.partitions.push(partition);
        }
    }

    /// One partition.
    pub fn partition(&self, topic: &str, partition: i32) -> Option<&Partition> {
        self.topics.get(topic)?.partitions.get(usize::try_from(partition).ok()?)
    }

    /// One partition, to be changed.
    pub fn partition_mut(&mut self, topic: &str, partition: i32) -> Option<&mut Partition> {
        self.topics.get_mut(topic)?.partitions.get_mut(usize::try_from(partition).ok()?)
    }

    /// A partition that broker `node_id` leads.
    ///
    /// # Errors
    /// Kafka's error code: UNKNOWN_TOPIC_OR_PARTITION (3), NOT_LEADER_OR_FOLLOWER (6), FENCED_LEADER_EPOCH (74), UNKNOWN_LEADER_EPOCH (75).
    pub fn led_by(&mut self, node_id: i32, topic: &str, partition: i32, epoch: i32) -> Result<&mut Partition, i16> {
        match self.held_by(node_id, topic, partition, epoch)? {
            partition if partition.leader == node_id => Ok(partition),
            _ => Err(6),
        }
    }

    /// A partition that broker `node_id` has a replica of, be it the leader or not.
    ///
    /// # Errors
    /// As [`State::led_by`].
    pub fn held_by(&mut self, node_id: i32, topic: &str, partition: i32, epoch: i32) -> Result<&mut Partition, i16> {
        let partition = self.partition_mut(topic, partition).ok_or(3_i16)?;
        if partition.held_by(node_id).is_none() {
            return Err(6);
        }
        match epoch {
            -1 => Ok(partition),
            epoch if epoch < partition.epoch => Err(74),
            epoch if epoch > partition.epoch => Err(75),
            _ => Ok(partition),
        }
    }

    /// Stops a broker: its connections end, what it leads moves to others.
    pub fn crash(&mut self, node_id: i32, now: i64) {
        let Some(broker) = self.brokers.get_mut(&node_id).filter(|broker| broker.running) else { return };
        broker.running = false;
        broker.incarnation += 1;
        self.each_partition(|partition| partition.broker_down(node_id, now));
    }

    /// Starts a broker again.
    pub fn start(&mut self, node_id: i32, now: i64) {
        let Some(broker) = self.brokers.get_mut(&node_id).filter(|broker| !broker.running) else { return };
        broker.running = true;
        self.each_partition(|partition| partition.broker_up(node_id, now));
    }

    /// Cuts all connections to a broker.
    pub fn cut_connections(&mut self, node_id: i32) {
        if let Some(broker) = self.brokers.get_mut(&node_id) {
            broker.incarnation += 1;
        }
    }

    /// Does something to every partition.
    pub fn each_partition(&mut self, mut what: impl FnMut(&mut Partition)) {
        self.topics.values_mut().flat_map(|topic| &mut topic.partitions).for_each(&mut what);
    }

    /// What goes wrong with this request, if anything.
    pub fn mishap(&mut self, api_key: i16) -> Option<Mishap> {
        let (mishap, left) = self.mishaps.get_mut(&api_key)?;
        let mishap = *mishap;
        *left -= 1;
        if *left == 0 {
            self.mishaps.remove(&api_key);
        }
        Some(mishap)
    }

    /// Whether a producer may write under this id.
    pub fn takes_id(&self, producer_id: i64) -> bool {
        !self.refuses_foreign_ids || producer_id < self.producer_ids
    }

    /// Forgets producers, if it is time for that.
    pub fn expire_producers(&mut self, now: i64) {
        if let Some(expiration) = self.producer_expiration
            && now - self.expired_at >= EXPIRATION_CHECK
        {
            self.expired_at = now;
            self.each_partition(|partition| partition.expire_producers(now - expiration));
        }
    }

    /// A producer id that was never handed out before.
    pub fn next_producer_id(&mut self) -> i64 {
        self.producer_ids += 1;
        self.producer_ids - 1
    }

    /// A group, as its present coordinator has it.
    pub fn group(&mut self, name: &str, now: i64) -> &mut Group {
        let coordinator = self.coordinator().unwrap_or(0);
        let group = self.groups.entry(name.to_owned()).or_default();
        group.load(coordinator, now);
        group
    }

    /// The broker that coordinates groups: the first that runs.
    pub fn coordinator(&self) -> Option<i32> {
        self.brokers.iter().find(|(_, broker)| broker.running).map(|(node_id, _)| *node_id)
    }
}
