//! The admin calls that tests need, as raw requests to whichever broker answers.
//!
//! Every change waits until all live brokers show it: a test that goes on must not meet a broker that has not heard yet.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kafka_protocol::messages::alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic};
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, BrokerId, CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest,
    DeleteTopicsRequest, DescribeConfigsRequest, DescribeProducersRequest, ElectLeadersRequest,
    IncrementalAlterConfigsRequest, ListOffsetsRequest, MetadataRequest, MetadataResponse, TopicName,
};
use kafka_protocol::protocol::Request;
use kafka_protocol::protocol::StrBytes;

use crate::call::Call;

/// How long a change may take until every broker shows it.
const DEADLINE: Duration = Duration::from_secs(30);
const TIMEOUT_MS: i32 = 30_000;
const NONE: i16 = 0;
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const ELECTION_NOT_NEEDED: i16 = 84;

/// An admin client of one cluster: the addresses of its brokers.
#[derive(Clone, Debug)]
pub struct Admin {
    addrs: Vec<String>,
}

impl Admin {
    /// For the cluster whose brokers listen at `addrs` (`host:port`).
    pub fn new(addrs: Vec<String>) -> Self {
        Self { addrs }
    }

    /// Sends the request to the first broker that can be reached.
    pub(super) async fn call<R: Request>(&self, request: &R, version: i16) -> Result<R::Response> {
        let mut last = anyhow::anyhow!("the cluster has no broker");
        for addr in &self.addrs {
            match Call::connect(addr).await {
                Ok(mut call) => match call.call(request, version).await {
                    Ok(response) => return Ok(response),
                    Err(error) => last = error,
                },
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Metadata of `topic` (or of no topic) as each reachable broker has it.
    async fn metadata_everywhere(&self, topic: &str) -> Vec<MetadataResponse> {
        let request = metadata_request(&[topic]);
        let mut answers = Vec::new();
        for addr in &self.addrs {
            if let Ok(mut call) = Call::connect(addr).await
                && let Ok(answer) = call.call(&request, 12).await
            {
                answers.push(answer);
            }
        }
        answers
    }

    /// Metadata of all topics (no names) or of some.
    ///
    /// # Errors
    /// When no broker answers.
    pub async fn metadata(&self, topics: &[&str]) -> Result<MetadataResponse> {
        if topics.is_empty() {
            let mut request = MetadataRequest::default();
            request.topics = None;
            return self.call(&request, 12).await;
        }
        self.call(&metadata_request(topics), 12).await
    }

    /// The names of all topics that are not internal.
    ///
    /// # Errors
    /// When no broker answers.
    pub async fn topics(&self) -> Result<Vec<String>> {
        let metadata = self.metadata(&[]).await?;
        let named = metadata.topics.iter().filter(|topic| !topic.is_internal).filter_map(|topic| topic.name.as_ref());
        Ok(named.map(|name| name.to_string()).collect())
    }

    /// The number of partitions of `topic`; 0 when there is no such topic.
    ///
    /// # Errors
    /// When no broker answers.
    pub async fn partitions(&self, topic: &str) -> Result<i32> {
        let metadata = self.metadata(&[topic]).await?;
        let partitions = metadata.topics.first().map_or(0, |topic| topic.partitions.len());
        i32::try_from(partitions).context("too many partitions")
    }

    /// Creates a topic with `rf` replicas (-1: the broker's default) and waits until every broker knows its leaders.
    ///
    /// # Errors
    /// When the cluster refuses or takes longer than 30 s.
    pub async fn create_topic(&self, topic: &str, partitions: i32, rf: i16, configs: &[(&str, &str)]) -> Result<()> {
        let configs = configs
            .iter()
            .map(|&(key, value)| {
                CreatableTopicConfig::default().with_name(str_bytes(key)).with_value(Some(str_bytes(value)))
            })
            .collect();
        let creatable = CreatableTopic::default()
            .with_name(name(topic))
            .with_num_partitions(partitions)
            .with_replication_factor(rf)
            .with_configs(configs);
        let request = CreateTopicsRequest::default().with_topics(vec![creatable]).with_timeout_ms(TIMEOUT_MS);
        let response = self.call(&request, 7).await?;
        for result in response.topics {
            if result.error_code != NONE {
                bail!("cannot create {topic}: error {} {:?}", result.error_code, result.error_message);
            }
        }
        self.settled(topic, |found| usize::try_from(partitions).is_ok_and(|count| found.partitions.len() == count))
            .await
    }

    /// Creates a topic whose partitions have these replicas, the leader first, and waits until every broker knows its leaders.
    ///
    /// # Errors
    /// When the cluster refuses or takes longer than 30 s.
    pub async fn create_topic_on(&self, topic: &str, replicas: &[&[i32]]) -> Result<()> {
        let assigned = (0_i32..).zip(replicas).map(|(partition, replicas)| {
            CreatableReplicaAssignment::default()
                .with_partition_index(partition)
                .with_broker_ids(replicas.iter().copied().map(BrokerId).collect())
        });
        let creatable = CreatableTopic::default()
            .with_name(name(topic))
            .with_num_partitions(-1)
            .with_replication_factor(-1)
            .with_assignments(assigned.collect());
        let request = CreateTopicsRequest::default().with_topics(vec![creatable]).with_timeout_ms(TIMEOUT_MS);
        let response = self.call(&request, 7).await?;
        for result in response.topics {
            if result.error_code != NONE {
                bail!("cannot create {topic}: error {} {:?}", result.error_code, result.error_message);
            }
        }
        self.settled(topic, |found| found.partitions.len() == replicas.len()).await
    }

    /// Raises the number of partitions to `count` and waits until every broker knows their leaders.
    ///
    /// # Errors
    /// When the cluster refuses or takes longer than 30 s.
    pub async fn create_partitions(&self, topic: &str, count: i32) -> Result<()> {
        let wanted = CreatePartitionsTopic::default().with_name(name(topic)).with_count(count).with_assignments(None);
        let request = CreatePartitionsRequest::default().with_topics(vec![wanted]).with_timeout_ms(TIMEOUT_MS);
        let response = self.call(&request, 3).await?;
        for result in response.results {
            if result.error_code != NONE {
                bail!("cannot grow {topic}: error {} {:?}", result.error_code, result.error_message);
            }
        }
        self.settled(topic, |found| usize::try_from(count).is_ok_and(|count| found.partitions.len() == count)).await
    }

    /// Deletes a topic and waits until no broker shows it.
    ///
    /// # Errors
    /// When the cluster refuses or takes longer than 30 s.
    pub async fn delete_topic(&self, topic: &str) -> Result<()> {
        let state = DeleteTopicState::default().with_name(Some(name(topic)));
        let request = DeleteTopicsRequest::default().with_topics(vec![state]).with_timeout_ms(TIMEOUT_MS);
        let response = self.call(&request, 6).await?;
        for result in response.responses {
            if result.error_code != NONE {
                bail!("cannot delete {topic}: error {} {:?}", result.error_code, result.error_message);
            }
        }
        let gone = |answer: &MetadataResponse| {
            answer.topics.first().is_some_and(|topic| topic.error_code == UNKNOWN_TOPIC_OR_PARTITION)
        };
        self.until(topic, "to be gone", gone).await
    }

    /// Sets a topic's configuration values (`None` goes back to the default).
    ///
    /// # Errors
    /// When the cluster refuses.
    pub async fn set_topic_config(&self, topic: &str, configs: &[(&str, Option<&str>)]) -> Result<()> {
        const RESOURCE_TOPIC: i8 = 2;
        const SET: i8 = 0;
        const DELETE: i8 = 1;
        let configs = configs
            .iter()
            .map(|&(key, value)| {
                AlterableConfig::default()
                    .with_name(str_bytes(key))
                    .with_config_operation(if value.is_some() { SET } else { DELETE })
                    .with_value(value.map(str_bytes))
            })
            .collect();
        let resource = AlterConfigsResource::default()
            .with_resource_type(RESOURCE_TOPIC)
            .with_resource_name(str_bytes(topic))
            .with_configs(configs);
        let response = self.call(&IncrementalAlterConfigsRequest::default().with_resources(vec![resource]), 1).await?;
        for result in response.responses {
            if result.error_code != NONE {
                bail!("cannot configure {topic}: error {} {:?}", result.error_code, result.error_message);
            }
        }
        Ok(())
    }

    /// Removes the records of a partition below `before`, as retention does.
    ///
    /// # Errors
    /// When the partition's leader refuses.
    pub async fn delete_records(&self, topic: &str, partition: i32, before: i64) -> Result<()> {
        let asked = DeleteRecordsPartition::default().with_partition_index(partition).with_offset(before);
        let asked = DeleteRecordsTopic::default().with_name(name(topic)).with_partitions(vec![asked]);
        let request = DeleteRecordsRequest::default().with_topics(vec![asked]).with_timeout_ms(TIMEOUT_MS);
        let mut call = self.call_leader(topic, partition).await?;
        for result in call.call(&request, 2).await?.topics.iter().flat_map(|topic| &topic.partitions) {
            if result.error_code != NONE {
                bail!("cannot delete records of {topic}: error {}", result.error_code);
            }
        }
        Ok(())
    }

    /// A connection to a partition's leader.
    ///
    /// # Errors
    /// When there is no such partition or no leader.
    pub async fn call_leader(&self, topic: &str, partition: i32) -> Result<Call> {
        let leader = self.leader(topic, partition).await?;
        let metadata = self.metadata(&[]).await?;
        let broker = metadata.brokers.iter().find(|broker| broker.node_id.0 == leader).context("an unknown leader")?;
        Call::connect(&format!("{}:{}", broker.host, broker.port)).await
    }

    /// How many producers the leader of a partition remembers.
    ///
    /// # Errors
    /// When it refuses.
    pub async fn producers(&self, topic: &str, partition: i32) -> Result<usize> {
        let asked = TopicRequest::default().with_name(name(topic)).with_partition_indexes(vec![partition]);
        let request = DescribeProducersRequest::default().with_topics(vec![asked]);
        let answer = self.call_leader(topic, partition).await?.call(&request, 0).await?;
        let found = answer.topics.iter().flat_map(|topic| &topic.partitions).next().context("no answer")?;
        if found.error_code != NONE {
            bail!("the producers of {topic} {partition} are not told: error {}", found.error_code);
        }
        Ok(found.active_producers.len())
    }

    /// A topic's setting, whoever set it.
    ///
    /// # Errors
    /// When the cluster refuses, or knows no such setting.
    pub async fn topic_config(&self, topic: &str, key: &str) -> Result<String> {
        const RESOURCE_TOPIC: i8 = 2;
        let resource = DescribeConfigsResource::default()
            .with_resource_type(RESOURCE_TOPIC)
            .with_resource_name(str_bytes(topic))
            .with_configuration_keys(Some(vec![str_bytes(key)]));
        let answer = self.call(&DescribeConfigsRequest::default().with_resources(vec![resource]), 4).await?;
        let values = answer.results.into_iter().flat_map(|result| result.configs).filter_map(|config| config.value);
        values.map(|value| value.to_string()).next().with_context(|| format!("{topic} has no {key}"))
    }

    /// The leader of a partition.
    ///
    /// # Errors
    /// When no broker answers, or there is no such partition or no leader.
    pub async fn leader(&self, topic: &str, partition: i32) -> Result<i32> {
        let metadata = self.metadata(&[topic]).await?;
        let found =
            metadata.topics.iter().flat_map(|topic| &topic.partitions).find(|found| found.partition_index == partition);
        match found {
            Some(found) if found.leader_id.0 >= 0 => Ok(found.leader_id.0),
            _ => bail!("{topic} partition {partition} has no leader"),
        }
    }

    /// Makes broker `to` the leader of a partition that it has a replica of (or else gets one), and waits until every
    /// broker says so.
    ///
    /// # Errors
    /// When the cluster refuses or takes longer than 30 s.
    pub async fn move_leader(&self, topic: &str, partition: i32, to: i32) -> Result<()> {
        let metadata = self.metadata(&[topic]).await?;
        let found =
            metadata.topics.iter().flat_map(|topic| &topic.partitions).find(|found| found.partition_index == partition);
        let found = found.with_context(|| format!("{topic} has no partition {partition}"))?;
        let mut replicas = found.replica_nodes.clone();
        let count = replicas.len();
        replicas.retain(|replica| replica.0 != to);
        replicas.insert(0, BrokerId(to));
        replicas.truncate(count);
        // The preferred leader is the first replica: put it there, then ask for the preferred election.
        let reassigned = ReassignablePartition::default().with_partition_index(partition).with_replicas(Some(replicas));
        let reassigned = ReassignableTopic::default().with_name(name(topic)).with_partitions(vec![reassigned]);
        let request =
            AlterPartitionReassignmentsRequest::default().with_topics(vec![reassigned]).with_timeout_ms(TIMEOUT_MS);
        let response = self.call(&request, 0).await?;
        if response.error_code != NONE {
            bail!("cannot reassign {topic}: error {} {:?}", response.error_code, response.error_message);
        }
        for result in response.responses.iter().flat_map(|topic| &topic.partitions) {
            if result.error_code != NONE {
                bail!("cannot reassign {topic}: error {} {:?}", result.error_code, result.error_message);
            }
        }
        self.settled(topic, |found| {
            found.partitions.iter().filter(|found| found.partition_index == partition).all(|found| {
                found.replica_nodes.first() == Some(&BrokerId(to))
                    && found.replica_nodes.len() == count
                    && found.isr_nodes.contains(&BrokerId(to))
            })
        })
        .await?;
        let elect = TopicPartitions::default().with_topic(name(topic)).with_partitions(vec![partition]);
        let request =
            ElectLeadersRequest::default().with_topic_partitions(Some(vec![elect])).with_timeout_ms(TIMEOUT_MS);
        let response = self.call(&request, 2).await?;
        if response.error_code != NONE {
            bail!("cannot elect the leader of {topic}: error {}", response.error_code);
        }
        for result in response.replica_election_results.iter().flat_map(|topic| &topic.partition_result) {
            if result.error_code != NONE && result.error_code != ELECTION_NOT_NEEDED {
                bail!("cannot elect the leader of {topic}: error {} {:?}", result.error_code, result.error_message);
            }
        }
        self.settled(topic, |found| {
            let mut partitions = found.partitions.iter();
            partitions.any(|found| found.partition_index == partition && found.leader_id.0 == to)
        })
        .await
    }

    /// The end offset of each partition of `topic` (high watermark), asked of its leader.
    ///
    /// A leader that metadata already names may not have taken office: it is asked again until the deadline.
    ///
    /// # Errors
    /// When there is no such topic or a leader has not answered after 30 s.
    pub async fn end_offsets(&self, topic: &str) -> Result<Vec<i64>> {
        let end = Instant::now() + DEADLINE;
        loop {
            match self.end_offsets_now(topic).await {
                Ok(ends) => return Ok(ends),
                Err(error) if Instant::now() > end => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    async fn end_offsets_now(&self, topic: &str) -> Result<Vec<i64>> {
        const LATEST: i64 = -1;
        let metadata = self.metadata(&[topic]).await?;
        let found = metadata.topics.first().filter(|found| found.error_code == NONE);
        let found = found.with_context(|| format!("there is no topic {topic}"))?;
        let mut ends = vec![0; found.partitions.len()];
        for partition in &found.partitions {
            let index = partition.partition_index;
            let leader = metadata.brokers.iter().find(|broker| broker.node_id == partition.leader_id);
            let leader = leader.with_context(|| format!("{topic} {index} has no leader"))?;
            let asked = ListOffsetsPartition::default().with_partition_index(index).with_timestamp(LATEST);
            let asked = ListOffsetsTopic::default().with_name(name(topic)).with_partitions(vec![asked]);
            let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![asked]);
            let mut call = Call::connect(&format!("{}:{}", leader.host, leader.port)).await?;
            let response = call.call(&request, 7).await?;
            let answered = response.topics.first().and_then(|topic| topic.partitions.first());
            let answered = answered.with_context(|| format!("no answer for {topic} {index}"))?;
            if answered.error_code != NONE {
                bail!("no end offset of {topic} {index}: error {}", answered.error_code);
            }
            let place = usize::try_from(index).context("a negative partition")?;
            *ends.get_mut(place).context("partitions are not numbered from 0")? = answered.offset;
        }
        Ok(ends)
    }

    /// Waits until every reachable broker has leaders for all partitions of `topic` and `holds`.
    async fn settled(&self, topic: &str, holds: impl Fn(&MetadataResponseTopic) -> bool) -> Result<()> {
        let ready = |answer: &MetadataResponse| {
            answer.topics.first().is_some_and(|topic| {
                topic.error_code == NONE
                    && topic.partitions.iter().all(|found| found.error_code == NONE && found.leader_id.0 >= 0)
                    && holds(topic)
            })
        };
        self.until(topic, "to be as asked for", ready).await
    }

    async fn until(&self, topic: &str, what: &str, holds: impl Fn(&MetadataResponse) -> bool) -> Result<()> {
        let end = Instant::now() + DEADLINE;
        loop {
            let answers = self.metadata_everywhere(topic).await;
            if !answers.is_empty() && answers.iter().all(&holds) {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("waited {DEADLINE:?} for topic {topic} {what}; brokers say {answers:?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn metadata_request(topics: &[&str]) -> MetadataRequest {
    let topics = topics.iter().map(|topic| MetadataRequestTopic::default().with_name(Some(name(topic)))).collect();
    MetadataRequest::default().with_topics(Some(topics)).with_allow_auto_topic_creation(false)
}

fn str_bytes(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn name(topic: &str) -> TopicName {
    TopicName(str_bytes(topic))
}
