//! Chooses how each tensor is stored, so that the whole costs least within a budget of bytes.
//!
//! Source: Everett 1963 (Lagrange multipliers over discrete choices); that errors of tensors add up
//! is HIGGS' linearity (Malinovskii et al. 2024, arXiv 2411.17525).

/// A way to store a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Choice {
    /// Bytes that it takes.
    pub(crate) bytes: u64,
    /// What it costs, in whatever all costs are counted in.
    pub(crate) cost: f64,
}

/// Which of its choices each tensor takes, so that the sum of bytes is at most `bytes_max` and that
/// of costs small; nothing if no choices fit.
///
/// # Panics
/// If a tensor has no choice.
pub(crate) fn allocate(tensors: &[Vec<Choice>], bytes_max: u64) -> Option<Vec<usize>> {
    /// Halvings of the price's range, of whose ends one buys everything, the other nothing.
    const STEPS: usize = 100;
    let total = |picks: &[usize]| -> u64 {
        tensors.iter().zip(picks).map(|(choices, &pick)| choices[pick].bytes).sum()
    };
    let at_price = |price: f64| -> Vec<usize> {
        let value = |choice: &Choice| choice.cost + price * choice.bytes as f64;
        let least = |choices: &Vec<Choice>| {
            let pairs = choices.iter().enumerate();
            let least = pairs
                .min_by(|(_, a), (_, b)| value(a).total_cmp(&value(b)).then(a.bytes.cmp(&b.bytes)));
            least.expect("a tensor has a choice").0
        };
        tensors.iter().map(least).collect()
    };
    let smallest: Vec<usize> = tensors
        .iter()
        .map(|choices| (0..choices.len()).min_by_key(|&i| choices[i].bytes))
        .collect::<Option<_>>()
        .expect("a tensor has a choice");
    if total(&smallest) > bytes_max {
        return None;
    }
    let mut picks = smallest;
    // Exponents of two; costs per byte of anything sensible lie between.
    let (mut low, mut high) = (-100.0f64, 60.0f64);
    for _ in 0..STEPS {
        let middle = (low + high) / 2.0;
        let found = at_price(middle.exp2());
        if total(&found) <= bytes_max {
            (picks, high) = (found, middle);
        } else {
            low = middle;
        }
    }
    let left = bytes_max - total(&picks);
    fill(tensors, &mut picks, left);
    Some(picks)
}

/// Spends what bytes are left on what saves most per byte.
fn fill(tensors: &[Vec<Choice>], picks: &mut [usize], mut left: u64) {
    loop {
        let mut best: Option<(f64, usize, usize)> = None;
        for (tensor, choices) in tensors.iter().enumerate() {
            let now = choices[picks[tensor]];
            for (pick, choice) in choices.iter().enumerate() {
                let saved = now.cost - choice.cost;
                let more = choice.bytes.saturating_sub(now.bytes);
                if saved > 0.0 && more <= left {
                    let worth = saved / more.max(1) as f64;
                    if best.is_none_or(|(most, ..)| worth > most) {
                        best = Some((worth, tensor, pick));
                    }
                }
            }
        }
        let Some((_, tensor, pick)) = best else { return };
        left = left + tensors[tensor][picks[tensor]].bytes - tensors[tensor][pick].bytes;
        picks[tensor] = pick;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    fn choice(bytes: u64, cost: f64) -> Choice {
        Choice { bytes, cost }
    }

    /// Least cost of all picks that fit.
    fn best(tensors: &[Vec<Choice>], bytes_max: u64) -> Option<f64> {
        let Some((first, rest)) = tensors.split_first() else { return Some(0.0) };
        let costs = first.iter().filter(|choice| choice.bytes <= bytes_max).filter_map(|choice| {
            best(rest, bytes_max - choice.bytes).map(|cost| cost + choice.cost)
        });
        costs.min_by(f64::total_cmp)
    }

    #[test]
    fn bytes_go_where_they_save_most() {
        let tensors = vec![
            vec![choice(10, 8.0), choice(20, 1.0)],
            vec![choice(10, 3.0), choice(20, 1.0)],
            vec![choice(100, 0.5)],
        ];
        assert_eq!(allocate(&tensors, 119), None);
        assert_eq!(allocate(&tensors, 120), Some(vec![0, 0, 0]));
        assert_eq!(allocate(&tensors, 130), Some(vec![1, 0, 0]));
        assert_eq!(allocate(&tensors, 140), Some(vec![1, 1, 0]));
    }

    quickcheck! {
        fn it_fits_and_is_near_the_best(seed: Vec<(u8, u8, u8)>, room: u16) -> bool {
            // Costs that fall ever less, as those of bits do.
            let tensors: Vec<Vec<Choice>> = seed.iter().take(6).map(|&(size, cost, fall)| {
                let (size, cost) = (u64::from(size) + 1, f64::from(cost) + 1.0);
                let factor = 0.1 + f64::from(fall) / 400.0;
                (1..4u64).map(|i| choice(size * i, cost * factor.powf(i as f64))).collect()
            }).collect();
            let bytes_max = u64::from(room) % 3000;
            match (allocate(&tensors, bytes_max), best(&tensors, bytes_max)) {
                (None, None) => true,
                (Some(picks), Some(best)) => {
                    let pairs = || tensors.iter().zip(&picks).map(|(choices, &i)| choices[i]);
                    let cost: f64 = pairs().map(|choice| choice.cost).sum();
                    // One tensor may miss its next step.
                    let slack = tensors.iter().map(|c| c[0].cost).fold(0.0, f64::max);
                    pairs().map(|choice| choice.bytes).sum::<u64>() <= bytes_max
                        && cost <= best + slack
                }
                (Some(_), None) | (None, Some(_)) => false,
            }
        }
    }
}
