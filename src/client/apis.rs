//! The calls that diffluent makes, each with the one version that it speaks and the shape of the answer.
//!
//! One version each keeps one code path for every broker from Apache Kafka 3.1 to 4.x. Before a number is raised: the oldest broker
//! that the tests run must support it, and the shape (see [`crate::wire::shape`]) must be that version's, by Kafka's
//! message definitions.

use kafka_protocol::messages::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse,
    DescribeConfigsRequest, DescribeConfigsResponse, DescribeGroupsRequest, DescribeGroupsResponse,
    DescribeProducersRequest, DescribeProducersResponse, DescribeQuorumRequest, DescribeQuorumResponse, FetchRequest,
    FetchResponse, FindCoordinatorRequest, FindCoordinatorResponse, HeartbeatRequest, HeartbeatResponse,
    InitProducerIdRequest, InitProducerIdResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    LeaveGroupResponse, ListOffsetsRequest, ListOffsetsResponse, MetadataRequest, MetadataResponse,
    OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest, OffsetFetchResponse, OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse, ProduceRequest, ProduceResponse, SyncGroupRequest, SyncGroupResponse,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion};

/// A request that diffluent sends, and the answer to it.
pub trait Call {
    /// The message that goes out.
    type Message: Encodable + HeaderVersion;
    /// The answer's type.
    type Answer: Decodable + HeaderVersion;
    /// The API's name, for messages.
    const NAME: &'static str;
    /// The API's key.
    const KEY: i16;
    /// The version that is spoken.
    const VERSION: i16;
    /// The shape of the answer's body.
    const SHAPE: &'static str;

    /// The message that goes out.
    fn message(&self) -> &Self::Message;
}

macro_rules! calls {
    ($($request:ident => $answer:ident, $name:literal, $key:literal, $version:literal, $shape:literal;)*) => {
        $(impl Call for $request {
            type Message = Self;
            type Answer = $answer;
            const NAME: &'static str = $name;
            const KEY: i16 = $key;
            const VERSION: i16 = $version;
            const SHAPE: &'static str = $shape;

            fn message(&self) -> &Self {
                self
            }
        })*

        /// Name, key and version of every call, for `diffluent check`.
        pub const NEEDED: &[(&str, i16, i16)] = &[$(($name, $key, $version)),*];
    };
}

calls! {
    ProduceRequest => ProduceResponse, "Produce", 0, 9, "[s[42888[4st]st]t]4t";
    FetchRequest => FetchResponse, "Fetch", 1, 12, "424[s[42888[88t]4st<0=48t,1=44t,2=84t>]t]t";
    ListOffsetsRequest => ListOffsetsResponse, "ListOffsets", 2, 7, "4[s[42884t]t]t";
    MetadataRequest => MetadataResponse, "Metadata", 3, 12, "4[4s4st]s4[2su1[2444[4][4][4]t]4t]t";
    OffsetCommitRequest => OffsetCommitResponse, "OffsetCommit", 8, 8, "4[s[42t]t]t";
    OffsetFetchRequest => OffsetFetchResponse, "OffsetFetch", 9, 7, "4[s[484s2t]t]2t";
    FindCoordinatorRequest => FindCoordinatorResponse, "FindCoordinator", 10, 3, "42s4s4t";
    JoinGroupRequest => JoinGroupResponse, "JoinGroup", 11, 7, "424ssss[ssst]t";
    HeartbeatRequest => HeartbeatResponse, "Heartbeat", 12, 4, "42t";
    LeaveGroupRequest => LeaveGroupResponse, "LeaveGroup", 13, 4, "42[ss2t]t";
    SyncGroupRequest => SyncGroupResponse, "SyncGroup", 14, 5, "42ssst";
    DescribeGroupsRequest => DescribeGroupsResponse, "DescribeGroups", 15, 5, "4[2ssss[sssssst]4t]t";
    CreateTopicsRequest => CreateTopicsResponse, "CreateTopics", 19, 7, "4[su2s42[ss111t]t<0=2>]t";
    InitProducerIdRequest => InitProducerIdResponse, "InitProducerId", 22, 4, "4282t";
    OffsetForLeaderEpochRequest => OffsetForLeaderEpochResponse, "OffsetForLeaderEpoch", 23, 4, "4[s[2448t]t]t";
    DescribeConfigsRequest => DescribeConfigsResponse, "DescribeConfigs", 32, 4, "4[2s1s[ss111[ss1t]1st]t]t";
    CreatePartitionsRequest => CreatePartitionsResponse, "CreatePartitions", 37, 3, "4[s2st]t";
    DescribeQuorumRequest => DescribeQuorumResponse, "DescribeQuorum", 55, 1, "2[s[42448[4888t][4888t]t]t]t";
    DescribeProducersRequest => DescribeProducersResponse, "DescribeProducers", 61, 0, "4[s[42s[844848t]t]t]t";
}

/// A Fetch that names topics by their ids (KIP-516). Not every cluster has ids for its topics, so this is the one call with a second version, for the one purpose that names
/// are bad for: a session of many partitions. Its broker finds them by the hash of `31 * partition + hash(topic)`; names that count up (`orders-01`, `orders-02`)
/// collide there by the thousand, and to open a session of 10,000 partitions takes it longer than a request may take.
#[derive(Debug)]
pub struct FetchById(pub FetchRequest);

impl Call for FetchById {
    type Message = FetchRequest;
    type Answer = FetchResponse;
    const NAME: &'static str = <FetchRequest as Call>::NAME;
    const KEY: i16 = <FetchRequest as Call>::KEY;
    const VERSION: i16 = 13;
    const SHAPE: &'static str = "424[u[42888[88t]4st<0=48t,1=44t,2=84t>]t]t";

    fn message(&self) -> &FetchRequest {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use kafka_protocol::messages::*;
    use kafka_protocol::protocol::StrBytes;

    fn fits<C: Call>(answer: &C::Answer)
    where
        C::Answer: Encodable,
    {
        let mut bytes = BytesMut::new();
        answer.encode(&mut bytes, C::VERSION).expect("encodes");
        crate::wire::shape::check(C::SHAPE, &bytes).unwrap_or_else(|_| panic!("{}", C::NAME));
        let cut = &bytes[..bytes.len() - 1];
        assert!(crate::wire::shape::check(C::SHAPE, cut).is_err(), "{} cut short", C::NAME);
    }

    #[test]
    fn every_shape_fits_what_the_protocol_crate_encodes() {
        let topic = || TopicName(StrBytes::from_static_str("orders"));
        fits::<ProduceRequest>(&ProduceResponse::default().with_responses(vec![
            produce_response::TopicProduceResponse::default().with_name(topic()).with_partition_responses(vec![
                produce_response::PartitionProduceResponse::default()
                    .with_record_errors(vec![produce_response::BatchIndexAndErrorMessage::default()])
                    .with_error_message(Some(StrBytes::from_static_str("x"))),
            ]),
        ]));
        fits::<FetchRequest>(&FetchResponse::default().with_responses(vec![
            fetch_response::FetchableTopicResponse::default().with_topic(topic()).with_partitions(vec![
                fetch_response::PartitionData::default()
                    .with_aborted_transactions(Some(vec![fetch_response::AbortedTransaction::default()]))
                    .with_records(Some(bytes::Bytes::from_static(b"abc"))),
            ]),
        ]));
        fits::<FetchById>(&FetchResponse::default().with_responses(vec![
            fetch_response::FetchableTopicResponse::default()
                .with_topic_id(uuid::Uuid::from_u128(7))
                .with_partitions(vec![fetch_response::PartitionData::default()]),
        ]));
        fits::<ListOffsetsRequest>(&ListOffsetsResponse::default().with_topics(vec![
            list_offsets_response::ListOffsetsTopicResponse::default()
                .with_name(topic())
                .with_partitions(vec![list_offsets_response::ListOffsetsPartitionResponse::default()]),
        ]));
        fits::<MetadataRequest>(
            &MetadataResponse::default()
                .with_brokers(vec![metadata_response::MetadataResponseBroker::default()])
                .with_topics(vec![
                    metadata_response::MetadataResponseTopic::default().with_name(Some(topic())).with_partitions(vec![
                        metadata_response::MetadataResponsePartition::default()
                            .with_replica_nodes(vec![BrokerId(1), BrokerId(2)]),
                    ]),
                ]),
        );
        fits::<OffsetCommitRequest>(&OffsetCommitResponse::default().with_topics(vec![
            offset_commit_response::OffsetCommitResponseTopic::default()
                .with_name(topic())
                .with_partitions(vec![offset_commit_response::OffsetCommitResponsePartition::default()]),
        ]));
        fits::<OffsetFetchRequest>(&OffsetFetchResponse::default().with_topics(vec![
            offset_fetch_response::OffsetFetchResponseTopic::default()
                .with_name(topic())
                .with_partitions(vec![offset_fetch_response::OffsetFetchResponsePartition::default()]),
        ]));
        fits::<FindCoordinatorRequest>(&FindCoordinatorResponse::default());
        let members = || vec![join_group_response::JoinGroupResponseMember::default()];
        fits::<JoinGroupRequest>(
            &JoinGroupResponse::default().with_protocol_name(Some(StrBytes::default())).with_members(members()),
        );
        fits::<HeartbeatRequest>(&HeartbeatResponse::default());
        fits::<LeaveGroupRequest>(
            &LeaveGroupResponse::default().with_members(vec![leave_group_response::MemberResponse::default()]),
        );
        fits::<SyncGroupRequest>(&SyncGroupResponse::default().with_assignment(bytes::Bytes::from_static(b"abc")));
        fits::<DescribeGroupsRequest>(&DescribeGroupsResponse::default().with_groups(vec![
            describe_groups_response::DescribedGroup::default()
                .with_members(vec![describe_groups_response::DescribedGroupMember::default()]),
        ]));
        fits::<CreateTopicsRequest>(&CreateTopicsResponse::default().with_topics(vec![
            create_topics_response::CreatableTopicResult::default()
                .with_name(topic())
                .with_configs(Some(vec![create_topics_response::CreatableTopicConfigs::default()])),
        ]));
        fits::<OffsetForLeaderEpochRequest>(&OffsetForLeaderEpochResponse::default().with_topics(vec![
            offset_for_leader_epoch_response::OffsetForLeaderTopicResult::default()
                .with_topic(topic())
                .with_partitions(vec![offset_for_leader_epoch_response::EpochEndOffset::default()]),
        ]));
        fits::<InitProducerIdRequest>(&InitProducerIdResponse::default());
        fits::<CreatePartitionsRequest>(
            &CreatePartitionsResponse::default().with_results(vec![
                create_partitions_response::CreatePartitionsTopicResult::default().with_name(topic()),
            ]),
        );
        let config = describe_configs_response::DescribeConfigsResourceResult::default()
            .with_value(Some(StrBytes::from_static_str("1")))
            .with_synonyms(vec![describe_configs_response::DescribeConfigsSynonym::default()]);
        fits::<DescribeConfigsRequest>(&DescribeConfigsResponse::default().with_results(vec![
            describe_configs_response::DescribeConfigsResult::default().with_configs(vec![config]),
        ]));
        let voter = describe_quorum_response::ReplicaState::default;
        fits::<DescribeQuorumRequest>(&DescribeQuorumResponse::default().with_topics(vec![
            describe_quorum_response::TopicData::default().with_topic_name(topic()).with_partitions(vec![
                describe_quorum_response::PartitionData::default()
                    .with_current_voters(vec![voter()])
                    .with_observers(vec![voter(), voter()]),
            ]),
        ]));
        fits::<DescribeProducersRequest>(&DescribeProducersResponse::default().with_topics(vec![
            describe_producers_response::TopicResponse::default().with_name(topic()).with_partitions(vec![
                describe_producers_response::PartitionResponse::default()
                    .with_active_producers(vec![describe_producers_response::ProducerState::default()]),
            ]),
        ]));
    }
}
