//! The command line beside `run`, `check`, `verify` and `skip`: what a person sees in a terminal, and what a package installs.

mod common;

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use common::{DIFFLUENT, PATIENCE, Said, diffluent};
use diffluent_testbed::guard::TempDir;
use diffluent_testbed::model::TcpCluster;
use diffluent_testbed::{Proxy, ProxyConfig, RegionConfig, Workload};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

const COMMANDS: [&str; 6] = ["run", "check", "status", "verify", "skip", "import"];

#[tokio::test]
async fn every_shell_completes_every_command() -> Result<()> {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let said = diffluent(&["completions", shell]).await?;
        ensure!(said.code == Some(0), "{shell}: {said:?}");
        for part in COMMANDS {
            ensure!(said.stdout.contains(part), "{shell}: {part} is not completed");
        }
    }
    let said = diffluent(&["completions", "tcsh"]).await?;
    ensure!(said.code == Some(64) && said.stderr.contains("possible values: bash"), "{said:?}");
    Ok(())
}

#[tokio::test]
async fn the_manual_has_a_page_for_each_command_and_the_exit_codes() -> Result<()> {
    let said = diffluent(&["man"]).await?;
    ensure!(said.code == Some(0) && said.stdout.contains(".TH diffluent 1"), "{said:?}");
    for part in COMMANDS.into_iter().chain(["Exit codes", "64"]) {
        ensure!(said.stdout.contains(part), "the page lacks {part}: {}", said.stdout);
    }
    let dir = TempDir::new("diffluent-man-")?;
    let out = dir.path().join("man1");
    let said = diffluent(&["man", "--out", text(&out)?]).await?;
    ensure!(said.code == Some(0), "{said:?}");
    for command in COMMANDS {
        let page = std::fs::read_to_string(out.join(format!("diffluent-{command}.1")))?;
        ensure!(page.contains(".SH OPTIONS"), "{command}: {page}");
    }
    let said = diffluent(&["man", "--out", "/proc/nowhere"]).await?;
    ensure!(said.code == Some(1) && said.stderr.contains("/proc/nowhere"), "{said:?}");
    Ok(())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}

/// Asks for the status until `is` is so.
async fn until(config: &str, is: impl Fn(&Said) -> bool) -> Result<Said> {
    let since = Instant::now();
    loop {
        let said = diffluent(&["status", config]).await?;
        if is(&said) {
            return Ok(said);
        }
        ensure!(since.elapsed() < PATIENCE, "{said:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn status_of(arguments: &[&str]) -> Command {
    let mut command = Command::new(DIFFLUENT);
    command.arg("status").args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_says_in_words_and_by_its_exit_code_whether_all_is_well() -> Result<()> {
    let (eu, us) = (TcpCluster::start("eu", 1, None).await?, TcpCluster::start("us", 1, None).await?);
    eu.model().change(|state, _| state.create_topic("orders", 2, 1)).map_err(|code| anyhow::anyhow!("error {code}"))?;
    let config =
        ProxyConfig::new("eu", eu.bootstrap()).region("us", us.bootstrap()).allow("the region can't be reached");
    let mut proxy = Proxy::start(DIFFLUENT, config).await?;
    let file = text(proxy.config_path())?.to_owned();
    ensure!(
        Workload { records: 100, ..Workload::new(&proxy.bootstrap(), "orders") }.run().await?.failed == 0,
        "failed"
    );

    let level = |line: &str| line.starts_with("us") && line.contains("mirroring  nothing");
    let said = until(&file, |said| said.code == Some(0) && said.stdout.lines().any(level)).await?;
    let lines: Vec<&str> = said.stdout.lines().collect();
    ensure!(lines.first() == Some(&"All is well: us keeps up."), "{said:?}");
    ensure!(!said.stdout.contains('\u{1b}'), "colours where there is no terminal: {said:?}");
    let by_address = diffluent(&["status", "--admin", &format!("http://{}/", proxy.admin_addr())]).await?;
    ensure!(by_address.code == Some(0), "{by_address:?}");

    let mut watching = status_of(&["--watch", &file]).spawn()?;
    let mut changes = BufReader::new(watching.stdout.take().context("no output")?).lines();
    ensure!(changes.next_line().await?.as_deref() == Some("All is well: us keeps up."), "the first line");

    us.model().change(|state, now| state.crash(1, now));
    let said = until(&file, |said| said.stdout.contains("us can't be reached")).await?;
    ensure!(said.code == Some(1), "{said:?}");
    for part in ["unreachable", "why: ", "do:  look at the region's brokers", "worst streams", "us  orders/0"] {
        ensure!(said.stdout.contains(part), "lacks {part:?}: {}", said.stdout);
    }
    let document = diffluent(&["status", "--json", &file]).await?;
    let told: Value = serde_json::from_str(&document.stdout)?;
    ensure!(told["level"] == "bad" && told["worst"][0]["topic"] == "orders", "{told:#}");
    ensure!(document.code == Some(1), "{document:?}");
    let changed = changes.next_line().await?.unwrap_or_default();
    ensure!(changed.contains("us"), "{changed:?} is no change");

    us.model().change(|state, now| state.start(1, now));
    until(&file, |said| said.code == Some(0)).await?;
    ensure!(proxy.stop().await?.success(), "it did not end well");
    let said = diffluent(&["status", &file]).await?;
    ensure!(said.code == Some(2) && said.stderr.contains("is this proxy running"), "{said:?}");
    while !changes.next_line().await?.context("the watch has ended")?.contains("is this proxy running") {}
    for wrong in [vec!["status", "--admin", "nowhere"], vec!["status", &file, "--admin", "127.0.0.1:1"]] {
        let said = diffluent(&wrong).await?;
        ensure!(said.code == Some(64), "{wrong:?}: {said:?}");
    }
    watching.kill().await?;
    proxy.check_log()
}

/// Runs a command on a terminal of its own, by util-linux's `script`.
fn on_a_terminal(command: &str) -> Result<Child> {
    let mut script = Command::new("script");
    script.args(["--quiet", "--flush", "--return", "--command", command, "/dev/null"]);
    // What the tests' own environment says must not matter.
    script.env("TERM", "xterm-256color").env_remove("NO_COLOR").env("COLUMNS", "120").env("LINES", "40");
    script.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    script.spawn().context("on Debian, script is in the package bsdutils")
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_terminal_a_region_that_catches_up_has_a_bar_and_the_state_its_colour() -> Result<()> {
    let (eu, us) = (TcpCluster::start("eu", 1, None).await?, TcpCluster::start("us", 1, None).await?);
    eu.model().change(|state, _| state.create_topic("orders", 1, 1)).map_err(|code| anyhow::anyhow!("error {code}"))?;
    ensure!(Workload { records: 60_000, ..Workload::new(eu.bootstrap(), "orders") }.run().await?.failed == 0, "failed");
    // Several answers of the local log, and so slow that the bar is there until the test has seen it.
    let slow =
        RegionConfig { extra: "catch_up_rate_limit = \"1 MiB\"".into(), ..RegionConfig::new("us", us.bootstrap()) };
    let proxy = Proxy::start(DIFFLUENT, ProxyConfig::new("eu", eu.bootstrap()).region_with(slow)).await?;

    let command = format!("{DIFFLUENT} status --watch --admin {}", proxy.admin_addr());
    let mut script = on_a_terminal(&command)?;
    let mut out = script.stdout.take().context("no output")?;
    let (mut seen, mut chunk) = (String::new(), [0; 4096]);
    let all_there = |seen: &str| {
        let coloured = seen.contains("\u{1b}[33mcatching up");
        coloured && seen.contains('━') && seen.contains(" %") && seen.contains("records")
    };
    let read = async {
        while !all_there(&seen) {
            let read = out.read(&mut chunk).await?;
            ensure!(read > 0, "it has ended");
            seen.push_str(&String::from_utf8_lossy(&chunk[..read]));
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, read).await.with_context(|| format!("on the terminal: {seen}"))??;
    script.kill().await?;
    let _ = proxy;
    Ok(())
}

#[tokio::test]
async fn a_mirrormaker_configuration_becomes_files_that_check_takes_and_nothing_is_replaced() -> Result<()> {
    let dir = TempDir::new("diffluent-import-")?;
    let (file, out) = (dir.path().join("mm2.properties"), dir.path().join("made"));
    let flows = "clusters = eu, us\neu.bootstrap.servers = 127.0.0.1:1\nus.bootstrap.servers = 127.0.0.1:2\n\
                 eu->us.enabled = true\neu->us.topics = orders, payments-.*\nsync.topic.configs.enabled = false\n";
    std::fs::write(&file, flows)?;
    let said = diffluent(&["import", text(&file)?]).await?;
    ensure!(said.code == Some(0) && said.stdout.starts_with("# eu.toml\n"), "{said:?}");
    ensure!(said.stderr.contains("Run a proxy with eu.toml in front of cluster eu"), "{said:?}");
    let said = diffluent(&["import", text(&file)?, "--out", text(&out)?]).await?;
    ensure!(said.code == Some(0) && said.stdout.is_empty(), "{said:?}");
    let made = out.join("eu.toml");
    let config = diffluent::config::Config::load(&made)?;
    ensure!(config.region[0].selects("payments-eu") && !config.region[0].selects("invoices"), "{config:?}");
    std::fs::write(&made, "mine")?;
    let said = diffluent(&["import", text(&file)?, "--out", text(&out)?]).await?;
    ensure!(said.code == Some(1) && said.stderr.contains("is there already, and was left as it is"), "{said:?}");
    ensure!(std::fs::read_to_string(&made)? == "mine", "it was replaced");
    std::fs::write(&file, format!("{flows}eu->us.transforms = Mask\n"))?;
    let said = diffluent(&["import", text(&file)?]).await?;
    ensure!(
        said.code == Some(1) && said.stderr.contains("eu->us.transforms (line 7): records are mirrored byte for byte"),
        "{said:?}"
    );
    std::fs::write(&file, "a = \\u12")?;
    let said = diffluent(&["import", text(&file)?]).await?;
    ensure!(said.code == Some(64) && said.stderr.contains("mm2.properties: line 1: "), "{said:?}");
    Ok(())
}
