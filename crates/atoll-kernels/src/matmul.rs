//! The product of weight tiles and activation rows, in plain Rust.

use core::ops::Range;

use crate::layout::{Layout, Step};
use crate::unpack::{RUN, floats, is_float};
use crate::{Activations, PackedMatrix, TILE_ROWS};

/// Tiles `tiles` times all rows of `x`; `out` is (tiles, rows of x, 16). `_next` is what will be
/// read then.
#[inline(always)]
pub(crate) fn matmul(
    w: &PackedMatrix,
    tiles: Range<usize>,
    _next: Option<&[u8]>,
    x: &Activations,
    out: &mut [f32],
) {
    out.fill(0.0);
    if x.rows == 0 {
        return;
    }
    for (tile, out) in tiles.zip(out.chunks_exact_mut(x.rows * TILE_ROWS)) {
        if is_float(w.block_type()) {
            float_tile(w, w.tile(tile), x, out);
        } else {
            quantized_tile(w, w.tile(tile), x, out);
        }
    }
}

#[inline(always)]
pub(crate) fn float_tile(w: &PackedMatrix, tile: &[u8], x: &Activations, out: &mut [f32]) {
    let mut column = [0.0; TILE_ROWS];
    for (col, bytes) in tile.chunks_exact(TILE_ROWS * w.block_type().block_bytes()).enumerate() {
        floats(w.block_type(), bytes, &mut column);
        for (row, acc) in out.chunks_exact_mut(TILE_ROWS).enumerate() {
            let x = x.floats[(col / TILE_ROWS * x.rows + row) * TILE_ROWS + col % TILE_ROWS];
            for r in 0..TILE_ROWS {
                acc[r] = column[r].mul_add(x, acc[r]);
            }
        }
    }
}

#[inline(always)]
fn quantized_tile(w: &PackedMatrix, tile: &[u8], x: &Activations, out: &mut [f32]) {
    let layout = Layout::of(w.block_type());
    let mut step = Step::ZERO;
    let groups = tile.chunks(layout.group_bytes());
    let steps = groups.flat_map(|group| (0..layout.steps_in(group.len())).map(move |s| (group, s)));
    for (s, (group, step_idx)) in steps.enumerate() {
        step.read(layout, group, step_idx);
        for (row, acc) in out.chunks_exact_mut(TILE_ROWS).enumerate() {
            let i = s * x.rows + row;
            let codes = &x.codes[i * RUN..][..RUN];
            let numbers = &x.numbers[i];
            let mut dots = [dot(&step, codes, 0), dot(&step, codes, 1)];
            // Which of a run's sums belong to the scales.
            let mut sums = [0, 1];
            if layout.n_scales == 1 {
                for r in 0..TILE_ROWS {
                    dots[0][r] += dots[1][r];
                }
                sums = [2, 2];
            }
            for h in 0..layout.n_scales {
                let bias = numbers.bias(layout, h);
                for r in 0..TILE_ROWS {
                    let dot = (dots[h][r] + bias) as f32;
                    acc[r] = (step.scales[h][r] * numbers.scale).mul_add(dot, acc[r]);
                }
            }
            for h in 0..if layout.has_offsets { layout.n_scales } else { 0 } {
                let sum = numbers.scaled_sums[sums[h]];
                for r in 0..TILE_ROWS {
                    acc[r] = step.offsets[h][r].mul_add(sum, acc[r]);
                }
            }
        }
    }
}

/// Half `half` of a step: 16 columns of every row.
#[inline(always)]
fn dot(step: &Step, codes: &[i8], half: usize) -> [i32; TILE_ROWS] {
    let mut sums = [0; TILE_ROWS];
    for chunk in 4 * half..4 * half + 4 {
        for (r, sum) in sums.iter_mut().enumerate() {
            for i in 0..4 {
                let value = i32::from(step.values[chunk * 64 + 4 * r + i]);
                *sum += value * i32::from(codes[4 * chunk + i]);
            }
        }
    }
    sums
}
