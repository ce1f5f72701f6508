//! Who is here: hello, heartbeats, strikes, leaving, and when to dial.

use std::collections::BTreeMap;

use crate::effects::Effects;
use crate::ids::{NodeId, Time};
use crate::io::{Event, Output};
use crate::limits::{CAUSE_BYTES_MAX, Limits, NAME_BYTES_MAX, clip};
use crate::message::Message;
use crate::plan::Profile;

/// Dials of one hint, each after twice the wait of the one before, until it is forgotten.
const DIALS_MAX: u8 = 6;
/// Wait before the second dial of a hint, µs.
const REDIAL_US: u64 = 1_000_000;

/// The peers of a node.
#[derive(Debug)]
pub(crate) struct Membership {
    me: NodeId,
    name: String,
    profile: Profile,
    hints: BTreeMap<NodeId, Hint>,
    /// Connected, no hello yet, and until when we wait for it.
    pending: BTreeMap<NodeId, Time>,
    members: BTreeMap<NodeId, Member>,
    next_beat: Option<Time>,
}

/// A peer that said hello.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) profile: Profile,
    pub(crate) last_heard: Time,
    /// Our heartbeats in a row without a word from it.
    pub(crate) strikes: u8,
}

/// A peer that may be there.
#[derive(Clone, Copy, Debug)]
struct Hint {
    dials: u8,
    next_dial: Time,
}

/// A member that is gone.
#[derive(Clone, Debug)]
pub(crate) struct Lost {
    pub(crate) peer: NodeId,
    pub(crate) cause: String,
}

impl Membership {
    pub(crate) fn new(me: NodeId, name: String) -> Self {
        Self {
            me,
            name: clip(name, NAME_BYTES_MAX),
            profile: Profile::default(),
            hints: BTreeMap::new(),
            pending: BTreeMap::new(),
            members: BTreeMap::new(),
            next_beat: None,
        }
    }

    pub(crate) const fn profile(&self) -> &Profile {
        &self.profile
    }

    pub(crate) fn member(&self, peer: NodeId) -> Option<&Member> {
        self.members.get(&peer)
    }

    pub(crate) const fn members(&self) -> &BTreeMap<NodeId, Member> {
        &self.members
    }

    pub(crate) fn measured(&mut self, fx: &mut Effects, profile: Profile) {
        if self.profile != profile {
            self.profile = profile;
            let known = self.members.keys().chain(self.pending.keys()).copied();
            for peer in known.collect::<Vec<_>>() {
                self.say_hello(fx, peer);
            }
        }
    }

    pub(crate) fn discovered(&mut self, fx: &mut Effects, limits: &Limits, peer: NodeId) {
        let known = self.members.contains_key(&peer) || self.pending.contains_key(&peer);
        if known || peer == self.me || self.hints.contains_key(&peer) {
            return;
        }
        if self.hints.len() < limits.hints_max {
            self.hints.insert(peer, Hint { dials: 1, next_dial: fx.now.after_us(REDIAL_US) });
            fx.push(Output::Dial { peer });
        }
    }

    pub(crate) fn connected(&mut self, fx: &mut Effects, limits: &Limits, peer: NodeId) {
        if self.members.contains_key(&peer) || self.pending.contains_key(&peer) || peer == self.me {
            return;
        }
        self.hints.remove(&peer);
        if self.members.len() + self.pending.len() >= limits.peers_max {
            let cause = format!("{} peers are connected, which is the limit", limits.peers_max);
            fx.push(Output::Disconnect { peer, cause });
            return;
        }
        self.pending.insert(peer, fx.now.after_us(limits.hello_timeout_us));
        self.say_hello(fx, peer);
    }

    pub(crate) fn disconnected(
        &mut self,
        fx: &mut Effects,
        limits: &Limits,
        peer: NodeId,
        cause: String,
    ) -> Option<Lost> {
        self.pending.remove(&peer);
        self.members.remove(&peer)?;
        if self.hints.len() < limits.hints_max {
            self.hints.insert(peer, Hint { dials: 1, next_dial: fx.now.after_us(REDIAL_US) });
        }
        Some(lost(fx, peer, cause))
    }

    /// A peer introduces itself. `true`: it is a new member. A peer whose connection the driver
    /// has not reported yet is taken as connected.
    pub(crate) fn hello(
        &mut self,
        fx: &mut Effects,
        limits: &Limits,
        peer: NodeId,
        name: String,
        profile: Profile,
    ) -> bool {
        self.connected(fx, limits, peer);
        let new = self.pending.remove(&peer).is_some();
        let name = clip(name, NAME_BYTES_MAX);
        if new {
            tracing::info!(%peer, name, "peer joined");
            fx.emit(Event::PeerJoined { peer, name: name.clone() });
            self.next_beat.get_or_insert(fx.now.after_us(limits.heartbeat_us));
        } else if !self.members.contains_key(&peer) {
            return false;
        }
        self.members.insert(peer, Member { name, profile, last_heard: fx.now, strikes: 0 });
        new
    }

    /// Whether `peer` is a member and may be listened to.
    pub(crate) fn heard(&mut self, now: Time, peer: NodeId) -> bool {
        self.members.get_mut(&peer).is_some_and(|member| {
            member.last_heard = now;
            member.strikes = 0;
            true
        })
    }

    pub(crate) fn left(&mut self, fx: &mut Effects, peer: NodeId) -> Option<Lost> {
        self.members.remove(&peer)?;
        fx.push(Output::Disconnect { peer, cause: "it left".into() });
        Some(lost(fx, peer, "it left".into()))
    }

    pub(crate) fn tick(&mut self, fx: &mut Effects, limits: &Limits) -> Vec<Lost> {
        self.redial(fx);
        let late = self.pending.iter().filter(|(_, until)| **until <= fx.now);
        for peer in late.map(|(peer, _)| *peer).collect::<Vec<_>>() {
            self.pending.remove(&peer);
            let cause = format!("no hello within {} µs", limits.hello_timeout_us);
            fx.push(Output::Disconnect { peer, cause });
        }
        if self.next_beat.is_some_and(|at| at <= fx.now) { self.beat(fx, limits) } else { vec![] }
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        let hello = self.pending.values().min().copied();
        let dial = self.hints.values().map(|hint| hint.next_dial).min();
        [self.next_beat, hello, dial].into_iter().flatten().min()
    }

    fn beat(&mut self, fx: &mut Effects, limits: &Limits) -> Vec<Lost> {
        let mut silent = Vec::new();
        for (&peer, member) in &mut self.members {
            if member.strikes >= limits.strikes_max {
                silent.push((peer, fx.now.since_us(member.last_heard)));
            } else {
                member.strikes += 1;
                fx.send(peer, Message::Heartbeat);
            }
        }
        let gone = silent.into_iter().filter_map(|(peer, silent_us)| {
            let cause = format!("nothing heard for {silent_us} µs");
            fx.push(Output::Disconnect { peer, cause: cause.clone() });
            self.disconnected(fx, limits, peer, cause)
        });
        let gone = gone.collect();
        let again = fx.now.after_us(limits.heartbeat_us);
        self.next_beat = (!self.members.is_empty()).then_some(again);
        gone
    }

    fn redial(&mut self, fx: &mut Effects) {
        self.hints.retain(|&peer, hint| {
            if hint.next_dial <= fx.now {
                if hint.dials >= DIALS_MAX {
                    return false;
                }
                fx.push(Output::Dial { peer });
                hint.next_dial = fx.now.after_us(REDIAL_US << hint.dials);
                hint.dials += 1;
            }
            true
        });
    }

    fn say_hello(&self, fx: &mut Effects, peer: NodeId) {
        let message = Message::Hello { name: self.name.clone(), profile: self.profile.clone() };
        fx.send(peer, message);
    }
}

fn lost(fx: &mut Effects, peer: NodeId, cause: String) -> Lost {
    let cause = clip(cause, CAUSE_BYTES_MAX);
    tracing::info!(%peer, cause, "peer lost");
    fx.emit(Event::PeerLeft { peer, cause: cause.clone() });
    Lost { peer, cause }
}
