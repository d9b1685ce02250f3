//! Streams that forward what was born elsewhere: where they go on in the row that the region's log holds of that origin.

use super::*;

impl Stream {
    /// Whether a stream that forwards has not been told yet where the region's row ends, or no longer knows.
    pub(super) fn row_is_unknown(&self) -> bool {
        self.position.producer_epoch < 0 && self.adopted_epoch.is_none()
    }

    /// The first batch that a stream would forward, if the region's row is looked for because of it.
    pub fn first(&self) -> Option<BatchHeader> {
        self.first
    }

    /// The source holds a batch to be forwarded, and the region's row is not known.
    pub(super) fn seek_row(&mut self, first: BatchHeader, now: Instant) {
        self.rewind();
        self.first = Some(first);
        self.doubt = Some(Doubt::Region);
        self.phase = Phase::Locating { at: now + self.next_wait() };
    }

    /// The region's row is to be found anew: it may have lost its end.
    pub fn lose_row(&mut self, now: Instant) {
        self.rewind();
        self.doubt = Some(Doubt::Region);
        self.phase = Phase::Locating { at: now };
    }

    /// The batch was found with which the region's row ends, or which another path brought: what lies behind it in the region's log is searched next.
    pub fn join_row(&mut self, position: Position, now: Instant) {
        if matches!(self.phase, Phase::Locating { .. }) {
            self.doubt = None;
            self.position = position;
            self.rewind();
            self.phase = Phase::Locating { at: now };
        }
    }

    /// A row begins with the source's batch at `source_offset`, under the identity that this has there. It is committed once a batch of it is acknowledged.
    ///
    /// Another path may begin it at the same time. A broker that has heard of one refuses any sequence that does not follow, but takes 0 in a newer epoch: so no
    /// row begins with that.
    pub fn begin_row(&mut self, source_offset: i64, (producer_epoch, sequence): (i16, i32), region_offset: i64) {
        if matches!(self.phase, Phase::Locating { .. }) {
            self.go_on_without_row(source_offset, region_offset);
            self.adopted_epoch = Some(producer_epoch);
            self.next_sequence = if producer_epoch > 0 { sequence.max(1) } else { sequence };
        }
    }

    /// The source holds nothing to be forwarded before `source_offset`: the row is looked for when something comes.
    pub fn leave_row(&mut self, source_offset: i64) {
        if matches!(self.phase, Phase::Locating { .. }) {
            let region_offset = self.position.region_offset;
            self.go_on_without_row(source_offset, region_offset);
        }
    }

    fn go_on_without_row(&mut self, source_offset: i64, region_offset: i64) {
        self.doubt = None;
        self.position.source_offset = source_offset;
        self.position.producer_epoch = -1;
        self.position.sequence = 0;
        self.position.region_offset = region_offset;
        self.position.region_leader_epoch = -1;
        self.rewind();
        self.phase = Phase::Sending { primed: false };
        self.read_on();
    }

    /// Stalls a stream that has nothing under way, because of a batch that an operator may step over.
    pub fn stall_at(&mut self, reason: String, obstacle: Obstacle, now: Instant) {
        self.phase = Phase::Stalled { reason, obstacle: Some(obstacle), retry_at: now + STALL_RETRY };
    }
}
