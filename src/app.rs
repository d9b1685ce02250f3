//! Wires the rooms together: start, serve, drain.
//!
//! # Order of a start
//! 1. The admin port, so that `/live` and `/ready` tell from the first moment on.
//! 2. The local cluster, as long as it takes: without it there is nothing to serve.
//! 3. A port for each broker, then the bootstrap port: a client that comes straight back after a restart is served.
//! 4. The mirror. A region that is down delays nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::admin::{self, AdminState, ClusterView, Commands, LagFuture, LagSource, Readiness, SkipFuture};
use crate::capture::Capture;
use crate::client::cluster::{Cluster, Metadata};
use crate::config::Config;
use crate::journal::{Journal, Kind};
use crate::mirror::metrics::MirrorMetrics;
use crate::mirror::progress::Partition;
use crate::mirror::{Mirror, SkipError};
use crate::session::{Front, FrontConfig, FrontError, SessionMetrics};

/// Pause before an unreachable local cluster is tried again.
const LOCAL_RETRY: Duration = Duration::from_millis(500);
/// How long the last commit of positions may take.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Why diffluent can't run.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The configuration does not fit the cluster: exit code 64.
    #[error("{0}")]
    Misfit(String),
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
    let mut registry = Registry::with_prefix("diffluent");
    let capture = Arc::new(Capture::new(config.mirror.buffer.as_usize()));
    capture.register(&mut registry);
    let session_metrics = Arc::new(SessionMetrics::default());
    session_metrics.register(&mut registry);
    let mirror_metrics = MirrorMetrics::register(&mut registry);

    let journal = Arc::new(Journal::default());
    journal.note(Kind::Started, concat!("diffluent ", env!("CARGO_PKG_VERSION"), " started"));
    let status = Arc::new(Status::default());
    let address = config.admin.listen.to_string();
    let admin_port =
        TcpListener::bind(&address).await.map_err(|source| AppError::Admin { address: address.clone(), source })?;
    let (ready, known) = (status.clone(), status.clone());
    let state = AdminState {
        lag: status.clone(),
        commands: status.clone(),
        ready: Arc::new(move || ready.readiness()),
        registry: Arc::new(registry),
        clusters: Arc::new(move || known.clusters()),
        journal: journal.clone(),
        config: Arc::new(admin::redacted(&config)),
        partition_metrics: config.admin.partition_metrics,
        version: env!("CARGO_PKG_VERSION"),
    };
    let (stop_admin, admin_stopped) = watch::channel(false);
    let admin = tokio::spawn(admin::serve(admin_port, state, admin_stopped));

    let result = serve(&config, &status, capture, session_metrics, mirror_metrics, &journal, shutdown).await;
    // Nobody listens if the admin port has failed: it is logged there.
    let _ = stop_admin.send(true);
    if let Err(error) = admin.await {
        tracing::error!(%error, "the admin port has failed");
    }
    result
}

async fn serve(
    config: &Config,
    status: &Arc<Status>,
    capture: Arc<Capture>,
    session_metrics: Arc<SessionMetrics>,
    mirror_metrics: MirrorMetrics,
    journal: &Arc<Journal>,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), AppError> {
    let servers: Vec<String> = config.local.bootstrap_servers.iter().map(ToString::to_string).collect();
    let local = Cluster::new("local", servers.clone(), config.proxy.dial_timeout, mirror_metrics.traffic("local"));
    let metadata = tokio::select! {
        metadata = reach(&local, journal) => metadata,
        // The sender is the signal handler: it is there as long as the process.
        _ = shutdown.wait_for(|stop| *stop) => return Ok(()),
    };
    status.local_reached.store(true, Ordering::Relaxed);
    // Set once, here.
    let _ = status.local.set(local.clone());
    if metadata.brokers.len() > config.proxy.broker_ports.count() {
        return Err(AppError::Misfit(format!(
            "[proxy] broker_ports = \"{}\": the local cluster has {} brokers, and each needs a port; widen the range",
            config.proxy.broker_ports,
            metadata.brokers.len()
        )));
    }
    let known = metadata.brokers.iter().map(|(id, (host, port))| (*id, host.clone(), *port)).collect();
    let front = Front::bind(
        FrontConfig {
            listen: config.proxy.listen.to_string(),
            advertise: config.proxy.advertise.clone(),
            broker_ports: config.proxy.broker_ports.ports(),
            frame_bytes_max: config.proxy.frame_limit.as_usize(),
            bootstrap_servers: servers,
            dial_timeout: config.proxy.dial_timeout,
        },
        known,
        capture.clone(),
        session_metrics,
    )?
    .drain_within(config.proxy.drain_timeout);
    if config.mirror.enabled {
        let mirror = Arc::new(Mirror::start(config, local, capture, &mirror_metrics, journal));
        // Set once, here.
        let _ = status.mirror.set(mirror);
    }
    status.ports_bound.store(true, Ordering::Relaxed);
    let served = front.serve(shutdown).await;
    status.ports_bound.store(false, Ordering::Relaxed);
    journal.note(Kind::Stopping, "stopping: clients are no longer served; the last positions are committed");
    if let Some(mirror) = status.mirror.get() {
        mirror.stop(STOP_DEADLINE).await;
    }
    Ok(served?)
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
}

impl Status {
    fn clusters(&self) -> Vec<ClusterView> {
        let regions = self.mirror.get().map(|mirror| mirror.clusters()).unwrap_or_default();
        self.local.get().into_iter().chain(regions).map(|cluster| ClusterView::of(cluster)).collect()
    }

    fn readiness(&self) -> Readiness {
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
