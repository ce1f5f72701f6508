//! How many neurons each layer keeps, when a share of all neurons is removed.
//!
//! For structured OBS, what it costs to remove some of a layer's neurons is taken to be
//! proportional to what that loses of the layer's output, which the surgeon says for every number
//! of them. How much it costs the model is measured, one layer at a time: the layer is pruned and
//! repaired, and the rest is computed as given ([`Probe`]). Neurons stay where they save most.
//!
//! FLAP's rule has its own way (An et al. 2023, section 3.3): scores are standardized within each
//! layer, and the lowest of all go.

use atoll_model::{Compute, TensorSource};

use crate::allocate::{Choice, allocate};
use crate::calibrate::Sequences;
use crate::compress::{Progress, Work};
use crate::error::CompressError;
use crate::floats::{FloatLayer, matrix_name};
use crate::probe::{Probe, ProbeText};
use crate::prune::{PruneMethod, Removal, flap_scores};

/// How many neurons a layer may keep.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish {
    /// What each layer would keep if all kept as many.
    pub(crate) alike: usize,
    /// What all layers keep together.
    pub(crate) all: usize,
    /// What the number is a multiple of, but where a layer keeps all.
    pub(crate) multiple: usize,
}

/// How many neurons each layer of `source` keeps by `method`, in all `wish.all`. `text` holds what
/// goes into the first layer of the calibration text, of which the model is looked at on some.
///
/// # Errors
/// As [`Removal::apply`] and [`Probe::new`].
pub(crate) fn spread(
    source: &TensorSource,
    wish: Wish,
    method: PruneMethod,
    (text, looked_at): (&Sequences, ProbeText<'_>),
    compute: &Compute,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<usize>, CompressError> {
    let (config, pool) = (source.config(), &compute.pool);
    let probe = match method {
        PruneMethod::Sobs => Some(Probe::new(source, looked_at, compute)?),
        // By magnitude layers do not differ.
        PruneMethod::Flap | PruneMethod::Magnitude => None,
    };
    let (mut costs, mut scores, mut text) = (Vec::new(), Vec::new(), text.clone());
    for layer_idx in 0..config.n_layers {
        let read;
        let layer = match &probe {
            Some((probe, _)) => &probe.layers[layer_idx],
            None => {
                read = FloatLayer::read(source, layer_idx)?;
                &read
            }
        };
        let values = text.through_attention(layer, config, compute);
        match &probe {
            Some((probe, states)) => {
                let moments = text.moments_of_neurons(layer, &values, pool);
                let name = matrix_name(layer_idx, "ffn_down");
                let removal = Removal::by_surgeon(&name, layer, &moments, wish.alike / 2, pool)?;
                let losses = removal.losses.clone();
                let mut pruned = layer.clone();
                removal.apply(&name, &mut pruned, &[wish.alike], method, Some(&moments), pool)?;
                let cost = probe.cost(layer_idx, Some(&pruned), states[layer_idx].clone());
                costs.push(choices(layer.up.nrows(), &losses, wish, cost));
            }
            None => {
                let scored = flap_scores(&layer.down, &text.moments(&values, pool));
                scores.push(standardized(&scored));
            }
        }
        text.advance(&values, pool, |neurons, x| layer.after_ffn(config, compute, neurons, x));
        let (layers_done, layers) = (layer_idx + 1, config.n_layers);
        progress(Progress { work: Work::Measuring, layers_done, layers });
    }
    Ok(match probe {
        Some(_) => shared_out(&costs, wish),
        None => under_one_threshold(&scores, wish),
    })
}

/// The numbers of its `neurons` that a layer may keep, counted as bytes, with what each costs.
/// `losses` are those of removing 0, 1 and more of them, in any unit; `cost` is what keeping
/// `wish.alike` costs.
fn choices(neurons: usize, losses: &[f64], wish: Wish, cost: f64) -> Vec<Choice> {
    let per_loss = cost / losses[neurons - wish.alike].max(f64::MIN_POSITIVE);
    let kept = losses.iter().enumerate().map(|(removed, loss)| (neurons - removed, *loss));
    kept.filter(|&(kept, _)| kept == neurons || kept.is_multiple_of(wish.multiple))
        .map(|(kept, loss)| Choice { bytes: kept as u64, cost: per_loss * loss })
        .collect()
}

/// What each layer keeps where all choices together cost least.
#[expect(clippy::cast_possible_truncation, reason = "they were counts of neurons")]
fn shared_out(costs: &[Vec<Choice>], wish: Wish) -> Vec<usize> {
    let picks =
        allocate(costs, wish.all as u64).expect("layers that are about alike are that many");
    costs.iter().zip(picks).map(|(choices, pick)| choices[pick].bytes as usize).collect()
}

/// Less their mean, over their standard deviation.
fn standardized(scores: &[f32]) -> Vec<f64> {
    let n = scores.len().max(1) as f64;
    let mean = scores.iter().map(|&score| f64::from(score)).sum::<f64>() / n;
    let off = |score: &f32| f64::from(*score) - mean;
    let deviation = (scores.iter().map(|score| off(score).powi(2)).sum::<f64>() / n).sqrt();
    scores.iter().map(|score| off(score) / deviation.max(f64::MIN_POSITIVE)).collect()
}

/// What each layer keeps where the lowest of all layers' `scores` go, rounded to `wish.multiple` so
/// that as many stay in all as if all were alike.
fn under_one_threshold(scores: &[Vec<f64>], wish: Wish) -> Vec<usize> {
    let mut order: Vec<(f64, usize)> =
        scores.iter().enumerate().flat_map(|(l, s)| s.iter().map(move |&s| (s, l))).collect();
    order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let mut stay = vec![0; scores.len()];
    order.iter().take(wish.all).for_each(|&(_, layer)| stay[layer] += 1);
    let whole = |n: usize| n / wish.multiple * wish.multiple;
    let mut kept: Vec<usize> = stay.iter().map(|&n| whole(n).max(wish.multiple)).collect();
    loop {
        let missing = wish.all.saturating_sub(kept.iter().sum());
        let has_room = |l: &usize| kept[*l] + wish.multiple <= scores[*l].len();
        let shortest = (0..scores.len())
            .filter(has_room)
            .max_by_key(|&l| (stay[l].saturating_sub(kept[l]), std::cmp::Reverse(l)));
        match shortest {
            Some(layer) if missing >= wish.multiple => kept[layer] += wish.multiple,
            Some(_) | None => return kept,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WISH: Wish = Wish { alike: 96, all: 288, multiple: 32 };

    #[test]
    fn neurons_stay_where_they_save_most() {
        // Losses rise with the square of what is removed; the second layer matters most.
        let losses: Vec<f64> = (0..=80).map(|removed| f64::from(removed * removed)).collect();
        let costs = [0.1, 1.0, 0.1].map(|nats| choices(128, &losses, WISH, nats));
        let kept: Vec<u64> = costs[0].iter().map(|choice| choice.bytes).collect();
        assert_eq!(kept, [128, 96, 64]);
        assert!((costs[1][1].cost - 1.0).abs() < 1e-9, "{:?}", costs[1]);
        assert_eq!(shared_out(&costs, WISH), [96, 128, 64]);
        let alike = [0.1, 0.1, 0.1].map(|nats| choices(128, &losses, WISH, nats));
        assert_eq!(shared_out(&alike, WISH), [96, 96, 96]);
        let fewer = shared_out(&alike, Wish { all: 256, ..WISH });
        assert_eq!(fewer.iter().sum::<usize>(), 256, "{fewer:?}");
    }

    #[test]
    fn one_threshold_goes_through_all_layers() {
        let two = Wish { all: 192, ..WISH };
        let low: Vec<f64> = (0..128).map(f64::from).collect();
        let high: Vec<f64> = low.iter().map(|score| score + 40.0).collect();
        let kept = under_one_threshold(&[low.clone(), high.clone()], two);
        assert_eq!(kept, [64, 128]);
        assert_eq!(under_one_threshold(&[low.clone(), low], two), [96, 96]);
        let scores = standardized(&[1.0, 2.0, 3.0]);
        assert!(scores[1].abs() < 1e-9 && (scores[2] - 1.5f64.sqrt()).abs() < 1e-6, "{scores:?}");
    }
}
