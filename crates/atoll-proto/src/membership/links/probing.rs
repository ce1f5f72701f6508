//! Rounds of probes to one peer, and what they showed.
//!
//! Some small probes, one after the other, show the round trip. Then some filled ones show how much
//! longer so many bytes take, one peer at a time, so that they do not wait for each other. The time
//! of a round is bounded: what has not come back at its end took so long at least.

use std::collections::VecDeque;

use crate::effects::Effects;
use crate::ids::{NodeId, Time, median};
use crate::limits::FILLER_BYTES_MAX;
use crate::message::{Message, Survey};
use crate::planner::LinkFigures;

/// Small probes of one round.
pub(super) const PROBES: u8 = 5;
/// So many are enough where they have taken a quarter of the round's time.
const PROBES_FAR: u8 = 3;
/// Filled ones.
pub(super) const FILLED: u8 = 3;
/// Round trips that are kept: three rounds.
pub(super) const WINDOW: usize = 15;
/// A round ends after so long, µs.
const ROUND_US: u64 = 700_000;
/// A measurement is good for so long, µs.
pub(super) const FRESH_US: u64 = 10_000_000;
/// That of how much a link carries, µs: at most 144 KiB an hour for each direction of a pair.
const FILLED_FRESH_US: u64 = 900_000_000;
/// What is in doubt is forgotten so often at most, and measured anew...
const DOUBTS_MAX: usize = 4;
/// ... within so long, µs. With what is not in doubt that is 1,008 KiB an hour at most for each
/// direction of a pair.
const DOUBTS_US: u64 = 600_000_000;
/// Longest round trip that is believed, µs: whoever is further away serves nobody.
pub(super) const RTT_US_MAX: u32 = 10_000_000;
/// Most that a link is believed to carry: 10 Gbit/s.
pub(super) const BYTES_PER_S_MAX: u64 = 1_250_000_000;

/// What was measured of one link.
#[derive(Debug, Default)]
pub(super) struct Own {
    /// Of small probes.
    pub(super) small: Window,
    /// Of filled ones.
    pub(super) filled: Window,
    /// When the latest round ended.
    at: Option<Time>,
    /// The same of one with filled probes.
    filled_at: Option<Time>,
    /// When it was doubted of late.
    doubted: Vec<Time>,
}

/// The latest round trips, µs.
#[derive(Debug, Default)]
pub(super) struct Window(pub(super) VecDeque<u32>);

/// A round under way.
#[derive(Debug)]
pub(super) struct Round {
    /// The latest probe, and when it was sent if it is not back yet.
    pub(super) probe: u32,
    sent_at: Option<Time>,
    pub(super) small_left: u8,
    pub(super) filled_left: u8,
    /// A filled probe was sent.
    has_filled: bool,
    pub(super) until: Time,
}

impl Round {
    /// Begins with a small probe.
    pub(super) fn begin(fx: &mut Effects, peer: NodeId, probe: u32, own: Option<&Own>) -> Self {
        let is_known = own.is_some_and(|own| is_fresh(own.filled_at, fx.now, FILLED_FRESH_US));
        let filled_left = if is_known { 0 } else { FILLED };
        let until = fx.now.after_us(ROUND_US);
        let (sent_at, small_left, has_filled) = (None, PROBES, false);
        let mut round = Self { probe, sent_at, small_left, filled_left, has_filled, until };
        round.send(fx, peer, probe);
        round
    }

    /// Sends the next probe.
    pub(super) fn send(&mut self, fx: &mut Effects, peer: NodeId, probe: u32) {
        (self.probe, self.sent_at) = (probe, Some(fx.now));
        self.has_filled |= self.small_left == 0;
        let filler = vec![0; if self.has_filled { FILLER_BYTES_MAX } else { 0 }];
        fx.send(peer, Message::Survey(Survey::Probe { probe, filler }));
    }

    /// Takes in what came back. `false`: it is not what was sent last.
    pub(super) fn echoed(&mut self, now: Time, own: &mut Own, probe: u32) -> bool {
        let Some(sent_at) = self.sent_at.filter(|_| self.probe == probe) else { return false };
        self.sent_at = None;
        let us = now.since_us(sent_at);
        if self.small_left > 0 {
            self.small_left -= 1;
            own.small.add(us);
            let is_far = now.after_us(ROUND_US / 4 * 3) > self.until;
            if is_far && PROBES - self.small_left >= PROBES_FAR {
                self.small_left = 0;
            }
        } else {
            self.filled_left -= 1;
            own.filled.add(us);
        }
        true
    }

    pub(super) const fn is_over(&self) -> bool {
        self.small_left == 0 && self.filled_left == 0
    }

    /// Whether a filled probe is under way.
    pub(super) const fn fills(&self) -> bool {
        self.small_left == 0 && self.sent_at.is_some()
    }

    /// Whether a filled probe waits for its turn.
    pub(super) const fn waits(&self) -> bool {
        self.small_left == 0 && self.filled_left > 0 && self.sent_at.is_none()
    }

    /// The round is over, all of it or not.
    pub(super) fn end(&self, now: Time, own: &mut Own) {
        if let Some(sent_at) = self.sent_at {
            let us = now.since_us(sent_at);
            if self.small_left > 0 {
                own.small.add(us);
            } else if own.small.least().is_none_or(|small| us >= 2 * u64::from(small)) {
                // Before that it may as well be on its way back.
                own.filled.add(us);
            }
        }
        own.at = Some(now);
        if self.has_filled {
            own.filled_at = Some(now);
        }
    }
}

impl Own {
    /// Forgets it all, unless that was done often of late; whether it did.
    pub(super) fn doubt(&mut self, now: Time) -> bool {
        self.doubted.retain(|at| at.after_us(DOUBTS_US) > now);
        let does = self.doubted.len() < DOUBTS_MAX;
        if does {
            let mut doubted = std::mem::take(&mut self.doubted);
            doubted.push(now);
            *self = Self { doubted, ..Self::default() };
        }
        does
    }

    pub(super) fn is_fresh(&self, now: Time) -> bool {
        is_fresh(self.at, now, FRESH_US)
    }

    pub(super) fn figures(&self) -> LinkFigures {
        LinkFigures { rtt_us: self.small.median(), bytes_per_s: self.bytes_per_s() }
    }

    /// The quickest of each kind: what disturbs a probe makes it slower.
    fn bytes_per_s(&self) -> Option<u64> {
        let more_us = self.filled.least()?.saturating_sub(self.small.least()?).max(1);
        Some((FILLER_BYTES_MAX as u64 * 1_000_000 / u64::from(more_us)).min(BYTES_PER_S_MAX))
    }
}

impl Window {
    /// A round trip took so long, µs.
    pub(super) fn add(&mut self, us: u64) {
        self.0.push_back(u32::try_from(us).map_or(RTT_US_MAX, |us| us.min(RTT_US_MAX)));
        if self.0.len() > WINDOW {
            self.0.pop_front();
        }
    }

    fn least(&self) -> Option<u32> {
        self.0.iter().min().copied()
    }

    /// The median of the quickest round, of two in the middle the longer one: a round that was
    /// disturbed, by a node that was busy, was slower than the link.
    pub(super) fn median(&self) -> Option<u32> {
        let all: Vec<u32> = self.0.iter().copied().collect();
        let rounds = all.rchunks(PROBES.into()).enumerate();
        let whole = rounds.filter(|(i, round)| *i == 0 || round.len() == usize::from(PROBES));
        whole.filter_map(|(_, round)| median(round.iter().copied())).min()
    }
}

fn is_fresh(at: Option<Time>, now: Time, good_us: u64) -> bool {
    at.is_some_and(|at| at.after_us(good_us) > now)
}
