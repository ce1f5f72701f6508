//! A query as numbers to search through: every cost and every limit looked up once.

use crate::cost;
use crate::error::PlanError;
use crate::placement::{Placement, Stage};
use crate::query::Query;

/// Stands for "no way" in sums that must not overflow.
pub(crate) const NEVER: u64 = 1 << 62;

/// One form of a layer on some node, or of a hop: what it takes and what quality it costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    /// ns.
    pub(crate) time: u64,
    /// Millionths of a nat.
    pub(crate) loss: u64,
}

/// Everything that the searches read.
#[derive(Debug)]
pub(crate) struct Tables {
    /// Nodes.
    pub(crate) n: usize,
    /// Layers.
    pub(crate) n_layers: usize,
    pub(crate) owner: usize,
    pub(crate) loss_max: u64,
    /// Embedding and head, ns.
    pub(crate) ends_ns: u64,
    /// Per node: bytes for layers.
    pub(crate) memory: Vec<u64>,
    /// Per node: once for each stage, ns.
    pub(crate) stage_ns: Vec<u64>,
    /// Per layer and variant: bytes with KV cache, and loss.
    pub(crate) variants: Vec<Vec<(u64, u64)>>,
    /// Bytes with KV cache of layers `0..i`, each in the smallest variant whose loss alone is
    /// allowed: `n_layers + 1`.
    pub(crate) bytes_min: Vec<u64>,
    /// Per codec: `(n, n)` row-major, ns; [`NEVER`] without a link.
    hops: Vec<Vec<u64>>,
    /// Per codec: loss.
    pub(crate) codec_loss: Vec<u64>,
    /// Per node and layer: how many layers in a row from there it may hold.
    allowed: Vec<u16>,
    /// Per node, layer and variant: ns.
    times: Vec<Vec<Vec<u64>>>,
    /// Sessions in one pass.
    rows: u64,
    /// Per node: what one stage may take at most, ns.
    pub(crate) stage_max: Vec<u64>,
}

impl Tables {
    /// Looks everything up for passes of `rows` sessions.
    ///
    /// # Errors
    /// [`PlanError`] if the query contradicts itself or memory cannot suffice in sum.
    pub(crate) fn new(query: &Query<'_>, rows: u64) -> Result<Self, PlanError> {
        query.check()?;
        let (n, n_layers) = (query.fleet.nodes().len(), query.model.layers.len());
        let n_codecs = query.model.codecs.len();
        let kv_bytes = query.kv_layer_bytes();
        let layers = query.model.layers.iter();
        let variants: Vec<Vec<(u64, u64)>> = layers
            .map(|layer| {
                let of = layer.variants.iter().map(|v| (v.bytes.saturating_add(kv_bytes), v.loss));
                of.collect()
            })
            .collect();
        let mut sum = 0_u64;
        let bytes_min = std::iter::once(0)
            .chain(variants.iter().map(|of| {
                let allowed = of.iter().filter(|(_, loss)| *loss <= query.policy.loss_max);
                sum = sum.saturating_add(allowed.map(|(bytes, _)| *bytes).min().unwrap_or(0));
                sum
            }))
            .collect();
        let hop = |codec, u, v| {
            let hop = cost::rows_ns(query, (u, v), codec, rows);
            let ns = if u == v && codec > 0 { None } else { hop };
            ns.map_or(NEVER, |ns| ns.min(NEVER))
        };
        let hops = (0..n_codecs)
            .map(|codec| {
                (0..n).flat_map(|u| (0..n).map(move |v| (u, v))).map(move |(u, v)| hop(codec, u, v))
            })
            .map(Iterator::collect)
            .collect();
        let time = |node, layer: usize| {
            let variants = 0..query.model.layers[layer].variants.len();
            variants.map(|variant| cost::layer_rows_ns(query, node, layer, variant, rows)).collect()
        };
        let times = (0..n).map(|v| (0..n_layers).map(|layer| time(v, layer)).collect()).collect();
        let tables = Self {
            n,
            n_layers,
            owner: query.fleet.owner(),
            loss_max: query.policy.loss_max,
            ends_ns: cost::batch_ns(query, query.fleet.owner(), cost::ends_ns(query), rows),
            memory: (0..n).map(|v| query.layer_memory_bytes(v)).collect(),
            stage_ns: query.fleet.nodes().iter().map(|node| node.stage_ns).collect(),
            variants,
            bytes_min,
            hops,
            codec_loss: query.model.codecs.iter().map(|codec| codec.loss).collect(),
            allowed: runs(query),
            times,
            rows,
            stage_max: vec![u64::MAX; n],
        };
        tables.check_room(query)?;
        Ok(tables)
    }

    /// The same for plans of which no node and no link is busy for longer than `busiest_ns` with
    /// one pass.
    pub(crate) fn limited(&self, query: &Query<'_>, busiest_ns: u64) -> Self {
        let (n, n_layers) = (self.n, self.n_layers);
        let own = |v| if v == self.owner { self.ends_ns } else { 0 };
        let stage_max: Vec<u64> = (0..n).map(|v| busiest_ns.saturating_sub(own(v))).collect();
        let mut allowed = self.allowed.clone();
        for v in 0..n {
            // A stage as fast as it can be, from where it starts: two ends that move along.
            let fastest = |layer| self.times(v, layer).iter().copied().min().unwrap_or(0);
            let (mut end, mut took) = (0, self.stage_ns[v]);
            for start in 0..n_layers {
                while end < n_layers && took.saturating_add(fastest(end)) <= stage_max[v] {
                    took += fastest(end);
                    end += 1;
                }
                let run = &mut allowed[v * n_layers + start];
                *run = (*run).min(u16::try_from(end - start).expect("layers are few"));
                if end == start {
                    end += 1;
                } else {
                    took -= fastest(start);
                }
            }
        }
        let mut hops = self.hops.clone();
        for (codec, hops) in hops.iter_mut().enumerate() {
            for (pair, hop) in hops.iter_mut().enumerate() {
                let busy_ns = cost::transfer_ns(query, (pair / n, pair % n), codec, self.rows);
                if busy_ns > busiest_ns {
                    *hop = NEVER;
                }
            }
        }
        Self {
            hops,
            allowed,
            stage_max,
            memory: self.memory.clone(),
            stage_ns: self.stage_ns.clone(),
            variants: self.variants.clone(),
            bytes_min: self.bytes_min.clone(),
            codec_loss: self.codec_loss.clone(),
            times: self.times.clone(),
            ..*self
        }
    }

    fn check_room(&self, query: &Query<'_>) -> Result<(), PlanError> {
        let usable = (0..self.n).filter(|v| !query.policy.excluded.contains(v));
        let memory_bytes = usable.map(|v| self.memory[v]).fold(0, u64::saturating_add);
        let needed_bytes = self.bytes_min[self.n_layers];
        if needed_bytes > memory_bytes {
            return Err(PlanError::NoRoom { needed_bytes, memory_bytes });
        }
        Ok(())
    }

    /// A hop in a codec, ns; [`NEVER`] without a link. Inside one node it is 0 in codec 0 alone.
    pub(crate) fn hop(&self, codec: usize, from: usize, to: usize) -> u64 {
        self.hops[codec][from * self.n + to]
    }

    /// Hops from one node to all others in a codec, ns.
    pub(crate) fn hops_from(&self, codec: usize, from: usize) -> &[u64] {
        &self.hops[codec][from * self.n..(from + 1) * self.n]
    }

    /// The codecs of a hop with what each takes.
    pub(crate) fn hop_choices(
        &self,
        from: usize,
        to: usize,
    ) -> impl Iterator<Item = (usize, Choice)> + '_ {
        let codecs = self.codec_loss.iter().enumerate();
        let choices = codecs.map(move |(codec, &loss)| {
            let loss = if from == to { 0 } else { loss };
            (codec, Choice { time: self.hop(codec, from, to), loss })
        });
        choices.filter(|(_, choice)| choice.time < NEVER)
    }

    /// One token through a layer of a node, per variant, ns.
    pub(crate) fn times(&self, node: usize, layer: usize) -> &[u64] {
        &self.times[node][layer]
    }

    /// The end of the longest run of layers from `start` that a node may hold, and has room for
    /// if each takes its smallest variant; `start` if there is none.
    pub(crate) fn furthest(&self, node: usize, start: usize) -> usize {
        let end = start + usize::from(self.allowed[node * self.n_layers + start]);
        let fits = |&end: &usize| self.bytes_min[end] - self.bytes_min[start] <= self.memory[node];
        if fits(&end) {
            return end;
        }
        let ends = &self.bytes_min[start..=end];
        start + ends.partition_point(|sum| sum - self.bytes_min[start] <= self.memory[node]) - 1
    }

    /// The placement of these stages, each with the codec of the hop into it, and of the last hop.
    pub(crate) fn placement(stages: Vec<(Stage, usize)>, last_codec: usize) -> Placement {
        let (stages, mut codecs): (Vec<Stage>, Vec<usize>) = stages.into_iter().unzip();
        codecs.push(last_codec);
        Placement { stages, codecs }
    }
}

/// Per node and layer: how many layers a stage may have that begins there.
fn runs(query: &Query<'_>) -> Vec<u16> {
    let (n, n_layers) = (query.fleet.nodes().len(), query.model.layers.len());
    let mut runs = vec![0_u16; n * n_layers];
    for node in 0..n {
        let mut run = 0;
        for layer in (0..n_layers).rev() {
            run = if query.allows(node, layer) { run + 1 } else { 0 };
            runs[node * n_layers + layer] = if query.may_begin(node, layer) { run } else { 0 };
        }
    }
    runs
}
