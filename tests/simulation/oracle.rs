//! What must be true, read from the logs of the model clusters alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use diffluent::mirror::identity::{is_born_in, is_reserved, reserved_producer_id};
use diffluent_testbed::model::Model;
use diffluent_testbed::model::batch::Batch;
use diffluent_testbed::model::partition::Partition;

use super::plan::{Fault, Plan, Route};
use super::records::numbers;

/// A record of an origin's log: the offset behind its batch, and its number.
type Placed = (i64, u64);

/// What a region must hold of an origin, in a partition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamKey {
    /// The cluster where the records are born.
    pub origin: usize,
    /// The cluster that gets them, on whatever way.
    pub region: usize,
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
}

/// Remembers what was committed once, and compares.
pub struct Oracle {
    clusters: Vec<Arc<Model>>,
    plan: Arc<Plan>,
    /// All that an origin's log ever held committed, by origin, topic and partition.
    ever: BTreeMap<(usize, String, i32), BTreeSet<u64>>,
    /// Of these, what was once aborted. An abort that an unclean election takes back is followed by the commit of the producer's next transaction: to no consumer that
    /// read on these were ever there.
    aborted: BTreeMap<(usize, String, i32), BTreeSet<u64>>,
    /// What retention took from a region, in order. Where that forwards, others may never get it.
    retired: BTreeMap<StreamKey, Vec<u64>>,
    /// What an origin's log lost, of what it had committed: a region that has it may get it once more, from a producer that sends it again.
    cut: BTreeMap<(usize, String, i32), BTreeSet<u64>>,
    /// Whether an origin's log has lost committed records.
    source_harmed: bool,
    /// Whether a region's log has.
    region_harmed: bool,
    /// Clusters whose brokers may have forgotten a producer when something went wrong: there records may come twice, and out of order.
    forgetful: BTreeSet<usize>,
}

impl Oracle {
    /// An oracle for these clusters.
    pub fn new(clusters: Vec<Arc<Model>>, plan: Arc<Plan>) -> Self {
        // Several proxies may write the same row for a while: a broker that forgets them then takes from one what it has of another.
        let told_to = |cluster: usize| {
            plan.has_fleet() && plan.any_fault(|fault| matches!(fault, Fault::Forget { cluster: at } if *at == cluster))
        };
        let by_age = |cluster: usize| plan.brokers_are[cluster].forget_after_ms.is_some() && !plan.faults.is_empty();
        let forget = |cluster: &usize| by_age(*cluster) || told_to(*cluster);
        Self {
            forgetful: (0..clusters.len()).filter(forget).collect(),
            clusters,
            plan,
            ever: BTreeMap::new(),
            aborted: BTreeMap::new(),
            cut: BTreeMap::new(),
            retired: BTreeMap::new(),
            source_harmed: false,
            region_harmed: false,
        }
    }

    /// To be called before committed records are taken from a cluster's log.
    pub fn before_harm(&mut self, cluster: usize) {
        self.remember();
        self.source_harmed |= self.plan.origins.contains(&cluster);
        self.region_harmed = true;
    }

    /// Notes what `cut` takes from the end of a cluster's log.
    pub fn note_cut(&mut self, cluster: usize, cut: impl FnOnce()) {
        self.before_harm(cluster);
        let committed = |oracle: &Self| -> BTreeMap<(usize, String, i32), BTreeSet<u64>> {
            let state = oracle.clusters[cluster].look();
            let partitions = state.topics.iter().flat_map(|(topic, known)| {
                (0..).zip(&known.partitions).map(move |(index, partition)| ((cluster, topic.clone(), index), partition))
            });
            let numbers = |partition| born_here(partition).committed.into_iter().map(|(_, number)| number).collect();
            partitions.map(|(key, partition)| (key, numbers(partition))).collect()
        };
        let before = committed(self);
        cut();
        let after = committed(self);
        for (key, before) in before {
            let gone = before.difference(&after[&key]).copied();
            self.cut.entry(key).or_default().extend(gone);
        }
    }

    /// Notes what `retention` takes from a cluster's logs.
    pub fn note_retention(&mut self, cluster: usize, retention: impl FnOnce()) {
        self.before_harm(cluster);
        let streams: Vec<StreamKey> = self.streams().into_iter().filter(|stream| stream.region == cluster).collect();
        let before: Vec<Vec<u64>> = streams.iter().map(|stream| self.held(stream)).collect();
        retention();
        for (stream, before) in streams.into_iter().zip(before) {
            let left = self.held(&stream).len();
            let taken = before.len() - left;
            self.retired.entry(stream).or_default().extend(&before[..taken]);
        }
    }

    fn remember(&mut self) {
        for &origin in &self.plan.origins {
            for (topic, known) in &self.clusters[origin].look().topics {
                for (index, partition) in (0..).zip(&known.partitions) {
                    let key = (origin, topic.clone(), index);
                    let Born { committed, aborted } = born_here(partition);
                    self.ever.entry(key.clone()).or_default().extend(committed.into_iter().map(|(_, number)| number));
                    self.aborted.entry(key).or_default().extend(aborted.into_iter().map(|(_, number)| number));
                }
            }
        }
    }

    /// All streams that there should be.
    pub fn streams(&self) -> Vec<StreamKey> {
        let mut streams = Vec::new();
        for &origin in &self.plan.origins {
            let reached = self.plan.reached(origin);
            for (topic, known) in &self.clusters[origin].look().topics {
                for &region in &reached {
                    for partition in (0..).zip(&known.partitions).map(|(index, _)| index) {
                        streams.push(StreamKey { origin, region, topic: topic.clone(), partition });
                    }
                }
            }
        }
        streams
    }

    fn expected(&self, stream: &StreamKey) -> Vec<Placed> {
        self.placed(stream, stream.origin)
    }

    /// What the region holds of the stream, committed there.
    fn held(&self, stream: &StreamKey) -> Vec<u64> {
        self.placed(stream, stream.region).into_iter().map(|(_, number)| number).collect()
    }

    /// What a cluster holds of what was born in the stream's origin, committed there.
    fn placed(&self, stream: &StreamKey, cluster: usize) -> Vec<Placed> {
        let id = {
            let state = self.clusters[stream.origin].look();
            state.topics.get(&stream.topic).map(|topic| reserved_producer_id(&state.cluster_id, topic.id))
        };
        let state = self.clusters[cluster].look();
        // Nobody else writes to such a region.
        let is_ours = |batch: &Batch| match state.refuses_foreign_ids {
            true => !batch.is_control(),
            false => Some(batch.producer_id) == id,
        };
        let Some(partition) = state.partition(&stream.topic, stream.partition) else { return Vec::new() };
        if cluster == stream.origin {
            return born_here(partition).committed;
        }
        let committed = partition.batches().iter().filter(|batch| batch.last_offset < partition.high_watermark());
        let placed = committed.filter(|batch| is_ours(batch));
        placed
            .flat_map(|batch| numbers(&batch.bytes).into_iter().map(|number| (batch.last_offset + 1, number)))
            .collect()
    }

    /// Whether nothing has come back to where it was born.
    ///
    /// # Errors
    /// What has.
    pub fn nothing_came_home(&self) -> Result<(), String> {
        for &origin in &self.plan.origins {
            let state = self.clusters[origin].look();
            for (topic, known) in &state.topics {
                for (index, partition) in known.partitions.iter().enumerate() {
                    let home = |batch: &&Batch| is_born_in(batch.producer_id, &state.cluster_id);
                    if let Some(batch) = partition.batches().iter().find(home) {
                        let offset = batch.base_offset;
                        return Err(format!(
                            "cluster {origin}, {topic}-{index}: what was born here came back at {offset}"
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether the region holds what it should, now that everything has come to rest.
    ///
    /// # Errors
    /// What is wrong.
    pub fn compare(&mut self, stream: &StreamKey) -> Result<(), String> {
        let mut expected: Vec<u64> = self.expected(stream).into_iter().map(|(_, number)| number).collect();
        let mut held = self.retired.get(stream).cloned().unwrap_or_default();
        held.extend(self.held(stream));
        let once: BTreeSet<u64> = held.iter().copied().collect();
        let forgetful = self.forgetful.contains(&stream.region) || self.plan.may_come_late(stream.origin);
        if once.len() != held.len() && !forgetful {
            let key = (stream.origin, stream.topic.clone(), stream.partition);
            let may_be_there = expected.iter().chain(self.cut.get(&key).into_iter().flatten()).copied();
            let more = more_often(&held, may_be_there);
            if let Some(first) = more.first() {
                return Err(format!("{stream:?}: {} records twice, the first is {first}", more.len()));
            }
        }
        // What retention took from a cluster on the way may not have got further.
        let lost: BTreeSet<u64> = (self.retired.iter())
            .filter(|(taken, _)| {
                (taken.origin, &taken.topic, taken.partition) == (stream.origin, &stream.topic, stream.partition)
                    && taken.region != stream.region
                    && self.plan.forwards.contains(&taken.region)
            })
            .flat_map(|(_, numbers)| numbers.iter().copied())
            .collect();
        let aborted = self.aborted.get(&(stream.origin, stream.topic.clone(), stream.partition));
        let may_lack = |number: &u64| lost.contains(number) || aborted.is_some_and(|aborted| aborted.contains(number));
        expected.retain(|number| once.contains(number) || !may_lack(number));
        if self.plan.start_latest {
            // What came before the stream first began it never gets.
            expected = expected.split_off(begin(&expected, &once));
        }
        let wanted: BTreeSet<u64> = expected.iter().copied().collect();
        if !self.source_harmed && once.len() > expected.len() {
            return Err(format!("{stream:?}: {} records that the origin does not have", once.len() - expected.len()));
        }
        if self.source_harmed {
            self.remember();
            let ever = &self.ever[&(stream.origin, stream.topic.clone(), stream.partition)];
            if let Some(never) = once.difference(ever).next() {
                return Err(format!("{stream:?}: record {never} was never committed at its origin"));
            }
        }
        let kept: Vec<u64> = held.into_iter().filter(|number| wanted.contains(number)).collect();
        if kept == expected || forgetful && once.is_superset(&wanted) {
            return Ok(());
        }
        let missing: Vec<u64> = expected.iter().copied().filter(|number| !once.contains(number)).collect();
        match missing.first() {
            Some(first) => {
                let next = self.expected(stream).into_iter().find(|(_, number)| number == first).map(|(next, _)| next);
                Err(format!(
                    "{stream:?}: {} of {} records missing, the first is {first} (before offset {next:?} of the origin)",
                    missing.len(),
                    expected.len()
                ))
            }
            None => Err(format!("{stream:?}: the records are there, in another order")),
        }
    }

    /// Whether the region at the end of a route holds, committed, everything before an offset of its beginning that diffluent calls done, wherever it was
    /// born. Where records were lost on purpose nothing can be said.
    ///
    /// # Errors
    /// What is wrong.
    pub fn is_done_before(
        &self,
        route: Route,
        topic: &str,
        partition: i32,
        offset: i64,
        who: &str,
    ) -> Result<(), String> {
        if self.region_harmed || self.source_harmed {
            return Ok(());
        }
        for &origin in self.plan.origins.iter().filter(|origin| self.plan.carries(route, **origin)) {
            let stream = StreamKey { origin, region: route.to, topic: topic.to_owned(), partition };
            let held: BTreeSet<u64> = self.held(&stream).into_iter().collect();
            let mut done = self.placed(&stream, route.from);
            if self.plan.start_latest {
                let numbers: Vec<u64> = done.iter().map(|(_, number)| *number).collect();
                done = done.split_off(begin(&numbers, &held));
            }
            if let Some((next, number)) =
                done.into_iter().find(|(next, number)| *next <= offset && !held.contains(number))
            {
                return Err(format!(
                    "{route:?}, {topic}-{partition}: {who} says that everything before {offset} is in the region, but record {number} \
                     (before {next}) of {origin} is not"
                ));
            }
        }
        Ok(())
    }
}

/// What is held more often than it is in the origin's log. There it may be twice: a broker that has forgotten an idempotent producer takes again what that sends again.
fn more_often(held: &[u64], origin: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut left: BTreeMap<u64, usize> = BTreeMap::new();
    for number in origin {
        *left.entry(number).or_default() += 1;
    }
    let mut more = Vec::new();
    for number in held {
        // What the origin has lost may be held once.
        let left = left.entry(*number).or_insert(1);
        match left.checked_sub(1) {
            Some(less) => *left = less,
            None => more.push(*number),
        }
    }
    more
}

/// Where the first of them stands that is held; behind them all if none is.
fn begin(numbers: &[u64], held: &BTreeSet<u64>) -> usize {
    numbers.iter().position(|number| held.contains(number)).unwrap_or(numbers.len())
}

/// What of a log was born in its cluster, in order, as far as it is known what became of it.
struct Born {
    committed: Vec<Placed>,
    aborted: Vec<Placed>,
}

/// The record that a log has most often, and how often.
pub fn comes_again(partition: &Partition) -> Option<(u64, usize)> {
    let mut often: BTreeMap<u64, usize> = BTreeMap::new();
    for batch in partition.batches().iter().filter(|batch| !batch.is_control()) {
        numbers(&batch.bytes).into_iter().for_each(|number| *often.entry(number).or_default() += 1);
    }
    often.into_iter().max_by_key(|(_, often)| *often)
}

fn born_here(partition: &Partition) -> Born {
    type Batches = Vec<(i64, i64, Vec<u64>)>;
    let (mut committed, mut aborted) = (Batches::new(), Batches::new());
    let mut open: BTreeMap<i64, Batches> = BTreeMap::new();
    for batch in partition.batches().iter().filter(|batch| batch.last_offset < partition.high_watermark()) {
        if batch.is_control() {
            let ended = open.remove(&batch.producer_id).unwrap_or_default();
            if batch.commits() { &mut committed } else { &mut aborted }.extend(ended);
        } else if !is_reserved(batch.producer_id) {
            let placed = (batch.base_offset, batch.last_offset + 1, numbers(&batch.bytes));
            if batch.is_transactional() {
                open.entry(batch.producer_id).or_default().push(placed);
            } else {
                committed.push(placed);
            }
        }
    }
    let placed = |mut batches: Batches| {
        batches.sort_by_key(|(base_offset, ..)| *base_offset);
        let records = |(_, next, numbers): (i64, i64, Vec<u64>)| numbers.into_iter().map(move |number| (next, number));
        batches.into_iter().flat_map(records).collect()
    };
    Born { committed: placed(committed), aborted: placed(aborted) }
}
