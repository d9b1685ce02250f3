//! What can't converge, or would go round, told or stopped where it shows: topics that the region mirrors back, and MirrorMaker 2.
//!
//! That a region mirrors a topic back shows in the local log: there are batches that were born in the region.

use super::*;
use crate::client::configs::{TOPIC, describe};
use crate::config::is_of_mirror_maker;
use crate::mirror::identity::is_born_in;

const CLEANUP_POLICY: &str = "cleanup.policy";
/// Names of topics that are told, at most.
const NAMES_MAX: usize = 5;

impl Region {
    /// The local log of a stream's topic holds a batch with this producer id, born elsewhere.
    pub(super) fn note_passed_over(&mut self, stream: usize, producer_id: i64) {
        let topic = self.slots[stream].stream.topic.clone();
        if self.comes_back.contains(&topic) || !is_born_in(producer_id, &self.parts.cluster.metadata().cluster_id) {
            return;
        }
        self.comes_back.insert(topic.clone());
        let streams: Vec<usize> =
            self.by_partition.get(&topic).into_iter().flat_map(|all| all.values().copied()).collect();
        streams.into_iter().for_each(|stream| self.touch(stream));
        self.ask_whether_compacted(topic);
    }

    fn ask_whether_compacted(&mut self, topic: Arc<str>) {
        let (local, events) = (self.parts.local.clone(), self.events.clone());
        self.jobs.spawn(async move {
            let answer = describe(&local, None, TOPIC, [topic.to_string()].into_iter(), &[CLEANUP_POLICY]).await;
            let told = answer.ok().and_then(|topics| topics.into_values().next()?.ok());
            let compacted =
                told.map(|values| values.get(CLEANUP_POLICY).is_some_and(|set| set.value.contains("compact")));
            let _ = events.send(Event::Compacted { topic, compacted }).await;
        });
    }

    pub(super) fn compacted(&mut self, topic: &Arc<str>, compacted: Option<bool>) {
        match compacted {
            // Asked again with the next batch that shows it.
            None => drop(self.comes_back.remove(topic)),
            Some(false) => {}
            Some(true) => {
                let name = &self.parts.settings.name;
                let message = format!(
                    "topic {topic} is compacted, and mirrored in both directions between here and region {name}: where a key is written on both sides, the \
                     two clusters keep different values of it for good; write each key on one side only, or keep the origins apart with topic_name"
                );
                tracing::warn!(region = %name, %topic, "{message}");
                self.parts.journal.region(Kind::Diverges, name, &message);
            }
        }
    }

    /// A stream whose batches the region can't tell from its own must not run in a circle: it stands still where the region mirrors its topic back.
    pub(super) fn hold_back_circles(&mut self, stream: usize, now: Instant) {
        let slot = &mut self.slots[stream];
        let Some(id) = slot.stream.position().handed_out_id else { return };
        if !self.comes_back.contains(&slot.stream.topic) {
            return;
        }
        let topic = &slot.stream.topic;
        slot.stream.hold_back(
            format!(
                "the region mirrors topic {topic} back, and its brokers refuse the producer ids that tell where records were born: what is sent under the id \
                 {id} comes back as if it were the region's own, and would be there twice; leave the topic out in one of the two directions (topics), or use \
                 topic_name = \"{{origin}}.{{topic}}\", and restart diffluent"
            ),
            now,
        );
    }

    /// MirrorMaker 2 may copy in the other direction.
    pub(super) fn look_for_mirror_maker(&mut self) {
        if self.told_mirror_maker {
            return;
        }
        let (here, there) = (self.parts.local.metadata(), self.parts.cluster.metadata());
        let of_it: BTreeSet<&str> = (here.topics.keys().chain(there.topics.keys()))
            .map(AsRef::as_ref)
            .filter(|topic: &&str| is_of_mirror_maker(topic))
            .collect();
        if of_it.is_empty() {
            return;
        }
        self.told_mirror_maker = true;
        let names: Vec<&str> = of_it.into_iter().take(NAMES_MAX).collect();
        let name = &self.parts.settings.name;
        let message = format!(
            "MirrorMaker 2 works or has worked here or in region {name} (topics {}): if it copies back under the same names \
             (IdentityReplicationPolicy), records go round for ever, because its copies look as if they were born where they are; see docs/topologies.md",
            names.join(", ")
        );
        tracing::warn!(region = %name, "{message}");
        self.parts.journal.region(Kind::Diverges, name, &message);
    }
}
