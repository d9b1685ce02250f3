//! One partition: the leader's log, how far each replica has it, and what follows from both.

use std::collections::BTreeMap;

use super::batch::Batch;
use super::producers::{Producer, Producers, Verdict};

/// A follower that has not caught up for so long leaves the in-sync replicas (`replica.lag.time.max.ms`), milliseconds.
const REPLICA_LAG_MAX: i64 = 10_000;

/// A replica on another broker than the leader's.
#[derive(Clone, Debug)]
struct Follower {
    /// The end of what it has.
    end: i64,
    /// Whether its broker runs and it fetches.
    running: bool,
    /// How long after the append it has a batch, milliseconds.
    delay: i64,
    in_sync: bool,
    caught_up_at: i64,
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Partition {
    /// The leader's broker, -1 for none.
    pub leader: i32,
    /// The leader epoch.
    pub epoch: i32,
    /// The first offset that is still there.
    pub start: i64,
    /// Whether the broker stamps its own time.
    pub log_append_time: bool,
    /// The largest batch.
    pub max_message_bytes: usize,
    /// Fewer in-sync replicas refuse acks=all.
    pub min_in_sync: usize,
    batches: Vec<Batch>,
    end: i64,
    high_watermark: i64,
    /// Which epoch began where.
    epochs: Vec<(i32, i64)>,
    followers: BTreeMap<i32, Follower>,
    producers: Producers,
    /// Aborted transactions: producer id, first offset, the marker's offset.
    aborted: Vec<(i64, i64, i64)>,
    /// Transactions that have ended: first offset, the marker's offset. As long as the marker may be lost, they may be open again.
    ended: Vec<(i64, i64)>,
}

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The offset of the first record.
    pub base_offset: i64,
    /// The offset behind the last record: acks=all waits for the high watermark to be there.
    pub next_offset: i64,
    /// The broker's own timestamp, -1 where the producer's was kept; of a repeated batch the timestamp in the log.
    pub log_append_time: i64,
}

/// How far a replica has the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// The end of what it has.
    pub end: i64,
    /// The high watermark, as far as it can know.
    pub high_watermark: i64,
    /// The last stable offset, as far as it can know.
    pub last_stable_offset: i64,
}

impl Partition {
    /// A new partition with a replica on each of `replicas`, led by the first.
    pub fn new(replicas: &[i32]) -> Self {
        let follower = Follower { end: 0, running: true, delay: 0, in_sync: true, caught_up_at: 0 };
        Self {
            leader: replicas.first().copied().unwrap_or(-1),
            epoch: 0,
            start: 0,
            log_append_time: false,
            max_message_bytes: 1_048_588,
            min_in_sync: 1,
            batches: Vec::new(),
            end: 0,
            high_watermark: 0,
            epochs: vec![(0, 0)],
            followers: replicas.iter().skip(1).map(|node_id| (*node_id, follower.clone())).collect(),
            producers: Producers::default(),
            aborted: Vec::new(),
            ended: Vec::new(),
        }
    }

    /// Appends a batch that a client sent.
    ///
    /// # Errors
    /// Kafka's error code.
    pub fn append(&mut self, mut batch: Batch, now: i64) -> Result<Appended, i16> {
        if batch.bytes.len() > self.max_message_bytes {
            return Err(10);
        }
        match self.producers.check(&batch) {
            Verdict::Refused(code) => Err(code),
            // The answer bears the time of what is there, as if the broker had stamped it.
            Verdict::Duplicate(kept) => Ok(Appended {
                base_offset: kept.base_offset,
                next_offset: kept.last_offset + 1,
                log_append_time: kept.timestamp,
            }),
            Verdict::New => {
                batch.place(self.end, self.epoch, now, self.log_append_time);
                let log_append_time = if self.log_append_time { now } else { -1 };
                let (base_offset, next_offset) = (batch.base_offset, batch.last_offset + 1);
                self.push(batch);
                self.replicate(now);
                Ok(Appended { base_offset, next_offset, log_append_time })
            }
        }
    }

    /// Ends a producer's transaction, if it has an open one here.
    pub fn end_transaction(&mut self, producer_id: i64, producer_epoch: i16, commit: bool, now: i64) {
        let open = self.producers.all().any(|(id, state)| id == producer_id && state.transaction.is_some());
        if open && self.leader >= 0 {
            let mut marker = Batch::marker(producer_id, producer_epoch, commit, now);
            marker.place(self.end, self.epoch, now, false);
            self.push(marker);
            self.replicate(now);
        }
    }

    fn push(&mut self, batch: Batch) {
        self.note(&batch);
        self.end = batch.last_offset + 1;
        self.batches.push(batch);
    }

    fn note(&mut self, batch: &Batch) {
        let Some(first) = self.producers.note(batch) else { return };
        self.ended.push((first, batch.base_offset));
        if !batch.commits() {
            self.aborted.push((batch.producer_id, first, batch.base_offset));
        }
    }

    /// Lets followers catch up, as far as their delay allows, and moves the high watermark.
    pub fn replicate(&mut self, now: i64) {
        if self.leader < 0 {
            return;
        }
        for follower in self.followers.values_mut().filter(|follower| follower.running) {
            let due = self.batches.partition_point(|batch| batch.appended_at + follower.delay <= now);
            let end = if due == self.batches.len() { self.end } else { self.batches[due].base_offset };
            follower.end = follower.end.max(end);
            if follower.end >= self.end {
                follower.caught_up_at = now;
                follower.in_sync = true;
            }
        }
        for follower in self.followers.values_mut() {
            follower.in_sync &= now - follower.caught_up_at <= REPLICA_LAG_MAX;
        }
        let slowest = self.followers.values().filter(|follower| follower.in_sync).map(|follower| follower.end).min();
        self.high_watermark = self.high_watermark.max(slowest.unwrap_or(self.end).min(self.end));
    }

    /// How many milliseconds until a follower has the log's end, at least one.
    pub fn replication_takes(&self) -> u64 {
        let delays = self.followers.values().filter(|follower| follower.in_sync).map(|follower| follower.delay);
        delays.max().and_then(|delay| u64::try_from(delay).ok()).unwrap_or(1).clamp(1, 50)
    }

    /// Whether enough replicas are in sync for acks=all.
    pub fn has_enough_in_sync(&self) -> bool {
        1 + self.followers.values().filter(|follower| follower.in_sync).count() >= self.min_in_sync
    }

    /// Sets how long after the append the followers have a batch, milliseconds.
    pub fn set_delay(&mut self, delay: i64) {
        self.followers.values_mut().for_each(|follower| follower.delay = delay);
    }

    /// A broker has gone. If it led, an in-sync follower takes over, with what that has; if there is none, nobody leads.
    pub fn broker_down(&mut self, node_id: i32, now: i64) {
        self.replicate(now);
        if let Some(follower) = self.followers.get_mut(&node_id) {
            follower.running = false;
            follower.in_sync = false;
        }
        if self.leader == node_id {
            let next = self.followers.iter().find(|(_, follower)| follower.in_sync && follower.running);
            let next = next.map(|(node_id, _)| *node_id);
            let end = self.end;
            self.lead(next, now);
            // It is behind from now on, with all that it has.
            self.followers.insert(
                node_id,
                Follower {
                    end: end.min(self.end),
                    running: false,
                    delay: 0,
                    in_sync: next.is_none(),
                    caught_up_at: now,
                },
            );
        }
    }

    /// A broker is back. If nobody leads and it was in sync last, it does.
    pub fn broker_up(&mut self, node_id: i32, now: i64) {
        if let Some(follower) = self.followers.get_mut(&node_id) {
            follower.running = true;
            follower.caught_up_at = now;
            if self.leader < 0 && follower.in_sync {
                self.lead(Some(node_id), now);
            }
        }
    }

    /// Moves leadership to a running in-sync follower, if `node_id` is one.
    pub fn move_leader(&mut self, node_id: i32, now: i64) {
        self.replicate(now);
        if self.followers.get(&node_id).is_some_and(|follower| follower.in_sync && follower.running) {
            self.step_down(now);
            self.lead(Some(node_id), now);
        }
    }

    /// Lets `node_id` lead with at most `end` as its log's end, whatever it lacks. Says how many committed offsets that loses.
    pub fn unclean_election(&mut self, node_id: i32, end: i64, now: i64) -> i64 {
        if !self.followers.get(&node_id).is_some_and(|follower| follower.running) {
            return 0;
        }
        let before = self.high_watermark;
        if let Some(follower) = self.followers.get_mut(&node_id) {
            follower.end = follower.end.min(end.max(self.start));
        }
        self.step_down(now);
        self.lead(Some(node_id), now);
        (before - self.high_watermark).max(0)
    }

    fn step_down(&mut self, now: i64) {
        if self.leader >= 0 {
            let follower = Follower { end: self.end, running: true, delay: 0, in_sync: true, caught_up_at: now };
            self.followers.insert(self.leader, follower);
        }
    }

    fn lead(&mut self, node_id: Option<i32>, now: i64) {
        self.epoch += 1;
        let Some(leader) = node_id else {
            self.leader = -1;
            return;
        };
        let end = self.followers.remove(&leader).map_or(self.end, |follower| follower.end);
        self.leader = leader;
        self.truncate(end);
        for follower in self.followers.values_mut() {
            follower.end = follower.end.min(self.end);
            follower.caught_up_at = now;
        }
        self.epochs.push((self.epoch, self.end));
        self.replicate(now);
    }

    /// Cuts the log at `end`, which lies between batches (or is moved down to one's start).
    fn truncate(&mut self, end: i64) {
        self.batches.retain(|batch| batch.last_offset < end);
        self.end = self.batches.last().map_or(self.start, |batch| batch.last_offset + 1).max(end.min(self.start));
        self.high_watermark = self.high_watermark.min(self.end);
        self.epochs.retain(|(epoch, start)| *start < self.end || *epoch == 0);
        self.producers = Producers::default();
        self.aborted.clear();
        self.ended.clear();
        for batch in std::mem::take(&mut self.batches) {
            self.note(&batch);
            self.batches.push(batch);
        }
    }

    /// Where the log of `epoch` ends: that epoch, or the largest one below it, and its end (KIP-279); (-1, -1) when nothing is known.
    pub fn epoch_end(&self, epoch: i32) -> (i32, i64) {
        if epoch == self.epoch {
            return (epoch, self.end);
        }
        let later = self.epochs.iter().position(|(known, _)| *known > epoch);
        match later {
            Some(0) | None => (-1, -1),
            Some(later) => (self.epochs[later - 1].0, self.epochs[later].1),
        }
    }

    /// Removes what is below `start` (retention, DeleteRecords).
    pub fn delete_before(&mut self, start: i64) {
        let start = start.min(self.high_watermark);
        if start > self.start {
            self.start = start;
            self.batches.retain(|batch| batch.last_offset >= start);
            self.aborted.retain(|(_, _, last)| *last >= start);
            self.ended.retain(|(_, last)| *last >= start);
        }
    }

    /// Forgets producers whose last record is older than `before`.
    pub fn expire_producers(&mut self, before: i64) {
        self.producers.expire(before);
    }

    /// The log's end.
    pub fn end(&self) -> i64 {
        self.end
    }

    /// The high watermark.
    pub fn high_watermark(&self) -> i64 {
        self.high_watermark
    }

    /// The last stable offset: what read_committed sees ends here.
    pub fn last_stable_offset(&self) -> i64 {
        self.last_stable_below(self.high_watermark)
    }

    fn last_stable_below(&self, high_watermark: i64) -> i64 {
        let unsure = self.ended.iter().rev().take_while(|(_, marker)| *marker >= high_watermark);
        let first = unsure.map(|(first, _)| *first).chain(self.producers.first_open()).min();
        first.unwrap_or(i64::MAX).min(high_watermark)
    }

    /// What broker `node_id` has of the log, leader or follower; `None` where it has no replica.
    pub fn held_by(&self, node_id: i32) -> Option<Held> {
        let end = if self.leader == node_id { self.end } else { self.followers.get(&node_id)?.end };
        let high_watermark = self.high_watermark.min(end);
        Some(Held { end, high_watermark, last_stable_offset: self.last_stable_below(high_watermark) })
    }

    /// The producers that broker `node_id` knows: those that wrote something that it has.
    pub fn producers_at(&self, node_id: i32) -> impl Iterator<Item = (i64, Producer)> {
        let end = self.held_by(node_id).map_or(0, |held| held.end);
        self.producers.all().filter_map(move |(id, state)| Some((id, state.before(end)?)))
    }

    /// All batches.
    pub fn batches(&self) -> &[Batch] {
        &self.batches
    }

    /// Batches from the one that holds `offset` on, up to `limit`, at most `max_bytes` but one at least.
    pub fn read(&self, offset: i64, limit: i64, max_bytes: usize) -> &[Batch] {
        let first = self.batches.partition_point(|batch| batch.last_offset < offset);
        let mut last = first;
        let mut bytes = 0;
        while let Some(batch) = self.batches.get(last)
            && batch.last_offset < limit
            && (last == first || bytes + batch.bytes.len() <= max_bytes)
        {
            bytes += batch.bytes.len();
            last += 1;
        }
        &self.batches[first..last]
    }

    /// Aborted transactions that overlap offsets from `from` to before `to`: producer id, first offset. Nothing read, none told.
    pub fn aborted(&self, from: i64, to: i64) -> Vec<(i64, i64)> {
        let overlapping = self.aborted.iter().filter(|(_, first, last)| from < to && *last >= from && *first < to);
        overlapping.map(|(producer_id, first, _)| (*producer_id, *first)).collect()
    }

    /// The producers.
    pub fn producers(&self) -> &Producers {
        &self.producers
    }

    /// Replicas, leader first.
    pub fn replicas(&self) -> Vec<i32> {
        std::iter::once(self.leader).filter(|leader| *leader >= 0).chain(self.followers.keys().copied()).collect()
    }

    /// In-sync replicas.
    pub fn in_sync(&self) -> Vec<i32> {
        let followers = self.followers.iter().filter(|(_, follower)| follower.in_sync).map(|(node_id, _)| *node_id);
        std::iter::once(self.leader).filter(|leader| *leader >= 0).chain(followers).collect()
    }
}
