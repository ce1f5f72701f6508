//! The model's configuration out of `config.json`.

use atoll_kernels::RopeStyle;
use serde_json::Value;

use crate::config::{Architecture, ModelConfig, RopeConfig, RopeScaling};
use crate::error::ModelError;
use crate::gguf::yarn_attention_factor;

/// Reads the fields as transformers' configuration classes define them, defaults included.
pub(super) fn read(json: &[u8]) -> Result<ModelConfig, ModelError> {
    let root: Value = serde_json::from_slice(json)
        .map_err(|error| ModelError::malformed("config.json", error.to_string()))?;
    let fields = Fields { root: &root };
    let kind = fields.str("model_type")?.unwrap_or("none");
    let architecture = Architecture::parse(kind)?;
    if architecture == Architecture::Bert {
        return super::bert::config(&fields);
    }
    refuse_unsupported(&fields)?;
    let dim = fields.count("hidden_size")?;
    let n_heads = fields.count("num_attention_heads")?;
    let head_dim = match (fields.optional_count("head_dim")?, architecture) {
        (Some(head_dim), _) => head_dim,
        (None, Architecture::Qwen3) => 128,
        (None, Architecture::Llama | Architecture::Qwen2 | Architecture::Bert) => {
            dim / n_heads.max(1)
        }
    };
    let flag = |name: &str| fields.bool(name).map(|flag| flag.unwrap_or(false));
    let config = ModelConfig {
        architecture,
        n_layers: fields.count("num_hidden_layers")?,
        dim,
        n_heads,
        n_kv_heads: fields.optional_count("num_key_value_heads")?.unwrap_or(n_heads),
        head_dim,
        ffn_dim: fields.count("intermediate_size")?,
        ffn_dims: Vec::new(),
        vocab_size: fields.count("vocab_size")?,
        norm_eps: fields.norm_eps()?,
        context_max: fields.count("max_position_embeddings")?,
        rope: fields.rope(head_dim)?,
        qkv_bias: match architecture {
            Architecture::Qwen2 => true,
            Architecture::Llama | Architecture::Qwen3 | Architecture::Bert => {
                flag("attention_bias")?
            }
        },
        qk_norm: architecture == Architecture::Qwen3,
        tied: flag("tie_word_embeddings")?,
        encoder: None,
    };
    config.validate()?;
    Ok(config)
}

/// Refuses features that would change the answer if they were ignored.
fn refuse_unsupported(fields: &Fields<'_>) -> Result<(), ModelError> {
    if let Some(class) = fields.root["architectures"][0].as_str() {
        let known = ["LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"];
        if !known.contains(&class) {
            return Err(unsupported("architecture", class));
        }
    }
    match fields.str("hidden_act")? {
        None | Some("silu") => {}
        Some(other) => return Err(unsupported("activation", other)),
    }
    if fields.bool("use_sliding_window")? == Some(true) {
        return Err(unsupported("attention", "sliding window"));
    }
    if !fields.root["quantization_config"].is_null() {
        let method = &fields.root["quantization_config"]["quant_method"];
        return Err(unsupported("quantization", method.as_str().unwrap_or("of an unknown kind")));
    }
    Ok(())
}

pub(super) fn unsupported(what: &'static str, name: &str) -> ModelError {
    ModelError::Unsupported { what, name: name.to_owned() }
}

pub(super) struct Fields<'a> {
    pub(super) root: &'a Value,
}

impl<'a> Fields<'a> {
    /// A field that is there and not null.
    pub(super) fn value(&self, name: &str) -> Option<&'a Value> {
        self.root.get(name).filter(|value| !value.is_null())
    }

    fn wrong(name: &str, expected: &str) -> ModelError {
        ModelError::malformed(format!("config.json, {name}"), format!("it is not {expected}"))
    }

    pub(super) fn str(&self, name: &str) -> Result<Option<&'a str>, ModelError> {
        self.value(name)
            .map(|value| value.as_str().ok_or_else(|| Self::wrong(name, "a text")))
            .transpose()
    }

    pub(super) fn bool(&self, name: &str) -> Result<Option<bool>, ModelError> {
        self.value(name)
            .map(|value| value.as_bool().ok_or_else(|| Self::wrong(name, "true or false")))
            .transpose()
    }

    pub(super) fn optional_count(&self, name: &str) -> Result<Option<usize>, ModelError> {
        let count = |value: &Value| value.as_u64().and_then(|count| usize::try_from(count).ok());
        self.value(name)
            .map(|value| count(value).ok_or_else(|| Self::wrong(name, "a count")))
            .transpose()
    }

    pub(super) fn count(&self, name: &str) -> Result<usize, ModelError> {
        self.optional_count(name)?
            .ok_or_else(|| ModelError::MissingKey { key: format!("{name} in config.json") })
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<f64>, ModelError> {
        self.value(name)
            .map(|value| value.as_f64().ok_or_else(|| Self::wrong(name, "a number")))
            .transpose()
    }

    fn norm_eps(&self) -> Result<f32, ModelError> {
        #[expect(clippy::cast_possible_truncation, reason = "norms are computed in f32")]
        Ok(self.number("rms_norm_eps")?.unwrap_or(1e-6) as f32)
    }

    /// RoPE, in the older form (`rope_theta`, `rope_scaling`) or the newer (`rope_parameters`).
    fn rope(&self, head_dim: usize) -> Result<RopeConfig, ModelError> {
        let part = self.value("rope_parameters").or_else(|| self.value("rope_scaling"));
        let scaling = part.map(|root| Fields { root });
        let context = self.count("max_position_embeddings")?;
        let inner = match &scaling {
            Some(fields) => fields.number("rope_theta")?,
            None => None,
        };
        let theta = match inner {
            Some(theta) => theta,
            None => self.number("rope_theta")?.unwrap_or(10_000.0),
        };
        let partial = self.number("partial_rotary_factor")?.unwrap_or(1.0);
        #[expect(clippy::float_cmp, reason = "exactly 1 means the whole head")]
        if partial != 1.0 {
            return Err(unsupported("RoPE", &format!("partial_rotary_factor {partial}")));
        }
        Ok(RopeConfig {
            theta,
            n_dims: head_dim,
            scaling: match scaling {
                Some(fields) => fields.rope_scaling(context)?,
                None => RopeScaling::None,
            },
            style: RopeStyle::Neox,
        })
    }

    fn rope_scaling(&self, context: usize) -> Result<RopeScaling, ModelError> {
        let kind = match self.str("rope_type")? {
            None => self.str("type")?,
            given => given,
        };
        let need = |name: &str| {
            self.number(name)?
                .ok_or_else(|| ModelError::MissingKey { key: format!("{name} in rope_scaling") })
        };
        let original_context =
            self.optional_count("original_max_position_embeddings")?.unwrap_or(context);
        match kind.unwrap_or("default") {
            "default" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor: need("factor")? }),
            "llama3" => Ok(RopeScaling::Llama3 {
                factor: need("factor")?,
                low_freq_factor: need("low_freq_factor")?,
                high_freq_factor: need("high_freq_factor")?,
                original_context,
            }),
            "yarn" => {
                for name in ["mscale", "mscale_all_dim"] {
                    if self.value(name).is_some() {
                        return Err(unsupported("RoPE scaling", &format!("yarn with {name}")));
                    }
                }
                let factor = need("factor")?;
                Ok(RopeScaling::Yarn {
                    factor,
                    original_context,
                    beta_fast: self.number("beta_fast")?.unwrap_or(32.0),
                    beta_slow: self.number("beta_slow")?.unwrap_or(1.0),
                    attention_factor: match self.number("attention_factor")? {
                        Some(factor) => factor,
                        None => yarn_attention_factor(factor),
                    },
                })
            }
            other => Err(unsupported("RoPE scaling", other)),
        }
    }
}
