//! Removes neurons of the feed-forward block, and repairs the down projection.

use atoll_model::Pool;
use ndarray::linalg::general_mat_mul;
use ndarray::{Array1, Array2, Axis};

use crate::error::CompressError;
use crate::floats::FloatLayer;
use crate::gram::Gram;
use crate::linalg::{cholesky, inverse, shrink, solve};

/// Share of every neuron's mean square that is added to it: what the neurons say about each other
/// on the calibration text holds less on other texts.
const SHRINKAGE: f32 = 0.3;
/// The same for encoders, whose texts show all of the vocabulary.
const SHRINKAGE_OF_ENCODERS: f32 = 0.02;
/// What an error of a narrower width weighs beside one of the whole.
const NARROWER: f32 = 0.1;
/// Share of the neurons that are removed before the rest is scored again.
const BATCH: f32 = 0.01;

/// How neurons are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PruneMethod {
    /// Least squared norm of the neuron's weights; no repair. Needs no text.
    Magnitude,
    /// FLAP's rule (An et al. 2023, arXiv 2312.11983): least variance of the neuron's value times
    /// the squared norm of its column of the down projection, standardized within its layer unless
    /// all layers keep as many; no repair. FLAP's bias is added where the block has one, in
    /// encoders; decoders' blocks have none.
    Flap,
    /// Structured optimal brain surgeon: the neurons whose best replacement by all others costs
    /// least, a batch at a time; what remains is repaired by least squares, and so is the block's
    /// bias, if it has one. A decoder's tokens weigh by their states; correlations count less than
    /// the text says.
    Sobs,
}

/// What stays of a layer's feed-forward block.
#[derive(Debug)]
pub(crate) struct Kept {
    /// The neurons that stay, in their new order.
    pub(crate) neurons: Vec<usize>,
    /// Share of the energy of the down projection's output that is lost, by the moments, after what
    /// the bias makes good; nothing is known without them.
    pub(crate) lost: Option<f64>,
}

/// Keeps the first of `widths` neurons of `layer`, given the second moments of the down
/// projection's input. If there are more widths, which fall, the neurons are ordered so that the
/// first of them, as many as each width says, are the narrower layer; otherwise they keep their
/// order.
///
/// # Errors
/// [`CompressError::Inputs`] (naming `name`) if the moments are not finite.
pub(crate) fn prune(
    name: &str,
    layer: &mut FloatLayer,
    widths: &[usize],
    method: PruneMethod,
    moments: Option<&Gram>,
    pool: &Pool,
) -> Result<Kept, CompressError> {
    let removal = match (method, moments) {
        (PruneMethod::Magnitude, _) => Removal::ranked(&magnitudes(layer)),
        (PruneMethod::Flap, Some(moments)) => Removal::ranked(&flap_scores(&layer.down, moments)),
        (PruneMethod::Sobs, Some(moments)) => {
            Removal::by_surgeon(name, layer, moments, widths[widths.len() - 1], pool)?
        }
        (PruneMethod::Flap, None) => return Err(CompressError::NeedsText("flap")),
        (PruneMethod::Sobs, None) => return Err(CompressError::NeedsText("sobs")),
    };
    removal.apply(name, layer, widths, method, moments, pool)
}

/// Which neurons go first.
pub(crate) struct Removal {
    /// From the most needed down.
    order: Vec<usize>,
    /// What structured OBS loses of the down projection's output, in its squared norm, where 0, 1
    /// and more neurons go.
    pub(crate) losses: Vec<f64>,
    /// The shrunk moments that it judged by.
    shrunk: Option<Array2<f32>>,
}

impl Removal {
    fn ranked(scores: &[f32]) -> Self {
        Self { order: ranked(scores), losses: Vec::new(), shrunk: None }
    }

    /// By structured OBS, until `least` neurons stay.
    ///
    /// # Errors
    /// [`CompressError::Inputs`] (naming `name`) if the moments are not finite.
    pub(crate) fn by_surgeon(
        name: &str,
        layer: &FloatLayer,
        moments: &Gram,
        least: usize,
        pool: &Pool,
    ) -> Result<Self, CompressError> {
        let mut h = lossy_moments(layer, PruneMethod::Sobs, moments);
        shrink(&mut h, shrinkage(layer));
        let found = surgeon(&weighed(layer), &h, least, pool);
        let (order, losses) = found.ok_or_else(|| CompressError::Inputs(name.to_owned()))?;
        Ok(Self { order, losses, shrunk: Some(h) })
    }

    /// Keeps neurons as [`prune`] says.
    ///
    /// # Errors
    /// As [`prune`].
    pub(crate) fn apply(
        self,
        name: &str,
        layer: &mut FloatLayer,
        widths: &[usize],
        method: PruneMethod,
        moments: Option<&Gram>,
        pool: &Pool,
    ) -> Result<Kept, CompressError> {
        let mut kept = self.order;
        kept.truncate(widths[0]);
        if widths.len() == 1 {
            kept.sort_unstable();
        }
        let given = std::mem::take(&mut layer.down);
        layer.down = match &self.shrunk {
            Some(h) => repaired(&given, h, &kept, widths, pool)
                .ok_or_else(|| CompressError::Inputs(name.to_owned()))?,
            None => given.select(Axis(1), &kept),
        };
        layer.gate = layer.gate.take().map(|gate| gate.select(Axis(0), &kept));
        layer.up = layer.up.select(Axis(0), &kept);
        let mut off = given.clone();
        for (column, &neuron) in layer.down.columns().into_iter().zip(&kept) {
            off.column_mut(neuron).scaled_add(-1.0, &column);
        }
        if let Some(encoder) = &mut layer.encoder {
            encoder.up_bias = encoder.up_bias.select(Axis(0), &kept);
            if let Some(moments) = moments.filter(|_| has_bias(method)) {
                encoder.down_bias +=
                    &off.mapv(f64::from).dot(&Array1::from(moments.means())).mapv(single);
            }
        }
        let lost = moments.map(|moments| {
            let errors = lossy_moments(layer, method, moments);
            energy(&off, &errors) / energy(&given, &moments.mean()).max(1e-30)
        });
        Ok(Kept { neurons: kept, lost })
    }
}

const fn shrinkage(layer: &FloatLayer) -> f32 {
    if layer.encoder.is_some() { SHRINKAGE_OF_ENCODERS } else { SHRINKAGE }
}

/// The down projection, its rows by what follows them.
fn weighed(layer: &FloatLayer) -> Array2<f32> {
    &layer.down * &layer.gains().insert_axis(Axis(1))
}

/// Whether `method` lets the block's bias make up for the means of what goes.
const fn has_bias(method: PruneMethod) -> bool {
    !matches!(method, PruneMethod::Magnitude)
}

/// The moments of the neurons' values of which something can be lost: where a bias makes up for the
/// means, only what varies.
fn lossy_moments(layer: &FloatLayer, method: PruneMethod, moments: &Gram) -> Array2<f32> {
    match layer.encoder {
        Some(_) if has_bias(method) => moments.covariance(),
        Some(_) | None => moments.mean(),
    }
}

/// `tr(W H Wᵀ)`.
fn energy(w: &Array2<f32>, h: &Array2<f32>) -> f64 {
    w.dot(h).iter().zip(w).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

#[expect(clippy::cast_possible_truncation, reason = "one rounding of an f64 sum")]
const fn single(value: f64) -> f32 {
    value as f32
}

/// The indices of scores from the largest down.
fn ranked(scores: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    order
}

/// Sums of squares along `axis`.
fn squares(matrix: &Array2<f32>, axis: Axis) -> Vec<f32> {
    matrix.mapv(|value| value * value).sum_axis(axis).to_vec()
}

fn magnitudes(layer: &FloatLayer) -> Vec<f32> {
    let (up, down) = (squares(&layer.up, Axis(1)), squares(&layer.down, Axis(0)));
    let gate = layer.gate.as_ref().map_or_else(|| vec![0.0; up.len()], |g| squares(g, Axis(1)));
    gate.iter().zip(&up).zip(&down).map(|((g, u), d)| g + u + d).collect()
}

/// FLAP's score of every neuron, by the moments of their values and the down projection.
pub(crate) fn flap_scores(down: &Array2<f32>, moments: &Gram) -> Vec<f32> {
    let columns = squares(down, Axis(0));
    columns.iter().zip(moments.variances()).map(|(column, variance)| column * variance).collect()
}

/// The neurons from the most needed down: first the `least` that stay when those are removed whose
/// loss others can best make good, then those, the last removed first. And the squared norm of what
/// is lost when 0, 1 and more are removed.
///
/// With `A = H⁻¹`, removing neuron `j` and refitting the others costs `‖w_j‖² / A_jj`, where `w`
/// is the down projection as refitted so far (Hassibi & Stork 1993, for whole columns).
#[expect(clippy::cast_possible_truncation, reason = "a count of neurons")]
fn surgeon(
    down: &Array2<f32>,
    h: &Array2<f32>,
    least: usize,
    pool: &Pool,
) -> Option<(Vec<usize>, Vec<f64>)> {
    let mut alive: Vec<usize> = (0..h.nrows()).collect();
    let mut l = h.clone();
    if !cholesky(&mut l, pool) {
        return None;
    }
    let mut inverse = inverse(&l, pool);
    drop(l);
    let mut w = down.clone();
    let batch = ((h.nrows() as f32 * BATCH) as usize).max(1);
    let needs = |w: &Array2<f32>, inverse: &Array2<f32>| -> Vec<f32> {
        let columns = squares(w, Axis(0));
        columns.iter().zip(inverse.diag()).map(|(square, a)| square / a.max(1e-30)).collect()
    };
    let (mut removed, mut losses) = (Vec::new(), vec![0.0]);
    while alive.len() > least {
        let remove = batch.min(alive.len() - least);
        let scores = needs(&w, &inverse);
        let mut gone = ranked(&scores).split_off(alive.len() - remove);
        for &i in gone.iter().rev() {
            removed.push(alive[i]);
            losses.push(losses[losses.len() - 1] + f64::from(scores[i]));
        }
        gone.sort_unstable();
        let stay: Vec<usize> =
            (0..alive.len()).filter(|i| gone.binary_search(i).is_err()).collect();
        let mut corner = inverse.select(Axis(0), &gone).select(Axis(1), &gone);
        let mut rows = inverse.select(Axis(0), &gone).select(Axis(1), &stay);
        if !cholesky(&mut corner, pool) {
            return None;
        }
        let across = rows.clone();
        solve(&corner, &mut rows, pool);
        let mut kept_w = w.select(Axis(1), &stay);
        general_mat_mul(-1.0, &w.select(Axis(1), &gone), &rows, 1.0, &mut kept_w);
        let mut kept_inverse = inverse.select(Axis(0), &stay).select(Axis(1), &stay);
        subtract_product(&mut kept_inverse, &across, &rows, pool);
        (w, inverse) = (kept_w, kept_inverse);
        alive = stay.into_iter().map(|i| alive[i]).collect();
    }
    let staying = ranked(&needs(&w, &inverse)).into_iter().map(|i| alive[i]);
    Some((staying.chain(removed.into_iter().rev()).collect(), losses))
}

/// `a -= acrossᵀ rows`, by columns on the threads.
fn subtract_product(a: &mut Array2<f32>, across: &Array2<f32>, rows: &Array2<f32>, pool: &Pool) {
    let panels = a.axis_chunks_iter_mut(Axis(1), 128).zip(rows.axis_chunks_iter(Axis(1), 128));
    pool.for_each(&mut panels.collect::<Vec<_>>(), |(panel, rows)| {
        general_mat_mul(-1.0, &across.t(), rows, 1.0, panel);
    });
}

/// The down projection over the kept neurons that gives the least squared error. For one width it
/// is `W H_:K H_KK⁻¹`; for several, it is the one matrix whose first columns serve for each, the
/// errors of the narrower ones weighed by [`NARROWER`].
fn repaired(
    down: &Array2<f32>,
    h: &Array2<f32>,
    kept: &[usize],
    widths: &[usize],
    pool: &Pool,
) -> Option<Array2<f32>> {
    // How much the widths that have neuron `i` weigh together.
    let weight = |i: usize| {
        let others = widths[1..].iter().filter(|&&width| i < width).count();
        1.0 + NARROWER * others as f32
    };
    let weights: Vec<f32> = (0..kept.len()).map(weight).collect();
    let columns = h.select(Axis(1), kept);
    let mut target = columns.t().dot(&down.t());
    for (mut row, &by) in target.rows_mut().into_iter().zip(&weights) {
        row.map_inplace(|value| *value *= by);
    }
    let mut l = columns.select(Axis(0), kept);
    for ((i, j), value) in l.indexed_iter_mut() {
        *value *= weights[i.max(j)];
    }
    if !cholesky(&mut l, pool) {
        return None;
    }
    solve(&l, &mut target, pool);
    Some(target.reversed_axes().as_standard_layout().to_owned())
}

#[cfg(test)]
mod tests {
    use atoll_model::rope::Rope;
    use atoll_model::{Architecture, tiny};

    use super::*;
    use crate::calibrate::Sequences;

    /// Neuron 3 says what 0 and 1 say together; nothing else depends on anything.
    #[test]
    fn what_others_say_already_goes_first() {
        let pool = Pool::new(1).expect("threads");
        let x = Array2::from_shape_fn((400, 6), |(i, j)| {
            let value = |j: usize| (((i * (j + 3) * 7919 + j * 31) % 997) as f32 / 997.0) - 0.5;
            if j == 3 { value(0) + value(1) } else { value(j) }
        });
        let mut h = x.t().dot(&x) / 400.0;
        shrink(&mut h, 1e-4);
        let down = Array2::from_shape_fn((8, 6), |(i, j)| ((i * 5 + j * 3) % 7) as f32 - 3.0);
        let (mut kept, losses) = surgeon(&down, &h, 5, &pool).expect("positive definite");
        assert!(losses.len() == 2 && losses[1] < f64::from(1e-2 * h.diag().sum()), "{losses:?}");
        assert_eq!(kept.len(), 6);
        kept.truncate(5);
        kept.sort_unstable();
        let gone: Vec<usize> = (0..6).filter(|j| !kept.contains(j)).collect();
        assert!([0, 1, 3].contains(&gone[0]), "{gone:?} carries something of its own");
        let repaired = repaired(&down, &h, &kept, &[5], &pool).expect("positive definite");
        let want = x.dot(&down.t());
        let got = x.select(Axis(1), &kept).dot(&repaired.t());
        let lost = (&want - &got).mapv(|v| v * v).sum() / want.mapv(|v| v * v).sum();
        assert!(lost < 1e-3, "{lost} of the energy is lost");
    }

    /// Each neuron of the first half has a twin in the second. Of the first token of a sequence
    /// both are a thousand times as large, and opposite; that must not decide how one replaces the
    /// other.
    #[test]
    fn a_few_enormous_tokens_do_not_decide() {
        let pool = Pool::new(1).expect("threads");
        let noise = |i: usize, j: usize| ((i * 7919 + j * 104_729 + i * j) % 2003) as f32 / 2003.0;
        let x = Array2::from_shape_fn((256, 24), |(i, j)| {
            let (value, is_twin) = (noise(i, j % 12) - 0.5, j >= 12);
            match (i % 64 == 0, is_twin) {
                (true, true) => -1000.0 * value,
                (true, false) => 1000.0 * value,
                (false, true) => value + 0.02 * (noise(i, j) - 0.5),
                (false, false) => value,
            }
        });
        let down = Array2::from_shape_fn((8, 24), |(i, j)| ((i * 5 + j * 3) % 7) as f32 - 3.0);
        let rope = Rope::new(&tiny::config(Architecture::Llama).rope).table(0..64);
        let text = Sequences::new(Array2::ones((256, 8)), 64, rope);
        let kept: Vec<usize> = (0..12).collect();
        let lost = |moments: Gram| {
            let mut h = moments.mean();
            shrink(&mut h, SHRINKAGE);
            let repaired = repaired(&down, &h, &kept, &[12], &pool).expect("positive definite");
            let usual: Vec<usize> = (0..256).filter(|i| i % 64 > 0).collect();
            let x = x.select(Axis(0), &usual);
            let want = x.dot(&down.t());
            let off = &want - &x.select(Axis(1), &kept).dot(&repaired.t());
            off.mapv(|v| v * v).sum() / want.mapv(|v| v * v).sum()
        };
        let by_state = lost(text.moments_by_state(&x, &down, &pool));
        let plain = lost(text.moments(&x, &pool));
        assert!(plain > 0.2, "{plain} is lost of the usual tokens if all weigh alike");
        assert!(by_state < 0.1 * plain, "{by_state} is lost of them, {plain} if all weigh alike");
    }

    #[test]
    fn where_all_stay_nothing_changes() {
        let pool = Pool::new(1).expect("threads");
        // Fewer rows than columns: without what is added there is no solution.
        let x = Array2::from_shape_fn((9, 24), |(i, j)| ((i * 31 + j * 17 + i * j) % 13) as f32);
        let mut h = x.t().dot(&x) / 9.0;
        shrink(&mut h, SHRINKAGE);
        let down = Array2::from_shape_fn((8, 24), |(i, j)| ((i * 5 + j * 3) % 7) as f32 - 3.0);
        let all: Vec<usize> = (0..24).collect();
        let repaired = repaired(&down, &h, &all, &[24], &pool).expect("positive definite");
        assert!((&repaired - &down).iter().all(|off| off.abs() < 1e-3));
    }

    #[test]
    fn the_largest_come_first_and_equals_in_their_order() {
        assert_eq!(ranked(&[1.0, 5.0, 3.0, 4.0]), [1, 3, 2, 0]);
        assert_eq!(ranked(&[1.0, 1.0, 1.0]), [0, 1, 2]);
    }
}
