//! What a region's task hears from its links, readers and jobs. The queue is bounded: whoever has news waits until there is room. Nobody on
//! a client's path sends here.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::CommandError;
use super::link::{Answer, Lane};
use super::progress::{Partition, Position};
use super::reader::Read;
use super::region::Settings;
use super::rejoin::Rejoined;
use super::retrace::Retraced;
use super::rewind::{RewindTarget, Selected};
use super::scan::Scanned;
use super::start::Started;
use super::stream::Obstacle;
use super::transactions::OpenTransaction;
use crate::client::ClientError;
use crate::lag::RegionLag;

/// Events that wait. A full queue stops links and readers from reading their sockets, which is back-pressure.
pub const EVENTS_MAX: usize = 1024;

/// See the module's documentation. Streams are named by their number within the region.
#[derive(Debug)]
pub enum Event {
    /// A link can be written to.
    LinkUp {
        /// Which link.
        lane: Lane,
        /// Which attempt.
        generation: u64,
    },
    /// A link has ended; without an error when the region ended it.
    LinkDown {
        /// Which link.
        lane: Lane,
        /// Which attempt.
        generation: u64,
        /// Why.
        error: Option<ClientError>,
    },
    /// A Produce request was answered.
    Answered {
        /// Which link.
        lane: Lane,
        /// Which attempt.
        generation: u64,
        /// Bytes of the request's batches.
        bytes: usize,
        /// Whether it was an acks=all request.
        barrier: bool,
        /// A result per batch.
        answers: Vec<Answer>,
    },
    /// The oldest request of a link waits for longer than usual, and all behind it waits with it.
    HeldUp {
        /// Which link.
        lane: Lane,
        /// Which attempt.
        generation: u64,
        /// The request's batches: the stream, and which of its batches.
        batches: Vec<(usize, u64)>,
    },
    /// It was found out what holds a link up.
    Slow {
        /// Which link.
        lane: Lane,
        /// Which attempt.
        generation: u64,
        /// Batches that the broker has and its followers don't; none where it is something else.
        batches: Vec<(usize, u64)>,
    },
    /// The local log was read.
    Read(Read),
    /// A reader failed and tries again.
    ReadFailed {
        /// The local broker.
        node_id: i32,
        /// Why.
        error: ClientError,
    },
    /// A start of streams came to an end, for some of them at least.
    Started(Vec<(usize, Started)>),
    /// The region's log was searched.
    Scanned(Vec<(usize, Scanned)>),
    /// Positions that the region's log no longer proved were looked for anew.
    Retraced(Vec<(usize, Retraced)>),
    /// Rows of the region's log were looked for, to go on in them.
    Rejoined(Vec<(usize, Rejoined)>),
    /// Where the local log of an epoch ends.
    EpochEnds(Vec<(usize, i32, Result<i64, i16>)>),
    /// Whose transactions hold streams back; `None` where that is not known, or over.
    Transactions(Vec<(usize, Option<OpenTransaction>)>),
    /// The region has handed out a producer id, or has not.
    HandedOut(Result<i64, ClientError>),
    /// How long a region's broker remembers a producer after its last record's timestamp, milliseconds.
    Expiration {
        /// The broker.
        node_id: i32,
        /// That long; `None` where it does not say.
        expiration_ms: Option<i64>,
    },
    /// Whether a local topic's log is compacted.
    Compacted {
        /// The topic.
        topic: Arc<str>,
        /// Whether it is; `None` where its cluster does not say now.
        compacted: Option<bool>,
    },
    /// The first offset of local logs whose wanted offset is gone.
    LogStarts(Vec<(usize, i64)>),
    /// Positions were committed, or not.
    Committed {
        /// What was to be committed.
        positions: Vec<(usize, Position)>,
        /// How it went, with the partitions that were refused alone.
        result: Result<HashMap<Partition, i16>, ClientError>,
    },
    /// A region's metadata was read again, or could not be.
    Metadata(Result<(), ClientError>),
    /// Somebody asks how far behind the region is.
    Lag(oneshot::Sender<RegionLag>),
    /// An operator steps over the batch that stalls a stream.
    Skip {
        /// The partition in the local cluster.
        partition: Partition,
        /// The batch's base offset in the source.
        offset: i64,
        /// What came of it.
        answer: oneshot::Sender<Result<Obstacle, CommandError>>,
    },
    /// Somebody asks where streams stand: those of a topic, and of a partition of it, or all.
    Select {
        /// The topic in the local cluster.
        topic: Option<Arc<str>>,
        /// A partition of it.
        partition: Option<i32>,
        /// The streams.
        answer: oneshot::Sender<Result<Vec<Selected>, CommandError>>,
    },
    /// An operator has streams begin anew at earlier offsets.
    Rewind {
        /// Where each begins.
        targets: Vec<RewindTarget>,
        /// What came of it, in the same order: why not, where it was not done.
        answer: oneshot::Sender<Vec<Result<(), String>>>,
    },
    /// The settings have changed.
    Configure(Settings),
    /// Commit what there is and end.
    Stop(oneshot::Sender<()>),
}
