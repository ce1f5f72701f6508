//! The model that every run serves, and how.

use atoll_proto::plan::{ModelInfo, PlanPolicy};

use super::MODEL;
use crate::device::{ENDS_BYTES, KV_BYTES};
use crate::hash_model::LAYERS;
use crate::schedule::{LAYER_BYTES, Placement};

/// How the schedule wants the model placed.
pub(crate) fn policy(placement: &Placement) -> PlanPolicy {
    PlanPolicy {
        stages: Some(placement.stages),
        context: 512,
        sessions: placement.sessions,
        spares: placement.spares,
        wait_us: 5_000_000,
    }
}

/// The hash model, as a plan sees it.
pub(crate) fn model() -> ModelInfo {
    ModelInfo {
        id: MODEL,
        name: "hash".into(),
        layer_bytes: vec![LAYER_BYTES; usize::from(LAYERS)],
        embed_bytes: ENDS_BYTES / 2,
        head_bytes: ENDS_BYTES / 2,
        kv_bytes_per_position: KV_BYTES,
        row_values: 1,
        context_max: 512,
    }
}
