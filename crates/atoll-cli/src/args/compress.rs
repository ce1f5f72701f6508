//! What `atoll compress` is told.

use std::path::PathBuf;

use atoll_compress::PruneMethod;
use atoll_model::BlockType;
use clap::{Args, ValueEnum};

use super::ComputeArgs;

/// `atoll compress`
#[derive(Args, Debug)]
pub(crate) struct CompressArgs {
    /// The model to compress
    pub(crate) model: String,
    /// The GGUF file to write; what is there is replaced once the new one is whole
    pub(crate) out: PathBuf,
    /// Block type of the layers' matrices: q8_0, q6_k, q5_k, q5_1, q5_0, q4_k, q4_1, q4_0, iq4_nl,
    /// iq4_xs, q3_k, q2_k, or e6, e5, e4, e3, which only Atoll reads
    #[arg(long = "type", value_name = "TYPE", value_parser = block_type)]
    #[arg(required_unless_present = "bytes")]
    pub(crate) ty: Option<BlockType>,
    /// Bytes of the whole file at most, spent where they matter most; needs --calib
    #[arg(long, value_name = "N", conflicts_with = "ty", requires = "calib")]
    pub(crate) bytes: Option<u64>,
    /// Text to calibrate on; never the text that the result will be judged by
    #[arg(long, value_name = "FILE")]
    pub(crate) calib: Option<PathBuf>,
    /// Sequences of 512 tokens used of it at most
    #[arg(long, default_value_t = 32, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) sequences: u32,
    /// Share of the feed-forward neurons to remove
    #[arg(long, default_value_t = 0.0, value_name = "SHARE", value_parser = share)]
    pub(crate) prune_neurons: f32,
    /// How they are chosen
    #[arg(long, value_enum, default_value_t = Method::Sobs, value_name = "METHOD")]
    pub(crate) method: Method,
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
}

/// How neurons are chosen.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Method {
    /// Those that the others replace best; repaired by least squares
    Sobs,
    /// Those whose values vary least, weighed by what follows
    Flap,
    /// Those with the smallest weights; needs no text
    Magnitude,
}

impl From<Method> for PruneMethod {
    fn from(method: Method) -> Self {
        match method {
            Method::Sobs => Self::Sobs,
            Method::Flap => Self::Flap,
            Method::Magnitude => Self::Magnitude,
        }
    }
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
