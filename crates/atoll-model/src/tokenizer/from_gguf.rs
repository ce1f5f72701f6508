//! A tokenizer out of GGUF metadata.

use super::definition::{Definition, Kind, Model, PreTokenizer, SpacePrefix, VERSION};
use super::word_piece;
use crate::error::ModelError;
use crate::gguf::Metadata;

/// Reads the keys `tokenizer.ggml.*`.
pub(super) fn definition(metadata: &Metadata) -> Result<Definition, ModelError> {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let strings = |name: &str| {
        metadata
            .optional_strings(&key(name))?
            .cloned()
            .ok_or_else(|| ModelError::MissingKey { key: key(name) })
    };
    let tokens = strings("tokens")?;
    let kinds = match metadata.optional_ints(&key("token_type"))? {
        Some(kinds) => kinds.iter().map(|&id| Kind::try_from(id)).collect::<Result<_, _>>()?,
        None => vec![Kind::Normal; tokens.len()],
    };
    if metadata.str(&key("model"))? == "bert" {
        let id = |name: &str| {
            let id = metadata.optional_u64(&key(name))?;
            let id = id.ok_or_else(|| ModelError::MissingKey { key: key(name) })?;
            u32::try_from(id).map_err(|_| ModelError::malformed(key(name), "it is no token"))
        };
        // The separator's key is spelled so in the format.
        let ends = (id("cls_token_id")?, id("seperator_token_id")?);
        let unknown = id("unknown_token_id")?;
        let tokens = tokens.iter().map(word_piece::from_gguf).collect();
        let definition = Definition::of_word_piece(tokens, kinds, ends, unknown);
        definition.validate()?;
        return Ok(definition);
    }
    let (model, add_bos_default, bos_default, eos_default) = match metadata.str(&key("model"))? {
        "gpt2" => {
            let pre_tokenizer = match metadata.optional_str(&key("pre"))? {
                Some(name) => PreTokenizer::parse(name)?,
                None => {
                    let name = "none is named; convert the model again".to_owned();
                    return Err(ModelError::Unsupported { what: "pre-tokenizer", name });
                }
            };
            let llama = pre_tokenizer == PreTokenizer::LlamaBpe;
            let merges = strings("merges")?;
            let model =
                Model::ByteLevel { pre_tokenizer, nfc: false, merges, ignore_merges: llama };
            (model, llama, None, None)
        }
        "llama" => {
            let scores = metadata
                .optional_floats(&key("scores"))?
                .ok_or_else(|| ModelError::MissingKey { key: key("scores") })?
                .to_vec();
            let prefixed = metadata.optional_bool(&key("add_space_prefix"))?.unwrap_or(true);
            let space_prefix = if prefixed { SpacePrefix::Always } else { SpacePrefix::Never };
            (Model::Sentence { scores, space_prefix }, true, Some(1), Some(2))
        }
        other => {
            return Err(ModelError::Unsupported { what: "tokenizer", name: other.to_owned() });
        }
    };
    let id = |name: &str| -> Result<Option<u32>, ModelError> {
        let Some(id) = metadata.optional_u64(&key(name))? else { return Ok(None) };
        let id = u32::try_from(id).map_err(|_| {
            ModelError::malformed(format!("metadata key {}", key(name)), "it is no token")
        })?;
        Ok(Some(id))
    };
    let in_range = |id: Option<u32>| id.filter(|&id| (id as usize) < tokens.len());
    let bos = id("bos_token_id")?.or(in_range(bos_default));
    let eos = id("eos_token_id")?.or(in_range(eos_default));
    let ends = [id("eot_token_id")?, id("eom_token_id")?].into_iter().flatten().collect();
    let add_bos = metadata.optional_bool(&key("add_bos_token"))?.unwrap_or(add_bos_default);
    let add_eos = metadata.optional_bool(&key("add_eos_token"))?.unwrap_or(false);
    let definition =
        Definition { version: VERSION, model, tokens, kinds, bos, eos, ends, add_bos, add_eos };
    definition.validate()?;
    Ok(definition)
}
