//! `diffluent import`: from a MirrorMaker 2 configuration to the configurations of diffluent that do the same.
//!
//! ```text
//! properties ──► mm2 (what it means there) ──► document (proxy.toml) ──► checked as `run` would
//!                 └──► leftovers: whatever has no counterpart, and why
//! ```
//!
//! Owns the reading of that file and the words about it. It opens no connection and writes no file. Nothing of the file is dropped
//! without a word: each property is either used or told.
//!
//! # References
//! MirrorMaker 2's configuration, <https://kafka.apache.org/documentation/#mirrormakerconfigs>, and `MirrorMakerConfig` in Apache Kafka's source, for which
//! of several properties wins.

mod document;
mod leftovers;
mod mm2;
pub mod properties;
mod security;

use std::fmt;

use properties::Malformed;

/// What was made of a MirrorMaker 2 configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// A configuration for each cluster that something is mirrored from.
    pub files: Vec<File>,
    /// What there is to say about it, what has to be decided first.
    pub notes: Vec<Note>,
}

/// A proxy.toml.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// The cluster in front of which a proxy with this configuration runs.
    pub cluster: String,
    /// What it is called: `<cluster>.toml`.
    pub name: String,
    /// What is in it.
    pub text: String,
}

/// Whether a person has to do something about a note.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// What the property did is not done before somebody has decided how.
    Decide,
    /// Nothing is missing without it.
    Know,
}

/// What there is to say about a property, or about all of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Note {
    /// Whether something has to be done.
    pub weight: Weight,
    /// The property's line, counted from 1; 0 where it is about none, for instance about one that is not there.
    pub line: usize,
    /// The property.
    pub key: String,
    /// What there is to say, and to do.
    pub what: String,
}

impl Note {
    fn decide(line: usize, key: impl Into<String>, what: impl Into<String>) -> Self {
        Self { weight: Weight::Decide, line, key: key.into(), what: what.into() }
    }

    fn know(line: usize, key: impl Into<String>, what: impl Into<String>) -> Self {
        Self { weight: Weight::Know, line, key: key.into(), what: what.into() }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.key, self.what),
            line => write!(f, "{} (line {line}): {}", self.key, self.what),
        }
    }
}

impl Import {
    /// Notes of this weight.
    pub fn notes(&self, weight: Weight) -> impl Iterator<Item = &Note> {
        self.notes.iter().filter(move |note| note.weight == weight)
    }

    /// What the process exits with: 0 when the files can be used as they are, 1 when something has to be decided first.
    pub fn exit_code(&self) -> u8 {
        u8::from(self.notes(Weight::Decide).next().is_some())
    }
}

/// The notes. The files are for whoever prints them.
impl fmt::Display for Import {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headings = [
            (Weight::Decide, "To be decided or done by you"),
            (Weight::Know, "Without a counterpart, and none is missing"),
        ];
        for (weight, heading) in headings {
            if self.notes(weight).next().is_some() {
                writeln!(f, "{heading}:")?;
                self.notes(weight).try_for_each(|note| writeln!(f, "  - {note}"))?;
                writeln!(f)?;
            }
        }
        match self.files.as_slice() {
            [] => write!(f, "No flow is enabled: there is nothing to run."),
            files => {
                let places: Vec<String> =
                    files.iter().map(|file| format!("{} in front of cluster {}", file.name, file.cluster)).collect();
                write!(
                    f,
                    "Run a proxy with {}. `diffluent check` tells whether it works.",
                    places.join(", and one with ")
                )
            }
        }
    }
}

/// Reads the bytes of a MirrorMaker 2 configuration.
///
/// # Errors
/// [`Malformed`]: it is no properties file.
pub fn import(bytes: &[u8]) -> Result<Import, Malformed> {
    let (flows, mut notes) = mm2::read(properties::parse(bytes)?);
    let files: Vec<File> = flows
        .iter()
        .map(|source| File {
            cluster: source.alias.clone(),
            name: format!("{}.toml", source.name),
            text: document::text(source),
        })
        .collect();
    for file in &files {
        if let Err(error) = crate::config::Config::parse(&file.name, &file.text) {
            notes.push(Note::decide(0, &file.name, format!("can't be used before it is completed: {error}")));
        }
    }
    notes.sort();
    Ok(Import { files, notes })
}

#[cfg(test)]
mod tests;
