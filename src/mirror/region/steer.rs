//! What operators ask of a region: pauses, and streams that begin anew at an earlier offset.
//!
//! A paused stream keeps its position and whatever it knows; it sends nothing, gives up what was captured, and reads no more of the local log than the age of
//! the first missing record. What is on its way is answered, searched for and committed as always.

use super::*;

impl Region {
    pub(super) fn take_steering(&mut self) {
        self.steering = self.parts.steering.borrow_and_update().clone();
        for stream in 0..self.slots.len() {
            let slot = &mut self.slots[stream];
            let paused = !slot.gone && self.steering.holds(&slot.stream.topic).is_some();
            if slot.paused != paused {
                slot.paused = paused;
                self.touch(stream);
            }
        }
    }

    /// Where streams stand: those of a topic, and of a partition of it, or all.
    pub(super) fn select(&self, topic: Option<&str>, partition: Option<i32>) -> Result<Vec<Selected>, CommandError> {
        let wanted = |slot: &&Slot| {
            // What was born elsewhere goes on in the region's own row of it, which can't be begun anew.
            !slot.gone
                && slot.head.is_none()
                && topic.is_none_or(|topic| *slot.stream.topic == *topic)
                && partition.is_none_or(|partition| slot.stream.partition == partition)
        };
        let selected: Vec<Selected> = (self.slots.iter().filter(wanted))
            .map(|slot| Selected {
                partition: (slot.stream.topic.clone(), slot.stream.partition),
                region_topic: slot.stream.region_topic.clone(),
                source_offset: slot.stream.position().source_offset,
            })
            .collect();
        match (topic, partition) {
            (Some(topic), partition) if selected.is_empty() => {
                Err(CommandError::Unknown(self.not_mirrored(topic, partition)))
            }
            _ => Ok(selected),
        }
    }

    fn not_mirrored(&self, topic: &str, partition: Option<i32>) -> String {
        let what = partition.map_or_else(String::new, |partition| format!("partition {partition} of "));
        format!("{what}topic {topic:?} is not mirrored to region {:?}", self.parts.settings.name)
    }

    pub(super) fn rewind(&mut self, targets: Vec<RewindTarget>, now: Instant) -> Vec<Result<(), String>> {
        let region = self.parts.settings.name.clone();
        let mut outcomes = Vec::with_capacity(targets.len());
        for RewindTarget { partition: (topic, partition), source_offset, region_end } in targets {
            let stream = self.find(&(topic.clone(), partition)).filter(|stream| !self.slots[*stream].gone);
            let Some(stream) = stream else {
                outcomes.push(Err("it is mirrored no longer".to_owned()));
                continue;
            };
            if !self.slots[stream].is_active() {
                outcomes.push(Err(self.who_has(&(topic, partition))));
                continue;
            }
            let slot = &mut self.slots[stream];
            let from = slot.stream.position().source_offset;
            let outcome = slot.stream.rewind_to(source_offset, region_end, now);
            if outcome.is_ok() {
                tracing::warn!(%region, %topic, partition, from_offset = from, to_offset = source_offset,
                    "an operator has rewound the stream: what lies between these offsets is sent again, in a new incarnation");
            }
            self.touch(stream);
            outcomes.push(outcome);
        }
        outcomes
    }

    pub(super) fn skip(&mut self, partition: &Partition, offset: i64) -> Result<Obstacle, CommandError> {
        let region = &self.parts.settings.name;
        let head = self
            .find(partition)
            .filter(|stream| !self.slots[*stream].gone)
            .ok_or_else(|| CommandError::Unknown(self.not_mirrored(&partition.0, Some(partition.1))))?;
        if !self.slots[head].is_active() {
            return Err(CommandError::Elsewhere(self.who_has(partition)));
        }
        let in_the_way =
            |stream: &usize| self.slots[*stream].stream.obstacle().is_some_and(|obstacle| obstacle.offset == offset);
        let stream = self.group(head).into_iter().find(in_the_way).unwrap_or(head);
        let skipped = self.slots[stream].stream.skip(offset).map_err(CommandError::Refused)?;
        self.parts.metrics.skipped_records.inc_by(skipped.records);
        tracing::warn!(%region, topic = %partition.0, partition = partition.1, offset, next_offset = skipped.next_offset,
            records = skipped.records, "an operator stepped over this batch: the region never gets it; the stream goes on behind it");
        self.parts.journal.stream(
            Kind::RecordsSkipped,
            region,
            &partition.0,
            partition.1,
            &format!(
                "{} records from source offset {offset} were stepped over: the region never gets them",
                skipped.records
            ),
        );
        self.touch(stream);
        Ok(skipped)
    }
}
