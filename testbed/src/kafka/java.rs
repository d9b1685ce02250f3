//! Java: found, installed where that is allowed, and run.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command as AsyncCommand;

use crate::kafka::artifacts::Kafka;
use crate::packages;

const JAVA_MAJOR_MIN: u32 = 17;

/// What one of Kafka's command line tools printed.
#[derive(Clone, Debug)]
pub struct Output {
    /// Whether it exited with 0.
    pub success: bool,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error: the logging goes here.
    pub stderr: String,
}

/// Tests want less warm-up and less memory: what brokers do there is short and mostly I/O.
static OPTIMISE_FULLY: AtomicBool = AtomicBool::new(false);

/// From now on, Java runs as its users run it, with its optimising compiler: for benchmarks.
pub fn optimise_fully() {
    OPTIMISE_FULLY.store(true, Ordering::Relaxed);
}

impl Kafka {
    /// A command that runs `main_class` with Kafka's class path and a heap of at most `heap_mib` MiB.
    pub fn java(&self, main_class: &str, heap_mib: u32) -> Command {
        self.java_told(main_class, heap_mib, &[])
    }

    /// As [`Kafka::java`], with `options` for the virtual machine.
    fn java_told(&self, main_class: &str, heap_mib: u32, options: &[&str]) -> Command {
        match self.archive() {
            Some(archive) => {
                let archive = format!("-XX:SharedArchiveFile={}", archive.display());
                self.java_with(main_class, heap_mib, &[options, &[&archive]].concat())
            }
            None => self.java_with(main_class, heap_mib, options),
        }
    }

    /// As [`Kafka::java`], with `options` for the virtual machine and without the class data archive.
    pub(super) fn java_with(&self, main_class: &str, heap_mib: u32, options: &[&str]) -> Command {
        let mut command = Command::new(program("java"));
        command.args(self.options()).args(options).args([
            format!("-Xmx{heap_mib}m").as_str(),
            "-XX:+UseSerialGC",
            if OPTIMISE_FULLY.load(Ordering::Relaxed) { "-XX:+TieredCompilation" } else { "-XX:TieredStopAtLevel=1" },
            "-Xshare:auto",
            // An archive of another Java is passed over without a word in the tools' output.
            "-Xlog:disable",
            "-Xlog:all=error:stderr",
            "-Djava.awt.headless=true",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
            "-cp",
            self.class_path(),
            main_class,
        ]);
        command
    }

    /// Runs one of Kafka's tools to its end, feeding it `stdin`, and captures what it prints. It is killed when it takes
    /// longer than `deadline` or when the future is dropped. Main classes: `org.apache.kafka.tools.TopicCommand`,
    /// `…ProducerPerformance`, `…ConsoleProducer` (3.9: `kafka.tools.ConsoleProducer`), `…consumer.ConsoleConsumer`,
    /// `…consumer.group.ConsumerGroupCommand`.
    ///
    /// # Errors
    /// When Java can't be started or the deadline passes. An exit code other than 0 is not an error: see [`Output::success`].
    pub async fn tool(&self, main_class: &str, args: &[&str], stdin: &str, deadline: Duration) -> Result<Output> {
        self.tool_with(&[], main_class, args, stdin, deadline).await
    }

    /// As [`Kafka::tool`], with `options` for the virtual machine.
    ///
    /// # Errors
    /// As [`Kafka::tool`].
    pub async fn tool_with(
        &self,
        options: &[&str],
        main_class: &str,
        args: &[&str],
        stdin: &str,
        deadline: Duration,
    ) -> Result<Output> {
        let mut command = AsyncCommand::from(self.java_told(main_class, 256, options));
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("cannot start {main_class}"))?;
        let mut pipe = child.stdin.take().context("no pipe to the tool")?;
        let input = stdin.as_bytes().to_vec();
        let feed = async move {
            // A tool that ends before it has read everything is judged by its exit code.
            let _ = tokio::io::AsyncWriteExt::write_all(&mut pipe, &input).await;
            drop(pipe);
        };
        let (output, ()) = tokio::time::timeout(deadline, async { tokio::join!(child.wait_with_output(), feed) })
            .await
            .with_context(|| format!("{main_class} {} did not end within {deadline:?}", args.join(" ")))?;
        let output = output.with_context(|| format!("cannot read what {main_class} prints"))?;
        Ok(Output {
            success: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

/// A program of JAVA_HOME, or of the PATH.
pub(super) fn program(name: &str) -> PathBuf {
    std::env::var_os("JAVA_HOME")
        .map(|home| Path::new(&home).join("bin").join(name))
        .filter(|program| program.exists())
        .unwrap_or_else(|| name.into())
}

/// Makes sure that there is a Java compiler beside Java.
///
/// # Errors
/// One line that says what to install.
pub fn ensure_compiler() -> Result<()> {
    let javac = program("javac");
    if javac.is_absolute() {
        return Ok(());
    }
    let older = packages::ensure("javac", "openjdk-17-jdk-headless");
    older.or_else(|_| packages::ensure("javac", "default-jdk-headless"))
}

/// The major version of the installed Java, if there is one.
fn java_major() -> Option<u32> {
    let output = Command::new(program("java")).arg("-version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let quoted = text.split('"').nth(1)?;
    quoted.split(['.', '-', '+']).next()?.parse().ok()
}

fn has_maven() -> bool {
    Command::new("mvn").arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Makes sure that there is a Java that runs Kafka and, when `maven` is asked for, Maven; installs them with apt-get on
/// a Debian system as root.
///
/// # Errors
/// One line that says what to install.
pub fn ensure(maven: bool) -> Result<()> {
    let satisfied = || java_major().is_some_and(|major| major >= JAVA_MAJOR_MIN) && (!maven || has_maven());
    if satisfied() {
        return Ok(());
    }
    if packages::may_install() {
        eprintln!("testbed: installing Java and Maven with apt-get");
        // Newer Debians have dropped 17; their default is newer, which is as good.
        if !packages::install(&["openjdk-17-jre-headless", "maven"]) {
            packages::install(&["default-jre-headless", "maven"]);
        }
        if satisfied() {
            return Ok(());
        }
    }
    bail!(
        "the testbed needs Java {JAVA_MAJOR_MIN} or newer and Maven (found: Java {}, Maven {}); on Debian: apt-get install openjdk-17-jre-headless maven",
        java_major().map_or("none".to_owned(), |major| major.to_string()),
        if has_maven() { "yes" } else { "none" },
    )
}
