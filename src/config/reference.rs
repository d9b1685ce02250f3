//! What there is to configure, for people: taken from the structs' own documentation ([`super::types`]) and from the repository's
//! annotated proxy.toml, so that neither the page nor the examples in errors can say something else than the code.

use std::fmt::Write;

use super::{Config, changes};

/// The structs as they were written.
const TYPES: &str = include_str!("types.rs");
/// The annotated example.
const ANNOTATED: &str = include_str!("../../proxy.toml");

/// A table of proxy.toml and the struct that holds it. Of tables with the same struct, the first one is told in full.
struct Table {
    name: &'static str,
    heading: &'static str,
    type_name: &'static str,
}

const TABLES: [Table; 10] = [
    Table { name: "proxy", heading: "[proxy]", type_name: "Proxy" },
    Table { name: "proxy.tls", heading: "[proxy.tls]", type_name: "ProxyTls" },
    Table { name: "local", heading: "[local]", type_name: "Cluster" },
    Table { name: "local.tls", heading: "[local.tls]", type_name: "ClusterTls" },
    Table { name: "local.sasl", heading: "[local.sasl]", type_name: "Sasl" },
    Table { name: "region", heading: "[[region]]", type_name: "Region" },
    Table { name: "region.tls", heading: "[region.tls]", type_name: "ClusterTls" },
    Table { name: "region.sasl", heading: "[region.sasl]", type_name: "Sasl" },
    Table { name: "mirror", heading: "[mirror]", type_name: "Mirror" },
    Table { name: "admin", heading: "[admin]", type_name: "Admin" },
];

impl Table {
    /// The first table with the same keys.
    fn first(&self) -> &'static Table {
        TABLES.iter().find(|table| table.type_name == self.type_name).unwrap_or(&TABLES[0])
    }
}

/// A field of a struct in types.rs, with its documentation on one line.
struct Field {
    name: &'static str,
    doc: String,
}

/// The public fields of `pub struct <type_name>`.
fn fields(type_name: &str) -> Vec<Field> {
    let start = format!("pub struct {type_name} {{");
    let mut doc = String::new();
    let mut fields = Vec::new();
    for line in TYPES.lines().skip_while(|line| *line != start).skip(1).take_while(|line| *line != "}") {
        let line = line.trim();
        if let Some(text) = line.strip_prefix("/// ") {
            if !doc.is_empty() {
                doc.push(' ');
            }
            doc.push_str(text);
        } else if let Some((name, _)) = line.strip_prefix("pub ").and_then(|line| line.split_once(':')) {
            fields.push(Field { name, doc: std::mem::take(&mut doc) });
        }
    }
    fields
}

/// Without the index of a repeated table: `region[0].name` is `region.name`.
fn without_index(key: &str) -> String {
    let mut depth = 0;
    key.chars()
        .filter(|c| {
            depth += usize::from(*c == '[');
            let keep = depth == 0;
            depth -= usize::from(*c == ']' && depth > 0);
            keep
        })
        .collect()
}

/// Whether `name`, with the tables around it, is a table of the file.
pub(super) fn is_table(name: &str) -> bool {
    let name = without_index(name);
    TABLES.iter().any(|table| table.name == name)
}

/// The keys of a table; of the whole file where `table` is empty.
pub(super) fn keys(table: &str) -> Vec<&'static str> {
    let table = without_index(table);
    let type_name = match TABLES.iter().find(|known| known.name == table) {
        Some(known) => known.type_name,
        None => "Config",
    };
    fields(type_name).into_iter().map(|field| field.name).collect()
}

/// What a line of the annotated file shows.
enum Line<'a> {
    /// A table begins, perhaps commented out.
    Heading(&'a str),
    /// A key with its value, perhaps commented out: its name, and the line without the mark.
    Key(&'a str, &'a str),
    Other,
}

impl<'a> Line<'a> {
    fn of(line: &'a str) -> Self {
        let bare = line.strip_prefix("# ").unwrap_or(line);
        if TABLES.iter().any(|table| table.heading == bare) {
            return Line::Heading(bare);
        }
        match bare.split_once(" = ") {
            Some((key, _)) if key.chars().all(|c| c.is_ascii_lowercase() || c == '_') => Line::Key(key, bare),
            _ => Line::Other,
        }
    }
}

/// The annotated file's lines in the table with this heading.
fn body(heading: &str) -> impl Iterator<Item = &'static str> {
    let is_heading = |line: &str| matches!(Line::of(line), Line::Heading(_));
    let begins = move |line: &&str| !matches!(Line::of(line), Line::Heading(found) if found == heading);
    ANNOTATED.lines().skip_while(begins).skip(1).take_while(move |line| !is_heading(line))
}

/// How `key` (as in `region[0].window`) is written in the annotated file; for a table, all that must be in it.
pub(super) fn example(key: &str) -> Option<String> {
    let key = without_index(key);
    if let Some(table) = TABLES.iter().find(|table| table.name == key) {
        // A table that is commented out as a whole is shown as a whole.
        let whole = !ANNOTATED.lines().any(|line| line == table.heading);
        let required = body(table.heading).filter_map(|line| match Line::of(line) {
            Line::Key(_, bare) if whole || !line.starts_with('#') => Some(bare),
            _ => None,
        });
        return Some(std::iter::once(table.heading).chain(required).collect::<Vec<_>>().join("\n"));
    }
    let (table, name) = key.rsplit_once('.')?;
    let type_name = TABLES.iter().find(|known| known.name == table)?.type_name;
    // The same key of another table is as good an example.
    let tables = TABLES.iter().filter(|known| known.type_name == type_name);
    let own_first =
        tables.clone().filter(|known| known.name == table).chain(tables.filter(|known| known.name != table));
    own_first.flat_map(|table| body(table.heading)).find_map(|line| match Line::of(line) {
        Line::Key(found, bare) if found == name => Some(bare.to_owned()),
        _ => None,
    })
}

/// The page docs/configuration.md. `diffluent`'s tests fail when the file differs.
pub fn reference() -> String {
    let mut page = String::from(
        "# Configuration\n\n\
         <!-- Generated from src/config/types.rs and proxy.toml: \
         `UPDATE_DOCS=1 cargo test --lib config` writes it again. -->\n\n\
         `diffluent run proxy.toml` reads one TOML file. A key that is not on this page is an error, as is a size \
         or a time without its unit: the process says which line is wrong and what would be right, and exits with 64 before \
         any port is bound. `diffluent check proxy.toml` also connects to every cluster and says what works.\n\n\
         Sizes are whole numbers with `B`, `KiB`, `MiB` or `GiB`; durations with `ms`, `s`, `min` or `h`; both in \
         quotes. Addresses are `host:port`, an IPv6 address in brackets. The repository's \
         [proxy.toml](../proxy.toml) shows every key with its default.\n\n\
         A running proxy takes a changed file with `SIGHUP`, `diffluent reload proxy.toml`, `POST /reload` on the admin port or, with `reload_on_change`, by \
         itself: whole, or not at all. A file that is wrong, or that changes a key which needs a restart, changes nothing and says why; each key below says how a \
         change of it takes effect. Regions can be added and taken out. What did not change is not disturbed, and clients stay connected \
         ([operations.md](operations.md#configuration-without-a-restart)).\n",
    );
    let defaults = defaults();
    for table in &TABLES {
        let (around, name) = table.name.rsplit_once('.').unwrap_or(("", table.name));
        let around = TABLES.iter().find(|known| known.name == around).map_or("Config", |known| known.type_name);
        let doc = fields(around).into_iter().find(|field| field.name == name).map(|field| field.doc);
        let doc = doc.as_deref().and_then(|doc| doc.split_once(": ")).map_or("", |(_, doc)| doc);
        let _ = write!(page, "\n## `{}`\n\n{}\n", table.heading, sentence(doc));
        if table.first().name != table.name {
            let (first, example) = (table.first().heading, example(table.name).unwrap_or_default());
            let _ = write!(page, "\nIt has the keys of `{first}`.\n\n```toml\n{example}\n```\n");
            continue;
        }
        for field in fields(table.type_name) {
            if is_table(&format!("{}.{}", table.name, field.name)) {
                continue;
            }
            let _ = write!(page, "\n### `{}`\n\n{}\n\n", field.name, field.doc);
            let key = format!("{}.{}", table.name, field.name);
            match defaults.iter().find(|(known, _)| *known == key) {
                Some((_, value)) => {
                    let _ = writeln!(page, "Default: `{value}`");
                }
                None if OPTIONAL.contains(&key.as_str()) => page.push_str("Default: none\n"),
                None => page.push_str("Must be set.\n"),
            }
            if let Some(how) = changes::how(&key) {
                let _ = writeln!(page, "\nA change {}.", how.words());
            }
            if let Some(example) = example(&key) {
                let _ = write!(page, "\n```toml\n{example}\n```\n");
            }
        }
    }
    page
}

/// Keys that may be left out and have no default.
const OPTIONAL: [&str; 22] = [
    "proxy.instance",
    "proxy.broker_ports",
    "proxy.connection_limit",
    "proxy.connection_limit_per_address",
    "proxy.tls.client_ca",
    "local.tls.ca",
    "local.tls.certificate",
    "local.tls.key",
    "local.tls.server_name",
    "local.sasl.username",
    "local.sasl.password",
    "local.sasl.token",
    "local.sasl.token_endpoint",
    "local.sasl.token_endpoint_ca",
    "local.sasl.client_id",
    "local.sasl.client_secret",
    "local.sasl.scope",
    "local.sasl.extensions",
    "region.topic_name",
    "region.rate_limit",
    "region.catch_up_rate_limit",
    "admin.token",
];

/// The least that a file must hold, with TLS.
const LEAST: &str = r#"
[proxy]
name = "eu-west"
listen = "127.0.0.1:9092"
advertise = "127.0.0.1"
broker_ports = "9100-9199"
[proxy.tls]
certificate = "tls.crt"
key = "tls.key"
[local]
bootstrap_servers = ["127.0.0.1:19092"]
[[region]]
name = "us-east"
bootstrap_servers = ["127.0.0.1:29092"]
"#;

/// Every key that [`LEAST`] leaves out, with the value it then has, as TOML.
fn defaults() -> Vec<(String, String)> {
    let Ok(config) = Config::parse("the least configuration", LEAST) else { return Vec::new() };
    let (Ok(full), Ok(least)) = (toml::Table::try_from(&config), LEAST.parse::<toml::Table>()) else {
        return Vec::new();
    };
    let (full, least) = (flat(&full), flat(&least));
    full.into_iter().filter(|(key, _)| least.iter().all(|(set, _)| set != key)).collect()
}

/// The keys of a configuration with their values as TOML; of regions, the first one's. Tables that have the same keys count as the first of them.
fn flat(config: &toml::Table) -> Vec<(String, String)> {
    let mut all = Vec::new();
    flatten("", config, &mut all);
    all
}

fn flatten(around: &str, table: &toml::Table, all: &mut Vec<(String, String)>) {
    for (key, value) in table {
        let name = if around.is_empty() { key.clone() } else { format!("{around}.{key}") };
        let inner = match value {
            toml::Value::Array(tables) => tables.first().and_then(toml::Value::as_table),
            other => other.as_table(),
        };
        match (inner, TABLES.iter().find(|known| known.name == name)) {
            (Some(inner), Some(_)) => flatten(&name, inner, all),
            _ => {
                let first = TABLES.iter().find(|known| known.name == around).map_or(around, |known| known.first().name);
                all.push((format!("{first}.{key}"), value.to_string()));
            }
        }
    }
}

fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// The annotated file with its commented-out keys and tables switched on, which is more than the rules allow together.
    fn all_switched_on() -> String {
        let lines = ANNOTATED.lines().map(|line| match Line::of(line) {
            Line::Heading(bare) | Line::Key(_, bare) => bare,
            Line::Other => line,
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    fn documented() -> BTreeSet<String> {
        let of = |table: &'static Table| {
            fields(table.type_name).into_iter().map(move |f| format!("{}.{}", table.first().name, f.name))
        };
        TABLES.iter().flat_map(of).filter(|key| !is_table(key)).collect()
    }

    #[test]
    fn the_page_is_what_the_structs_say() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, reference()).unwrap();
        }
        let page = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(page == reference(), "docs/configuration.md is stale: UPDATE_DOCS=1 cargo test --lib config");
    }

    #[test]
    fn every_key_is_documented() {
        for table in &TABLES {
            let fields = fields(table.type_name);
            assert!(!fields.is_empty(), "{} was not found in types.rs", table.type_name);
            for field in fields {
                assert!(!field.doc.is_empty(), "{}.{} has no documentation", table.name, field.name);
            }
        }
        // What serde knows is what types.rs was read to say.
        let config: Config = toml::from_str(&all_switched_on()).unwrap();
        let known = flat(&toml::Table::try_from(&config).unwrap());
        assert_eq!(known.into_iter().map(|(key, _)| key).collect::<BTreeSet<_>>(), documented());
    }

    #[test]
    fn every_key_says_how_a_change_of_it_takes_effect() {
        let documented = documented();
        for key in &documented {
            assert!(changes::how(key).is_some(), "{key}: say in src/config/changes.rs how a change of it takes effect");
        }
        for key in changes::classified() {
            assert!(is_table(key) || documented.contains(key), "{key} of src/config/changes.rs is no key");
        }
    }

    #[test]
    fn the_annotated_file_is_a_valid_configuration_as_it_stands() {
        Config::parse("proxy.toml", ANNOTATED).unwrap();
    }

    #[test]
    fn the_annotated_file_names_every_key_and_shows_the_real_defaults() {
        let shown = flat(&all_switched_on().parse().unwrap());
        assert_eq!(shown.iter().map(|(key, _)| key.clone()).collect::<BTreeSet<_>>(), documented());
        let defaults = defaults();
        assert!(defaults.len() > 10);
        for (key, value) in defaults {
            let written = shown.iter().find(|(shown, _)| *shown == key).map(|(_, value)| value);
            assert_eq!(written, Some(&value), "{key} in proxy.toml");
        }
    }

    #[test]
    fn every_key_and_table_has_an_example() {
        for key in documented() {
            assert!(example(&key).is_some(), "{key}");
        }
        assert_eq!(example("region[3].start").as_deref(), Some("start = \"earliest\""));
        assert!(example("proxy").unwrap().starts_with("[proxy]\nname = "));
        assert_eq!(example("region[3].tls.ca").as_deref(), Some("ca = \"/etc/diffluent/us-east-ca.crt\""));
        assert!(example("proxy.tls").unwrap().starts_with("[proxy.tls]\ncertificate = "));
        assert_eq!(example("region[3].sasl.mechanism").as_deref(), Some("mechanism = \"OAUTHBEARER\""));
        assert_eq!(
            example("region[0].sasl.username"),
            example("local.sasl.username"),
            "shown once, for all tables that have it"
        );
        assert!(example("local.sasl").unwrap().starts_with("[local.sasl]\nmechanism = "));
        assert_eq!(example("nonsense.key"), None);
    }
}
