//! `/v1/models`.

use serde::Serialize;

/// One model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Model {
    pub(crate) id: String,
    pub(crate) object: &'static str,
    pub(crate) created: u64,
    pub(crate) owned_by: &'static str,
}

/// All of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ModelList {
    pub(crate) object: &'static str,
    pub(crate) data: Vec<Model>,
}

impl Model {
    pub(crate) fn new(id: String, created: u64) -> Self {
        Self { id, object: "model", created, owned_by: "atoll" }
    }
}
