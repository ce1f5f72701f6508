//! Many short texts in one allocation: a vocabulary of them takes little more than its letters.

use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A list of texts, one behind another in memory.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Texts {
    all: String,
    /// Where each text ends in `all`.
    ends: Vec<u32>,
}

impl Texts {
    /// Bytes that all texts of a list may have together.
    pub const BYTES_MAX: u64 = u32::MAX as u64;

    /// An empty list.
    #[must_use]
    pub const fn new() -> Self {
        Self { all: String::new(), ends: Vec::new() }
    }

    /// Number of texts.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no text.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of all texts together.
    #[must_use]
    pub const fn bytes_len(&self) -> usize {
        self.all.len()
    }

    /// The text at `index`.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)?;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(&self.all[start as usize..end as usize])
    }

    /// The texts in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let text = &self.all[start..end as usize];
            start = end as usize;
            text
        })
    }

    /// Appends a text.
    ///
    /// # Panics
    /// If all texts together have more than [`Texts::BYTES_MAX`] bytes.
    pub fn push(&mut self, text: &str) {
        self.all.push_str(text);
        self.ends.push(u32::try_from(self.all.len()).expect("texts of 4 GiB at most"));
    }

    /// Gives back the room that growing left.
    pub(crate) fn shrink(&mut self) {
        self.all.shrink_to_fit();
        self.ends.shrink_to_fit();
    }
}

impl fmt::Debug for Texts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<S: AsRef<str>> FromIterator<S> for Texts {
    fn from_iter<I: IntoIterator<Item = S>>(texts: I) -> Self {
        let mut all = Self::new();
        texts.into_iter().for_each(|text| all.push(text.as_ref()));
        all.shrink();
        all
    }
}

impl Serialize for Texts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seq;
        impl<'de> Visitor<'de> for Seq {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of texts")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Texts, A::Error> {
                let mut texts = Texts::new();
                while let Some(text) = seq.next_element::<String>()? {
                    texts.push(&text);
                }
                texts.shrink();
                Ok(texts)
            }
        }
        deserializer.deserialize_seq(Seq)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use quickcheck::quickcheck;

    use super::Texts;

    quickcheck! {
        fn a_list_of_texts_is_what_was_put_in(list: Vec<String>) -> bool {
            let texts: Texts = list.iter().collect();
            let one_by_one = (0..list.len()).all(|i| texts.get(i) == Some(&list[i]));
            let json = serde_json::to_string(&texts).unwrap();
            one_by_one
                && texts.iter().eq(list.iter().map(String::as_str))
                && (texts.len(), texts.get(list.len())) == (list.len(), None)
                && json == serde_json::to_string(&list).unwrap()
                && serde_json::from_str::<Texts>(&json).unwrap() == texts
        }
    }
}
