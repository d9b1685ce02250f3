//! TLS handshakes with clients, each in its own session's task: a slow one holds nobody up.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::brokers::Brokers;
use super::complaints::Complaints;
use super::limits::{Limit, Limits};
use super::metrics::SessionMetrics;
use crate::net::Stream;
use crate::net::tls::ServerTls;

/// What handshakes need.
#[derive(Debug)]
pub(super) struct Handshakes {
    pub tls: Arc<ServerTls>,
    pub limits: Arc<ArcSwap<Limits>>,
    pub brokers: Arc<Brokers>,
    pub metrics: Arc<SessionMetrics>,
}

impl Handshakes {
    /// Shakes hands with a client: its connection, and the broker that it asks for by a name, if it does.
    ///
    /// # Errors
    /// Why the connection ends, in a word for metrics; what an operator has to know was told.
    pub async fn shake(
        &self,
        client: TcpStream,
        peer: SocketAddr,
        complaints: &Complaints,
    ) -> Result<(Stream, Option<i32>), &'static str> {
        let within = self.limits.load().handshake_within;
        let accepted = match timeout(within, self.tls.accept(client)).await {
            Ok(Ok(accepted)) => accepted,
            Ok(Err(failure)) => {
                if !failure.is_expected
                    && let Some(others) = complaints.note(failure.reason)
                {
                    warn!(address = %peer.ip(), reason = failure.reason, others, %failure, "no TLS connection to a client");
                }
                debug!(%peer, reason = failure.reason, %failure, "client connection closed");
                return Err(failure.reason);
            }
            Err(_) => {
                self.metrics.limit_hit(Limit::Handshake);
                let reason = Limit::Handshake.as_str();
                debug!(%peer, reason, "client connection closed: its TLS handshake takes too long");
                return Err(reason);
            }
        };
        let node_id = accepted.server_name.as_deref().and_then(|name| self.brokers.named(name));
        if let Some(node_id) = node_id
            && self.brokers.route(node_id).is_none()
        {
            let reason = "unknown_broker";
            if let Some(others) = complaints.note(reason) {
                warn!(
                    address = %peer.ip(),
                    node_id,
                    others,
                    "a client asks for a broker that the local cluster does not have: its connection is closed"
                );
            }
            debug!(%peer, node_id, reason, "client connection closed");
            return Err(reason);
        }
        Ok((Stream::Tls(Box::new(accepted.stream)), node_id))
    }
}
