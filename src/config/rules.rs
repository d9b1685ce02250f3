//! What the values must obey together, and the limits of each.

use std::collections::HashMap;
use std::time::Duration;

use super::error::Finding;
use super::types::{Config, Proxy, Region};
use super::values::{ByteSize, HostPort, check_host, duration};

/// Below this a request for the metadata of a large cluster would be refused.
const FRAME_LIMIT_MIN: ByteSize = ByteSize::from_mib(1);
/// A frame's length is a signed 32-bit number on the wire.
const FRAME_LIMIT_MAX: ByteSize = ByteSize::from_bytes(i32::MAX as u64);
/// One record batch of the default `message.max.bytes` must fit.
const WINDOW_MIN: ByteSize = ByteSize::from_mib(1);
/// Less would not carry the smallest batches of a quiet topic in time.
const RATE_LIMIT_MIN: ByteSize = ByteSize::from_bytes(64 * 1024);
const CATCH_UP_BUFFER_MIN: ByteSize = ByteSize::from_mib(1);
/// Shorter intervals would only be load.
const INTERVAL_MIN: Duration = Duration::from_millis(10);
/// Longer waits are mistakes in the unit.
const DURATION_MAX: Duration = Duration::from_secs(3600);
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
    regions(config, &mut found);
    mirror(config, &mut found);
    ports(config, &mut found);
    found
}

fn proxy(proxy: &Proxy, found: &mut Vec<Finding>) {
    if let Err(what) = check_host(&proxy.advertise) {
        found.push(Finding::new("proxy.advertise", what));
    } else if proxy.advertise.parse::<HostPort>().is_ok() {
        found.push(Finding::new(
            "proxy.advertise",
            format!("{:?} has a port: each broker is advertised with its own out of broker_ports", proxy.advertise),
        ));
    } else if ["0.0.0.0", "::"].contains(&proxy.advertise.as_str()) {
        found.push(Finding::new(
            "proxy.advertise",
            format!("clients can't connect to {:?}: name the host that they reach this proxy by", proxy.advertise),
        ));
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
}

/// Ports are compared whatever their hosts are: two names may be one address, and nobody wants to find out.
fn ports(config: &Config, found: &mut Vec<Finding>) {
    let (listen, admin, brokers) = (config.proxy.listen.port, config.admin.listen.port, config.proxy.broker_ports);
    for (key, port) in [("proxy.listen", listen), ("admin.listen", admin)] {
        if brokers.contains(port) {
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
