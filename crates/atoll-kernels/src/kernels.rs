//! The table of kernels of one instruction set.

use core::ops::Range;

use crate::arch;
use crate::attention::{
    self, ATTENTION_TILE, KV_TILE, KvHead, KvHeadMut, QUERIES_MAX, Queries, attention_state_len,
};
use crate::{Activations, ActivationsPart, Isa, PackedMatrix, RopeStyle, TILE_ROWS};

/// The kernels of one instruction set. All give the same bits.
#[derive(Debug, Clone, Copy)]
pub struct Kernels {
    isa: Isa,
    pub(crate) table: &'static Table,
}

/// One function per kernel; those of an instruction set must only run where it is available.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) matmul: fn(&PackedMatrix, Range<usize>, Option<&[u8]>, &Activations, &mut [f32]),
    pub(crate) quantize: fn(&[f32], &mut ActivationsPart<'_>),
    pub(crate) quantize_normed: fn(&[f32], &[f32], &[f32], &mut ActivationsPart<'_>),
    pub(crate) quantize_gated: fn(&[f32], &[f32], &mut ActivationsPart<'_>),
    pub(crate) norm_scales: fn(&[f32], usize, f32, &mut [f32]),
    pub(crate) rms_norm: fn(&[f32], &[f32], f32, &mut [f32]),
    pub(crate) add: fn(&mut [f32], &[f32]),
    pub(crate) rope: fn(&mut [f32], &[f32], &[f32], RopeStyle),
    pub(crate) attend: fn(&Queries<'_>, KvHead<'_>, Range<usize>, &mut [f32]),
    pub(crate) attend_merge: fn(&mut [f32], &[f32], usize),
    pub(crate) kv_append: fn(&[f32], &[f32], usize, KvHeadMut<'_>),
    pub(crate) add_bias: fn(&mut [f32], &[f32]),
    pub(crate) gelu: fn(&mut [f32], &[f32]),
    pub(crate) layer_norm: fn(&mut [f32], usize, &[f32], &[f32], f32),
    pub(crate) attend_all: fn(&[f32], f32, (&[f32], &[f32]), &mut [f32], &mut [f32]),
}

impl Kernels {
    /// The kernels of `isa`.
    ///
    /// # Panics
    /// If this machine does not have `isa`.
    #[must_use]
    pub fn new(isa: Isa) -> Self {
        let Some(table) = arch::table_of(isa) else {
            panic!("this machine has no {}", isa.name());
        };
        Self { isa, table }
    }

    /// The instruction set.
    #[must_use]
    pub const fn isa(&self) -> Isa {
        self.isa
    }

    /// Does `rounds` times the same multiplications of 8-bit integers out of registers, as fast as
    /// the instruction set may, and says how many: what a product can at most reach.
    #[must_use]
    pub fn int8_peak(&self, rounds: usize) -> u64 {
        arch::peak::int8(self.isa, rounds)
    }

    /// Reads `memory` in order, as fast as it can be read, and returns the sum of its numbers; what
    /// does not fill 128 bytes at its end is left out. `is_asked`: what lies ahead is asked for, as
    /// products do; which of the two is faster differs from processor to processor.
    #[must_use]
    pub fn read(&self, memory: &[u64], is_asked: bool) -> u64 {
        arch::peak::read(memory, is_asked)
    }

    /// Writes `x`, (tiles, rows, 16), to the steps `to`; the last may be one tile of two.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn quantize(&self, x: &[f32], to: &mut ActivationsPart<'_>) {
        to.check_tiles(x);
        (self.table.quantize)(x, to);
    }

    /// As [`Kernels::quantize`], for `(x * scale) * weight`; `scales` are those of the rows,
    /// `weight` is (tiles, 16).
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn quantize_normed(
        &self,
        x: &[f32],
        scales: &[f32],
        weight: &[f32],
        to: &mut ActivationsPart<'_>,
    ) {
        to.check_tiles(x);
        assert_eq!(scales.len(), to.rows(), "a scale per row");
        assert_eq!(weight.len() * to.rows(), x.len(), "a weight per column");
        (self.table.quantize_normed)(x, scales, weight, to);
    }

    /// As [`Kernels::quantize`], for `gate * sigmoid(gate) * up`.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn quantize_gated(&self, gate: &[f32], up: &[f32], to: &mut ActivationsPart<'_>) {
        to.check_tiles(gate);
        assert_eq!(gate.len(), up.len(), "one shape");
        (self.table.quantize_gated)(gate, up, to);
    }

    /// `1 / sqrt(mean(x^2) + eps)` of every row of `x`, (tiles, rows, 16) with zeros behind the
    /// `cols` columns; `out` is (rows).
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn norm_scales(&self, x: &[f32], cols: usize, eps: f32, out: &mut [f32]) {
        let tiles = cols.div_ceil(TILE_ROWS);
        assert_eq!(x.len(), tiles * out.len() * TILE_ROWS, "x is (tiles, rows, 16)");
        (self.table.norm_scales)(x, cols, eps, out);
    }

    /// Tiles `tiles` of `w` times every row of `x`; `out` is (tiles, rows of x, 16).
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn matmul(&self, w: &PackedMatrix, tiles: Range<usize>, x: &Activations, out: &mut [f32]) {
        self.matmul_then(w, tiles, None, x, out);
    }

    /// As [`Kernels::matmul`] by a thread that reads tile `next.1` of `next.0` then, which is
    /// asked for in time; without it, the tile behind the last of `tiles`.
    ///
    /// # Panics
    /// If the shapes do not fit, or there is no such tile.
    pub fn matmul_then(
        &self,
        w: &PackedMatrix,
        tiles: Range<usize>,
        next: Option<(&PackedMatrix, usize)>,
        x: &Activations,
        out: &mut [f32],
    ) {
        assert!(tiles.end <= w.n_tiles(), "tiles {tiles:?} of {}", w.n_tiles());
        assert_eq!(w.cols(), x.cols(), "columns");
        assert_eq!(out.len(), tiles.len() * x.rows() * TILE_ROWS, "out is (tiles, rows, 16)");
        let next = next.map(|(w, tile)| w.tile(tile));
        (self.table.matmul)(w, tiles, next, x, out);
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

    /// Writes key and value of one KV head, (head_dim) each, to `position` of its cache.
    ///
    /// # Panics
    /// If the cache has no such position.
    pub fn kv_append(&self, k: &[f32], v: &[f32], position: usize, kv: KvHeadMut<'_>) {
        assert_eq!(k.len(), v.len(), "one head_dim");
        (self.table.kv_append)(k, v, position, kv);
    }

    /// Adds tiles of [`ATTENTION_TILE`] positions to the states of query columns, `(columns,
    /// attention_state_len(head_dim))`. What the cache holds past a column's positions does not
    /// matter. States of one tile each, merged in ascending order by [`Kernels::attention_merge`],
    /// have the same bits; those of several tiles, merged with others, do not.
    ///
    /// # Panics
    /// If there are more than [`QUERIES_MAX`] columns or the shapes do not fit.
    pub fn attention(
        &self,
        queries: &Queries<'_>,
        kv: KvHead<'_>,
        tiles: Range<usize>,
        state: &mut [f32],
    ) {
        let columns = queries.lens.len();
        assert!((1..=QUERIES_MAX).contains(&columns) && queries.lens.is_sorted(), "columns");
        let head_dim = queries.q.len() / columns;
        assert_eq!(queries.q.len(), columns * head_dim, "q is (head_dim, columns)");
        assert_eq!(state.len(), columns * attention_state_len(head_dim), "a state each");
        let seen = queries.lens[columns - 1].min(tiles.end * ATTENTION_TILE);
        let (keys, values) = match kv {
            KvHead::F16 { k, v } => (k.len(), v.len()),
            KvHead::I8 { k, v, k_scales, v_scales } => {
                let scales = k_scales.len().min(v_scales.len());
                assert!(scales >= seen.next_multiple_of(KV_TILE), "scales of {seen} positions");
                (k.len(), v.len())
            }
        };
        let needed = seen.next_multiple_of(KV_TILE);
        assert!(keys >= needed * head_dim, "keys of {seen} positions");
        assert!(values >= needed * head_dim.next_multiple_of(16), "values of {seen} positions");
        (self.table.attend)(queries, kv, tiles, state);
    }

    /// Makes states empty, as [`Kernels::attention`] wants them before a column's first tile.
    pub fn attention_clear(&self, state: &mut [f32], head_dim: usize) {
        attention::clear(state, head_dim);
    }

    /// Merges `other`, states of the same columns at later positions, into `state`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn attention_merge(&self, state: &mut [f32], other: &[f32], head_dim: usize) {
        assert_eq!(state.len(), other.len(), "the same columns");
        (self.table.attend_merge)(state, other, head_dim);
    }

    /// What one column gathered, (head_dim), from its state.
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn attention_finish(&self, state: &[f32], out: &mut [f32]) {
        assert_eq!(state.len(), attention_state_len(out.len()), "the state of one column");
        attention::finish(state, out);
    }
}
