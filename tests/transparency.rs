//! The first promise: a client can't tell the proxy from the cluster. The same call is made directly and through the proxy, and the
//! answers are compared: equal but for host and port, and no broker's address in them.

#[path = "transparency/answers.rs"]
mod answers;
mod common;
#[path = "transparency/world.rs"]
mod world;

use std::time::{Duration, Instant};

use answers::Addressed;
use anyhow::{Context, Result, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use diffluent_testbed::Call;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    ApiVersionsRequest, ApiVersionsResponse, BrokerId, DescribeClusterRequest, FetchRequest, FindCoordinatorRequest,
    MetadataRequest, ProduceRequest, ShareFetchRequest, share_fetch_request,
};
use kafka_protocol::protocol::{Decodable, Request, StrBytes};
use world::{TOPIC, World};

const NONE: i16 = 0;
const NOT_LEADER_OR_FOLLOWER: i16 = 6;
const UNSUPPORTED_VERSION: i16 = 35;

/// How long a closed connection may take to show as closed.
const CLOSES_WITHIN: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn a_client_cannot_tell_the_proxy_from_the_cluster() -> Result<()> {
    let mut world = World::start().await?;
    let mut failures = Vec::new();
    macro_rules! check {
        ($($name:ident),+ $(,)?) => {$(
            let begin = Instant::now();
            let result = $name(&world).await;
            println!("{:<70} {:?} {}", stringify!($name), begin.elapsed(), if result.is_ok() { "ok" } else { "FAILED" });
            if let Err(error) = result {
                failures.push(format!("{}: {error:#}", stringify!($name)));
            }
        )+};
    }
    check!(
        metadata_is_equal_but_for_addresses_in_every_version,
        find_coordinator_is_equal_but_for_addresses_in_every_version,
        describe_cluster_is_equal_but_for_addresses_in_every_version,
        api_versions_are_equal_but_for_capped_entries,
        an_api_versions_request_that_is_too_new_gets_the_v0_answer,
        other_apis_are_equal_byte_for_byte,
        unknown_apis_and_versions_end_as_at_the_broker,
        a_produce_answer_of_a_non_leader_names_the_proxy,
        a_fetch_answer_of_a_non_leader_names_the_proxy,
        a_large_fetch_answer_loses_its_endpoints_and_nothing_else,
        a_share_fetch_answer_of_a_non_leader_names_the_proxy,
        pipelined_requests_are_answered_in_order,
        a_request_without_acks_gets_no_answer,
    );
    if let Err(error) = a_client_that_comes_straight_back_to_a_brokers_port_is_served(&mut world).await {
        failures.push(format!("restart: {error:#}"));
    }
    if !failures.is_empty() {
        bail!("{}\n{}", failures.join("\n"), world.proxy.log_text()?);
    }
    world.finish().await
}

/// Makes the same call at each broker directly, through its port at the proxy, and through the bootstrap port, and compares.
async fn compare<R: Request>(world: &World, request: &R, version: i16) -> Result<()>
where
    R::Response: Addressed,
{
    for node_id in world.eu.broker_ids() {
        let direct = call::<R>(&world.eu.broker_addr(node_id)?, request, version).await?.0;
        let direct = answers::blank(direct, &world.direct)?;
        for addr in [world.broker_port(node_id)?, world.proxy.bootstrap()] {
            let (through, bytes) = call::<R>(&addr, request, version).await?;
            world.assert_no_leak(&bytes)?;
            let through = answers::blank(through, &world.told)?;
            ensure!(through == direct, "broker {node_id} at {addr}: {through:?}\ninstead of {direct:?}");
        }
    }
    Ok(())
}

/// The decoded answer and its bytes.
async fn call<R: Request>(addr: &str, request: &R, version: i16) -> Result<(R::Response, Bytes)> {
    let mut body = BytesMut::new();
    request.encode(&mut body, version)?;
    let bytes = Call::connect(addr).await?.call_raw(R::KEY, version, &body).await?;
    let mut rest = bytes.clone();
    let answer = R::Response::decode(&mut rest, version)?;
    ensure!(rest.is_empty(), "{} bytes too many", rest.len());
    Ok((answer, bytes))
}

async fn metadata_is_equal_but_for_addresses_in_every_version(world: &World) -> Result<()> {
    for version in world.versions(MetadataRequest::KEY)? {
        let named = |name: &'static str| MetadataRequestTopic::default().with_name(Some(topic_name(name)));
        let mut wanted = vec![Some(vec![named(TOPIC)]), Some(vec![named("no-such-topic"), named(TOPIC)])];
        // No list means all topics; version 0 says the same with an empty one, which means none later (KIP-4).
        wanted.push(if version == 0 { Some(Vec::new()) } else { None });
        for topics in wanted {
            let request = MetadataRequest::default()
                .with_topics(topics)
                .with_allow_auto_topic_creation(version < 4)
                .with_include_topic_authorized_operations(version >= 8)
                .with_include_cluster_authorized_operations((8..=10).contains(&version));
            compare(world, &request, version).await.with_context(|| format!("version {version}"))?;
        }
    }
    Ok(())
}

async fn find_coordinator_is_equal_but_for_addresses_in_every_version(world: &World) -> Result<()> {
    // Group, transaction, share group (KIP-932), and one that no broker knows.
    let keys =
        [(0, "a-group".to_owned()), (1, "a-transaction".to_owned()), (2, world.share_key()), (9, "x".to_owned())];
    for version in world.versions(FindCoordinatorRequest::KEY)? {
        for (key_type, key) in &keys {
            let key = StrBytes::from_string(key.clone());
            let mut request = FindCoordinatorRequest::default();
            match version {
                0 if *key_type != 0 => continue,
                0 => request.key = key,
                1..=3 => request = request.with_key(key).with_key_type(*key_type),
                _ => request = request.with_coordinator_keys(vec![key]).with_key_type(*key_type),
            }
            let here = || format!("version {version}, key type {key_type}");
            if *key_type <= 1 || (*key_type == 2 && version >= 6) {
                world.until_found(&request, version).await.with_context(here)?;
            }
            compare(world, &request, version).await.with_context(here)?;
        }
    }
    Ok(())
}

async fn describe_cluster_is_equal_but_for_addresses_in_every_version(world: &World) -> Result<()> {
    for version in world.versions(DescribeClusterRequest::KEY)? {
        for (endpoint_type, fenced) in [(1, false), (2, false), (1, true)] {
            if (version < 1 && endpoint_type != 1) || (version < 2 && fenced) {
                continue;
            }
            let request = DescribeClusterRequest::default()
                .with_include_cluster_authorized_operations(true)
                .with_endpoint_type(endpoint_type)
                .with_include_fenced_brokers(fenced);
            let here = || format!("version {version}, endpoint type {endpoint_type}");
            compare(world, &request, version).await.with_context(here)?;
        }
    }
    Ok(())
}

/// What the proxy reads or rewrites, up to the version that it can. All else keeps the broker's versions.
const CAPS: [(i16, i16); 8] = [(0, 13), (1, 18), (3, 13), (10, 6), (18, 4), (60, 2), (78, 2), (79, 2)];

fn capped(mut answer: ApiVersionsResponse) -> ApiVersionsResponse {
    for api in &mut answer.api_keys {
        if let Some((_, max)) = CAPS.iter().find(|(key, _)| *key == api.api_key) {
            api.max_version = api.max_version.min(*max);
        }
    }
    // Grows with the controllers' log, twice a second.
    answer.finalized_features_epoch = 0;
    answer
}

async fn api_versions_are_equal_but_for_capped_entries(world: &World) -> Result<()> {
    for version in 0..=4 {
        let request = match version {
            0..=2 => ApiVersionsRequest::default(),
            _ => ApiVersionsRequest::default()
                .with_client_software_name(StrBytes::from_static_str("diffluent-tests"))
                .with_client_software_version(StrBytes::from_static_str("1")),
        };
        for node_id in world.eu.broker_ids() {
            let direct = call(&world.eu.broker_addr(node_id)?, &request, version).await?.0;
            for addr in [world.broker_port(node_id)?, world.proxy.bootstrap()] {
                let through = call(&addr, &request, version).await?.0;
                let lowest = |answer: &ApiVersionsResponse| {
                    answer.api_keys.iter().find(|api| api.api_key == ProduceRequest::KEY).map(|api| api.min_version)
                };
                ensure!(lowest(&through).is_some() && lowest(&through) == lowest(&direct), "Produce's minimum changed");
                let mut through = through;
                through.finalized_features_epoch = 0;
                ensure!(through == capped(direct.clone()), "version {version} at {addr}: {through:?}\nnot {direct:?}");
            }
        }
    }
    Ok(())
}

async fn an_api_versions_request_that_is_too_new_gets_the_v0_answer(world: &World) -> Result<()> {
    for version in [5, 9, i16::MAX] {
        let body = [2, b'x', 2, b'1', 0];
        let mut found = Vec::new();
        for addr in [world.eu.broker_addr(1)?, world.broker_port(1)?, world.proxy.bootstrap()] {
            let mut bytes = Call::connect(&addr).await?.call_raw(ApiVersionsRequest::KEY, version, &body).await?;
            let answer = ApiVersionsResponse::decode(&mut bytes, 0).with_context(|| format!("{addr} v{version}"))?;
            ensure!(bytes.is_empty(), "{addr}: {} bytes too many", bytes.len());
            ensure!(answer.error_code == UNSUPPORTED_VERSION, "{addr} v{version}: {answer:?}");
            ensure!(answer.api_keys.iter().any(|api| api.api_key == 18), "{addr}: no hint which version to ask for");
            found.push(capped(answer));
        }
        ensure!(found.windows(2).all(|pair| matches!(pair, [a, b] if a == b)), "version {version}: {found:?}");
    }
    Ok(())
}

async fn other_apis_are_equal_byte_for_byte(world: &World) -> Result<()> {
    for (what, api_key, version, body) in world.opaque_requests()? {
        for node_id in world.eu.broker_ids() {
            let direct =
                Call::connect(&world.eu.broker_addr(node_id)?).await?.call_raw(api_key, version, &body).await?;
            let addr = world.broker_port(node_id)?;
            let through = Call::connect(&addr).await?.call_raw(api_key, version, &body).await?;
            ensure!(!direct.is_empty(), "{what} v{version}: an empty answer");
            ensure!(through == direct, "{what} v{version} of broker {node_id}: {through:?}\ninstead of {direct:?}");
        }
    }
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

/// The partition, its leader, and a broker that does not lead it.
async fn partition_and_non_leader(world: &World, partition: i32) -> Result<(i32, i32)> {
    let leader = world.eu.admin().leader(TOPIC, partition).await?;
    let other = world.eu.broker_ids().into_iter().find(|id| *id != leader).context("one broker only")?;
    Ok((leader, other))
}

async fn a_produce_answer_of_a_non_leader_names_the_proxy(world: &World) -> Result<()> {
    let (leader, other) = partition_and_non_leader(world, 0).await?;
    for version in 3..=13 {
        let request = produce(world, version, 0, -1, b"for another");
        let mut direct = call(&world.eu.broker_addr(other)?, &request, version).await?.0;
        ensure!(direct.addresses().len() == usize::from(version >= 10), "version {version}: {direct:?}");
        for addr in [world.broker_port(other)?] {
            let (through, bytes) = call(&addr, &request, version).await?;
            let answered = through.responses.first().and_then(|topic| topic.partition_responses.first());
            let error = answered.map(|answered| answered.error_code);
            ensure!(error == Some(NOT_LEADER_OR_FOLLOWER), "version {version}: {through:?}");
            ensure!(through.node_endpoints.iter().all(|node| node.node_id == BrokerId(leader)), "{through:?}");
            ensure!(through.node_endpoints.len() == usize::from(version >= 10), "version {version}: {through:?}");
            world.assert_no_leak(&bytes)?;
            let (through, direct) =
                (answers::blank(through, &world.told)?, answers::blank(direct.clone(), &world.direct)?);
            ensure!(through == direct, "version {version}: {through:?}\ninstead of {direct:?}");
        }
    }
    Ok(())
}

async fn a_fetch_answer_of_a_non_leader_names_the_proxy(world: &World) -> Result<()> {
    let (leader, other) = partition_and_non_leader(world, 0).await?;
    for version in 4..=18 {
        let request = fetch(world, version, &[0]);
        let direct = call(&world.eu.broker_addr(other)?, &request, version).await?.0;
        let (through, bytes) = call(&world.broker_port(other)?, &request, version).await?;
        let answered = through.responses.first().and_then(|topic| topic.partitions.first());
        ensure!(
            answered.map(|answered| answered.error_code) == Some(NOT_LEADER_OR_FOLLOWER),
            "version {version}: {through:?}"
        );
        ensure!(through.node_endpoints.len() == usize::from(version >= 16), "version {version}: {through:?}");
        ensure!(through.node_endpoints.iter().all(|node| node.node_id == BrokerId(leader)), "{through:?}");
        world.assert_no_leak(&bytes)?;
        let (through, direct) = (answers::blank(through, &world.told)?, answers::blank(direct, &world.direct)?);
        ensure!(through == direct, "version {version}: {through:?}\ninstead of {direct:?}");
    }
    Ok(())
}

async fn a_large_fetch_answer_loses_its_endpoints_and_nothing_else(world: &World) -> Result<()> {
    // Partition 1 has far more than the proxy holds; partition 0 is led elsewhere.
    let (leader, _) = partition_and_non_leader(world, 1).await?;
    ensure!(world.eu.admin().leader(TOPIC, 0).await? != leader, "both partitions have the same leader");
    let value = vec![b'x'; 200 * 1024];
    let appended = call(&world.broker_port(leader)?, &produce(world, 9, 1, -1, &value), 9).await?.0;
    let answered = appended.responses.first().and_then(|topic| topic.partition_responses.first());
    ensure!(answered.is_some_and(|answered| answered.error_code == NONE), "{appended:?}");
    for version in 4..=18 {
        let request = fetch(world, version, &[0, 1]);
        let direct = call(&world.eu.broker_addr(leader)?, &request, version).await?.0;
        let (mut through, bytes) = call(&world.broker_port(leader)?, &request, version).await?;
        ensure!(bytes.len() > value.len(), "version {version}: {} bytes", bytes.len());
        world.assert_no_leak(&bytes)?;
        ensure!(through.node_endpoints.is_empty(), "version {version}: {:?}", through.node_endpoints);
        // They have become a field that clients skip (KIP-482), of the same length.
        through.unknown_tagged_fields.clear();
        let mut direct = answers::blank(direct, &world.direct)?;
        ensure!(direct.node_endpoints.len() == usize::from(version >= 16), "version {version}: no endpoints to lose");
        direct.node_endpoints.clear();
        ensure!(answers::blank(through, &world.told)? == direct, "version {version}: the answers differ");
    }
    Ok(())
}

async fn a_share_fetch_answer_of_a_non_leader_names_the_proxy(world: &World) -> Result<()> {
    // The highest version that the test's own decoder has.
    const VERSION: i16 = 1;
    ensure!(world.versions(ShareFetchRequest::KEY)?.contains(&VERSION), "no ShareFetch v{VERSION}");
    let (leader, other) = partition_and_non_leader(world, 0).await?;
    let topic = share_fetch_request::FetchTopic::default()
        .with_topic_id(world.topic_id)
        .with_partitions(vec![share_fetch_request::FetchPartition::default().with_partition_index(0)]);
    let ask = async |addr: String, member: u128| {
        let request = ShareFetchRequest::default()
            .with_group_id(Some(StrBytes::from_static_str("sharers").into()))
            .with_member_id(Some(StrBytes::from_string(world::kafka_id(uuid::Uuid::from_u128(member)))))
            .with_max_wait_ms(500)
            .with_max_bytes(1 << 20)
            .with_max_records(100)
            .with_batch_size(100)
            .with_topics(vec![topic.clone()]);
        call(&addr, &request, VERSION).await
    };
    let direct = ask(world.eu.broker_addr(other)?, 1 << 100 | 1).await?.0;
    let (through, bytes) = ask(world.broker_port(other)?, 1 << 100 | 2).await?;
    ensure!(through.node_endpoints.len() == 1, "{through:?}\ndirectly {direct:?}");
    ensure!(through.node_endpoints.iter().all(|node| node.node_id == BrokerId(leader)), "{through:?}");
    world.assert_no_leak(&bytes)?;
    let (through, direct) = (answers::blank(through, &world.told)?, answers::blank(direct, &world.direct)?);
    ensure!(through == direct, "{through:?}\ninstead of {direct:?}");
    Ok(())
}

async fn pipelined_requests_are_answered_in_order(world: &World) -> Result<()> {
    const ROUNDS: i32 = 100;
    let (leader, _) = partition_and_non_leader(world, 2).await?;
    let mut connection = Call::connect(&world.broker_port(leader)?).await?;
    let requests = [
        encoded(&produce(world, 9, 2, -1, b"in order"), 9)?,
        encoded(&MetadataRequest::default().with_topics(None), 12)?,
        encoded(&FindCoordinatorRequest::default().with_coordinator_keys(vec!["a-group".into()]), 4)?,
        encoded(&ApiVersionsRequest::default(), 0)?,
        encoded(&fetch(world, 12, &[2]), 12)?,
    ];
    let mut sent = Vec::new();
    let mut bytes = BytesMut::new();
    for round in 0..ROUNDS {
        for (index, request) in requests.iter().enumerate() {
            // Not ascending, so that a sorted answer would show.
            let correlation_id = (round * 31 + 7) * 1009 % 10_007 - i32::try_from(index)?;
            sent.push(correlation_id);
            put_frame(&mut bytes, request, correlation_id)?;
        }
    }
    let (mut answered, mut offsets) = (Vec::new(), Vec::new());
    // All at once, while the answers are read: neither side may wait for the other.
    let (half, rest) = bytes.split_at(bytes.len() / 2);
    connection.send_bytes(half).await?;
    connection.send_bytes(rest).await?;
    for index in 0..sent.len() {
        let frame = connection.recv_frame().await?;
        answered.push(i32::from_be_bytes(*frame.first_chunk().context("a short answer")?));
        if index % requests.len() == 0 {
            let answer = kafka_protocol::messages::ProduceResponse::decode(&mut frame.slice(5..), 9)?;
            let partition = answer.responses.first().and_then(|topic| topic.partition_responses.first());
            offsets.push(partition.context("no partition")?.base_offset);
        }
    }
    ensure!(answered == sent, "answers out of order: {answered:?}");
    ensure!(offsets.windows(2).all(|pair| matches!(pair, [a, b] if *b == a + 1)), "offsets out of order: {offsets:?}");
    Ok(())
}

async fn a_request_without_acks_gets_no_answer(world: &World) -> Result<()> {
    let (leader, _) = partition_and_non_leader(world, 2).await?;
    let before = world.eu.admin().end_offsets(TOPIC).await?;
    let mut connection = Call::connect(&world.broker_port(leader)?).await?;
    let mut bytes = BytesMut::new();
    for correlation_id in 0..20 {
        let request = if correlation_id % 2 == 0 {
            encoded(&produce(world, 9, 2, 0, b"no answer"), 9)?
        } else {
            encoded(&MetadataRequest::default().with_topics(None), 12)?
        };
        put_frame(&mut bytes, &request, correlation_id)?;
    }
    connection.send_bytes(&bytes).await?;
    for correlation_id in (1..20).step_by(2) {
        let frame = connection.recv_frame().await?;
        let answered = i32::from_be_bytes(*frame.first_chunk().context("a short answer")?);
        ensure!(answered == correlation_id, "an answer to {answered} where {correlation_id} was next");
    }
    let after = world.eu.admin().end_offsets(TOPIC).await?;
    let (Some(before), Some(after)) = (before.get(2), after.get(2)) else { bail!("no partition 2") };
    ensure!(*after == before + 10, "{before} to {after}: not all was appended");
    Ok(())
}

async fn a_client_that_comes_straight_back_to_a_brokers_port_is_served(world: &mut World) -> Result<()> {
    let (leader, _) = partition_and_non_leader(world, 2).await?;
    world.proxy.restart().await?;
    // No bootstrap, no metadata: straight to where the leader was before.
    let answer = call(&world.broker_port(leader)?, &produce(world, 9, 2, -1, b"back again"), 9).await?.0;
    let answered = answer.responses.first().and_then(|topic| topic.partition_responses.first());
    ensure!(answered.is_some_and(|answered| answered.error_code == NONE), "{answer:?}");
    for node_id in world.eu.broker_ids() {
        let request = MetadataRequest::default().with_topics(None);
        let direct = call(&world.eu.broker_addr(node_id)?, &request, 12).await?.0;
        let through = call(&world.broker_port(node_id)?, &request, 12).await?.0;
        let (through, direct) = (answers::blank(through, &world.told)?, answers::blank(direct, &world.direct)?);
        ensure!(through == direct, "{through:?}\ninstead of {direct:?}");
    }
    Ok(())
}

fn topic_name(name: &'static str) -> kafka_protocol::messages::TopicName {
    StrBytes::from_static_str(name).into()
}

fn produce(world: &World, version: i16, partition: i32, acks: i16, value: &[u8]) -> ProduceRequest {
    let data = PartitionProduceData::default().with_index(partition).with_records(Some(world::record_batch(value)));
    let mut topic = TopicProduceData::default().with_partition_data(vec![data]);
    if version >= 13 {
        topic.topic_id = world.topic_id;
    } else {
        topic.name = topic_name(TOPIC);
    }
    ProduceRequest::default().with_acks(acks).with_timeout_ms(10_000).with_topic_data(vec![topic])
}

fn fetch(world: &World, version: i16, partitions: &[i32]) -> FetchRequest {
    let partitions = partitions
        .iter()
        .map(|partition| FetchPartition::default().with_partition(*partition).with_partition_max_bytes(1 << 20));
    let mut topic = FetchTopic::default().with_partitions(partitions.collect());
    if version >= 13 {
        topic.topic_id = world.topic_id;
    } else {
        topic.topic = topic_name(TOPIC);
    }
    let mut request = FetchRequest::default().with_max_wait_ms(500).with_max_bytes(8 << 20).with_topics(vec![topic]);
    if version < 15 {
        request.replica_id = BrokerId(-1);
    }
    if version >= 7 {
        // No session.
        request.session_epoch = -1;
    }
    request
}

/// A request without its correlation id: what stands before and behind it.
struct Encoded {
    api_key: i16,
    version: i16,
    rest: Bytes,
}

fn encoded<R: Request>(request: &R, version: i16) -> Result<Encoded> {
    let mut rest = BytesMut::new();
    // No client id, no tags.
    rest.put_i16(-1);
    if R::header_version(version) >= 2 {
        rest.put_u8(0);
    }
    request.encode(&mut rest, version)?;
    Ok(Encoded { api_key: R::KEY, version, rest: rest.freeze() })
}

fn put_frame(bytes: &mut BytesMut, request: &Encoded, correlation_id: i32) -> Result<()> {
    bytes.put_i32(i32::try_from(request.rest.len() + 8)?);
    bytes.put_i16(request.api_key);
    bytes.put_i16(request.version);
    bytes.put_i32(correlation_id);
    bytes.put_slice(&request.rest);
    Ok(())
}
