//! The model that a run serves, and how.

use atoll_proto::plan::{ModelInfo, PlanPolicy};

use super::MODEL;
use crate::schedule::Schedule;

/// How the schedule wants the model placed.
pub(crate) fn policy(schedule: &Schedule) -> PlanPolicy {
    let placement = &schedule.placement;
    PlanPolicy {
        stages: (placement.stages > 0).then_some(placement.stages),
        context: schedule.model.context,
        sessions: placement.sessions,
        spares: placement.spares,
        wait_us: 5_000_000,
        rule: None,
    }
}

/// What is served, as a plan sees it.
pub(crate) fn model(schedule: &Schedule) -> ModelInfo {
    let model = &schedule.model;
    ModelInfo {
        id: MODEL,
        name: "hash".into(),
        layer_bytes: vec![model.layer_bytes; usize::from(model.layers)],
        embed_bytes: model.embed_bytes,
        head_bytes: model.head_bytes,
        kv_bytes_per_position: model.kv_bytes_per_position,
        row_values: 1,
        context_max: model.context,
    }
}
