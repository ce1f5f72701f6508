//! The window of one direction of a connection, as a transport opens it: ten packets at first,
//! twice as much after each round trip that used it, half as much after each that was idle.

use std::collections::VecDeque;

use crate::cost::sending_us;

/// Ten packets of Ethernet: RFC 6928.
const INITIAL_BYTES: u64 = 14_480;
/// What the other end takes in before it has read it: the first window of a yamux stream.
const WINDOW_MAX_BYTES: u64 = 256 << 10;
/// An idle connection keeps its window for so long beside the round trip, µs: the shortest time
/// after which Linux sends again.
const IDLE_US: u64 = 200_000;

#[derive(Debug)]
pub(super) struct Flow {
    window: u64,
    /// What is on its way: when word of its arrival comes back, and bytes.
    under_way: VecDeque<(u64, u64)>,
    bytes_under_way: u64,
    /// Whether the window was what held the sender back.
    is_limited: bool,
    last_us: u64,
}

impl Default for Flow {
    fn default() -> Self {
        Self {
            window: INITIAL_BYTES,
            under_way: VecDeque::new(),
            bytes_under_way: 0,
            is_limited: false,
            last_us: 0,
        }
    }
}

impl Flow {
    /// Halves the window for each while that nothing was sent before `at`.
    pub(super) fn close_while_idle(&mut self, at: u64, rtt_us: u64) {
        let mut idle = at.saturating_sub(self.last_us);
        while idle > IDLE_US + rtt_us && self.window > INITIAL_BYTES {
            self.window = (self.window / 2).max(INITIAL_BYTES);
            idle -= IDLE_US + rtt_us;
        }
    }

    /// When the last of `bytes` has left, if the first may leave at `at`.
    pub(super) fn send(&mut self, mut at: u64, bytes: u64, bytes_per_s: u64, rtt_us: u64) -> u64 {
        at = at.max(self.last_us);
        self.hear_by(at);
        let mut left = bytes;
        while left > 0 {
            self.hear_by(at);
            let room = self.window.saturating_sub(self.bytes_under_way);
            if room == 0 {
                self.is_limited = true;
                at = self.under_way.front().map_or(at + 1, |(heard_at, _)| *heard_at);
                continue;
            }
            let burst = left.min(room).min(INITIAL_BYTES);
            left -= burst;
            at += sending_us(burst, bytes_per_s);
            self.bytes_under_way += burst;
            self.under_way.push_back((at + rtt_us, burst));
        }
        self.last_us = at;
        at
    }

    /// Takes in what has been heard back by `at`.
    fn hear_by(&mut self, at: u64) {
        while let Some(&(heard_at, bytes)) = self.under_way.front()
            && heard_at <= at
        {
            self.under_way.pop_front();
            self.bytes_under_way -= bytes;
            if self.is_limited {
                self.window = (self.window + bytes).min(WINDOW_MAX_BYTES);
            }
        }
        self.is_limited &= self.bytes_under_way > 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_message_waits_for_the_window_to_open() {
        let (rate, rtt_us) = (2_500_000, 40_000);
        let mut flow = Flow::default();
        // Within the window: the rate alone.
        assert_eq!(flow.send(0, 10_000, rate, rtt_us), 4_000);
        // 300 kB take 120 ms at this rate, and some round trips more from a cold window.
        let cold = flow.send(1_000_000, 300_000, rate, rtt_us) - 1_000_000;
        assert!((200_000..320_000).contains(&cold), "{cold} µs");
        // The window is open now, and the rate is what counts.
        let at = 1_000_000 + cold + 100_000;
        let warm = flow.send(at, 300_000, rate, rtt_us) - at;
        assert!((119_000..140_000).contains(&warm), "{warm} µs");
        // So it is after a long silence, unless that closes it.
        let still = flow.send(30_000_000, 300_000, rate, rtt_us) - 30_000_000;
        assert!(still <= warm, "{still} µs");
        flow.close_while_idle(60_000_000, rtt_us);
        let cold_again = flow.send(60_000_000, 300_000, rate, rtt_us) - 60_000_000;
        assert_eq!(cold_again, cold);
    }

    #[test]
    fn without_a_round_trip_only_the_rate_counts() {
        assert_eq!(Flow::default().send(0, 10_000_000, 1_000_000, 0), 10_000_000);
    }
}
