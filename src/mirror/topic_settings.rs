//! What a topic that is made in a region takes over from the local one: the settings that decide what its records mean and which it can hold. All others are
//! the region's own, and a topic that is there already is left as it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::client::ClientError;
use crate::client::cluster::Cluster;
use crate::client::configs::{Setting, TOPIC, describe};
use crate::client::error_code;

/// What becomes of old records, how large a batch may be, and whose time the records bear.
const KEYS: [&str; 3] = ["cleanup.policy", "max.message.bytes", "message.timestamp.type"];
const LOG_APPEND_TIME: &str = "LogAppendTime";

/// Whether a topic takes this setting of the local one over: it was set for that topic, or its brokers stamp their own time.
pub fn is_taken_over(key: &str, setting: &Setting) -> bool {
    KEYS.contains(&key) && (setting.own || setting.value == LOG_APPEND_TIME)
}

/// The settings of local topics that are taken over, key and value. A topic whose settings can't be read gets none.
///
/// # Errors
/// Those of the call.
pub async fn of(
    local: &Cluster,
    topics: impl Iterator<Item = &Arc<str>>,
) -> Result<BTreeMap<Arc<str>, Vec<(String, String)>>, ClientError> {
    let mut settings = BTreeMap::new();
    for (topic, values) in describe(local, None, TOPIC, topics.map(ToString::to_string), &KEYS).await? {
        match values {
            Ok(values) => {
                let taken_over = values.into_iter().filter(|(key, setting)| is_taken_over(key, setting));
                settings.insert(Arc::from(topic), taken_over.map(|(key, setting)| (key, setting.value)).collect());
            }
            Err(error_code::UNKNOWN_TOPIC_OR_PARTITION) => {}
            Err(code) => tracing::warn!(%topic, error = error_code::describe(code),
                "the topic's settings can't be read in the local cluster: where it is made in a region, it gets that region's defaults; \
                 allow diffluent's principal to read them (kafka-acls --operation DescribeConfigs)"),
        }
    }
    Ok(settings)
}
