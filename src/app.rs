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
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::access::{Access, AccessError, CertificateMetrics};
use crate::admin::guard::Openness;
use crate::admin::{
    self, AdminState, ClusterTraffic, ClusterView, CommandFuture, Commands, Guard, HistoryFuture, LagFuture, LagSource,
    Process, Readiness, ReloadFuture,
};
use crate::capture::Capture;
use crate::client::Reach;
use crate::client::cluster::{Cluster, Metadata};
use crate::client::sasl::Sasl;
use crate::config::{self, Config, Proxy, Secret};
use crate::history::{Cause, History};
use crate::journal::{Journal, Kind};
use crate::lag::{Hold, RateLimits, State};
use crate::log_filter::LogFilter;
use crate::mirror::metrics::MirrorMetrics;
use crate::mirror::progress::Partition;
use crate::mirror::rewind::{Rewind, Rewound};
use crate::mirror::stream::Obstacle;
use crate::mirror::throttle::Throttling;
use crate::mirror::{CommandError, Mirror};
use crate::net::Connect;
use crate::reload::{Prepared, ReloadMetrics, Reloader, Targets};
use crate::session::{
    Advertise, ClientView, Controls, Front, FrontConfig, FrontError, FrontSettings, Limits, ServerNames,
    SessionMetrics, descriptors,
};
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

/// What a process starts with.
#[derive(Debug)]
pub struct Start {
    /// The configuration.
    pub config: Config,
    /// The file that it was read from, and is read from again.
    pub file: PathBuf,
    /// What is logged.
    pub log: LogFilter,
    /// Something is received whenever the file shall be read again (SIGHUP).
    pub hangups: mpsc::Receiver<()>,
}

/// Runs until `shutdown` is true, then lets what is under way finish and commits all progress.
///
/// # Errors
/// [`AppError`], only before the first client is served.
pub async fn run(start: Start, shutdown: watch::Receiver<bool>) -> Result<(), AppError> {
    let Start { config, file, log, hangups } = start;
    let settings = prepare(&config)?;
    let access = Arc::new(Access::load(&config)?);
    let mut registry = Registry::with_prefix("diffluent");
    let capture = Arc::new(Capture::new(config.mirror.buffer.as_usize()));
    capture.register(&mut registry);
    let session_metrics = Arc::new(SessionMetrics::default());
    session_metrics.register(&mut registry);
    let mirror_metrics = MirrorMetrics::register(&mut registry);
    let certificate_metrics = CertificateMetrics::register(&mut registry);
    certificate_metrics.tell(&access);
    let reload_metrics = ReloadMetrics::register(&mut registry);

    let journal = Arc::new(Journal::default());
    journal.note(Kind::Started, &format!("diffluent {VERSION} ({COMMIT}) started"));
    let address = config.admin.listen.to_string();
    let admin_port =
        TcpListener::bind(&address).await.map_err(|source| AppError::Admin { address: address.clone(), source })?;
    let guard = guard(&config.admin, &admin_port)?;
    let history = Arc::new(History::default());
    let ways = access.clone();
    let prepare = Box::new(move |config: &Config| {
        let settings = prepare(config).map_err(|misfit| misfit.to_string())?;
        let ways = ways.ways(config).map_err(|error| error.to_string())?;
        Ok(Prepared { settings, ways })
    });
    let reloader = Reloader::new(file, config, prepare, journal.clone(), history.clone(), reload_metrics);
    let status = Arc::new(Status {
        local_reached: AtomicBool::new(false),
        ports_bound: AtomicBool::new(false),
        local: OnceLock::new(),
        mirror: OnceLock::new(),
        controls: OnceLock::new(),
        sessions: session_metrics.clone(),
        reloader: reloader.clone(),
        history,
        log,
        shutdown: shutdown.clone(),
    });
    let (ready, known, carried, told) = (status.clone(), status.clone(), status.clone(), status.clone());
    let state = AdminState {
        lag: status.clone(),
        commands: status.clone(),
        process: status.clone(),
        ready: Arc::new(move || ready.readiness()),
        registry: Arc::new(registry),
        clusters: Arc::new(move || known.clusters()),
        traffic: Arc::new(move || carried.traffic()),
        journal: journal.clone(),
        guard,
        version: VERSION,
        commit: COMMIT,
    };
    let (stop_admin, admin_stopped) = watch::channel(false);
    let admin = tokio::spawn(admin::serve(admin_port, state, admin_stopped));
    // Ended with this function.
    let mut aside = JoinSet::new();
    aside.spawn(hang_up(reloader.clone(), hangups));
    aside.spawn(reloader.clone().watch_file());

    aside.spawn(supervisor::tell(Arc::new(move || told.readiness()), shutdown.clone()));
    aside.spawn(reread(access.clone(), reloader.applied(), journal.clone(), certificate_metrics.clone()));
    aside.spawn(access.clone().watch(journal.clone(), certificate_metrics));
    let parts = Parts { access, settings, capture, sessions: session_metrics, mirror: mirror_metrics };
    let result = serve(parts, &status, &journal, &mut aside, shutdown).await;
    // Nobody listens if the admin port has failed: it is logged there.
    let _ = stop_admin.send(true);
    if let Err(error) = admin.await {
        tracing::error!(%error, "the admin port has failed");
    }
    result
}

/// Reads the configuration again whenever the process is told to.
async fn hang_up(reloader: Arc<Reloader>, mut hangups: mpsc::Receiver<()>) {
    while hangups.recv().await.is_some() {
        // Said in the log and in the events.
        let _ = reloader.reload(Cause::Signal, "a signal").await;
    }
}

/// Reads the files of certificates again whenever the configuration was.
async fn reread(
    access: Arc<Access>,
    mut applied: watch::Receiver<Arc<Config>>,
    journal: Arc<Journal>,
    metrics: CertificateMetrics,
) {
    while applied.changed().await.is_ok() {
        let (access, journal, metrics) = (access.clone(), journal.clone(), metrics.clone());
        // Files may lie on a disk that hangs. What came of it is told in the log and in the events.
        let _ = tokio::task::spawn_blocking(move || access.reload(&journal, &metrics)).await;
    }
}

/// What is to be had before a configuration comes into effect, at the start as later: whatever can fail is tried here, and nothing is changed but the limit of
/// file descriptors.
fn prepare(config: &Config) -> Result<FrontSettings, AppError> {
    secrets(config)?;
    let proxy = &config.proxy;
    Ok(FrontSettings {
        frame_bytes_max: proxy.frame_limit.as_usize(),
        dial_timeout: proxy.dial_timeout,
        drain_within: proxy.drain_timeout,
        limits: limits(proxy)?,
    })
}

/// Who may do what on the admin port; says so where others than this machine can connect.
fn guard(config: &config::Admin, port: &TcpListener) -> Result<Guard, AppError> {
    let bound = port.local_addr().map_err(|source| AppError::Admin { address: config.listen.to_string(), source })?;
    let guard = Guard::new(config, bound);
    match guard.openness() {
        Openness::Closed => {}
        Openness::Reading => tracing::info!(
            %bound,
            "the admin port tells everything but secrets to anybody who can connect; only commands take the token ([admin] token_for)"
        ),
        Openness::ReadingWithoutCommands => tracing::warn!(
            %bound,
            "the admin port is open to other machines: anybody who can connect can read; commands are refused until [admin] token is set, or \
             give it an address of this machine alone"
        ),
    }
    Ok(guard)
}

/// Whether all secrets are where the configuration says, and what logging in needs beside: better now than at the first connection that needs one.
fn secrets(config: &Config) -> Result<(), AppError> {
    let dial_timeout = config.proxy.dial_timeout;
    let local = config.local.sasl.iter().map(|sasl| ("local cluster".to_owned(), "local.sasl", sasl));
    let regions = config.region.iter().filter_map(|region| {
        Some((format!("region {:?}", region.name.as_str()), "region.sasl", region.sasl.as_ref()?))
    });
    for (whose, table, sasl) in local.chain(regions) {
        let checked = Sasl::new(table, sasl, dial_timeout).check_files();
        checked.map_err(|error| AppError::Misfit(format!("{whose}: {error}")))?;
    }
    match config.admin.token.as_ref().map(Secret::read) {
        Some(Err(error)) => Err(AppError::Misfit(format!("[admin] token: {error}"))),
        _ => Ok(()),
    }
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
    settings: FrontSettings,
    capture: Arc<Capture>,
    sessions: Arc<SessionMetrics>,
    mirror: MirrorMetrics,
}

async fn serve(
    parts: Parts,
    status: &Arc<Status>,
    journal: &Arc<Journal>,
    aside: &mut JoinSet<()>,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), AppError> {
    let Parts { access, settings, capture, sessions, mirror: mirror_metrics } = parts;
    let config = status.reloader.config();
    let servers: Vec<String> = config.local.bootstrap_servers.iter().map(ToString::to_string).collect();
    let dial_timeout = config.proxy.dial_timeout;
    let way = Reach::new(Arc::new(access.local()), "local.sasl", config.local.sasl.as_ref(), dial_timeout);
    let local = Cluster::new("local", servers.clone(), way, dial_timeout, mirror_metrics.traffic("local"));
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
    let known = metadata.brokers.iter().map(|(id, (host, port))| (*id, host.clone(), *port)).collect();
    let front = Front::bind(
        FrontConfig {
            listen: config.proxy.listen.to_string(),
            advertise: advertise(&config.proxy),
            tls: access.clients(),
            bootstrap_servers: servers,
            dialer: access.local(),
            settings,
        },
        known,
        capture.clone(),
        sessions,
    )?;
    if config.mirror.enabled {
        let ways = access.clone();
        let connect = Box::new(move |region: &config::Region| -> Arc<dyn Connect> {
            Arc::new(ways.region(region.name.as_str()))
        });
        let mirror = Mirror::start(&config, connect, local.clone(), capture.clone(), &mirror_metrics, journal);
        // Set once, here.
        let _ = status.mirror.set(Arc::new(mirror));
    }
    let controls = front.controls();
    let mirror = status.mirror.get().cloned();
    // Set once, here.
    let _ = status.controls.set(controls.clone());
    status.reloader.serve(Targets { controls, capture: capture.clone(), local: local.clone(), access, mirror });
    let (history, wanted, noting) = (status.history.clone(), status.reloader.applied(), journal.clone());
    aside.spawn(async move { history.store(local, &noting, wanted).await });
    status.ports_bound.store(true, Ordering::Relaxed);
    let served = front.serve(shutdown).await;
    status.ports_bound.store(false, Ordering::Relaxed);
    journal.note(Kind::Stopping, "stopping: clients are no longer served; the last positions are committed");
    if let Some(mirror) = status.mirror.get() {
        let drain = status.reloader.config().proxy.drain_timeout;
        if tokio::time::timeout(drain, settled(mirror, &capture)).await.is_err() {
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
#[derive(Debug)]
struct Status {
    local_reached: AtomicBool,
    ports_bound: AtomicBool,
    local: OnceLock<Arc<Cluster>>,
    mirror: OnceLock<Arc<Mirror>>,
    controls: OnceLock<Controls>,
    sessions: Arc<SessionMetrics>,
    reloader: Arc<Reloader>,
    history: Arc<History>,
    log: LogFilter,
    shutdown: watch::Receiver<bool>,
}

impl Status {
    fn clusters(&self) -> Vec<ClusterView> {
        let regions = self.mirror.get().map(|mirror| mirror.regions()).unwrap_or_default();
        let regions = regions.iter().map(|region| region.cluster());
        self.local.get().into_iter().chain(regions).map(|cluster| ClusterView::of(cluster)).collect()
    }

    /// What clients send goes to the local cluster, and what they get comes from there.
    fn traffic(&self) -> Vec<ClusterTraffic> {
        let local = self.local.get().map(|local| {
            let own = ClusterTraffic::of(local);
            ClusterTraffic {
                in_bytes: own.in_bytes + self.sessions.received_bytes(),
                out_bytes: own.out_bytes + self.sessions.sent_bytes(),
                ..own
            }
        });
        let regions = self.mirror.get().map(|mirror| mirror.regions()).unwrap_or_default();
        local.into_iter().chain(regions.iter().map(|region| ClusterTraffic::of(region.cluster()))).collect()
    }

    fn readiness(&self) -> Readiness {
        if *self.shutdown.borrow() {
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

impl Status {
    fn mirror(&self) -> Result<&Mirror, CommandError> {
        let missing = || CommandError::Refused("nothing is mirrored: not yet, or [mirror] enabled = false".to_string());
        self.mirror.get().map(|mirror| &**mirror).ok_or_else(missing)
    }
}

impl Commands for Status {
    fn skip(&self, region: String, partition: Partition, offset: i64) -> CommandFuture<'_, Obstacle> {
        Box::pin(async move { self.mirror()?.skip(&region, partition, offset).await })
    }

    fn rewind(&self, region: String, what: Rewind) -> CommandFuture<'_, Rewound> {
        Box::pin(async move { self.mirror()?.rewind(&region, &what).await })
    }

    fn pause(&self, region: &str, topic: Option<&str>, hold: Hold) -> Result<(), CommandError> {
        self.mirror()?.pause(region, topic, hold)
    }

    fn resume(&self, region: &str, topic: Option<&str>) -> Result<(), CommandError> {
        self.mirror()?.resume(region, topic)
    }

    fn throttle(&self, region: &str, limits: Throttling, hold: Hold) -> Result<RateLimits, CommandError> {
        self.mirror()?.throttle(region, limits, hold)
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

    fn regions(&self) -> Vec<String> {
        let regions = self.mirror.get().map(|mirror| mirror.regions()).unwrap_or_default();
        regions.iter().map(|region| region.name().to_string()).collect()
    }
}

impl Process for Status {
    fn config(&self) -> serde_json::Value {
        config::redacted(&self.reloader.config())
    }

    fn partition_metrics(&self) -> bool {
        self.reloader.config().admin.partition_metrics
    }

    fn reload(&self, by: String) -> ReloadFuture<'_> {
        Box::pin(async move { self.reloader.reload(Cause::Command, &by).await })
    }

    fn history(&self, limit: usize) -> HistoryFuture<'_> {
        let wanted = self.reloader.config().admin.history;
        Box::pin(async move { self.history.tell(self.local.get(), wanted, limit).await })
    }

    fn clients(&self) -> Vec<ClientView> {
        self.controls.get().map(Controls::clients).unwrap_or_default()
    }

    fn log(&self) -> &LogFilter {
        &self.log
    }
}
