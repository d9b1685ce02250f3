//! The same cluster twice: Apache Kafka, and the model.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;

use anyhow::{Context, Result, bail};
use diffluent_testbed::model::TcpCluster;
use diffluent_testbed::{Call, Cluster};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{MetadataRequest, MetadataResponse, TopicName};
use kafka_protocol::protocol::{Request, StrBytes};

/// Brokers of each.
pub const BROKERS: u16 = 2;
/// How often something that takes its time on a real cluster is looked at before it is given up.
const LOOKS: u32 = 600;
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_millis(50);

/// One of the two.
pub struct Side {
    pub name: &'static str,
    addresses: BTreeMap<i32, String>,
    calls: HashMap<i32, Call>,
}

impl Side {
    pub async fn call<R: Request>(&mut self, node_id: i32, request: &R, version: i16) -> Result<R::Response> {
        let mut call = match self.calls.remove(&node_id) {
            Some(call) => call,
            None => Call::connect(self.addresses.get(&node_id).context("no such broker")?).await?,
        };
        // A connection after an error is of no further use.
        let answer = call.call(request, version).await.with_context(|| format!("of {}", self.name))?;
        self.calls.insert(node_id, call);
        Ok(answer)
    }

    async fn metadata(&mut self, node_id: i32, topic: &str) -> Result<MetadataResponse> {
        let topic = MetadataRequestTopic::default().with_name(Some(topic_name(topic)));
        let request = MetadataRequest::default().with_topics(Some(vec![topic])).with_allow_auto_topic_creation(false);
        self.call(node_id, &request, 12).await
    }

    /// Leader and leader epoch of a partition.
    pub async fn leader(&mut self, topic: &str, partition: i32) -> Result<(i32, i32)> {
        for _ in 0..LOOKS {
            let metadata = self.metadata(1, topic).await?;
            let found = metadata
                .topics
                .iter()
                .flat_map(|topic| &topic.partitions)
                .find(|found| found.partition_index == partition && found.leader_id.0 >= 0);
            if let Some(found) = found {
                return Ok((found.leader_id.0, found.leader_epoch));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        bail!("{}: nobody leads {topic} {partition}", self.name)
    }

    /// Repeats a call until its answer is as it should be: what a cluster does behind its answers takes its time.
    pub async fn until<R: Request>(
        &mut self,
        node_id: i32,
        request: &R,
        version: i16,
        done: impl Fn(&R::Response) -> bool,
    ) -> Result<R::Response>
    where
        R::Response: Debug,
    {
        for _ in 0..LOOKS {
            let answer = self.call(node_id, request, version).await?;
            if done(&answer) {
                return Ok(answer);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let still = self.call(node_id, request, version).await?;
        bail!("{}: still {still:?}", self.name)
    }
}

/// Both.
pub struct Pair {
    pub cluster: Cluster,
    pub model: TcpCluster,
    pub kafka: Side,
    pub modelled: Side,
    /// What the two answered differently.
    pub differences: Vec<String>,
}

impl Pair {
    pub async fn start() -> Result<Self> {
        let cluster = Cluster::builder()
            .name("truth")
            .brokers(BROKERS)
            // A producer is forgotten as soon as its records are older than the day that is the default.
            .config("producer.id.expiration.check.interval.ms", "500")
            .start()
            .await?;
        let brokers = i32::from(BROKERS);
        let model = TcpCluster::start("model", brokers, None).await?;
        let addresses = (1..=brokers).map(|id| Ok((id, cluster.broker_addr(id)?))).collect::<Result<_>>()?;
        let modelled = model
            .model()
            .look()
            .brokers
            .iter()
            .map(|(id, broker)| (*id, format!("{}:{}", broker.host, broker.port)))
            .collect();
        Ok(Self {
            cluster,
            model,
            kafka: Side { name: "Kafka", addresses, calls: HashMap::new() },
            modelled: Side { name: "the model", addresses: modelled, calls: HashMap::new() },
            differences: Vec::new(),
        })
    }

    /// Notes that the two differ. The case goes on: what else differs is of interest too.
    pub fn differ(&mut self, how: String) {
        println!("\n{how}");
        self.differences.push(how);
    }

    /// Makes a topic in both, and waits until the real one's leaders are there.
    pub async fn topic(&mut self, name: &str, partitions: i32, replicas: i16) -> Result<()> {
        self.cluster.create_topic(name, partitions, replicas, &[]).await?;
        let made = self.model.model().change(|state, _| state.create_topic(name, partitions, replicas));
        made.map_err(|code| anyhow::anyhow!("the model refuses topic {name}: {code}"))
    }

    /// Sends the same request to the same broker of both and compares the answers, after `blank` has cleared what may differ. Gives Kafka's.
    pub async fn same<R: Request + Debug>(
        &mut self,
        node_id: i32,
        request: &R,
        version: i16,
        blank: impl Fn(&mut R::Response),
    ) -> Result<R::Response>
    where
        R::Response: Debug,
    {
        self.same_at((node_id, node_id), request, request, version, blank).await
    }

    /// Sends a request about a partition to its leader in both, and compares.
    pub async fn same_at_leader<R: Request + Debug>(
        &mut self,
        (topic, partition): (&str, i32),
        request: &R,
        version: i16,
        blank: impl Fn(&mut R::Response),
    ) -> Result<R::Response>
    where
        R::Response: Debug,
    {
        let (one, _) = self.kafka.leader(topic, partition).await?;
        let (other, _) = self.modelled.leader(topic, partition).await?;
        self.same_at((one, other), request, request, version, blank).await
    }

    /// Sends each its request, to its broker, and compares.
    pub async fn same_at<R: Request + Debug>(
        &mut self,
        (one, other): (i32, i32),
        request: &R,
        modelled: &R,
        version: i16,
        blank: impl Fn(&mut R::Response),
    ) -> Result<R::Response>
    where
        R::Response: Debug,
    {
        let mut truth = self.kafka.call(one, request, version).await?;
        let mut told = self.modelled.call(other, modelled, version).await?;
        blank(&mut truth);
        blank(&mut told);
        let (as_it_is, as_modelled) = (format!("{truth:#?}"), format!("{told:#?}"));
        if as_it_is != as_modelled {
            self.differ(format!("{request:?}\n{}", unlike_lines(&as_it_is, &as_modelled)));
        }
        Ok(truth)
    }
}

/// The lines that differ; everything where there are more of them on one side.
fn unlike_lines(truth: &str, told: &str) -> String {
    if truth.lines().count() != told.lines().count() {
        return format!("Kafka says {truth}\nand the model {told}");
    }
    truth
        .lines()
        .zip(told.lines())
        .filter(|(truth, told)| truth != told)
        .map(|(truth, told)| format!("Kafka says {}, the model {}\n", truth.trim(), told.trim()))
        .collect()
}

pub fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}
