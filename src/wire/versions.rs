//! Which APIs are read or rewritten, and up to which version. One table.
//!
//! All else passes as opaque frames, whatever its version. ApiVersions answers are cut down to this table, so that no client asks for a
//! version whose addresses we would let through.
//!
//! # Before raising a number
//! A Kafka release is a checklist. Compare the message definitions of the new version with the last:
//! 1. Request: is the API key's header still version 2, do the fields before the one that we look at stay as they are (`produce`)?
//! 2. Answer: what is new in front of the addresses, or inside of the array that holds them (`rewrite`, `fetch`, `share`)?
//! 3. Are there new fields with a host, a port, or a new tagged field 0? Are there new APIs that carry addresses?
//! 4. Does the answer to a client still come in the order of requests?
//!
//! Then raise it here, extend the reference tests to the version, and run the tests against a broker of that release.
//!
//! # References
//! The definitions of Apache Kafka 4.3; what each version brought is told at its entry.

/// Produce.
pub const PRODUCE: i16 = 0;
/// Fetch.
pub const FETCH: i16 = 1;
/// Metadata.
pub const METADATA: i16 = 3;
/// FindCoordinator.
pub const FIND_COORDINATOR: i16 = 10;
/// SaslHandshake. Read for one thing: after version 0, raw tokens follow (KIP-152).
pub const SASL_HANDSHAKE: i16 = 17;
/// ApiVersions.
pub const API_VERSIONS: i16 = 18;
/// DescribeCluster.
pub const DESCRIBE_CLUSTER: i16 = 60;
/// ShareFetch.
pub const SHARE_FETCH: i16 = 78;
/// ShareAcknowledge.
pub const SHARE_ACKNOWLEDGE: i16 = 79;

/// The version that asks a broker for its KIP-511 answer: higher than any that it may have.
pub const VERSION_TOO_NEW: i16 = i16::MAX;

/// What is done with an API's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewrite {
    /// Addresses stand near the start: the head is rewritten, the rest passes.
    Head,
    /// Addresses stand in top-level tagged field 0, behind everything, from this version on (KIP-951).
    EndpointsTag {
        /// The first version that has the field.
        since: i16,
    },
    /// Addresses stand in an array behind everything but the last tag section.
    EndpointsArray,
    /// The list of versions is cut down to this table.
    Versions,
}

/// An API that we read or rewrite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inspected {
    /// Its key.
    pub api_key: i16,
    /// The highest version that we can read.
    pub version_max: i16,
    /// The first flexible version, KIP-482: from here on answers have a tag section in their header (except ApiVersions) and compact fields.
    pub flexible_since: i16,
    /// What is done with its answers.
    pub rewrite: Rewrite,
}

/// The table, by key.
pub const INSPECTED: [Inspected; 8] = [
    // 3: transactional id, records v2 (KIP-98). 9: flexible. 10: node endpoints (KIP-951). 11, 12: KIP-890. 13: topic ids (KIP-516).
    // Versions 0-2 are gone since Kafka 4.0, but still announced (KAFKA-18659): the minimum stays the broker's.
    Inspected { api_key: PRODUCE, version_max: 13, flexible_since: 9, rewrite: Rewrite::EndpointsTag { since: 10 } },
    // 12: flexible. 13: topic ids (KIP-516). 16: node endpoints (KIP-951). 17: KIP-853. 18: KIP-1166.
    Inspected { api_key: FETCH, version_max: 18, flexible_since: 12, rewrite: Rewrite::EndpointsTag { since: 16 } },
    // 1: rack. 3: throttle time. 9: flexible. 10, 12: topic ids (KIP-516). 13: top-level error code (KIP-1102).
    Inspected { api_key: METADATA, version_max: 13, flexible_since: 9, rewrite: Rewrite::Head },
    // 1: throttle time, message. 3: flexible. 4: batches (KIP-699). 5: KIP-890. 6: share groups (KIP-932).
    Inspected { api_key: FIND_COORDINATOR, version_max: 6, flexible_since: 3, rewrite: Rewrite::Head },
    // 3: flexible, client software (KIP-511). 4: features from 0 (KIP-584 amended). 5 (KIP-1242) is not in 4.3.
    Inspected { api_key: API_VERSIONS, version_max: 4, flexible_since: 3, rewrite: Rewrite::Versions },
    // KIP-700. 1: endpoint type (KIP-919). 2: fenced brokers (KIP-1073).
    Inspected { api_key: DESCRIBE_CLUSTER, version_max: 2, flexible_since: 0, rewrite: Rewrite::Head },
    // KIP-932. 0: early access of 4.0, gone since 4.1. 1: acquisition lock timeout. 2: KIP-1206, KIP-1222.
    Inspected { api_key: SHARE_FETCH, version_max: 2, flexible_since: 0, rewrite: Rewrite::EndpointsArray },
    // KIP-932. 2: acquisition lock timeout (KIP-1222).
    Inspected { api_key: SHARE_ACKNOWLEDGE, version_max: 2, flexible_since: 0, rewrite: Rewrite::EndpointsArray },
];

/// The table's entry for an API, if it has one.
pub fn inspected(api_key: i16) -> Option<&'static Inspected> {
    match api_key {
        PRODUCE => Some(&INSPECTED[0]),
        FETCH => Some(&INSPECTED[1]),
        METADATA => Some(&INSPECTED[2]),
        FIND_COORDINATOR => Some(&INSPECTED[3]),
        API_VERSIONS => Some(&INSPECTED[4]),
        DESCRIBE_CLUSTER => Some(&INSPECTED[5]),
        SHARE_FETCH => Some(&INSPECTED[6]),
        SHARE_ACKNOWLEDGE => Some(&INSPECTED[7]),
        _ => None,
    }
}

impl Inspected {
    /// Whether this version of the API is flexible (KIP-482).
    pub fn is_flexible(&self, version: i16) -> bool {
        version >= self.flexible_since
    }
}

/// The label of APIs that have no name here.
pub const OTHER_API: &str = "other";

/// The names of the APIs of Apache Kafka 4.3 by key, for metric labels and logs.
pub const API_NAMES: [&str; 93] = [
    "Produce",
    "Fetch",
    "ListOffsets",
    "Metadata",
    "LeaderAndIsr",
    "StopReplica",
    "UpdateMetadata",
    "ControlledShutdown",
    "OffsetCommit",
    "OffsetFetch",
    "FindCoordinator",
    "JoinGroup",
    "Heartbeat",
    "LeaveGroup",
    "SyncGroup",
    "DescribeGroups",
    "ListGroups",
    "SaslHandshake",
    "ApiVersions",
    "CreateTopics",
    "DeleteTopics",
    "DeleteRecords",
    "InitProducerId",
    "OffsetForLeaderEpoch",
    "AddPartitionsToTxn",
    "AddOffsetsToTxn",
    "EndTxn",
    "WriteTxnMarkers",
    "TxnOffsetCommit",
    "DescribeAcls",
    "CreateAcls",
    "DeleteAcls",
    "DescribeConfigs",
    "AlterConfigs",
    "AlterReplicaLogDirs",
    "DescribeLogDirs",
    "SaslAuthenticate",
    "CreatePartitions",
    "CreateDelegationToken",
    "RenewDelegationToken",
    "ExpireDelegationToken",
    "DescribeDelegationToken",
    "DeleteGroups",
    "ElectLeaders",
    "IncrementalAlterConfigs",
    "AlterPartitionReassignments",
    "ListPartitionReassignments",
    "OffsetDelete",
    "DescribeClientQuotas",
    "AlterClientQuotas",
    "DescribeUserScramCredentials",
    "AlterUserScramCredentials",
    "Vote",
    "BeginQuorumEpoch",
    "EndQuorumEpoch",
    "DescribeQuorum",
    "AlterPartition",
    "UpdateFeatures",
    "Envelope",
    "FetchSnapshot",
    "DescribeCluster",
    "DescribeProducers",
    "BrokerRegistration",
    "BrokerHeartbeat",
    "UnregisterBroker",
    "DescribeTransactions",
    "ListTransactions",
    "AllocateProducerIds",
    "ConsumerGroupHeartbeat",
    "ConsumerGroupDescribe",
    "ControllerRegistration",
    "GetTelemetrySubscriptions",
    "PushTelemetry",
    "AssignReplicasToDirs",
    "ListConfigResources",
    "DescribeTopicPartitions",
    "ShareGroupHeartbeat",
    "ShareGroupDescribe",
    "ShareFetch",
    "ShareAcknowledge",
    "AddRaftVoter",
    "RemoveRaftVoter",
    "UpdateRaftVoter",
    "InitializeShareGroupState",
    "ReadShareGroupState",
    "WriteShareGroupState",
    "DeleteShareGroupState",
    "ReadShareGroupStateSummary",
    "StreamsGroupHeartbeat",
    "StreamsGroupDescribe",
    "DescribeShareGroupOffsets",
    "AlterShareGroupOffsets",
    "DeleteShareGroupOffsets",
];

/// An API's name; [`OTHER_API`] for keys that we don't know, so that labels stay bounded.
pub fn api_name(api_key: i16) -> &'static str {
    usize::try_from(api_key).ok().and_then(|key| API_NAMES.get(key)).copied().unwrap_or(OTHER_API)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_found_by_its_key() {
        for entry in INSPECTED {
            assert_eq!(inspected(entry.api_key), Some(&entry));
        }
        for key in i16::MIN..=i16::MAX {
            assert_eq!(inspected(key).is_some(), INSPECTED.iter().any(|entry| entry.api_key == key));
        }
    }

    #[test]
    fn names_follow_the_keys() {
        for (key, name) in [(0, "Produce"), (18, "ApiVersions"), (60, "DescribeCluster"), (79, "ShareAcknowledge")] {
            assert_eq!(api_name(key), name);
        }
        assert_eq!(api_name(-1), OTHER_API);
        assert_eq!(api_name(93), OTHER_API);
    }
}
