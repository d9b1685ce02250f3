//! Kafka's error codes, as far as diffluent decides by them. Source: the protocol guide's table of error codes.

use std::fmt;

/// The given offset is outside the log.
pub const OFFSET_OUT_OF_RANGE: i16 = 1;
/// No such topic or partition, or not yet known to this broker.
pub const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
/// The partition has no leader at the moment.
pub const LEADER_NOT_AVAILABLE: i16 = 5;
/// This broker does not lead the partition.
pub const NOT_LEADER_OR_FOLLOWER: i16 = 6;
/// The in-sync replicas did not answer in time: the batch may be there.
pub const REQUEST_TIMED_OUT: i16 = 7;
/// The batch is larger than the topic allows.
pub const MESSAGE_TOO_LARGE: i16 = 10;
/// The group coordinator reads its log.
pub const COORDINATOR_LOAD_IN_PROGRESS: i16 = 14;
/// The group coordinator is not available.
pub const COORDINATOR_NOT_AVAILABLE: i16 = 15;
/// This broker does not coordinate the group.
pub const NOT_COORDINATOR: i16 = 16;
/// The generation that was named is not the group's.
pub const ILLEGAL_GENERATION: i16 = 22;
/// The group's members have no assignor in common.
pub const INCONSISTENT_GROUP_PROTOCOL: i16 = 23;
/// The group has no such member, or has members and the request names none.
pub const UNKNOWN_MEMBER_ID: i16 = 25;
/// The session timeout is outside of what the brokers allow.
pub const INVALID_SESSION_TIMEOUT: i16 = 26;
/// The group's members are joining anew.
pub const REBALANCE_IN_PROGRESS: i16 = 27;
/// Too few in-sync replicas: nothing was appended.
pub const NOT_ENOUGH_REPLICAS: i16 = 19;
/// The principal lacks a right on the topic.
pub const TOPIC_AUTHORIZATION_FAILED: i16 = 29;
/// The principal lacks a right on the group.
pub const GROUP_AUTHORIZATION_FAILED: i16 = 30;
/// The principal lacks a right on the cluster.
pub const CLUSTER_AUTHORIZATION_FAILED: i16 = 31;
/// The listener has no such mechanism.
pub const UNSUPPORTED_SASL_MECHANISM: i16 = 33;
/// The listener takes no SASL, or not now.
pub const ILLEGAL_SASL_STATE: i16 = 34;
/// The topic exists.
pub const TOPIC_ALREADY_EXISTS: i16 = 36;
/// The batch is neither the next one of its producer nor among its last five.
pub const OUT_OF_ORDER_SEQUENCE_NUMBER: i16 = 45;
/// A newer epoch of the producer id has written.
pub const INVALID_PRODUCER_EPOCH: i16 = 47;
/// There is no such group.
pub const GROUP_ID_NOT_FOUND: i16 = 69;
/// The producer id belongs to somebody else, or to nobody.
pub const INVALID_PRODUCER_ID_MAPPING: i16 = 49;
/// The broker does not know the producer id.
pub const UNKNOWN_PRODUCER_ID: i16 = 59;
/// The caller's leader epoch is old.
pub const FENCED_LEADER_EPOCH: i16 = 74;
/// The caller's leader epoch is newer than the broker's.
pub const UNKNOWN_LEADER_EPOCH: i16 = 75;

/// A member must join once more, with the id that came with this answer (KIP-394).
pub const MEMBER_ID_REQUIRED: i16 = 79;
/// Another member has taken the group instance id over (KIP-345).
pub const FENCED_INSTANCE_ID: i16 = 82;
/// An offset that was committed is still on its way to the coordinator's replicas.
pub const UNSTABLE_OFFSET_COMMIT: i16 = 88;
/// No topic has this id, or this broker has not heard of it yet (KIP-516).
pub const UNKNOWN_TOPIC_ID: i16 = 100;
/// A new leader does not know its high watermark yet (KIP-207).
pub const OFFSET_NOT_AVAILABLE: i16 = 78;

/// The code's name and number, as Kafka's documentation writes them: `NOT_LEADER_OR_FOLLOWER (6)`.
pub fn describe(code: i16) -> String {
    use kafka_protocol::ResponseError;
    match ResponseError::try_from_code(code) {
        None | Some(ResponseError::Unknown(_)) => format!("error {code}"),
        Some(error) => {
            let mut name = String::new();
            for letter in format!("{error:?}").chars() {
                if letter.is_ascii_uppercase() && !name.is_empty() {
                    name.push('_');
                }
                name.push(letter.to_ascii_uppercase());
            }
            format!("{name} ({code})")
        }
    }
}

/// Why a batch got no offset: the code, and what the broker says beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Kafka's error code.
    pub code: i16,
    /// The broker's own words, as a [`phrase`].
    pub words: Option<Box<str>>,
}

impl From<i16> for Refusal {
    fn from(code: i16) -> Self {
        Self { code, words: None }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&describe(self.code))?;
        self.words.as_ref().map_or(Ok(()), |words| write!(f, " ({words})"))
    }
}

/// What a broker says, fit for the first half of a reason: not too long, in one line, without the semicolon that the remedy follows.
pub fn phrase(words: &str) -> String {
    const CHARS_MAX: usize = 200;
    let fitting = |letter: char| match letter {
        ';' => ',',
        letter if letter.is_control() => ' ',
        letter => letter,
    };
    words.trim().chars().take(CHARS_MAX).map(fitting).collect()
}

/// What an error on a Produce to a region means for the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProduceFault {
    /// The batch may be in the log or not: the position is read from there.
    Unknown,
    /// Somebody else leads now, or nobody: nothing was appended, metadata is read again.
    Moved,
    /// A newer incarnation of this stream writes.
    Fenced,
    /// The broker takes no producer id that it has not handed out.
    UnknownId,
    /// The broker refuses this batch; what an operator can do is said.
    Refused(&'static str),
    /// The broker refuses every batch: diffluent has no right to write there.
    Denied,
}

/// Sorts an error code of a Produce answer.
pub fn produce_fault(code: i16) -> ProduceFault {
    match code {
        UNKNOWN_TOPIC_OR_PARTITION
        | LEADER_NOT_AVAILABLE
        | NOT_LEADER_OR_FOLLOWER
        | NOT_ENOUGH_REPLICAS
        | FENCED_LEADER_EPOCH
        | UNKNOWN_LEADER_EPOCH
        | 56
        | 72
        | 100 => ProduceFault::Moved,
        INVALID_PRODUCER_EPOCH => ProduceFault::Fenced,
        INVALID_PRODUCER_ID_MAPPING | UNKNOWN_PRODUCER_ID => ProduceFault::UnknownId,
        MESSAGE_TOO_LARGE => ProduceFault::Refused("raise max.message.bytes of the topic in the region"),
        18 => ProduceFault::Refused("raise segment.bytes of the topic in the region"),
        TOPIC_AUTHORIZATION_FAILED | CLUSTER_AUTHORIZATION_FAILED => ProduceFault::Denied,
        43 => ProduceFault::Refused("raise message.format.version of the topic in the region to 0.11 or later"),
        32 => ProduceFault::Refused(
            "raise message.timestamp.before.max.ms or message.timestamp.after.max.ms of the topic in the region",
        ),
        44 => ProduceFault::Refused("the region's policy forbids it: see the region's broker log"),
        87 | 42 | 2 | 76 => ProduceFault::Refused(
            "the region's broker holds the batch for invalid: see its log; compare the topic's settings on both sides",
        ),
        _ => ProduceFault::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_with_a_name_is_described_by_it() {
        assert_eq!(describe(NOT_LEADER_OR_FOLLOWER), "NOT_LEADER_OR_FOLLOWER (6)");
        assert_eq!(describe(31_000), "error 31000");
    }

    #[test]
    fn a_code_nobody_knows_may_have_appended() {
        assert_eq!(produce_fault(31_000), ProduceFault::Unknown);
        assert_eq!(produce_fault(-1), ProduceFault::Unknown);
    }
}
