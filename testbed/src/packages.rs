//! Programs that tests need beside Kafka: found, or installed where that is allowed.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

/// Whether packages may be installed here: a Debian system, as root.
pub(crate) fn may_install() -> bool {
    rustix::process::getuid().is_root() && Path::new("/etc/debian_version").exists()
}

/// Installs packages with apt-get; whether that worked.
pub(crate) fn install(packages: &[&str]) -> bool {
    apt_get(&["update"]);
    let arguments: Vec<&str> = ["install", "-y", "--no-install-recommends"].iter().chain(packages).copied().collect();
    apt_get(&arguments)
}

/// Makes sure that `program` runs; installs Debian's `package` where that is allowed.
///
/// # Errors
/// One line that says what to install.
pub fn ensure(program: &str, package: &str) -> Result<()> {
    let there = || {
        // Not all know this argument, but all that are there say something to it and end.
        Command::new(program).arg("--version").stdin(Stdio::null()).output().is_ok()
    };
    if there() {
        return Ok(());
    }
    if may_install() {
        eprintln!("testbed: installing {package} with apt-get");
        install(&[package]);
        if there() {
            return Ok(());
        }
    }
    bail!("this test needs the program {program}; on Debian: apt-get install {package}")
}

fn apt_get(args: &[&str]) -> bool {
    Command::new("apt-get")
        .env("DEBIAN_FRONTEND", "noninteractive")
        // Services that come with a package are not started.
        .env("RUNLEVEL", "1")
        .arg("-q")
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
