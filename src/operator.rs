//! An operator's questions and commands, put to a running proxy through its admin port.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Method, Request, StatusCode, header};
use bytes::Bytes;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::admin::who::USER_HEADER;
use crate::config::{HostPort, Secret};

/// How long the running proxy may take to answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// The longest answer that is read: some hundred regions in a few numbers each.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// A running proxy's admin port, and what it asks for.
#[derive(Clone, Debug)]
pub struct AdminPort {
    /// Where it is.
    pub address: HostPort,
    /// The token that it may want.
    pub token: Option<Secret>,
}

impl std::fmt::Display for AdminPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.address.fmt(f)
    }
}

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// No proxy answers on its admin port.
    #[error(
        "{address} does not answer: {reason}; is this proxy running, and is [admin] listen the one it was started with?"
    )]
    Silent {
        /// The configured address.
        address: HostPort,
        /// What happened.
        reason: String,
    },
    /// The proxy says no.
    #[error("{0}")]
    Refused(String),
}

/// Asks the proxy whose admin port is `admin` to step over the batch at source offset `offset`, which stalls a stream. Gives what was done, in words.
///
/// # Errors
/// [`OperatorError`]: nothing was stepped over then, unless the answer was lost on its way.
pub async fn skip(
    admin: &AdminPort,
    region: &str,
    topic: &str,
    partition: i32,
    offset: i64,
) -> Result<String, OperatorError> {
    // Topics have no character that must be escaped in a path; a region's name that had one is unknown.
    let path = format!("/regions/{region}/topics/{topic}/partitions/{partition}/skip?offset={offset}");
    let answer = post(admin, &path).await?;
    let next_offset = &answer["next_offset"];
    let records = &answer["skipped_records"];
    Ok(format!(
        "stepped over {records} records of topic {topic}, partition {partition}, offsets {offset} to {next_offset} (exclusive): \
         region {region} never gets them; the stream goes on behind them"
    ))
}

/// Asks the proxy whose admin port is `admin`: `path` with its query. Gives the answer's document.
///
/// # Errors
/// [`OperatorError`].
pub async fn get(admin: &AdminPort, path: &str) -> Result<Value, OperatorError> {
    call(admin, Method::GET, path).await
}

/// Tells it to do something. Gives the answer's document.
///
/// # Errors
/// [`OperatorError`]: nothing was done then, unless the answer was lost on its way.
pub async fn post(admin: &AdminPort, path: &str) -> Result<Value, OperatorError> {
    call(admin, Method::POST, path).await
}

async fn call(admin: &AdminPort, method: Method, path: &str) -> Result<Value, OperatorError> {
    let silent = |reason: String| OperatorError::Silent { address: admin.address.clone(), reason };
    let bearer = bearer(admin).map_err(OperatorError::Refused)?;
    let (status, body) = match tokio::time::timeout(DEADLINE, exchange(&admin.address, bearer, method, path)).await {
        Ok(answered) => answered.map_err(silent)?,
        Err(_) => return Err(silent(format!("no answer within {} s", DEADLINE.as_secs()))),
    };
    let answer: Value = serde_json::from_slice(&body).map_err(|error| silent(error.to_string()))?;
    if status.is_success() {
        return Ok(answer);
    }
    let message = answer["message"].as_str().map_or_else(|| format!("the admin port answers {status}"), str::to_string);
    Err(OperatorError::Refused(message))
}

/// Who gives the command, for the journal of the proxy; only what can stand in a header.
fn user() -> Option<String> {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).ok()?;
    let plain = !user.is_empty() && user.chars().all(|c| c.is_ascii_graphic());
    plain.then_some(user)
}

/// `text` as it stands in a query or in a path.
pub fn escaped(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// What proves that the command may be given.
fn bearer(admin: &AdminPort) -> Result<Option<HeaderValue>, String> {
    let Some(token) = &admin.token else { return Ok(None) };
    let token = token.read().map_err(|error| format!("the token for the admin port can't be had: {error}"))?;
    let bearer = HeaderValue::from_str(&format!("Bearer {token}"));
    let mut bearer = bearer.map_err(|_| "the token for the admin port has characters that can't be sent".to_owned())?;
    bearer.set_sensitive(true);
    Ok(Some(bearer))
}

async fn exchange(
    address: &HostPort,
    bearer: Option<HeaderValue>,
    method: Method,
    path: &str,
) -> Result<(StatusCode, Bytes), String> {
    let stream = TcpStream::connect(address.to_string()).await.map_err(|error| error.to_string())?;
    let connected = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = connected.map_err(|error| error.to_string())?;
    let driver = tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header(header::HOST, address.to_string());
    let request = match user() {
        Some(user) => request.header(USER_HEADER, user),
        None => request,
    };
    let request = match bearer {
        Some(bearer) => request.header(header::AUTHORIZATION, bearer),
        None => request,
    };
    let request = request.body(Body::empty()).map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let status = response.status();
    let body = axum::body::to_bytes(Body::new(response.into_body()), ANSWER_BYTES_MAX).await;
    driver.abort();
    Ok((status, body.map_err(|error| error.to_string())?))
}
