//! Activation rows as the kernels read them.

use crate::lanes::Lanes;
use crate::layout::Layout;
use crate::own::SCALE_UNIT;
use crate::unpack::RUN;
use crate::vector::round_to_half;
use crate::{Kernels, PackedMatrix, TILE_ROWS};

/// What the kernels take beside the codes of 32 columns.
#[derive(Debug, Default, Clone, Copy)]
#[repr(C, align(32))]
pub struct RunNumbers {
    /// What a code counts.
    pub(crate) scale: f32,
    /// Minus the sums of the first 16 and the last 16 codes, and -128 times that of all.
    minus_sums: [i32; 3],
    /// `scale` times the sum of the first 16, the last 16 and all codes.
    pub(crate) scaled_sums: [f32; 3],
    /// `scale` times [`SCALE_UNIT`], for our own types whose halves are taken as they are. (All of
    /// it is exact: a scale has the bits of a half.)
    pub(crate) unit_scale: f32,
}

impl RunNumbers {
    /// `low` and `high` are the sums of the first and of the last 16 codes.
    #[inline(always)]
    pub(crate) fn new(scale: f32, low: i32, high: i32) -> Self {
        let sums = [low, high, low + high];
        Self {
            scale,
            minus_sums: [-low, -high, -128 * (low + high)],
            scaled_sums: sums.map(|sum| scale * sum as f32),
            unit_scale: scale * SCALE_UNIT,
        }
    }

    /// What is added to the products with scale `h` because values were made unsigned. (The
    /// commonest bias, 128, costs nothing: where prompts are read it would be felt.)
    #[inline(always)]
    pub(crate) const fn bias(&self, l: Layout, h: usize) -> i32 {
        match (l.n_scales, l.offset_shift) {
            (_, 0) => 0,
            (2, shift) => self.minus_sums[h] << shift,
            (_, shift) => self.minus_sums[2] >> (7 - shift),
        }
    }
}

/// Rows of activations, quantized to int8 per 32 columns, and as they are. Reuses its memory.
#[derive(Debug, Default, Clone)]
pub struct Activations {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// Whether codes are wanted.
    is_quantized: bool,
    /// (steps of 32 columns, rows, 32).
    pub(crate) codes: Vec<i8>,
    /// (steps, rows).
    pub(crate) numbers: Vec<RunNumbers>,
    /// (tiles of 16 columns, rows, 16), filled up with zeros; empty unless wanted.
    pub(crate) floats: Vec<f32>,
}

/// Some steps of 32 columns of an [`Activations`], to be written.
#[derive(Debug)]
pub struct ActivationsPart<'a> {
    rows: usize,
    is_quantized: bool,
    codes: &'a mut [i8],
    numbers: &'a mut [RunNumbers],
    floats: &'a mut [f32],
}

impl Activations {
    /// No rows.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes room for (rows, cols) in the forms that products with `weights` read; what it holds
    /// is undefined until every part is written.
    pub fn reset(&mut self, rows: usize, cols: usize, weights: &[&PackedMatrix]) {
        let (steps, tiles) = (cols.div_ceil(RUN), cols.div_ceil(TILE_ROWS));
        (self.rows, self.cols) = (rows, cols);
        self.is_quantized = weights.iter().any(|weight| !weight.is_float());
        self.codes.resize(steps * rows * RUN, 0);
        self.numbers.resize(steps * rows, RunNumbers::default());
        let has_floats = weights.iter().any(|weight| weight.is_float());
        self.floats.resize(if has_floats { tiles * rows * TILE_ROWS } else { 0 }, 0.0);
    }

    /// Takes `x`, (rows, cols), row-major, in every form.
    ///
    /// # Panics
    /// If `x` is not `rows * cols` long.
    pub fn quantize(&mut self, kernels: &Kernels, x: &[f32], rows: usize, cols: usize) {
        assert_eq!(x.len(), rows * cols, "x is (rows, cols)");
        self.reset(rows, cols, &[]);
        self.is_quantized = true;
        let tiles = cols.div_ceil(TILE_ROWS);
        self.floats.resize(tiles * rows * TILE_ROWS, 0.0);
        self.floats.fill(0.0);
        for (row, x) in x.chunks_exact(cols.max(1)).enumerate() {
            for (tile, x) in x.chunks(TILE_ROWS).enumerate() {
                let at = (tile * rows + row) * TILE_ROWS;
                self.floats[at..at + x.len()].copy_from_slice(x);
            }
        }
        let tiles = core::mem::take(&mut self.floats);
        kernels.quantize(&tiles, &mut self.whole());
        self.floats = tiles;
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

    /// All steps.
    pub fn whole(&mut self) -> ActivationsPart<'_> {
        let Self { rows, is_quantized, .. } = *self;
        let (codes, numbers, floats) = self.slices();
        ActivationsPart { rows, is_quantized, codes, numbers, floats }
    }

    /// The memory, in order of steps: of a step `32 * rows` codes, `rows` numbers and, if there
    /// are any, `32 * rows` floats; the last step may have `16 * rows`.
    pub fn slices(&mut self) -> (&mut [i8], &mut [RunNumbers], &mut [f32]) {
        (&mut self.codes, &mut self.numbers, &mut self.floats)
    }

    /// Whether products read the codes that these activations hold.
    #[must_use]
    pub const fn is_quantized(&self) -> bool {
        self.is_quantized
    }
}

impl<'a> ActivationsPart<'a> {
    /// Some steps of what [`Activations::slices`] gave.
    ///
    /// # Panics
    /// If the slices are not of the same whole steps.
    #[must_use]
    pub fn new(
        rows: usize,
        is_quantized: bool,
        codes: &'a mut [i8],
        numbers: &'a mut [RunNumbers],
        floats: &'a mut [f32],
    ) -> Self {
        assert_eq!(codes.len(), numbers.len() * RUN, "codes of every run");
        assert_eq!(numbers.len() % rows.max(1), 0, "whole steps");
        assert!(floats.len() <= codes.len() && floats.len() % TILE_ROWS == 0, "whole tiles");
        Self { rows, is_quantized, codes, numbers, floats }
    }

    pub(crate) const fn rows(&self) -> usize {
        self.rows
    }

    /// Panics unless `x` is (tiles, rows, 16) for these steps.
    pub(crate) fn check_tiles(&self, x: &[f32]) {
        let tiles = x.len() / (self.rows.max(1) * TILE_ROWS);
        assert_eq!(x.len(), tiles * self.rows * TILE_ROWS, "x is (tiles, rows, 16)");
        assert_eq!(tiles.div_ceil(2), self.steps(), "tiles of {} steps", self.steps());
    }

    /// Number of steps.
    pub(crate) fn steps(&self) -> usize {
        self.numbers.len() / self.rows.max(1)
    }

    /// Writes every run.
    #[inline(always)]
    fn write<L: Lanes>(&mut self, runs: &impl Runs) {
        for step in 0..self.steps() {
            for row in 0..self.rows {
                let (low, high) = runs.run::<L>(step, row);
                let i = step * self.rows + row;
                if self.is_quantized {
                    let codes = self.codes[i * RUN..].first_chunk_mut();
                    self.numbers[i] = low.quantize(high, codes.expect("codes of every run"));
                }
                for (half, x) in [low, high].into_iter().enumerate() {
                    let at = ((2 * step + half) * self.rows + row) * TILE_ROWS;
                    if let Some(to) = self.floats.get_mut(at..at + TILE_ROWS) {
                        x.store(to.first_chunk_mut().expect("a tile's row"));
                    }
                }
            }
        }
    }
}

/// Gives the two halves of a step's 32 columns of a row. (A trait, since closures are not inlined
/// into what is compiled for an instruction set.)
trait Runs {
    fn run<L: Lanes>(&self, step: usize, row: usize) -> (L, L);
}

/// Rows in tiles, (tiles of 16 columns, rows, 16); a last odd tile has a twin of zeros.
struct Tiles<'a> {
    x: &'a [f32],
    rows: usize,
}

impl Tiles<'_> {
    #[inline(always)]
    fn half<L: Lanes>(&self, tile: usize, row: usize) -> L {
        match self.x.get((tile * self.rows + row) * TILE_ROWS..) {
            Some(x) if x.len() >= TILE_ROWS => L::load(x.first_chunk().expect("as long")),
            Some(_) | None => L::splat(0.0),
        }
    }
}

impl Runs for Tiles<'_> {
    #[inline(always)]
    fn run<L: Lanes>(&self, step: usize, row: usize) -> (L, L) {
        (self.half(2 * step, row), self.half(2 * step + 1, row))
    }
}

/// Takes `x`, (tiles, rows, 16).
#[inline(always)]
pub(crate) fn quantize<L: Lanes>(x: &[f32], to: &mut ActivationsPart<'_>) {
    let rows = to.rows;
    to.write::<L>(&Tiles { x, rows });
}

/// Takes `(x * scale) * weight` for `x`, (tiles, rows, 16), `scales`, (rows), and `weight`,
/// (tiles, 16).
#[inline(always)]
pub(crate) fn quantize_normed<L: Lanes>(
    x: &[f32],
    scales: &[f32],
    weight: &[f32],
    to: &mut ActivationsPart<'_>,
) {
    let (x, weight) = (Tiles { x, rows: to.rows }, Tiles { x: weight, rows: 1 });
    to.write::<L>(&Normed { x, scales, weight });
}

struct Normed<'a> {
    x: Tiles<'a>,
    scales: &'a [f32],
    weight: Tiles<'a>,
}

impl Runs for Normed<'_> {
    #[inline(always)]
    fn run<L: Lanes>(&self, step: usize, row: usize) -> (L, L) {
        let scale = L::splat(self.scales[row]);
        let (x, weight) = (self.x.run::<L>(step, row), self.weight.run::<L>(step, 0));
        (x.0.mul(scale).mul(weight.0), x.1.mul(scale).mul(weight.1))
    }
}

/// Takes `gate * sigmoid(gate) * up`, both (tiles, rows, 16).
#[inline(always)]
pub(crate) fn quantize_gated<L: Lanes>(gate: &[f32], up: &[f32], to: &mut ActivationsPart<'_>) {
    let (gate, up) = (Tiles { x: gate, rows: to.rows }, Tiles { x: up, rows: to.rows });
    to.write::<L>(&Gated { gate, up });
}

struct Gated<'a> {
    gate: Tiles<'a>,
    up: Tiles<'a>,
}

impl Runs for Gated<'_> {
    #[inline(always)]
    fn run<L: Lanes>(&self, step: usize, row: usize) -> (L, L) {
        let (gate, up) = (self.gate.run::<L>(step, row), self.up.run::<L>(step, row));
        (silu(gate.0).mul(up.0), silu(gate.1).mul(up.1))
    }
}

/// `x * sigmoid(x)`.
#[inline(always)]
fn silu<L: Lanes>(x: L) -> L {
    x.div(L::splat(1.0).add(x.mul(L::splat(-1.0)).exp()))
}

/// `1 / sqrt(mean(x^2) + eps)` of rows of `cols` columns, `x` (tiles, rows, 16); `out` is (rows).
#[inline(always)]
pub(crate) fn norm_scales<L: Lanes>(x: &[f32], cols: usize, eps: f32, out: &mut [f32]) {
    let rows = out.len();
    let mut row = 0;
    while row < rows {
        // Neighbours lie side by side in every tile.
        if rows - row >= 8 {
            norm_scales_of::<L, 8>(x, cols, eps, row, out);
            row += 8;
        } else {
            norm_scales_of::<L, 1>(x, cols, eps, row, out);
            row += 1;
        }
    }
}

#[inline(always)]
fn norm_scales_of<L: Lanes, const R: usize>(
    x: &[f32],
    cols: usize,
    eps: f32,
    row: usize,
    out: &mut [f32],
) {
    let mut sums = [L::splat(0.0); R];
    for tile in 0..cols.div_ceil(TILE_ROWS) {
        let at = (tile * out.len() + row) * TILE_ROWS;
        let (x, _) = x[at..at + R * TILE_ROWS].as_chunks::<16>();
        for (x, sums) in x.iter().zip(&mut sums) {
            let x = L::load(x);
            *sums = x.fma(x, *sums);
        }
    }
    for (sums, out) in sums.into_iter().zip(&mut out[row..]) {
        *out = 1.0 / (sums.sum() / cols as f32 + eps).sqrt();
    }
}

/// What a code counts, and its inverse.
#[inline(always)]
pub(crate) fn scales_of(amax: f32) -> (f32, f32) {
    if amax > 1e-30 { (round_to_half(amax / 127.0), 127.0 / amax) } else { (0.0, 0.0) }
}

/// Quantizes 32 columns in plain Rust.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "codes are within ±127")]
pub(crate) fn quantize_run(x: [[f32; 16]; 2], codes: &mut [i8; RUN]) -> RunNumbers {
    let x = x.as_flattened();
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
        let q = (x[i] * inverse + crate::vector::MAGIC).to_bits() as i8;
        codes[i] = q;
        sums[i / 16] += i32::from(q);
    }
    RunNumbers::new(scale, sums[0], sums[1])
}
