//! The configuration as it may be shown and kept: everything but secrets, of which it says whether they are set.

use serde_json::{Map, Value};

use super::Config;

/// A key whose last word, between `_`, is one of these holds a secret. [`Secret`](crate::config::Secret) hides itself as well: this is for what
/// is no [`Secret`](crate::config::Secret) and should be.
const SECRET_WORDS: [&str; 4] = ["password", "secret", "token", "passphrase"];
/// Where a secret is, is none.
const PLACES: [&str; 2] = ["env", "file"];

/// The effective values, defaults filled in; for secrets where they are, `"set"` or `"not set"`.
pub fn redacted(config: &Config) -> Value {
    let mut value = serde_json::to_value(config).unwrap_or_else(|error| unreachable!("plain data: {error}"));
    hide(&mut value);
    value
}

pub(super) fn hide(value: &mut Value) {
    match value {
        Value::Object(keys) => hide_keys(keys),
        Value::Array(items) => items.iter_mut().for_each(hide),
        _ => {}
    }
}

fn hide_keys(keys: &mut Map<String, Value>) {
    for (key, value) in keys.iter_mut() {
        if !is_secret(key) {
            hide(value);
        } else if !is_place(value) {
            let empty = matches!(value, Value::Null) || value.as_str().is_some_and(str::is_empty);
            *value = Value::from(if empty { "not set" } else { "set" });
        }
    }
}

/// Whether a key of this name holds a secret.
pub(super) fn is_secret(key: &str) -> bool {
    key.rsplit('_').next().is_some_and(|word| SECRET_WORDS.contains(&word))
}

fn is_place(value: &Value) -> bool {
    value.as_object().is_some_and(|place| place.len() == 1 && place.keys().all(|key| PLACES.contains(&key.as_str())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_told_as_set_or_not_set_wherever_it_stands() {
        let mut value = serde_json::json!({
            "region": [{"name": "us", "sasl": {"username": "me", "password": "hunter2", "client_secret": null}}],
            "tls": {"key_passphrase": "", "password_file": "a/b", "tokens": 3, "secret": {"nested": "hunter2"}},
            "admin": {"token": {"file": "/run/token"}, "token_for": "commands", "token_endpoint": "https://idp/token"},
        });
        hide(&mut value);
        assert_eq!(
            value,
            serde_json::json!({
                "region": [{"name": "us", "sasl": {"username": "me", "password": "set", "client_secret": "not set"}}],
                "tls": {"key_passphrase": "not set", "password_file": "a/b", "tokens": 3, "secret": "set"},
                "admin": {"token": {"file": "/run/token"}, "token_for": "commands", "token_endpoint": "https://idp/token"},
            })
        );
    }
}
