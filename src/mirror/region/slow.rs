//! Partitions whose followers are slow.
//!
//! A broker takes one request of a connection at a time, and an acks=all request takes it as long as the slowest in-sync follower of any of its partitions. A
//! follower that stands still therefore holds up all partitions of a link, for up to half a minute (`replica.lag.time.max.ms`). So where a link is held up, its
//! broker is asked over another connection what it has and what is committed. Partitions that it has and whose followers have not are sent over a link
//! aside from then on; the link that is held up is given up, and what was under way on it takes the usual way of what is lost with a connection: it is searched for and sent again.
//!
//! What the broker may still take from the connection that was given up, it recognises: its sequences were appended since, or follow. Where its records are older
//! than it remembers producers it might not, so that then nobody is set aside.

use super::*;
use crate::mirror::slow::{Suspect, find};

/// How long a partition is sent aside. A follower that is silent is out of the in-sync replicas by then (`replica.lag.time.max.ms`, 30 s by default).
const ASIDE: Duration = Duration::from_secs(45);

impl Slot {
    /// The link by which it is sent.
    pub(super) fn lane(&self) -> Lane {
        Lane { node_id: self.node_id, aside: self.aside_until.is_some() }
    }

    /// It has been aside for long enough: nothing more is sent there.
    pub(super) fn is_coming_back(&self, now: Instant) -> bool {
        self.aside_until.is_some_and(|until| until <= now)
    }
}

impl Region {
    /// A link is held up by its oldest request: finds out by which of its batches.
    pub(super) fn held_up(&mut self, lane: Lane, generation: u64, batches: Vec<(usize, u64)>) {
        let Some(link) = self.links.get(&lane).filter(|link| link.generation == generation) else { return };
        // Nobody else to be held up: then it is right where it is.
        let others = self.slots.iter().enumerate().any(|(stream, slot)| {
            slot.lane() == lane && slot.is_active() && !batches.iter().any(|(held_up, _)| *held_up == stream)
        });
        if link.unprotected || !(others || batches.len() > 1) {
            return;
        }
        let suspects: Vec<Suspect> = (batches.iter())
            .filter_map(|(stream, token)| {
                let stream_of = &self.slots[*stream].stream;
                let (producer_epoch, next_sequence, region_end) = stream_of.sent(*token)?;
                Some(Suspect {
                    batch: (*stream, *token),
                    partition: (stream_of.region_topic.clone(), stream_of.partition),
                    producer_id: stream_of.producer_id(),
                    producer_epoch,
                    next_sequence,
                    region_end,
                })
            })
            .collect();
        let (cluster, events) = (self.parts.cluster.clone(), self.events.clone());
        self.jobs.spawn(async move {
            let batches = find(&cluster, lane.node_id, suspects).await.unwrap_or_else(|error| {
                tracing::debug!(region = %cluster.name(), node_id = lane.node_id, %error, "it can't be found out what a broker waits for");
                Vec::new()
            });
            let _ = events.send(Event::Slow { lane, generation, batches }).await;
        });
    }

    /// These batches hold up their link: their partitions are sent aside from now on, and all others over a new link.
    pub(super) fn set_aside(&mut self, lane: Lane, generation: u64, batches: Vec<(usize, u64)>, now: Instant) {
        let slow: BTreeSet<usize> = (batches.into_iter())
            .filter(|(stream, token)| self.slots[*stream].stream.sent(*token).is_some())
            .map(|(stream, _)| self.slots[stream].head.unwrap_or(stream))
            .collect();
        let others = |slot: &Slot, stream| {
            slot.lane() == lane && slot.is_active() && !slow.contains(&slot.head.unwrap_or(stream))
        };
        let anybody = self.slots.iter().enumerate().any(|(stream, slot)| others(slot, stream));
        let Some(link) = self.links.get_mut(&lane).filter(|link| link.generation == generation) else { return };
        if slow.is_empty() || !anybody {
            return;
        }
        if let Some(end) = link.end.take() {
            end.abort();
        }
        link.up = false;
        link.in_flight_bytes = 0;
        link.barriers_in_flight = 0;
        link.unprotected = false;
        let ready = std::mem::take(&mut link.ready);
        self.unqueue(lane, ready);
        for slot in self.slots.iter_mut().filter(|slot| slot.lane() == lane) {
            // What has nothing under way has lost nothing: the broker is the same.
            if slot.stream.has_in_flight() {
                slot.stream.on_link_lost(now);
            }
        }
        for head in slow {
            let slot = &self.slots[head];
            let (topic, partition) = (slot.stream.region_topic.clone(), slot.stream.partition);
            tracing::info!(region = %self.parts.settings.name, %topic, partition, node_id = lane.node_id,
                "followers of the partition in the region are slow: it is sent over a connection of its own, so that no other partition waits for it");
            for stream in self.group(head) {
                self.slots[stream].aside_until = Some(now + ASIDE);
                self.aside.insert(stream);
                self.touch(stream);
            }
        }
        self.touch_all_of(lane);
        self.open_link(lane, now);
        let aside = Lane { aside: true, ..lane };
        if !self.links.contains_key(&aside) {
            self.open_link(aside, now);
        }
    }

    /// A stream that has been aside for long enough goes back, once nothing of it is under way there.
    pub(super) fn leave_aside(&mut self, stream: usize, now: Instant) {
        let slot = &mut self.slots[stream];
        if slot.is_coming_back(now)
            && slot.queued.is_none()
            && !slot.stream.has_in_flight()
            && !slot.stream.has_unanswered()
        {
            slot.aside_until = None;
            self.aside.remove(&stream);
        }
    }

    /// Looks whose time aside is over, and closes links aside that nobody needs.
    pub(super) fn bring_back(&mut self) {
        if self.aside.is_empty() && !self.links.keys().any(|lane| lane.aside) {
            return;
        }
        let now = Instant::now();
        for stream in self.aside.clone() {
            let slot = &mut self.slots[stream];
            if slot.is_active() {
                if slot.is_coming_back(now) {
                    self.touch(stream);
                }
            } else if !slot.stream.has_in_flight() && !slot.stream.has_unanswered() {
                // One that is taken away waits for its answers, which come over that link.
                slot.aside_until = None;
                self.aside.remove(&stream);
            }
        }
        let needed: BTreeSet<Lane> = self.aside.iter().map(|stream| self.slots[*stream].lane()).collect();
        let unneeded: Vec<Lane> =
            self.links.keys().filter(|lane| lane.aside && !needed.contains(lane)).copied().collect();
        for lane in unneeded {
            // It ends by itself, now that its queue is gone. What was ready for it goes another way.
            let ready = self.links.remove(&lane).map(|link| link.ready).unwrap_or_default();
            self.unqueue(lane, ready);
        }
    }
}
