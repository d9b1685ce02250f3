//! What a comparison found, in words.

use std::collections::BTreeMap;
use std::fmt;

use crate::verify::Entry;

/// Differences of each kind that are described; the others are only counted.
const DESCRIBED_MAX: usize = 5;

/// The kinds of difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The record is on the expected side only.
    Missing,
    /// A record that was already there is there again.
    Duplicate,
    /// The record is on the actual side only.
    Extra,
    /// The record is at its place, with another content.
    Changed,
    /// The record is there, but not at its place.
    OutOfOrder,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Missing => "missing",
            Kind::Duplicate => "duplicate",
            Kind::Extra => "extra",
            Kind::Changed => "changed",
            Kind::OutOfOrder => "out of order",
        })
    }
}

/// One difference, with where it is on each side.
#[derive(Clone, Debug)]
pub struct Difference {
    /// The partition.
    pub partition: i32,
    /// The record of the expected side that it is about, or that stands there instead.
    pub expected: Option<Entry>,
    /// The record of the actual side that it is about, or that stands there instead.
    pub actual: Option<Entry>,
}

/// The result of comparing one topic.
#[derive(Clone, Debug)]
pub struct Report {
    /// The topic, by its name on the expected side.
    pub topic: String,
    /// Records that are equal on both sides and at their place.
    pub records: u64,
    /// Partitions on the expected side; 0 when it has no such topic.
    pub expected_partitions: i32,
    /// Partitions on the actual side; 0 when it has no such topic.
    pub actual_partitions: i32,
    /// How many differences there are of each kind.
    pub counts: BTreeMap<Kind, u64>,
    /// The first few of each kind.
    pub first: Vec<(Kind, Difference)>,
    expected: String,
    actual: String,
}

impl Report {
    pub(crate) fn new(topic: &str, expected: &str, actual: &str) -> Self {
        Self {
            topic: topic.to_owned(),
            records: 0,
            expected_partitions: 0,
            actual_partitions: 0,
            counts: BTreeMap::new(),
            first: Vec::new(),
            expected: expected.to_owned(),
            actual: actual.to_owned(),
        }
    }

    /// Whether both sides hold the same records in the same order, in the same number of partitions.
    pub fn is_clean(&self) -> bool {
        self.counts.is_empty() && self.expected_partitions == self.actual_partitions && self.expected_partitions > 0
    }

    /// The number of differences of one kind.
    pub fn count(&self, kind: Kind) -> u64 {
        self.counts.get(&kind).copied().unwrap_or(0)
    }

    pub(crate) fn add(&mut self, kind: Kind, difference: Difference) {
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        if *count <= DESCRIBED_MAX as u64 {
            self.first.push((kind, difference));
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, records, expected, actual, .. } = self;
        if self.is_clean() {
            return write!(f, "{topic}: {records} records are equal in {expected} and {actual}, in order");
        }
        write!(f, "{topic}: {expected} and {actual} differ ({records} records are equal)")?;
        if self.expected_partitions != self.actual_partitions || self.expected_partitions == 0 {
            write!(f, "\n  partitions: {} and {}", self.expected_partitions, self.actual_partitions)?;
        }
        for (kind, count) in &self.counts {
            write!(f, "\n  {kind}: {count}")?;
            for (_, difference) in self.first.iter().filter(|(other, _)| other == kind) {
                write!(f, "\n    partition {}", difference.partition)?;
                for (side, entry) in [(expected, &difference.expected), (actual, &difference.actual)] {
                    match entry {
                        Some(entry) => write!(
                            f,
                            " | {side}: offset {} time {} key {:?}",
                            entry.offset, entry.timestamp, entry.preview
                        )?,
                        None => write!(f, " | {side}: end")?,
                    }
                }
                if let (Kind::Changed, Some(before), Some(after)) = (kind, &difference.expected, &difference.actual) {
                    let parts = [
                        ("key", before.key != after.key),
                        ("value", before.value != after.value),
                        ("headers", before.headers != after.headers),
                        ("timestamp", before.timestamp != after.timestamp),
                    ];
                    let changed: Vec<&str> =
                        parts.iter().filter(|(_, differs)| *differs).map(|(part, _)| *part).collect();
                    write!(f, " | differ in {}", changed.join(", "))?;
                }
            }
        }
        Ok(())
    }
}
