//! One `atoll_proto::Node` driven by libp2p, a compute thread and a shard store.
//!
//! This crate joins the tower that decides to the tower that computes. It never takes a decision
//! of the protocol, never speaks HTTP, never reads the environment. It is async only at its
//! shell: the core and the compute thread are plain calls.
//!
//! Read [`NodeHandle`] (the door) and the driver behind it, `core::Core`, first.
//!
//! ```no_run
//! use atoll_node::{GenerateEvent, GenerateRequest, NodeOptions, Prompt, ServePolicy};
//!
//! # async fn run() -> Result<(), atoll_node::NodeError> {
//! let node = atoll_node::start(NodeOptions::new("data")).await?;
//! node.serve("tiny", "tiny.gguf".as_ref(), ServePolicy::default()).await?;
//! let request = GenerateRequest::new("tiny", Prompt::Text("Hello".to_owned()));
//! let mut answer = node.generate(request).await?;
//! while let Some(event) = answer.next().await {
//!     if let GenerateEvent::Token { text, .. } = event {
//!         // … show `text`
//!     }
//! }
//! node.shutdown().await;
//! # Ok(())
//! # }
//! ```

#![allow(
    clippy::wildcard_enum_match_arm,
    clippy::large_enum_variant,
    clippy::cast_possible_truncation,
    clippy::manual_is_multiple_of,
    reason = "events of libp2p are open sets of which few concern a node"
)]

mod core;
mod data_dir;
mod engine;
mod error;
mod events;
mod generate;
mod handle;
mod identity;
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "libp2p's enums are open: what is not named is not for us"
)]
mod net;
mod options;
mod prepare;
mod profile;
mod random;
mod rounds;
mod served;
mod start;
mod status;
pub mod store;

pub use atoll_model::{ChatMessage, SamplerConfig};
pub use atoll_proto::io::{FinishReason, RequestError};
pub use atoll_proto::plan::PlanError;
pub use atoll_proto::planner::{LinkFigures, planned_links};
pub use error::NodeError;
pub use events::{NodeEvent, StageView};
pub use generate::{GenerateEvent, GenerateRequest, GenerateStream, HopView, Prompt, TopToken};
pub use handle::{NodeHandle, ServePolicy, ServedModel};
pub use net::swarm::Search;
pub use options::NodeOptions;
pub use rounds::{RingView, Round, Rounds};
pub use start::start;
pub use status::{
    BlobsView, HeldView, LinkTimingView, ModelView, NodeTimingView, NodeView, PeerView, PlanView,
    STATUS_SCHEMA, Status, TimingView,
};
