use super::*;
use crate::config::{Config, Start};

/// What is made of `text`, whose files must be valid.
fn made(text: &str) -> (Vec<Config>, Import) {
    let import = import(text.as_bytes()).unwrap();
    let configs = import
        .files
        .iter()
        .map(|file| Config::parse(&file.name, &file.text).unwrap_or_else(|error| panic!("{error}\n{}", file.text)));
    (configs.collect(), import)
}

/// The one note about `key`.
fn note<'a>(import: &'a Import, key: &str) -> &'a Note {
    let mut notes = import.notes.iter().filter(|note| note.key == key);
    let note = notes.next().unwrap_or_else(|| panic!("nothing is said about {key}: {import}"));
    assert!(notes.next().is_none(), "{key} is told twice: {import}");
    note
}

/// What Apache Kafka comes with as config/connect-mirror-maker.properties.
const SAMPLE: &str = r"
clusters = A, B
A.bootstrap.servers = A_host1:9092, A_host2:9092, A_host3:9092
B.bootstrap.servers = B_host1:9092, B_host2:9092, B_host3:9092
A->B.enabled = true
A->B.topics = .*
B->A.enabled = true
B->A.topics = .*
replication.factor=1
checkpoints.topic.replication.factor=1
heartbeats.topic.replication.factor=1
offset-syncs.topic.replication.factor=1
offset.storage.replication.factor=1
status.storage.replication.factor=1
config.storage.replication.factor=1
# replication.policy.separator = _
";

#[test]
fn the_sample_of_apache_kafka_becomes_a_configuration_for_each_direction() {
    let (configs, import) = made(SAMPLE);
    let names: Vec<&str> = import.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["A.toml", "B.toml"]);
    let (a, b) = (&configs[0], &configs[1]);
    assert_eq!((a.proxy.name.as_str(), a.region[0].name.as_str()), ("A", "B"));
    assert_eq!((b.proxy.name.as_str(), b.region[0].name.as_str()), ("B", "A"));
    assert_eq!(a.local.bootstrap_servers[2].to_string(), "A_host3:9092");
    assert_eq!(a.region[0].bootstrap_servers[1].to_string(), "B_host2:9092");
    assert_eq!(a.region[0].topic_in_region("A", "orders"), "A.orders");
    for (topic, selected) in [
        ("orders", true),
        ("A.orders", true),
        ("Bs", true),
        // What has come from there, on whatever way, does not go back.
        ("B.orders", false),
        ("C.B.orders", false),
        // Internal topics of Kafka, Kafka Connect and MirrorMaker.
        ("__consumer_offsets", false),
        ("mm2-offset-syncs.B.internal", false),
        ("A.checkpoints.internal", false),
        ("connect-configs-internal", false),
        ("heartbeats", false),
        ("A.heartbeats", false),
        ("orders.replica", false),
    ] {
        assert_eq!(a.region[0].selects(topic), selected, "{topic}");
    }
    assert_eq!(note(&import, "replication.factor").weight, Weight::Decide);
    for unneeded in [
        "checkpoints.topic.replication.factor",
        "heartbeats.topic.replication.factor",
        "offset.storage.replication.factor",
    ] {
        assert_eq!(note(&import, unneeded).weight, Weight::Know, "{unneeded}");
    }
    assert_eq!(note(&import, "offset.storage.replication.factor").line, 13);
    assert_eq!(import.exit_code(), 1);
}

#[test]
fn a_standby_cluster_needs_no_proxy_and_settings_that_are_not_carried_over_are_told_though_the_file_is_silent() {
    let (configs, import) = made(
        "clusters = primary, secondary\nprimary.bootstrap.servers = broker3-primary:9092\n\
         secondary.bootstrap.servers = broker5-secondary:9092\nprimary->secondary.enabled = true\n\
         primary->secondary.topics = foobar-topic, quux-.*\nsecondary->primary.enabled = false\n",
    );
    assert_eq!(configs.len(), 1);
    let region = &configs[0].region[0];
    assert!(region.selects("foobar-topic") && region.selects("quux-7") && !region.selects("quux"), "{region:?}");
    assert_eq!(region.start, Start::Earliest);
    let untold = note(&import, "sync.topic.configs.enabled");
    assert_eq!((untold.weight, untold.line), (Weight::Decide, 0));
    assert_eq!(import.notes(Weight::Decide).count(), 1, "{import}");
    assert!(import.to_string().ends_with(
        "Run a proxy with primary.toml in front of cluster primary. `diffluent check` tells whether it works."
    ));
}

#[test]
fn a_flow_wins_over_everybody_and_what_is_switched_off_is_not_missed() {
    let (configs, import) = made(
        "clusters = a, b, c\na.bootstrap.servers = h:1\nb.bootstrap.servers = h:2\nc.bootstrap.servers = PLAINTEXT://h:3,PLAINTEXT://[::1]:3\n\
         topics = everyone\ntopics.exclude = not-.*\na->b.enabled = true\na->b.topics = own\na->b.topics.blacklist = own-.*\n\
         a->c.enabled = TRUE\na.consumer.auto.offset.reset = latest\na->c.source.consumer.auto.offset.reset = earliest\n\
         sync.topic.configs.enabled = false\nsync.topic.acls.enabled = false\nsync.group.offsets.enabled = false\n\
         emit.heartbeats.enabled = false\n",
    );
    let [b, c] = &configs[0].region[..] else { panic!("{configs:?}") };
    assert!(b.selects("own") && !b.selects("everyone") && !b.selects("own-1"), "{b:?}");
    assert!(c.selects("everyone") && !c.selects("own") && !c.selects("not-1"), "{c:?}");
    assert_eq!((b.start, c.start), (Start::Latest, Start::Earliest));
    assert_eq!(c.bootstrap_servers[1].to_string(), "[::1]:3");
    assert_eq!(import.exit_code(), 0, "{import}");
    assert!(import.notes.iter().all(|note| note.key != "topics" && note.key != "topics.exclude"), "{import}");
}

#[test]
fn identity_names_stay_as_they_are_and_other_separators_are_kept() {
    let flow = "clusters = a, b\na.bootstrap.servers = h:1\nb.bootstrap.servers = h:2\na->b.enabled = true\nsync.topic.configs.enabled = false\n";
    let identity = "replication.policy.class = org.apache.kafka.connect.mirror.IdentityReplicationPolicy\n";
    let (configs, import) = made(&format!("{flow}{identity}"));
    assert_eq!(configs[0].region[0].topic_in_region("a", "orders"), "orders");
    // Nothing in a name tells where it came from.
    assert!(configs[0].region[0].selects("b.orders"));
    assert_eq!(import.exit_code(), 0, "{import}");
    let (configs, _) = made(&format!("{flow}replication.policy.separator = __\n"));
    assert_eq!(configs[0].region[0].topic_in_region("a", "topic1"), "a__topic1");
    assert!(!configs[0].region[0].selects("b__topic1") && configs[0].region[0].selects("b.topic1"));
    let (_, import) = made(&format!("{flow}a->b.replication.policy.class = com.example.Mine\n"));
    assert!(note(&import, "a->b.replication.policy.class").what.contains("what Mine calls topics"), "{import}");
}

/// What MirrorMaker's own tests with real clusters are set up with.
const TESTED: &str = r"
clusters = primary, backup
primary->backup.enabled = true
backup->primary.enabled = true
primary.bootstrap.servers = localhost:39001
backup.bootstrap.servers = localhost:39002
topics = test-topic-.*, primary.test-topic-.*, backup.test-topic-.*
groups = consumer-group-.*
config.properties.exclude = delete\\.retention\\..*
sync.topic.configs.interval.seconds = 1
sync.topic.acls.enabled = false
sync.group.offsets.enabled = true
sync.group.offsets.interval.seconds = 1
offset.lag.max = 10
emit.checkpoints.interval.seconds = 1
emit.heartbeats.interval.seconds = 1
refresh.topics.interval.seconds = 1
refresh.groups.interval.seconds = 1
replication.factor = 1
primary.offset.flush.interval.ms = 5000
primary->backup.offset-syncs.topic.location = target
use.defaults.from = source
backup.exactly.once.source.support = enabled
primary.consumer.isolation.level = read_committed
dedicated.mode.enable.internal.rest = true
listeners = http://localhost:0
backup.scheduled.rebalance.max.delay.ms = 1000
backup->primary.emit.heartbeats.enabled = false
forwarding.admin.class = org.example.FakeForwardingAdminWithLocalMetadata
producer.batch.size = 1048576
primary.producer.linger.ms = 5
xxx = yyy
";

#[test]
fn what_mirrormakers_own_tests_set_is_used_or_told() {
    let (configs, import) = made(TESTED);
    assert_eq!(configs.len(), 2);
    assert!(configs[0].region[0].selects("test-topic-1") && !configs[0].region[0].selects("backup.test-topic-1"));
    for (key, weight, part) in [
        ("sync.group.offsets.enabled", Weight::Decide, "consumer groups"),
        ("forwarding.admin.class", Weight::Decide, "create them by your own means"),
        ("replication.factor", Weight::Decide, "default.replication.factor"),
        ("groups", Weight::Know, "consumer groups"),
        ("config.properties.exclude", Weight::Know, "settings of topics"),
        ("offset.lag.max", Weight::Know, "every second"),
        ("primary.offset.flush.interval.ms", Weight::Know, "Kafka Connect's"),
        ("primary->backup.offset-syncs.topic.location", Weight::Know, "offset syncs"),
        ("backup.exactly.once.source.support", Weight::Know, "once, always"),
        ("primary.consumer.isolation.level", Weight::Know, "aborted"),
        ("dedicated.mode.enable.internal.rest", Weight::Know, "Kafka Connect's"),
        ("backup->primary.emit.heartbeats.enabled", Weight::Know, "the lag is measured"),
        ("producer.batch.size", Weight::Know, "`window`"),
        ("primary.producer.linger.ms", Weight::Know, "`window`"),
        ("xxx", Weight::Know, "does nothing with it"),
    ] {
        let note = note(&import, key);
        assert!(note.weight == weight && note.what.contains(part), "{key}: {note:?}");
    }
    // Nothing is dropped without a word: a property is in a file, or in a note.
    let used = [
        "clusters",
        "topics",
        "primary->backup.enabled",
        "backup->primary.enabled",
        "primary.bootstrap.servers",
        "backup.bootstrap.servers",
    ];
    for key in properties::parse(TESTED.as_bytes()).unwrap().keys() {
        assert!(used.contains(&key.as_str()) || import.notes.iter().any(|note| note.key == *key), "{key} is dropped");
    }
}

#[test]
fn what_cannot_be_taken_over_is_told_with_what_it_means() {
    let flow = "clusters = a, b\na.bootstrap.servers = h:1\nb.bootstrap.servers = h:2\na->b.enabled = true\n";
    let import = |more: &str| import(format!("{flow}{more}").as_bytes()).unwrap();
    let looking_around = import("a->b.topics = (?!secret).*\n");
    assert!(note(&looking_around, "a->b.topics").what.contains("no topic is mirrored by it"), "{looking_around}");
    assert!(
        note(&looking_around, "a.toml").what.contains("region[0].topics"),
        "nothing must not become everything: {looking_around}"
    );
    let left_in = import("topics.exclude = (?!public).*\n");
    assert!(note(&left_in, "topics.exclude").what.contains("topics that it leaves out are mirrored"), "{left_in}");
    let transformed = import("a->b.transforms = Mask\na->b.transforms.Mask.type = X\n");
    assert_eq!(note(&transformed, "a->b.transforms").weight, Weight::Decide);
    let provided = import("b.bootstrap.servers = ${file:/etc/kafka:servers}\n");
    assert_eq!(note(&provided, "b.bootstrap.servers").weight, Weight::Decide);
    let none =
        super::import(b"clusters = a, b\na.bootstrap.servers = h:1\nb.bootstrap.servers = h:2\na->b.topics = x\n")
            .unwrap();
    assert!(
        none.files.is_empty() && none.to_string().ends_with("No flow is enabled: there is nothing to run."),
        "{none}"
    );
    let connector = super::import(b"name = mm2\nconnector.class = MirrorSourceConnector\n").unwrap();
    assert!(note(&connector, "clusters").what.contains("connect-mirror-maker.sh"), "{connector}");
}

#[test]
fn a_name_that_is_none_here_is_changed_and_told() {
    let (configs, import) = made(
        "clusters = us east, b\nus\\ east.bootstrap.servers = h:1\nb.bootstrap.servers = h:2\nus\\ east->b.enabled = true\n",
    );
    assert_eq!(configs[0].proxy.name.as_str(), "us_east");
    assert!(note(&import, "clusters").what.contains("\"us east\" can't be a name here"), "{import}");
}

#[test]
fn what_goes_on_over_a_third_cluster_is_told() {
    let servers =
        "clusters = a, b, c\na.bootstrap.servers = h:1\nb.bootstrap.servers = h:2\nc.bootstrap.servers = h:3\n";
    let (_, import) = made(&format!("{servers}a->b.enabled = true\nb->c.enabled = true\n"));
    assert!(note(&import, "a->b, b->c").what.contains("add c as a region of a's proxy"), "{import}");
    // In both directions there is no third.
    let (_, import) = made(&format!("{servers}a->b.enabled = true\nb->a.enabled = true\n"));
    assert!(import.notes.iter().all(|note| !note.key.contains(", ")), "{import}");
}

#[test]
fn whatever_is_in_the_file_the_text_is_one_document_or_says_why_not() {
    // Quotes, line ends and comments in values must not become keys.
    let evil = "clusters = a\\u0022\\nevil, b\na\\u0022\\nevil->b.enabled = true\na->b.topics = x\nb.bootstrap.servers = h:1\\u0022]\\n[admin]\\n\n";
    let import = import(evil.as_bytes()).unwrap();
    let text = &import.files[0].text;
    assert!(!text.lines().any(|line| line.starts_with("[admin]") || line.starts_with("evil")), "{text}");
}

#[test]
fn tls_and_sasl_go_to_the_cluster_that_they_are_for_and_secrets_are_not_copied() {
    let import = import(
        br#"clusters = a, b
a.bootstrap.servers = h:1
b.bootstrap.servers = h:2
a->b.enabled = true
sync.topic.configs.enabled = false
security.protocol = SSL
ssl.truststore.location = /etc/kafka/trust.jks
ssl.truststore.password = hunter1
b.security.protocol = PLAINTEXT
b.producer.security.protocol = SASL_SSL
b.ssl.truststore.type = PEM
b.ssl.truststore.location = /etc/kafka/b.pem
b.sasl.mechanism = SCRAM-SHA-512
b.sasl.jaas.config = org.apache.kafka.common.security.scram.ScramLoginModule required \
    username="mirror" password="hunter2";
b.ssl.endpoint.identification.algorithm =
"#,
    )
    .unwrap();
    let text = &import.files[0].text;
    for part in [
        "[local.tls]\nca = \"/etc/kafka/trust.jks.pem\"\n",
        "[region.tls]\nca = \"/etc/kafka/b.pem\"\n",
        "[region.sasl]\nmechanism = \"SCRAM-SHA-512\"\nusername = \"mirror\"\npassword = { env = \"KAFKA_B_PASSWORD\" }\n",
    ] {
        assert!(text.contains(part), "lacks {part}: {text}");
    }
    assert!(
        !text.contains("[local.sasl]") && !text.contains("hunter") && !import.to_string().contains("hunter"),
        "{text}\n{import}"
    );
    assert!(
        note(&import, "ssl.truststore.location").what.contains("keytool -list -rfc -keystore /etc/kafka/trust.jks"),
        "{import}"
    );
    assert!(note(&import, "b.sasl.jaas.config").what.contains("KAFKA_B_PASSWORD"), "{import}");
    assert!(note(&import, "b.ssl.endpoint.identification.algorithm").what.contains("always checked"), "{import}");
    let kerberos = super::import(
        b"clusters = a, b\na.bootstrap.servers = h:1\nb.bootstrap.servers = h:2\na->b.enabled = true\nsecurity.protocol = SASL_PLAINTEXT\n",
    );
    assert!(kerberos.unwrap().to_string().contains("GSSAPI is not spoken here"));
}

#[test]
fn every_way_to_a_token_becomes_a_table_that_a_configuration_takes() {
    let with = |more: &str| {
        let text = format!(
            "clusters = a, b\na.bootstrap.servers = h:1\nb.bootstrap.servers = h:2\na->b.enabled = true\nsync.topic.configs.enabled = false\n\
             b.security.protocol = SASL_SSL\nb.sasl.mechanism = OAUTHBEARER\n{more}"
        );
        let (configs, import) = made(&text);
        assert_eq!(configs.len(), 1, "{import}");
        assert!(!import.to_string().contains("hunter"), "{import}");
        import
    };
    let jaas = r#"org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required"#;
    let asked = with(&format!(
        "b.sasl.oauthbearer.token.endpoint.url = https://login.example.com/t\n\
         b.sasl.jaas.config = {jaas} clientId=\"me\" clientSecret=\"hunter2\" scope=\"kafka\" extension_logicalCluster=\"lkc-1\" extension_identityPoolId='pool-1';\n"
    ));
    let table = "[region.sasl]\nmechanism = \"OAUTHBEARER\"\ntoken_endpoint = \"https://login.example.com/t\"\nclient_id = \"me\"\nscope = \"kafka\"\n\
                 client_secret = { env = \"KAFKA_B_CLIENT_SECRET\" }\nextensions = { logicalCluster = \"lkc-1\", identityPoolId = \"pool-1\" }\n";
    assert!(asked.files[0].text.contains(table), "{}", asked.files[0].text);
    // As Kafka 4.1 has it.
    let asked = with(
        "b.sasl.oauthbearer.token.endpoint.url = https://login.example.com/t\nb.sasl.oauthbearer.client.credentials.client.id = me\n\
         b.sasl.oauthbearer.client.credentials.client.secret = hunter2\nb.sasl.oauthbearer.scope = kafka\n",
    );
    assert!(
        asked.files[0].text.contains("client_id = \"me\"\nscope = \"kafka\"\nclient_secret = { env"),
        "{}",
        asked.files[0].text
    );
    let renewed = with("b.sasl.oauthbearer.token.endpoint.url = file:///run/secrets/token\n");
    let table = "[region.sasl]\nmechanism = \"OAUTHBEARER\"\ntoken = { file = \"/run/secrets/token\" }\n";
    assert!(renewed.files[0].text.contains(table), "{}", renewed.files[0].text);
    let nothing = with(&format!("b.sasl.jaas.config = {jaas};\n"));
    assert!(nothing.to_string().contains("no endpoint that gives tokens"), "{nothing}");
    assert!(nothing.files[0].text.contains("token = { env = \"KAFKA_B_TOKEN\" }"), "{}", nothing.files[0].text);
}
