//! docs/BENCHMARKS.md: each row owns the part between its two marks.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Where the documentation is.
///
/// # Errors
/// When the testbed is not inside the repository.
pub(super) fn folder() -> Result<PathBuf> {
    let testbed = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let root = Path::new(&testbed).parent().context("the testbed is not inside the repository")?;
    Ok(root.join("docs"))
}

/// Replaces the row's part of docs/BENCHMARKS.md, or adds it at the end.
///
/// # Errors
/// When the file can't be read or written.
pub(super) fn write(row: &str, text: &str) -> Result<()> {
    let path = folder()?.join("BENCHMARKS.md");
    let old = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    std::fs::write(&path, replaced(&old, row, text)).with_context(|| format!("cannot write {}", path.display()))
}

fn replaced(old: &str, row: &str, text: &str) -> String {
    let (begin, end) = (format!("<!-- bench-all {row} -->\n"), format!("<!-- /bench-all {row} -->"));
    let part = format!("{begin}{}\n{end}", text.trim_end());
    let around = old.split_once(&begin).and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
    match around {
        Some((before, after)) => format!("{before}{part}{after}"),
        None => format!("{}\n\n{part}\n", old.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_replaces_its_own_part_and_nothing_else() {
        let first = replaced("# Title\n", "proxy", "one");
        assert_eq!(first, "# Title\n\n<!-- bench-all proxy -->\none\n<!-- /bench-all proxy -->\n");
        let second = replaced(&first, "latency", "two\n");
        let third = replaced(&second, "proxy", "three");
        assert_eq!(third, second.replace("one", "three"));
        assert!(third.contains("two"));
    }
}
