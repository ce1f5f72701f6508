//! Keys and values of the positions that a session has seen, in tiles of positions.

use std::ops::Range;

use atoll_kernels::{KV_TILE, KvHead, KvHeadMut};
use serde::{Deserialize, Serialize};

use crate::config::ModelConfig;
use crate::error::ModelError;

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvType {
    /// IEEE halves.
    #[default]
    F16,
    /// Integers of ±127 with one scale per position and head: half the memory.
    Int8,
}

impl KvType {
    /// Bytes of one position of one key-value head.
    const fn position_bytes(self, head_dim: usize) -> usize {
        let numbers = head_dim + width(head_dim);
        match self {
            Self::F16 => 2 * numbers,
            Self::Int8 => numbers + 2 * size_of::<f32>(),
        }
    }
}

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

/// One head's keys, `(n_tiles, head_dim, KV_TILE)`, and values, `(positions, width)`, where width
/// is head_dim rounded up to 16; scales are `(positions)`.
#[derive(Debug, Clone)]
pub(crate) enum HeadKv {
    F16 { k: Vec<u16>, v: Vec<u16> },
    Int8 { k: Vec<i8>, v: Vec<i8>, k_scales: Vec<f32>, v_scales: Vec<f32> },
}

impl HeadKv {
    fn new(kind: KvType) -> Self {
        match kind {
            KvType::F16 => Self::F16 { k: Vec::new(), v: Vec::new() },
            KvType::Int8 => {
                let scales = (Vec::new(), Vec::new());
                let (k_scales, v_scales) = scales;
                Self::Int8 { k: Vec::new(), v: Vec::new(), k_scales, v_scales }
            }
        }
    }

    /// As the kernels read it.
    pub(crate) fn view(&self) -> KvHead<'_> {
        match self {
            Self::F16 { k, v } => KvHead::F16 { k, v },
            Self::Int8 { k, v, k_scales, v_scales } => KvHead::I8 { k, v, k_scales, v_scales },
        }
    }

    /// As the kernels write it.
    pub(crate) fn view_mut(&mut self) -> KvHeadMut<'_> {
        match self {
            Self::F16 { k, v } => KvHeadMut::F16 { k, v },
            Self::Int8 { k, v, k_scales, v_scales } => KvHeadMut::I8 { k, v, k_scales, v_scales },
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::F16 { k, v } => (k.capacity() + v.capacity()) * size_of::<u16>(),
            Self::Int8 { k, v, k_scales, v_scales } => {
                let scales = k_scales.capacity() + v_scales.capacity();
                k.capacity() + v.capacity() + scales * size_of::<f32>()
            }
        }
    }

    /// Makes room for `need` positions, whole tiles, and never for more than `bound`.
    fn grow(&mut self, need: usize, bound: usize, head_dim: usize) {
        let width = width(head_dim);
        match self {
            Self::F16 { k, v } => {
                grow(k, need * head_dim, bound * head_dim);
                grow(v, need * width, bound * width);
            }
            Self::Int8 { k, v, k_scales, v_scales } => {
                grow(k, need * head_dim, bound * head_dim);
                grow(v, need * width, bound * width);
                grow(k_scales, need, bound);
                grow(v_scales, need, bound);
            }
        }
    }
}

/// A head's dimension as the cache of values has it.
const fn width(head_dim: usize) -> usize {
    head_dim.next_multiple_of(16)
}

impl KvCache {
    /// An empty cache for `layers` of the model, for at most `positions_max` positions.
    #[must_use]
    pub fn new(
        config: &ModelConfig,
        layers: Range<usize>,
        positions_max: usize,
        kind: KvType,
    ) -> Self {
        let layer = LayerKv { heads: vec![HeadKv::new(kind); config.n_kv_heads] };
        Self { layers: vec![layer; layers.len()], head_dim: config.head_dim, len: 0, positions_max }
    }

    /// Bytes that `positions` positions of `n_layers` layers take.
    #[must_use]
    pub const fn bytes_for(
        config: &ModelConfig,
        n_layers: usize,
        positions: usize,
        kind: KvType,
    ) -> usize {
        let per_position = kind.position_bytes(config.head_dim) * config.n_kv_heads;
        n_layers * per_position * positions.next_multiple_of(KV_TILE)
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
        heads.map(HeadKv::bytes).sum()
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
        let bound = self.positions_max.next_multiple_of(KV_TILE);
        let need = positions.next_multiple_of(KV_TILE);
        for head in self.layers.iter_mut().flat_map(|layer| &mut layer.heads) {
            head.grow(need, bound, self.head_dim);
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

    /// The cache of the stage's layer `index`.
    pub(crate) fn layer(&self, index: usize) -> &LayerKv {
        &self.layers[index]
    }

    /// As [`KvCache::layer`], to be written.
    pub(crate) fn layer_mut(&mut self, index: usize) -> &mut LayerKv {
        &mut self.layers[index]
    }
}

/// Lengthens `values` to at least `need`, a quarter ahead so that copies stay rare, never beyond
/// `bound`.
fn grow<T: Clone + Default>(values: &mut Vec<T>, need: usize, bound: usize) {
    if need <= values.len() {
        return;
    }
    if need > values.capacity() {
        let wanted = need.max(values.len() + values.len() / 4).min(bound);
        values.reserve_exact(wanted - values.len());
    }
    values.resize(need, T::default());
}
