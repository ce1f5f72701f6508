//! Sets single weights to 0, as many in every matrix, by one of three rules.

use std::cmp::Ordering;

use atoll_model::Pool;
use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayViewMut2, Axis, s};

use crate::error::CompressError;
use crate::round::{Columns, Errors};

/// Columns among which SparseGPT chooses at once.
const BLOCK: usize = 128;
/// Times that SparseGPT moves every weight that stays once more. Four win no more than two.
const TURNS: usize = 2;
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
    /// SparseGPT (Frantar & Alistarh 2023, arXiv 2301.00774): of 128 weights of a row those whose
    /// loss the columns after them can best make good, and they do; then every weight that stays
    /// moves to where the loss is least. As many of a row go as of any other, and of its 128s as
    /// many as products of weight and norm say. (The paper takes half of all rows of 128 columns,
    /// which leaves rows of small weights nearly empty.)
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
            (SparseMethod::SparseGpt, Columns::Together { h, upper, pivots, .. }) => {
                let given = w.clone();
                surgeon(w, &given, self.pattern, (h, upper, pivots), pool);
                settle(w, &given, h, pool);
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
    given: &Array2<f32>,
    pattern: Pattern,
    (h, upper, pivots): (&Array2<f32>, &Array2<f32>, &[f32]),
    pool: &Pool,
) {
    let (rows, cols) = w.dim();
    // Of every row and block how many weights go, or of every group in it.
    let go = match pattern {
        Pattern::Share(share) => shares(given, h, share, pool),
        Pattern::Group { kept, of } => Array2::from_elem((rows, cols.div_ceil(BLOCK)), of - kept),
    };
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
        let of = match pattern {
            Pattern::Share(_) => to - from,
            Pattern::Group { of, .. } => of,
        };
        let go = go.column(from / BLOCK);
        let mut here = here.slice_mut(s![.., ..to - from]);
        let mut out = w.slice_mut(s![.., from..to]);
        let given = given.slice(s![.., from..to]);
        let tasks = target
            .axis_chunks_iter_mut(Axis(0), ROWS)
            .zip(gone.axis_chunks_iter_mut(Axis(0), ROWS))
            .zip(here.axis_chunks_iter_mut(Axis(0), ROWS))
            .zip(out.axis_chunks_iter_mut(Axis(0), ROWS))
            .zip(given.axis_chunks_iter(Axis(0), ROWS))
            .zip(go.axis_chunks_iter(Axis(0), ROWS));
        let upper = upper.slice(s![from..to, from..to]);
        pool.for_each(
            &mut tasks.collect::<Vec<_>>(),
            |(((((target, gone), errors), out), given), go)| {
                for row in 0..target.nrows() {
                    for col in 0..target.ncols() {
                        if col.is_multiple_of(of) {
                            choose(target, gone, (row, col), (go[row], of), &pivots[from..]);
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

/// Of every row of `w` and block of columns how many weights are among the share of the row whose
/// squares, times what `h` says of their columns, are least: of each row as many. (rows, blocks).
fn shares(w: &Array2<f32>, h: &Array2<f32>, share: f32, pool: &Pool) -> Array2<usize> {
    let (norms, cols) = (h.diag().to_vec(), w.ncols());
    let mut counts = Array2::zeros((w.nrows(), cols.div_ceil(BLOCK)));
    let tasks = counts.axis_iter_mut(Axis(0)).zip(w.axis_iter(Axis(0)));
    pool.for_each(&mut tasks.collect::<Vec<_>>(), |(counts, row)| {
        let scores = row.iter().zip(&norms).map(|(value, norm)| value * value * norm);
        for col in least(&scores.collect::<Vec<_>>(), count(share, cols)) {
            counts[col / BLOCK] += 1;
        }
    });
    counts
}

/// Moves every weight that stays to where what is lost of `given` is least while all others stay
/// as they are (cyclic descent, as in [`crate::round`]), a few times.
fn settle(w: &mut Array2<f32>, given: &Array2<f32>, h: &Array2<f32>, pool: &Pool) {
    let tasks = w.axis_chunks_iter_mut(Axis(0), ROWS).zip(given.axis_chunks_iter(Axis(0), ROWS));
    pool.for_each(&mut tasks.collect::<Vec<_>>(), |(w, given)| {
        // How much less is lost, halved, for a small step up of each weight.
        let mut pull = (&*given - &*w).dot(h);
        for _ in 0..TURNS {
            for (col, by) in h.rows().into_iter().enumerate() {
                for (mut w, mut pull) in w.rows_mut().into_iter().zip(pull.rows_mut()) {
                    if w[col] != 0.0 {
                        let step = pull[col] / by[col];
                        pull.scaled_add(-step, &by);
                        w[col] += step;
                    }
                }
            }
        }
    });
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
mod tests;
