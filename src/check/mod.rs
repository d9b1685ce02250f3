//! `diffluent check`: tries what `diffluent run` needs, and says what works, what does not, and what to do.
//!
//! Owns the report ([`report`]) and the judgement of what was found. It may connect to every cluster and bind the
//! configured ports for a moment. It must not change anything: no topic is created, nothing is written or committed; and it
//! decides nothing for the running proxy, which finds out for itself.
//!
//! `clusters` and `settings` ask, `judge` and `fit` compare without I/O, so that what is said can be tested without a cluster.

mod certificates;
mod clusters;
mod fit;
mod judge;
mod ports;
pub mod report;
mod settings;

pub use report::{CheckReport, Level};

use std::collections::HashSet;

use tokio::task::JoinSet;

use crate::access::Access;
use crate::config::Config;
use clusters::{Asked, Found};
use report::{Line, Section};
use settings::Settings;

/// Tries everything that `config` names. Takes as long as the slowest cluster, at most a few times `dial_timeout`.
pub async fn run(config: &Config) -> CheckReport {
    let timeout = config.proxy.dial_timeout;
    let mut own = Section::new(format!("proxy {:?}", config.proxy.name.as_str()));
    own.extend(ports::check(config).await);
    let access = match Access::load(config) {
        Ok(access) => access,
        Err(error) => {
            own.extend(error.0.iter().map(certificates::unusable));
            return CheckReport::new(vec![own]);
        }
    };
    own.extend(certificates::own(config, &access));

    let mut asked = JoinSet::new();
    // Progress is kept in the local cluster.
    let groups = config.region.iter().filter(|_| config.mirror.enabled);
    let local = Asked {
        name: "local".into(),
        servers: config.local.bootstrap_servers.clone(),
        dialer: access.local(),
        groups: groups.map(|region| format!("diffluent.{}", region.name)).collect(),
    };
    let regions = config.region.iter().map(|region| Asked {
        name: region.name.as_str().into(),
        servers: region.bootstrap_servers.clone(),
        dialer: access.region(&region.name),
        groups: Vec::new(),
    });
    for (index, cluster) in std::iter::once(local).chain(regions).enumerate() {
        asked.spawn(async move { (index, clusters::ask(&cluster, timeout).await) });
    }
    let mut found = asked.join_all().await;
    found.sort_by_key(|(index, _)| *index);
    let mut found = found.into_iter().map(|(_, found)| found);

    let mut sections = vec![own];
    if let Some(local) = found.next() {
        let regions: Vec<_> = found.collect();
        let (here, there) = set_up(config, &local, &regions).await;
        let mut section = judge::local(config, &local);
        section.extend(here.iter().flat_map(fit::cluster));
        section.extend(here.iter().flat_map(|here| fit::requests(config, here)));
        sections.push(section);
        for (index, region) in regions.iter().enumerate() {
            let mut section = judge::region(config, index, &local, &regions, region);
            section.extend(there.get(index).into_iter().flatten().flat_map(fit::cluster));
            if let (Some(here), Some(Some(there))) = (&here, there.get(index)) {
                section.extend(fits(config, index, (&local, here), (region, there)).await);
            }
            sections.push(section);
        }
    }
    CheckReport::new(sections)
}

/// How the clusters are set up, where they answered.
async fn set_up(config: &Config, local: &Found, regions: &[Found]) -> (Option<Settings>, Vec<Option<Settings>>) {
    let mirrored = |name: &str| config.region.iter().any(|region| region.selects(name));
    let here: Vec<String> = names(local).filter(|name| mirrored(name)).collect();
    let there = regions.iter().zip(&config.region).map(|(found, region)| {
        let wanted: HashSet<String> = (names(local).filter(|name| region.selects(name)))
            .map(|name| region.topic_in_region(&config.proxy.name, &name))
            .collect();
        names(found).filter(|name| wanted.contains(name)).collect()
    });
    let topics: Vec<Vec<String>> = std::iter::once(here).chain(there).collect();
    let mut asked = JoinSet::new();
    for (index, (found, topics)) in std::iter::once(local).chain(regions).zip(topics).enumerate() {
        if let Some(cluster) = found.cluster.clone() {
            asked.spawn(async move { (index, settings::ask(cluster, topics).await) });
        }
    }
    let mut all: Vec<Option<Settings>> = vec![None; regions.len() + 1];
    for (index, settings) in asked.join_all().await {
        if let Some(slot) = all.get_mut(index) {
            *slot = Some(settings);
        }
    }
    let there = all.split_off(1);
    (all.pop().flatten(), there)
}

fn names(found: &Found) -> impl Iterator<Item = String> {
    let topics = found.metadata().into_iter().flat_map(|metadata| &metadata.topics);
    topics.filter(|(_, topic)| !topic.internal).map(|(name, _)| name.to_string())
}

/// Whether a region is set up so that it can hold what it gets.
async fn fits(
    config: &Config,
    index: usize,
    (local, here): (&Found, &Settings),
    (found, there): (&Found, &Settings),
) -> Vec<Line> {
    let (Some(region), Some(cluster)) = (config.region.get(index), &local.cluster) else { return Vec::new() };
    let (Some(metadata), Some(metadata_there)) = (local.metadata(), found.metadata()) else { return Vec::new() };
    let mut lines = fit::region(config, region, (metadata, here), (metadata_there, there));
    let expiration_ms = fit::expiration_ms(there);
    match settings::older_backlog(cluster, region, &config.proxy.name, expiration_ms).await {
        Ok(older) => lines.extend(fit::backlog(&older, expiration_ms)),
        // Said of the local cluster already, where it is more than a coordinator that starts.
        Err(why) => tracing::debug!(region = %region.name, why, "the age of what is missing can't be told"),
    }
    lines
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    fn config(local: &str, region: &str) -> Config {
        let list = |servers: &str| servers.split(',').map(|s| format!("\"{s}\"")).collect::<Vec<_>>().join(", ");
        let (local, region) = (list(local), list(region));
        let text = format!(
            "[proxy]\nname = \"eu\"\nlisten = \"127.0.0.1:0\"\nadvertise = \"127.0.0.1\"\nbroker_ports = \"9100-9102\"\n\
             dial_timeout = \"2 s\"\n[local]\nbootstrap_servers = [{local}]\n\
             [[region]]\nname = \"us\"\nbootstrap_servers = [{region}]\n[admin]\nlisten = \"127.0.0.1:0\"\n"
        );
        Config::parse("proxy.toml", &text).unwrap()
    }

    fn lines<'a>(report: &'a CheckReport, title: &str) -> &'a [report::Line] {
        let section = report.sections().iter().find(|section| section.title == title);
        &section.unwrap_or_else(|| panic!("no section {title}: {report}")).lines
    }

    #[tokio::test]
    async fn brokers_that_answer_and_those_that_do_not_are_told_apart() {
        let (local, region) = (MockCluster::new(2).unwrap(), MockCluster::new(1).unwrap());
        local.create_topic("orders", 3, 1).unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let nobody = closed.local_addr().unwrap().to_string();
        drop(closed);
        let config = config(&format!("{},{nobody}", local.bootstrap_servers()), &region.bootstrap_servers());
        let report = run(&config).await;
        let here = lines(&report, "local cluster");
        assert!(here.iter().any(|line| line.level == Level::Warning && line.what.starts_with(&nobody)), "{report}");
        assert!(here.iter().any(|line| line.what.ends_with("2 brokers, 1 topic")), "{report}");
        assert!(
            here.iter().any(|line| line.what == "progress can be kept in the consumer group diffluent.us"),
            "{report}"
        );
        let there = lines(&report, "region \"us\"");
        assert!(there.iter().any(|line| line.what == "1 topic will be created in the region"), "{report}");
        // The mock can't create topics: that is what an unfit broker looks like.
        assert!(
            there.iter().any(|line| line.level == Level::Failure && line.what.contains("CreateTopics")),
            "{report}"
        );
        assert_eq!(report.exit_code(), 1);
    }

    #[tokio::test]
    async fn clusters_that_are_not_there_or_not_kafka_are_failures_with_advice() {
        let web = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = web.local_addr().unwrap().to_string();
        let served = tokio::spawn(async move {
            let (mut stream, _) = web.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        });
        let report = run(&config(&address, "no-such-host.invalid:9092")).await;
        served.await.unwrap();
        let here = lines(&report, "local cluster");
        assert!(here[0].level == Level::Failure && here[0].what.starts_with(&address), "{report}");
        let there = lines(&report, "region \"us\"");
        assert!(there[0].what.starts_with("no-such-host.invalid:9092 can't be looked up"), "{report}");
        assert!(there[0].advice.is_some());
        assert_eq!(report.exit_code(), 1);
    }
}
