//! Many `atoll_proto::Node`s on a seeded discrete-event network.
//!
//! Not built yet: this crate holds the place that `crates/ARCHITECTURE.md` describes, and
//! the program in `simulations/` answers with an error until it is.
