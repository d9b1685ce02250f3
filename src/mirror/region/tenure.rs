//! Which streams are this proxy's: those that it gains, those that are taken from it, and what happens to them.

use super::*;

/// How long a stream that was taken away may take to drain and to commit its position. Then it is left as it is: whoever gets it searches the region's log.
const LEAVE_STREAM_WITHIN: Duration = Duration::from_secs(5);

/// Whose a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tenure {
    /// Another proxy's, or it is not known whose.
    Away,
    /// This proxy's.
    Mine,
    /// Not this proxy's any more: nothing new is sent, what is under way is waited for.
    Leaving {
        /// The position is committed until then, if it may be.
        until: Instant,
    },
}

impl Slot {
    /// Whether the stream is there and this proxy's.
    pub(super) fn is_active(&self) -> bool {
        !self.gone && self.tenure == Tenure::Mine
    }
}

impl Region {
    /// Acts on what this proxy is in the group now.
    pub(super) fn take_standing(&mut self) {
        let now = Instant::now();
        let standing = self.standings.borrow_and_update().clone();
        let before = std::mem::replace(&mut self.standing, standing);
        if before.term != self.standing.term || !before.share.is_same(&self.standing.share) {
            self.share_changed(before.term != self.standing.term, now);
        }
        if let Some(trouble) = self.standing.trouble.as_ref().filter(|trouble| trouble.needs_a_person)
            && before.trouble.as_ref() != Some(trouble)
        {
            let message = format!("this proxy can't take part in the group: {}", trouble.reason);
            self.parts.journal.region(Kind::StreamsTaken, &self.parts.settings.name, &message);
        }
        if before.pass != self.standing.pass && matches!(self.standing.pass, Pass::Member { .. }) {
            // What has waited for a generation.
            self.commit_now = true;
            for stream in std::mem::take(&mut self.to_start) {
                self.slots[stream].start_at = now;
                self.touch(stream);
            }
        }
    }

    /// `broken`: somebody else may have had the streams meanwhile.
    fn share_changed(&mut self, broken: bool, now: Instant) {
        let known = !matches!(self.standing.share, Share::Unknown);
        let (mut gained, mut taken) = (0, 0);
        for stream in 0..self.slots.len() {
            let mine = self.standing.share.includes(&self.key(stream));
            let slot = &self.slots[stream];
            if slot.gone || slot.head.is_some() {
                // What forwards goes with its partition's first stream.
                continue;
            }
            match slot.tenure {
                Tenure::Mine if broken || !mine => {
                    taken += usize::from(!mine);
                    for stream in self.group(stream) {
                        let slot = &mut self.slots[stream];
                        slot.tenure = Tenure::Leaving { until: now + LEAVE_STREAM_WITHIN };
                        slot.stream.on_unreachable();
                        self.touch(stream);
                    }
                }
                Tenure::Away if mine => {
                    gained += 1;
                    self.gain(stream, now);
                }
                _ => {}
            }
            if known {
                self.slots[stream].shown = mine;
            }
        }
        for stream in self.parts.ownership.leaving() {
            let has_it = self.find(&stream).is_some_and(|at| matches!(self.slots[at].tenure, Tenure::Leaving { .. }));
            if !has_it {
                self.parts.ownership.has_left(&stream);
            }
        }
        self.note_shares(gained, taken);
    }

    fn note_shares(&self, gained: usize, taken: usize) {
        let streams = |count: usize| if count == 1 { "1 stream".to_string() } else { format!("{count} streams") };
        let name = &self.parts.settings.name;
        if taken > 0 {
            let message = match self.standing.share {
                Share::Unknown => format!(
                    "{} wait: this proxy is no member of the group at the moment, and other proxies may have taken them over",
                    streams(taken)
                ),
                _ => format!("{} go to other proxies", streams(taken)),
            };
            self.parts.journal.region(Kind::StreamsTaken, name, &message);
        }
        if gained > 0 {
            self.parts.journal.region(Kind::StreamsGained, name, &format!("{} are this proxy's now", streams(gained)));
        }
    }

    fn gain(&mut self, stream: usize, now: Instant) {
        let slot = &mut self.slots[stream];
        slot.tenure = Tenure::Mine;
        slot.start_at = now;
        self.touch(stream);
    }

    /// Whether a partition's positions may be committed, of which this stream is one.
    pub(super) fn may_commit(&self, stream: usize) -> bool {
        let slot = &self.slots[self.slots[stream].head.unwrap_or(stream)];
        !slot.gone
            && match slot.tenure {
                Tenure::Mine => true,
                Tenure::Leaving { .. } => self.parts.ownership.is_leaving(&self.key(stream)),
                Tenure::Away => false,
            }
    }

    /// Leaves a stream that was taken away, and those of its partition that forward, once nothing of them is under way and their positions are committed.
    pub(super) fn settle_leaving(&mut self, stream: usize, now: Instant) {
        let key = self.key(stream);
        let Tenure::Leaving { until } = self.slots[stream].tenure else { return };
        if until <= now {
            self.parts.ownership.has_left(&key);
        }
        let group = self.group(stream);
        let any = |what: &dyn Fn(&Slot) -> bool| group.iter().any(|stream| what(&self.slots[*stream]));
        let unanswered = any(&|slot| slot.stream.has_unanswered());
        let waits = any(&|slot| slot.starting || slot.scanning || slot.asking_epoch || slot.asking_start);
        let unsaid = any(&|slot| slot.stream.uncommitted().is_some()) && self.parts.ownership.is_leaving(&key);
        if unanswered || waits || unsaid {
            self.commit_now |= unsaid && !unanswered;
            self.ticking.insert(stream);
            return;
        }
        let first_missing =
            group.iter().map(|stream| self.slots[*stream].stream.first_missing()).min().unwrap_or_default();
        for stream in group {
            self.uncommitted.remove(&stream);
            let slot = &mut self.slots[stream];
            slot.tenure = Tenure::Away;
            slot.node_id = -1;
            if slot.head.is_some() {
                // It is opened anew by whoever has the partition next.
                slot.gone = true;
            } else {
                slot.stream.start_over(first_missing);
                slot.forwards.clear();
            }
        }
        self.parts.ownership.has_left(&key);
        if self.standing.share.includes(&key) && !self.slots[stream].gone {
            self.gain(stream, now);
        }
    }

    /// Commits all positions again, though they have not moved.
    pub(super) fn commit_again(&mut self) {
        for stream in 0..self.slots.len() {
            if self.slots[stream].is_active() {
                self.slots[stream].stream.commit_again();
                self.touch(stream);
            }
        }
    }

    /// Who has a stream that is not this proxy's, in words.
    pub(super) fn who_has(&self, partition: &Partition) -> String {
        let (topic, number, region) = (&partition.0, partition.1, &self.parts.settings.name);
        let which = format!("partition {number} of topic {topic:?} on its way to region {region:?}");
        match (self.standing.owner(partition), &self.standing.trouble) {
            (Some(owner), _) => format!(
                "{which} is mirrored by another proxy: {} (at {}); ask that one, on its admin port",
                owner.instance, owner.host
            ),
            (None, Some(trouble)) => {
                format!("{which} is not mirrored by this proxy at the moment: {}", trouble.reason)
            }
            (None, None) => format!("{which} is on its way from one proxy to another; try again in some seconds"),
        }
    }
}
