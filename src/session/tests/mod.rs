//! Sessions against a scripted broker: the cases that real brokers and clients show rarely, or never on purpose.

mod capture;
mod front;
mod relay;

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};

use super::brokers::{Advertise, Brokers};
use super::relay::Shared;
use crate::capture::Capture;

/// Far more than anything here takes; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

fn shared() -> Arc<Shared> {
    shared_with(Capture::new(1 << 20))
}

fn shared_with(capture: Capture) -> Arc<Shared> {
    let advertise = Advertise::Ports { host: "proxy.example".into(), ports: 0..=0 };
    let brokers = Arc::new(Brokers::new(advertise, [127, 0, 0, 1].into()));
    brokers.set_bootstrap_port(9092);
    Arc::new(Shared::new(brokers, Arc::new(capture), Arc::default(), 1 << 20))
}

/// A frame: length and bytes.
fn frame(bytes: &[u8]) -> Vec<u8> {
    let mut frame = (bytes.len() as i32).to_be_bytes().to_vec();
    frame.extend(bytes);
    frame
}

/// A request with header version 1 (no tags) and a client id.
fn request(api_key: i16, version: i16, correlation_id: i32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(api_key.to_be_bytes());
    bytes.extend(version.to_be_bytes());
    bytes.extend(correlation_id.to_be_bytes());
    bytes.extend([0, 2, b'm', b'e']);
    bytes.extend(body);
    frame(&bytes)
}

/// An answer with header version 0.
fn answer(correlation_id: i32, body: &[u8]) -> Vec<u8> {
    let mut bytes = correlation_id.to_be_bytes().to_vec();
    bytes.extend(body);
    frame(&bytes)
}

/// A Produce v3 request without topics.
fn produce(correlation_id: i32, acks: i16) -> Vec<u8> {
    let mut body = vec![0xff, 0xff];
    body.extend(acks.to_be_bytes());
    body.extend(1000_i32.to_be_bytes());
    body.extend(0_i32.to_be_bytes());
    request(0, 3, correlation_id, &body)
}

/// A Metadata v0 answer with these brokers, and `topics` bytes behind them.
fn metadata(correlation_id: i32, brokers: &[(i32, &str, u16)], topics: &[u8]) -> Vec<u8> {
    let mut body = (brokers.len() as i32).to_be_bytes().to_vec();
    for (node_id, host, port) in brokers {
        body.extend(node_id.to_be_bytes());
        body.extend((host.len() as i16).to_be_bytes());
        body.extend(host.as_bytes());
        body.extend(i32::from(*port).to_be_bytes());
    }
    body.extend(topics);
    answer(correlation_id, &body)
}

async fn read(from: &mut (impl AsyncRead + Unpin), bytes: usize) -> Vec<u8> {
    let mut read = vec![0; bytes];
    let done = tokio::time::timeout(PATIENCE, from.read_exact(&mut read)).await;
    done.expect("nothing came").expect("the connection ended");
    read
}

async fn read_to_end(from: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut read = Vec::new();
    let done = tokio::time::timeout(PATIENCE, from.read_to_end(&mut read)).await;
    done.expect("no end came").expect("the connection failed");
    read
}
