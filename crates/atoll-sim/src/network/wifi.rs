//! What radios do: now and then one is deaf and dumb for a while, and some frames are lost.

use super::AGAIN_US;
use crate::Random;
use crate::hash_model::mix;
use crate::schedule::Wifi;

/// A transport sends a lost message so often at most before it comes through.
const TRIES_MAX: u32 = 5;

impl Wifi {
    /// When the radio of `node` is through with what reaches it at `at`: at once, or when it is
    /// over a stall. A function of its arguments, so that nothing is remembered.
    pub(super) fn past_stall(&self, seed: u64, node: usize, at: u64) -> u64 {
        let every = self.stall_every_us.max(1);
        let span = at / every;
        let drawn = mix(&[seed, node as u64, span]);
        let long = self.stall_us(mix(&[drawn]));
        let start = span * every + drawn % every.saturating_sub(long).max(1);
        if (start..start + long).contains(&at) { start + long } else { at }
    }

    /// How long a stall lasts, µs: halves of all last for less than the half time, halves of the
    /// rest for less than twice that, and so on to the longest.
    fn stall_us(&self, drawn: u64) -> u64 {
        let whole = u64::from(drawn.leading_zeros());
        let part = drawn & 0xffff;
        let long = whole * self.stall_half_us + self.stall_half_us * part / 0x1_0000;
        long.min(self.stall_us_max)
    }

    /// What a message loses by being lost and sent again, µs: each time twice as much.
    pub(super) fn sent_again_us(&self, random: &mut Random) -> u64 {
        let lost = (0..TRIES_MAX).take_while(|_| random.below(1000) < self.loss_permille).count();
        AGAIN_US * ((1 << lost) - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stalls_come_and_last_as_they_say() {
        let wifi = Wifi::bad();
        let (mut stalled, mut longest, n) = (0_u64, 0, 400_000);
        for i in 0..n {
            let at = i * 20_011;
            let waited = wifi.past_stall(3, 7, at) - at;
            assert_eq!(wifi.past_stall(3, 7, at + waited), at + waited, "it is over then");
            stalled += u64::from(waited > 0);
            longest = longest.max(waited);
        }
        // A stall of 375 ms in the mean every 15 s.
        let permille = stalled * 1000 / n;
        assert!((20..30).contains(&permille), "{permille} of a thousand moments in a stall");
        assert!(longest <= wifi.stall_us_max && longest > wifi.stall_us_max / 2, "{longest}");
    }
}
