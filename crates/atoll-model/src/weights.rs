//! Which part of a model a stage holds, and its weights packed for the kernels.

mod encoder;
mod load;

use std::ops::Range;
use std::sync::Arc;

use atoll_kernels::PackedMatrix;

pub(crate) use self::encoder::{EncoderLayer, EncoderWeights, Linear};
use self::load::Tensors;
use crate::config::{ModelConfig, TensorSpec};
use crate::error::ModelError;
use crate::pool::Pool;
use crate::tensor::{StoredTensor, TensorSource};

/// Name of the embedding.
const EMBED: &str = "token_embd.weight";
/// Name of an encoder's embedding of positions.
const POSITIONS: &str = "position_embd.weight";
/// Name of an encoder's embedding of token types.
const TOKEN_TYPES: &str = "token_types.weight";

/// A contiguous part of a model: optionally the embedding, layers, optionally the head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Whether it turns token ids into rows.
    pub embed: bool,
    /// Its layers, which may be none.
    pub layers: Range<usize>,
    /// Whether it holds the final norm and the head, and so gives logits.
    pub head: bool,
}

impl Part {
    /// The whole model.
    #[must_use]
    pub const fn whole(config: &ModelConfig) -> Self {
        Self { embed: true, layers: 0..config.n_layers, head: true }
    }

    /// Checks that this is a part of the model.
    ///
    /// # Errors
    /// [`ModelError::InvalidInput`] naming the range.
    pub fn validate(&self, config: &ModelConfig) -> Result<(), ModelError> {
        let Range { start, end } = self.layers;
        if start > end || end > config.n_layers {
            let why = format!("layers {start}..{end} of {}", config.n_layers);
            return Err(ModelError::InvalidInput { what: "part of a model", why });
        }
        Ok(())
    }

    /// Every tensor of the part; the embedding once, even if it is the head's matrix too.
    #[must_use]
    pub fn tensors(&self, config: &ModelConfig) -> Vec<TensorSpec> {
        let mut specs = Vec::new();
        if self.embed || (self.head && config.tied) {
            specs.extend(config.embed_tensors());
        }
        specs.extend(self.layers.clone().flat_map(|layer_idx| config.layer_tensors(layer_idx)));
        if self.head {
            specs.extend(config.head_tensors());
        }
        specs
    }
}

/// How far the loading of a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadProgress {
    /// Bytes of stored tensors that are packed.
    pub bytes_done: u64,
    /// Bytes of stored tensors of the whole part.
    pub bytes_total: u64,
}

/// The weights of a part, packed.
#[derive(Debug)]
pub(crate) struct Weights {
    pub(crate) embed: Option<Embedding>,
    pub(crate) layers: Vec<LayerWeights>,
    pub(crate) head: Option<HeadWeights>,
}

/// The embedding, `(vocab_size, dim)`, of which a token reads one row.
#[derive(Debug)]
pub(crate) enum Embedding {
    /// It is the head's matrix, too.
    Packed(Arc<PackedMatrix>),
    /// It stays in its file.
    Stored(StoredTensor),
}

/// One transformer layer.
#[derive(Debug)]
pub(crate) struct LayerWeights {
    /// `(dim)` in tiles.
    pub(crate) attn_norm: Vec<f32>,
    /// `(n_heads * head_dim, dim)`.
    pub(crate) q: PackedMatrix,
    /// `(n_kv_heads * head_dim, dim)`.
    pub(crate) k: PackedMatrix,
    /// `(n_kv_heads * head_dim, dim)`.
    pub(crate) v: PackedMatrix,
    /// `(n_heads * head_dim)`, where the model has biases.
    pub(crate) q_bias: Option<Vec<f32>>,
    /// `(n_kv_heads * head_dim)`.
    pub(crate) k_bias: Option<Vec<f32>>,
    /// `(n_kv_heads * head_dim)`.
    pub(crate) v_bias: Option<Vec<f32>>,
    /// `(head_dim)`, where the model normalizes every query head.
    pub(crate) q_norm: Option<Vec<f32>>,
    /// `(head_dim)`.
    pub(crate) k_norm: Option<Vec<f32>>,
    /// `(dim, n_heads * head_dim)`.
    pub(crate) o: PackedMatrix,
    /// `(dim)` in tiles.
    pub(crate) ffn_norm: Vec<f32>,
    /// `(ffn_dim, dim)`.
    pub(crate) gate: PackedMatrix,
    /// `(ffn_dim, dim)`.
    pub(crate) up: PackedMatrix,
    /// `(dim, ffn_dim)`.
    pub(crate) down: PackedMatrix,
}

/// The final norm and the head.
#[derive(Debug)]
pub(crate) struct HeadWeights {
    /// `(dim)` in tiles.
    pub(crate) norm: Vec<f32>,
    /// `(vocab_size, dim)`.
    pub(crate) matrix: Arc<PackedMatrix>,
}

impl Weights {
    /// Packs the tensors of `part` side by side on the threads of `pool`, and lets go of each
    /// one's file pages when it is packed.
    pub(crate) fn load(
        source: &TensorSource,
        part: &Part,
        pool: &Pool,
        progress: &mut (dyn FnMut(LoadProgress) + Send),
    ) -> Result<Self, ModelError> {
        let config = source.config();
        part.validate(config)?;
        let is_tied = config.tied && part.head;
        let mut tensors = Tensors::load(source, part, pool, progress)?;
        let tied = is_tied.then(|| tensors.matrix(EMBED).map(Arc::new)).transpose()?;
        let embed = match (&tied, part.embed) {
            (_, false) => None,
            (Some(matrix), true) => Some(Embedding::Packed(Arc::clone(matrix))),
            (None, true) => Some(Embedding::Stored(tensors.stored(EMBED)?)),
        };
        let layers = part.layers.clone();
        let layers = layers.map(|layer_idx| LayerWeights::new(&mut tensors, layer_idx));
        let layers = layers.collect::<Result<_, _>>()?;
        let head = match part.head {
            true => {
                let norm = tensors.tiled("output_norm.weight")?;
                let matrix = match tied {
                    Some(matrix) => matrix,
                    None => Arc::new(tensors.matrix("output.weight")?),
                };
                Some(HeadWeights { norm, matrix })
            }
            false => None,
        };
        Ok(Self { embed, layers, head })
    }

    /// Bytes held: packed ones, and the stored ones of an embedding of its own.
    pub(crate) fn bytes(&self) -> usize {
        let embed = match &self.embed {
            Some(Embedding::Stored(tensor)) => tensor.tensor().bytes.len(),
            Some(Embedding::Packed(_)) | None => 0,
        };
        embed + self.bytes_per_token()
    }

    /// Packed bytes that are read for every token: all but the embedding's own.
    pub(crate) fn bytes_per_token(&self) -> usize {
        let head = self.head.as_ref().map_or(0, |head| head.matrix.bytes() + 4 * head.norm.len());
        head + self.layers.iter().map(LayerWeights::bytes).sum::<usize>()
    }

    /// Multiplications of one token with matrices.
    pub(crate) fn macs_per_token(&self) -> usize {
        let matrices = self.layers.iter().flat_map(LayerWeights::matrices);
        let head = self.head.as_ref().map(|head| &*head.matrix);
        matrices.chain(head).map(|matrix| matrix.rows() * matrix.cols()).sum()
    }
}

impl LayerWeights {
    const fn matrices(&self) -> [&PackedMatrix; 7] {
        [&self.q, &self.k, &self.v, &self.o, &self.gate, &self.up, &self.down]
    }

    fn new(tensors: &mut Tensors, layer_idx: usize) -> Result<Self, ModelError> {
        let name = |suffix: &str| format!("blk.{layer_idx}.{suffix}");
        Ok(Self {
            attn_norm: tensors.tiled(&name("attn_norm.weight"))?,
            q: tensors.matrix(&name("attn_q.weight"))?,
            k: tensors.matrix(&name("attn_k.weight"))?,
            v: tensors.matrix(&name("attn_v.weight"))?,
            q_bias: tensors.optional_vector(&name("attn_q.bias"))?,
            k_bias: tensors.optional_vector(&name("attn_k.bias"))?,
            v_bias: tensors.optional_vector(&name("attn_v.bias"))?,
            q_norm: tensors.optional_vector(&name("attn_q_norm.weight"))?,
            k_norm: tensors.optional_vector(&name("attn_k_norm.weight"))?,
            o: tensors.matrix(&name("attn_output.weight"))?,
            ffn_norm: tensors.tiled(&name("ffn_norm.weight"))?,
            gate: tensors.matrix(&name("ffn_gate.weight"))?,
            up: tensors.matrix(&name("ffn_up.weight"))?,
            down: tensors.matrix(&name("ffn_down.weight"))?,
        })
    }

    fn bytes(&self) -> usize {
        let vectors = [&self.q_bias, &self.k_bias, &self.v_bias, &self.q_norm, &self.k_norm];
        let floats = self.attn_norm.len()
            + self.ffn_norm.len()
            + vectors.iter().map(|vector| vector.as_ref().map_or(0, Vec::len)).sum::<usize>();
        self.matrices().iter().map(|matrix| matrix.bytes()).sum::<usize>() + 4 * floats
    }
}
