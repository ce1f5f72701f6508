//! A weight matrix as the kernels read it: tiles of 16 rows (see `layout.rs`).

use core::fmt;
use core::ops::Range;
use std::sync::Arc;

use crate::BlockType;
use crate::layout::{Layout, write_step};
use crate::unpack::{RUN, floats, is_float, unpack};

/// Weight rows of a tile.
pub const TILE_ROWS: usize = 16;

/// Alignment of packed bytes: a line of the processor's cache.
pub const PACKED_ALIGN: usize = 64;

/// Memory that holds packed bytes.
pub trait Memory: AsRef<[u8]> + Send + Sync + fmt::Debug {}

impl<T: AsRef<[u8]> + Send + Sync + fmt::Debug> Memory for T {}

/// A weight matrix, (rows, cols), in the layout of the kernels; rows padded with zeros to 16.
/// Clones share its memory.
#[derive(Debug, Clone)]
pub struct PackedMatrix {
    ty: BlockType,
    rows: usize,
    cols: usize,
    memory: Arc<dyn Memory>,
    /// Where the tiles begin in it.
    start: usize,
    scales_finite: bool,
}

impl PackedMatrix {
    /// Packs (rows, cols) of `ty`, row-major as ggml stores them.
    ///
    /// # Panics
    /// If `cols` is not whole blocks or `blocks` is not exactly the rows.
    #[must_use]
    pub fn pack(ty: BlockType, rows: usize, cols: usize, blocks: &[u8]) -> Self {
        let bytes = packed_bytes(ty, rows, cols);
        let mut memory = vec![0; bytes + PACKED_ALIGN - 1];
        let start = memory.as_ptr().align_offset(PACKED_ALIGN).min(PACKED_ALIGN - 1);
        let to = &mut memory[start..start + bytes];
        let scales_finite = pack_into(ty, rows, cols, blocks, to, &mut |_| {});
        Self { ty, rows, cols, memory: Arc::new(memory), start, scales_finite }
    }

    /// The matrix that [`pack_into`] wrote to `memory` from byte `start` on, which gave
    /// `scales_finite`. Fast where `start` is at a multiple of [`PACKED_ALIGN`] in memory.
    ///
    /// # Panics
    /// If the memory ends before the matrix.
    #[must_use]
    pub fn packed_in(
        memory: Arc<dyn Memory>,
        start: usize,
        (ty, rows, cols): (BlockType, usize, usize),
        scales_finite: bool,
    ) -> Self {
        let end = start + packed_bytes(ty, rows, cols);
        assert!(end <= (*memory).as_ref().len(), "bytes of {rows} rows of {cols}");
        Self { ty, rows, cols, memory, start, scales_finite }
    }

    /// Weight rows.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Columns: what one row is multiplied with.
    #[must_use]
    pub const fn cols(&self) -> usize {
        self.cols
    }

    /// Tiles of [`TILE_ROWS`] rows.
    #[must_use]
    pub const fn n_tiles(&self) -> usize {
        self.rows.div_ceil(TILE_ROWS)
    }

    /// Bytes that one product with one row reads.
    #[must_use]
    pub fn bytes(&self) -> usize {
        packed_bytes(self.ty, self.rows, self.cols)
    }

    /// The type that the weights were packed from.
    #[must_use]
    pub const fn block_type(&self) -> BlockType {
        self.ty
    }

    /// Whether products read activations as they are, not quantized.
    #[must_use]
    pub const fn is_float(&self) -> bool {
        is_float(self.ty)
    }

    /// Whether every scale and offset (every value, if they are floats) is a finite number.
    #[must_use]
    pub const fn scales_finite(&self) -> bool {
        self.scales_finite
    }

    /// The bytes of tiles one behind another.
    pub(crate) fn run(&self, tiles: Range<usize>) -> &[u8] {
        let size = tile_bytes(self.ty, self.cols);
        &(*self.memory).as_ref()[self.start + tiles.start * size..][..tiles.len() * size]
    }

    /// The bytes of a tile.
    pub(crate) fn tile(&self, tile: usize) -> &[u8] {
        let size = tile_bytes(self.ty, self.cols);
        &(*self.memory).as_ref()[self.start + tile * size..][..size]
    }

    /// Writes row `row` to `out`, (cols), with the bits that [`crate::dequantize`] gives.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.cols, "row {row} of {}", self.rows);
        let (tile, r) = (self.tile(row / TILE_ROWS), row % TILE_ROWS);
        if is_float(self.ty) {
            let size = self.ty.block_bytes();
            for (col, value) in out.iter_mut().enumerate() {
                let bytes = &tile[(col * TILE_ROWS + r) * size..][..size];
                floats(self.ty, bytes, core::slice::from_mut(value));
            }
            return;
        }
        let layout = Layout::of(self.ty);
        let groups = tile.chunks(layout.group_bytes());
        let steps =
            groups.flat_map(|group| (0..layout.steps_in(group.len())).map(move |s| (group, s)));
        for (values, (group, s)) in out.chunks_exact_mut(RUN).zip(steps) {
            let (scales, offsets) = layout.scales_and_offsets(group, s, r);
            let codes = layout.codes(group, s);
            for (k, value) in values.iter_mut().enumerate() {
                let n = if layout.n_scales == 2 { k / 16 } else { 0 };
                let q = i32::from(layout.value(codes, k / 4, 4 * r + k % 4)) - layout.bias();
                *value = scales[n] * q as f32;
                if layout.has_offsets {
                    *value += offsets[n];
                }
            }
        }
    }
}

/// Bytes that (rows, cols) of `ty` take when they are packed.
#[must_use]
pub const fn packed_bytes(ty: BlockType, rows: usize, cols: usize) -> usize {
    rows.div_ceil(TILE_ROWS) * tile_bytes(ty, cols)
}

/// Packs (rows, cols) of `ty`, row-major as ggml stores them, into `to`, which is
/// [`packed_bytes`] zeros. After each tile `tell` hears how many bytes of `blocks` are packed,
/// which are not read again. Returns whether every scale and offset (every value, if they are
/// floats) is a finite number.
///
/// # Panics
/// If `cols` is not whole blocks, `blocks` is not exactly the rows or `to` has another length.
#[must_use]
pub fn pack_into(
    ty: BlockType,
    rows: usize,
    cols: usize,
    blocks: &[u8],
    to: &mut [u8],
    tell: &mut dyn FnMut(usize),
) -> bool {
    assert_eq!(cols % ty.block_len(), 0, "whole blocks of {}", ty.name());
    assert_eq!(blocks.len(), rows * ty.row_bytes(cols), "bytes of {rows} rows of {cols}");
    assert_eq!(to.len(), packed_bytes(ty, rows, cols), "room for {rows} rows of {cols}");
    let (mut finite, mut done) = (true, 0);
    if to.is_empty() {
        return true;
    }
    let tiles = to.chunks_exact_mut(tile_bytes(ty, cols));
    for (tile, blocks) in tiles.zip(blocks.chunks(TILE_ROWS * ty.row_bytes(cols))) {
        finite &= match is_float(ty) {
            true => pack_floats(ty, cols, blocks, tile),
            false => pack_steps(ty, cols, blocks, tile),
        };
        done += blocks.len();
        tell(done);
    }
    finite
}

/// Packs up to 16 rows of floats; whether all are finite.
fn pack_floats(ty: BlockType, cols: usize, blocks: &[u8], tile: &mut [u8]) -> bool {
    let (size, mut finite, mut value) = (ty.block_bytes(), true, [0.0]);
    for (r, row) in blocks.chunks_exact(ty.row_bytes(cols)).enumerate() {
        for (col, bytes) in row.chunks_exact(size).enumerate() {
            floats(ty, bytes, &mut value);
            finite &= value[0].is_finite();
            tile[(col * TILE_ROWS + r) * size..][..size].copy_from_slice(bytes);
        }
    }
    finite
}

/// Packs up to 16 rows of quantized blocks; whether all scales and offsets are finite.
fn pack_steps(ty: BlockType, cols: usize, blocks: &[u8], tile: &mut [u8]) -> bool {
    let (layout, mut finite) = (Layout::of(ty), true);
    let mut runs = Vec::with_capacity(TILE_ROWS);
    for step in 0..cols / RUN {
        runs.clear();
        for row in blocks.chunks_exact(ty.row_bytes(cols)) {
            let run = unpack(ty, row, step);
            finite &= run.scales().into_iter().chain(run.offsets()).all(f32::is_finite);
            runs.push(run);
        }
        let at = step / layout.steps() * layout.group_bytes();
        let end = tile.len().min(at + layout.group_bytes());
        let group = &mut tile[at..end];
        write_step(layout, &runs, group, step % layout.steps());
    }
    finite
}

const fn tile_bytes(ty: BlockType, cols: usize) -> usize {
    if is_float(ty) {
        cols * TILE_ROWS * ty.block_bytes()
    } else {
        Layout::of(ty).tile_bytes(cols / RUN)
    }
}
