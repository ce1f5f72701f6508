//! What `atoll compress` is told.

use std::path::PathBuf;

use atoll_compress::{Pattern, PruneMethod, Pruning, SparseMethod, Sparsity};
use atoll_model::BlockType;
use clap::{Args, ValueEnum};

use super::ComputeArgs;
use crate::exit::Failure;

/// `atoll compress`
#[derive(Args, Debug)]
pub(crate) struct CompressArgs {
    /// The model to compress
    pub(crate) model: String,
    /// The GGUF file to write; what is there is replaced once the new one is whole
    pub(crate) out: PathBuf,
    /// Block type of the layers' matrices: q8_0, q6_k, q5_k, q5_1, q5_0, q4_k, q4_1, q4_0, iq4_nl,
    /// iq4_xs, q3_k, q2_k, or e6, e5, e4, e3, which only Atoll reads [default: each as it is]; an
    /// encoder's embedding of tokens takes it, too
    #[arg(long = "type", value_name = "TYPE", value_parser = block_type)]
    pub(crate) ty: Option<BlockType>,
    /// Bytes of the whole file at most, spent where they matter most; needs --calib
    #[arg(long, value_name = "N", conflicts_with = "ty", requires = "calib")]
    pub(crate) bytes: Option<u64>,
    /// As --bytes: bits per weight of the model as given
    #[arg(long, value_name = "B", conflicts_with_all = ["ty", "bytes"], requires = "calib")]
    #[arg(value_parser = bits)]
    pub(crate) bits: Option<f64>,
    /// Text to calibrate on; never the text that the result will be judged by
    #[arg(long, value_name = "FILE")]
    pub(crate) calib: Option<PathBuf>,
    /// Sequences of 512 tokens used of it at most, spread over all of it
    #[arg(long, default_value_t = 32, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) sequences: u32,
    /// Sequences of 512 tokens to calibrate on besides, which the model writes itself, or --writer
    #[arg(long, default_value_t = 0, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=4096))]
    pub(crate) own_text: u32,
    /// A decoder that writes them instead, one half in the manner of an encyclopedia: for an
    /// encoder, which writes nothing itself
    #[arg(long, requires = "own_text", value_name = "MODEL")]
    pub(crate) writer: Option<String>,
    /// Share of the feed-forward neurons to remove
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub(crate) prune_neurons: Option<f32>,
    /// Remove more neurons from one layer than from another, as the method says, and as many in
    /// all; llama.cpp does not read the result
    #[arg(long, requires = "prune_neurons")]
    pub(crate) uneven: bool,
    /// Share of single weights to set to 0 [default: 0.5 for a method that is for weights]
    #[arg(long, value_name = "SHARE", value_parser = share, conflicts_with = "prune_neurons")]
    pub(crate) prune_weights: Option<f32>,
    /// How neurons (sobs, flap, magnitude) or weights (wanda, sparsegpt, magnitude, 2:4, 4:8, 8:16)
    /// are chosen [default: sobs, sparsegpt]
    #[arg(long, value_enum, value_name = "METHOD")]
    pub(crate) method: Option<Method>,
    /// Other widths at which the result shall run, as falling shares of its neurons: 0.75,0.5
    #[arg(long, value_name = "SHARES", value_delimiter = ',', value_parser = share)]
    pub(crate) widths: Vec<f32>,
    /// Text of the kind that widths are to be judged by [default: parts of --calib that are not
    /// calibrated on]
    #[arg(long, requires = "widths", value_name = "FILE")]
    pub(crate) judge: Option<PathBuf>,
    /// Say what it would give and take, and make nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Draw each layer's bytes, and what pruning lost in it, as SVG
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
}

/// How neurons or weights are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Method {
    /// Neurons that the others replace best; repaired by least squares
    Sobs,
    /// Neurons whose values vary least, weighed by what follows
    Flap,
    /// Neurons or weights that are smallest; needs no text
    Magnitude,
    /// Weights whose product with their input's norm is smallest in their row
    Wanda,
    /// Weights that the others replace best, and do
    Sparsegpt,
    /// As sparsegpt, 2 of every 4 weights
    #[value(name = "2:4")]
    TwoOfFour,
    /// As sparsegpt, 4 of every 8 weights
    #[value(name = "4:8")]
    FourOfEight,
    /// As sparsegpt, 8 of every 16 weights
    #[value(name = "8:16")]
    EightOfSixteen,
}

impl CompressArgs {
    /// What is to be removed.
    pub(crate) fn pruning(&self) -> Result<Pruning, Failure> {
        let neurons = |method| Pruning::Neurons {
            share: self.prune_neurons.unwrap_or(0.0),
            method,
            alike: !self.uneven,
        };
        let weights = |method| {
            let pattern = Pattern::Share(self.prune_weights.unwrap_or(0.5));
            Pruning::Weights(Sparsity { pattern, method })
        };
        let groups = |kept, of| {
            let pattern = Pattern::Group { kept, of };
            Pruning::Weights(Sparsity { pattern, method: SparseMethod::SparseGpt })
        };
        let is_of_weights = self.prune_weights.is_some();
        let pruning = match self.method {
            None if is_of_weights => weights(SparseMethod::SparseGpt),
            None if self.prune_neurons.is_some() => neurons(PruneMethod::Sobs),
            None => Pruning::Nothing,
            Some(Method::Sobs) => neurons(PruneMethod::Sobs),
            Some(Method::Flap) => neurons(PruneMethod::Flap),
            Some(Method::Magnitude) if is_of_weights => weights(SparseMethod::Magnitude),
            Some(Method::Magnitude) => neurons(PruneMethod::Magnitude),
            Some(Method::Wanda) => weights(SparseMethod::Wanda),
            Some(Method::Sparsegpt) => weights(SparseMethod::SparseGpt),
            Some(Method::TwoOfFour) => groups(2, 4),
            Some(Method::FourOfEight) => groups(4, 8),
            Some(Method::EightOfSixteen) => groups(8, 16),
        };
        match pruning {
            Pruning::Neurons { .. } if is_of_weights => {
                Err(Failure::usage("this method chooses neurons, not weights")
                    .hint("--prune-neurons SHARE, or --method wanda, sparsegpt or magnitude"))
            }
            Pruning::Weights(_) if self.prune_neurons.is_some() => {
                Err(Failure::usage("this method chooses weights, not neurons")
                    .hint("--prune-weights SHARE, or --method sobs, flap or magnitude"))
            }
            Pruning::Weights(Sparsity { pattern: Pattern::Group { .. }, .. }) if is_of_weights => {
                Err(Failure::usage("groups leave no choice of a share")
                    .hint("leave --prune-weights out"))
            }
            Pruning::Nothing | Pruning::Neurons { .. } | Pruning::Weights(_) => Ok(pruning),
        }
    }
}

fn bits(text: &str) -> Result<f64, String> {
    let bits: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if bits > 0.0 && bits <= 32.0 { Ok(bits) } else { Err("above 0 and at most 32".to_owned()) }
}

fn block_type(text: &str) -> Result<BlockType, String> {
    let found = BlockType::all().find(|ty| ty.name().eq_ignore_ascii_case(text));
    match found {
        Some(BlockType::F32 | BlockType::F16 | BlockType::BF16) => {
            Err("floats are not written; q8_0 loses least".to_owned())
        }
        Some(ty) => Ok(ty),
        None => Err("no such type; q4_k is a good one".to_owned()),
    }
}

fn share(text: &str) -> Result<f32, String> {
    let share: f32 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..1.0).contains(&share) { Ok(share) } else { Err("from 0 to under 1".to_owned()) }
}
