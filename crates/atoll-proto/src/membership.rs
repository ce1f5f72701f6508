//! Who is here: hello, silence, leaving, and when to dial.

use std::collections::{BTreeMap, BTreeSet};

use crate::effects::Effects;
use crate::ids::{NodeId, Time};
use crate::io::{Event, Output};
use crate::limits::{CAUSE_BYTES_MAX, Limits, NAME_BYTES_MAX, clip};
use crate::message::{Message, Presence};
use crate::plan::Profile;
use crate::planner::LinkFigures;

mod detector;
mod links;

use self::detector::{Around, Detector, beat};
use self::links::Links;
pub(crate) use self::links::SURVEY_US;

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
    detector: Detector,
    suspects: Vec<Suspect>,
    links: Links,
}

/// A peer that said hello.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) profile: Profile,
    pub(crate) last_heard: Time,
    /// By when it has promised to speak again.
    due: Time,
    /// By when we have.
    beat_at: Time,
}

/// A member that is silent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Suspect {
    pub(crate) peer: NodeId,
    /// For the first time in this silence.
    pub(crate) is_new: bool,
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
            detector: Detector::default(),
            suspects: Vec::new(),
            links: Links::new(me),
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
        self.detector.left(peer);
        self.links.left(fx, peer);
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
            // It counts from its own hello when its first beat is due.
            let due = fx.now.after_us(2 * limits.beat_us);
            self.detector.joined(limits, fx.now, due);
            let member = Member { name, profile, last_heard: fx.now, due, beat_at: fx.now };
            self.members.insert(peer, member);
        } else if let Some(member) = self.members.get_mut(&peer) {
            (member.name, member.profile) = (name, profile);
            self.heard(fx, limits, peer);
        }
        new
    }

    /// Whether `from` is a member and may be listened to; what it says of being there is.
    pub(crate) fn hears(
        &mut self,
        fx: &mut Effects,
        limits: &Limits,
        from: NodeId,
        message: &Message,
    ) -> bool {
        let is_member = self.heard(fx, limits, from);
        if is_member && let Message::Heartbeat { again_ms } = *message {
            self.promised(fx.now, limits, from, again_ms);
        } else if is_member && let Message::Presence(presence) = *message {
            self.received(fx, limits, from, presence);
        } else if is_member && let Message::Survey(survey) = message {
            let Self { links, members, .. } = self;
            links.received(fx, |node| members.contains_key(node), from, survey);
        }
        is_member
    }

    fn heard(&mut self, fx: &mut Effects, limits: &Limits, peer: NodeId) -> bool {
        let Some(member) = self.members.get_mut(&peer) else { return false };
        member.last_heard = fx.now;
        self.detector.heard(fx, limits, peer, &self.members);
        true
    }

    /// A member says when it will speak again.
    fn promised(&mut self, now: Time, limits: &Limits, from: NodeId, again_ms: u32) {
        if let Some(member) = self.members.get_mut(&from) {
            let due = now.after_us(u64::from(again_ms) * 1000);
            if due < member.due {
                self.detector.promised(limits, due);
            }
            member.due = due;
        }
    }

    /// What a member asks and says about being there, itself or others.
    fn received(&mut self, fx: &mut Effects, limits: &Limits, from: NodeId, presence: Presence) {
        let is_member = |peer| self.members.contains_key(&peer);
        match presence {
            Presence::Ping => self.answer(fx, from),
            Presence::Ask(peer) => {
                // That we hear the asker is news to it, whatever we hear of the other.
                self.answer(fx, from);
                if is_member(peer) && peer != from {
                    self.detector.asks(fx, limits, from, peer);
                }
            }
            Presence::Heard(peer) => self.detector.answered(fx.now, peer, true),
            Presence::Unheard(peer) => self.detector.answered(fx.now, peer, false),
            Presence::Silent(peer) if is_member(peer) && peer != from => {
                self.detector.told(fx, limits, peer);
            }
            Presence::Silent(_) => {}
        }
    }

    /// A beat that promises nothing new.
    fn answer(&self, fx: &mut Effects, to: NodeId) {
        if let Some(member) = self.members.get(&to) {
            fx.send(to, beat(member.beat_at.since_us(fx.now)));
        }
    }

    /// Whether a member is silent, so that others may do its work.
    pub(crate) fn suspects(&self, peer: NodeId) -> bool {
        self.detector.suspects(peer)
    }

    /// Members found silent since this was last asked.
    pub(crate) fn take_suspects(&mut self) -> Vec<Suspect> {
        std::mem::take(&mut self.suspects)
    }

    /// Has the links among these members and this node measured, as far as they are not known.
    pub(crate) fn survey(&mut self, fx: &mut Effects, nodes: &BTreeSet<NodeId>) {
        self.links.survey(fx, nodes);
    }

    /// What is known of the links among these members and this node is in doubt.
    pub(crate) fn doubt_links(&mut self, now: Time, nodes: &BTreeSet<NodeId>) {
        self.links.doubt(now, nodes);
    }

    /// Whether nothing more will come of a survey of these members.
    pub(crate) fn is_surveyed(&self, now: Time, nodes: &BTreeSet<NodeId>) -> bool {
        self.links.is_surveyed(now, nodes)
    }

    /// Whether a survey has ended since this was last asked.
    pub(crate) const fn take_surveyed(&mut self) -> bool {
        self.links.take_news()
    }

    /// What a member says that it can carry, or this node; `None` of strangers.
    pub(crate) fn profile_of(&self, node: NodeId) -> Option<&Profile> {
        let theirs = || self.member(node).map(|member| &member.profile);
        if node == self.me { Some(self.profile()) } else { theirs() }
    }

    /// Members to which this node has measured its link.
    pub(crate) fn measured_links(&self) -> impl Iterator<Item = NodeId> {
        self.links.measured()
    }

    /// What is known of the link from one node to another, this one perhaps among them.
    pub(crate) fn link(&self, from: NodeId, to: NodeId) -> LinkFigures {
        match (from == self.me, to == self.me) {
            (true, _) => self.links.to(to),
            (false, true) => self.links.from(from),
            (false, false) => self.links.between(from, to),
        }
    }

    pub(crate) fn left(&mut self, fx: &mut Effects, peer: NodeId) -> Option<Lost> {
        self.members.remove(&peer)?;
        self.detector.left(peer);
        self.links.left(fx, peer);
        fx.push(Output::Disconnect { peer, cause: "it left".into() });
        Some(lost(fx, peer, "it left".into()))
    }

    /// `near`: the members that need this node, asked for only when beats are due.
    pub(crate) fn tick(
        &mut self,
        fx: &mut Effects,
        limits: &Limits,
        near: impl FnOnce() -> BTreeSet<NodeId>,
    ) -> Vec<Lost> {
        self.redial(fx);
        self.links.tick(fx);
        let late = self.pending.iter().filter(|(_, until)| **until <= fx.now);
        for peer in late.map(|(peer, _)| *peer).collect::<Vec<_>>() {
            self.pending.remove(&peer);
            let cause = format!("no hello within {} µs", limits.hello_timeout_us);
            fx.push(Output::Disconnect { peer, cause });
        }
        let around = Around { me: self.me, members: &mut self.members };
        let found = self.detector.tick(fx, limits, around, near);
        for (peer, is_new) in found.suspected {
            if is_new {
                tracing::info!(%peer, "peer suspected: it is silent");
                fx.emit(Event::PeerSuspected { peer });
            }
            self.suspects.push(Suspect { peer, is_new });
        }
        let gone = found.lost.into_iter().filter_map(|(peer, silent_us)| {
            let cause = format!("nothing heard for {silent_us} µs");
            fx.push(Output::Disconnect { peer, cause: cause.clone() });
            self.disconnected(fx, limits, peer, cause)
        });
        gone.collect()
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        let hello = self.pending.values().min().copied();
        let dial = self.hints.values().map(|hint| hint.next_dial).min();
        [self.detector.deadline(), self.links.deadline(), hello, dial].into_iter().flatten().min()
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
