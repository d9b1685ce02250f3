//! Whether a login shows its secret to whoever listens on the way. No I/O.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::clusters::Found;
use super::report::{Line, some_of};
use crate::config::{HostPort, Mechanism, Sasl};

/// What is sent without TLS to another machine, when diffluent logs in as `[table.sasl]` says. SCRAM never sends the password.
pub(super) fn in_the_clear(
    table: &str,
    sasl: Option<&Sasl>,
    tls: bool,
    servers: &[HostPort],
    found: &Found,
) -> Vec<Line> {
    let Some(sasl) = sasl else { return Vec::new() };
    let mut lines = Vec::new();
    let sent = match sasl.mechanism {
        Mechanism::Plain => Some("the password"),
        Mechanism::OauthBearer => Some("the token, which is as good as a password until it expires,"),
        Mechanism::ScramSha256 | Mechanism::ScramSha512 => None,
    };
    if let Some(sent) = sent.filter(|_| !tls) {
        let advertised = found.metadata().into_iter().flat_map(|metadata| metadata.brokers.values());
        let advertised = advertised.map(|(host, port)| HostPort::new(host.clone(), *port));
        let open: BTreeSet<HostPort> =
            servers.iter().cloned().chain(advertised).filter(|server| !is_this_machine(&server.host)).collect();
        if !open.is_empty() {
            let open: Vec<String> = open.iter().map(HostPort::to_string).collect();
            let scram = if sasl.mechanism == Mechanism::Plain {
                ", or a mechanism that never sends the password (SCRAM)"
            } else {
                ""
            };
            lines.push(Line::warning(
                format!(
                    "{} sends {sent} readable to whoever is on the way to {}",
                    sasl.mechanism.as_str(),
                    some_of(&open)
                ),
                format!("use the brokers' SASL_SSL listener, with [{table}.tls]{scram}"),
            ));
        }
    }
    if let Some(endpoint) = sasl.token_endpoint.as_ref().filter(|url| !url.secure && !is_this_machine(&url.host)) {
        lines.push(Line::warning(
            format!("the client_secret is sent readable to whoever is on the way to {endpoint}"),
            format!("use https for token_endpoint in [{table}.sasl]"),
        ));
    }
    lines
}

/// Whether a name or address is this machine's own, whatever a resolver says (RFC 6761 section 6.3).
fn is_this_machine(host: &str) -> bool {
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::super::report::Level;
    use super::*;

    fn said(keys: &str, tls: bool, servers: &[&str]) -> Vec<Line> {
        let sasl: Sasl = toml::from_str(keys).expect("a login");
        let servers: Vec<HostPort> = servers.iter().map(|server| server.parse().expect("host:port")).collect();
        in_the_clear("region", Some(&sasl), tls, &servers, &Found::default())
    }

    const PLAIN: &str = "mechanism = \"PLAIN\"\nusername = \"me\"\npassword = \"hunter2\"";

    #[test]
    fn a_password_or_a_token_that_crosses_a_network_without_tls_is_warned_of() {
        let lines = said(PLAIN, false, &["kafka-1.example.com:9092", "127.0.0.1:9092", "[::1]:9092", "10.0.0.7:9092"]);
        let [line] = lines.as_slice() else { panic!("{lines:?}") };
        assert_eq!(line.level, Level::Warning);
        assert_eq!(
            line.what,
            "PLAIN sends the password readable to whoever is on the way to 10.0.0.7:9092, kafka-1.example.com:9092"
        );
        assert!(line.advice.as_ref().is_some_and(|advice| advice.contains("[region.tls]") && advice.contains("SCRAM")));
        let token = "mechanism = \"OAUTHBEARER\"\ntoken = \"hunter2\"";
        let lines = said(token, false, &["kafka:9092"]);
        assert!(lines.len() == 1 && lines[0].what.starts_with("OAUTHBEARER sends the token"), "{lines:?}");
    }

    #[test]
    fn tls_loopback_and_scram_are_well() {
        assert_eq!(said(PLAIN, true, &["kafka:9092"]), []);
        assert_eq!(said(PLAIN, false, &["localhost:9092", "kafka.localhost:9092", "[::ffff:127.0.0.1]:9092"]), []);
        let scram = "mechanism = \"SCRAM-SHA-512\"\nusername = \"me\"\npassword = \"hunter2\"";
        assert_eq!(said(scram, false, &["kafka:9092"]), []);
        assert_eq!(in_the_clear("local", None, false, &[], &Found::default()), []);
    }

    #[test]
    fn a_token_endpoint_without_tls_is_warned_of() {
        let asked = |url: &str| {
            format!(
                "mechanism = \"OAUTHBEARER\"\ntoken_endpoint = \"{url}\"\nclient_id = \"me\"\nclient_secret = \"hunter2\""
            )
        };
        let lines = said(&asked("http://login.example.com/token"), true, &["kafka:9092"]);
        assert!(lines.len() == 1 && lines[0].what.contains("http://login.example.com/token"), "{lines:?}");
        assert_eq!(said(&asked("https://login.example.com/token"), true, &["kafka:9092"]), []);
        assert_eq!(said(&asked("http://127.0.0.1:8080/token"), true, &["kafka:9092"]), []);
    }
}
