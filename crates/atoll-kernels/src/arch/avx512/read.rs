//! Expands steps of packed weights into registers.

use core::arch::x86_64::*;

use crate::TILE_ROWS;
use crate::arch::drive::Kind;
use crate::layout::Scales;
use crate::own::SCALE_UNIT;

/// A step, expanded.
#[derive(Clone, Copy)]
pub(super) struct Step {
    /// Unsigned values of every chunk of 4 columns.
    pub(super) values: [__m512i; 8],
    pub(super) scales: [__m512; 2],
    pub(super) offsets: [__m512; 2],
}

/// The factors at the head of a group: `d`, and `dmin` with its sign turned.
#[derive(Clone, Copy)]
pub(super) struct Head {
    d: __m512,
    minus_dmin: __m512,
}

/// Reads the head of a group.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn head<K: Kind>(group: &[u8]) -> Head {
    let mut head = Head { d: _mm512_setzero_ps(), minus_dmin: _mm512_setzero_ps() };
    if K::LAYOUT.has_head() {
        head.d = halves(group, 0);
        if K::LAYOUT.has_offsets {
            head.minus_dmin = _mm512_xor_ps(halves(group, 32), _mm512_set1_ps(-0.0));
        }
    }
    head
}

/// Expands step `s` of a group.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn step<K: Kind>(group: &[u8], head: Head, s: usize) -> Step {
    // In ascending order of addresses: out of order, the memory prefetcher reads half as fast.
    let values = values::<K>(K::LAYOUT.codes(group, s));
    let (scales, offsets) = numbers::<K>(group, head, s);
    Step { values, scales, offsets }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn values<K: Kind>(bytes: &[u8]) -> [__m512i; 8] {
    let codes = match K::LAYOUT.bits {
        2 => twos(bytes, 0),
        3 => or(twos(bytes, 0), ones::<2>(bytes, 128)),
        5 if K::LAYOUT.is_table() => return thirty_two_values::<K>(bytes),
        4 => fours(bytes),
        5 => or(fours(bytes), ones::<4>(bytes, 256)),
        6 => or(fours(bytes), twos_high(bytes, 256)),
        _ => [0, 1, 2, 3, 4, 5, 6, 7].map(|j| load(bytes, 64 * j)),
    };
    if !K::LAYOUT.is_table() {
        return codes;
    }
    let table = load(const { &table(K::LAYOUT.sixteen_values(0)) }, 0);
    codes.map(|v| _mm512_shuffle_epi8(table, v))
}

/// Codes of 5 bits into a table: the fifth bit says into which half of it.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn thirty_two_values<K: Kind>(bytes: &[u8]) -> [__m512i; 8] {
    let low = load(const { &table(K::LAYOUT.sixteen_values(0)) }, 0);
    let high = load(const { &table(K::LAYOUT.sixteen_values(16)) }, 0);
    let (mut values, fifth) = (fours(bytes), load(bytes, 256));
    for (j, v) in values.iter_mut().enumerate() {
        let set = _mm512_test_epi8_mask(fifth, _mm512_set1_epi8((1u8 << j).cast_signed()));
        *v = _mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(low, *v), set, high, *v);
    }
    values
}

#[inline]
#[target_feature(enable = "avx512f")]
fn or(mut low: [__m512i; 8], high: [__m512i; 8]) -> [__m512i; 8] {
    for j in 0..8 {
        low[j] = _mm512_or_si512(low[j], high[j]);
    }
    low
}

/// A plane of 4 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn fours(bytes: &[u8]) -> [__m512i; 8] {
    let (mask, mut values) = (_mm512_set1_epi8(15), [_mm512_setzero_si512(); 8]);
    for s in 0..4 {
        let v = load(bytes, 64 * s);
        values[2 * s] = _mm512_and_si512(v, mask);
        values[2 * s + 1] = _mm512_and_si512(_mm512_srli_epi16::<4>(v), mask);
    }
    values
}

/// A plane of 2 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn twos(bytes: &[u8], at: usize) -> [__m512i; 8] {
    let (mask, mut values) = (_mm512_set1_epi8(3), [_mm512_setzero_si512(); 8]);
    for t in 0..2 {
        let v = load(bytes, at + 64 * t);
        values[4 * t] = _mm512_and_si512(v, mask);
        values[4 * t + 1] = _mm512_and_si512(_mm512_srli_epi16::<2>(v), mask);
        values[4 * t + 2] = _mm512_and_si512(_mm512_srli_epi16::<4>(v), mask);
        values[4 * t + 3] = _mm512_and_si512(_mm512_srli_epi16::<6>(v), mask);
    }
    values
}

/// A plane of 2 bits, moved to bit 4.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn twos_high(bytes: &[u8], at: usize) -> [__m512i; 8] {
    let (mask, mut values) = (_mm512_set1_epi8(0x30), [_mm512_setzero_si512(); 8]);
    for t in 0..2 {
        let v = load(bytes, at + 64 * t);
        values[4 * t] = _mm512_and_si512(_mm512_slli_epi16::<4>(v), mask);
        values[4 * t + 1] = _mm512_and_si512(_mm512_slli_epi16::<2>(v), mask);
        values[4 * t + 2] = _mm512_and_si512(v, mask);
        values[4 * t + 3] = _mm512_and_si512(_mm512_srli_epi16::<2>(v), mask);
    }
    values
}

/// A plane of 1 bit, moved to bit `TO`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn ones<const TO: u8>(bytes: &[u8], at: usize) -> [__m512i; 8] {
    let (v, bit) = (load(bytes, at), _mm512_set1_epi8(1 << TO));
    let mut values = [_mm512_setzero_si512(); 8];
    for j in 0..8 {
        // By masks, not by shifts, which compete with the products.
        let set = _mm512_test_epi8_mask(v, _mm512_set1_epi8((1u8 << j).cast_signed()));
        values[j] = _mm512_maskz_mov_epi8(set, bit);
    }
    values
}

/// The unsigned values of 16 codes, for each of the four lanes of a shuffle.
const fn table(values: [i8; 16]) -> [u8; 64] {
    let (mut bytes, mut i) = ([0; 64], 0);
    while i < 64 {
        bytes[i] = values[i % 16].cast_unsigned() ^ 0x80;
        i += 1;
    }
    bytes
}

/// 16 halves.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn halves(bytes: &[u8], at: usize) -> __m512 {
    _mm512_cvtph_ps(thirty_two(bytes, at))
}

/// 64 bytes.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load(bytes: &[u8], at: usize) -> __m512i {
    let bytes = &bytes[at..at + 64];
    // SAFETY: `bytes` is 64 bytes long; the load needs no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// 32 bytes.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn thirty_two(bytes: &[u8], at: usize) -> __m256i {
    let bytes = &bytes[at..at + 32];
    // SAFETY: `bytes` is 32 bytes long; the load needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// 16 bytes.
#[inline]
#[target_feature(enable = "avx512f")]
fn sixteen(bytes: &[u8], at: usize) -> __m128i {
    let bytes = &bytes[at..at + TILE_ROWS];
    // SAFETY: `bytes` is 16 bytes long; the load needs no alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

/// Scales and offsets of a step.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn numbers<K: Kind>(group: &[u8], head: Head, s: usize) -> ([__m512; 2], [__m512; 2]) {
    let (l, zero) = (K::LAYOUT, _mm512_setzero_ps());
    let (mut scales, mut offsets) = ([zero; 2], [zero; 2]);
    let (bytes, n) = (l.numbers(group, s), l.n_scales);
    let times = |d: __m512, ints: __m512i| _mm512_mul_ps(d, _mm512_cvtepi32_ps(ints));
    for h in 0..n {
        match l.scales {
            Scales::Halves => {
                scales[h] = halves(bytes, 32 * h);
                if l.has_offsets {
                    offsets[h] = halves(bytes, 32 * (n + h));
                }
            }
            Scales::Small => {
                // The sign moves to the top, the rest to the end of the exponent.
                let wide = _mm256_slli_epi16::<7>(_mm256_cvtepi8_epi16(sixteen(bytes, 0)));
                let bits = _mm256_and_si256(wide, _mm256_set1_epi16(0xBF80u16.cast_signed()));
                scales[h] = _mm512_mul_ps(_mm512_cvtph_ps(bits), _mm512_set1_ps(SCALE_UNIT));
            }
            Scales::Bytes => {
                scales[h] = times(head.d, _mm512_cvtepi8_epi32(sixteen(bytes, 16 * h)));
                if l.has_offsets {
                    let min = _mm512_cvtepi8_epi32(sixteen(bytes, 16 * (n + h)));
                    offsets[h] = times(head.minus_dmin, min);
                }
            }
            Scales::Nibbles => {
                let both = _mm512_cvtepu8_epi32(sixteen(bytes, 16 * h));
                scales[h] = times(head.d, _mm512_and_si512(both, _mm512_set1_epi32(15)));
                offsets[h] = times(head.minus_dmin, _mm512_srli_epi32::<4>(both));
            }
            Scales::Sixes => {
                let low = _mm512_cvtepu8_epi32(sixteen(bytes, 0));
                let high = _mm512_cvtepu8_epi32(sixteen(group, 32 + 16 * (s / 2)));
                let count = |n: usize| _mm_cvtsi64_si128(n.cast_signed() as i64);
                let low = _mm512_srl_epi32(low, count(4 * h));
                let high = _mm512_srl_epi32(high, count(4 * (s % 2) + 2 * h));
                let low = _mm512_and_si512(low, _mm512_set1_epi32(15));
                let high = _mm512_and_si512(high, _mm512_set1_epi32(3));
                let six = _mm512_or_si512(low, _mm512_slli_epi32::<4>(high));
                scales[h] = times(head.d, _mm512_sub_epi32(six, _mm512_set1_epi32(32)));
            }
        }
    }
    (scales, offsets)
}
