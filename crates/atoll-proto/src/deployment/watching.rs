//! What rounds show of nodes and links beside what the plan was made with, and when that, or a node
//! that has come, is reason for another plan.
//!
//! A node is timed by its own clock over its own work, so what a token of a session alone takes at
//! each stage is known; what is left of a round lies between the nodes. Medians of a few rounds
//! count. Profiles may all be wrong by the same factor, since they are taken from another model's
//! work: that is found at the first look, and only what differs from it by a fifth is a change.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Deployment, PlanState, Served};
use crate::effects::Effects;
use crate::ids::{ModelId, NodeId, PlanEpoch, Time};
use crate::io::HopTime;
use crate::limits::Limits;
use crate::membership::Membership;
use crate::plan::Stage;
use crate::planner;

/// Rounds that are looked at together.
const ROUNDS: usize = 8;
/// Time between two looks at what rounds show, µs.
const LOOKS_US: u64 = 1_000_000;
/// What has changed by so much has changed, percent.
const DRIFT_PERCENT: u64 = 20;
/// And by so much, µs: less is nothing that a plan could win.
const DRIFT_US: u64 = 300;
/// What was measured of a node that does nothing now is believed for so long, µs.
const AGE_US: u64 = 600_000_000;
/// What a plan has to save of a token's time to take the place of another, percent.
const GAIN_PERCENT: u64 = 10;
/// The same where nodes have no room for both, so that sessions stand still while parts load.
const GAIN_STANDING_PERCENT: u64 = 33;
/// A move is to save more than it costs within so long, ns.
const PAYS_WITHIN_NS: u64 = 60_000_000_000;
/// A row of a prompt is computed so many times as fast as one alone, at least.
const ROWS_GAIN: u64 = 8;
/// A session that gave no token for so long is none that a move would hold up, µs.
const IDLE_US: u64 = 5_000_000;

/// What is known beyond profiles.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// The latest rounds of one plan.
    rounds: VecDeque<Round>,
    epoch: PlanEpoch,
    /// What nodes really do of what their profiles say, permille: `None` until it was looked at.
    real_permille: Option<u64>,
    measured: BTreeMap<NodeId, Measured>,
    /// What lay between the nodes when this plan was first looked at, µs.
    between_us: Option<u64>,
    next_look: Time,
    /// No move before.
    hold_until: Time,
    /// When to think of another plan.
    pub(super) look_at: Option<Time>,
    /// Positions of the session that spoke last, and when.
    positions: (u32, Time),
}

/// One round of one session.
#[derive(Debug)]
struct Round {
    /// Computing at each node, µs.
    compute_us: BTreeMap<NodeId, u64>,
    /// On the way between them, µs.
    between_us: u64,
}

/// A node's speed as its work showed it.
#[derive(Clone, Copy, Debug)]
struct Measured {
    weight_bytes_per_s: u64,
    at: Time,
}

/// What a look at rounds showed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Drift {
    of_nodes: bool,
    of_links: bool,
}

impl Watch {
    /// A node's speed: as measured, or what it says as far as others' words hold.
    pub(super) fn speed(&self, node: NodeId, claimed: u64) -> u64 {
        let real = self.real_permille.map_or(1000, |permille| permille.min(1000));
        let said = u128::from(claimed) * u128::from(real) / 1000;
        let measured = self.measured.get(&node).map(|measured| measured.weight_bytes_per_s);
        measured.unwrap_or(u64::try_from(said).unwrap_or(u64::MAX))
    }

    /// A node is gone, and what it did with it.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.measured.remove(&node);
    }

    /// A move has been made or given up: the next one not before `until`.
    pub(super) fn moved(&mut self, until: Time) {
        self.hold_until = until;
        self.rounds.clear();
        self.between_us = None;
    }

    /// What was measured long ago of nodes that are no stages counts no more.
    fn age(&mut self, now: Time, stages: &[Stage]) {
        self.measured.retain(|node, measured| {
            let is_stage = stages.iter().any(|stage| stage.node == *node);
            is_stage || measured.at.after_us(AGE_US) > now
        });
    }
}

impl Served {
    /// Whether it is time to think of another plan.
    pub(super) fn is_to_be_looked_at(&self, now: Time) -> bool {
        let at = [self.watch.look_at, self.place_by].into_iter().flatten().min();
        at.is_some_and(|at| at <= now)
    }

    /// Weight bytes that a token reads at a node.
    fn work_bytes(&self, node: NodeId, me: NodeId) -> u64 {
        let stage = self.stages.iter().find(|stage| stage.node == node);
        let layers = stage.map_or(0, |stage| self.model.part_bytes(stage.layers, 0));
        let head = self.model.embed_bytes.max(self.model.head_bytes);
        if node == me { layers.saturating_add(head) } else { layers }
    }

    /// Takes a round in. What it and those before it show, if it is time to look.
    fn round(
        &mut self,
        now: Time,
        me: NodeId,
        claimed: impl Fn(NodeId) -> u64,
        (hops, round_us): (&[HopTime], u64),
    ) -> Option<Drift> {
        let PlanState::Ready(plan) = &self.state else { return None };
        if plan.epoch != self.watch.epoch {
            self.watch.epoch = plan.epoch;
            self.watch.rounds.clear();
        }
        let mut compute_us = BTreeMap::<NodeId, u64>::new();
        for hop in hops {
            *compute_us.entry(hop.node).or_default() += u64::from(hop.compute_us);
        }
        let nodes: BTreeSet<NodeId> =
            self.stages.iter().map(|stage| stage.node).chain([me]).collect();
        if !compute_us.keys().eq(nodes.iter()) {
            return None;
        }
        let held: u64 = hops.iter().map(|hop| u64::from(hop.held_us)).sum();
        let round = Round { compute_us, between_us: round_us.saturating_sub(held) };
        let watch = &mut self.watch;
        watch.rounds.push_back(round);
        if watch.rounds.len() > ROUNDS {
            watch.rounds.pop_front();
        }
        if watch.rounds.len() < ROUNDS || watch.next_look > now {
            return None;
        }
        watch.next_look = now.after_us(LOOKS_US);
        let rounds = std::mem::take(&mut watch.rounds);
        let took = |node: &NodeId| median(rounds.iter().map(|round| round.compute_us[node]));
        let took: BTreeMap<NodeId, u64> = nodes.iter().map(|node| (*node, took(node))).collect();
        Some(Drift {
            of_nodes: self.nodes_drift(now, me, claimed, &took),
            of_links: self.watch.links_drift(median(rounds.iter().map(|round| round.between_us))),
        })
    }

    /// Notes how fast nodes are by what they `took`, µs; whether one is not as was thought.
    fn nodes_drift(
        &mut self,
        now: Time,
        me: NodeId,
        claimed: impl Fn(NodeId) -> u64,
        took: &BTreeMap<NodeId, u64>,
    ) -> bool {
        let speed = |node: NodeId, us: u64| {
            let per_s = u128::from(self.work_bytes(node, me)) * 1_000_000 / u128::from(us.max(1));
            u64::try_from(per_s).unwrap_or(u64::MAX).max(1)
        };
        let speeds: Vec<_> = took.iter().map(|(&node, &us)| (node, us, speed(node, us))).collect();
        if self.watch.real_permille.is_none() {
            // Of two nodes the one that keeps its word better: the other one is the slow one.
            let real = speeds.iter().map(|&(node, _, speed)| {
                let permille = u128::from(speed) * 1000 / u128::from(claimed(node).max(1));
                u64::try_from(permille).unwrap_or(u64::MAX)
            });
            self.watch.real_permille = Some(median(real).max(1));
        }
        let mut has_changed = false;
        for &(node, us, speed) in &speeds {
            let thought = self.watch.speed(node, claimed(node));
            let thought_us = u128::from(us) * u128::from(speed) / u128::from(thought.max(1));
            has_changed |= differs(us, u64::try_from(thought_us).unwrap_or(u64::MAX));
        }
        if has_changed {
            for (node, _, weight_bytes_per_s) in speeds {
                self.watch.measured.insert(node, Measured { weight_bytes_per_s, at: now });
            }
        }
        has_changed
    }
}

impl Watch {
    /// Whether what lies between nodes, µs, is not what it was.
    fn links_drift(&mut self, between_us: u64) -> bool {
        let before = *self.between_us.get_or_insert(between_us);
        let has_changed = differs(between_us, before);
        if has_changed {
            self.between_us = None;
        }
        has_changed
    }
}

/// Whether a time, µs, is not what was thought.
const fn differs(us: u64, thought: u64) -> bool {
    let off = us.abs_diff(thought);
    off > DRIFT_US && off > thought / 100 * DRIFT_PERCENT
}

/// Of two in the middle the larger one; 0 of nothing.
fn median(of: impl Iterator<Item = u64>) -> u64 {
    let mut sorted: Vec<u64> = of.collect();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or(0)
}

impl Deployment {
    /// A token of the only session under way came around a model's ring.
    pub(crate) fn came_around(
        &mut self,
        fx: &mut Effects,
        members: &Membership,
        limits: &Limits,
        (model, positions): (ModelId, u32),
        round: (&[HopTime], u64),
    ) {
        let me = self.me;
        let Some(served) = self.served.get_mut(&model) else { return };
        if served.policy.stages.is_some() || served.policy.rule.is_some() {
            return;
        }
        served.watch.positions = (positions, fx.now);
        let claimed = |node| {
            let member = members.member(node).map(|member| &member.profile);
            let profile = if node == me { Some(members.profile()) } else { member };
            profile.map_or(0, |profile| profile.weight_bytes_per_s)
        };
        let Some(drift) = served.round(fx.now, me, claimed, round) else { return };
        if drift.of_links {
            tracing::info!(%model, "between nodes it takes another time than before");
            self.in_doubt.extend(served.stages.iter().map(|stage| stage.node));
            self.in_doubt.remove(&me);
        }
        if drift.of_nodes || drift.of_links {
            self.reconsider(fx, members, limits, model);
        }
    }

    /// Members whose links are to be measured anew.
    pub(crate) fn take_in_doubt(&mut self) -> BTreeSet<NodeId> {
        std::mem::take(&mut self.in_doubt)
    }

    /// Looks for a plan that is worth leaving the one in force.
    pub(super) fn reconsider(
        &mut self,
        fx: &mut Effects,
        members: &Membership,
        limits: &Limits,
        id: ModelId,
    ) {
        let Some(served) = self.served.get_mut(&id) else { return };
        let is_open = served.policy.stages.is_none() && served.policy.rule.is_none();
        served.watch.look_at = None;
        if !is_open || served.coming.is_some() || !matches!(served.state, PlanState::Ready(_)) {
            served.place_by = None;
            return;
        }
        if served.watch.hold_until > fx.now {
            served.watch.look_at = Some(served.watch.hold_until);
            served.place_by = None;
            return;
        }
        if !self.in_doubt.is_empty() || !self.knows_links(fx.now, members, id) {
            return self.look_again(fx.now, id);
        }
        let Some(served) = self.served.get_mut(&id) else { return };
        let stages = served.stages.clone();
        served.watch.age(fx.now, &stages);
        let served = &self.served[&id];
        let (asked, owner) = ((&served.model, &served.policy), self.owner(members, id));
        let others = self.candidates(fx.now, members, id, false);
        let known = |from, to| members.link(from, to);
        let Ok(better) = planner::place_linked(asked.0, asked.1, owner, &others, &known) else {
            return;
        };
        if better == stages {
            return;
        }
        let ns = |stages: &[Stage]| planner::token_ns(asked, (owner, &others), &known, stages);
        let (Some(now_ns), Some(then_ns)) = (ns(&stages), ns(&better)) else { return };
        let (positions, heard) = served.watch.positions;
        let is_busy = heard.after_us(IDLE_US) > fx.now;
        let held_up = if is_busy { u64::from(positions) } else { 0 };
        let is_beside = self.fits_beside(members, id, &better);
        if is_worth((now_ns, then_ns), held_up, is_beside || !is_busy) {
            tracing::info!(model = %id, now_ns, then_ns, is_beside, "a better plan");
            if is_beside {
                self.move_to(fx, limits, id, better);
            } else {
                self.assign(fx, limits, id, better);
            }
        }
    }

    /// Links are being measured: what comes of it, or at the latest the end of the wait, is looked
    /// at.
    fn look_again(&mut self, now: Time, id: ModelId) {
        let Some(served) = self.served.get_mut(&id) else { return };
        if served.place_by.is_none() {
            served.watch.look_at = Some(now.after_us(1));
        }
    }
}

/// Whether a plan whose token takes `then_ns` is to take the place of one with `now_ns`, where a
/// session of so many positions has to be computed again; `is_smooth`: nothing else stands still.
fn is_worth((now_ns, then_ns): (u64, u64), positions: u64, is_smooth: bool) -> bool {
    let gain_ns = now_ns.saturating_sub(then_ns);
    let least = if is_smooth { GAIN_PERCENT } else { GAIN_STANDING_PERCENT };
    let tokens = PAYS_WITHIN_NS / now_ns.max(1);
    let cost_ns = u128::from(positions) * u128::from(then_ns) / u128::from(ROWS_GAIN);
    u128::from(gain_ns) * 100 >= u128::from(now_ns) * u128::from(least)
        && u128::from(gain_ns) * u128::from(tokens) >= cost_ns
}

#[cfg(test)]
mod tests;
