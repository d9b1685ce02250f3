//! What is not Kafka on a client port: that connection is closed, counted by reason and logged once; nobody else notices.

mod common;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::{BufMut, BytesMut};
use common::DIFFLUENT;
use diffluent_testbed::{Call, Cluster, Proxy, ProxyConfig, Workload};
use kafka_protocol::messages::MetadataRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How soon a connection with bad input has to be closed.
const CLOSED_WITHIN: Duration = Duration::from_secs(2);

/// `[proxy] frame_limit` here.
const FRAME_LIMIT_BYTES: i32 = 8 << 20;

/// Claimed by many requests that are never finished. The broker, unlike the proxy, allocates what is claimed, and its heap is small.
const UNFINISHED_BYTES: i32 = 1 << 20;

/// What all of this may cost in resident memory: far less than any one of the lengths that are claimed.
const MEMORY_GROWTH_BYTES_MAX: u64 = 16 << 20;

/// What the client does behind its bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// Waits for the end.
    Wait,
    /// Says that it has nothing more to say.
    Close,
}

struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    then: Then,
    /// The label in `diffluent_client_closed_total`, and the field of the log line.
    reason: &'static str,
}

fn cases() -> Vec<Case> {
    let case = |name, bytes: &[u8], then, reason| Case { name, bytes: bytes.to_vec(), then, reason };
    let framed = |length: i32, rest: &[u8]| [&length.to_be_bytes(), rest].concat();
    let client_hello =
        [&[0x16, 3, 1, 0, 0xc8, 1, 0, 0, 0xc4, 3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0], &[0; 64]].concat();
    let metadata = [0, 3, 0, 12, 0, 0, 0, 1, 0, 1, b'x', 0];
    let http = b"GET / HTTP/1.1\r\nHost: kafka\r\nAccept: */*\r\n\r\n";
    vec![
        case("a length of i32::MAX", &framed(i32::MAX, &metadata), Then::Wait, "frame_too_long"),
        case("one byte over the limit", &framed(FRAME_LIMIT_BYTES + 1, &metadata), Then::Wait, "frame_too_long"),
        case("a length of i32::MIN", &framed(i32::MIN, &metadata), Then::Wait, "negative_length"),
        case("a length of -1", &framed(-1, &[]), Then::Wait, "negative_length"),
        case("a length of zero", &framed(0, &[]), Then::Wait, "frame_too_short"),
        case("a frame of three bytes", &framed(3, &[0, 3, 0]), Then::Wait, "frame_too_short"),
        case("a TLS ClientHello", &client_hello, Then::Wait, "tls_client_hello"),
        case("an HTTP GET", http, Then::Wait, "http_request"),
        case("an HTTP POST", b"POST /topics/x HTTP/1.1\r\n\r\n{}", Then::Wait, "http_request"),
        case(
            "a Metadata version of the future",
            &framed(9, &[0, 3, 0, 99, 0, 0, 0, 1, 0]),
            Then::Wait,
            "unsupported_version",
        ),
        // The broker judges what is inside of a frame; its verdict travels through.
        case(
            "a Produce with an impossible number of topics",
            &produce_of_topics(i32::MAX),
            Then::Wait,
            "broker_closed",
        ),
        case("a Produce with a negative number of topics", &produce_of_topics(-7), Then::Wait, "broker_closed"),
        case("a Produce with topics without end", &flexible_produce(&[&MANY]), Then::Wait, "broker_closed"),
        case("a topic longer than the request", &flexible_produce(&[&[2], &MANY]), Then::Wait, "broker_closed"),
        case("partitions without end", &flexible_produce(&[&[2, 2, b't'], &MANY]), Then::Wait, "broker_closed"),
        case(
            "records longer than the request",
            &flexible_produce(&[&[2, 2, b't', 2, 0, 0, 0, 0], &MANY]),
            Then::Wait,
            "broker_closed",
        ),
        case("a number of topics that never ends", &flexible_produce(&[&[0xff; 20]]), Then::Wait, "broker_closed"),
        case("a topic's length that never ends", &flexible_produce(&[&[2], &[0xff; 20]]), Then::Wait, "broker_closed"),
        case(
            "a records' length that never ends",
            &flexible_produce(&[&[2, 2, b't', 2, 0, 0, 0, 0], &[0xff; 20]]),
            Then::Wait,
            "broker_closed",
        ),
        case("header tags without end", &flexible_header(&MANY), Then::Wait, "broker_closed"),
        case(
            "a header tag longer than the request",
            &flexible_header(&[&[1, 9][..], &MANY].concat()),
            Then::Wait,
            "broker_closed",
        ),
        case(
            "thousands of header tags, and no end",
            &flexible_header(&[MANY.to_vec(), [1, 0].repeat(5_000)].concat()),
            Then::Wait,
            "broker_closed",
        ),
        case(
            "a client id of i16::MAX",
            &framed(12, &[0, 0, 0, 7, 0, 0, 0, 1, 0x7f, 0xff, b'x', 0]),
            Then::Wait,
            "broker_closed",
        ),
        case(
            "a client id of i16::MIN",
            &framed(12, &[0, 0, 0, 7, 0, 0, 0, 1, 0x80, 0, b'x', 0]),
            Then::Wait,
            "broker_closed",
        ),
        case(
            "a Fetch with topics without end",
            &framed(
                42,
                &[&[0, 1, 0, 11, 0, 0, 0, 1, 0xff, 0xff], &[0; 25][..], &[0x7f, 0xff, 0xff, 0xff], &[0; 3]].concat(),
            ),
            Then::Wait,
            "broker_closed",
        ),
        case("an unknown API", &framed(10, &[0x7f, 0xff, 0, 0, 0, 0, 0, 1, 0xff, 0xff]), Then::Wait, "broker_closed"),
        // Not wrong yet: a broker waits, and so does the proxy, until the client goes.
        case("half a length", &[0, 0], Then::Close, "client_closed"),
        case("half a header", &framed(40, &metadata[..6]), Then::Close, "client_closed"),
        case("half a frame", &framed(40, &metadata), Then::Close, "client_closed"),
        case("nothing at all", &[], Then::Close, "client_closed"),
    ]
}

/// The largest number that a varint of 32 bits holds.
const MANY: [u8; 5] = [0xff, 0xff, 0xff, 0xff, 0x0f];

/// Produce v9 up to its topics, and then these.
fn flexible_produce(rest: &[&[u8]]) -> Vec<u8> {
    // No header tags, no transactional id, acks=all, timeout.
    flexible_header(&[&[0, 0, 0xff, 0xff, 0, 0, 0x10, 0][..], &rest.concat()].concat())
}

/// The header of a Produce v9 without a client id, up to its tags, and then these.
fn flexible_header(rest: &[u8]) -> Vec<u8> {
    let frame = [&[0, 0, 0, 9, 0, 0, 0, 1, 0xff, 0xff][..], rest].concat();
    [&(frame.len() as i32).to_be_bytes()[..], &frame].concat()
}

/// Produce v7, acks=all, so many topics claimed, and some bytes behind.
fn produce_of_topics(count: i32) -> Vec<u8> {
    let mut body = BytesMut::new();
    body.put_slice(&[0, 0, 0, 7, 0, 0, 0, 1, 0xff, 0xff]);
    // No transactional id, acks, timeout.
    body.put_slice(&[0xff, 0xff, 0xff, 0xff, 0, 0, 0x10, 0]);
    body.put_i32(count);
    body.put_slice(&[0, 1, b't', 0, 0, 0, 1]);
    let mut frame = BytesMut::new();
    frame.put_i32(i32::try_from(body.len()).unwrap_or(i32::MAX));
    frame.put_slice(&body);
    frame.to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_kafka_is_closed_counted_and_logged_and_nobody_else_notices() -> Result<()> {
    let eu = Cluster::builder().name("eu").start().await?;
    eu.create_topic("orders", 1, 1, &[]).await?;
    let mut config = ProxyConfig::new("eu", &eu.bootstrap()).allow("a client speaks TLS, and this port does not");
    config.extra_proxy = format!("frame_limit = \"{} MiB\"", FRAME_LIMIT_BYTES >> 20);
    config.log = "info,diffluent::session=debug".to_owned();
    let proxy = Proxy::start(DIFFLUENT, config).await?;

    // One good client was there before, and stays.
    let mut bystander = Call::connect(&proxy.bootstrap()).await?;
    good_call(&mut bystander).await?;
    let broker_port = broker_port(&mut bystander).await?;
    let rss_before = proxy.rss_bytes()?;
    // Stay to the end, so that their own going is not counted among the cases.
    let mut good_clients = Vec::new();

    for addr in [proxy.bootstrap(), broker_port.clone()] {
        for case in cases() {
            send(&proxy, &addr, &case).await.with_context(|| format!("{} at {addr}", case.name))?;
            good_call(&mut bystander).await.with_context(|| format!("the others after {}", case.name))?;
            let mut fresh = Call::connect(&addr).await?;
            good_call(&mut fresh).await.with_context(|| format!("a new client after {}", case.name))?;
            good_clients.push(fresh);
        }
    }

    // Many at once: open at the same time where a broker would wait, and closed where gigabytes are claimed.
    let mut open = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(&broker_port).await?;
        stream.write_all(&UNFINISHED_BYTES.to_be_bytes()).await?;
        stream.write_all(&[0, 0, 0, 7, 0, 0, 0, 1]).await?;
        open.push(stream);
    }
    for _ in 0..200 {
        let mut stream = TcpStream::connect(&broker_port).await?;
        stream.write_all(&i32::MAX.to_be_bytes()).await?;
        ended(&mut stream).await?;
    }
    good_call(&mut bystander).await?;
    let grown = proxy.rss_bytes()?.saturating_sub(rss_before);
    ensure!(grown <= MEMORY_GROWTH_BYTES_MAX, "resident memory has grown by {grown} bytes");
    drop(open);
    slow_sender(&broker_port, &mut bystander).await?;

    let outcome = Workload { records: 5_000, ..Workload::new(&proxy.bootstrap(), "orders") }.run().await?;
    ensure!(outcome.acked == 5_000, "a stock producer afterwards: {outcome:?}");
    drop((bystander, good_clients));
    proxy.finish().await
}

/// A request that comes byte by byte is answered as any other, and nobody waits for it.
async fn slow_sender(address: &str, bystander: &mut Call) -> Result<()> {
    let mut slow = TcpStream::connect(address).await?;
    slow.set_nodelay(true)?;
    // Metadata v12 without a client id, for all topics.
    let frame = [0, 3, 0, 12, 0, 0, 0, 7, 0xff, 0xff, 0, 0, 0, 0, 0];
    for byte in [&(frame.len() as i32).to_be_bytes()[..], &frame].concat() {
        slow.write_all(&[byte]).await?;
        good_call(bystander).await.context("behind a slow sender")?;
    }
    let answer_bytes = tokio::time::timeout(CLOSED_WITHIN, slow.read_i32()).await.context("no answer")??;
    let mut answer = vec![0; usize::try_from(answer_bytes)?];
    slow.read_exact(&mut answer).await?;
    ensure!(answer.starts_with(&[0, 0, 0, 7]), "another answer: {answer:?}");
    Ok(())
}

/// Sends what the case says, and checks that the connection ends, is counted for the right reason, and logged once.
async fn send(proxy: &Proxy, addr: &str, case: &Case) -> Result<()> {
    let counted = closed(proxy, case.reason).await?;
    let mut stream = TcpStream::connect(addr).await?;
    let me = stream.local_addr()?;
    stream.write_all(&case.bytes).await?;
    if case.then == Then::Close {
        stream.shutdown().await?;
    }
    ended(&mut stream).await?;
    drop(stream);
    let deadline = Instant::now() + CLOSED_WITHIN;
    loop {
        let now = closed(proxy, case.reason).await?;
        let lines = lines_about(proxy, me)?;
        if now > counted && !lines.is_empty() {
            ensure!(now == counted + 1, "{} counted {} times", case.reason, now - counted);
            let [line] = lines.as_slice() else { bail!("logged {} times: {lines:?}", lines.len()) };
            ensure!(line.contains("DEBUG"), "not at DEBUG: {line}");
            ensure!(line.contains(case.reason), "without the reason {}: {line}", case.reason);
            return Ok(());
        }
        if Instant::now() > deadline {
            let metrics = proxy.get("/metrics").await?;
            let counts = metrics.lines().filter(|line| line.contains("client_closed")).collect::<Vec<_>>().join("\n");
            bail!("counted {counted}, then {now}; logged {lines:?}\n{counts}\n{}", proxy.log_text()?);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Reads to the connection's end, in whatever way it ends.
async fn ended(stream: &mut TcpStream) -> Result<()> {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(CLOSED_WITHIN, stream.read_to_end(&mut answer)).await;
    // A reset is an end as well: there may be bytes left that nobody wanted to read.
    let _ = read.context("the connection is still open")?;
    ensure!(answer.is_empty(), "it was answered: {answer:?}");
    Ok(())
}

/// Connections closed for a reason; none before the first.
async fn closed(proxy: &Proxy, reason: &str) -> Result<u64> {
    proxy.get("/metrics").await?;
    let label = format!("reason=\"{reason}\"");
    Ok(proxy.metric_with("diffluent_client_closed_total", &[&label]).await.map_or(0, |count| count as u64))
}

fn lines_about(proxy: &Proxy, client: SocketAddr) -> Result<Vec<String>> {
    let peer = format!("peer={client}");
    let is_about = |line: &&str| line.split_whitespace().any(|word| word == peer);
    Ok(proxy.log_text()?.lines().filter(is_about).map(str::to_owned).collect())
}

async fn good_call(call: &mut Call) -> Result<()> {
    let answer = call.call(&MetadataRequest::default().with_topics(None), 12).await?;
    ensure!(!answer.brokers.is_empty(), "{answer:?}");
    Ok(())
}

async fn broker_port(call: &mut Call) -> Result<String> {
    let answer = call.call(&MetadataRequest::default().with_topics(None), 12).await?;
    let broker = answer.brokers.first().context("no broker")?;
    Ok(format!("{}:{}", broker.host, broker.port))
}
