//! Fetching a partition's log: batches, each with what it is to the comparison.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{BrokerId, FetchRequest};
use tokio::sync::mpsc;

use crate::client::ClientError;
use crate::client::cluster::Cluster;
use crate::client::connection::Connection;
use crate::client::error_code;
use crate::client::rights::{Operation, Right};
use crate::mirror::identity::is_reserved;
use crate::mirror::offsets::name;
use crate::mirror::progress::is_passing;
use crate::wire::batch::{BatchHeader, HEADER_LEN};
use crate::wire::message_set::{Conversion, convert, is_old};

/// One Fetch gives at most so many bytes, or one batch.
pub const FETCH_BYTES_MAX: i32 = 2 << 20;
/// How long a broker waits for records that must be there.
const FETCH_WAIT_MS: i32 = 500;
/// How long one Fetch may take.
const FETCH_DEADLINE: Duration = Duration::from_secs(30);
/// A log that gives nothing for so long, in spite of new tries, can't be read.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two tries.
const RETRY: Duration = Duration::from_millis(200);
const CRC_START: usize = 21;

const REPLICA_NOT_AVAILABLE: i16 = 9;
const KAFKA_STORAGE_ERROR: i16 = 56;

/// Which records of a log count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The source's: born here and committed.
    Source,
    /// The region's: those that the stream with this producer id wrote.
    Stream(i64),
}

/// What to read.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where.
    pub cluster: Arc<Cluster>,
    /// The topic, by its name there.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The first offset.
    pub from: i64,
    /// The offset behind the last one.
    pub to: i64,
    /// Which records.
    pub keep: Keep,
}

/// Why a log can't be read on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SideError {
    /// The offset is not in the log any more.
    #[error("{cluster}: offset {offset} of {topic}-{partition} is no longer in the log")]
    Gone {
        /// The cluster's name.
        cluster: Arc<str>,
        /// The topic there.
        topic: Arc<str>,
        /// The partition.
        partition: i32,
        /// What was to be read.
        offset: i64,
    },
    /// A batch that can't be read.
    #[error("{cluster}: the batch at offset {offset} of {topic}-{partition} can't be read: {what}")]
    Unreadable {
        /// The cluster's name.
        cluster: Arc<str>,
        /// The topic there.
        topic: Arc<str>,
        /// The partition.
        partition: i32,
        /// Where it begins.
        offset: i64,
        /// What is wrong with it.
        what: String,
    },
    /// The broker does not answer, or not with records.
    #[error("{0}")]
    Unreachable(String),
}

/// What a batch is to the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Counts,
    Control,
    Aborted,
    OtherStream,
    OtherWriter,
}

/// A batch and what it is.
#[derive(Debug)]
pub(super) struct Sorted {
    pub header: BatchHeader,
    /// What is behind the header; nothing unless it counts.
    pub records: Bytes,
    pub sort: Sort,
}

pub(super) fn unreadable(target: &Target, offset: i64, what: &dyn std::fmt::Display) -> SideError {
    SideError::Unreadable {
        cluster: target.cluster.name().clone(),
        topic: target.topic.clone(),
        partition: target.partition,
        offset,
        what: what.to_string(),
    }
}

/// Fetches from the target's first offset to its last one, until nobody listens any more.
pub(super) async fn read(target: Target, answers: mpsc::Sender<Result<Vec<Sorted>, SideError>>) {
    let mut next = target.from;
    let mut connection = None;
    let mut progress_at = Instant::now();
    while next < target.to {
        let mut patience = PATIENCE;
        let why = match fetch(&target, next, &mut connection).await {
            Ok(answer) if answer.error_code == 0 => {
                let (batches, after) = match sort(&target, answer, next) {
                    Ok(sorted) => sorted,
                    Err(error) => {
                        let _ = answers.send(Err(error)).await;
                        return;
                    }
                };
                if after > next {
                    if answers.send(Ok(batches)).await.is_err() {
                        return;
                    }
                    next = after;
                    progress_at = Instant::now();
                    continue;
                }
                "its leader gives no records, though its log goes on".to_owned()
            }
            Ok(answer) if answer.error_code == error_code::OFFSET_OUT_OF_RANGE => {
                let gone = SideError::Gone {
                    cluster: target.cluster.name().clone(),
                    topic: target.topic.clone(),
                    partition: target.partition,
                    offset: next,
                };
                let _ = answers.send(Err(gone)).await;
                return;
            }
            Ok(answer) => {
                patience = patience_with(answer.error_code);
                target.cluster.explain(answer.error_code, Right::topic(Operation::Read, &target.topic))
            }
            Err(error) => {
                if !is_passing(&error) {
                    patience = Duration::ZERO;
                }
                error.to_string()
            }
        };
        connection = None;
        if progress_at.elapsed() > patience || answers.is_closed() {
            let Target { cluster, topic, partition, .. } = &target;
            let silent = format!("{}: {topic}-{partition} can't be read at offset {next}: {why}", cluster.name());
            let _ = answers.send(Err(SideError::Unreachable(silent))).await;
            return;
        }
        tokio::time::sleep(RETRY).await;
        // Somebody else may lead now. If that can't be asked, the next try says so.
        let _ = target.cluster.refresh().await;
    }
}

/// How long to try again after an error: not at all unless it passes by itself, as when a leader moves.
fn patience_with(code: i16) -> Duration {
    match code {
        error_code::UNKNOWN_TOPIC_OR_PARTITION
        | error_code::LEADER_NOT_AVAILABLE
        | error_code::NOT_LEADER_OR_FOLLOWER
        | error_code::REQUEST_TIMED_OUT
        | error_code::FENCED_LEADER_EPOCH
        | error_code::UNKNOWN_LEADER_EPOCH
        | error_code::OFFSET_NOT_AVAILABLE
        | REPLICA_NOT_AVAILABLE
        | KAFKA_STORAGE_ERROR => PATIENCE,
        _ => Duration::ZERO,
    }
}

async fn fetch(target: &Target, from: i64, slot: &mut Option<Connection>) -> Result<PartitionData, ClientError> {
    let what = || format!("{}-{}", target.topic, target.partition);
    let missing = || ClientError::NoBroker { cluster: target.cluster.name().clone(), what: what() };
    let leader = target.cluster.metadata().leader(&target.topic, target.partition).ok_or_else(missing)?;
    let connection = match slot {
        Some(connection) => connection,
        None => slot.insert(target.cluster.connect(leader.node_id).await?),
    };
    let partition = FetchPartition::default()
        .with_partition(target.partition)
        .with_fetch_offset(from)
        // A follower would answer too (KIP-392), with less than what is committed.
        .with_current_leader_epoch(leader.epoch)
        .with_last_fetched_epoch(-1)
        .with_log_start_offset(-1)
        .with_partition_max_bytes(FETCH_BYTES_MAX);
    let request = FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(FETCH_WAIT_MS)
        .with_min_bytes(1)
        .with_max_bytes(FETCH_BYTES_MAX)
        // Of a region's log, all is read: another writer's open transaction must not hide the stream's batches.
        .with_isolation_level(i8::from(target.keep == Keep::Source))
        .with_session_id(0)
        .with_session_epoch(-1)
        .with_topics(vec![FetchTopic::default().with_topic(name(&target.topic)).with_partitions(vec![partition])]);
    let answer = connection.call_within(&request, FETCH_DEADLINE).await?;
    if answer.error_code != 0 {
        let right = Right::topic(Operation::Read, &target.topic);
        return Err(target.cluster.refused(format!("cannot read {}", what()), answer.error_code, right));
    }
    let mut partitions = answer.responses.into_iter().flat_map(|topic| topic.partitions);
    partitions.find(|partition| partition.partition_index == target.partition).ok_or_else(missing)
}

/// The batches of an answer, each with what it is to the comparison, and the offset behind them.
fn sort(target: &Target, answer: PartitionData, from: i64) -> Result<(Vec<Sorted>, i64), SideError> {
    let aborted = answer.aborted_transactions.unwrap_or_default();
    let mut aborted: Vec<(i64, i64)> =
        aborted.into_iter().map(|transaction| (transaction.producer_id.0, transaction.first_offset)).collect();
    let mut rest = answer.records.unwrap_or_default();
    let mut batches = Vec::new();
    let mut next = from;
    while next < target.to {
        if is_old(&rest) == Some(true) {
            let Conversion { batch, used, is_behind } =
                convert(&rest, next..target.to, i32::MAX).map_err(|error| unreadable(target, next, &error))?;
            rest.advance(used);
            if let Some((header, records)) = batch {
                next = header.next_offset();
                // No stream writes in an old format.
                batches.push(match target.keep {
                    Keep::Source => Sorted { header, records, sort: Sort::Counts },
                    Keep::Stream(_) => Sorted { header, records: Bytes::new(), sort: Sort::OtherWriter },
                });
            } else if is_behind {
                next = target.to;
            } else if used == 0 {
                break;
            }
            continue;
        }
        let Some(head) = rest.first_chunk::<HEADER_LEN>() else { break };
        let header = BatchHeader::decode(head).map_err(|error| unreadable(target, next, &error))?;
        if header.total_len() > rest.len() {
            // A Fetch may end in the middle of a batch.
            break;
        }
        let whole = rest.split_to(header.total_len());
        // Aborted transactions as the streams read them: the first marker behind an aborted one's first offset ends it.
        let own = |(id, first): &(i64, i64)| *id == header.producer_id && *first <= header.base_offset;
        let in_aborted = aborted.iter().position(own);
        if let (true, Some(at)) = (header.is_control(), in_aborted) {
            aborted.swap_remove(at);
        }
        if header.next_offset() <= next {
            continue;
        }
        if header.base_offset >= target.to {
            next = target.to;
            break;
        }
        if crc32c::crc32c(&whole[CRC_START..]) != header.crc {
            return Err(unreadable(target, header.base_offset, &"its checksum is wrong"));
        }
        next = header.next_offset();
        let sort = match target.keep {
            _ if header.is_control() => Sort::Control,
            Keep::Source if header.is_transactional() && in_aborted.is_some() => Sort::Aborted,
            Keep::Source if is_reserved(header.producer_id) => Sort::OtherStream,
            Keep::Source => Sort::Counts,
            Keep::Stream(id) if header.producer_id == id => Sort::Counts,
            Keep::Stream(_) if is_reserved(header.producer_id) => Sort::OtherStream,
            Keep::Stream(_) => Sort::OtherWriter,
        };
        let records = if sort == Sort::Counts { whole.slice(HEADER_LEN..) } else { Bytes::new() };
        batches.push(Sorted { header, records, sort });
    }
    Ok((batches, next))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Reach;
    use crate::client::connection::Traffic;
    use crate::mirror::batch::tests::bytes_of;
    use crate::wire::batch::Identity;
    use bytes::BytesMut;
    use kafka_protocol::messages::ProducerId;
    use kafka_protocol::messages::fetch_response::AbortedTransaction;
    use proptest::prelude::*;

    const TRANSACTIONAL: i16 = 1 << 4;
    const CONTROL: i16 = 1 << 5;
    const OURS: i64 = 1 << 62 | 9;

    fn target(keep: Keep, to: i64) -> Target {
        let cluster = Cluster::new("us", Vec::new(), Reach::plain(), Duration::ZERO, Arc::<Traffic>::default());
        Target { cluster, topic: Arc::from("orders"), partition: 0, from: 0, to, keep }
    }

    /// Two records a batch, of these producers, with these attributes.
    fn log(batches: &[(i64, i16)]) -> Vec<u8> {
        let mut log = Vec::new();
        for (number, (producer_id, attributes)) in batches.iter().enumerate() {
            let identity = Identity { producer_id: *producer_id, producer_epoch: 0, base_sequence: 0 };
            let mut batch = BytesMut::from(&bytes_of(2 * number as i64, 2, 20, *attributes, identity)[..]);
            let crc = crc32c::crc32c(&batch[CRC_START..]);
            batch[17..21].copy_from_slice(&crc.to_be_bytes());
            log.extend_from_slice(&batch);
        }
        log
    }

    fn answer(log: &[u8], aborted: &[(i64, i64)]) -> PartitionData {
        let aborted = aborted.iter().map(|(id, first)| {
            AbortedTransaction::default().with_producer_id(ProducerId(*id)).with_first_offset(*first)
        });
        PartitionData::default()
            .with_records(Some(Bytes::copy_from_slice(log)))
            .with_aborted_transactions(Some(aborted.collect()))
    }

    fn sorts(keep: Keep, to: i64, answer: PartitionData) -> (Vec<Sort>, i64) {
        let (batches, next) = sort(&target(keep, to), answer, 0).expect("readable");
        (batches.iter().map(|batch| batch.sort).collect(), next)
    }

    #[test]
    fn of_the_source_count_what_was_born_there_and_not_aborted() {
        let marker = TRANSACTIONAL | CONTROL;
        let log = log(&[
            (-1, 0),
            (7, TRANSACTIONAL),
            (8, TRANSACTIONAL),
            (7, marker),
            // The same producer's next transaction, committed.
            (7, TRANSACTIONAL),
            (7, marker),
            (8, marker),
            (OURS, 0),
            (5, 0),
        ]);
        let (found, next) = sorts(Keep::Source, 18, answer(&log, &[(7, 2)]));
        use Sort::{Aborted, Control, Counts, OtherStream};
        assert_eq!(found, [Counts, Aborted, Counts, Control, Counts, Control, Control, OtherStream, Counts]);
        assert_eq!(next, 18);
    }

    #[test]
    fn of_a_region_count_the_streams_own_batches() {
        let log =
            log(&[(OURS, 0), (OURS + 1, 0), (-1, 0), (7, TRANSACTIONAL), (7, TRANSACTIONAL | CONTROL), (OURS, 0)]);
        let (found, next) = sorts(Keep::Stream(OURS), 12, answer(&log, &[]));
        use Sort::{Control, Counts, OtherStream, OtherWriter};
        assert_eq!(found, [Counts, OtherStream, OtherWriter, OtherWriter, Control, Counts]);
        assert_eq!(next, 12);
    }

    #[test]
    fn what_lies_behind_the_last_offset_is_left_alone_and_a_cut_batch_comes_again() {
        let log = log(&[(-1, 0), (-1, 0), (-1, 0)]);
        assert_eq!(sorts(Keep::Source, 2, answer(&log, &[])), (vec![Sort::Counts], 2));
        assert_eq!(sorts(Keep::Source, 6, answer(&log[..log.len() - 1], &[])), (vec![Sort::Counts; 2], 4));
    }

    #[test]
    fn a_batch_with_a_wrong_checksum_is_named() {
        let mut log = log(&[(-1, 0), (-1, 0)]);
        *log.last_mut().expect("bytes") ^= 1;
        let error = sort(&target(Keep::Source, 4), answer(&log, &[]), 0).expect_err("damaged");
        assert_eq!(error.to_string(), "us: the batch at offset 2 of orders-0 can't be read: its checksum is wrong");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_go_back(
            batches in prop::collection::vec((any::<i64>(), any::<i16>()), 0..5),
            damages in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            from in 0_i64..12,
        ) {
            let mut log = log(&batches);
            for (at, value) in damages {
                if !log.is_empty() {
                    let at = at.index(log.len());
                    log[at] = value;
                }
            }
            if let Ok((_, next)) = sort(&target(Keep::Source, 8), answer(&log, &[(7, 0)]), from) {
                prop_assert!(next >= from);
            }
        }
    }
}
