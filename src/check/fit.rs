//! Whether clusters are set up so that one can hold what the other does. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use super::report::{Line, plural, some_of};
use super::settings::{Clock, Release, Settings, TOPIC_KEYS};
use crate::client::cluster::Metadata;
use crate::client::configs::Values;
use crate::config::{Config, Region};
use crate::mirror::region::REQUEST_BYTES_MAX;
use crate::mirror::topic_settings::is_taken_over;

/// A clock that is further away than this is worth a word.
const SKEW_MS: i64 = 1_000;
/// Kafka's default of `producer.id.expiration.ms`.
pub(super) const EXPIRATION_MS: i64 = 86_400_000;
/// What a Produce request holds beside its batches, at most: names and numbers of a thousand partitions.
const AROUND_BATCHES: u64 = 512 * 1024;

/// Levels of `metadata.version` with which Apache Kafka's releases begin.
const RELEASES: [(i16, &str); 14] = [
    (1, "3.0"),
    (2, "3.1"),
    (3, "3.2"),
    (4, "3.3"),
    (8, "3.4"),
    (9, "3.5"),
    (12, "3.6"),
    (15, "3.7"),
    (20, "3.8"),
    (21, "3.9"),
    (22, "4.0"),
    (26, "4.1"),
    (28, "4.2"),
    (30, "4.3"),
];

/// What there is to say of a cluster alone.
pub(super) fn cluster(settings: &Settings) -> Vec<Line> {
    let mut lines = vec![releases(&settings.releases)];
    lines.extend(settings.clock.map(clock));
    if let Some(why) = &settings.untold {
        lines.push(Line::warning(
            format!("how it is set up can't be told: {why}"),
            "to have it compared, allow diffluent's principal to describe configurations (kafka-acls --operation DescribeConfigs, --cluster and --topic '*')",
        ));
    }
    lines
}

/// Whether the local brokers take longer requests than the proxy lets through.
pub(super) fn requests(config: &Config, settings: &Settings) -> Option<Line> {
    let limit = config.proxy.frame_limit.bytes();
    let longest = settings.brokers.values().filter_map(|broker| number(broker, "socket.request.max.bytes")).max()?;
    let found = format!("its brokers take requests of up to {longest} bytes");
    Some(if u64::try_from(longest).is_ok_and(|longest| longest > limit) {
        Line::warning(
            format!("{found}, and the proxy of up to {limit}: what lies between is refused by the proxy"),
            "raise [proxy] frame_limit",
        )
    } else {
        Line::ok(found)
    })
}

fn releases(releases: &BTreeMap<i32, Option<Release>>) -> Line {
    let told: BTreeSet<Release> = releases.values().flatten().copied().collect();
    let silent = releases.values().filter(|release| release.is_none()).count();
    if told.is_empty() {
        return Line::ok("its brokers don't tell their release: older than 3.3, with ZooKeeper, or not Apache Kafka");
    }
    let software: BTreeSet<&str> = told.iter().map(|release| name(release.software)).collect();
    let software: Vec<&str> = software.into_iter().collect();
    let mut what = format!("its brokers are Apache Kafka {}", software.join(" and "));
    if let Some(in_use) = told.iter().filter_map(|release| release.in_use).min()
        && software != [name(in_use)]
    {
        what += &format!(", working as {}", name(in_use));
    }
    if silent > 0 {
        what += &format!("; {} of {} don't tell", silent, releases.len());
    }
    Line::ok(what)
}

fn name(level: i16) -> &'static str {
    let last = RELEASES.last().map_or(0, |(level, _)| *level);
    match RELEASES.iter().rev().find(|(first, _)| *first <= level) {
        Some(_) if level > last => "newer than 4.3",
        Some((_, name)) => name,
        None => "older than 3.0",
    }
}

fn clock(Clock { ahead_ms, within_ms }: Clock) -> Line {
    let direction = if ahead_ms < 0 { "behind" } else { "ahead of" };
    let found = format!("its clock is {} ms {direction} this machine's, give or take {within_ms} ms", ahead_ms.abs());
    if ahead_ms.abs() > SKEW_MS + within_ms {
        Line::warning(
            found,
            "set the clocks by NTP: lag in seconds is told by the records' times, and brokers refuse records that come from the future",
        )
    } else {
        Line::ok(found)
    }
}

/// Two clusters' settings of the topics that one gets from the other.
pub(super) fn region(
    config: &Config,
    region: &Region,
    (here, settings): (&Metadata, &Settings),
    (there, settings_there): (&Metadata, &Settings),
) -> Vec<Line> {
    let names: Vec<(&str, String)> = here
        .topics
        .iter()
        .filter(|(name, topic)| !topic.internal && region.selects(name))
        .map(|(name, _)| (name.as_ref(), region.topic_in_region(&config.proxy.name, name)))
        .collect();
    let mut pairs: Vec<(&str, &Values, &Values)> = names
        .iter()
        .filter_map(|(name, target)| Some((*name, settings.topics.get(*name)?, settings_there.topics.get(target)?)))
        .collect();
    pairs.sort_by_key(|(name, ..)| *name);
    let mut lines: Vec<Line> = TOPIC_KEYS.iter().filter_map(|key| differs(key, &pairs)).collect();
    if lines.is_empty() && !pairs.is_empty() {
        lines.push(Line::ok(format!("{} set up alike on both sides", plural(pairs.len(), "topic"))));
    }
    lines.extend(recompressed(&pairs));
    let new: Vec<&str> =
        names.iter().filter(|(_, target)| !there.topics.contains_key(target.as_str())).map(|(name, _)| *name).collect();
    lines.extend(created(&new, settings, (there, settings_there)));
    lines.extend(too_long(&names, settings, settings_there));
    lines
}

/// How a setting differs, where that matters.
fn differs(key: &str, pairs: &[(&str, &Values, &Values)]) -> Option<Line> {
    let of = |values: &Values| values.get(key).map(|setting| setting.value.clone());
    let mut found: Vec<String> = Vec::new();
    for (topic, here, there) in pairs {
        let (Some(here), Some(there)) = (of(here), of(there)) else { continue };
        if matters(key, &here, &there) {
            found.push(format!("{topic} ({here} here, {there} there)"));
        }
    }
    if found.is_empty() {
        return None;
    }
    let what = format!("{key} differs in {}: {}", plural(found.len(), "topic"), some_of(&found));
    Some(Line::warning(what, advice(key)))
}

fn matters(key: &str, here: &str, there: &str) -> bool {
    let smaller = || there.parse::<i64>().ok() < here.parse::<i64>().ok();
    match key {
        // More room there hurts nobody.
        "max.message.bytes" | "message.timestamp.before.max.ms" | "message.timestamp.after.max.ms" => smaller(),
        // Told apart, and no matter of content.
        "compression.type" | "segment.bytes" => false,
        _ => here != there,
    }
}

fn advice(key: &str) -> String {
    let why = match key {
        "cleanup.policy" => "what a region deletes or compacts is not what is deleted or compacted here",
        "retention.ms" | "retention.bytes" => "the region keeps its copy for another time than the source",
        "max.message.bytes" => "a larger batch is refused there, and stalls its partition",
        "message.timestamp.type" => "with LogAppendTime the region stamps its own time on all records",
        "message.timestamp.before.max.ms" | "message.timestamp.after.max.ms" => {
            "records whose time is further away are refused there, and stall their partition"
        }
        "min.insync.replicas" => "acknowledged means on another number of brokers there",
        _ => "they differ",
    };
    format!(
        "{why}; if that is not meant: kafka-configs --alter --entity-type topics --entity-name TOPIC --add-config {key}=VALUE"
    )
}

/// The compacted topics that the region gets.
pub(super) fn compacted(region: &Region, here: &Metadata, settings: &Settings) -> BTreeSet<String> {
    let compacts = |name: &str| {
        let policy = settings.topics.get(name).and_then(|values| values.get("cleanup.policy"));
        policy.is_some_and(|policy| policy.value.contains("compact"))
    };
    let mirrored = here.topics.iter().filter(|(name, topic)| !topic.internal && region.selects(name));
    mirrored.map(|(name, _)| name.to_string()).filter(|name| compacts(name)).collect()
}

/// What it means that these compacted topics come back from the region.
pub(super) fn mirrored_back(topics: &BTreeSet<String>) -> Option<Line> {
    let names: Vec<&String> = topics.iter().collect();
    (!names.is_empty()).then(|| {
        Line::warning(
            format!("{} compacted and mirrored in both directions: {}", plural(names.len(), "topic"), some_of(&names)),
            "where a key is written on both sides, the two clusters keep different values of it for good: write each key on one side only, or keep the \
             origins apart with topic_name = \"{origin}.{topic}\"; see docs/topologies.md",
        )
    })
}

/// What it means that a region can't tell what is mirrored to it from what is its own.
pub(super) fn handed_out_ids() -> Line {
    Line::warning(
        "the region's brokers refuse the producer ids that tell where records were born: streams write under ids that it handed out",
        "mirror these topics in this direction only: what the region mirrors back comes as if it were its own, and where this cluster's brokers refuse \
         such ids too, it goes round for ever; see docs/topologies.md",
    )
}

/// Brokers that compress again change what is mirrored.
fn recompressed(pairs: &[(&str, &Values, &Values)]) -> Option<Line> {
    let again = |values: &Values| values.get("compression.type").filter(|setting| setting.value != "producer").cloned();
    let topics: Vec<String> =
        pairs.iter().filter_map(|(topic, _, there)| Some(format!("{topic} ({})", again(there)?.value))).collect();
    (!topics.is_empty()).then(|| {
        Line::warning(
            format!("the region's brokers compress {} again: {}", plural(topics.len(), "topic"), some_of(&topics)),
            "the records are the same, their compression is not, and it costs those brokers processor time: compression.type=producer leaves batches as they are",
        )
    })
}

/// What becomes of topics that the region does not have yet.
fn created(new: &[&str], here: &Settings, (there, settings_there): (&Metadata, &Settings)) -> Vec<Line> {
    let mut lines = Vec::new();
    if new.is_empty() {
        return lines;
    }
    let own: Vec<String> = new
        .iter()
        .filter_map(|topic| {
            let own: Vec<String> = (here.topics.get(*topic)?.iter())
                .filter(|(key, setting)| setting.own && !is_taken_over(key, setting))
                .map(|(key, setting)| format!("{key}={}", setting.value))
                .collect();
            (!own.is_empty()).then(|| format!("{topic} ({})", own.join(", ")))
        })
        .collect();
    if !own.is_empty() {
        lines.push(Line::warning(
            format!("{} with settings of their own, which the region's brokers will not know when they are created: {}", plural(own.len(), "topic"), some_of(&own)),
            "create them in the region before, with the same settings (kafka-topics --create --config KEY=VALUE), or set these afterwards",
        ));
    }
    let factors = settings_there.brokers.values().filter_map(|broker| number(broker, "default.replication.factor"));
    if there.brokers.len() > 1 && factors.min() == Some(1) {
        lines.push(Line::warning(
            "topics that are created in the region get one replica (default.replication.factor=1)",
            "set default.replication.factor of the region's brokers, or create the topics before",
        ));
    }
    lines
}

/// Whether the region's brokers take the longest request that diffluent makes: ready batches up to a limit, and one more.
fn too_long(names: &[(&str, String)], here: &Settings, there: &Settings) -> Option<Line> {
    let largest = names.iter().filter_map(|(name, _)| number(here.topics.get(*name)?, "max.message.bytes")).max()?;
    let needed = REQUEST_BYTES_MAX as u64 + AROUND_BATCHES + u64::try_from(largest).unwrap_or(0);
    let limit = there.brokers.values().filter_map(|broker| number(broker, "socket.request.max.bytes")).min()?;
    let limit = u64::try_from(limit).unwrap_or(0);
    (limit < needed).then(|| {
        Line::failure(
            format!("the region's brokers take requests of up to {limit} bytes; with the largest batch that the local cluster takes, diffluent sends up to {needed}"),
            format!("raise socket.request.max.bytes of the region's brokers to {needed} or more"),
        )
    })
}

fn number(values: &Values, key: &str) -> Option<i64> {
    values.get(key)?.value.parse().ok()
}

/// How long the region's brokers remember a producer, milliseconds: the shortest of them.
pub(super) fn expiration_ms(settings: &Settings) -> i64 {
    let told = settings.brokers.values().filter_map(|broker| number(broker, "producer.id.expiration.ms"));
    told.min().unwrap_or(EXPIRATION_MS)
}

/// What `older` than the region's brokers remember means, topics with records.
pub(super) fn backlog(older: &BTreeMap<String, u64>, expiration_ms: i64) -> Option<Line> {
    if older.is_empty() {
        return None;
    }
    let hours = expiration_ms / 3_600_000;
    let topics: Vec<String> = older.iter().map(|(topic, records)| format!("{topic} ({records} records)")).collect();
    Some(Line::warning(
        format!(
            "{} with records that the region does not have and that are older than its brokers remember producers ({hours} h): {}",
            plural(topics.len(), "topic"),
            some_of(&topics)
        ),
        "they arrive in order; but a connection that breaks meanwhile can leave some of them there twice, which is counted and told. To rule it out, raise \
         producer.id.expiration.ms of the region's brokers above the age of the oldest until they are there: \
         kafka-configs --alter --entity-type brokers --entity-default --add-config producer.id.expiration.ms=MILLISECONDS",
    ))
}

#[cfg(test)]
#[path = "fit_tests.rs"]
mod tests;
