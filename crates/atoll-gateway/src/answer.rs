//! One answer under way: its stream of events, and how it reaches the client.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use atoll_node::{
    FinishReason as NodeReason, GenerateEvent, GenerateRequest, GenerateStream, NodeHandle,
    SamplerConfig,
};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;
use tokio::sync::OwnedSemaphorePermit;

use crate::error::{ApiError, refused};
use crate::openai::chat::FinishReason;
use crate::openai::sampling::SamplingFields;

/// A comment goes over a silent stream this often, so that nothing between takes it for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What stands in every chunk of one answer.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// `chatcmpl-…` or `cmpl-…`.
    pub(crate) id: String,
    /// Seconds since 1970.
    pub(crate) created: u64,
    /// As the client named it.
    pub(crate) model: String,
}

/// A running generation; dropping it cancels it at every stage and frees its place.
#[derive(Debug)]
pub(crate) struct Running {
    events: GenerateStream,
    model: String,
    _place: OwnedSemaphorePermit,
}

/// The end of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) reason: FinishReason,
    pub(crate) prompt_tokens: u32,
    pub(crate) completion_tokens: u32,
}

/// What a client hears of.
#[derive(Clone, Debug)]
pub(crate) enum Heard {
    /// New text, perhaps none yet, for one token.
    Piece(Piece),
    /// No more.
    End(End),
}

/// New text, and what is known of the token behind it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Piece {
    pub(crate) text: String,
    pub(crate) token: Option<Token>,
}

/// One token with its log-probability and its alternatives.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) logprob: f32,
    pub(crate) top: Vec<(String, f32)>,
}

impl Running {
    /// Starts a generation on the node.
    pub(crate) async fn start(
        node: &NodeHandle,
        place: OwnedSemaphorePermit,
        request: GenerateRequest,
    ) -> Result<Self, ApiError> {
        let model = request.model.clone();
        let events = node.generate(request).await.map_err(|error| refused(&error, &model))?;
        Ok(Self { events, model, _place: place })
    }

    /// The next thing to tell; never again after [`Heard::End`] or an error.
    pub(crate) async fn next(&mut self) -> Result<Vec<Heard>, ApiError> {
        loop {
            match self.events.next().await {
                Some(GenerateEvent::Started { .. } | GenerateEvent::Prefilled { .. }) => {}
                Some(GenerateEvent::Token { text, piece, logprob, top, .. }) => {
                    let top = top.into_iter().map(|top| (top.text, top.logprob)).collect();
                    let token = logprob.map(|logprob| Token { text: piece, logprob, top });
                    return Ok(vec![Heard::Piece(Piece { text, token })]);
                }
                Some(GenerateEvent::Done {
                    reason,
                    text,
                    prompt_tokens,
                    completion_tokens,
                    ..
                }) => {
                    let reason = match reason {
                        NodeReason::Stop => FinishReason::Stop,
                        NodeReason::Length => FinishReason::Length,
                    };
                    let end = Heard::End(End { reason, prompt_tokens, completion_tokens });
                    let rest = Heard::Piece(Piece { text, token: None });
                    return Ok(vec![rest, end]);
                }
                Some(GenerateEvent::Failed(error)) => return Err(refused(&error, &self.model)),
                None => return Err(refused(&atoll_node::NodeError::Stopped, &self.model)),
            }
        }
    }
}

/// How one interface words what is heard: as the data of server-sent events.
pub(crate) trait Wording: Send + 'static {
    /// Before anything was heard.
    fn first(&mut self) -> Vec<String>;
    /// For each thing heard.
    fn word(&mut self, heard: Heard) -> Vec<String>;
}

/// Streams an answer as server-sent events. An error becomes an event of its own: a stream that
/// is merely cut tells the client nothing.
pub(crate) fn stream_events(running: Running, mut wording: impl Wording) -> Response {
    let ready: VecDeque<String> = wording.first().into();
    let begin = (Some(running), wording, ready);
    let events = stream::unfold(begin, |(mut running, mut wording, mut ready)| async move {
        while ready.is_empty() {
            // Nothing is left once the generation is gone.
            let heard = running.as_mut()?.next().await;
            match heard {
                Ok(all) => {
                    if all.iter().any(|heard| matches!(heard, Heard::End(_))) {
                        running = None;
                    }
                    ready.extend(all.into_iter().flat_map(|heard| wording.word(heard)));
                }
                Err(error) => {
                    ready.push_back(error.to_json());
                    running = None;
                }
            }
        }
        let data = ready.pop_front()?;
        Some((Ok::<_, Infallible>(Event::default().data(data)), (running, wording, ready)))
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

/// Sampling as the request asks for it, on top of the defaults.
pub(crate) fn sampler(fields: &SamplingFields, logprobs: Option<u8>) -> SamplerConfig {
    let default = SamplerConfig::default();
    SamplerConfig {
        temperature: fields.temperature.unwrap_or(default.temperature),
        top_k: fields.top_k.unwrap_or(default.top_k),
        top_p: fields.top_p.unwrap_or(default.top_p),
        min_p: fields.min_p.unwrap_or(default.min_p),
        repetition_penalty: fields.repetition_penalty.unwrap_or(default.repetition_penalty),
        presence_penalty: fields.presence_penalty.unwrap_or(default.presence_penalty),
        frequency_penalty: fields.frequency_penalty.unwrap_or(default.frequency_penalty),
        // Two answers without a seed should differ; the standard library's hasher is random.
        seed: fields.seed().unwrap_or_else(|| RandomState::new().hash_one(0_u8)),
        // The chosen token's own is reported only with at least one alternative.
        logprobs: logprobs.map_or(0, |n| n.max(1)),
        ..default
    }
}

/// What runs here, for clients that ask whether two answers can be compared.
pub(crate) fn fingerprint() -> String {
    concat!("atoll-", env!("CARGO_PKG_VERSION")).to_owned()
}
