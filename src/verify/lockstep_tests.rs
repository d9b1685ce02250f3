use super::*;
use crate::verify::entry::Field;
use crate::verify::tally::DIFFERENCES_MAX;
use proptest::prelude::*;

/// A record with contents of its own at this offset.
fn record(offset: i64) -> Entry {
    let content = offset as u64 + 1;
    Entry { offset, timestamp: Some(offset * 10), key: content % 7 + 1, value: content << 8, headers: 0, hole: 0 }
}

fn log(records: usize) -> Vec<Entry> {
    (0..records as i64).map(record).collect()
}

/// The same records under the region's own offsets.
fn mirrored(records: &[Entry]) -> Vec<Entry> {
    records.iter().enumerate().map(|(at, entry)| Entry { offset: 1_000_000 + at as i64, ..*entry }).collect()
}

fn compare(source: &[Entry], region: &[Entry], open: bool) -> Tally {
    compare_to_holes(source, region, open, (0, 0))
}

fn compare_to_holes(source: &[Entry], region: &[Entry], open: bool, end_holes: (u64, u64)) -> Tally {
    let mut lockstep = Lockstep::new(open);
    let (mut sources, mut regions) = (source.iter().copied(), region.iter().copied());
    loop {
        match lockstep.step() {
            Want::Source => match sources.next() {
                Some(entry) => lockstep.push_source(entry),
                None => lockstep.end_source(end_holes.0),
            },
            Want::Region => match regions.next() {
                Some(entry) => lockstep.push_region(entry),
                None => lockstep.end_region(end_holes.1),
            },
            Want::Nothing => break,
        }
        assert!(lockstep.sides.source.queue.len() <= FAR_RECORDS && lockstep.sides.region.queue.len() <= FAR_RECORDS);
    }
    lockstep.into_tally()
}

/// What a cleaner has left, with the holes before each record and at the end.
fn cleaned(kept: impl Iterator<Item = bool>) -> (Vec<Entry>, u64) {
    let (mut left, mut hole) = (Vec::new(), 0);
    for (offset, kept) in kept.enumerate() {
        if kept {
            left.push(Entry { hole: std::mem::take(&mut hole), ..record(offset as i64) });
        } else {
            hole += 1;
        }
    }
    (left, hole)
}

/// The offset in the region of the record that stands at this place.
fn there(at: usize) -> Option<i64> {
    Some(1_000_000 + at as i64)
}

fn only(kind: Kind, source_offset: Option<i64>, region_offset: Option<i64>) -> Difference {
    Difference { kind, source_offset, region_offset, fields: Vec::new(), repeats_source_offset: None }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_long_gap_is_found_in_one_piece(from in 0_usize..200, gap in 1_usize..6_000, after in 0_usize..200) {
        let source = log(from + gap + after);
        let region = mirrored(&[&source[..from], &source[from + gap..]].concat());
        let tally = compare(&source, &region, false);
        prop_assert_eq!((tally.equal, tally.missing, tally.different()), ((from + after) as u64, gap as u64, gap as u64));
        prop_assert_eq!(tally.differences.len(), gap.min(DIFFERENCES_MAX));
        let turned = compare(&region, &source, false);
        prop_assert_eq!((turned.equal, turned.extra, turned.different()), ((from + after) as u64, gap as u64, gap as u64));
    }
}

proptest! {
    #[test]
    fn a_dropped_record_is_missing_and_nothing_else(records in 1_usize..300, at in any::<prop::sample::Index>()) {
        let source = log(records);
        let at = at.index(records);
        let mut kept = source.clone();
        kept.remove(at);
        let tally = compare(&source, &mirrored(&kept), false);
        let next = (at + 1 < records).then(|| there(at)).flatten();
        prop_assert_eq!(&tally.differences, &[only(Kind::Missing, Some(at as i64), next)]);
        prop_assert_eq!((tally.equal, tally.missing, tally.different()), (records as u64 - 1, 1, 1));
    }

    #[test]
    fn a_repeated_record_is_extra_and_says_what_it_repeats(
        records in 1_usize..300,
        at in any::<prop::sample::Index>(),
        later in any::<prop::sample::Index>(),
    ) {
        let source = log(records);
        let at = at.index(records);
        let to = at + 1 + later.index(records - at);
        let mut kept = source.clone();
        kept.insert(to, source[at]);
        let tally = compare(&source, &mirrored(&kept), false);
        let next = (to < records).then_some(to as i64);
        let expected = Difference { repeats_source_offset: Some(at as i64), ..only(Kind::Extra, next, there(to)) };
        prop_assert_eq!(&tally.differences, &[expected]);
        prop_assert_eq!((tally.equal, tally.extra, tally.different()), (records as u64, 1, 1));
    }

    #[test]
    fn a_swap_of_neighbours_is_one_record_out_of_order(records in 2_usize..300, at in any::<prop::sample::Index>()) {
        let source = log(records);
        let at = at.index(records - 1);
        let mut kept = source.clone();
        kept.swap(at, at + 1);
        let tally = compare(&source, &mirrored(&kept), false);
        prop_assert_eq!((tally.equal, tally.out_of_order, tally.different()), (records as u64 - 1, 1, 1));
        let moved = &tally.differences[0];
        prop_assert_eq!((moved.source_offset, moved.region_offset), (Some(at as i64), there(at + 1)));
    }

    #[test]
    fn a_record_that_came_late_is_one_record_out_of_order_however_late(
        at in 0_usize..100,
        distance in 1_usize..500,
    ) {
        let source = log(700);
        let mut kept = source.clone();
        let moved = kept.remove(at);
        kept.insert(at + distance, moved);
        let tally = compare(&source, &mirrored(&kept), false);
        prop_assert_eq!((tally.equal, tally.out_of_order, tally.different()), (699, 1, 1));
        let expected = only(Kind::OutOfOrder, Some(at as i64), there(at + distance));
        // Between neighbours, either may be told.
        prop_assert!(distance == 1 || tally.differences == [expected]);
    }

    #[test]
    fn a_changed_record_is_changed_and_says_in_what(
        records in 1_usize..300,
        at in any::<prop::sample::Index>(),
        field in prop::sample::select(vec![Field::Timestamp, Field::Key, Field::Value, Field::Headers]),
    ) {
        let source = log(records);
        let at = at.index(records);
        let mut region = mirrored(&source);
        match field {
            Field::Timestamp => region[at].timestamp = Some(-5),
            Field::Key => region[at].key = 99,
            Field::Value => region[at].value = 99,
            Field::Headers => region[at].headers = 99,
        }
        let tally = compare(&source, &region, false);
        let expected = Difference { fields: vec![field], ..only(Kind::Changed, Some(at as i64), there(at)) };
        prop_assert_eq!(&tally.differences, &[expected]);
        prop_assert_eq!((tally.equal, tally.changed, tally.different()), (records as u64 - 1, 1, 1));
    }

    /// Each side has kept what its cleaner left: nothing of it is a difference, and all of it is counted.
    #[test]
    fn two_logs_that_were_compacted_differently_do_not_differ(
        kept in prop::collection::vec((0.0_f64..1.0, 0.0_f64..1.0), 1..600),
        shares in prop::sample::select(vec![(1.0, 0.5), (1.0, 0.02), (0.3, 1.0), (0.02, 1.0), (0.7, 0.7), (0.4, 0.5)]),
    ) {
        let (source, source_end) = cleaned(kept.iter().map(|(chance, _)| *chance < shares.0));
        let (region, region_end) = cleaned(kept.iter().map(|(_, chance)| *chance < shares.1));
        let both = kept.iter().filter(|(one, other)| *one < shares.0 && *other < shares.1).count() as u64;
        let tally = compare_to_holes(&source, &region, false, (source_end, region_end));
        prop_assert_eq!((tally.equal, tally.different()), (both, 0), "{:?}", tally.differences);
        prop_assert_eq!(tally.compacted_in_region, source.len() as u64 - both);
        prop_assert_eq!(tally.compacted_in_source, region.len() as u64 - both);
    }

    #[test]
    fn a_changed_record_among_holes_is_told_alone(
        kept in prop::collection::vec(0.0_f64..1.0, 20..300),
        at in any::<prop::sample::Index>(),
    ) {
        let source = log(kept.len());
        let (mut region, region_end) = cleaned(kept.iter().map(|chance| *chance < 0.5));
        prop_assume!(!region.is_empty());
        let at = at.index(region.len());
        region[at].headers = 99;
        let tally = compare_to_holes(&source, &region, false, (0, region_end));
        prop_assert_eq!((tally.changed, tally.different()), (1, 1), "{:?}", tally.differences);
        prop_assert_eq!(tally.differences[0].region_offset, Some(region[at].offset));
    }

    /// Few contents, so that records repeat: whatever is told, no record is counted twice or not at all.
    #[test]
    fn every_record_of_both_sides_is_accounted_for_once(
        source in prop::collection::vec(0_u64..6, 0..400),
        region in prop::collection::vec(0_u64..6, 0..400),
    ) {
        let entries = |contents: &[u64]| -> Vec<Entry> {
            contents.iter().enumerate().map(|(at, content)| Entry { value: *content, key: 1, timestamp: Some(0), ..record(at as i64) }).collect()
        };
        let tally = compare(&entries(&source), &entries(&region), false);
        let on_both = tally.equal + tally.changed + tally.out_of_order;
        prop_assert_eq!(on_both + tally.missing, source.len() as u64);
        prop_assert_eq!(on_both + tally.extra, region.len() as u64);
        prop_assert_eq!(tally.differences.len() as u64 + tally.differences_not_listed, tally.different());
        prop_assert_eq!(source == region, tally.different() == 0);
    }

    #[test]
    fn a_sample_says_nothing_about_what_the_region_has_behind_it(
        records in 1_usize..200,
        more in 0_usize..200,
        dropped in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let all = log(records + more);
        let source = &all[..records];
        let mut kept = all.clone();
        if let Some(index) = dropped {
            kept.remove(index.index(records));
        }
        let tally = compare(source, &mirrored(&kept), true);
        prop_assert_eq!((tally.missing, tally.different()), (u64::from(dropped.is_some()), u64::from(dropped.is_some())));
    }
}

#[test]
fn a_drop_among_records_that_repeat_does_not_spread() {
    let source: Vec<Entry> = (0..5_000).map(|at| Entry { offset: at, ..record(at % 2) }).collect();
    let mut kept = source.clone();
    kept.remove(1);
    let tally = compare(&source, &mirrored(&kept), false);
    // Whether one is missing here, or one is extra and two are missing at the end, can't be known.
    assert!(tally.equal >= 4_998 && tally.different() <= 2, "{tally:?}");
}

#[test]
fn what_compaction_took_from_one_side_is_no_difference() {
    let source = log(100);
    // The region's cleaner took two, and one more is missing.
    let mut region = mirrored(&[&source[..40], &source[43..]].concat());
    region[40].hole = 2;
    let tally = compare(&source, &region, false);
    assert_eq!((tally.compacted_in_region, tally.missing, tally.different()), (2, 1, 1));
    // The source's cleaner took three behind the mirror.
    let region = mirrored(&source);
    let mut cleaned = [&source[..40], &source[43..]].concat();
    cleaned[40].hole = 3;
    let tally = compare(&cleaned, &region, false);
    assert_eq!((tally.compacted_in_source, tally.different(), tally.equal), (3, 0, 97));
    // The same at the end, of which one is explained.
    let tally = compare_to_holes(&source[..98], &region, false, (1, 0));
    assert_eq!((tally.compacted_in_source, tally.extra, tally.different()), (1, 1, 1));
    let tally = compare_to_holes(&source, &region[..98], false, (0, 1));
    assert_eq!((tally.compacted_in_region, tally.missing, tally.different()), (1, 1, 1));
}

#[test]
fn a_hole_longer_than_the_look_ahead_is_stepped_over() {
    let source = log(3 * FAR_RECORDS);
    let mut region = [&source[..10], &source[3 * FAR_RECORDS - 10..]].concat();
    region[10].hole = 3 * FAR_RECORDS as u64 - 20;
    let tally = compare(&source, &region, false);
    assert_eq!((tally.equal, tally.compacted_in_region, tally.different()), (20, 3 * FAR_RECORDS as u64 - 20, 0));
    let tally = compare(&region, &source, false);
    assert_eq!((tally.equal, tally.compacted_in_source, tally.different()), (20, 3 * FAR_RECORDS as u64 - 20, 0));
}

#[test]
fn logs_that_have_nothing_in_common_are_told_as_missing_and_extra() {
    let source = log(2_000);
    let other: Vec<Entry> = (10_000..12_000).map(|at| Entry { key: at as u64, ..record(at) }).collect();
    let tally = compare(&source, &other, false);
    assert_eq!((tally.equal, tally.missing, tally.extra, tally.different()), (0, 2_000, 2_000, 4_000));
    assert_eq!(
        (tally.differences.len(), tally.differences_not_listed),
        (DIFFERENCES_MAX, 4_000 - DIFFERENCES_MAX as u64)
    );
}

#[test]
fn where_a_broker_stamped_the_records_all_but_the_timestamp_is_compared() {
    let source = log(50);
    let mut region = mirrored(&source);
    for entry in &mut region {
        entry.timestamp = None;
    }
    region[7].value = 99;
    let tally = compare(&source, &region, false);
    assert_eq!((tally.equal, tally.changed, tally.timestamps_not_compared), (49, 1, 50));
}
