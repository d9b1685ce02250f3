//! Starting streams: their progress, their topics in the region, and for those that never ran, where they begin.
//!
//! Many streams start together with a handful of requests: 10,000 partitions take one OffsetFetch, one Metadata and one
//! ListOffsets a broker.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::DescribeProducersRequest;
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::events::Event;
use super::log::SEARCH_BYTES_MAX;
use super::offsets::{LogOffset, Which, by_leader, list_all, name};
use super::ownership::{Ownership, Pass};
use super::progress::{Commit, Committed, Partition, Position, Progress, Toll, is_passing};
use super::retrace;
use super::topics::{self, Wanted};
use crate::client::ClientError;
use crate::client::cluster::Cluster;
use crate::client::error_code;
use crate::client::rights::{Operation, Right};
use crate::config::Start;

/// How far back a region's log is searched for batches of a stream whose producer its broker does not know, bytes of each partition: where nobody else writes
/// there, the last batch is the stream's.
const FORGOTTEN_BYTES: usize = 16 * 1024 * 1024;
/// Brokers know within this time that they lead a new topic, and are asked so often.
const NEW_LEADERS_WITHIN: Duration = Duration::from_millis(1500);
const NEW_LEADERS_LOOK: Duration = Duration::from_millis(50);
/// The pause before it is asked again whether somebody has joined the group, doubled up to [`DOOR_PAUSE_MAX`].
const DOOR_PAUSE: Duration = Duration::from_millis(20);
const DOOR_PAUSE_MAX: Duration = Duration::from_secs(1);
/// So many partitions are searched at the same time.
const SEARCHES_AT_ONCE: usize = 16;

/// A stream to be started.
#[derive(Clone, Debug)]
pub struct Starting {
    /// Its number within its region.
    pub stream: usize,
    /// Topic and partition in the local cluster.
    pub partition: Partition,
    /// The topic's name in the region.
    pub region_topic: Arc<str>,
    /// How many partitions the topic has in the local cluster.
    pub partitions: i32,
    /// The local topic's id.
    pub topic_id: Uuid,
    /// The reserved producer id.
    pub producer_id: i64,
    /// Where it begins if it never ran.
    pub start: Start,
    /// Whether what was born elsewhere is forwarded.
    pub forwards: bool,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Started {
    /// The position is known; the region has not been asked yet.
    Known(Position),
    /// The stream may begin.
    Ready {
        /// Here.
        position: Position,
        /// It never wrote: there is nothing to search for in the region.
        never_wrote: bool,
        /// The region holds records of the stream, but its progress is gone: the position is to be found in both logs.
        unproven: bool,
        /// Where those stand that forward what was born elsewhere; `None` if nothing was forwarded when that was committed.
        forwarded: Option<BTreeMap<i64, Position>>,
    },
    /// Try again: a cluster can't be asked at the moment.
    Later,
    /// Something that a person must mend.
    Stalled(String),
}

/// Where progress is kept, and as what it is committed.
#[derive(Clone, Debug)]
pub struct Keeping {
    /// The progress.
    pub progress: Arc<Progress>,
    /// As what first positions are committed.
    pub pass: Pass,
    /// Of the region's streams.
    pub ownership: Arc<Ownership>,
}

/// Starts streams; tells the region by [`Event::Started`], first what is known locally, then the rest.
pub async fn start(
    local: Arc<Cluster>,
    region: Arc<Cluster>,
    keeping: Keeping,
    streams: Vec<Starting>,
    events: mpsc::Sender<Event>,
) {
    let all: Vec<usize> = streams.iter().map(|stream| stream.stream).collect();
    let tried_again = match run(&local, &region, &keeping, streams, &events).await {
        Ok(tried_again) => tried_again,
        Err(error) => {
            tell(&events, failed(&region, &error, all)).await;
            is_passing(&error)
        }
    };
    // What is tried again in a moment may be there in time.
    if !tried_again {
        keeping.ownership.first_positions_done();
    }
}

/// What an error means for streams.
fn failed(
    region: &Cluster,
    error: &ClientError,
    streams: impl IntoIterator<Item = usize>,
) -> impl Iterator<Item = (usize, Started)> {
    let outcome = if is_passing(error) { Started::Later } else { Started::Stalled(error.to_string()) };
    tracing::debug!(region = %region.name(), %error, "streams could not be started");
    streams.into_iter().map(move |stream| (stream, outcome.clone()))
}

/// Whether some of them are to be tried again.
async fn run(
    local: &Arc<Cluster>,
    region: &Arc<Cluster>,
    keeping: &Keeping,
    streams: Vec<Starting>,
    events: &mpsc::Sender<Event>,
) -> Result<bool, ClientError> {
    // Of all their topics' partitions: one that was added since begins at its beginning, where others were mirrored before.
    let mut topics: BTreeMap<&Arc<str>, i32> = BTreeMap::new();
    for stream in &streams {
        let partitions = topics.entry(&stream.partition.0).or_default();
        *partitions = (*partitions).max(stream.partitions).max(stream.partition.1 + 1);
    }
    let partitions: Vec<Partition> = (topics.into_iter())
        .flat_map(|(topic, partitions)| (0..partitions).map(|partition| (topic.clone(), partition)))
        .collect();
    let committed = keeping.progress.load(&partitions).await?;
    let (positions, denied) = local_positions(local, &streams, &committed).await;
    if positions.len() == streams.len() && positions.values().all(|(_, is_committed)| *is_committed) {
        keeping.ownership.first_positions_done();
    }
    // Where one begins that starts at the end is not known before it is committed: another proxy may have been earlier.
    let known = streams.iter().filter_map(|stream| {
        let (mut position, is_committed) = *positions.get(&stream.stream)?;
        // Of the partition's streams only this one is there yet: it stands for those that forward, too.
        if let Some(Ok(commit)) = committed.get(&stream.partition) {
            position.source_offset = position.source_offset.min(commit.source_offset());
        }
        (is_committed || stream.start == Start::Earliest).then_some((stream.stream, Started::Known(position)))
    });
    tell(events, known).await;

    let mut wanted: BTreeMap<Arc<str>, Wanted> = BTreeMap::new();
    for stream in &streams {
        let topic = Wanted { source: stream.partition.0.clone(), partitions: stream.partitions };
        wanted.insert(stream.region_topic.clone(), topic);
    }
    let refused = topics::ensure(local, region, &wanted).await?;

    let mut outcomes: Vec<(usize, Started)> = Vec::new();
    let mut fresh: Vec<(&Starting, Position)> = Vec::new();
    for stream in &streams {
        match (refused.get(&stream.region_topic), positions.get(&stream.stream)) {
            (Some(reason), _) => outcomes.push((stream.stream, Started::Stalled(reason.clone()))),
            (None, None) => outcomes.push((stream.stream, later_or_stalled(denied.get(&stream.stream)))),
            (None, Some((position, true))) => {
                let forwarded =
                    committed.get(&stream.partition).and_then(|commit| commit.as_ref().ok()?.forwarded.clone());
                let ready = Started::Ready { position: *position, never_wrote: false, unproven: false, forwarded };
                outcomes.push((stream.stream, ready));
            }
            (None, Some((position, false))) => fresh.push((stream, *position)),
        }
    }
    let later = |outcomes: &[(usize, Started)]| outcomes.iter().any(|(_, outcome)| *outcome == Started::Later);
    let mut tried_again = later(&outcomes);
    tell(events, outcomes).await;
    let new: Vec<usize> = fresh.iter().map(|(stream, _)| stream.stream).collect();
    let begun = match begin(local, region, keeping, fresh).await {
        Ok(begun) => begun,
        Err(error) => failed(region, &error, new).collect(),
    };
    tried_again |= later(&begun);
    tell(events, begun).await;
    Ok(tried_again)
}

fn later_or_stalled(denied: Option<&String>) -> Started {
    denied.map_or(Started::Later, |reason| Started::Stalled(reason.clone()))
}

/// The position of each stream that has one, or where it would begin; and whether it was committed. And why it can't be told, where a right is missing.
async fn local_positions(
    local: &Arc<Cluster>,
    streams: &[Starting],
    committed: &BTreeMap<Partition, Committed>,
) -> (BTreeMap<usize, (Position, bool)>, BTreeMap<usize, String>) {
    let mut positions = BTreeMap::new();
    let mut denied = BTreeMap::new();
    let mut unknown = Vec::new();
    let mirrored_before: BTreeSet<&Arc<str>> = committed.keys().map(|(topic, _)| topic).collect();
    for stream in streams {
        match committed.get(&stream.partition) {
            Some(Ok(commit)) if commit.position.topic_id == stream.topic_id => {
                positions.insert(stream.stream, (commit.position, true));
            }
            other => {
                if let Some(Err(error)) = other {
                    tracing::warn!(topic = %stream.partition.0, partition = stream.partition.1, %error,
                        "ignoring a committed offset that is not diffluent's; another tool uses this consumer group");
                }
                unknown.push(stream);
            }
        }
    }
    for which in [Which::Start, Which::End] {
        let group: Vec<&Starting> = unknown
            .iter()
            .copied()
            .filter(|stream| {
                // A new partition, or a topic made anew, begins at its beginning, whatever is configured.
                let latest = stream.start == Start::Latest && !mirrored_before.contains(&stream.partition.0);
                latest == (which == Which::End)
            })
            .collect();
        let partitions: Vec<Partition> = group.iter().map(|stream| stream.partition.clone()).collect();
        let offsets = list_all(local, &partitions, which).await;
        for stream in group {
            match offsets.get(&stream.partition) {
                Some(Ok(offset)) => {
                    let position = Position {
                        source_offset: offset.offset,
                        source_leader_epoch: -1,
                        producer_epoch: 0,
                        sequence: 0,
                        region_offset: 0,
                        region_leader_epoch: -1,
                        topic_id: stream.topic_id,
                        region_topic_id: Uuid::nil(),
                        handed_out_id: None,
                        toll: Toll::default(),
                    };
                    positions.insert(stream.stream, (position, false));
                }
                Some(Err(code)) => {
                    let denial = local.denied(*code, Right::topic(Operation::Read, &stream.partition.0));
                    denied.extend(denial.map(|denial| (stream.stream, denial.to_string())));
                }
                None => {}
            }
        }
    }
    (positions, denied)
}

/// Begins streams that never ran: their first position is committed before their first batch is sent.
async fn begin(
    local: &Arc<Cluster>,
    region: &Arc<Cluster>,
    keeping: &Keeping,
    streams: Vec<(&Starting, Position)>,
) -> Result<Vec<(usize, Started)>, ClientError> {
    if streams.is_empty() {
        return Ok(Vec::new());
    }
    let there = |stream: &Starting| (stream.region_topic.clone(), stream.partition.1);
    let partitions: Vec<Partition> = streams.iter().map(|(stream, _)| there(stream)).collect();
    let mut ends = list_all(region, &partitions, Which::End).await;
    // A broker hears a moment later that it leads a new topic. As no member this proxy may not have the time for another try.
    let until = Instant::now() + NEW_LEADERS_WITHIN;
    let is_new = |end: &Result<LogOffset, i16>| {
        let passing = error_code::UNKNOWN_TOPIC_OR_PARTITION..=error_code::NOT_LEADER_OR_FOLLOWER;
        end.is_err_and(|code| passing.contains(&code))
    };
    while keeping.pass == Pass::Alone && ends.values().any(is_new) && Instant::now() < until {
        sleep(NEW_LEADERS_LOOK).await;
        region.refresh().await?;
        ends = list_all(region, &partitions, Which::End).await;
    }
    let wrote = who_wrote(region, &streams, &ends).await?;
    // Another proxy may have begun them since the progress was read: it commits before it writes.
    let written = streams.iter().filter(|(stream, _)| matches!(wrote.get(&stream.stream), Some(Wrote::Yes)));
    let written: Vec<Partition> = written.map(|(stream, _)| stream.partition.clone()).collect();
    let begun = if written.is_empty() { BTreeMap::new() } else { keeping.progress.load(&written).await? };
    let mut denied: BTreeMap<usize, String> = BTreeMap::new();
    for (stream, _) in &streams {
        if let Some(Err(code)) = ends.get(&there(stream)) {
            let denial = region.denied(*code, Right::topic(Operation::Read, &stream.region_topic));
            denied.extend(denial.map(|denial| (stream.stream, denial.to_string())));
        }
    }
    let metadata = region.metadata();
    let mut outcomes = Vec::new();
    let mut commits = Vec::new();
    let starting: BTreeMap<usize, Partition> =
        streams.iter().map(|(stream, _)| (stream.stream, stream.partition.clone())).collect();
    for (stream, position) in streams {
        if let Some(reason) = denied.get(&stream.stream) {
            outcomes.push((stream.stream, Started::Stalled(reason.clone())));
            continue;
        }
        let begun = begun.get(&stream.partition).and_then(|commit| commit.as_ref().ok());
        if let Some(Commit { position, forwarded }) = begun.filter(|begun| begun.position.topic_id == stream.topic_id) {
            let (position, forwarded) = (*position, forwarded.clone());
            let ready = Started::Ready { position, never_wrote: false, unproven: false, forwarded };
            outcomes.push((stream.stream, ready));
            continue;
        }
        match (wrote.get(&stream.stream), ends.get(&there(stream))) {
            (Some(Wrote::Refused(reason)), _) => outcomes.push((stream.stream, Started::Stalled(reason.clone()))),
            (Some(Wrote::Yes), _) => {
                tracing::warn!(region = %region.name(), topic = %stream.partition.0, partition = stream.partition.1,
                    "the region holds records of this stream, but its progress is gone from the local cluster (group diffluent.{}): starting \
                     over would repeat them; its last batch is looked for in both logs", region.name());
                outcomes.push((
                    stream.stream,
                    Started::Ready { position, never_wrote: false, unproven: true, forwarded: None },
                ));
            }
            (Some(Wrote::No), Some(Ok(end))) => {
                let position = Position {
                    region_offset: end.offset,
                    region_leader_epoch: end.leader_epoch,
                    region_topic_id: metadata.topic_id(&stream.region_topic),
                    ..position
                };
                let commit = Commit { position, forwarded: stream.forwards.then(BTreeMap::new) };
                commits.push((stream.partition.clone(), commit));
                let ready = Started::Ready { position, never_wrote: true, unproven: false, forwarded: None };
                outcomes.push((stream.stream, ready));
            }
            _ => outcomes.push((stream.stream, Started::Later)),
        }
    }
    let Keeping { progress, pass, ownership } = keeping;
    let refused = progress.commit(&commits, pass).await?;
    for (stream, outcome) in &mut outcomes {
        let Some(partition) = starting.get(stream) else { continue };
        if let Some(code) = refused.get(partition) {
            // If no right is missing, it is usually a topic that was deleted in this moment.
            let denial = local.denied(*code, Right::topic(Operation::Read, &partition.0));
            *outcome = later_or_stalled(denial.map(|denial| denial.to_string()).as_ref());
        }
    }
    if *pass == Pass::Alone {
        ownership.first_positions_done();
        let Some(first) = commits.iter().find(|(partition, _)| !refused.contains_key(partition)) else {
            return Ok(outcomes);
        };
        if !door_closed(keeping, first).await {
            return Ok(outcomes.into_iter().map(|(stream, _)| (stream, Started::Later)).collect());
        }
        // Another proxy may have started at the same moment: what counts is what is there, for both.
        let partitions: Vec<Partition> = commits.iter().map(|(partition, _)| partition.clone()).collect();
        let valid = progress.load(&partitions).await?;
        for (stream, outcome) in &mut outcomes {
            let Started::Ready { position, never_wrote, .. } = outcome else { continue };
            match starting.get(stream).and_then(|partition| valid.get(partition)) {
                Some(Ok(read)) if read.position == *position => {}
                Some(Ok(read)) if *never_wrote && read.position.topic_id == position.topic_id => {
                    *outcome = Started::Ready {
                        position: read.position,
                        never_wrote: false,
                        unproven: false,
                        forwarded: read.forwarded.clone(),
                    };
                }
                _ if *never_wrote => *outcome = Started::Later,
                _ => {}
            }
        }
    }
    Ok(outcomes)
}

/// Waits until nobody can commit a first position as [`Pass::Alone`] any more: then those that are there are valid, whoever has written them. It is asked by committing `first`, one
/// of our own, once more. `false` if this proxy takes no part any more.
async fn door_closed(keeping: &Keeping, first: &(Partition, Commit)) -> bool {
    let mut standing = keeping.ownership.watch();
    let mut pause = DOOR_PAUSE;
    loop {
        let pass = standing.borrow_and_update().pass.clone();
        if pass != Pass::Alone {
            return pass != Pass::Nobody;
        }
        let again = keeping.progress.commit(std::slice::from_ref(first), &pass).await;
        // Anything else: it is open still, or it can't be told at the moment.
        if matches!(again, Err(ClientError::Refused { code: error_code::UNKNOWN_MEMBER_ID, .. })) {
            return true;
        }
        // Until then, unless this proxy becomes a member: nobody is left to tell it otherwise.
        let _ = timeout(pause, standing.changed()).await;
        pause = (pause * 2).min(DOOR_PAUSE_MAX);
    }
}

/// Whether a stream without progress has written to the region before.
enum Wrote {
    Yes,
    No,
    /// It can't be found out, and a person must help.
    Refused(String),
}

/// Finds out which streams have written before: the region's brokers know their producer ids, or their batches lie at the end of the region's log. A broker
/// forgets producers by the age of their records, so that it does not know one proves nothing. Streams about which nothing can be said now are missing.
async fn who_wrote(
    region: &Arc<Cluster>,
    streams: &[(&Starting, Position)],
    ends: &BTreeMap<Partition, Result<LogOffset, i16>>,
) -> Result<BTreeMap<usize, Wrote>, ClientError> {
    let by_partition: BTreeMap<Partition, &Starting> =
        streams.iter().map(|(stream, _)| ((stream.region_topic.clone(), stream.partition.1), *stream)).collect();
    let mut wrote = BTreeMap::new();
    // Nothing was ever written to a log that ends at 0: usually it was made a moment ago.
    let mut unknown: VecDeque<(i32, &Partition, usize)> = VecDeque::new();
    for (leader, partitions) in by_leader(&region.metadata(), by_partition.keys()) {
        let (empty, filled): (Vec<&Partition>, Vec<&Partition>) = partitions
            .into_iter()
            .partition(|partition| matches!(ends.get(*partition), Some(Ok(end)) if end.offset == 0));
        wrote.extend(empty.into_iter().filter_map(|partition| Some((by_partition.get(partition)?.stream, Wrote::No))));
        if filled.is_empty() {
            continue;
        }
        let known = match own_producers(region, leader, &filled, &by_partition).await {
            Ok(known) => known,
            // The whole log tells.
            Err(ClientError::Unsupported { .. }) => {
                unknown.extend(filled.into_iter().map(|partition| (leader, partition, SEARCH_BYTES_MAX)));
                continue;
            }
            Err(error) => return Err(error),
        };
        for partition in filled {
            let Some(stream) = by_partition.get(partition) else { continue };
            match known.get(partition) {
                Some(Ok(true)) => {
                    wrote.insert(stream.stream, Wrote::Yes);
                }
                Some(Ok(false)) => unknown.push_back((leader, partition, FORGOTTEN_BYTES)),
                Some(Err(error_code::TOPIC_AUTHORIZATION_FAILED)) => {
                    let reason = format!(
                        "it can't be found out whether the stream has written to topic {} in the region before: {}; allow diffluent's principal \
                         to read the topic there (kafka-acls --operation Read)",
                        partition.0,
                        error_code::describe(error_code::TOPIC_AUTHORIZATION_FAILED)
                    );
                    wrote.insert(stream.stream, Wrote::Refused(reason));
                }
                // Somebody else leads now, or nobody yet.
                _ => {}
            }
        }
    }
    let mut searches = JoinSet::new();
    loop {
        while searches.len() < SEARCHES_AT_ONCE
            && let Some((leader, partition, bytes_max)) = unknown.pop_front()
        {
            let Some(stream) = by_partition.get(partition) else { continue };
            let (region, partition) = (region.clone(), partition.clone());
            let (stream, producer_id) = (stream.stream, stream.producer_id);
            searches.spawn(async move {
                (stream, retrace::has_written(&region, leader, &partition, producer_id, bytes_max).await)
            });
        }
        match searches.join_next().await {
            None => return Ok(wrote),
            Some(Ok((stream, Ok(Some(true))))) => wrote.insert(stream, Wrote::Yes),
            Some(Ok((stream, Ok(Some(false))))) => wrote.insert(stream, Wrote::No),
            Some(Ok((_, Ok(None)))) | Some(Err(_)) => continue,
            Some(Ok((_, Err(error)))) => return Err(error),
        };
    }
}

/// Asks one of the region's brokers whether it knows the streams' producer ids, by partition; or the error code.
async fn own_producers(
    region: &Cluster,
    leader: i32,
    partitions: &[&Partition],
    by_partition: &BTreeMap<Partition, &Starting>,
) -> Result<BTreeMap<Partition, Result<bool, i16>>, ClientError> {
    let mut topics: BTreeMap<&Arc<str>, Vec<i32>> = BTreeMap::new();
    for (topic, partition) in partitions {
        topics.entry(topic).or_default().push(*partition);
    }
    let topics = topics
        .into_iter()
        .map(|(topic, partitions)| TopicRequest::default().with_name(name(topic)).with_partition_indexes(partitions));
    let request = DescribeProducersRequest::default().with_topics(topics.collect());
    let mut known = BTreeMap::new();
    for topic in region.call(leader, &request).await?.topics {
        let topic_name: Arc<str> = Arc::from(topic.name.as_str());
        for partition in topic.partitions {
            let key = (topic_name.clone(), partition.partition_index);
            let Some(stream) = by_partition.get(&key) else { continue };
            let is_known =
                partition.active_producers.iter().any(|producer| producer.producer_id.0 == stream.producer_id);
            known.insert(key, if partition.error_code == 0 { Ok(is_known) } else { Err(partition.error_code) });
        }
    }
    Ok(known)
}

async fn tell(events: &mpsc::Sender<Event>, outcomes: impl IntoIterator<Item = (usize, Started)>) {
    // The region may be gone: then nobody is interested any more.
    let _ = events.send(Event::Started(outcomes.into_iter().collect())).await;
}
