//! What a certificate says about itself.

use std::fmt;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

/// A certificate, in words. Whether it is good is for a handshake to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Who it is for, as a distinguished name.
    pub subject: String,
    /// Who gave it, as a distinguished name.
    pub issuer: String,
    /// The host names and addresses that it is for.
    pub names: Vec<String>,
    /// The last second in which it is valid, since 1970.
    pub not_after_seconds: i64,
    der: CertificateDer<'static>,
}

impl Certificate {
    /// Reads a certificate.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(der: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, read) = x509_parser::certificate::X509Certificate::from_der(der)
            .map_err(|error| format!("a certificate can't be read: {error}"))?;
        let mut names = Vec::new();
        if let Ok(Some(alternatives)) = read.subject_alternative_name() {
            for name in &alternatives.value.general_names {
                match name {
                    GeneralName::DNSName(name) => names.push(printable(name)),
                    GeneralName::IPAddress(bytes) => names.extend(address(bytes).map(|address| address.to_string())),
                    _ => {}
                }
            }
        }
        Ok(Self {
            subject: printable(&read.subject().to_string()),
            issuer: printable(&read.issuer().to_string()),
            names,
            not_after_seconds: read.validity().not_after.timestamp(),
            der: der.clone().into_owned(),
        })
    }

    /// Whether a client that connects to `host` takes this certificate for that host's.
    pub fn is_for(&self, host: &str) -> bool {
        let (Ok(parsed), Ok(name)) = (ParsedCertificate::try_from(&self.der), ServerName::try_from(host)) else {
            return false;
        };
        verify_server_name(&parsed, &name).is_ok()
    }

    /// The time that is left; negative when it has expired.
    pub fn seconds_left(&self) -> i64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.not_after_seconds.saturating_sub(i64::try_from(now).unwrap_or(i64::MAX))
    }

    /// The names that it is for, or its subject where it has none.
    pub fn whose(&self) -> String {
        if self.names.is_empty() { self.subject.clone() } else { self.names.join(", ") }
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DAY: i64 = 24 * 3600;
        write!(f, "a certificate for {}, from {}, ", self.whose(), self.issuer)?;
        let date = date(self.not_after_seconds);
        match self.seconds_left() {
            left if left < 0 => write!(f, "expired on {date}"),
            left if left < 2 * DAY => write!(f, "which expires on {date}, in {} hours", left / 3600),
            left => write!(f, "which expires on {date}, in {} days", left / DAY),
        }
    }
}

/// The day (UTC) of a second since 1970: `2027-02-17`.
pub(super) fn date(seconds: i64) -> String {
    ASN1Time::from_timestamp(seconds).map_or_else(|_| seconds.to_string(), |time| time.to_datetime().date().to_string())
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// A certificate's text comes from a peer, and goes to a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}
