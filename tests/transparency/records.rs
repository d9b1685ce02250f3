//! What the scripts write.

use anyhow::Result;
use bytes::{BufMut, Bytes, BytesMut};
use data_encoding::HEXLOWER;
use flate2::Crc;
use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::records::{Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType};

/// Some time in the past, so that it is the same on both sides.
const TIMESTAMP: i64 = 1_700_000_000_000;

/// Who writes a batch.
#[derive(Clone, Copy, Debug)]
pub struct Writer {
    /// As handed out.
    pub producer_id: i64,
    /// As handed out.
    pub epoch: i16,
    /// Of the batch's first record.
    pub sequence: i32,
    /// Whether it is in a transaction.
    pub transactional: bool,
}

/// Nobody in particular.
pub const ANYBODY: Writer = Writer { producer_id: -1, epoch: -1, sequence: -1, transactional: false };

/// A batch of one record, in the message format that a Produce request of this version takes.
pub fn batch(produce_version: i16, value: &[u8], writer: Writer) -> Result<Bytes> {
    if produce_version < 3 {
        return message(i8::from(produce_version == 2), value);
    }
    let record = Record {
        transactional: writer.transactional,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: -1,
        producer_id: writer.producer_id,
        producer_epoch: writer.epoch,
        timestamp_type: TimestampType::Creation,
        offset: 0,
        sequence: writer.sequence,
        timestamp: TIMESTAMP,
        key: None,
        value: Some(Bytes::copy_from_slice(value)),
        headers: IndexMap::new(),
    };
    let mut bytes = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    RecordBatchEncoder::encode(&mut bytes, [&record], &options)?;
    Ok(bytes.freeze())
}

/// A message of the formats before record batches: offset, size, CRC-32, magic, attributes, from magic 1 on a timestamp (KIP-32), key, value.
fn message(magic: i8, value: &[u8]) -> Result<Bytes> {
    let mut body = BytesMut::new();
    body.put_i8(magic);
    body.put_i8(0);
    if magic >= 1 {
        body.put_i64(TIMESTAMP);
    }
    body.put_i32(-1);
    body.put_i32(i32::try_from(value.len())?);
    body.put_slice(value);
    let mut checksum = Crc::new();
    checksum.update(&body);
    let mut bytes = BytesMut::new();
    bytes.put_i64(0);
    bytes.put_i32(i32::try_from(body.len() + 4)?);
    bytes.put_u32(checksum.sum());
    bytes.put_slice(&body);
    Ok(bytes.freeze())
}

/// As [`batch`], as JSON has bytes.
pub fn hexadecimal(produce_version: i16, value: &[u8], writer: Writer) -> Result<String> {
    Ok(HEXLOWER.encode(&batch(produce_version, value, writer)?))
}
