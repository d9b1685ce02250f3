use std::path::Path;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::config::{Change, How};
use crate::lag::{Elsewhere, LatencySummary, ObstacleLag, OtherProxy, PartitionLag, Rates, State, TopicLag};
use crate::mirror::rewind::{LeftStream, RewoundStream};
use crate::session::ClientRates;

/// The lag of two regions: one well, one stalled.
pub(super) struct Fake;

impl LagSource for Fake {
    fn lag(&self) -> LagFuture<'_> {
        Box::pin(async { vec![region("us", State::Mirroring, 0), region("ap", State::Stalled, 7)] })
    }

    fn regions(&self) -> Vec<String> {
        vec!["us".into(), "ap".into()]
    }
}

/// Steps over what is asked for, in the region that there is.
impl Commands for Fake {
    fn skip(&self, region: String, _: Partition, offset: i64) -> CommandFuture<'_, Obstacle> {
        Box::pin(async move {
            match (region.as_str(), offset) {
                ("ap", 93) => Ok(Obstacle { offset, next_offset: 97, records: 4 }),
                ("ap", _) => Err(CommandError::Refused("the stream is stalled by another batch".into())),
                _ => Err(no_region()),
            }
        })
    }

    fn rewind(&self, region: String, what: Rewind) -> CommandFuture<'_, Rewound> {
        Box::pin(async move {
            if region != "ap" {
                return Err(no_region());
            }
            let topic = what.topic.unwrap_or_else(|| "orders".into()).to_string();
            let partition = what.partition.unwrap_or(0);
            Ok(Rewound {
                rewound: 1,
                offsets: 83,
                left: 1,
                rewound_streams: vec![RewoundStream {
                    topic: topic.clone(),
                    partition,
                    from_offset: 93,
                    to_offset: 10,
                }],
                left_streams: vec![LeftStream { topic, partition: 1, reason: "it stands at source offset 3".into() }],
            })
        })
    }

    fn pause(&self, region: &str, _: Option<&str>, _: Hold) -> Result<(), CommandError> {
        if region == "ap" { Ok(()) } else { Err(no_region()) }
    }

    fn resume(&self, region: &str, _: Option<&str>) -> Result<(), CommandError> {
        if region == "ap" { Ok(()) } else { Err(no_region()) }
    }

    fn throttle(&self, region: &str, limits: Throttling, hold: Hold) -> Result<RateLimits, CommandError> {
        if region != "ap" {
            return Err(no_region());
        }
        Ok(RateLimits {
            rate_limit: limits.rate_limit.flatten(),
            catch_up_rate_limit: limits.catch_up_rate_limit.flatten(),
            throttled: Some(hold),
        })
    }
}

/// A process with one client, whose configuration can't be read again by bob.
struct Whole(LogFilter);

impl Process for Whole {
    fn config(&self) -> serde_json::Value {
        serde_json::json!({"proxy": {"name": "eu"}})
    }

    fn partition_metrics(&self) -> bool {
        false
    }

    fn reload(&self, by: String) -> ReloadFuture<'_> {
        Box::pin(async move {
            if by.starts_with("bob") {
                return Err(ReloadError::NotServing);
            }
            let key = "region.us.window".to_owned();
            let (before, after) = (Some("64 MiB".into()), None);
            Ok(Reloaded { changes: vec![Change { key, before, after, how: How::Live, region: None }] })
        })
    }

    fn history(&self, limit: usize) -> HistoryFuture<'_> {
        let entry = serde_json::json!({"id": "h/1/2", "at_ms": 2, "proxy": "eu", "host": "h", "version": "0", "cause": "start",
            "by": "ann", "changes": [], "config": {}});
        let told = Told { topic: None, reason: Some("not allowed".into()), entries: vec![entry; limit.min(2)] };
        Box::pin(async { told })
    }

    fn clients(&self) -> Vec<ClientView> {
        vec![ClientView {
            address: [10, 0, 0, 1].into(),
            client_id: Some("orders".into()),
            software_name: None,
            software_version: None,
            connections: 3,
            since_ms: 7,
            produced_bytes: 1 << 20,
            rates: ClientRates { produced_bytes_per_second: 1e3, ..ClientRates::default() },
        }]
    }

    fn log(&self) -> &LogFilter {
        &self.0
    }
}

fn no_region() -> CommandError {
    CommandError::Unknown("there is no such region".into())
}

/// A mirror that never answers.
struct Stuck;

impl LagSource for Stuck {
    fn lag(&self) -> LagFuture<'_> {
        Box::pin(std::future::pending())
    }

    fn regions(&self) -> Vec<String> {
        Vec::new()
    }
}

pub(super) fn region(name: &str, state: State, behind: u64) -> RegionLag {
    let latency = LatencySummary { count: u64::from(behind == 0), p50: 0.05, p90: 0.06, p99: 0.07, max: 0.08 };
    let partition = PartitionLag {
        partition: 0,
        state,
        reason: (behind > 0).then(|| "the batch at source offset 93 is too large; raise max.message.bytes".to_owned()),
        remedy: (behind > 0).then(|| "raise max.message.bytes".to_owned()),
        obstacle: (behind > 0).then_some(ObstacleLag { offset: 93, next_offset: 97, records: 4 }),
        local_end_offset: 100,
        next_source_offset: 100 - i64::try_from(behind).unwrap(),
        lag_records: behind,
        lag_bytes: (behind == 0).then_some(0),
        lag_seconds: 1.5,
        lost_records: 0,
        diverged_records: 0,
        skipped_records: 0,
        replication_latency: latency,
    };
    let topic = TopicLag {
        topic: "orders".into(),
        region_topic: "orders".into(),
        state,
        paused: None,
        lag_records: behind,
        lag_bytes: partition.lag_bytes,
        lag_seconds: 1.5,
        mirrored_records: 1000,
        mirrored_bytes: 65_536,
        rates: Rates::default(),
        replication_latency: latency,
        partitions: vec![partition],
        elsewhere: vec![Elsewhere { instance: "proxy-2".into(), partitions: vec![1, 2] }],
    };
    RegionLag {
        region: name.into(),
        state,
        reason: None,
        remedy: None,
        instance: "proxy-1".into(),
        other_proxies: vec![OtherProxy { instance: "proxy-2".into(), host: "10.0.0.2".into(), streams: 2 }],
        paused: None,
        limits: RateLimits::default(),
        streams: 1,
        lag_records: behind,
        lag_bytes: topic.lag_bytes,
        lag_seconds: 1.5,
        mirrored_records: 1000,
        mirrored_bytes: 65_536,
        rates: Rates::default(),
        replication_latency: latency,
        topics: vec![topic],
    }
}

/// A cluster of one broker with an under-replicated partition.
fn cluster(name: &str) -> ClusterView {
    ClusterView {
        cluster: name.into(),
        cluster_id: "abc".into(),
        brokers: vec![clusters::BrokerView { node_id: 1, host: "kafka".into(), port: 9092, leads: 3 }],
        topics: 1,
        partitions: 3,
        under_replicated_partitions: 1,
        leaderless_partitions: 0,
        under_replicated_topics: vec!["orders".into()],
        rates: clusters::ClusterRates::default(),
    }
}

/// A running admin port.
pub(super) struct Port {
    pub(super) address: std::net::SocketAddr,
    pub(super) journal: Arc<Journal>,
    shutdown: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Port {
    pub(super) async fn open(lag: Arc<dyn LagSource>, ready: Readiness) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, down) = watch::channel(false);
        let mut registry = Registry::with_prefix("diffluent");
        let connections: Counter = Counter::default();
        registry.register("client_connections_opened", "Client connections accepted", connections.clone());
        connections.inc();
        let journal = Arc::new(Journal::default());
        let state = AdminState {
            lag,
            commands: Arc::new(Fake),
            ready: Arc::new(move || ready.clone()),
            registry: Arc::new(registry),
            clusters: Arc::new(|| vec![cluster("local"), cluster("us")]),
            traffic: Arc::new(Vec::new),
            journal: journal.clone(),
            guard: Guard::new(&crate::config::Admin::default(), address),
            process: Arc::new(Whole(LogFilter::new(
                "info",
                Box::new(|text| if text == "=" { Err("no".into()) } else { Ok(()) }),
            ))),
            version: "0.0.0-test",
            commit: "c0ffee",
        };
        Self { address, journal, shutdown, task: tokio::spawn(serve(listener, state, down)) }
    }

    pub(super) async fn well() -> Self {
        Self::open(Arc::new(Fake), Readiness::ready()).await
    }

    /// The status and body of a request.
    pub(super) async fn request(&self, method: &str, path: &str) -> (u16, String) {
        self.request_with(method, path, "").await
    }

    /// As [`Port::request`], with more header lines, each ending in CR LF.
    pub(super) async fn request_with(&self, method: &str, path: &str, headers: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}Connection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    pub(super) async fn get(&self, path: &str) -> (u16, String) {
        self.request("GET", path).await
    }

    pub(super) async fn json(&self, path: &str) -> (u16, serde_json::Value) {
        let (status, body) = self.get(path).await;
        (status, serde_json::from_str(&body).unwrap_or_else(|e| panic!("{path}: {e}: {body}")))
    }

    /// Ends it; a panic in its task fails the test.
    pub(super) async fn close(self) {
        self.shutdown.send_replace(true);
        timeout(Duration::from_secs(10), self.task).await.expect("the port did not close").unwrap();
    }
}

#[tokio::test]
async fn lag_is_shown_whole_by_region_and_by_topic() {
    let port = Port::well().await;
    let (status, all) = port.json("/lag").await;
    assert_eq!(status, 200);
    assert_eq!(all["regions"][1]["region"], "ap");
    assert_eq!(all["regions"][1]["state"], "stalled");
    assert_eq!(all["regions"][1]["topics"][0]["partitions"][0]["next_source_offset"], 93);
    let (status, one) = port.json("/lag/ap").await;
    assert_eq!((status, &one), (200, &all["regions"][1]));
    let (status, topic) = port.json("/lag/ap/orders").await;
    assert_eq!((status, &topic), (200, &all["regions"][1]["topics"][0]));
    port.close().await;
}

#[tokio::test]
async fn an_unknown_region_or_topic_is_answered_with_the_known_ones() {
    let port = Port::well().await;
    let (status, body) = port.json("/lag/eu").await;
    assert_eq!((status, &body["error_code"]), (404, &serde_json::json!(404)));
    assert_eq!(body["message"], "there is no region \"eu\"; known regions: us, ap");
    let (status, body) = port.json("/lag/us/paymentz").await;
    assert_eq!(status, 404);
    assert_eq!(body["message"], "there is no topic \"paymentz\" on its way to region \"us\"; known topics: orders");
    port.close().await;
}

#[tokio::test]
async fn an_unknown_route_and_a_wrong_method_are_answered_in_json() {
    let port = Port::well().await;
    let (status, body) = port.json("/lags").await;
    assert_eq!((status, &body["error_code"]), (404, &serde_json::json!(404)));
    let (status, body) = port.request("POST", "/lag").await;
    assert_eq!(status, 405);
    assert!(body.contains("\"error_code\":405"), "{body}");
    port.close().await;
}

#[tokio::test]
async fn a_batch_is_stepped_over_by_its_offset_and_nothing_else_is() {
    let port = Port::well().await;
    let skip = |region: &str, rest: &str| format!("/regions/{region}/topics/orders/partitions/{rest}");
    let (status, body) = port.request("POST", &skip("ap", "0/skip?offset=93")).await;
    assert_eq!((status, body.contains("\"next_offset\":97,\"skipped_records\":4")), (200, true), "{body}");
    for (path, expected, says) in [
        (skip("ap", "0/skip?offset=92"), 409, "another batch"),
        (skip("eu", "0/skip?offset=93"), 404, "no such region"),
        (skip("ap", "x/skip?offset=93"), 400, "Invalid URL"),
        (skip("ap", "0/skip"), 400, "?offset={source offset}"),
        (skip("ap", "0/skip?offset=all"), 400, "?offset={source offset}"),
    ] {
        let (status, body) = port.request("POST", &path).await;
        assert_eq!(status, expected, "{path}: {body}");
        assert!(body.contains(says) && body.contains("error_code"), "{path}: {body}");
    }
    assert_eq!(port.get(&skip("ap", "0/skip?offset=93")).await.0, 405);
    port.close().await;
}

#[tokio::test]
async fn live_is_200_and_ready_says_what_it_waits_for() {
    let waiting = Readiness::waiting_for(["the local cluster".to_owned()]);
    let port = Port::open(Arc::new(Fake), waiting).await;
    assert_eq!(port.get("/live").await.0, 200);
    let (status, body) = port.json("/ready").await;
    assert_eq!(status, 503);
    assert_eq!(body, serde_json::json!({"ready": false, "waiting_for": ["the local cluster"]}));
    port.close().await;
    let port = Port::well().await;
    assert_eq!(port.json("/ready").await.0, 200);
    port.close().await;
}

#[tokio::test]
async fn metrics_hold_what_is_registered_and_what_lags() {
    let port = Port::well().await;
    let (status, text) = port.get("/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "diffluent_client_connections_opened_total 1",
        "# TYPE diffluent_lag_records gauge",
        "diffluent_lag_records{region=\"ap\",topic=\"orders\"} 7",
        "diffluent_lag_seconds{region=\"us\",topic=\"orders\"} 1.5",
        "diffluent_lag_bytes{region=\"us\",topic=\"orders\"} 0",
        "diffluent_region_state{region=\"ap\",state=\"stalled\"} 1",
        "diffluent_region_state{region=\"us\",state=\"stalled\"} 0",
        "diffluent_streams{region=\"ap\",state=\"stalled\"} 1",
        "diffluent_streams{region=\"ap\",state=\"mirroring\"} 0",
        "# TYPE diffluent_mirrored_records counter",
        "diffluent_mirrored_records_total{region=\"us\"} 1000",
        "diffluent_mirrored_bytes_total{region=\"us\"} 65536",
        "diffluent_build_info{version=\"0.0.0-test\",commit=\"c0ffee\"} 1",
        "diffluent_cluster_under_replicated_partitions{cluster=\"us\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
    }
    assert!(!text.contains("diffluent_lag_bytes{region=\"ap\""), "unknown bytes are left out");
    assert!(!text.contains("partition=\""), "partitions have series only where the configuration asks for them");
    assert!(text.ends_with("# EOF\n"));
    assert_eq!(undocumented(&text), Vec::<String>::new());
    port.close().await;
}

#[test]
fn every_metric_that_a_room_registers_is_in_the_catalog_and_every_one_in_the_catalog_is_there() {
    let mut registry = Registry::with_prefix("diffluent");
    let capture = crate::capture::Capture::new(1024);
    capture.register(&mut registry);
    capture.dropped("budget", 1);
    let sessions = crate::session::SessionMetrics::default();
    sessions.register(&mut registry);
    sessions.closed("client_closed");
    let mirror = crate::mirror::metrics::MirrorMetrics::register(&mut registry);
    mirror.region("us").error("connect");
    mirror.traffic("local");
    let certificates = crate::access::CertificateMetrics::register(&mut registry);
    certificates.expires("tls.crt".as_ref(), 1_800_000_000);
    crate::reload::ReloadMetrics::register(&mut registry);
    let shown = metrics::Shown {
        regions: &[region("us", State::CatchingUp, 7)],
        clusters: &[cluster("us")],
        version: "0.0.0-test",
        commit: "c0ffee",
        partitions: true,
    };
    let mut caught_up = region("ap", State::Mirroring, 0);
    caught_up.rates.caught_up_in_seconds = Some(0.0);
    let text =
        metrics::text(&registry, &metrics::Shown { regions: &[shown.regions[0].clone(), caught_up], ..shown }).unwrap();
    assert!(
        text.contains("diffluent_partition_lag_records{region=\"us\",topic=\"orders\",partition=\"0\"} 7\n"),
        "{text}"
    );
    assert_eq!(undocumented(&text), Vec::<String>::new());
    for metric in catalog::METRICS {
        let sample = metric.samples().next().map(|(name, _)| name);
        let there = text.lines().any(|line| line.split(['{', ' ']).next() == sample.as_deref());
        assert!(there, "{} is in the catalog, and nobody registers it", metric.name);
    }
}

#[test]
fn a_metric_or_label_that_is_not_in_the_catalog_is_found() {
    let text = "diffluent_new_total 1\ndiffluent_lag_records{region=\"a\\\",b=\\\"c\",topic=\"t\",extra=\"1\"} 2\n";
    let found = undocumented(text);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("diffluent_new_total") && found[1].contains("extra"), "{found:?}");
}

#[test]
fn names_follow_the_metric_grammar() {
    for metric in catalog::METRICS {
        assert!(metric.name.starts_with("diffluent_"), "{}", metric.name);
        assert_eq!(metric.name.ends_with("_total"), metric.kind == catalog::Kind::Counter, "{}", metric.name);
        let bounded = !metric.labels.contains(&"partition") || catalog::PARTITION_METRICS.contains(&metric.name);
        assert!(bounded, "{}: labels are bounded", metric.name);
        let others = catalog::METRICS.iter().filter(|other| other.name == metric.name).count();
        assert_eq!(others, 1, "{} is listed twice", metric.name);
    }
}

#[test]
fn the_metrics_page_is_what_the_catalog_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, catalog::reference()).unwrap();
    }
    let page = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(page == catalog::reference(), "docs/metrics.md is stale: UPDATE_DOCS=1 cargo test --lib admin");
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_does_not_answer_is_told_as_503() {
    let port = Port::open(Arc::new(Stuck), Readiness::ready()).await;
    let (status, body) = port.json("/lag").await;
    assert_eq!(status, 503);
    assert_eq!(body["message"], "/lag could not be answered within 5 s");
    port.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_sends_no_request_is_closed() {
    let port = Port::well().await;
    let mut silent = TcpStream::connect(port.address).await.unwrap();
    silent.write_all(b"GET /lag HTT").await.unwrap();
    let mut answer = Vec::new();
    silent.read_to_end(&mut answer).await.unwrap();
    port.close().await;
}

#[tokio::test]
async fn silent_connections_beyond_the_limit_wait_and_are_served_when_one_ends() {
    let port = Port::well().await;
    let mut silent = Vec::new();
    for _ in 0..server::CONNECTIONS_MAX {
        silent.push(TcpStream::connect(port.address).await.unwrap());
    }
    let mut late = TcpStream::connect(port.address).await.unwrap();
    late.write_all(b"GET /live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    let waiting = timeout(Duration::from_millis(200), late.read_to_string(&mut answer)).await;
    assert!(waiting.is_err(), "served beyond the limit: {answer}");
    silent.pop();
    timeout(Duration::from_secs(10), late.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    port.close().await;
}
