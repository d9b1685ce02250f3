//! A client's connection: pipelining, half closed, cut off, very slow.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use diffluent_testbed::Call;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::common::PATIENCE;
use crate::world::{TOPIC, World};
use crate::{records, side};

/// A request without its correlation id: what stands before and behind it.
pub struct Encoded {
    /// API key and version.
    pub head: [u8; 4],
    /// What follows the correlation id.
    pub rest: Bytes,
}

/// Encodes a request of a client without a name.
pub fn encoded(world: &World, api: &str, version: i16, fields: &Value) -> Result<Encoded> {
    let api = world.definitions.named(api)?;
    let mut rest = BytesMut::new();
    // No client id, no tags.
    rest.put_i16(-1);
    if api.is_flexible(version) {
        rest.put_u8(0);
    }
    rest.put_slice(&api.encode(version, fields)?);
    let ([k0, k1], [v0, v1]) = (api.key.to_be_bytes(), version.to_be_bytes());
    Ok(Encoded { head: [k0, k1, v0, v1], rest: rest.freeze() })
}

/// Adds the request, with its length.
pub fn put_frame(bytes: &mut BytesMut, request: &Encoded, correlation_id: i32) -> Result<()> {
    bytes.put_i32(i32::try_from(request.rest.len() + 8)?);
    bytes.put_slice(&request.head);
    bytes.put_i32(correlation_id);
    bytes.put_slice(&request.rest);
    Ok(())
}

/// A Produce request of one record.
pub fn produce(acks: i16, partition: i32) -> Result<Value> {
    let records = records::hexadecimal(9, b"in order", records::ANYBODY)?;
    let partitions = json!([{ "Index": partition, "Records": records }]);
    Ok(json!({ "Acks": acks, "TimeoutMs": 10_000, "TopicData": [{ "Name": TOPIC, "PartitionData": partitions }] }))
}

pub async fn pipelined_requests_are_answered_in_order(world: &World) -> Result<()> {
    const ROUNDS: i32 = 100;
    // Its leader.
    const LEADER: i32 = 1;
    const PARTITION: i32 = 2;
    let mut connection = Call::connect(&world.broker_port(LEADER)?).await?;
    let partition = json!({ "Partition": PARTITION, "FetchOffset": 0, "PartitionMaxBytes": 1 << 20 });
    let fetch = json!({ "MaxWaitMs": 500, "MinBytes": 1, "Topics": [{ "Topic": TOPIC, "Partitions": [partition] }] });
    // Each with whether it has an answer.
    let requests = [
        (encoded(world, "Produce", 9, &produce(-1, PARTITION)?)?, true),
        (encoded(world, "Metadata", 12, &json!({ "Topics": null }))?, true),
        (encoded(world, "Produce", 9, &produce(0, PARTITION)?)?, false),
        (encoded(world, "FindCoordinator", 4, &json!({ "CoordinatorKeys": ["a-group"] }))?, true),
        (encoded(world, "ApiVersions", 0, &json!({}))?, true),
        (encoded(world, "Fetch", 12, &fetch)?, true),
    ];
    let mut sent = Vec::new();
    let mut bytes = BytesMut::new();
    for round in 0..ROUNDS {
        for (index, (request, answered)) in requests.iter().enumerate() {
            // Not ascending, so that a sorted answer would show.
            let correlation_id = (round * 31 + 7) * 1009 % 10_007 - i32::try_from(index)?;
            if *answered {
                sent.push((index, correlation_id));
            }
            put_frame(&mut bytes, request, correlation_id)?;
        }
    }
    // All at once, while the answers are read: neither side may wait for the other.
    connection.send_bytes(&bytes).await?;
    let mut offsets = Vec::new();
    for (index, correlation_id) in sent {
        let frame = connection.recv_frame().await?;
        let answered = i32::from_be_bytes(*frame.first_chunk().context("a short answer")?);
        ensure!(answered == correlation_id, "an answer to {answered} where {correlation_id} was next");
        if index == 0 {
            let answer = world.definitions.named("Produce")?.decode(9, frame.get(5..).unwrap_or_default())?;
            offsets.push(side::number(&answer["Responses"][0]["PartitionResponses"][0]["BaseOffset"])?);
        }
    }
    // Between two of them lies one that was not answered.
    ensure!(offsets.windows(2).all(|pair| matches!(pair, [a, b] if *b == a + 2)), "offsets out of order: {offsets:?}");
    Ok(())
}

pub async fn half_closed_cut_off_and_very_slow_connections_end_as_at_the_broker(world: &World) -> Result<()> {
    let addrs = [world.eu.broker_addr(1)?, world.broker_port(1)?];
    let request = encoded(world, "ListGroups", 4, &json!({ "StatesFilter": [], "TypesFilter": [] }))?;
    let mut three = BytesMut::new();
    for correlation_id in 1..=3 {
        put_frame(&mut three, &request, correlation_id)?;
    }
    let half = three.get(..three.len() - 5).context("no request")?;

    // Who has said all gets all answers, and then the end; also with a request that is not complete.
    for sent in [&three[..], half, &three[..2], &[]] {
        let mut found = Vec::new();
        for addr in &addrs {
            let mut stream = TcpStream::connect(addr).await?;
            stream.write_all(sent).await?;
            stream.shutdown().await?;
            found.push(read_to_end(&mut stream).await.with_context(|| format!("{} bytes to {addr}", sent.len()))?);
        }
        ensure!(found.windows(2).all(|pair| matches!(pair, [a, b] if a == b)), "{} bytes: {found:?}", sent.len());
    }

    // Byte by byte, and the answer is the same; an idle second in between is no end.
    let mut found = Vec::new();
    for addr in &addrs {
        let mut stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        for (index, byte) in three.iter().enumerate() {
            stream.write_all(&[*byte]).await?;
            let pause = if index == 20 { Duration::from_secs(1) } else { Duration::from_millis(1) };
            tokio::time::sleep(pause).await;
        }
        stream.shutdown().await?;
        found.push(read_to_end(&mut stream).await?);
    }
    ensure!(found.windows(2).all(|pair| matches!(pair, [a, b] if a == b)), "byte by byte: {found:?}");

    // A client that is cut off in the middle of a request takes nothing with it, and leaves nothing behind.
    let mut bystander = Call::connect(&world.broker_port(1)?).await?;
    let api = world.definitions.named("ListGroups")?;
    let body = api.encode(4, &json!({ "StatesFilter": [] }))?;
    bystander.call_defined(api, 4, &body).await?;
    let connections = || world.proxy.metric("diffluent_client_connections");
    let before = connections().await?;
    for _ in 0..20 {
        let mut stream = TcpStream::connect(world.broker_port(1)?).await?;
        stream.write_all(half).await?;
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).await?;
        reset(stream)?;
    }
    let since = Instant::now();
    while connections().await? > before {
        ensure!(since.elapsed() < PATIENCE, "connections that were cut off are still there");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bystander.call_defined(api, 4, &body).await?;
    Ok(())
}

/// Ends a connection with a reset instead of an orderly end.
fn reset(stream: TcpStream) -> Result<()> {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    drop(stream);
    Ok(())
}

/// What comes until the end, which may be a reset.
async fn read_to_end(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.context("it stays open")?;
    match read {
        Ok(_) => Ok(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(bytes),
        Err(error) => Err(error.into()),
    }
}
