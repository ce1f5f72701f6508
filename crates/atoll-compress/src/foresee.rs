//! What a compression will give and take, without computing it.

use atoll_model::gguf::Value;
use atoll_model::{GgufWriter, ModelConfig, TensorInfo, TensorSource};
use serde::Serialize;

use crate::compress::{Options, Pruning, Target, kept_keys, neurons};
use crate::cut::Cut;
use crate::elastic::Elastic;
use crate::error::CompressError;
use crate::plan::{Plan, Way};
use crate::sparsify::Pattern;
use crate::text::{SEQUENCE, Text};

/// What a compression will give and take.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Forecast {
    /// Bytes of the file; for a number of bytes, at most; where layers keep different numbers of
    /// neurons, about.
    pub file_bytes: u64,
    /// Feed-forward neurons after over before.
    pub neurons_after_over_before: f64,
    /// Weights after over before.
    pub weights_after_over_before: f64,
    /// Tokens of the text that will be used.
    pub calibration_tokens: usize,
    /// Bytes of memory that it will take beside the model's file, about.
    pub memory_bytes: u64,
}

/// What [`crate::compress`] with the same arguments will give.
///
/// # Errors
/// What it would refuse before it computes anything.
pub fn foresee<'a>(
    source: &TensorSource,
    keys: impl Iterator<Item = (&'a str, &'a Value)>,
    options: &Options,
) -> Result<Forecast, CompressError> {
    let given = source.config();
    given.check_complete(source)?;
    let cut = Cut::new(source, options)?;
    let written = options.written.as_ref().map_or(options.own_sequences * SEQUENCE, |_| 0);
    let tokens = Text::of(options, given)?.calibration.len() + written;
    let config = cut.result(given);
    let plan = match options.target {
        Target::AsGiven | Target::Bytes(_) => Plan::as_given(source, &cut)?,
        Target::Type(ty) => Plan::layers_in(ty, &config)?,
    };
    if matches!(cut, Cut::Weights(_)) {
        plan.check_zeros()?;
    }
    let mut writer = GgufWriter::new();
    for key in kept_keys(keys, given, &cut) {
        let (key, value) = key?;
        writer.key(key, value);
    }
    Elastic::of(&cut).reserve(&mut writer, source.config().n_layers);
    let info = |name: &str, rows: usize, cols: usize| -> Result<TensorInfo, CompressError> {
        let dtype = match plan.way(name) {
            Way::Keep => source.require(name)?.info.dtype,
            Way::Round(dtype) => dtype,
        };
        Ok(TensorInfo { name: name.to_owned(), dtype, rows, cols })
    };
    let infos = config.all_tensors().map(|spec| info(&spec.name, spec.rows, spec.cols));
    let mut infos = infos.collect::<Result<Vec<_>, _>>()?;
    infos.extend(source.tensor("rope_freqs.weight").map(|tensor| tensor.info.clone()));
    let file_bytes = match options.target {
        Target::Bytes(bytes) => bytes,
        Target::AsGiven | Target::Type(_) => writer.bytes_with(&infos),
    };
    let holds_all = matches!(options.target, Target::Bytes(_)) || cut.holds_all();
    Ok(Forecast {
        file_bytes,
        neurons_after_over_before: neurons(&config) / neurons(given),
        weights_after_over_before: weights_left(options.pruning, &config) / weights(given),
        calibration_tokens: tokens,
        memory_bytes: file_bytes + memory(given, tokens, holds_all, cut.refits(given)),
    })
}

fn weights(config: &ModelConfig) -> f64 {
    config.all_tensors().map(|spec| (spec.rows * spec.cols) as f64).sum()
}

/// Weights of `config` that are not set to 0.
fn weights_left(pruning: Pruning, config: &ModelConfig) -> f64 {
    let stays = match pruning {
        Pruning::Nothing | Pruning::Neurons { .. } => 1.0,
        Pruning::Weights(sparsity) => match sparsity.pattern {
            Pattern::Share(share) => 1.0 - f64::from(share),
            Pattern::Group { kept, of } => kept as f64 / of as f64,
        },
    };
    let layers = (0..config.n_layers).flat_map(|idx| config.layer_tensors(idx));
    let matrices = layers.filter(|spec| spec.rows > 1).map(|spec| (spec.rows * spec.cols) as f64);
    weights(config) - (1.0 - stays) * matrices.sum::<f64>()
}

/// Bytes of the floats that are held at once, beside the result: the text's states with the inputs
/// of the widest product, its moments and what is solved with them, one layer; all layers if
/// `holds_all`; if the layers are refitted (`refits`), what the model as given says and what an
/// error is made good by.
fn memory(config: &ModelConfig, tokens: usize, holds_all: bool, refits: bool) -> u64 {
    /// Squares of the widest product's columns that are held at once.
    const SQUARES: usize = 5;
    let layer: usize = config.layer_tensors(0).iter().map(|spec| spec.rows * spec.cols).sum();
    let layers = if holds_all { config.n_layers } else { 2 };
    let widest = config.ffn_dim.max(config.dim).max(config.q_dim());
    let fit = if refits { 6 * config.dim + widest } else { 0 };
    let text = tokens * (3 * config.dim + 2 * widest + fit);
    4 * (text + SQUARES * widest * widest + layers * layer) as u64
}
