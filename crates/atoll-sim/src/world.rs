//! One run of a schedule: events in order of time, each handled by its node.

use atoll_proto::message::Presence;
use atoll_proto::plan::PlaceRule;
use atoll_proto::planted::Planted;
use atoll_proto::{
    Input, Limits, Message, ModelId, Node, NodeConfig, NodeId, RequestId, SessionId, Time,
};

use self::around::Around;
use self::detected::Detected;
pub use self::hands::Hands;
use self::loading::Loading;
pub(crate) use self::served::{model, policy};
use crate::Random;
use crate::cost::Cores;
use crate::device::Device;
use crate::hash_model::mix;
use crate::invariants::{Invariant, Invariants, Seen};
use crate::network::Network;
use crate::queue::Queue;
use crate::report::Report;
use crate::schedule::Schedule;
use crate::study::OwnFault;

mod around;
mod beginning;
mod detected;
mod effects;
mod ending;
mod hands;
mod loading;
mod served;
mod strike;
mod trace;

/// The model of all runs.
const MODEL: ModelId = ModelId([9; 32]);
/// A session that nobody closes is let go after this long, µs: shorter than in real nodes, so that
/// runs need not last so long.
const SESSION_IDLE_US: u64 = 25_000_000;
/// Simulated time between two words of progress, µs.
const PROGRESS_US: u64 = 60_000_000;
/// Bytes of a row here.
const DIGEST_BYTES: usize = 8;
/// The origin of all requests.
const ORIGIN: usize = 0;

/// Runs a schedule and reports what it showed.
#[must_use]
pub fn run(schedule: &Schedule) -> Report {
    run_planted(schedule, Planted::default())
}

/// Runs a schedule on nodes that have a bug planted in them.
#[must_use]
pub fn run_planted(schedule: &Schedule, planted: Planted) -> Report {
    play(World::new(schedule, (planted, None)), |_, _| {})
}

/// Runs a schedule and tells `progress` now and then how far it is, µs, and what there is so far.
#[must_use]
pub fn run_long(schedule: &Schedule, progress: impl FnMut(u64, &Report)) -> Report {
    play(World::new(schedule, (Planted::default(), None)), progress)
}

/// Runs a schedule with what a study adds to it.
pub(crate) fn run_with<'a>(
    schedule: &'a Schedule,
    rule: Option<PlaceRule>,
    claims: Vec<Box<dyn Invariant + 'a>>,
    faults: Vec<OwnFault<'a>>,
) -> Report {
    let mut world = World::new(schedule, (Planted::default(), rule));
    world.invariants.add(claims);
    for (own, fault) in (0..).zip(&faults) {
        world.push(fault.within_us.start, Happening::OwnFault(own));
    }
    world.own_faults = faults.into_iter().map(Some).collect();
    play(world, |_, _| {})
}

fn play(mut world: World<'_>, mut progress: impl FnMut(u64, &Report)) -> Report {
    let schedule = world.schedule;
    world.begin();
    let mut next_us = PROGRESS_US;
    while let Some((at, happening)) = world.queue.pop() {
        if at > schedule.end_us {
            break;
        }
        if at >= next_us {
            progress(at, &world.report);
            next_us = at + PROGRESS_US;
        }
        world.now = at;
        world.happen(happening);
    }
    world.now = schedule.end_us;
    world.end();
    world.report
}

pub(crate) struct World<'a> {
    schedule: &'a Schedule,
    planted: Planted,
    rule: Option<PlaceRule>,
    now: u64,
    queue: Queue<Happening>,
    nodes: Vec<Slot>,
    network: Network,
    cores: Cores,
    around: Around,
    detected: Detected,
    noise: Random,
    invariants: Invariants<'a>,
    /// Each is away from here while it strikes.
    own_faults: Vec<Option<OwnFault<'a>>>,
    own_random: Random,
    report: Report,
}

/// A node and its device.
struct Slot {
    node: Node,
    device: Device,
    is_up: bool,
    /// Counts its lives: what was meant for an earlier one is dropped.
    life: u32,
    tick_at: Option<u64>,
    paused_until: u64,
    /// Time of a job in percent of the usual, and until when.
    slow: (u64, u64),
    /// How far its clock is ahead, µs.
    ahead_us: u64,
    /// What keeps it from loading parts.
    loading: Loading,
    /// The first part that the origin gave it.
    assigned: Option<Message>,
    /// Words to the origin that a connection with this node broke, still on their way.
    breaks_unheard: u32,
}

enum Happening {
    /// A node's own affair.
    Own {
        node: usize,
        life: u32,
        input: Box<Input>,
    },
    /// A node's deadline has come.
    Ticks {
        node: usize,
        life: u32,
    },
    /// Something arrives over a connection, if that still stands.
    Arrives {
        from: usize,
        to: usize,
        generation: u32,
        input: Box<Input>,
    },
    /// A heartbeat does, or a ping: most messages are no more than that.
    Beats {
        from: usize,
        to: usize,
        generation: u32,
        /// Of a heartbeat.
        again_ms: Option<u32>,
    },
    /// A node hears that a connection is gone or came.
    Heard {
        node: usize,
        life: u32,
        input: Box<Input>,
    },
    Fault(usize),
    /// One of a study.
    OwnFault(usize),
    /// A node that was killed.
    ComesBack {
        node: usize,
    },
    /// A request ended a while ago.
    LooksBack {
        request: RequestId,
    },
    Rediscovered {
        a: usize,
        b: usize,
    },
    Heals,
}

pub(crate) fn id(index: usize) -> NodeId {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&(index as u64).to_be_bytes());
    NodeId(bytes)
}

pub(crate) fn index(id: NodeId) -> usize {
    let bytes = *id.0.first_chunk().expect("32 bytes");
    usize::try_from(u64::from_be_bytes(bytes)).expect("an index")
}

impl<'a> World<'a> {
    fn new(schedule: &'a Schedule, (planted, rule): (Planted, Option<PlaceRule>)) -> Self {
        let n = schedule.devices.len();
        let mut world = Self {
            schedule,
            planted,
            rule,
            now: 0,
            queue: Queue::default(),
            nodes: Vec::with_capacity(n),
            network: Network::new(schedule),
            cores: Cores::new(schedule.host_cores),
            around: Around::new(schedule.seed, n, (schedule.hears_of, schedule.site_nodes)),
            detected: Detected::default(),
            noise: Random::new(schedule.seed, "compute"),
            invariants: Invariants::new(schedule),
            own_faults: Vec::new(),
            own_random: Random::new(schedule.seed, "study"),
            report: Report::of(schedule),
        };
        for i in 0..n {
            let slot = world.slot(i, 0);
            world.nodes.push(slot);
        }
        world
    }

    fn slot(&self, i: usize, life: u32) -> Slot {
        let (id, name) = (id(i), format!("n{i}"));
        // A row is short here, so a log holds as many as its bytes would of the model's.
        let row_bytes = self.schedule.model.row_bytes.max(1) as usize;
        let boundary_bytes_max = self.schedule.placement.boundary_bytes * DIGEST_BYTES / row_bytes;
        let session_idle_us = SESSION_IDLE_US;
        let limits = Limits { session_idle_us, boundary_bytes_max, ..Limits::default() };
        let device = &self.schedule.devices[i];
        Slot {
            node: Node::with_planted(NodeConfig { id, name, limits }, self.planted),
            device: Device::new(device, &self.schedule.model),
            is_up: true,
            life,
            tick_at: None,
            paused_until: 0,
            slow: (100, 0),
            ahead_us: 0,
            loading: Loading::default(),
            assigned: None,
            breaks_unheard: 0,
        }
    }

    fn push(&mut self, at: u64, happening: Happening) {
        self.queue.push(at, happening);
    }

    fn own(&mut self, at: u64, node: usize, input: Input) {
        let life = self.nodes[node].life;
        self.push(at, Happening::Own { node, life, input: Box::new(input) });
    }

    fn happen(&mut self, happening: Happening) {
        match &happening {
            Happening::Own { node, .. }
            | Happening::Ticks { node, .. }
            | Happening::Heard { node, .. }
            | Happening::Beats { to: node, .. }
            | Happening::Arrives { to: node, .. } => {
                let until = self.nodes[*node].paused_until;
                if until > self.now {
                    // What comes to a paused process waits for it, in order.
                    return self.push(until, happening);
                }
            }
            Happening::Fault(_)
            | Happening::OwnFault(_)
            | Happening::ComesBack { .. }
            | Happening::LooksBack { .. }
            | Happening::Rediscovered { .. }
            | Happening::Heals => {}
        }
        match happening {
            Happening::Own { node, life, input } => {
                if self.nodes[node].life == life {
                    self.handle(node, *input);
                }
            }
            Happening::Ticks { node, life } => {
                if self.nodes[node].life == life {
                    self.handle(node, Input::Tick);
                }
            }
            Happening::Heard { node, life, input } => {
                if let (ORIGIN, Input::Disconnected { peer, .. }) = (node, &*input) {
                    self.nodes[index(*peer)].breaks_unheard -= 1;
                }
                if self.nodes[node].life == life {
                    self.handle(node, *input);
                }
            }
            Happening::Arrives { from, to, generation, input } => {
                if self.network.connection(from, to) == Some(generation) {
                    self.handle(to, *input);
                }
            }
            Happening::Beats { from, to, generation, again_ms } => {
                if self.network.connection(from, to) == Some(generation) {
                    let ping = Message::Presence(Presence::Ping);
                    let beat = |again_ms| Message::Heartbeat { again_ms };
                    let (from, message) = (id(from), again_ms.map_or(ping, beat));
                    self.handle(to, Input::Received { from, message });
                }
            }
            Happening::Fault(i) => self.strike(&self.schedule.faults[i]),
            Happening::OwnFault(i) => self.strike_own(i),
            // Who is not in the core stays away after the mending.
            Happening::ComesBack { node } => {
                if self.now < self.schedule.heal_us {
                    self.come_up(node);
                }
            }
            Happening::LooksBack { request } => self.look_back(request),
            Happening::Rediscovered { a, b } => self.rediscover(a, b),
            Happening::Heals => self.heal(),
        }
    }

    fn handle(&mut self, node: usize, input: Input) {
        let slot = &mut self.nodes[node];
        let now = Time(self.now + slot.ahead_us);
        if !slot.is_up {
            return;
        }
        match &input {
            Input::Tick => {
                // A pause may have made it late.
                slot.tick_at = slot.tick_at.filter(|at| *at > self.now);
                if slot.node.deadline().is_none_or(|at| at > now) {
                    self.keep_time(node);
                    return;
                }
            }
            Input::Prepared { result: Ok(()), model, .. } => self.loads(node, *model),
            Input::Computed { job, .. } => slot.device.finished(*job),
            Input::Command(_)
            | Input::Discovered { .. }
            | Input::Connected { .. }
            | Input::Disconnected { .. }
            | Input::Received { .. }
            | Input::PrepareProgress { .. }
            | Input::Prepared { .. } => {}
        }
        self.report.events += 1;
        let framed = match &input {
            Input::Received { message: Message::Frame(frame), .. } => Some(frame.epoch),
            Input::Received { .. }
            | Input::Tick
            | Input::Command(_)
            | Input::Discovered { .. }
            | Input::Connected { .. }
            | Input::Disconnected { .. }
            | Input::PrepareProgress { .. }
            | Input::Prepared { .. }
            | Input::Computed { .. } => None,
        };
        let outputs = self.nodes[node].node.handle(now, input);
        self.report.trace = mix(&[self.report.trace, self.now, node as u64]);
        for output in outputs {
            self.report.trace = mix(&[self.report.trace, trace::fingerprint(&output)]);
            self.carry_out(node, framed, output);
        }
        self.keep_time(node);
    }

    /// A tick for the node's deadline, unless one comes by then.
    fn keep_time(&mut self, node: usize) {
        let slot = &mut self.nodes[node];
        let Some(Time(at)) = slot.node.deadline() else { return };
        let at = at.saturating_sub(slot.ahead_us).max(self.now + 1);
        if slot.tick_at.is_none_or(|known| at < known) {
            slot.tick_at = Some(at);
            let life = slot.life;
            self.push(at, Happening::Ticks { node, life });
        }
    }

    /// The session of a request: drawn before the run, as a real driver's is drawn by chance.
    fn session(&self, request: RequestId) -> SessionId {
        SessionId(u128::from(mix(&[self.schedule.seed, request.0])))
    }

    fn see(&mut self, seen: &Seen<'_>) {
        self.invariants.see(&mut self.report, self.now, seen);
    }
}
