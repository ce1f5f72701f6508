//! Encoders in GGUF, under the keys that llama.cpp uses for them.

use super::config::Keys;
use super::value::Value;
use crate::config::{EncoderConfig, ModelConfig};
use crate::error::ModelError;
use crate::tensor::TensorInfo;
use crate::tokenizer::Tokenizer;

/// How many tokens of a text are read, where those are fewer than there are positions.
const TOKENS_MAX: &str = "atoll.tokens_max";
/// llama.cpp's number of the mean over all tokens.
const POOLING_MEAN: u64 = 1;

/// Reads the configuration.
pub(super) fn config(keys: &Keys<'_>, tensors: &[TensorInfo]) -> Result<ModelConfig, ModelError> {
    let rows = |name: &str| {
        let found = tensors.iter().find(|info| info.name == name);
        found
            .map(|info| info.rows)
            .ok_or_else(|| ModelError::MissingTensor { name: name.to_owned() })
    };
    if keys.optional_usize("pooling_type")?.unwrap_or(0) as u64 != POOLING_MEAN {
        let name = "other than the mean of all tokens".to_owned();
        return Err(ModelError::Unsupported { what: "pooling", name });
    }
    if keys.metadata.optional_bool(&keys.name("attention.causal"))? == Some(true) {
        let name = "causal, in an encoder".to_owned();
        return Err(ModelError::Unsupported { what: "attention", name });
    }
    let eps = "attention.layer_norm_epsilon";
    let norm_eps = keys.optional_f64(eps)?;
    let norm_eps = norm_eps.ok_or_else(|| ModelError::MissingKey { key: keys.name(eps) })?;
    let (dim, n_heads) = (keys.usize("embedding_length")?, keys.usize("attention.head_count")?);
    let positions = rows("position_embd.weight")?;
    let tokens = keys.metadata.optional_u64(TOKENS_MAX)?.unwrap_or(positions as u64);
    ModelError::check_limit(TOKENS_MAX, tokens, positions as u64)?;
    let (ffn_dim, ffn_dims) = keys.ffn_dims()?;
    Ok(ModelConfig {
        n_layers: keys.usize("block_count")?,
        ffn_dim,
        ffn_dims,
        vocab_size: rows("token_embd.weight")?,
        #[expect(clippy::cast_possible_truncation, reason = "GGUF stores it as an f32")]
        norm_eps: norm_eps as f32,
        #[expect(clippy::cast_possible_truncation, reason = "at most the positions")]
        context_max: tokens as usize,
        ..EncoderConfig { positions, token_types: rows("token_types.weight")? }.bert(dim, n_heads)
    })
}

/// The keys of a file that holds the encoder `config` with `tokenizer`.
///
/// # Errors
/// [`ModelError::NotEncoder`]; [`ModelError::Unsupported`] for a tokenizer that is not WordPiece.
pub fn encoder_keys(
    config: &ModelConfig,
    tokenizer: &Tokenizer,
) -> Result<Vec<(String, Value)>, ModelError> {
    let architecture = config.architecture.name();
    let Some(encoder) = &config.encoder else {
        return Err(ModelError::NotEncoder { architecture });
    };
    let own = |suffix: &str| format!("{architecture}.{suffix}");
    let count = |value: usize| Value::Uint(value as u64);
    let mut keys = vec![
        ("general.architecture".to_owned(), Value::String(architecture.to_owned())),
        (own("block_count"), count(config.n_layers)),
        (own("context_length"), count(encoder.positions)),
        (own("embedding_length"), count(config.dim)),
        (own("feed_forward_length"), count(config.ffn_dim)),
        (own("attention.head_count"), count(config.n_heads)),
        (own("attention.layer_norm_epsilon"), Value::F32(config.norm_eps)),
        (own("attention.causal"), Value::Bool(false)),
        (own("pooling_type"), Value::Uint(POOLING_MEAN)),
        (TOKENS_MAX.to_owned(), count(config.context_max)),
        ("tokenizer.ggml.token_type_count".to_owned(), count(encoder.token_types)),
    ];
    keys.extend(tokenizer.word_piece_keys()?);
    Ok(keys)
}
