//! Second moments of the inputs of a product.

use atoll_model::Pool;
use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, Axis, s};

/// Columns that one task updates.
const PANEL: usize = 128;

/// `XᵀX` and the column sums of all inputs `X`, (rows, n), seen so far.
#[derive(Debug, Clone)]
pub struct Gram {
    /// Upper triangle of `XᵀX`, (n, n); what lies below is unspecified.
    upper: Array2<f32>,
    sums: Vec<f64>,
    rows: usize,
}

impl Gram {
    /// Nothing seen of `n` columns. Takes 4 n² bytes.
    #[must_use]
    pub fn new(n: usize) -> Self {
        Self { upper: Array2::zeros((n, n)), sums: vec![0.0; n], rows: 0 }
    }

    /// Adds the rows of `x`, (rows, n).
    ///
    /// # Panics
    /// If `x` has another number of columns.
    pub fn add(&mut self, x: ArrayView2<'_, f32>, pool: &Pool) {
        assert_eq!(x.ncols(), self.sums.len(), "columns");
        self.rows += x.nrows();
        for row in x.rows() {
            self.sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
        }
        let panels = self.upper.axis_chunks_iter_mut(Axis(1), PANEL).enumerate();
        pool.for_each(&mut panels.collect::<Vec<_>>(), |(idx, panel)| {
            let (from, to) = (*idx * PANEL, *idx * PANEL + panel.ncols());
            let (left, right) = (x.slice(s![.., ..to]), x.slice(s![.., from..to]));
            general_mat_mul(1.0, &left.t(), &right, 1.0, &mut panel.slice_mut(s![..to, ..]));
        });
    }

    /// That of the columns `columns` alone, in this order.
    ///
    /// # Panics
    /// If there is no such column.
    #[must_use]
    pub fn select(&self, columns: &[usize]) -> Self {
        let n = columns.len();
        let upper = Array2::from_shape_fn((n, n), |(i, j)| {
            let (i, j) = (columns[i], columns[j]);
            self.upper[[i.min(j), i.max(j)]]
        });
        let sums = columns.iter().map(|&column| self.sums[column]).collect();
        Self { upper, sums, rows: self.rows }
    }

    /// Columns.
    #[must_use]
    pub fn n(&self) -> usize {
        self.sums.len()
    }

    /// The whole of `XᵀX / rows`, (n, n).
    #[must_use]
    pub fn mean(&self) -> Array2<f32> {
        let n = self.n();
        let by = 1.0 / self.rows.max(1) as f32;
        let mut full = &self.upper * by;
        for i in 1..n {
            for j in 0..i {
                full[[i, j]] = full[[j, i]];
            }
        }
        full
    }

    /// Mean of every column, (n).
    #[must_use]
    pub fn means(&self) -> Vec<f64> {
        self.sums.iter().map(|sum| sum / self.rows.max(1) as f64).collect()
    }

    /// The covariance of the columns: [`Self::mean`] less the product of the means, (n, n).
    #[expect(clippy::cast_possible_truncation, reason = "one rounding of an f64 difference")]
    #[must_use]
    pub fn covariance(&self) -> Array2<f32> {
        let (means, mut full) = (self.means(), self.mean());
        for ((i, j), value) in full.indexed_iter_mut() {
            *value = (f64::from(*value) - means[i] * means[j]) as f32;
        }
        full
    }

    /// Mean square of every column, (n).
    #[must_use]
    pub fn mean_squares(&self) -> Vec<f32> {
        let by = 1.0 / self.rows.max(1) as f32;
        self.upper.diag().iter().map(|square| square * by).collect()
    }

    /// Variance of every column, (n).
    #[expect(clippy::cast_possible_truncation, reason = "one rounding of an f64 difference")]
    #[must_use]
    pub fn variances(&self) -> Vec<f32> {
        let (means, squares) = (self.means(), self.mean_squares());
        squares.iter().zip(means).map(|(s, m)| (f64::from(*s) - m * m).max(0.0) as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_rows() {
        let pool = Pool::new(2).expect("threads");
        let x = Array2::from_shape_fn((7, 130), |(i, j)| ((i * 31 + j * 17) % 13) as f32 - 5.0);
        let mut gram = Gram::new(130);
        gram.add(x.slice(s![..3, ..]), &pool);
        gram.add(x.slice(s![3.., ..]), &pool);
        let want = x.t().dot(&x) / 7.0;
        assert!(gram.mean().iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-4));
        let some = [129, 3, 64];
        let selected = gram.select(&some).mean();
        for ((i, j), value) in selected.indexed_iter() {
            assert!((value - want[[some[i], some[j]]]).abs() < 1e-4, "{i}, {j}");
        }
        let apart = &x - &x.mean_axis(Axis(0)).expect("rows");
        let want = apart.t().dot(&apart) / 7.0;
        assert!(gram.covariance().iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-4));
        for (j, variance) in gram.variances().into_iter().enumerate() {
            assert!((variance - x.column(j).var(0.0)).abs() < 1e-3, "column {j}");
        }
    }
}
