//! Two logs compared record by record, as a state machine: records in, differences out. No I/O, no clock.
//!
//! Both sides are walked together. Where they differ, the nearest place is looked for at which they agree again, first close by, then as far as
//! the look-ahead reaches; what lies before that place is told as few differences as possible.

use std::collections::VecDeque;
use std::ops::Range;

use super::entry::Entry;
use super::tally::{Difference, Kind, Tally};
use super::window::{Behind, Unmatched, Window, common};

/// So many records are looked at on each side, in every combination, for the place where both agree again.
const NEAR_RECORDS: usize = 64;
/// Records looked ahead on each side when nothing close by fits: a gap up to this length is found in one piece. About 1 MiB a side.
const FAR_RECORDS: usize = 16_384;
/// A far gap may have so many other records at its edge.
const FAR_EDGE_RECORDS: usize = 8;
/// So many equal records in a row mean that both sides agree again.
const RUN_RECORDS: usize = 8;
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

/// Of which side.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Source,
    Region,
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
    source: Window,
    region: Window,
    /// Whether what the region has behind the source's end is left alone.
    open: bool,
    recent: VecDeque<Entry>,
    missing: Unmatched,
    extra: Unmatched,
    tally: Tally,
}

impl Lockstep {
    /// A comparison that has seen nothing yet. `open`: what the region has behind the source's last record is not compared (a sample).
    pub fn new(open: bool) -> Self {
        Self {
            source: Window::default(),
            region: Window::default(),
            open,
            recent: VecDeque::new(),
            missing: Unmatched::default(),
            extra: Unmatched::default(),
            tally: Tally::default(),
        }
    }

    /// The source's next record.
    pub fn push_source(&mut self, entry: Entry) {
        self.source.queue.push_back(entry);
    }

    /// The region's next record.
    pub fn push_region(&mut self, entry: Entry) {
        self.region.queue.push_back(entry);
    }

    /// The source has no more records, and compaction took so many offsets at its end.
    pub fn end_source(&mut self, hole: u64) {
        (self.source.ended, self.source.end_hole) = (true, hole);
    }

    /// The region has no more records, and compaction took so many offsets at its end.
    pub fn end_region(&mut self, hole: u64) {
        (self.region.ended, self.region.end_hole) = (true, hole);
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
            match (self.source.queue.front().copied(), self.region.queue.front().copied()) {
                (Some(source), Some(region)) if source.same(&region) => {
                    self.source.queue.pop_front();
                    self.region.queue.pop_front();
                    self.equal(source, &region);
                }
                (Some(_), Some(_)) => {
                    if let Some(want) = self.differ() {
                        return want;
                    }
                }
                (None, _) if !self.source.ended => return Want::Source,
                (None, _) if self.open => return Want::Nothing,
                (_, None) if !self.region.ended => return Want::Region,
                (Some(source), None) => {
                    self.source.queue.pop_front();
                    self.region.end_hole -= u64::from(self.lacking(source, self.region.behind(), 0));
                }
                (None, Some(region)) => {
                    self.region.queue.pop_front();
                    self.source.end_hole -= u64::from(self.surplus(region, self.source.behind(), 0));
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
        let hole = self.hole(Of::Source, 0).max(self.hole(Of::Region, 0));
        let near = usize::try_from(hole).unwrap_or(FAR_RECORDS).min(FAR_RECORDS) + NEAR_RECORDS + RUN_RECORDS;
        if let Some(want) = self.lacks(near.min(FAR_RECORDS)) {
            return Some(want);
        }
        if let Some((source, region)) = self.over_holes(0, 0) {
            self.compacted(source, region);
            return None;
        }
        if let Some((source, region)) = self.near() {
            self.settle(source, region);
            return None;
        }
        if let Some(want) = self.lacks(FAR_RECORDS) {
            return Some(want);
        }
        match self.far() {
            Some((source, region)) => self.settle(source, region),
            None if self.hole(Of::Region, 0) >= self.source.queue.len() as u64 => {
                self.compacted(self.source.queue.len(), 0);
            }
            None if self.hole(Of::Source, 0) >= self.region.queue.len() as u64 => {
                self.compacted(0, self.region.queue.len());
            }
            None => self.settle(NEAR_RECORDS, NEAR_RECORDS),
        }
        None
    }

    fn lacks(&self, records: usize) -> Option<Want> {
        if !self.source.ended && self.source.queue.len() < records {
            return Some(Want::Source);
        }
        (!self.region.ended && self.region.queue.len() < records).then_some(Want::Region)
    }

    /// Offsets that compaction took directly before a record, or before the end.
    fn hole(&self, of: Of, at: usize) -> u64 {
        let window = if of == Of::Source { &self.source } else { &self.region };
        match window.queue.get(at) {
            Some(entry) => entry.hole,
            None if at == window.queue.len() => window.end_hole,
            None => 0,
        }
    }

    /// The nearest records from these places on that are the same, if the holes before them explain everything that lies between: as records to step
    /// over on each side.
    fn over_holes(&self, source: usize, region: usize) -> Option<(usize, usize)> {
        let (in_source, in_region) = (self.hole(Of::Source, source), self.hole(Of::Region, region));
        if in_source == 0 && in_region == 0 {
            return None;
        }
        // Most often only one side was compacted.
        let reach = |hole: u64| usize::try_from(hole).unwrap_or(FAR_RECORDS).min(FAR_RECORDS);
        let (one, other) = (self.source.queue.get(source)?, self.region.queue.get(region)?);
        let mut lacking = self.source.queue.range(source..).take(reach(in_region).saturating_add(1));
        if let Some(missing) = lacking.position(|one| one.same(other)) {
            return Some((missing, 0));
        }
        let mut surplus = self.region.queue.range(region..).take(reach(in_source).saturating_add(1));
        if let Some(extra) = surplus.position(|other| other.same(one)) {
            return Some((0, extra));
        }
        // A record that one side lacks has left a hole there, before the record where both meet again or before one that only this side still has.
        let holes = |of: Of, from: usize, steps: usize| (0..=steps).map(|step| self.hole(of, from + step)).sum::<u64>();
        for sum in 1..=2 * NEAR_RECORDS {
            for missing in sum.saturating_sub(NEAR_RECORDS)..=sum.min(NEAR_RECORDS) {
                let extra = sum - missing;
                let meet = match (self.source.queue.get(source + missing), self.region.queue.get(region + extra)) {
                    (Some(one), Some(other)) => one.same(other),
                    (None, None) => {
                        let (to, until) = (source + missing, region + extra);
                        self.source.exhausted_at(to) && self.region.exhausted_at(until)
                    }
                    _ => false,
                };
                if meet
                    && holes(Of::Region, region, extra) >= missing as u64
                    && holes(Of::Source, source, missing) >= extra as u64
                {
                    return Some((missing, extra));
                }
            }
        }
        None
    }

    /// Steps over records that compaction took from the other side.
    fn compacted(&mut self, sources: usize, regions: usize) {
        self.source.queue.drain(..sources);
        self.region.queue.drain(..regions);
        self.tally.compacted_in_region += sources as u64;
        self.tally.compacted_in_source += regions as u64;
        // Where the other side has stepped over nothing, its hole is used up by so much.
        if let (0, Some(region)) = (regions, self.region.queue.front_mut()) {
            region.hole = region.hole.saturating_sub(sources as u64);
        }
        if let (0, Some(source)) = (sources, self.source.queue.front_mut()) {
            source.hole = source.hole.saturating_sub(regions as u64);
        }
    }

    /// Whether both sides agree from these places on: for a run of records, or to the end. Holes may explain what lies between them.
    fn agree(&self, mut source: usize, mut region: usize) -> bool {
        let (from, to) = (source, region);
        for at in 0..RUN_RECORDS {
            match (self.source.queue.get(source), self.region.queue.get(region)) {
                (Some(one), Some(other)) if one.same(other) => {}
                (Some(_), Some(_)) if at > 0 => match self.over_holes(source, region) {
                    Some((missing, extra)) => (source, region) = (source + missing, region + extra),
                    None => return false,
                },
                (None, None) => return self.source.exhausted_at(from) && self.region.exhausted_at(to),
                // The source ends here, and what follows in the region is not asked for.
                (None, Some(_)) => return self.open && self.source.ended && (at > 0 || from == to),
                _ => return false,
            }
            (source, region) = (source + 1, region + 1);
        }
        true
    }

    /// The nearest place close by, as records to step over on each side. The end of both is one too.
    fn near(&self) -> Option<(usize, usize)> {
        let (sources, regions) = (self.source.queue.len().min(NEAR_RECORDS), self.region.queue.len().min(NEAR_RECORDS));
        for sum in 1..=sources + regions {
            // An equal share of both first: a changed record is more likely than one that is missing beside one that is extra.
            let mut shares: Vec<usize> = (sum.saturating_sub(regions)..=sum.min(sources)).collect();
            shares.sort_by_key(|source| (2 * source).abs_diff(sum));
            if let Some(source) = shares.into_iter().find(|source| self.agree(*source, sum - source)) {
                return Some((source, sum - source));
            }
        }
        None
    }

    /// The nearest place behind a long gap on one side.
    fn far(&self) -> Option<(usize, usize)> {
        let mut best: Option<(usize, usize)> = None;
        for edge in 0..=FAR_EDGE_RECORDS {
            let missing = (0..self.source.queue.len()).find(|gap| self.agree(*gap, edge)).map(|gap| (gap, edge));
            let extra = (0..self.region.queue.len()).find(|gap| self.agree(edge, *gap)).map(|gap| (edge, gap));
            best = [best, missing, extra].into_iter().flatten().min_by_key(|(source, region)| source + region);
        }
        best
    }

    /// Tells what differs in the next records of both sides, behind which they agree again.
    fn settle(&mut self, sources: usize, regions: usize) {
        let sources: Vec<Entry> = self.source.queue.drain(..sources.min(self.source.queue.len())).collect();
        let regions: Vec<Entry> = self.region.queue.drain(..regions.min(self.region.queue.len())).collect();
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
        let next = (self.source.behind(), self.region.behind());
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
        let end = if self.open && next_source.offset.is_none() { region_at } else { gap.regions.end };
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
