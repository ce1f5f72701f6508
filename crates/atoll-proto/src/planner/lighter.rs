//! Which layers at narrower widths make a model fit that does not fit whole.

use super::{Candidate, LinkFigures, place_linked};
use crate::plan::{ModelInfo, PlanError, PlanPolicy};

/// All layers of a model at a narrower width.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NarrowLayers {
    /// Weight bytes of each layer.
    pub layer_bytes: Vec<u64>,
    /// What each costs in quality, millionths of a nat. They add up.
    pub losses: Vec<u64>,
}

/// The nodes that a model could be placed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The node that would own it.
    pub owner: Candidate,
    /// All others.
    pub others: Vec<Candidate>,
}

/// Layers at narrower widths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lighter {
    /// Of each layer: 0 as it is, 1 the first of the narrower widths.
    pub choice: Vec<usize>,
    /// What that costs in quality, millionths of a nat.
    pub loss: u64,
}

/// A layer at a width instead of the one before it.
#[derive(Clone, Copy, Debug)]
struct Step {
    layer: usize,
    width: usize,
    saved: u64,
    lost: u64,
}

/// The least loss with which `model` can be placed: layers become narrower in the order of what
/// that loses for each byte it saves, until there is a plan. `widths` fall.
///
/// # Errors
/// What [`place_linked`] says of the narrowest of all; it may be that of `model`, if that has no
/// narrower widths or they are not those of its layers.
pub fn lighter(
    model: &ModelInfo,
    widths: &[NarrowLayers],
    policy: &PlanPolicy,
    offer: &Offer,
) -> Result<Lighter, PlanError> {
    let n_layers = model.layer_bytes.len();
    let is_whole = |width: &NarrowLayers| {
        width.layer_bytes.len() == n_layers && width.losses.len() == n_layers
    };
    let widths = if widths.iter().all(is_whole) { widths } else { &[] };
    let mut steps: Vec<Step> =
        (0..n_layers).flat_map(|layer| steps_of(model.layer_bytes[layer], widths, layer)).collect();
    // A layer's own steps are in this order already.
    steps.sort_by(|a, b| ratio(a, b).then(a.layer.cmp(&b.layer)));
    let placed = |n: usize| {
        let mut narrow = model.clone();
        for step in &steps[..n] {
            narrow.layer_bytes[step.layer] = widths[step.width - 1].layer_bytes[step.layer];
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
    let (mut choice, mut loss) = (vec![0; n_layers], 0_u64);
    for step in &steps[..enough] {
        choice[step.layer] = step.width;
        loss = loss.saturating_add(step.lost);
    }
    Ok(Lighter { choice, loss })
}

/// The steps from a layer of so many bytes to its narrowest width, each losing more for a byte
/// than the one before it: widths that would not are passed over.
fn steps_of(bytes: u64, widths: &[NarrowLayers], layer: usize) -> Vec<Step> {
    let (mut steps, mut at) = (Vec::new(), (0, bytes, 0));
    while at.0 < widths.len() {
        let after = (at.0 + 1..=widths.len()).filter_map(|width| {
            let narrow = &widths[width - 1];
            let saved = at.1.checked_sub(narrow.layer_bytes[layer]).filter(|saved| *saved > 0)?;
            Some(Step { layer, width, saved, lost: narrow.losses[layer].saturating_sub(at.2) })
        });
        let Some(step) = after.min_by(|a, b| ratio(a, b).then(b.width.cmp(&a.width))) else {
            break;
        };
        at = (step.width, at.1 - step.saved, at.2.saturating_add(step.lost));
        steps.push(step);
    }
    steps
}

/// Which of two loses less for each byte it saves.
fn ratio(a: &Step, b: &Step) -> std::cmp::Ordering {
    let (a, b) =
        (u128::from(a.lost) * u128::from(b.saved), u128::from(b.lost) * u128::from(a.saved));
    a.cmp(&b)
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

    fn widths() -> Vec<NarrowLayers> {
        let width = |bytes, losses: [u64; 4]| NarrowLayers {
            layer_bytes: vec![bytes; 4],
            losses: losses.to_vec(),
        };
        vec![width(75, [4, 1, 3, 90]), width(50, [9, 2, 60, 95])]
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

    fn check(stages: Option<u16>, memory: &[u64], expected: Option<([usize; 4], u64)>) {
        let found = lighter(&model(), &widths(), &policy(stages), &offer(memory));
        let found = found.ok().map(|found| (found.choice, found.loss));
        assert_eq!(found, expected.map(|(choice, loss)| (choice.to_vec(), loss)), "{memory:?}");
    }

    #[test]
    fn as_little_is_lost_as_makes_it_fit() {
        // Ends 30, caches 10 a layer, so 470 whole.
        check(None, &[470], Some(([0; 4], 0)));
        check(None, &[469], Some(([0, 2, 0, 0], 2)));
        check(None, &[420], Some(([0, 2, 0, 0], 2)));
        check(None, &[419], Some(([0, 2, 1, 0], 5)));
        check(None, &[394], Some(([1, 2, 1, 0], 9)));
        check(None, &[360], Some(([2, 2, 1, 0], 14)));
        // The third's second step saves less for what it loses than the fourth's both at once.
        check(None, &[300], Some(([2, 2, 1, 2], 109)));
        check(None, &[270], Some(([2, 2, 2, 2], 166)));
        check(None, &[269], None);
    }

    #[test]
    fn every_node_has_to_have_room() {
        // 250 beside the ends and 220 hold two whole layers each, of 110 with caches.
        check(Some(2), &[280, 219], Some(([0, 2, 1, 0], 5)));
        check(Some(2), &[280, 195], Some(([0, 2, 1, 0], 5)));
        check(Some(2), &[280, 194], Some(([1, 2, 1, 0], 9)));
        check(Some(2), &[250, 220], Some(([0; 4], 0)));
        check(Some(3), &[250, 220], None);
    }

    #[test]
    fn without_narrower_widths_it_fits_whole_or_not() {
        let policy = policy(None);
        let found =
            |widths: &[NarrowLayers], memory| lighter(&model(), widths, &policy, &offer(&[memory]));
        let whole = Lighter { choice: vec![0; 4], loss: 0 };
        assert_eq!(found(&[], 470), Ok(whole));
        let missing = PlanError::NoRoom { needed_bytes: 470, available_bytes: 469, nodes: 1 };
        assert_eq!(found(&[], 469), Err(missing.clone()));
        let short = NarrowLayers { layer_bytes: vec![1; 3], losses: vec![1; 3] };
        assert_eq!(found(&[short], 469), Err(missing));
    }
}
