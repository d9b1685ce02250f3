//! Where two sides that differ agree again: the search, without telling what lies before.

use super::lockstep::Want;
use super::window::Window;

/// So many records are looked at on each side, in every combination, for the place where both agree again.
pub(super) const NEAR_RECORDS: usize = 64;
/// Records looked ahead on each side when nothing close by fits: a gap up to this length is found in one piece. About 1 MiB a side.
pub(super) const FAR_RECORDS: usize = 16_384;
/// A far gap may have so many other records at its edge.
const FAR_EDGE_RECORDS: usize = 8;
/// So many equal records in a row mean that both sides agree again.
pub(super) const RUN_RECORDS: usize = 8;
/// Of which side.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    Source,
    Region,
}

/// Both sides' records that are not compared yet.
#[derive(Debug, Default)]
pub(super) struct Sides {
    pub source: Window,
    pub region: Window,
    /// Whether what the region has behind the source's end is left alone.
    pub open: bool,
}

impl Sides {
    /// What is needed to look so many records ahead.
    pub fn lacks(&self, records: usize) -> Option<Want> {
        if !self.source.ended && self.source.queue.len() < records {
            return Some(Want::Source);
        }
        (!self.region.ended && self.region.queue.len() < records).then_some(Want::Region)
    }

    /// Offsets that compaction took directly before a record, or before the end.
    pub fn hole(&self, of: Of, at: usize) -> u64 {
        let window = if of == Of::Source { &self.source } else { &self.region };
        match window.queue.get(at) {
            Some(entry) => entry.hole,
            None if at == window.queue.len() => window.end_hole,
            None => 0,
        }
    }

    /// The nearest records from these places on that are the same, if the holes before them explain everything that lies between: as records to step
    /// over on each side.
    pub fn over_holes(&self, source: usize, region: usize) -> Option<(usize, usize)> {
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
    pub fn near(&self) -> Option<(usize, usize)> {
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
    pub fn far(&self) -> Option<(usize, usize)> {
        let mut best: Option<(usize, usize)> = None;
        for edge in 0..=FAR_EDGE_RECORDS {
            let missing = (0..self.source.queue.len()).find(|gap| self.agree(*gap, edge)).map(|gap| (gap, edge));
            let extra = (0..self.region.queue.len()).find(|gap| self.agree(edge, *gap)).map(|gap| (edge, gap));
            best = [best, missing, extra].into_iter().flatten().min_by_key(|(source, region)| source + region);
        }
        best
    }
}
