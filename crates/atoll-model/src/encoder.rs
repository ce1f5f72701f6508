//! Embeds texts: the forward pass of an encoder, its mean over all tokens, normalized.
//!
//! Attention is exact in f32 and no sum is split, so results are the same bits on any instruction
//! set and any number of threads; products with quantized weights read int8 activations, as those
//! of decoders do. Texts go through one after another.

use std::sync::Arc;

use atoll_kernels::{Activations, PackedMatrix, TILE_ROWS};

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::pool::Compute;
use crate::pool::split::Parts;
use crate::pool::with_scratch;
use crate::tensor::TensorSource;
use crate::tiles::{gather, scatter, tiled_len};
use crate::tokenizer::Tokenizer;
use crate::weights::{EncoderLayer, EncoderWeights, Linear, LoadProgress};

/// Tasks that each thread should find in one product.
const TASKS_PER_THREAD: usize = 4;

/// An encoder, loaded and ready to compute.
///
/// ```no_run
/// # use std::path::Path;
/// # use std::sync::Arc;
/// use atoll_model::{Compute, Encoder, Isa, ModelFiles};
///
/// let files = ModelFiles::open_any(Path::new("all-MiniLM-L6-v2"))?;
/// let compute = Arc::new(Compute::new(Isa::detect(), 2)?);
/// let encoder = Encoder::load(&files.source, &compute, &mut |_| {})?;
/// let embedded = encoder.embed_text(&files.tokenizer, "the tide comes in")?;
/// assert_eq!(embedded.values.len(), encoder.config().dim);
/// # Ok::<(), atoll_model::ModelError>(())
/// ```
#[derive(Debug)]
pub struct Encoder {
    config: ModelConfig,
    weights: EncoderWeights,
    compute: Arc<Compute>,
}

/// What a text has become.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedded {
    /// `(dim)`, of length 1.
    pub values: Vec<f32>,
    /// Tokens read, those at the ends counted.
    pub tokens: usize,
    /// Whether the text had more than the model reads.
    pub is_cut: bool,
}

/// A text on its way through the layers; rows are tokens, in tiles (see [`crate::tiles`]).
struct Pass {
    rows: usize,
    /// `(rows, dim)`.
    x: Vec<f32>,
    /// Input of a product.
    input: Activations,
    /// Queries, keys, values, `(rows, dim)` each.
    qkv: [Vec<f32>; 3],
    /// What every head gathered, `(n_heads, rows, head_dim in tiles)`, not in tiles of rows.
    heads: Vec<f32>,
    /// `(rows, dim)`.
    product: Vec<f32>,
    /// `(rows, ffn_dim)`, of the widest layer.
    inner: Vec<f32>,
}

impl Encoder {
    /// Loads the encoder in `source`. The tables of tokens and positions stay in their file, which
    /// stays mapped.
    ///
    /// # Errors
    /// [`ModelError::NotEncoder`]; a missing tensor, one of the wrong shape, or one with a number
    /// that is not finite, all naming it.
    pub fn load(
        source: &TensorSource,
        compute: &Arc<Compute>,
        progress: &mut (dyn FnMut(LoadProgress) + Send),
    ) -> Result<Self, ModelError> {
        let config = source.config().clone();
        config.validate()?;
        if config.encoder.is_none() {
            return Err(ModelError::NotEncoder { architecture: config.architecture.name() });
        }
        let weights = EncoderWeights::load(source, &compute.pool, progress)?;
        Ok(Self { config, weights, compute: Arc::clone(compute) })
    }

    /// Configuration of the model.
    #[must_use]
    pub const fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Embeds `text`, of which the model's `context_max` tokens are read at most, the last of them
    /// the one that ends it.
    ///
    /// # Errors
    /// [`ModelError::InvalidInput`] for a text without any token of its own; as [`Self::embed`].
    pub fn embed_text(&self, tokenizer: &Tokenizer, text: &str) -> Result<Embedded, ModelError> {
        let mut tokens = tokenizer.encode(text, false)?;
        if tokens.is_empty() {
            let why = "it has no word".to_owned();
            return Err(ModelError::InvalidInput { what: "text to embed", why });
        }
        let ends = [tokenizer.bos(), tokenizer.eos()];
        let room = self.config.context_max.saturating_sub(ends.iter().flatten().count());
        let is_cut = tokens.len() > room;
        tokens.truncate(room);
        let tokens: Vec<u32> = ends[0].into_iter().chain(tokens).chain(ends[1]).collect();
        Ok(Embedded { values: self.embed(&tokens)?, tokens: tokens.len(), is_cut })
    }

    /// The mean of the last layer's rows of `tokens`, those at the ends included, made to have
    /// length 1; `(dim)`.
    ///
    /// # Errors
    /// [`ModelError::InvalidInput`] for no tokens or one that is not in the vocabulary;
    /// [`ModelError::ContextExceeded`]; [`ModelError::Malformed`] if the weights make it no number.
    pub fn embed(&self, tokens: &[u32]) -> Result<Vec<f32>, ModelError> {
        let (rows, context) = (tokens.len(), self.config.context_max);
        let invalid = |what, why| Err(ModelError::InvalidInput { what, why });
        if rows == 0 {
            return invalid("text to embed", "it has no tokens".to_owned());
        }
        if rows > context {
            return Err(ModelError::ContextExceeded { tokens: rows, context });
        }
        let size = self.config.vocab_size;
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= size) {
            return invalid("token", format!("{token}, the vocabulary has {size}"));
        }
        let mut pass = self.new_pass(tokens);
        for layer in &self.weights.layers {
            self.attention(layer, &mut pass);
            self.feed_forward(layer, &mut pass);
        }
        self.pool(&pass)
    }

    /// The rows that go into the first layer: `norm(token + type + position)`.
    fn new_pass(&self, tokens: &[u32]) -> Pass {
        let (rows, dim, weights) = (tokens.len(), self.config.dim, &self.weights);
        let mut x = vec![0.0; tiled_len(rows, dim)];
        let [mut sum, mut kind, mut place] = [vec![0.0; dim], vec![0.0; dim], vec![0.0; dim]];
        weights.types.row(0, &mut kind);
        for (position, &token) in tokens.iter().enumerate() {
            weights.tokens.row(token as usize, &mut sum);
            weights.positions.row(position, &mut place);
            self.compute.kernels.add(&mut sum, &kind);
            self.compute.kernels.add(&mut sum, &place);
            scatter(&sum, &mut x, rows, position, 0);
        }
        let (norm, eps) = (&weights.norm, self.config.norm_eps);
        self.compute.kernels.layer_norm(&mut x, dim, &norm.weight, &norm.bias, eps);
        let width = self.config.head_dim.next_multiple_of(TILE_ROWS);
        let room = || vec![0.0; tiled_len(rows, dim)];
        Pass {
            rows,
            x,
            input: Activations::new(),
            qkv: [room(), room(), room()],
            heads: vec![0.0; self.config.n_heads * rows * width],
            product: room(),
            inner: vec![0.0; tiled_len(rows, self.config.ffn_dim)],
        }
    }

    /// `x = norm(x + o(attend(q, k, v)))`, where `q`, `k`, `v` are products of `x`.
    fn attention(&self, layer: &EncoderLayer, pass: &mut Pass) {
        let kernels = &self.compute.kernels;
        let matrices = [&layer.q, &layer.k, &layer.v];
        let Pass { x, input, qkv, rows, .. } = pass;
        self.quantize(x, *rows, self.config.dim, &matrices.map(|of| &of.matrix), input);
        for (linear, out) in matrices.into_iter().zip(qkv) {
            self.product(linear, input, out);
            kernels.add_bias(out, &linear.bias);
        }
        self.attend(pass);
        self.gather_heads(pass);
        let Pass { x, input, product, rows, .. } = pass;
        self.quantize(product, *rows, self.config.q_dim(), &[&layer.o.matrix], input);
        self.product(&layer.o, input, product);
        kernels.add_bias(product, &layer.o.bias);
        kernels.add(x, product);
        let (norm, eps) = (&layer.attn_norm, self.config.norm_eps);
        kernels.layer_norm(x, self.config.dim, &norm.weight, &norm.bias, eps);
    }

    /// `x = norm(x + down(gelu(up(x))))`.
    fn feed_forward(&self, layer: &EncoderLayer, pass: &mut Pass) {
        let (kernels, config) = (&self.compute.kernels, &self.config);
        let Pass { x, input, product, inner, rows, .. } = pass;
        let width = layer.down.matrix.cols();
        let inner = &mut inner[..tiled_len(*rows, width)];
        self.quantize(x, *rows, config.dim, &[&layer.up.matrix], input);
        self.product(&layer.up, input, inner);
        kernels.gelu(inner, &layer.up.bias);
        self.quantize(inner, *rows, width, &[&layer.down.matrix], input);
        self.product(&layer.down, input, product);
        kernels.add_bias(product, &layer.down.bias);
        kernels.add(x, product);
        kernels.layer_norm(x, config.dim, &layer.norm.weight, &layer.norm.bias, config.norm_eps);
    }

    /// Makes `x`, `(rows, cols)` in tiles, the input of products with `readers`.
    fn quantize(
        &self,
        x: &[f32],
        rows: usize,
        cols: usize,
        readers: &[&PackedMatrix],
        input: &mut Activations,
    ) {
        input.reset(rows, cols, readers);
        self.compute.kernels.quantize(x, &mut input.whole());
    }

    /// The product of `x` with a matrix, in tiles, without its bias.
    fn product(&self, linear: &Linear, x: &Activations, out: &mut [f32]) {
        let (matrix, tile_len) = (&linear.matrix, x.rows() * TILE_ROWS);
        let n_tasks = self.compute.pool.threads() * TASKS_PER_THREAD;
        let per_task = matrix.n_tiles().div_ceil(n_tasks);
        self.compute.pool.split(Parts::new(out, per_task * tile_len), |index, out| {
            let first = index * per_task;
            self.compute.kernels.matmul(matrix, first..first + out.len() / tile_len, x, out);
        });
    }

    /// Every head's queries gather the values of all positions.
    fn attend(&self, pass: &mut Pass) {
        let (kernels, head_dim, rows) = (&self.compute.kernels, self.config.head_dim, pass.rows);
        let (width, places) =
            (head_dim.next_multiple_of(TILE_ROWS), rows.next_multiple_of(TILE_ROWS));
        let scale = (1.0 / libm::sqrt(head_dim as f64)) as f32;
        let Pass { qkv: [q, k, v], heads, .. } = pass;
        self.compute.pool.split(Parts::new(heads, rows * width), |head, out| {
            with_scratch(places * head_dim + rows * width + places + head_dim, |scratch| {
                let (keys, rest) = scratch.split_at_mut(places * head_dim);
                let (values, rest) = rest.split_at_mut(rows * width);
                let (weights, query) = rest.split_at_mut(places);
                keys.fill(0.0);
                values.fill(0.0);
                for (row, value) in values.chunks_exact_mut(width).enumerate() {
                    gather(k, rows, row, head * head_dim, query);
                    for (d, key) in query.iter().enumerate() {
                        let tile = row / TILE_ROWS * head_dim + d;
                        keys[tile * TILE_ROWS + row % TILE_ROWS] = *key;
                    }
                    gather(v, rows, row, head * head_dim, &mut value[..head_dim]);
                }
                for (row, out) in out.chunks_exact_mut(width).enumerate() {
                    gather(q, rows, row, head * head_dim, query);
                    kernels.attend_all(query, scale, (keys, values), weights, out);
                }
            });
        });
    }

    /// Puts what the heads gathered side by side, into the room for a product.
    fn gather_heads(&self, pass: &mut Pass) {
        let Pass { heads, product, rows, .. } = pass;
        let head_dim = self.config.head_dim;
        let width = head_dim.next_multiple_of(TILE_ROWS);
        for (index, out) in heads.chunks_exact(width).enumerate() {
            let (head, row) = (index / *rows, index % *rows);
            scatter(&out[..head_dim], product, *rows, row, head * head_dim);
        }
    }

    /// The mean row, summed in ascending order, of length 1.
    fn pool(&self, pass: &Pass) -> Result<Vec<f32>, ModelError> {
        let mut sum = vec![0.0; self.config.dim];
        let mut row = vec![0.0; self.config.dim];
        for index in 0..pass.rows {
            gather(&pass.x, pass.rows, index, 0, &mut row);
            self.compute.kernels.add(&mut sum, &row);
        }
        let squares: f64 = sum.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
        if !squares.is_finite() || squares == 0.0 {
            let why = "a text becomes what is no direction";
            return Err(ModelError::malformed("weights", why));
        }
        let length = libm::sqrt(squares);
        Ok(sum.iter().map(|&value| (f64::from(value) / length) as f32).collect())
    }
}

#[cfg(test)]
mod tests;
