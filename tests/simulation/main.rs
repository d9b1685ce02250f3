//! The real engine against model clusters, in simulated time and over a simulated network, with everything drawn from a seed: clusters, who mirrors
//! to whom, producers, faults. Afterwards an oracle compares what each region holds with what each origin's log holds, record by record.
//!
//! `DIFFLUENT_SEED=7 cargo test --test simulation` replays a seed (with `DIFFLUENT_LOG=debug` it tells its story), `DIFFLUENT_SEEDS=10000 cargo test --release --test simulation` runs many.
//! With `DIFFLUENT_ALONE=1` each cluster has one proxy.

mod dice;
mod network;
mod oracle;
mod plan;
mod producer;
mod proxy;
mod records;
mod run;

use diffluent::lag::{RegionLag, State};
use plan::{Brokers, Kind, Plan, ProducerPlan, Route};

/// Seeds that are run when nothing else is asked for.
const SEEDS: u64 = 200;

/// Seeds that have found a fault in diffluent once.
const KEPT: &[u64] = &[
    59, 84, 87, 91, 103, 173, 248, 326, 338, 444, 520, 565, 583, 672, 872, 963, 1039, 1051, 1175, 1529, 2030, 2045,
    2200, 2202, 2244, 2962, 3184, 4289, 4808, 5221, 6661, 8276, 8659,
];

/// The same, where each cluster had one proxy.
const KEPT_ALONE: &[u64] = &[211, 269, 434, 444];

/// What the seed means in this run.
fn drawn(seed: u64) -> Plan {
    if std::env::var_os("DIFFLUENT_ALONE").is_some() { Plan::alone(seed) } else { Plan::new(seed) }
}

#[test]
fn whatever_goes_wrong_every_region_holds_every_committed_record_once_and_in_order() {
    run::tell_story();
    let number = |name| std::env::var(name).ok().map(|text: String| text.parse::<u64>().expect("a number"));
    let first = number("DIFFLUENT_FIRST_SEED").unwrap_or(0);
    let plans: Vec<Plan> = match number("DIFFLUENT_SEED") {
        Some(seed) => vec![drawn(seed)],
        None => {
            let asked = first..first + number("DIFFLUENT_SEEDS").unwrap_or(SEEDS);
            let kept = KEPT.iter().copied().map(Plan::new).chain(KEPT_ALONE.iter().copied().map(Plan::alone));
            kept.chain(asked.map(drawn)).collect()
        }
    };
    let failed: Vec<(u64, String)> = run::all(&plans, run::run);
    let numbers: Vec<u64> = failed.iter().map(|(seed, _)| *seed).collect();
    assert!(failed.is_empty(), "{} of {} seeds failed: {numbers:?}", failed.len(), plans.len());
}

#[test]
fn a_seed_replays_to_the_byte() {
    for seed in 1..9 {
        let traces: Vec<u64> = (0..2).map(|_| run::trace(&drawn(seed))).collect();
        println!("seed {seed}: {:016x}", traces[0]);
        assert_eq!(traces[0], traces[1], "seed {seed}");
    }
}

#[test]
fn what_a_region_would_send_back_as_its_own_is_held_back_and_does_not_go_round() {
    let routes = vec![Route { from: 0, to: 1 }, Route { from: 1, to: 0 }];
    let refuses = Brokers { refuse_foreign_ids: true, ..Brokers::default() };
    let producer = ProducerPlan { cluster: 0, kind: Kind::Plain(-1), bypass: false, pipelined: 1, pause_ms: 50 };
    let plan = Plan {
        brokers: vec![1, 1],
        origins: vec![0],
        routes,
        forwards: Vec::new(),
        through_proxies: false,
        distance_ms: 1,
        buffer: "64 MiB",
        topics: vec![1],
        producers: vec![producer],
        faults: Vec::new(),
        brokers_are: vec![Brokers::default(), refuses],
        ..Plan::alone(1)
    };
    let held_back = |seen: &[RegionLag]| {
        let partitions = seen.iter().flat_map(|region| &region.topics).flat_map(|topic| &topic.partitions);
        partitions.into_iter().any(|partition| {
            let reason = partition.reason.as_deref().unwrap_or_default();
            partition.state == State::Stalled && reason.contains("mirrors topic topic-0 back")
        })
    };
    let (then, later) = run::run_until(&plan, held_back, 30_000, 0).unwrap_or_else(|told| panic!("{told}"));
    assert!(then > 0, "what came back is how it shows");
    assert!(
        later <= then + 5,
        "{then} batches had come back when it showed, {later} later: what was on its way, no more"
    );
}
