//! Real nodes in one process on 127.0.0.1: they meet through Kademlia, multicast stays off.

#![expect(clippy::unwrap_used, reason = "tests")]

mod answers;
mod blobs;
mod fleet;
mod identity;
mod lighter;
