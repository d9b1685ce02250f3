use super::*;

const LEAST: &str = r#"[proxy]
name = "eu"
listen = "127.0.0.1:9092"
advertise = "127.0.0.1"
broker_ports = "9100-9199"

[local]
bootstrap_servers = ["127.0.0.1:19092"]

[[region]]
name = "us"
bootstrap_servers = ["127.0.0.1:29092"]
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse("proxy.toml", text)
}

/// The errors of the least configuration with one piece of text replaced.
fn complaint(from: &str, to: &str) -> String {
    assert!(LEAST.contains(from), "{from:?} is not in the configuration that the test changes");
    match parse(&LEAST.replacen(from, to, 1)) {
        Ok(_) => panic!("accepted: {to}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_least_configuration_is_enough_and_has_the_documented_defaults() {
    let config = parse(LEAST).unwrap();
    assert_eq!(config.proxy.frame_limit.bytes(), 101 << 20);
    assert_eq!(config.mirror, Mirror::default());
    assert_eq!(config.admin.listen.to_string(), "127.0.0.1:9644");
    let region = &config.region[0];
    assert_eq!(region.start, Start::Earliest);
    assert!(region.selects("orders") && region.selects("_schemas"));
    assert!(!region.selects("__consumer_offsets"));
    assert_eq!(region.topic_in_region("eu", "orders"), "orders");
}

#[test]
fn every_bad_configuration_is_refused_with_the_line_the_key_and_an_example() {
    // (what is replaced, by what, and what the complaint must say)
    let table: &[(&str, &str, &[&str])] = &[
        (
            "broker_ports",
            "brocker_ports",
            &["proxy.toml:5: proxy.brocker_ports: unknown key; did you mean `broker_ports`?", "\"9100-9199\""],
        ),
        ("[local]", "[locale]", &["proxy.toml:7: locale: unknown key; did you mean `local`?"]),
        ("[local]", "[zzz]", &["proxy.toml:7: zzz: unknown key; known here are proxy, local, region, mirror, admin"]),
        (
            "name = \"us\"",
            "name = \"us\"\nbootstrap-server = []",
            &["region[0].bootstrap-server", "did you mean `bootstrap_servers`?"],
        ),
        ("name = \"us\"\n", "", &["proxy.toml:10: region[0].name: this key is missing", "name = \"us-east\""]),
        (
            "[local]\nbootstrap_servers = [\"127.0.0.1:19092\"]\n",
            "",
            &["proxy.toml: local: this table is missing", "[local]\n"],
        ),
        (
            "[[region]]",
            "[mirror]\nbuffer = 64\n[[region]]",
            &["proxy.toml:11: mirror.buffer: integer 64 is not a size with its unit", "buffer = \"64 MiB\""],
        ),
        (
            "[[region]]",
            "[mirror]\nbuffer = \"64\"\n[[region]]",
            &["mirror.buffer: \"64\" has no unit: use B, KiB, MiB or GiB"],
        ),
        ("[[region]]", "[mirror]\nbuffer = \"64 MB\"\n[[region]]", &["\"MB\" is not a unit of size", "64 MiB"]),
        ("[[region]]", "[mirror]\nbuffer = \"1.5 GiB\"\n[[region]]", &["a whole number"]),
        ("[[region]]", "[mirror]\nbuffer = \"99999999999 GiB\"\n[[region]]", &["more bytes than can be counted"]),
        (
            "[[region]]",
            "[mirror]\nprogress_interval = \"1 second\"\n[[region]]",
            &["mirror.progress_interval: \"second\" is not a unit of time", "\"1 s\""],
        ),
        ("[[region]]", "[mirror]\nprogress_interval = 1\n[[region]]", &["integer 1 is not a duration with its unit"]),
        (
            "[[region]]",
            "[mirror]\nlog_end_interval = \"0 s\"\n[[region]]",
            &["mirror.log_end_interval: 0 ms is outside"],
        ),
        (
            "[[region]]",
            "[mirror]\ncatch_up_buffer = \"1 KiB\"\n[[region]]",
            &["mirror.catch_up_buffer: 1 KiB is too small: at least 1 MiB"],
        ),
        (
            "[[region]]",
            "[mirror]\nenabled = \"no\"\n[[region]]",
            &["mirror.enabled: string \"no\" is not true or false"],
        ),
        ("9100-9199", "9199-9100", &["proxy.toml:5: proxy.broker_ports", "holds no port", "9100-9199"]),
        ("9100-9199", "9100", &["is not a range of ports"]),
        ("9100-9199", "0-10", &["port 0 can't be in the range"]),
        ("9100-9199", "9100-99999", &["\"99999\" is not a port"]),
        (
            "9100-9199",
            "9090-9199",
            &["proxy.toml:5: proxy.broker_ports: port 9092 of proxy.listen lies inside of 9090-9199"],
        ),
        ("9100-9199", "9600-9699", &["port 9644 of admin.listen lies inside"]),
        ("127.0.0.1:9092", "127.0.0.1:9644", &["admin.listen: port 9644 is that of proxy.listen already"]),
        (
            "127.0.0.1:9092",
            "127.0.0.1",
            &["proxy.toml:3: proxy.listen: \"127.0.0.1\" has no port", "listen = \"127.0.0.1:9092\""],
        ),
        ("127.0.0.1:9092", "127.0.0.1:909200", &["is not a port"]),
        ("127.0.0.1:9092", "::1:9092", &["an IPv6 address belongs in brackets"]),
        ("127.0.0.1:9092", "kafka://a:9092", &["is a URL"]),
        (
            "advertise = \"127.0.0.1\"",
            "advertise = \"127.0.0.1:9092\"",
            &["proxy.toml:4: proxy.advertise", "has a port"],
        ),
        ("advertise = \"127.0.0.1\"", "advertise = \"0.0.0.0\"", &["clients can't connect to \"0.0.0.0\""]),
        ("advertise = \"127.0.0.1\"", "advertise = \"\"", &["the host is missing"]),
        (
            "broker_ports = \"9100-9199\"\n",
            "",
            &["proxy.toml:1: proxy.broker_ports: this key is missing", "broker_ports = \"9100-9199\""],
        ),
        (
            "advertise = \"127.0.0.1\"",
            "advertise = \"b-{id}.example.com:9092\"",
            &[
                "proxy.toml:5: proxy.broker_ports: `advertise` has a name for each broker",
                "proxy.toml:4: proxy.advertise: {id} needs [proxy.tls]",
            ],
        ),
        ("\"127.0.0.1\"", "\"b-{id}.example.com\"", &["proxy.toml:4: proxy.advertise", "is not a name and a port"]),
        ("\"127.0.0.1\"", "\"b-{id}-{id}.example.com:1\"", &["only {id} can stand in braces, and once"]),
        ("\"127.0.0.1\"", "\"b-{node}.example.com:1\"", &["only {id} can stand in braces, and once"]),
        ("\"127.0.0.1\"", "\"b1{id}.example.com:1\"", &["a digit beside {id}"]),
        ("\"127.0.0.1\"", "\"10.0.0.{id}:1\"", &["clients ask for names in TLS, not for addresses"]),
        ("\"127.0.0.1\"", "\"b-{id}.example.com:0\"", &["clients can't connect to port 0"]),
        (
            "[local]",
            "[proxy.tls]\ncertificate = \"a\"\n[local]",
            &["proxy.toml:7: proxy.tls.key: this key is missing", "key = \"/etc/diffluent/tls.key\""],
        ),
        (
            "[local]",
            "[proxy.tls]\ncertificate = \"a\"\nkey = \"b\"\nclient_auth = \"require\"\n[local]",
            &[
                "proxy.toml:7: proxy.tls.client_ca: this key is missing",
                "client_ca = \"/etc/diffluent/clients-ca.crt\"",
            ],
        ),
        (
            "[local]",
            "[proxy.tls]\ncertificate = \"a\"\nkey = \"b\"\nclient_ca = \"c\"\n[local]",
            &["proxy.toml:10: proxy.tls.client_ca: clients are not asked for a certificate"],
        ),
        (
            "[local]",
            "[proxy.tls]\ncertificate = \"a\"\nkey = \"b\"\nclient_auth = \"yes\"\n[local]",
            &["proxy.tls.client_auth: \"yes\" is not known here"],
        ),
        (
            "broker_ports",
            "handshake_timeout = \"100 ms\"\nbroker_ports",
            &["proxy.toml:5: proxy.handshake_timeout: 100 ms is outside"],
        ),
        (
            "[[region]]",
            "[local.tls]\nkey = \"a\"\n[[region]]",
            &["local.tls.certificate: this key is missing: a certificate and its private key belong together"],
        ),
        (
            "name = \"us\"\nbootstrap_servers = [\"127.0.0.1:29092\"]\n",
            "name = \"us\"\nbootstrap_servers = [\"127.0.0.1:29092\"]\n[region.tls]\nserver_name = \"a b\"\n",
            &["proxy.toml:14: region[0].tls.server_name: ' ' can't be part of a host name"],
        ),
        ("[local]", "[local.tls]\ncaa = \"x\"\n[local]", &["local.tls.caa: unknown key; did you mean `ca`?"]),
        ("[\"127.0.0.1:19092\"]", "[]", &["proxy.toml:8: local.bootstrap_servers: the list is empty"]),
        (
            "[\"127.0.0.1:19092\"]",
            "\"127.0.0.1:19092\"",
            &["local.bootstrap_servers: string \"127.0.0.1:19092\" is not a list in brackets"],
        ),
        ("[\"127.0.0.1:29092\"]", "[\"127.0.0.1:0\"]", &["proxy.toml:12: region[0].bootstrap_servers", "port 0"]),
        (
            "[\"127.0.0.1:29092\"]",
            "[\"ok:1\", \"bad\"]",
            &["region[0].bootstrap_servers[1]: \"bad\" has no port", "bootstrap_servers = ["],
        ),
        ("\"us\"", "\"eu\"", &["proxy.toml:11: region[0].name: \"eu\" is the name of this proxy"]),
        ("\"us\"", "\"u s\"", &["region[0].name: ' ' can't be part of a name"]),
        ("\"us\"", "\"\"", &["region[0].name: a name must not be empty"]),
        (
            "\"us\"",
            "\"us\"\ntopics = [\"a(\"]",
            &["region[0].topics[0]: \"a(\" is not a regular expression: unclosed group"],
        ),
        ("\"us\"", "\"us\"\ntopics = [\"a)(b\"]", &["is not a regular expression"]),
        ("\"us\"", "\"us\"\ntopics = [\"*\"]", &["use `.*`"]),
        ("\"us\"", "\"us\"\ntopics = []", &["region[0].topics: the list is empty"]),
        (
            "\"us\"",
            "\"us\"\ntopic_name = \"copy\"",
            &["region[0].topic_name: \"copy\" must contain {topic} once", "{origin}.{topic}"],
        ),
        ("\"us\"", "\"us\"\ntopic_name = \"{region}.{topic}\"", &["only {topic} and {origin}"]),
        ("\"us\"", "\"us\"\ntopic_name = \"a/{topic}\"", &["'/' can't be part of a topic's name"]),
        (
            "\"us\"",
            "\"us\"\nstart = \"now\"",
            &["region[0].start: \"now\" is not known here; it can be \"earliest\" or \"latest\""],
        ),
        ("\"us\"", "\"us\"\nrate_limit = \"1 KiB\"", &["region[0].rate_limit: 1 KiB is too small"]),
        ("\"us\"", "\"us\"\nwindow = \"10 KiB\"", &["region[0].window: 10 KiB is too small"]),
        (
            "broker_ports",
            "frame_limit = \"4 GiB\"\nbroker_ports",
            &["proxy.toml:5: proxy.frame_limit: 4 GiB is outside"],
        ),
        (
            "broker_ports",
            "connection_limit = 0\nbroker_ports",
            &["proxy.toml:5: proxy.connection_limit: 0 would let no client in", "connection_limit = 20000"],
        ),
        (
            "broker_ports",
            "connection_limit = -1\nbroker_ports",
            &["proxy.toml:5: proxy.connection_limit: integer -1 is not a whole number that makes sense here"],
        ),
        (
            "broker_ports",
            "connection_limit_per_address = \"9\"\nbroker_ports",
            &["proxy.connection_limit_per_address: string \"9\" is not a whole number that makes sense here"],
        ),
        (
            "broker_ports",
            "in_flight_limit = 0\nbroker_ports",
            &["proxy.in_flight_limit: 0 is outside of what works: 1 to 65536"],
        ),
        (
            "broker_ports",
            "idle_timeout = \"10 ms\"\nbroker_ports",
            &["proxy.idle_timeout: 10 ms is outside of what makes sense: 1 s to 720 h", "idle_timeout = \"11 min\""],
        ),
        (
            "broker_ports",
            "first_byte_timeout = \"2 h\"\nbroker_ports",
            &["proxy.first_byte_timeout: 2 h is outside of what makes sense: 1 s to 1 h"],
        ),
        ("broker_ports", "dial_timeout = \"2 h\"\nbroker_ports", &["proxy.dial_timeout: 2 h is outside"]),
        ("[local]", "[local", &["proxy.toml:7: this is not TOML"]),
        ("name = \"eu\"", "name = eu", &["proxy.toml:2: this is not TOML", "name = eu"]),
    ];
    let mut wrong = Vec::new();
    for (from, to, must_say) in table {
        let complaint = complaint(from, to);
        for part in *must_say {
            if !complaint.contains(part) {
                wrong.push(format!("{to:?}\n   lacks: {part}\n   says:  {complaint}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_region_may_not_be_called_what_metrics_call_the_local_cluster() {
    let error = parse(&LEAST.replace("name = \"us\"", "name = \"local\"")).unwrap_err().to_string();
    assert!(error.contains("region[0].name") && error.contains("\"local\" is how metrics"), "{error}");
}

#[test]
fn a_region_name_used_twice_is_refused_at_the_second() {
    let twice = format!("{LEAST}\n[[region]]\nname = \"us\"\nbootstrap_servers = [\"b:1\"]\n");
    let error = parse(&twice).unwrap_err().to_string();
    assert!(error.contains("proxy.toml:15: region[1].name: \"us\" is the name of another region too"), "{error}");
}

#[test]
fn no_region_is_an_error_that_names_both_ways_out() {
    let without = LEAST.split("[[region]]").next().unwrap();
    let error = parse(without).unwrap_err().to_string();
    assert!(error.contains("[[region]]") && error.contains("enabled = false"), "{error}");
    let plain = parse(&format!("{without}[mirror]\nenabled = false\n")).unwrap();
    assert!(plain.region.is_empty() && !plain.mirror.enabled);
}

#[test]
fn all_broken_rules_are_told_at_once() {
    let error = complaint("9100-9199\"", "9090-9700\"\ndial_timeout = \"0 s\"");
    assert_eq!(error.matches("for example:").count(), 3, "{error}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Config::load("no/such/proxy.toml").unwrap_err().to_string();
    assert!(error.starts_with("no/such/proxy.toml: can't be read: "), "{error}");
}

#[test]
fn patterns_match_whole_names_only() {
    let config = parse(&LEAST.replace("\"us\"", "\"us\"\ntopics = [\"orders\", \"pay|pal\", \"a-.*\"]")).unwrap();
    let region = &config.region[0];
    for (topic, selected) in [
        ("orders", true),
        ("orders2", false),
        ("pay", true),
        ("pal", true),
        ("payx", false),
        ("a-b", true),
        ("ba-b", false),
    ] {
        assert_eq!(region.selects(topic), selected, "{topic}");
    }
}

#[test]
fn a_name_for_each_broker_needs_no_ports() {
    let text = LEAST
        .replace("\"127.0.0.1\"\n", "\"b-{id}.Example.com:9093\"\n")
        .replace("broker_ports = \"9100-9199\"\n", "[proxy.tls]\ncertificate = \"a\"\nkey = \"b\"\n");
    let config = parse(&text).unwrap();
    let (before, after) = ("b-".to_owned(), ".Example.com".to_owned());
    assert_eq!(config.proxy.advertise, Advertise::Names { before, after, port: 9093 });
    assert_eq!(parse(&toml::to_string(&config).unwrap()).unwrap(), config);
}

#[test]
fn a_template_names_the_topic_in_the_region() {
    let config = parse(&LEAST.replace("\"us\"", "\"us\"\ntopic_name = \"{origin}.{topic}\"")).unwrap();
    assert_eq!(config.region[0].topic_in_region("eu", "orders"), "eu.orders");
}

#[test]
fn values_are_shown_as_they_are_written() {
    for text in ["0 B", "512 KiB", "64 MiB", "101 MiB", "1 GiB", "1025 B"] {
        assert_eq!(text.parse::<ByteSize>().unwrap().to_string(), text);
    }
    assert_eq!("1024 KiB".parse::<ByteSize>().unwrap().to_string(), "1 MiB");
    for text in ["127.0.0.1:9092", "[::1]:9092", "kafka.eu:1"] {
        assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
    }
    assert_eq!("9100-9199".parse::<PortRange>().unwrap().count(), 100);
    assert_eq!(values::duration::display(std::time::Duration::from_millis(90_000)), "90 s");
}

#[test]
fn a_configuration_written_out_and_read_again_is_the_same() {
    let config = parse(LEAST).unwrap();
    assert_eq!(parse(&toml::to_string(&config).unwrap()).unwrap(), config);
}

#[test]
fn a_topic_that_was_renamed_on_its_way_from_a_known_cluster_is_not_renamed_again() {
    let origins = ["us".to_owned()];
    for (template, renamed, own) in [
        (
            "{origin}.{topic}",
            ["us.orders", "us.eu.orders", "ap.us.orders", "x.y.eu.orders"],
            ["orders", "ap.orders", "us", "eu.orders"],
        ),
        (
            "{topic}-from-{origin}",
            ["orders-from-us", "a-from-eu-from-ap", "a-from-us-from-eu", "b-from-us"],
            ["orders", "-from-us", "us", "from"],
        ),
        (
            "m_{origin}_{topic}_x",
            ["m_us_orders_x", "m_ap_m_us_orders_x_x", "m_us_a_x", "m_ap_m_eu_b_x_x"],
            ["orders", "m_ap_orders_x", "m_us_", "x"],
        ),
    ] {
        let template: TopicTemplate = template.parse().expect("a template");
        for topic in renamed {
            assert!(template.names_one_of(&origins, "eu", topic), "{topic}");
        }
        for topic in own {
            assert!(!template.names_one_of(&origins, "eu", topic), "{topic}");
        }
    }
    let same: TopicTemplate = "copy-of-{topic}".parse().expect("a template");
    assert!(!same.names_one_of(&origins, "eu", "copy-of-us"), "no origin, no round");
}

#[test]
fn each_mechanism_takes_its_own_keys_and_a_secret_is_never_quoted() {
    let local = |sasl: &str| format!("{LEAST}\n[local.sasl]\n{sasl}");
    for right in [
        "mechanism = \"PLAIN\"\nusername = \"a\"\npassword = \"hunter2\"",
        "mechanism = \"SCRAM-SHA-256\"\nusername = \"a\"\npassword = { env = \"P\" }",
        "mechanism = \"SCRAM-SHA-512\"\nusername = \"a\"\npassword = { file = \"/p\" }",
        "mechanism = \"OAUTHBEARER\"\ntoken = { file = \"/p\" }\nextensions = { logicalCluster = \"lkc-1\" }",
        "mechanism = \"OAUTHBEARER\"\ntoken_endpoint = \"http://[::1]:8080/t?a=b\"\nclient_id = \"a\"\nclient_secret = \"hunter2\"",
        "mechanism = \"OAUTHBEARER\"\ntoken_endpoint = \"https://a\"\ntoken_endpoint_ca = \"/ca\"\nclient_id = \"a\"\nclient_secret = \"hunter2\"",
    ] {
        parse(&local(right)).unwrap_or_else(|error| panic!("{right}\n{error}"));
        let region = LEAST.replace("[\"127.0.0.1:29092\"]", &format!("[\"127.0.0.1:29092\"]\n[region.sasl]\n{right}"));
        assert!(parse(&region).unwrap().region[0].sasl.is_some(), "{right}");
    }
    for (wrong, says) in [
        ("", "local.sasl.mechanism: this key is missing"),
        ("mechanism = \"GSSAPI\"", "local.sasl.mechanism: \"GSSAPI\" is not known here; it can be one of \"PLAIN\""),
        ("mechanism = \"PLAIN\"\nusername = \"a\"", "local.sasl.password: PLAIN needs this key"),
        (
            "mechanism = \"PLAIN\"\nusername = \"\"\npassword = \"hunter2\"",
            "local.sasl.username: a name must not be empty",
        ),
        (
            "mechanism = \"PLAIN\"\nusername = \"a\"\npassword = \"hunter2\"\ntoken = \"hunter2\"",
            "local.sasl.token: PLAIN has no use for this key",
        ),
        (
            "mechanism = \"PLAIN\"\nusername = \"a\"\npasword = \"hunter2\"",
            "local.sasl.pasword: unknown key; did you mean `password`?",
        ),
        (
            "mechanism = \"PLAIN\"\nusername = \"a\"\npassword = 7777",
            "local.sasl.password: a number is not a secret in quotes",
        ),
        ("mechanism = \"PLAIN\"\nusername = \"a\"\npassword = hunter2", "this is not TOML"),
        ("mechanism = \"OAUTHBEARER\"", "local.sasl.token: OAUTHBEARER needs a token, or the token_endpoint"),
        (
            "mechanism = \"OAUTHBEARER\"\ntoken_endpoint = \"https://a\"",
            "local.sasl.client_secret: OAUTHBEARER needs this key",
        ),
        (
            "mechanism = \"OAUTHBEARER\"\ntoken = \"hunter2\"\ntoken_endpoint = \"https://a\"",
            "local.sasl.token: token and token_endpoint",
        ),
        (
            "mechanism = \"OAUTHBEARER\"\ntoken_endpoint = \"https://me:hunter2@a\"",
            "local.sasl.token_endpoint: a URL with a user or a password",
        ),
        ("mechanism = \"OAUTHBEARER\"\ntoken_endpoint = \"ftp://a\"", "does not begin with https://"),
        (
            "mechanism = \"OAUTHBEARER\"\ntoken_endpoint = \"http://a\"\ntoken_endpoint_ca = \"/ca\"\nclient_id = \"a\"\nclient_secret = \"hunter2\"",
            "local.sasl.token_endpoint_ca: token_endpoint is http",
        ),
        (
            "mechanism = \"OAUTHBEARER\"\ntoken = \"hunter2\"\nextensions = { auth = \"x\" }",
            "local.sasl.extensions: \"auth\" can't be an extension",
        ),
    ] {
        let error = parse(&local(wrong)).unwrap_err().to_string();
        assert!(error.contains(says), "{wrong}\n{error}");
        assert!(!error.contains("hunter2") && !error.contains("7777"), "a secret is quoted: {error}");
        assert!(error.starts_with("proxy.toml:"), "without its line: {error}");
    }
    let region = LEAST.replace("[\"127.0.0.1:29092\"]", "[\"127.0.0.1:29092\"]\n[region.sasl]\nmechanism = \"PLAIN\"");
    let error = parse(&region).unwrap_err().to_string();
    assert!(error.contains("proxy.toml:13: region[0].sasl.username: PLAIN needs this key"), "{error}");
    let everything = parse(&format!("{LEAST}[admin]\ntoken_for = \"everything\"")).unwrap_err().to_string();
    assert!(everything.contains("admin.token: token_for = \"everything\" needs a token"), "{everything}");
}
