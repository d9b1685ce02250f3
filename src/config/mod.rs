//! proxy.toml, read once and checked: what comes out of here is safe to use without another look.
//!
//! Owns the configuration's shape ([`types`]), the values in it with their units ([`values`]), what they must obey
//! together (`rules`), and the words in which an operator is told what is wrong ([`error`]). It reads one file; it opens
//! no socket and resolves no name (that is `diffluent check`), and nothing here is changed after it was parsed.
//!
//! Every error names the file, the line where known, the key, what is wrong, and an example of what is right; the
//! examples are the lines of the repository's `proxy.toml`, so they can't go out of date.

pub mod changes;
pub mod error;
pub mod redact;
pub mod reference;
mod rules;
pub mod secret;
pub mod types;
pub mod values;

use std::path::Path;

pub use changes::{Change, How};
pub use error::{ConfigError, Problem};
pub use redact::redacted;
pub use reference::reference;
pub use rules::RATE_LIMIT_MIN;
pub use secret::{Secret, SecretError};
pub use types::is_of_mirror_maker;
pub use types::{
    Admin, ClientAuth, Cluster, ClusterTls, Config, Forward, HISTORY_TOPIC, Mechanism, Mirror, OnRegionTopicLost,
    Proxy, ProxyTls, Region, Sasl, Start, TokenFor,
};
pub use values::{Advertise, ByteSize, HostPort, HttpUrl, Name, PortRange, TopicPattern, TopicTemplate};

impl Config {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// [`ConfigError`], whose text is meant for the operator.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        let file = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&file, &text),
            Err(source) => Err(ConfigError::Read { file, source }),
        }
    }

    /// Checks `text`, which was read from `file_name` (used in errors only).
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(file_name: &str, text: &str) -> Result<Self, ConfigError> {
        let deserializer = toml::Deserializer::parse(text).map_err(|e| error::syntax(file_name, text, &e))?;
        let mut config: Config =
            serde_path_to_error::deserialize(deserializer).map_err(|e| error::shape(file_name, text, e))?;
        let known: Vec<String> = config.region.iter().map(|region| region.name.to_string()).collect();
        for region in &mut config.region {
            region.own_name = config.proxy.name.to_string();
            region.known_regions.clone_from(&known);
        }
        let problems = rules::problems(&config);
        if problems.is_empty() { Ok(config) } else { Err(error::invalid(file_name, text, problems)) }
    }
}

#[cfg(test)]
mod tests;
