//! Slice-level maths on quantized blocks, one implementation per instruction set, chosen at run
//! time. It never starts a thread, opens a file or returns an error: shapes are preconditions.
//!
//! Read [`PackedMatrix`] and [`Kernels`] first.
//!
//! # One order of sums
//! Results are the same bits for one row or many, any range of tiles, any instruction set:
//! - Activations are int8 per 32 columns: `q = round_half_even(x * (127 / amax))`,
//!   scale `dx = amax / 127`, rounded to 11 significant bits (both zero if `amax` is under 1e-30).
//! - Quantized weights: one f32 accumulator per (weight row, activation row), started at zero. For
//!   each 32 columns in ascending order: the dot product is an exact integer, then
//!   `acc = fma(scale * dx, dot, acc)`. Types with a scale per 16 columns (Q2_K, Q3_K, Q6_K) do so
//!   for the first 16 columns, then for the last 16. Types with an offset then do
//!   `acc = fma(offset, dx * sum(q), acc)`, again once per scale. SIMD lanes are weight rows.
//! - Float weights: `acc = fma(w, x, acc)` over the columns in ascending order.
//! - Sums of a vector ([`Kernels::rms_norm`], softmax): 16 lanes, lane `i` adds the elements
//!   `16 * j + i` in ascending `j`; the lanes are added 8, 4, 2, 1 apart.
//! - Queries are rounded to 11 significant bits, as the keys and values are.
//! - Attention: tiles of [`ATTENTION_TILE`] absolute positions. Within a tile the scores sum over
//!   the head's dimensions in ascending order, the values over the positions in ascending order,
//!   always with fused multiply-add; the weights are relative to the tile's own largest score. The
//!   tiles' sums are merged in ascending order, `fma(sum, exp(max - m), tile_sum * exp(tile_max -
//!   m))` with `m` the larger of both maxima. So threads may share out the tiles of one query.
//! - Encoders' attention ([`Kernels::attend_all`]) is in f32 and has no tiles: scores and values as
//!   above over all positions, relative to the largest score of all, and one sum of a vector.
//!
//! ```
//! use atoll_kernels::{Activations, BlockType, Isa, Kernels, PackedMatrix};
//! let ones: Vec<u8> = 1.0f32.to_le_bytes().repeat(32);
//! let weights = PackedMatrix::pack(BlockType::F32, 1, 32, &ones);
//! let kernels = Kernels::new(Isa::detect());
//! let mut x = Activations::new();
//! x.quantize(&kernels, &[2.0; 32], 1, 32);
//! let mut out = [0.0; 16];
//! kernels.matmul(&weights, 0..1, &x, &mut out);
//! assert_eq!(out[0], 64.0);
//! ```

#![allow(
    clippy::needless_range_loop,
    clippy::type_complexity,
    clippy::wildcard_enum_match_arm,
    clippy::manual_is_multiple_of,
    reason = "lanes are indexed in step; one arm per family of layouts"
)]

mod activations;
mod arch;
mod attention;
mod block;
mod encode;
mod isa;
mod kernels;
mod lanes;
mod layout;
mod matmul;
mod own;
mod packed;
mod rope;
mod unpack;
mod vector;

#[cfg(test)]
mod tests;

pub use activations::{Activations, ActivationsPart, RunNumbers};
pub use attention::{
    ATTENTION_TILE, KV_TILE, KvHead, KvHeadMut, QUERIES_MAX, Queries, attention_state_len,
};
pub use block::BlockType;
pub use isa::Isa;
pub use kernels::Kernels;
pub use own::{E3_VALUES, E4_VALUES, E5_VALUES, byte_of_scale, scale_of_byte};
pub use packed::{Memory, PACKED_ALIGN, PackedMatrix, TILE_ROWS, pack_into, packed_bytes};
pub use rope::RopeStyle;
pub use unpack::{IQ4_VALUES, dequantize, scales_finite};
