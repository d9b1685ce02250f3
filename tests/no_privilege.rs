//! diffluent runs as any user, writes no file, and needs no capability.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use common::{DIFFLUENT, PATIENCE};
use diffluent_testbed::guard::TempDir;
use diffluent_testbed::model::TcpCluster;
use diffluent_testbed::ports::Ports;
use diffluent_testbed::{Authority, ProxyConfig, TlsClient, Workload, http};
use rustix::process::{Signal, getuid};
use tokio::io::AsyncReadExt;
use tokio::process::Command;

const NOBODY: &str = "65534";

#[tokio::test(flavor = "multi_thread")]
async fn it_runs_as_nobody_without_capabilities_and_writes_no_file() -> Result<()> {
    let (eu, us) = tokio::try_join!(TcpCluster::start("eu", 1, None), TcpCluster::start("us", 1, None))?;
    eu.model().change(|state, _| state.create_topic("orders", 2, 1)).map_err(|code| anyhow::anyhow!("error {code}"))?;

    // Everything that it needs lies where it can read and not write.
    let dir = TempDir::new("diffluent-nobody-")?;
    let binary = dir.path().join("diffluent");
    std::fs::copy(DIFFLUENT, &binary).context("cannot copy the binary")?;
    let authority = Authority::new("authority")?;
    let shown = authority.server(&["127.0.0.1"])?.write(dir.path(), "shown")?;
    let (listen, brokers, admin) = (Ports::one()?, Ports::range(2)?, Ports::one()?);
    let mut config = ProxyConfig::new("eu", eu.bootstrap()).region("us", us.bootstrap());
    config.extra_proxy = format!("[proxy.tls]\ncertificate = {:?}\nkey = {:?}\n", shown.certificate, shown.key);
    let file = dir.path().join("proxy.toml");
    std::fs::write(&file, config.toml(listen.first(), brokers.first(), brokers.last(), admin.first()))?;
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty)?;
    for (path, mode) in
        [(&file, 0o444), (&shown.key, 0o444), (&shown.certificate, 0o444), (&binary, 0o555), (&empty, 0o555)]
    {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode))?;
    }
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o555))?;

    // The limit of a file's size is 0: whoever writes to one is killed (SIGXFSZ). What it logs goes to a pipe.
    let as_nobody: &[&str] = if getuid().is_root() {
        &["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"]
    } else {
        &["setpriv", "--inh-caps=-all"]
    };
    let mut command = Command::new("prlimit");
    command.args(["--fsize=0", "--core=0"]).args(as_nobody).arg("--no-new-privs").arg(&binary).arg("run").arg(&file);
    command.current_dir(&empty).env_clear().env("PATH", "/usr/bin:/bin").env("NO_COLOR", "1");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().context("cannot start it; prlimit and setpriv are util-linux")?;
    let mut log = child.stderr.take().context("no log")?;
    let logged = tokio::spawn(async move {
        let mut text = String::new();
        let _ = log.read_to_string(&mut text).await;
        text
    });
    let admin = format!("127.0.0.1:{}", admin.first());
    let since = Instant::now();
    while http::get(&admin, "/ready").await.map(|(status, _)| status).unwrap_or_default() != 200 {
        if let Some(status) = child.try_wait()? {
            panic!("it ended: {status}: {}", logged.await?);
        }
        assert!(since.elapsed() < PATIENCE, "not ready");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }

    // It does its work: TLS in, and what is produced past it is mirrored.
    let tls = TlsClient::new(authority.pem(), None)?;
    let bootstrap = format!("127.0.0.1:{}", listen.first());
    let mut call = diffluent_testbed::Call::connect_tls(&bootstrap, "127.0.0.1", &tls).await?;
    call.call(&kafka_protocol::messages::MetadataRequest::default().with_topics(None), 12).await?;
    let outcome = Workload { records: 100, ..Workload::new(eu.bootstrap(), "orders") }.run().await?;
    ensure!(outcome.acked == 100, "{outcome:?}");
    let since = Instant::now();
    loop {
        let (_, metrics) = http::get(&admin, "/metrics").await?;
        if metrics.contains("diffluent_mirrored_records_total{region=\"us\"} 100") {
            break;
        }
        assert!(since.elapsed() < PATIENCE, "not mirrored: {metrics}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }

    let pid = child.id().context("it has ended")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let of = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).unwrap_or_default();
    if getuid().is_root() {
        assert!(of("Uid:").split_whitespace().all(|uid| uid == NOBODY), "{status}");
        assert!(of("Gid:").split_whitespace().all(|gid| gid == NOBODY), "{status}");
        for capabilities in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            assert_eq!(u64::from_str_radix(of(capabilities), 16)?, 0, "{capabilities}");
        }
    }
    assert_eq!(of("NoNewPrivs:"), "1");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        let path = entry?.path();
        let what = std::fs::read_link(&path).unwrap_or_default();
        if std::fs::metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
            files.push(what);
        }
    }
    assert_eq!(files, Vec::<std::path::PathBuf>::new(), "it holds files open");

    let raw = rustix::process::Pid::from_raw(i32::try_from(pid)?).context("an odd process id")?;
    rustix::process::kill_process(raw, Signal::TERM)?;
    let status = tokio::time::timeout(PATIENCE, child.wait()).await.context("it does not end")??;
    let log = logged.await?;
    ensure!(status.success(), "{status}: {log}");
    for line in log.lines() {
        assert!(!line.contains(" WARN ") && !line.contains(" ERROR "), "{line}");
    }
    assert_eq!(std::fs::read_dir(&empty)?.count(), 0, "it has written where it runs");
    // So that it can be removed by whoever is not root.
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755))?;
    Ok(())
}
