//! What a MirrorMaker 2 configuration means: which flows there are, what flows in each, and which of several properties wins.

use std::collections::{BTreeMap, BTreeSet};

use super::properties::Property;
use super::security::Security;
use super::{Note, leftovers};
use crate::config::{HostPort, Name, Start, TopicPattern};

/// What MirrorMaker 2 mirrors where nothing is said.
const TOPICS_DEFAULT: &str = ".*";
/// What it leaves out where nothing is said.
const EXCLUDE_DEFAULT: &str = r".*[\-\.]internal, .*\.replica, __.*";
/// What it never mirrors, whatever is said: topics of Kafka Connect and its own, and those that begin with a dot.
const NEVER: [&str; 2] = [r".*[\-\.]internal", r"\..*"];
/// diffluent never mirrors these.
const INTERNAL: &str = "__.*";

/// A cluster that something is mirrored from.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Source {
    /// What MirrorMaker calls it.
    pub alias: String,
    /// The proxy's name: the alias, as far as that can be one.
    pub name: String,
    pub bootstrap_servers: Vec<String>,
    pub security: Security,
    pub regions: Vec<Target>,
}

/// A cluster that something is mirrored to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Target {
    pub name: String,
    pub bootstrap_servers: Vec<String>,
    pub security: Security,
    /// Empty: none of the expressions can be used.
    pub topics: Vec<String>,
    pub exclude_topics: Vec<String>,
    pub topic_name: Option<String>,
    pub start: Start,
}

/// The properties, and which of them something was made of.
pub(super) struct Read {
    properties: BTreeMap<String, Property>,
    used: BTreeSet<String>,
    pub notes: Vec<Note>,
}

/// The sources with what flows from them, and what there is to say.
pub(super) fn read(properties: BTreeMap<String, Property>) -> (Vec<Source>, Vec<Note>) {
    let mut read = Read { properties, used: BTreeSet::new(), notes: Vec::new() };
    let clusters = read.list("clusters").unwrap_or_default();
    if clusters.len() < 2 {
        read.notes.push(Note::decide(
            read.line("clusters"),
            "clusters",
            "names no two clusters: is this the file that connect-mirror-maker.sh is started with?",
        ));
    }
    let mut sources: Vec<Source> = Vec::new();
    for from in &clusters {
        let regions: Vec<Target> = clusters
            .iter()
            .filter(|to| *to != from && read.enabled(from, to))
            .collect::<Vec<_>>()
            .into_iter()
            .filter_map(|to| read.target(from, to))
            .collect();
        if !regions.is_empty() {
            let (alias, name) = (from.clone(), read.name(from));
            sources.push(Source {
                alias,
                name,
                bootstrap_servers: read.bootstrap(from),
                security: read.security(from, "consumer"),
                regions,
            });
        }
    }
    read.chains(&sources);
    let Read { properties, used, mut notes } = read;
    let left = properties.iter().filter(|(key, _)| !used.contains(*key));
    notes.extend(left.map(|(key, property)| leftovers::note(key, property, &clusters)));
    notes.extend(leftovers::defaults(&properties, !sources.is_empty()));
    (sources, notes)
}

impl Read {
    pub fn line(&self, key: &str) -> usize {
        self.properties.get(key).map_or(0, |property| property.line)
    }

    /// The first of `keys` that is there, by its key and trimmed value. All of them count as used: those behind the first have lost.
    pub fn first(&mut self, keys: &[String]) -> Option<(String, String)> {
        let found = keys.iter().find_map(|key| Some((key.clone(), self.properties.get(key)?.value.trim().to_owned())));
        self.used.extend(keys.iter().filter(|key| self.properties.contains_key(*key)).cloned());
        found
    }

    fn list(&mut self, key: &str) -> Option<Vec<String>> {
        self.first(&[key.to_owned()]).map(|(_, value)| split(&value))
    }

    /// A property of a flow: its own, or else everybody's.
    fn flow(&mut self, from: &str, to: &str, key: &str) -> Option<(String, String)> {
        self.first(&[format!("{from}->{to}.{key}"), key.to_owned()])
    }

    fn enabled(&mut self, from: &str, to: &str) -> bool {
        self.flow(from, to, "enabled").is_some_and(|(_, value)| value.eq_ignore_ascii_case("true"))
    }

    /// An alias as the name of a proxy or region.
    fn name(&mut self, alias: &str) -> String {
        if alias.parse::<Name>().is_ok() {
            return alias.to_owned();
        }
        let name: String =
            alias.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect();
        let name: String = name.chars().take(crate::config::values::NAME_CHARS_MAX).collect();
        let what = format!(
            "the alias {alias:?} can't be a name here and was made {name:?}: topics that carry it get another name too"
        );
        let note = Note::decide(self.line("clusters"), "clusters", what);
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
        name
    }

    fn bootstrap(&mut self, alias: &str) -> Vec<String> {
        let key = format!("{alias}.bootstrap.servers");
        let Some(servers) = self.list(&key) else {
            self.notes.push(Note::decide(0, key, "is missing"));
            return Vec::new();
        };
        let mut good = Vec::new();
        for server in servers {
            // Clients may write the protocol in front, which says nothing.
            let address = server.split_once("://").map_or(server.as_str(), |(_, address)| address);
            match address.parse::<HostPort>() {
                Ok(_) => good.push(address.to_owned()),
                Err(why) => {
                    self.notes.push(Note::decide(self.line(&key), &key, format!("{why}; write it as host:port")))
                }
            }
        }
        good.dedup();
        good
    }

    /// What flows from `from` to `to`; `None` if nothing does.
    fn target(&mut self, from: &str, to: &str) -> Option<Target> {
        let (key, topics) = self.flow(from, to, "topics").unwrap_or(("topics".into(), TOPICS_DEFAULT.into()));
        let topics = split(&topics);
        if topics.is_empty() {
            self.notes.push(Note::know(self.line(&key), key, format!("is empty: nothing flows from {from} to {to}")));
            return None;
        }
        let topics = self.patterns(&key, topics, "no topic is mirrored by it");
        let (topic_name, separator) = self.policy(from, to);
        let mut exclude_topics = self.exclude(from, to);
        if let Some(separator) = separator {
            // What has come from there does not go back.
            let (to, separator) = (regex::escape(to), regex::escape(&separator));
            exclude_topics.push(format!("(.*{separator})?{to}{separator}.*"));
        }
        let mut seen = BTreeSet::new();
        exclude_topics.retain(|pattern| seen.insert(pattern.clone()));
        Some(Target {
            name: self.name(to),
            bootstrap_servers: self.bootstrap(to),
            security: self.security(to, "producer"),
            topics,
            exclude_topics,
            topic_name,
            start: self.start(from, to),
        })
    }

    /// What is left out.
    fn exclude(&mut self, from: &str, to: &str) -> Vec<String> {
        // The second is what the first was called before Kafka 4.
        let keys = [
            format!("{from}->{to}.topics.exclude"),
            format!("{from}->{to}.topics.blacklist"),
            "topics.exclude".to_owned(),
            "topics.blacklist".to_owned(),
        ];
        let (key, patterns) = self.first(&keys).unwrap_or(("topics.exclude".into(), EXCLUDE_DEFAULT.into()));
        let patterns = split(&patterns).into_iter().filter(|pattern| pattern != INTERNAL).collect();
        let mut patterns = self.patterns(&key, patterns, "topics that it leaves out are mirrored");
        patterns.extend(NEVER.map(str::to_owned));
        // MirrorMaker's own, in every cluster that it has run in.
        patterns.push(r"(.*\.)?heartbeats".to_owned());
        patterns
    }

    /// Those that can be used. Java's expressions can look around and refer back; those here need time in proportion to a name's length.
    fn patterns(&mut self, key: &str, patterns: Vec<String>, otherwise: &str) -> Vec<String> {
        let mut good = Vec::new();
        for pattern in patterns {
            match pattern.parse::<TopicPattern>() {
                Ok(_) => good.push(pattern),
                Err(why) => {
                    let what = format!("{why}, which Java takes; write it in another way, or {otherwise}");
                    self.notes.push(Note::decide(self.line(key), key, what));
                }
            }
        }
        good
    }

    /// `topic_name`, and what separates the origin from the topic in names that carry it.
    fn policy(&mut self, from: &str, to: &str) -> (Option<String>, Option<String>) {
        let class = self.flow(from, to, "replication.policy.class");
        let separator = self.flow(from, to, "replication.policy.separator").map_or(".".to_owned(), |(_, value)| value);
        // Only says where MirrorMaker's own topics are.
        let _ = self.flow(from, to, "replication.policy.internal.topic.separator.enabled");
        let name =
            class.as_ref().map_or("DefaultReplicationPolicy", |(_, class)| class.rsplit('.').next().unwrap_or(class));
        match name {
            "DefaultReplicationPolicy" => (Some(format!("{{origin}}{separator}{{topic}}")), Some(separator)),
            "IdentityReplicationPolicy" => (None, None),
            other => {
                let key = class.as_ref().map_or("replication.policy.class", |(key, _)| key);
                let what = format!(
                    "what {other} calls topics is not known here: set topic_name, or leave it out for the same name"
                );
                self.notes.push(Note::decide(self.line(key), key, what));
                (None, None)
            }
        }
    }

    fn start(&mut self, from: &str, to: &str) -> Start {
        const RESET: &str = "consumer.auto.offset.reset";
        let keys = [format!("{from}->{to}.source.{RESET}"), format!("{from}->{to}.{RESET}"), format!("{from}.{RESET}")];
        match self.first(&keys) {
            Some((_, value)) if value.eq_ignore_ascii_case("latest") => Start::Latest,
            Some((key, value)) if !value.eq_ignore_ascii_case("earliest") => {
                let what = format!("{value:?} has no counterpart, \"earliest\" was taken; \"latest\" is the other");
                self.notes.push(Note::decide(self.line(&key), key, what));
                Start::Earliest
            }
            _ => Start::Earliest,
        }
    }

    /// What comes from one cluster and goes on to the next is another matter than what is born there.
    fn chains(&mut self, sources: &[Source]) {
        for source in sources {
            let into = sources.iter().filter(|other| other.regions.iter().any(|region| region.name == source.name));
            for other in into {
                let onward = source.regions.iter().filter(|region| region.name != other.name);
                for region in onward {
                    let (first, middle, last) = (&other.name, &source.name, &region.name);
                    let direct = other.regions.iter().any(|region| region.name == *last);
                    let key = format!("{first}->{middle}, {middle}->{last}");
                    self.notes.push(if direct {
                        Note::know(0, key, format!("MirrorMaker brings what was born in {first} to {last} on both ways; here it comes from {first} alone"))
                    } else {
                        Note::decide(0, key, format!("what was born in {first} is not sent on from {middle} to {last}: add {last} as a region of {first}'s proxy"))
                    });
                }
            }
        }
    }
}

/// A list as Kafka reads it.
fn split(value: &str) -> Vec<String> {
    value.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}
