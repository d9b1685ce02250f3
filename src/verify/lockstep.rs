//! Two logs compared record by record, as a state machine: records in, differences out. No I/O, no clock.
//!
//! Both sides are walked together. Where they differ, the nearest place is looked for at which they agree again, first close by, then as far as
//! the look-ahead reaches; what lies before that place is told as few differences as possible.

use std::collections::VecDeque;
use std::ops::Range;

use super::entry::Entry;
use super::resync::{FAR_RECORDS, NEAR_RECORDS, Of, RUN_RECORDS, Sides};
use super::tally::{Difference, Kind, Tally};
use super::window::{Behind, Unmatched, common};

/// Equal records remembered, to say of an extra record that it repeats one.
const RECENT_RECORDS: usize = 4_096;

/// What the lockstep waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// The source's next record, or its end.
    Source,
    /// The region's next record, or its end.
    Region,
    /// Nothing: all is compared.
    Nothing,
}

/// Which records of a block are nowhere on the other side: only such a one can have been changed.
struct Lone {
    sources: Vec<bool>,
    regions: Vec<bool>,
}

/// Where in a block the two sides do not agree.
struct Gap {
    sources: Range<usize>,
    regions: Range<usize>,
}

/// The comparison of one partition.
#[derive(Debug)]
pub struct Lockstep {
    sides: Sides,
    recent: VecDeque<Entry>,
    missing: Unmatched,
    extra: Unmatched,
    tally: Tally,
}

impl Lockstep {
    /// A comparison that has seen nothing yet. `open`: what the region has behind the source's last record is not compared (a sample).
    pub fn new(open: bool) -> Self {
        Self {
            sides: Sides { open, ..Sides::default() },
            recent: VecDeque::new(),
            missing: Unmatched::default(),
            extra: Unmatched::default(),
            tally: Tally::default(),
        }
    }

    /// The source's next record.
    pub fn push_source(&mut self, entry: Entry) {
        self.sides.source.queue.push_back(entry);
    }

    /// The region's next record.
    pub fn push_region(&mut self, entry: Entry) {
        self.sides.region.queue.push_back(entry);
    }

    /// The source has no more records, and compaction took so many offsets at its end.
    pub fn end_source(&mut self, hole: u64) {
        (self.sides.source.ended, self.sides.source.end_hole) = (true, hole);
    }

    /// The region has no more records, and compaction took so many offsets at its end.
    pub fn end_region(&mut self, hole: u64) {
        (self.sides.region.ended, self.sides.region.end_hole) = (true, hole);
    }

    /// What was found so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// What was found.
    pub fn into_tally(self) -> Tally {
        self.tally
    }

    /// Compares as far as possible and says what is needed to go on.
    pub fn step(&mut self) -> Want {
        loop {
            match (self.sides.source.queue.front().copied(), self.sides.region.queue.front().copied()) {
                (Some(source), Some(region)) if source.same(&region) => {
                    self.sides.source.queue.pop_front();
                    self.sides.region.queue.pop_front();
                    self.equal(source, &region);
                }
                (Some(_), Some(_)) => {
                    if let Some(want) = self.differ() {
                        return want;
                    }
                }
                (None, _) if !self.sides.source.ended => return Want::Source,
                (None, _) if self.sides.open => return Want::Nothing,
                (_, None) if !self.sides.region.ended => return Want::Region,
                (Some(source), None) => {
                    self.sides.source.queue.pop_front();
                    self.sides.region.end_hole -= u64::from(self.lacking(source, self.sides.region.behind(), 0));
                }
                (None, Some(region)) => {
                    self.sides.region.queue.pop_front();
                    self.sides.source.end_hole -= u64::from(self.surplus(region, self.sides.source.behind(), 0));
                }
                (None, None) => return Want::Nothing,
            }
        }
    }

    fn equal(&mut self, source: Entry, region: &Entry) {
        self.tally.equal += 1;
        self.tally.timestamps_not_compared += u64::from(source.timestamp.is_none() || region.timestamp.is_none());
        self.recent.push_back(source);
        if self.recent.len() > RECENT_RECORDS {
            self.recent.pop_front();
        }
    }

    /// Both fronts are there and not the same. Says what is needed to tell what happened, or tells it.
    fn differ(&mut self) -> Option<Want> {
        let hole = self.sides.hole(Of::Source, 0).max(self.sides.hole(Of::Region, 0));
        let near = usize::try_from(hole).unwrap_or(FAR_RECORDS).min(FAR_RECORDS) + NEAR_RECORDS + RUN_RECORDS;
        if let Some(want) = self.sides.lacks(near.min(FAR_RECORDS)) {
            return Some(want);
        }
        if let Some((source, region)) = self.sides.over_holes(0, 0) {
            self.compacted(source, region);
            return None;
        }
        if let Some((source, region)) = self.sides.near() {
            self.settle(source, region);
            return None;
        }
        if let Some(want) = self.sides.lacks(FAR_RECORDS) {
            return Some(want);
        }
        match self.sides.far() {
            Some((source, region)) => self.settle(source, region),
            None if self.sides.hole(Of::Region, 0) >= self.sides.source.queue.len() as u64 => {
                self.compacted(self.sides.source.queue.len(), 0);
            }
            None if self.sides.hole(Of::Source, 0) >= self.sides.region.queue.len() as u64 => {
                self.compacted(0, self.sides.region.queue.len());
            }
            None => self.settle(NEAR_RECORDS, NEAR_RECORDS),
        }
        None
    }

    /// Steps over records that compaction took from the other side.
    fn compacted(&mut self, sources: usize, regions: usize) {
        self.sides.source.queue.drain(..sources);
        self.sides.region.queue.drain(..regions);
        self.tally.compacted_in_region += sources as u64;
        self.tally.compacted_in_source += regions as u64;
        // Where the other side has stepped over nothing, its hole is used up by so much.
        if let (0, Some(region)) = (regions, self.sides.region.queue.front_mut()) {
            region.hole = region.hole.saturating_sub(sources as u64);
        }
        if let (0, Some(source)) = (sources, self.sides.source.queue.front_mut()) {
            source.hole = source.hole.saturating_sub(regions as u64);
        }
    }

    /// Tells what differs in the next records of both sides, behind which they agree again.
    fn settle(&mut self, sources: usize, regions: usize) {
        let sources: Vec<Entry> = self.sides.source.queue.drain(..sources.min(self.sides.source.queue.len())).collect();
        let regions: Vec<Entry> = self.sides.region.queue.drain(..regions.min(self.sides.region.queue.len())).collect();
        let pairs = common(&sources, &regions);
        let lone = Lone {
            sources: sources.iter().map(|source| !self.is_moved(source, &regions, &self.extra)).collect(),
            regions: regions.iter().map(|region| !self.is_moved(region, &sources, &self.missing)).collect(),
        };
        let (mut source_at, mut region_at) = (0, 0);
        for (source, region) in pairs {
            let gap = Gap { sources: source_at..source, regions: region_at..region };
            self.gap(&sources, &regions, &lone, gap, Behind::from(&sources[source]), Behind::from(&regions[region]));
            self.equal(sources[source], &regions[region]);
            (source_at, region_at) = (source + 1, region + 1);
        }
        let next = (self.sides.source.behind(), self.sides.region.behind());
        let gap = Gap { sources: source_at..sources.len(), regions: region_at..regions.len() };
        self.gap(&sources, &regions, &lone, gap, next.0, next.1);
    }

    /// Whether the other side has (or had) the same record at another place.
    fn is_moved(&self, entry: &Entry, others: &[Entry], unmatched: &Unmatched) -> bool {
        unmatched.may_hold(entry) || others.iter().any(|other| other.same(entry))
    }

    /// Records between two places at which both sides agree. The next ones behind the gap carry the holes of compaction.
    fn gap(
        &mut self,
        sources: &[Entry],
        regions: &[Entry],
        lone: &Lone,
        gap: Gap,
        next_source: Behind,
        next_region: Behind,
    ) {
        let (mut source_at, mut region_at) = (gap.sources.start, gap.regions.start);
        for source in gap.sources.clone().filter(|source| lone.sources[*source]) {
            let changed = (region_at..gap.regions.end)
                .find(|region| lone.regions[*region] && sources[source].resembles(&regions[*region]));
            let Some(region) = changed else { continue };
            self.told(
                &sources[source_at..source],
                &regions[region_at..region],
                Behind::from(&sources[source]),
                Behind::from(&regions[region]),
            );
            self.changed(&sources[source], &regions[region]);
            (source_at, region_at) = (source + 1, region + 1);
        }
        // Behind the end of a sample the region goes on, and is not asked.
        let end = if self.sides.open && next_source.offset.is_none() { region_at } else { gap.regions.end };
        self.told(&sources[source_at..gap.sources.end], &regions[region_at..end], next_source, next_region);
    }

    /// Records that only one side has at this place.
    fn told(&mut self, lacking: &[Entry], surplus: &[Entry], next_source: Behind, next_region: Behind) {
        let region_behind = surplus.first().map_or(next_region, Behind::from);
        for (before, source) in lacking.iter().enumerate() {
            self.lacking(*source, region_behind, before);
        }
        for (before, region) in surplus.iter().enumerate() {
            self.surplus(*region, next_source, before);
        }
    }

    fn changed(&mut self, source: &Entry, region: &Entry) {
        self.tally.timestamps_not_compared += u64::from(source.timestamp.is_none() || region.timestamp.is_none());
        self.tally.add(Difference {
            kind: Kind::Changed,
            source_offset: Some(source.offset),
            region_offset: Some(region.offset),
            fields: source.differing(region),
            repeats_source_offset: None,
        });
    }

    /// The region lacks a record where it should stand, `before` others of the same gap being told already. Whether compaction explains it.
    fn lacking(&mut self, source: Entry, region_behind: Behind, before: usize) -> bool {
        if let Some(region) = self.extra.take(&source) {
            self.tally.moved(Kind::Extra, source.offset, region.offset);
            return false;
        }
        if region_behind.hole > before as u64 {
            self.tally.compacted_in_region += 1;
            return true;
        }
        self.missing.add(source);
        self.tally.add(Difference {
            kind: Kind::Missing,
            source_offset: Some(source.offset),
            region_offset: region_behind.offset,
            fields: Vec::new(),
            repeats_source_offset: None,
        });
        false
    }

    /// The region has a record that should not stand there. Whether compaction explains it.
    fn surplus(&mut self, region: Entry, source_behind: Behind, before: usize) -> bool {
        if let Some(source) = self.missing.take(&region) {
            self.tally.moved(Kind::Missing, source.offset, region.offset);
            return false;
        }
        if source_behind.hole > before as u64 {
            self.tally.compacted_in_source += 1;
            return true;
        }
        let repeated = self.recent.iter().rev().find(|recent| recent.same(&region));
        let repeats_source_offset = repeated.map(|recent| recent.offset);
        self.extra.add(region);
        self.tally.add(Difference {
            kind: Kind::Extra,
            source_offset: source_behind.offset,
            region_offset: Some(region.offset),
            fields: Vec::new(),
            repeats_source_offset,
        });
        false
    }
}

#[cfg(test)]
#[path = "lockstep_tests.rs"]
mod tests;
