//! What rounds show of nodes and links beside what the plan was made with.
//!
//! A node is timed by its own clock over its own work, so what a token of a session alone takes at
//! each stage is known; what is left of a round lies between the nodes. Medians of a few rounds
//! count. Profiles may all be wrong by the same factor, since they are taken from another model's
//! work: that is found at the first look, by the node with most work, and only what differs from it
//! by a fifth is a change. What a node with little work did quickly it may have done in a burst, so
//! it is believed only as far as its profile says the same.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use super::predicting::Shown;
use super::{PlanState, Served};
use crate::ids::{NodeId, PlanEpoch, Time, median};
use crate::io::HopTime;
use crate::plan::Stage;

/// Rounds that are looked at together.
const ROUNDS: usize = 8;
/// Time between two looks at what rounds show, µs.
pub(super) const LOOKS_US: u64 = 1_000_000;
/// What has changed by so much has changed, percent.
const DRIFT_PERCENT: u64 = 20;
/// And by so much, µs: less is nothing that a plan could win.
const DRIFT_US: u64 = 300;
/// What was measured of a node that does nothing now, or little, is believed for so long, µs.
const AGE_US: u64 = 600_000_000;
/// A node that reads so much of the model's layers for a token has much work, percent.
const MUCH_PERCENT: u64 = 66;
/// So much of what profiles say holds for all nodes, permille: a node that keeps less of its word
/// is itself the exception, and what is beyond is no speed.
const REAL_PERMILLE: Range<u64> = 500..10_000;
/// What is known beyond profiles.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// The latest rounds of one plan.
    rounds: VecDeque<Round>,
    epoch: PlanEpoch,
    /// What nodes really do of what their profiles say, permille: `None` until it was looked at.
    real_permille: Option<u64>,
    measured: BTreeMap<NodeId, Measured>,
    /// What nodes did in this plan.
    pub(super) shown: Shown,
    /// What lay between the nodes when this plan was first looked at, µs.
    between_us: Option<u64>,
    next_look: Time,
    /// No move before.
    pub(super) hold_until: Time,
    /// No search before: whoever says something of itself again and again costs no more than one
    /// in so long.
    pub(super) next_search: Time,
    /// Since when parts have been on their way to nodes.
    pub(super) sent_since: Option<Time>,
    /// When to think of another plan.
    pub(super) look_at: Option<Time>,
    /// Positions of the session that spoke last, and when.
    pub(super) positions: (u32, Time),
}

/// One round of one session.
#[derive(Debug)]
struct Round {
    /// Computing at each node, µs.
    compute_us: BTreeMap<NodeId, u64>,
    /// On the way between them, µs.
    between_us: u64,
    /// All of it, µs.
    round_us: u64,
}

/// A node's speed as its work showed it.
#[derive(Clone, Copy, Debug)]
struct Measured {
    weight_bytes_per_s: u64,
    /// It had so much to do that it would do as well with more.
    is_much: bool,
    at: Time,
}

/// What a look at rounds showed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Drift {
    pub(super) of_nodes: bool,
    pub(super) of_links: bool,
}

impl Watch {
    /// A node's speed with more work than it has: as measured, or what it says as far as others'
    /// words hold.
    pub(super) fn speed(&self, node: NodeId, claimed: u64) -> u64 {
        let real = u128::from(self.real_permille.unwrap_or(1000));
        let said = u64::try_from(u128::from(claimed) * real / 1000).unwrap_or(u64::MAX);
        match self.measured.get(&node) {
            Some(measured) if measured.is_much => measured.weight_bytes_per_s,
            Some(measured) => measured.weight_bytes_per_s.min(said),
            None => said,
        }
    }

    /// Takes down what a node showed. What it does with little work does not count against what it
    /// did with much not long ago, unless it is slower now.
    fn note(&mut self, node: NodeId, new: Measured) {
        let old = self.measured.get(&node).filter(|old| old.at.after_us(AGE_US) > new.at);
        let stays = old.is_some_and(|old| {
            old.is_much && !new.is_much && old.weight_bytes_per_s <= new.weight_bytes_per_s
        });
        if !stays {
            self.measured.insert(node, new);
        }
    }

    /// A node is gone, and what it did with it.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.measured.remove(&node);
    }

    /// What was measured long ago of nodes that are no stages counts no more.
    pub(super) fn age(&mut self, now: Time, stages: &[Stage]) {
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

    /// Whether parts are on their way to nodes.
    pub(super) fn is_sending(&self) -> bool {
        !self.asked.is_empty() || self.coming.is_some()
    }

    /// Bytes that the latest token reads at a node, of weights and caches.
    pub(super) fn work_bytes(&self, node: NodeId, me: NodeId) -> u64 {
        let stage = self.stages.iter().find(|stage| stage.node == node);
        let positions = self.watch.positions.0.into();
        let layers = stage.map_or(0, |stage| self.model.part_bytes(stage.layers, positions));
        let head = self.model.embed_bytes.max(self.model.head_bytes);
        if node == me { layers.saturating_add(head) } else { layers }
    }

    /// Takes a round in. What it and those before it show, if it is time to look and the plan may
    /// change for it.
    pub(super) fn round(
        &mut self,
        now: Time,
        me: NodeId,
        claimed: impl Fn(NodeId) -> u64,
        (hops, round_us): (&[HopTime], u64),
    ) -> Option<Drift> {
        let PlanState::Ready(plan) = &self.state else { return None };
        if self.coming.is_some() {
            // Parts on their way are in the way of tokens.
            self.watch.rounds.clear();
            return None;
        }
        if plan.epoch != self.watch.epoch {
            // What lies between the nodes of another ring takes another time.
            self.watch.epoch = plan.epoch;
            self.watch.rounds.clear();
            self.watch.between_us = None;
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
        let round = Round { compute_us, between_us: round_us.saturating_sub(held), round_us };
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
        let took = nodes.iter().map(|node| Some((*node, took(node)?)));
        let took: BTreeMap<NodeId, u64> = took.collect::<Option<_>>()?;
        let between_us = median(rounds.iter().map(|round| round.between_us))?;
        let round_us = median(rounds.iter().map(|round| round.round_us))?;
        let drift = self.policy.is_by_time().then(|| Drift {
            of_nodes: self.nodes_drift(now, me, claimed, &took),
            of_links: self.watch.links_drift(between_us),
        });
        self.show(me, took, round_us);
        drift
    }

    /// Notes how fast nodes are by what they `took`, µs; whether one is not as was thought.
    fn nodes_drift(
        &mut self,
        now: Time,
        me: NodeId,
        claimed: impl Fn(NodeId) -> u64,
        took: &BTreeMap<NodeId, u64>,
    ) -> bool {
        let speed = |node: NodeId, us: u64| per_s(self.work_bytes(node, me), us);
        let speeds: Vec<_> = took.iter().map(|(&node, &us)| (node, us, speed(node, us))).collect();
        if self.watch.real_permille.is_none() {
            let busiest = speeds.iter().max_by_key(|(node, ..)| self.work_bytes(*node, me));
            let real = busiest.map_or(1000, |&(node, _, speed)| {
                let permille = u128::from(speed) * 1000 / u128::from(claimed(node).max(1));
                u64::try_from(permille).unwrap_or(u64::MAX)
            });
            self.watch.real_permille = Some(real.clamp(REAL_PERMILLE.start, REAL_PERMILLE.end));
        }
        let mut has_changed = false;
        for (node, us, weight_bytes_per_s) in speeds {
            let is_much = self.is_much(node, me);
            let thought = self.watch.speed(node, claimed(node));
            let thought_us = u128::from(us) * u128::from(weight_bytes_per_s);
            let thought_us = u64::try_from(thought_us / u128::from(thought.max(1)));
            let differs = differs(us, thought_us.unwrap_or(u64::MAX));
            // Faster than its profile, with little to do, is nothing to build on.
            has_changed |= differs && (is_much || weight_bytes_per_s < thought);
            if differs || is_much {
                self.watch.note(node, Measured { weight_bytes_per_s, is_much, at: now });
            }
        }
        tracing::debug!(?took, has_changed, "nodes looked at");
        has_changed
    }

    /// Whether a node reads much of the model for a token.
    fn is_much(&self, node: NodeId, me: NodeId) -> bool {
        let layers = self.model.layer_bytes.iter().fold(0, |sum: u64, b| sum.saturating_add(*b));
        self.work_bytes(node, me) >= layers / 100 * MUCH_PERCENT
    }
}

impl Watch {
    /// Whether what lies between nodes, µs, is not what it was.
    fn links_drift(&mut self, between_us: u64) -> bool {
        let before = *self.between_us.get_or_insert(between_us);
        let has_changed = differs(between_us, before);
        tracing::debug!(between_us, before, has_changed, "links looked at");
        if has_changed {
            self.between_us = None;
        }
        has_changed
    }
}

/// Bytes per second of a node that took so long, µs; at least 1.
pub(super) fn per_s(bytes: u64, us: u64) -> u64 {
    let per_s = u128::from(bytes) * 1_000_000 / u128::from(us.max(1));
    u64::try_from(per_s).unwrap_or(u64::MAX).max(1)
}

/// Whether a time, µs, is not what was thought.
const fn differs(us: u64, thought: u64) -> bool {
    let off = us.abs_diff(thought);
    off > DRIFT_US && off > thought / 100 * DRIFT_PERCENT
}

#[cfg(test)]
mod tests;
