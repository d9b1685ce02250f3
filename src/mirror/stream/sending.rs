//! Batches go out in order, answers come back and move the position; a failure drains the stream first.

use super::*;
use crate::client::error_code::Refusal;

impl Stream {
    /// Whether [`Stream::next_batch`] would give one.
    pub fn can_send(&self) -> bool {
        !self.ready.is_empty()
            && match self.phase {
                Phase::Sending { primed } => primed || self.in_flight.is_empty(),
                _ => false,
            }
    }

    /// The next batch to send. On a `quiet` link, one with next to nothing under way, a few that wait together are acks=all all of them.
    pub fn next_batch(&mut self, quiet: bool) -> Option<Outgoing> {
        if !self.can_send() {
            return None;
        }
        let Phase::Sending { primed } = self.phase else { return None };
        let Ready { batch, source_next } = self.ready.pop_front()?;
        self.ready_bytes -= batch.len();
        let header = &batch.header;
        let identity = Identity {
            producer_id: self.producer_id(),
            producer_epoch: self.adopted_epoch.unwrap_or(self.position.producer_epoch),
            base_sequence: self.next_sequence,
        };
        self.next_sequence = sequence_after(self.next_sequence, i64::from(header.record_count));
        self.bytes_since_barrier += batch.len();
        self.batches_since_barrier += 1;
        let barrier = !primed
            || self.ready.len() < if quiet { BARRIERS_IN_A_ROW } else { 1 }
            || self.bytes_since_barrier >= BARRIER_BYTES
            || self.batches_since_barrier >= BARRIER_BATCHES;
        if barrier {
            self.bytes_since_barrier = 0;
            self.batches_since_barrier = 0;
        }
        let token = self.next_token;
        self.next_token += 1;
        self.unanswered += 1;
        self.in_flight.push_back(InFlight {
            token,
            base_offset: header.base_offset,
            source_next,
            sequence_next: self.next_sequence,
            bytes: batch.len(),
            records: u64::try_from(header.record_count).unwrap_or(0),
            base_timestamp: header.base_timestamp,
            max_timestamp: header.max_timestamp,
            since: batch.since,
            barrier,
            answered: false,
        });
        Some(Outgoing { batch, identity, token, barrier })
    }

    /// The region's broker has answered for a batch: that it has it, or why it did not take it. `leader_epoch` is the epoch under
    /// which it was sent.
    pub fn on_answer(
        &mut self,
        token: u64,
        answer: Result<Appended, Refusal>,
        leader_epoch: i32,
        now: Instant,
    ) -> Option<Acknowledged> {
        let at = self.in_flight.iter().position(|batch| batch.token == token && !batch.answered)?;
        self.in_flight[at].answered = true;
        self.unanswered -= 1;
        let acknowledged = match answer {
            Ok(appended) if matches!(self.phase, Phase::Sending { .. }) => {
                if self.came_by_another_path(at, appended) {
                    // What else that path has brought, and whether it is the same, is looked for.
                    self.drain(After::Locate);
                    None
                } else {
                    self.phase = Phase::Sending { primed: true };
                    self.failures = 0;
                    self.in_flight[at].barrier.then(|| self.acknowledge(at, appended.offset, leader_epoch))
                }
            }
            // Late good news: the search will find it.
            Ok(_) => None,
            Err(refusal) => {
                self.failed(at, &refusal);
                None
            }
        };
        self.leave_draining(now);
        acknowledged
    }

    /// Whether the region had the batch before a stream that forwards sent it. Where brokers stamp their own time it can't be told.
    fn came_by_another_path(&self, at: usize, appended: Appended) -> bool {
        self.origin != Origin::Here
            && appended.append_time_ms >= 0
            && appended.append_time_ms == self.in_flight[at].max_timestamp
    }

    pub(super) fn acknowledge(&mut self, at: usize, base_offset: i64, leader_epoch: i32) -> Acknowledged {
        let mut done = Acknowledged::default();
        if let Some(epoch) = self.adopted_epoch.take() {
            self.position.producer_epoch = epoch;
        }
        for batch in self.in_flight.drain(..=at) {
            done.records += batch.records;
            done.bytes += batch.bytes as u64;
            done.since.push(batch.since);
            self.position.source_offset = batch.source_next;
            self.position.sequence = batch.sequence_next;
            self.position.region_offset = base_offset + i64::try_from(batch.records).unwrap_or(0);
            self.position.region_leader_epoch = leader_epoch;
        }
        self.position_hint();
        done
    }

    /// The batch in flight at index `at` has failed.
    pub(super) fn failed(&mut self, at: usize, refusal: &Refusal) {
        if let Phase::Draining(_) = self.phase {
            return;
        }
        match error_code::produce_fault(refusal.code) {
            // What is before it must be known to be in the region first: it comes again, alone.
            ProduceFault::Refused(_) if at > 0 => self.drain(After::Locate),
            ProduceFault::Refused(remedy) => {
                let InFlight { base_offset: offset, source_next: next_offset, records, .. } = self.in_flight[at];
                let reason = format!(
                    "the region refuses the batch at source offset {offset} ({records} records): {refusal}; {remedy}; or step \
                     over it with diffluent skip"
                );
                self.drain(After::Stall(reason, Some(Obstacle { offset, next_offset, records })));
            }
            ProduceFault::Fenced if self.origin != Origin::Here => self.drain(After::Rejoin),
            // Not the batch is in the way, so none can be stepped over.
            ProduceFault::Denied => {
                let reason = format!(
                    "the region does not let diffluent write: {refusal}; grant its principal the right Write on topic {}",
                    self.region_topic
                );
                self.drain(After::Stall(reason, None));
            }
            ProduceFault::UnknownId if self.origin != Origin::Here => {
                let reason = format!(
                    "the region's brokers refuse the producer id under which these records were born: {refusal}; such a region can't be \
                     forwarded to; set forward = \"own\" for it"
                );
                self.drain(After::Stall(reason, None));
            }
            // What is before it must be known to be in the region first.
            ProduceFault::UnknownId => self.drain(if at > 0 { After::Locate } else { After::Rename }),
            ProduceFault::Fenced => {
                self.incident = Some(
                    "a newer incarnation of this stream has written to the region: another diffluent mirrors this partition, or \
                     its committed progress was lost; the progress is looked up again"
                        .to_string(),
                );
                self.drain(After::Restart);
            }
            ProduceFault::Moved | ProduceFault::Unknown => self.drain(After::Locate),
        }
    }

    /// The connection to the region's broker is gone: what is unanswered may be there or not.
    pub fn on_link_lost(&mut self, now: Instant) {
        // Even where nothing is unanswered: the next broker may not have what this one has acknowledged. What is under way (a replay, a commit) goes on, and then
        // the log is searched.
        self.unanswered = 0;
        self.link_lost_at = Some(now);
        match self.phase {
            Phase::Sending { .. } => self.drain(After::Locate),
            Phase::Draining(_) => {}
            _ => return,
        }
        self.leave_draining(now);
    }

    /// The region can't be reached: captured batches are given up, so that a dead region holds no memory.
    pub fn on_unreachable(&mut self) {
        // In any other phase nothing waits; and a replay must go on where it is.
        if !matches!(self.phase, Phase::Sending { .. }) {
            return;
        }
        if let Some(ready) = self.ready.front()
            && self.in_flight.is_empty()
        {
            self.oldest = Some((self.position.source_offset, ready.batch.header.base_timestamp));
        }
        self.forget_waiting();
        self.next_offset = self.in_flight.back().map_or(self.position.source_offset, |batch| batch.source_next);
    }

    pub(super) fn drain(&mut self, after: After) {
        self.phase = Phase::Draining(after);
    }

    /// Once nothing is unanswered, what follows a failure begins.
    pub fn leave_draining(&mut self, now: Instant) {
        if self.unanswered > 0 {
            return;
        }
        let Phase::Draining(after) = &self.phase else { return };
        let after = after.clone();
        if let Some(front) = self.in_flight.front() {
            self.oldest = Some((self.position.source_offset, front.base_timestamp));
        }
        self.rewind();
        match after {
            After::Locate => {
                let at = now + self.next_wait();
                self.phase = self.search_at(at);
            }
            After::Rejoin => {
                self.doubt = Some(Doubt::Region);
                self.phase = Phase::Locating { at: now + self.next_wait() };
            }
            After::Rename => self.phase = Phase::Renaming { at: now + self.next_wait() },
            After::Bump(offset) => self.begin_incarnation(offset),
            After::Diverged(end) => {
                self.doubt = Some(Doubt::Source(end));
                // A request that is still on its way must not come behind the search.
                self.phase = Phase::Locating { at: now + LATE_REQUESTS };
            }
            After::Restart => self.phase = Phase::Starting,
            After::Rewind(offset, region_end) => {
                match region_end {
                    Some((region_offset, region_leader_epoch)) => {
                        self.position.region_offset = region_offset;
                        self.position.region_leader_epoch = region_leader_epoch;
                    }
                    // Its topic is not there, or can't be asked: what was there before says nothing of what will be, and nothing of the new incarnation can be.
                    None => self.link_lost_at = None,
                }
                self.doubt = None;
                self.begin_incarnation(offset);
            }
            After::Stall(reason, obstacle) => {
                self.phase = Phase::Stalled { reason, obstacle, retry_at: now + STALL_RETRY }
            }
        }
    }

    /// How long the next search waits: longer with each failure since the last acknowledgement.
    pub(super) fn next_wait(&mut self) -> Duration {
        let wait = if self.failures == 0 { Duration::ZERO } else { LOCATE_RETRY * (1 << self.failures.min(6)) };
        self.failures += 1;
        wait
    }

    /// The search of the region's log, where there is something to search for.
    pub(super) fn search_at(&self, at: Instant) -> Phase {
        if self.position.producer_epoch < 0 && self.doubt.is_none() {
            // The row is looked for when the first batch comes.
            Phase::Sending { primed: false }
        } else {
            Phase::Locating { at }
        }
    }

    pub(super) fn rewind(&mut self) {
        self.suspicion = None;
        self.adopted_epoch = None;
        self.forget_waiting();
        self.in_flight.clear();
        self.bytes_since_barrier = 0;
        self.batches_since_barrier = 0;
        self.next_offset = self.position.source_offset;
        self.next_sequence = self.position.sequence;
        self.blocked_at = None;
        self.replayed_at = None;
        self.waits_at = None;
        self.waiting = None;
        self.row_is_broken = false;
    }

    pub(super) fn forget_waiting(&mut self) {
        self.ready.clear();
        self.ready_bytes = 0;
        self.forget_held();
    }

    pub(super) fn forget_held(&mut self) {
        self.held.clear();
        self.held_bytes = 0;
    }

    /// A new incarnation begins at a source offset; a stream that forwards goes on there in the row that it has.
    pub(super) fn begin_incarnation(&mut self, source_offset: i64) {
        self.position.source_offset = source_offset;
        if self.origin == Origin::Here {
            self.position.producer_epoch = self.position.producer_epoch.saturating_add(1);
            self.position.sequence = 0;
        }
        self.rewind();
        // What lies between is not new, so that nobody tells of it.
        self.read_on();
        self.phase = Phase::Committing;
    }

    /// Stalls a stream that has nothing under way.
    pub fn stall(&mut self, reason: String, now: Instant) {
        self.phase = Phase::Stalled { reason, obstacle: None, retry_at: now + STALL_RETRY };
    }

    /// Nothing more may be sent, though it could: stalls once nothing is unanswered.
    pub fn hold_back(&mut self, reason: String, now: Instant) {
        if matches!(self.phase, Phase::Sending { .. }) {
            self.drain(After::Stall(reason, None));
            self.leave_draining(now);
        }
    }

    /// The batch that is in the way, where the stream is stalled by one.
    pub fn obstacle(&self) -> Option<Obstacle> {
        if let Phase::Stalled { obstacle, .. } = &self.phase { *obstacle } else { None }
    }

    /// Steps over the batch at source offset `offset`, which stalls the stream: a new incarnation begins behind it.
    ///
    /// # Errors
    /// When it is not this batch that stalls the stream now. Nothing has changed then.
    pub fn skip(&mut self, offset: i64) -> Result<Obstacle, String> {
        let Phase::Stalled { obstacle, .. } = &self.phase else {
            return Err(
                "the stream is not stalled at this moment; look at its state and, if it still is, try again".into()
            );
        };
        match *obstacle {
            Some(obstacle) if obstacle.offset == offset => {
                self.position.toll.skipped_records += obstacle.records;
                self.begin_incarnation(obstacle.next_offset);
                Ok(obstacle)
            }
            Some(obstacle) => {
                Err(format!("the stream is stalled by the batch at source offset {}, not {offset}", obstacle.offset))
            }
            None => Err("no single batch stalls the stream: there is nothing to step over".into()),
        }
    }
}
