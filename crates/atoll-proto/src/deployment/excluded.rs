//! Nodes that a model is not to be placed on.

use crate::ids::Time;

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
