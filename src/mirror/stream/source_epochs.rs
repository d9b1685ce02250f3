//! The source's leader epochs: a log that was truncated is found before more is taken from it.

use super::*;

impl Stream {
    /// The local partition's leader has spoken.
    pub fn on_source(&mut self, view: SourceView, now: Instant) {
        if view.leader_epoch > self.source.leader_epoch {
            // What is held behind a gap was the former leader's, whose log may have been cut in front of it: other batches may come to lie there.
            self.forget_held();
        }
        self.source = view;
        if self.position.source_leader_epoch < 0 {
            self.position.source_leader_epoch = view.leader_epoch;
        }
        self.note_behind(now);
    }

    /// The last epoch under which the source's log is known to hold what was taken, if a newer one has begun since: nothing more is taken before
    /// that is cleared up.
    pub(super) fn unverified_epoch(&self) -> Option<i32> {
        let known = self.position.source_leader_epoch;
        let active = matches!(self.phase, Phase::Sending { .. } | Phase::Replaying(_) | Phase::Committing);
        (active && known >= 0 && self.source.leader_epoch > known).then_some(known)
    }

    /// The epoch whose end must be asked for (OffsetForLeaderEpoch).
    pub fn wants_epoch_check(&self) -> Option<i32> {
        self.unverified_epoch().filter(|_| self.suspicion.is_none())
    }

    /// The answer to [`Stream::wants_epoch_check`]: where the source's log of `epoch` ends.
    ///
    /// If more was taken than that, it is either gone (truncated by an unclean election), or was appended under a newer epoch before that was
    /// heard of: a leader may lose its partition and get it back between two looks. The log itself tells: the last batch that was taken is looked for.
    pub fn on_epoch_end(&mut self, epoch: i32, end: i64) {
        if self.wants_epoch_check() != Some(epoch) {
            return;
        }
        // Of a log that knows no epochs (-1), nothing can be missing in front of its first offset.
        if end >= self.next_offset || self.next_offset == 0 {
            self.position.source_leader_epoch = self.source.leader_epoch;
        } else {
            self.suspicion = Some(Suspicion { end, leader_epoch: self.source.leader_epoch });
        }
    }

    /// The offset at which the last batch that was taken is looked for.
    pub(super) fn suspicious_offset(&self) -> Option<i64> {
        self.suspicion?;
        Some(self.last_known().map_or(self.next_offset - 1, |taken| taken.base_offset))
    }

    /// The batch that ends where the feeds go on, if it is known.
    pub(super) fn last_known(&self) -> Option<BatchHeader> {
        self.last_taken.filter(|taken| taken.next_offset() == self.next_offset)
    }

    /// The log was read at the suspicious offset: this is what it holds there; `None` if the offset is not in the log.
    pub(super) fn judge(&mut self, held: Option<&BatchHeader>) {
        let Some(suspicion) = self.suspicion.take() else { return };
        let same = held.is_some_and(|held| match self.last_known() {
            // Messages of an old format are no batches of their own: a Fetch may give more of them, or fewer, than were put together then.
            Some(taken) if held.leader_epoch < 0 => {
                (taken.base_offset, taken.base_timestamp) == (held.base_offset, held.base_timestamp)
            }
            None if held.leader_epoch < 0 => held.base_offset + 1 == self.next_offset,
            // Neither codec nor checksum: a broker may have compressed anew. Batches of the same millisecond are alike in the rest but for who appended them, and when.
            Some(taken) => {
                let what = |header: &BatchHeader| {
                    let BatchHeader {
                        base_offset, last_offset_delta, base_timestamp, max_timestamp, record_count, ..
                    } = *header;
                    (base_offset, last_offset_delta, base_timestamp, max_timestamp, record_count)
                };
                let producer = |header: &BatchHeader| (header.producer_id, header.producer_epoch, header.base_sequence);
                let same_epoch = taken.leader_epoch < 0 || taken.leader_epoch == held.leader_epoch;
                what(&taken) == what(held) && producer(&taken) == producer(held) && same_epoch
            }
            // After a restart only the place is known at which a batch must end.
            None => held.next_offset() == self.next_offset,
        });
        self.position.source_leader_epoch = suspicion.leader_epoch;
        if same {
            return;
        }
        let sent_to = self.in_flight.back().map_or(self.position.source_offset, |batch| batch.source_next);
        if suspicion.end >= sent_to {
            // Only what was never sent is gone: take it from the new log.
            self.forget_waiting();
            self.next_offset = sent_to;
            return;
        }
        if self.origin != Origin::Here {
            // Whoever brought these records here brings them again, if there still are any: the region's row tells.
            if suspicion.end >= 0 {
                self.position.source_offset = self.position.source_offset.min(suspicion.end);
            }
            self.drain(if self.position.producer_epoch < 0 { After::Locate } else { After::Rejoin });
            return;
        }
        if suspicion.end < 0 {
            // The log knows no epochs: where it was cut, both logs together must tell.
            self.drain(After::Diverged(i64::MAX));
        } else if self.in_flight.is_empty() {
            self.note_diverged(u64::try_from(sent_to - suspicion.end).unwrap_or(0));
            self.drain(After::Bump(suspicion.end));
        } else {
            // What is on its way may get there or not.
            self.drain(After::Diverged(suspicion.end));
        }
    }

    pub(super) fn note_diverged(&mut self, records: u64) {
        self.diverged_records += records;
        self.position.toll.diverged_records += records;
    }

    /// How many records the region has that the source has lost, once after that was found.
    pub fn take_diverged_records(&mut self) -> Option<u64> {
        Some(std::mem::take(&mut self.diverged_records)).filter(|records| *records > 0)
    }
}
