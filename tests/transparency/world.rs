//! A cluster, and a plain proxy in front of it that advertises a host of another length.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use data_encoding::BASE64URL_NOPAD;
use diffluent_testbed::definitions::Definitions;
use diffluent_testbed::kafka::{Kafka, Telemetry};
use diffluent_testbed::{Call, Cluster, KAFKA, Proxy, ProxyConfig};
use kafka_protocol::messages::{ApiVersionsRequest, FindCoordinatorRequest, MetadataRequest};
use kafka_protocol::protocol::StrBytes;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::common::{DIFFLUENT, PATIENCE};
use crate::records;

/// A topic that all tests read; see [`World::create_topic`].
pub const TOPIC: &str = "shared";

/// The brokers' own host: an address that nothing else has, so that it is found wherever it leaks. Their controllers are at 127.0.0.1, as nobody's
/// client dials them.
pub const DIRECT_HOST: &str = "127.66.77.88";

/// What clients are told instead: another length, so that every length around it changes too. Nobody dials it here.
pub const TOLD_HOST: &str = "a-sidecar.internal";

/// Where a broker is reached: by node id, host and port.
pub type Places = BTreeMap<i32, (String, u16)>;

/// Which kind of coordinator, as FindCoordinator numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coordinator {
    /// Of consumer groups of all kinds.
    Group = 0,
    /// Of transactions.
    Transaction = 1,
    /// Of the states of share groups (KIP-932).
    Share = 2,
}

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
    /// The messages of the cluster's release.
    pub definitions: Definitions,
    /// Those of the newest release, which know every field's name.
    pub newest: Definitions,
    /// Versions that the brokers say they have, by API key.
    pub offered: BTreeMap<i16, std::ops::RangeInclusive<i16>>,
    _telemetry: Telemetry,
}

impl World {
    /// Starts both.
    pub async fn start(version: &str, brokers: u16) -> Result<Self> {
        // With it, brokers offer the APIs of telemetry (KIP-714).
        let telemetry = Telemetry::compile(&Kafka::fetch(version, &[]).await?)?;
        let builder = Cluster::builder().name("eu").version(version).brokers(brokers).host(DIRECT_HOST);
        let one_each = ["offsets.topic.num.partitions", "transaction.state.log.num.partitions"];
        // One coordinator of each kind, so that twins have the same one.
        let builder = one_each.into_iter().fold(builder, |builder, key| builder.config(key, "1"));
        let eu = builder
            .telemetry(&telemetry)
            .config("share.coordinator.state.topic.num.partitions", "1")
            .config("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer")
            .config("super.users", "User:ANONYMOUS")
            .config("allow.everyone.if.no.acl.found", "true")
            .config("delegation.token.secret.key", "secret")
            .start()
            .await?;
        let mut config = ProxyConfig::new("eu", &eu.bootstrap());
        config.advertise = Some(TOLD_HOST.to_owned());
        let proxy = Proxy::start(DIFFLUENT, config).await?;

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
        let definitions = Definitions::of(eu.kafka())?;
        let newest = Definitions::of(&Kafka::fetch(KAFKA, &[]).await?)?;
        let answer = Call::connect(&eu.broker_addr(1)?).await?.call(&ApiVersionsRequest::default(), 0).await?;
        let offered = answer.api_keys.iter().map(|api| (api.api_key, api.min_version..=api.max_version)).collect();
        let world = Self { eu, proxy, direct, told, definitions, newest, offered, _telemetry: telemetry };
        world.create_topic(TOPIC).await?;
        // The topics of all coordinators are there before the first comparison.
        world.coordinator(Coordinator::Group, "a-group").await?;
        world.coordinator(Coordinator::Transaction, "a-transaction").await?;
        if world.has("ReadShareGroupState") {
            world.coordinator(Coordinator::Share, &world.share_key().await?).await?;
        }
        Ok(world)
    }

    /// Creates a topic of three partitions, led by the first, the second and the first broker, with three records in the first.
    async fn create_topic(&self, topic: &str) -> Result<()> {
        let assigned = |(index, node_id): (usize, i32)| json!({ "PartitionIndex": index, "BrokerIds": [node_id] });
        let assignments: Vec<Value> = [1, 2, 1].into_iter().enumerate().map(assigned).collect();
        let wanted = json!({ "Name": topic, "NumPartitions": -1, "ReplicationFactor": -1, "Assignments": assignments });
        let api = self.definitions.named("CreateTopics")?;
        let body = api.encode(7, &json!({ "Topics": [wanted], "timeoutMs": 30_000 }))?;
        let mut call = Call::connect(&self.eu.broker_addr(1)?).await?;
        let answer = api.decode(7, &call.call_defined(api, 7, &body).await?)?;
        ensure!(answer["Topics"][0]["ErrorCode"] == 0, "{answer}");
        self.eu.admin().end_offsets(topic).await?;
        let records = records::hexadecimal(9, b"there from the start", records::ANYBODY)?;
        let api = self.definitions.named("Produce")?;
        let partitions = json!([{ "Index": 0, "Records": records }]);
        let body =
            json!({ "Acks": -1, "TimeoutMs": 10_000, "TopicData": [{ "Name": topic, "PartitionData": partitions }] });
        let body = api.encode(9, &body)?;
        for _ in 0..3 {
            let answer = api.decode(9, &call.call_defined(api, 9, &body).await?)?;
            ensure!(answer["Responses"][0]["PartitionResponses"][0]["ErrorCode"] == 0, "{answer}");
        }
        Ok(())
    }

    /// The id of a topic.
    pub async fn topic_id(&self, topic: &str) -> Result<Uuid> {
        let metadata = self.eu.admin().metadata(&[topic]).await?;
        Ok(metadata.topics.first().with_context(|| format!("there is no {topic}"))?.topic_id)
    }

    /// Stops both, the proxy's log being clean.
    pub async fn finish(self) -> Result<()> {
        self.proxy.finish().await?;
        self.eu.kill_all();
        Ok(())
    }

    /// The versions of an API that the brokers offer.
    pub fn versions(&self, api_key: i16) -> Result<std::ops::RangeInclusive<i16>> {
        self.offered.get(&api_key).cloned().with_context(|| format!("the broker has no API {api_key}"))
    }

    /// Whether the brokers offer the API of this name.
    pub fn has(&self, api: &str) -> bool {
        self.definitions.named(api).is_ok_and(|api| self.offered.contains_key(&api.key))
    }

    /// The address of a broker's port at the proxy.
    pub fn broker_port(&self, node_id: i32) -> Result<String> {
        let (_, port) = self.told.get(&node_id).with_context(|| format!("no broker {node_id}"))?;
        Ok(format!("127.0.0.1:{port}"))
    }

    /// A key of a share group's coordinator: group, topic id, partition (KIP-932).
    pub async fn share_key(&self) -> Result<String> {
        Ok(format!("a-group:{}:0", BASE64URL_NOPAD.encode(self.topic_id(TOPIC).await?.as_bytes())))
    }

    /// Checks that neither the brokers' host nor any of their ports is among the bytes of an answer.
    pub fn assert_no_leak(&self, answer: &[u8]) -> Result<()> {
        let holds = |part: &[u8]| answer.windows(part.len()).any(|window| window == part);
        ensure!(!holds(DIRECT_HOST.as_bytes()), "the brokers' host is in the answer");
        for (node_id, (_, port)) in &self.direct {
            ensure!(!holds(&i32::from(*port).to_be_bytes()), "the port {port} of broker {node_id} is in the answer");
            ensure!(!holds(format!(":{port}").as_bytes()), "the port {port} of broker {node_id} is in the answer");
        }
        Ok(())
    }

    /// The broker that coordinates `key`. The first question creates the topic behind it, so it waits until each broker names the same.
    pub async fn coordinator(&self, kind: Coordinator, key: &str) -> Result<i32> {
        let request = FindCoordinatorRequest::default()
            .with_coordinator_keys(vec![StrBytes::from_string(key.to_owned())])
            .with_key_type(kind as i8);
        let version = if kind == Coordinator::Share { 6 } else { 4 };
        let deadline = tokio::time::Instant::now() + PATIENCE;
        'found: loop {
            let mut named = None;
            for node_id in self.eu.broker_ids() {
                let answer = Call::connect(&self.eu.broker_addr(node_id)?).await?.call(&request, version).await?;
                let one = answer.coordinators.first().context("no coordinator is answered")?;
                if one.error_code != 0 || named.is_some_and(|named| named != one.node_id.0) {
                    ensure!(
                        tokio::time::Instant::now() < deadline,
                        "broker {node_id} finds no coordinator: {answer:?}"
                    );
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue 'found;
                }
                named = Some(one.node_id.0);
            }
            return named.context("there is no broker");
        }
    }
}
