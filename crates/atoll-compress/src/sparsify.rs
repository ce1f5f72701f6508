//! Sets single weights to 0, as many in every matrix, by one of three rules.

use std::cmp::Ordering;

use atoll_model::Pool;
use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayViewMut2, Axis, s};

use crate::error::CompressError;
use crate::round::{Columns, Errors};

/// Columns among which SparseGPT chooses at once.
const BLOCK: usize = 128;
/// Rows that one task takes.
const ROWS: usize = 16;

/// How single weights are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SparseMethod {
    /// The smallest of the matrix. Needs no text.
    Magnitude,
    /// Wanda (Sun et al. 2023, arXiv 2306.11695): of every row the smallest products of weight and
    /// norm of its input. No other weight changes.
    Wanda,
    /// SparseGPT (Frantar & Alistarh 2023, arXiv 2301.00774): of every 128 weights of a row those
    /// whose loss the columns after them can best make good, and they do. (The paper chooses
    /// among all rows of 128 columns, which leaves rows of small weights nearly empty.)
    SparseGpt,
}

/// Which weights become 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pattern {
    /// This share of them, in `0..1`.
    Share(f32),
    /// All but `kept` of every `of` that follow each other in a row.
    Group {
        /// Weights that stay.
        kept: usize,
        /// Weights of a group; divides 128.
        of: usize,
    },
}

/// Which weights become 0, and how they are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sparsity {
    /// Which.
    pub pattern: Pattern,
    /// How.
    pub method: SparseMethod,
}

impl SparseMethod {
    /// What errors columns carry by it, if they do.
    pub(crate) const fn errors(self) -> Errors {
        match self {
            Self::SparseGpt => Errors::OfRemoval,
            Self::Magnitude | Self::Wanda => Errors::OfRounding,
        }
    }
}

impl Sparsity {
    /// Checks the pattern, and that groups divide `cols` columns of the matrix `name`.
    ///
    /// # Errors
    /// [`CompressError::Share`] or [`CompressError::Group`].
    pub(crate) fn check(&self, name: &str, cols: usize) -> Result<(), CompressError> {
        match self.pattern {
            Pattern::Share(share) if (0.0..1.0).contains(&share) => Ok(()),
            Pattern::Share(share) => Err(CompressError::Share { share }),
            Pattern::Group { kept, of } => {
                let is_legal = (1..=of).contains(&kept) && BLOCK.is_multiple_of(of);
                match is_legal && cols.is_multiple_of(of) {
                    true => Ok(()),
                    false => Err(CompressError::Group { name: name.to_owned(), kept, of, cols }),
                }
            }
        }
    }

    /// Sets weights of `w`, (rows, cols), to 0 and changes others if the method does.
    pub(crate) fn apply(&self, w: &mut Array2<f32>, columns: &Columns, pool: &Pool) {
        match (self.method, columns) {
            (SparseMethod::SparseGpt, Columns::Together { upper, pivots, .. }) => {
                surgeon(w, self.pattern, upper, pivots, pool);
            }
            (SparseMethod::Wanda | SparseMethod::SparseGpt, _) => {
                let norms = columns.squares();
                let score = |value: f32, col: usize| value * value * norms[col];
                by_row(w, self.pattern, pool, &score);
            }
            (SparseMethod::Magnitude, _) => match self.pattern {
                Pattern::Group { .. } => by_row(w, self.pattern, pool, &|value, _| value * value),
                Pattern::Share(share) => {
                    let all = w.as_slice_mut().expect("contiguous");
                    let scores: Vec<f32> = all.iter().map(|value| value * value).collect();
                    for idx in least(&scores, count(share, all.len())) {
                        all[idx] = 0.0;
                    }
                }
            },
        }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a count")]
fn count(share: f32, of: usize) -> usize {
    (f64::from(share) * of as f64).round() as usize
}

/// The indices of the `n` smallest scores, in no order; of equals the first.
fn least(scores: &[f32], n: usize) -> Vec<usize> {
    let by_score =
        |a: &usize, b: &usize| -> Ordering { scores[*a].total_cmp(&scores[*b]).then(a.cmp(b)) };
    let mut order: Vec<usize> = (0..scores.len()).collect();
    if n > 0 && n < order.len() {
        order.select_nth_unstable_by(n - 1, by_score);
    }
    order.truncate(n);
    order
}

/// Sets the smallest of every row, or of every group, to 0.
fn by_row(
    w: &mut Array2<f32>,
    pattern: Pattern,
    pool: &Pool,
    score: &(dyn Fn(f32, usize) -> f32 + Sync),
) {
    let mut tasks: Vec<_> = w.axis_chunks_iter_mut(Axis(0), ROWS).collect();
    pool.for_each(&mut tasks, |rows| {
        for mut row in rows.rows_mut() {
            let row = row.as_slice_mut().expect("contiguous");
            let (len, gone) = match pattern {
                Pattern::Share(share) => (row.len(), count(share, row.len())),
                Pattern::Group { kept, of } => (of, of - kept),
            };
            for (idx, group) in row.chunks_mut(len).enumerate() {
                let scores = group.iter().enumerate().map(|(i, &v)| score(v, idx * len + i));
                for i in least(&scores.collect::<Vec<_>>(), gone) {
                    group[i] = 0.0;
                }
            }
        }
    });
}

/// SparseGPT in the form in which [`crate::round`] carries errors: column `k` becomes
/// `w_k + Σ_{i<k} (w_i - ŵ_i) U_ik`, or 0 where `d_k` times its square is among the least of its
/// row.
fn surgeon(
    w: &mut Array2<f32>,
    pattern: Pattern,
    upper: &Array2<f32>,
    pivots: &[f32],
    pool: &Pool,
) {
    let (rows, cols) = w.dim();
    let given = w.clone();
    let mut errors = Array2::<f32>::zeros((rows, cols));
    for from in (0..cols).step_by(BLOCK) {
        let to = (from + BLOCK).min(cols);
        let mut target = given.slice(s![.., from..to]).to_owned();
        let (done, mut here) = errors.view_mut().split_at(Axis(1), from);
        let tasks = target.axis_chunks_iter_mut(Axis(0), ROWS);
        let tasks = tasks.zip(done.axis_chunks_iter(Axis(0), ROWS));
        pool.for_each(&mut tasks.collect::<Vec<_>>(), |(target, done)| {
            let by = upper.slice(s![..from, from..to]);
            general_mat_mul(1.0, done, &by, 1.0, target);
        });
        let mut gone = Array2::from_elem(target.raw_dim(), false);
        // Of a row whose weights are all small as many stay as of others: what it says is needed.
        let (of, go) = match pattern {
            Pattern::Share(share) => (to - from, count(share, to) - count(share, from)),
            Pattern::Group { kept, of } => (of, of - kept),
        };
        let mut here = here.slice_mut(s![.., ..to - from]);
        let mut out = w.slice_mut(s![.., from..to]);
        let given = given.slice(s![.., from..to]);
        let tasks = target
            .axis_chunks_iter_mut(Axis(0), ROWS)
            .zip(gone.axis_chunks_iter_mut(Axis(0), ROWS))
            .zip(here.axis_chunks_iter_mut(Axis(0), ROWS))
            .zip(out.axis_chunks_iter_mut(Axis(0), ROWS))
            .zip(given.axis_chunks_iter(Axis(0), ROWS));
        let upper = upper.slice(s![from..to, from..to]);
        pool.for_each(
            &mut tasks.collect::<Vec<_>>(),
            |((((target, gone), errors), out), given)| {
                for row in 0..target.nrows() {
                    for col in 0..target.ncols() {
                        if col.is_multiple_of(of) {
                            choose(target, gone, (row, col), (go, of), &pivots[from..]);
                        }
                        let value = if gone[[row, col]] { 0.0 } else { target[[row, col]] };
                        let error = given[[row, col]] - value;
                        out[[row, col]] = value;
                        errors[[row, col]] = error;
                        let after = upper.slice(s![col, col + 1..]);
                        target.slice_mut(s![row, col + 1..]).scaled_add(error, &after);
                    }
                }
            },
        );
    }
}

/// Marks the `go` of `of` weights that go of the group that begins at `(row, col)`.
fn choose(
    target: &ArrayViewMut2<'_, f32>,
    gone: &mut ArrayViewMut2<'_, bool>,
    (row, col): (usize, usize),
    (go, of): (usize, usize),
    pivots: &[f32],
) {
    let scores = (col..col + of).map(|col| target[[row, col]].powi(2) * pivots[col]);
    for i in least(&scores.collect::<Vec<_>>(), go) {
        gone[[row, col + i]] = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METHODS: [SparseMethod; 3] =
        [SparseMethod::Magnitude, SparseMethod::Wanda, SparseMethod::SparseGpt];

    fn weights() -> Array2<f32> {
        Array2::from_shape_fn((40, 256), |(i, j)| {
            (((i * 31 + j * 17 + i * j * 7) % 1009) as f32 / 1009.0) - 0.4999
        })
    }

    /// Inputs of different strength that lean on each other, (rows, 256).
    fn inputs() -> Array2<f32> {
        let plain = Array2::from_shape_fn((1024, 256), |(i, j)| {
            (((i * 7919 + j * 104_729 + i * j) % 2003) as f32 / 2003.0) - 0.5
        });
        let mixed = Array2::from_shape_fn((256, 256), |(i, j)| {
            let strength = 1.0 + (j * 37 % 11) as f32;
            strength / (1.0 + i.abs_diff(j) as f32) * if (i + j) % 3 == 0 { -1.0 } else { 1.0 }
        });
        plain.dot(&mixed)
    }

    /// `w` by what goes in, `x`, (1024, 256).
    fn applied(x: &Array2<f32>, mut w: Array2<f32>, sparsity: Sparsity) -> Array2<f32> {
        let pool = Pool::new(2).expect("threads");
        let h = x.t().dot(x) / 1024.0;
        let columns = Columns::of_inputs("w", h, sparsity.method.errors(), &pool);
        sparsity.apply(&mut w, &columns.expect("numbers"), &pool);
        w
    }

    fn square(d: Array2<f32>) -> f64 {
        d.iter().map(|v| f64::from(v * v)).sum()
    }

    fn pruned(method: SparseMethod, pattern: Pattern) -> (Array2<f32>, f64) {
        let x = inputs();
        let w = applied(&x, weights(), Sparsity { pattern, method });
        let want = x.dot(&weights().t());
        let lost = square(&want - &x.dot(&w.t())) / square(want);
        (w, lost)
    }

    #[test]
    fn as_many_are_zero_as_were_asked_for() {
        for method in METHODS {
            for (pattern, zeros) in [
                (Pattern::Share(0.5), 5120),
                (Pattern::Share(0.25), 2560),
                (Pattern::Share(0.0), 0),
            ] {
                let (w, _) = pruned(method, pattern);
                assert_eq!(w.iter().filter(|v| **v == 0.0).count(), zeros, "{method:?}");
            }
            for (kept, of) in [(2, 4), (4, 8), (8, 16)] {
                let (w, _) = pruned(method, Pattern::Group { kept, of });
                for group in w.as_slice().expect("contiguous").chunks(of) {
                    let stays = group.iter().filter(|v| **v != 0.0).count();
                    assert_eq!(stays, kept, "{method:?} {kept}:{of}");
                }
            }
        }
    }

    #[test]
    fn each_method_loses_less_than_the_one_before() {
        for pattern in [Pattern::Share(0.5), Pattern::Group { kept: 2, of: 4 }] {
            let [magnitude, wanda, surgeon] = METHODS.map(|method| pruned(method, pattern).1);
            assert!(wanda < 0.9 * magnitude, "{pattern:?}: {wanda} {magnitude}");
            assert!(surgeon < 0.9 * wanda, "{pattern:?}: {surgeon} {wanda}");
        }
    }

    #[test]
    fn one_strong_input_does_not_drown_the_others() {
        let mut x = inputs();
        let half = Sparsity { pattern: Pattern::Share(0.5), method: SparseMethod::SparseGpt };
        let plain = applied(&x, weights(), half);
        x.column_mut(255).map_inplace(|value| *value *= 1000.0);
        let strong = applied(&x, weights(), half);
        let others = |w: &Array2<f32>| w.slice(s![.., ..128]).to_owned();
        let off = square(others(&strong) - &others(&plain)) / square(others(&plain));
        assert!(off < 0.01, "columns that are chosen before it is are {off} off");
    }

    #[test]
    fn every_row_keeps_as_many() {
        let mut w = weights();
        w.row_mut(3).map_inplace(|value| *value *= 1e-3);
        let share = Sparsity { pattern: Pattern::Share(0.3), method: SparseMethod::SparseGpt };
        let w = applied(&inputs(), w, share);
        for (idx, row) in w.rows().into_iter().enumerate() {
            assert_eq!(row.iter().filter(|v| **v == 0.0).count(), 77, "row {idx}");
        }
    }

    #[test]
    fn wanda_changes_nothing_that_stays() {
        let (w, _) = pruned(SparseMethod::Wanda, Pattern::Share(0.5));
        assert!(w.iter().zip(&weights()).all(|(now, was)| *now == 0.0 || now == was));
    }

    #[test]
    fn patterns_that_cannot_be_are_refused() {
        let check =
            |pattern, cols| Sparsity { pattern, method: SparseMethod::Wanda }.check("w", cols);
        assert!(check(Pattern::Share(0.5), 100).is_ok());
        assert!(matches!(check(Pattern::Share(1.0), 100), Err(CompressError::Share { .. })));
        assert!(check(Pattern::Group { kept: 8, of: 16 }, 96).is_ok());
        for (kept, of, cols) in [(8, 16, 100), (0, 4, 96), (5, 4, 96), (2, 3, 96)] {
            let found = check(Pattern::Group { kept, of }, cols);
            assert!(matches!(found, Err(CompressError::Group { .. })), "{kept}:{of} of {cols}");
        }
    }
}
