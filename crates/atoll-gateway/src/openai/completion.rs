//! `/v1/completions`: the request, the answer, and the chunks of a stream.

use serde::{Deserialize, Serialize};

use super::chat::FinishReason;
use super::sampling::{SamplingFields, Usage};
use crate::error::ApiError;

/// Most alternatives per position that this older interface may ask for.
const LOGPROBS_MAX: u8 = 20;

/// A completion request; unknown fields are ignored.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct CompletionRequest {
    pub(crate) model: String,
    pub(crate) prompt: Prompt,
    #[serde(flatten)]
    pub(crate) sampling: SamplingFields,
    #[serde(default)]
    pub(crate) logprobs: Option<u8>,
    #[serde(default)]
    pub(crate) echo: Option<bool>,
    #[serde(default)]
    suffix: Option<String>,
    #[serde(default)]
    best_of: Option<u32>,
}

/// Text or token ids; one prompt may stand in a list of its own.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
    Texts(Vec<String>),
    TokenLists(Vec<Vec<u32>>),
}

impl CompletionRequest {
    /// Refuses what is out of range or not supported; a list of one prompt becomes that prompt.
    pub(crate) fn check(mut self) -> Result<Self, ApiError> {
        self.sampling.check()?;
        let unsupported = |param, message: &str| Err(ApiError::invalid(Some(param), message));
        if self.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty()) {
            return unsupported("suffix", "suffix is not supported");
        }
        if self.best_of.is_some_and(|best_of| best_of != 1) {
            return unsupported("best_of", "best_of must be 1");
        }
        if self.echo.unwrap_or(false) && self.logprobs.is_some() {
            return unsupported("echo", "log-probabilities of the prompt are not supported");
        }
        if self.logprobs.is_some_and(|n| n > LOGPROBS_MAX) {
            return unsupported("logprobs", "logprobs must be at most 20");
        }
        self.prompt = match self.prompt {
            Prompt::Texts(mut texts) if texts.len() == 1 => Prompt::Text(texts.remove(0)),
            Prompt::TokenLists(mut lists) if lists.len() == 1 => Prompt::Tokens(lists.remove(0)),
            Prompt::Texts(_) | Prompt::TokenLists(_) => {
                return unsupported("prompt", "one prompt per request");
            }
            one @ (Prompt::Text(_) | Prompt::Tokens(_)) => one,
        };
        Ok(self)
    }
}

/// Log-probabilities in the older interface's shape: four lists of one length.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct CompletionLogprobs {
    pub(crate) tokens: Vec<String>,
    pub(crate) token_logprobs: Vec<f32>,
    pub(crate) top_logprobs: Vec<serde_json::Map<String, serde_json::Value>>,
    pub(crate) text_offset: Vec<usize>,
}

/// A whole answer, or one event of a stream.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Completion {
    pub(crate) id: String,
    pub(crate) object: &'static str,
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) system_fingerprint: String,
    pub(crate) choices: Vec<CompletionChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<Usage>,
}

/// The one choice.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CompletionChoice {
    pub(crate) text: String,
    pub(crate) index: u32,
    pub(crate) logprobs: Option<CompletionLogprobs>,
    pub(crate) finish_reason: Option<FinishReason>,
}

#[cfg(test)]
mod tests {
    use super::super::sampling::read;
    use super::*;

    fn check(json: &str, expected: Result<Prompt, &str>) {
        let found = read::<CompletionRequest>(json.as_bytes()).and_then(CompletionRequest::check);
        match (found, expected) {
            (Ok(request), Ok(prompt)) => assert_eq!(request.prompt, prompt),
            (Err(error), Err(part)) => {
                assert!(error.body.message.contains(part), "{}", error.body.message);
            }
            (found, _) => panic!("{json}: {found:?}"),
        }
    }

    #[test]
    fn prompts_are_read() {
        check(r#"{"model":"m","prompt":"a"}"#, Ok(Prompt::Text("a".into())));
        check(r#"{"model":"m","prompt":["a"]}"#, Ok(Prompt::Text("a".into())));
        check(r#"{"model":"m","prompt":[1,2]}"#, Ok(Prompt::Tokens(vec![1, 2])));
        check(r#"{"model":"m","prompt":[[1,2]]}"#, Ok(Prompt::Tokens(vec![1, 2])));
        check(r#"{"model":"m","prompt":["a","b"]}"#, Err("one prompt"));
        check(r#"{"model":"m","prompt":{}}"#, Err("Prompt"));
        check(r#"{"model":"m","prompt":"a","suffix":"b"}"#, Err("suffix"));
        check(r#"{"model":"m","prompt":"a","echo":true,"logprobs":1}"#, Err("prompt"));
        check(r#"{"model":"m","prompt":"a","best_of":2}"#, Err("best_of"));
    }
}
