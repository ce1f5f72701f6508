//! What one call of `Node::handle` collects.

use crate::ids::{JobId, NodeId, Time};
use crate::io::{Event, Output};
use crate::message::Message;
use crate::planted::Planted;

/// The time of the call and the outputs so far, in order.
#[derive(Debug)]
pub(crate) struct Effects {
    pub(crate) now: Time,
    pub(crate) outputs: Vec<Output>,
    pub(crate) planted: Planted,
}

impl Effects {
    pub(crate) const fn new(now: Time, planted: Planted) -> Self {
        Self { now, outputs: Vec::new(), planted }
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
