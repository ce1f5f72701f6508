//! Options of one answer.

use clap::Args;

use super::parse;

/// How an answer is made.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct GenerationArgs {
    /// Give the model the prompt as it is, without its chat template
    #[arg(long)]
    pub(crate) raw: bool,
    /// A system message before the prompt
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    pub(crate) system: Option<String>,
    /// Most tokens to generate [default: 512]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_tokens: Option<u32>,
    /// Stop when the answer contains this text; may be repeated
    #[arg(long, value_name = "TEXT", value_parser = parse::stop_text)]
    pub(crate) stop: Vec<String>,
    /// Longest sequence, in tokens [default: the model's, at most 8192]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(16..))]
    pub(crate) ctx: Option<u32>,
    /// Prompt tokens computed at once [default: 64]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) chunk: Option<u32>,
    #[command(flatten)]
    pub(crate) sampler: SamplerArgs,
}

/// How a token is chosen.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplerArgs {
    /// Temperature; 0 always takes the likeliest token [default: 0.8]
    #[arg(long = "temp", value_name = "T", value_parser = parse::within::<0, 100>)]
    pub(crate) temperature: Option<f32>,
    /// Keep the K likeliest tokens; 0 keeps all [default: 40]
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<u32>,
    /// Keep the likeliest tokens that together reach P [default: 0.95]
    #[arg(long, value_name = "P", value_parser = parse::top_p)]
    pub(crate) top_p: Option<f32>,
    /// Keep tokens at least P times as likely as the likeliest [default: 0.05]
    #[arg(long, value_name = "P", value_parser = parse::within::<0, 1>)]
    pub(crate) min_p: Option<f32>,
    /// Divide the logits of recent tokens by this [default: 1]
    #[arg(long, value_name = "R", value_parser = parse::repetition)]
    pub(crate) repetition_penalty: Option<f32>,
    /// Subtract this from the logits of recent tokens
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    #[arg(value_parser = parse::within::<-2, 2>)]
    pub(crate) presence_penalty: Option<f32>,
    /// Subtract this from the logits of recent tokens, once per occurrence
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    #[arg(value_parser = parse::within::<-2, 2>)]
    pub(crate) frequency_penalty: Option<f32>,
    /// How many recent tokens the penalties look at [default: 64]
    #[arg(long, value_name = "N")]
    pub(crate) repeat_last_n: Option<u32>,
    /// Seed of the random choice [default: random]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// With --json: the N likeliest tokens at each position, with their log-probabilities
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=20))]
    pub(crate) logprobs: Option<u8>,
}
