//! Rewinding: streams begin anew at an earlier source offset, in a new incarnation.
//!
//! The region then holds the records from there on twice, unless its topic was deleted before: nothing in a region's log is ever taken back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::events::Event;
use super::offsets::{LogOffset, Which, list_all};
use super::progress::Partition;
use super::{CommandError, Running};
use crate::client::cluster::Cluster;

/// How long the region may take to tell where its logs end.
const REGION_WITHIN: Duration = Duration::from_secs(2);
/// The most streams that an answer names one by one; all are counted.
const NAMED_MAX: usize = 100;

/// Which streams of a region, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewind {
    /// Only this topic, by its name in the local cluster.
    pub topic: Option<Arc<str>>,
    /// Only this partition of the topic.
    pub partition: Option<i32>,
    /// Where they begin anew.
    pub to: RewindTo,
}

/// Where streams begin anew. What the local log no longer holds begins at its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RewindTo {
    /// At this source offset.
    Offset(i64),
    /// At the first record with this timestamp (milliseconds since 1970) or a later one.
    Time(i64),
}

/// A stream, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selected {
    /// Topic and partition in the local cluster.
    pub partition: Partition,
    /// The topic's name in the region.
    pub region_topic: Arc<str>,
    /// The first source offset that the region has not acknowledged.
    pub source_offset: i64,
}

/// A stream, and where it begins anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RewindTarget {
    /// Topic and partition in the local cluster.
    pub partition: Partition,
    /// At this source offset.
    pub source_offset: i64,
    /// The region's log end and the leader epoch there, where known: the new incarnation has nothing before it.
    pub region_end: Option<(i64, i32)>,
}

/// A stream that was rewound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RewoundStream {
    /// The topic in the local cluster.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// Where it stood.
    pub from_offset: i64,
    /// Where it begins anew.
    pub to_offset: i64,
}

/// A stream that was left as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeftStream {
    /// The topic in the local cluster.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// Why.
    pub reason: String,
}

/// What came of a rewind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rewound {
    /// So many streams begin anew.
    pub rewound: usize,
    /// So many offsets are read and sent again.
    pub offsets: u64,
    /// So many streams were left as they are.
    pub left: usize,
    /// The first hundred that begin anew.
    pub rewound_streams: Vec<RewoundStream>,
    /// The first hundred that don't.
    pub left_streams: Vec<LeftStream>,
}

impl Rewound {
    fn add(&mut self, stream: &Selected, target: Result<i64, String>) {
        let (topic, partition) = (stream.partition.0.to_string(), stream.partition.1);
        match target {
            Ok(to_offset) => {
                let from_offset = stream.source_offset;
                self.rewound += 1;
                self.offsets += u64::try_from(from_offset - to_offset).unwrap_or(0);
                if self.rewound_streams.len() < NAMED_MAX {
                    self.rewound_streams.push(RewoundStream { topic, partition, from_offset, to_offset });
                }
            }
            Err(reason) => {
                self.left += 1;
                if self.left_streams.len() < NAMED_MAX {
                    self.left_streams.push(LeftStream { topic, partition, reason });
                }
            }
        }
    }
}

/// Rewinds streams of a region: where each would begin is asked of both clusters first.
pub(super) async fn rewind(local: &Arc<Cluster>, region: &Running, what: &Rewind) -> Result<Rewound, CommandError> {
    let (topic, partition) = (what.topic.clone(), what.partition);
    let streams = region.ask(|answer| Event::Select { topic, partition, answer }).await??;
    if streams.is_empty() {
        return Err(CommandError::Refused("nothing is mirrored to this region yet".to_owned()));
    }
    let partitions: Vec<Partition> = streams.iter().map(|stream| stream.partition.clone()).collect();
    let starts = list_all(local, &partitions, Which::Start).await;
    let since = match what.to {
        RewindTo::Time(at_ms) => Some(list_all(local, &partitions, Which::Since(at_ms)).await),
        RewindTo::Offset(_) => None,
    };
    let there: Vec<Partition> =
        streams.iter().map(|stream| (stream.region_topic.clone(), stream.partition.1)).collect();
    // A region that is away does not hold it up: its log is searched from where it was then.
    let asked = tokio::time::timeout(REGION_WITHIN, list_all(region.cluster(), &there, Which::End)).await;
    let ends = asked.unwrap_or_default();

    let mut wanted: Vec<Result<RewindTarget, String>> = Vec::with_capacity(streams.len());
    for (stream, there) in streams.iter().zip(&there) {
        let known = |offsets: &BTreeMap<Partition, Result<LogOffset, i16>>, partition: &Partition| {
            offsets.get(partition).and_then(|offset| offset.ok())
        };
        let to = match (&since, what.to) {
            (Some(since), _) => known(since, &stream.partition).map(|found| found.offset),
            (None, RewindTo::Offset(offset)) => Some(offset),
            (None, RewindTo::Time(_)) => None,
        };
        wanted.push(match (to, known(&starts, &stream.partition)) {
            (Some(offset), Some(start)) if offset >= 0 => Ok(RewindTarget {
                partition: stream.partition.clone(),
                source_offset: offset.max(start.offset),
                region_end: known(&ends, there).map(|end| (end.offset, end.leader_epoch)),
            }),
            (Some(_), Some(_)) => Err("its log has no record of that time or later".to_owned()),
            _ => Err("its leader in the local cluster can't be asked; try again".to_owned()),
        });
    }

    let targets: Vec<RewindTarget> = wanted.iter().filter_map(|target| target.as_ref().ok().cloned()).collect();
    let mut done = region.ask(|answer| Event::Rewind { targets, answer }).await?.into_iter();
    let mut rewound = Rewound::default();
    for (stream, target) in streams.iter().zip(wanted) {
        let outcome = match target {
            Ok(target) => done.next().unwrap_or_else(|| Err("it is gone".to_owned())).map(|()| target.source_offset),
            Err(reason) => Err(reason),
        };
        rewound.add(stream, outcome);
    }
    match rewound.left_streams.first() {
        Some(first) if rewound.rewound == 0 => Err(CommandError::Refused(format!(
            "no stream was rewound: partition {} of topic {}: {}",
            first.partition, first.topic, first.reason
        ))),
        _ => Ok(rewound),
    }
}
