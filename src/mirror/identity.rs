//! Reserved producer ids: under which identity a stream writes, and how a batch tells where it was born.
//!
//! ```text
//! bit 63   0
//! bit 62   1: reserved. Brokers hand out ids from 0 upward and never get here.
//! bits 38-61   24 bits of a hash of the source cluster's id
//! bits 0-37    38 bits of a hash of the topic's id
//! ```
//!
//! The layout and the hash are on disk in every region for as long as the records are: they can never change.

use uuid::Uuid;

const RESERVED_BIT: i64 = 1 << 62;
const TOPIC_BITS: u32 = 38;
const CLUSTER_BITS: u32 = 24;
const CLUSTER_MASK: i64 = ((1 << CLUSTER_BITS) - 1) << TOPIC_BITS;

/// The producer id with which streams of a topic write, of the cluster where the topic's records are born.
pub fn reserved_producer_id(source_cluster_id: &str, topic_id: Uuid) -> i64 {
    let cluster = (hash(source_cluster_id.as_bytes()) >> (64 - CLUSTER_BITS)) as i64;
    let topic = (hash(topic_id.as_bytes()) >> (64 - TOPIC_BITS)) as i64;
    RESERVED_BIT | cluster << TOPIC_BITS | topic
}

/// Whether a batch with this producer id was written by a stream: it was born in another cluster than the one whose log holds it, or came back.
pub fn is_reserved(producer_id: i64) -> bool {
    producer_id > 0 && producer_id & RESERVED_BIT != 0
}

/// Whether a reserved id says that the batch was born in this cluster.
pub fn is_born_in(producer_id: i64, cluster_id: &str) -> bool {
    is_reserved(producer_id) && (producer_id ^ reserved_producer_id(cluster_id, Uuid::nil())) & CLUSTER_MASK == 0
}

/// FNV-1a over the bytes, then the finalizer of MurmurHash3, so that the high bits depend on every byte.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let mut hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDERS: Uuid = Uuid::from_u128(0x1234_5678_9abc_def0_1122_3344_5566_7788);

    #[test]
    fn an_id_is_the_same_for_ever() {
        // Records in regions carry these: if this test fails, every stream would write its log again.
        assert_eq!(reserved_producer_id("MkU3OEVBNTcwNTJENDM2Qg", ORDERS), EU);
        assert_eq!(reserved_producer_id("4L6g3nShT-eMCtK--X86sw", ORDERS), US);
    }

    const EU: i64 = 6_102_488_561_280_054_532;
    const US: i64 = 4_625_763_631_072_244_996;

    #[test]
    fn an_id_is_reserved_and_tells_its_cluster() {
        let id = reserved_producer_id("eu", ORDERS);
        assert!(is_reserved(id));
        assert!(is_born_in(id, "eu"));
        assert!(!is_born_in(id, "us"));
    }

    #[test]
    fn ids_that_brokers_hand_out_are_not_reserved() {
        for id in [-1, 0, 1, 1 << 40, i64::MIN, (1 << 62) - 1] {
            assert!(!is_reserved(id), "{id}");
        }
    }

    #[test]
    fn topics_and_clusters_have_ids_of_their_own() {
        let ids: std::collections::HashSet<i64> = (0..100)
            .flat_map(|cluster| (0..100).map(move |topic| (cluster, topic)))
            .map(|(cluster, topic)| reserved_producer_id(&format!("cluster-{cluster}"), Uuid::from_u128(topic)))
            .collect();
        assert_eq!(ids.len(), 100 * 100);
    }
}
