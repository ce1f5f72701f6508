//! Sessions: one sequence being generated, around a ring of stages.

pub(crate) mod active;
pub(crate) mod boundary;
pub(crate) mod origin;
mod queue;
mod ring;
pub(crate) mod stage;
pub(crate) mod stages;
mod step;
