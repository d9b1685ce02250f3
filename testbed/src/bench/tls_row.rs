//! What TLS costs: towards clients, and towards the cluster, each beside HAProxy with TLS at the same end.
//!
//! Clients in TLS are Kafka's own Java producer: librdkafka would have to be built against OpenSSL for it. What counts is the proxies' own CPU time, so that the same client for both is enough.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::bench::fill::{Fill, RECORD_BYTES, Until};
use crate::bench::haproxy::{self, Haproxy};
use crate::bench::process::peak_resident_mib;
use crate::bench::table::{Marks, Rounds, Table};
use crate::bench::{Options, say};
use crate::certificates::{Authority, Identity, write};
use crate::guard::TempDir;
use crate::kafka::{Cluster, Listener};
use crate::proxy::{Proxy, ProxyConfig, proc_cpu_seconds};

const PARTITIONS: i32 = 4;
const BATCH_BYTES: u64 = 64 << 10;
const WARM_UP_RECORDS: u64 = 32 << 10;
const PRODUCER_PERF: &str = "org.apache.kafka.tools.ProducerPerformance";
const TOOL_DEADLINE: Duration = Duration::from_secs(600);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    HaproxyIn,
    DiffluentIn,
    HaproxyOut,
    DiffluentOut,
}

impl Way {
    const ALL: [Way; 4] = [Way::HaproxyIn, Way::DiffluentIn, Way::HaproxyOut, Way::DiffluentOut];

    fn title(self) -> &'static str {
        match self {
            Way::HaproxyIn => "HAProxy, TLS in",
            Way::DiffluentIn => "diffluent, TLS in",
            Way::HaproxyOut => "HAProxy, TLS out",
            Way::DiffluentOut => "diffluent, TLS out",
        }
    }

    fn key(self) -> &'static str {
        match self {
            Way::HaproxyIn => "haproxy-in",
            Way::DiffluentIn => "diffluent-in",
            Way::HaproxyOut => "haproxy-out",
            Way::DiffluentOut => "diffluent-out",
        }
    }

    fn is_tls_in(self) -> bool {
        matches!(self, Way::HaproxyIn | Way::DiffluentIn)
    }
}

struct Site<'a> {
    binary: &'a Path,
    cluster: Cluster,
    identity: Identity,
    ca: PathBuf,
    dir: TempDir,
}

enum Front {
    Haproxy(Haproxy),
    Diffluent(Box<Proxy>),
}

impl Front {
    fn bootstrap(&self) -> String {
        match self {
            Front::Haproxy(haproxy) => haproxy.bootstrap().to_owned(),
            Front::Diffluent(proxy) => proxy.bootstrap(),
        }
    }

    fn pid(&self) -> Result<u32> {
        match self {
            Front::Haproxy(haproxy) => Ok(haproxy.pid()),
            Front::Diffluent(proxy) => proxy.pid(),
        }
    }
}

impl Site<'_> {
    async fn front(&self, way: Way) -> Result<Front> {
        let ca = self.ca.display();
        match way {
            Way::HaproxyIn => {
                let both = write(self.dir.path(), "haproxy.pem", &self.identity.key_store())?;
                let bind = format!("ssl crt {}", both.display());
                let (bootstrap, broker) = (self.cluster.bootstrap_of("FRONTED")?, self.cluster.behind(1, "FRONTED")?);
                Ok(Front::Haproxy(Haproxy::between(&bootstrap, &bind, &broker, "").await?))
            }
            Way::HaproxyOut => {
                let server = format!("ssl verify required ca-file {ca}");
                let (bootstrap, broker) =
                    (self.cluster.bootstrap_of("FRONTEDTLS")?, self.cluster.behind(1, "FRONTEDTLS")?);
                Ok(Front::Haproxy(Haproxy::between(&bootstrap, "", &broker, &server).await?))
            }
            Way::DiffluentIn => {
                let files = self.identity.write(self.dir.path(), "proxy")?;
                let mut config = ProxyConfig::new("eu", &self.cluster.bootstrap());
                config.extra_proxy =
                    format!("[proxy.tls]\ncertificate = {:?}\nkey = {:?}\n", files.certificate, files.key);
                Ok(Front::Diffluent(Box::new(Proxy::start(self.binary, config).await?)))
            }
            Way::DiffluentOut => {
                let mut config = ProxyConfig::new("eu", &self.cluster.bootstrap_of("TLS")?);
                config.extra_local = format!("[local.tls]\nca = {:?}\n", self.ca);
                Ok(Front::Diffluent(Box::new(Proxy::start(self.binary, config).await?)))
            }
        }
    }

    /// Produces so many records; megabytes (10^6) per second.
    async fn produce(&self, way: Way, bootstrap: &str, topic: &str, records: u64) -> Result<f64> {
        if !way.is_tls_in() {
            let fill = Fill {
                bootstrap: bootstrap.to_owned(),
                topic: topic.to_owned(),
                partitions: PARTITIONS,
                batch_bytes: BATCH_BYTES,
                until: Until::Records(records),
                rate: None,
            };
            return Ok(fill.run().await?.megabytes_per_second());
        }
        let (records_text, record_bytes) = (records.to_string(), RECORD_BYTES.to_string());
        let (bootstrap, ca) =
            (format!("bootstrap.servers={bootstrap}"), format!("ssl.truststore.location={}", self.ca.display()));
        let batch = format!("batch.size={BATCH_BYTES}");
        #[rustfmt::skip]
        let args = [
            "--topic", topic, "--num-records", &records_text, "--record-size", &record_bytes, "--throughput", "-1",
            "--producer-props", &bootstrap, "acks=all", "linger.ms=5", &batch, "security.protocol=SSL",
            "ssl.truststore.type=PEM", &ca,
        ];
        let begin = Instant::now();
        let said = self.cluster.kafka().tool(PRODUCER_PERF, &args, "", TOOL_DEADLINE).await?;
        ensure!(
            said.success && said.stdout.contains(&format!("{records} records sent")),
            "{} {}",
            said.stdout,
            said.stderr
        );
        Ok((records * RECORD_BYTES) as f64 / 1e6 / begin.elapsed().as_secs_f64())
    }
}

#[derive(Default)]
struct Figures {
    cpu_per_gib: Rounds,
    megabytes_per_second: Rounds,
    resident_mib: Rounds,
}

/// Measures the row.
///
/// # Errors
/// When something does not start or answer.
pub(super) async fn measure(binary: &Path, options: &Options) -> Result<String> {
    say("starting a cluster");
    let authority = Authority::new("bench")?;
    let identity = authority.server(&["127.0.0.1", "localhost"])?;
    let cluster = Cluster::builder()
        .name("local")
        .listener(Listener::tls("TLS", &identity))
        .listener(Listener::new("FRONTED", "PLAINTEXT").elsewhere())
        .listener(Listener::tls("FRONTEDTLS", &identity).elsewhere())
        .start()
        .await?;
    let dir = TempDir::new("diffluent-bench-tls-")?;
    let ca = write(dir.path(), "ca.crt", authority.pem())?;
    let site = Site { binary, cluster, identity, ca, dir };
    let mut all: Vec<(Way, Figures)> = Way::ALL.into_iter().map(|way| (way, Figures::default())).collect();
    for round in 0..options.rounds {
        for step in 0..all.len() {
            let index = (round + step) % all.len();
            if let Some((way, figures)) = all.get_mut(index) {
                one(&site, *way, round, options.mib, figures).await?;
            }
        }
    }
    told(&all, options)
}

async fn one(site: &Site<'_>, way: Way, round: usize, mib: u64, figures: &mut Figures) -> Result<()> {
    let topic = format!("tls-{}-{round}", way.key());
    site.cluster.create_topic(&topic, PARTITIONS, 1, &[]).await?;
    let front = site.front(way).await?;
    site.produce(way, &front.bootstrap(), &topic, WARM_UP_RECORDS).await?;
    let records = (mib << 20).div_ceil(RECORD_BYTES);
    let before = proc_cpu_seconds(front.pid()?)?;
    let speed = site.produce(way, &front.bootstrap(), &topic, records).await?;
    let gib = (records * RECORD_BYTES) as f64 / f64::from(1 << 30);
    let cpu_per_gib = (proc_cpu_seconds(front.pid()?)? - before) / gib;
    let resident = peak_resident_mib(front.pid()?)?;
    say(&format!(
        "round {}: {}: {cpu_per_gib:.2} s of CPU per GiB, {speed:.0} MB/s, {resident:.0} MiB resident",
        round + 1,
        way.title()
    ));
    figures.cpu_per_gib.push(cpu_per_gib);
    figures.megabytes_per_second.push(speed);
    figures.resident_mib.push(resident);
    if let Front::Diffluent(mut proxy) = front {
        proxy.stop().await?;
    }
    site.cluster.delete_topic(&topic).await
}

fn told(all: &[(Way, Figures)], options: &Options) -> Result<String> {
    let of = |way: Way| all.iter().find(|(known, _)| *known == way).map(|(_, figures)| figures).context("no figures");
    let beside = |way: Way| {
        of(if way.is_tls_in() { Way::HaproxyIn } else { Way::HaproxyOut }).map(|figures| &figures.cpu_per_gib)
    };
    let mut table = Table::new(&["", "CPU s per GiB", "× HAProxy", "produced MB/s", "peak resident MiB"]);
    for (way, figures) in all {
        table.row(vec![
            way.title().to_owned(),
            figures.cpu_per_gib.show(2),
            figures.cpu_per_gib.over(beside(*way)?).show(2),
            figures.megabytes_per_second.show(0),
            figures.resident_mib.show(0),
        ]);
    }
    let mut marks = Marks::new();
    for way in [Way::DiffluentIn, Way::DiffluentOut] {
        let what = format!("CPU per GiB, {}", way.title());
        marks.at_most(&what, 1.2, "× HAProxy", &of(way)?.cpu_per_gib.over(beside(way)?), 2);
    }
    Ok(format!(
        "## What TLS costs\n\n{}\n{}\n\
         Medians over {} alternating rounds (smallest to largest). CPU: the proxy's own, all threads, user and system, while {} MiB of {RECORD_BYTES}-byte \
         records are produced (acks=all, linger 5 ms, batches of 64 KiB, {PARTITIONS} partitions): with TLS in by Kafka's Java producer, with TLS out by librdkafka. TLS 1.3, ECDSA P-256, no \
         client certificates; HAProxy verifies the broker's certificate as diffluent does. {}.\n",
        table.text(),
        marks.text(),
        options.rounds,
        options.mib,
        haproxy::version(),
    ))
}
