//! Finding a position anew that the region's log no longer proves: after the region has lost records (an unclean leader election, a restored
//! backup, a topic made anew), or when committed progress was lost or went back.
//!
//! The region's log is searched backward for the last batch of the stream, whatever its incarnation; then the source's log is searched for the
//! same batch. In the incarnation that the position knows, the sequences say how many records lie between the two, so that batches that look alike are
//! told apart, and the incarnation goes on: a sequence means the same records as before. For another one only the content speaks, and a new one begins.
//!
//! Nothing of this happens in daily work. Many rounds to a cluster, one stream after the other, are good enough.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{BrokerId, FetchRequest};
use tokio::time::Instant;

use super::batch::{Batch, Fingerprint, fetched};
use super::committed::{Aborted, Origin};
use super::offsets::{Which, epoch_ends, list_offsets, name};
use super::progress::{Partition, Position, is_passing};
use super::scan::{Remembered, remembered};
use super::stream::{Doubt, Found, LATE_REQUESTS};
use crate::client::ClientError;
use crate::client::cluster::Cluster;
use crate::client::connection::Connection;
use crate::client::error_code;
use crate::client::rights::{Operation, Right, is_denial};
use crate::wire::batch::sequence_after;

/// So many offsets are searched first; each further round reaches eight times as far back.
const FIRST_WINDOW_OFFSETS: i64 = 2_000;
/// As [`FIRST_WINDOW_OFFSETS`], where the last batch is likely to be what is looked for.
const LAST_WINDOW_OFFSETS: i64 = 64;
/// A search gives up after so many bytes, per partition.
pub const SEARCH_BYTES_MAX: usize = 4 * 1024 * 1024 * 1024;
const FETCH_BYTES: i32 = 4 * 1024 * 1024;
const DEADLINE: Duration = Duration::from_secs(30);
/// How long a broker may give nothing though its log goes on.
const EMPTY_WAIT: Duration = Duration::from_millis(200);
const EMPTY_TRIES: u32 = 25;

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
        /// The first offset of the local log.
        source_start: i64,
    },
    /// A person must decide.
    Stalled(String),
    /// Try again: a cluster can't be asked at the moment.
    Later,
}

/// The last batch of a stream in the region's log.
pub(super) struct Last {
    /// Its producer epoch.
    pub epoch: i16,
    /// The batch.
    pub found: Found,
}

/// What came of reading one stretch of a log.
pub(super) enum Stretch<T> {
    Read(T),
    Failed(i16),
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
            return Ok(Retraced::Gone { region_offset: region_end, source_start });
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
            step_back(&mut here, &found.fingerprint, records, source_start, end).await?
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

fn not_allowed(cluster: &Cluster, topic: &std::sync::Arc<str>, code: i16) -> ClientError {
    cluster.refused(format!("cannot read topic {topic}"), code, Right::topic(Operation::Read, topic))
}

/// Start, end and leader epoch of a log; `None` when the broker can't say.
pub(super) async fn bounds(
    cluster: &Cluster,
    node_id: i32,
    partition: &Partition,
) -> Result<Option<(i64, i64, i32)>, ClientError> {
    let mut answers = [None, None];
    for (answer, which) in answers.iter_mut().zip([Which::Start, Which::End]) {
        let log = list_offsets(cluster, node_id, &[partition], which).await?.pop();
        if let Some((_, Err(code))) = log
            && is_denial(code)
        {
            return Err(not_allowed(cluster, &partition.0, code));
        }
        *answer = log.and_then(|(_, log)| log.ok());
    }
    let [Some(start), Some(end)] = answers else { return Ok(None) };
    Ok(Some((start.offset, end.offset, end.leader_epoch)))
}

/// The offset of the first record that is not older than `timestamp`; the inner `None` when there is none.
pub(super) async fn offset_at(
    cluster: &Cluster,
    node_id: i32,
    partition: &Partition,
    timestamp: i64,
) -> Result<Option<Option<i64>>, ClientError> {
    let answer = list_offsets(cluster, node_id, &[partition], Which::Since(timestamp)).await?.pop();
    Ok(answer.and_then(|(_, log)| log.ok()).map(|log| Some(log.offset).filter(|offset| *offset >= 0)))
}

/// One partition's log, read forward.
pub(super) struct Log<'a> {
    connection: Connection,
    partition: &'a Partition,
    /// The epoch of the leader that told the log's ends: nothing is read from another one.
    leader_epoch: i32,
    /// read_committed: aborted records are named, open transactions left out.
    committed: bool,
    /// What the stream sends of it.
    origin: Origin,
}

impl<'a> Log<'a> {
    /// The source's log, of which a stream sends the committed records of one origin.
    pub fn of_source(connection: Connection, partition: &'a Partition, leader_epoch: i32, origin: Origin) -> Self {
        Self { connection, partition, leader_epoch, committed: true, origin }
    }

    /// The region's log: every batch in it is looked at.
    pub fn of_region(connection: Connection, partition: &'a Partition, leader_epoch: i32) -> Self {
        Self { connection, partition, leader_epoch, committed: false, origin: Origin::Nowhere }
    }

    /// Reads from `from` to `end`, giving each batch and whether it is one that a stream passes over. Stops early when `each` gives something.
    pub async fn read<T>(
        &mut self,
        from: i64,
        end: i64,
        mut each: impl FnMut(&Batch, bool) -> Option<T>,
    ) -> Result<Stretch<Option<T>>, ClientError> {
        let each = |batch: &Batch, passed_over| match each(batch, passed_over) {
            Some(found) => ControlFlow::Break(found),
            None => ControlFlow::Continue(i32::MAX),
        };
        self.read_in(from, end, i32::MAX, each).await
    }

    /// As [`Log::read`], but it is also said how many messages of an old format shall be made one batch: the first `records_max`, then as many as
    /// `each` wants.
    async fn read_in<T>(
        &mut self,
        from: i64,
        end: i64,
        mut records_max: i32,
        mut each: impl FnMut(&Batch, bool) -> ControlFlow<T, i32>,
    ) -> Result<Stretch<Option<T>>, ClientError> {
        let mut cursor = from;
        let mut empty = 0;
        while cursor < end {
            let data = self.fetch(cursor).await?;
            if data.error_code != 0 {
                return Ok(Stretch::Failed(data.error_code));
            }
            let transactions = data.aborted_transactions.unwrap_or_default();
            let transactions = transactions.iter().map(|aborted| (aborted.producer_id.0, aborted.first_offset));
            let mut aborted = Aborted::new(transactions.collect());
            let before = cursor;
            let mut batches = fetched(data.records.unwrap_or_default(), cursor, Instant::now());
            while let Some(Ok(batch)) = batches.next_batch(records_max) {
                let passed_over = aborted.passes_over(&batch.header) || !self.origin.has(&batch.header);
                if batch.header.next_offset() <= cursor {
                    continue;
                }
                if batch.header.base_offset >= end {
                    return Ok(Stretch::Read(None));
                }
                cursor = batch.header.next_offset();
                match each(&batch, passed_over) {
                    ControlFlow::Break(found) => return Ok(Stretch::Read(Some(found))),
                    ControlFlow::Continue(wanted) => records_max = wanted,
                }
            }
            empty = if cursor > before { 0 } else { empty + 1 };
            if empty > EMPTY_TRIES {
                return Ok(Stretch::Failed(error_code::OFFSET_NOT_AVAILABLE));
            }
            if empty > 0 {
                tokio::time::sleep(EMPTY_WAIT).await;
            }
        }
        Ok(Stretch::Read(None))
    }

    async fn fetch(&mut self, offset: i64) -> Result<PartitionData, ClientError> {
        let (topic, partition) = self.partition;
        let wanted = FetchPartition::default()
            .with_partition(*partition)
            .with_fetch_offset(offset)
            .with_current_leader_epoch(self.leader_epoch)
            .with_last_fetched_epoch(-1)
            .with_log_start_offset(-1)
            .with_partition_max_bytes(FETCH_BYTES);
        let request = FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_bytes(FETCH_BYTES)
            .with_isolation_level(i8::from(self.committed))
            .with_session_epoch(-1)
            .with_topics(vec![FetchTopic::default().with_topic(name(topic)).with_partitions(vec![wanted])]);
        let answer = self.connection.call_within(&request, DEADLINE).await?;
        let data = answer.responses.into_iter().flat_map(|topic| topic.partitions).next();
        Ok(data.unwrap_or_else(|| {
            PartitionData::default()
                .with_error_code(error_code::UNKNOWN_TOPIC_OR_PARTITION)
                .with_records(Some(Bytes::new()))
        }))
    }
}

/// The last batch with the producer id in the log, from its end backward.
pub(super) async fn search_back(
    log: &mut Log<'_>,
    producer_id: i64,
    start: i64,
    end: i64,
    bytes_max: usize,
) -> Result<Stretch<Option<Last>>, ClientError> {
    let mut high = end;
    let mut window = LAST_WINDOW_OFFSETS;
    let mut bytes = 0;
    while high > start && bytes < bytes_max {
        let low = high.saturating_sub(window).max(start);
        let mut last = None;
        let read = log.read(low, high, |batch, _| {
            bytes += batch.len();
            let header = &batch.header;
            if header.producer_id == producer_id {
                last = Some(Last {
                    epoch: header.producer_epoch,
                    found: Found {
                        next_sequence: sequence_after(header.base_sequence, i64::from(header.last_offset_delta) + 1),
                        region_offset: header.next_offset(),
                        region_leader_epoch: header.leader_epoch,
                        fingerprint: Fingerprint::of(batch),
                    },
                });
            }
            None::<()>
        });
        if let Stretch::Failed(code) = read.await? {
            return Ok(Stretch::Failed(code));
        }
        if last.is_some() {
            return Ok(Stretch::Read(last));
        }
        high = low;
        window = window.saturating_mul(8);
    }
    Ok(Stretch::Read(None))
}

/// The source offset behind which exactly `records` records up to `end` are a stream's, if the batch before it fits.
async fn step_back(
    log: &mut Log<'_>,
    fingerprint: &Fingerprint,
    records: i64,
    start: i64,
    end: i64,
) -> Result<Stretch<Option<i64>>, ClientError> {
    let mut window = records.saturating_mul(2).saturating_add(FIRST_WINDOW_OFFSETS);
    loop {
        let low = end.saturating_sub(window).max(start);
        // The last batches with at most `records` behind them: the offset behind each, its records, whether it fits.
        let mut reached = low == start;
        let mut behind: VecDeque<(i64, i64, bool)> = VecDeque::new();
        let mut count = 0;
        let read = log.read(low, end, |batch, passed_over| {
            if !passed_over {
                let own = i64::from(batch.header.record_count);
                behind.push_back((batch.header.next_offset(), own, fingerprint.fits(batch)));
                count += own;
                while let Some((_, own, _)) = behind.front()
                    && count - own > records
                {
                    count -= own;
                    reached = true;
                    behind.pop_front();
                }
            }
            None::<()>
        });
        if let Stretch::Failed(code) = read.await? {
            return Ok(Stretch::Failed(code));
        }
        if let Some((next_offset, own, fits)) = behind.front().copied()
            && count - own == records
        {
            return Ok(Stretch::Read(fits.then_some(next_offset)));
        }
        if reached {
            return Ok(Stretch::Read(None));
        }
        window = window.saturating_mul(8);
    }
}

/// The source offset behind the batch that ends exactly `records` records behind `from`, if it fits; without a fingerprint whatever it holds.
pub(super) async fn step_on(
    log: &mut Log<'_>,
    fingerprint: Option<&Fingerprint>,
    records: i64,
    from: i64,
    end: i64,
) -> Result<Stretch<Option<i64>>, ClientError> {
    if records == 0 {
        return Ok(Stretch::Read(Some(from)));
    }
    let mut count = 0;
    let up_to_it = |left: i64| {
        i32::try_from(fingerprint.map_or(left, |fingerprint| fingerprint.records_max(left))).unwrap_or(i32::MAX)
    };
    let read = log.read_in(from, end, up_to_it(records), |batch, passed_over| {
        if !passed_over {
            count += i64::from(batch.header.record_count);
        }
        if count < records {
            return ControlFlow::Continue(up_to_it(records - count));
        }
        let fits = fingerprint.is_none_or(|fingerprint| !passed_over && fingerprint.fits(batch));
        ControlFlow::Break((count == records && fits).then_some(batch.header.next_offset()))
    });
    Ok(match read.await? {
        Stretch::Read(found) => Stretch::Read(found.flatten()),
        Stretch::Failed(code) => Stretch::Failed(code),
    })
}

/// Whether nothing of a producer lies behind the end of a region's log either, committed or not. To be asked after the broker's memory of the producer, which holds what is
/// appended: only then all of that is committed, too. Late requests are waited for. `false` also while it can't be told.
pub(super) async fn nothing_follows(
    region: &Cluster,
    node_id: i32,
    partition: &Partition,
    there: &mut Log<'_>,
    producer_id: i64,
    region_end: i64,
) -> Result<bool, ClientError> {
    tokio::time::sleep(LATE_REQUESTS).await;
    let Some((_, _, epoch)) = bounds(region, node_id, partition).await? else { return Ok(false) };
    // A leader's own epoch ends with its log, and not at the high watermark.
    let Some((_, Ok(appended))) = epoch_ends(region, node_id, &[(partition.clone(), epoch)]).await?.pop() else {
        return Ok(false);
    };
    match bounds(region, node_id, partition).await? {
        Some((_, end, same)) if same == epoch && end >= appended => {
            let last = search_back(there, producer_id, region_end, end, SEARCH_BYTES_MAX).await?;
            Ok(matches!(last, Stretch::Read(None)))
        }
        _ => Ok(false),
    }
}

/// The source offset behind the first batch that fits.
async fn find(
    log: &mut Log<'_>,
    fingerprint: &Fingerprint,
    from: i64,
    end: i64,
) -> Result<Stretch<Option<i64>>, ClientError> {
    let mut bytes = 0;
    let read = log.read(from, end, |batch, passed_over| {
        bytes += batch.len();
        let fits =
            !passed_over && fingerprint.base_timestamp() == batch.header.base_timestamp && fingerprint.fits(batch);
        (fits || bytes > SEARCH_BYTES_MAX).then_some(fits.then_some(batch.header.next_offset()))
    });
    Ok(match read.await? {
        Stretch::Read(found) => Stretch::Read(found.flatten()),
        Stretch::Failed(code) => Stretch::Failed(code),
    })
}
