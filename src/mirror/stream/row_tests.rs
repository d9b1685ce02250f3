//! A stream that forwards another cluster's records, beside another path that brings the same to the region: under faults drawn by a seed.
//!
//! Replay one seed with `DIFFLUENT_SEED=<seed> cargo test --lib mirror::stream::row`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::tests::{Broker, Dice, Held, read};
use super::{Appended, FetchWhy, Outgoing, Phase, SourceView, Stream};
use crate::mirror::batch::tests::{CLIENT, bytes_of};
use crate::mirror::batch::{Feed, Fingerprint, fetched};
use crate::mirror::committed::Origin;
use crate::mirror::progress::Position;
use crate::wire::batch::{HEADER_LEN, Identity, sequence_after};

const SEEDS: u64 = 3_000;
const STEPS: usize = 400;
const THEIRS: i64 = 1 << 62 | 77;
const OTHERS: i64 = 1 << 62 | 78;

/// A batch as it was born: its number of records, and what they are.
struct Born {
    count: i32,
    bytes: Vec<u8>,
}

struct World {
    dice: Dice,
    now: Instant,
    /// The origin's batches, in order.
    born: Vec<Born>,
    /// How many of them the local log has.
    arrived: usize,
    /// Under which epoch and next sequence they come to the local log.
    row_here: (i16, i32),
    source: Vec<Bytes>,
    end: i64,
    captured: Vec<Bytes>,
    stream: Stream,
    broker: Broker,
    /// Whether there is another path.
    second_path: bool,
    link: VecDeque<Outgoing>,
    answers: VecDeque<(u64, Result<Appended, i16>)>,
    late: VecDeque<Outgoing>,
    committed: Position,
    rejoined: u32,
}

fn new_stream(position: Position, now: Instant) -> Stream {
    let topic: Arc<str> = Arc::from("orders");
    let mut stream = Stream::new(topic.clone(), 0, topic, THEIRS, Origin::Elsewhere(THEIRS));
    stream.start(position, position.producer_epoch < 0, now);
    stream
}

impl World {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        let committed = Position {
            source_offset: 0,
            source_leader_epoch: 0,
            producer_epoch: -1,
            sequence: 0,
            region_offset: 0,
            region_leader_epoch: -1,
            topic_id: uuid::Uuid::nil(),
            region_topic_id: Default::default(),
            handed_out_id: None,
            toll: Default::default(),
        };
        Self {
            dice: Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            now,
            born: Vec::new(),
            arrived: 0,
            row_here: (3, if seed.is_multiple_of(3) { i32::MAX - 20 } else { 0 }),
            source: Vec::new(),
            end: 0,
            captured: Vec::new(),
            stream: new_stream(committed, now),
            broker: Broker::default(),
            second_path: seed.is_multiple_of(2),
            link: VecDeque::new(),
            answers: VecDeque::new(),
            late: VecDeque::new(),
            committed,
            rejoined: 0,
        }
    }

    fn bear(&mut self) {
        let count = 1 + self.dice.below(4) as i32;
        let fill = 12 + self.dice.below(40) as usize;
        let mut bytes = bytes_of(0, count, fill, 0, CLIENT).to_vec();
        bytes[HEADER_LEN..HEADER_LEN + 8].copy_from_slice(&(self.born.len() as u64).to_be_bytes());
        self.born.push(Born { count, bytes });
    }

    /// Appends a batch to the local log: the origin's next one, or another one.
    fn append_to_source(&mut self) {
        let bytes = match self.dice.below(4) {
            0 => bytes_of(self.end, 2, 20, 0, CLIENT),
            1 => bytes_of(self.end, 1, 20, 0, Identity { producer_id: OTHERS, producer_epoch: 0, base_sequence: 0 }),
            _ if self.arrived < self.born.len() => {
                if self.dice.one_in(25) {
                    // The path to here has begun a new incarnation.
                    self.row_here = (self.row_here.0 + 1, 0);
                }
                let Born { count, bytes } = &self.born[self.arrived];
                let (producer_epoch, base_sequence) = self.row_here;
                let identity = Identity { producer_id: THEIRS, producer_epoch, base_sequence };
                let fill = bytes.len() - HEADER_LEN;
                let mut placed = bytes_of(self.end, *count, fill, 0, identity).to_vec();
                placed[HEADER_LEN..].copy_from_slice(&bytes[HEADER_LEN..]);
                self.row_here.1 = sequence_after(base_sequence, i64::from(*count));
                self.arrived += 1;
                Bytes::from(placed)
            }
            _ => return,
        };
        self.end = read(&bytes, Feed::Capture, self.now).header.next_offset();
        self.source.push(bytes.clone());
        if !self.dice.one_in(5) {
            self.captured.push(bytes);
        }
    }

    /// The other path brings the origin's next batch, which may not be here yet.
    fn bring(&mut self) {
        let next = self.broker.log.last().map_or(0, |last| number(&last.records) + 1);
        let Some(Born { count, bytes }) = self.born.get(next) else { return };
        let (epoch, sequence) = match self.broker.log.last() {
            // It began in its own way, and may begin a new incarnation at any time.
            None => (self.dice.below(8) as i16, 0),
            Some(last) if self.dice.one_in(20) => (last.epoch + 1, 0),
            Some(last) => (last.epoch, sequence_after(last.sequence, i64::from(last.count))),
        };
        let fingerprint = Fingerprint::of(&read(&Bytes::from(bytes.clone()), Feed::CatchUp, self.now));
        let records = bytes[HEADER_LEN..].to_vec();
        self.broker.log.push(Held { epoch, sequence, count: *count, records, fingerprint });
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

    /// What [`crate::mirror::rejoin`] does, with the model's logs.
    fn rejoin(&mut self) {
        self.rejoined += 1;
        let theirs = |bytes: &&Bytes| read(bytes, Feed::CatchUp, self.now).header.producer_id == THEIRS;
        let position = self.stream.position();
        let batches: Vec<_> =
            self.source.iter().filter(theirs).map(|bytes| read(bytes, Feed::CatchUp, self.now)).collect();
        let first = batches.iter().find(|batch| batch.header.base_offset >= position.source_offset);
        let held = &self.broker.log[..self.broker.high_watermark];
        let row = |source_offset, index: usize| {
            let last = &held[index];
            Position {
                source_offset,
                producer_epoch: last.epoch,
                sequence: sequence_after(last.sequence, i64::from(last.count)),
                region_offset: self.broker.offset(index + 1),
                region_leader_epoch: 0,
                ..position
            }
        };
        let Some(last) = held.len().checked_sub(1) else {
            return match first {
                None => self.stream.leave_row(self.end),
                Some(first) => {
                    let row = (first.header.producer_epoch, first.header.base_sequence);
                    self.stream.begin_row(first.header.base_offset, row, 0);
                }
            };
        };
        if let Some(here) = batches.iter().find(|batch| held[last].fingerprint.fits(batch)) {
            let position = row(here.header.next_offset(), last);
            return self.stream.join_row(position, self.now);
        }
        let Some(first) = first else { return self.stream.leave_row(self.end) };
        match held.iter().position(|held| held.fingerprint.fits(first)) {
            Some(index) => {
                let position = row(first.header.next_offset(), index);
                self.stream.join_row(position, self.now);
            }
            None => self.stream.on_scan_failed(self.now),
        }
    }

    fn locate(&mut self) {
        if self.stream.doubt().is_some() {
            return self.rejoin();
        }
        let position = self.stream.position();
        let held = &self.broker.log[..self.broker.high_watermark];
        let acknowledged =
            held.iter().enumerate().find(|(index, _)| self.broker.offset(index + 1) == position.region_offset);
        let proven = position.region_offset == 0
            || position.sequence == 0
            || acknowledged.is_some_and(|(_, last)| {
                let next = sequence_after(last.sequence, i64::from(last.count));
                (last.epoch, next) == (position.producer_epoch, position.sequence)
            });
        let newer = held.iter().any(|held| held.epoch > position.producer_epoch);
        if proven && !newer {
            self.stream.on_scanned(self.broker.scan(&position), false);
        } else {
            self.stream.lose_row(self.now);
        }
    }

    fn step(&mut self, faults: bool) {
        match self.dice.below(if faults { 19 } else { 11 }) {
            0 | 1 if !self.captured.is_empty() => {
                let at = self.dice.below(self.captured.len().min(2) as u64) as usize;
                let bytes = self.captured.remove(at);
                self.stream.on_captured(read(&bytes, Feed::Capture, self.now), 1, true, self.now);
            }
            2 => self
                .stream
                .on_source(SourceView { leader: 1, leader_epoch: 0, end: self.end, keeps_epochs: true }, self.now),
            3 => self.fetch(),
            4 | 5 => {
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
                self.now += Duration::from_millis(self.dice.below(400));
                self.stream.on_tick(self.now);
                if self.stream.wants_scan(self.now) {
                    self.stream.search_begins();
                    self.locate();
                }
            }
            10 => {
                self.broker.high_watermark = self.broker.log.len();
                if let Some(position) = self.stream.uncommitted() {
                    self.committed = position;
                    self.stream.on_committed(position);
                }
            }
            11 => self.bear(),
            12 | 13 => self.append_to_source(),
            14 if self.second_path => self.bring(),
            15 if self.dice.one_in(4) => self.lose_link(),
            16 => {
                if let Some(late) = self.late.pop_front() {
                    let _ = self.broker.append(&late);
                }
            }
            17 if self.dice.one_in(8) => {
                self.answers.clear();
                self.late.extend(self.link.drain(..));
                self.captured.clear();
                self.stream = new_stream(self.committed, self.now);
            }
            18 if self.dice.one_in(8) => {
                self.lose_link();
                self.late.clear();
                let log = self.broker.log.len() as u64;
                let kept = self.broker.high_watermark as u64;
                self.broker.log.truncate((kept + self.dice.below(log - kept + 1)) as usize);
                self.broker.high_watermark = self.broker.log.len();
            }
            _ => {}
        }
        assert_eq!(self.stream.incident, None);
        assert!(!matches!(self.stream.phase(), Phase::Stalled { .. }), "{:?}", self.stream.phase());
    }

    fn fetch(&mut self) {
        let Some(want) = self.stream.wants_fetch() else { return };
        let batches = 1 + self.dice.below(5) as usize;
        let from = self
            .source
            .iter()
            .position(|bytes| read(bytes, Feed::CatchUp, self.now).header.next_offset() > want.offset)
            .unwrap_or(self.source.len());
        let take = if want.why == FetchWhy::Peek { 1 } else { batches };
        let records: Vec<u8> = self.source[from..].iter().take(take).flat_map(|bytes| bytes.to_vec()).collect();
        self.stream.on_fetched(
            want.offset,
            fetched(Bytes::from(records), want.offset, self.now),
            Vec::new(),
            super::tests::ends(self.end),
            self.now,
        );
    }

    fn run(&mut self) {
        for _ in 0..STEPS {
            self.step(true);
        }
        for _ in 0..40_000 {
            self.step(false);
            let calm = self.link.is_empty() && self.answers.is_empty() && self.captured.is_empty();
            if self.stream.first_missing() == self.end && calm && self.broker.high_watermark == self.broker.log.len() {
                break;
            }
        }
        let held: Vec<usize> = self.broker.log.iter().map(|batch| number(&batch.records)).collect();
        let row: Vec<_> = self.broker.log.iter().map(|batch| (batch.epoch, batch.sequence, batch.count)).collect();
        assert_eq!(held, (0..held.len()).collect::<Vec<_>>(), "each once, in the origin's order: {row:?}");
        assert!(held.len() >= self.arrived, "{} of {} forwarded: {:?}", held.len(), self.arrived, self.stream);
        assert_eq!(self.stream.first_missing(), self.end, "{:?}", self.stream);
        if !self.second_path {
            // Nobody else writes to the row: it stays one.
            assert!(row.windows(2).all(|pair| {
                pair[1].0 == pair[0].0 && pair[1].1 == sequence_after(pair[0].1, i64::from(pair[0].2))
            }));
        }
    }
}

/// Which of the origin's batches it is.
fn number(records: &[u8]) -> usize {
    u64::from_be_bytes(records[..8].try_into().expect("eight bytes")) as usize
}

#[test]
fn whatever_other_path_brings_the_same_records_the_region_gets_each_once_in_their_order() {
    let seeds = match std::env::var("DIFFLUENT_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("DIFFLUENT_SEED is a number");
            seed..seed + 1
        }
        Err(_) => 0..SEEDS,
    };
    let mut rejoined = 0;
    for seed in seeds.clone() {
        let result = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            world.run();
            world.rejoined
        });
        rejoined += result.unwrap_or_else(|_| panic!("DIFFLUENT_SEED={seed} cargo test --lib mirror::stream::row"));
    }
    assert!(rejoined > 0);
    println!("{rejoined} rows were looked for in {seeds:?}");
}
