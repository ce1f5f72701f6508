//! A schedule that once broke an invariant, made small and kept.

use serde::{Deserialize, Serialize};

use crate::report::Report;
use crate::schedule::Schedule;
use crate::shrink::shrink;
use crate::world::run;

/// A small schedule and what it showed when it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Regression {
    /// Name of the invariant.
    pub invariant: String,
    /// What was seen.
    pub seen: String,
    /// What happens.
    pub schedule: Schedule,
}

impl Regression {
    /// Shrinks a schedule as long as what `run` shows of it breaks the same invariant; none if it
    /// breaks no invariant.
    #[must_use]
    pub fn of(schedule: &Schedule) -> Option<Self> {
        Self::found_by(schedule, run)
    }

    fn found_by(schedule: &Schedule, run: impl Fn(&Schedule) -> Report) -> Option<Self> {
        let (invariant, _) = run(schedule).violations.into_iter().next()?;
        let seen = |schedule: &Schedule| {
            let violations = run(schedule).violations.into_iter();
            violations.filter(|(name, _)| *name == invariant).map(|(_, what)| what).next()
        };
        let schedule = shrink(schedule, |small| seen(small).is_some());
        let seen = seen(&schedule)?;
        Some(Self { invariant: invariant.to_owned(), seen, schedule })
    }

    /// Runs it again.
    #[must_use]
    pub fn replay(&self) -> Report {
        run(&self.schedule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::What;

    #[test]
    fn what_breaks_is_made_small_and_what_does_not_is_none() {
        let schedule = Schedule::chaos(3, 12);
        assert_eq!(Regression::of(&schedule), None, "it breaks nothing");
        let struck = |schedule: &Schedule| {
            let kills = schedule.faults.iter().filter(|f| matches!(f.what, What::Kill { .. }));
            let at = kills.map(|fault| fault.at_us).next();
            let broken = at.map(|at| ("nobody_dies", format!("at {at} µs")));
            Report { violations: broken.into_iter().collect(), ..Report::default() }
        };
        let small = Regression::found_by(&schedule, struck).expect("there is a kill");
        assert_eq!((small.invariant.as_str(), small.schedule.faults.len()), ("nobody_dies", 1));
        assert_eq!(small.seen, format!("at {} µs", small.schedule.faults[0].at_us));
    }
}
