//! What is in deploy/: systemd is told, the manifests fit the code, the image's layout runs.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::{DIFFLUENT, PATIENCE};
use diffluent::config::Config;
use diffluent_testbed::guard::TempDir;
use diffluent_testbed::model::TcpCluster;
use diffluent_testbed::{Proxy, ProxyConfig};
use serde::Deserialize;
use serde_json::Value;
use tokio::net::UnixDatagram;

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What systemd would be told, up to the first datagram that contains `part`.
async fn told(socket: &UnixDatagram, part: &str) -> Result<Vec<String>> {
    let mut all = Vec::new();
    let mut datagram = [0; 4096];
    while !all.last().is_some_and(|last: &String| last.contains(part)) {
        let received = tokio::time::timeout(PATIENCE, socket.recv(&mut datagram)).await;
        let length = received.with_context(|| format!("{part} is not told: {all:?}"))??;
        all.push(String::from_utf8_lossy(&datagram[..length]).into_owned());
    }
    Ok(all)
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_told_when_clients_are_served_that_the_process_lives_and_that_it_stops() -> Result<()> {
    let dir = TempDir::new("diffluent-notify-")?;
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path)?;
    let eu = TcpCluster::start("eu", 1, None).await?;
    eu.model().change(|state, now| state.crash(1, now));
    let config = ProxyConfig {
        env: vec![
            ("NOTIFY_SOCKET".into(), path.display().to_string()),
            ("WATCHDOG_USEC".into(), Duration::from_millis(500).as_micros().to_string()),
        ],
        ..ProxyConfig::new("eu", eu.bootstrap()).allow("the local cluster can't be reached")
    };
    let mut proxy = Proxy::prepare(DIFFLUENT, config)?;
    proxy.spawn()?;
    // The process lives, and no client is served yet.
    let before = told(&socket, "WATCHDOG=1").await?;
    let waiting = told(&socket, "STATUS=waiting for the local cluster to answer").await?;
    ensure!(!before.iter().chain(&waiting).any(|said| said.contains("READY=1")), "{before:?} {waiting:?}");
    eu.model().change(|state, now| state.start(1, now));
    told(&socket, "READY=1").await?;
    proxy.wait_ready(PATIENCE).await?;
    told(&socket, "WATCHDOG=1").await?;
    let (said, stopped) = tokio::join!(told(&socket, "STOPPING=1"), proxy.stop());
    said?;
    ensure!(stopped?.success(), "it did not end well");
    proxy.check_log()
}

#[test]
fn the_unit_asks_for_what_the_process_tells() -> Result<()> {
    let unit = std::fs::read_to_string(file("deploy/systemd/diffluent.service"))?;
    for line in
        ["Type=notify", "WatchdogSec=30", "RestartPreventExitStatus=64", "KillSignal=SIGTERM", "NoNewPrivileges=yes"]
    {
        ensure!(unit.lines().any(|found| found == line), "the unit lacks {line}");
    }
    // The socket of sd_notify is none of the two address families of TCP.
    let families = unit.lines().find_map(|line| line.strip_prefix("RestrictAddressFamilies=")).unwrap_or_default();
    ensure!(families.split(' ').any(|family| family == "AF_UNIX"), "{families}");
    Ok(())
}

/// The documents of a manifest, by kind.
fn manifest(path: &str) -> Result<BTreeMap<String, Value>> {
    let text = std::fs::read_to_string(file(path))?;
    let documents = serde_norway::Deserializer::from_str(&text).map(Value::deserialize);
    let kind = |document: &Value| document["kind"].as_str().map(str::to_owned);
    documents
        .map(|document| {
            document.map(|document| (kind(&document).unwrap_or_default(), document)).context(path.to_owned())
        })
        .collect()
}

fn mebibytes(quantity: &Value) -> Result<u64> {
    let text = quantity.as_str().context("no quantity")?;
    text.strip_suffix("Mi").with_context(|| format!("{text} is no number of Mi"))?.parse().context("no number")
}

/// Checks the container of diffluent in a pod against its configuration and against what the code does.
fn fits(path: &str, pod: &Value, container: &Value, config: &Config) -> Result<()> {
    let ports: BTreeMap<&str, u64> = container["ports"]
        .as_array()
        .context("no ports")?
        .iter()
        .filter_map(|port| Some((port["name"].as_str()?, port["containerPort"].as_u64()?)))
        .collect();
    ensure!(ports["admin"] == u64::from(config.admin.listen.port), "{path}: the admin port is {ports:?}");
    // The kubelet comes to the pod's address.
    ensure!(config.admin.listen.host == "0.0.0.0", "{path}: probes can't reach {}", config.admin.listen);
    let openapi: Value = serde_json::from_str(&std::fs::read_to_string(file("src/admin/openapi.json"))?)?;
    for (probe, live) in [("startupProbe", None), ("readinessProbe", Some("/ready")), ("livenessProbe", Some("/live"))]
    {
        let get = &container[probe]["httpGet"];
        let asked = get["path"].as_str().with_context(|| format!("{path}: no {probe}"))?;
        ensure!(openapi["paths"][asked]["get"].is_object(), "{path}: {probe} asks for {asked}, which is not there");
        ensure!(live.is_none_or(|live| live == asked), "{path}: {probe} asks for {asked}");
        ensure!(get["port"] == "admin", "{path}: {probe} asks another port");
    }
    // Clients, then streams, then the last commit: the order of a stop in src/app.rs.
    let stop = 2 * config.proxy.drain_timeout + Duration::from_secs(5);
    let grace = Duration::from_secs(pod["terminationGracePeriodSeconds"].as_u64().context("no grace period")?);
    ensure!(grace > stop, "{path}: {grace:?} are less than a stop may take, {stop:?}");
    // deploy/README.md, "Sizes".
    let buffers = if config.mirror.enabled { config.mirror.buffer.bytes() >> 20 } else { 0 };
    let catch_up = (config.mirror.catch_up_buffer.bytes() >> 20) * config.region.len() as u64;
    let limit = mebibytes(&container["resources"]["limits"]["memory"])?;
    ensure!(limit >= 64 + buffers + catch_up, "{path}: {limit} MiB are too few for {buffers} and {catch_up}");
    let security = &container["securityContext"];
    ensure!(pod["securityContext"]["runAsNonRoot"] == true && security["runAsUser"] == 65532, "{path}: not as nonroot");
    ensure!(
        security["readOnlyRootFilesystem"] == true && security["allowPrivilegeEscalation"] == false,
        "{path}: {security}"
    );
    let arguments: Vec<&str> = container["args"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    ensure!(arguments.starts_with(&["run", "/etc/diffluent/proxy.toml"]), "{path}: {arguments:?}");
    ensure!(
        container["volumeMounts"][0]["mountPath"] == "/etc/diffluent",
        "{path}: the configuration is mounted elsewhere"
    );
    Ok(())
}

fn embedded(path: &str, documents: &BTreeMap<String, Value>) -> Result<Config> {
    let text = documents["ConfigMap"]["data"]["proxy.toml"].as_str().context("no proxy.toml")?;
    Ok(Config::parse(path, text)?)
}

#[test]
fn the_manifest_of_a_sidecar_fits_the_code() -> Result<()> {
    let path = "deploy/kubernetes/sidecar.yaml";
    let documents = manifest(path)?;
    let config = embedded(path, &documents)?;
    let pod = &documents["Deployment"]["spec"]["template"]["spec"];
    let sidecar = &pod["initContainers"][0];
    ensure!(sidecar["restartPolicy"] == "Always", "an init container that does not go on is no sidecar");
    let bootstrap = &pod["containers"][0]["env"][0]["value"];
    ensure!(bootstrap == &Value::from(config.proxy.listen.to_string()), "the producer is sent to {bootstrap}");
    fits(path, pod, sidecar, &config)
}

#[test]
fn the_manifest_of_a_gateway_fits_the_code() -> Result<()> {
    let path = "deploy/kubernetes/gateway.yaml";
    let documents = manifest(path)?;
    let config = embedded(path, &documents)?;
    let (service, deployment) = (&documents["Service"], &documents["Deployment"]["spec"]);
    let pod = &deployment["template"]["spec"];
    let name = service["metadata"]["name"].as_str().context("no name")?;
    let advertised = config.proxy.advertise.to_string();
    ensure!(advertised.starts_with(&format!("{name}.")), "{advertised} is not the service {name}");
    // Brokers' ports are not listed: only the pod itself has them.
    ensure!(service["spec"]["clusterIP"] == "None", "a service with an address has only the ports that it lists");
    ensure!(service["spec"]["selector"] == deployment["template"]["metadata"]["labels"], "the service finds no pod");
    ensure!(deployment["selector"]["matchLabels"] == deployment["template"]["metadata"]["labels"], "no pod is its own");
    fits(path, pod, &pod["containers"][0], &config)
}

#[test]
fn the_image_runs_as_nobody_with_nothing_but_what_is_in_it() -> Result<()> {
    let containerfile = std::fs::read_to_string(file("deploy/container/Containerfile"))?;
    for part in [
        "USER 65532:65532",
        "/usr/local/bin/diffluent",
        "--profile dist --bin diffluent -- -C target-feature=+crt-static",
        "FROM gcr.io/distroless/static-debian12:nonroot",
        r#"CMD ["run", "/etc/diffluent/proxy.toml"]"#,
    ] {
        ensure!(containerfile.contains(part), "the container file lacks {part}");
    }
    let dir = TempDir::new("diffluent-image-")?;
    let root = dir.path().join("root");
    // The image's own binary takes minutes to build: who has built it names it here.
    let own = std::env::var_os("DIFFLUENT_IMAGE_BINARY");
    let binary = own.as_deref().unwrap_or(DIFFLUENT.as_ref());
    let laid = Command::new(file("deploy/container/layout")).arg(binary).arg(&root).output()?;
    ensure!(laid.status.success(), "{}", String::from_utf8_lossy(&laid.stderr));
    if own.is_some() {
        ensure!(!root.join("lib64").exists() && !root.join("lib").exists(), "it is not static");
        let bytes = std::fs::metadata(root.join("usr/local/bin/diffluent"))?.len();
        ensure!(bytes < 40 << 20, "{bytes} bytes are more than tens of megabytes");
    }
    std::fs::copy(file("proxy.toml"), root.join("etc/diffluent/proxy.toml"))?;
    if !rustix::process::getuid().is_root() {
        eprintln!("not entered: that needs root");
        return Ok(());
    }
    let run = |arguments: &[&str]| -> Result<(Option<i32>, String)> {
        let mut command = Command::new("/usr/sbin/chroot");
        command.arg("--userspec=65532:65532").arg(&root).arg("/usr/local/bin/diffluent").args(arguments).env_clear();
        let output = command.output()?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
    };
    let (code, said) = run(&["--version"])?;
    ensure!(code == Some(0) && said.contains(diffluent::VERSION), "{code:?} {said}");
    // It resolves names, opens sockets, and says what is wrong: the brokers of the example are nowhere.
    let (code, said) = run(&["check", "/etc/diffluent/proxy.toml"])?;
    ensure!(code == Some(1) && said.contains("kafka.eu-west.example.com:9092 can't be looked up"), "{code:?} {said}");
    Ok(())
}
