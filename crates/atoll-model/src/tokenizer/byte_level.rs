//! Byte-level byte-pair encoding, by the `tokenizers` crate.

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{SplitDelimiterBehavior, Tokenizer};

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

/// Cuts plain text as GPT-2 does. A byte without a token (a vocabulary may lack control characters)
/// is left out, as every other program does with such a vocabulary.
#[derive(Debug)]
pub(super) struct ByteLevelModel(Tokenizer);

impl ByteLevelModel {
    pub(super) fn new(
        vocabulary: &Vocabulary,
        pre_tokenizer: PreTokenizer,
        nfc: bool,
        merges: &[String],
        ignore_merges: bool,
    ) -> Result<Self, ModelError> {
        let tokens = &vocabulary.definition().tokens;
        let vocab: Vocab = tokens.iter().cloned().zip(0..).collect();
        let merges = merges
            .iter()
            .map(|merge| split_merge(merge, vocabulary))
            .collect::<Result<Vec<_>, _>>()?;
        let merges = merges.into_iter().flatten().collect();
        let bpe = BPE::builder()
            .vocab_and_merges(vocab, merges)
            .ignore_merges(ignore_merges)
            .build()
            .map_err(tokenizer_error)?;
        let mut steps = Vec::new();
        for pattern in pre_tokenizer.patterns() {
            let pattern = SplitPattern::Regex((*pattern).to_owned());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
                .map_err(tokenizer_error)?;
            steps.push(PreTokenizerWrapper::Split(split));
        }
        steps.push(PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, false, false)));
        let mut tokenizer = Tokenizer::new(bpe);
        tokenizer.with_pre_tokenizer(Some(Sequence::new(steps)));
        if nfc {
            tokenizer.with_normalizer(Some(NFC)).map_err(tokenizer_error)?;
        }
        Ok(Self(tokenizer))
    }

    /// Appends the ids of a text without special tokens.
    pub(super) fn encode(&self, text: &str, out: &mut Vec<u32>) -> Result<(), ModelError> {
        let encoding = self.0.encode_fast(text, false).map_err(tokenizer_error)?;
        out.extend(encoding.get_ids());
        Ok(())
    }
}

/// Cuts "left right" in two; `None` if a part or the whole is no token, so that it never applies.
fn split_merge(
    merge: &str,
    vocabulary: &Vocabulary,
) -> Result<Option<(String, String)>, ModelError> {
    let Some((left, right)) = merge.split_once(' ') else {
        let why = format!("merge {merge:?} does not have two parts");
        return Err(ModelError::malformed("tokenizer", why));
    };
    let all = [left, right, &format!("{left}{right}")];
    let known = all.iter().all(|part| vocabulary.id(part).is_some());
    Ok(known.then(|| (left.to_owned(), right.to_owned())))
}

pub(super) fn tokenizer_error(error: tokenizers::Error) -> ModelError {
    ModelError::Tokenizer { why: error.to_string() }
}
