//! Finding a position anew that the region's log no longer proves: after the region has lost records (an unclean leader election, a restored
//! backup, a topic made anew), or when committed progress was lost or went back.
//!
//! The region's log is searched backward for the last batch of the stream, whatever its incarnation; then the source's log is searched for the
//! same batch. In the incarnation that the position knows, the sequences say how many records lie between the two, so that batches that look alike are
//! told apart, and the incarnation goes on: a sequence means the same records as before. For another one only the content speaks, and a new one begins.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use uuid::Uuid;

use super::batch::Fingerprint;
use super::committed::Origin;
use super::log::{
    Last, Log, SEARCH_BYTES_MAX, Stretch, bounds, find, nothing_follows, offset_at, search_back, step_back, step_on,
};
use super::progress::{Partition, Position, is_passing};
use super::scan::{Remembered, remembered};
use super::stream::{Doubt, Found};
use crate::client::ClientError;
use crate::client::cluster::Cluster;
use crate::client::error_code;
use crate::client::rights::is_denial;
use crate::wire::batch::sequence_after;

/// A stream whose position is to be found anew.
#[derive(Clone, Debug)]
pub struct Trace {
    /// The stream's number within its region.
    pub stream: usize,
    /// Topic and partition in the local cluster.
    pub source: Partition,
    /// Topic, by its name there, and partition in the region.
    pub region: Partition,
    /// The stream's producer id.
    pub producer_id: i64,
    /// The position that proves nothing.
    pub position: Position,
    /// Why it does not.
    pub doubt: Doubt,
}

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub enum Retraced {
    /// The incarnation goes on from here; so many records that were acknowledged are sent again.
    Resume {
        /// The position.
        position: Position,
        /// What the region had lost.
        records: u64,
    },
    /// A new incarnation begins.
    Restart {
        /// At this source offset.
        source_offset: i64,
        /// Above this producer epoch.
        above_epoch: i16,
        /// The region's offset from which on its log is searched from now on.
        region_offset: i64,
        /// The leader epoch there.
        region_leader_epoch: i32,
        /// Whether the place was proven by a batch that both logs hold.
        proven: bool,
        /// Offsets before it that neither log holds: retention took them before the region got them.
        lost_records: u64,
    },
    /// The region holds records that the source has lost: a new incarnation begins where the two part.
    Diverged {
        /// At this source offset.
        source_offset: i64,
        /// So many records the region has and the source has not.
        records: u64,
        /// The region's offset behind them.
        region_offset: i64,
        /// The leader epoch there.
        region_leader_epoch: i32,
    },
    /// The region's log holds nothing of the stream.
    Gone {
        /// The region's log end.
        region_offset: i64,
        /// Where the stream began, or the first offset of the local log.
        source_start: i64,
        /// The region's topic now, nil where it has no id.
        region_topic_id: Uuid,
        /// It is the one that the stream has written to: its log was cut, nobody has deleted it.
        same_topic: bool,
    },
    /// A person must decide.
    Stalled(String),
    /// Try again: a cluster can't be asked at the moment.
    Later,
}

/// Finds the positions of streams whose partitions the region's broker `node_id` leads.
pub async fn retrace(local: &Cluster, region: &Cluster, node_id: i32, traces: Vec<Trace>) -> Vec<(usize, Retraced)> {
    let mut outcomes = Vec::with_capacity(traces.len());
    for trace in traces {
        let outcome = match one(local, region, node_id, &trace).await {
            Ok(outcome) => outcome,
            Err(error) if !is_passing(&error) => Retraced::Stalled(error.to_string()),
            Err(error) => {
                tracing::debug!(region = %region.name(), topic = %trace.source.0, partition = trace.source.1, %error,
                    "the position could not be found anew; trying again");
                Retraced::Later
            }
        };
        outcomes.push((trace.stream, outcome));
    }
    outcomes
}

/// Whether the last `bytes_max` bytes of a region's log hold a batch of this producer id; `None` when the broker can't say.
///
/// # Errors
/// Those of the calls.
pub async fn has_written(
    region: &Cluster,
    node_id: i32,
    partition: &Partition,
    producer_id: i64,
    bytes_max: usize,
) -> Result<Option<bool>, ClientError> {
    let Some((start, end, epoch)) = bounds(region, node_id, partition).await? else { return Ok(None) };
    let mut log = Log::of_region(region.connect(node_id).await?, partition, epoch);
    Ok(match search_back(&mut log, producer_id, start, end, bytes_max).await? {
        Stretch::Read(last) => Some(last.is_some()),
        Stretch::Failed(_) => None,
    })
}

async fn one(local: &Cluster, region: &Cluster, node_id: i32, trace: &Trace) -> Result<Retraced, ClientError> {
    let Some((region_start, region_end, region_epoch)) = bounds(region, node_id, &trace.region).await? else {
        return Ok(Retraced::Later);
    };
    let Some(leader) = local.metadata().leader(&trace.source.0, trace.source.1) else { return Ok(Retraced::Later) };
    let Some((source_start, source_end, source_epoch)) = bounds(local, leader.node_id, &trace.source).await? else {
        return Ok(Retraced::Later);
    };
    let mut there = Log::of_region(region.connect(node_id).await?, &trace.region, region_epoch);
    let here = local.connect(leader.node_id).await?;
    let mut here = Log::of_source(here, &trace.source, source_epoch, Origin::Here);
    if let Doubt::Source(lost_from) = trace.doubt {
        return part(there, here, trace, lost_from, region_end, source_end).await;
    }
    let last = match search_back(&mut there, trace.producer_id, region_start, region_end, SEARCH_BYTES_MAX).await? {
        Stretch::Read(last) => last,
        Stretch::Failed(code) => return Ok(failed(code)),
    };
    let position = trace.position;
    let Some(Last { epoch, found }) = last else {
        if position.region_offset >= region_start || region_start == 0 {
            let region_topic_id = region.refresh().await?.topic_id(&trace.region.0);
            let same_topic = is_same(region_topic_id, position.region_topic_id);
            // In its first incarnation, the sequence says how much it wrote.
            let begun = if same_topic && position.producer_epoch == 0 {
                let (records, end) = (i64::from(position.sequence), position.source_offset.min(source_end));
                match step_back(&mut here, None, records, source_start, end).await? {
                    Stretch::Failed(code) => return Ok(failed(code)),
                    Stretch::Read(begun) => begun,
                }
            } else {
                None
            };
            let source_start = begun.unwrap_or(source_start);
            return Ok(Retraced::Gone { region_offset: region_end, source_start, region_topic_id, same_topic });
        }
        // Retention took all that the stream wrote, or all that it wrote behind its position. How much that was only the broker remembers.
        let remembered = match remembered(region, node_id, &trace.region, trace.producer_id).await {
            Err(ClientError::Unsupported { .. }) => Remembered::Nothing,
            other => other?,
        };
        if !nothing_follows(region, node_id, &trace.region, &mut there, trace.producer_id, region_end).await? {
            return Ok(Retraced::Later);
        }
        let mut above_epoch = position.producer_epoch;
        match remembered {
            Remembered::Failed(code) => return Ok(failed(code)),
            Remembered::Producer { epoch, next_sequence } if epoch == position.producer_epoch => {
                let ahead = sequence_after(next_sequence, -i64::from(position.sequence));
                // A position where the local log begins may be one that was never committed: from there nothing can be counted once something was taken.
                let counts = position.source_offset > source_start || source_start == 0;
                if ahead <= i32::MAX / 2 && position.source_offset >= source_start && counts {
                    match step_on(&mut here, None, i64::from(ahead), position.source_offset, source_end).await? {
                        Stretch::Failed(code) => return Ok(failed(code)),
                        Stretch::Read(Some(source_offset)) => {
                            let position = Position {
                                source_offset,
                                sequence: next_sequence,
                                // Where the log begins there is nothing before that would have to be the last batch.
                                region_offset: region_start,
                                region_leader_epoch: region_epoch,
                                ..position
                            };
                            return Ok(Retraced::Resume { position, records: 0 });
                        }
                        Stretch::Read(None) => {}
                    }
                }
            }
            Remembered::Producer { epoch, .. } => above_epoch = above_epoch.max(epoch),
            Remembered::Nothing => {}
        }
        let source_offset = position.source_offset.max(source_start);
        return Ok(Retraced::Restart {
            source_offset,
            above_epoch,
            region_offset: region_end,
            region_leader_epoch: region_epoch,
            proven: true,
            lost_records: u64::try_from(source_offset - position.source_offset).unwrap_or(0),
        });
    };
    // Records that the region has beyond the position, as far as sequences tell; fewer than none if it lacks some before it.
    let mut beyond = 0;
    if epoch == position.producer_epoch {
        // Sequences wrap: less than half of their space is the way back.
        let ahead = sequence_after(found.next_sequence, -i64::from(position.sequence));
        let records = i64::from(sequence_after(position.sequence, -i64::from(found.next_sequence)));
        let is_behind = ahead > i32::MAX / 2;
        beyond = if is_behind { -records } else { i64::from(ahead) };
        let stepped = if !is_behind && position.source_offset < source_start {
            // Retention took what the steps would count from.
            Stretch::Read(None)
        } else if is_behind {
            let end = position.source_offset.min(source_end);
            step_back(&mut here, Some(&found.fingerprint), records, source_start, end).await?
        } else {
            step_on(&mut here, Some(&found.fingerprint), i64::from(ahead), position.source_offset, source_end).await?
        };
        match stepped {
            Stretch::Failed(code) => return Ok(failed(code)),
            Stretch::Read(Some(source_offset)) => {
                let position = Position {
                    source_offset,
                    sequence: found.next_sequence,
                    region_offset: found.region_offset,
                    region_leader_epoch: found.region_leader_epoch,
                    ..position
                };
                let records = if is_behind { u64::try_from(records).unwrap_or(0) } else { 0 };
                return Ok(Retraced::Resume { position, records });
            }
            Stretch::Read(None) => {}
        }
    }
    let above_epoch = epoch.max(position.producer_epoch);
    let Found { region_offset, region_leader_epoch, .. } = found;
    let restart = |source_offset, proven| Retraced::Restart {
        source_offset,
        above_epoch,
        region_offset,
        region_leader_epoch,
        proven,
        lost_records: if proven {
            0
        } else {
            u64::try_from(source_offset - position.source_offset - beyond).unwrap_or(0)
        },
    };
    let since = found.fingerprint.base_timestamp();
    let Some(from) = offset_at(local, leader.node_id, &trace.source, since).await? else {
        return Ok(Retraced::Later);
    };
    // No record is that young: nothing that the source holds is in the region, or all of it.
    let from = from.unwrap_or(source_end);
    match find(&mut here, &found.fingerprint, from.max(source_start), source_end).await? {
        Stretch::Failed(code) => Ok(failed(code)),
        Stretch::Read(Some(source_offset)) => Ok(restart(source_offset, true)),
        // The source no longer holds what the region got last: retention took it, and all that it holds is newer.
        Stretch::Read(None) if from <= source_start && source_start > 0 => Ok(restart(source_start, false)),
        Stretch::Read(None) => Ok(Retraced::Stalled(format!(
            "the last batch of this stream in the region (before region offset {region_offset}) is not in the local log, so it can't be \
             told what the region lacks; delete the topic in the region to have all of it sent again, or restore the \
             offsets of group diffluent.{}",
            region.name()
        ))),
    }
}

/// Whether both are known, and the same topic.
pub(super) fn is_same(one: Uuid, other: Uuid) -> bool {
    one == other && !one.is_nil()
}

/// Finds where the region's log and the source's part: from the position on, batch by batch.
async fn part(
    mut there: Log<'_>,
    mut here: Log<'_>,
    trace: &Trace,
    lost_from: i64,
    region_end: i64,
    source_end: i64,
) -> Result<Retraced, ClientError> {
    let mut position = trace.position;
    let mut row: VecDeque<Found> = VecDeque::new();
    let mut records = 0;
    let mut expected = position.sequence;
    let read = there.read(position.region_offset, region_end, |batch, _| {
        let header = &batch.header;
        if (header.producer_id, header.producer_epoch) == (trace.producer_id, position.producer_epoch)
            && header.base_sequence == expected
        {
            expected = sequence_after(expected, i64::from(header.last_offset_delta) + 1);
            records += u64::try_from(header.record_count).unwrap_or(0);
            row.push_back(Found {
                next_sequence: expected,
                region_offset: header.next_offset(),
                region_leader_epoch: header.leader_epoch,
                fingerprint: Fingerprint::of(batch),
            });
        }
        None::<()>
    });
    if let Stretch::Failed(code) = read.await? {
        return Ok(failed(code));
    }
    let last = row.back().map_or((position.region_offset, position.region_leader_epoch), |last| {
        (last.region_offset, last.region_leader_epoch)
    });
    if lost_from >= position.source_offset {
        let next_count = |row: &VecDeque<Found>| row.front().map_or(i32::MAX, |found| found.fingerprint.record_count());
        let first_count = next_count(&row);
        let read =
            here.read_in(position.source_offset, source_end.min(lost_from), first_count, |batch, passed_over| {
                if passed_over {
                    return ControlFlow::Continue(next_count(&row));
                }
                match row.front() {
                    Some(found) if found.fingerprint.fits(batch) => {
                        position.source_offset = batch.header.next_offset();
                        position.sequence = found.next_sequence;
                        position.region_offset = found.region_offset;
                        position.region_leader_epoch = found.region_leader_epoch;
                        records -= u64::try_from(batch.header.record_count).unwrap_or(0);
                        row.pop_front();
                        ControlFlow::Continue(next_count(&row))
                    }
                    _ => ControlFlow::Break(()),
                }
            });
        if let Stretch::Failed(code) = read.await? {
            return Ok(failed(code));
        }
        if row.is_empty() {
            return Ok(Retraced::Resume { position, records: 0 });
        }
    } else {
        // What was acknowledged is lost to the source too.
        records += u64::try_from(position.source_offset - lost_from).unwrap_or(0);
    }
    Ok(Retraced::Diverged {
        source_offset: position.source_offset.min(lost_from),
        records,
        region_offset: last.0,
        region_leader_epoch: last.1,
    })
}

fn failed(code: i16) -> Retraced {
    if is_denial(code) {
        return Retraced::Stalled(format!(
            "a log may not be read: {}; grant diffluent's principal the right Read on the topic on both sides (diffluent check says which is missing)",
            error_code::describe(code)
        ));
    }
    tracing::debug!(error = error_code::describe(code), "a log could not be read to find a position anew");
    Retraced::Later
}
