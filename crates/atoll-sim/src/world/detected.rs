//! Who finds out that a node is gone, and who believes it of one that is not.

use std::collections::{BTreeMap, BTreeSet};

use atoll_proto::Event;
use atoll_proto::snapshot::ServedState;

use super::trace::without_figures;
use super::{ORIGIN, World, index};

/// Who knows whom, and who is gone.
#[derive(Default)]
pub(super) struct Detected {
    /// Of each member of a node (node first): in which of its lives it joined.
    known: BTreeMap<(usize, usize), u32>,
    gone: BTreeMap<usize, Gone>,
}

/// A node that is gone.
struct Gone {
    since: u64,
    is_reset: bool,
    /// The origin has a part at it.
    is_used: bool,
    /// Those whose member it was and that have not found out.
    unaware: BTreeSet<usize>,
    is_suspected: bool,
}

/// A life that nobody lives.
const NO_LIFE: u32 = u32::MAX;

impl World<'_> {
    /// A node is about to go.
    pub(super) fn goes(&mut self, node: usize, is_reset: bool) {
        if !self.nodes[node].is_up {
            return;
        }
        let is_used = self.uses(node);
        let around = self.network.connected(node).into_iter();
        let known = &mut self.detected.known;
        let unaware = around.filter(|other| known.contains_key(&(*other, node))).collect();
        *known = {
            let mut later = known.split_off(&(node, 0));
            known.append(&mut later.split_off(&(node + 1, 0)));
            std::mem::take(known)
        };
        let gone = &mut self.detected.gone;
        for other in gone.values_mut() {
            other.unaware.remove(&node);
        }
        let is_suspected = false;
        gone.insert(node, Gone { since: self.now, is_reset, is_used, unaware, is_suspected });
        let detection = &mut self.report.detection;
        *(if is_reset { &mut detection.kills } else { &mut detection.cuts }) += 1;
    }

    /// A node is back: who has not noticed never will.
    pub(super) fn comes(&mut self, node: usize) {
        if let Some(gone) = self.detected.gone.remove(&node).filter(|gone| !gone.is_reset) {
            self.report.detection.missed += gone.unaware.len() as u64;
        }
    }

    /// Whether a node is gone without a word, so that nobody can know at once.
    pub(super) fn is_cut_off(&self, node: usize) -> bool {
        self.detected.gone.get(&node).is_some_and(|gone| !gone.is_reset)
    }

    /// Whether the origin has a part at a node.
    fn uses(&self, node: usize) -> bool {
        let mut served = self.nodes[ORIGIN].node.snapshot().served.into_iter();
        served.any(|served| match served.state {
            ServedState::Ready(plan) | ServedState::Preparing(plan, _) => {
                plan.stages.iter().chain(&plan.spares).any(|stage| index(stage.node) == node)
            }
            ServedState::Waiting | ServedState::Failed(_) => false,
        })
    }

    /// A node says something about another.
    pub(super) fn detects(&mut self, node: usize, event: &Event) {
        match event {
            Event::PeerJoined { peer, .. } => {
                let slot = &self.nodes[index(*peer)];
                let life = if slot.is_up { slot.life } else { NO_LIFE };
                self.detected.known.insert((node, index(*peer)), life);
            }
            Event::PeerSuspected { peer } => self.suspects(node, index(*peer)),
            Event::PeerLeft { peer, cause } => self.loses(node, index(*peer), cause),
            Event::PlanReady { .. }
            | Event::PlanProgress { .. }
            | Event::PlanFailed { .. }
            | Event::Parked { .. }
            | Event::Prefilled { .. }
            | Event::Token { .. }
            | Event::Finished { .. }
            | Event::Failed { .. } => {}
        }
    }

    fn suspects(&mut self, node: usize, peer: usize) {
        if self.nodes[peer].is_up {
            let is_used = node == ORIGIN && self.uses(peer);
            let detection = &mut self.report.detection;
            detection.false_suspicions += 1;
            detection.false_user_suspicions += u64::from(is_used);
            return;
        }
        let Some(gone) = self.detected.gone.get_mut(&peer).filter(|gone| !gone.is_reset) else {
            return;
        };
        let (after_us, detection) = (self.now - gone.since, &mut self.report.detection);
        if !std::mem::replace(&mut gone.is_suspected, true) {
            detection.cut_first_us.0.push(after_us);
        }
        if gone.unaware.remove(&node) {
            detection.cut_suspected_us.0.push(after_us);
            if gone.is_used && node == ORIGIN {
                detection.cut_user_us.0.push(after_us);
            }
        }
    }

    fn loses(&mut self, node: usize, peer: usize, cause: &str) {
        let life = self.detected.known.remove(&(node, peer));
        let slot = &self.nodes[peer];
        if slot.is_up {
            if life == Some(slot.life) {
                let causes = &mut self.report.detection.false_evictions;
                *causes.entry(without_figures(cause)).or_default() += 1;
            }
            return;
        }
        if let Some(gone) = self.detected.gone.get_mut(&peer) {
            let detection = &mut self.report.detection;
            let times = if gone.is_reset {
                &mut detection.kill_lost_us
            } else {
                &mut detection.cut_lost_us
            };
            times.0.push(self.now - gone.since);
            gone.unaware.remove(&node);
        }
    }
}
