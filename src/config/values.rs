//! The values of proxy.toml that have a unit or a form: each is checked when it is read, and shown as it was written.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use regex::Regex;
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// Longest name of a proxy or region, in characters: it becomes part of group and topic names, which Kafka limits to 249.
pub const NAME_CHARS_MAX: usize = 64;

/// What Kafka allows in a topic's name, and we in ours.
pub(super) fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// Reads a value from a string through [`FromStr`], and says what kind of value belongs here when it is no string.
struct FromText<T> {
    expecting: &'static str,
    value: std::marker::PhantomData<T>,
}

impl<T> FromText<T> {
    fn new(expecting: &'static str) -> Self {
        Self { expecting, value: std::marker::PhantomData }
    }
}

impl<T: FromStr<Err = String>> Visitor<'_> for FromText<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expecting)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

/// `Deserialize` from text and `Serialize` to what `Display` shows.
macro_rules! text_value {
    ($type:ty, $expecting:literal) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(FromText::new($expecting))
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

/// The name of a proxy or region: 1 to [`NAME_CHARS_MAX`] letters, digits, `.`, `_` and `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::ops::Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("a name must not be empty".into());
        }
        if let Some(c) = text.chars().find(|c| !is_name_char(*c)) {
            return Err(format!("{c:?} can't be part of a name: letters, digits, `.`, `_` and `-` can"));
        }
        if text.len() > NAME_CHARS_MAX {
            return Err(format!("a name of {} characters is too long: {NAME_CHARS_MAX} at most", text.len()));
        }
        Ok(Self(text.to_owned()))
    }
}

text_value!(Name, "a name in quotes");

/// A number of bytes, written with its unit: `"64 MiB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

const SIZE_UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl ByteSize {
    /// So many bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// So many mebibytes.
    pub const fn from_mib(mebibytes: u32) -> Self {
        Self((mebibytes as u64) << 20)
    }

    /// In bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// In bytes, as a length in memory; sizes that this machine can't address become the largest that it can.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = SIZE_UNITS
            .into_iter()
            .find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor))
            .unwrap_or(("B", 1));
        write!(f, "{} {unit}", self.0 / factor)
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = number_and_unit(text, "size", "B, KiB, MiB or GiB")?;
        let Some((_, factor)) = SIZE_UNITS.into_iter().find(|(name, _)| *name == unit) else {
            return Err(format!("{unit:?} is not a unit of size: use B, KiB, MiB or GiB"));
        };
        number.checked_mul(factor).map(Self).ok_or_else(|| format!("{text:?} is more bytes than can be counted"))
    }
}

text_value!(ByteSize, "a size with its unit (B, KiB, MiB or GiB), in quotes");

/// Splits `"64 MiB"`; whole numbers only, because `"1.5 GiB"` is better said in MiB.
fn number_and_unit<'a>(text: &'a str, what: &str, units: &str) -> Result<(u64, &'a str), String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    if number.is_empty() || unit.starts_with(['.', ',']) {
        return Err(format!("{text:?} is not a {what}: a whole number and a unit ({units})"));
    }
    if unit.is_empty() {
        return Err(format!("{text:?} has no unit: use {units}"));
    }
    let number = number.parse().map_err(|_| format!("{text:?} is too large"))?;
    Ok((number, unit))
}

/// Durations, written with their unit: `"250 ms"`, `"1 s"`, `"5 min"`. For `#[serde(with = "duration")]`.
pub mod duration {
    use std::time::Duration;

    use super::*;

    struct Written(Duration);

    const UNITS_MS: [(&str, u64); 4] = [("h", 3_600_000), ("min", 60_000), ("s", 1_000), ("ms", 1)];

    impl FromStr for Written {
        type Err = String;

        fn from_str(text: &str) -> Result<Self, String> {
            let (number, unit) = number_and_unit(text, "duration", "ms, s, min or h")?;
            let Some((_, factor)) = UNITS_MS.into_iter().find(|(name, _)| *name == unit) else {
                return Err(format!("{unit:?} is not a unit of time: use ms, s, min or h"));
            };
            let ms = number.checked_mul(factor).ok_or_else(|| format!("{text:?} is too long"))?;
            Ok(Self(Duration::from_millis(ms)))
        }
    }

    /// Reads a duration outside of the file: on the command line.
    ///
    /// # Errors
    /// What is wrong, for the operator.
    pub fn parse(text: &str) -> Result<Duration, String> {
        text.parse::<Written>().map(|written| written.0)
    }

    /// The duration as it would be written in the file.
    pub fn display(duration: Duration) -> String {
        let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let (unit, factor) =
            UNITS_MS.into_iter().find(|(_, factor)| ms >= *factor && ms.is_multiple_of(*factor)).unwrap_or(("ms", 1));
        format!("{} {unit}", ms / factor)
    }

    /// Reads a duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let expecting = "a duration with its unit (ms, s, min or h), in quotes";
        deserializer.deserialize_str(FromText::<Written>::new(expecting)).map(|written| written.0)
    }

    /// Writes a duration as [`display`] shows it.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&display(*duration))
    }
}

/// A host name or address with a port: `"kafka.eu-west:9092"`, `"127.0.0.1:9092"`, `"[::1]:9092"`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// The name or address, an IPv6 address without its brackets.
    pub host: String,
    /// The port; 0 lets the system choose one, for listeners in tests.
    pub port: u16,
}

impl HostPort {
    /// `host` (an IPv6 address without brackets) and `port`.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains("://") {
            return Err(format!("{text:?} is a URL: only host:port belongs here"));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(format!("{text:?} has no port"));
        };
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').ok_or_else(|| format!("{text:?} lacks the bracket `]`"))?,
            None if host.contains(':') => return Err(format!("{text:?}: an IPv6 address belongs in brackets")),
            None => host,
        };
        check_host(host)?;
        let port =
            port.parse::<u16>().map_err(|_| format!("{port:?} in {text:?} is not a port: a number up to 65535"))?;
        Ok(Self::new(host, port))
    }
}

text_value!(HostPort, "host:port, in quotes");

/// How clients find the brokers of the local cluster: `"proxy.example.com"`, or with TLS `"broker-{id}.kafka.example.com:9092"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advertise {
    /// One host, with a port for each broker.
    Host(String),
    /// A name for each broker, with one port.
    Names {
        /// What stands before `{id}`.
        before: String,
        /// What stands behind it.
        after: String,
        /// The port.
        port: u16,
    },
}

impl fmt::Display for Advertise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Advertise::Host(host) => f.write_str(host),
            Advertise::Names { before, after, port } => write!(f, "{before}{{id}}{after}:{port}"),
        }
    }
}

impl FromStr for Advertise {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains(['{', '}']) {
            return names(text);
        }
        check_host(text)?;
        if text.parse::<HostPort>().is_ok() {
            return Err(format!("{text:?} has a port: each broker is advertised with its own out of broker_ports"));
        }
        if ["0.0.0.0", "::"].contains(&text) {
            return Err(format!("clients can't connect to {text:?}: name the host that they reach this proxy by"));
        }
        Ok(Advertise::Host(text.to_owned()))
    }
}

/// Reads a name for each broker.
fn names(text: &str) -> Result<Advertise, String> {
    let Some((before, after)) = text.split_once("{id}").filter(|(before, after)| {
        // A second pair would leave open which of the two counts.
        ![before, after].iter().any(|part| part.contains(['{', '}']))
    }) else {
        return Err(format!("{text:?}: only {{id}} can stand in braces, and once"));
    };
    let example = "as in \"broker-{id}.kafka.example.com:9092\"";
    let Ok(address) = format!("{before}0{after}").parse::<HostPort>() else {
        return Err(format!("{text:?} is not a name and a port, {example}"));
    };
    if address.port == 0 {
        return Err(format!("{text:?}: clients can't connect to port 0"));
    }
    if before.ends_with(|c: char| c.is_ascii_digit()) || after.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(format!("{text:?}: a digit beside {{id}} would be taken for a part of the number"));
    }
    // What is behind the port's colon was read above.
    let (after, _) = after.rsplit_once(':').unwrap_or((after, ""));
    if address.host.parse::<std::net::IpAddr>().is_ok() {
        return Err(format!("{text:?}: clients ask for names in TLS, not for addresses, {example}"));
    }
    Ok(Advertise::Names { before: before.to_owned(), after: after.to_owned(), port: address.port })
}

text_value!(Advertise, "a host, or a name with {id} and a port, in quotes");

/// Whether `host` can be a host name or address at all; whether it resolves is for `diffluent check` to say.
pub(super) fn check_host(host: &str) -> Result<(), String> {
    if host.is_empty() {
        return Err("the host is missing".into());
    }
    match host.chars().find(|c| c.is_whitespace() || matches!(c, '/' | ',' | '[' | ']' | '"')) {
        Some(c) => Err(format!("{c:?} can't be part of a host name")),
        None => Ok(()),
    }
}

/// Ports from first to last, both included: `"9100-9199"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// From the first to the last port; never empty, never port 0.
    pub fn ports(self) -> RangeInclusive<u16> {
        self.first..=self.last
    }

    /// Whether `port` is one of them.
    pub fn contains(self, port: u16) -> bool {
        self.ports().contains(&port)
    }

    /// How many ports these are: at least 1.
    pub fn count(self) -> usize {
        usize::from(self.last - self.first) + 1
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((first, last)) = text.split_once('-') else {
            return Err(format!("{text:?} is not a range of ports: first and last with a `-` between them"));
        };
        let port = |text: &str| {
            text.trim().parse::<u16>().map_err(|_| format!("{text:?} is not a port: a number from 1 to 65535"))
        };
        let (first, last) = (port(first)?, port(last)?);
        if first == 0 {
            return Err("port 0 can't be in the range: clients must know the ports".into());
        }
        if last < first {
            return Err(format!("{text:?} holds no port: the first is above the last"));
        }
        Ok(Self { first, last })
    }
}

text_value!(PortRange, "a range of ports such as \"9100-9199\", in quotes");

/// A regular expression that must match a topic's whole name.
#[derive(Clone, Debug)]
pub struct TopicPattern {
    text: String,
    anchored: Regex,
}

impl TopicPattern {
    /// Matches every name.
    pub fn any() -> Self {
        match ".*".parse() {
            Ok(pattern) => pattern,
            Err(_) => unreachable!("`.*` is a regular expression"),
        }
    }

    /// The name that it is, if there is nothing special in it: dots, which stand for any character, are taken for those of names.
    pub fn as_name(&self) -> Option<&str> {
        self.text.chars().all(is_name_char).then_some(self.text.as_str())
    }

    /// Whether the whole of `topic` matches.
    pub fn matches(&self, topic: &str) -> bool {
        self.anchored.is_match(topic)
    }
}

impl PartialEq for TopicPattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for TopicPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("an empty expression matches no topic".into());
        }
        // Compiled alone first: `a)(b` would be valid inside the group.
        let compile = |text: &str| {
            Regex::new(text).map_err(|e| {
                let reason = e.to_string();
                let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                let hint = if text.starts_with('*') { "; `*` repeats what is before it: use `.*`" } else { "" };
                format!("{text:?} is not a regular expression: {reason}{hint}")
            })
        };
        compile(text)?;
        Ok(Self { text: text.to_owned(), anchored: compile(&format!("^(?:{text})$"))? })
    }
}

text_value!(TopicPattern, "a regular expression, in quotes");

/// How a topic is called in a region: text with `{topic}`, and `{origin}` if wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicTemplate {
    text: String,
}

impl TopicTemplate {
    /// The name of `topic` from `origin`.
    pub fn render(&self, origin: &str, topic: &str) -> String {
        // `{origin}` first: a topic's name can't contain braces, and neither can an origin.
        self.text.replace("{origin}", origin).replace("{topic}", topic)
    }

    /// Whether `topic` is what this template makes of a topic that came from one of these origins, at the last step or at an earlier one; or at an earlier
    /// one from `own`, so that it has gone round.
    pub fn names_one_of(&self, origins: &[String], own: &str, topic: &str) -> bool {
        let mut looked_at = BTreeSet::from([topic]);
        let mut names = vec![topic];
        while let Some(name) = names.pop() {
            for (origin, original) in self.readings(name) {
                if origins.iter().any(|known| known == origin) || (origin == own && name != topic) {
                    return true;
                }
                if looked_at.insert(original) {
                    names.push(original);
                }
            }
        }
        false
    }

    /// All pairs of an origin and a topic of which this template makes `name`. None, if it does not name the origin once.
    fn readings<'a>(&self, name: &'a str) -> Vec<(&'a str, &'a str)> {
        let mut found = Vec::new();
        let (Some(origin), Some(topic)) = (self.text.find("{origin}"), self.text.find("{topic}")) else { return found };
        let (first, second) = if origin < topic { ("{origin}", "{topic}") } else { ("{topic}", "{origin}") };
        let Some((before, rest)) = self.text.split_once(first) else { return found };
        let Some((between, behind)) = rest.split_once(second) else { return found };
        let Some(inner) = name.strip_prefix(before).and_then(|name| name.strip_suffix(behind)) else { return found };
        for (at, _) in inner.match_indices(between) {
            let (left, right) = (&inner[..at], &inner[at + between.len()..]);
            if !left.is_empty() && !right.is_empty() {
                found.push(if origin < topic { (left, right) } else { (right, left) });
            }
        }
        found
    }
}

impl fmt::Display for TopicTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for TopicTemplate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.matches("{topic}").count() != 1 {
            return Err(format!("{text:?} must contain {{topic}} once, or topics would share one name"));
        }
        let rest = text.replace("{topic}", "").replace("{origin}", "");
        if rest.contains(['{', '}']) {
            return Err(format!("{text:?}: only {{topic}} and {{origin}} can stand in braces"));
        }
        if let Some(c) = rest.chars().find(|c| !is_name_char(*c)) {
            return Err(format!("{c:?} can't be part of a topic's name: letters, digits, `.`, `_` and `-` can"));
        }
        if text.starts_with("__") {
            return Err(format!("{text:?} would name internal topics (`__*`)"));
        }
        Ok(Self { text: text.to_owned() })
    }
}

text_value!(TopicTemplate, "a name with {topic} in it, in quotes");

/// The address of a web service: `"https://login.example.com/oauth/token"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpUrl {
    text: String,
    /// Whether it is https.
    pub secure: bool,
    /// The name or address, an IPv6 address without its brackets.
    pub host: String,
    /// The port, written or the scheme's own.
    pub port: u16,
    /// The path with its query.
    pub path: String,
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for HttpUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('@') {
            // Not quoted: it may hold a password.
            return Err("a URL with a user or a password in it can't be used here".into());
        }
        let uri: axum::http::Uri = text.parse().map_err(|error| format!("{text:?} is not a URL: {error}"))?;
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(format!("{text:?} does not begin with https:// or http://")),
        };
        let host = uri.host().unwrap_or_default();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).to_owned();
        check_host(&host)?;
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let path = uri.path_and_query().map_or("/", axum::http::uri::PathAndQuery::as_str).to_owned();
        Ok(Self { text: text.to_owned(), secure, host, port, path })
    }
}

text_value!(HttpUrl, "a URL that begins with https://, in quotes");
