//! Instructions of the hot functions, counted by callgrind: the same on a busy machine as on an idle one.
//!
//! `cargo bench --bench instructions` compares with `benches/instructions.txt` and fails where a function takes more than 5 % more;
//! with `-- --update` it writes that file. With `--profile dev`, as every run of CI does it because the tests have built the most of it, the baseline is
//! `benches/instructions.dev.txt`. Counts hold for one compiler and one kind of processor: a new compiler may be a reason to update.

mod inputs;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use diffluent::mirror::batch::fetched;
use diffluent::wire::batch::{BatchHeader, HEADER_LEN, rewritten_header};
use diffluent::wire::produce::RequestWalk;
use diffluent::wire::rewrite;
use diffluent::wire::splice::splice;
use inputs::{Count, IDENTITY, METADATA_VERSION, PRODUCE_VERSION, Sidecar, batch, log, metadata, produce_request};
use kafka_protocol::messages::ApiKey;
use tokio::time::Instant;

/// A function may take so much more than its baseline.
const TOLERANCE: f64 = 1.05;
/// Calls in the shorter and the longer of two runs: their difference is free of what a start costs.
const CALLS: [u64; 2] = [10, 60];
/// The functions, by the names under which they stand in the baseline.
const FUNCTIONS: [&str; 5] = [
    "walk-produce-64-kib",
    "walk-produce-100-batches",
    "rewrite-header-16-kib",
    "rewrite-metadata",
    "read-fetch-1000-batches",
];

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [run, function, calls] = arguments.as_slice()
        && run == "--run"
    {
        call(function, calls.parse().context("not a number of calls")?)?;
        return Ok(ExitCode::SUCCESS);
    }
    diffluent_testbed::packages::ensure("valgrind", "valgrind")?;
    let name = if cfg!(debug_assertions) { "instructions.dev.txt" } else { "instructions.txt" };
    let baseline = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches").join(name);
    let counted = FUNCTIONS.into_iter().map(|function| Ok((function, count(function)?)));
    let counted: BTreeMap<&str, u64> = counted.collect::<Result<_>>()?;
    if arguments.iter().any(|argument| argument == "--update") {
        let text: String = counted.iter().map(|(function, count)| format!("{function} {count}\n")).collect();
        std::fs::write(&baseline, &text).with_context(|| format!("cannot write {}", baseline.display()))?;
        print!("{text}");
        return Ok(ExitCode::SUCCESS);
    }
    compare(&baseline, &counted)
}

fn compare(baseline: &Path, counted: &BTreeMap<&str, u64>) -> Result<ExitCode> {
    let text = std::fs::read_to_string(baseline).with_context(|| format!("cannot read {}", baseline.display()))?;
    let before: BTreeMap<&str, u64> = text
        .lines()
        .filter_map(|line| line.split_once(' ').and_then(|(name, count)| Some((name, count.parse().ok()?))))
        .collect();
    let mut worse = false;
    for (function, count) in counted {
        let before =
            *before.get(function).with_context(|| format!("no baseline of {function}; run with -- --update"))?;
        let ratio = *count as f64 / before as f64;
        let more = ratio > TOLERANCE;
        worse |= more;
        println!(
            "{function:28} {count:>9} instructions, {:+.1} %{}",
            (ratio - 1.0) * 100.0,
            if more { ": TOO MANY" } else { "" }
        );
    }
    Ok(if worse { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Instructions of one call.
fn count(function: &str) -> Result<u64> {
    let [few, many] = CALLS.map(|calls| instructions(function, calls));
    Ok((many? - few?) / (CALLS[1] - CALLS[0]))
}

fn instructions(function: &str, calls: u64) -> Result<u64> {
    let out: PathBuf =
        std::env::temp_dir().join(format!("diffluent-callgrind-{}-{function}-{calls}", std::process::id()));
    let program = std::env::current_exe().context("no path of this program")?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", &format!("--callgrind-out-file={}", out.display())])
        .arg(program)
        .args(["--run", function, &calls.to_string()])
        .output()
        .context("cannot start valgrind")?;
    ensure!(output.status.success(), "callgrind: {}", String::from_utf8_lossy(&output.stderr));
    let text = std::fs::read_to_string(&out).with_context(|| format!("cannot read {}", out.display()))?;
    // Best effort: it lies in the system's temporary directory.
    let _ = std::fs::remove_file(&out);
    let totals =
        text.lines().rev().find_map(|line| line.strip_prefix("totals: ").or_else(|| line.strip_prefix("summary: ")));
    totals.context("callgrind tells no total")?.trim().parse().context("a total that is no number")
}

fn call(function: &str, calls: u64) -> Result<()> {
    match function {
        "walk-produce-64-kib" => walk(&produce_request(1, 64 << 10), calls),
        "walk-produce-100-batches" => walk(&produce_request(100, 1 << 10), calls),
        "rewrite-header-16-kib" => {
            let batch = batch(40, 16 << 10);
            let header = BatchHeader::decode(batch.first_chunk().context("a header")?).ok().context("a header")?;
            for _ in 0..calls {
                black_box(rewritten_header(
                    black_box(&header),
                    IDENTITY,
                    std::iter::once(black_box(&batch[HEADER_LEN..])),
                ));
            }
            Ok(())
        }
        "rewrite-metadata" => {
            let (message, sidecar) = (metadata(1000), Sidecar(Arc::from("127.0.0.1")));
            for _ in 0..calls {
                let head = rewrite::find(ApiKey::Metadata as i16, METADATA_VERSION, black_box(&message))?;
                black_box(splice(&message, &head, message.len(), &sidecar)?);
            }
            Ok(())
        }
        "read-fetch-1000-batches" => {
            let (log, now) = (log(1000, 1 << 10), Instant::now());
            for _ in 0..calls {
                for batch in fetched(black_box(log.clone()), 0, now) {
                    black_box(batch.ok().context("a batch")?);
                }
            }
            Ok(())
        }
        other => bail!("no function is called {other}"),
    }
}

fn walk(frame: &[u8], calls: u64) -> Result<()> {
    for _ in 0..calls {
        let mut count = Count::default();
        RequestWalk::new(PRODUCE_VERSION)
            .walk(black_box(frame), RequestWalk::STARTS_AT..frame.len(), &mut count)
            .ok()
            .context("a request")?;
        black_box(count.records);
    }
    Ok(())
}
