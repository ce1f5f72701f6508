//! Text to token ids and back.
//!
//! Whatever file a tokenizer comes from, it becomes one definition, which a manifest carries and
//! from which every node builds the same tokenizer. What a definition cannot say is refused.

mod alphabet;
mod bpe;
mod byte_level;
mod definition;
mod from_gguf;
mod from_json;
mod sentence;
mod stream;
mod vocabulary;
mod word_piece;

use std::sync::Arc;

use crate::error::ModelError;
use crate::gguf::Metadata;
pub(crate) use alphabet::byte_char;
use bpe::Bpe;
use byte_level::ByteLevelModel;
use definition::{Definition, Model, SpacePrefix};
use sentence::SentenceModel;
pub use stream::TokenStream;
use vocabulary::{Fragment, Vocabulary};
use word_piece::WordPieceModel;

/// A tokenizer. Clones share their tables.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    vocabulary: Arc<Vocabulary>,
    engine: Arc<Engine>,
}

#[derive(Debug)]
enum Engine {
    ByteLevel(Box<ByteLevelModel>),
    Sentence(SentenceModel),
    WordPiece(WordPieceModel),
}

impl Tokenizer {
    /// Builds the tokenizer that a GGUF file describes.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] naming a tokenizer or pre-tokenizer that is not supported, and
    /// [`ModelError::MissingKey`] or [`ModelError::Malformed`] for a vocabulary that is not whole.
    pub fn from_gguf(metadata: &Metadata) -> Result<Self, ModelError> {
        Self::new(from_gguf::definition(metadata)?)
    }

    /// Builds the tokenizer of a `tokenizer.json`, with the `tokenizer_config.json` beside it,
    /// which names the tokens at the ends of a text.
    ///
    /// # Errors
    /// As [`Tokenizer::from_gguf`].
    pub fn from_json(
        tokenizer_json: &[u8],
        tokenizer_config_json: Option<&[u8]>,
    ) -> Result<Self, ModelError> {
        Self::new(from_json::definition(tokenizer_json, tokenizer_config_json)?)
    }

    /// Builds the tokenizer from the bytes that [`Tokenizer::to_blob`] made.
    ///
    /// # Errors
    /// [`ModelError::Malformed`], [`ModelError::Limit`] or [`ModelError::UnsupportedVersion`].
    pub fn from_blob(blob: &[u8]) -> Result<Self, ModelError> {
        Self::new(Definition::from_json(blob)?)
    }

    /// The tokenizer as bytes, the same for the same tokenizer: JSON, its version first.
    #[must_use]
    pub fn to_blob(&self) -> Vec<u8> {
        serde_json::to_vec(self.vocabulary.definition()).expect("a definition is plain data")
    }

    fn new(definition: Definition) -> Result<Self, ModelError> {
        let vocabulary = Vocabulary::new(definition)?;
        let engine = match &vocabulary.definition().model {
            Model::ByteLevel { pre_tokenizer, nfc, merges, ignore_merges } => {
                let bpe = Bpe::new(&vocabulary, merges, *ignore_merges)?;
                Engine::ByteLevel(Box::new(ByteLevelModel::new(bpe, *pre_tokenizer, *nfc)?))
            }
            Model::Sentence { .. } => Engine::Sentence(SentenceModel::new(&vocabulary)?),
            Model::WordPiece { unknown } => Engine::WordPiece(WordPieceModel::new(*unknown)),
        };
        Ok(Self { vocabulary: Arc::new(vocabulary), engine: Arc::new(engine) })
    }

    /// Ids of `text`. Special tokens written out in it are recognized. With `add_special`, the
    /// tokens that the model wants at the ends of a text are put there.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] if the text cannot be cut (a pattern took too many steps).
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, ModelError> {
        let definition = self.vocabulary.definition();
        let mut ids = Vec::with_capacity(text.len() / 3 + 2);
        if add_special && definition.add_bos {
            ids.extend(definition.bos);
        }
        let mut at_start = true;
        for (position, fragment) in self.vocabulary.split_special(text).into_iter().enumerate() {
            match fragment {
                Fragment::Token(id) => ids.push(id),
                Fragment::Text(text) => match (&*self.engine, &definition.model) {
                    (Engine::Sentence(model), Model::Sentence { scores, space_prefix }) => {
                        let prefix = match space_prefix {
                            SpacePrefix::Never => false,
                            SpacePrefix::First => position == 0,
                            SpacePrefix::Always => at_start,
                        };
                        model.encode(&self.vocabulary, scores, text, prefix, &mut ids);
                    }
                    (Engine::ByteLevel(model), _) => {
                        model.encode(&self.vocabulary, text, &mut ids)?
                    }
                    (Engine::WordPiece(model), _) => {
                        model.encode(&self.vocabulary, text, &mut ids)?;
                    }
                    (Engine::Sentence(_), Model::ByteLevel { .. } | Model::WordPiece { .. }) => {
                        unreachable!("`new` builds the engine of the definition")
                    }
                },
            }
            at_start = matches!(fragment, Fragment::Token(_));
        }
        if add_special && definition.add_eos {
            ids.extend(definition.eos);
        }
        Ok(ids)
    }

    /// Text of `ids`, without control tokens and without the space that encoding put in front.
    /// Bytes that are no UTF-8 become replacement characters.
    #[must_use]
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        ids.iter().for_each(|&id| self.vocabulary.push_bytes(id, &mut bytes));
        let text = String::from_utf8_lossy(&bytes);
        match &self.vocabulary.definition().model {
            Model::Sentence { space_prefix, .. } if *space_prefix != SpacePrefix::Never => {
                text.strip_prefix(' ').unwrap_or(&text).to_owned()
            }
            Model::WordPiece { .. } => text.strip_prefix(' ').unwrap_or(&text).to_owned(),
            Model::Sentence { .. } | Model::ByteLevel { .. } => text.into_owned(),
        }
    }

    /// Decoding of one id after the other. It keeps a leading space: what is generated goes on
    /// from a prompt.
    #[must_use]
    pub fn stream(&self) -> TokenStream {
        TokenStream::new(self.vocabulary.clone())
    }

    /// Bytes of the text that `id` stands for; empty for control tokens.
    #[must_use]
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.vocabulary.push_bytes(id, &mut bytes);
        bytes
    }

    /// Text of the token `id` as the vocabulary writes it, control tokens included.
    #[must_use]
    pub fn token(&self, id: u32) -> Option<&str> {
        self.vocabulary.definition().tokens.get(id as usize)
    }

    /// Id of the token that is written `text` in the vocabulary.
    #[must_use]
    pub fn id(&self, text: &str) -> Option<u32> {
        self.vocabulary.id(text)
    }

    /// Whether `id` ends an answer.
    #[must_use]
    pub fn is_end(&self, id: u32) -> bool {
        self.vocabulary.is_end(id)
    }

    /// Ids that end an answer, ascending.
    #[must_use]
    pub fn ends(&self) -> Vec<u32> {
        self.vocabulary.ends().collect()
    }

    /// Token that begins a sequence, if the model has one.
    #[must_use]
    pub fn bos(&self) -> Option<u32> {
        self.vocabulary.definition().bos
    }

    /// Token that ends a sequence, if the model has one.
    #[must_use]
    pub fn eos(&self) -> Option<u32> {
        self.vocabulary.definition().eos
    }

    /// Number of tokens.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.vocabulary.definition().tokens.len()
    }
}

#[cfg(test)]
mod tests;
