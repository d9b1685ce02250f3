//! Under which producer ids streams write where a region's brokers refuse the reserved ones, and how long brokers remember producers.

use kafka_protocol::messages::InitProducerIdRequest;

use super::*;
use crate::client::configs::{BROKER, describe};

/// Kafka's default of `producer.id.expiration.ms`, a day: for brokers that don't say.
const EXPIRATION_DEFAULT_MS: i64 = 24 * 60 * 60 * 1000;
const EXPIRATION: &str = "producer.id.expiration.ms";

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
            let answer =
                describe(&cluster, Some(node_id), BROKER, [node_id.to_string()].into_iter(), &[EXPIRATION]).await;
            let told = answer.ok().and_then(|brokers| {
                let values = brokers.into_values().next()?.ok()?;
                values.get(EXPIRATION)?.value.parse().ok()
            });
            // A broker that may not be asked is as most are.
            let expiration_ms = told.unwrap_or(EXPIRATION_DEFAULT_MS);
            let _ = events.send(Event::Expiration { node_id, expiration_ms }).await;
        });
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
        if !std::mem::replace(&mut self.told_unprotected, true) {
            tracing::info!(region = %self.parts.settings.name, expirations = ?self.expirations,
                "records are sent that are older than the region's brokers remember producers (producer.id.expiration.ms): until they are there, a connection that \
                 breaks may leave some of them twice; diffluent_unprotected_batches_total counts what is at risk, diffluent_out_of_row_batches_total what was hurt");
        }
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
