//! What a node's error means to a user.

use atoll_node::{NodeError, PlanError, RequestError};

use super::{Exit, Failure};

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        let text = error.to_string();
        match error {
            NodeError::Io { path, source, .. } => Self::io("use", &path, &source),
            NodeError::DiskFull { .. } => Self::new(Exit::Failure, "the disk is full")
                .because(text)
                .hint("free some space, or choose another disk with --data-dir"),
            NodeError::DataDirInUse { .. } => Self::new(Exit::Failure, "cannot start the node")
                .because(text)
                .hint("atoll status shows it; a second node needs its own --data-dir"),
            NodeError::IdentityInUse { .. } => {
                Self::new(Exit::TrustRefused, "cannot join").because(text)
            }
            NodeError::Listen { .. } => Self::new(Exit::Failure, "cannot start the node")
                .because(text)
                .hint("another --listen address; port 0 takes any free one"),
            NodeError::Address { .. } => Self::usage("cannot read an address")
                .because(text)
                .hint("/ip4/192.168.1.12/tcp/7400 is one"),
            NodeError::CorruptBlob(_) => Self::new(Exit::Integrity, "the store is damaged")
                .because(text)
                .hint("delete the blobs folder of the data directory; it is filled again"),
            NodeError::UnknownModel(_) => {
                Self::new(Exit::NotFound, "the model is not here").because(text)
            }
            NodeError::Model(error) => error.into(),
            NodeError::Plan(error) => error.into(),
            NodeError::Lighter { loss_nats, .. } => {
                // What is named must be enough.
                let enough = (loss_nats * 1e4).ceil() / 1e4;
                Self::new(Exit::NoPlan, "the model cannot be placed whole").because(text).hint(
                    format!(
                        "--max-loss {enough}, another node (atoll up --join), or a shorter --ctx"
                    ),
                )
            }
            NodeError::Request(error) => error.into(),
            NodeError::IdentityDamaged { .. }
            | NodeError::Network(_)
            | NodeError::MissingBlob(_)
            | NodeError::Manifest { .. }
            | NodeError::Fetch { .. }
            | NodeError::Stopped => Self::new(Exit::Failure, "the node failed").because(text),
        }
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        let text = error.to_string();
        let failure = Self::new(Exit::NoPlan, "the model cannot be placed").because(text);
        match error {
            PlanError::NoRoom { .. } => {
                failure.hint("another node (atoll up --join), a smaller model, or a shorter --ctx")
            }
            PlanError::TooFewNodes { .. } => {
                failure.hint("atoll up on another machine, or fewer --stages")
            }
            PlanError::TooFewLayers { .. } => failure.hint("fewer --stages"),
            PlanError::Prepare { .. } | PlanError::NodeLost { .. } => failure,
        }
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        let text = error.to_string();
        match error {
            RequestError::PromptTooLong { .. } => Self::usage("the prompt is too long")
                .because(text)
                .hint("a shorter prompt, or a larger --ctx if the model allows it"),
            RequestError::EmptyPrompt => Self::usage("the prompt is empty").because(text),
            RequestError::UnknownModel(_) => {
                Self::new(Exit::NotFound, "the model is not here").because(text)
            }
            RequestError::NoPlan(error) => error.into(),
            RequestError::DeadlineExceeded { .. } => {
                Self::new(Exit::Timeout, "no answer in time").because(text)
            }
            RequestError::NodeLost { .. } => {
                Self::new(Exit::Unreachable, "a node was lost").because(text)
            }
            RequestError::StageFailed { .. }
            | RequestError::Duplicate
            | RequestError::TooMany(_)
            | RequestError::Cancelled => {
                Self::new(Exit::Failure, "the request failed").because(text)
            }
        }
    }
}
