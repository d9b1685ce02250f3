//! How topics and brokers are set up (DescribeConfigs, KIP-226 and KIP-569).

use std::collections::BTreeMap;

use kafka_protocol::messages::DescribeConfigsRequest;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::protocol::StrBytes;

use super::ClientError;
use super::cluster::Cluster;

/// Kafka's number for topics among the resources that have settings.
pub const TOPIC: i8 = 2;
/// Kafka's number for brokers.
pub const BROKER: i8 = 4;
/// Set for the topic itself, not for its brokers.
const SOURCE_TOPIC: i8 = 1;

/// A setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its value.
    pub value: String,
    /// Whether it was set for this topic.
    pub own: bool,
}

/// Settings by key.
pub type Values = BTreeMap<String, Setting>;

/// The settings of these keys, or Kafka's error code, by the resource's name. Any broker (`None`) answers for topics; each answers for itself alone.
///
/// # Errors
/// Those of the call.
pub async fn describe(
    cluster: &Cluster,
    node_id: Option<i32>,
    resource_type: i8,
    names: impl Iterator<Item = String>,
    keys: &[&'static str],
) -> Result<BTreeMap<String, Result<Values, i16>>, ClientError> {
    let resource = |name: String| {
        DescribeConfigsResource::default()
            .with_resource_type(resource_type)
            .with_resource_name(StrBytes::from_string(name))
            .with_configuration_keys(Some(keys.iter().map(|key| StrBytes::from_static_str(key)).collect()))
    };
    let request = DescribeConfigsRequest::default().with_resources(names.map(resource).collect());
    let answer = match node_id {
        Some(node_id) => cluster.call(node_id, &request).await?,
        None => cluster.call_any(&request).await?,
    };
    let found = answer.results.into_iter().map(|result| {
        let values = result.configs.into_iter().filter_map(|config| {
            let own = config.config_source == SOURCE_TOPIC;
            Some((config.name.to_string(), Setting { value: config.value?.to_string(), own }))
        });
        let values = if result.error_code == 0 { Ok(values.collect()) } else { Err(result.error_code) };
        (result.resource_name.to_string(), values)
    });
    Ok(found.collect())
}
