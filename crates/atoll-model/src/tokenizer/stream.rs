//! Token ids to text, one at a time.

use std::sync::Arc;

use super::vocabulary::Vocabulary;

/// Decodes ids as they come. A character whose bytes are spread over several tokens appears once
/// it is whole; a replacement character only where no further byte could make sense of it.
#[derive(Debug, Clone)]
pub struct TokenStream {
    vocabulary: Arc<Vocabulary>,
    /// Bytes of a character that is not whole yet, at most 3.
    pending: Vec<u8>,
}

impl TokenStream {
    pub(super) const fn new(vocabulary: Arc<Vocabulary>) -> Self {
        Self { vocabulary, pending: Vec::new() }
    }

    /// The text that `id` makes certain; often empty.
    #[must_use = "the text is not kept"]
    pub fn push(&mut self, id: u32) -> String {
        self.vocabulary.push_bytes(id, &mut self.pending);
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&self.pending) {
                Ok(valid) => {
                    text.push_str(valid);
                    self.pending.clear();
                    return text;
                }
                Err(error) => {
                    let (valid, rest) = self.pending.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).expect("checked as UTF-8"));
                    let wrong = error.error_len();
                    let rest = rest[wrong.unwrap_or(0)..].to_vec();
                    self.pending = rest;
                    match wrong {
                        Some(_) => text.push(char::REPLACEMENT_CHARACTER),
                        None => return text,
                    }
                }
            }
        }
    }

    /// What is left of a character that never became whole: a replacement character or nothing.
    #[must_use = "the text is not kept"]
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}
