//! Sixteen numbers side by side: what the hand-vectorized kernels are written in, so that there is
//! one source of every order of sums.

use crate::activations::{RunNumbers, quantize_run};
use crate::unpack::RUN;
use crate::vector::f32_from_f16;

/// Sixteen f32. All implementations round alike, lane by lane.
pub(crate) trait Lanes: Copy {
    /// Query columns that attention multiplies at a time with two vectors of keys.
    const SCORE_COLUMNS: usize;
    /// Query columns whose sums of values attention holds at a time.
    const VALUE_COLUMNS: usize;
    /// Vectors of one column's sum of values that attention holds at a time.
    const VALUE_VECTORS: usize;

    fn splat(x: f32) -> Self;
    fn load(x: &[f32; 16]) -> Self;
    fn store(self, to: &mut [f32; 16]);
    /// Widens IEEE halves.
    fn load_f16(x: &[u16; 16]) -> Self;
    /// Rounds to IEEE halves, to the nearest, half to even.
    fn store_f16(self, to: &mut [u16; 16]);
    fn load_i8(x: &[i8; 16]) -> Self;
    fn add(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;
    /// `self * factor + term`, rounded once.
    fn fma(self, factor: Self, term: Self) -> Self;
    /// `self` where it is greater than `other`, else `other`.
    fn max(self, other: Self) -> Self;
    /// `self` where it is less than `other`, else `other`.
    fn min(self, other: Self) -> Self;
    /// 2 to the power of the integer `n`, given as the bits of `n + 1.5 * 2^23`.
    fn power_of_two(self) -> Self;

    /// Quantizes 32 columns, the first 16 of which are `self`.
    fn quantize(self, last: Self, codes: &mut [i8; RUN]) -> RunNumbers;

    /// As [`crate::vector::exp`], lane by lane.
    #[inline(always)]
    fn exp(self) -> Self {
        let magic = Self::splat(crate::vector::MAGIC);
        let x = self.max(Self::splat(-87.0)).min(Self::splat(88.0));
        let shifted = x.fma(Self::splat(core::f32::consts::LOG2_E), magic);
        let n = shifted.add(Self::splat(-crate::vector::MAGIC));
        let r = n.fma(Self::splat(-0.693_359_4), x);
        let r = n.fma(Self::splat(2.121_944_4e-4), r);
        let mut p = Self::splat(1.987_569_1e-4);
        for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            p = p.fma(r, Self::splat(c));
        }
        let p = p.mul(r).fma(r, r).add(Self::splat(1.0));
        p.mul(shifted.power_of_two())
    }

    /// The lanes added 8, 4, 2, 1 apart.
    #[inline(always)]
    fn sum(self) -> f32 {
        let mut lanes = [0.0; 16];
        self.store(&mut lanes);
        crate::vector::add_lanes(lanes)
    }

    /// The greatest lane.
    #[inline(always)]
    fn greatest(self) -> f32 {
        let mut lanes = [0.0; 16];
        self.store(&mut lanes);
        for width in [8, 4, 2, 1] {
            for i in 0..width {
                lanes[i] = if lanes[i] > lanes[i + width] { lanes[i] } else { lanes[i + width] };
            }
        }
        lanes[0]
    }
}

/// Plain Rust.
#[derive(Clone, Copy)]
pub(crate) struct Plain([f32; 16]);

impl Plain {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(core::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Lanes for Plain {
    const SCORE_COLUMNS: usize = 3;
    const VALUE_COLUMNS: usize = 3;
    const VALUE_VECTORS: usize = 2;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self([x; 16])
    }

    #[inline(always)]
    fn load(x: &[f32; 16]) -> Self {
        Self(*x)
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; 16]) {
        *to = self.0;
    }

    #[inline(always)]
    fn load_f16(x: &[u16; 16]) -> Self {
        Self(x.map(f32_from_f16))
    }

    #[inline(always)]
    fn store_f16(self, to: &mut [u16; 16]) {
        *to = self.0.map(|x| half::f16::from_f32_const(x).to_bits());
    }

    #[inline(always)]
    fn load_i8(x: &[i8; 16]) -> Self {
        Self(x.map(f32::from))
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }

    #[inline(always)]
    fn fma(self, factor: Self, term: Self) -> Self {
        Self(core::array::from_fn(|i| self.0[i].mul_add(factor.0[i], term.0[i])))
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        Self(self.0.map(crate::vector::power_of_two))
    }

    #[inline(always)]
    fn quantize(self, last: Self, codes: &mut [i8; RUN]) -> RunNumbers {
        quantize_run([self.0, last.0], codes)
    }
}
