//! How long and how often: numbers from the environment, chance from a seed, and waiting.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The number that the environment variable `name` holds, else `default`: what a soak turns.
///
/// # Errors
/// The variable holds no number.
pub fn knob(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text} is no number")),
        Err(_) => Ok(default),
    }
}

/// Does nothing for a while.
#[expect(clippy::disallowed_methods, reason = "another process keeps its own time")]
pub fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// Asks `is_so` again and again until it says yes.
///
/// # Errors
/// It said no for all of `within`, or failed.
#[expect(clippy::disallowed_methods, reason = "another process keeps its own time")]
pub fn wait_until(
    what: &str,
    within: Duration,
    mut is_so: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let start = Instant::now();
    while !is_so()? {
        ensure!(start.elapsed() < within, "waited {within:?} in vain: {what}");
        pause(POLL_INTERVAL);
    }
    Ok(())
}

/// Chance that repeats: the same seed, the same numbers (xorshift64*, by Marsaglia and Vigna).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Dice of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        // The one state that xorshift never leaves is 0.
        Self(seed ^ 0x9e37_79b9_7f4a_7c15 | 1)
    }

    /// Any number.
    pub fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number from 0 on, below `end`; 0 where that is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.roll().checked_rem(end).unwrap_or(0)
    }

    /// So many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend_from_slice(&self.roll().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dice_repeat_and_differ() {
        let (mut one, mut two, mut other) = (Dice::new(1), Dice::new(1), Dice::new(2));
        let bytes = one.bytes(1000);
        assert_eq!(bytes, two.bytes(1000));
        assert_ne!(bytes, other.bytes(1000));
        assert!((0..1000).all(|_| one.below(7) < 7));
        assert_eq!(one.below(0), 0);
    }

    #[test]
    fn waiting_ends() {
        let mut asked = 0;
        let third = |asked: &mut i32| {
            *asked += 1;
            Ok(*asked == 3)
        };
        wait_until("the third time", Duration::from_secs(30), || third(&mut asked)).unwrap();
        assert_eq!(asked, 3);
        let error = wait_until("never", Duration::from_millis(30), || Ok(false)).unwrap_err();
        assert!(error.to_string().contains("never"), "{error}");
    }

    #[test]
    fn a_knob_is_a_number_or_its_default() {
        assert_eq!(knob("MILLSTREAM_NO_SUCH_KNOB", 7).unwrap(), 7);
        // Cargo sets this one to a path.
        assert!(knob("CARGO_MANIFEST_DIR", 7).is_err());
    }
}
