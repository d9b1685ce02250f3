//! TLS on every side, on real Kafka, with stock clients: kcat (librdkafka) and the Java tools. What goes wrong is said with what to do about it.

mod common;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use common::{DIFFLUENT, PATIENCE, assert_topic_equal, wait_mirrored};
use diffluent_testbed::certificates::{IdentityFiles, write};
use diffluent_testbed::guard::TempDir;
use diffluent_testbed::kcat::Producing;
use diffluent_testbed::{
    Authority, Call, Cluster, Identity, Kcat, Listener, Proxy, ProxyConfig, RegionConfig, TlsClient, TlsVersion, Tools,
    Workload, http,
};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{ListOffsetsRequest, MetadataRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What servers are called here.
const HERE: [&str; 2] = ["127.0.0.1", "localhost"];
const NOT_LEADER_OR_FOLLOWER: i16 = 6;

/// Two clusters with listeners of every kind, and who gives their certificates.
struct World {
    eu: Cluster,
    us: Cluster,
    /// Of servers: brokers and proxies.
    servers: Authority,
    /// Of clients.
    clients: Authority,
    /// Of nobody here.
    strangers: Authority,
    dir: TempDir,
}

impl World {
    async fn start() -> Result<Self> {
        let [servers, clients, strangers] = ["servers", "clients", "strangers"].map(Authority::new);
        let (servers, clients, strangers) = (servers?, clients?, strangers?);
        let identity = servers.server(&HERE)?;
        let own = Listener::tls("OWN", &identity).wants_certificates_of(clients.pem());
        let eu =
            Cluster::builder().name("eu").brokers(2).listener(Listener::tls("TLS", &identity)).listener(own.clone());
        let eu = [TlsVersion::V1_2, TlsVersion::V1_3].into_iter().fold(eu, |eu, version| {
            let listener = Listener::tls(only(version), &identity);
            eu.listener(listener.set("ssl.enabled.protocols", version.as_str()).set("ssl.protocol", version.as_str()))
        });
        let us = Cluster::builder()
            .name("us")
            .listener(Listener::tls("TLS", &identity))
            .listener(own)
            .listener(Listener::tls("EXPIRED", &servers.expired_server(&HERE)?))
            .listener(Listener::tls("ELSEWHERE", &servers.server(&["kafka.example.com"])?))
            .listener(Listener::tls("STRANGE", &strangers.server(&HERE)?));
        let (eu, us) = tokio::try_join!(eu.start(), us.start())?;
        Ok(Self { eu, us, servers, clients, strangers, dir: TempDir::new("diffluent-tls-")? })
    }

    fn file(&self, name: &str, text: &str) -> Result<PathBuf> {
        write(self.dir.path(), name, text)
    }

    fn files(&self, name: &str, identity: &Identity) -> Result<IdentityFiles> {
        identity.write(self.dir.path(), name)
    }

    /// `[local.tls]` or `[region.tls]` that trusts the servers' authority, with what else it needs.
    fn trusting(&self, table: &str, more: &str) -> Result<String> {
        let ca = self.file("servers-ca.crt", self.servers.pem())?;
        Ok(format!("[{table}]\nca = {ca:?}\n{more}"))
    }

    /// `[proxy.tls]`.
    fn shown(&self, files: &IdentityFiles, more: &str) -> String {
        format!("[proxy.tls]\n{}{more}", own(files))
    }

    /// A kcat that trusts the servers' authority.
    fn kcat(&self, bootstrap: &str) -> Result<Kcat> {
        let ca = self.file("servers-ca.crt", self.servers.pem())?;
        Ok(Kcat::new(bootstrap)?.set("security.protocol", "ssl").set("ssl.ca.location", text(&ca)?))
    }

    /// Kafka's tools, which trust the servers' authority.
    fn java(&self, bootstrap: &str, shows: Option<&Identity>, more: &str) -> Result<Tools> {
        let line = |pem: &str| pem.trim_end().replace('\n', "\\n");
        let mut lines = format!(
            "security.protocol=SSL\nssl.truststore.type=PEM\nssl.truststore.certificates={}\n{more}\n",
            line(self.servers.pem())
        );
        if let Some(identity) = shows {
            lines += &format!(
                "ssl.keystore.type=PEM\nssl.keystore.certificate.chain={}\nssl.keystore.key={}\n",
                line(&identity.certificate),
                line(&identity.key)
            );
        }
        let file = self.file(&format!("java-{}.properties", bootstrap.replace(':', "-")), &lines)?;
        Ok(Tools::new(self.eu.kafka(), bootstrap).config(&file))
    }
}

fn own(files: &IdentityFiles) -> String {
    format!("certificate = {:?}\nkey = {:?}\n", files.certificate, files.key)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}

fn region(name: &str, bootstrap: &str, tls: &str) -> RegionConfig {
    RegionConfig { extra: tls.to_owned(), ..RegionConfig::new(name, bootstrap) }
}

fn lines(what: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{what} {number:05}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_on_every_side() -> Result<()> {
    let world = World::start().await?;
    let mut failures = Vec::new();
    macro_rules! check {
        ($($name:ident),+ $(,)?) => {$(
            let begin = Instant::now();
            let result = $name(&world).await;
            println!("{:<90} {:?} {}", stringify!($name), begin.elapsed(), if result.is_ok() { "ok" } else { "FAILED" });
            if let Err(error) = result {
                failures.push(format!("{}: {error:#}", stringify!($name)));
            }
        )+};
    }
    check!(
        clients_speak_tls_and_so_do_both_clusters_each_with_its_own_certificates,
        clients_in_plaintext_are_served_by_a_cluster_that_speaks_tls_only,
        clients_in_tls_are_served_by_a_cluster_in_plaintext,
        one_port_serves_all_brokers_by_their_names,
        every_way_in_which_a_cluster_can_be_wrong_is_said_with_what_to_do,
        a_running_proxy_says_why_a_region_is_not_reached_and_goes_on_once_it_is,
        clients_that_can_not_be_served_are_counted_told_and_closed,
        slow_handshakes_hold_nobody_up_and_are_ended,
        certificates_are_replaced_under_clients_that_go_on,
        a_regions_tls_changes_while_clients_are_served,
        both_versions_of_tls_are_spoken_on_both_sides,
        files_that_can_not_be_used_keep_it_from_starting,
    );
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

async fn clients_speak_tls_and_so_do_both_clusters_each_with_its_own_certificates(world: &World) -> Result<()> {
    let own_files = own(&world.files("diffluent", &world.clients.client("diffluent")?)?);
    let clients = world.file("clients-ca.crt", world.clients.pem())?;
    let shown = world.files("proxy", &world.servers.server(&HERE)?)?;
    let mut config = ProxyConfig::new("eu", &world.eu.bootstrap_of("OWN")?).region_with(region(
        "us",
        &world.us.bootstrap_of("OWN")?,
        &world.trusting("region.tls", &own_files)?,
    ));
    config.extra_local = world.trusting("local.tls", &own_files)?;
    config.extra_proxy = world.shown(&shown, &format!("client_auth = \"require\"\nclient_ca = {clients:?}\n"));
    let proxy = Proxy::prepare(DIFFLUENT, config)?;
    // What `check` says of it.
    let said = check(&proxy).await?;
    for part in [
        "answers, TLS 1.3, with a certificate for",
        "127.0.0.1, localhost",
        "from CN=servers",
        "clients speak TLS, and must show a certificate",
        "diffluent.crt: a certificate for CN=diffluent",
    ] {
        ensure!(said.contains(part), "check lacks {part:?}: {said}");
    }
    ensure!(!said.contains("FAILURE"), "{said}");
    let mut proxy = proxy;
    proxy.spawn()?;
    proxy.wait_ready(PATIENCE).await?;
    world.eu.create_topic("both", 3, 1, &[]).await?;
    let client = world.clients.client("someone")?;
    let files = world.files("someone", &client)?;
    let kcat = world
        .kcat(&proxy.bootstrap())?
        .set("ssl.certificate.location", text(&files.certificate)?)
        .set("ssl.key.location", text(&files.key)?);
    let produced = lines("librdkafka", 2000);
    kcat.produce("both", &produced).await?;
    let mut read = kcat.consume("both").await?;
    read.sort_unstable();
    ensure!(read == produced, "{} of {} records were read", read.len(), produced.len());
    world.java(&proxy.bootstrap(), Some(&client), "")?.round_trip("both", produced.len()).await?;
    wait_mirrored(&world.eu, &proxy, &["us"], &["both"]).await?;
    assert_topic_equal(&world.eu, &world.us, "both").await?;
    // What came through the proxy was captured, as without TLS.
    ensure!(proxy.metric("diffluent_captured_bytes_total").await? > 0.0, "nothing was captured");
    let year = proxy.metric_with("diffluent_certificate_expiry_timestamp_seconds", &["proxy.crt"]).await?;
    ensure!(year > 2e9, "{year}");
    proxy.finish().await
}

async fn clients_in_plaintext_are_served_by_a_cluster_that_speaks_tls_only(world: &World) -> Result<()> {
    let mut config = ProxyConfig::new("eu", &world.eu.bootstrap_of("TLS")?).region_with(region(
        "us",
        &world.us.bootstrap_of("TLS")?,
        &world.trusting("region.tls", "server_name = \"localhost\"\n")?,
    ));
    config.extra_local = world.trusting("local.tls", "")?;
    let proxy = Proxy::start(DIFFLUENT, config).await?;
    world.eu.create_topic("out", 3, 1, &[]).await?;
    let outcome = Workload { records: 20_000, ..Workload::new(&proxy.bootstrap(), "out") }.run().await?;
    ensure!(outcome.acked == 20_000, "{outcome:?}");
    wait_mirrored(&world.eu, &proxy, &["us"], &["out"]).await?;
    assert_topic_equal(&world.eu, &world.us, "out").await?;
    proxy.finish().await
}

async fn clients_in_tls_are_served_by_a_cluster_in_plaintext(world: &World) -> Result<()> {
    let mut config = ProxyConfig::new("eu", &world.eu.bootstrap()).region("us", &world.us.bootstrap());
    config.extra_proxy = world.shown(&world.files("proxy", &world.servers.server(&HERE)?)?, "");
    let proxy = Proxy::start(DIFFLUENT, config).await?;
    world.eu.create_topic("in", 3, 1, &[]).await?;
    let kcat = world.kcat(&proxy.bootstrap())?;
    kcat.produce("in", &lines("in", 5000)).await?;
    ensure!(kcat.consume("in").await?.len() == 5000, "records are missing");
    wait_mirrored(&world.eu, &proxy, &["us"], &["in"]).await?;
    assert_topic_equal(&world.eu, &world.us, "in").await?;
    proxy.finish().await
}

/// Asks for the end of a partition under the name of a broker; the error code.
async fn list_offsets(proxy: &Proxy, name: &str, tls: &TlsClient, topic: &str, partition: i32) -> Result<i16> {
    let mut call = Call::connect_tls(&proxy.bootstrap(), name, tls).await?;
    let partition = ListOffsetsPartition::default().with_partition_index(partition).with_timestamp(-1);
    let topic = ListOffsetsTopic::default()
        .with_name(TopicName(StrBytes::from_string(topic.to_owned())))
        .with_partitions(vec![partition]);
    let request = ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![topic]);
    let answer = call.call(&request, 7).await?;
    Ok(answer.topics.first().and_then(|topic| topic.partitions.first()).context("no partition")?.error_code)
}

async fn one_port_serves_all_brokers_by_their_names(world: &World) -> Result<()> {
    let shown = world.files("named", &world.servers.server(&["kafka.test", "*.kafka.test"])?)?;
    let mut config = ProxyConfig::new("eu", &world.eu.bootstrap()).allow("a client asks for a broker");
    config.advertise = Some("broker-{id}.kafka.test:{port}".to_owned());
    config.extra_proxy = world.shown(&shown, "");
    let proxy = Proxy::start(DIFFLUENT, config).await?;
    world.eu.create_topic("named", 4, 1, &[]).await?;
    let tls = TlsClient::new(world.servers.pem(), None)?;

    // Any other name is for bootstrapping, and so is none.
    let port = proxy.bootstrap().rsplit_once(':').context("no port")?.1.parse::<i32>()?;
    let mut call = Call::connect_tls(&proxy.bootstrap(), "kafka.test", &tls).await?;
    let told = call.call(&MetadataRequest::default().with_topics(Some(Vec::new())), 9).await?;
    let mut told: Vec<_> =
        told.brokers.iter().map(|broker| (broker.node_id.0, broker.host.to_string(), broker.port)).collect();
    told.sort_unstable();
    let expected = [1, 2].map(|id| (id, format!("broker-{id}.kafka.test"), port));
    ensure!(told == expected, "{told:?}");
    // Each name leads to its own broker. Those that metadata names must have taken office.
    world.eu.admin().end_offsets("named").await?;
    let leader = world.eu.admin().leader("named", 0).await?;
    for id in [1, 2] {
        let error = list_offsets(&proxy, &format!("broker-{id}.kafka.test"), &tls, "named", 0).await?;
        let expected = if id == leader { 0 } else { NOT_LEADER_OR_FOLLOWER };
        ensure!(error == expected, "broker {id} answers {error}, and {leader} leads");
    }
    // A broker that is not there has no connection to give.
    ensure!(list_offsets(&proxy, "broker-7.kafka.test", &tls, "named", 0).await.is_err(), "broker 7 answers");
    closed(&proxy, "unknown_broker", 1.0).await?;
    ensure!(proxy.log_text()?.contains("node_id=7"), "{}", proxy.log_text()?);

    // A stock client, which looks the names up.
    let names = "127.0.0.1 kafka.test\n127.0.0.1 broker-1.kafka.test\n127.0.0.1 broker-2.kafka.test\n";
    let hosts = format!("-Djdk.net.hosts.file={}", world.file("hosts", names)?.display());
    let bootstrap = format!("kafka.test:{port}");
    world.java(&bootstrap, None, "")?.option(&hosts).round_trip("named", 0).await?;
    proxy.finish().await
}

/// What `diffluent check` prints.
async fn check(proxy: &Proxy) -> Result<String> {
    let output = tokio::process::Command::new(DIFFLUENT).arg("check").arg(proxy.config_path()).output().await?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

async fn every_way_in_which_a_cluster_can_be_wrong_is_said_with_what_to_do(world: &World) -> Result<()> {
    let of = |listener: &str| world.us.bootstrap_of(listener);
    let strange = own(&world.files("strange", &world.strangers.client("diffluent")?)?);
    let expired = own(&world.files("expired", &world.clients.expired_client("diffluent")?)?);
    let plain = world.us.bootstrap();
    let trust = |more: &str| world.trusting("region.tls", more);
    let cases: [(&str, String, String, &[&str]); 9] = [
        ("expired", of("EXPIRED")?, trust("")?, &["its certificate has expired on 2020-12-31: it must be renewed"]),
        (
            "elsewhere",
            of("ELSEWHERE")?,
            trust("")?,
            &[
                "is for kafka.example.com, where one for 127.0.0.1 is needed",
                "set server_name in [region.tls] of \"elsewhere\"",
            ],
        ),
        ("strange", of("STRANGE")?, trust("")?, &["not in the file of ca in [region.tls] of \"strange\""]),
        ("platform", of("TLS")?, "[region.tls]\n".to_owned(), &["this machine does not trust: set ca in [region.tls]"]),
        (
            "nothing",
            of("OWN")?,
            trust("")?,
            &["it wants a certificate", "set certificate and key in [region.tls] of \"nothing\""],
        ),
        (
            "stranger",
            of("OWN")?,
            trust(&strange)?,
            &["it refuses the certificate of [region.tls] of \"stranger\"", "in the broker's truststore?"],
        ),
        ("late", of("OWN")?, trust(&expired)?, &["it refuses the certificate of [region.tls] of \"late\""]),
        (
            "plaintext",
            plain,
            trust("")?,
            &["is this its PLAINTEXT listener?", "leave out [region.tls] of \"plaintext\""],
        ),
        ("tls", of("TLS")?, String::new(), &["is this its TLS listener?", "[region.tls]"]),
    ];
    let mut config = ProxyConfig::new("eu", &world.eu.bootstrap());
    for (name, bootstrap, tls, _) in &cases {
        config = config.region_with(region(name, bootstrap, tls));
    }
    let said = check(&Proxy::prepare(DIFFLUENT, config)?).await?;
    println!("{said}");
    for (name, _, _, says) in cases {
        let section = said.split(&format!("region {name:?}\n")).nth(1).with_context(|| format!("no {name}: {said}"))?;
        let section = section.split("\n\n").next().unwrap_or_default();
        ensure!(section.contains("FAILURE"), "{name} is well: {section}");
        for part in says {
            ensure!(section.contains(part), "{name} lacks {part:?}: {section}");
        }
    }
    ensure!(
        said.contains("expired.crt: a certificate for CN=diffluent, from CN=clients, expired on 2020-12-31"),
        "{said}"
    );
    Ok(())
}

async fn a_running_proxy_says_why_a_region_is_not_reached_and_goes_on_once_it_is(world: &World) -> Result<()> {
    // The region does not know the authority of this certificate.
    let files = world.files("rotated", &world.strangers.client("diffluent")?)?;
    let tls = world.trusting("region.tls", &own(&files))?;
    let config = ProxyConfig::new("eu", &world.eu.bootstrap())
        .region_with(region("us", &world.us.bootstrap_of("OWN")?, &tls))
        .allow("the region can't be reached");
    let proxy = Proxy::start(DIFFLUENT, config).await?;
    world.eu.create_topic("rotated", 1, 1, &[]).await?;
    let outcome = Workload::new(&proxy.bootstrap(), "rotated").run().await?;
    ensure!(outcome.acked == 1000, "{outcome:?}");
    let why = "it refuses the certificate of [region.tls] of \"us\"";
    until("the reason is told", async || Ok(proxy.get("/events?region=us").await?.contains(&why.replace('"', "\\\""))))
        .await?;
    ensure!(proxy.log_text()?.contains("it refuses the certificate of [region.tls]"), "{}", proxy.log_text()?);
    // A good one takes its place, without a restart.
    world.files("rotated", &world.clients.client("diffluent")?)?;
    wait_mirrored(&world.eu, &proxy, &["us"], &["rotated"]).await?;
    assert_topic_equal(&world.eu, &world.us, "rotated").await?;
    ensure!(proxy.get("/events").await?.contains("certificate_loaded"), "no event of the change");
    proxy.finish().await
}

/// Waits until something is so.
async fn until(what: &str, is_so: impl AsyncFn() -> Result<bool>) -> Result<()> {
    let since = Instant::now();
    loop {
        match is_so().await {
            Ok(true) => return Ok(()),
            last if since.elapsed() > PATIENCE => bail!("{what}: not so ({last:?})"),
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Waits until so many connections have ended for this reason.
async fn closed(proxy: &Proxy, reason: &str, count: f64) -> Result<()> {
    let label = format!("reason=\"{reason}\"");
    until(&format!("{count} closed with {label}"), async || {
        Ok(proxy.metric_with("diffluent_client_closed_total", &[&label]).await? >= count)
    })
    .await
}

async fn clients_that_can_not_be_served_are_counted_told_and_closed(world: &World) -> Result<()> {
    let clients = world.file("clients-ca.crt", world.clients.pem())?;
    let mut config = ProxyConfig::new("eu", &world.eu.bootstrap()).allow("no TLS connection to a client");
    let shown = world.files("proxy", &world.servers.server(&HERE)?)?;
    config.extra_proxy = world.shown(&shown, &format!("client_auth = \"require\"\nclient_ca = {clients:?}\n"));
    let proxy = Proxy::start(DIFFLUENT, config).await?;

    // Plaintext on a TLS port: many clients that come back and back are one line, not many.
    for _ in 0..20 {
        let mut plaintext = TcpStream::connect(proxy.bootstrap()).await?;
        plaintext.write_all(b"\0\0\0\x0e\0\x12\0\0\0\0\0\0\0\x04test").await?;
        let mut rest = Vec::new();
        // An alert at most; then the end, in order or by force.
        let _ = tokio::time::timeout(PATIENCE, plaintext.read_to_end(&mut rest)).await.context("not closed")?;
        ensure!(rest.len() < 16, "{rest:?}");
    }
    closed(&proxy, "not_tls", 20.0).await?;
    // A client that trusts somebody else.
    let mistrusting = TlsClient::new(world.strangers.pem(), Some(&world.clients.client("me")?))?;
    ensure!(Call::connect_tls(&proxy.bootstrap(), "localhost", &mistrusting).await.is_err(), "trusted by strangers");
    closed(&proxy, "tls_failed", 1.0).await?;
    // Clients whose certificates are not good.
    for identity in [None, Some(world.strangers.client("me")?), Some(world.clients.expired_client("me")?)] {
        let tls = TlsClient::new(world.servers.pem(), identity.as_ref())?;
        ensure!(talks(&proxy, &tls).await.is_err(), "let in: {identity:?}");
    }
    closed(&proxy, "client_certificate", 3.0).await?;
    let good = TlsClient::new(world.servers.pem(), Some(&world.clients.client("me")?))?;
    talks(&proxy, &good).await?;

    let log = proxy.log_text()?;
    let told: Vec<&str> = log.lines().filter(|line| line.contains("no TLS connection to a client")).collect();
    ensure!((3..=6).contains(&told.len()), "{told:#?}");
    for part in [
        "it does not speak TLS, and this port does",
        "does it trust the authority of certificate in [proxy.tls]",
        "it shows no certificate",
    ] {
        ensure!(told.iter().any(|line| line.contains(part)), "the log lacks {part:?}: {told:#?}");
    }
    proxy.finish().await
}

/// A request and its answer over a new connection.
async fn talks(proxy: &Proxy, tls: &TlsClient) -> Result<()> {
    let mut call = Call::connect_tls(&proxy.bootstrap(), "localhost", tls).await?;
    call.call(&MetadataRequest::default().with_topics(Some(Vec::new())), 9).await.map(drop)
}

async fn slow_handshakes_hold_nobody_up_and_are_ended(world: &World) -> Result<()> {
    let mut config = ProxyConfig::new("eu", &world.eu.bootstrap());
    let shown = world.files("proxy", &world.servers.server(&HERE)?)?;
    config.extra_proxy = format!("handshake_timeout = \"2 s\"\n{}", world.shown(&shown, ""));
    let proxy = Proxy::start(DIFFLUENT, config).await?;
    let mut slow = Vec::new();
    for number in 0..100 {
        let mut tcp = TcpStream::connect(proxy.bootstrap()).await?;
        if number % 2 == 0 {
            // The start of a record that never ends.
            tcp.write_all(&[0x16, 3, 1, 2, 0, 1]).await?;
        }
        slow.push(tcp);
    }
    let tls = TlsClient::new(world.servers.pem(), None)?;
    for _ in 0..10 {
        talks(&proxy, &tls).await?;
    }
    for mut tcp in slow {
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, tcp.read_to_end(&mut rest)).await.context("not ended")?;
    }
    closed(&proxy, "handshake_timeout", 100.0).await?;
    let hits = proxy.metric_with("diffluent_client_limit_hits_total", &["limit=\"handshake_timeout\""]).await?;
    ensure!(hits == 100.0, "{hits}");
    proxy.finish().await
}

async fn certificates_are_replaced_under_clients_that_go_on(world: &World) -> Result<()> {
    let clients = world.file("rotating-ca.crt", world.clients.pem())?;
    let shown = world.files("rotating", &world.servers.server_for_days(&HERE, 100)?)?;
    let mut config = ProxyConfig::new("eu", &world.eu.bootstrap())
        .allow("no TLS connection to a client")
        .allow("changed files can't be used");
    config.extra_proxy = world.shown(&shown, &format!("client_auth = \"require\"\nclient_ca = {clients:?}\n"));
    let proxy = Proxy::start(DIFFLUENT, config).await?;
    world.eu.create_topic("rotating", 1, 1, &[]).await?;
    let expires = async || proxy.metric_with("diffluent_certificate_expiry_timestamp_seconds", &["rotating"]).await;
    let before = expires().await?;

    // Goes on through all that follows, on the connections that it opens now.
    let old = world.clients.client("old")?;
    let old_files = world.files("old", &old)?;
    let kcat = world
        .kcat(&proxy.bootstrap())?
        .set("ssl.certificate.location", text(&old_files.certificate)?)
        .set("ssl.key.location", text(&old_files.key)?);
    let mut producing = kcat.start_producing("rotating")?;
    produce_some(world, &mut producing).await?;

    // The proxy's own certificate is renewed.
    world.files("rotating", &world.servers.server_for_days(&HERE, 200)?)?;
    until("the new certificate is loaded", async || Ok(expires().await? > before + 90.0 * 24.0 * 3600.0)).await?;
    let tls = TlsClient::new(world.servers.pem(), Some(&old))?;
    talks(&proxy, &tls).await?;
    produce_some(world, &mut producing).await?;

    // What can't be used changes nothing, and is told.
    let good = std::fs::read_to_string(&shown.certificate)?;
    write(world.dir.path(), "rotating.crt", "-----BEGIN CERTIFICATE-----\nbroken")?;
    let refused =
        async || Ok(proxy.metric_with("diffluent_certificate_reloads_total", &["result=\"refused\""]).await? == 1.0);
    until("the broken certificate is refused", refused).await?;
    ensure!(proxy.get("/events").await?.contains("certificate_refused"), "no event");
    talks(&proxy, &tls).await?;
    write(world.dir.path(), "rotating.crt", &good)?;

    // Clients get another authority; who has a certificate of the old one is not let in any more.
    write(world.dir.path(), "rotating-ca.crt", world.strangers.pem())?;
    let new = TlsClient::new(world.servers.pem(), Some(&world.strangers.client("new")?))?;
    until("the new authority holds", async || Ok(talks(&proxy, &new).await.is_ok())).await?;
    ensure!(talks(&proxy, &tls).await.is_err(), "a certificate of the old authority is still good");
    closed(&proxy, "client_certificate", 1.0).await?;
    ensure!(
        proxy.log_text()?.contains("not, or no longer, in the file of client_ca in [proxy.tls]"),
        "{}",
        proxy.log_text()?
    );
    // Connections that are open go on.
    produce_some(world, &mut producing).await?;
    producing.finish().await?;
    ensure!(world.eu.admin().end_offsets("rotating").await? == [3 * SOME], "records are missing");
    proxy.finish().await
}

/// So many records, large enough to leave kcat's buffer for its input.
const SOME: i64 = 100;

async fn produce_some(world: &World, producing: &mut Producing) -> Result<()> {
    let before = world.eu.admin().end_offsets("rotating").await?;
    for number in 0..SOME {
        producing.line(&format!("{number:04096}")).await?;
    }
    let arrived = async || Ok(world.eu.admin().end_offsets("rotating").await? > before);
    until("what a client produces arrives", arrived).await
}

/// Has the proxy read `text` as its configuration: the status, and what it answers.
async fn reload(proxy: &Proxy, text: &str) -> Result<(u16, String)> {
    std::fs::write(proxy.config_path(), text)?;
    http::request(&proxy.admin_addr(), "POST", "/reload").await
}

async fn a_regions_tls_changes_while_clients_are_served(world: &World) -> Result<()> {
    const TOPIC: &str = "turned";
    world.eu.create_topic(TOPIC, 2, 1, &[]).await?;
    let mut plain = region("us", &world.us.bootstrap(), "");
    plain.topics = vec![TOPIC.into()];
    let config =
        ProxyConfig::new("eu", &world.eu.bootstrap()).region_with(plain).allow("the configuration was not taken");
    let proxy = Proxy::start(DIFFLUENT, config).await?;
    let load =
        Workload { records: u64::MAX, rate: Some(500), idempotent: true, ..Workload::new(&proxy.bootstrap(), TOPIC) };
    let load = load.start()?;
    wait_mirrored(&world.eu, &proxy, &["us"], &[TOPIC]).await?;

    // A file that can't be used refuses all of it, and the region goes on in plaintext.
    let before = std::fs::read_to_string(proxy.config_path())?;
    let with = |bootstrap: &str, tls: &str| {
        let text = before.replace(&world.us.bootstrap(), bootstrap);
        text.replacen("[admin]", &format!("{tls}\n[admin]"), 1)
    };
    let own_listener = world.us.bootstrap_of("OWN")?;
    let (status, said) = reload(&proxy, &with(&own_listener, "[region.tls]\nca = \"/no/such/ca.crt\"\n")).await?;
    ensure!(status == 409 && said.contains("/no/such/ca.crt"), "{status} {said}");
    wait_mirrored(&world.eu, &proxy, &["us"], &[TOPIC]).await?;

    // TLS with a certificate of our own.
    let files = world.files("turned", &world.clients.client("diffluent")?)?;
    let secure = with(&own_listener, &world.trusting("region.tls", &own(&files))?);
    let (status, said) = reload(&proxy, &secure).await?;
    ensure!(status == 200 && said.contains("region.us.tls"), "{status} {said}");
    let expiry = "diffluent_certificate_expiry_timestamp_seconds";
    until("the certificate is shown", async || Ok(proxy.get("/metrics").await?.contains(&format!("{expiry}{{file="))))
        .await?;
    wait_mirrored(&world.eu, &proxy, &["us"], &[TOPIC]).await?;
    // A second region comes with TLS, and nobody notices.
    let tls = world.trusting("region.tls", "")?;
    let strange = world.us.bootstrap_of("TLS")?;
    let two = secure.replacen(
        "[admin]",
        &format!("[[region]]\nname = \"copy\"\nbootstrap_servers = [\"{strange}\"]\ntopics = [\"{TOPIC}\"]\ntopic_name = \"copy-{{topic}}\"\n{tls}\n[admin]"),
        1,
    );
    let (status, said) = reload(&proxy, &two).await?;
    ensure!(status == 200, "{status} {said}");
    wait_mirrored(&world.eu, &proxy, &["us", "copy"], &[TOPIC]).await?;
    // And back to plaintext: what is not used any more is not shown any more.
    let (status, said) = reload(&proxy, &before).await?;
    ensure!(status == 200, "{status} {said}");
    until("the certificate is gone", async || Ok(!proxy.get("/metrics").await?.contains(&format!("{expiry}{{file="))))
        .await?;
    load.stop();
    let outcome = load.finish().await?;
    ensure!(outcome.failed == 0, "{:?}", outcome.errors);
    wait_mirrored(&world.eu, &proxy, &["us"], &[TOPIC]).await?;
    assert_topic_equal(&world.eu, &world.us, TOPIC).await?;
    proxy.finish().await
}

/// The listener of brokers that speaks one version only.
fn only(version: TlsVersion) -> &'static str {
    match version {
        TlsVersion::V1_2 => "ONLYTWO",
        TlsVersion::V1_3 => "ONLYTHREE",
    }
}

async fn both_versions_of_tls_are_spoken_on_both_sides(world: &World) -> Result<()> {
    const NEGOTIATED: &str = "Negotiated protocol version: ";
    let shown = world.files("proxy", &world.servers.server(&HERE)?)?;
    for (number, of_broker) in [TlsVersion::V1_2, TlsVersion::V1_3].into_iter().enumerate() {
        let mut config = ProxyConfig::new("eu", &world.eu.bootstrap_of(only(of_broker))?);
        config.extra_local = world.trusting("local.tls", "")?;
        config.extra_proxy = world.shown(&shown, "");
        let proxy = Proxy::start(DIFFLUENT, config).await?;
        let said = check(&proxy).await?;
        let version = of_broker.as_str().replace("TLSv", "TLS ");
        ensure!(said.contains(&format!("answers, {version},")), "no word of {version}: {said}");
        for of_client in [TlsVersion::V1_2, TlsVersion::V1_3] {
            let tls = TlsClient::of_version(world.servers.pem(), of_client)?;
            let negotiated = tls.negotiated("localhost", &proxy.bootstrap()).await?;
            ensure!(negotiated == of_client.as_str(), "{negotiated} instead of {of_client:?}");
            talks(&proxy, &tls).await?;
        }
        // A stock client in the other version than the broker's.
        let of_client = if of_broker == TlsVersion::V1_2 { TlsVersion::V1_3 } else { TlsVersion::V1_2 };
        let topic = format!("versions-{number}");
        world.eu.create_topic(&topic, 2, 1, &[]).await?;
        let java = world.java(&proxy.bootstrap(), None, &format!("ssl.enabled.protocols={}", of_client.as_str()))?;
        java.round_trip(&topic, 0).await?;
        let java = java.option("-Djavax.net.debug=ssl:handshake");
        let said = java.run("org.apache.kafka.tools.TopicCommand", &["--list"], "").await?.stderr;
        let negotiated: Vec<_> = said.lines().filter_map(|line| line.split_once(NEGOTIATED)).collect();
        ensure!(
            !negotiated.is_empty() && negotiated.iter().all(|(_, version)| *version == of_client.as_str()),
            "{negotiated:?} instead of {of_client:?}"
        );
        proxy.finish().await?;
    }
    Ok(())
}

async fn files_that_can_not_be_used_keep_it_from_starting(world: &World) -> Result<()> {
    let shown = world.files("proxy", &world.servers.server(&HERE)?)?;
    let mut config = ProxyConfig::new("eu", &world.eu.bootstrap());
    config.extra_local = "[local.tls]\nca = \"/no/such/ca.crt\"\n".to_owned();
    let wrong = IdentityFiles { key: world.file("empty.key", "")?, ..shown };
    config.extra_proxy = world.shown(&wrong, "");
    let proxy = Proxy::prepare(DIFFLUENT, config)?;
    let output = tokio::process::Command::new(DIFFLUENT).arg("run").arg(proxy.config_path()).output().await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(64), "{output:?}");
    for part in [
        "[proxy.tls] key = \"",
        "empty.key\": holds no private key",
        "[local.tls] ca = \"/no/such/ca.crt\": can't be read",
    ] {
        ensure!(said.contains(part), "lacks {part:?}: {said}");
    }
    let said = check(&proxy).await?;
    ensure!(said.contains("FAILURE  [local.tls] ca = \"/no/such/ca.crt\""), "{said}");
    Ok(())
}
