//! Generating: what is asked, and the stream of what comes back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_model::{ChatMessage, SamplerConfig, StopMatcher, TokenStream};
use atoll_proto::io::{FinishReason, HopTime, RequestError};
use atoll_proto::{Command, Event, Input, RequestId};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::core::Core;
use crate::error::NodeError;
use crate::events::{Names, StageView};
use crate::rounds::Round;
use crate::served::Served;

/// A sequence to generate, as text.
#[derive(Clone, Debug)]
pub struct GenerateRequest {
    /// A served model's name or id.
    pub model: String,
    /// What goes before.
    pub prompt: Prompt,
    /// How tokens are chosen.
    pub sampler: SamplerConfig,
    /// Tokens to generate at most. Default: to the end of the context.
    pub max_tokens: Option<u32>,
    /// Strings that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// Prompt tokens per prefill step. Default: 128.
    pub prefill_chunk: Option<u32>,
    /// The request ends with an error after this long. Default: an hour.
    pub deadline: Option<Duration>,
}

impl GenerateRequest {
    /// A request with every other field at its default.
    #[must_use]
    pub fn new(model: impl Into<String>, prompt: Prompt) -> Self {
        Self {
            model: model.into(),
            prompt,
            sampler: SamplerConfig::default(),
            max_tokens: None,
            stop: Vec::new(),
            prefill_chunk: None,
            deadline: None,
        }
    }
}

/// What goes before the answer.
#[derive(Clone, Debug)]
pub enum Prompt {
    /// Text as it stands; special tokens are added as the model wants them.
    Text(String),
    /// Messages, put into words by the model's chat template.
    Chat(Vec<ChatMessage>),
    /// Token ids as they stand.
    Tokens(Vec<u32>),
}

/// A token that could have been.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TopToken {
    /// Its id.
    pub id: u32,
    /// Its text.
    pub text: String,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// One node's share of a token's way around the ring, by that node's own clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HopView {
    /// The node's name.
    pub node: String,
    /// Time spent computing, µs.
    pub compute_us: u64,
    /// From the frame's arrival to its output's departure, computing included, µs.
    pub held_us: u64,
}

/// What a stream tells, in this order.
#[derive(Debug)]
pub enum GenerateEvent {
    /// The request is under way.
    Started {
        /// The prompt as the model sees it.
        prompt_tokens: Vec<u32>,
        /// Who holds what.
        stages: Vec<StageView>,
    },
    /// Prompt positions that the whole ring has taken in.
    Prefilled {
        /// Positions done.
        done: u32,
        /// Positions in the prompt.
        total: u32,
    },
    /// A token.
    Token {
        /// Its id.
        id: u32,
        /// What became certain of the text; may be empty.
        text: String,
        /// The token alone.
        piece: String,
        /// Natural logarithm of its probability, if asked for.
        logprob: Option<f32>,
        /// The best tokens, if asked for.
        top: Vec<TopToken>,
        /// What each node took, in ring order.
        hops: Vec<HopView>,
        /// What its whole way took.
        round: Round,
    },
    /// No more follow.
    Done {
        /// Why.
        reason: FinishReason,
        /// Text that was held back for stop strings.
        text: String,
        /// Tokens in the prompt.
        prompt_tokens: u32,
        /// Tokens generated.
        completion_tokens: u32,
        /// From the request to the first token.
        ttft_s: f64,
        /// Tokens after the first, per second.
        decode_tokens_per_s: f64,
    },
    /// The answer ends early; what was told stays valid.
    Failed(NodeError),
}

/// What the head reports of a token, as JSON inside the core's opaque `detail`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TokenReport {
    pub(crate) logprob: Option<f32>,
    pub(crate) top: Vec<(u32, f32)>,
}

/// The events of one request. Dropping it cancels the request at every stage.
pub struct GenerateStream {
    core: Arc<Core>,
    request: RequestId,
    incoming: UnboundedReceiver<Event>,
    ready: VecDeque<GenerateEvent>,
    served: Arc<Served>,
    text: TokenStream,
    stops: StopMatcher,
    prompt_tokens: u32,
    completion_tokens: u32,
    began: Instant,
    first: Option<Instant>,
    latest: Option<Instant>,
    ended: bool,
}

impl std::fmt::Debug for GenerateStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GenerateStream").field("request", &self.request).finish_non_exhaustive()
    }
}

/// What [`GenerateStream::new`] needs.
pub(crate) struct Begin {
    pub(crate) core: Arc<Core>,
    pub(crate) request: RequestId,
    pub(crate) incoming: UnboundedReceiver<Event>,
    pub(crate) served: Arc<Served>,
    pub(crate) stop: Vec<String>,
    pub(crate) prompt_tokens: Vec<u32>,
    pub(crate) stages: Vec<StageView>,
}

impl GenerateStream {
    pub(crate) fn new(begin: Begin) -> Self {
        let prompt_tokens = u32::try_from(begin.prompt_tokens.len()).unwrap_or(u32::MAX);
        let started =
            GenerateEvent::Started { prompt_tokens: begin.prompt_tokens, stages: begin.stages };
        Self {
            core: begin.core,
            request: begin.request,
            incoming: begin.incoming,
            ready: VecDeque::from([started]),
            text: begin.served.tokenizer.stream(),
            served: begin.served,
            stops: StopMatcher::new(&begin.stop),
            prompt_tokens,
            completion_tokens: 0,
            began: Instant::now(),
            first: None,
            latest: None,
            ended: false,
        }
    }

    /// The next event; none after `Done` or `Failed`.
    pub async fn next(&mut self) -> Option<GenerateEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            match self.incoming.recv().await {
                Some(event) => self.take_in(event),
                None => self.end(GenerateEvent::Failed(NodeError::Stopped)),
            }
        }
    }

    fn take_in(&mut self, event: Event) {
        match event {
            Event::Prefilled { done, total, .. } => {
                self.ready.push_back(GenerateEvent::Prefilled { done, total });
            }
            Event::Token { token, detail, hops, round_us, .. } => {
                self.token(token, &detail, &hops, round_us);
            }
            Event::Parked { request } => {
                tracing::warn!(request = request.0, "a stage is gone, waiting for another");
            }
            Event::Finished { reason, .. } => {
                let text = std::mem::replace(&mut self.text, self.served.tokenizer.stream());
                let passed = self.stops.push(&text.finish());
                let stops = std::mem::replace(&mut self.stops, StopMatcher::new(&[]));
                let rest = if passed.stopped_by.is_some() { String::new() } else { stops.finish() };
                self.finish(reason, passed.text + &rest);
            }
            Event::Failed { error, .. } => {
                self.end(GenerateEvent::Failed(NodeError::Request(error)));
            }
            Event::PeerJoined { .. }
            | Event::PeerSuspected { .. }
            | Event::PeerLeft { .. }
            | Event::PlanProgress { .. }
            | Event::PlanReady { .. }
            | Event::PlanFailed { .. } => {}
        }
    }

    fn token(&mut self, id: u32, detail: &[u8], hops: &[HopTime], round_us: u64) {
        let now = Instant::now();
        self.first.get_or_insert(now);
        // The token that ends the answer is no part of it, in this process alone or in a ring.
        if self.served.tokenizer.is_end(id) {
            return;
        }
        self.latest = Some(now);
        self.completion_tokens += 1;
        let report: Option<TokenReport> = serde_json::from_slice(detail).ok();
        let (logprob, top) =
            report.map_or((None, Vec::new()), |report| (report.logprob, report.top));
        let piece =
            |id| String::from_utf8_lossy(&self.served.tokenizer.token_bytes(id)).into_owned();
        let top = top.into_iter().map(|(id, logprob)| TopToken { id, text: piece(id), logprob });
        let (top, piece) = (top.collect(), piece(id));
        let round = Round::new(hops, round_us);
        // The first token's round carried the prompt.
        if self.completion_tokens > 1 {
            self.core.note_round(round);
        }
        let passed = self.stops.push(&self.text.push(id));
        self.ready.push_back(GenerateEvent::Token {
            id,
            text: passed.text,
            piece,
            logprob,
            top,
            hops: hop_views(hops, &self.core.names()),
            round,
        });
        if passed.stopped_by.is_some() {
            self.cancel();
            self.finish(FinishReason::Stop, String::new());
        }
    }

    fn finish(&mut self, reason: FinishReason, text: String) {
        let seconds = |from: Instant, to: Option<Instant>| {
            to.map_or(0.0, |to| to.saturating_duration_since(from).as_secs_f64())
        };
        let decode_s = self.first.map_or(0.0, |first| seconds(first, self.latest));
        let more = f64::from(self.completion_tokens.saturating_sub(1));
        self.end(GenerateEvent::Done {
            reason,
            text,
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.completion_tokens,
            ttft_s: seconds(self.began, self.first),
            decode_tokens_per_s: if decode_s > 0.0 { more / decode_s } else { 0.0 },
        });
    }

    fn end(&mut self, event: GenerateEvent) {
        self.ended = true;
        self.ready.push_back(event);
    }

    fn cancel(&self) {
        self.core.input(Input::Command(Command::Cancel { request: self.request }));
        self.core.stop_listening_to(self.request);
    }
}

impl Drop for GenerateStream {
    fn drop(&mut self) {
        if !self.ended {
            self.cancel();
        }
    }
}

/// Hops with names.
fn hop_views(hops: &[HopTime], names: &Names) -> Vec<HopView> {
    hops.iter()
        .map(|hop| HopView {
            node: names.of(hop.node),
            compute_us: hop.compute_us.into(),
            held_us: hop.held_us.into(),
        })
        .collect()
}

/// What can be said of a request before it is sent: an error that no ring is needed for.
pub(crate) fn check(prompt: &[u32], context: u32) -> Result<(), NodeError> {
    let len = u32::try_from(prompt.len()).unwrap_or(u32::MAX);
    if len == 0 {
        return Err(RequestError::EmptyPrompt.into());
    }
    if len >= context {
        return Err(RequestError::PromptTooLong { prompt: len, context }.into());
    }
    Ok(())
}
