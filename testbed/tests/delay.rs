//! The delay line delays, carries, and breaks as told.

use std::time::{Duration, Instant};

use anyhow::Result;
use diffluent_testbed::{DelayLine, DelaySpec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Echoes every connection; returns its address.
async fn echo() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?.to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    Ok(addr)
}

async fn round_trip(stream: &mut TcpStream) -> Result<Duration> {
    let begin = Instant::now();
    stream.write_all(b"ping").await?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await?;
    assert_eq!(&answer, b"ping");
    Ok(begin.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_trip_takes_as_long_as_asked_for() -> Result<()> {
    let line = DelayLine::new(DelaySpec::rtt_ms(100))?;
    let relay = line.relay(0, &echo().await?).await?;
    let mut stream = TcpStream::connect(relay.addr()).await?;
    let first = round_trip(&mut stream).await?;
    assert!(first >= Duration::from_millis(200), "connecting costs a round trip too, but it took {first:?}");
    let mut all = Vec::new();
    for _ in 0..10 {
        all.push(round_trip(&mut stream).await?);
    }
    all.sort();
    println!("round trips: {all:?}");
    assert!(all[0] >= Duration::from_millis(100) && all[5] < Duration::from_millis(110), "{all:?}");
    line.set_rtt(Duration::ZERO);
    let quick = round_trip(&mut stream).await?;
    assert!(quick < Duration::from_millis(50), "{quick:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_delay_does_not_limit_the_throughput() -> Result<()> {
    const BYTES: usize = 400 << 20;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let line = DelayLine::new(DelaySpec::rtt_ms(100))?;
    let relay = line.relay(0, &listener.local_addr()?.to_string()).await?;
    let sink = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        let mut buffer = vec![0; 1 << 20];
        let mut received = 0;
        loop {
            match stream.read(&mut buffer).await? {
                0 => return Ok::<_, std::io::Error>(received),
                read => received += read,
            }
        }
    });
    let mut stream = TcpStream::connect(relay.addr()).await?;
    let begin = Instant::now();
    let chunk = vec![7; 1 << 20];
    for _ in 0..BYTES >> 20 {
        stream.write_all(&chunk).await?;
    }
    stream.shutdown().await?;
    assert_eq!(sink.await??, BYTES);
    println!("{:.0} MB/s at 100 ms", BYTES as f64 / 1e6 / begin.elapsed().as_secs_f64());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_line_refuses_and_a_restored_one_carries_again() -> Result<()> {
    let line = DelayLine::new(DelaySpec::rtt_ms(2))?;
    let relay = line.relay(0, &echo().await?).await?;
    let mut stream = TcpStream::connect(relay.addr()).await?;
    round_trip(&mut stream).await?;
    line.cut().await;
    assert_eq!(stream.read(&mut [0; 1]).await?, 0, "closed");
    assert!(TcpStream::connect(relay.addr()).await.is_err(), "refused");
    line.restore().await;
    round_trip(&mut TcpStream::connect(relay.addr()).await?).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_line_swallows_and_a_reset_is_seen_as_a_reset() -> Result<()> {
    let line = DelayLine::new(DelaySpec::default())?;
    let relay = line.relay(0, &echo().await?).await?;
    let mut stream = TcpStream::connect(relay.addr()).await?;
    round_trip(&mut stream).await?;
    line.half_open();
    let swallowed = tokio::time::timeout(Duration::from_millis(300), round_trip(&mut stream)).await;
    assert!(swallowed.is_err(), "nothing comes back and nothing fails");
    line.restore().await;
    let error = stream.read(&mut [0; 1]).await.expect_err("what was swallowed is lost, so the connection is too");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let mut stream = TcpStream::connect(relay.addr()).await?;
    round_trip(&mut stream).await?;
    line.reset();
    let error = stream.read(&mut [0; 1]).await.expect_err("reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    line.freeze();
    let mut stream = TcpStream::connect(relay.addr()).await?;
    let frozen = tokio::time::timeout(Duration::from_millis(100), round_trip(&mut stream)).await;
    assert!(frozen.is_err());
    line.restore().await;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bandwidth_limit_holds() -> Result<()> {
    let line = DelayLine::new(DelaySpec { rtt: Duration::from_millis(10), bandwidth: Some(4_000_000) })?;
    let relay = line.relay(0, &echo().await?).await?;
    let (mut read, mut write) = TcpStream::connect(relay.addr()).await?.into_split();
    let begin = Instant::now();
    let sender = tokio::spawn(async move { write.write_all(&vec![1; 2_000_000]).await.map(|()| write) });
    let mut received = vec![0; 2_000_000];
    read.read_exact(&mut received).await?;
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(450) && took < Duration::from_millis(1500), "{took:?}");
    drop(sender.await??);
    Ok(())
}
