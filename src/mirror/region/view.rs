//! How far behind a region is, and in which state its streams are: read from the streams at the moment somebody asks.

use super::*;

impl Region {
    pub(super) fn find(&self, partition: &Partition) -> Option<usize> {
        self.by_partition.get(&partition.0)?.get(&partition.1).copied()
    }

    pub(super) fn key(&self, stream: usize) -> Partition {
        let stream = &self.slots[stream].stream;
        (stream.topic.clone(), stream.partition)
    }

    /// The state that operators see, with its reason.
    pub(super) fn state_of(&self, stream: usize, now: Instant) -> (State, Option<String>) {
        let slot = &self.slots[stream];
        if !slot.is_active() && slot.tenure == Tenure::Away {
            return match &self.standing.trouble {
                Some(trouble) if trouble.needs_a_person => (State::Stalled, Some(trouble.reason.clone())),
                trouble => (State::Starting, trouble.as_ref().map(|trouble| trouble.reason.clone())),
            };
        }
        if let Some(reason) = self.denied(stream).filter(|_| !slot.paused) {
            return (State::Stalled, Some(reason.to_owned()));
        }
        if slot.paused {
            return (State::Paused, self.steering.holds(&slot.stream.topic).map(|hold| hold.reason()));
        }
        if matches!(slot.tenure, Tenure::Leaving { .. }) && *slot.stream.phase() != Phase::Starting {
            // Nothing more is sent: what is under way is waited for.
            return (State::Starting, None);
        }
        let link_failed = self.links.get(&slot.lane()).is_some_and(|link| !link.up && link.failures > 0);
        match slot.stream.phase() {
            Phase::Stalled { reason, .. } => (State::Stalled, Some(reason.clone())),
            Phase::Starting => match (slot.stream.blocked_by(), &self.unreachable) {
                (Some(reason), _) => (State::Stalled, Some(reason.to_string())),
                (None, Some(reason)) => (State::Unreachable, Some(reason.clone())),
                (None, None) => (State::Starting, None),
            },
            _ if link_failed => (State::Unreachable, self.unreachable.clone()),
            Phase::Sending { .. } | Phase::Replaying(_) => {
                if slot.stream.behind_for(now) > CATCHING_UP {
                    let unreadable = slot.unreadable.map(|code| {
                        format!(
                            "the local log can't be read: {}; see the local broker's log, and allow diffluent's principal to read the \
                             topic (kafka-acls --operation Read)",
                            error_code::describe(code)
                        )
                    });
                    (State::CatchingUp, unreadable.or_else(|| slot.stream.waits_for(now, now_ms())))
                } else {
                    (State::Mirroring, None)
                }
            }
            _ if slot.node_id < 0 && self.topic_is_missing(slot) => {
                let reason = format!(
                    "topic {} was deleted in the region; nothing is sent until it is there again; set on_region_topic_lost = \"recreate\" for the \
                     region to have it created, and everything sent again that the local log holds",
                    slot.stream.region_topic
                );
                (State::Stalled, Some(reason))
            }
            _ if slot.node_id < 0 => (State::Unreachable, Some("the partition has no leader in the region".into())),
            Phase::Draining(_) | Phase::Locating { .. } | Phase::Renaming { .. } | Phase::Committing => {
                (State::Starting, None)
            }
        }
    }

    /// Logs a stream's stall and its end, once each.
    pub(super) fn tell_state(&mut self, stream: usize, now: Instant) {
        let (state, reason) = self.state_of(stream, now);
        let slot = &mut self.slots[stream];
        let stalled = state == State::Stalled;
        let was_stalled = slot.told == Some(State::Stalled);
        // A stalled stream tries again now and then: that is not news.
        let trying = was_stalled && matches!(state, State::Starting | State::Unreachable);
        if stalled && !was_stalled {
            tracing::warn!(region = %self.parts.settings.name, topic = %slot.stream.topic,
                partition = slot.stream.partition, reason = reason.as_deref().unwrap_or_default(), "the stream is stalled");
            self.parts.journal.stream(
                Kind::StreamStalled,
                &self.parts.settings.name,
                &slot.stream.topic,
                slot.stream.partition,
                reason.as_deref().unwrap_or_default(),
            );
        } else if was_stalled
            && state == State::Mirroring
            && !slot.stream.has_unanswered()
            && slot.stream.lag_records() == 0
        {
            tracing::info!(region = %self.parts.settings.name, topic = %slot.stream.topic,
                partition = slot.stream.partition, "the stream goes on");
            self.parts.journal.stream(
                Kind::StreamWentOn,
                &self.parts.settings.name,
                &slot.stream.topic,
                slot.stream.partition,
                "the stream goes on",
            );
        } else if was_stalled && !trying {
            return;
        }
        if !trying {
            slot.told = Some(state);
        }
    }

    pub(super) fn lag(&mut self, now: Instant) -> RegionLag {
        let now_ms = now_ms();
        let mut topics = Topics::default();
        // Where partitions are shown of which other streams forward.
        let mut heads: HashMap<usize, usize> = HashMap::new();
        for stream in 0..self.slots.len() {
            let head = self.slots[stream].head.unwrap_or(stream);
            if self.slots[stream].gone || !self.slots[head].shown {
                continue;
            }
            let latency = self.slots[stream].latency.as_mut().map(|latency| latency.summary(now)).unwrap_or_default();
            let slot = &self.slots[stream];
            let lag_records = slot.stream.lag_records();
            let lag_seconds = match slot.stream.oldest_missing_ms() {
                Some(timestamp) if timestamp > 0 => ((now_ms - timestamp) as f64 / 1000.0).max(0.0),
                _ => slot.stream.behind_for(now).as_secs_f64(),
            };
            let (state, reason) = self.state_of(stream, now);
            let toll = slot.stream.position().toll;
            let partition = PartitionLag {
                partition: slot.stream.partition,
                state,
                remedy: lag::remedy(state, reason.as_deref()),
                reason,
                obstacle: slot.stream.obstacle().map(|Obstacle { offset, next_offset, records }| ObstacleLag {
                    offset,
                    next_offset,
                    records,
                }),
                local_end_offset: slot.stream.source_end(),
                next_source_offset: slot.stream.first_missing(),
                lag_records,
                lag_bytes: slot.stream.lag_bytes(),
                lag_seconds,
                lost_records: toll.lost_records,
                diverged_records: toll.diverged_records,
                skipped_records: toll.skipped_records,
                replication_latency: latency,
            };
            let topic = topics.get(&slot.stream.topic, || self.no_lag(&slot.stream));
            match heads.get(&head).and_then(|&place| topic.partitions.get_mut(place)) {
                Some(shown) => add_forwarding(shown, partition),
                None => {
                    if slot.head.is_some() || !slot.forwards.is_empty() {
                        heads.insert(head, topic.partitions.len());
                    }
                    topic.partitions.push(partition);
                }
            }
        }
        self.lag_elsewhere(&mut topics);
        let mut topics = topics.into_sorted();
        for topic in &mut topics {
            topic.paused = self.steering.topic(&topic.topic);
            topic.partitions.sort_by_key(|partition| partition.partition);
            for partition in &topic.partitions {
                topic.state = topic.state.max(partition.state);
                topic.lag_records += partition.lag_records;
                topic.lag_bytes = topic.lag_bytes.zip(partition.lag_bytes).map(|(sum, bytes)| sum + bytes);
                topic.lag_seconds = topic.lag_seconds.max(partition.lag_seconds);
            }
            if let Some(latency) = self.topic_latency.get_mut(topic.topic.as_str()) {
                topic.replication_latency = latency.summary(now);
            }
            if let Some((records, bytes)) = self.topic_mirrored.get(topic.topic.as_str()) {
                (topic.mirrored_records, topic.mirrored_bytes) = (*records, *bytes);
            }
        }
        let mut state = topics.iter().map(|topic| topic.state).max().unwrap_or(State::Mirroring);
        let partitions = || topics.iter().flat_map(|topic| topic.partitions.iter().map(move |one| (topic, one)));
        let worst = partitions().find(|(_, partition)| partition.state == state);
        let mut reason = worst.and_then(|(_, partition)| partition.reason.clone());
        if state == State::Stalled
            && let Some((topic, worst)) = worst
            && partitions().any(|(_, partition)| partition.reason != worst.reason)
        {
            // One of several: the offset that it speaks of is in this one's log.
            reason = reason.map(|reason| format!("{}, partition {}: {reason}", topic.topic, worst.partition));
        }
        if state < State::Stalled
            && let Some((_, hidden)) = self.hidden().into_iter().next()
        {
            (state, reason) = (State::Stalled, Some(hidden));
        }
        RegionLag {
            region: self.parts.settings.name.to_string(),
            state,
            remedy: lag::remedy(state, reason.as_deref()),
            reason,
            paused: self.steering.region(),
            limits: self.parts.throttles.limits(),
            instance: self.parts.ownership.instance.to_string(),
            other_proxies: (self.standing.others.iter())
                .map(|other| OtherProxy {
                    instance: other.instance.to_string(),
                    host: other.host.to_string(),
                    streams: other.streams.len(),
                })
                .collect(),
            streams: self.slots.iter().filter(|slot| !slot.gone && slot.shown && slot.head.is_none()).count(),
            lag_records: topics.iter().map(|topic| topic.lag_records).sum(),
            lag_bytes: topics.iter().try_fold(0, |sum, topic| Some(sum + topic.lag_bytes?)),
            lag_seconds: topics.iter().map(|topic| topic.lag_seconds).fold(0.0, f64::max),
            mirrored_records: self.mirrored_records,
            mirrored_bytes: self.mirrored_bytes,
            rates: Default::default(),
            replication_latency: self.latency.summary(now),
            topics,
        }
    }

    /// What is shown of a stream's topic before any of its partitions is.
    fn no_lag(&self, stream: &Stream) -> TopicLag {
        TopicLag {
            topic: stream.topic.to_string(),
            region_topic: stream.region_topic.to_string(),
            state: State::Mirroring,
            paused: None,
            lag_records: 0,
            lag_bytes: Some(0),
            lag_seconds: 0.0,
            mirrored_records: 0,
            mirrored_bytes: 0,
            rates: Default::default(),
            replication_latency: Default::default(),
            partitions: Vec::with_capacity(self.by_partition.get(&stream.topic).map_or(0, BTreeMap::len)),
            elsewhere: Vec::new(),
        }
    }

    /// Names who mirrors the partitions that are not shown.
    fn lag_elsewhere(&self, topics: &mut Topics) {
        for other in self.standing.others.iter() {
            for key @ (topic, partition) in &other.streams {
                let Some(slot) = self.find(key).map(|stream| &self.slots[stream]).filter(|slot| !slot.shown) else {
                    continue;
                };
                let lag = topics.get(topic, || self.no_lag(&slot.stream));
                match lag.elsewhere.last_mut() {
                    Some(last) if *last.instance == *other.instance => last.partitions.push(*partition),
                    _ => lag
                        .elsewhere
                        .push(Elsewhere { instance: other.instance.to_string(), partitions: vec![*partition] }),
                }
            }
        }
    }
}

/// Topics as streams name them: most streams are of the same topic as the one before.
#[derive(Default)]
struct Topics {
    lags: Vec<TopicLag>,
    places: HashMap<Arc<str>, usize>,
    last: Option<(Arc<str>, usize)>,
}

impl Topics {
    fn get(&mut self, topic: &Arc<str>, none: impl FnOnce() -> TopicLag) -> &mut TopicLag {
        let place = match &self.last {
            Some((last, place)) if Arc::ptr_eq(last, topic) => *place,
            _ => {
                let lags = &mut self.lags;
                let place = *self.places.entry(topic.clone()).or_insert_with(|| {
                    lags.push(none());
                    lags.len() - 1
                });
                self.last = Some((topic.clone(), place));
                place
            }
        };
        &mut self.lags[place]
    }

    fn into_sorted(mut self) -> Vec<TopicLag> {
        self.lags.sort_by(|one, other| one.topic.cmp(&other.topic));
        self.lags
    }
}

/// Adds a stream that forwards to what is shown of its partition.
fn add_forwarding(shown: &mut PartitionLag, added: PartitionLag) {
    if added.state > shown.state {
        shown.state = added.state;
        shown.reason = added.reason.map(|reason| format!("of records that were born elsewhere: {reason}"));
        shown.remedy = added.remedy;
        shown.obstacle = added.obstacle;
    }
    shown.next_source_offset = shown.next_source_offset.min(added.next_source_offset);
    shown.lag_records = shown.lag_records.max(added.lag_records);
    shown.lag_bytes = shown.lag_bytes.zip(added.lag_bytes).map(|(bytes, added)| bytes + added);
    shown.lag_seconds = shown.lag_seconds.max(added.lag_seconds);
    shown.lost_records += added.lost_records;
    shown.diverged_records += added.diverged_records;
    shown.skipped_records += added.skipped_records;
}
