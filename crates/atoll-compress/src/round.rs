//! Rounds a matrix to the grid of a block type, carrying each column's error to those after it.
//!
//! Source: Frantar et al. 2022 (GPTQ, arXiv 2210.17323) in the form of Chee et al. 2023 (QuIP,
//! arXiv 2307.13304, theorem 6): with `H = U D Uᵀ`, `U` unit upper triangular, column `k` is
//! rounded from `w_k + Σ_{i<k} (w_i - ŵ_i) U_ik`. The scales of a block are found when its turn
//! comes, from what its columns have become.
//!
//! What that leaves is then improved in turns: every code, and every scale that stands for itself,
//! moves to where the loss is least while all others stay (cyclic descent, as Behdin et al. 2023,
//! QuantEase, arXiv 2309.01885).

use atoll_model::{BlockType, Pool};
use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, s};

use crate::error::CompressError;
use crate::grid::{Grid, Shape};
use crate::linalg::{damp, feedback, shrink};
use crate::pack;

/// Share of the mean of `H`'s diagonal that is added to it for rounding. A tenth of it, on whose
/// account the calibration text is followed less closely, leaves the whole nearer to the model as
/// given than a hundredth does, on another text; nor does a share of each value do more.
const DAMPING: f32 = 0.1;
/// Share of each value of `H`'s diagonal that is added to it where columns that stay make up for
/// others that go: errors are larger then, and what a text says about columns together holds less
/// on another.
const SHRINKAGE: f32 = 0.3;
/// Rows that one task rounds.
const ROWS: usize = 16;
/// Columns whose errors are carried one by one; those before them are carried by a product.
const BLOCK: usize = 64;
/// Times that every code is looked at again.
const TURNS: usize = 3;

/// A rounded matrix, (rows, cols).
#[derive(Debug)]
pub(crate) struct Rounded {
    /// Blocks, row-major.
    pub(crate) bytes: Vec<u8>,
    /// What the blocks stand for.
    pub(crate) values: Array2<f32>,
}

/// What rounding has to know of a matrix's columns; matrices with the same input share it.
#[derive(Debug)]
pub(crate) enum Columns {
    /// An error of each column costs its weight and no error is carried.
    Apart(Vec<f32>),
    /// Errors cost what the inputs' second moments say.
    Together {
        /// `H` of the module's documentation, damped, (cols, cols).
        h: Array2<f32>,
        /// Its factor `U`.
        upper: Array2<f32>,
        /// Its factor `D`.
        pivots: Vec<f32>,
        /// Its diagonal.
        weights: Vec<f32>,
        /// Its diagonal before it was damped.
        squares: Vec<f32>,
    },
}

/// What errors columns carry to those after them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Errors {
    /// Small ones, of all weights.
    OfRounding,
    /// Whole weights that go.
    OfRemoval,
}

impl Columns {
    /// Every one of `cols` columns counts alike and no error is carried.
    pub(crate) fn alike(cols: usize) -> Self {
        Self::Apart(vec![1.0; cols])
    }

    /// Of `h`, (cols, cols), the mean of `x xᵀ` over the inputs `x`; for `errors` of this kind.
    ///
    /// # Errors
    /// [`CompressError::Inputs`], naming the input, if `h` is not finite.
    pub(crate) fn of_inputs(
        name: &str,
        mut h: Array2<f32>,
        errors: Errors,
        pool: &Pool,
    ) -> Result<Self, CompressError> {
        let squares = h.diag().to_vec();
        match errors {
            Errors::OfRounding => damp(&mut h, DAMPING),
            Errors::OfRemoval => shrink(&mut h, SHRINKAGE),
        }
        let factors = feedback(&h, pool);
        let (upper, pivots) = factors.ok_or_else(|| CompressError::Inputs(name.to_owned()))?;
        Ok(Self::Together { weights: h.diag().to_vec(), h, upper, pivots, squares })
    }

    /// Mean squares of the inputs, (cols).
    pub(crate) fn squares(&self) -> &[f32] {
        match self {
            Self::Apart(squares) | Self::Together { squares, .. } => squares,
        }
    }

    /// What weighs columns where scales are sought.
    fn weights(&self) -> &[f32] {
        match self {
            Self::Apart(weights) | Self::Together { weights, .. } => weights,
        }
    }
}

/// What becomes of weights that are 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Zeros {
    /// They are weights as others.
    Free,
    /// They stay 0; the type must have it.
    Stay,
}

/// Rounds `w`, (rows, cols), to `ty`.
///
/// # Errors
/// [`CompressError::Type`].
pub(crate) fn round(
    w: &Array2<f32>,
    ty: BlockType,
    zeros: Zeros,
    columns: &Columns,
    pool: &Pool,
) -> Result<Rounded, CompressError> {
    if let Some((bytes, values)) = pack::floats(ty, w) {
        return Ok(Rounded { bytes, values });
    }
    let shape = Shape::of(ty).ok_or(CompressError::Type(ty))?;
    let mut values = Array2::zeros(w.raw_dim());
    let mut packed: Vec<Vec<u8>> = vec![Vec::new(); w.nrows().div_ceil(ROWS)];
    let mut tasks: Vec<_> = w
        .axis_chunks_iter(Axis(0), ROWS)
        .zip(values.axis_chunks_iter_mut(Axis(0), ROWS))
        .zip(&mut packed)
        .collect();
    pool.for_each(&mut tasks, |((w, values), bytes)| {
        let mut rows = Rows::new(w.view(), values.view_mut(), shape, zeros);
        rows.round(columns);
        if let Columns::Together { h, .. } = columns {
            rows.improve(h);
        }
        for (grid, codes) in rows.grids.iter().zip(rows.codes.rows()) {
            pack::row(ty, grid, &codes.to_vec(), bytes);
        }
    });
    Ok(Rounded { bytes: packed.concat(), values })
}

/// A few rows in the making, (rows, cols) each.
struct Rows<'a> {
    w: ArrayView2<'a, f32>,
    values: ArrayViewMut2<'a, f32>,
    codes: Array2<u8>,
    grids: Vec<Grid>,
    /// Columns whose scales are found together.
    span: usize,
    zeros: Zeros,
}

impl<'a> Rows<'a> {
    fn new(
        w: ArrayView2<'a, f32>,
        values: ArrayViewMut2<'a, f32>,
        shape: Shape,
        zeros: Zeros,
    ) -> Self {
        let (codes, span) = (Array2::zeros(w.raw_dim()), shape.span());
        let grids = vec![Grid::new(shape); w.nrows()];
        Self { w, values, codes, grids, span, zeros }
    }

    /// Whether a weight must stay 0.
    fn is_fixed(&self, row: usize, col: usize) -> bool {
        self.zeros == Zeros::Stay && self.w[[row, col]] == 0.0
    }

    /// Rounds every column in turn.
    fn round(&mut self, columns: &Columns) {
        let (rows, cols) = self.w.dim();
        let weights = columns.weights();
        let upper = match columns {
            Columns::Apart(_) => None,
            Columns::Together { upper, .. } => Some(upper),
        };
        let mut errors = Array2::<f32>::zeros((rows, cols));
        let block = self.span.max(BLOCK);
        for from in (0..cols).step_by(block) {
            let to = (from + block).min(cols);
            let mut target = self.w.slice(s![.., from..to]).to_owned();
            if let Some(upper) = upper {
                let done = errors.slice(s![.., ..from]);
                general_mat_mul(1.0, &done, &upper.slice(s![..from, from..to]), 1.0, &mut target);
            }
            for (row, mut target) in target.rows_mut().into_iter().enumerate() {
                let target = target.as_slice_mut().expect("contiguous");
                for col in from..to {
                    if col.is_multiple_of(self.span) {
                        let ahead = &mut target[col - from..][..self.span];
                        for (idx, target) in ahead.iter_mut().enumerate() {
                            *target = if self.is_fixed(row, col + idx) { 0.0 } else { *target };
                        }
                        self.grids[row].fit_span(ahead, &weights[col..][..self.span]);
                    }
                    let aim = if self.is_fixed(row, col) { 0.0 } else { target[col - from] };
                    let (code, value) = self.grids[row].nearest(col, aim);
                    let error = self.w[[row, col]] - value;
                    self.codes[[row, col]] = code;
                    self.values[[row, col]] = value;
                    errors[[row, col]] = error;
                    if let Some(upper) = upper {
                        let after = upper.slice(s![col, col + 1..to]);
                        let after = after.to_slice().expect("rows are contiguous");
                        for (target, by) in target[col + 1 - from..].iter_mut().zip(after) {
                            *target += error * by;
                        }
                    }
                }
            }
        }
    }

    /// Moves codes and scales to where less is lost, one at a time.
    fn improve(&mut self, h: &Array2<f32>) {
        // How much less is lost, halved, for a small step up of each value.
        let mut pull = (&self.w - &self.values).dot(h);
        for turn in 0..TURNS {
            let moved = self.move_codes(h, &mut pull);
            if moved == 0 || turn + 1 == TURNS {
                return;
            }
            self.move_scales(h, &mut pull);
        }
    }

    /// Every code in turn; returns how many moved.
    fn move_codes(&mut self, h: &Array2<f32>, pull: &mut Array2<f32>) -> usize {
        let mut moved = 0;
        for (col, by) in h.rows().into_iter().enumerate() {
            for (row, mut pull) in pull.rows_mut().into_iter().enumerate() {
                if self.is_fixed(row, col) {
                    continue;
                }
                let value = self.values[[row, col]];
                let (code, to) = self.grids[row].nearest(col, value + pull[col] / by[col]);
                if code != self.codes[[row, col]] {
                    pull.scaled_add(value - to, &by);
                    self.codes[[row, col]] = code;
                    self.values[[row, col]] = to;
                    moved += 1;
                }
            }
        }
        moved
    }

    /// Every scale in turn that stands for itself.
    fn move_scales(&mut self, h: &Array2<f32>, pull: &mut Array2<f32>) {
        let cols = self.w.ncols();
        for from in (0..cols).step_by(self.span) {
            let to = from + self.span;
            for (row, mut pull) in pull.rows_mut().into_iter().enumerate() {
                let values = self.values.slice(s![row, from..to]);
                let along = values.dot(&pull.slice(s![from..to]));
                let inner = values.dot(&h.slice(s![from..to, from..to])).dot(&values);
                if inner <= 0.0 {
                    continue;
                }
                let Some(ratio) = self.grids[row].rescale(from, 1.0 + along / inner) else {
                    continue;
                };
                let step = ratio - 1.0;
                if step * (step * inner - 2.0 * along) >= 0.0 {
                    self.grids[row].rescale(from, 1.0 / ratio);
                    continue;
                }
                for col in from..to {
                    let by = -step * self.values[[row, col]];
                    pull.scaled_add(by, &h.row(col));
                    self.values[[row, col]] = self.grids[row].value(col, self.codes[[row, col]]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `tr((W - Ŵ) H (W - Ŵ)ᵀ) / tr(W H Wᵀ)`: the share of the product's energy that is lost.
    fn lost_share(w: &Array2<f32>, rounded: &Array2<f32>, h: &Array2<f32>) -> f64 {
        let energy = |d: &Array2<f32>| -> f64 {
            let product = d.dot(h);
            product.iter().zip(d).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        energy(&(w - rounded)) / energy(w).max(1e-30)
    }

    /// Inputs whose columns lean on each other, as those of a model do.
    fn inputs(n: usize) -> Array2<f32> {
        let plain = Array2::from_shape_fn((4 * n, n), |(i, j)| {
            (((i * 7919 + j * 104_729 + i * j) % 2003) as f32 / 2003.0) - 0.5
        });
        let mixed = Array2::from_shape_fn((n, n), |(i, j)| {
            1.0 / (1.0 + i.abs_diff(j) as f32) * if (i + j) % 3 == 0 { -1.0 } else { 1.0 }
        });
        plain.dot(&mixed)
    }

    #[test]
    fn carrying_errors_loses_less() {
        let pool = Pool::new(2).expect("threads");
        let (rows, cols) = (40, 256);
        let x = inputs(cols);
        let h = x.t().dot(&x) / x.nrows() as f32;
        let w = Array2::from_shape_fn((rows, cols), |(i, j)| {
            (((i * 31 + j * 17 + i * j) % 101) as f32 / 101.0) - 0.5
        });
        let alike = Columns::alike(cols);
        let leaning =
            Columns::of_inputs("w", h.clone(), Errors::OfRounding, &pool).expect("finite");
        for ty in crate::grid::TYPES {
            let plain = round(&w, ty, Zeros::Free, &alike, &pool).expect("rounds");
            let carried = round(&w, ty, Zeros::Free, &leaning, &pool).expect("rounds");
            let (plain, carried) =
                (lost_share(&w, &plain.values, &h), lost_share(&w, &carried.values, &h));
            assert!(carried < 0.8 * plain, "{}: {carried} against {plain}", ty.name());
        }
    }

    #[test]
    fn inputs_that_are_not_numbers_are_refused() {
        let pool = Pool::new(1).expect("threads");
        let h = Array2::from_elem((32, 32), f32::NAN);
        let found = Columns::of_inputs("blk.0.x", h, Errors::OfRounding, &pool);
        assert!(matches!(found, Err(CompressError::Inputs(name)) if name == "blk.0.x"));
    }
}
