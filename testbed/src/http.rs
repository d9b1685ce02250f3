//! The smallest HTTP client that reads an admin port.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const DEADLINE: Duration = Duration::from_secs(10);
const BODY_BYTES_MAX: u64 = 64 << 20;

/// `GET path` from `addr` (`host:port`): status and body. HTTP/1.0, so that the end of the connection is the end of the body.
///
/// # Errors
/// When the server can't be reached within 10 seconds or answers something that is not HTTP.
pub async fn get(addr: &str, path: &str) -> Result<(u16, String)> {
    request(addr, "GET", path).await
}

/// As [`get`], with another method and an empty body.
///
/// # Errors
/// As [`get`].
pub async fn request(addr: &str, method: &str, path: &str) -> Result<(u16, String)> {
    tokio::time::timeout(DEADLINE, exchange(addr, method, path))
        .await
        .with_context(|| format!("{method} http://{addr}{path} got no answer in {DEADLINE:?}"))?
        .with_context(|| format!("{method} http://{addr}{path} failed"))
}

async fn exchange(addr: &str, method: &str, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(addr).await?;
    let head = format!("{method} {path} HTTP/1.0\r\nHost: {addr}\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(BODY_BYTES_MAX).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { bail!("not an HTTP answer: {answer:?}") };
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no HTTP status")?;
    Ok((status, body.to_owned()))
}
