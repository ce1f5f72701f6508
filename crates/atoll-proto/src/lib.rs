//! Membership, planning and pipelined sessions as one deterministic state machine, and its codec.
//!
//! [`Node`] takes an [`Input`] and the time and returns [`Output`]s to carry out. It never touches
//! a socket, a clock, a random number or a tensor: the libp2p node and the simulator drive the
//! same code. Read [`Node`] and [`io`] first.

mod assignment;
pub mod codec;
mod deployment;
mod effects;
pub mod ids;
pub mod io;
pub mod limits;
mod membership;
pub mod message;
pub mod node;
pub mod plan;
pub mod planner;
pub mod planted;
mod session;
pub mod snapshot;

pub use ids::{Epoch, JobId, ModelId, NodeId, PlanEpoch, RequestId, SessionId, Time};
pub use io::{Command, Computed, Event, Input, Job, Output, Request, RequestError};
pub use limits::Limits;
pub use message::Message;
pub use node::{Node, NodeConfig};
pub use snapshot::Snapshot;
