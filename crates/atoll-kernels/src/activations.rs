//! Activation rows as the kernels read them.

use crate::Kernels;
use crate::unpack::RUN;

/// Rows of activations, quantized to int8 per 32 columns, and as they are. Reuses its memory.
#[derive(Debug, Default, Clone)]
pub struct Activations {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// (steps of 32 columns, rows, 32).
    pub(crate) codes: Vec<i8>,
    /// (steps, rows).
    pub(crate) scales: Vec<f32>,
    /// Sums of the first and of the last 16 codes, (2, steps, rows).
    pub(crate) sums: Vec<i32>,
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
        self.scales.resize(steps * rows, 0.0);
        self.sums.resize(2 * steps * rows, 0);
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

    /// Quantizes `floats`.
    #[inline(always)]
    pub(crate) fn quantize_here(&mut self) {
        let (rows, cols) = (self.rows, self.cols);
        let n = self.scales.len();
        for (i, scale) in self.scales.iter_mut().enumerate() {
            let (step, row) = (i / rows, i % rows);
            let from = &self.floats[row * cols + step * RUN..(row + 1) * cols];
            let codes = &mut self.codes[i * RUN..][..RUN];
            let mut x = [0.0; RUN];
            if from.len() >= RUN {
                x.copy_from_slice(&from[..RUN]);
            } else {
                x[..from.len()].copy_from_slice(from);
            }
            let (dx, sums) = quantize_run(&x, codes);
            *scale = dx;
            self.sums[i] = sums[0];
            self.sums[n + i] = sums[1];
        }
    }
}

/// Quantizes 32 columns; returns the scale and the sums of both halves.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "codes are within ±127")]
fn quantize_run(x: &[f32; RUN], codes: &mut [i8]) -> (f32, [i32; 2]) {
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
    let amax = max[0];
    let inverse = if amax > 1e-30 { 127.0 / amax } else { 0.0 };
    let mut sums = [0; 2];
    for i in 0..RUN {
        // Adding 1.5 * 2^23 rounds half to even and leaves the integer in the low bits.
        let bits = (x[i] * inverse + 12_582_912.0).to_bits().cast_signed();
        let q = bits.wrapping_sub(0x4B40_0000) as i8;
        codes[i] = q;
        sums[i / 16] += i32::from(q);
    }
    (if amax > 1e-30 { amax / 127.0 } else { 0.0 }, sums)
}
