//! What takes a while: starting streams, searching the region's log, asking for epochs' ends and logs' starts, committing positions.

use super::*;
use crate::mirror::progress::{Commit, Position};

impl Region {
    pub(super) fn start_jobs(&mut self, now: Instant) {
        self.start_streams(now);
        self.start_scans(now);
        self.ask_for_ids(now);
        self.ask_epochs();
        if self.commit_now && !self.committing {
            self.commit_now = false;
            self.commit();
        }
        if self.refresh_wanted && !self.refreshing && !self.slots.is_empty() {
            self.refresh_wanted = false;
            self.refreshing = true;
            let (cluster, events) = (self.parts.cluster.clone(), self.events.clone());
            self.jobs.spawn(async move {
                let result = cluster.refresh().await.map(|_| ());
                let _ = events.send(Event::Metadata(result)).await;
            });
        }
    }

    pub(super) fn start_streams(&mut self, now: Instant) {
        // One start at a time: what comes meanwhile starts together.
        if self.starting > 0 {
            return;
        }
        let mut starting = Vec::new();
        for stream in std::mem::take(&mut self.to_start) {
            let slot = &mut self.slots[stream];
            if !slot.is_active() || *slot.stream.phase() != Phase::Starting {
                continue;
            }
            if slot.start_at > now {
                self.to_start.insert(stream);
                continue;
            }
            slot.starting = true;
            self.starting += 1;
            starting.push(Starting {
                stream,
                partition: (slot.stream.topic.clone(), slot.stream.partition),
                region_topic: slot.stream.region_topic.clone(),
                partitions: slot.partitions,
                topic_id: slot.topic_id,
                producer_id: slot.stream.producer_id(),
                start: self.parts.settings.start,
                forwards: self.parts.settings.forward != Forward::Own,
            });
        }
        if !starting.is_empty() {
            self.jobs.spawn(start::start(
                self.parts.local.clone(),
                self.parts.cluster.clone(),
                Keeping {
                    progress: self.parts.progress.clone(),
                    pass: self.standing.pass.clone(),
                    ownership: self.parts.ownership.clone(),
                },
                starting,
                self.events.clone(),
            ));
        }
    }

    pub(super) fn start_scans(&mut self, now: Instant) {
        let mut by_node: BTreeMap<i32, Vec<Target>> = BTreeMap::new();
        let mut traces: BTreeMap<i32, Vec<Trace>> = BTreeMap::new();
        let mut rejoins: BTreeMap<i32, Vec<Rejoin>> = BTreeMap::new();
        let due: Vec<usize> = self
            .ticking
            .iter()
            .copied()
            .filter(|stream| {
                let slot = &self.slots[*stream];
                !slot.scanning && slot.is_active() && slot.node_id >= 0 && slot.stream.wants_scan(now)
            })
            .collect();
        let metadata = self.parts.cluster.metadata();
        // A search reads a partition for one stream; another one of the same partition has its turn with the next tick.
        let mut searched = HashSet::new();
        for stream in due {
            let slot = &mut self.slots[stream];
            if slot.stream.doubt().is_none() && !searched.insert(slot.head.unwrap_or(stream)) {
                continue;
            }
            let leader = metadata.leader(&slot.stream.region_topic, slot.stream.partition);
            let Some(leader) = leader.filter(|leader| leader.node_id == slot.node_id) else {
                // Somebody else leads since the stream was assigned.
                self.refresh_wanted = true;
                continue;
            };
            slot.scanning = true;
            slot.stream.search_begins();
            let position = slot.stream.position();
            if slot.head.is_some() && slot.stream.doubt().is_some() {
                rejoins.entry(slot.node_id).or_default().push(Rejoin {
                    stream,
                    source: (slot.stream.topic.clone(), slot.stream.partition),
                    region: (slot.stream.region_topic.clone(), slot.stream.partition),
                    producer_id: slot.stream.producer_id(),
                    position,
                    first: slot.stream.first(),
                });
                continue;
            }
            if let Some(doubt) = slot.stream.doubt() {
                traces.entry(slot.node_id).or_default().push(Trace {
                    stream,
                    source: (slot.stream.topic.clone(), slot.stream.partition),
                    region: (slot.stream.region_topic.clone(), slot.stream.partition),
                    producer_id: slot.stream.producer_id(),
                    position,
                    doubt,
                });
                continue;
            }
            by_node.entry(slot.node_id).or_default().push(Target {
                stream,
                partition: (slot.stream.region_topic.clone(), slot.stream.partition),
                leader_epoch: leader.epoch,
                from: position.region_offset,
                producer_id: slot.stream.producer_id(),
                producer_epoch: position.producer_epoch,
                sequence: position.sequence,
            });
        }
        for (node_id, traces) in traces {
            let (local, cluster) = (self.parts.local.clone(), self.parts.cluster.clone());
            let events = self.events.clone();
            self.jobs.spawn(async move {
                let outcomes = retrace::retrace(&local, &cluster, node_id, traces).await;
                let _ = events.send(Event::Retraced(outcomes)).await;
            });
        }
        for (node_id, rejoins) in rejoins {
            let (local, cluster) = (self.parts.local.clone(), self.parts.cluster.clone());
            let events = self.events.clone();
            self.jobs.spawn(async move {
                let outcomes = rejoin::rejoin(&local, &cluster, node_id, rejoins).await;
                let _ = events.send(Event::Rejoined(outcomes)).await;
            });
        }
        for (node_id, targets) in by_node {
            let (cluster, events) = (self.parts.cluster.clone(), self.events.clone());
            self.jobs.spawn(async move {
                let mut done = 0;
                let searched = async {
                    let mut connection = cluster.connect(node_id).await?;
                    for some in targets.chunks(scan::TARGETS_AT_ONCE) {
                        let outcomes = scan::scan(&mut connection, &cluster, node_id, some).await?;
                        let _ = events.send(Event::Scanned(outcomes)).await;
                        done += some.len();
                    }
                    Ok::<(), ClientError>(())
                };
                if let Err(error) = searched.await {
                    tracing::debug!(region = %cluster.name(), node_id, %error, "the region's log could not be searched");
                    let left = targets.iter().skip(done);
                    let outcomes = left.map(|target| (target.stream, Scanned::Unreachable)).collect();
                    let _ = events.send(Event::Scanned(outcomes)).await;
                }
            });
        }
    }

    pub(super) fn ask_epochs(&mut self) {
        let mut by_leader: BTreeMap<i32, Vec<(usize, Partition, i32)>> = BTreeMap::new();
        // One question a partition: another stream of it asks when this one has its answer.
        let mut asked = HashSet::new();
        for stream in std::mem::take(&mut self.epochs_wanted) {
            let slot = &mut self.slots[stream];
            if !asked.insert(slot.head.unwrap_or(stream)) {
                self.epochs_wanted.insert(stream);
                continue;
            }
            if !slot.is_active() || slot.asking_epoch || slot.stream.source_leader() < 0 {
                continue;
            }
            if let Some(epoch) = slot.stream.wants_epoch_check() {
                slot.asking_epoch = true;
                let partition = (slot.stream.topic.clone(), slot.stream.partition);
                by_leader.entry(slot.stream.source_leader()).or_default().push((stream, partition, epoch));
            }
        }
        for (leader, asked) in by_leader {
            let (local, events) = (self.parts.local.clone(), self.events.clone());
            self.jobs.spawn(async move {
                let epochs: Vec<(Partition, i32)> =
                    asked.iter().map(|(_, partition, epoch)| (partition.clone(), *epoch)).collect();
                let ends: BTreeMap<Partition, Result<i64, i16>> = match epoch_ends(&local, leader, &epochs).await {
                    Ok(ends) => ends.into_iter().collect(),
                    Err(error) => {
                        tracing::debug!(%error, "the end of an epoch could not be asked for; trying again");
                        BTreeMap::new()
                    }
                };
                let ends: Vec<_> = asked
                    .into_iter()
                    .map(|(stream, partition, epoch)| {
                        let end = ends.get(&partition).copied().unwrap_or(Err(error_code::LEADER_NOT_AVAILABLE));
                        (stream, epoch, end)
                    })
                    .collect();
                if ends.iter().any(|(_, _, end)| end.is_err()) {
                    tokio::time::sleep(LINK_RETRY).await;
                }
                let _ = events.send(Event::EpochEnds(ends)).await;
            });
        }
    }

    /// Asks whose transactions hold streams back, and tells of those that are open for long.
    pub(super) fn look_at_transactions(&mut self) {
        let now = Instant::now();
        let mut by_leader: BTreeMap<i32, Vec<(usize, Partition)>> = BTreeMap::new();
        for stream in self.held_back.clone() {
            let slot = &mut self.slots[stream];
            let partition = (slot.stream.topic.clone(), slot.stream.partition);
            if let Some(words) = slot.stream.tells_of_transaction(now, now_ms()) {
                tracing::warn!(region = %self.parts.settings.name, topic = %partition.0, partition = partition.1, "{words}");
                let (name, (topic, partition)) = (&self.parts.settings.name, &partition);
                self.parts.journal.stream(Kind::StreamIncident, name, topic, *partition, &words);
            }
            let lately = slot.transaction_asked.is_some_and(|at| now.duration_since(at) < TRANSACTION_SPACING);
            if slot.stream.wants_transaction(now) && !lately && slot.stream.source_leader() >= 0 {
                slot.transaction_asked = Some(now);
                by_leader.entry(slot.stream.source_leader()).or_default().push((stream, partition));
            }
        }
        for (leader, asked) in by_leader {
            let (local, events) = (self.parts.local.clone(), self.events.clone());
            self.jobs.spawn(async move {
                let partitions: Vec<Partition> = asked.iter().map(|(_, partition)| partition.clone()).collect();
                let open = transactions::oldest_open(&local, leader, &partitions).await.unwrap_or_else(|error| {
                    tracing::debug!(%error, "it can't be asked whose transactions are open");
                    HashMap::new()
                });
                let answers = asked.into_iter().map(|(stream, partition)| (stream, open.get(&partition).copied()));
                let _ = events.send(Event::Transactions(answers.collect())).await;
            });
        }
    }

    pub(super) fn ask_log_starts(&mut self, streams: Vec<usize>) {
        if streams.is_empty() {
            return;
        }
        let mut asked = Vec::new();
        for stream in streams {
            let slot = &mut self.slots[stream];
            if !slot.asking_start {
                slot.asking_start = true;
                asked.push((stream, (slot.stream.topic.clone(), slot.stream.partition)));
            }
        }
        let (local, events) = (self.parts.local.clone(), self.events.clone());
        self.jobs.spawn(async move {
            let partitions: BTreeSet<Partition> = asked.iter().map(|(_, partition)| partition.clone()).collect();
            let partitions: Vec<Partition> = partitions.into_iter().collect();
            let starts = list_all(&local, &partitions, Which::Start).await;
            let starts = asked
                .into_iter()
                .map(|(stream, partition)| {
                    // Unknown: nothing is lost yet, the stream asks again.
                    (stream, starts.get(&partition).and_then(|start| start.ok()).map_or(0, |start| start.offset))
                })
                .collect();
            let _ = events.send(Event::LogStarts(starts)).await;
        });
    }

    /// Positions to be committed: with one of a partition's, those of all of its streams, the head's first.
    pub(super) fn uncommitted_positions(&mut self) -> Vec<(usize, Position)> {
        let moved: Vec<usize> = std::mem::take(&mut self.uncommitted)
            .into_iter()
            .filter(|stream| self.may_commit(*stream) && self.slots[*stream].stream.uncommitted().is_some())
            .collect();
        let mut heads = BTreeSet::new();
        for stream in moved {
            let head = self.slots[stream].head.unwrap_or(stream);
            // A head that looks its progress up must not overwrite it.
            if *self.slots[head].stream.phase() == Phase::Starting {
                self.uncommitted.insert(stream);
            } else {
                heads.insert(head);
            }
        }
        let groups = heads.into_iter().flat_map(|head| self.group(head));
        groups.map(|stream| (stream, self.slots[stream].stream.position())).collect()
    }

    /// The commit of each partition.
    pub(super) fn commits(&self, positions: &[(usize, Position)]) -> Vec<(Partition, Commit)> {
        let forwards = self.parts.settings.forward != Forward::Own;
        let mut commits: Vec<(Partition, Commit)> = Vec::new();
        for (stream, position) in positions {
            match (self.slots[*stream].head, commits.last_mut()) {
                (Some(_), Some((_, Commit { forwarded: Some(forwarded), .. }))) => {
                    forwarded.insert(self.slots[*stream].stream.producer_id(), *position);
                }
                (Some(_), _) => {}
                (None, _) => {
                    let commit = Commit { position: *position, forwarded: forwards.then(BTreeMap::new) };
                    commits.push((self.key(*stream), commit));
                }
            }
        }
        commits
    }

    pub(super) fn commit(&mut self) {
        if !matches!(self.standing.pass, Pass::Member { .. }) {
            // They are committed once this proxy is a member of a generation.
            return;
        }
        let positions = self.uncommitted_positions();
        if positions.is_empty() {
            return;
        }
        self.committing = true;
        let commits = self.commits(&positions);
        let (progress, events) = (self.parts.progress.clone(), self.events.clone());
        // Taken together with the positions: if another generation has begun when this arrives, it is refused.
        let pass = self.standing.pass.clone();
        self.jobs.spawn(async move {
            let result = progress.commit(&commits, &pass).await;
            let _ = events.send(Event::Committed { positions, result }).await;
        });
    }
}
