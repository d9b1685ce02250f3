//! TLS towards clients.

use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::ahead::ReadAhead;
use super::files::Material;
use super::words::{Peer, Words};
use super::{Files, Keyring, Reread, TlsError, TlsStream, provider};
use crate::net::buffers::BufferPool;

/// Whether clients show certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// They are not asked for any.
    Ignored,
    /// They may; what they show must be good.
    Asked,
    /// They must.
    Required,
}

/// Why there is no TLS connection to a client.
#[derive(Debug, Error)]
#[error("{what}")]
pub struct HandshakeFailure {
    /// A word for metrics.
    pub reason: &'static str,
    /// What is wrong and what to do about it, in an operator's words.
    pub what: String,
    /// Whether this is everyday life, which nobody needs to hear of: the client just went away.
    pub is_expected: bool,
}

/// A client's connection after its handshake.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub stream: TlsStream,
    /// The host name that the client asked for, if it did. Clients that connect to an address don't.
    pub server_name: Option<String>,
}

/// How clients are spoken to in TLS.
#[derive(Debug)]
pub struct ServerTls {
    keyring: Arc<Keyring<ServerConfig>>,
    buffers: Arc<BufferPool>,
    words: Arc<Words>,
}

impl ServerTls {
    /// Reads the files, which name a certificate, its key and, unless clients' certificates are ignored, authorities.
    ///
    /// # Errors
    /// What is wrong, with the file.
    pub fn load(files: Files, clients: ClientCertificates) -> Result<Self, TlsError> {
        let words = Words { table: files.table.clone(), peer: Peer::Client };
        Ok(Self {
            keyring: Arc::new(Keyring::load(files, move |files, material| config(files, material, clients))?),
            buffers: Arc::default(),
            words: Arc::new(words),
        })
    }

    /// What reads the files again.
    pub fn keyring(&self) -> Arc<dyn Reread> {
        self.keyring.clone()
    }

    /// Shakes hands with a client. What takes too long is dropped by the caller.
    ///
    /// # Errors
    /// See [`HandshakeFailure`]; the client has been told by an alert where the protocol has one.
    pub async fn accept(&self, tcp: TcpStream) -> Result<Accepted, HandshakeFailure> {
        let ahead = ReadAhead::new(tcp, self.buffers.clone());
        let accepted = TlsAcceptor::from(self.keyring.current()).accept(ahead).await;
        let stream = accepted.map_err(|error: io::Error| self.words.client(&error))?;
        let server_name = stream.get_ref().1.server_name().map(str::to_owned);
        Ok(Accepted { stream: TlsStream::new(stream.into(), self.words.clone()), server_name })
    }
}

fn config(files: &Files, material: Material, clients: ClientCertificates) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| files.error("", None, error.to_string()))?;
    let builder = match (clients, material.authorities) {
        (ClientCertificates::Ignored, _) => builder.with_no_client_auth(),
        (_, None) => return Err(files.error("", None, format!("{} is missing", files.ca_key))),
        (_, Some(authorities)) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider());
            let verifier = match clients {
                ClientCertificates::Required => verifier,
                _ => verifier.allow_unauthenticated(),
            };
            let failed = |error| files.error(files.ca_key, files.ca.as_deref(), format!("can't be used: {error}"));
            builder.with_client_cert_verifier(verifier.build().map_err(failed)?)
        }
    };
    let Some(key) = material.key else { return Err(files.error("", None, "key is missing")) };
    let mut config = builder.with_single_cert(material.certificates, key).map_err(|error| files.key_error(&error))?;
    if clients == ClientCertificates::Ignored {
        // Clients that all come back at once resume what they had, which costs no signature. Nothing is kept for it here.
        config.ticketer = rustls::crypto::ring::Ticketer::new()
            .map_err(|error| files.error("", None, format!("session tickets can't be made: {error}")))?;
    } else {
        // A resumed session is not verified again: each connection shows that its certificate is good now.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(config)
}
