//! Maths on plain vectors. Written over fixed arrays of lanes, so that the same source compiles to
//! SIMD under each instruction set without changing one rounding.

use crate::RopeStyle;

const LANES: usize = 16;

/// 1.5 * 2^23: adding it rounds half to even and leaves the integer in the low bits.
pub(crate) const MAGIC: f32 = 12_582_912.0;

/// Widens an IEEE half.
#[inline(always)]
pub(crate) fn f32_from_f16(h: u16) -> f32 {
    let magnitude = u32::from(h & 0x7FFF) << 13;
    // 2^112 moves the exponent's bias; right for subnormal halves too.
    let finite = (f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)).to_bits();
    let special = if h & 0x7C00 == 0x7C00 { 0x7F80_0000 } else { 0 };
    f32::from_bits(finite | special | u32::from(h & 0x8000) << 16)
}

/// Rounds a finite number to the 11 significant bits of an IEEE half, half to even, without the
/// half's limits of range.
#[inline(always)]
pub(crate) fn round_to_half(x: f32) -> f32 {
    let bits = x.to_bits();
    let is_odd = (bits >> 13) & 1;
    f32::from_bits(bits.wrapping_add(0xFFF + is_odd) & !0x1FFF)
}

/// Adds 16 lanes, 8, 4, 2, 1 apart.
#[inline(always)]
pub(crate) fn add_lanes(mut lanes: [f32; LANES]) -> f32 {
    for width in [8, 4, 2, 1] {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
    }
    lanes[0]
}

/// e to the power of `x`, which is clamped to -87 ..= 88; relative error under 2e-7.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let x = if x > -87.0 { x } else { -87.0 };
    let x = if x < 88.0 { x } else { 88.0 };
    let shifted = x.mul_add(core::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4f32;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p.mul_add(r, c);
    }
    let p = (p * r).mul_add(r, r) + 1.0;
    p * power_of_two(shifted)
}

/// 2 to the power of the integer `n`, given as `n + MAGIC`.
#[inline(always)]
pub(crate) fn power_of_two(shifted: f32) -> f32 {
    // The bits of MAGIC below the exponent are shifted out.
    f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}

#[inline(always)]
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mut lanes = [0.0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let tail = chunks.remainder();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = chunk[i].mul_add(chunk[i], lanes[i]);
        }
    }
    for (lane, &v) in lanes.iter_mut().zip(tail) {
        *lane = v.mul_add(v, *lane);
    }
    let scale = 1.0 / (add_lanes(lanes) / x.len() as f32 + eps).sqrt();
    for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
        *out = (x * scale) * w;
    }
}

#[inline(always)]
pub(crate) fn add(acc: &mut [f32], x: &[f32]) {
    for (acc, x) in acc.iter_mut().zip(x) {
        *acc += x;
    }
}

#[inline(always)]
pub(crate) fn rope(x: &mut [f32], cos: &[f32], sin: &[f32], style: RopeStyle) {
    let angles = cos.iter().zip(sin);
    match style {
        RopeStyle::Norm => {
            for ([u, v], angle) in x.as_chunks_mut::<2>().0.iter_mut().zip(angles) {
                turn((u, v), angle);
            }
        }
        RopeStyle::Neox => {
            let (us, vs) = x.split_at_mut(x.len() / 2);
            for (pair, angle) in us.iter_mut().zip(vs).zip(angles) {
                turn(pair, angle);
            }
        }
    }
}

/// (No closure: those are compiled without the caller's instruction set.)
#[inline(always)]
fn turn((u, v): (&mut f32, &mut f32), (cos, sin): (&f32, &f32)) {
    let (a, b) = (*u, *v);
    *u = a.mul_add(*cos, -(b * sin));
    *v = a.mul_add(*sin, b * cos);
}
