//! Forwarding what was born elsewhere: each other origin that a partition of the local log holds has a stream of its own, beside the one of what was born here. So
//! none waits for another, and each keeps its order.
//!
//! Origins are discovered as the log is read, before the first stream is past their first batch. What a stream jumps over unread, and what was read before
//! anything was forwarded, is surveyed by a stream that sends nothing.

use super::*;
use crate::mirror::committed::Origin;
use crate::mirror::identity::{is_born_in, is_reserved, reserved_producer_id};
use crate::mirror::progress::Position;
use crate::wire::batch::BatchHeader;

/// Where the surveying stream stands among those that forward: no reserved producer id.
const SURVEY: i64 = 0;

impl Region {
    /// The streams of a partition: the head first.
    pub(super) fn group(&self, head: usize) -> Vec<usize> {
        std::iter::once(head).chain(self.slots[head].forwards.values().copied()).collect()
    }

    /// Whether the region shall get what bears this producer id.
    fn is_forwarded(&self, head: usize, producer_id: i64) -> bool {
        let stream = &self.slots[head].stream;
        let metadata = self.parts.cluster.metadata();
        let forward = self.parts.settings.forward;
        if forward == Forward::Own || metadata.cluster_id.is_empty() || producer_id == stream.producer_id() {
            return false;
        }
        if !is_born_in(producer_id, &metadata.cluster_id) {
            return true;
        }
        // The topic in which they were born has them still, under their own producers' ids: only another one may get them back.
        let birthplace = |id| producer_id == reserved_producer_id(&metadata.cluster_id, id);
        forward == Forward::Restore
            && metadata.topics.get(&stream.region_topic).is_none_or(|topic| !birthplace(topic.id))
    }

    /// The local log holds this batch. If it is the first one of an origin, a stream begins that forwards it.
    pub(super) fn discover(&mut self, head: usize, header: &BatchHeader, now: Instant) {
        let slot = &self.slots[head];
        let reads = matches!(slot.stream.phase(), Phase::Sending { .. } | Phase::Replaying(_));
        if !is_reserved(header.producer_id)
            || !slot.is_active()
            || !(reads || slot.forwards.contains_key(&SURVEY))
            || slot.forwards.contains_key(&header.producer_id)
            || !self.is_forwarded(head, header.producer_id)
        {
            return;
        }
        let surveyed = slot.forwards.get(&SURVEY).map(|survey| self.slots[*survey].stream.position().source_offset);
        let passed = slot.stream.position().source_offset;
        let position = self.unknown_row(head, surveyed.map_or(passed, |surveyed| surveyed.min(passed)));
        let stream = self.open_forward(head, header.producer_id, position, now);
        let stream = &self.slots[stream].stream;
        tracing::info!(region = %self.parts.settings.name, topic = %stream.topic, partition = stream.partition,
            producer_id = format_args!("{:x}", header.producer_id), offset = header.base_offset,
            "the local log holds records that were born in another cluster; they are forwarded");
    }

    /// The head is at its position: the streams that forward go on where they were committed.
    ///
    /// `fresh` says that the head never ran, so that it discovers all on its way; otherwise `None` in `forwarded` means that nothing was forwarded so far.
    pub(super) fn go_on_forwarding(
        &mut self,
        head: usize,
        forwarded: Option<BTreeMap<i64, Position>>,
        fresh: bool,
        now: Instant,
    ) {
        if self.parts.settings.forward == Forward::Own {
            return;
        }
        match forwarded {
            Some(forwarded) => {
                for (producer_id, position) in forwarded {
                    let known = self.slots[head].forwards.contains_key(&producer_id);
                    if !known && (producer_id == SURVEY || self.is_forwarded(head, producer_id)) {
                        self.open_forward(head, producer_id, position, now);
                    }
                }
            }
            None if !fresh && self.parts.settings.start == Start::Earliest => self.begin_survey(head, 0, now),
            None => {}
        }
    }

    /// What the local log holds from `source_offset` to the head's position is looked through for other origins.
    pub(super) fn begin_survey(&mut self, head: usize, source_offset: i64, now: Instant) {
        let forwards = self.parts.settings.forward != Forward::Own && self.slots[head].head.is_none();
        if forwards && !self.slots[head].forwards.contains_key(&SURVEY) {
            let position = self.unknown_row(head, source_offset);
            self.open_forward(head, SURVEY, position, now);
        }
    }

    /// Ends a survey that has come to where the head is.
    pub(super) fn end_survey(&mut self, stream: usize) {
        let slot = &self.slots[stream];
        let Some(head) = slot.head.filter(|_| slot.stream.origin() == Origin::Nowhere && !slot.gone) else { return };
        if slot.stream.position().source_offset >= self.slots[head].stream.position().source_offset {
            self.slots[stream].gone = true;
            self.slots[stream].want = None;
            self.slots[head].forwards.remove(&SURVEY);
            self.uncommitted.insert(head);
            self.touch(head);
        }
    }

    fn unknown_row(&self, head: usize, source_offset: i64) -> Position {
        let Position { source_leader_epoch, topic_id, region_topic_id, .. } = self.slots[head].stream.position();
        Position {
            source_offset,
            source_leader_epoch,
            producer_epoch: -1,
            sequence: 0,
            region_offset: 0,
            region_leader_epoch: -1,
            topic_id,
            region_topic_id,
            handed_out_id: None,
            toll: Default::default(),
        }
    }

    fn open_forward(&mut self, head: usize, producer_id: i64, position: Position, now: Instant) -> usize {
        let slot = &self.slots[head];
        let origin = if producer_id == SURVEY { Origin::Nowhere } else { Origin::Elsewhere(producer_id) };
        let (topic, region_topic) = (slot.stream.topic.clone(), slot.stream.region_topic.clone());
        let mut stream = Stream::new(topic, slot.stream.partition, region_topic, producer_id, origin);
        stream.start(position, position.producer_epoch < 0, now);
        if let Some(view) = self.parts.source.view(&self.key(head)) {
            stream.on_source(view, now);
        }
        let opened = Slot::new(stream, slot.partitions, slot.topic_id, now);
        let stream = self.slots.len();
        let paused = self.slots[head].paused;
        self.slots.push(Slot { head: Some(head), paused, ..opened });
        self.slots[head].forwards.insert(producer_id, stream);
        self.uncommitted.insert(head);
        self.assign(stream, now);
        self.touch(stream);
        stream
    }

    /// The region's topic was deleted: nothing is left of any row.
    pub(super) fn lose_rows(&mut self, head: usize, now: Instant) {
        for stream in self.slots[head].forwards.values().copied().collect::<Vec<_>>() {
            let slot = &mut self.slots[stream];
            if slot.stream.origin() != Origin::Nowhere && !slot.scanning && !slot.stream.has_unanswered() {
                slot.stream.lose_row(now);
                self.touch(stream);
            }
        }
    }

    /// A row of the region's log was looked for.
    pub(super) fn rejoined(&mut self, stream: usize, outcome: Rejoined, now: Instant) {
        let slot = &mut self.slots[stream];
        slot.scanning = false;
        let (name, topic, partition) = (&self.parts.settings.name, slot.stream.topic.clone(), slot.stream.partition);
        let before = slot.stream.position();
        let mut incident = None;
        match outcome {
            Rejoined::Row(position) => {
                if before.producer_epoch >= 0 && position.source_offset < before.source_offset {
                    incident = Some(format!(
                        "the region has lost records that were forwarded to it: they are sent again from source offset {} on",
                        position.source_offset
                    ));
                }
                slot.stream.join_row(position, now);
            }
            Rejoined::Begins { source_offset, row, region_offset } => {
                slot.stream.begin_row(source_offset, row, region_offset);
            }
            Rejoined::Nothing(source_offset) => slot.stream.leave_row(source_offset),
            Rejoined::Gone { source_start, same_topic } => match self.parts.settings.on_region_topic_lost {
                policy if same_topic || policy == OnRegionTopicLost::Recreate => {
                    incident = Some(format!(
                        "the region's topic has lost all that was forwarded to it of one origin: everything that the local log holds of it, from offset \
                         {source_start} on, is sent again"
                    ));
                    slot.stream.leave_row(source_start);
                }
                _ => {
                    let reason = format!(
                        "the region's topic {} has lost all that was forwarded to partition {partition} of this origin: it was deleted and made anew; \
                         nothing more of it is sent until it is restored; set on_region_topic_lost = \"recreate\" for the region \
                         to have everything sent again that the local log holds",
                        slot.stream.region_topic
                    );
                    slot.stream.stall(reason, now);
                }
            },
            Rejoined::Stalled(reason, obstacle) => slot.stream.stall_at(reason, obstacle, now),
            Rejoined::Later => {
                slot.stream.on_scan_failed(now);
                self.refresh_wanted = true;
            }
        }
        if let Some(incident) = incident {
            tracing::error!(region = %name, %topic, partition, "{incident}");
            self.parts.journal.stream(Kind::StreamIncident, name, &topic, partition, &incident);
        }
        self.assign(stream, now);
        self.touch(stream);
    }
}
