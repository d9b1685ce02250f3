use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::clusters::missing;
use super::super::report::Level;
use super::*;
use crate::client::apis::NEEDED;
use crate::client::cluster::{Leader, Topic};

fn config(region_keys: &str) -> Config {
    let text = format!(
        "[proxy]\nname = \"eu\"\nlisten = \"127.0.0.1:9092\"\nadvertise = \"127.0.0.1\"\nbroker_ports = \"9100-9102\"\n\
         [local]\nbootstrap_servers = [\"127.0.0.1:1\"]\n\
         [[region]]\nname = \"us\"\nbootstrap_servers = [\"127.0.0.1:2\"]\n{region_keys}\n\
         [[region]]\nname = \"ap\"\nbootstrap_servers = [\"127.0.0.1:3\"]\n"
    );
    Config::parse("proxy.toml", &text).unwrap()
}

fn works() -> Answer {
    Answer::Works { missing: Vec::new(), tls: None }
}

/// A cluster of two brokers that works, with these topics and partition counts.
fn cluster(id: &str, topics: &[(&str, i32)]) -> Found {
    let topic = |internal: bool, partitions: i32| Topic {
        id: uuid::Uuid::nil(),
        internal,
        partitions: (0..partitions).map(|p| (p, Leader { node_id: 1, epoch: 0 })).collect::<BTreeMap<_, _>>(),
        under_replicated: 0,
    };
    let metadata = Metadata {
        cluster_id: id.into(),
        brokers: [(1, ("a".to_owned(), 1)), (2, ("b".to_owned(), 2))].into(),
        topics: topics.iter().map(|(name, n)| (Arc::from(*name), topic(name.starts_with("__"), *n))).collect(),
        hidden: Default::default(),
    };
    Found {
        bootstrap: vec![("a:1".into(), works())],
        brokers: vec![(1, "a:1".into(), works()), (2, "b:2".into(), works())],
        metadata: Some(Ok(Arc::new(metadata))),
        ..Found::default()
    }
}

fn worst(section: &Section) -> Level {
    section.lines.iter().map(|line| line.level).max().unwrap()
}

/// The one line that says `part`.
fn line<'a>(section: &'a Section, part: &str) -> &'a Line {
    let mut lines = section.lines.iter().filter(|line| line.what.contains(part));
    let found = lines.next().unwrap_or_else(|| panic!("no line says {part:?}: {section:#?}"));
    assert!(lines.next().is_none(), "{part:?} is said twice: {section:#?}");
    found
}

#[test]
fn clusters_that_fit_are_all_well() {
    let (config, here) = (config(""), cluster("L", &[("orders", 3), ("__consumer_offsets", 50)]));
    let there = cluster("U", &[("orders", 3)]);
    let section = region(&config, 0, &here, std::slice::from_ref(&there), &there);
    assert_eq!(worst(&section), Level::Ok, "{section:#?}");
    line(&section, "1 of 1 topic will be mirrored, 3 partitions");
    let section = local(&config, &here);
    assert_eq!(worst(&section), Level::Ok, "{section:#?}");
    line(&section, "2 brokers on 3 ports");
}

#[test]
fn a_region_that_is_the_local_cluster_is_a_failure() {
    let (config, here) = (config(""), cluster("L", &[]));
    let there = cluster("L", &[]);
    let section = region(&config, 0, &here, std::slice::from_ref(&there), &there);
    assert_eq!(line(&section, "mirrored onto itself").level, Level::Failure);
}

#[test]
fn two_regions_of_one_cluster_are_a_failure_unless_their_topic_names_differ() {
    let here = cluster("L", &[]);
    let there = vec![cluster("U", &[]), cluster("U", &[])];
    let section = region(&config(""), 1, &here, &there, &there[1]);
    assert_eq!(line(&section, "same cluster as region \"us\"").level, Level::Failure);
    let named = config("topic_name = \"{origin}.{topic}\"");
    let section = region(&named, 1, &here, &there, &there[1]);
    assert_eq!(line(&section, "same cluster as region \"us\"").level, Level::Warning);
    let section = region(&named, 0, &here, &there, &there[0]);
    assert_eq!(worst(&section), Level::Ok, "{section:#?}");
}

#[test]
fn partitions_that_differ_and_topics_that_are_missing_are_told() {
    let here = cluster("L", &[("a", 3), ("b", 3), ("c", 3), ("d", 3)]);
    let there = cluster("U", &[("a", 3), ("b", 2), ("c", 5)]);
    let section = region(&config(""), 0, &here, std::slice::from_ref(&there), &there);
    assert_eq!(line(&section, "1 topic will be created").level, Level::Ok);
    assert_eq!(line(&section, "b (2 of 3)").level, Level::Warning);
    assert_eq!(line(&section, "c (5 instead of 3)").level, Level::Warning);
}

#[test]
fn a_selection_that_matches_nothing_is_a_warning_with_the_patterns() {
    let (here, there) = (cluster("L", &[("orders", 1)]), cluster("U", &[]));
    let section = region(&config("topics = [\"order\"]"), 0, &here, std::slice::from_ref(&there), &there);
    assert_eq!(line(&section, "topics = [\"order\"]").level, Level::Warning);
}

#[test]
fn a_name_that_gets_too_long_is_a_failure() {
    let long = "x".repeat(248);
    let (here, there) = (cluster("L", &[(&long, 1)]), cluster("U", &[]));
    let section = region(&config("topic_name = \"{origin}.{topic}\""), 0, &here, std::slice::from_ref(&there), &there);
    assert_eq!(line(&section, "1 topic name longer than Kafka allows").level, Level::Failure);
}

#[test]
fn one_dead_bootstrap_server_is_a_warning_and_all_of_them_a_failure() {
    let config = config("");
    let mut here = cluster("L", &[]);
    here.bootstrap.push(("b:2".into(), Answer::Fails("connection refused".into())));
    assert_eq!(line(&local(&config, &here), "b:2: connection refused").level, Level::Warning);
    let dead = Found {
        bootstrap: vec![
            ("a:1".into(), Answer::NoSuchHost("unknown".into())),
            ("b:2".into(), Answer::Fails("connection refused".into())),
        ],
        ..Found::default()
    };
    let section = local(&config, &dead);
    assert!(section.lines.iter().all(|line| line.level == Level::Failure && line.advice.is_some()), "{section:#?}");
}

#[test]
fn a_broker_that_advertises_an_address_out_of_reach_is_a_failure() {
    let mut here = cluster("L", &[]);
    here.brokers[1].2 = Answer::NoSuchHost("unknown host".into());
    let section = local(&config(""), &here);
    let found = line(&section, "broker 2 advertises b:2");
    assert_eq!(found.level, Level::Failure);
    assert!(found.advice.as_ref().unwrap().contains("advertised.listeners"));
}

#[test]
fn an_old_broker_is_a_failure_that_names_the_call_and_its_versions() {
    let mut here = cluster("L", &[]);
    let lacks =
        missing(|key| if key == 0 { Some((0, 8)) } else { NEEDED.iter().find(|n| n.1 == key).map(|n| (0, n.2)) });
    assert_eq!(lacks.len(), 1);
    here.brokers[0].2 = Answer::Works { missing: lacks.clone(), tls: None };
    here.brokers[1].2 = Answer::Works { missing: lacks, tls: None };
    let section = local(&config(""), &here);
    let found = line(&section, "Produce");
    assert_eq!(found.level, Level::Failure);
    assert_eq!(found.what, "diffluent speaks Produce version 9; brokers 1, 2 know it in versions 0 to 8");
}

#[test]
fn a_broker_without_describe_producers_will_do() {
    let mut here = cluster("L", &[]);
    let lacks = missing(|key| if key == 61 { None } else { NEEDED.iter().find(|n| n.1 == key).map(|n| (0, n.2)) });
    here.brokers[0].2 = Answer::Works { missing: lacks, tls: None };
    assert_eq!(line(&local(&config(""), &here), "DescribeProducers").level, Level::Warning);
}

#[test]
fn progress_that_cannot_be_kept_is_a_failure_and_a_starting_coordinator_is_not() {
    let mut here = cluster("L", &[]);
    here.groups = vec![
        ("diffluent.us".into(), Some(GroupTrouble::NotYet("coordinator not available (15)".into()))),
        ("diffluent.ap".into(), Some(GroupTrouble::Fails("group authorization failed (30)".into()))),
    ];
    let section = local(&config(""), &here);
    assert_eq!(line(&section, "diffluent.us").level, Level::Warning);
    assert_eq!(line(&section, "diffluent.ap").level, Level::Failure);
}

#[test]
fn a_controller_among_the_bootstrap_servers_is_named_as_one() {
    let mut here = cluster("L", &[]);
    here.bootstrap.push(("c:9093".into(), Answer::NoBroker));
    let section = local(&config(""), &here);
    assert_eq!(line(&section, "c:9093 is a controller").level, Level::Warning);
    line(&section, "its brokers speak all that diffluent needs");
}

#[test]
fn mirror_maker_beside_diffluent_and_topics_that_came_from_there_are_named() {
    let config = config("topic_name = \"{origin}.{topic}\"");
    let here = cluster("L", &[("orders", 1), ("us.orders", 1), ("mm2-offset-syncs.us.internal", 1)]);
    let there = cluster("R", &[("us.checkpoints.internal", 1)]);
    let section = region(&config, 0, &here, &[there.clone(), cluster("S", &[])], &there);
    assert!(
        line(&section, "MirrorMaker 2 works").what.ends_with("mm2-offset-syncs.us.internal, us.checkpoints.internal")
    );
    assert!(line(&section, "came from a cluster").what.ends_with(": us.orders"));
    assert!(line(&section, "will be mirrored").what.starts_with("1 of 3"), "{section:#?}");
}
