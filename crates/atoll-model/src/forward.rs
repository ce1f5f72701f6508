//! The forward pass, one for every architecture: attention, feed-forward, head.
//!
//! Rows are positions, of one sequence or of several; they travel in tiles (see [`crate::tiles`]),
//! as the kernels write products and read their inputs. A product of `x`, `(rows, in)`, with a
//! weight, `(out, in)`, is `(rows, out)`.
//!
//! Each `split` below deals work to the threads and waits for them: five times a layer for one
//! row. What lies between is done by the calling thread.

mod heads;

use atoll_kernels::{
    Activations, ActivationsPart, PackedMatrix, QUERIES_MAX, TILE_ROWS, attention_state_len,
};

use crate::attend::{AttentionPlan, Span};
use crate::kv_cache::KvCache;
use crate::pool::split::{Columns, Parts};
use crate::pool::with_scratch;
use crate::rope::RopeTable;
use crate::stage::Stage;
use crate::tiles::{gather, tiled_len};
use crate::weights::{HeadWeights, LayerWeights};

/// Weight bytes of one task at most, so that they stay in a core's cache for all rows.
const TASK_BYTES_MAX: usize = 256 * 1024;
/// Weight bytes of one task at least for one row, so that dealing it out costs little beside it.
const TASK_BYTES_MIN: usize = 16 * 1024;
/// Tasks that each thread should find in one product, so that a slow thread is helped: of one row,
/// whose tasks are cheap to begin, and of several.
const TASKS_PER_THREAD: [usize; 2] = [16, 4];
/// Numbers from which quantizing them is dealt to the threads.
const QUANTIZE_MIN: usize = 4 * 1024;
/// Rows from which embeddings, queries and keys are prepared by all threads.
pub(crate) const ROWS_MIN: usize = 4;

/// Rows on their way through the layers, with the buffers that they need.
#[derive(Debug)]
pub(crate) struct Pass {
    spans: Vec<Span>,
    rows: usize,
    /// Residual stream, `(rows, dim)`.
    pub(crate) x: Vec<f32>,
    /// For every row, its factor of the norm at hand.
    scales: Vec<f32>,
    /// Input of a product, `(rows, dim)` or `(rows, n_heads * head_dim)`.
    input: Activations,
    /// `silu(gate) * up`, `(rows, ffn_dim)`, as wide as the layer at hand.
    inner: Activations,
    /// Queries, keys and values: the tiles of the products one behind another.
    qkv: Vec<f32>,
    /// For every group its queries in columns, `(head_dim, columns)`, then what they gathered,
    /// `(columns, head_dim)`.
    q: Vec<f32>,
    /// States of the columns of every task of attention.
    states: Vec<f32>,
    /// What the heads gathered, `(rows, n_heads * head_dim)`.
    attended: Vec<f32>,
    /// A product that is added to the residual stream, `(rows, dim)`.
    product: Vec<f32>,
    rope: RopeTable,
    plan: AttentionPlan,
}

impl Stage {
    /// A pass of `spans`, `rows` in all, that starts with `x`, `(rows, dim)`.
    pub(crate) fn new_pass(&self, spans: Vec<Span>, rows: usize, x: Vec<f32>) -> Pass {
        let (config, threads) = (&self.config, self.compute.pool.threads());
        let plan = AttentionPlan::new(config, &spans, threads);
        let tiles = [config.q_dim(), config.kv_dim(), config.kv_dim()].map(|n| tiled_len(rows, n));
        let positions = spans.iter().flat_map(|span| span.from_pos..span.from_pos + span.rows);
        Pass {
            rope: self.rope.table(positions),
            rows,
            x,
            scales: vec![0.0; rows],
            input: Activations::new(),
            inner: Activations::new(),
            qkv: vec![0.0; tiles.iter().sum()],
            q: vec![0.0; plan.groups.len() * QUERIES_MAX * config.head_dim],
            states: vec![0.0; plan.tasks.len() * state_len(config.head_dim)],
            attended: vec![0.0; tiled_len(rows, config.q_dim())],
            product: vec![0.0; tiled_len(rows, config.dim)],
            spans,
            plan,
        }
    }

    /// Takes the rows through every layer and counts their positions.
    pub(crate) fn run_pass(&self, kvs: &mut [&mut KvCache], pass: &mut Pass) {
        for (layer_idx, weights) in self.weights.layers.iter().enumerate() {
            self.attention(weights, layer_idx, kvs, pass);
            self.feed_forward(weights, pass);
        }
        for span in &pass.spans {
            kvs[span.sequence].advance(span.rows);
        }
    }

    /// `x += o(attend(rope(q), rope(k), v))`, where `q`, `k`, `v` are products of `norm(x)`.
    fn attention(
        &self,
        weights: &LayerWeights,
        layer_idx: usize,
        kvs: &mut [&mut KvCache],
        pass: &mut Pass,
    ) {
        let qkv = [&weights.q, &weights.k, &weights.v];
        self.norm(pass, &weights.attn_norm, &qkv);
        self.product(&qkv, &pass.input, &mut pass.qkv);
        self.attend(weights, layer_idx, kvs, pass);
        pass.input.reset(pass.rows, self.config.q_dim(), &[&weights.o]);
        let Pass { attended, input, .. } = pass;
        self.each_part(input, |kernels_part, tiles| {
            self.compute.kernels.quantize(&attended[tiles], kernels_part);
        });
        self.add_product(&weights.o, &pass.input, &mut pass.product, &mut pass.x);
    }

    /// `x += down(silu(gate) * up)`, where `gate` and `up` are products of `norm(x)`.
    fn feed_forward(&self, weights: &LayerWeights, pass: &mut Pass) {
        let (rows, kernels) = (pass.rows, &self.compute.kernels);
        self.norm(pass, &weights.ffn_norm, &[&weights.gate, &weights.up]);
        let Pass { input, inner, .. } = pass;
        inner.reset(rows, weights.down.cols(), &[&weights.down]);
        let n_tiles = weights.gate.n_tiles();
        // A step of 32 inner columns is two tiles of both.
        let steps = self.tiles_per_task(&[&weights.gate, &weights.up], rows).div_ceil(4);
        self.parts(inner, steps, |index, part| {
            let tiles = 2 * steps * index..n_tiles.min(2 * steps * (index + 1));
            let len = tiles.len() * rows * TILE_ROWS;
            with_scratch(2 * len, |scratch| {
                let (gate, up) = scratch.split_at_mut(len);
                let next = Some((&weights.up, tiles.start));
                kernels.matmul_then(&weights.gate, tiles.clone(), next, input, gate);
                let next = (tiles.end < n_tiles).then_some((&weights.gate, tiles.end));
                kernels.matmul_then(&weights.up, tiles, next, input, up);
                kernels.quantize_gated(gate, up, part);
            });
        });
        self.add_product(&weights.down, &pass.inner, &mut pass.product, &mut pass.x);
    }

    /// `matrix(norm(x))` of `x`, `(rows, dim)` in tiles: logits, `(rows, vocab_size)` row-major.
    pub(crate) fn head(&self, head: &HeadWeights, rows: usize, x: &[f32], logits: &mut [f32]) {
        let (mut scales, mut input) = (vec![0.0; rows], Activations::new());
        input.reset(rows, self.config.dim, &[&head.matrix]);
        self.normed(x, &head.norm, &mut scales, &mut input);
        let (kernels, per_task) =
            (&self.compute.kernels, self.tiles_per_task(&[&head.matrix], rows));
        let parts = Columns::new(logits, rows, per_task * TILE_ROWS);
        self.compute.pool.split(parts, |index, mut out| {
            let (first, n) = (index * per_task, out.cols().div_ceil(TILE_ROWS));
            with_scratch(n * rows * TILE_ROWS, |tiles| {
                kernels.matmul(&head.matrix, first..first + n, &input, tiles);
                for row in 0..rows {
                    gather(tiles, rows, row, 0, out.row(row));
                }
            });
        });
    }

    /// Makes `rms_norm(x) * weight` the input of products with `readers`.
    fn norm(&self, pass: &mut Pass, weight: &[f32], readers: &[&PackedMatrix]) {
        let Pass { x, scales, input, rows, .. } = pass;
        input.reset(*rows, self.config.dim, readers);
        self.normed(x, weight, scales, input);
    }

    fn normed(&self, x: &[f32], weight: &[f32], scales: &mut [f32], input: &mut Activations) {
        let (kernels, rows) = (&self.compute.kernels, scales.len());
        kernels.norm_scales(x, self.config.dim, self.config.norm_eps, scales);
        self.each_part(input, |part, tiles| {
            let columns = tiles.start / rows..tiles.end / rows;
            kernels.quantize_normed(&x[tiles], scales, &weight[columns], part);
        });
    }

    /// Products of `x` with `weights`: their tiles one behind another.
    fn product(&self, weights: &[&PackedMatrix], x: &Activations, out: &mut [f32]) {
        let (kernels, tile_len) = (&self.compute.kernels, x.rows() * TILE_ROWS);
        let per_task = self.tiles_per_task(weights, x.rows());
        self.compute.pool.split(Parts::new(out, per_task * tile_len), |index, mut out| {
            let mut first = index * per_task;
            for weight in weights {
                let n = weight.n_tiles().saturating_sub(first).min(out.len() / tile_len);
                let (here, rest) = out.split_at_mut(n * tile_len);
                if n > 0 {
                    kernels.matmul(weight, first..first + n, x, here);
                }
                first = (first + n).saturating_sub(weight.n_tiles());
                out = rest;
            }
        });
    }

    /// `to += weight(x)`; `product` is room for the product.
    fn add_product(
        &self,
        weight: &PackedMatrix,
        x: &Activations,
        product: &mut [f32],
        to: &mut [f32],
    ) {
        let (kernels, tile_len) = (&self.compute.kernels, x.rows() * TILE_ROWS);
        let per_task = self.tiles_per_task(&[weight], x.rows());
        let part_len = per_task * tile_len;
        let parts = (Parts::new(product, part_len), Parts::new(to, part_len));
        self.compute.pool.split(parts, |index, (product, to)| {
            let first = index * per_task;
            kernels.matmul(weight, first..first + to.len() / tile_len, x, product);
            kernels.add(to, product);
        });
    }

    /// Writes `x` in parts: `work` gets a part and where its tiles stand.
    fn each_part(
        &self,
        x: &mut Activations,
        work: impl Fn(&mut ActivationsPart<'_>, std::ops::Range<usize>) + Sync,
    ) {
        let (rows, len) = (x.rows(), tiled_len(x.rows(), x.cols()));
        let steps = x.cols().div_ceil(2 * TILE_ROWS);
        let n_parts = if len < QUANTIZE_MIN { 1 } else { 2 * self.compute.pool.threads() };
        let per_part = steps.div_ceil(n_parts);
        let part_len = 2 * TILE_ROWS * rows * per_part;
        self.parts(x, per_part, |index, part| {
            work(part, index * part_len..len.min((index + 1) * part_len));
        });
    }

    /// Applies `work` to parts of `x` of `steps` steps.
    fn parts(
        &self,
        x: &mut Activations,
        steps: usize,
        work: impl Fn(usize, &mut ActivationsPart<'_>) + Sync,
    ) {
        let (rows, is_quantized) = (x.rows(), x.is_quantized());
        let (codes, numbers, floats) = x.slices();
        let len = steps * rows * 2 * TILE_ROWS;
        let numbers = Parts::new(numbers, steps * rows);
        let parts = ((numbers, Parts::new(codes, len)), Parts::new(floats, len));
        self.compute.pool.split(parts, |index, ((numbers, codes), floats)| {
            work(index, &mut ActivationsPart::new(rows, is_quantized, codes, numbers, floats));
        });
    }

    /// Tiles of one task of a product of `rows` rows with `weights`, one behind another.
    fn tiles_per_task(&self, weights: &[&PackedMatrix], rows: usize) -> usize {
        let threads = self.compute.pool.threads();
        let n_tiles: usize = weights.iter().map(|weight| weight.n_tiles()).sum();
        let bytes: usize = weights.iter().map(|weight| weight.bytes()).sum();
        let tile_bytes = (bytes / n_tiles).max(1);
        let even = match threads {
            1 => n_tiles,
            _ => n_tiles.div_ceil(threads * TASKS_PER_THREAD[usize::from(rows > 1)]),
        };
        let least = (TASK_BYTES_MIN / rows.min(4)).div_ceil(tile_bytes);
        even.clamp(least, least.max(TASK_BYTES_MAX / tile_bytes))
    }
}

/// Floats of the states of one task.
const fn state_len(head_dim: usize) -> usize {
    QUERIES_MAX * attention_state_len(head_dim)
}
