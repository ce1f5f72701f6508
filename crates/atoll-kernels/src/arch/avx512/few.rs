//! One row of activations to a few: each step is expanded in registers, once for all of them.

use core::arch::x86_64::*;
use core::ops::Range;

use super::read::{self, Step};
use super::{Kind, broadcast, store_numbers};
use crate::activations::RunNumbers;
use crate::unpack::RUN;
use crate::{Activations, PackedMatrix, TILE_ROWS};

/// Rows of activations multiplied at once.
const ROWS: usize = 8;

/// As [`crate::matmul::matmul`].
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn matmul<K: Kind>(
    w: &PackedMatrix,
    tiles: Range<usize>,
    x: &Activations,
    out: &mut [f32],
) {
    let n_groups = x.rows.div_ceil(ROWS);
    for (tile, out) in tiles.zip(out.chunks_exact_mut(x.rows * TILE_ROWS)) {
        let (tile, mut row) = (w.tile(tile), 0);
        for group in 0..n_groups {
            let n = (x.rows - row).div_ceil(n_groups - group);
            match n {
                1 => rows::<K, 1>(tile, x, row, out),
                2 => rows::<K, 2>(tile, x, row, out),
                3 => rows::<K, 3>(tile, x, row, out),
                4 => rows::<K, 4>(tile, x, row, out),
                5 => rows::<K, 5>(tile, x, row, out),
                6 => rows::<K, 6>(tile, x, row, out),
                7 => rows::<K, 7>(tile, x, row, out),
                _ => rows::<K, 8>(tile, x, row, out),
            }
            row += n;
        }
    }
}

/// A tile times `N` rows of activations from `row`; `out` is (rows, 16).
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn rows<K: Kind, const N: usize>(tile: &[u8], x: &Activations, row: usize, out: &mut [f32]) {
    let l = K::LAYOUT;
    let (codes, _) = x.codes.as_chunks::<RUN>();
    let mut acc = [_mm512_setzero_ps(); N];
    let mut i = row;
    for group in tile.chunks_exact(l.group_bytes()) {
        let head = read::head::<K>(group);
        for s in 0..l.steps() {
            let step = read::step::<K>(group, head, s);
            let codes = codes[i..].first_chunk().expect("codes of every row");
            let numbers = x.numbers[i..].first_chunk().expect("numbers of every row");
            add::<K, N>(&step, codes, numbers, &mut acc);
            i += x.rows;
        }
    }
    let (out, _) = out.as_chunks_mut::<TILE_ROWS>();
    for n in 0..N {
        store_numbers(&mut out[row + n], acc[n]);
    }
}

/// Adds the product of a step.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn add<K: Kind, const N: usize>(
    step: &Step,
    codes: &[[i8; RUN]; N],
    numbers: &[RunNumbers; N],
    acc: &mut [__m512; N],
) {
    let l = K::LAYOUT;
    // One row alone sums in two chains, so that it does not wait for the products.
    let n_chains = if N == 1 { 2 } else { l.n_scales };
    for n in 0..N {
        let mut dots = [_mm512_setzero_si512(); 2];
        if l.bias() != 0 {
            for h in 0..l.n_scales {
                let sum = numbers[n].minus_sums[if l.n_scales == 2 { h } else { 2 }];
                dots[h] = _mm512_set1_epi32(sum * l.bias());
            }
        }
        for j in 0..8 {
            let chain = if n_chains == 2 { j / 4 } else { 0 };
            let c = broadcast(&codes[n], j);
            dots[chain] = _mm512_dpbusd_epi32(dots[chain], step.values[j], c);
        }
        if n_chains != l.n_scales {
            dots[0] = _mm512_add_epi32(dots[0], dots[1]);
        }
        let dx = _mm512_set1_ps(numbers[n].scale);
        for h in 0..l.n_scales {
            let scale = _mm512_mul_ps(step.scales[h], dx);
            acc[n] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(dots[h]), acc[n]);
        }
        for h in 0..if l.has_offsets { l.n_scales } else { 0 } {
            let sum = numbers[n].scaled_sums[if l.n_scales == 2 { h } else { 2 }];
            acc[n] = _mm512_fmadd_ps(step.offsets[h], _mm512_set1_ps(sum), acc[n]);
        }
    }
}
