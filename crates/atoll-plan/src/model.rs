//! What planning needs to know of a model.

use crate::error::PlanError;

/// Layers of one model; the largest published ones have a few hundred.
pub const LAYERS_MAX: usize = 1024;
/// Variants of one layer, codecs of a row: a handful each.
pub const OPTIONS_MAX: usize = 8;
/// Bytes of a frame beside the activation row: prefix, header, checksum, and TCP's own.
pub const FRAME_EXTRA_BYTES: u64 = 160;

/// One compressed form of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    /// For people, such as `q4_k`.
    pub name: String,
    /// Bytes of its weights.
    pub bytes: u64,
    /// Its time beside a node's layer time, in thousandths.
    pub time_permille: u64,
    /// What it costs in quality, in millionths of a nat of divergence.
    pub loss: u64,
}

/// One layer: at least one variant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// In the order of preference where two are equal.
    pub variants: Vec<Variant>,
}

/// One form of an activation row on a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Codec {
    /// For people, such as `f32`.
    pub name: String,
    /// Bytes of one row.
    pub row_bytes: u64,
    /// What each hop that uses it costs in quality, in millionths of a nat.
    pub loss: u64,
}

/// A model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// For people.
    pub name: String,
    /// In order.
    pub layers: Vec<Layer>,
    /// Bytes of embedding and head, which the owner holds.
    pub ends_bytes: u64,
    /// KV cache bytes of one position in one layer.
    pub kv_bytes_per_position: u64,
    /// Codecs that may be used, the lossless one first.
    pub codecs: Vec<Codec>,
}

impl Model {
    /// A model of equal layers in one variant and one codec, without embedding, head and KV cache.
    #[must_use]
    pub fn uniform(name: &str, n_layers: usize, layer_bytes: u64, row_bytes: u64) -> Self {
        let variant =
            Variant { name: "full".into(), bytes: layer_bytes, time_permille: 1000, loss: 0 };
        Self {
            name: name.to_owned(),
            layers: vec![Layer { variants: vec![variant] }; n_layers],
            ends_bytes: 0,
            kv_bytes_per_position: 0,
            codecs: vec![Codec { name: "f32".into(), row_bytes, loss: 0 }],
        }
    }

    /// Bytes of a frame with `rows` rows in a codec.
    #[must_use]
    pub fn frame_bytes(&self, codec: usize, rows: u64) -> u64 {
        self.codecs[codec].row_bytes.saturating_mul(rows).saturating_add(FRAME_EXTRA_BYTES)
    }

    /// Bytes of the weights when every layer takes its smallest variant, ends included.
    #[must_use]
    pub fn bytes_min(&self) -> u64 {
        let smallest = |layer: &Layer| layer.variants.iter().map(|v| v.bytes).min().unwrap_or(0);
        self.layers.iter().map(smallest).fold(self.ends_bytes, u64::saturating_add)
    }

    pub(crate) fn check(&self) -> Result<(), PlanError> {
        let absurd = |what: &str, value: usize| {
            Err(PlanError::Absurd { what: what.to_owned(), value: value.to_string() })
        };
        if !(1..=LAYERS_MAX).contains(&self.layers.len()) {
            return absurd("the number of layers", self.layers.len());
        }
        if !(1..=OPTIONS_MAX).contains(&self.codecs.len()) {
            return absurd("the number of codecs", self.codecs.len());
        }
        for layer in &self.layers {
            if !(1..=OPTIONS_MAX).contains(&layer.variants.len()) {
                return absurd("the number of variants of a layer", layer.variants.len());
            }
            if layer.variants.iter().any(|v| v.time_permille > 1_000_000 || v.bytes > 1 << 48) {
                return absurd("a variant's time or size; layers", self.layers.len());
            }
        }
        Ok(())
    }
}
