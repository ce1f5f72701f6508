//! Who is silent: beats that promise the next one, questions to others, and two observers.
//!
//! Every beat says by when the next one comes. Those that need a node (owners of its parts, holders
//! of its own) and [`WATCHERS`] members more hear it every [`Limits::beat_us`], all others so
//! seldom that a second takes a few beats, however many they are. Who breaks its promise is pinged,
//! and [`RELAYS`] others are asked whether they hear it. It is *suspected* when one of them does
//! not either (or nobody knows it, but this node hears others): then others may do its work, and
//! one word of it makes all as before. Whoever finds this out tells its members, who look for
//! themselves. It is *lost* when it was silent for [`Limits::evict_us`], another has found it
//! silent, too, and none has heard it in that time: whoever said that it does not hear a node says
//! so when it does again. Who hears nobody is likely deaf itself, and suspects nobody; who was held
//! up starts anew.
//!
//! Not the crate `foca`: its list of members grows by hearsay, while members here are authenticated
//! connections, and its probes cost as much but need rounds of them to reach every member, where a
//! broken promise shows at once. From SWIM are the questions to others, from Lifeguard the doubt of
//! one's own hearing. What others say makes a node look; its own silence alone makes it act.

use std::collections::{BTreeMap, BTreeSet};

use super::Member;
use crate::effects::Effects;
use crate::ids::{NodeId, Time};
use crate::limits::Limits;
use crate::message::{Message, Presence};

mod asked;

use self::asked::Asked;

/// Members that hear a node often though they need nothing of it: one may be deaf or gone.
const WATCHERS: usize = 2;
/// Members asked at once whether they hear one that is silent.
const RELAYS: usize = 3;
/// Beats that are not due often come so seldom that a second takes two, within these bounds, µs.
const SELDOM_US: std::ops::Range<u64> = 4_000_000..64_000_000;
/// With this much more silence a plan takes any other node, not only one that is ready.
const STEP_US: u64 = 2_000_000;

/// Whose silence is being looked into, and for whom.
#[derive(Debug, Default)]
pub(super) struct Detector {
    next_beat: Option<Time>,
    /// Nobody breaks a promise before that.
    next_look: Option<Time>,
    silent: BTreeMap<NodeId, Silent>,
    asked: BTreeMap<NodeId, Asked>,
}

/// A member that has not kept its promise, or of which that is said.
#[derive(Clone, Copy, Debug)]
struct Silent {
    since: Time,
    next_step: Time,
    asked_at: Time,
    /// When another last said that it does not hear it either.
    witnessed: Option<Time>,
    /// When another last said that it does.
    vouched: Option<Time>,
    /// Others know already.
    told: bool,
    /// From this node.
    tells: bool,
    is_suspected: bool,
}

/// What time has shown.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Whether for the first time.
    pub(super) suspected: Vec<(NodeId, bool)>,
    /// With the time of their silence, µs.
    pub(super) lost: Vec<(NodeId, u64)>,
}

/// The members, and which of them need this node.
pub(super) struct Around<'a> {
    pub(super) me: NodeId,
    pub(super) members: &'a mut BTreeMap<NodeId, Member>,
}

impl Detector {
    /// A member is there.
    pub(super) fn joined(&mut self, limits: &Limits, now: Time, due: Time) {
        self.next_beat.get_or_insert(now.after_us(limits.beat_us));
        self.promised(limits, due);
    }

    pub(super) fn left(&mut self, peer: NodeId) {
        self.silent.remove(&peer);
        self.asked.remove(&peer);
    }

    pub(super) fn suspects(&self, peer: NodeId) -> bool {
        self.silent.get(&peer).is_some_and(|silent| silent.is_suspected)
    }

    /// A member whose promise ends sooner than before must be looked at sooner.
    pub(super) fn promised(&mut self, limits: &Limits, due: Time) {
        self.look_by(due.after_us(limits.overdue_us));
    }

    /// A word of a member: whoever asked for it is told, and whoever was told of its silence.
    pub(super) fn heard(
        &mut self,
        fx: &mut Effects,
        limits: &Limits,
        peer: NodeId,
        members: &BTreeMap<NodeId, Member>,
    ) {
        let mut waiting = BTreeSet::new();
        if !self.silent.is_empty()
            && let Some(silent) = self.silent.remove(&peer)
        {
            self.look_by(fx.now.after_us(limits.overdue_us));
            if silent.tells {
                waiting.extend(members.keys().filter(|member| **member != peer));
            }
        }
        if !self.asked.is_empty()
            && let Some(asked) = self.asked.remove(&peer)
        {
            waiting.extend(asked.askers);
        }
        for other in waiting {
            fx.send(other, Message::Presence(Presence::Heard(peer)));
        }
    }

    /// A member that was asked for `peer` has heard it, or has not.
    pub(super) fn answered(&mut self, now: Time, peer: NodeId, heard: bool) {
        let Some(silent) = self.silent.get_mut(&peer) else { return };
        if heard {
            silent.vouched = Some(now);
            return;
        }
        silent.witnessed = Some(now);
        if !silent.is_suspected && !silent.is_vouched() {
            silent.next_step = now;
        }
    }

    /// A member suspects `peer`, which is a member: this node looks for itself.
    pub(super) fn told(&mut self, fx: &mut Effects, limits: &Limits, peer: NodeId) {
        let now = fx.now;
        let look_us = limits.answer_us / 2;
        let silent = self.silent.entry(peer).or_insert_with(|| {
            fx.send(peer, Message::Presence(Presence::Ping));
            Silent::new(now, now.after_us(look_us))
        });
        (silent.told, silent.witnessed) = (true, Some(now));
        if !silent.is_suspected && !silent.is_vouched() {
            silent.next_step = silent.next_step.min(silent.since.after_us(look_us).max(now));
        }
    }

    /// When [`Detector::tick`] has something to do.
    pub(super) fn deadline(&self) -> Option<Time> {
        let steps = self.silent.values().map(|silent| silent.next_step);
        let answers = self.asked.values().map(|asked| asked.until);
        steps.chain(answers).chain(self.next_beat).chain(self.next_look).min()
    }

    fn look_by(&mut self, at: Time) {
        self.next_look = Some(self.next_look.map_or(at, |look| look.min(at)));
    }

    /// `near`: the members that need this node, asked for only when beats are due.
    pub(super) fn tick(
        &mut self,
        fx: &mut Effects,
        limits: &Limits,
        mut around: Around<'_>,
        near: impl FnOnce() -> BTreeSet<NodeId>,
    ) -> Found {
        let now = fx.now;
        let late_us = self.deadline().map_or(0, |due| now.since_us(due));
        if late_us > limits.overdue_us {
            self.held_up(now, limits, &mut around);
        }
        let mut found = Found::default();
        self.answer(fx, limits);
        if self.next_look.is_some_and(|at| at <= now) {
            self.look(fx, limits, &around);
        }
        let due = self.silent.iter().filter(|(_, silent)| silent.next_step <= now);
        for (peer, silent) in due.map(|(peer, silent)| (*peer, *silent)).collect::<Vec<_>>() {
            self.step(fx, limits, &around, (peer, silent), &mut found);
        }
        if self.next_beat.is_some_and(|at| at <= now) {
            self.beat(fx, limits, &mut around, &near());
        }
        found
    }

    /// This node stood still and has listened to nobody: all have time anew.
    fn held_up(&mut self, now: Time, limits: &Limits, around: &mut Around<'_>) {
        for member in around.members.values_mut() {
            member.due = member.due.max(now);
        }
        self.next_look = Some(now.after_us(limits.overdue_us));
        for silent in self.silent.values_mut() {
            *silent = Silent {
                is_suspected: silent.is_suspected,
                told: silent.told,
                tells: silent.tells,
                ..Silent::new(now, now.after_us(2 * limits.answer_us))
            };
        }
        self.asked.clear();
    }

    /// Finds those that have broken their promise.
    fn look(&mut self, fx: &mut Effects, limits: &Limits, around: &Around<'_>) {
        let now = fx.now;
        let quiet_since = |member: &Member| member.due.max(member.last_heard);
        self.next_look = None;
        let mut overdue = Vec::new();
        for (&peer, member) in &*around.members {
            let at = quiet_since(member).after_us(limits.overdue_us);
            if self.silent.contains_key(&peer) {
                continue;
            }
            if at <= now {
                overdue.push((peer, quiet_since(member)));
            } else {
                self.look_by(at);
            }
        }
        for (peer, since) in overdue {
            let silent = Silent::new(since, now.after_us(2 * limits.answer_us));
            let silent = Silent { asked_at: now, ..silent };
            self.silent.insert(peer, silent);
            fx.send(peer, Message::Presence(Presence::Ping));
            self.ask(fx, around, peer);
        }
    }

    /// Asks others whether they hear `peer`.
    fn ask(&self, fx: &mut Effects, around: &Around<'_>, peer: NodeId) {
        let others = around.members.keys().copied().filter(|other| *other != peer);
        let mut others: Vec<_> = others.filter(|other| !self.silent.contains_key(other)).collect();
        let mut turn = order(around.me, peer, fx.now.0);
        for _ in 0..RELAYS.min(others.len()) {
            let at = usize::try_from(turn % others.len() as u64).expect("below a usize");
            fx.send(others.swap_remove(at), Message::Presence(Presence::Ask(peer)));
            turn = turn.rotate_left(17);
        }
    }

    /// A member was silent for one more while.
    fn step(
        &mut self,
        fx: &mut Effects,
        limits: &Limits,
        around: &Around<'_>,
        (peer, mut silent): (NodeId, Silent),
        found: &mut Found,
    ) {
        let now = fx.now;
        let silent_us = now.since_us(silent.since);
        let is_vouched = silent.is_vouched();
        let is_witnessed = silent.witnessed > silent.vouched && !is_vouched;
        let mut others = around.members.iter().filter(|(other, _)| **other != peer).peekable();
        let alone = others.peek().is_none();
        let hears = alone || others.any(|(_, other)| other.last_heard >= silent.since);
        let two = is_witnessed && hears;
        let evict_us = if two { limits.evict_us } else { limits.evict_alone_us };
        // It lived when somebody last heard it, whatever keeps its words from here.
        let unheard_us = silent_us.min(silent.vouched.map_or(u64::MAX, |at| now.since_us(at)));
        if unheard_us >= evict_us {
            found.lost.push((peer, silent_us));
            return;
        }
        // A word of nobody but this node's own silence takes longer.
        let alone_us = limits.overdue_us + 2 * limits.answer_us;
        let is_sure = is_witnessed || hears && silent_us >= alone_us;
        if is_sure && !is_vouched && !silent.is_suspected {
            silent.is_suspected = true;
            found.suspected.push((peer, true));
            if !silent.told {
                (silent.told, silent.tells) = (true, true);
                for &member in around.members.keys().filter(|member| **member != peer) {
                    fx.send(member, Message::Presence(Presence::Silent(peer)));
                }
            }
        } else if silent.is_suspected {
            found.suspected.push((peer, false));
        }
        let wait_us = if silent.is_suspected { STEP_US } else { 2 * limits.answer_us };
        (silent.asked_at, silent.next_step) = (now, now.after_us(wait_us));
        self.silent.insert(peer, silent);
        self.ask(fx, around, peer);
    }

    /// Speaks to those to whom that was promised, and to those that newly need it.
    fn beat(
        &mut self,
        fx: &mut Effects,
        limits: &Limits,
        around: &mut Around<'_>,
        near: &BTreeSet<NodeId>,
    ) {
        let now = fx.now;
        self.next_beat = (!around.members.is_empty()).then(|| now.after_us(limits.beat_us));
        let seldom_us = limits.beat_us.saturating_mul(around.members.len() as u64);
        let seldom_us = seldom_us.clamp(SELDOM_US.start, SELDOM_US.end);
        let mut watchers = [None; WATCHERS];
        for &peer in around.members.keys().filter(|peer| !self.silent.contains_key(peer)) {
            let mut one = Some((order(around.me, peer, 0), peer));
            for place in &mut watchers {
                if one.is_some() && (place.is_none() || one < *place) {
                    std::mem::swap(place, &mut one);
                }
            }
        }
        let watches = |peer: NodeId| watchers.iter().flatten().any(|(_, watcher)| *watcher == peer);
        for (&peer, member) in &mut *around.members {
            let often = watches(peer) || near.contains(&peer);
            let is_new = often && member.beat_at > now.after_us(limits.beat_us);
            if member.beat_at <= now || is_new {
                // Not all that are due seldom at one time.
                let less_us = order(peer, around.me, now.0) % (seldom_us / 2);
                let again_us = if often { limits.beat_us } else { seldom_us - less_us };
                member.beat_at = now.after_us(again_us);
                fx.send(peer, beat(again_us));
            }
        }
    }
}

impl Silent {
    const fn new(since: Time, next_step: Time) -> Self {
        Self {
            since,
            next_step,
            asked_at: since,
            witnessed: None,
            vouched: None,
            told: false,
            tells: false,
            is_suspected: false,
        }
    }

    /// Whether another, asked last, hears it.
    fn is_vouched(&self) -> bool {
        self.vouched.is_some_and(|at| at >= self.asked_at)
    }
}

/// A beat after which the next one comes within so long, µs.
pub(super) fn beat(again_us: u64) -> Message {
    Message::Heartbeat { again_ms: u32::try_from(again_us.div_ceil(1000)).unwrap_or(u32::MAX) }
}

/// A place for `peer` in the order of `me`: another in every turn, the same on every machine.
fn order(me: NodeId, peer: NodeId, turn: u64) -> u64 {
    let word = |id: NodeId| u64::from_le_bytes(*id.0.first_chunk().expect("32 bytes"));
    [word(me), word(peer), turn].into_iter().fold(0x9e37_79b9_7f4a_7c15, |state: u64, word| {
        let mixed = (state ^ word).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb).rotate_left(31)
    })
}

#[cfg(test)]
mod tests;
