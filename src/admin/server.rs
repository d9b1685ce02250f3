//! The admin port's sockets and their bounds.
//!
//! `axum::serve` has no deadline for a request's head and no limit on connections, so hyper is driven from here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::AdminState;
use super::monitor::Monitor;
use super::routes::{self, Admin};

/// Connections at a time. When full, further ones wait in the kernel's queue.
pub const CONNECTIONS_MAX: usize = 64;
/// How long a connection may take to send the head of its first or next request.
pub const HEAD_TIME_MAX: Duration = Duration::from_secs(30);
/// How long an answer may take to be made.
pub const REQUEST_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a connection may live, whatever it does: bounds a peer that never reads its answer.
pub const CONNECTION_TIME_MAX: Duration = Duration::from_secs(600);
/// How long a connection that is told to end may still write.
pub const CLOSE_TIME_MAX: Duration = Duration::from_secs(2);
/// The longest request body; no route reads one.
pub const BODY_BYTES_MAX: usize = 64 << 10;

const _: () = assert!(REQUEST_TIME_MAX.as_secs() < HEAD_TIME_MAX.as_secs());
const _: () = assert!(HEAD_TIME_MAX.as_secs() < CONNECTION_TIME_MAX.as_secs());

/// Serves the admin port on `listener` until `shutdown` becomes true (or its sender is gone), then lets answers that are being
/// written finish within [`CLOSE_TIME_MAX`].
pub async fn serve(listener: TcpListener, state: AdminState, mut shutdown: watch::Receiver<bool>) {
    let (close, closing) = watch::channel(false);
    let monitor = Arc::new(Monitor::new());
    let (lag, traffic) = (Arc::clone(&state.lag), Arc::clone(&state.traffic));
    let router = routes::router(Admin::new(state, Arc::clone(&monitor), closing.clone()));
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut looking = JoinSet::new();
    looking.spawn(async move { monitor.run(&*lag, &*traffic).await });
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            // Never closed, so this only waits; the slot is taken before the connection is.
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        tokio::select! {
            () = told(&mut shutdown) => break,
            Some(Err(error)) = looking.join_next() => tracing::error!(%error, "nobody looks at the lag any more: the page stands still"),
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                if let Err(error) = ended {
                    warn!(%error, "an admin connection's task failed");
                }
            }
            (slot, accepted) = accepted => match accepted {
                Ok((stream, peer)) => {
                    debug!(%peer, "admin connection opened");
                    let (router, closing) = (router.clone(), closing.clone());
                    connections.spawn(async move {
                        connection(stream, peer, router, closing).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    // Out of file descriptors, mostly: trying again at once would spin.
                    warn!(%error, "the admin port can't accept a connection");
                    sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    drop(listener);
    looking.shutdown().await;
    close.send_replace(true);
    let drained = timeout(CLOSE_TIME_MAX, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        connections.shutdown().await;
    }
}

/// Waits until the signal is true, or nobody is left who could set it. Safe to drop at any time.
async fn told(signal: &mut watch::Receiver<bool>) {
    let _ = signal.wait_for(|on| *on).await;
}

/// One connection until it ends, is told to, or is too old.
async fn connection(stream: TcpStream, peer: SocketAddr, router: Router, mut closing: watch::Receiver<bool>) {
    let routes = TowerToHyperService::new(router);
    let service = service_fn(move |mut request| {
        request.extensions_mut().insert(ConnectInfo(peer));
        routes.call(request)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => Some(ended),
        () = told(&mut closing) => None,
        () = sleep(CONNECTION_TIME_MAX) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            served.as_mut().graceful_shutdown();
            match timeout(CLOSE_TIME_MAX, served).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        debug!(%error, "admin connection ended");
    }
}
