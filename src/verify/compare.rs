//! One partition: where the comparison begins on both sides, and the walk.
//!
//! Both logs hold the same records in the same order, but not at the same offsets, and retention cuts each at its own place. So unless both are
//! whole, the place where they begin together is found by content ([`super::align`]); a timestamp's offset (ListOffsets) shortens the way there.

use std::hash::RandomState;
use std::sync::Arc;

use indicatif::ProgressBar;

use super::align::{ANCHOR_RECORDS, Search};
use super::entry::Entry;
use super::fetching::{Keep, SideError, Target};
use super::lockstep::{Lockstep, Want};
use super::plan::Stream;
use super::report::{PartitionReport, TollReport, Unknown};
use super::sample::Sample;
use super::side::Side;
use super::tally::Tally;
use crate::client::cluster::Cluster;
use crate::client::rights::{Operation, Right};
use crate::mirror::offsets::{Which, list_offsets};

/// A window of a sample is looked for among so many records of the region.
const SAMPLE_SEARCH_RECORDS_MAX: usize = 100_000;

const RETENTION_ADVICE: &str = "compare what both still hold: --since, with less than the shorter retention";

/// What all partitions of a region share.
#[derive(Clone, Debug)]
pub struct Context {
    /// The local cluster.
    pub local: Arc<Cluster>,
    /// The region.
    pub region: Arc<Cluster>,
    /// Only records from this timestamp on, milliseconds since 1970.
    pub since_ms: Option<i64>,
    /// Only a sample.
    pub sample: Option<Sample>,
    /// Moved on by the offsets that were read of the source.
    pub bar: ProgressBar,
    /// Of this run, for both sides.
    pub hashes: RandomState,
}

/// Both logs, each before the first record to compare.
struct Start {
    source: Side,
    region: Side,
}

/// Compares one partition. Says too whether a cluster did not answer.
pub async fn compare(stream: &Stream, context: &Context) -> (PartitionReport, bool) {
    let toll = stream.position.toll;
    let mut partition = Partition { stream, context, report: PartitionReport::new(stream.partition) };
    partition.report.toll = TollReport {
        lost_records: toll.lost_records,
        diverged_records: toll.diverged_records,
        skipped_records: toll.skipped_records,
    };
    let report = &mut partition.report;
    (report.source.from, report.source.to, report.source.log_end) =
        (stream.source_start, stream.source_to(), stream.source_end);
    (report.region.from, report.region.to, report.region.log_end) =
        (stream.region_start, stream.region_to(), stream.region_end);
    if stream.region_end < stream.position.region_offset {
        report.notes.push(format!(
            "the region's log ends at offset {}, before offset {} that it has acknowledged: it lost records",
            stream.region_end, stream.position.region_offset
        ));
    }
    if stream.source_end < stream.position.source_offset {
        report.notes.push(format!(
            "the source's log ends at offset {}, before offset {} that was mirrored: it lost records",
            stream.source_end, stream.position.source_offset
        ));
    }
    let mut silent = false;
    if let Err(error) = partition.run().await {
        silent = matches!(error, SideError::Unreachable(_));
        partition.report.unknown.push(untold(&error));
    }
    (partition.report.conclude(), silent)
}

fn untold(error: &SideError) -> Unknown {
    let advice = match error {
        SideError::Gone { .. } => {
            "retention took it while it was compared: verify again, or compare what is newer (--since)"
        }
        SideError::Unreadable { .. } => {
            "read it with another consumer; if that fails too, the log is damaged on that broker's disk"
        }
        SideError::Unreachable(_) => {
            "mend the cluster, the way to it, or diffluent's right to read the topic (diffluent check says more), and verify again"
        }
    };
    Unknown::new(error.to_string(), advice)
}

struct Partition<'a> {
    stream: &'a Stream,
    context: &'a Context,
    report: PartitionReport,
}

impl Partition<'_> {
    async fn run(&mut self) -> Result<(), SideError> {
        let to = self.stream.source_to();
        let from = match self.context.since_ms {
            None => self.stream.source_start,
            // No record is that young: nothing is to be compared.
            Some(since) => self.lookup(Keep::Source, since).await?.unwrap_or(to),
        };
        self.report.source.from = from;
        if from >= to && self.context.since_ms.is_some() {
            return Ok(());
        }
        match self.context.sample {
            Some(sample) => self.sample(sample, from, to).await,
            None => match self.begin(from).await? {
                Some(start) => self.walk(start, false).await,
                None => Ok(()),
            },
        }
    }

    fn source(&self, from: i64, to: i64) -> Side {
        self.open(Keep::Source, from, to)
    }

    fn region(&self, from: i64) -> Side {
        self.open(self.keep_region(), from, self.stream.region_to())
    }

    fn keep_region(&self) -> Keep {
        Keep::Stream(self.stream.producer_id)
    }

    fn open(&self, keep: Keep, from: i64, to: i64) -> Side {
        let (cluster, topic, bar) = match keep {
            Keep::Source => (&self.context.local, &self.stream.topic, self.context.bar.clone()),
            Keep::Stream(_) => (&self.context.region, &self.stream.topic_in_region, ProgressBar::hidden()),
        };
        let (cluster, topic, partition) = (cluster.clone(), topic.clone(), self.stream.partition);
        Side::open(Target { cluster, topic, partition, from, to, keep }, self.context.hashes.clone(), bar)
    }

    /// The first offset that has this timestamp or a later one.
    async fn lookup(&self, keep: Keep, timestamp: i64) -> Result<Option<i64>, SideError> {
        let (cluster, topic, start) = match keep {
            Keep::Source => (&self.context.local, &self.stream.topic, self.stream.source_start),
            Keep::Stream(_) => (&self.context.region, &self.stream.topic_in_region, self.stream.region_start),
        };
        let key = (topic.clone(), self.stream.partition);
        let failed = |what: String| {
            let (name, topic, partition) = (cluster.name(), &key.0, key.1);
            SideError::Unreachable(format!(
                "{name}: {topic}-{partition} can't be asked for a timestamp's offset: {what}"
            ))
        };
        let leader = cluster.metadata().leader(topic, self.stream.partition);
        let leader = leader.ok_or_else(|| failed("it has no leader".to_owned()))?.node_id;
        let answer = list_offsets(cluster, leader, &[&key], Which::Since(timestamp)).await;
        match answer.map_err(|error| failed(error.to_string()))?.pop() {
            Some((_, Ok(found))) => Ok((found.offset >= 0).then_some(found.offset.max(start))),
            Some((_, Err(code))) => Err(failed(cluster.explain(code, Right::topic(Operation::Read, topic)))),
            None => Err(failed("no answer".to_owned())),
        }
    }

    /// Finds the place where both logs begin together. `None`: there is nothing to compare, or the report says why it can't be.
    async fn begin(&mut self, from: i64) -> Result<Option<Start>, SideError> {
        let stream = self.stream;
        let mut source = self.source(from, stream.source_to());
        let mut region = self.region(stream.region_start);
        let first_here = source.peek(ANCHOR_RECORDS).await?;
        let first_there = region.peek(ANCHOR_RECORDS).await?;
        let since = self.context.since_ms.is_some();
        // The stream's first batch ever is there, or retention has taken nothing at all.
        let region_whole = stream.region_start == 0 || region.first_identity() == Some((0, 0));
        let source_whole = stream.source_start == 0 && !since;
        let position = &stream.position;
        match (first_here.is_empty(), first_there.is_empty()) {
            (true, true) => return Ok(Some(Start { source, region })),
            (false, true) if position.producer_epoch == 0 && position.sequence == 0 => {
                self.report.notes.push(format!(
                    "nothing was mirrored yet: the stream began at source offset {}",
                    position.source_offset
                ));
                return Ok(None);
            }
            (false, true) if region_whole => return Ok(Some(Start { source, region })),
            (false, true) => {
                self.retention("region", stream.region_start, "all of the stream's records that were mirrored");
                return Ok(None);
            }
            (true, false) if source_whole => return Ok(Some(Start { source, region })),
            (true, false) => {
                if !since {
                    self.retention("source", stream.source_start, "all records that were mirrored");
                }
                return Ok(None);
            }
            (false, false) if source_whole && region_whole && !stream.begins_late => {
                return Ok(Some(Start { source, region }));
            }
            (false, false) => {}
        }
        // Which of the two begins later is likely, but not sure: then the other way round is tried.
        let there_first = since || (region_whole && !stream.begins_late);
        for there in [there_first, !there_first] {
            let anchor = if there { &first_here } else { &first_there };
            if !Search::new(anchor.clone()).is_telling() {
                continue;
            }
            let found = if there {
                self.find(anchor, self.keep_region(), usize::MAX).await?
            } else {
                self.find(anchor, Keep::Source, usize::MAX).await?
            };
            let Some((found, first)) = found else { continue };
            return Ok(Some(if there {
                let skipped = first.offset > first_there[0].offset;
                if skipped && source_whole {
                    // The source has lost nothing: what is before its first record in the region is too much.
                    Start { source, region }
                } else {
                    if skipped && !since {
                        self.retention_span(
                            "source",
                            stream.source_start,
                            "region",
                            first_there[0].offset,
                            first.offset,
                        );
                    }
                    self.report.region.from = first.offset;
                    Start { source, region: found }
                }
            } else {
                let skipped = first.offset > first_here[0].offset;
                if skipped && region_whole && !stream.begins_late {
                    Start { source, region }
                } else {
                    if skipped && region_whole {
                        self.report
                            .notes
                            .push(format!("the stream began at source offset {} (start = \"latest\")", first.offset));
                    } else if skipped {
                        self.retention_span(
                            "region",
                            stream.region_start,
                            "source",
                            first_here[0].offset,
                            first.offset,
                        );
                    }
                    self.report.source.from = first.offset;
                    Start { source: found, region }
                }
            }));
        }
        if source_whole && region_whole {
            return Ok(Some(Start { source, region }));
        }
        self.report.unknown.push(Unknown::new(
            "no place was found at which both logs hold the same records, though retention has cut them; or their records repeat so much \
             that it can't be told",
            RETENTION_ADVICE,
        ));
        Ok(None)
    }

    /// Looks for the place where `anchor` stands in a log; gives that log before this place, and the first record there.
    async fn find(&self, anchor: &[Entry], keep: Keep, records_max: usize) -> Result<Option<(Side, Entry)>, SideError> {
        let (start, to) = match keep {
            Keep::Source => (self.stream.source_start, self.stream.source_to()),
            Keep::Stream(_) => (self.stream.region_start, self.stream.region_to()),
        };
        let oldest = anchor.iter().map(|entry| entry.timestamp).min().flatten();
        let near = match oldest {
            Some(timestamp) => self.lookup(keep, timestamp).await?.unwrap_or(start),
            None => start,
        };
        // Where timestamps lead astray (a broker stamps them), the whole log is searched.
        let mut tries = vec![near];
        if near > start {
            tries.push(start);
        }
        for from in tries {
            let mut side = self.open(keep, from, to);
            let mut search = Search::new(anchor.to_vec());
            for _ in 0..records_max {
                let Some(entry) = side.next().await? else { break };
                if let Some(found) = search.push(entry) {
                    side.begin_with(&found.read);
                    return Ok(found.read.first().map(|first| (side, *first)));
                }
            }
        }
        Ok(None)
    }

    fn retention(&mut self, side: &str, start: i64, what: &str) {
        let reason = format!("the {side}'s log begins at offset {start}: retention took {what}");
        self.report.unknown.push(Unknown::new(reason, RETENTION_ADVICE));
    }

    fn retention_span(&mut self, cut: &str, start: i64, other: &str, from: i64, to: i64) {
        let reason = format!(
            "the {cut}'s log begins at offset {start}: retention took what the {other} has at offsets {from} to {} ({to} is the first that both hold)",
            to - 1
        );
        self.report.unknown.push(Unknown::new(reason, RETENTION_ADVICE));
    }

    /// Walks both logs to their ends and adds what was found to the report.
    async fn walk(&mut self, mut start: Start, open: bool) -> Result<(), SideError> {
        let mut lockstep = Lockstep::new(open);
        let walked = lead(&mut lockstep, &mut start).await;
        self.report.source.counts.add(start.source.counts());
        self.report.region.counts.add(start.region.counts());
        // What was found before an error stays found; a record that was told missing may yet have come.
        let tally: Tally = lockstep.into_tally();
        self.report.tally.merge(tally);
        walked
    }

    async fn sample(&mut self, sample: Sample, from: i64, to: i64) -> Result<(), SideError> {
        for window in sample.windows(&self.stream.topic, self.stream.partition, from..to) {
            let mut source = self.source(window.start, window.end);
            let anchor = source.peek(ANCHOR_RECORDS).await?;
            if anchor.is_empty() {
                // Markers, aborted or foreign records only.
                continue;
            }
            let telling = Search::new(anchor.clone()).is_telling();
            let found = match telling {
                true => self.find(&anchor, self.keep_region(), SAMPLE_SEARCH_RECORDS_MAX).await?,
                false => None,
            };
            match found {
                Some((region, _)) => self.walk(Start { source, region }, true).await?,
                None => {
                    let why = if telling {
                        "was not found in the region"
                    } else {
                        "has records that repeat too much to be found"
                    };
                    self.report.unknown.push(Unknown::new(
                        format!("the sample at source offsets {} to {} {why}", window.start, window.end - 1),
                        "compare the topic without --sample",
                    ));
                }
            }
        }
        Ok(())
    }
}

async fn lead(lockstep: &mut Lockstep, start: &mut Start) -> Result<(), SideError> {
    loop {
        match lockstep.step() {
            Want::Source => match start.source.next().await? {
                Some(entry) => lockstep.push_source(entry),
                None => lockstep.end_source(start.source.end_hole()),
            },
            Want::Region => match start.region.next().await? {
                Some(entry) => lockstep.push_region(entry),
                None => lockstep.end_region(start.region.end_hole()),
            },
            Want::Nothing => return Ok(()),
        }
    }
}
