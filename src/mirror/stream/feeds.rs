//! The two feeds, capture and catch-up: which batch is next, known, or ahead, by offsets alone.

use super::*;
use crate::mirror::batch::{Feed, Fetched};
use crate::mirror::identity::is_reserved;

impl Stream {
    /// A session has seen the local broker `node_id` acknowledge this batch. `verified` says that the session's connection was open when that broker
    /// last told its leader epochs.
    pub fn on_captured(&mut self, mut batch: Batch, node_id: i32, verified: bool, now: Instant) -> Taken {
        if !self.origin.has(&batch.header) {
            // Only its place counts: it is not kept in memory while it waits for its turn.
            batch.records.clear();
        }
        self.source.end = self.source.end.max(batch.header.next_offset());
        let base = batch.header.base_offset;
        if base == self.position.source_offset && self.oldest.is_none_or(|(offset, _)| offset != base) {
            self.oldest = Some((base, batch.header.base_timestamp));
        }
        if base < self.next_offset {
            if node_id == self.source.leader && verified {
                self.note_captured(base, batch.header.next_offset(), now);
            }
            return Taken::Known;
        }
        if !matches!(self.phase, Phase::Sending { .. }) || self.unverified_epoch().is_some() {
            return Taken::Refused;
        }
        if !self.source.keeps_epochs {
            self.note_behind(now);
            return Taken::OldFormat;
        }
        if node_id != self.source.leader || !verified {
            self.note_behind(now);
            return Taken::Unverified;
        }
        if base == self.next_offset {
            self.note_captured(base, batch.header.next_offset(), now);
            let source = batch.header;
            self.take_in(batch, source, false, now);
            self.take_in_held(now);
            if let Some(captured) = &mut self.captured {
                captured.to = self.next_offset;
            }
        } else if self.catching_up && !self.tailing {
            // Far behind: what is ahead would only fill the budget.
            return Taken::Refused;
        } else {
            self.held_bytes += batch.held_len();
            if let Some(replaced) = self.held.insert(base, batch) {
                self.held_bytes -= replaced.held_len();
            }
        }
        self.note_behind(now);
        Taken::Kept
    }

    /// A captured batch could not be offered to the stream: all that is taken from it is that the log has grown.
    pub fn on_missed(&mut self, batch: &Batch, now: Instant) {
        self.source.end = self.source.end.max(batch.header.next_offset());
        if batch.header.base_offset == self.position.source_offset && self.oldest_missing_ms().is_none() {
            self.oldest = Some((batch.header.base_offset, batch.header.base_timestamp));
        }
        self.note_behind(now);
    }

    /// The local log was read from `from` on, read_committed. `aborted` are the aborted transactions (producer id, first offset) that
    /// the answer names.
    pub fn on_fetched(
        &mut self,
        from: i64,
        mut batches: Fetched,
        aborted: Vec<(i64, i64)>,
        ends: LogEnds,
        now: Instant,
    ) {
        let LogEnds { high_watermark, last_stable } = ends;
        self.source.end = self.source.end.max(high_watermark);
        let takes =
            matches!(self.phase, Phase::Sending { .. } | Phase::Replaying(_)) && self.unverified_epoch().is_none();
        let mut next = batches.next_batch(self.records_max());
        if let Some(Ok(first)) = &next
            && from == self.position.source_offset
        {
            self.oldest = Some((from, first.header.base_timestamp));
        }
        if self.suspicious_offset() == Some(from) {
            if let Some(Ok(first)) = &next {
                self.judge(Some(&first.header));
            }
            return;
        }
        if !takes || from > self.next_offset {
            return;
        }
        let before = self.next_offset;
        let mut aborted = Aborted::new(aborted);
        let mut seen = false;
        while let Some(batch) = next.take() {
            seen = true;
            let batch = match batch {
                Ok(batch) => batch,
                Err(error) => {
                    let offset = self.next_offset;
                    let reason = format!("at source offset {offset}: {error}; diffluent can't mirror it");
                    let obstacle = error.next_offset().filter(|next| *next > offset).map(|next_offset| Obstacle {
                        offset,
                        next_offset,
                        records: u64::try_from(next_offset - offset).unwrap_or(0),
                    });
                    let what_else = if obstacle.is_some() { "; step over it with diffluent skip" } else { "" };
                    return self.obstructed(reason + what_else, obstacle);
                }
            };
            let source = batch.header;
            let skip = aborted.passes_over(&source);
            if source.next_offset() <= self.next_offset {
                next = batches.next_batch(self.records_max());
                continue;
            }
            let holes = !skip && source.has_holes();
            let batch = if holes { batch.renumbered() } else { Ok(batch) };
            match batch {
                Ok(batch) => {
                    self.renumbered_batches += u64::from(holes);
                    self.take_in(batch, source, skip, now);
                }
                Err(error) => {
                    let offset = source.base_offset;
                    let reason = format!(
                        "the batch at source offset {offset} was compacted, so that a broker would refuse it as it is, and it can't be \
                         renumbered: {error}; step over it with diffluent skip"
                    );
                    let records = u64::try_from(source.record_count).unwrap_or(0);
                    let obstacle = Obstacle { offset, next_offset: source.next_offset(), records };
                    return self.obstructed(reason, Some(obstacle));
                }
            }
            self.converted_records += batches.take_converted_records();
            if !matches!(self.phase, Phase::Sending { .. } | Phase::Replaying(_)) {
                return;
            }
            next = batches.next_batch(self.records_max());
        }
        if self.next_offset > before {
            self.blocked_at = None;
            self.waiting = None;
        } else if !seen && from == self.next_offset {
            self.blocked_at = Some(from);
            self.note_waiting(last_stable, now);
        }
        self.take_in_held(now);
        self.note_behind(now);
    }

    /// How many messages of an old format may become one batch: where a batch is to be the same as one before, as many as that had.
    fn records_max(&self) -> i32 {
        if self.suspicion.is_some() {
            return self.last_known().map_or(1, |taken| taken.record_count);
        }
        let Phase::Replaying(found) = self.phase else { return i32::MAX };
        let left = sequence_after(found.next_sequence, -i64::from(self.next_sequence));
        i32::try_from(found.fingerprint.records_max(i64::from(left))).unwrap_or(i32::MAX)
    }

    /// What comes next can't be mirrored: the stream stalls, once everything before it is in the region.
    fn obstructed(&mut self, reason: String, obstacle: Option<Obstacle>) {
        if self.ready.is_empty() && self.in_flight.is_empty() {
            self.drain(After::Stall(reason, obstacle));
        } else {
            self.waits_at = Some(self.next_offset);
        }
    }

    /// Whether what comes next must wait until everything before it is in the region.
    fn waits(&self) -> bool {
        self.waits_at == Some(self.next_offset) && !(self.ready.is_empty() && self.in_flight.is_empty())
    }

    /// The batch is the log's next one (or the next behind offsets that the log no longer has).
    /// `source` is its header in the log, which differs from the batch's own if it was renumbered.
    pub(super) fn take_in(&mut self, batch: Batch, source: BatchHeader, skip: bool, now: Instant) {
        let skip = skip || !self.origin.has(&source);
        if !skip && self.row_is_unknown() {
            return self.seek_row(source, now);
        }
        if self.origin == Origin::Here && is_reserved(source.producer_id) {
            self.passed_over = Some(source.producer_id);
        }
        let next = source.next_offset();
        self.next_offset = next;
        // A client writes anything for the leader's epoch: only the log knows it.
        let leader_epoch = if batch.feed == Feed::Capture { -1 } else { source.leader_epoch };
        self.last_taken = Some(BatchHeader { leader_epoch, ..source });
        self.position_hint();
        if let Phase::Replaying(found) = self.phase {
            self.replay(&batch, next, skip, found, now);
        } else if skip {
            self.pass(next);
        } else {
            self.ready_bytes += batch.len();
            self.ready.push_back(Ready { batch, source_next: next });
        }
    }

    /// Offsets up to `next` need no sending: they count as done together with what is before them.
    pub(super) fn pass(&mut self, next: i64) {
        if let Some(ready) = self.ready.back_mut() {
            ready.source_next = next;
        } else if let Some(in_flight) = self.in_flight.back_mut() {
            in_flight.source_next = next;
        } else {
            self.position.source_offset = next;
        }
    }

    pub(super) fn take_in_held(&mut self, now: Instant) {
        while let Some((base, batch)) = self.held.pop_first() {
            if base > self.next_offset {
                self.held.insert(base, batch);
                break;
            }
            self.held_bytes -= batch.held_len();
            if base == self.next_offset {
                let source = batch.header;
                self.take_in(batch, source, false, now);
            }
        }
    }

    /// Steps over a batch that the region has; `next` is the source offset behind it.
    pub(super) fn replay(&mut self, batch: &Batch, next: i64, skip: bool, found: Found, now: Instant) {
        if skip {
            // The position moves as a whole, at the end of the replay.
            return;
        }
        let sequence_next = sequence_after(self.next_sequence, i64::from(batch.header.record_count));
        let left = sequence_after(found.next_sequence, -i64::from(sequence_next));
        if left == 0 && found.fingerprint.fits(batch) {
            self.position.source_offset = next;
            self.position.sequence = sequence_next;
            self.position.region_offset = found.region_offset;
            self.position.region_leader_epoch = found.region_leader_epoch;
            self.next_sequence = sequence_next;
            self.go_on();
            if std::mem::take(&mut self.row_is_broken) {
                self.begin_incarnation(next);
            }
            return;
        }
        // More than half of the sequence space left means that the batch reaches behind what was found.
        if left == 0 || left > i32::MAX / 2 {
            // The source has lost what the region got (an unclean election while nobody looked): how far both agree is found out.
            self.rewind();
            self.doubt = Some(if self.origin == Origin::Here { Doubt::Source(i64::MAX) } else { Doubt::Region });
            self.phase = Phase::Locating { at: now };
            return;
        }
        self.next_sequence = sequence_next;
    }

    /// A batch was captured. While they keep coming without a gap, be it behind the long poll that had them first, the stream need not read the log any more.
    fn note_captured(&mut self, base: i64, next: i64, now: Instant) {
        if base == self.next_offset {
            self.blocked_at = None;
            self.waiting = None;
        }
        let captured = match self.captured.filter(|captured| base <= captured.to) {
            Some(Captured { since, to }) => Captured { since, to: to.max(next) },
            None => Captured { since: now, to: next },
        };
        self.captured = Some(captured);
        if self.tailing && captured.to >= self.next_offset && now.duration_since(captured.since) >= self.proof {
            self.tailing = false;
            self.left_tail_at = Some(now);
        }
    }

    /// The age of the oldest missing record is known no longer once the position moved.
    pub(super) fn position_hint(&mut self) {
        if self.oldest.is_some_and(|(offset, _)| offset < self.position.source_offset) {
            self.oldest = None;
        }
    }

    /// What is between the position and the log's end is read at once. Where there is nothing, the stream is behind no longer: perhaps another path, or this
    /// stream before a failure, had brought all of it, so that no batch comes that would say so.
    pub(super) fn read_on(&mut self) {
        self.catching_up = self.next_offset < self.source.end;
        if !self.catching_up {
            self.behind_since = None;
        }
    }

    pub(super) fn note_behind(&mut self, now: Instant) {
        if self.next_offset >= self.source.end {
            self.behind_since = None;
            self.catching_up = false;
        } else if self.behind_since.is_none() {
            self.behind_since = Some(now);
        }
    }

    /// Time has passed.
    pub fn on_tick(&mut self, now: Instant) {
        let behind = self.behind_since.map(|since| now.duration_since(since)).unwrap_or_default();
        if behind >= GAP_PATIENCE && !self.catching_up && !self.tailing {
            // Capture missed something: the log is read, and the long-poll kept for a while.
            self.catching_up = true;
            self.tailing = true;
            self.captured = None;
            let recent = self.left_tail_at.is_some_and(|at| now.duration_since(at) < PROOF_MAX);
            self.proof =
                if recent { (self.proof * 2).clamp(Duration::from_secs(1), PROOF_MAX) } else { Duration::ZERO };
        } else if behind >= GAP_PATIENCE {
            self.catching_up = true;
        }
        if behind >= HELD_PATIENCE {
            self.forget_held();
        }
        match &self.phase {
            Phase::Stalled { retry_at, .. } if now >= *retry_at => self.phase = self.search_at(now),
            Phase::Replaying(_) => self.mind_the_end(now),
            _ => {}
        }
    }

    /// What the region holds can't be found in a log that ends before it: both logs tell where they part.
    fn mind_the_end(&mut self, now: Instant) {
        if self.source.leader < 0 || self.next_offset < self.source.end {
            self.replayed_at = None;
        } else if now.duration_since(*self.replayed_at.get_or_insert(now)) >= END_PATIENCE {
            self.drain(if self.origin == Origin::Here { After::Diverged(i64::MAX) } else { After::Rejoin });
        }
    }

    /// Whether [`Stream::on_tick`] has something to wait for.
    pub fn needs_ticks(&self) -> bool {
        (self.behind_since.is_some() && !(self.catching_up && self.held.is_empty()))
            || matches!(
                self.phase,
                Phase::Stalled { .. } | Phase::Locating { .. } | Phase::Renaming { .. } | Phase::Replaying(_)
            )
    }

    /// What the stream wants to read from the local log.
    pub fn wants_fetch(&self) -> Option<FetchWant> {
        let offset = self.next_offset;
        match self.phase {
            Phase::Sending { .. } | Phase::Replaying(_) => {
                if let Some(offset) = self.suspicious_offset() {
                    return Some(FetchWant { offset, why: FetchWhy::CatchUp });
                }
                if self.unverified_epoch().is_some() || self.ready_bytes >= READY_BYTES_MAX || self.waits() {
                    return None;
                }
                let replaying = matches!(self.phase, Phase::Replaying(_));
                let behind = self.next_offset < self.source.end && self.blocked_at != Some(offset);
                if behind && (self.catching_up || replaying) {
                    return Some(FetchWant { offset, why: FetchWhy::CatchUp });
                }
                (self.tailing || self.blocked_at.is_some()).then_some(FetchWant { offset, why: FetchWhy::Tail })
            }
            Phase::Committing => None,
            _ => self.wants_peek(),
        }
    }

    /// What a stream that can't send wants to read: the first missing batch, for its age, if that is not known.
    pub fn wants_peek(&self) -> Option<FetchWant> {
        (self.lag_records() > 0 && self.oldest_missing_ms().is_none())
            .then_some(FetchWant { offset: self.position.source_offset, why: FetchWhy::Peek })
    }

    /// The stream can't start, for a reason that a person must mend.
    pub fn blocked(&mut self, reason: String) {
        self.blocked = Some(reason);
    }

    /// Why the stream can't start.
    pub fn blocked_by(&self) -> Option<&str> {
        self.blocked.as_deref()
    }

    /// The local log no longer has the offset that is needed: it begins at `log_start`. Returns the lost offsets.
    pub fn on_source_lost(&mut self, log_start: i64) -> Option<(i64, i64)> {
        if let Some(offset) = self.suspicious_offset()
            && log_start <= offset
        {
            // Not below the log's start, so it is behind its end.
            self.judge(None);
            return None;
        }
        if log_start <= self.next_offset {
            // Retention took what would have told; what was taken stays taken.
            if let Some(suspicion) = self.suspicion.take() {
                self.position.source_leader_epoch = suspicion.leader_epoch;
            }
            return None;
        }
        if !matches!(self.phase, Phase::Sending { .. } | Phase::Replaying(_)) {
            // Only the age of what is missing was asked for. What is lost is said once the region has told its position.
            self.oldest = Some((self.position.source_offset, 0));
            return None;
        }
        if matches!(self.phase, Phase::Replaying(_)) {
            // The region holds some of what is gone, and perhaps some of what is not: only the two logs can tell where it ends.
            self.doubt = Some(Doubt::Region);
            self.drain(After::Locate);
            return None;
        }
        if !(self.ready.is_empty() && self.in_flight.is_empty()) {
            self.waits_at = Some(self.next_offset);
            return None;
        }
        let lost = (self.next_offset, log_start);
        self.position.toll.lost_records += u64::try_from(log_start - self.next_offset).unwrap_or(0);
        self.drain(After::Bump(log_start));
        Some(lost)
    }
}
