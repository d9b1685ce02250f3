use std::sync::Arc;

use super::super::report::Level;
use super::*;
use crate::client::cluster::{Leader, Topic};
use crate::client::configs::{Setting, Values};

fn config(region_keys: &str) -> Config {
    let text = format!(
        "[proxy]\nname = \"eu\"\nlisten = \"127.0.0.1:9092\"\nadvertise = \"127.0.0.1\"\nbroker_ports = \"9100-9102\"\n\
         [local]\nbootstrap_servers = [\"127.0.0.1:1\"]\n\
         [[region]]\nname = \"us\"\nbootstrap_servers = [\"127.0.0.1:2\"]\n{region_keys}\n"
    );
    Config::parse("proxy.toml", &text).unwrap()
}

fn metadata(topics: &[&str]) -> Metadata {
    let topic = || Topic {
        id: uuid::Uuid::nil(),
        internal: false,
        partitions: [(0, Leader { node_id: 1, epoch: 0 })].into(),
        under_replicated: 0,
    };
    Metadata {
        cluster_id: "x".into(),
        hidden: Default::default(),
        brokers: [(1, ("a".to_owned(), 1)), (2, ("b".to_owned(), 2))].into(),
        topics: topics.iter().map(|name| (Arc::from(*name), topic())).collect(),
    }
}

fn values(pairs: &[(&str, &str)], own: bool) -> Values {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), Setting { value: (*value).to_owned(), own })).collect()
}

fn settings(topics: &[(&str, &[(&str, &str)])], broker: &[(&str, &str)]) -> Settings {
    Settings {
        topics: topics.iter().map(|(name, pairs)| ((*name).to_owned(), values(pairs, true))).collect(),
        brokers: [(1, values(broker, false))].into(),
        ..Settings::default()
    }
}

/// What is said of a region that has `there` for what is `here`, under the same names.
fn said(here: &Settings, there: &Settings) -> Vec<Line> {
    let config = config("");
    let names = |settings: &Settings| metadata(&settings.topics.keys().map(String::as_str).collect::<Vec<_>>());
    region(&config, &config.region[0], (&names(here), here), (&names(there), there))
}

fn line<'a>(lines: &'a [Line], part: &str) -> &'a Line {
    lines.iter().find(|line| line.what.contains(part)).unwrap_or_else(|| panic!("no line says {part:?}: {lines:#?}"))
}

#[test]
fn topics_that_are_set_up_alike_are_one_good_line() {
    let alike: &[(&str, &str)] =
        &[("cleanup.policy", "delete"), ("compression.type", "producer"), ("max.message.bytes", "1048588")];
    let here = settings(&[("orders", alike), ("payments", alike)], &[]);
    let lines = said(&here, &here.clone());
    assert_eq!(lines, [Line::ok("2 topics set up alike on both sides")]);
}

#[test]
fn a_setting_that_differs_is_told_with_both_values_and_more_room_is_not() {
    let here = settings(
        &[(
            "orders",
            &[("cleanup.policy", "compact"), ("max.message.bytes", "2000000"), ("message.timestamp.after.max.ms", "1")],
        )],
        &[],
    );
    let there = settings(
        &[(
            "orders",
            &[("cleanup.policy", "delete"), ("max.message.bytes", "1000000"), ("message.timestamp.after.max.ms", "2")],
        )],
        &[],
    );
    let lines = said(&here, &there);
    let policy = line(&lines, "cleanup.policy differs in 1 topic: orders (compact here, delete there)");
    assert_eq!(policy.level, Level::Warning);
    assert!(policy.advice.as_ref().unwrap().contains("--add-config cleanup.policy=VALUE"), "{policy:?}");
    assert!(line(&lines, "max.message.bytes").advice.as_ref().unwrap().contains("stalls its partition"));
    assert_eq!(lines.len(), 2, "{lines:#?}");
    // The other way round a batch fits.
    assert_eq!(said(&there, &here).iter().filter(|line| line.what.contains("max.message.bytes")).count(), 0);
}

#[test]
fn brokers_that_compress_again_are_told_though_both_sides_do() {
    let topics: &[(&str, &[(&str, &str)])] = &[("orders", &[("compression.type", "zstd")])];
    let lines = said(&settings(topics, &[]), &settings(topics, &[]));
    assert_eq!(line(&lines, "compress 1 topic again: orders (zstd)").level, Level::Warning);
}

#[test]
fn topics_that_will_be_created_without_their_settings_or_replicas_are_told() {
    let own: &[(&str, &str)] = &[("cleanup.policy", "compact"), ("retention.ms", "1000")];
    let here = settings(&[("orders", own)], &[]);
    let there = settings(&[], &[("default.replication.factor", "1")]);
    let lines = said(&here, &there);
    // cleanup.policy is taken over.
    assert_eq!(line(&lines, "orders (retention.ms=1000)").level, Level::Warning);
    assert_eq!(line(&lines, "get one replica").level, Level::Warning);
    let there = settings(&[], &[("default.replication.factor", "3")]);
    assert_eq!(said(&here, &there).len(), 1);
}

#[test]
fn requests_that_a_region_would_not_take_are_a_failure() {
    let here = settings(&[("orders", &[("max.message.bytes", "1048588")])], &[]);
    let there = |limit: &str| {
        settings(&[("orders", &[("max.message.bytes", "1048588")])], &[("socket.request.max.bytes", limit)])
    };
    assert_eq!(line(&said(&here, &there("2000000")), "take requests of up to 2000000").level, Level::Failure);
    assert_eq!(said(&here, &there("104857600")).len(), 1);
    let longer = settings(&[], &[("socket.request.max.bytes", "209715200")]);
    assert_eq!(requests(&config(""), &longer).unwrap().level, Level::Warning);
    let usual = settings(&[], &[("socket.request.max.bytes", "104857600")]);
    assert_eq!(requests(&config(""), &usual).unwrap().level, Level::Ok);
}

#[test]
fn a_clock_that_is_off_is_a_warning_but_not_within_what_the_question_took() {
    for (ahead_ms, within_ms, level) in [
        (0, 1, Level::Ok),
        (-900, 1, Level::Ok),
        (1_500, 1, Level::Warning),
        (-1_500, 1, Level::Warning),
        (1_500, 600, Level::Ok),
    ] {
        assert_eq!(clock(Clock { ahead_ms, within_ms }).level, level, "{ahead_ms} {within_ms}");
    }
    assert!(
        clock(Clock { ahead_ms: -1_500, within_ms: 2 })
            .what
            .contains("1500 ms behind this machine's, give or take 2 ms")
    );
}

#[test]
fn releases_are_told_by_their_level_and_what_they_work_as() {
    let one = |software, in_use| Some(Release { software, in_use });
    let said = |all: &[Option<Release>]| releases(&(1..).zip(all.iter().copied()).collect()).what;
    assert_eq!(said(&[one(30, Some(30)), one(30, Some(30))]), "its brokers are Apache Kafka 4.3");
    assert_eq!(
        said(&[one(21, Some(20)), one(30, Some(20))]),
        "its brokers are Apache Kafka 3.9 and 4.3, working as 3.8"
    );
    assert_eq!(said(&[one(31, None), None]), "its brokers are Apache Kafka newer than 4.3; 1 of 2 don't tell");
    assert!(said(&[None]).contains("don't tell their release"));
    assert_eq!([0, 1, 7, 8, 29].map(name), ["older than 3.0", "3.0", "3.3", "3.4", "4.2"]);
}

#[test]
fn a_backlog_older_than_producers_are_remembered_is_a_warning() {
    assert_eq!(backlog(&BTreeMap::new(), EXPIRATION_MS), None);
    let told = backlog(&[("orders".to_owned(), 12)].into(), EXPIRATION_MS).unwrap();
    assert!(
        told.level == Level::Warning && told.what.ends_with("remember producers (24 h): orders (12 records)"),
        "{told:?}"
    );
    assert_eq!(expiration_ms(&settings(&[], &[("producer.id.expiration.ms", "3600000")])), 3_600_000);
    assert_eq!(expiration_ms(&Settings::default()), EXPIRATION_MS);
}

#[test]
fn compacted_topics_that_come_back_from_the_region_can_not_converge() {
    let here = settings(
        &[
            ("profiles", &[("cleanup.policy", "compact")]),
            ("both", &[("cleanup.policy", "compact,delete")]),
            ("orders", &[("cleanup.policy", "delete")]),
        ],
        &[],
    );
    let config = config("");
    let topics = compacted(&config.region[0], &metadata(&["profiles", "both", "orders"]), &here);
    assert_eq!(topics.iter().map(String::as_str).collect::<Vec<_>>(), ["both", "profiles"]);
    assert_eq!(mirrored_back(&BTreeSet::new()), None, "in one direction they do");
    let said = mirrored_back(&topics).expect("a line");
    assert_eq!(said.level, Level::Warning);
    assert!(said.what.contains("both, profiles"), "{}", said.what);
}
