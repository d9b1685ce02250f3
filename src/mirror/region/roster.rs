//! Streams come with their topics, and go with them.

use super::*;
use crate::mirror::committed::Origin;

impl Region {
    pub(super) fn update_topics(&mut self) {
        let now = Instant::now();
        let topics = self.parts.topics.borrow_and_update().clone();
        let wanted: HashSet<(&Arc<str>, uuid::Uuid)> = topics.iter().map(|topic| (&topic.name, topic.id)).collect();
        for stream in 0..self.slots.len() {
            let slot = &mut self.slots[stream];
            if !slot.gone && !wanted.contains(&(&slot.stream.topic, slot.topic_id)) {
                slot.gone = true;
                self.waiting_bytes -= slot.waiting_bytes;
                slot.waiting_bytes = 0;
                slot.stream.on_unreachable();
                if slot.head.is_some() {
                    // It ends with its partition's first one, which says so.
                    self.touch(stream);
                    continue;
                }
                self.parts.ownership.has_left(&(slot.stream.topic.clone(), slot.stream.partition));
                tracing::info!(region = %self.parts.settings.name, topic = %slot.stream.topic,
                    partition = slot.stream.partition, "the topic is gone from the local cluster, or not selected any more; its stream ends");
                self.parts.journal.stream(
                    Kind::StreamEnded,
                    &self.parts.settings.name,
                    &slot.stream.topic,
                    slot.stream.partition,
                    "the topic is gone from the local cluster, or not selected any more; its stream ends",
                );
                let (topic, partition) = (slot.stream.topic.clone(), slot.stream.partition);
                if let Some(partitions) = self.by_partition.get_mut(&topic) {
                    partitions.remove(&partition);
                }
                self.touch(stream);
            }
        }
        for topic in topics.iter() {
            let known = self.by_partition.entry(topic.name.clone()).or_default();
            for partition in 0..topic.partitions {
                if let Some(stream) = known.get(&partition) {
                    self.slots[*stream].partitions = topic.partitions;
                    continue;
                }
                let (name, name_in_region) = (topic.name.clone(), topic.name_in_region.clone());
                let mut stream = Stream::new(name, partition, name_in_region, topic.producer_id, Origin::Here);
                if let Some(view) = self.parts.source.view(&(topic.name.clone(), partition)) {
                    stream.on_source(view, now);
                }
                let mine = self.standing.share.includes(&(topic.name.clone(), partition));
                known.insert(partition, self.slots.len());
                self.dirty.push(self.slots.len());
                let slot = Slot::new(stream, topic.partitions, topic.id, now);
                let tenure = if mine { Tenure::Mine } else { Tenure::Away };
                let shown = mine || matches!(self.standing.share, Share::Unknown);
                let paused = self.steering.holds(&topic.name).is_some();
                self.slots.push(Slot { dirty: true, tenure, shown, paused, ..slot });
            }
        }
        self.parts.source.ask_soon();
    }
}
