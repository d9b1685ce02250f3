//! What an operator is told about TLS that failed: what is wrong, and what to do about it.

use std::io::{self, ErrorKind};

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error, InconsistentKeys};

use super::certificate::date;
use super::server::HandshakeFailure;
use super::{Files, TlsError};

/// Who is on the other side.
#[derive(Clone, Copy, Debug)]
pub(super) enum Peer {
    /// A client of ours.
    Client,
    /// A broker. `certificate`: we have one to show; `ca`: its authorities are configured.
    Broker { certificate: bool, ca: bool },
    /// Who gives tokens (OAUTHBEARER). `ca`: its authorities are configured.
    TokenEndpoint { ca: bool },
}

/// What is known where an error occurs.
#[derive(Debug)]
pub(super) struct Words {
    pub table: String,
    pub peer: Peer,
}

/// The TLS error inside of an I/O error.
fn tls(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

impl Words {
    /// Why a handshake with a broker failed, or with the token endpoint.
    pub fn handshake(&self, error: io::Error) -> io::Error {
        let table = &self.table;
        let lost = matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset);
        let what = match tls(&error) {
            Some(error) if self.is_of_tokens() => self.token_endpoint(error),
            None if self.is_of_tokens() && lost => {
                "it closed the connection in the TLS handshake: does it speak https at this port?".to_owned()
            }
            Some(Error::InvalidMessage(_)) => format!(
                "what it answered is no TLS: is this its PLAINTEXT listener? Name the TLS listener, or leave out {table}"
            ),
            Some(error) => self.broker(error),
            None if lost => format!(
                "it closed the connection in the TLS handshake: is this its PLAINTEXT listener? Name the TLS listener, or leave out {table}"
            ),
            None => return error,
        };
        io::Error::new(error.kind(), what)
    }

    /// Why a connection broke after its handshake. A broker that refuses our certificate says so only then.
    pub fn broken(&self, error: io::Error) -> io::Error {
        match (tls(&error), self.peer) {
            (None, _) => error,
            (Some(tls), Peer::Broker { .. }) => io::Error::new(error.kind(), self.broker(tls)),
            (Some(tls), Peer::TokenEndpoint { .. }) => io::Error::new(error.kind(), self.token_endpoint(tls)),
            (Some(tls), Peer::Client) => io::Error::new(error.kind(), format!("TLS: {tls}")),
        }
    }

    /// What went wrong with a broker.
    fn broker(&self, error: &Error) -> String {
        let table = &self.table;
        match error {
            Error::InvalidCertificate(error) => self.brokers_certificate(error),
            Error::AlertReceived(alert) => self.brokers_alert(*alert),
            Error::PeerIncompatible(error) => format!(
                "it has no TLS version or cipher suite in common with diffluent, which speaks TLS 1.2 and 1.3 ({error:?}): see ssl.enabled.protocols and ssl.cipher.suites of the broker"
            ),
            error => format!("TLS: {error} ({table})"),
        }
    }

    fn is_of_tokens(&self) -> bool {
        matches!(self.peer, Peer::TokenEndpoint { .. })
    }

    /// What went wrong with the token endpoint.
    fn token_endpoint(&self, error: &Error) -> String {
        let table = &self.table;
        match error {
            Error::InvalidCertificate(CertificateError::UnknownIssuer) => match self.peer {
                Peer::TokenEndpoint { ca: true } => format!(
                    "its certificate comes from an authority that is not in the file of token_endpoint_ca in {table}: add it there, if this is the right endpoint"
                ),
                _ => format!(
                    "its certificate comes from an authority that this machine does not trust: set token_endpoint_ca in {table} to that authority's certificate"
                ),
            },
            Error::InvalidCertificate(error) => match (whose(error), validity(error)) {
                (Some((whose, needed)), _) => format!(
                    "its certificate {whose} {needed} is needed: call it in token_endpoint as its certificate does"
                ),
                (None, Some(validity)) => format!("its certificate {validity}"),
                (None, None) => format!("its certificate is not good: {error}"),
            },
            Error::InvalidMessage(_) => "what it answered is no TLS: does it speak https at this port?".to_owned(),
            Error::PeerIncompatible(error) => format!(
                "it has no TLS version or cipher suite in common with diffluent, which speaks TLS 1.2 and 1.3 ({error:?})"
            ),
            Error::AlertReceived(alert) => {
                format!("it broke off TLS (alert {alert:?}): its log says why; diffluent shows no certificate to it")
            }
            error => format!("TLS: {error} ({table})"),
        }
    }

    fn brokers_certificate(&self, error: &CertificateError) -> String {
        let table = &self.table;
        match error {
            CertificateError::UnknownIssuer => match self.peer {
                Peer::Broker { ca: true, .. } => format!(
                    "its certificate comes from an authority that is not in the file of ca in {table}: add it there, if this is the right cluster"
                ),
                _ => format!(
                    "its certificate comes from an authority that this machine does not trust: set ca in {table} to that authority's certificate"
                ),
            },
            error => match (whose(error), validity(error)) {
                (Some((whose, needed)), _) => format!(
                    "its certificate {whose} {needed} is needed: name brokers as their certificates do (bootstrap_servers, and advertised.listeners of the brokers), or set server_name in {table}"
                ),
                (None, Some(validity)) => format!("its certificate {validity}"),
                (None, None) => format!("its certificate is not good: {error}"),
            },
        }
    }

    fn brokers_alert(&self, alert: AlertDescription) -> String {
        use AlertDescription as Alert;

        let table = &self.table;
        let shown = matches!(self.peer, Peer::Broker { certificate: true, .. });
        let alert = match alert {
            Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::CertificateRequired
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::DecryptError => {
                return if shown {
                    format!(
                        "it refuses the certificate of {table} (alert {alert:?}): has that expired, or is its authority not, or no longer, in the broker's truststore?"
                    )
                } else {
                    format!("it wants a certificate (alert {alert:?}): set certificate and key in {table}")
                };
            }
            Alert::HandshakeFailure if !shown => {
                return format!(
                    "it broke off the TLS handshake (alert HandshakeFailure): it may want a certificate (certificate and key in {table}), or has no protocol version or cipher suite in common"
                );
            }
            other => other,
        };
        format!("it broke off TLS (alert {alert:?}); its log says why")
    }

    /// Why a handshake with a client failed.
    pub fn client(&self, error: &io::Error) -> HandshakeFailure {
        let table = &self.table;
        let failure = |reason, what| HandshakeFailure { reason, what, is_expected: false };
        match tls(error) {
            None => HandshakeFailure {
                reason: "client_lost",
                what: format!("the client left in the TLS handshake: {error}"),
                is_expected: true,
            },
            Some(Error::InvalidMessage(_)) => failure(
                "not_tls",
                "it does not speak TLS, and this port does: set security.protocol=SSL (or SASL_SSL) in the client"
                    .into(),
            ),
            Some(Error::NoCertificatesPresented) => failure(
                "client_certificate",
                format!(
                    "it shows no certificate, and client_auth is \"require\" in {table}: give the client one (ssl.keystore.*)"
                ),
            ),
            Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => failure(
                "client_certificate",
                format!(
                    "its certificate comes from an authority that is not, or no longer, in the file of client_ca in {table}"
                ),
            ),
            Some(Error::InvalidCertificate(error)) => failure(
                "client_certificate",
                match validity(error) {
                    Some(validity) => format!("its certificate {validity}"),
                    None => format!("its certificate is not good: {error}"),
                },
            ),
            Some(Error::AlertReceived(alert)) => failure(
                "tls_failed",
                format!(
                    "it broke off the TLS handshake (alert {alert:?}): does it trust the authority of certificate in {table}, and is the name that it connects to in it?"
                ),
            ),
            Some(Error::PeerIncompatible(error)) => failure(
                "tls_failed",
                format!(
                    "it has no TLS version or cipher suite in common with diffluent, which speaks TLS 1.2 and 1.3 ({error:?})"
                ),
            ),
            Some(error) => failure("tls_failed", format!("TLS: {error}")),
        }
    }
}

/// Whose certificate it is, where it is another's; and the name that was needed.
fn whose(error: &CertificateError) -> Option<(String, String)> {
    let CertificateError::NotValidForNameContext { expected, presented } = error else { return None };
    let presented: Vec<&str> = presented.iter().map(|name| name_of(name)).collect();
    let whose = if presented.is_empty() {
        "has no name in it (subjectAltName), where one for".to_owned()
    } else {
        format!("is for {}, where one for", presented.join(", "))
    };
    Some((whose, expected.to_str().into_owned()))
}

/// What is wrong with the time of a certificate.
fn validity(error: &CertificateError) -> Option<String> {
    let day = |time: &UnixTime| date(i64::try_from(time.as_secs()).unwrap_or(i64::MAX));
    match error {
        CertificateError::ExpiredContext { not_after, .. } => {
            Some(format!("has expired on {}: it must be renewed", day(not_after)))
        }
        CertificateError::Expired => Some("has expired: it must be renewed".to_owned()),
        CertificateError::NotValidYetContext { not_before, .. } => {
            Some(format!("is valid from {} on: is this machine's clock right?", day(not_before)))
        }
        CertificateError::NotValidYet => Some("is not valid yet: is this machine's clock right?".to_owned()),
        _ => None,
    }
}

/// `localhost` of `DnsName("localhost")`.
fn name_of(presented: &str) -> &str {
    presented.split('"').nth(1).unwrap_or(presented)
}

impl Files {
    /// What is wrong with a certificate and its key.
    pub(super) fn key_error(&self, error: &Error) -> TlsError {
        let what = match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => format!(
                "is not the private key of certificate = \"{}\"",
                self.certificate.as_deref().unwrap_or(std::path::Path::new("")).display()
            ),
            error => format!("can't be used: {error}; RSA from 2048 bits on, ECDSA P-256 and P-384 and Ed25519 can"),
        };
        self.error("key", self.key.as_deref(), what)
    }
}
