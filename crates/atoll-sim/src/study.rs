//! A run to which Rust adds claims, faults and a placement rule that no schedule knows.

use std::fmt;
use std::ops::Range;

use atoll_proto::plan::{Place, PlaceRule};

use crate::invariants::Invariant;
use crate::report::Report;
use crate::schedule::Schedule;
use crate::world::{Hands, run_with};

/// A schedule, and what is to be added to its run.
///
/// ```
/// use atoll_sim::schedule::What;
/// use atoll_sim::{Schedule, Study};
///
/// let schedule = Schedule::joins_and_leaves(7, 12);
/// let mut kills = 0;
/// // Between the fourth and the fifth second, every 300 ms: who holds the last stage then.
/// let report = Study::of(&schedule)
///     .fault(4_000_000..5_000_000, |hands| {
///         let last = hands.ring().last().copied().filter(|node| *node != 0);
///         if let Some(node) = last {
///             hands.strike(What::Kill { node, back_us: Some(500_000) });
///             kills += 1;
///         }
///         Some(hands.now_us() + 300_000)
///     })
///     .run();
/// assert_eq!(report.violations, []);
/// assert!(kills > 0 && report.completed == 4);
/// ```
#[must_use]
pub struct Study<'a> {
    schedule: Schedule,
    rule: Option<PlaceRule>,
    claims: Vec<Box<dyn Invariant + 'a>>,
    faults: Vec<OwnFault<'a>>,
}

/// What a fault does when its time has come; it says when it wants to be asked again, µs.
pub(crate) type Strike<'a> = Box<dyn FnMut(&mut Hands<'_, '_>) -> Option<u64> + 'a>;

/// A fault of a study.
pub(crate) struct OwnFault<'a> {
    pub(crate) within_us: Range<u64>,
    pub(crate) strike: Strike<'a>,
}

impl<'a> Study<'a> {
    /// Nothing is added yet.
    pub fn of(schedule: &Schedule) -> Self {
        let schedule = schedule.clone();
        Self { schedule, rule: None, claims: Vec::new(), faults: Vec::new() }
    }

    /// Adds a claim that is held against every event; a `&mut` to one can be read afterwards.
    pub fn claim(mut self, claim: impl Invariant + 'a) -> Self {
        self.claims.push(Box::new(claim));
        self
    }

    /// Adds a fault. `strike` is called first at the start of `within_us`, µs, and again whenever
    /// it wants to, as long as that is before its end: the claims about waits allow for that time.
    pub fn fault(
        mut self,
        within_us: Range<u64>,
        strike: impl FnMut(&mut Hands<'_, '_>) -> Option<u64> + 'a,
    ) -> Self {
        self.schedule.disturbed_us.push(within_us.clone());
        self.faults.push(OwnFault { within_us, strike: Box::new(strike) });
        self
    }

    /// Places models by `rule` instead of the planner's. What it gives is checked: layers that are
    /// missing, or do not fit, are no plan, and the requests say so.
    pub fn place_by(mut self, rule: Place) -> Self {
        self.rule = Some(PlaceRule(rule));
        self
    }

    /// Runs it.
    #[must_use]
    pub fn run(self) -> Report {
        let Self { schedule, rule, claims, faults } = self;
        run_with(&schedule, rule, claims, faults)
    }
}

impl fmt::Debug for Study<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (claims, faults) = (self.claims.len(), self.faults.len());
        f.debug_struct("Study").field("claims", &claims).field("faults", &faults).finish()
    }
}

#[cfg(test)]
mod tests {
    use atoll_proto::Event;
    use atoll_proto::plan::{LayerRange, ModelInfo, PlanError, PlanPolicy, Stage};
    use atoll_proto::planner::Candidate;

    use super::*;
    use crate::invariants::Seen;
    use crate::run;
    use crate::schedule::What;

    /// Says what is wrong with a number of tokens.
    struct AtMost(u64);

    impl Invariant for AtMost {
        fn name(&self) -> &'static str {
            "at_most"
        }

        fn see(&mut self, _: u64, seen: &Seen<'_>) -> Option<String> {
            let Seen::Told { event: Event::Token { .. }, .. } = seen else { return None };
            self.0 = self.0.checked_sub(1)?;
            (self.0 == 0).then(|| "enough".to_owned())
        }
    }

    #[test]
    fn what_is_not_added_changes_nothing() {
        let schedule = Schedule::chaos(3, 12);
        assert_eq!(Study::of(&schedule).run(), run(&schedule));
    }

    #[test]
    fn a_claim_of_ones_own_is_heard_and_can_be_read_afterwards() {
        let schedule = Schedule::joins_and_leaves(1, 8);
        let mut claim = AtMost(10);
        let report = Study::of(&schedule).claim(&mut claim).run();
        assert_eq!(claim.0, 0);
        assert!(matches!(report.violations[..], [("at_most", _)]), "{:?}", report.violations);
        assert_eq!(report.trace, run(&schedule).trace, "listening changes nothing");
    }

    #[test]
    fn a_fault_strikes_within_its_time_only() {
        let schedule = Schedule::joins_and_leaves(1, 8);
        let mut at = Vec::new();
        let report = Study::of(&schedule)
            .fault(3_000_000..4_000_000, |hands| {
                at.push(hands.now_us());
                hands.strike(What::Pause { node: 1, for_us: 1_000 });
                Some(hands.now_us() + 400_000)
            })
            .run();
        assert_eq!(at, [3_000_000, 3_400_000, 3_800_000]);
        assert_eq!(report.faults, run(&schedule).faults + 3);
    }

    /// Everything at the first other node.
    fn one_other(
        model: &ModelInfo,
        _: &PlanPolicy,
        owner: Candidate,
        others: &[Candidate],
    ) -> Result<Vec<Stage>, PlanError> {
        let node = others.first().map_or(owner.node, |other| other.node);
        let end = u16::try_from(model.layer_bytes.len()).expect("few");
        Ok(vec![Stage { node, layers: LayerRange { start: 0, end } }])
    }

    #[test]
    fn a_placement_rule_places_or_is_told_that_it_does_not_fit() {
        let mut schedule = Schedule::joins_and_leaves(1, 8);
        schedule.faults.clear();
        let mut rings = Vec::new();
        for memory_bytes in [100_000_000, 2_000_000] {
            for device in &mut schedule.devices {
                device.memory_bytes = memory_bytes;
            }
            let mut ring = Vec::new();
            let look = |hands: &mut Hands<'_, '_>| {
                ring = hands.ring();
                None
            };
            let report = Study::of(&schedule).place_by(one_other).fault(3_900_000..4_000_000, look);
            rings.push((report.run().completed, ring.len()));
        }
        assert_eq!(rings, [(4, 1), (0, 0)]);
    }
}
