//! What tokens of the plan in force should take, and what they took.
//!
//! Nodes, and the ways between them, are believed what they did in this plan lately; before they
//! did anything, nodes what their profiles say and links what probes showed. (A node that has a
//! share of a processor answers a probe at once and a token when its next share comes, so probes
//! promise too much: by half in a mesh of nodes with half a core each.)

use std::collections::{BTreeMap, VecDeque};

use super::watching::per_s;
use super::{Deployment, PlanState, Served};
use crate::effects::Passed;
use crate::ids::{ModelId, NodeId, median};
use crate::membership::Membership;
use crate::plan::Stage;
use crate::planner::{self, At, Candidate};
use crate::snapshot::{NodeTiming, Timing};

/// Prompt tokens for which the first token is predicted, if the context has room for them.
const PROMPT_TOKENS: u32 = 512;
/// Chunks with fewer rows say little about those with many.
const CHUNK_ROWS_MIN: u32 = 32;
/// Looks, and chunks, of which the median is believed: the same work takes a machine now a tenth
/// less and now a tenth more.
const LATEST: usize = 7;

/// What nodes did in the plan in force.
#[derive(Debug, Default)]
pub(super) struct Shown {
    stages: Vec<Stage>,
    paces: BTreeMap<NodeId, Pace>,
    /// What is no computing of a token, µs.
    between_us: Latest,
    latest: Option<Look>,
}

/// How fast a node was lately with the work that it has: bytes of weights and caches per second.
#[derive(Debug, Default)]
struct Pace {
    /// For a token.
    token: Latest,
    /// For a row of a prompt's chunk.
    chunk: Latest,
}

/// The latest few figures.
#[derive(Debug, Default)]
struct Latest(VecDeque<u64>);

impl Latest {
    fn push(&mut self, figure: u64) {
        if self.0.len() == LATEST {
            self.0.pop_front();
        }
        self.0.push_back(figure);
    }

    fn median(&self) -> Option<u64> {
        median(self.0.iter().copied())
    }
}

/// The medians of the latest look.
#[derive(Debug)]
struct Look {
    /// Of computing, µs.
    compute_us: BTreeMap<NodeId, u64>,
    /// Of all of a token, µs.
    round_us: u64,
}

impl Shown {
    /// Forgets what other stages did.
    fn of(&mut self, stages: &[Stage]) -> &mut Self {
        if self.stages != stages {
            *self = Self { stages: stages.to_vec(), ..Self::default() };
        }
        self
    }
}

#[cfg(test)]
impl Shown {
    /// What a node computed, and all of a token, µs.
    pub(super) fn latest(&self, node: NodeId) -> Option<(u64, u64)> {
        let look = self.latest.as_ref()?;
        Some((*look.compute_us.get(&node)?, look.round_us))
    }
}

impl Served {
    /// Takes down what nodes computed for tokens lately, and all of a token, µs.
    pub(super) fn show(&mut self, me: NodeId, compute_us: BTreeMap<NodeId, u64>, round_us: u64) {
        for (&node, &us) in &compute_us {
            let speed = per_s(self.work_bytes(node, me), us);
            self.watch.shown.of(&self.stages).paces.entry(node).or_default().token.push(speed);
        }
        let computed: u64 = compute_us.values().sum();
        let shown = self.watch.shown.of(&self.stages);
        shown.between_us.push(round_us.saturating_sub(computed));
        shown.latest = Some(Look { compute_us, round_us });
    }

    /// A chunk of a prompt of the only session under way has passed.
    fn chunk_passed(&mut self, passed: &Passed) {
        let PlanState::Ready(_) = self.state else { return };
        let rows = u64::from(passed.positions.end - passed.positions.start);
        if self.coming.is_some() || rows < CHUNK_ROWS_MIN.into() {
            return;
        }
        let middle = u64::from(passed.positions.start) + rows / 2;
        for stage in &self.stages {
            let hops = passed.hops.iter().filter(|hop| hop.node == stage.node);
            let us: u64 = hops.map(|hop| u64::from(hop.compute_us)).sum();
            if us > 0 {
                let bytes = self.model.part_bytes(stage.layers, middle).saturating_mul(rows);
                let shown = self.watch.shown.of(&self.stages);
                shown.paces.entry(stage.node).or_default().chunk.push(per_s(bytes, us));
            }
        }
    }
}

impl Deployment {
    /// A chunk of a prompt of the only session under way has passed every stage.
    pub(crate) fn chunk_passed(&mut self, model: ModelId, passed: &Passed) {
        if let Some(served) = self.served.get_mut(&model) {
            served.chunk_passed(passed);
        }
    }

    /// What tokens of a model's plan should take, and what they took; `None` without a plan in
    /// force, or where it cannot be said.
    pub(crate) fn timing(&self, members: &Membership, model: ModelId) -> Option<Timing> {
        let served = self.served.get(&model)?;
        let PlanState::Ready(plan) = &served.state else { return None };
        let shown = Some(&served.watch.shown).filter(|shown| shown.stages == plan.stages);
        let node = |node: NodeId| {
            let profile = members.profile_of(node)?;
            let pace = shown.and_then(|shown| shown.paces.get(&node));
            let token = pace.and_then(|pace| pace.token.median());
            let chunk = pace.and_then(|pace| pace.chunk.median());
            let said = || served.watch.speed(node, profile.weight_bytes_per_s);
            Some(Candidate {
                node,
                memory_bytes: u64::MAX,
                weight_bytes_per_s: token.unwrap_or_else(said),
                prefill_bytes_per_s: chunk.unwrap_or(profile.prefill_bytes_per_s),
            })
        };
        let remote = plan.stages.iter().map(|stage| stage.node).filter(|other| *other != self.me);
        let nodes: Vec<Candidate> =
            std::iter::once(self.me).chain(remote).map(node).collect::<Option<_>>()?;
        let context = planner::context(&served.model, &served.policy);
        let positions = match served.watch.positions.0 {
            0 => PROMPT_TOKENS.min(context),
            heard => heard,
        };
        let at = At { positions, prompt_tokens: PROMPT_TOKENS.min(context) };
        let known = |from, to| members.link(from, to);
        let asked = (&served.model, &served.policy);
        let predicted = planner::predict(asked, &nodes, &known, (&plan.stages, at))?;
        let computed: u64 = predicted.compute_us.iter().sum();
        let between_us = shown.and_then(|shown| shown.between_us.median());
        let between_us = between_us.unwrap_or(predicted.token_us.saturating_sub(computed));
        let latest = shown.and_then(|shown| shown.latest.as_ref());
        let timings = nodes.iter().zip(predicted.compute_us).map(|(node, predicted_us)| {
            let took = latest.and_then(|latest| latest.compute_us.get(&node.node));
            NodeTiming { node: node.node, predicted_us, measured_us: took.copied() }
        });
        Some(Timing {
            positions,
            token_us: computed.saturating_add(between_us),
            measured_token_us: latest.map(|latest| latest.round_us),
            prompt_tokens: at.prompt_tokens,
            first_token_us: predicted.first_token_us,
            nodes: timings.collect(),
        })
    }
}

#[cfg(test)]
mod tests;
