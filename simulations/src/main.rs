//! Studies with the simulator: who finds out that a node is gone, how plans compare with other
//! systems' rules, and whether planted bugs are found. Runs and seeds are `atoll sim`'s.

use std::io::Write;

use anyhow::{Context, Result, ensure};
use clap::Parser;

mod detector;
mod fleets;
#[cfg(feature = "planted-bugs")]
mod planted;

/// Studies with the simulator; `atoll sim` plays scenarios and seeds.
#[derive(Parser)]
enum Arguments {
    /// Kills nodes on bad Wi-Fi, one a minute, and says when it was found out.
    Detector(detector::Detector),
    /// Plans a corpus of fleets and compares with the rules of other systems.
    Fleets(fleets::Fleets),
    /// Plants each known bug and counts the seeds until it is found (feature `planted-bugs`).
    #[cfg(feature = "planted-bugs")]
    Planted {
        /// Nodes of a run.
        #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u16).range(5..=128))]
        nodes: u16,
        /// Seeds of one search at most.
        #[arg(long, default_value_t = 100)]
        seeds: u64,
    },
}

fn main() -> Result<()> {
    match Arguments::parse() {
        Arguments::Detector(detector) => {
            let (report, value) = detector.run()?;
            let text = if detector.json { value.to_string() } else { format!("{value:#}") };
            writeln!(std::io::stdout(), "{text}").context("writing the result")?;
            for (name, what) in &report.violations {
                writeln!(std::io::stderr(), "{name} {what}")?;
            }
            let n = report.violations.len();
            ensure!(n == 0, "{n} invariants broke");
            Ok(())
        }
        Arguments::Fleets(fleets) => {
            writeln!(std::io::stdout(), "{}", fleets.run()?).context("writing the result")
        }
        #[cfg(feature = "planted-bugs")]
        Arguments::Planted { nodes, seeds } => run_planted(nodes.into(), seeds),
    }
}

/// Prints a table; fails if a bug was not found by most of its searches.
#[cfg(feature = "planted-bugs")]
fn run_planted(nodes: usize, seeds: u64) -> Result<()> {
    use atoll_sim::Schedule;

    let mut out = std::io::stdout();
    let mut unseen = Vec::new();
    writeln!(out, "| planted bug | median seeds to find it | most seeds | seen by |")?;
    writeln!(out, "|---|---|---|---|")?;
    for bug in atoll_sim::planted::Bug::ALL {
        let row = planted::search(bug, seeds, |seed| Schedule::chaos(seed, nodes));
        let figure = |seeds: Option<u64>| seeds.map_or("not found".into(), |n| n.to_string());
        let most = row.seeds.last().copied().flatten();
        let seen_by = row.seen_by.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>();
        let (median, most) = (figure(row.median()), figure(most));
        writeln!(out, "| `{:?}` | {median} | {most} | {} |", row.bug, seen_by.join(", "))?;
        if row.median().is_none() {
            unseen.push(row.bug);
        }
    }
    ensure!(unseen.is_empty(), "not found within {seeds} seeds: {unseen:?}");
    Ok(())
}
