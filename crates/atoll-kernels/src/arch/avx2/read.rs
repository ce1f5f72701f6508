//! Expands steps of packed weights.

use core::arch::x86_64::*;

use crate::arch::drive::Kind;
use crate::layout::{Layout, Scales};
use crate::own::SCALE_UNIT;

/// A step, expanded: two halves of 8 weight rows.
#[derive(Clone, Copy)]
pub(super) struct Step {
    /// Values of every chunk of 4 columns: signed if [`is_signed`], else unsigned.
    pub(super) values: Values,
    /// Magnitudes of signed values.
    pub(super) sizes: Values,
    /// (scales, halves).
    pub(super) scales: [[__m256; 2]; 2],
    /// (offsets, halves).
    pub(super) offsets: [[__m256; 2]; 2],
}

/// The factors at the head of a group: `d`, and `dmin` with its sign turned.
#[derive(Clone, Copy)]
pub(super) struct Head {
    d: [__m256; 2],
    minus_dmin: [__m256; 2],
}

/// Whether values are expanded with their sign.
pub(super) const fn is_signed(l: Layout) -> bool {
    l.bits == 8 || l.is_table()
}

/// Reads the head of a group.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn head<K: Kind>(group: &[u8]) -> Head {
    let zero = [_mm256_setzero_ps(); 2];
    let mut head = Head { d: zero, minus_dmin: zero };
    if K::LAYOUT.has_head() {
        for half in 0..2 {
            head.d[half] = halves(group, 16 * half);
            if K::LAYOUT.has_offsets {
                let dmin = halves(group, 32 + 16 * half);
                head.minus_dmin[half] = _mm256_xor_ps(dmin, _mm256_set1_ps(-0.0));
            }
        }
    }
    head
}

/// Expands step `s` of a group.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn step<K: Kind>(group: &[u8], head: Head, s: usize) -> Step {
    let l = K::LAYOUT;
    let (none, zero) = (_mm256_setzero_si256(), _mm256_setzero_ps());
    let mut step = Step {
        values: [[none; 8]; 2],
        sizes: [[none; 8]; 2],
        scales: [[zero; 2]; 2],
        offsets: [[zero; 2]; 2],
    };
    step.values = values::<K>(l.codes(group, s));
    if is_signed(l) {
        step.sizes = step.values.map(|half| half.map(|v| _mm256_abs_epi8(v)));
    }
    for half in 0..2 {
        for h in 0..l.n_scales {
            let (scale, offset) = numbers::<K>(group, head, s, h, half);
            (step.scales[h][half], step.offsets[h][half]) = (scale, offset);
        }
    }
    step
}

/// Chunks of both halves.
type Values = [[__m256i; 8]; 2];

/// Every chunk of a step, read in ascending order of addresses.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn values<K: Kind>(bytes: &[u8]) -> Values {
    let codes = match K::LAYOUT.bits {
        2 => twos(bytes, 0),
        3 => or(twos(bytes, 0), ones::<4>(bytes, 128)),
        5 if K::LAYOUT.is_table() => return thirty_two_values::<K>(bytes),
        4 => fours(bytes),
        5 => or(fours(bytes), ones::<16>(bytes, 256)),
        6 => {
            let high = twos(bytes, 256).map(|half| half.map(|v| _mm256_slli_epi16::<4>(v)));
            or(fours(bytes), high)
        }
        _ => {
            let (sign, mut values) = (_mm256_set1_epi8(-128), [[_mm256_setzero_si256(); 8]; 2]);
            for j in 0..8 {
                for half in 0..2 {
                    let v = load(bytes, 64 * j + 32 * half);
                    values[half][j] = _mm256_xor_si256(v, sign);
                }
            }
            values
        }
    };
    if !K::LAYOUT.is_table() {
        return codes;
    }
    let table = table(const { &K::LAYOUT.sixteen_values(0) });
    codes.map(|half| half.map(|v| _mm256_shuffle_epi8(table, v)))
}

/// Codes of 5 bits into a table: the fifth bit says into which half of it.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn thirty_two_values<K: Kind>(bytes: &[u8]) -> Values {
    let low = table(const { &K::LAYOUT.sixteen_values(0) });
    let high = table(const { &K::LAYOUT.sixteen_values(16) });
    let (mut values, fifth) = (fours(bytes), ones::<-1>(bytes, 256));
    for half in 0..2 {
        for j in 0..8 {
            let v = values[half][j];
            let (v, w) = (_mm256_shuffle_epi8(low, v), _mm256_shuffle_epi8(high, v));
            values[half][j] = _mm256_blendv_epi8(v, w, fifth[half][j]);
        }
    }
    values
}

#[inline]
#[target_feature(enable = "avx2")]
fn or(mut low: Values, high: Values) -> Values {
    for half in 0..2 {
        for j in 0..8 {
            low[half][j] = _mm256_or_si256(low[half][j], high[half][j]);
        }
    }
    low
}

/// A plane of 4 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn fours(bytes: &[u8]) -> Values {
    let (mask, mut values) = (_mm256_set1_epi8(15), [[_mm256_setzero_si256(); 8]; 2]);
    for s in 0..4 {
        for half in 0..2 {
            let v = load(bytes, 64 * s + 32 * half);
            values[half][2 * s] = _mm256_and_si256(v, mask);
            values[half][2 * s + 1] = _mm256_and_si256(_mm256_srli_epi16::<4>(v), mask);
        }
    }
    values
}

/// A plane of 2 bits, from byte `at`.
#[inline]
#[target_feature(enable = "avx2")]
fn twos(bytes: &[u8], at: usize) -> Values {
    let (mask, mut values) = (_mm256_set1_epi8(3), [[_mm256_setzero_si256(); 8]; 2]);
    for t in 0..2 {
        for half in 0..2 {
            let (v, to) = (load(bytes, at + 64 * t + 32 * half), &mut values[half]);
            to[4 * t] = _mm256_and_si256(v, mask);
            to[4 * t + 1] = _mm256_and_si256(_mm256_srli_epi16::<2>(v), mask);
            to[4 * t + 2] = _mm256_and_si256(_mm256_srli_epi16::<4>(v), mask);
            to[4 * t + 3] = _mm256_and_si256(_mm256_srli_epi16::<6>(v), mask);
        }
    }
    values
}

/// A plane of 1 bit, from byte `at`; a set one becomes `TO`.
#[inline]
#[target_feature(enable = "avx2")]
fn ones<const TO: i8>(bytes: &[u8], at: usize) -> Values {
    [load(bytes, at), load(bytes, at + 32)].map(|v| {
        [1, 2, 4, 8, 16, 32, 64, -128].map(|bit| {
            let bit = _mm256_set1_epi8(bit);
            let set = _mm256_cmpeq_epi8(_mm256_and_si256(v, bit), bit);
            _mm256_and_si256(set, _mm256_set1_epi8(TO))
        })
    })
}

#[inline]
#[target_feature(enable = "avx2")]
fn table(values: &[i8; 16]) -> __m256i {
    // SAFETY: the table is 16 bytes long; the load needs no alignment.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(values.as_ptr().cast()) })
}

/// 32 bytes.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load(bytes: &[u8], at: usize) -> __m256i {
    let bytes = &bytes[at..at + 32];
    // SAFETY: `bytes` is 32 bytes long; the load needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// 8 halves.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn halves(bytes: &[u8], at: usize) -> __m256 {
    _mm256_cvtph_ps(sixteen(bytes, at))
}

/// 16 bytes.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn sixteen(bytes: &[u8], at: usize) -> __m128i {
    let bytes = &bytes[at..at + 16];
    // SAFETY: `bytes` is 16 bytes long; the load needs no alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

/// 8 bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn eight(bytes: &[u8], at: usize) -> __m128i {
    let bytes: &[u8; 8] = bytes[at..].first_chunk().expect("a byte per row");
    _mm_cvtsi64_si128(i64::from_le_bytes(*bytes))
}

/// Scale and offset `h` of a half of step `s`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn numbers<K: Kind>(group: &[u8], head: Head, s: usize, h: usize, half: usize) -> (__m256, __m256) {
    let (l, zero) = (K::LAYOUT, _mm256_setzero_ps());
    let (bytes, n) = (l.numbers(group, s), l.n_scales);
    let (d, minus_dmin) = (head.d[half], head.minus_dmin[half]);
    let times = |d: __m256, ints: __m256i| _mm256_mul_ps(d, _mm256_cvtepi32_ps(ints));
    match l.scales {
        Scales::Halves => {
            let number = |k: usize| halves(bytes, 32 * k + 16 * half);
            (number(h), if l.has_offsets { number(n + h) } else { zero })
        }
        Scales::Small => {
            // The sign moves to the top, the rest to the end of the exponent.
            let wide = _mm_slli_epi16::<7>(_mm_cvtepi8_epi16(eight(bytes, 8 * half)));
            let bits = _mm_and_si128(wide, _mm_set1_epi16(0xBF80u16.cast_signed()));
            (_mm256_mul_ps(_mm256_cvtph_ps(bits), _mm256_set1_ps(SCALE_UNIT)), zero)
        }
        Scales::Bytes => {
            let number = |k: usize| _mm256_cvtepi8_epi32(eight(bytes, 16 * k + 8 * half));
            let offset = if l.has_offsets { times(minus_dmin, number(n + h)) } else { zero };
            (times(d, number(h)), offset)
        }
        Scales::Nibbles => {
            let both = _mm256_cvtepu8_epi32(eight(bytes, 16 * h + 8 * half));
            let scale = _mm256_and_si256(both, _mm256_set1_epi32(15));
            (times(d, scale), times(minus_dmin, _mm256_srli_epi32::<4>(both)))
        }
        Scales::Sixes => {
            let count = |n: usize| _mm_cvtsi64_si128(n.cast_signed() as i64);
            let low = _mm256_cvtepu8_epi32(eight(bytes, 8 * half));
            let high = _mm256_cvtepu8_epi32(eight(group, 32 + 16 * (s / 2) + 8 * half));
            let low = _mm256_srl_epi32(low, count(4 * h));
            let high = _mm256_srl_epi32(high, count(4 * (s % 2) + 2 * h));
            let low = _mm256_and_si256(low, _mm256_set1_epi32(15));
            let high = _mm256_and_si256(high, _mm256_set1_epi32(3));
            let six = _mm256_or_si256(low, _mm256_slli_epi32::<4>(high));
            (times(d, _mm256_sub_epi32(six, _mm256_set1_epi32(32))), zero)
        }
    }
}
