//! A request's ring: which nodes, in which epoch, what is under way in it, and who stays silent.
//!
//! The origin opens the ring; each stage that takes the opening up says so. When nothing comes
//! back in time the ring is opened again under a newer epoch, which harms nobody: caches stay, and
//! each stage tells the one before it how far its cache reaches, so that what got lost is sent
//! again. The first stage that leaves several openings in a row unanswered is suspected; a slow
//! one answers, since openings do not wait for computing.

use std::collections::{BTreeSet, VecDeque};

use crate::effects::Effects;
use crate::ids::{Epoch, NodeId, Time};
use crate::io::{Activation, HopTime, Request};
use crate::limits::{HOPS_MAX, Limits};
use crate::message::{Frame, Message, Open};
use crate::plan::Plan;
use crate::planted::Bug;
use crate::session::boundary::{Boundary, answered_lately, resend};
use crate::session::stage::SLOWER_THAN_PREDICTED;

/// The way of one request's positions.
#[derive(Debug)]
pub(crate) struct Ring {
    me: NodeId,
    pub(crate) plan: Plan,
    pub(crate) epoch: Epoch,
    /// The epoch in which position 0 was last sent.
    pub(crate) since: Epoch,
    /// Positions given into the ring.
    pub(crate) sent: u32,
    /// Chunks in the ring, oldest first.
    pub(crate) chunks: VecDeque<Chunk>,
    /// What went to the first stage on another node.
    boundary: Boundary,
    /// What that stage has, as it said in this epoch.
    next_len: u32,
    answered: Option<(u32, Time)>,
    /// Stages that have taken up this epoch.
    opened: BTreeSet<u16>,
    /// The silent stage, and how many openings in a row it left unanswered.
    silent: Option<(usize, u8)>,
    /// The stage that was replaced for its silence and whose successor has not answered yet.
    replaced: Option<usize>,
    /// Openings since something came around.
    tries: u32,
    /// Predicted time of one position around the ring, µs.
    row_us: u64,
    pub(crate) deadline: Option<Time>,
}

/// Positions on their way around the ring, up to `to`.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) to: u32,
    pub(crate) rows: u32,
    pub(crate) started: Time,
    pub(crate) hops: Vec<HopTime>,
}

impl Chunk {
    /// Takes down what nodes on its way took, as many as there can be.
    pub(crate) fn take_hops(&mut self, hops: Vec<HopTime>) {
        let room = HOPS_MAX.saturating_sub(self.hops.len());
        self.hops.extend(hops.into_iter().take(room));
    }
}

/// What a passed deadline means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Late {
    /// Open the ring again.
    OpenAgain,
    /// This node does not answer; it may be the one before it that does not send.
    Suspect(NodeId),
}

impl Ring {
    pub(crate) const fn new(me: NodeId, plan: Plan, row_us: u64) -> Self {
        Self {
            me,
            plan,
            epoch: Epoch(0),
            since: Epoch(0),
            sent: 0,
            chunks: VecDeque::new(),
            boundary: Boundary::new(),
            next_len: 0,
            answered: None,
            opened: BTreeSet::new(),
            silent: None,
            replaced: None,
            tries: 0,
            row_us,
            deadline: None,
        }
    }

    /// The stages on other nodes, in ring order, with their hop.
    pub(crate) fn remote(&self) -> impl Iterator<Item = (usize, NodeId)> {
        let stages = self.plan.stages.iter().enumerate();
        stages.map(|(hop, stage)| (hop, stage.node)).filter(|(_, node)| *node != self.me)
    }

    /// Nothing is under way: position 0 comes next, and every cache begins empty.
    pub(crate) fn empty(&mut self) {
        self.epoch.0 = self.epoch.0.saturating_add(1);
        self.since = self.epoch;
        self.sent = 0;
        self.chunks.clear();
        self.boundary = Boundary::new();
        self.forget_answers();
    }

    /// The next epoch with the same caches.
    pub(crate) fn raise(&mut self, fx: &Effects) {
        if !fx.planted.has(Bug::EpochNotRaised) {
            self.epoch.0 = self.epoch.0.saturating_add(1);
        }
        self.tries = self.tries.saturating_add(1);
        self.forget_answers();
    }

    fn forget_answers(&mut self) {
        self.opened.clear();
        self.next_len = 0;
        self.answered = None;
    }

    /// Sends the opening on its way.
    pub(crate) fn open(&self, fx: &mut Effects, request: &Request, positions_max: u32) {
        let Some((hop, to)) = self.remote().next() else { return };
        let open = Open {
            session: request.session,
            epoch: self.epoch,
            since: self.since,
            model: request.model,
            origin: self.me,
            stages: self.plan.stages.clone(),
            hop: u16::try_from(hop).expect("a plan has at most 64 stages"),
            positions_max,
        };
        fx.send(to, Message::Open(open));
    }

    /// A stage has taken up this epoch.
    pub(crate) fn opened(&mut self, from: NodeId, hop: u16) {
        let at = usize::from(hop);
        if self.plan.stages.get(at).is_some_and(|stage| stage.node == from) {
            self.opened.insert(hop);
            self.silent = self.silent.filter(|(silent, _)| *silent != at);
            self.replaced = self.replaced.filter(|replaced| *replaced != at);
        }
    }

    /// Something came around.
    pub(crate) const fn moved(&mut self) {
        (self.tries, self.silent, self.replaced) = (0, None, None);
    }

    /// Sets the time by which the ring must have given something back.
    pub(crate) fn arm(&mut self, fx: &Effects, limits: &Limits, n_active: usize) {
        let rows: u64 = self.chunks.iter().map(|chunk| u64::from(chunk.rows)).sum();
        let predicted_us = rows.saturating_mul(self.row_us).saturating_mul(n_active.max(1) as u64);
        let us = limits
            .ring_patience_us
            .saturating_add(predicted_us.saturating_mul(SLOWER_THAN_PREDICTED));
        // A silent stage shows soon. Where all answer and nothing comes, asking more often is idle,
        // but what gets lost once more must not cost much longer than what was lost first.
        let again = if self.silent.is_some() { 0 } else { self.tries.min(2) };
        let around = rows > 0 && self.remote().next().is_some();
        let armed = around && !fx.planted.has(Bug::NoRingDeadline);
        self.deadline = armed.then(|| fx.now.after_us(us << again));
    }

    /// The deadline has passed.
    pub(crate) fn late(&mut self, limits: &Limits) -> Late {
        let unopened = |hop| u16::try_from(hop).is_ok_and(|hop| !self.opened.contains(&hop));
        let first = self.remote().find(|(hop, _)| unopened(*hop));
        let Some((hop, node)) = first else {
            self.silent = None;
            return Late::OpenAgain;
        };
        let before = self.silent.filter(|(silent, _)| *silent == hop);
        let strikes = before.map_or(1, |(_, strikes)| strikes.saturating_add(1));
        if strikes < limits.stage_strikes_max {
            self.silent = Some((hop, strikes));
            return Late::OpenAgain;
        }
        self.silent = None;
        let previous = hop.checked_sub(1).map(|hop| self.plan.stages[hop].node);
        match previous.filter(|node| *node != self.me) {
            // Its successor is silent, too: the one before them is the more likely.
            Some(previous) if self.replaced == Some(hop) => Late::Suspect(previous),
            Some(_) | None => {
                self.replaced = Some(hop);
                Late::Suspect(node)
            }
        }
    }

    /// Keeps rows for the first remote stage and sends those that it does not have.
    pub(crate) fn send_on(
        &mut self,
        fx: &mut Effects,
        request: &Request,
        (from_pos, rows): (u32, &Activation),
        tokens: u32,
        bytes_max: usize,
    ) {
        self.boundary.append(from_pos, rows, bytes_max);
        let from_pos = from_pos.max(self.next_len);
        // The rows were just appended, so they are there.
        let _ = self.resend(fx, request, (from_pos, rows.rows, 1), tokens);
    }

    /// The first remote stage has positions up to `len`. `None`: what it misses is forgotten.
    pub(crate) fn nacked(
        &mut self,
        fx: &mut Effects,
        limits: &Limits,
        request: &Request,
        len: u32,
        tokens: u32,
    ) -> Option<()> {
        self.next_len = len;
        if answered_lately(fx.now, &mut self.answered, limits, len) {
            return Some(());
        }
        let most = (len, limits.chunk_rows_max, limits.chunks_in_flight_max);
        self.resend(fx, request, most, tokens)
    }

    fn resend(
        &self,
        fx: &mut Effects,
        request: &Request,
        most: (u32, u32, usize),
        tokens: u32,
    ) -> Option<()> {
        let (hop, to) = self.remote().next()?;
        resend(fx, &self.boundary, most, to, |from_pos, activation| Frame {
            session: request.session,
            epoch: self.epoch,
            model: request.model,
            hop: u16::try_from(hop).expect("a plan has at most 64 stages"),
            from_pos,
            want_token: from_pos + activation.rows == tokens,
            hops: Vec::new(),
            activation,
        })
    }

    /// Takes up a plan. `true`: its boundaries are the same, so that caches can stay.
    pub(crate) fn take_up(&mut self, plan: Plan, row_us: u64) -> bool {
        let same =
            self.plan.same_boundaries(&plan) && self.plan.hop_of(self.me) == plan.hop_of(self.me);
        (self.plan, self.row_us) = (plan, row_us);
        same
    }
}
