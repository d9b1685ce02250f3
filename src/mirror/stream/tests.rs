//! The stream against a model of the source's log and of a region's broker, under faults drawn by a seed.
//!
//! Replay one seed with `DIFFLUENT_SEED=<seed> cargo test --lib mirror::stream`.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::{ASK_AFTER, Appended, Doubt, FetchWhy, Found, LogEnds, Outgoing, Phase, SourceView, Stream};
use crate::client::error_code;
use crate::fuzzing::records::message;
use crate::mirror::batch::tests::{CLIENT, bytes_of};
use crate::mirror::batch::{Batch, Feed, Fingerprint, fetched};
use crate::mirror::committed::Origin;
use crate::mirror::progress::Position;
use crate::mirror::transactions::OpenTransaction;
use crate::wire::batch::{BatchHeader, Identity, sequence_after};
use crate::wire::records::Records;

const SEEDS: u64 = 3_000;
const STEPS: usize = 400;
const OURS: i64 = 1 << 62 | 5;
const CONTROL: i16 = 1 << 5 | 1 << 4;

/// xorshift64*: small, and the same for ever.
pub(super) struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Held {
    pub epoch: i16,
    pub sequence: i32,
    pub count: i32,
    pub records: Vec<u8>,
    pub fingerprint: Fingerprint,
}

/// A region's broker: its log, its high watermark, and Kafka's checks of sequences (see FIELD.md, and `ProducerAppendInfo` in Kafka).
#[derive(Default)]
pub(super) struct Broker {
    pub log: Vec<Held>,
    pub high_watermark: usize,
    /// Source offsets of batches that it refuses.
    pub refused: BTreeSet<i64>,
}

impl Broker {
    pub fn offset(&self, index: usize) -> i64 {
        self.log[..index].iter().map(|batch| i64::from(batch.count)).sum()
    }

    pub fn append(&mut self, outgoing: &Outgoing) -> Result<Appended, i16> {
        let header = &outgoing.batch.header;
        let (epoch, sequence) = (outgoing.identity.producer_epoch, outgoing.identity.base_sequence);
        if self.refused.contains(&header.base_offset) {
            return Err(error_code::MESSAGE_TOO_LARGE);
        }
        let recent = self.log.len().saturating_sub(5);
        let duplicate = (recent..self.log.len()).find(|index| {
            let batch = &self.log[*index];
            (batch.epoch, batch.sequence, batch.count) == (epoch, sequence, header.record_count)
        });
        if let Some(index) = duplicate {
            // Kafka waits for the in-sync replicas with a duplicate as with any other batch.
            if outgoing.barrier {
                self.high_watermark = self.high_watermark.max(index + 1);
            }
            return Ok(Appended { offset: self.offset(index), append_time_ms: header.max_timestamp });
        }
        if let Some(last) = self.log.last() {
            if epoch < last.epoch {
                return Err(47);
            }
            let expected = if epoch > last.epoch { 0 } else { sequence_after(last.sequence, i64::from(last.count)) };
            if sequence != expected {
                return Err(45);
            }
        }
        let records = outgoing.batch.records.concat();
        let fingerprint = Fingerprint::of(&outgoing.batch);
        self.log.push(Held { epoch, sequence, count: header.record_count, records, fingerprint });
        if outgoing.barrier {
            self.high_watermark = self.log.len();
        }
        Ok(Appended { offset: self.offset(self.log.len() - 1), append_time_ms: -1 })
    }

    pub fn scan(&self, position: &Position) -> Option<Found> {
        let mut expected = position.sequence;
        let mut found = None;
        for index in 0..self.high_watermark {
            let batch = &self.log[index];
            let offset = self.offset(index);
            if offset < position.region_offset || batch.epoch != position.producer_epoch {
                continue;
            }
            assert_eq!(batch.sequence, expected, "a gap in the region's log");
            expected = sequence_after(batch.sequence, i64::from(batch.count));
            found = Some(Found {
                next_sequence: expected,
                region_offset: offset + i64::from(batch.count),
                region_leader_epoch: 0,
                fingerprint: batch.fingerprint,
            });
        }
        found
    }
}

pub(super) struct World {
    dice: Dice,
    now: Instant,
    /// The source's batches, and where the log ends.
    source: Vec<Bytes>,
    end: i64,
    /// Whether the source's log holds single messages of format v1, to be put together as they are read.
    old_format: bool,
    /// Where each of the source's leader epochs began.
    epochs: Vec<i64>,
    /// Captured batches that have not reached the stream yet.
    captured: Vec<Bytes>,
    pub stream: Stream,
    broker: Broker,
    link: VecDeque<Outgoing>,
    answers: VecDeque<(u64, Result<Appended, i16>)>,
    /// Requests of a lost connection that may still arrive.
    late: VecDeque<Outgoing>,
    committed: Position,
    paused: bool,
    /// Whether the operator rewinds the stream now and then.
    rewinds: bool,
}

fn new_stream(position: Position, now: Instant, never_wrote: bool) -> Stream {
    let mut stream = Stream::new(Arc::from("orders"), 0, Arc::from("orders"), OURS, Origin::Here);
    stream.start(position, never_wrote, now);
    stream
}

pub(super) fn ends(end: i64) -> LogEnds {
    LogEnds { high_watermark: end, last_stable: end }
}

pub(super) fn read(bytes: &Bytes, feed: Feed, now: Instant) -> Batch {
    Batch::new(SmallVec::from_iter([bytes.clone()]), feed, now).expect("a batch of the model")
}

impl World {
    pub fn new(seed: u64) -> Self {
        let now = Instant::now();
        let committed = Position {
            source_offset: 0,
            source_leader_epoch: 0,
            producer_epoch: 0,
            // Close to the end of the sequence space, so that it wraps.
            sequence: if seed.is_multiple_of(3) { i32::MAX - 20 } else { 0 },
            region_offset: 0,
            region_leader_epoch: 0,
            topic_id: uuid::Uuid::nil(),
            region_topic_id: Default::default(),
            handed_out_id: None,
            toll: Default::default(),
        };
        Self {
            dice: Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            now,
            source: Vec::new(),
            end: 0,
            old_format: seed.is_multiple_of(4),
            epochs: vec![0],
            captured: Vec::new(),
            stream: new_stream(committed, now, true),
            broker: Broker::default(),
            link: VecDeque::new(),
            answers: VecDeque::new(),
            late: VecDeque::new(),
            committed,
            paused: false,
            rewinds: false,
        }
    }

    fn append_to_source(&mut self) {
        if self.old_format {
            let offset = self.end + i64::from(self.dice.one_in(10));
            self.end = offset + 1;
            self.source.push(message(1, offset, 0, 1_000 + offset, None, Some(&offset.to_be_bytes())).into());
            return;
        }
        let count = 1 + self.dice.below(4) as i32;
        let fill = 10 + self.dice.below(40) as usize;
        let bytes = match self.dice.below(12) {
            0 => bytes_of(self.end, 1, 10, CONTROL, CLIENT),
            1 => bytes_of(self.end, count, fill, 0, Identity { producer_id: 1 << 62 | 77, ..CLIENT }),
            _ => bytes_of(self.end, count, fill, 0, CLIENT),
        };
        let batch = read(&bytes, Feed::Capture, self.now);
        if batch.header.producer_id == -1 && !batch.header.is_control() && self.dice.one_in(50) {
            self.broker.refused.insert(self.end);
        }
        self.end = batch.header.next_offset();
        self.source.push(bytes.clone());
        if !batch.header.is_control() && !self.dice.one_in(5) {
            self.captured.push(bytes);
        }
    }

    fn lose_link(&mut self) {
        self.answers.clear();
        self.late.extend(self.link.drain(..));
        self.stream.on_link_lost(self.now);
        if self.dice.one_in(2) {
            self.stream.on_unreachable();
            self.stream.on_link_up(self.now);
        }
    }

    /// The operator steps over whatever is refused.
    fn operate(&mut self) {
        let Phase::Stalled { obstacle, reason, .. } = self.stream.phase() else { return };
        let obstacle = obstacle.unwrap_or_else(|| panic!("{reason}"));
        assert!(self.broker.refused.contains(&obstacle.offset), "{reason}");
        assert!(self.stream.skip(obstacle.offset - 1).is_err(), "not the batch that stalls it");
        assert_eq!(self.stream.skip(obstacle.offset), Ok(obstacle));
    }

    /// The operator has the stream begin anew at an earlier batch.
    fn rewind(&mut self) {
        let earlier = self.dice.below(self.source.len().max(1) as u64) as usize;
        let Some(bytes) = self.source.get(earlier) else { return };
        let offset = read(bytes, Feed::CatchUp, self.now).header.base_offset;
        let end = self.broker.offset(self.broker.high_watermark);
        let before = self.stream.position();
        match self.stream.rewind_to(offset, Some((end, 0)), self.now) {
            Ok(()) => assert!(offset < before.source_offset),
            Err(_) => assert_eq!(self.stream.position(), before, "nothing has changed"),
        }
    }

    fn step(&mut self, faults: bool) {
        if self.dice.one_in(20) {
            self.operate();
        }
        match self.dice.below(if faults { 19 } else { 11 }) {
            0 | 1 if !self.captured.is_empty() => {
                // Sessions overtake each other: any of the first two goes.
                let at = self.dice.below(self.captured.len().min(2) as u64) as usize;
                let batch = read(&self.captured.remove(at), Feed::Capture, self.now);
                if self.paused {
                    self.stream.on_missed(&batch, self.now);
                } else {
                    self.stream.on_captured(batch, 1, true, self.now);
                }
            }
            2 => {
                let leader_epoch = self.epochs.len() as i32 - 1;
                let view = SourceView { leader: 1, leader_epoch, end: self.end, keeps_epochs: !self.old_format };
                self.stream.on_source(view, self.now);
                if let Some(epoch) = self.stream.wants_epoch_check() {
                    let end = if self.old_format { -1 } else { self.epochs[epoch as usize + 1] };
                    self.stream.on_epoch_end(epoch, end);
                }
            }
            3 => self.fetch(),
            4 | 5 if !self.paused => {
                let quiet = self.dice.one_in(2);
                if let Some(outgoing) = self.stream.next_batch(quiet) {
                    self.link.push_back(outgoing);
                }
            }
            6 | 7 => {
                if let Some(outgoing) = self.link.pop_front() {
                    let answer = self.broker.append(&outgoing);
                    self.answers.push_back((outgoing.token, answer));
                }
            }
            8 => {
                if let Some((token, answer)) = self.answers.pop_front() {
                    self.stream.on_answer(token, answer.map_err(Into::into), 0, self.now);
                }
            }
            9 => {
                self.now += Duration::from_millis(self.dice.below(40));
                self.stream.on_tick(self.now);
                if self.stream.wants_scan(self.now) {
                    self.stream.search_begins();
                    self.stream.on_scanned(self.broker.scan(&self.stream.position()), false);
                }
            }
            10 => {
                // What was written without a barrier is replicated sooner or later.
                self.broker.high_watermark = self.broker.log.len();
                if let Some(position) = self.stream.uncommitted() {
                    self.committed = position;
                    self.stream.on_committed(position);
                }
            }
            // The source's leader loses the partition and gets it back: clients notice nothing, and no record is lost.
            11 if self.dice.one_in(6) => self.epochs.push(self.end),
            11 | 12 => self.append_to_source(),
            13 if self.dice.one_in(4) => self.lose_link(),
            14 => {
                if let Some(late) = self.late.pop_front() {
                    // Nobody hears the answer.
                    let _ = self.broker.append(&late);
                }
            }
            15 if self.dice.one_in(8) => {
                // SIGKILL: only what was committed is known afterwards.
                self.answers.clear();
                self.late.extend(self.link.drain(..));
                self.captured.clear();
                self.stream = new_stream(self.committed, self.now, false);
            }
            16 if self.dice.one_in(8) => {
                // Another broker takes over: what was not replicated is gone.
                self.lose_link();
                self.late.clear();
                let log = self.broker.log.len() as u64;
                let kept = self.broker.high_watermark as u64;
                self.broker.log.truncate((kept + self.dice.below(log - kept + 1)) as usize);
                self.broker.high_watermark = self.broker.log.len();
            }
            17 if self.dice.one_in(6) => self.paused = !self.paused,
            18 if self.rewinds && self.dice.one_in(20) => self.rewind(),
            _ => {}
        }
        if self.paused {
            self.stream.on_unreachable();
        }
        assert_eq!(self.stream.incident, None);
        assert_eq!(self.stream.take_diverged_records(), None, "the source has lost nothing");
    }

    fn fetch(&mut self) {
        let want = if self.paused { self.stream.wants_peek() } else { self.stream.wants_fetch() };
        let Some(want) = want else { return };
        let batches = 1 + self.dice.below(5) as usize;
        let next_offset = |bytes: &Bytes| match self.old_format {
            true => i64::from_be_bytes(*bytes.first_chunk().expect("an offset")) + 1,
            false => read(bytes, Feed::CatchUp, self.now).header.next_offset(),
        };
        let from = self.source.iter().position(|bytes| next_offset(bytes) > want.offset).unwrap_or(self.source.len());
        let take = if want.why == FetchWhy::Peek { 1 } else { batches };
        let records: Vec<u8> = self.source[from..].iter().take(take).flat_map(|bytes| bytes.to_vec()).collect();
        self.stream.on_fetched(
            want.offset,
            fetched(Bytes::from(records), want.offset, self.now),
            Vec::new(),
            ends(self.end),
            self.now,
        );
    }

    /// What the region must hold, record by record.
    fn expected(&self) -> Vec<Vec<u8>> {
        if self.old_format {
            return self.source.iter().map(|bytes| bytes[..8].to_vec()).collect();
        }
        self.source
            .iter()
            .map(|bytes| read(bytes, Feed::CatchUp, self.now))
            .filter(|batch| !batch.header.is_control() && batch.header.producer_id == -1)
            .filter(|batch| !self.broker.refused.contains(&batch.header.base_offset))
            .map(|batch| batch.records.concat())
            .collect()
    }

    fn run(&mut self) {
        self.run_until_at_rest();
        let held: Vec<Vec<u8>> = match self.old_format {
            true => self.broker.log.iter().flat_map(values).collect(),
            false => self.broker.log.iter().map(|batch| batch.records.clone()).collect(),
        };
        assert_eq!(held, self.expected());
        assert!(matches!(self.stream.phase(), Phase::Sending { .. }), "{:?}", self.stream.phase());
        if self.old_format {
            return;
        }
        let refused = |batch: &Batch| self.broker.refused.contains(&batch.header.base_offset);
        let skipped: u64 = (self.source.iter().map(|bytes| read(bytes, Feed::CatchUp, self.now)))
            .filter(refused)
            .map(|batch| batch.header.record_count as u64)
            .sum();
        assert_eq!(
            self.stream.position().toll.skipped_records,
            skipped,
            "every record that was stepped over is counted once, over restarts"
        );
    }

    /// With an operator who rewinds: each incarnation is an unbroken part of the source, none begins behind what was there before, and all is there.
    fn run_with_rewinds(&mut self) {
        self.rewinds = true;
        // Batches are compared one by one, and messages of an old format are put together anew by each rewind.
        self.old_format = false;
        self.run_until_at_rest();
        let expected = self.expected();
        let mut covered = 0;
        for incarnation in self.broker.log.chunk_by(|a, b| a.epoch == b.epoch) {
            let records: Vec<&Vec<u8>> = incarnation.iter().map(|batch| &batch.records).collect();
            let fits = |at: &usize| expected[*at..].iter().take(records.len()).eq(records.iter().copied());
            let at = (0..=covered).rev().filter(|at| expected.len() - at >= records.len()).find(fits);
            let at = at.unwrap_or_else(|| panic!("incarnation {} has a gap", incarnation[0].epoch));
            covered = covered.max(at + records.len());
        }
        assert_eq!(covered, expected.len(), "something is missing");
    }

    fn run_until_at_rest(&mut self) {
        for _ in 0..STEPS {
            self.step(true);
        }
        self.paused = false;
        for _ in 0..20_000 {
            self.step(false);
            let sending = matches!(self.stream.phase(), Phase::Sending { .. });
            if self.stream.position().source_offset == self.end && self.captured.is_empty() && sending {
                break;
            }
        }
        let at = self.stream.position();
        let row: Vec<_> = self.broker.log.iter().map(|batch| (batch.epoch, batch.sequence, batch.count)).collect();
        assert_eq!(at.source_offset, self.end, "it stands still in {:?} at {at:?}, with {row:?}", self.stream.phase());
        assert!(matches!(self.stream.phase(), Phase::Sending { .. }), "{:?}", self.stream.phase());
    }
}

/// The values of a converted batch's records.
fn values(batch: &Held) -> Vec<Vec<u8>> {
    let mut values = Vec::new();
    let header = BatchHeader {
        record_count: batch.count,
        last_offset_delta: batch.count - 1,
        ..read(&bytes_of(0, 1, 1, 0, CLIENT), Feed::CatchUp, Instant::now()).header
    };
    let mut records = Records::new(header, &batch.records).expect("not compressed");
    while let Some(record) = records.next_record().expect("a record") {
        values.push(record.value.expect("a value").to_vec());
    }
    values
}

#[test]
fn under_any_mix_of_faults_the_region_gets_every_record_once_and_in_order() {
    for_each_seed(World::run);
}

#[test]
fn under_any_mix_of_faults_a_rewind_leaves_no_gap_and_no_disorder() {
    for_each_seed(World::run_with_rewinds);
}

fn for_each_seed(run: fn(&mut World)) {
    let seeds = match std::env::var("DIFFLUENT_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("DIFFLUENT_SEED is a number");
            seed..seed + 1
        }
        Err(_) => 0..SEEDS,
    };
    for seed in seeds {
        let result = std::panic::catch_unwind(|| run(&mut World::new(seed)));
        assert!(result.is_ok(), "DIFFLUENT_SEED={seed} cargo test --lib mirror::stream");
    }
}

/// A stream that is sending, with a source log of two batches (offsets 0 to 4) that it has read.
pub(super) fn with_two_read(now: Instant, end: i64) -> Stream {
    let mut world = World::new(1);
    world.stream.on_source(SourceView { leader: 1, leader_epoch: 0, end, keeps_epochs: true }, now);
    let log = [bytes_of(0, 2, 20, 0, CLIENT), bytes_of(2, 3, 20, 0, CLIENT)].concat();
    world.stream.on_fetched(0, fetched(Bytes::from(log), 0, now), Vec::new(), ends(end), now);
    world.stream
}

/// Sends one batch and has it acknowledged.
pub(super) fn send_one(stream: &mut Stream, now: Instant) {
    let outgoing = stream.next_batch(false).expect("a batch is ready");
    assert!(stream.next_batch(false).is_none(), "not primed, or there is no other");
    let appended = Appended { offset: outgoing.batch.header.base_offset, append_time_ms: -1 };
    stream.on_answer(outgoing.token, Ok(appended), 0, now).expect("a barrier");
}

#[test]
fn everything_before_a_batch_that_cannot_be_mirrored_is_sent_before_the_stream_stalls() {
    let now = Instant::now();
    let mut stream = with_two_read(now, 9);
    let unreadable = || {
        let mut bytes = bytes_of(5, 1, 20, 0, CLIENT).to_vec();
        // A message format that there is not.
        bytes[16] = 9;
        fetched(Bytes::from(bytes), 5, now)
    };
    stream.on_fetched(5, unreadable(), Vec::new(), ends(9), now);
    assert_eq!(stream.wants_fetch(), None, "the log is not read again and again meanwhile");
    send_one(&mut stream, now);
    send_one(&mut stream, now);
    assert_eq!(stream.position().source_offset, 5);
    assert_eq!(stream.wants_fetch().map(|want| want.offset), Some(5));
    stream.on_fetched(5, unreadable(), Vec::new(), ends(9), now);
    stream.leave_draining(now);
    assert!(matches!(stream.phase(), Phase::Stalled { .. }), "{:?}", stream.phase());
}

#[test]
fn offsets_that_retention_took_are_counted_once_and_only_after_everything_before_them_is_sent() {
    let now = Instant::now();
    let mut stream = with_two_read(now, 30);
    assert_eq!(stream.on_source_lost(20), None, "two batches are not in the region yet");
    send_one(&mut stream, now);
    send_one(&mut stream, now);
    assert_eq!(stream.on_source_lost(20), Some((5, 20)));
    stream.leave_draining(now);
    let at = stream.position();
    assert_eq!((at.source_offset, at.sequence, at.producer_epoch, at.toll.lost_records), (20, 0, 1, 15));
    assert_eq!(stream.on_source_lost(20), None, "once");
    assert_eq!(stream.phase(), &Phase::Committing, "the new incarnation is committed before its first batch");
}

#[test]
fn a_stream_that_finds_more_in_the_region_than_its_source_has_left_compares_both_logs() {
    let now = Instant::now();
    let mut stream = World::new(1).stream;
    stream.start(Position { source_offset: 0, ..stream.position() }, false, now);
    stream.on_source(SourceView { leader: 1, leader_epoch: 0, end: 2, keeps_epochs: true }, now);
    let last = fetched(bytes_of(4, 1, 20, 0, CLIENT), 4, now).next_batch(i32::MAX).expect("one").expect("readable");
    let fingerprint = Fingerprint::of(&last);
    stream.on_scanned(Some(Found { next_sequence: 5, region_offset: 5, region_leader_epoch: 0, fingerprint }), false);
    let log = bytes_of(0, 2, 20, 0, CLIENT);
    stream.on_fetched(0, fetched(log, 0, now), Vec::new(), ends(2), now);
    assert!(matches!(stream.phase(), Phase::Replaying(_)) && stream.needs_ticks(), "{:?}", stream.phase());
    stream.on_tick(now);
    stream.on_tick(now + super::END_PATIENCE / 2);
    assert!(matches!(stream.phase(), Phase::Replaying(_)), "a new leader may know more in a moment");
    stream.on_tick(now + super::END_PATIENCE);
    stream.leave_draining(now);
    assert_eq!(
        stream.doubt(),
        Some(Doubt::Source(i64::MAX)),
        "{:?} {} {:?}",
        stream.phase(),
        stream.next_offset,
        stream.source
    );
}

#[test]
fn what_the_region_holds_last_is_told_by_its_content_and_not_by_its_place_in_the_row() {
    let now = Instant::now();
    let log = bytes_of(0, 1, 20, 0, CLIENT);
    let there = |region_log: Bytes| {
        let mut stream = World::new(1).stream;
        stream.start(Position { source_offset: 0, ..stream.position() }, false, now);
        stream.on_source(SourceView { leader: 1, leader_epoch: 0, end: 1, keeps_epochs: true }, now);
        let last = fetched(region_log, 0, now).next_batch(i32::MAX).expect("one").expect("readable");
        let fingerprint = Fingerprint::of(&last);
        stream
            .on_scanned(Some(Found { next_sequence: 1, region_offset: 1, region_leader_epoch: 0, fingerprint }), false);
        stream.on_fetched(0, fetched(log.clone(), 0, now), Vec::new(), ends(1), now);
        stream
    };
    let same = there(log.clone());
    assert_eq!((same.position().source_offset, same.doubt()), (1, None), "{:?}", same.phase());
    // As many records at the same place: the source has lost what the region got, and was written anew.
    let other = there(bytes_of(0, 1, 21, 0, CLIENT));
    assert_eq!(
        (other.position().source_offset, other.doubt()),
        (0, Some(Doubt::Source(i64::MAX))),
        "{:?}",
        other.phase()
    );
}

#[test]
fn a_link_that_is_lost_while_nothing_is_sent_has_the_regions_log_searched_before_anything_is() {
    let now = Instant::now();
    let mut stream = with_two_read(now, 30);
    send_one(&mut stream, now);
    send_one(&mut stream, now);
    stream.on_source_lost(20);
    stream.leave_draining(now);
    assert_eq!(stream.phase(), &Phase::Committing);
    // The broker that leads from now on may not have what the former one acknowledged.
    stream.on_link_lost(now);
    let position = stream.uncommitted().expect("a new incarnation");
    stream.on_committed(position);
    assert!(stream.wants_scan(now), "{:?}", stream.phase());
    stream.search_begins();
    stream.on_link_lost(now);
    stream.on_scanned(None, false);
    assert!(stream.wants_scan(now), "it was lost again while it was searched");
    stream.search_begins();
    stream.on_scanned(None, false);
    assert_eq!(stream.phase(), &Phase::Sending { primed: false });
}

#[test]
fn a_stream_that_waits_for_an_open_transaction_says_so_until_it_goes_on() {
    let now = Instant::now();
    let mut stream = with_two_read(now, 9);
    send_one(&mut stream, now);
    send_one(&mut stream, now);
    let nothing = || fetched(Bytes::new(), 5, now);
    let held_back = LogEnds { high_watermark: 9, last_stable: 5 };
    stream.on_fetched(5, nothing(), Vec::new(), held_back, now);
    assert!(stream.is_waiting() && stream.waits_for(now, 0).is_none(), "most transactions are short");
    let later = now + ASK_AFTER;
    assert!(stream.wants_transaction(later));
    let transaction = OpenTransaction { producer_id: 7, producer_epoch: 2, start_offset: 5, last_timestamp: 1_000 };
    stream.on_transaction(Some(transaction));
    stream.on_fetched(5, nothing(), Vec::new(), held_back, later);
    let words = stream.waits_for(later, 61_000).expect("words");
    for part in ["producer id 7 (epoch 2, which last wrote 60 s ago)", "offset 5", "--start-offset 5", "log's end 9"] {
        assert!(words.contains(part), "{part:?} is not in {words:?}");
    }
    let (what, remedy) = words.split_once("; ").expect("a reason and a remedy");
    assert!(what.contains("open transaction") && remedy.contains("kafka-transactions abort"));
    assert_eq!(stream.tells_of_transaction(later, 0), None);
    let long = now + super::waiting::TELL_AFTER;
    assert!(stream.tells_of_transaction(long, 0).is_some() && stream.tells_of_transaction(long, 0).is_none(), "once");
    let log = bytes_of(5, 4, 20, 0, CLIENT);
    stream.on_fetched(5, fetched(log, 5, long), Vec::new(), ends(9), long);
    assert!(!stream.is_waiting() && stream.waits_for(long, 0).is_none());
}

#[test]
fn what_was_born_elsewhere_is_passed_over_and_told_and_a_stream_that_is_held_back_sends_nothing() {
    let now = Instant::now();
    let mut stream = with_two_read(now, 9);
    let from_elsewhere = bytes_of(5, 4, 20, 0, Identity { producer_id: OURS + 1, producer_epoch: 0, base_sequence: 0 });
    assert_eq!(stream.passed_over, None);
    stream.on_fetched(5, fetched(from_elsewhere, 5, now), Vec::new(), ends(9), now);
    assert_eq!(stream.passed_over.take(), Some(OURS + 1));
    stream.hold_back("it would come back".to_owned(), now);
    assert!(!stream.can_send());
    assert!(matches!(stream.phase(), Phase::Stalled { obstacle: None, .. }), "{:?}", stream.phase());
    // It looks again now and then, and is held back again before anything goes.
    stream.on_tick(now + super::STALL_RETRY);
    stream.on_scanned(None, false);
    assert!(matches!(stream.phase(), Phase::Sending { .. }), "{:?}", stream.phase());
    stream.hold_back("it would come back".to_owned(), now);
    assert!(stream.next_batch(false).is_none());
}

#[test]
fn a_stream_that_finds_all_of_it_in_the_region_is_behind_no_longer() {
    let now = Instant::now();
    let mut stream = with_two_read(now, 9);
    send_one(&mut stream, now);
    send_one(&mut stream, now);
    let later = now + Duration::from_secs(5);
    stream.on_tick(later);
    assert!(stream.behind_for(later) > Duration::from_secs(1), "offsets 5 to 9 are missing");
    stream.on_link_lost(later);
    stream.search_begins();
    stream.on_unproven();
    // Another path has brought the rest.
    let position = Position { source_offset: 9, sequence: stream.position().sequence + 4, ..stream.position() };
    stream.resume_at(position);
    assert_eq!((stream.lag_records(), stream.behind_for(later)), (0, Duration::ZERO));
    assert!(!stream.needs_ticks());
}
