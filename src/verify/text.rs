//! The report in words, for people.

use std::collections::BTreeMap;
use std::fmt;

use super::report::{PartitionReport, TopicReport, Unknown, Verdict, VerifyReport};
use super::side::Counts;
use super::tally::{Difference, Kind};
use crate::check::report::{plural, some_of};

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for region in &self.regions {
            writeln!(f, "region {:?}: {}", region.region, region.result.word())?;
            match &region.unknown {
                Some(unknown) => writeln!(f, "  {}\n    -> {}", unknown.reason, unknown.advice)?,
                None if region.topics.is_empty() => writeln!(f, "  no topic to compare")?,
                None => topics(f, &region.topics)?,
            }
            writeln!(f)?;
        }
        let (records, bytes) = self.read();
        let rate = if self.seconds > 0.0 { records as f64 / self.seconds } else { 0.0 };
        writeln!(
            f,
            "{records} records of the source compared, {:.1} MB read on both sides, in {:.1} s ({rate:.0} records/s)",
            bytes as f64 / 1e6,
            self.seconds
        )?;
        if let (Some(percent), Some(seed)) = (self.sample_percent, self.seed) {
            writeln!(f, "A sample of {percent} %; the same again with --seed {seed}.")?;
        }
        f.write_str(match self.result {
            Verdict::Equal => "Equal.",
            Verdict::Different => "Different.",
            Verdict::Unknown => "No difference found, but not all could be compared.",
        })
    }
}

const COLUMNS: [&str; 8] =
    ["topic", "partitions", "equal", "missing", "extra", "changed", "out of order", "other records"];

fn topics(f: &mut fmt::Formatter<'_>, topics: &[TopicReport]) -> fmt::Result {
    let mut rows = vec![COLUMNS.map(str::to_owned)];
    for topic in topics {
        let sum = |of: fn(&PartitionReport) -> u64| topic.partitions.iter().map(of).sum::<u64>().to_string();
        rows.push([
            name(topic),
            topic.partitions.len().to_string(),
            sum(|partition| partition.tally.equal),
            sum(|partition| partition.tally.missing),
            sum(|partition| partition.tally.extra),
            sum(|partition| partition.tally.changed),
            sum(|partition| partition.tally.out_of_order),
            sum(|partition| others(&partition.source.counts) + others(&partition.region.counts)),
        ]);
    }
    let widths: Vec<usize> =
        (0..COLUMNS.len()).map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0)).collect();
    for (at, row) in rows.iter().enumerate() {
        write!(f, "  {:<width$}", row[0], width = widths[0])?;
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            write!(f, "  {cell:>width$}")?;
        }
        let verdict = at.checked_sub(1).and_then(|at| topics.get(at)).map_or("result", |topic| topic.result.word());
        writeln!(f, "  {verdict}")?;
    }
    topics.iter().try_for_each(|topic| details(f, topic))
}

/// Records that are not the stream's: aborted, of other streams, of other writers.
fn others(counts: &Counts) -> u64 {
    counts.aborted + counts.other_streams + counts.other_writers
}

fn name(topic: &TopicReport) -> String {
    if topic.topic == topic.topic_in_region {
        topic.topic.clone()
    } else {
        format!("{} ({})", topic.topic, topic.topic_in_region)
    }
}

fn details(f: &mut fmt::Formatter<'_>, topic: &TopicReport) -> fmt::Result {
    // Many partitions often share one reason: told once.
    let mut unknown: BTreeMap<&Unknown, Vec<i32>> = BTreeMap::new();
    let mut notes: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for partition in &topic.partitions {
        let number = partition.partition;
        let tally = &partition.tally;
        if tally.different() > 0 {
            writeln!(f, "  {}-{number}: {}", topic.topic, plural_u64(tally.different(), "difference"))?;
            tally.differences.iter().try_for_each(|difference| writeln!(f, "    {}", Told(difference)))?;
            if tally.differences_not_listed > 0 {
                writeln!(f, "    and {} more", tally.differences_not_listed)?;
            }
        }
        partition.unknown.iter().for_each(|reason| unknown.entry(reason).or_default().push(number));
        partition.notes.iter().for_each(|note| notes.entry(note).or_default().push(number));
    }
    for (unknown, partitions) in unknown {
        writeln!(f, "  {}-{}: {}\n    -> {}", topic.topic, some_of(&partitions), unknown.reason, unknown.advice)?;
    }
    notes.iter().try_for_each(|(note, partitions)| writeln!(f, "  {}-{}: {note}", topic.topic, some_of(partitions)))
}

/// A difference in words.
struct Told<'a>(&'a Difference);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { kind, source_offset, region_offset, fields, repeats_source_offset } = self.0;
        let at = |offset: &Option<i64>| offset.map_or_else(|| "?".to_owned(), |offset| offset.to_string());
        let before = |offset: &Option<i64>| offset.map_or("the end".to_owned(), |offset| format!("offset {offset}"));
        let (source, region) = (at(source_offset), at(region_offset));
        match kind {
            Kind::Missing => {
                write!(f, "missing: source offset {source}; not in the region before {}", before(region_offset))
            }
            Kind::Extra => {
                write!(f, "extra: region offset {region}; not in the source before {}", before(source_offset))?;
                repeats_source_offset.map_or(Ok(()), |offset| write!(f, "; it repeats source offset {offset}"))
            }
            Kind::Changed => {
                let fields: Vec<&str> = fields.iter().map(|field| field.as_str()).collect();
                write!(f, "changed: source offset {source}, region offset {region}: {}", fields.join(", "))
            }
            Kind::OutOfOrder => write!(f, "out of order: source offset {source}, region offset {region}"),
        }
    }
}

pub(super) fn plural_u64(count: u64, what: &str) -> String {
    plural(usize::try_from(count).unwrap_or(usize::MAX), what)
}
