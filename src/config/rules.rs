//! What the values must obey together, and the limits of each.

use std::collections::HashMap;
use std::time::Duration;

use super::error::Finding;
use super::types::{ClientAuth, ClusterTls, Config, Mechanism, Proxy, Region, Sasl, TokenFor};
use super::values::{Advertise, ByteSize, HostPort, check_host, duration};

/// Below this a request for the metadata of a large cluster would be refused.
const FRAME_LIMIT_MIN: ByteSize = ByteSize::from_mib(1);
/// A frame's length is a signed 32-bit number on the wire.
const FRAME_LIMIT_MAX: ByteSize = ByteSize::from_bytes(i32::MAX as u64);
/// One record batch of the default `message.max.bytes` must fit.
const WINDOW_MIN: ByteSize = ByteSize::from_mib(1);
/// The least limit of bytes per second: less would not carry the smallest batches of a quiet topic in time.
pub const RATE_LIMIT_MIN: ByteSize = ByteSize::from_bytes(64 * 1024);
const CATCH_UP_BUFFER_MIN: ByteSize = ByteSize::from_mib(1);
/// Shorter intervals would only be load.
const INTERVAL_MIN: Duration = Duration::from_millis(10);
/// Longer waits are mistakes in the unit.
const DURATION_MAX: Duration = Duration::from_secs(3600);
/// With several heartbeats in it; and brokers allow half an hour.
const SESSION_MIN: Duration = Duration::from_secs(1);
const SESSION_MAX: Duration = Duration::from_secs(1800);
/// Client connections are looked at once a second.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// As good as never.
const IDLE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Far above what any client sends; each takes some memory.
const IN_FLIGHT_MAX: u32 = 65_536;

const _: () = assert!(FRAME_LIMIT_MIN.bytes() < FRAME_LIMIT_MAX.bytes());

/// All that is wrong with `config`, in the file's order.
pub(super) fn problems(config: &Config) -> Vec<Finding> {
    let mut found = Vec::new();
    proxy(&config.proxy, &mut found);
    bootstrap("local", &config.local.bootstrap_servers, &mut found);
    cluster_tls("local", config.local.tls.as_ref(), &mut found);
    sasl("local.sasl", config.local.sasl.as_ref(), &mut found);
    regions(config, &mut found);
    mirror(config, &mut found);
    ports(config, &mut found);
    if config.admin.token_for == TokenFor::Everything && config.admin.token.is_none() {
        found.push(Finding::new("admin.token", "token_for = \"everything\" needs a token"));
    }
    found
}

fn proxy(proxy: &Proxy, found: &mut Vec<Finding>) {
    match (&proxy.advertise, proxy.broker_ports) {
        (Advertise::Host(_), None) => found.push(Finding::new(
            "proxy.broker_ports",
            "this key is missing: each broker is served on a port of its own, unless `advertise` has a name for each",
        )),
        (Advertise::Names { .. }, Some(_)) => found.push(Finding::new(
            "proxy.broker_ports",
            "`advertise` has a name for each broker, and all of them are served on the port of `listen`: leave this out",
        )),
        _ => {}
    }
    if matches!(proxy.advertise, Advertise::Names { .. }) && proxy.tls.is_none() {
        found.push(Finding::new(
            "proxy.advertise",
            "{id} needs [proxy.tls]: in plaintext nothing tells which name a client has asked for",
        ));
    }
    if let Some(tls) = &proxy.tls {
        match (tls.client_auth, &tls.client_ca) {
            (ClientAuth::None, Some(_)) => found.push(Finding::new(
                "proxy.tls.client_ca",
                "clients are not asked for a certificate: set client_auth, or leave this out",
            )),
            (ClientAuth::Request | ClientAuth::Require, None) => found.push(Finding::new(
                "proxy.tls.client_ca",
                "this key is missing: whose certificates are good when clients show one?",
            )),
            _ => {}
        }
    }
    if !(FRAME_LIMIT_MIN..=FRAME_LIMIT_MAX).contains(&proxy.frame_limit) {
        found.push(Finding::new(
            "proxy.frame_limit",
            format!("{} is outside of what works: {FRAME_LIMIT_MIN} to 2047 MiB", proxy.frame_limit),
        ));
    }
    for (key, limit) in [
        ("proxy.connection_limit", proxy.connection_limit),
        ("proxy.connection_limit_per_address", proxy.connection_limit_per_address),
    ] {
        if limit == Some(0) {
            found.push(Finding::new(key, "0 would let no client in: at least 1, or leave it out"));
        }
    }
    within("proxy.handshake_timeout", proxy.handshake_timeout, (LOOK_EVERY, DURATION_MAX), found);
    within("proxy.first_byte_timeout", proxy.first_byte_timeout, (LOOK_EVERY, DURATION_MAX), found);
    within("proxy.idle_timeout", proxy.idle_timeout, (LOOK_EVERY, IDLE_MAX), found);
    if !(1..=IN_FLIGHT_MAX).contains(&proxy.in_flight_limit) {
        let what = format!("{} is outside of what works: 1 to {IN_FLIGHT_MAX}", proxy.in_flight_limit);
        found.push(Finding::new("proxy.in_flight_limit", what));
    }
    lasts("proxy.dial_timeout", proxy.dial_timeout, INTERVAL_MIN, found);
    lasts("proxy.drain_timeout", proxy.drain_timeout, Duration::ZERO, found);
}

fn lasts(key: &str, value: Duration, min: Duration, found: &mut Vec<Finding>) {
    within(key, value, (min, DURATION_MAX), found);
}

fn within(key: &str, value: Duration, (min, max): (Duration, Duration), found: &mut Vec<Finding>) {
    if value < min || value > max {
        let [value, min, max] = [value, min, max].map(duration::display);
        found.push(Finding::new(key, format!("{value} is outside of what makes sense: {min} to {max}")));
    }
}

fn at_least(key: &str, value: ByteSize, min: ByteSize, found: &mut Vec<Finding>) {
    if value < min {
        found.push(Finding::new(key, format!("{value} is too small: at least {min}")));
    }
}

fn bootstrap(table: &str, servers: &[HostPort], found: &mut Vec<Finding>) {
    let key = format!("{table}.bootstrap_servers");
    if servers.is_empty() {
        found.push(Finding::new(key, "the list is empty: name at least one broker"));
    } else if let Some(server) = servers.iter().find(|server| server.port == 0) {
        found.push(Finding::new(key, format!("\"{server}\": port 0 can't be connected to")));
    }
}

fn cluster_tls(table: &str, tls: Option<&ClusterTls>, found: &mut Vec<Finding>) {
    let Some(tls) = tls else { return };
    let missing = match (&tls.certificate, &tls.key) {
        (Some(_), None) => "key",
        (None, Some(_)) => "certificate",
        _ => "",
    };
    if !missing.is_empty() {
        let what = "this key is missing: a certificate and its private key belong together";
        found.push(Finding::new(format!("{table}.tls.{missing}"), what));
    }
    if let Some(Err(what)) = tls.server_name.as_deref().map(check_host) {
        found.push(Finding::new(format!("{table}.tls.server_name"), what));
    }
}

fn regions(config: &Config, found: &mut Vec<Finding>) {
    if config.region.is_empty() && config.mirror.enabled {
        found.push(Finding {
            key: "region".into(),
            what:
                "there is no region to mirror to: add a [[region]], or set `enabled = false` in [mirror] to run as a \
                   plain proxy"
                    .into(),
            example: Some(
                "[[region]]\nname = \"us-east\"\nbootstrap_servers = [\"kafka.us-east.example.com:9092\"]".into(),
            ),
        });
    }
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for (index, region) in config.region.iter().enumerate() {
        let table = format!("region[{index}]");
        let name = region.name.as_str();
        if name == config.proxy.name.as_str() {
            found.push(Finding::new(
                format!("{table}.name"),
                format!("{name:?} is the name of this proxy: a region needs one of its own"),
            ));
        }
        if name == "local" {
            found.push(Finding::new(
                format!("{table}.name"),
                "\"local\" is how metrics and logs call the local cluster: a region needs a name of its own".to_owned(),
            ));
        }
        if seen.insert(name, index).is_some() {
            found.push(Finding::new(
                format!("{table}.name"),
                format!("{name:?} is the name of another region too: progress is kept by name, so each needs its own"),
            ));
        }
        region_values(&table, region, found);
    }
}

fn region_values(table: &str, region: &Region, found: &mut Vec<Finding>) {
    bootstrap(table, &region.bootstrap_servers, found);
    cluster_tls(table, region.tls.as_ref(), found);
    if region.topics.is_empty() {
        found.push(Finding::new(
            format!("{table}.topics"),
            "the list is empty, so nothing would be mirrored: leave it out to mirror all but internal topics",
        ));
    }
    at_least(&format!("{table}.window"), region.window, WINDOW_MIN, found);
    for (key, limit) in [("rate_limit", region.rate_limit), ("catch_up_rate_limit", region.catch_up_rate_limit)] {
        if let Some(limit) = limit {
            at_least(&format!("{table}.{key}"), limit, RATE_LIMIT_MIN, found);
        }
    }
    sasl(&format!("{table}.sasl"), region.sasl.as_ref(), found);
}

/// Each mechanism has its keys: those that it needs must be there, and those of another would be a misunderstanding.
fn sasl(table: &str, sasl: Option<&Sasl>, found: &mut Vec<Finding>) {
    let Some(sasl) = sasl else { return };
    let set = [
        ("username", sasl.username.is_some()),
        ("password", sasl.password.is_some()),
        ("token", sasl.token.is_some()),
        ("token_endpoint", sasl.token_endpoint.is_some()),
        ("token_endpoint_ca", sasl.token_endpoint_ca.is_some()),
        ("client_id", sasl.client_id.is_some()),
        ("client_secret", sasl.client_secret.is_some()),
        ("scope", sasl.scope.is_some()),
        ("extensions", !sasl.extensions.is_empty()),
    ];
    let (needed, allowed): (&[&str], &[&str]) = match (sasl.mechanism, &sasl.token, &sasl.token_endpoint) {
        (Mechanism::OauthBearer, Some(_), Some(_)) => {
            let what = "token and token_endpoint are two ways to one token: leave one of them out";
            found.push(Finding::new(format!("{table}.token"), what));
            return;
        }
        (Mechanism::OauthBearer, None, None) => {
            let what = "OAUTHBEARER needs a token, or the token_endpoint that gives one";
            found.push(Finding::new(format!("{table}.token"), what));
            return;
        }
        (Mechanism::OauthBearer, Some(_), None) => (&["token"], &["extensions"]),
        (Mechanism::OauthBearer, None, Some(_)) => {
            (&["token_endpoint", "client_id", "client_secret"], &["token_endpoint_ca", "scope", "extensions"])
        }
        _ => (&["username", "password"], &[]),
    };
    if sasl.token_endpoint_ca.is_some() && sasl.token_endpoint.as_ref().is_some_and(|url| !url.secure) {
        let what = "token_endpoint is http, where no certificate is shown: make it https, or leave this key out";
        found.push(Finding::new(format!("{table}.token_endpoint_ca"), what));
    }
    let mechanism = sasl.mechanism.as_str();
    for (key, is_set) in set {
        let what = match (needed.contains(&key), allowed.contains(&key), is_set) {
            (true, _, false) => format!("{mechanism} needs this key"),
            (false, false, true) => format!("{mechanism} has no use for this key: leave it out"),
            _ => continue,
        };
        found.push(Finding::new(format!("{table}.{key}"), what));
    }
    for (key, text) in [("username", &sasl.username), ("client_id", &sasl.client_id)] {
        if text.as_ref().is_some_and(|text| text.is_empty() || text.contains('\0')) {
            found.push(Finding::new(format!("{table}.{key}"), "a name must not be empty, and has no zero in it"));
        }
    }
    // KIP-342: names are letters; the one that the mechanism uses itself is taken.
    let bad_name = |name: &str| name.is_empty() || name == "auth" || !name.chars().all(|c| c.is_ascii_alphabetic());
    let bad_text =
        |text: &str| text.is_empty() || text.chars().any(|c| c.is_control() && !matches!(c, '\t' | '\r' | '\n'));
    if let Some((name, _)) = sasl.extensions.iter().find(|(name, text)| bad_name(name) || bad_text(text)) {
        let what =
            format!("{name:?} can't be an extension: its name is letters (and not `auth`), its value is not empty");
        found.push(Finding::new(format!("{table}.extensions"), what));
    }
}

fn mirror(config: &Config, found: &mut Vec<Finding>) {
    let mirror = &config.mirror;
    at_least("mirror.catch_up_buffer", mirror.catch_up_buffer, CATCH_UP_BUFFER_MIN, found);
    for (key, value) in [
        ("mirror.progress_interval", mirror.progress_interval),
        ("mirror.log_end_interval", mirror.log_end_interval),
        ("mirror.metadata_interval", mirror.metadata_interval),
    ] {
        lasts(key, value, INTERVAL_MIN, found);
    }
    within("mirror.session_timeout", mirror.session_timeout, (SESSION_MIN, SESSION_MAX), found);
}

/// Ports are compared whatever their hosts are: two names may be one address, and nobody wants to find out.
fn ports(config: &Config, found: &mut Vec<Finding>) {
    let (listen, admin) = (config.proxy.listen.port, config.admin.listen.port);
    for (key, port) in [("proxy.listen", listen), ("admin.listen", admin)] {
        if let Some(brokers) = config.proxy.broker_ports.filter(|brokers| brokers.contains(port)) {
            found.push(Finding::new(
                "proxy.broker_ports",
                format!("port {port} of {key} lies inside of {brokers}: a broker could not be served there"),
            ));
        }
    }
    if listen == admin && listen != 0 {
        found.push(Finding::new("admin.listen", format!("port {admin} is that of proxy.listen already")));
    }
}
