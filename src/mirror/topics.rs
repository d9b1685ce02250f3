//! Topics in a region: made with the source's partition count where they are missing, grown where they are smaller. Never shrunk, never
//! deleted, and nothing else of them is touched. One that is made gets a few settings of the source's ([`super::topic_settings`]); all others, and the replication
//! factor, are the region's defaults.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::{CreatePartitionsRequest, CreateTopicsRequest};
use kafka_protocol::protocol::StrBytes;
use tokio::time::Instant;

use super::offsets::name;
use super::topic_settings;
use crate::client::ClientError;
use crate::client::cluster::{Cluster, Metadata};
use crate::client::error_code;
use crate::client::rights::{Operation, Right, is_denial};

const TIMEOUT_MS: i32 = 30_000;
/// So many partitions are asked for in one request, unless a single topic has more: a controller refuses an operation of more than 10,000 records
/// (POLICY_VIOLATION; `QuorumController.MAX_RECORDS_PER_USER_OP`), where each topic, each partition and each setting is one.
const PARTITIONS_AT_ONCE: usize = 1_000;
/// New topics' leaders are known to all brokers within this time, usually within milliseconds; thousands of partitions take longer, so much each.
const LEADERS_KNOWN_WITHIN: Duration = Duration::from_secs(10);
const LEADER_KNOWN_WITHIN: Duration = Duration::from_millis(5);

/// Keys and values, by the local topic's name.
type Settings = BTreeMap<Arc<str>, Vec<(String, String)>>;

/// A topic that a region shall have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its name in the local cluster.
    pub source: Arc<str>,
    /// It has at least so many partitions.
    pub partitions: i32,
}

/// Makes sure that each topic (by its name in the region) has its partitions, with leaders.
///
/// Returns the topics for which that can't be had, with the reason and what to do.
///
/// # Errors
/// Those of the calls: the region can't be reached.
pub async fn ensure(
    local: &Cluster,
    region: &Cluster,
    wanted: &BTreeMap<Arc<str>, Wanted>,
) -> Result<BTreeMap<Arc<str>, String>, ClientError> {
    let mut refused = BTreeMap::new();
    region.expect(wanted.keys().cloned());
    let metadata = region.refresh().await?;
    let missing: Vec<(&Arc<str>, &Wanted)> =
        wanted.iter().filter(|(topic, _)| !metadata.topics.contains_key(*topic)).collect();
    let small: Vec<(&Arc<str>, &Wanted)> = wanted
        .iter()
        .filter(|(topic, wanted)| {
            metadata.topics.get(*topic).is_some_and(|known| known.partitions.len() < wanted.partitions as usize)
        })
        .collect();
    if missing.is_empty() && small.is_empty() {
        return Ok(refused);
    }
    if !missing.is_empty() {
        let settings = settings(local, &missing).await;
        for part in in_parts(&missing) {
            create(region, part, &settings, &metadata.hidden, &mut refused).await?;
        }
    }
    for part in in_parts(&small) {
        grow(region, part, &mut refused).await?;
    }
    let made = missing.iter().chain(&small).map(|(_, wanted)| u32::try_from(wanted.partitions).unwrap_or(0)).sum();
    let deadline = Instant::now() + LEADERS_KNOWN_WITHIN + LEADER_KNOWN_WITHIN * made;
    loop {
        let metadata = region.refresh().await?;
        let waiting: Vec<&Arc<str>> = wanted
            .iter()
            .filter(|(topic, wanted)| {
                !refused.contains_key(*topic) && !has_leaders(&metadata, topic, wanted.partitions)
            })
            .map(|(topic, _)| topic)
            .collect();
        let (hidden, waiting): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|topic| metadata.hidden.contains(*topic));
        for topic in hidden {
            refused.insert(topic.clone(), hidden_reason(region, topic, Operation::Write));
        }
        if waiting.is_empty() {
            return Ok(refused);
        }
        if Instant::now() >= deadline {
            for topic in waiting {
                let why = format!("the partitions of topic {topic} in the region have no leader yet");
                refused.insert(topic.clone(), why);
            }
            return Ok(refused);
        }
    }
}

/// Why a topic is not seen, and what to do: `operation` is what it is needed for, and comes with Describe.
pub fn hidden_reason(cluster: &Cluster, topic: &Arc<str>, operation: Operation) -> String {
    let denial = cluster.denied(error_code::TOPIC_AUTHORIZATION_FAILED, Right::topic(operation, topic));
    denial.map(|denial| denial.to_string()).unwrap_or_default()
}

fn has_leaders(metadata: &Metadata, topic: &str, partitions: i32) -> bool {
    (0..partitions).all(|partition| metadata.leader(topic, partition).is_some())
}

/// The settings that topics take over from the local ones, by these names; none where they can't be asked for.
async fn settings(local: &Cluster, missing: &[(&Arc<str>, &Wanted)]) -> Settings {
    match topic_settings::of(local, missing.iter().map(|(_, wanted)| &wanted.source)).await {
        Ok(settings) => settings,
        Err(error) => {
            tracing::warn!(%error, "the settings of local topics can't be asked for: topics are made with the region's defaults");
            Settings::new()
        }
    }
}

/// Topics in their order, in parts of at most [`PARTITIONS_AT_ONCE`] partitions each; a topic that has more is a part of its own.
fn in_parts<'a, 'b>(
    topics: &'a [(&'b Arc<str>, &'b Wanted)],
) -> impl Iterator<Item = &'a [(&'b Arc<str>, &'b Wanted)]> {
    let mut rest = topics;
    std::iter::from_fn(move || {
        let mut partitions = 0;
        let fitting = rest.iter().take_while(|(_, wanted)| {
            partitions += usize::try_from(wanted.partitions).unwrap_or(0);
            partitions <= PARTITIONS_AT_ONCE
        });
        let (part, others) = rest.split_at(fitting.count().max(1).min(rest.len()));
        rest = others;
        (!part.is_empty()).then_some(part)
    })
}

async fn create(
    region: &Cluster,
    missing: &[(&Arc<str>, &Wanted)],
    settings: &Settings,
    hidden: &BTreeSet<Arc<str>>,
    refused: &mut BTreeMap<Arc<str>, String>,
) -> Result<(), ClientError> {
    let configs = |wanted: &Wanted| {
        let text = |text: &String| StrBytes::from_string(text.clone());
        settings.get(&wanted.source).into_iter().flatten().map(move |(name, value)| {
            CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
        })
    };
    let topics = missing
        .iter()
        .map(|(topic, wanted)| {
            CreatableTopic::default()
                .with_name(name(topic))
                .with_num_partitions(wanted.partitions)
                .with_replication_factor(-1)
                .with_configs(configs(wanted).collect())
        })
        .collect();
    let request = CreateTopicsRequest::default().with_topics(topics).with_timeout_ms(TIMEOUT_MS);
    for result in region.call_any(&request).await?.topics {
        let topic: Arc<str> = Arc::from(result.name.as_str());
        match result.error_code {
            0 => tracing::info!(region = %region.name(), %topic, "created the topic in the region"),
            error_code::TOPIC_ALREADY_EXISTS => {}
            // It may be there, and be hidden: then another right is missing.
            code if is_denial(code) && hidden.contains(&topic) => {
                refused.insert(topic.clone(), hidden_reason(region, &topic, Operation::Write));
            }
            code => {
                let wanted = missing.iter().find(|(name, _)| **name == topic).map(|(_, wanted)| *wanted);
                let partitions = wanted.map_or(1, |wanted| wanted.partitions);
                let settings: String = wanted
                    .and_then(|wanted| settings.get(&wanted.source))
                    .into_iter()
                    .flatten()
                    .map(|(name, value)| format!(" --config {name}={value}"))
                    .collect();
                let by_hand = format!("kafka-topics --create --topic {topic} --partitions {partitions}{settings}");
                let why = match region.denied(code, Right::topic(Operation::Create, &topic)) {
                    Some(denial) => format!("{denial}; or create the topic yourself: {by_hand}"),
                    None => format!(
                        "topic {topic} can't be created in the region: {}{}; allow it, or create the topic yourself: {by_hand}",
                        error_code::describe(code),
                        detail(result.error_message.as_deref()),
                    ),
                };
                refused.insert(topic, why);
            }
        }
    }
    Ok(())
}

async fn grow(
    region: &Cluster,
    small: &[(&Arc<str>, &Wanted)],
    refused: &mut BTreeMap<Arc<str>, String>,
) -> Result<(), ClientError> {
    let topics = small
        .iter()
        .map(|(topic, wanted)| {
            CreatePartitionsTopic::default().with_name(name(topic)).with_count(wanted.partitions).with_assignments(None)
        })
        .collect();
    let request = CreatePartitionsRequest::default().with_topics(topics).with_timeout_ms(TIMEOUT_MS);
    for result in region.call_any(&request).await?.results {
        let topic: Arc<str> = Arc::from(result.name.as_str());
        let partitions = small.iter().find(|(name, _)| **name == topic).map_or(1, |(_, wanted)| wanted.partitions);
        match result.error_code {
            0 => {
                tracing::info!(region = %region.name(), %topic, partitions, "added partitions to the topic in the region")
            }
            code => {
                let by_hand = format!("kafka-topics --alter --topic {topic} --partitions {partitions}");
                let why = match region.denied(code, Right::topic(Operation::Alter, &topic)) {
                    Some(denial) => format!("{denial}; or add the topic's missing partitions yourself: {by_hand}"),
                    None => format!(
                        "topic {topic} has fewer partitions in the region, and none can be added: {}{}; allow it, or add them \
                         yourself: {by_hand}",
                        error_code::describe(code),
                        detail(result.error_message.as_deref()),
                    ),
                };
                refused.insert(topic, why);
            }
        }
    }
    Ok(())
}

/// What the broker says, in one phrase: the remedy follows behind the first semicolon.
fn detail(message: Option<&str>) -> String {
    message.map(|message| format!(" ({})", error_code::phrase(message))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_request_asks_for_more_partitions_than_a_controller_makes_at_once_and_no_topic_is_left_out() {
        let topics: Vec<(Arc<str>, Wanted)> = [400, 600, 1, 999, 1, 5_000, 1, 1_000, 0, 1]
            .into_iter()
            .enumerate()
            .map(|(number, partitions)| {
                let topic: Arc<str> = Arc::from(format!("topic-{number}"));
                (topic.clone(), Wanted { source: topic, partitions })
            })
            .collect();
        let topics: Vec<(&Arc<str>, &Wanted)> = topics.iter().map(|(topic, wanted)| (topic, wanted)).collect();
        let parts: Vec<Vec<i32>> =
            in_parts(&topics).map(|part| part.iter().map(|(_, wanted)| wanted.partitions).collect()).collect();
        assert_eq!(
            parts,
            [vec![400, 600], vec![1, 999], vec![1], vec![5_000], vec![1], vec![1_000, 0], vec![1]],
            "in order, and all of them"
        );
        assert_eq!(in_parts(&[]).count(), 0);
    }
}
