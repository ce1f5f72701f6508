//! An encoder's weights, packed for the kernels.

use atoll_kernels::PackedMatrix;

use super::load::Tensors;
use super::{EMBED, LoadProgress, POSITIONS, Part, TOKEN_TYPES};
use crate::error::ModelError;
use crate::pool::Pool;
use crate::tensor::{StoredTensor, TensorSource};

/// An encoder's weights.
#[derive(Debug)]
pub(crate) struct EncoderWeights {
    /// `(vocab_size, dim)`, in its file.
    pub(crate) tokens: StoredTensor,
    /// `(positions, dim)`, in its file.
    pub(crate) positions: StoredTensor,
    /// `(token_types, dim)`, in its file.
    pub(crate) types: StoredTensor,
    pub(crate) norm: LayerNorm,
    pub(crate) layers: Vec<EncoderLayer>,
}

/// A layer norm, `(dim)` in tiles each.
#[derive(Debug)]
pub(crate) struct LayerNorm {
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Vec<f32>,
}

/// A matrix, `(out, in)`, and what is added to its product, `(out)` in tiles.
#[derive(Debug)]
pub(crate) struct Linear {
    pub(crate) matrix: PackedMatrix,
    pub(crate) bias: Vec<f32>,
}

/// One layer of an encoder.
#[derive(Debug)]
pub(crate) struct EncoderLayer {
    /// `(dim, dim)`.
    pub(crate) q: Linear,
    /// `(dim, dim)`.
    pub(crate) k: Linear,
    /// `(dim, dim)`.
    pub(crate) v: Linear,
    /// `(dim, dim)`.
    pub(crate) o: Linear,
    pub(crate) attn_norm: LayerNorm,
    /// `(ffn_dim, dim)`.
    pub(crate) up: Linear,
    /// `(dim, ffn_dim)`.
    pub(crate) down: Linear,
    pub(crate) norm: LayerNorm,
}

impl EncoderWeights {
    /// Packs the matrices of the encoder in `source` on the threads of `pool`; the tables stay in
    /// their file.
    pub(crate) fn load(
        source: &TensorSource,
        pool: &Pool,
        progress: &mut (dyn FnMut(LoadProgress) + Send),
    ) -> Result<Self, ModelError> {
        let part = Part { embed: true, layers: 0..source.config().n_layers, head: false };
        let mut tensors = Tensors::load(source, &part, pool, progress)?;
        let layers = part.layers.map(|layer_idx| EncoderLayer::new(&mut tensors, layer_idx));
        Ok(Self {
            layers: layers.collect::<Result<_, _>>()?,
            tokens: tensors.stored(EMBED)?,
            positions: tensors.stored(POSITIONS)?,
            types: tensors.stored(TOKEN_TYPES)?,
            norm: LayerNorm::new(&mut tensors, "token_embd_norm")?,
        })
    }
}

impl LayerNorm {
    fn new(tensors: &mut Tensors, name: &str) -> Result<Self, ModelError> {
        let weight = tensors.tiled(&format!("{name}.weight"))?;
        Ok(Self { weight, bias: tensors.tiled(&format!("{name}.bias"))? })
    }
}

impl EncoderLayer {
    fn new(tensors: &mut Tensors, layer_idx: usize) -> Result<Self, ModelError> {
        let name = |part: &str| format!("blk.{layer_idx}.{part}");
        let mut linear = |part: &str| -> Result<Linear, ModelError> {
            let matrix = tensors.matrix(&name(&format!("{part}.weight")))?;
            Ok(Linear { matrix, bias: tensors.tiled(&name(&format!("{part}.bias")))? })
        };
        let (q, k, v) = (linear("attn_q")?, linear("attn_k")?, linear("attn_v")?);
        let (o, up, down) = (linear("attn_output")?, linear("ffn_up")?, linear("ffn_down")?);
        let attn_norm = LayerNorm::new(tensors, &name("attn_output_norm"))?;
        let norm = LayerNorm::new(tensors, &name("layer_output_norm"))?;
        Ok(Self { q, k, v, o, attn_norm, up, down, norm })
    }
}
