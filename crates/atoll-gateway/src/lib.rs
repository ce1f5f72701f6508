//! HTTP in, node commands out: the OpenAI interface of an Atoll node, on loopback.
//!
//! This crate never touches a model: it turns requests into [`atoll_node::GenerateRequest`]s and
//! the events that come back into the shapes that clients read. A client that goes away drops its
//! stream, which ends the session at every stage.
//!
//! Read [`router`] and [`serve`].

mod answer;
mod error;
mod guard;
mod metrics;
mod openai;
mod routes;
mod serve;

pub use routes::{GatewayConfig, router};
pub use serve::serve;
