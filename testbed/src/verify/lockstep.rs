//! Two sequences compared in lockstep, with a look-ahead only where they differ. No I/O.

use std::collections::{HashMap, VecDeque};

use anyhow::Result;

use crate::verify::{Difference, Entry, Kind, Report};

/// Records looked ahead on each side to find out what a difference is; about 100 bytes each. A gap longer than this is
/// still a difference, but may be told as missing and extra records.
const LOOK_AHEAD_RECORDS: usize = 65_536;
/// Equal records remembered, to tell a repeated record from one that was never there.
const RECENT_RECORDS: usize = 65_536;

type Fingerprint = (i64, u64, u64, u64);

/// One side: its source, what was looked ahead, and how often each content is in there.
struct Window<I> {
    source: I,
    queue: VecDeque<Entry>,
    counts: HashMap<Fingerprint, u32>,
    /// Records inside the window that were already accounted for as out of order.
    skipped: HashMap<Fingerprint, u32>,
}

impl<I: Iterator<Item = Result<Entry>>> Window<I> {
    fn new(source: I) -> Self {
        Self { source, queue: VecDeque::new(), counts: HashMap::new(), skipped: HashMap::new() }
    }

    /// Makes sure that the front is there, if there is one, and is not accounted for yet.
    fn front(&mut self) -> Result<Option<&Entry>> {
        loop {
            if self.queue.is_empty() && !self.pull()? {
                return Ok(None);
            }
            let Some(front) = self.queue.front() else { return Ok(None) };
            let fingerprint = front.fingerprint();
            match self.skipped.get_mut(&fingerprint) {
                Some(count) => {
                    *count -= 1;
                    if *count == 0 {
                        self.skipped.remove(&fingerprint);
                    }
                    // Its count in the window went when it was accounted for.
                    self.queue.pop_front();
                }
                None => break,
            }
        }
        Ok(self.queue.front())
    }

    fn pull(&mut self) -> Result<bool> {
        match self.source.next() {
            Some(entry) => {
                let entry = entry?;
                *self.counts.entry(entry.fingerprint()).or_default() += 1;
                self.queue.push_back(entry);
                Ok(true)
            }
            None => Ok(false),
        }
    }

    fn fill(&mut self) -> Result<()> {
        while self.queue.len() < LOOK_AHEAD_RECORDS && self.pull()? {}
        Ok(())
    }

    fn holds(&self, fingerprint: &Fingerprint) -> bool {
        self.counts.contains_key(fingerprint)
    }

    fn forget(&mut self, fingerprint: &Fingerprint) {
        if let Some(count) = self.counts.get_mut(fingerprint) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(fingerprint);
            }
        }
    }

    fn pop(&mut self) -> Option<Entry> {
        let entry = self.queue.pop_front()?;
        self.forget(&entry.fingerprint());
        Some(entry)
    }

    /// Accounts for a record further back: it is skipped when the front gets there.
    fn skip(&mut self, fingerprint: Fingerprint) {
        self.forget(&fingerprint);
        *self.skipped.entry(fingerprint).or_default() += 1;
    }
}

/// The last records that were equal.
#[derive(Default)]
struct Recent {
    order: VecDeque<Fingerprint>,
    counts: HashMap<Fingerprint, u32>,
}

impl Recent {
    fn add(&mut self, fingerprint: Fingerprint) {
        self.order.push_back(fingerprint);
        *self.counts.entry(fingerprint).or_default() += 1;
        if self.order.len() > RECENT_RECORDS
            && let Some(old) = self.order.pop_front()
            && let Some(count) = self.counts.get_mut(&old)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&old);
            }
        }
    }
}

/// Compares one partition and adds to the report.
pub struct Lockstep<'a> {
    partition: i32,
    report: &'a mut Report,
    recent: Recent,
}

impl<'a> Lockstep<'a> {
    /// For `partition` of the topic that `report` is about.
    pub fn new(partition: i32, report: &'a mut Report) -> Self {
        Self { partition, report, recent: Recent::default() }
    }

    /// Walks both sides to their ends.
    ///
    /// # Errors
    /// When a side can't be read.
    pub fn run<E, A>(mut self, expected: E, actual: A) -> Result<()>
    where
        E: Iterator<Item = Result<Entry>>,
        A: Iterator<Item = Result<Entry>>,
    {
        let (mut expected, mut actual) = (Window::new(expected), Window::new(actual));
        loop {
            let left = expected.front()?.map(Entry::fingerprint);
            let right = actual.front()?.map(Entry::fingerprint);
            match (left, right) {
                (None, None) => return Ok(()),
                (Some(_), None) => self.add(Kind::Missing, expected.pop(), None),
                (None, Some(right)) => self.add(self.surplus(&right), None, actual.pop()),
                (Some(left), Some(right)) if left == right => {
                    self.report.records += 1;
                    self.recent.add(left);
                    expected.pop();
                    actual.pop();
                }
                (Some(left), Some(right)) => {
                    expected.fill()?;
                    actual.fill()?;
                    self.differ(left, right, &mut expected, &mut actual);
                }
            }
        }
    }

    /// Both fronts are there and not equal.
    fn differ<E, A>(&mut self, left: Fingerprint, right: Fingerprint, expected: &mut Window<E>, actual: &mut Window<A>)
    where
        E: Iterator<Item = Result<Entry>>,
        A: Iterator<Item = Result<Entry>>,
    {
        let here = (expected.queue.front().cloned(), actual.queue.front().cloned());
        match (actual.holds(&left), expected.holds(&right)) {
            (false, true) => {
                expected.pop();
                self.add(Kind::Missing, here.0, here.1);
            }
            (true, false) => {
                actual.pop();
                self.add(self.surplus(&right), here.0, here.1);
            }
            (true, true) => {
                // It is expected later: it came too early.
                actual.pop();
                expected.skip(right);
                self.add(Kind::OutOfOrder, here.0, here.1);
            }
            (false, false) if self.recent.counts.contains_key(&right) => {
                actual.pop();
                self.add(Kind::Duplicate, here.0, here.1);
            }
            (false, false) if resemble(&left, &right) => {
                expected.pop();
                actual.pop();
                self.add(Kind::Changed, here.0, here.1);
            }
            (false, false) => {
                expected.pop();
                actual.pop();
                self.add(Kind::Missing, here.0.clone(), here.1.clone());
                self.add(Kind::Extra, here.0, here.1);
            }
        }
    }

    fn surplus(&self, fingerprint: &Fingerprint) -> Kind {
        if self.recent.counts.contains_key(fingerprint) { Kind::Duplicate } else { Kind::Extra }
    }

    fn add(&mut self, kind: Kind, expected: Option<Entry>, actual: Option<Entry>) {
        self.report.add(kind, Difference { partition: self.partition, expected, actual });
    }
}

/// Whether two different records are rather one record that was changed.
fn resemble(left: &Fingerprint, right: &Fingerprint) -> bool {
    let (same_timestamp, same_key, same_value) = (left.0 == right.0, left.1 == right.1, left.2 == right.2);
    same_value || (same_key && same_timestamp)
}
