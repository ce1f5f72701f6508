//! Expands steps of packed weights into registers.

use core::arch::x86_64::*;

use crate::TILE_ROWS;
use crate::arch::drive::Kind;
use crate::layout::Scales;

/// A step, expanded.
#[derive(Clone, Copy)]
pub(super) struct Step {
    /// Unsigned values of every chunk of 4 columns.
    pub(super) values: [__m512i; 8],
    /// Of our own types without [`crate::own::SCALE_UNIT`].
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
    let last = _mm512_set1_epi8((1i8 << (K::LAYOUT.bits % 8)).wrapping_sub(1));
    let codes = match K::LAYOUT.bits {
        2 => twos(bytes),
        3 => threes(bytes),
        4 => fours(bytes),
        5 => fives(bytes),
        6 => sixes(bytes),
        _ => return [0, 1, 2, 3, 4, 5, 6, 7].map(|j| load(bytes, 64 * j)),
    };
    let codes = codes.map(|v| _mm512_and_si512(v, last));
    if !K::LAYOUT.is_table() {
        return codes;
    }
    let low = load(const { &table(&K::LAYOUT.sixteen_values(0), 0) }, 0);
    if K::LAYOUT.bits <= 4 {
        return codes.map(|v| _mm512_shuffle_epi8(low, v));
    }
    // The fifth bit says into which half of the table.
    let high = load(const { &table(&K::LAYOUT.sixteen_values(16), 0) }, 0);
    codes.map(|v| {
        let fifth = _mm512_test_epi8_mask(v, _mm512_set1_epi8(16));
        _mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(low, v), fifth, high, v)
    })
}

/// Vectors whose lowest 2 bits are codes; above them is what happens to stand there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn twos(bytes: &[u8]) -> [__m512i; 8] {
    let [a, b] = [load(bytes, 0), load(bytes, 64)];
    let quarters = |v| [v, right::<2>(v), right::<4>(v), right::<6>(v)];
    let ([a, b, c, d], [e, f, g, h]) = (quarters(a), quarters(b));
    [a, b, c, d, e, f, g, h]
}

/// As [`twos`], of 3 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn threes(bytes: &[u8]) -> [__m512i; 8] {
    let [a, b, c, d] = threes_in_pairs(bytes);
    [a, right::<3>(a), b, right::<3>(b), c, right::<3>(c), d, right::<3>(d)]
}

/// Vectors with codes of 3 bits at bits 0 and 3.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn threes_in_pairs(bytes: &[u8]) -> [__m512i; 4] {
    let [a, b, c] = [load(bytes, 0), load(bytes, 64), load(bytes, 128)];
    [a, b, c, tops(a, b, c)]
}

/// As [`twos`], of 4 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn fours(bytes: &[u8]) -> [__m512i; 8] {
    let [a, b, c, d] = [load(bytes, 0), load(bytes, 64), load(bytes, 128), load(bytes, 192)];
    [a, right::<4>(a), b, right::<4>(b), c, right::<4>(c), d, right::<4>(d)]
}

/// As [`twos`], of 5 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn fives(bytes: &[u8]) -> [__m512i; 8] {
    let [a, b, c] = [load(bytes, 0), load(bytes, 64), load(bytes, 128)];
    let [d, e] = [load(bytes, 192), load(bytes, 256)];
    let five = choose::<3>(right::<5>(d), right::<3>(a));
    let six = choose::<3>(right::<5>(e), right::<3>(b));
    let seven = choose::<1>(right::<7>(d), right::<6>(e));
    [a, b, c, d, e, five, six, choose::<3>(seven, right::<3>(c))]
}

/// As [`twos`], of 6 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn sixes(bytes: &[u8]) -> [__m512i; 8] {
    let [a, b, c] = [load(bytes, 0), load(bytes, 64), load(bytes, 128)];
    let [d, e, f] = [load(bytes, 192), load(bytes, 256), load(bytes, 320)];
    [a, b, c, d, e, f, tops(a, b, c), tops(d, e, f)]
}

/// Bits 6 and 7 of three vectors as the lowest 6 bits of one.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn tops(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
    let low = choose::<0x03>(right::<6>(a), right::<4>(b));
    choose::<0x0F>(low, right::<2>(c))
}

/// Moves bits right, from byte to byte too.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn right<const BITS: u32>(v: __m512i) -> __m512i {
    _mm512_srli_epi16::<BITS>(v)
}

/// The bits of `MASK` of `a`, the others of `b`.
#[inline]
#[target_feature(enable = "avx512f")]
fn choose<const MASK: i8>(a: __m512i, b: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<0xCA>(_mm512_set1_epi8(MASK), a, b)
}

/// The unsigned value of the code that stands at bit `from` of each of 64 indices.
pub(super) const fn table(values: &[i8], from: usize) -> [u8; 64] {
    let (mut bytes, mut i) = ([0; 64], 0);
    while i < 64 {
        bytes[i] = values[(i >> from) % values.len()].cast_unsigned() ^ 0x80;
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
pub(super) fn numbers<K: Kind>(group: &[u8], head: Head, s: usize) -> ([__m512; 2], [__m512; 2]) {
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
                scales[h] = _mm512_cvtph_ps(bits);
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
