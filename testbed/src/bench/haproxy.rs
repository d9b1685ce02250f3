//! HAProxy in TCP mode in front of a broker, as its documentation recommends for TCP.
//!
//! A Kafka client dials what Metadata tells it, so HAProxy stands in front of a second listener that advertises HAProxy's port. That
//! is what the testbed's delayed listener is; its relay is cut and HAProxy takes the relay's port.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::net::TcpStream;

use crate::bench::machine::first_line;
use crate::guard::{Guarded, TempDir};
use crate::kafka::Cluster;

const DEADLINE: Duration = Duration::from_secs(20);

/// A running HAProxy. Killed when it is dropped.
#[derive(Debug)]
pub(super) struct Haproxy {
    process: Guarded,
    bootstrap: String,
    _dir: TempDir,
}

impl Haproxy {
    /// In front of the delayed listener of a cluster of one broker.
    ///
    /// # Errors
    /// When there is no HAProxy and it may not be installed, or it does not start.
    pub(super) async fn start(cluster: &Cluster) -> Result<Self> {
        let delay = cluster.delay().context("the cluster has no second listener")?;
        delay.cut().await;
        let bootstrap = cluster.delayed_bootstrap();
        let broker = behind(&cluster.broker_log(1)?.with_extension("properties"))?;
        Self::between(&bootstrap, "", &broker, "").await
    }

    /// Between `bootstrap`, which it binds, and `broker`, each with what else HAProxy has to know of it.
    ///
    /// # Errors
    /// As [`Haproxy::start`].
    pub(super) async fn between(bootstrap: &str, bind: &str, broker: &str, server: &str) -> Result<Self> {
        ensure()?;
        let bootstrap = bootstrap.to_owned();
        let dir = TempDir::new("diffluent-haproxy-")?;
        let file = dir.path().join("haproxy.cfg");
        let text = format!(
            "defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 1h\n    timeout server 1h\n\
             listen broker-1\n    bind {bootstrap} {bind}\n    server broker-1 {broker} {server}\n"
        );
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        let mut command = Command::new(program());
        command.arg("-db").arg("-f").arg(&file);
        let process = Guarded::spawn("haproxy", command, &dir.path().join("haproxy.log"))?;
        let mut haproxy = Self { process, bootstrap, _dir: dir };
        haproxy.wait_ready().await?;
        Ok(haproxy)
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let end = Instant::now() + DEADLINE;
        while TcpStream::connect(&self.bootstrap).await.is_err() {
            if let Some(status) = self.process.try_status() {
                bail!("HAProxy ended ({status}):\n{}", self.process.log_tail());
            }
            if Instant::now() > end {
                bail!("HAProxy does not listen after {DEADLINE:?}:\n{}", self.process.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// The clients' `bootstrap.servers`.
    pub(super) fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// The process id.
    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }
}

/// The version, as HAProxy tells it.
pub(super) fn version() -> String {
    let line = first_line(&program(), &["-v"]);
    line.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// The address that the broker really binds for the delayed listener.
fn behind(properties: &Path) -> Result<String> {
    let text = std::fs::read_to_string(properties).with_context(|| format!("cannot read {}", properties.display()))?;
    let listeners = text.lines().find_map(|line| line.strip_prefix("listeners="));
    let mut listeners = listeners.context("the broker has no listeners")?.split(',');
    let found = listeners.find_map(|listener| listener.strip_prefix("DELAYED://"));
    Ok(found.context("the broker has no second listener")?.to_owned())
}

fn program() -> String {
    // Debian installs it where only root's PATH looks.
    let debian = "/usr/sbin/haproxy";
    if Path::new(debian).exists() { debian } else { "haproxy" }.to_owned()
}

fn ensure() -> Result<()> {
    let installed =
        || Command::new(program()).arg("-v").stdout(Stdio::null()).status().is_ok_and(|status| status.success());
    if installed() {
        return Ok(());
    }
    if rustix::process::getuid().is_root() && Path::new("/etc/debian_version").exists() {
        eprintln!("testbed: installing HAProxy with apt-get");
        for args in [&["-q", "update"][..], &["-q", "install", "-y", "--no-install-recommends", "haproxy"]] {
            let mut command = Command::new("apt-get");
            command.env("DEBIAN_FRONTEND", "noninteractive").args(args);
            // Whether it worked shows below.
            let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
        }
        if installed() {
            return Ok(());
        }
    }
    bail!("this row needs HAProxy to compare with; on Debian: apt-get install haproxy")
}
