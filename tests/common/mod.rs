//! Set-up that the tests share: clusters, a proxy in front of the first, and the comparison at the end.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod progress;
pub mod scripted;

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use diffluent_testbed::{Cluster, Proxy, ProxyConfig, Side, verify};
use tokio::process::Command;

/// The binary under test.
pub const DIFFLUENT: &str = env!("CARGO_BIN_EXE_diffluent");

/// How long a region may take to catch up before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long a command may take: a bad file is refused at once, `check` waits for clusters as long as `dial_timeout` says.
const COMMAND_DEADLINE: Duration = Duration::from_secs(30);

/// What a command has said.
#[derive(Debug)]
pub struct Said {
    /// The exit code.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs diffluent with these arguments, until it ends.
pub async fn diffluent(args: &[&str]) -> Result<Said> {
    let mut command = Command::new(DIFFLUENT);
    command.args(args).stdin(Stdio::null()).env("NO_COLOR", "1").env_remove("DIFFLUENT_LOG").kill_on_drop(true);
    let output = tokio::time::timeout(COMMAND_DEADLINE, command.output());
    let output = output.await.with_context(|| format!("diffluent {args:?} does not end"))??;
    Ok(Said {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// A local cluster, regions, and a proxy in front of the local one.
pub struct World {
    /// The local cluster.
    pub eu: Cluster,
    /// A region.
    pub us: Cluster,
    /// Another region.
    pub ap: Cluster,
    /// The proxy.
    pub proxy: Proxy,
}

impl World {
    /// Starts three clusters of one broker each, and a proxy.
    pub async fn start() -> Result<Self> {
        Self::start_with(|config| config).await
    }

    /// As [`World::start`], with changes to the proxy's configuration.
    pub async fn start_with(change: impl FnOnce(ProxyConfig) -> ProxyConfig) -> Result<Self> {
        let (eu, us, ap) = tokio::try_join!(
            Cluster::builder().name("eu").start(),
            Cluster::builder().name("us").start(),
            Cluster::builder().name("ap").start(),
        )?;
        let config =
            ProxyConfig::new("eu", &eu.bootstrap()).region("us", &us.bootstrap()).region("ap", &ap.bootstrap());
        let proxy = Proxy::start(DIFFLUENT, change(config)).await?;
        Ok(Self { eu, us, ap, proxy })
    }

    /// Waits until both regions have everything, and compares them with the local cluster, record by record.
    pub async fn assert_regions_equal(&self, topics: &[&str]) -> Result<()> {
        wait_mirrored(&self.eu, &self.proxy, &["us", "ap"], topics).await?;
        for topic in topics {
            for region in [&self.us, &self.ap] {
                assert_topic_equal(&self.eu, region, topic).await?;
            }
        }
        Ok(())
    }
}

/// Waits until the proxy says that regions have everything that the local log of these topics holds now.
pub async fn wait_mirrored(local: &Cluster, proxy: &Proxy, regions: &[&str], topics: &[&str]) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    for topic in topics {
        let ends = local.admin().end_offsets(topic).await?;
        for region in regions {
            loop {
                let lag = proxy.get(&format!("/lag/{region}/{topic}")).await.unwrap_or_default();
                let lag: serde_json::Value = serde_json::from_str(&lag).unwrap_or_default();
                let has = |(partition, end): (usize, &i64)| {
                    lag["partitions"][partition]["next_source_offset"].as_i64().is_some_and(|next| next >= *end)
                };
                if ends.iter().enumerate().all(has) {
                    break;
                }
                if Instant::now() > deadline {
                    bail!("{region} does not have {topic} to {ends:?}: {lag:#}\n{}", proxy.log_text()?);
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    Ok(())
}

/// Compares a topic of two clusters, record by record.
pub async fn assert_topic_equal(local: &Cluster, region: &Cluster, topic: &str) -> Result<()> {
    let side = |cluster: &Cluster| Side::new(cluster.name(), &cluster.bootstrap());
    let report = verify::assert_equal(&side(local), &side(region), topic).await?;
    println!("{report}");
    Ok(())
}

/// Waits until `diffluent verify` says that all of so many topics of one partition are equal, to their logs' ends.
pub async fn verify_says_equal(proxy: &Proxy, topics: usize) -> Result<()> {
    let since = Instant::now();
    loop {
        let config = proxy.config_path().to_owned();
        let verify = move || std::process::Command::new(DIFFLUENT).arg("verify").arg(config).arg("--json").output();
        let output = tokio::task::spawn_blocking(verify).await??;
        let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let equal = report["regions"][0]["topics"].as_array().into_iter().flatten().filter(|topic| {
            let partition = &topic["partitions"][0];
            // The last offset of each log was compared.
            topic["result"] == "equal" && partition["source"]["to"] == partition["source"]["log_end"]
        });
        if equal.count() == topics {
            assert_eq!(output.status.code(), Some(0), "{report:#}");
            return Ok(());
        }
        assert!(since.elapsed() < PATIENCE && output.status.code() != Some(1), "{report:#}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
