//! What one call of `Node::handle` collects.

use std::ops::Range;

use crate::ids::{JobId, NodeId, RequestId, Time};
use crate::io::{Event, HopTime, Output};
use crate::message::Message;
use crate::planted::Planted;

/// The time of the call and the outputs so far, in order.
#[derive(Debug)]
pub(crate) struct Effects {
    pub(crate) now: Time,
    pub(crate) outputs: Vec<Output>,
    /// Chunks of prompts that have passed every stage, for plans to be watched by.
    pub(crate) passed: Vec<Passed>,
    pub(crate) planted: Planted,
}

/// What a chunk of a prompt took.
#[derive(Debug)]
pub(crate) struct Passed {
    pub(crate) request: RequestId,
    pub(crate) positions: Range<u32>,
    pub(crate) hops: Vec<HopTime>,
}

impl Effects {
    pub(crate) const fn new(now: Time, planted: Planted) -> Self {
        Self { now, outputs: Vec::new(), passed: Vec::new(), planted }
    }

    pub(crate) fn push(&mut self, output: Output) {
        self.outputs.push(output);
    }

    pub(crate) fn send(&mut self, to: NodeId, message: Message) {
        tracing::trace!(%to, kind = message.kind(), "send");
        self.outputs.push(Output::Send { to, message });
    }

    pub(crate) fn emit(&mut self, event: Event) {
        self.outputs.push(Output::Emit(event));
    }
}

/// Hands out job ids: unique for the life of a node, so that a late result meets nobody.
#[derive(Debug, Default)]
pub(crate) struct JobIds(u64);

impl JobIds {
    pub(crate) const fn fresh(&mut self) -> JobId {
        self.0 += 1;
        JobId(self.0)
    }
}
