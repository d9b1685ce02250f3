//! The ports that clients connect to: one for bootstrap, one per broker.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, error, info, warn};

use super::brokers::{Advertise, Brokers};
use super::clients::ClientView;
use super::complaints::Complaints;
use super::error::SessionError;
use super::handshake::Handshakes;
use super::in_flight::InFlight;
use super::limits::{Admission, Admitted, Limit, Limits};
use super::metrics::SessionMetrics;
use super::relay::{Shared, relay, stopped};
use super::watch::Watch;
use crate::capture::Capture;
use crate::net::tls::ServerTls;
use crate::net::{Bound, DialError, Dialer, Listener, Stream, listen};
use crate::wire::frame::BadInput;

/// When the system has no room for another connection (file descriptors, memory), accepting pauses for this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is wrong with many clients is told this often, for each kind of trouble.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// How the front is set up.
#[derive(Clone, Debug)]
pub struct FrontConfig {
    /// `host:port` of the bootstrap port. The ports of brokers are bound at the same host.
    pub listen: String,
    /// How clients find each broker.
    pub advertise: Advertise,
    /// What clients speak; `None`: plaintext.
    pub tls: Option<Arc<ServerTls>>,
    /// `host:port` of brokers of the local cluster to begin with.
    pub bootstrap_servers: Vec<String>,
    /// How the local cluster's brokers are dialed.
    pub dialer: Dialer,
    /// What may be changed while clients are served.
    pub settings: FrontSettings,
}

/// What may be changed while clients are served ([`Controls::configure`]). No connection that is there ends because of a change.
#[derive(Clone, Debug)]
pub struct FrontSettings {
    /// The longest request frame taken, in bytes; of a new connection.
    pub frame_bytes_max: usize,
    /// How long a connection to a local broker may take to come about, all of its addresses together.
    pub dial_timeout: Duration,
    /// How long a shutdown waits for the answers that are under way.
    pub drain_within: Duration,
    /// What clients may take.
    pub limits: Limits,
}

/// Why there is no front.
#[derive(Debug, Error)]
pub enum FrontError {
    /// `listen` is no address.
    #[error("listen address {listen:?}: {source}")]
    Listen {
        /// What was configured.
        listen: String,
        /// What is wrong with it.
        source: io::Error,
    },
    /// The bootstrap port can't be bound.
    #[error("port {address} can't be bound: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// A bootstrap server is not `host:port`.
    #[error("bootstrap server {0:?} is not host:port")]
    BootstrapServer(String),
    /// A bound port can't be accepted from.
    #[error("can't accept: {0}")]
    Accept(#[source] io::Error),
}

/// All client ports, bound. Clients that connect wait until [`Front::serve`] runs.
#[derive(Debug)]
pub struct Front {
    bootstrap: Bound,
    context: Arc<Context>,
}

#[derive(Debug)]
struct Context {
    shared: Shared,
    handshakes: Option<Handshakes>,
    bootstrap_servers: Vec<(String, u16)>,
    dialer: Dialer,
    complaints: Complaints,
    times: ArcSwap<Times>,
    limits: Arc<ArcSwap<Limits>>,
    rotation: AtomicUsize,
    admission: Arc<Admission>,
    watch: Watch,
}

/// How long the front waits.
#[derive(Clone, Copy, Debug)]
struct Times {
    dial: Duration,
    drain: Duration,
}

/// What can be changed of a [`Front`] that serves.
#[derive(Clone, Debug)]
pub struct Controls {
    context: Arc<Context>,
}

impl Controls {
    /// Other settings from now on. Connections that are there stay, also where there are now more than may be.
    pub fn configure(&self, settings: FrontSettings) {
        let FrontSettings { frame_bytes_max, dial_timeout, drain_within, limits } = settings;
        self.context.shared.set_frame_bytes_max(frame_bytes_max);
        self.context.times.store(Arc::new(Times { dial: dial_timeout, drain: drain_within }));
        self.context.shared.metrics.set_connections_limit(limits.connections);
        self.context.limits.store(Arc::new(limits));
    }

    /// Who the clients are, those that produce most first.
    pub fn clients(&self) -> Vec<ClientView> {
        self.context.watch.clients()
    }
}

/// Who a port stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Any,
    Node(i32),
}

impl Front {
    /// Binds a port for each of the brokers that are `known` (node id, host, port), and then the bootstrap port, so that a client that
    /// comes back to a broker's port after a restart is served.
    ///
    /// # Errors
    /// See [`FrontError`]. A broker's port that can't be bound is no error: it is logged, and the broker stands behind the bootstrap port.
    pub fn bind(
        config: FrontConfig,
        mut known: Vec<(i32, String, u16)>,
        capture: Arc<Capture>,
        metrics: Arc<SessionMetrics>,
    ) -> Result<Self, FrontError> {
        let listen = listen::resolve(&config.listen)
            .map_err(|source| FrontError::Listen { listen: config.listen.clone(), source })?;
        let mut bootstrap_servers = Vec::new();
        for server in &config.bootstrap_servers {
            bootstrap_servers.push(host_and_port(server).ok_or_else(|| FrontError::BootstrapServer(server.clone()))?);
        }
        let brokers = Arc::new(Brokers::new(config.advertise, listen.ip()));
        known.sort();
        for (node_id, host, port) in known {
            brokers.learn(node_id, &host, port);
        }
        let bootstrap = Bound::bind(listen).map_err(|source| FrontError::Bind { address: listen, source })?;
        brokers.set_bootstrap_port(bootstrap.address().port());
        let FrontSettings { frame_bytes_max, dial_timeout, drain_within, limits } = config.settings;
        metrics.set_connections_limit(limits.connections);
        let limits = Arc::new(ArcSwap::from_pointee(limits));
        let handshakes = config.tls.map(|tls| Handshakes {
            tls,
            limits: Arc::clone(&limits),
            brokers: Arc::clone(&brokers),
            metrics: Arc::clone(&metrics),
        });
        let context = Context {
            admission: Admission::new(Arc::clone(&limits), Arc::clone(&metrics)),
            watch: Watch::new(Arc::clone(&limits)),
            shared: Shared::new(brokers, capture, metrics, frame_bytes_max),
            handshakes,
            bootstrap_servers,
            dialer: config.dialer,
            complaints: Complaints::new(TOLD_EVERY),
            times: ArcSwap::from_pointee(Times { dial: dial_timeout, drain: drain_within }),
            limits,
            rotation: AtomicUsize::new(0),
        };
        Ok(Self { bootstrap, context: Arc::new(context) })
    }

    /// What can be changed while it serves.
    pub fn controls(&self) -> Controls {
        Controls { context: Arc::clone(&self.context) }
    }

    /// The bootstrap port.
    pub fn bootstrap_addr(&self) -> SocketAddr {
        self.bootstrap.address()
    }

    /// The routing table, with the ports of brokers.
    pub fn brokers(&self) -> Arc<Brokers> {
        Arc::clone(&self.context.shared.brokers)
    }

    /// Serves clients until `shutdown` is true (or its sender is gone), then lets sessions finish what is under way, and returns when all have ended,
    /// after [`FrontSettings::drain_within`] at most.
    ///
    /// # Errors
    /// Only at the start, when the runtime can't watch the ports.
    pub async fn serve(self, shutdown: watch::Receiver<bool>) -> Result<(), FrontError> {
        let Self { bootstrap, context } = self;
        let brokers = Arc::clone(&context.shared.brokers);
        let mut ports = JoinSet::new();
        let start = |ports: &mut JoinSet<()>, bound: Bound, target: Target| {
            let listener = bound.listen()?;
            ports.spawn(accept(Arc::clone(&context), listener, target, shutdown.clone()));
            Ok::<_, io::Error>(())
        };
        for (node_id, bound) in brokers.take_bound() {
            start(&mut ports, bound, Target::Node(node_id)).map_err(FrontError::Accept)?;
        }
        let address = bootstrap.address();
        start(&mut ports, bootstrap, Target::Any).map_err(FrontError::Accept)?;
        info!(%address, brokers = brokers.routes().len(), "clients are served");
        let mut stop = shutdown.clone();
        let mut watching = pin!(context.watch.run(&context.shared.metrics));
        loop {
            tokio::select! {
                () = brokers.arrived.notified() => {
                    for (node_id, bound) in brokers.take_bound() {
                        if let Err(error) = start(&mut ports, bound, Target::Node(node_id)) {
                            error!(node_id, %error, "this broker's port is bound but can't be served; restart");
                        }
                    }
                }
                () = &mut watching => {}
                () = stopped(&mut stop) => break,
            }
        }
        while let Some(ended) = ports.join_next().await {
            log_panic(ended);
        }
        Ok(())
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        error!(%error, "a task has panicked; please report this");
    }
}

/// `host:port`, also `[v6]:port`.
fn host_and_port(address: &str) -> Option<(String, u16)> {
    let (host, port) = address.trim().rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

/// Accepts on one port, owns its sessions, and returns when all have ended.
async fn accept(context: Arc<Context>, listener: Listener, target: Target, shutdown: watch::Receiver<bool>) {
    let mut stop = shutdown.clone();
    let mut sessions = JoinSet::new();
    let mut refused = false;
    loop {
        tokio::select! {
            () = stopped(&mut stop) => break,
            Some(ended) = sessions.join_next(), if !sessions.is_empty() => log_panic(ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    refused = false;
                    let Some(admitted) = context.admission.admit(peer.ip()) else { continue };
                    let (number, activity) = context.watch.begin();
                    let in_flight = Arc::new(InFlight::new(context.limits.load().in_flight, activity));
                    let counted = Counted::new(Arc::clone(&context), number, Arc::clone(&in_flight), admitted);
                    let session = sessions.spawn(serve(counted, stream, peer, target, shutdown.clone()));
                    context.watch.add(number, peer, in_flight, session);
                }
                // A client that went away while it waited.
                Err(error) if super::is_expected_io_error(&error) => {}
                Err(error) => {
                    if !std::mem::replace(&mut refused, true) {
                        warn!(address = %listener.address(), %error, "connections can't be accepted; trying on");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let deadline = Instant::now() + context.times.load().drain;
    while let Ok(Some(ended)) = timeout_at(deadline, sessions.join_next()).await {
        log_panic(ended);
    }
    if !sessions.is_empty() {
        debug!(sessions = sessions.len(), "sessions are cut off");
        sessions.shutdown().await;
    }
}

/// Counts a connection until it ends, however it ends, and gives back its place.
struct Counted {
    context: Arc<Context>,
    number: u64,
    in_flight: Arc<InFlight>,
    reason: &'static str,
    _admitted: Admitted,
}

impl Counted {
    fn new(context: Arc<Context>, number: u64, in_flight: Arc<InFlight>, admitted: Admitted) -> Self {
        context.shared.metrics.opened();
        Self { context, number, in_flight, reason: "aborted", _admitted: admitted }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let reason = self.in_flight.over().map_or(self.reason, Limit::as_str);
        self.context.shared.metrics.ended(reason);
        self.context.watch.remove(self.number);
    }
}

/// One client connection from accept to end. The one place where its failure is logged.
async fn serve(
    mut counted: Counted,
    client: TcpStream,
    peer: SocketAddr,
    mut target: Target,
    shutdown: watch::Receiver<bool>,
) {
    let (context, in_flight) = (Arc::clone(&counted.context), Arc::clone(&counted.in_flight));
    let client = match &context.handshakes {
        None => Stream::Plain(client),
        Some(handshakes) => match handshakes.shake(client, peer, &context.complaints).await {
            Ok((stream, asked_for)) => {
                target = asked_for.map_or(target, Target::Node);
                stream
            }
            Err(reason) => {
                counted.reason = reason;
                return;
            }
        },
    };
    let (broker, node_id) = match context.dial(target).await {
        Ok(dialed) => dialed,
        Err(error) => {
            counted.reason = "dial_failed";
            if let (DialError::Tls { .. }, Some(others)) = (&error, context.complaints.note("dial_failed")) {
                warn!(%error, others, "clients are turned away: there is no TLS connection to the local broker");
            }
            debug!(%peer, %error, "client connection closed: the local broker can't be reached");
            return;
        }
    };
    match relay(&context.shared, client, broker, node_id, &in_flight, shutdown).await {
        Ok(ending) => {
            counted.reason = ending.reason();
            debug!(%peer, node_id, reason = counted.reason, "client connection ended");
        }
        Err(error) => {
            counted.reason = error.reason();
            if matches!(error, SessionError::BadInput(BadInput::TlsClientHello))
                && let Some(others) = context.complaints.note(counted.reason)
            {
                warn!(
                    address = %peer.ip(),
                    others,
                    "a client speaks TLS, and this port does not: set [proxy.tls], or security.protocol=PLAINTEXT (or SASL_PLAINTEXT) in the client"
                );
            }
            if error.is_expected() {
                debug!(%peer, node_id, reason = counted.reason, %error, "client connection closed");
            } else {
                error!(%peer, node_id, reason = counted.reason, %error, "client connection closed");
            }
        }
    }
}

impl Context {
    /// Connects to the broker that a port stands for; for the bootstrap port to any that answers, beginning with another one each time.
    async fn dial(&self, target: Target) -> Result<(Stream, i32), DialError> {
        let brokers = &self.shared.brokers;
        let within = self.times.load().dial;
        if let Target::Node(node_id) = target
            && let Some(route) = brokers.route(node_id)
        {
            let stream = self.dialer.dial(&route.host, route.port, within).await?;
            return Ok((stream, node_id));
        }
        let mut candidates = self.bootstrap_servers.clone();
        let configured = candidates.len();
        let turn = self.rotation.fetch_add(1, Ordering::Relaxed);
        candidates.rotate_left(turn.checked_rem(configured).unwrap_or(0));
        for route in brokers.routes() {
            if !candidates.iter().any(|(host, port)| **host == *route.host && *port == route.port) {
                candidates.push((route.host.to_string(), route.port));
            }
        }
        let mut last = None;
        for (host, port) in candidates {
            match self.dialer.dial(&host, port, within).await {
                Ok(stream) => return Ok((stream, brokers.node_at(&host, port).unwrap_or(-1))),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| DialError::Resolve {
            host: String::new(),
            port: 0,
            source: io::Error::new(io::ErrorKind::NotFound, "no bootstrap server is configured"),
        }))
    }
}
