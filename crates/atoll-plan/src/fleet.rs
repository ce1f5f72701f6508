//! The nodes that could hold layers, and the links between them.

use crate::error::PlanError;

/// Nodes of one fleet: links are kept for every ordered pair, 24 MiB of them for so many.
pub const NODES_MAX: usize = 1024;
/// Longest time that a profile may name, ns: an hour for one layer is no device.
pub const TIME_NS_MAX: u64 = 3_600_000_000_000;

/// A node's profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// For people; no two of a fleet are the same.
    pub name: String,
    /// Bytes free for weights and KV caches.
    pub memory_bytes: u64,
    /// One token through one layer of relative time 1000 with an empty cache, ns.
    pub layer_ns: u64,
    /// What each 1,024 positions in the KV cache add to that, ns.
    pub kv_ns_per_1024: u64,
    /// What each further sequence in the same pass adds to one layer, ns.
    pub batch_layer_ns: u64,
    /// One prompt token of a chunk through one layer of relative time 1000, ns.
    pub prefill_layer_ns: u64,
    /// Taking a frame in and sending it on, once for each frame and stage, ns.
    pub stage_ns: u64,
    /// Embedding of one token, ns.
    pub embed_ns: u64,
    /// Head and sampling of one token, ns.
    pub head_ns: u64,
}

impl Node {
    /// A node of that memory whose times are all 0.
    #[must_use]
    pub fn new(name: &str, memory_bytes: u64) -> Self {
        Self {
            name: name.to_owned(),
            memory_bytes,
            layer_ns: 0,
            kv_ns_per_1024: 0,
            batch_layer_ns: 0,
            prefill_layer_ns: 0,
            stage_ns: 0,
            embed_ns: 0,
            head_ns: 0,
        }
    }

    fn times(&self) -> [(&'static str, u64); 7] {
        [
            ("layer", self.layer_ns),
            ("cache", self.kv_ns_per_1024),
            ("batch", self.batch_layer_ns),
            ("prefill", self.prefill_layer_ns),
            ("stage", self.stage_ns),
            ("embedding", self.embed_ns),
            ("head", self.head_ns),
        ]
    }
}

/// One direction between two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// From the first byte sent to the first byte received, ns.
    pub latency_ns: u64,
    /// Bytes per second, at least 1.
    pub bytes_per_s: u64,
}

impl Link {
    /// How long a frame of `bytes` takes from one end to the other, ns; saturates.
    #[must_use]
    pub fn frame_ns(self, bytes: u64) -> u64 {
        self.latency_ns.saturating_add(self.transfer_ns(bytes))
    }

    /// How long the link is taken by a frame of `bytes`, ns; saturates.
    #[must_use]
    pub fn transfer_ns(self, bytes: u64) -> u64 {
        let ns = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_s.max(1));
        u64::try_from(ns).unwrap_or(u64::MAX).min(TIME_NS_MAX)
    }
}

/// Taking a frame in and sending it on where nobody measured it, ns.
pub const STAGE_NS: u64 = 100_000;

/// What TCP sends at first on a connection that was idle, bytes: ten segments (RFC 6928).
const WINDOW_BYTES: u64 = 10 * 1448;

impl Link {
    /// What a mesh assumes of a link that nobody measured: between a cable and Wi-Fi, 100 Mbit/s.
    pub const UNKNOWN: Self = Self { latency_ns: 500_000, bytes_per_s: 12_500_000 };

    /// How long the link is taken by a frame of `bytes` after it was idle, ns; saturates. What is
    /// under way doubles with each round trip until the link is full, as TCP begins.
    #[must_use]
    pub fn first_transfer_ns(self, bytes: u64) -> u64 {
        let round_ns = self.latency_ns.saturating_mul(2);
        let (mut window, mut left, mut waited_ns) = (WINDOW_BYTES, bytes, 0_u64);
        while left > window && self.transfer_ns(window) < round_ns {
            left -= window;
            window *= 2;
            waited_ns = waited_ns.saturating_add(round_ns);
        }
        waited_ns.saturating_add(self.transfer_ns(left))
    }
}

/// Nodes, the links between them, and which of them owns the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fleet {
    nodes: Vec<Node>,
    /// `(n, n)`, row-major, from the row to the column; `None`: unreachable.
    links: Vec<Option<Link>>,
    owner: usize,
}

impl Fleet {
    /// Nodes without links. The owner holds embedding and head; every token starts and ends there.
    ///
    /// # Errors
    /// [`PlanError`] for no or too many nodes, two of one name, or a time beyond
    /// [`TIME_NS_MAX`].
    pub fn new(nodes: Vec<Node>, owner: usize) -> Result<Self, PlanError> {
        let n = nodes.len();
        if n == 0 {
            return Err(PlanError::NoNodes);
        }
        if n > NODES_MAX {
            return Err(PlanError::TooManyNodes { nodes: n });
        }
        if owner >= n {
            return Err(PlanError::UnknownNode { name: format!("number {owner}") });
        }
        let mut names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(PlanError::DuplicateName { name: pair[0].to_owned() });
        }
        for node in &nodes {
            if let Some((what, ns)) = node.times().into_iter().find(|(_, ns)| *ns > TIME_NS_MAX) {
                return Err(PlanError::Absurd {
                    what: format!("the {what} time of {}", node.name),
                    value: format!("{} s", ns / 1_000_000_000),
                });
            }
        }
        Ok(Self { nodes, links: vec![None; n * n], owner })
    }

    /// Sets the link from one node to another.
    ///
    /// # Errors
    /// [`PlanError`] for a link to itself, a node that is not there, or figures that no link has.
    pub fn connect(&mut self, from: usize, to: usize, link: Link) -> Result<(), PlanError> {
        let n = self.nodes.len();
        if let Some(missing) = [from, to].into_iter().find(|&node| node >= n) {
            return Err(PlanError::UnknownNode { name: format!("number {missing}") });
        }
        if from == to {
            return Err(PlanError::SelfLink { name: self.nodes[from].name.clone() });
        }
        let what = || format!("the link {} to {}", self.nodes[from].name, self.nodes[to].name);
        if link.bytes_per_s == 0 {
            return Err(PlanError::Absurd { what: what(), value: "0 bytes/s".to_owned() });
        }
        if link.latency_ns > TIME_NS_MAX {
            let value = format!("a latency of {} s", link.latency_ns / 1_000_000_000);
            return Err(PlanError::Absurd { what: what(), value });
        }
        self.links[from * n + to] = Some(link);
        Ok(())
    }

    /// The nodes.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node that owns the plan.
    #[must_use]
    pub const fn owner(&self) -> usize {
        self.owner
    }

    /// The link from one node to another; `None`: unreachable, or the same node.
    #[must_use]
    pub fn link(&self, from: usize, to: usize) -> Option<Link> {
        self.links[from * self.nodes.len() + to]
    }

    /// The number of the node of this name.
    ///
    /// # Errors
    /// [`PlanError::UnknownNode`].
    pub fn find(&self, name: &str) -> Result<usize, PlanError> {
        let found = self.nodes.iter().position(|node| node.name == name);
        found.ok_or_else(|| PlanError::UnknownNode { name: name.to_owned() })
    }

    /// The same fleet with other figures for one node.
    ///
    /// # Errors
    /// As [`Fleet::new`].
    pub fn with_node(&self, node: usize, changed: Node) -> Result<Self, PlanError> {
        let mut nodes = self.nodes.clone();
        nodes[node] = changed;
        Ok(Self { links: self.links.clone(), ..Self::new(nodes, self.owner)? })
    }

    /// The same fleet without the nodes that `keep` refuses; the owner stays.
    #[must_use]
    pub fn only(&self, keep: impl Fn(usize) -> bool) -> Self {
        let n = self.nodes.len();
        let kept: Vec<usize> = (0..n).filter(|&v| v == self.owner || keep(v)).collect();
        let nodes = kept.iter().map(|&v| self.nodes[v].clone()).collect();
        let pairs = kept.iter().flat_map(|&u| kept.iter().map(move |&v| u * n + v));
        let links = pairs.map(|pair| self.links[pair]).collect();
        let owner = kept.iter().position(|&v| v == self.owner).expect("the owner is kept");
        Self { nodes, links, owner }
    }
}
