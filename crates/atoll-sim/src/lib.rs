//! Many [`Node`]s on a seeded discrete-event network, with a hash in place of a model.
//!
//! No clock, no thread, no socket: the same schedule gives the same events. A seed expands to a
//! [`Schedule`], which is data; [`run`] plays it and holds every event against the invariants, one
//! file each in `invariants/`. A [`Scenario`] is a file that says more of devices and links and
//! what is expected, and expands to one, too. Read [`Schedule`] and [`run`] first.
//!
//! ```
//! let report = atoll_sim::run(&atoll_sim::Schedule::joins_and_leaves(7, 12));
//! assert!(report.violations.is_empty());
//! ```

pub mod calibration;
mod chaos;
mod city;
pub mod cost;
mod detection;
mod device;
pub mod explain;
mod hash_model;
mod invariants;
mod network;
mod queue;
mod random;
mod regression;
mod report;
pub mod scenario;
pub mod schedule;
mod shrink;
mod study;
pub mod swarm;
mod wifi;
mod world;

pub use atoll_proto::{self as proto, planted};
pub use detection::{Detection, Times};
pub use hash_model::oracle;
pub use invariants::{Invariant, Seen};
pub use random::Random;
pub use regression::Regression;
pub use report::{Answer, Report, Sum};
pub use scenario::Scenario;
pub use schedule::Schedule;
pub use shrink::shrink;
pub use study::Study;
pub use swarm::Swarm;
pub use wifi::Wifi;
pub use world::{Hands, run, run_long, run_planted};

#[cfg(doc)]
use atoll_proto::Node;
