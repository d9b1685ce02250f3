//! A local broker that sends what no broker should: its client is cut off with the reason, and nobody else notices.

mod common;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use common::scripted::{SCRIPTED, Script, ScriptedBroker};
use common::{DIFFLUENT, PATIENCE};
use diffluent_testbed::{Call, Proxy, ProxyConfig};
use kafka_protocol::messages::MetadataRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What all of this may cost in resident memory: far less than what is claimed, and less than what is sent.
const MEMORY_GROWTH_BYTES_MAX: u64 = 16 << 20;

/// More than is ever held of an answer.
const MUCH: usize = 3 << 20;

const FETCH: i16 = 1;
const LIST_OFFSETS: i16 = 2;
const METADATA: i16 = 3;
const FIND_COORDINATOR: i16 = 10;
const API_VERSIONS: i16 = 18;

struct Case {
    name: &'static str,
    /// What the client asks.
    asks: (i16, i16),
    /// What it gets.
    answer: Vec<u8>,
    close: bool,
    /// The label in `diffluent_client_closed_total`; empty where the client has to go by itself.
    reason: &'static str,
}

/// A frame that claims `length` bytes and has the scripted request's correlation id, and then these.
fn claiming(length: i32, rest: &[u8]) -> Vec<u8> {
    [&length.to_be_bytes(), &SCRIPTED.to_be_bytes(), rest].concat()
}

/// A whole one.
fn whole(rest: &[u8]) -> Vec<u8> {
    claiming(rest.len() as i32 + 4, rest)
}

fn cases() -> Vec<Case> {
    const ENDLESS: [u8; 12] = [0xff; 12];
    const MANY: [u8; 5] = [0xff, 0xff, 0xff, 0xff, 0x0f];
    let case = |name, asks, answer, reason| Case { name, asks, answer, close: false, reason };
    let ending = |name, asks, answer, reason| Case { name, asks, answer, close: true, reason };
    let plain = (LIST_OFFSETS, 1);
    let brokers = |count: &[u8], rest: &[u8]| [&[0, 0, 0, 0, 0][..], count, rest].concat();
    vec![
        case("another correlation id", plain, [0, 0, 0, 4, 0, 0, 0, 5].to_vec(), "answer_unexpected"),
        case("two answers for one request", plain, [whole(b"a"), whole(b"b")].concat(), "answer_unexpected"),
        case("a length of -1", plain, vec![0xff; 8], "answer_malformed"),
        case("a length of i32::MIN", plain, [0x80, 0, 0, 0].to_vec(), "answer_malformed"),
        case("a length of zero", plain, vec![0; 4], "answer_malformed"),
        case("a length of three", plain, [0, 0, 0, 3, 1, 2, 3].to_vec(), "answer_malformed"),
        case("i32::MAX bytes of which little comes", plain, claiming(i32::MAX, &[7; 100]), ""),
        ending("half an answer", plain, claiming(1000, &[7; 100]), "broker_closed"),
        ending("nothing", plain, Vec::new(), "broker_closed"),
        ending("half a length", plain, vec![0, 0], "broker_closed"),
        // Held until the last address is there, which never comes.
        case(
            "brokers without end",
            (METADATA, 12),
            claiming(i32::MAX, &brokers(&MANY, &[0; MUCH])),
            "answer_malformed",
        ),
        case("brokers that aren't there", (METADATA, 12), whole(&brokers(&MANY, &[])), "answer_malformed"),
        case(
            "a host longer than the answer",
            (METADATA, 12),
            whole(&brokers(&[2, 0, 0, 0, 1], &MANY)),
            "answer_malformed",
        ),
        case("a number of brokers that never ends", (METADATA, 12), whole(&brokers(&ENDLESS, &[])), "answer_malformed"),
        case("a negative number of brokers", (METADATA, 1), whole(&[0x80, 0, 0, 0]), "answer_malformed"),
        case("a negative host", (METADATA, 1), whole(&[0, 0, 0, 1, 0, 0, 0, 1, 0x80, 0]), "answer_malformed"),
        case(
            "a host that is no text",
            (METADATA, 1),
            whole(&[0, 0, 0, 1, 0, 0, 0, 1, 0, 1, 0xff, 0, 0, 0, 9]),
            "answer_malformed",
        ),
        case(
            "header tags without end",
            (METADATA, 12),
            claiming(i32::MAX, &[&MANY[..], &[0; MUCH]].concat()),
            "answer_malformed",
        ),
        case(
            "a header tag longer than the answer",
            (METADATA, 12),
            whole(&[&[1, 0][..], &MANY].concat()),
            "answer_malformed",
        ),
        case(
            "coordinators that aren't there",
            (FIND_COORDINATOR, 4),
            whole(&[&[0; 5][..], &MANY].concat()),
            "answer_malformed",
        ),
        case("an empty coordinator answer", (FIND_COORDINATOR, 2), whole(&[]), "answer_malformed"),
        case(
            "versions without end",
            (API_VERSIONS, 3),
            claiming(i32::MAX, &[&[0, 0][..], &MANY, &[0; MUCH]].concat()),
            "answer_malformed",
        ),
        case("a negative number of versions", (API_VERSIONS, 0), whole(&[0, 0, 0x80, 0, 0, 0]), "answer_malformed"),
        // Streamed: walked, never held.
        case("topics that aren't there", (FETCH, 16), whole(&[&[0; 11][..], &MANY].concat()), "answer_malformed"),
        case("records longer than the answer", (FETCH, 16), fetch_of_records(&MANY), "answer_malformed"),
        case(
            "a number of topics that never ends",
            (FETCH, 16),
            whole(&[&[0; 11][..], &ENDLESS, &[0; 40_000]].concat()),
            "answer_malformed",
        ),
        ending(
            "topics without end",
            (FETCH, 16),
            claiming(i32::MAX, &[&[0; 11][..], &MANY, &[0; MUCH]].concat()),
            "broker_closed",
        ),
    ]
}

/// A Fetch answer, large enough to be streamed, whose records claim to be so many.
fn fetch_of_records(bytes: &[u8]) -> Vec<u8> {
    let partition = [&[0; 30][..], &[1], &[0; 4], bytes, &[0; 40_000]].concat();
    whole(&[&[0; 11][..], &[2], &[0; 16], &[2], &partition].concat())
}

fn request((api_key, version): (i16, i16)) -> Vec<u8> {
    let header =
        [&api_key.to_be_bytes()[..], &version.to_be_bytes(), &SCRIPTED.to_be_bytes(), &[0xff, 0xff, 0]].concat();
    [&(header.len() as i32).to_be_bytes()[..], &header].concat()
}

async fn closed(proxy: &Proxy, reason: &str) -> Result<f64> {
    proxy.get("/metrics").await?;
    let label = format!("reason=\"{reason}\"");
    Ok(proxy.metric_with("diffluent_client_closed_total", &[&label]).await.unwrap_or(0.0))
}

async fn good_call(call: &mut Call) -> Result<()> {
    let answer = call.call(&MetadataRequest::default().with_topics(None), 12).await?;
    ensure!(answer.brokers.len() == 1, "{answer:?}");
    Ok(())
}

async fn suffer(proxy: &Proxy, broker: &ScriptedBroker, case: &Case) -> Result<()> {
    broker.script(Script { bytes: case.answer.clone(), close: case.close });
    let reason = if case.reason.is_empty() { "client_closed" } else { case.reason };
    let before = closed(proxy, reason).await?;
    let mut client = TcpStream::connect(proxy.bootstrap()).await?;
    client.write_all(&request(case.asks)).await?;
    if case.reason.is_empty() {
        // What is there passes; then the client has had enough.
        let mut there = vec![0; case.answer.len()];
        client.read_exact(&mut there).await?;
        ensure!(there == case.answer, "another answer");
        drop(client);
    } else {
        // Reads what there is to read, and then the end, orderly or not.
        let mut buffer = vec![0; 64 * 1024];
        let until_end = async { while client.read(&mut buffer).await.is_ok_and(|bytes| bytes > 0) {} };
        tokio::time::timeout(PATIENCE, until_end).await.context("the connection stays open")?;
        drop(client);
    }
    let since = Instant::now();
    while closed(proxy, reason).await? <= before {
        ensure!(since.elapsed() < PATIENCE, "not counted as {reason}:\n{}", proxy.log_text()?);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_broker_answers_the_process_lives_and_other_clients_are_served() -> Result<()> {
    let broker = ScriptedBroker::start().await?;
    // A broker out of step needs a human, so it is an ERROR in the log.
    let config = ProxyConfig::new("eu", &broker.address).allow("client connection closed");
    let proxy = Proxy::start(DIFFLUENT, config).await?;
    let mut bystander = Call::connect(&proxy.bootstrap()).await?;
    good_call(&mut bystander).await?;
    let rss_before = proxy.rss_bytes()?;
    for case in cases() {
        suffer(&proxy, &broker, &case).await.with_context(|| case.name)?;
        good_call(&mut bystander).await.with_context(|| format!("the others after {}", case.name))?;
        let mut fresh = Call::connect(&proxy.bootstrap()).await?;
        good_call(&mut fresh).await.with_context(|| format!("a new client after {}", case.name))?;
        let grown = proxy.rss_bytes()?.saturating_sub(rss_before);
        ensure!(grown <= MEMORY_GROWTH_BYTES_MAX, "{}: resident memory has grown by {grown} bytes", case.name);
    }
    drop(bystander);
    proxy.finish().await
}
