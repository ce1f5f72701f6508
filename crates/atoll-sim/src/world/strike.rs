//! What a fault does, and the mending after the last one.

use atoll_proto::plan::Profile;
use atoll_proto::snapshot::ServedState;
use atoll_proto::{Command, Input, RequestId};

use super::{Happening, ORIGIN, Slot, World, id, index};
use crate::invariants::Seen;
use crate::network::Trouble;
use crate::schedule::{Fault, What};

/// How long it takes until two nodes that lost each other try again, µs.
const REDISCOVERY_US: u64 = 3_000_000;

/// So long after the mending it is looked who still holds sessions of a dead origin, µs.
const ORPHANED_US: u64 = 10_500_000;

impl World<'_> {
    pub(super) fn strike(&mut self, fault: &Fault) {
        let aimed = fault.stage.and_then(|stage| self.at_stage(stage));
        self.strikes(aimed.map_or_else(|| fault.what.clone(), |node| fault.what.at(node)));
    }

    /// What strikes, strikes now.
    pub(super) fn strikes(&mut self, what: What) {
        self.report.faults += 1;
        self.see(&Seen::Struck { what: &what });
        let now = self.now;
        match what {
            What::Leave { node, back_us } => {
                self.handle(node, Input::Command(Command::Leave));
                self.go_down(node);
                if let Some(back_us) = back_us {
                    self.push(now + back_us, Happening::ComesBack { node });
                }
            }
            What::Kill { node, back_us } => {
                self.go_down(node);
                if let Some(back_us) = back_us {
                    self.push(now + back_us, Happening::ComesBack { node });
                }
            }
            What::Unplug { node, back_us } => {
                self.goes(node, false);
                self.silence(node);
                self.push(now + back_us, Happening::ComesBack { node });
            }
            What::Pause { node, for_us } => {
                let slot = &mut self.nodes[node];
                slot.paused_until = slot.paused_until.max(now + for_us);
            }
            What::Slow { node, percent, for_us } => {
                self.nodes[node].slow = (percent, now + for_us);
            }
            What::Mute { from, to, for_us } => self.network.hold(from, to, now + for_us),
            What::Cut { a, b, for_us } => self.cut(a, b, now + for_us),
            What::Partition { nodes, for_us } => {
                for other in (0..self.nodes.len()).filter(|node| !nodes.contains(node)) {
                    for &node in &nodes {
                        self.cut(node, other, now + for_us);
                    }
                }
            }
            What::Break { a, b } => self.disconnect(a, b, "reset"),
            What::Loss { node, permille, for_us } => {
                self.network.weather(node).loss = Trouble { until: now + for_us, permille };
            }
            What::Duplicate { node, permille, for_us } => {
                self.network.weather(node).duplicate = Trouble { until: now + for_us, permille };
            }
            What::Reorder { node, for_us } => {
                self.network.weather(node).reorder = Trouble { until: now + for_us, permille: 0 };
            }
            What::Delay { node, extra_us, for_us } => {
                self.network.weather(node).delay =
                    Trouble { until: now + for_us, permille: extra_us };
            }
            What::BitFlip { node, bit } => self.network.weather(node).flip = Some(bit),
            What::ClockStep { node, ahead_us } => {
                self.nodes[node].ahead_us += ahead_us;
                if self.nodes[node].is_up {
                    self.keep_time(node);
                }
            }
            What::MemoryRefusal { node, for_us } => {
                self.nodes[node].loading.no_memory_until = now + for_us;
            }
            What::DiskFull { node, for_us } => {
                self.nodes[node].loading.disk_full_until = now + for_us;
            }
            What::CorruptShard { node } => self.nodes[node].loading.is_corrupt = true,
            What::Bandwidth { node, permille, for_us } => {
                self.network.weather(node).bandwidth = Trouble { until: now + for_us, permille };
            }
            What::Lie { node, percent } => self.says(node, percent),
            What::StalePlan { node } => self.assigned_again(node),
            What::Cancel { request } => {
                let request = RequestId(request);
                self.handle(ORIGIN, Input::Command(Command::Cancel { request }));
                if self.nodes[ORIGIN].is_up {
                    self.see(&Seen::Cancelled { request });
                }
            }
        }
    }

    /// A node says what it can carry: so many percent of its true speed.
    fn says(&mut self, node: usize, percent: u64) {
        let profile = self.schedule.devices[node].profile();
        let said = |speed: u64| {
            u64::try_from(u128::from(speed) * u128::from(percent) / 100).unwrap_or(u64::MAX)
        };
        let profile = Profile {
            weight_bytes_per_s: said(profile.weight_bytes_per_s),
            prefill_bytes_per_s: said(profile.prefill_bytes_per_s),
            ..profile
        };
        self.handle(node, Input::Command(Command::Measured(profile)));
    }

    /// The first part that the origin gave a node comes to it once more.
    fn assigned_again(&mut self, node: usize) {
        let Some(generation) = self.network.connection(ORIGIN, node) else { return };
        if let Some(message) = self.nodes[node].assigned.clone() {
            let at = self.network.arrival(self.now, ORIGIN, node, 0);
            let input = Box::new(Input::Received { from: id(ORIGIN), message });
            self.push(at, Happening::Arrives { from: ORIGIN, to: node, generation, input });
        }
    }

    /// The node that holds this stage of the origin's plan.
    fn at_stage(&self, stage: usize) -> Option<usize> {
        let others: Vec<_> = self.ring().into_iter().filter(|node| *node != ORIGIN).collect();
        others.get(stage % others.len().max(1)).copied()
    }

    /// The nodes that hold the stages of the origin's plan, in order; none without a plan.
    pub(super) fn ring(&self) -> Vec<usize> {
        let served = self.nodes[ORIGIN].node.snapshot().served;
        let plan = served.into_iter().find_map(|served| match served.state {
            ServedState::Ready(plan) | ServedState::Preparing(plan, _) => Some(plan),
            ServedState::Waiting | ServedState::Failed(_) => None,
        });
        plan.iter().flat_map(|plan| &plan.stages).map(|stage| index(stage.node)).collect()
    }

    fn cut(&mut self, a: usize, b: usize, until: u64) {
        self.network.hold(a, b, until);
        self.network.hold(b, a, until);
    }

    /// The process is gone, and with it everything it knew.
    fn go_down(&mut self, node: usize) {
        self.goes(node, true);
        self.reset(node);
        self.silence(node);
    }

    fn reset(&mut self, node: usize) {
        for peer in self.network.connected(node) {
            self.disconnect(node, peer, "connection reset");
        }
    }

    /// The node is gone, and nobody is told.
    fn silence(&mut self, node: usize) {
        if self.nodes[node].is_up {
            self.see(&Seen::Gone { node });
        }
        let Slot { life, breaks_unheard, .. } = self.nodes[node];
        let gone = self.slot(node, life + 1);
        self.nodes[node] = Slot { is_up: false, breaks_unheard, ..gone };
    }

    pub(super) fn come_up(&mut self, node: usize) {
        if self.nodes[node].is_up {
            return;
        }
        self.nodes[node].is_up = true;
        self.see(&Seen::Back { node });
        self.comes(node);
        // Whoever waits for its earlier life learns that it is over.
        self.reset(node);
        self.says(node, 100);
        for peer in self.around.of(node) {
            self.rediscover(node, peer);
        }
    }

    /// Two nodes lost each other: some time later they hear of each other again.
    pub(super) fn rediscover_later(&mut self, a: usize, b: usize) {
        self.push(self.now + REDISCOVERY_US, Happening::Rediscovered { a, b });
    }

    pub(super) fn rediscover(&mut self, a: usize, b: usize) {
        let up = self.nodes[a].is_up && self.nodes[b].is_up && a != b;
        if !up || self.network.connection(a, b).is_some() {
            return;
        }
        self.handle(a, Input::Discovered { peer: id(b) });
        if self.network.connection(a, b).is_none() {
            self.rediscover_later(a, b);
        }
    }

    /// The core is whole from here on, the others are gone.
    pub(super) fn heal(&mut self) {
        self.network.heal();
        let nodes = 0..self.nodes.len();
        for node in nodes.clone().filter(|node| !self.schedule.core.contains(node)) {
            self.go_down(node);
        }
        for node in nodes.filter(|node| self.schedule.core.contains(node)) {
            let slot = &mut self.nodes[node];
            slot.paused_until = 0;
            slot.slow = (100, 0);
            (slot.loading.no_memory_until, slot.loading.disk_full_until) = (0, 0);
            // A dead origin took its requests with it.
            if node != ORIGIN {
                self.come_up(node);
            }
        }
        if !self.nodes[ORIGIN].is_up {
            // Nobody is left to end its requests: the stages must have let them go by themselves.
            for request in (0..).map(RequestId).take(self.schedule.requests.len()) {
                self.push(self.now + ORPHANED_US, Happening::LooksBack { request });
            }
        }
        for a in 0..self.nodes.len() {
            for b in self.around.of(a).into_iter().take_while(|b| *b < a) {
                self.rediscover(a, b);
            }
        }
    }
}
