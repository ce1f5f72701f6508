//! Attention over the caches: what happens to heads between the products.

use atoll_kernels::{QUERIES_MAX, Queries, TILE_ROWS, attention_state_len};

use super::{Pass, ROWS_MIN, state_len};
use crate::attend::{Group, Span};
use crate::kv_cache::{HeadKv, KvCache};
use crate::pool::split::Parts;
use crate::pool::with_scratch;
use crate::stage::Stage;
use crate::tiles::{gather, scatter};
use crate::weights::LayerWeights;

/// Multiplications from which attention is dealt to the threads.
const ATTENTION_MIN: usize = 64 * 1024;

impl Stage {
    /// Rotates the keys of every row and writes them and the values to the caches.
    pub(super) fn append(
        &self,
        weights: &LayerWeights,
        layer_idx: usize,
        kvs: &mut [&mut KvCache],
        pass: &Pass,
    ) {
        let head_dim = self.config.head_dim;
        let k_first = weights.q.n_tiles() * TILE_ROWS;
        let v_first = k_first + weights.k.n_tiles() * TILE_ROWS;
        let write = |span: &Span, head_idx: usize, head: &mut HeadKv| {
            head.view().ask(head_dim, span.from_pos..span.from_pos + 1);
            with_scratch(3 * head_dim, |scratch| {
                let (k, rest) = scratch.split_at_mut(head_dim);
                let (v, spare) = rest.split_at_mut(head_dim);
                let first = head_idx * head_dim;
                for row in span.first..span.first + span.rows {
                    gather(&pass.qkv, pass.rows, row, k_first + first, k);
                    gather(&pass.qkv, pass.rows, row, v_first + first, v);
                    add_bias(k, weights.k_bias.as_deref(), first);
                    add_bias(v, weights.v_bias.as_deref(), first);
                    self.rotate(k, weights.k_norm.as_deref(), pass.rope.row(row), spare);
                    let position = span.from_pos + row - span.first;
                    self.compute.kernels.kv_append(k, v, position, head.view_mut());
                }
            });
        };
        // A sequence has one span in a pass at most, and they stand in the sequences' order.
        let span_of = |sequence| {
            let at = pass.spans.binary_search_by_key(&sequence, |span| span.sequence).ok()?;
            Some(&pass.spans[at])
        };
        let of_pass = kvs.iter_mut().enumerate().filter_map(|(at, kv)| Some((span_of(at)?, kv)));
        let heads = of_pass.flat_map(|(span, kv)| {
            let heads = kv.layer_mut(layer_idx).heads.iter_mut().enumerate();
            heads.map(move |(head_idx, head)| (span, head_idx, head))
        });
        let mut heads: Vec<_> = heads.collect();
        let is_parallel = pass.rows >= ROWS_MIN;
        self.compute.pool.split_if(is_parallel, Parts::new(&mut heads, 1), |_, head| {
            let (span, head_idx, head) = &mut head[0];
            write(span, *head_idx, head);
        });
    }

    /// Normalizes (if the model does) and rotates a head, `(head_dim)`.
    fn rotate(
        &self,
        head: &mut [f32],
        norm: Option<&[f32]>,
        (cos, sin): (&[f32], &[f32]),
        spare: &mut [f32],
    ) {
        let (kernels, rope) = (&self.compute.kernels, &self.config.rope);
        if let Some(weight) = norm {
            kernels.rms_norm(head, weight, self.config.norm_eps, spare);
            head.copy_from_slice(spare);
        }
        kernels.rope(&mut head[..rope.n_dims], cos, sin, rope.style);
    }

    /// Rotates the queries and writes them in columns.
    pub(super) fn queries(&self, weights: &LayerWeights, pass: &mut Pass) {
        let head_dim = self.config.head_dim;
        let Pass { plan, qkv, q, rope, rows, .. } = pass;
        let write = |group: &Group, q: &mut [f32]| {
            let columns = group.rows * group.heads.len();
            with_scratch(2 * head_dim, |scratch| {
                let (query, spare) = scratch.split_at_mut(head_dim);
                for column in 0..columns {
                    let row = group.row + column / group.heads.len();
                    let first = (group.heads.start + column % group.heads.len()) * head_dim;
                    gather(qkv, *rows, row, first, query);
                    add_bias(query, weights.q_bias.as_deref(), first);
                    self.rotate(query, weights.q_norm.as_deref(), rope.row(row), spare);
                    self.compute.kernels.round_queries(query);
                    for (d, x) in query.iter().enumerate() {
                        q[d * columns + column] = *x;
                    }
                }
            });
        };
        let parts = Parts::new(q, QUERIES_MAX * head_dim);
        let is_parallel = *rows >= ROWS_MIN;
        self.compute.pool.split_if(is_parallel, parts, |index, q| write(&plan.groups[index], q));
    }

    /// Every query gathers the values of the positions up to its own, into the tasks' states.
    pub(super) fn attend(&self, layer_idx: usize, kvs: &[&mut KvCache], pass: &mut Pass) {
        let (kernels, head_dim) = (&self.compute.kernels, self.config.head_dim);
        let scale = (1.0 / libm::sqrt(head_dim as f64)) as f32;
        let Pass { plan, q, states, .. } = pass;
        let parts = Parts::new(states, state_len(head_dim));
        self.compute.pool.split_if(plan.work >= ATTENTION_MIN, parts, |index, state| {
            let task = &plan.tasks[index];
            let group = &plan.groups[task.group];
            let (lens, columns) = group.lens();
            let q = &q[task.group * QUERIES_MAX * head_dim..][..columns * head_dim];
            let queries = Queries { q, lens: &lens[..columns], scale };
            let kv = kvs[group.sequence].layer(layer_idx).heads[group.kv_head].view();
            let state = &mut state[..columns * attention_state_len(head_dim)];
            kernels.attention_clear(state, head_dim);
            kernels.attention(&queries, kv, task.tiles.clone(), state);
        });
    }

    /// Merges the states of every group and writes what its heads gathered.
    pub(super) fn gather_heads(&self, pass: &mut Pass) {
        let (kernels, head_dim) = (&self.compute.kernels, self.config.head_dim);
        let Pass { plan, states, attended, rows, .. } = pass;
        let slot = state_len(head_dim);
        with_scratch(head_dim, |out| {
            for group in &plan.groups {
                let (_, columns) = group.lens();
                let used = columns * attention_state_len(head_dim);
                let (first, rest) = states[group.tasks.start * slot..].split_at_mut(slot);
                for other in rest.chunks_exact(slot).take(group.tasks.len() - 1) {
                    kernels.attention_merge(&mut first[..used], &other[..used], head_dim);
                }
                let states = first.chunks_exact(attention_state_len(head_dim));
                for (column, state) in states.take(columns).enumerate() {
                    let row = group.row + column / group.heads.len();
                    let head = group.heads.start + column % group.heads.len();
                    kernels.attention_finish(state, out);
                    scatter(out, attended, *rows, row, head * head_dim);
                }
            }
        });
    }
}

/// Adds to a head, `(head_dim)`, its part of `bias`, which begins at `first`.
fn add_bias(head: &mut [f32], bias: Option<&[f32]>, first: usize) {
    let Some(bias) = bias else { return };
    head.iter_mut().zip(&bias[first..]).for_each(|(sum, value)| *sum += value);
}
