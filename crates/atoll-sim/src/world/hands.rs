//! What a study's fault sees and does.

use std::fmt;

use super::{Happening, World};
use crate::schedule::What;

/// A run, in the moment in which a fault of a study strikes.
pub struct Hands<'w, 'a>(&'w mut World<'a>);

impl Hands<'_, '_> {
    /// Simulated time, µs.
    #[must_use]
    pub const fn now_us(&self) -> u64 {
        self.0.now
    }

    /// How many nodes there are; 0 is the origin of all requests.
    #[must_use]
    pub const fn n_nodes(&self) -> usize {
        self.0.nodes.len()
    }

    /// Whether a node is there.
    #[must_use]
    pub fn is_up(&self, node: usize) -> bool {
        self.0.nodes.get(node).is_some_and(|slot| slot.is_up)
    }

    /// The nodes that hold the stages of the origin's plan, in order; none without a plan.
    #[must_use]
    pub fn ring(&self) -> Vec<usize> {
        self.0.ring()
    }

    /// Weights and caches that a device holds, bytes.
    #[must_use]
    pub fn used_bytes(&self, node: usize) -> u64 {
        self.0.nodes.get(node).map_or(0, |slot| slot.device.used_bytes())
    }

    /// A number below `end`, which is not 0, from the run's seed.
    pub fn random_below(&mut self, end: u64) -> u64 {
        self.0.own_random.below(end)
    }

    /// This strikes now. Of nodes that there are not, nobody is struck.
    pub fn strike(&mut self, what: What) {
        if what.nodes().all(|node| node < self.n_nodes()) {
            self.0.strikes(what);
        }
    }
}

impl fmt::Debug for Hands<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hands").field("now_us", &self.0.now).finish_non_exhaustive()
    }
}

impl World<'_> {
    /// A fault of a study strikes, and may want to do so again.
    pub(super) fn strike_own(&mut self, own: usize) {
        let Some(mut fault) = self.own_faults.get_mut(own).and_then(Option::take) else { return };
        let again = (fault.strike)(&mut Hands(self));
        let again = again.filter(|at| *at > self.now && fault.within_us.contains(at));
        if let Some(at) = again {
            self.push(at, Happening::OwnFault(own));
        }
        self.own_faults[own] = Some(fault);
    }
}
