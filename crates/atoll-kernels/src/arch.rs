//! The kernels of each instruction set; the only place with `unsafe`.
#![expect(unsafe_code, reason = "calls into functions compiled for one instruction set")]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod drive;
#[cfg(target_arch = "x86_64")]
mod lanes;
#[cfg(target_arch = "aarch64")]
mod neon;
pub(crate) mod peak;
pub(crate) mod prefetch;

use core::ops::Range;

use crate::attention::{KvHead, KvHeadMut, Queries};
use crate::kernels::Table;
use crate::lanes::Plain;
use crate::{
    Activations, ActivationsPart, Isa, PackedMatrix, RopeStyle, activations, attention, encode,
    matmul, vector,
};

pub(crate) static GENERIC: Table = Table {
    matmul: matmul::matmul,
    quantize: activations::quantize::<Plain>,
    quantize_normed: activations::quantize_normed::<Plain>,
    quantize_gated: activations::quantize_gated::<Plain>,
    norm_scales: activations::norm_scales::<Plain>,
    rms_norm: vector::rms_norm,
    add: vector::add,
    rope: vector::rope,
    attend: attention::attend::<Plain>,
    attend_merge: attention::merge::<Plain>,
    kv_append: attention::append::<Plain>,
    add_bias: encode::add_bias::<Plain>,
    gelu: encode::gelu::<Plain>,
    layer_norm: encode::layer_norm::<Plain>,
    attend_all: encode::attend_all::<Plain>,
};

/// A function of this name that runs `$body` compiled for `$features`.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
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

/// A module with the kernels compiled for `$features`, and its table.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! table {
    ($module:ident, $features:literal, $lanes:ty, $matmul:path) => {
        mod $module {
            use super::*;
            compiled!($features, $matmul, fn matmul(
                w: &PackedMatrix, tiles: Range<usize>, next: Option<&[u8]>, x: &Activations,
                out: &mut [f32]));
            compiled!($features, activations::quantize::<$lanes>, fn quantize(
                x: &[f32], to: &mut ActivationsPart<'_>));
            compiled!($features, activations::quantize_normed::<$lanes>, fn quantize_normed(
                x: &[f32], scales: &[f32], weight: &[f32], to: &mut ActivationsPart<'_>));
            compiled!($features, activations::quantize_gated::<$lanes>, fn quantize_gated(
                gate: &[f32], up: &[f32], to: &mut ActivationsPart<'_>));
            compiled!($features, activations::norm_scales::<$lanes>, fn norm_scales(
                x: &[f32], cols: usize, eps: f32, out: &mut [f32]));
            compiled!($features, vector::rms_norm, fn rms_norm(
                x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]));
            compiled!($features, vector::add, fn add(acc: &mut [f32], x: &[f32]));
            compiled!($features, vector::rope, fn rope(
                x: &mut [f32], cos: &[f32], sin: &[f32], style: RopeStyle));
            compiled!($features, attention::attend::<$lanes>, fn attend(
                q: &Queries<'_>, kv: KvHead<'_>, tiles: Range<usize>, state: &mut [f32]));
            compiled!($features, attention::merge::<$lanes>, fn attend_merge(
                state: &mut [f32], other: &[f32], head_dim: usize));
            compiled!($features, attention::append::<$lanes>, fn kv_append(
                k: &[f32], v: &[f32], position: usize, kv: KvHeadMut<'_>));
            compiled!($features, encode::add_bias::<$lanes>, fn add_bias(
                x: &mut [f32], bias: &[f32]));
            compiled!($features, encode::gelu::<$lanes>, fn gelu(x: &mut [f32], bias: &[f32]));
            compiled!($features, encode::layer_norm::<$lanes>, fn layer_norm(
                x: &mut [f32], cols: usize, weight: &[f32], bias: &[f32], eps: f32));
            compiled!($features, encode::attend_all::<$lanes>, fn attend_all(
                q: &[f32], scale: f32, kv: (&[f32], &[f32]), weights: &mut [f32],
                out: &mut [f32]));
            pub(crate) static TABLE: Table = Table {
                matmul, quantize, quantize_normed, quantize_gated, norm_scales, rms_norm, add, rope,
                attend, attend_merge, kv_append, add_bias, gelu, layer_norm, attend_all,
            };
        }
    };
}

#[cfg(target_arch = "x86_64")]
table!(with_avx2, "avx2,fma,f16c", lanes::Avx2, avx2::matmul);
#[cfg(target_arch = "x86_64")]
table!(
    with_avx512,
    "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni",
    lanes::Avx512,
    avx512::matmul
);
#[cfg(target_arch = "x86_64")]
mod with_avx512_vbmi {
    use super::*;
    compiled!(
        "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi",
        avx512::vbmi::matmul,
        fn matmul(
            w: &PackedMatrix, tiles: Range<usize>, next: Option<&[u8]>, x: &Activations,
            out: &mut [f32])
    );
    /// Only products differ.
    pub(crate) static TABLE: Table = Table { matmul, ..with_avx512::TABLE };
}

#[cfg(target_arch = "aarch64")]
table!(with_neon, "neon", neon::lanes::Neon, neon::plain::matmul);
#[cfg(target_arch = "aarch64")]
table!(with_neon_dot, "neon,dotprod", neon::lanes::Neon, neon::dot::matmul);

/// The kernels of `isa`, if this machine has it.
#[cfg(target_arch = "x86_64")]
pub(crate) fn table_of(isa: Isa) -> Option<&'static Table> {
    let has_avx2 = || {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
    };
    let has_avx512 = || {
        has_avx2()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vnni")
    };
    match isa {
        Isa::Generic => Some(&GENERIC),
        Isa::Avx2 => has_avx2().then_some(&with_avx2::TABLE),
        Isa::Avx512Vnni => has_avx512().then_some(&with_avx512::TABLE),
        Isa::Avx512Vbmi => {
            let has_vbmi = has_avx512() && is_x86_feature_detected!("avx512vbmi");
            has_vbmi.then_some(&with_avx512_vbmi::TABLE)
        }
        Isa::Neon | Isa::NeonDot => None,
    }
}

/// The kernels of `isa`, if this machine has it.
#[cfg(target_arch = "aarch64")]
pub(crate) fn table_of(isa: Isa) -> Option<&'static Table> {
    use std::arch::is_aarch64_feature_detected as has;
    match isa {
        Isa::Generic => Some(&GENERIC),
        Isa::Neon => has!("neon").then_some(&with_neon::TABLE),
        Isa::NeonDot => (has!("neon") && has!("dotprod")).then_some(&with_neon_dot::TABLE),
        Isa::Avx2 | Isa::Avx512Vnni | Isa::Avx512Vbmi => None,
    }
}

/// The kernels of `isa`, if this machine has it.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) fn table_of(isa: Isa) -> Option<&'static Table> {
    (isa == Isa::Generic).then_some(&GENERIC)
}
