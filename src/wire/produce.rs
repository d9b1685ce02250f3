//! Walks a Produce request as its bytes arrive.
//!
//! The records are never looked into: the walker says where they are in each chunk. A field that straddles two chunks is carried over
//! in a buffer as large as the field, which is bounded.
//!
//! Versions 0 to 2 give acks only (their records are of older formats, and brokers since 4.0 refuse them). A request that makes no sense
//! is [`ReadError::Malformed`]: the broker will say so, we only stop looking.
//!
//! # References
//! ProduceRequest.json of Apache Kafka 4.3; KIP-98 (3), KIP-482 (9), KIP-516 (13).

use std::ops::Range;

use smallvec::SmallVec;

use crate::wire::cursor::{Cursor, ReadError, to_usize};
use crate::wire::frame::REQUEST_HEADER_BYTES_MIN;
use crate::wire::skim::{Skim, TAGS};
use crate::wire::versions::PRODUCE;

/// The longest field that is carried from one chunk to the next: a string of Kafka's longest kind, with its length.
const FIELD_BYTES_MAX: usize = 32_767 + 5;

/// How much of a chunk is tried first to complete a carried field. Nearly all are shorter.
const FIELD_BYTES_TYPICAL: usize = 300;

/// The first version that names topics by id (KIP-516).
const TOPIC_IDS_SINCE: i16 = 13;

/// The first version with a transactional id and record batches of format 2 (KIP-98).
const RECORD_BATCHES_SINCE: i16 = 3;

/// A topic as a Produce request or its answer names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic<'a> {
    /// By name, to version 12. Not necessarily UTF-8: that is for the broker to judge.
    Name(&'a [u8]),
    /// By id, from version 13 (KIP-516).
    Id([u8; 16]),
}

/// What a walked request tells, in the order of its bytes.
pub trait Visitor {
    /// The acks that the client asks for, and whether it names a transactional id. False: nothing more is wanted.
    fn acks(&mut self, acks: i16, transactional: bool) -> bool;

    /// The partitions that follow are of this topic.
    fn topic(&mut self, topic: Topic<'_>);

    /// A partition's records begin, `bytes` of them. Called for empty ones (0), but not for null.
    fn records(&mut self, partition: i32, bytes: usize);

    /// Some of them are in this range of the buffer.
    fn range(&mut self, range: Range<usize>);

    /// They are complete.
    fn records_end(&mut self);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    ClientId,
    HeaderTags,
    TransactionalId,
    Acks,
    Topics,
    Topic,
    Partitions,
    Partition,
    Records(usize),
    PartitionTags,
    TopicTags,
    RequestTags,
    Done,
}

/// A resumable pass over one Produce request.
#[derive(Debug)]
pub struct RequestWalk {
    version: i16,
    flexible: bool,
    step: Step,
    skip: usize,
    tags: Skim,
    carried: SmallVec<[u8; 64]>,
    transactional: bool,
    topics_left: u32,
    partitions_left: u32,
}

impl RequestWalk {
    /// For a request of this version (0 to 13), from the first byte behind [`REQUEST_HEADER_BYTES_MIN`] on.
    pub fn new(version: i16) -> Self {
        let flexible =
            crate::wire::versions::inspected(PRODUCE).is_some_and(|inspected| inspected.is_flexible(version));
        Self {
            version,
            flexible,
            step: Step::ClientId,
            skip: 0,
            tags: Skim::new(TAGS),
            carried: SmallVec::new(),
            transactional: false,
            topics_left: 0,
            partitions_left: 0,
        }
    }

    /// Bytes of the frame in front of the first byte that [`RequestWalk::walk`] takes.
    pub const STARTS_AT: usize = REQUEST_HEADER_BYTES_MIN;

    /// Whether the request has been walked to its end, or as far as the visitor wanted.
    pub fn is_done(&self) -> bool {
        self.step == Step::Done
    }

    /// Goes on with the frame's next bytes, which stand at `range` of `buffer`.
    ///
    /// # Errors
    /// `Malformed`; don't go on then.
    pub fn walk(&mut self, buffer: &[u8], range: Range<usize>, visitor: &mut impl Visitor) -> Result<(), ReadError> {
        let chunk = buffer.get(range.clone()).ok_or(ReadError::Malformed("range outside of the buffer"))?;
        let mut position = 0;
        while self.step != Step::Done {
            let rest = chunk.get(position..).unwrap_or_default();
            if self.skip > 0 {
                let skipped = self.skip.min(rest.len());
                self.skip -= skipped;
                position += skipped;
                if self.skip > 0 {
                    break;
                }
                continue;
            }
            match self.step {
                Step::Records(left) => {
                    let taken = left.min(rest.len());
                    if taken > 0 {
                        let start = range.start + position;
                        visitor.range(start..start + taken);
                        position += taken;
                    }
                    if taken < left {
                        self.step = Step::Records(left - taken);
                        break;
                    }
                    visitor.records_end();
                    self.after_records();
                }
                Step::HeaderTags | Step::PartitionTags | Step::TopicTags | Step::RequestTags => {
                    let Some(end) = self.tags.walk(rest)? else { break };
                    position += end;
                    self.tags = Skim::new(TAGS);
                    self.after_tags();
                }
                _ if rest.is_empty() => break,
                _ => match self.field(rest, visitor)? {
                    Some(used) => position += used,
                    None => break,
                },
            }
        }
        Ok(())
    }

    /// Reads the field that is next; how many bytes of `rest` it took, or `None` when all were carried over.
    fn field(&mut self, rest: &[u8], visitor: &mut impl Visitor) -> Result<Option<usize>, ReadError> {
        if self.carried.is_empty() {
            return match self.read(rest, visitor) {
                Ok(used) => Ok(Some(used)),
                Err(ReadError::Incomplete) if rest.len() <= FIELD_BYTES_MAX => {
                    self.carried.extend_from_slice(rest);
                    Ok(None)
                }
                Err(ReadError::Incomplete) => Err(ReadError::Malformed("a field is too long")),
                Err(malformed) => Err(malformed),
            };
        }
        let mut field = std::mem::take(&mut self.carried);
        let carried = field.len();
        for tried in [FIELD_BYTES_TYPICAL, FIELD_BYTES_MAX] {
            let end = rest.len().min(tried);
            field.truncate(carried);
            field.extend_from_slice(rest.get(..end).unwrap_or_default());
            match self.read(&field, visitor) {
                Ok(used) => return Ok(Some(used.saturating_sub(carried))),
                Err(ReadError::Incomplete) if end == rest.len() && field.len() <= FIELD_BYTES_MAX => {
                    self.carried = field;
                    return Ok(None);
                }
                Err(ReadError::Incomplete) => {}
                Err(malformed) => return Err(malformed),
            }
        }
        Err(ReadError::Malformed("a field is too long"))
    }

    /// Reads the field that is next from its first byte on and moves to the one behind it. No effect when it is incomplete.
    fn read(&mut self, field: &[u8], visitor: &mut impl Visitor) -> Result<usize, ReadError> {
        let mut cursor = Cursor::new(field);
        match self.step {
            Step::ClientId => {
                self.skip = usize::try_from(cursor.i16()?).unwrap_or(0);
                self.step = if self.flexible { Step::HeaderTags } else { self.after_header() };
            }
            Step::TransactionalId => {
                let length = if self.flexible {
                    cursor.uvarint()?.checked_sub(1).map(to_usize)
                } else {
                    usize::try_from(cursor.i16()?).ok()
                };
                self.transactional = length.is_some();
                self.skip = length.unwrap_or(0);
                self.step = Step::Acks;
            }
            Step::Acks => {
                let acks = cursor.i16()?;
                let _timeout_ms = cursor.i32()?;
                self.step = if visitor.acks(acks, self.transactional) { Step::Topics } else { Step::Done };
            }
            Step::Topics => {
                self.topics_left = cursor.array_count(self.flexible)?;
                self.next_topic();
            }
            Step::Topic => {
                if self.version >= TOPIC_IDS_SINCE {
                    visitor.topic(Topic::Id(cursor.uuid()?));
                } else {
                    visitor.topic(Topic::Name(cursor.string(self.flexible)?));
                }
                self.topics_left = self.topics_left.saturating_sub(1);
                self.step = Step::Partitions;
            }
            Step::Partitions => {
                self.partitions_left = cursor.array_count(self.flexible)?;
                self.next_partition();
            }
            Step::Partition => {
                let partition = cursor.i32()?;
                let bytes = if self.flexible {
                    cursor.uvarint()?.checked_sub(1).map(to_usize)
                } else {
                    usize::try_from(cursor.i32()?).ok()
                };
                self.partitions_left = self.partitions_left.saturating_sub(1);
                match bytes {
                    Some(bytes) => {
                        visitor.records(partition, bytes);
                        self.step = Step::Records(bytes);
                    }
                    None => self.after_records(),
                }
            }
            // Walked elsewhere.
            Step::HeaderTags
            | Step::Records(_)
            | Step::PartitionTags
            | Step::TopicTags
            | Step::RequestTags
            | Step::Done => {}
        }
        Ok(cursor.position())
    }

    fn after_header(&self) -> Step {
        if self.version >= RECORD_BATCHES_SINCE { Step::TransactionalId } else { Step::Acks }
    }

    fn after_records(&mut self) {
        if self.flexible {
            self.step = Step::PartitionTags;
        } else {
            self.next_partition();
        }
    }

    fn after_tags(&mut self) {
        match self.step {
            Step::HeaderTags => self.step = self.after_header(),
            Step::PartitionTags => self.next_partition(),
            Step::TopicTags => self.next_topic(),
            _ => self.step = Step::Done,
        }
    }

    fn next_partition(&mut self) {
        if self.partitions_left > 0 {
            self.step = Step::Partition;
        } else if self.flexible {
            self.step = Step::TopicTags;
        } else {
            self.next_topic();
        }
    }

    fn next_topic(&mut self) {
        self.step = match self.topics_left {
            0 if self.flexible => Step::RequestTags,
            0 => Step::Done,
            _ => Step::Topic,
        };
    }
}
