//! Weight tiles times activation rows with AVX-512 VNNI. Lanes are weight rows, activations are
//! broadcast, sums stay in registers for a whole row of the tile.

mod few;
mod many;
mod read;

use core::arch::x86_64::*;
use core::ops::Range;

use crate::layout::Layout;
use crate::unpack::{RUN, is_float};
use crate::{Activations, BlockType, PackedMatrix};

/// Rows of activations up to which codes are expanded in registers, not into a panel.
const FEW_ROWS_MAX: usize = 24;

/// A quantized block type, known to the compiler.
trait Kind {
    const LAYOUT: Layout;
}

macro_rules! kinds {
    ($($name:ident),*) => {
        $(
            struct $name;
            impl Kind for $name {
                const LAYOUT: Layout = Layout::of(BlockType::$name);
            }
        )*

        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
        fn quantized(w: &PackedMatrix, tiles: Range<usize>, x: &Activations, out: &mut [f32]) {
            let is_few = x.rows <= FEW_ROWS_MAX;
            match w.block_type() {
                $(
                    BlockType::$name if is_few => few::matmul::<$name>(w, tiles, x, out),
                    BlockType::$name => many::matmul::<$name>(w, tiles, x, out),
                )*
                BlockType::F32 | BlockType::F16 | BlockType::BF16 => {
                    crate::matmul::matmul(w, tiles, x, out);
                }
            }
        }
    };
}
kinds!(Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K, IQ4NL, IQ4XS);

/// As [`crate::matmul::matmul`].
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn matmul(w: &PackedMatrix, tiles: Range<usize>, x: &Activations, out: &mut [f32]) {
    if is_float(w.block_type()) {
        crate::matmul::matmul(w, tiles, x, out);
    } else if w.cols() == 0 {
        out.fill(0.0);
    } else if x.rows > 0 {
        quantized(w, tiles, x, out);
    }
}

/// 64 bytes of `bytes` from `at`.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(bytes: &[u8], at: usize) -> __m512i {
    let bytes = &bytes[at..at + 64];
    // SAFETY: `bytes` is 64 bytes long; the load needs no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// 16 numbers.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_numbers(from: &[f32; 16]) -> __m512 {
    // SAFETY: `from` is 16 floats long; the load needs no alignment.
    unsafe { _mm512_loadu_ps(from.as_ptr()) }
}

/// Writes 16 numbers.
#[inline]
#[target_feature(enable = "avx512f")]
fn store_numbers(to: &mut [f32; 16], v: __m512) {
    // SAFETY: `to` is 16 floats long; the store needs no alignment.
    unsafe { _mm512_storeu_ps(to.as_mut_ptr(), v) };
}

/// The codes of columns `4 * chunk` to `4 * chunk + 3`, in every lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn broadcast(codes: &[i8; RUN], chunk: usize) -> __m512i {
    let c = [0, 1, 2, 3].map(|i: usize| codes[4 * chunk + i].cast_unsigned());
    _mm512_set1_epi32(i32::from_le_bytes(c))
}
