//! Where a stream that forwards what was born elsewhere goes on in the row that the region's log holds of that origin.
//!
//! The row is shared: other paths may bring the same records. So its end is looked for in the region, and the same batch in the local log:
//!
//! | the row's last batch | | the stream |
//! |---|---|---|
//! | there is none | nobody has brought anything | begins the row with its first batch, under the identity that this has here |
//! | is in the local log | the region has all before it | goes on behind it |
//! | is not, but the stream's first batch is in the region | another path is ahead of the local log | waits there until the local log has what the region has |
//! | is not, nor is the first batch in the region | retention took the one here, or the other path has passed over the other | goes on if its batch is not older, else a person decides |
//!
//! Producer id, epoch and sequence only serve to find batches; whether two are the same is decided by their content. For what another path did is not
//! known: it may have begun elsewhere, or have begun a new incarnation.

use std::collections::BTreeSet;
use std::sync::Arc;

use kafka_protocol::messages::DescribeProducersRequest;
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use tokio::task::JoinSet;

use super::batch::Fingerprint;
use super::committed::Origin;
use super::log::{Last, Log, SEARCH_BYTES_MAX, Stretch, bounds, nothing_follows, offset_at, search_back, step_on};
use super::offsets::{Which, list_offsets, name};
use super::progress::{Partition, Position};
use super::retrace;
use super::scan::{Remembered, remembered};
use super::stream::{Found, Obstacle};
use crate::client::ClientError;
use crate::client::cluster::Cluster;
use crate::client::error_code;
use crate::wire::batch::{BatchHeader, sequence_after};

/// So many partitions are looked at at the same time.
const AT_ONCE: usize = 16;

/// A stream whose row is to be found.
#[derive(Clone, Debug)]
pub struct Rejoin {
    /// The stream's number within its region.
    pub stream: usize,
    /// Topic and partition in the local cluster.
    pub source: Partition,
    /// Topic, by its name there, and partition in the region.
    pub region: Partition,
    /// The origin's producer id.
    pub producer_id: i64,
    /// The stream's position; an epoch of -1 if the row was not known before.
    pub position: Position,
    /// The first batch that the stream would send, if it is known.
    pub first: Option<BatchHeader>,
}

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub enum Rejoined {
    /// The row is there. The region's log is searched behind this position.
    Row(Position),
    /// The region's log has none: it begins.
    Begins {
        /// With the source's batch at this offset.
        source_offset: i64,
        /// With this epoch and sequence.
        row: (i16, i32),
        /// The region's log end.
        region_offset: i64,
    },
    /// The source holds nothing to be sent before this offset.
    Nothing(i64),
    /// The region has lost the whole row that the stream knew.
    Gone {
        /// The first offset of the local log.
        source_start: i64,
        /// In the same topic: its log was cut, nobody has deleted it.
        same_topic: bool,
    },
    /// A person must decide about this batch.
    Stalled(String, Obstacle),
    /// Try again: a cluster can't be asked at the moment, or another path is ahead.
    Later,
}

/// Finds the rows of streams whose partitions the region's broker `node_id` leads.
pub async fn rejoin(
    local: &Arc<Cluster>,
    region: &Arc<Cluster>,
    node_id: i32,
    mut asked: Vec<Rejoin>,
) -> Vec<(usize, Rejoined)> {
    let mut outcomes = Vec::with_capacity(asked.len());
    // A region that begins empty: ten thousand rows begin with one question.
    if let Ok(empty) = never_written(region, node_id, &asked).await {
        asked.retain(|rejoin| match rejoin.first {
            Some(first) if rejoin.position.producer_epoch < 0 && empty.contains(&rejoin.region) => {
                let row = (first.producer_epoch, first.base_sequence);
                // The log may begin within a batch.
                let source_offset = first.base_offset.max(rejoin.position.source_offset);
                let begins = Rejoined::Begins { source_offset, row, region_offset: 0 };
                outcomes.push((rejoin.stream, begins));
                false
            }
            _ => true,
        });
    }
    let mut searches = JoinSet::new();
    let mut waiting = asked.into_iter();
    loop {
        while searches.len() < AT_ONCE
            && let Some(rejoin) = waiting.next()
        {
            let (local, region) = (local.clone(), region.clone());
            searches.spawn(async move {
                let outcome = one(&local, &region, node_id, &rejoin).await.unwrap_or_else(|error| {
                    tracing::debug!(region = %region.name(), topic = %rejoin.source.0, partition = rejoin.source.1, %error,
                        "the row of an origin could not be found; trying again");
                    Rejoined::Later
                });
                (rejoin.stream, outcome)
            });
        }
        match searches.join_next().await {
            Some(Ok(outcome)) => outcomes.push(outcome),
            Some(Err(_)) => {}
            None => return outcomes,
        }
    }
}

/// The partitions to which nothing was ever written.
async fn never_written(region: &Cluster, node_id: i32, asked: &[Rejoin]) -> Result<Vec<Partition>, ClientError> {
    // Several origins may share a partition.
    let partitions: BTreeSet<&Partition> = asked.iter().map(|rejoin| &rejoin.region).collect();
    let partitions: Vec<&Partition> = partitions.into_iter().collect();
    let ends = list_offsets(region, node_id, &partitions, Which::End).await?;
    let empty = ends.into_iter().filter(|(_, end)| end.is_ok_and(|end| end.offset == 0));
    Ok(empty.map(|(partition, _)| partition).collect())
}

/// A batch of the source.
struct First {
    header: BatchHeader,
    fingerprint: Fingerprint,
}

async fn one(local: &Cluster, region: &Cluster, node_id: i32, rejoin: &Rejoin) -> Result<Rejoined, ClientError> {
    let Rejoin { source, region: there_at, producer_id, position, .. } = rejoin;
    let Some((region_start, region_end, region_epoch)) = bounds(region, node_id, there_at).await? else {
        return Ok(Rejoined::Later);
    };
    let Some(leader) = local.metadata().leader(&source.0, source.1) else { return Ok(Rejoined::Later) };
    let Some((source_start, source_end, source_epoch)) = bounds(local, leader.node_id, source).await? else {
        return Ok(Rejoined::Later);
    };
    let here = local.connect(leader.node_id).await?;
    let mut here = Log::of_source(here, source, source_epoch, Origin::Elsewhere(*producer_id));
    let mut there = Log::of_region(region.connect(node_id).await?, there_at, region_epoch);

    let from = position.source_offset.max(source_start);
    let first = here.read(from, source_end, |batch, passed_over| {
        (!passed_over).then(|| First { header: batch.header, fingerprint: Fingerprint::of(batch) })
    });
    let first = match first.await? {
        Stretch::Read(first) => first,
        Stretch::Failed(code) => return Ok(failed(code)),
    };
    let known = position.producer_epoch >= 0;
    let since = match &first {
        // What is in the region and younger than the first batch may be anywhere behind it.
        Some(first) if !known => offset_at(region, node_id, there_at, first.header.base_timestamp).await?,
        _ => Some(Some(region_start)),
    };
    let Some(since) = since else { return Ok(Rejoined::Later) };
    let since = since.unwrap_or(region_end).max(region_start);
    let mut last = search_back(&mut there, *producer_id, since, region_end, SEARCH_BYTES_MAX).await?;
    if matches!(last, Stretch::Read(None))
        && since > region_start
        && knows(region, node_id, there_at, *producer_id).await?
    {
        last = search_back(&mut there, *producer_id, region_start, since, SEARCH_BYTES_MAX).await?;
    }
    let last = match last {
        Stretch::Read(last) => last,
        Stretch::Failed(code) => return Ok(failed(code)),
    };
    let Some(Last { epoch, found }) = last else {
        return Ok(match first {
            // Retention took the row's end; what was acknowledged before is no less true.
            _ if known && position.region_offset <= region_start && region_start > 0 => {
                let remembered = match remembered(region, node_id, there_at, *producer_id).await {
                    Err(ClientError::Unsupported { .. }) => Remembered::Nothing,
                    other => other?,
                };
                if !nothing_follows(region, node_id, there_at, &mut there, *producer_id, region_end).await? {
                    return Ok(Rejoined::Later);
                }
                let position = Position { region_offset: region_start, region_leader_epoch: region_epoch, ..*position };
                return retired_row(remembered, position, &mut here, (source_start, source_end)).await;
            }
            _ if known => {
                let now = region.refresh().await?.topic_id(&there_at.0);
                Rejoined::Gone { source_start, same_topic: retrace::is_same(now, position.region_topic_id) }
            }
            Some(First { header, .. }) => Rejoined::Begins {
                // The log may begin within a batch.
                source_offset: header.base_offset.max(from),
                row: (header.producer_epoch, header.base_sequence),
                region_offset: region_end,
            },
            None => Rejoined::Nothing(source_end),
        });
    };
    let row = |source_offset, epoch, found: Found| {
        Rejoined::Row(Position {
            source_offset,
            producer_epoch: epoch,
            sequence: found.next_sequence,
            region_offset: found.region_offset,
            region_leader_epoch: found.region_leader_epoch,
            ..*position
        })
    };

    let sought = Sought { epoch, next_sequence: found.next_sequence, fingerprint: found.fingerprint };
    let young = offset_at(local, leader.node_id, source, found.fingerprint.base_timestamp()).await?;
    let Some(young) = young else { return Ok(Rejoined::Later) };
    if let Some(young) = young {
        match find(&mut here, &sought, *producer_id, young.max(source_start), source_end).await? {
            Stretch::Read(Some((_, in_source))) => return Ok(row(in_source.region_offset, epoch, found)),
            Stretch::Read(None) => {}
            Stretch::Failed(code) => return Ok(failed(code)),
        }
    }
    let Some(First { header, fingerprint }) = first else {
        return Ok(Rejoined::Nothing(source_end));
    };
    let sought = Sought { epoch: header.producer_epoch, next_sequence: next_sequence(&header), fingerprint };
    let since = offset_at(region, node_id, there_at, header.base_timestamp).await?.flatten();
    if let Some(since) = since {
        match find(&mut there, &sought, *producer_id, since.max(region_start), region_end).await? {
            Stretch::Read(Some((epoch, first))) => return Ok(row(header.next_offset(), epoch, first)),
            Stretch::Read(None) => {}
            Stretch::Failed(code) => return Ok(failed(code)),
        }
    }
    if header.base_timestamp >= found.fingerprint.base_timestamp() {
        return Ok(row(header.base_offset.max(from), epoch, found));
    }
    if young.is_none() {
        // Nothing here is as young as what the region has: another path is ahead.
        return Ok(Rejoined::Later);
    }
    let reason = format!(
        "the region holds other records of this origin, younger than those here from source offset {} on, which it does not hold: sending them would \
         bring them behind the younger ones; step over them with diffluent skip, or delete the topic in the region to have all of it sent again",
        header.base_offset
    );
    let records = u64::try_from(header.record_count).unwrap_or(0);
    Ok(Rejoined::Stalled(reason, Obstacle { offset: header.base_offset, next_offset: header.next_offset(), records }))
}

/// Retention took the row's end in the region. Where the row stands only the broker remembers, and by how many records that is further than the position, which begins where the region's
/// log does: there is nothing before that would have to be the last batch.
async fn retired_row(
    remembered: Remembered,
    position: Position,
    here: &mut Log<'_>,
    (source_start, source_end): (i64, i64),
) -> Result<Rejoined, ClientError> {
    let (epoch, next_sequence) = match remembered {
        Remembered::Failed(code) => return Ok(failed(code)),
        Remembered::Nothing => return Ok(Rejoined::Row(position)),
        Remembered::Producer { epoch, next_sequence } => (epoch, next_sequence),
    };
    if (epoch, next_sequence) == (position.producer_epoch, position.sequence) {
        return Ok(Rejoined::Row(position));
    }
    let ahead = sequence_after(next_sequence, -i64::from(position.sequence));
    let mut source_offset = position.source_offset;
    if epoch == position.producer_epoch && ahead <= i32::MAX / 2 && source_offset >= source_start {
        match step_on(here, None, i64::from(ahead), source_offset, source_end).await? {
            Stretch::Failed(code) => return Ok(failed(code)),
            Stretch::Read(counted) => source_offset = counted.unwrap_or(source_offset),
        }
    }
    Ok(Rejoined::Row(Position { source_offset, producer_epoch: epoch, sequence: next_sequence, ..position }))
}

fn failed(code: i16) -> Rejoined {
    tracing::debug!(error = error_code::describe(code), "a log could not be read to find the row of an origin");
    Rejoined::Later
}

fn next_sequence(header: &BatchHeader) -> i32 {
    sequence_after(header.base_sequence, i64::from(header.last_offset_delta) + 1)
}

/// A batch that is looked for in another log, where it may bear another epoch and sequence.
struct Sought {
    epoch: i16,
    next_sequence: i32,
    fingerprint: Fingerprint,
}

/// Looks for a batch of the producer in a log: the one that fits, and of several that follow each other with the same timestamp and content the one with the same
/// epoch and sequence, or else the first. Gives its epoch and place; of the source's log, the offset behind it is in `region_offset`.
async fn find(
    log: &mut Log<'_>,
    sought: &Sought,
    producer_id: i64,
    from: i64,
    end: i64,
) -> Result<Stretch<Option<(i16, Found)>>, ClientError> {
    let mut fits: Option<(i16, Found)> = None;
    let read = log.read(from, end, |batch, _| {
        let header = &batch.header;
        if header.producer_id != producer_id || header.record_count == 0 {
            return None;
        }
        let same = header.base_timestamp == sought.fingerprint.base_timestamp() && sought.fingerprint.fits(batch);
        if !same {
            // The row goes on with something else: what fitted is what there is.
            return fits.is_some().then_some(());
        }
        let place = Found {
            next_sequence: next_sequence(header),
            region_offset: header.next_offset(),
            region_leader_epoch: header.leader_epoch,
            fingerprint: sought.fingerprint,
        };
        let exact = (header.producer_epoch, place.next_sequence) == (sought.epoch, sought.next_sequence);
        if exact || fits.is_none() {
            fits = Some((header.producer_epoch, place));
        }
        exact.then_some(())
    });
    Ok(match read.await? {
        Stretch::Read(_) => Stretch::Read(fits),
        Stretch::Failed(code) => Stretch::Failed(code),
    })
}

/// Whether the region's broker knows the producer. One that can't say may.
async fn knows(region: &Cluster, node_id: i32, partition: &Partition, producer_id: i64) -> Result<bool, ClientError> {
    let topic = TopicRequest::default().with_name(name(&partition.0)).with_partition_indexes(vec![partition.1]);
    let answer = match region.call(node_id, &DescribeProducersRequest::default().with_topics(vec![topic])).await {
        Ok(answer) => answer,
        Err(ClientError::Unsupported { .. }) => return Ok(true),
        Err(error) => return Err(error),
    };
    let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
    Ok(partitions.into_iter().any(|partition| {
        partition.error_code != 0
            || partition.active_producers.iter().any(|producer| producer.producer_id.0 == producer_id)
    }))
}
