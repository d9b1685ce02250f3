//! The real diffluent binary as a child process, configured by an ordinary proxy.toml.
//!
//! Owns: the file, the ports, the process and its log. A log line at WARN or ERROR that the test did not declare, or a
//! panic, fails [`Proxy::finish`]: what an operator would have to look at, a test has to expect.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde_json::Value;

use crate::guard::{Guarded, TempDir, tail};
use crate::http;
use crate::ports::Ports;

const READY_DEADLINE: Duration = Duration::from_secs(60);
const STOP_DEADLINE: Duration = Duration::from_secs(30);
/// Brokers' ports that a proxy has here: enough for the three brokers of a cluster, and some more that may appear.
const BROKER_PORTS: u16 = 8;

/// A `[[region]]` of proxy.toml.
#[derive(Clone, Debug)]
pub struct RegionConfig {
    /// `name`.
    pub name: String,
    /// `bootstrap_servers`, separated by commas.
    pub bootstrap: String,
    /// `topics`; empty: the key is left out.
    pub topics: Vec<String>,
    /// `start`; `None`: the key is left out.
    pub start: Option<String>,
    /// More lines of this table, as they shall stand in the file.
    pub extra: String,
}

impl RegionConfig {
    /// A region with all topics from the earliest record.
    pub fn new(name: &str, bootstrap: &str) -> Self {
        Self {
            name: name.to_owned(),
            bootstrap: bootstrap.to_owned(),
            topics: Vec::new(),
            start: Some("earliest".to_owned()),
            extra: String::new(),
        }
    }
}

/// A proxy.toml, but for the ports, which [`Proxy::start`] finds.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// `proxy.name`.
    pub name: String,
    /// `local.bootstrap_servers`, separated by commas.
    pub local_bootstrap: String,
    /// The regions.
    pub regions: Vec<RegionConfig>,
    /// `mirror.buffer`, such as `64 MiB`; `None`: the default.
    pub buffer: Option<String>,
    /// `proxy.advertise`: with `{id}` in it a name for each broker at one port, `{port}` being that of `proxy.listen`; else a host, and a port for each broker. `None`: 127.0.0.1.
    pub advertise: Option<String>,
    /// More lines of `[proxy]`.
    pub extra_proxy: String,
    /// More lines of `[local]`.
    pub extra_local: String,
    /// More lines of `[mirror]`.
    pub extra_mirror: String,
    /// `admin.history`: whether configurations are kept in a topic of the local cluster, which most tests don't expect there.
    pub history: bool,
    /// Whole tables at the end of the file.
    pub extra_tables: String,
    /// `--log`.
    pub log: String,
    /// Parts of WARN and ERROR lines that this test expects.
    pub allowed_warnings: Vec<String>,
    /// More environment variables for the process.
    pub env: Vec<(String, String)>,
}

impl ProxyConfig {
    /// A proxy in front of the cluster at `local_bootstrap`; without regions it is a plain proxy (`mirror.enabled = false`).
    pub fn new(name: &str, local_bootstrap: &str) -> Self {
        Self {
            name: name.to_owned(),
            local_bootstrap: local_bootstrap.to_owned(),
            regions: Vec::new(),
            buffer: None,
            advertise: None,
            extra_proxy: String::new(),
            extra_local: String::new(),
            extra_mirror: String::new(),
            history: false,
            extra_tables: String::new(),
            log: "info".to_owned(),
            allowed_warnings: Vec::new(),
            env: Vec::new(),
        }
    }

    /// Adds a region with all topics from the earliest record.
    pub fn region(self, name: &str, bootstrap: &str) -> Self {
        self.region_with(RegionConfig::new(name, bootstrap))
    }

    /// Adds a region.
    pub fn region_with(mut self, region: RegionConfig) -> Self {
        self.regions.push(region);
        self
    }

    /// Declares that WARN and ERROR lines with `part` in them are expected.
    pub fn allow(mut self, part: &str) -> Self {
        self.allowed_warnings.push(part.to_owned());
        self
    }

    /// The file's text, for these ports.
    pub fn toml(&self, listen: u16, first_broker_port: u16, last_broker_port: u16, admin: u16) -> String {
        let mut text = String::new();
        let advertised = match &self.advertise {
            Some(names) if names.contains("{id}") => {
                format!("advertise = {}", quoted(&names.replace("{port}", &listen.to_string())))
            }
            host => {
                let host = quoted(host.as_deref().unwrap_or("127.0.0.1"));
                format!("advertise = {host}\nbroker_ports = \"{first_broker_port}-{last_broker_port}\"")
            }
        };
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "[proxy]\nname = {}\nlisten = \"127.0.0.1:{listen}\"\n{advertised}\n{}\n\
             [local]\nbootstrap_servers = {}\n{}\n",
            quoted(&self.name),
            self.extra_proxy,
            list(self.local_bootstrap.split(',')),
            self.extra_local,
        );
        for region in &self.regions {
            let _ = write!(
                text,
                "[[region]]\nname = {}\nbootstrap_servers = {}\n",
                quoted(&region.name),
                list(region.bootstrap.split(','))
            );
            if !region.topics.is_empty() {
                let _ = writeln!(text, "topics = {}", list(region.topics.iter().map(String::as_str)));
            }
            if let Some(start) = &region.start {
                let _ = writeln!(text, "start = {}", quoted(start));
            }
            let _ = write!(text, "{}\n\n", region.extra);
        }
        if self.regions.is_empty() || self.buffer.is_some() || !self.extra_mirror.is_empty() {
            let _ = writeln!(text, "[mirror]");
            if self.regions.is_empty() {
                // A proxy without regions has to say that it means it.
                let _ = writeln!(text, "enabled = false");
            }
            if let Some(buffer) = &self.buffer {
                let _ = writeln!(text, "buffer = {}", quoted(buffer));
            }
            let _ = writeln!(text, "{}", self.extra_mirror);
        }
        let _ =
            write!(text, "[admin]\nlisten = \"127.0.0.1:{admin}\"\nhistory = {}\n{}", self.history, self.extra_tables);
        text
    }
}

fn quoted(text: &str) -> String {
    // TOML's basic strings escape as JSON's do.
    Value::from(text).to_string()
}

fn list<'a>(items: impl Iterator<Item = &'a str>) -> String {
    format!("[{}]", items.map(quoted).collect::<Vec<_>>().join(", "))
}

/// A running diffluent. Killed when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    binary: PathBuf,
    config: ProxyConfig,
    file: PathBuf,
    log: PathBuf,
    listen: Ports,
    brokers: Ports,
    admin: Ports,
    process: Option<Guarded>,
    _dir: TempDir,
}

impl Proxy {
    /// Writes proxy.toml, starts `binary` with it and waits until it is ready.
    ///
    /// # Errors
    /// When it ends or is not ready within a minute: with its last log lines.
    pub async fn start(binary: impl AsRef<Path>, config: ProxyConfig) -> Result<Self> {
        let mut proxy = Self::prepare(binary, config)?;
        proxy.spawn()?;
        proxy.wait_ready(READY_DEADLINE).await?;
        Ok(proxy)
    }

    /// Writes proxy.toml and claims the ports, but starts nothing yet.
    ///
    /// # Errors
    /// When no ports are free or the file can't be written.
    pub fn prepare(binary: impl AsRef<Path>, config: ProxyConfig) -> Result<Self> {
        let dir = TempDir::new(&format!("diffluent-proxy-{}-", config.name))?;
        let (listen, brokers, admin) = (Ports::one()?, Ports::range(BROKER_PORTS)?, Ports::one()?);
        let file = dir.path().join("proxy.toml");
        let text = config.toml(listen.first(), brokers.first(), brokers.last(), admin.first());
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        let log = dir.path().join("proxy.log");
        let binary = binary.as_ref().to_owned();
        Ok(Self { binary, config, file, log, listen, brokers, admin, process: None, _dir: dir })
    }

    /// Starts the process (after [`Proxy::prepare`], [`Proxy::kill`] or [`Proxy::stop`]), without waiting for it.
    ///
    /// # Errors
    /// When the binary can't be started.
    pub fn spawn(&mut self) -> Result<()> {
        let mut command = Command::new(&self.binary);
        command.arg("run").arg(&self.file).env("DIFFLUENT_LOG", &self.config.log).env("NO_COLOR", "1");
        command.envs(self.config.env.iter().map(|(key, value)| (key, value)));
        self.process = Some(Guarded::spawn("diffluent", command, &self.log)?);
        Ok(())
    }

    /// Starts it again on the same file and ports, and waits until it is ready.
    ///
    /// # Errors
    /// As [`Proxy::start`].
    pub async fn restart(&mut self) -> Result<()> {
        self.kill();
        self.spawn()?;
        self.wait_ready(READY_DEADLINE).await
    }

    /// Gives the brokers other ports, from its next start on. What they had, which stays claimed as long as that is kept.
    ///
    /// # Errors
    /// When no ports are free or the file can't be written.
    pub fn move_broker_ports(&mut self) -> Result<Ports> {
        let old = std::mem::replace(&mut self.brokers, Ports::range(BROKER_PORTS)?);
        let range = |ports: &Ports| format!("broker_ports = \"{}-{}\"", ports.first(), ports.last());
        let text =
            std::fs::read_to_string(&self.file).with_context(|| format!("cannot read {}", self.file.display()))?;
        let changed = text.replace(&range(&old), &range(&self.brokers));
        if changed == text {
            bail!("no {} in {text}", range(&old));
        }
        std::fs::write(&self.file, changed).with_context(|| format!("cannot write {}", self.file.display()))?;
        Ok(old)
    }

    /// Waits until `GET /ready` is 200.
    ///
    /// # Errors
    /// When the process ends or the deadline passes.
    pub async fn wait_ready(&mut self, deadline: Duration) -> Result<()> {
        let end = Instant::now() + deadline;
        loop {
            let last = match http::get(&self.admin_addr(), "/ready").await {
                Ok((200, _)) => return Ok(()),
                Ok((status, body)) => format!("{status} {body}"),
                Err(error) => format!("{error:#}"),
            };
            match self.process.as_mut().map(|process| (process.try_status(), process.log_tail())) {
                None => bail!("diffluent was not started"),
                Some((Some(status), tail)) => bail!("diffluent ended ({status}):\n{tail}"),
                Some((None, tail)) if Instant::now() > end => {
                    bail!("diffluent is not ready after {deadline:?} ({last}):\n{tail}")
                }
                Some((None, _)) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Stops it with SIGTERM and waits for its end.
    ///
    /// # Errors
    /// When it does not run, or does not end within 30 s (it is killed then).
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        let mut process = self.process.take().context("diffluent does not run")?;
        process.terminate(STOP_DEADLINE).await
    }

    /// Sends it a signal (SIGHUP, SIGSTOP, …).
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process.as_mut().context("diffluent does not run")?.signal(signal)
    }

    /// The exit status, if it has ended by itself.
    pub fn try_status(&mut self) -> Option<ExitStatus> {
        self.process.as_mut().and_then(Guarded::try_status)
    }

    /// Stops it and checks its log.
    ///
    /// # Errors
    /// When it does not exit with 0, or its log has an undeclared WARN or ERROR line or a panic.
    pub async fn finish(mut self) -> Result<()> {
        if self.process.is_some() {
            let status = self.stop().await?;
            if !status.success() {
                bail!("diffluent exited with {status}:\n{}", tail(&self.log));
            }
        }
        self.check_log()
    }

    /// Checks the log so far.
    ///
    /// # Errors
    /// When it has an undeclared WARN or ERROR line or a panic.
    pub fn check_log(&self) -> Result<()> {
        const SHOWN_MAX: usize = 20;
        let text = self.log_text()?;
        let undeclared: Vec<&str> = text.lines().filter(|line| self.is_undeclared(line)).collect();
        if !undeclared.is_empty() {
            let shown = undeclared.get(..SHOWN_MAX).unwrap_or(&undeclared).join("\n");
            bail!("{} undeclared lines in diffluent's log:\n{shown}", undeclared.len());
        }
        Ok(())
    }

    fn is_undeclared(&self, line: &str) -> bool {
        let panicked = line.contains("panicked at") || line.contains("has overflowed its stack");
        let marks = [" WARN ", " ERROR ", "\"level\":\"WARN\"", "\"level\":\"ERROR\""];
        let alarming = marks.iter().any(|mark| line.contains(mark));
        panicked || (alarming && !self.config.allowed_warnings.iter().any(|part| line.contains(part.as_str())))
    }

    /// Everything that it has logged, over all its starts.
    ///
    /// # Errors
    /// When the log can't be read.
    pub fn log_text(&self) -> Result<String> {
        let bytes = std::fs::read(&self.log).with_context(|| format!("cannot read {}", self.log.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The clients' `bootstrap.servers`.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.listen.first())
    }

    /// The admin port's address.
    pub fn admin_addr(&self) -> String {
        format!("127.0.0.1:{}", self.admin.first())
    }

    /// The range of the brokers' ports.
    pub fn broker_ports(&self) -> std::ops::RangeInclusive<u16> {
        self.brokers.first()..=self.brokers.last()
    }

    /// The path of proxy.toml.
    pub fn config_path(&self) -> &Path {
        &self.file
    }

    /// The path of the log.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// The process id.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.process.as_ref().context("diffluent does not run")?.pid())
    }

    /// `GET path` from the admin port.
    ///
    /// # Errors
    /// When the answer is not 200.
    pub async fn get(&self, path: &str) -> Result<String> {
        match http::get(&self.admin_addr(), path).await? {
            (200, body) => Ok(body),
            (status, body) => bail!("GET {path}: {status} {body}"),
        }
    }

    /// `GET /lag`.
    ///
    /// # Errors
    /// When the answer is not 200 or no JSON.
    pub async fn lag(&self) -> Result<Value> {
        serde_json::from_str(&self.get("/lag").await?).context("GET /lag: not JSON")
    }

    /// One region's part of `GET /lag`.
    ///
    /// # Errors
    /// When there is no such region.
    pub async fn region_lag(&self, region: &str) -> Result<Value> {
        let lag = self.lag().await?;
        let regions = lag.get("regions").and_then(Value::as_array).context("GET /lag: no regions")?;
        let found = regions.iter().find(|found| found.get("region").and_then(Value::as_str) == Some(region));
        found.cloned().with_context(|| format!("GET /lag: no region {region}: {lag}"))
    }

    /// The sum of all series of metric `name` whose labels contain each of `labels` (such as `region="us"`).
    ///
    /// # Errors
    /// When there is no such series.
    pub async fn metric_with(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let text = self.get("/metrics").await?;
        metric_sum(&text, name, labels).with_context(|| format!("GET /metrics: no {name} with {labels:?}"))
    }

    /// The sum of all series of metric `name`.
    ///
    /// # Errors
    /// When there is no such series.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        self.metric_with(name, &[]).await
    }

    /// Waits until every region has every record: lag 0 in records, against the log's end as measured after the call
    /// began, twice in a row and more than the measuring interval (1 s) apart.
    ///
    /// # Errors
    /// When the deadline passes: with what is still behind.
    pub async fn wait_lag_zero(&self, deadline: Duration) -> Result<()> {
        self.wait_lag_zero_of(&[], deadline).await
    }

    /// As [`Proxy::wait_lag_zero`], for some regions only (none named: all).
    ///
    /// # Errors
    /// As [`Proxy::wait_lag_zero`].
    pub async fn wait_lag_zero_of(&self, regions: &[&str], deadline: Duration) -> Result<()> {
        // The log's end is asked for about once a second: a zero that has lasted longer was measured afresh.
        const STEADY: Duration = Duration::from_millis(2500);
        let end = Instant::now() + deadline;
        let mut zero_since = None;
        loop {
            let behind = match self.lag().await {
                Ok(lag) => records_behind(&lag, regions).with_context(|| format!("GET /lag: {lag}"))?,
                Err(error) if Instant::now() > end => return Err(error),
                Err(_) => u64::MAX,
            };
            if behind > 0 {
                zero_since = None;
            } else if zero_since.get_or_insert_with(Instant::now).elapsed() >= STEADY {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("still {behind} records behind after {deadline:?}: {}\n{}", self.lag().await?, tail(&self.log));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Resident memory in bytes.
    ///
    /// # Errors
    /// When it does not run.
    pub fn rss_bytes(&self) -> Result<u64> {
        proc_rss_bytes(self.pid()?)
    }

    /// Processor time used since its start, user and system, in seconds.
    ///
    /// # Errors
    /// When it does not run.
    pub fn cpu_seconds(&self) -> Result<f64> {
        proc_cpu_seconds(self.pid()?)
    }
}

/// Records behind, of the named regions or of all. `None` when the answer lacks something.
fn records_behind(lag: &Value, regions: &[&str]) -> Option<u64> {
    let mut sum = 0;
    let mut found = 0;
    for region in lag.get("regions")?.as_array()? {
        let name = region.get("region")?.as_str()?;
        if regions.is_empty() || regions.contains(&name) {
            found += 1;
            sum += region.get("lag_records")?.as_u64()?;
        }
    }
    (found >= regions.len()).then_some(sum)
}

fn metric_sum(text: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let mut sum = None;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some(rest) = line.strip_prefix(name) else { continue };
        if !rest.starts_with(['{', ' ']) || !labels.iter().all(|label| rest.contains(label)) {
            continue;
        }
        // Behind the labels, if there are any, comes the value, and perhaps a timestamp.
        let value = rest.rsplit_once('}').map_or(rest, |(_, value)| value);
        let value: f64 = value.split_whitespace().next()?.parse().ok()?;
        *sum.get_or_insert(0.0) += value;
    }
    sum
}

/// Resident memory of a process, in bytes (VmRSS).
///
/// # Errors
/// When there is no such process.
pub fn proc_rss_bytes(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().context("VmRSS is no number")?;
    Ok(kib * 1024)
}

/// Processor time used by a process, user and system, in seconds (proc(5), stat fields 14 and 15).
///
/// # Errors
/// When there is no such process.
pub fn proc_cpu_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("the process is gone")?;
    // The program's name (field 2) may hold anything, but ends at the last parenthesis.
    let (_, fields) = stat.rsplit_once(')').context("an odd stat")?;
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_the_sum_of_the_series_that_bear_the_labels() {
        let text = "# TYPE a_total counter\na_total{region=\"us\",x=\"1\"} 3\na_total{region=\"ap\"} 4\na_total_more 9\nb 1.5\n";
        assert_eq!(metric_sum(text, "a_total", &[]), Some(7.0));
        assert_eq!(metric_sum(text, "a_total", &["region=\"us\""]), Some(3.0));
        assert_eq!(metric_sum(text, "b", &[]), Some(1.5));
        assert_eq!(metric_sum(text, "c", &[]), None);
    }

    #[test]
    fn the_file_has_the_tables_in_order() {
        let config = ProxyConfig::new("eu", "a:1,b:2").region("us", "c:3");
        let text = config.toml(1, 2, 3, 4);
        assert!(text.contains("bootstrap_servers = [\"a:1\", \"b:2\"]"), "{text}");
        assert!(
            text.contains("[[region]]\nname = \"us\"\nbootstrap_servers = [\"c:3\"]\nstart = \"earliest\""),
            "{text}"
        );
        assert!(text.ends_with("[admin]\nlisten = \"127.0.0.1:4\"\nhistory = false\n"), "{text}");
    }

    #[test]
    fn this_process_uses_memory_and_time() -> Result<()> {
        let pid = std::process::id();
        assert!(proc_rss_bytes(pid)? > 0 && proc_cpu_seconds(pid)? >= 0.0);
        Ok(())
    }
}
