//! A proxy as a simulated host: the real sessions, capture and mirror, between model brokers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use diffluent::capture::Capture;
use diffluent::client::Reach;
use diffluent::client::cluster::Cluster;
use diffluent::config::{self, Config};
use diffluent::lag::RegionLag;
use diffluent::mirror::Mirror;
use diffluent::mirror::metrics::MirrorMetrics;
use diffluent::net::{Connect, Connecting};
use diffluent::session::{Advertise, Brokers, Shared, serve_pair};
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::network::{Simulated, SimulatedLink, dial};
use super::plan::{Plan, ProxyId};

/// Broker N of the local cluster stands behind this port plus N.
pub const FIRST_PORT: u16 = 9100;
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// `[mirror] session_timeout` of proxies that share streams.
pub const SESSION: Duration = Duration::from_secs(6);
/// How long an orderly end may take.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// What stands for the brokers of each proxy's cluster.
pub type Fronts = Arc<Mutex<BTreeMap<ProxyId, Arc<Brokers>>>>;

/// Connects to a region's brokers through a proxy there, the first that is to be reached. They advertise ports which they have bound for them outside of the simulation; their
/// ports in it are numbered by the brokers.
#[derive(Debug)]
struct ThroughProxy {
    /// The region's proxies.
    proxies: Vec<ProxyId>,
    fronts: Fronts,
}

impl Connect for ThroughProxy {
    fn connect<'a>(&'a self, host: &'a str, port: u16, timeout: Duration) -> Connecting<'a> {
        Box::pin(async move {
            let advertised = {
                let fronts = self.fronts.lock().expect("nobody panicked");
                let mut routes =
                    (self.proxies.iter()).filter_map(|proxy| fronts.get(proxy)).flat_map(|front| front.routes());
                routes.find(|route| route.advertised_port == Some(port)).map(|route| route.node_id)
            };
            // The bootstrap servers are named as the brokers are.
            let named = host.rsplit('-').next().and_then(|number| number.parse().ok()).filter(|_| port == 9092);
            let Some(node_id) = advertised.or(named) else { return Err(std::io::ErrorKind::ConnectionRefused.into()) };
            let port = FIRST_PORT + u16::try_from(node_id).expect("small");
            let mut failed = std::io::ErrorKind::ConnectionRefused.into();
            for proxy in &self.proxies {
                match Simulated.connect(&proxy.to_string(), port, timeout).await {
                    Ok(connected) => return Ok(connected),
                    Err(error) => failed = error,
                }
            }
            Err(failed)
        })
    }
}

/// What the last look at the lag showed.
pub type Seen = Arc<Mutex<Vec<RegionLag>>>;

/// The host of a cluster's broker.
pub fn broker_host(cluster: usize, node_id: i32) -> String {
    format!("broker-{cluster}-{node_id}")
}

/// A region's name.
pub fn region_name(cluster: usize) -> String {
    format!("region-{cluster}")
}

fn servers(plan: &Plan, cluster: usize) -> Vec<String> {
    (1..=plan.brokers[cluster]).map(|node_id| format!("{}:9092", broker_host(cluster, node_id))).collect()
}

fn configuration(plan: &Plan, proxy: ProxyId) -> Config {
    let cluster = proxy.cluster;
    let quoted = |servers: Vec<String>| format!("{servers:?}");
    let (instance, session) = match plan.has_fleet() {
        false => (String::new(), String::new()),
        true => (format!("instance = \"{proxy}\"\n"), format!("session_timeout = \"{} s\"\n", SESSION.as_secs())),
    };
    let mut text = format!(
        "[proxy]\nname = \"cluster-{cluster}\"\nlisten = \"127.0.0.1:9092\"\nadvertise = \"127.0.0.1\"\n\
         broker_ports = \"9100-9199\"\ndial_timeout = \"2 s\"\n{instance}\
         [local]\nbootstrap_servers = {}\n[mirror]\nbuffer = \"{}\"\n{session}",
        quoted(servers(plan, cluster)),
        plan.buffer
    );
    let start = if plan.start_latest { "latest" } else { "earliest" };
    let forward = if plan.forwards.contains(&cluster) { "all" } else { "own" };
    for region in plan.routes.iter().filter(|route| route.from == cluster).map(|route| route.to) {
        text += &format!(
            "[[region]]\nname = \"{}\"\nforward = \"{forward}\"\nstart = \"{start}\"\nbootstrap_servers = {}\n",
            region_name(region),
            quoted(servers(plan, region))
        );
    }
    Config::parse("simulated.toml", &text).expect("a valid configuration")
}

/// A proxy as the simulation keeps it, over all its starts.
#[derive(Clone)]
pub struct Site {
    /// The run.
    pub plan: Arc<Plan>,
    /// Which proxy it is.
    pub proxy: ProxyId,
    /// Its lag, as it showed it about half a second ago at most; empty while it does not run.
    pub seen: Seen,
    /// Where it shows itself to other clusters' proxies.
    pub fronts: Fronts,
    /// Tells it to end in order.
    pub stop: Arc<AtomicBool>,
}

/// Runs a proxy until it is told to stop, or its host is killed.
pub async fn run(site: Site) -> turmoil::Result {
    let Site { plan, proxy, seen, fronts, stop } = site;
    let cluster = proxy.cluster;
    // No sleep at all for others: even an empty one takes a moment, and changes a run.
    if let Some(late) = plan.late.get(&proxy) {
        let starts_at = Duration::from_millis(*late);
        tokio::time::sleep(starts_at.saturating_sub(turmoil::sim_elapsed().unwrap_or_default())).await;
    }
    let config = configuration(&plan, proxy);
    let metrics = MirrorMetrics::register(&mut Registry::default());
    let capture = Arc::new(Capture::new(config.mirror.buffer.as_usize()));
    let budget = capture.budget().clone();
    let reach = Reach { connect: Arc::new(Simulated), sasl: None };
    let local = Cluster::new("local", servers(&plan, cluster), reach, DIAL_TIMEOUT, metrics.traffic("local"));
    while local.refresh().await.is_err() {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let (routes, known) = (plan.clone(), fronts.clone());
    let way = move |region: &config::Region| -> Arc<dyn Connect> {
        let region =
            routes.routes.iter().find(|route| region_name(route.to) == region.name.as_str()).map(|route| route.to);
        let proxies = routes.proxies().into_iter().filter(|proxy| Some(proxy.cluster) == region);
        match proxies.collect::<Vec<_>>() {
            proxies if routes.through_proxies && !proxies.is_empty() => {
                Arc::new(ThroughProxy { proxies, fronts: known.clone() })
            }
            _ => Arc::new(Simulated),
        }
    };
    let mirror = Mirror::start(&config, Box::new(way), local, capture.clone(), &metrics, &Arc::default());
    let advertise = Advertise::Ports { host: proxy.to_string().into(), ports: 0..=0 };
    let brokers = Arc::new(Brokers::new(advertise, [127, 0, 0, 1].into()));
    fronts.lock().expect("nobody panicked").insert(proxy, brokers.clone());
    let shared = Arc::new(Shared::new(brokers, capture, Arc::default(), 1 << 20));
    let (_stop, shutdown) = watch::channel(false);
    let mut ports = JoinSet::new();
    for node_id in 1..=plan.brokers[cluster] {
        let port = FIRST_PORT + u16::try_from(node_id).expect("small");
        let listener = turmoil::net::TcpListener::bind(("0.0.0.0", port)).await?;
        let (shared, shutdown) = (shared.clone(), shutdown.clone());
        ports.spawn(async move {
            let mut sessions = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (shared, shutdown) = (shared.clone(), shutdown.clone());
                sessions.spawn(async move {
                    if let Ok(broker) = dial(&broker_host(cluster, node_id), 9092, DIAL_TIMEOUT).await {
                        let (client, broker) = (SimulatedLink(client), SimulatedLink(broker));
                        // How a session ends is its client's to see.
                        let _ = serve_pair(&shared, client, broker, node_id, 1024, shutdown).await;
                    }
                });
                while sessions.try_join_next().is_some() {}
            }
        });
    }
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(budget.level_bytes() <= budget.limit_bytes(), "{} bytes captured", budget.level_bytes());
        let lag = mirror.lag().await;
        *seen.lock().expect("nobody panicked") = lag;
    }
    mirror.stop(STOP_WITHIN).await;
    seen.lock().expect("nobody panicked").clear();
    Ok(())
}
