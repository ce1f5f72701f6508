//! Which layers of a model on which nodes, in which order: a cost model and a search.
//!
//! A pure function in integers: nanoseconds, bytes, and losses in millionths of a nat. It never
//! reads a file, a clock or a random number, so every machine plans alike. Read [`Query`], what is
//! asked, and [`cost::predict`], what a [`Placement`] costs; [`plan`] finds the cheapest.
//!
//! ```
//! use atoll_plan::{Fleet, Link, Model, Node, Policy, Query, plan};
//!
//! let node = |name: &str| Node { layer_ns: 900_000, ..Node::new(name, 2 << 30) };
//! let mut fleet = Fleet::new(vec![node("desk"), node("pi")], 0)?;
//! let lan = Link { latency_ns: 400_000, bytes_per_s: 110_000_000 };
//! fleet.connect(0, 1, lan)?;
//! fleet.connect(1, 0, lan)?;
//! let model = Model::uniform("small", 24, 60 << 20, 3_584);
//! let found = plan(&Query { fleet: &fleet, model: &model, policy: &Policy::default() })?;
//! // Two nodes would not be faster than one: the model fits the desk.
//! assert_eq!(found.placement.stages.len(), 1);
//! # Ok::<(), atoll_plan::PlanError>(())
//! ```

mod bound;
pub mod conflict;
pub mod cost;
mod error;
mod exact;
pub mod explain;
pub mod file;
pub mod fleet;
mod labels;
mod mix;
pub mod model;
mod order;
pub mod placement;
mod polish;
mod prices;
mod query;
pub mod ribbon;
pub mod rings;
mod search;
mod tables;
mod throughput;

pub use cost::Prediction;
pub use error::PlanError;
pub use file::{Defaults, FleetFile, LinkEntry, NodeEntry};
pub use fleet::{Fleet, Link, Node};
pub use model::{Codec, Layer, Model, Variant};
pub use placement::{Placement, Stage};
pub use query::{Objective, Pin, Policy, Query, STAGES_MAX};
pub use search::{Found, plan};
