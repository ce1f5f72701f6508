//! What is known of each ordered pair of nodes: of all pairs of few nodes, else of those that met.

/// So many nodes have a place for each pair, which is found faster.
const ALL_NODES_MAX: usize = 512;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pair {
    pub(super) open: bool,
    /// Counts connections: a message belongs to the one that it was sent on.
    pub(super) generation: u32,
    pub(super) last_arrival: u64,
    pub(super) held_until: u64,
}

#[derive(Debug)]
pub(super) enum Pairs {
    /// By `from * n + to`.
    All { n: usize, pairs: Vec<Pair> },
    /// Of each node, sorted: those that it met.
    Met(Vec<Vec<(usize, Pair)>>),
}

impl Pairs {
    pub(super) fn new(n: usize) -> Self {
        if n > ALL_NODES_MAX {
            return Self::Met(vec![Vec::new(); n]);
        }
        Self::All { n, pairs: vec![Pair::default(); n * n] }
    }

    pub(super) fn of(&self, from: usize, to: usize) -> Pair {
        match self {
            Self::All { n, pairs } => pairs[from * n + to],
            Self::Met(met) => {
                let place = met[from].binary_search_by_key(&to, |(node, _)| *node);
                place.map_or_else(|_| Pair::default(), |place| met[from][place].1)
            }
        }
    }

    /// Those that a node may have met, sorted.
    pub(super) fn met(&self, node: usize) -> Vec<usize> {
        match self {
            Self::All { n, .. } => (0..*n).filter(|other| *other != node).collect(),
            Self::Met(met) => met[node].iter().map(|(other, _)| *other).collect(),
        }
    }

    pub(super) fn at(&mut self, from: usize, to: usize) -> &mut Pair {
        match self {
            Self::All { n, pairs } => &mut pairs[from * *n + to],
            Self::Met(met) => {
                let met = &mut met[from];
                let place = met.binary_search_by_key(&to, |(node, _)| *node);
                let place = place.unwrap_or_else(|place| {
                    met.insert(place, (to, Pair::default()));
                    place
                });
                &mut met[place].1
            }
        }
    }

    pub(super) fn each(&mut self, change: impl Fn(&mut Pair)) {
        match self {
            Self::All { pairs, .. } => pairs.iter_mut().for_each(change),
            Self::Met(met) => met.iter_mut().flatten().for_each(|(_, pair)| change(pair)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_met_is_found_and_who_did_not_is_as_new() {
        for n in [8, ALL_NODES_MAX + 1] {
            let mut pairs = Pairs::new(n);
            for (from, to) in [(3, 5), (3, 1), (3, 7), (5, 3)] {
                pairs.at(from, to).held_until = (from * 10 + to) as u64;
            }
            let held = |pairs: &Pairs, from, to| pairs.of(from, to).held_until;
            let all = [(3, 1), (3, 5), (3, 7), (5, 3), (1, 3), (3, 6)];
            let seen = all.map(|(from, to)| held(&pairs, from, to));
            assert_eq!(seen, [31, 35, 37, 53, 0, 0], "{n} nodes");
            let met = pairs.met(3);
            assert!([1, 5, 7].iter().all(|other| met.contains(other)) && !met.contains(&3));
            pairs.each(|pair| pair.held_until = 9);
            assert_eq!(held(&pairs, 3, 7), 9);
        }
    }
}
