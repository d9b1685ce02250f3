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
    /// The file of a token that somebody else renews.
    pub token_file: Option<String>,
    /// Extensions of OAUTHBEARER.
    pub extensions: Vec<(String, String)>,
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
        let _ = self.client(alias, client, "ssl.keystore.certificate.chain");
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
        let told_in = jaas.as_ref().map_or(&key, |(key, _)| key).clone();
        let jaas = jaas.map(|(_, jaas)| jaas).unwrap_or_default();
        let mut sasl = match mechanism.as_str() {
            "PLAIN" | "SCRAM-SHA-256" | "SCRAM-SHA-512" => {
                let keys = vec![("username", option(&jaas, "username"))];
                login(alias, keys, Some(("password", "PASSWORD")))
            }
            "OAUTHBEARER" => self.oauth(alias, client, &told_in, &jaas),
            other => {
                self.decide(
                    &key,
                    format!("{other} is not spoken here: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 and OAUTHBEARER are"),
                );
                return None;
            }
        };
        for (name, value) in &sasl.keys {
            if value.contains("${") {
                self.decide(
                    &told_in,
                    format!("{name} is what a config provider of Kafka Connect knows: write it itself"),
                );
            }
        }
        if let Some((secret, variable)) = sasl.secrets.first() {
            let told = format!(
                "the secret is not copied: diffluent takes it from the variable {variable}, or from a file ({secret} = {{ file = \"/path\" }})"
            );
            self.decide(&told_in, told);
        }
        sasl.mechanism = mechanism;
        Some(sasl)
    }

    /// Where tokens come from. What Kafka 4.1 has as properties of their own were options of the login module before, and still may be (KIP-1139).
    fn oauth(&mut self, alias: &str, client: &str, told_in: &str, jaas: &str) -> Sasl {
        let endpoint = self.client(alias, client, "sasl.oauthbearer.token.endpoint.url");
        let mut property = |name: &str| Some(self.client(alias, client, &format!("sasl.oauthbearer.{name}"))?.1);
        let client_id = property("client.credentials.client.id").or_else(|| option(jaas, "clientId"));
        let scope = property("scope").or_else(|| option(jaas, "scope"));
        // Not copied; whoever knows the property asks where it went.
        let _ = property("client.credentials.client.secret");
        let mut sasl = match endpoint {
            Some((_, url)) if url.starts_with("file:") => {
                let path = url.trim_start_matches("file:").trim_start_matches('/');
                let mut sasl = login(alias, Vec::new(), None);
                sasl.token_file = Some(format!("/{path}"));
                sasl
            }
            Some((_, url)) => login(
                alias,
                vec![("token_endpoint", Some(url)), ("client_id", client_id), ("scope", scope)],
                Some(("client_secret", "CLIENT_SECRET")),
            ),
            None => {
                self.decide(
                    told_in,
                    "says of no endpoint that gives tokens: set token_endpoint, client_id and client_secret, or token"
                        .to_owned(),
                );
                login(alias, Vec::new(), Some(("token", "TOKEN")))
            }
        };
        sasl.extensions = extensions(jaas);
        sasl
    }
}

/// How diffluent logs in with these keys, as far as they are known, and a secret out of a variable whose name ends as said.
fn login(alias: &str, keys: Vec<(&'static str, Option<String>)>, secret: Option<(&'static str, &str)>) -> Sasl {
    let alias: String =
        alias.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
    Sasl {
        mechanism: String::new(),
        keys: keys.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
        secrets: secret.into_iter().map(|(name, end)| (name, format!("KAFKA_{alias}_{end}"))).collect(),
        token_file: None,
        extensions: Vec::new(),
    }
}

/// Extensions of OAUTHBEARER, which the login module has as options whose names begin with `extension_`.
fn extensions(jaas: &str) -> Vec<(String, String)> {
    let names = Regex::new(r"\bextension_([A-Za-z]+)\s*=")
        .map(|names| names.captures_iter(jaas).map(|name| name[1].to_owned()).collect::<Vec<_>>());
    let value = |name: String| Some((name.clone(), option(jaas, &format!("extension_{name}"))?));
    names.unwrap_or_default().into_iter().filter_map(value).collect()
}

/// An option of a JAAS login module: `username="alice"`.
fn option(jaas: &str, name: &str) -> Option<String> {
    let pattern = format!(r#"\b{}\s*=\s*(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([^\s;"']+))"#, regex::escape(name));
    let found = Regex::new(&pattern).ok()?.captures(jaas)?;
    let value = found.get(1).or(found.get(2)).or(found.get(3))?.as_str();
    Some(value.replace("\\\"", "\"").replace("\\\\", "\\"))
}
