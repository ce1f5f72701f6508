//! What `atoll embed` is told.

use std::path::PathBuf;

use clap::Args;

use super::ComputeArgs;

/// `atoll embed`
#[derive(Args, Debug)]
pub(crate) struct EmbedArgs {
    /// An encoder: a folder with safetensors, or a GGUF file
    pub(crate) model: String,
    /// What to embed
    #[arg(value_name = "TEXT", required_unless_present = "text")]
    pub(crate) texts: Vec<String>,
    /// A file of which every line is a text
    #[arg(long, value_name = "FILE")]
    pub(crate) text: Option<PathBuf>,
    /// Say how near another model's embeddings are instead
    #[arg(long, value_name = "MODEL")]
    pub(crate) against: Option<String>,
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
}
