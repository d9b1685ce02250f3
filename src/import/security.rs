//! How MirrorMaker's clients reach a cluster: TLS and SASL, as far as both sides know it.
//!
//! # References
//! `SslConfigs` and `SaslConfigs` in Apache Kafka's source; KIP-651 for PEM stores.

use regex::Regex;

use super::Note;
use super::mm2::Read;

/// What `[local.tls]` or `[region.tls]` says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Tls {
    pub ca: Option<String>,
    pub certificate: Option<String>,
    pub key: Option<String>,
}

/// What `[local.sasl]` or `[region.sasl]` says. Secrets come from the environment: they are not copied.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sasl {
    pub mechanism: String,
    /// Keys with their values, ready to be written.
    pub keys: Vec<(&'static str, String)>,
    /// Secrets, by the variable that they are taken from.
    pub secrets: Vec<(&'static str, String)>,
}

/// How a cluster is reached.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Security {
    pub tls: Option<Tls>,
    pub sasl: Option<Sasl>,
}

/// Stores that only Java opens.
fn is_java_store(kind: &str) -> bool {
    !kind.eq_ignore_ascii_case("PEM")
}

impl Read {
    /// A property of the clients of a cluster: of those that MirrorMaker uses it by (`consumer` or `producer`), of the cluster, or of all.
    fn client(&mut self, alias: &str, client: &str, key: &str) -> Option<(String, String)> {
        self.first(&[format!("{alias}.{client}.{key}"), format!("{alias}.{key}"), key.to_owned()])
    }

    fn decide(&mut self, key: &str, what: String) {
        let note = Note::decide(self.line(key), key, what);
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// How `alias` is reached by MirrorMaker's `client`.
    pub(super) fn security(&mut self, alias: &str, client: &str) -> Security {
        let Some((key, protocol)) = self.client(alias, client, "security.protocol") else { return Security::default() };
        let (tls, sasl) = match protocol.to_ascii_uppercase().as_str() {
            "PLAINTEXT" => (false, false),
            "SSL" => (true, false),
            "SASL_PLAINTEXT" => (false, true),
            "SASL_SSL" => (true, true),
            _ => {
                self.decide(&key, format!("{protocol:?} is no protocol that is known here; plaintext was taken"));
                (false, false)
            }
        };
        Security { tls: tls.then(|| self.tls(alias, client)), sasl: if sasl { self.sasl(alias, client) } else { None } }
    }

    fn tls(&mut self, alias: &str, client: &str) -> Tls {
        let mut tls = Tls::default();
        let trust_type = self.client(alias, client, "ssl.truststore.type").map_or("JKS".to_owned(), |(_, kind)| kind);
        let _ = self.client(alias, client, "ssl.truststore.password");
        if let Some((key, store)) = self.client(alias, client, "ssl.truststore.location") {
            if is_java_store(&trust_type) {
                let pem = format!("{store}.pem");
                self.decide(
                    &key,
                    format!("is a store that only Java opens: keytool -list -rfc -keystore {store} > {pem}"),
                );
                tls.ca = Some(pem);
            } else {
                tls.ca = Some(store);
            }
        }
        if let Some((key, _)) = self.client(alias, client, "ssl.truststore.certificates") {
            self.decide(&key, "write these certificates into a file, and name it as `ca`".to_owned());
        }
        let key_type = self.client(alias, client, "ssl.keystore.type").map_or("JKS".to_owned(), |(_, kind)| kind);
        let _ = self.client(alias, client, "ssl.keystore.password");
        let password = self.client(alias, client, "ssl.key.password");
        if let Some((key, store)) = self.client(alias, client, "ssl.keystore.location") {
            if is_java_store(&key_type) {
                let pem = format!("{store}.pem");
                self.decide(&key, format!(
                    "is a store that only Java opens: keytool -importkeystore -srckeystore {store} -destkeystore {store}.p12 -deststoretype PKCS12, \
                     then openssl pkcs12 -in {store}.p12 -nodes -out {pem}"
                ));
                (tls.certificate, tls.key) = (Some(pem.clone()), Some(pem));
            } else {
                if let Some((key, _)) = password {
                    self.decide(&key, format!("a key must not be encrypted here: openssl pkey -in {store}, and guard the file by its rights"));
                }
                (tls.certificate, tls.key) = (Some(store.clone()), Some(store));
            }
        }
        if let Some((key, _)) = self.client(alias, client, "ssl.keystore.key") {
            self.decide(
                &key,
                "write key and certificate into a file, and name it as `key` and `certificate`".to_owned(),
            );
        }
        if let Some((key, algorithm)) = self.client(alias, client, "ssl.endpoint.identification.algorithm")
            && algorithm.is_empty()
        {
            self.decide(&key, "brokers' names are always checked here: give their certificates the names that they advertise, or set server_name".to_owned());
        }
        tls
    }

    fn sasl(&mut self, alias: &str, client: &str) -> Option<Sasl> {
        let (key, mechanism) = self
            .client(alias, client, "sasl.mechanism")
            .unwrap_or_else(|| (format!("{alias}.sasl.mechanism"), "GSSAPI".to_owned()));
        let jaas = self.client(alias, client, "sasl.jaas.config");
        let endpoint = self.client(alias, client, "sasl.oauthbearer.token.endpoint.url");
        let option = |name: &str| jaas.as_ref().and_then(|(_, jaas)| option(jaas, name));
        let variable = |what: &str| {
            let alias: String =
                alias.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
            format!("KAFKA_{alias}_{what}")
        };
        let (names, secret, what) = match mechanism.as_str() {
            "PLAIN" | "SCRAM-SHA-256" | "SCRAM-SHA-512" => {
                ([("username", option("username")), ("token_endpoint", None)], "password", "PASSWORD")
            }
            "OAUTHBEARER" => {
                let endpoint = endpoint.map(|(_, url)| url);
                ([("client_id", option("clientId")), ("token_endpoint", endpoint)], "client_secret", "CLIENT_SECRET")
            }
            other => {
                self.decide(
                    &key,
                    format!("{other} is not spoken here: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 and OAUTHBEARER are"),
                );
                return None;
            }
        };
        let variable = variable(what);
        let jaas_key = jaas.map_or(key, |(key, _)| key);
        self.decide(&jaas_key, format!("the secret is not copied: diffluent takes it from the variable {variable}, or from a file ({secret} = {{ file = \"/path\" }})"));
        let keys = names.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        Some(Sasl { mechanism, keys, secrets: vec![(secret, variable)] })
    }
}

/// An option of a JAAS login module: `username="alice"`.
fn option(jaas: &str, name: &str) -> Option<String> {
    let pattern = format!(r#"\b{}\s*=\s*(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([^\s;"']+))"#, regex::escape(name));
    let found = Regex::new(&pattern).ok()?.captures(jaas)?;
    let value = found.get(1).or(found.get(2)).or(found.get(3))?.as_str();
    Some(value.replace("\\\"", "\"").replace("\\\\", "\\"))
}
