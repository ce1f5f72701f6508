//! Nodes that a model is not to be placed on.

use super::{Deployment, PlanState, Served};
use crate::effects::Effects;
use crate::ids::{ModelId, NodeId, Time};
use crate::limits::{CAUSE_BYTES_MAX, Limits, clip};
use crate::membership::{Membership, Suspect};
use crate::message::Message;

/// Why a node is not to be used, and for how long.
#[derive(Debug)]
pub(super) struct Excluded {
    pub(super) cause: String,
    pub(super) since: Time,
    /// Of one that could not prepare its part: never again, unless it joins anew.
    pub(super) until: Time,
}

impl Excluded {
    /// Whether a node that was last heard at `heard` is not to be used at `now`; `at_need`: while
    /// there is no better one. Then a suspected node that has been heard since may serve: slow is
    /// not dead.
    pub(super) fn holds(&self, now: Time, heard: Time, at_need: bool) -> bool {
        let is_suspected = self.until < Time(u64::MAX);
        self.until > now && !(at_need && is_suspected && heard > self.since)
    }
}

impl Served {
    /// Forgets who was suspected and whose time is over, while a plan is in force; whether there
    /// was one: it may be a spare again.
    pub(super) fn readmit(&mut self, now: Time) -> bool {
        let before = self.excluded.len();
        if matches!(self.state, PlanState::Ready(_)) {
            self.excluded.retain(|_, excluded| excluded.until > now);
        }
        self.excluded.len() < before
    }

    /// When [`Served::readmit`] next finds one.
    pub(super) fn next_readmitted(&self) -> Option<Time> {
        let ends = self.excluded.values().map(|excluded| excluded.until);
        ends.filter(|until| *until < Time(u64::MAX)).min()
    }
}

impl Deployment {
    /// A node does not do its stage's work: another takes it over, if there is one. Nobody is
    /// evicted, and without another the node keeps its stage.
    pub(crate) fn suspect(
        &mut self,
        fx: &mut Effects,
        members: &Membership,
        limits: &Limits,
        (model, node): (ModelId, NodeId),
        cause: String,
    ) {
        let until = fx.now.after_us(limits.suspicion_us);
        let Some(served) = self.served.get_mut(&model) else { return };
        let excluded = served.excluded.insert(node, Excluded { cause, since: fx.now, until });
        if self.mended(fx.now, members, model).is_some() {
            self.mend(fx, members, limits, model, node);
        } else if excluded.is_none()
            && let Some(served) = self.served.get_mut(&model)
        {
            served.excluded.remove(&node);
        }
    }

    /// A member is silent: where it is a stage, one that holds the same takes that over at once;
    /// any other, which has to load it first, only when it stays silent.
    pub(crate) fn silent(
        &mut self,
        fx: &mut Effects,
        members: &Membership,
        limits: &Limits,
        Suspect { peer, is_new }: Suspect,
    ) {
        for model in self.served.keys().copied().collect::<Vec<_>>() {
            let served = &self.served[&model];
            if !is_new && self.is_doubled(fx.now, members, model, peer) {
                self.drop_spare(fx, model, peer);
                self.seek_spares(fx, members, limits, model);
                continue;
            }
            let in_force = matches!(served.state, PlanState::Ready(_) | PlanState::Preparing(_));
            let holds = served.stages.iter().any(|stage| stage.node == peer);
            if !in_force || !holds || is_new && !self.is_spared(fx.now, members, model) {
                continue;
            }
            self.suspect(fx, members, limits, (model, peer), "it is silent".to_owned());
        }
    }

    /// Stages that are silent since before there was anybody else.
    pub(super) fn relieve(
        &mut self,
        fx: &mut Effects,
        members: &Membership,
        limits: &Limits,
        model: ModelId,
    ) {
        let stages = self.served.get(&model).into_iter().flat_map(|served| &served.stages);
        let silent = stages.map(|stage| stage.node).find(|node| members.suspects(*node));
        if let Some(peer) = silent {
            let cause = "it is silent".to_owned();
            self.suspect(fx, members, limits, (model, peer), cause);
        }
    }

    /// Whether a node is a spare in whose place there is another.
    fn is_doubled(&self, now: Time, members: &Membership, model: ModelId, node: NodeId) -> bool {
        let served = &self.served[&model];
        let Some(spare) = served.spares.iter().find(|spare| spare.node == node) else {
            return false;
        };
        let taken: Vec<_> = served.stages.iter().chain(&served.spares).copied().collect();
        let candidates = self.candidates(now, members, model, false);
        self.substitute(&candidates, model, &taken, spare.layers).is_some()
    }

    fn drop_spare(&mut self, fx: &mut Effects, model: ModelId, node: NodeId) {
        if let Some(served) = self.served.get_mut(&model) {
            served.forget(fx, self.me, node);
            fx.send(node, Message::Unassign { model });
        }
    }

    /// Whether others that are ready can take over all that silent members hold.
    fn is_spared(&self, now: Time, members: &Membership, model: ModelId) -> bool {
        let served = &self.served[&model];
        self.mended(now, members, model).is_some_and(|stages| {
            let mut new = stages.iter().filter(|stage| !served.stages.contains(stage));
            new.all(|stage| served.held.get(&stage.node) == Some(&Some(stage.layers)))
        })
    }

    /// Plans again without a node that could not prepare its part.
    pub(super) fn exclude(
        &mut self,
        fx: &mut Effects,
        members: &Membership,
        limits: &Limits,
        (model, node): (ModelId, NodeId),
        cause: String,
    ) {
        let Some(served) = self.served.get_mut(&model) else { return };
        let cause = clip(cause, CAUSE_BYTES_MAX);
        tracing::warn!(%model, %node, cause, "a node could not prepare its part");
        served.forget(fx, self.me, node);
        let until = Time(u64::MAX);
        served.excluded.insert(node, Excluded { cause, since: fx.now, until });
        if node != self.me {
            fx.send(node, Message::Unassign { model });
        }
        if matches!(served.state, PlanState::Preparing(_)) {
            // Whether others can do it shows at once; more waiting helps nobody.
            let until = if served.lost.is_some() { served.policy.wait_us } else { 0 };
            served.state = PlanState::Waiting { until: fx.now.after_us(until) };
            self.place(fx, members, limits, model);
        } else {
            self.mend(fx, members, limits, model, node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspected_node_serves_at_need_once_it_is_heard_again() {
        let cause = String::new();
        let suspected = Excluded { cause, since: Time(100), until: Time(900) };
        assert!(suspected.holds(Time(200), Time(150), false), "there are better ones");
        assert!(suspected.holds(Time(200), Time(100), true), "not heard since");
        assert!(!suspected.holds(Time(200), Time(150), true));
        assert!(!suspected.holds(Time(900), Time(0), false), "its time is over");
    }

    #[test]
    fn a_node_that_could_not_prepare_serves_never() {
        let cause = "no room".to_owned();
        let unable = Excluded { cause, since: Time(100), until: Time(u64::MAX) };
        assert!(unable.holds(Time(1 << 60), Time(1 << 59), true));
    }
}
