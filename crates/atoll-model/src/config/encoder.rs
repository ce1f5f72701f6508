//! What an encoder is beside what every model is.

use atoll_kernels::RopeStyle;
use serde::{Deserialize, Serialize};

use super::{Architecture, ModelConfig, RopeConfig, RopeScaling, TensorSpec};
use crate::error::ModelError;

/// What encoders have and decoders do not. Every position sees all others, layer norms stand
/// behind attention and feed-forward block, and GELU stands between its two matrices (Devlin et
/// al. 2019, arXiv 1810.04805).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderConfig {
    /// Rows of the embedding of positions.
    pub positions: usize,
    /// Rows of the embedding of token types, of which the first is used.
    pub token_types: usize,
}

/// Most rows that either table may have.
const ROWS_MAX: u64 = 1 << 20;

impl EncoderConfig {
    /// A BERT of width `dim` with `n_heads` heads, of which the caller fills in what is zero here:
    /// layers, feed-forward width, vocabulary, epsilon and context.
    pub(crate) fn bert(self, dim: usize, n_heads: usize) -> ModelConfig {
        // Positions are learned, not turned.
        let (theta, scaling, style) = (1.0, RopeScaling::None, RopeStyle::Neox);
        ModelConfig {
            architecture: Architecture::Bert,
            n_layers: 0,
            dim,
            n_heads,
            n_kv_heads: n_heads,
            head_dim: dim / n_heads.max(1),
            ffn_dim: 0,
            ffn_dims: Vec::new(),
            vocab_size: 0,
            norm_eps: 0.0,
            context_max: 0,
            rope: RopeConfig { theta, n_dims: 0, scaling, style },
            qkv_bias: true,
            qk_norm: false,
            tied: true,
            encoder: Some(self),
        }
    }

    /// Every tensor of layer `layer_idx`, in a fixed order.
    pub(super) fn layer_tensors(config: &ModelConfig, layer_idx: usize) -> Vec<TensorSpec> {
        let (dim, q_dim, ffn_dim) = (config.dim, config.q_dim(), config.ffn_dim_of(layer_idx));
        let parts = [
            ("attn_q.weight", q_dim, dim),
            ("attn_q.bias", 1, q_dim),
            ("attn_k.weight", q_dim, dim),
            ("attn_k.bias", 1, q_dim),
            ("attn_v.weight", q_dim, dim),
            ("attn_v.bias", 1, q_dim),
            ("attn_output.weight", dim, q_dim),
            ("attn_output.bias", 1, dim),
            ("attn_output_norm.weight", 1, dim),
            ("attn_output_norm.bias", 1, dim),
            ("ffn_up.weight", ffn_dim, dim),
            ("ffn_up.bias", 1, ffn_dim),
            ("ffn_down.weight", dim, ffn_dim),
            ("ffn_down.bias", 1, dim),
            ("layer_output_norm.weight", 1, dim),
            ("layer_output_norm.bias", 1, dim),
        ];
        let spec =
            |(part, rows, cols)| TensorSpec { name: format!("blk.{layer_idx}.{part}"), rows, cols };
        parts.into_iter().map(spec).collect()
    }

    /// The tables that make a row of a token, and its norm.
    pub(super) fn embed_tensors(&self, config: &ModelConfig) -> Vec<TensorSpec> {
        let parts = [
            ("token_embd.weight", config.vocab_size),
            ("position_embd.weight", self.positions),
            ("token_types.weight", self.token_types),
            ("token_embd_norm.weight", 1),
            ("token_embd_norm.bias", 1),
        ];
        let spec =
            |(name, rows): (&str, _)| TensorSpec { name: name.to_owned(), rows, cols: config.dim };
        parts.into_iter().map(spec).collect()
    }

    pub(super) fn validate(&self, config: &ModelConfig) -> Result<(), ModelError> {
        let why = |why: String| Err(ModelError::malformed("configuration", why));
        ModelError::check_limit("number of positions", self.positions as u64, ROWS_MAX)?;
        ModelError::check_limit("number of token types", self.token_types as u64, ROWS_MAX)?;
        if self.token_types == 0 {
            return why("number of token types is 0".to_owned());
        }
        if config.context_max > self.positions {
            let (context, positions) = (config.context_max, self.positions);
            return why(format!("a context of {context} tokens has {positions} positions"));
        }
        if config.q_dim() != config.dim || config.n_kv_heads != config.n_heads {
            let (heads, width, dim) = (config.n_heads, config.head_dim, config.dim);
            return why(format!("{heads} heads of {width} are not the model's width, {dim}"));
        }
        if !config.qkv_bias || config.qk_norm || !config.tied || config.rope.n_dims != 0 {
            return why("an encoder with parts of a decoder".to_owned());
        }
        Ok(())
    }
}
