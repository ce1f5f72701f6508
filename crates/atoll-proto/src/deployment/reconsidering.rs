//! When what was measured, or a node that has come, is reason for another plan.

use std::collections::BTreeSet;

use super::watching::LOOKS_US;
use super::{Deployment, PlanState};
use crate::effects::Effects;
use crate::ids::{ModelId, NodeId, Time};
use crate::io::HopTime;
use crate::limits::Limits;
use crate::membership::Membership;
use crate::plan::Stage;
use crate::planner;

/// Parts that were there within so long were not sent, µs.
const SENDING_US: u64 = 500_000;
/// What a plan has to save of a token's time to take the place of another, percent.
const GAIN_PERCENT: u64 = 10;
/// The same where nodes have no room for both, so that sessions stand still while parts load.
const GAIN_STANDING_PERCENT: u64 = 33;
/// A move is to save more than it costs within so long, ns.
const PAYS_WITHIN_NS: u64 = 60_000_000_000;
/// A row of a prompt is computed so many times as fast as one alone, at least.
const ROWS_GAIN: u64 = 8;
/// A session that gave no token for so long is none that a move would hold up, µs.
const IDLE_US: u64 = 5_000_000;

impl Deployment {
    /// A token of the only session under way came around a model's ring.
    pub(crate) fn came_around(
        &mut self,
        now: Time,
        members: &Membership,
        (model, positions): (ModelId, u32),
        round: (&[HopTime], u64),
    ) {
        let me = self.me;
        let Some(served) = self.served.get_mut(&model) else { return };
        served.watch.positions = (positions, now);
        let claimed =
            |node| members.profile_of(node).map_or(0, |profile| profile.weight_bytes_per_s);
        let Some(drift) = served.round(now, me, claimed, round) else { return };
        if drift.of_links {
            self.in_doubt.extend(served.stages.iter().map(|stage| stage.node));
            self.in_doubt.remove(&me);
        }
        if drift.of_nodes || drift.of_links {
            served.watch.look_at = Some(now);
        }
    }

    /// A part has been loaded. If it was the last one, links that were measured while parts were
    /// sent are to be measured again, and looked at.
    pub(super) fn loaded(&mut self, now: Time, members: &Membership, id: ModelId) {
        let candidates = self.candidates(now, members, id, false);
        let Some(served) = self.served.get_mut(&id) else { return };
        if served.is_sending() || !matches!(served.state, PlanState::Ready(_)) {
            return;
        }
        let since = served.watch.sent_since.take();
        if served.policy.is_by_time()
            && since.is_some_and(|since| since.after_us(SENDING_US) <= now)
        {
            let nodes = planner::considered(&candidates);
            self.in_doubt.extend(nodes.iter().map(|node| node.node));
            served.watch.look_at = Some(now.after_us(LOOKS_US).max(served.watch.hold_until));
        }
    }

    /// Members whose links are to be measured anew.
    pub(crate) fn take_in_doubt(&mut self) -> BTreeSet<NodeId> {
        std::mem::take(&mut self.in_doubt)
    }

    /// Looks for a plan that is worth leaving the one in force.
    pub(super) fn reconsider(
        &mut self,
        fx: &mut Effects,
        members: &Membership,
        limits: &Limits,
        id: ModelId,
    ) {
        let Some(served) = self.served.get_mut(&id) else { return };
        served.watch.look_at = None;
        if !served.policy.is_by_time() || served.coming.is_some() {
            served.place_by = None;
            return;
        }
        let not_before = served.watch.hold_until.max(served.watch.next_search);
        if not_before > fx.now {
            served.watch.look_at = Some(not_before);
            served.place_by = None;
            return;
        }
        if served.is_sending() {
            // Parts on their way make links look slow: what is known has to do.
            served.place_by = None;
        } else if !self.knows_links(fx.now, members, id) {
            return;
        }
        let Some(served) = self.served.get_mut(&id) else { return };
        let stages = served.stages.clone();
        served.watch.next_search = fx.now.after_us(LOOKS_US);
        served.watch.age(fx.now, &stages);
        let served = &self.served[&id];
        let (asked, owner) = ((&served.model, &served.policy), self.owner(members, id));
        let others = self.candidates(fx.now, members, id, false);
        let known = |from, to| members.link(from, to);
        let Ok(better) = planner::place_linked(asked.0, asked.1, owner, &others, &known) else {
            return;
        };
        tracing::debug!(model = %id, ?better, "looked for a better plan");
        if better == stages {
            return;
        }
        let ns = |stages: &[Stage]| planner::token_ns(asked, (owner, &others), &known, stages);
        let (Some(now_ns), Some(then_ns)) = (ns(&stages), ns(&better)) else { return };
        let (positions, heard) = served.watch.positions;
        let is_busy = heard.after_us(IDLE_US) > fx.now;
        let held_up = if is_busy { u64::from(positions) } else { 0 };
        let is_beside = self.fits_beside(members, id, &better);
        if is_worth((now_ns, then_ns), held_up, is_beside || !is_busy) {
            tracing::info!(model = %id, now_ns, then_ns, is_beside, "a better plan");
            if is_beside {
                self.move_to(fx, limits, id, better);
            } else {
                self.assign(fx, limits, id, better);
            }
        }
    }
}

/// Whether a plan whose token takes `then_ns` is to take the place of one with `now_ns`, where a
/// session of so many positions has to be computed again; `is_smooth`: nothing else stands still.
fn is_worth((now_ns, then_ns): (u64, u64), positions: u64, is_smooth: bool) -> bool {
    let gain_ns = now_ns.saturating_sub(then_ns);
    let least = if is_smooth { GAIN_PERCENT } else { GAIN_STANDING_PERCENT };
    let tokens = PAYS_WITHIN_NS / now_ns.max(1);
    let cost_ns = u128::from(positions) * u128::from(then_ns) / u128::from(ROWS_GAIN);
    gain_ns > 0
        && u128::from(gain_ns) * 100 >= u128::from(now_ns) * u128::from(least)
        && u128::from(gain_ns) * u128::from(tokens) >= cost_ns
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deployment::tests::{ID, ME, hello, members, model};
    use crate::plan::PlanPolicy;
    use crate::planted::Planted;

    const MS: u64 = 1_000_000;

    #[test]
    fn hellos_cost_one_search_a_second() {
        let (limits, fx) = (Limits::default(), &mut Effects::new(Time(0), Planted::default()));
        let mut members = members(fx, &limits, &[2, 3]);
        let mut deployment = Deployment::new(ME);
        let policy = PlanPolicy {
            stages: None,
            context: 10,
            sessions: 1,
            spares: 0,
            wait_us: 0,
            rule: None,
        };
        deployment.serve(fx, &members, &limits, (model(), policy));
        while let Some(&node) = deployment.served[&ID].asked.keys().next() {
            let epoch = deployment.served[&ID].asked[&node].epoch;
            deployment.prepared(fx, &members, &limits, node, (ID, epoch), Ok(()));
        }
        // Nothing more will be heard of links than that nobody tells.
        fx.now = Time(20_000_000);
        deployment.retry(fx, &members, &limits);
        fx.now = Time(21_000_001);
        deployment.tick(fx, &members, &limits);
        let next = deployment.served[&ID].watch.next_search;
        assert_eq!(next, Time(22_000_001), "it has searched");
        for ms in [1, 500, 999] {
            fx.now = Time(21_000_001 + ms * 1_000);
            hello(fx, &limits, &mut members, 3);
            deployment.retry(fx, &members, &limits);
            assert_eq!(deployment.served[&ID].watch.next_search, next, "{ms} ms later");
            assert_eq!(deployment.deadline(), Some(next), "but then it will");
        }
    }

    #[test]
    fn a_move_has_to_be_worth_what_it_costs() {
        assert!(is_worth((100 * MS, 90 * MS), 0, true));
        assert!(!is_worth((100 * MS, 91 * MS), 0, true), "less than a tenth");
        assert!(!is_worth((100 * MS, 110 * MS), 0, true), "and that is a loss");
        assert!(!is_worth((100 * MS, 80 * MS), 0, false), "while sessions stand still");
        assert!(is_worth((100 * MS, 66 * MS), 0, false));
        // 600 tokens in a minute win 10 ms each; positions cost an eighth of 90 ms.
        assert!(is_worth((100 * MS, 90 * MS), 533, true));
        assert!(!is_worth((100 * MS, 90 * MS), 534, true));
        assert!(!is_worth((0, 0), 1, true), "nothing to win");
    }
}
