//! `/v1/chat/completions`: the request, the answer, and the chunks of a stream.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::sampling::{SamplingFields, TOP_LOGPROBS_MAX, Usage};
use crate::error::ApiError;

/// Most messages in one request.
const MESSAGES_MAX: usize = 4096;

/// A chat request; unknown fields are ignored.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ChatRequest {
    pub(crate) model: String,
    pub(crate) messages: Vec<MessageIn>,
    #[serde(flatten)]
    pub(crate) sampling: SamplingFields,
    #[serde(default)]
    pub(crate) logprobs: Option<bool>,
    #[serde(default)]
    pub(crate) top_logprobs: Option<u8>,
    #[serde(default)]
    response_format: Option<ResponseFormat>,
    #[serde(default)]
    tools: Option<Vec<Value>>,
    #[serde(default)]
    tool_choice: Option<Value>,
}

/// One message of the conversation.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct MessageIn {
    role: Role,
    #[serde(default)]
    content: Option<Content>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    System,
    Developer,
    User,
    Assistant,
    Tool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Clone, Debug, Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    text: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct ResponseFormat {
    #[serde(rename = "type")]
    kind: String,
}

impl ChatRequest {
    /// Refuses what is out of range or not supported.
    pub(crate) fn check(&self) -> Result<(), ApiError> {
        self.sampling.check()?;
        if self.messages.is_empty() || self.messages.len() > MESSAGES_MAX {
            let message = format!("messages must hold 1 to {MESSAGES_MAX} messages");
            return Err(ApiError::invalid(Some("messages"), message));
        }
        if self.top_logprobs.is_some_and(|n| n > TOP_LOGPROBS_MAX) {
            let message = format!("top_logprobs must be at most {TOP_LOGPROBS_MAX}");
            return Err(ApiError::invalid(Some("top_logprobs"), message));
        }
        match self.response_format.as_ref().map(|format| format.kind.as_str()) {
            None | Some("text") => {}
            Some(other) => {
                let message = format!("response_format {other:?} is not supported; only text is");
                return Err(ApiError::invalid(Some("response_format"), message));
            }
        }
        let tools = self.tools.as_ref().is_some_and(|tools| !tools.is_empty());
        let off = self.tool_choice.as_ref().is_some_and(|choice| choice == "none");
        if tools && !off {
            return Err(ApiError::invalid(Some("tools"), "tools are not supported"));
        }
        Ok(())
    }

    /// The conversation as (role, text) pairs, as chat templates know them.
    pub(crate) fn conversation(&self) -> Result<Vec<(String, String)>, ApiError> {
        self.messages.iter().enumerate().map(|(idx, message)| message.read(idx)).collect()
    }

    /// How many alternatives to report at each position; 0 is none, not even the chosen token.
    pub(crate) fn logprobs_wanted(&self) -> Option<u8> {
        self.logprobs.unwrap_or(false).then(|| self.top_logprobs.unwrap_or(0))
    }
}

impl MessageIn {
    fn read(&self, idx: usize) -> Result<(String, String), ApiError> {
        let wrong =
            |what: String| ApiError::invalid(Some("messages"), format!("message {idx}: {what}"));
        let role = match self.role {
            Role::System | Role::Developer => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => return Err(wrong("the role tool is not supported".to_owned())),
        };
        let text = match &self.content {
            Some(Content::Text(text)) => text.clone(),
            Some(Content::Parts(parts)) => {
                let mut text = String::new();
                for part in parts {
                    match (part.kind.as_str(), &part.text) {
                        ("text", Some(more)) => text.push_str(more),
                        ("text", None) => return Err(wrong("a text part has no text".to_owned())),
                        (other, _) => {
                            return Err(wrong(format!(
                                "content of type {other:?} is not supported"
                            )));
                        }
                    }
                }
                text
            }
            None if self.role == Role::Assistant => String::new(),
            None => return Err(wrong("content is missing".to_owned())),
        };
        Ok((role.to_owned(), text))
    }
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FinishReason {
    Stop,
    Length,
}

/// The log-probability of one token, with alternatives.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct TokenLogprob {
    pub(crate) token: String,
    pub(crate) logprob: f32,
    pub(crate) bytes: Vec<u8>,
    pub(crate) top_logprobs: Vec<TopLogprob>,
}

/// One alternative.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct TopLogprob {
    pub(crate) token: String,
    pub(crate) logprob: f32,
    pub(crate) bytes: Vec<u8>,
}

/// Log-probabilities of an answer, or of a piece of one.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct ChatLogprobs {
    pub(crate) content: Vec<TokenLogprob>,
    pub(crate) refusal: Option<Vec<TokenLogprob>>,
}

/// A whole answer.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ChatCompletion {
    pub(crate) id: String,
    pub(crate) object: &'static str,
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) choices: [ChatChoice; 1],
    pub(crate) usage: Usage,
    pub(crate) system_fingerprint: String,
}

/// The one choice.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ChatChoice {
    pub(crate) index: u32,
    pub(crate) message: MessageOut,
    pub(crate) logprobs: Option<ChatLogprobs>,
    pub(crate) finish_reason: FinishReason,
}

/// The answer's message.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct MessageOut {
    pub(crate) role: &'static str,
    pub(crate) content: String,
    pub(crate) refusal: Option<String>,
}

/// One event of a stream.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ChatChunk<'a> {
    pub(crate) id: &'a str,
    pub(crate) object: &'static str,
    pub(crate) created: u64,
    pub(crate) model: &'a str,
    pub(crate) system_fingerprint: &'a str,
    pub(crate) choices: Vec<ChunkChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<Usage>,
}

/// What a chunk adds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ChunkChoice {
    pub(crate) index: u32,
    pub(crate) delta: Delta,
    pub(crate) logprobs: Option<ChatLogprobs>,
    pub(crate) finish_reason: Option<FinishReason>,
}

/// The new piece.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content: Option<String>,
}

#[cfg(test)]
mod tests;
