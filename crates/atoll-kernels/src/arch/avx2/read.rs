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

/// Every chunk of a step, one half after the other.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn values<K: Kind>(bytes: &[u8]) -> Values {
    let (last, mut values) = (mask(0xFF >> (8 - K::LAYOUT.bits)), [[_mm256_setzero_si256(); 8]; 2]);
    for half in 0..2 {
        let vector = |i: usize| load(bytes, 64 * i + 32 * half);
        values[half] = match K::LAYOUT.bits {
            2 => twos([0, 1].map(vector)),
            3 => threes([0, 1, 2].map(vector)),
            4 => fours([0, 1, 2, 3].map(vector)),
            5 => fives([0, 1, 2, 3, 4].map(vector)),
            6 => sixes([0, 1, 2, 3, 4, 5].map(vector)),
            _ => [0, 1, 2, 3, 4, 5, 6, 7].map(vector),
        };
        values[half] = values[half].map(|v| match K::LAYOUT.bits {
            8 => _mm256_xor_si256(v, mask(0x80)),
            _ => _mm256_and_si256(v, last),
        });
    }
    if !K::LAYOUT.is_table() {
        return values;
    }
    let low = table(const { &K::LAYOUT.sixteen_values(0) });
    let high = table(const { &K::LAYOUT.sixteen_values(16) });
    values.map(|half| {
        half.map(|v| match K::LAYOUT.bits {
            5 => {
                // The fifth bit, moved to the top, says into which half of the table.
                let (first, second) = (_mm256_shuffle_epi8(low, v), _mm256_shuffle_epi8(high, v));
                _mm256_blendv_epi8(first, second, _mm256_slli_epi16::<3>(v))
            }
            _ => _mm256_shuffle_epi8(low, v),
        })
    })
}

/// Vectors whose lowest 2 bits are codes; above them is what happens to stand there.
#[inline]
#[target_feature(enable = "avx2")]
fn twos([a, b]: [__m256i; 2]) -> [__m256i; 8] {
    [a, right::<2>(a), right::<4>(a), right::<6>(a), b, right::<2>(b), right::<4>(b), right::<6>(b)]
}

/// As [`twos`], of 3 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn threes([a, b, c]: [__m256i; 3]) -> [__m256i; 8] {
    let d = tops(a, b, c);
    [a, right::<3>(a), b, right::<3>(b), c, right::<3>(c), d, right::<3>(d)]
}

/// As [`twos`], of 4 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn fours([a, b, c, d]: [__m256i; 4]) -> [__m256i; 8] {
    [a, right::<4>(a), b, right::<4>(b), c, right::<4>(c), d, right::<4>(d)]
}

/// As [`twos`], of 5 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn fives([a, b, c, d, e]: [__m256i; 5]) -> [__m256i; 8] {
    let five = choose(mask(3), right::<5>(d), right::<3>(a));
    let six = choose(mask(3), right::<5>(e), right::<3>(b));
    let seven = choose(mask(1), right::<7>(d), right::<6>(e));
    [a, b, c, d, e, five, six, choose(mask(3), seven, right::<3>(c))]
}

/// As [`twos`], of 6 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn sixes([a, b, c, d, e, f]: [__m256i; 6]) -> [__m256i; 8] {
    [a, b, c, d, e, f, tops(a, b, c), tops(d, e, f)]
}

/// Bits 6 and 7 of three vectors as the lowest 6 bits of one.
#[inline]
#[target_feature(enable = "avx2")]
fn tops(a: __m256i, b: __m256i, c: __m256i) -> __m256i {
    choose(mask(0x0F), choose(mask(0x03), right::<6>(a), right::<4>(b)), right::<2>(c))
}

/// Moves bits right, from byte to byte too.
#[inline]
#[target_feature(enable = "avx2")]
fn right<const BITS: i32>(v: __m256i) -> __m256i {
    _mm256_srli_epi16::<BITS>(v)
}

/// The bits of `mask` of `a`, the others of `b`.
#[inline]
#[target_feature(enable = "avx2")]
fn choose(mask: __m256i, a: __m256i, b: __m256i) -> __m256i {
    _mm256_or_si256(_mm256_and_si256(mask, a), _mm256_andnot_si256(mask, b))
}

/// `bits` in every byte.
#[inline]
#[target_feature(enable = "avx2")]
fn mask(bits: u8) -> __m256i {
    _mm256_set1_epi8(bits.cast_signed())
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
