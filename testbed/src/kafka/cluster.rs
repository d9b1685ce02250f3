//! A cluster of one to three brokers on loopback, as child processes: with KRaft, or (one broker of a release before 4.0) with ZooKeeper.
//!
//! With KRaft every broker is also a controller, so that any one of three may be killed. Each has the listeners `PLAINTEXT`,
//! `CONTROLLER`, those that a test adds ([`Listener`]), and, when asked for, `DELAYED`, which advertises a delay line's relay instead of itself: a client that
//! bootstraps there sees the round trip on every connection, while other clients of the same cluster don't.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kafka_protocol::messages::{ApiVersionsRequest, MetadataRequest};
use rustix::process::Signal;

use crate::call::Call;
use crate::delay::{DelayLine, Relay};
use crate::guard::{Guarded, TempDir};
use crate::kafka::admin::Admin;
use crate::kafka::artifacts::{BOOTSTRAP_CHECKPOINT, Kafka};
use crate::kafka::builder::{ClusterBuilder, Listener};
use crate::ports::Ports;
use crate::proxy::proc_cpu_seconds;

/// A start takes 3 to 6 s on an idle machine; parallel tests on few cores take their time.
const READY_DEADLINE: Duration = Duration::from_secs(120);
const STOP_DEADLINE: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct Broker {
    id: i32,
    host: String,
    plain: Ports,
    /// Of the listeners that a test has added, by their names: the port that it binds, and the one that it advertises if that is another one.
    others: BTreeMap<String, (Ports, Option<Ports>)>,
    config: PathBuf,
    log: PathBuf,
    heap_mib: u32,
    /// `None` only while another call starts or stops it.
    process: Mutex<Option<Guarded>>,
}

impl Broker {
    fn addr(&self) -> String {
        format!("{}:{}", self.host, self.plain.first())
    }

    fn process(&self) -> MutexGuard<'_, Option<Guarded>> {
        // A panic while the lock was held leaves the process as it is, which is all that is kept here.
        self.process.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A running cluster. Its brokers are killed and its data removed when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    name: String,
    id: String,
    kafka: Kafka,
    brokers: Vec<Broker>,
    /// What brokers that are added have in common with the others.
    properties: BTreeMap<String, String>,
    delay: Option<DelayLine>,
    relays: Vec<Relay>,
    start_took: Duration,
    _zookeeper: Option<Guarded>,
    /// Claimed for the cluster's life.
    _ports: Vec<Ports>,
    /// Last, so that it is removed after the brokers are gone.
    dir: TempDir,
}

impl Cluster {
    /// Begins to describe a cluster.
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder::new()
    }

    pub(super) async fn start_once(builder: &ClusterBuilder, kafka: &Kafka) -> Result<Self> {
        let begin = Instant::now();
        let dir = TempDir::new(&format!("diffluent-{}-", builder.name))?;
        let cluster_id = kafka_uuid();
        let mut ports = Vec::new();
        let mut plain = Vec::new();
        let mut voters = Vec::new();
        for id in 1..=builder.brokers {
            plain.push(Ports::one()?);
            let controller = Ports::one()?;
            voters.push(format!("{id}@127.0.0.1:{}", controller.first()));
            ports.push(controller);
        }
        let mut common = builder.properties();
        common.insert("controller.quorum.voters".into(), voters.join(","));
        let delay = match builder.delay {
            Some(spec) => Some(DelayLine::new(spec)?),
            None => None,
        };
        let mut relays = Vec::new();
        let mut brokers = Vec::new();
        for (index, plain) in plain.into_iter().enumerate() {
            let id = i32::try_from(index + 1).context("too many brokers")?;
            let controller = ports.get(index).map_or(0, Ports::first);
            let host = &builder.host;
            let mut listeners = format!("PLAINTEXT://{host}:{},CONTROLLER://127.0.0.1:{controller}", plain.first());
            let mut advertised = format!("PLAINTEXT://{host}:{}", plain.first());
            if let Some(delay) = &delay {
                let (behind, before) = (Ports::one()?, Ports::one()?);
                relays.push(delay.relay(before.first(), &format!("127.0.0.1:{}", behind.first())).await?);
                listeners.push_str(&format!(",DELAYED://127.0.0.1:{}", behind.first()));
                advertised.push_str(&format!(",DELAYED://127.0.0.1:{}", before.first()));
                ports.extend([behind, before]);
            }
            let mut others = BTreeMap::new();
            for Listener { name, elsewhere, .. } in &builder.listeners {
                let port = Ports::one()?;
                let other = if *elsewhere { Some(Ports::one()?) } else { None };
                listeners.push_str(&format!(",{name}://127.0.0.1:{}", port.first()));
                advertised.push_str(&format!(",{name}://127.0.0.1:{}", other.as_ref().unwrap_or(&port).first()));
                others.insert(name.clone(), (port, other));
            }
            let mut properties = common.clone();
            properties.insert("listeners".into(), listeners);
            properties.insert("advertised.listeners".into(), advertised);
            if builder.zookeeper {
                // The controller's port is free for it.
                for key in
                    ["process.roles", "controller.listener.names", "controller.quorum.voters", "advertised.listeners"]
                {
                    properties.remove(key);
                }
                properties.insert("broker.id".into(), id.to_string());
                properties.insert("zookeeper.connect".into(), format!("127.0.0.1:{controller}"));
                properties.insert("listeners".into(), format!("PLAINTEXT://{host}:{}", plain.first()));
            }
            properties.extend(builder.config.clone());
            let (config, log) = prepare(kafka, &dir, &cluster_id, id, properties)?;
            let (host, heap_mib, process) = (builder.host.clone(), builder.heap_mib, Mutex::new(None));
            brokers.push(Broker { id, host, plain, others, config, log, heap_mib, process });
        }
        let zookeeper = match ports.first().filter(|_| builder.zookeeper) {
            Some(port) => Some(start_zookeeper(kafka, port.first(), dir.path())?),
            None => None,
        };
        let mut cluster = Self {
            name: builder.name.clone(),
            id: cluster_id,
            kafka: kafka.clone(),
            brokers,
            properties: common.into_iter().chain(builder.config.clone()).collect(),
            delay,
            relays,
            start_took: Duration::ZERO,
            _zookeeper: zookeeper,
            _ports: ports,
            dir,
        };
        for broker in &cluster.brokers {
            cluster.spawn(broker)?;
        }
        for broker in &cluster.brokers {
            cluster.wait_ready(broker, cluster.brokers.len()).await?;
        }
        if builder.zookeeper {
            // It has made an id up.
            let metadata = cluster.admin().metadata(&[]).await?;
            cluster.id = metadata.cluster_id.map(|id| id.to_string()).context("a cluster without an id")?;
        }
        cluster.start_took = begin.elapsed();
        Ok(cluster)
    }

    fn spawn(&self, broker: &Broker) -> Result<()> {
        let mut command = self.kafka.java("kafka.Kafka", broker.heap_mib);
        command.arg(&broker.config);
        let what = format!("broker {} of cluster {}", broker.id, self.name);
        *broker.process() = Some(Guarded::spawn(&what, command, &broker.log)?);
        Ok(())
    }

    /// Waits until the broker answers and shows `alive` brokers.
    async fn wait_ready(&self, broker: &Broker, alive: usize) -> Result<()> {
        let end = Instant::now() + READY_DEADLINE;
        loop {
            let last = match answers(&broker.addr()).await {
                Ok(known) if known.contains(&broker.id) && known.len() >= alive => return Ok(()),
                Ok(known) => format!("it knows of the brokers {known:?}"),
                Err(error) => format!("{error:#}"),
            };
            if let Some(process) = broker.process().as_mut()
                && let Some(status) = process.try_status()
            {
                bail!("broker {} ended ({status}):\n{}", broker.id, process.log_tail());
            }
            if Instant::now() > end {
                let tail = crate::guard::tail(&broker.log);
                bail!("broker {} is not ready after {READY_DEADLINE:?} ({last}):\n{tail}", broker.id);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The name given to the builder.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cluster's id, as brokers tell it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// How long the start took until all brokers were ready.
    pub fn start_took(&self) -> Duration {
        self.start_took
    }

    /// The Kafka that it runs, for its tools.
    pub fn kafka(&self) -> &Kafka {
        &self.kafka
    }

    /// `bootstrap.servers`: all brokers, directly.
    pub fn bootstrap(&self) -> String {
        self.brokers.iter().map(Broker::addr).collect::<Vec<_>>().join(",")
    }

    /// `bootstrap.servers` of a listener that was added: all brokers.
    ///
    /// # Errors
    /// When there is no such listener.
    pub fn bootstrap_of(&self, listener: &str) -> Result<String> {
        let of_broker = |broker: &Broker| {
            let (port, other) = broker.others.get(listener).with_context(|| format!("no listener {listener}"))?;
            Ok(format!("127.0.0.1:{}", other.as_ref().unwrap_or(port).first()))
        };
        let addrs: Result<Vec<String>> = self.brokers.iter().map(of_broker).collect();
        Ok(addrs?.join(","))
    }

    /// Where broker `id` really binds a listener that advertises another port: what is put in front of it leads here.
    ///
    /// # Errors
    /// When there is no such broker or listener.
    pub fn behind(&self, id: i32, listener: &str) -> Result<String> {
        let port = self.broker(id)?.others.get(listener).with_context(|| format!("no listener {listener}"))?;
        Ok(format!("127.0.0.1:{}", port.0.first()))
    }

    /// `bootstrap.servers` behind the delay line. Without a delay line it is the same as [`Cluster::bootstrap`].
    pub fn delayed_bootstrap(&self) -> String {
        if self.relays.is_empty() {
            return self.bootstrap();
        }
        self.relays.iter().map(|relay| relay.addr().to_string()).collect::<Vec<_>>().join(",")
    }

    /// The delay line that its delayed listeners are behind, for faults.
    pub fn delay(&self) -> Option<&DelayLine> {
        self.delay.as_ref()
    }

    /// The brokers' ids, from 1.
    pub fn broker_ids(&self) -> Vec<i32> {
        self.brokers.iter().map(|broker| broker.id).collect()
    }

    /// The direct address (`host:port`) of broker `id`.
    ///
    /// # Errors
    /// When there is no such broker.
    pub fn broker_addr(&self, id: i32) -> Result<String> {
        Ok(self.broker(id)?.addr())
    }

    /// The file with what the broker printed.
    ///
    /// # Errors
    /// When there is no such broker.
    pub fn broker_log(&self, id: i32) -> Result<PathBuf> {
        Ok(self.broker(id)?.log.clone())
    }

    fn broker(&self, id: i32) -> Result<&Broker> {
        let found = self.brokers.iter().find(|broker| broker.id == id);
        found.with_context(|| format!("cluster {} has no broker {id}", self.name))
    }

    /// Adds a broker that is no controller, and waits until it knows all the others; its id.
    ///
    /// # Errors
    /// When it does not get ready.
    pub async fn add_broker(&mut self) -> Result<i32> {
        let first = self.brokers.first().context("there is no broker")?;
        let (host, heap_mib) = (first.host.clone(), first.heap_mib);
        let id = i32::try_from(self.brokers.len() + 1).context("too many brokers")?;
        let plain = Ports::one()?;
        let listener = format!("PLAINTEXT://{host}:{}", plain.first());
        let mut properties = self.properties.clone();
        properties.insert("process.roles".into(), "broker".into());
        properties.insert("listeners".into(), listener.clone());
        properties.insert("advertised.listeners".into(), listener);
        let (config, log) = prepare(&self.kafka, &self.dir, &self.id, id, properties)?;
        let (others, process) = (BTreeMap::new(), Mutex::new(None));
        self.brokers.push(Broker { id, host, plain, others, config, log, heap_mib, process });
        let broker = self.broker(id)?;
        self.spawn(broker)?;
        self.wait_ready(broker, self.brokers.len()).await?;
        Ok(id)
    }

    /// Kills a broker with SIGKILL.
    ///
    /// # Errors
    /// When there is no such broker.
    pub fn kill(&self, id: i32) -> Result<()> {
        if let Some(process) = self.broker(id)?.process().as_mut() {
            process.kill();
        }
        Ok(())
    }

    /// Stops a broker with SIGTERM and waits until it has ended.
    ///
    /// # Errors
    /// When there is no such broker or it has to be killed after 30 s.
    pub async fn stop(&self, id: i32) -> Result<()> {
        let taken = self.broker(id)?.process().take();
        if let Some(mut process) = taken {
            process.terminate(STOP_DEADLINE).await?;
        }
        Ok(())
    }

    /// Processor time that its brokers have used so far, in seconds.
    ///
    /// # Errors
    /// When a broker has ended.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let pids = self.brokers.iter().filter_map(|broker| broker.process().as_ref().map(Guarded::pid));
        pids.map(proc_cpu_seconds).sum()
    }

    /// Stops all brokers at once with SIGTERM and waits until they have ended.
    ///
    /// # Errors
    /// When one has to be killed after 30 s.
    pub async fn stop_all(&self) -> Result<()> {
        let mut taken: Vec<Guarded> = self.brokers.iter().filter_map(|broker| broker.process().take()).collect();
        for process in &mut taken {
            if process.try_status().is_none() {
                process.signal(Signal::TERM)?;
            }
        }
        for process in &mut taken {
            process.terminate(STOP_DEADLINE).await?;
        }
        Ok(())
    }

    /// Kills all brokers with SIGKILL.
    pub fn kill_all(&self) {
        for broker in &self.brokers {
            if let Some(process) = broker.process().as_mut() {
                process.kill();
            }
        }
    }

    /// Starts a broker again on its ports and data (killing it first if it runs), and waits until it answers and knows itself as alive.
    ///
    /// # Errors
    /// When there is no such broker or it does not get ready.
    pub async fn restart(&self, id: i32) -> Result<()> {
        let broker = self.broker(id)?;
        self.kill(id)?;
        self.spawn(broker)?;
        self.wait_ready(broker, 1).await
    }

    /// Starts all brokers again on their ports and data, and waits until all know each other.
    ///
    /// # Errors
    /// When one does not get ready.
    pub async fn restart_all(&self) -> Result<()> {
        self.kill_all();
        for broker in &self.brokers {
            self.spawn(broker)?;
        }
        for broker in &self.brokers {
            self.wait_ready(broker, self.brokers.len()).await?;
        }
        Ok(())
    }

    /// Freezes a broker (SIGSTOP): its connections stay open and nothing answers.
    ///
    /// # Errors
    /// When there is no such broker or it does not run.
    pub fn pause(&self, id: i32) -> Result<()> {
        self.signal(id, Signal::STOP)
    }

    /// Lets a frozen broker go on (SIGCONT).
    ///
    /// # Errors
    /// When there is no such broker or it does not run.
    pub fn resume(&self, id: i32) -> Result<()> {
        self.signal(id, Signal::CONT)
    }

    fn signal(&self, id: i32, signal: Signal) -> Result<()> {
        match self.broker(id)?.process().as_mut() {
            Some(process) => process.signal(signal),
            None => bail!("broker {id} of cluster {} does not run", self.name),
        }
    }

    /// Resident memory of all brokers, in bytes.
    pub fn rss_bytes(&self) -> u64 {
        let pids = self.brokers.iter().filter_map(|broker| broker.process().as_ref().map(Guarded::pid));
        pids.filter_map(|pid| crate::proxy::proc_rss_bytes(pid).ok()).sum()
    }

    /// The admin client for this cluster.
    pub fn admin(&self) -> Admin {
        Admin::new(self.brokers.iter().map(Broker::addr).collect())
    }

    /// See [`Admin::create_topic`].
    ///
    /// # Errors
    /// When the cluster refuses or takes longer than 30 s.
    pub async fn create_topic(&self, topic: &str, partitions: i32, rf: i16, configs: &[(&str, &str)]) -> Result<()> {
        self.admin().create_topic(topic, partitions, rf, configs).await
    }

    /// See [`Admin::delete_topic`].
    ///
    /// # Errors
    /// When the cluster refuses or takes longer than 30 s.
    pub async fn delete_topic(&self, topic: &str) -> Result<()> {
        self.admin().delete_topic(topic).await
    }

    /// See [`Admin::move_leader`].
    ///
    /// # Errors
    /// When the cluster refuses or takes longer than 30 s.
    pub async fn move_leader(&self, topic: &str, partition: i32, to: i32) -> Result<()> {
        self.admin().move_leader(topic, partition, to).await
    }
}

/// Formats a broker's data and writes its configuration: the paths of that and of its log.
fn prepare(
    kafka: &Kafka,
    dir: &TempDir,
    cluster_id: &str,
    id: i32,
    mut properties: BTreeMap<String, String>,
) -> Result<(PathBuf, PathBuf)> {
    let data = dir.path().join(format!("data-{id}"));
    if !properties.contains_key("zookeeper.connect") {
        format_data(kafka, &data, cluster_id, id)?;
        properties.insert("node.id".into(), id.to_string());
    }
    properties.insert("log.dirs".into(), data.display().to_string());
    let config = dir.path().join(format!("broker-{id}.properties"));
    let text: String = properties.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
    std::fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
    Ok((config, dir.path().join(format!("broker-{id}.log"))))
}

/// Starts the ZooKeeper that comes with Kafka's jars.
fn start_zookeeper(kafka: &Kafka, port: u16, dir: &Path) -> Result<Guarded> {
    // The options stand before the main class. Its own admin server would want a port of its own.
    let mut command = kafka.java("-Dzookeeper.admin.enableServer=false", 128);
    command.arg("org.apache.zookeeper.server.ZooKeeperServerMain").arg(port.to_string()).arg(dir.join("zookeeper"));
    Guarded::spawn("ZooKeeper", command, &dir.join("zookeeper.log"))
}

/// The ids of the brokers that the broker at `addr` shows as alive.
async fn answers(addr: &str) -> Result<Vec<i32>> {
    // Short: a broker that is still recovering accepts connections long before it answers.
    let mut call = Call::connect(addr).await?.deadline(Duration::from_secs(5));
    call.call(&ApiVersionsRequest::default(), 0).await?;
    let metadata = call.call(&MetadataRequest::default().with_topics(Some(Vec::new())), 9).await?;
    Ok(metadata.brokers.iter().map(|broker| broker.node_id.0).collect())
}

/// Writes what `StorageTool format` writes, from what it wrote once for this version.
pub(super) fn format_data(kafka: &Kafka, data: &Path, cluster_id: &str, broker_id: i32) -> Result<()> {
    std::fs::create_dir_all(data).with_context(|| format!("cannot make {}", data.display()))?;
    std::fs::copy(kafka.dir().join(BOOTSTRAP_CHECKPOINT), data.join(BOOTSTRAP_CHECKPOINT))
        .context("the cached bootstrap checkpoint is missing; remove the cache")?;
    let meta = format!("version=1\ncluster.id={cluster_id}\nnode.id={broker_id}\ndirectory.id={}\n", kafka_uuid());
    std::fs::write(data.join("meta.properties"), meta).context("cannot write meta.properties")
}

/// A random id in Kafka's notation: 16 bytes as 22 characters of URL-safe base 64.
fn kafka_uuid() -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut bits = uuid::Uuid::new_v4().as_u128();
    // The first character must not be a dash (Kafka avoids that too): clear the top bit.
    bits &= u128::MAX >> 1;
    (0..22u32)
        .map(|index| {
            // 128 bits make 21 characters of 6 bits and a last one of 2.
            let six = if index < 21 { bits >> (122 - 6 * index) } else { bits << 4 };
            char::from(ALPHABET[(six & 63) as usize])
        })
        .collect()
}
