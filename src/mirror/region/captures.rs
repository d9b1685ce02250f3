//! What sessions have captured, on its way to the streams.

use super::*;
use crate::mirror::stream::GAP_PATIENCE;

const UNVERIFIED: &str = "unverified_epoch";

/// A captured batch whose connection is younger than what its leader has last said of its epochs: it counts once the leader has said again what it said before.
/// Then its epoch was the same all the while.
#[derive(Debug)]
pub(super) struct Unverified {
    captured: Captured,
    /// The epoch that was known when it came.
    leader_epoch: i32,
    since: Instant,
}

impl Region {
    pub(super) fn take_captured(&mut self) {
        let now = Instant::now();
        let mut all = std::mem::take(&mut self.spare);
        self.parts.inbox.take(&mut all);
        for captured in all.drain(..) {
            let Some(head) = self.head_of(&captured) else { continue };
            if !self.slots[head].is_active() {
                self.parts.capture.dropped("owned_elsewhere", captured.batch.len());
            } else if self.parts.source.is_verified(captured.node_id, captured.connection) {
                self.offer(head, captured, true, now);
            } else {
                for stream in self.group(head) {
                    self.slots[stream].stream.on_missed(&captured.batch, now);
                    self.touch(stream);
                }
                let leader_epoch = self.slots[head].stream.source_leader_epoch();
                self.unverified.push(Unverified { captured, leader_epoch, since: now });
            }
        }
        self.spare = all;
        let Some(oldest) = self.unverified.first() else { return };
        // A leader that does not speak must not make captures pile up here.
        if now.duration_since(oldest.since) >= GAP_PATIENCE {
            self.take_unverified();
        }
        self.parts.source.ask_soon();
    }

    /// Leaders have spoken: what was waiting for that is taken, or is read from the log after all.
    pub(super) fn take_unverified(&mut self) {
        let now = Instant::now();
        for waiting in std::mem::take(&mut self.unverified) {
            let Unverified { captured, leader_epoch, since } = &waiting;
            let Some(head) = self.head_of(captured).filter(|head| self.slots[*head].is_active()) else { continue };
            let spoken = self.parts.source.is_verified(captured.node_id, captured.connection);
            if !spoken && now.duration_since(*since) < GAP_PATIENCE {
                self.unverified.push(waiting);
                continue;
            }
            let verified = spoken && self.slots[head].stream.source_leader_epoch() == *leader_epoch;
            self.offer(head, waiting.captured, verified, now);
        }
    }

    fn head_of(&self, captured: &Captured) -> Option<usize> {
        self.by_partition.get(&captured.topic)?.get(&captured.partition).copied()
    }

    /// Offers a captured batch to the partition's streams.
    fn offer(&mut self, head: usize, captured: Captured, verified: bool, now: Instant) {
        let Captured { node_id, batch, .. } = captured;
        if verified {
            self.discover(head, &batch.header, now);
        }
        for stream in self.slots[head].forwards.values().copied().collect::<Vec<_>>() {
            self.capture(stream, batch.clone(), node_id, verified, now);
        }
        let bytes = batch.len();
        if let Some(reason) = self.capture(head, batch, node_id, verified, now) {
            self.parts.capture.dropped(reason, bytes);
        }
    }

    /// Offers a captured batch to a stream; says why it was of no use, where it was none.
    fn capture(
        &mut self,
        stream: usize,
        batch: Batch,
        node_id: i32,
        verified: bool,
        now: Instant,
    ) -> Option<&'static str> {
        let link_up = self.link_is_up(self.slots[stream].lane());
        let room = self.waiting_bytes + batch.len() <= self.parts.settings.capture_share_bytes;
        let slot = &mut self.slots[stream];
        let dropped = if slot.paused || !link_up || !room {
            slot.stream.on_missed(&batch, now);
            Some(if slot.paused { "paused" } else { "region_behind" })
        } else {
            let known = slot.stream.waiting_bytes();
            let taken = slot.stream.on_captured(batch, node_id, verified, now);
            if taken == Taken::Kept {
                // It may have become less: what was next can begin a search, which forgets what waits.
                self.waiting_bytes = (self.waiting_bytes + slot.stream.waiting_bytes()).saturating_sub(known);
            }
            slot.waiting_bytes = slot.stream.waiting_bytes();
            match taken {
                Taken::Kept | Taken::Known => None,
                Taken::Unverified => Some(UNVERIFIED),
                Taken::OldFormat => Some("format"),
                Taken::Refused => Some("not_next"),
            }
        };
        self.touch(stream);
        dropped
    }
}
