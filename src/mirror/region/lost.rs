//! Regions that have lost what they acknowledged, and streams whose progress was lost.

use super::*;

impl Region {
    pub(super) fn retraced(&mut self, stream: usize, outcome: Retraced, now: Instant) {
        let slot = &mut self.slots[stream];
        slot.scanning = false;
        let (name, topic, partition) = (&self.parts.settings.name, slot.stream.topic.clone(), slot.stream.partition);
        let before = slot.stream.position().source_offset;
        let mut incident = None;
        match outcome {
            Retraced::Resume { position, records } => {
                if records > 0 {
                    self.parts.metrics.resent_records.inc_by(records);
                    incident = Some(format!(
                        "the region has lost {records} records that it had acknowledged: they are sent again from source offset {} on",
                        position.source_offset
                    ));
                }
                slot.stream.resume_at(position);
            }
            Retraced::Restart {
                source_offset,
                above_epoch,
                region_offset,
                region_leader_epoch,
                proven,
                lost_records,
            } => {
                incident = Some(if proven {
                    format!(
                        "the committed progress was not the region's, or retention took what lay behind it: a new incarnation of the stream begins at \
                         source offset {source_offset}, behind the last batch that both logs are known to have held"
                    )
                } else {
                    format!(
                        "the local log no longer holds what the region got last: a new incarnation of the stream begins at the local log's start, \
                         offset {source_offset}; what lies between the two ({lost_records} offsets, as far as can be told) is lost to the region"
                    )
                });
                self.parts.metrics.lost_records.inc_by(lost_records);
                slot.stream.restart_at(
                    source_offset,
                    above_epoch,
                    (region_offset, region_leader_epoch),
                    0,
                    lost_records,
                );
            }
            Retraced::Diverged { source_offset, records, region_offset, region_leader_epoch } => {
                let epoch = slot.stream.position().producer_epoch;
                slot.stream.restart_at(source_offset, epoch, (region_offset, region_leader_epoch), records, 0);
            }
            Retraced::Gone { region_offset, source_start, region_topic_id, same_topic } => {
                match self.parts.settings.on_region_topic_lost {
                    policy if same_topic || policy == OnRegionTopicLost::Recreate => {
                        let epoch = slot.stream.position().producer_epoch;
                        incident = Some(format!(
                            "the region's topic has lost all that this stream wrote: everything that the local log holds, from offset {source_start} \
                         on, is sent again"
                        ));
                        slot.stream.restart_at(source_start, epoch, (region_offset, -1), 0, 0);
                        slot.stream.writes_to(region_topic_id);
                    }
                    _ => {
                        let reason = format!(
                            "the region's topic {} has lost all that this stream wrote to partition {partition}: it was deleted and made \
                         anew, or topic_name has changed; nothing more is sent until it is restored; set on_region_topic_lost = \"recreate\" for the region to \
                         have everything sent again that the local log holds",
                            slot.stream.region_topic
                        );
                        slot.stream.stall(reason, now);
                    }
                }
            }
            Retraced::Stalled(reason) => slot.stream.stall(reason, now),
            Retraced::Later => {
                slot.stream.on_scan_failed(now);
                self.refresh_wanted = true;
            }
        }
        if let Some(incident) = incident {
            tracing::error!(region = %name, %topic, partition, "{incident}");
            self.parts.journal.stream(Kind::StreamIncident, name, &topic, partition, &incident);
        }
        // What was born elsewhere may lie in what is jumped over.
        if self.slots[stream].stream.position().source_offset > before {
            self.begin_survey(stream, before, now);
        }
        self.assign(stream, now);
        self.touch(stream);
    }

    /// Whether the region's metadata is known and does not have the stream's topic.
    pub(super) fn topic_is_missing(&self, slot: &Slot) -> bool {
        let metadata = self.parts.cluster.metadata();
        !metadata.brokers.is_empty() && !metadata.topics.contains_key(&slot.stream.region_topic)
    }

    /// Makes topics again that somebody has deleted in the region, where that is wanted: their streams start anew.
    pub(super) fn recreate_topics(&mut self, now: Instant) {
        if self.parts.settings.on_region_topic_lost != OnRegionTopicLost::Recreate {
            return;
        }
        for stream in 0..self.slots.len() {
            let slot = &self.slots[stream];
            if slot.head.is_some() {
                continue;
            }
            let begun = slot.is_active() && !slot.paused && !slot.starting && *slot.stream.phase() != Phase::Starting;
            if begun && !slot.scanning && !slot.stream.has_unanswered() && self.topic_is_missing(slot) {
                let (name, topic, partition) = (&self.parts.settings.name, &slot.stream.topic, slot.stream.partition);
                let incident = "the topic was deleted in the region: it is created again";
                tracing::error!(region = %name, %topic, partition, "{incident}");
                self.parts.journal.stream(Kind::StreamIncident, name, topic, partition, incident);
                let slot = &mut self.slots[stream];
                slot.stream.start_over(slot.stream.first_missing());
                self.touch(stream);
                self.lose_rows(stream, now);
            }
        }
    }
}
