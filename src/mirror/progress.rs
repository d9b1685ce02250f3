//! How far each stream got, kept in the local cluster as ordinary consumer-group offsets (promise P5: nothing to back up).
//!
//! The group is `diffluent.<region>`. The committed offset is the first source offset that the region has not acknowledged, so every
//! tool that shows consumer lag shows replication lag. The rest of the position is in the commit's metadata:
//!
//! ```text
//! diffluent/1 epoch=0 sequence=1200 region_offset=5100 region_leader_epoch=4 topic_id=<uuid>
//! [region_topic_id=<uuid>] [producer_id=9] [lost=7] [diverged=2] [skipped=1]
//! ```
//!
//! Where records that were born elsewhere are forwarded, several streams share the partition and the commit. The committed offset is the lowest of theirs:
//!
//! ```text
//! diffluent/2 (as above) ahead=12 forward=<producer id, hex>:<ahead>:<epoch>:<sequence>:<region offset>:<region leader epoch>:<source leader
//! epoch>[:<lost>:<diverged>:<skipped>],...
//! ```
//!
//! # References
//! OffsetCommit and OffsetFetch: the protocol guide. A commit without a member is allowed while the group has none; otherwise it carries a member's generation, and
//! is refused if that is not the group's.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::{FindCoordinatorRequest, GroupId, OffsetCommitRequest, OffsetFetchRequest};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::offsets::name;
use super::ownership::Pass;
use crate::client::ClientError;
use crate::client::apis::Call;
use crate::client::cluster::Cluster;
use crate::client::error_code;
use crate::client::rights::{Operation, Right};

/// One OffsetCommit carries at most so many partitions: a broker writes it as one batch that must stay under 1 MB.
const COMMIT_PARTITIONS_MAX: usize = 2_000;
/// And no further one behind so many bytes of metadata.
const COMMIT_BYTES_MAX: usize = 400_000;

/// Where a stream stands: everything before it is acknowledged by the region's in-sync replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The first source offset that the region may not have.
    pub source_offset: i64,
    /// Leader epoch of the source under which that is true; -1 when unknown.
    pub source_leader_epoch: i32,
    /// The incarnation: the producer epoch that the stream writes with.
    pub producer_epoch: i16,
    /// The sequence that the record at `source_offset` will get.
    pub sequence: i32,
    /// The region's offset behind the last acknowledged batch: from here on the region's log is searched after a failure.
    pub region_offset: i64,
    /// Leader epoch of the region's partition at that time; -1 when unknown.
    pub region_leader_epoch: i32,
    /// The source topic's id: another one means another topic of the same name.
    pub topic_id: Uuid,
    /// The id of the region's topic when the stream first wrote there; nil where it is not known. Another one means that it was deleted and made anew.
    pub region_topic_id: Uuid,
    /// The producer id that the region has handed out, where its brokers refuse the stream's own.
    pub handed_out_id: Option<i64>,
    /// What the region never gets, or has and should not.
    pub toll: Toll,
}

/// What has gone wrong for good with a stream since it first began. It travels with the position, so that no restart forgets it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Toll {
    /// Source offsets that the region never gets, because the local log no longer had them.
    pub lost_records: u64,
    /// Records that the region has and the local log has lost, in an unclean leader election.
    pub diverged_records: u64,
    /// Records that an operator stepped over.
    pub skipped_records: u64,
}

/// What is committed for a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Where the stream of what was born here stands.
    pub position: Position,
    /// Where those stand that forward what was born elsewhere, by the producer id that it bears in the local log; `None` if nothing was forwarded at that
    /// time. All of an origin's batches before `position` that are not in the region have a stream here. An epoch of -1: the region's
    /// row of the origin is not known.
    pub forwarded: Option<BTreeMap<i64, Position>>,
}

impl From<Position> for Commit {
    fn from(position: Position) -> Self {
        Self { position, forwarded: None }
    }
}

/// The metadata of a commit that diffluent did not write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the committed metadata {0:?} is not diffluent's")]
pub struct ForeignMetadata(String);

/// The part of a [`Commit`] that goes into the metadata.
struct Details<'a>(&'a Commit);

impl fmt::Display for Details<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Commit { position, forwarded } = self.0;
        let Position {
            producer_epoch,
            sequence,
            region_offset,
            region_leader_epoch,
            topic_id,
            region_topic_id,
            handed_out_id,
            toll,
            ..
        } = position;
        write!(
            f,
            "diffluent/{} epoch={producer_epoch} sequence={sequence} region_offset={region_offset} \
             region_leader_epoch={region_leader_epoch} topic_id={topic_id}",
            if forwarded.is_some() { 2 } else { 1 }
        )?;
        if !region_topic_id.is_nil() {
            write!(f, " region_topic_id={}", region_topic_id.simple())?;
        }
        handed_out_id.map_or(Ok(()), |id| write!(f, " producer_id={id}"))?;
        let tolls =
            [("lost", toll.lost_records), ("diverged", toll.diverged_records), ("skipped", toll.skipped_records)];
        tolls
            .iter()
            .filter(|(_, records)| *records > 0)
            .try_for_each(|(name, records)| write!(f, " {name}={records}"))?;
        let Some(forwarded) = forwarded else { return Ok(()) };
        let committed = self.0.source_offset();
        write!(f, " ahead={} forward=", position.source_offset - committed)?;
        for (index, (producer_id, position)) in forwarded.iter().enumerate() {
            let Position { producer_epoch, sequence, region_offset, region_leader_epoch, toll, .. } = position;
            let (ahead, source_leader_epoch) = (position.source_offset - committed, position.source_leader_epoch);
            write!(
                f,
                "{}{producer_id:x}:{ahead}:{producer_epoch}:{sequence}:{region_offset}:{region_leader_epoch}:{source_leader_epoch}",
                if index > 0 { "," } else { "" }
            )?;
            if *toll != Toll::default() {
                write!(f, ":{}:{}:{}", toll.lost_records, toll.diverged_records, toll.skipped_records)?;
            }
        }
        Ok(())
    }
}

impl Commit {
    /// The offset that is committed: the first source offset that the region may not have, whatever was born there.
    pub fn source_offset(&self) -> i64 {
        let forwarded = self.forwarded.iter().flat_map(BTreeMap::values);
        forwarded.map(|position| position.source_offset).fold(self.position.source_offset, i64::min)
    }

    /// Puts together what a commit holds.
    ///
    /// # Errors
    /// [`ForeignMetadata`] unless it was written by [`Progress::commit`].
    pub fn read(offset: i64, leader_epoch: i32, metadata: &str) -> Result<Self, ForeignMetadata> {
        let foreign = || ForeignMetadata(metadata.chars().take(200).collect());
        let (version, fields) = metadata.split_once(' ').ok_or_else(foreign)?;
        let forwards = match version {
            "diffluent/1" => false,
            "diffluent/2" => true,
            _ => return Err(foreign()),
        };
        let fields: HashMap<&str, &str> = fields.split(' ').filter_map(|field| field.split_once('=')).collect();
        fn field<T: FromStr>(fields: &HashMap<&str, &str>, name: &str) -> Option<T> {
            fields.get(name)?.parse().ok()
        }
        let read = || {
            let ahead: i64 = if forwards { field(&fields, "ahead").filter(|ahead| *ahead >= 0)? } else { 0 };
            let position = Position {
                source_offset: offset.checked_add(ahead)?,
                source_leader_epoch: leader_epoch,
                producer_epoch: field(&fields, "epoch").filter(|epoch| *epoch >= 0)?,
                sequence: field(&fields, "sequence").filter(|sequence| *sequence >= 0)?,
                region_offset: field(&fields, "region_offset").filter(|offset| *offset >= 0)?,
                region_leader_epoch: field(&fields, "region_leader_epoch")?,
                topic_id: field(&fields, "topic_id")?,
                region_topic_id: field(&fields, "region_topic_id").unwrap_or_default(),
                handed_out_id: field(&fields, "producer_id").filter(|id| *id >= 0),
                toll: Toll {
                    lost_records: field(&fields, "lost").unwrap_or(0),
                    diverged_records: field(&fields, "diverged").unwrap_or(0),
                    skipped_records: field(&fields, "skipped").unwrap_or(0),
                },
            };
            if !forwards {
                return Some(position.into());
            }
            let entries = fields.get("forward")?.split(',').filter(|entry| !entry.is_empty());
            let forwarded = entries.map(|entry| forwarded(entry, offset, &position)).collect::<Option<_>>()?;
            Some(Self { position, forwarded: Some(forwarded) })
        };
        read().ok_or_else(foreign)
    }
}

/// One entry of `forward=`.
fn forwarded(entry: &str, offset: i64, head: &Position) -> Option<(i64, Position)> {
    let mut fields = entry.split(':');
    let producer_id = i64::from_str_radix(fields.next()?, 16).ok()?;
    // Wide enough for each field.
    let mut next = || fields.next()?.parse::<i128>().ok();
    let ahead = next().and_then(|ahead| i64::try_from(ahead).ok()).filter(|ahead| *ahead >= 0)?;
    let position = Position {
        source_offset: offset.checked_add(ahead)?,
        producer_epoch: i16::try_from(next()?).ok().filter(|epoch| *epoch >= -1)?,
        sequence: i32::try_from(next()?).ok().filter(|sequence| *sequence >= 0)?,
        region_offset: i64::try_from(next()?).ok().filter(|offset| *offset >= 0)?,
        region_leader_epoch: i32::try_from(next()?).ok()?,
        source_leader_epoch: i32::try_from(next()?).ok()?,
        topic_id: head.topic_id,
        region_topic_id: head.region_topic_id,
        handed_out_id: None,
        toll: Toll::default(),
    };
    let mut records = || next().and_then(|records| u64::try_from(records).ok()).unwrap_or(0);
    let toll = Toll { lost_records: records(), diverged_records: records(), skipped_records: records() };
    Some((producer_id, Position { toll, ..position }))
}

/// A partition of a local topic.
pub type Partition = (Arc<str>, i32);

/// What a commit for a partition held.
pub type Committed = Result<Commit, ForeignMetadata>;

/// The progress of one region's streams.
#[derive(Debug)]
pub struct Progress {
    local: Arc<Cluster>,
    group: GroupId,
    coordinator: Mutex<Option<i32>>,
    /// Held by whoever looks for it, so that one question is asked for all.
    looks_for_coordinator: tokio::sync::Mutex<()>,
}

impl Progress {
    /// The progress of `region` in the local cluster.
    pub fn new(local: Arc<Cluster>, region: &str) -> Self {
        Self {
            local,
            group: GroupId(StrBytes::from_string(format!("diffluent.{region}"))),
            coordinator: Mutex::default(),
            looks_for_coordinator: tokio::sync::Mutex::default(),
        }
    }

    /// The group.
    pub(super) fn group(&self) -> &GroupId {
        &self.group
    }

    /// Reads the progress of partitions. Those without any are missing in the answer.
    ///
    /// # Errors
    /// Those of the calls; [`ClientError::Refused`] if the group can't be read.
    pub async fn load(&self, partitions: &[Partition]) -> Result<BTreeMap<Partition, Committed>, ClientError> {
        let mut topics: BTreeMap<&Arc<str>, Vec<i32>> = BTreeMap::new();
        for (topic, partition) in partitions {
            topics.entry(topic).or_default().push(*partition);
        }
        // Stable: with what was accepted and is still on its way to the coordinator's replicas. Otherwise Kafka 4 answers with what was before.
        let request = OffsetFetchRequest::default().with_group_id(self.group.clone()).with_require_stable(true);
        let request = request.with_topics(Some(
            topics
                .into_iter()
                .map(|(topic, partitions)| {
                    OffsetFetchRequestTopic::default().with_name(name(topic)).with_partition_indexes(partitions)
                })
                .collect(),
        ));
        let answer = self.ask_coordinator(&request).await?;
        if answer.error_code != 0 {
            self.forget_coordinator();
            return Err(self.refused("read", answer.error_code));
        }
        let mut loaded = BTreeMap::new();
        for topic in answer.topics {
            let topic_name: Arc<str> = Arc::from(topic.name.as_str());
            for partition in topic.partitions {
                if partition.error_code != 0 {
                    let right = Right::topic(Operation::Describe, &topic_name);
                    let what = format!("cannot read the progress of topic {topic_name}");
                    return Err(self.local.refused(what, partition.error_code, right));
                }
                if partition.committed_offset >= 0 {
                    let metadata = partition.metadata.as_deref().unwrap_or_default();
                    let commit = Commit::read(partition.committed_offset, partition.committed_leader_epoch, metadata);
                    loaded.insert((topic_name.clone(), partition.partition_index), commit);
                }
            }
        }
        Ok(loaded)
    }

    /// Commits positions by `pass`. All are committed but those that are given back, with their error codes: their topics were deleted, for instance.
    ///
    /// # Errors
    /// Those of the calls; [`ClientError::Refused`] when a whole request was refused, or there is no pass. Some of the positions may be committed then.
    pub async fn commit(
        &self,
        commits: &[(Partition, Commit)],
        pass: &Pass,
    ) -> Result<HashMap<Partition, i16>, ClientError> {
        let mut refused = HashMap::new();
        let mut chunk = Vec::new();
        let mut bytes = 0;
        for (partition, commit) in commits {
            let details = Details(commit).to_string();
            bytes += details.len();
            chunk.push((partition, commit, details));
            if chunk.len() >= COMMIT_PARTITIONS_MAX || bytes >= COMMIT_BYTES_MAX {
                refused.extend(self.commit_chunk(std::mem::take(&mut chunk), pass).await?);
                bytes = 0;
            }
        }
        if !chunk.is_empty() {
            refused.extend(self.commit_chunk(chunk, pass).await?);
        }
        Ok(refused)
    }

    async fn commit_chunk(
        &self,
        commits: Vec<(&Partition, &Commit, String)>,
        pass: &Pass,
    ) -> Result<HashMap<Partition, i16>, ClientError> {
        let asked = commits.len();
        let as_whom = OffsetCommitRequest::default().with_group_id(self.group.clone());
        let as_whom = match pass {
            Pass::Member { generation, member_id, instance } => {
                let text = |text: &Arc<str>| StrBytes::from_string(text.to_string());
                as_whom
                    .with_generation_id_or_member_epoch(*generation)
                    .with_member_id(text(member_id))
                    .with_group_instance_id(instance.as_ref().map(text))
            }
            Pass::Alone => as_whom.with_generation_id_or_member_epoch(-1),
            Pass::Nobody | Pass::Waiting => return Err(self.refused("commit", error_code::REBALANCE_IN_PROGRESS)),
        };
        let mut topics: BTreeMap<&Arc<str>, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
        for ((topic, partition), commit, details) in commits {
            topics.entry(topic).or_default().push(
                OffsetCommitRequestPartition::default()
                    .with_partition_index(*partition)
                    .with_committed_offset(commit.source_offset())
                    .with_committed_leader_epoch(commit.position.source_leader_epoch)
                    .with_committed_metadata(Some(StrBytes::from_string(details))),
            );
        }
        let request = as_whom.with_topics(
            topics
                .into_iter()
                .map(|(topic, partitions)| {
                    OffsetCommitRequestTopic::default().with_name(name(topic)).with_partitions(partitions)
                })
                .collect(),
        );
        let answer = self.ask_coordinator(&request).await?;
        let refused: HashMap<Partition, i16> = (answer.topics.iter())
            .flat_map(|topic| topic.partitions.iter().map(|partition| (topic.name.as_str(), partition)))
            .filter(|(_, partition)| partition.error_code != 0)
            .map(|(topic, partition)| ((Arc::from(topic), partition.partition_index), partition.error_code))
            .collect();
        match refused.values().next() {
            // A coordinator that refuses says so for each partition; what it says of topics, the topics' rights are to blame for.
            Some(code) if refused.len() == asked && *code != error_code::TOPIC_AUTHORIZATION_FAILED => {
                self.forget_coordinator();
                Err(self.refused("commit", *code))
            }
            _ => Ok(refused),
        }
    }

    async fn ask_coordinator<C: Call>(&self, request: &C) -> Result<C::Answer, ClientError> {
        let coordinator = self.coordinator().await?;
        let answer = self.local.call(coordinator, request).await;
        if answer.is_err() {
            self.forget_coordinator();
        }
        answer
    }

    /// The broker that coordinates the group.
    pub(super) async fn coordinator(&self) -> Result<i32, ClientError> {
        if let Some(node_id) = *self.known_coordinator() {
            return Ok(node_id);
        }
        let _looks = self.looks_for_coordinator.lock().await;
        if let Some(node_id) = *self.known_coordinator() {
            return Ok(node_id);
        }
        let request = FindCoordinatorRequest::default().with_key(self.group.0.clone());
        let answer = self.local.call_any(&request).await?;
        if answer.error_code != 0 {
            return Err(self.refused("find the coordinator of", answer.error_code));
        }
        if !self.local.metadata().brokers.contains_key(&answer.node_id.0) {
            self.local.refresh().await?;
        }
        *self.known_coordinator() = Some(answer.node_id.0);
        Ok(answer.node_id.0)
    }

    /// It is asked for anew next time.
    pub(super) fn forget_coordinator(&self) {
        *self.known_coordinator() = None;
    }

    fn known_coordinator(&self) -> MutexGuard<'_, Option<i32>> {
        self.coordinator.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refused(&self, what: &str, code: i16) -> ClientError {
        let group = self.group.0.as_str();
        self.local.refused(format!("cannot {what} group {group}"), code, Right::group(Operation::Read, group))
    }
}

/// Whether an error on progress is the coordinator's moving or waking up, or the group's getting a new generation: no more than a matter of waiting.
pub fn is_passing(error: &ClientError) -> bool {
    match error {
        ClientError::Refused { code, .. } => matches!(
            *code,
            error_code::COORDINATOR_LOAD_IN_PROGRESS
                | error_code::COORDINATOR_NOT_AVAILABLE
                | error_code::NOT_COORDINATOR
                | error_code::REQUEST_TIMED_OUT
                | error_code::ILLEGAL_GENERATION
                | error_code::UNKNOWN_MEMBER_ID
                | error_code::REBALANCE_IN_PROGRESS
                | error_code::FENCED_INSTANCE_ID
                | error_code::UNSTABLE_OFFSET_COMMIT
                | error_code::UNKNOWN_TOPIC_OR_PARTITION
        ),
        ClientError::Unsupported { .. }
        | ClientError::Unreadable { .. }
        | ClientError::Login { .. }
        | ClientError::Denied(_) => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position() -> Position {
        Position {
            source_offset: 99,
            source_leader_epoch: 3,
            producer_epoch: 1,
            sequence: i32::MAX,
            region_offset: 5_100,
            region_leader_epoch: -1,
            topic_id: Uuid::from_u128(7),
            region_topic_id: Uuid::from_u128(7),
            handed_out_id: None,
            toll: Toll::default(),
        }
    }

    fn read_back(commit: &Commit) -> Result<Commit, ForeignMetadata> {
        Commit::read(commit.source_offset(), commit.position.source_leader_epoch, &Details(commit).to_string())
    }

    #[test]
    fn a_position_comes_back_as_it_was_committed() {
        let commit = Commit::from(position());
        assert_eq!(read_back(&commit), Ok(commit.clone()));
        let toll = Toll { lost_records: 3, diverged_records: 0, skipped_records: u64::MAX };
        let harmed = Commit::from(Position { toll, ..position() });
        assert_eq!(read_back(&harmed), Ok(harmed.clone()));
        let fallen_back = Commit::from(Position { handed_out_id: Some(1_000), ..position() });
        assert_eq!(read_back(&fallen_back), Ok(fallen_back.clone()));
        let metadata = Details(&commit).to_string();
        assert!(
            metadata.len() * COMMIT_PARTITIONS_MAX < COMMIT_BYTES_MAX,
            "{} bytes: a commit has room for less",
            metadata.len()
        );
    }

    #[test]
    fn positions_of_what_was_born_elsewhere_come_back_and_the_lowest_one_is_committed() {
        let mut commit = Commit { position: position(), forwarded: Some(BTreeMap::new()) };
        assert_eq!(read_back(&commit), Ok(commit.clone()), "forwarding, and nothing to forward yet");
        let toll = Toll { lost_records: 0, diverged_records: 9, skipped_records: u64::MAX };
        commit.forwarded = Some(BTreeMap::from([
            (1 << 62 | 5, Position { source_offset: 7, producer_epoch: -1, sequence: 0, toll, ..position() }),
            (i64::MAX, Position { source_offset: 200, region_leader_epoch: 4, ..position() }),
        ]));
        assert_eq!(commit.source_offset(), 7);
        assert_eq!(read_back(&commit), Ok(commit.clone()));
        let one = Details(&commit).to_string().len() / 3;
        assert!(one * 20 < 4_096, "{one} bytes: a commit's metadata has room for 20 origins");
    }

    #[test]
    fn a_position_of_somebody_else_is_not_taken_for_ours() {
        for metadata in ["", "something", "diffluent/3 epoch=0", "diffluent/1 epoch=-1 sequence=0"] {
            assert!(Commit::read(0, 0, metadata).is_err(), "{metadata:?}");
        }
        let forwards = "diffluent/2 epoch=0 sequence=0 region_offset=0 region_leader_epoch=0 topic_id=00000000-0000-0000-0000-000000000000 ahead=0";
        assert!(Commit::read(0, 0, &format!("{forwards} forward=")).is_ok());
        for broken in ["", " forward=x", " forward=4000000000000005:0:0", " forward=4000000000000005:-1:0:0:0:0:0"] {
            assert!(Commit::read(0, 0, &format!("{forwards}{broken}")).is_err(), "{broken:?}");
        }
    }
}
