//! The codecs of record batches: decompression that can't be made to fill memory, and compression that every broker reads.
//!
//! # References
//! KIP-98 (attributes of a batch), KIP-110 (zstd), KIP-57 (lz4 frames); for snappy the framing of snappy-java.

use std::io::Read;

use bytes::{BufMut, BytesMut};
use kafka_protocol::compression::{Compressor, Gzip, Lz4, Snappy, Zstd};

/// The 16 bytes in front of snappy-java's blocks: magic, version, oldest compatible version.
const SNAPPY_MAGIC: &[u8] = b"\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01";

/// Why a batch's records can't be decompressed, or compressed again.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The attributes name a codec that Kafka does not have.
    #[error("there is no codec {0}")]
    Unknown(i16),
    /// They are longer than they may be.
    #[error("the records take more than {0} bytes decompressed")]
    TooLarge(usize),
    /// What the codec says.
    #[error("the records can't be decompressed: {0}")]
    Corrupt(String),
    /// What the codec says.
    #[error("the records can't be compressed: {0}")]
    Compress(String),
}

/// The records of a batch, decompressed: at most `limit` bytes, and no more memory than that.
///
/// `codec` is the number in the batch's attributes: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.
///
/// # Errors
/// [`CodecError`]; [`CodecError::TooLarge`] as soon as the limit is passed.
pub fn decompress(codec: i16, records: &[u8], limit: usize) -> Result<Vec<u8>, CodecError> {
    let corrupt = |error: std::io::Error| CodecError::Corrupt(error.to_string());
    match codec {
        0 => bounded(records, limit),
        1 => bounded(flate2::read::GzDecoder::new(records), limit),
        2 => unsnap(records, limit),
        3 => {
            let mut decoder = lz4::Decoder::new(records).map_err(corrupt)?;
            let out = bounded(&mut decoder, limit)?;
            // Tells a frame that ends early, which reading does not.
            decoder.finish().1.map_err(corrupt)?;
            Ok(out)
        }
        4 => bounded(zstd::stream::read::Decoder::new(records).map_err(corrupt)?, limit),
        other => Err(CodecError::Unknown(other)),
    }
}

fn bounded(reader: impl Read, limit: usize) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::new();
    let one_more = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    reader.take(one_more).read_to_end(&mut out).map_err(|error| CodecError::Corrupt(error.to_string()))?;
    if out.len() > limit { Err(CodecError::TooLarge(limit)) } else { Ok(out) }
}

/// Snappy as Kafka's clients write it: snappy-java's blocks, or (librdkafka, Go) one raw block.
fn unsnap(records: &[u8], limit: usize) -> Result<Vec<u8>, CodecError> {
    let Some(mut blocks) = records.strip_prefix(SNAPPY_MAGIC) else {
        let mut out = Vec::new();
        unsnap_block(records, &mut out, limit)?;
        return Ok(out);
    };
    let mut out = Vec::new();
    while !blocks.is_empty() {
        let short = || CodecError::Corrupt("a snappy block ends early".to_string());
        let (length, rest) = blocks.split_first_chunk::<4>().ok_or_else(short)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| short())?;
        let block = rest.get(..length).ok_or_else(short)?;
        unsnap_block(block, &mut out, limit)?;
        blocks = &rest[length..];
    }
    Ok(out)
}

fn unsnap_block(block: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<(), CodecError> {
    let corrupt = |error: snap::Error| CodecError::Corrupt(error.to_string());
    let length = snap::raw::decompress_len(block).map_err(corrupt)?;
    let begin = out.len();
    if length > limit.saturating_sub(begin) {
        return Err(CodecError::TooLarge(limit));
    }
    out.resize(begin + length, 0);
    let written = snap::raw::Decoder::new().decompress(block, &mut out[begin..]).map_err(corrupt)?;
    out.truncate(begin + written);
    Ok(())
}

/// Compresses a batch's records with the codec of this number.
///
/// # Errors
/// [`CodecError::Unknown`], [`CodecError::Compress`].
pub fn compress(codec: i16, records: &[u8]) -> Result<BytesMut, CodecError> {
    let mut out = BytesMut::new();
    let write = |plain: &mut BytesMut| {
        plain.put_slice(records);
        Ok(())
    };
    let compressed = match codec {
        0 => write(&mut out),
        1 => Gzip::compress(&mut out, write),
        2 => Snappy::compress(&mut out, write),
        3 => Lz4::compress(&mut out, write),
        4 => Zstd::compress(&mut out, write),
        other => return Err(CodecError::Unknown(other)),
    };
    compressed.map_err(|error| CodecError::Compress(format!("{error:#}")))?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_codec_gives_back_what_it_took_and_stops_at_the_limit() {
        let records: Vec<u8> = (0..200_000_u32).map(|at| (at / 100) as u8).collect();
        for codec in 0..=4 {
            let packed = compress(codec, &records).expect("compresses");
            assert_eq!(decompress(codec, &packed, records.len()).expect("decompresses"), records, "codec {codec}");
            let error = decompress(codec, &packed, records.len() - 1).expect_err("one byte too many");
            assert!(matches!(error, CodecError::TooLarge(199_999)), "codec {codec}: {error}");
        }
        let raw = snap::raw::Encoder::new().compress_vec(&records).expect("compresses");
        assert_eq!(decompress(2, &raw, records.len()).expect("a raw block"), records);
    }

    #[test]
    fn what_is_no_compressed_data_is_an_error() {
        let framed: Vec<u8> = [SNAPPY_MAGIC, &[0xff, 0xff, 0xff, 0xff, 1, 2]].concat();
        for (codec, bytes) in
            [(1, &b"no gzip"[..]), (2, b"\xff\xff\xff\xff\x0f"), (2, &framed), (3, b"no lz4"), (4, b"no zstd")]
        {
            assert!(decompress(codec, bytes, 1 << 20).is_err(), "codec {codec}");
        }
        assert!(matches!(decompress(5, b"", 1), Err(CodecError::Unknown(5))));
    }
}
