//! One side of a comparison: a partition's log as a stream of the records that count, in offset order.
//!
//! A task of its own fetches ahead, at most one answer; batches are decompressed one at a time. So a side holds three answers to a Fetch at the most
//! (each [`FETCH_BYTES_MAX`], or one batch if that is larger) and the records of one batch ([`crate::wire::records::RECORDS_BYTES_MAX`]).

use std::collections::VecDeque;
use std::hash::RandomState;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use indicatif::ProgressBar;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{BrokerId, FetchRequest};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::entry::Entry;
use crate::client::ClientError;
use crate::client::cluster::Cluster;
use crate::client::connection::Connection;
use crate::client::error_code;
use crate::mirror::identity::is_reserved;
use crate::mirror::offsets::name;
use crate::wire::batch::{BatchHeader, HEADER_LEN, sequence_after};
use crate::wire::records::Records;

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

/// What was read of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Records that count.
    pub records: u64,
    /// Records of aborted transactions, of which the region never gets any.
    pub aborted: u64,
    /// Records that a stream of diffluent wrote, and not the compared one: in the source, those born elsewhere.
    pub other_streams: u64,
    /// Records that others wrote to the region's topic.
    pub other_writers: u64,
    /// Bytes of all batches.
    pub bytes: u64,
}

impl Counts {
    /// Adds what was read elsewhere.
    pub fn add(&mut self, other: Self) {
        self.records += other.records;
        self.aborted += other.aborted;
        self.other_streams += other.other_streams;
        self.other_writers += other.other_writers;
        self.bytes += other.bytes;
    }
}

/// What a batch is to the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Counts,
    Control,
    Aborted,
    OtherStream,
    OtherWriter,
}

/// A batch and what it is.
#[derive(Debug)]
struct Sorted {
    header: BatchHeader,
    records: Bytes,
    sort: Sort,
}

/// A log that is being read.
#[derive(Debug)]
pub struct Side {
    target: Target,
    answers: mpsc::Receiver<Result<Vec<Sorted>, SideError>>,
    reader: AbortHandle,
    batches: VecDeque<Sorted>,
    current: Option<(BatchHeader, Records)>,
    unread: VecDeque<Entry>,
    /// The offset that follows what was read; a larger one means a hole.
    expected: i64,
    hole: u64,
    counts: Counts,
    first: Option<(i16, i32)>,
    hashes: RandomState,
    bar: ProgressBar,
}

impl Drop for Side {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Side {
    /// Begins to read. `bar` is moved on by the offsets that were read.
    pub fn open(target: Target, hashes: RandomState, bar: ProgressBar) -> Self {
        let (answers_in, answers) = mpsc::channel(1);
        let reader = tokio::spawn(read(target.clone(), answers_in)).abort_handle();
        Self {
            expected: target.from,
            target,
            answers,
            reader,
            batches: VecDeque::new(),
            current: None,
            unread: VecDeque::new(),
            hole: 0,
            counts: Counts::default(),
            first: None,
            hashes,
            bar,
        }
    }

    /// What it reads.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// What was read so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Producer epoch and sequence of the first record that counts, once it was read.
    pub fn first_identity(&self) -> Option<(i16, i32)> {
        self.first
    }

    /// Offsets at the end that the log no longer has, once the end was reached.
    pub fn end_hole(&self) -> u64 {
        self.hole + u64::try_from(self.target.to - self.expected).unwrap_or(0)
    }

    /// Gives records back, to be read again next.
    pub fn unread(&mut self, entries: &[Entry]) {
        for entry in entries.iter().rev() {
            self.unread.push_front(*entry);
        }
    }

    /// The next records, at most `count`; they stay to be read again.
    ///
    /// # Errors
    /// As [`Side::next`].
    pub async fn peek(&mut self, count: usize) -> Result<Vec<Entry>, SideError> {
        let mut entries = Vec::new();
        while entries.len() < count
            && let Some(entry) = self.next().await?
        {
            entries.push(entry);
        }
        self.unread(&entries);
        Ok(entries)
    }

    /// The next record that counts; `None` at the end.
    ///
    /// # Errors
    /// [`SideError`]: nothing more can be read.
    pub async fn next(&mut self) -> Result<Option<Entry>, SideError> {
        if let Some(entry) = self.unread.pop_front() {
            return Ok(Some(entry));
        }
        loop {
            if let Some(entry) = self.next_of_batch()? {
                return Ok(Some(entry));
            }
            match self.batches.pop_front() {
                Some(batch) => self.begin_batch(batch)?,
                None => match self.answers.recv().await {
                    Some(batches) => self.batches.extend(batches?),
                    None => return Ok(None),
                },
            }
        }
    }

    fn begin_batch(&mut self, batch: Sorted) -> Result<(), SideError> {
        let header = batch.header;
        self.counts.bytes += header.total_len() as u64;
        let records = u64::try_from(header.record_count).unwrap_or(0);
        match batch.sort {
            Sort::Counts => {
                let opened = Records::new(header, &batch.records).map_err(|error| self.unreadable(&header, &error))?;
                self.current = Some((header, opened));
                return Ok(());
            }
            Sort::Control => {}
            Sort::Aborted => self.counts.aborted += records,
            Sort::OtherStream => self.counts.other_streams += records,
            Sort::OtherWriter => self.counts.other_writers += records,
        }
        self.step_to(header.base_offset);
        self.expected = self.expected.max(header.next_offset());
        self.bar.inc(u64::try_from(header.next_offset() - header.base_offset).unwrap_or(0));
        Ok(())
    }

    /// Everything up to `offset` that was not read is not there.
    fn step_to(&mut self, offset: i64) {
        self.hole += u64::try_from(offset - self.expected).unwrap_or(0);
        self.expected = self.expected.max(offset);
    }

    fn next_of_batch(&mut self) -> Result<Option<Entry>, SideError> {
        loop {
            let Some((header, records)) = &mut self.current else { return Ok(None) };
            let header = *header;
            let append_time = header.is_log_append_time();
            let entry = match records.next_record() {
                Ok(record) => record.map(|record| Entry::of(&record, append_time, 0, &self.hashes)),
                Err(error) => return Err(self.unreadable(&header, &error)),
            };
            let Some(entry) = entry else {
                self.current = None;
                self.step_to(header.next_offset().min(self.target.to));
                self.bar.inc(u64::try_from(header.next_offset() - header.base_offset).unwrap_or(0));
                return Ok(None);
            };
            if entry.offset < self.target.from || entry.offset >= self.target.to {
                continue;
            }
            self.step_to(entry.offset);
            self.expected = entry.offset + 1;
            self.counts.records += 1;
            // A log may begin in the middle of a batch (DeleteRecords).
            let sequence = sequence_after(header.base_sequence, entry.offset - header.base_offset);
            self.first.get_or_insert((header.producer_epoch, sequence));
            return Ok(Some(Entry { hole: std::mem::take(&mut self.hole), ..entry }));
        }
    }

    fn unreadable(&self, header: &BatchHeader, what: &dyn std::fmt::Display) -> SideError {
        unreadable(&self.target, header.base_offset, what)
    }
}

fn unreadable(target: &Target, offset: i64, what: &dyn std::fmt::Display) -> SideError {
    SideError::Unreadable {
        cluster: target.cluster.name().clone(),
        topic: target.topic.clone(),
        partition: target.partition,
        offset,
        what: what.to_string(),
    }
}

/// Fetches from the target's first offset to its last one, until nobody listens any more.
async fn read(target: Target, answers: mpsc::Sender<Result<Vec<Sorted>, SideError>>) {
    let mut next = target.from;
    let mut connection = None;
    let mut progress_at = Instant::now();
    while next < target.to {
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
            Ok(answer) => error_code::describe(answer.error_code),
            Err(error) => error.to_string(),
        };
        connection = None;
        if progress_at.elapsed() > PATIENCE || answers.is_closed() {
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

async fn fetch(target: &Target, from: i64, slot: &mut Option<Connection>) -> Result<PartitionData, ClientError> {
    let what = || format!("{}-{}", target.topic, target.partition);
    let missing = || ClientError::NoBroker { cluster: target.cluster.name().clone(), what: what() };
    let connection = match slot {
        Some(connection) => connection,
        None => {
            let leader = target.cluster.metadata().leader(&target.topic, target.partition).ok_or_else(missing)?;
            slot.insert(target.cluster.connect(leader.node_id).await?)
        }
    };
    let partition = FetchPartition::default()
        .with_partition(target.partition)
        .with_fetch_offset(from)
        .with_current_leader_epoch(-1)
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
        return Err(target.cluster.refused(format!("cannot read {}", what()), answer.error_code));
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
    while next < target.to
        && let Some(head) = rest.first_chunk::<HEADER_LEN>()
    {
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
