//! Who gives tokens (OAUTHBEARER): a web server, as far as the client credentials grant goes (RFC 6749 section 4.4), with and without TLS.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use data_encoding::BASE64;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::certificates::Identity;
use crate::kafka::sasl::unsecured_token;

/// The path and query that it answers.
pub const PATH: &str = "/token?tenant=a";
/// The scope that has to be asked for.
pub const SCOPE: &str = "kafka write";

/// A running endpoint, until it is dropped.
#[derive(Debug)]
pub struct TokenEndpoint {
    address: String,
    scheme: &'static str,
    server: JoinHandle<()>,
}

/// Who may ask, and what is given.
#[derive(Debug)]
struct Terms {
    client: String,
    secret: String,
    lifetime: Duration,
}

impl TokenEndpoint {
    /// Gives tokens that last so long to `client`, who knows `secret`; over TLS, if it has something to show.
    ///
    /// # Errors
    /// When there is no port, or `shows` is odd.
    pub async fn start(client: &str, secret: &str, lifetime: Duration, shows: Option<&Identity>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("no port for the token endpoint")?;
        let address = listener.local_addr()?.to_string();
        let terms = Arc::new(Terms { client: client.to_owned(), secret: secret.to_owned(), lifetime });
        let acceptor = shows.map(acceptor).transpose()?;
        let scheme = if acceptor.is_some() { "https" } else { "http" };
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (terms, acceptor) = (terms.clone(), acceptor.clone());
                tokio::spawn(async move {
                    match acceptor {
                        None => serve(stream, &terms).await,
                        // Who breaks the handshake off has got nothing.
                        Some(acceptor) => match acceptor.accept(stream).await {
                            Ok(stream) => serve(stream, &terms).await,
                            Err(_) => Ok(()),
                        },
                    }
                });
            }
        });
        Ok(Self { address, scheme, server })
    }

    /// Its URL.
    pub fn url(&self) -> String {
        self.url_at(&self.address)
    }

    /// Its URL under another name of this machine.
    pub fn url_as(&self, host: &str) -> String {
        let port = self.address.rsplit_once(':').map_or("", |(_, port)| port);
        self.url_at(&format!("{host}:{port}"))
    }

    fn url_at(&self, address: &str) -> String {
        format!("{}://{address}{PATH}", self.scheme)
    }
}

impl Drop for TokenEndpoint {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn acceptor(identity: &Identity) -> Result<TlsAcceptor> {
    let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).context("an odd certificate")?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).context("an odd key")?;
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The first byte of a TLS connection.
const TLS_HANDSHAKE: u8 = 22;

/// One request, one answer.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, terms: &Terms) -> Result<()> {
    let end = format!("scope={}", SCOPE.replace(' ', "%20"));
    let mut request = Vec::new();
    let mut chunk = [0; 4096];
    // What begins like TLS is answered at once, as HTTP servers do.
    while !request.ends_with(end.as_bytes()) && request.first() != Some(&TLS_HANDSHAKE) {
        match stream.read(&mut chunk).await {
            Ok(read) if read > 0 => request.extend_from_slice(chunk.get(..read).unwrap_or_default()),
            _ => break,
        }
    }
    let (status, body) = terms.answer(&String::from_utf8_lossy(&request));
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).await?;
    stream.shutdown().await?;
    Ok(())
}

impl Terms {
    fn answer(&self, request: &str) -> (&'static str, String) {
        let user = BASE64.encode(format!("{}:{}", self.client, self.secret).as_bytes());
        let head = request.to_lowercase();
        if !request.starts_with(&format!("POST {PATH} HTTP/1.1\r\n"))
            || !head.contains("content-type: application/x-www-form-urlencoded\r\n")
            || !request.ends_with(&format!("grant_type=client_credentials&scope={}", SCOPE.replace(' ', "%20")))
        {
            return ("400 Bad Request", r#"{"error":"invalid_request"}"#.to_owned());
        }
        if !request.contains(&format!("Basic {user}\r\n")) {
            let body = r#"{"error":"invalid_client","error_description":"no such client"}"#;
            return ("401 Unauthorized", body.to_owned());
        }
        let seconds = i64::try_from(self.lifetime.as_secs()).unwrap_or(i64::MAX);
        let token = unsecured_token(&self.client, seconds);
        ("200 OK", format!(r#"{{"access_token":"{token}","token_type":"Bearer","expires_in":{seconds}}}"#))
    }
}
