//! The shortest round of many sessions, by plans for one pass whose nodes and links are not too
//! busy.
//!
//! A round takes as long as one group's way, or as the busiest node or link needs for all groups.
//! For a target T and G groups, a plan whose nodes and links are busy for at most T/G and whose
//! way takes at most T is one whose round takes at most T; if there is none, no round of G groups
//! is that short. Both are plans for one pass of a group, which the search knows; T is halved
//! towards the least.

use crate::cost;
use crate::error::PlanError;
use crate::placement::Placement;
use crate::query::Query;
use crate::search;
use crate::tables::{NEVER, Tables};

/// Targets of one number of groups at most: halving 2^62 takes no more.
const TARGETS_MAX: u32 = 64;
/// In large fleets, a best that is this part of itself above what is left to look at is kept.
const NEAR: u64 = 2_000;

/// How long a round of the policy's sessions takes, ns.
pub(crate) fn round_ns(query: &Query<'_>, placement: &Placement) -> u64 {
    let round = cost::round(query, placement, query.policy.sessions);
    round.map_or(NEVER, |round| round.round_ns.min(NEVER))
}

/// The placement with the shortest round, and what no round can beat, ns.
///
/// # Errors
/// [`PlanError`] if the query contradicts itself or memory cannot suffice in sum.
pub(crate) fn search(query: &Query<'_>) -> Result<(Option<Placement>, u64), PlanError> {
    let mut best: Option<(u64, Placement)> = None;
    let mut bound = NEVER;
    for (groups, rows) in cost::loads(query.policy.sessions) {
        let tables = Tables::new(query, rows)?;
        bound = bound.min(of_load(query, &tables, groups, &mut best));
    }
    let bound = best.as_ref().map_or(bound, |(round, _)| bound.min(*round));
    Ok((best.map(|(_, placement)| placement), bound))
}

/// Improves the best by plans for `groups` groups; what no round of so many can beat, ns.
fn of_load(
    query: &Query<'_>,
    tables: &Tables,
    groups: u64,
    best: &mut Option<(u64, Placement)>,
) -> u64 {
    let offer = |placement: Placement, best: &mut Option<(u64, Placement)>| {
        let round = round_ns(query, &placement);
        if best.as_ref().is_none_or(|(least, _)| round < *least) {
            *best = Some((round, placement));
        }
    };
    let mut proven = tables.ends_ns.saturating_mul(groups).min(NEVER);
    if best.is_none() {
        let (found, least) = search::solve(tables, None);
        proven = proven.max(least);
        let Some(found) = found else { return proven };
        offer(found, best);
    }
    // Between what is proven or given up and the best: at first whether there is anything at all.
    let mut low = proven;
    let mut first = true;
    for _ in 0..TARGETS_MAX {
        let Some(&(least, _)) = best.as_ref() else { break };
        let near = if search::is_exact(tables) { 0 } else { least / NEAR };
        if low >= least || !first && least - low <= near {
            break;
        }
        let target = if first { least - 1 } else { low + (least - 1 - low) / 2 };
        first = false;
        let busiest = target / groups;
        let limited = tables.limited(query, busiest);
        let (found, way) = search::solve(&limited, Some(target));
        if let Some(found) = found {
            offer(found, best);
        }
        if best.as_ref().is_some_and(|(least, _)| *least <= target) {
            continue;
        }
        // Every plan is above the target: by its way, or because something in it is busier.
        let busier = (busiest + 1).saturating_mul(groups);
        if way > target {
            proven = proven.max(way.min(busier));
        }
        low = (target + 1).max(proven);
    }
    proven
}
