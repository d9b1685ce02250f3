//! Request headers.
//!
//! Only the fixed part, which is the same in every version, is needed to forward a request: key, version, correlation id.
//! The client id and the tags behind it are skipped by the walkers that need what follows.
//!
//! # References
//! KIP-482 (flexible versions); RequestHeader.json and ResponseHeader.json of Apache Kafka 4.3.

use crate::wire::cursor::{Cursor, ReadError};
use crate::wire::frame::REQUEST_HEADER_BYTES_MIN;
use crate::wire::versions::API_VERSIONS;

/// The part of a request header that all versions share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// Which API.
    pub api_key: i16,
    /// Which version of it.
    pub version: i16,
    /// The client's number for the request; its answer bears the same.
    pub correlation_id: i32,
}

impl RequestHeader {
    /// Reads the first [`REQUEST_HEADER_BYTES_MIN`] bytes of a frame (behind its length).
    ///
    /// # Errors
    /// Incomplete only; any eight bytes are a header, and the broker judges what they ask for.
    pub fn read(frame: &[u8]) -> Result<Self, ReadError> {
        let mut cursor = Cursor::new(frame);
        Ok(Self { api_key: cursor.i16()?, version: cursor.i16()?, correlation_id: cursor.i32()? })
    }
}

/// The first version of ApiVersions that tells the client's software, and the first of its requests with a flexible header (KIP-511).
const API_VERSIONS_WITH_SOFTWARE: i16 = 3;

/// What a client calls itself in a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Named<'a> {
    /// The header's client id.
    pub client_id: Option<&'a [u8]>,
    /// In ApiVersions from version 3 on: the software's name and version.
    pub software: Option<(&'a [u8], &'a [u8])>,
}

/// Reads who the client is from a request (behind its length), as far as this request tells. Every request header has a client id behind the fixed part, but
/// for ControlledShutdown v0, which no client sends.
///
/// # Errors
/// Incomplete, when it does not lie whole in `frame`; whatever else is wrong with it.
///
/// # References
/// RequestHeader.json and ApiVersionsRequest.json of Apache Kafka 4.3, KIP-511.
pub fn named(header: RequestHeader, frame: &[u8]) -> Result<Named<'_>, ReadError> {
    let mut cursor = Cursor::new(frame);
    cursor.take(REQUEST_HEADER_BYTES_MIN)?;
    let client_id = cursor.nullable_string(false)?;
    let tells = header.api_key == API_VERSIONS && header.version >= API_VERSIONS_WITH_SOFTWARE;
    let software = match tells {
        true => {
            cursor.skip_tags()?;
            Some((cursor.string(true)?, cursor.string(true)?))
        }
        false => None,
    };
    Ok(Named { client_id, software })
}

/// Whether these first bytes of a frame (behind its length, at least ten of them unless the frame is shorter) can be a request, and not
/// a raw SASL token.
///
/// After SaslHandshake v0 tokens travel without headers until the broker is satisfied, which the bytes don't tell. But tokens
/// don't look like requests: SCRAM and OAUTHBEARER begin with letters, GSSAPI with 0x60 or 0x05; PLAIN begins with its
/// authorization id or a zero byte, a user name, a zero byte and a password, which would need a user name of one character and then a password
/// whose first character is a small control code to be taken for a header.
///
/// # References
/// SaslHandshakeRequest.json ("Version 0 … opaque tokens"), KIP-152, RFC 4616.
pub fn can_be_request(frame_start: &[u8], frame_bytes: usize) -> bool {
    /// Above any API key and any version that exist, with room for what will.
    const API_KEY_MAX: i16 = 127;
    const VERSION_MAX: i16 = 31;
    if frame_bytes < REQUEST_HEADER_BYTES_MIN + 2 {
        return false;
    }
    let mut cursor = Cursor::new(frame_start);
    let (Ok(api_key), Ok(version), Ok(_correlation_id), Ok(client_id_bytes)) =
        (cursor.i16(), cursor.i16(), cursor.i32(), cursor.i16())
    else {
        return false;
    };
    let client_id_fits = match usize::try_from(client_id_bytes) {
        Ok(bytes) => bytes <= frame_bytes - (REQUEST_HEADER_BYTES_MIN + 2),
        Err(_) => client_id_bytes == -1,
    };
    (0..=API_KEY_MAX).contains(&api_key) && (0..=VERSION_MAX).contains(&version) && client_id_fits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_named_as_the_protocol_crate_has_written_it() {
        use bytes::BytesMut;
        use kafka_protocol::messages::{ApiVersionsRequest, RequestHeader as Written};
        use kafka_protocol::protocol::{Encodable, HeaderVersion, StrBytes};
        for version in 0..=4 {
            for client_id in [None, Some(""), Some("orders-service")] {
                let written = Written::default()
                    .with_request_api_key(API_VERSIONS)
                    .with_request_api_version(version)
                    .with_client_id(client_id.map(StrBytes::from_static_str));
                let mut frame = BytesMut::new();
                written.encode(&mut frame, ApiVersionsRequest::header_version(version)).unwrap();
                let mut body = ApiVersionsRequest::default();
                if version >= 3 {
                    body = body
                        .with_client_software_name(StrBytes::from_static_str("apache-kafka-java"))
                        .with_client_software_version(StrBytes::from_static_str("4.3.0"));
                }
                body.encode(&mut frame, version).unwrap();
                let header = RequestHeader::read(&frame).unwrap();
                let software = (version >= 3).then_some((&b"apache-kafka-java"[..], &b"4.3.0"[..]));
                let expected = Named { client_id: client_id.map(str::as_bytes), software };
                assert_eq!(named(header, &frame), Ok(expected), "version {version}");
                for cut in 0..frame.len() - 1 {
                    let part = named(header, &frame[..cut]);
                    assert!(part == Err(ReadError::Incomplete) || part == Ok(expected), "version {version}, {cut}");
                }
            }
        }
    }

    #[test]
    fn sasl_tokens_are_told_from_requests() {
        let tokens: [&[u8]; 6] = [
            b"\0alice\0secret",
            b"\0a\0secret-secret",
            b"admin\0admin\0secret",
            b"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
            b"\x60\x82\x02\x48\x06\x09\x2a\x86\x48\x86\xf7",
            b"",
        ];
        for token in tokens {
            assert!(!can_be_request(token, token.len()), "{token:?}");
        }
        let metadata = [0, 3, 0, 12, 0, 0, 0, 5, 0, 2, b'm', b'e', 0];
        assert!(can_be_request(&metadata, metadata.len()));
        let no_client_id = [0, 18, 0, 0, 0, 0, 0, 5, 0xff, 0xff];
        assert!(can_be_request(&no_client_id, no_client_id.len()));
    }
}
