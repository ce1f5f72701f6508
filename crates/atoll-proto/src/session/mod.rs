//! Sessions: one sequence being generated, around a ring of stages.

pub(crate) mod active;
pub(crate) mod origin;
pub(crate) mod output_log;
pub(crate) mod stage;
pub(crate) mod stages;
