//! proxy.toml as text, with what a person has to look at in comments.

use std::fmt::{self, Write};

use super::mm2::{Source, Target};
use super::security::Security;
use crate::config::Start;

pub(super) fn text(source: &Source) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write(&mut text, source);
    text
}

fn write(out: &mut String, source: &Source) -> fmt::Result {
    writeln!(
        out,
        "# diffluent in front of cluster {}, made from a MirrorMaker 2 configuration.",
        one_line(&source.alias)
    )?;
    writeln!(out, "# MirrorMaker says nothing about clients: see that these addresses fit where the proxy runs.")?;
    writeln!(out, "[proxy]\nname = {}", quoted(&source.name))?;
    writeln!(out, "listen = \"127.0.0.1:9092\"\nadvertise = \"127.0.0.1\"\nbroker_ports = \"9100-9199\"\n")?;
    writeln!(out, "[local]\nbootstrap_servers = {}", list(&source.bootstrap_servers))?;
    security(out, "local", &source.security)?;
    source.regions.iter().try_for_each(|region| target(out, region))
}

fn target(out: &mut String, region: &Target) -> fmt::Result {
    writeln!(out, "\n[[region]]\nname = {}", quoted(&region.name))?;
    writeln!(out, "bootstrap_servers = {}", list(&region.bootstrap_servers))?;
    writeln!(out, "topics = {}", list(&region.topics))?;
    if !region.exclude_topics.is_empty() {
        writeln!(out, "exclude_topics = {}", list(&region.exclude_topics))?;
    }
    if let Some(template) = &region.topic_name {
        writeln!(out, "topic_name = {}", quoted(template))?;
    }
    writeln!(
        out,
        "# For topics that diffluent has not mirrored to this region yet. What MirrorMaker has mirrored is not known to it: docs/migration.md."
    )?;
    writeln!(out, "start = \"{}\"", if region.start == Start::Latest { "latest" } else { "earliest" })?;
    security(out, "region", &region.security)
}

/// How a cluster is reached, in tables of its own.
fn security(out: &mut String, table: &str, security: &Security) -> fmt::Result {
    if let Some(tls) = &security.tls {
        writeln!(out, "\n[{table}.tls]")?;
        for (key, value) in [("ca", &tls.ca), ("certificate", &tls.certificate), ("key", &tls.key)] {
            if let Some(value) = value {
                writeln!(out, "{key} = {}", quoted(value))?;
            }
        }
    }
    if let Some(sasl) = &security.sasl {
        writeln!(out, "\n[{table}.sasl]\nmechanism = {}", quoted(&sasl.mechanism))?;
        sasl.keys.iter().try_for_each(|(key, value)| writeln!(out, "{key} = {}", quoted(value)))?;
        sasl.secrets.iter().try_for_each(|(key, name)| writeln!(out, "{key} = {{ env = {} }}", quoted(name)))?;
        if let Some(file) = &sasl.token_file {
            writeln!(out, "token = {{ file = {} }}", quoted(file))?;
        }
        if !sasl.extensions.is_empty() {
            let pairs: Vec<String> =
                sasl.extensions.iter().map(|(name, value)| format!("{name} = {}", quoted(value))).collect();
            writeln!(out, "extensions = {{ {} }}", pairs.join(", "))?;
        }
    }
    Ok(())
}

/// Without quotes of its own a text could end a comment.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn list(items: &[String]) -> String {
    let quoted: Vec<String> = items.iter().map(|item| quoted(item)).collect();
    format!("[{}]", quoted.join(", "))
}
