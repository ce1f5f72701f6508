//! Expands steps of packed weights, a quarter (4 weight rows) at a time.

use core::arch::aarch64::*;

use super::widen;
use crate::arch::drive::Kind;
use crate::layout::{Layout, Scales};
use crate::own::SCALE_UNIT;
use crate::unpack::RUN;

/// A step as it is stored.
#[derive(Clone, Copy)]
pub(super) struct Step<'a> {
    group: &'a [u8],
    codes: &'a [u8],
    numbers: &'a [u8],
    /// Its index in the group.
    s: usize,
}

/// What a group's head is expanded to: nothing, since a quarter reads its part.
#[derive(Clone, Copy)]
pub(super) struct Head;

#[inline]
pub(super) const fn head<K: Kind>(_group: &[u8]) -> Head {
    Head
}

/// Step `s` of a group.
#[inline]
pub(super) fn step<K: Kind>(group: &[u8], _head: Head, s: usize) -> Step<'_> {
    Step { group, codes: K::LAYOUT.codes(group, s), numbers: K::LAYOUT.numbers(group, s), s }
}

/// Whether values are expanded with their sign.
pub(super) const fn is_signed(l: Layout) -> bool {
    l.bits == 8 || l.is_table()
}

/// Codes of a run, 16 columns each.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn codes(codes: &[i8; RUN]) -> [int8x16_t; 2] {
    let (halves, _) = codes.as_chunks::<16>();
    // SAFETY: `halves[0]` is 16 bytes long; the load needs no alignment.
    let low = unsafe { vld1q_s8(halves[0].as_ptr()) };
    // SAFETY: as above.
    let high = unsafe { vld1q_s8(halves[1].as_ptr()) };
    [low, high]
}

impl Step<'_> {
    /// Values of every chunk of 4 columns: signed if [`is_signed`], else under 64.
    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn values<K: Kind>(&self, quarter: usize) -> [int8x16_t; 8] {
        let (bytes, at, l) = (self.codes, 16 * quarter, K::LAYOUT);
        let vector = |i: usize| sixteen(bytes, 64 * i + at);
        let codes = match l.bits {
            2 => twos([0, 1].map(vector)),
            3 => threes([0, 1, 2].map(vector)),
            4 => fours([0, 1, 2, 3].map(vector)),
            5 => fives([0, 1, 2, 3, 4].map(vector)),
            6 => sixes([0, 1, 2, 3, 4, 5].map(vector)),
            _ => [0, 1, 2, 3, 4, 5, 6, 7].map(|j| veorq_u8(vector(j), vdupq_n_u8(0x80))),
        };
        if !l.is_table() {
            return signed(codes);
        }
        let tables = int8x16x2_t(
            table(const { &K::LAYOUT.sixteen_values(0) }),
            table(const { &K::LAYOUT.sixteen_values(16) }),
        );
        codes.map(|v| if l.bits == 5 { vqtbl2q_s8(tables, v) } else { vqtbl1q_s8(tables.0, v) })
    }

    /// Scales and offsets of a quarter.
    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn numbers<K: Kind>(&self, quarter: usize) -> ([float32x4_t; 2], [float32x4_t; 2]) {
        let (l, zero) = (K::LAYOUT, vdupq_n_f32(0.0));
        let (mut scales, mut offsets) = ([zero; 2], [zero; 2]);
        let n = l.n_scales;
        let half = |bytes: &[u8], k: usize| widen(four_shorts(bytes, 32 * k + 8 * quarter));
        let d = if l.has_head() { half(self.group, 0) } else { zero };
        let has_dmin = l.has_head() && l.has_offsets;
        let minus_dmin = if has_dmin { vnegq_f32(half(self.group, 1)) } else { zero };
        for h in 0..n {
            match l.scales {
                Scales::Halves => {
                    scales[h] = half(self.numbers, h);
                    if l.has_offsets {
                        offsets[h] = half(self.numbers, n + h);
                    }
                }
                Scales::Small => {
                    // The sign moves to the top, the rest to the end of the exponent.
                    let bytes = four(self.numbers, 4 * quarter);
                    let wide = vget_low_s16(vmovl_s8(vreinterpret_s8_u8(bytes)));
                    let bits = vreinterpret_u16_s16(vshl_n_s16::<7>(wide));
                    let bits = vand_u16(bits, vdup_n_u16(0xBF80));
                    scales[h] = vmulq_n_f32(widen(bits), SCALE_UNIT);
                }
                Scales::Bytes => {
                    let number = |k: usize| {
                        let bytes = four(self.numbers, 16 * k + 4 * quarter);
                        let shorts = vmovl_s8(vreinterpret_s8_u8(bytes));
                        vcvtq_f32_s32(vmovl_s16(vget_low_s16(shorts)))
                    };
                    scales[h] = vmulq_f32(d, number(h));
                    if l.has_offsets {
                        offsets[h] = vmulq_f32(minus_dmin, number(n + h));
                    }
                }
                Scales::Nibbles => {
                    let both = four_words(self.numbers, 16 * h + 4 * quarter);
                    let scale = vandq_u32(both, vdupq_n_u32(15));
                    scales[h] = vmulq_f32(d, vcvtq_f32_u32(scale));
                    offsets[h] = vmulq_f32(minus_dmin, vcvtq_f32_u32(vshrq_n_u32::<4>(both)));
                }
                Scales::Sixes => {
                    let low = four_words(self.numbers, 4 * quarter);
                    let high = four_words(self.group, 32 + 16 * (self.s / 2) + 4 * quarter);
                    let low = vandq_u32(right(low, 2 * h), vdupq_n_u32(15));
                    let high = right(high, 2 * (self.s % 2) + h);
                    let high = vandq_u32(high, vdupq_n_u32(3));
                    let six = vreinterpretq_s32_u32(vorrq_u32(low, vshlq_n_u32::<4>(high)));
                    scales[h] = vmulq_f32(d, vcvtq_f32_s32(vsubq_s32(six, vdupq_n_s32(32))));
                }
            }
        }
        (scales, offsets)
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn table(values: &[i8; 16]) -> int8x16_t {
    // SAFETY: the table is 16 bytes long; the load needs no alignment.
    unsafe { vld1q_s8(values.as_ptr()) }
}

/// Moves the bits of `v` right by `2 * pairs`.
#[inline]
#[target_feature(enable = "neon")]
fn right(v: uint32x4_t, pairs: usize) -> uint32x4_t {
    vshlq_u32(v, vdupq_n_s32([0, -2, -4, -6][pairs]))
}

#[inline]
#[target_feature(enable = "neon")]
fn signed(values: [uint8x16_t; 8]) -> [int8x16_t; 8] {
    values.map(|v| vreinterpretq_s8_u8(v))
}

/// Codes of 2 bits.
#[inline]
#[target_feature(enable = "neon")]
fn twos([a, b]: [uint8x16_t; 2]) -> [uint8x16_t; 8] {
    let quarters = |v| {
        let (second, third) = (vshrq_n_u8::<2>(v), vshrq_n_u8::<4>(v));
        [low::<3>(v), low::<3>(second), low::<3>(third), vshrq_n_u8::<6>(v)]
    };
    let ([a, b, c, d], [e, f, g, h]) = (quarters(a), quarters(b));
    [a, b, c, d, e, f, g, h]
}

/// Codes of 3 bits.
#[inline]
#[target_feature(enable = "neon")]
fn threes([a, b, c]: [uint8x16_t; 3]) -> [uint8x16_t; 8] {
    let pair = |v| [low::<7>(v), low::<7>(vshrq_n_u8::<3>(v))];
    let ([a, b], [c, d], [e, f], [g, h]) = (pair(a), pair(b), pair(c), pair(tops(a, b, c)));
    [a, b, c, d, e, f, g, h]
}

/// Codes of 4 bits.
#[inline]
#[target_feature(enable = "neon")]
fn fours([a, b, c, d]: [uint8x16_t; 4]) -> [uint8x16_t; 8] {
    let pair = |v| [low::<15>(v), vshrq_n_u8::<4>(v)];
    let ([a, b], [c, d], [e, f], [g, h]) = (pair(a), pair(b), pair(c), pair(d));
    [a, b, c, d, e, f, g, h]
}

/// Codes of 5 bits.
#[inline]
#[target_feature(enable = "neon")]
fn fives([a, b, c, d, e]: [uint8x16_t; 5]) -> [uint8x16_t; 8] {
    let five = vsliq_n_u8::<2>(low::<3>(vshrq_n_u8::<5>(d)), vshrq_n_u8::<5>(a));
    let six = vsliq_n_u8::<2>(low::<3>(vshrq_n_u8::<5>(e)), vshrq_n_u8::<5>(b));
    let seven = vsliq_n_u8::<1>(vshrq_n_u8::<7>(d), vshrq_n_u8::<7>(e));
    let seven = vsliq_n_u8::<2>(seven, vshrq_n_u8::<5>(c));
    let [a, b, c, d, e] = [a, b, c, d, e].map(|v| low::<31>(v));
    [a, b, c, d, e, five, six, seven]
}

/// Codes of 6 bits.
#[inline]
#[target_feature(enable = "neon")]
fn sixes([a, b, c, d, e, f]: [uint8x16_t; 6]) -> [uint8x16_t; 8] {
    let (six, seven) = (tops(a, b, c), tops(d, e, f));
    let [a, b, c, d, e, f] = [a, b, c, d, e, f].map(|v| low::<63>(v));
    [a, b, c, d, e, f, six, seven]
}

/// Bits 6 and 7 of three vectors as 6 bits.
#[inline]
#[target_feature(enable = "neon")]
fn tops(a: uint8x16_t, b: uint8x16_t, c: uint8x16_t) -> uint8x16_t {
    let four = vsliq_n_u8::<2>(vshrq_n_u8::<6>(a), vshrq_n_u8::<6>(b));
    vsliq_n_u8::<4>(four, vshrq_n_u8::<6>(c))
}

/// The bits of `MASK`.
#[inline]
#[target_feature(enable = "neon")]
fn low<const MASK: u8>(v: uint8x16_t) -> uint8x16_t {
    vandq_u8(v, vdupq_n_u8(MASK))
}

/// 16 bytes.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn sixteen(bytes: &[u8], at: usize) -> uint8x16_t {
    let bytes = &bytes[at..at + 16];
    // SAFETY: `bytes` is 16 bytes long; the load needs no alignment.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

/// 4 numbers of 16 bits.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn four_shorts(bytes: &[u8], at: usize) -> uint16x4_t {
    let bytes: &[u8; 8] = bytes[at..].first_chunk().expect("a number per row");
    vcreate_u16(u64::from_le_bytes(*bytes))
}

/// 4 bytes, then 4 of anything.
#[inline]
#[target_feature(enable = "neon")]
fn four(bytes: &[u8], at: usize) -> uint8x8_t {
    let bytes: &[u8; 4] = bytes[at..].first_chunk().expect("a byte per row");
    vcreate_u8(u64::from(u32::from_le_bytes(*bytes)))
}

/// 4 bytes, widened.
#[inline]
#[target_feature(enable = "neon")]
fn four_words(bytes: &[u8], at: usize) -> uint32x4_t {
    vmovl_u16(vget_low_u16(vmovl_u8(four(bytes, at))))
}
