//! A proxy as a simulated host: the real sessions, capture and mirror, between model brokers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use diffluent::capture::Capture;
use diffluent::client::cluster::Cluster;
use diffluent::config::Config;
use diffluent::lag::RegionLag;
use diffluent::mirror::Mirror;
use diffluent::mirror::metrics::MirrorMetrics;
use diffluent::session::{Advertise, Brokers, Shared, serve_pair};
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::network::{Simulated, SimulatedLink, dial};
use super::plan::Plan;

/// Broker N of the local cluster stands behind this port plus N.
pub const FIRST_PORT: u16 = 9100;
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);

/// What the last look at the lag showed.
pub type Seen = Arc<Mutex<Vec<RegionLag>>>;

/// The host of a cluster's broker.
pub fn broker_host(cluster: usize, node_id: i32) -> String {
    format!("broker-{cluster}-{node_id}")
}

/// The host of a cluster's proxy.
pub fn proxy_host(cluster: usize) -> String {
    format!("proxy-{cluster}")
}

/// A region's name.
pub fn region_name(cluster: usize) -> String {
    format!("region-{cluster}")
}

fn servers(plan: &Plan, cluster: usize) -> Vec<String> {
    (1..=plan.brokers[cluster]).map(|node_id| format!("{}:9092", broker_host(cluster, node_id))).collect()
}

fn configuration(plan: &Plan, cluster: usize) -> Config {
    let quoted = |servers: Vec<String>| format!("{servers:?}");
    let mut text = format!(
        "[proxy]\nname = \"cluster-{cluster}\"\nlisten = \"127.0.0.1:9092\"\nadvertise = \"127.0.0.1\"\n\
         broker_ports = \"9100-9199\"\ndial_timeout = \"2 s\"\n\
         [local]\nbootstrap_servers = {}\n[mirror]\nbuffer = \"{}\"\n",
        quoted(servers(plan, cluster)),
        plan.buffer
    );
    for region in (0..plan.brokers.len()).filter(|region| *region != cluster) {
        text += &format!(
            "[[region]]\nname = \"{}\"\nbootstrap_servers = {}\n",
            region_name(region),
            quoted(servers(plan, region))
        );
    }
    Config::parse("simulated.toml", &text).expect("a valid configuration")
}

/// Runs the proxy of a cluster until its host is killed. `seen` shows its lag, about twice a second.
pub async fn run(plan: Arc<Plan>, cluster: usize, seen: Seen) -> turmoil::Result {
    let config = configuration(&plan, cluster);
    let metrics = MirrorMetrics::register(&mut Registry::default());
    let capture = Arc::new(Capture::new(config.mirror.buffer.as_usize()));
    let local =
        Cluster::new("local", servers(&plan, cluster), Arc::new(Simulated), DIAL_TIMEOUT, metrics.traffic("local"));
    while local.refresh().await.is_err() {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let mirror = Mirror::start(&config, &|_| Arc::new(Simulated), local, capture.clone(), &metrics, &Arc::default());
    let advertise = Advertise::Ports { host: "proxy".into(), ports: 0..=0 };
    let brokers = Arc::new(Brokers::new(advertise, [127, 0, 0, 1].into()));
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
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let lag = mirror.lag().await;
        *seen.lock().expect("nobody panicked") = lag;
    }
}
