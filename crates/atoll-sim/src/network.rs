//! Connections between nodes: who is connected, and when what is sent arrives.
//!
//! As over libp2p, a connection carries messages in order and loses none while it stands; what is
//! under way when it breaks is lost. A node's messages share its uplink.

use std::collections::BTreeMap;

use atoll_proto::Message;
use atoll_proto::message::Survey;

use crate::Random;
use crate::cost::{Model, sending_us};
use crate::schedule::{Link, Schedule};

mod flow;
mod pairs;

use self::flow::Flow;
use self::pairs::{Pair, Pairs};

/// What a transport waits before it sends again what was lost, µs.
const AGAIN_US: u64 = 200_000;
/// Bytes of a message beside its activation.
const HEADER_BYTES: u64 = 120;

/// All links.
#[derive(Debug)]
pub(crate) struct Network {
    seed: u64,
    /// What all share who have no link of their own.
    link: Link,
    /// By node: its own link, and where it stands.
    own: Vec<(Option<Link>, u64)>,
    between_sites: Option<Link>,
    /// Windows do not close while nothing is sent.
    windows_stay: bool,
    /// Windows of connections over links of their own.
    flows: BTreeMap<(usize, usize), Flow>,
    random: Random,
    /// What both directions share stands where `from < to`.
    pairs: Pairs,
    uplinks: Vec<Uplink>,
    weather: Vec<Weather>,
}

/// What disturbs the messages that a node sends.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    pub(crate) loss: Trouble,
    pub(crate) duplicate: Trouble,
    pub(crate) reorder: Trouble,
    /// Its `permille` is the extra time, µs.
    pub(crate) delay: Trouble,
    /// Its `permille` is what is left of the uplink.
    pub(crate) bandwidth: Trouble,
    /// Which bit of the next session message is flipped.
    pub(crate) flip: Option<u64>,
}

/// How often, and until when.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Trouble {
    pub(crate) until: u64,
    pub(crate) permille: u64,
}

/// One node's way out.
#[derive(Clone, Copy, Debug, Default)]
struct Uplink {
    free_at: u64,
    /// Bytes that were given to it so far.
    bytes: u64,
}

impl Network {
    pub(crate) fn new(schedule: &Schedule) -> Self {
        let n = schedule.devices.len();
        let own = schedule.devices.iter().map(|device| (device.link.clone(), device.site));
        Self {
            seed: schedule.seed,
            link: schedule.link.clone(),
            own: own.collect(),
            between_sites: schedule.between_sites.clone(),
            windows_stay: schedule.windows_stay,
            flows: BTreeMap::new(),
            random: Random::new(schedule.seed, "network"),
            pairs: Pairs::new(n),
            uplinks: vec![Uplink::default(); n],
            weather: vec![Weather::default(); n],
        }
    }

    fn shared(&mut self, a: usize, b: usize) -> &mut Pair {
        self.pairs.at(a.min(b), a.max(b))
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
        self.flows.remove(&(a, b));
        self.flows.remove(&(b, a));
        std::mem::take(&mut self.shared(a, b).open)
    }

    /// The connection that stands between two nodes.
    pub(crate) fn connection(&mut self, a: usize, b: usize) -> Option<u32> {
        let pair = self.shared(a, b);
        pair.open.then_some(pair.generation)
    }

    /// Who is connected with a node: whom it heard of, and whom a plan made it meet.
    pub(crate) fn connected(&self, node: usize) -> Vec<usize> {
        let is_open = |other: &usize| self.pairs.of(node.min(*other), node.max(*other)).open;
        self.pairs.met(node).into_iter().filter(is_open).collect()
    }

    /// When something sent now arrives, after what was sent before it.
    pub(crate) fn arrival(&mut self, now: u64, from: usize, to: usize, bytes: u64) -> u64 {
        let way = self.way(now, (from, to), bytes);
        self.in_order(from, to, way)
    }

    /// When a session message sent now arrives: never, once or twice, and not always in order.
    pub(crate) fn arrivals(
        &mut self,
        now: u64,
        from: usize,
        to: usize,
        bytes: u64,
    ) -> [Option<u64>; 2] {
        let weather = self.weather[from];
        let strikes = |trouble: Trouble, random: &mut Random| {
            trouble.until > now && random.below(1000) < trouble.permille
        };
        if strikes(weather.loss, &mut self.random) {
            return [None, None];
        }
        let way = self.way(now, (from, to), bytes);
        let first = if weather.reorder.until > now {
            let spread = self.random.below(20_000);
            self.past_hold(from, to, way + spread)
        } else {
            self.in_order(from, to, way)
        };
        let twice = strikes(weather.duplicate, &mut self.random);
        [Some(first), twice.then(|| first + 1 + self.random.below(30_000))]
    }

    /// The whole way between two nodes, both accesses and what lies between them.
    fn path(&self, from: usize, to: usize) -> Link {
        let ((near, here), (far, there)) = (&self.own[from], &self.own[to]);
        if near.is_none() && far.is_none() {
            return self.link.clone();
        }
        let ends = [near, far].map(|link| link.as_ref().unwrap_or(&self.link));
        let between = self.between_sites.iter().filter(|_| here != there);
        let mut path = ends[0].clone();
        for part in ends.into_iter().skip(1).chain(between) {
            path.latency_us += part.latency_us;
            path.jitter_us += part.jitter_us;
            path.uplink_bytes_per_s = path.uplink_bytes_per_s.min(part.uplink_bytes_per_s);
            path.loss_permille += part.loss_permille;
        }
        path
    }

    /// Through the uplink and the air.
    fn way(&mut self, now: u64, (from, to): (usize, usize), bytes: u64) -> u64 {
        let mut path = self.path(from, to);
        let Weather { delay, loss, bandwidth, .. } = self.weather[from];
        if bandwidth.until > now {
            let carried = path.uplink_bytes_per_s / 1000 * bandwidth.permille;
            path.uplink_bytes_per_s = carried.max(1_000);
        }
        let uplink = &mut self.uplinks[from];
        uplink.bytes += bytes;
        let begin = uplink.free_at.max(now);
        uplink.free_at = begin + sending_us(bytes, path.uplink_bytes_per_s);
        let mut left_at = uplink.free_at;
        if self.own[from].0.is_some() {
            let flow = self.flows.entry((from, to)).or_default();
            if !self.windows_stay {
                flow.close_while_idle(begin, 2 * path.latency_us);
            }
            left_at = flow.send(begin, bytes, path.uplink_bytes_per_s, 2 * path.latency_us);
        }
        let extra = if delay.until > now { delay.permille } else { 0 };
        // What the transport loses it sends again after a while.
        let mut lost = loss.until > now && self.random.below(1000) < loss.permille;
        lost |= path.loss_permille > 0 && self.random.below(1000) < path.loss_permille;
        let again = if lost { AGAIN_US } else { 0 };
        let air = path.latency_us + self.random.below(path.jitter_us + 1);
        if let Some(wifi) = &path.wifi {
            left_at = wifi.through((self.seed, from, to), &mut self.random, left_at);
        }
        left_at + air + extra + again
    }

    fn in_order(&mut self, from: usize, to: usize, at: u64) -> u64 {
        let at = self.past_hold(from, to, at);
        let last = &mut self.pairs.at(from, to).last_arrival;
        *last = at.max(*last + 1);
        *last
    }

    /// While nothing passes, what is sent waits.
    fn past_hold(&self, from: usize, to: usize, at: u64) -> u64 {
        let held = self.pairs.of(from, to).held_until;
        if at < held { held + self.path(from, to).latency_us } else { at }
    }

    /// Nothing passes from one node to another until then.
    pub(crate) fn hold(&mut self, from: usize, to: usize, until: u64) {
        let held = &mut self.pairs.at(from, to).held_until;
        *held = until.max(*held);
    }

    /// Whether a connection can be made.
    pub(crate) fn is_passable(&self, now: u64, a: usize, b: usize) -> bool {
        let held = |from: usize, to: usize| self.pairs.of(from, to).held_until > now;
        !held(a, b) && !held(b, a)
    }

    pub(crate) fn weather(&mut self, node: usize) -> &mut Weather {
        &mut self.weather[node]
    }

    /// Nothing disturbs any more.
    pub(crate) fn heal(&mut self) {
        self.link.wifi = None;
        self.weather.fill(Weather::default());
        self.pairs.each(|pair| pair.held_until = 0);
    }

    /// Bytes that have left a node by `now`; what waits for its uplink does not count.
    pub(crate) fn sent_bytes(&self, node: usize, now: u64) -> u64 {
        let Uplink { free_at, bytes } = self.uplinks[node];
        let link = self.own[node].0.as_ref().unwrap_or(&self.link);
        let waiting = u128::from(free_at.saturating_sub(now)) * u128::from(link.uplink_bytes_per_s)
            / 1_000_000;
        bytes.saturating_sub(u64::try_from(waiting).unwrap_or(u64::MAX))
    }
}

/// Whether a message belongs to a session. Such messages may get lost, double or overtake each
/// other here, which no transport that keeps an order would do to them.
pub(crate) const fn is_of_session(message: &Message) -> bool {
    match message {
        Message::Open(_)
        | Message::Opened { .. }
        | Message::Frame(_)
        | Message::Passed { .. }
        | Message::Nack { .. }
        | Message::Reject { .. }
        | Message::Close { .. } => true,
        Message::Hello { .. }
        | Message::Heartbeat { .. }
        | Message::Presence(_)
        | Message::Survey(_)
        | Message::Leave
        | Message::Assign(_)
        | Message::AssignProgress { .. }
        | Message::Assigned { .. }
        | Message::Keep { .. }
        | Message::Unassign { .. } => false,
    }
}

/// What a message takes on the wire; an estimate, since nothing is encoded here.
pub(crate) fn wire_bytes(message: &Message, model: &Model) -> u64 {
    let more = if let Message::Frame(frame) = message {
        u64::from(frame.activation.rows) * u64::from(model.row_bytes)
    } else if let Message::Survey(Survey::Probe { filler, .. }) = message {
        filler.len() as u64
    } else {
        0
    };
    HEADER_BYTES + more
}
