//! One step of a request: what it is given, how it leaves the request, and what runs meanwhile.

use crate::effects::{Effects, JobIds};
use crate::ids::{JobId, NodeId, Time};
use crate::io::{FinishReason, RequestError};
use crate::limits::Limits;

/// How a step left the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It goes on.
    Running,
    /// It has all its tokens.
    Finished(FinishReason),
    /// It cannot go on.
    Failed(RequestError),
    /// It goes on, and this node should not have its stage any more.
    Suspects(NodeId, String),
    /// It goes on once this node holds its part again.
    Unready(NodeId),
}

/// What every step needs.
pub(crate) struct Tools<'a> {
    pub(crate) fx: &'a mut Effects,
    pub(crate) ids: &'a mut JobIds,
    pub(crate) limits: &'a Limits,
    /// Requests under way at this origin.
    pub(crate) n_active: usize,
}

/// A job at this node.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) id: JobId,
    pub(crate) from_pos: u32,
    pub(crate) rows: u32,
    pub(crate) kind: JobKind,
    pub(crate) started: Time,
}

/// What of a position's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JobKind {
    /// Embedding and this node's own layers, if it has any.
    First,
    /// The head, on a row that came around.
    Head,
}
