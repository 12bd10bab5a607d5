//! Randomness for jitter, partition choice and command ids. Nothing secret comes from here.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A shared generator (SplitMix64, Steele et al. 2014), one atomic addition a number.
#[derive(Debug)]
pub(crate) struct Random {
    state: AtomicU64,
}

impl Random {
    /// Seeded by the operating system, by way of the standard library's hasher keys.
    pub(crate) fn new() -> Self {
        Self::from_seed(RandomState::new().build_hasher().finish())
    }

    /// The same numbers for the same seed.
    pub(crate) fn from_seed(seed: u64) -> Self {
        Self { state: AtomicU64::new(seed) }
    }

    /// The next number, uniform.
    pub(crate) fn next_u64(&self) -> u64 {
        const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.state.fetch_add(GAMMA, Ordering::Relaxed).wrapping_add(GAMMA);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 when that is 0.
    pub(crate) fn below(&self, bound: u32) -> u32 {
        let scaled = u64::from(bound) * (self.next_u64() >> 32);
        u32::try_from(scaled >> 32).unwrap_or(0)
    }

    /// 16 bytes that no other process is likely to draw: two independent operating-system seeds
    /// and this generator.
    pub(crate) fn id(&self) -> [u8; 16] {
        let halves = [0, 1].map(|_| RandomState::new().hash_one(self.next_u64()).to_be_bytes());
        let mut id = [0; 16];
        id[..8].copy_from_slice(&halves[0]);
        id[8..].copy_from_slice(&halves[1]);
        id
    }
}

/// How long to wait before a retry: doubling from `first` to `max`, half of it random, so that
/// clients that failed together do not return together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    pub(crate) first: Duration,
    pub(crate) max: Duration,
}

impl Backoff {
    /// The wait before retry number `attempt`, from 0.
    pub(crate) fn delay(self, attempt: u32, random: &Random) -> Duration {
        let doubled = self.first.saturating_mul(1_u32.checked_shl(attempt).unwrap_or(u32::MAX));
        let full = doubled.min(self.max);
        let half = full / 2;
        let share = f64::from(random.below(1 << 20)) / f64::from(1 << 20);
        half + half.mul_f64(share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_doubles_up_to_its_bound_and_half_of_it_is_random() {
        let random = Random::from_seed(7);
        let backoff = Backoff { first: Duration::from_millis(50), max: Duration::from_secs(1) };
        for (attempt, full_ms) in [(0, 50), (1, 100), (4, 800), (5, 1000), (31, 1000), (99, 1000)] {
            let full = Duration::from_millis(full_ms);
            let delays: Vec<_> = (0..50).map(|_| backoff.delay(attempt, &random)).collect();
            assert!(delays.iter().all(|d| *d >= full / 2 && *d < full), "{attempt}: {delays:?}");
            assert!(delays.iter().any(|d| *d != delays[0]), "{attempt}");
        }
    }

    #[test]
    fn a_bounded_number_stays_below_its_bound_and_reaches_every_value() {
        let random = Random::from_seed(1);
        let mut seen = [0_u32; 6];
        for _ in 0..6000 {
            seen[random.below(6) as usize] += 1;
        }
        assert!(seen.iter().all(|count| (800..1200).contains(count)), "{seen:?}");
        assert_eq!(random.below(0), 0);
    }

    #[test]
    fn ids_differ() {
        let (one, other) = (Random::from_seed(3), Random::from_seed(3));
        assert_ne!(one.id(), other.id());
    }
}
