//! What an operator is told: by `run` and `check` about a bad file, about clusters that are not there, and when all is well.

mod common;

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use common::{DIFFLUENT, diffluent};
use diffluent_testbed::ports::Ports;
use diffluent_testbed::{Cluster, Proxy, ProxyConfig, Workload, http};

/// The exit code for a configuration that can't be used (EX_USAGE of sysexits.h).
const EXIT_CONFIG: i32 = 64;

fn path(file: &Path) -> Result<&str> {
    file.to_str().context("a path that is no text")
}

struct Bad {
    name: &'static str,
    /// What is replaced in a good file, and by what.
    from: &'static str,
    to: &'static str,
    /// What the complaint says: the key, what is wrong, and an example.
    says: &'static [&'static str],
}

const BAD: &[Bad] = &[
    Bad {
        name: "an unknown key",
        from: "advertise =",
        to: "advertised =",
        says: &["proxy.advertised", "unknown key", "did you mean `advertise`", "for example: advertise = \""],
    },
    Bad {
        name: "an unknown table",
        from: "[admin]",
        to: "[adminn]",
        says: &["adminn", "unknown key", "did you mean `admin`", "for example: "],
    },
    Bad {
        name: "a wrong unit of size",
        from: "[admin]",
        to: "[mirror]\nbuffer = \"64 MB\"\n[admin]",
        says: &["mirror.buffer", "\"MB\" is not a unit of size", "for example: buffer = \"64 MiB\""],
    },
    Bad {
        name: "a number without a unit",
        from: "[admin]",
        to: "[mirror]\nbuffer = 64\n[admin]",
        says: &["mirror.buffer", "integer 64 is not a size with its unit", "for example: buffer = \"64 MiB\""],
    },
    Bad {
        name: "a wrong unit of time",
        from: "[local]",
        to: "dial_timeout = \"3 secs\"\n[local]",
        says: &["proxy.dial_timeout", "\"secs\" is not a unit of time", "for example: dial_timeout = \""],
    },
    Bad {
        name: "no region",
        from: "[[region]]\nname = \"us\"\nbootstrap_servers = [\"127.0.0.1:1\"]\nstart = \"earliest\"\n",
        to: "",
        says: &["region", "there is no region to mirror to", "enabled = false", "for example: [[region]]"],
    },
    Bad {
        name: "a name used twice",
        from: "[admin]",
        to: "[[region]]\nname = \"us\"\nbootstrap_servers = [\"127.0.0.1:2\"]\n[admin]",
        says: &["region[1].name", "\"us\" is the name of another region too", "for example: name = \""],
    },
    Bad {
        name: "a region named as the proxy",
        from: "name = \"us\"",
        to: "name = \"eu\"",
        says: &["region[0].name", "\"eu\" is the name of this proxy", "for example: name = \""],
    },
    Bad {
        name: "a range without a port",
        from: "broker_ports = \"",
        to: "broker_ports = \"9\" #",
        says: &["proxy.broker_ports", "is not a range of ports", "for example: broker_ports = \"9100-9199\""],
    },
    Bad {
        name: "a range that ends before it begins",
        from: "broker_ports = \"",
        to: "broker_ports = \"9199-9100\" #",
        says: &["proxy.broker_ports", "holds no port", "for example: broker_ports = \"9100-9199\""],
    },
    Bad {
        name: "a missing key",
        from: "listen = \"127.0.0.1:",
        to: "#",
        says: &["proxy.listen", "this key is missing", "for example: listen = \"127.0.0.1:9092\""],
    },
    Bad {
        name: "a missing table",
        from: "[local]\nbootstrap_servers = [\"127.0.0.1:1\"]",
        to: "",
        says: &["local", "this table is missing", "for example: [local]"],
    },
    Bad {
        name: "a server without a port",
        from: "[\"127.0.0.1:1\"]",
        to: "[\"kafka.eu\"]",
        says: &["local.bootstrap_servers", "\"kafka.eu\" has no port", "for example: bootstrap_servers = ["],
    },
    Bad {
        name: "a pattern that is none",
        from: "name = \"us\"",
        to: "name = \"us\"\ntopics = [\"orders(\"]",
        says: &["region[0].topics[0]", "\"orders(\" is not a regular expression", "for example: topics = ["],
    },
    Bad {
        name: "not TOML: a heading without its end",
        from: "[local]",
        to: "[local",
        says: &["this is not TOML", "[local", "for example: [local]"],
    },
    Bad {
        name: "not TOML: a text without quotes",
        from: "name = \"us\"",
        to: "name = us",
        says: &["this is not TOML", "name = us", "for example: name = \"us-east\""],
    },
    Bad {
        name: "not TOML: another format",
        from: "[proxy]\nname",
        to: "proxy:\n  name",
        says: &["this is not TOML", "for example: name = \"eu-west\""],
    },
];

#[tokio::test]
async fn a_bad_file_is_refused_with_file_key_complaint_and_example_before_any_port_is_bound() -> Result<()> {
    let file = Proxy::prepare(DIFFLUENT, ProxyConfig::new("eu", "127.0.0.1:1").region("us", "127.0.0.1:1"))?;
    let good = std::fs::read_to_string(file.config_path())?;
    let name = path(file.config_path())?;
    // Everything that it might bind is taken: to bind anything would be another failure, with another exit code.
    let taken = listeners(&file, true)?;
    let mut wrong = Vec::new();
    for bad in BAD {
        ensure!(good.contains(bad.from), "{}: {:?} is not in\n{good}", bad.name, bad.from);
        std::fs::write(file.config_path(), good.replacen(bad.from, bad.to, 1))?;
        for command in ["run", "check"] {
            let said = diffluent(&[command, name]).await?;
            if said.code != Some(EXIT_CONFIG) {
                wrong.push(format!("{command}, {}: exit code {:?}", bad.name, said.code));
            }
            for part in [name].iter().chain(bad.says).filter(|part| !said.stderr.contains(**part)) {
                wrong.push(format!("{command}, {}: lacks {part:?}: {}", bad.name, said.stderr));
            }
            if !said.stdout.is_empty() || said.stderr.contains("panicked") {
                wrong.push(format!("{command}, {}: {said:?}", bad.name));
            }
        }
    }
    drop(taken);
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[tokio::test]
async fn a_file_that_is_not_there_is_named() -> Result<()> {
    let file = Proxy::prepare(DIFFLUENT, ProxyConfig::new("eu", "127.0.0.1:1"))?;
    let missing = file.config_path().with_file_name("no-such-proxy.toml");
    for command in ["run", "check"] {
        let said = diffluent(&[command, path(&missing)?]).await?;
        ensure!(said.code == Some(EXIT_CONFIG), "{command}: {said:?}");
        ensure!(said.stderr.contains(path(&missing)?) && said.stderr.contains("can't be read"), "{command}: {said:?}");
        ensure!(said.stderr.contains("example"), "{command}: where is an example? {said:?}");
    }
    Ok(())
}

#[tokio::test]
async fn version_and_help_are_told() -> Result<()> {
    let said = diffluent(&["--version"]).await?;
    let version = format!("diffluent {} ({})", diffluent::VERSION, diffluent::COMMIT);
    ensure!(said.code == Some(0) && said.stdout.trim() == version, "{said:?}");
    let said = diffluent(&["--help"]).await?;
    ensure!(said.code == Some(0), "{said:?}");
    for part in ["run", "check", "--log", "--version", "Usage: diffluent"] {
        ensure!(said.stdout.contains(part), "--help lacks {part}: {}", said.stdout);
    }
    for command in ["run", "check"] {
        let said = diffluent(&[command, "--help"]).await?;
        ensure!(said.code == Some(0) && said.stdout.contains("proxy.toml"), "{command}: {said:?}");
    }
    let said = diffluent(&[]).await?;
    ensure!(said.code.is_some_and(|code| code != 0) && said.stderr.contains("Usage: diffluent"), "{said:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_that_are_not_there_are_named_with_what_to_do_and_the_proxy_waits_for_the_local_one() -> Result<()> {
    // Two brokers, so that a range of one port is too small.
    let (eu, us) =
        tokio::try_join!(Cluster::builder().name("eu").brokers(2).start(), Cluster::builder().name("us").start(),)?;
    eu.create_topic("orders", 2, 2, &[]).await?;
    let nobody = Ports::one()?;
    let nobody = format!("127.0.0.1:{}", nobody.first());

    healthy_clusters_pass_the_check(&eu, &us).await?;
    what_differs_between_the_clusters_is_told(&eu, &us).await?;
    too_few_ports_for_the_brokers_is_refused_at_the_start(&eu, &us).await?;
    an_unreachable_region_fails_the_check_but_not_the_proxy(&eu, &nobody).await?;
    an_unreachable_local_cluster_is_waited_for(&eu, &us).await
}

async fn healthy_clusters_pass_the_check(eu: &Cluster, us: &Cluster) -> Result<()> {
    let config = ProxyConfig::new("eu", &eu.bootstrap()).region("us", &us.bootstrap());
    let file = Proxy::prepare(DIFFLUENT, config)?;
    let said = diffluent(&["check", path(file.config_path())?]).await?;
    ensure!(said.code == Some(0), "{said:?}");
    for part in ["local cluster", "region \"us\"", eu.id(), us.id(), "ok"] {
        ensure!(said.stdout.contains(part), "lacks {part}: {}", said.stdout);
    }
    ensure!(!said.stdout.contains("FAILURE"), "{}", said.stdout);
    ensure!(us.admin().topics().await?.is_empty(), "check has created a topic in the region");
    Ok(())
}

async fn what_differs_between_the_clusters_is_told(eu: &Cluster, us: &Cluster) -> Result<()> {
    eu.create_topic("compacted", 1, 1, &[("cleanup.policy", "compact"), ("max.message.bytes", "2000000")]).await?;
    us.create_topic("compacted", 1, 1, &[("compression.type", "zstd")]).await?;
    eu.create_topic("new", 1, 1, &[("retention.ms", "1209600000")]).await?;
    // A day and a half ago, and so older than the region's brokers remember producers.
    let then = SystemTime::now().duration_since(UNIX_EPOCH)? - Duration::from_secs(36 * 3600);
    let timestamp = Some(i64::try_from(then.as_millis())?);
    let old = Workload { records: 10, timestamp, ..Workload::new(&eu.bootstrap(), "new") };
    ensure!(old.run().await?.failed == 0, "not produced");
    let config = ProxyConfig::new("eu", &eu.bootstrap()).region("us", &us.bootstrap());
    let file = Proxy::prepare(DIFFLUENT, config)?;
    let said = diffluent(&["check", path(file.config_path())?]).await?;
    ensure!(said.code == Some(0), "{said:?}");
    for part in [
        "its brokers are Apache Kafka 4.3\n",
        "ms behind this machine's, give or take",
        "its brokers take requests of up to 104857600 bytes",
        "cleanup.policy differs in 1 topic: compacted (compact here, delete there)",
        "max.message.bytes differs in 1 topic: compacted (2000000 here, 1048588 there)",
        "the region's brokers compress 1 topic again: compacted (zstd)",
        "1 topic with settings of their own, which the region's brokers will not know when they are created: new (retention.ms=1209600000)",
        "older than its brokers remember producers (24 h): new (10 records)",
    ] {
        // The clock of this same machine may be ahead by a rounded millisecond.
        let told = said.stdout.contains(part) || said.stdout.contains(&part.replace("behind", "ahead of"));
        ensure!(told, "lacks {part:?}: {}", said.stdout);
    }
    Ok(())
}

async fn too_few_ports_for_the_brokers_is_refused_at_the_start(eu: &Cluster, us: &Cluster) -> Result<()> {
    let config = ProxyConfig::new("eu", &eu.bootstrap()).region("us", &us.bootstrap());
    let file = Proxy::prepare(DIFFLUENT, config)?;
    let (range, first) = (file.broker_ports(), *file.broker_ports().start());
    let text = std::fs::read_to_string(file.config_path())?;
    let (all, one) = (format!("{}-{}", range.start(), range.end()), format!("{first}-{first}"));
    ensure!(text.contains(&all), "{all} is not in {text}");
    std::fs::write(file.config_path(), text.replace(&all, &one))?;
    // The admin port alone is needed to find out.
    let taken = listeners(&file, false)?;
    let said = diffluent(&["run", path(file.config_path())?]).await?;
    ensure!(said.code == Some(EXIT_CONFIG), "{said:?}");
    for part in ["broker_ports", one.as_str(), "2 brokers", "widen the range"] {
        ensure!(said.stderr.contains(part), "lacks {part}: {}", said.stderr);
    }
    drop(taken);
    let said = diffluent(&["check", path(file.config_path())?]).await?;
    ensure!(said.code == Some(1), "{said:?}");
    ensure!(said.stdout.contains("broker_ports"), "{}", said.stdout);
    Ok(())
}

async fn an_unreachable_region_fails_the_check_but_not_the_proxy(eu: &Cluster, nobody: &str) -> Result<()> {
    let config = ProxyConfig::new("eu", &eu.bootstrap()).region("us", nobody).allow("the region can't be reached");
    let mut proxy = Proxy::prepare(DIFFLUENT, config)?;
    let said = diffluent(&["check", path(proxy.config_path())?]).await?;
    ensure!(said.code == Some(1), "{said:?}");
    assert_failure_with_advice(&said.stdout, "region \"us\"", nobody)?;
    proxy.spawn()?;
    proxy.wait_ready(Duration::from_secs(30)).await?;
    let outcome = Workload::new(&proxy.bootstrap(), "orders").run().await?;
    ensure!(outcome.acked == 1000, "{outcome:?}");
    ensure!(http::get(&proxy.admin_addr(), "/live").await?.0 == 200, "not alive");
    ensure!(http::get(&proxy.admin_addr(), "/ready").await?.0 == 200, "not ready");
    proxy.finish().await
}

async fn an_unreachable_local_cluster_is_waited_for(eu: &Cluster, us: &Cluster) -> Result<()> {
    eu.stop_all().await?;
    let config = ProxyConfig::new("eu", &eu.bootstrap())
        .region("us", &us.bootstrap())
        .allow("the local cluster can't be reached");
    let mut proxy = Proxy::prepare(DIFFLUENT, config)?;
    let said = diffluent(&["check", path(proxy.config_path())?]).await?;
    ensure!(said.code == Some(1), "{said:?}");
    for server in eu.bootstrap().split(',') {
        assert_failure_with_advice(&said.stdout, "local cluster", server)?;
    }

    proxy.spawn()?;
    // It says that it is not ready, and why; it doesn't end.
    let (status, body) = until_answered(&mut proxy, "/ready").await?;
    ensure!(status == 503 && body.contains("local cluster"), "{status} {body}");
    ensure!(http::get(&proxy.admin_addr(), "/live").await?.0 == 200, "not alive");
    ensure!(http::get(&proxy.admin_addr(), "/lag").await?.0 == 200, "no /lag");
    ensure!(tokio::net::TcpStream::connect(proxy.bootstrap()).await.is_err(), "a client is let in too early");

    eu.restart_all().await?;
    proxy.wait_ready(Duration::from_secs(30)).await?;
    let outcome = Workload::new(&proxy.bootstrap(), "orders").run().await?;
    ensure!(outcome.acked == 1000, "{outcome:?}");
    common::wait_mirrored(eu, &proxy, &["us"], &["orders"]).await?;
    common::assert_topic_equal(eu, us, "orders").await?;
    proxy.finish().await
}

/// Checks that a section of the report has a failure about `server`, followed by what to do.
fn assert_failure_with_advice(report: &str, section: &str, server: &str) -> Result<()> {
    let lines = report.lines().skip_while(|line| !line.starts_with(section)).skip(1);
    let mut lines = lines.take_while(|line| line.starts_with(' ')).skip_while(|line| !line.contains(server));
    let (failure, advice) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let stated = failure.trim_start().starts_with("FAILURE") && advice.trim_start().starts_with("->");
    ensure!(stated, "section {section:?} has no failure with advice about {server}: {report}");
    Ok(())
}

/// The admin port's answer, as soon as there is one.
async fn until_answered(proxy: &mut Proxy, route: &str) -> Result<(u16, String)> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        match http::get(&proxy.admin_addr(), route).await {
            Ok(answer) => return Ok(answer),
            Err(error) if tokio::time::Instant::now() > deadline => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
        if let Some(status) = proxy.try_status() {
            bail!("diffluent ended ({status}):\n{}", proxy.log_text()?);
        }
    }
}

/// Takes the ports of a proxy that is about to start: the clients', and the admin port if asked for.
fn listeners(proxy: &Proxy, admin: bool) -> Result<Vec<TcpListener>> {
    let mut addrs = vec![proxy.bootstrap()];
    addrs.extend(proxy.broker_ports().map(|port| format!("127.0.0.1:{port}")));
    if admin {
        addrs.push(proxy.admin_addr());
    }
    addrs.iter().map(|addr| TcpListener::bind(addr).with_context(|| format!("{addr} is taken"))).collect()
}
