//! Activation rows as the kernels read them.

use crate::Kernels;
use crate::unpack::RUN;
use crate::vector::round_to_half;

/// What the kernels take beside the codes of 32 columns.
#[derive(Debug, Default, Clone, Copy)]
#[repr(C, align(32))]
pub(crate) struct RunNumbers {
    /// What a code counts.
    pub(crate) scale: f32,
    /// Minus the sums of the first 16, the last 16 and all codes.
    pub(crate) minus_sums: [i32; 3],
    /// `scale` times the sum of the first 16, the last 16 and all codes.
    pub(crate) scaled_sums: [f32; 3],
}

impl RunNumbers {
    /// `low` and `high` are the sums of the first and of the last 16 codes.
    #[inline(always)]
    pub(crate) fn new(scale: f32, low: i32, high: i32) -> Self {
        let sums = [low, high, low + high];
        Self {
            scale,
            minus_sums: sums.map(|sum| -sum),
            scaled_sums: sums.map(|sum| scale * sum as f32),
        }
    }
}

/// Rows of activations, quantized to int8 per 32 columns, and as they are. Reuses its memory.
#[derive(Debug, Default, Clone)]
pub struct Activations {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// (steps of 32 columns, rows, 32).
    pub(crate) codes: Vec<i8>,
    /// (steps, rows).
    pub(crate) numbers: Vec<RunNumbers>,
    /// (rows, cols).
    pub(crate) floats: Vec<f32>,
}

impl Activations {
    /// No rows.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes `x`, (rows, cols), row-major.
    ///
    /// # Panics
    /// If `x` is not `rows * cols` long.
    pub fn quantize(&mut self, kernels: &Kernels, x: &[f32], rows: usize, cols: usize) {
        assert_eq!(x.len(), rows * cols, "x is (rows, cols)");
        let steps = cols.div_ceil(RUN);
        (self.rows, self.cols) = (rows, cols);
        self.codes.resize(steps * rows * RUN, 0);
        self.numbers.resize(steps * rows, RunNumbers::default());
        self.floats.clear();
        self.floats.extend_from_slice(x);
        kernels.quantize(self);
    }

    /// Rows held.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of a row.
    #[must_use]
    pub const fn cols(&self) -> usize {
        self.cols
    }

    /// Codes and numbers of `N` runs from the `i`th, in the order (steps, rows).
    #[inline(always)]
    pub(crate) fn runs<const N: usize>(&self, i: usize) -> (&[[i8; RUN]; N], &[RunNumbers; N]) {
        let (codes, _) = self.codes.as_chunks::<RUN>();
        let codes = codes[i..].first_chunk().expect("codes of every run");
        (codes, self.numbers[i..].first_chunk().expect("numbers of every run"))
    }

    /// Quantizes `floats` in plain Rust.
    pub(crate) fn quantize_here(&mut self) {
        self.quantize_runs(quantize_run);
    }

    /// Quantizes `floats` by `quantize_run`.
    #[inline(always)]
    pub(crate) fn quantize_runs(
        &mut self,
        quantize_run: impl Fn(&[f32; RUN], &mut [i8; RUN]) -> RunNumbers,
    ) {
        let (rows, cols) = (self.rows, self.cols);
        if cols == 0 {
            return;
        }
        for (row, x) in self.floats.chunks_exact(cols).enumerate() {
            let runs = x.chunks_exact(RUN);
            let tail = runs.remainder();
            for (step, run) in runs.enumerate() {
                let i = step * rows + row;
                let run = run.first_chunk().expect("a run");
                let codes = self.codes[i * RUN..].first_chunk_mut().expect("codes of every run");
                self.numbers[i] = quantize_run(run, codes);
            }
            if !tail.is_empty() {
                let i = cols / RUN * rows + row;
                let mut run = [0.0; RUN];
                run[..tail.len()].copy_from_slice(tail);
                let codes = self.codes[i * RUN..].first_chunk_mut().expect("codes of every run");
                self.numbers[i] = quantize_run(&run, codes);
            }
        }
    }
}

/// What a code counts, and its inverse.
#[inline(always)]
pub(crate) fn scales_of(amax: f32) -> (f32, f32) {
    if amax > 1e-30 { (round_to_half(amax / 127.0), 127.0 / amax) } else { (0.0, 0.0) }
}

/// Quantizes 32 columns.
#[expect(clippy::cast_possible_truncation, reason = "codes are within ±127")]
fn quantize_run(x: &[f32; RUN], codes: &mut [i8; RUN]) -> RunNumbers {
    let mut max = [0.0f32; 16];
    for i in 0..16 {
        let (a, b) = (x[i].abs(), x[i + 16].abs());
        max[i] = if a > b { a } else { b };
    }
    for width in [8, 4, 2, 1] {
        for i in 0..width {
            max[i] = if max[i] > max[i + width] { max[i] } else { max[i + width] };
        }
    }
    let (scale, inverse) = scales_of(max[0]);
    let mut sums = [0; 2];
    for i in 0..RUN {
        // Adding 1.5 * 2^23 rounds half to even and leaves the integer in the low bits.
        let q = (x[i] * inverse + 12_582_912.0).to_bits() as i8;
        codes[i] = q;
        sums[i / 16] += i32::from(q);
    }
    RunNumbers::new(scale, sums[0], sums[1])
}
