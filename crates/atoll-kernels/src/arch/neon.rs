//! Weight tiles times activation rows with NEON, as four quarters of 4 weight rows. Lanes are
//! weight rows, activations are broadcast.
//!
//! There are two: for machines with the instruction `sdot`, which adds four products, and for those
//! without, where pairs of products meet in 16 bits: 2 * 128 * 127 fits. So every dot product is
//! exact.

pub(super) mod lanes;
mod read;

use core::arch::aarch64::*;
use core::arch::asm;

/// 16 sums of a row of activations.
type Sums = [float32x4_t; 4];

/// Writes `matmul` for `$features`; `$dots` gives the dot products of 16 columns.
macro_rules! products {
    ($features:literal, $dots:path) => {
        use core::ops::Range;

        use super::read::{self, Step, head, step};
        use super::*;
        use crate::activations::RunNumbers;
        use crate::arch::drive::{self, Kind, drive, drive_floats};
        use crate::arch::prefetch;
        use crate::unpack::{RUN, is_float};
        use crate::{Activations, PackedMatrix, TILE_ROWS};

        /// As [`crate::matmul::matmul`].
        #[target_feature(enable = $features)]
        pub(in crate::arch) fn matmul(
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

        // Steps are expanded for every group of rows, a quarter at a time, since a whole one does
        // not fit into registers: so the groups are large.
        drive!(
            drive::for_all_kinds,
            $features,
            few: 24 in groups of 1 2 3 4 5 6 7 8, bundles written out: false,
            many: 8 4 2 1
        );
        drive_floats!($features, rows: 2 1);

        /// Adds the product of a step and `N` rows of activations.
        #[inline]
        #[target_feature(enable = $features)]
        fn add<K: Kind, const N: usize>(
            step: &Step<'_>,
            codes: &[[i8; RUN]; N],
            numbers: &[RunNumbers; N],
            sums: &mut [Sums; N],
        ) {
            let l = K::LAYOUT;
            for quarter in 0..4 {
                let values = step.values::<K>(quarter);
                let (scales, offsets) = step.numbers::<K>(quarter);
                for n in 0..N {
                    let c = read::codes(&codes[n]);
                    let mut dots = [$dots(&values, 0, c[0]), $dots(&values, 4, c[1])];
                    if l.n_scales == 1 {
                        dots[0] = vaddq_s32(dots[0], dots[1]);
                    }
                    for h in 0..l.n_scales {
                        let mut dot = dots[h];
                        if l.bias() != 0 && !read::is_signed(l) {
                            let bias = numbers[n].bias(l, h);
                            dot = vaddq_s32(dot, vdupq_n_s32(bias));
                        }
                        let scale = vmulq_n_f32(scales[h], numbers[n].scale);
                        sums[n][quarter] =
                            vfmaq_f32(sums[n][quarter], scale, vcvtq_f32_s32(dot));
                    }
                    for h in 0..if l.has_offsets { l.n_scales } else { 0 } {
                        let sum = numbers[n].scaled_sums[if l.n_scales == 2 { h } else { 2 }];
                        sums[n][quarter] = vfmaq_n_f32(sums[n][quarter], offsets[h], sum);
                    }
                }
            }
        }
    };
}

/// For every machine with NEON.
pub(super) mod plain {
    products!("neon", widened);
}

/// For machines with `sdot`.
pub(super) mod dot {
    products!("neon,dotprod", dotted);
}

#[inline]
#[target_feature(enable = "neon")]
fn zero() -> Sums {
    [vdupq_n_f32(0.0); 4]
}

#[inline]
#[target_feature(enable = "neon")]
fn load(from: &[f32; 16]) -> Sums {
    let (quarters, _) = from.as_chunks::<4>();
    let mut sums = zero();
    for (sums, quarter) in sums.iter_mut().zip(quarters) {
        // SAFETY: `quarter` is 4 floats long; the load needs no alignment.
        *sums = unsafe { vld1q_f32(quarter.as_ptr()) };
    }
    sums
}

#[inline]
#[target_feature(enable = "neon")]
fn store(to: &mut [f32; 16], sums: Sums) {
    let (quarters, _) = to.as_chunks_mut::<4>();
    for (quarter, sums) in quarters.iter_mut().zip(sums) {
        // SAFETY: `quarter` is 4 floats long; the store needs no alignment.
        unsafe { vst1q_f32(quarter.as_mut_ptr(), sums) };
    }
}

/// Widens 16 numbers.
#[inline]
#[target_feature(enable = "neon")]
fn column<const TYPE: u8>(bytes: &[u8]) -> Sums {
    let mut w = zero();
    for quarter in 0..4 {
        w[quarter] = match TYPE {
            super::drive::F16 => widen(read::four_shorts(bytes, 8 * quarter)),
            super::drive::BF16 => {
                let bits = vshll_n_u16::<16>(read::four_shorts(bytes, 8 * quarter));
                vreinterpretq_f32_u32(bits)
            }
            _ => vreinterpretq_f32_u8(read::sixteen(bytes, 16 * quarter)),
        };
    }
    w
}

/// `w * x + sums`.
#[inline]
#[target_feature(enable = "neon")]
fn multiply_add(w: Sums, x: f32, mut sums: Sums) -> Sums {
    for quarter in 0..4 {
        sums[quarter] = vfmaq_n_f32(sums[quarter], w[quarter], x);
    }
    sums
}

/// Widens 4 IEEE halves.
#[inline]
#[target_feature(enable = "neon")]
fn widen(halves: uint16x4_t) -> float32x4_t {
    let wide: float32x4_t;
    // SAFETY: an instruction of NEON, which is part of the target; it reads and writes registers
    // only. (The intrinsic wants a type of halves that is not stable.)
    unsafe {
        asm!(
            "fcvtl {wide:v}.4s, {halves:v}.4h",
            wide = lateout(vreg) wide,
            halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    wide
}

/// Rounds to 4 IEEE halves, to the nearest, half to even.
#[inline]
#[target_feature(enable = "neon")]
fn narrow(x: float32x4_t) -> uint16x4_t {
    let halves: uint16x4_t;
    // SAFETY: as for `widen`.
    unsafe {
        asm!(
            "fcvtn {halves:v}.4h, {x:v}.4s",
            halves = lateout(vreg) halves,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    halves
}

/// The dot products of the 4 chunks from `from` on and the codes of their 16 columns.
#[inline]
#[target_feature(enable = "neon")]
fn widened(values: &[int8x16_t; 8], from: usize, codes: int8x16_t) -> int32x4_t {
    let chunks = vreinterpretq_s32_s8(codes);
    let c = [
        vdupq_laneq_s32::<0>(chunks),
        vdupq_laneq_s32::<1>(chunks),
        vdupq_laneq_s32::<2>(chunks),
        vdupq_laneq_s32::<3>(chunks),
    ];
    let mut sums = [vdupq_n_s32(0); 2];
    for j in [0, 2] {
        let (v, w) = (values[from + j], values[from + j + 1]);
        let (c, d) = (vreinterpretq_s8_s32(c[j]), vreinterpretq_s8_s32(c[j + 1]));
        let low = vmull_s8(vget_low_s8(v), vget_low_s8(c));
        let low = vmlal_s8(low, vget_low_s8(w), vget_low_s8(d));
        let high = vmlal_high_s8(vmull_high_s8(v, c), w, d);
        sums = [vpadalq_s16(sums[0], low), vpadalq_s16(sums[1], high)];
    }
    vpaddq_s32(sums[0], sums[1])
}

/// As [`widened`].
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dotted(values: &[int8x16_t; 8], from: usize, codes: int8x16_t) -> int32x4_t {
    let sums = sdot::<0>(vdupq_n_s32(0), values[from], codes);
    let sums = sdot::<1>(sums, values[from + 1], codes);
    let sums = sdot::<2>(sums, values[from + 2], codes);
    sdot::<3>(sums, values[from + 3], codes)
}

/// Adds to each of 4 sums the products of its 4 values and the codes of chunk `CHUNK`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot<const CHUNK: u8>(mut sums: int32x4_t, values: int8x16_t, codes: int8x16_t) -> int32x4_t {
    // SAFETY: an instruction of the feature that this function is compiled for; it reads and
    // writes registers only. (The intrinsic is not stable.)
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {values:v}.16b, {codes:v}.4b[{chunk}]",
            sums = inlateout(vreg) sums,
            values = in(vreg) values,
            codes = in(vreg) codes,
            chunk = const CHUNK,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}
