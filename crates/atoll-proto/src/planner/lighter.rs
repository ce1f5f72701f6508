//! How many layers have to be narrower for a model to fit that does not fit whole.

use super::{Candidate, LinkFigures, place_linked};
use crate::plan::{ModelInfo, PlanError, PlanPolicy};

/// A layer that becomes narrower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NarrowStep {
    /// Which layer.
    pub layer: usize,
    /// Its weight bytes then.
    pub bytes: u64,
}

/// The nodes that a model could be placed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The node that would own it.
    pub owner: Candidate,
    /// All others.
    pub others: Vec<Candidate>,
}

/// How many of `steps`, taken in their order, `model` needs to be placed: no more than have to be.
///
/// # Errors
/// What [`place_linked`] says of the model with all steps taken. Steps of layers that there are not
/// change nothing.
pub fn lighter(
    model: &ModelInfo,
    steps: &[NarrowStep],
    policy: &PlanPolicy,
    offer: &Offer,
) -> Result<usize, PlanError> {
    let placed = |n: usize| {
        let mut narrow = model.clone();
        for step in &steps[..n] {
            if let Some(bytes) = narrow.layer_bytes.get_mut(step.layer) {
                *bytes = step.bytes;
            }
        }
        // Whether there is room is no matter of links.
        let unknown = |_, _| LinkFigures::default();
        place_linked(&narrow, policy, offer.owner, &offer.others, &unknown)
    };
    placed(steps.len())?;
    // Between what is known to be too few steps and what is known to do.
    let (mut few, mut enough) = (0, steps.len());
    while few < enough {
        let half = usize::midpoint(few, enough);
        if placed(half).is_ok() {
            enough = half;
        } else {
            few = half + 1;
        }
    }
    Ok(enough)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::planner::tests::{candidate, model, policy};

    /// The second layer to half, then the third and the first to three quarters and so on.
    fn steps() -> Vec<NarrowStep> {
        let steps = [(1, 50), (2, 75), (0, 75), (0, 50), (3, 50), (2, 50)];
        steps.map(|(layer, bytes)| NarrowStep { layer, bytes }).to_vec()
    }

    fn offer(memory: &[u64]) -> Offer {
        let mut nodes = memory.iter().zip(1..).map(|(&memory, byte)| candidate(byte, memory, 1000));
        let owner = nodes.next().unwrap();
        Offer { owner, others: nodes.collect() }
    }

    fn check(stages: Option<u16>, memory: &[u64], expected: Option<usize>) {
        let found = lighter(&model(4), &steps(), &policy(stages), &offer(memory));
        assert_eq!(found.ok(), expected, "{memory:?}");
    }

    #[test]
    fn no_more_steps_are_taken_than_make_it_fit() {
        // Ends 60, and layers of 100 with caches of 20, so 540 whole.
        check(None, &[540], Some(0));
        check(None, &[539], Some(1));
        check(None, &[490], Some(1));
        check(None, &[489], Some(2));
        check(None, &[464], Some(3));
        check(None, &[430], Some(4));
        check(None, &[370], Some(5));
        check(None, &[340], Some(6));
        check(None, &[339], None);
    }

    #[test]
    fn every_node_has_to_have_room() {
        // 250 beside the ends and 240 hold two whole layers each.
        check(Some(2), &[310, 239], Some(2));
        check(Some(2), &[310, 215], Some(2));
        check(Some(2), &[310, 214], Some(4));
        check(Some(2), &[300, 240], Some(0));
        check(Some(3), &[300, 240], None);
    }

    #[test]
    fn without_steps_it_fits_whole_or_not() {
        let found = |steps: &[NarrowStep], memory| {
            lighter(&model(4), steps, &policy(None), &offer(&[memory]))
        };
        assert_eq!(found(&[], 540), Ok(0));
        let missing = PlanError::NoRoom { needed_bytes: 540, available_bytes: 539, nodes: 1 };
        assert_eq!(found(&[], 539), Err(missing.clone()));
        assert_eq!(found(&[NarrowStep { layer: 4, bytes: 1 }], 539), Err(missing));
    }
}
