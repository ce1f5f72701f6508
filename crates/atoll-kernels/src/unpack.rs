//! Quantized blocks as runs of 32 small integers with scales and offsets.
//!
//! Source: the block layouts of ggml (`ggml-common.h`) and their readers in the Python package
//! `gguf`, whose results [`dequantize`] equals bit for bit; our own types stand in `own.rs`.

use crate::BlockType;
use crate::own::{E3_VALUES, E4_VALUES, E5_VALUES, SCALE_UNIT, half_of_byte};
use crate::vector::f32_from_f16;

/// Columns that share one activation scale.
pub(crate) const RUN: usize = 32;

/// The values of the sixteen codes of ggml's IQ4 types, before the scale.
pub const IQ4_VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// 32 consecutive columns of one weight row: column `i` is `scales()[i / 16] * q[i]`, plus
/// `offsets()[i / 16]` if the type has offsets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// The integers.
    pub(crate) q: [i8; RUN],
    /// The f16 factor of the scales.
    pub(crate) d: u16,
    /// The f16 factor of the offsets; 0 unless [`has_offsets`].
    pub(crate) dmin: u16,
    /// What `d` counts: 1, or less for our own types.
    pub(crate) unit: f32,
    /// What `d` is multiplied with, per half; equal unless [`has_half_scales`].
    pub(crate) scale: [i8; 2],
    /// What `dmin` is multiplied with, per half; an offset is minus the product.
    pub(crate) min: [i8; 2],
}

impl Run {
    /// A run whose scale is `d` and whose offset is `m`.
    const fn even(q: [i8; RUN], d: u16, m: u16) -> Self {
        Self { q, d, dmin: m, unit: 1.0, scale: [1; 2], min: [-1; 2] }
    }

    /// A run of one of our own types.
    const fn own(q: [i8; RUN], scale: u8) -> Self {
        Self { unit: SCALE_UNIT, ..Self::even(q, half_of_byte(scale), 0) }
    }

    /// One scale per half.
    pub(crate) fn scales(&self) -> [f32; 2] {
        let d = f32_from_f16(self.d) * self.unit;
        self.scale.map(|scale| d * f32::from(scale))
    }

    /// One offset per half.
    pub(crate) fn offsets(&self) -> [f32; 2] {
        let dmin = f32_from_f16(self.dmin);
        self.min.map(|min| -(dmin * f32::from(min)))
    }
}

/// Whether the values are stored as floating-point numbers.
pub(crate) const fn is_float(ty: BlockType) -> bool {
    matches!(ty, BlockType::F32 | BlockType::F16 | BlockType::BF16)
}

/// Whether the two halves of a run have scales of their own.
pub(crate) const fn has_half_scales(ty: BlockType) -> bool {
    matches!(ty, BlockType::Q2K | BlockType::Q3K | BlockType::Q6K)
}

/// Whether an offset is added to the scaled integers.
pub(crate) const fn has_offsets(ty: BlockType) -> bool {
    matches!(
        ty,
        BlockType::Q4_1 | BlockType::Q5_1 | BlockType::Q2K | BlockType::Q4K | BlockType::Q5K
    )
}

/// Writes the values of `blocks` (whole blocks of `ty`, `out.len()` values) to `out`.
///
/// # Panics
/// If `blocks` and `out` are not whole blocks of the same count.
pub fn dequantize(ty: BlockType, blocks: &[u8], out: &mut [f32]) {
    assert_eq!(out.len() % ty.block_len(), 0, "whole blocks of {}", ty.name());
    assert_eq!(blocks.len(), ty.row_bytes(out.len()), "bytes of {} values", out.len());
    if is_float(ty) {
        floats(ty, blocks, out);
        return;
    }
    for (index, values) in out.chunks_exact_mut(RUN).enumerate() {
        let run = unpack(ty, blocks, index);
        let (scales, offsets) = (run.scales(), run.offsets());
        for (i, value) in values.iter_mut().enumerate() {
            let scaled = scales[i / 16] * f32::from(run.q[i]);
            *value = if has_offsets(ty) { scaled + offsets[i / 16] } else { scaled };
        }
    }
}

/// Whether every scale and offset of `blocks` (whole blocks of `ty`) is a finite number; every
/// value, if they are floats.
///
/// # Panics
/// If `blocks` are not whole blocks.
#[must_use]
pub fn scales_finite(ty: BlockType, blocks: &[u8]) -> bool {
    assert_eq!(blocks.len() % ty.block_bytes(), 0, "whole blocks of {}", ty.name());
    let is_finite = |bytes: &[u8]| {
        let mut value = [0.0];
        floats(if is_float(ty) { ty } else { BlockType::F16 }, bytes, &mut value);
        value[0].is_finite()
    };
    // Whatever small integers multiply a finite half, the product is a finite number.
    let halves: &[usize] = match ty {
        BlockType::F32 | BlockType::F16 | BlockType::BF16 => {
            return blocks.chunks_exact(ty.block_bytes()).all(is_finite);
        }
        BlockType::Q2K => &[80, 82],
        BlockType::Q3K => &[108],
        BlockType::Q6K => &[208],
        BlockType::Q4_1 | BlockType::Q5_1 | BlockType::Q4K | BlockType::Q5K => &[0, 2],
        BlockType::Q4_0
        | BlockType::Q5_0
        | BlockType::Q8_0
        | BlockType::IQ4NL
        | BlockType::IQ4XS => &[0],
        BlockType::E3 | BlockType::E4 | BlockType::E5 | BlockType::E6 => &[],
    };
    let mut blocks = blocks.chunks_exact(ty.block_bytes());
    blocks.all(|block| halves.iter().all(|&at| is_finite(&block[at..at + 2])))
}

/// Widens stored floating-point numbers.
pub(crate) fn floats(ty: BlockType, bytes: &[u8], out: &mut [f32]) {
    let pairs = bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
    match ty {
        BlockType::F16 => {
            out.iter_mut().zip(pairs).for_each(|(o, b)| *o = f32_from_f16(u16::from_le_bytes(b)));
        }
        BlockType::BF16 => {
            out.iter_mut()
                .zip(pairs)
                .for_each(|(o, b)| *o = f32::from_le_bytes([0, 0, b[0], b[1]]));
        }
        _ => {
            let words = bytes.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]);
            out.iter_mut().zip(words).for_each(|(o, b)| *o = f32::from_le_bytes(b));
        }
    }
}

/// Run `index` of a row of quantized blocks.
#[inline]
pub(crate) fn unpack(ty: BlockType, row: &[u8], index: usize) -> Run {
    let size = ty.block_bytes();
    if ty.block_len() == RUN {
        unpack_small(ty, &row[index * size..][..size])
    } else {
        let at = index / 8 * size;
        unpack_super(ty, &row[at..][..size], index % 8)
    }
}

fn half_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// Low nibbles, then high nibbles.
fn nibbles(bytes: &[u8]) -> [u8; RUN] {
    let mut q = [0; RUN];
    for (i, byte) in bytes[..16].iter().enumerate() {
        q[i] = byte & 15;
        q[i + 16] = byte >> 4;
    }
    q
}

fn shifted(q: [u8; RUN], by: i8) -> [i8; RUN] {
    q.map(|q| q.cast_signed() + by)
}

/// Bit `i` of `bits` becomes bit `TO` of value `i`.
fn with_bits<const TO: u8>(mut q: [u8; RUN], bits: &[u8]) -> [u8; RUN] {
    for (i, q) in q.iter_mut().enumerate() {
        *q |= ((bits[i / 8] >> (i % 8)) & 1) << TO;
    }
    q
}

/// Two bits of column `8 * u + i` stand in byte `i` at bit `2 * u`, and become bits `TO` and up.
fn with_crumbs<const TO: u8>(mut q: [u8; RUN], bytes: &[u8]) -> [u8; RUN] {
    for (i, q) in q.iter_mut().enumerate() {
        *q |= ((bytes[i % 8] >> (2 * (i / 8))) & 3) << TO;
    }
    q
}

/// A block of one of our own types.
fn unpack_own(ty: BlockType, block: &[u8]) -> Run {
    let (scale, codes) = (block[0], &block[1..]);
    let q = match ty {
        BlockType::E3 => with_bits::<2>(with_crumbs::<0>([0; RUN], codes), &codes[8..])
            .map(|code| E3_VALUES[usize::from(code)]),
        BlockType::E4 => nibbles(codes).map(|code| E4_VALUES[usize::from(code)]),
        BlockType::E5 => {
            with_bits::<4>(nibbles(&codes[4..]), codes).map(|code| E5_VALUES[usize::from(code)])
        }
        _ => shifted(with_crumbs::<4>(nibbles(codes), &codes[16..]), -32),
    };
    Run::own(q, scale)
}

/// A block of 32.
fn unpack_small(ty: BlockType, block: &[u8]) -> Run {
    if ty.is_own() {
        return unpack_own(ty, block);
    }
    let d = half_at(block, 0);
    match ty {
        BlockType::Q4_0 => Run::even(shifted(nibbles(&block[2..]), -8), d, 0),
        BlockType::Q4_1 => Run::even(shifted(nibbles(&block[4..]), 0), d, half_at(block, 2)),
        BlockType::Q5_0 => {
            Run::even(shifted(with_bits::<4>(nibbles(&block[6..]), &block[2..]), -16), d, 0)
        }
        BlockType::Q5_1 => {
            let q = with_bits::<4>(nibbles(&block[8..]), &block[4..]);
            Run::even(shifted(q, 0), d, half_at(block, 2))
        }
        BlockType::IQ4NL => {
            Run::even(nibbles(&block[2..]).map(|q| IQ4_VALUES[usize::from(q)]), d, 0)
        }
        _ => {
            let mut q = [0; RUN];
            q.iter_mut().zip(&block[2..]).for_each(|(q, byte)| *q = byte.cast_signed());
            Run::even(q, d, 0)
        }
    }
}

/// Run `j` (of eight) of a block of 256.
fn unpack_super(ty: BlockType, block: &[u8], j: usize) -> Run {
    match ty {
        BlockType::Q2K => unpack_q2k(block, j),
        BlockType::Q3K => unpack_q3k(block, j),
        BlockType::Q6K => unpack_q6k(block, j),
        BlockType::IQ4XS => {
            let high = u16::from_le_bytes([block[2], block[3]]);
            let low = (block[4 + j / 2] >> (4 * (j % 2))) & 15;
            let high = ((high >> (2 * j)) & 3).to_le_bytes()[0];
            let scale = (low | (high << 4)).cast_signed() - 32;
            let q = nibbles(&block[8 + 16 * j..]).map(|q| IQ4_VALUES[usize::from(q)]);
            Run { scale: [scale; 2], ..Run::even(q, half_at(block, 0), 0) }
        }
        _ => unpack_q4k_q5k(ty, block, j),
    }
}

fn unpack_q2k(block: &[u8], j: usize) -> Run {
    let (scales, rest) = block.split_at(16);
    let (d, dmin) = (half_at(rest, 64), half_at(rest, 66));
    let mut q = [0; RUN];
    for (i, q) in q.iter_mut().enumerate() {
        *q = ((rest[j / 4 * 32 + i] >> (2 * (j % 4))) & 3).cast_signed();
    }
    let pair = [scales[2 * j], scales[2 * j + 1]];
    let (scale, min) = (pair.map(|s| (s & 15).cast_signed()), pair.map(|s| (s >> 4).cast_signed()));
    Run { scale, min, ..Run::even(q, d, dmin) }
}

fn unpack_q3k(block: &[u8], j: usize) -> Run {
    let (mask, rest) = block.split_at(32);
    let (low, scales) = rest.split_at(64);
    let d = half_at(scales, 12);
    let mut q = [0; RUN];
    for (i, q) in q.iter_mut().enumerate() {
        let two = (low[j / 4 * 32 + i] >> (2 * (j % 4))) & 3;
        let third = (mask[i] >> j) & 1;
        *q = two.cast_signed() - 4 * (1 - third.cast_signed());
    }
    let scale = |at: usize| {
        let four = if at < 8 { scales[at] & 15 } else { scales[at - 8] >> 4 };
        let two = (scales[8 + at % 4] >> (2 * (at / 4))) & 3;
        (four | (two << 4)).cast_signed() - 32
    };
    Run { scale: [scale(2 * j), scale(2 * j + 1)], ..Run::even(q, d, 0) }
}

fn unpack_q4k_q5k(ty: BlockType, block: &[u8], j: usize) -> Run {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let s = &block[4..16];
    let (scale, min) = if j < 4 {
        (s[j] & 63, s[j + 4] & 63)
    } else {
        ((s[j + 4] & 15) | ((s[j - 4] >> 6) << 4), (s[j + 4] >> 4) | ((s[j] >> 6) << 4))
    };
    let is_q5 = ty == BlockType::Q5K;
    let low = &block[if is_q5 { 48 } else { 16 } + j / 2 * 32..];
    let mut q = [0; RUN];
    for (i, q) in q.iter_mut().enumerate() {
        let four = if j % 2 == 0 { low[i] & 15 } else { low[i] >> 4 };
        let fifth = if is_q5 { (block[16 + i] >> j) & 1 } else { 0 };
        *q = (four | (fifth << 4)).cast_signed();
    }
    let (scale, min) = ([scale.cast_signed(); 2], [min.cast_signed(); 2]);
    Run { scale, min, ..Run::even(q, d, dmin) }
}

fn unpack_q6k(block: &[u8], j: usize) -> Run {
    let (half, r) = (j / 4, j % 4);
    let low = &block[half * 64 + (r % 2) * 32..];
    let high = &block[128 + half * 32..];
    let scales = &block[192 + half * 8 + 2 * r..];
    let d = half_at(block, 208);
    let mut q = [0; RUN];
    for (i, q) in q.iter_mut().enumerate() {
        let four = if r < 2 { low[i] & 15 } else { low[i] >> 4 };
        let two = (high[i] >> (2 * r)) & 3;
        *q = (four | (two << 4)).cast_signed() - 32;
    }
    let scale = [scales[0].cast_signed(), scales[1].cast_signed()];
    Run { scale, ..Run::even(q, d, 0) }
}
