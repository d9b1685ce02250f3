//! What a cluster shall be: brokers, listeners, properties.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::certificates::Identity;
use crate::delay::DelaySpec;
use crate::kafka::artifacts::Kafka;
use crate::kafka::cluster::Cluster;

const BROKERS_MAX: u16 = 3;
/// Starts over from new ports when one was taken between its claim and the broker's bind.
const START_ATTEMPTS_MAX: usize = 3;

/// What a cluster shall be; see [`Cluster::builder`].
#[derive(Clone, Debug)]
pub struct ClusterBuilder {
    pub(super) name: String,
    pub(super) brokers: u16,
    pub(super) host: String,
    pub(super) version: String,
    pub(super) heap_mib: u32,
    pub(super) config: BTreeMap<String, String>,
    pub(super) delay: Option<DelaySpec>,
    pub(super) listeners: Vec<Listener>,
    pub(super) zookeeper: bool,
    pub(super) java_options: Vec<String>,
    pub(super) classes: Vec<PathBuf>,
}

/// A listener beside the usual ones, on a port of its own at each broker.
#[derive(Clone, Debug)]
pub struct Listener {
    pub(super) name: String,
    protocol: String,
    settings: BTreeMap<String, String>,
    pub(super) elsewhere: bool,
}

impl Listener {
    /// A listener of this name (letters only) that speaks `protocol`: `SSL`, `SASL_PLAINTEXT`, `SASL_SSL`.
    pub fn new(name: &str, protocol: &str) -> Self {
        Self { name: name.to_owned(), protocol: protocol.to_owned(), settings: BTreeMap::new(), elsewhere: false }
    }

    /// A TLS listener that shows this certificate.
    pub fn tls(name: &str, shows: &Identity) -> Self {
        Self::new(name, "SSL").shows(shows)
    }

    /// Advertises another port than its own, for something that stands in front of it; see [`Cluster::behind`].
    pub fn elsewhere(mut self) -> Self {
        self.elsewhere = true;
        self
    }

    /// Shows this certificate.
    pub fn shows(self, identity: &Identity) -> Self {
        self.set("ssl.keystore.type", "PEM")
            .set("ssl.keystore.certificate.chain", &identity.certificate)
            .set("ssl.keystore.key", &identity.key)
    }

    /// Wants certificates of clients, from this authority (PEM).
    pub fn wants_certificates_of(self, authority: &str) -> Self {
        self.set("ssl.client.auth", "required")
            .set("ssl.truststore.type", "PEM")
            .set("ssl.truststore.certificates", authority)
    }

    /// Sets a property of this listener.
    pub fn set(mut self, key: &str, value: &str) -> Self {
        // In a properties file a line is a value's end.
        self.settings.insert(key.to_owned(), value.trim_end().replace('\n', "\\n"));
        self
    }
}

impl ClusterBuilder {
    pub(super) fn new() -> Self {
        Self {
            name: "kafka".to_owned(),
            brokers: 1,
            host: "127.0.0.1".to_owned(),
            version: crate::kafka::KAFKA.to_owned(),
            heap_mib: 384,
            config: BTreeMap::new(),
            delay: None,
            listeners: Vec::new(),
            zookeeper: false,
            java_options: Vec::new(),
            classes: Vec::new(),
        }
    }

    /// A name for logs and directories. Default: `kafka`.
    pub fn name(mut self, name: &str) -> Self {
        self.name = name.to_owned();
        self
    }

    /// The number of brokers, 1 to 3. Their ids count from 1. Default: 1.
    pub fn brokers(mut self, brokers: u16) -> Self {
        self.brokers = brokers;
        self
    }

    /// The host that brokers listen at and call themselves by, an address of the loopback network. Default: `127.0.0.1`.
    pub fn host(mut self, host: &str) -> Self {
        self.host = host.to_owned();
        self
    }

    /// Kafka's version. Default: [`crate::KAFKA`].
    pub fn version(mut self, version: &str) -> Self {
        self.version = version.to_owned();
        self
    }

    /// The brokers' heap in MiB. Default: 384.
    pub fn heap_mib(mut self, heap_mib: u32) -> Self {
        self.heap_mib = heap_mib;
        self
    }

    /// Sets a broker property, over what the testbed sets itself.
    pub fn config(mut self, key: &str, value: &str) -> Self {
        self.config.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Lets rules be made about who may do what ([`Admin::deny`]); without a rule everybody may. One broker only: more would not let each other in.
    pub fn open_authorizer(self) -> Self {
        self.config("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer")
            .config("allow.everyone.if.no.acl.found", "true")
    }

    /// Keeps the metadata in a ZooKeeper instead of in the brokers: one broker of a release before 4.0, as old as `inter.broker.protocol.version` says.
    pub fn zookeeper(mut self) -> Self {
        self.zookeeper = true;
        self
    }

    /// Adds a listener; see [`Cluster::bootstrap_of`].
    pub fn listener(mut self, listener: Listener) -> Self {
        self.listeners.push(listener);
        self
    }

    /// Gives an option to the brokers' Java, and to that of the cluster's tools ([`Cluster::kafka`]).
    pub fn java_option(mut self, option: &str) -> Self {
        self.java_options.push(option.to_owned());
        self
    }

    /// Puts a directory of classes behind the brokers' others.
    pub fn classes(mut self, dir: &Path) -> Self {
        self.classes.push(dir.to_owned());
        self
    }

    /// Adds a delayed listener; see [`Cluster::delayed_bootstrap`].
    pub fn listener_via(mut self, delay: DelaySpec) -> Self {
        self.delay = Some(delay);
        self
    }

    /// Starts the cluster and waits until every broker answers and knows all the others.
    ///
    /// # Errors
    /// When Kafka can't be fetched, or the cluster does not get ready within 2 minutes: with the brokers' last log lines.
    pub async fn start(self) -> Result<Cluster> {
        if self.zookeeper && (self.brokers != 1 || self.delay.is_some()) {
            bail!("with ZooKeeper, a cluster has one broker and no delayed listener");
        }
        if self.brokers == 0 || self.brokers > BROKERS_MAX {
            bail!("a cluster has 1 to {BROKERS_MAX} brokers, not {}", self.brokers);
        }
        let mut kafka = Kafka::fetch(&self.version, &[]).await?;
        kafka = self.java_options.iter().fold(kafka, |kafka, option| kafka.with_option(option));
        kafka = self.classes.iter().fold(kafka, |kafka, dir| kafka.with_classes(dir));
        let mut attempt = 1;
        loop {
            match Cluster::start_once(&self, &kafka).await {
                Ok(cluster) => return Ok(cluster),
                Err(error) if attempt < START_ATTEMPTS_MAX && format!("{error:#}").contains("already in use") => {
                    attempt += 1;
                }
                Err(error) => return Err(error.context(format!("cluster {} did not start", self.name))),
            }
        }
    }

    /// What all brokers of a small cluster have in common.
    pub(super) fn properties(&self) -> BTreeMap<String, String> {
        let replicas = self.brokers.to_string();
        let mut security = "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,DELAYED:PLAINTEXT".to_owned();
        for Listener { name, protocol, .. } in &self.listeners {
            security.push_str(&format!(",{name}:{protocol}"));
        }
        let pairs = [
            ("process.roles", "broker,controller"),
            ("listener.security.protocol.map", &security),
            ("controller.listener.names", "CONTROLLER"),
            ("inter.broker.listener.name", "PLAINTEXT"),
            // A test that means to create a topic creates it; a region where a topic appears by itself has the wrong settings.
            ("auto.create.topics.enable", "false"),
            ("default.replication.factor", &replicas),
            ("offsets.topic.num.partitions", "4"),
            ("offsets.topic.replication.factor", &replicas),
            ("transaction.state.log.num.partitions", "4"),
            ("transaction.state.log.replication.factor", &replicas),
            ("transaction.state.log.min.isr", "1"),
            ("share.coordinator.state.topic.num.partitions", "4"),
            ("share.coordinator.state.topic.replication.factor", &replicas),
            ("share.coordinator.state.topic.min.isr", "1"),
            ("group.initial.rebalance.delay.ms", "0"),
            // A killed broker is noticed in 4 s instead of 9.
            ("broker.heartbeat.interval.ms", "500"),
            ("broker.session.timeout.ms", "4000"),
            ("initial.broker.registration.timeout.ms", "120000"),
            // The defaults are for machines with 16 disks and cores; the cleaner alone takes 128 MiB of heap.
            ("num.network.threads", "2"),
            ("num.io.threads", "4"),
            ("log.cleaner.dedupe.buffer.size", "4194304"),
        ];
        let mut all: BTreeMap<String, String> =
            pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        for Listener { name, settings, .. } in &self.listeners {
            let name = name.to_lowercase();
            all.extend(settings.iter().map(|(key, value)| (format!("listener.name.{name}.{key}"), value.clone())));
        }
        all
    }
}
