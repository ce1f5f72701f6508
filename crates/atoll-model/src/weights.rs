//! Which part of a model a stage holds, and its weights packed for the kernels.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use atoll_kernels::PackedMatrix;

use crate::config::{ModelConfig, TensorSpec};
use crate::error::ModelError;
use crate::pool::Pool;
use crate::tensor::{StoredTensor, TensorSource};
use crate::tiles::tiled_len;

/// Name of the embedding.
const EMBED: &str = "token_embd.weight";

/// Bytes of the file that are packed before their memory is given back: few enough to matter
/// nowhere, many enough that asking the system costs nothing beside packing.
const FORGET_BYTES: usize = 1 << 20;

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
                let norm = tensors.norm("output_norm.weight")?;
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
            attn_norm: tensors.norm(&name("attn_norm.weight"))?,
            q: tensors.matrix(&name("attn_q.weight"))?,
            k: tensors.matrix(&name("attn_k.weight"))?,
            v: tensors.matrix(&name("attn_v.weight"))?,
            q_bias: tensors.optional_vector(&name("attn_q.bias"))?,
            k_bias: tensors.optional_vector(&name("attn_k.bias"))?,
            v_bias: tensors.optional_vector(&name("attn_v.bias"))?,
            q_norm: tensors.optional_vector(&name("attn_q_norm.weight"))?,
            k_norm: tensors.optional_vector(&name("attn_k_norm.weight"))?,
            o: tensors.matrix(&name("attn_output.weight"))?,
            ffn_norm: tensors.norm(&name("ffn_norm.weight"))?,
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

/// The loaded tensors of a part, by name, until each has found its place.
struct Tensors(BTreeMap<String, Loaded>);

enum Loaded {
    Vector(Vec<f32>),
    Matrix(PackedMatrix),
    Stored(StoredTensor),
}

/// What has been loaded so far, and who wants to know.
struct Told<'a> {
    tell: &'a mut (dyn FnMut(LoadProgress) + Send),
    at: LoadProgress,
}

impl Tensors {
    fn load(
        source: &TensorSource,
        part: &Part,
        pool: &Pool,
        progress: &mut (dyn FnMut(LoadProgress) + Send),
    ) -> Result<Self, ModelError> {
        let config = source.config();
        let mut tasks = Vec::new();
        for spec in part.tensors(config) {
            source.require_shape(&spec.name, spec.rows, spec.cols)?;
            let stored = source.stored(&spec.name).expect("its shape was just looked at");
            tasks.push((stored, None));
        }
        // The largest first: the threads end at about the same time, and the file's pages and the
        // packed copy of a large matrix are held together while there is little else.
        tasks.sort_by_key(|(stored, _)| Reverse(stored.tensor().bytes.len()));
        let bytes_total = tasks.iter().map(|(stored, _)| stored.tensor().bytes.len() as u64).sum();
        let at = LoadProgress { bytes_done: 0, bytes_total };
        let told = Mutex::new(Told { tell: progress, at });
        let is_read_in_rows = |name: &str| name == EMBED && !(part.head && config.tied);
        pool.for_each(&mut tasks, |(stored, loaded)| {
            *loaded = Some(load(stored, is_read_in_rows(&stored.info().name)));
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            told.at.bytes_done += stored.tensor().bytes.len() as u64;
            let at = told.at;
            (told.tell)(at);
        });
        let named = |(stored, loaded): (StoredTensor, Option<Result<_, _>>)| {
            Ok((stored.info().name.clone(), loaded.expect("every task loads its tensor")?))
        };
        tasks.into_iter().map(named).collect::<Result<_, _>>().map(Self)
    }

    fn take(&mut self, name: &str) -> Result<Loaded, ModelError> {
        self.0.remove(name).ok_or_else(|| ModelError::MissingTensor { name: name.to_owned() })
    }

    /// The vector, if the configuration asked for it.
    fn optional_vector(&mut self, name: &str) -> Result<Option<Vec<f32>>, ModelError> {
        self.0.contains_key(name).then(|| self.vector(name)).transpose()
    }

    /// The weights of a norm of whole rows, in tiles.
    fn norm(&mut self, name: &str) -> Result<Vec<f32>, ModelError> {
        let mut vector = self.vector(name)?;
        vector.resize(tiled_len(1, vector.len()), 0.0);
        Ok(vector)
    }

    fn vector(&mut self, name: &str) -> Result<Vec<f32>, ModelError> {
        match self.take(name)? {
            Loaded::Vector(vector) => Ok(vector),
            Loaded::Matrix(_) | Loaded::Stored(_) => {
                Err(ModelError::malformed(name, "a vector was expected"))
            }
        }
    }

    fn matrix(&mut self, name: &str) -> Result<PackedMatrix, ModelError> {
        match self.take(name)? {
            Loaded::Matrix(matrix) => Ok(matrix),
            Loaded::Vector(_) | Loaded::Stored(_) => {
                Err(ModelError::malformed(name, "a matrix was expected"))
            }
        }
    }

    fn stored(&mut self, name: &str) -> Result<StoredTensor, ModelError> {
        match self.take(name)? {
            Loaded::Stored(tensor) => Ok(tensor),
            Loaded::Vector(_) | Loaded::Matrix(_) => {
                Err(ModelError::malformed(name, "a matrix that is read in rows was expected"))
            }
        }
    }
}

/// Packs a matrix or widens a vector, refusing numbers that are not finite.
fn load(stored: &StoredTensor, is_read_in_rows: bool) -> Result<Loaded, ModelError> {
    let (info, bytes) = (stored.info(), stored.tensor().bytes);
    let is_vector = info.name.ends_with("norm.weight") || info.name.ends_with(".bias");
    let (loaded, finite) = if is_vector {
        let vector = stored.tensor().to_floats()?;
        let finite = vector.iter().all(|value| value.is_finite());
        stored.forget(0..bytes.len());
        (Loaded::Vector(vector), finite)
    } else if is_read_in_rows {
        let finite = atoll_kernels::scales_finite(info.dtype, bytes);
        stored.forget(0..bytes.len());
        (Loaded::Stored(stored.clone()), finite)
    } else {
        let mut forgotten = 0;
        let mut forget = |packed: usize| {
            if packed - forgotten >= FORGET_BYTES || packed == bytes.len() {
                stored.forget(forgotten..packed);
                forgotten = packed;
            }
        };
        let (ty, rows, cols) = (info.dtype, info.rows, info.cols);
        let matrix = PackedMatrix::pack_telling(ty, rows, cols, bytes, &mut forget);
        let finite = matrix.scales_finite();
        (Loaded::Matrix(matrix), finite)
    };
    match finite {
        true => Ok(loaded),
        false => {
            let what = format!("tensor {}", info.name);
            Err(ModelError::malformed(what, "it holds a number that is not finite"))
        }
    }
}
