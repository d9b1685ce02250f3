//! Logins: diffluent's own, with every mechanism on both sides, renewed in time and refused with words; and those of clients, which it only forwards.

mod common;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use common::{DIFFLUENT, assert_topic_equal, wait_mirrored};
use diffluent::client::sasl::exchange::{Credentials, Exchange, Next};
use diffluent::config::Mechanism;
use diffluent_testbed::kafka::Listener;
use diffluent_testbed::kafka::sasl::{MECHANISMS, SASL, unsecured_token};
use diffluent_testbed::tokens::{SCOPE, TokenEndpoint};
use diffluent_testbed::{Authority, Call, Cluster, Identity, Proxy, ProxyConfig, RegionConfig, Tools, Workload};
use kafka_protocol::messages::{MetadataRequest, SaslHandshakeRequest};
use kafka_protocol::protocol::StrBytes;
use tokio::net::TcpListener;
use tokio::process::Command;

const USER: &str = "diffluent";
/// What must never be seen anywhere.
const PASSWORD: &str = "never-show-me-1";
const CLIENT_SECRET: &str = "never-show-me-2";
/// A listener that offers one mechanism.
const SCRAM_ONLY: &str = "SCRAMONLY";
const SECURITY: &str = "org.apache.kafka.common.security";
/// Sessions of both clusters last so long.
const LIFETIME: Duration = Duration::from_secs(3);

/// Two clusters with a SASL listener each, and files with secrets.
struct World {
    eu: Cluster,
    us: Cluster,
    secrets: tempfile::TempDir,
}

impl World {
    async fn start() -> Result<Self> {
        let cluster = |name: &str| {
            let users = [(USER, PASSWORD), ("alice", PASSWORD)];
            let scram = format!("{SECURITY}.scram.ScramLoginModule required;");
            let lifetime = LIFETIME.as_millis().to_string();
            Cluster::builder()
                .name(name)
                .sasl(&MECHANISMS, &users)
                .config("connections.max.reauth.ms", &lifetime)
                .listener(
                    Listener::new(SCRAM_ONLY, "SASL_PLAINTEXT")
                        .set("sasl.enabled.mechanisms", "SCRAM-SHA-512")
                        .set("scram-sha-512.sasl.jaas.config", &scram),
                )
                .start()
        };
        let (eu, us) = tokio::try_join!(cluster("eu"), cluster("us"))?;
        tokio::try_join!(eu.add_scram_user(USER, PASSWORD), us.add_scram_user(USER, PASSWORD))?;
        Ok(Self { eu, us, secrets: tempfile::tempdir()? })
    }

    /// A file with this in it, with a line end as editors leave it.
    fn secret(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.secrets.path().join(name);
        fs::write(&path, format!("{text}\n"))?;
        Ok(path)
    }

    fn config(&self, local: &str, region: &str) -> Result<ProxyConfig> {
        let mut there = RegionConfig::new("us", &self.us.bootstrap_of(SASL)?);
        there.extra = format!("[region.sasl]\n{region}");
        let mut config = ProxyConfig::new("eu", &self.eu.bootstrap_of(SASL)?).region_with(there);
        config.extra_local = format!("[local.sasl]\n{local}");
        config.env = vec![("KAFKA_PASSWORD".into(), PASSWORD.into())];
        config.log = "trace".into();
        Ok(config)
    }
}

/// The producer logs in by itself, through the proxy.
fn workload(bootstrap: &str, topic: &str) -> Workload {
    let login = [
        ("security.protocol", "sasl_plaintext"),
        ("sasl.mechanism", "PLAIN"),
        ("sasl.username", "alice"),
        ("sasl.password", PASSWORD),
    ];
    let config = login.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
    Workload { config, records: 50, ..Workload::new(bootstrap, topic) }
}

/// Nothing that anybody can read holds a secret.
async fn assert_nothing_shown(proxy: &Proxy) -> Result<()> {
    let log = proxy.log_text()?;
    ensure!(
        log.contains(" DEBUG ") && log.contains("the local cluster is reached"),
        "the log is not what it should be"
    );
    let basic = data_encoding::BASE64.encode(format!("{USER}:{CLIENT_SECRET}").as_bytes());
    for (what, text) in [
        ("log", log),
        ("/config", proxy.get("/config").await?),
        ("/lag", proxy.get("/lag").await?),
        ("/events", proxy.get("/events").await?),
        ("/metrics", proxy.get("/metrics").await?),
    ] {
        let line = text.lines().find(|line| line.contains("never-show-me") || line.contains(&basic));
        ensure!(line.is_none(), "a secret is in {what}: {line:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn logins() -> Result<()> {
    let world = World::start().await?;
    let mut failures = Vec::new();
    macro_rules! check {
        ($($name:ident),+ $(,)?) => {$(
            let begin = Instant::now();
            let result = $name(&world).await;
            println!("{:<80} {:?} {}", stringify!($name), begin.elapsed(), if result.is_ok() { "ok" } else { "FAILED" });
            if let Err(error) = result {
                failures.push(format!("{}: {error:#}", stringify!($name)));
            }
        )+};
    }
    check!(
        every_mechanism_lets_diffluent_in_on_both_sides,
        sessions_are_renewed_under_load_without_a_lost_connection,
        who_is_not_let_in_is_told_why_and_what_to_do,
        a_password_that_is_put_right_in_its_file_lets_a_running_proxy_in,
        clients_log_in_and_again_with_every_mechanism_and_the_proxy_only_forwards,
        raw_tokens_of_the_first_handshake_version_are_forwarded,
    );
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

async fn every_mechanism_lets_diffluent_in_on_both_sides(world: &World) -> Result<()> {
    let endpoint = TokenEndpoint::start(USER, CLIENT_SECRET, LIFETIME, None).await?;
    let password = world.secret("password", PASSWORD)?;
    let token = world.secret("token", &unsecured_token(USER, 3600))?;
    let client_secret = world.secret("client-secret", CLIENT_SECRET)?;
    let plain = format!("mechanism = \"PLAIN\"\nusername = \"{USER}\"\npassword = \"{PASSWORD}\"");
    let scram_256 =
        format!("mechanism = \"SCRAM-SHA-256\"\nusername = \"{USER}\"\npassword = {{ env = \"KAFKA_PASSWORD\" }}");
    let scram_512 =
        format!("mechanism = \"SCRAM-SHA-512\"\nusername = \"{USER}\"\npassword = {{ file = {password:?} }}");
    let token = format!("mechanism = \"OAUTHBEARER\"\ntoken = {{ file = {token:?} }}");
    let asked = format!(
        "mechanism = \"OAUTHBEARER\"\ntoken_endpoint = \"{}\"\nclient_id = \"{USER}\"\n\
         client_secret = {{ file = {client_secret:?} }}\nscope = \"{SCOPE}\"",
        endpoint.url()
    );
    // The same over TLS, from an authority that the machine does not know.
    let authority = Authority::new("tokens")?;
    let https = TokenEndpoint::start(USER, CLIENT_SECRET, LIFETIME, Some(&authority.server(&["127.0.0.1"])?)).await?;
    let ca = world.secret("tokens-ca.crt", authority.pem())?;
    let secured = asked.replace(&endpoint.url(), &https.url()) + &format!("\ntoken_endpoint_ca = {ca:?}");
    for (number, (local, region)) in
        [(&plain, &scram_256), (&scram_512, &token), (&asked, &plain), (&plain, &secured)].into_iter().enumerate()
    {
        let topic = format!("mechanisms-{number}");
        world.eu.create_topic(&topic, 2, 1, &[]).await?;
        let mut config = world.config(local, region)?;
        config.regions[0].topics = vec![topic.clone()];
        let proxy = Proxy::start(DIFFLUENT, config).await?;
        assert_eq!(workload(&proxy.bootstrap(), &topic).run().await?.failed, 0);
        // Past the proxy, so that it is read from the local log.
        let past = Workload { first: 50, records: 50, ..Workload::new(&world.eu.bootstrap(), &topic) };
        assert_eq!(past.run().await?.failed, 0);
        wait_mirrored(&world.eu, &proxy, &["us"], &[&topic]).await?;
        assert_topic_equal(&world.eu, &world.us, &topic).await?;
        assert_nothing_shown(&proxy).await?;
        let shown = proxy.get("/config").await?;
        if number == 1 {
            ensure!(shown.contains(&format!("{:?}", password.display())), "where a secret is, is shown: {shown}");
        }
        proxy.finish().await?;
    }
    Ok(())
}

async fn sessions_are_renewed_under_load_without_a_lost_connection(world: &World) -> Result<()> {
    const TOPIC: &str = "renewed";
    world.eu.create_topic(TOPIC, 2, 1, &[]).await?;
    let password = world.secret("password", PASSWORD)?;
    let token = world.secret("short-token", &unsecured_token(USER, 4))?;
    let local = format!("mechanism = \"SCRAM-SHA-512\"\nusername = \"{USER}\"\npassword = {{ file = {password:?} }}");
    let region = format!("mechanism = \"OAUTHBEARER\"\ntoken = {{ file = {token:?} }}");
    let mut config = world.config(&local, &region)?;
    config.regions[0].topics = vec![TOPIC.to_owned()];
    config.log = "info,diffluent=debug".into();
    let proxy = Proxy::start(DIFFLUENT, config).await?;
    let load = Workload { records: u64::MAX, rate: Some(500), ..workload(&proxy.bootstrap(), TOPIC) }.start()?;
    let past = Workload { records: u64::MAX, rate: Some(100), ..Workload::new(&world.eu.bootstrap(), TOPIC) };
    let past = Workload { partition: Some(1), seed: 7, ..past }.start()?;
    // The token is renewed by somebody else, as it would be, over three lifetimes.
    let until = Instant::now() + LIFETIME * 3;
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(500)).await;
        world.secret("short-token", &unsecured_token(USER, 4))?;
    }
    load.stop();
    past.stop();
    assert_eq!(load.finish().await?.failed, 0);
    assert_eq!(past.finish().await?.failed, 0);
    wait_mirrored(&world.eu, &proxy, &["us"], &[TOPIC]).await?;
    assert_topic_equal(&world.eu, &world.us, TOPIC).await?;
    let log = proxy.log_text()?;
    let lost = ["could not be", "can't be reached", "could not be searched"];
    let lost = log.lines().find(|line| lost.iter().any(|words| line.contains(words)));
    ensure!(lost.is_none(), "a connection was lost: {lost:?}");
    let renewed = log.lines().filter(|line| line.contains("logged in again")).count();
    // A link, a reader and some connections for calls, on two sides.
    ensure!(renewed >= 6, "only {renewed} sessions were renewed");
    proxy.finish().await
}

/// `diffluent check` with this way into the region, and what it says.
async fn checked(world: &World, servers: &str, region: &str) -> Result<String> {
    let local = format!("mechanism = \"PLAIN\"\nusername = \"{USER}\"\npassword = \"{PASSWORD}\"");
    let mut config = world.config(&local, region)?;
    servers.clone_into(&mut config.regions[0].bootstrap);
    if region.is_empty() {
        config.regions[0].extra.clear();
    }
    let proxy = Proxy::prepare(DIFFLUENT, config)?;
    let output = Command::new(DIFFLUENT)
        .arg("check")
        .arg(proxy.config_path())
        .env("DIFFLUENT_LOG", "trace")
        .env("KAFKA_PASSWORD", PASSWORD)
        .output()
        .await?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.code() == Some(1), "exit code {:?}: {said}", output.status.code());
    ensure!(!said.contains("never-show-me"), "a secret is shown: {said}");
    Ok(said)
}

async fn who_is_not_let_in_is_told_why_and_what_to_do(world: &World) -> Result<()> {
    let endpoint = TokenEndpoint::start(USER, CLIENT_SECRET, LIFETIME, None).await?;
    let sasl = world.us.bootstrap_of(SASL)?;
    let login = |mechanism: &str, user: &str, password: &str| {
        format!("mechanism = \"{mechanism}\"\nusername = \"{user}\"\npassword = \"{password}\"")
    };
    let asked = |url: &str, secret: &str| {
        format!(
            "mechanism = \"OAUTHBEARER\"\ntoken_endpoint = \"{url}\"\nclient_id = \"{USER}\"\n\
             client_secret = \"{secret}\"\nscope = \"{SCOPE}\""
        )
    };
    // Whoever it is that answers there, with the wrong certificate: nothing is sent to it.
    let (authority, strangers) = (Authority::new("tokens")?, Authority::new("strangers")?);
    let names = ["localhost"];
    let https =
        async |identity: Result<Identity>| TokenEndpoint::start(USER, CLIENT_SECRET, LIFETIME, Some(&identity?)).await;
    let good = https(authority.server(&names)).await?;
    let strange = https(strangers.server(&names)).await?;
    let late = https(authority.expired_server(&names)).await?;
    let ca = world.secret("known-ca.crt", authority.pem())?;
    let trusting = |url: &str| asked(url, CLIENT_SECRET) + &format!("\ntoken_endpoint_ca = {ca:?}");
    let expired = world.secret("expired", &unsecured_token(USER, -60))?;
    let nobody = {
        let closed = TcpListener::bind("127.0.0.1:0").await?;
        closed.local_addr()?.to_string()
    };
    let (scram_only, plaintext) = (world.us.bootstrap_of(SCRAM_ONLY)?, world.us.bootstrap());
    let cases: [(&str, &str, String, &[&str]); 17] = [
        (
            "a wrong password with PLAIN",
            &sasl,
            login("PLAIN", USER, "never-show-me-wrong"),
            &[
                "it refuses user \"diffluent\" (PLAIN): Authentication failed",
                "correct username and password in [region.sasl]",
            ],
        ),
        (
            "a wrong password with SCRAM",
            &sasl,
            login("SCRAM-SHA-512", USER, "never-show-me-wrong"),
            &["it refuses user \"diffluent\" (SCRAM-SHA-512): Authentication failed", "correct username and password"],
        ),
        (
            "an unknown user",
            &sasl,
            login("SCRAM-SHA-256", "nobody", PASSWORD),
            &[
                "it refuses user \"nobody\" (SCRAM-SHA-256): Authentication failed",
                "make the user known to the cluster",
            ],
        ),
        (
            "a token that is too old",
            &sasl,
            format!("mechanism = \"OAUTHBEARER\"\ntoken = {{ file = {expired:?} }}"),
            &["it refuses the token (OAUTHBEARER): it says {\"status\":\"invalid_token\"}", "the token has expired 6"],
        ),
        (
            "a mechanism that the listener does not have",
            &scram_only,
            login("PLAIN", USER, PASSWORD),
            &["it does not offer PLAIN, but SCRAM-SHA-512", "set `mechanism` in [region.sasl] to one of these"],
        ),
        (
            "a login where none is taken",
            &plaintext,
            login("PLAIN", USER, PASSWORD),
            &[
                "this listener takes no SASL",
                "name the brokers' SASL listener in bootstrap_servers, or remove [region.sasl]",
            ],
        ),
        (
            "no login where one is asked for",
            &sasl,
            String::new(),
            &["closes the connection without an answer; if this listener asks for a login, say how in `sasl`"],
        ),
        (
            "a client that the token endpoint does not know",
            &sasl,
            asked(&endpoint.url(), "never-show-me-wrong"),
            &[
                "gives no token: status 401: invalid_client: no such client",
                "correct client_id, client_secret or scope",
            ],
        ),
        (
            "a token endpoint that is down",
            &sasl,
            asked(&format!("http://{nobody}/token"), CLIENT_SECRET),
            &["can't be asked: Connection refused", "see that it is up and can be reached from here"],
        ),
        (
            "a token endpoint that is no such thing",
            &sasl,
            asked(&format!("http://{plaintext}/token"), CLIENT_SECRET),
            &["[region.sasl]: the token endpoint http://", "can't be asked"],
        ),
        (
            "a token endpoint whose authority the machine does not know",
            &sasl,
            asked(&good.url_as("localhost"), CLIENT_SECRET),
            &[
                "authority that this machine does not trust: set token_endpoint_ca in [region.sasl]",
                "nothing is sent to it",
            ],
        ),
        (
            "a token endpoint of a stranger",
            &sasl,
            trusting(&strange.url_as("localhost")),
            &["is not in the file of token_endpoint_ca in [region.sasl]: add it there, if this is the right endpoint"],
        ),
        (
            "a token endpoint with a certificate for another name",
            &sasl,
            trusting(&good.url()),
            &["its certificate is for localhost, where one for 127.0.0.1 is needed: call it in token_endpoint as"],
        ),
        (
            "a token endpoint with a certificate that has expired",
            &sasl,
            trusting(&late.url_as("localhost")),
            &[
                "its certificate has expired on 2020-12-31: it must be renewed",
                "nothing is sent to it before that is put right",
            ],
        ),
        (
            "a token endpoint that does not speak TLS",
            &sasl,
            trusting(&endpoint.url().replace("http:", "https:")),
            &["what it answered is no TLS: does it speak https at this port?"],
        ),
        (
            "authorities of a token endpoint that are not there",
            &sasl,
            asked(&good.url(), CLIENT_SECRET) + "\ntoken_endpoint_ca = \"/no/such/ca\"",
            &["[region.sasl] token_endpoint_ca = \"/no/such/ca\": can't be read"],
        ),
        (
            "a secret that is not there",
            &sasl,
            format!("mechanism = \"PLAIN\"\nusername = \"{USER}\"\npassword = {{ file = \"/no/such/file\" }}"),
            &["[region.sasl] password: the file /no/such/file can't be read", "readable for diffluent's user"],
        ),
    ];
    for (name, servers, region, says) in cases {
        let said = checked(world, servers, &region).await.with_context(|| name.to_owned())?;
        for part in says {
            ensure!(said.contains(part), "{name}: {part:?} is not in\n{said}");
        }
    }
    Ok(())
}

async fn a_password_that_is_put_right_in_its_file_lets_a_running_proxy_in(world: &World) -> Result<()> {
    const TOPIC: &str = "put-right";
    world.eu.create_topic(TOPIC, 1, 1, &[]).await?;
    let file = world.secret("changing", "never-show-me-wrong")?;
    let login = |file: &PathBuf| {
        format!("mechanism = \"SCRAM-SHA-256\"\nusername = \"{USER}\"\npassword = {{ file = {file:?} }}")
    };
    let right = world.secret("password", PASSWORD)?;
    let mut config = world.config(&login(&right), &login(&file))?;
    config.regions[0].topics = vec![TOPIC.to_owned()];
    let config = config.allow("a broker of the region can't be reached").allow("the stream is stalled");
    let proxy = Proxy::start(DIFFLUENT, config).await?;
    assert_eq!(workload(&proxy.bootstrap(), TOPIC).run().await?.failed, 0, "a client never notices");
    let since = Instant::now();
    loop {
        let lag = proxy.region_lag("us").await?;
        let reason = lag["reason"].as_str().unwrap_or_default();
        if reason.contains("does not let diffluent in: it refuses user \"diffluent\" (SCRAM-SHA-256)") {
            ensure!(lag["remedy"].as_str().is_some_and(|remedy| remedy.contains("[region.sasl]")), "{lag:#}");
            break;
        }
        ensure!(since.elapsed() < common::PATIENCE, "{lag:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.secret("changing", PASSWORD)?;
    wait_mirrored(&world.eu, &proxy, &["us"], &[TOPIC]).await?;
    assert_nothing_shown(&proxy).await?;
    proxy.finish().await
}

async fn clients_log_in_and_again_with_every_mechanism_and_the_proxy_only_forwards(world: &World) -> Result<()> {
    const TOPIC: &str = "from-java";
    // More than three lifetimes.
    const RECORDS: u64 = 40;
    const RECORDS_PER_SECOND: u64 = 4;
    world.eu.create_topic(TOPIC, 1, 1, &[]).await?;
    let login = format!("mechanism = \"PLAIN\"\nusername = \"{USER}\"\npassword = \"{PASSWORD}\"");
    let mut config = world.config(&login, &login)?;
    config.regions[0].topics = vec![TOPIC.to_owned()];
    let proxy = Proxy::start(DIFFLUENT, config).await?;
    let bootstrap = proxy.bootstrap();
    let (records, rate) = (RECORDS.to_string(), RECORDS_PER_SECOND.to_string());
    let mut producers = tokio::task::JoinSet::new();
    for mechanism in MECHANISMS {
        let user = format!("username=\"{USER}\" password=\"{PASSWORD}\"");
        let module = match mechanism {
            "PLAIN" => format!("plain.PlainLoginModule required {user}"),
            "OAUTHBEARER" => {
                format!("oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub=\"{USER}\"")
            }
            _ => format!("scram.ScramLoginModule required {user}"),
        };
        let text = format!(
            "security.protocol=SASL_PLAINTEXT\nsasl.mechanism={mechanism}\nsasl.jaas.config={SECURITY}.{module};"
        );
        let file = world.secret(&format!("{mechanism}.properties"), &text)?;
        let tools = Tools::new(world.eu.kafka(), &bootstrap).config(&file);
        let (records, rate) = (records.clone(), rate.clone());
        producers.spawn(async move {
            let args = ["--topic", TOPIC, "--max-messages", &records, "--throughput", &rate];
            let output = tools.attempt("org.apache.kafka.tools.VerifiableProducer", &args, "").await?;
            let acked = output.stdout.lines().filter(|line| line.contains("producer_send_success")).count() as u64;
            ensure!(
                output.success && acked == RECORDS,
                "{mechanism}: {acked} acknowledged\n{}{}",
                output.stdout,
                output.stderr
            );
            Ok(())
        });
    }
    while let Some(done) = producers.join_next().await {
        done??;
    }
    wait_mirrored(&world.eu, &proxy, &["us"], &[TOPIC]).await?;
    assert_topic_equal(&world.eu, &world.us, TOPIC).await?;
    let opened = proxy.metric("diffluent_client_connections_opened_total").await?;
    let handshakes = proxy.metric_with("diffluent_client_requests_total", &["api=\"SaslHandshake\""]).await?;
    ensure!(handshakes >= opened + 4.0, "{opened} connections, {handshakes} handshakes: nobody logged in again");
    assert_nothing_shown(&proxy).await?;
    proxy.finish().await
}

/// Kafka's oldest way to log in (SaslHandshake v0): the mechanism's tokens travel without a request around them.
async fn raw_tokens_of_the_first_handshake_version_are_forwarded(world: &World) -> Result<()> {
    let login = format!("mechanism = \"PLAIN\"\nusername = \"{USER}\"\npassword = \"{PASSWORD}\"");
    let mut config = world.config(&login, &login)?;
    config.regions[0].topics = vec!["none".to_owned()];
    let proxy = Proxy::start(DIFFLUENT, config).await?;
    let handshake = |mechanism: Mechanism| {
        SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str(mechanism.as_str()))
    };
    for mechanism in [Mechanism::Plain, Mechanism::ScramSha512] {
        let mut call = Call::connect(&proxy.bootstrap()).await?;
        let answer = call.call(&handshake(mechanism), 0).await?;
        ensure!(answer.error_code == 0, "{answer:?}");
        let credentials = Credentials::Password { username: USER.to_owned(), password: PASSWORD.to_owned() };
        let (mut exchange, mut said) = Exchange::begin(mechanism, credentials).map_err(anyhow::Error::msg)?;
        loop {
            call.send_frame(&said).await?;
            match exchange.next(&call.recv_frame().await?).map_err(anyhow::Error::msg)? {
                Next::Say(next) => said = next,
                Next::Done => break,
            }
        }
        let metadata = call.call(&MetadataRequest::default().with_topics(None), 12).await?;
        let ours = |port: i32| u16::try_from(port).is_ok_and(|port| proxy.broker_ports().contains(&port));
        ensure!(
            !metadata.brokers.is_empty() && metadata.brokers.iter().all(|broker| ours(broker.port)),
            "{metadata:?}"
        );
    }
    // One that is wrong ends as at the broker.
    let mut call = Call::connect(&proxy.bootstrap()).await?;
    call.call(&handshake(Mechanism::Plain), 0).await?;
    call.send_frame(b"\0diffluent\0never-show-me-wrong").await?;
    ensure!(call.recv_frame().await.is_err(), "a wrong password was answered");
    assert_nothing_shown(&proxy).await?;
    proxy.finish().await
}
