//! Byte-level byte-pair encoding: text is cut into pre-tokens by the `tokenizers` crate, each of
//! which is encoded on its own.

use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _,
    SplitDelimiterBehavior,
};

use super::bpe::Bpe;
use super::definition::PreTokenizer;
use super::vocabulary::Vocabulary;
use crate::error::ModelError;

/// GPT-2's pattern (Radford et al. 2019, the released encoder).
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// The pattern in Qwen 2's tokenizer.json.
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// The pattern in Llama 3's tokenizer.json.
const LLAMA_BPE: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const DIGIT: &str = r"\p{N}";

impl PreTokenizer {
    /// Patterns whose matches are set apart, one pattern after the other.
    const fn patterns(self) -> &'static [&'static str] {
        match self {
            Self::Gpt2 => &[GPT2],
            Self::Smollm => &[DIGIT, GPT2],
            Self::Qwen2 => &[QWEN2],
            Self::LlamaBpe => &[LLAMA_BPE],
        }
    }

    /// The pre-tokenizer whose only pattern is `pattern`.
    pub(super) fn of_pattern(pattern: &str) -> Option<Self> {
        // Both ways of writing that letters of either case are meant.
        let spelled = pattern.replace(
            "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])",
            "(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        );
        [Self::Gpt2, Self::Qwen2, Self::LlamaBpe]
            .into_iter()
            .find(|known| known.patterns() == [spelled.as_str()])
    }
}

/// Cuts plain text as GPT-2 does.
#[derive(Debug)]
pub(super) struct ByteLevelModel {
    bpe: Bpe,
    /// Whether text is brought to Unicode's normal form C first.
    nfc: bool,
    splits: Vec<Split>,
    /// Writes bytes in the byte-level alphabet.
    alphabet: ByteLevel,
}

impl ByteLevelModel {
    pub(super) fn new(
        bpe: Bpe,
        pre_tokenizer: PreTokenizer,
        nfc: bool,
    ) -> Result<Self, ModelError> {
        let split = |pattern: &&str| {
            let pattern = SplitPattern::Regex((*pattern).to_owned());
            Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(tokenizer_error)
        };
        let splits = pre_tokenizer.patterns().iter().map(split).collect::<Result<_, _>>()?;
        Ok(Self { bpe, nfc, splits, alphabet: ByteLevel::new(false, false, false) })
    }

    /// Appends the ids of a text without special tokens.
    pub(super) fn encode(
        &self,
        vocabulary: &Vocabulary,
        text: &str,
        out: &mut Vec<u32>,
    ) -> Result<(), ModelError> {
        let mut text = PreTokenizedString::from(text);
        if self.nfc {
            text.normalize(|text| NFC.normalize(text)).map_err(tokenizer_error)?;
        }
        for split in &self.splits {
            split.pre_tokenize(&mut text).map_err(tokenizer_error)?;
        }
        self.alphabet.pre_tokenize(&mut text).map_err(tokenizer_error)?;
        for (word, ..) in text.get_splits(OffsetReferential::Normalized, OffsetType::Byte) {
            self.bpe.encode(vocabulary, word, out);
        }
        Ok(())
    }
}

pub(super) fn tokenizer_error(error: tokenizers::Error) -> ModelError {
    ModelError::Tokenizer { why: error.to_string() }
}
