//! What a tokenizer is made of: the form in which a manifest carries it.

use serde::{Deserialize, Serialize};

use crate::error::ModelError;
use crate::texts::Texts;

/// Version of the JSON form.
pub(super) const VERSION: u32 = 1;

/// Largest tokenizer accepted, in bytes of its JSON form. Those of today's models take 2–15 MB.
const BYTES_MAX: usize = 64 << 20;
const TOKENS_MAX: usize = 1 << 22;
const MERGES_MAX: usize = 1 << 22;
/// Bytes of one token. The longest honest ones are runs of some hundreds of spaces.
const TOKEN_BYTES_MAX: usize = 4096;

/// Everything that decides how text becomes token ids.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Definition {
    /// [`VERSION`].
    pub(super) version: u32,
    /// How a run of plain text is cut.
    pub(super) model: Model,
    /// Text of every token, by id. Byte-level tokens are written in the byte-level alphabet.
    pub(super) tokens: Texts,
    /// Kind of every token, by id.
    pub(super) kinds: Vec<Kind>,
    /// Token that begins a sequence.
    pub(super) bos: Option<u32>,
    /// Token that ends a sequence.
    pub(super) eos: Option<u32>,
    /// Further tokens that end an answer, as the file names them.
    pub(super) ends: Vec<u32>,
    /// Whether `bos` is put before a text.
    pub(super) add_bos: bool,
    /// Whether `eos` is put after a text.
    pub(super) add_eos: bool,
}

/// How a run of plain text is cut into tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub(super) enum Model {
    /// Byte-pair encoding over the byte-level alphabet, within pre-tokens.
    ByteLevel {
        pre_tokenizer: PreTokenizer,
        /// Whether text is brought to Unicode's normal form C first.
        nfc: bool,
        /// Pairs to join, best first: "left right".
        merges: Texts,
        /// Whether a pre-token that is itself a token is taken whole.
        ignore_merges: bool,
    },
    /// SentencePiece's byte-pair encoding: join the two neighbours whose union scores best.
    Sentence {
        /// Score of every token, by id.
        scores: Vec<f32>,
        space_prefix: SpacePrefix,
    },
    /// BERT's: words in lower case and without accents, each cut into the longest pieces from the
    /// left; those that do not begin a word are written `##ing`.
    WordPiece {
        /// Token of a word that cannot be cut.
        unknown: u32,
    },
}

/// Where SentencePiece's pre-processing puts a space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum SpacePrefix {
    Never,
    /// Before a text that does not begin with a special token.
    First,
    /// Before a text, and after every special token.
    Always,
}

/// How text is cut before byte-pair encoding, under the names that GGUF files use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum PreTokenizer {
    /// GPT-2's.
    #[serde(rename = "gpt-2")]
    Gpt2,
    /// GPT-2's, after every digit was set apart.
    Smollm,
    /// Qwen 2's: one digit at a time, contractions in any case.
    Qwen2,
    /// Llama 3's: up to three digits at a time.
    LlamaBpe,
}

impl PreTokenizer {
    /// Reads GGUF's `tokenizer.ggml.pre`; several names stand for one behaviour.
    pub(super) fn parse(name: &str) -> Result<Self, ModelError> {
        match name {
            "gpt-2" => Ok(Self::Gpt2),
            "smollm" => Ok(Self::Smollm),
            "qwen2" | "deepseek-r1-qwen" => Ok(Self::Qwen2),
            "llama-bpe" | "llama3" | "llama-v3" => Ok(Self::LlamaBpe),
            _ => Err(ModelError::Unsupported { what: "pre-tokenizer", name: name.to_owned() }),
        }
    }
}

/// Kind of a token, numbered as in GGUF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "i64")]
pub(super) enum Kind {
    Normal = 1,
    Unknown = 2,
    /// Steers the model and is not part of a text.
    Control = 3,
    /// Found in text before anything else is cut, and part of it.
    UserDefined = 4,
    Unused = 5,
    /// One byte of SentencePiece's fallback, written `<0x0A>`.
    Byte = 6,
}

impl From<Kind> for u8 {
    fn from(kind: Kind) -> Self {
        kind as Self
    }
}

impl TryFrom<i64> for Kind {
    type Error = ModelError;

    fn try_from(id: i64) -> Result<Self, ModelError> {
        Ok(match id {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 | 0 => Self::Unused,
            6 => Self::Byte,
            _ => {
                let why = format!("token kind {id} is unknown");
                return Err(ModelError::malformed("tokenizer", why));
            }
        })
    }
}

impl Definition {
    /// BERT's tokenizer, which puts `bos` before a text and `eos` behind it.
    pub(super) fn of_word_piece(
        tokens: Texts,
        kinds: Vec<Kind>,
        (bos, eos): (u32, u32),
        unknown: u32,
    ) -> Self {
        Self {
            version: VERSION,
            model: Model::WordPiece { unknown },
            tokens,
            kinds,
            bos: Some(bos),
            eos: Some(eos),
            ends: Vec::new(),
            add_bos: true,
            add_eos: true,
        }
    }

    /// Reads the JSON form.
    pub(super) fn from_json(bytes: &[u8]) -> Result<Self, ModelError> {
        ModelError::check_limit("bytes of the tokenizer", bytes.len() as u64, BYTES_MAX as u64)?;
        let definition: Self = serde_json::from_slice(bytes)
            .map_err(|error| ModelError::malformed("tokenizer", error.to_string()))?;
        if definition.version != VERSION {
            return Err(ModelError::UnsupportedVersion {
                format: "tokenizer",
                version: definition.version.into(),
                supported: "1",
            });
        }
        definition.validate()?;
        Ok(definition)
    }

    /// Checks the counts and the ids.
    pub(super) fn validate(&self) -> Result<(), ModelError> {
        let malformed = |why: String| Err(ModelError::malformed("tokenizer", why));
        let n_tokens = self.tokens.len();
        ModelError::check_limit("number of tokens", n_tokens as u64, TOKENS_MAX as u64)?;
        if n_tokens == 0 {
            return malformed("it has no tokens".to_owned());
        }
        if self.kinds.len() != n_tokens {
            return malformed(format!("{n_tokens} tokens have {} kinds", self.kinds.len()));
        }
        if let Some(token) = self.tokens.iter().find(|token| token.len() > TOKEN_BYTES_MAX) {
            let value = token.len() as u64;
            return ModelError::check_limit("bytes of a token", value, TOKEN_BYTES_MAX as u64);
        }
        let ids = self.bos.iter().chain(&self.eos).chain(&self.ends);
        if let Some(id) = ids.copied().find(|&id| id as usize >= n_tokens) {
            return malformed(format!("special token {id} is not among {n_tokens} tokens"));
        }
        if (self.add_bos && self.bos.is_none()) || (self.add_eos && self.eos.is_none()) {
            return malformed("a token to add at an end of the text is not named".to_owned());
        }
        match &self.model {
            Model::ByteLevel { merges, .. } => {
                ModelError::check_limit("number of merges", merges.len() as u64, MERGES_MAX as u64)
            }
            Model::Sentence { scores, .. } if scores.len() != n_tokens => {
                malformed(format!("{n_tokens} tokens have {} scores", scores.len()))
            }
            Model::Sentence { scores, .. } if scores.iter().any(|score| score.is_nan()) => {
                malformed("a score is not a number".to_owned())
            }
            Model::WordPiece { unknown } if *unknown as usize >= n_tokens => {
                malformed(format!("token {unknown} is not among {n_tokens} tokens"))
            }
            Model::Sentence { .. } | Model::WordPiece { .. } => Ok(()),
        }
    }
}
