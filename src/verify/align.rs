//! Finding the place in one log where another begins, by content. No I/O.
//!
//! The first records of one log are the anchor. The other log is walked until a run of records is found that stands in the anchor too. So a few
//! damaged records do not hide the place, and memory is bounded however long the search is.

use std::collections::VecDeque;

use super::entry::Entry;

/// Records of an anchor.
pub const ANCHOR_RECORDS: usize = 64;
/// So many records in a row must be the same, or all of a shorter anchor.
const RUN_RECORDS: usize = 16;

/// A search under way.
#[derive(Debug)]
pub struct Search {
    anchor: Vec<Entry>,
    /// `runs[i]`: how many records up to the anchor's i-th one were the same as the last ones walked over.
    runs: Vec<usize>,
    /// The last records walked over.
    ring: VecDeque<Entry>,
}

/// Where the walked log holds what the anchor holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The walked log's records from the first one on that stands in the anchor; the search has read these already.
    pub read: Vec<Entry>,
}

impl Search {
    /// For the place of `anchor`: the first records of a log, at most [`ANCHOR_RECORDS`].
    pub fn new(anchor: Vec<Entry>) -> Self {
        Self { runs: vec![0; anchor.len()], ring: VecDeque::new(), anchor }
    }

    /// Whether finding the anchor would tell a place: it has records, and most of them come once.
    pub fn is_telling(&self) -> bool {
        let once = |one: &&Entry| self.anchor.iter().filter(|other| other.same(one)).count() == 1;
        let telling = self.anchor.iter().filter(once).count();
        telling > 0 && telling * 2 >= self.anchor.len()
    }

    /// Walks over the next record.
    pub fn push(&mut self, entry: Entry) -> Option<Found> {
        self.ring.push_back(entry);
        if self.ring.len() > ANCHOR_RECORDS {
            self.ring.pop_front();
        }
        let wanted = RUN_RECORDS.min(self.anchor.len());
        let mut found = false;
        // From the back, because each run continues the one of the record before.
        for at in (0..self.anchor.len()).rev() {
            let before = if at == 0 { 0 } else { self.runs[at - 1] };
            self.runs[at] = if self.anchor[at].same(&entry) { before + 1 } else { 0 };
            found |= self.runs[at] >= wanted;
        }
        found.then(|| self.found())
    }

    fn found(&mut self) -> Found {
        let read: Vec<Entry> = self.ring.drain(..).collect();
        let first = (self.anchor.iter()).find_map(|entry| read.iter().position(|walked| walked.same(entry)));
        Found { read: read[first.unwrap_or(0)..].to_vec() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(content: i64) -> Entry {
        Entry { offset: content, timestamp: Some(content), key: 1, value: content as u64, headers: 0, hole: 0 }
    }

    fn search(anchor: impl IntoIterator<Item = i64>, log: impl IntoIterator<Item = i64>) -> Option<Vec<i64>> {
        let mut search = Search::new(anchor.into_iter().map(record).collect());
        assert!(search.is_telling());
        let found = log.into_iter().find_map(|content| search.push(record(content)))?;
        Some(found.read.iter().map(|entry| entry.offset).collect())
    }

    proptest! {
        #[test]
        fn the_place_is_found_wherever_it_is_and_nothing_is_read_twice(from in 0_i64..500, anchor in 1_i64..65) {
            let read = search(from..from + anchor, 0..1_000).expect("found");
            prop_assert_eq!(read[0], from);
            let expected: Vec<i64> = (from..from + anchor.min(RUN_RECORDS as i64)).collect();
            prop_assert_eq!(read, expected);
        }

        #[test]
        fn a_damaged_record_does_not_hide_the_place(from in 0_i64..500, damaged in 0_i64..64, missing: bool) {
            let log = (0..1_000).filter(|content| !missing || *content != from + damaged);
            let log = log.map(|content| if content == from + damaged { -1 } else { content });
            let read = search(from..from + 64, log).expect("found");
            prop_assert_eq!(read[0], if damaged == 0 { from + 1 } else { from });
        }
    }

    #[test]
    fn a_log_without_the_place_has_none() {
        assert_eq!(search(2_000..2_064, 0..1_000), None);
        // A few records in common are not enough.
        assert_eq!(search(990..1_054, 0..1_000), None);
    }

    #[test]
    fn an_anchor_of_records_that_repeat_tells_nothing() {
        assert!(!Search::new(vec![record(1), record(1), record(2), record(1)]).is_telling());
        assert!(!Search::new(Vec::new()).is_telling());
    }
}
