//! Rounds a matrix to the grid of a block type, carrying each column's error to those after it.
//!
//! Source: Frantar et al. 2022 (GPTQ, arXiv 2210.17323) in the form of Chee et al. 2023 (QuIP,
//! arXiv 2307.13304, theorem 6): with `H = U D Uᵀ`, `U` unit upper triangular, column `k` is
//! rounded from `w_k + Σ_{i<k} (w_i - ŵ_i) U_ik`. Scales are fixed beforehand.

use atoll_model::{BlockType, Pool};
use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, Axis, s};

use crate::error::CompressError;
use crate::grid::{Grid, Shape};
use crate::linalg::{damp, feedback};
use crate::pack;

/// Share of the mean of `H`'s diagonal that is added to it.
const DAMPING: f32 = 0.01;
/// Rows that one task rounds.
const ROWS: usize = 16;
/// Columns whose errors are carried one by one; those before them are carried by a product.
const BLOCK: usize = 64;

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
pub(crate) struct Columns {
    /// What an error of each column costs.
    weights: Vec<f32>,
    /// `U` of the module's documentation.
    carry: Option<Array2<f32>>,
}

impl Columns {
    /// Every one of `cols` columns counts alike and no error is carried.
    pub(crate) fn alike(cols: usize) -> Self {
        Self { weights: vec![1.0; cols], carry: None }
    }

    /// An error of each column costs its weight and no error is carried.
    pub(crate) const fn weighed(weights: Vec<f32>) -> Self {
        Self { weights, carry: None }
    }

    /// Of `h`, (cols, cols), the mean of `x xᵀ` over the inputs `x`.
    ///
    /// # Errors
    /// [`CompressError::Inputs`], naming the input, if `h` is not finite.
    pub(crate) fn of_inputs(
        name: &str,
        mut h: Array2<f32>,
        pool: &Pool,
    ) -> Result<Self, CompressError> {
        damp(&mut h, DAMPING);
        let weights = h.diag().to_vec();
        let carry = feedback(&h, pool).ok_or_else(|| CompressError::Inputs(name.to_owned()))?;
        Ok(Self { weights, carry: Some(carry) })
    }
}

/// Rounds `w`, (rows, cols), to `ty`.
///
/// # Errors
/// [`CompressError::Type`].
pub(crate) fn round(
    w: &Array2<f32>,
    ty: BlockType,
    columns: &Columns,
    pool: &Pool,
) -> Result<Rounded, CompressError> {
    let shape = Shape::of(ty).ok_or(CompressError::Type(ty))?;
    let Columns { weights, carry } = columns;
    let mut values = Array2::zeros(w.raw_dim());
    let mut packed: Vec<Vec<u8>> = vec![Vec::new(); w.nrows().div_ceil(ROWS)];
    let mut tasks: Vec<_> = w
        .axis_chunks_iter(Axis(0), ROWS)
        .zip(values.axis_chunks_iter_mut(Axis(0), ROWS))
        .zip(&mut packed)
        .collect();
    pool.for_each(&mut tasks, |((w, values), bytes)| {
        let grids: Vec<Grid> =
            w.rows().into_iter().map(|row| Grid::fit(shape, &row.to_vec(), weights)).collect();
        let (codes, rounded) = round_rows(w.view(), &grids, carry.as_ref());
        values.assign(&rounded);
        for (grid, codes) in grids.iter().zip(codes.rows()) {
            pack::row(ty, grid, &codes.to_vec(), bytes);
        }
    });
    Ok(Rounded { bytes: packed.concat(), values })
}

/// Codes and values of a few rows.
fn round_rows(
    w: ArrayView2<'_, f32>,
    grids: &[Grid],
    carry: Option<&Array2<f32>>,
) -> (Array2<u8>, Array2<f32>) {
    let (rows, cols) = w.dim();
    let mut codes = Array2::zeros((rows, cols));
    let mut values = Array2::zeros((rows, cols));
    let mut errors = Array2::<f32>::zeros((rows, cols));
    for from in (0..cols).step_by(BLOCK) {
        let to = (from + BLOCK).min(cols);
        let mut target = w.slice(s![.., from..to]).to_owned();
        if let Some(carry) = carry {
            let done = errors.slice(s![.., ..from]);
            general_mat_mul(1.0, &done, &carry.slice(s![..from, from..to]), 1.0, &mut target);
        }
        for (row, mut target) in target.rows_mut().into_iter().enumerate() {
            let target = target.as_slice_mut().expect("contiguous");
            for col in from..to {
                let (code, value) = grids[row].nearest(col, target[col - from]);
                let error = w[[row, col]] - value;
                codes[[row, col]] = code;
                values[[row, col]] = value;
                errors[[row, col]] = error;
                if let Some(carry) = carry {
                    let after = carry.slice(s![col, col + 1..to]);
                    let after = after.to_slice().expect("rows are contiguous");
                    for (target, by) in target[col + 1 - from..].iter_mut().zip(after) {
                        *target += error * by;
                    }
                }
            }
        }
    }
    (codes, values)
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
        let leaning = Columns::of_inputs("w", h.clone(), &pool).expect("finite");
        for ty in crate::grid::TYPES {
            let plain = round(&w, ty, &alike, &pool).expect("rounds");
            let carried = round(&w, ty, &leaning, &pool).expect("rounds");
            let (plain, carried) =
                (lost_share(&w, &plain.values, &h), lost_share(&w, &carried.values, &h));
            assert!(carried < 0.8 * plain, "{}: {carried} against {plain}", ty.name());
        }
    }

    #[test]
    fn inputs_that_are_not_numbers_are_refused() {
        let pool = Pool::new(1).expect("threads");
        let h = Array2::from_elem((32, 32), f32::NAN);
        let found = Columns::of_inputs("blk.0.x", h, &pool);
        assert!(matches!(found, Err(CompressError::Inputs(name)) if name == "blk.0.x"));
    }
}
