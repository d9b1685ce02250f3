//! After a failure: the region's log is searched for what arrived.

use super::*;

impl Stream {
    /// Whether the region's log should be searched now, from [`Position::region_offset`] on.
    pub fn wants_scan(&self, now: Instant) -> bool {
        matches!(self.phase, Phase::Locating { at } if at <= now)
    }

    /// The search begins, by the leader that is known now.
    pub fn search_begins(&mut self) {
        self.link_lost_at = None;
    }

    /// Sends from the position on, unless the link was lost since the region's log was searched last: then it is searched before.
    pub(super) fn go_on(&mut self) {
        self.phase = match self.link_lost_at {
            None => Phase::Sending { primed: false },
            Some(at) => self.search_at(at),
        };
    }

    /// The search is over: with the last batch of this incarnation in an unbroken row, or with none. `out_of_row` says that others of its batches lie there,
    /// no part of that row: their broker goes on from them, so what follows the row can only be sent in a new incarnation.
    pub fn on_scanned(&mut self, found: Option<Found>, out_of_row: bool) {
        if !matches!(self.phase, Phase::Locating { .. }) {
            return;
        }
        self.rewind();
        match found {
            Some(found) if found.next_sequence != self.position.sequence => {
                self.phase = Phase::Replaying(found);
                self.row_is_broken = out_of_row && self.origin == Origin::Here;
            }
            _ if out_of_row && self.origin == Origin::Here => self.begin_incarnation(self.position.source_offset),
            _ => self.go_on(),
        }
        // What is between the position and the log's end is read at once.
        self.read_on();
    }

    /// Whether the region should be asked for a producer id now.
    pub fn wants_id(&self, now: Instant) -> bool {
        matches!(self.phase, Phase::Renaming { at } if at <= now)
    }

    /// The region has handed out a producer id: an incarnation begins under it.
    pub fn on_handed_out(&mut self, producer_id: i64) {
        if matches!(self.phase, Phase::Renaming { .. }) {
            self.position.handed_out_id = Some(producer_id);
            // The first epoch is 0.
            self.position.producer_epoch = -1;
            self.begin_incarnation(self.position.source_offset);
        }
    }

    /// The region could not hand one out.
    pub fn on_none_handed_out(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Renaming { .. }) {
            self.phase = Phase::Renaming { at: now + self.next_wait() };
        }
    }

    /// Looks progress and topics up again, as at the start. Meanwhile nothing from `first_missing` on is said to be in the region.
    pub fn start_over(&mut self, first_missing: i64) {
        self.position.source_offset = self.position.source_offset.min(first_missing);
        self.rewind();
        self.phase = Phase::Starting;
    }

    /// The region's log does not prove the position.
    pub fn on_unproven(&mut self) {
        self.doubt = Some(Doubt::Region);
    }

    /// Why the position is to be found anew in both logs, if it is.
    pub fn doubt(&self) -> Option<Doubt> {
        self.doubt
    }

    /// The position was found anew: the incarnation goes on there.
    pub fn resume_at(&mut self, position: Position) {
        if !matches!(self.phase, Phase::Locating { .. }) {
            return;
        }
        self.doubt = None;
        self.position = position;
        self.rewind();
        self.go_on();
        self.read_on();
    }

    /// The position was found anew, but not in this incarnation: one begins that is newer than `above_epoch`. From `region_offset` on
    /// the region's log is searched from now on.
    ///
    /// `diverged` records are in the region that the source has lost; `lost` offsets are in neither.
    pub fn restart_at(
        &mut self,
        source_offset: i64,
        above_epoch: i16,
        (region_offset, region_leader_epoch): (i64, i32),
        diverged: u64,
        lost: u64,
    ) {
        if !matches!(self.phase, Phase::Locating { .. }) {
            return;
        }
        self.doubt = None;
        self.note_diverged(diverged);
        self.position.toll.lost_records += lost;
        self.position.producer_epoch = self.position.producer_epoch.max(above_epoch);
        self.position.region_offset = region_offset;
        self.position.region_leader_epoch = region_leader_epoch;
        self.begin_incarnation(source_offset);
    }

    /// From now on it writes to this topic of the region.
    pub fn writes_to(&mut self, region_topic_id: uuid::Uuid) {
        self.position.region_topic_id = region_topic_id;
    }

    /// An operator wants everything from `source_offset` on to be sent again, in a new incarnation: `region_end` is the region's log end and the leader epoch
    /// there, where known. What is unanswered is waited for first.
    ///
    /// # Errors
    /// When the stream does not stand behind that offset, or finds its position out at this moment. Nothing has changed then.
    pub fn rewind_to(
        &mut self,
        source_offset: i64,
        region_end: Option<(i64, i32)>,
        now: Instant,
    ) -> Result<(), String> {
        let finding = match self.phase {
            Phase::Starting | Phase::Draining(After::Restart) => true,
            Phase::Locating { .. } => self.doubt.is_some(),
            _ => false,
        };
        if finding || !self.positioned {
            return Err("the stream finds out where it stands at this moment; try again".to_owned());
        }
        let at = self.position.source_offset;
        if source_offset >= at {
            return Err(format!("it stands at source offset {at}: only an offset below that can be rewound to"));
        }
        self.drain(After::Rewind(source_offset, region_end));
        self.leave_draining(now);
        Ok(())
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
