//! Certificates for tests: an authority, and what it gives to servers and clients, good ones and bad ones. Made anew each time; nothing of it is trusted anywhere else.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Who gives certificates.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate with its private key, both as PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// The private key, PKCS #8.
    pub key: String,
}

/// Where an identity lies.
#[derive(Clone, Debug)]
pub struct IdentityFiles {
    /// The file of the certificate.
    pub certificate: PathBuf,
    /// The file of the private key.
    pub key: PathBuf,
}

impl Authority {
    /// A new authority.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn new(name: &str) -> Result<Self> {
        let key = KeyPair::generate().context("cannot make a key")?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).context("cannot make an authority")?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// Its own certificate, which others trust.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for a server with these names and addresses, valid for many years.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn server(&self, names: &[&str]) -> Result<Identity> {
        self.identity("server", names, ExtendedKeyUsagePurpose::ServerAuth, |_| ())
    }

    /// As [`Authority::server`], expired since the end of 2020.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn expired_server(&self, names: &[&str]) -> Result<Identity> {
        self.identity("server", names, ExtendedKeyUsagePurpose::ServerAuth, expired)
    }

    /// As [`Authority::server`], valid for so many days from now on.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn server_for_days(&self, names: &[&str], days: u16) -> Result<Identity> {
        self.identity("server", names, ExtendedKeyUsagePurpose::ServerAuth, |params| {
            params.not_after = std::time::SystemTime::now().into();
            params.not_after += std::time::Duration::from_secs(u64::from(days) * 24 * 3600);
        })
    }

    /// A certificate for a client of this name.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn client(&self, name: &str) -> Result<Identity> {
        self.identity(name, &[], ExtendedKeyUsagePurpose::ClientAuth, |_| ())
    }

    /// As [`Authority::client`], expired since the end of 2020.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn expired_client(&self, name: &str) -> Result<Identity> {
        self.identity(name, &[], ExtendedKeyUsagePurpose::ClientAuth, expired)
    }

    fn identity(
        &self,
        name: &str,
        names: &[&str],
        purpose: ExtendedKeyUsagePurpose,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Result<Identity> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let key = KeyPair::generate().context("cannot make a key")?;
        let mut params = CertificateParams::new(names).context("names that can't be in a certificate")?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![purpose];
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).context("cannot make a certificate")?.pem();
        Ok(Identity { certificate, key: key.serialize_pem() })
    }
}

fn expired(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(2019, 1, 1);
    params.not_after = date_time_ymd(2020, 12, 31);
}

impl Identity {
    /// Writes it to `NAME.crt` and `NAME.key`, each in one step, as tools that renew certificates do.
    ///
    /// # Errors
    /// When a file can't be written.
    pub fn write(&self, dir: &Path, name: &str) -> Result<IdentityFiles> {
        let file = |ending: &str, text: &str| write(dir, &format!("{name}.{ending}"), text);
        Ok(IdentityFiles { certificate: file("crt", &self.certificate)?, key: file("key", &self.key)? })
    }

    /// Both in one text, as Java's tools take it for a key store.
    pub fn key_store(&self) -> String {
        format!("{}{}", self.key, self.certificate)
    }
}

/// Writes a file in one step.
///
/// # Errors
/// When it can't be written.
pub fn write(dir: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let (file, temporary) = (dir.join(name), dir.join(format!(".{name}.new")));
    std::fs::write(&temporary, text).with_context(|| format!("cannot write {}", temporary.display()))?;
    std::fs::rename(&temporary, &file).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// 1.2.
    V1_2,
    /// 1.3.
    V1_3,
}

impl TlsVersion {
    /// As Java writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            TlsVersion::V1_2 => "TLSv1.2",
            TlsVersion::V1_3 => "TLSv1.3",
        }
    }

    fn rustls(self) -> &'static rustls::SupportedProtocolVersion {
        match self {
            TlsVersion::V1_2 => &rustls::version::TLS12,
            TlsVersion::V1_3 => &rustls::version::TLS13,
        }
    }
}

fn roots(authorities: &str) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
        roots.add(authority.context("an authority that is no PEM")?).context("an odd authority")?;
    }
    Ok(roots)
}

/// A client's side of TLS, for raw calls.
#[derive(Clone, Debug)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
}

impl TlsClient {
    /// A client that trusts these authorities (PEM) and shows a certificate, if it has one.
    ///
    /// # Errors
    /// When one of these can't be used.
    pub fn new(authorities: &str, shows: Option<&Identity>) -> Result<Self> {
        let roots = roots(authorities)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("no protocol versions")?
            .with_root_certificates(roots);
        let config = match shows {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes());
                let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).context("a key that is no PEM")?;
                let chain = vec![certificate.context("a certificate that is no PEM")?];
                builder.with_client_auth_cert(chain, key).context("an odd certificate")?
            }
        };
        Ok(Self { config: Arc::new(config) })
    }

    /// As [`TlsClient::new`] without a certificate, in this version of TLS alone.
    ///
    /// # Errors
    /// When the authorities can't be used.
    pub fn of_version(authorities: &str, version: TlsVersion) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version.rustls()])?;
        Ok(Self { config: Arc::new(builder.with_root_certificates(roots(authorities)?).with_no_client_auth()) })
    }

    /// Shakes hands with the server at `addr`, asking for `name`; the version that both have agreed upon, as Java writes it.
    ///
    /// # Errors
    /// When the handshake fails.
    pub async fn negotiated(&self, name: &str, addr: &str) -> Result<&'static str> {
        let stream = self.connect(name, TcpStream::connect(addr).await?).await?;
        match stream.get_ref().1.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_2) => Ok(TlsVersion::V1_2.as_str()),
            Some(rustls::ProtocolVersion::TLSv1_3) => Ok(TlsVersion::V1_3.as_str()),
            other => bail!("{addr} speaks {other:?}"),
        }
    }

    /// Shakes hands, asking for the server `name`.
    ///
    /// # Errors
    /// When the handshake fails.
    pub async fn connect(&self, name: &str, tcp: TcpStream) -> Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(name.to_owned()).context("no name of a server")?;
        Ok(TlsConnector::from(self.config.clone()).connect(name, tcp).await?)
    }
}
