//! How a node is started.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Settings of one node. Every field has a default but the data directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeOptions {
    /// Where identity, blobs and manifests live. Created if missing.
    pub data_dir: PathBuf,
    /// The name that peers see, at most 64 bytes. Default: `node-` and the id's first digits.
    #[serde(default)]
    pub name: Option<String>,
    /// Multiaddresses to listen on. Default: TCP and QUIC on a free port of 127.0.0.1.
    #[serde(default = "default_listen")]
    pub listen: Vec<String>,
    /// Multiaddresses of members to meet first, with or without `/p2p/…`. Default: none.
    #[serde(default)]
    pub bootstrap: Vec<String>,
    /// Announce and look for members by multicast on the local network. Default: off.
    #[serde(default)]
    pub mdns: bool,
    /// Memory that models may take, in bytes. Default: what the system and its control group
    /// have free at the start.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// Threads that compute. Default: 1.
    #[serde(default = "default_threads")]
    pub threads: usize,
    /// Kernel set by name (`generic`, `avx2`, …). Default: the best that this processor has.
    #[serde(default)]
    pub kernels: Option<String>,
}

impl NodeOptions {
    /// The defaults, on loopback, with this data directory.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            name: None,
            listen: default_listen(),
            bootstrap: Vec::new(),
            mdns: false,
            memory_bytes: None,
            threads: default_threads(),
            kernels: None,
        }
    }
}

fn default_listen() -> Vec<String> {
    vec!["/ip4/127.0.0.1/tcp/0".to_owned(), "/ip4/127.0.0.1/udp/0/quic-v1".to_owned()]
}

const fn default_threads() -> usize {
    1
}
