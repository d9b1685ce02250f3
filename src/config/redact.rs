//! The configuration as it may be shown and kept: everything but secrets, of which it says whether they are set.

use serde_json::{Map, Value};

use super::Config;

/// A key that has one of these words in its name, between `_`, holds a secret, unless it names a file.
const SECRET_WORDS: [&str; 4] = ["password", "secret", "token", "passphrase"];
/// A key that ends so names a file: where a secret is, is none.
const FILE_ENDINGS: [&str; 3] = ["_file", "_path", "_env"];

/// The effective values, defaults filled in, `"set"` or `"not set"` for secrets.
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
        if is_secret(key) {
            let empty = matches!(value, Value::Null) || value.as_str().is_some_and(str::is_empty);
            *value = Value::from(if empty { "not set" } else { "set" });
        } else {
            hide(value);
        }
    }
}

/// Whether a key of this name holds a secret.
pub(super) fn is_secret(key: &str) -> bool {
    let names_a_file = FILE_ENDINGS.iter().any(|ending| key.ends_with(ending));
    !names_a_file && key.split('_').any(|word| SECRET_WORDS.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_told_as_set_or_not_set_wherever_it_stands() {
        let mut value = serde_json::json!({
            "region": [{"name": "us", "sasl": {"username": "me", "password": "hunter2", "client_secret": null}}],
            "tls": {"key_passphrase": "", "password_file": "a/b", "tokens": 3, "secret": {"nested": "hunter2"}},
        });
        hide(&mut value);
        assert_eq!(
            value,
            serde_json::json!({
                "region": [{"name": "us", "sasl": {"username": "me", "password": "set", "client_secret": "not set"}}],
                "tls": {"key_passphrase": "not set", "password_file": "a/b", "tokens": 3, "secret": "set"},
            })
        );
    }
}
