//! From a session to the streams: the batches that the local cluster has just acknowledged, under one byte budget.
//!
//! Nothing here awaits, and anything here may be dropped at any time: what is not captured is read from the local log
//! later (promise P2). Whatever is dropped is counted by reason.
//!
//! # When full
//! The budget counts the memory that captured batches pin, once however many regions still need them. Over it, a batch is
//! not captured and `diffluent_capture_dropped_bytes_total{reason="budget"}` grows.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use bytes::Bytes;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

pub use crate::mirror::batch::Segments;
use crate::mirror::batch::{Batch, Feed};
use crate::mirror::inbox::{Captured, Inbox};

/// A limit on memory, in bytes, with its level. Shared by all sessions.
#[derive(Debug)]
pub struct ByteBudget {
    limit: AtomicUsize,
    level: AtomicUsize,
}

impl ByteBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit: limit.into(), level: AtomicUsize::new(0) })
    }

    /// Takes `bytes` of the budget until the returned charge is dropped; `None` when that would exceed the limit.
    pub fn charge(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        let mut level = self.level.load(Ordering::Relaxed);
        loop {
            let next = level.checked_add(bytes).filter(|next| *next <= self.limit_bytes())?;
            match self.level.compare_exchange_weak(level, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(Charge { budget: Arc::clone(self), bytes }),
                Err(now) => level = now,
            }
        }
    }

    /// The limit in bytes.
    pub fn limit_bytes(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Another limit from now on. What is in use stays in use, also where it is more.
    pub fn set_limit_bytes(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Bytes in use now.
    pub fn level_bytes(&self) -> usize {
        self.level.load(Ordering::Relaxed)
    }
}

/// A part of a [`ByteBudget`], given back when dropped.
#[derive(Debug)]
pub struct Charge {
    budget: Arc<ByteBudget>,
    bytes: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.level.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// How a Produce request names a topic: by name to version 12, by id from version 13 (KIP-516).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TopicRef {
    /// By name.
    Name(String),
    /// By the local cluster's topic id.
    Id(Uuid),
}

/// One record batch that the local broker has answered without error at acks=all.
///
/// `segments` share the session's read buffers; each `Bytes` owns its part of the budget (see [`Capture::budget`]) and gives it back when the last
/// clone is dropped.
#[derive(Clone, Debug)]
pub struct Produced {
    /// The topic as the request named it.
    pub topic: TopicRef,
    /// The partition's number.
    pub partition: i32,
    /// The offset the broker gave to the batch's first record.
    pub base_offset: i64,
    /// The broker that answered.
    pub node_id: i32,
    /// When the session's connection to that broker was opened: a value of [`Capture::next_connection`].
    pub connection: u64,
    /// The batch.
    pub segments: Segments,
}

/// Where a topic's captured batches go.
#[derive(Clone, Debug)]
pub struct Route {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The local cluster's id of the topic.
    pub id: Uuid,
    /// The regions that mirror it; none for a topic that is known but not mirrored.
    pub inboxes: Vec<Arc<Inbox>>,
}

/// All topics of the local cluster, by name and by id.
#[derive(Debug, Default)]
pub struct Routes {
    by_name: HashMap<Arc<str>, Arc<Route>>,
    by_id: HashMap<Uuid, Arc<Route>>,
}

impl Routes {
    /// Puts the routes in order.
    pub fn new(routes: impl IntoIterator<Item = Route>) -> Self {
        let mut all = Self::default();
        for route in routes.into_iter().map(Arc::new) {
            all.by_id.insert(route.id, route.clone());
            all.by_name.insert(route.topic.clone(), route);
        }
        all
    }

    fn find(&self, topic: &TopicRef) -> Option<&Arc<Route>> {
        match topic {
            TopicRef::Name(name) => self.by_name.get(name.as_str()),
            TopicRef::Id(id) => self.by_id.get(id),
        }
    }
}

/// Why a batch, or a part of one, was not captured.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DroppedLabel {
    /// The reason.
    pub reason: &'static str,
}

/// The sessions' side of the mirror. Cheap to share; every call returns at once.
#[derive(Debug)]
pub struct Capture {
    budget: Arc<ByteBudget>,
    connections: AtomicU64,
    routes: ArcSwap<Routes>,
    unknown_topic: Notify,
    opened: Notify,
    captured_bytes: Counter,
    dropped_bytes: Family<DroppedLabel, Counter>,
}

impl Capture {
    /// A capture under a budget of `limit_bytes`. No topic is captured before [`Capture::set_routes`].
    pub fn new(limit_bytes: usize) -> Self {
        Self {
            budget: ByteBudget::new(limit_bytes),
            // 0 is older than every connection.
            connections: AtomicU64::new(1),
            routes: ArcSwap::default(),
            unknown_topic: Notify::new(),
            opened: Notify::new(),
            captured_bytes: Counter::default(),
            dropped_bytes: Family::default(),
        }
    }

    /// Registers the metrics of capture.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "captured_bytes",
            "Bytes of record batches handed from sessions to streams",
            self.captured_bytes.clone(),
        );
        registry.register(
            "capture_dropped_bytes",
            "Bytes of record batches that were not captured, by reason: they are read from the local log",
            self.dropped_bytes.clone(),
        );
        registry.register_collector(Box::new(BudgetCollector(self.budget.clone())));
    }

    /// Numbers the connections to local brokers, and the moments when brokers tell their epochs, in order.
    pub fn next_connection(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed)
    }

    /// Numbers a session's connection to a local broker, before a client can produce over it.
    pub fn open_connection(&self) -> u64 {
        let connection = self.next_connection();
        self.opened.notify_one();
        connection
    }

    /// Waits until a session has opened a connection since the last call: what it will capture counts once its broker has told its epochs again. Cancellation
    /// safe.
    pub async fn opened(&self) {
        self.opened.notified().await;
    }

    /// The budget that captured memory is charged to.
    pub fn budget(&self) -> &Arc<ByteBudget> {
        &self.budget
    }

    /// Which topics go where, from now on.
    pub fn set_routes(&self, routes: Routes) {
        self.routes.store(Arc::new(routes));
    }

    /// Waits until a session has met a topic that no route is known for. Cancellation safe.
    pub async fn unknown_topic(&self) {
        self.unknown_topic.notified().await;
    }

    /// Whether any region mirrors this topic: if not, the session need not keep its batches.
    pub fn wants(&self, topic: &TopicRef) -> bool {
        match self.routes.load().find(topic) {
            Some(route) => !route.inboxes.is_empty(),
            None => {
                self.unknown_topic.notify_one();
                false
            }
        }
    }

    /// Hands on a batch that the local broker has acknowledged.
    ///
    /// Only what the log holds exactly so is taken: the offset that the broker gave is written into the header, anything that is no single,
    /// whole, plain batch of message format v2 is dropped and read from the log.
    pub fn offer(&self, produced: Produced) {
        let Produced { topic, partition, base_offset, node_id, connection, segments } = produced;
        let routes = self.routes.load();
        let Some(route) = routes.find(&topic) else { return };
        let bytes = segments.iter().map(Bytes::len).sum();
        let mut batch = match Batch::new(segments, Feed::Capture, Instant::now()) {
            Ok(batch) => batch,
            Err(_) => return self.dropped("format", bytes),
        };
        if batch.header.is_transactional() || batch.header.is_control() || batch.header.has_holes() {
            return self.dropped("transactional", bytes);
        }
        batch.header.base_offset = base_offset;
        self.captured_bytes.inc_by(bytes as u64);
        for inbox in &route.inboxes {
            let captured =
                Captured { topic: route.topic.clone(), partition, node_id, connection, batch: batch.clone() };
            if !inbox.put(captured) {
                self.dropped("inbox_full", bytes);
            }
        }
    }

    /// Counts bytes that were not captured, by reason.
    pub fn dropped(&self, reason: &'static str, bytes: usize) {
        self.dropped_bytes.get_or_create(&DroppedLabel { reason }).inc_by(bytes as u64);
    }
}

/// The budget's level and limit, read when somebody scrapes.
#[derive(Debug)]
struct BudgetCollector(Arc<ByteBudget>);

impl Collector for BudgetCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let gauges = [
            ("capture_buffer_bytes", "Memory that captured batches hold now", self.0.level_bytes()),
            ("capture_buffer_limit_bytes", "Memory that captured batches may hold", self.0.limit_bytes()),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value as i64);
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        Ok(())
    }
}
