//! The whole way from a model to a smaller one, layer by layer.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use atoll_model::gguf::Value;
use atoll_model::rope::Rope;
use atoll_model::{BlockType, Compute, GgufWriter, ModelConfig, TensorInfo, TensorSource};
use serde::Serialize;

use crate::calibrate::Sequences;
use crate::cut::Cut;
use crate::elastic::{self, Elastic, StepReport, WidthReport};
use crate::error::CompressError;
use crate::floats::{FloatLayer, first_states, text_ids};
use crate::out::{LayerReport, Out, Store, beside_layers};
use crate::own_text::own_text;
use crate::plan::{EMBED, Plan};
use crate::probe::{ProbeText, rows_of};
use crate::prune::PruneMethod;
use crate::resume::{Done, Resume};
use crate::sparsify::{SparseMethod, Sparsity};
use crate::text::{SEQUENCE, Text};

/// What to make of the model.
#[derive(Debug, Clone)]
pub struct Options {
    /// How large it shall be.
    pub target: Target,
    /// What is removed.
    pub pruning: Pruning,
    /// Widths besides the whole one at which the result can run, as shares of the neurons that
    /// stay, falling: the neurons are ordered so that the first of them are the narrower layer.
    pub widths: Vec<f32>,
    /// Tokens of the calibration text, of which whole sequences of 512 are used, spread over all of
    /// it; none for rounding to the nearest.
    pub calibration: Vec<u32>,
    /// Tokens of a text of the kind that the widths are to be judged by, of which sequences from
    /// all over it are used; none for sequences of the calibration text that are not calibrated on.
    pub judged_by: Vec<u32>,
    /// The tokens that begin and end every text that an encoder reads: the calibration text is cut
    /// into texts of 8 to 128 tokens for it, each of which gives its ends up to them, and six of
    /// ten tokens of the given text are drawn from the vocabulary instead.
    pub ends: [Option<u32>; 2],
    /// Sequences used at most.
    pub sequences_max: usize,
    /// Sequences of 512 tokens that are calibrated on besides, which the model writes, or which
    /// were [written](Self::written) for it.
    pub own_sequences: usize,
    /// The tokens of a text that another model wrote ([`crate::write_text`]), of which as many
    /// whole sequences as that are used. An encoder writes nothing itself.
    pub written: Option<Vec<u32>>,
    /// A folder in which is kept what is done, so that the same work goes on there if it is
    /// interrupted; [`crate::forget`] removes it.
    pub resume: Option<PathBuf>,
}

/// What is removed from every layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pruning {
    /// Nothing.
    Nothing,
    /// Neurons of the feed-forward block.
    Neurons {
        /// Share of them, in `0..1`.
        share: f32,
        /// How they are chosen.
        method: PruneMethod,
        /// Whether each layer keeps as many; otherwise the method decides, so that as many stay in
        /// all. For several widths, all layers are alike.
        alike: bool,
    },
    /// Single weights of every matrix. Their zeros are stored as other weights are.
    Weights(Sparsity),
}

/// What decides how each matrix is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Everything as it is, but for matrices that are changed by what is removed: those are
    /// rounded to the type that they have.
    AsGiven,
    /// The type of the layers' matrices and of an encoder's embedding of tokens; a decoder's
    /// embedding and head stay as they are. A matrix whose columns are not whole blocks of it takes
    /// the type of 32 columns that is nearest above it in bits.
    Type(BlockType),
    /// Bytes of the whole file at most, spent where they matter most: on our own block types, on
    /// Q8_0, and on what stays as it is. If embedding and head are separate, one may take the
    /// place of both. Needs a text. An encoder is judged by the directions of texts.
    Bytes(u64),
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Writing a text of the model's own.
    Writing,
    /// Finding out what each matrix costs, for a number of bytes.
    Measuring,
    /// Making the result.
    Compressing,
    /// Finding out how far from the model as given each width is.
    Judging,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// With what.
    pub work: Work,
    /// Layers done, or sequences or chunks of a text.
    pub layers_done: usize,
    /// Layers of the model, or sequences or chunks of the text.
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
    /// sum of what each matrix costs alone when it is rounded to the nearest. None of an encoder.
    pub divergence_expected: Option<f64>,
    /// Of an encoder, the mean cosine between its directions and those of the model as given that
    /// such a plan foresaw.
    pub cosine_expected: Option<f64>,
    /// What became of each layer.
    pub layers: Vec<LayerReport>,
    /// The widths at which it can run, the whole one first; none if it was not made for several.
    pub widths: Vec<WidthReport>,
    /// The order in which its layers become narrower where there is no room for them.
    pub steps: Vec<StepReport>,
}

/// Compresses `source`; `keys` are the metadata of the result but for the feed-forward width.
///
/// Holds one layer in f32, the second moments of one input, the calibration text's states and what
/// goes into one product (4 bytes per token and column each), and the result; before that, for a
/// number of bytes or where structured OBS decides what each layer keeps, all layers in f32.
///
/// # Errors
/// [`CompressError`], before anything is computed where that is possible.
pub fn compress<'a>(
    source: &TensorSource,
    keys: impl Iterator<Item = (&'a str, &'a Value)>,
    options: &Options,
    compute: &Arc<Compute>,
    progress: &mut dyn FnMut(Progress),
) -> Result<(GgufWriter<'static>, Report), CompressError> {
    let config = source.config();
    config.check_complete(source)?;
    let mut cut = Cut::new(source, options)?;
    let mut text = Text::of(options, config)?;
    let resume = options.resume.as_deref().map(|at| Resume::open(at, source, options));
    let resume = resume.transpose()?;
    if options.written.is_none() {
        let own = own_text(source, options.own_sequences, resume.as_ref(), compute, progress)?;
        text.calibration.extend(own);
    }
    let mut sequences = sequences(source, &text.calibration, options.ends, compute)?;
    let looked_at = ProbeText { tokens: &text.calibration, ends: options.ends };
    let seen = sequences.as_ref().map(|sequences| (sequences, looked_at));
    cut.spread(source, seen, resume.as_ref(), compute, progress)?;
    if let Some(text) = sequences.as_mut().filter(|_| cut.refits(config)) {
        text.follow();
    }
    let mut out = Out::new();
    for key in kept_keys(keys, config, &cut) {
        let (key, value) = key?;
        out.writer.key(key, value);
    }
    let elastic = Elastic::of(&cut);
    elastic.reserve(&mut out.writer, config.n_layers);
    let store = (&out.writer, &cut);
    let plan = plan(source, store, options, looked_at, resume.as_ref(), compute, progress)?;
    out.beside_layers(source)?;
    out.flush();
    let mut layers = Vec::with_capacity(config.n_layers);
    if let Some((done, states)) = resume.as_ref().and_then(Resume::read) {
        for Done { tensors, zeros, report } in done {
            out.add(tensors, zeros);
            layers.push(report);
        }
        if let Some((text, states)) = sequences.as_mut().zip(states) {
            text.resume(states);
            for layer_idx in 0..layers.len() {
                text.follow_through(&FloatLayer::read(source, layer_idx)?, config, compute);
            }
        }
    }
    for layer_idx in layers.len()..config.n_layers {
        let (mut layer, text) = (FloatLayer::read(source, layer_idx)?, sequences.as_mut());
        let store = Store { source, layer_idx, plan: &plan, cut: &cut, compute };
        let done = out.layer(&store, &mut layer, text)?;
        if let Some(resume) = &resume {
            resume.layer(layer_idx, &done, sequences.as_ref().map(Sequences::states))?;
        }
        out.add(done.tensors, done.zeros);
        layers.push(done.report);
        progress(Progress {
            work: Work::Compressing,
            layers_done: layer_idx + 1,
            layers: config.n_layers,
        });
    }
    out.tables(source, &plan, sequences.as_ref(), compute)?;
    out.flush();
    let (widths, steps) =
        elastic.measure(source, &mut out.writer, &text.held_out, compute, progress)?;
    let (before_weights, before_bytes) = size_of(source)?;
    let report = Report {
        bytes: out.bytes,
        bits_per_weight: bits(out.bytes, out.weights),
        neurons_after_over_before: neurons(&cut.result(config)) / neurons(config),
        weights_after_over_before: (out.weights - out.zeros) as f64 / before_weights as f64,
        bits_before: bits(before_bytes, before_weights),
        bits_after: bits(out.bytes, out.weights),
        calibration_tokens: sequences.map_or(0, |text| text.tokens()),
        matrices: plan.counts(),
        is_tied_anew: plan.is_tied_anew,
        divergence_expected: plan.expected.filter(|_| config.encoder.is_none()),
        cosine_expected: plan.expected.filter(|_| config.encoder.is_some()).map(|cost| 1.0 - cost),
        layers,
        widths,
        steps,
    };
    Ok((out.writer, report))
}

/// How every matrix is stored: as was noted, or as is found now and noted.
fn plan(
    source: &TensorSource,
    (writer, cut): (&GgufWriter<'_>, &Cut),
    options: &Options,
    text: ProbeText<'_>,
    resume: Option<&Resume>,
    compute: &Compute,
    progress: &mut dyn FnMut(Progress),
) -> Result<Plan, CompressError> {
    let known = resume.and_then(|at| at.get("plan"));
    if let Some(plan) = known.and_then(|text| Plan::parse(&String::from_utf8(text).ok()?)) {
        return Ok(plan);
    }
    let config = source.config();
    let plan = match options.target {
        Target::AsGiven => Plan::as_given(source, cut)?,
        Target::Type(ty) => Plan::layers_in(ty, &cut.result(config))?,
        Target::Bytes(bytes) => {
            let copied = copied(source);
            let kept = (writer, &copied[..]);
            Plan::within(bytes, source, kept, cut, text, compute, progress)?
        }
    };
    if matches!(cut, Cut::Weights(_)) {
        plan.check_zeros()?;
    }
    if let Some(resume) = resume {
        resume.put("plan", plan.to_text().as_bytes())?;
    }
    Ok(plan)
}

/// The keys of the result.
pub(crate) fn kept_keys<'a>(
    keys: impl Iterator<Item = (&'a str, &'a Value)>,
    config: &ModelConfig,
    cut: &Cut,
) -> impl Iterator<Item = Result<(&'a str, Value), CompressError>> {
    let width = format!("{}.feed_forward_length", config.architecture.name());
    let result = cut.result(config);
    let neurons = match &result.ffn_dims[..] {
        [] => Value::Uint(result.ffn_dim as u64),
        dims => Value::Ints(dims.iter().map(|&dim| dim as i64).collect()),
    };
    // The type names the mix of types that the file had; widths are those of this result.
    let is_kept = |key: &str| key != "general.file_type" && !elastic::KEYS.contains(&key);
    keys.filter(move |(key, _)| is_kept(key)).map(move |(key, value)| {
        if *value == Value::Skipped {
            return Err(CompressError::Key(key.to_owned()));
        }
        Ok((key, if key == width { neurons.clone() } else { value.clone() }))
    })
}

/// Feed-forward neurons of all layers.
pub(crate) fn neurons(config: &ModelConfig) -> f64 {
    (0..config.n_layers).map(|layer_idx| config.ffn_dim_of(layer_idx) as f64).sum()
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

/// What is copied: norms, biases, RoPE factors, an encoder's tables of positions and types.
fn copied(source: &TensorSource) -> Vec<TensorInfo> {
    let config = source.config();
    let layers = (0..config.n_layers).flat_map(|layer_idx| config.layer_tensors(layer_idx));
    let vectors = layers.filter(|spec| spec.rows == 1).map(|spec| spec.name);
    let present = vectors.chain(beside_layers(source)).filter_map(|name| source.tensor(&name));
    present.map(|tensor| tensor.info.clone()).collect()
}

impl Options {
    /// What needs a text, if anything does.
    pub(crate) fn needs_text(&self) -> Option<&'static str> {
        let is_pruned = |share: f32| share > 0.0 || !self.widths.is_empty();
        match (self.pruning, self.target) {
            (_, Target::Bytes(_)) => Some("a budget of bytes"),
            (Pruning::Neurons { share, method, .. }, _)
                if is_pruned(share) && method != PruneMethod::Magnitude =>
            {
                Some("this way to choose neurons")
            }
            (Pruning::Weights(sparsity), _) if sparsity.method != SparseMethod::Magnitude => {
                Some("this way to choose weights")
            }
            _ if !self.widths.is_empty() && self.judged_by.is_empty() => Some("judging widths"),
            _ => None,
        }
    }
}

/// The calibration text as embeddings.
fn sequences(
    source: &TensorSource,
    tokens: &[u32],
    ends: [Option<u32>; 2],
    compute: &Compute,
) -> Result<Option<Sequences>, CompressError> {
    let config = source.config();
    if tokens.is_empty() {
        return Ok(None);
    }
    let rope = Rope::new(&config.rope).table(0..SEQUENCE);
    let embed = source.require_shape(EMBED, config.vocab_size, config.dim)?;
    let words = rows_of(embed, &text_ids(config, tokens, SEQUENCE, ends))?;
    let states = first_states(source, words, SEQUENCE, compute)?;
    Ok(Some(Sequences::new(states, SEQUENCE, rope)))
}
