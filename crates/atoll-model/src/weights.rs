//! Which part of a model a stage holds, and its weights packed for the kernels.

use std::ops::Range;
use std::sync::Arc;

use atoll_kernels::PackedMatrix;

use crate::config::{ModelConfig, TensorSpec};
use crate::error::ModelError;
use crate::pool::Pool;
use crate::pool::split::Parts;
use crate::tensor::{Tensor, TensorSource};
use crate::tiles::tiled_len;

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
    /// `(vocab_size, dim)`; the same allocation as the head's matrix where both are held and tied.
    pub(crate) embed: Option<Arc<PackedMatrix>>,
    pub(crate) layers: Vec<LayerWeights>,
    pub(crate) head: Option<HeadWeights>,
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
    /// Packs the tensors of `part`, those of a layer side by side on the threads of `pool`.
    pub(crate) fn load(
        source: &TensorSource,
        part: &Part,
        pool: &Pool,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Self, ModelError> {
        let config = source.config();
        part.validate(config)?;
        let mut bytes_total = 0;
        for spec in part.tensors(config) {
            bytes_total += tensor(source, &spec)?.bytes.len() as u64;
        }
        let mut loader = Loader { source, pool, progress, bytes_done: 0, bytes_total };
        let embed = match part.embed || (part.head && config.tied) {
            true => {
                Some(Arc::new(loader.group(&config.embed_tensors())?.matrix("token_embd.weight")?))
            }
            false => None,
        };
        let mut layers = Vec::with_capacity(part.layers.len());
        for layer_idx in part.layers.clone() {
            layers.push(LayerWeights::new(loader.group(&config.layer_tensors(layer_idx))?)?);
        }
        let head = match part.head {
            true => {
                let mut group = loader.group(&config.head_tensors())?;
                let norm = group.norm("output_norm.weight")?;
                let matrix = match (&embed, config.tied) {
                    (Some(embed), true) => Arc::clone(embed),
                    (Some(_) | None, _) => Arc::new(group.matrix("output.weight")?),
                };
                Some(HeadWeights { norm, matrix })
            }
            false => None,
        };
        Ok(Self { embed: embed.filter(|_| part.embed), layers, head })
    }

    /// Packed bytes held.
    pub(crate) fn bytes(&self) -> usize {
        let tied = match (&self.embed, &self.head) {
            (Some(embed), Some(head)) => Arc::ptr_eq(embed, &head.matrix),
            (Some(_) | None, _) => false,
        };
        let embed = self.embed.as_ref().filter(|_| !tied).map_or(0, |embed| embed.bytes());
        embed + self.bytes_per_token()
    }

    /// Packed bytes that are read for every token: all but the embedding's own.
    pub(crate) fn bytes_per_token(&self) -> usize {
        let head = self.head.as_ref().map_or(0, |head| head.matrix.bytes() + 4 * head.norm.len());
        head + self.layers.iter().map(LayerWeights::bytes).sum::<usize>()
    }
}

impl LayerWeights {
    fn new(mut group: Group) -> Result<Self, ModelError> {
        Ok(Self {
            attn_norm: group.norm("attn_norm.weight")?,
            q: group.matrix("attn_q.weight")?,
            k: group.matrix("attn_k.weight")?,
            v: group.matrix("attn_v.weight")?,
            q_bias: group.optional_vector("attn_q.bias")?,
            k_bias: group.optional_vector("attn_k.bias")?,
            v_bias: group.optional_vector("attn_v.bias")?,
            q_norm: group.optional_vector("attn_q_norm.weight")?,
            k_norm: group.optional_vector("attn_k_norm.weight")?,
            o: group.matrix("attn_output.weight")?,
            ffn_norm: group.norm("ffn_norm.weight")?,
            gate: group.matrix("ffn_gate.weight")?,
            up: group.matrix("ffn_up.weight")?,
            down: group.matrix("ffn_down.weight")?,
        })
    }

    fn bytes(&self) -> usize {
        let matrices = [&self.q, &self.k, &self.v, &self.o, &self.gate, &self.up, &self.down];
        let vectors = [&self.q_bias, &self.k_bias, &self.v_bias, &self.q_norm, &self.k_norm];
        let floats = self.attn_norm.len()
            + self.ffn_norm.len()
            + vectors.iter().map(|vector| vector.as_ref().map_or(0, Vec::len)).sum::<usize>();
        matrices.iter().map(|matrix| matrix.bytes()).sum::<usize>() + 4 * floats
    }
}

/// Reads and packs groups of tensors, counting bytes.
struct Loader<'a> {
    source: &'a TensorSource,
    pool: &'a Pool,
    progress: &'a mut dyn FnMut(LoadProgress),
    bytes_done: u64,
    bytes_total: u64,
}

/// The tensors of one layer, of the embedding or of the head, by name.
struct Group(Vec<(String, Loaded)>);

enum Loaded {
    Vector(Vec<f32>),
    Matrix(PackedMatrix),
}

impl Loader<'_> {
    fn group(&mut self, specs: &[TensorSpec]) -> Result<Group, ModelError> {
        let mut slots: Vec<Option<Result<Loaded, ModelError>>> = Vec::new();
        slots.resize_with(specs.len(), || None);
        let source = self.source;
        self.pool.split(Parts::new(&mut slots, 1), |index, slot| {
            slot[0] = Some(tensor(source, &specs[index]).and_then(|tensor| load(&tensor)));
        });
        let mut group = Vec::with_capacity(specs.len());
        for (spec, slot) in specs.iter().zip(slots) {
            group.push((spec.name.clone(), slot.expect("every task fills its slot")?));
            self.bytes_done += tensor(source, spec)?.bytes.len() as u64;
        }
        let (bytes_done, bytes_total) = (self.bytes_done, self.bytes_total);
        (self.progress)(LoadProgress { bytes_done, bytes_total });
        Ok(Group(group))
    }
}

impl Group {
    /// Takes out the tensor whose name ends in `suffix`.
    fn take(&mut self, suffix: &str) -> Result<Loaded, ModelError> {
        match self.0.iter().position(|(name, _)| name.ends_with(suffix)) {
            Some(index) => Ok(self.0.swap_remove(index).1),
            None => Err(ModelError::MissingTensor { name: suffix.to_owned() }),
        }
    }

    /// The vector, if the configuration asked for it.
    fn optional_vector(&mut self, suffix: &str) -> Result<Option<Vec<f32>>, ModelError> {
        match self.0.iter().any(|(name, _)| name.ends_with(suffix)) {
            true => self.vector(suffix).map(Some),
            false => Ok(None),
        }
    }

    /// The weights of a norm of whole rows, in tiles.
    fn norm(&mut self, suffix: &str) -> Result<Vec<f32>, ModelError> {
        let mut vector = self.vector(suffix)?;
        vector.resize(tiled_len(1, vector.len()), 0.0);
        Ok(vector)
    }

    fn vector(&mut self, suffix: &str) -> Result<Vec<f32>, ModelError> {
        match self.take(suffix)? {
            Loaded::Vector(vector) => Ok(vector),
            Loaded::Matrix(_) => Err(ModelError::malformed(suffix, "a vector was expected")),
        }
    }

    fn matrix(&mut self, suffix: &str) -> Result<PackedMatrix, ModelError> {
        match self.take(suffix)? {
            Loaded::Matrix(matrix) => Ok(matrix),
            Loaded::Vector(_) => Err(ModelError::malformed(suffix, "a matrix was expected")),
        }
    }
}

fn tensor<'a>(source: &'a TensorSource, spec: &TensorSpec) -> Result<Tensor<'a>, ModelError> {
    source.require_shape(&spec.name, spec.rows, spec.cols)
}

/// Packs a matrix or widens a vector, refusing numbers that are not finite.
fn load(tensor: &Tensor<'_>) -> Result<Loaded, ModelError> {
    let info = tensor.info;
    let is_vector = info.name.ends_with("norm.weight") || info.name.ends_with(".bias");
    let (loaded, finite) = match is_vector {
        true => {
            let vector = tensor.to_floats()?;
            let finite = vector.iter().all(|value| value.is_finite());
            (Loaded::Vector(vector), finite)
        }
        false => {
            let matrix = PackedMatrix::pack(info.dtype, info.rows, info.cols, tensor.bytes);
            let finite = matrix.scales_finite();
            (Loaded::Matrix(matrix), finite)
        }
    };
    match finite {
        true => Ok(loaded),
        false => {
            let what = format!("tensor {}", info.name);
            Err(ModelError::malformed(what, "it holds a number that is not finite"))
        }
    }
}
