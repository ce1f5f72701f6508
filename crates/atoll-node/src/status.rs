//! What a node says of itself: `atoll.status/1`.

use serde::{Deserialize, Serialize};

use crate::events::StageView;
use crate::net::swarm::Search;
use crate::rounds::RingView;

/// The schema's name.
pub const STATUS_SCHEMA: &str = "atoll.status/1";

/// A node, its peers, and what they do together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`STATUS_SCHEMA`].
    pub schema: String,
    /// This node.
    pub node: NodeView,
    /// Members that it is connected to.
    pub peers: Vec<PeerView>,
    /// Models that it serves.
    pub models: Vec<ModelView>,
    /// The plan of the first of them.
    pub plan: Option<PlanView>,
    /// Links between this node and its peers, and between those, as far as they were measured: the
    /// owner of a model that is placed by time has them measured.
    pub links: Vec<LinkTimingView>,
    /// What it holds ready to compute, for itself or for others.
    pub held: Vec<HeldView>,
    /// Requests of its own under way.
    pub requests: u32,
    /// What a hop took in the latest rounds of its own requests; none without several nodes.
    pub ring: Option<RingView>,
    /// Blobs exchanged with peers since the start.
    pub blobs: BlobsView,
    /// How it looks for members.
    pub search: Search,
}

/// This node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Where it can be reached, ready to be given to another node.
    pub listen: Vec<String>,
    /// Of this program.
    pub version: String,
    /// Since the start.
    pub uptime_s: u64,
    /// Memory that models may take.
    pub memory_bytes: u64,
    /// Weight bytes that its kernels take through a token per second.
    pub weight_bytes_per_s: u64,
    /// The same for each row of a prompt's chunk.
    pub prefill_bytes_per_s: u64,
    /// Compute threads.
    pub threads: usize,
    /// Kernel set.
    pub kernels: String,
    /// Memory of this process that is in use, as the system counts it.
    pub rss_bytes: Option<u64>,
}

/// A member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerView {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Where it is connected.
    pub address: String,
    /// `tcp` or `quic`.
    pub transport: String,
    /// `mdns`, `kademlia`, `address` (given to this node) or `inbound` (it came by itself).
    pub found_by: String,
    /// Latest measured round trip.
    pub rtt_us: Option<u64>,
    /// Memory that models may take there.
    pub memory_bytes: u64,
    /// Weight bytes per second there.
    pub weight_bytes_per_s: u64,
    /// The same for each row of a prompt's chunk.
    pub prefill_bytes_per_s: u64,
    /// Message bytes from it.
    pub bytes_received: u64,
    /// Message bytes to it.
    pub bytes_sent: u64,
}

/// A served model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelView {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// Positions per session; 0 without a plan.
    pub context: u32,
    /// Who holds what; none without a plan.
    pub stages: Vec<StageView>,
    /// Requests can be answered.
    pub ready: bool,
    /// Of each layer the share of its neurons that it runs with; none if all run whole.
    #[serde(default)]
    pub widths: Vec<f64>,
    /// How far it is from the model that its file was made of, as far as that was measured, nats.
    #[serde(default)]
    pub loss_nats: f64,
}

/// A plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanView {
    /// Of which model.
    pub model: String,
    /// Its version.
    pub epoch: u32,
    /// Who holds what.
    pub stages: Vec<StageView>,
    /// Positions per session.
    pub context: u32,
    /// What its tokens should take, and took; none where that cannot be said.
    pub timing: Option<TimingView>,
}

/// What tokens of a plan should take by what is known of its nodes and links, and what those of
/// the latest request took that was alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimingView {
    /// Positions in the cache for which a token is predicted.
    pub positions: u32,
    /// A token, predicted.
    pub token_ms: f64,
    /// The median of the latest tokens; none before a request of some tokens was alone.
    pub measured_token_ms: Option<f64>,
    /// Tokens of a prompt for which the first token is predicted.
    pub prompt_tokens: u32,
    /// From such a prompt to its first token, predicted.
    pub first_token_ms: f64,
    /// What each node computes for a token, the owner first, then in ring order.
    pub nodes: Vec<NodeTimingView>,
    /// The rest of a token, predicted: on its way between nodes, and waiting there.
    pub between_ms: f64,
    /// The same of the latest tokens.
    pub measured_between_ms: Option<f64>,
}

/// What a node computes for a token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeTimingView {
    /// Its name.
    pub node: String,
    /// Predicted.
    pub compute_ms: f64,
    /// The median of the latest tokens.
    pub measured_ms: Option<f64>,
}

/// What was measured of the way from one node to another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkTimingView {
    /// Its name.
    pub from: String,
    /// Its name.
    pub to: String,
    /// There and back again.
    pub rtt_us: Option<u32>,
    /// What it carries.
    pub bytes_per_s: Option<u64>,
}

/// A part of a model, loaded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldView {
    /// The model's id.
    pub model: String,
    /// Its layers: first, and one past the last; equal for none.
    pub layers: [u16; 2],
    /// Whether the embedding is held.
    pub embed: bool,
    /// Whether the head is held.
    pub head: bool,
    /// Weights in memory.
    pub weight_bytes: u64,
    /// KV caches in memory, all sessions of the model.
    pub kv_bytes: u64,
    /// Sessions with a cache here.
    pub sessions: u32,
}

/// Payload of blobs and manifests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobsView {
    /// From peers.
    pub received_bytes: u64,
    /// To peers.
    pub sent_bytes: u64,
}
