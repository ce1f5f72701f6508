//! Real nodes in one process on 127.0.0.1: they meet through Kademlia, multicast stays off.

#![allow(
    clippy::wildcard_enum_match_arm,
    clippy::single_match,
    clippy::single_match_else,
    clippy::wrong_self_convention,
    reason = "a test names the one event that it waits for"
)]
#![expect(clippy::unwrap_used, reason = "tests")]
#![expect(clippy::wildcard_enum_match_arm, reason = "tests wait for one event among many")]

mod answers;
mod blobs;
mod fleet;
mod identity;
mod strangers;
