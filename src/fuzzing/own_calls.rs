//! What clusters answer to diffluent's own calls: a shape that was checked is safe to decode.

use arbitrary::{Result, Unstructured};
use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable};

use super::messages::{self, broken, rest};
use crate::client::apis::Call;
use crate::mirror::ownership::messages::{Subscription, decode_assignment};
use crate::wire::shape;

/// Checks and decodes; bytes that only cost a decoder memory, were it to believe them, don't get to it.
fn checked<R: Call>(u: &mut Unstructured<'_>, valid: Option<R::Answer>) -> Result<()>
where
    R::Answer: Encodable + Default + std::fmt::Debug + PartialEq,
{
    let mut encoded = BytesMut::new();
    let valid = valid.unwrap_or_default();
    valid.encode(&mut encoded, R::VERSION).expect("an answer of this version");
    let encoded = encoded.freeze();
    shape::check(R::SHAPE, &encoded).unwrap_or_else(|error| panic!("a valid {} answer: {error}", R::NAME));
    assert_eq!(R::Answer::decode(&mut encoded.clone(), R::VERSION).expect("decodes"), valid);
    let bytes = if u.arbitrary()? { broken(u, encoded.to_vec())? } else { rest(u)?.to_vec() };
    if shape::check(R::SHAPE, &bytes).is_ok() {
        // Not more than its own size, give or take what a Rust struct is larger than its encoding; an abort would show here.
        let _ = R::Answer::decode(&mut Bytes::from(bytes), R::VERSION);
    }
    Ok(())
}

pub(super) fn answer(u: &mut Unstructured<'_>) -> Result<()> {
    match u.int_in_range(0..=20)? {
        0 => {
            let mut answer = messages::produce_answer(u, 9)?;
            answer.node_endpoints.clear();
            checked::<ProduceRequest>(u, Some(answer))
        }
        1 => {
            // With the leader in a tagged field, which the crate decodes.
            let mut answer = messages::fetch_answer(u)?;
            answer.node_endpoints.clear();
            for topic in &mut answer.responses {
                topic.topic_id = uuid::Uuid::nil();
                topic.topic = TopicName(messages::text("orders"));
            }
            checked::<FetchRequest>(u, Some(answer))
        }
        2 => checked::<ListOffsetsRequest>(u, None),
        3 => {
            let mut answer = messages::metadata(u, 12)?;
            answer.error_code = 0;
            checked::<MetadataRequest>(u, Some(answer))
        }
        4 => checked::<OffsetCommitRequest>(u, None),
        5 => checked::<OffsetFetchRequest>(u, None),
        6 => checked::<FindCoordinatorRequest>(u, None),
        7 => {
            let topic = create_topics_response::CreatableTopicResult::default().with_topic_config_error_code(29);
            let answer = CreateTopicsResponse::default().with_topics(vec![topic; u.int_in_range(0..=3)?]);
            checked::<CreateTopicsRequest>(u, Some(answer))
        }
        8 => checked::<OffsetForLeaderEpochRequest>(u, None),
        9 => checked::<CreatePartitionsRequest>(u, None),
        10 => {
            let config = describe_configs_response::DescribeConfigsResourceResult::default()
                .with_synonyms(vec![Default::default(); u.int_in_range(0..=3)?]);
            let result = describe_configs_response::DescribeConfigsResult::default().with_configs(vec![config]);
            let answer = DescribeConfigsResponse::default().with_results(vec![result; u.int_in_range(0..=3)?]);
            checked::<DescribeConfigsRequest>(u, Some(answer))
        }
        11 => {
            let partition = describe_quorum_response::PartitionData::default()
                .with_current_voters(vec![Default::default(); u.int_in_range(0..=3)?]);
            let topic = describe_quorum_response::TopicData::default().with_partitions(vec![partition]);
            checked::<DescribeQuorumRequest>(u, Some(DescribeQuorumResponse::default().with_topics(vec![topic])))
        }
        12 => checked::<JoinGroupRequest>(u, None),
        13 => checked::<SyncGroupRequest>(u, None),
        14 => checked::<HeartbeatRequest>(u, None),
        15 => checked::<LeaveGroupRequest>(u, None),
        16 => checked::<DescribeGroupsRequest>(u, None),
        17 => {
            // What other members say of themselves is read by a bounded reader of our own.
            let bytes = bytes::Bytes::copy_from_slice(rest(u)?);
            let _ = Subscription::decode(&bytes);
            let _ = decode_assignment(&bytes);
            Ok(())
        }
        18 => {
            let answer = SaslAuthenticateResponse::default().with_error_message(Some(messages::text("no")));
            checked::<SaslAuthenticateRequest>(u, Some(answer))
        }
        19 => {
            let member = describe_groups_response::DescribedGroupMember::default();
            let group = describe_groups_response::DescribedGroup::default().with_members(vec![member; 2]);
            let answer = DescribeGroupsResponse::default().with_groups(vec![group; u.int_in_range(0..=3)?]);
            checked::<DescribeGroupsRequest>(u, Some(answer))
        }
        _ => checked::<DescribeProducersRequest>(u, None),
    }
}
