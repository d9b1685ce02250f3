//! Settling: what a stream wants after something has happened is handed to those who do it.

use super::*;

impl Region {
    pub(super) fn touch(&mut self, stream: usize) {
        let slot = &mut self.slots[stream];
        if !slot.dirty {
            slot.dirty = true;
            self.dirty.push(stream);
        }
    }

    pub(super) fn settle(&mut self, now: Instant) {
        while let Some(stream) = self.dirty.pop() {
            self.slots[stream].dirty = false;
            self.settle_stream(stream, now);
        }
        self.parts.metrics.waiting_bytes.set(self.waiting_bytes as i64);
    }

    pub(super) fn settle_stream(&mut self, stream: usize, now: Instant) {
        self.end_survey(stream);
        if let Some(producer_id) = self.slots[stream].stream.passed_over.take() {
            self.note_passed_over(stream, producer_id);
        }
        self.hold_back_circles(stream, now);
        self.leave_aside(stream, now);
        let link_up = self.link_is_up(self.slots[stream].lane());
        let share = self.parts.settings.catch_up_share_bytes;
        let slot = &mut self.slots[stream];
        if slot.paused {
            slot.stream.on_unreachable();
        }
        let sends = link_up && !slot.paused && !slot.is_coming_back(now);
        // Something cleared what was waiting, or batches were sent.
        self.waiting_bytes = self.waiting_bytes - slot.waiting_bytes + slot.stream.waiting_bytes();
        slot.waiting_bytes = slot.stream.waiting_bytes();
        if let Some(records) = slot.stream.take_diverged_records() {
            self.parts.metrics.diverged_records.inc_by(records);
            tracing::error!(region = %self.parts.settings.name, topic = %slot.stream.topic,
                partition = slot.stream.partition, records,
                "the local log was truncated (unclean leader election): the region has records that the local cluster has lost; \
                 the stream goes on behind them");
            let message = format!(
                "the local log was truncated (unclean leader election): the region has {records} records that the local \
                 cluster has lost"
            );
            let (topic, partition) = (&slot.stream.topic, slot.stream.partition);
            self.parts.journal.stream(Kind::RecordsDiverged, &self.parts.settings.name, topic, partition, &message);
        }
        self.parts.metrics.renumbered_batches.inc_by(std::mem::take(&mut slot.stream.renumbered_batches));
        self.parts.metrics.converted_records.inc_by(std::mem::take(&mut slot.stream.converted_records));
        slot.stream.leave_draining(now);
        if let Some(incident) = slot.stream.incident.take() {
            tracing::error!(region = %self.parts.settings.name, topic = %slot.stream.topic,
                partition = slot.stream.partition, "{incident}");
            self.parts.journal.stream(
                Kind::StreamIncident,
                &self.parts.settings.name,
                &slot.stream.topic,
                slot.stream.partition,
                &incident,
            );
        }
        if slot.stream.uncommitted().is_some() && !slot.gone && slot.tenure != Tenure::Away {
            self.uncommitted.insert(stream);
            self.commit_now |= *slot.stream.phase() == Phase::Committing;
        }
        if *slot.stream.phase() == Phase::Starting && !slot.starting && slot.is_active() {
            self.to_start.insert(stream);
        }
        if slot.stream.wants_epoch_check().is_some() && slot.is_active() {
            self.epochs_wanted.insert(stream);
        }
        if slot.stream.is_waiting() && slot.is_active() {
            self.held_back.insert(stream);
        } else {
            self.held_back.remove(&stream);
        }
        if slot.stream.needs_ticks() && slot.is_active() {
            self.ticking.insert(stream);
        }
        let want = slot.stream.wants_fetch().filter(|_| !slot.asking_start && slot.stream.source_leader() >= 0);
        let want = if !slot.is_active() {
            None
        } else if sends || *slot.stream.phase() == Phase::Starting {
            want
        } else {
            // Nothing can be sent: only the age of what is missing is of interest.
            slot.stream.wants_peek()
        };
        let want = match want {
            Some(want) if want.why != FetchWhy::Peek && self.waiting_bytes >= share => {
                self.starved.insert(stream);
                None
            }
            want => want,
        };
        slot.want = want;
        let lane = slot.lane();
        // A row in which it stands still for a broker that leads no more may not move for long.
        if slot.stream.can_send()
            && sends
            && slot.queued != Some(lane)
            && slot.is_active()
            && let Some(link) = self.links.get_mut(&lane)
        {
            slot.queued = Some(lane);
            link.ready.push_back(stream);
        }
        let head = slot.head.unwrap_or(stream);
        self.settle_reads(head);
        if self.slots[stream].is_active() {
            self.tell_state(stream, now);
        } else {
            self.settle_leaving(head, now);
        }
    }

    /// What is read of a partition for all of its streams: in each mode from where the one is that is furthest behind.
    fn settle_reads(&mut self, head: usize) {
        let mut wants: [Option<FetchWant>; 2] = [None; 2];
        for want in self.group(head).into_iter().filter_map(|stream| self.slots[stream].want) {
            let best = &mut wants[mode_of(want) as usize];
            // What only tells an age comes behind all that is to be sent.
            let rank = |want: FetchWant| (want.why == FetchWhy::Peek, want.offset);
            if best.is_none_or(|best| rank(want) < rank(best)) {
                *best = Some(want);
            }
        }
        for mode in [Mode::CatchUp, Mode::Tail] {
            let slot = &mut self.slots[head];
            let want = wants[mode as usize];
            let reads = want.map(|_| slot.stream.source_leader());
            let before = std::mem::replace(&mut slot.reads[mode as usize], reads);
            let wish = want.map(|want| Wish {
                topic: slot.stream.topic.clone(),
                topic_id: slot.topic_id,
                partition: slot.stream.partition,
                leader_epoch: slot.stream.source_leader_epoch(),
                offset: want.offset,
                peek: want.why == FetchWhy::Peek,
            });
            if let Some(before) = before.filter(|before| reads != Some(*before))
                && let Some(wishes) = self.readers.get(&(before, mode))
            {
                wishes.set(head, None);
            }
            if let Some(leader) = reads {
                self.reader((leader, mode)).set(head, wish);
            }
        }
    }

    pub(super) fn reader(&mut self, (node_id, mode): (i32, Mode)) -> Arc<Wishes> {
        if let Some(wishes) = self.readers.get(&(node_id, mode)) {
            return wishes.clone();
        }
        let wishes: Arc<Wishes> = Arc::default();
        self.readers.insert((node_id, mode), wishes.clone());
        let throttle = (mode == Mode::CatchUp).then(|| self.parts.throttles.catch_up.clone());
        self.jobs.spawn(reader::run(
            self.parts.local.clone(),
            (node_id, mode),
            self.parts.settings.catch_up_share_bytes,
            wishes.clone(),
            throttle,
            self.events.clone(),
        ));
        wishes
    }

    /// Streams that could not read because too much was waiting.
    pub(super) fn feed_starved(&mut self) {
        if self.waiting_bytes < self.parts.settings.catch_up_share_bytes / 2 {
            for stream in std::mem::take(&mut self.starved) {
                self.touch(stream);
            }
        }
    }
}

fn mode_of(want: FetchWant) -> Mode {
    if want.why == FetchWhy::Tail { Mode::Tail } else { Mode::CatchUp }
}
