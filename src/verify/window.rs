//! What the lockstep keeps of each side: the records that are not compared yet, and those that the other side did not have.

use std::collections::{HashMap, VecDeque};

use super::entry::Entry;

/// Missing and extra records remembered, to say of a record that it is there, but out of order.
const UNMATCHED_RECORDS: usize = 65_536;

/// One side's records that are not compared yet.
#[derive(Debug, Default)]
pub(super) struct Window {
    pub queue: VecDeque<Entry>,
    pub ended: bool,
    pub end_hole: u64,
}

impl Window {
    /// What stands in front now.
    pub fn behind(&self) -> Behind {
        match self.queue.front() {
            Some(entry) => Behind::from(entry),
            None => Behind { offset: None, hole: self.end_hole },
        }
    }

    /// Whether nothing more can come behind the records that are here, of which `at` is one or the place behind the last.
    pub fn exhausted_at(&self, at: usize) -> bool {
        self.ended && at <= self.queue.len()
    }
}

/// What follows a place in a log: the next record, if there is one, and how many offsets compaction took out before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Behind {
    pub offset: Option<i64>,
    pub hole: u64,
}

impl From<&Entry> for Behind {
    fn from(entry: &Entry) -> Self {
        Self { offset: Some(entry.offset), hole: entry.hole }
    }
}

/// Records of one side that the other does not have so far, by content.
#[derive(Debug, Default)]
pub(super) struct Unmatched {
    order: VecDeque<Entry>,
    counts: HashMap<(u64, u64, u64), usize>,
}

impl Unmatched {
    pub fn add(&mut self, entry: Entry) {
        self.order.push_back(entry);
        *self.counts.entry(entry.content()).or_default() += 1;
        if self.order.len() > UNMATCHED_RECORDS {
            self.take_at(0);
        }
    }

    fn take_at(&mut self, at: usize) -> Option<Entry> {
        let entry = self.order.remove(at)?;
        if let Some(count) = self.counts.get_mut(&entry.content()) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&entry.content());
            }
        }
        Some(entry)
    }

    pub fn may_hold(&self, like: &Entry) -> bool {
        self.counts.contains_key(&like.content())
    }

    /// Takes out the same record, if it is among them.
    pub fn take(&mut self, like: &Entry) -> Option<Entry> {
        if !self.may_hold(like) {
            return None;
        }
        let at = self.order.iter().position(|entry| entry.same(like))?;
        self.take_at(at)
    }
}

/// The longest common subsequence of two short rows, as pairs of indexes. One may be long, but not both.
pub(super) fn common(sources: &[Entry], regions: &[Entry]) -> Vec<(usize, usize)> {
    let width = regions.len() + 1;
    // lengths[s * width + r]: the longest for the rows that begin at s and r.
    let mut lengths = vec![0_u16; (sources.len() + 1) * width];
    for (s, source) in sources.iter().enumerate().rev() {
        for (r, region) in regions.iter().enumerate().rev() {
            lengths[s * width + r] = if source.same(region) {
                lengths[(s + 1) * width + r + 1].saturating_add(1)
            } else {
                lengths[(s + 1) * width + r].max(lengths[s * width + r + 1])
            };
        }
    }
    let (mut s, mut r) = (0, 0);
    let mut pairs = Vec::new();
    while s < sources.len() && r < regions.len() {
        if sources[s].same(&regions[r]) {
            pairs.push((s, r));
            (s, r) = (s + 1, r + 1);
        } else if lengths[(s + 1) * width + r] >= lengths[s * width + r + 1] {
            s += 1;
        } else {
            r += 1;
        }
    }
    pairs
}
