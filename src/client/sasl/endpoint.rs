//! The one web request that diffluent makes: for a token.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, header};
use bytes::Bytes;
use hyper_util::rt::TokioIo;

use crate::config::HttpUrl;
use crate::net::{Connect, Halves};

/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 256 << 10;

/// Who is asked, and how it is connected to.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its URL.
    pub url: HttpUrl,
    /// TCP, or TLS if the URL says so; or why there is no way.
    pub connect: Result<Arc<dyn Connect>, String>,
    /// How long connecting may take, and then the answer.
    pub deadline: Duration,
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.url.fmt(f)
    }
}

/// Posts a form; the answer's status and body.
///
/// # Errors
/// In words, when there is no answer in time.
pub async fn post(endpoint: &Endpoint, authorization: &str, form: String) -> Result<(u16, Bytes), String> {
    let HttpUrl { host, port, path, .. } = &endpoint.url;
    let connect = endpoint.connect.clone()?;
    let Halves { reader, writer } =
        connect.connect(host, *port, endpoint.deadline).await.map_err(|error| error.to_string())?;
    let mut authorization = header::HeaderValue::from_str(authorization).map_err(|error| error.to_string())?;
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
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let io = TokioIo::new(tokio::io::join(reader, writer));
        let connected = hyper::client::conn::http1::handshake(io).await;
        let (mut sender, connection) = connected.map_err(|error| error.to_string())?;
        let answered = async {
            let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
            let status = response.status().as_u16();
            let body = axum::body::to_bytes(Body::new(response.into_body()), ANSWER_BYTES_MAX).await;
            Ok((status, body.map_err(|error| error.to_string())?))
        };
        tokio::pin!(connection, answered);
        tokio::select! {
            biased;
            answer = &mut answered => answer,
            // A connection that has ended may have brought the whole answer.
            _ = &mut connection => answered.await,
        }
    };
    let silent = |_| Err(format!("no answer within {} ms", endpoint.deadline.as_millis()));
    tokio::time::timeout(endpoint.deadline, exchange).await.unwrap_or_else(silent)
}
