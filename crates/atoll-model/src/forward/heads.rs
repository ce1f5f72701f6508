//! Attention over the caches: what happens to heads between the products.

use atoll_kernels::{QUERIES_MAX, Queries, TILE_ROWS, attention_state_len};

use super::{Pass, ROWS_MIN, state_len};
use crate::attend::{AttentionPlan, AttentionTask, Span};
use crate::kv_cache::{HeadKv, KvCache};
use crate::pool::split::Parts;
use crate::pool::with_scratch;
use crate::rope::RopeTable;
use crate::stage::Stage;
use crate::tiles::{gather, scatter};
use crate::weights::LayerWeights;

/// Multiplications from which attention is dealt to the threads.
const ATTENTION_MIN: usize = 64 * 1024;

/// Latest positions of a cache that are asked for while queries are prepared: as many as a core
/// fetches in that time.
const ASKED_MAX: usize = 128;

impl Stage {
    /// From the products in `pass.qkv` to what the heads gathered, `pass.attended`: writes keys and
    /// values to the caches, and has every query gather the values of the positions up to its own.
    ///
    /// Where every head of a cache has one group of queries and one task (each has one at least, so
    /// that their numbers tell), as when several sequences decode, a thread does all this for one
    /// head before the next, while its lines are at hand.
    /// Else everybody waits for the keys of all rows, as later rows look at them.
    pub(super) fn attend(
        &self,
        weights: &LayerWeights,
        layer_idx: usize,
        kvs: &mut [&mut KvCache],
        pass: &mut Pass,
    ) {
        let (head_dim, pool) = (self.config.head_dim, &self.compute.pool);
        let Pass { spans, plan, qkv, q, states, attended, rope, rows, .. } = pass;
        let heads = Heads { stage: self, weights, qkv, rows: *rows, rope, plan };
        let (q_len, state_len) = (QUERIES_MAX * head_dim, state_len(head_dim));
        let mut caches = caches_of(spans, layer_idx, kvs);
        let is_parallel = *rows >= ROWS_MIN;
        let is_long = plan.work >= ATTENTION_MIN;
        if plan.groups.len() == caches.len() && plan.tasks.len() == caches.len() {
            let parts = (Parts::new(&mut caches, 1), Parts::new(q, q_len));
            let parts = (parts, Parts::new(states, state_len));
            pool.split_if(is_parallel || is_long, parts, |index, ((cache, q), state)| {
                let (span, kv_head, cache) = &mut cache[0];
                let first = span.from_pos.saturating_sub(ASKED_MAX);
                cache.view().ask(head_dim, first..span.from_pos + span.rows);
                heads.queries(index, q);
                heads.append(span, *kv_head, cache);
                heads.gather_values(&plan.tasks[index], q, cache, state);
                heads.finish(index, state, q);
            });
        } else {
            pool.split_if(is_parallel, Parts::new(&mut caches, 1), |_, cache| {
                let (span, kv_head, cache) = &mut cache[0];
                cache.view().ask(head_dim, span.from_pos..span.from_pos + 1);
                heads.append(span, *kv_head, cache);
            });
            let parts = Parts::new(q, q_len);
            pool.split_if(is_parallel, parts, |index, q| heads.queries(index, q));
            pool.split_if(is_long, Parts::new(states, state_len), |index, state| {
                let task = &plan.tasks[index];
                let group = &plan.groups[task.group];
                let cache = &kvs[group.sequence].layer(layer_idx).heads[group.kv_head];
                heads.gather_values(task, &q[task.group * q_len..], cache, state);
            });
            for (index, q) in q.chunks_exact_mut(q_len).enumerate() {
                heads.finish(index, &mut states[plan.groups[index].tasks.start * state_len..], q);
            }
        }
        for (group, gathered) in plan.groups.iter().zip(q.chunks_exact(q_len)) {
            let columns = group.rows * group.heads.len();
            for (column, head) in gathered.chunks_exact(head_dim).take(columns).enumerate() {
                let (row, first) = group.place(column, head_dim);
                scatter(head, attended, *rows, row, first);
            }
        }
    }
}

/// For every span and head of its cache, in this order: the span, the head's index, the head.
fn caches_of<'a>(
    spans: &'a [Span],
    layer_idx: usize,
    kvs: &'a mut [&mut KvCache],
) -> Vec<(&'a Span, usize, &'a mut HeadKv)> {
    // A sequence has one span in a pass at most, and they stand in the sequences' order.
    let span_of = |sequence| {
        let at = spans.binary_search_by_key(&sequence, |span| span.sequence).ok()?;
        Some(&spans[at])
    };
    let of_pass = kvs.iter_mut().enumerate().filter_map(|(at, kv)| Some((span_of(at)?, kv)));
    let heads = of_pass.flat_map(|(span, kv)| {
        let heads = kv.layer_mut(layer_idx).heads.iter_mut().enumerate();
        heads.map(move |(head_idx, head)| (span, head_idx, head))
    });
    heads.collect()
}

/// What happens to heads of one layer in one pass, one at a time, on any thread.
struct Heads<'a> {
    stage: &'a Stage,
    weights: &'a LayerWeights,
    /// Queries, keys and values of all rows: the tiles of the products one behind another.
    qkv: &'a [f32],
    rows: usize,
    rope: &'a RopeTable,
    plan: &'a AttentionPlan,
}

impl Heads<'_> {
    /// Rotates the keys of the rows of `span` and writes them and the values to `cache`, its head
    /// `kv_head`.
    fn append(&self, span: &Span, kv_head: usize, cache: &mut HeadKv) {
        let (weights, head_dim) = (self.weights, self.stage.config.head_dim);
        let k_first = weights.q.n_tiles() * TILE_ROWS;
        let v_first = k_first + weights.k.n_tiles() * TILE_ROWS;
        let first = kv_head * head_dim;
        with_scratch(3 * head_dim, |scratch| {
            let (k, rest) = scratch.split_at_mut(head_dim);
            let (v, spare) = rest.split_at_mut(head_dim);
            for row in span.first..span.first + span.rows {
                gather(self.qkv, self.rows, row, k_first + first, k);
                gather(self.qkv, self.rows, row, v_first + first, v);
                add_bias(k, weights.k_bias.as_deref(), first);
                add_bias(v, weights.v_bias.as_deref(), first);
                self.rotate(k, weights.k_norm.as_deref(), row, spare);
                let position = span.from_pos + row - span.first;
                self.stage.compute.kernels.kv_append(k, v, position, cache.view_mut());
            }
        });
    }

    /// Normalizes (if the model does) and rotates a head of `row`, `(head_dim)`.
    fn rotate(&self, head: &mut [f32], norm: Option<&[f32]>, row: usize, spare: &mut [f32]) {
        let (kernels, config) = (&self.stage.compute.kernels, &self.stage.config);
        if let Some(weight) = norm {
            kernels.rms_norm(head, weight, config.norm_eps, spare);
            head.copy_from_slice(spare);
        }
        let (cos, sin) = self.rope.row(row);
        kernels.rope(&mut head[..config.rope.n_dims], cos, sin, config.rope.style);
    }

    /// Rotates the queries of a group and writes them in columns to `q`, `(head_dim, columns)`.
    fn queries(&self, group: usize, q: &mut [f32]) {
        let (group, head_dim) = (&self.plan.groups[group], self.stage.config.head_dim);
        let columns = group.rows * group.heads.len();
        with_scratch(2 * head_dim, |scratch| {
            let (query, spare) = scratch.split_at_mut(head_dim);
            for column in 0..columns {
                let (row, first) = group.place(column, head_dim);
                gather(self.qkv, self.rows, row, first, query);
                add_bias(query, self.weights.q_bias.as_deref(), first);
                self.rotate(query, self.weights.q_norm.as_deref(), row, spare);
                self.stage.compute.kernels.round_queries(query);
                for (q, x) in q.chunks_exact_mut(columns).zip(&*query) {
                    q[column] = *x;
                }
            }
        });
    }

    /// Has the columns of `q` gather the values of a task's positions into `state`.
    fn gather_values(&self, task: &AttentionTask, q: &[f32], cache: &HeadKv, state: &mut [f32]) {
        let (kernels, head_dim) = (&self.stage.compute.kernels, self.stage.config.head_dim);
        let scale = (1.0 / libm::sqrt(head_dim as f64)) as f32;
        let (lens, columns) = self.plan.groups[task.group].lens();
        let queries = Queries { q: &q[..columns * head_dim], lens: &lens[..columns], scale };
        let state = &mut state[..columns * attention_state_len(head_dim)];
        kernels.attention_clear(state, head_dim);
        kernels.attention(&queries, cache.view(), task.tiles.clone(), state);
    }

    /// Merges the states of a group, of which `states` is the first, and writes what its columns
    /// gathered to `out`, `(columns, head_dim)`.
    fn finish(&self, group: usize, states: &mut [f32], out: &mut [f32]) {
        let (group, head_dim) = (&self.plan.groups[group], self.stage.config.head_dim);
        let (kernels, slot) = (&self.stage.compute.kernels, state_len(head_dim));
        let used = group.rows * group.heads.len() * attention_state_len(head_dim);
        let (first, rest) = states.split_at_mut(slot);
        for other in rest.chunks_exact(slot).take(group.tasks.len() - 1) {
            kernels.attention_merge(&mut first[..used], &other[..used], head_dim);
        }
        let states = first[..used].chunks_exact(attention_state_len(head_dim));
        for (state, head) in states.zip(out.chunks_exact_mut(head_dim)) {
            kernels.attention_finish(state, head);
        }
    }
}

/// Adds to a head, `(head_dim)`, its part of `bias`, which begins at `first`.
fn add_bias(head: &mut [f32], bias: Option<&[f32]>, first: usize) {
    let Some(bias) = bias else { return };
    head.iter_mut().zip(&bias[first..]).for_each(|(sum, value)| *sum += value);
}
