//! Weights as the kernels read them: tiles of 16 rows, all columns of a tile in one run of bytes.
//!
//! A tile of a quantized matrix is a sequence of steps of 32 columns. A step holds the codes, then
//! the scales, then the offsets (16 numbers each, one per row). Codes are bit planes over vectors
//! of 64 bytes; byte `4 * row + i` of chunk `j` belongs to column `4 * j + i`:
//! - 4 bits: vector `s` holds chunk `2 * s` in its low nibbles and chunk `2 * s + 1` in the high;
//! - 5 bits: the same, then one vector whose bit `j` is the fifth bit of chunk `j`;
//! - 6 bits: the same, then two vectors, of which number `t` holds chunk
//!   `4 * t + u` at bit `2 * u`;
//! - 8 bits: vector `j` is chunk `j`.
//!
//! Types of 32-column blocks keep their f16 scales; the others hold `d * scale` as f32.
//! A tile of a float matrix is, column by column, 16 numbers of its type.

use half::f16;

use crate::BlockType;
use crate::unpack::{IQ4_VALUES, RUN, Run, floats, has_half_scales, has_offsets, is_float, unpack};

/// Weight rows of a tile.
pub const TILE_ROWS: usize = 16;

/// Where a step of 32 columns holds what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Bits of a code: 4, 5, 6 or 8.
    pub(crate) bits: usize,
    /// Whether a code is an index into [`IQ4_VALUES`].
    pub(crate) is_table: bool,
    /// An unsigned value is the signed one plus `1 << offset_shift`, or plus 0 if it is 0.
    pub(crate) offset_shift: usize,
    /// Scales of a row in a step.
    pub(crate) n_scales: usize,
    /// Whether as many offsets follow.
    pub(crate) has_offsets: bool,
    /// Whether scales and offsets are f32, else f16.
    pub(crate) is_wide: bool,
}

impl Layout {
    pub(crate) const fn of(ty: BlockType) -> Self {
        let (bits, offset_shift) = match ty {
            BlockType::Q4_0 => (4, 3),
            BlockType::Q3K => (4, 2),
            BlockType::Q4_1 | BlockType::Q4K | BlockType::Q2K => (4, 0),
            BlockType::IQ4NL | BlockType::IQ4XS => (4, 7),
            BlockType::Q5_0 => (5, 4),
            BlockType::Q5_1 | BlockType::Q5K => (5, 0),
            BlockType::Q6K => (6, 5),
            BlockType::Q8_0 | BlockType::F32 | BlockType::F16 | BlockType::BF16 => (8, 7),
        };
        Self {
            bits,
            is_table: matches!(ty, BlockType::IQ4NL | BlockType::IQ4XS),
            offset_shift,
            n_scales: if has_half_scales(ty) { 2 } else { 1 },
            has_offsets: has_offsets(ty),
            is_wide: ty.block_len() != RUN,
        }
    }

    pub(crate) const fn code_bytes(self) -> usize {
        self.bits * 64
    }

    /// Bytes of 16 scales.
    pub(crate) const fn scale_bytes(self) -> usize {
        if self.is_wide { 64 } else { 32 }
    }

    pub(crate) const fn step_bytes(self) -> usize {
        let n = if self.has_offsets { 2 * self.n_scales } else { self.n_scales };
        self.code_bytes() + n * self.scale_bytes()
    }

    /// What is added to a signed value to make it unsigned.
    pub(crate) const fn bias(self) -> i32 {
        if self.offset_shift == 0 { 0 } else { 1 << self.offset_shift }
    }
}

/// A step, expanded.
pub(crate) struct Step {
    /// Unsigned values: (chunk of 4 columns, row, column of the chunk).
    pub(crate) values: [u8; 512],
    pub(crate) scales: [[f32; TILE_ROWS]; 2],
    pub(crate) offsets: [[f32; TILE_ROWS]; 2],
}

#[inline(always)]
fn code(layout: Layout, bytes: &[u8], chunk: usize, lane: usize) -> u8 {
    if layout.bits == 8 {
        return bytes[chunk * 64 + lane];
    }
    let low = (bytes[chunk / 2 * 64 + lane] >> (4 * (chunk % 2))) & 15;
    match layout.bits {
        5 => low | ((bytes[256 + lane] >> chunk) & 1) << 4,
        6 => low | ((bytes[256 + chunk / 4 * 64 + lane] >> (2 * (chunk % 4))) & 3) << 4,
        _ if layout.is_table => IQ4_VALUES[usize::from(low)].cast_unsigned() ^ 0x80,
        _ => low,
    }
}

#[inline(always)]
fn number(layout: Layout, bytes: &[u8], idx: usize) -> f32 {
    if layout.is_wide {
        let b = &bytes[4 * idx..];
        f32::from_le_bytes([b[0], b[1], b[2], b[3]])
    } else {
        crate::vector::f32_from_f16(u16::from_le_bytes([bytes[2 * idx], bytes[2 * idx + 1]]))
    }
}

impl Step {
    pub(crate) const ZERO: Self =
        Self { values: [0; 512], scales: [[0.0; TILE_ROWS]; 2], offsets: [[0.0; TILE_ROWS]; 2] };

    /// Expands a step.
    #[inline(always)]
    pub(crate) fn read(&mut self, layout: Layout, bytes: &[u8]) {
        for chunk in 0..8 {
            for lane in 0..64 {
                self.values[chunk * 64 + lane] = code(layout, bytes, chunk, lane);
            }
        }
        let numbers = &bytes[layout.code_bytes()..];
        for n in 0..layout.n_scales {
            for row in 0..TILE_ROWS {
                self.scales[n][row] = number(layout, numbers, n * TILE_ROWS + row);
                if layout.has_offsets {
                    let idx = (layout.n_scales + n) * TILE_ROWS + row;
                    self.offsets[n][row] = number(layout, numbers, idx);
                }
            }
        }
    }
}

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
        assert_eq!(cols % ty.block_len(), 0, "whole blocks of {}", ty.name());
        assert_eq!(blocks.len(), rows * ty.row_bytes(cols), "bytes of {rows} rows of {cols}");
        let bytes = rows.div_ceil(TILE_ROWS) * tile_bytes(ty, cols);
        let data = vec![0; bytes + 63];
        let start = data.as_ptr().align_offset(64).min(63);
        let mut packed = Self { ty, rows, cols, data, start, scales_finite: true };
        for tile in 0..packed.n_tiles() {
            if is_float(ty) {
                packed.pack_floats(tile, blocks);
            } else {
                packed.pack_steps(tile, blocks);
            }
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
        for r in 0..TILE_ROWS.min(self.rows - tile * TILE_ROWS) {
            let row = &blocks[(tile * TILE_ROWS + r) * row_bytes..][..row_bytes];
            for step in 0..self.cols / RUN {
                let run = unpack(self.ty, row, step);
                let numbers = run.scale.iter().chain(&run.offset);
                self.scales_finite &= numbers.copied().all(f32::is_finite);
                let to = at + step * layout.step_bytes();
                write_run(layout, &run, r, &mut self.data[to..][..layout.step_bytes()]);
            }
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
        let steps = tile.chunks_exact(layout.step_bytes());
        for (values, step) in out.chunks_exact_mut(RUN).zip(steps) {
            let numbers = &step[layout.code_bytes()..];
            for (k, value) in values.iter_mut().enumerate() {
                let n = if layout.n_scales == 2 { k / 16 } else { 0 };
                let q = i32::from(code(layout, step, k / 4, 4 * r + k % 4)) - layout.bias();
                *value = number(layout, numbers, n * TILE_ROWS + r) * q as f32;
                if layout.has_offsets {
                    *value += number(layout, numbers, (layout.n_scales + n) * TILE_ROWS + r);
                }
            }
        }
    }
}

const fn tile_bytes(ty: BlockType, cols: usize) -> usize {
    if is_float(ty) {
        cols * TILE_ROWS * ty.block_bytes()
    } else {
        cols / RUN * Layout::of(ty).step_bytes()
    }
}

/// Writes row `r` of a step.
fn write_run(layout: Layout, run: &Run, r: usize, step: &mut [u8]) {
    for (k, &q) in run.q.iter().enumerate() {
        let (chunk, lane) = (k / 4, 4 * r + k % 4);
        let code = if layout.is_table {
            let idx = IQ4_VALUES.iter().position(|&v| v == q).expect("unpacked from the table");
            idx.to_le_bytes()[0]
        } else {
            (i32::from(q) + layout.bias()).to_le_bytes()[0]
        };
        if layout.bits == 8 {
            step[chunk * 64 + lane] = code;
            continue;
        }
        step[chunk / 2 * 64 + lane] |= (code & 15) << (4 * (chunk % 2));
        match layout.bits {
            5 => step[256 + lane] |= (code >> 4) << chunk,
            6 => step[256 + chunk / 4 * 64 + lane] |= (code >> 4) << (2 * (chunk % 4)),
            _ => {}
        }
    }
    let numbers = &mut step[layout.code_bytes()..];
    let scales = run.scale[..layout.n_scales].iter();
    let offsets = run.offset[..if layout.has_offsets { layout.n_scales } else { 0 }].iter();
    for (n, value) in scales.chain(offsets).enumerate() {
        let idx = n * TILE_ROWS + r;
        if layout.is_wide {
            numbers[4 * idx..][..4].copy_from_slice(&value.to_le_bytes());
        } else {
            numbers[2 * idx..][..2].copy_from_slice(&f16::from_f32(*value).to_le_bytes());
        }
    }
}
