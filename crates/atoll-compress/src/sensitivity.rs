//! What it costs to round each tensor to each type, in nats of divergence from the model as given.
//!
//! The cost of a matrix is taken to be proportional to the share `t²` of its output's energy that
//! rounding loses (HIGGS, Malinovskii et al. 2024, arXiv 2411.17525). How much a share of a matrix
//! costs is measured in some layers, one matrix at a time: it is rounded, the rest of the model is
//! computed, and the change of the distribution over tokens is the Kullback-Leibler divergence.
//! Layers between take what lies between. The head and the embedding are measured the same way.

use std::collections::BTreeMap;

use atoll_model::rope::{Rope, RopeTable};
use atoll_model::{BlockType, Compute, ModelConfig, Tensor, TensorSource};
use ndarray::{Array1, Array2, ArrayView2, Axis, concatenate, s};

use crate::compress::{Progress, Work};
use crate::error::CompressError;
use crate::floats::{FloatLayer, KINDS, norm};
use crate::plan::EMBED;
use crate::round::{Columns, Zeros, round};

/// Types that a matrix may be rounded to, by bytes.
pub(crate) const TYPES: [BlockType; 5] =
    [BlockType::E3, BlockType::E4, BlockType::E5, BlockType::E6, BlockType::Q8_0];
/// The type whose cost is measured.
const PROBE: usize = 1;
/// Pieces of the text that are looked at, from all over it.
const PIECES: usize = 4;
/// Tokens of a piece.
const PIECE: usize = 96;
/// Tokens needed for that.
pub(crate) const TOKENS_MIN: usize = PIECES * PIECE;
/// Rows of a matrix that are rounded to see what a type loses.
const ROWS: usize = 128;
/// Tokens, of those in the text, between which the distribution is looked at.
const TOKENS_MAX: usize = 4096;
/// Every so many layers one is measured, and the first two and the last.
const STRIDE: usize = 4;

/// Costs in nats, each by [`TYPES`].
#[derive(Debug)]
pub(crate) struct Costs {
    /// By layer and [`KINDS`].
    pub(crate) layers: Vec<[[f64; TYPES.len()]; KINDS.len()]>,
    pub(crate) embed: [f64; TYPES.len()],
    /// Of the head's own matrix, or of the embedding as the head's matrix.
    pub(crate) head: [f64; TYPES.len()],
    /// What it costs to read the head's matrix as the embedding, if the model has both.
    pub(crate) tied: f64,
}

/// The model as given, and what is looked at.
pub(crate) struct Probe<'a> {
    config: &'a ModelConfig,
    compute: &'a Compute,
    rope: RopeTable,
    layers: Vec<FloatLayer>,
    output_norm: Array1<f32>,
    /// Rows of the head, (tokens looked at, dim).
    head: Array2<f32>,
    /// Log-probabilities of the model as given, (rows, tokens looked at).
    given: Array2<f32>,
}

/// Measures `source` on `tokens`, at least [`TOKENS_MIN`].
///
/// # Errors
/// A missing tensor or one of the wrong shape.
pub(crate) fn measure(
    source: &TensorSource,
    tokens: &[u32],
    compute: &Compute,
    progress: &mut dyn FnMut(Progress),
) -> Result<Costs, CompressError> {
    let config = source.config();
    let matrix = |name| source.require_shape(name, config.vocab_size, config.dim);
    let head = matrix(head_name(config))?;
    let (probe, states) = Probe::new(source, tokens, compute)?;
    let mut x = states[0].clone();
    let mut shares = Vec::new();
    for layer in &probe.layers {
        let inputs = probe.through(layer, &mut x);
        let weights = inputs.each_ref().map(mean_squares);
        let share = |(w, input): (&Array2<f32>, usize)| {
            lost_shares(w, &inputs[input], &weights[input], compute)
        };
        let matrices = layer.matrices().zip(INPUTS);
        shares.push((matrices.map(share).collect::<Result<Vec<_>, _>>()?, weights));
    }
    let last = norm(x.view(), &probe.output_norm, config.norm_eps);
    let mut costs = Costs {
        layers: prices(&probe, &states, &shares, progress)?,
        embed: [0.0; TYPES.len()],
        head: [0.0; TYPES.len()],
        tied: 0.0,
    };
    let columns = Columns::Apart(mean_squares(&last));
    for (cost, ty) in costs.head.iter_mut().zip(TYPES) {
        let rounded = round(&probe.head, ty, Zeros::Free, &columns, &compute.pool)?.values;
        *cost = divergence(&probe.given, &log_softmax(last.dot(&rounded.t())));
    }
    let (alike, all) = (Columns::alike(config.dim), energy(&states[0]));
    let mut lost = [0.0; TYPES.len()];
    let mut probed = 0.0;
    for (ty_idx, ty) in TYPES.into_iter().enumerate() {
        let rounded = round(&states[0], ty, Zeros::Free, &alike, &compute.pool)?.values;
        lost[ty_idx] = energy(&(&rounded - &states[0])) / all;
        if ty_idx == PROBE {
            probed = probe.cost(0, None, rounded);
        }
    }
    costs.embed = lost.map(|lost_by| probed * lost_by / lost[PROBE].max(TINY));
    if !config.tied {
        costs.tied = probe.cost(0, None, rows_of(head, &seen(tokens))?);
    }
    Ok(costs)
}

/// The name of the head's matrix.
pub(crate) const fn head_name(config: &ModelConfig) -> &'static str {
    if config.tied { EMBED } else { "output.weight" }
}

/// Shares of a matrix's energy, by [`TYPES`].
type Shares = [f64; TYPES.len()];

/// Of a layer: the shares that each matrix loses, and the mean squares of its inputs' columns.
type Layer = (Vec<Shares>, [Vec<f32>; 4]);

/// Which of a layer's four inputs (of q, k and v; of the output; of gate and up; of down) goes into
/// each of its matrices, by [`KINDS`].
const INPUTS: [usize; KINDS.len()] = [0, 0, 0, 1, 2, 2, 3];

/// The tokens of the pieces of `tokens`.
fn seen(tokens: &[u32]) -> Vec<u32> {
    let apart = (tokens.len() - PIECE) / (PIECES - 1);
    (0..PIECES).flat_map(|i| &tokens[i * apart..][..PIECE]).copied().collect()
}

impl<'a> Probe<'a> {
    /// The model `source`, looked at on pieces of `tokens`, at least [`TOKENS_MIN`]; and what goes
    /// into each of its layers, (rows, dim).
    ///
    /// # Errors
    /// A missing tensor or one of the wrong shape.
    pub(crate) fn new(
        source: &'a TensorSource,
        tokens: &[u32],
        compute: &'a Compute,
    ) -> Result<(Self, Vec<Array2<f32>>), CompressError> {
        let config = source.config();
        let matrix = |name| source.require_shape(name, config.vocab_size, config.dim);
        let (embed, head) = (matrix(EMBED)?, matrix(head_name(config))?);
        let output_norm = source.require_shape("output_norm.weight", 1, config.dim)?.dequantize();
        let layers = (0..config.n_layers).map(|layer_idx| FloatLayer::read(source, layer_idx));
        let mut probe = Self {
            config,
            compute,
            rope: Rope::new(&config.rope).table(0..PIECE),
            layers: layers.collect::<Result<_, _>>()?,
            output_norm: Array1::from_vec(output_norm),
            head: rows_of(head, &frequent(tokens))?,
            given: Array2::zeros((0, 0)),
        };
        let mut x = rows_of(embed, &seen(tokens))?;
        let mut states = Vec::with_capacity(config.n_layers);
        for layer in &probe.layers {
            states.push(x.clone());
            probe.through(layer, &mut x);
        }
        let last = norm(x.view(), &probe.output_norm, config.norm_eps);
        probe.given = log_softmax(last.dot(&probe.head.t()));
        Ok((probe, states))
    }

    /// Takes the pieces, (pieces * length, dim), through a layer; returns what goes into its
    /// products (see [`INPUTS`]).
    fn through(&self, layer: &FloatLayer, x: &mut Array2<f32>) -> [Array2<f32>; 4] {
        let pieces = x.axis_chunks_iter_mut(Axis(0), PIECE);
        let inputs: Vec<[Array2<f32>; 4]> = pieces
            .map(|mut piece| {
                let seen = layer.forward(self.config, self.compute, &self.rope, &mut piece);
                [seen.qkv, seen.output, seen.ffn, seen.down]
            })
            .collect();
        [0, 1, 2, 3].map(|which| {
            let views: Vec<ArrayView2<'_, f32>> = inputs.iter().map(|i| i[which].view()).collect();
            concatenate(Axis(0), &views).expect("one width")
        })
    }

    /// The divergence if `x`, (rows, dim), goes into layer `from` and that layer is `changed`.
    pub(crate) fn cost(
        &self,
        from: usize,
        changed: Option<&FloatLayer>,
        mut x: Array2<f32>,
    ) -> f64 {
        let first = changed.or_else(|| self.layers.get(from));
        for layer in first.into_iter().chain(self.layers.iter().skip(from + 1)) {
            for mut piece in x.axis_chunks_iter_mut(Axis(0), PIECE) {
                layer.forward(self.config, self.compute, &self.rope, &mut piece);
            }
        }
        let last = norm(x.view(), &self.output_norm, self.config.norm_eps);
        divergence(&self.given, &log_softmax(last.dot(&self.head.t())))
    }
}

/// What every matrix costs in every type; `states` are what goes into each layer.
fn prices(
    probe: &Probe<'_>,
    states: &[Array2<f32>],
    shares: &[Layer],
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<[Shares; KINDS.len()]>, CompressError> {
    let n = states.len();
    let is_measured = |idx: usize| idx.is_multiple_of(STRIDE) || idx == 1 || idx + 1 == n;
    let mut measured: BTreeMap<usize, [f64; KINDS.len()]> = BTreeMap::new();
    for idx in (0..n).filter(|&idx| is_measured(idx)) {
        let (lost, weights) = &shares[idx];
        let mut tasks = Vec::with_capacity(KINDS.len());
        for (kind, input) in INPUTS.into_iter().enumerate() {
            let mut layer = probe.layers[idx].clone();
            let matrix = layer.matrices_mut().nth(kind).expect("a matrix of every kind");
            let columns = Columns::Apart(weights[input].clone());
            *matrix =
                round(matrix, TYPES[PROBE], Zeros::Free, &columns, &probe.compute.pool)?.values;
            tasks.push((layer, 0.0));
        }
        probe.compute.pool.for_each(&mut tasks, |(layer, cost)| {
            *cost = probe.cost(idx, Some(layer), states[idx].clone());
        });
        let mut per_share = [0.0; KINDS.len()];
        for (kind, (_, cost)) in tasks.into_iter().enumerate() {
            per_share[kind] = cost / lost[kind][PROBE].max(TINY);
        }
        measured.insert(idx, per_share);
        progress(Progress { work: Work::Measuring, layers_done: idx + 1, layers: n });
    }
    let between = |idx: usize, kind: usize| {
        let below = measured.range(..=idx).next_back().expect("the first is measured");
        let above = measured.range(idx..).next().expect("the last is measured");
        let way = (idx - below.0) as f64 / (above.0 - below.0).max(1) as f64;
        below.1[kind] * (1.0 - way) + above.1[kind] * way
    };
    let layer = |(idx, (lost, _)): (usize, &Layer)| {
        core::array::from_fn(|kind| lost[kind].map(|share| share * between(idx, kind)))
    };
    Ok(shares.iter().enumerate().map(layer).collect())
}

/// What divides by a share at least.
const TINY: f64 = 1e-12;

/// The share of the energy of `x wᵀ` that rounding `w` loses, of some of its rows; `weights` are
/// the mean squares of the columns of `x`.
fn lost_shares(
    w: &Array2<f32>,
    x: &Array2<f32>,
    weights: &[f32],
    compute: &Compute,
) -> Result<Shares, CompressError> {
    let apart = w.nrows().div_ceil(ROWS);
    let some = w.slice(s![..;apart, ..]).to_owned();
    let columns = Columns::Apart(weights.to_vec());
    let all = energy(&x.dot(&some.t())).max(TINY);
    let mut shares = [0.0; TYPES.len()];
    for (share, ty) in shares.iter_mut().zip(TYPES) {
        let rounded = round(&some, ty, Zeros::Free, &columns, &compute.pool)?.values;
        *share = energy(&x.dot(&(&rounded - &some).t())) / all;
    }
    Ok(shares)
}

fn energy(x: &Array2<f32>) -> f64 {
    x.iter().map(|&value| f64::from(value) * f64::from(value)).sum()
}

/// Of every column.
fn mean_squares(x: &Array2<f32>) -> Vec<f32> {
    (x * x).mean_axis(Axis(0)).map_or_else(Vec::new, |squares| squares.to_vec())
}

/// Rows of a tensor.
fn rows_of(tensor: Tensor<'_>, rows: &[u32]) -> Result<Array2<f32>, CompressError> {
    let mut values = Vec::with_capacity(rows.len() * tensor.info.cols);
    for &row in rows {
        values.extend(tensor.row(row as usize)?);
    }
    Ok(Array2::from_shape_vec((rows.len(), tensor.info.cols), values).expect("whole rows"))
}

/// The most frequent tokens, in ascending order.
fn frequent(tokens: &[u32]) -> Vec<u32> {
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    tokens.iter().for_each(|&token| *counts.entry(token).or_default() += 1);
    let mut by_count: Vec<(usize, u32)> = counts.into_iter().map(|(t, n)| (n, t)).collect();
    by_count.sort_unstable_by(|a, b| b.cmp(a));
    by_count.truncate(TOKENS_MAX);
    let mut found: Vec<u32> = by_count.into_iter().map(|(_, token)| token).collect();
    found.sort_unstable();
    found
}

#[expect(clippy::cast_possible_truncation, reason = "an f64 sum, rounded once")]
fn log_softmax(mut logits: Array2<f32>) -> Array2<f32> {
    for mut row in logits.rows_mut() {
        let max = row.iter().fold(f32::NEG_INFINITY, |max, &logit| max.max(logit));
        let sum: f64 = row.iter().map(|&logit| f64::from((logit - max).exp())).sum();
        let by = max + sum.ln() as f32;
        row.map_inplace(|logit| *logit -= by);
    }
    logits
}

/// Mean over the rows of the Kullback-Leibler divergence of `q` from `p`, both log-probabilities.
fn divergence(p: &Array2<f32>, q: &Array2<f32>) -> f64 {
    let terms = p.iter().zip(q).map(|(&p, &q)| f64::from(p.exp()) * f64::from(p - q));
    (terms.sum::<f64>() / p.nrows().max(1) as f64).max(0.0)
}

#[cfg(test)]
mod tests {
    use atoll_model::{Architecture, BlockType as Ty, GgufFile, Isa, tiny};

    use super::*;

    /// `w` changed by what none of the rows of `x`, fewer than its columns, can see.
    fn unseen_change(w: &mut Array2<f32>, x: &Array2<f32>) {
        let mut basis: Vec<Array1<f32>> = Vec::new();
        let rest = |mut v: Array1<f32>, basis: &[Array1<f32>]| {
            // Twice, since one turn leaves what it rounds off.
            for b in basis.iter().chain(basis) {
                let along = v.dot(b);
                v.scaled_add(-along, b);
            }
            v
        };
        for row in x.rows() {
            let row = rest(&row / row.dot(&row).sqrt(), &basis);
            let length = row.dot(&row).sqrt();
            if length > 1e-4 {
                basis.push(row / length);
            }
        }
        let n = w.ncols();
        assert!(basis.len() < n, "something is unseen");
        let unseen = rest(Array1::from_shape_fn(n, |i| (i as f32 * 0.7).sin()), &basis);
        for (idx, mut row) in w.rows_mut().into_iter().enumerate() {
            row.scaled_add(0.3 + (idx as f32).cos(), &unseen);
        }
    }

    #[test]
    fn every_matrix_has_the_input_that_inputs_names() {
        const ROWS: usize = 8;
        let config = tiny::config(Architecture::Qwen2);
        let bytes = tiny::random_model(&config, Ty::F32, 7);
        let source = TensorSource::Gguf(GgufFile::parse(bytes).expect("a whole model"));
        let compute = Compute::new(Isa::detect(), 1).expect("a thread");
        let layer = FloatLayer::read(&source, 0).expect("a layer");
        let probe = Probe {
            config: &config,
            compute: &compute,
            rope: Rope::new(&config.rope).table(0..PIECE),
            layers: Vec::new(),
            output_norm: Array1::ones(config.dim),
            head: Array2::zeros((1, config.dim)),
            given: Array2::zeros((0, 0)),
        };
        let x = Array2::from_shape_fn((ROWS, config.dim), |(i, j)| ((i * 37 + j * j) as f32).sin());
        let mut given = x.clone();
        let inputs = probe.through(&layer, &mut given);
        for (kind, input) in INPUTS.into_iter().enumerate() {
            let (mut changed, mut found) = (layer.clone(), x.clone());
            let matrix = changed.matrices_mut().nth(kind).expect("a matrix of every kind");
            unseen_change(matrix, &inputs[input]);
            probe.through(&changed, &mut found);
            let off = energy(&(&found - &given)) / energy(&given);
            assert!(off < 1e-6, "{}: {off}", KINDS[kind]);
        }
    }
}
