//! What one produced batch takes of the machine, besides time: system calls, allocations, and what its length costs in memory. Counted, so that a busy machine
//! says the same.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;

use crate::bench::mirrored::until_mirrored;
use crate::bench::probe::{Probe, paced};
use crate::bench::say;
use crate::bench::table::{Marks, Rounds, Table};
use crate::guard::{Guarded, TempDir};
use crate::kafka::Cluster;
use crate::packages;
use crate::proxy::{Proxy, ProxyConfig, RegionConfig};

const BATCH_BYTES: usize = 64 << 10;
/// The other length, for what a longer batch takes more.
const SMALL_BYTES: usize = 1 << 10;
/// A second, while system calls are counted: so slowly that none waits for another.
const RATE: u64 = 100;
const WARM_UP: u64 = 100;
const TRACED: u64 = 500;
/// Batches in the shorter and the longer of two runs whose allocations are counted: their difference is free of what a start takes.
const COUNTED: [u64; 2] = [100, 1100];
/// A second at most, while a run is counted: much slower than the machine.
const COUNTED_RATE: u64 = 200;
const DEADLINE: Duration = Duration::from_secs(30);
const STOPPED_WITHIN: Duration = Duration::from_secs(10);

/// Fewer stores, or loads, by the KiB than any copy takes.
const NO_COPY: f64 = 16.0;
/// The checksum looks at 8 bytes at a time.
const ONE_PASS: f64 = 128.0 + NO_COPY;

/// System calls, by what they do.
const KINDS: [(&str, &[&str]); 3] = [
    ("read", &["read", "readv", "recvfrom", "recvmsg"]),
    ("write", &["write", "writev", "sendto", "sendmsg"]),
    ("wait", &["epoll_wait", "epoll_pwait", "epoll_pwait2", "futex"]),
];

struct Site<'a> {
    binary: &'a Path,
    local: Cluster,
    region: Cluster,
}

/// What a batch takes.
#[derive(Clone, Copy, Debug, Default)]
struct Budget {
    /// System calls in the order of [`KINDS`], and all others.
    calls: [f64; 4],
    /// System calls a second of a proxy that has nothing to do.
    idle_calls: f64,
    allocations: f64,
    /// More for each KiB of records.
    instructions: f64,
    loads: f64,
    stores: f64,
}

/// What cachegrind counts.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Work {
    instructions: f64,
    loads: f64,
    stores: f64,
}

/// Measures the row.
///
/// # Errors
/// When something does not start or answer, or the programs that count are not there.
pub(super) async fn measure(binary: &Path) -> Result<String> {
    packages::ensure("strace", "strace")?;
    packages::ensure("valgrind", "valgrind")?;
    say("starting two clusters");
    let (local, region) =
        tokio::try_join!(Cluster::builder().name("local").start(), Cluster::builder().name("region").start())?;
    let site = Site { binary, local, region };
    let mut told = Vec::new();
    for (title, regions) in [("no region", 0), ("one region", 1)] {
        let (calls, idle_calls) = site.calls(regions).await?;
        let [few, many] = [site.allocations(regions, COUNTED[0]).await?, site.allocations(regions, COUNTED[1]).await?];
        let [small, large] = [site.more_work(regions, SMALL_BYTES).await?, site.more_work(regions, BATCH_BYTES).await?];
        let kib = (COUNTED[1] - COUNTED[0]) as f64 * (BATCH_BYTES - SMALL_BYTES) as f64 / 1024.0;
        let budget = Budget {
            calls,
            idle_calls,
            allocations: (many - few) / (COUNTED[1] - COUNTED[0]) as f64,
            instructions: (large.instructions - small.instructions) / kib,
            loads: (large.loads - small.loads) / kib,
            stores: (large.stores - small.stores) / kib,
        };
        say(&format!("{title}: {budget:.1?}"));
        told.push((title, budget));
    }
    Ok(tell(&told))
}

impl Site<'_> {
    fn config(&self, regions: usize, topic: &str) -> ProxyConfig {
        let config = ProxyConfig::new("eu", &self.local.bootstrap());
        if regions == 0 {
            return config;
        }
        // What other runs have left in the local cluster is no business of this one.
        config.region_with(RegionConfig {
            topics: vec![topic.to_owned()],
            ..RegionConfig::new("us", &self.region.bootstrap())
        })
    }

    async fn mirrored(&self, regions: usize, topic: &str) -> Result<()> {
        if regions == 0 {
            return Ok(());
        }
        let ends = self.local.admin().end_offsets(topic).await?;
        until_mirrored(&ends, &self.region, topic).await
    }

    /// System calls by the batch while batches come, and by the second while none do.
    async fn calls(&self, regions: usize) -> Result<([f64; 4], f64)> {
        let topic = format!("calls-{regions}");
        self.local.create_topic(&topic, 1, 1, &[]).await?;
        let mut proxy = Proxy::start(self.binary, self.config(regions, &topic)).await?;
        let probe = send(connect(&proxy, &topic).await?, BATCH_BYTES, RATE, WARM_UP).await?;
        self.mirrored(regions, &topic).await?;
        let length = Duration::from_secs_f64(TRACED as f64 / RATE as f64);
        let idle = Trace::begin(proxy.pid()?).await?;
        tokio::time::sleep(length).await;
        let idle = idle.end().await?;
        let busy = Trace::begin(proxy.pid()?).await?;
        send(probe, BATCH_BYTES, RATE, TRACED).await?;
        self.mirrored(regions, &topic).await?;
        let busy = busy.end().await?;
        proxy.stop().await?;
        let idle_calls = idle.iter().sum::<u64>() as f64 / length.as_secs_f64();
        Ok((busy.map(|count| count as f64 / TRACED as f64), idle_calls))
    }

    /// How often a run with so many batches allocates, from its start to its end.
    async fn allocations(&self, regions: usize, batches: u64) -> Result<f64> {
        let topic = format!("allocations-{regions}-{batches}");
        let with = "export _RJEM_MALLOC_CONF=stats_print:true,stats_print_opts:Jgdablxeh; exec";
        let log = self.run(with, "2>", (regions, &topic), BATCH_BYTES, batches).await?;
        allocations(&log).with_context(|| format!("the allocator says: {log}"))
    }

    /// What many batches of that length take more than a few: the difference is free of what a start takes, and of what is read from the log until the stream
    /// has come to what is captured.
    async fn more_work(&self, regions: usize, bytes: usize) -> Result<Work> {
        let [few, many] = [self.work(regions, bytes, COUNTED[0]).await?, self.work(regions, bytes, COUNTED[1]).await?];
        Ok(Work {
            instructions: many.instructions - few.instructions,
            loads: many.loads - few.loads,
            stores: many.stores - few.stores,
        })
    }

    /// What a run with so many batches of that length does, from its start to its end.
    async fn work(&self, regions: usize, bytes: usize, batches: u64) -> Result<Work> {
        let topic = format!("work-{regions}-{bytes}-{batches}");
        let with = "exec valgrind --tool=cachegrind --cache-sim=yes --cachegrind-out-file=/dev/null";
        let log = self.run(with, "--log-file=", (regions, &topic), bytes, batches).await?;
        work(&log).with_context(|| format!("cachegrind says: {log}"))
    }

    /// What is said of a run with something: `with` is a shell's words before the binary, `log_to` those before the file that it is said in.
    async fn run(
        &self,
        with: &str,
        log_to: &str,
        (regions, topic): (usize, &str),
        bytes: usize,
        batches: u64,
    ) -> Result<String> {
        self.local.create_topic(topic, 1, 1, &[]).await?;
        let dir = TempDir::new("diffluent-budget-")?;
        let (wrapper, log) = (dir.path().join("diffluent"), dir.path().join("log"));
        let binary = std::path::absolute(self.binary).context("the binary's path")?;
        let script = format!("#!/bin/sh\n{with} {log_to}{} {} \"$@\"\n", log.display(), binary.display());
        std::fs::write(&wrapper, script).context("cannot write a script")?;
        std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755)).context("cannot write a script")?;
        let mut proxy = Proxy::start(&wrapper, self.config(regions, topic)).await?;
        // Before the region has the topic, batches wait in the local log and are read from it: not what is counted.
        let probe = send(connect(&proxy, topic).await?, SMALL_BYTES, RATE, WARM_UP).await?;
        self.mirrored(regions, topic).await?;
        send(probe, bytes, COUNTED_RATE, batches).await?;
        self.mirrored(regions, topic).await?;
        proxy.stop().await?;
        std::fs::read_to_string(&log).with_context(|| format!("cannot read {}", log.display()))
    }
}

async fn connect(proxy: &Proxy, topic: &str) -> Result<Probe> {
    let (bootstrap, topic) = (proxy.bootstrap(), topic.to_owned());
    tokio::task::spawn_blocking(move || Probe::connect(&bootstrap, &topic)).await.context("the probe panicked")?
}

/// Sends so many batches of one record, one after the other.
async fn send(mut probe: Probe, bytes: usize, rate: u64, batches: u64) -> Result<Probe> {
    let sent = tokio::task::spawn_blocking(move || {
        let value = Bytes::from(vec![b'x'; bytes]);
        paced(rate, batches, |_| probe.produce(value.clone()))?;
        anyhow::Ok(probe)
    });
    sent.await.context("the probe panicked")?
}

/// strace that counts a process's system calls.
struct Trace {
    strace: Guarded,
    table: PathBuf,
    _dir: TempDir,
}

impl Trace {
    /// Returns once all threads are traced.
    async fn begin(pid: u32) -> Result<Self> {
        let dir = TempDir::new("diffluent-strace-")?;
        let table = dir.path().join("calls");
        let mut command = Command::new("strace");
        command.args(["-f", "-c", "-o"]).arg(&table).args(["-p", &pid.to_string()]);
        let mut strace = Guarded::spawn("strace", command, &dir.path().join("strace.log"))?;
        let since = Instant::now();
        while !is_traced(pid)? {
            if let Some(status) = strace.try_status() {
                bail!("strace ended ({status}):\n{}", strace.log_tail());
            }
            if since.elapsed() > DEADLINE {
                bail!("strace does not trace after {DEADLINE:?}:\n{}", strace.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(Self { strace, table, _dir: dir })
    }

    /// How many system calls there were, in the order of [`KINDS`], and all others.
    async fn end(mut self) -> Result<[u64; 4]> {
        // It lets go of the process and writes its table.
        self.strace.terminate(STOPPED_WITHIN).await?;
        let text = std::fs::read_to_string(&self.table).context("strace has written nothing")?;
        Ok(by_kind(&calls(&text)))
    }
}

fn is_traced(pid: u32) -> Result<bool> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).context("the process is gone")?;
    let mut all = true;
    for thread in threads {
        let status = thread.context("the process is gone")?.path().join("status");
        // A thread may just have ended.
        let text = std::fs::read_to_string(status).unwrap_or_default();
        all &= !text.contains("TracerPid:\t0\n");
    }
    Ok(all)
}

/// The lines of strace's table: share, seconds, µs each, calls, errors where there are any, name.
fn calls(table: &str) -> BTreeMap<&str, u64> {
    let lines = table.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (count, name) = (words.get(3)?.parse().ok()?, *words.last()?);
        (name != "total").then_some((name, count))
    });
    lines.collect()
}

fn by_kind(calls: &BTreeMap<&str, u64>) -> [u64; 4] {
    let mut counts = [0; 4];
    for (name, count) in calls {
        let kind = KINDS.iter().position(|(_, names)| names.contains(name)).unwrap_or(KINDS.len());
        if let Some(of_kind) = counts.get_mut(kind) {
            *of_kind += count;
        }
    }
    counts
}

fn number(word: &str) -> Option<f64> {
    word.trim_start_matches('(').replace(',', "").parse().ok()
}

/// The words behind `what` in a log.
fn behind<'a>(log: &'a str, what: &str) -> Option<Vec<&'a str>> {
    log.lines().find_map(|line| Some(line.split_once(what)?.1.split_whitespace().collect()))
}

/// How often was allocated, as jemalloc says at its end, behind what else was logged.
fn allocations(log: &str) -> Option<f64> {
    let said = log.get(log.rfind("{\"jemalloc\"")?..)?;
    let said: serde_json::Value = serde_json::Deserializer::from_str(said).into_iter().next()?.ok()?;
    let merged = said.pointer("/jemalloc/stats.arenas/merged")?;
    let of = |size: &str| merged.get(size)?.get("nrequests")?.as_f64();
    Some(of("small")? + of("large")?)
}

/// The totals at the end of cachegrind's log.
fn work(log: &str) -> Option<Work> {
    let instructions = behind(log, "I refs:").or_else(|| behind(log, "I   refs:"))?;
    let data = behind(log, "D refs:").or_else(|| behind(log, "D   refs:"))?;
    let before = |unit: &str| {
        let at = data.iter().position(|word| word.trim_end_matches(')') == unit)?;
        number(data.get(at.checked_sub(1)?)?)
    };
    Some(Work { instructions: number(instructions.first()?)?, loads: before("rd")?, stores: before("wr")? })
}

fn tell(told: &[(&str, Budget)]) -> String {
    let [(read, _), (write, _), (wait, _)] = KINDS;
    let mut table = Table::new(&["", read, write, wait, "other calls", "allocations", "idle: calls a second"]);
    let mut by_kib = Table::new(&["for each KiB of records", "instructions", "loads", "stores"]);
    let mut marks = Marks::new();
    for (title, budget) in told {
        let mut row = vec![(*title).to_owned()];
        row.extend(budget.calls.iter().map(|count| format!("{count:.1}")));
        row.extend([budget.allocations, budget.idle_calls].map(|count| format!("{count:.1}")));
        table.row(row);
        let mut row = vec![(*title).to_owned()];
        row.extend([budget.instructions, budget.loads, budget.stores].map(|count| format!("{count:.1}")));
        by_kib.row(row);
        marks.at_most(&format!("{title}: no copy"), NO_COPY, "stores a KiB", &one(budget.stores), 1);
        let (loads, said) = if *title == "no region" { (NO_COPY, "not looked at") } else { (ONE_PASS, "one pass") };
        marks.at_most(&format!("{title}: {said}"), loads, "loads a KiB", &one(budget.loads), 1);
    }
    format!(
        "## What a produced batch takes\n\n{}\n{}\n{}\n\
         Of each batch of one record of 64 KiB, acks=all, {RATE} a second from one producer, none waiting for another. System calls: by strace, over {TRACED} batches and until the \
         region has them, with what goes on beside them in that time; \"write\" has those that wake another thread. Allocations: as the allocator counts them, a run of {} batches less one of {}, over their \
         difference. By the KiB: by cachegrind, as many batches of 64 KiB less as many of 1 KiB; a copy would take at least 32 loads and 32 stores, 32 bytes each, the checksum takes 128 loads of 8 \
         bytes. What the kernel copies is in none of it.\n",
        table.text(),
        by_kib.text(),
        marks.text(),
        COUNTED[1],
        COUNTED[0],
    )
}

fn one(value: f64) -> Rounds {
    let mut rounds = Rounds::default();
    rounds.push(value);
    rounds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strace_jemalloc_and_cachegrind_say_is_read() {
        let table = "% time     seconds  usecs/call     calls    errors syscall\n\
                     ------ ----------- ----------- --------- --------- ----------------\n\
                     \x2060.00    0.000300           3       100         7 recvfrom\n\
                     \x2020.00    0.000100           1        90           writev\n\
                     \x2010.00    0.000050           1        50           futex\n\
                     \x2010.00    0.000050           1         5           openat\n\
                     ------ ----------- ----------- --------- --------- ----------------\n\
                     100.00    0.000500           2       245         7 total\n";
        assert_eq!(by_kind(&calls(table)), [100, 90, 50, 5]);
        let log = "INFO stopped\n{\"jemalloc\":{\"stats\":{},\"stats.arenas\":{\"merged\":{\"small\":{\"nmalloc\":7,\"nrequests\":2400},\
                   \"large\":{\"nrequests\":100}}}}}\n";
        assert_eq!(allocations(log), Some(2500.0));
        assert_eq!(allocations("INFO stopped\n"), None);
        let log = "==7== I refs:        4,000,100\n==7== D refs:        1,500  (1,000 rd   + 500 wr)\n";
        assert_eq!(work(log), Some(Work { instructions: 4_000_100.0, loads: 1000.0, stores: 500.0 }));
    }
}
