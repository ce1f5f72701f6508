//! What a token's way around the ring took, by clocks that never have to agree.
//!
//! The origin times the round with its own clock, each node times with its own how long it held
//! the token and how long of that it computed. What is left of the round lies between the nodes.
//! How it divides over the single crossings cannot be known without a common clock, so only their
//! mean is told.

use std::collections::VecDeque;

use atoll_proto::io::HopTime;
use serde::{Deserialize, Serialize};

/// Rounds looked back on: some seconds of one session, and a bound on what is kept.
const ROUNDS_MAX: usize = 256;

/// One token's way around the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// From giving its input into the ring to having the token, by the origin's clock, µs.
    pub round_us: u64,
    /// Of that, from each arrival at a node to the departure, all nodes together, µs.
    pub held_us: u64,
    /// Of that, computing, all nodes together, µs.
    pub compute_us: u64,
    /// How often it went from one node to another.
    pub crossings: u32,
}

impl Round {
    /// The round of a token with these hops, in ring order.
    pub(crate) fn new(hops: &[HopTime], round_us: u64) -> Self {
        let back = hops.last().into_iter().chain(hops);
        let crossings = back.zip(hops).filter(|(from, to)| from.node != to.node).count();
        Self {
            round_us,
            held_us: hops.iter().map(|hop| u64::from(hop.held_us)).sum(),
            compute_us: hops.iter().map(|hop| u64::from(hop.compute_us)).sum(),
            crossings: u32::try_from(crossings).unwrap_or(u32::MAX),
        }
    }

    /// What one crossing added to the computing: the wire, and waiting at either end of it, µs.
    /// The mean of this round's crossings; `None` without any.
    #[must_use]
    pub fn hop_us(&self) -> Option<f64> {
        self.share(self.compute_us)
    }

    /// What one crossing took from the departure at one node to the arrival at the next, µs. The
    /// mean of this round's crossings; `None` without any.
    #[must_use]
    pub fn wire_us(&self) -> Option<f64> {
        self.share(self.held_us)
    }

    fn share(&self, elsewhere_us: u64) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "microseconds of one token")]
        let rest_us = self.round_us.saturating_sub(elsewhere_us) as f64;
        (self.crossings > 0).then(|| rest_us / f64::from(self.crossings))
    }
}

/// The latest rounds.
#[derive(Clone, Debug, Default)]
pub struct Rounds(VecDeque<Round>);

/// What the latest rounds say of a hop.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RingView {
    /// Rounds looked at: one for each token after a first one.
    pub rounds: usize,
    /// Crossings of the latest round.
    pub crossings: u32,
    /// [`Round::hop_us`], the median.
    pub hop_us_median: f64,
    /// The same, nine of ten rounds lie below.
    pub hop_us_p90: f64,
    /// [`Round::wire_us`], the median.
    pub wire_us_median: f64,
}

impl Rounds {
    /// Adds the latest round; the oldest goes when there are many.
    pub fn push(&mut self, round: Round) {
        if self.0.len() == ROUNDS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(round);
    }

    /// What they say; `None` if no token has gone from one node to another.
    #[must_use]
    pub fn view(&self) -> Option<RingView> {
        let sorted = |us: fn(&Round) -> Option<f64>| {
            let mut all: Vec<f64> = self.0.iter().filter_map(us).collect();
            all.sort_by(f64::total_cmp);
            all
        };
        let (hops, wires) = (sorted(Round::hop_us), sorted(Round::wire_us));
        Some(RingView {
            rounds: hops.len(),
            crossings: self.0.back()?.crossings,
            hop_us_median: *hops.get(hops.len() / 2)?,
            hop_us_p90: *hops.get(hops.len() * 9 / 10)?,
            wire_us_median: *wires.get(wires.len() / 2)?,
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use atoll_proto::NodeId;

    use super::*;

    fn hop(node: u8, held_us: u32, compute_us: u32) -> HopTime {
        HopTime { node: NodeId([node; 32]), held_us, compute_us }
    }

    fn check(hops: &[HopTime], round_us: u64, crossings: u32, per_hop_us: Option<(f64, f64)>) {
        let round = Round::new(hops, round_us);
        assert_eq!(round.crossings, crossings);
        assert_eq!(round.hop_us().zip(round.wire_us()), per_hop_us);
    }

    #[test]
    fn crossings_are_counted_around_the_ring() {
        // Alone: first layers and head at one node.
        check(&[hop(1, 100, 90)], 120, 0, None);
        check(&[hop(1, 100, 90), hop(1, 50, 45)], 200, 0, None);
        // Two and three stages, the first and the head at the origin.
        let two = [hop(1, 100, 90), hop(2, 100, 90), hop(1, 30, 20)];
        check(&two, 330, 2, Some((65.0, 50.0)));
        let three = [hop(1, 100, 100), hop(2, 100, 100), hop(3, 100, 100), hop(1, 30, 30)];
        check(&three, 390, 3, Some((20.0, 20.0)));
    }

    #[test]
    fn clocks_that_run_apart_give_no_negative_time() {
        let fast = [hop(1, 100, 90), hop(2, 500, 500), hop(1, 30, 20)];
        check(&fast, 330, 2, Some((0.0, 0.0)));
    }

    #[test]
    fn the_view_looks_at_the_latest_rounds() {
        let mut rounds = Rounds::default();
        assert_eq!(rounds.view(), None);
        rounds.push(Round { round_us: 9, held_us: 9, compute_us: 9, crossings: 0 });
        assert_eq!(rounds.view(), None, "nothing went anywhere");
        for us in 0..2 * ROUNDS_MAX as u64 {
            rounds.push(Round { round_us: 2 * us, held_us: us, compute_us: 0, crossings: 2 });
        }
        let view = rounds.view().unwrap();
        assert_eq!((view.rounds, view.crossings), (ROUNDS_MAX, 2));
        assert_eq!((view.hop_us_median, view.wire_us_median), (384.0, 192.0));
        assert_eq!(view.hop_us_p90, 486.0);
    }
}
