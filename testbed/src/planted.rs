//! Does the simulation catch what it is there for? Known bugs are planted into a copy of the sources, one at a time, and the simulation must fail.
//!
//! A bug is a replacement of a few words that stand in the sources exactly once, so that a bug whose place has changed is noticed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A bug.
#[derive(Clone, Copy, Debug)]
pub struct Planted {
    /// What it is called.
    pub name: &'static str,
    /// Where it is planted.
    pub file: &'static str,
    /// What stands there.
    pub from: &'static str,
    /// What stands there afterwards.
    pub to: &'static str,
}

/// The bugs that must be caught.
pub const BUGS: &[Planted] = &[
    Planted {
        name: "drops one batch",
        file: "src/mirror/stream/feeds.rs",
        from: "} else if skip {",
        to: "} else if skip || next % 101 == 0 {",
    },
    Planted {
        name: "skips a rewind",
        file: "src/mirror/stream/sending.rs",
        from: "        self.next_offset = self.position.source_offset;\n        self.next_sequence = self.position.sequence;\n        self.blocked_at",
        to: "        self.next_sequence = self.position.sequence;\n        self.blocked_at",
    },
    Planted {
        name: "forgets the epoch check on the source",
        file: "src/mirror/stream/source_epochs.rs",
        from: "(active && known >= 0 && self.source.leader_epoch > known).then_some(known)",
        to: "(active && known >= 0 && self.source.leader_epoch > known && known < 0).then_some(known)",
    },
    Planted {
        name: "forgets to check that the region still has what it acknowledged",
        file: "src/mirror/scan.rs",
        from: "Some(_) => return Some(Scanned::Unproven(Doubt::Replaced)),",
        to: "Some(_) => {}",
    },
    Planted {
        name: "captures acks=1",
        file: "src/session/capturing.rs",
        from: "self.enabled && acks == ACKS_ALL && !transactional",
        to: "self.enabled && (acks == ACKS_ALL || acks == 1) && !transactional",
    },
    Planted {
        name: "pipelines without priming",
        file: "src/mirror/stream/sending.rs",
        from: "Phase::Sending { primed } => primed || self.in_flight.is_empty(),",
        to: "Phase::Sending { .. } => true,",
    },
    Planted {
        name: "moves progress before the barrier",
        file: "src/mirror/stream/sending.rs",
        from: "self.in_flight[at].barrier.then(|| self.acknowledge(at, appended.offset, leader_epoch))",
        to: "Some(self.acknowledge(at, appended.offset, leader_epoch))",
    },
    Planted {
        name: "takes an empty answer for \"never wrote\"",
        file: "src/mirror/start.rs",
        from: "Some(Ok(false)) => unknown.push_back((leader, partition, FORGOTTEN_BYTES)),",
        to: "Some(Ok(false)) => drop(wrote.insert(stream.stream, Wrote::No)),",
    },
    Planted {
        name: "is one off in the sequence",
        file: "src/mirror/stream/sending.rs",
        from: "self.position.sequence = batch.sequence_next;",
        to: "self.position.sequence = sequence_after(batch.sequence_next, 1);",
    },
    Planted {
        name: "searches the log of a broker that leads no longer",
        file: "src/mirror/scan.rs",
        from: ".with_current_leader_epoch(search.target.leader_epoch)",
        to: ".with_current_leader_epoch(-1)",
    },
    Planted {
        name: "reads from a broker that leads no longer",
        file: "src/mirror/reader.rs",
        from: ".with_current_leader_epoch(wish.leader_epoch)",
        to: ".with_current_leader_epoch(-1)",
    },
    Planted {
        name: "sends again what has an unknown outcome without looking",
        file: "src/mirror/stream/recovery.rs",
        from: "Some(found) if found.next_sequence != self.position.sequence => {",
        to: "Some(found) if found.next_sequence != self.position.sequence && self.next_token == u64::MAX => {",
    },
    Planted {
        name: "sends home what was born there",
        file: "src/mirror/region/forward.rs",
        from: "if !is_born_in(producer_id, &metadata.cluster_id) {",
        to: "if producer_id != 0 {",
    },
    Planted {
        name: "begins a row wherever another path is",
        file: "src/mirror/rejoin.rs",
        from: "let Some(Last { epoch, found }) = last else {",
        to: "let Some(Last { epoch, found }) = last.filter(|_| false) else {",
    },
];

/// What the simulation said about a bug.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// So many seeds failed.
    Caught(String),
    /// No seed failed.
    Missed,
}

/// Plants a bug into a copy of the sources at `repository` and runs `seeds` seeds.
///
/// # Errors
/// When the bug's place has changed, or the copy can't be made or built.
pub fn run(repository: &Path, bug: &Planted, seeds: u64) -> Result<Outcome> {
    let copy = tempfile::tempdir().context("no room for a copy of the sources")?;
    let listed =
        Command::new("git").args(["ls-files", "-z"]).current_dir(repository).output().context("git ls-files")?;
    for name in listed.stdout.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = Path::new(std::str::from_utf8(name).context("a file name that is no text")?);
        let to = copy.path().join(name);
        if let Some(folder) = to.parent() {
            std::fs::create_dir_all(folder)?;
        }
        // A file that was removed and not yet committed.
        if repository.join(name).is_file() {
            std::fs::copy(repository.join(name), &to).with_context(|| format!("cannot copy {}", name.display()))?;
        }
    }
    let place = copy.path().join(bug.file);
    let source = std::fs::read_to_string(&place).with_context(|| format!("{}: no such file", bug.file))?;
    match source.matches(bug.from).count() {
        1 => std::fs::write(&place, source.replacen(bug.from, bug.to, 1))?,
        count => bail!(
            "{:?}: {:?} stands {count} times in {}, not once: the bug must be planted anew",
            bug.name,
            bug.from,
            bug.file
        ),
    }
    let target: PathBuf = repository.join("target").join("planted");
    let output = Command::new("cargo")
        .args(["test", "--test", "simulation", "--", "whatever"])
        .current_dir(copy.path())
        .env("CARGO_TARGET_DIR", target)
        .env("DIFFLUENT_SEEDS", seeds.to_string())
        .env("DIFFLUENT_STOP_AT_FIRST", "1")
        .env("RUST_BACKTRACE", "0")
        .output()
        .context("cargo test")?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        return Ok(Outcome::Missed);
    }
    match told.lines().find(|line| line.starts_with("seed ")) {
        Some(line) => Ok(Outcome::Caught(line.chars().take(120).collect())),
        None => bail!(
            "{:?} does not build, or no seed was run:\n{}",
            bug.name,
            told.lines().rev().take(20).collect::<Vec<_>>().join("\n")
        ),
    }
}
