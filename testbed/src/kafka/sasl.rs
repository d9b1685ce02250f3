//! Clusters that ask who is there: a SASL listener beside the plaintext one, users, and rights.
//!
//! The plaintext listener stays, for the testbed itself: whoever comes there is `User:ANONYMOUS`, and may do everything.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use data_encoding::BASE64URL_NOPAD;
use kafka_protocol::messages::create_acls_request::AclCreation;
use kafka_protocol::messages::delete_acls_request::DeleteAclsFilter;
use kafka_protocol::messages::{CreateAclsRequest, DeleteAclsRequest};
use kafka_protocol::protocol::StrBytes;

use super::admin::Admin;
use super::builder::{ClusterBuilder, Listener};
use super::cluster::Cluster;

/// The name of the SASL listener: [`Cluster::bootstrap_of`] gives its address.
pub const SASL: &str = "SASL";
/// All mechanisms that the listener offers unless it is told otherwise.
pub const MECHANISMS: [&str; 4] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"];

const TOOL_DEADLINE: Duration = Duration::from_secs(60);

impl ClusterBuilder {
    /// Adds the listener [`SASL`] with these mechanisms. `users` (name, password) are known to PLAIN; SCRAM's are made with
    /// [`Cluster::add_scram_user`]; OAUTHBEARER takes whatever [`unsecured_token`] makes.
    pub fn sasl(self, mechanisms: &[&str], users: &[(&str, &str)]) -> Self {
        let module = |name: &str, options: &str| format!("org.apache.kafka.common.security.{name} required{options};");
        let plain: String = users.iter().map(|(user, password)| format!(" user_{user}=\"{password}\"")).collect();
        let mut builder = self.listener(Listener::new(SASL, "SASL_PLAINTEXT"));
        builder = builder.config("listener.name.sasl.sasl.enabled.mechanisms", &mechanisms.join(","));
        for mechanism in mechanisms {
            let jaas = match *mechanism {
                "PLAIN" => module("plain.PlainLoginModule", &plain),
                "OAUTHBEARER" => module("oauthbearer.OAuthBearerLoginModule", ""),
                _ => module("scram.ScramLoginModule", ""),
            };
            let key = format!("listener.name.sasl.{}.sasl.jaas.config", mechanism.to_lowercase());
            builder = builder.config(&key, &jaas);
        }
        builder
    }

    /// Only who has been given a right may do something: see [`Admin::grant`].
    pub fn authorizer(self) -> Self {
        self.config("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer")
            .config("super.users", "User:ANONYMOUS")
    }
}

impl Cluster {
    /// Makes a user known to SCRAM-SHA-256 and SCRAM-SHA-512, with Kafka's own tool.
    ///
    /// # Errors
    /// When the tool fails.
    pub async fn add_scram_user(&self, user: &str, password: &str) -> Result<()> {
        let bootstrap = self.bootstrap();
        // The tool takes one mechanism at a time.
        for (mechanism, iterations) in [("SCRAM-SHA-256", 4096), ("SCRAM-SHA-512", 8192)] {
            let credential = format!("{mechanism}=[iterations={iterations},password={password}]");
            let args = ["--bootstrap-server", &bootstrap, "--alter", "--add-config", &credential];
            let args = [&args[..], &["--entity-type", "users", "--entity-name", user]].concat();
            let done = self.kafka().tool("kafka.admin.ConfigCommand", &args, "", TOOL_DEADLINE).await?;
            if !done.success {
                bail!("kafka-configs could not make user {user}:\n{}{}", done.stdout, done.stderr);
            }
        }
        Ok(())
    }
}

/// A token that brokers without a validator of their own take: a JWT that nobody has signed, for `subject`, for so many seconds (negative: it is
/// too old already).
pub fn unsecured_token(subject: &str, seconds: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()).cast_signed();
    let issued = now.min(now + seconds - 1);
    let claims = format!("{{\"sub\":\"{subject}\",\"iat\":{issued},\"exp\":{}}}", now + seconds);
    format!("{}.{}.", BASE64URL_NOPAD.encode(b"{\"alg\":\"none\"}"), BASE64URL_NOPAD.encode(claims.as_bytes()))
}

/// A right, as Kafka's ACLs have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant<'a> {
    /// `User:name`.
    pub principal: &'a str,
    /// `Read`, `Write`, `Create`, `Alter` or `Describe`.
    pub operation: &'a str,
    /// `topic` or `group`.
    pub kind: &'a str,
    /// The resource's name; with a `*` at its end: all whose names begin so.
    pub name: &'a str,
}

impl Grant<'_> {
    fn codes(&self) -> Result<(i8, i8, i8, StrBytes)> {
        let operations = [("Read", 3), ("Write", 4), ("Create", 5), ("Alter", 7), ("Describe", 8)];
        let operation = operations.iter().find(|(name, _)| *name == self.operation);
        let operation = operation.with_context(|| format!("no operation {}", self.operation))?.1;
        let kind = if self.kind == "group" { 3 } else { 2 };
        let (pattern, name) = match self.name.strip_suffix('*') {
            Some(prefix) if !prefix.is_empty() => (4, prefix),
            _ => (3, self.name),
        };
        Ok((operation, kind, pattern, StrBytes::from_string(name.to_owned())))
    }
}

impl Admin {
    /// Gives rights.
    ///
    /// # Errors
    /// When the cluster refuses.
    pub async fn grant(&self, grants: &[Grant<'_>]) -> Result<()> {
        let mut creations = Vec::new();
        for grant in grants {
            let (operation, kind, pattern, name) = grant.codes()?;
            creations.push(
                AclCreation::default()
                    .with_resource_type(kind)
                    .with_resource_name(name)
                    .with_resource_pattern_type(pattern)
                    .with_principal(StrBytes::from_string(grant.principal.to_owned()))
                    .with_host(StrBytes::from_static_str("*"))
                    .with_operation(operation)
                    .with_permission_type(3),
            );
        }
        let answer = self.call(&CreateAclsRequest::default().with_creations(creations), 3).await?;
        if let Some(refused) = answer.results.iter().find(|result| result.error_code != 0) {
            bail!("cannot grant {grants:?}: error {} {:?}", refused.error_code, refused.error_message);
        }
        Ok(())
    }

    /// Takes a right away.
    ///
    /// # Errors
    /// When the cluster refuses, or there is no such grant.
    pub async fn revoke(&self, grant: Grant<'_>) -> Result<()> {
        let (operation, kind, pattern, name) = grant.codes()?;
        let filter = DeleteAclsFilter::default()
            .with_resource_type_filter(kind)
            .with_resource_name_filter(Some(name))
            .with_pattern_type_filter(pattern)
            .with_principal_filter(Some(StrBytes::from_string(grant.principal.to_owned())))
            .with_host_filter(Some(StrBytes::from_static_str("*")))
            .with_operation(operation)
            .with_permission_type(3);
        let answer = self.call(&DeleteAclsRequest::default().with_filters(vec![filter]), 3).await?;
        let deleted: usize = answer.filter_results.iter().map(|result| result.matching_acls.len()).sum();
        if deleted != 1 {
            bail!("{deleted} grants were deleted for {grant:?}");
        }
        Ok(())
    }
}
