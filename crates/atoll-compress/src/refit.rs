//! Refits the up and the down projection of an encoder's pruned feed-forward block by least
//! squares.
//!
//! What the block says, `down gelu(up x)`, is linear in `down`; in `up` it is about so, with the
//! slope of GELU at each value, and the steps are those of Gauss and Newton. So after neurons are
//! gone each of the two can in turn be made the one that loses least.
//!
//! The least squares of `up`, all neurons at once, are solved by conjugate gradients: a step costs
//! four products of all tokens. They are preconditioned by what a neuron's error weighs on average
//! times the inputs' moments.

use atoll_model::{Compute, Pool};
use ndarray::linalg::general_mat_mul;
use ndarray::{Array1, Array2, ArrayView1, Axis, concatenate, s};

use crate::error::CompressError;
use crate::floats::FloatLayer;
use crate::gram::Gram;
use crate::linalg::{cholesky, inverse, shrink, solve};

/// How often up and down are refitted.
const ROUNDS: usize = 2;
/// Steps of conjugate gradients of each of them.
const STEPS: usize = 6;
/// Share of what a weight's change does alone that is added to its cost: what the tokens say about
/// changes together holds less on other texts.
const RIDGE: f32 = 0.1;
/// Tokens, and neurons, of a task.
const PANEL: usize = 128;

/// What the block is to say.
pub(crate) struct Wanted<'a> {
    /// What goes into gate and up, (tokens, dim).
    pub(crate) inputs: &'a Array2<f32>,
    /// The output that is wanted of down, its bias included, (tokens, dim).
    pub(crate) output: &'a Array2<f32>,
}

/// Refits up and down of `layer`, which is an encoder's, and their biases; returns the share of the
/// wanted energy that is lost then.
///
/// # Errors
/// [`CompressError::Inputs`] (naming `name`) if what goes in is not finite.
pub(crate) fn refit(
    name: &str,
    layer: &mut FloatLayer,
    wanted: &Wanted<'_>,
    compute: &Compute,
) -> Result<f64, CompressError> {
    let (bad, pool) = (|| CompressError::Inputs(name.to_owned()), &compute.pool);
    let mut values = neurons(layer, wanted.inputs, compute);
    for _ in 0..ROUNDS {
        let fit = Fit::new(layer, wanted, compute).ok_or_else(bad)?;
        let change = fit.solved(&residual(layer, &values, wanted, pool), pool);
        let (dim, n) = (layer.up.ncols(), layer.up.nrows());
        layer.up += &change.slice(s![.., ..dim]);
        if let Some(encoder) = &mut layer.encoder {
            encoder.up_bias += &change.slice(s![..n, dim]);
        }
        values = neurons(layer, wanted.inputs, compute);
        let bias = least_squares(&mut layer.down, &values, wanted.output, pool).ok_or_else(bad)?;
        if let Some(encoder) = &mut layer.encoder {
            encoder.down_bias = bias;
        }
    }
    let (left, all) = (residual(layer, &values, wanted, pool), wanted.output * &layer.gains());
    Ok(dot(&left, &left) / dot(&all, &all).max(f64::MIN_POSITIVE))
}

/// What the block, of its neurons' `values`, (tokens, neurons), does not say of what is wanted,
/// (tokens, dim), with what follows.
fn residual(
    layer: &FloatLayer,
    values: &Array2<f32>,
    wanted: &Wanted<'_>,
    pool: &Pool,
) -> Array2<f32> {
    (wanted.output - &said(layer, values, pool)) * layer.gains()
}

/// Makes `matrix`, (dim, cols), and what is added to its product what loses least of `output`,
/// (tokens, dim), given its inputs `values`, (tokens, cols).
fn least_squares(
    matrix: &mut Array2<f32>,
    values: &Array2<f32>,
    output: &Array2<f32>,
    pool: &Pool,
) -> Option<Array1<f32>> {
    let mut gram = Gram::new(values.ncols());
    gram.add(values.view(), pool);
    let [value, out] = [values, output].map(|x| x.mean_axis(Axis(0)).expect("tokens"));
    let mut h = gram.covariance();
    let before = h.diag().to_owned();
    shrink(&mut h, RIDGE);
    let added = &h.diag() - &before;
    // (neurons, dim): the moments with what is wanted, and what holds the weights where they are.
    let mut target = transposed_product(values, &(output - &out), pool);
    target /= values.nrows().max(1) as f32;
    target += &(&matrix.t() * &added.insert_axis(Axis(1)));
    if !cholesky(&mut h, pool) {
        return None;
    }
    solve(&h, &mut target, pool);
    *matrix = target.reversed_axes().as_standard_layout().to_owned();
    Some(out - matrix.dot(&value))
}

/// The least squares of a change of up.
struct Fit {
    /// (tokens, cols): what goes into up, and a 1 for its bias.
    inputs: Array2<f32>,
    /// (tokens, neurons): what a change of a neuron's product is multiplied by.
    slopes: Array2<f32>,
    /// (dim, neurons), with what follows.
    down: Array2<f32>,
    /// (neurons, cols): what is added to the cost of the square of each change.
    ridge: Array2<f32>,
    /// (neurons, 1): what an error of a neuron weighs.
    scales: Array2<f32>,
    /// (cols, cols): the inverse of the inputs' moments.
    inverse: Array2<f32>,
}

impl Fit {
    /// Nothing if the inputs are not finite, or of a decoder.
    fn new(layer: &FloatLayer, wanted: &Wanted<'_>, compute: &Compute) -> Option<Self> {
        let pool = &compute.pool;
        let ones = Array2::ones((wanted.inputs.nrows(), 1));
        let with_ones = concatenate(Axis(1), &[wanted.inputs.view(), ones.view()]);
        let inputs = with_ones.expect("as many rows");
        let encoder = layer.encoder.as_ref()?;
        let slopes = by_rows(wanted.inputs, layer.up.nrows(), pool, |x| {
            encoder.gelu_slopes(compute, x.dot(&layer.up.t()))
        });
        let down = &layer.down * &layer.gains().insert_axis(Axis(1));
        let columns = down.columns().into_iter().map(|column| column.dot(&column));
        let columns: Array1<f32> = columns.collect();
        let mut ridge =
            transposed_product(&slopes.mapv(|slope| slope * slope), &(&inputs * &inputs), pool);
        for (mut row, column) in ridge.rows_mut().into_iter().zip(&columns) {
            row *= column * RIDGE;
        }
        let squares = slopes.columns().into_iter().map(|slope| slope.dot(&slope));
        let scales: Array1<f32> = squares.zip(&columns).map(|(s, c)| (s * c).max(1e-20)).collect();
        let mut gram = Gram::new(inputs.ncols());
        gram.add(inputs.view(), pool);
        let mut h = gram.mean();
        shrink(&mut h, RIDGE);
        if !cholesky(&mut h, pool) {
            return None;
        }
        let inverse = inverse(&h, pool);
        Some(Self { inputs, slopes, down, ridge, scales: scales.insert_axis(Axis(1)), inverse })
    }

    /// The change, (neurons, cols), that takes most of `residual`, (tokens, dim), away.
    fn solved(&self, residual: &Array2<f32>, pool: &Pool) -> Array2<f32> {
        let mut left = self.transposed(residual, pool);
        let mut change = Array2::zeros(left.raw_dim());
        let mut eased = self.eased(&left, pool);
        let mut way = eased.clone();
        let mut gain = dot(&left, &eased);
        for _ in 0..STEPS {
            let mut image = self.transposed(&self.output(&way, pool), pool);
            image += &(&self.ridge * &way);
            let along = dot(&way, &image);
            if !(along > 0.0 && gain > 0.0) {
                break;
            }
            let by = single(gain / along);
            change.scaled_add(by, &way);
            left.scaled_add(-by, &image);
            eased = self.eased(&left, pool);
            let next = dot(&left, &eased);
            way *= single(next / gain);
            way += &eased;
            gain = next;
        }
        change
    }

    /// What `change`, (neurons, cols), adds to the output, (tokens, dim).
    fn output(&self, change: &Array2<f32>, pool: &Pool) -> Array2<f32> {
        let mut output = Array2::zeros((self.inputs.nrows(), self.down.nrows()));
        let rows = output.axis_chunks_iter_mut(Axis(0), PANEL);
        let slopes = self.slopes.axis_chunks_iter(Axis(0), PANEL);
        let inputs = self.inputs.axis_chunks_iter(Axis(0), PANEL);
        let mut tasks: Vec<_> = rows.zip(slopes).zip(inputs).collect();
        pool.for_each(&mut tasks, |((output, slopes), inputs)| {
            let mut values = inputs.dot(&change.t());
            values *= &*slopes;
            general_mat_mul(1.0, &values, &self.down.t(), 0.0, output);
        });
        output
    }

    /// What an `output`, (tokens, dim), says of every weight, (neurons, cols).
    fn transposed(&self, output: &Array2<f32>, pool: &Pool) -> Array2<f32> {
        let mut found = Array2::zeros((self.down.ncols(), self.inputs.ncols()));
        let rows = found.axis_chunks_iter_mut(Axis(0), PANEL);
        let slopes = self.slopes.axis_chunks_iter(Axis(1), PANEL);
        let down = self.down.axis_chunks_iter(Axis(1), PANEL);
        let mut tasks: Vec<_> = rows.zip(slopes).zip(down).collect();
        pool.for_each(&mut tasks, |((found, slopes), down)| {
            let mut pulls = output.dot(down);
            pulls *= &*slopes;
            general_mat_mul(1.0, &pulls.t(), &self.inputs, 0.0, found);
        });
        found
    }

    /// `left`, (neurons, cols), by about the inverse of what is to be solved.
    fn eased(&self, left: &Array2<f32>, pool: &Pool) -> Array2<f32> {
        let mut eased = Array2::zeros(left.raw_dim());
        let rows = eased.axis_chunks_iter_mut(Axis(0), PANEL);
        let left = left.axis_chunks_iter(Axis(0), PANEL);
        let mut tasks: Vec<_> =
            rows.zip(left).zip(self.scales.axis_chunks_iter(Axis(0), PANEL)).collect();
        pool.for_each(&mut tasks, |((eased, left), scales)| {
            general_mat_mul(1.0, left, &self.inverse, 0.0, eased);
            *eased /= &*scales;
        });
        eased
    }
}

/// What goes into down, (tokens, neurons).
fn neurons(layer: &FloatLayer, inputs: &Array2<f32>, compute: &Compute) -> Array2<f32> {
    by_rows(inputs, layer.up.nrows(), &compute.pool, |x| layer.neurons(compute, x))
}

/// What the block says of the neurons' `values`, (tokens, neurons): (tokens, dim).
fn said(layer: &FloatLayer, values: &Array2<f32>, pool: &Pool) -> Array2<f32> {
    let mut said = by_rows(values, layer.down.nrows(), pool, |values| values.dot(&layer.down.t()));
    if let Some(encoder) = &layer.encoder {
        said += &encoder.down_bias;
    }
    said
}

/// What `step` makes of some rows at a time, (rows, cols).
fn by_rows(
    from: &Array2<f32>,
    cols: usize,
    pool: &Pool,
    step: impl Fn(ndarray::ArrayView2<'_, f32>) -> Array2<f32> + Sync,
) -> Array2<f32> {
    let mut to = Array2::zeros((from.nrows(), cols));
    let rows = to.axis_chunks_iter_mut(Axis(0), PANEL);
    let mut tasks: Vec<_> = rows.zip(from.axis_chunks_iter(Axis(0), PANEL)).collect();
    pool.for_each(&mut tasks, |(to, from)| to.assign(&step(*from)));
    to
}

/// `aᵀ b`, (columns of `a`, columns of `b`), of as many rows.
fn transposed_product(a: &Array2<f32>, b: &Array2<f32>, pool: &Pool) -> Array2<f32> {
    let mut product = Array2::zeros((a.ncols(), b.ncols()));
    let rows = product.axis_chunks_iter_mut(Axis(0), PANEL);
    let mut tasks: Vec<_> = rows.zip(a.axis_chunks_iter(Axis(1), PANEL)).collect();
    pool.for_each(&mut tasks, |(product, a)| general_mat_mul(1.0, &a.t(), b, 0.0, product));
    product
}

/// The sum of all products, in f64.
fn dot(a: &Array2<f32>, b: &Array2<f32>) -> f64 {
    let row = |(a, b): (ArrayView1<'_, f32>, ArrayView1<'_, f32>)| f64::from(a.dot(&b));
    a.rows().into_iter().zip(b.rows()).map(row).sum()
}

#[expect(clippy::cast_possible_truncation, reason = "one rounding of an f64")]
const fn single(value: f64) -> f32 {
    value as f32
}
