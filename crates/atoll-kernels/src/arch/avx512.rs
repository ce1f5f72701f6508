//! Weight tiles times activation rows with AVX-512 VNNI. Lanes are weight rows, activations are
//! broadcast.

mod read;
pub(super) mod vbmi;

use core::arch::x86_64::*;
use core::ops::Range;

use self::read::{Head, Step, head, step};
use super::drive::{self, Kind, drive, drive_floats};
use super::prefetch;
use crate::activations::RunNumbers;
use crate::layout::Scales;
use crate::unpack::{RUN, is_float};
use crate::{Activations, PackedMatrix, TILE_ROWS};

/// 16 sums of a row of activations.
type Sums = __m512;

/// As [`crate::matmul::matmul`].
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
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
    "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni",
    few: 24 in groups of 1 2 3 4 5 6 7 8, bundles written out: true,
    many: 12 8 4 2 1
);
drive_floats!("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni", rows: 4 2 1);

#[inline]
#[target_feature(enable = "avx512f")]
fn zero() -> Sums {
    _mm512_setzero_ps()
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(from: &[f32; TILE_ROWS]) -> Sums {
    // SAFETY: `from` is 16 floats long; the load needs no alignment.
    unsafe { _mm512_loadu_ps(from.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(to: &mut [f32; TILE_ROWS], sums: Sums) {
    // SAFETY: `to` is 16 floats long; the store needs no alignment.
    unsafe { _mm512_storeu_ps(to.as_mut_ptr(), sums) };
}

/// Widens 16 numbers.
#[inline]
#[target_feature(enable = "avx512f")]
fn column<const TYPE: u8>(bytes: &[u8]) -> Sums {
    match TYPE {
        drive::F16 => read::halves(bytes, 0),
        drive::BF16 => {
            let bits = _mm512_cvtepu16_epi32(read::thirty_two(bytes, 0));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        }
        _ => _mm512_castsi512_ps(read::load(bytes, 0)),
    }
}

/// `w * x + sums`.
#[inline]
#[target_feature(enable = "avx512f")]
fn multiply_add(w: Sums, x: f32, sums: Sums) -> Sums {
    _mm512_fmadd_ps(w, _mm512_set1_ps(x), sums)
}

/// The codes of columns `4 * chunk` to `4 * chunk + 3`, in every lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn broadcast(codes: &[i8; RUN], chunk: usize) -> __m512i {
    let four: &[i8; 4] = codes[4 * chunk..].first_chunk().expect("a chunk");
    // SAFETY: `four` is 4 bytes long; the load needs no alignment.
    _mm512_broadcastd_epi32(unsafe { _mm_loadu_si32(four.as_ptr().cast()) })
}

/// Adds the products of chunk `J` and `N` rows. (Chunks are told apart by the compiler, since sums
/// stay in registers only where no loop counts them.)
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn chunk<const J: usize, const N: usize>(
    step: &Step,
    codes: &[[i8; RUN]; N],
    dots: &mut [__m512i; N],
) {
    for n in 0..N {
        dots[n] = _mm512_dpbusd_epi32(dots[n], step.values[J], broadcast(&codes[n], J));
    }
}

/// Adds the product of a step and `N` rows of activations.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn add<K: Kind, const N: usize>(
    step: &Step,
    codes: &[[i8; RUN]; N],
    numbers: &[RunNumbers; N],
    sums: &mut [Sums; N],
) {
    let l = K::LAYOUT;
    for h in 0..l.n_scales {
        let mut dots = [_mm512_setzero_si512(); N];
        if l.bias() != 0 {
            for n in 0..N {
                dots[n] = _mm512_set1_epi32(numbers[n].bias(l, h));
            }
        }
        // Rows take turns: a product waits for the one before it in its chain, and whatever waits
        // takes up the room in which the processor looks for what need not.
        if h == 0 {
            chunk::<0, N>(step, codes, &mut dots);
            chunk::<1, N>(step, codes, &mut dots);
            chunk::<2, N>(step, codes, &mut dots);
            chunk::<3, N>(step, codes, &mut dots);
        }
        if h == 1 || l.n_scales == 1 {
            // One row alone sums in two chains.
            let mut rest = if N == 1 { [_mm512_setzero_si512(); N] } else { dots };
            chunk::<4, N>(step, codes, &mut rest);
            chunk::<5, N>(step, codes, &mut rest);
            chunk::<6, N>(step, codes, &mut rest);
            chunk::<7, N>(step, codes, &mut rest);
            if N == 1 {
                rest[0] = _mm512_add_epi32(dots[0], rest[0]);
            }
            dots = rest;
        }
        for n in 0..N {
            let x_scale = match l.scales {
                Scales::Small => numbers[n].unit_scale,
                _ => numbers[n].scale,
            };
            let scale = _mm512_mul_ps(step.scales[h], _mm512_set1_ps(x_scale));
            sums[n] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(dots[n]), sums[n]);
        }
    }
    for h in 0..if l.has_offsets { l.n_scales } else { 0 } {
        for n in 0..N {
            let sum = numbers[n].scaled_sums[if l.n_scales == 2 { h } else { 2 }];
            sums[n] = _mm512_fmadd_ps(step.offsets[h], _mm512_set1_ps(sum), sums[n]);
        }
    }
}
