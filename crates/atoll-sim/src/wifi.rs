//! What radios do: now and then one is off the air, and some frames are lost. A transport that
//! keeps an order turns both into delay, since it sends again at growing intervals.

use serde::{Deserialize, Serialize};

use crate::Random;
use crate::hash_model::mix;

/// A transport's first wait before it sends again, µs, to which comes what a way takes; each
/// further one is twice as long. So does TCP on Linux (`tcp_set_rto`: 200 ms and a round trip).
const AGAIN_US: u64 = 200_000;
/// Longest round trip that a way is used to, µs: each has one of its own.
const WAY_US_MAX: u64 = 100_000;
/// It sends so often at most: after that the radios are taken as back.
const TRIES_MAX: u32 = 9;

/// The radios of all nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wifi {
    /// Once in so long a radio stalls, at a time of its own, µs.
    pub stall_every_us: u64,
    /// Half of the stalls are shorter than this, half of the others shorter than twice this, and
    /// so on, µs.
    pub stall_half_us: u64,
    /// None is longer, µs.
    pub stall_us_max: u64,
    /// Once in so long a radio is off the air, to scan or to change its access point, µs.
    pub scan_every_us: u64,
    /// For any time up to this, µs.
    pub scan_us_max: u64,
    /// Of a thousand messages, those lost at each try.
    pub loss_permille: u64,
}

impl Wifi {
    /// One access point, far away and in use; the sources stand in `simulations/README.md`.
    #[must_use]
    pub const fn bad() -> Self {
        Self {
            stall_every_us: 15_000_000,
            stall_half_us: 250_000,
            stall_us_max: 2_000_000,
            scan_every_us: 3_600_000_000,
            scan_us_max: 6_000_000,
            loss_permille: 20,
        }
    }

    /// When a message sent at `at` comes through: at the first try that is not lost and at which
    /// both radios are on the air. But for losses a function of its arguments, so that nothing is
    /// remembered.
    pub(crate) fn through(
        &self,
        (seed, from, to): (u64, usize, usize),
        random: &mut Random,
        at: u64,
    ) -> u64 {
        let wait_us = AGAIN_US + mix(&[seed, from as u64, to as u64, 3]) % WAY_US_MAX;
        let mut again = at;
        for tries in 0..TRIES_MAX {
            let lost = random.below(1000) < self.loss_permille;
            let off = self.is_off(seed, from, again) || self.is_off(seed, to, again);
            if !lost && !off {
                break;
            }
            again += wait_us << tries;
        }
        again
    }

    /// Whether the radio of `node` is off the air at `at`.
    fn is_off(&self, seed: u64, node: usize, at: u64) -> bool {
        let within = |every_us: u64, salt: u64, long: &dyn Fn(u64) -> u64| {
            let every_us = every_us.max(1);
            let span = at / every_us;
            let drawn = mix(&[seed, node as u64, span, salt]);
            let long = long(mix(&[drawn])).min(every_us);
            let start = span * every_us + drawn % (every_us - long).max(1);
            (start..start + long).contains(&at)
        };
        within(self.stall_every_us, 1, &|drawn| self.stall_us(drawn))
            || within(self.scan_every_us, 2, &|drawn| drawn % (self.scan_us_max + 1))
    }

    /// How long a stall lasts, µs.
    fn stall_us(&self, drawn: u64) -> u64 {
        let whole = u64::from(drawn.leading_zeros());
        let part = drawn & 0xffff;
        let long = whole * self.stall_half_us + self.stall_half_us * part / 0x1_0000;
        long.min(self.stall_us_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_one_in_a_hundred_round_trips_takes_half_a_second() {
        let wifi = Wifi::bad();
        let mut random = Random::new(1, "test");
        let (mut slow, mut lost, mut longest, n) = (0_u64, 0_u64, 0, 200_000);
        for i in 0..n {
            let at = i * 20_011;
            let there = wifi.through((3, 7, 8), &mut random, at);
            let back = wifi.through((3, 8, 7), &mut random, there + 3_000);
            slow += u64::from(back - at > 500_000);
            lost += u64::from(back - at > 190_000);
            longest = longest.max(back - at);
        }
        let permille = |count: u64| count * 1000 / n;
        assert!((10..40).contains(&permille(slow)), "{} of a thousand", permille(slow));
        assert!((40..100).contains(&permille(lost)), "{} of a thousand", permille(lost));
        assert!((6_000_000..80_000_000).contains(&longest), "{longest} µs");
    }

    #[test]
    fn radios_are_off_as_long_and_as_often_as_they_say() {
        let wifi = Wifi { loss_permille: 0, ..Wifi::bad() };
        let hours = 200;
        let off = (0..hours * 36_000).filter(|i| wifi.is_off(5, 9, i * 100_000)).count();
        // 375 ms of 15 s in stalls, but for what is cut off at 2 s, and 3 s of an hour in scans.
        let permille = off as u64 * 1000 / (hours * 36_000);
        assert!((22..28).contains(&permille), "{permille} of a thousand");
    }
}
