//! Carries out what nodes want, and looks at what they say.

use atoll_proto::message::Presence;
use atoll_proto::plan::Plan;
use atoll_proto::{Epoch, Event, Input, Job, Limits, Message, Output, codec};

use super::trace::cause_of;
use super::{Happening, MODEL, ORIGIN, World, id, index};
use crate::invariants::Seen;
use crate::network::{is_of_session, wire_bytes};

/// How long after a request's end it is looked whether anybody still holds its session, µs.
const CLOSED_US: u64 = 1_000_000;

impl World<'_> {
    /// `framed`: the epoch of the frame that the node answers by this, if it does.
    pub(super) fn carry_out(&mut self, node: usize, framed: Option<Epoch>, output: Output) {
        match output {
            Output::Send { to, message } => {
                if let &Message::Opened { session, epoch, .. } = &message {
                    self.see(&Seen::Opened { node, session, epoch });
                }
                self.send(node, index(to), message);
            }
            Output::Dial { peer } => self.dial(node, index(peer)),
            Output::Disconnect { peer, cause } => self.disconnect(node, index(peer), &cause),
            Output::Prepare { model, plan_epoch, part, is_beside, .. } => {
                self.prepare(node, (model, plan_epoch), part, is_beside);
            }
            Output::Keep { model, layers } => self.nodes[node].device.keep(model, layers),
            Output::Unload { model } => self.nodes[node].device.unload(model),
            Output::Compute(job) => self.compute(node, framed, &job),
            Output::Release { session } => self.nodes[node].device.release(session),
            Output::Emit(event) => {
                self.detects(node, &event);
                self.told(node, &event);
            }
        }
    }

    fn send(&mut self, node: usize, to: usize, message: Message) {
        let Some(generation) = self.network.connection(node, to) else { return };
        if matches!(message, Message::Assign(_)) && node == ORIGIN {
            self.nodes[to].assigned.get_or_insert_with(|| message.clone());
        }
        let bytes = wire_bytes(&message, &self.schedule.model);
        self.report.messages += 1;
        self.report.bytes += bytes;
        let from = id(node);
        if !is_of_session(&message) {
            let at = self.network.arrival(self.now, node, to, bytes);
            let is_ping = matches!(message, Message::Presence(Presence::Ping));
            if let Message::Heartbeat { again_ms } = message {
                let again_ms = Some(again_ms);
                self.push(at, Happening::Beats { from: node, to, generation, again_ms });
            } else if is_ping {
                self.push(at, Happening::Beats { from: node, to, generation, again_ms: None });
            } else {
                let input = Box::new(Input::Received { from, message });
                self.push(at, Happening::Arrives { from: node, to, generation, input });
            }
            return;
        }
        let arrivals = self.network.arrivals(self.now, node, to, bytes);
        let message = match self.network.weather(node).flip.take() {
            None => message,
            Some(bit) => match flipped(&message, bit) {
                // As over a real link: what is no message ends the connection.
                None => return self.disconnect(to, node, "it sent a malformed message"),
                Some(message) => message,
            },
        };
        for at in arrivals.into_iter().flatten() {
            let input = Box::new(Input::Received { from, message: message.clone() });
            self.push(at, Happening::Arrives { from: node, to, generation, input });
        }
    }

    fn dial(&mut self, from: usize, to: usize) {
        if !self.nodes[to].is_up || !self.network.is_passable(self.now, from, to) {
            return;
        }
        let Some(generation) = self.network.open(from, to) else { return };
        for (a, b) in [(from, to), (to, from)] {
            let at = self.network.arrival(self.now, a, b, 0);
            let input = Box::new(Input::Connected { peer: id(a) });
            self.push(at, Happening::Arrives { from: a, to: b, generation, input });
        }
    }

    pub(super) fn disconnect(&mut self, node: usize, peer: usize, cause: &str) {
        if !self.network.close(node, peer) {
            return;
        }
        self.rediscover_later(node, peer);
        for (a, b) in [(node, peer), (peer, node)] {
            let at = self.network.arrival(self.now, a, b, 0);
            let input = Box::new(Input::Disconnected { peer: id(a), cause: cause.into() });
            let life = self.nodes[b].life;
            if b == ORIGIN {
                self.nodes[a].breaks_unheard += 1;
            }
            self.push(at, Happening::Heard { node: b, life, input });
        }
    }

    fn compute(&mut self, node: usize, framed: Option<Epoch>, job: &Job) {
        // A measured speed has its noise in it.
        let noise = self.noise.below(20);
        let noise = if self.schedule.devices[node].speed.is_some() { 0 } else { noise };
        let (percent, until) = self.nodes[node].slow;
        let percent = if until > self.now { percent } else { 100 };
        let device = &mut self.nodes[node].device;
        let done = device.compute(self.now, job, (noise, percent), &mut self.cores);
        let (used_bytes, memory_bytes) = (device.used_bytes(), device.memory_bytes);
        let waiting = device.waiting(job.session);
        let (kv_len, computed_us) = (done.kv_len, done.at - done.compute_us..done.at);
        self.see(&Seen::Job { node, framed, job, kv_len, waiting, computed_us });
        self.see(&Seen::Memory { node, used_bytes, memory_bytes });
        let (job, compute_us) = (job.id, done.compute_us);
        self.own(done.at, node, Input::Computed { job, result: done.result, compute_us });
    }

    fn told(&mut self, node: usize, event: &Event) {
        if node != ORIGIN {
            return;
        }
        let mut members = 0;
        let mut loaded = Vec::new();
        match event {
            Event::Token { request, .. } => {
                self.report.tokens += 1;
                if let Some(answer) = self.report.answer(*request) {
                    answer.token_us.push(self.now);
                }
            }
            Event::Finished { request, .. } => {
                self.report.completed += 1;
                if let Some(answer) = self.report.answer(*request) {
                    answer.ended_us = Some(self.now);
                }
            }
            Event::Failed { request, error } => {
                let asked = usize::try_from(request.0).ok();
                let asked = asked.and_then(|i| self.schedule.requests.get(i));
                let patience_us = asked.map_or(0, |asked| asked.deadline_us);
                let cause = cause_of(error, patience_us);
                *self.report.failed.entry(cause.clone()).or_default() += 1;
                if let Some(answer) = self.report.answer(*request) {
                    (answer.ended_us, answer.error) = (Some(self.now), Some(cause));
                }
                let peers = self.nodes[node].node.snapshot().peers;
                let is_of_use = |peer: usize| !self.nodes[peer].loading.has_refused;
                let peers = peers.iter().filter(|peer| !peer.is_suspected);
                members = peers.filter(|peer| is_of_use(index(peer.node))).count();
            }
            Event::PlanReady { plan } => loaded = self.loaded(plan),
            Event::PeerJoined { .. }
            | Event::PeerSuspected { .. }
            | Event::PeerLeft { .. }
            | Event::PlanProgress { .. }
            | Event::PlanFailed { .. }
            | Event::Parked { .. }
            | Event::Prefilled { .. } => {}
        }
        self.see(&Seen::Told { event, loaded: &loaded, members });
        if let Event::Finished { request, .. } | Event::Failed { request, .. } = *event {
            self.push(self.now + CLOSED_US, Happening::LooksBack { request });
        }
    }

    /// Of each stage of a plan: whether its layers are loaded; `None` while the word that its
    /// connection broke is still on its way to the origin, whatever has become of the node since,
    /// and while it has no power.
    fn loaded(&self, plan: &Plan) -> Vec<Option<bool>> {
        let stages = plan.stages.iter();
        let loaded = stages.map(|stage| {
            let node = index(stage.node);
            let slot = &self.nodes[node];
            let is_known = slot.breaks_unheard == 0 && !self.is_cut_off(node);
            is_known.then(|| slot.is_up && slot.device.has(MODEL, Some(stage.layers)))
        });
        loaded.collect()
    }
}

/// A message after one of its bits was flipped, if it still is one.
fn flipped(message: &Message, bit: u64) -> Option<Message> {
    let mut bytes = codec::encode(message);
    let bit = usize::try_from(bit).expect("a usize has 64 bits") % (bytes.len() * 8);
    bytes[bit / 8] ^= 1 << (bit % 8);
    codec::decode(&bytes, &Limits::default()).ok()
}
