//! What a run showed of who finds out that a node is gone.

use std::collections::BTreeMap;

use serde::Serialize;

/// Times, µs, in any order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Times(pub Vec<u64>);

impl Times {
    /// The least that `permille` of all do not exceed, µs; none of none.
    #[must_use]
    pub fn at(&self, permille: usize) -> Option<u64> {
        let mut times = self.0.clone();
        times.sort_unstable();
        times.get((times.len() * permille).div_ceil(1000).saturating_sub(1)).copied()
    }
}

/// When members found out that a node was gone, after it was; and what they wrongly believed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Detection {
    /// Processes that died, so that their connections broke.
    pub kills: u64,
    /// Of each of their members: when it knew.
    pub kill_lost_us: Times,
    /// Nodes that lost their power and so fell silent.
    pub cuts: u64,
    /// Of each: when the first of its members suspected it.
    pub cut_first_us: Times,
    /// Of those that held a part for the origin: when the origin suspected them.
    pub cut_user_us: Times,
    /// Of each of their members: when it suspected them.
    pub cut_suspected_us: Times,
    /// And when it took them for lost.
    pub cut_lost_us: Times,
    /// Members that had not found out when the node was back.
    pub missed: u64,
    /// How often a member suspected a node that was there.
    pub false_suspicions: u64,
    /// How often the origin did of one that held a part for it.
    pub false_user_suspicions: u64,
    /// How often a member lost a node that was there, by cause without figures. Faults that break
    /// connections do that, too.
    pub false_evictions: BTreeMap<String, u64>,
}

impl Detection {
    /// Adds another run's.
    pub(crate) fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.kill_lost_us, &other.kill_lost_us),
            (&mut self.cut_first_us, &other.cut_first_us),
            (&mut self.cut_user_us, &other.cut_user_us),
            (&mut self.cut_suspected_us, &other.cut_suspected_us),
            (&mut self.cut_lost_us, &other.cut_lost_us),
        ];
        for (mine, theirs) in pairs {
            mine.0.extend(&theirs.0);
        }
        self.kills += other.kills;
        self.cuts += other.cuts;
        self.missed += other.missed;
        self.false_suspicions += other.false_suspicions;
        self.false_user_suspicions += other.false_user_suspicions;
        for (cause, n) in &other.false_evictions {
            *self.false_evictions.entry(cause.clone()).or_default() += n;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_so_many_do_not_exceed() {
        let times = Times((1..=200).rev().collect());
        assert_eq!([500, 990, 1000].map(|p| times.at(p)), [Some(100), Some(198), Some(200)]);
        assert_eq!(Times::default().at(500), None);
        assert_eq!(Times(vec![7]).at(1), Some(7));
    }
}
