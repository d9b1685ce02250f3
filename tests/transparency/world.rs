//! One cluster of three brokers with a topic, and a plain proxy in front of it that advertises a host of another length.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use diffluent_testbed::{Call, Cluster, Proxy, ProxyConfig};
use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_topic_partitions_request::TopicRequest;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{
    ApiVersionsRequest, ApiVersionsResponse, BrokerId, DescribeConfigsRequest, DescribeLogDirsRequest,
    DescribeTopicPartitionsRequest, FindCoordinatorRequest, ListGroupsRequest, ListOffsetsRequest, MetadataRequest,
};
use kafka_protocol::protocol::{Request, StrBytes};
use kafka_protocol::records::{Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType};
use uuid::Uuid;

use crate::answers::Places;
use crate::common::DIFFLUENT;

/// Its three partitions are led by three brokers.
pub const TOPIC: &str = "orders";

/// The brokers' own host.
const DIRECT_HOST: &str = "127.0.0.1";

/// What clients are told instead: another length, so that every length around it changes too. Nobody dials it here.
const TOLD_HOST: &str = "a-sidecar.internal";

/// What all checks share.
pub struct World {
    /// The cluster.
    pub eu: Cluster,
    /// The proxy.
    pub proxy: Proxy,
    /// Where the brokers are.
    pub direct: Places,
    /// Where clients are told they are.
    pub told: Places,
    /// The topic's id.
    pub topic_id: Uuid,
    api_versions: ApiVersionsResponse,
}

impl World {
    /// Starts both.
    pub async fn start() -> Result<Self> {
        let eu = Cluster::builder().name("eu").brokers(3).start().await?;
        eu.create_topic(TOPIC, 3, 1, &[]).await?;
        let mut proxy = Proxy::prepare(DIFFLUENT, ProxyConfig::new("eu", &eu.bootstrap()))?;
        let text = std::fs::read_to_string(proxy.config_path())?;
        let changed = text.replace("advertise = \"127.0.0.1\"", &format!("advertise = \"{TOLD_HOST}\""));
        ensure!(changed != text, "no advertise in {text}");
        std::fs::write(proxy.config_path(), changed)?;
        proxy.spawn()?;
        proxy.wait_ready(Duration::from_secs(60)).await?;

        let mut direct = Places::new();
        for node_id in eu.broker_ids() {
            let addr = eu.broker_addr(node_id)?;
            let port = addr.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).context("no port")?;
            direct.insert(node_id, (DIRECT_HOST.to_owned(), port));
        }
        let metadata = MetadataRequest::default().with_topics(None);
        let answer = Call::connect(&proxy.bootstrap()).await?.call(&metadata, 12).await?;
        let mut told = Places::new();
        for broker in &answer.brokers {
            let port = u16::try_from(broker.port)?;
            ensure!(proxy.broker_ports().contains(&port), "{port} is not one of the proxy's broker ports");
            told.insert(broker.node_id.0, (TOLD_HOST.to_owned(), port));
        }
        ensure!(told.keys().eq(direct.keys()), "the proxy tells of the brokers {told:?} instead of {direct:?}");
        let topic = answer.topics.iter().find(|topic| topic.name.as_ref().is_some_and(|name| name.0 == *TOPIC));
        let topic_id = topic.context("the topic is missing")?.topic_id;
        let api_versions = Call::connect(&eu.broker_addr(1)?).await?.call(&ApiVersionsRequest::default(), 0).await?;
        Ok(Self { eu, proxy, direct, told, topic_id, api_versions })
    }

    /// Stops both, the proxy's log being clean.
    pub async fn finish(self) -> Result<()> {
        self.proxy.finish().await?;
        self.eu.kill_all();
        Ok(())
    }

    /// The versions of an API that the brokers have.
    pub fn versions(&self, api_key: i16) -> Result<std::ops::RangeInclusive<i16>> {
        let found = self.api_versions.api_keys.iter().find(|api| api.api_key == api_key);
        let found = found.with_context(|| format!("the broker has no API {api_key}"))?;
        Ok(found.min_version..=found.max_version)
    }

    /// The address of a broker's port at the proxy.
    pub fn broker_port(&self, node_id: i32) -> Result<String> {
        let (_, port) = self.told.get(&node_id).with_context(|| format!("no broker {node_id}"))?;
        Ok(format!("127.0.0.1:{port}"))
    }

    /// Checks that neither the brokers' host nor any of their ports is among the bytes of an answer.
    pub fn assert_no_leak(&self, answer: &[u8]) -> Result<()> {
        let holds = |part: &[u8]| answer.windows(part.len()).any(|window| window == part);
        ensure!(!holds(DIRECT_HOST.as_bytes()), "the brokers' host is in the answer");
        for (node_id, (_, port)) in &self.direct {
            ensure!(!holds(&i32::from(*port).to_be_bytes()), "the port {port} of broker {node_id} is in the answer");
        }
        Ok(())
    }

    /// A key of a share group's coordinator: group, topic id, partition (KIP-932).
    pub fn share_key(&self) -> String {
        format!("a-share-group:{}:0", kafka_id(self.topic_id))
    }

    /// Waits until each broker names the same coordinator: the first question creates the topic behind it.
    pub async fn until_found(&self, request: &FindCoordinatorRequest, version: i16) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        for node_id in self.eu.broker_ids() {
            loop {
                let answer = Call::connect(&self.eu.broker_addr(node_id)?).await?.call(request, version).await?;
                let error = answer.coordinators.first().map_or(answer.error_code, |one| one.error_code);
                if error == 0 {
                    break;
                }
                if Instant::now() > deadline {
                    bail!("broker {node_id} finds no coordinator: {answer:?}");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    /// Requests of APIs that the proxy does not read: name, API key, version, body.
    pub fn opaque_requests(&self) -> Result<Vec<(&'static str, i16, i16, Bytes)>> {
        const RESOURCE_TOPIC: i8 = 2;
        const RESOURCE_BROKER: i8 = 4;
        let mut requests = Vec::new();
        for version in self.versions(ListGroupsRequest::KEY)? {
            requests.push((
                "ListGroups",
                ListGroupsRequest::KEY,
                version,
                body(&ListGroupsRequest::default(), version)?,
            ));
        }
        for version in self.versions(DescribeConfigsRequest::KEY)? {
            for (resource_type, name) in [(RESOURCE_TOPIC, TOPIC), (RESOURCE_BROKER, "")] {
                let resource = DescribeConfigsResource::default()
                    .with_resource_type(resource_type)
                    .with_resource_name(StrBytes::from_static_str(name))
                    .with_configuration_keys(None);
                let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
                requests.push(("DescribeConfigs", DescribeConfigsRequest::KEY, version, body(&request, version)?));
            }
        }
        // From version 4 on it tells the disk's free space, which changes between two calls.
        for version in self.versions(DescribeLogDirsRequest::KEY)?.filter(|version| *version < 4) {
            let request = DescribeLogDirsRequest::default().with_topics(None);
            requests.push(("DescribeLogDirs", DescribeLogDirsRequest::KEY, version, body(&request, version)?));
        }
        for version in self.versions(ListOffsetsRequest::KEY)?.filter(|version| (1..=10).contains(version)) {
            let partition = ListOffsetsPartition::default().with_partition_index(0).with_timestamp(-1);
            let topic =
                ListOffsetsTopic::default().with_name(crate::topic_name(TOPIC)).with_partitions(vec![partition]);
            let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]);
            requests.push(("ListOffsets", ListOffsetsRequest::KEY, version, body(&request, version)?));
        }
        let topic = TopicRequest::default().with_name(crate::topic_name(TOPIC));
        let request = DescribeTopicPartitionsRequest::default().with_topics(vec![topic]);
        requests.push(("DescribeTopicPartitions", DescribeTopicPartitionsRequest::KEY, 0, body(&request, 0)?));
        Ok(requests)
    }
}

fn body<R: Request>(request: &R, version: i16) -> Result<Bytes> {
    let mut bytes = BytesMut::new();
    request.encode(&mut bytes, version)?;
    Ok(bytes.freeze())
}

/// An id in Kafka's notation: URL-safe base 64 without padding.
pub fn kafka_id(id: Uuid) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = id.as_u128();
    let sixes = (0..22_u32).map(|index| if index < 21 { bits >> (122 - 6 * index) } else { bits << 4 });
    sixes.map(|six| ALPHABET.get((six & 63) as usize).copied().map_or('A', char::from)).collect()
}

/// A batch of one record.
pub fn record_batch(value: &[u8]) -> Bytes {
    let record = Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: -1,
        producer_id: -1,
        producer_epoch: -1,
        timestamp_type: TimestampType::Creation,
        offset: 0,
        sequence: -1,
        timestamp: 1_700_000_000_000,
        key: None,
        value: Some(Bytes::copy_from_slice(value)),
        headers: IndexMap::new(),
    };
    let mut bytes = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    RecordBatchEncoder::encode(&mut bytes, [&record], &options).expect("a record without compression can be encoded");
    bytes.freeze()
}
