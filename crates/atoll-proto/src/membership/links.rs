//! How far members are from this node, and from each other.
//!
//! Nobody measures without need. The owner of a model that is to be placed by time surveys the
//! nodes that a plan could use, at most [`SURVEYED_MAX`] however many members there are: it probes
//! each, asks each to probe the others and itself, and hears what they found. What is younger than
//! [`FRESH_US`] is not measured again, whoever asks.
//!
//! The median of a round trips counts, so that a message behind a large one, or a peer
//! that was busy, changes nothing. A peer can say what it likes of its links: nobody listens to
//! more of them than were asked for, and where both ends of a way speak the longer one is believed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::effects::Effects;
use crate::ids::{NodeId, Time};
use crate::limits::SURVEYED_MAX;
use crate::message::{Message, Reach, Survey};
use crate::planner::LinkFigures;

mod probing;

use self::probing::{BYTES_PER_S_MAX, FRESH_US, Own, RTT_US_MAX, Round};

/// What a member was asked for comes within so long, µs, or is not waited for.
pub(crate) const SURVEY_US: u64 = 1_000_000;
/// This node's links, and what it was told of others'.
#[derive(Debug)]
pub(super) struct Links {
    me: NodeId,
    own: BTreeMap<NodeId, Own>,
    /// Rounds under way.
    rounds: BTreeMap<NodeId, Round>,
    /// The number of the latest probe or question.
    number: u32,
    /// Members that wait to be told of this node's links.
    askers: BTreeMap<NodeId, Asker>,
    /// Members that are to tell of theirs.
    asked: BTreeMap<NodeId, Asked>,
    said: BTreeMap<NodeId, Said>,
    /// Members that are to measure theirs anew.
    in_doubt: BTreeSet<NodeId>,
    /// Something that was waited for has come, or will not.
    has_news: bool,
}

/// A member that wants to know, by the number of its question, of the links to these.
#[derive(Debug)]
struct Asker {
    ask: u32,
    nodes: Vec<NodeId>,
}

/// A question to a member, and until when the answer is waited for.
#[derive(Debug)]
struct Asked {
    ask: u32,
    about: BTreeSet<NodeId>,
    until: Time,
}

/// What a member said of its links.
#[derive(Debug)]
struct Said {
    at: Time,
    /// Whom it was asked about.
    about: BTreeSet<NodeId>,
    /// What it found, this node perhaps among them.
    links: BTreeMap<NodeId, LinkFigures>,
}

impl Links {
    pub(super) const fn new(me: NodeId) -> Self {
        Self {
            me,
            own: BTreeMap::new(),
            rounds: BTreeMap::new(),
            number: 0,
            askers: BTreeMap::new(),
            asked: BTreeMap::new(),
            said: BTreeMap::new(),
            in_doubt: BTreeSet::new(),
            has_news: false,
        }
    }

    /// Has the links of this node to `nodes`, and of each of them to the others, measured.
    pub(super) fn survey(&mut self, fx: &mut Effects, nodes: &BTreeSet<NodeId>) {
        for &peer in nodes.iter().take(SURVEYED_MAX) {
            self.probe(fx, peer);
            let others = || nodes.iter().take(SURVEYED_MAX).filter(|other| **other != peer);
            let is_said = self.said.get(&peer).is_some_and(|said| said.holds(fx.now, others()));
            let asked = self.asked.get(&peer);
            let is_asked = asked.is_some_and(|asked| covers(&asked.about, others()));
            if is_said || is_asked {
                continue;
            }
            let (about, until) = (others().copied().collect(), fx.now.after_us(SURVEY_US));
            let (ask, nodes) = (self.fresh(), others().copied().collect());
            self.asked.insert(peer, Asked { ask, about, until });
            let is_again = self.in_doubt.remove(&peer);
            fx.send(peer, Message::Survey(Survey::Ask { ask, nodes, is_again }));
        }
    }

    /// What is known of the links among `nodes` and this one is in doubt: it is measured anew when
    /// it is next wanted. What was in doubt not long ago is believed now, so that whoever doubts
    /// without end costs no more than others.
    pub(super) fn doubt(&mut self, now: Time, nodes: &BTreeSet<NodeId>) {
        for peer in nodes {
            if self.own.get_mut(peer).is_some_and(|own| own.doubt(now)) {
                self.said.remove(peer);
                self.in_doubt.insert(*peer);
            }
        }
    }

    /// Whether there is nothing more to wait for before `nodes` are planned with.
    pub(super) fn is_surveyed(&self, now: Time, nodes: &BTreeSet<NodeId>) -> bool {
        nodes.iter().all(|peer| {
            let others = nodes.iter().filter(|other| *other != peer);
            let is_probed = self.own.get(peer).is_some_and(|own| own.is_fresh(now));
            let is_said = self.said.get(peer).is_some_and(|said| said.holds(now, others));
            is_probed && is_said
        })
    }

    /// Peers to which this node has measured its link.
    pub(super) fn measured(&self) -> impl Iterator<Item = NodeId> {
        let known = self.own.iter().filter(|(_, own)| own.figures().rtt_us.is_some());
        known.map(|(peer, _)| *peer)
    }

    /// What is known of the link from this node to a peer.
    pub(super) fn to(&self, peer: NodeId) -> LinkFigures {
        self.own.get(&peer).map(Own::figures).unwrap_or_default()
    }

    /// What is known of the link from a peer to this node: of the way what this node measured, of
    /// what it carries what the peer says.
    pub(super) fn from(&self, peer: NodeId) -> LinkFigures {
        let (own, said) = (self.to(peer), self.said(peer, self.me));
        LinkFigures { bytes_per_s: said.bytes_per_s.or(own.bytes_per_s), ..own }
    }

    /// What is known of the link from one peer to another.
    pub(super) fn between(&self, from: NodeId, to: NodeId) -> LinkFigures {
        let (there, back) = (self.said(from, to), self.said(to, from));
        LinkFigures {
            rtt_us: there.rtt_us.max(back.rtt_us),
            bytes_per_s: there.bytes_per_s.or(back.bytes_per_s),
        }
    }

    fn said(&self, from: NodeId, to: NodeId) -> LinkFigures {
        let said = self.said.get(&from).and_then(|said| said.links.get(&to));
        said.copied().unwrap_or_default()
    }

    /// Whether something that was waited for has come, or will not, since this was last asked.
    pub(super) const fn take_news(&mut self) -> bool {
        std::mem::replace(&mut self.has_news, false)
    }

    /// Begins a round of probes, unless there is one or its result would be old news.
    fn probe(&mut self, fx: &mut Effects, peer: NodeId) {
        let is_fresh = self.own.get(&peer).is_some_and(|own| own.is_fresh(fx.now));
        if is_fresh || self.rounds.contains_key(&peer) {
            return;
        }
        let probe = self.fresh();
        let round = Round::begin(fx, peer, probe, self.own.get(&peer));
        self.rounds.insert(peer, round);
    }

    const fn fresh(&mut self) -> u32 {
        self.number = self.number.wrapping_add(1);
        self.number
    }

    /// A member asks or says something about links. `is_member`: of others.
    pub(super) fn received(
        &mut self,
        fx: &mut Effects,
        is_member: impl Fn(&NodeId) -> bool,
        from: NodeId,
        survey: &Survey,
    ) {
        match survey {
            Survey::Probe { probe, .. } => {
                fx.send(from, Message::Survey(Survey::Echo(*probe)));
            }
            Survey::Echo(probe) => self.echoed(fx, from, *probe),
            Survey::Ask { ask, nodes, is_again } => {
                let near = nodes.iter().take(SURVEYED_MAX - 1).copied();
                let near = near.filter(|node| is_member(node) && *node != from);
                let nodes: Vec<_> = near.chain([from]).collect();
                for own in nodes.iter().filter(|_| *is_again) {
                    self.own.get_mut(own).map(|own| own.doubt(fx.now));
                }
                nodes.iter().for_each(|node| self.probe(fx, *node));
                self.askers.insert(from, Asker { ask: *ask, nodes });
                self.tell(fx);
            }
            Survey::Told { ask, reaches } => self.told(fx.now, from, *ask, reaches),
        }
    }

    /// What a member was asked for; of this node it may speak, too.
    fn told(&mut self, now: Time, from: NodeId, ask: u32, reaches: &[Reach]) {
        if self.asked.get(&from).is_none_or(|asked| asked.ask != ask) {
            return;
        }
        let Some(Asked { about, .. }) = self.asked.remove(&from) else { return };
        let is_asked = |node| about.contains(node) || *node == self.me;
        let reaches = reaches.iter().filter(|reach| is_asked(&reach.node));
        let links = reaches.map(|reach| {
            let bytes_per_s = Some(reach.bytes_per_s).filter(|bytes_per_s| *bytes_per_s > 0);
            let bytes_per_s = bytes_per_s.map(|bytes_per_s| bytes_per_s.min(BYTES_PER_S_MAX));
            (reach.node, LinkFigures { rtt_us: Some(reach.rtt_us.min(RTT_US_MAX)), bytes_per_s })
        });
        let links = links.collect();
        self.said.insert(from, Said { at: now, about, links });
        self.settle();
    }

    fn echoed(&mut self, fx: &mut Effects, from: NodeId, probe: u32) {
        let next = self.fresh();
        let Some(round) = self.rounds.get_mut(&from) else { return };
        let own = self.own.entry(from).or_default();
        if !round.echoed(fx.now, own, probe) {
            return;
        }
        if round.is_over() {
            round.end(fx.now, own);
            self.rounds.remove(&from);
            self.tell(fx);
        } else if !round.waits() {
            round.send(fx, from, next);
        }
        self.fill(fx);
    }

    /// Sends the next filled probe, unless one is under way: to each peer one, before any gets
    /// another, since time may be short.
    fn fill(&mut self, fx: &mut Effects) {
        if self.rounds.values().any(Round::fills) {
            return;
        }
        let probe = self.fresh();
        let waiting = self.rounds.iter_mut().filter(|(_, round)| round.waits());
        if let Some((peer, round)) =
            waiting.min_by_key(|(peer, round)| (Reverse(round.filled_left), **peer))
        {
            round.send(fx, *peer, probe);
        }
    }

    /// Tells those that asked and whose questions are all answered, as far as they will be.
    fn tell(&mut self, fx: &mut Effects) {
        let (own, rounds) = (&self.own, &self.rounds);
        self.askers.retain(|&asker, Asker { ask, nodes }| {
            if nodes.iter().any(|node| rounds.contains_key(node)) {
                return true;
            }
            let reach = |node: &NodeId| {
                let LinkFigures { rtt_us, bytes_per_s } = own.get(node)?.figures();
                let bytes_per_s = bytes_per_s.unwrap_or(0);
                Some(Reach { node: *node, rtt_us: rtt_us?, bytes_per_s })
            };
            let reaches = nodes.iter().filter_map(reach).collect();
            fx.send(asker, Message::Survey(Survey::Told { ask: *ask, reaches }));
            false
        });
        self.settle();
    }

    fn settle(&mut self) {
        self.has_news |= self.rounds.is_empty() && self.asked.is_empty();
    }

    /// What comes too late is not waited for.
    pub(super) fn tick(&mut self, fx: &mut Effects) {
        let now = fx.now;
        let late = self.rounds.extract_if(.., |_, round| round.until <= now);
        let mut is_over = false;
        for (peer, round) in late {
            round.end(now, self.own.entry(peer).or_default());
            is_over = true;
        }
        for (peer, Asked { about, .. }) in self.asked.extract_if(.., |_, asked| asked.until <= now)
        {
            self.said.insert(peer, Said { at: now, about, links: BTreeMap::new() });
            is_over = true;
        }
        if is_over {
            self.fill(fx);
            self.tell(fx);
        }
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        let rounds = self.rounds.values().map(|round| round.until);
        rounds.chain(self.asked.values().map(|asked| asked.until)).min()
    }

    /// A member is gone, and what is known of its links with it.
    pub(super) fn left(&mut self, fx: &mut Effects, peer: NodeId) {
        self.own.remove(&peer);
        self.askers.remove(&peer);
        self.said.remove(&peer);
        self.in_doubt.remove(&peer);
        for said in self.said.values_mut() {
            said.links.remove(&peer);
        }
        if self.rounds.remove(&peer).is_some() | self.asked.remove(&peer).is_some() {
            self.fill(fx);
            self.tell(fx);
        }
    }
}

impl Said {
    /// Whether it was asked about all these, not long ago.
    fn holds<'a>(&self, now: Time, others: impl Iterator<Item = &'a NodeId>) -> bool {
        self.at.after_us(FRESH_US) > now && covers(&self.about, others)
    }
}

fn covers<'a>(about: &BTreeSet<NodeId>, mut others: impl Iterator<Item = &'a NodeId>) -> bool {
    others.all(|other| about.contains(other))
}

#[cfg(test)]
mod tests;
