//! What a Produce answer says about each partition.
//!
//! # References
//! ProduceResponse.json of Apache Kafka 4.3; KIP-467 (8), KIP-482 (9), KIP-951 (10), KIP-516 (13).

use crate::wire::cursor::{Cursor, ReadError};
use crate::wire::produce::Topic;
use crate::wire::versions::{PRODUCE, inspected};

/// A partition's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The partition's number.
    pub partition: i32,
    /// Kafka's error code, 0 for none.
    pub error_code: i16,
    /// The offset of the batch's first record.
    pub base_offset: i64,
    /// The time that the broker stamped, for topics with LogAppendTime; -1 for all others.
    pub log_append_time_ms: i64,
}

/// Reads a complete answer to `version`, from its correlation id on.
///
/// # Errors
/// `Malformed`, also when it ends too early. Partitions before the fault have been reported.
pub fn read(version: i16, message: &[u8], mut appended: impl FnMut(Topic<'_>, Appended)) -> Result<(), ReadError> {
    read_all(version, message, &mut appended).map_err(|error| match error {
        ReadError::Incomplete => ReadError::Malformed("the Produce answer ends too early"),
        malformed => malformed,
    })
}

fn read_all(version: i16, message: &[u8], appended: &mut dyn FnMut(Topic<'_>, Appended)) -> Result<(), ReadError> {
    let flexible = inspected(PRODUCE).is_some_and(|produce| produce.is_flexible(version));
    let mut cursor = Cursor::new(message);
    cursor.i32()?;
    if flexible {
        cursor.skip_tags()?;
    }
    for _ in 0..cursor.array_count(flexible)? {
        let topic = if version >= 13 { Topic::Id(cursor.uuid()?) } else { Topic::Name(cursor.string(flexible)?) };
        for _ in 0..cursor.array_count(flexible)? {
            let partition = cursor.i32()?;
            let error_code = cursor.i16()?;
            let base_offset = cursor.i64()?;
            let log_append_time_ms = if version >= 2 { cursor.i64()? } else { -1 };
            if version >= 5 {
                cursor.i64()?;
            }
            if version >= 8 {
                for _ in 0..cursor.array_count(flexible)? {
                    cursor.i32()?;
                    cursor.nullable_string(flexible)?;
                    if flexible {
                        cursor.skip_tags()?;
                    }
                }
                cursor.nullable_string(flexible)?;
            }
            if flexible {
                cursor.skip_tags()?;
            }
            appended(topic, Appended { partition, error_code, base_offset, log_append_time_ms });
        }
        if flexible {
            cursor.skip_tags()?;
        }
    }
    Ok(())
}
