//! What clusters have answered to a region's calls, taken into its streams.

use super::*;

impl Region {
    pub(super) fn answered(&mut self, answer: link::Answer, now: Instant) {
        let stream = answer.sent.stream;
        match &answer.result {
            Ok(_) => self.allowed(stream, Need::Write),
            Err(refusal) => {
                let code = refusal.code;
                self.parts.metrics.error(error_code::describe(code));
                let slot = &self.slots[stream];
                // Another path that was faster says nothing about the region.
                self.refresh_wanted |= slot.head.is_none()
                    || !matches!(code, error_code::OUT_OF_ORDER_SEQUENCE_NUMBER | error_code::INVALID_PRODUCER_EPOCH);
                let right = Right::topic(Operation::Write, &slot.stream.region_topic);
                if let Some(denial) = self.parts.cluster.denied(code, right) {
                    self.deny(stream, Need::Write, denial.to_string(), now);
                }
            }
        }
        let slot = &mut self.slots[stream];
        if let Some(done) = slot.stream.on_answer(answer.sent.token, answer.result, answer.sent.leader_epoch, now) {
            self.mirrored_records += done.records;
            self.mirrored_bytes += done.bytes;
            let topic = slot.stream.topic.clone();
            let mirrored = self.topic_mirrored.entry(topic.clone()).or_default();
            *mirrored = (mirrored.0 + done.records, mirrored.1 + done.bytes);
            let of_topic = self.topic_latency.entry(topic).or_insert_with(Latency::fine);
            let of_partition = slot.latency.get_or_insert_with(|| Box::new(Latency::coarse()));
            for since in done.since {
                let latency = now.saturating_duration_since(since);
                of_partition.record(latency, now);
                of_topic.record(latency, now);
                self.latency.record(latency, now);
                self.parts.metrics.latency.observe(latency);
            }
        }
        self.touch(stream);
    }

    pub(super) fn read(&mut self, read: Read, now: Instant) {
        let mut lost = Vec::new();
        for partition in read.partitions {
            let head = partition.stream;
            let right = Right::topic(Operation::Read, &self.slots[head].stream.topic);
            match self.parts.local.denied(partition.error_code, right) {
                Some(denial) => self.deny(head, Need::Read, denial.to_string(), now),
                None => self.allowed(head, Need::Read),
            }
            let passing = |code: &i16| {
                let of_leaders = error_code::UNKNOWN_TOPIC_OR_PARTITION..=error_code::NOT_LEADER_OR_FOLLOWER;
                of_leaders.contains(code) || *code == error_code::UNKNOWN_TOPIC_ID
            };
            self.slots[head].unreadable = Some(partition.error_code).filter(|code| *code > 1 && !passing(code));
            match partition.error_code {
                0 => self.deliver(partition, read.at, now),
                error_code::OFFSET_OUT_OF_RANGE => {
                    let wants = |slot: &Slot| slot.want.is_some_and(|want| want.offset == partition.offset);
                    lost.extend(self.group(head).into_iter().filter(|stream| wants(&self.slots[*stream])));
                }
                code => {
                    let slot = &self.slots[head];
                    tracing::debug!(region = %self.parts.settings.name, topic = %slot.stream.topic,
                        partition = slot.stream.partition, error = error_code::describe(code), "the local log can't be read");
                    self.parts.source.ask_soon();
                }
            }
            self.touch(head);
        }
        self.ask_log_starts(lost);
        self.settle(now);
        read.taken.notify_one();
    }

    /// Gives what was read of a partition to its streams.
    pub(super) fn deliver(&mut self, read: ReadPartition, at: Instant, now: Instant) {
        let head = read.stream;
        if !self.slots[head].is_active() {
            // Asked for before it was taken away. It would go past origins that nobody has discovered yet, and commit that.
            return;
        }
        if self.parts.settings.forward != Forward::Own {
            for batch in crate::mirror::batch::fetched(read.records.clone(), read.offset, at).map_while(Result::ok) {
                self.discover(head, &batch.header, now);
            }
        }
        let group = self.group(head);
        for stream in group.iter().copied() {
            let slot = &mut self.slots[stream];
            let want = slot.stream.wants_fetch().or_else(|| slot.stream.wants_peek());
            // It was read for the one that is furthest behind, and not for one that has enough.
            if group.len() > 1 && want.is_none_or(|want| want.offset < read.offset) {
                continue;
            }
            let before = slot.stream.waiting_bytes();
            slot.stream.on_fetched(
                read.offset,
                crate::mirror::batch::fetched(read.records.clone(), read.offset, at),
                read.aborted.clone(),
                read.ends,
                now,
            );
            let taken = slot.stream.waiting_bytes().saturating_sub(before);
            self.parts.metrics.caught_up_bytes.inc_by(taken as u64);
            self.waiting_bytes += taken;
            slot.waiting_bytes += taken;
            self.touch(stream);
        }
    }

    pub(super) fn started(&mut self, stream: usize, outcome: Started, now: Instant) {
        let name = &self.parts.settings.name;
        let slot = &mut self.slots[stream];
        let active = slot.is_active();
        match outcome {
            // More is to come of this start. A stream that was taken away meanwhile waits for that, or it would be taken for what a later start has found.
            Started::Known(_) if !active => return,
            Started::Known(position) => {
                slot.stream.on_progress(position);
                self.touch(stream);
                return;
            }
            _ if !active => slot.start_at = now + START_RETRY,
            Started::Ready { position, never_wrote, unproven, forwarded } => {
                let fresh = never_wrote || unproven;
                slot.stream.start(position, never_wrote, now);
                if unproven {
                    slot.stream.on_unproven();
                }
                if let Some(view) = self.parts.source.view(&(slot.stream.topic.clone(), slot.stream.partition)) {
                    slot.stream.on_source(view, now);
                }
                tracing::debug!(region = %name, topic = %slot.stream.topic, partition = slot.stream.partition,
                    offset = position.source_offset, "the stream begins");
                self.reachable();
                self.go_on_forwarding(stream, forwarded, fresh, now);
            }
            Started::Later => slot.start_at = now + START_RETRY,
            Started::Stalled(reason) => {
                slot.start_at = now + crate::mirror::stream::STALL_RETRY;
                slot.stream.blocked(reason);
            }
        }
        if std::mem::take(&mut self.slots[stream].starting) {
            self.starting -= 1;
        }
        self.assign(stream, now);
        self.touch(stream);
    }

    pub(super) fn scanned(&mut self, stream: usize, outcome: Scanned, now: Instant) {
        let slot = &mut self.slots[stream];
        slot.scanning = false;
        let (name, topic, partition) = (&self.parts.settings.name, &slot.stream.topic, slot.stream.partition);
        match outcome {
            Scanned::Complete { found, out_of_row } => {
                if out_of_row > 0 {
                    self.parts.metrics.out_of_row_batches.inc_by(out_of_row);
                    tracing::error!(region = %name, %topic, partition, batches = out_of_row,
                        "batches of this stream lie in the region's log out of their row: its broker had no state of the producer; \
                         order or single copy is hurt there");
                    let message = format!(
                        "{out_of_row} batches of this stream lie in the region's log out of their row: order or single copy \
                         is hurt there"
                    );
                    self.parts.journal.stream(Kind::StreamIncident, name, topic, partition, &message);
                }
                slot.stream.on_scanned(found, out_of_row > 0);
            }
            // Another path may have begun a new incarnation.
            Scanned::Unproven(_) if slot.head.is_some() => slot.stream.lose_row(now),
            Scanned::Unproven(doubt) => {
                let position = slot.stream.position();
                tracing::warn!(region = %name, %topic, partition, offset = position.source_offset,
                    region_offset = position.region_offset, ?doubt,
                    "the region's log does not hold what it has acknowledged; the stream's last batch is looked for in both logs");
                slot.stream.on_unproven();
            }
            Scanned::Failed(code) => {
                let right = Right::topic(Operation::Read, &slot.stream.region_topic);
                if let Some(denial) = self.parts.cluster.denied(code, right) {
                    slot.stream.stall(denial.to_string(), now);
                } else {
                    tracing::debug!(region = %name, %topic, partition, error = error_code::describe(code),
                        "the region's log can't be searched; trying again");
                    slot.stream.on_scan_failed(now);
                }
                self.refresh_wanted = true;
            }
            Scanned::Unreachable => {
                slot.stream.on_scan_failed(now);
                self.refresh_wanted = true;
            }
        }
        self.assign(stream, now);
        self.touch(stream);
    }

    pub(super) fn epoch_end(&mut self, stream: usize, epoch: i32, end: Result<i64, i16>) {
        let slot = &mut self.slots[stream];
        slot.asking_epoch = false;
        match end {
            Ok(end) => slot.stream.on_epoch_end(epoch, end),
            Err(code) => {
                tracing::debug!(region = %self.parts.settings.name, topic = %slot.stream.topic, partition = slot.stream.partition, epoch,
                    error = error_code::describe(code), "the end of a leader epoch is not known yet; trying again");
                self.parts.source.ask_soon();
            }
        }
        self.touch(stream);
    }

    pub(super) fn log_start(&mut self, stream: usize, log_start: i64, now: Instant) {
        let slot = &mut self.slots[stream];
        slot.asking_start = false;
        if let Some((from, to)) = slot.stream.on_source_lost(log_start) {
            let records = u64::try_from(to - from).unwrap_or(0);
            self.parts.metrics.lost_records.inc_by(records);
            tracing::error!(region = %self.parts.settings.name, topic = %slot.stream.topic, partition = slot.stream.partition,
                from_offset = from, to_offset = to, records,
                "the local log no longer has these offsets (retention): the region never gets them; the stream goes on behind them");
            let message = format!(
                "the local log no longer has offsets {from} to {to} (retention): the region never gets these {records} records"
            );
            let (topic, partition) = (&slot.stream.topic, slot.stream.partition);
            self.parts.journal.stream(Kind::RecordsLost, &self.parts.settings.name, topic, partition, &message);
            slot.stream.leave_draining(now);
        }
        self.touch(stream);
    }
}
