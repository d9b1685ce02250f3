//! Properties that nothing was made of, and why.

use std::collections::BTreeMap;

use super::properties::Property;
use super::{Note, Weight};

/// What a property's name begins with (behind the cluster, the flow or the client that it is for), and what there is to say.
const KNOWN: &[(&str, Weight, &str)] = &[
    ("enabled", Weight::Know, "this flow is not enabled"),
    ("bootstrap.servers", Weight::Know, "nothing is mirrored from or to this cluster"),
    ("topics", Weight::Know, "is for a flow that is not enabled"),
    ("replication.policy", Weight::Know, "is for a flow that is not enabled"),
    (
        "replication.factor",
        Weight::Decide,
        "topics that are created in a region get its brokers' default.replication.factor: see that it is not less, or create the topics before",
    ),
    (
        "sync.group.offsets",
        Weight::Decide,
        "offsets of consumer groups are not carried over: a consumer that moves to the region starts by time (kafka-consumer-groups --reset-offsets --to-datetime)",
    ),
    ("emit.checkpoints", Weight::Know, "there are no checkpoints; offsets of consumer groups are not carried over"),
    ("checkpoints.", Weight::Know, "there are no checkpoints; offsets of consumer groups are not carried over"),
    ("groups", Weight::Know, "offsets of consumer groups are not carried over"),
    ("group.filter.class", Weight::Know, "offsets of consumer groups are not carried over"),
    ("refresh.groups", Weight::Know, "offsets of consumer groups are not carried over"),
    (
        "emit.offset-syncs",
        Weight::Know,
        "there is no topic of offset syncs: progress is the consumer group diffluent.<region> in the local cluster",
    ),
    (
        "offset-syncs.",
        Weight::Know,
        "there is no topic of offset syncs: progress is the consumer group diffluent.<region> in the local cluster",
    ),
    ("offset.lag.max", Weight::Know, "there is no topic of offset syncs: progress is committed every second"),
    ("emit.heartbeats", Weight::Know, "no heartbeats are needed: the lag is measured at the logs themselves"),
    ("heartbeats.", Weight::Know, "no heartbeats are needed: the lag is measured at the logs themselves"),
    (
        "sync.topic.configs",
        Weight::Decide,
        "settings of topics are not carried over: `diffluent check` tells which differ, kafka-configs sets them",
    ),
    ("config.propert", Weight::Know, "settings of topics are not carried over"),
    ("use.defaults.from", Weight::Know, "settings of topics are not carried over"),
    ("sync.topic.acls", Weight::Decide, "ACLs are not carried over: set them in the region with kafka-acls"),
    ("refresh.topics", Weight::Know, "new topics and partitions are found within seconds ([mirror] metadata_interval)"),
    (
        "transforms",
        Weight::Decide,
        "records are mirrored byte for byte: what changes them has to stay in Kafka Connect, or in the producers and consumers",
    ),
    ("predicates", Weight::Decide, "records are mirrored byte for byte"),
    (
        "topic.filter.class",
        Weight::Decide,
        "which topics a class of your own selects is not known here: write it as topics and exclude_topics",
    ),
    (
        "forwarding.admin.class",
        Weight::Decide,
        "topics are created by the region's own brokers: create them by your own means where they may not",
    ),
    ("security.protocol", Weight::Know, "nothing is mirrored from or to this cluster by this client"),
    ("ssl.", Weight::Know, "TLS here is 1.2 and 1.3 with the usual suites; the files are those of `tls`"),
    ("sasl.", Weight::Know, "logging in to this cluster is set by `sasl`, and needs nothing else"),
    ("tasks.max", Weight::Know, "one process mirrors all partitions; more share them"),
    ("exactly.once.source.support", Weight::Know, "each record arrives once, always"),
    ("isolation.level", Weight::Know, "what a transaction aborted is never mirrored"),
    ("admin.timeout.ms", Weight::Know, "see [proxy] dial_timeout"),
    (
        "client.id",
        Weight::Know,
        "diffluent's client id is \"diffluent\": quotas of brokers go by it, limits of its own are rate_limit and catch_up_rate_limit of a region",
    ),
    ("config.providers", Weight::Know, "is Kafka Connect's; secrets here are in files or in the environment"),
    ("metric", Weight::Know, "metrics are at /metrics of the admin port, for Prometheus"),
    ("auto.include.jmx.reporter", Weight::Know, "metrics are at /metrics of the admin port, for Prometheus"),
    (
        "auto.offset.reset",
        Weight::Know,
        "counts in MirrorMaker only for a cluster or a flow; here it is `start` of a region",
    ),
];

/// What Kafka Connect and its clients need, and diffluent does not.
const CONNECT: &[&str] = &[
    "offset.storage",
    "config.storage",
    "status.storage",
    "key.converter",
    "value.converter",
    "header.converter",
    "group.id",
    "rest.",
    "listeners",
    "dedicated.mode",
    "plugin.",
    "scheduled.rebalance",
    "rebalance.",
    "offset.flush",
    "connector.",
    "worker.",
    "task.",
    "name",
    "errors.",
    "heartbeat.interval",
    "session.timeout",
    "connect.protocol",
    "inter.worker",
    "access.control",
    "admin.listeners",
];

/// How Kafka's clients batch, buffer and wait.
const TUNING: &str = "tunes a client that is not used here: batches are sent as they are, and `window` of a region says how much is on its way";

/// What there is to say about a property that nothing was made of.
pub(super) fn note(key: &str, property: &Property, clusters: &[String]) -> Note {
    let name = bare(key, clusters);
    let off = property.value.trim().eq_ignore_ascii_case("false");
    let (weight, what) = match KNOWN.iter().find(|(start, ..)| name.starts_with(start)) {
        // What is switched off is not missed.
        Some((_, Weight::Decide, what)) if off && name.ends_with(".enabled") => (Weight::Know, *what),
        Some((_, weight, what)) => (*weight, *what),
        None if CONNECT.iter().any(|start| name.starts_with(start)) => {
            (Weight::Know, "is Kafka Connect's: there are no workers, connectors and tasks here")
        }
        None if is_client(key, clusters) => (Weight::Know, TUNING),
        None => (Weight::Know, "MirrorMaker 2 does nothing with it that is known here"),
    };
    Note { weight, line: property.line, key: key.to_owned(), what: what.to_owned() }
}

/// What MirrorMaker does unless it is told otherwise, and diffluent does not.
pub(super) fn defaults(properties: &BTreeMap<String, Property>, any: bool) -> Vec<Note> {
    let unsaid = |name: &str| !properties.keys().any(|key| key.ends_with(name));
    let mut notes = Vec::new();
    if any && unsaid("sync.topic.configs.enabled") {
        notes.push(Note::decide(
            0,
            "sync.topic.configs.enabled",
            "is true unless the file says otherwise: MirrorMaker carries settings of topics over, and diffluent does not; `diffluent check` tells which differ",
        ));
    }
    if any && unsaid("sync.topic.acls.enabled") {
        notes.push(Note::know(
            0,
            "sync.topic.acls.enabled",
            "is true unless the file says otherwise: where the source has ACLs, MirrorMaker carries those for reading over, and diffluent does not",
        ));
    }
    notes
}

/// The name behind whom it is for.
fn bare<'a>(key: &'a str, clusters: &[String]) -> &'a str {
    let mut name = key;
    if let Some((_, rest)) = key.split_once("->") {
        name = rest.split_once('.').map_or(rest, |(_, name)| name);
    } else if let Some(rest) = clusters.iter().find_map(|cluster| key.strip_prefix(cluster)?.strip_prefix('.')) {
        name = rest;
    }
    for client in ["source.", "target.", "producer.", "consumer.", "admin.", "producer.override.", "consumer.override."]
    {
        // Longer names of MirrorMaker's own begin so, too.
        if name != "admin.timeout.ms" {
            name = name.strip_prefix(client).unwrap_or(name);
        }
    }
    name
}

fn is_client(key: &str, clusters: &[String]) -> bool {
    let of_cluster = clusters.iter().any(|cluster| key.strip_prefix(cluster).is_some_and(|rest| rest.starts_with('.')));
    of_cluster || ["producer.", "consumer.", "admin."].iter().any(|client| key.contains(client))
}
