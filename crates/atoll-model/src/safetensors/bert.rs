//! BERT's configuration and names of tensors, and what sentence-transformers keeps beside them.

use std::path::Path;

use serde_json::Value;

use super::config::{Fields, unsupported};
use super::names::Place;
use super::read_json;
use crate::config::{EncoderConfig, ModelConfig};
use crate::error::ModelError;

/// Where sentence-transformers says how many tokens of a text are read.
const SENTENCE: &str = "sentence_bert_config.json";
/// Where it says what becomes of the rows of all tokens.
const POOLING: &str = "1_Pooling/config.json";

/// Parts of a layer: (transformers, GGUF).
const LAYER: [(&str, &str); 16] = [
    ("attention.self.query.weight", "attn_q.weight"),
    ("attention.self.query.bias", "attn_q.bias"),
    ("attention.self.key.weight", "attn_k.weight"),
    ("attention.self.key.bias", "attn_k.bias"),
    ("attention.self.value.weight", "attn_v.weight"),
    ("attention.self.value.bias", "attn_v.bias"),
    ("attention.output.dense.weight", "attn_output.weight"),
    ("attention.output.dense.bias", "attn_output.bias"),
    ("attention.output.LayerNorm.weight", "attn_output_norm.weight"),
    ("attention.output.LayerNorm.bias", "attn_output_norm.bias"),
    ("intermediate.dense.weight", "ffn_up.weight"),
    ("intermediate.dense.bias", "ffn_up.bias"),
    ("output.dense.weight", "ffn_down.weight"),
    ("output.dense.bias", "ffn_down.bias"),
    ("output.LayerNorm.weight", "layer_output_norm.weight"),
    ("output.LayerNorm.bias", "layer_output_norm.bias"),
];

/// Reads the fields as transformers' `BertConfig` defines them, defaults included.
pub(super) fn config(fields: &Fields<'_>) -> Result<ModelConfig, ModelError> {
    match fields.str("hidden_act")? {
        None | Some("gelu") => {}
        Some(other) => return Err(unsupported("activation", other)),
    }
    match fields.str("position_embedding_type")? {
        None | Some("absolute") => {}
        Some(other) => return Err(unsupported("position embedding", other)),
    }
    if fields.bool("is_decoder")? == Some(true) {
        return Err(unsupported("architecture", "bert as a decoder"));
    }
    let (dim, n_heads) = (fields.count("hidden_size")?, fields.count("num_attention_heads")?);
    let positions = fields.count("max_position_embeddings")?;
    let token_types = fields.optional_count("type_vocab_size")?.unwrap_or(2);
    #[expect(clippy::cast_possible_truncation, reason = "norms are computed in f32")]
    let norm_eps = fields.number("layer_norm_eps")?.unwrap_or(1e-12) as f32;
    Ok(ModelConfig {
        n_layers: fields.count("num_hidden_layers")?,
        ffn_dim: fields.count("intermediate_size")?,
        vocab_size: fields.count("vocab_size")?,
        norm_eps,
        context_max: positions,
        ..EncoderConfig { positions, token_types }.bert(dim, n_heads)
    })
}

/// Reads what sentence-transformers says in `folder`: how many tokens of a text are read, and that
/// a text is the mean of its tokens. Without its files a text may fill all positions.
pub(super) fn read_beside(folder: &Path, config: &mut ModelConfig) -> Result<(), ModelError> {
    if let Some(root) = optional(folder, SENTENCE)? {
        let fields = Fields { root: &root };
        let tokens = fields.optional_count("max_seq_length")?;
        config.context_max = tokens.unwrap_or(config.context_max);
    }
    if let Some(root) = optional(folder, POOLING)? {
        let fields = Fields { root: &root };
        for mode in ["cls_token", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens"] {
            let name = format!("pooling_mode_{mode}");
            if fields.bool(&name)? == Some(true) {
                return Err(unsupported("pooling", &name));
            }
        }
        if fields.bool("pooling_mode_mean_tokens")? == Some(false) {
            return Err(unsupported("pooling", "none"));
        }
    }
    Ok(())
}

fn optional(folder: &Path, name: &str) -> Result<Option<Value>, ModelError> {
    let path = folder.join(name);
    if !path.exists() {
        return Ok(None);
    }
    let json = read_json(&path)?;
    let value = serde_json::from_slice(&json);
    value.map(Some).map_err(|error| ModelError::malformed(name, error.to_string()))
}

/// Translates a tensor's name. What only training or classification needs is left out.
pub(super) fn gguf_name(name: &str) -> Place {
    let named = |name: &str| Place::Named(name.to_owned());
    let name = name.strip_prefix("bert.").unwrap_or(name);
    match name {
        "embeddings.word_embeddings.weight" => return named("token_embd.weight"),
        "embeddings.position_embeddings.weight" => return named("position_embd.weight"),
        "embeddings.token_type_embeddings.weight" => return named("token_types.weight"),
        "embeddings.LayerNorm.weight" => return named("token_embd_norm.weight"),
        "embeddings.LayerNorm.bias" => return named("token_embd_norm.bias"),
        "embeddings.position_ids" => return Place::Ignored,
        _ if name.starts_with("pooler.") || name.starts_with("cls.") => return Place::Ignored,
        _ => {}
    }
    let layer = name.strip_prefix("encoder.layer.").and_then(|rest| rest.split_once('.'));
    let Some((layer_idx, part)) = layer else { return Place::Unknown };
    // The number must be written as we write it, so that no two names mean one tensor.
    let number = layer_idx.parse::<usize>().ok().filter(|idx| idx.to_string() == layer_idx);
    match (number, LAYER.iter().find(|(theirs, _)| *theirs == part)) {
        (Some(idx), Some((_, ours))) => Place::Named(format!("blk.{idx}.{ours}")),
        (None, _) | (_, None) => Place::Unknown,
    }
}
