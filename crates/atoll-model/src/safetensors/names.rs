//! Names of tensors: transformers' to GGUF's.

/// Where a tensor of transformers belongs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It is this tensor in GGUF's naming.
    Named(String),
    /// It says nothing that the configuration does not say.
    Ignored,
    /// Nothing known.
    Unknown,
}

/// Parts of a layer: (transformers, GGUF).
const LAYER: [(&str, &str); 20] = [
    ("input_layernorm.weight", "attn_norm.weight"),
    ("self_attn.q_proj.weight", "attn_q.weight"),
    ("self_attn.k_proj.weight", "attn_k.weight"),
    ("self_attn.v_proj.weight", "attn_v.weight"),
    ("self_attn.o_proj.weight", "attn_output.weight"),
    ("self_attn.q_proj.bias", "attn_q.bias"),
    ("self_attn.k_proj.bias", "attn_k.bias"),
    ("self_attn.v_proj.bias", "attn_v.bias"),
    ("self_attn.o_proj.bias", "attn_output.bias"),
    ("self_attn.q_norm.weight", "attn_q_norm.weight"),
    ("self_attn.k_norm.weight", "attn_k_norm.weight"),
    ("post_attention_layernorm.weight", "ffn_norm.weight"),
    ("mlp.gate_proj.weight", "ffn_gate.weight"),
    ("mlp.up_proj.weight", "ffn_up.weight"),
    ("mlp.down_proj.weight", "ffn_down.weight"),
    ("mlp.gate_proj.bias", "ffn_gate.bias"),
    ("mlp.up_proj.bias", "ffn_up.bias"),
    ("mlp.down_proj.bias", "ffn_down.bias"),
    ("self_attn.rotary_emb.inv_freq", ""),
    ("rotary_emb.inv_freq", ""),
];

/// transformers' name of a tensor of GGUF.
pub(crate) fn their_name(ours: &str) -> Option<String> {
    match ours {
        "token_embd.weight" => return Some("model.embed_tokens.weight".to_owned()),
        "output_norm.weight" => return Some("model.norm.weight".to_owned()),
        "output.weight" => return Some("lm_head.weight".to_owned()),
        _ => {}
    }
    let (idx, part) = ours.strip_prefix("blk.")?.split_once('.')?;
    let (theirs, _) = LAYER.iter().find(|(_, ours)| *ours == part)?;
    Some(format!("model.layers.{idx}.{theirs}"))
}

/// Translates a tensor's name. `tied`: the head's matrix is the embedding's, so a copy of it is
/// not needed.
pub(super) fn gguf_name(name: &str, tied: bool) -> Place {
    let named = |name: &str| Place::Named(name.to_owned());
    match name {
        "model.embed_tokens.weight" => return named("token_embd.weight"),
        "model.norm.weight" => return named("output_norm.weight"),
        "lm_head.weight" if tied => return Place::Ignored,
        "lm_head.weight" => return named("output.weight"),
        _ => {}
    }
    let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
    let Some((layer_idx, part)) = layer else { return Place::Unknown };
    // The number must be written as we write it, so that no two names mean one tensor.
    let number = layer_idx.parse::<usize>().ok().filter(|idx| idx.to_string() == layer_idx);
    match (number, LAYER.iter().find(|(theirs, _)| *theirs == part)) {
        (Some(_), Some((_, ""))) => Place::Ignored,
        (Some(idx), Some((_, ours))) => Place::Named(format!("blk.{idx}.{ours}")),
        (None, _) | (_, None) => Place::Unknown,
    }
}
