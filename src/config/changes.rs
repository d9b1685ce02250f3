//! What differs between two configurations, and how each difference takes effect in a running proxy.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::redact::{hide, is_secret};
use super::{Config, Sasl, Secret};

/// How a changed key takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// At once, and disturbs nothing.
    Live,
    /// The region's streams end in order and go on where they were, over new connections. Other regions and clients notice nothing.
    Reconnects,
    /// Only at the next start.
    Restart,
}

impl How {
    /// For docs/configuration.md.
    pub(super) fn words(self) -> &'static str {
        match self {
            How::Live => "takes effect without a restart",
            How::Reconnects => {
                "takes effect without a restart; the region is connected to anew and goes on where it was"
            }
            How::Restart => "needs a restart",
        }
    }
}

use How::{Live, Reconnects, Restart};

/// Every key, and how a change of it takes effect. A table's name stands for all keys in it that are not named themselves.
const KEYS: &[(&str, How)] = &[
    ("proxy.name", Restart),
    ("proxy.instance", Restart),
    ("proxy.listen", Restart),
    ("proxy.advertise", Restart),
    ("proxy.broker_ports", Restart),
    ("proxy.frame_limit", Live),
    ("proxy.connection_limit", Live),
    ("proxy.connection_limit_per_address", Live),
    ("proxy.handshake_timeout", Live),
    ("proxy.first_byte_timeout", Live),
    ("proxy.tls", Restart),
    ("proxy.idle_timeout", Live),
    ("proxy.in_flight_limit", Live),
    ("proxy.dial_timeout", Live),
    ("proxy.drain_timeout", Live),
    ("local.bootstrap_servers", Restart),
    ("local.tls", Restart),
    ("local.sasl", Restart),
    // A region of another name is another region.
    ("region.name", Live),
    ("region.bootstrap_servers", Reconnects),
    ("region.tls", Reconnects),
    ("region.sasl", Reconnects),
    // The other proxies of the local cluster must hear of it.
    ("region.topics", Reconnects),
    ("region.exclude_topics", Reconnects),
    ("region.start", Live),
    ("region.paused", Live),
    ("region.paused_topics", Live),
    ("region.on_region_topic_lost", Live),
    ("region.forward", Reconnects),
    ("region.topic_name", Reconnects),
    ("region.window", Live),
    ("region.rate_limit", Live),
    ("region.catch_up_rate_limit", Live),
    ("mirror.enabled", Restart),
    ("mirror.buffer", Live),
    ("mirror.catch_up_buffer", Live),
    ("mirror.progress_interval", Live),
    ("mirror.log_end_interval", Live),
    ("mirror.metadata_interval", Live),
    ("mirror.session_timeout", Restart),
    ("admin.listen", Restart),
    ("admin.token", Restart),
    ("admin.token_for", Restart),
    ("admin.partition_metrics", Live),
    ("admin.reload_on_change", Live),
    ("admin.history", Live),
];

/// How a change of `key` (as in `region.window`) takes effect; by its table, where it is not named itself.
pub(super) fn how(key: &str) -> Option<How> {
    let mut name = key;
    loop {
        if let Some((_, how)) = KEYS.iter().find(|(known, _)| *known == name) {
            return Some(*how);
        }
        name = name.rsplit_once('.')?.0;
    }
}

/// The keys and tables that have a class of their own.
#[cfg(test)]
pub(super) fn classified() -> impl Iterator<Item = &'static str> {
    KEYS.iter().map(|(key, _)| *key)
}

/// One key that differs; or a region that is new or gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The key with its tables, regions by their names: `region.us-east.window`.
    pub key: String,
    /// What it was; none: not set. Of a secret only whether it was set.
    pub before: Option<Value>,
    /// What it is.
    pub after: Option<Value>,
    /// How it takes effect.
    pub how: How,
    /// The region that it belongs to.
    #[serde(skip)]
    pub region: Option<String>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, before, after, .. } = self;
        match (before, after) {
            (None, Some(Value::Object(_))) => write!(f, "{key} is new"),
            (Some(Value::Object(_)), None) => write!(f, "{key} is gone"),
            (Some(before), Some(after)) if before == after => write!(f, "{key} is another one"),
            _ => {
                let shown = |value: &Option<Value>| value.as_ref().map_or_else(|| "not set".into(), Value::to_string);
                write!(f, "{key}: {}, was {}", shown(after), shown(before))
            }
        }
    }
}

/// The regions that must be connected to anew.
pub fn reconnected(changes: &[Change]) -> BTreeSet<String> {
    changes.iter().filter(|change| change.how == Reconnects).filter_map(|change| change.region.clone()).collect()
}

/// What differs, by key. The order of regions is no difference.
pub fn changes(before: &Config, after: &Config) -> Vec<Change> {
    let mut changes = other_secrets(before, after);
    let (before, after) = (Tables::of(before), Tables::of(after));
    compare("", None, &before.all, &after.all, &mut changes);
    let names: BTreeSet<&String> = before.regions.keys().chain(after.regions.keys()).collect();
    for name in names {
        let key = format!("region.{name}");
        match (before.regions.get(name), after.regions.get(name)) {
            (Some(before), Some(after)) => compare(&key, Some(name), before, after, &mut changes),
            (before, after) => changes.push(Change {
                key,
                before: before.map(shown),
                after: after.map(shown),
                how: Live,
                region: Some(name.clone()),
            }),
        }
    }
    changes
}

/// Secrets that stand in the file itself, and are others than before. As data they look the same, so that nobody sees them.
fn other_secrets(before: &Config, after: &Config) -> Vec<Change> {
    let before: BTreeMap<_, _> = secrets(before).into_iter().map(|(key, _, secret)| (key, secret)).collect();
    let other = secrets(after).into_iter().filter(|(key, _, now)| match (before.get(key), now) {
        (Some(Secret::Text(was)), Secret::Text(now)) => was != now,
        // Where one is, or whether there is one, is data that shows.
        _ => false,
    });
    let told = || Some(Value::from("set"));
    let change = |(key, region, _): (String, Option<&str>, _)| Change {
        how: how(&class(&key, region)).unwrap_or(Restart),
        region: region.map(str::to_owned),
        before: told(),
        after: told(),
        key,
    };
    other.map(change).collect()
}

/// A secret with its key, and the region that it belongs to.
type Held<'a> = (String, Option<&'a str>, &'a Secret);

/// All secrets that are set.
fn secrets(config: &Config) -> Vec<Held<'_>> {
    let mut found = of_login("local".to_owned(), None, config.local.sasl.as_ref());
    for region in &config.region {
        found.extend(of_login(format!("region.{}", region.name), Some(region.name.as_str()), region.sasl.as_ref()));
    }
    found.extend(config.admin.token.as_ref().map(|token| ("admin.token".to_owned(), None, token)));
    found
}

fn of_login<'a>(table: String, region: Option<&'a str>, sasl: Option<&'a Sasl>) -> Vec<Held<'a>> {
    // Without `..`, so that a key that is added is thought about.
    let Some(Sasl {
        mechanism: _,
        username: _,
        password,
        token,
        token_endpoint: _,
        token_endpoint_ca: _,
        client_id: _,
        client_secret,
        scope: _,
        extensions: _,
    }) = sasl
    else {
        return Vec::new();
    };
    let all = [("password", password), ("token", token), ("client_secret", client_secret)].into_iter();
    all.filter_map(|(key, secret)| Some((format!("{table}.sasl.{key}"), region, secret.as_ref()?))).collect()
}

/// The key without the region's name, as [`KEYS`] has it.
fn class(key: &str, region: Option<&str>) -> String {
    region.map_or_else(|| key.to_owned(), |name| key.replacen(&format!(".{name}."), ".", 1))
}

/// A configuration as data: its regions by name, and everything else.
struct Tables {
    all: Value,
    regions: BTreeMap<String, Value>,
}

impl Tables {
    fn of(config: &Config) -> Self {
        let mut all = serde_json::to_value(config).unwrap_or_else(|error| unreachable!("plain data: {error}"));
        let regions = all.as_object_mut().and_then(|tables| tables.remove("region"));
        let regions = config.region.iter().zip(regions.as_ref().and_then(Value::as_array).into_iter().flatten());
        let regions = regions.map(|(region, value)| (region.name.as_str().to_owned(), value.clone())).collect();
        Self { all, regions }
    }
}

fn shown(value: &Value) -> Value {
    let mut value = value.clone();
    hide(&mut value);
    value
}

fn compare(path: &str, region: Option<&String>, before: &Value, after: &Value, changes: &mut Vec<Change>) {
    let (Some(old), Some(new)) = (before.as_object(), after.as_object()) else { return };
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for key in keys {
        let (before, after) = (old.get(key), new.get(key));
        if before == after {
            continue;
        }
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        if let (Some(before @ Value::Object(_)), Some(after @ Value::Object(_))) = (before, after) {
            compare(&path, region, before, after, changes);
            continue;
        }
        let class = class(&path, region.map(String::as_str));
        let told = |value: &Value| match is_secret(key) {
            true => Value::from("set"),
            false => shown(value),
        };
        changes.push(Change {
            before: before.filter(|value| !value.is_null()).map(told),
            after: after.filter(|value| !value.is_null()).map(told),
            // What nobody has thought about is not done while clients are served; a test sees to it that there is no such key.
            how: how(&class).unwrap_or(Restart),
            key: path,
            region: region.cloned(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
[proxy]
name = "eu-west"
listen = "127.0.0.1:9092"
advertise = "127.0.0.1"
broker_ports = "9100-9199"
[local]
bootstrap_servers = ["127.0.0.1:19092"]
[[region]]
name = "us-east.1"
bootstrap_servers = ["127.0.0.1:29092"]
[[region]]
name = "ap"
bootstrap_servers = ["127.0.0.1:39092"]
"#;

    fn parsed(text: &str) -> Config {
        Config::parse("proxy.toml", text).expect("a configuration")
    }

    /// The changes of a file in which `from` is replaced by `to`, in words.
    fn changed(from: &str, to: &str) -> Vec<(String, How)> {
        assert!(FILE.contains(from), "{from}");
        let found = changes(&parsed(FILE), &parsed(&FILE.replacen(from, to, 1)));
        found.into_iter().map(|change| (change.to_string(), change.how)).collect()
    }

    #[test]
    fn each_difference_is_named_by_its_key_and_region() {
        assert_eq!(changed("eu-west", "eu-west"), []);
        assert_eq!(
            changed("name = \"ap\"", "name = \"ap\"\nrate_limit = \"1 MiB\"\ntopics = [\"a\", \"b\"]"),
            [
                ("region.ap.rate_limit: \"1 MiB\", was not set".to_owned(), Live),
                ("region.ap.topics: [\"a\",\"b\"], was [\".*\"]".to_owned(), Reconnects)
            ]
        );
        assert_eq!(
            changed("127.0.0.1:29092", "127.0.0.1:29093"),
            [(
                "region.us-east.1.bootstrap_servers: [\"127.0.0.1:29093\"], was [\"127.0.0.1:29092\"]".to_owned(),
                Reconnects
            )]
        );
        assert_eq!(
            changed("9100-9199", "9100-9299"),
            [("proxy.broker_ports: \"9100-9299\", was \"9100-9199\"".to_owned(), Restart)]
        );
        assert_eq!(
            changed("name = \"ap\"", "name = \"cn\""),
            [("region.ap is gone".to_owned(), Live), ("region.cn is new".to_owned(), Live)]
        );
    }

    #[test]
    fn the_order_of_regions_is_no_difference() {
        let (head, regions) = FILE.split_once("[[region]]").expect("regions");
        let (first, second) = regions.split_once("[[region]]").expect("two regions");
        let turned = format!("{head}[[region]]{second}[[region]]{first}");
        assert_eq!(changes(&parsed(FILE), &parsed(&turned)), []);
    }

    #[test]
    fn a_secret_is_known_to_have_changed_and_not_shown() {
        let value = |password: &str| serde_json::json!({"sasl": {"username": "me", "password": password}});
        let mut found = Vec::new();
        compare("local", None, &value("hunter2"), &value("hunter3"), &mut found);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].to_string(), "local.sasl.password is another one");
        assert!(!serde_json::to_string(&found).expect("JSON").contains("hunter"));
    }

    /// Every table that may hold a secret, with all of them in it.
    fn with_secrets(secret: &str) -> Config {
        let login = |table: &str, keys: &str| format!("[{table}.sasl]\n{keys}");
        let password = format!("mechanism = \"PLAIN\"\nusername = \"me\"\npassword = \"{secret}\"\n");
        let token = format!("mechanism = \"OAUTHBEARER\"\ntoken = \"{secret}\"\n");
        let asked = format!(
            "mechanism = \"OAUTHBEARER\"\ntoken_endpoint = \"https://idp/token\"\nclient_id = \"me\"\nclient_secret = \"{secret}\"\n"
        );
        let text = FILE
            .replace(
                "[[region]]\nname = \"us-east.1\"",
                &(login("local", &password) + "[[region]]\nname = \"us-east.1\""),
            )
            .replace("[[region]]\nname = \"ap\"", &(login("region", &token) + "[[region]]\nname = \"ap\""));
        parsed(&format!("{text}{}[admin]\ntoken = \"{secret}\"\n", login("region", &asked)))
    }

    #[test]
    fn a_secret_that_stands_in_the_file_is_known_to_be_another_one_and_none_is_forgotten() {
        let (before, after) = (with_secrets("hunter-2-hunter-2"), with_secrets("hunter-3-hunter-3"));
        let found = changes(&before, &after);
        let told: Vec<_> = found.iter().map(|change| (change.to_string(), change.how)).collect();
        assert_eq!(
            told,
            [
                ("local.sasl.password is another one".to_owned(), Restart),
                ("region.us-east.1.sasl.token is another one".to_owned(), Reconnects),
                ("region.ap.sasl.client_secret is another one".to_owned(), Reconnects),
                ("admin.token is another one".to_owned(), Restart),
            ]
        );
        assert_eq!(reconnected(&found), BTreeSet::from(["ap".to_owned(), "us-east.1".to_owned()]));
        assert!(!serde_json::to_string(&found).expect("JSON").contains("hunter"));
        assert_eq!(changes(&before, &with_secrets("hunter-2-hunter-2")), []);
    }

    #[test]
    fn regions_that_are_connected_to_anew_are_named() {
        let new = parsed(&FILE.replace("39092", "39093").replace("ap\"", "ap\"\nwindow = \"1 MiB\""));
        let found = changes(&parsed(FILE), &new);
        assert_eq!(found.len(), 2);
        assert_eq!(reconnected(&found), BTreeSet::from(["ap".to_owned()]));
    }
}
