//! Kafka's jars from Maven Central, fetched once by the stock Maven client into a per-user cache.
//!
//! A version's directory appears by one rename, complete or not at all, and a file lock keeps parallel processes from
//! fetching it twice. Beside the jars lies what `StorageTool format` wrote once (`bootstrap.checkpoint`, the same for
//! every cluster of a version), so that a cluster's start does not pay for another Java start per broker.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

use crate::kafka::{java, warm};

/// What every installation has, besides its extra artifacts.
const ARTIFACTS: &[&str] = &["kafka_2.13", "kafka-tools"];
/// The binding that both pinned Kafka versions' slf4j-api (1.7.36) accepts.
const SLF4J_SIMPLE: &str = "1.7.36";
/// The file by which brokers start with the feature levels of their release.
pub(crate) const BOOTSTRAP_CHECKPOINT: &str = "bootstrap.checkpoint";

/// An installed Kafka: its jars in a directory.
#[derive(Clone, Debug)]
pub struct Kafka {
    version: String,
    dir: PathBuf,
    class_path: String,
    archive: Option<PathBuf>,
    /// For every Java that it runs.
    options: Vec<String>,
}

impl Kafka {
    /// Returns the Kafka of `version` with `extra` artifacts of `org.apache.kafka` (such as `connect-runtime`,
    /// `connect-mirror`), fetching it first if the cache does not have it.
    ///
    /// # Errors
    /// When Java or Maven is missing and can't be installed, or Maven can't fetch.
    pub async fn fetch(version: &str, extra: &[&str]) -> Result<Self> {
        let version = version.to_owned();
        let extra: Vec<String> = extra.iter().map(|&artifact| artifact.to_owned()).collect();
        tokio::task::spawn_blocking(move || fetch_blocking(&version, &extra)).await.context("the fetch panicked")?
    }

    /// The version, such as `4.3.0`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The jars, separated by colons, in a fixed order.
    pub(crate) fn class_path(&self) -> &str {
        &self.class_path
    }

    /// With an option for every Java that it runs.
    pub fn with_option(mut self, option: &str) -> Self {
        self.options.push(option.to_owned());
        self
    }

    /// With a directory of classes behind the others.
    pub fn with_classes(mut self, dir: &Path) -> Self {
        self.class_path = format!("{}:{}", self.class_path, dir.display());
        self
    }

    /// Options for every Java.
    pub(crate) fn options(&self) -> &[String] {
        &self.options
    }

    /// The class data archive, if there is one.
    pub(crate) fn archive(&self) -> Option<&Path> {
        self.archive.as_deref()
    }

    /// The directory of this installation in the cache.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    fn open(version: &str, dir: PathBuf) -> Result<Self> {
        let libs = dir.join("libs");
        let mut jars = Vec::new();
        for entry in std::fs::read_dir(&libs).with_context(|| format!("cannot list {}", libs.display()))? {
            jars.push(entry?.path().to_string_lossy().into_owned());
        }
        jars.sort();
        let archive = warm::archive(&dir);
        Ok(Self { version: version.to_owned(), dir, class_path: jars.join(":"), archive, options: Vec::new() })
    }
}

/// The per-user cache: `DIFFLUENT_TESTBED_CACHE`, else `diffluent-testbed` under `XDG_CACHE_HOME` or `~/.cache`.
///
/// # Errors
/// When none of these variables nor `HOME` is set.
pub fn cache_dir() -> Result<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("DIFFLUENT_TESTBED_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("diffluent-testbed")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/diffluent-testbed")))
        .context("set DIFFLUENT_TESTBED_CACHE or HOME: the testbed keeps Kafka's jars there")
}

/// Takes the cache's lock; it is held until the file is dropped.
pub(crate) fn lock_cache(name: &str) -> Result<File> {
    let cache = cache_dir()?;
    std::fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let path = cache.join(format!("{name}.lock"));
    let lock = File::options().create(true).truncate(false).write(true).open(&path);
    let lock = lock.with_context(|| format!("cannot open {}", path.display()))?;
    flock(&lock, FlockOperation::LockExclusive).with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(lock)
}

fn fetch_blocking(version: &str, extra: &[String]) -> Result<Kafka> {
    let name = extra.iter().fold(format!("kafka-{version}"), |name, artifact| format!("{name}+{artifact}"));
    let dir = cache_dir()?.join(&name);
    if !dir.exists() || warm::is_cold(&dir) {
        let _lock = lock_cache(&name)?;
        if !dir.exists() {
            install(version, extra, &dir)?;
        }
        java::ensure(false)?;
        if warm::is_cold(&dir) {
            warm::warm_up(&Kafka::open(version, dir.clone())?);
        }
    }
    java::ensure(false)?;
    Kafka::open(version, dir)
}

/// Fetches into a temporary directory beside `dir` and renames it.
fn install(version: &str, extra: &[String], dir: &Path) -> Result<()> {
    java::ensure(true)?;
    eprintln!("testbed: fetching Apache Kafka {version} with Maven (once)");
    let temp = tempfile::Builder::new().prefix("fetch-").tempdir_in(cache_dir()?).context("cannot write the cache")?;
    let pom = temp.path().join("pom.xml");
    std::fs::write(&pom, pom_xml(version, extra)).context("cannot write the pom")?;
    let libs = temp.path().join("libs");
    let output = Command::new("mvn")
        .args(["-q", "-B", "dependency:copy-dependencies"])
        .arg(format!("-DoutputDirectory={}", libs.display()))
        .arg("-f")
        .arg(&pom)
        .stdin(Stdio::null())
        .output()
        .context("cannot run mvn")?;
    if !output.status.success() {
        bail!("mvn could not fetch Apache Kafka {version}:\n{}", String::from_utf8_lossy(&output.stdout));
    }
    remove_other_bindings(&libs)?;
    format_once(version, temp.path())?;
    std::fs::rename(temp.path(), dir).with_context(|| format!("cannot make {}", dir.display()))?;
    // The directory lives on under its new name.
    let _ = temp.keep();
    Ok(())
}

/// Some releases depend on a logging binding of their own; of two bindings, slf4j takes one at random.
fn remove_other_bindings(libs: &Path) -> Result<()> {
    for entry in std::fs::read_dir(libs).with_context(|| format!("cannot list {}", libs.display()))? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if ["slf4j-reload4j", "slf4j-log4j", "log4j-slf4j"].iter().any(|binding| name.starts_with(binding)) {
            std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

fn pom_xml(version: &str, extra: &[String]) -> String {
    let dependency = |group: &str, artifact: &str, version: &str| {
        format!(
            "<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version></dependency>"
        )
    };
    let kafka: String = ARTIFACTS
        .iter()
        .copied()
        .chain(extra.iter().map(String::as_str))
        .map(|artifact| dependency("org.apache.kafka", artifact, version))
        .collect();
    let slf4j = dependency("org.slf4j", "slf4j-simple", SLF4J_SIMPLE);
    format!(
        r#"<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>testbed</groupId><artifactId>kafka</artifactId><version>1</version>
<dependencies>{kafka}{slf4j}</dependencies></project>
"#
    )
}

/// Lets `StorageTool format` write a broker's first metadata once, for all clusters of this version.
fn format_once(version: &str, temp: &Path) -> Result<()> {
    let kafka = Kafka::open(version, temp.to_owned())?;
    let data = temp.join("template");
    let config = temp.join("template.properties");
    std::fs::write(
        &config,
        format!(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:1\n\
             listeners=PLAINTEXT://127.0.0.1:2,CONTROLLER://127.0.0.1:1\ncontroller.listener.names=CONTROLLER\n\
             log.dirs={}\n",
            data.display()
        ),
    )
    .context("cannot write the template's configuration")?;
    let output = kafka
        .java("kafka.tools.StorageTool", 256)
        .args(["format", "-t", "AAAAAAAAAAAAAAAAAAAAAg", "-c"])
        .arg(&config)
        .stdin(Stdio::null())
        .output()
        .context("cannot run java")?;
    let checkpoint = data.join(BOOTSTRAP_CHECKPOINT);
    if !output.status.success() || !checkpoint.exists() {
        bail!(
            "StorageTool format failed:\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    std::fs::rename(&checkpoint, temp.join(BOOTSTRAP_CHECKPOINT)).context("cannot keep the bootstrap checkpoint")?;
    std::fs::remove_dir_all(&data).context("cannot remove the template")
}
