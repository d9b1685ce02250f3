//! Workloads: a stock librdkafka producer with deterministic content.
//!
//! The content of record `n` follows from the seed and `n` alone: key, value, headers and (if asked for) the timestamp. Acknowledgements are
//! counted as they come, with their latency, so that a test can say what the producer was promised and how long it waited.
//! Kafka's own Java tools are run with [`crate::kafka::Kafka::tool`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use hdrhistogram::Histogram;
use rdkafka::ClientContext;
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};

/// How long the end of a workload waits for what is still unanswered, and how long a transaction may take.
const FLUSH_DEADLINE: Duration = Duration::from_secs(120);
/// Ack latencies above a minute count as a minute.
const LATENCY_MICROS_MAX: u64 = 60_000_000;

/// Compression codecs, as librdkafka names them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Codec {
    /// No compression.
    #[default]
    None,
    /// gzip.
    Gzip,
    /// Snappy.
    Snappy,
    /// LZ4.
    Lz4,
    /// Zstandard.
    Zstd,
}

impl Codec {
    /// All of them.
    pub const ALL: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    /// The value of `compression.type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Codec::None => "none",
            Codec::Gzip => "gzip",
            Codec::Snappy => "snappy",
            Codec::Lz4 => "lz4",
            Codec::Zstd => "zstd",
        }
    }
}

/// Which answer the producer waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acks {
    /// None: sent is done.
    None,
    /// The leader's.
    Leader,
    /// All in-sync replicas'.
    #[default]
    All,
}

impl Acks {
    /// The value of `acks`.
    pub fn as_str(self) -> &'static str {
        match self {
            Acks::None => "0",
            Acks::Leader => "1",
            Acks::All => "all",
        }
    }
}

/// Transactions of a workload.
#[derive(Clone, Debug)]
pub struct Transactions {
    /// `transactional.id`.
    pub id: String,
    /// Records in each.
    pub records: u64,
    /// Every so many transactions one is aborted; 0: none.
    pub abort_every: u64,
}

/// What to produce, and how. Built with struct update syntax from [`Workload::new`].
#[derive(Clone, Debug)]
pub struct Workload {
    /// `bootstrap.servers`.
    pub bootstrap: String,
    /// The topic.
    pub topic: String,
    /// How many records; `u64::MAX` goes on until [`Running::stop`].
    pub records: u64,
    /// Records per second; `None`: as fast as the client goes.
    pub rate: Option<u64>,
    /// Length of a value in bytes (at least the 24 bytes of its sequence number and seed).
    pub value_bytes: usize,
    /// How many different keys there are; 0: records without a key.
    pub keys: u64,
    /// Headers on each record.
    pub headers: usize,
    /// Every so many records one has no value; 0: none.
    pub tombstone_every: u64,
    /// The partition; `None`: by the client's partitioner.
    pub partition: Option<i32>,
    /// The timestamp of record 0 in milliseconds since 1970, each record one later; `None`: now.
    pub timestamp: Option<i64>,
    /// Compression.
    pub codec: Codec,
    /// Acknowledgements.
    pub acks: Acks,
    /// `enable.idempotence`.
    pub idempotent: bool,
    /// Transactions, if any.
    pub transactions: Option<Transactions>,
    /// Determines the content, with the sequence number.
    pub seed: u64,
    /// The first record's sequence number.
    pub first: u64,
    /// Whether to keep (partition, offset, sequence) of every acknowledged record: 24 bytes each.
    pub keep_acks: bool,
    /// More properties for librdkafka.
    pub config: Vec<(String, String)>,
}

impl Workload {
    /// 1000 records of 100 bytes with 100 keys and one header, acks=all, as fast as it goes.
    pub fn new(bootstrap: &str, topic: &str) -> Self {
        Self {
            bootstrap: bootstrap.to_owned(),
            topic: topic.to_owned(),
            records: 1000,
            rate: None,
            value_bytes: 100,
            keys: 100,
            headers: 1,
            tombstone_every: 0,
            partition: None,
            timestamp: None,
            codec: Codec::None,
            acks: Acks::All,
            idempotent: false,
            transactions: None,
            seed: 1,
            first: 0,
            keep_acks: false,
            config: Vec::new(),
        }
    }

    /// Produces everything and waits for the last answer.
    ///
    /// # Errors
    /// When the producer can't be made, or fails fatally. Failed records are no error: see [`Outcome::errors`].
    pub async fn run(self) -> Result<Outcome> {
        self.start()?.finish().await
    }

    /// Starts to produce on a thread of its own.
    ///
    /// # Errors
    /// When the producer can't be made.
    pub fn start(self) -> Result<Running> {
        let shared = Arc::new(Shared::new(self.keep_acks));
        let producer: ThreadedProducer<Deliveries> = self
            .client_config()
            .create_with_context(Deliveries(Arc::clone(&shared)))
            .context("cannot make a producer")?;
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("workload".to_owned())
            .spawn(move || self.produce(&producer, &for_thread))
            .context("cannot start the workload's thread")?;
        Ok(Running { shared, thread: Some(thread), begin: Instant::now() })
    }

    fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap)
            .set("client.id", "diffluent-workload")
            .set("acks", self.acks.as_str())
            .set("enable.idempotence", self.idempotent.to_string())
            .set("compression.type", self.codec.as_str())
            .set("queue.buffering.max.messages", "100000")
            .set("queue.buffering.max.kbytes", "65536")
            // Regions that are down must not show here, so neither does librdkafka's own chatter.
            .set("log.connection.close", "false");
        if let Some(transactions) = &self.transactions {
            config.set("transactional.id", &transactions.id).set("enable.idempotence", "true");
        }
        for (key, value) in &self.config {
            config.set(key, value);
        }
        config
    }

    fn produce(&self, producer: &ThreadedProducer<Deliveries>, shared: &Shared) -> Result<()> {
        if self.transactions.is_some() {
            producer.init_transactions(FLUSH_DEADLINE).context("init_transactions")?;
        }
        let begin = Instant::now();
        let mut open = 0;
        let mut transaction = 0;
        for index in 0..self.records {
            if shared.stop.load(Ordering::Relaxed) {
                break;
            }
            if let Some(rate) = self.rate {
                // Due times follow from the start: a stall is caught up with, as real producers would.
                let due = begin + Duration::from_secs_f64(index as f64 / rate.max(1) as f64);
                shared.sleep_until(due);
            }
            if self.transactions.is_some() && open == 0 {
                producer.begin_transaction().context("begin_transaction")?;
            }
            self.send(producer, shared, self.first.wrapping_add(index), index)?;
            if let Some(transactions) = &self.transactions {
                open += 1;
                if open >= transactions.records {
                    open = 0;
                    transaction += 1;
                    self.end_transaction(producer, transactions, transaction)?;
                }
            }
        }
        if let Some(transactions) = &self.transactions
            && open > 0
        {
            self.end_transaction(producer, transactions, transaction + 1)?;
        }
        producer.flush(FLUSH_DEADLINE).context("flush")
    }

    fn end_transaction(
        &self,
        producer: &ThreadedProducer<Deliveries>,
        transactions: &Transactions,
        number: u64,
    ) -> Result<()> {
        if transactions.abort_every > 0 && number.is_multiple_of(transactions.abort_every) {
            producer.flush(FLUSH_DEADLINE).context("flush")?;
            return producer.abort_transaction(FLUSH_DEADLINE).context("abort_transaction");
        }
        producer.commit_transaction(FLUSH_DEADLINE).context("commit_transaction")
    }

    fn send(&self, producer: &ThreadedProducer<Deliveries>, shared: &Shared, sequence: u64, index: u64) -> Result<()> {
        let key = self.key(sequence);
        let value = self.value(sequence);
        let headers = self.headers(sequence);
        loop {
            let ticket = Box::new(Ticket { sequence, sent: Instant::now() });
            let mut record = BaseRecord::with_opaque_to(&self.topic, ticket);
            if self.tombstone_every == 0 || !sequence.is_multiple_of(self.tombstone_every) {
                record = record.payload(&value);
            }
            if let Some(key) = &key {
                record = record.key(key);
            }
            if let Some(headers) = &headers {
                record = record.headers(headers.clone());
            }
            record.partition = self.partition;
            record.timestamp = self.timestamp.map(|first| first.saturating_add_unsigned(index));
            match producer.send(record) {
                Ok(()) => {
                    shared.sent.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    // The client's own back-pressure: as a blocking producer, wait for room.
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err((error, _)) => return Err(error).context("the producer refuses a record"),
            }
        }
    }

    /// The key of record `sequence`.
    pub fn key(&self, sequence: u64) -> Option<Vec<u8>> {
        (self.keys > 0).then(|| format!("key-{}", mix(self.seed, sequence) % self.keys).into_bytes())
    }

    /// The value of record `sequence`: its sequence number and seed in words, then bytes that compress to about half.
    pub fn value(&self, sequence: u64) -> Vec<u8> {
        let mut value = format!("{:012} {:010} ", sequence, self.seed).into_bytes();
        let mut state = mix(self.seed, sequence);
        while value.len() < self.value_bytes {
            state = mix(state, 1);
            value.extend_from_slice(&state.to_le_bytes());
            value.extend_from_slice(b"diffluent");
        }
        value.truncate(self.value_bytes.max(24));
        value
    }

    fn headers(&self, sequence: u64) -> Option<OwnedHeaders> {
        if self.headers == 0 {
            return None;
        }
        let mut headers = OwnedHeaders::new_with_capacity(self.headers);
        for index in 0..self.headers {
            let (key, value) = (format!("header-{index}"), format!("{sequence}-{index}"));
            // Every seventh has no value, which is not the same as an empty one.
            let value = (!mix(sequence, index as u64).is_multiple_of(7)).then_some(value.as_str());
            headers = headers.insert(Header { key: &key, value });
        }
        Some(headers)
    }
}

/// A well-mixed function of two numbers (splitmix64).
fn mix(seed: u64, number: u64) -> u64 {
    let mut z = seed.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

struct Ticket {
    sequence: u64,
    sent: Instant,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    sent: AtomicU64,
    answered: Mutex<Answered>,
}

#[derive(Clone, Debug)]
struct Answered {
    acked: u64,
    failed: u64,
    errors: BTreeMap<String, u64>,
    latency: Histogram<u64>,
    /// Since the last [`Running::take_latency`].
    recent: Histogram<u64>,
    acks: Option<Vec<Ack>>,
    first_error_at: Option<Instant>,
}

impl Shared {
    fn new(keep_acks: bool) -> Self {
        let answered = Answered {
            acked: 0,
            failed: 0,
            errors: BTreeMap::new(),
            latency: histogram(),
            recent: histogram(),
            acks: keep_acks.then(Vec::new),
            first_error_at: None,
        };
        Self { stop: AtomicBool::new(false), sent: AtomicU64::new(0), answered: Mutex::new(answered) }
    }

    fn answered<T>(&self, with: impl FnOnce(&mut Answered) -> T) -> T {
        with(&mut self.answered.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    fn sleep_until(&self, due: Instant) {
        // Long waits are cut, so that a stop is noticed.
        while !self.stop.load(Ordering::Relaxed) {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
    }
}

fn histogram() -> Histogram<u64> {
    // These bounds are valid, and an unbounded histogram is what is left if they were not.
    Histogram::new_with_bounds(1, LATENCY_MICROS_MAX, 3)
        .unwrap_or_else(|_| Histogram::new(3).unwrap_or_else(|_| unreachable!("3 digits are allowed")))
}

struct Deliveries(Arc<Shared>);

impl ClientContext for Deliveries {
    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, fac: &str, message: &str) {
        DefaultClientContext.log(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // Connection trouble, which the client heals by itself; what it costs shows in the deliveries.
        self.0.answered(|answered| {
            *answered.errors.entry(format!("client: {error}: {reason}")).or_default() += 1;
        });
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Self::DeliveryOpaque) {
        let micros = u64::try_from(ticket.sent.elapsed().as_micros()).unwrap_or(u64::MAX).clamp(1, LATENCY_MICROS_MAX);
        self.0.answered(|answered| match result {
            Ok(message) => {
                answered.acked += 1;
                answered.latency.saturating_record(micros);
                answered.recent.saturating_record(micros);
                if let Some(acks) = &mut answered.acks {
                    acks.push(Ack {
                        partition: message.partition(),
                        offset: message.offset(),
                        sequence: ticket.sequence,
                    });
                }
            }
            Err((error, _)) => {
                answered.failed += 1;
                answered.first_error_at.get_or_insert_with(Instant::now);
                *answered.errors.entry(error.to_string()).or_default() += 1;
            }
        });
    }
}

/// An acknowledged record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Where it went.
    pub partition: i32,
    /// Its offset (-1 with acks=0).
    pub offset: i64,
    /// Its sequence number in the workload.
    pub sequence: u64,
}

/// A workload under way.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
    begin: Instant,
}

impl Running {
    /// Records handed to the client so far.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Records acknowledged so far.
    pub fn acked(&self) -> u64 {
        self.shared.answered(|answered| answered.acked)
    }

    /// Records that failed for good so far.
    pub fn failed(&self) -> u64 {
        self.shared.answered(|answered| answered.failed)
    }

    /// The ack latencies (microseconds) since the last call.
    pub fn take_latency(&self) -> Histogram<u64> {
        self.shared.answered(|answered| std::mem::replace(&mut answered.recent, histogram()))
    }

    /// Stops producing; what was sent is still waited for by [`Running::finish`].
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }

    /// Waits until everything is produced and answered.
    ///
    /// # Errors
    /// When the producer failed fatally or answers are missing after 2 minutes.
    pub async fn finish(mut self) -> Result<Outcome> {
        let thread = self.thread.take().context("finished already")?;
        tokio::task::spawn_blocking(move || thread.join())
            .await
            .context("cannot wait for the workload")?
            .map_err(|_| anyhow!("the workload panicked"))??;
        let sent = self.sent();
        Ok(self.shared.answered(|answered| Outcome {
            sent,
            acked: answered.acked,
            failed: answered.failed,
            errors: answered.errors.clone(),
            latency: answered.latency.clone(),
            acks: answered.acks.take().unwrap_or_default(),
            took: self.begin.elapsed(),
        }))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What became of a workload.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Records handed to the client.
    pub sent: u64,
    /// Records acknowledged (with acks=0: sent).
    pub acked: u64,
    /// Records that failed for good.
    pub failed: u64,
    /// Errors by their text, with how often; those of connections begin with `client:`.
    pub errors: BTreeMap<String, u64>,
    /// Ack latency in microseconds.
    pub latency: Histogram<u64>,
    /// Every acknowledged record, when [`Workload::keep_acks`] was set.
    pub acks: Vec<Ack>,
    /// From the start to the last answer.
    pub took: Duration,
}
