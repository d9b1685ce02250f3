//! The shape of proxy.toml.
//!
//! The `///` lines of these fields are what docs/configuration.md shows (see [`super::reference`]): write them for an
//! operator. One table of the file is one struct here.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::secret::Secret;
use super::values::{
    Advertise, ByteSize, HostPort, HttpUrl, Name, PortRange, TopicPattern, TopicTemplate, duration, is_name_char,
};

/// The topic of the local cluster that keeps who ran with which configuration. It is never mirrored.
pub const HISTORY_TOPIC: &str = "diffluent.config";

/// proxy.toml.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `[proxy]`: this proxy, as clients see it.
    pub proxy: Proxy,
    /// `[local]`: the cluster that the proxy stands in front of.
    pub local: Cluster,
    /// `[[region]]`, once per region: a cluster that gets what is produced here.
    #[serde(default)]
    pub region: Vec<Region>,
    /// `[mirror]`: what all regions share.
    #[serde(default)]
    pub mirror: Mirror,
    /// `[admin]`: the port for people and Prometheus.
    #[serde(default)]
    pub admin: Admin,
}

/// This proxy, as clients see it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Proxy {
    /// The name of the place where the local cluster is: in metrics, in logs, and as `{origin}` in a region's
    /// `topic_name`. Letters, digits, `.`, `_` and `-`.
    pub name: Name,
    /// What this proxy is called among those that have the same `name` and share the streams between them: no two of them may have the same. After a
    /// restart under the same one it goes on with what it had, at once. Left out: the host's name and the port of `listen`. Letters, digits, `.`, `_` and `-`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<Name>,
    /// Where clients connect first: their `bootstrap.servers`.
    pub listen: HostPort,
    /// The host name or address under which clients reach this proxy. Broker N of the local cluster is advertised as this host
    /// with N's own port out of `broker_ports`. Or, with `[proxy.tls]`, a name for each broker and one port for all:
    /// `"broker-{id}.kafka.example.com:9092"`, where `{id}` stands for N. Clients then come to `listen` for everything, and the name that they ask for in TLS
    /// says which broker they mean (any other name: any broker). All these names must lead to this proxy, and its certificate must be for them: `*.kafka.example.com`.
    pub advertise: Advertise,
    /// The ports on which the local cluster's brokers are served, one for each, on the host of `listen`. Broker N gets the first
    /// port plus N (counted around when N is larger than the range), or the next free one above. Leave room for brokers that are added
    /// later: they get their port without a restart. Must be set, unless `advertise` has a name for each broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker_ports: Option<PortRange>,
    /// The longest request that is accepted from a client. A little above the brokers' `socket.request.max.bytes`
    /// (100 MiB unless changed), so that the broker, not the proxy, is the one that says no.
    #[serde(default = "Proxy::default_frame_limit")]
    pub frame_limit: ByteSize,
    /// The most client connections at once. One more is closed as soon as it is there. Each takes two file descriptors. Left out: 20,000, or as many as the
    /// limit of file descriptors allows; where a number is set, a limit that does not allow it is an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_limit: Option<u32>,
    /// The most client connections at once from one address. Left out, there is no limit: many clients may share an address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_limit_per_address: Option<u32>,
    /// How long a client may take for its TLS handshake; only with `[proxy.tls]`.
    #[serde(default = "Proxy::default_handshake_timeout", with = "duration")]
    pub handshake_timeout: Duration,
    /// How long a client may take to send its first byte.
    #[serde(default = "Proxy::default_first_byte_timeout", with = "duration")]
    pub first_byte_timeout: Duration,
    /// How long a client connection may be silent while no request waits for its answer. A little above the brokers' `connections.max.idle.ms` (10 minutes
    /// unless changed), so that the broker, not the proxy, is the one that ends it.
    #[serde(default = "Proxy::default_idle_timeout", with = "duration")]
    pub idle_timeout: Duration,
    /// The most requests of one client connection that wait for their answers. A client with more is not read until one is answered; none is refused.
    #[serde(default = "Proxy::default_in_flight_limit")]
    pub in_flight_limit: u32,
    /// How long connecting to a broker may take, of the local cluster and of the regions, TLS included.
    #[serde(default = "Proxy::default_dial_timeout", with = "duration")]
    pub dial_timeout: Duration,
    /// How long a shutdown waits for requests that clients have sent and brokers have not answered.
    #[serde(default = "Proxy::default_drain_timeout", with = "duration")]
    pub drain_timeout: Duration,
    /// `[proxy.tls]`: TLS between clients and this proxy. Without this table clients speak plaintext. The files are read again when they change, without a
    /// restart; connections that are open go on with what they began with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ProxyTls>,
}

impl Proxy {
    /// What this proxy is called among those that share the streams.
    pub fn instance(&self) -> String {
        if let Some(instance) = &self.instance {
            return instance.to_string();
        }
        let host = rustix::system::uname();
        let host = host.nodename().to_string_lossy();
        let host: String = host.chars().map(|c| if is_name_char(c) { c } else { '_' }).take(200).collect();
        format!("{host}-{}", self.listen.port)
    }

    fn default_frame_limit() -> ByteSize {
        ByteSize::from_mib(101)
    }

    fn default_handshake_timeout() -> Duration {
        Duration::from_secs(10)
    }

    fn default_first_byte_timeout() -> Duration {
        Duration::from_secs(60)
    }

    fn default_idle_timeout() -> Duration {
        Duration::from_secs(11 * 60)
    }

    fn default_in_flight_limit() -> u32 {
        1024
    }

    fn default_dial_timeout() -> Duration {
        Duration::from_secs(10)
    }

    fn default_drain_timeout() -> Duration {
        Duration::from_secs(5)
    }
}

/// TLS between clients and this proxy.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyTls {
    /// A PEM file with the certificate that clients are shown, followed by those that lead to the authority that clients trust.
    pub certificate: PathBuf,
    /// A PEM file with the certificate's private key, not encrypted.
    pub key: PathBuf,
    /// Whether clients show a certificate: `"none"` (they are not asked), `"request"` (they may; one that they show must be good) or `"require"`. The
    /// brokers don't see it: to them the client is this proxy's own certificate, or nobody.
    #[serde(default)]
    pub client_auth: ClientAuth,
    /// A PEM file with the authorities that clients' certificates come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<PathBuf>,
}

/// Whether clients show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    /// They are not asked for one.
    #[default]
    None,
    /// They may show one, which must be good.
    Request,
    /// They must show one.
    Require,
}

/// TLS to a cluster's brokers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterTls {
    /// A PEM file with the authorities that the brokers' certificates come from. Left out, those that this machine trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// A PEM file with the certificate that brokers are shown, followed by those that lead to the authority that they trust. Left out, they are shown none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// A PEM file with the certificate's private key, not encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// The name that the certificate of every broker must be for, and that brokers are asked for. Left out, the host that is connected to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}

/// A Kafka cluster.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Some of the local cluster's brokers, to find the others by. Name at least two where there are two.
    pub bootstrap_servers: Vec<HostPort>,
    /// `[local.tls]`: TLS to the local cluster's brokers, both for clients and for what diffluent itself does there. Without this table they are spoken to in
    /// plaintext. The files are read again when they change, without a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClusterTls>,
    /// `[local.sasl]`: how diffluent itself logs in to the brokers. What clients send when they log in is only forwarded, and needs nothing here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sasl: Option<Sasl>,
}

/// How diffluent itself logs in to a cluster's brokers.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Sasl {
    /// The mechanism: `"PLAIN"`, `"SCRAM-SHA-256"`, `"SCRAM-SHA-512"` or `"OAUTHBEARER"`. The brokers' listener must offer it.
    pub mechanism: Mechanism,
    /// The user, for PLAIN and SCRAM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The user's password, for PLAIN and SCRAM. As every secret, it is a text, or better the place where it is: `{ env = "VARIABLE" }` or
    /// `{ file = "/path" }`. A file is read again for each connection, so that it can be replaced under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// For OAUTHBEARER: a token that somebody else renews, in a file or a variable. Or else `token_endpoint`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    /// For OAUTHBEARER: where tokens are asked for with `client_id` and `client_secret` (the client credentials grant of OAuth 2.0, RFC 6749 section 4.4). A new
    /// one is asked for before the last one's time is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_endpoint: Option<HttpUrl>,
    /// PEM file with the authorities that the certificate of an https `token_endpoint` may come from. Left out, those that this machine trusts. It is read again each time that a token is
    /// asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_endpoint_ca: Option<PathBuf>,
    /// Who asks for tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// The password of `client_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<Secret>,
    /// What the token shall be good for, if the endpoint wants to know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Extensions of OAUTHBEARER (KIP-342) that some brokers want, as Confluent Cloud does.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extensions: BTreeMap<String, String>,
}

/// A SASL mechanism that diffluent itself speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
pub enum Mechanism {
    /// User and password as they are (RFC 4616): over TLS only.
    #[serde(rename = "PLAIN")]
    Plain,
    /// RFC 7677: the password is never sent.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// As SCRAM-SHA-256, with SHA-512.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
    /// A token (RFC 7628): over TLS only.
    #[serde(rename = "OAUTHBEARER")]
    OauthBearer,
}

impl Mechanism {
    /// The name that brokers know.
    pub fn as_str(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha512 => "SCRAM-SHA-512",
            Mechanism::OauthBearer => "OAUTHBEARER",
        }
    }
}

/// A cluster that gets what is produced here.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Region {
    /// The region's name: in metrics, in logs, and in the name of the consumer group `diffluent.<name>` that keeps its progress in the local
    /// cluster. A changed name is a new region, which starts where `start` says.
    pub name: Name,
    /// Some of the region's brokers, to find the others by.
    pub bootstrap_servers: Vec<HostPort>,
    /// Which topics are mirrored to this region: regular expressions, of which one must match the whole name. Internal topics (`__*`)
    /// never are, nor those in which MirrorMaker 2 keeps its state, nor `diffluent.config`. A topic that is left out keeps its progress, and goes on
    /// there if it comes back.
    #[serde(default = "Region::default_topics")]
    pub topics: Vec<TopicPattern>,
    /// Which of these are not, all the same: regular expressions, of which none may match the whole name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude_topics: Vec<TopicPattern>,
    /// Where a topic begins that this region has not mirrored yet: `"earliest"` (all that the local log still holds) or `"latest"` (what
    /// is produced from now on).
    #[serde(default)]
    pub start: Start,
    /// `true` holds the region back: its topics are created and its positions kept, but no record is sent until it is resumed. What an operator has said
    /// of the region through the admin port holds on, unless this key changes.
    #[serde(default)]
    pub paused: bool,
    /// Topics that are held back alone: regular expressions, as in `topics`.
    #[serde(default)]
    pub paused_topics: Vec<TopicPattern>,
    /// What is done when a topic is deleted in the region, or has lost all that was mirrored to it: `"stop"` (its streams stall and say so, until it is
    /// restored) or `"recreate"` (it is created again, and all that the local log still holds is sent again).
    #[serde(default)]
    pub on_region_topic_lost: OnRegionTopicLost,
    /// Which records the region gets: `"own"` (those that were born in the local cluster), `"all"` (those too that other clusters have mirrored here, except to
    /// the cluster where they were born: for chains and hubs) or `"restore"` (as `"all"`, and also what was born in the region itself before its
    /// topics were made anew: gives a rebuilt cluster its records back). docs/topologies.md says which one goes where.
    #[serde(default)]
    pub forward: Forward,
    /// What a topic is called in the region: `{topic}` stands for its name here and `{origin}` for the name of this proxy. Left
    /// out, the name is the same. A topic whose name says that it came from one of this proxy's regions (that region's `name` stands in the place of
    /// `{origin}`) is not mirrored on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_name: Option<TopicTemplate>,
    // The name of this proxy, and those of its regions; filled in once the file is read.
    #[serde(skip)]
    pub(super) own_name: String,
    #[serde(skip)]
    pub(super) known_regions: Vec<String>,
    /// The most that is on its way to the region and not yet acknowledged. Bandwidth times round-trip time is what it takes to
    /// use a link fully: 1 Gbit/s at 200 ms is 24 MiB.
    #[serde(default = "Region::default_window")]
    pub window: ByteSize,
    /// The most bytes per second that are sent to the region, all told. Left out, there is no limit. What has to wait stays in the local log: a limit
    /// below what is produced makes the lag grow for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<ByteSize>,
    /// The most bytes per second that are read from the local log for a region that is behind, so that catching up after an outage leaves the local
    /// cluster's disks and the line to others. Left out, there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catch_up_rate_limit: Option<ByteSize>,
    /// `[region.tls]`: TLS to this region's brokers. Without this table they are spoken to in plaintext. The files are read again when they change, without a
    /// restart; a table that is another one is taken with a reload, over new connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClusterTls>,
    /// `[region.sasl]`: how diffluent logs in to the region's brokers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sasl: Option<Sasl>,
}

impl Region {
    fn default_topics() -> Vec<TopicPattern> {
        vec![TopicPattern::any()]
    }

    fn default_window() -> ByteSize {
        ByteSize::from_mib(64)
    }

    /// The topics that are asked for by their names: expressions without anything special in them.
    pub fn named_topics(&self) -> impl Iterator<Item = &str> {
        self.topics.iter().filter_map(TopicPattern::as_name).filter(|topic| self.selects(topic))
    }

    /// Whether `topic` of the local cluster is mirrored to this region. Internal topics (`__*`) never are, nor is diffluent's own, nor are those of MirrorMaker 2, nor those that were
    /// renamed on their way from a cluster that this proxy knows.
    pub fn selects(&self, topic: &str) -> bool {
        let any = |patterns: &[TopicPattern]| patterns.iter().any(|pattern| pattern.matches(topic));
        let never =
            topic.starts_with("__") || topic == HISTORY_TOPIC || is_of_mirror_maker(topic) || self.was_renamed(topic);
        !never && any(&self.topics) && !any(&self.exclude_topics)
    }

    /// Whether the topic's name, by `topic_name`, says that it came from a cluster that this proxy knows.
    pub fn was_renamed(&self, topic: &str) -> bool {
        self.topic_name
            .as_ref()
            .is_some_and(|template| template.names_one_of(&self.known_regions, &self.own_name, topic))
    }

    /// What `topic` of the local cluster is called in this region; `origin` is the proxy's name.
    pub fn topic_in_region(&self, origin: &str, topic: &str) -> String {
        match &self.topic_name {
            Some(template) => template.render(origin, topic),
            None => topic.to_owned(),
        }
    }
}

/// Whether MirrorMaker 2 keeps its own state in a topic of this name. Its `heartbeats` is a topic as any other.
pub fn is_of_mirror_maker(topic: &str) -> bool {
    topic.ends_with(".checkpoints.internal") || (topic.starts_with("mm2-") && topic.ends_with(".internal"))
}

/// Where a stream that has no progress yet begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// At the local log's start.
    #[default]
    Earliest,
    /// At the local log's end.
    Latest,
}

/// Which records a region gets, by where they were born.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Forward {
    /// Those that were born in the local cluster.
    #[default]
    Own,
    /// Those too that were born elsewhere, except in the region's own cluster.
    All,
    /// Those too that were born in the region's own cluster, in a topic that it does not have any more.
    Restore,
}

/// What is done when a topic in a region is deleted, or has lost all that was mirrored to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnRegionTopicLost {
    /// Its streams stall, and say so.
    #[default]
    Stop,
    /// It is created again, and everything is sent again.
    Recreate,
}

/// What all regions share.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mirror {
    /// `false` makes this a plain proxy: nothing is captured, read or sent to any region.
    pub enabled: bool,
    /// The most memory that captured record batches may hold, counted once however many regions still need them. What does not fit is
    /// read from the local log later: that costs the local cluster a read, and no client anything. `"0 B"` captures nothing.
    pub buffer: ByteSize,
    /// The most memory, per region, for record batches that were read from the local log.
    pub catch_up_buffer: ByteSize,
    /// How often progress is committed to the local cluster.
    #[serde(with = "duration")]
    pub progress_interval: Duration,
    /// How often the local log's ends are asked for: this finds what did not come through the proxy, and is what lag is
    /// measured against.
    #[serde(with = "duration")]
    pub log_end_interval: Duration,
    /// How often each cluster is asked for its brokers, topics and leaders, when nothing else gives a reason to ask.
    #[serde(with = "duration")]
    pub metadata_interval: Duration,
    /// Where several proxies share the streams: how long one may be silent before the others take its streams over. It lies between the local brokers'
    /// `group.min.session.timeout.ms` (6 s unless changed) and `group.max.session.timeout.ms`.
    #[serde(with = "duration")]
    pub session_timeout: Duration,
}

impl Default for Mirror {
    fn default() -> Self {
        Self {
            enabled: true,
            buffer: ByteSize::from_mib(64),
            catch_up_buffer: ByteSize::from_mib(32),
            progress_interval: Duration::from_secs(1),
            log_end_interval: Duration::from_secs(1),
            metadata_interval: Duration::from_secs(5),
            session_timeout: Duration::from_secs(15),
        }
    }
}

/// The port for people and Prometheus.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Where the dashboard page, `/lag`, `/metrics`, `/live` and `/ready` are served, over plain HTTP. On an address that is not of this machine alone, commands
    /// are refused unless there is a `token`.
    pub listen: HostPort,
    /// What a command must bear (`Authorization: Bearer ...`). Left out, commands are taken from this machine only, without one. A secret: a text,
    /// `{ env = "VARIABLE" }` or `{ file = "/path" }`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    /// What the token is needed for: `"commands"` (what changes something; reading is open to anybody who can connect) or `"everything"` (but `/live`, `/ready` and the files
    /// of the page).
    pub token_for: TokenFor,
    /// `true` adds a series for each region and partition to `/metrics`. Prometheus pays for each one: with thousands of partitions, leave it.
    pub partition_metrics: bool,
    /// `true` takes a change of this file by itself, within seconds. Without it, `SIGHUP`, `diffluent reload` or `POST /reload` does.
    pub reload_on_change: bool,
    /// Whether each configuration that comes into effect is kept, without its secrets, in the topic `diffluent.config` of the local cluster, which is created
    /// where it is missing and may be: `diffluent history` shows who ran with what, when, over restarts and over all proxies of the cluster. `false` keeps
    /// the last hundred in memory alone.
    pub history: bool,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            listen: HostPort::new("127.0.0.1", 9644),
            token: None,
            token_for: TokenFor::Commands,
            partition_metrics: false,
            reload_on_change: false,
            history: true,
        }
    }
}

/// What the admin port's token is needed for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenFor {
    /// What changes something.
    #[default]
    Commands,
    /// What tells something too.
    Everything,
}
