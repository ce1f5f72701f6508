//! Who hears of whom.

use crate::Random;

/// Of each node: of which others it hears, in both directions.
pub(super) enum Around {
    /// All of so many.
    All(usize),
    /// By node, sorted.
    Some(Vec<Vec<usize>>),
}

impl Around {
    /// Each of `n` nodes draws `hears_of` others, who hear of it, too, as do those of its site.
    pub(super) fn new(
        seed: u64,
        n: usize,
        (hears_of, site_nodes): (Option<usize>, Option<usize>),
    ) -> Self {
        let Some(hears_of) = hears_of.filter(|count| count + 1 < n) else { return Self::All(n) };
        let mut random = Random::new(seed, "around");
        let mut around = vec![Vec::with_capacity(2 * hears_of); n];
        for node in 0..n {
            for _ in 0..hears_of {
                let other = random.index(n);
                if other != node {
                    around[node].push(other);
                    around[other].push(node);
                }
            }
        }
        for (node, others) in around.iter_mut().enumerate() {
            if let Some(size) = site_nodes {
                let first = node - node % size.max(1);
                others.extend((first..n.min(first + size)).filter(|other| *other != node));
            }
            others.sort_unstable();
            others.dedup();
        }
        Self::Some(around)
    }

    /// The others around a node, sorted.
    pub(super) fn of(&self, node: usize) -> Vec<usize> {
        match self {
            Self::All(n) => (0..*n).filter(|other| *other != node).collect(),
            Self::Some(around) => around[node].clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_hears_of_another_is_heard_of() {
        let around = Around::new(1, 200, (Some(8), None));
        let of: Vec<_> = (0..200).map(|node| around.of(node)).collect();
        for (node, others) in of.iter().enumerate() {
            assert!(others.iter().all(|&other| other != node && of[other].contains(&node)));
            assert!((7..40).contains(&others.len()), "{} around {node}", others.len());
        }
        assert_eq!(Around::new(1, 5, (Some(8), None)).of(2), [0, 1, 3, 4], "there are no more");
        let sites = Around::new(1, 50, (Some(1), Some(20)));
        assert!((40..49).all(|other| sites.of(49).contains(&other)), "{:?}", sites.of(49));
        assert!(sites.of(49).len() < 9 + 10, "few are elsewhere");
    }
}
