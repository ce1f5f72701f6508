//! Many rows of activations: each step of a tile is expanded in registers once and multiplied with
//! all rows, whose sums stay in the L1 cache.

use core::arch::x86_64::*;
use core::ops::Range;

use super::few::add;
use super::read::{self, Step};
use super::{Kind, load_numbers, store_numbers};
use crate::unpack::RUN;
use crate::{Activations, PackedMatrix, TILE_ROWS};

/// Rows of activations that are multiplied before the next tile, so that they stay in the L2 cache.
const ROWS_MAX: usize = 128;
/// Rows of activations multiplied at once.
const ROWS: usize = 4;

/// As [`crate::matmul::matmul`].
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn matmul<K: Kind>(
    w: &PackedMatrix,
    tiles: Range<usize>,
    x: &Activations,
    out: &mut [f32],
) {
    let l = K::LAYOUT;
    out.fill(0.0);
    for first in (0..x.rows).step_by(ROWS_MAX) {
        let rows = first..(first + ROWS_MAX).min(x.rows);
        for (tile, out) in tiles.clone().zip(out.chunks_exact_mut(x.rows * TILE_ROWS)) {
            let mut s = 0;
            for group in w.tile(tile).chunks_exact(l.group_bytes()) {
                let head = read::head::<K>(group);
                for step in 0..l.steps() {
                    all_rows::<K>(&read::step::<K>(group, head, step), s, rows.clone(), x, out);
                    s += 1;
                }
            }
        }
    }
}

/// Adds the product of step `s` and `rows`; `out` is (rows of x, 16).
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn all_rows<K: Kind>(step: &Step, s: usize, rows: Range<usize>, x: &Activations, out: &mut [f32]) {
    let mut row = rows.start;
    while row + ROWS <= rows.end {
        some_rows::<K, ROWS>(step, s, row, x, out);
        row += ROWS;
    }
    while row < rows.end {
        some_rows::<K, 1>(step, s, row, x, out);
        row += 1;
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn some_rows<K: Kind, const N: usize>(
    step: &Step,
    s: usize,
    row: usize,
    x: &Activations,
    out: &mut [f32],
) {
    let i = s * x.rows + row;
    let (codes, _) = x.codes.as_chunks::<RUN>();
    let codes = codes[i..].first_chunk().expect("codes of every row");
    let numbers = x.numbers[i..].first_chunk().expect("numbers of every row");
    let (out, _) = out.as_chunks_mut::<TILE_ROWS>();
    let out: &mut [_; N] = out[row..].first_chunk_mut().expect("sums of every row");
    let mut acc = [_mm512_setzero_ps(); N];
    for n in 0..N {
        acc[n] = load_numbers(&out[n]);
    }
    add::<K, N>(step, codes, numbers, &mut acc);
    for n in 0..N {
        store_numbers(&mut out[n], acc[n]);
    }
}
