//! `POST /v1/chat/completions`.

use atoll_node::{ChatMessage, GenerateRequest, Prompt};
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};

use super::{App, unix_s};
use crate::answer::{self, Heard, Identity, Piece, Running, Token, Wording, stream_events};
use crate::error::ApiError;
use crate::guard::RequestId;
use crate::openai::chat::{
    ChatChoice, ChatChunk, ChatCompletion, ChatLogprobs, ChatRequest, ChunkChoice, Delta,
    MessageOut, TokenLogprob, TopLogprob,
};
use crate::openai::sampling::{Usage, read};

pub(super) async fn answer(
    State(app): State<App>,
    Extension(id): Extension<RequestId>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let request: ChatRequest = read(&body)?;
    request.check()?;
    let messages = request.conversation()?;
    let place = app.admit()?;
    let generate = GenerateRequest {
        model: request.model.clone(),
        prompt: Prompt::Chat(
            messages.into_iter().map(|(role, content)| ChatMessage { role, content }).collect(),
        ),
        sampler: answer::sampler(&request.sampling, request.logprobs_wanted()),
        max_tokens: request.sampling.tokens_max(),
        stop: request.sampling.stops(),
        prefill_chunk: None,
        deadline: None,
    };
    let identity = Identity {
        id: format!("chatcmpl-{}", id.0),
        created: unix_s(),
        model: request.model.clone(),
    };
    let running = Running::start(&app.node, place, generate).await?;
    let logprobs = request.logprobs_wanted().is_some();
    if request.sampling.streams() {
        let usage = request.sampling.usage_wanted();
        return Ok(stream_events(running, ChatWording { identity, logprobs, usage }));
    }
    Ok(Json(collect(running, identity, logprobs).await?).into_response())
}

async fn collect(
    mut running: Running,
    identity: Identity,
    logprobs: bool,
) -> Result<ChatCompletion, ApiError> {
    let mut content = String::new();
    let mut tokens = Vec::new();
    loop {
        for heard in running.next().await? {
            match heard {
                Heard::Piece(piece) => {
                    content.push_str(&piece.text);
                    tokens.extend(piece.token.map(logprob));
                }
                Heard::End(end) => {
                    let Identity { id, created, model } = identity;
                    let message = MessageOut { role: "assistant", content, refusal: None };
                    let logprobs =
                        logprobs.then_some(ChatLogprobs { content: tokens, refusal: None });
                    let finish_reason = end.reason;
                    return Ok(ChatCompletion {
                        id,
                        object: "chat.completion",
                        created,
                        model,
                        choices: [ChatChoice { index: 0, message, logprobs, finish_reason }],
                        usage: Usage::new(end.prompt_tokens, end.completion_tokens),
                        system_fingerprint: answer::fingerprint(),
                    });
                }
            }
        }
    }
}

struct ChatWording {
    identity: Identity,
    logprobs: bool,
    usage: bool,
}

impl ChatWording {
    fn chunk(&self, choices: Vec<ChunkChoice>, usage: Option<Usage>) -> String {
        let chunk = ChatChunk {
            id: &self.identity.id,
            object: "chat.completion.chunk",
            created: self.identity.created,
            model: &self.identity.model,
            system_fingerprint: &answer::fingerprint(),
            choices,
            usage,
        };
        serde_json::to_string(&chunk).expect("our own structs serialize")
    }

    fn piece(&self, piece: Piece) -> Option<String> {
        let tokens: Vec<_> =
            piece.token.filter(|_| self.logprobs).map(logprob).into_iter().collect();
        if piece.text.is_empty() && tokens.is_empty() {
            return None;
        }
        let logprobs =
            (!tokens.is_empty()).then_some(ChatLogprobs { content: tokens, refusal: None });
        let delta = Delta { role: None, content: Some(piece.text) };
        Some(self.chunk(vec![ChunkChoice { index: 0, delta, logprobs, finish_reason: None }], None))
    }
}

impl Wording for ChatWording {
    fn first(&mut self) -> Vec<String> {
        let delta = Delta { role: Some("assistant"), content: Some(String::new()) };
        let choice = ChunkChoice { index: 0, delta, logprobs: None, finish_reason: None };
        vec![self.chunk(vec![choice], None)]
    }

    fn word(&mut self, heard: Heard) -> Vec<String> {
        match heard {
            Heard::Piece(piece) => self.piece(piece).into_iter().collect(),
            Heard::End(end) => {
                let finish_reason = Some(end.reason);
                let choice = ChunkChoice {
                    index: 0,
                    delta: Delta::default(),
                    logprobs: None,
                    finish_reason,
                };
                let mut events = vec![self.chunk(vec![choice], None)];
                if self.usage {
                    let usage = Usage::new(end.prompt_tokens, end.completion_tokens);
                    events.push(self.chunk(Vec::new(), Some(usage)));
                }
                events.push("[DONE]".to_owned());
                events
            }
        }
    }
}

fn logprob(token: Token) -> TokenLogprob {
    let bytes = |text: &str| text.as_bytes().to_vec();
    TokenLogprob {
        bytes: bytes(&token.text),
        logprob: token.logprob,
        top_logprobs: token
            .top
            .into_iter()
            .map(|(text, logprob)| TopLogprob { bytes: bytes(&text), token: text, logprob })
            .collect(),
        token: token.text,
    }
}
