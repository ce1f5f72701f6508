//! A tokenizer out of `tokenizer.json` (the format of the `tokenizers` library).

use serde::Deserialize;
use serde_json::Value;

use super::definition::{Definition, Kind, Model, PreTokenizer, SpacePrefix, VERSION};
use super::word_piece::WORD_CHARS_MAX;
use crate::error::ModelError;

#[derive(Deserialize)]
struct TokenizerJson {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    model: ModelJson,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    single_word: bool,
}

#[derive(Deserialize)]
struct ModelJson {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    vocab: Value,
    #[serde(default)]
    merges: Vec<Merge>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    max_input_chars_per_word: Option<usize>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Joined(String),
    Pair(String, String),
}

impl Merge {
    fn joined(&self) -> String {
        match self {
            Self::Joined(merge) => merge.clone(),
            Self::Pair(left, right) => format!("{left} {right}"),
        }
    }
}

fn unsupported(what: &'static str, name: impl ToString) -> ModelError {
    ModelError::Unsupported { what, name: name.to_string() }
}

/// Reads the two files.
pub(super) fn definition(json: &[u8], config: Option<&[u8]>) -> Result<Definition, ModelError> {
    let malformed =
        |error: serde_json::Error| ModelError::malformed("tokenizer.json", error.to_string());
    let file: TokenizerJson = serde_json::from_slice(json).map_err(malformed)?;
    let config: Value = match config {
        Some(bytes) => serde_json::from_slice(bytes)
            .map_err(|e| ModelError::malformed("tokenizer_config.json", e.to_string()))?,
        None => Value::Null,
    };
    let kind = file.model.kind.as_deref().unwrap_or("BPE");
    if kind == "WordPiece" {
        return word_piece(&file, &config);
    }
    if kind != "BPE" {
        return Err(unsupported("tokenizer", format!("{kind} in tokenizer.json")));
    }
    let (tokens, mut kinds) = tokens(&file)?;
    let merges: Vec<String> = file.model.merges.iter().map(Merge::joined).collect();
    let model = if file.model.byte_fallback {
        for (token, kind) in tokens.iter().zip(&mut kinds) {
            if *kind == Kind::Normal && token.len() == 6 && token.starts_with("<0x") {
                *kind = Kind::Byte;
            }
        }
        let space_prefix = sentence_prefix(&file.normalizer, &file.pre_tokenizer)?;
        Model::Sentence { scores: scores(&tokens, &merges), space_prefix }
    } else {
        let nfc = match file.normalizer.get("type").and_then(Value::as_str) {
            None => false,
            Some("NFC") => true,
            Some(other) => return Err(unsupported("normalizer", other)),
        };
        let pre_tokenizer = pre_tokenizer(&file.pre_tokenizer)?;
        Model::ByteLevel {
            pre_tokenizer,
            nfc,
            merges: merges.into_iter().collect(),
            ignore_merges: file.model.ignore_merges,
        }
    };
    let id = |name: &str| {
        let token = &config[name];
        let text = token.as_str().or_else(|| token["content"].as_str())?;
        tokens.iter().position(|known| known == text).and_then(|id| u32::try_from(id).ok())
    };
    let template = file.post_processor.to_string();
    let (bos, eos) = (id("bos_token"), id("eos_token"));
    let adds = |flag: &str, token: Option<u32>| match config[flag].as_bool() {
        Some(adds) => adds && token.is_some(),
        // Without a flag the post-processor tells: it names the tokens that it puts in.
        None => token.is_some_and(|id| template.contains(&format!("{:?}", tokens[id as usize]))),
    };
    let (add_bos, add_eos) = (adds("add_bos_token", bos), adds("add_eos_token", eos));
    let version = VERSION;
    let definition = Definition {
        version,
        model,
        tokens: tokens.iter().collect(),
        kinds,
        bos,
        eos,
        ends: Vec::new(),
        add_bos,
        add_eos,
    };
    definition.validate()?;
    Ok(definition)
}

/// BERT's tokenizer, in lower case.
fn word_piece(file: &TokenizerJson, config: &Value) -> Result<Definition, ModelError> {
    let is_usual = file.normalizer["type"] == "BertNormalizer"
        && !["clean_text", "handle_chinese_chars", "lowercase", "strip_accents"]
            .into_iter()
            .any(|flag| file.normalizer[flag] == Value::Bool(false));
    if !is_usual {
        return Err(unsupported("normalizer", &file.normalizer));
    }
    if file.pre_tokenizer["type"] != "BertPreTokenizer" {
        return Err(unsupported("pre-tokenizer", &file.pre_tokenizer));
    }
    let model = &file.model;
    if model.continuing_subword_prefix.as_deref().unwrap_or("##") != "##"
        || model.max_input_chars_per_word.unwrap_or(WORD_CHARS_MAX) != WORD_CHARS_MAX
    {
        return Err(unsupported("tokenizer", "WordPiece with other marks or limits than BERT's"));
    }
    let (tokens, kinds) = tokens(file)?;
    let id = |name: &str, usual: &str| {
        let text = config[name].as_str().or_else(|| config[name]["content"].as_str());
        let text = text.unwrap_or(usual);
        let found = tokens.iter().position(|known| known == text);
        found.and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
            ModelError::malformed("tokenizer.json", format!("it has no token {text:?}"))
        })
    };
    let (bos, eos) = (id("cls_token", "[CLS]")?, id("sep_token", "[SEP]")?);
    let unknown = id("unk_token", model.unk_token.as_deref().unwrap_or("[UNK]"))?;
    let definition = Definition::of_word_piece(tokens.iter().collect(), kinds, (bos, eos), unknown);
    definition.validate()?;
    Ok(definition)
}

/// Texts and kinds of all tokens by id; ids that are in no list are unused.
fn tokens(file: &TokenizerJson) -> Result<(Vec<String>, Vec<Kind>), ModelError> {
    let malformed = |why: &str| ModelError::malformed("tokenizer.json", why);
    let vocab = file.model.vocab.as_object().ok_or_else(|| malformed("no vocabulary"))?;
    let mut entries: Vec<(usize, &str, Kind)> = Vec::with_capacity(vocab.len());
    for (text, id) in vocab {
        let id = id.as_u64().and_then(|id| usize::try_from(id).ok());
        let id = id.ok_or_else(|| malformed("a token's id is no number"))?;
        entries.push((id, text, Kind::Normal));
    }
    for token in &file.added_tokens {
        if token.lstrip || token.rstrip || token.single_word {
            let name = format!("{:?} takes spaces or word borders into account", token.content);
            return Err(unsupported("added token", name));
        }
        let kind = if token.special { Kind::Control } else { Kind::UserDefined };
        entries.push((token.id as usize, &token.content, kind));
    }
    let len = entries.iter().map(|(id, ..)| id + 1).max().unwrap_or(0);
    if len > 2 * entries.len() + 4096 {
        return Err(malformed("its ids are far apart"));
    }
    let mut tokens = vec![String::new(); len];
    let mut kinds = vec![Kind::Unused; len];
    for (id, text, kind) in entries {
        text.clone_into(&mut tokens[id]);
        kinds[id] = kind;
    }
    Ok((tokens, kinds))
}

/// Scores that join in the order of the merges: a token is worth the rank of its first merge.
#[expect(clippy::cast_precision_loss, reason = "ranks are below 2^24")]
fn scores(tokens: &[String], merges: &[String]) -> Vec<f32> {
    let mut ranks = std::collections::HashMap::new();
    for (rank, merge) in merges.iter().enumerate() {
        ranks.entry(merge.replacen(' ', "", 1)).or_insert(rank);
    }
    let last = merges.len();
    tokens.iter().map(|token| -(ranks.get(token).copied().unwrap_or(last) as f32)).collect()
}

/// Where SentencePiece's pre-processing puts a space; refuses other pre-processing.
fn sentence_prefix(normalizer: &Value, pre_tokenizer: &Value) -> Result<SpacePrefix, ModelError> {
    let mut prefix = SpacePrefix::Never;
    for step in steps(normalizer, "normalizers") {
        match step["type"].as_str().unwrap_or("none") {
            "Prepend" if step["prepend"] == "▁" => prefix = SpacePrefix::Always,
            "Replace" if step["content"] == "▁" && step["pattern"]["String"] == " " => {}
            other => return Err(unsupported("normalizer", other)),
        }
    }
    for step in steps(pre_tokenizer, "pretokenizers") {
        match step["type"].as_str().unwrap_or("none") {
            "Metaspace" if step["split"] == Value::Bool(false) => {
                match step["prepend_scheme"].as_str() {
                    Some("first") => prefix = SpacePrefix::First,
                    Some("always") => prefix = SpacePrefix::Always,
                    Some("never") | None => {}
                    Some(other) => return Err(unsupported("pre-tokenizer", other)),
                }
            }
            other => return Err(unsupported("pre-tokenizer", other)),
        }
    }
    Ok(prefix)
}

/// The steps of a part that may be absent, one step, or a sequence.
fn steps<'a>(part: &'a Value, key: &str) -> Vec<&'a Value> {
    if part.is_null() {
        return Vec::new();
    }
    match part[key].as_array() {
        Some(steps) if part["type"] == "Sequence" => steps.iter().collect(),
        Some(_) | None => vec![part],
    }
}

/// Recognizes a byte-level pre-tokenizer by its steps.
fn pre_tokenizer(part: &Value) -> Result<PreTokenizer, ModelError> {
    let steps = steps(part, "pretokenizers");
    let whole = || unsupported("pre-tokenizer", part);
    let byte_level = |step: &Value, use_regex: bool| {
        step["type"] == "ByteLevel"
            && step["add_prefix_space"] != Value::Bool(true)
            && step["use_regex"].as_bool().unwrap_or(true) == use_regex
    };
    match steps.as_slice() {
        [step] if byte_level(step, true) => Ok(PreTokenizer::Gpt2),
        [digits, step]
            if digits["type"] == "Digits"
                && digits["individual_digits"] == Value::Bool(true)
                && byte_level(step, true) =>
        {
            Ok(PreTokenizer::Smollm)
        }
        [split, step]
            if split["type"] == "Split"
                && split["behavior"] == "Isolated"
                && split["invert"] != Value::Bool(true)
                && byte_level(step, false) =>
        {
            let pattern = split["pattern"]["Regex"].as_str().ok_or_else(whole)?;
            PreTokenizer::of_pattern(pattern).ok_or_else(whole)
        }
        _ => Err(whole()),
    }
}
