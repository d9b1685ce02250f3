//! Answers that are larger than what the proxy holds.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use diffluent_testbed::Call;
use diffluent_testbed::definitions::UNKNOWN_TAGS;
use flate2::Crc;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;

use crate::common::PATIENCE;
use crate::connections::{Encoded, encoded, put_frame};
use crate::records;
use crate::side::Side;
use crate::world::{TOPIC, World};

pub async fn a_large_fetch_answer_loses_its_endpoints_and_nothing_else(world: &World) -> Result<()> {
    // Partition 1, led by broker 2, has far more than the proxy holds; partition 0 is led by broker 1, whose address is in the answer.
    const LEADER: i32 = 2;
    let (mut direct, mut through) = (Side::new(world, false), Side::new(world, true));
    let records = records::hexadecimal(9, &[b'x'; 200 * 1024], records::ANYBODY)?;
    let partitions = json!([{ "Index": 1, "Records": records }]);
    let produce =
        json!({ "Acks": -1, "TimeoutMs": 10_000, "TopicData": [{ "Name": TOPIC, "PartitionData": partitions }] });
    let appended = through.ask(LEADER, "Produce", 9, produce).await?;
    ensure!(appended["Responses"][0]["PartitionResponses"][0]["ErrorCode"] == 0, "{appended}");
    let topic_id = world.topic_id(TOPIC).await?.to_string();
    for version in 4..=18 {
        let partition = |index: i32| json!({ "Partition": index, "FetchOffset": 0, "PartitionMaxBytes": 1 << 20 });
        let topics = json!([{ "Topic": TOPIC, "TopicId": topic_id, "Partitions": [partition(0), partition(1)] }]);
        let fields = json!({ "ReplicaId": -1, "MaxWaitMs": 500, "MinBytes": 1, "MaxBytes": 8 << 20, "Topics": topics });
        let mut direct = direct.ask(LEADER, "Fetch", version, fields.clone()).await?;
        let mut through = through.ask(LEADER, "Fetch", version, fields).await?;
        if version >= 16 {
            let (direct, through) = (direct.as_object_mut(), through.as_object_mut());
            let (Some(direct), Some(through)) = (direct, through) else { bail!("version {version}: no answer") };
            ensure!(direct.remove("NodeEndpoints").is_some(), "version {version}: no endpoints to lose");
            // They have become a field that clients skip (KIP-482), of the same length.
            ensure!(through.remove(UNKNOWN_TAGS).is_some(), "version {version}: the endpoints are not blanked");
        }
        ensure!(direct == through, "version {version}: the answers differ");
    }
    Ok(())
}

/// Records of the partition that is fetched whole, and their length: what a Fetch answer of a broker may hold by default is 55 MiB.
const RECORDS: usize = 53;
const RECORD_BYTES: usize = 1 << 20;
const CONNECTIONS: u64 = 6;
const MEMORY_BYTES_EACH_MAX: u64 = 1 << 20;

pub async fn answers_of_fifty_mebibytes_cost_little_memory_however_slowly_they_are_read(world: &World) -> Result<()> {
    const LEADER: i32 = 1;
    const BIG: &str = "big";
    world.eu.create_topic(BIG, 1, 1, &[("max.message.bytes", "2000000")]).await?;
    world.eu.move_leader(BIG, 0, LEADER).await?;
    let mut fill = Side::new(world, false);
    let records = records::hexadecimal(9, &vec![b'x'; RECORD_BYTES], records::ANYBODY)?;
    for _ in 0..RECORDS {
        let partitions = json!([{ "Index": 0, "Records": records }]);
        let fields =
            json!({ "Acks": 1, "TimeoutMs": 10_000, "TopicData": [{ "Name": BIG, "PartitionData": partitions }] });
        let answer = fill.attempt(LEADER, "Produce", 9, &fields).await?;
        ensure!(answer["Responses"][0]["PartitionResponses"][0]["ErrorCode"] == 0, "{answer}");
    }
    let topic_id = world.topic_id(BIG).await?.to_string();
    let partition = json!({ "Partition": 0, "FetchOffset": 0, "PartitionMaxBytes": 64 << 20 });
    let topics = json!([{ "TopicId": topic_id, "Partitions": [partition] }]);
    // The highest version: with a tail that may have to be blanked.
    let fields = json!({ "MaxWaitMs": 5_000, "MinBytes": 1, "MaxBytes": 64 << 20, "Topics": topics });
    let request = encoded(world, "Fetch", 18, &fields)?;
    let direct = read_slowly(&world.eu.broker_addr(LEADER)?, &request, Duration::ZERO).await?;
    ensure!(direct.0 > 50 << 20, "{} bytes are no large answer", direct.0);

    let before = world.proxy.rss_bytes()?;
    let mut reading = JoinSet::new();
    for number in 0..CONNECTIONS {
        let (addr, request) =
            (world.broker_port(LEADER)?, Encoded { head: request.head, rest: Bytes::clone(&request.rest) });
        // Each at another pace, between one and five seconds for all of it.
        let pause = Duration::from_micros(1_000 + 800 * number);
        reading.spawn(async move { read_slowly(&addr, &request, pause).await });
    }
    let mut most = 0;
    while !reading.is_empty() {
        most = most.max(world.proxy.rss_bytes()?);
        match tokio::time::timeout(Duration::from_millis(5), reading.join_next()).await {
            Err(_) => {}
            Ok(None) => break,
            Ok(Some(read)) => ensure!(read?? == direct, "another answer than the broker's"),
        }
    }
    let each = most.saturating_sub(before) / CONNECTIONS;
    println!("  {} KiB for each of {CONNECTIONS} answers of {} MiB", each >> 10, direct.0 >> 20);
    ensure!(each <= MEMORY_BYTES_EACH_MAX, "{each} bytes for an answer of {} bytes", direct.0);
    Ok(())
}

/// Sends a request and reads its answer with a pause after every 64 KiB or so; its length, and its checksum.
async fn read_slowly(addr: &str, request: &Encoded, pause: Duration) -> Result<(usize, u32)> {
    let mut call = Call::connect(addr).await?;
    let mut bytes = bytes::BytesMut::new();
    put_frame(&mut bytes, request, 7)?;
    call.send_bytes(&bytes).await?;
    let mut stream = call.into_stream();
    let length = usize::try_from(stream.read_i32().await?)?;
    let mut checksum = Crc::new();
    let mut buffer = vec![0; 64 << 10];
    let mut left = length;
    while left > 0 {
        let part = buffer.get_mut(..left.min(64 << 10)).context("no buffer")?;
        let read = tokio::time::timeout(PATIENCE, stream.read(part)).await.context("the answer stands still")??;
        if read == 0 {
            bail!("{left} bytes are missing");
        }
        checksum.update(part.get(..read).context("no buffer")?);
        left -= read;
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
    Ok((length, checksum.sum()))
}
