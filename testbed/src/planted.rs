//! Does the simulation catch what it is there for? Known bugs are planted into a copy of the sources, one at a time, and the simulation must fail. What it can't draw,
//! another test must catch.
//!
//! A bug is a replacement of a few words that stand in the sources exactly once, so that a bug whose place has changed is noticed.

use std::path::Path;
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
    /// What must fail: arguments of `cargo test`.
    pub tests: &'static [&'static str],
}

/// The seeds, not what shows that one replays.
const SIMULATION: &[&str] = &["--test", "simulation", "whatever"];

/// The bugs that must be caught.
pub const BUGS: &[Planted] = &[
    Planted {
        name: "drops one batch",
        file: "src/mirror/stream/feeds.rs",
        from: "} else if skip {",
        to: "} else if skip || next % 101 == 0 {",
        tests: SIMULATION,
    },
    Planted {
        name: "skips a rewind",
        file: "src/mirror/stream/sending.rs",
        from: "        self.next_offset = self.position.source_offset;\n        self.next_sequence = self.position.sequence;\n        self.blocked_at",
        to: "        self.next_sequence = self.position.sequence;\n        self.blocked_at",
        tests: SIMULATION,
    },
    Planted {
        name: "forgets the epoch check on the source",
        file: "src/mirror/stream/source_epochs.rs",
        from: "(active && known >= 0 && self.source.leader_epoch > known).then_some(known)",
        to: "(active && known >= 0 && self.source.leader_epoch > known && known < 0).then_some(known)",
        tests: SIMULATION,
    },
    Planted {
        name: "forgets to check that the region still has what it acknowledged",
        file: "src/mirror/scan.rs",
        from: "Some(_) => return Some(Scanned::Unproven(Doubt::Replaced)),",
        to: "Some(_) => {}",
        tests: SIMULATION,
    },
    Planted {
        name: "captures acks=1",
        file: "src/session/capturing.rs",
        from: "self.enabled && acks == ACKS_ALL && !transactional",
        to: "self.enabled && (acks == ACKS_ALL || acks == 1) && !transactional",
        tests: SIMULATION,
    },
    Planted {
        name: "pipelines without priming",
        file: "src/mirror/stream/sending.rs",
        from: "Phase::Sending { primed } => primed || self.in_flight.is_empty(),",
        to: "Phase::Sending { .. } => true,",
        tests: SIMULATION,
    },
    Planted {
        name: "moves progress before the barrier",
        file: "src/mirror/stream/sending.rs",
        from: "self.in_flight[at].barrier.then(|| self.acknowledge(at, appended.offset, leader_epoch))",
        to: "Some(self.acknowledge(at, appended.offset, leader_epoch))",
        tests: SIMULATION,
    },
    Planted {
        name: "takes an empty answer for \"never wrote\"",
        file: "src/mirror/start.rs",
        from: "Some(Ok(false)) => unknown.push_back((leader, partition, FORGOTTEN_BYTES)),",
        to: "Some(Ok(false)) => drop(wrote.insert(stream.stream, Wrote::No)),",
        tests: SIMULATION,
    },
    Planted {
        name: "is one off in the sequence",
        file: "src/mirror/stream/sending.rs",
        from: "self.position.sequence = batch.sequence_next;",
        to: "self.position.sequence = sequence_after(batch.sequence_next, 1);",
        tests: SIMULATION,
    },
    Planted {
        name: "searches the log of a broker that leads no longer",
        file: "src/mirror/scan.rs",
        from: ".with_current_leader_epoch(search.target.leader_epoch)",
        to: ".with_current_leader_epoch(-1)",
        // The region's brokers refuse what comes twice: it takes one that has forgotten the producer just then, and the simulation draws that too seldom.
        tests: &["--lib", "each_search_names_the_epoch"],
    },
    Planted {
        name: "reads from a broker that leads no longer",
        file: "src/mirror/fetch_session.rs",
        from: ".with_current_leader_epoch(wish.leader_epoch)",
        to: ".with_current_leader_epoch(-1)",
        tests: SIMULATION,
    },
    Planted {
        name: "sends again what has an unknown outcome without looking",
        file: "src/mirror/stream/recovery.rs",
        from: "Some(found) if found.next_sequence != self.position.sequence => {",
        to: "Some(found) if found.next_sequence != self.position.sequence && self.next_token == u64::MAX => {",
        tests: SIMULATION,
    },
    Planted {
        name: "searches no further where the region's log ends before what it acknowledged",
        file: "src/mirror/scan.rs",
        from: "return Ok(Some(Scanned::Unproven(Doubt::Truncated(end))));",
        to: "return Ok(Some(Scanned::Complete { found: None, out_of_row: 0 }));",
        tests: SIMULATION,
    },
    Planted {
        name: "takes what came by a connection that is older than the leader's last word",
        file: "src/mirror/stream/feeds.rs",
        from: "if node_id != self.source.leader || !verified {",
        to: "if node_id != self.source.leader && !verified {",
        tests: SIMULATION,
    },
    Planted {
        name: "takes a captured batch that is not next",
        file: "src/mirror/stream/feeds.rs",
        from: "if base == self.next_offset {\n            self.note_captured(base, batch.header.next_offset(), now);",
        to: "if base >= self.next_offset {\n            self.note_captured(base, batch.header.next_offset(), now);",
        tests: SIMULATION,
    },
    Planted {
        name: "steps over whatever stands where the region's last batch should be",
        file: "src/mirror/stream/feeds.rs",
        from: "if left == 0 && found.fingerprint.fits(batch) {",
        to: "if left == 0 {",
        // The source must lose records while nobody looks, and get as many others in their place.
        tests: &["--lib", "what_the_region_holds_last"],
    },
    Planted {
        name: "keeps the incarnation though the map from sequence to offset changes",
        file: "src/mirror/stream/sending.rs",
        from: "self.position.producer_epoch.saturating_add(1);",
        to: "self.position.producer_epoch.saturating_add(0);",
        tests: SIMULATION,
    },
    Planted {
        name: "commits a new incarnation after its first batch",
        file: "src/mirror/stream/sending.rs",
        from: "self.read_on();\n        self.phase = Phase::Committing;",
        to: "self.read_on();\n        self.phase = Phase::Sending { primed: false };",
        tests: SIMULATION,
    },
    Planted {
        name: "goes on at the position of an earlier topic of the same name",
        file: "src/mirror/start.rs",
        from: "Some(Ok(commit)) if commit.position.topic_id == stream.topic_id => {",
        to: "Some(Ok(commit)) if commit.position.topic_id != uuid::Uuid::max() => {",
        // In the simulation topics stay.
        tests: &["--test", "topics", "an_earlier_topic_of_the_same_name"],
    },
    Planted {
        name: "sends on what was born elsewhere as if it were born here",
        file: "src/mirror/committed.rs",
        from: "Origin::Here => !is_reserved(header.producer_id),",
        to: "Origin::Here => !is_reserved(header.producer_id) || header.base_offset >= 0,",
        tests: SIMULATION,
    },
    Planted {
        name: "mirrors aborted records",
        file: "src/mirror/committed.rs",
        from: "header.is_transactional() && of.is_some()",
        to: "header.is_transactional() && of.is_some() && header.base_offset < 0",
        tests: SIMULATION,
    },
    Planted {
        name: "reads what is not committed yet",
        file: "src/mirror/fetch_session.rs",
        from: "const READ_COMMITTED: i8 = 1;",
        to: "const READ_COMMITTED: i8 = 0;",
        tests: SIMULATION,
    },
    Planted {
        name: "sends home what was born there",
        file: "src/mirror/region/forward.rs",
        from: "if !is_born_in(producer_id, &metadata.cluster_id) {",
        to: "if producer_id != 0 {",
        tests: SIMULATION,
    },
    Planted {
        name: "begins a row wherever another path is",
        file: "src/mirror/rejoin.rs",
        from: "let Some(Last { epoch, found }) = last else {",
        to: "let Some(Last { epoch, found }) = last.filter(|_| false) else {",
        tests: SIMULATION,
    },
    Planted {
        name: "keeps its streams when nothing is heard of the group's coordinator",
        file: "src/mirror/ownership/member.rs",
        from: "self.calm_at = self.calm_at.max(sent);\n        self.extend(sent + self.times.session);",
        to: "self.calm_at = self.calm_at.max(sent);\n        self.extend(sent + self.times.session * 10);",
        tests: SIMULATION,
    },
    Planted {
        name: "shares a stream out to two members",
        file: "src/mirror/ownership/sharing.rs",
        from: "Claim::Member(at) => shares[at].take(topic, partition),",
        to: "Claim::Member(at) => [0, at].into_iter().for_each(|at| shares[at].take(topic, partition)),",
        tests: SIMULATION,
    },
    Planted {
        name: "begins where it would, before nobody else can say otherwise",
        file: "src/mirror/start.rs",
        from: "if !door_closed(keeping, first).await {",
        to: "if keeping.pass == Pass::Waiting && !door_closed(keeping, first).await {",
        tests: SIMULATION,
    },
    Planted {
        name: "takes what was read for it after it was taken away",
        file: "src/mirror/region/answers.rs",
        from: "if !self.slots[head].is_active() {\n            // Asked",
        to: "if self.slots[head].gone {\n            // Asked",
        tests: SIMULATION,
    },
    Planted {
        name: "asks for no rebalance where nobody has a stream",
        file: "src/mirror/ownership/run.rs",
        from: "self.look_for_unowned = self.has_unowned();",
        to: "self.look_for_unowned = self.has_unowned() && self.unowned_pause.is_zero();",
        tests: SIMULATION,
    },
    Planted {
        name: "goes on asking a broker that coordinates the group no longer",
        file: "src/mirror/ownership/run.rs",
        from: "if matches!(code, error_code::COORDINATOR_NOT_AVAILABLE | error_code::NOT_COORDINATOR) {",
        to: "if code == error_code::COORDINATOR_NOT_AVAILABLE {",
        tests: SIMULATION,
    },
    Planted {
        name: "waits for news of what lies below a log's end",
        file: "src/mirror/stream/sending.rs",
        from: "        self.read_on();\n        self.phase = Phase::Committing;",
        to: "        self.phase = Phase::Committing;",
        tests: SIMULATION,
    },
    Planted {
        name: "takes a region's cut log for a topic that was deleted",
        file: "src/mirror/retrace.rs",
        from: "one == other && !one.is_nil()",
        to: "one == other && one.is_nil()",
        tests: SIMULATION,
    },
    Planted {
        name: "looks for ever for what its source has lost",
        file: "src/mirror/stream/feeds.rs",
        from: ">= END_PATIENCE {",
        to: ">= END_PATIENCE * 1_000 {",
        tests: SIMULATION,
    },
];

/// What the simulation said about a bug.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// What failed first.
    Caught(String),
    /// Nothing failed.
    Missed,
}

/// Plants a bug into a copy of the sources at `repository` and runs `seeds` seeds. The copy stays, so that only what has changed is built.
///
/// # Errors
/// When the bug's place has changed, or the copy can't be made or built.
pub fn run(repository: &Path, bug: &Planted, seeds: u64) -> Result<Outcome> {
    let folder = repository.join("target").join("planted");
    let copy = folder.join("sources");
    let listed =
        Command::new("git").args(["ls-files", "-z"]).current_dir(repository).output().context("git ls-files")?;
    for name in listed.stdout.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = Path::new(std::str::from_utf8(name).context("a file name that is no text")?);
        // A file that was removed and not yet committed.
        if !repository.join(name).is_file() {
            continue;
        }
        let mut content = std::fs::read(repository.join(name))?;
        if name == Path::new(bug.file) {
            content = planted(bug, &String::from_utf8(content)?)?.into_bytes();
        }
        let to = copy.join(name);
        if std::fs::read(&to).is_ok_and(|before| before == content) {
            continue;
        }
        if let Some(folder) = to.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&to, content).with_context(|| format!("cannot write {}", to.display()))?;
    }
    let output = Command::new("cargo")
        .arg("test")
        .args(bug.tests)
        .current_dir(&copy)
        .env("CARGO_TARGET_DIR", &folder)
        .env("DIFFLUENT_SEEDS", seeds.to_string())
        .env("DIFFLUENT_STOP_AT_FIRST", "1")
        .env("RUST_BACKTRACE", "0")
        .output()
        .context("cargo test")?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        return Ok(Outcome::Missed);
    }
    // The seed says more than the name of the test.
    let seed = told.lines().find(|line| line.starts_with("seed ") && !line.contains("takes more than"));
    match seed.or_else(|| told.lines().find(|line| line.ends_with("... FAILED"))) {
        Some(line) => Ok(Outcome::Caught(line.chars().take(120).collect())),
        None => bail!(
            "{:?} does not build, or no seed was run:\n{}",
            bug.name,
            told.lines().rev().take(20).collect::<Vec<_>>().join("\n")
        ),
    }
}

/// The source with the bug.
fn planted(bug: &Planted, source: &str) -> Result<String> {
    match source.matches(bug.from).count() {
        1 => Ok(source.replacen(bug.from, bug.to, 1)),
        count => bail!(
            "{:?}: {:?} stands {count} times in {}, not once: the bug must be planted anew",
            bug.name,
            bug.from,
            bug.file
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bug_has_its_place() {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
        for bug in BUGS {
            let source = std::fs::read_to_string(repository.join(bug.file)).expect(bug.file);
            planted(bug, &source).expect("once");
        }
    }
}
