//! The documentation holds together: links lead somewhere, every page is in the book, every command line is one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Parser;
use diffluent_testbed::paths::normal;
use regex::Regex;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Markdown file of the repository that people read.
fn pages() -> Result<Vec<PathBuf>> {
    let mut pages = Vec::new();
    for directory in ["", "docs", "docs/runbook", "docs/decisions", "deploy", "deploy/prometheus"] {
        for entry in std::fs::read_dir(root().join(directory)).with_context(|| directory.to_owned())? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path.strip_prefix(root())?.to_owned());
            }
        }
    }
    pages.sort();
    Ok(pages)
}

/// Text without code, in which brackets and parentheses mean something else.
fn prose(text: &str) -> Result<String> {
    let blocks = Regex::new(r"(?ms)^ *```.*?^ *```")?;
    let spans = Regex::new(r"`[^`\n]*`")?;
    Ok(spans.replace_all(&blocks.replace_all(text, ""), "`code`").into_owned())
}

/// Where the relative links of a page lead, by path in the repository and heading.
fn links(page: &Path, text: &str) -> Result<Vec<(String, PathBuf, Option<String>)>> {
    let link = Regex::new(r"\]\(([^)\s]+)\)")?;
    let mut found = Vec::new();
    for target in link.captures_iter(&prose(text)?) {
        let target = &target[1];
        if target.contains("://") || target.starts_with("mailto:") {
            continue;
        }
        let (path, heading) = match target.split_once('#') {
            Some((path, heading)) => (path, Some(heading.to_owned())),
            None => (target, None),
        };
        let from = if path.is_empty() { page.to_owned() } else { page.parent().unwrap_or(Path::new("")).join(path) };
        found.push((target.to_owned(), normal(&from), heading));
    }
    Ok(found)
}

/// Headings as links name them.
fn headings(text: &str) -> BTreeSet<String> {
    let anchor = |heading: &str| -> String {
        let kept = heading
            .trim()
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .collect::<String>();
        kept.replace(' ', "-")
    };
    text.lines().filter(|line| line.starts_with('#')).map(|line| anchor(line.trim_start_matches('#'))).collect()
}

#[test]
fn every_relative_link_leads_somewhere() -> Result<()> {
    let mut broken = Vec::new();
    let mut count = 0;
    for page in pages()? {
        let text = std::fs::read_to_string(root().join(&page))?;
        for (target, path, heading) in links(&page, &text)? {
            count += 1;
            let there = root().join(&path);
            if !there.exists() {
                broken.push(format!("{}: {target}", page.display()));
            } else if let Some(heading) =
                heading.filter(|_| path.extension().is_some_and(|extension| extension == "md"))
                && !headings(&std::fs::read_to_string(&there)?).contains(&heading)
            {
                broken.push(format!("{}: {target} has no such heading", page.display()));
            }
        }
    }
    assert!(count > 100, "only {count} links found");
    assert!(broken.is_empty(), "{broken:#?}");
    Ok(())
}

#[test]
fn every_page_of_docs_is_in_the_book_once() -> Result<()> {
    let summary = std::fs::read_to_string(root().join("docs/SUMMARY.md"))?;
    let listed: Vec<PathBuf> =
        links(Path::new("docs/SUMMARY.md"), &summary)?.into_iter().map(|(_, path, _)| path).collect();
    let unique: BTreeSet<&PathBuf> = listed.iter().collect();
    assert_eq!(unique.len(), listed.len(), "a page is listed twice");
    for page in pages()?.iter().filter(|page| page.starts_with("docs") && !page.ends_with("SUMMARY.md")) {
        assert!(unique.contains(page), "{} is not in docs/SUMMARY.md", page.display());
    }
    Ok(())
}

#[test]
fn every_command_line_of_diffluent_in_the_documentation_is_one() -> Result<()> {
    let block = Regex::new(r"(?ms)^ *```(\w*)$(.*?)^ *```$")?;
    let span = Regex::new(r"`(diffluent [^`\n]*)`")?;
    let mut wrong = Vec::new();
    let mut count = 0;
    for page in pages()?.iter().filter(|page| !page.ends_with("CHANGELOG.md")) {
        let text = std::fs::read_to_string(root().join(page))?;
        let shell = |language: &str| matches!(language, "" | "sh" | "console");
        let blocks = block.captures_iter(&text).filter(|block| shell(&block[1])).flat_map(|block| {
            let lines = block[2].replace("\\\n", " ");
            lines.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>()
        });
        let spans = span.captures_iter(&text).map(|span| span[1].to_owned());
        for line in blocks.chain(spans).filter(|line| line.starts_with("diffluent ")) {
            let command = line.split([';', '|', '>', '&', '#']).next().unwrap_or_default();
            // What leaves something out, or says what may be left out.
            if ["...", "…", "<", "["].iter().any(|part| command.contains(part)) {
                continue;
            }
            // In capitals stands what stands for something else.
            let words: Vec<&str> = command
                .split_whitespace()
                .map(|word| match word.trim_matches(['\'', '"']) {
                    "ADDRESS" => "127.0.0.1:9644",
                    word if word.chars().all(|c| c.is_ascii_uppercase()) => "1",
                    word => word,
                })
                .collect();
            if words.len() == 2 {
                // The name of a command, not a line to be typed.
                let known = diffluent::cli::Arguments::try_parse_from([words[0], words[1], "--help"]);
                if known.is_err_and(|error| error.kind() == clap::error::ErrorKind::DisplayHelp)
                    || words[1].starts_with("--")
                    || words[1] == "is"
                {
                    continue;
                }
            }
            count += 1;
            match diffluent::cli::Arguments::try_parse_from(&words) {
                Ok(_) => {}
                Err(error) if !error.use_stderr() => {}
                Err(error) => wrong.push(format!("{}: {line}: {error}", page.display())),
            }
        }
    }
    assert!(count > 10, "only {count} command lines found");
    assert!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}
