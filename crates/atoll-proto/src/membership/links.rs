//! How far members are from this node, and from each other.
//!
//! Nobody measures without need. The owner of a model that is to be placed by time surveys the
//! nodes that a plan could use, at most [`SURVEYED_MAX`] however many members there are: it probes
//! each, asks each to probe the others, and hears what they found. A round of probes to one peer is
//! [`PROBES`] small messages and as many answers, one after the other; what is younger than
//! [`FRESH_US`] is not measured again, whoever asks. Who does not answer in time stays unknown.
//!
//! What counts is the median of the latest round trips, so that a message behind a large one, or a
//! peer that was busy, changes nothing. A peer can say what it likes of its links: nobody asks for
//! more of them than it names itself, and where both ends speak the longer way is believed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::effects::Effects;
use crate::ids::{NodeId, Time};
use crate::limits::SURVEYED_MAX;
use crate::message::{Message, Reach, Survey};

/// Probes of one round to one peer.
const PROBES: u8 = 5;
/// Round trips of a peer that are kept: three rounds.
const WINDOW: usize = 15;
/// A measurement is good for so long, µs.
const FRESH_US: u64 = 30_000_000;
/// A round ends after so long, µs, with as many answers as came.
const ROUND_US: u64 = 700_000;
/// What a member was asked for comes within so long, µs, or is not waited for.
pub(crate) const SURVEY_US: u64 = 1_000_000;
/// Longest round trip that is believed, µs: whoever is further away serves nobody.
const RTT_US_MAX: u32 = 10_000_000;

/// This node's links, and what it was told of others'.
#[derive(Debug, Default)]
pub(super) struct Links {
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
    /// Something that was waited for has come, or will not.
    has_news: bool,
}

/// What was measured of one link.
#[derive(Debug, Default)]
struct Own {
    /// The latest round trips, µs.
    rtts_us: VecDeque<u32>,
    /// When the latest round ended.
    at: Option<Time>,
}

/// A round of probes.
#[derive(Debug)]
struct Round {
    probe: u32,
    sent_at: Time,
    left: u8,
    until: Time,
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
    /// Round trips, µs.
    rtts_us: BTreeMap<NodeId, u32>,
}

impl Links {
    /// Has the links of this node to `nodes`, and of each of them to the others, measured.
    pub(super) fn survey(&mut self, fx: &mut Effects, nodes: &BTreeSet<NodeId>) {
        for &peer in nodes.iter().take(SURVEYED_MAX) {
            self.probe(fx, peer);
            let others = || nodes.iter().take(SURVEYED_MAX).filter(|other| **other != peer);
            let is_said = self.said.get(&peer).is_some_and(|said| said.holds(fx.now, others()));
            let asked = self.asked.get(&peer);
            let is_asked = asked.is_some_and(|asked| covers(&asked.about, others()));
            if is_said || is_asked || nodes.len() < 2 {
                continue;
            }
            let (about, until) = (others().copied().collect(), fx.now.after_us(SURVEY_US));
            let (ask, nodes) = (self.fresh(), others().copied().collect());
            self.asked.insert(peer, Asked { ask, about, until });
            fx.send(peer, Message::Survey(Survey::Ask { ask, nodes }));
        }
    }

    /// Whether there is nothing more to wait for before `nodes` are planned with.
    pub(super) fn is_surveyed(&self, now: Time, nodes: &BTreeSet<NodeId>) -> bool {
        nodes.iter().all(|peer| {
            let others = nodes.iter().filter(|other| *other != peer);
            let is_probed = self.own.get(peer).is_some_and(|own| own.is_fresh(now));
            let is_said = self.said.get(peer).is_some_and(|said| said.holds(now, others));
            is_probed && (is_said || nodes.len() < 2)
        })
    }

    /// The round trip between this node and a peer, µs, if it was ever measured.
    pub(super) fn own_rtt_us(&self, peer: NodeId) -> Option<u32> {
        self.own.get(&peer).and_then(Own::rtt_us)
    }

    /// The round trip between two others, µs, as they say.
    pub(super) fn said_rtt_us(&self, a: NodeId, b: NodeId) -> Option<u32> {
        let of = |from, to: &NodeId| {
            self.said.get(&from).and_then(|said: &Said| said.rtts_us.get(to)).copied()
        };
        of(a, &b).max(of(b, &a))
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
        let (probe, until) = (self.fresh(), fx.now.after_us(ROUND_US));
        fx.send(peer, Message::Survey(Survey::Probe(probe)));
        self.rounds.insert(peer, Round { probe, sent_at: fx.now, left: PROBES, until });
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
            Survey::Probe(probe) => fx.send(from, Message::Survey(Survey::Echo(*probe))),
            Survey::Echo(probe) => self.echoed(fx, from, *probe),
            Survey::Ask { ask, nodes } => {
                let near = nodes.iter().take(SURVEYED_MAX).copied();
                let near = near.filter(|node| is_member(node) && *node != from);
                let nodes: Vec<_> = near.collect();
                nodes.iter().for_each(|node| self.probe(fx, *node));
                self.askers.insert(from, Asker { ask: *ask, nodes });
                self.tell(fx);
            }
            Survey::Told { ask, reaches } => self.told(fx.now, from, *ask, reaches),
        }
    }

    fn told(&mut self, now: Time, from: NodeId, ask: u32, reaches: &[Reach]) {
        if self.asked.get(&from).is_none_or(|asked| asked.ask != ask) {
            return;
        }
        let Some(Asked { about, .. }) = self.asked.remove(&from) else { return };
        let reaches = reaches.iter().filter(|reach| about.contains(&reach.node));
        let rtts_us = reaches.map(|reach| (reach.node, reach.rtt_us.min(RTT_US_MAX))).collect();
        self.said.insert(from, Said { at: now, about, rtts_us });
        self.settle();
    }

    fn echoed(&mut self, fx: &mut Effects, from: NodeId, probe: u32) {
        let next = self.fresh();
        let round = self.rounds.get_mut(&from).filter(|round| round.probe == probe);
        let Some(round) = round else { return };
        let own = self.own.entry(from).or_default();
        own.add(fx.now.since_us(round.sent_at));
        round.left -= 1;
        if round.left > 0 {
            (round.probe, round.sent_at) = (next, fx.now);
            fx.send(from, Message::Survey(Survey::Probe(next)));
        } else {
            own.at = Some(fx.now);
            self.rounds.remove(&from);
            self.tell(fx);
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
                let rtt_us = own.get(node)?.rtt_us()?;
                Some(Reach { node: *node, rtt_us })
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
        let late: Vec<_> = late.map(|(peer, _)| peer).collect();
        for peer in &late {
            self.own.entry(*peer).or_default().at = Some(now);
        }
        let mut is_over = !late.is_empty();
        for (peer, Asked { about, .. }) in self.asked.extract_if(.., |_, asked| asked.until <= now)
        {
            self.said.insert(peer, Said { at: now, about, rtts_us: BTreeMap::new() });
            is_over = true;
        }
        if is_over {
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
        for said in self.said.values_mut() {
            said.rtts_us.remove(&peer);
        }
        if self.rounds.remove(&peer).is_some() | self.asked.remove(&peer).is_some() {
            self.tell(fx);
        }
    }
}

impl Own {
    fn is_fresh(&self, now: Time) -> bool {
        self.at.is_some_and(|at| at.after_us(FRESH_US) > now)
    }

    /// A round trip took so long, µs.
    fn add(&mut self, us: u64) {
        self.rtts_us.push_back(u32::try_from(us).map_or(RTT_US_MAX, |us| us.min(RTT_US_MAX)));
        if self.rtts_us.len() > WINDOW {
            self.rtts_us.pop_front();
        }
    }

    /// The median; of two in the middle the longer one.
    fn rtt_us(&self) -> Option<u32> {
        let mut sorted: Vec<u32> = self.rtts_us.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied()
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
