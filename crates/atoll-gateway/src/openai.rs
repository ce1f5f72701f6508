//! The shapes of the OpenAI interface, read and written.

pub(crate) mod chat;
pub(crate) mod completion;
pub(crate) mod models;
pub(crate) mod sampling;
