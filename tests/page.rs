//! The dashboard page in a real Chromium: every state, by eye, keyboard and screen reader; and steering a real diffluent.
//!
//! `UPDATE_IMAGES=1 cargo test --test page` writes the pictures of docs/images again.

mod common;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use common::{DIFFLUENT, wait_mirrored};
use diffluent::admin::clusters::{BrokerView, ClusterRates, ClusterTraffic};
use diffluent::admin::{
    self, AdminState, ClusterView, CommandFuture, Commands, Guard, HistoryFuture, LagFuture, LagSource, Process,
    Readiness, ReloadFuture,
};
use diffluent::config::{self, Secret, TokenFor};
use diffluent::history::Told;
use diffluent::journal::{Journal, Kind};
use diffluent::lag::{
    Hold, LatencySummary, ObstacleLag, PartitionLag, RateLimits, Rates, RegionLag, State, TopicLag, remedy,
};
use diffluent::log_filter::LogFilter;
use diffluent::mirror::CommandError;
use diffluent::mirror::progress::Partition;
use diffluent::mirror::rewind::{Rewind, Rewound};
use diffluent::mirror::stream::Obstacle;
use diffluent::mirror::throttle::Throttling;
use diffluent::reload::ReloadError;
use diffluent::session::{ClientRates, ClientView};
use diffluent_testbed::browser::Browser;
use diffluent_testbed::{Cluster, Proxy, ProxyConfig, Workload};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long the page may take to show something.
const PATIENCE: Duration = Duration::from_secs(30);
const REFUSED: &str = "the region refuses the batch at source offset 93 (4 records): MESSAGE_TOO_LARGE (10); raise max.message.bytes \
                       of the topic there; or step over it with diffluent skip";

/// A mirror whose lag the test sets. Records flow all the while; what catches up gains on them.
struct Stage {
    regions: Mutex<Vec<RegionLag>>,
    since: Instant,
    skipped: Mutex<Vec<(String, Partition, i64)>>,
    log: LogFilter,
}

impl Default for Stage {
    fn default() -> Self {
        let log = LogFilter::new("info", Box::new(|_| Ok(())));
        Self { regions: Mutex::default(), since: Instant::now(), skipped: Mutex::default(), log }
    }
}

impl Stage {
    fn show(&self, regions: Vec<RegionLag>) {
        *self.regions.lock().unwrap() = regions;
    }
}

impl Stage {
    /// A region, or a topic, is paused from now on, or goes on.
    fn hold(&self, region: &str, topic: Option<&str>, hold: Option<Hold>) {
        let state = if hold.is_some() { State::Paused } else { State::Mirroring };
        let mut regions = self.regions.lock().unwrap();
        let region = regions.iter_mut().find(|known| known.region == region).unwrap();
        for known in region.topics.iter_mut().filter(|known| topic.is_none_or(|topic| known.topic == topic)) {
            known.state = state;
            known.partitions.iter_mut().for_each(|partition| partition.state = state);
            if topic.is_some() {
                known.paused.clone_from(&hold);
            }
        }
        region.state = region.topics.iter().map(|topic| topic.state).max().unwrap();
        if topic.is_none() {
            region.reason = hold.as_ref().map(Hold::reason);
            region.paused = hold;
        }
    }
}

impl LagSource for Stage {
    fn lag(&self) -> LagFuture<'_> {
        let mut regions = self.regions.lock().unwrap().clone();
        let passed_ms = i64::try_from(self.since.elapsed().as_millis()).unwrap();
        for region in &mut regions {
            region.mirrored_records += u64::try_from(passed_ms).unwrap();
            region.mirrored_bytes += 840 * u64::try_from(passed_ms).unwrap();
            for topic in &mut region.topics {
                topic.mirrored_records += u64::try_from(passed_ms / 3).unwrap();
                topic.mirrored_bytes += 280 * u64::try_from(passed_ms).unwrap();
                for partition in &mut topic.partitions {
                    let produced = passed_ms / 20;
                    partition.local_end_offset += produced;
                    partition.next_source_offset += match partition.state {
                        State::Mirroring => produced,
                        State::CatchingUp => 10 * produced,
                        _ => 0,
                    };
                }
            }
        }
        Box::pin(async { regions })
    }

    fn regions(&self) -> Vec<String> {
        self.regions.lock().unwrap().iter().map(|region| region.region.clone()).collect()
    }
}

impl Process for Stage {
    fn config(&self) -> serde_json::Value {
        serde_json::json!({"proxy": {"name": "eu-west"}})
    }

    fn partition_metrics(&self) -> bool {
        false
    }

    fn reload(&self, _: String) -> ReloadFuture<'_> {
        Box::pin(async { Err(ReloadError::NotServing) })
    }

    fn history(&self, _: usize) -> HistoryFuture<'_> {
        let entry = |at_ms: u64, cause: &str, by: &str, changes: serde_json::Value| {
            serde_json::json!({"id": format!("kafka-proxy-1/7/{at_ms}"), "at_ms": at_ms, "proxy": "eu-west", "host": "kafka-proxy-1",
                "version": "0.1.0", "cause": cause, "by": by, "changes": changes, "config": {"proxy": {"name": "eu-west"}}})
        };
        let change =
            serde_json::json!([{"key": "region.us-east.rate_limit", "before": null, "after": "10 MiB", "how": "live"}]);
        let entries = vec![
            entry(1_795_744_900_000, "command", "ann at 127.0.0.1:50123", change),
            entry(1_795_744_800_000, "start", "the start of the process", serde_json::json!([])),
        ];
        Box::pin(async { Told { topic: Some("diffluent.config"), reason: None, entries } })
    }

    fn clients(&self) -> Vec<ClientView> {
        let client = |at: u8, client_id: &str, produced: f64| ClientView {
            address: [10, 0, 0, at].into(),
            client_id: Some(client_id.to_owned()),
            software_name: Some("apache-kafka-java".to_owned()),
            software_version: Some("4.3.0".to_owned()),
            connections: 3,
            since_ms: 1_795_744_800_000,
            produced_bytes: 98_000_000,
            rates: ClientRates {
                requests_per_second: 120.0,
                produced_bytes_per_second: produced,
                received_bytes_per_second: produced + 900.0,
                sent_bytes_per_second: 9_000.0,
            },
        };
        vec![client(7, "orders-service", 840_000.0), client(8, "a-<img src=x onerror=alert(1)>", 0.0)]
    }

    fn log(&self) -> &LogFilter {
        &self.log
    }
}

impl Commands for Stage {
    fn skip(&self, region: String, partition: Partition, offset: i64) -> CommandFuture<'_, Obstacle> {
        Box::pin(async move {
            if offset != 93 {
                return Err(CommandError::Refused("the stream is stalled by another batch".into()));
            }
            self.skipped.lock().unwrap().push((region, partition, offset));
            Ok(Obstacle { offset, next_offset: 97, records: 4 })
        })
    }

    fn rewind(&self, _: String, _: Rewind) -> CommandFuture<'_, Rewound> {
        Box::pin(async { Ok(Rewound::default()) })
    }

    fn pause(&self, region: &str, topic: Option<&str>, hold: Hold) -> Result<(), CommandError> {
        self.hold(region, topic, Some(hold));
        Ok(())
    }

    fn resume(&self, region: &str, topic: Option<&str>) -> Result<(), CommandError> {
        self.hold(region, topic, None);
        Ok(())
    }

    fn throttle(&self, _: &str, _: Throttling, hold: Hold) -> Result<RateLimits, CommandError> {
        Ok(RateLimits { throttled: Some(hold), ..RateLimits::default() })
    }
}

fn partition(number: i32, state: State, behind: u64, seconds: f64) -> PartitionLag {
    let reason = match state {
        State::Stalled => Some(REFUSED.to_owned()),
        State::Unreachable => Some("kafka.us-east:9092 can't be reached: connection refused".to_owned()),
        _ => None,
    };
    PartitionLag {
        partition: number,
        state,
        remedy: remedy(state, reason.as_deref()),
        reason,
        obstacle: (state == State::Stalled).then_some(ObstacleLag { offset: 93, next_offset: 97, records: 4 }),
        local_end_offset: 120_000,
        next_source_offset: 120_000 - i64::try_from(behind).unwrap(),
        lag_records: behind,
        lag_bytes: None,
        lag_seconds: seconds,
        lost_records: 0,
        diverged_records: 0,
        skipped_records: 0,
        replication_latency: latency(),
    }
}

fn latency() -> LatencySummary {
    LatencySummary { count: 900, p50: 0.083, p90: 0.091, p99: 0.14, max: 0.3 }
}

fn topic(name: &str, partitions: Vec<PartitionLag>) -> TopicLag {
    TopicLag {
        topic: name.into(),
        region_topic: name.into(),
        state: partitions.iter().map(|partition| partition.state).max().unwrap(),
        paused: None,
        lag_records: partitions.iter().map(|partition| partition.lag_records).sum(),
        lag_bytes: None,
        lag_seconds: partitions.iter().map(|partition| partition.lag_seconds).fold(0.0, f64::max),
        mirrored_records: 120_000,
        mirrored_bytes: 98_000_000,
        rates: Rates::default(),
        replication_latency: latency(),
        partitions,
        elsewhere: Vec::new(),
    }
}

fn region(name: &str, topics: Vec<TopicLag>) -> RegionLag {
    let state = topics.iter().map(|topic| topic.state).max().unwrap();
    let partitions = || topics.iter().flat_map(|topic| &topic.partitions);
    let reason = partitions().find(|partition| partition.state == state).and_then(|partition| partition.reason.clone());
    RegionLag {
        region: name.into(),
        state,
        remedy: remedy(state, reason.as_deref()),
        reason,
        instance: "proxy-1".into(),
        other_proxies: Vec::new(),
        paused: None,
        limits: RateLimits::default(),
        streams: partitions().count(),
        lag_records: topics.iter().map(|topic| topic.lag_records).sum(),
        lag_bytes: None,
        lag_seconds: topics.iter().map(|topic| topic.lag_seconds).fold(0.0, f64::max),
        mirrored_records: 4_000_000,
        mirrored_bytes: 3_200_000_000,
        rates: Rates::default(),
        replication_latency: latency(),
        topics,
    }
}

/// A region of three topics in which partition 1 of "payments" is as said.
fn one_off(name: &str, state: State, behind: u64, seconds: f64) -> RegionLag {
    let well = |number| partition(number, State::Mirroring, 0, 0.0);
    region(
        name,
        vec![
            topic("clicks", (0..12).map(well).collect()),
            topic("orders", (0..6).map(well).collect()),
            topic("payments", vec![well(0), partition(1, state, behind, seconds), well(2)]),
        ],
    )
}

fn well(name: &str) -> RegionLag {
    one_off(name, State::Mirroring, 0, 0.0)
}

/// The admin port in front of a stage.
struct Port {
    address: SocketAddr,
    shutdown: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Port {
    async fn open(address: &str, stage: &Arc<Stage>, journal: &Arc<Journal>) -> Result<Self> {
        Self::guarded(address, stage, journal, &config::Admin::default()).await
    }

    async fn guarded(
        address: &str,
        stage: &Arc<Stage>,
        journal: &Arc<Journal>,
        config: &config::Admin,
    ) -> Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (shutdown, down) = watch::channel(false);
        let flowing = stage.clone();
        let cluster = |name: &str, under_replicated_partitions| ClusterView {
            cluster: name.into(),
            cluster_id: "abc".into(),
            brokers: (1..=3)
                .map(|node_id| BrokerView { node_id, host: format!("kafka-{node_id}.{name}"), port: 9092, leads: 7 })
                .collect(),
            topics: 3,
            partitions: 21,
            under_replicated_partitions,
            leaderless_partitions: 0,
            under_replicated_topics: if under_replicated_partitions > 0 { vec!["clicks".into()] } else { Vec::new() },
            rates: ClusterRates::default(),
        };
        let state = AdminState {
            lag: stage.clone(),
            commands: stage.clone(),
            ready: Arc::new(Readiness::ready),
            registry: Arc::new(Registry::with_prefix("diffluent")),
            clusters: Arc::new(move || vec![cluster("local", 0), cluster("us-east", 2), cluster("ap-south", 0)]),
            // 4 MiB a second to each, and half of it from there.
            traffic: Arc::new(move || {
                let bytes = 4 * 1024 * 1024 / 1000 * u64::try_from(flowing.since.elapsed().as_millis()).unwrap();
                let traffic =
                    |name: &str| ClusterTraffic { cluster: name.into(), in_bytes: bytes, out_bytes: bytes / 2 };
                ["local", "us-east", "ap-south"].map(traffic).into()
            }),
            journal: journal.clone(),
            guard: Guard::new(config, address),
            process: stage.clone(),
            version: "0.1.0",
            commit: "c0ffee",
        };
        Ok(Self { address, shutdown, task: tokio::spawn(admin::serve(listener, state, down)) })
    }

    fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    async fn close(self) -> Result<()> {
        self.shutdown.send_replace(true);
        tokio::time::timeout(PATIENCE, self.task).await.context("the port did not close")??;
        Ok(())
    }
}

/// The page's own console must be silent.
fn assert_silent(browser: &mut Browser) {
    let complaints = browser.complaints();
    assert!(complaints.is_empty(), "the console complains: {complaints:#?}");
}

/// Writes a picture for the docs, where that is wanted.
async fn picture(browser: &mut Browser, name: &str) -> Result<()> {
    if std::env::var_os("UPDATE_IMAGES").is_none() {
        return Ok(());
    }
    browser.eval("scrollTo(0, 0)").await?;
    // What was just changed is painted with the next frames.
    browser.eval("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))").await?;
    browser.picture(&Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/images/{name}.png"))).await
}

/// Pictures need an hour's past, which a test does not have: the page is given one in place of the port's.
const AN_HOUR: &str = r#"{
    const real = window.fetch;
    window.fetch = (path, options) => {
        if (!String(path).endsWith("/history")) return real(path, options);
        const now = Math.floor(Date.now() / 10000) * 10000;
        const at_ms = Array.from({ length: 359 }, (_, at) => now - (359 - at) * 10000);
        const lag_records = at_ms.map((_, at) => at > 120 && at < 190 ? Math.round((at < 170 ? at - 120 : (190 - at) * 2.5) * 240) : 30 + at % 7);
        const hour = { resolution_seconds: 10, at_ms, lag_records, lag_seconds: lag_records.map((records, at) => records / 120 * (1 + Math.sin(at / 9) / 4)), mirrored_records_per_second: lag_records.map(() => 900) };
        return Promise.resolve(new Response(JSON.stringify(hour), { headers: { "content-type": "application/json" } }));
    };
}"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_every_state_and_that_the_connection_is_lost_and_back() -> Result<()> {
    let stage = Arc::new(Stage::default());
    let journal = Arc::new(Journal::default());
    journal.note(Kind::Started, "diffluent 0.1.0 started");
    journal.note(Kind::LocalReached, "the local cluster is reached");
    stage.show(vec![well("us-east"), well("ap-south")]);
    let port = Port::open("127.0.0.1:0", &stage, &journal).await?;
    let mut browser = Browser::start().await?;
    browser.look(1100, 900, false).await?;
    browser.call("Page.addScriptToEvaluateOnNewDocument", serde_json::json!({"source": AN_HOUR})).await?;
    browser.open(&port.url()).await?;
    let headline = |text: &str| format!("document.getElementById('headline')?.innerText.includes({text:?})");
    let card = |region: &str, text: &str| {
        format!(
            "[...document.querySelectorAll('article')].find((card) => card.querySelector('h3').innerText === {region:?})?.innerText.includes({text:?})"
        )
    };

    browser.until(&headline("✓ All is well: all 2 regions keep up."), PATIENCE).await?;
    browser.until(&card("us-east", "✓ mirroring"), PATIENCE).await?;
    browser.until(&card("us-east", "83 ms · 91 ms · 140 ms"), PATIENCE).await?;
    browser.until("document.querySelectorAll('article canvas').length === 2", PATIENCE).await?;
    browser.until("document.getElementById('connection').innerText === '● Live'", PATIENCE).await?;
    browser.until("document.querySelectorAll('#topics tbody tr').length === 3", PATIENCE).await?;
    browser
        .until("document.getElementById('events').innerText.includes('the local cluster is reached')", PATIENCE)
        .await?;
    browser.until("document.getElementById('brokers').innerText.includes('us-east: 3 topics, 21 partitions, ⚠ 2 under-replicated')", PATIENCE).await?;
    // What flows in and out of each cluster.
    browser.until("/In: [1-9][0-9,]* records\\/s, 4.0 MiB\\/s. Out: 2.0 MiB\\/s./.test(document.getElementById('brokers').innerText)", PATIENCE).await?;
    browser.until("/8[12][0-9] KiB\\/s/.test(document.querySelector('article').innerText)", PATIENCE).await?;
    picture(&mut browser, "page-well").await?;

    stage.show(vec![one_off("us-east", State::CatchingUp, 48_000, 312.0), well("ap-south")]);
    browser.until(&headline("↻ us-east catches up: 48,000 records, 5 min behind, done in about"), PATIENCE).await?;
    browser.until(&card("us-east", "↻ catching up"), PATIENCE).await?;
    // The worst is first.
    browser.until("document.querySelector('#topics tbody tr').innerText.includes('payments')", PATIENCE).await?;
    picture(&mut browser, "page-behind").await?;

    journal.region(Kind::RegionUnreachable, "us-east", "kafka.us-east:9092 can't be reached: connection refused");
    stage.show(vec![one_off("us-east", State::Unreachable, 61_000, 420.0), well("ap-south")]);
    browser.until(&headline("✕ us-east can't be reached: 61,000 records, 7 min behind"), PATIENCE).await?;
    browser.until(&card("us-east", "⚠ unreachable"), PATIENCE).await?;
    browser.until(&card("us-east", "What to do: look at the region's brokers"), PATIENCE).await?;
    browser.until("document.getElementById('events').innerText.includes('region unreachable')", PATIENCE).await?;
    picture(&mut browser, "page-unreachable").await?;

    journal.stream(Kind::StreamStalled, "us-east", "payments", 1, REFUSED);
    stage.show(vec![one_off("us-east", State::Stalled, 27, 95.0), well("ap-south")]);
    browser.until(&headline("✕ us-east: 1 of 21 streams stalled"), PATIENCE).await?;
    browser.until(&card("us-east", "MESSAGE_TOO_LARGE (10); raise max.message.bytes"), PATIENCE).await?;
    picture(&mut browser, "page-stalled").await?;
    assert_silent(&mut browser);

    let address = port.address.to_string();
    port.close().await?;
    browser
        .until("document.getElementById('connection').innerText.startsWith('✕ Connection lost at')", PATIENCE)
        .await?;
    assert_eq!(browser.eval("document.body.classList.contains('lost')").await?, true);
    picture(&mut browser, "page-lost").await?;
    stage.show(vec![well("us-east"), well("ap-south")]);
    let since = Instant::now();
    let port = loop {
        match Port::open(&address, &stage, &journal).await {
            Ok(port) => break port,
            Err(error) if since.elapsed() > PATIENCE => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    browser.until("document.getElementById('connection').innerText.startsWith('● Live again since')", PATIENCE).await?;
    browser.until(&headline("✓ All is well"), PATIENCE).await?;
    // What the browser itself says of a port that is not there is no fault of the page.
    let complaints: Vec<String> =
        browser.complaints().into_iter().filter(|complaint| !complaint.starts_with("network: ")).collect();
    assert!(complaints.is_empty(), "the console complains: {complaints:#?}");

    browser.look(1100, 900, true).await?;
    browser.until("getComputedStyle(document.body).backgroundColor === 'rgb(20, 24, 28)'", PATIENCE).await?;
    browser.until("/8[12][0-9] KiB\\/s/.test(document.querySelector('article').innerText)", PATIENCE).await?;
    picture(&mut browser, "page-dark").await?;

    // A phone, in the dark: nothing is wider than it, but for tables, which scroll by themselves.
    browser.look(390, 844, true).await?;
    browser.until("getComputedStyle(document.body).backgroundColor === 'rgb(20, 24, 28)'", PATIENCE).await?;
    browser.until("document.documentElement.scrollWidth <= 390", PATIENCE).await?;
    picture(&mut browser, "page-phone").await?;
    drop(browser);
    port.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_used_by_keyboard_and_screen_reader_and_asks_before_it_steps_over_a_batch() -> Result<()> {
    let stage = Arc::new(Stage::default());
    let journal = Arc::new(Journal::default());
    let hostile = "a-<img src=x onerror=alert(1)>";
    let mut stalled = one_off("us-east", State::Stalled, 27, 95.0);
    stalled.topics.push(topic(hostile, vec![partition(0, State::Mirroring, 0, 0.0)]));
    stage.show(vec![stalled, well("ap-south")]);
    let port = Port::open("127.0.0.1:0", &stage, &journal).await?;
    let mut browser = Browser::start().await?;
    browser.look(1100, 900, false).await?;
    browser.open(&port.url()).await?;
    browser.until("document.querySelectorAll('#topics tbody tr').length === 4", PATIENCE).await?;
    let shown = browser.eval("document.getElementById('topics').innerText").await?;
    assert!(shown.as_str().unwrap_or_default().contains(hostile), "names are text: {shown}");
    assert_eq!(browser.eval("document.querySelectorAll('main img').length").await?, 0);

    // What a screen reader is told.
    let parts = browser.accessible().await?;
    for (role, name) in [
        ("heading", "diffluent 0.1.0"),
        ("heading", "Regions"),
        ("heading", "us-east"),
        ("heading", "Topics"),
        ("heading", "Events"),
        ("heading", "Brokers"),
        ("combobox", "Region"),
        ("searchbox", "Search"),
        ("columnheader", "Behind by"),
        ("button", "Topics of us-east"),
        ("button", "Partitions of payments"),
        ("article", "us-east"),
    ] {
        assert!(parts.iter().any(|part| part.0 == role && part.1 == name), "no {role} {name:?} in {parts:#?}");
    }
    assert!(
        parts.iter().any(|(role, name)| role == "image" && name.starts_with("Lag over the last hour: now 9")),
        "{parts:#?}"
    );
    let nameless: Vec<_> = parts
        .iter()
        .filter(|(role, name)| {
            ["button", "combobox", "searchbox", "heading", "link", "image"].contains(&role.as_str()) && name.is_empty()
        })
        .collect();
    assert!(nameless.is_empty(), "{nameless:?}");
    let announced = browser.eval("document.getElementById('announced').innerText").await?;
    assert_eq!(announced, "us-east: 1 of 21 streams stalled.");
    assert_eq!(browser.eval("document.querySelectorAll('h1').length").await?, 1);

    // By keyboard alone: to the worst topic, its partitions, the batch that is in the way.
    let focused = "document.activeElement?.getAttribute('aria-label') ?? document.activeElement?.innerText ?? ''";
    tab_to(&mut browser, focused, "Partitions of payments").await?;
    browser.press("Enter").await?;
    browser.until("document.activeElement === document.getElementById('partitions-title')", PATIENCE).await?;
    browser.until("document.querySelectorAll('#partitions tbody tr').length === 3", PATIENCE).await?;
    browser.until("document.querySelector('#partitions tbody tr').innerText.includes('stalled')", PATIENCE).await?;
    tab_to(&mut browser, focused, "Skip the batch that stalls partition 1").await?;
    browser.press("Enter").await?;
    browser.until("document.getElementById('skip').open", PATIENCE).await?;
    let asked = browser.eval("document.getElementById('skip').innerText").await?;
    let asked = asked.as_str().unwrap_or_default();
    assert!(asked.contains("source offset 93 (to 97, exclusive; 4 records) of topic payments, partition 1: region us-east will never get it"), "{asked}");
    picture(&mut browser, "page-skip").await?;
    // Enter is on Cancel at first, and Escape is no, too.
    browser.press("Enter").await?;
    browser.until("!document.getElementById('skip').open", PATIENCE).await?;
    assert!(stage.skipped.lock().unwrap().is_empty(), "stepped over without a yes");
    tab_to(&mut browser, focused, "Skip the batch that stalls partition 1").await?;
    browser.press("Enter").await?;
    browser.until("document.getElementById('skip').open", PATIENCE).await?;
    tab_to(&mut browser, focused, "Step over it").await?;
    browser.press("Enter").await?;
    browser.until("document.getElementById('skip-told').innerText.includes('Stepped over 4 records, source offsets 93 to 97')", PATIENCE).await?;
    let skipped = stage.skipped.lock().unwrap().clone();
    assert_eq!(skipped, [("us-east".to_owned(), (Arc::from("payments"), 1), 93)]);
    browser.until("document.getElementById('events').innerText.includes('done, 4 records')", PATIENCE).await?;

    // The other region, by its own button; a search that finds one.
    browser.eval("document.querySelector('[aria-label=\"Topics of ap-south\"]').click()").await?;
    browser
        .until("document.querySelector('#topics caption').innerText === 'Topics on their way to ap-south'", PATIENCE)
        .await?;
    browser.eval("document.execCommand('insertText', false, 'order')").await?;
    browser.until("document.querySelectorAll('#topics tbody tr').length === 1", PATIENCE).await?;
    assert_silent(&mut browser);
    drop(browser);
    port.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_and_a_topic_are_paused_and_resumed_on_the_page_which_says_who_and_since_when() -> Result<()> {
    let stage = Arc::new(Stage::default());
    stage.show(vec![well("us-east"), well("ap-south")]);
    let port = Port::open("127.0.0.1:0", &stage, &Arc::default()).await?;
    let mut browser = Browser::start().await?;
    browser.look(1100, 900, false).await?;
    browser.call("Page.addScriptToEvaluateOnNewDocument", serde_json::json!({"source": AN_HOUR})).await?;
    browser.open(&port.url()).await?;
    let headline = |text: &str| format!("document.getElementById('headline')?.innerText.includes({text:?})");
    let button = |name: &str| format!("document.querySelector('[aria-label=\"{name}\"]')");
    browser.until(&button("Pause us-east"), PATIENCE).await?;
    // Topics are asked for once a region is known.
    browser.until(&button("Pause payments"), PATIENCE).await?;
    let parts = browser.accessible().await?;
    for name in ["Pause us-east", "Pause ap-south", "Pause payments"] {
        assert!(parts.iter().any(|part| part.0 == "button" && part.1 == name), "no button {name:?} in {parts:#?}");
    }

    browser.eval(&format!("{}.click()", button("Pause us-east"))).await?;
    browser.until("document.getElementById('command-told').innerText.startsWith('Paused: us-east.')", PATIENCE).await?;
    browser.until(&headline("↻ us-east is paused"), PATIENCE).await?;
    browser.until(&button("Resume us-east"), PATIENCE).await?;
    browser.until("document.querySelector('article').innerText.includes('Why: paused since 20')", PATIENCE).await?;
    browser.until("document.getElementById('events').innerText.includes('pause: done')", PATIENCE).await?;
    picture(&mut browser, "page-paused").await?;

    // By keyboard.
    let focused = "document.activeElement?.getAttribute('aria-label') ?? document.activeElement?.innerText ?? ''";
    browser.eval("document.activeElement.blur()").await?;
    tab_to(&mut browser, focused, "Resume us-east").await?;
    browser.press("Enter").await?;
    browser.until(&headline("✓ All is well"), PATIENCE).await?;
    browser.eval(&format!("{}.click()", button("Pause payments"))).await?;
    browser.until(&headline("↻ us-east: 3 of 21 streams paused"), PATIENCE).await?;
    browser.until(&button("Resume payments"), PATIENCE).await?;
    browser.eval(&format!("{}.click()", button("Resume payments"))).await?;
    browser.until(&headline("✓ All is well"), PATIENCE).await?;

    // Who produces here, and who ran with what.
    browser
        .until("document.getElementById('clients').innerText.includes('2 clients, 6 connections')", PATIENCE)
        .await?;
    let clients = browser.eval("document.querySelector('#clients tbody tr').innerText").await?;
    let clients = clients.as_str().unwrap_or_default().to_owned();
    assert!(clients.contains("orders-service") && clients.contains("apache-kafka-java 4.3.0"), "{clients}");
    browser.eval("document.querySelector('#history-details summary').click()").await?;
    browser
        .until("document.getElementById('history').innerText.includes('region.us-east.rate_limit: \"10 MiB\", was not set')", PATIENCE)
        .await?;

    assert_silent(&mut browser);

    // A region that was taken out of the configuration leaves the page.
    stage.show(vec![well("ap-south")]);
    browser.until("document.querySelectorAll('article').length === 1", PATIENCE).await?;
    browser.until("document.querySelectorAll('#topics-region option').length === 1", PATIENCE).await?;
    browser.until(&headline("✓ All is well: ap-south keeps up."), PATIENCE).await?;
    // That a region is gone which the page was just asking for is an answer of the port, which the browser notes by itself.
    let gone = |said: &String| said.contains("404") && said.contains("/regions/us-east/");
    let complaints: Vec<String> = browser.complaints().into_iter().filter(|said| !gone(said)).collect();
    assert!(complaints.is_empty(), "the console complains: {complaints:#?}");
    drop(browser);
    port.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_asks_for_the_token_keeps_it_in_its_tab_and_steps_over_a_batch_with_it() -> Result<()> {
    const TOKEN: &str = "s3cret+/=";
    let stage = Arc::new(Stage::default());
    stage.show(vec![one_off("us-east", State::Stalled, 27, 95.0)]);
    let token = Some(Secret::Text(TOKEN.into()));
    let mut browser = Browser::start().await?;
    for token_for in [TokenFor::Commands, TokenFor::Everything] {
        let config = config::Admin { token: token.clone(), token_for, ..config::Admin::default() };
        let port = Port::guarded("127.0.0.1:0", &stage, &Arc::default(), &config).await?;
        browser.open(&port.url()).await?;
        let give = |text: &str| {
            format!(
                "document.getElementById('token-text').value = '{text}'; document.querySelector('#token [value=use]').click()"
            )
        };
        if token_for == TokenFor::Everything {
            browser.until("document.getElementById('token').open", PATIENCE).await?;
            assert_eq!(browser.eval("document.querySelectorAll('#topics tbody tr').length").await?, 0);
            browser.eval(&give("wrong")).await?;
            browser
                .until("document.getElementById('token-told').innerText === 'This is not the token.'", PATIENCE)
                .await?;
            browser.eval(&give(TOKEN)).await?;
        }
        browser.until("document.querySelectorAll('#topics tbody tr').length === 3", PATIENCE).await?;
        browser.eval("document.querySelector('#topics [aria-label=\"Partitions of payments\"]').click()").await?;
        browser.until("document.querySelector('#partitions .danger')", PATIENCE).await?;
        browser.eval("document.querySelector('#partitions .danger').click()").await?;
        browser.until("document.getElementById('skip').open", PATIENCE).await?;
        browser.eval("document.querySelector('#skip .danger').click()").await?;
        if token_for == TokenFor::Commands {
            // No token, and then one.
            browser.until("document.getElementById('token').open", PATIENCE).await?;
            browser.eval("document.querySelector('#token [value=cancel]').click()").await?;
            browser
                .until("document.getElementById('skip-told').innerText.includes('takes the token')", PATIENCE)
                .await?;
            assert!(stage.skipped.lock().unwrap().is_empty());
            browser.eval("document.querySelector('#partitions .danger').click()").await?;
            browser.until("document.getElementById('skip').open", PATIENCE).await?;
            browser.eval("document.querySelector('#skip .danger').click()").await?;
            browser.until("document.getElementById('token').open", PATIENCE).await?;
            browser.eval(&give(TOKEN)).await?;
        }
        browser
            .until("document.getElementById('skip-told').innerText.includes('Stepped over 4 records')", PATIENCE)
            .await?;
        assert_eq!(std::mem::take(&mut *stage.skipped.lock().unwrap()).len(), 1);
        // The same tab, later.
        browser.open(&port.url()).await?;
        browser.until("document.querySelectorAll('#topics tbody tr').length === 3", PATIENCE).await?;
        assert_eq!(browser.eval("document.getElementById('token').open").await?, false);
        let kept = browser.eval("sessionStorage.length + ' ' + localStorage.length + ' ' + document.cookie").await?;
        assert_eq!(kept, "1 0 ", "kept in the tab, and nowhere else");
        port.close().await?;
        browser.open("about:blank").await?;
    }
    // That the port wants a token is all that the console says.
    let complaints = browser.complaints();
    let others: Vec<&String> = complaints.iter().filter(|said| !said.contains("401")).collect();
    assert!(others.iter().all(|said| said.contains("ERR_")), "{others:?}");
    Ok(())
}

/// Presses Tab until what is focused says `name`.
async fn tab_to(browser: &mut Browser, focused: &str, name: &str) -> Result<()> {
    let mut seen = Vec::new();
    for _ in 0..60 {
        browser.press("Tab").await?;
        let now = browser.eval(focused).await?;
        if now == name {
            return Ok(());
        }
        seen.push(now);
    }
    anyhow::bail!("Tab never comes to {name:?}, only to {seen:?}")
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_topics_and_partitions_stay_a_hundred_rows() -> Result<()> {
    let stage = Arc::new(Stage::default());
    let mut topics: Vec<TopicLag> = (0..10_000)
        .map(|number| topic(&format!("topic-{number:05}"), vec![partition(0, State::Mirroring, 0, 0.0)]))
        .collect();
    let many = (0..10_000).map(|number| partition(number, State::CatchingUp, u64::from(number.unsigned_abs()), 5.0));
    topics[4_711] = topic("topic-04711", many.collect());
    stage.show(vec![region("us-east", topics)]);
    let port = Port::open("127.0.0.1:0", &stage, &Arc::default()).await?;
    let mut browser = Browser::start().await?;
    browser.look(1100, 900, false).await?;
    browser.open(&port.url()).await?;
    let rows = |table: &str, count: usize| format!("document.querySelectorAll('#{table} tbody tr').length === {count}");
    browser.until(&rows("topics", 100), PATIENCE).await?;
    browser.until("document.querySelector('#topics tbody tr').innerText.includes('topic-04711')", PATIENCE).await?;
    browser.until("document.getElementById('topics').innerText.includes('100 shown of 10,000')", PATIENCE).await?;
    browser.eval("[...document.querySelectorAll('#topics p button')].at(-1).click()").await?;
    browser.until(&rows("topics", 200), PATIENCE).await?;
    browser.eval("document.querySelector('#topics tbody button').click()").await?;
    browser.until(&rows("partitions", 100), PATIENCE).await?;
    browser.until("document.querySelector('#partitions tbody tr').innerText.startsWith('9999')", PATIENCE).await?;
    // Focus stays on a row while it is told anew, even on another place.
    browser.eval("document.querySelector('#topics tbody button').focus()").await?;
    stage.regions.lock().unwrap()[0].topics[815].state = State::Stalled;
    browser.until("document.querySelector('#topics tbody tr').innerText.includes('topic-00815')", PATIENCE).await?;
    assert_eq!(browser.eval("document.activeElement.innerText").await?, "topic-04711");
    browser.eval("document.getElementById('partitions-close').click()").await?;
    stage.show(vec![one_off("us-east", State::Mirroring, 0, 0.0)]);
    browser.until(&rows("topics", 3), PATIENCE).await?;
    assert_silent(&mut browser);
    drop(browser);
    port.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_stream_that_stalls_is_seen_and_stepped_over_on_the_page() -> Result<()> {
    const TOPIC: &str = "orders";
    let (eu, us) = tokio::try_join!(Cluster::builder().name("eu").start(), Cluster::builder().name("us").start())?;
    eu.create_topic(TOPIC, 2, 1, &[]).await?;
    us.create_topic(TOPIC, 2, 1, &[("max.message.bytes", "4000")]).await?;
    let config = ProxyConfig::new("eu", &eu.bootstrap())
        .region("us", &us.bootstrap())
        .allow("the stream is stalled")
        .allow("an operator stepped over this batch");
    let proxy = Proxy::start(DIFFLUENT, config).await?;
    let small = Workload {
        partition: Some(0),
        records: 20,
        config: vec![("batch.num.messages".into(), "1".into())],
        ..Workload::new(&proxy.bootstrap(), TOPIC)
    };
    let large = Workload { records: 1, value_bytes: 20_000, ..small.clone() };
    assert_eq!(small.clone().run().await?.failed, 0);
    let mut browser = Browser::start().await?;
    browser.look(1100, 900, false).await?;
    browser.open(&format!("http://{}/", proxy.admin_addr())).await?;
    browser
        .until("document.getElementById('headline').innerText.includes('All is well: us keeps up')", PATIENCE)
        .await?;
    browser.until("document.getElementById('brokers').innerText.includes('local: ')", PATIENCE).await?;
    assert_eq!(large.run().await?.failed, 0);
    browser
        .until("document.getElementById('headline').innerText.includes('us: 1 of 2 streams stalled')", PATIENCE)
        .await?;
    browser.until("document.getElementById('events').innerText.includes('MESSAGE_TOO_LARGE')", PATIENCE).await?;
    browser.eval("document.querySelector('[aria-label=\"Partitions of orders\"]').click()").await?;
    let since = Instant::now();
    // Every five seconds the stream looks whether the batch is still refused, and is not stalled for that moment.
    loop {
        browser
            .until("document.querySelector('[aria-label=\"Skip the batch that stalls partition 0\"]')", PATIENCE)
            .await?;
        browser
            .eval("document.querySelector('[aria-label=\"Skip the batch that stalls partition 0\"]')?.click()")
            .await?;
        browser.until("document.getElementById('skip').open", PATIENCE).await?;
        browser.eval("document.querySelector('#skip .danger').click()").await?;
        browser.until("document.getElementById('skip-told').innerText !== ''", PATIENCE).await?;
        let told = browser.eval("document.getElementById('skip-told').innerText").await?;
        if told == "Stepped over 1 records, source offsets 20 to 21 (exclusive)." {
            break;
        }
        assert!(since.elapsed() < PATIENCE, "{told}");
    }
    assert_eq!(Workload { first: 21, ..small }.run().await?.failed, 0);
    wait_mirrored(&eu, &proxy, &["us"], &[TOPIC]).await?;
    browser.until("document.getElementById('headline').innerText.includes('All is well')", PATIENCE).await?;
    let events: serde_json::Value = serde_json::from_str(&proxy.get("/events").await?)?;
    let kinds: Vec<&str> =
        events["events"].as_array().context("no events")?.iter().filter_map(|event| event["kind"].as_str()).collect();
    for kind in ["started", "local_reached", "stream_stalled", "command", "records_skipped", "stream_went_on"] {
        assert!(kinds.contains(&kind), "no event {kind} in {events:#}");
    }
    let brokers: serde_json::Value = serde_json::from_str(&proxy.get("/brokers").await?)?;
    assert_eq!(brokers["clusters"][1]["cluster"], "us", "{brokers:#}");
    assert_eq!(brokers["clusters"][1]["brokers"].as_array().map(Vec::len), Some(1), "{brokers:#}");
    assert!(proxy.metric_with("diffluent_cluster_brokers", &["cluster=\"local\""]).await? == 1.0);
    let shown: serde_json::Value = serde_json::from_str(&proxy.get("/config").await?)?;
    assert_eq!(shown["proxy"]["name"], "eu", "{shown:#}");
    // A skip that comes too late is an answer of the port, not a fault of the page.
    let complaints: Vec<String> =
        browser.complaints().into_iter().filter(|complaint| !complaint.contains("409")).collect();
    assert!(complaints.is_empty(), "the console complains: {complaints:#?}");
    drop(browser);
    proxy.finish().await
}
