//! What encoders' layers have and decoders' have not, and what goes into the first of them.

use atoll_model::{Compute, ModelConfig, TILE_ROWS, TensorSource};
use ndarray::{Array1, Array2, ArrayViewMut2, Axis, Zip, s};

use super::{Sight, attend, vector};
use crate::error::CompressError;

/// Tokens of the texts into which a sequence of 512 tokens is cut for an encoder: sentences, as
/// people ask, and a longer one, as they search. No text attends to another.
const TEXTS: [usize; 16] = [8, 16, 24, 32, 48, 8, 16, 24, 32, 48, 8, 16, 24, 32, 48, 128];

/// What an encoder's layer has beside its matrices and what is added to queries, keys and values.
#[derive(Debug, Clone)]
pub(crate) struct EncoderParts {
    /// Added to the attention's output, (dim).
    o_bias: Array1<f32>,
    attn_norm: LayerNorm,
    /// Added to the product with up, (ffn_dim).
    pub(crate) up_bias: Array1<f32>,
    /// Added to the product with down, (dim).
    pub(crate) down_bias: Array1<f32>,
    ffn_norm: LayerNorm,
}

/// A layer norm; both (dim), in whole tiles as the kernels want them.
#[derive(Debug, Clone)]
struct LayerNorm {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl EncoderParts {
    /// Reads those of layer `layer_idx`.
    pub(super) fn read(source: &TensorSource, layer_idx: usize) -> Result<Self, CompressError> {
        let config = source.config();
        let name = |part: &str| format!("blk.{layer_idx}.{part}");
        Ok(Self {
            o_bias: vector(source, &name("attn_output.bias"), config.dim)?,
            attn_norm: LayerNorm::read(source, &name("attn_output_norm"))?,
            up_bias: vector(source, &name("ffn_up.bias"), config.ffn_dim_of(layer_idx))?,
            down_bias: vector(source, &name("ffn_down.bias"), config.dim)?,
            ffn_norm: LayerNorm::read(source, &name("layer_output_norm"))?,
        })
    }

    /// What each number of the feed-forward block's output is multiplied by behind it, (dim).
    pub(crate) fn gains(&self) -> Array1<f32> {
        Array1::from(self.ffn_norm.weight[..self.down_bias.len()].to_vec())
    }

    /// What follows the product that attention adds to `x`, (rows, dim).
    pub(super) fn after_attention(
        &self,
        compute: &Compute,
        eps: f32,
        x: &mut ArrayViewMut2<'_, f32>,
    ) {
        *x += &self.o_bias;
        self.attn_norm.apply(compute, eps, x);
    }

    /// `gelu(up + bias)` of a product with up, (rows, ffn_dim).
    pub(super) fn gelu(&self, compute: &Compute, up: &mut Array2<f32>) {
        let bias = in_tiles(&self.up_bias);
        each_row(&mut up.view_mut(), |row| compute.kernels.gelu(row, &bias));
    }

    /// The slope of GELU at `up + bias` of a product with up, (rows, ffn_dim).
    pub(crate) fn gelu_slopes(&self, compute: &Compute, mut up: Array2<f32>) -> Array2<f32> {
        let mut slopes = up.clone();
        self.gelu(compute, &mut slopes);
        up += &self.up_bias;
        Zip::from(&mut slopes).and(&up).for_each(|slope, &x| {
            // gelu(x) = x Φ(x), of which the slope is Φ(x) + x φ(x).
            let below = if x.abs() < 1e-6 { 0.5 } else { *slope / x };
            *slope = below
                + x * (-0.5 * x * x).exp()
                    * std::f32::consts::FRAC_1_SQRT_2
                    * std::f32::consts::FRAC_2_SQRT_PI
                    / 2.0;
        });
        slopes
    }

    /// What follows the product that the feed-forward block adds to `x`, (rows, dim).
    pub(super) fn after_ffn(&self, compute: &Compute, eps: f32, x: &mut ArrayViewMut2<'_, f32>) {
        *x += &self.down_bias;
        self.ffn_norm.apply(compute, eps, x);
    }
}

impl LayerNorm {
    fn read(source: &TensorSource, name: &str) -> Result<Self, CompressError> {
        let dim = source.config().dim;
        let part = |part: &str| vector(source, &format!("{name}.{part}"), dim);
        Ok(Self { weight: in_tiles(&part("weight")?), bias: in_tiles(&part("bias")?) })
    }

    /// Every row becomes `(x - mean) / sqrt(variance + eps) * weight + bias`.
    fn apply(&self, compute: &Compute, eps: f32, x: &mut ArrayViewMut2<'_, f32>) {
        let cols = x.ncols();
        each_row(x, |row| compute.kernels.layer_norm(row, cols, &self.weight, &self.bias, eps));
    }
}

/// With zeros up to a whole tile of the kernels.
fn in_tiles(values: &Array1<f32>) -> Vec<f32> {
    let mut values = values.to_vec();
    values.resize(values.len().next_multiple_of(TILE_ROWS), 0.0);
    values
}

/// Gives each row of `x` to `step`, with zeros up to a whole tile: one row in the kernels' layout.
fn each_row(x: &mut ArrayViewMut2<'_, f32>, step: impl Fn(&mut [f32])) {
    let mut tiles = vec![0.0; x.ncols().next_multiple_of(TILE_ROWS)];
    for mut row in x.rows_mut() {
        tiles[row.len()..].fill(0.0);
        tiles.iter_mut().zip(&row).for_each(|(to, from)| *to = *from);
        step(&mut tiles);
        row.iter_mut().zip(&tiles).for_each(|(to, from)| *to = *from);
    }
}

/// Lengths of the texts into which `rows` tokens are cut for an encoder that reads `context_max`
/// at once: [`TEXTS`] in turns, each in equal parts if it is too long.
pub(crate) fn texts(rows: usize, context_max: usize) -> Vec<usize> {
    let (mut lengths, mut left) = (Vec::new(), rows);
    for whole in TEXTS.into_iter().cycle() {
        let whole = whole.min(left);
        if whole == 0 {
            return lengths;
        }
        left -= whole;
        let parts = whole.div_ceil(context_max.max(1));
        lengths.extend((0..parts).map(|part| (part + 1) * whole / parts - part * whole / parts));
    }
    lengths
}

/// The tokens that the model reads of `tokens`, which are sequences of `length`: of an encoder, the
/// first and the last token of every text (see [`texts`]) become those that begin and end one.
pub(crate) fn text_ids(
    config: &ModelConfig,
    tokens: &[u32],
    length: usize,
    [begin, end]: [Option<u32>; 2],
) -> Vec<u32> {
    let mut ids = tokens.to_vec();
    if config.encoder.is_none() {
        return ids;
    }
    for mut rest in ids.chunks_mut(length) {
        for text_len in texts(rest.len(), config.context_max) {
            let (text, after) = rest.split_at_mut(text_len);
            text[text_len - 1] = end.unwrap_or(text[text_len - 1]);
            text[0] = begin.unwrap_or(text[0]);
            rest = after;
        }
    }
    ids
}

/// What goes into the first layer of sequences of `length` tokens whose embeddings are `words`,
/// (tokens, dim): those, or of an encoder `norm(word + type + position)`.
///
/// # Errors
/// A missing tensor or one of the wrong shape.
pub(crate) fn first_states(
    source: &TensorSource,
    mut words: Array2<f32>,
    length: usize,
    compute: &Compute,
) -> Result<Array2<f32>, CompressError> {
    let config = source.config();
    let Some(encoder) = &config.encoder else { return Ok(words) };
    let table = |name: &str, rows| source.require_shape(name, rows, config.dim);
    let kind = Array1::from_vec(table("token_types.weight", encoder.token_types)?.row(0)?);
    let places = table("position_embd.weight", encoder.positions)?;
    for mut sequence in words.axis_chunks_iter_mut(Axis(0), length) {
        let lengths = texts(sequence.nrows(), config.context_max);
        let positions = lengths.into_iter().flat_map(|text_len| 0..text_len);
        for (mut word, position) in sequence.rows_mut().into_iter().zip(positions) {
            word += &kind;
            word += &Array1::from_vec(places.row(position)?);
        }
    }
    let norm = LayerNorm::read(source, "token_embd_norm")?;
    norm.apply(compute, config.norm_eps, &mut words.view_mut());
    Ok(words)
}

/// Attention of every position to all of its text ([`texts`]), (rows, q_dim).
pub(super) fn attend_texts(
    config: &ModelConfig,
    q: &Array2<f32>,
    k: &Array2<f32>,
    v: &Array2<f32>,
) -> Array2<f32> {
    let (mut out, mut from) = (Array2::zeros(q.raw_dim()), 0);
    for rows in texts(q.nrows(), config.context_max) {
        let of = s![from..from + rows, ..];
        let seen = attend(config, Sight::All, q.slice(of), k.slice(of), v.slice(of));
        out.slice_mut(of).assign(&seen);
        from += rows;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_is_cut_into_texts_that_can_be_read() {
        assert_eq!(texts(512, 512), TEXTS);
        assert_eq!(texts(128, 32), [8, 16, 24, 32, 24, 24]);
        assert_eq!(texts(100, 20), [8, 16, 12, 12, 16, 16, 20]);
        for context in 1..300 {
            let lengths = texts(512, context);
            assert_eq!(lengths.iter().sum::<usize>(), 512);
            assert!(lengths.iter().all(|&n| n <= context && n >= context.min(8) / 2), "{context}");
        }
    }
}
