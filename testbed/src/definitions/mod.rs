//! Kafka's own message definitions, as the release under test ships them, and a codec that follows them.
//!
//! Every release's clients jar holds the JSON files that its messages are generated from. A test that reads them knows each API and each
//! version of that release, older and newer than any crate's; requests are written as JSON by field name, and answers are compared so.
//!
//! Slow and generous by design: what is read are the answers of brokers that the test has started itself.

mod codec;
mod parse;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use serde_json::Value;

use crate::kafka::Kafka;

/// Where an answer has tagged fields that its definition does not know, they stand under this name, by number.
pub const UNKNOWN_TAGS: &str = "_tags";

/// A range of versions, both ends in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    min: i16,
    max: i16,
}

impl Versions {
    /// Whether `version` is in the range.
    pub fn contains(self, version: i16) -> bool {
        (self.min..=self.max).contains(&version)
    }
}

/// A field's type.
#[derive(Clone, Debug)]
enum Kind {
    Bool,
    Int8,
    Int16,
    Uint16,
    Int32,
    Int64,
    Float64,
    Uuid,
    String,
    /// Bytes and record batches: hexadecimal in JSON.
    Bytes,
    Array(Box<Kind>),
    Struct(Vec<Field>),
}

/// A field of a message or of a struct in it.
#[derive(Clone, Debug)]
struct Field {
    name: String,
    kind: Kind,
    versions: Versions,
    nullable: Versions,
    /// Its number, and the versions in which it is a tagged field (KIP-482).
    tag: Option<(u32, Versions)>,
    default: Option<Value>,
}

/// A request or an answer, in all its versions.
#[derive(Clone, Debug)]
struct Message {
    on_brokers: bool,
    versions: Versions,
    flexible: Versions,
    fields: Vec<Field>,
}

/// A field of a struct that also has a host, by the path of names that leads to it from the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressField {
    /// Such as `Brokers.Host`.
    pub path: String,
    /// The versions that have it.
    pub versions: std::ops::RangeInclusive<i16>,
}

/// An API of a release.
#[derive(Clone, Debug)]
pub struct Api {
    /// Its key.
    pub key: i16,
    /// Its name, such as `Fetch`.
    pub name: String,
    /// Whether brokers serve it to clients, not only controllers to brokers.
    pub on_brokers: bool,
    request: Message,
    response: Message,
}

impl Api {
    /// Whether the release has this version.
    pub fn has(&self, version: i16) -> bool {
        self.request.versions.contains(version)
    }

    /// Whether requests and answers of this version have tagged fields (KIP-482).
    pub fn is_flexible(&self, version: i16) -> bool {
        self.request.flexible.contains(version)
    }

    /// The body of a request: `fields` by name, the others with their defaults. Fields that the version does not have are left out, so
    /// that one body serves all versions and releases.
    ///
    /// # Errors
    /// When a field is of another type.
    pub fn encode(&self, version: i16, fields: &Value) -> Result<Bytes> {
        codec::encode(&self.request, version, fields).with_context(|| format!("{} v{version}: {fields}", self.name))
    }

    /// Checks that every name in `fields` is that of a field of the request in some version.
    ///
    /// # Errors
    /// When one is not: which.
    pub fn check(&self, fields: &Value) -> Result<()> {
        codec::check(&self.request.fields, fields).with_context(|| format!("{}: {fields}", self.name))
    }

    /// The fields of an answer's body by name.
    ///
    /// # Errors
    /// When the bytes are no such answer, or more than that.
    pub fn decode(&self, version: i16, body: &[u8]) -> Result<Value> {
        codec::decode(&self.response, version, body).with_context(|| format!("an answer to {} v{version}", self.name))
    }

    /// The hosts in its answers: strings named `Host` or so, beside a port.
    pub fn answered_hosts(&self) -> Vec<AddressField> {
        let mut found = Vec::new();
        hosts(&self.response.fields, "", self.response.versions, &mut found);
        found
    }
}

fn hosts(fields: &[Field], path: &str, versions: Versions, found: &mut Vec<AddressField>) {
    let has_port = fields.iter().any(|field| field.name.ends_with("Port"));
    for field in fields {
        let path = format!("{path}{}", field.name);
        let here = Versions { min: versions.min.max(field.versions.min), max: versions.max.min(field.versions.max) };
        if here.min > here.max {
            continue;
        }
        let mut kind = &field.kind;
        while let Kind::Array(inner) = kind {
            kind = inner;
        }
        match kind {
            Kind::Struct(inside) => hosts(inside, &format!("{path}."), here, found),
            Kind::String if has_port && field.name.ends_with("Host") => {
                found.push(AddressField { path, versions: here.min..=here.max });
            }
            _ => {}
        }
    }
}

/// All messages of a release.
#[derive(Clone, Debug)]
pub struct Definitions {
    apis: BTreeMap<i16, Api>,
}

impl Definitions {
    /// Reads the definitions out of the clients jar of an installed release.
    ///
    /// # Errors
    /// When the jar or a definition can't be read.
    pub fn of(kafka: &Kafka) -> Result<Self> {
        let path = kafka.dir().join("libs").join(format!("kafka-clients-{}.jar", kafka.version()));
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let mut jar = zip::ZipArchive::new(file).with_context(|| format!("cannot read {}", path.display()))?;
        let mut requests = BTreeMap::new();
        let mut responses = BTreeMap::new();
        for index in 0..jar.len() {
            let mut entry = jar.by_index(index)?;
            let name = entry.name()?.into_owned();
            if !name.starts_with("common/message/") || !name.ends_with(".json") {
                continue;
            }
            let mut text = String::new();
            entry.read_to_string(&mut text).with_context(|| format!("cannot read {name}"))?;
            let parsed = parse::message(&text).with_context(|| format!("cannot understand {name}"))?;
            // Without a version left, an API is gone; without a key it is a record or a header.
            let Some((key, name, message)) = parsed else { continue };
            match (name.strip_suffix("Request"), name.strip_suffix("Response")) {
                (Some(name), _) => drop(requests.insert(key, (name.to_owned(), message))),
                (_, Some(_)) => drop(responses.insert(key, message)),
                _ => bail!("{name} is neither request nor response"),
            }
        }
        let mut apis = BTreeMap::new();
        for (key, (name, request)) in requests {
            let response = responses.remove(&key).with_context(|| format!("{name} has no response"))?;
            apis.insert(key, Api { key, name, on_brokers: request.on_brokers, request, response });
        }
        Ok(Self { apis })
    }

    /// All APIs, by key.
    pub fn apis(&self) -> impl Iterator<Item = &Api> {
        self.apis.values()
    }

    /// The API of this key.
    ///
    /// # Errors
    /// When the release has none.
    pub fn api(&self, key: i16) -> Result<&Api> {
        self.apis.get(&key).with_context(|| format!("this release has no API {key}"))
    }

    /// The API of this name.
    ///
    /// # Errors
    /// When the release has none.
    pub fn named(&self, name: &str) -> Result<&Api> {
        self.apis.values().find(|api| api.name == name).with_context(|| format!("this release has no API {name}"))
    }
}
