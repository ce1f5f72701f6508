//! What a model is: the shapes and constants that one forward pass needs for every architecture.

mod encoder;

use atoll_kernels::RopeStyle;
use serde::{Deserialize, Serialize};

use crate::error::ModelError;
use crate::tensor::TensorSource;
pub use encoder::EncoderConfig;

/// Largest values accepted in a configuration, from a file or from a peer. They are several times
/// what the largest open models have, and small enough that no product of them overflows.
mod limit {
    pub(super) const LAYERS: usize = 1024;
    pub(super) const DIM: usize = 1 << 16;
    pub(super) const HEADS: usize = 1024;
    pub(super) const HEAD_DIM: usize = 1024;
    pub(super) const FFN_DIM: usize = 1 << 20;
    pub(super) const VOCAB: usize = 1 << 22;
    pub(super) const CONTEXT: usize = 1 << 26;
}

/// Family of a model. All decoders run through the same forward pass; the differences are fields
/// of [`ModelConfig`], and the name is kept for people and for writing GGUF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// Llama 1–3, Mistral, SmolLM and their kin.
    Llama,
    /// Qwen 2 and 2.5: biases on q, k and v.
    Qwen2,
    /// Qwen 3 (dense): RMSNorm on every q and k head.
    Qwen3,
    /// BERT and its kin: encoders, which embed texts.
    Bert,
}

impl Architecture {
    /// Reads the name that GGUF (`general.architecture`) and transformers (`model_type`) use.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] naming the architecture.
    pub fn parse(name: &str) -> Result<Self, ModelError> {
        match name {
            "llama" => Ok(Self::Llama),
            "qwen2" => Ok(Self::Qwen2),
            "qwen3" => Ok(Self::Qwen3),
            "bert" => Ok(Self::Bert),
            _ => Err(ModelError::Unsupported { what: "architecture", name: name.to_owned() }),
        }
    }

    /// The name that GGUF uses.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Bert => "bert",
        }
    }
}

/// Shapes and constants of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Family.
    pub architecture: Architecture,
    /// Number of transformer layers.
    pub n_layers: usize,
    /// Width of the residual stream.
    pub dim: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of one head, of queries, keys and values alike.
    pub head_dim: usize,
    /// Inner width of the feed-forward block; where layers differ in it, of the widest.
    pub ffn_dim: usize,
    /// Inner width of each layer's feed-forward block, (n_layers); none where all are `ffn_dim`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ffn_dims: Vec<usize>,
    /// Rows of the embedding, which may be more than the tokenizer knows.
    pub vocab_size: usize,
    /// Added to the mean square in every RMSNorm, to the variance in every layer norm.
    pub norm_eps: f32,
    /// Longest sequence that the model was made for, in tokens.
    pub context_max: usize,
    /// Rotary position embedding.
    pub rope: RopeConfig,
    /// Whether q, k and v have a bias.
    pub qkv_bias: bool,
    /// Whether every q and k head is RMS-normalized before the rotation.
    pub qk_norm: bool,
    /// Whether there is no matrix of a head beside the embedding's.
    pub tied: bool,
    /// What makes it an encoder, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder: Option<EncoderConfig>,
}

/// Rotary position embedding: which pairs are turned, and how fast.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RopeConfig {
    /// Base of the frequencies: pair i turns by `theta^(-2i / n_dims)` per position.
    pub theta: f64,
    /// Leading dimensions of a head that are turned; even. Encoders turn none.
    pub n_dims: usize,
    /// Change of the frequencies for long contexts.
    pub scaling: RopeScaling,
    /// Which two dimensions make a pair, as the rows of the stored q and k are ordered.
    #[serde(with = "RopeStyleName")]
    pub style: RopeStyle,
}

/// Change of RoPE's frequencies for contexts longer than the model was first trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind", deny_unknown_fields)]
pub enum RopeScaling {
    /// Frequencies as they are.
    None,
    /// Every frequency divided by `factor`.
    Linear {
        /// How many times longer the context became.
        factor: f64,
    },
    /// Llama 3.1's rule as transformers states it: low frequencies divided by `factor`, high ones
    /// kept, a ramp between them.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Frequencies below `original_context / low_freq_factor` turns are low.
        low_freq_factor: f64,
        /// Frequencies above `original_context / high_freq_factor` turns are high.
        high_freq_factor: f64,
        /// Context of the first training, in tokens.
        original_context: usize,
    },
    /// Llama 3.1's rule as GGUF stores it (`rope_freqs.weight`): the divisor of every frequency.
    Factors {
        /// Divisors, (n_dims / 2).
        factors: Vec<f32>,
    },
    /// YaRN (Peng et al. 2023, arXiv 2309.00071, section 3): interpolation by parts.
    Yarn {
        /// How many times longer the context became.
        factor: f64,
        /// Context of the first training, in tokens.
        original_context: usize,
        /// Turns over the original context above which a frequency is kept; 32 by default.
        beta_fast: f64,
        /// Turns below which it is divided by `factor`; 1 by default.
        beta_slow: f64,
        /// Multiplier of the turned vectors (both cos and sin): 0.1 ln(factor) + 1 by default.
        attention_factor: f64,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "RopeStyle", rename_all = "lowercase")]
enum RopeStyleName {
    Norm,
    Neox,
}

/// A tensor that the configuration asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name in GGUF's naming.
    pub name: String,
    /// Rows; 1 for a vector.
    pub rows: usize,
    /// Columns; the length of a vector.
    pub cols: usize,
}

impl ModelConfig {
    /// Width of all query heads together.
    #[must_use]
    pub const fn q_dim(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Width of all key heads together, and of all value heads.
    #[must_use]
    pub const fn kv_dim(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// Inner width of the feed-forward block of layer `layer_idx`.
    #[must_use]
    pub fn ffn_dim_of(&self, layer_idx: usize) -> usize {
        self.ffn_dims.get(layer_idx).copied().unwrap_or(self.ffn_dim)
    }

    /// Every tensor of layer `layer_idx`, in a fixed order.
    #[must_use]
    pub fn layer_tensors(&self, layer_idx: usize) -> Vec<TensorSpec> {
        if self.encoder.is_some() {
            return EncoderConfig::layer_tensors(self, layer_idx);
        }
        let (dim, q_dim, kv_dim) = (self.dim, self.q_dim(), self.kv_dim());
        let ffn_dim = self.ffn_dim_of(layer_idx);
        let mut specs = Vec::with_capacity(14);
        let mut push = |suffix: &str, rows, cols| {
            specs.push(TensorSpec { name: format!("blk.{layer_idx}.{suffix}"), rows, cols });
        };
        push("attn_norm.weight", 1, dim);
        push("attn_q.weight", q_dim, dim);
        push("attn_k.weight", kv_dim, dim);
        push("attn_v.weight", kv_dim, dim);
        push("attn_output.weight", dim, q_dim);
        push("ffn_norm.weight", 1, dim);
        push("ffn_gate.weight", ffn_dim, dim);
        push("ffn_up.weight", ffn_dim, dim);
        push("ffn_down.weight", dim, ffn_dim);
        if self.qkv_bias {
            push("attn_q.bias", 1, q_dim);
            push("attn_k.bias", 1, kv_dim);
            push("attn_v.bias", 1, kv_dim);
        }
        if self.qk_norm {
            push("attn_q_norm.weight", 1, self.head_dim);
            push("attn_k_norm.weight", 1, self.head_dim);
        }
        specs
    }

    /// The embedding's tensor; of an encoder, all that make a token's row.
    #[must_use]
    pub fn embed_tensors(&self) -> Vec<TensorSpec> {
        if let Some(encoder) = &self.encoder {
            return encoder.embed_tensors(self);
        }
        vec![TensorSpec {
            name: "token_embd.weight".to_owned(),
            rows: self.vocab_size,
            cols: self.dim,
        }]
    }

    /// The head's own tensors: the final norm, and its matrix unless it is the embedding's. An
    /// encoder has none.
    #[must_use]
    pub fn head_tensors(&self) -> Vec<TensorSpec> {
        if self.encoder.is_some() {
            return Vec::new();
        }
        let mut specs =
            vec![TensorSpec { name: "output_norm.weight".to_owned(), rows: 1, cols: self.dim }];
        if !self.tied {
            let name = "output.weight".to_owned();
            specs.push(TensorSpec { name, rows: self.vocab_size, cols: self.dim });
        }
        specs
    }

    /// Every tensor of the model: embedding, layers, head.
    pub fn all_tensors(&self) -> impl Iterator<Item = TensorSpec> + '_ {
        self.embed_tensors()
            .into_iter()
            .chain((0..self.n_layers).flat_map(|layer_idx| self.layer_tensors(layer_idx)))
            .chain(self.head_tensors())
    }

    /// Checks that the configuration is one the forward pass can run.
    ///
    /// # Errors
    /// [`ModelError::Limit`] or [`ModelError::Malformed`] naming the field.
    pub fn validate(&self) -> Result<(), ModelError> {
        for (what, value, max) in [
            ("number of layers", self.n_layers, limit::LAYERS),
            ("model width", self.dim, limit::DIM),
            ("number of heads", self.n_heads, limit::HEADS),
            ("number of key-value heads", self.n_kv_heads, limit::HEADS),
            ("head width", self.head_dim, limit::HEAD_DIM),
            ("feed-forward width", self.ffn_dim, limit::FFN_DIM),
            ("vocabulary size", self.vocab_size, limit::VOCAB),
            ("context length", self.context_max, limit::CONTEXT),
        ] {
            ModelError::check_limit(what, value as u64, max as u64)?;
            if value == 0 {
                return Err(ModelError::malformed("configuration", format!("{what} is 0")));
            }
        }
        let config = |why: String| Err(ModelError::malformed("configuration", why));
        if !self.ffn_dims.is_empty() {
            self.validate_ffn_dims()?;
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            let (q, kv) = (self.n_heads, self.n_kv_heads);
            return config(format!("{q} heads cannot share {kv} key-value heads"));
        }
        if !self.norm_eps.is_finite() || self.norm_eps <= 0.0 {
            return config(format!("the norm's epsilon is {}", self.norm_eps));
        }
        if (self.architecture == Architecture::Bert) != self.encoder.is_some() {
            return config(format!("{} as encoder and decoder", self.architecture.name()));
        }
        match &self.encoder {
            Some(encoder) => encoder.validate(self),
            None => self.rope.validate(self.head_dim),
        }
    }

    /// Refuses an encoder where texts are generated.
    ///
    /// # Errors
    /// [`ModelError::Encoder`].
    pub fn require_decoder(&self) -> Result<(), ModelError> {
        match self.encoder {
            None => Ok(()),
            Some(_) => Err(ModelError::Encoder { architecture: self.architecture.name() }),
        }
    }

    /// One way to say it: a width for each layer, not all alike, the widest of them `ffn_dim`.
    fn validate_ffn_dims(&self) -> Result<(), ModelError> {
        let (dims, most) = (&self.ffn_dims, self.ffn_dim);
        let why = if dims.len() != self.n_layers {
            format!("{} feed-forward widths for {} layers", dims.len(), self.n_layers)
        } else if dims.contains(&0) {
            "a feed-forward width is 0".to_owned()
        } else if dims.iter().max() != Some(&most) {
            format!("the widest feed-forward block is not {most} wide")
        } else if dims.iter().all(|dim| *dim == most) {
            format!("all feed-forward widths are {most}, so that they need no list")
        } else {
            return Ok(());
        };
        Err(ModelError::malformed("configuration", why))
    }

    /// Checks that `source` holds every tensor of the model in the right shape.
    ///
    /// # Errors
    /// [`ModelError::MissingTensor`] or [`ModelError::WrongShape`].
    pub fn check_complete(&self, source: &TensorSource) -> Result<(), ModelError> {
        for spec in self.all_tensors() {
            source.require_shape(&spec.name, spec.rows, spec.cols)?;
        }
        Ok(())
    }
}

impl RopeConfig {
    fn validate(&self, head_dim: usize) -> Result<(), ModelError> {
        let rope = |why: String| Err(ModelError::malformed("RoPE configuration", why));
        if self.n_dims == 0 || !self.n_dims.is_multiple_of(2) || self.n_dims > head_dim {
            return rope(format!("{} of {head_dim} dimensions cannot be turned", self.n_dims));
        }
        let positive = |value: f64| value.is_finite() && value > 0.0;
        if !positive(self.theta) {
            return rope(format!("theta is {}", self.theta));
        }
        let legal = match &self.scaling {
            RopeScaling::None => true,
            RopeScaling::Linear { factor } => positive(*factor),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                positive(*factor)
                    && positive(*low_freq_factor)
                    && *high_freq_factor > *low_freq_factor
                    && high_freq_factor.is_finite()
                    && (1..=limit::CONTEXT).contains(original_context)
            }
            RopeScaling::Factors { factors } => {
                factors.len() == self.n_dims / 2 && factors.iter().all(|&f| positive(f.into()))
            }
            RopeScaling::Yarn {
                factor,
                original_context,
                beta_fast,
                beta_slow,
                attention_factor,
            } => {
                positive(*factor)
                    && positive(*beta_slow)
                    && *beta_fast > *beta_slow
                    && beta_fast.is_finite()
                    && positive(*attention_factor)
                    && (1..=limit::CONTEXT).contains(original_context)
            }
        };
        if legal { Ok(()) } else { rope(format!("illegal scaling {:?}", self.scaling)) }
    }
}

#[cfg(test)]
mod tests;
