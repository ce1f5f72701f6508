//! The model as given on some pieces of a text, and what a change of it costs there.
//!
//! A decoder is judged by the distribution over the next token: the Kullback-Leibler divergence
//! from it, in nats. An encoder is judged by the directions of texts: one less their cosine.

use std::collections::BTreeMap;

use atoll_model::rope::{Rope, RopeTable};
use atoll_model::{Compute, ModelConfig, Tensor, TensorSource};
use ndarray::{Array1, Array2, ArrayView2, Axis, concatenate, s};

use crate::error::CompressError;
use crate::floats::{FloatLayer, first_states, norm, text_ids, texts};
use crate::plan::EMBED;

/// Pieces of the text that are looked at, from all over it.
const PIECES: usize = 4;
/// Of an encoder, which is small, and of which a piece says no more than some directions.
const PIECES_OF_ENCODERS: usize = 32;
/// Tokens of a piece.
const PIECE: usize = 96;
/// Tokens needed for that: pieces may overlap.
pub(crate) const TOKENS_MIN: usize = PIECES * PIECE;
/// Tokens, of those in the text, between which the distribution is looked at.
const TOKENS_MAX: usize = 4096;

/// A text to look at the model on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProbeText<'a> {
    /// At least [`TOKENS_MIN`].
    pub(crate) tokens: &'a [u32],
    /// The tokens that begin and end every text that an encoder reads.
    pub(crate) ends: [Option<u32>; 2],
}

/// The model as given, and what is looked at.
pub(crate) struct Probe<'a> {
    source: &'a TensorSource,
    pub(crate) compute: &'a Compute,
    rope: RopeTable,
    pub(crate) layers: Vec<FloatLayer>,
    judge: Judge,
}

/// By what a change is judged.
enum Judge {
    /// The distribution over the next token.
    Words {
        output_norm: Array1<f32>,
        /// Rows of the head, (tokens looked at, dim).
        head: Array2<f32>,
        /// Log-probabilities of the model as given, (rows, tokens looked at).
        given: Array2<f32>,
    },
    /// The directions of texts, (texts, dim), of the model as given.
    Texts { given: Array2<f32> },
}

/// The name of the head's matrix.
pub(crate) const fn head_name(config: &ModelConfig) -> &'static str {
    if config.tied { EMBED } else { "output.weight" }
}

/// Which of a layer's four inputs (of q, k and v; of the output; of gate and up; of down) goes into
/// each of its matrices, in their order.
pub(crate) fn inputs_of(layer: &FloatLayer) -> Vec<usize> {
    let into_ffn = if layer.gate.is_some() { 2 } else { 1 };
    [0, 0, 0, 1].into_iter().chain(std::iter::repeat_n(2, into_ffn)).chain([3]).collect()
}

/// Rows of a tensor.
pub(crate) fn rows_of(tensor: Tensor<'_>, rows: &[u32]) -> Result<Array2<f32>, CompressError> {
    let mut values = Vec::with_capacity(rows.len() * tensor.info.cols);
    for &row in rows {
        values.extend(tensor.row(row as usize)?);
    }
    Ok(Array2::from_shape_vec((rows.len(), tensor.info.cols), values).expect("whole rows"))
}

impl<'a> Probe<'a> {
    /// The model `source`, looked at on pieces of `text`; and what goes into each of its layers,
    /// (rows, dim).
    ///
    /// # Errors
    /// A missing tensor or one of the wrong shape.
    pub(crate) fn new(
        source: &'a TensorSource,
        text: ProbeText<'_>,
        compute: &'a Compute,
    ) -> Result<(Self, Vec<Array2<f32>>), CompressError> {
        let config = source.config();
        let layers = (0..config.n_layers).map(|layer_idx| FloatLayer::read(source, layer_idx));
        let given = Array2::zeros((0, 0));
        let judge = match config.encoder {
            Some(_) => Judge::Texts { given },
            None => {
                let output_norm = source.require_shape("output_norm.weight", 1, config.dim)?;
                let head =
                    source.require_shape(head_name(config), config.vocab_size, config.dim)?;
                Judge::Words {
                    output_norm: Array1::from_vec(output_norm.dequantize()),
                    head: rows_of(head, &frequent(text.tokens))?,
                    given,
                }
            }
        };
        let mut probe = Self {
            source,
            compute,
            rope: Rope::new(&config.rope).table(0..PIECE),
            layers: layers.collect::<Result<_, _>>()?,
            judge,
        };
        let mut x = probe.states(probe.words(EMBED, text)?)?;
        let mut states = Vec::with_capacity(config.n_layers);
        for layer in &probe.layers {
            states.push(x.clone());
            probe.through(layer, &mut x);
        }
        let said = probe.said(&x);
        match &mut probe.judge {
            Judge::Words { given, .. } | Judge::Texts { given } => *given = said,
        }
        Ok((probe, states))
    }

    /// The rows of the table `name` of the tokens of the pieces of `text`, (rows, dim).
    ///
    /// # Errors
    /// A missing tensor or one of the wrong shape.
    pub(crate) fn words(
        &self,
        name: &str,
        text: ProbeText<'_>,
    ) -> Result<Array2<f32>, CompressError> {
        let config = self.source.config();
        let table = self.source.require_shape(name, config.vocab_size, config.dim)?;
        rows_of(table, &text_ids(config, &seen(text.tokens, config), PIECE, text.ends))
    }

    /// What goes into the first layer where [`Self::words`] are those, (rows, dim).
    ///
    /// # Errors
    /// A missing tensor or one of the wrong shape.
    pub(crate) fn states(&self, words: Array2<f32>) -> Result<Array2<f32>, CompressError> {
        first_states(self.source, words, PIECE, self.compute)
    }

    /// Takes the pieces, (pieces * length, dim), through a layer; returns what goes into its
    /// products (see [`inputs_of`]).
    pub(crate) fn through(&self, layer: &FloatLayer, x: &mut Array2<f32>) -> [Array2<f32>; 4] {
        let config = self.source.config();
        let pieces = x.axis_chunks_iter_mut(Axis(0), PIECE);
        let inputs: Vec<[Array2<f32>; 4]> = pieces
            .map(|mut piece| {
                let inputs = layer.forward(config, self.compute, &self.rope, &mut piece);
                [inputs.qkv, inputs.output, inputs.ffn, inputs.down]
            })
            .collect();
        [0, 1, 2, 3].map(|which| {
            let views: Vec<ArrayView2<'_, f32>> = inputs.iter().map(|i| i[which].view()).collect();
            concatenate(Axis(0), &views).expect("one width")
        })
    }

    /// What it costs if `x`, (rows, dim), goes into layer `from` and that layer is `changed`.
    pub(crate) fn cost(
        &self,
        from: usize,
        changed: Option<&FloatLayer>,
        mut x: Array2<f32>,
    ) -> f64 {
        let config = self.source.config();
        let first = changed.or_else(|| self.layers.get(from));
        for layer in first.into_iter().chain(self.layers.iter().skip(from + 1)) {
            for mut piece in x.axis_chunks_iter_mut(Axis(0), PIECE) {
                layer.forward(config, self.compute, &self.rope, &mut piece);
            }
        }
        let said = self.said(&x);
        match &self.judge {
            Judge::Words { given, .. } => divergence(given, &said),
            Judge::Texts { given } => turn(given, &said),
        }
    }

    /// The head, given what leaves the last layer, (rows, dim). None of an encoder, which has none.
    pub(crate) fn head(&self, last: &Array2<f32>) -> Option<Head<'_>> {
        match &self.judge {
            Judge::Words { output_norm, head, given } => {
                let inputs = norm(last.view(), output_norm, self.source.config().norm_eps);
                Some(Head { inputs, matrix: head, given })
            }
            Judge::Texts { .. } => None,
        }
    }

    /// What the model says where `last`, (rows, dim), leaves its last layer: see [`Judge`].
    fn said(&self, last: &Array2<f32>) -> Array2<f32> {
        match self.head(last) {
            Some(head) => head.said(head.matrix),
            None => directions(self.source.config(), last),
        }
    }
}

/// A decoder's head, and what goes into it.
pub(crate) struct Head<'a> {
    /// (rows, dim).
    pub(crate) inputs: Array2<f32>,
    /// Its rows, (tokens looked at, dim).
    pub(crate) matrix: &'a Array2<f32>,
    given: &'a Array2<f32>,
}

impl Head<'_> {
    /// What it costs if `matrix` takes its place.
    pub(crate) fn cost(&self, matrix: &Array2<f32>) -> f64 {
        divergence(self.given, &self.said(matrix))
    }

    /// Log-probabilities, (rows, tokens looked at), by `matrix`.
    fn said(&self, matrix: &Array2<f32>) -> Array2<f32> {
        log_softmax(self.inputs.dot(&matrix.t()))
    }
}

/// The tokens of the pieces of `tokens`.
fn seen(tokens: &[u32], config: &ModelConfig) -> Vec<u32> {
    let pieces = if config.encoder.is_some() { PIECES_OF_ENCODERS } else { PIECES };
    let last = tokens.len() - PIECE;
    (0..pieces).flat_map(|i| &tokens[i * last / (pieces - 1)..][..PIECE]).copied().collect()
}

/// The most frequent tokens, in ascending order.
fn frequent(tokens: &[u32]) -> Vec<u32> {
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    tokens.iter().for_each(|&token| *counts.entry(token).or_default() += 1);
    let mut by_count: Vec<(usize, u32)> = counts.into_iter().map(|(t, n)| (n, t)).collect();
    by_count.sort_unstable_by(|a, b| b.cmp(a));
    by_count.truncate(TOKENS_MAX);
    let mut found: Vec<u32> = by_count.into_iter().map(|(_, token)| token).collect();
    found.sort_unstable();
    found
}

#[expect(clippy::cast_possible_truncation, reason = "an f64 sum, rounded once")]
fn log_softmax(mut logits: Array2<f32>) -> Array2<f32> {
    for mut row in logits.rows_mut() {
        let max = row.iter().fold(f32::NEG_INFINITY, |max, &logit| max.max(logit));
        let sum: f64 = row.iter().map(|&logit| f64::from((logit - max).exp())).sum();
        let by = max + sum.ln() as f32;
        row.map_inplace(|logit| *logit -= by);
    }
    logits
}

/// Mean over the rows of the Kullback-Leibler divergence of `q` from `p`, both log-probabilities.
fn divergence(p: &Array2<f32>, q: &Array2<f32>) -> f64 {
    let terms = p.iter().zip(q).map(|(&p, &q)| f64::from(p.exp()) * f64::from(p - q));
    (terms.sum::<f64>() / p.nrows().max(1) as f64).max(0.0)
}

/// Sum of all squares.
pub(crate) fn energy(x: &Array2<f32>) -> f64 {
    x.iter().map(|&value| f64::from(value) * f64::from(value)).sum()
}

/// The normalized mean of every text's rows, (texts, dim).
fn directions(config: &ModelConfig, last: &Array2<f32>) -> Array2<f32> {
    let mut found = Vec::new();
    for piece in last.axis_chunks_iter(Axis(0), PIECE) {
        let mut from = 0;
        for rows in texts(piece.nrows(), config.context_max) {
            let sum = piece.slice(s![from..from + rows, ..]).sum_axis(Axis(0));
            found.push(&sum / sum.dot(&sum).sqrt().max(f32::MIN_POSITIVE));
            from += rows;
        }
    }
    let rows: Vec<_> = found.iter().map(|row| row.view().insert_axis(Axis(0))).collect();
    concatenate(Axis(0), &rows).expect("one width")
}

/// One less the mean cosine of rows of length one.
fn turn(a: &Array2<f32>, b: &Array2<f32>) -> f64 {
    let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
    (1.0 - products.sum::<f64>() / a.nrows().max(1) as f64).max(0.0)
}

#[cfg(test)]
mod tests {
    use atoll_model::{Architecture, BlockType as Ty, GgufFile, Isa, tiny};

    use super::*;

    /// `w` changed by what none of the rows of `x`, fewer than its columns, can see.
    fn unseen_change(w: &mut Array2<f32>, x: &Array2<f32>) {
        let mut basis: Vec<Array1<f32>> = Vec::new();
        let rest = |mut v: Array1<f32>, basis: &[Array1<f32>]| {
            // Twice, since one turn leaves what it rounds off.
            for b in basis.iter().chain(basis) {
                let along = v.dot(b);
                v.scaled_add(-along, b);
            }
            v
        };
        for row in x.rows() {
            let row = rest(&row / row.dot(&row).sqrt(), &basis);
            let length = row.dot(&row).sqrt();
            if length > 1e-4 {
                basis.push(row / length);
            }
        }
        let n = w.ncols();
        assert!(basis.len() < n, "something is unseen");
        let unseen = rest(Array1::from_shape_fn(n, |i| (i as f32 * 0.7).sin()), &basis);
        for (idx, mut row) in w.rows_mut().into_iter().enumerate() {
            row.scaled_add(0.3 + (idx as f32).cos(), &unseen);
        }
    }

    #[test]
    fn every_matrix_has_the_input_that_inputs_names() {
        const ROWS: usize = 8;
        let config = tiny::config(Architecture::Qwen2);
        let bytes = tiny::random_model(&config, Ty::F32, 7);
        let source = TensorSource::Gguf(GgufFile::parse(bytes).expect("a whole model"));
        let compute = Compute::new(Isa::detect(), 1).expect("a thread");
        let layer = FloatLayer::read(&source, 0).expect("a layer");
        let probe = Probe {
            source: &source,
            compute: &compute,
            rope: Rope::new(&config.rope).table(0..PIECE),
            layers: Vec::new(),
            judge: Judge::Texts { given: Array2::zeros((0, 0)) },
        };
        let x = Array2::from_shape_fn((ROWS, config.dim), |(i, j)| ((i * 37 + j * j) as f32).sin());
        let mut given = x.clone();
        let inputs = probe.through(&layer, &mut given);
        for (kind, input) in inputs_of(&layer).into_iter().enumerate() {
            let (mut changed, mut found) = (layer.clone(), x.clone());
            let matrix = changed.matrices_mut().nth(kind).expect("a matrix of every kind");
            unseen_change(matrix, &inputs[input]);
            probe.through(&changed, &mut found);
            let off = energy(&(&found - &given)) / energy(&given);
            assert!(off < 1e-6, "matrix {kind}: {off}");
        }
    }
}
