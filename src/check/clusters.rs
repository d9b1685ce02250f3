//! Asks one cluster: who answers, which versions, what is in it. Changes nothing there.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::{FindCoordinatorRequest, MetadataRequest};
use kafka_protocol::protocol::StrBytes;
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::rights::{self, AllowedTopics};
use crate::client::apis::{Call, NEEDED};
use crate::client::cluster::{Cluster, Metadata};
use crate::client::connection::{Connection, Traffic};
use crate::client::error_code::GROUP_AUTHORIZATION_FAILED;
use crate::client::rights::{Operation, Right, is_denial};
use crate::client::{ClientError, Reach};
use crate::config::HostPort;
use crate::net::tls::TlsFacts;
use crate::net::{Dialer, Stream};

/// What one address said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It speaks Kafka; these APIs are missing in the version that diffluent speaks.
    Works {
        /// Names with the version needed.
        missing: Vec<Missing>,
        /// What its handshake came to, where it speaks TLS.
        tls: Option<TlsFacts>,
    },
    /// It speaks Kafka, but has no topics: a KRaft controller.
    NoBroker,
    /// Its name can't be looked up.
    NoSuchHost(String),
    /// It does not let diffluent in.
    Refuses {
        /// Why.
        why: String,
        /// What to do.
        advice: String,
    },
    /// It does not answer, or not as a broker.
    Fails(String),
}

/// A call that a broker does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    pub api: &'static str,
    pub needed: i16,
    /// The versions that it knows.
    pub known: Option<(i16, i16)>,
}

/// What one cluster said.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// Each bootstrap server's answer.
    pub bootstrap: Vec<(String, Answer)>,
    /// What the cluster says about itself, or why it does not.
    pub metadata: Option<Result<Arc<Metadata>, String>>,
    /// Brokers by the address that they advertise: these must be reachable too.
    pub brokers: Vec<(i32, String, Answer)>,
    /// A way to ask it more, where it answered.
    pub cluster: Option<Arc<Cluster>>,
    /// Groups whose coordinator was asked for, and what went wrong.
    pub groups: Vec<(String, Option<GroupTrouble>)>,
    /// What may be done with its topics.
    pub allowed: AllowedTopics,
}

/// Why a group's coordinator is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum GroupTrouble {
    /// Its topic is being created, or its broker is starting.
    NotYet(String),
    /// A right is missing.
    Denied {
        /// Which.
        what: String,
        /// The command that grants it.
        advice: String,
    },
    /// Refused, or not answered.
    Fails(String),
}

/// Whom to ask for what.
#[derive(Clone, Debug)]
pub(super) struct Question {
    /// The cluster's name in the configuration.
    pub name: String,
    /// Its bootstrap servers.
    pub servers: Vec<HostPort>,
    /// How it is reached.
    pub reach: Reach,
    /// The same way, to see what TLS comes to.
    pub dialer: Dialer,
    /// Groups that are kept there.
    pub groups: Vec<String>,
    /// Topics that must be there by name.
    pub topics: Vec<Arc<str>>,
}

impl Found {
    /// The cluster's metadata, where it answered.
    pub fn metadata(&self) -> Option<&Metadata> {
        self.metadata.as_ref()?.as_ref().ok().map(Arc::as_ref)
    }
}

/// Kafka's COORDINATOR_LOAD_IN_PROGRESS and COORDINATOR_NOT_AVAILABLE.
const COORDINATOR_SOON: [i16; 2] = [14, 15];

pub(super) async fn ask(question: &Question, deadline: Duration) -> Found {
    let name: Arc<str> = Arc::from(question.name.as_str());
    let ways = (&question.reach, &question.dialer);
    let mut found = Found::default();
    for (server, answer) in all(ways, &name, question.servers.clone(), deadline).await {
        found.bootstrap.push((server.to_string(), answer));
    }
    let working: Vec<String> = found
        .bootstrap
        .iter()
        .filter(|(_, answer)| matches!(answer, Answer::Works { .. }))
        .map(|(server, _)| server.clone())
        .collect();
    if working.is_empty() {
        return found;
    }
    let cluster = Cluster::new(&name, working, question.reach.clone(), deadline, Arc::<Traffic>::default());
    cluster.expect(question.topics.iter().cloned());
    let metadata = match cluster.refresh().await {
        Ok(metadata) => metadata,
        Err(error) => {
            found.metadata = Some(Err(reason(&error)));
            return found;
        }
    };
    let addresses: Vec<HostPort> =
        metadata.brokers.values().map(|(host, port)| HostPort::new(host.clone(), *port)).collect();
    let answers = all(ways, &name, addresses, deadline).await;
    for (node_id, (address, answer)) in metadata.brokers.keys().zip(answers) {
        found.brokers.push((*node_id, address.to_string(), answer));
    }
    found.metadata = Some(Ok(metadata));
    // Who does not tell them has none.
    found.allowed = rights::topics(&cluster).await.unwrap_or_default();
    for group in &question.groups {
        found.groups.push((group.clone(), group_trouble(&cluster, group).await));
    }
    found.cluster = Some(cluster);
    found
}

/// Brokers that are tried at the same time.
const AT_ONCE: usize = 32;

/// Tries all addresses, in their order.
async fn all(
    (reach, dialer): (&Reach, &Dialer),
    name: &Arc<str>,
    addresses: Vec<HostPort>,
    deadline: Duration,
) -> Vec<(HostPort, Answer)> {
    let mut answers = Vec::with_capacity(addresses.len());
    for some in addresses.chunks(AT_ONCE) {
        let mut tasks = Vec::new();
        for address in some {
            let (reach, dialer, name, address) = (reach.clone(), dialer.clone(), Arc::clone(name), address.clone());
            tasks.push(tokio::spawn(async move {
                let answer = try_address((&reach, &dialer), name, &address, deadline).await;
                (address, answer)
            }));
        }
        for (task, address) in tasks.into_iter().zip(some) {
            let failed = |error| (address.clone(), Answer::Fails(format!("the check itself failed: {error}")));
            answers.push(task.await.unwrap_or_else(failed));
        }
    }
    answers
}

async fn try_address(
    (reach, dialer): (&Reach, &Dialer),
    name: Arc<str>,
    address: &HostPort,
    deadline: Duration,
) -> Answer {
    match timeout(deadline, lookup_host((address.host.as_str(), address.port))).await {
        Ok(Ok(mut addresses)) => {
            if addresses.next().is_none() {
                return Answer::NoSuchHost("it has no address".into());
            }
        }
        Ok(Err(error)) => return Answer::NoSuchHost(error.to_string()),
        Err(_) => return Answer::NoSuchHost("the resolver did not answer".into()),
    }
    match Connection::open(reach, name, &address.to_string(), Arc::<Traffic>::default(), deadline).await {
        Ok(connection) if connection.versions(MetadataRequest::KEY).is_none() => Answer::NoBroker,
        Ok(connection) => {
            let tls = match dialer.dial(&address.host, address.port, deadline).await {
                Ok(Stream::Tls(stream)) => Some(stream.facts()),
                _ => None,
            };
            Answer::Works { missing: missing(|key| connection.versions(key)), tls }
        }
        Err(ClientError::Login { source, .. }) => {
            let said = source.to_string();
            let (why, advice) = said.split_once("; ").unwrap_or((&said, "look at the broker's log"));
            Answer::Refuses { why: why.to_owned(), advice: advice.to_owned() }
        }
        Err(error) => Answer::Fails(reason(&error)),
    }
}

/// The calls that a broker with these versions does not know.
pub(super) fn missing(versions: impl Fn(i16) -> Option<(i16, i16)>) -> Vec<Missing> {
    let needed = NEEDED.iter().map(|(api, key, needed)| Missing { api, needed: *needed, known: versions(*key) });
    needed.filter(|call| call.known.is_none_or(|(min, max)| !(min..=max).contains(&call.needed))).collect()
}

async fn group_trouble(cluster: &Cluster, group: &str) -> Option<GroupTrouble> {
    let denied = |code| {
        let denial = cluster.denied(code, Right::group(Operation::Read, group))?;
        let what = format!("{} lacks the right Read on it", denial.principal);
        Some(GroupTrouble::Denied { what, advice: format!("grant it: {}", denial.command()) })
    };
    let request = FindCoordinatorRequest::default().with_key(StrBytes::from_string(group.to_owned())).with_key_type(0);
    match cluster.call_any(&request).await {
        Ok(answer) if answer.error_code == 0 => {
            // The coordinator may be a broker that was not there a moment ago: then nothing is known of the rights.
            let allowed = rights::group(cluster, answer.node_id.0, group).await?;
            if allowed.lacks(Operation::Read) { denied(GROUP_AUTHORIZATION_FAILED) } else { None }
        }
        Ok(answer) if is_denial(answer.error_code) => denied(answer.error_code),
        Ok(answer) => {
            let what = crate::client::error_code::describe(answer.error_code);
            let soon = COORDINATOR_SOON.contains(&answer.error_code);
            Some(if soon { GroupTrouble::NotYet(what) } else { GroupTrouble::Fails(what) })
        }
        Err(error) => Some(GroupTrouble::Fails(reason(&error))),
    }
}

/// The error without the cluster and address, which the report's line names already.
pub(super) fn reason(error: &ClientError) -> String {
    match error {
        ClientError::Connect { source, .. } => source.to_string(),
        ClientError::Broken { source, .. } => format!("it closed the connection: {source}"),
        ClientError::TimedOut { waited, .. } => format!("connected, but no answer within {} ms", waited.as_millis()),
        ClientError::Unreadable { what, .. } => format!("it does not answer as a Kafka broker does: {what}"),
        other => other.to_string(),
    }
}
