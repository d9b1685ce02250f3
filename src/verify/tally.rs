//! What a comparison found: totals that are always exact, and a list of the first differences.

use serde::Serialize;

use super::entry::Field;

/// Differences listed for each partition; all are counted.
pub const DIFFERENCES_MAX: usize = 20;

/// What kind of difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The source has it, the region does not.
    Missing,
    /// The region has it under the stream's own identity, the source does not, or has it once.
    Extra,
    /// Both have it, with other contents.
    Changed,
    /// Both have it, at different places.
    OutOfOrder,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Its kind.
    pub kind: Kind,
    /// The record's offset in the source; of an extra record, the source record before which it stands (none: at the end).
    pub source_offset: Option<i64>,
    /// The record's offset in the region; of a missing record, the region's record before which it should stand (none: at the end).
    pub region_offset: Option<i64>,
    /// Of a changed record, what is different.
    pub fields: Vec<Field>,
    /// Of an extra record, the source offset of the record that it repeats, if it repeats one.
    pub repeats_source_offset: Option<i64>,
}

/// Totals, and the first differences.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Records that are the same on both sides, in the same place.
    pub equal: u64,
    /// Records of the source that the region lacks.
    pub missing: u64,
    /// Records of the region that the source does not have.
    pub extra: u64,
    /// Records that differ.
    pub changed: u64,
    /// Records at another place.
    pub out_of_order: u64,
    /// Records that the region lacks where compaction has taken as many offsets out of its log: nothing can be said of them.
    pub compacted_in_region: u64,
    /// Records that only the region has, where compaction has taken as many offsets out of the source.
    pub compacted_in_source: u64,
    /// Records of which all but the timestamp was compared, because a broker stamped one of the two (LogAppendTime).
    pub timestamps_not_compared: u64,
    /// The first differences.
    pub differences: Vec<Difference>,
    /// Differences that were counted and not listed.
    pub differences_not_listed: u64,
}

impl Tally {
    /// All differences.
    pub fn different(&self) -> u64 {
        self.missing + self.extra + self.changed + self.out_of_order
    }

    fn count(&mut self, kind: Kind) -> &mut u64 {
        match kind {
            Kind::Missing => &mut self.missing,
            Kind::Extra => &mut self.extra,
            Kind::Changed => &mut self.changed,
            Kind::OutOfOrder => &mut self.out_of_order,
        }
    }

    /// Counts a difference, and lists it if there is room.
    pub(super) fn add(&mut self, difference: Difference) {
        *self.count(difference.kind) += 1;
        if self.differences.len() < DIFFERENCES_MAX {
            self.differences.push(difference);
        } else {
            self.differences_not_listed += 1;
        }
    }

    /// A record that was counted as missing (or extra) is there after all, at another place.
    pub(super) fn moved(&mut self, was: Kind, source_offset: i64, region_offset: i64) {
        *self.count(was) -= 1;
        let moved = Difference {
            kind: Kind::OutOfOrder,
            source_offset: Some(source_offset),
            region_offset: Some(region_offset),
            fields: Vec::new(),
            repeats_source_offset: None,
        };
        let listed = self.differences.iter_mut().find(|listed| {
            listed.kind == was
                && match was {
                    Kind::Missing => listed.source_offset == moved.source_offset,
                    _ => listed.region_offset == moved.region_offset,
                }
        });
        match listed {
            Some(listed) => {
                *listed = moved;
                self.out_of_order += 1;
            }
            None => {
                // It was counted as not listed.
                self.differences_not_listed -= 1;
                self.add(moved);
            }
        }
    }

    /// Adds what another comparison of the same partition found.
    pub(super) fn merge(&mut self, other: Tally) {
        for (sum, more) in [
            (&mut self.equal, other.equal),
            (&mut self.missing, other.missing),
            (&mut self.extra, other.extra),
            (&mut self.changed, other.changed),
            (&mut self.out_of_order, other.out_of_order),
            (&mut self.compacted_in_region, other.compacted_in_region),
            (&mut self.compacted_in_source, other.compacted_in_source),
            (&mut self.timestamps_not_compared, other.timestamps_not_compared),
            (&mut self.differences_not_listed, other.differences_not_listed),
        ] {
            *sum += more;
        }
        for difference in other.differences {
            if self.differences.len() < DIFFERENCES_MAX {
                self.differences.push(difference);
            } else {
                self.differences_not_listed += 1;
            }
        }
    }
}
