//! Random numbers: the system's entropy for ids and keys, and a seeded generator for simulation.

use std::fmt::Debug;
use std::sync::Mutex;

use crate::lock;

/// The system gave no random bytes.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the system's random source failed: {0}")]
pub struct EntropyError(#[from] getrandom::Error);

/// A source of random bytes.
pub trait Entropy: Debug + Send + Sync {
    /// Fills `bytes`.
    ///
    /// # Errors
    /// [`EntropyError`] if the system has none; never from a seeded source.
    fn fill(&self, bytes: &mut [u8]) -> Result<(), EntropyError>;

    /// A random number, every value equally likely.
    ///
    /// # Errors
    /// As [`Self::fill`].
    fn next_u64(&self) -> Result<u64, EntropyError> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

/// The operating system's entropy; fit for keys.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), EntropyError> {
        Ok(getrandom::fill(bytes)?)
    }
}

/// An [`Rng`] behind a lock: the same seed and calls give the same bytes. Not fit for keys.
#[derive(Debug)]
pub struct SeededEntropy {
    rng: Mutex<Rng>,
}

impl SeededEntropy {
    /// The source that `seed` stands for.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { rng: Mutex::new(Rng::new(seed)) }
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), EntropyError> {
        lock(&self.rng).fill(bytes);
        Ok(())
    }
}

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
///
/// Part of what a seed means: a change to it changes every simulation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// The sequence that `seed` stands for.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next number, every value equally likely.
    pub const fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 if `bound` is 0. The bias is below `bound / 2^64`.
    pub const fn below(&mut self, bound: u64) -> u64 {
        let product = (self.next_u64() as u128) * (bound as u128);
        (product >> 64) as u64
    }

    /// An index below `len`; 0 if `len` is 0.
    pub const fn index(&mut self, len: usize) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "below `len`")]
        let index = self.below(len as u64) as usize;
        index
    }

    /// True `per_cent` times in a hundred.
    pub const fn chance(&mut self, per_cent: u8) -> bool {
        self.below(100) < per_cent as u64
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            for (to, from) in chunk.iter_mut().zip(self.next_u64().to_le_bytes()) {
                *to = from;
            }
        }
    }

    /// A generator of its own, for a part of the simulation whose draws must not shift others'.
    #[must_use]
    pub const fn fork(&mut self) -> Self {
        Self::new(self.next_u64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_of_a_seed_is_fixed() {
        // Vigna's reference implementation, seed 1234567.
        let mut rng = Rng::new(1_234_567);
        let got = [rng.next_u64(), rng.next_u64(), rng.next_u64()];
        let expected =
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!(got, expected);
    }

    #[test]
    fn numbers_stay_below_their_bound_and_reach_all_of_it() {
        let mut rng = Rng::new(7);
        let mut seen = [0u32; 5];
        for _ in 0..1000 {
            seen[rng.index(5)] += 1;
        }
        assert!(seen.iter().all(|&n| n > 100), "{seen:?}");
        assert_eq!(rng.below(0), 0);
    }

    #[test]
    fn sources_differ_from_call_to_call_and_seeds_repeat() {
        let (one, same) = (SeededEntropy::new(3), SeededEntropy::new(3));
        let first = one.next_u64().unwrap();
        assert_eq!(first, same.next_u64().unwrap());
        assert_ne!(first, one.next_u64().unwrap());
        assert_ne!(SystemEntropy.next_u64().unwrap(), SystemEntropy.next_u64().unwrap());
    }
}
