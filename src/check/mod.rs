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
mod logins;
mod ports;
pub mod report;
mod rights;
mod settings;

pub use report::{CheckReport, Level};

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::access::Access;
use crate::client::Reach;
use crate::config::{Config, Region};
use crate::mirror::topic_list::{MirroredTopic, mirrored_topics};
use crate::net::Dialer;
use clusters::{Found, Question};
use report::{Line, Section};
use rights::Refusals;
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
    for (index, question) in questions(config, &access, timeout).into_iter().enumerate() {
        asked.spawn(async move { (index, clusters::ask(&question, timeout).await) });
    }
    let mut found = asked.join_all().await;
    found.sort_by_key(|(index, _)| *index);
    let mut found = found.into_iter().map(|(_, found)| found);

    let mut sections = vec![own];
    if let Some(local) = found.next() {
        let mut regions: Vec<_> = found.collect();
        let mirrored = mirrored(config, &local);
        let mut refusals = Vec::new();
        for (region, topics) in regions.iter_mut().zip(&mirrored) {
            refusals.push(rights::region(region, topics).await);
        }
        let (here, there) = set_up(config, &local, &regions).await;
        let mut section = judge::local(config, &local);
        if let Some(cluster) = &local.cluster {
            section.extend(readable(config, &local, &mirrored).lines(cluster));
        }
        section.extend(here.iter().flat_map(fit::cluster));
        section.extend(here.iter().flat_map(|here| fit::requests(config, here)));
        sections.push(section);
        for (index, region) in regions.iter().enumerate() {
            let mut section = judge::region(config, index, &local, &regions, region);
            if let (Some(cluster), Some(refused)) = (&region.cluster, refusals.get(index)) {
                section.extend(refused.lines(cluster));
            }
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
    let compacted = fit::compacted(region, metadata, here);
    lines.extend(fit::mirrored_back(&settings::mirrored_back(cluster, &compacted, &metadata_there.cluster_id).await));
    if settings::writes_under_handed_out_ids(cluster, region, &config.proxy.name).await {
        lines.push(fit::handed_out_ids());
    }
    let expiration_ms = fit::expiration_ms(there);
    match settings::older_backlog(cluster, region, &config.proxy.name, expiration_ms).await {
        Ok(older) => lines.extend(fit::backlog(&older, expiration_ms)),
        // Said of the local cluster already, where it is more than a coordinator that starts.
        Err(why) => tracing::debug!(region = %region.name, why, "the age of what is missing can't be told"),
    }
    lines
}

/// Whom to ask: the local cluster, then the regions.
fn questions(config: &Config, access: &Access, timeout: Duration) -> Vec<Question> {
    let reach = |dialer: &Dialer, table: &str, sasl| Reach::new(Arc::new(dialer.clone()), table, sasl, timeout);
    let named = config.region.iter().flat_map(Region::named_topics).map(Arc::from).collect();
    let groups = config.region.iter().map(|region| format!("diffluent.{}", region.name)).collect();
    let local = Question {
        name: "local".to_owned(),
        servers: config.local.bootstrap_servers.clone(),
        reach: reach(&access.local(), "local.sasl", config.local.sasl.as_ref()),
        dialer: access.local(),
        groups: if config.mirror.enabled { groups } else { Vec::new() },
        topics: if config.mirror.enabled { named } else { Vec::new() },
    };
    let regions = config.region.iter().map(|region| Question {
        name: region.name.to_string(),
        servers: region.bootstrap_servers.clone(),
        reach: reach(&access.region(&region.name), "region.sasl", region.sasl.as_ref()),
        dialer: access.region(&region.name),
        // A region's offsets are not used; progress is kept in the local cluster.
        groups: Vec::new(),
        topics: Vec::new(),
    });
    std::iter::once(local).chain(regions).collect()
}

/// The topics that each region gets.
fn mirrored(config: &Config, local: &Found) -> Vec<Vec<MirroredTopic>> {
    let of =
        |region| local.metadata().map(|here| mirrored_topics(here, region, &config.proxy.name)).unwrap_or_default();
    config.region.iter().map(of).collect()
}

/// What of these topics can't be read.
fn readable(config: &Config, local: &Found, mirrored: &[Vec<MirroredTopic>]) -> Refusals {
    let topics: BTreeSet<&Arc<str>> = mirrored.iter().flatten().map(|topic| &topic.name).collect();
    let hidden = local.metadata().map(|here| here.hidden.clone()).unwrap_or_default();
    if !config.mirror.enabled {
        return Refusals::default();
    }
    rights::local(&topics.into_iter().collect::<Vec<_>>(), hidden.into_iter(), &local.allowed)
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
