//! What `diffluent verify` says: a table and lists for people, one JSON document for machines, and the exit code.

use serde::Serialize;

use super::side::Counts;
use super::tally::Tally;
use super::text::plural_u64;

/// What came of a comparison, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All that was to be compared was, and is the same.
    Equal,
    /// No difference was found, but not all could be compared.
    Unknown,
    /// There are differences.
    Different,
}

impl Verdict {
    pub(super) fn word(self) -> &'static str {
        match self {
            Verdict::Equal => "equal",
            Verdict::Unknown => "unknown",
            Verdict::Different => "DIFFERENT",
        }
    }
}

/// Something that could not be compared, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Unknown {
    /// Why.
    pub reason: String,
    /// What to do.
    pub advice: String,
}

impl Unknown {
    /// Why, and what to do.
    pub fn new(reason: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { reason: reason.into(), advice: advice.into() }
    }
}

/// The part of a log that was compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Span {
    /// The first offset.
    pub from: i64,
    /// The offset behind the last one.
    pub to: i64,
    /// The log's end when the comparison began.
    pub log_end: i64,
    /// What was read.
    #[serde(flatten)]
    pub counts: Counts,
}

/// Records that a stream's committed position accounts for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TollReport {
    /// Source offsets that retention took before they were mirrored.
    pub lost_records: u64,
    /// Records that the region has and the source has lost.
    pub diverged_records: u64,
    /// Records that an operator stepped over.
    pub skipped_records: u64,
}

/// One partition.
#[derive(Clone, Debug, Serialize)]
pub struct PartitionReport {
    /// Its number.
    pub partition: i32,
    /// What came of it.
    pub result: Verdict,
    /// What was read of the source.
    pub source: Span,
    /// What was read of the region.
    pub region: Span,
    /// What was found.
    #[serde(flatten)]
    pub tally: Tally,
    /// What the stream's position accounts for, since it first began.
    pub toll: TollReport,
    /// What could not be compared.
    pub unknown: Vec<Unknown>,
    /// What else a person should know.
    pub notes: Vec<String>,
}

impl PartitionReport {
    /// Of a partition of which nothing was compared yet.
    pub fn new(partition: i32) -> Self {
        Self {
            partition,
            result: Verdict::Equal,
            source: Span::default(),
            region: Span::default(),
            tally: Tally::default(),
            toll: TollReport::default(),
            unknown: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Draws the conclusion: to be called once everything is in.
    pub fn conclude(mut self) -> Self {
        let (in_region, in_source) = (self.tally.compacted_in_region, self.tally.compacted_in_source);
        if in_region + in_source > 0 {
            self.unknown.push(Unknown::new(
                format!(
                    "compaction took {} of the source and {} of the region out of logs that were equal before, as far as the holes tell",
                    plural_u64(in_source, "record"),
                    plural_u64(in_region, "record")
                ),
                "compare what is newer than the cleaner's reach (--since, less than min.compaction.lag.ms)",
            ));
        }
        let toll = self.toll;
        if self.tally.missing > 0 && toll.lost_records + toll.skipped_records > 0 {
            self.notes.push(format!(
                "since the stream began, {} went to retention before they were mirrored, and an operator stepped over {} \
                 (diffluent skip): the missing ones may be among these",
                plural_u64(toll.lost_records, "offset"),
                plural_u64(toll.skipped_records, "record"),
            ));
        }
        if self.tally.extra > 0 && toll.diverged_records > 0 {
            self.notes.push(format!(
                "an unclean leader election took {} from the source after they were mirrored: the extra ones may be among these",
                plural_u64(toll.diverged_records, "record")
            ));
        }
        if self.tally.timestamps_not_compared > 0 {
            self.notes.push(format!(
                "timestamps of {} were not compared: a broker stamps them (message.timestamp.type=LogAppendTime)",
                plural_u64(self.tally.timestamps_not_compared, "record")
            ));
        }
        self.result = match (self.tally.different(), self.unknown.is_empty()) {
            (0, true) => Verdict::Equal,
            (0, false) => Verdict::Unknown,
            _ => Verdict::Different,
        };
        self
    }
}

/// One topic.
#[derive(Clone, Debug, Serialize)]
pub struct TopicReport {
    /// Its name in the local cluster.
    pub topic: String,
    /// Its name in the region.
    pub topic_in_region: String,
    /// The worst of its partitions.
    pub result: Verdict,
    /// By number.
    pub partitions: Vec<PartitionReport>,
}

/// One region.
#[derive(Clone, Debug, Serialize)]
pub struct RegionReport {
    /// Its name.
    pub region: String,
    /// The worst of its topics.
    pub result: Verdict,
    /// Why nothing could be compared at all.
    pub unknown: Option<Unknown>,
    /// By name.
    pub topics: Vec<TopicReport>,
}

impl RegionReport {
    /// Of these topics, or of none for a reason.
    pub fn new(region: &str, topics: Result<Vec<TopicReport>, Unknown>) -> Self {
        let (topics, unknown) = match topics {
            Ok(topics) => (topics, None),
            Err(unknown) => (Vec::new(), Some(unknown)),
        };
        let worst = topics.iter().map(|topic| topic.result).max().unwrap_or(Verdict::Equal);
        let result = if unknown.is_some() { Verdict::Unknown } else { worst };
        Self { region: region.to_owned(), result, unknown, topics }
    }
}

/// Everything. `Display` is what a person reads.
#[derive(Clone, Debug, Serialize)]
pub struct VerifyReport {
    /// The worst of the regions.
    pub result: Verdict,
    /// What the process exits with.
    pub exit_code: u8,
    /// Which part was compared, in percent; none: all.
    pub sample_percent: Option<f64>,
    /// What chose the sample.
    pub seed: Option<u64>,
    /// How long it took.
    pub seconds: f64,
    /// As in proxy.toml.
    pub regions: Vec<RegionReport>,
}

impl VerifyReport {
    /// Of these regions.
    pub fn new(regions: Vec<RegionReport>, sample: Option<(f64, u64)>, seconds: f64) -> Self {
        let result = regions.iter().map(|region| region.result).max().unwrap_or(Verdict::Equal);
        let exit_code = match result {
            Verdict::Equal => 0,
            Verdict::Different => 1,
            Verdict::Unknown => 2,
        };
        let (sample_percent, seed) = (sample.map(|sample| sample.0), sample.map(|sample| sample.1));
        Self { result, exit_code, sample_percent, seed, seconds, regions }
    }

    /// 0 equal, 1 different, 2 it could not be told.
    pub fn exit_code(&self) -> u8 {
        self.exit_code
    }

    /// Records of the source and bytes of both sides that were read.
    pub(super) fn read(&self) -> (u64, u64) {
        let partitions = self.regions.iter().flat_map(|region| &region.topics).flat_map(|topic| &topic.partitions);
        partitions.fold((0, 0), |(records, bytes), partition| {
            let (source, region) = (partition.source.counts, partition.region.counts);
            (records + source.records, bytes + source.bytes + region.bytes)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::tally::{Difference, Kind};

    fn partition(number: i32) -> PartitionReport {
        let mut report = PartitionReport::new(number);
        report.tally.equal = 10;
        report
    }

    fn report(partitions: Vec<PartitionReport>) -> VerifyReport {
        let partitions: Vec<PartitionReport> = partitions.into_iter().map(PartitionReport::conclude).collect();
        let result = partitions.iter().map(|partition| partition.result).max().unwrap_or(Verdict::Equal);
        let topic = TopicReport { topic: "orders".into(), topic_in_region: "eu.orders".into(), result, partitions };
        VerifyReport::new(vec![RegionReport::new("us", Ok(vec![topic]))], None, 2.0)
    }

    fn missing() -> PartitionReport {
        let mut report = partition(1);
        report.tally.add(Difference {
            kind: Kind::Missing,
            source_offset: Some(4),
            region_offset: Some(5),
            fields: Vec::new(),
            repeats_source_offset: None,
        });
        report.toll.skipped_records = 1;
        report
    }

    fn untold() -> PartitionReport {
        let mut report = partition(2);
        report.unknown.push(Unknown::new("retention took offsets 0 to 9", "use --since"));
        report
    }

    #[test]
    fn the_exit_code_is_the_worst_of_all_and_a_difference_is_worse_than_not_to_know() {
        assert_eq!(report(vec![partition(0)]).exit_code(), 0);
        assert_eq!(report(vec![partition(0), untold()]).exit_code(), 2);
        assert_eq!(report(vec![missing(), untold()]).exit_code(), 1);
        let down = RegionReport::new("us", Err(Unknown::new("refused", "start it")));
        assert_eq!(VerifyReport::new(vec![down], None, 0.0).exit_code(), 2);
    }

    #[test]
    fn the_table_has_totals_and_the_lists_have_offsets_and_advice() {
        let text = report(vec![partition(0), missing(), untold()]).to_string();
        for part in [
            "region \"us\": DIFFERENT",
            "orders (eu.orders)           3     30        1",
            "missing: source offset 4; not in the region before offset 5",
            "stepped over 1 record (diffluent skip): the missing ones may be among these",
            "orders-2: retention took offsets 0 to 9\n    -> use --since",
            "\nDifferent.",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }

    #[test]
    fn the_json_has_the_documented_names() {
        let json = serde_json::to_value(report(vec![missing()])).expect("serializes");
        assert_eq!(json["result"], "different");
        let partition = &json["regions"][0]["topics"][0]["partitions"][0];
        assert_eq!(partition["missing"], 1);
        assert_eq!(partition["differences"][0]["kind"], "missing");
        let mut names: Vec<&str> = partition.as_object().expect("an object").keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "changed",
                "compacted_in_region",
                "compacted_in_source",
                "differences",
                "differences_not_listed",
                "equal",
                "extra",
                "missing",
                "notes",
                "out_of_order",
                "partition",
                "region",
                "result",
                "source",
                "timestamps_not_compared",
                "toll",
                "unknown"
            ]
        );
        let mut names: Vec<&str> =
            partition["source"].as_object().expect("an object").keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["aborted", "bytes", "from", "log_end", "other_streams", "other_writers", "records", "to"]);
    }
}
