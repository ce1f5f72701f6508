//! Links are known before a model is placed by them, or it is placed without.

use std::collections::BTreeSet;

use super::{Deployment, PlanState};
use crate::ids::{ModelId, NodeId, Time};
use crate::membership::{Membership, SURVEY_US};
use crate::planner;

impl Deployment {
    /// Whether a model can be placed now: links do not matter, are known, or were waited for long
    /// enough. If not, they are to be surveyed.
    pub(super) fn knows_links(&mut self, now: Time, members: &Membership, id: ModelId) -> bool {
        let candidates = self.candidates(now, members, id, false);
        let free_bytes = self.free(id, self.me, members.profile().memory_bytes);
        let Some(served) = self.served.get_mut(&id) else { return true };
        let is_late = match served.state {
            PlanState::Waiting { until } => until <= now,
            PlanState::Preparing(_) | PlanState::Ready(_) | PlanState::Failed(_) => false,
        };
        let room =
            candidates.iter().fold(free_bytes, |sum, node| sum.saturating_add(node.memory_bytes));
        let needed = planner::needed_bytes(&served.model, &served.policy);
        let nodes: BTreeSet<NodeId> =
            planner::considered(&candidates).into_iter().map(|node| node.node).collect();
        // After a loss nothing is waited for.
        let is_known = !served.policy.is_by_time()
            || is_late
            || served.lost.is_some()
            || room < needed
            || members.is_surveyed(now, &nodes);
        if is_known || served.place_by.is_some_and(|by| by <= now) {
            served.place_by = None;
            return true;
        }
        served.place_by.get_or_insert(now.after_us(SURVEY_US));
        self.to_survey.extend(nodes);
        false
    }

    /// Nodes between which links are to be measured.
    pub(crate) fn take_to_survey(&mut self) -> BTreeSet<NodeId> {
        std::mem::take(&mut self.to_survey)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deployment::tests::{ID, ME, hello, members, model};
    use crate::effects::Effects;
    use crate::limits::Limits;
    use crate::plan::PlanPolicy;
    use crate::planted::Planted;

    /// By time, and not before it is said that waiting is over.
    const OPEN: PlanPolicy = PlanPolicy {
        stages: None,
        context: 10,
        sessions: 2,
        spares: 0,
        wait_us: 9_000_000,
        rule: None,
    };

    fn is_waiting(deployment: &Deployment) -> bool {
        matches!(deployment.served(ID).expect("served").state, PlanState::Waiting { .. })
    }

    fn check(policy: PlanPolicy, others: &[u8], surveyed: &[u8]) {
        let (limits, fx) = (Limits::default(), &mut Effects::new(Time(5), Planted::default()));
        let members = members(fx, &limits, others);
        let mut deployment = Deployment::new(ME);
        deployment.serve(fx, &members, &limits, (model(), policy));
        let nodes: Vec<u8> = deployment.take_to_survey().iter().map(|node| node.0[0]).collect();
        assert_eq!(nodes, surveyed);
        assert_eq!(is_waiting(&deployment), !surveyed.is_empty());
    }

    #[test]
    fn only_what_depends_on_links_waits_for_them() {
        check(OPEN, &[2, 3], &[2, 3]);
        check(OPEN, &[], &[]);
        check(PlanPolicy { stages: Some(2), ..OPEN }, &[2, 3], &[]);
        check(PlanPolicy { wait_us: 0, ..OPEN }, &[2, 3], &[]);
    }

    #[test]
    fn a_model_is_placed_in_time_whatever_is_known() {
        let (limits, fx) = (Limits::default(), &mut Effects::new(Time(5), Planted::default()));
        let mut members = members(fx, &limits, &[2, 3]);
        let mut deployment = Deployment::new(ME);
        deployment.serve(fx, &members, &limits, (model(), OPEN));
        let by = Time(5).after_us(SURVEY_US);
        assert_eq!(deployment.deadline(), Some(by));
        // Who comes meanwhile is measured, too, and is no reason to wait for longer.
        fx.now = Time(by.0 - 1);
        hello(fx, &limits, &mut members, 4);
        deployment.retry(fx, &members, &limits);
        assert_eq!(deployment.take_to_survey().len(), 3);
        assert!(is_waiting(&deployment) && deployment.deadline() == Some(by));
        fx.now = by;
        deployment.tick(fx, &members, &limits);
        assert!(!is_waiting(&deployment));
        assert!(deployment.deadline().is_none_or(|at| at > by), "it would tick for ever");
    }

    #[test]
    fn after_a_loss_nothing_is_waited_for() {
        let (limits, fx) = (Limits::default(), &mut Effects::new(Time(5), Planted::default()));
        let members = members(fx, &limits, &[2, 3]);
        let mut deployment = Deployment::new(ME);
        deployment.serve(fx, &members, &limits, (model(), OPEN));
        let served = deployment.served.get_mut(&ID).expect("served");
        served.lost = Some(crate::membership::Lost { peer: ME, cause: String::new() });
        assert!(deployment.knows_links(fx.now, &members, ID));
    }
}
