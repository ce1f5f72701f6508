//! The table of kernels of one instruction set.

use core::ops::Range;

use crate::arch;
use crate::{Activations, Isa, KV_TILE, PackedMatrix, RopeStyle, TILE_ROWS};

/// The kernels of one instruction set. All give the same bits.
#[derive(Debug, Clone, Copy)]
pub struct Kernels {
    isa: Isa,
    table: &'static Table,
}

/// One function per kernel; those of an instruction set must only run where it is available.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) matmul: fn(&PackedMatrix, Range<usize>, &Activations, &mut [f32]),
    pub(crate) quantize: fn(&mut Activations),
    pub(crate) rms_norm: fn(&[f32], &[f32], f32, &mut [f32]),
    pub(crate) silu_mul: fn(&[f32], &[f32], &mut [f32]),
    pub(crate) add: fn(&mut [f32], &[f32]),
    pub(crate) rope: fn(&mut [f32], &[f32], &[f32], RopeStyle),
    pub(crate) attend: fn(&[f32], &[u16], &[u16], usize, f32, &mut [f32]),
}

impl Kernels {
    /// The kernels of `isa`.
    ///
    /// # Panics
    /// If this machine does not have `isa`.
    #[must_use]
    pub fn new(isa: Isa) -> Self {
        assert!(isa.is_available(), "this machine has no {}", isa.name());
        let table = match isa {
            Isa::Generic => &arch::GENERIC,
            Isa::Avx2 => arch::AVX2,
            Isa::Avx512Vnni => arch::AVX512,
        };
        Self { isa, table }
    }

    /// The instruction set.
    #[must_use]
    pub const fn isa(&self) -> Isa {
        self.isa
    }

    pub(crate) fn quantize(&self, x: &mut Activations) {
        (self.table.quantize)(x);
    }

    /// Tiles `tiles` of `w` times every row of `x`; `out` is (tiles, rows of x, 16).
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn matmul(&self, w: &PackedMatrix, tiles: Range<usize>, x: &Activations, out: &mut [f32]) {
        assert!(tiles.end <= w.n_tiles(), "tiles {tiles:?} of {}", w.n_tiles());
        assert_eq!(w.cols(), x.cols(), "columns");
        assert_eq!(out.len(), tiles.len() * x.rows() * TILE_ROWS, "out is (tiles, rows, 16)");
        (self.table.matmul)(w, tiles, x, out);
    }

    /// Row `row` of `w` as numbers, with the bits of [`crate::dequantize`]; `out` is (cols).
    ///
    /// # Panics
    /// If there is no such row or `out` has another length.
    pub fn dequantize_row(&self, w: &PackedMatrix, row: usize, out: &mut [f32]) {
        w.row(row, out);
    }

    /// `x / sqrt(mean(x^2) + eps) * weight` of one row.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        assert!(x.len() == weight.len() && x.len() == out.len(), "one length");
        (self.table.rms_norm)(x, weight, eps, out);
    }

    /// `gate * sigmoid(gate) * up`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn silu_mul(&self, gate: &[f32], up: &[f32], out: &mut [f32]) {
        assert!(gate.len() == up.len() && gate.len() == out.len(), "one length");
        (self.table.silu_mul)(gate, up, out);
    }

    /// Adds `x` to `acc`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn add(&self, acc: &mut [f32], x: &[f32]) {
        assert_eq!(acc.len(), x.len(), "one length");
        (self.table.add)(acc, x);
    }

    /// Turns the pairs of one head, (n_dims), by angles given as `cos` and `sin`, (n_dims / 2).
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn rope(&self, x: &mut [f32], cos: &[f32], sin: &[f32], style: RopeStyle) {
        assert!(x.len() == 2 * cos.len() && x.len() == 2 * sin.len(), "an angle per pair");
        (self.table.rope)(x, cos, sin, style);
    }

    /// Rounds queries to the precision of the keys that they meet: 11 significant bits.
    pub fn round_queries(&self, q: &mut [f32]) {
        q.iter_mut().for_each(|value| *value = crate::vector::round_to_half(*value));
    }

    /// Writes key and value of one KV head, (head_dim) each, to `position` of its cache: tiles of
    /// [`KV_TILE`] positions, (head_dim, 32) of keys and (32, head_dim) of values, as f16.
    ///
    /// # Panics
    /// If the caches have no such position.
    pub fn kv_append(
        &self,
        k: &[f32],
        v: &[f32],
        position: usize,
        k_tiles: &mut [u16],
        v_tiles: &mut [u16],
    ) {
        assert_eq!(k.len(), v.len(), "one head_dim");
        crate::attention::append(k, v, position, k_tiles, v_tiles);
    }

    /// The query heads of one KV head, (group * head_dim), over its first `len` positions; `out`
    /// is (group * head_dim). What the cache holds past `len` does not matter.
    ///
    /// # Panics
    /// If `len` is 0 or the shapes do not fit.
    #[expect(clippy::too_many_arguments, reason = "a head and its cache")]
    pub fn attention(
        &self,
        q: &[f32],
        k_tiles: &[u16],
        v_tiles: &[u16],
        len: usize,
        head_dim: usize,
        scale: f32,
        out: &mut [f32],
    ) {
        assert!(len > 0 && q.len() == out.len(), "one length, some positions");
        let needed = len.div_ceil(KV_TILE) * KV_TILE * head_dim;
        assert!(k_tiles.len() >= needed && v_tiles.len() >= needed, "{len} positions");
        for (q, out) in q.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim)) {
            (self.table.attend)(q, k_tiles, v_tiles, len, scale, out);
        }
    }
}
