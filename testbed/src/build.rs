//! diffluent's binary, built with the cargo that runs the demo.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

/// Builds diffluent with a cargo profile (`release`; `dist` is what is installed) and returns the path of the binary, as cargo tells it.
///
/// # Errors
/// When it does not build.
pub(crate) async fn build(profile: &str) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let testbed = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let root = Path::new(&testbed).parent().context("the testbed is not inside the repository")?;
    let child = Command::new(cargo)
        .args(["build", "--profile", profile, "--package", "diffluent", "--bin", "diffluent"])
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(root)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // A build takes minutes: cargo's progress is shown.
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .context("cannot run cargo")?;
    // Not `output()`, which would capture the progress too.
    let output = child.wait_with_output().await.context("cannot read what cargo says")?;
    if !output.status.success() {
        bail!("diffluent does not build");
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let executable = messages.lines().rev().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        message.get("executable")?.as_str().map(PathBuf::from)
    });
    executable.context("cargo did not tell where the binary is")
}
