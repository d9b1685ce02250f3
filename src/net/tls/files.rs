//! Certificates, keys and authorities out of PEM files.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;

use super::Certificate;

/// Why TLS can't be set up with what is configured.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{place}: {what}")]
pub struct TlsError {
    /// The table, and the key with its file.
    pub place: String,
    /// What is wrong and what to do, in an operator's words.
    pub what: String,
}

/// The PEM files of one table of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// What the table is called in messages: `[local.tls]`.
    pub table: String,
    /// The certificate that we show, with those that lead to its authority.
    pub certificate: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
    /// Authorities that the peer's certificate has to come from.
    pub ca: Option<PathBuf>,
    /// How the key of `ca` is called in this table.
    pub ca_key: &'static str,
}

/// What the files held.
#[derive(Debug)]
pub struct Material {
    /// Our certificates, our own first; none where no file is configured.
    pub certificates: Vec<CertificateDer<'static>>,
    /// The private key.
    pub key: Option<PrivateKeyDer<'static>>,
    /// The authorities; `None` where no file is configured.
    pub authorities: Option<RootCertStore>,
    /// Our own certificate in words, with the end of whichever of the certificates ends first.
    pub certificate: Option<Certificate>,
}

/// What the files hold, as bytes.
#[derive(Debug, Hash)]
pub(super) struct Contents {
    certificate: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
    ca: Option<Vec<u8>>,
}

impl Contents {
    /// A number that is another one when the contents are others.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

impl Files {
    /// An error about one of the files, or about the table.
    pub(super) fn error(&self, key: &str, path: Option<&Path>, what: impl Into<String>) -> TlsError {
        let place = match path {
            Some(path) => format!("{} {key} = \"{}\"", self.table, path.display()),
            None => self.table.clone(),
        };
        TlsError { place, what: what.into() }
    }

    pub(super) fn read(&self) -> Result<Contents, TlsError> {
        let read = |key: &'static str, path: &Option<PathBuf>| -> Result<Option<Vec<u8>>, TlsError> {
            let Some(path) = path else { return Ok(None) };
            let failed = |error| self.error(key, Some(path), format!("can't be read: {error}"));
            std::fs::read(path).map(Some).map_err(failed)
        };
        Ok(Contents {
            certificate: read("certificate", &self.certificate)?,
            key: read("key", &self.key)?,
            ca: read(self.ca_key, &self.ca)?,
        })
    }

    pub(super) fn parse(&self, contents: &Contents) -> Result<Material, TlsError> {
        let certificates = match &contents.certificate {
            Some(bytes) => self.certificates("certificate", self.certificate.as_deref(), bytes)?,
            None => Vec::new(),
        };
        let mut certificate: Option<Certificate> = None;
        for one in &certificates {
            let read =
                Certificate::read(one).map_err(|what| self.error("certificate", self.certificate.as_deref(), what))?;
            match &mut certificate {
                None => certificate = Some(read),
                Some(own) => own.not_after_seconds = own.not_after_seconds.min(read.not_after_seconds),
            }
        }
        let key = match &contents.key {
            Some(bytes) => Some(self.private_key(bytes)?),
            None => None,
        };
        let authorities = match &contents.ca {
            Some(bytes) => Some(self.authorities(bytes)?),
            None => None,
        };
        Ok(Material { certificates, key, authorities, certificate })
    }

    fn certificates(
        &self,
        key: &str,
        path: Option<&Path>,
        bytes: &[u8],
    ) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let found: Vec<_> = CertificateDer::pem_slice_iter(bytes)
            .collect::<Result<_, _>>()
            .map_err(|error| self.error(key, path, format!("is no PEM: {error}")))?;
        if found.is_empty() {
            return Err(self.error(key, path, "holds no certificate (-----BEGIN CERTIFICATE-----): is it PEM?"));
        }
        Ok(found)
    }

    fn private_key(&self, bytes: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
        let path = self.key.as_deref();
        PrivateKeyDer::from_pem_slice(bytes).map_err(|error| {
            let encrypted = bytes.windows(b"ENCRYPTED".len()).any(|part| part == b"ENCRYPTED");
            let what = match error {
                _ if encrypted => {
                    "the key is encrypted: decrypt it (openssl pkey -in FILE -out FILE2), and let diffluent's user alone read it"
                        .to_owned()
                }
                rustls::pki_types::pem::Error::NoItemsFound => {
                    "holds no private key (-----BEGIN PRIVATE KEY-----): is it PEM?".to_owned()
                }
                error => format!("is no PEM: {error}"),
            };
            self.error("key", path, what)
        })
    }

    fn authorities(&self, bytes: &[u8]) -> Result<RootCertStore, TlsError> {
        let path = self.ca.as_deref();
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates(self.ca_key, path, bytes)? {
            roots.add(certificate).map_err(|error| {
                self.error(self.ca_key, path, format!("one of its certificates can't be trusted: {error}"))
            })?;
        }
        Ok(roots)
    }
}
