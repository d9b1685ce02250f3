//! What is compared: the streams of a region, each between where its logs begin and the position that is committed now.
//!
//! A committed position says: what the source has before [`Position::source_offset`], the region has before [`Position::region_offset`]. So both
//! sides can be compared while they go on, as long as nothing behind these two is looked at.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::report::Unknown;
use crate::client::ClientError;
use crate::client::cluster::{Cluster, Metadata};
use crate::client::error_code;
use crate::client::rights::Operation;
use crate::config::{Region, Start, TopicPattern};
use crate::mirror::offsets::{LogOffset, Which, list_all};
use crate::mirror::progress::{Committed, Partition, Position, Progress, is_passing};
use crate::mirror::topic_list::{MirroredTopic, mirrored_topics};
use crate::mirror::topics::hidden_reason;

/// How long a coordinator may need to wake up.
const PROGRESS_PATIENCE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(200);

/// A stream whose two logs can be compared.
#[derive(Clone, Debug)]
pub struct Stream {
    /// The topic's name in the local cluster.
    pub topic: Arc<str>,
    /// Its name in the region.
    pub topic_in_region: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The reserved producer id that its batches bear in the region.
    pub producer_id: i64,
    /// What is committed.
    pub position: Position,
    /// Whether a stream that never ran begins at the log's end.
    pub begins_late: bool,
    /// First offset of the source's log.
    pub source_start: i64,
    /// The source's high watermark.
    pub source_end: i64,
    /// First offset of the region's log.
    pub region_start: i64,
    /// The region's high watermark.
    pub region_end: i64,
}

impl Stream {
    /// The source's offset behind the last one that is compared.
    pub fn source_to(&self) -> i64 {
        self.position.source_offset.min(self.source_end)
    }

    /// The region's offset behind the last one that is compared.
    pub fn region_to(&self) -> i64 {
        self.position.region_offset.min(self.region_end)
    }
}

/// A partition, with what can be compared, or why nothing can.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The topic's name in the local cluster.
    pub topic: Arc<str>,
    /// Its name in the region.
    pub topic_in_region: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The stream.
    pub stream: Result<Stream, Unknown>,
}

/// The streams of `region`, of the topics that it gets and that `only` (if given) names.
///
/// # Errors
/// Why nothing can be said about the region at all.
pub async fn plan(
    local: &Arc<Cluster>,
    there: &Arc<Cluster>,
    region: &Region,
    origin: &str,
    only: Option<&TopicPattern>,
) -> Result<Vec<Planned>, Unknown> {
    let metadata = local.refresh().await.map_err(|error| unreachable(&error))?;
    let mut topics = mirrored_topics(&metadata, region, origin);
    topics.retain(|topic| only.is_none_or(|only| only.matches(&topic.name)));
    let partitions: Vec<Partition> =
        topics.iter().flat_map(|topic| (0..topic.partitions).map(|number| (topic.name.clone(), number))).collect();
    let committed = progress(local, &region.name, &partitions).await?;
    there.expect(topics.iter().map(|topic| topic.name_in_region.clone()));
    let metadata_there = there.refresh().await.map_err(|error| unreachable(&error))?;
    let in_region: Vec<Partition> = (topics.iter())
        .flat_map(|topic| (0..topic.partitions).map(|number| (topic.name_in_region.clone(), number)))
        .filter(|(topic, number)| has(&metadata_there, topic, *number))
        .collect();
    let ends = Ends {
        source_start: list_all(local, &partitions, Which::Start).await,
        source_end: list_all(local, &partitions, Which::End).await,
        region_start: list_all(there, &in_region, Which::Start).await,
        region_end: list_all(there, &in_region, Which::End).await,
    };
    let mut planned = Vec::with_capacity(partitions.len());
    for topic in &topics {
        for partition in 0..topic.partitions {
            let stream = match metadata_there.hidden.contains(&topic.name_in_region) {
                true => Err(hidden(there, &topic.name_in_region)),
                false => stream(region, topic, partition, &metadata_there, &committed, &ends),
            };
            let (topic, topic_in_region) = (topic.name.clone(), topic.name_in_region.clone());
            planned.push(Planned { topic, topic_in_region, partition, stream });
        }
    }
    Ok(planned)
}

fn has(metadata: &Metadata, topic: &str, partition: i32) -> bool {
    metadata.topics.get(topic).is_some_and(|topic| topic.partitions.contains_key(&partition))
}

type Offsets = BTreeMap<Partition, Result<LogOffset, i16>>;

struct Ends {
    source_start: Offsets,
    source_end: Offsets,
    region_start: Offsets,
    region_end: Offsets,
}

fn stream(
    region: &Region,
    topic: &MirroredTopic,
    partition: i32,
    metadata_there: &Metadata,
    committed: &BTreeMap<Partition, Committed>,
    ends: &Ends,
) -> Result<Stream, Unknown> {
    let (here, there) = ((topic.name.clone(), partition), (topic.name_in_region.clone(), partition));
    let group = format!("diffluent.{}", region.name);
    let position = match committed.get(&here) {
        Some(Ok(commit)) if commit.position.topic_id == topic.id => commit.position,
        Some(Ok(_)) => {
            return Err(Unknown::new(
                "the committed progress is of an earlier topic of this name",
                "let diffluent run, so that it takes up the new topic, and verify again",
            ));
        }
        Some(Err(error)) => {
            return Err(Unknown::new(
                error.to_string(),
                format!("find out which other tool commits to the group {group}, and keep it away"),
            ));
        }
        None => {
            return Err(Unknown::new(
                format!("no progress is committed in the group {group}"),
                "let diffluent run with this configuration until the partition has progress (diffluent check, /lag)",
            ));
        }
    };
    if !has(metadata_there, &there.0, partition) {
        return Err(Unknown::new(
            format!("the region has no topic {} with this partition", there.0),
            "find out who deleted it; nothing of what was mirrored is there any more",
        ));
    }
    let offset = |offsets: &Offsets, key: &Partition, cluster: &str| match offsets.get(key) {
        Some(Ok(offset)) => Ok(offset.offset),
        Some(Err(code)) => Err(no_offsets(cluster, &error_code::describe(*code))),
        None => Err(no_offsets(cluster, "no answer")),
    };
    Ok(Stream {
        topic: topic.name.clone(),
        topic_in_region: topic.name_in_region.clone(),
        partition,
        producer_id: position.handed_out_id.unwrap_or(topic.producer_id),
        position,
        begins_late: region.start == Start::Latest,
        source_start: offset(&ends.source_start, &here, "local")?,
        source_end: offset(&ends.source_end, &here, "local")?,
        region_start: offset(&ends.region_start, &there, &region.name)?,
        region_end: offset(&ends.region_end, &there, &region.name)?,
    })
}

fn hidden(there: &Cluster, topic: &Arc<str>) -> Unknown {
    let reason = hidden_reason(there, topic, Operation::Read);
    let (what, advice) = reason.split_once("; ").unwrap_or((&reason, "see docs/security.md"));
    Unknown::new(what, advice)
}

fn no_offsets(cluster: &str, what: &str) -> Unknown {
    Unknown::new(
        format!("{cluster}: where the partition's log begins and ends can't be asked: {what}"),
        "verify again once the partition has a leader that answers",
    )
}

async fn progress(
    local: &Arc<Cluster>,
    region: &str,
    partitions: &[Partition],
) -> Result<BTreeMap<Partition, Committed>, Unknown> {
    let progress = Progress::new(local.clone(), region);
    let since = Instant::now();
    loop {
        match progress.load(partitions).await {
            Ok(committed) => return Ok(committed),
            Err(error) if is_passing(&error) && since.elapsed() < PROGRESS_PATIENCE => {
                tokio::time::sleep(RETRY).await;
            }
            Err(error) => {
                return Err(Unknown::new(
                    format!("the progress can't be read: {error}"),
                    format!(
                        "allow diffluent's principal to read the group diffluent.{region} (diffluent check says more)"
                    ),
                ));
            }
        }
    }
}

fn unreachable(error: &ClientError) -> Unknown {
    Unknown::new(
        error.to_string(),
        "start the cluster or mend the way to it (diffluent check says more), and verify again",
    )
}
