//! TLS towards brokers, and towards the endpoint that gives tokens.

use std::io;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::ahead::ReadAhead;
use super::files::Material;
use super::words::{Peer, Words};
use super::{Files, Keyring, Reread, TlsError, TlsStream, provider};
use crate::net::buffers::BufferPool;

/// How the brokers of one cluster are spoken to in TLS.
#[derive(Debug)]
pub struct ClientTls {
    keyring: Arc<Keyring<ClientConfig>>,
    server_name: Option<ServerName<'static>>,
    buffers: Arc<BufferPool>,
    words: Arc<Words>,
}

impl ClientTls {
    /// Reads the files. `server_name`: what every broker's certificate must be for, instead of its host.
    ///
    /// # Errors
    /// What is wrong, with the file.
    pub fn load(files: Files, server_name: Option<&str>) -> Result<Self, TlsError> {
        let peer = Peer::Broker { certificate: files.certificate.is_some(), ca: files.ca.is_some() };
        Self::with(files, server_name, peer)
    }

    /// As [`ClientTls::load`], towards the endpoint that gives tokens: what goes wrong has other words.
    ///
    /// # Errors
    /// What is wrong, with the file.
    pub fn for_token_endpoint(files: Files) -> Result<Self, TlsError> {
        let peer = Peer::TokenEndpoint { ca: files.ca.is_some() };
        Self::with(files, None, peer)
    }

    fn with(files: Files, server_name: Option<&str>, peer: Peer) -> Result<Self, TlsError> {
        let server_name = match server_name {
            None => None,
            Some(name) => Some(ServerName::try_from(name.to_owned()).map_err(|error| {
                files.error("server_name", None, format!("server_name = {name:?} can't be in a certificate: {error}"))
            })?),
        };
        let words = Words { table: files.table.clone(), peer };
        Ok(Self {
            keyring: Arc::new(Keyring::load(files, config)?),
            server_name,
            buffers: Arc::default(),
            words: Arc::new(words),
        })
    }

    /// What reads the files again.
    pub fn keyring(&self) -> Arc<dyn Reread> {
        self.keyring.clone()
    }

    /// Shakes hands with a broker at `host`. What takes too long is dropped by the caller.
    ///
    /// # Errors
    /// In an operator's words.
    pub(in crate::net) async fn connect(&self, host: &str, tcp: TcpStream) -> io::Result<TlsStream> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned()).map_err(|_| {
                let what = format!("a certificate can't be for {host:?}: set server_name in {}", self.words.table);
                io::Error::new(io::ErrorKind::InvalidInput, what)
            })?,
        };
        let ahead = ReadAhead::new(tcp, self.buffers.clone());
        let connected = TlsConnector::from(self.keyring.current()).connect(name, ahead).await;
        let stream = connected.map_err(|error| self.words.handshake(error))?;
        Ok(TlsStream::new(stream.into(), self.words.clone()))
    }
}

fn config(files: &Files, material: Material) -> Result<ClientConfig, TlsError> {
    let roots = match material.authorities {
        Some(roots) => roots,
        None => platform(files)?,
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| files.error("", None, error.to_string()))?
        .with_root_certificates(roots);
    match material.key {
        None => Ok(builder.with_no_client_auth()),
        Some(key) => builder.with_client_auth_cert(material.certificates, key).map_err(|error| files.key_error(&error)),
    }
}

/// The authorities that this machine trusts.
fn platform(files: &Files) -> Result<RootCertStore, TlsError> {
    let loaded = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Some are too old to be read; the others count.
    let (trusted, _) = roots.add_parsable_certificates(loaded.certs);
    if trusted == 0 {
        let why = loaded.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        let what = format!("this machine trusts no authority{why}: install ca-certificates, or set {}", files.ca_key);
        return Err(files.error("", None, what));
    }
    Ok(roots)
}
