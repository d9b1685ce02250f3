//! What our own certificates and those of brokers are worth.

use std::path::Path;

use super::report::Line;
use crate::access::Access;
use crate::config::{Advertise, ClientAuth, Config};
use crate::net::tls::{Certificate, TlsError, TlsFacts};

/// A certificate that has less than this left needs somebody to look.
const NEAR_EXPIRY_SECONDS: i64 = 14 * 24 * 3600;

/// A file that can't be used.
pub(super) fn unusable(error: &TlsError) -> Line {
    Line::failure(error.to_string(), "correct it: diffluent does not start with it, and no cluster was asked")
}

/// The certificates that we show.
pub(super) fn own(config: &Config, access: &Access) -> Vec<Line> {
    let mut lines = Vec::new();
    for (file, certificate) in access.certificates() {
        lines.push(one(&file, &certificate));
        let shown_to_clients = config.proxy.tls.as_ref().filter(|tls| tls.certificate == file);
        if let Some(tls) = shown_to_clients {
            lines.extend(name(&config.proxy.advertise, &certificate));
            lines.push(Line::ok(match tls.client_auth {
                ClientAuth::None => "clients speak TLS, and are not asked for a certificate",
                ClientAuth::Request => "clients speak TLS, and may show a certificate",
                ClientAuth::Require => "clients speak TLS, and must show a certificate",
            }));
        }
    }
    lines
}

fn one(file: &Path, certificate: &Certificate) -> Line {
    let found = format!("{}: {certificate}", file.display());
    match certificate.seconds_left() {
        left if left < 0 => Line::failure(found, "renew it; diffluent reads the file again by itself"),
        left if left < NEAR_EXPIRY_SECONDS => {
            Line::warning(found, "renew it; diffluent reads the file again by itself")
        }
        _ => Line::ok(found),
    }
}

/// Whether clients that check the name will take the certificate for that of the brokers.
fn name(advertise: &Advertise, certificate: &Certificate) -> Option<Line> {
    let name = match advertise {
        Advertise::Host(host) => host.clone(),
        Advertise::Names { before, after, .. } => format!("{before}1{after}"),
    };
    (!certificate.is_for(&name)).then(|| {
        Line::warning(
            format!("brokers are advertised as {advertise}, and the certificate is not for {name:?}: clients refuse it, unless they are told not to look at names"),
            "have a certificate made that is for this name (subjectAltName), or change [proxy] advertise",
        )
    })
}

/// What a broker's handshake came to, for the line that says that it answers.
pub(super) fn of_broker(tls: &TlsFacts) -> String {
    match &tls.certificate {
        Some(certificate) => format!(", {}, with {certificate}", tls.protocol),
        None => format!(", {}", tls.protocol),
    }
}

/// A warning where a broker's certificate is about to expire.
pub(super) fn near_expiry(broker: &str, tls: &TlsFacts) -> Option<Line> {
    let certificate = tls.certificate.as_ref().filter(|shown| shown.seconds_left() < NEAR_EXPIRY_SECONDS)?;
    Some(Line::warning(format!("{broker} shows {certificate}"), "have it renewed on the broker in time"))
}
