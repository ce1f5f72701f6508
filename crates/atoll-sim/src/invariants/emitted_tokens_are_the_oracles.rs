//! I1: every token that is emitted is the one that a single undisturbed machine would emit.

use atoll_proto::Event;

use super::{Invariant, Seen};
use crate::hash_model::oracle_of;
use crate::schedule::Schedule;

pub(super) struct Claim {
    /// By request.
    expected: Vec<Vec<u32>>,
}

impl Claim {
    pub(super) fn new(schedule: &Schedule) -> Self {
        let layers = schedule.model.layers;
        let tokens = |asked: &crate::schedule::Asked| {
            oracle_of(layers, &asked.prompt, asked.max_tokens as usize)
        };
        Self { expected: schedule.requests.iter().map(tokens).collect() }
    }
}

impl Invariant for Claim {
    fn name(&self) -> &'static str {
        "emitted_tokens_are_the_oracles"
    }

    fn see(&mut self, _: u64, seen: &Seen<'_>) -> Option<String> {
        let Seen::Told { event: Event::Token { request, index, token, .. }, .. } = seen else {
            return None;
        };
        let tokens = self.expected.get(usize::try_from(request.0).ok()?);
        let expected = tokens.and_then(|tokens| tokens.get(*index as usize));
        (expected != Some(token))
            .then(|| format!("request {}: token {index} is {token}, not {expected:?}", request.0))
    }
}
