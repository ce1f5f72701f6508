//! Who asked whether a member is heard, and what they are told.

use std::collections::BTreeSet;

use super::Detector;
use crate::effects::Effects;
use crate::ids::{NodeId, Time};
use crate::limits::Limits;
use crate::message::{Message, Presence};

/// Members for whom others wait to hear of one: bounds what asking can take.
const ASKED_MAX: usize = 64;
/// And those that wait for one.
const ASKERS_MAX: usize = 16;

/// Who asked whether a member is heard.
#[derive(Debug)]
pub(super) struct Asked {
    /// Until when it may still speak.
    pub(super) until: Time,
    /// They were told that it has not. It is kept in mind for [`Limits::evict_us`], so that they
    /// hear when that is no longer true.
    denied: bool,
    pub(super) askers: BTreeSet<NodeId>,
}

impl Detector {
    /// A member asks whether `peer`, which is a member, is heard.
    pub(in crate::membership) fn asks(
        &mut self,
        fx: &mut Effects,
        limits: &Limits,
        from: NodeId,
        peer: NodeId,
    ) {
        let denied = self.suspects(peer);
        if denied {
            fx.send(from, Message::Presence(Presence::Unheard(peer)));
        }
        let wait_us = if denied { limits.evict_us } else { limits.answer_us };
        let until = fx.now.after_us(wait_us);
        let is_new = !self.asked.contains_key(&peer);
        if is_new && self.asked.len() >= ASKED_MAX {
            // A word that may have to be taken back is worth less than an answer.
            let old = self.asked.iter().find(|(_, asked)| asked.denied).map(|(peer, _)| *peer);
            let Some(old) = old else { return };
            self.asked.remove(&old);
        }
        let fresh = || Asked { until, denied, askers: BTreeSet::new() };
        let asked = self.asked.entry(peer).or_insert_with(fresh);
        if asked.askers.len() < ASKERS_MAX {
            asked.askers.insert(from);
        }
        if !denied && (is_new || asked.denied) {
            (asked.until, asked.denied) = (until, false);
            fx.send(peer, Message::Presence(Presence::Ping));
        }
    }

    /// Whoever asked for somebody that has not spoken in time is told so.
    pub(super) fn answer(&mut self, fx: &mut Effects, limits: &Limits) {
        let now = fx.now;
        self.asked.retain(|&peer, asked| {
            if asked.until > now {
                return true;
            }
            if asked.denied {
                return false;
            }
            (asked.until, asked.denied) = (now.after_us(limits.evict_us), true);
            for &asker in &asked.askers {
                fx.send(asker, Message::Presence(Presence::Unheard(peer)));
            }
            true
        });
    }
}
