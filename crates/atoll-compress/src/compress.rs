//! The whole way from a model to a smaller one, layer by layer.

use std::collections::BTreeMap;

use atoll_model::gguf::Value;
use atoll_model::rope::Rope;
use atoll_model::{BlockType, Compute, GgufWriter, TensorInfo, TensorSource};
use ndarray::Array2;
use serde::Serialize;

use crate::calibrate::Sequences;
use crate::error::CompressError;
use crate::floats::FloatLayer;
use crate::out::{Keep, Out, Store};
use crate::plan::{EMBED, Plan};
use crate::prune::PruneMethod;
use crate::sensitivity::TOKENS_MIN;

/// Tokens of a calibration sequence.
const SEQUENCE: usize = 512;
/// What the number of kept neurons is a multiple of, so that every block type fits.
const NEURONS_MULTIPLE: usize = 32;

/// What to make of the model.
#[derive(Debug, Clone)]
pub struct Options {
    /// How large it shall be.
    pub target: Target,
    /// Share of the feed-forward neurons that is removed, in `0..1`.
    pub prune_neurons: f32,
    /// How they are chosen.
    pub method: PruneMethod,
    /// Tokens of the calibration text, whole sequences of 512 of them are used; none for rounding
    /// to the nearest.
    pub calibration: Vec<u32>,
    /// Sequences used at most.
    pub sequences_max: usize,
}

/// What decides how each matrix is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The type of the layers' matrices; embedding and head stay as they are. A matrix whose
    /// columns are not whole blocks of it takes the type of 32 columns that is nearest above it in
    /// bits.
    Type(BlockType),
    /// Bytes of the whole file at most, spent where they matter most: on our own block types, on
    /// Q8_0, and on what stays as it is. If embedding and head are separate, one may take the
    /// place of both. Needs a text.
    Bytes(u64),
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Finding out what each matrix costs, for a number of bytes.
    Measuring,
    /// Making the result.
    Compressing,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// With what.
    pub work: Work,
    /// Layers done.
    pub layers_done: usize,
    /// Layers of the model.
    pub layers: usize,
}

/// What became of the model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Bytes of all tensors.
    pub bytes: u64,
    /// Bits per weight over all tensors, after pruning.
    pub bits_per_weight: f64,
    /// Feed-forward neurons after over before.
    pub neurons_after_over_before: f64,
    /// Weights after over before.
    pub weights_after_over_before: f64,
    /// Bits per weight of the model as given.
    pub bits_before: f64,
    /// Bits per weight of the result.
    pub bits_after: f64,
    /// Tokens of the text that were used.
    pub calibration_tokens: usize,
    /// Matrices by type; those that stayed as they were are `as given`.
    pub matrices: BTreeMap<String, usize>,
    /// Whether the head's matrix has taken the place of the separate embedding that the model had.
    pub is_tied_anew: bool,
    /// The divergence from the model as given that the plan for a number of bytes foresaw, nats: a
    /// sum of what each matrix costs alone when it is rounded to the nearest.
    pub divergence_expected: Option<f64>,
}

/// Compresses `source`; `keys` are the metadata of the result but for the feed-forward width.
///
/// Holds one layer in f32, the second moments of one input, the calibration text's states and what
/// goes into one product (4 bytes per token and column each), and the result; before that, for a
/// number of bytes, all layers in f32.
///
/// # Errors
/// [`CompressError`], before anything is computed where that is possible.
pub fn compress<'a>(
    source: &TensorSource,
    keys: impl Iterator<Item = (&'a str, &'a Value)>,
    options: &Options,
    compute: &Compute,
    progress: &mut dyn FnMut(Progress),
) -> Result<(GgufWriter<'static>, Report), CompressError> {
    let config = source.config();
    config.check_complete(source)?;
    let keep = kept_neurons(config.ffn_dim, options.prune_neurons)?;
    let mut sequences = sequences(source, options)?;
    let is_pruned = keep < config.ffn_dim;
    if is_pruned && sequences.is_none() && options.method != PruneMethod::Magnitude {
        return Err(CompressError::NeedsText("this way to choose neurons"));
    }
    let mut out = Out { writer: GgufWriter::new(), weights: 0, bytes: 0 };
    let width = format!("{}.feed_forward_length", config.architecture.name());
    for (key, value) in keys {
        if key == "general.file_type" {
            // It names the mix of types that the file had.
            continue;
        }
        if *value == Value::Skipped {
            return Err(CompressError::Key(key.to_owned()));
        }
        let value = if key == width { Value::Uint(keep as u64) } else { value.clone() };
        out.writer.key(key, value);
    }
    let plan = match options.target {
        Target::Type(ty) => Plan::layers_in(ty, config, keep),
        Target::Bytes(bytes) => {
            let vectors = vectors(source);
            let kept = (&out.writer, &vectors[..]);
            Plan::within(bytes, source, kept, keep, &options.calibration, compute, progress)?
        }
    };
    let rope_factors = source.tensor("rope_freqs.weight").map(|_| "rope_freqs.weight");
    for name in ["output_norm.weight"].into_iter().chain(rope_factors) {
        out.copy(source, name)?;
    }
    let kept = is_pruned.then_some(Keep { neurons: keep, method: options.method });
    for layer_idx in 0..config.n_layers {
        out.vectors(source, layer_idx)?;
        let (mut layer, text) = (FloatLayer::read(source, layer_idx)?, sequences.as_mut());
        let store = Store { source, layer_idx, plan: &plan, keep: kept, compute };
        out.layer(&store, &mut layer, text)?;
        progress(Progress {
            work: Work::Compressing,
            layers_done: layer_idx + 1,
            layers: config.n_layers,
        });
    }
    out.tables(source, &plan, sequences.as_ref(), compute)?;
    let (before_weights, before_bytes) = size_of(source)?;
    let report = Report {
        bytes: out.bytes,
        bits_per_weight: bits(out.bytes, out.weights),
        neurons_after_over_before: keep as f64 / config.ffn_dim as f64,
        weights_after_over_before: out.weights as f64 / before_weights as f64,
        bits_before: bits(before_bytes, before_weights),
        bits_after: bits(out.bytes, out.weights),
        calibration_tokens: sequences.map_or(0, |text| text.tokens()),
        matrices: plan.counts(),
        is_tied_anew: plan.is_tied_anew,
        divergence_expected: plan.expected,
    };
    Ok((out.writer, report))
}

fn bits(bytes: u64, weights: u64) -> f64 {
    8.0 * bytes as f64 / weights.max(1) as f64
}

/// Weights and bytes of the model as given.
fn size_of(source: &TensorSource) -> Result<(u64, u64), CompressError> {
    let (mut weights, mut bytes) = (0, 0);
    for spec in source.config().all_tensors() {
        weights += (spec.rows * spec.cols) as u64;
        bytes += source.require(&spec.name)?.bytes.len() as u64;
    }
    Ok((weights, bytes))
}

#[expect(clippy::cast_possible_truncation, reason = "a count of neurons")]
fn kept_neurons(neurons: usize, share: f32) -> Result<usize, CompressError> {
    if !(0.0..1.0).contains(&share) {
        return Err(CompressError::Share { share });
    }
    if share == 0.0 {
        return Ok(neurons);
    }
    let keep = (neurons as f32 * (1.0 - share)) as usize;
    let keep = (keep + NEURONS_MULTIPLE / 2) / NEURONS_MULTIPLE * NEURONS_MULTIPLE;
    Ok(keep.clamp(NEURONS_MULTIPLE.min(neurons), neurons))
}

/// The norms, biases and RoPE factors, which are copied.
fn vectors(source: &TensorSource) -> Vec<TensorInfo> {
    let specs = source.config().all_tensors().filter(|spec| spec.rows == 1);
    let names = specs.map(|spec| spec.name).chain(Some("rope_freqs.weight".to_owned()));
    let present = names.filter_map(|name| source.tensor(&name));
    present.map(|tensor| tensor.info.clone()).collect()
}

/// The calibration text as embeddings.
fn sequences(source: &TensorSource, options: &Options) -> Result<Option<Sequences>, CompressError> {
    let (config, tokens) = (source.config(), &options.calibration);
    if tokens.is_empty() {
        return match options.target {
            Target::Type(_) => Ok(None),
            Target::Bytes(_) => Err(CompressError::NeedsText("a budget of bytes")),
        };
    }
    const { assert!(TOKENS_MIN <= SEQUENCE, "a text of one sequence is long enough to measure") };
    if tokens.len() < SEQUENCE || options.sequences_max == 0 {
        return Err(CompressError::TextTooShort { tokens: tokens.len(), needed: SEQUENCE });
    }
    let n = (tokens.len() / SEQUENCE).min(options.sequences_max);
    let embed = source.require_shape(EMBED, config.vocab_size, config.dim)?;
    let mut states = Array2::zeros((n * SEQUENCE, config.dim));
    for (mut state, &token) in states.rows_mut().into_iter().zip(tokens) {
        let row = embed.row(token as usize)?;
        state.iter_mut().zip(row).for_each(|(to, from)| *to = from);
    }
    let rope = Rope::new(&config.rope).table(0..SEQUENCE);
    Ok(Some(Sequences::new(states, SEQUENCE, rope)))
}
