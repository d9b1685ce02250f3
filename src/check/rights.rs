//! What a cluster's ACLs let diffluent do, found out without doing it: brokers tell which operations they allow on a topic or group (KIP-430), and
//! validate what is not to be carried out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DescribeGroupsRequest, GroupId, MetadataRequest,
};
use kafka_protocol::protocol::StrBytes;

use super::clusters::Found;
use super::report::{Line, plural, some_of};
use crate::client::ClientError;
use crate::client::cluster::Cluster;
use crate::client::error_code::{self, TOPIC_ALREADY_EXISTS, TOPIC_AUTHORIZATION_FAILED};
use crate::client::rights::{Operation, Right, is_denial};
use crate::mirror::offsets::name;
use crate::mirror::topic_list::MirroredTopic;

/// What validating may take.
const TIMEOUT_MS: i32 = 30_000;

/// The operations that a principal may do, a bit each, by the numbers of Kafka's AclOperation; the smallest number: not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allowed(i32);

impl Allowed {
    /// Whether it is known that `operation` is not among them.
    pub fn lacks(self, operation: Operation) -> bool {
        let code = match operation {
            Operation::Read => 3,
            Operation::Write => 4,
            Operation::Create => 5,
            Operation::Alter => 7,
            Operation::Describe => 8,
            Operation::IdempotentWrite => 12,
        };
        self.0 != i32::MIN && self.0 & (1 << code) == 0
    }
}

/// What a cluster lets diffluent do with a topic.
pub(super) type AllowedTopics = BTreeMap<Arc<str>, Allowed>;

/// Asks for all topics.
pub(super) async fn topics(cluster: &Cluster) -> Result<AllowedTopics, ClientError> {
    let request = MetadataRequest::default()
        .with_topics(None)
        .with_allow_auto_topic_creation(false)
        .with_include_topic_authorized_operations(true);
    let topics = cluster.call_any(&request).await?.topics.into_iter().filter(|topic| topic.error_code == 0);
    Ok(topics
        .filter_map(|topic| Some((Arc::from(topic.name?.as_str()), Allowed(topic.topic_authorized_operations))))
        .collect())
}

/// Asks a group's coordinator. `None` if it can't be told: it does not matter then.
pub(super) async fn group(cluster: &Cluster, coordinator: i32, group: &str) -> Option<Allowed> {
    let request = DescribeGroupsRequest::default()
        .with_groups(vec![GroupId(StrBytes::from_string(group.to_owned()))])
        .with_include_authorized_operations(true);
    let described = cluster.call(coordinator, &request).await.ok()?.groups.into_iter().next()?;
    if is_denial(described.error_code) {
        return Some(Allowed(0));
    }
    (described.error_code == 0).then_some(Allowed(described.authorized_operations))
}

/// What is refused that `diffluent run` would do in a region.
#[derive(Clone, Debug, Default)]
pub(super) struct Refusals {
    /// Rights that are missing, with the topics.
    pub lacking: Vec<(Operation, Vec<Arc<str>>)>,
    /// Topics that can't be created or grown for another reason, each in words.
    pub others: Vec<String>,
}

impl Refusals {
    fn lack(&mut self, operation: Operation, topic: &Arc<str>) {
        match self.lacking.iter_mut().find(|(known, _)| *known == operation) {
            Some((_, topics)) => topics.push(topic.clone()),
            None => self.lacking.push((operation, vec![topic.clone()])),
        }
    }

    fn refused(&mut self, operation: Operation, topic: &Arc<str>, code: i16, said: Option<&str>) {
        if is_denial(code) {
            return self.lack(operation, topic);
        }
        let said: String = said.unwrap_or_default().chars().take(200).collect();
        self.others.push(format!("{topic}: {} {said}", error_code::describe(code)).trim_end().to_owned());
    }

    /// A line for each right that is missing on a cluster, and one for what else is refused.
    pub fn lines(&self, cluster: &Cluster) -> Vec<Line> {
        let mut lines = Vec::new();
        for (operation, topics) in &self.lacking {
            let Some(first) = topics.first() else { continue };
            let Some(denial) = cluster.denied(TOPIC_AUTHORIZATION_FAILED, Right::topic(*operation, first)) else {
                continue;
            };
            let what = format!(
                "{} lacks the right {} on {}: {}",
                denial.principal,
                operation.as_str(),
                plural(topics.len(), "topic"),
                some_of(topics)
            );
            let each = if topics.len() > 1 {
                ", and so for the others (docs/security.md shows how for many at once)"
            } else {
                ""
            };
            lines.push(Line::failure(what, format!("grant it: {}{each}", denial.command())));
        }
        if !self.others.is_empty() {
            lines.push(Line::failure(
                format!(
                    "the region would not create or grow {}: {}",
                    plural(self.others.len(), "topic"),
                    some_of(&self.others)
                ),
                "change the region's policy, or create the topics yourself (kafka-topics)",
            ));
        }
        lines
    }
}

/// What of the local cluster's topics can't be read.
pub(super) fn local(topics: &[&Arc<str>], hidden: impl Iterator<Item = Arc<str>>, allowed: &AllowedTopics) -> Refusals {
    let mut refusals = Refusals::default();
    for topic in hidden {
        refusals.lack(Operation::Read, &topic);
    }
    for topic in topics {
        if allowed.get(*topic).is_some_and(|allowed| allowed.lacks(Operation::Read)) {
            refusals.lack(Operation::Read, topic);
        }
    }
    refusals
}

/// Tries what a region must allow for these topics, without changing anything.
pub(super) async fn region(found: &mut Found, topics: &[MirroredTopic]) -> Refusals {
    let mut refusals = Refusals::default();
    let Some(cluster) = &found.cluster else { return refusals };
    cluster.expect(topics.iter().map(|topic| topic.name_in_region.clone()));
    let Ok(there) = cluster.refresh().await else { return refusals };
    found.metadata = Some(Ok(there.clone()));
    let mut missing = Vec::new();
    let mut small = Vec::new();
    for topic in topics {
        let known = there.topics.get(&topic.name_in_region);
        match known.map(|known| known.partitions.len()) {
            None => missing.push(topic),
            Some(count) if usize::try_from(topic.partitions).is_ok_and(|wanted| count < wanted) => small.push(topic),
            Some(_) => {}
        }
        for operation in [Operation::Write, Operation::Read] {
            if found.allowed.get(&topic.name_in_region).is_some_and(|allowed| allowed.lacks(operation)) {
                refusals.lack(operation, &topic.name_in_region);
            }
        }
    }
    // A cluster that can't be asked this says so elsewhere.
    let _ = create(cluster, &missing, &there.hidden, &mut refusals).await;
    let _ = grow(cluster, &small, &mut refusals).await;
    refusals
}

async fn create(
    cluster: &Cluster,
    topics: &[&MirroredTopic],
    hidden: &BTreeSet<Arc<str>>,
    refusals: &mut Refusals,
) -> Result<(), ClientError> {
    if topics.is_empty() {
        return Ok(());
    }
    let wanted = topics.iter().map(|topic| {
        CreatableTopic::default()
            .with_name(name(&topic.name_in_region))
            .with_num_partitions(topic.partitions)
            .with_replication_factor(-1)
    });
    let request = CreateTopicsRequest::default()
        .with_topics(wanted.collect())
        .with_timeout_ms(TIMEOUT_MS)
        .with_validate_only(true);
    for result in cluster.call_any(&request).await?.topics {
        let topic: Arc<str> = Arc::from(result.name.as_str());
        match result.error_code {
            // It is not told whether the topic is there: to write to it is what takes a right.
            code if hidden.contains(&topic) && (code == TOPIC_ALREADY_EXISTS || is_denial(code)) => {
                refusals.lack(Operation::Write, &topic);
                refusals.lack(Operation::Read, &topic);
            }
            0 | TOPIC_ALREADY_EXISTS => {}
            code => refusals.refused(Operation::Create, &topic, code, result.error_message.as_deref()),
        }
    }
    Ok(())
}

async fn grow(cluster: &Cluster, topics: &[&MirroredTopic], refusals: &mut Refusals) -> Result<(), ClientError> {
    if topics.is_empty() {
        return Ok(());
    }
    let wanted = topics.iter().map(|topic| {
        CreatePartitionsTopic::default()
            .with_name(name(&topic.name_in_region))
            .with_count(topic.partitions)
            .with_assignments(None)
    });
    let request = CreatePartitionsRequest::default()
        .with_topics(wanted.collect())
        .with_timeout_ms(TIMEOUT_MS)
        .with_validate_only(true);
    for result in cluster.call_any(&request).await?.results {
        if result.error_code != 0 {
            let topic: Arc<str> = Arc::from(result.name.as_str());
            refusals.refused(Operation::Alter, &topic, result.error_code, result.error_message.as_deref());
        }
    }
    Ok(())
}
