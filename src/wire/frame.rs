//! Frames: a signed 32-bit length, then that many bytes. And what is no frame at all.
//!
//! # References
//! <https://kafka.apache.org/protocol#protocol_common>

/// Bytes of the length in front of each frame.
pub const LENGTH_BYTES: usize = 4;

/// The shortest request header: api key, version, correlation id (header v0; later ones are longer).
pub const REQUEST_HEADER_BYTES_MIN: usize = 8;

/// The shortest answer: a correlation id.
pub const ANSWER_HEADER_BYTES_MIN: usize = 4;

/// The longest request frame taken by default: Kafka's `socket.request.max.bytes` (100 MiB) and a margin for what an
/// operator adds to it.
pub const FRAME_BYTES_MAX_DEFAULT: usize = 101 * 1024 * 1024;

/// Input from a client that ends its connection. Counted and logged by [`BadInput::as_str`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BadInput {
    /// A TLS ClientHello on a plaintext port.
    TlsClientHello,
    /// An HTTP request on a Kafka port.
    HttpRequest,
    /// A negative frame length.
    NegativeLength,
    /// A frame longer than the limit.
    FrameTooLong,
    /// A frame too short for a request header.
    FrameTooShort,
    /// A version of an API that we must read or rewrite, above those that we announced (a broker closes here too).
    UnsupportedVersion,
}

impl BadInput {
    /// All kinds, for metrics that want every label from the start.
    pub const ALL: [BadInput; 6] = [
        BadInput::TlsClientHello,
        BadInput::HttpRequest,
        BadInput::NegativeLength,
        BadInput::FrameTooLong,
        BadInput::FrameTooShort,
        BadInput::UnsupportedVersion,
    ];

    /// The metric label and log field.
    pub fn as_str(self) -> &'static str {
        match self {
            BadInput::TlsClientHello => "tls_client_hello",
            BadInput::HttpRequest => "http_request",
            BadInput::NegativeLength => "negative_length",
            BadInput::FrameTooLong => "frame_too_long",
            BadInput::FrameTooShort => "frame_too_short",
            BadInput::UnsupportedVersion => "unsupported_version",
        }
    }
}

impl std::fmt::Display for BadInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            BadInput::TlsClientHello => "a TLS ClientHello on a plaintext port",
            BadInput::HttpRequest => "an HTTP request on a Kafka port",
            BadInput::NegativeLength => "a negative frame length",
            BadInput::FrameTooLong => "a frame longer than the limit",
            BadInput::FrameTooShort => "a frame too short for a request header",
            BadInput::UnsupportedVersion => "a request version above those announced",
        })
    }
}

/// Checks a request frame's length. `first` says that these are the connection's first bytes, where other protocols are
/// recognized by name; `bytes_min` is the shortest frame that makes sense here.
///
/// # Errors
/// What is wrong with it; the connection is to be closed.
pub fn request_length(
    prefix: [u8; LENGTH_BYTES],
    first: bool,
    bytes_min: usize,
    bytes_max: usize,
) -> Result<usize, BadInput> {
    if first && let Some(other) = other_protocol(prefix) {
        return Err(other);
    }
    let length = usize::try_from(i32::from_be_bytes(prefix)).map_err(|_| BadInput::NegativeLength)?;
    if length > bytes_max {
        return Err(BadInput::FrameTooLong);
    }
    if length < bytes_min {
        return Err(BadInput::FrameTooShort);
    }
    Ok(length)
}

/// Whether bytes in the place of an answer's length are the start of a TLS record: an alert or a handshake. As a length they would be impossible.
pub fn is_tls_record(prefix: [u8; LENGTH_BYTES]) -> bool {
    matches!(prefix, [0x15 | 0x16, 3, 0..=4, _])
}

/// Recognizes the protocols that end up on a Kafka port by mistake. Their first bytes would be frames of hundreds of
/// megabytes, so no client that means Kafka is hurt.
fn other_protocol(prefix: [u8; LENGTH_BYTES]) -> Option<BadInput> {
    match &prefix {
        // A handshake record of SSL 3.0 to TLS 1.3 (RFC 8446, section 5.1).
        [0x16, 0x03, ..] => Some(BadInput::TlsClientHello),
        b"GET " | b"POST" | b"HEAD" | b"PUT " | b"OPTI" | b"DELE" | b"PATC" | b"CONN" | b"TRAC" | b"PRI " => {
            Some(BadInput::HttpRequest)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_protocols_are_named_at_the_first_bytes_only() {
        assert_eq!(request_length([0x16, 3, 1, 2], true, 8, 1 << 20), Err(BadInput::TlsClientHello));
        assert_eq!(request_length(*b"GET ", true, 8, 1 << 20), Err(BadInput::HttpRequest));
        assert_eq!(request_length(*b"GET ", false, 8, 1 << 20), Err(BadInput::FrameTooLong));
    }

    #[test]
    fn impossible_lengths_are_refused() {
        assert_eq!(request_length((-1i32).to_be_bytes(), false, 8, 100), Err(BadInput::NegativeLength));
        assert_eq!(request_length(i32::MAX.to_be_bytes(), false, 8, 100), Err(BadInput::FrameTooLong));
        assert_eq!(request_length(7i32.to_be_bytes(), false, 8, 100), Err(BadInput::FrameTooShort));
        assert_eq!(request_length(8i32.to_be_bytes(), false, 8, 100), Ok(8));
        assert_eq!(request_length(100i32.to_be_bytes(), false, 8, 100), Ok(100));
    }
}
