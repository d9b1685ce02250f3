//! What an operator is told about a configuration that can't be used.

use std::fmt;

use super::reference;

/// Why a configuration can't be used. Its text is shown to the operator as it is; the process exits with 64.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{file}: can't be read: {source}\n  an annotated example is the proxy.toml of diffluent's repository")]
    Read {
        /// The file, as it was named.
        file: String,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// The file is read, but not TOML, or not this configuration.
    #[error("{}", lines(problems))]
    Invalid {
        /// What is wrong, at least one.
        problems: Vec<Problem>,
    },
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named.
    pub file: String,
    /// The line, counted from 1, where known.
    pub line: Option<usize>,
    /// The key with its tables: `region[0].window`; empty where the file is no TOML.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// A line, or several, that would be right.
    pub example: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.what)?;
        if let Some(example) = &self.example {
            write!(f, "\n  for example: {}", example.replace('\n', "\n               "))?;
        }
        Ok(())
    }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}

/// A broken rule, before its place in the file is looked up.
pub(super) struct Finding {
    pub key: String,
    pub what: String,
    /// Takes the place of the key's own example.
    pub example: Option<String>,
}

impl Finding {
    pub fn new(key: impl Into<String>, what: impl Into<String>) -> Self {
        Self { key: key.into(), what: what.into(), example: None }
    }
}

/// The text is no TOML.
pub(super) fn syntax(file: &str, text: &str, error: &toml::de::Error) -> ConfigError {
    let line = error.span().map(|span| line_at(text, span.start));
    let written = line.and_then(|line| text.lines().nth(line - 1)).unwrap_or_default().trim();
    let what = if written.is_empty() || may_hold_a_secret(text, line.unwrap_or(1)) {
        format!("this is not TOML: {}", error.message())
    } else {
        format!("this is not TOML: {}: {written}", error.message())
    };
    let example = Some(written_right(text, line.unwrap_or(1), written));
    let problem = Problem { file: file.to_owned(), line, key: String::new(), what, example };
    ConfigError::Invalid { problems: vec![problem] }
}

/// Whether a line is not to be quoted: it, or the one before that it may go on, names a secret.
fn may_hold_a_secret(text: &str, line: usize) -> bool {
    let lines = text.lines().skip(line.saturating_sub(2)).take(2);
    let words = ["password", "secret", "token", "passphrase"];
    lines.map(str::to_lowercase).any(|line| words.iter().any(|word| line.contains(word)))
}

/// What would be TOML instead of `written` in `line`: the example of the table or key that is most likely meant.
fn written_right(text: &str, line: usize, written: &str) -> String {
    let name = |heading: &str| heading.trim().trim_matches(['[', ']', ' ']).to_owned();
    if written.starts_with('[') {
        let heading = if written.starts_with("[[") { "[[region]]" } else { "[proxy]" };
        return reference::example(&name(written)).unwrap_or_else(|| heading.to_owned());
    }
    let table = text.lines().take(line).filter(|before| before.trim_start().starts_with('[')).last().map(name);
    let key = written.split(['=', ' ']).next().unwrap_or_default();
    let known = table.and_then(|table| reference::example(&join(&table, key)));
    known.unwrap_or_else(|| "name = \"eu-west\"".to_owned())
}

/// The text is TOML, but a key or value is not what belongs there.
pub(super) fn shape(file: &str, text: &str, error: serde_path_to_error::Error<toml::de::Error>) -> ConfigError {
    let mut key = error.path().to_string();
    if key == "." {
        key.clear();
    }
    let error = error.into_inner();
    let message = error.message().trim();
    let mut what = message.to_owned();
    let mut example = None;
    if let Some(unknown) = quoted(message, "unknown field `") {
        let table = key.strip_suffix(&format!(".{unknown}")).unwrap_or(if key == unknown { "" } else { &key });
        let (table, known) = (table.to_owned(), reference::keys(table));
        what = "unknown key".to_owned();
        match closest(unknown, &known) {
            Some(meant) => {
                what = format!("unknown key; did you mean `{meant}`?");
                example = reference::example(&join(&table, meant));
            }
            None => what.push_str(&format!("; known here are {}", known.join(", "))),
        }
        key = join(&table, unknown);
    } else if let Some(missing) = quoted(message, "missing field `") {
        let missing = missing.to_owned();
        key = join(&key, &missing);
        what = if reference::is_table(&key) { "this table is missing" } else { "this key is missing" }.to_owned();
    } else if let Some(rest) = message.strip_prefix("invalid type: ") {
        what = match rest.split_once(", expected ") {
            Some((found, expected)) => format!("{} is not {}", found.replace('`', ""), a_kind(expected)),
            None => rest.to_owned(),
        };
    } else if let Some(rest) = message.strip_prefix("invalid value: ")
        && let Some((found, "u32")) = rest.split_once(", expected ")
    {
        what = format!("{} is not {}", found.replace('`', ""), a_kind("u32"));
    } else if let Some(rest) = message.strip_prefix("unknown variant ") {
        what = rest.replace(", expected", " is not known here; it can be").replace('`', "\"");
    }
    // What is missing has no place of its own; the table around it may have one.
    let place = error.span().filter(|_| !message.starts_with("missing field"));
    let line = line_of(text, &key).or_else(|| place.map(|span| line_at(text, span.start)));
    let example = example.or_else(|| reference::example(&key));
    ConfigError::Invalid { problems: vec![Problem { file: file.to_owned(), line, key, what, example }] }
}

/// Each value is right, but they don't fit together.
pub(super) fn invalid(file: &str, text: &str, findings: Vec<Finding>) -> ConfigError {
    let problems = findings.into_iter().map(|finding| Problem {
        file: file.to_owned(),
        line: line_of(text, &finding.key),
        example: finding.example.or_else(|| reference::example(&finding.key)),
        key: finding.key,
        what: finding.what,
    });
    ConfigError::Invalid { problems: problems.collect() }
}

/// serde's words for kinds of values, in words of the file.
fn a_kind(expected: &str) -> String {
    match expected {
        "a sequence" => "a list in brackets".to_owned(),
        "a string" => "a text in quotes".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "u32" => "a whole number that makes sense here".to_owned(),
        other if other.starts_with("struct ") => "a table".to_owned(),
        other => other.to_owned(),
    }
}

fn join(table: &str, key: &str) -> String {
    if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") }
}

/// What stands in backquotes behind `prefix`.
fn quoted<'a>(message: &'a str, prefix: &str) -> Option<&'a str> {
    message.strip_prefix(prefix)?.split('`').next()
}

/// The key that was most likely meant by `unknown`: few edits away, measured by its length.
fn closest<'a>(unknown: &str, known: &[&'a str]) -> Option<&'a str> {
    let unknown = unknown.to_lowercase().replace('-', "_");
    let (distance, best) = known.iter().map(|key| (edits(&unknown, key), *key)).min()?;
    let part_of = known.iter().find(|key| unknown.len() >= 4 && (key.contains(&unknown) || unknown.contains(**key)));
    if distance <= 1 + best.len() / 4 { Some(best) } else { part_of.copied() }
}

/// Insertions, deletions and substitutions that turn `a` into `b` (Levenshtein).
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (to, cell) in b.iter().zip(row.iter_mut().skip(1)) {
            let above = *cell;
            left = (diagonal + usize::from(from != *to)).min(above + 1).min(left + 1);
            diagonal = above;
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

/// The line, counted from 1, of a byte of `text`.
fn line_at(text: &str, byte: usize) -> usize {
    text.bytes().take(byte).filter(|b| *b == b'\n').count() + 1
}

/// The line of `key` (as in `region[0].window`), or of the innermost table around it that is there.
fn line_of(text: &str, key: &str) -> Option<usize> {
    use toml::de::{DeTable, DeValue};

    let root = DeTable::parse(text).ok()?;
    let mut table = root.get_ref();
    let mut found = None;
    for part in key.split('.') {
        let (name, index) = match part.split_once('[') {
            Some((name, index)) => (name, index.trim_end_matches(']').parse::<usize>().ok()),
            None => (part, None),
        };
        let Some((written, value)) = table.iter().find(|(written, _)| written.get_ref() == name) else { break };
        found = Some(written.span().start);
        let mut value = value;
        if let (Some(index), DeValue::Array(items)) = (index, value.get_ref()) {
            let Some(item) = items.get(index) else { break };
            found = Some(item.span().start);
            value = item;
        }
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => break,
        }
    }
    found.map(|byte| line_at(text, byte))
}
