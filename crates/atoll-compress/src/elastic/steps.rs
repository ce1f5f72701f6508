//! In which order layers become narrower: what loses least for each byte it saves goes first.

use std::cmp::Ordering;

/// A layer at a narrower width than before.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Step {
    pub(super) layer: usize,
    /// Which of the widths, from 1 on.
    pub(super) width: usize,
    /// What it loses if it is the only one, nats.
    pub(super) lost: f64,
    saved: f64,
}

/// All steps to the narrowest width, given of each layer and each width, the whole one first, its
/// bytes and what it loses alone. A width that loses more for what it saves than a narrower one is
/// passed over.
pub(super) fn steps(layers: &[Vec<(u64, f64)>]) -> Vec<Step> {
    let mut steps: Vec<Step> =
        layers.iter().enumerate().flat_map(|(layer, widths)| steps_of(layer, widths)).collect();
    // A layer's own steps are in this order already.
    steps.sort_by(|a, b| by_ratio(a, b).then(a.layer.cmp(&b.layer)));
    steps
}

fn steps_of(layer: usize, widths: &[(u64, f64)]) -> Vec<Step> {
    let (mut steps, mut at) = (Vec::new(), 0);
    while at + 1 < widths.len() {
        let (bytes, lost) = widths[at];
        let after = (at + 1..widths.len()).map(|width| Step {
            layer,
            width,
            // What was measured may be off by as much as a layer that is not needed loses.
            lost: (widths[width].1 - lost).max(0.0),
            saved: bytes.saturating_sub(widths[width].0) as f64,
        });
        let Some(step) = after.min_by(|a, b| by_ratio(a, b).then(b.width.cmp(&a.width))) else {
            break;
        };
        at = step.width;
        steps.push(step);
    }
    steps
}

/// Which of two loses less for each byte it saves.
fn by_ratio(a: &Step, b: &Step) -> Ordering {
    (a.lost * b.saved).total_cmp(&(b.lost * a.saved))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_loses_least_for_what_it_saves_goes_first() {
        let layer = |losses: [f64; 2]| vec![(100, 0.0), (75, losses[0]), (50, losses[1])];
        let layers =
            [layer([4.0, 9.0]), layer([1.0, 2.0]), layer([3.0, 60.0]), layer([90.0, 95.0])];
        let found: Vec<_> =
            steps(&layers).iter().map(|step| (step.layer, step.width, step.lost)).collect();
        // The second loses as much for each byte at both widths, the last less at the narrower one.
        let expected =
            [(1, 2, 2.0), (2, 1, 3.0), (0, 1, 4.0), (0, 2, 5.0), (3, 2, 95.0), (2, 2, 57.0)];
        assert_eq!(found, expected);
    }

    #[test]
    fn every_layer_ends_at_the_narrowest_width() {
        let layers = vec![vec![(9, 0.0), (8, -0.1), (7, -0.2)], vec![(9, 0.0), (9, 0.1), (9, 0.0)]];
        let found = steps(&layers);
        for layer in 0..2 {
            let widths: Vec<_> =
                found.iter().filter(|step| step.layer == layer).map(|step| step.width).collect();
            assert!(widths.is_sorted() && widths.last() == Some(&2), "{found:?}");
        }
    }
}
