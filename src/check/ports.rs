//! Whether the proxy's own addresses can be used: listeners bound for a moment, the advertised name looked up.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::Duration;

use tokio::net::{TcpListener, lookup_host};
use tokio::time::timeout;

use super::report::{Line, plural, some_of};
use crate::admin::Guard;
use crate::admin::guard::Openness;
use crate::config::{Admin, Advertise, Config, HostPort, PortRange};
use crate::operator::{self, AdminPort};

/// How long the admin port of a running diffluent may take to say what it is.
const PROBE_TIME_MAX: Duration = Duration::from_secs(1);

pub(super) async fn check(config: &Config) -> Vec<Line> {
    let mut lines = Vec::new();
    if runs_already(config).await {
        lines.push(Line::ok(format!(
            "a diffluent answers at {} already: the ports were not tried, they are its own",
            config.admin.listen
        )));
    } else {
        lines.push(listener("clients connect to", "[proxy] listen", &config.proxy.listen).await);
        if let Some(range) = config.proxy.broker_ports {
            lines.push(broker_ports(config, range).await);
        }
        lines.push(listener("the admin port is", "[admin] listen", &config.admin.listen).await);
    }
    lines.push(advertise(config).await);
    lines.extend(admin(&config.admin).await);
    lines
}

/// Who else than this machine could read or change something through the admin port.
async fn admin(config: &Admin) -> Option<Line> {
    let bound = lookup_host((config.listen.host.as_str(), config.listen.port)).await.ok()?.next()?;
    match Guard::new(config, bound).openness() {
        Openness::Closed => None,
        Openness::Reading => Some(Line::ok(format!(
            "the admin port {} takes the token for commands; anybody who can connect can read",
            config.listen
        ))),
        Openness::ReadingWithoutCommands => Some(Line::warning(
            format!(
                "the admin port {} is open to other machines, and has no token: commands are refused",
                config.listen
            ),
            "set token in [admin], or give it an address of this machine alone (docs/security.md)",
        )),
    }
}

/// Whether a diffluent answers at the admin port of this configuration.
async fn runs_already(config: &Config) -> bool {
    // What is asked for takes no token.
    let port = AdminPort { address: config.admin.listen.clone(), token: None };
    let asked = timeout(PROBE_TIME_MAX, operator::get(&port, "/openapi.json")).await;
    let document = asked.ok().and_then(Result::ok).unwrap_or_default();
    document["info"]["title"].as_str().is_some_and(|title| title.contains("diffluent"))
}

/// Binds `address` for a moment.
async fn listener(what: &str, key: &str, address: &HostPort) -> Line {
    match TcpListener::bind((address.host.as_str(), address.port)).await {
        Ok(_) => Line::ok(format!("{what} {address}: the port is free")),
        Err(error) => Line::failure(format!("{what} {address}: can't listen there: {error}"), bind_advice(key, &error)),
    }
}

fn bind_advice(key: &str, error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::AddrInUse => {
            format!("another process has this port (`ss -ltnp` shows which): stop it or change {key}")
        }
        ErrorKind::AddrNotAvailable => {
            format!("no interface of this machine has that address: change {key}, or use 0.0.0.0 for all")
        }
        ErrorKind::PermissionDenied => {
            format!("ports below 1024 need a right that diffluent should not have: change {key}")
        }
        _ => format!("change {key}"),
    }
}

/// Tries every broker port: a broker may get any of them.
async fn broker_ports(config: &Config, range: PortRange) -> Line {
    let host = config.proxy.listen.host.as_str();
    let mut taken = Vec::new();
    let mut last = None;
    for port in range.ports() {
        if let Err(error) = TcpListener::bind((host, port)).await {
            taken.push(port);
            last = Some(error);
        }
    }
    match last {
        None => Line::ok(format!("brokers are served on {host}, ports {range}: all are free")),
        Some(error) => Line::failure(
            format!(
                "brokers are served on {host}, ports {range}: can't listen on {} of them ({}): {error}",
                taken.len(),
                some_of(&taken)
            ),
            bind_advice("[proxy] broker_ports", &error),
        ),
    }
}

async fn advertise(config: &Config) -> Line {
    let listen = &config.proxy.listen.host;
    let host = &match &config.proxy.advertise {
        Advertise::Host(host) => host.clone(),
        // One for all: they are one record with a wildcard, or made together.
        Advertise::Names { before, after, .. } => format!("{before}1{after}"),
    };
    let looked_up = timeout(config.proxy.dial_timeout, lookup_host((host.as_str(), 0))).await;
    match looked_up {
        Ok(Ok(addresses)) => {
            let addresses: Vec<IpAddr> = addresses.map(|address| address.ip()).collect();
            advertised(host, &addresses, listen)
        }
        Ok(Err(error)) => Line::warning(
            format!("brokers are advertised as {host:?}, which this machine can't look up: {error}"),
            "make sure that clients can, or change [proxy] advertise",
        ),
        Err(_) => Line::warning(
            format!("brokers are advertised as {host:?}, which this machine's resolver did not answer for"),
            "make sure that clients can look it up, or change [proxy] advertise",
        ),
    }
}

/// Whether `advertise`, which stands for `addresses`, fits to where the proxy listens.
fn advertised(advertise: &str, addresses: &[IpAddr], listen: &str) -> Line {
    let for_this_machine = |addresses: &[IpAddr]| !addresses.is_empty() && addresses.iter().all(IpAddr::is_loopback);
    let listens_here = listen == "localhost" || listen.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    match (for_this_machine(addresses), listens_here) {
        (true, false) => Line::warning(
            format!("brokers are advertised as {advertise:?}, which to every client is its own machine"),
            "advertise a name that other machines can reach, or listen on 127.0.0.1 only",
        ),
        (false, true) => Line::warning(
            format!("brokers are advertised as {advertise:?}, but the proxy listens on {listen} only"),
            "listen on 0.0.0.0, or on the address that clients connect to",
        ),
        _ => {
            let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            Line::ok(format!("brokers are advertised as {advertise:?} ({})", some_of(&shown)))
        }
    }
}

/// Whether there are enough ports for so many brokers.
pub(super) fn enough(brokers: usize, config: &Config) -> Option<Line> {
    let range = config.proxy.broker_ports?;
    let ports = range.count();
    let found = format!("{} on {} ({range})", plural(brokers, "broker"), plural(ports, "port"));
    Some(if brokers > ports {
        Line::failure(format!("{found}: some brokers have no port"), "make [proxy] broker_ports longer")
    } else if brokers == ports {
        Line::warning(
            format!("{found}: no room for one more"),
            "make [proxy] broker_ports longer before adding a broker",
        )
    } else {
        Line::ok(found)
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::report::Level;
    use super::*;

    fn config(listen: u16, brokers: &str, admin: u16) -> Config {
        let text = format!(
            "[proxy]\nname = \"eu\"\nlisten = \"127.0.0.1:{listen}\"\nadvertise = \"127.0.0.1\"\nbroker_ports = \"{brokers}\"\n\
             [local]\nbootstrap_servers = [\"127.0.0.1:1\"]\n[mirror]\nenabled = false\n[admin]\nlisten = \"127.0.0.1:{admin}\"\n"
        );
        Config::parse("proxy.toml", &text).unwrap()
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_a_failure_that_names_its_key() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = taken.local_addr().unwrap().port();
        let lines = check(&config(port, "1-2", 0)).await;
        assert_eq!(lines[0].level, Level::Failure, "{lines:?}");
        assert!(lines[0].advice.as_ref().unwrap().contains("[proxy] listen"), "{lines:?}");
    }

    #[tokio::test]
    async fn a_taken_broker_port_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = taken.local_addr().unwrap().port();
        let line = broker_ports(&config(0, "1-2", 0), format!("{port}-{port}").parse().unwrap()).await;
        assert_eq!(line.level, Level::Failure);
        assert!(line.what.contains(&format!("1 of them ({port})")), "{line:?}");
    }

    #[tokio::test]
    async fn ports_of_a_running_diffluent_are_not_taken_for_a_conflict() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).await.unwrap();
            assert!(read > 0);
            let title = r#"{"info": {"title": "diffluent's admin port"}}"#;
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{title}", title.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        let lines = check(&config(0, "1-2", port)).await;
        served.await.unwrap();
        assert!(lines[0].what.contains("already") && lines.iter().all(|line| line.level == Level::Ok), "{lines:?}");
    }

    #[test]
    fn an_advertised_name_that_clients_cannot_use_is_a_warning() {
        let ip = |text: &str| vec![text.parse::<IpAddr>().unwrap()];
        assert_eq!(advertised("localhost", &ip("127.0.0.1"), "127.0.0.1").level, Level::Ok);
        assert_eq!(advertised("proxy.eu", &ip("10.0.0.7"), "0.0.0.0").level, Level::Ok);
        assert_eq!(advertised("localhost", &ip("127.0.0.1"), "0.0.0.0").level, Level::Warning);
        assert_eq!(advertised("proxy.eu", &ip("10.0.0.7"), "127.0.0.1").level, Level::Warning);
    }

    #[test]
    fn more_brokers_than_ports_is_a_failure() {
        let config = config(0, "9100-9102", 0);
        assert_eq!(enough(2, &config).unwrap().level, Level::Ok);
        assert_eq!(enough(3, &config).unwrap().level, Level::Warning);
        assert_eq!(enough(4, &config).unwrap().level, Level::Failure);
    }
}
