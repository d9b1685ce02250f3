//! After a failure: the region's log is searched for what arrived.

use super::*;

impl Stream {
    /// Whether the region's log should be searched now, from [`Position::region_offset`] on.
    pub fn wants_scan(&self, now: Instant) -> bool {
        matches!(self.phase, Phase::Locating { at } if at <= now)
    }

    /// The search is over: with the last batch of this incarnation in an unbroken row, or with none.
    pub fn on_scanned(&mut self, found: Option<Found>) {
        if !matches!(self.phase, Phase::Locating { .. }) {
            return;
        }
        self.rewind();
        self.phase = match found {
            Some(found) if found.next_sequence != self.position.sequence => Phase::Replaying(found),
            _ => Phase::Sending { primed: false },
        };
        // What is between the position and the log's end is read at once.
        self.catching_up = self.next_offset < self.source.end;
    }

    /// The search could not be made.
    pub fn on_scan_failed(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Locating { .. }) {
            self.failures += 1;
            self.phase = Phase::Locating { at: now + LOCATE_RETRY * (1 << self.failures.min(6)) };
        }
    }

    /// The region's broker can be reached again: there is nothing left to wait for.
    pub fn on_link_up(&mut self, now: Instant) {
        self.failures = 0;
        if let Phase::Locating { at } = &mut self.phase {
            *at = now;
        }
    }
}
