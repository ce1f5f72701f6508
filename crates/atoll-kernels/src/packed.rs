//! A weight matrix as the kernels read it: tiles of 16 rows (see `layout.rs`).

use crate::BlockType;
use crate::arch::pages::want_huge_pages;
use crate::layout::{Layout, write_step};
use crate::unpack::{RUN, floats, is_float, unpack};

/// Weight rows of a tile.
pub const TILE_ROWS: usize = 16;

/// A weight matrix, (rows, cols), in the layout of the kernels; rows padded with zeros to 16.
#[derive(Debug, Clone)]
pub struct PackedMatrix {
    ty: BlockType,
    rows: usize,
    cols: usize,
    /// Room for the alignment, then the tiles.
    data: Vec<u8>,
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
        Self::pack_telling(ty, rows, cols, blocks, &mut |_| {})
    }

    /// As [`PackedMatrix::pack`]; after each tile `tell` hears how many bytes of `blocks` are
    /// packed, which are not read again.
    ///
    /// # Panics
    /// As [`PackedMatrix::pack`].
    #[must_use]
    pub fn pack_telling(
        ty: BlockType,
        rows: usize,
        cols: usize,
        blocks: &[u8],
        tell: &mut dyn FnMut(usize),
    ) -> Self {
        assert_eq!(cols % ty.block_len(), 0, "whole blocks of {}", ty.name());
        assert_eq!(blocks.len(), rows * ty.row_bytes(cols), "bytes of {rows} rows of {cols}");
        let bytes = rows.div_ceil(TILE_ROWS) * tile_bytes(ty, cols);
        let mut data = vec![0; bytes + 63];
        want_huge_pages(&mut data);
        let start = data.as_ptr().align_offset(64).min(63);
        let mut packed = Self { ty, rows, cols, data, start, scales_finite: true };
        for tile in 0..packed.n_tiles() {
            if is_float(ty) {
                packed.pack_floats(tile, blocks);
            } else {
                packed.pack_steps(tile, blocks);
            }
            tell(rows.min((tile + 1) * TILE_ROWS) * ty.row_bytes(cols));
        }
        packed
    }

    fn pack_floats(&mut self, tile: usize, blocks: &[u8]) {
        let size = self.ty.block_bytes();
        let row_bytes = self.ty.row_bytes(self.cols);
        let at = self.start + tile * tile_bytes(self.ty, self.cols);
        let mut value = [0.0];
        for r in 0..TILE_ROWS.min(self.rows - tile * TILE_ROWS) {
            let row = &blocks[(tile * TILE_ROWS + r) * row_bytes..][..row_bytes];
            for (col, bytes) in row.chunks_exact(size).enumerate() {
                floats(self.ty, bytes, &mut value);
                self.scales_finite &= value[0].is_finite();
                let to = at + (col * TILE_ROWS + r) * size;
                self.data[to..to + size].copy_from_slice(bytes);
            }
        }
    }

    fn pack_steps(&mut self, tile: usize, blocks: &[u8]) {
        let layout = Layout::of(self.ty);
        let row_bytes = self.ty.row_bytes(self.cols);
        let at = self.start + tile * tile_bytes(self.ty, self.cols);
        let rows = TILE_ROWS.min(self.rows - tile * TILE_ROWS);
        let mut runs = Vec::with_capacity(rows);
        for step in 0..self.cols / RUN {
            runs.clear();
            for row in blocks[tile * TILE_ROWS * row_bytes..].chunks_exact(row_bytes).take(rows) {
                let run = unpack(self.ty, row, step);
                let mut numbers = run.scales().into_iter().chain(run.offsets());
                self.scales_finite &= numbers.all(f32::is_finite);
                runs.push(run);
            }
            let (group, s) = (step / layout.steps(), step % layout.steps());
            let to = at + group * layout.group_bytes();
            write_step(layout, &runs, &mut self.data[to..][..layout.group_bytes()], s);
        }
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
        self.n_tiles() * tile_bytes(self.ty, self.cols)
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

    /// The bytes of a tile.
    pub(crate) fn tile(&self, tile: usize) -> &[u8] {
        let size = tile_bytes(self.ty, self.cols);
        &self.data[self.start + tile * size..][..size]
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
        let steps = tile.chunks_exact(layout.group_bytes());
        let steps = steps.flat_map(|group| (0..layout.steps()).map(move |s| (group, s)));
        for (values, (group, s)) in out.chunks_exact_mut(RUN).zip(steps) {
            let (scales, offsets) = layout.numbers(group, s, r);
            let step = layout.step(group, s);
            for (k, value) in values.iter_mut().enumerate() {
                let n = if layout.n_scales == 2 { k / 16 } else { 0 };
                let q = i32::from(layout.value(step, k / 4, 4 * r + k % 4)) - layout.bias();
                *value = scales[n] * q as f32;
                if layout.has_offsets {
                    *value += offsets[n];
                }
            }
        }
    }
}

const fn tile_bytes(ty: BlockType, cols: usize) -> usize {
    if is_float(ty) {
        cols * TILE_ROWS * ty.block_bytes()
    } else {
        cols / ty.block_len() * Layout::of(ty).group_bytes()
    }
}
