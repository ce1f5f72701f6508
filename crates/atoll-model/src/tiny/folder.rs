//! The same tiny models as a folder of safetensors, the way model hubs have them.

use std::collections::HashMap as Map;

use atoll_kernels::BlockType;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

use super::{MERGES, SPECIALS, TEMPLATE, random_model};
use crate::config::ModelConfig;
use crate::gguf::GgufFile;
use crate::safetensors::their_name;

/// The files of a folder with the weights that [`random_model`] gives for the same arguments, as
/// f32: `config.json`, `model.safetensors`, `tokenizer.json` and `tokenizer_config.json`.
///
/// # Panics
/// If `config` is not legal, or scales RoPE.
#[must_use]
pub fn random_folder(config: &ModelConfig, seed: u64) -> Vec<(&'static str, Vec<u8>)> {
    let model = GgufFile::parse(random_model(config, BlockType::F32, seed));
    let model = model.expect("what we write we read");
    let mut tensors: Map<String, TensorView<'_>> = Map::new();
    for info in model.tensors() {
        let shape = if info.rows == 1 { vec![info.cols] } else { vec![info.rows, info.cols] };
        let bytes = model.tensor(&info.name).expect("it is listed").bytes;
        let view = TensorView::new(Dtype::F32, shape, bytes).expect("the shape is the tensor's");
        tensors.insert(their_name(&info.name).expect("every tensor has a name"), view);
    }
    let weights = safetensors::serialize(&tensors, None).expect("a few tensors serialize");
    let tokenizer_config = json!({
        "bos_token": SPECIALS[0], "eos_token": SPECIALS[2], "chat_template": TEMPLATE,
    });
    vec![
        ("config.json", config_json(config).to_string().into_bytes()),
        ("model.safetensors", weights),
        ("tokenizer.json", tokenizer_json(config.vocab_size).to_string().into_bytes()),
        ("tokenizer_config.json", tokenizer_config.to_string().into_bytes()),
    ]
}

/// The `config.json` that says what `config` says.
pub(crate) fn config_json(config: &ModelConfig) -> Value {
    json!({
        "model_type": config.architecture.name(),
        "hidden_size": config.dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.ffn_dim,
        "vocab_size": config.vocab_size,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": config.context_max,
        "rope_theta": config.rope.theta,
        "tie_word_embeddings": config.tied,
        "hidden_act": "silu",
    })
}

fn tokenizer_json(vocab_size: usize) -> Value {
    let bytes = (0..=255_u8).map(|byte| crate::tokenizer::byte_char(byte).to_string());
    let tokens = bytes.chain(MERGES.iter().map(|merge| merge.replace(' ', "")));
    let vocab: serde_json::Map<_, _> = tokens.zip(0_u32..).map(|(t, id)| (t, id.into())).collect();
    let first = vocab.len();
    let added: Vec<_> = (first..vocab_size)
        .map(|id| {
            let special = SPECIALS.get(id - first).map(|&token| token.to_owned());
            let content = special.unwrap_or_else(|| format!("<|unused_{id}|>"));
            json!({ "id": id, "content": content, "special": true })
        })
        .collect();
    json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
            { "type": "Digits", "individual_digits": true },
            { "type": "ByteLevel", "add_prefix_space": false, "use_regex": true },
        ]},
        "model": { "type": "BPE", "vocab": vocab, "merges": MERGES },
    })
}
