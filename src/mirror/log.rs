//! One partition's log, of the local cluster or of a region, read forward, and what is looked for in it.
//!
//! Nothing of this happens in daily work. Many rounds to a cluster, one stream after the other, are good enough.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{BrokerId, FetchRequest};
use tokio::time::Instant;

use super::batch::{Batch, Fingerprint, fetched};
use super::committed::{Aborted, Origin};
use super::offsets::{Which, epoch_ends, list_offsets, name};
use super::progress::Partition;
use super::stream::{Found, LATE_REQUESTS};
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

fn not_allowed(cluster: &Cluster, topic: &Arc<str>, code: i16) -> ClientError {
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
    pub(super) async fn read_in<T>(
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

/// The source offset behind which exactly `records` records up to `end` are a stream's, if the batch before it fits; without a fingerprint whatever it holds.
pub(super) async fn step_back(
    log: &mut Log<'_>,
    fingerprint: Option<&Fingerprint>,
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
                behind.push_back((
                    batch.header.next_offset(),
                    own,
                    fingerprint.is_none_or(|fingerprint| fingerprint.fits(batch)),
                ));
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
pub(super) async fn find(
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
