//! Keys and values of the positions that a session has seen, as half-precision tiles.

use std::ops::Range;

use atoll_kernels::KV_TILE;

use crate::config::ModelConfig;
use crate::error::ModelError;

/// Keys and values of one session for the layers of one stage.
///
/// Memory grows tile by tile ([`KV_TILE`] positions) as positions are appended and never passes
/// what `positions_max` needs.
#[derive(Debug, Clone)]
pub struct KvCache {
    layers: Vec<LayerKv>,
    head_dim: usize,
    len: usize,
    positions_max: usize,
}

/// One layer's cache: every key-value head on its own.
#[derive(Debug, Clone)]
pub(crate) struct LayerKv {
    /// `(n_kv_heads)`.
    pub(crate) heads: Vec<HeadKv>,
}

/// One head's keys and values, f16 bits.
#[derive(Debug, Clone, Default)]
pub(crate) struct HeadKv {
    /// `(n_tiles, head_dim, KV_TILE)`.
    pub(crate) k: Vec<u16>,
    /// `(n_tiles, KV_TILE, head_dim)`.
    pub(crate) v: Vec<u16>,
}

impl KvCache {
    /// An empty cache for `layers` of the model, for at most `positions_max` positions.
    #[must_use]
    pub fn new(config: &ModelConfig, layers: Range<usize>, positions_max: usize) -> Self {
        let layer = LayerKv { heads: vec![HeadKv::default(); config.n_kv_heads] };
        Self { layers: vec![layer; layers.len()], head_dim: config.head_dim, len: 0, positions_max }
    }

    /// Bytes that `positions` positions of `n_layers` layers take.
    #[must_use]
    pub const fn bytes_for(config: &ModelConfig, n_layers: usize, positions: usize) -> usize {
        let per_position = 2 * size_of::<u16>() * config.n_kv_heads * config.head_dim;
        n_layers * per_position * positions.div_ceil(KV_TILE) * KV_TILE
    }

    /// Number of positions held.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether no position is held.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Largest number of positions that may be held.
    #[must_use]
    pub const fn positions_max(&self) -> usize {
        self.positions_max
    }

    /// Forgets every position from `len` on; a longer `len` changes nothing.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Memory allocated, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let heads = self.layers.iter().flat_map(|layer| &layer.heads);
        heads.map(|head| (head.k.capacity() + head.v.capacity()) * size_of::<u16>()).sum()
    }

    /// Makes room for `n` more positions in every layer; their contents are undefined until
    /// written, and they count only after [`KvCache::advance`].
    ///
    /// # Errors
    /// [`ModelError::ContextExceeded`] if that is more than `positions_max`.
    pub(crate) fn make_room(&mut self, n: usize) -> Result<(), ModelError> {
        let positions = self.len.saturating_add(n);
        if positions > self.positions_max {
            let context = self.positions_max;
            return Err(ModelError::ContextExceeded { tokens: positions, context });
        }
        let tile = KV_TILE * self.head_dim;
        let bound = self.positions_max.div_ceil(KV_TILE) * tile;
        let need = positions.div_ceil(KV_TILE) * tile;
        for head in self.layers.iter_mut().flat_map(|layer| &mut layer.heads) {
            grow(&mut head.k, need, bound);
            grow(&mut head.v, need, bound);
        }
        Ok(())
    }

    /// Whether the cache is one for `n_layers` layers of the model.
    pub(crate) fn fits(&self, config: &ModelConfig, n_layers: usize) -> bool {
        let heads = self.layers.first().map_or(config.n_kv_heads, |layer| layer.heads.len());
        (self.layers.len(), heads, self.head_dim) == (n_layers, config.n_kv_heads, config.head_dim)
    }

    /// Counts `n` positions that every layer has written.
    pub(crate) fn advance(&mut self, n: usize) {
        self.len += n;
    }

    /// The caches of the stage's layers, in order.
    pub(crate) fn layers_mut(&mut self) -> &mut [LayerKv] {
        &mut self.layers
    }
}

/// Lengthens `values` to at least `need`, a quarter ahead so that copies stay rare, never beyond
/// `bound`.
fn grow(values: &mut Vec<u16>, need: usize, bound: usize) {
    if need <= values.len() {
        return;
    }
    if need > values.capacity() {
        let wanted = need.max(values.len() + values.len() / 4).min(bound);
        values.reserve_exact(wanted - values.len());
    }
    values.resize(need, 0);
}
