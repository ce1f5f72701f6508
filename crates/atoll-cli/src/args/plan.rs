//! What `atoll plan` is told.

use std::ops::Range;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::ApiAddress;

/// For what a plan is judged
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PlanObjective {
    /// The least time per token of one user who is alone
    Latency,
    /// The most tokens per second of all --users together
    Throughput,
}

/// `atoll plan`
#[derive(Args, Debug)]
pub(crate) struct PlanArgs {
    /// A fetched model or a path [default: the fleet file's own, or the one that the node serves]
    pub(crate) model: Option<String>,
    /// The devices and links, TOML; `-`: from stdin [default: the mesh of the node that runs here,
    /// as it measured itself]
    #[arg(long, value_name = "FILE")]
    pub(crate) fleet: Option<PathBuf>,
    /// Where that node's HTTP interface listens [default: as noted in the data directory]
    #[arg(long, env = "ATOLL_API", value_name = "IP:PORT", hide_env_values = true)]
    #[arg(conflicts_with = "fleet")]
    pub(crate) api: Option<ApiAddress>,
    /// Say why each node was left out, and what would change that
    #[arg(long)]
    pub(crate) explain: bool,
    /// Draw the plan into this file, SVG
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Positions per sequence that memory is kept for
    #[arg(long, default_value_t = 2048, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=16_777_216))]
    pub(crate) ctx: u64,
    /// Sequences at once that memory is kept for, and tokens per second predicted
    #[arg(long, default_value_t = 1, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub(crate) users: u64,
    /// For what the plan is to be the best
    #[arg(long, value_enum, default_value_t = PlanObjective::Latency, value_name = "WHAT")]
    pub(crate) objective: PlanObjective,
    /// Positions in the cache at which a token's time is predicted
    #[arg(long, default_value_t = 512, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=16_777_216))]
    pub(crate) positions: u64,
    /// Tokens of the prompt for the first token's time
    #[arg(long, default_value_t = 512, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    pub(crate) prompt: u64,
    /// Do not use this node; may be repeated
    #[arg(long, value_name = "NODE")]
    pub(crate) without: Vec<String>,
    /// Use only nodes with this label, such as site=home; may be repeated, all must be there
    #[arg(long, value_name = "LABEL")]
    pub(crate) label: Vec<String>,
    /// Layers that must be on a node, such as 0..4=desk; may be repeated
    #[arg(long, value_name = "A..B=NODE", value_parser = pin)]
    pub(crate) pin: Vec<(Range<usize>, String)>,
    /// What lighter variants may cost in quality together, nats of divergence
    #[arg(long, default_value_t = 0.0, value_name = "NATS", value_parser = loss)]
    pub(crate) loss: f64,
}

fn pin(text: &str) -> Result<(Range<usize>, String), String> {
    let parsed = text.split_once('=').and_then(|(layers, node)| {
        let (start, end) = layers.split_once("..")?;
        let layers = start.parse().ok()?..end.parse().ok()?;
        (layers.start < layers.end && !node.is_empty()).then(|| (layers, node.to_owned()))
    });
    parsed.ok_or_else(|| "expected A..B=NODE, such as 0..4=desk".to_owned())
}

fn loss(text: &str) -> Result<f64, String> {
    let loss: f64 = text.parse().map_err(|_| "expected a number")?;
    if (0.0..=1000.0).contains(&loss) { Ok(loss) } else { Err("0 to 1000 are taken".to_owned()) }
}
