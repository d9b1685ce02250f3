//! The shapes of the large answers with node endpoints in a tagged field, Fetch and Produce, up to that field (KIP-951).

use crate::wire::skim::Field;

/// A Fetch answer of versions 16 to 18 from its correlation id to the last tag section.
///
/// # References
/// FetchResponse.json, KIP-951.
pub const ANSWER: &[Field] = &[
    // Header: correlation id; tags.
    Field::Fixed(4),
    Field::Tags,
    // Throttle time, error code, session id.
    Field::Fixed(4 + 2 + 4),
    Field::Array(&[Field::Fixed(16), Field::Array(PARTITION), Field::Tags]),
];

const PARTITION: &[Field] = &[
    // Index, error code, high watermark, last stable offset, log start offset.
    Field::Fixed(4 + 2 + 8 + 8 + 8),
    // Aborted transactions: producer id, first offset.
    Field::Array(&[Field::Fixed(8 + 8), Field::Tags]),
    // Preferred read replica.
    Field::Fixed(4),
    // Records.
    Field::Compact,
    Field::Tags,
];

/// A Produce answer of versions 10 to 12, likewise.
///
/// # References
/// ProduceResponse.json, KIP-951.
pub const PRODUCE_ANSWER_BY_NAME: &[Field] = &[
    Field::Fixed(4),
    Field::Tags,
    Field::Array(&[Field::Compact, Field::Array(PRODUCE_PARTITION), Field::Tags]),
    // Throttle time.
    Field::Fixed(4),
];

/// A Produce answer of version 13: topics by id (KIP-516).
pub const PRODUCE_ANSWER_BY_ID: &[Field] = &[
    Field::Fixed(4),
    Field::Tags,
    Field::Array(&[Field::Fixed(16), Field::Array(PRODUCE_PARTITION), Field::Tags]),
    Field::Fixed(4),
];

const PRODUCE_PARTITION: &[Field] = &[
    // Index, error code, base offset, log append time, log start offset.
    Field::Fixed(4 + 2 + 8 + 8 + 8),
    // Record errors: batch index, message.
    Field::Array(&[Field::Fixed(4), Field::Compact, Field::Tags]),
    // Error message.
    Field::Compact,
    Field::Tags,
];
