//! A run before it happens: devices, links, work and faults, all of it data.

use std::ops::Range;

use atoll_proto::plan::Profile;
use serde::{Deserialize, Serialize};

use crate::Random;
use crate::cost::{Model, STANDARD_ROWS_GAIN, Speed};

mod link;
mod what;

pub use self::link::Link;
use self::link::is_zero;
pub use self::what::What;

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
    /// Thousandths of a core that it may use, if it is a process with a share; what it says of its
    /// speed it measured within that share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_permille: Option<u64>,
    /// Its access to the network; absent: the schedule's link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<Link>,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub site: u64,
}

impl Device {
    /// A device of the standard kind.
    /// What it says of itself at first.
    pub(crate) fn profile(&self) -> Profile {
        let claimed = u128::from(self.weight_bytes_per_s);
        let rows_together = match &self.speed {
            Some(speed) => {
                claimed * u128::from(speed.more_rows_bytes_per_s)
                    / u128::from(speed.weight_bytes_per_s.max(1))
            }
            None => claimed * u128::from(STANDARD_ROWS_GAIN),
        };
        Profile {
            memory_bytes: self.memory_bytes,
            weight_bytes_per_s: self.weight_bytes_per_s,
            prefill_bytes_per_s: u64::try_from(rows_together).unwrap_or(u64::MAX),
        }
    }

    pub(crate) const fn plain(joins_us: u64, memory_bytes: u64, weight_bytes_per_s: u64) -> Self {
        let (speed, cpu_permille, link) = (None, None, None);
        Self { joins_us, memory_bytes, weight_bytes_per_s, speed, cpu_permille, link, site: 0 }
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
