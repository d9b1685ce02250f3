//! `cargo planted`: plants known bugs, one at a time, and says whether the simulation catches them.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use diffluent_testbed::planted::{self, BUGS, Outcome};

/// Plants known bugs into a copy of the sources, one at a time: the simulation must catch each.
#[derive(Parser)]
#[command(name = "cargo planted")]
struct Arguments {
    /// How many seeds each bug may take.
    #[arg(long, default_value_t = 400)]
    seeds: u64,
    /// Only the bugs whose name holds this.
    #[arg(long, default_value = "")]
    only: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let mut missed = 0;
    for bug in BUGS.iter().filter(|bug| bug.name.contains(&arguments.only)) {
        match planted::run(repository, bug, arguments.seeds) {
            Ok(Outcome::Caught(how)) => println!("caught  {}: {how}", bug.name),
            Ok(Outcome::Missed) => {
                missed += 1;
                println!("MISSED  {} within {} seeds", bug.name, arguments.seeds);
            }
            Err(error) => {
                missed += 1;
                println!("FAILED  {error:#}");
            }
        }
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
