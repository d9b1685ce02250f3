//! What a cluster's ACLs do not let diffluent do: named, with the command that allows it. The one place that knows which error codes say so.
//!
//! Which rights are needed on which side is told in `docs/security.md`; `deploy/acls/` grants them.
//!
//! # References
//! The protocol guide's error codes; the table of operations and resources in Kafka's documentation on authorization.

use std::fmt;
use std::sync::Arc;

use super::error_code::{self, CLUSTER_AUTHORIZATION_FAILED, GROUP_AUTHORIZATION_FAILED, TOPIC_AUTHORIZATION_FAILED};

/// What is done to a resource, as Kafka's ACLs call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Records of a topic; offsets of a group.
    Read,
    /// Records of a topic.
    Write,
    /// A topic that is not there.
    Create,
    /// Partitions of a topic.
    Alter,
    /// That a topic is there, and where.
    Describe,
    /// Batches with a producer id, on brokers before Apache Kafka 2.8.
    IdempotentWrite,
}

impl Operation {
    /// The name that kafka-acls takes.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Read => "Read",
            Operation::Write => "Write",
            Operation::Create => "Create",
            Operation::Alter => "Alter",
            Operation::Describe => "Describe",
            Operation::IdempotentWrite => "IdempotentWrite",
        }
    }
}

/// What something is done to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// A topic, by its name in that cluster.
    Topic(Arc<str>),
    /// A consumer group.
    Group(Arc<str>),
    /// The cluster as a whole.
    Cluster,
}

/// A right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Right {
    /// What is done.
    pub operation: Operation,
    /// To what.
    pub resource: Resource,
}

impl Right {
    /// To do something to a topic.
    pub fn topic(operation: Operation, topic: &Arc<str>) -> Self {
        Self { operation, resource: Resource::Topic(topic.clone()) }
    }

    /// To do something to a consumer group.
    pub fn group(operation: Operation, group: &str) -> Self {
        Self { operation, resource: Resource::Group(Arc::from(group)) }
    }
}

/// Whether an error code says that a right is missing.
pub fn is_denial(code: i16) -> bool {
    /// On a transactional id; diffluent uses none, but whoever is asked may say so.
    const TRANSACTIONAL_ID_AUTHORIZATION_FAILED: i16 = 53;
    matches!(
        code,
        TOPIC_AUTHORIZATION_FAILED
            | GROUP_AUTHORIZATION_FAILED
            | CLUSTER_AUTHORIZATION_FAILED
            | TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    )
}

/// A right that is missing: whose, which, and how to grant it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The cluster's name in the configuration.
    pub cluster: Arc<str>,
    /// Who lacks it, as far as is known.
    pub principal: String,
    /// What is lacking.
    pub right: Right,
    /// The error code that says so.
    pub code: i16,
    /// A broker to grant it at.
    pub server: String,
}

impl Denial {
    /// The missing right that `code` tells of, when `right` was needed.
    pub fn new(cluster: Arc<str>, code: i16, right: Right, principal: String, server: String) -> Self {
        let right = match (code, right.operation) {
            (CLUSTER_AUTHORIZATION_FAILED, Operation::Write) => {
                Right { operation: Operation::IdempotentWrite, resource: Resource::Cluster }
            }
            (CLUSTER_AUTHORIZATION_FAILED, operation) => Right { operation, resource: Resource::Cluster },
            _ => right,
        };
        Self { cluster, principal, right, code, server }
    }

    /// The command that grants it.
    pub fn command(&self) -> String {
        let resource = match &self.right.resource {
            Resource::Topic(topic) => format!("--topic {}", quoted(topic)),
            Resource::Group(group) => format!("--group {}", quoted(group)),
            Resource::Cluster => "--cluster".to_owned(),
        };
        format!(
            "kafka-acls --bootstrap-server {} --command-config admin.properties --add --allow-principal {} --operation {} {resource}",
            self.server,
            quoted(&self.principal),
            self.right.operation.as_str()
        )
    }
}

impl fmt::Display for Denial {
    /// First what is wrong, then, behind a semicolon, what to do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} lacks the right {} on ", self.cluster, self.principal, self.right.operation.as_str())?;
        match &self.right.resource {
            Resource::Topic(topic) => write!(f, "topic {topic}")?,
            Resource::Group(group) => write!(f, "group {group}")?,
            Resource::Cluster => f.write_str("the cluster")?,
        }
        write!(f, ": {}; grant it: {}", error_code::describe(self.code), self.command())
    }
}

/// As one word of a shell.
fn quoted(word: &str) -> String {
    if word.chars().all(|c| c.is_ascii_alphanumeric() || "-._:/@=".contains(c)) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_right_is_named_with_whose_it_is_and_the_command_that_grants_it() {
        let orders = Arc::from("orders");
        let denial =
            |code, right, principal: &str| Denial::new("us".into(), code, right, principal.into(), "kafka:9092".into());
        let write = denial(29, Right::topic(Operation::Write, &orders), "User:diffluent");
        assert_eq!(
            write.to_string(),
            "us: User:diffluent lacks the right Write on topic orders: TOPIC_AUTHORIZATION_FAILED (29); grant it: kafka-acls \
             --bootstrap-server kafka:9092 --command-config admin.properties --add --allow-principal User:diffluent --operation Write \
             --topic orders"
        );
        let group = denial(30, Right::group(Operation::Read, "diffluent.us"), "User:it's me");
        assert!(
            group.command().ends_with("--allow-principal 'User:it'\\''s me' --operation Read --group diffluent.us")
        );
        let cluster = denial(31, Right::topic(Operation::Write, &orders), "User:a");
        assert!(cluster.command().ends_with("--operation IdempotentWrite --cluster"));
        assert!([29, 30, 31, 53].into_iter().all(is_denial) && !is_denial(0) && !is_denial(3));
    }
}
