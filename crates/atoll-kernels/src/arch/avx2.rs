//! Weight tiles times activation rows with AVX2, as two halves of 8 weight rows. Lanes are weight
//! rows, activations are broadcast.
//!
//! `maddubs` adds two products in 16 bits. Codes of up to 6 bits leave room for 8, 4 or 2 of its
//! results; codes of 8 bits are multiplied by magnitude with the sign moved to the activation, and
//! 2 * 128 * 127 still fits. So every dot product is exact.

mod read;

use core::arch::x86_64::*;
use core::ops::Range;

use self::read::{Step, head, step};
use super::drive::{self, Kind, drive, drive_floats};
use super::prefetch;
use crate::activations::RunNumbers;
use crate::unpack::{RUN, is_float};
use crate::{Activations, PackedMatrix, TILE_ROWS};

/// 16 sums of a row of activations.
type Sums = [__m256; 2];

/// As [`crate::matmul::matmul`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn matmul(
    w: &PackedMatrix,
    tiles: Range<usize>,
    next: Option<&[u8]>,
    x: &Activations,
    out: &mut [f32],
) {
    if x.rows == 0 {
    } else if is_float(w.block_type()) {
        floats(w, tiles, next, x, out);
    } else {
        quantized(w, tiles, next, x, out);
    }
}

drive!(
    drive::for_all_kinds,
    "avx2,fma,f16c",
    few: 4 in groups of 1 2 3 4, bundles written out: false,
    many: 2 1
);
drive_floats!("avx2,fma,f16c", rows: 2 1);

#[inline]
#[target_feature(enable = "avx2")]
fn zero() -> Sums {
    [_mm256_setzero_ps(); 2]
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(from: &[f32; TILE_ROWS]) -> Sums {
    let (halves, _) = from.as_chunks::<8>();
    // SAFETY: `halves[0]` is 8 floats long; the load needs no alignment.
    let low = unsafe { _mm256_loadu_ps(halves[0].as_ptr()) };
    // SAFETY: as above.
    let high = unsafe { _mm256_loadu_ps(halves[1].as_ptr()) };
    [low, high]
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(to: &mut [f32; TILE_ROWS], sums: Sums) {
    let (halves, _) = to.as_chunks_mut::<8>();
    for (half, sums) in halves.iter_mut().zip(sums) {
        // SAFETY: `half` is 8 floats long; the store needs no alignment.
        unsafe { _mm256_storeu_ps(half.as_mut_ptr(), sums) };
    }
}

/// Widens 16 numbers.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn column<const TYPE: u8>(bytes: &[u8]) -> Sums {
    let mut w = zero();
    for half in 0..2 {
        w[half] = match TYPE {
            drive::F16 => read::halves(bytes, 16 * half),
            drive::BF16 => {
                let bits = _mm256_cvtepu16_epi32(read::sixteen(bytes, 16 * half));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
            }
            _ => _mm256_castsi256_ps(read::load(bytes, 32 * half)),
        };
    }
    w
}

/// `w * x + sums`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply_add(w: Sums, x: f32, sums: Sums) -> Sums {
    let x = _mm256_set1_ps(x);
    [_mm256_fmadd_ps(w[0], x, sums[0]), _mm256_fmadd_ps(w[1], x, sums[1])]
}

/// The codes of columns `4 * chunk` to `4 * chunk + 3`, in every lane.
#[inline]
#[target_feature(enable = "avx2")]
fn broadcast(codes: &[i8; RUN], chunk: usize) -> __m256i {
    let c = [0, 1, 2, 3].map(|i: usize| codes[4 * chunk + i].cast_unsigned());
    _mm256_set1_epi32(i32::from_le_bytes(c))
}

/// The integer dot products of a step and a row of activations: (scales, halves).
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dots<K: Kind>(step: &Step, codes: &[i8; RUN]) -> [[__m256i; 2]; 2] {
    let l = K::LAYOUT;
    let (zero, one) = (_mm256_setzero_si256(), _mm256_set1_epi16(1));
    let mut dots = [[zero; 2]; 2];
    // Results of `maddubs` that can be added in 16 bits.
    let n_sums = match l.bits {
        _ if l.is_table() => 1,
        2..=4 => 8,
        5 => 4,
        6 => 2,
        _ => 1,
    };
    let mut sums = [zero; 2];
    for j in 0..8 {
        let c = broadcast(codes, j);
        for half in 0..2 {
            let v = step.values[half][j];
            let two = if n_sums == 1 {
                _mm256_maddubs_epi16(step.sizes[half][j], _mm256_sign_epi8(c, v))
            } else {
                _mm256_maddubs_epi16(v, c)
            };
            sums[half] = _mm256_add_epi16(sums[half], two);
            if (j + 1) % n_sums == 0 || (l.n_scales == 2 && j == 3) {
                let h = if l.n_scales == 2 { j / 4 } else { 0 };
                let four = _mm256_madd_epi16(sums[half], one);
                dots[h][half] = _mm256_add_epi32(dots[h][half], four);
                sums[half] = zero;
            }
        }
    }
    dots
}

/// Adds the product of a step and `N` rows of activations.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add<K: Kind, const N: usize>(
    step: &Step,
    codes: &[[i8; RUN]; N],
    numbers: &[RunNumbers; N],
    sums: &mut [Sums; N],
) {
    let l = K::LAYOUT;
    for n in 0..N {
        let dots = dots::<K>(step, &codes[n]);
        let dx = _mm256_set1_ps(numbers[n].scale);
        for h in 0..l.n_scales {
            for half in 0..2 {
                let mut dot = dots[h][half];
                if l.bias() != 0 && !read::is_signed(l) {
                    let bias = _mm256_set1_epi32(numbers[n].bias(l, h));
                    dot = _mm256_add_epi32(dot, bias);
                }
                let scale = _mm256_mul_ps(step.scales[h][half], dx);
                sums[n][half] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(dot), sums[n][half]);
            }
        }
        for h in 0..if l.has_offsets { l.n_scales } else { 0 } {
            let which = if l.n_scales == 2 { h } else { 2 };
            let sum = _mm256_set1_ps(numbers[n].scaled_sums[which]);
            for half in 0..2 {
                sums[n][half] = _mm256_fmadd_ps(step.offsets[h][half], sum, sums[n][half]);
            }
        }
    }
}
