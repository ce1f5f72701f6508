//! Sixteen numbers side by side in the registers of x86-64.
//!
//! The methods must be inlined into functions compiled for the instruction set: only the tables of
//! [`super`] name these types, and no closure stands between (closures are compiled without it).

use core::arch::x86_64::*;

use crate::activations::{RunNumbers, scales_of};
use crate::lanes::Lanes;
use crate::unpack::RUN;
use crate::vector::MAGIC;

/// Two registers of AVX2, with FMA and F16C.
#[derive(Clone, Copy)]
pub(super) struct Avx2(__m256, __m256);

/// A register of AVX-512.
#[derive(Clone, Copy)]
pub(super) struct Avx512(__m512);

/// Runs intrinsics whose instruction set the machine has.
macro_rules! here {
    ($intrinsics:expr) => {{
        // SAFETY: these types are named only by tables that `Kernels::new` hands out after it has
        // asserted the instruction set; loads and stores are of arrays of the full length and
        // need no alignment.
        unsafe { $intrinsics }
    }};
}

impl Lanes for Avx2 {
    const SCORE_COLUMNS: usize = 3;
    const VALUE_COLUMNS: usize = 3;
    const VALUE_VECTORS: usize = 2;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        here!(Self(_mm256_set1_ps(x), _mm256_set1_ps(x)))
    }

    #[inline(always)]
    fn load(x: &[f32; 16]) -> Self {
        here!(Self(_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x[8..].as_ptr())))
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; 16]) {
        here!({
            _mm256_storeu_ps(to.as_mut_ptr(), self.0);
            _mm256_storeu_ps(to[8..].as_mut_ptr(), self.1);
        });
    }

    #[inline(always)]
    fn load_f16(x: &[u16; 16]) -> Self {
        here!({
            let (low, high) = (x.as_ptr().cast(), x[8..].as_ptr().cast());
            Self(_mm256_cvtph_ps(_mm_loadu_si128(low)), _mm256_cvtph_ps(_mm_loadu_si128(high)))
        })
    }

    #[inline(always)]
    fn store_f16(self, to: &mut [u16; 16]) {
        here!({
            _mm_storeu_si128(to.as_mut_ptr().cast(), _mm256_cvtps_ph::<0>(self.0));
            _mm_storeu_si128(to[8..].as_mut_ptr().cast(), _mm256_cvtps_ph::<0>(self.1));
        });
    }

    #[inline(always)]
    fn load_i8(x: &[i8; 16]) -> Self {
        here!({
            let x = _mm256_cvtepi8_epi16(_mm_loadu_si128(x.as_ptr().cast()));
            let (low, high) = (_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
            Self(
                _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(low)),
                _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(high)),
            )
        })
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        here!(Self(_mm256_add_ps(self.0, other.0), _mm256_add_ps(self.1, other.1)))
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        here!(Self(_mm256_mul_ps(self.0, other.0), _mm256_mul_ps(self.1, other.1)))
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        here!(Self(_mm256_div_ps(self.0, other.0), _mm256_div_ps(self.1, other.1)))
    }

    #[inline(always)]
    fn fma(self, factor: Self, term: Self) -> Self {
        here!(Self(
            _mm256_fmadd_ps(self.0, factor.0, term.0),
            _mm256_fmadd_ps(self.1, factor.1, term.1),
        ))
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        here!(Self(_mm256_max_ps(self.0, other.0), _mm256_max_ps(self.1, other.1)))
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        here!(Self(_mm256_min_ps(self.0, other.0), _mm256_min_ps(self.1, other.1)))
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        here!({
            let one = _mm256_set1_epi32(127);
            let low = _mm256_add_epi32(_mm256_castps_si256(self.0), one);
            let high = _mm256_add_epi32(_mm256_castps_si256(self.1), one);
            Self(
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(high)),
            )
        })
    }

    #[inline(always)]
    fn quantize(self, last: Self, codes: &mut [i8; RUN]) -> RunNumbers {
        here!(quantize_avx2([self.0, self.1, last.0, last.1], codes))
    }
}

impl Lanes for Avx512 {
    const SCORE_COLUMNS: usize = 8;
    const VALUE_COLUMNS: usize = 6;
    const VALUE_VECTORS: usize = 4;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        here!(Self(_mm512_set1_ps(x)))
    }

    #[inline(always)]
    fn load(x: &[f32; 16]) -> Self {
        here!(Self(_mm512_loadu_ps(x.as_ptr())))
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; 16]) {
        here!(_mm512_storeu_ps(to.as_mut_ptr(), self.0));
    }

    #[inline(always)]
    fn load_f16(x: &[u16; 16]) -> Self {
        here!(Self(_mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast()))))
    }

    #[inline(always)]
    fn store_f16(self, to: &mut [u16; 16]) {
        here!(_mm256_storeu_si256(to.as_mut_ptr().cast(), _mm512_cvtps_ph::<0>(self.0)));
    }

    #[inline(always)]
    fn load_i8(x: &[i8; 16]) -> Self {
        here!({
            let x = _mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast()));
            Self(_mm512_cvtepi32_ps(x))
        })
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        here!(Self(_mm512_add_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        here!(Self(_mm512_mul_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        here!(Self(_mm512_div_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn fma(self, factor: Self, term: Self) -> Self {
        here!(Self(_mm512_fmadd_ps(self.0, factor.0, term.0)))
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        here!(Self(_mm512_max_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        here!(Self(_mm512_min_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        here!({
            let n = _mm512_add_epi32(_mm512_castps_si512(self.0), _mm512_set1_epi32(127));
            Self(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(n)))
        })
    }

    #[inline(always)]
    fn quantize(self, last: Self, codes: &mut [i8; RUN]) -> RunNumbers {
        here!(quantize_avx512([self.0, last.0], codes))
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn quantize_avx2(x: [__m256; 4], codes: &mut [i8; RUN]) -> RunNumbers {
    let sign = _mm256_set1_ps(-0.0);
    let size = x.map(|v| _mm256_andnot_ps(sign, v));
    let max = _mm256_max_ps(_mm256_max_ps(size[0], size[2]), _mm256_max_ps(size[1], size[3]));
    let (scale, inverse) = scales_of(largest(max));
    let ints = x.map(|v| {
        let v = _mm256_mul_ps(v, _mm256_set1_ps(inverse));
        let v = _mm256_castps_si256(_mm256_add_ps(v, _mm256_set1_ps(MAGIC)));
        _mm256_and_si256(v, _mm256_set1_epi32(255))
    });
    let low = _mm256_packus_epi32(ints[0], ints[1]);
    let high = _mm256_packus_epi32(ints[2], ints[3]);
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    let bytes = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order);
    let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
    finish(bytes, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)), scale, codes)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn quantize_avx512(x: [__m512; 2], codes: &mut [i8; RUN]) -> RunNumbers {
    let max = _mm512_max_ps(_mm512_abs_ps(x[0]), _mm512_abs_ps(x[1]));
    let upper = _mm512_extractf32x8_ps::<1>(max);
    let max = _mm256_max_ps(_mm512_castps512_ps256(max), upper);
    let (scale, inverse) = scales_of(largest(max));
    let [low, high] = x.map(|v| {
        let v = _mm512_mul_ps(v, _mm512_set1_ps(inverse));
        let v = _mm512_add_ps(v, _mm512_set1_ps(MAGIC));
        _mm512_cvtepi32_epi8(_mm512_castps_si512(v))
    });
    let bytes = _mm256_set_m128i(high, low);
    let fours = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), bytes);
    finish(bytes, fours, scale, codes)
}

/// The largest lane, compared 4, 2, 1 apart.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn largest(max: __m256) -> f32 {
    let max = _mm_max_ps(_mm256_castps256_ps128(max), _mm256_extractf128_ps::<1>(max));
    let max = _mm_max_ps(max, _mm_movehl_ps(max, max));
    _mm_cvtss_f32(_mm_max_ss(max, _mm_shuffle_ps::<1>(max, max)))
}

/// Stores `bytes`; `fours` are the sums of every 4 codes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn finish(bytes: __m256i, fours: __m256i, scale: f32, codes: &mut [i8; RUN]) -> RunNumbers {
    // SAFETY: `codes` is 32 bytes long; the store needs no alignment.
    unsafe { _mm256_storeu_si256(codes.as_mut_ptr().cast(), bytes) };
    let sums = _mm256_hadd_epi32(fours, fours);
    let sums = _mm256_hadd_epi32(sums, sums);
    RunNumbers::new(scale, _mm256_extract_epi32::<0>(sums), _mm256_extract_epi32::<4>(sums))
}
