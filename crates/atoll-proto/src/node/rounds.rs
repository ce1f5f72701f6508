//! What rounds and surveys of links mean for plans.

use super::Node;
use crate::effects::Effects;
use crate::io::{Event, Output};
use crate::limits::Limits;

impl Node {
    /// What tokens took on their way may speak for another plan: those of a session alone, after
    /// its first one, which ends a prompt.
    pub(super) fn watch(&mut self, fx: &Effects) {
        for output in &fx.outputs {
            if let Output::Emit(Event::Token { request, index: 1.., hops, round_us, .. }) = output
                && self.origin.active().len() == 1
                && let Some(active) = self.origin.active().values().next()
                && active.request.id == *request
            {
                let at = (active.request.model, active.positions());
                self.deployment.came_around(fx.now, &self.membership, at, (hops, *round_us));
            }
        }
        for passed in &fx.passed {
            if let [active] = self.origin.active().values().collect::<Vec<_>>()[..]
                && active.request.id == passed.request
            {
                self.deployment.chunk_passed(active.request.model, passed);
            }
        }
    }

    /// Plans want links measured, and wait for that.
    pub(super) fn survey(&mut self, fx: &mut Effects, limits: &Limits) {
        let in_doubt = self.deployment.take_in_doubt();
        if !in_doubt.is_empty() {
            self.membership.doubt_links(fx.now, &in_doubt);
        }
        if self.membership.take_surveyed() {
            self.deployment.retry(fx, &self.membership, limits);
        }
        let nodes = self.deployment.take_to_survey();
        if !nodes.is_empty() {
            self.membership.survey(fx, &nodes);
        }
    }
}
