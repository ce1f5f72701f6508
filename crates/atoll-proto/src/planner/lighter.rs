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
    use crate::ids::{ModelId, NodeId};

    /// Four layers of 100 bytes, and 30 for the ends.
    fn model() -> ModelInfo {
        ModelInfo {
            id: ModelId([1; 32]),
            name: "m".into(),
            layer_bytes: vec![100; 4],
            embed_bytes: 20,
            head_bytes: 10,
            kv_bytes_per_position: 1,
            row_values: 8,
            context_max: 10,
        }
    }

    const fn policy(stages: Option<u16>) -> PlanPolicy {
        PlanPolicy { stages, context: 10, sessions: 1, spares: 0, wait_us: 0, rule: None }
    }

    /// The second layer to half, then the third and the first to three quarters and so on.
    fn steps() -> Vec<NarrowStep> {
        let steps = [(1, 50), (2, 75), (0, 75), (0, 50), (3, 50), (2, 50)];
        steps.map(|(layer, bytes)| NarrowStep { layer, bytes }).to_vec()
    }

    fn offer(memory: &[u64]) -> Offer {
        let mut nodes = memory.iter().zip(1..).map(|(&memory_bytes, byte)| Candidate {
            node: NodeId([byte; 32]),
            memory_bytes,
            weight_bytes_per_s: 1000,
            prefill_bytes_per_s: 0,
        });
        let owner = nodes.next().unwrap();
        Offer { owner, others: nodes.collect() }
    }

    fn check(stages: Option<u16>, memory: &[u64], expected: Option<usize>) {
        let found = lighter(&model(), &steps(), &policy(stages), &offer(memory));
        assert_eq!(found.ok(), expected, "{memory:?}");
    }

    #[test]
    fn no_more_steps_are_taken_than_make_it_fit() {
        // Ends 30, caches 10 a layer, so 470 whole.
        check(None, &[470], Some(0));
        check(None, &[469], Some(1));
        check(None, &[420], Some(1));
        check(None, &[419], Some(2));
        check(None, &[394], Some(3));
        check(None, &[360], Some(4));
        check(None, &[300], Some(5));
        check(None, &[270], Some(6));
        check(None, &[269], None);
    }

    #[test]
    fn every_node_has_to_have_room() {
        // 250 beside the ends and 220 hold two whole layers each, of 110 with caches.
        check(Some(2), &[280, 219], Some(2));
        check(Some(2), &[280, 195], Some(2));
        check(Some(2), &[280, 194], Some(3));
        check(Some(2), &[250, 220], Some(0));
        check(Some(3), &[250, 220], None);
    }

    #[test]
    fn without_steps_it_fits_whole_or_not() {
        let found = |steps: &[NarrowStep], memory| {
            lighter(&model(), steps, &policy(None), &offer(&[memory]))
        };
        assert_eq!(found(&[], 470), Ok(0));
        let missing = PlanError::NoRoom { needed_bytes: 470, available_bytes: 469, nodes: 1 };
        assert_eq!(found(&[], 469), Err(missing.clone()));
        assert_eq!(found(&[NarrowStep { layer: 4, bytes: 1 }], 469), Err(missing));
    }
}
