//! Reading a stream's position from the region's log: which of its batches arrived.
//!
//! From the position's region offset to the high watermark, the log is searched for batches with the stream's producer id and epoch. In steady
//! state there is nothing behind the position, so a search costs one empty Fetch for all streams of a broker.
//!
//! Batches above the high watermark are appended but not committed, and not seen: when the stream goes on and one of them is there, the broker
//! says so (it is a duplicate, or error 45), and the search is made again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{BrokerId, FetchRequest};
use tokio::time::Instant;

use super::batch::fetched;
use super::offsets::{Which, list_offsets, name};
use super::progress::Partition;
use super::stream::Found;
use crate::client::ClientError;
use crate::client::cluster::Cluster;
use crate::client::connection::Connection;
use crate::client::error_code;
use crate::wire::batch::sequence_after;

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
    /// The log ends before the offset that was acknowledged: the region has lost records, or the topic was made anew.
    Lost {
        /// Where it ends.
        end: i64,
    },
    /// The broker answered with an error.
    Failed(i16),
    /// The broker could not be asked.
    Unreachable,
}

/// Searches the logs that one broker leads.
///
/// # Errors
/// Those of the connection: nothing is known about any of the targets then.
pub async fn scan(cluster: &Cluster, node_id: i32, targets: Vec<Target>) -> Result<Vec<(usize, Scanned)>, ClientError> {
    let mut connection = cluster.connect(node_id).await?;
    let mut done = Vec::with_capacity(targets.len());
    let mut searches: HashMap<Partition, Search> =
        targets.into_iter().map(|target| (target.partition.clone(), Search::new(target))).collect();
    while !searches.is_empty() {
        let answer = fetch(&mut connection, searches.values()).await?;
        let before = searches.len();
        let mut moved = false;
        for topic in answer.responses {
            let topic_name: Arc<str> = Arc::from(topic.topic.as_str());
            for partition in topic.partitions {
                let key = (topic_name.clone(), partition.partition_index);
                let Some(search) = searches.get_mut(&key) else { continue };
                let from = search.from;
                let end = match partition.error_code {
                    0 => search.read(partition.records.unwrap_or_default(), partition.high_watermark),
                    error_code::OFFSET_OUT_OF_RANGE => search.out_of_range(cluster, node_id).await?,
                    code => Some(Scanned::Failed(code)),
                };
                moved |= search.from > from;
                if let Some(end) = end {
                    done.push((search.target.stream, end));
                    searches.remove(&key);
                }
            }
        }
        if !moved && searches.len() == before {
            // A broker that gives nothing though its log goes on: better to come again than to spin.
            done.extend(
                searches
                    .drain()
                    .map(|(_, search)| (search.target.stream, Scanned::Failed(error_code::LEADER_NOT_AVAILABLE))),
            );
        }
    }
    Ok(done)
}

struct Search {
    target: Target,
    from: i64,
    expected: i32,
    found: Option<Found>,
    out_of_row: u64,
}

impl Search {
    fn new(target: Target) -> Self {
        Self { from: target.from, expected: target.sequence, found: None, out_of_row: 0, target }
    }

    /// Takes what a Fetch gave; says so when the end is reached.
    fn read(&mut self, records: bytes::Bytes, high_watermark: i64) -> Option<Scanned> {
        if high_watermark < self.target.from {
            // A new leader learns the high watermark from its followers: what was acknowledged is there, but not shown yet. Had
            // it been lost, the offset would be out of range.
            return Some(Scanned::Failed(error_code::OFFSET_NOT_AVAILABLE));
        }
        // A batch that can't be read is not one of ours.
        for batch in fetched(records, Instant::now()).map_while(Result::ok) {
            let header = &batch.header;
            self.from = self.from.max(header.next_offset());
            if header.producer_id != self.target.producer_id
                || header.producer_epoch != self.target.producer_epoch
                || header.next_offset() <= self.target.from
            {
                continue;
            }
            if header.base_sequence != self.expected {
                self.out_of_row += 1;
                continue;
            }
            self.expected = sequence_after(header.base_sequence, i64::from(header.last_offset_delta) + 1);
            self.found = Some(Found {
                next_sequence: self.expected,
                region_offset: header.next_offset(),
                region_leader_epoch: header.leader_epoch,
                fingerprint: (batch.records_checksum(), header.compression(), header.record_count),
            });
        }
        (self.from >= high_watermark).then_some(Scanned::Complete { found: self.found, out_of_row: self.out_of_row })
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
        if end < self.from {
            return Ok(Some(Scanned::Lost { end }));
        }
        if start <= self.from {
            return Ok(Some(Scanned::Failed(error_code::OFFSET_OUT_OF_RANGE)));
        }
        self.from = start;
        Ok(None)
    }
}

async fn fetch(
    connection: &mut Connection,
    searches: impl Iterator<Item = &Search>,
) -> Result<kafka_protocol::messages::FetchResponse, ClientError> {
    let mut topics: HashMap<&Arc<str>, Vec<FetchPartition>> = HashMap::new();
    for search in searches {
        topics.entry(&search.target.partition.0).or_default().push(
            FetchPartition::default()
                .with_partition(search.target.partition.1)
                .with_fetch_offset(search.from)
                .with_current_leader_epoch(-1)
                .with_last_fetched_epoch(-1)
                .with_log_start_offset(-1)
                .with_partition_max_bytes(PARTITION_BYTES_MAX),
        );
    }
    let request = FetchRequest::default()
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
        );
    connection.call_within(&request, DEADLINE).await
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
            from: 100,
            producer_id: OURS,
            producer_epoch: 2,
            sequence: 50,
        })
    }

    fn log(batches: &[(i64, i32, i64, i16, i32)]) -> Bytes {
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
        assert_eq!(search().read(Bytes::new(), 100), Some(Scanned::Complete { found: None, out_of_row: 0 }));
    }

    #[test]
    fn a_new_leader_that_does_not_know_its_high_watermark_yet_has_lost_nothing() {
        let not_yet = Scanned::Failed(error_code::OFFSET_NOT_AVAILABLE);
        assert_eq!(search().read(Bytes::new(), 90), Some(not_yet));
    }

    #[test]
    fn the_search_goes_on_until_the_high_watermark() {
        let mut search = search();
        assert_eq!(search.read(log(&[(100, 5, OURS, 2, 50)]), 200), None);
        assert_eq!(search.from, 105);
    }
}
