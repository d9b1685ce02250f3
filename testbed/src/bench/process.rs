//! What the operating system says that a process took.

use anyhow::{Context, Result};
use rustix::process::{Resource, getrlimit};

/// A start's own files and connections.
const DESCRIPTORS_ELSE: u64 = 600;

/// As many of so many client connections as the limit of file descriptors allows: each has two ends in a proxy.
pub(super) fn connections_allowed(wanted: u64) -> u64 {
    let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    wanted.min(limit.saturating_sub(DESCRIPTORS_ELSE) / 2)
}

/// The most memory that was ever resident, in MiB (VmHWM of proc(5)).
///
/// # Errors
/// When there is no such process.
pub(super) fn peak_resident_mib(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().context("VmHWM is no number")?;
    Ok(kib / 1024.0)
}
