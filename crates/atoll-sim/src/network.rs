//! Connections between nodes: who is connected, and when what is sent arrives.
//!
//! As over libp2p, a connection carries messages in order and loses none while it stands; what is
//! under way when it breaks is lost. A node's messages share its uplink.

use atoll_proto::Message;

use crate::Random;
use crate::schedule::Link;

/// Bytes of a message beside its activation.
const HEADER_BYTES: u64 = 120;

/// All links.
#[derive(Debug)]
pub(crate) struct Network {
    n: usize,
    link: Link,
    random: Random,
    /// By `from * n + to`; what both directions share stands where `from < to`.
    pairs: Vec<Pair>,
    uplinks: Vec<Uplink>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Pair {
    open: bool,
    /// Counts connections: a message belongs to the one that it was sent on.
    generation: u32,
    last_arrival: u64,
}

/// One node's way out.
#[derive(Clone, Copy, Debug, Default)]
struct Uplink {
    free_at: u64,
    /// Bytes that were given to it so far.
    bytes: u64,
}

impl Network {
    pub(crate) fn new(seed: u64, n: usize, link: Link) -> Self {
        Self {
            n,
            link,
            random: Random::new(seed, "network"),
            pairs: vec![Pair::default(); n * n],
            uplinks: vec![Uplink::default(); n],
        }
    }

    fn shared(&mut self, a: usize, b: usize) -> &mut Pair {
        &mut self.pairs[a.min(b) * self.n + a.max(b)]
    }

    /// Opens a connection. `None`: there is one, or it would be to itself.
    pub(crate) fn open(&mut self, a: usize, b: usize) -> Option<u32> {
        let pair = self.shared(a, b);
        if pair.open || a == b {
            return None;
        }
        pair.open = true;
        pair.generation += 1;
        Some(pair.generation)
    }

    /// Closes a connection: what is under way on it is lost. `false`: there was none.
    pub(crate) fn close(&mut self, a: usize, b: usize) -> bool {
        std::mem::take(&mut self.shared(a, b).open)
    }

    /// The connection that stands between two nodes.
    pub(crate) fn connection(&mut self, a: usize, b: usize) -> Option<u32> {
        let pair = self.shared(a, b);
        pair.open.then_some(pair.generation)
    }

    /// When something sent now arrives, after what was sent before it.
    pub(crate) fn arrival(&mut self, now: u64, from: usize, to: usize, bytes: u64) -> u64 {
        let uplink = &mut self.uplinks[from];
        uplink.bytes += bytes;
        uplink.free_at =
            uplink.free_at.max(now) + bytes * 1_000_000 / self.link.uplink_bytes_per_s.max(1);
        let way = self.link.latency_us + self.random.below(self.link.jitter_us + 1);
        let last = &mut self.pairs[from * self.n + to].last_arrival;
        *last = (uplink.free_at + way).max(*last + 1);
        *last
    }

    /// Bytes that have left a node by `now`; what waits for its uplink does not count.
    pub(crate) fn sent_bytes(&self, node: usize, now: u64) -> u64 {
        let Uplink { free_at, bytes } = self.uplinks[node];
        let waiting = u128::from(free_at.saturating_sub(now))
            * u128::from(self.link.uplink_bytes_per_s)
            / 1_000_000;
        bytes.saturating_sub(u64::try_from(waiting).unwrap_or(u64::MAX))
    }
}

/// What a message takes on the wire; an estimate, since nothing is encoded here.
pub(crate) fn wire_bytes(message: &Message) -> u64 {
    let data = if let Message::Frame(frame) = message { frame.activation.data.len() } else { 0 };
    HEADER_BYTES + data as u64
}
