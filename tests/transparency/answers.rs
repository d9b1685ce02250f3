//! What may differ between an answer of the cluster and the same answer through the proxy, in one place.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use kafka_protocol::messages::{
    DescribeClusterResponse, FetchResponse, FindCoordinatorResponse, MetadataResponse, ProduceResponse,
    ShareFetchResponse,
};
use kafka_protocol::protocol::StrBytes;

/// A broker's address in an answer: node id, host, port.
pub type Address<'a> = (i32, &'a mut StrBytes, &'a mut i32);

/// Where a broker is reached: by node id, host and port.
pub type Places = BTreeMap<i32, (String, u16)>;

/// An answer with brokers' addresses in it.
pub trait Addressed: Clone + std::fmt::Debug + PartialEq {
    /// All addresses in it.
    fn addresses(&mut self) -> Vec<Address<'_>>;
    /// Blanks what differs from call to call at the broker itself.
    fn blank_noise(&mut self);
}

/// Checks that every address in an answer is that of `places`, and blanks it, with all else that may differ between two calls.
/// Node ids stay. An id below 0 is no broker, and must have no address.
pub fn blank<A: Addressed>(mut answer: A, places: &Places) -> Result<A> {
    for (node_id, host, port) in answer.addresses() {
        match places.get(&node_id) {
            Some((told_host, told_port)) => ensure!(
                **host == **told_host && *port == i32::from(*told_port),
                "broker {node_id} is told to be at {host}:{port} instead of {told_host}:{told_port}"
            ),
            None => ensure!(node_id == -1 && host.is_empty() && *port == -1, "broker {node_id} at {host}:{port}"),
        }
        *host = StrBytes::default();
        *port = 0;
    }
    answer.blank_noise();
    Ok(answer)
}

impl Addressed for MetadataResponse {
    fn addresses(&mut self) -> Vec<Address<'_>> {
        self.brokers.iter_mut().map(|broker| (broker.node_id.0, &mut broker.host, &mut broker.port)).collect()
    }

    fn blank_noise(&mut self) {
        self.throttle_time_ms = 0;
        // In KRaft mode a broker names any live broker here, another one each time.
        self.controller_id.0 = 0;
        // Different brokers list the same in different orders.
        self.brokers.sort_by_key(|broker| broker.node_id.0);
        self.topics.sort_by(|a, b| a.name.cmp(&b.name));
        for topic in &mut self.topics {
            topic.partitions.sort_by_key(|partition| partition.partition_index);
        }
    }
}

impl Addressed for FindCoordinatorResponse {
    fn addresses(&mut self) -> Vec<Address<'_>> {
        let several = self.coordinators.iter_mut().map(|one| (one.node_id.0, &mut one.host, &mut one.port));
        let mut addresses: Vec<_> = several.collect();
        // The fields of versions 0-3; a decoded answer of a later version has the defaults.
        if !self.host.is_empty() || self.port != 0 {
            addresses.push((self.node_id.0, &mut self.host, &mut self.port));
        }
        addresses
    }

    fn blank_noise(&mut self) {
        self.throttle_time_ms = 0;
    }
}

impl Addressed for DescribeClusterResponse {
    fn addresses(&mut self) -> Vec<Address<'_>> {
        self.brokers.iter_mut().map(|broker| (broker.broker_id.0, &mut broker.host, &mut broker.port)).collect()
    }

    fn blank_noise(&mut self) {
        self.throttle_time_ms = 0;
        // As in Metadata.
        self.controller_id.0 = 0;
        self.brokers.sort_by_key(|broker| broker.broker_id.0);
    }
}

impl Addressed for ProduceResponse {
    fn addresses(&mut self) -> Vec<Address<'_>> {
        self.node_endpoints.iter_mut().map(|node| (node.node_id.0, &mut node.host, &mut node.port)).collect()
    }

    fn blank_noise(&mut self) {
        self.throttle_time_ms = 0;
    }
}

impl Addressed for FetchResponse {
    fn addresses(&mut self) -> Vec<Address<'_>> {
        self.node_endpoints.iter_mut().map(|node| (node.node_id.0, &mut node.host, &mut node.port)).collect()
    }

    fn blank_noise(&mut self) {
        self.throttle_time_ms = 0;
        self.session_id = 0;
    }
}

impl Addressed for ShareFetchResponse {
    fn addresses(&mut self) -> Vec<Address<'_>> {
        self.node_endpoints.iter_mut().map(|node| (node.node_id.0, &mut node.host, &mut node.port)).collect()
    }

    fn blank_noise(&mut self) {
        self.throttle_time_ms = 0;
    }
}
