//! Cholesky factors and what is solved with them, blocked so that most of the work is products.

use atoll_model::Pool;
use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, s};

/// Rows of a diagonal block.
const BLOCK: usize = 64;
/// Columns that one task updates.
const PANEL: usize = 128;

/// Adds `share` of the mean of the diagonal to the diagonal; columns that are always 0 then stay
/// solvable too.
#[expect(clippy::cast_possible_truncation, reason = "one rounding of an f64 mean")]
pub(crate) fn damp(h: &mut Array2<f32>, share: f32) {
    let n = h.nrows();
    let mean = h.diag().iter().map(|&d| f64::from(d)).sum::<f64>() / n.max(1) as f64;
    let by = (mean as f32 * share).max(1e-20);
    h.diag_mut().iter_mut().for_each(|d| *d += by);
}

/// Adds `share` of every diagonal value to itself, and a millionth of their mean, so that columns
/// that are always 0 stay solvable too: all correlations shrink by the same factor.
#[expect(clippy::cast_possible_truncation, reason = "one rounding of an f64 mean")]
pub(crate) fn shrink(h: &mut Array2<f32>, share: f32) {
    let n = h.nrows();
    let mean = h.diag().iter().map(|&d| f64::from(d)).sum::<f64>() / n.max(1) as f64;
    let least = (mean as f32 * 1e-6).max(1e-20);
    h.diag_mut().iter_mut().for_each(|d| *d += *d * share + least);
}

/// Replaces the lower triangle of the symmetric `a`, (n, n), by `L` with `a = L Lᵀ`; returns
/// whether `a` was positive definite. What lies above the diagonal is unspecified.
#[must_use]
pub(crate) fn cholesky(a: &mut Array2<f32>, pool: &Pool) -> bool {
    let n = a.nrows();
    for from in (0..n).step_by(BLOCK) {
        let to = (from + BLOCK).min(n);
        if !cholesky_block(a.slice_mut(s![from..to, from..to])) {
            return false;
        }
        if to == n {
            break;
        }
        let diagonal = a.slice(s![from..to, from..to]).to_owned();
        let mut below = a.slice_mut(s![to.., from..to]);
        let mut rows: Vec<_> = below.axis_chunks_iter_mut(Axis(0), PANEL).collect();
        pool.for_each(&mut rows, |rows| divide_rows(rows, diagonal.view()));
        let left = below.to_owned();
        let mut rest = a.slice_mut(s![to.., to..]);
        let panels = rest.axis_chunks_iter_mut(Axis(1), PANEL).enumerate();
        pool.for_each(&mut panels.collect::<Vec<_>>(), |(idx, panel)| {
            let (from, to) = (*idx * PANEL, *idx * PANEL + panel.ncols());
            let (below, right) = (left.slice(s![from.., ..]), left.slice(s![from..to, ..]));
            general_mat_mul(-1.0, &below, &right.t(), 1.0, &mut panel.slice_mut(s![from.., ..]));
        });
    }
    true
}

#[expect(clippy::cast_possible_truncation, reason = "f64 sums, rounded once")]
fn cholesky_block(mut a: ArrayViewMut2<'_, f32>) -> bool {
    for j in 0..a.nrows() {
        for i in j..a.nrows() {
            let sum: f64 = (0..j).map(|k| f64::from(a[[i, k]]) * f64::from(a[[j, k]])).sum();
            let value = f64::from(a[[i, j]]) - sum;
            if i == j {
                if !(value > 0.0 && value.is_finite()) {
                    return false;
                }
                a[[j, j]] = value.sqrt() as f32;
            } else {
                a[[i, j]] = (value / f64::from(a[[j, j]])) as f32;
            }
        }
    }
    true
}

/// `rows ← rows · L⁻ᵀ` for the small lower triangle `l`.
fn divide_rows(rows: &mut ArrayViewMut2<'_, f32>, l: ArrayView2<'_, f32>) {
    for mut row in rows.rows_mut() {
        for j in 0..l.nrows() {
            let sum: f32 = (0..j).map(|k| row[k] * l[[j, k]]).sum();
            row[j] = (row[j] - sum) / l[[j, j]];
        }
    }
}

/// Solves `a X = b` in place, `b` (n, m), given `L` of `a = L Lᵀ`.
pub(crate) fn solve(l: &Array2<f32>, b: &mut Array2<f32>, pool: &Pool) {
    let mut panels: Vec<_> = b.axis_chunks_iter_mut(Axis(1), PANEL).collect();
    pool.for_each(&mut panels, |b| {
        forward(l.view(), b);
        backward(l.view(), b);
    });
}

/// The inverse of `a`, (n, n), given `L` of `a = L Lᵀ`. What stands above a column's own row is
/// that of another, so that each is solved in the rows from its own on alone.
pub(crate) fn inverse(l: &Array2<f32>, pool: &Pool) -> Array2<f32> {
    let n = l.nrows();
    let mut inverse = Array2::eye(n);
    let panels = inverse.axis_chunks_iter_mut(Axis(1), PANEL).enumerate();
    pool.for_each(&mut panels.collect::<Vec<_>>(), |(idx, panel)| {
        let from = *idx * PANEL;
        let (l, mut here) = (l.slice(s![from.., from..]), panel.slice_mut(s![from.., ..]));
        forward(l, &mut here);
        backward(l, &mut here);
    });
    for i in 0..n {
        for j in i + 1..n {
            inverse[[i, j]] = inverse[[j, i]];
        }
    }
    inverse
}

/// `b ← L⁻¹ b`.
fn forward(l: ArrayView2<'_, f32>, b: &mut ArrayViewMut2<'_, f32>) {
    let n = l.nrows();
    for from in (0..n).step_by(BLOCK) {
        let to = (from + BLOCK).min(n);
        for i in from..to {
            for k in from..i {
                let (by, source) = (l[[i, k]], b.row(k).to_owned());
                b.row_mut(i).scaled_add(-by, &source);
            }
            let by = 1.0 / l[[i, i]];
            b.row_mut(i).map_inplace(|value| *value *= by);
        }
        let (done, mut rest) = b.view_mut().split_at(Axis(0), to);
        let part = done.slice(s![from..to, ..]);
        general_mat_mul(-1.0, &l.slice(s![to.., from..to]), &part, 1.0, &mut rest);
    }
}

/// `b ← L⁻ᵀ b`.
fn backward(l: ArrayView2<'_, f32>, b: &mut ArrayViewMut2<'_, f32>) {
    let n = l.nrows();
    for from in (0..n).step_by(BLOCK).rev() {
        let to = (from + BLOCK).min(n);
        let (mut here, rest) = b.view_mut().split_at(Axis(0), to);
        let mut here = here.slice_mut(s![from.., ..]);
        general_mat_mul(-1.0, &l.slice(s![to.., from..to]).t(), &rest, 1.0, &mut here);
        for i in (from..to).rev() {
            for k in i + 1..to {
                let (by, source) = (l[[k, i]], here.row(k - from).to_owned());
                here.row_mut(i - from).scaled_add(-by, &source);
            }
            let by = 1.0 / l[[i, i]];
            here.row_mut(i - from).map_inplace(|value| *value *= by);
        }
    }
}

/// The unit upper triangle `U` of `h = U D Uᵀ`, (n, n): what the error of a column weighs in the
/// columns after it; and `D`, (n): what an error of a column costs once those after it have made
/// good what they can. Nothing if `h` is not positive definite.
pub(crate) fn feedback(h: &Array2<f32>, pool: &Pool) -> Option<(Array2<f32>, Vec<f32>)> {
    let n = h.nrows();
    let mut reversed = h.slice(s![..;-1, ..;-1]).to_owned();
    if !cholesky(&mut reversed, pool) {
        return None;
    }
    let mut upper = Array2::zeros((n, n));
    let pivots = reversed.diag().iter().rev().map(|d| d * d).collect();
    for j in 0..n {
        let by = 1.0 / reversed[[n - 1 - j, n - 1 - j]];
        for i in 0..=j {
            upper[[i, j]] = reversed[[n - 1 - i, n - 1 - j]] * by;
        }
    }
    Some((upper, pivots))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positive(n: usize) -> Array2<f32> {
        let x = Array2::from_shape_fn((2 * n, n), |(i, j)| {
            (((i * 7919 + j * 104_729) % 1009) as f32 / 1009.0) - 0.5
        });
        let mut h = x.t().dot(&x);
        damp(&mut h, 0.01);
        h
    }

    #[test]
    fn correlations_shrink_alike() {
        let mut h = positive(6);
        h.row_mut(4).fill(0.0);
        h.column_mut(4).fill(0.0);
        let given = h.clone();
        shrink(&mut h, 0.25);
        let correlation = |h: &Array2<f32>| h[[0, 5]] / (h[[0, 0]] * h[[5, 5]]).sqrt();
        assert!((correlation(&h) - correlation(&given) / 1.25).abs() < 1e-4);
        assert!(cholesky(&mut h, &Pool::new(1).expect("a thread")), "column 4 is always 0");
    }

    #[test]
    fn solutions_solve() {
        let pool = Pool::new(2).expect("threads");
        for n in [1, 5, 64, 65, 200] {
            let a = positive(n);
            let b = Array2::from_shape_fn((n, 3), |(i, j)| (i as f32 - j as f32).sin());
            let (mut l, mut x) = (a.clone(), b.clone());
            assert!(cholesky(&mut l, &pool));
            solve(&l, &mut x, &pool);
            let back = a.dot(&x);
            assert!(back.iter().zip(&b).all(|(p, q)| (p - q).abs() < 1e-2), "n = {n}");
        }
    }

    #[test]
    fn an_inverse_times_its_matrix_is_one() {
        let pool = Pool::new(2).expect("threads");
        for n in [1, 64, 130, 300] {
            let a = positive(n);
            let mut l = a.clone();
            assert!(cholesky(&mut l, &pool));
            let one = a.dot(&inverse(&l, &pool));
            for ((i, j), value) in one.indexed_iter() {
                let want = if i == j { 1.0 } else { 0.0 };
                assert!((value - want).abs() < 1e-2, "{n}: {i}, {j}: {value}");
            }
        }
    }

    #[test]
    fn feedback_factors_the_matrix() {
        let pool = Pool::new(2).expect("threads");
        let h = positive(150);
        let (u, pivots) = feedback(&h, &pool).expect("positive definite");
        assert!(u.diag().iter().all(|&d| (d - 1.0).abs() < 1e-6));
        // U⁻¹ h U⁻ᵀ is diagonal: with x = U e_j as columns, h = U D Uᵀ for some D.
        let mut d = vec![0.0f32; 150];
        for j in (0..150).rev() {
            let after: f32 = (j + 1..150).map(|k| u[[j, k]] * u[[j, k]] * d[k]).sum();
            d[j] = h[[j, j]] - after;
        }
        assert!(d.iter().zip(&pivots).all(|(p, q)| (p - q).abs() < 1e-2));
        let mut scaled = u.clone();
        for mut row in scaled.rows_mut() {
            row.iter_mut().zip(&d).for_each(|(value, d)| *value *= d);
        }
        let back = scaled.dot(&u.t());
        assert!(back.iter().zip(&h).all(|(p, q)| (p - q).abs() < 1e-2));
    }

    #[test]
    fn what_is_not_positive_is_refused() {
        let pool = Pool::new(1).expect("threads");
        let mut a = Array2::from_diag_elem(70, -1.0f32);
        assert!(!cholesky(&mut a, &pool));
        let mut a = Array2::from_elem((3, 3), f32::NAN);
        assert!(!cholesky(&mut a, &pool));
    }
}
