//! Under which producer ids streams write where a region's brokers refuse the reserved ones, and how long brokers remember producers.

use kafka_protocol::messages::InitProducerIdRequest;

use super::*;
use crate::client::configs::{BROKER, describe};

/// Kafka's default of `producer.id.expiration.ms`, a day: for brokers that don't say.
const EXPIRATION_DEFAULT_MS: i64 = 24 * 60 * 60 * 1000;
const EXPIRATION: &str = "producer.id.expiration.ms";
/// So many times a broker is asked for it while there is no answer.
const EXPIRATION_ATTEMPTS: u32 = 3;

impl Region {
    /// Gives streams the id that the region has handed out, or asks for one.
    pub(super) fn ask_for_ids(&mut self, now: Instant) {
        let wanting: Vec<usize> =
            self.ticking.iter().copied().filter(|stream| self.slots[*stream].stream.wants_id(now)).collect();
        for stream in wanting {
            let slot = &mut self.slots[stream];
            match self.handed_out.filter(|id| *id != slot.stream.producer_id()) {
                Some(id) => {
                    slot.stream.on_handed_out(id);
                    self.touch(stream);
                }
                None if !self.asking_for_id => {
                    self.asking_for_id = true;
                    let (cluster, events) = (self.parts.cluster.clone(), self.events.clone());
                    self.jobs.spawn(async move {
                        let _ = events.send(Event::HandedOut(ask(&cluster).await)).await;
                    });
                }
                None => {}
            }
        }
    }

    pub(super) fn handed_out(&mut self, result: Result<i64, ClientError>, now: Instant) {
        self.asking_for_id = false;
        let name = &self.parts.settings.name;
        let error = match result {
            Ok(id) => {
                if self.handed_out.is_none() {
                    let message = format!(
                        "the region's brokers refuse the producer ids by which diffluent knows its records again: streams write under the id {id} that they \
                         handed out; so the region must not mirror these topics back, and a stream whose progress is lost begins again"
                    );
                    tracing::warn!(region = %name, "{message}");
                    self.parts.journal.region(Kind::StreamIncident, name, &message);
                }
                self.handed_out = Some(id);
                return;
            }
            Err(error) => error,
        };
        tracing::debug!(region = %name, %error, "the region does not hand out a producer id; trying again");
        self.parts.metrics.error(error.kind());
        let forbidden = matches!(error, ClientError::Refused { code: error_code::CLUSTER_AUTHORIZATION_FAILED, .. });
        for stream in self.ticking.clone() {
            let slot = &mut self.slots[stream];
            if !slot.stream.wants_id(now) {
                continue;
            }
            if forbidden || matches!(error, ClientError::Unsupported { .. }) {
                let reason = format!(
                    "the region's brokers refuse diffluent's producer ids and hand out none: {error}; allow diffluent's principal to write \
                     idempotently there (kafka-acls --cluster --operation IdempotentWrite)"
                );
                slot.stream.stall(reason, now);
            } else {
                slot.stream.on_none_handed_out(now);
            }
            self.touch(stream);
        }
    }

    /// Asks a broker that can be reached how long it remembers a producer.
    pub(super) fn ask_for_expiration(&mut self, node_id: i32) {
        let (cluster, events) = (self.parts.cluster.clone(), self.events.clone());
        self.jobs.spawn(async move {
            let mut told = None;
            for _ in 0..EXPIRATION_ATTEMPTS {
                let answer =
                    describe(&cluster, Some(node_id), BROKER, [node_id.to_string()].into_iter(), &[EXPIRATION]).await;
                let Ok(brokers) = answer else {
                    tokio::time::sleep(LINK_RETRY_MAX).await;
                    continue;
                };
                let values = brokers.into_values().next().and_then(Result::ok);
                told = values.and_then(|values| values.get(EXPIRATION)?.value.parse().ok());
                break;
            }
            let _ = events.send(Event::Expiration { node_id, expiration_ms: told }).await;
        });
    }

    /// How long a broker says it remembers a producer. One that does not say, or may not be asked, is as most are, unless it has said so
    /// before.
    pub(super) fn on_expiration(&mut self, node_id: i32, expiration_ms: Option<i64>) {
        let known = self.expirations.entry(node_id).or_insert(EXPIRATION_DEFAULT_MS);
        *known = expiration_ms.unwrap_or(*known);
        self.tell_unprotected();
    }

    /// A producer whose last record is older than this is forgotten by a broker of the region, milliseconds since 1970.
    pub(super) fn remembered_since_ms(&self) -> i64 {
        now_ms() - self.expirations.values().min().copied().unwrap_or(EXPIRATION_DEFAULT_MS)
    }

    /// So many batches are on their way that are older than that.
    pub(super) fn note_unprotected(&mut self, batches: u64) {
        if batches == 0 {
            return;
        }
        self.parts.metrics.unprotected_batches.inc_by(batches);
        self.tell_unprotected();
    }

    /// Says once that there are such batches, as soon as it is known how long the brokers remember.
    fn tell_unprotected(&mut self) {
        if self.told_unprotected || self.expirations.is_empty() || self.parts.metrics.unprotected_batches.get() == 0 {
            return;
        }
        self.told_unprotected = true;
        tracing::info!(region = %self.parts.settings.name, expirations = ?self.expirations,
            "records are sent that are older than the region's brokers remember producers (producer.id.expiration.ms): until they are there, a connection that \
             breaks may leave some of them twice; diffluent_unprotected_batches_total counts what is at risk, diffluent_out_of_row_batches_total what was hurt");
    }
}

async fn ask(cluster: &Cluster) -> Result<i64, ClientError> {
    let answer = cluster.call_any(&InitProducerIdRequest::default().with_transaction_timeout_ms(60_000)).await?;
    match answer.error_code {
        0 => Ok(answer.producer_id.0),
        code => Err(ClientError::Refused {
            cluster: cluster.name().clone(),
            what: "cannot be given a producer id".to_owned(),
            code,
        }),
    }
}
