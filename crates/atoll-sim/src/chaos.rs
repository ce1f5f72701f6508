//! A minute in which everything goes wrong for a while, and then nothing.

use std::ops::Range;

use crate::Random;
use crate::cost::Model;
use crate::scenario::swizzle;
use crate::schedule::{Asked, Device, Fault, LAYER_BYTES, Link, Placement, Schedule, What, asked};

/// When things begin to go wrong, µs.
const FROM_US: u64 = 2_000_000;
/// When they stop, µs.
const HEAL_US: u64 = 25_000_000;
/// The end of the run, µs: what was held for a dead or silent peer has been let go by then.
const END_US: u64 = 60_000_000;
/// Faults of one run.
const FAULTS: Range<u64> = 10..21;
/// Tokens of each answer.
const TOKENS: u32 = 160;
/// Longest time that a request may take, µs.
const DEADLINE_US: u64 = 35_000_000;
/// And of an impatient client, who may well get no answer, µs.
pub(crate) const SHORT_US: Range<u64> = 100_000..1_500_000;

impl Schedule {
    /// Six requests among ten to twenty faults, then two more once a random core is mended.
    #[must_use]
    pub fn chaos(seed: u64, n: usize) -> Self {
        let mut hardware = Random::new(seed, "devices");
        let mut work = Random::new(seed, "work");
        let mut small = Random::new(seed, "placed by time");
        let by_time = small.below(3) == 0;
        let device = |i: usize| {
            let joins_us = if i == 0 { 0 } else { hardware.below(500_000) };
            let mut layers = hardware.within(8..20);
            if by_time {
                layers = small.within(4..9);
            }
            let memory = layers * LAYER_BYTES;
            Device::plain(joins_us, memory, hardware.within(2..20) * 1_000_000_000)
        };
        let devices: Vec<_> = (0..n).map(device).collect();
        let mut requests: Vec<Asked> =
            (0..6).map(|_| asked(&mut work, (1_000_000, HEAL_US - 3_000_000), TOKENS)).collect();
        let late = (HEAL_US + 8_000_000, HEAL_US + 12_000_000);
        requests.extend((0..2).map(|_| asked(&mut work, late, TOKENS)));
        for asked in &mut requests {
            let is_short = asked.at_us < HEAL_US && work.below(8) == 0;
            asked.deadline_us = if is_short { work.within(SHORT_US) } else { DEADLINE_US };
        }
        let mut faults = faults(seed, n, &requests);
        faults.extend(more_faults(seed, n));
        back_again(seed, &faults, &mut requests);
        faults.sort_by_key(|fault| fault.at_us);
        let lone = |fault: &Fault| matches!(fault.what, What::Kill { node: 0, .. });
        if let Some(origin_dies) = faults.iter().find(|fault| lone(fault)) {
            requests.retain(|asked| asked.at_us < origin_dies.at_us);
        }
        // A third leaves the number of stages to the planner; no node of those holds the model.
        let stages = u16::try_from(hardware.within(2..6)).expect("small");
        let stages = if by_time { 0 } else { stages };
        // A row of the hash model takes 8 bytes: some logs hold a few rows only.
        let few_rows = usize::try_from(hardware.within(1..64)).expect("small") * 8;
        let boundary_bytes = if hardware.below(2) == 0 { few_rows } else { 32 << 20 };
        Self {
            seed,
            heal_us: HEAL_US,
            core: core(seed, n),
            end_us: END_US,
            placement: Placement { at_us: 800_000, stages, sessions: 4, spares: 1, boundary_bytes },
            link: Link::wired(),
            model: Model::default(),
            host_cores: None,
            windows_stay: false,
            between_sites: None,
            slack_us: 0,
            hears_of: None,
            site_nodes: None,
            disturbed_us: Vec::new(),
            devices,
            requests,
            faults,
        }
    }
}

/// Whether only messages suffer: then no loss of a node mends what the loss of a message broke.
fn is_weather_only(seed: u64) -> bool {
    Random::new(seed, "weather only").below(4) == 0
}

/// The origin and enough others to hold the model, seldom all.
fn core(seed: u64, n: usize) -> Vec<usize> {
    if is_weather_only(seed) {
        return (0..n).collect();
    }
    let mut random = Random::new(seed, "core");
    let mut others: Vec<_> = (1..n).collect();
    let least = 6.min(n - 1);
    let size = least + random.index(n - least);
    let mut core = vec![0];
    while core.len() <= size && !others.is_empty() {
        core.push(others.swap_remove(random.index(others.len())));
    }
    core.sort_unstable();
    core
}

fn faults(seed: u64, n: usize, requests: &[Asked]) -> Vec<Fault> {
    let mut random = Random::new(seed, "faults");
    let kinds = if is_weather_only(seed) { 21..31 } else { 0..31 };
    let mut faults = Vec::new();
    for _ in 0..random.within(FAULTS) {
        let at_us = random.within(FROM_US..HEAL_US - 1_000_000);
        let what = fault(&mut random, n, kinds.clone());
        // Bystanders matter less than who holds a stage at that moment.
        let stage = (random.below(3) > 0).then(|| random.index(5));
        faults.push(Fault { at_us, what, stage });
    }
    for (request, asked) in (0..).zip(requests) {
        if random.below(12) == 0 {
            let at_us = asked.at_us + random.within(1_000..2_000_000);
            faults.push(Fault { at_us, what: What::Cancel { request }, stage: None });
        }
    }
    if !is_weather_only(seed) && random.below(6) == 0 {
        // In the midst of a request.
        let asked = &requests[random.index(6)];
        let at_us = (asked.at_us + random.within(100_000..1_000_000)).max(FROM_US);
        let what = What::Kill { node: 0, back_us: None };
        faults.push(Fault { at_us, what, stage: None });
    }
    faults.sort_by_key(|fault| fault.at_us);
    faults
}

/// Up to three more, of kinds that were thought of later: drawn apart, so that seeds keep the
/// others.
fn more_faults(seed: u64, n: usize) -> Vec<Fault> {
    let mut random = Random::new(seed, "more faults");
    let mut faults = Vec::new();
    if is_weather_only(seed) {
        return faults;
    }
    for _ in 0..random.below(4) {
        let at_us = random.within(FROM_US..HEAL_US - 8_000_000);
        let node = 1 + random.index((n - 1).min(10));
        let for_us = random.within(50_000..5_000_000);
        let what = match random.below(13) {
            0..2 => What::ClockStep { node, ahead_us: random.within(1_000..20_000_000) },
            2 => What::MemoryRefusal { node, for_us },
            3 => What::DiskFull { node, for_us },
            4..6 => What::CorruptShard { node },
            6..8 => What::Bandwidth { node, permille: random.within(1..20), for_us },
            8..10 => What::Lie { node, percent: random.within(5..2_000) },
            10..12 => What::StalePlan { node },
            _ => {
                let nodes = (1..n).filter(|_| random.below(3) == 0).take(6).collect();
                let each_us = random.within(10_000..400_000);
                let mut order = Random::new(seed, "swizzle");
                faults.extend(swizzle(&mut order, nodes, (at_us, each_us, for_us / 2)));
                continue;
            }
        };
        let stage = (random.below(3) > 0).then(|| random.index(5));
        faults.push(Fault { at_us, what, stage });
    }
    faults
}

/// Some clients that went come back and ask the same again.
fn back_again(seed: u64, faults: &[Fault], requests: &mut Vec<Asked>) {
    let mut random = Random::new(seed, "back again");
    for fault in faults {
        let What::Cancel { request } = fault.what else { continue };
        let asked = usize::try_from(request).ok().and_then(|i| requests.get(i)).cloned();
        if let Some(asked) = asked.filter(|_| random.below(2) == 0) {
            let at_us = fault.at_us.max(asked.at_us) + random.within(1_000..3_000_000);
            requests.push(Asked { at_us, deadline_us: DEADLINE_US, ..asked });
        }
    }
}

/// One fault. Nodes with low numbers are struck more often: two faults at one place are worth more
/// than two at two.
fn fault(random: &mut Random, n: usize, kinds: Range<u64>) -> What {
    let near = |random: &mut Random| 1 + random.index((n - 1).min(10));
    let other = |random: &mut Random, a: usize| {
        let b = random.index((n - 1).min(10));
        if b == a { n - 1 } else { b }
    };
    let node = if random.below(3) == 0 { 1 + random.index(n - 1) } else { near(random) };
    let for_us = random.within(50_000..5_000_000);
    let permille = random.within(10..300);
    let b = other(random, node);
    match random.within(kinds) {
        0..8 => {
            let back_us = (random.below(3) > 0).then(|| random.within(200_000..6_000_000));
            What::Kill { node, back_us }
        }
        8 => What::Leave { node, back_us: None },
        9..13 => What::Pause { node, for_us: for_us * 2 },
        13..15 => What::Slow { node, percent: random.within(150..2_000), for_us },
        15 => What::Mute { from: node, to: b, for_us },
        16..18 => What::Cut { a: node, b, for_us },
        18 => {
            let nodes = (1..n).filter(|_| random.below(4) == 0).collect();
            What::Partition { nodes, for_us }
        }
        19..21 => What::Break { a: node, b },
        21..24 => What::Loss { node: if permille < 80 { 0 } else { node }, permille, for_us },
        24..26 => What::Duplicate { node, permille, for_us },
        26..28 => What::Reorder { node: if permille < 150 { 0 } else { node }, for_us },
        28..30 => What::Delay { node, extra_us: random.within(5_000..800_000), for_us },
        _ => What::BitFlip { node, bit: random.below(100_000) },
    }
}
