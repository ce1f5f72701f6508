//! Single variants and codecs of a placement, changed as long as that makes it faster.

use crate::placement::{Placement, Stage};
use crate::tables::Tables;

/// One change of a placement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// Stage, layer of the stage.
    Layer(usize, usize),
    Hop(usize),
}

/// What a placement takes, and its loss.
pub(crate) fn time_and_loss(tables: &Tables, placement: &Placement) -> (u64, u64) {
    let (mut time, mut loss) = (tables.ends_ns, 0_u64);
    for stage in &placement.stages {
        time += tables.stage_ns[stage.node];
        for (layer, &variant) in stage.layers.clone().zip(&stage.variants) {
            time += tables.times(stage.node, layer)[variant];
            loss = loss.saturating_add(tables.variants[layer][variant].1);
        }
    }
    for (pair, &codec) in placement.ring(tables.owner).windows(2).zip(&placement.codecs) {
        time += tables.hop(codec, pair[0], pair[1]);
        if pair[0] != pair[1] {
            loss = loss.saturating_add(tables.codec_loss[codec]);
        }
    }
    (time, loss)
}

/// Bytes and time of a stage.
fn size(tables: &Tables, stage: &Stage) -> (u64, u64) {
    let layers = stage.layers.clone().zip(&stage.variants);
    layers.fold((0, tables.stage_ns[stage.node]), |(bytes, time), (layer, &variant)| {
        let more = (tables.variants[layer][variant].0, tables.times(stage.node, layer)[variant]);
        (bytes + more.0, time + more.1)
    })
}

/// Takes, one after another, the change that costs least time for the loss it saves, until the
/// loss is allowed or nothing is left to change.
pub(crate) fn mend(tables: &Tables, placement: &mut Placement) {
    let (_, mut loss) = time_and_loss(tables, placement);
    let ring = placement.ring(tables.owner);
    while loss > tables.loss_max {
        let mut best: Option<(u64, u64, Place, usize)> = None;
        let mut offer = |costs: u64, saved: u64, place: Place, option: usize| {
            let is_better = best.is_none_or(|(least, most, ..)| {
                u128::from(costs) * u128::from(most) < u128::from(least) * u128::from(saved)
            });
            if is_better {
                best = Some((costs, saved, place, option));
            }
        };
        for (s, stage) in placement.stages.iter().enumerate() {
            let (bytes, time) = size(tables, stage);
            for (i, (layer, &variant)) in stage.layers.clone().zip(&stage.variants).enumerate() {
                let times = tables.times(stage.node, layer);
                let (old_bytes, old_loss) = tables.variants[layer][variant];
                for (option, &(new_bytes, new_loss)) in tables.variants[layer].iter().enumerate() {
                    let fits = bytes - old_bytes + new_bytes <= tables.memory[stage.node]
                        && time - times[variant] + times[option] <= tables.stage_max[stage.node];
                    if new_loss < old_loss && fits {
                        let costs = times[option].saturating_sub(times[variant]);
                        offer(costs, old_loss - new_loss, Place::Layer(s, i), option);
                    }
                }
            }
        }
        for (h, pair) in ring.windows(2).enumerate().filter(|(_, pair)| pair[0] != pair[1]) {
            let old = placement.codecs[h];
            let (old_ns, old_loss) = (tables.hop(old, pair[0], pair[1]), tables.codec_loss[old]);
            for (option, choice) in tables.hop_choices(pair[0], pair[1]) {
                if choice.loss < old_loss {
                    let costs = choice.time.saturating_sub(old_ns);
                    offer(costs, old_loss - choice.loss, Place::Hop(h), option);
                }
            }
        }
        let Some((_, saved, place, option)) = best else { return };
        loss -= saved;
        match place {
            Place::Hop(h) => placement.codecs[h] = option,
            Place::Layer(s, i) => placement.stages[s].variants[i] = option,
        }
    }
}

/// Takes, one after another, the change that saves most time for its loss, while memory and loss
/// allow it.
pub(crate) fn polish(tables: &Tables, placement: &mut Placement) {
    let (_, mut loss) = time_and_loss(tables, placement);
    if loss > tables.loss_max {
        return;
    }
    let mut bytes: Vec<u64> = placement.stages.iter().map(|stage| size(tables, stage).0).collect();
    let ring = placement.ring(tables.owner);
    // Every change saves at least 1 ns, but a placement has only so many.
    for _ in 0..8 * tables.n_layers {
        let mut best: Option<(u128, Place, usize)> = None;
        let mut offer = |saved: u64, more_loss: u64, place: Place, option: usize| {
            // Time saved for each unit of loss; without loss at once.
            let worth = u128::from(saved) * (1 << 40) / u128::from(more_loss.max(1));
            let worth = if more_loss == 0 { u128::from(saved) << 64 } else { worth };
            if best.is_none_or(|(least, ..)| worth > least) {
                best = Some((worth, place, option));
            }
        };
        let fits = |from: u64, to: u64| loss - from + to <= tables.loss_max;
        for (s, stage) in placement.stages.iter().enumerate() {
            for (i, (layer, &variant)) in stage.layers.clone().zip(&stage.variants).enumerate() {
                let times = tables.times(stage.node, layer);
                let (old_bytes, old_loss) = tables.variants[layer][variant];
                for (option, &(new_bytes, new_loss)) in tables.variants[layer].iter().enumerate() {
                    let room = bytes[s] - old_bytes + new_bytes <= tables.memory[stage.node];
                    if times[option] < times[variant] && room && fits(old_loss, new_loss) {
                        let saved = times[variant] - times[option];
                        let more = new_loss.saturating_sub(old_loss);
                        offer(saved, more, Place::Layer(s, i), option);
                    }
                }
            }
        }
        for (h, pair) in ring.windows(2).enumerate().filter(|(_, pair)| pair[0] != pair[1]) {
            let old = placement.codecs[h];
            let (old_ns, old_loss) = (tables.hop(old, pair[0], pair[1]), tables.codec_loss[old]);
            for (option, choice) in tables.hop_choices(pair[0], pair[1]) {
                if choice.time < old_ns && fits(old_loss, choice.loss) {
                    let more = choice.loss.saturating_sub(old_loss);
                    offer(old_ns - choice.time, more, Place::Hop(h), option);
                }
            }
        }
        match best {
            None => return,
            Some((_, Place::Hop(h), option)) => {
                loss = loss - tables.codec_loss[placement.codecs[h]] + tables.codec_loss[option];
                placement.codecs[h] = option;
            }
            Some((_, Place::Layer(s, i), option)) => {
                let stage = &mut placement.stages[s];
                let of = &tables.variants[stage.layers.start + i];
                let (old, new) = (of[stage.variants[i]], of[option]);
                bytes[s] = bytes[s] - old.0 + new.0;
                loss = loss - old.1 + new.1;
                stage.variants[i] = option;
            }
        }
    }
}
