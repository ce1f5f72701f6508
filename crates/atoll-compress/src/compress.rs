//! The whole way from a model to a smaller one, layer by layer.

use atoll_model::gguf::Value;
use atoll_model::rope::Rope;
use atoll_model::{BlockType, Compute, GgufWriter, TensorInfo, TensorSource};
use ndarray::{Array2, Axis};
use serde::Serialize;

use crate::calibrate::{Moments, Sequences};
use crate::error::CompressError;
use crate::floats::FloatLayer;
use crate::gram::Gram;
use crate::prune::{PruneMethod, prune};
use crate::round::{Columns, round};

/// Tokens of a calibration sequence.
const SEQUENCE: usize = 512;
/// What the number of kept neurons is a multiple of, so that every block type fits.
const NEURONS_MULTIPLE: usize = 32;

/// What to make of the model.
#[derive(Debug, Clone)]
pub struct Options {
    /// Type of the layers' matrices. One whose columns are not whole blocks of it takes the type of
    /// 32 columns that is nearest above it in bits.
    pub ty: BlockType,
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

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
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
}

/// Compresses `source`; `keys` are the metadata of the result but for the feed-forward width. The
/// embedding and the head stay as they are.
///
/// Holds one layer in f32 with its second moments, the calibration text's states (2 KiB per token
/// and 512 columns), and the result.
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
    let rope_factors = source.tensor("rope_freqs.weight").map(|_| "rope_freqs.weight".to_owned());
    let whole = config.embed_tensors().into_iter().chain(config.head_tensors());
    for name in whole.map(|spec| spec.name).chain(rope_factors) {
        out.copy(source, &name)?;
    }
    for layer_idx in 0..config.n_layers {
        let mut layer = FloatLayer::read(source, layer_idx)?;
        let moments = sequences.as_ref().map(|text| text.moments(&layer, config, compute));
        let kept = match is_pruned {
            true => {
                let name = format!("blk.{layer_idx}.ffn_down.weight");
                let down = moments.as_ref().map(|moments| &moments.down);
                Some(prune(&name, &mut layer, keep, options.method, down, &compute.pool)?)
            }
            false => None,
        };
        out.vectors(source, layer_idx)?;
        let h = Seconds { moments, kept };
        out.matrices(layer_idx, &mut layer, options.ty, &h, compute)?;
        if let Some(text) = &mut sequences {
            text.advance(&layer, config, compute);
        }
        progress(Progress { layers_done: layer_idx + 1, layers: config.n_layers });
    }
    let (before_weights, before_bytes) = size_of(source)?;
    let report = Report {
        bytes: out.bytes,
        bits_per_weight: bits(out.bytes, out.weights),
        neurons_after_over_before: keep as f64 / config.ffn_dim as f64,
        weights_after_over_before: out.weights as f64 / before_weights as f64,
        bits_before: bits(before_bytes, before_weights),
        bits_after: bits(out.bytes, out.weights),
        calibration_tokens: sequences.map_or(0, |text| text.tokens()),
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

/// The calibration text as embeddings.
fn sequences(source: &TensorSource, options: &Options) -> Result<Option<Sequences>, CompressError> {
    let (config, tokens) = (source.config(), &options.calibration);
    if tokens.is_empty() {
        return Ok(None);
    }
    if tokens.len() < SEQUENCE || options.sequences_max == 0 {
        return Err(CompressError::TextTooShort { tokens: tokens.len(), needed: SEQUENCE });
    }
    let n = (tokens.len() / SEQUENCE).min(options.sequences_max);
    let embed = source.require_shape("token_embd.weight", config.vocab_size, config.dim)?;
    let mut states = Array2::zeros((n * SEQUENCE, config.dim));
    for (mut state, &token) in states.rows_mut().into_iter().zip(tokens) {
        let row = embed.row(token as usize)?;
        state.iter_mut().zip(row).for_each(|(to, from)| *to = from);
    }
    let rope = Rope::new(&config.rope).table(0..SEQUENCE);
    Ok(Some(Sequences::new(states, SEQUENCE, rope)))
}

/// The type of 32 columns that stands in for `ty` where columns are not whole blocks of it.
fn fallback(ty: BlockType) -> BlockType {
    match ty {
        BlockType::Q2K | BlockType::Q3K | BlockType::IQ4XS => BlockType::IQ4NL,
        BlockType::Q4K => BlockType::Q4_1,
        BlockType::Q5K => BlockType::Q5_1,
        BlockType::Q6K => BlockType::Q8_0,
        BlockType::F32
        | BlockType::F16
        | BlockType::BF16
        | BlockType::Q4_0
        | BlockType::Q4_1
        | BlockType::Q5_0
        | BlockType::Q5_1
        | BlockType::Q8_0
        | BlockType::IQ4NL
        | BlockType::E3
        | BlockType::E4
        | BlockType::E5
        | BlockType::E6 => ty,
    }
}

/// Second moments of a layer's inputs, if there is a text, and the neurons that were kept.
struct Seconds {
    moments: Option<Moments>,
    kept: Option<Vec<usize>>,
}

impl Seconds {
    fn of(&self, which: impl Fn(&Moments) -> &Gram) -> Option<Array2<f32>> {
        self.moments.as_ref().map(|moments| which(moments).mean())
    }

    /// Those of the down projection's input: the values of kept neurons are what they were.
    fn of_kept(&self) -> Option<Array2<f32>> {
        let whole = self.of(|moments| &moments.down)?;
        Some(match &self.kept {
            Some(kept) => whole.select(Axis(0), kept).select(Axis(1), kept),
            None => whole,
        })
    }
}

/// A layer's matrices that share an input, with their names' suffixes, and the input's seconds.
type Siblings<'a> = (Vec<(&'static str, &'a mut Array2<f32>)>, Option<Array2<f32>>);

/// The result in the making.
struct Out {
    writer: GgufWriter<'static>,
    weights: u64,
    bytes: u64,
}

impl Out {
    fn push(&mut self, info: TensorInfo, bytes: Vec<u8>) {
        self.weights += (info.rows * info.cols) as u64;
        self.bytes += bytes.len() as u64;
        self.writer.tensor(info, bytes);
    }

    /// Copies the norms and biases of a layer.
    fn vectors(&mut self, source: &TensorSource, layer_idx: usize) -> Result<(), CompressError> {
        let specs = source.config().layer_tensors(layer_idx);
        specs
            .iter()
            .filter(|spec| spec.rows == 1)
            .try_for_each(|spec| self.copy(source, &spec.name))
    }

    /// Rounds every matrix of a layer, and leaves in `layer` what the result stands for.
    fn matrices(
        &mut self,
        layer_idx: usize,
        layer: &mut FloatLayer,
        ty: BlockType,
        seconds: &Seconds,
        compute: &Compute,
    ) -> Result<(), CompressError> {
        let qkv =
            vec![("attn_q", &mut layer.q), ("attn_k", &mut layer.k), ("attn_v", &mut layer.v)];
        let siblings: [Siblings<'_>; 4] = [
            (qkv, seconds.of(|moments| &moments.qkv)),
            (vec![("attn_output", &mut layer.o)], seconds.of(|moments| &moments.output)),
            (
                vec![("ffn_gate", &mut layer.gate), ("ffn_up", &mut layer.up)],
                seconds.of(|moments| &moments.ffn),
            ),
            (vec![("ffn_down", &mut layer.down)], seconds.of_kept()),
        ];
        let name = |suffix: &str| format!("blk.{layer_idx}.{suffix}.weight");
        for (matrices, h) in siblings {
            let (first, cols) = (matrices[0].0, matrices[0].1.ncols());
            let columns = match h {
                Some(h) => Columns::of_inputs(&name(first), h, &compute.pool)?,
                None => Columns::alike(cols),
            };
            let dtype = if cols.is_multiple_of(ty.block_len()) { ty } else { fallback(ty) };
            for (suffix, matrix) in matrices {
                let rounded = round(matrix, dtype, &columns, &compute.pool)?;
                let rows = matrix.nrows();
                self.push(TensorInfo { name: name(suffix), dtype, rows, cols }, rounded.bytes);
                *matrix = rounded.values;
            }
        }
        Ok(())
    }

    fn copy(&mut self, source: &TensorSource, name: &str) -> Result<(), CompressError> {
        let tensor = source.require(name)?;
        self.push(tensor.info.clone(), tensor.bytes.to_vec());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use atoll_model::{Architecture, GgufFile, Isa, tiny};

    use super::*;

    /// Moments that no other input of `n` columns has.
    fn moments(n: usize, seed: usize, compute: &Compute) -> Gram {
        let x = Array2::from_shape_fn((2 * n, n), |(i, j)| {
            ((i * 31 + j * 17 * seed + i * j * seed) % 13) as f32 - 6.0
        });
        let mut gram = Gram::new(n);
        gram.add(x.view(), &compute.pool);
        gram
    }

    #[test]
    fn each_matrix_is_rounded_by_the_moments_of_its_own_input() {
        let config = tiny::config(Architecture::Llama);
        let bytes = tiny::random_model(&config, BlockType::F32, 7);
        let source = TensorSource::Gguf(GgufFile::parse(bytes).expect("a whole model"));
        let compute = Compute::new(Isa::detect(), 1).expect("a thread");
        let ty = BlockType::Q4_0;
        let of = |n, seed| moments(n, seed, &compute);
        let moments = Moments {
            qkv: of(config.dim, 1),
            output: of(config.q_dim(), 2),
            ffn: of(config.dim, 3),
            down: of(config.ffn_dim, 4),
        };
        let given = FloatLayer::read(&source, 0).expect("a layer");
        let wanted = [
            (&given.q, &moments.qkv),
            (&given.k, &moments.qkv),
            (&given.v, &moments.qkv),
            (&given.o, &moments.output),
            (&given.gate, &moments.ffn),
            (&given.up, &moments.ffn),
            (&given.down, &moments.down),
        ]
        .map(|(matrix, gram)| {
            let columns = Columns::of_inputs("it", gram.mean(), &compute.pool).expect("numbers");
            round(matrix, ty, &columns, &compute.pool).expect("a type").values
        });
        let mut layer = given.clone();
        let mut out = Out { writer: GgufWriter::new(), weights: 0, bytes: 0 };
        let seconds = Seconds { moments: Some(moments), kept: None };
        out.matrices(0, &mut layer, ty, &seconds, &compute).expect("rounded");
        let FloatLayer { q, k, v, o, gate, up, down, .. } = layer;
        for (index, (got, wanted)) in [q, k, v, o, gate, up, down].iter().zip(&wanted).enumerate() {
            assert_eq!(got, wanted, "matrix {index}");
        }
    }
}
