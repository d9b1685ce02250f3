//! Answers one request. Waits only where Kafka does: acks=all for the high watermark, Fetch for something to read.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::describe_configs_response::{DescribeConfigsResourceResult, DescribeConfigsResult};
use kafka_protocol::messages::describe_producers_response::{self, PartitionResponse, ProducerState};
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use kafka_protocol::messages::offset_fetch_response::{OffsetFetchResponsePartition, OffsetFetchResponseTopic};
use kafka_protocol::messages::offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult};
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};

use super::batch::Batch;
pub use super::fetch::Sessions;
use super::partition::{Appended, Partition};
use super::state::{Committed, EXPIRATION_DEFAULT, State};
use super::{Mishap, Model};

/// The APIs that the model knows, with the versions that it answers.
const APIS: &[(i16, i16, i16)] = &[
    (0, 3, 9),
    (1, 4, 13),
    (2, 1, 7),
    (3, 0, 12),
    (8, 2, 8),
    (9, 1, 7),
    (10, 0, 4),
    (11, 2, 7),
    (12, 0, 4),
    (13, 3, 4),
    (14, 0, 5),
    (15, 0, 5),
    (18, 0, 3),
    (19, 2, 7),
    (22, 0, 4),
    (23, 2, 4),
    (32, 1, 4),
    (37, 0, 3),
    (61, 0, 0),
];

const DESCRIBE_PRODUCERS: i16 = 61;
const INVALID_PRODUCER_ID_MAPPING: i16 = 49;
const UNSUPPORTED_VERSION: i16 = 35;
/// The longest metadata of a committed offset (`offset.metadata.max.bytes`).
const METADATA_BYTES_MAX: usize = 4096;
const REQUEST_TIMED_OUT: i16 = 7;

/// What goes back.
pub enum Reply {
    /// A frame, without its length.
    Frame(Bytes),
    /// Nothing: acks=0.
    None,
    /// The connection ends.
    Close,
}

/// Answers a request that came on a connection to broker `node_id`. What can't be read ends the connection.
pub async fn answer(model: &Model, node_id: i32, sessions: &mut Sessions, mut request: Bytes) -> Reply {
    let (Some(key), Some(version)) = (short(&request, 0), short(&request, 2)) else { return Reply::Close };
    let known = APIS.iter().find(|(api, ..)| *api == key && knows(&model.look(), *api));
    let supported = known.is_some_and(|(_, min, max)| (*min..=*max).contains(&version));
    let header_version = match ApiKey::try_from(key) {
        Ok(_) if key == 18 && !supported => 1,
        Ok(api) if supported => api.request_header_version(version),
        _ => return Reply::Close,
    };
    let Ok(header) = RequestHeader::decode(&mut request, header_version) else { return Reply::Close };
    let mishap = model.look().mishap(key);
    let reply = Answering { model, node_id, version, correlation: header.correlation_id, refused: None };
    let reply = match mishap {
        Some(Mishap::Refused(code)) => Answering { refused: Some(code), ..reply },
        _ => reply,
    };
    let answered = reply.answer(key, supported, sessions, &mut request, mishap).await;
    match mishap {
        Some(Mishap::AnswerLost) => Reply::Close,
        _ => answered.unwrap_or(Reply::Close),
    }
}

/// Whether the cluster's brokers know an API of [`APIS`].
fn knows(state: &State, key: i16) -> bool {
    key != DESCRIBE_PRODUCERS || state.describes_producers
}

fn short(bytes: &Bytes, at: usize) -> Option<i16> {
    Some(i16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(super) struct Answering<'a> {
    pub(super) model: &'a Model,
    node_id: i32,
    version: i16,
    correlation: i32,
    /// The error code with which everything is refused.
    refused: Option<i16>,
}

impl Answering<'_> {
    async fn answer(
        &self,
        key: i16,
        supported: bool,
        sessions: &mut Sessions,
        body: &mut Bytes,
        mishap: Option<Mishap>,
    ) -> Option<Reply> {
        let version = self.version;
        let reply = match key {
            0 => {
                let request = ProduceRequest::decode(body, version).ok()?;
                let acks = request.acks;
                let disowned = match mishap {
                    Some(Mishap::Disowned(code)) => Some(code),
                    _ => None,
                };
                let answer = self.produce(request, disowned).await;
                if acks == 0 {
                    return Some(Reply::None);
                }
                self.frame(&answer)
            }
            1 => {
                let request = FetchRequest::decode(body, version).ok()?;
                let answer = match self.refused {
                    Some(code) => FetchResponse::default().with_error_code(code),
                    None => super::fetch::fetch(self.model, self.node_id, sessions, request).await,
                };
                self.frame(&answer)
            }
            2 => self.frame(&self.list_offsets(&ListOffsetsRequest::decode(body, version).ok()?)),
            3 => self.frame(&self.metadata(&MetadataRequest::decode(body, version).ok()?)),
            8 => {
                let request = OffsetCommitRequest::decode(body, version).ok()?;
                let answer = self.heard(request.group_instance_id.as_ref(), async { self.commit(&request) });
                self.frame(&answer.await)
            }
            9 => self.frame(&self.committed(&OffsetFetchRequest::decode(body, version).ok()?)),
            10 => self.frame(&self.find_coordinator(&FindCoordinatorRequest::decode(body, version).ok()?)),
            11 => {
                let request = JoinGroupRequest::decode(body, version).ok()?;
                self.frame(&self.heard(request.group_instance_id.as_ref(), self.join_group(&request)).await)
            }
            12 => {
                let request = HeartbeatRequest::decode(body, version).ok()?;
                let answer = self.heard(request.group_instance_id.as_ref(), async { self.heartbeat(&request) });
                self.frame(&answer.await)
            }
            13 => {
                let request = LeaveGroupRequest::decode(body, version).ok()?;
                let leaving = request.members.first().and_then(|member| member.group_instance_id.as_ref());
                self.frame(&self.heard(leaving, async { self.leave_group(&request) }).await)
            }
            14 => {
                let request = SyncGroupRequest::decode(body, version).ok()?;
                self.frame(&self.heard(request.group_instance_id.as_ref(), self.sync_group(&request)).await)
            }
            15 => self.frame(&self.describe_groups(&DescribeGroupsRequest::decode(body, version).ok()?)),
            18 => self.api_versions(supported),
            19 => self.frame(&self.create_topics(&CreateTopicsRequest::decode(body, version).ok()?)),
            22 => self.frame(&self.init_producer_id(&InitProducerIdRequest::decode(body, version).ok()?)),
            23 => self.frame(&self.epoch_ends(&OffsetForLeaderEpochRequest::decode(body, version).ok()?)),
            32 => self.frame(&self.describe_configs(&DescribeConfigsRequest::decode(body, version).ok()?)),
            37 => self.frame(&self.create_partitions(&CreatePartitionsRequest::decode(body, version).ok()?)),
            61 => self.frame(&self.describe_producers(&DescribeProducersRequest::decode(body, version).ok()?)),
            _ => return None,
        };
        Some(reply)
    }

    fn frame<A: Encodable + HeaderVersion>(&self, answer: &A) -> Reply {
        let mut frame = BytesMut::new();
        let header = ResponseHeader::default().with_correlation_id(self.correlation);
        match header
            .encode(&mut frame, A::header_version(self.version))
            .and_then(|()| answer.encode(&mut frame, self.version))
        {
            Ok(()) => Reply::Frame(frame.freeze()),
            Err(_) => Reply::Close,
        }
    }

    fn api_versions(&self, supported: bool) -> Reply {
        let state = self.model.look();
        let keys = APIS.iter().filter(|(key, ..)| knows(&state, *key)).map(|(key, min, max)| {
            ApiVersion::default().with_api_key(*key).with_min_version(*min).with_max_version(*max)
        });
        let answer = ApiVersionsResponse::default()
            .with_error_code(if supported { 0 } else { UNSUPPORTED_VERSION })
            .with_api_keys(keys.collect());
        Answering { version: if supported { self.version } else { 0 }, ..*self }.frame(&answer)
    }

    async fn produce(&self, request: ProduceRequest, disowned: Option<i16>) -> ProduceResponse {
        let timeout = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
        let mut answers = Vec::new();
        let mut waiting = Vec::new();
        for topic in &request.topic_data {
            let mut partitions = Vec::new();
            for data in &topic.partition_data {
                let records = data.records.clone().unwrap_or_default();
                let appended = match self.refused {
                    Some(code) => Err(code),
                    None => self.append(topic.name.as_str(), data.index, &records, request.acks),
                };
                let answer = PartitionProduceResponse::default().with_index(data.index);
                partitions.push(match appended {
                    Ok((appended, epoch, start)) => {
                        if request.acks == -1 {
                            waiting.push((answers.len(), partitions.len(), data.index, appended.next_offset, epoch));
                        }
                        answer
                            .with_base_offset(appended.base_offset)
                            .with_log_append_time_ms(appended.log_append_time)
                            .with_log_start_offset(start)
                    }
                    Err(code) => answer
                        .with_error_code(code)
                        .with_base_offset(-1)
                        .with_log_append_time_ms(-1)
                        .with_log_start_offset(-1),
                });
            }
            answers.push(
                TopicProduceResponse::default().with_name(topic.name.clone()).with_partition_responses(partitions),
            );
        }
        let deadline = tokio::time::Instant::now() + timeout;
        for (topic, at, partition, next_offset, epoch) in waiting {
            let name = answers[topic].name.to_string();
            if let Err(code) = self.replicated(&name, partition, next_offset, epoch, deadline).await {
                let answer = &mut answers[topic].partition_responses[at];
                *answer = PartitionProduceResponse::default()
                    .with_index(partition)
                    .with_error_code(code)
                    .with_base_offset(-1)
                    .with_log_append_time_ms(-1)
                    .with_log_start_offset(-1);
            }
        }
        if let Some(code) = disowned {
            for partition in answers.iter_mut().flat_map(|topic| &mut topic.partition_responses) {
                if partition.error_code == 0 {
                    *partition = PartitionProduceResponse::default()
                        .with_index(partition.index)
                        .with_error_code(code)
                        .with_base_offset(-1);
                }
            }
        }
        ProduceResponse::default().with_responses(answers)
    }

    fn append(&self, topic: &str, partition: i32, records: &Bytes, acks: i16) -> Result<(Appended, i32, i64), i16> {
        self.model.change(|state, now| {
            state.expire_producers(now);
            let batch = Batch::read(records)?;
            if !state.takes_id(batch.producer_id) {
                return Err(INVALID_PRODUCER_ID_MAPPING);
            }
            let partition = state.led_by(self.node_id, topic, partition, -1)?;
            partition.replicate(now);
            if acks == -1 && !partition.has_enough_in_sync() {
                return Err(19);
            }
            let appended = partition.append(batch, now)?;
            Ok((appended, partition.epoch, partition.start))
        })
    }

    /// Waits until the in-sync replicas have everything before `next_offset`.
    async fn replicated(
        &self,
        topic: &str,
        partition: i32,
        next_offset: i64,
        epoch: i32,
        deadline: tokio::time::Instant,
    ) -> Result<(), i16> {
        loop {
            let wait = self.model.change(|state, now| {
                let partition = state.led_by(self.node_id, topic, partition, -1)?;
                partition.replicate(now);
                if partition.epoch != epoch {
                    return Err(6);
                }
                Ok::<_, i16>((partition.high_watermark() < next_offset).then(|| partition.replication_takes()))
            })?;
            let Some(wait) = wait else { return Ok(()) };
            if tokio::time::Instant::now() >= deadline {
                return Err(REQUEST_TIMED_OUT);
            }
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
    }

    fn list_offsets(&self, request: &ListOffsetsRequest) -> ListOffsetsResponse {
        self.model.change(|state, now| {
            let topics = request.topics.iter().map(|topic| {
                let partitions = topic.partitions.iter().map(|asked| {
                    let answer = ListOffsetsPartitionResponse::default().with_partition_index(asked.partition_index);
                    let led = state.led_by(
                        self.node_id,
                        topic.name.as_str(),
                        asked.partition_index,
                        asked.current_leader_epoch,
                    );
                    let led = self.refused.map_or(led, Err);
                    match led {
                        Err(code) => {
                            answer.with_error_code(code).with_offset(-1).with_timestamp(-1).with_leader_epoch(-1)
                        }
                        Ok(partition) => {
                            partition.replicate(now);
                            let (timestamp, offset, epoch) =
                                offset_for(partition, asked.timestamp, request.isolation_level);
                            answer.with_timestamp(timestamp).with_offset(offset).with_leader_epoch(epoch)
                        }
                    }
                });
                ListOffsetsTopicResponse::default().with_name(topic.name.clone()).with_partitions(partitions.collect())
            });
            ListOffsetsResponse::default().with_topics(topics.collect())
        })
    }

    fn metadata(&self, request: &MetadataRequest) -> MetadataResponse {
        let state = self.model.look();
        let brokers = state.brokers.iter().filter(|(_, broker)| broker.running).map(|(node_id, broker)| {
            MetadataResponseBroker::default()
                .with_node_id(BrokerId(*node_id))
                .with_host(StrBytes::from_string(broker.host.clone()))
                .with_port(i32::from(broker.port))
        });
        let names: Vec<String> = match &request.topics {
            None => state.topics.keys().cloned().collect(),
            Some(topics) if topics.is_empty() && self.version == 0 => state.topics.keys().cloned().collect(),
            Some(topics) => {
                topics.iter().filter_map(|topic| topic.name.as_ref().map(|name| name.to_string())).collect()
            }
        };
        let topics = names.into_iter().map(|name| {
            let answer =
                MetadataResponseTopic::default().with_name(Some(TopicName(StrBytes::from_string(name.clone()))));
            match state.topics.get(&name) {
                None => answer.with_error_code(3),
                Some(topic) => answer.with_topic_id(topic.id).with_partitions(
                    (0..)
                        .zip(&topic.partitions)
                        .map(|(index, partition)| metadata_of(index, partition, &state))
                        .collect(),
                ),
            }
        });
        let topics = topics.collect();
        MetadataResponse::default()
            .with_brokers(brokers.collect())
            .with_cluster_id(Some(StrBytes::from_string(state.cluster_id.clone())))
            .with_controller_id(BrokerId(state.coordinator().unwrap_or(-1)))
            .with_topics(topics)
    }

    fn find_coordinator(&self, request: &FindCoordinatorRequest) -> FindCoordinatorResponse {
        let state = self.model.look();
        let broker = state.coordinator().and_then(|node_id| Some((node_id, state.brokers.get(&node_id)?)));
        let broker = if self.refused.is_some() { None } else { broker };
        let Some((node_id, broker)) = broker else {
            let code = self.refused.unwrap_or(15);
            let coordinators = request.coordinator_keys.iter().map(|key| {
                Coordinator::default()
                    .with_key(key.clone())
                    .with_node_id(BrokerId(-1))
                    .with_port(-1)
                    .with_error_code(code)
            });
            return FindCoordinatorResponse::default()
                .with_error_code(if self.version < 4 { code } else { 0 })
                .with_coordinators(coordinators.collect());
        };
        let host = StrBytes::from_string(broker.host.clone());
        let port = i32::from(broker.port);
        if self.version < 4 {
            return FindCoordinatorResponse::default().with_node_id(BrokerId(node_id)).with_host(host).with_port(port);
        }
        let coordinators = request.coordinator_keys.iter().map(|key| {
            Coordinator::default()
                .with_key(key.clone())
                .with_node_id(BrokerId(node_id))
                .with_host(host.clone())
                .with_port(port)
        });
        FindCoordinatorResponse::default().with_coordinators(coordinators.collect())
    }

    /// Why this broker doesn't answer for a group.
    pub(super) fn not_coordinator(&self, state: &State) -> Option<i16> {
        self.refused.or_else(|| (state.coordinator() != Some(self.node_id)).then_some(16))
    }

    fn commit(&self, request: &OffsetCommitRequest) -> OffsetCommitResponse {
        self.model.change(|state, now| {
            let refused = self.may_commit(state, now, request).err();
            let topics = request.topics.iter().map(|topic| {
                let partitions = topic.partitions.iter().map(|committed| {
                    let exists = state.partition(topic.name.as_str(), committed.partition_index).is_some();
                    let long =
                        committed.committed_metadata.as_ref().is_some_and(|text| text.len() > METADATA_BYTES_MAX);
                    let code = refused.unwrap_or(match (exists, long) {
                        (false, _) => 3,
                        (true, true) => 12,
                        (true, false) => 0,
                    });
                    if code == 0 {
                        let key = (request.group_id.to_string(), topic.name.to_string(), committed.partition_index);
                        let committed = Committed {
                            offset: committed.committed_offset,
                            leader_epoch: committed.committed_leader_epoch,
                            metadata: committed
                                .committed_metadata
                                .as_ref()
                                .map(|text| text.to_string())
                                .unwrap_or_default(),
                        };
                        state.offsets.insert(key, committed);
                    }
                    OffsetCommitResponsePartition::default()
                        .with_partition_index(committed.partition_index)
                        .with_error_code(code)
                });
                OffsetCommitResponseTopic::default().with_name(topic.name.clone()).with_partitions(partitions.collect())
            });
            OffsetCommitResponse::default().with_topics(topics.collect())
        })
    }

    fn committed(&self, request: &OffsetFetchRequest) -> OffsetFetchResponse {
        let state = self.model.look();
        if let Some(code) = self.not_coordinator(&state) {
            return OffsetFetchResponse::default().with_error_code(code);
        }
        let topics = request.topics.iter().flatten().map(|topic| {
            let partitions = topic.partition_indexes.iter().map(|index| {
                let answer = OffsetFetchResponsePartition::default().with_partition_index(*index);
                match state.offsets.get(&(request.group_id.to_string(), topic.name.to_string(), *index)) {
                    None => answer
                        .with_committed_offset(-1)
                        .with_committed_leader_epoch(-1)
                        .with_metadata(Some(StrBytes::default())),
                    Some(committed) => answer
                        .with_committed_offset(committed.offset)
                        .with_committed_leader_epoch(committed.leader_epoch)
                        .with_metadata(Some(StrBytes::from_string(committed.metadata.clone()))),
                }
            });
            OffsetFetchResponseTopic::default().with_name(topic.name.clone()).with_partitions(partitions.collect())
        });
        OffsetFetchResponse::default().with_topics(topics.collect())
    }

    fn create_topics(&self, request: &CreateTopicsRequest) -> CreateTopicsResponse {
        self.model.change(|state, _| {
            let topics = request.topics.iter().map(|topic| {
                let allowed = if state.creation_allowed { Ok(()) } else { Err(29) };
                let made = self.refused.map_or(allowed, Err).and_then(|()| {
                    state.create_topic(topic.name.as_str(), topic.num_partitions, topic.replication_factor)
                });
                let answer = CreatableTopicResult::default().with_name(topic.name.clone());
                match (made, state.topics.get(topic.name.as_str())) {
                    (Ok(()), Some(made)) => answer
                        .with_topic_id(made.id)
                        .with_num_partitions(i32::try_from(made.partitions.len()).unwrap_or(0))
                        .with_replication_factor(
                            made.partitions.first().map_or(-1, |partition| partition.replicas().len() as i16),
                        )
                        .with_configs(Some(Vec::new())),
                    (made, _) => answer
                        .with_error_code(made.err().unwrap_or(-1))
                        .with_num_partitions(-1)
                        .with_replication_factor(-1)
                        .with_configs(Some(Vec::new())),
                }
            });
            CreateTopicsResponse::default().with_topics(topics.collect())
        })
    }

    fn create_partitions(&self, request: &CreatePartitionsRequest) -> CreatePartitionsResponse {
        self.model.change(|state, _| {
            let results = request.topics.iter().map(|topic| {
                let name = topic.name.as_str();
                let has = state.topics.get(name).map(|topic| topic.partitions.len());
                let code = match (self.refused, has) {
                    (Some(code), _) => code,
                    (None, None) => 3,
                    (None, Some(has)) if usize::try_from(topic.count).is_ok_and(|count| count > has) => {
                        let replicas = state.replication_factor;
                        state.add_partitions(name, topic.count, replicas);
                        0
                    }
                    (None, Some(_)) => 37,
                };
                CreatePartitionsTopicResult::default().with_name(topic.name.clone()).with_error_code(code)
            });
            CreatePartitionsResponse::default().with_results(results.collect())
        })
    }

    fn epoch_ends(&self, request: &OffsetForLeaderEpochRequest) -> OffsetForLeaderEpochResponse {
        self.model.change(|state, _| {
            let topics = request.topics.iter().map(|topic| {
                let partitions = topic.partitions.iter().map(|asked| {
                    let answer = EpochEndOffset::default().with_partition(asked.partition);
                    let led =
                        state.led_by(self.node_id, topic.topic.as_str(), asked.partition, asked.current_leader_epoch);
                    match self.refused.map_or(led, Err) {
                        Err(code) => answer.with_error_code(code).with_leader_epoch(-1).with_end_offset(-1),
                        Ok(partition) => {
                            let (epoch, end) = partition.epoch_end(asked.leader_epoch);
                            answer.with_leader_epoch(epoch).with_end_offset(end)
                        }
                    }
                });
                OffsetForLeaderTopicResult::default()
                    .with_topic(topic.topic.clone())
                    .with_partitions(partitions.collect())
            });
            OffsetForLeaderEpochResponse::default().with_topics(topics.collect())
        })
    }

    fn init_producer_id(&self, request: &InitProducerIdRequest) -> InitProducerIdResponse {
        self.model.change(|state, _| match self.refused {
            Some(code) => InitProducerIdResponse::default()
                .with_error_code(code)
                .with_producer_id(ProducerId(-1))
                .with_producer_epoch(-1),
            None => {
                let again = request.producer_id.0 >= 0;
                let id = if again { request.producer_id.0 } else { state.next_producer_id() };
                let epoch = if again { request.producer_epoch.saturating_add(1) } else { 0 };
                InitProducerIdResponse::default().with_producer_id(ProducerId(id)).with_producer_epoch(epoch)
            }
        })
    }

    /// Of brokers, how long they remember producers; of topics, that nothing was set for them.
    fn describe_configs(&self, request: &DescribeConfigsRequest) -> DescribeConfigsResponse {
        const TOPIC: i8 = 2;
        const STATIC_BROKER_CONFIG: i8 = 4;
        let state = self.model.look();
        let expiration = state.producer_expiration.unwrap_or(EXPIRATION_DEFAULT);
        let results = request.resources.iter().map(|resource| {
            let answer = DescribeConfigsResult::default()
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name.clone());
            match resource.resource_type {
                TOPIC if !state.topics.contains_key(resource.resource_name.as_str()) => answer.with_error_code(3),
                TOPIC => answer,
                _ => answer.with_configs(vec![
                    DescribeConfigsResourceResult::default()
                        .with_name(StrBytes::from_static_str("producer.id.expiration.ms"))
                        .with_value(Some(StrBytes::from_string(expiration.to_string())))
                        .with_config_source(STATIC_BROKER_CONFIG),
                ]),
            }
        });
        let results = results.map(|result| match self.refused {
            Some(code) => result.with_error_code(code).with_configs(Vec::new()),
            None => result,
        });
        DescribeConfigsResponse::default().with_results(results.collect())
    }

    fn describe_producers(&self, request: &DescribeProducersRequest) -> DescribeProducersResponse {
        self.model.change(|state, _| {
            let topics = request.topics.iter().map(|topic| {
                let partitions = topic.partition_indexes.iter().map(|index| {
                    let answer = PartitionResponse::default().with_partition_index(*index);
                    let held = state.held_by(self.node_id, topic.name.as_str(), *index, -1);
                    match self.refused.map_or(held, Err) {
                        Err(code) => answer.with_error_code(code),
                        Ok(partition) => answer.with_active_producers(producers_of(partition, self.node_id)),
                    }
                });
                describe_producers_response::TopicResponse::default()
                    .with_name(topic.name.clone())
                    .with_partitions(partitions.collect())
            });
            DescribeProducersResponse::default().with_topics(topics.collect())
        })
    }
}

/// Timestamp, offset and leader epoch that ListOffsets tells.
fn offset_for(partition: &Partition, timestamp: i64, isolation_level: i8) -> (i64, i64, i32) {
    let visible = if isolation_level == 1 { partition.last_stable_offset() } else { partition.high_watermark() };
    match timestamp {
        -1 => (-1, visible, partition.epoch),
        -2 => {
            let first = partition.batches().first();
            (-1, partition.start, first.map_or(partition.epoch, |batch| batch.leader_epoch))
        }
        asked => {
            let batch =
                partition.batches().iter().find(|batch| batch.max_timestamp >= asked && batch.base_offset < visible);
            batch.map_or((-1, -1, -1), |batch| {
                let timestamp = if batch.base_timestamp >= asked { batch.base_timestamp } else { batch.max_timestamp };
                let offset = if batch.base_timestamp >= asked { batch.base_offset } else { batch.last_offset };
                (timestamp, offset.max(partition.start), batch.leader_epoch)
            })
        }
    }
}

fn metadata_of(index: i32, partition: &Partition, state: &State) -> MetadataResponsePartition {
    let running = |node_id: &i32| state.brokers.get(node_id).is_some_and(|broker| broker.running);
    let led = partition.leader >= 0;
    let ids = |nodes: Vec<i32>| nodes.into_iter().map(BrokerId).collect::<Vec<_>>();
    MetadataResponsePartition::default()
        .with_error_code(if led { 0 } else { 5 })
        .with_partition_index(index)
        .with_leader_id(BrokerId(partition.leader))
        .with_leader_epoch(partition.epoch)
        .with_replica_nodes(ids(partition.replicas()))
        .with_isr_nodes(ids(partition.in_sync()))
        .with_offline_replicas(ids(partition.replicas().into_iter().filter(|node_id| !running(node_id)).collect()))
}

fn producers_of(partition: &Partition, node_id: i32) -> Vec<ProducerState> {
    let state = |(id, state): (i64, super::producers::Producer)| {
        ProducerState::default()
            .with_producer_id(ProducerId(id))
            .with_producer_epoch(i32::from(state.epoch))
            .with_last_sequence(state.batches.back().map_or(-1, |kept| kept.last_sequence))
            .with_last_timestamp(state.last_timestamp)
            .with_coordinator_epoch(-1)
            .with_current_txn_start_offset(state.transaction.unwrap_or(-1))
    };
    partition.producers_at(node_id).map(state).collect()
}
