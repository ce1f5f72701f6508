//! Real `atoll` processes in network namespaces, joined by links that can be made bad.
//!
//! `linkd` is one process with a TAP device in each namespace: an Ethernet switch with a seeded
//! [`Wire`] for every ordered pair of hosts (rate, delay, jitter, loss, duplicates, reordering,
//! partition), changed over a Unix socket while it runs. Nothing here leaves the namespaces: they
//! have no other device. Read [`Wire`] and [`Lan`] first.
//!
//! ```
//! let mut wire = atoll_netns::Wire::new(7, 0, 1);
//! wire.link.delay_us = 5_000;
//! assert_eq!(wire.take(0, 1500).first, Some(5_000));
//! ```

pub mod adapt;
mod answer;
pub mod control;
mod echo;
mod emulator;
mod footprint;
pub mod host;
mod http;
mod lan;
mod link;
pub mod linkd;
pub mod measure;
mod measured;
mod mesh;
pub mod predict;
mod quota;
pub mod report;
pub mod rounds;
pub mod soak;
mod switch;

pub use emulator::Emulator;
pub use lan::{Lan, in_namespace};
pub use link::{Arrivals, Link, LinkChange, Wire};
pub use mesh::{Room, Site};
pub use quota::Quota;
pub use switch::Switch;
