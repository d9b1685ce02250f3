//! Where, when and with what was measured.

use std::process::Command;

use crate::bench::Options;
use crate::kafka::KAFKA;

/// Processors that this process may use.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// One paragraph: command, date, commit, machine, versions, and how busy the machine was when the row began.
pub(super) fn describe(row: &str, options: &Options) -> String {
    let mut command = format!("cargo bench-all --row {row}");
    // What is counted and not timed has neither.
    if row != "budget" {
        command.push_str(&format!(" --seconds {} --rounds {}", options.length.as_secs(), options.rounds));
    }
    if matches!(row, "proxy" | "far-partition" | "catch-up" | "tls") {
        command.push_str(&format!(" --mib {}", options.mib));
    }
    if row == "idle" {
        command.push_str(&format!(" --partitions {}", options.partitions));
    }
    if options.binary.is_some() {
        // Then the commit below is the benchmark's and perhaps not diffluent's.
        command.push_str(" --binary …");
    }
    let dirty = if first_line("git", &["status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs"]).is_empty()
    {
        ""
    } else {
        " with local changes"
    };
    format!(
        "`{command}`, {}, commit {}{dirty}. {} × {}, {} GiB, Linux {}, TCP with {}, load average {} when the row began. Apache Kafka {KAFKA} ({}), {}.\n",
        first_line("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        first_line("git", &["rev-parse", "--short", "HEAD"]),
        cores(),
        processor(),
        memory_gib(),
        first_line("uname", &["-r"]),
        // Some pace what they send by timers, on loopback too: that costs whoever writes much at once.
        std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control")
            .map_or_else(|_| "unknown congestion control".to_owned(), |text| text.trim().to_owned()),
        std::fs::read_to_string("/proc/loadavg")
            .map_or_else(|_| "unknown".to_owned(), |text| text.split(' ').take(1).collect::<Vec<_>>().join(" ")),
        java(),
        first_line("rustc", &["--version"]),
    )
}

/// What a command prints first, or nothing.
pub(super) fn first_line(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or_default().trim().to_owned()
}

fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, model)| model));
    model.unwrap_or("an unnamed processor").trim().to_owned()
}

fn memory_gib() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
    kib.map_or(0, |kib: u64| (kib + (1 << 19)) >> 20)
}

fn java() -> String {
    // It prints to standard error, as it always has.
    let output = Command::new("java").arg("-version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stderr).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("an unknown Java").replace('"', "")
}
