//! A model cluster on loopback ports.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::front::serve_connection;
use super::{Model, State};
use crate::delay::{DelayLine, DelaySpec, Relay};

/// A running cluster; dropped, its ports close.
#[derive(Debug)]
pub struct TcpCluster {
    model: Arc<Model>,
    bootstrap: String,
    _brokers: JoinSet<()>,
    _line: Option<DelayLine>,
    _relays: Vec<Relay>,
}

impl TcpCluster {
    /// Starts `brokers` brokers on ports that the system chooses, all of them `distance` away from their clients.
    ///
    /// # Errors
    /// When a port can't be bound.
    pub async fn start(cluster_id: &str, brokers: i32, distance: Option<DelaySpec>) -> Result<Self> {
        let line = distance.map(DelayLine::new).transpose()?;
        let mut listeners = Vec::new();
        let mut ports = Vec::new();
        let mut relays = Vec::new();
        for _ in 0..brokers {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("no port for a model broker")?;
            let address = listener.local_addr().context("a port without an address")?;
            listeners.push(listener);
            match &line {
                None => ports.push(address.port()),
                Some(line) => {
                    let relay = line.relay(0, &address.to_string()).await?;
                    ports.push(relay.addr().port());
                    relays.push(relay);
                }
            }
        }
        let port = |node_id: i32| ports[usize::try_from(node_id - 1).unwrap_or(0)];
        let state = State::new(cluster_id, brokers, |node_id| ("127.0.0.1".to_owned(), port(node_id)));
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
        let model = Model::new(state, clock);
        let mut tasks = JoinSet::new();
        for (node_id, listener) in (1..).zip(listeners) {
            let model = model.clone();
            tasks.spawn(async move {
                let mut connections = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    // Answers are small: nobody gains by waiting for more of them.
                    let _ = stream.set_nodelay(true);
                    let model = model.clone();
                    connections.spawn(async move { serve_connection(&model, node_id, stream).await });
                    while connections.try_join_next().is_some() {}
                }
            });
        }
        let bootstrap = format!("127.0.0.1:{}", ports.first().copied().unwrap_or(0));
        Ok(Self { model, bootstrap, _brokers: tasks, _line: line, _relays: relays })
    }

    /// The first broker's address.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// The cluster itself.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }
}
