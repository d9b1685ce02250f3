//! Which stream is sent over which link, links that come and go, and the requests that are made of ready batches.

use super::*;

impl Region {
    pub(super) fn link_is_up(&self, lane: Lane) -> bool {
        self.links.get(&lane).is_some_and(|link| link.up)
    }

    /// Gives a stream to the link of the broker that leads its partition in the region.
    pub(super) fn assign(&mut self, stream: usize, now: Instant) {
        let metadata = self.parts.cluster.metadata();
        let slot = &mut self.slots[stream];
        if !slot.is_active() || slot.starting || *slot.stream.phase() == Phase::Starting || slot.stream.has_unanswered()
        {
            return;
        }
        let leader =
            metadata.leader(&slot.stream.region_topic, slot.stream.partition).map_or(-1, |leader| leader.node_id);
        if leader != slot.node_id {
            let had_one = slot.node_id >= 0;
            slot.node_id = leader;
            slot.aside_until = None;
            self.aside.remove(&stream);
            if had_one {
                slot.stream.on_link_lost(now);
            }
            self.touch(stream);
        }
        if leader >= 0 && !self.links.contains_key(&Lane::main(leader)) {
            self.open_link(Lane::main(leader), now);
        }
    }

    pub(super) fn open_link(&mut self, lane: Lane, now: Instant) {
        let link = self.links.entry(lane).or_insert_with(|| Link {
            generation: 0,
            end: None,
            queue: None,
            up: false,
            in_flight_bytes: 0,
            barriers_in_flight: 0,
            unprotected: false,
            ready: VecDeque::new(),
            retry_at: now,
            failures: 0,
        });
        self.links_opened += 1;
        link.generation = self.links_opened;
        let (queue, requests) = mpsc::channel(LINK_QUEUE_REQUESTS);
        link.queue = Some(queue);
        let ends = link::Ends {
            lane,
            generation: link.generation,
            queue: requests,
            throttle: self.parts.throttles.sent.clone(),
            ownership: self.parts.ownership.clone(),
            events: self.events.clone(),
            room: self.room.clone(),
        };
        link.end = Some(self.jobs.spawn(link::run(self.parts.cluster.clone(), ends)));
    }

    pub(super) fn link_up(&mut self, lane: Lane, generation: u64, now: Instant) {
        let Some(link) = self.links.get_mut(&lane).filter(|link| link.generation == generation) else { return };
        link.up = true;
        link.failures = 0;
        self.reachable();
        self.ask_for_expiration(lane.node_id);
        for slot in self.slots.iter_mut().filter(|slot| slot.lane() == lane) {
            slot.stream.on_link_up(now);
        }
        self.touch_all_of(lane);
    }

    pub(super) fn link_down(&mut self, lane: Lane, generation: u64, error: Option<ClientError>, now: Instant) {
        let Some(link) = self.links.get_mut(&lane).filter(|link| link.generation == generation) else { return };
        link.up = false;
        link.queue = None;
        link.in_flight_bytes = 0;
        link.barriers_in_flight = 0;
        link.unprotected = false;
        link.retry_at = now + (LINK_RETRY * (1 << link.failures.min(8))).min(LINK_RETRY_MAX);
        link.failures += 1;
        let ready = std::mem::take(&mut link.ready);
        self.unqueue(lane, ready);
        if let Some(error) = error {
            self.not_reachable(&error);
        }
        for slot in self.slots.iter_mut().filter(|slot| slot.lane() == lane) {
            slot.stream.on_link_lost(now);
            slot.stream.on_unreachable();
        }
        self.touch_all_of(lane);
        self.refresh_wanted = true;
        if self.parts.cluster.metadata().brokers.contains_key(&lane.node_id) {
            return;
        }
        // A broker that left the cluster: its partitions get another leader.
        self.links.remove(&lane);
    }

    /// A link's row of streams that can send is gone.
    pub(super) fn unqueue(&mut self, lane: Lane, ready: VecDeque<usize>) {
        for stream in ready {
            let queued = &mut self.slots[stream].queued;
            if *queued == Some(lane) {
                *queued = None;
                self.touch(stream);
            }
        }
    }

    pub(super) fn touch_all_of(&mut self, lane: Lane) {
        for stream in 0..self.slots.len() {
            if self.slots[stream].lane() == lane {
                self.touch(stream);
            }
        }
    }

    pub(super) fn reachable(&mut self) {
        let down = self.links.values().any(|link| !link.up && link.failures > 0);
        if !down && self.unreachable.take().is_some() {
            tracing::info!(region = %self.parts.settings.name, "all brokers of the region can be reached again");
            self.parts.journal.region(
                Kind::RegionReachable,
                &self.parts.settings.name,
                "all brokers of the region can be reached again",
            );
        }
    }

    pub(super) fn not_reachable(&mut self, error: &ClientError) {
        self.parts.metrics.error(error.kind());
        if self.unreachable.is_none() {
            tracing::warn!(region = %self.parts.settings.name, %error,
                "a broker of the region can't be reached; what it should get stays in the local log and is sent once it is back");
            self.parts.journal.region(Kind::RegionUnreachable, &self.parts.settings.name, &error.to_string());
        }
        self.unreachable = Some(error.to_string());
    }

    /// Hands ready batches to the links, as many as their windows take.
    pub(super) fn pump(&mut self) {
        if !self.parts.ownership.holds(Instant::now()) {
            // Whose streams these are now, the standing will tell.
            return;
        }
        let metadata = self.parts.cluster.metadata();
        let remembered_since_ms = self.remembered_since_ms();
        let mut unprotected = 0;
        let window = self.parts.settings.window_bytes;
        let Self { links, slots, dirty, .. } = self;
        for (lane, link) in links.iter_mut().filter(|(_, link)| link.up) {
            let Some(queue) = &link.queue else { continue };
            while !link.ready.is_empty()
                && link.in_flight_bytes < window
                && link.barriers_in_flight < BARRIERS_IN_FLIGHT_MAX
                && queue.capacity() > 1
            {
                let [mut barriers, mut others] = [Vec::new(), Vec::new()];
                let mut bytes = [0; 2];
                let mut again = Vec::new();
                // A request takes one batch of a partition, and several streams may have one.
                let mut shared = HashSet::new();
                while bytes[0] + bytes[1] < REQUEST_BYTES_MAX && barriers.len() + others.len() < REQUEST_BATCHES_MAX {
                    let Some(stream) = link.ready.pop_front() else { break };
                    let slot = &mut slots[stream];
                    if slot.queued != Some(*lane) {
                        continue;
                    }
                    let head = slot.head.unwrap_or(stream);
                    if (slot.head.is_some() || !slot.forwards.is_empty()) && !shared.insert(head) {
                        again.push(stream);
                        continue;
                    }
                    slot.queued = None;
                    if !slot.dirty {
                        slot.dirty = true;
                        dirty.push(stream);
                    }
                    let Some(outgoing) = slot.stream.next_batch(link.barriers_in_flight < BARRIERS_OF_QUIET_LINK)
                    else {
                        continue;
                    };
                    if slot.stream.can_send() {
                        slot.queued = Some(*lane);
                        again.push(stream);
                    }
                    let topic = slot.stream.region_topic.clone();
                    let partition = slot.stream.partition;
                    let leader_epoch = metadata.leader(&topic, partition).map_or(-1, |leader| leader.epoch);
                    let is_unprotected = outgoing.batch.header.max_timestamp < remembered_since_ms;
                    unprotected += u64::from(is_unprotected);
                    link.unprotected |= is_unprotected;
                    bytes[usize::from(outgoing.barrier)] += outgoing.batch.len();
                    let group = if outgoing.barrier { &mut barriers } else { &mut others };
                    group.push(Entry { stream, topic, partition, leader_epoch, outgoing });
                }
                link.ready.extend(again);
                for (entries, barrier) in [(others, false), (barriers, true)] {
                    if entries.is_empty() {
                        continue;
                    }
                    let bytes = bytes[usize::from(barrier)];
                    link.in_flight_bytes += bytes;
                    link.barriers_in_flight += usize::from(barrier);
                    // There was room for two. A closed queue is a link that is about to report its end.
                    let _ = queue.try_send(Request { entries, barrier, bytes });
                }
            }
        }
        self.note_unprotected(unprotected);
    }
}
