//! What the clusters' answers mean for this configuration. No I/O.

use super::certificates;
use super::clusters::{Answer, Found, GroupTrouble, Missing};
use super::report::{Line, Section, plural, some_of};
use super::{logins, ports};
use crate::client::cluster::Metadata;
use crate::config::{Cluster, Config, Region, is_of_mirror_maker};

/// Kafka's limit on a topic's name.
const TOPIC_CHARS_MAX: usize = 249;
/// Calls that diffluent does without where it must, and what follows from that.
const OPTIONAL: [(&str, &str); 4] = [
    ("InitProducerId", "works without, unless a region's brokers refuse the producer ids that diffluent writes with"),
    ("DescribeProducers", "works without: whether a stream has written before is found by reading the region's log"),
    (
        "DescribeConfigs",
        "works without: topics are made in a region with that region's defaults, and this check can't tell how topics and brokers are set up",
    ),
    (
        "DescribeQuorum",
        "works without: only this check can't tell the cluster's time (Apache Kafka 3.3 or later with KRaft can)",
    ),
];

pub(super) fn local(config: &Config, found: &Found) -> Section {
    let mut section = Section::new("local cluster");
    let Cluster { bootstrap_servers, tls, sasl, .. } = &config.local;
    reach("[local] bootstrap_servers", tls.is_some(), found, &mut section);
    section.extend(logins::in_the_clear("local", sasl.as_ref(), tls.is_some(), bootstrap_servers, found));
    let Some(metadata) = found.metadata() else { return section };
    section.extend(ports::enough(metadata.brokers.len(), config));
    for (group, trouble) in &found.groups {
        section.push(match trouble {
            None => Line::ok(format!("progress can be kept in the consumer group {group}")),
            Some(GroupTrouble::NotYet(what)) => Line::warning(
                format!("the coordinator of the consumer group {group} is not there yet: {what}"),
                "usual right after a cluster's first start; check again in a minute",
            ),
            Some(GroupTrouble::Denied { what, advice }) => {
                Line::failure(format!("progress can't be kept in the consumer group {group}: {what}"), advice.clone())
            }
            Some(GroupTrouble::Fails(what)) => Line::failure(
                format!("progress can't be kept in the consumer group {group}: {what}"),
                "allow diffluent's principal to read and describe the group (kafka-acls --operation Read --group)",
            ),
        });
    }
    section
}

pub(super) fn region(config: &Config, index: usize, local: &Found, regions: &[Found], found: &Found) -> Section {
    let Some(region) = config.region.get(index) else { return Section::new("region") };
    let mut section = Section::new(format!("region {:?}", region.name.as_str()));
    let Region { bootstrap_servers, tls, sasl, .. } = region;
    reach("this region's bootstrap_servers", tls.is_some(), found, &mut section);
    section.extend(logins::in_the_clear("region", sasl.as_ref(), tls.is_some(), bootstrap_servers, found));
    let Some(there) = found.metadata() else { return section };
    section.extend(identity(config, index, local, regions, there));
    if let Some(here) = local.metadata() {
        section.extend(topics(&config.proxy.name, region, here, there));
    }
    section
}

/// Whether the cluster can be reached: its bootstrap servers, itself, and each broker at the address that it advertises.
fn reach(key: &str, tls: bool, found: &Found, section: &mut Section) {
    let works = |answer: &Answer| matches!(answer, Answer::Works { .. });
    let any = found.bootstrap.iter().any(|(_, answer)| works(answer));
    for (server, answer) in &found.bootstrap {
        let (what, advice) = match answer {
            Answer::Works { tls, .. } => {
                let tls = tls.as_ref().map(certificates::of_broker).unwrap_or_default();
                section.push(Line::ok(format!("{server} answers{tls}")));
                continue;
            }
            Answer::NoSuchHost(why) => {
                (format!("{server} can't be looked up: {why}"), format!("correct the name in {key}, or the resolver"))
            }
            Answer::NoBroker => (
                format!("{server} is a controller, not a broker: it has no topics"),
                format!("name the brokers' own listeners in {key}"),
            ),
            Answer::Refuses { why, advice } => (format!("{server} does not let diffluent in: {why}"), advice.clone()),
            Answer::Fails(why) => (
                format!("{server}: {why}"),
                format!(
                    "see that a broker with a {} listener runs there and is not firewalled, or correct {key}",
                    if tls { "TLS" } else { "plaintext" }
                ),
            ),
        };
        // One that answers is enough to start, but not for long.
        section.push(if any { Line::warning(what, advice) } else { Line::failure(what, advice) });
    }
    let metadata = match &found.metadata {
        None => return,
        Some(Err(why)) => {
            section.push(Line::failure(
                format!("the cluster does not say what is in it: {why}"),
                "diffluent needs Apache Kafka 3.1 or later and the right to describe the cluster and its topics",
            ));
            return;
        }
        Some(Ok(metadata)) => metadata,
    };
    let partitions = || metadata.topics.values().flat_map(|topic| topic.partitions.values());
    let visible = metadata.topics.values().filter(|topic| !topic.internal).count();
    section.push(Line::ok(format!(
        "cluster {}: {}, {}",
        metadata.cluster_id,
        plural(metadata.brokers.len(), "broker"),
        plural(visible, "topic")
    )));
    for (node_id, address, answer) in &found.brokers {
        let why = match answer {
            Answer::Works { tls, .. } => {
                section
                    .extend(tls.as_ref().and_then(|tls| certificates::near_expiry(&format!("broker {node_id}"), tls)));
                continue;
            }
            Answer::NoBroker => "a controller answers there",
            Answer::Refuses { why, .. } | Answer::NoSuchHost(why) | Answer::Fails(why) => why,
        };
        section.push(Line::failure(
            format!("broker {node_id} advertises {address}, which does not work from here: {why}"),
            "correct that broker's advertised.listeners, or the name resolution or routes of this machine",
        ));
    }
    section.extend(versions(found));
    let leaderless = partitions().filter(|leader| leader.node_id < 0).count();
    if leaderless > 0 {
        section.push(Line::warning(
            format!("{} without a leader", plural(leaderless, "partition")),
            "start the brokers that hold them; nothing can be written to them or read from them until then",
        ));
    }
    let under_replicated: usize = metadata.topics.values().map(|topic| topic.under_replicated).sum();
    if under_replicated > 0 {
        section.push(Line::warning(
            format!("{} with too few replicas in sync", plural(under_replicated, "partition")),
            "see which brokers are down or behind (kafka-topics --describe --under-replicated-partitions)",
        ));
    }
}

/// Whether every broker speaks what diffluent speaks; brokers that lack the same are named together.
fn versions(found: &Found) -> Vec<Line> {
    let mut lacks: Vec<(&Missing, Vec<i32>)> = Vec::new();
    for (node_id, _, answer) in &found.brokers {
        let Answer::Works { missing, .. } = answer else { continue };
        for lack in missing {
            match lacks.iter_mut().find(|(known, _)| *known == lack) {
                Some((_, brokers)) => brokers.push(*node_id),
                None => lacks.push((lack, vec![*node_id])),
            }
        }
    }
    if lacks.is_empty() {
        return vec![Line::ok("its brokers speak all that diffluent needs")];
    }
    lacks.into_iter().map(|(lack, brokers)| unsupported(lack, &brokers)).collect()
}

fn unsupported(lack: &Missing, brokers: &[i32]) -> Line {
    let Missing { api, needed, known } = lack;
    let known = known.map_or("not at all".to_owned(), |(min, max)| format!("in versions {min} to {max}"));
    let (who, know) = if brokers.len() == 1 { ("broker", "knows") } else { ("brokers", "know") };
    let what = format!("diffluent speaks {api} version {needed}; {who} {} {know} it {known}", some_of(brokers));
    if let Some((_, without)) = OPTIONAL.iter().find(|(name, _)| name == api) {
        Line::warning(what, *without)
    } else {
        Line::failure(what, "use brokers of Apache Kafka 3.1 or later, or compatible ones")
    }
}

/// Whether the region is a cluster of its own.
fn identity(config: &Config, index: usize, local: &Found, regions: &[Found], there: &Metadata) -> Option<Line> {
    let same = |other: &Found| other.metadata().is_some_and(|other| other.cluster_id == there.cluster_id);
    if there.cluster_id.is_empty() {
        return Some(Line::warning("the cluster does not tell its id", "make sure that it is not the local cluster"));
    }
    if same(local) {
        return Some(Line::failure(
            format!("this is the local cluster ({}): it would be mirrored onto itself", there.cluster_id),
            "correct the region's bootstrap_servers; they must not lead to the local cluster or to this proxy",
        ));
    }
    let earlier = regions.iter().zip(&config.region).take(index).find(|(found, _)| same(found))?.1;
    let apart = config.region.get(index).is_some_and(|region| region.topic_name != earlier.topic_name);
    Some(if apart {
        Line::warning(
            format!("this is the same cluster as region {:?}, under other topic names", earlier.name.as_str()),
            "make sure that this is meant",
        )
    } else {
        Line::failure(
            format!("this is the same cluster as region {:?}, with the same topic names", earlier.name.as_str()),
            "remove one of the two, or give one another topic_name",
        )
    })
}

/// What would be mirrored, and how the region's topics fit.
fn topics(origin: &str, region: &Region, here: &Metadata, there: &Metadata) -> Vec<Line> {
    let mut selected: Vec<_> = here
        .topics
        .iter()
        .filter(|(name, topic)| !topic.internal && region.selects(name))
        .map(|(name, topic)| (name.as_ref(), topic.partitions.len()))
        .collect();
    selected.sort_unstable();
    let mut lines = Vec::new();
    let all = here.topics.values().filter(|topic| !topic.internal).count();
    let partitions: usize = selected.iter().map(|(_, partitions)| partitions).sum();
    let found =
        format!("{} of {} will be mirrored, {}", selected.len(), plural(all, "topic"), plural(partitions, "partition"));
    lines.push(if selected.is_empty() && all > 0 {
        let patterns: Vec<String> = region.topics.iter().map(|pattern| format!("{:?}", pattern.to_string())).collect();
        Line::warning(
            format!("none of {} is selected by topics = [{}]", plural(all, "topic"), some_of(&patterns)),
            "correct `topics` if something should be; an expression must match the whole name",
        )
    } else {
        Line::ok(found)
    });

    let was_renamed = |name: &&str| region.was_renamed(name) && !is_of_mirror_maker(name);
    let renamed: Vec<&str> = here.topics.keys().map(AsRef::as_ref).filter(was_renamed).collect();
    if !renamed.is_empty() {
        let names: Vec<String> = renamed.iter().map(ToString::to_string).collect();
        lines.push(Line::ok(format!(
            "{} not mirrored, because the name says that it came from a cluster that this proxy knows: {}",
            plural(renamed.len(), "topic"),
            some_of(&names)
        )));
    }
    let state: Vec<String> = (here.topics.keys().chain(there.topics.keys()))
        .filter(|name| is_of_mirror_maker(name))
        .map(ToString::to_string)
        .collect();
    if !state.is_empty() {
        lines.push(Line::warning(
            format!("MirrorMaker 2 works here or there: {}", some_of(&state)),
            "see that it does not copy topics back under the same names (IdentityReplicationPolicy), or records go round for ever; see docs/topologies.md",
        ));
    }

    let (mut absent, mut fewer, mut more, mut too_long) = (0, Vec::new(), Vec::new(), Vec::new());
    for (name, partitions) in selected {
        let target = region.topic_in_region(origin, name);
        if target.len() > TOPIC_CHARS_MAX {
            too_long.push(target);
            continue;
        }
        match there.topics.get(target.as_str()).map(|topic| topic.partitions.len()) {
            None if there.hidden.contains(target.as_str()) => {}
            None => absent += 1,
            Some(count) if count < partitions => fewer.push(format!("{target} ({count} of {partitions})")),
            Some(count) if count > partitions => more.push(format!("{target} ({count} instead of {partitions})")),
            Some(_) => {}
        }
    }
    if absent > 0 {
        lines.push(Line::ok(format!("{} will be created in the region", plural(absent, "topic"))));
    }
    if !fewer.is_empty() {
        lines.push(Line::warning(
            format!("{} with too few partitions in the region: {}", plural(fewer.len(), "topic"), some_of(&fewer)),
            "diffluent will add the missing ones; what else writes to these topics by key will spread its keys anew",
        ));
    }
    if !more.is_empty() {
        lines.push(Line::warning(
            format!("{} with more partitions in the region than here: {}", plural(more.len(), "topic"), some_of(&more)),
            "records keep their partition's number, so the others stay empty",
        ));
    }
    if !too_long.is_empty() {
        lines.push(Line::failure(
            format!("{} longer than Kafka allows: {}", plural(too_long.len(), "topic name"), some_of(&too_long)),
            format!("shorten topic_name: {TOPIC_CHARS_MAX} characters at most"),
        ));
    }
    lines
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
