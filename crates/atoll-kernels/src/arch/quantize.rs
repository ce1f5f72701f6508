//! Quantization of activations on x86-64: one run of 32 columns at a time, all in registers.

use core::arch::x86_64::*;

use crate::Activations;
use crate::activations::{RunNumbers, scales_of};
use crate::unpack::RUN;

/// 1.5 * 2^23: adding it rounds half to even and leaves the integer in the low bits.
const MAGIC: f32 = 12_582_912.0;

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn avx2(x: &mut Activations) {
    x.quantize_runs(|x, codes| {
        let four = [0, 1, 2, 3].map(|i| eight(x, 8 * i));
        let sign = _mm256_set1_ps(-0.0);
        let size = four.map(|v| _mm256_andnot_ps(sign, v));
        let max = [0, 1].map(|i| _mm256_max_ps(size[i], size[i + 2]));
        let (scale, inverse) = scales_of(largest(_mm256_max_ps(max[0], max[1])));
        let ints = four.map(|v| {
            let v = _mm256_mul_ps(v, _mm256_set1_ps(inverse));
            let v = _mm256_castps_si256(_mm256_add_ps(v, _mm256_set1_ps(MAGIC)));
            _mm256_and_si256(v, _mm256_set1_epi32(255))
        });
        let (a, b) = (_mm256_packus_epi32(ints[0], ints[1]), _mm256_packus_epi32(ints[2], ints[3]));
        let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        let bytes = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(a, b), order);
        let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
        finish(bytes, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)), scale, codes)
    });
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn avx512(x: &mut Activations) {
    x.quantize_runs(|x, codes| {
        let two = [0, 1].map(|i| {
            let x: &[f32; 16] = x[16 * i..].first_chunk().expect("half a run");
            // SAFETY: `x` is 16 floats long; the load needs no alignment.
            unsafe { _mm512_loadu_ps(x.as_ptr()) }
        });
        let max = _mm512_max_ps(_mm512_abs_ps(two[0]), _mm512_abs_ps(two[1]));
        let max = _mm256_max_ps(_mm512_castps512_ps256(max), _mm512_extractf32x8_ps::<1>(max));
        let (scale, inverse) = scales_of(largest(max));
        let [low, high] = two.map(|v| {
            let v = _mm512_mul_ps(v, _mm512_set1_ps(inverse));
            let v = _mm512_add_ps(v, _mm512_set1_ps(MAGIC));
            _mm512_cvtepi32_epi8(_mm512_castps_si512(v))
        });
        let bytes = _mm256_set_m128i(high, low);
        let zero = _mm256_setzero_si256();
        let fours = _mm256_dpbusd_epi32(zero, _mm256_set1_epi8(1), bytes);
        finish(bytes, fours, scale, codes)
    });
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn eight(x: &[f32; RUN], at: usize) -> __m256 {
    let x: &[f32; 8] = x[at..].first_chunk().expect("a quarter of a run");
    // SAFETY: `x` is 8 floats long; the load needs no alignment.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
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
