//! What members of the group say to each other, in the bytes that Kafka's own consumers use, so that Kafka's tools can read them.
//!
//! A subscription tells which topics a member can mirror and, in its user data, which streams it has; an assignment tells which it is given. They come from
//! other members, by way of the coordinator, and are read by a bounded reader.
//!
//! ```text
//! user data   "dfl1", complete 0|1, topics i32, each: hash of the name u64, partitions uvarint, each: distance to the one before uvarint
//! ```
//!
//! # References
//! ConsumerProtocolSubscription version 2 (KIP-429, KIP-792) and ConsumerProtocolAssignment version 1.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::consumer_protocol_assignment::TopicPartition;
use kafka_protocol::messages::{ConsumerProtocolAssignment, ConsumerProtocolSubscription, TopicName};
use kafka_protocol::protocol::{Encodable, StrBytes};

use crate::mirror::identity::hash;
use crate::mirror::progress::Partition;
use crate::wire::cursor::{Cursor, ReadError, put_uvarint};

const SUBSCRIPTION_VERSION: i16 = 2;
const ASSIGNMENT_VERSION: i16 = 1;
/// A group with all its members is one record of the offsets topic, which must stay under 1 MB: a member names topics in so many bytes at most, its own
/// first.
pub const TOPICS_BYTES_MAX: usize = 32 * 1024;
const MAGIC: &[u8] = b"dfl1";

/// What a member says of itself when it joins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscription {
    /// Topics that it can mirror.
    pub topics: BTreeSet<Arc<str>>,
    /// Whether these are all.
    pub is_complete: bool,
    /// The streams that it has now.
    pub claims: Claims,
    /// The generation in which it had them last; -1 for none.
    pub generation: i32,
}

/// Streams, by a hash of the topic's name: names would take as much room again as in the assignment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims(BTreeMap<u64, BTreeSet<i32>>);

impl Claims {
    /// What of `topic` is claimed.
    pub fn of(&self, topic: &str) -> Option<&BTreeSet<i32>> {
        self.0.get(&hash(topic.as_bytes()))
    }

    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'a> FromIterator<&'a Partition> for Claims {
    fn from_iter<I: IntoIterator<Item = &'a Partition>>(streams: I) -> Self {
        let mut topics: BTreeMap<&Arc<str>, BTreeSet<i32>> = BTreeMap::new();
        for (topic, partition) in streams {
            topics.entry(topic).or_default().insert(*partition);
        }
        Self(topics.into_iter().map(|(topic, partitions)| (hash(topic.as_bytes()), partitions)).collect())
    }
}

impl Subscription {
    /// A subscription to `topics`, or to as many as there is room for.
    pub fn new(topics: impl IntoIterator<Item = Arc<str>>, claims: Claims, generation: i32) -> Self {
        let all: BTreeSet<Arc<str>> = topics.into_iter().collect();
        let mut bytes = 0;
        let (own, others): (Vec<&Arc<str>>, Vec<_>) = all.iter().partition(|topic| claims.of(topic).is_some());
        let named = own.into_iter().chain(others).take_while(|topic| {
            bytes += topic.len() + 2;
            bytes <= TOPICS_BYTES_MAX
        });
        let topics: BTreeSet<Arc<str>> = named.cloned().collect();
        Self { is_complete: topics.len() == all.len(), topics, claims, generation }
    }

    /// The bytes.
    pub fn encode(&self) -> Bytes {
        let mut said = BytesMut::from(MAGIC);
        said.put_u8(u8::from(self.is_complete));
        said.put_i32(i32::try_from(self.claims.0.len()).unwrap_or(i32::MAX));
        for (topic, partitions) in &self.claims.0 {
            said.put_u64(*topic);
            put_uvarint(&mut said, u32::try_from(partitions.len()).unwrap_or(u32::MAX));
            let mut before = 0;
            for partition in partitions {
                put_uvarint(&mut said, u32::try_from(partition - before).unwrap_or(0));
                before = *partition;
            }
        }
        let message = ConsumerProtocolSubscription::default()
            .with_topics(self.topics.iter().map(text).collect())
            .with_user_data(Some(said.freeze()))
            .with_generation_id(self.generation);
        encode(SUBSCRIPTION_VERSION, &message)
    }

    /// Reads another member's bytes.
    ///
    /// # Errors
    /// [`ReadError`] if they are not a diffluent's subscription.
    pub fn decode(bytes: &[u8]) -> Result<Self, ReadError> {
        let mut cursor = Cursor::new(bytes);
        if cursor.i16()? < SUBSCRIPTION_VERSION {
            return Err(ReadError::Malformed("an older subscription"));
        }
        let mut topics = BTreeSet::new();
        for _ in 0..cursor.array_count(false)? {
            topics.insert(name(cursor.string(false)?)?);
        }
        let said = cursor.nullable_bytes(false)?.unwrap_or_default();
        // Partitions that it owns, which are in the user data.
        partitions(&mut cursor)?;
        let generation = cursor.i32()?;
        let mut said = Cursor::new(said.strip_prefix(MAGIC).ok_or(ReadError::Malformed("not a diffluent"))?);
        let is_complete = said.i8()? != 0;
        let mut claims = BTreeMap::new();
        for _ in 0..said.array_count(false)? {
            let topic = u64::from_be_bytes(said.i64()?.to_be_bytes());
            let mut partitions = BTreeSet::new();
            let mut partition = 0_i32;
            for _ in 0..said.uvarint()? {
                let step = i32::try_from(said.uvarint()?).ok();
                partition = step
                    .and_then(|step| partition.checked_add(step))
                    .ok_or(ReadError::Malformed("a partition that can't be"))?;
                partitions.insert(partition);
            }
            claims.insert(topic, partitions);
        }
        Ok(Self { topics, is_complete, claims: Claims(claims), generation })
    }

    /// Whether the member can mirror a topic, as far as it says.
    pub fn takes(&self, topic: &Arc<str>) -> bool {
        !self.is_complete || self.topics.contains(topic)
    }
}

/// The bytes of an assignment.
pub fn encode_assignment(assigned: &BTreeSet<Partition>) -> Bytes {
    let mut topics: BTreeMap<&Arc<str>, Vec<i32>> = BTreeMap::new();
    for (topic, partition) in assigned {
        topics.entry(topic).or_default().push(*partition);
    }
    let topics = topics.into_iter().map(|(topic, partitions)| {
        TopicPartition::default().with_topic(TopicName(text(topic))).with_partitions(partitions)
    });
    encode(ASSIGNMENT_VERSION, &ConsumerProtocolAssignment::default().with_assigned_partitions(topics.collect()))
}

/// Reads the bytes of an assignment. None at all are an empty one.
///
/// # Errors
/// [`ReadError`] if they are no assignment.
pub fn decode_assignment(bytes: &[u8]) -> Result<BTreeSet<Partition>, ReadError> {
    let mut cursor = Cursor::new(bytes);
    if cursor.is_empty() {
        return Ok(BTreeSet::new());
    }
    cursor.i16()?;
    partitions(&mut cursor)
}

fn partitions(cursor: &mut Cursor<'_>) -> Result<BTreeSet<Partition>, ReadError> {
    let mut partitions = BTreeSet::new();
    for _ in 0..cursor.array_count(false)? {
        let topic = name(cursor.string(false)?)?;
        for _ in 0..cursor.array_count(false)? {
            partitions.insert((topic.clone(), cursor.i32()?));
        }
    }
    Ok(partitions)
}

fn name(bytes: &[u8]) -> Result<Arc<str>, ReadError> {
    std::str::from_utf8(bytes).map(Arc::from).map_err(|_| ReadError::Malformed("a topic's name that is no text"))
}

fn text(topic: &Arc<str>) -> StrBytes {
    StrBytes::from_string(topic.to_string())
}

fn encode(version: i16, message: &impl Encodable) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_i16(version);
    message.encode(&mut bytes, version).unwrap_or_else(|error| unreachable!("our own message: {error}"));
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::protocol::Decodable;

    fn streams(topic: &str, partitions: std::ops::Range<i32>) -> Vec<Partition> {
        partitions.map(|partition| (Arc::from(topic), partition)).collect()
    }

    #[test]
    fn what_is_said_is_what_is_read_and_what_kafkas_own_consumers_read() {
        let owned = [streams("orders", 0..3), streams("payments", 7..8), streams("payments", 300..302)];
        let owned: BTreeSet<Partition> = owned.into_iter().flatten().collect();
        let said = Subscription::new([Arc::from("orders"), Arc::from("payments")], owned.iter().collect(), 41);
        let bytes = said.encode();
        let read = Subscription::decode(&bytes).expect("a subscription");
        assert_eq!(read, said);
        assert_eq!(read.claims.of("payments"), Some(&BTreeSet::from([7, 300, 301])));
        assert_eq!(read.claims.of("refunds"), None);
        let theirs = ConsumerProtocolSubscription::decode(&mut bytes.slice(2..), 2).expect("a subscription");
        assert_eq!((theirs.topics.len(), theirs.generation_id), (2, 41));
        let bytes = encode_assignment(&owned);
        assert_eq!(decode_assignment(&bytes), Ok(owned));
        let theirs = ConsumerProtocolAssignment::decode(&mut bytes.slice(2..), 1).expect("an assignment");
        assert_eq!(theirs.assigned_partitions.len(), 2);
        assert_eq!(decode_assignment(&[]), Ok(BTreeSet::new()));
    }

    #[test]
    fn bytes_of_another_tool_are_an_error_and_cost_nothing() {
        let theirs = encode(2, &ConsumerProtocolSubscription::default().with_topics(vec![text(&Arc::from("orders"))]));
        for lie in [&theirs[..], &[], &[0, 2], &[0, 2, 0x7f, 0xff, 0xff, 0xff, 0, 1], &[0, 1, 0, 0, 0, 1, 0, 2, 0xff]] {
            assert!(Subscription::decode(lie).is_err(), "{lie:?}");
        }
        assert!(decode_assignment(&[0, 1, 0x7f, 0xff, 0xff, 0xff]).is_err());
    }

    #[test]
    fn with_more_topics_than_there_is_room_for_a_member_names_its_own_first() {
        let topics: Vec<Arc<str>> =
            (0..10_000).map(|topic| Arc::from(format!("topic-with-a-name-{topic:06}"))).collect();
        let last = topics[9_999].clone();
        let said = Subscription::new(topics.clone(), streams(&last, 0..1).iter().collect(), 1);
        assert!(!said.is_complete && said.topics.contains(&last) && said.topics.len() < 2_000);
        assert!(said.takes(&topics[9_000]), "what it could not name it takes all the same");
        assert!(said.encode().len() < TOPICS_BYTES_MAX + 100);
        assert!(!Subscription::decode(&said.encode()).expect("a subscription").is_complete);
    }

    #[test]
    fn ten_thousand_partitions_fit_into_one_record_of_the_offsets_topic() {
        for (topics, each, bytes_max) in [(100, 100, 100_000), (1_000, 10, 200_000), (10_000, 1, 800_000)] {
            let names: Vec<Arc<str>> =
                (0..topics).map(|topic| Arc::from(format!("company.department.events-{topic:06}.v1"))).collect();
            let owned: BTreeSet<Partition> = names.iter().flat_map(|name| streams(name, 0..each)).collect();
            let said = Subscription::new(names, owned.iter().collect(), 1).encode().len();
            let assigned = encode_assignment(&owned).len();
            println!("{topics} topics of {each} partitions: {said} bytes of subscription, {assigned} of assignment");
            assert!(said + assigned < bytes_max);
        }
    }
}
