//! What everybody may do on a cluster with an authorizer ([`crate::kafka::ClusterBuilder::authorizer`]).

use anyhow::{Result, bail};
use kafka_protocol::messages::create_acls_request::AclCreation;
use kafka_protocol::messages::delete_acls_request::DeleteAclsFilter;
use kafka_protocol::messages::{CreateAclsRequest, DeleteAclsRequest};
use kafka_protocol::protocol::StrBytes;

use crate::kafka::Admin;

const TOPIC: i8 = 2;
const CLUSTER: i8 = 4;
const LITERAL: i8 = 3;
const DENY: i8 = 2;
const ALLOW: i8 = 3;

/// What is ruled about. A resource about which nothing is ruled is everybody's.
#[derive(Clone, Copy, Debug)]
pub enum On<'a> {
    /// A topic.
    Topic(&'a str),
    /// The cluster.
    Cluster,
}

impl On<'_> {
    fn resource(&self) -> (i8, StrBytes) {
        match self {
            On::Topic(topic) => (TOPIC, StrBytes::from_string((*topic).to_owned())),
            On::Cluster => (CLUSTER, StrBytes::from_static_str("kafka-cluster")),
        }
    }
}

/// An operation, with Kafka's number.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "Kafka's words")]
pub enum Operation {
    All = 2,
    Read = 3,
    Write = 4,
    Create = 5,
}

impl Admin {
    /// Denies everybody an operation, and allows all others.
    ///
    /// # Errors
    /// When the cluster refuses.
    pub async fn deny(&self, on: On<'_>, operation: Operation) -> Result<()> {
        let (kind, name) = on.resource();
        let rule = |operation, permission| {
            AclCreation::default()
                .with_resource_type(kind)
                .with_resource_name(name.clone())
                .with_resource_pattern_type(LITERAL)
                .with_principal(StrBytes::from_static_str("User:*"))
                .with_host(StrBytes::from_static_str("*"))
                .with_operation(operation as i8)
                .with_permission_type(permission)
        };
        let rules = vec![rule(Operation::All, ALLOW), rule(operation, DENY)];
        let answer = self.call(&CreateAclsRequest::default().with_creations(rules), 3).await?;
        match answer.results.iter().find(|result| result.error_code != 0) {
            None => Ok(()),
            Some(failed) => bail!("cannot deny {operation:?} on {on:?}: {:?}", failed.error_message),
        }
    }

    /// Takes back all that was ruled about a resource.
    ///
    /// # Errors
    /// When the cluster refuses.
    pub async fn allow_all(&self, on: On<'_>) -> Result<()> {
        const ANY: i8 = 1;
        let (kind, name) = on.resource();
        let filter = DeleteAclsFilter::default()
            .with_resource_type_filter(kind)
            .with_resource_name_filter(Some(name))
            .with_pattern_type_filter(LITERAL)
            .with_principal_filter(None)
            .with_host_filter(None)
            .with_operation(ANY)
            .with_permission_type(ANY);
        let answer = self.call(&DeleteAclsRequest::default().with_filters(vec![filter]), 3).await?;
        match answer.filter_results.iter().find(|result| result.error_code != 0) {
            None => Ok(()),
            Some(failed) => bail!("cannot take the rules on {on:?} back: {:?}", failed.error_message),
        }
    }
}
