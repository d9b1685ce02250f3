//! Waiting for a transaction: the log goes on, but what comes next was written in one that is still open.

use super::*;
use crate::mirror::transactions::OpenTransaction;

/// A transaction that is open for so long is worth asking about.
pub const ASK_AFTER: Duration = Duration::from_secs(2);
/// A transaction that is open for so long is worth telling a person.
pub const TELL_AFTER: Duration = Duration::from_secs(60);

/// See the module's documentation.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// Since when.
    since: Instant,
    /// Where the first open transaction begins (last stable offset), as the leader says.
    last_stable: i64,
    /// Whose it is, once that was asked.
    transaction: Option<OpenTransaction>,
    /// Whether a person was told.
    told: bool,
}

impl Stream {
    /// The log was read at `offset` and gave nothing, though it is longer than that.
    pub(super) fn note_waiting(&mut self, last_stable: i64, now: Instant) {
        if last_stable > self.next_offset || self.source.end <= self.next_offset {
            self.waiting = None;
            return;
        }
        let waiting = self.waiting.get_or_insert(Waiting { since: now, last_stable, transaction: None, told: false });
        if waiting.last_stable != last_stable {
            *waiting = Waiting { since: now, last_stable, transaction: None, told: false };
        }
    }

    /// Whether an open transaction holds the stream back.
    pub fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Whether it should be asked whose the open transaction is.
    pub fn wants_transaction(&self, now: Instant) -> bool {
        self.waiting.is_some_and(|waiting| now.duration_since(waiting.since) >= ASK_AFTER)
    }

    /// The leader has said whose the oldest open transaction is; `None` if there is none any more, or if it did not say.
    pub fn on_transaction(&mut self, transaction: Option<OpenTransaction>) {
        if let Some(waiting) = &mut self.waiting {
            waiting.transaction = transaction;
        }
    }

    /// Why the stream waits, in words, `now_ms` being the time in milliseconds since 1970: what holds it back, then what can be done.
    pub fn waits_for(&self, now: Instant, now_ms: i64) -> Option<String> {
        let waiting = self.waiting.filter(|waiting| now.duration_since(waiting.since) >= ASK_AFTER)?;
        let Waiting { since, last_stable, transaction, .. } = waiting;
        let seconds = now.duration_since(since).as_secs();
        let who = match transaction {
            Some(OpenTransaction { producer_id, producer_epoch, last_timestamp, .. }) => format!(
                "of producer id {producer_id} (epoch {producer_epoch}, which last wrote {} s ago)",
                (now_ms - last_timestamp).max(0) / 1000
            ),
            None => "whose producer is not known".to_owned(),
        };
        let start = transaction.map_or(last_stable, |transaction| transaction.start_offset);
        let (topic, partition, end) = (&self.topic, self.partition, self.source.end);
        Some(format!(
            "an open transaction {who} that begins at source offset {start} has held back what is behind it for {seconds} s: the last \
             stable offset is {last_stable}, the log's end {end}; it ends with its producer, or by transaction.timeout.ms; find one that \
             hangs with kafka-transactions find-hanging, and end it with kafka-transactions abort --topic {topic} --partition {partition} \
             --start-offset {start}"
        ))
    }

    /// As [`Stream::waits_for`], once for each transaction that is open for long.
    pub fn tells_of_transaction(&mut self, now: Instant, now_ms: i64) -> Option<String> {
        let due = self.waiting.is_some_and(|waiting| !waiting.told && now.duration_since(waiting.since) >= TELL_AFTER);
        let words = due.then(|| self.waits_for(now, now_ms)).flatten();
        if let Some(waiting) = self.waiting.as_mut().filter(|_| words.is_some()) {
            waiting.told = true;
        }
        words
    }
}
