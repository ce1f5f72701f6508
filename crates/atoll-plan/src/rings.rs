//! Several rings beside each other, where they serve many users better than one.

use std::cmp::Reverse;

use crate::cost;
use crate::error::PlanError;
use crate::placement::Placement;
use crate::query::{Objective, Policy, Query};
use crate::search::plan;

/// Rings of one fleet that share no node but the owner, which has embedding and head for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rings {
    /// Each with the users that it serves; none with 0.
    pub rings: Vec<(Placement, u64)>,
    /// Tokens that all users get together in 1,000 s.
    pub tokens_per_1000_s: u64,
}

impl Rings {
    /// Until each user has its next token, in the mean, ns; saturates.
    #[must_use]
    pub fn token_ns(&self) -> u64 {
        let users: u64 = self.rings.iter().map(|(_, users)| users).sum();
        let ns = u128::from(users) * 1_000_000_000_000 / u128::from(self.tokens_per_1000_s.max(1));
        u64::try_from(ns).unwrap_or(u64::MAX)
    }
}

/// Shares the policy's sessions out among rings, one by one to where it adds most tokens, to each
/// as many as its nodes have room for the caches of. `None`: they do not all find a place.
///
/// The owner's work for the rings is counted in each of them alone.
#[must_use]
pub fn share(query: &Query<'_>, rings: &[Placement]) -> Option<Rings> {
    let all = query.policy.sessions.max(1);
    let rooms: Vec<u64> = rings.iter().map(|ring| room(query, ring, all)).collect();
    let (mut users, mut rates) = (vec![0_u64; rings.len()], vec![0_u64; rings.len()]);
    for _ in 0..all {
        let open = rings.iter().enumerate().filter(|(i, _)| users[*i] < rooms[*i]);
        let more = open.filter_map(|(i, ring)| {
            let rate = cost::tokens_per_1000_s(query, ring, users[i] + 1)?;
            Some((rate.saturating_sub(rates[i]), Reverse(i), rate))
        });
        let (_, Reverse(i), rate) = more.max()?;
        users[i] += 1;
        rates[i] = rate;
    }
    let used = rings.iter().cloned().zip(users).filter(|(_, users)| *users > 0);
    Some(Rings { rings: used.collect(), tokens_per_1000_s: rates.iter().sum() })
}

/// Sessions, up to `most`, for the caches of which a ring's nodes have room.
fn room(query: &Query<'_>, ring: &Placement, most: u64) -> u64 {
    let holds = |sessions| {
        let policy = Policy { sessions, ..query.policy.clone() };
        ring.check(&Query { policy: &policy, ..*query }).is_ok()
    };
    let (mut low, mut high) = (0, most + 1);
    while high - low > 1 {
        let middle = low.midpoint(high);
        if holds(middle) { low = middle } else { high = middle }
    }
    low
}

/// Rings for the policy's sessions that together give most tokens, of those that were tried: one
/// for all, and for every number of users to a ring, rings one after another of nodes that are
/// left.
///
/// # Errors
/// As [`plan`]'s for one ring.
pub fn plan_rings(query: &Query<'_>) -> Result<Rings, PlanError> {
    let users = query.policy.sessions.max(1);
    let one = plan(query)?.placement;
    let mut best = share(query, &[one]).ok_or(PlanError::NoOrder)?;
    let mut sizes: Vec<u64> =
        (2..=users.min(cost::GROUPS_MAX)).map(|k| users.div_ceil(k)).collect();
    sizes.dedup();
    for most in sizes {
        let objective = if most == 1 { Objective::Latency } else { Objective::Throughput };
        let mut policy = Policy { sessions: most, objective, ..query.policy.clone() };
        let mut rings: Vec<Placement> = Vec::new();
        while rings.len() as u64 * most < users {
            let Ok(found) = plan(&Query { policy: &policy, ..*query }) else { break };
            policy.excluded.extend(found.placement.stages.iter().map(|stage| stage.node));
            rings.push(found.placement);
        }
        if let Some(found) = share(query, &rings)
            && found.tokens_per_1000_s > best.tokens_per_1000_s
        {
            best = found;
        }
    }
    Ok(best)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::fleet::{Fleet, Link, Node};
    use crate::model::Model;

    /// Rings and their users for `sessions` on three nodes that hold the model with 2 caches each,
    /// of which the last is twice as slow.
    fn check(sessions: u64, latency_ns: u64, expected: &[(&[usize], u64)]) {
        let node = |(name, layer_ns)| Node {
            layer_ns,
            batch_layer_ns: layer_ns / 4,
            ..Node::new(name, 4 * (1000 + 2 * 500))
        };
        let nodes = [("a", 1_000), ("b", 1_000), ("c", 2_000)].map(node);
        let mut fleet = Fleet::new(nodes.to_vec(), 0).unwrap();
        for (u, v) in (0..3).flat_map(|u| (0..3).map(move |v| (u, v))).filter(|(u, v)| u != v) {
            fleet.connect(u, v, Link { latency_ns, bytes_per_s: 1 << 50 }).unwrap();
        }
        let mut model = Model::uniform("m", 4, 1000, 8);
        model.kv_bytes_per_position = 5;
        let objective = Objective::Throughput;
        let policy =
            Policy { context: 100, positions: 0, sessions, objective, ..Policy::default() };
        let query = Query { fleet: &fleet, model: &model, policy: &policy };
        let found = plan_rings(&query).unwrap();
        let rings: Vec<(Vec<usize>, u64)> = found
            .rings
            .iter()
            .map(|(ring, users)| (ring.stages.iter().map(|stage| stage.node).collect(), *users))
            .collect();
        let rings: Vec<(&[usize], u64)> =
            rings.iter().map(|(nodes, users)| (nodes.as_slice(), *users)).collect();
        assert_eq!(rings, expected);
    }

    #[test]
    fn users_are_shared_out_among_rings() {
        check(1, 100, &[(&[0], 1)]);
        // Far apart, each node serves on its own as many as it has caches for.
        check(2, 100_000, &[(&[0], 2)]);
        check(2, 100, &[(&[0], 1), (&[1], 1)]);
        check(5, 100, &[(&[0], 2), (&[1], 2), (&[2], 1)]);
    }
}
