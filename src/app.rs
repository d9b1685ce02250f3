//! Wires the rooms together: start, serve, drain.
//!
//! # Order of a start
//! 1. The admin port, so that `/live` and `/ready` tell from the first moment on.
//! 2. The local cluster, as long as it takes: without it there is nothing to serve.
//! 3. A port for each broker, then the bootstrap port: a client that comes straight back after a restart is served.
//! 4. The mirror. A region that is down delays nothing.
//!
//! # Order of a stop
//! 1. `/ready` says 503 from the moment on in which the stop is asked for.
//! 2. No new clients; those that are there get the answers that are under way, and their connections end (`[proxy] drain_timeout` at most).
//! 3. The streams send what was captured, and what else they know of, to the regions that are up (`drain_timeout` once more at most).
//! 4. Every position is committed, the admin port closes, and the process exits with 0.
//!
//! Whatever is cut short is found again by the next start: nothing depends on an orderly end.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::access::{Access, AccessError, CertificateMetrics};
use crate::admin::{self, AdminState, ClusterView, Commands, LagFuture, LagSource, Readiness, SkipFuture};
use crate::capture::Capture;
use crate::client::cluster::{Cluster, Metadata};
use crate::config::{self, Config, Proxy};
use crate::journal::{Journal, Kind};
use crate::lag::State;
use crate::mirror::metrics::MirrorMetrics;
use crate::mirror::progress::Partition;
use crate::mirror::{Mirror, SkipError};
use crate::net::Connect;
use crate::session::{Advertise, Front, FrontConfig, FrontError, Limits, ServerNames, SessionMetrics, descriptors};
use crate::{COMMIT, VERSION, supervisor};

/// Pause before an unreachable local cluster is tried again.
const LOCAL_RETRY: Duration = Duration::from_millis(500);
/// How often it is looked whether the streams have sent everything.
const SETTLE_LOOK: Duration = Duration::from_millis(20);
/// How long the last commit of positions may take.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Fewer client connections than this are worth a warning where nobody asked for so few.
const CONNECTIONS_FEW: usize = 200;

/// Why diffluent can't run.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The configuration does not fit the cluster: exit code 64.
    #[error("{0}")]
    Misfit(String),
    /// Files that TLS needs can't be used: exit code 64.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The admin port can't be had.
    #[error("[admin] listen = \"{address}\": {source}; is another diffluent running?")]
    Admin {
        /// The configured address.
        address: String,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The clients' ports can't be had.
    #[error(transparent)]
    Front(#[from] FrontError),
}

/// Runs until `shutdown` is true, then lets what is under way finish and commits all progress.
///
/// # Errors
/// [`AppError`], only before the first client is served.
pub async fn run(config: Config, shutdown: watch::Receiver<bool>) -> Result<(), AppError> {
    let limits = limits(&config.proxy)?;
    let access = Arc::new(Access::load(&config)?);
    let mut registry = Registry::with_prefix("diffluent");
    let capture = Arc::new(Capture::new(config.mirror.buffer.as_usize()));
    capture.register(&mut registry);
    let session_metrics = Arc::new(SessionMetrics::default());
    session_metrics.register(&mut registry);
    let mirror_metrics = MirrorMetrics::register(&mut registry);
    let certificate_metrics = CertificateMetrics::register(&mut registry);
    certificate_metrics.tell(&access);

    let journal = Arc::new(Journal::default());
    journal.note(Kind::Started, &format!("diffluent {VERSION} ({COMMIT}) started"));
    let status = Arc::new(Status { shutdown: Some(shutdown.clone()), ..Status::default() });
    let address = config.admin.listen.to_string();
    let admin_port =
        TcpListener::bind(&address).await.map_err(|source| AppError::Admin { address: address.clone(), source })?;
    let (ready, known, told) = (status.clone(), status.clone(), status.clone());
    let telling = tokio::spawn(supervisor::tell(Arc::new(move || told.readiness()), shutdown.clone()));
    let state = AdminState {
        lag: status.clone(),
        commands: status.clone(),
        ready: Arc::new(move || ready.readiness()),
        registry: Arc::new(registry),
        clusters: Arc::new(move || known.clusters()),
        journal: journal.clone(),
        config: Arc::new(admin::redacted(&config)),
        partition_metrics: config.admin.partition_metrics,
        version: VERSION,
        commit: COMMIT,
    };
    let (stop_admin, admin_stopped) = watch::channel(false);
    let admin = tokio::spawn(admin::serve(admin_port, state, admin_stopped));

    let watching = tokio::spawn(access.clone().watch(journal.clone(), certificate_metrics));
    let parts = Parts { access, limits, capture, sessions: session_metrics, mirror: mirror_metrics };
    let result = serve(&config, parts, &status, &journal, shutdown).await;
    watching.abort();
    telling.abort();
    // Nobody listens if the admin port has failed: it is logged there.
    let _ = stop_admin.send(true);
    if let Err(error) = admin.await {
        tracing::error!(%error, "the admin port has failed");
    }
    result
}

/// What clients may take, within what file descriptors allow: their limit is raised as far as it may.
fn limits(proxy: &Proxy) -> Result<Limits, AppError> {
    let fit = descriptors::raise();
    let connections = match proxy.connection_limit {
        Some(wanted) => {
            let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
            if wanted > fit {
                return Err(AppError::Misfit(format!(
                    "[proxy] connection_limit = {wanted} takes {} file descriptors, and the limit of this process is enough for {fit} \
                     connections; raise it (LimitNOFILE= of systemd, `ulimit -Hn`) or lower connection_limit",
                    descriptors::needed(wanted)
                )));
            }
            wanted
        }
        None => fit.min(Limits::default().connections),
    };
    if proxy.connection_limit.is_none() && connections < CONNECTIONS_FEW {
        tracing::warn!(
            connections,
            "the limit of file descriptors allows few client connections; raise it (LimitNOFILE= of systemd, `ulimit -Hn`)"
        );
    } else {
        tracing::info!(connections, "the most client connections at once");
    }
    Ok(Limits {
        connections,
        connections_per_address: proxy
            .connection_limit_per_address
            .map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
        handshake_within: proxy.handshake_timeout,
        first_byte_within: proxy.first_byte_timeout,
        idle: proxy.idle_timeout,
        in_flight: usize::try_from(proxy.in_flight_limit).unwrap_or(usize::MAX),
    })
}

/// What is there before the local cluster is asked for anything.
struct Parts {
    access: Arc<Access>,
    limits: Limits,
    capture: Arc<Capture>,
    sessions: Arc<SessionMetrics>,
    mirror: MirrorMetrics,
}

async fn serve(
    config: &Config,
    parts: Parts,
    status: &Arc<Status>,
    journal: &Arc<Journal>,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), AppError> {
    let Parts { access, limits, capture, sessions, mirror: mirror_metrics } = parts;
    let servers: Vec<String> = config.local.bootstrap_servers.iter().map(ToString::to_string).collect();
    let local = Cluster::new(
        "local",
        servers.clone(),
        Arc::new(access.local()),
        config.proxy.dial_timeout,
        mirror_metrics.traffic("local"),
    );
    let metadata = tokio::select! {
        metadata = reach(&local, journal) => metadata,
        // The sender is the signal handler: it is there as long as the process.
        _ = shutdown.wait_for(|stop| *stop) => return Ok(()),
    };
    status.local_reached.store(true, Ordering::Relaxed);
    // Set once, here.
    let _ = status.local.set(local.clone());
    if let Some(ports) = config.proxy.broker_ports.filter(|ports| metadata.brokers.len() > ports.count()) {
        return Err(AppError::Misfit(format!(
            "[proxy] broker_ports = \"{ports}\": the local cluster has {} brokers, and each needs a port; widen the range",
            metadata.brokers.len()
        )));
    }
    let captured = Arc::clone(&capture);
    let known = metadata.brokers.iter().map(|(id, (host, port))| (*id, host.clone(), *port)).collect();
    let front = Front::bind(
        FrontConfig {
            listen: config.proxy.listen.to_string(),
            advertise: advertise(&config.proxy),
            tls: access.clients(),
            frame_bytes_max: config.proxy.frame_limit.as_usize(),
            bootstrap_servers: servers,
            dialer: access.local(),
            dial_timeout: config.proxy.dial_timeout,
            limits,
        },
        known,
        capture.clone(),
        sessions,
    )?
    .drain_within(config.proxy.drain_timeout);
    if config.mirror.enabled {
        let connect = |region: &config::Region| -> Arc<dyn Connect> { Arc::new(access.region(&region.name)) };
        let mirror = Arc::new(Mirror::start(config, &connect, local, capture, &mirror_metrics, journal));
        // Set once, here.
        let _ = status.mirror.set(mirror);
    }
    status.ports_bound.store(true, Ordering::Relaxed);
    let served = front.serve(shutdown).await;
    status.ports_bound.store(false, Ordering::Relaxed);
    journal.note(Kind::Stopping, "stopping: clients are no longer served; the last positions are committed");
    if let Some(mirror) = status.mirror.get() {
        if tokio::time::timeout(config.proxy.drain_timeout, settled(mirror, &captured)).await.is_err() {
            tracing::info!("not all that was captured is in the regions yet; the next start goes on there");
        }
        mirror.stop(STOP_DEADLINE).await;
    }
    tracing::info!("stopped");
    Ok(served?)
}

/// How clients find the brokers.
fn advertise(proxy: &Proxy) -> Advertise {
    match (&proxy.advertise, proxy.broker_ports) {
        (config::Advertise::Names { before, after, port }, _) => {
            Advertise::Names(ServerNames::new(before, after, *port))
        }
        (config::Advertise::Host(host), Some(ports)) => {
            Advertise::Ports { host: Arc::from(host.as_str()), ports: ports.ports() }
        }
        (config::Advertise::Host(_), None) => unreachable!("the configuration's rules ask for broker_ports"),
    }
}

/// Waits until the streams that are well have sent what they know of now: first until all captured batches are on their way, then until their positions are
/// where the local log ended at that moment. What others produce meanwhile is not waited for.
async fn settled(mirror: &Mirror, capture: &Capture) {
    while capture.budget().level_bytes() > 0 {
        tokio::time::sleep(SETTLE_LOOK).await;
    }
    let mut ends: Option<HashMap<(String, String, i32), i64>> = None;
    loop {
        let mut missing = HashMap::new();
        for region in mirror.lag().await {
            for topic in region.topics {
                // A stream that is stalled, or whose region is down, would be waited for in vain.
                for partition in topic.partitions.into_iter().filter(|one| one.state == State::Mirroring) {
                    let stream = (region.region.clone(), topic.topic.clone(), partition.partition);
                    let end = ends.as_ref().map_or(Some(partition.local_end_offset), |ends| ends.get(&stream).copied());
                    if let Some(end) = end.filter(|end| partition.next_source_offset < *end) {
                        missing.insert(stream, end);
                    }
                }
            }
        }
        if missing.is_empty() {
            return;
        }
        ends = Some(missing);
        tokio::time::sleep(SETTLE_LOOK).await;
    }
}

/// Asks the local cluster about itself until it answers.
async fn reach(local: &Cluster, journal: &Journal) -> Arc<Metadata> {
    let mut told = false;
    loop {
        match local.refresh().await {
            Ok(metadata) if !metadata.brokers.is_empty() => {
                tracing::info!(cluster_id = %metadata.cluster_id, brokers = metadata.brokers.len(),
                    topics = metadata.topics.len(), "the local cluster is reached");
                journal.note(Kind::LocalReached, "the local cluster is reached");
                return metadata;
            }
            Ok(_) => {}
            Err(error) if !told => {
                told = true;
                tracing::warn!(%error, "the local cluster can't be reached; no client is served before it answers; trying on");
                journal.note(
                    Kind::LocalUnreachable,
                    &format!("no client is served before the local cluster answers: {error}"),
                );
            }
            Err(error) => tracing::debug!(%error, "the local cluster can't be reached"),
        }
        tokio::time::sleep(LOCAL_RETRY).await;
    }
}

/// What the admin port is told.
#[derive(Debug, Default)]
struct Status {
    local_reached: AtomicBool,
    ports_bound: AtomicBool,
    local: OnceLock<Arc<Cluster>>,
    mirror: OnceLock<Arc<Mirror>>,
    shutdown: Option<watch::Receiver<bool>>,
}

impl Status {
    fn clusters(&self) -> Vec<ClusterView> {
        let regions = self.mirror.get().map(|mirror| mirror.clusters()).unwrap_or_default();
        self.local.get().into_iter().chain(regions).map(|cluster| ClusterView::of(cluster)).collect()
    }

    fn readiness(&self) -> Readiness {
        if self.shutdown.as_ref().is_some_and(|shutdown| *shutdown.borrow()) {
            return Readiness::waiting_for(["the next start: this process is stopping".to_string()]);
        }
        let missing = [
            (&self.local_reached, "the local cluster to answer"),
            (&self.ports_bound, "the clients' ports to be bound"),
        ];
        Readiness::waiting_for(
            missing.iter().filter(|(is, _)| !is.load(Ordering::Relaxed)).map(|(_, what)| (*what).to_string()),
        )
    }
}

impl Commands for Status {
    fn skip(&self, region: String, partition: Partition, offset: i64) -> SkipFuture<'_> {
        Box::pin(async move {
            match self.mirror.get() {
                Some(mirror) => mirror.skip(&region, partition, offset).await,
                None => Err(SkipError::Unknown("nothing is mirrored yet".to_string())),
            }
        })
    }
}

impl LagSource for Status {
    fn lag(&self) -> LagFuture<'_> {
        Box::pin(async {
            match self.mirror.get() {
                Some(mirror) => mirror.lag().await,
                None => Vec::new(),
            }
        })
    }
}
