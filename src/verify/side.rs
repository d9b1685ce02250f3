//! One side of a comparison: a partition's log as a stream of the records that count, in offset order.
//!
//! A task of its own fetches ahead, at most one answer; batches are decompressed one at a time. So a side holds three answers to a Fetch at the most
//! (each [`super::fetching::FETCH_BYTES_MAX`], or one batch if that is larger) and the records of one batch ([`crate::wire::records::RECORDS_BYTES_MAX`]).

use std::collections::VecDeque;
use std::hash::RandomState;

use indicatif::ProgressBar;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::entry::Entry;
use super::fetching::{SideError, Sort, Sorted, Target, read, unreadable};
use crate::wire::batch::{BatchHeader, sequence_after};
use crate::wire::records::Records;

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

    /// Forgets what was read so far but these last records, and gives them back: the comparison begins with them.
    pub fn begin_with(&mut self, entries: &[Entry]) {
        self.counts = Counts { records: entries.len() as u64, ..Counts::default() };
        self.unread(entries);
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
