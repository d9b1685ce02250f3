//! The table of docs/transparency.md, out of the code and of Kafka's own definitions.

use std::fmt::Write;

use anyhow::{Context, Result, ensure};
use diffluent::wire::rewrite::{self, Answer};
use diffluent::wire::versions::{self, API_VERSIONS, PRODUCE, SASL_HANDSHAKE};
use diffluent_testbed::definitions::{Api, Definitions};
use diffluent_testbed::kafka::Kafka;
use diffluent_testbed::{KAFKA, KAFKA_OLD};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/transparency.md");
const BEGIN: &str = "<!-- the table begins -->\n";
const END: &str = "<!-- the table ends -->\n";

/// Checks the table; writes it again where that is asked for.
pub async fn check() -> Result<()> {
    let table = table(&definitions(KAFKA).await?, &definitions(KAFKA_OLD).await?);
    let page = std::fs::read_to_string(PAGE).context(PAGE)?;
    let (before, rest) = page.split_once(BEGIN).context("the page has no beginning of a table")?;
    let (there, behind) = rest.split_once(END).context("the page has no end of the table")?;
    if std::env::var_os("UPDATE_DOCS").is_some() {
        return std::fs::write(PAGE, [before, BEGIN, &table, END, behind].concat()).context(PAGE);
    }
    ensure!(there == table, "docs/transparency.md is stale: UPDATE_DOCS=1 cargo test --test transparency the_table");
    Ok(())
}

async fn definitions(release: &str) -> Result<Definitions> {
    Definitions::of(&Kafka::fetch(release, &[]).await?)
}

fn table(newest: &Definitions, old: &Definitions) -> String {
    let mut text = format!(
        "| key | API | {KAFKA} | {KAFKA_OLD} | requests | answers | highest version |\n|---|---|---|---|---|---|---|\n"
    );
    for api in newest.apis().filter(|api| api.on_brokers) {
        let old = old.api(api.key).ok().filter(|old| old.on_brokers).map_or("-".to_owned(), offered);
        let highest = versions::inspected(api.key).map_or("any".to_owned(), |found| found.version_max.to_string());
        let (requests, answers) = (requests(api.key), answers(api));
        let (key, name, new) = (api.key, &api.name, offered(api));
        // Writing to a string does not fail.
        let _ = writeln!(text, "| {key} | {name} | {new} | {old} | {requests} | {answers} | {highest} |");
    }
    text
}

fn offered(api: &Api) -> String {
    range(&(0..=i16::MAX).take_while(|version| *version < 100).filter(|version| api.has(*version)).collect::<Vec<_>>())
}

fn range(versions: &[i16]) -> String {
    match versions {
        [] => "-".to_owned(),
        [one] => one.to_string(),
        [first, .., last] => format!("{first}-{last}"),
    }
}

fn requests(api_key: i16) -> &'static str {
    match api_key {
        PRODUCE => "read in passing: acks, topics, where the record batches lie",
        API_VERSIONS => "pass; a version that is too new asks for the answer that says so (KIP-511)",
        SASL_HANDSHAKE => "read in passing: raw tokens follow version 0 (KIP-152)",
        _ => "pass",
    }
}

fn answers(api: &Api) -> String {
    let what = |version: i16| match rewrite::answer(api.key, version) {
        Answer::Opaque => "pass",
        Answer::Head => "addresses rewritten",
        Answer::Tail(_) => "node endpoints rewritten, in large answers taken out",
        Answer::Versions => "cut to this table's highest versions",
    };
    let mut parts: Vec<(&str, Vec<i16>)> = Vec::new();
    for version in (0..100).filter(|version| api.has(*version)) {
        match parts.last_mut() {
            Some((same, versions)) if *same == what(version) => versions.push(version),
            _ => parts.push((what(version), vec![version])),
        }
    }
    match parts.as_slice() {
        [(only, _)] => (*only).to_owned(),
        several => {
            let several = several.iter().map(|(what, versions)| format!("{}: {what}", range(versions)));
            several.collect::<Vec<_>>().join("; ")
        }
    }
}
