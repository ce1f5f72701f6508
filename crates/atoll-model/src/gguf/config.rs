//! The model's configuration out of GGUF metadata.

use std::collections::BTreeSet;

use atoll_kernels::RopeStyle;

use crate::config::{Architecture, ModelConfig, RopeConfig, RopeScaling};
use crate::error::ModelError;
use crate::gguf::metadata::Metadata;
use crate::gguf::value::Value;
use crate::tensor::TensorInfo;

/// The tensor that holds the divisors of RoPE's frequencies.
pub(super) const ROPE_FACTORS_TENSOR: &str = "rope_freqs.weight";

/// YaRN's own defaults (Peng et al. 2023, section 3.2), which files leave out.
const YARN_BETA_FAST: f64 = 32.0;
const YARN_BETA_SLOW: f64 = 1.0;

/// Reads the configuration, and checks that the tensors are those that it asks for: all of them,
/// in their shapes, and none that the forward pass would ignore.
pub(super) fn read(
    metadata: &Metadata,
    tensors: &[TensorInfo],
    rope_factors: Option<Vec<f32>>,
) -> Result<ModelConfig, ModelError> {
    let keys = Keys { metadata, architecture: metadata.str("general.architecture")? };
    let architecture = Architecture::parse(keys.architecture)?;
    if architecture == Architecture::Bert {
        let config = super::bert::config(&keys, tensors)?;
        config.validate()?;
        check_tensors(&config, tensors)?;
        return Ok(config);
    }
    refuse_unsupported(&keys)?;
    let find = |name: &str| tensors.iter().find(|info| info.name == name);
    let embedding = find("token_embd.weight")
        .ok_or_else(|| ModelError::MissingTensor { name: "token_embd.weight".to_owned() })?;
    let dim = keys.usize("embedding_length")?;
    let n_heads = keys.usize("attention.head_count")?;
    let head_dim = match keys.optional_usize("attention.key_length")? {
        Some(head_dim) => head_dim,
        None if n_heads > 0 && dim.is_multiple_of(n_heads) => dim / n_heads,
        None => {
            let why = format!("a width of {dim} cannot be cut into {n_heads} heads");
            return Err(ModelError::malformed("configuration", why));
        }
    };
    if keys.optional_usize("attention.value_length")?.is_some_and(|len| len != head_dim) {
        let name = "values of another width than keys".to_owned();
        return Err(ModelError::Unsupported { what: "attention", name });
    }
    let n_layers = keys.usize("block_count")?;
    let (ffn_dim, ffn_dims) = keys.ffn_dims()?;
    let config = ModelConfig {
        architecture,
        n_layers,
        dim,
        n_heads,
        n_kv_heads: keys.optional_usize("attention.head_count_kv")?.unwrap_or(n_heads),
        head_dim,
        ffn_dim,
        ffn_dims,
        vocab_size: embedding.rows,
        norm_eps: keys.norm_eps()?,
        context_max: keys.usize("context_length")?,
        rope: keys.rope(architecture, head_dim, rope_factors)?,
        qkv_bias: find("blk.0.attn_q.bias").is_some(),
        qk_norm: find("blk.0.attn_q_norm.weight").is_some(),
        tied: find("output.weight").is_none(),
        encoder: None,
    };
    config.validate()?;
    check_tensors(&config, tensors)?;
    Ok(config)
}

/// Refuses features that would change the answer if they were ignored.
fn refuse_unsupported(keys: &Keys<'_>) -> Result<(), ModelError> {
    let unsupported =
        |what, name: &str| Err(ModelError::Unsupported { what, name: name.to_owned() });
    if keys.metadata.optional_u64("split.count")?.is_some_and(|count| count > 1) {
        return unsupported("GGUF", "a model split over several files; merge them first");
    }
    if keys.optional_usize("expert_count")?.is_some_and(|count| count > 0) {
        return unsupported("feed-forward block", "mixture of experts");
    }
    if keys.metadata.optional_bool(&keys.name("attention.causal"))? == Some(false) {
        return unsupported("attention", "not causal (an embedding model)");
    }
    for suffix in ["attention.scale", "rope.scaling.yarn_log_multiplier", "rope.scaling.alpha"] {
        if keys.optional_f64(suffix)?.is_some_and(|value| value != 0.0) {
            return unsupported("metadata key", &keys.name(suffix));
        }
    }
    Ok(())
}

/// Checks that the tensors in the file are exactly those of the configuration.
fn check_tensors(config: &ModelConfig, tensors: &[TensorInfo]) -> Result<(), ModelError> {
    let mut unused: BTreeSet<_> = tensors.iter().map(|info| info.name.as_str()).collect();
    unused.remove(ROPE_FACTORS_TENSOR);
    let by_name: std::collections::HashMap<_, _> =
        tensors.iter().map(|info| (info.name.as_str(), info)).collect();
    for spec in config.all_tensors() {
        let Some(info) = by_name.get(spec.name.as_str()) else {
            return Err(ModelError::MissingTensor { name: spec.name });
        };
        let (expected, found) = ((spec.rows, spec.cols), (info.rows, info.cols));
        if expected != found {
            return Err(ModelError::WrongShape { name: spec.name, expected, found });
        }
        unused.remove(spec.name.as_str());
    }
    match unused.first() {
        None => Ok(()),
        Some(name) => Err(ModelError::Unsupported { what: "tensor", name: (*name).to_owned() }),
    }
}

/// Looks keys up under the architecture's name.
pub(super) struct Keys<'a> {
    pub(super) metadata: &'a Metadata,
    architecture: &'a str,
}

impl Keys<'_> {
    pub(super) fn name(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.architecture)
    }

    pub(super) fn usize(&self, suffix: &str) -> Result<usize, ModelError> {
        self.optional_usize(suffix)?
            .ok_or_else(|| ModelError::MissingKey { key: self.name(suffix) })
    }

    /// A count. Where a file gives one for every layer, they must be equal.
    pub(super) fn optional_usize(&self, suffix: &str) -> Result<Option<usize>, ModelError> {
        let key = self.name(suffix);
        if let Some(Value::Ints(values)) = self.metadata.value(&key) {
            let first = values.first().copied().unwrap_or(0);
            if values.iter().any(|value| *value != first) {
                let name = format!("{key} that differs from layer to layer");
                return Err(ModelError::Unsupported { what: "configuration", name });
            }
            return Ok(Some(usize::try_from(first).map_err(|_| {
                ModelError::malformed(format!("metadata key {key}"), "it is negative")
            })?));
        }
        let Some(value) = self.metadata.optional_u64(&key)? else { return Ok(None) };
        ModelError::check_limit(&key, value, u32::MAX.into())?;
        Ok(Some(usize::try_from(value).expect("32 bits fit a usize")))
    }

    /// The feed-forward blocks' width, of the widest, and that of each where they differ.
    pub(super) fn ffn_dims(&self) -> Result<(usize, Vec<usize>), ModelError> {
        let suffix = "feed_forward_length";
        let key = self.name(suffix);
        let differ = |dims: &&Vec<i64>| dims.iter().any(|dim| *dim != dims[0]);
        let dims = match self.metadata.value(&key) {
            Some(Value::Ints(dims)) => Some(dims).filter(differ),
            _ => None,
        };
        let Some(dims) = dims else { return Ok((self.usize(suffix)?, Vec::new())) };
        let bad = |_| ModelError::malformed(format!("metadata key {key}"), "it is negative");
        let dims = dims.iter().map(|&dim| usize::try_from(dim).map_err(bad));
        let dims = dims.collect::<Result<Vec<_>, _>>()?;
        Ok((dims.iter().copied().max().unwrap_or(0), dims))
    }

    pub(super) fn optional_f64(&self, suffix: &str) -> Result<Option<f64>, ModelError> {
        self.metadata.optional_f64(&self.name(suffix))
    }

    fn norm_eps(&self) -> Result<f32, ModelError> {
        let suffix = "attention.layer_norm_rms_epsilon";
        let eps = self
            .optional_f64(suffix)?
            .ok_or_else(|| ModelError::MissingKey { key: self.name(suffix) })?;
        #[expect(clippy::cast_possible_truncation, reason = "GGUF stores it as an f32")]
        Ok(eps as f32)
    }

    fn rope(
        &self,
        architecture: Architecture,
        head_dim: usize,
        factors: Option<Vec<f32>>,
    ) -> Result<RopeConfig, ModelError> {
        let scaling = self.rope_scaling()?;
        let scaling = match (scaling, factors) {
            (scaling, None) => scaling,
            (RopeScaling::None, Some(factors)) => RopeScaling::Factors { factors },
            (scaling, Some(_)) => {
                let name = format!("{scaling:?} together with {ROPE_FACTORS_TENSOR}");
                return Err(ModelError::Unsupported { what: "RoPE scaling", name });
            }
        };
        Ok(RopeConfig {
            theta: self.optional_f64("rope.freq_base")?.unwrap_or(10_000.0),
            n_dims: self.optional_usize("rope.dimension_count")?.unwrap_or(head_dim),
            scaling,
            // GGUF stores the q and k rows of Llama so that pairs are neighbours.
            style: match architecture {
                Architecture::Llama => RopeStyle::Norm,
                Architecture::Qwen2 | Architecture::Qwen3 | Architecture::Bert => RopeStyle::Neox,
            },
        })
    }

    fn rope_scaling(&self) -> Result<RopeScaling, ModelError> {
        let factor = match self.optional_f64("rope.scaling.factor")? {
            None => self.optional_f64("rope.scale_linear")?,
            given => given,
        };
        let factor = factor.filter(|factor| *factor != 0.0).unwrap_or(1.0);
        let attention = self.optional_f64("rope.scaling.attn_factor")?.unwrap_or(1.0);
        let name = self.name("rope.scaling.type");
        let kind = self.metadata.optional_str(&name)?.unwrap_or("linear");
        match kind {
            "none" => Ok(RopeScaling::None),
            #[expect(clippy::float_cmp, reason = "exactly 1 means unchanged")]
            "linear" if factor == 1.0 => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor }),
            "yarn" => Ok(RopeScaling::Yarn {
                factor,
                original_context: match self
                    .optional_usize("rope.scaling.original_context_length")?
                {
                    Some(len) => len,
                    None => self.usize("context_length")?,
                },
                beta_fast: self
                    .optional_f64("rope.scaling.yarn_beta_fast")?
                    .unwrap_or(YARN_BETA_FAST),
                beta_slow: self
                    .optional_f64("rope.scaling.yarn_beta_slow")?
                    .unwrap_or(YARN_BETA_SLOW),
                attention_factor: attention * yarn_attention_factor(factor),
            }),
            other => Err(ModelError::Unsupported { what: "RoPE scaling", name: other.to_owned() }),
        }
    }
}

/// How much YaRN sharpens attention for a given stretch of the context.
pub(crate) fn yarn_attention_factor(factor: f64) -> f64 {
    if factor > 1.0 { 0.1 * libm::log(factor) + 1.0 } else { 1.0 }
}
