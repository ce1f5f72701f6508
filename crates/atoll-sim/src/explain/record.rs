//! What happened in a run, node by node, as far as a picture can show it.

use std::ops::Range;

use atoll_proto::Event;
use atoll_proto::plan::{LayerRange, Plan};

use crate::invariants::{Invariant, Seen};
use crate::schedule::{Schedule, What};
use crate::world::index;

/// A picture is no wider than so many of its dots: what lies closer together is one.
const DOTS: u64 = 4_000;
/// Faults and plans of which it is noted when they came.
const NOTED_MAX: usize = 10_000;

/// What happened in a run.
#[derive(Debug)]
pub struct Record {
    dot_us: u64,
    end_us: u64,
    nodes: Vec<NodeRecord>,
    /// Plans in force at the origin, from when on, µs.
    pub(super) plans: Vec<(u64, Plan)>,
    /// What struck, and when, µs.
    pub(super) struck: Vec<(u64, What)>,
    /// Which node the origin suspected, and when, µs.
    pub(super) suspected: Vec<(u64, usize)>,
    /// Which request had to wait for a plan, and from when on, µs.
    pub(super) parked: Vec<(u64, u64)>,
}

#[derive(Clone, Debug, Default)]
struct NodeRecord {
    /// When it computed, µs; close ones are joined.
    busy: Vec<Range<u64>>,
    busy_us: u64,
    jobs: u64,
    /// When it was gone, µs.
    away: Vec<Range<u64>>,
    memory_bytes_max: u64,
}

/// What a node held for a while, as the plan in force says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) during_us: Range<u64>,
    pub(super) layers: LayerRange,
    pub(super) is_spare: bool,
}

impl Record {
    /// Nothing has happened yet.
    #[must_use]
    pub fn of(schedule: &Schedule) -> Self {
        Self {
            dot_us: schedule.end_us / DOTS,
            end_us: schedule.end_us,
            nodes: vec![NodeRecord::default(); schedule.devices.len()],
            plans: Vec::new(),
            struck: Vec::new(),
            suspected: Vec::new(),
            parked: Vec::new(),
        }
    }

    /// When a node computed, µs.
    pub(super) fn busy(&self, node: usize) -> &[Range<u64>] {
        self.nodes.get(node).map_or(&[], |node| &node.busy)
    }

    /// How much of the run a node computed, of a thousand, and how many jobs it did.
    pub(super) fn busy_permille(&self, node: usize) -> (u64, u64) {
        let of = |node: &NodeRecord| (node.busy_us * 1000 / self.end_us.max(1), node.jobs);
        self.nodes.get(node).map_or((0, 0), of)
    }

    /// When a node was gone, µs.
    pub(super) fn away(&self, node: usize) -> impl Iterator<Item = Range<u64>> {
        let away = self.nodes.get(node).map_or(&[][..], |node| &node.away);
        away.iter().map(|away| away.start..away.end.min(self.end_us))
    }

    /// The most that a node held, bytes.
    pub(super) fn memory_bytes_max(&self, node: usize) -> u64 {
        self.nodes.get(node).map_or(0, |node| node.memory_bytes_max)
    }

    /// What a node held, in order; the same in two plans is one.
    pub(super) fn held(&self, node: usize) -> Vec<Held> {
        let mut all: Vec<Held> = Vec::new();
        let ends = self.plans.iter().skip(1).map(|(at, _)| *at).chain([self.end_us]);
        for ((at, plan), until) in self.plans.iter().zip(ends) {
            let of = |stages: &[atoll_proto::plan::Stage]| {
                stages.iter().find(|stage| index(stage.node) == node).map(|stage| stage.layers)
            };
            let stage = of(&plan.stages);
            let Some(layers) = stage.or_else(|| of(&plan.spares)) else { continue };
            let is_spare = stage.is_none();
            match all.last_mut() {
                Some(last)
                    if last.during_us.end == *at
                        && (last.layers, last.is_spare) == (layers, is_spare) =>
                {
                    last.during_us.end = until;
                }
                Some(_) | None => all.push(Held { during_us: *at..until, layers, is_spare }),
            }
        }
        all
    }

    fn told(&mut self, now: u64, event: &Event) {
        match event {
            Event::PlanReady { plan } if self.plans.len() < NOTED_MAX => {
                self.plans.push((now, plan.clone()));
            }
            Event::PeerSuspected { peer } if self.suspected.len() < NOTED_MAX => {
                self.suspected.push((now, index(*peer)));
            }
            Event::Parked { request, .. } if self.parked.len() < NOTED_MAX => {
                self.parked.push((now, request.0));
            }
            Event::PlanReady { .. }
            | Event::PeerSuspected { .. }
            | Event::Parked { .. }
            | Event::PeerJoined { .. }
            | Event::PeerLeft { .. }
            | Event::PlanProgress { .. }
            | Event::PlanFailed { .. }
            | Event::Prefilled { .. }
            | Event::Token { .. }
            | Event::Finished { .. }
            | Event::Failed { .. } => {}
        }
    }

    fn computes(&mut self, node: usize, during: &Range<u64>) {
        let dot_us = self.dot_us;
        let Some(node) = self.nodes.get_mut(node) else { return };
        node.jobs += 1;
        node.busy_us += during.end.saturating_sub(during.start);
        match node.busy.last_mut() {
            Some(last) if during.start <= last.end + dot_us => last.end = last.end.max(during.end),
            Some(_) | None => node.busy.push(during.clone()),
        }
    }
}

impl Invariant for Record {
    fn name(&self) -> &'static str {
        "record"
    }

    fn see(&mut self, now: u64, seen: &Seen<'_>) -> Option<String> {
        match seen {
            Seen::Told { event, .. } => self.told(now, event),
            Seen::Job { node, computed_us, .. } => self.computes(*node, computed_us),
            Seen::Memory { node, used_bytes, .. } => {
                if let Some(node) = self.nodes.get_mut(*node) {
                    node.memory_bytes_max = node.memory_bytes_max.max(*used_bytes);
                }
            }
            Seen::Struck { what } if self.struck.len() < NOTED_MAX => {
                self.struck.push((now, (*what).clone()));
            }
            Seen::Gone { node } => {
                if let Some(node) = self.nodes.get_mut(*node) {
                    node.away.push(now..u64::MAX);
                }
            }
            Seen::Back { node } => {
                let away = self.nodes.get_mut(*node).and_then(|node| node.away.last_mut());
                if let Some(away) = away {
                    away.end = now;
                }
            }
            Seen::Struck { .. }
            | Seen::Cancelled { .. }
            | Seen::Opened { .. }
            | Seen::Outlived { .. }
            | Seen::Uplink { .. }
            | Seen::Left { .. }
            | Seen::End => {}
        }
        None
    }
}
