//! The cache of keys and values, and how a position is written to it.

use core::ops::Range;

use super::KV_TILE;
use crate::arch::prefetch;
use crate::lanes::Lanes;

/// Keys and values of one KV head. `width` is the head's dimension, rounded up to 16.
#[derive(Debug, Clone, Copy)]
pub enum KvHead<'a> {
    /// IEEE halves.
    F16 {
        /// Keys, (positions / 32, head_dim, 32).
        k: &'a [u16],
        /// Values, (positions, width).
        v: &'a [u16],
    },
    /// Integers with one scale per position.
    I8 {
        /// Keys, (positions / 32, head_dim, 32).
        k: &'a [i8],
        /// Values, (positions, width).
        v: &'a [i8],
        /// (positions).
        k_scales: &'a [f32],
        /// (positions).
        v_scales: &'a [f32],
    },
}

impl KvHead<'_> {
    /// Asks for the keys and values of `positions`, as far as the cache has them, so that they are
    /// near when they are read or written; keys stand in blocks of [`KV_TILE`] positions.
    pub fn ask(&self, head_dim: usize, positions: Range<usize>) {
        match self {
            Self::F16 { k, v } => ask_of(k, v, head_dim, positions),
            Self::I8 { k, v, .. } => ask_of(k, v, head_dim, positions),
        }
    }
}

fn ask_of<E>(k: &[E], v: &[E], head_dim: usize, positions: Range<usize>) {
    let blocks = positions.start / KV_TILE * KV_TILE..positions.end.next_multiple_of(KV_TILE);
    for (x, per_position, positions) in [(k, head_dim, blocks), (v, width(head_dim), positions)] {
        let first = (positions.start * per_position).min(x.len());
        let x = &x[first..(positions.end * per_position).clamp(first, x.len())];
        prefetch::ask(x.as_ptr().cast(), size_of_val(x));
    }
}

/// As [`KvHead`], to be written.
#[derive(Debug)]
pub enum KvHeadMut<'a> {
    /// IEEE halves.
    F16 {
        /// Keys, (positions / 32, head_dim, 32).
        k: &'a mut [u16],
        /// Values, (positions, width).
        v: &'a mut [u16],
    },
    /// Integers with one scale per position.
    I8 {
        /// Keys, (positions / 32, head_dim, 32).
        k: &'a mut [i8],
        /// Values, (positions, width).
        v: &'a mut [i8],
        /// (positions).
        k_scales: &'a mut [f32],
        /// (positions).
        v_scales: &'a mut [f32],
    },
}

/// How numbers stand in the cache.
pub(super) trait Cached: Copy {
    fn load<L: Lanes>(x: &[Self; 16]) -> L;
}

impl Cached for u16 {
    #[inline(always)]
    fn load<L: Lanes>(x: &[Self; 16]) -> L {
        L::load_f16(x)
    }
}

impl Cached for i8 {
    #[inline(always)]
    fn load<L: Lanes>(x: &[Self; 16]) -> L {
        L::load_i8(x)
    }
}

/// A head's dimension as the cache of values has it.
pub(super) const fn width(head_dim: usize) -> usize {
    head_dim.next_multiple_of(16)
}

/// Writes key and value of one position, (head_dim) each.
#[inline(always)]
pub(crate) fn append<L: Lanes>(k: &[f32], v: &[f32], position: usize, kv: KvHeadMut<'_>) {
    let (head_dim, width) = (k.len(), width(k.len()));
    let at = position / KV_TILE * KV_TILE * head_dim + position % KV_TILE;
    match kv {
        KvHeadMut::F16 { k: keys, v: values } => {
            let values = values[position * width..][..width].as_chunks_mut::<16>().0;
            for (i, (k, v)) in k.chunks(16).zip(v.chunks(16)).enumerate() {
                let mut halves = [0; 16];
                filled::<L>(k).store_f16(&mut halves);
                for (d, half) in (16 * i..head_dim).zip(halves) {
                    keys[at + d * KV_TILE] = half;
                }
                filled::<L>(v).store_f16(&mut values[i]);
            }
        }
        KvHeadMut::I8 { k: keys, v: values, k_scales, v_scales } => {
            let values = &mut values[position * width..][..width];
            k_scales[position] = codes(k, |d, code| keys[at + d * KV_TILE] = code);
            v_scales[position] = codes(v, |d, code| values[d] = code);
        }
    }
}

/// Up to 16 numbers, filled up with zeros.
#[inline(always)]
fn filled<L: Lanes>(x: &[f32]) -> L {
    let mut full = [0.0; 16];
    full[..x.len()].copy_from_slice(x);
    L::load(&full)
}

/// Rounds `x` to integers of ±127 with one scale, which it returns.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "codes are within ±127")]
fn codes(x: &[f32], mut put: impl FnMut(usize, i8)) -> f32 {
    let amax = x.iter().fold(0.0, |max, x| if x.abs() > max { x.abs() } else { max });
    let inverse = if amax > 1e-30 { 127.0 / amax } else { 0.0 };
    for (d, x) in x.iter().enumerate() {
        // Adding 1.5 * 2^23 rounds half to even and leaves the integer in the low bits.
        let bits = (x * inverse + crate::vector::MAGIC).to_bits().cast_signed();
        put(d, bits.wrapping_sub(0x4B40_0000) as i8);
    }
    if amax > 1e-30 { amax / 127.0 } else { 0.0 }
}
