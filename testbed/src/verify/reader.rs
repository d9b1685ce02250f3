//! One side of a comparison: a cluster's topic, read partition by partition.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers};
use rdkafka::{Message, Offset, TopicPartitionList};

/// Nothing for this long means that the cluster is gone, not that it is slow.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(500);
const METADATA_DEADLINE: Duration = Duration::from_secs(30);
const KEY_PREVIEW_BYTES: usize = 40;

/// A cluster as one side of a comparison.
#[derive(Clone, Debug)]
pub struct Side {
    name: String,
    bootstrap: String,
    topic: Option<String>,
    timestamps: bool,
    config: Vec<(String, String)>,
}

impl Side {
    /// The cluster `name` (for the report) at `bootstrap`.
    pub fn new(name: &str, bootstrap: &str) -> Self {
        Self {
            name: name.to_owned(),
            bootstrap: bootstrap.to_owned(),
            topic: None,
            timestamps: true,
            config: Vec::new(),
        }
    }

    /// Says that the topic bears another name on this side.
    pub fn topic(mut self, topic: &str) -> Self {
        self.topic = Some(topic.to_owned());
        self
    }

    /// Leaves timestamps out of the comparison: where brokers stamp their own time, each has another.
    pub fn without_timestamps(mut self) -> Self {
        self.timestamps = false;
        self
    }

    /// Sets a property of librdkafka's consumer (security, for instance).
    pub fn config(mut self, key: &str, value: &str) -> Self {
        self.config.push((key.to_owned(), value.to_owned()));
        self
    }

    /// The name given to [`Side::new`].
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn topic_name(&self, topic: &str) -> String {
        self.topic.clone().unwrap_or_else(|| topic.to_owned())
    }
}

/// What is kept of a record: enough to compare it and to name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its offset on its side.
    pub offset: i64,
    /// Its timestamp, milliseconds since 1970, or -1.
    pub timestamp: i64,
    /// A hash of the key; an absent key differs from an empty one.
    pub key: u64,
    /// A hash of the value.
    pub value: u64,
    /// A hash of the headers, in order.
    pub headers: u64,
    /// The beginning of the key as text, for the report.
    pub preview: Box<str>,
}

impl Entry {
    /// Equal contents have equal fingerprints, wherever they lie.
    pub fn fingerprint(&self) -> (i64, u64, u64, u64) {
        (self.timestamp, self.key, self.value, self.headers)
    }

    fn of(message: &BorrowedMessage<'_>, timestamps: bool) -> Self {
        let mut headers = DefaultHasher::new();
        if let Some(all) = message.headers() {
            for header in all.iter() {
                header.key.hash(&mut headers);
                header.value.hash(&mut headers);
            }
        }
        let key = message.key().unwrap_or_default();
        let shown = key.get(..KEY_PREVIEW_BYTES).unwrap_or(key);
        Self {
            offset: message.offset(),
            timestamp: message.timestamp().to_millis().filter(|_| timestamps).unwrap_or(-1),
            key: hash(message.key()),
            value: hash(message.payload()),
            headers: headers.finish(),
            preview: String::from_utf8_lossy(shown).into(),
        }
    }
}

fn hash(bytes: Option<&[u8]>) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// A consumer that reads one partition after the other.
pub(crate) struct Reader {
    consumer: BaseConsumer,
    name: String,
    topic: String,
    partitions: i32,
    timestamps: bool,
}

impl Reader {
    pub(crate) fn open(side: &Side, topic: &str) -> Result<Self> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &side.bootstrap)
            // Required by the client, but no group is ever joined and no offset committed.
            .set("group.id", "diffluent-testbed-verify")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            .set("auto.offset.reset", "error")
            .set("check.crcs", "true")
            .set("fetch.wait.max.ms", "10")
            // Bounds the memory of a comparison, together with the look-ahead.
            .set("queued.max.messages.kbytes", "16384");
        for (key, value) in &side.config {
            config.set(key, value);
        }
        let consumer: BaseConsumer = config.create().context("cannot make a consumer")?;
        let metadata = consumer
            .fetch_metadata(Some(topic), METADATA_DEADLINE)
            .with_context(|| format!("{} does not answer", side.name))?;
        let found = metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none());
        let partitions = found.map_or(0, |found| found.partitions().len());
        let partitions = i32::try_from(partitions).context("too many partitions")?;
        Ok(Self { consumer, name: side.name.clone(), topic: topic.to_owned(), partitions, timestamps: side.timestamps })
    }

    /// The number of partitions; 0 when there is no such topic.
    pub(crate) fn partitions(&self) -> i32 {
        self.partitions
    }

    /// Reads `partition` from its first record to what is its end when the end is met. A partition that does not exist is empty.
    pub(crate) fn read(&mut self, partition: i32) -> Result<Entries<'_>> {
        let exists = partition < self.partitions;
        if exists {
            let mut assignment = TopicPartitionList::new();
            assignment.add_partition_offset(&self.topic, partition, Offset::Beginning).context("cannot assign")?;
            self.consumer.assign(&assignment).context("cannot assign")?;
        }
        Ok(Entries { reader: self, partition, ended: !exists })
    }
}

/// The records of one partition, in the order of their offsets.
pub(crate) struct Entries<'a> {
    reader: &'a Reader,
    partition: i32,
    ended: bool,
}

impl Entries<'_> {
    fn poll(&mut self) -> Result<Option<Entry>> {
        let begin = Instant::now();
        while begin.elapsed() < SILENCE_MAX {
            match self.reader.consumer.poll(POLL) {
                None => {}
                Some(Ok(message)) if message.partition() == self.partition => {
                    return Ok(Some(Entry::of(&message, self.reader.timestamps)));
                }
                // Left over from the partition before.
                Some(Ok(_)) => {}
                Some(Err(KafkaError::PartitionEOF(partition))) if partition == self.partition => return Ok(None),
                Some(Err(KafkaError::PartitionEOF(_))) => {}
                // librdkafka reports lost connections here and goes on by itself.
                Some(Err(KafkaError::MessageConsumption(code))) if is_transient(code) => {}
                Some(Err(error)) => {
                    return Err(error)
                        .with_context(|| format!("cannot read {} from {}", self.reader.topic, self.reader.name));
                }
            }
        }
        bail!("{} said nothing for {SILENCE_MAX:?} about {} {}", self.reader.name, self.reader.topic, self.partition)
    }
}

fn is_transient(code: rdkafka::types::RDKafkaErrorCode) -> bool {
    use rdkafka::types::RDKafkaErrorCode as Code;
    matches!(code, Code::BrokerTransportFailure | Code::AllBrokersDown | Code::OperationTimedOut | Code::Resolve)
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        match self.poll() {
            Ok(Some(entry)) => Some(Ok(entry)),
            Ok(None) => {
                self.ended = true;
                None
            }
            Err(error) => {
                self.ended = true;
                Some(Err(error))
            }
        }
    }
}
