//! The documentation as a site: mdBook itself builds it, complains about nothing, and no link in what it has made is dead.
//!
//! It lies in `target/book` afterwards, as after `mdbook build`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, anyhow, ensure};
use diffluent_testbed::paths::normal;
use mdbook_driver::MDBook;
use regex::Regex;

fn root() -> PathBuf {
    normal(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
}

/// What is logged.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Every page under `directory`, by its path there.
fn pages(directory: &Path, found: &mut BTreeMap<PathBuf, String>, base: &Path) -> Result<()> {
    for entry in std::fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            pages(&path, found, base)?;
        } else if path.extension().is_some_and(|extension| extension == "html") {
            found.insert(path.strip_prefix(base)?.to_owned(), std::fs::read_to_string(&path)?);
        }
    }
    Ok(())
}

#[test]
fn mdbook_builds_the_documentation_and_no_link_in_it_is_dead() -> Result<()> {
    let said = Said::default();
    let writer = said.clone();
    let log = tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing_subscriber::filter::LevelFilter::WARN);
    let subscriber = log.with_writer(move || writer.clone()).finish();
    let book = tracing::subscriber::with_default(subscriber, || {
        let book = MDBook::load(root()).map_err(|error| anyhow!("book.toml or docs/SUMMARY.md: {error:#}"))?;
        book.build().map_err(|error| anyhow!("mdBook can't build the documentation: {error:#}"))?;
        Ok::<_, anyhow::Error>(book)
    })?;
    let complaints = String::from_utf8_lossy(&said.0.lock().unwrap()).into_owned();
    ensure!(complaints.is_empty(), "mdBook complains:\n{complaints}");

    let site = normal(&book.build_dir_for("html"));
    ensure!(site == root().join("target/book"), "the site is in {}", site.display());
    let mut all = BTreeMap::new();
    pages(&site, &mut all, &site)?;
    let summary = std::fs::read_to_string(root().join("docs/SUMMARY.md"))?;
    let listed: Vec<PathBuf> = Regex::new(r"\]\(([^)]+)\.md\)")?
        .captures_iter(&summary)
        .map(|page| PathBuf::from(format!("{}.html", &page[1])))
        .collect();
    ensure!(listed.len() > 30, "only {} pages are listed", listed.len());
    for page in &listed {
        ensure!(all.contains_key(page), "{} is not in the site: {:?}", page.display(), all.keys());
    }

    let (link, id) = (Regex::new(r#"\b(?:href|src)="([^"]*)""#)?, Regex::new(r#"\bid="([^"]*)""#)?);
    let headings: BTreeMap<&PathBuf, BTreeSet<String>> =
        all.iter().map(|(page, text)| (page, id.captures_iter(text).map(|id| id[1].to_owned()).collect())).collect();
    let mut dead = Vec::new();
    let mut followed = 0;
    // "print.html" holds all pages again, with links as they are in their own places; "404.html" is for another root.
    for (page, text) in
        all.iter().filter(|(page, _)| !["print.html", "404.html"].iter().any(|name| page.ends_with(name)))
    {
        let (_, text) = text.split_once("<main").unwrap_or(("", text));
        for target in link.captures_iter(text) {
            let target = target[1].replace("&amp;", "&");
            if target.contains("://") || target.starts_with("mailto:") || target.starts_with("data:") {
                continue;
            }
            followed += 1;
            let (path, heading) = target.split_once('#').unwrap_or((&target, ""));
            let from = page.parent().unwrap_or(Path::new(""));
            let there = if path.is_empty() { site.join(page) } else { normal(&site.join(from).join(path)) };
            let lives = match there.strip_prefix(&site) {
                Ok(inside) if inside.extension().is_some_and(|extension| extension == "html") => headings
                    .get(&inside.to_owned())
                    .is_some_and(|headings| heading.is_empty() || headings.contains(heading)),
                Ok(_) => there.exists(),
                // Out of the book: to a file of the repository, whose pages of Markdown mdBook takes for pages of the book.
                Err(_) => {
                    let file = normal(&root().join("docs").join(from).join(path));
                    file.exists() || file.with_extension("md").exists()
                }
            };
            if !lives {
                dead.push(format!("{}: {target}", page.display()));
            }
        }
    }
    ensure!(followed > 200, "only {followed} links found");
    ensure!(dead.is_empty(), "{dead:#?}");
    Ok(())
}
