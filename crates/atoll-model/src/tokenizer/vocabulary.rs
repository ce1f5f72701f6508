//! The tokens: which texts are special, which ids end an answer, which bytes an id stands for.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::alphabet::char_byte;
use super::definition::{Definition, Kind, Model};
use crate::error::ModelError;
use crate::texts::Texts;

/// Texts of tokens that end an answer, in the models of this field. Files name one or two such
/// tokens; chat models often use another one than they name.
const ENDS: [&str; 14] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<｜end▁of▁sentence｜>",
];

/// Texts of tokens that mark places in code to fill in. Reaching the second group ends an answer.
const FILL_IN: [&str; 9] = [
    "<|fim_prefix|>",
    "<fim_prefix>",
    "<fim-prefix>",
    "<|fim_suffix|>",
    "<fim_suffix>",
    "<fim-suffix>",
    "<|fim_middle|>",
    "<fim_middle>",
    "<fim-middle>",
];
const FILL_IN_ENDS: [&str; 11] = [
    "<|fim_pad|>",
    "<fim_pad>",
    "<fim-pad>",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<reponame>",
    "<REPO>",
    "<|file_sep|>",
    "<PAD>",
    "[PAD]",
];

/// A piece of a text: plain, or a special token found in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fragment<'a> {
    Text(&'a str),
    Token(u32),
}

/// Finds a token's id by its text: a hash table that holds ids only, the texts stand elsewhere.
#[derive(Debug)]
struct Ids {
    table: HashTable<u32>,
    hasher: RandomState,
}

impl Ids {
    fn new(tokens: &Texts) -> Result<Self, ModelError> {
        let table = HashTable::with_capacity(tokens.len());
        let mut ids = Self { table, hasher: RandomState::new() };
        for (id, text) in (0..).zip(tokens.iter()) {
            if let Some(earlier) = ids.find(tokens, text) {
                let why = format!("tokens {earlier} and {id} are both {text:?}");
                return Err(ModelError::malformed("tokenizer", why));
            }
            let Self { table, hasher } = &mut ids;
            let hash = |&id: &u32| hasher.hash_one(tokens.get(id as usize));
            table.insert_unique(hash(&id), id, hash);
        }
        Ok(ids)
    }

    fn find(&self, tokens: &Texts, text: &str) -> Option<u32> {
        let hash = self.hasher.hash_one(Some(text));
        self.table.find(hash, |&id| tokens.get(id as usize) == Some(text)).copied()
    }
}

#[derive(Debug)]
pub(super) struct Vocabulary {
    definition: Definition,
    /// Kinds, corrected where a token's text says more than the file does.
    kinds: Vec<Kind>,
    ids: Ids,
    /// Special tokens, longest text first.
    special: Vec<u32>,
    ends: BTreeSet<u32>,
}

impl Vocabulary {
    /// Takes a definition that has been validated.
    pub(super) fn new(mut definition: Definition) -> Result<Self, ModelError> {
        if definition.tokens.iter().any(str::is_empty) {
            let named = |(id, text): (usize, &str)| match text {
                "" => format!("[EMPTY_{id}]"),
                _ => text.to_owned(),
            };
            definition.tokens = definition.tokens.iter().enumerate().map(named).collect();
        }
        let ids = Ids::new(&definition.tokens)?;
        let mut kinds = definition.kinds.clone();
        let mut ends: BTreeSet<u32> =
            definition.eos.iter().chain(&definition.ends).copied().collect();
        for text in ENDS.iter().chain(&FILL_IN_ENDS) {
            if let Some(id) = ids.find(&definition.tokens, text) {
                ends.insert(id);
                kinds[id as usize] = Kind::Control;
            }
        }
        for text in FILL_IN {
            if let Some(id) = ids.find(&definition.tokens, text) {
                kinds[id as usize] = Kind::Control;
            }
        }
        let is_special = |kind| matches!(kind, Kind::Control | Kind::UserDefined | Kind::Unknown);
        let mut special: Vec<u32> =
            (0..).zip(&kinds).filter(|(_, kind)| is_special(**kind)).map(|(id, _)| id).collect();
        special.sort_by_key(|&id| {
            std::cmp::Reverse(definition.tokens.get(id as usize).map_or(0, str::len))
        });
        Ok(Self { definition, kinds, ids, special, ends })
    }

    pub(super) const fn definition(&self) -> &Definition {
        &self.definition
    }

    pub(super) fn id(&self, text: &str) -> Option<u32> {
        self.ids.find(&self.definition.tokens, text)
    }

    pub(super) fn is_end(&self, id: u32) -> bool {
        self.ends.contains(&id)
    }

    /// Ids that end an answer, ascending.
    pub(super) fn ends(&self) -> impl Iterator<Item = u32> + '_ {
        self.ends.iter().copied()
    }

    /// Cuts `text` at the special tokens that it contains: the longest first, each from the left.
    pub(super) fn split_special<'a>(&self, text: &'a str) -> Vec<Fragment<'a>> {
        if text.is_empty() {
            return Vec::new();
        }
        let mut fragments = vec![Fragment::Text(text)];
        for &id in &self.special {
            let special = self.definition.tokens.get(id as usize).expect("ids of tokens");
            if !text.contains(special) {
                continue;
            }
            let mut cut = Vec::with_capacity(fragments.len() + 2);
            for fragment in fragments {
                let Fragment::Text(mut rest) = fragment else {
                    cut.push(fragment);
                    continue;
                };
                while let Some((before, after)) = rest.split_once(special) {
                    if !before.is_empty() {
                        cut.push(Fragment::Text(before));
                    }
                    cut.push(Fragment::Token(id));
                    rest = after;
                }
                if !rest.is_empty() {
                    cut.push(Fragment::Text(rest));
                }
            }
            fragments = cut;
        }
        fragments
    }

    /// Appends the bytes of the text that `id` stands for: none for control tokens, for unused
    /// ones, and for ids beyond the vocabulary (an embedding may have more rows than tokens).
    pub(super) fn push_bytes(&self, id: u32, out: &mut Vec<u8>) {
        let Some(text) = self.definition.tokens.get(id as usize) else { return };
        match self.kinds[id as usize] {
            Kind::Control | Kind::Unused | Kind::Unknown => {}
            Kind::UserDefined => out.extend(text.as_bytes()),
            Kind::Byte => match byte_token(text) {
                Some(byte) => out.push(byte),
                None => out.extend(text.as_bytes()),
            },
            Kind::Normal => match &self.definition.model {
                Model::ByteLevel { .. } => push_alphabet_bytes(text, out),
                Model::Sentence { .. } => out.extend(text.replace('▁', " ").as_bytes()),
                Model::WordPiece { .. } => match text.strip_prefix("##") {
                    Some(rest) => out.extend(rest.as_bytes()),
                    None => out.extend([" ", text].concat().as_bytes()),
                },
            },
        }
    }
}

/// Appends the bytes that the characters stand for; what is not of the alphabet stands for itself.
fn push_alphabet_bytes(text: &str, out: &mut Vec<u8>) {
    for c in text.chars() {
        match char_byte(c) {
            Some(byte) => out.push(byte),
            None => out.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// The byte of a token such as `<0x0A>`.
fn byte_token(text: &str) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    (hex.len() == 2).then(|| u8::from_str_radix(hex, 16).ok())?
}
