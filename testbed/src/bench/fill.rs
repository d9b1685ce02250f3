//! A stock librdkafka producer that sends as fast as it can.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};

/// Length of a record's value.
pub(super) const RECORD_BYTES: u64 = 1000;
const FLUSH_DEADLINE: Duration = Duration::from_secs(120);

/// How much to produce.
#[derive(Clone, Copy, Debug)]
pub(super) enum Until {
    /// So many records.
    Records(u64),
    /// For so long.
    Elapsed(Duration),
}

/// A fill.
#[derive(Clone, Debug)]
pub(super) struct Fill {
    pub(super) bootstrap: String,
    pub(super) topic: String,
    pub(super) partitions: i32,
    pub(super) batch_bytes: u64,
    pub(super) until: Until,
    /// Records a second; `None`: as fast as it goes.
    pub(super) rate: Option<u64>,
}

/// What was produced.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filled {
    pub(super) records: u64,
    /// To the last acknowledgement.
    pub(super) took: Duration,
}

impl Filled {
    /// 10^6 bytes of values per second.
    pub(super) fn megabytes_per_second(self) -> f64 {
        (self.records * RECORD_BYTES) as f64 / 1e6 / self.took.as_secs_f64()
    }
}

#[derive(Clone, Default)]
struct Failures(Arc<AtomicU64>);

impl ClientContext for Failures {}

impl ProducerContext for Failures {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_err() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Fill {
    /// Produces with acks=all, linger 5 ms and 5 requests in flight, and waits for the last acknowledgement.
    ///
    /// # Errors
    /// When the producer can't be made or a record fails.
    pub(super) async fn run(self) -> Result<Filled> {
        tokio::task::spawn_blocking(move || self.produce()).await.context("the producer panicked")?
    }

    fn produce(&self) -> Result<Filled> {
        let failures = Failures::default();
        let producer: ThreadedProducer<Failures> = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .set("client.id", "diffluent-bench")
            .set("acks", "all")
            .set("linger.ms", "5")
            .set("batch.size", self.batch_bytes.to_string())
            .set("max.in.flight.requests.per.connection", "5")
            .set("queue.buffering.max.kbytes", "32768")
            .create_with_context(failures.clone())
            .context("cannot make a producer")?;
        let value: Vec<u8> = (0..RECORD_BYTES).map(|index| (index.wrapping_mul(2_654_435_761) >> 7) as u8).collect();
        // A partition gets a batch's worth of records before the next one's turn, as with a sticky partitioner.
        let run = (self.batch_bytes / (RECORD_BYTES + 16)).max(1);
        let partitions = u64::try_from(self.partitions).context("a negative number of partitions")?.max(1);
        let begin = Instant::now();
        let mut records = 0;
        loop {
            let done = match self.until {
                Until::Records(wanted) => records >= wanted,
                Until::Elapsed(wanted) => records.is_multiple_of(run) && begin.elapsed() >= wanted,
            };
            if done {
                break;
            }
            if let Some(rate) = self.rate.filter(|_| records.is_multiple_of(run)) {
                let due = Duration::from_secs_f64(records as f64 / rate.max(1) as f64);
                std::thread::sleep(due.saturating_sub(begin.elapsed()));
            }
            let partition = i32::try_from((records / run) % partitions).unwrap_or(0);
            let record: BaseRecord<'_, (), [u8]> =
                BaseRecord::to(&self.topic).payload(value.as_slice()).partition(partition);
            match producer.send(record) {
                Ok(()) => records += 1,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err((error, _)) => return Err(error).context("the producer refuses a record"),
            }
        }
        producer.flush(FLUSH_DEADLINE).context("flush")?;
        let failed = failures.0.load(Ordering::Relaxed);
        if failed > 0 {
            bail!("{failed} of {records} records failed");
        }
        Ok(Filled { records, took: begin.elapsed() })
    }
}
