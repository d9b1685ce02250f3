//! The first promise: a client can't tell the proxy from the cluster. The same call is made directly and through the proxy, and answers and
//! what comes of them are compared: equal but for host and port, and no broker's address in them.

#[path = "transparency/blank.rs"]
mod blank;
mod common;
#[path = "transparency/connections.rs"]
mod connections;
#[path = "transparency/document.rs"]
mod document;
#[path = "transparency/large.rs"]
mod large;
#[path = "transparency/records.rs"]
mod records;
#[path = "transparency/scripts/mod.rs"]
mod scripts;
#[path = "transparency/side.rs"]
mod side;
#[path = "transparency/world.rs"]
mod world;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use connections::{
    half_closed_cut_off_and_very_slow_connections_end_as_at_the_broker, pipelined_requests_are_answered_in_order,
    produce,
};
use diffluent::wire::rewrite::{self, Answer};
use diffluent_testbed::definitions::Definitions;
use diffluent_testbed::kafka::Kafka;
use diffluent_testbed::{Call, KAFKA, KAFKA_OLD};
use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse, MetadataRequest};
use kafka_protocol::protocol::{Decodable, Request};
use large::{
    a_large_fetch_answer_loses_its_endpoints_and_nothing_else,
    answers_of_fifty_mebibytes_cost_little_memory_however_slowly_they_are_read,
};
use scripts::SCRIPTS;
use serde_json::json;
use side::Side;
use world::{DIRECT_HOST, TOLD_HOST, TOPIC, World};

const UNSUPPORTED_VERSION: i16 = 35;

/// How long a closed connection may take to show as closed.
const CLOSES_WITHIN: Duration = Duration::from_secs(5);

macro_rules! check {
    ($failures:ident, $world:expr, $($name:ident),+ $(,)?) => {$(
        let begin = Instant::now();
        let result = $name(&$world).await;
        println!("{:<70} {:?} {}", stringify!($name), begin.elapsed(), if result.is_ok() { "ok" } else { "FAILED" });
        if let Err(error) = result {
            $failures.push(format!("{}: {error:#}", stringify!($name)));
        }
    )+};
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_cannot_tell_the_proxy_from_the_cluster() -> Result<()> {
    let mut world = World::start(KAFKA, 3).await?;
    let mut failures = Vec::new();
    check!(
        failures,
        world,
        the_same_call_is_answered_alike_in_every_api_and_version,
        an_api_versions_request_that_is_too_new_gets_the_v0_answer,
        unknown_apis_and_versions_end_as_at_the_broker,
        a_large_fetch_answer_loses_its_endpoints_and_nothing_else,
        answers_of_fifty_mebibytes_cost_little_memory_however_slowly_they_are_read,
        pipelined_requests_are_answered_in_order,
        half_closed_cut_off_and_very_slow_connections_end_as_at_the_broker,
    );
    if let Err(error) = a_client_that_comes_straight_back_to_a_brokers_port_is_served(&mut world).await {
        failures.push(format!("restart: {error:#}"));
    }
    if !failures.is_empty() {
        bail!("{}\n{}", failures.join("\n"), world.proxy.log_text()?);
    }
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_in_front_of_an_older_cluster() -> Result<()> {
    let world = World::start(KAFKA_OLD, 2).await?;
    let mut failures = Vec::new();
    check!(failures, world, the_same_call_is_answered_alike_in_every_api_and_version);
    if !failures.is_empty() {
        bail!("{}\n{}", failures.join("\n"), world.proxy.log_text()?);
    }
    world.finish().await
}

/// Plays every script on both sides, and compares what they have written down.
async fn the_same_call_is_answered_alike_in_every_api_and_version(world: &World) -> Result<()> {
    let mut covered = BTreeSet::new();
    let (mut addressed, mut told) = (BTreeSet::new(), BTreeSet::new());
    let mut failures = Vec::new();
    for script in SCRIPTS {
        let begin = Instant::now();
        let (mut direct, mut through) = (Side::new(world, false), Side::new(world, true));
        let (played_direct, played_through) =
            tokio::join!(scripts::play(script, &mut direct), scripts::play(script, &mut through));
        println!("  {script}: {} answers in {:?}", through.entries.len(), begin.elapsed());
        let result = played_direct.context("directly").and(played_through.context("through the proxy"));
        if let Err(error) = result.and_then(|()| side::compare(&direct, &through)) {
            failures.push(format!("{script}: {error:#}"));
        }
        covered.extend(through.covered);
        let holds = |bytes: &Bytes, host: &str| bytes.windows(host.len()).any(|window| window == host.as_bytes());
        for (entries, host, found) in
            [(&direct.entries, DIRECT_HOST, &mut addressed), (&through.entries, TOLD_HOST, &mut told)]
        {
            let with_host = entries.iter().filter(|entry| entry.bytes.as_ref().is_some_and(|bytes| holds(bytes, host)));
            found.extend(with_host.map(|entry| entry.api));
        }
    }
    let name = |(key, version): &(i16, i16)| {
        format!("{} v{version}", world.definitions.api(*key).map_or("an unknown API", |api| api.name.as_str()))
    };
    let offered = world.offered.iter().flat_map(|(key, versions)| versions.clone().map(|version| (*key, version)));
    let missing: Vec<_> = offered.filter(|pair| !covered.contains(pair)).map(|pair| name(&pair)).collect();
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    ensure!(missing.is_empty(), "offered by the brokers, but in no script: {missing:?}");

    // What has carried a broker's address is what the proxy knows to rewrite: no less, and nothing that no script has brought about.
    let addressed: BTreeSet<_> = addressed.into_iter().filter(|(key, _)| *key != DESCRIBE_CONFIGS).collect();
    let rewritten =
        |(key, version): &(i16, i16)| matches!(rewrite::answer(*key, *version), Answer::Head | Answer::Tail(_));
    let known: BTreeSet<_> = covered
        .iter()
        .filter(|pair| rewritten(pair) && (pair.0 != SHARE_ACKNOWLEDGE || addressed.contains(pair)))
        .copied()
        .collect();
    let only = |a: &BTreeSet<(i16, i16)>, b: &BTreeSet<(i16, i16)>| a.difference(b).map(name).collect::<Vec<_>>();
    ensure!(addressed == told, "addresses directly only: {:?}", only(&addressed, &told));
    ensure!(
        addressed == known,
        "addresses that are not rewritten: {:?}; rewritten, but never seen with an address: {:?}",
        only(&addressed, &known),
        only(&known, &addressed)
    );
    Ok(())
}

/// A broker's own configuration tells its listeners, to whom asks for just that.
const DESCRIBE_CONFIGS: i16 = 32;

/// Tells an address only of a partition whose leader moved while its records were acquired: a broker that never led it does not know it. What is done with the answer
/// then, the properties of `share_endpoints` hold.
const SHARE_ACKNOWLEDGE: i16 = 79;

/// Hosts in answers that are left alone, and why that is right.
const NOT_BROKERS: [(&str, &str); 3] = [
    ("DescribeQuorum", "Nodes.Listeners.Host"),
    ("StreamsGroupHeartbeat", "PartitionsByUserEndpoint.UserEndpoint.Host"),
    ("StreamsGroupDescribe", "Groups.Members.UserEndpoint.Host"),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_host_in_kafkas_message_definitions_is_rewritten_or_known_to_be_no_brokers() -> Result<()> {
    for release in [KAFKA, KAFKA_OLD] {
        let definitions = Definitions::of(&Kafka::fetch(release, &[]).await?)?;
        for api in definitions.apis().filter(|api| api.on_brokers) {
            for host in api.answered_hosts() {
                let left = NOT_BROKERS.contains(&(api.name.as_str(), host.path.as_str()));
                for version in host.versions.filter(|version| api.has(*version)) {
                    let rewritten = matches!(rewrite::answer(api.key, version), Answer::Head | Answer::Tail(_));
                    ensure!(rewritten != left, "Kafka {release}: {} v{version}: {}", api.name, host.path);
                }
            }
        }
    }
    Ok(())
}

async fn an_api_versions_request_that_is_too_new_gets_the_v0_answer(world: &World) -> Result<()> {
    let mut found = Vec::new();
    for version in [5, 9, i16::MAX] {
        let body = [2, b'x', 2, b'1', 0];
        for addr in [world.eu.broker_addr(1)?, world.broker_port(1)?, world.proxy.bootstrap()] {
            let mut bytes = Call::connect(&addr).await?.call_raw(ApiVersionsRequest::KEY, version, &body).await?;
            let answer = ApiVersionsResponse::decode(&mut bytes, 0).with_context(|| format!("{addr} v{version}"))?;
            ensure!(bytes.is_empty(), "{addr}: {} bytes too many", bytes.len());
            ensure!(answer.error_code == UNSUPPORTED_VERSION, "{addr} v{version}: {answer:?}");
            ensure!(answer.api_keys.iter().any(|api| api.api_key == 18), "{addr}: no hint which version to ask for");
            found.push(answer);
        }
    }
    ensure!(found.windows(2).all(|pair| matches!(pair, [a, b] if a == b)), "{found:?}");
    Ok(())
}

async fn unknown_apis_and_versions_end_as_at_the_broker(world: &World) -> Result<()> {
    const LIST_GROUPS: i16 = 16;
    for (api_key, version) in [(999, 0), (-7, 0), (i16::MAX, 3), (LIST_GROUPS, 99), (MetadataRequest::KEY, 99)] {
        for addr in [world.eu.broker_addr(2)?, world.broker_port(2)?] {
            let mut call = Call::connect(&addr).await?.deadline(CLOSES_WITHIN);
            let answer = call.call_raw(api_key, version, &[0, 0, 0, 0]).await;
            let Err(error) = answer else { bail!("{addr} answers API {api_key} version {version}") };
            let text = format!("{error:#}");
            ensure!(!text.contains("did not answer"), "{addr}: API {api_key} version {version} is left open: {text}");
        }
    }
    Ok(())
}

async fn a_client_that_comes_straight_back_to_a_brokers_port_is_served(world: &mut World) -> Result<()> {
    world.proxy.restart().await?;
    // No bootstrap, no metadata: straight to where the leader was before.
    let (mut direct, mut through) = (Side::new(world, false), Side::new(world, true));
    let answer = through.ask(1, "Produce", 9, produce(-1, 2)?).await?;
    ensure!(answer["Responses"][0]["PartitionResponses"][0]["ErrorCode"] == 0, "{answer}");
    through.entries.clear();
    for node_id in world.eu.broker_ids() {
        for side in [&mut direct, &mut through] {
            side.ask(node_id, "Metadata", 12, json!({ "Topics": [{ "Name": TOPIC }] })).await?;
        }
    }
    side::compare(&direct, &through)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_of_the_documentation_says_what_the_code_does() -> Result<()> {
    document::check().await
}
