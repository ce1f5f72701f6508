//! What `atoll sim` is told.

use std::path::PathBuf;

use atoll_sim::swarm::Kind;
use clap::{Args, Subcommand};

/// `atoll sim`
#[derive(Args, Debug)]
pub(crate) struct SimArgs {
    #[command(subcommand)]
    pub(crate) command: SimCommand,
}

/// What is to be simulated.
#[derive(Debug, Subcommand)]
pub(crate) enum SimCommand {
    /// Play a scenario and hold what comes of it against what it expects
    Run(SimRunArgs),
    /// Run many seeds and hold every event against the invariants
    Swarm(SwarmArgs),
    /// Make a failing seed's schedule small and write it down
    Shrink(ShrinkArgs),
    /// Run a schedule again that was written down
    Replay(ReplayArgs),
    /// Run thousands of devices once and say what it took
    Bench(SimBenchArgs),
    /// Predict what real nodes were measured at
    Calibrate(CalibrateArgs),
    /// Draw a timeline of one run: requests, tokens, faults, waits, node by node
    Explain(ExplainArgs),
}

/// `atoll sim run`
#[derive(Args, Debug)]
pub(crate) struct SimRunArgs {
    /// The scenario, TOML
    pub(crate) file: PathBuf,
    /// Which run of it
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) seed: u64,
    /// Write a report into this file: topology, placement, occupancy, tokens, faults, waits
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Write a line for each request into this file
    #[arg(long, value_name = "FILE")]
    pub(crate) csv: Option<PathBuf>,
}

/// Which schedule a seed expands to.
#[derive(Args, Clone, Debug)]
pub(crate) struct SeedArgs {
    /// Nodes of the run
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = nodes)]
    pub(crate) nodes: usize,
    /// What happens to them: calm or chaos
    #[arg(long, default_value = "chaos", value_name = "KIND")]
    pub(crate) kind: Kind,
}

/// `atoll sim swarm`
#[derive(Args, Debug)]
pub(crate) struct SwarmArgs {
    #[command(flatten)]
    pub(crate) of: SeedArgs,
    /// How many seeds
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub(crate) seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) from: u64,
    /// This seed alone
    #[arg(long, value_name = "N", conflicts_with_all = ["seeds", "from"])]
    pub(crate) seed: Option<u64>,
    /// Seeds run at once; each run has one thread
    #[arg(long, default_value_t = 2, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) jobs: u8,
    /// Every seed that this divides is run twice and must give the same trace; 1: all of them
    #[arg(long, default_value_t = 100, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) repeat_every: u64,
}

/// `atoll sim shrink`
#[derive(Args, Debug)]
pub(crate) struct ShrinkArgs {
    /// Which seed
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) of: SeedArgs,
    /// Where the small schedule is written, JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

/// `atoll sim replay`
#[derive(Args, Debug)]
pub(crate) struct ReplayArgs {
    /// What `atoll sim shrink` wrote
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
}

/// `atoll sim bench`
#[derive(Args, Debug)]
pub(crate) struct SimBenchArgs {
    /// Devices of the run
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub(crate) nodes: usize,
    /// Simulated time, s
    #[arg(long, default_value_t = 120, value_name = "S")]
    #[arg(value_parser = clap::value_parser!(u64).range(30..=86_400))]
    pub(crate) seconds: u64,
    /// Which run
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) seed: u64,
    /// Memory that the run may take, such as 4GiB
    #[arg(long, default_value = "4GiB", value_name = "SIZE")]
    #[arg(value_parser = super::byte_size)]
    pub(crate) memory: u64,
}

/// `atoll sim calibrate`
#[derive(Args, Debug)]
pub(crate) struct CalibrateArgs {
    /// What `netns measure --json` printed; several files are judged together
    #[arg(required = true, value_name = "MEASURED")]
    pub(crate) files: Vec<PathBuf>,
}

/// `atoll sim explain`
#[derive(Args, Debug)]
pub(crate) struct ExplainArgs {
    /// A scenario, or a schedule that was written down; without it: a seed of --kind and --nodes
    pub(crate) file: Option<PathBuf>,
    /// Which run
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) of: SeedArgs,
    /// Begin here, s
    #[arg(long, value_name = "S")]
    pub(crate) from: Option<f64>,
    /// End here, s
    #[arg(long, value_name = "S")]
    pub(crate) to: Option<f64>,
    /// Write the SVG into this file [default: stdout]
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
}

fn nodes(text: &str) -> Result<usize, String> {
    let nodes = text.parse().map_err(|_| "expected a number")?;
    if (5..=128).contains(&nodes) {
        return Ok(nodes);
    }
    Err("5 to 128 are taken; `atoll sim bench` takes more".to_owned())
}
