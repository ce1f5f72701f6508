//! Many devices, each of which knows a few others; some die and some of those come back.

use crate::Random;
use crate::cost::Model;
use crate::schedule::{Device, Fault, LAYER_BYTES, Link, Placement, Schedule, What, asked};

/// Others that a node hears of, as from a distributed hash table with buckets of this size.
const HEARS_OF: usize = 16;
/// Devices come within so long, µs.
const JOINS_US: u64 = 5_000_000;
/// One in so many is killed in two minutes.
const DEATHS_ONE_IN: u64 = 50;
/// Longest time that a request may take, µs.
const DEADLINE_US: u64 = 30_000_000;
/// The last so long is without faults, µs.
const MENDED_US: u64 = 20_000_000;

/// On bad Wi-Fi: nodes of a site, all of which hear each other.
const SITE_NODES: usize = 32;
/// Others elsewhere that each hears of.
const ELSEWHERE: usize = 2;
/// Time from one death to the next, µs.
const DEATH_EVERY_US: u64 = 60_000_000;
/// The dead come back after this, when all that will be noticed has been, µs.
const BACK_US: u64 = 45_000_000;

impl Schedule {
    /// `n` devices on bad Wi-Fi for `lasts_us`, two minutes at least. Once a minute one dies, two
    /// of three by a power cut, one of three where the origin has a part; nothing else happens, so
    /// whoever else is taken for lost is so wrongly. The origin serves a request every 20 s.
    #[must_use]
    pub fn bad_wifi(seed: u64, n: usize, lasts_us: u64) -> Self {
        let city = Self::city(seed, n, lasts_us.max(120_000_000));
        let (mut deaths, mut work) = (Random::new(seed, "deaths"), Random::new(seed, "work"));
        let mut faults = Vec::new();
        let mut at_us = JOINS_US + 15_000_000;
        while at_us + DEATH_EVERY_US < city.heal_us {
            let node = 1 + deaths.index(n - 1);
            let what = if deaths.below(3) > 0 {
                What::Unplug { node, back_us: BACK_US }
            } else {
                What::Kill { node, back_us: Some(BACK_US) }
            };
            let stage = (deaths.below(3) == 0).then(|| deaths.index(4));
            // At any time within a beat.
            let at = at_us + deaths.below(DEATH_EVERY_US - BACK_US - 1_000_000);
            faults.push(Fault { at_us: at, what, stage });
            at_us += DEATH_EVERY_US;
        }
        let requests = (JOINS_US + 8_000_000..city.heal_us - 20_000_000).step_by(20_000_000);
        let requests = requests.map(|at_us| {
            let mut asked = asked(&mut work, (at_us, at_us + 10_000_000), 128);
            asked.deadline_us = DEADLINE_US;
            asked
        });
        Self {
            requests: requests.collect(),
            link: Link::bad_wifi(),
            hears_of: Some(ELSEWHERE),
            site_nodes: Some(SITE_NODES),
            faults,
            ..city
        }
    }

    /// `n` devices for `lasts_us`, of which one in fifty is killed every two minutes, while one
    /// origin serves a request every two seconds. `lasts_us` is 30 s at least.
    #[must_use]
    pub fn city(seed: u64, n: usize, lasts_us: u64) -> Self {
        let lasts_us = lasts_us.max(30_000_000);
        let (mut hardware, mut work) = (Random::new(seed, "devices"), Random::new(seed, "work"));
        let mut random = Random::new(seed, "faults");
        let device = |i: usize| {
            let joins_us = if i == 0 { 0 } else { hardware.below(JOINS_US) };
            let memory = hardware.within(8..20) * LAYER_BYTES;
            Device::plain(joins_us, memory, hardware.within(2..20) * 1_000_000_000)
        };
        let devices: Vec<_> = (0..n).map(device).collect();
        let heal_us = lasts_us - MENDED_US;
        let n_deaths = n as u64 * lasts_us / 120_000_000 / DEATHS_ONE_IN;
        let death = |_| {
            let node = 1 + random.index(n - 1);
            let back_us = (random.below(3) > 0).then(|| random.within(200_000..20_000_000));
            let at_us = random.within(JOINS_US..heal_us);
            // One in four strikes who holds a stage then.
            let stage = (random.below(4) == 0).then(|| random.index(4));
            Fault { at_us, what: What::Kill { node, back_us }, stage }
        };
        let mut faults: Vec<_> = (0..n_deaths).map(death).collect();
        faults.sort_by_key(|fault| fault.at_us);
        let n_requests = heal_us / 2_000_000;
        let requests = (0..n_requests).map(|_| {
            let mut asked = asked(&mut work, (JOINS_US + 3_000_000, heal_us), 128);
            asked.deadline_us = DEADLINE_US;
            asked
        });
        Self {
            seed,
            heal_us,
            core: (0..n).collect(),
            end_us: lasts_us,
            placement: Placement {
                at_us: JOINS_US + 1_000_000,
                stages: 4,
                sessions: 4,
                spares: 1,
                boundary_bytes: 32 << 20,
            },
            link: Link::wired(),
            model: Model::default(),
            host_cores: None,
            windows_stay: false,
            between_sites: None,
            slack_us: 0,
            hears_of: Some(HEARS_OF),
            site_nodes: None,
            disturbed_us: Vec::new(),
            devices,
            requests: requests.collect(),
            faults,
        }
    }
}
