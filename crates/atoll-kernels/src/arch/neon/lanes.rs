//! Sixteen numbers side by side in four registers of NEON.

use core::arch::aarch64::*;

use super::{load, narrow, store, widen};
use crate::activations::{RunNumbers, scales_of};
use crate::lanes::Lanes;
use crate::unpack::RUN;
use crate::vector::MAGIC;

/// Four registers.
#[derive(Clone, Copy)]
pub(in crate::arch) struct Neon([float32x4_t; 4]);

/// Runs intrinsics of NEON.
macro_rules! here {
    ($intrinsics:expr) => {{
        // SAFETY: NEON is part of the target; loads and stores are of arrays of the full length
        // and need no alignment.
        unsafe { $intrinsics }
    }};
}

impl Neon {
    #[inline(always)]
    fn each(self, other: Self, f: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) -> Self {
        let (a, b) = (self.0, other.0);
        Self([f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])])
    }
}

impl Lanes for Neon {
    const SCORE_COLUMNS: usize = 3;
    const VALUE_COLUMNS: usize = 3;
    const VALUE_VECTORS: usize = 2;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        here!(Self([vdupq_n_f32(x); 4]))
    }

    #[inline(always)]
    fn load(x: &[f32; 16]) -> Self {
        here!(Self(load(x)))
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; 16]) {
        here!(store(to, self.0));
    }

    #[inline(always)]
    fn load_f16(x: &[u16; 16]) -> Self {
        here!({
            let mut wide = [vdupq_n_f32(0.0); 4];
            for (wide, halves) in wide.iter_mut().zip(x.as_chunks::<4>().0) {
                *wide = widen(vld1_u16(halves.as_ptr()));
            }
            Self(wide)
        })
    }

    #[inline(always)]
    fn store_f16(self, to: &mut [u16; 16]) {
        here!({
            for (halves, x) in to.as_chunks_mut::<4>().0.iter_mut().zip(self.0) {
                vst1_u16(halves.as_mut_ptr(), narrow(x));
            }
        })
    }

    #[inline(always)]
    fn load_i8(x: &[i8; 16]) -> Self {
        here!({
            let x = vld1q_s8(x.as_ptr());
            let (low, high) = (vmovl_s8(vget_low_s8(x)), vmovl_high_s8(x));
            let words = [
                vmovl_s16(vget_low_s16(low)),
                vmovl_high_s16(low),
                vmovl_s16(vget_low_s16(high)),
                vmovl_high_s16(high),
            ];
            Self(words.map(|words| vcvtq_f32_s32(words)))
        })
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        here!(self.each(other, |a, b| vaddq_f32(a, b)))
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        here!(self.each(other, |a, b| vmulq_f32(a, b)))
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        here!(self.each(other, |a, b| vdivq_f32(a, b)))
    }

    #[inline(always)]
    fn fma(self, factor: Self, term: Self) -> Self {
        here!({
            let (a, b, mut sums) = (self.0, factor.0, term.0);
            for i in 0..4 {
                sums[i] = vfmaq_f32(sums[i], a[i], b[i]);
            }
            Self(sums)
        })
    }

    // Not by NEON's own maximum and minimum, which see a sign in zeros.
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        here!(self.each(other, |a, b| vbslq_f32(vcgtq_f32(a, b), a, b)))
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        here!(self.each(other, |a, b| vbslq_f32(vcltq_f32(a, b), a, b)))
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        here!({
            Self(self.0.map(|x| {
                let n = vaddq_s32(vreinterpretq_s32_f32(x), vdupq_n_s32(127));
                vreinterpretq_f32_s32(vshlq_n_s32::<23>(n))
            }))
        })
    }

    #[inline(always)]
    fn quantize(self, last: Self, codes: &mut [i8; RUN]) -> RunNumbers {
        here!({
            let size = self.0.map(|x| vabsq_f32(x)).into_iter().chain(last.0.map(|x| vabsq_f32(x)));
            let max = size.fold(vdupq_n_f32(0.0), |max, x| vmaxq_f32(max, x));
            let (scale, inverse) = scales_of(vmaxvq_f32(max));
            let mut sums = [0; 2];
            let (halves, _) = codes.as_chunks_mut::<16>();
            for (h, x) in [self.0, last.0].into_iter().enumerate() {
                let [a, b, c, d] = x.map(|x| {
                    let x = vaddq_f32(vmulq_n_f32(x, inverse), vdupq_n_f32(MAGIC));
                    vmovn_u32(vreinterpretq_u32_f32(x))
                });
                let low = vmovn_u16(vcombine_u16(a, b));
                let bytes = vreinterpretq_s8_u8(vmovn_high_u16(low, vcombine_u16(c, d)));
                sums[h] = i32::from(vaddlvq_s8(bytes));
                vst1q_s8(halves[h].as_mut_ptr(), bytes);
            }
            RunNumbers::new(scale, sums[0], sums[1])
        })
    }
}
