//! BERT's WordPiece: words are cut out by the `tokenizers` crate, and cut into pieces here.

use std::borrow::Cow;

use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{
    Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _,
};

use super::Tokenizer;
use super::byte_level::tokenizer_error;
use super::definition::Model;
use super::vocabulary::Vocabulary;
use crate::error::ModelError;
use crate::gguf::Value;

/// Words of more characters are unknown.
pub(super) const WORD_CHARS_MAX: usize = 100;

/// Cuts plain text as BERT does.
#[derive(Debug)]
pub(super) struct WordPieceModel {
    unknown: u32,
}

impl WordPieceModel {
    pub(super) const fn new(unknown: u32) -> Self {
        Self { unknown }
    }

    /// Appends the ids of a text without special tokens.
    pub(super) fn encode(
        &self,
        vocabulary: &Vocabulary,
        text: &str,
        out: &mut Vec<u32>,
    ) -> Result<(), ModelError> {
        let mut text = PreTokenizedString::from(text);
        let usual = BertNormalizer::default();
        text.normalize(|text| usual.normalize(text)).map_err(tokenizer_error)?;
        BertPreTokenizer.pre_tokenize(&mut text).map_err(tokenizer_error)?;
        for (word, ..) in text.get_splits(OffsetReferential::Normalized, OffsetType::Byte) {
            self.word(vocabulary, word, out);
        }
        Ok(())
    }

    /// The longest pieces from the left; the unknown token, if some of the word is no piece.
    fn word(&self, vocabulary: &Vocabulary, word: &str, out: &mut Vec<u32>) {
        let before = out.len();
        let mut rest = if word.chars().count() > WORD_CHARS_MAX { None } else { Some(word) };
        while let Some(text) = rest.filter(|text| !text.is_empty()) {
            let is_first = text.len() == word.len();
            let ends = text.char_indices().map(|(at, c)| at + c.len_utf8()).rev();
            let piece = |end: usize| -> Cow<'_, str> {
                if is_first { text[..end].into() } else { ["##", &text[..end]].concat().into() }
            };
            let found = ends.into_iter().find_map(|end| Some((vocabulary.id(&piece(end))?, end)));
            rest = found.map(|(id, end)| {
                out.push(id);
                &text[end..]
            });
        }
        if rest.is_none() {
            out.truncate(before);
            out.push(self.unknown);
        }
    }
}

/// GGUF marks the pieces that begin a word, not those that go on.
pub(super) fn from_gguf(text: &str) -> Cow<'_, str> {
    match text.strip_prefix('▁') {
        Some(word) => word.into(),
        None if text.starts_with('[') && text.ends_with(']') => text.into(),
        None => ["##", text].concat().into(),
    }
}

/// A piece as GGUF writes it: the other way round of [`from_gguf`].
fn to_gguf(text: &str) -> Cow<'_, str> {
    match text.strip_prefix("##") {
        Some(rest) => rest.into(),
        None if text.starts_with('[') && text.ends_with(']') => text.into(),
        None => ["▁", text].concat().into(),
    }
}

impl Tokenizer {
    /// The keys of GGUF that say what it is.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] unless it is WordPiece.
    pub(crate) fn word_piece_keys(&self) -> Result<Vec<(String, Value)>, ModelError> {
        let definition = self.vocabulary.definition();
        let Model::WordPiece { unknown } = definition.model else {
            let name = "other than WordPiece, of an encoder".to_owned();
            return Err(ModelError::Unsupported { what: "tokenizer", name });
        };
        let kinds = definition.kinds.iter().map(|kind| i64::from(u8::from(*kind)));
        let tokens = definition.tokens.iter().map(|token| to_gguf(token).into_owned());
        let keys = [
            ("model", Some(Value::String("bert".to_owned()))),
            ("tokens", Some(Value::Strings(tokens.collect()))),
            ("token_type", Some(Value::Ints(kinds.collect()))),
            ("unknown_token_id", Some(Value::Uint(unknown.into()))),
            ("cls_token_id", definition.bos.map(|id| Value::Uint(id.into()))),
            ("seperator_token_id", definition.eos.map(|id| Value::Uint(id.into()))),
        ];
        let present = keys.into_iter().filter_map(|(name, value)| Some((name, value?)));
        Ok(present.map(|(name, value)| (format!("tokenizer.ggml.{name}"), value)).collect())
    }
}
