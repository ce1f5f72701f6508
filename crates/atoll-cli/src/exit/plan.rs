//! What an error of the planner means to a user.

use atoll_plan::PlanError;

use super::{Exit, Failure};
use crate::output::bytes_text;

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        let text = error.to_string();
        let wrong = |what: &str| Self::usage(what).because(&text);
        let no_plan = Self::new(Exit::NoPlan, "the model cannot be placed").because(&text);
        match error {
            PlanError::NoNodes => wrong("the fleet is empty").hint("add a [[node]]"),
            PlanError::TooManyNodes { .. } => wrong("the fleet is too large")
                .hint("plan for a part of it: leave out the slowest, or one site at a time"),
            PlanError::DuplicateName { .. } => {
                wrong("a name is there twice").hint("rename one of them, or give one entry a count")
            }
            PlanError::UnknownNode { .. } | PlanError::UnknownZone { .. } => {
                wrong("a name is unknown").hint("names are those of [[node]]; with count, name-1 …")
            }
            PlanError::SelfLink { .. } => {
                wrong("a link ends where it begins").hint("remove it: a hop inside a node is free")
            }
            PlanError::Absurd { .. } => {
                wrong("a figure cannot be").hint("seconds and bytes per second, above 0")
            }
            PlanError::PinnedLayers { .. }
            | PlanError::PinExcluded { .. }
            | PlanError::PinsConflict { .. } => {
                wrong("the pins cannot be kept").hint("leave one of them out")
            }
            PlanError::OwnerTooSmall { needed_bytes, memory_bytes, .. } => no_plan.hint(format!(
                "{} more memory there, or another origin",
                bytes_text(needed_bytes - memory_bytes)
            )),
            PlanError::NoRoom { needed_bytes, memory_bytes } => no_plan.hint(format!(
                "{} more memory in all, a lighter variant (--loss), or a shorter --ctx",
                bytes_text(needed_bytes - memory_bytes)
            )),
            PlanError::NoOrder => {
                no_plan.hint("name the missing [[link]]s, or leave out pins and --without")
            }
        }
    }
}
