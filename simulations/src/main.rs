//! Runs seeds of the simulator: `swarm --nodes N --seeds S --json`, or `swarm --seed X` for one.

use std::io::Write;

use anyhow::{Context, Result, ensure};
use atoll_sim::{Report, run};
use clap::Parser;

/// Simulates many nodes on a seeded network.
#[derive(Parser)]
enum Arguments {
    /// Runs many seeds and checks every one against the oracle.
    Swarm {
        /// Nodes of a run.
        #[arg(long, default_value_t = 50)]
        nodes: usize,
        /// Seeds, from 0.
        #[arg(long, default_value_t = 1000)]
        seeds: u64,
        /// This seed alone.
        #[arg(long)]
        seed: Option<u64>,
        /// One JSON object.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> Result<()> {
    let Arguments::Swarm { nodes, seeds, seed, json } = Arguments::parse();
    ensure!((5..=128).contains(&nodes), "--nodes is {nodes}; 5 to 128 can be simulated");
    let range = seed.map_or(0..seeds, |seed| seed..seed + 1);
    let mut sum = Report::default();
    for seed in range.clone() {
        let report = run(seed, nodes);
        // One seed in a hundred runs twice: the same events, or the simulator is not a proof.
        if seed % 100 == 0 && report != run(seed, nodes) {
            sum.violations.push(format!("seed {seed}: two runs differ"));
        }
        for violation in report.violations {
            let replay =
                format!("seed {seed}: {violation}; replay: swarm --nodes {nodes} --seed {seed}");
            writeln!(std::io::stderr(), "{replay}")?;
            sum.violations.push(replay);
        }
        sum.events += report.events;
        sum.faults += report.faults;
        sum.tokens += report.tokens;
        sum.completed += report.completed;
        sum.failed += report.failed;
    }
    let line = if json {
        serde_json::json!({
            "schema": "atoll.sim/1", "seeds": range.end - range.start, "events": sum.events,
            "faults": sum.faults, "tokens": sum.tokens, "completed": sum.completed,
            "failed": sum.failed, "violations": sum.violations.len(),
        })
        .to_string()
    } else {
        format!("{sum:?}")
    };
    writeln!(std::io::stdout(), "{line}").context("writing the result")?;
    ensure!(sum.violations.is_empty(), "{} violations", sum.violations.len());
    Ok(())
}
