//! New addresses in place of old ones, everything around them byte for byte.
//!
//! In every message that carries addresses, host and port stand side by side. So a rewrite is a list of [`Spot`]s, found
//! without side effects, and one copy.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::wire::cursor::{Cursor, ReadError, put_uvarint, uvarint_bytes};

/// Which address clients are told instead of a broker's own.
pub trait Addresses {
    /// The host and port to tell for the broker `node_id`, which calls itself `host`:`port`. Called once per address that is about
    /// to leave, so that the answer's receiver can be served at once.
    fn advertise(&self, node_id: i32, host: &str, port: u16) -> (Arc<str>, u16);
}

/// Host and port inside a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot<'a> {
    node_id: i32,
    host: &'a str,
    port: u16,
    start: usize,
    end: usize,
    compact: bool,
}

impl Spot<'_> {
    /// The broker.
    pub fn node_id(&self) -> i32 {
        self.node_id
    }

    /// Its host.
    pub fn host(&self) -> &str {
        self.host
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// Host-and-port pairs, in the order of the message.
pub type Spots<'a> = SmallVec<[Spot<'a>; 4]>;

/// What is to be rewritten in the first `head_bytes` of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// The addresses.
    pub spots: Spots<'a>,
    /// All addresses stand in front of this.
    pub head_bytes: usize,
    /// Where the size of the tagged field that holds them stands, and the size.
    pub enclosing_size: Option<(usize, u32)>,
}

impl<'a> Head<'a> {
    /// A head without enclosing field.
    pub fn new(spots: Spots<'a>, head_bytes: usize) -> Self {
        Self { spots, head_bytes, enclosing_size: None }
    }
}

/// Reads host (string), port (int32). An address that no client could dial (a coordinator that is not available: node -1, no
/// host) gets no spot and so stays as it is.
pub fn read_address<'a>(
    cursor: &mut Cursor<'a>,
    node_id: i32,
    compact: bool,
    spots: &mut Spots<'a>,
) -> Result<(), ReadError> {
    let start = cursor.position();
    let host = std::str::from_utf8(cursor.string(compact)?).map_err(|_| ReadError::Malformed("host is not UTF-8"))?;
    let port = cursor.i32()?;
    if let Ok(port) = u16::try_from(port)
        && port != 0
        && node_id >= 0
        && !host.is_empty()
    {
        spots.push(Spot { node_id, host, port, start, end: cursor.position(), compact });
    }
    Ok(())
}

/// The head with new addresses, behind the new frame length. `message` starts at the correlation id and is `frame_bytes` long as a whole,
/// of which at least the head is there.
///
/// # Errors
/// `Malformed` when the frame's new length would not be a length any more.
pub fn splice(
    message: &[u8],
    head: &Head<'_>,
    frame_bytes: usize,
    addresses: &dyn Addresses,
) -> Result<Vec<u8>, ReadError> {
    const TOO_LONG: ReadError = ReadError::Malformed("the frame gets too long");
    const OUTSIDE: ReadError = ReadError::Malformed("address outside of the message");

    let mut told: SmallVec<[(Arc<str>, u16); 4]> = SmallVec::new();
    let mut added = 0_usize;
    let mut removed = 0_usize;
    for spot in &head.spots {
        let (mut host, mut port) = addresses.advertise(spot.node_id, spot.host, spot.port);
        if i16::try_from(host.len()).is_err() {
            // Not a string in Kafka's sense; our own configuration refuses such a name.
            (host, port) = (Arc::from(spot.host), spot.port);
        }
        added += string_bytes(&host, spot.compact) + 4;
        removed += spot.end - spot.start;
        told.push((host, port));
    }

    let mut out = Vec::with_capacity(4 + head.head_bytes + added);
    out.extend([0; 4]);
    let mut copied = 0;
    if let Some((size_at, size)) = head.enclosing_size {
        let new_size = usize::try_from(size).map_err(|_| TOO_LONG)? + added;
        let new_size = u32::try_from(new_size.checked_sub(removed).ok_or(OUTSIDE)?).map_err(|_| TOO_LONG)?;
        out.extend(message.get(..size_at).ok_or(OUTSIDE)?);
        put_uvarint(&mut out, new_size);
        let mut old_size = Cursor::new(message.get(size_at..).ok_or(OUTSIDE)?);
        old_size.uvarint()?;
        copied = size_at + old_size.position();
    }
    for (spot, (host, port)) in head.spots.iter().zip(&told) {
        out.extend(message.get(copied..spot.start).ok_or(OUTSIDE)?);
        put_string(&mut out, host, spot.compact);
        out.extend(i32::from(*port).to_be_bytes());
        copied = spot.end;
    }
    out.extend(message.get(copied..head.head_bytes).ok_or(OUTSIDE)?);

    let new_frame = (out.len() - 4) + frame_bytes.checked_sub(head.head_bytes).ok_or(OUTSIDE)?;
    let new_frame = i32::try_from(new_frame).map_err(|_| TOO_LONG)?;
    if let Some(length) = out.get_mut(..4) {
        length.copy_from_slice(&new_frame.to_be_bytes());
    }
    Ok(out)
}

fn string_bytes(text: &str, compact: bool) -> usize {
    text.len() + if compact { uvarint_bytes(text.len() as u32 + 1) } else { 2 }
}

/// The length fits, see [`splice`].
fn put_string(out: &mut Vec<u8>, text: &str, compact: bool) {
    if compact {
        put_uvarint(out, text.len() as u32 + 1);
    } else {
        out.extend((text.len() as u16).to_be_bytes());
    }
    out.extend(text.as_bytes());
}
