//! Runs seeds of the simulator: `swarm --nodes N --seeds S --json`, or `swarm --seed X` for one.

use std::io::Write;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser};

mod swarm;

/// Simulates many nodes on a seeded network.
#[derive(Parser)]
enum Arguments {
    /// Runs many seeds, each twice, and holds every event against the invariants.
    Swarm(SwarmArguments),
}

#[derive(Args)]
struct SwarmArguments {
    /// Nodes of a run.
    #[arg(long, default_value_t = 50)]
    nodes: usize,
    /// Seeds, from 0.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// This seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Seeds run at once; each run has one thread.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

fn main() -> Result<()> {
    match Arguments::parse() {
        Arguments::Swarm(arguments) => run_swarm(&arguments),
    }
}

fn run_swarm(arguments: &SwarmArguments) -> Result<()> {
    let &SwarmArguments { nodes, seeds, seed, jobs, json } = arguments;
    ensure!((5..=128).contains(&nodes), "--nodes is {nodes}; 5 to 128 can be simulated");
    ensure!((1..=64).contains(&jobs), "--jobs is {jobs}; 1 to 64 threads can be used");
    let range = seed.map_or(0..seeds, |seed| seed..seed + 1);
    let outcome = swarm::run_seeds(range, jobs, nodes);
    for failure in &outcome.failures {
        writeln!(
            std::io::stderr(),
            "{failure}; replay: swarm --nodes {nodes} --seed {}",
            failure.seed
        )?;
    }
    let line = if json { outcome.json().to_string() } else { outcome.text() };
    writeln!(std::io::stdout(), "{line}").context("writing the result")?;
    let n = outcome.failures.len();
    ensure!(n == 0, "{n} seeds broke an invariant or differ from themselves");
    Ok(())
}
