//! The forward pass, one for every architecture: attention, feed-forward, head.
//!
//! Shapes are written (rows, columns); rows are positions. A product of `x`, `(rows, in)`, with a
//! weight, `(out, in)`, is `(rows, out)`; the kernels give it in tiles (see [`Block`]).

use std::ops::Range;

use atoll_kernels::{Activations, PackedMatrix, TILE_ROWS};

use crate::block::{Block, add_tiles, untile};
use crate::kv_cache::{HeadKv, KvCache, LayerKv};
use crate::rope::RopeTable;
use crate::stage::Stage;
use crate::weights::{HeadWeights, LayerWeights};

/// Weight bytes of one task at most, so that they stay in a core's cache for every block of rows.
const TASK_BYTES_MAX: usize = 256 * 1024;
/// Weight bytes of one task at least, so that dealing it out costs little beside it.
const TASK_BYTES_MIN: usize = 16 * 1024;
/// Tasks that each thread should find in one product, so that a slow thread is helped.
const TASKS_PER_THREAD: usize = 4;
/// Multiplications from which attention is dealt to the threads.
const ATTENTION_WORK_MIN: usize = 256 * 1024;

impl Stage {
    /// Takes the blocks of one pass through every layer and counts their positions.
    pub(crate) fn pass(&self, kv: &mut KvCache, blocks: &mut [Block]) {
        let n = blocks.iter().map(|block| block.rows).sum();
        let from_pos = kv.len();
        let rope = self.rope.table(from_pos, n);
        for (weights, layer_kv) in self.weights.layers.iter().zip(kv.layers_mut()) {
            self.attention(weights, layer_kv, &rope, from_pos, blocks);
            self.feed_forward(weights, blocks);
        }
        kv.advance(n);
    }

    /// `x += o(attend(rope(q), rope(k), v))`, where `q`, `k`, `v` are products of `norm(x)`.
    fn attention(
        &self,
        weights: &LayerWeights,
        kv: &mut LayerKv,
        rope: &RopeTable,
        from_pos: usize,
        blocks: &mut [Block],
    ) {
        let (dim, q_dim) = (self.config.dim, self.config.q_dim());
        self.each(blocks, |block| self.norm(block, &weights.attn_norm));
        self.product([&weights.q, &weights.k, &weights.v], blocks, |block| {
            (&block.activations, [&mut block.q_tiles, &mut block.k_tiles, &mut block.v_tiles])
        });
        self.each(blocks, |block| self.heads(block, weights, rope));
        self.append(kv, from_pos, blocks);
        self.attend(kv, from_pos, blocks);
        self.each(blocks, |block| {
            let Block { activations, attended, rows, .. } = block;
            activations.quantize(&self.compute.kernels, attended, *rows, q_dim);
        });
        self.product([&weights.o], blocks, |block| (&block.activations, [&mut block.out_tiles]));
        self.each(blocks, |block| add_tiles(&block.out_tiles, block.rows, dim, &mut block.x));
    }

    /// `x += down(silu(gate) * up)`, where `gate` and `up` are products of `norm(x)`.
    fn feed_forward(&self, weights: &LayerWeights, blocks: &mut [Block]) {
        let (dim, ffn_dim, kernels) = (self.config.dim, self.config.ffn_dim, &self.compute.kernels);
        self.each(blocks, |block| self.norm(block, &weights.ffn_norm));
        self.product([&weights.gate, &weights.up], blocks, |block| {
            (&block.activations, [&mut block.gate_tiles, &mut block.up_tiles])
        });
        self.each(blocks, |block| {
            let Block { activations, rows, gate, up, inner, .. } = block;
            untile(&block.gate_tiles, *rows, ffn_dim, gate);
            untile(&block.up_tiles, *rows, ffn_dim, up);
            kernels.silu_mul(gate, up, inner);
            activations.quantize(kernels, inner, *rows, ffn_dim);
        });
        self.product([&weights.down], blocks, |block| (&block.activations, [&mut block.out_tiles]));
        self.each(blocks, |block| add_tiles(&block.out_tiles, block.rows, dim, &mut block.x));
    }

    /// `matrix(norm(x))` of `x`, `(rows, dim)`: logits, `(n_tiles, rows, TILE_ROWS)`.
    pub(crate) fn head(&self, head: &HeadWeights, rows: usize, x: &[f32], out: &mut [f32]) {
        let (dim, kernels) = (self.config.dim, &self.compute.kernels);
        let mut normed = vec![0.0; rows * dim];
        for (x, out) in x.chunks_exact(dim).zip(normed.chunks_exact_mut(dim)) {
            kernels.rms_norm(x, &head.norm, self.config.norm_eps, out);
        }
        let mut activations = Activations::new();
        activations.quantize(kernels, &normed, rows, dim);
        self.multiply([&head.matrix], vec![(rows, &activations, [out])]);
    }

    /// Quantizes `rms_norm(x) * weight`, `(rows, dim)`, as the input of the next product.
    fn norm(&self, block: &mut Block, weight: &[f32]) {
        let (dim, eps, kernels) = (self.config.dim, self.config.norm_eps, &self.compute.kernels);
        for (x, out) in block.x.chunks_exact(dim).zip(block.normed.chunks_exact_mut(dim)) {
            kernels.rms_norm(x, weight, eps, out);
        }
        block.activations.quantize(kernels, &block.normed, block.rows, dim);
    }

    /// Makes queries, keys and values of their products: bias, norm of every head, rotation.
    fn heads(&self, block: &mut Block, weights: &LayerWeights, rope: &RopeTable) {
        let (q_dim, kv_dim) = (self.config.q_dim(), self.config.kv_dim());
        untile(&block.q_tiles, block.rows, q_dim, &mut block.q);
        untile(&block.k_tiles, block.rows, kv_dim, &mut block.k);
        untile(&block.v_tiles, block.rows, kv_dim, &mut block.v);
        add_to_rows(&mut block.q, weights.q_bias.as_deref());
        add_to_rows(&mut block.k, weights.k_bias.as_deref());
        add_to_rows(&mut block.v, weights.v_bias.as_deref());
        self.rotate(&mut block.q, q_dim, weights.q_norm.as_deref(), block.first, rope);
        self.compute.kernels.round_queries(&mut block.q);
        self.rotate(&mut block.k, kv_dim, weights.k_norm.as_deref(), block.first, rope);
    }

    /// Normalizes (if the model does) and rotates every head of `x`, `(rows, width)`, whose first
    /// row is row `first` of the pass.
    fn rotate(
        &self,
        x: &mut [f32],
        width: usize,
        norm: Option<&[f32]>,
        first: usize,
        rope: &RopeTable,
    ) {
        let (kernels, n_dims) = (&self.compute.kernels, self.config.rope.n_dims);
        let mut normed = vec![0.0; self.config.head_dim];
        for (row_idx, row) in x.chunks_exact_mut(width).enumerate() {
            let (cos, sin) = rope.row(first + row_idx);
            for head in row.chunks_exact_mut(self.config.head_dim) {
                if let Some(weight) = norm {
                    kernels.rms_norm(head, weight, self.config.norm_eps, &mut normed);
                    head.copy_from_slice(&normed);
                }
                kernels.rope(&mut head[..n_dims], cos, sin, self.config.rope.style);
            }
        }
    }

    /// Writes the keys and values of every block behind the `from_pos` positions of the cache.
    fn append(&self, kv: &mut LayerKv, from_pos: usize, blocks: &[Block]) {
        let (head_dim, kv_dim) = (self.config.head_dim, self.config.kv_dim());
        let write = |(head_idx, head): (usize, &mut HeadKv)| {
            let span = head_idx * head_dim..(head_idx + 1) * head_dim;
            for block in blocks {
                let rows = block.k.chunks_exact(kv_dim).zip(block.v.chunks_exact(kv_dim));
                for (row_idx, (k, v)) in rows.enumerate() {
                    let position = from_pos + block.first + row_idx;
                    let (k, v) = (&k[span.clone()], &v[span.clone()]);
                    self.compute.kernels.kv_append(k, v, position, &mut head.k, &mut head.v);
                }
            }
        };
        let rows: usize = blocks.iter().map(|block| block.rows).sum();
        self.deal(kv.heads.iter_mut().enumerate(), rows > 8, write);
    }

    /// Every query gathers the values of the positions up to its own.
    fn attend(&self, kv: &LayerKv, from_pos: usize, blocks: &mut [Block]) {
        let (head_dim, n_kv_heads) = (self.config.head_dim, self.config.n_kv_heads);
        let group = self.config.n_heads / n_kv_heads * head_dim;
        let scale = (1.0 / libm::sqrt(head_dim as f64)) as f32;
        let rows: usize = blocks.iter().map(|block| block.rows).sum();
        let work = rows * (from_pos + rows) * self.config.q_dim();
        let tasks = blocks.iter_mut().flat_map(|block| {
            let first = from_pos + block.first;
            let out = block.attended.chunks_exact_mut(group);
            block.q.chunks_exact(group).zip(out).enumerate().map(move |(i, (q, out))| {
                (first + i / n_kv_heads + 1, &kv.heads[i % n_kv_heads], q, out)
            })
        });
        self.deal(tasks, work > ATTENTION_WORK_MIN, |(len, head, q, out)| {
            self.compute.kernels.attention(q, &head.k, &head.v, len, head_dim, scale, out);
        });
    }

    /// Multiplies the activations of every block with `N` weights. `part` gives a block's
    /// activations and, for every weight, where the product goes, in tiles.
    fn product<const N: usize>(
        &self,
        weights: [&PackedMatrix; N],
        blocks: &mut [Block],
        part: impl Fn(&mut Block) -> (&Activations, [&mut [f32]; N]),
    ) {
        let parts = blocks.iter_mut().map(|block| {
            let rows = block.rows;
            let (activations, outs) = part(block);
            (rows, activations, outs)
        });
        self.multiply(weights, parts.collect());
    }

    /// As [`Stage::product`], for parts of (rows, their activations, products in tiles).
    fn multiply<const N: usize>(
        &self,
        weights: [&PackedMatrix; N],
        parts: Vec<(usize, &Activations, [&mut [f32]; N])>,
    ) {
        let threads = self.compute.pool.threads();
        let per_task = weights.map(|weight| tiles_per_task(weight, threads));
        let mut parts: Vec<_> = parts
            .into_iter()
            .map(|(rows, activations, outs)| {
                let mut lens = per_task.iter().map(|tiles| tiles * rows * TILE_ROWS);
                let chunks = outs.map(|out| out.chunks_mut(lens.next().expect("N lengths")));
                (activations, chunks)
            })
            .collect();
        let mut tasks = Vec::new();
        for (index, weight) in weights.into_iter().enumerate() {
            for start in (0..weight.n_tiles()).step_by(per_task[index]) {
                let tiles = start..(start + per_task[index]).min(weight.n_tiles());
                for (activations, chunks) in &mut parts {
                    let out = chunks[index].next().expect("a product has all its tiles");
                    tasks.push(Task { weight, tiles: tiles.clone(), activations, out });
                }
            }
        }
        self.compute.pool.for_each(&mut tasks, |task| {
            let Task { weight, tiles, activations, out } = task;
            self.compute.kernels.matmul(weight, tiles.clone(), activations, out);
        });
    }

    /// Applies `work` to every block, several at a time.
    fn each(&self, blocks: &mut [Block], work: impl Fn(&mut Block) + Sync + Send) {
        let several = blocks.len() > 1;
        self.deal(blocks.iter_mut(), several, work);
    }

    /// Applies `work` to every task, on the threads if `parallel`.
    fn deal<T: Send>(
        &self,
        tasks: impl Iterator<Item = T>,
        parallel: bool,
        work: impl Fn(T) + Sync + Send,
    ) {
        match parallel && self.compute.pool.threads() > 1 {
            true => {
                let mut tasks: Vec<_> = tasks.map(Some).collect();
                let take = |task: &mut Option<T>| task.take().into_iter().for_each(&work);
                self.compute.pool.for_each(&mut tasks, take);
            }
            false => tasks.for_each(work),
        }
    }
}

/// Some tiles of a weight, and the rows that they are multiplied with.
struct Task<'a> {
    weight: &'a PackedMatrix,
    tiles: Range<usize>,
    activations: &'a Activations,
    /// `(tiles.len(), rows, TILE_ROWS)`.
    out: &'a mut [f32],
}

fn tiles_per_task(weight: &PackedMatrix, threads: usize) -> usize {
    let tile_bytes = (weight.bytes() / weight.n_tiles()).max(1);
    let even = match threads {
        1 => weight.n_tiles(),
        _ => weight.n_tiles().div_ceil(threads * TASKS_PER_THREAD),
    };
    even.clamp(TASK_BYTES_MIN.div_ceil(tile_bytes), TASK_BYTES_MAX.div_ceil(tile_bytes))
}

/// Adds `bias`, `(width)`, to every row of `x`, `(rows, width)`.
fn add_to_rows(x: &mut [f32], bias: Option<&[f32]>) {
    let Some(bias) = bias else { return };
    for row in x.chunks_exact_mut(bias.len()) {
        row.iter_mut().zip(bias).for_each(|(sum, value)| *sum += value);
    }
}
