//! What can go wrong.

use serde::{Deserialize, Serialize};

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
    /// A node's clock jumps ahead: it slept, or somebody set it.
    ClockStep {
        /// Which.
        node: usize,
        /// By how much, µs.
        ahead_us: u64,
    },
    /// A node has no memory for parts that it is asked to load, and says so.
    MemoryRefusal {
        /// Which.
        node: usize,
        /// How long, µs.
        for_us: u64,
    },
    /// A node's disk is full: what it fetches is lost half-way.
    DiskFull {
        /// Which.
        node: usize,
        /// How long, µs.
        for_us: u64,
    },
    /// The next part that a node fetches is not what its hash says: it is fetched once more.
    CorruptShard {
        /// Which.
        node: usize,
    },
    /// A node's uplink carries less.
    Bandwidth {
        /// Which.
        node: usize,
        /// Of a thousand bytes that it carried before.
        permille: u64,
        /// How long, µs.
        for_us: u64,
    },
    /// A node says that it is faster or slower than it is.
    Lie {
        /// Which.
        node: usize,
        /// What it says, in percent of what is true.
        percent: u64,
    },
    /// A node is given a part again by a plan that it has had before.
    StalePlan {
        /// Which.
        node: usize,
    },
}

impl What {
    /// How long it lasts by itself, µs.
    pub(crate) fn lasts_us(&self) -> u64 {
        match *self {
            Self::Break { .. }
            | Self::BitFlip { .. }
            | Self::Cancel { .. }
            | Self::ClockStep { .. }
            | Self::CorruptShard { .. }
            | Self::Lie { .. }
            | Self::StalePlan { .. } => 0,
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
            | Self::Delay { for_us, .. }
            | Self::MemoryRefusal { for_us, .. }
            | Self::DiskFull { for_us, .. }
            | Self::Bandwidth { for_us, .. } => for_us,
        }
    }

    /// Whether the node that it strikes may never be of use again in that life: it is gone for
    /// good, or has said that it cannot load its part.
    pub(crate) const fn takes_away(&self) -> Option<usize> {
        match *self {
            Self::Leave { node, back_us: None }
            | Self::Kill { node, back_us: None }
            | Self::MemoryRefusal { node, .. }
            | Self::DiskFull { node, .. } => Some(node),
            Self::Leave { .. }
            | Self::Kill { .. }
            | Self::Unplug { .. }
            | Self::Pause { .. }
            | Self::Slow { .. }
            | Self::Mute { .. }
            | Self::Cut { .. }
            | Self::Partition { .. }
            | Self::Break { .. }
            | Self::Loss { .. }
            | Self::Duplicate { .. }
            | Self::Reorder { .. }
            | Self::Delay { .. }
            | Self::BitFlip { .. }
            | Self::Cancel { .. }
            | Self::ClockStep { .. }
            | Self::CorruptShard { .. }
            | Self::Bandwidth { .. }
            | Self::Lie { .. }
            | Self::StalePlan { .. } => None,
        }
    }

    /// Whether a node can say by it that it cannot load its part.
    pub(crate) const fn refuses(&self) -> bool {
        matches!(self, Self::MemoryRefusal { .. } | Self::DiskFull { .. })
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
            | Self::BitFlip { node, .. }
            | Self::ClockStep { node, .. }
            | Self::MemoryRefusal { node, .. }
            | Self::DiskFull { node, .. }
            | Self::CorruptShard { node }
            | Self::Bandwidth { node, .. }
            | Self::Lie { node, .. }
            | Self::StalePlan { node } => (Some(*node), None, &[][..]),
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
            | Self::BitFlip { node, .. }
            | Self::ClockStep { node, .. }
            | Self::MemoryRefusal { node, .. }
            | Self::DiskFull { node, .. }
            | Self::CorruptShard { node }
            | Self::Bandwidth { node, .. }
            | Self::Lie { node, .. }
            | Self::StalePlan { node } => *node = at,
            Self::Partition { .. } | Self::Cancel { .. } => {}
        }
        what
    }

    /// In words, with the nodes' names.
    #[must_use]
    pub fn told(&self, names: &[String]) -> String {
        let of = |node: &usize| names.get(*node).cloned().unwrap_or_else(|| format!("n{node}"));
        let ms = |us: &u64| format!("{} ms", us / 1000);
        match self {
            Self::Leave { node, .. } => format!("{} says goodbye and leaves", of(node)),
            Self::Kill { node, .. } => format!("{} is killed", of(node)),
            Self::Unplug { node, .. } => format!("{} loses its power", of(node)),
            Self::Pause { node, .. } => format!("{} stands still", of(node)),
            Self::Slow { node, percent, .. } => {
                format!("{} takes {percent} % of its usual time", of(node))
            }
            Self::Mute { from, to, .. } => format!("{} is not heard by {}", of(from), of(to)),
            Self::Cut { a, b, .. } => format!("nothing passes between {} and {}", of(a), of(b)),
            Self::Partition { nodes, .. } => {
                let names: Vec<_> = nodes.iter().map(of).collect();
                format!("nothing passes between {} and all others", names.join(", "))
            }
            Self::Break { a, b } => {
                format!("the connection of {} and {} is reset", of(a), of(b))
            }
            Self::Loss { node, permille, .. } => {
                format!("{permille} of a thousand messages of {} get lost", of(node))
            }
            Self::Duplicate { node, permille, .. } => {
                format!("{permille} of a thousand messages of {} come twice", of(node))
            }
            Self::Reorder { node, .. } => format!("messages of {} overtake each other", of(node)),
            Self::Delay { node, extra_us, .. } => {
                format!("messages of {} take {} more", of(node), ms(extra_us))
            }
            Self::BitFlip { node, bit } => {
                format!("bit {bit} of the next message of {} is flipped", of(node))
            }
            Self::Cancel { request } => format!("the client of request {request} goes"),
            Self::ClockStep { node, ahead_us } => {
                format!("the clock of {} jumps {} ahead", of(node), ms(ahead_us))
            }
            Self::MemoryRefusal { node, .. } => format!("{} has no memory for a part", of(node)),
            Self::DiskFull { node, .. } => format!("the disk of {} is full", of(node)),
            Self::CorruptShard { node } => format!("the next part of {} comes corrupt", of(node)),
            Self::Bandwidth { node, permille, .. } => {
                format!("the uplink of {} carries {permille} of a thousand bytes", of(node))
            }
            Self::Lie { node, percent } => {
                format!("{} says that it is {percent} % as fast", of(node))
            }
            Self::StalePlan { node } => {
                format!("{} is given a part by an old plan again", of(node))
            }
        }
    }
}
