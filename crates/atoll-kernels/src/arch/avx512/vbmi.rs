//! Codes into tables, with AVX-512 VBMI: `vpermb` looks up 64 bytes in a table of 64 and reads only
//! the lowest 6 bits of each, so that what stands above a code need not be taken away.

use super::read::{fives, fours, numbers, table, threes_in_pairs};
use super::*;
use crate::layout::Layout;

/// As [`crate::matmul::matmul`].
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
pub(in crate::arch) fn matmul(
    w: &PackedMatrix,
    tiles: Range<usize>,
    next: Option<&[u8]>,
    x: &Activations,
    out: &mut [f32],
) {
    if x.rows > 0 && Layout::of(w.block_type()).is_table() {
        quantized(w, tiles, next, x, out);
    } else {
        super::matmul(w, tiles, next, x, out);
    }
}

drive!(
    drive::for_table_kinds,
    "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi",
    few: 24 in groups of 1 2 3 4 5 6 7 8, bundles written out: true,
    many: 12 8 4 2 1
);

/// As [`super::step`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn step<K: Kind>(group: &[u8], head: Head, s: usize) -> Step {
    let values = values::<K>(K::LAYOUT.codes(group, s));
    let (scales, offsets) = numbers::<K>(group, head, s);
    Step { values, scales, offsets }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn values<K: Kind>(bytes: &[u8]) -> [__m512i; 8] {
    let lower = read::load(const { &table(K::LAYOUT.table, 0) }, 0);
    let look_up = |v| _mm512_permutexvar_epi8(v, lower);
    match K::LAYOUT.bits {
        3 => {
            let upper = read::load(const { &table(K::LAYOUT.table, 3) }, 0);
            let look_up_upper = |v| _mm512_permutexvar_epi8(v, upper);
            let [a, b, c, d] = threes_in_pairs(bytes);
            [
                look_up(a),
                look_up_upper(a),
                look_up(b),
                look_up_upper(b),
                look_up(c),
                look_up_upper(c),
                look_up(d),
                look_up_upper(d),
            ]
        }
        5 => fives(bytes).map(look_up),
        _ => fours(bytes).map(look_up),
    }
}
