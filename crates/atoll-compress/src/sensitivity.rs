//! What it costs to round each tensor to each type, as [`Probe`] counts it.
//!
//! The cost of a matrix is taken to be proportional to the share `t²` of its output's energy that
//! rounding loses (HIGGS, Malinovskii et al. 2024, arXiv 2411.17525). How much a share of a matrix
//! costs is measured in some layers, one matrix at a time: it is rounded, and the rest of the model
//! is computed. Layers between take what lies between. The head and the embedding are measured the
//! same way.

use std::collections::BTreeMap;

use atoll_model::{BlockType, Compute, TensorSource};
use ndarray::{Array2, Axis, s};

use crate::compress::{Progress, Work};
use crate::error::CompressError;
use crate::plan::EMBED;
use crate::probe::{Probe, ProbeText, energy, head_name, inputs_of};
use crate::round::{Columns, Zeros, round};

/// Types that a matrix may be rounded to, by bytes.
pub(crate) const TYPES: [BlockType; 5] =
    [BlockType::E3, BlockType::E4, BlockType::E5, BlockType::E6, BlockType::Q8_0];
/// The type whose cost is measured.
const PROBE: usize = 1;
/// Rows of a matrix that are rounded to see what a type loses.
const ROWS: usize = 128;
/// Every so many layers of a decoder one is measured, and the first two and the last.
const STRIDE: usize = 4;

/// Costs as [`Probe`] counts them, each by [`TYPES`].
#[derive(Debug)]
pub(crate) struct Costs {
    /// By layer and matrix, in their order.
    pub(crate) layers: Vec<Vec<Shares>>,
    pub(crate) embed: Shares,
    /// Of the head's own matrix, or of the embedding as the head's matrix. Nothing of an encoder.
    pub(crate) head: Shares,
    /// What it costs to read the head's matrix as the embedding, if the model has both.
    pub(crate) tied: f64,
}

impl Costs {
    /// Nothing costs anything, of layers with so many matrices.
    pub(crate) fn unknown(matrices: impl Iterator<Item = usize>) -> Self {
        let nothing = [0.0; TYPES.len()];
        let layers = matrices.map(|n| vec![nothing; n]).collect();
        Self { layers, embed: nothing, head: nothing, tied: 0.0 }
    }
}

/// Measures `source` on `text`.
///
/// # Errors
/// A missing tensor or one of the wrong shape.
pub(crate) fn measure(
    source: &TensorSource,
    text: ProbeText<'_>,
    compute: &Compute,
    progress: &mut dyn FnMut(Progress),
) -> Result<Costs, CompressError> {
    let config = source.config();
    let (probe, states) = Probe::new(source, text, compute)?;
    let mut x = states[0].clone();
    let mut shares = Vec::new();
    for layer in &probe.layers {
        let inputs = probe.through(layer, &mut x);
        let weights = inputs.each_ref().map(mean_squares);
        let share = |(w, input): (&Array2<f32>, usize)| {
            lost_shares(w, &inputs[input], &weights[input], compute)
        };
        let matrices = layer.matrices().zip(inputs_of(layer));
        shares.push((matrices.map(share).collect::<Result<Vec<_>, _>>()?, weights));
    }
    let mut costs = Costs {
        layers: prices(&probe, &states, &shares, progress)?,
        embed: [0.0; TYPES.len()],
        head: [0.0; TYPES.len()],
        tied: 0.0,
    };
    if let Some(head) = probe.head(&x) {
        let columns = Columns::Apart(mean_squares(&head.inputs));
        for (cost, ty) in costs.head.iter_mut().zip(TYPES) {
            *cost =
                head.cost(&round(head.matrix, ty, Zeros::Free, &columns, &compute.pool)?.values);
        }
    }
    let words = probe.words(EMBED, text)?;
    let (alike, all) = (Columns::alike(config.dim), energy(&words));
    let mut lost = [0.0; TYPES.len()];
    let mut probed = 0.0;
    for (ty_idx, ty) in TYPES.into_iter().enumerate() {
        let rounded = round(&words, ty, Zeros::Free, &alike, &compute.pool)?.values;
        lost[ty_idx] = energy(&(&rounded - &words)) / all;
        if ty_idx == PROBE {
            probed = probe.cost(0, None, probe.states(rounded)?);
        }
    }
    costs.embed = lost.map(|lost_by| probed * lost_by / lost[PROBE].max(TINY));
    if !config.tied {
        costs.tied = probe.cost(0, None, probe.states(probe.words(head_name(config), text)?)?);
    }
    Ok(costs)
}

/// Shares of a matrix's energy, by [`TYPES`].
type Shares = [f64; TYPES.len()];

/// Of a layer: the shares that each matrix loses, and the mean squares of its inputs' columns.
type Layer = (Vec<Shares>, [Vec<f32>; 4]);

/// What every matrix costs in every type; `states` are what goes into each layer.
fn prices(
    probe: &Probe<'_>,
    states: &[Array2<f32>],
    shares: &[Layer],
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<Vec<Shares>>, CompressError> {
    let n = states.len();
    let is_encoder = probe.layers.first().is_some_and(|layer| layer.encoder.is_some());
    let stride = if is_encoder { 1 } else { STRIDE };
    let is_measured = |idx: usize| idx.is_multiple_of(stride) || idx == 1 || idx + 1 == n;
    let mut measured: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for idx in (0..n).filter(|&idx| is_measured(idx)) {
        let (lost, weights) = &shares[idx];
        let mut tasks = Vec::new();
        for (kind, input) in inputs_of(&probe.layers[idx]).into_iter().enumerate() {
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
        let costs = tasks.into_iter().zip(lost);
        let per_share = costs.map(|((_, cost), lost)| cost / lost[PROBE].max(TINY));
        measured.insert(idx, per_share.collect());
        progress(Progress { work: Work::Measuring, layers_done: idx + 1, layers: n });
    }
    let between = |idx: usize, kind: usize| {
        let below = measured.range(..=idx).next_back().expect("the first is measured");
        let above = measured.range(idx..).next().expect("the last is measured");
        let way = (idx - below.0) as f64 / (above.0 - below.0).max(1) as f64;
        below.1[kind] * (1.0 - way) + above.1[kind] * way
    };
    let layer = |(idx, (lost, _)): (usize, &Layer)| {
        let costs = lost.iter().enumerate();
        costs.map(|(kind, lost)| lost.map(|share| share * between(idx, kind))).collect()
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

/// Of every column.
fn mean_squares(x: &Array2<f32>) -> Vec<f32> {
    (x * x).mean_axis(Axis(0)).map_or_else(Vec::new, |squares| squares.to_vec())
}
