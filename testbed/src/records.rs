//! Record batches that no stock client writes so: put together by the protocol crate.

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use kafka_protocol::records::{Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType};

/// A record without key and headers, of a producer that is not idempotent. `timestamp`: milliseconds since 1970.
pub fn record(offset: i64, timestamp: i64, value: Bytes) -> Record {
    Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: -1,
        producer_id: -1,
        producer_epoch: -1,
        timestamp_type: TimestampType::Creation,
        offset,
        // From -1, which is none: only records whose sequences go on are put into one batch.
        sequence: i32::try_from(offset).unwrap_or(0) - 1,
        timestamp,
        key: None,
        value: Some(value),
        headers: Default::default(),
    }
}

/// The records in a batch, not compressed.
///
/// # Errors
/// When the protocol crate can't encode them.
pub fn batch(records: &[Record]) -> Result<Bytes> {
    let mut batch = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    RecordBatchEncoder::encode(&mut batch, records, &options).context("cannot encode a batch")?;
    Ok(batch.freeze())
}
