//! Reading a stream's position from the region's log: which of its batches arrived.
//!
//! From the position's region offset to the high watermark, the log is searched for batches with the stream's producer id and epoch. In steady
//! state there is nothing behind the position, so a search costs one short Fetch for all streams of a broker.
//!
//! It begins with the batch before the position, which was acknowledged: if another one lies there, or the log ends before it, the region has
//! lost what it had. Then, or when a newer incarnation has written there, the position proves nothing, and [`super::retrace`] finds it anew.
//!
//! Batches above the high watermark are appended but not committed, and not seen: when the stream goes on and one of them is there, the broker
//! says so (it is a duplicate, or error 45), and the search is made again.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{BrokerId, DescribeProducersRequest, FetchRequest};
use tokio::time::Instant;

use super::batch::{Fingerprint, fetched};
use super::offsets::{Which, list_offsets, name};
use super::progress::Partition;
use super::stream::Found;
use crate::client::ClientError;
use crate::client::cluster::Cluster;
use crate::client::connection::Connection;
use crate::client::error_code;
use crate::wire::batch::{BatchHeader, sequence_after};

const FETCH_BYTES_MAX: i32 = 8 * 1024 * 1024;
const PARTITION_BYTES_MAX: i32 = 1024 * 1024;
const DEADLINE: Duration = Duration::from_secs(30);

/// What to search for.
#[derive(Clone, Debug)]
pub struct Target {
    /// The stream's number within its region.
    pub stream: usize,
    /// Topic (by its name in the region) and partition.
    pub partition: Partition,
    /// The epoch of the broker that leads it: another one may lack what was acknowledged, and a follower would answer (KIP-392).
    pub leader_epoch: i32,
    /// The region offset to begin at.
    pub from: i64,
    /// The stream's producer id.
    pub producer_id: i64,
    /// Its incarnation.
    pub producer_epoch: i16,
    /// The sequence that follows the position.
    pub sequence: i32,
}

/// What the search has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scanned {
    /// The whole log was read.
    Complete {
        /// The last batch of the unbroken row that begins at the position's sequence.
        found: Option<Found>,
        /// Batches of this incarnation that are no part of that row: the broker had lost its state, order or single copy is hurt.
        out_of_row: u64,
    },
    /// What the region's log holds is not what the position says.
    Unproven(Doubt),
    /// The broker answered with an error.
    Failed(i16),
    /// The broker could not be asked.
    Unreachable,
}

/// Why a position proves nothing about the region's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// The log ends, at this offset, before what was acknowledged: the region has lost records, or the topic was made anew.
    Truncated(i64),
    /// Another batch lies where the last acknowledged one was: the region has lost records, and somebody has written since.
    Replaced,
    /// This newer incarnation of the stream has written there: committed progress was lost, or went back.
    Newer(i16),
    /// Retention took what followed the position there, and batches of the stream lie behind that, or its broker remembers some that lay there: committed
    /// progress is old.
    Retired,
}

/// So many logs are searched together, so that the first streams need not wait for the last.
pub const TARGETS_AT_ONCE: usize = 2000;

/// Searches logs that one broker leads, over a connection to it. What is found is in any order, and of each target.
///
/// # Errors
/// Those of the connection: nothing is known about any of the targets then.
pub async fn scan(
    connection: &mut Connection,
    cluster: &Cluster,
    node_id: i32,
    targets: &[Target],
) -> Result<Vec<(usize, Scanned)>, ClientError> {
    let mut done = Vec::with_capacity(targets.len());
    let mut searches: BTreeMap<Partition, Search> =
        targets.iter().map(|target| (target.partition.clone(), Search::new(target.clone()))).collect();
    while !searches.is_empty() {
        let answer = connection.call_within(&request(searches.values()), DEADLINE).await?;
        let before = searches.len();
        let mut moved = false;
        for topic in answer.responses {
            let topic_name: Arc<str> = Arc::from(topic.topic.as_str());
            for partition in topic.partitions {
                let key = (topic_name.clone(), partition.partition_index);
                let Some(search) = searches.get_mut(&key) else { continue };
                let before = (search.cursor, search.proved);
                let end = match partition.error_code {
                    0 => match search.read(partition.records.unwrap_or_default(), partition.high_watermark) {
                        Some(end) if search.may_have_lost(&end) => {
                            Some(search.ask_memory(cluster, node_id, end).await?)
                        }
                        end => end,
                    },
                    error_code::OFFSET_OUT_OF_RANGE => search.out_of_range(cluster, node_id).await?,
                    code => Some(Scanned::Failed(code)),
                };
                moved |= (search.cursor, search.proved) != before;
                if let Some(end) = end {
                    done.push((search.target.stream, end));
                    searches.remove(&key);
                }
            }
        }
        if !moved && searches.len() == before {
            // A broker that gives nothing of any of them though their logs go on: better to come again than to spin.
            done.extend(
                std::mem::take(&mut searches)
                    .into_values()
                    .map(|search| (search.target.stream, Scanned::Failed(error_code::LEADER_NOT_AVAILABLE))),
            );
        }
    }
    Ok(done)
}

struct Search {
    target: Target,
    /// What is read next.
    cursor: i64,
    /// Whether the batch before the position is the one that was acknowledged, as far as can be told.
    proved: bool,
    expected: i32,
    found: Option<Found>,
    out_of_row: u64,
    newer: Option<i16>,
    /// Whether retention took offsets behind the position.
    has_gap: bool,
    /// Whether batches of this incarnation lie behind that.
    retired: bool,
}

impl Search {
    fn new(target: Target) -> Self {
        // A stream that has written nothing in this incarnation has nothing that could be proved.
        let proved = target.sequence == 0 || target.from == 0;
        let cursor = if proved { target.from } else { target.from - 1 };
        Self {
            cursor,
            proved,
            expected: target.sequence,
            found: None,
            out_of_row: 0,
            newer: None,
            has_gap: false,
            retired: false,
            target,
        }
    }

    /// Takes what a Fetch gave; says so when the end is reached.
    fn read(&mut self, records: bytes::Bytes, high_watermark: i64) -> Option<Scanned> {
        if high_watermark < self.target.from {
            // A new leader learns the high watermark from its followers: what was acknowledged is there, but not shown yet. Had
            // it been lost, the offset would be out of range, and that is asked.
            if std::mem::replace(&mut self.cursor, self.target.from) < self.target.from {
                return None;
            }
            return Some(Scanned::Failed(error_code::OFFSET_NOT_AVAILABLE));
        }
        // A batch that can't be read is not one of ours.
        let mut batches = fetched(records, self.cursor, Instant::now()).map_while(Result::ok).peekable();
        if !self.proved {
            if self.cursor >= self.target.from {
                self.cursor = self.target.from - 1;
                return None;
            }
            match batches.peek() {
                // The answer was full before it came to this partition: it is asked for again.
                None => return None,
                // Behind the offset: compaction took what would have told.
                Some(batch) if batch.header.base_offset >= self.target.from => {}
                Some(batch) if self.is_acknowledged(&batch.header) => {}
                Some(_) => return Some(Scanned::Unproven(Doubt::Replaced)),
            }
            self.proved = true;
        }
        for batch in batches {
            let header = &batch.header;
            self.cursor = self.cursor.max(header.next_offset());
            if header.producer_id != self.target.producer_id || header.next_offset() <= self.target.from {
                continue;
            }
            if header.producer_epoch != self.target.producer_epoch {
                self.newer =
                    self.newer.max(Some(header.producer_epoch).filter(|epoch| *epoch > self.target.producer_epoch));
                continue;
            }
            if header.base_sequence != self.expected {
                self.retired |= self.has_gap && self.found.is_none();
                self.out_of_row += 1;
                continue;
            }
            self.expected = sequence_after(header.base_sequence, i64::from(header.last_offset_delta) + 1);
            self.found = Some(Found {
                next_sequence: self.expected,
                region_offset: header.next_offset(),
                region_leader_epoch: header.leader_epoch,
                fingerprint: Fingerprint::of(&batch),
            });
        }
        (self.cursor >= high_watermark).then_some(match self.newer {
            Some(epoch) => Scanned::Unproven(Doubt::Newer(epoch)),
            None if self.retired => Scanned::Unproven(Doubt::Retired),
            None => Scanned::Complete { found: self.found, out_of_row: self.out_of_row },
        })
    }

    /// Whether this is the batch that ends at the position.
    fn is_acknowledged(&self, header: &BatchHeader) -> bool {
        header.producer_id == self.target.producer_id
            && header.producer_epoch == self.target.producer_epoch
            && header.next_offset() == self.target.from
            && sequence_after(header.base_sequence, i64::from(header.last_offset_delta) + 1) == self.target.sequence
    }

    /// Nothing of the stream lies behind the position, but retention took what did: something of it may have been there.
    fn may_have_lost(&self, end: &Scanned) -> bool {
        self.has_gap && *end == Scanned::Complete { found: None, out_of_row: 0 }
    }

    /// Whether something of the stream was in what retention took is known only to the broker's memory of producers. One that remembers nothing takes whatever
    /// comes: nothing can be there twice then.
    async fn ask_memory(&self, cluster: &Cluster, node_id: i32, end: Scanned) -> Result<Scanned, ClientError> {
        let remembered = match remembered(cluster, node_id, &self.target.partition, self.target.producer_id).await {
            Ok(remembered) => remembered,
            // It can't be asked: it may have been there.
            Err(ClientError::Unsupported { .. }) => return Ok(Scanned::Unproven(Doubt::Retired)),
            Err(error) => return Err(error),
        };
        Ok(match remembered {
            Remembered::Failed(code) => Scanned::Failed(code),
            Remembered::Nothing => end,
            Remembered::Producer { epoch, next_sequence } => {
                let (ours, at) = (self.target.producer_epoch, self.target.sequence);
                match epoch.cmp(&ours) {
                    Ordering::Greater => Scanned::Unproven(Doubt::Newer(epoch)),
                    // An incarnation that has not written yet.
                    Ordering::Less => end,
                    Ordering::Equal if next_sequence == at => end,
                    Ordering::Equal => Scanned::Unproven(Doubt::Retired),
                }
            }
        })
    }

    /// The offset is not in the log: it was removed by retention, or never was there.
    async fn out_of_range(&mut self, cluster: &Cluster, node_id: i32) -> Result<Option<Scanned>, ClientError> {
        let partition = [&self.target.partition];
        let mut bounds = [0; 2];
        for (bound, which) in bounds.iter_mut().zip([Which::Start, Which::End]) {
            match list_offsets(cluster, node_id, &partition, which).await?.pop() {
                Some((_, Ok(offset))) => *bound = offset.offset,
                Some((_, Err(code))) => return Ok(Some(Scanned::Failed(code))),
                None => return Ok(Some(Scanned::Failed(-1))),
            }
        }
        let [start, end] = bounds;
        if end < self.cursor {
            return Ok(Some(Scanned::Unproven(Doubt::Truncated(end))));
        }
        if start <= self.cursor {
            return Ok(Some(Scanned::Failed(error_code::OFFSET_OUT_OF_RANGE)));
        }
        self.has_gap = start > self.target.from;
        self.cursor = start.max(self.target.from);
        self.proved = true;
        Ok(None)
    }
}

/// What a broker remembers of a producer in a partition that it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remembered {
    /// Nothing: it never wrote there, or so long ago that it was forgotten.
    Nothing,
    /// Its last batch.
    Producer {
        /// The batch's epoch.
        epoch: i16,
        /// The sequence that follows it.
        next_sequence: i32,
    },
    /// It can't say now: Kafka's error code.
    Failed(i16),
}

/// Asks the leader of a partition what it remembers of a producer.
///
/// # Errors
/// Those of the call; [`ClientError::Unsupported`] of brokers that don't know DescribeProducers.
pub(super) async fn remembered(
    cluster: &Cluster,
    node_id: i32,
    partition: &Partition,
    producer_id: i64,
) -> Result<Remembered, ClientError> {
    let topic = TopicRequest::default().with_name(name(&partition.0)).with_partition_indexes(vec![partition.1]);
    let answer = cluster.call(node_id, &DescribeProducersRequest::default().with_topics(vec![topic])).await?;
    let Some(partition) = answer.topics.iter().flat_map(|topic| &topic.partitions).next() else {
        return Ok(Remembered::Failed(error_code::UNKNOWN_TOPIC_OR_PARTITION));
    };
    if partition.error_code != 0 {
        return Ok(Remembered::Failed(partition.error_code));
    }
    let producer = partition.active_producers.iter().find(|producer| producer.producer_id.0 == producer_id);
    Ok(match producer {
        Some(producer) if producer.last_sequence >= 0 => Remembered::Producer {
            epoch: i16::try_from(producer.producer_epoch).unwrap_or(i16::MAX),
            next_sequence: sequence_after(producer.last_sequence, 1),
        },
        _ => Remembered::Nothing,
    })
}

fn request<'a>(searches: impl Iterator<Item = &'a Search>) -> FetchRequest {
    let mut topics: BTreeMap<&Arc<str>, Vec<FetchPartition>> = BTreeMap::new();
    for search in searches {
        topics.entry(&search.target.partition.0).or_default().push(
            FetchPartition::default()
                .with_partition(search.target.partition.1)
                .with_fetch_offset(search.cursor)
                .with_current_leader_epoch(search.target.leader_epoch)
                .with_last_fetched_epoch(-1)
                .with_log_start_offset(-1)
                .with_partition_max_bytes(PARTITION_BYTES_MAX),
        );
    }
    FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(0)
        .with_min_bytes(0)
        .with_max_bytes(FETCH_BYTES_MAX)
        .with_isolation_level(0)
        .with_session_id(0)
        .with_session_epoch(-1)
        .with_topics(
            topics
                .into_iter()
                .map(|(topic, partitions)| FetchTopic::default().with_topic(name(topic)).with_partitions(partitions))
                .collect(),
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::batch::tests::bytes_of;
    use crate::wire::batch::Identity;
    use bytes::{Bytes, BytesMut};

    const OURS: i64 = 1 << 62 | 9;

    fn search() -> Search {
        Search::new(Target {
            stream: 0,
            partition: (Arc::from("orders"), 0),
            leader_epoch: 0,
            from: 100,
            producer_id: OURS,
            producer_epoch: 2,
            sequence: 50,
        })
    }

    /// The batch that was acknowledged last.
    const ACKNOWLEDGED: (i64, i32, i64, i16, i32) = (97, 3, OURS, 2, 47);

    /// Offset, records, producer id, epoch and sequence of each batch behind the acknowledged one.
    fn log(batches: &[(i64, i32, i64, i16, i32)]) -> Bytes {
        bare_log(&[&[ACKNOWLEDGED], batches].concat())
    }

    fn bare_log(batches: &[(i64, i32, i64, i16, i32)]) -> Bytes {
        let mut log = BytesMut::new();
        for &(offset, count, producer_id, producer_epoch, base_sequence) in batches {
            let identity = Identity { producer_id, producer_epoch, base_sequence };
            log.extend_from_slice(&bytes_of(offset, count, 10, 0, identity));
        }
        log.freeze()
    }

    #[test]
    fn the_last_of_our_batches_in_an_unbroken_row_is_found_among_others() {
        let records = log(&[
            (100, 5, OURS, 2, 50),
            (105, 1, 7, 0, 0),
            (106, 2, OURS, 2, 55),
            (108, 1, OURS, 1, 57),
            (109, 3, -1, -1, -1),
        ]);
        let Some(Scanned::Complete { found: Some(found), out_of_row: 0 }) = search().read(records, 112) else {
            panic!("not found")
        };
        assert_eq!((found.next_sequence, found.region_offset), (57, 108));
    }

    /// A broker that leads no longer, or a follower (KIP-392), would show a log that lacks what was acknowledged. As long as the region's brokers remember the
    /// producer, what is then sent again harms nothing; where they have forgotten it, it would be there twice.
    #[test]
    fn each_search_names_the_epoch_of_the_leader_that_it_trusts() {
        let searches = [(0, 7), (1, 9)].map(|(partition, leader_epoch)| {
            let mut search = search();
            search.target.partition.1 = partition;
            search.target.leader_epoch = leader_epoch;
            search
        });
        let request = request(searches.iter());
        let asked = request.topics.iter().flat_map(|topic| &topic.partitions);
        let asked: Vec<_> = asked.map(|asked| (asked.partition, asked.current_leader_epoch)).collect();
        assert_eq!(asked, [(0, 7), (1, 9)]);
    }

    #[test]
    fn a_batch_behind_a_gap_is_no_part_of_the_row() {
        let records = log(&[(100, 5, OURS, 2, 50), (105, 5, OURS, 2, 60)]);
        let Some(Scanned::Complete { found: Some(found), out_of_row: 1 }) = search().read(records, 110) else {
            panic!("not found")
        };
        assert_eq!(found.next_sequence, 55);
    }

    #[test]
    fn an_empty_log_behind_the_position_means_that_nothing_arrived() {
        assert_eq!(search().read(log(&[]), 100), Some(Scanned::Complete { found: None, out_of_row: 0 }));
    }

    #[test]
    fn a_new_leader_that_does_not_know_its_high_watermark_yet_has_lost_nothing() {
        let not_yet = Scanned::Failed(error_code::OFFSET_NOT_AVAILABLE);
        let mut search = search();
        assert_eq!(search.read(Bytes::new(), 90), None);
        assert_eq!(search.cursor, 100, "where a log that is too short says so");
        assert_eq!(search.read(Bytes::new(), 90), Some(not_yet));
    }

    #[test]
    fn a_partition_that_an_answer_had_no_room_for_is_asked_for_again() {
        let mut search = search();
        let before = search.cursor;
        assert_eq!(search.read(Bytes::new(), 100), None);
        assert_eq!((search.cursor, search.proved), (before, false));
    }

    #[test]
    fn the_search_goes_on_until_the_high_watermark() {
        let mut search = search();
        assert_eq!(search.read(log(&[(100, 5, OURS, 2, 50)]), 200), None);
        assert_eq!(search.cursor, 105);
    }

    #[test]
    fn another_batch_where_the_acknowledged_one_was_means_that_the_region_has_lost_records() {
        let replaced = Some(Scanned::Unproven(Doubt::Replaced));
        for other in
            [(97, 3, 7, 0, 0), (97, 3, OURS, 2, 46), (97, 3, OURS, 1, 47), (96, 4, OURS, 2, 47), (98, 4, OURS, 2, 46)]
        {
            assert_eq!(search().read(bare_log(&[other]), 102), replaced, "{other:?}");
        }
    }

    #[test]
    fn a_hole_of_compaction_where_the_acknowledged_batch_was_proves_nothing_and_harms_nothing() {
        let complete = Some(Scanned::Complete { found: None, out_of_row: 0 });
        assert_eq!(search().read(bare_log(&[(103, 1, 7, 0, 0)]), 104), complete);
    }

    #[test]
    fn batches_behind_what_retention_took_say_that_the_position_is_old() {
        let mut search = search();
        (search.has_gap, search.proved, search.cursor) = (true, true, 110);
        let retired = Some(Scanned::Unproven(Doubt::Retired));
        assert_eq!(search.read(bare_log(&[(110, 5, OURS, 2, 60), (115, 1, OURS, 2, 65)]), 116), retired);
    }

    #[test]
    fn where_retention_took_what_followed_the_position_nothing_found_proves_nothing() {
        let nothing = Scanned::Complete { found: None, out_of_row: 0 };
        let mut search = search();
        (search.has_gap, search.proved, search.cursor) = (true, true, 110);
        assert_eq!(search.read(bare_log(&[(110, 5, 7, 0, 0)]), 115), Some(nothing));
        assert!(search.may_have_lost(&nothing));
        search.has_gap = false;
        assert!(!search.may_have_lost(&nothing));
    }

    #[test]
    fn a_newer_incarnation_behind_the_position_is_told() {
        let records = log(&[(100, 5, OURS, 2, 50), (105, 2, OURS, 4, 0), (107, 2, OURS, 3, 0)]);
        assert_eq!(search().read(records, 109), Some(Scanned::Unproven(Doubt::Newer(4))));
    }
}
