//! What the admin port tells beside lag and metrics, and that openapi.json says so.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::monitor::{Monitor, Seen};
use super::summary::{Level, Summary};
use super::tests::{Port, region};
use super::*;
use crate::journal::Kind;
use crate::lag::State;

fn document() -> Value {
    serde_json::from_str(routes::OPENAPI).unwrap()
}

#[test]
fn the_openapi_document_has_every_route_and_no_other() {
    let document = document();
    let described: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, methods)| methods.as_object().unwrap().keys().map(|method| (path.clone(), method.clone())))
        .collect();
    let there: BTreeSet<(String, String)> =
        routes::routes().iter().map(|(path, method, _)| ((*path).to_owned(), (*method).to_owned())).collect();
    assert_eq!(described, there);
}

#[test]
fn every_kind_of_event_is_described() {
    let kinds: Vec<Value> = Kind::ALL.iter().map(|kind| serde_json::to_value(kind).unwrap()).collect();
    assert_eq!(document()["components"]["schemas"]["Event"]["properties"]["kind"]["enum"], json!(kinds));
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md")).unwrap();
    for kind in kinds {
        assert!(page.contains(&format!("`{}`", kind.as_str().unwrap())), "{kind} is not in docs/operations.md");
    }
}

#[tokio::test]
async fn every_route_answers_what_the_openapi_document_says() {
    let port = Port::well().await;
    port.journal.stream(Kind::StreamStalled, "ap", "orders", 0, "too large");
    let document = document();
    let operations = document["paths"].as_object().unwrap().iter().flat_map(|(path, methods)| {
        methods.as_object().unwrap().iter().map(move |(method, operation)| (path, method, operation))
    });
    for (path, method, operation) in operations {
        if path == "/stream" {
            continue;
        }
        let real = path
            .replace("{region}", "ap")
            .replace("{topic}", "orders")
            .replace("{partition}", "0")
            .replace("{file}", "page.css");
        let query = match path.rsplit('/').next() {
            Some("skip" | "rewind") => "?offset=93",
            Some("log") if method == "post" => "?filter=info,diffluent::session=debug",
            Some("throttle") => "?rate_limit=10MiB&catch_up_rate_limit=none",
            _ => "",
        };
        let (status, body) = port.request(&method.to_uppercase(), &format!("{real}{query}")).await;
        let (done, described) = operation["responses"].as_object().unwrap().iter().next().unwrap();
        assert_eq!(status.to_string(), *done, "{path}: {body}");
        let content = described["content"].as_object().unwrap();
        if let Some(json) = content.get("application/json") {
            let body: Value = serde_json::from_str(&body).unwrap_or_else(|e| panic!("{path}: {e}: {body}"));
            fits(&body, &json["schema"], &document, path);
        }
        // Every error that the document names and that can be had by a wrong name or query.
        for (code, wrong) in [
            ("404", real.replace("/ap", "/nowhere").replace(".css", ".nothing")),
            ("400", format!("{real}?nonsense=1")),
        ] {
            // What can be wrong with a reload is the file.
            let described = operation["responses"].get(code).filter(|_| path != "/reload");
            if let Some(described) = described {
                let (status, body) = port
                    .request(&method.to_uppercase(), &format!("{wrong}{}", if code == "404" { query } else { "" }))
                    .await;
                assert_eq!(status.to_string(), code, "{wrong}: {body}");
                let body: Value = serde_json::from_str(&body).unwrap();
                fits(&body, &described["content"]["application/json"]["schema"], &document, &wrong);
                assert_eq!(body["error_code"], status);
            }
        }
    }
    port.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_page_is_told_that_the_mirror_does_not_answer() {
    struct Stuck;
    impl LagSource for Stuck {
        fn lag(&self) -> LagFuture<'_> {
            Box::pin(std::future::pending())
        }

        fn regions(&self) -> Vec<String> {
            Vec::new()
        }
    }
    let port = Port::open(Arc::new(Stuck), Readiness::ready()).await;
    let mut stream = BufReader::new(TcpStream::connect(port.address).await.unwrap());
    stream.write_all(b"GET /stream HTTP/1.1\r\nHost: admin\r\n\r\n").await.unwrap();
    let mut lines = stream.lines();
    let told = loop {
        let line = lines.next_line().await.unwrap().unwrap();
        if let Some(data) = line.strip_prefix("data: ") {
            break serde_json::from_str::<Value>(data).unwrap();
        }
    };
    assert_eq!(told["headline"], "The mirror does not answer: what is shown is old.");
    port.close().await;
}

/// Holds a value against a schema, as far as openapi.json uses JSON Schema.
fn fits(value: &Value, schema: &Value, document: &Value, at: &str) {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.rsplit('/').next().unwrap();
        let schema = &document["components"]["schemas"][name];
        assert!(schema.is_object(), "{at}: there is no schema {name}");
        return fits(value, schema, document, at);
    }
    if let Some(either) = schema["oneOf"].as_array() {
        let schema = if value.is_null() { &json!({"type": "null"}) } else { &either[0] };
        return fits(value, schema, document, at);
    }
    if let Some(words) = schema["enum"].as_array() {
        assert!(words.contains(value), "{at}: {value} is not one of {words:?}");
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        kind => kind.as_str().into_iter().collect(),
    };
    let is = |kind: &&str| match *kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        _ => false,
    };
    assert!(kinds.iter().any(is), "{at}: {value} is not of type {kinds:?}");
    if let Some(items) = value.as_array() {
        items.iter().for_each(|item| fits(item, &schema["items"], document, &format!("{at}[]")));
    }
    if let Some(keys) = value.as_object() {
        for required in schema["required"].as_array().into_iter().flatten() {
            assert!(keys.contains_key(required.as_str().unwrap()), "{at}: {required} is missing in {value}");
        }
        for (key, value) in keys {
            match (&schema["properties"][key], &schema["additionalProperties"]) {
                (Value::Object(_), _) => fits(value, &schema["properties"][key], document, &format!("{at}.{key}")),
                (_, Value::Bool(false)) => panic!("{at}: {key} is not described"),
                (_, others @ Value::Object(_)) => fits(value, others, document, &format!("{at}.{key}")),
                _ => {}
            }
        }
    }
}

#[tokio::test]
async fn an_operators_command_is_an_event_with_who_and_what_came_of_it() {
    let port = Port::well().await;
    port.request("POST", "/regions/ap/topics/orders/partitions/0/skip?offset=93").await;
    port.request("POST", "/regions/ap/topics/orders/partitions/0/skip?offset=7").await;
    let (_, told) = port.json("/events").await;
    let events = told["events"].as_array().unwrap();
    assert_eq!(events.len(), 2, "{told}");
    for (event, says) in [(&events[1], "source offset 93: done, 4 records"), (&events[0], "another batch")] {
        assert_eq!((&event["kind"], &event["region"]), (&json!("command"), &json!("ap")));
        assert!(event["message"].as_str().unwrap().contains(says), "{event}");
        assert!(event["by"].as_str().unwrap().starts_with("127.0.0.1:"), "{event}");
        assert!(event["at_ms"].as_u64().unwrap() > 1_700_000_000_000, "{event}");
    }
    let (_, new) = port.json("/events?after=1&limit=5&region=ap").await;
    assert_eq!(new["events"].as_array().unwrap().len(), 1);
    assert_eq!(port.json("/events?region=us").await.1["events"], json!([]));
    port.close().await;
}

#[tokio::test]
async fn each_command_is_an_event_with_who_and_what_is_wrong_is_said() {
    let port = Port::well().await;
    let ann = "X-Forwarded-User: ann\r\n";
    let commands = [
        ("/regions/ap/pause", 202, "pause: done"),
        ("/regions/ap/topics/orders/resume", 202, "resume: done"),
        (
            "/regions/ap/throttle?rate_limit=10%20MiB",
            200,
            "throttle: done; a second, at most: sent 10 MiB, read to catch up none",
        ),
        (
            "/regions/ap/rewind?offset=10",
            202,
            "rewind to source offset 10: done; streams begun anew: 1, left as they are: 1; 83 offsets",
        ),
        (
            "/regions/ap/topics/orders/partitions/0/rewind?time=2026-11-27T02:00:00Z",
            202,
            "rewind to 2026-11-27T02:00:00Z: done",
        ),
        ("/regions/nowhere/pause", 404, "pause: there is no such region"),
    ];
    for (path, status, says) in commands {
        let (answered, body) = port.request_with("POST", path, ann).await;
        assert_eq!(answered, status, "{path}: {body}");
        let event = &port.json("/events?limit=1").await.1["events"][0];
        assert!(event["message"].as_str().unwrap().starts_with(says), "{event}");
        assert!(event["by"].as_str().unwrap().starts_with("ann at 127.0.0.1:"), "{event}");
    }
    let told = port.journal.last_number();
    for (path, says) in [
        ("/regions/ap/throttle", "no limit is named"),
        ("/regions/ap/throttle?rate_limit=10", "has no unit"),
        ("/regions/ap/throttle?rate_limit=1KiB", "at least 64 KiB; to send nothing, pause the region"),
        ("/regions/ap/throttle?rate=10MiB", "unknown field `rate`"),
        ("/regions/ap/rewind", "either an offset that is not negative, or a time"),
        ("/regions/ap/rewind?offset=-1", "either an offset that is not negative, or a time"),
        ("/regions/ap/rewind?offset=1&time=2026-11-27T02:00:00Z", "either an offset"),
        ("/regions/ap/rewind?time=yesterday", "\"yesterday\" is no time"),
        ("/regions/ap/topics/orders/partitions/first/rewind?offset=1", "first"),
    ] {
        let (status, body) = port.request("POST", path).await;
        assert_eq!(status, 400, "{path}: {body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert!(body["message"].as_str().unwrap().contains(says), "{path}: {body}");
    }
    assert_eq!(port.journal.last_number(), told, "what can't be read is no event");
    port.close().await;
}

#[tokio::test]
async fn a_reload_and_another_log_filter_are_taken_or_refused_with_the_reason() {
    let port = Port::well().await;
    let (status, body) = port.request("POST", "/reload").await;
    assert_eq!(status, 200, "{body}");
    let body: Value = serde_json::from_str(&body).unwrap();
    let change = json!({"key": "region.us.window", "before": "64 MiB", "after": null, "how": "live"});
    assert_eq!(body, json!({"changes": [change]}));
    let (status, body) = port.request_with("POST", "/reload", "X-Forwarded-User: bob\r\n").await;
    assert!(status == 503 && body.contains("still starting"), "{status} {body}");
    assert_eq!(port.json("/log").await.1["filter"], "info");
    let (status, body) = port.request("POST", "/log?filter=debug").await;
    assert_eq!(status, 200, "{body}");
    let (status, body) = port.request("POST", "/log?filter=%3D").await;
    assert!(status == 400 && body.contains("no; ?filter="), "{status} {body}");
    assert_eq!(port.json("/log").await.1["filter"], "debug");
    let event = &port.json("/events?limit=1").await.1["events"][0];
    assert_eq!(event["message"], "log: done, \"debug\" instead of \"info\"");
    port.close().await;
}

#[test]
fn a_region_that_was_taken_out_is_not_missed() {
    let monitor = Monitor::new();
    monitor.look(&[region("us", State::Mirroring, 0), region("ap", State::Mirroring, 0)], Instant::now(), 1000);
    monitor.keep(&["us".to_owned()]);
    let mut seen = monitor.watch();
    monitor.look(&[region("us", State::Mirroring, 0)], Instant::now(), 2000);
    let seen = seen.borrow_and_update().clone();
    assert_eq!((seen.regions.len(), seen.silent.len()), (1, 0));
}

#[tokio::test]
async fn another_sites_page_changes_nothing() {
    let port = Port::well().await;
    let path = "/regions/ap/topics/orders/partitions/0/skip?offset=93";
    for headers in ["Origin: https://elsewhere.example\r\n", "Origin: null\r\n", "Sec-Fetch-Site: cross-site\r\n"] {
        let (status, body) = port.request_with("POST", path, headers).await;
        assert_eq!(status, 403, "{headers}{body}");
    }
    assert_eq!(port.json("/events").await.1["events"], json!([]));
    let (status, body) =
        port.request_with("POST", path, "Origin: http://127.0.0.1\r\nSec-Fetch-Site: same-origin\r\n").await;
    assert_eq!(status, 200, "{body}");
    port.close().await;
}

#[tokio::test]
async fn topics_and_partitions_are_searched_sorted_and_bounded() {
    struct Many;
    impl LagSource for Many {
        fn lag(&self) -> LagFuture<'_> {
            Box::pin(async {
                let mut region = region("us", State::Mirroring, 0);
                let one = region.topics[0].clone();
                region.topics = (0..10_000)
                    .map(|number| {
                        let mut topic = one.clone();
                        topic.topic = format!("topic-{number:05}");
                        topic.lag_records = number;
                        topic.state = if number == 4_321 { State::Stalled } else { State::Mirroring };
                        topic
                    })
                    .collect();
                let partition = one.partitions[0].clone();
                region.topics[7].partitions = (0..10_000)
                    .map(|number| PartitionLag {
                        partition: number,
                        lag_records: u64::from(number == 77),
                        ..partition.clone()
                    })
                    .collect();
                vec![region]
            })
        }

        fn regions(&self) -> Vec<String> {
            vec!["us".into()]
        }
    }
    use crate::lag::PartitionLag;
    let port = Port::open(Arc::new(Many), Readiness::ready()).await;
    let (_, worst) = port.json("/regions/us/topics").await;
    assert_eq!((&worst["total"], &worst["matched"]), (&json!(10_000), &json!(10_000)));
    assert_eq!(worst["topics"].as_array().unwrap().len(), 100);
    assert_eq!(worst["topics"][0]["topic"], "topic-04321");
    assert_eq!(worst["topics"][1]["topic"], "topic-09999");
    let (_, found) = port.json("/regions/us/topics?search=0432&sort=name&reverse=true&limit=3").await;
    assert_eq!((&found["matched"], &found["topics"][0]["topic"]), (&json!(11), &json!("topic-04329")), "{found}");
    assert_eq!(port.json("/regions/us/topics?search=stalled").await.1["matched"], 1);
    let (_, most) = port.json("/regions/us/topics?limit=100000").await;
    assert_eq!(most["topics"].as_array().unwrap().len(), topics::ROWS_MAX);
    let (_, partitions) = port.json("/regions/us/topics/topic-00007?limit=2").await;
    assert_eq!((&partitions["partitions"], &partitions["rows"][0]["partition"]), (&json!(10_000), &json!(77)));
    assert_eq!(partitions["rows"].as_array().unwrap().len(), 2);
    let (status, wrong) = port.json("/regions/us/topics?sort=beauty").await;
    assert_eq!(status, 400);
    assert!(wrong["message"].as_str().unwrap().contains("sort=worst|name"), "{wrong}");
    port.close().await;
}

#[tokio::test]
async fn the_stream_tells_a_summary_without_topics_at_once_and_again_and_ends_with_the_port() {
    let port = Port::well().await;
    let mut stream = TcpStream::connect(port.address).await.unwrap();
    stream.write_all(b"GET /stream HTTP/1.1\r\nHost: admin\r\n\r\n").await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    let mut told = Vec::new();
    while told.len() < 2 {
        let line =
            timeout(Duration::from_secs(20), lines.next_line()).await.expect("nothing is told").unwrap().unwrap();
        if let Some(data) = line.strip_prefix("data: ") {
            let summary: Value = serde_json::from_str(data).unwrap();
            let document = document();
            fits(&summary, &document["components"]["schemas"]["Summary"], &document, "/stream");
            assert_eq!(
                (&summary["level"], &summary["headline"]),
                (&json!("bad"), &json!("ap: 1 of 1 streams stalled."))
            );
            told.push(summary);
        }
    }
    assert!(told[1]["at_ms"].as_u64() >= told[0]["at_ms"].as_u64());
    port.close().await;
}

#[tokio::test]
async fn more_pages_than_there_are_places_for_are_refused() {
    let port = Port::well().await;
    let mut open = Vec::new();
    for _ in 0..live::STREAMS_MAX {
        let mut stream = BufReader::new(TcpStream::connect(port.address).await.unwrap());
        stream.write_all(b"GET /stream HTTP/1.1\r\nHost: admin\r\n\r\n").await.unwrap();
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        assert!(line.starts_with("HTTP/1.1 200"), "{line}");
        open.push(stream);
    }
    let (status, body) = port.json("/stream").await;
    assert_eq!((status, &body["error_code"]), (503, &json!(503)), "{body}");
    port.close().await;
}

#[test]
fn the_last_hour_is_kept_in_steps_of_ten_seconds_the_worst_of_each() {
    let monitor = Monitor::new();
    let start = Instant::now();
    for second in 0..2 * 3600_u64 {
        let behind = u64::from(second % 10 == 3) * second;
        let lag = [region("us", State::Mirroring, behind)];
        monitor.look(&lag, start + Duration::from_secs(second), 1_000_000_000_000 + second * 1000);
    }
    let history = monitor.history("us").unwrap();
    assert_eq!(history.at_ms.len(), 360);
    assert_eq!(history.at_ms[359] - history.at_ms[0], 359 * 10_000);
    assert_eq!((history.lag_records[0], history.lag_records[359]), (3603, 7193));
    assert!(monitor.history("eu").is_none());
}

#[test]
fn a_state_is_known_with_when_it_began_and_a_region_that_falls_silent_is_named() {
    let monitor = Monitor::new();
    let start = Instant::now();
    let at = |second: u64| (start + Duration::from_secs(second), second * 1000);
    let look = |states: &[(&str, State)], second| {
        let lag: Vec<RegionLag> = states.iter().map(|(name, state)| region(name, *state, 5)).collect();
        let (now, now_ms) = at(second);
        monitor.look(&lag, now, now_ms);
    };
    look(&[("us", State::Mirroring), ("ap", State::Mirroring)], 1);
    look(&[("us", State::Unreachable), ("ap", State::Mirroring)], 2);
    look(&[("us", State::Unreachable)], 3);
    assert_eq!(monitor.since_ms("us", State::Unreachable), 2000);
    assert_eq!(monitor.since_ms("us", State::Mirroring), 0);
    let mut seen = monitor.watch();
    let summary = Summary::new(&seen.borrow_and_update(), &Readiness::ready(), 0, "test");
    assert_eq!(summary.regions[0].state_since_ms, 2000);
    assert_eq!(
        summary.headline,
        "ap: its task does not answer; see the log · us can't be reached: 5 records, 2 s behind."
    );
}

#[test]
fn a_stall_that_is_tried_again_is_still_a_stall() {
    let monitor = Monitor::new();
    let start = Instant::now();
    let look = |state, second: u64| {
        let mut seen = monitor.watch();
        monitor.look(&[region("us", state, 5)], start + Duration::from_secs(second), second * 1000);
        let region = seen.borrow_and_update().regions[0].clone();
        (region.state, region.state_since_ms, region.streams_by_state.keys().copied().collect::<Vec<_>>())
    };
    assert_eq!(look(State::Stalled, 1), (State::Stalled, 1000, vec![State::Stalled]));
    assert_eq!(look(State::CatchingUp, 3), (State::Stalled, 1000, vec![State::Stalled]));
    assert_eq!(look(State::Stalled, 4), (State::Stalled, 1000, vec![State::Stalled]));
    assert_eq!(look(State::Starting, 5), (State::Stalled, 1000, vec![State::Stalled]));
    assert_eq!(look(State::CatchingUp, 11), (State::CatchingUp, 11_000, vec![State::CatchingUp]));
    assert_eq!(look(State::Stalled, 12), (State::Stalled, 12_000, vec![State::Stalled]));
    assert_eq!(look(State::Mirroring, 13), (State::Mirroring, 13_000, vec![State::Mirroring]));
}

#[test]
fn one_line_says_whether_all_is_well() {
    let said = |regions: &[RegionLag], readiness: &Readiness| {
        let seen = Seen {
            answered: true,
            at_ms: 60_000,
            regions: regions.iter().map(summary::RegionSummary::of).collect(),
            ..Seen::default()
        };
        let summary = Summary::new(&seen, readiness, 0, "test");
        (summary.level, summary.headline)
    };
    let ready = Readiness::ready();
    let well = [region("us", State::Mirroring, 0), region("ap", State::Mirroring, 0)];
    assert_eq!(said(&well, &ready), (Level::Well, "All is well: all 2 regions keep up.".into()));
    assert_eq!(said(&well[..1], &ready), (Level::Well, "All is well: us keeps up.".into()));
    assert_eq!(said(&[], &ready), (Level::Well, "Clients are served; no region is mirrored to.".into()));
    let mut behind = region("us", State::CatchingUp, 9_000);
    assert_eq!(
        said(&[behind.clone()], &ready),
        (Level::Behind, "us catches up: 9,000 records, 2 s behind, not getting better.".into())
    );
    behind.rates.caught_up_in_seconds = Some(400.0);
    let both = said(&[behind, region("ap", State::Stalled, 4)], &ready);
    assert_eq!(
        both,
        (
            Level::Bad,
            "us catches up: 9,000 records, 2 s behind, done in about 7 min · ap: 1 of 1 streams stalled.".into()
        )
    );
    let waiting = Readiness::waiting_for(["the local cluster to answer".to_owned()]);
    assert_eq!(
        said(&[], &waiting),
        (Level::Bad, "No client is served yet: waiting for the local cluster to answer.".into())
    );
    let silent = Summary::new(&Seen::default(), &ready, 0, "test");
    assert_eq!(silent.headline, "The mirror does not answer: what is shown is old.");
}

#[tokio::test]
async fn the_page_comes_with_a_policy_that_lets_nothing_in_from_elsewhere() {
    let port = Port::well().await;
    let (status, page) = port.get("/").await;
    assert_eq!(status, 200);
    for link in page.split('"').filter(|part| part.starts_with("/page/")) {
        assert_eq!(port.get(link).await.0, 200, "{link}");
    }
    assert!(!page.contains("http"), "the page names another site");
    assert!(!page.contains("style=") && !page.contains("<script>") && !page.contains("onclick"), "nothing is inline");
    let mut stream = TcpStream::connect(port.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    let mut policy = None;
    while let Some(line) = lines.next_line().await.unwrap().filter(|line| !line.is_empty()) {
        if let Some(value) = line.strip_prefix("content-security-policy: ") {
            policy = Some(value.to_owned());
        }
    }
    let policy = policy.expect("no policy");
    assert!(
        policy.starts_with("default-src 'none'") && !policy.contains("unsafe") && !policy.contains('*'),
        "{policy}"
    );
    port.close().await;
}

#[test]
fn what_can_be_done_is_told_beside_why() {
    use crate::lag::remedy;
    let reason = "the region refuses the batch: MESSAGE_TOO_LARGE (10); raise max.message.bytes; or skip it";
    assert_eq!(remedy(State::Stalled, Some(reason)).as_deref(), Some("raise max.message.bytes; or skip it"));
    assert_eq!(remedy(State::Mirroring, None), None);
    assert!(remedy(State::Unreachable, None).unwrap().contains("goes on by itself"));
}
