//! The shapes of the answers to share consumers, up to the array of node endpoints at their end (KIP-932).

use crate::wire::skim::Field;

/// A ShareFetch answer of versions 1 and 2 from its correlation id to the node endpoints.
///
/// # References
/// ShareFetchResponse.json.
pub const FETCH_ANSWER: &[Field] = &[
    // Header: correlation id; tags.
    Field::Fixed(4),
    Field::Tags,
    // Throttle time, error code, error message.
    Field::Fixed(4 + 2),
    Field::Compact,
    // Acquisition lock timeout.
    Field::Fixed(4),
    Field::Array(&[Field::Fixed(16), Field::Array(FETCH_PARTITION), Field::Tags]),
];

/// A ShareFetch answer of version 0, the early access of Kafka 4.0: without the lock timeout.
pub const FETCH_ANSWER_V0: &[Field] = &[
    Field::Fixed(4),
    Field::Tags,
    Field::Fixed(4 + 2),
    Field::Compact,
    Field::Array(&[Field::Fixed(16), Field::Array(FETCH_PARTITION), Field::Tags]),
];

const FETCH_PARTITION: &[Field] = &[
    // Index, error code; its message.
    Field::Fixed(4 + 2),
    Field::Compact,
    // Acknowledge error code; its message.
    Field::Fixed(2),
    Field::Compact,
    // Current leader: id, epoch; tags.
    Field::Fixed(4 + 4),
    Field::Tags,
    // Records.
    Field::Compact,
    // Acquired records: first offset, last offset, delivery count.
    Field::Array(&[Field::Fixed(8 + 8 + 2), Field::Tags]),
    Field::Tags,
];

/// A ShareAcknowledge answer of versions 0 and 1, likewise.
///
/// # References
/// ShareAcknowledgeResponse.json.
pub const ACKNOWLEDGE_ANSWER_V1: &[Field] = &[
    Field::Fixed(4),
    Field::Tags,
    Field::Fixed(4 + 2),
    Field::Compact,
    Field::Array(&[Field::Fixed(16), Field::Array(ACKNOWLEDGE_PARTITION), Field::Tags]),
];

/// A ShareAcknowledge answer of version 2, with the acquisition lock timeout (KIP-1222).
pub const ACKNOWLEDGE_ANSWER_V2: &[Field] = &[
    Field::Fixed(4),
    Field::Tags,
    Field::Fixed(4 + 2),
    Field::Compact,
    Field::Fixed(4),
    Field::Array(&[Field::Fixed(16), Field::Array(ACKNOWLEDGE_PARTITION), Field::Tags]),
];

const ACKNOWLEDGE_PARTITION: &[Field] = &[
    // Index, error code; its message.
    Field::Fixed(4 + 2),
    Field::Compact,
    // Current leader: id, epoch; tags.
    Field::Fixed(4 + 4),
    Field::Tags,
    Field::Tags,
];
