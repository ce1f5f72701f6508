//! The network shell: one swarm task, one link per peer, one protocol for blobs.

pub(crate) mod address;
pub(crate) mod behaviour;
pub(crate) mod blob_client;
pub(crate) mod blob_server;
pub(crate) mod blob_wire;
mod book;
pub(crate) mod hello;
mod links;
pub(crate) mod start;
pub(crate) mod swarm;
pub(crate) use links::{LINK_PROTOCOL, Links, Upward};
