//! The kernels of each instruction set; the only place with `unsafe`.
#![expect(unsafe_code, reason = "calls into functions compiled for one instruction set")]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod drive;
#[cfg(target_arch = "x86_64")]
mod quantize;

use core::ops::Range;

use crate::kernels::Table;
use crate::{Activations, PackedMatrix, RopeStyle, attention, matmul, vector};

pub(crate) static GENERIC: Table = Table {
    matmul: matmul::matmul,
    quantize: Activations::quantize_here,
    rms_norm: vector::rms_norm,
    silu_mul: vector::silu_mul,
    add: vector::add,
    rope: vector::rope,
    attend: attention::attend,
};

/// A function of this name that runs `$body` compiled for `$features`.
#[cfg(target_arch = "x86_64")]
macro_rules! compiled {
    ($features:literal, $body:path, fn $name:ident($($arg:ident: $ty:ty),*)) => {
        fn $name($($arg: $ty),*) {
            #[target_feature(enable = $features)]
            fn inner($($arg: $ty),*) {
                $body($($arg),*)
            }
            // SAFETY: the table is only handed out by `Kernels::new`, which asserts that the
            // machine has these features.
            unsafe { inner($($arg),*) }
        }
    };
}

/// A module with the plain kernels compiled for `$features`, and its table.
#[cfg(target_arch = "x86_64")]
macro_rules! table {
    ($module:ident, $features:literal, $matmul:path, $quantize:path) => {
        mod $module {
            use super::*;
            compiled!($features, $matmul, fn matmul(
                w: &PackedMatrix, tiles: Range<usize>, x: &Activations, out: &mut [f32]));
            compiled!($features, $quantize, fn quantize(x: &mut Activations));
            compiled!($features, vector::rms_norm, fn rms_norm(
                x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]));
            compiled!($features, vector::silu_mul, fn silu_mul(
                gate: &[f32], up: &[f32], out: &mut [f32]));
            compiled!($features, vector::add, fn add(acc: &mut [f32], x: &[f32]));
            compiled!($features, vector::rope, fn rope(
                x: &mut [f32], cos: &[f32], sin: &[f32], style: RopeStyle));
            compiled!($features, attention::attend, fn attend(
                q: &[f32], k: &[u16], v: &[u16], len: usize, scale: f32, out: &mut [f32]));
            pub(crate) static TABLE: Table =
                Table { matmul, quantize, rms_norm, silu_mul, add, rope, attend };
        }
    };
}

#[cfg(target_arch = "x86_64")]
table!(with_avx2, "avx2,fma,f16c", avx2::matmul, quantize::avx2);
#[cfg(target_arch = "x86_64")]
table!(
    with_avx512,
    "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni",
    avx512::matmul,
    quantize::avx512
);

#[cfg(target_arch = "x86_64")]
pub(crate) static AVX2: &Table = &with_avx2::TABLE;
#[cfg(target_arch = "x86_64")]
pub(crate) static AVX512: &Table = &with_avx512::TABLE;
#[cfg(not(target_arch = "x86_64"))]
pub(crate) static AVX2: &Table = &GENERIC;
#[cfg(not(target_arch = "x86_64"))]
pub(crate) static AVX512: &Table = &GENERIC;

#[cfg(target_arch = "x86_64")]
pub(crate) fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}

#[cfg(target_arch = "x86_64")]
pub(crate) fn has_avx512_vnni() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vnni")
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) const fn has_avx2() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) const fn has_avx512_vnni() -> bool {
    false
}
