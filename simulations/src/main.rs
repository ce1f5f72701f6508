//! Runs seeds of the simulator: `swarm --nodes N --seeds S --json`, or `swarm --seed X` for one.

use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use atoll_sim::{Report, Schedule};
use clap::{Args, Parser, ValueEnum};

mod bench;
mod detector;
mod fleets;
#[cfg(feature = "planted-bugs")]
mod planted;
mod regression;
mod scenario;
mod swarm;

use regression::Regression;
use swarm::Outcome;

/// Simulates many nodes on a seeded network.
#[derive(Parser)]
enum Arguments {
    /// Runs many seeds and holds every event against the invariants.
    Swarm(SwarmArguments),
    /// Plays a scenario and holds what comes of it against what it expects.
    #[command(after_help = scenario::EXIT_CODES)]
    Run(scenario::Play),
    /// Runs many devices once and says what it took.
    Bench(bench::Bench),
    /// Kills nodes on bad Wi-Fi, one a minute, and says when it was found out.
    Detector(detector::Detector),
    /// Plans a corpus of fleets and compares with the rules of other systems.
    Fleets(fleets::Fleets),
    /// Makes a failing seed's schedule small and keeps it in `regressions/`.
    Shrink {
        /// Which seed.
        seed: u64,
        /// Nodes of the run.
        #[arg(long, default_value_t = 50)]
        nodes: usize,
        /// What happens to them.
        #[arg(long, default_value = "chaos")]
        kind: Kind,
        /// The file's name, without `.json`.
        #[arg(long)]
        name: String,
    },
    /// Runs a file of `regressions/` again.
    Replay {
        /// Which file.
        file: PathBuf,
    },
    /// Plants each known bug and counts the seeds until it is found (feature `planted-bugs`).
    #[cfg(feature = "planted-bugs")]
    Planted {
        /// Nodes of a run.
        #[arg(long, default_value_t = 12)]
        nodes: usize,
        /// Seeds of one search at most.
        #[arg(long, default_value_t = 100)]
        seeds: u64,
    },
}

#[derive(Args)]
struct SwarmArguments {
    /// Nodes of a run.
    #[arg(long, default_value_t = 50)]
    nodes: usize,
    /// Seeds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// This seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Seeds run at once; each run has one thread.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Every seed that this divides is run twice and must give the same trace; 1: all of them.
    #[arg(long, default_value_t = 100)]
    repeat_every: u64,
    /// What happens to them.
    #[arg(long, default_value = "calm")]
    kind: Kind,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

/// Kinds of schedules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Nodes come and go with a goodbye.
    Calm,
    /// Everything goes wrong for a while.
    Chaos,
}

impl fmt::Display for Kind {
    /// As it is given on the command line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value().ok_or(fmt::Error)?;
        f.write_str(value.get_name())
    }
}

impl Kind {
    fn schedule(self, seed: u64, nodes: usize) -> Schedule {
        match self {
            Self::Calm => Schedule::joins_and_leaves(seed, nodes),
            Self::Chaos => Schedule::chaos(seed, nodes),
        }
    }
}

fn main() -> Result<ExitCode> {
    match Arguments::parse() {
        Arguments::Run(play) => return play.run(),

        Arguments::Swarm(arguments) => run_swarm(&arguments),
        Arguments::Bench(bench) => print(bench.json, bench.run()?),
        Arguments::Detector(detector) => print(detector.json, detector.run()?),
        Arguments::Fleets(fleets) => {
            writeln!(std::io::stdout(), "{}", fleets.run()?).context("writing the result")
        }
        Arguments::Shrink { seed, nodes, kind, name } => {
            let small = Regression::of(&kind.schedule(seed, check_nodes(nodes)?))?;
            let path = small.write(&name)?;
            writeln!(std::io::stdout(), "{}: {} faults", path.display(), small.faults())?;
            Ok(())
        }
        Arguments::Replay { file } => fail_if_broken(&Regression::replay(&file)?),
        #[cfg(feature = "planted-bugs")]
        Arguments::Planted { nodes, seeds } => run_planted(nodes, seeds),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn print(as_line: bool, (report, value): (Report, serde_json::Value)) -> Result<()> {
    let text = if as_line { value.to_string() } else { format!("{value:#}") };
    writeln!(std::io::stdout(), "{text}").context("writing the result")?;
    fail_if_broken(&report)
}

fn fail_if_broken(report: &Report) -> Result<()> {
    for (name, what) in &report.violations {
        writeln!(std::io::stderr(), "{name} {what}")?;
    }
    let n = report.violations.len();
    ensure!(n == 0, "{n} invariants broke");
    Ok(())
}

fn check_nodes(nodes: usize) -> Result<usize> {
    ensure!(
        (5..=128).contains(&nodes),
        "--nodes is {nodes}; 5 to 128 are taken, `bench` takes more"
    );
    Ok(nodes)
}

fn run_swarm(arguments: &SwarmArguments) -> Result<()> {
    let &SwarmArguments { nodes, seeds, from, seed, jobs, repeat_every, kind, json } = arguments;
    check_nodes(nodes)?;
    ensure!((1..=64).contains(&jobs), "--jobs is {jobs}; 1 to 64 threads can be used");
    ensure!(repeat_every > 0, "--repeat-every is 0; 1 runs every seed twice");
    let end = from.checked_add(seeds).with_context(|| format!("no {seeds} seeds follow {from}"))?;
    let range = seed.map_or(from..end, |seed| seed..seed.saturating_add(1));
    // One seed alone is looked at, so it is run twice whatever it is.
    let repeat_every = if seed.is_some() { 1 } else { repeat_every };
    let progress = |outcome: &Outcome, next: u64| {
        let mut line = outcome.json();
        line["next_from"] = next.into();
        // Nobody may be listening any more; the run goes on.
        let _ = writeln!(std::io::stderr(), "{line}");
    };
    let kind_of = |seed| kind.schedule(seed, nodes);
    let outcome = swarm::run_seeds(range, (jobs, repeat_every), kind_of, progress);
    for failure in &outcome.failures {
        writeln!(
            std::io::stderr(),
            "{failure}; replay: swarm --kind {kind} --nodes {nodes} --seed {}",
            failure.seed
        )?;
    }
    let line = if json { outcome.json().to_string() } else { outcome.text() };
    writeln!(std::io::stdout(), "{line}").context("writing the result")?;
    let n = outcome.failures.len();
    ensure!(n == 0, "{n} seeds broke an invariant or differ from themselves");
    Ok(())
}

/// Prints a table; fails if a bug was not found by most of its searches.
#[cfg(feature = "planted-bugs")]
fn run_planted(nodes: usize, seeds: u64) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_replays_is_a_line_that_is_taken() {
        for kind in [Kind::Calm, Kind::Chaos] {
            let line = format!("simulations swarm --kind {kind} --nodes 12 --seed 17");
            let parsed = Arguments::try_parse_from(line.split(' '));
            assert!(
                matches!(parsed, Ok(Arguments::Swarm(ref swarm)) if swarm.kind == kind),
                "{line}"
            );
        }
    }
}
