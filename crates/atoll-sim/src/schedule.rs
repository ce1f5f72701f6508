//! A run before it happens: devices, links, work and faults, all of it data.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::Random;
use crate::cost::{Model, Speed};

mod link;

pub use self::link::Link;
use self::link::is_zero;

/// Everything that will happen to a run, but for what the nodes make of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Seeds delays and noise; faults are drawn before the run, not in it.
    pub seed: u64,
    /// From here on nothing strikes any more, and the core is mended, µs.
    pub heal_us: u64,
    /// The nodes that are whole from then on; the others are gone.
    pub core: Vec<usize>,
    /// The run's end, µs.
    pub end_us: u64,
    /// How the model is placed.
    pub placement: Placement,
    /// How messages travel between devices that say nothing of their own link.
    pub link: Link,
    /// What is served.
    #[serde(default, skip_serializing_if = "Model::is_standard")]
    pub model: Model,
    /// All devices are processes on one machine with so many cores and share them; absent: each
    /// is a machine of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_cores: Option<usize>,
    /// Connections keep their window while nothing is sent, as with BBR; otherwise it closes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub windows_stay: bool,
    /// What lies between two sites, beside the links of both ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub between_sites: Option<Link>,
    /// Time to load the largest part on the slowest device, and to take a request's positions
    /// through it again, µs: the claims about waits allow so much more.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub slack_us: u64,
    /// Of how many others each node hears, as from a distributed hash table; absent: of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hears_of: Option<usize>,
    /// Each so many nodes are a site, where all hear of each other, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site_nodes: Option<usize>,
    /// When something disturbs that is no fault of these, µs: the claims about waits allow for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disturbed_us: Vec<Range<u64>>,
    /// The nodes; the first is the origin of all requests.
    #[serde(rename = "device")]
    pub devices: Vec<Device>,
    /// The work.
    #[serde(rename = "request")]
    pub requests: Vec<Asked>,
    /// What strikes, in order of time.
    #[serde(rename = "fault", default)]
    pub faults: Vec<Fault>,
}

/// How the model is placed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placement {
    /// When the origin begins to serve, µs.
    pub at_us: u64,
    /// Stages wanted.
    pub stages: u16,
    /// Sessions at once.
    pub sessions: u16,
    /// Nodes that hold each stage's range beside its own.
    pub spares: u16,
    /// What a node keeps of sent activations so that the next stage can be rebuilt, all sessions
    /// together.
    pub boundary_bytes: usize,
}

/// A node's hardware.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// When it comes, µs.
    pub joins_us: u64,
    /// What it may hold.
    pub memory_bytes: u64,
    /// Weight bytes that it takes through a token per second, as it says itself.
    pub weight_bytes_per_s: u64,
    /// How fast it truly computes; absent: as it says, and many rows at a quarter each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed: Option<Speed>,
    /// Its access to the network; absent: the schedule's link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<Link>,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub site: u64,
}

impl Device {
    /// A device of the standard kind.
    pub(crate) const fn plain(joins_us: u64, memory_bytes: u64, weight_bytes_per_s: u64) -> Self {
        Self { joins_us, memory_bytes, weight_bytes_per_s, speed: None, link: None, site: 0 }
    }
}

/// A request to the origin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// When, µs.
    pub at_us: u64,
    /// Token ids.
    pub prompt: Vec<u32>,
    /// Tokens to generate.
    pub max_tokens: u32,
    /// It may take so long, µs.
    pub deadline_us: u64,
}

/// Something that goes wrong at some time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// When, µs.
    pub at_us: u64,
    /// What.
    #[serde(flatten)]
    pub what: What,
    /// It strikes the node that then holds this stage, counted around the stages on other nodes
    /// than the origin, instead of the node that `what` names. Without a plan: that node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<usize>,
}

/// What can go wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// A node says goodbye and goes.
    Leave {
        /// Which.
        node: usize,
        /// After so long it comes back and remembers nothing, µs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        back_us: Option<u64>,
    },
    /// A node's process dies: its connections break at once.
    Kill {
        /// Which.
        node: usize,
        /// After so long it comes back and remembers nothing, µs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        back_us: Option<u64>,
    },
    /// A node loses its power: it is silent, and its connections do not break.
    Unplug {
        /// Which.
        node: usize,
        /// After so long it comes back and remembers nothing, µs.
        back_us: u64,
    },
    /// A node's process stands still; its connections stay.
    Pause {
        /// Which.
        node: usize,
        /// How long, µs.
        for_us: u64,
    },
    /// A node computes more slowly.
    Slow {
        /// Which.
        node: usize,
        /// Time of a job in percent of the usual.
        percent: u64,
        /// How long, µs.
        for_us: u64,
    },
    /// Nothing passes from one node to another; what is sent comes when the link is back.
    Mute {
        /// Who is not heard.
        from: usize,
        /// By whom.
        to: usize,
        /// How long, µs.
        for_us: u64,
    },
    /// Nothing passes between two nodes.
    Cut {
        /// One of them.
        a: usize,
        /// The other.
        b: usize,
        /// How long, µs.
        for_us: u64,
    },
    /// Nothing passes between these nodes and all others.
    Partition {
        /// One side.
        nodes: Vec<usize>,
        /// How long, µs.
        for_us: u64,
    },
    /// The connection between two nodes is reset.
    Break {
        /// One of them.
        a: usize,
        /// The other.
        b: usize,
    },
    /// What a node sends gets lost: session messages for good, others until sent again.
    Loss {
        /// Which.
        node: usize,
        /// Of a thousand messages.
        permille: u64,
        /// How long, µs.
        for_us: u64,
    },
    /// Session messages of a node arrive twice.
    Duplicate {
        /// Which.
        node: usize,
        /// Of a thousand messages.
        permille: u64,
        /// How long, µs.
        for_us: u64,
    },
    /// Session messages of a node overtake each other.
    Reorder {
        /// Which.
        node: usize,
        /// How long, µs.
        for_us: u64,
    },
    /// Everything that a node sends takes longer.
    Delay {
        /// Which.
        node: usize,
        /// By how much, µs.
        extra_us: u64,
        /// How long, µs.
        for_us: u64,
    },
    /// One bit of the next session message of a node is flipped.
    BitFlip {
        /// Which.
        node: usize,
        /// Which bit, counted around the message.
        bit: u64,
    },
    /// The client goes away.
    Cancel {
        /// Which request.
        request: u64,
    },
}

impl What {
    /// How long it lasts by itself, µs.
    pub(crate) fn lasts_us(&self) -> u64 {
        match *self {
            Self::Break { .. } | Self::BitFlip { .. } | Self::Cancel { .. } => 0,
            Self::Leave { back_us, .. } | Self::Kill { back_us, .. } => back_us.unwrap_or(0),
            Self::Unplug { back_us, .. } => back_us,
            Self::Pause { for_us, .. }
            | Self::Slow { for_us, .. }
            | Self::Mute { for_us, .. }
            | Self::Cut { for_us, .. }
            | Self::Partition { for_us, .. }
            | Self::Loss { for_us, .. }
            | Self::Duplicate { for_us, .. }
            | Self::Reorder { for_us, .. }
            | Self::Delay { for_us, .. } => for_us,
        }
    }

    /// The nodes that it names.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = usize> {
        let (one, other, more) = match self {
            Self::Mute { from: a, to: b, .. } | Self::Cut { a, b, .. } | Self::Break { a, b } => {
                (Some(*a), Some(*b), &[][..])
            }
            Self::Partition { nodes, .. } => (None, None, &nodes[..]),
            Self::Cancel { .. } => (None, None, &[][..]),
            Self::Leave { node, .. }
            | Self::Kill { node, .. }
            | Self::Unplug { node, .. }
            | Self::Pause { node, .. }
            | Self::Slow { node, .. }
            | Self::Loss { node, .. }
            | Self::Duplicate { node, .. }
            | Self::Reorder { node, .. }
            | Self::Delay { node, .. }
            | Self::BitFlip { node, .. } => (Some(*node), None, &[][..]),
        };
        one.into_iter().chain(other).chain(more.iter().copied())
    }

    /// The same at another node.
    pub(crate) fn at(&self, at: usize) -> Self {
        let mut what = self.clone();
        match &mut what {
            Self::Leave { node, .. }
            | Self::Kill { node, .. }
            | Self::Unplug { node, .. }
            | Self::Pause { node, .. }
            | Self::Slow { node, .. }
            | Self::Mute { from: node, .. }
            | Self::Cut { a: node, .. }
            | Self::Break { a: node, .. }
            | Self::Loss { node, .. }
            | Self::Duplicate { node, .. }
            | Self::Reorder { node, .. }
            | Self::Delay { node, .. }
            | Self::BitFlip { node, .. } => *node = at,
            Self::Partition { .. } | Self::Cancel { .. } => {}
        }
        what
    }
}

impl Schedule {
    /// Nodes that come within two seconds and some that leave while four requests run.
    #[must_use]
    pub fn joins_and_leaves(seed: u64, n: usize) -> Self {
        let (mut joins, mut leaves) = (Random::new(seed, "joins"), Random::new(seed, "leaves"));
        let (mut hardware, mut work) = (Random::new(seed, "devices"), Random::new(seed, "work"));
        let device = |_| {
            let (joins_us, memory) = (joins.below(2_000_000), hardware.within(8..16));
            let speed = hardware.within(2..20) * 1_000_000_000;
            Device::plain(joins_us, memory * LAYER_BYTES, speed)
        };
        let devices: Vec<_> = (0..n).map(device).collect();
        let going = (1..n).filter(|_| leaves.below(20) == 0).collect::<Vec<_>>();
        let leave = |node| {
            let at_us = leaves.within(1_000_000..5_000_000);
            Fault { at_us, what: What::Leave { node, back_us: None }, stage: None }
        };
        let mut faults: Vec<_> = going.iter().copied().map(leave).collect();
        faults.sort_by_key(|fault| fault.at_us);
        Self {
            seed,
            heal_us: 6_000_000,
            core: (0..n).filter(|node| !going.contains(node)).collect(),
            end_us: 14_000_000,
            placement: Placement {
                at_us: 1_500_000,
                stages: 4,
                sessions: 4,
                spares: 1,
                boundary_bytes: 32 << 20,
            },
            link: Link::wired(),
            model: Model::default(),
            host_cores: None,
            windows_stay: false,
            between_sites: None,
            slack_us: 0,
            hears_of: None,
            site_nodes: None,
            disturbed_us: Vec::new(),
            devices,
            requests: (0..4).map(|_| asked(&mut work, (2_000_000, 4_000_000), 16)).collect(),
            faults,
        }
    }
}

/// Weight bytes of one layer of the standard model.
pub(crate) const LAYER_BYTES: u64 = 1_000_000;
/// Longest time that a request may take, µs.
const DEADLINE_US: u64 = 8_000_000;

pub(crate) fn asked(work: &mut Random, (from_us, to_us): (u64, u64), max_tokens: u32) -> Asked {
    let len = work.within(1..41);
    let token = |_| u32::try_from(work.below(9999)).expect("small");
    let prompt = (0..len).map(token).collect();
    Asked { at_us: work.within(from_us..to_us), prompt, max_tokens, deadline_us: DEADLINE_US }
}
