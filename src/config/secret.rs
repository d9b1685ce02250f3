//! Secrets of proxy.toml: a password, a token. Never shown: not by `Debug`, not in errors, not in what is written out.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

/// The longest secret, in bytes: tokens of OAuth have some thousand.
pub const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// What is said of a secret that stands in the file.
const SHOWN: &str = "set";

/// A secret, or the place where it is. A file is read each time that the secret is needed, so that it can be replaced under way.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// In proxy.toml itself.
    Text(Box<str>),
    /// In an environment variable.
    Env(String),
    /// In a file: all of it but a line end at its end.
    File(PathBuf),
}

/// Why a secret can't be had. Says where it should be, never what it is.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// There is no such variable, or it is no text.
    #[error("the environment variable {name} is not set, or is no text; set it where diffluent is started")]
    Env {
        /// The variable.
        name: String,
    },
    /// The file can't be read.
    #[error("the file {} can't be read: {source}; it must be there, and readable for diffluent's user", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Nothing is there.
    #[error("{place} holds nothing; write the secret there")]
    Empty {
        /// Where.
        place: String,
    },
}

impl Secret {
    /// The secret itself.
    ///
    /// # Errors
    /// [`SecretError`], when the place where it should be does not hold it.
    pub fn read(&self) -> Result<String, SecretError> {
        let (text, place) = match self {
            // Checked when the file was parsed.
            Secret::Text(text) => return Ok(text.to_string()),
            Secret::Env(name) => {
                let text = std::env::var(name).map_err(|_| SecretError::Env { name: name.clone() })?;
                (text, format!("the environment variable {name}"))
            }
            Secret::File(path) => {
                let text = read(path).map_err(|source| SecretError::File { path: path.clone(), source })?;
                (text.trim_end_matches(['\r', '\n']).to_owned(), format!("the file {}", path.display()))
            }
        };
        if text.is_empty() { Err(SecretError::Empty { place }) } else { Ok(text) }
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let read = std::fs::File::open(path)?.take(SECRET_BYTES_MAX + 1).read_to_string(&mut text)?;
    if read as u64 > SECRET_BYTES_MAX {
        return Err(std::io::Error::other(format!("it is longer than {SECRET_BYTES_MAX} bytes")));
    }
    Ok(text)
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Secret::Text(_) => f.write_str("Secret"),
            Secret::Env(name) => write!(f, "Secret(env {name:?})"),
            Secret::File(path) => write!(f, "Secret(file {path:?})"),
        }
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (kind, place) = match self {
            Secret::Text(_) => return serializer.serialize_str(SHOWN),
            Secret::Env(name) => ("env", name.clone()),
            Secret::File(path) => ("file", path.display().to_string()),
        };
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(kind, &place)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Written)
    }
}

const EXPECTED: &str = "a secret in quotes, { env = \"VARIABLE\" } or { file = \"/path\" }";

/// serde quotes what it did not expect; here that may be the secret.
struct Written;

impl Written {
    fn not_this<T, E: de::Error>(kind: &str) -> Result<T, E> {
        Err(E::custom(format!("{kind} is not {EXPECTED}")))
    }
}

impl<'de> Visitor<'de> for Written {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Secret, E> {
        if text.is_empty() {
            return Err(E::custom("a secret must not be empty"));
        }
        Ok(Secret::Text(text.into()))
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Secret, E> {
        Self::not_this("true or false")
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Secret, E> {
        Self::not_this("a number")
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Secret, E> {
        Self::not_this("a number")
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, _: A) -> Result<Secret, A::Error> {
        Self::not_this("a list")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Secret, A::Error> {
        let wrong = || de::Error::custom(format!("this is not {EXPECTED}"));
        let kind: String = map.next_key()?.ok_or_else(wrong)?;
        let place: String = match kind.as_str() {
            "env" | "file" => map.next_value().map_err(|_| wrong())?,
            _ => return Err(wrong()),
        };
        // A date is a map of its own to the TOML reader; a second key is one too many.
        if place.is_empty() || place.contains('\0') || map.next_key::<String>()?.is_some() {
            return Err(wrong());
        }
        match kind.as_str() {
            // What no variable can be called would make the system's call panic.
            "env" if place.contains('=') => Err(wrong()),
            "env" => Ok(Secret::Env(place)),
            _ => Ok(Secret::File(place.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, Serialize)]
    struct Table {
        password: Secret,
    }

    fn parse(value: &str) -> Result<Secret, String> {
        toml::from_str::<Table>(&format!("password = {value}")).map(|table| table.password).map_err(|e| e.to_string())
    }

    #[test]
    fn a_secret_is_read_from_where_it_is_each_time() {
        assert_eq!(parse("\"hunter2\"").unwrap().read().unwrap(), "hunter2");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        let secret = parse(&format!("{{ file = {path:?} }}")).unwrap();
        assert!(secret.read().unwrap_err().to_string().contains("can't be read"));
        std::fs::write(&path, "one\n").unwrap();
        assert_eq!(secret.read().unwrap(), "one");
        std::fs::write(&path, "two words \r\n").unwrap();
        assert_eq!(secret.read().unwrap(), "two words ");
        std::fs::write(&path, "\n").unwrap();
        assert!(secret.read().unwrap_err().to_string().contains("holds nothing"));
        std::fs::write(&path, "x".repeat(SECRET_BYTES_MAX as usize + 1)).unwrap();
        assert!(secret.read().is_err());
        let unset = parse("{ env = \"DIFFLUENT_TEST_NO_SUCH_VARIABLE\" }").unwrap();
        assert!(unset.read().unwrap_err().to_string().contains("DIFFLUENT_TEST_NO_SUCH_VARIABLE is not set"));
        // Every process of cargo has this one.
        assert!(!parse("{ env = \"PATH\" }").unwrap().read().unwrap().is_empty());
    }

    #[test]
    fn a_secret_is_shown_nowhere() {
        let secret = parse("\"hunter2\"").unwrap();
        let table = Table { password: secret };
        for shown in [format!("{table:?}"), toml::to_string(&table).unwrap(), serde_json::to_string(&table).unwrap()] {
            assert!(!shown.contains("hunter2"), "{shown}");
        }
        let place = Table { password: Secret::Env("KAFKA_PASSWORD".into()) };
        assert!(toml::to_string(&place).unwrap().contains("KAFKA_PASSWORD"), "where it is, is no secret");
    }

    #[test]
    fn what_is_no_secret_is_refused_without_being_quoted() {
        let values =
            ["12345", "-12345", "12345.5", "true", "[\"12345\"]", "{ text = \"12345\" }", "{}", "{ env = 12345 }"];
        let more = ["{ env = \"A\", file = \"12345\" }", "{ env = \"12345=\" }", "{ file = \"\" }", "\"\""];
        for value in values.into_iter().chain(more) {
            let error = parse(value).unwrap_err();
            let message = error.lines().last().unwrap_or_default();
            assert!(!message.is_empty() && !message.contains("12345"), "{value}: {error}");
        }
    }
}
