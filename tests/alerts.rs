//! The rules, alerts and dashboard of deploy/: they are valid, they fire when they should, and what they ask for exists.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use common::{DIFFLUENT, PATIENCE};
use diffluent::admin::catalog::METRICS;
use diffluent_testbed::guard::{Guarded, TempDir};
use diffluent_testbed::ports::Ports;
use diffluent_testbed::{Cluster, Proxy, ProxyConfig, Workload, http, packages};
use regex::Regex;
use serde_json::Value;

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn text(path: &str) -> Result<String> {
    std::fs::read_to_string(file(path)).with_context(|| format!("cannot read {path}"))
}

fn promtool(arguments: &[&str]) -> Result<()> {
    packages::ensure("promtool", "prometheus")?;
    let output = Command::new("promtool").args(arguments).current_dir(file("")).output()?;
    if !output.status.success() {
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        bail!("promtool {}:\n{}{}", arguments.join(" "), said(&output.stdout), said(&output.stderr));
    }
    Ok(())
}

/// The values of a key that stands on a line of its own, here and there behind a dash.
fn values<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    let lines = text.lines().map(|line| line.trim_start().trim_start_matches("- "));
    lines.filter_map(|line| line.strip_prefix(key)?.strip_prefix(": ")).collect()
}

#[test]
fn every_alert_fires_when_it_should_and_not_otherwise() -> Result<()> {
    promtool(&["check", "config", "deploy/prometheus/prometheus.yml"])?;
    promtool(&["test", "rules", "deploy/prometheus/alerts.test.yml"])?;
    let tests = text("deploy/prometheus/alerts.test.yml")?;
    for alert in values(&text("deploy/prometheus/alerts.yml")?, "alert") {
        for name in [format!("{alert} fires"), format!("{alert} does not fire")] {
            assert!(values(&tests, "name").contains(&name.as_str()), "no test {name:?}");
        }
    }
    Ok(())
}

#[test]
fn every_alert_has_a_runbook_page_that_says_what_to_look_at_and_what_to_do() -> Result<()> {
    let alerts = text("deploy/prometheus/alerts.yml")?;
    let (names, runbooks) = (values(&alerts, "alert"), values(&alerts, "runbook"));
    assert_eq!(names.len(), runbooks.len(), "each alert has a runbook");
    let list = text("docs/runbook/README.md")?;
    for (alert, runbook) in names.iter().zip(runbooks) {
        let page = text(runbook)?;
        for part in [&format!("`{alert}`"), "## What it means", "## What to look at", "## What to do"] {
            assert!(page.contains(part), "{runbook} has no {part}");
        }
        let page = runbook.rsplit('/').next().unwrap_or_default();
        assert!(
            list.contains(&format!("({page})")) && list.contains(alert),
            "docs/runbook/README.md lacks {alert} or {page}"
        );
    }
    Ok(())
}

/// What series of each metric may be asked by.
fn known_labels() -> Result<BTreeMap<String, BTreeSet<String>>> {
    let target = ["job", "instance"];
    let mut known: BTreeMap<String, BTreeSet<String>> = METRICS
        .iter()
        .flat_map(|metric| metric.samples().map(move |sample| (metric, sample)))
        .map(|(metric, (name, bucket))| {
            let of_bucket = bucket.then_some("le");
            let labels = metric.labels.iter().chain(&target).copied().chain(of_bucket).map(str::to_owned).collect();
            (name, labels)
        })
        .collect();
    known.insert("up".into(), target.map(str::to_owned).into());
    let recording = text("deploy/prometheus/recording.yml")?;
    for name in values(&recording, "record") {
        known.insert(name.to_owned(), ["job", "instance", "region"].map(str::to_owned).into());
    }
    Ok(known)
}

/// What is wrong with a query, going by the metrics and labels that there are.
fn faults(query: &str, known: &BTreeMap<String, BTreeSet<String>>) -> Result<Vec<String>> {
    let selector = Regex::new(r#"\b((?:[a-z_]+:)?diffluent_[a-z_]+(?::[a-z0-9]+)?|up)\b(?:\{([^}]*)\})?"#)?;
    let label = Regex::new(r#"([a-z_]+)\s*(?:=~|!~|!=|=)\s*""#)?;
    let grouping = Regex::new(r"\b(?:by|without|on)\s*\(([^)]*)\)")?;
    let mut found = Vec::new();
    let mut all = BTreeSet::new();
    for part in selector.captures_iter(query) {
        let Some(labels) = known.get(&part[1]) else {
            found.push(format!("there is no metric {}", &part[1]));
            continue;
        };
        all.extend(labels.iter().cloned());
        let asked = part.get(2).map_or("", |labels| labels.as_str());
        for asked in label.captures_iter(asked).filter(|asked| !labels.contains(&asked[1])) {
            found.push(format!("{} has no label {}", &part[1], &asked[1]));
        }
    }
    if all.is_empty() && found.is_empty() {
        found.push("it asks for nothing of diffluent's".to_owned());
    }
    for labels in grouping.captures_iter(query) {
        let unknown = labels[1].split(',').map(str::trim).filter(|label| !label.is_empty() && !all.contains(*label));
        found.extend(unknown.map(|label| format!("no metric of it has a label {label}")));
    }
    Ok(found)
}

#[test]
fn rules_and_dashboard_ask_only_for_metrics_and_labels_that_exist() -> Result<()> {
    let known = known_labels()?;
    for wrong in
        ["sum(diffluent_lags)", "diffluent_lag_seconds{partition=\"1\"}", "max by (topic) (up)", "sum(node_load1)"]
    {
        assert!(!faults(wrong, &known)?.is_empty(), "{wrong} is taken for good");
    }
    let (alerts, recording) = (text("deploy/prometheus/alerts.yml")?, text("deploy/prometheus/recording.yml")?);
    let mut queries: Vec<String> =
        [&alerts, &recording].iter().flat_map(|rules| values(rules, "expr")).map(str::to_owned).collect();
    let dashboard: Value = serde_json::from_str(&text("deploy/grafana/diffluent.json")?)?;
    let panels = dashboard["panels"].as_array().context("no panels")?;
    let mut ids = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64()), "two panels with the id {}", panel["id"]);
        let targets = panel["targets"].as_array().context("a panel without queries")?;
        for target in targets {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{}: imports anywhere", panel["title"]);
            queries.push(target["expr"].as_str().context("a target without a query")?.to_owned());
        }
    }
    assert!(queries.len() > 40, "only {} queries found", queries.len());
    for variable in dashboard["templating"]["list"].as_array().context("no variables")? {
        if let Some(query) = variable["query"]["query"].as_str() {
            let (metric, label) = query
                .strip_prefix("label_values(")
                .and_then(|rest| rest.strip_suffix(')')?.rsplit_once(", "))
                .context("not label_values(metric, label)")?;
            queries.push(format!("max by ({label}) ({metric})"));
        }
    }
    for query in queries {
        let faults = faults(&query, &known)?;
        assert!(faults.is_empty(), "{query}: {faults:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_prometheus_scrapes_diffluent_and_alarms_when_a_region_is_cut() -> Result<()> {
    packages::ensure("prometheus", "prometheus")?;
    let (eu, us) = tokio::try_join!(Cluster::builder().name("eu").start(), Cluster::builder().name("us").start())?;
    eu.create_topic("orders", 1, 1, &[]).await?;
    let config =
        ProxyConfig::new("eu", &eu.bootstrap()).region("us", &us.bootstrap()).allow("the region can't be reached");
    let proxy = Proxy::start(DIFFLUENT, config).await?;
    assert_eq!(Workload { records: 100, ..Workload::new(&proxy.bootstrap(), "orders") }.run().await?.failed, 0);

    // The files of deploy/ as they are, but for the address and for patience.
    let dir = TempDir::new("diffluent-prometheus-")?;
    let hasty = Regex::new(r"(for|_interval): \d+[sm]")?;
    for name in ["prometheus.yml", "recording.yml", "alerts.yml"] {
        let text = text(&format!("deploy/prometheus/{name}"))?.replace("127.0.0.1:9644", &proxy.admin_addr());
        std::fs::write(dir.path().join(name), hasty.replace_all(&text, "$1: 1s").as_bytes())?;
    }
    let port = Ports::one()?;
    let address = format!("127.0.0.1:{}", port.first());
    let mut command = Command::new("prometheus");
    command.arg(format!("--config.file={}", dir.path().join("prometheus.yml").display()));
    command.arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()));
    command.arg(format!("--web.listen-address={address}"));
    let prometheus = Guarded::spawn("prometheus", command, &dir.path().join("log"))?;

    let mirrored = "/api/v1/query?query=diffluent_mirrored_records_total%7Bjob%3D%22diffluent%22%7D";
    let since = Instant::now();
    loop {
        let answer = http::get(&address, mirrored).await.map(|(_, body)| body).unwrap_or_default();
        let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
        if answer["data"]["result"][0]["value"][1] == "100" {
            break;
        }
        assert!(
            since.elapsed() < PATIENCE,
            "Prometheus does not know of the records: {answer}\n{}",
            prometheus.log_tail()
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    us.kill_all();
    let since = Instant::now();
    loop {
        let (_, body) = http::get(&address, "/api/v1/alerts").await?;
        let answer: Value = serde_json::from_str(&body)?;
        let alerts = answer["data"]["alerts"].as_array().cloned().unwrap_or_default();
        let fires = alerts.iter().any(|alert| {
            alert["state"] == "firing"
                && alert["labels"]["alertname"] == "DiffluentRegionUnreachable"
                && alert["labels"]["region"] == "us"
        });
        if fires {
            break;
        }
        assert!(since.elapsed() < PATIENCE, "no alarm: {answer}\n{}", prometheus.log_tail());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    drop(prometheus);
    // The journal has both ends of it.
    us.restart_all().await?;
    let since = Instant::now();
    loop {
        let events: Value = serde_json::from_str(&proxy.get("/events?region=us").await?)?;
        let events = events["events"].as_array().context("no events")?;
        let kinds: Vec<&str> = events.iter().filter_map(|event| event["kind"].as_str()).collect();
        if kinds.first() == Some(&"region_reachable") && kinds.contains(&"region_unreachable") {
            break;
        }
        assert!(since.elapsed() < PATIENCE, "the region's return is no event: {events:#?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    proxy.finish().await
}
