//! The one web request that diffluent makes: for a token.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, header};
use bytes::Bytes;
use hyper_util::rt::TokioIo;

use crate::config::HttpUrl;
use crate::net::tls::{ClientTls, Files, TlsError};
use crate::net::{Connect, Dialer, Halves};

/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 256 << 10;

/// Who is asked, and how it is connected to.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its URL.
    pub url: HttpUrl,
    /// The authorities that its certificate may come from; left out, those that this machine trusts.
    pub ca: Option<PathBuf>,
    /// The table of proxy.toml, for messages.
    pub table: Arc<str>,
    /// How long connecting may take, and then the answer.
    pub deadline: Duration,
}

impl Endpoint {
    /// TCP, or TLS if the URL says so.
    ///
    /// # Errors
    /// When the authorities can't be read.
    pub fn way(&self) -> Result<Dialer, TlsError> {
        if !self.url.secure {
            return Ok(Dialer::plain());
        }
        let (table, ca) = (format!("[{}]", self.table), self.ca.clone());
        let files = Files { table, certificate: None, key: None, ca, ca_key: "token_endpoint_ca" };
        Ok(Dialer::tls(Arc::new(ClientTls::for_token_endpoint(files)?)))
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.url.fmt(f)
    }
}

/// Why there is no answer, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// TLS is not what it should be: nothing was sent.
    Untrusted(String),
    /// It can't be reached, or does not answer in time.
    Silent(String),
}

/// Posts a form; the answer's status and body.
///
/// # Errors
/// When there is no answer in time.
pub async fn post(endpoint: &Endpoint, authorization: &str, form: String) -> Result<(u16, Bytes), Unanswered> {
    use Unanswered::{Silent, Untrusted};

    let HttpUrl { host, port, path, .. } = &endpoint.url;
    // Each time anew: it is seldom, and authorities change.
    let dialer = endpoint.way().map_err(|error| Untrusted(error.to_string()))?;
    let connected = dialer.connect(host, *port, endpoint.deadline).await;
    let Halves { reader, writer } = connected.map_err(|error| match error.kind() {
        // As TLS calls what is wrong with it.
        ErrorKind::InvalidData => Untrusted(error.to_string()),
        _ => Silent(error.to_string()),
    })?;
    let silent = |error: &dyn std::error::Error| Silent(error.to_string());
    let mut authorization = header::HeaderValue::from_str(authorization).map_err(|error| silent(&error))?;
    authorization.set_sensitive(true);
    let host = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(header::HOST, host)
        .header(header::AUTHORIZATION, authorization)
        .header(header::ACCEPT, "application/json")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Body::from(form))
        .map_err(|error| silent(&error))?;
    let exchange = async {
        let io = TokioIo::new(tokio::io::join(reader, writer));
        let connected = hyper::client::conn::http1::handshake(io).await;
        let (mut sender, connection) = connected.map_err(|error| silent(&error))?;
        let answered = async {
            let response = sender.send_request(request).await.map_err(|error| silent(&error))?;
            let status = response.status().as_u16();
            let body = axum::body::to_bytes(Body::new(response.into_body()), ANSWER_BYTES_MAX).await;
            Ok((status, body.map_err(|error| silent(&error))?))
        };
        tokio::pin!(connection, answered);
        tokio::select! {
            biased;
            answer = &mut answered => answer,
            // A connection that has ended may have brought the whole answer.
            _ = &mut connection => answered.await,
        }
    };
    let late = |_| Err(Silent(format!("no answer within {} ms", endpoint.deadline.as_millis())));
    tokio::time::timeout(endpoint.deadline, exchange).await.unwrap_or_else(late)
}
