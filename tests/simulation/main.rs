//! The real engine against model clusters, in simulated time and over a simulated network, with everything drawn from a seed: clusters, who mirrors
//! to whom, producers, faults. Afterwards an oracle compares what each region holds with what each origin's log holds, record by record.
//!
//! `DIFFLUENT_SEED=7 cargo test --test simulation` replays a seed (with `DIFFLUENT_LOG=debug` it tells its story), `DIFFLUENT_SEEDS=10000 cargo test --release --test simulation` runs many.

mod dice;
mod network;
mod oracle;
mod plan;
mod producer;
mod proxy;
mod records;
mod run;

use plan::Plan;

/// Seeds that are run when nothing else is asked for.
const SEEDS: u64 = 200;

/// Seeds that have found a fault in diffluent once.
const KEPT: &[u64] = &[211];

#[test]
fn whatever_goes_wrong_every_region_holds_every_committed_record_once_and_in_order() {
    run::tell_story();
    let number = |name| std::env::var(name).ok().map(|text: String| text.parse::<u64>().expect("a number"));
    let first = number("DIFFLUENT_FIRST_SEED").unwrap_or(0);
    let seeds: Vec<u64> = match number("DIFFLUENT_SEED") {
        Some(seed) => vec![seed],
        None => KEPT.iter().copied().chain(first..first + number("DIFFLUENT_SEEDS").unwrap_or(SEEDS)).collect(),
    };
    let failed: Vec<(u64, String)> = run::all(&seeds, |seed| run::run(&Plan::new(seed)));
    let numbers: Vec<u64> = failed.iter().map(|(seed, _)| *seed).collect();
    assert!(failed.is_empty(), "{} of {} seeds failed: {numbers:?}", failed.len(), seeds.len());
}

#[test]
fn a_seed_replays_to_the_byte() {
    for seed in 1..9 {
        let traces: Vec<u64> = (0..2).map(|_| run::trace(&Plan::new(seed))).collect();
        println!("seed {seed}: {:016x}", traces[0]);
        assert_eq!(traces[0], traces[1], "seed {seed}");
    }
}
