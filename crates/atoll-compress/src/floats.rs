//! A layer in f32, and its forward pass with a tap on the input of every product.
//!
//! Slower than the kernels, and exact in the weights: the inputs that are measured here are those
//! of the model, not those of its int8 activations.

mod encoder;

use atoll_model::rope::RopeTable;
use atoll_model::{Compute, ModelConfig, TensorSource};
use ndarray::{Array1, Array2, ArrayView2, ArrayViewMut2, Zip, s};

use crate::error::CompressError;
use encoder::EncoderParts;
pub(crate) use encoder::{first_states, text_ids, texts};

/// Inputs of a layer's products.
#[derive(Debug)]
pub(crate) struct Inputs {
    /// Of q, k and v, (rows, dim).
    pub(crate) qkv: Array2<f32>,
    /// Of the attention's output, (rows, q_dim).
    pub(crate) output: Array2<f32>,
    /// Of gate and up, (rows, dim).
    pub(crate) ffn: Array2<f32>,
    /// Of down, (rows, ffn_dim).
    pub(crate) down: Array2<f32>,
}

/// A layer's weights; matrices are (out, in).
#[derive(Debug, Clone)]
pub(crate) struct FloatLayer {
    /// Before attention and before the feed-forward block, (dim) each; an encoder has none there.
    norms: Option<[Array1<f32>; 2]>,
    pub(crate) q: Array2<f32>,
    pub(crate) k: Array2<f32>,
    pub(crate) v: Array2<f32>,
    biases: Option<[Array1<f32>; 3]>,
    head_norms: Option<[Array1<f32>; 2]>,
    pub(crate) o: Array2<f32>,
    /// An encoder has none.
    pub(crate) gate: Option<Array2<f32>>,
    pub(crate) up: Array2<f32>,
    pub(crate) down: Array2<f32>,
    /// What only an encoder has.
    pub(crate) encoder: Option<EncoderParts>,
}

/// The name of a layer's matrix of a kind, such as `ffn_down`.
pub(crate) fn matrix_name(layer_idx: usize, kind: &str) -> String {
    format!("blk.{layer_idx}.{kind}.weight")
}

impl FloatLayer {
    /// Its matrices: q, k, v, output, gate (of decoders), up, down.
    pub(crate) fn matrices(&self) -> impl Iterator<Item = &Array2<f32>> {
        let Self { q, k, v, o, gate, up, down, .. } = self;
        [q, k, v, o].into_iter().chain(gate).chain([up, down])
    }

    /// As [`Self::matrices`], to be changed.
    pub(crate) fn matrices_mut(&mut self) -> impl Iterator<Item = &mut Array2<f32>> {
        let Self { q, k, v, o, gate, up, down, .. } = self;
        [q, k, v, o].into_iter().chain(gate).chain([up, down])
    }

    /// Reads layer `layer_idx`.
    ///
    /// # Errors
    /// A missing tensor or one of the wrong shape.
    pub(crate) fn read(source: &TensorSource, layer_idx: usize) -> Result<Self, CompressError> {
        let config = source.config();
        let (dim, q_dim, kv_dim) = (config.dim, config.q_dim(), config.kv_dim());
        let is_encoder = config.encoder.is_some();
        let name = |suffix: &str| format!("blk.{layer_idx}.{suffix}");
        let matrix = |suffix: &str, rows, cols| matrix(source, &name(suffix), rows, cols);
        let vector = |suffix: &str, len| vector(source, &name(suffix), len);
        let norms = || Ok([vector("attn_norm.weight", dim)?, vector("ffn_norm.weight", dim)?]);
        let biases = || {
            let [q, k, v] = ["attn_q.bias", "attn_k.bias", "attn_v.bias"];
            Ok([vector(q, q_dim)?, vector(k, kv_dim)?, vector(v, kv_dim)?])
        };
        let head_norms = || {
            let [q, k] = ["attn_q_norm.weight", "attn_k_norm.weight"];
            Ok([vector(q, config.head_dim)?, vector(k, config.head_dim)?])
        };
        let ffn_dim = config.ffn_dim_of(layer_idx);
        let gate = || matrix("ffn_gate.weight", ffn_dim, dim);
        let encoder = || EncoderParts::read(source, layer_idx);
        Ok(Self {
            norms: only(!is_encoder, norms)?,
            q: matrix("attn_q.weight", q_dim, dim)?,
            k: matrix("attn_k.weight", kv_dim, dim)?,
            v: matrix("attn_v.weight", kv_dim, dim)?,
            biases: only(config.qkv_bias, biases)?,
            head_norms: only(config.qk_norm, head_norms)?,
            o: matrix("attn_output.weight", dim, q_dim)?,
            gate: only(!is_encoder, gate)?,
            up: matrix("ffn_up.weight", ffn_dim, dim)?,
            down: matrix("ffn_down.weight", dim, ffn_dim)?,
            encoder: only(is_encoder, encoder)?,
        })
    }

    /// Takes one sequence, (rows, dim), from position 0 through the layer; returns what its
    /// products were given.
    pub(crate) fn forward(
        &self,
        config: &ModelConfig,
        compute: &Compute,
        rope: &RopeTable,
        x: &mut ArrayViewMut2<'_, f32>,
    ) -> Inputs {
        let qkv = self.attention_input(config, x.view());
        let output = self.attention(config, compute, rope, qkv.view());
        self.after_attention(config, compute, output.view(), x);
        let ffn = self.ffn_input(config, x.view());
        let down = self.neurons(compute, ffn.view());
        self.after_ffn(config, compute, down.view(), x);
        Inputs { qkv, output, ffn, down }
    }

    /// What goes into q, k and v, (rows, dim), of `x`, (rows, dim).
    pub(crate) fn attention_input(
        &self,
        config: &ModelConfig,
        x: ArrayView2<'_, f32>,
    ) -> Array2<f32> {
        match &self.norms {
            Some([weight, _]) => norm(x, weight, config.norm_eps),
            None => x.to_owned(),
        }
    }

    /// What goes into the attention's output, (rows, q_dim), of what goes into q, k and v of one
    /// sequence from position 0, (rows, dim).
    pub(crate) fn attention(
        &self,
        config: &ModelConfig,
        compute: &Compute,
        rope: &RopeTable,
        qkv: ArrayView2<'_, f32>,
    ) -> Array2<f32> {
        let mut q = qkv.dot(&self.q.t());
        let mut k = qkv.dot(&self.k.t());
        let mut v = qkv.dot(&self.v.t());
        if let Some([q_bias, k_bias, v_bias]) = &self.biases {
            q += q_bias;
            k += k_bias;
            v += v_bias;
        }
        if self.encoder.is_some() {
            return encoder::attend_texts(config, &q, &k, &v);
        }
        let norms = self.head_norms.as_ref();
        turn(&mut q, config, compute, rope, norms.map(|norms| &norms[0]));
        turn(&mut k, config, compute, rope, norms.map(|norms| &norms[1]));
        attend(config, Sight::Before, q.view(), k.view(), v.view())
    }

    /// Adds to `x`, (rows, dim), what attention makes of `output`, which goes into its output,
    /// (rows, q_dim), and does what follows.
    pub(crate) fn after_attention(
        &self,
        config: &ModelConfig,
        compute: &Compute,
        output: ArrayView2<'_, f32>,
        x: &mut ArrayViewMut2<'_, f32>,
    ) {
        *x += &output.dot(&self.o.t());
        if let Some(encoder) = &self.encoder {
            encoder.after_attention(compute, config.norm_eps, x);
        }
    }

    /// What goes into gate and up, (rows, dim), of `x` after the attention, (rows, dim).
    pub(crate) fn ffn_input(&self, config: &ModelConfig, x: ArrayView2<'_, f32>) -> Array2<f32> {
        match &self.norms {
            Some([_, weight]) => norm(x, weight, config.norm_eps),
            None => x.to_owned(),
        }
    }

    /// What goes into down, (rows, ffn_dim), of what goes into gate and up, (rows, dim).
    pub(crate) fn neurons(&self, compute: &Compute, ffn: ArrayView2<'_, f32>) -> Array2<f32> {
        let mut up = ffn.dot(&self.up.t());
        if let Some(gate) = &self.gate {
            Zip::from(&mut up).and(&ffn.dot(&gate.t())).for_each(|up, &gate| {
                *up *= gate / (1.0 + (-gate).exp());
            });
        }
        if let Some(encoder) = &self.encoder {
            encoder.gelu(compute, &mut up);
        }
        up
    }

    /// What each number of the feed-forward block's output is multiplied by behind it, (dim); of a
    /// decoder, where several norms follow, all alike.
    pub(crate) fn gains(&self) -> Array1<f32> {
        match &self.encoder {
            Some(encoder) => encoder.gains(),
            None => Array1::ones(self.down.nrows()),
        }
    }

    /// Adds to `x`, (rows, dim), what down makes of `neurons`, (rows, ffn_dim), and does what
    /// follows.
    pub(crate) fn after_ffn(
        &self,
        config: &ModelConfig,
        compute: &Compute,
        neurons: ArrayView2<'_, f32>,
        x: &mut ArrayViewMut2<'_, f32>,
    ) {
        *x += &neurons.dot(&self.down.t());
        if let Some(encoder) = &self.encoder {
            encoder.after_ffn(compute, config.norm_eps, x);
        }
    }
}

/// What `read` gives, if the model has it.
fn only<T>(
    has: bool,
    read: impl FnOnce() -> Result<T, CompressError>,
) -> Result<Option<T>, CompressError> {
    has.then(read).transpose()
}

fn matrix(
    source: &TensorSource,
    name: &str,
    rows: usize,
    cols: usize,
) -> Result<Array2<f32>, CompressError> {
    let values = source.require_shape(name, rows, cols)?.dequantize();
    Ok(Array2::from_shape_vec((rows, cols), values).expect("the tensor has the asked shape"))
}

fn vector(source: &TensorSource, name: &str, len: usize) -> Result<Array1<f32>, CompressError> {
    Ok(Array1::from_vec(source.require_shape(name, 1, len)?.dequantize()))
}

/// `x / sqrt(mean(x²) + eps) * weight` of every row.
#[expect(clippy::cast_possible_truncation, reason = "one rounding of an f64 sum")]
pub(crate) fn norm(x: ArrayView2<'_, f32>, weight: &Array1<f32>, eps: f32) -> Array2<f32> {
    let mut out = x.to_owned();
    for mut row in out.rows_mut() {
        let mean = row.iter().map(|v| f64::from(v * v)).sum::<f64>() / row.len() as f64;
        let scale = (1.0 / (mean + f64::from(eps)).sqrt()) as f32;
        Zip::from(&mut row).and(weight).for_each(|value, &weight| *value *= scale * weight);
    }
    out
}

/// Normalizes every head (if the model does) and rotates it.
fn turn(
    x: &mut Array2<f32>,
    config: &ModelConfig,
    compute: &Compute,
    rope: &RopeTable,
    weight: Option<&Array1<f32>>,
) {
    for (position, mut row) in x.rows_mut().into_iter().enumerate() {
        let (cos, sin) = rope.row(position);
        let row = row.as_slice_mut().expect("a product is contiguous");
        for head in row.chunks_exact_mut(config.head_dim) {
            if let Some(weight) = weight {
                let view = ArrayView2::from_shape((1, config.head_dim), &*head);
                let normed = norm(view.expect("one head"), weight, config.norm_eps);
                head.copy_from_slice(normed.as_slice().expect("contiguous"));
            }
            compute.kernels.rope(&mut head[..config.rope.n_dims], cos, sin, config.rope.style);
        }
    }
}

/// What a position attends to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sight {
    /// Itself and those before it.
    Before,
    /// All.
    All,
}

/// Attention of every head, (rows, q_dim).
fn attend(
    config: &ModelConfig,
    sight: Sight,
    q: ArrayView2<'_, f32>,
    k: ArrayView2<'_, f32>,
    v: ArrayView2<'_, f32>,
) -> Array2<f32> {
    let width = config.head_dim;
    let scale = 1.0 / (width as f32).sqrt();
    let mut out = Array2::zeros(q.raw_dim());
    for head in 0..config.n_heads {
        let of = head * width..(head + 1) * width;
        let kv_head = head / (config.n_heads / config.n_kv_heads);
        let kv = kv_head * width..(kv_head + 1) * width;
        let mut scores = q.slice(s![.., of.clone()]).dot(&k.slice(s![.., kv.clone()]).t());
        let n = scores.ncols();
        for (position, mut row) in scores.rows_mut().into_iter().enumerate() {
            let n_seen = if sight == Sight::All { n } else { position + 1 };
            let (mut seen, mut unseen) = row.view_mut().split_at(ndarray::Axis(0), n_seen);
            unseen.fill(0.0);
            let max = seen.iter().fold(f32::NEG_INFINITY, |max, &score| max.max(score));
            seen.map_inplace(|score| *score = ((*score - max) * scale).exp());
            let total = seen.sum();
            seen.map_inplace(|score| *score /= total);
        }
        out.slice_mut(s![.., of]).assign(&scores.dot(&v.slice(s![.., kv])));
    }
    out
}
