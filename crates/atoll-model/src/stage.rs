//! A contiguous part of a model, loaded and ready to compute.

use std::sync::Arc;

use ndarray::{Array2, ArrayView1, ArrayView2, Axis};

use crate::attend::Span;
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::forward::ROWS_MIN;
use crate::kv_cache::KvCache;
use crate::pool::Compute;
use crate::pool::split::Parts;
use crate::rope::Rope;
use crate::tensor::TensorSource;
use crate::tiles::{gather, scatter, tiled_len};
use crate::weights::{Embedding, LoadProgress, Part, Weights};

/// Rows that one pass takes through the layers; longer inputs are cut, which bounds the buffers.
/// No result depends on it.
const PASS_ROWS_MAX: usize = 512;
/// Tokens that are embedded together, before their rows are put into tiles.
const EMBEDDED_MAX: usize = 16;

/// A part of a model with its weights, and what computes it.
///
/// Results are the same bits however the rows are cut into calls, however the model is cut into
/// stages, on any instruction set and any number of threads.
#[derive(Debug)]
pub struct Stage {
    pub(crate) config: ModelConfig,
    pub(crate) part: Part,
    pub(crate) weights: Weights,
    pub(crate) rope: Rope,
    pub(crate) compute: Arc<Compute>,
}

/// What goes into a stage.
#[derive(Debug, Clone, Copy)]
pub enum StageInput<'a> {
    /// Token ids, for a part that holds the embedding.
    Tokens(&'a [u32]),
    /// What the stage before gave, `(n, dim)`.
    Rows(ArrayView2<'a, f32>),
}

/// One sequence's share of a call for several ([`Stage::forward_batch`]).
#[derive(Debug)]
pub struct Sequence<'a, 'b> {
    /// Its own cache.
    pub kv: &'a mut KvCache,
    /// What it goes on with: a token of decoding, or any number of a prompt.
    pub input: StageInput<'b>,
    /// Position of the first, which must be `kv.len()`.
    pub from_pos: usize,
}

impl StageInput<'_> {
    /// Number of positions.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Tokens(tokens) => tokens.len(),
            Self::Rows(rows) => rows.nrows(),
        }
    }

    /// Whether there is no position.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Stage {
    /// Loads `part` of the model in `source`: reads and packs the tensors of that part only.
    /// `source` may be dropped afterwards. An embedding that is not the head's matrix, too, stays
    /// in its file, which stays mapped.
    ///
    /// # Errors
    /// A missing tensor, one of the wrong shape, one with a NaN or infinite scale (all naming it),
    /// or a part that the model does not have; an encoder.
    pub fn load(
        source: &TensorSource,
        part: &Part,
        compute: &Arc<Compute>,
        progress: &mut (dyn FnMut(LoadProgress) + Send),
    ) -> Result<Self, ModelError> {
        let config = source.config().clone();
        config.validate()?;
        config.require_decoder()?;
        let weights = Weights::load(source, part, &compute.pool, progress)?;
        let rope = Rope::new(&config.rope);
        Ok(Self { config, part: part.clone(), weights, rope, compute: Arc::clone(compute) })
    }

    /// Configuration of the whole model.
    #[must_use]
    pub const fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The part held.
    #[must_use]
    pub const fn part(&self) -> &Part {
        &self.part
    }

    /// What computes it.
    #[must_use]
    pub const fn compute(&self) -> &Arc<Compute> {
        &self.compute
    }

    /// Bytes of the weights: packed ones, and those of an embedding that stays in its file.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        self.weights.bytes()
    }

    /// Bytes of weights that one token of decoding reads.
    #[must_use]
    pub fn weight_bytes_per_token(&self) -> usize {
        self.weights.bytes_per_token()
    }

    /// Multiplications of one token with the weights that it reads.
    #[must_use]
    pub fn macs_per_token(&self) -> usize {
        self.weights.macs_per_token()
    }

    /// An empty cache for this stage's layers.
    #[must_use]
    pub fn new_kv_cache(&self, positions_max: usize) -> KvCache {
        KvCache::new(&self.config, self.part.layers.clone(), positions_max, self.compute.kv)
    }

    /// Takes positions `from_pos..from_pos + input.len()` through the stage, appends their keys
    /// and values to `kv`, and gives what goes to the next stage (or to [`Stage::logits`]),
    /// `(n, dim)`. On an error `kv` is as it was.
    ///
    /// # Errors
    /// [`ModelError::InvalidInput`] if `from_pos` is not `kv.len()`, if a token is not in the
    /// vocabulary, if rows have the wrong width, or if tokens come to a part without embedding;
    /// [`ModelError::ContextExceeded`] if `kv` may not hold that many.
    pub fn forward(
        &self,
        kv: &mut KvCache,
        input: StageInput<'_>,
        from_pos: usize,
    ) -> Result<Array2<f32>, ModelError> {
        self.forward_batch(&mut [Sequence { kv, input, from_pos }])
    }

    /// As [`Stage::forward`] for several sequences in one pass, so that the weights are read once
    /// for all: gives the rows of the first, then those of the second, and so on, `(n, dim)`.
    /// Every sequence's rows and cache are the bits that it would have alone, whatever else is in
    /// the batch. Some may decode while others take in a prompt. On an error all caches are as
    /// they were.
    ///
    /// # Errors
    /// As [`Stage::forward`], for the first sequence that is at fault.
    pub fn forward_batch(
        &self,
        sequences: &mut [Sequence<'_, '_>],
    ) -> Result<Array2<f32>, ModelError> {
        for Sequence { kv, input, from_pos } in &*sequences {
            self.check(kv, *input, *from_pos)?;
        }
        for Sequence { kv, input, .. } in &mut *sequences {
            kv.make_room(input.len())?;
        }
        let inputs: Vec<_> = sequences.iter().map(|sequence| sequence.input).collect();
        let spans = spans(sequences);
        let mut kvs: Vec<_> = sequences.iter_mut().map(|sequence| &mut *sequence.kv).collect();
        let (n, dim) = (inputs.iter().map(StageInput::len).sum(), self.config.dim);
        let mut out = vec![0.0; n * dim];
        let mut rest = &mut out[..];
        for spans in spans {
            let rows = spans.iter().map(|(span, _)| span.rows).sum();
            let x = self.rows_in(&inputs, &spans, rows);
            let spans = spans.into_iter().map(|(span, _)| span).collect();
            let mut pass = self.new_pass(spans, rows, x);
            self.run_pass(&mut kvs, &mut pass);
            let (here, after) = rest.split_at_mut(rows * dim);
            for (row_idx, row) in here.chunks_exact_mut(dim).enumerate() {
                gather(&pass.x, rows, row_idx, 0, row);
            }
            rest = after;
        }
        Ok(Array2::from_shape_vec((n, dim), out).expect("every row has dim columns"))
    }

    /// Log-odds of every token after `row`, which [`Stage::forward`] gave; `(vocab_size)`.
    ///
    /// # Errors
    /// [`ModelError::InvalidInput`] if the part has no head or the row has the wrong width.
    pub fn logits(&self, row: ArrayView1<'_, f32>) -> Result<Vec<f32>, ModelError> {
        Ok(self.logits_of_rows(row.insert_axis(Axis(0)))?.into_raw_vec_and_offset().0)
    }

    /// As [`Stage::logits`] for several rows, `(n, vocab_size)`; the caller bounds `n`.
    ///
    /// # Errors
    /// As [`Stage::logits`].
    pub fn logits_of_rows(&self, rows: ArrayView2<'_, f32>) -> Result<Array2<f32>, ModelError> {
        let invalid = |why| ModelError::InvalidInput { what: "row for the head", why };
        let Some(head) = &self.weights.head else {
            return Err(invalid("this part has no head".to_owned()));
        };
        let ((n, dim), vocab_size) = (rows.dim(), self.config.vocab_size);
        if dim != self.config.dim {
            return Err(invalid(format!("{dim} columns, the model has {}", self.config.dim)));
        }
        let mut x = vec![0.0; tiled_len(n, dim)];
        for (row_idx, row) in rows.rows().into_iter().enumerate() {
            scatter_row(row, &mut x, n, row_idx);
        }
        let mut logits = vec![0.0; n * vocab_size];
        self.head(head, n, &x, &mut logits);
        Ok(Array2::from_shape_vec((n, vocab_size), logits).expect("every row has vocab_size"))
    }

    fn check(
        &self,
        kv: &KvCache,
        input: StageInput<'_>,
        from_pos: usize,
    ) -> Result<(), ModelError> {
        let invalid = |what, why| Err(ModelError::InvalidInput { what, why });
        if from_pos != kv.len() {
            let why = format!("position {from_pos}, the cache holds {}", kv.len());
            return invalid("position", why);
        }
        if !kv.fits(&self.config, self.part.layers.len()) {
            return invalid("cache", "it was made for other layers".to_owned());
        }
        match input {
            StageInput::Tokens(tokens) => {
                if self.weights.embed.is_none() {
                    return invalid("input", "tokens for a part without embedding".to_owned());
                }
                match tokens.iter().find(|&&token| token as usize >= self.config.vocab_size) {
                    Some(token) => {
                        let size = self.config.vocab_size;
                        invalid("token", format!("{token}, the vocabulary has {size}"))
                    }
                    None => Ok(()),
                }
            }
            StageInput::Rows(rows) if rows.ncols() != self.config.dim => {
                let why = format!("{} columns, the model has {}", rows.ncols(), self.config.dim);
                invalid("input", why)
            }
            StageInput::Rows(_) => Ok(()),
        }
    }

    /// The rows of a pass, `(rows, dim)` in tiles; beside every span stands where it begins in the
    /// input of its sequence.
    fn rows_in(&self, inputs: &[StageInput<'_>], spans: &[(Span, usize)], rows: usize) -> Vec<f32> {
        let (dim, pool) = (self.config.dim, &self.compute.pool);
        let mut x = vec![0.0; tiled_len(rows, dim)];
        let mut tokens_in = Vec::new();
        for (span, first) in spans {
            for (from, to) in (*first..).zip(span.first..span.first + span.rows) {
                match inputs[span.sequence] {
                    StageInput::Tokens(tokens) => tokens_in.push((tokens[from], to)),
                    StageInput::Rows(all) => scatter_row(all.row(from), &mut x, rows, to),
                }
            }
        }
        let mut embedded = vec![0.0; EMBEDDED_MAX.min(tokens_in.len()) * dim];
        for some in tokens_in.chunks(EMBEDDED_MAX) {
            let parts = Parts::new(&mut embedded[..some.len() * dim], dim);
            pool.split_if(some.len() >= ROWS_MIN, parts, |i, row| self.embed(some[i].0, row));
            for ((_, to), row) in some.iter().zip(embedded.chunks_exact(dim)) {
                scatter(row, &mut x, rows, *to, 0);
            }
        }
        x
    }

    /// The embedding's row of `token`, `(dim)`.
    fn embed(&self, token: u32, out: &mut [f32]) {
        match self.weights.embed.as_ref().expect("checked before the pass") {
            Embedding::Packed(matrix) => {
                self.compute.kernels.dequantize_row(matrix, token as usize, out);
            }
            Embedding::Stored(tensor) => tensor.row(token as usize, out),
        }
    }
}

/// Writes a row, `(dim)`, to tiles.
fn scatter_row(row: ArrayView1<'_, f32>, tiles: &mut [f32], rows: usize, row_idx: usize) {
    match row.as_slice() {
        Some(row) => scatter(row, tiles, rows, row_idx, 0),
        None => scatter(&row.to_vec(), tiles, rows, row_idx, 0),
    }
}

/// Cuts the sequences' inputs into passes of at most [`PASS_ROWS_MAX`] rows. Beside every span
/// stands where it begins in the input of its sequence.
fn spans(sequences: &[Sequence<'_, '_>]) -> Vec<Vec<(Span, usize)>> {
    let mut passes = Vec::new();
    let (mut pass, mut filled) = (Vec::new(), 0);
    for (index, sequence) in sequences.iter().enumerate() {
        let mut done = 0;
        while done < sequence.input.len() {
            let rows = (sequence.input.len() - done).min(PASS_ROWS_MAX - filled);
            let from_pos = sequence.from_pos + done;
            pass.push((Span { sequence: index, first: filled, rows, from_pos }, done));
            (done, filled) = (done + rows, filled + rows);
            if filled == PASS_ROWS_MAX {
                passes.push(std::mem::take(&mut pass));
                filled = 0;
            }
        }
    }
    if !pass.is_empty() {
        passes.push(pass);
    }
    passes
}

#[cfg(test)]
mod tests;
