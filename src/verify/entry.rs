//! What is kept of a record: enough to compare it and to say where it lies, however large it is.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};

use crate::wire::records::Record;

/// A record's place and fingerprint, 56 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its offset on its side.
    pub offset: i64,
    /// Its timestamp, milliseconds since 1970; `None` if a broker stamped it, so that it says nothing.
    pub timestamp: Option<i64>,
    /// A hash of the key; 0 for none.
    pub key: u64,
    /// A hash of the value; 0 for none.
    pub value: u64,
    /// A hash of the headers in their order, repeated keys too; 0 for none.
    pub headers: u64,
    /// Offsets directly before it that the log no longer has: compaction took them.
    pub hole: u64,
}

/// A part of a record that can differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    /// The timestamp.
    Timestamp,
    /// The key.
    Key,
    /// The value.
    Value,
    /// The headers.
    Headers,
}

impl Field {
    /// Its name, as in the JSON report.
    pub fn as_str(self) -> &'static str {
        match self {
            Field::Timestamp => "timestamp",
            Field::Key => "key",
            Field::Value => "value",
            Field::Headers => "headers",
        }
    }
}

impl Entry {
    /// Of `record`; `append_time` says that its timestamp is its broker's. Both sides must be hashed with the same `hashes`.
    pub fn of(record: &Record<'_>, append_time: bool, hole: u64, hashes: &RandomState) -> Self {
        let hash = |bytes: Option<&[u8]>| bytes.map_or(0, |bytes| hashes.hash_one(bytes) | 1);
        let mut headers = hashes.build_hasher();
        let mut any = false;
        for (key, value) in record.headers {
            any = true;
            key.hash(&mut headers);
            value.hash(&mut headers);
        }
        Self {
            offset: record.offset,
            timestamp: (!append_time).then_some(record.timestamp),
            key: hash(record.key),
            value: hash(record.value),
            headers: if any { headers.finish() | 1 } else { 0 },
            hole,
        }
    }

    /// Key, value and headers, for look-ups; [`Entry::same`] has the last word.
    pub fn content(&self) -> (u64, u64, u64) {
        (self.key, self.value, self.headers)
    }

    /// Whether two records have equal timestamps, as far as these are the producers'.
    fn same_time(&self, other: &Self) -> bool {
        match (self.timestamp, other.timestamp) {
            (Some(one), Some(another)) => one == another,
            _ => true,
        }
    }

    /// Whether it is the same record.
    pub fn same(&self, other: &Self) -> bool {
        self.content() == other.content() && self.same_time(other)
    }

    /// Whether two different records are rather one that was changed: most of what can be compared is equal.
    pub fn resembles(&self, other: &Self) -> bool {
        let comparable_time = self.timestamp.is_some() && other.timestamp.is_some();
        let equal = u8::from(comparable_time && self.same_time(other))
            + u8::from(self.key == other.key)
            + u8::from(self.value == other.value);
        equal >= if comparable_time { 2 } else { 1 }
    }

    /// In which parts two records differ.
    pub fn differing(&self, other: &Self) -> Vec<Field> {
        let parts = [
            (Field::Timestamp, self.same_time(other)),
            (Field::Key, self.key == other.key),
            (Field::Value, self.value == other.value),
            (Field::Headers, self.headers == other.headers),
        ];
        parts.into_iter().filter(|(_, same)| !same).map(|(field, _)| field).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::batch::BatchHeader;
    use crate::wire::records::Records;

    /// The entry of a record with this body (behind timestamp and offset delta).
    fn entry(body: &[u8], hashes: &RandomState) -> Entry {
        let header = BatchHeader {
            base_offset: 5,
            batch_length: 100,
            leader_epoch: 0,
            crc: 0,
            attributes: 0,
            last_offset_delta: 0,
            base_timestamp: 1_000,
            max_timestamp: 1_000,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            record_count: 1,
        };
        let bytes = [&[((body.len() + 3) as u8) << 1, 0, 0, 0][..], body].concat();
        let mut records = Records::new(header, &bytes).expect("not compressed");
        let record = records.next_record().expect("reads").expect("a record");
        Entry::of(&record, false, 0, hashes)
    }

    #[test]
    fn null_and_empty_and_the_order_of_headers_make_a_difference() {
        let hashes = RandomState::new();
        let bodies: [&[u8]; 7] = [
            // No key, no value; empty key; empty value.
            &[1, 1, 0],
            &[0, 1, 0],
            &[1, 0, 0],
            // Headers a=1 b=2; b=2 a=1; a=1; a=1 twice.
            &[1, 1, 4, 2, b'a', 2, b'1', 2, b'b', 2, b'2'],
            &[1, 1, 4, 2, b'b', 2, b'2', 2, b'a', 2, b'1'],
            &[1, 1, 2, 2, b'a', 2, b'1'],
            &[1, 1, 4, 2, b'a', 2, b'1', 2, b'a', 2, b'1'],
        ];
        for (at, one) in bodies.iter().enumerate() {
            for (other_at, other) in bodies.iter().enumerate() {
                let same = entry(one, &hashes).same(&entry(other, &hashes));
                assert_eq!(same, at == other_at, "{one:?} and {other:?}");
            }
        }
    }

    #[test]
    fn a_brokers_own_time_is_not_compared() {
        let hashes = RandomState::new();
        let one = entry(&[1, 1, 0], &hashes);
        let later = Entry { timestamp: Some(2_000), ..one };
        assert!(!one.same(&later));
        assert_eq!(one.differing(&later), [Field::Timestamp]);
        assert!(one.same(&Entry { timestamp: None, ..one }));
    }
}
