//! Record batches: their header, their codecs, the renumbering of what compaction left, and the conversion of older message formats.

use arbitrary::{Result, Unstructured};
use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{
    Compression, Record, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};

use super::messages::{blob, broken, rest, several};
use crate::wire::batch::{BatchHeader, HEADER_LEN, Identity, rewritten_header, sequence_after};
use crate::wire::codec::{CodecError, compress, decompress};
use crate::wire::message_set::{Conversion, convert, is_old};
use crate::wire::renumber::renumber;

const CODECS: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

/// Records with holes between their offsets, at least one.
fn records(u: &mut Unstructured<'_>) -> Result<Vec<Record>> {
    let transactional = u.arbitrary()?;
    let mut offset = i64::from(u.arbitrary::<u32>()?);
    // One batch: the reference starts a new one where the sequences' distance is not the offsets'.
    let first = offset;
    let mut one = |u: &mut Unstructured<'_>| {
        let mut headers = IndexMap::new();
        if u.arbitrary()? {
            headers.insert(StrBytes::from_static_str("origin"), Some(Bytes::from_static(b"eu")));
        }
        let record = Record {
            transactional,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: 3,
            producer_id: 7,
            producer_epoch: 1,
            timestamp_type: TimestampType::Creation,
            offset,
            sequence: (offset - first) as i32,
            timestamp: u.int_in_range(0..=1 << 41)?,
            key: if u.arbitrary()? { Some(Bytes::from(offset.to_string())) } else { None },
            value: if u.ratio(1, 8)? { None } else { Some(Bytes::from(blob(u, 200)?)) },
            headers,
        };
        offset += u.int_in_range(1..=300)?;
        Ok(record)
    };
    let mut records = vec![one(u)?];
    records.extend(several(u, 60, one)?);
    Ok(records)
}

/// A batch as a log holds it: header and the bytes behind it.
fn batch(records: &[Record], compression: Compression) -> (BatchHeader, Bytes) {
    let mut bytes = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression };
    RecordBatchEncoder::encode(&mut bytes, records, &options).expect("records can be encoded");
    let bytes = bytes.freeze();
    let header = BatchHeader::decode(bytes.first_chunk().expect("a header")).expect("a batch's header");
    assert_eq!(header.total_len(), bytes.len());
    (header, bytes.slice(HEADER_LEN..))
}

fn identity(u: &mut Unstructured<'_>) -> Result<Identity> {
    let producer_id = 1 << 62 | i64::from(u.arbitrary::<u32>()?);
    let producer_epoch = u.int_in_range(0..=i16::MAX)?;
    Ok(Identity { producer_id, producer_epoch, base_sequence: u.int_in_range(0..=i32::MAX)? })
}

/// What is sent to a region, read by the reference, which checks the checksum.
fn sent(header: &BatchHeader, identity: Identity, packed: &[u8]) -> Vec<Record> {
    let (front, back) = packed.split_at(packed.len() / 2);
    let mut sent = rewritten_header(header, identity, [front, back].into_iter()).to_vec();
    sent.extend_from_slice(packed);
    RecordBatchDecoder::decode(&mut Bytes::from(sent)).expect("a batch with a valid checksum").records
}

pub(super) fn batch_header(u: &mut Unstructured<'_>) -> Result<()> {
    if u.ratio(1, 3)? {
        return any_header(u);
    }
    let records = records(u)?;
    let (header, packed) = batch(&records, *u.choose(&CODECS)?);
    let (first, last) = (&records[0], &records[records.len() - 1]);
    assert_eq!(header.base_offset, first.offset);
    assert_eq!(header.next_offset(), last.offset + 1);
    assert_eq!(header.record_count as usize, records.len());
    assert_eq!(header.has_holes(), records.len() as i64 != last.offset - first.offset + 1);
    assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (7, 1, first.sequence));
    assert_eq!(header.is_transactional(), first.transactional);
    assert_eq!(Some(header.max_timestamp), records.iter().map(|record| record.timestamp).max());
    let identity = identity(u)?;
    let sent = sent(&header, identity, &packed);
    assert_eq!(sent.len(), records.len());
    for (got, expected) in sent.iter().zip(&records) {
        assert_eq!(got.offset, expected.offset - first.offset);
        assert_eq!((got.producer_id, got.producer_epoch), (identity.producer_id, identity.producer_epoch));
        assert!(!got.transactional && got.partition_leader_epoch == -1);
        assert_eq!(
            (got.timestamp, &got.key, &got.value, &got.headers),
            (expected.timestamp, &expected.key, &expected.value, &expected.headers)
        );
    }
    Ok(())
}

/// Any 61 bytes: what is taken for a header keeps to its bounds, and what is not the stream's stays.
fn any_header(u: &mut Unstructured<'_>) -> Result<()> {
    let mut bytes = [0; HEADER_LEN];
    u.fill_buffer(&mut bytes)?;
    if u.arbitrary()? {
        bytes[16] = 2;
        // Numbers around their bounds.
        bytes[23..27].copy_from_slice(&u.int_in_range(-2..=3_i32)?.to_be_bytes());
        bytes[57..61].copy_from_slice(&u.int_in_range(-2..=5_i32)?.to_be_bytes());
    }
    let Ok(header) = BatchHeader::decode(&bytes) else { return Ok(()) };
    assert!(header.total_len() >= HEADER_LEN && header.next_offset() > header.base_offset && header.base_offset >= 0);
    assert!((0..=header.last_offset_delta + 1).contains(&header.record_count));
    let identity = identity(u)?;
    let after = sequence_after(identity.base_sequence, header.record_count.into());
    assert!(after >= 0);
    let again = BatchHeader::decode(&rewritten_header(&header, identity, std::iter::empty())).expect("a header");
    let Identity { producer_id, producer_epoch, base_sequence } = identity;
    let expected = BatchHeader { producer_id, producer_epoch, base_sequence, ..header };
    const TIMESTAMP_TYPE_TRANSACTIONAL_AND_HORIZON: i16 = 0b101_1000;
    let attributes = header.attributes & !TIMESTAMP_TYPE_TRANSACTIONAL_AND_HORIZON;
    assert_eq!(again, BatchHeader { base_offset: 0, leader_epoch: -1, crc: again.crc, attributes, ..expected });
    Ok(())
}

pub(super) fn renumbering(u: &mut Unstructured<'_>) -> Result<()> {
    let records = records(u)?;
    let (header, packed) = batch(&records, *u.choose(&CODECS)?);
    let (dense, repacked) = renumber(&header, &packed).expect("a valid batch");
    assert!(!dense.has_holes());
    assert_eq!(dense.total_len(), HEADER_LEN + repacked.len());
    let got = sent(&dense, identity(u)?, &repacked);
    assert_eq!(got.len(), records.len());
    for (at, (got, expected)) in got.iter().zip(&records).enumerate() {
        assert_eq!(got.offset, at as i64);
        assert_eq!(
            (got.timestamp, &got.key, &got.value, &got.headers),
            (expected.timestamp, &expected.key, &expected.value, &expected.headers)
        );
    }
    // Broken ones, compressed properly around what is broken or not.
    let codec = u.int_in_range(0..=7)?;
    let plain = decompress(header.compression(), &packed, 1 << 20).expect("a valid batch");
    let plain = if u.arbitrary()? { broken(u, plain)? } else { blob(u, 300)? };
    let bytes = if u.arbitrary()? { compress(codec, &plain).map_or(plain, |packed| packed.to_vec()) } else { plain };
    let header = BatchHeader { record_count: u.int_in_range(0..=100)?, attributes: codec, ..header };
    if let Ok((dense, repacked)) = renumber(&header, &bytes) {
        assert_eq!(dense.total_len(), HEADER_LEN + repacked.len());
    }
    Ok(())
}

pub(super) fn codec(u: &mut Unstructured<'_>) -> Result<()> {
    let (codec, limit) = (u.int_in_range(0..=6_i16)?, u.int_in_range(0..=100_000)?);
    let bytes = if u.arbitrary()? {
        // Repeated, so that it is smaller packed than not.
        let plain = blob(u, 400)?.repeat(u.int_in_range(0..=300)?);
        let Ok(packed) = compress(codec, &plain) else {
            assert!(codec > 4);
            return Ok(());
        };
        match decompress(codec, &packed, limit) {
            Ok(back) => assert!(back == plain && back.len() <= limit),
            Err(CodecError::TooLarge(_)) => assert!(plain.len() > limit),
            Err(other) => panic!("{other}"),
        }
        broken(u, packed.to_vec())?
    } else {
        rest(u)?.to_vec()
    };
    match decompress(codec, &bytes, limit) {
        Ok(plain) => assert!(plain.len() <= limit),
        Err(CodecError::Unknown(_)) => assert!(codec > 4),
        Err(_) => {}
    }
    Ok(())
}

/// A message of an old format as the log or a wrapper holds it.
pub(crate) fn message(
    magic: i8,
    offset: i64,
    attributes: i8,
    timestamp: i64,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
) -> Vec<u8> {
    let mut body = vec![magic.cast_unsigned(), attributes.cast_unsigned()];
    if magic == 1 {
        body.put_i64(timestamp);
    }
    for part in [key, value] {
        body.put_i32(part.map_or(-1, |part| part.len() as i32));
        body.put_slice(part.unwrap_or_default());
    }
    let mut sum = flate2::Crc::new();
    sum.update(&body);
    let mut bytes = Vec::new();
    bytes.put_i64(offset);
    bytes.put_i32(4 + body.len() as i32);
    bytes.put_u32(sum.sum());
    bytes.put_slice(&body);
    bytes
}

/// What a consumer sees of an old record: offset, timestamp, key, value.
type Seen = (i64, i64, Option<Bytes>, Option<Bytes>);

fn old_record(u: &mut Unstructured<'_>, magic: i8, offset: &mut i64) -> Result<Seen> {
    *offset += if u.ratio(1, 4)? { u.int_in_range(2..=300)? } else { 1 };
    let timestamp = if magic == 0 { -1 } else { u.int_in_range(-1..=1 << 41)? };
    let key = if u.arbitrary()? { Some(Bytes::from(offset.to_string())) } else { None };
    let value = if u.ratio(1, 8)? { None } else { Some(Bytes::from(blob(u, 120)?)) };
    Ok((*offset, timestamp, key, value))
}

/// An entry of a log, with what a consumer sees of it: a message alone, or a wrapper.
fn entry(u: &mut Unstructured<'_>, offset: &mut i64) -> Result<(Vec<u8>, Vec<Seen>)> {
    let magic = i8::from(u.arbitrary::<bool>()?);
    let append_time = if magic == 1 && u.ratio(1, 4)? { 1 << 3 } else { 0 };
    if u.arbitrary()? {
        let seen = old_record(u, magic, offset)?;
        let bytes = message(magic, seen.0, append_time, seen.1, seen.2.as_deref(), seen.3.as_deref());
        return Ok((bytes, vec![seen]));
    }
    let mut seen = vec![old_record(u, magic, offset)?];
    seen.extend(several(u, 30, |u| old_record(u, magic, offset))?);
    let (first, last) = (seen[0].0, seen[seen.len() - 1].0);
    let mut set = Vec::new();
    for (offset, timestamp, key, value) in &seen {
        // Relative in v1; whoever compacted it may have left the first ones out.
        let offset = if magic == 0 { *offset } else { offset - first + first % 3 };
        set.extend(message(magic, offset, 0, *timestamp, key.as_deref(), value.as_deref()));
    }
    let codec = u.int_in_range(1..=3_i16)?;
    let mut packed = compress(codec, &set).expect("compresses").to_vec();
    if (magic, codec) == (0, 3) {
        // Kafka's clients wrote another checksum into the frame's header (KAFKA-3160).
        packed[6] = u.arbitrary()?;
    }
    let timestamp = if magic == 1 { u.int_in_range(0..=1 << 41)? } else { -1 };
    if append_time != 0 {
        seen.iter_mut().for_each(|(_, time, ..)| *time = timestamp);
    }
    Ok((message(magic, last, codec as i8 | append_time, timestamp, None, Some(&packed)), seen))
}

pub(super) fn message_set(u: &mut Unstructured<'_>) -> Result<()> {
    let mut offset = i64::from(u.arbitrary::<u16>()?);
    let (mut log, mut ends, mut seen) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..u.int_in_range(1..=20)? {
        let (bytes, records) = entry(u, &mut offset)?;
        log.extend(bytes);
        ends.push(log.len());
        seen.push(records);
    }
    let from = seen[0][0].0 + u.int_in_range(-1..=200)?;
    let until = from + u.int_in_range(0..=600)?;
    // A Fetch may end in the middle of a message.
    let cut = log.len() - if u.arbitrary()? { u.int_in_range(0..=60)?.min(log.len()) } else { 0 };
    let whole = ends.iter().filter(|end| **end <= cut).count();
    let wanted: Vec<Seen> =
        seen[..whole].iter().flatten().filter(|(offset, ..)| (from..until).contains(offset)).cloned().collect();
    let (mut rest, mut next, mut got) = (&log[..cut], from, Vec::new());
    loop {
        let records_max = u.int_in_range(1..=20)?;
        let Conversion { batch, used, is_behind } = convert(rest, next..until, records_max).expect("a valid log");
        rest = &rest[used..];
        let Some((header, packed)) = batch else {
            assert!(used == 0 || rest.is_empty() || is_old(rest).is_none_or(|old| old));
            let more = seen[..whole].iter().flatten().any(|(offset, ..)| *offset >= until);
            assert!(!is_behind || more, "nothing lies behind {until}");
            break;
        };
        assert!(header.base_offset >= next && header.record_count <= records_max);
        next = header.next_offset();
        assert_eq!(header.total_len(), HEADER_LEN + packed.len());
        // At their offsets: the reference counts from the base offset, which is 0 in what is sent.
        let sent = sent(&header, identity(u)?, &packed);
        assert_eq!(sent.len(), header.record_count as usize);
        assert_eq!(sent.iter().map(|record| record.timestamp).max(), Some(header.max_timestamp));
        got.extend(sent.into_iter().map(|record| {
            assert!(record.headers.is_empty());
            (header.base_offset + record.offset, record.timestamp, record.key, record.value)
        }));
    }
    assert_eq!(got, wanted);
    // Broken ones: no more than is there, and no standing still.
    let log = if u.arbitrary()? { broken(u, log)? } else { rest_of(u)? };
    let mut rest = &log[..];
    let mut next = 0;
    while let Ok(Conversion { batch: Some((header, _)), used, .. }) = convert(rest, next..i64::MAX, 7) {
        assert!(header.next_offset() > next && (1..=7).contains(&header.record_count));
        next = header.next_offset();
        rest = &rest[used..];
    }
    Ok(())
}

fn rest_of(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut bytes = rest(u)?.to_vec();
    if let Some(magic) = bytes.get_mut(16) {
        *magic &= 1;
    }
    Ok(bytes)
}
