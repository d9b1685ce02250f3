//! Kerberos (GSSAPI) of clients, against a real KDC: diffluent forwards it, and it works where the brokers have a principal for the name that clients dial.

mod common;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use common::DIFFLUENT;
use diffluent_testbed::certificates::write;
use diffluent_testbed::guard::TempDir;
use diffluent_testbed::kafka::sasl::Grant;
use diffluent_testbed::kerberos::Realm;
use diffluent_testbed::{Cluster, Listener, Proxy, ProxyConfig, Tools};

/// What clients dial.
const NAME: &str = "sidecar.kafka.test";
/// It leads to the same place, and no broker has a principal for it.
const ANOTHER_NAME: &str = "elsewhere.kafka.test";
const LISTENER: &str = "KERBEROS";
/// Of diffluent's own connections, which don't speak GSSAPI.
const PASSWORD: &str = "never-show-me-1";
/// Sessions last so long.
const LIFETIME: Duration = Duration::from_secs(3);

/// A Java client's settings.
fn client(dir: &Path, name: &str, jaas: &str, more: &str) -> Result<PathBuf> {
    let text = format!(
        "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=GSSAPI\nsasl.kerberos.service.name=kafka\nsasl.jaas.config={jaas}\n{more}"
    );
    write(dir, name, &text)
}

#[tokio::test(flavor = "multi_thread")]
async fn kerberos_passes_where_brokers_have_a_principal_for_the_name_that_clients_dial() -> Result<()> {
    const TOPIC: &str = "kerberos";
    let realm = Realm::start().await?;
    let dir = TempDir::new("diffluent-kerberos-")?;
    let plain =
        format!("org.apache.kafka.common.security.plain.PlainLoginModule required user_diffluent=\"{PASSWORD}\";");
    let listener = Listener::new(LISTENER, "SASL_PLAINTEXT")
        .set("sasl.enabled.mechanisms", "GSSAPI,PLAIN")
        .set("sasl.kerberos.service.name", "kafka")
        .set("gssapi.sasl.jaas.config", &realm.jaas(&format!("kafka/{NAME}"))?)
        .set("plain.sasl.jaas.config", &plain)
        .set("connections.max.reauth.ms", &LIFETIME.as_millis().to_string());
    let cluster = Cluster::builder().name("eu").listener(listener).authorizer().java_option(&realm.java_option());
    let eu = cluster.start().await?;
    eu.create_topic(TOPIC, 2, 1, &[]).await?;
    // Only who is known by name may do something.
    let right = |operation, kind, name| Grant { principal: "User:alice", operation, kind, name };
    let rights = [("Read", "topic", TOPIC), ("Write", "topic", TOPIC), ("Read", "group", "console-consumer*")];
    eu.admin().grant(&rights.map(|(operation, kind, name)| right(operation, kind, name))).await?;

    let mut config = ProxyConfig::new("eu", &eu.bootstrap_of(LISTENER)?);
    config.advertise = Some(NAME.to_owned());
    config.extra_local =
        format!("[local.sasl]\nmechanism = \"PLAIN\"\nusername = \"diffluent\"\npassword = \"{PASSWORD}\"\n");
    config.log = "trace".into();
    let proxy = Proxy::start(DIFFLUENT, config).await?;
    let port = proxy.bootstrap().rsplit_once(':').map(|(_, port)| port.to_owned()).unwrap_or_default();

    let alice = realm.jaas("alice")?;
    let settings = client(dir.path(), "client.properties", &alice, "")?;
    let hosts = write(dir.path(), "hosts", &format!("127.0.0.1 {NAME}\n127.0.0.1 {ANOTHER_NAME}\n"))?;
    let hosts = format!("-Djdk.net.hosts.file={}", hosts.display());
    // The cluster's tools know the realm.
    let tools =
        |host: &str, settings: &Path| Tools::new(eu.kafka(), &format!("{host}:{port}")).config(settings).option(&hosts);
    let through = tools(NAME, &settings);
    through.round_trip(TOPIC, 0).await?;

    // For longer than a session: the client logs in again, with another ticket.
    let args = ["--topic", TOPIC, "--max-messages", "30", "--throughput", "4"];
    let said = through.run("org.apache.kafka.tools.VerifiableProducer", &args, "").await?;
    let acked = said.stdout.lines().filter(|line| line.contains("producer_send_success")).count();
    ensure!(acked == 30, "{acked} acknowledged: {}{}", said.stdout, said.stderr);
    let opened = proxy.metric("diffluent_client_connections_opened_total").await?;
    let handshakes = proxy.metric_with("diffluent_client_requests_total", &["api=\"SaslHandshake\""]).await?;
    ensure!(handshakes > opened, "{opened} connections, {handshakes} handshakes: nobody logged in again");

    // The KDC knows no such service. Java takes that for something that passes, and says little more than that it can't log in.
    let impatient = "request.timeout.ms=4000\ndefault.api.timeout.ms=8000\n";
    let settings = client(dir.path(), "impatient.properties", &alice, impatient)?;
    let elsewhere = tools(ANOTHER_NAME, &settings);
    let said = elsewhere.attempt("org.apache.kafka.tools.TopicCommand", &["--list"], "").await?;
    ensure!(!said.success && said.stderr.contains("terminated during authentication"), "{}", said.stderr);
    let (service, asked) = (format!("kafka/{ANOTHER_NAME}@"), realm.log()?);
    let refused = |line: &str| line.contains(&service) && line.contains("Server not found in Kerberos database");
    ensure!(asked.lines().any(refused), "{asked}");
    proxy.finish().await
}
