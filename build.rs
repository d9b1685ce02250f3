//! Tells the binary which commit it was built from. Needs neither git nor a network: where nothing is known, it says so.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=DIFFLUENT_COMMIT");
    let given = std::env::var("DIFFLUENT_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit = given.unwrap_or_else(|| {
        // To follow each commit would compile everything again after each: what is built to try something out is not worth it.
        let debug = std::env::var("PROFILE").is_ok_and(|profile| profile == "debug");
        if debug { "debug build".to_owned() } else { head().unwrap_or_else(|| "unknown".to_owned()) }
    });
    println!("cargo::rustc-env=DIFFLUENT_BUILD={commit}");
}

/// The commit of this repository; `None` outside of one, for instance in an unpacked archive that lies inside of another repository.
fn head() -> Option<String> {
    let here = std::env::var("CARGO_MANIFEST_DIR").ok()?;
    if Path::new(&git(&["rev-parse", "--show-toplevel"])?).canonicalize().ok()?
        != Path::new(&here).canonicalize().ok()?
    {
        return None;
    }
    // Both change with what is checked out; the second also with each commit.
    for file in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", file])?;
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
