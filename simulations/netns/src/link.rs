//! One direction between two hosts: what becomes of each frame, decided by a seed.

use anyhow::{Result, ensure};
use atoll_sim::Random;
use serde::{Deserialize, Serialize};

const PPM: u64 = 1_000_000;
/// One minute: what a frame may be late at most.
const DELAY_MAX_US: u64 = 60_000_000;
/// Frames on their way on one link; more are lost, as at a full switch.
const FRAMES_MAX: u32 = 4096;

/// How one direction behaves. Times in microseconds, shares in parts per million.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Link {
    /// Bits per second; 0 means as fast as it comes.
    pub rate_bits_per_s: u64,
    /// Bytes that wait for the rate; what comes beyond is lost.
    pub queue_bytes: u64,
    /// What every frame takes.
    pub delay_us: u64,
    /// Up to so much more, evenly spread; frames stay in order.
    pub jitter_us: u64,
    /// Frames that are lost.
    pub loss_ppm: u64,
    /// Frames that arrive twice.
    pub duplicate_ppm: u64,
    /// Frames that overtake: they arrive without delay.
    pub reorder_ppm: u64,
    /// Whether anything passes.
    pub up: bool,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            rate_bits_per_s: 0,
            queue_bytes: 1 << 20,
            delay_us: 0,
            jitter_us: 0,
            loss_ppm: 0,
            duplicate_ppm: 0,
            reorder_ppm: 0,
            up: true,
        }
    }
}

/// Fields of a [`Link`] that become other; what is left out stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "they are those of Link")]
pub struct LinkChange {
    pub rate_bits_per_s: Option<u64>,
    pub queue_bytes: Option<u64>,
    pub delay_us: Option<u64>,
    pub jitter_us: Option<u64>,
    pub loss_ppm: Option<u64>,
    pub duplicate_ppm: Option<u64>,
    pub reorder_ppm: Option<u64>,
    pub up: Option<bool>,
}

impl LinkChange {
    /// The link after the change.
    ///
    /// # Errors
    /// If a share is above one, a time above a minute, or a queue holds not one frame.
    pub fn applied_to(self, link: Link) -> Result<Link> {
        let link = Link {
            rate_bits_per_s: self.rate_bits_per_s.unwrap_or(link.rate_bits_per_s),
            queue_bytes: self.queue_bytes.unwrap_or(link.queue_bytes),
            delay_us: self.delay_us.unwrap_or(link.delay_us),
            jitter_us: self.jitter_us.unwrap_or(link.jitter_us),
            loss_ppm: self.loss_ppm.unwrap_or(link.loss_ppm),
            duplicate_ppm: self.duplicate_ppm.unwrap_or(link.duplicate_ppm),
            reorder_ppm: self.reorder_ppm.unwrap_or(link.reorder_ppm),
            up: self.up.unwrap_or(link.up),
        };
        for (name, ppm) in [
            ("loss_ppm", link.loss_ppm),
            ("duplicate_ppm", link.duplicate_ppm),
            ("reorder_ppm", link.reorder_ppm),
        ] {
            ensure!(ppm <= PPM, "{name} is {ppm}; at most {PPM} is possible");
        }
        for (name, us) in [("delay_us", link.delay_us), ("jitter_us", link.jitter_us)] {
            ensure!(us <= DELAY_MAX_US, "{name} is {us}; at most {DELAY_MAX_US} is possible");
        }
        let (rate, queue) = (link.rate_bits_per_s, link.queue_bytes);
        ensure!(rate == 0 || rate >= 1_000, "rate_bits_per_s is {rate}; 0 or at least 1000");
        ensure!((1514..=1 << 30).contains(&queue), "queue_bytes is {queue}; 1514 to 2^30");
        Ok(link)
    }
}

/// When the copies of a frame arrive, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrivals {
    /// The frame, unless it is lost.
    pub first: Option<u64>,
    /// Its double.
    pub second: Option<u64>,
}

/// A link with what is on it.
#[derive(Clone, Debug)]
pub struct Wire {
    /// How it behaves.
    pub link: Link,
    random: Random,
    /// When the sender's interface is free again.
    free_at_us: u64,
    /// When the last frame that kept its place arrives.
    last_us: u64,
    under_way: u32,
    /// Frames that were given to it.
    pub sent: u64,
    /// Frames that it lost, for whatever reason.
    pub lost: u64,
}

impl Wire {
    /// A perfect link with the generator of this pair of hosts.
    #[must_use]
    pub fn new(seed: u64, from: usize, to: usize) -> Self {
        Self {
            link: Link::default(),
            random: Random::new(seed, &format!("link:{from}->{to}")),
            free_at_us: 0,
            last_us: 0,
            under_way: 0,
            sent: 0,
            lost: 0,
        }
    }

    /// Takes a frame of `bytes` at `now_us`. Each frame draws as many numbers as any other, so
    /// that changing one property moves none of the other decisions.
    pub fn take(&mut self, now_us: u64, bytes: u64) -> Arrivals {
        let mut draws = [0; 4];
        draws.fill_with(|| self.random.below(PPM));
        let [lost, doubled, overtakes, late] = draws;
        let link = self.link;
        self.sent += 1;
        let free_at = self.free_at_us.max(now_us);
        let waiting = (free_at - now_us).saturating_mul(link.rate_bits_per_s) / 8 / PPM;
        let full = link.rate_bits_per_s > 0 && waiting + bytes > link.queue_bytes;
        if !link.up || full || self.under_way >= FRAMES_MAX {
            self.lost += 1;
            return Arrivals::default();
        }
        let sending = (bytes * 8 * PPM).checked_div(link.rate_bits_per_s).unwrap_or(0);
        self.free_at_us = free_at + sending;
        if lost < link.loss_ppm {
            self.lost += 1;
            return Arrivals::default();
        }
        let at = if overtakes < link.reorder_ppm {
            self.free_at_us
        } else {
            let at = self.free_at_us + link.delay_us + link.jitter_us * late / PPM;
            self.last_us = self.last_us.max(at);
            self.last_us
        };
        let second = (doubled < link.duplicate_ppm).then_some(at);
        self.under_way += 1 + u32::from(second.is_some());
        Arrivals { first: Some(at), second }
    }

    /// A copy arrived.
    pub const fn arrived(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(change: LinkChange) -> Wire {
        let mut wire = Wire::new(3, 0, 1);
        wire.link = change.applied_to(wire.link).expect("a possible link");
        wire
    }

    /// Arrivals of `n` frames of 1,000 bytes, one every `every_us`, each taken off as it arrives.
    fn arrivals(wire: &mut Wire, n: u64, every_us: u64) -> Vec<Arrivals> {
        (0..n)
            .map(|i| {
                let arrivals = wire.take(i * every_us, 1000);
                arrivals.first.iter().chain(&arrivals.second).for_each(|_| wire.arrived());
                arrivals
            })
            .collect()
    }

    #[test]
    fn a_rate_spaces_frames_and_a_full_queue_loses_them() {
        let change = LinkChange {
            rate_bits_per_s: Some(8_000_000),
            queue_bytes: Some(3_000),
            ..LinkChange::default()
        };
        // A thousand bytes take a millisecond; the fourth at once finds the queue full.
        let at: Vec<_> = arrivals(&mut wire(change), 5, 0).iter().map(|a| a.first).collect();
        assert_eq!(at, [Some(1000), Some(2000), Some(3000), None, None]);
        let slow = arrivals(&mut wire(change), 5, 2000);
        assert!(slow.iter().enumerate().all(|(i, a)| a.first == Some(i as u64 * 2000 + 1000)));
    }

    #[test]
    fn shares_are_kept_and_repeat_with_the_seed() {
        let change = LinkChange {
            loss_ppm: Some(50_000),
            duplicate_ppm: Some(20_000),
            delay_us: Some(5_000),
            jitter_us: Some(3_000),
            ..LinkChange::default()
        };
        let all = arrivals(&mut wire(change), 20_000, 10);
        assert_eq!(all, arrivals(&mut wire(change), 20_000, 10));
        let lost = all.iter().filter(|a| a.first.is_none()).count();
        assert!((900..1100).contains(&lost), "{lost} lost of 20,000 at 5 %");
        let doubled = all.iter().filter(|a| a.second.is_some()).count();
        assert!((330..430).contains(&doubled), "{doubled} doubled of 19,000 at 2 %");
        let order: Vec<_> = all.iter().filter_map(|a| a.first).collect();
        assert!(order.is_sorted(), "jitter does not reorder");
        let late = |(i, a): (usize, &Arrivals)| a.first.map(|at| at - i as u64 * 10);
        let late: Vec<_> = all.iter().enumerate().filter_map(late).collect();
        assert!(late.iter().all(|late| (5_000..=8_000).contains(late)));
    }

    #[test]
    fn one_property_moves_no_other_decision() {
        let loss = LinkChange { loss_ppm: Some(50_000), ..LinkChange::default() };
        let both = LinkChange { jitter_us: Some(9), reorder_ppm: Some(900), ..loss };
        let lost = |change| {
            let all = arrivals(&mut wire(change), 1000, 10);
            all.iter().map(|a| a.first.is_none()).collect::<Vec<_>>()
        };
        assert_eq!(lost(loss), lost(both));
    }

    #[test]
    fn some_frames_overtake() {
        let change = LinkChange {
            delay_us: Some(5_000),
            reorder_ppm: Some(250_000),
            ..LinkChange::default()
        };
        let all = arrivals(&mut wire(change), 1000, 100);
        let early = all.iter().enumerate().filter(|(i, a)| a.first == Some(*i as u64 * 100));
        let early = early.count();
        assert!((200..300).contains(&early), "{early} of 1,000 overtake at 25 %");
    }

    #[test]
    fn nothing_piles_up_without_bound_and_nothing_passes_a_cut() {
        let mut long = wire(LinkChange { delay_us: Some(1_000_000), ..LinkChange::default() });
        let taken = (0..10_000).filter(|_| long.take(0, 1000).first.is_some()).count();
        assert_eq!(taken, FRAMES_MAX as usize);
        let mut cut = wire(LinkChange { up: Some(false), ..LinkChange::default() });
        assert_eq!(cut.take(0, 1000), Arrivals::default());
        assert_eq!((cut.sent, cut.lost), (1, 1));
    }

    #[test]
    fn impossible_links_are_refused_by_name() {
        let refused = |change: LinkChange, name: &str| {
            let error = change.applied_to(Link::default()).expect_err(name);
            assert!(error.to_string().contains(name), "{error}");
        };
        let none = LinkChange::default();
        refused(LinkChange { loss_ppm: Some(PPM + 1), ..none }, "loss_ppm");
        refused(LinkChange { delay_us: Some(u64::MAX), ..none }, "delay_us");
        refused(LinkChange { rate_bits_per_s: Some(1), ..none }, "rate_bits_per_s");
        refused(LinkChange { queue_bytes: Some(0), ..none }, "queue_bytes");
    }
}
