//! proxy.toml as text, with what a person has to look at in comments.

use std::fmt::{self, Write};

use super::mm2::{Source, Target};
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
    writeln!(out, "start = \"{}\"", if region.start == Start::Latest { "latest" } else { "earliest" })
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
