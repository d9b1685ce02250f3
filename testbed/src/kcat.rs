//! kcat: stock librdkafka with TLS and SASL, as a program, so that nothing here has to be built against OpenSSL.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};

use crate::packages;

/// How long kcat may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// How kcat connects.
#[derive(Clone, Debug)]
pub struct Kcat {
    bootstrap: String,
    properties: Vec<String>,
}

/// A kcat that produces what it is given, line by line. Killed when it is dropped.
#[derive(Debug)]
pub struct Producing {
    child: Child,
    input: ChildStdin,
}

impl Kcat {
    /// A kcat for these `bootstrap.servers`.
    ///
    /// # Errors
    /// When there is no kcat and it can't be installed.
    pub fn new(bootstrap: &str) -> Result<Self> {
        packages::ensure("kcat", "kcat")?;
        Ok(Self { bootstrap: bootstrap.to_owned(), properties: Vec::new() })
    }

    /// Sets a property of librdkafka.
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.properties.push(format!("{key}={value}"));
        self
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kcat");
        command.args(["-b", &self.bootstrap]).args(arguments);
        for property in &self.properties {
            command.args(["-X", property]);
        }
        // Cargo names the directory in which it has built librdkafka for the tests, without OpenSSL: kcat is to have its own.
        command.env_remove("LD_LIBRARY_PATH");
        command.kill_on_drop(true).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Produces each line as a record, and waits until all are acknowledged.
    ///
    /// # Errors
    /// What kcat says.
    pub async fn produce(&self, topic: &str, lines: &[String]) -> Result<()> {
        let mut producing = self.start_producing(topic)?;
        for line in lines {
            producing.line(line).await?;
        }
        producing.finish().await
    }

    /// Starts to produce lines that come over time.
    ///
    /// # Errors
    /// When kcat can't be started.
    pub fn start_producing(&self, topic: &str) -> Result<Producing> {
        let mut child = self.command(&["-P", "-t", topic]).spawn().context("cannot start kcat")?;
        let input = child.stdin.take().context("no pipe to kcat")?;
        Ok(Producing { child, input })
    }

    /// Reads a topic from its beginning to its end as it is now.
    ///
    /// # Errors
    /// What kcat says.
    pub async fn consume(&self, topic: &str) -> Result<Vec<String>> {
        let child = self.command(&["-C", "-t", topic, "-e", "-q"]).spawn().context("cannot start kcat")?;
        let printed = output(child).await?;
        Ok(printed.lines().map(str::to_owned).collect())
    }

    /// What kcat prints about the cluster, or says where there is none.
    ///
    /// # Errors
    /// What kcat says.
    pub async fn list(&self) -> Result<String> {
        output(self.command(&["-L"]).spawn().context("cannot start kcat")?).await
    }
}

impl Producing {
    /// Gives it a line.
    ///
    /// # Errors
    /// When it has ended.
    pub async fn line(&mut self, line: &str) -> Result<()> {
        self.input.write_all(format!("{line}\n").as_bytes()).await.context("kcat has ended")
    }

    /// Waits until everything is acknowledged.
    ///
    /// # Errors
    /// What kcat says.
    pub async fn finish(self) -> Result<()> {
        drop(self.input);
        output(self.child).await.map(drop)
    }
}

async fn output(child: Child) -> Result<String> {
    let output = tokio::time::timeout(DEADLINE, child.wait_with_output())
        .await
        .with_context(|| format!("kcat did not end within {DEADLINE:?}"))?
        .context("cannot read what kcat prints")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("kcat: {}: {said}", output.status);
    }
    ensure!(!said.contains("ERROR"), "kcat: {said}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
