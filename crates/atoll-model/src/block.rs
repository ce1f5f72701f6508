//! A few rows on their way through a layer, with the buffers that they need.

use atoll_kernels::{Activations, TILE_ROWS};

use crate::config::ModelConfig;

/// Rows that go through the kernels together. Large enough that unpacked weights are used often,
/// small enough that a block's activations stay in a core's cache. No result depends on it.
pub(crate) const BLOCK_ROWS: usize = 64;

/// Up to [`BLOCK_ROWS`] consecutive rows of a pass. Buffers named `*_tiles` hold a product as the
/// kernels write it: `(n_tiles, rows, TILE_ROWS)`, tiles running over the weight's rows.
#[derive(Debug)]
pub(crate) struct Block {
    /// Index of the first row within the pass.
    pub(crate) first: usize,
    /// Number of rows.
    pub(crate) rows: usize,
    /// Residual stream, `(rows, dim)`.
    pub(crate) x: Vec<f32>,
    /// Normalized residual stream, `(rows, dim)`.
    pub(crate) normed: Vec<f32>,
    /// Input of the next product, as the kernels take it.
    pub(crate) activations: Activations,
    /// Queries, `(rows, n_heads * head_dim)`.
    pub(crate) q: Vec<f32>,
    /// What the heads gathered, `(rows, n_heads * head_dim)`.
    pub(crate) attended: Vec<f32>,
    /// Keys, `(rows, n_kv_heads * head_dim)`.
    pub(crate) k: Vec<f32>,
    /// Values, `(rows, n_kv_heads * head_dim)`.
    pub(crate) v: Vec<f32>,
    /// `(rows, ffn_dim)`.
    pub(crate) gate: Vec<f32>,
    /// `(rows, ffn_dim)`.
    pub(crate) up: Vec<f32>,
    /// `silu(gate) * up`, `(rows, ffn_dim)`.
    pub(crate) inner: Vec<f32>,
    pub(crate) q_tiles: Vec<f32>,
    pub(crate) k_tiles: Vec<f32>,
    pub(crate) v_tiles: Vec<f32>,
    pub(crate) gate_tiles: Vec<f32>,
    pub(crate) up_tiles: Vec<f32>,
    /// Product that is added to the residual stream, or nothing yet.
    pub(crate) out_tiles: Vec<f32>,
}

impl Block {
    /// A block of `rows` rows that begins at row `first` of the pass and holds `x`, `(rows, dim)`.
    pub(crate) fn new(config: &ModelConfig, first: usize, rows: usize, x: Vec<f32>) -> Self {
        let (q_dim, kv_dim, ffn_dim) = (config.q_dim(), config.kv_dim(), config.ffn_dim);
        let tiles = |cols: usize| vec![0.0; tiled_len(rows, cols)];
        Self {
            first,
            rows,
            x,
            normed: vec![0.0; rows * config.dim],
            activations: Activations::new(),
            q: vec![0.0; rows * q_dim],
            attended: vec![0.0; rows * q_dim],
            k: vec![0.0; rows * kv_dim],
            v: vec![0.0; rows * kv_dim],
            gate: vec![0.0; rows * ffn_dim],
            up: vec![0.0; rows * ffn_dim],
            inner: vec![0.0; rows * ffn_dim],
            q_tiles: tiles(q_dim),
            k_tiles: tiles(kv_dim),
            v_tiles: tiles(kv_dim),
            gate_tiles: tiles(ffn_dim),
            up_tiles: tiles(ffn_dim),
            out_tiles: tiles(config.dim),
        }
    }
}

/// Length of a product of `rows` rows with a weight of `cols` rows, in tiles.
pub(crate) const fn tiled_len(rows: usize, cols: usize) -> usize {
    cols.div_ceil(TILE_ROWS) * TILE_ROWS * rows
}

/// Copies a product, `(n_tiles, rows, TILE_ROWS)`, into rows, `(rows, cols)`.
pub(crate) fn untile(tiles: &[f32], rows: usize, cols: usize, out: &mut [f32]) {
    for_each_run(tiles, rows, cols, out, |run, tile| run.copy_from_slice(tile));
}

/// Adds a product, `(n_tiles, rows, TILE_ROWS)`, to rows, `(rows, cols)`.
pub(crate) fn add_tiles(tiles: &[f32], rows: usize, cols: usize, out: &mut [f32]) {
    for_each_run(tiles, rows, cols, out, |run, tile| {
        for (sum, value) in run.iter_mut().zip(tile) {
            *sum += value;
        }
    });
}

/// Row `row` of a product, `(cols)`.
pub(crate) fn tiled_row(tiles: &[f32], rows: usize, row: usize, out: &mut [f32]) {
    for (tile, run) in tiles.chunks_exact(rows * TILE_ROWS).zip(out.chunks_mut(TILE_ROWS)) {
        run.copy_from_slice(&tile[row * TILE_ROWS..][..run.len()]);
    }
}

fn for_each_run(
    tiles: &[f32],
    rows: usize,
    cols: usize,
    out: &mut [f32],
    apply: impl Fn(&mut [f32], &[f32]),
) {
    if rows == 1 {
        return apply(&mut out[..cols], &tiles[..cols]);
    }
    for (row_idx, row) in out.chunks_exact_mut(cols).take(rows).enumerate() {
        for (tile_idx, run) in row.chunks_mut(TILE_ROWS).enumerate() {
            let at = (tile_idx * rows + row_idx) * TILE_ROWS;
            apply(run, &tiles[at..at + run.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn untiling_finds_every_element() {
        for (rows, cols) in [(1, 5), (1, 40), (3, 16), (7, 37)] {
            let mut tiles = vec![f32::NAN; tiled_len(rows, cols)];
            for row in 0..rows {
                for col in 0..cols {
                    let at = (col / TILE_ROWS * rows + row) * TILE_ROWS + col % TILE_ROWS;
                    tiles[at] = (row * 1000 + col) as f32;
                }
            }
            let mut out = vec![0.0; rows * cols];
            untile(&tiles, rows, cols, &mut out);
            let mut sum = out.clone();
            add_tiles(&tiles, rows, cols, &mut sum);
            let mut last = vec![0.0; cols];
            tiled_row(&tiles, rows, rows - 1, &mut last);
            for (i, (&value, &sum)) in out.iter().zip(&sum).enumerate() {
                let expected = (i / cols * 1000 + i % cols) as f32;
                assert_eq!((value, sum), (expected, 2.0 * expected));
            }
            assert_eq!(last, out[(rows - 1) * cols..]);
        }
    }
}
