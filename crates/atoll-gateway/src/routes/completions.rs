//! `POST /v1/completions`.

use atoll_node::{GenerateRequest, Prompt as NodePrompt};
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};

use super::{App, unix_s};
use crate::answer::{self, Heard, Identity, Running, Token, Wording, stream_events};
use crate::error::ApiError;
use crate::guard::RequestId;
use crate::openai::chat::FinishReason;
use crate::openai::completion::{
    Completion, CompletionChoice, CompletionLogprobs, CompletionRequest, Prompt,
};
use crate::openai::sampling::{Usage, read};

/// What this older interface generates when the request does not say.
const TOKENS_DEFAULT: u32 = 16;

pub(super) async fn answer(
    State(app): State<App>,
    Extension(id): Extension<RequestId>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let request = read::<CompletionRequest>(&body)?.check()?;
    let (prompt, echo) = match request.prompt {
        Prompt::Text(text) => {
            let echo = request.echo.unwrap_or(false).then(|| text.clone());
            (NodePrompt::Text(text), echo)
        }
        Prompt::Tokens(_) if request.echo.unwrap_or(false) => {
            let message = "echo needs the prompt as text";
            return Err(ApiError::invalid(Some("echo"), message));
        }
        Prompt::Tokens(tokens) => (NodePrompt::Tokens(tokens), None),
        Prompt::Texts(_) | Prompt::TokenLists(_) => unreachable!("check leaves one prompt"),
    };
    let place = app.admit()?;
    let generate = GenerateRequest {
        model: request.model.clone(),
        prompt,
        sampler: answer::sampler(&request.sampling, request.logprobs),
        max_tokens: Some(request.sampling.tokens_max().unwrap_or(TOKENS_DEFAULT)),
        stop: request.sampling.stops(),
        prefill_chunk: None,
        deadline: None,
    };
    let identity =
        Identity { id: format!("cmpl-{}", id.0), created: unix_s(), model: request.model };
    let running = Running::start(&app.node, place, generate).await?;
    let logprobs = request.logprobs.is_some();
    let offset = echo.as_ref().map_or(0, String::len);
    let mut wording = CompletionWording {
        identity,
        logprobs,
        usage: request.sampling.usage_wanted(),
        echo,
        offset,
    };
    if request.sampling.streams() {
        return Ok(stream_events(running, wording));
    }
    let completion = collect(running, &mut wording).await?;
    Ok(Json(completion).into_response())
}

async fn collect(
    mut running: Running,
    wording: &mut CompletionWording,
) -> Result<Completion, ApiError> {
    let mut text = wording.echo.take().unwrap_or_default();
    let mut all = CompletionLogprobs::default();
    loop {
        for heard in running.next().await? {
            match heard {
                Heard::Piece(piece) => {
                    text.push_str(&piece.text);
                    if let Some(token) = piece.token {
                        all.push(token, &mut wording.offset);
                    }
                }
                Heard::End(end) => {
                    let logprobs = wording.logprobs.then_some(all);
                    let usage = Usage::new(end.prompt_tokens, end.completion_tokens);
                    let choice = choice(text, logprobs, Some(end.reason));
                    return Ok(wording.completion(vec![choice], Some(usage)));
                }
            }
        }
    }
}

struct CompletionWording {
    identity: Identity,
    logprobs: bool,
    usage: bool,
    /// The prompt, if it is to be repeated.
    echo: Option<String>,
    /// Bytes of text before the next token.
    offset: usize,
}

impl CompletionWording {
    fn completion(&self, choices: Vec<CompletionChoice>, usage: Option<Usage>) -> Completion {
        Completion {
            id: self.identity.id.clone(),
            object: "text_completion",
            created: self.identity.created,
            model: self.identity.model.clone(),
            system_fingerprint: answer::fingerprint(),
            choices,
            usage,
        }
    }

    fn event(&self, choices: Vec<CompletionChoice>, usage: Option<Usage>) -> String {
        let event = self.completion(choices, usage);
        serde_json::to_string(&event).expect("our own structs serialize")
    }
}

impl Wording for CompletionWording {
    fn first(&mut self) -> Vec<String> {
        let echo = self.echo.take();
        echo.map(|text| self.event(vec![choice(text, None, None)], None)).into_iter().collect()
    }

    fn word(&mut self, heard: Heard) -> Vec<String> {
        match heard {
            Heard::Piece(piece) => {
                let logprobs = piece.token.filter(|_| self.logprobs).map(|token| {
                    let mut one = CompletionLogprobs::default();
                    one.push(token, &mut self.offset);
                    one
                });
                if piece.text.is_empty() && logprobs.is_none() {
                    return Vec::new();
                }
                vec![self.event(vec![choice(piece.text, logprobs, None)], None)]
            }
            Heard::End(end) => {
                let last = choice(String::new(), None, Some(end.reason));
                let mut events = vec![self.event(vec![last], None)];
                if self.usage {
                    let usage = Usage::new(end.prompt_tokens, end.completion_tokens);
                    events.push(self.event(Vec::new(), Some(usage)));
                }
                events.push("[DONE]".to_owned());
                events
            }
        }
    }
}

impl CompletionLogprobs {
    fn push(&mut self, token: Token, offset: &mut usize) {
        self.text_offset.push(*offset);
        *offset += token.text.len();
        self.token_logprobs.push(token.logprob);
        let top = token.top.into_iter().map(|(text, logprob)| (text, logprob.into()));
        self.top_logprobs.push(top.collect());
        self.tokens.push(token.text);
    }
}

fn choice(
    text: String,
    logprobs: Option<CompletionLogprobs>,
    finish_reason: Option<FinishReason>,
) -> CompletionChoice {
    CompletionChoice { text, index: 0, logprobs, finish_reason }
}
